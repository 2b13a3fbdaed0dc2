//! Reads rows in batches whose memory is bounded, and finds the first row that does not decode.
//!
//! A batch holds the pages that its rows lie in, so how many rows are read at once follows from the row
//! group's most crowded page. Rows go into blocks with memory of their own: what is held is what the
//! blocks say they weigh. A row is never split: its lists are as long as its pages say.

use std::io::BufReader;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader as _;
use perennial_schemas::table::records::{RAW_LIMIT, Reason};

use super::super::End;
use super::super::blocks::{Blocks, Found};
use super::footer::{Chunks, Footer};
use super::{Broken, pages};
use crate::block::Fault;
use crate::config;
use crate::normalise::decode::columns::Shape;

/// Bytes of a page's header that are read at once.
const HEADER: usize = 256;

/// The most crowded page of a column, by what the headers of its pages say: the footer may say anything.
#[derive(Debug, Default)]
struct Crowd {
    /// Of the page with the most bytes a value.
    bytes: u64,
    values: u64,
    /// The values of all pages.
    all: u64,
}

impl Crowd {
    fn add(&mut self, bytes: u64, values: u64) {
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        if values > 0 && (self.values == 0 || product(bytes, self.values) > product(self.bytes, values)) {
            (self.bytes, self.values) = (bytes, values);
        }
        self.all = self.all.saturating_add(values);
    }

    /// The bytes of a row of that page, where the pages have so many rows; a row has a value at least.
    fn row(&self, rows: u64) -> u64 {
        let here = (u128::from(self.values) * u128::from(rows)) / u128::from(self.all.max(1));
        let here = u64::try_from(here).unwrap_or(u64::MAX).min(self.values);
        self.bytes.div_ceil(here.max(1))
    }
}

/// The rows of a file.
pub(super) struct Rows<'a> {
    chunks: &'a Chunks,
    footer: &'a Footer,
    shape: &'a Shape,
    limits: config::Read,
    arrow: ArrowReaderMetadata,
    mask: ProjectionMask,
}

impl<'a> Rows<'a> {
    pub(super) fn new(
        chunks: &'a Chunks,
        footer: &'a Footer,
        shape: &'a Shape,
        limits: config::Read,
    ) -> Result<Self, Broken> {
        let options = ArrowReaderOptions::new().with_schema(Arc::clone(&shape.schema));
        let metadata = Arc::clone(&footer.metadata);
        let arrow = chunks.run("the schemas in its footer contradict each other", || {
            ArrowReaderMetadata::try_new(metadata, options)
        })?;
        let mask = ProjectionMask::roots(arrow.parquet_schema(), shape.used());
        Ok(Self { chunks, footer, shape, limits, arrow, mask })
    }

    /// Whether this row does not decode.
    pub(super) fn breaks_at(&self, row: u64) -> bool {
        let mut groups = self.footer.groups.iter().enumerate();
        let Some((group, (first, _))) = groups.find(|(_, (first, count))| row < first.saturating_add(*count))
        else {
            return false;
        };
        let one = || -> Result<bool, Broken> {
            self.at_once(group)?;
            let mut reader = None;
            let batch = self.next(&mut reader, group, row.saturating_sub(*first), 1)?;
            let Some(batch) = batch.filter(|batch| batch.num_rows() > 0) else { return Ok(true) };
            self.chunks.run("", || self.shape.columns(&batch)).map(|_| false)
        };
        one().unwrap_or(true)
    }

    /// Makes readings of the rows from `at` on, up to the first that does not decode: which it is, and why.
    pub(super) fn read(&self, at: u64, blocks: &mut Blocks) -> Result<Option<(u64, Broken)>, End> {
        let mut row = at;
        for (group, (first, count)) in self.footer.groups.iter().enumerate() {
            let end = first.saturating_add(*count);
            if end > row
                && let Err(broken) = self.group(group, *first..end, &mut row, blocks)?
            {
                return Ok(Some((row, broken)));
            }
        }
        Ok(None)
    }

    /// Reads a row group from `row` on, which is moved behind each row that became a reading.
    fn group(
        &self,
        group: usize,
        rows: std::ops::Range<u64>,
        row: &mut u64,
        blocks: &mut Blocks,
    ) -> Result<Result<(), Broken>, End> {
        let mut at_once = match self.at_once(group) {
            Ok(at_once) => at_once,
            Err(broken) => return Ok(Err(broken)),
        };
        let mut reader = None;
        while *row < rows.end {
            blocks.outlet.go_on()?;
            let read = match self.next(&mut reader, group, *row - rows.start, at_once) {
                Ok(Some(batch)) if batch.num_rows() > 0 && batch.num_rows() as u64 <= rows.end - *row => {
                    self.push(&batch, row, blocks)?
                }
                Ok(_) => {
                    return Ok(Err(Broken::corrupt("a row group has not the rows that its footer says")));
                }
                Err(broken) => Err(broken),
            };
            match read {
                Ok(()) => {}
                // One of the rows: those before it are good.
                Err(Broken::Damaged(_)) if at_once > 1 => {
                    at_once = 1;
                    reader = None;
                }
                Err(broken) => return Ok(Err(broken)),
            }
        }
        Ok(Ok(()))
    }

    /// The next rows of a group; where there is no reader, from the row `from` of the group on.
    fn next(
        &self,
        reader: &mut Option<ParquetRecordBatchReader>,
        group: usize,
        from: u64,
        at_once: usize,
    ) -> Result<Option<RecordBatch>, Broken> {
        let mut open = match reader.take() {
            Some(reader) => reader,
            None => self.open(group, from, at_once)?,
        };
        let read = || -> Result<_, ArrowError> {
            let batch = open.next().transpose()?;
            Ok((batch, open))
        };
        let (batch, open) = self.chunks.run("the row does not decode", read)?;
        *reader = Some(open);
        Ok(batch)
    }

    fn open(&self, group: usize, from: u64, at_once: usize) -> Result<ParquetRecordBatchReader, Broken> {
        let open = || -> Result<_, ParquetError> {
            let (chunks, arrow) = (self.chunks.clone(), self.arrow.clone());
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, arrow)
                .with_row_groups(vec![group])
                .with_projection(self.mask.clone())
                .with_batch_size(at_once);
            let from = usize::try_from(from)?;
            if from > 0 { builder.with_offset(from).build() } else { builder.build() }
        };
        self.chunks.run("a row group does not decode", open)
    }

    /// How many rows of a group are read at once.
    pub(super) fn at_once(&self, group: usize) -> Result<usize, Broken> {
        let metadata = self.footer.metadata.row_group(group);
        let rows = self.footer.groups.get(group).map_or(0, |(_, count)| *count);
        let mut bytes = 0_u64;
        let columns =
            metadata.columns().iter().enumerate().filter(|(leaf, _)| self.mask.leaf_included(*leaf));
        for (_, column) in columns {
            // It panics where a number is negative.
            let (mut at, stored) = self
                .chunks
                .run("a column lies outside of the file", || Ok::<_, ParquetError>(column.byte_range()))?;
            let end = at.saturating_add(stored).min(self.chunks.length);
            // Of a dictionary, values of a fixed length are stored once and read for each row.
            let fixed = u64::try_from(column.column_descr().type_length()).unwrap_or(0);
            let mut crowd = Crowd::default();
            while at < end {
                let from = self.chunks.run("a page does not decode", || self.chunks.get_read(at))?;
                // What is wrong with a header the reader will find.
                let Some(page) = pages::header(BufReader::with_capacity(HEADER, from)) else { break };
                if page.unpacked > self.limits.page.get() {
                    let (name, limit) = (column.column_path().string(), self.limits.page.get());
                    let said =
                        format!("a page of column `{name}` has {} bytes, more than {limit}", page.unpacked);
                    return Err(Broken::corrupt(said));
                }
                let each = if page.shares { page.unpacked } else { fixed };
                crowd.add(page.unpacked.max(page.values.saturating_mul(each)), page.values);
                at = at.saturating_add(page.header).saturating_add(page.stored);
            }
            bytes = bytes.saturating_add(crowd.row(rows));
        }
        let rows = self.limits.block_bytes.get() / bytes.max(1);
        Ok(usize::try_from(rows).unwrap_or(usize::MAX).clamp(1, (self.limits.block_lines as usize).max(1)))
    }

    /// Makes readings of the rows of a batch, the first of which is `row`.
    fn push(
        &self,
        batch: &RecordBatch,
        row: &mut u64,
        blocks: &mut Blocks,
    ) -> Result<Result<(), Broken>, End> {
        let mut from = 0;
        while from < batch.num_rows() {
            let (most_rows, most_bytes) = blocks.room();
            let (mut bytes, mut list, mut sound) = (0, Vec::new(), Vec::new());
            for index in (from..batch.num_rows()).take(most_rows) {
                let start = *row + list.len() as u64;
                let (raw, found) = self.reading(batch, index, start, &mut bytes);
                sound.push(raw.is_none());
                list.push((raw, found));
                if bytes >= most_bytes {
                    break;
                }
            }
            let count = list.len();
            let own = || {
                let piece = batch.slice(from, count);
                let all = sound.iter().all(|sound| *sound);
                let piece =
                    if all { piece } else { filter_record_batch(&piece, &BooleanArray::from(sound))? };
                self.shape.columns(&piece)
            };
            let columns = match self.chunks.run("the rows do not decode", own) {
                Ok(columns) => columns,
                Err(broken) => return Ok(Err(broken)),
            };
            *row += count as u64;
            from += count;
            blocks.push_rows(columns, list)?;
        }
        Ok(Ok(()))
    }

    /// The reading that a row is, and of a row that is too large the bytes that are kept of its text.
    fn reading(
        &self,
        batch: &RecordBatch,
        index: usize,
        start: u64,
        bytes: &mut u64,
    ) -> (Option<Vec<u8>>, Found) {
        let limit = self.limits.line.get();
        let weight = self.shape.weight(batch, index, limit);
        let text = self.shape.text(batch, index).unwrap_or_default().as_bytes();
        let length = text.len() as u64;
        let end = start.saturating_add(1);
        if weight <= limit {
            *bytes += weight;
            return (None, Found { start, end, length, fault: None });
        }
        let raw = text.get(..RAW_LIMIT).unwrap_or(text).to_vec();
        *bytes += raw.len() as u64;
        let detail = format!("the row has more than {limit} bytes, its text {length}");
        let fault = Some(Fault { reason: Reason::TooLarge, detail });
        (Some(raw), Found { start, end, length, fault })
    }
}
