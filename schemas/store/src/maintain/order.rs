//! The rows of several files in the order of their table, a window at a time.

use std::ops::Range;

use arrow::array::{Array as _, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::row::{RowConverter, SortField};
use deltalake::DeltaTable;

use crate::{Store, StoreError, file};
use perennial_schemas::table::{Table, TableError};

/// Bytes of rows held at once, as estimated before they are read.
const WINDOW_BYTES: u64 = 16 << 20;

/// The most rows held at once.
const WINDOW_ROWS: usize = 8_192;

/// How much larger rows are in memory than in their file: a rough measured factor.
const EXPANSION: u64 = 4;

/// The columns by which a table's rows are ordered within a partition. Rows that are equal in all of them
/// keep the order of their files.
const fn key(table: Table) -> &'static [&'static str] {
    match table {
        // The row of an expired range has no `seq`, but a `first_seq`.
        Table::Records => &["shard", "seq", "first_seq"],
        Table::Signals => &["step", "shard", "seq", "first_token"],
        Table::Evaluations => &["step", "slice", "document"],
        Table::Buffers => &["revision"],
        Table::Views => &["number"],
        Table::Order => &["number"],
    }
}

/// The column that holds the bytes of a row's largest value.
const fn weight(table: Table) -> Option<&'static str> {
    match table {
        Table::Records => Some("length"),
        Table::Signals | Table::Evaluations | Table::Order | Table::Buffers | Table::Views => None,
    }
}

/// The place of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    file: u32,
    row: u32,
    bytes: u64,
}

/// The rows of several files, in the table's order.
pub(super) struct Rows {
    table: Table,
    files: Vec<file::DataFile>,
    order: Vec<Place>,
}

impl Rows {
    /// Reads the keys of `files` and orders their rows.
    pub(super) async fn read(
        store: &Store,
        delta: &DeltaTable,
        table: Table,
        files: impl Iterator<Item = &file::DataFile>,
    ) -> Result<Self, StoreError> {
        let files: Vec<file::DataFile> = files.cloned().collect();
        let columns: Vec<&str> = key(table).iter().copied().chain(weight(table)).collect();
        let mut keys = Vec::new();
        let mut places = Vec::new();
        for (index, data) in (0_u32..).zip(&files) {
            let batches = file::read(store, delta, table, data, Some(&columns), None).await?;
            let rows = batches.iter().map(RecordBatch::num_rows).sum::<usize>().max(1);
            let usual = data.size * EXPANSION / rows as u64;
            let sizes = batches.iter().flat_map(|batch| sizes(table, batch, usual));
            places.extend((0_u32..).zip(sizes).map(|(row, bytes)| Place { file: index, row, bytes }));
            keys.extend(batches);
        }
        let sorted = sort(table, &keys).map_err(|source| arrow_error(table, source))?;
        let order = sorted.into_iter().filter_map(|index| places.get(index).copied()).collect();
        Ok(Self { table, files, order })
    }

    /// The rows in portions that fit into memory.
    pub(super) fn windows(&self) -> impl Iterator<Item = &[Place]> {
        let mut rest = self.order.as_slice();
        std::iter::from_fn(move || {
            let mut bytes = 0;
            let fits = |place: &&Place| {
                bytes += place.bytes;
                bytes <= WINDOW_BYTES
            };
            let count = rest.iter().take(WINDOW_ROWS).take_while(fits).count().max(1);
            let (window, after) = rest.split_at_checked(count)?;
            rest = after;
            Some(window)
        })
    }

    /// All columns of the rows of a window, in its order.
    pub(super) async fn gather(
        &self,
        store: &Store,
        delta: &DeltaTable,
        window: &[Place],
    ) -> Result<RecordBatch, StoreError> {
        let mut stored = window.to_vec();
        stored.sort_unstable();
        let mut batches = Vec::new();
        for rows in stored.chunk_by(|a, b| a.file == b.file) {
            let file = rows.first().and_then(|place| self.files.get(usize::try_from(place.file).ok()?));
            let data = file.ok_or(StoreError::Misuse("a row lies in no file"))?;
            batches.extend(file::read(store, delta, self.table, data, None, Some(ranges(rows))).await?);
        }
        let failed = |source| arrow_error(self.table, source);
        let all = concat_batches(&self.table.schema(), &batches).map_err(failed)?;
        if all.num_rows() != window.len() {
            return Err(StoreError::Misuse("a file has other rows than its keys"));
        }
        if stored == window {
            return Ok(all);
        }
        let index_of = |place| stored.binary_search(place).ok().and_then(|index| u32::try_from(index).ok());
        let indices: UInt32Array = window.iter().map(index_of).collect();
        take_record_batch(&all, &indices).map_err(failed)
    }
}

fn arrow_error(table: Table, source: arrow::error::ArrowError) -> StoreError {
    StoreError::Rows { table, source: TableError::Arrow { table: table.name(), source } }
}

/// The bytes of each row of a batch: the value of its column of bytes, plus the usual bytes of a row.
fn sizes(table: Table, batch: &RecordBatch, usual: u64) -> Vec<u64> {
    let said = weight(table)
        .and_then(|name| batch.column_by_name(name))
        .and_then(|column| column.as_any().downcast_ref::<arrow::array::Int64Array>());
    match said {
        Some(column) => {
            column.iter().map(|said| u64::try_from(said.unwrap_or(0)).unwrap_or(0) + usual).collect()
        }
        None => vec![usual; batch.num_rows()],
    }
}

/// The indices of the batches' rows, counted through all batches, in the order of the key.
fn sort(table: Table, batches: &[RecordBatch]) -> Result<Vec<usize>, arrow::error::ArrowError> {
    let schema = file::project(table, Some(key(table)));
    let fields = key(table)
        .iter()
        .map(|name| schema.field_with_name(name).map(|field| SortField::new(field.data_type().clone())));
    let converter = RowConverter::new(fields.collect::<Result<_, _>>()?)?;
    let mut rows = converter.empty_rows(0, 0);
    for batch in batches {
        let columns: Option<Vec<ArrayRef>> =
            key(table).iter().map(|name| batch.column_by_name(name).cloned()).collect();
        converter.append(&mut rows, &columns.unwrap_or_default())?;
    }
    let mut order: Vec<usize> = (0..rows.num_rows()).collect();
    // Stable: rows with one key keep the order of their files.
    order.sort_by(|a, b| rows.row(*a).cmp(&rows.row(*b)));
    Ok(order)
}

/// The rows of one file, sorted, as ranges.
fn ranges(rows: &[Place]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for row in rows.iter().filter_map(|place| usize::try_from(place.row).ok()) {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}
