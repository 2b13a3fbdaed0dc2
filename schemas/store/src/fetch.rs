//! Fetches records by (shard, seq) through an index of the row of each record, built from the files. Files
//! never change, so a file's part of the index never goes stale.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use arrow::array::RecordBatch;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::{Store, StoreError, file};
use perennial_schemas::id::{Seq, Shard, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{Outcome, View};

/// The kept records of one file: per shard (seq, row), by seq.
#[derive(Debug, Default)]
pub(crate) struct Places(BTreeMap<String, Vec<(u64, u32)>>);

impl Places {
    fn row(&self, shard: &str, seq: Seq) -> Option<usize> {
        let rows = self.0.get(shard)?;
        let index = rows.binary_search_by_key(&seq.0, |(seq, _)| *seq).ok()?;
        rows.get(index).and_then(|(_, row)| usize::try_from(*row).ok())
    }
}

/// Files read at once.
const AT_ONCE: usize = 8;

impl Store {
    /// The kept records at `version` with these shards and seqs, in the order of `wanted`. A record that
    /// is gone (erased, expired) is left out: compare `shard` and `seq`, which are always read. `columns`
    /// are those of a [`Scan`](crate::Scan).
    ///
    /// # Errors
    /// [`StoreError::Version`] if the version is not in the store, [`StoreError::File`] if a file cannot
    /// be read.
    pub async fn fetch(
        &self,
        version: Version,
        wanted: &[(Shard, Seq)],
        columns: &[&str],
    ) -> Result<RecordBatch, StoreError> {
        let table = Table::Records;
        let delta = self.at(table, version).await?;
        let columns = [columns, &["seq"]].concat();
        let files = file::live(&delta, table).await?;
        self.0.files.keep(&files);
        let kept = files.into_iter().filter(|data| {
            data.partition.get("outcome").and_then(Option::as_deref) == Some(Outcome::Kept.as_str())
        });
        let found: Vec<Vec<(usize, RecordBatch)>> = futures::stream::iter(kept)
            .map(|data| self.fetch_from(&delta, data, wanted, &columns))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut rows: Vec<(usize, RecordBatch)> = found.into_iter().flatten().collect();
        rows.sort_by_key(|(place, _)| *place);
        let batches: Vec<RecordBatch> = rows.into_iter().map(|(_, row)| row).collect();
        let schema = file::project(table, Some(&columns));
        arrow::compute::concat_batches(&schema, &batches).map_err(|source| StoreError::Rows {
            table,
            source: perennial_schemas::table::TableError::Arrow { table: table.name(), source },
        })
    }

    /// The records of `wanted` in one file: (index in `wanted`, one row).
    async fn fetch_from(
        &self,
        delta: &deltalake::DeltaTable,
        data: file::DataFile,
        wanted: &[(Shard, Seq)],
        columns: &[&str],
    ) -> Result<Vec<(usize, RecordBatch)>, StoreError> {
        let places = self.places(delta, &data).await?;
        let mut rows: Vec<(usize, usize)> = wanted
            .iter()
            .enumerate()
            .filter_map(|(index, (shard, seq))| Some((places.row(shard.as_str(), *seq)?, index)))
            .collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        rows.sort_unstable();
        let mut distinct: Vec<usize> = rows.iter().map(|(row, _)| *row).collect();
        distinct.dedup();
        let ranges = distinct.iter().map(|row| *row..row + 1).collect();
        let batches = file::read(self, delta, Table::Records, &data, Some(columns), Some(ranges)).await?;
        let read: Vec<RecordBatch> =
            batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| batch.slice(row, 1))).collect();
        let at = |row: usize| distinct.binary_search(&row).ok().and_then(|index| read.get(index)).cloned();
        Ok(rows.into_iter().filter_map(|(row, index)| Some((index, at(row)?))).collect())
    }

    async fn places(
        &self,
        delta: &deltalake::DeltaTable,
        data: &file::DataFile,
    ) -> Result<Arc<Places>, StoreError> {
        let known =
            self.0.files.places.lock().unwrap_or_else(PoisonError::into_inner).get(&data.path).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let table = Table::Records;
        let mut places = Places::default();
        let mut row = 0_u32;
        for batch in file::read(self, delta, table, data, Some(&["seq"]), None).await? {
            for record in View::new(&batch).map_err(|source| StoreError::Rows { table, source })?.iter() {
                if let Some(seq) = record.seq {
                    let rows = places.0.entry(record.shard.to_owned()).or_default();
                    rows.push((Seq::from_i64(seq).0, row));
                }
                row += 1;
            }
        }
        places.0.values_mut().for_each(|rows| rows.sort_unstable());
        let places = Arc::new(places);
        let mut all = self.0.files.places.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(data.path.clone(), Arc::clone(&places));
        Ok(places)
    }
}
