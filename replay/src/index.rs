//! What replay keeps of every kept record in memory: all but its text.
//!
//! A function of the store: it is built from `records` at open and grown version by version.
//! About 100 bytes a record, and 4 for each of its passages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_schemas::id::{RecordId, Seq, Shard};

use crate::error::{ReplayError, Result};

/// The first seq of each shard that a version of `records` does not have; a shard that is absent
/// has none.
pub type HighWaterMarks = BTreeMap<Shard, Seq>;

/// A kept record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in its shard.
    pub seq: Seq,
    /// The id of its text.
    pub id: RecordId,
    /// Bytes of its text.
    pub bytes: u64,
    /// Ends of its passages in bytes of its text, rising.
    pub passages: Box<[u32]>,
    /// Where the source says it is from, else the source itself.
    pub source: Arc<str>,
    /// When the source says it happened, microseconds since 1970 UTC.
    pub event_time: Option<i64>,
}

/// All kept records by shard, in the order of their seq.
#[derive(Debug, Default, Clone)]
pub struct Index {
    shards: BTreeMap<Shard, Vec<Record>>,
    /// One allocation for each source's name.
    sources: BTreeSet<Arc<str>>,
}

impl Index {
    /// Of no records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record, which must come after all of its shard.
    ///
    /// # Errors
    /// [`ReplayError::Inconsistent`] when its seq is not above the last one of its shard.
    pub fn push(&mut self, shard: &Shard, mut record: Record) -> Result<()> {
        match self.sources.get(&record.source) {
            Some(known) => record.source = Arc::clone(known),
            None => drop(self.sources.insert(Arc::clone(&record.source))),
        }
        let records = match self.shards.get_mut(shard) {
            Some(records) => records,
            None => self.shards.entry(shard.clone()).or_default(),
        };
        if let Some(last) = records.last().filter(|last| last.seq >= record.seq) {
            let why = format!("record {} of shard `{shard}` was added after record {}", record.seq, last.seq);
            return Err(ReplayError::Inconsistent { table: "records", why });
        }
        records.push(record);
        Ok(())
    }

    /// The first seq of each shard after its last record.
    #[must_use]
    pub fn high_water_marks(&self) -> HighWaterMarks {
        let last = |records: &Vec<Record>| records.last().map(|record| record.seq.next());
        self.shards.iter().filter_map(|(shard, records)| Some((shard.clone(), last(records)?))).collect()
    }

    /// The shards in order.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.keys()
    }

    /// The records of a shard with `from <= seq < to`, in order.
    #[must_use]
    pub fn range(&self, shard: &Shard, from: Seq, to: Seq) -> &[Record] {
        let records = self.shards.get(shard).map_or(&[][..], Vec::as_slice);
        let start = records.partition_point(|record| record.seq < from);
        let end = records.partition_point(|record| record.seq < to);
        records.get(start..end).unwrap_or(&[])
    }

    /// The records of a shard below its limit, from `from` on.
    #[must_use]
    pub fn visible(&self, shard: &Shard, from: Seq, marks: &HighWaterMarks) -> &[Record] {
        marks.get(shard).map_or(&[], |limit| self.range(shard, from, *limit))
    }

    /// The record at a place.
    #[must_use]
    pub fn get(&self, shard: &Shard, seq: Seq) -> Option<&Record> {
        let records = self.shards.get(shard)?;
        let at = records.binary_search_by_key(&seq, |record| record.seq).ok()?;
        records.get(at)
    }

    /// As [`Index::get`], with the shard's name as the index holds it.
    #[must_use]
    pub fn entry(&self, shard: &Shard, seq: Seq) -> Option<(&Shard, &Record)> {
        let (shard, _) = self.shards.get_key_value(shard)?;
        Some((shard, self.get(shard, seq)?))
    }

    /// All records, by shard and seq.
    pub fn iter(&self) -> impl Iterator<Item = (&Shard, &Record)> {
        self.shards.iter().flat_map(|(shard, records)| records.iter().map(move |record| (shard, record)))
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
