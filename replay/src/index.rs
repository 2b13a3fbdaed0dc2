//! What replay keeps of every kept record in memory: all but its text.
//!
//! A function of the store: it is built from `records` and `order` at open and grown version by version.
//! About 120 bytes a record, and 4 for each of its passages.

use std::collections::BTreeSet;
use std::sync::Arc;

use perennial_schemas::id::{Offset, RecordId, Seq, Shard};

use crate::error::{ReplayError, Result};

/// A kept record, or the shape of one that was erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the order of the store.
    pub offset: Offset,
    /// Its shard.
    pub shard: Shard,
    /// Its place in its shard.
    pub seq: Seq,
    /// The id of its text; zero where it was erased.
    pub id: RecordId,
    /// Bytes of its text.
    pub bytes: u64,
    /// Ends of its passages in bytes of its text, rising.
    pub passages: Box<[u32]>,
    /// Where the source says it is from, else the source itself.
    pub source: Arc<str>,
    /// When the source says it happened, microseconds since 1970 UTC.
    pub event_time: Option<i64>,
    /// Whether its text was removed from the store.
    pub erased: bool,
}

/// All kept records in the order of the store.
#[derive(Debug, Default, Clone)]
pub struct Index {
    records: Vec<Record>,
    limit: Offset,
    /// One allocation for each source's name.
    sources: BTreeSet<Arc<str>>,
}

impl Index {
    /// Of no records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds records, which must come after all others, and raises the limit to `limit`, which must be above
    /// all of them.
    ///
    /// # Errors
    /// [`ReplayError::Inconsistent`] for a record outside of its place.
    pub fn extend(&mut self, records: impl IntoIterator<Item = Record>, limit: Offset) -> Result<()> {
        for record in records {
            self.push(record, limit)?;
        }
        self.limit = self.limit.max(limit);
        Ok(())
    }

    fn push(&mut self, mut record: Record, limit: Offset) -> Result<()> {
        let last = self.records.last().map(|last| last.offset);
        if record.offset < self.limit || record.offset >= limit || last >= Some(record.offset) {
            let (seq, shard, offset) = (record.seq, &record.shard, record.offset);
            let why = format!(
                "record {seq} of shard `{shard}` has offset {offset}, which is taken or beyond {limit}"
            );
            return Err(ReplayError::Inconsistent { table: "records", why });
        }
        match self.sources.get(&record.source) {
            Some(known) => record.source = Arc::clone(known),
            None => drop(self.sources.insert(Arc::clone(&record.source))),
        }
        self.records.push(record);
        Ok(())
    }

    /// The first offset that is not known: every kept record below it is here.
    #[must_use]
    pub const fn limit(&self) -> Offset {
        self.limit
    }

    /// The records with `from <= offset < to`, in order.
    #[must_use]
    pub fn range(&self, from: Offset, to: Offset) -> &[Record] {
        let start = self.records.partition_point(|record| record.offset < from);
        let end = self.records.partition_point(|record| record.offset < to);
        self.records.get(start..end).unwrap_or(&[])
    }

    /// The record at an offset.
    #[must_use]
    pub fn get(&self, offset: Offset) -> Option<&Record> {
        let at = self.records.binary_search_by_key(&offset, |record| record.offset).ok()?;
        self.records.get(at)
    }

    /// All records in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}
