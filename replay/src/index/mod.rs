//! What replay keeps of every kept record: all but its text.
//!
//! ```text
//! segments (columns, about 1 M records each; files of the cache folder, mapped) │ tail (records in memory)
//! ```
//!
//! A function of the store: it is built from `records` and `order`, and grown version by version. A segment
//! that is mapped takes memory only where it is read.

pub mod cache;
mod segment;

use std::collections::BTreeSet;
use std::sync::Arc;

use perennial_schemas::id::{Offset, RecordId, Seq, Shard};

use serde::{Deserialize, Serialize};

use crate::error::{ReplayError, Result};

pub use segment::{Segment, SegmentError};

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

/// A record of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its place in the order of the store.
    pub offset: Offset,
    /// Its shard.
    pub shard: &'a Shard,
    /// Its place in its shard.
    pub seq: Seq,
    /// The id of its text; zero where it was erased.
    pub id: RecordId,
    /// Bytes of its text.
    pub bytes: u64,
    /// Ends of its passages in bytes of its text, rising.
    pub passages: &'a [u32],
    /// Where the source says it is from, else the source itself.
    pub source: &'a Arc<str>,
    /// When the source says it happened, microseconds since 1970 UTC.
    pub event_time: Option<i64>,
    /// Whether its text was removed from the store.
    pub erased: bool,
}

impl Record {
    /// As a record of an index.
    #[must_use]
    pub fn view(&self) -> RecordRef<'_> {
        let Self { offset, seq, id, bytes, event_time, erased, .. } = *self;
        let (shard, passages, source) = (&self.shard, &*self.passages, &self.source);
        RecordRef { offset, shard, seq, id, bytes, passages, source, event_time, erased }
    }
}

impl RecordRef<'_> {
    /// A copy of it.
    #[must_use]
    pub fn to_record(&self) -> Record {
        let Self { offset, seq, id, bytes, event_time, erased, .. } = *self;
        let (shard, passages, source) = (self.shard.clone(), self.passages.into(), Arc::clone(self.source));
        Record { offset, shard, seq, id, bytes, passages, source, event_time, erased }
    }
}

/// Numbers of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All of them, erased ones included.
    pub records: u64,
    /// Those that were erased.
    pub erased: u64,
}

/// All kept records in the order of the store.
#[derive(Debug, Default, Clone)]
pub struct Index {
    /// In order, none of them empty.
    segments: Vec<Arc<Segment>>,
    /// The records after those of the segments.
    tail: Vec<Record>,
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

    /// Of the records of these segments, which are all below `limit`.
    ///
    /// # Errors
    /// [`ReplayError::Inconsistent`] for segments that do not follow each other.
    pub fn of(segments: Vec<Arc<Segment>>, limit: Offset) -> Result<Self> {
        let mut index = Self { limit, ..Self::default() };
        for segment in segments {
            if segment.is_empty() {
                continue;
            }
            let last = index.segments.last().map(|last| last.last());
            if last >= Some(segment.first()) || segment.last() >= limit {
                let why = format!(
                    "a segment of the index begins at {} and ends at {}",
                    segment.first(),
                    segment.last()
                );
                return Err(ReplayError::Inconsistent { table: "records", why });
            }
            index.segments.push(segment);
        }
        Ok(index)
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
        let last = self.tail.last().map(|last| last.offset);
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
        self.tail.push(record);
        Ok(())
    }

    /// The first offset that is not known: every kept record below it is here.
    #[must_use]
    pub const fn limit(&self) -> Offset {
        self.limit
    }

    /// The records with `from <= offset < to`, in order.
    #[must_use]
    pub fn range(&self, from: Offset, to: Offset) -> Records<'_> {
        let segment = self.segments.partition_point(|segment| segment.last() < from);
        let row = self.segments.get(segment).map_or(0, |segment| segment.position(from));
        let tail = self.tail.partition_point(|record| record.offset < from);
        Records { index: self, segment, row, tail, to }
    }

    /// The record at an offset.
    #[must_use]
    pub fn get(&self, offset: Offset) -> Option<RecordRef<'_>> {
        let at = self.segments.partition_point(|segment| segment.last() < offset);
        if let Some(segment) = self.segments.get(at) {
            let record = segment.get(segment.position(offset))?;
            return Some(record).filter(|record| record.offset == offset);
        }
        let at = self.tail.binary_search_by_key(&offset, |record| record.offset).ok()?;
        self.tail.get(at).map(Record::view)
    }

    /// How many records there are before an offset, and how many of them were erased.
    #[must_use]
    pub fn counts(&self, before: Offset) -> Counts {
        let mut counts = Counts::default();
        for segment in self.segments.iter().take_while(|segment| segment.first() < before) {
            let rows = segment.position(before);
            counts.records += rows as u64;
            counts.erased += segment.erased_before(rows) as u64;
        }
        for record in self.tail.iter().take_while(|record| record.offset < before) {
            counts.records += 1;
            counts.erased += u64::from(record.erased);
        }
        counts
    }

    /// All records in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        self.range(Offset(0), self.limit)
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.len()).sum::<usize>() + self.tail.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the tail the last segment, and joins it with those before it that are not much larger, so that
    /// there are few and a record is copied a few times only.
    ///
    /// # Errors
    /// More passages than a segment can have.
    pub fn settle(&mut self) -> Result<(), SegmentError> {
        if self.tail.is_empty() {
            return Ok(());
        }
        let mut last = Arc::new(Segment::new(self.tail.iter().map(Record::view))?);
        while let Some(before) = self.segments.last().filter(|before| joins(before, &last)) {
            let rows = |segment: &Segment| 0..segment.len();
            let both = rows(before).map(|row| (before, row)).chain(rows(&last).map(|row| (&last, row)));
            let joined = Segment::new(both.filter_map(|(segment, row)| segment.get(row)))?;
            last = Arc::new(joined);
            self.segments.pop();
        }
        self.segments.push(last);
        self.tail = Vec::new();
        Ok(())
    }

    /// The same records in other segments, which are those of this index, mapped.
    pub(crate) fn replace_segments(&mut self, segments: Vec<Arc<Segment>>) {
        self.segments = segments;
    }

    /// Its segments in order.
    #[must_use]
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// The records after those of the segments.
    #[must_use]
    pub fn tail(&self) -> &[Record] {
        &self.tail
    }
}

/// The most records of a segment.
pub const SEGMENT: usize = 1 << 20;

/// Whether two neighbours become one segment.
fn joins(before: &Segment, last: &Segment) -> bool {
    /// How much larger the one before may be.
    const RATIO: usize = 4;
    before.len() + last.len() <= SEGMENT && before.len() <= RATIO * last.len()
}

/// Records of an index in order.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    index: &'a Index,
    segment: usize,
    row: usize,
    tail: usize,
    to: Offset,
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<RecordRef<'a>> {
        while let Some(segment) = self.index.segments.get(self.segment) {
            if let Some(record) = segment.get(self.row) {
                self.row += 1;
                return Some(record).filter(|record| record.offset < self.to);
            }
            (self.segment, self.row) = (self.segment + 1, 0);
        }
        let record =
            self.index.tail.get(self.tail).map(Record::view).filter(|record| record.offset < self.to)?;
        self.tail += 1;
        Some(record)
    }
}

#[cfg(test)]
mod tests;
