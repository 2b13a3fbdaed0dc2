//! The newest text: the members are the kept records of a range of the order, the last ones that fit.
//!
//! It goes by the order of the store, so it does not matter which shard read a record. Evicted text is never replayed
//! again: a control, and a sliding window for drift that recurs soon. Its log has one row for each block, however
//! many records come and go. It is the one policy that may hold a text twice, if two shards have it. A record larger
//! than the whole capacity is passed over. A record that was erased is padding until it leaves the range.

use std::collections::VecDeque;

use perennial_schemas::id::Offset;
use perennial_schemas::seed::Seed;

use super::{Block, Candidate, Capacity, Change, Policy, PolicySettings, StateError};

pub use super::keyed::Settings;

/// A window of a capacity.
#[derive(Debug, Clone, Copy)]
pub struct Fifo {
    capacity: Capacity,
}

/// A window of this capacity.
#[must_use]
pub const fn of(capacity: Capacity) -> Fifo {
    Fifo { capacity }
}

impl PolicySettings for Fifo {
    fn canonical(&self) -> String {
        serde_json::json!({ "capacity": self.capacity }).to_string()
    }

    fn capacity(&self) -> Option<Capacity> {
        Some(self.capacity)
    }

    fn policy(&self, _: Seed) -> Box<dyn Policy> {
        Box::new(Window { capacity: self.capacity, members: VecDeque::new(), used: 0 })
    }
}

/// The members, the oldest first.
#[derive(Debug)]
struct Window {
    capacity: Capacity,
    members: VecDeque<Sized>,
    used: u128,
}

#[derive(Debug, Clone, Copy)]
struct Sized {
    offset: Offset,
    size: u64,
}

impl Window {
    fn push(&mut self, candidate: &Candidate) {
        let size = self.capacity.size(candidate);
        if size > self.capacity.limit() {
            return;
        }
        self.members.push_back(Sized { offset: candidate.offset, size });
        self.used += u128::from(size);
        while self.used > u128::from(self.capacity.limit()) {
            let Some(oldest) = self.members.pop_front() else { break };
            self.used -= u128::from(oldest.size);
        }
    }

    /// The offset of the newest member.
    fn newest(&self) -> Option<Offset> {
        self.members.back().map(|newest| newest.offset)
    }
}

impl Policy for Window {
    fn offer(&mut self, block: &Block<'_>, changes: &mut Vec<Change>) {
        let before = self.newest();
        block.candidates.iter().for_each(|candidate| self.push(candidate));
        if self.newest() != before {
            let from = self.members.front().map_or(block.end, |oldest| oldest.offset);
            changes.push(Change::Range(from..block.end));
        }
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, _: &[u8], members: &[Candidate]) -> Result<(), StateError> {
        (self.members, self.used) = (VecDeque::new(), 0);
        members.iter().for_each(|candidate| self.push(candidate));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_schemas::id::{RecordId, Seq};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn members_are_the_last_that_fit(sizes in proptest::collection::vec(0_u64..60, 0..60), limit in 0_u64..150, block in 1_usize..9) {
            let capacity = Capacity::Bytes(perennial_program::config::Bytes::new(limit));
            let all: Vec<Candidate> = (0_u64..).zip(&sizes).map(|(offset, bytes)| Candidate {
                offset: Offset(offset),
                shard: "a".parse().unwrap(),
                seq: Seq(offset),
                id: RecordId::from_hash(offset.into()),
                bytes: *bytes,
            }).collect();
            let mut policy = of(capacity).policy(Seed::new(0));
            let mut range = Offset(0)..Offset(0);
            for candidates in all.chunks(block) {
                let mut changes = Vec::new();
                let end = candidates.last().unwrap().offset.next();
                policy.offer(&Block { candidates, embeddings: &[], end }, &mut changes);
                prop_assert!(changes.len() <= 1);
                if let Some(Change::Range(now)) = changes.pop() {
                    range = now;
                }
                let members: Vec<u64> = all.iter().filter(|one| range.contains(&one.offset) && one.bytes <= limit).map(|one| one.offset.0).collect();
                // From the newest on, as long as they fit.
                let mut used = 0;
                let fits = |one: &&Candidate| { used += one.bytes; used <= limit };
                let mut expected: Vec<u64> = all[..end.0 as usize].iter().rev().filter(|one| one.bytes <= limit).take_while(fits).map(|one| one.offset.0).collect();
                expected.reverse();
                prop_assert_eq!(members, expected);
            }
        }
    }
}
