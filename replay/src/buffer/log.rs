//! The changes of one buffer in order, and its members at any revision.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use perennial_schemas::id::{Offset, RecordId, Revision, Seq, Shard};
use perennial_schemas::table::buffers::{Op, Row};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::{Change, Member, Members};
use crate::error::{ReplayError, Result};
use crate::index::{Index, RecordRef};

/// One change of a buffer.
#[derive(Debug)]
struct Logged {
    change: Kind,
    /// The first offset that the policy had not seen at its decision.
    seen: Offset,
}

#[derive(Debug)]
enum Kind {
    Admit(Member),
    Evict(Offset),
    /// The kept records of a range that are at most this large.
    Range(Range<Offset>, Largest),
}

/// A capacity, as the row of a range has it.
#[derive(Debug, Clone, Copy)]
struct Largest {
    limit: u64,
    in_records: bool,
    in_tokens: bool,
}

impl Largest {
    /// Whether a record of this size can be a member.
    const fn admits(self, bytes: u64) -> bool {
        let size = if self.in_records { 1 } else { bytes.saturating_add(self.in_tokens as u64) };
        size <= self.limit
    }
}

/// A change, to compare two histories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChange {
    /// A record becomes a member.
    Admit(Offset),
    /// A member leaves.
    Evict(Offset),
    /// The members are those of a range.
    Range(Range<Offset>),
}

impl From<Change> for LogChange {
    fn from(change: Change) -> Self {
        match change {
            Change::Admit(one) => Self::Admit(one.candidate.offset),
            Change::Evict(one) => Self::Evict(one.candidate.offset),
            Change::Range(range) => Self::Range(range),
        }
    }
}

impl fmt::Display for LogChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admit(offset) => write!(f, "admit {offset}"),
            Self::Evict(offset) => write!(f, "evict {offset}"),
            Self::Range(range) => write!(f, "range {}..{}", range.start, range.end),
        }
    }
}

/// A time that a record was a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stay {
    /// The revision that it became a member at.
    pub entered: Revision,
    /// How much of the order the policy had seen then.
    pub entered_seen: Offset,
    /// The revision that it left at; `None` for a member.
    pub left: Option<Revision>,
    /// How much of the order the policy had seen then.
    pub left_seen: Option<Offset>,
}

/// Number of revisions whose members are cached, for jobs at different positions of the stream.
const SNAPSHOTS: usize = 8;

/// All changes of one buffer, dense from revision 1.
#[derive(Debug)]
pub struct Log {
    buffer: String,
    /// The most byte tokens of a chunk.
    chunk: u64,
    rows: Vec<Logged>,
    seen: Offset,
    /// For each revision a digest of the changes up to it.
    digests: Vec<u64>,
    /// The shard of the last change.
    shard: Option<Shard>,
    /// Members at recently requested revisions, the most recent at the end.
    snapshots: Vec<Arc<Members>>,
}

impl Log {
    /// The log of an empty buffer, whose members are drawn in chunks of at most `chunk` byte tokens.
    #[must_use]
    pub fn new(buffer: &str, chunk: u64) -> Self {
        Self {
            buffer: buffer.to_owned(),
            chunk,
            rows: Vec::new(),
            seen: Offset(0),
            digests: Vec::new(),
            shard: None,
            snapshots: Vec::new(),
        }
    }

    /// The newest revision; 0 for an empty log.
    #[must_use]
    pub fn newest(&self) -> Revision {
        Revision(self.rows.len() as u64)
    }

    /// The first offset that the policy had not seen at the newest revision.
    #[must_use]
    pub const fn seen(&self) -> Offset {
        self.seen
    }

    /// The changes after `revision`.
    pub fn since(&self, revision: Revision) -> impl Iterator<Item = LogChange> + '_ {
        let first = usize::try_from(revision.0).unwrap_or(usize::MAX);
        self.rows.iter().skip(first).map(|row| match &row.change {
            Kind::Admit(member) => LogChange::Admit(member.offset),
            Kind::Evict(offset) => LogChange::Evict(*offset),
            Kind::Range(range, _) => LogChange::Range(range.clone()),
        })
    }

    /// How much of the order the policy had seen at a revision.
    #[must_use]
    pub fn seen_at(&self, revision: Revision) -> Offset {
        let index = usize::try_from(revision.0).unwrap_or(usize::MAX).checked_sub(1);
        index.and_then(|index| self.rows.get(index)).map_or(Offset(0), |row| row.seen)
    }

    /// A digest of the changes up to a revision.
    #[must_use]
    pub fn digest(&self, revision: Revision) -> u64 {
        let index = usize::try_from(revision.0).unwrap_or(usize::MAX).checked_sub(1);
        index.and_then(|index| self.digests.get(index)).copied().unwrap_or(0)
    }

    /// When a record of this size was a member, in order.
    #[must_use]
    pub fn stays(&self, offset: Offset, bytes: u64) -> Vec<Stay> {
        let mut stays: Vec<Stay> = Vec::new();
        for (number, row) in (1..).map(Revision).zip(&self.rows) {
            let now = match &row.change {
                Kind::Admit(member) if member.offset == offset => true,
                Kind::Evict(left) if *left == offset => false,
                Kind::Range(range, largest) => range.contains(&offset) && largest.admits(bytes),
                Kind::Admit(_) | Kind::Evict(_) => continue,
            };
            match stays.last_mut().filter(|stay| stay.left.is_none()) {
                Some(stay) if !now => (stay.left, stay.left_seen) = (Some(number), Some(row.seen)),
                None if now => {
                    let (entered, entered_seen) = (number, row.seen);
                    stays.push(Stay { entered, entered_seen, left: None, left_seen: None });
                }
                _ => {}
            }
        }
        stays
    }

    /// The range that the members are at the newest revision.
    #[must_use]
    pub fn range(&self) -> Option<Range<Offset>> {
        match self.rows.last().map(|row| &row.change) {
            Some(Kind::Range(range, _)) => Some(range.clone()),
            _ => None,
        }
    }

    /// Appends the next change from the store.
    ///
    /// # Errors
    /// [`ReplayError::Inconsistent`] for a change whose revision is not the next one, whose `seen` goes back,
    /// or that no policy of this program writes.
    pub fn push(&mut self, row: &Row<'_>) -> Result<()> {
        let number = self.newest().next();
        let bad = |why: &str| {
            let why = format!("revision {} of buffer `{}` {why}", row.revision, self.buffer);
            ReplayError::Inconsistent { table: "buffers", why }
        };
        if row.revision != number.to_i64() {
            return Err(bad(&format!("is out of order: revision {number} comes next")));
        }
        let op =
            Op::parse(row.op).ok_or_else(|| bad(&format!("is a `{}`, which no release writes", row.op)))?;
        let seen = Offset::from_i64(row.seen);
        if seen < self.seen {
            return Err(bad("has seen less than the previous change"));
        }
        let offset = Offset::from_i64(row.offset);
        let is_range = |row: &Logged| matches!(row.change, Kind::Range(..));
        if self.rows.last().is_some_and(|last| is_range(last) != (op == Op::Range)) {
            return Err(bad("mixes ranges with single records"));
        }
        let change = match op {
            Op::Admit => {
                let id = row.id.and_then(RecordId::from_bytes).ok_or_else(|| bad("names no record id"))?;
                let bytes = row
                    .bytes
                    .and_then(|bytes| u64::try_from(bytes).ok())
                    .ok_or_else(|| bad("has no size"))?;
                let (shard, seq) = (self.shard(row.shard)?, Seq::from_i64(row.seq));
                Kind::Admit(Member { offset, shard, seq, id, bytes, weight: row.weight })
            }
            Op::Evict => Kind::Evict(offset),
            Op::Range => {
                let end = row.end_offset.map(Offset::from_i64).filter(|end| offset <= *end && *end <= seen);
                let end = end.ok_or_else(|| bad("has no range that was seen"))?;
                let limit = row.capacity.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(u64::MAX);
                let unit = row.capacity_unit.unwrap_or("records");
                let largest = Largest { limit, in_records: unit == "records", in_tokens: unit == "tokens" };
                Kind::Range(offset..end, largest)
            }
        };
        self.seen = seen;
        let end = row.end_offset.unwrap_or(-1);
        let what =
            [i64::from_le_bytes(self.last_digest().to_le_bytes()), op as i64, row.offset, end, row.seen];
        let what: Vec<u8> = what.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.digests.push(xxh3_64(&what));
        self.rows.push(Logged { change, seen });
        Ok(())
    }

    /// The shard of this name, with one allocation for a run of changes of one shard.
    fn shard(&mut self, name: &str) -> Result<Shard> {
        if self.shard.as_ref().is_none_or(|shard| shard.as_str() != name) {
            self.shard = Some(name.parse()?);
        }
        self.shard.clone().map_or_else(|| Ok(name.parse()?), Ok)
    }

    fn last_digest(&self) -> u64 {
        self.digests.last().copied().unwrap_or(0)
    }

    /// The newest revision whose policy had seen nothing from `limit` on; 0 for none.
    #[must_use]
    pub fn newest_within(&self, limit: Offset) -> Revision {
        Revision(self.rows.partition_point(|row| row.seen <= limit) as u64)
    }

    /// The members at `revision`: what remains when the rows up to it are applied to the empty set.
    ///
    /// # Errors
    /// [`ReplayError::NoRevision`] beyond the newest, [`ReplayError::Inconsistent`] if a member is admitted
    /// twice or a record is evicted that is not a member.
    pub fn members(&mut self, revision: Revision, index: &Index) -> Result<Arc<Members>> {
        if revision > self.newest() {
            let (buffer, newest) = (self.buffer.clone(), self.newest());
            return Err(ReplayError::NoRevision { buffer, asked: revision, newest });
        }
        if let Some(at) = self.snapshots.iter().position(|members| members.revision() == revision) {
            let members = self.snapshots.remove(at);
            self.snapshots.push(Arc::clone(&members));
            return Ok(members);
        }
        let last = usize::try_from(revision.0).unwrap_or(usize::MAX).checked_sub(1);
        if let Some(Kind::Range(range, largest)) =
            last.and_then(|last| self.rows.get(last)).map(|row| &row.change)
        {
            let members = self.of_range(revision, range, *largest, index);
            return Ok(self.keep(members));
        }
        let below = self.snapshots.iter().filter(|members| members.revision() < revision);
        let nearest = below.max_by_key(|members| members.revision()).map(Arc::clone);
        let from = nearest.unwrap_or_else(|| Arc::new(Members::none(self.chunk)));
        let members = self.replay(&from, revision)?;
        Ok(self.keep(members))
    }

    fn keep(&mut self, members: Members) -> Arc<Members> {
        let members = Arc::new(members);
        if self.snapshots.len() == SNAPSHOTS {
            self.snapshots.remove(0);
        }
        self.snapshots.push(Arc::clone(&members));
        members
    }

    /// The members of a range: also those that were erased since, so that older tickets keep their shape.
    fn of_range(
        &self,
        revision: Revision,
        range: &Range<Offset>,
        largest: Largest,
        index: &Index,
    ) -> Members {
        let records = index.range(range.start, range.end).filter(|record| largest.admits(record.bytes));
        let member = |record: RecordRef<'_>| Member {
            offset: record.offset,
            shard: record.shard.clone(),
            seq: record.seq,
            id: record.id,
            bytes: record.bytes,
            weight: None,
        };
        Members::new(revision, records.map(member).collect(), self.chunk)
    }

    /// The members at `to`, from the members at an earlier revision.
    fn replay(&self, from: &Members, to: Revision) -> Result<Members> {
        let index = |revision: Revision| usize::try_from(revision.0).unwrap_or(usize::MAX);
        let rows = self.rows.get(index(from.revision())..index(to)).unwrap_or(&[]);
        // For each record with a change: its member, or `None` if it was evicted.
        let mut touched: BTreeMap<Offset, Option<&Member>> = BTreeMap::new();
        for (number, row) in (from.revision().0 + 1..).zip(rows) {
            let (key, admitted) = match &row.change {
                Kind::Admit(member) => (member.offset, Some(member)),
                Kind::Evict(offset) => (*offset, None),
                Kind::Range(..) => continue,
            };
            let before = touched.get(&key).map_or_else(|| from.holds(key), Option::is_some);
            if before == admitted.is_some() {
                let verb = if before { "admits a member" } else { "evicts a record that is not a member" };
                let why = format!("revision {number} of buffer `{}` {verb}: offset {key}", self.buffer);
                return Err(ReplayError::Inconsistent { table: "buffers", why });
            }
            touched.insert(key, admitted);
        }
        let stay = from.list().iter().filter(|member| !touched.contains_key(&member.offset));
        let mut list: Vec<Member> = stay.chain(touched.values().copied().flatten()).cloned().collect();
        // Two sorted runs: merged in one pass.
        list.sort_by_key(|member| member.offset);
        Ok(Members::new(to, list, self.chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn row<'a>(revision: i64, op: &'a str, seq: i64, id: &'a [u8; 16], seen: i64) -> Row<'a> {
        Row {
            buffer: "main",
            revision,
            op,
            shard: "main",
            seq,
            offset: seq,
            end_offset: None,
            id: Some(id),
            bytes: Some(seq + 1),
            key: None,
            weight: None,
            class: None,
            capacity: None,
            capacity_unit: None,
            policy: "reservoir",
            policy_digest: "d",
            seen,
        }
    }

    /// A log that admits each of these records if it is not a member, and evicts it if it is.
    fn log(touches: &[i64]) -> (Log, Vec<BTreeSet<i64>>) {
        let mut log = Log::new("main", 8);
        let mut sets = vec![BTreeSet::new()];
        for (revision, seq) in (1..).zip(touches) {
            let mut set = sets.last().unwrap().clone();
            let op = if set.remove(seq) { "evict" } else { "admit" };
            if op == "admit" {
                set.insert(*seq);
            }
            log.push(&row(revision, op, *seq, &[1; 16], revision / 3)).unwrap();
            sets.push(set);
        }
        (log, sets)
    }

    proptest! {
        #[test]
        fn members_at_any_change_are_those_of_applying_every_row(
            touches in proptest::collection::vec(0_i64..12, 0..60),
            asked in proptest::collection::vec(0_usize..60, 1..30),
        ) {
            let (mut log, sets) = log(&touches);
            for revision in asked.into_iter().map(|revision| revision.min(touches.len())) {
                let members = log.members(Revision(revision as u64), &Index::new()).unwrap();
                prop_assert_eq!(members.revision(), Revision(revision as u64));
                let seqs: Vec<i64> = members.list().iter().map(|member| member.seq.to_i64()).collect();
                prop_assert_eq!(seqs, sets[revision].iter().copied().collect::<Vec<_>>());
            }
        }

        #[test]
        fn stays_of_a_record_are_the_revisions_whose_members_hold_it(touches in proptest::collection::vec(0_i64..12, 0..60), seq in 0_i64..12) {
            let (log, sets) = log(&touches);
            let stays = log.stays(Offset::from_i64(seq), 1);
            for (revision, set) in (0..).map(Revision).zip(&sets) {
                let held = stays.iter().any(|stay| stay.entered <= revision && stay.left.is_none_or(|left| revision < left));
                prop_assert_eq!(held, set.contains(&seq), "revision {}", revision);
            }
        }

        #[test]
        fn newest_within_is_that_of_a_scan(touches in proptest::collection::vec(0_i64..12, 0..60), upto in 0_u64..25) {
            let (log, _) = log(&touches);
            let allowed = (1..=touches.len() as u64).filter(|revision| revision / 3 <= upto).max();
            prop_assert_eq!(log.newest_within(Offset(upto)).0, allowed.unwrap_or(0));
        }
    }

    #[test]
    fn log_refuses_changes_that_cannot_follow() {
        let fill = || {
            let mut log = Log::new("main", 8);
            log.push(&row(1, "admit", 4, &[1; 16], 9)).unwrap();
            log
        };
        for (why, bad) in [
            ("gap", row(3, "admit", 5, &[1; 16], 9)),
            ("repeat", row(1, "admit", 5, &[1; 16], 9)),
            ("range", row(2, "range", 5, &[1; 16], 9)),
            ("word", row(2, "admitted", 5, &[1; 16], 9)),
            ("back", row(2, "admit", 5, &[1; 16], 8)),
        ] {
            assert!(fill().push(&bad).is_err(), "{why}");
        }
        for bad in [row(2, "admit", 4, &[1; 16], 9), row(2, "evict", 5, &[1; 16], 9)] {
            let mut log = fill();
            log.push(&bad).unwrap();
            assert!(log.members(Revision(2), &Index::new()).is_err());
        }
        assert!(matches!(fill().members(Revision(2), &Index::new()), Err(ReplayError::NoRevision { .. })));
    }
}
