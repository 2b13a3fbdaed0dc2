//! Records of consecutive offsets as columns: an Arrow IPC file that is mapped, or the same in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, BooleanArray, FixedSizeBinaryArray, Int64Array, ListArray, RecordBatch,
    UInt32Array, UInt64Array,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::writer::FileWriter;
use arrow::ipc::{convert::fb_to_schema, root_as_footer};
use memmap2::Mmap;
use perennial_schemas::id::{IdError, Offset, RecordId, Seq, Shard};

use super::RecordRef;

/// Layout of the files. It changes with the columns.
const FORMAT: &str = "1";
/// Keys of the file's metadata.
const FORMAT_KEY: &str = "perennial.index";
const SHARDS_KEY: &str = "shards";
const SOURCES_KEY: &str = "sources";
/// Bytes behind the footer: its length and a magic number.
const TRAILER: usize = 10;

/// A file that is not a segment, or cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The system refused.
    #[error("cannot {act} `{}`", path.display())]
    Io {
        /// The attempt.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Not an Arrow file, or one that was cut short.
    #[error("not a whole Arrow file")]
    Arrow(#[from] ArrowError),
    /// An Arrow file with other content.
    #[error("not a segment of the index: {0}")]
    Content(String),
}

impl From<IdError> for SegmentError {
    fn from(error: IdError) -> Self {
        Self::Content(error.to_string())
    }
}

/// Records in order, as columns.
#[derive(Debug)]
pub struct Segment {
    offsets: UInt64Array,
    shard: UInt32Array,
    seq: UInt64Array,
    id: FixedSizeBinaryArray,
    passage_ends: OffsetBuffer<i32>,
    passages: UInt32Array,
    source: UInt32Array,
    event_time: Int64Array,
    erased: BooleanArray,
    shards: Vec<Shard>,
    sources: Vec<Arc<str>>,
    /// Its file in the cache folder.
    name: Option<String>,
}

fn schema(shards: &[Shard], sources: &[Arc<str>]) -> Schema {
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    let passages = DataType::List(Arc::new(field("item", DataType::UInt32)));
    let names = |names: Vec<&str>| serde_json::json!(names).to_string();
    let metadata = [
        (FORMAT_KEY.to_owned(), FORMAT.to_owned()),
        (SHARDS_KEY.to_owned(), names(shards.iter().map(Shard::as_str).collect())),
        (SOURCES_KEY.to_owned(), names(sources.iter().map(|source| &**source).collect())),
    ];
    Schema::new_with_metadata(
        vec![
            field("offset", DataType::UInt64),
            field("shard", DataType::UInt32),
            field("seq", DataType::UInt64),
            field("id", DataType::FixedSizeBinary(16)),
            field("passages", passages),
            field("source", DataType::UInt32),
            Field::new("event_time", DataType::Int64, true),
            field("erased", DataType::Boolean),
        ],
        metadata.into(),
    )
}

/// Different values, each with its number.
struct Names<T>(BTreeMap<T, u32>, Vec<T>);

impl<T: Ord + Clone> Names<T> {
    const fn new() -> Self {
        Self(BTreeMap::new(), Vec::new())
    }

    fn number(&mut self, name: &T) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = u32::try_from(self.1.len()).unwrap_or(u32::MAX);
        self.0.insert(name.clone(), number);
        self.1.push(name.clone());
        number
    }
}

impl Segment {
    /// Of these records, in order.
    ///
    /// # Errors
    /// More than 2^31 passages.
    pub fn new<'a>(records: impl Iterator<Item = RecordRef<'a>> + Clone) -> Result<Self, SegmentError> {
        let (mut shards, mut sources) = (Names::new(), Names::new());
        let lengths = records.clone().map(|record| record.passages.len());
        let ids = records.clone().map(|record| Some(*record.id.as_bytes()));
        let passages: UInt32Array =
            records.clone().flat_map(|record| record.passages.iter().copied()).collect();
        if i32::try_from(passages.len()).is_err() {
            return Err(SegmentError::Content(format!("it would have {} passages", passages.len())));
        }
        Ok(Self {
            offsets: UInt64Array::from_iter_values(records.clone().map(|record| record.offset.0)),
            shard: UInt32Array::from_iter_values(records.clone().map(|record| shards.number(record.shard))),
            seq: UInt64Array::from_iter_values(records.clone().map(|record| record.seq.0)),
            id: FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids, 16)?,
            passage_ends: OffsetBuffer::from_lengths(lengths),
            passages,
            source: UInt32Array::from_iter_values(
                records.clone().map(|record| sources.number(record.source)),
            ),
            event_time: records.clone().map(|record| record.event_time).collect(),
            erased: records.map(|record| Some(record.erased)).collect(),
            shards: shards.1,
            sources: sources.1,
            name: None,
        })
    }

    /// Maps the file at `path`, which must not be changed after.
    ///
    /// # Errors
    /// A file that cannot be read, is not whole, or is not a segment.
    pub fn open(path: &Path) -> Result<Self, SegmentError> {
        let failed = |act| move |source| SegmentError::Io { act, path: path.to_owned(), source };
        let file = File::open(path).map_err(failed("open"))?;
        // SAFETY: files of the cache are written under another name, renamed, and never written again.
        #[expect(unsafe_code, reason = "a mapped file is the only way to share an index between processes")]
        let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
        Self::read(Buffer::from(bytes::Bytes::from_owner(map)))
    }

    fn read(file: Buffer) -> Result<Self, SegmentError> {
        let short = || ArrowError::ParseError("it is cut short".to_owned());
        let trailer = file.len().checked_sub(TRAILER).ok_or_else(short)?;
        let length = read_footer_length(file[trailer..].try_into().map_err(|_| short())?)?;
        let start = trailer.checked_sub(length).ok_or_else(short)?;
        let footer = root_as_footer(&file[start..trailer])
            .map_err(|error| ArrowError::ParseError(error.to_string()))?;
        let schema = footer.schema().ok_or_else(short)?;
        let decoder = FileDecoder::new(Arc::new(fb_to_schema(schema)), footer.version());
        let block = footer.recordBatches().filter(|blocks| blocks.len() == 1).map(|blocks| blocks.get(0));
        let block = block.ok_or_else(|| SegmentError::Content("it does not hold one batch".to_owned()))?;
        let from = usize::try_from(block.offset()).map_err(|_| short())?;
        let whole = i64::from(block.metaDataLength()).checked_add(block.bodyLength());
        let length = whole.and_then(|length| usize::try_from(length).ok()).ok_or_else(short)?;
        if from.checked_add(length).is_none_or(|end| end > start) {
            return Err(short().into());
        }
        let batch = decoder.read_record_batch(block, &file.slice_with_length(from, length))?;
        Self::of(&batch.ok_or_else(short)?)
    }

    fn of(batch: &RecordBatch) -> Result<Self, SegmentError> {
        let found = batch.schema();
        let names = |key: &str| -> Result<Vec<String>, SegmentError> {
            let json = found.metadata().get(key).map(String::as_str).unwrap_or_default();
            serde_json::from_str(json).map_err(|error| SegmentError::Content(format!("`{key}`: {error}")))
        };
        let shards = names(SHARDS_KEY)?.iter().map(|name| name.parse()).collect::<Result<Vec<Shard>, _>>()?;
        let sources: Vec<Arc<str>> = names(SOURCES_KEY)?.into_iter().map(Arc::from).collect();
        if *found != schema(&shards, &sources) {
            return Err(SegmentError::Content("it has other columns".to_owned()));
        }
        let list = batch.column(4).as_list::<i32>();
        Ok(Self {
            offsets: batch.column(0).as_primitive::<UInt64Type>().clone(),
            shard: batch.column(1).as_primitive::<UInt32Type>().clone(),
            seq: batch.column(2).as_primitive::<UInt64Type>().clone(),
            id: batch.column(3).as_fixed_size_binary().clone(),
            passage_ends: list.offsets().clone(),
            passages: list.values().as_primitive::<UInt32Type>().clone(),
            source: batch.column(5).as_primitive::<UInt32Type>().clone(),
            event_time: batch.column(6).as_primitive::<Int64Type>().clone(),
            erased: batch.column(7).as_boolean().clone(),
            shards,
            sources,
            name: None,
        })
    }

    /// As the file of this name in the cache folder.
    pub(super) fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Its file in the cache folder.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Writes it as a file that [`Segment::open`] maps, and waits until the disk has it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), SegmentError> {
        let failed = |act| move |source| SegmentError::Io { act, path: path.to_owned(), source };
        let file = File::create(path).map_err(failed("create"))?;
        let schema = schema(&self.shards, &self.sources);
        let mut writer = FileWriter::try_new_buffered(file, &schema)?;
        let item = Arc::new(Field::new("item", DataType::UInt32, false));
        let passages =
            ListArray::try_new(item, self.passage_ends.clone(), Arc::new(self.passages.clone()), None)?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.offsets.clone()),
            Arc::new(self.shard.clone()),
            Arc::new(self.seq.clone()),
            Arc::new(self.id.clone()),
            Arc::new(passages),
            Arc::new(self.source.clone()),
            Arc::new(self.event_time.clone()),
            Arc::new(self.erased.clone()),
        ];
        writer.write(&RecordBatch::try_new(Arc::new(schema), columns)?)?;
        writer.finish()?;
        let file = writer.into_inner()?.into_inner().map_err(|error| failed("write")(error.into_error()))?;
        file.sync_all().map_err(failed("write"))
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset of its first record; 0 without a record.
    #[must_use]
    pub fn first(&self) -> Offset {
        Offset(self.offsets.values().first().copied().unwrap_or(0))
    }

    /// The offset of its last record; 0 without a record.
    #[must_use]
    pub fn last(&self) -> Offset {
        Offset(self.offsets.values().last().copied().unwrap_or(0))
    }

    /// The row of the first record from an offset on. Offsets are nearly evenly spaced: a few looks find it.
    #[must_use]
    pub fn position(&self, offset: Offset) -> usize {
        /// Looks by interpolation before it goes on by halves.
        const LOOKS: usize = 8;
        let (values, asked) = (self.offsets.values(), offset.0);
        // Rows below `low` are before the offset, rows from `high` on are not.
        let (mut low, mut high) = (0, values.len());
        for _ in 0..LOOKS {
            let (Some(first), Some(last)) = (values.get(low), values.get(high.wrapping_sub(1))) else {
                break;
            };
            if asked <= *first {
                return low;
            }
            if asked > *last {
                return high;
            }
            let share =
                u128::from(asked - first) * (high - 1 - low) as u128 / u128::from((last - first).max(1));
            let guess = low + usize::try_from(share).unwrap_or(0);
            match values.get(guess) {
                Some(value) if *value < asked => low = guess + 1,
                _ => high = guess,
            }
        }
        low + values.get(low..high).map_or(0, |rows| rows.partition_point(|value| *value < asked))
    }

    /// Number of erased records in the first rows.
    #[must_use]
    pub fn erased_before(&self, rows: usize) -> usize {
        self.erased.values().slice(0, rows.min(self.len())).count_set_bits()
    }

    /// The record in a row.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<RecordRef<'_>> {
        let offset = Offset(*self.offsets.values().get(row)?);
        let ends = (*self.passage_ends.get(row)?, *self.passage_ends.get(row + 1)?);
        let range = usize::try_from(ends.0).ok()?..usize::try_from(ends.1).ok()?;
        let passages = self.passages.values().get(range)?;
        let number = |column: &UInt32Array| usize::try_from(column.value(row)).ok();
        Some(RecordRef {
            offset,
            shard: self.shards.get(number(&self.shard)?)?,
            seq: Seq(self.seq.value(row)),
            id: RecordId::from_bytes(self.id.value(row))?,
            bytes: passages.last().copied().unwrap_or(0).into(),
            passages,
            source: self.sources.get(number(&self.source)?)?,
            event_time: self.event_time.is_valid(row).then(|| self.event_time.value(row)),
            erased: self.erased.value(row),
        })
    }
}
