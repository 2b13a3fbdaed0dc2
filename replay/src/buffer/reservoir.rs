//! A uniform sample of all text seen, by keys.
//!
//! Every id has the key hash(seed, id); the members are those of the largest keys. Order of arrival,
//! number of shards and splits into blocks change nothing, and two samples of one seed merge: all
//! of which algorithms R and L (Vitter 1985, Li 1994), which draw as records arrive, cannot say.
//! With the capacity counted in records each of n records seen is a member with probability m/n.
//!
//! With the capacity in bytes or tokens the members are the longest prefix of the descending keys
//! whose sizes sum to at most the capacity. The first record that does not fit ends the prefix, even
//! if a smaller one behind it would fit: so membership is a function of the *set* seen, and a
//! record that is out stays out. Every key but that of the largest record left out (the bar) can
//! be forgotten.
//!
//! Cost: a hash a record, and O(log m) for those above the bar. It looks at nothing but id and size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemas::id::RecordId;
use schemas::seed::{Seed, unit};
use schemas::table::buffers::Op;
use serde::{Deserialize, Serialize};

use super::{Candidate, Capacity, Delta, Entry, Policy, Recipe};
use crate::error::{ReplayError, Result};

const NAME: &str = "reservoir";

/// The catalogue's line.
pub const ENTRY: Entry = Entry {
    name: NAME,
    summary: "a uniform sample of all text seen, the same in any order of arrival",
    paper: "Vitter 1985; keys as in Efraimidis, Spirakis 2006 with equal weights",
    example: "policy = \"reservoir\"\ncapacity = \"100000 records\"\n",
    read: |table| Ok(Arc::new(table.take::<Settings>()?)),
};

/// Settings of a reservoir.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// How much it holds.
    pub capacity: Capacity,
}

impl Default for Settings {
    fn default() -> Self {
        Self { capacity: Capacity::Records(100_000) }
    }
}

impl Recipe for Settings {
    fn settings(&self) -> String {
        serde_json::json!({ "capacity": self.capacity }).to_string()
    }

    fn capacity(&self) -> Option<Capacity> {
        Some(self.capacity)
    }

    fn policy(&self, seed: Seed) -> Box<dyn Policy> {
        Box::new(Reservoir::new(self.capacity, seed))
    }

    fn restore(&self, seed: Seed, state: &[u8]) -> Result<Box<dyn Policy>> {
        let state: State =
            serde_json::from_slice(state).map_err(|source| ReplayError::State { policy: NAME, source })?;
        let mut reservoir = Reservoir::new(self.capacity, seed);
        reservoir.bar = state.bar.map(|id| reservoir.key(&id));
        for member in state.members {
            reservoir.insert(member);
        }
        Ok(Box::new(reservoir))
    }
}

/// The whole of the order: the hash, and the id where two hashes agree.
type Key = (u64, RecordId);

/// What [`Policy::state`] saves; keys follow from the seed.
#[derive(Serialize, Deserialize)]
struct State {
    bar: Option<RecordId>,
    members: Vec<Candidate>,
}

#[derive(Debug)]
struct Reservoir {
    seed: Seed,
    capacity: Capacity,
    members: BTreeMap<Key, Candidate>,
    used: u128,
    /// The largest key that is not a member: nothing below it can ever enter.
    bar: Option<Key>,
}

impl Reservoir {
    const fn new(capacity: Capacity, seed: Seed) -> Self {
        Self { seed, capacity, members: BTreeMap::new(), used: 0, bar: None }
    }

    fn key(&self, id: &RecordId) -> Key {
        (self.seed.hash(id.as_bytes()), *id)
    }

    /// Puts in a record that is no member; the smallest keys leave until the rest fits.
    fn insert(&mut self, candidate: Candidate) -> Vec<(Key, Candidate)> {
        self.used += u128::from(self.capacity.size(&candidate));
        self.members.insert(self.key(&candidate.id), candidate);
        let mut out = Vec::new();
        while self.used > u128::from(self.capacity.limit()) {
            let Some((key, smallest)) = self.members.pop_first() else { break };
            self.used -= u128::from(self.capacity.size(&smallest));
            self.bar = self.bar.max(Some(key));
            out.push((key, smallest));
        }
        out
    }
}

impl Policy for Reservoir {
    fn offer(&mut self, block: &[Candidate], changes: &mut Vec<Delta>) {
        // Whoever enters and leaves within the block leaves no trace.
        let mut entered = BTreeSet::new();
        let mut left = Vec::new();
        for candidate in block {
            let key = self.key(&candidate.id);
            if self.bar.is_some_and(|bar| key <= bar) || self.members.contains_key(&key) {
                continue;
            }
            entered.insert(key);
            for (key, out) in self.insert(candidate.clone()) {
                if !entered.remove(&key) {
                    left.push((key, out));
                }
            }
        }
        let delta =
            |op, key: Key, candidate| Delta { op, candidate, key: unit(key.0), weight: None, class: None };
        changes.extend(left.into_iter().map(|(key, candidate)| delta(Op::Evict, key, candidate)));
        let stay = entered.iter().filter_map(|key| Some((*key, self.members.get(key)?)));
        let mut stay: Vec<(Key, &Candidate)> = stay.collect();
        stay.sort_by(|(_, a), (_, b)| (a.seq, &a.shard).cmp(&(b.seq, &b.shard)));
        changes.extend(stay.into_iter().map(|(key, candidate)| delta(Op::Admit, key, candidate.clone())));
    }

    fn state(&self) -> Vec<u8> {
        let state =
            State { bar: self.bar.map(|(_, id)| id), members: self.members.values().cloned().collect() };
        // Strings and numbers only: nothing in it can fail to serialise.
        serde_json::to_vec(&state).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use schemas::id::Seq;

    fn candidate(seq: u64, bytes: u64) -> Candidate {
        Candidate {
            shard: "main".parse().unwrap(),
            seq: Seq(seq),
            id: RecordId::from_hash(seq.into()),
            bytes,
        }
    }

    fn members(capacity: Capacity, seed: Seed, seen: &[Candidate]) -> BTreeSet<RecordId> {
        let mut reservoir = Reservoir::new(capacity, seed);
        reservoir.offer(seen, &mut Vec::new());
        reservoir.members.values().map(|member| member.id).collect()
    }

    /// The definition: sort all, take while it fits.
    fn twin(capacity: Capacity, seed: Seed, seen: &[Candidate]) -> BTreeSet<RecordId> {
        let mut all: Vec<&Candidate> = seen.iter().collect();
        all.sort_by_key(|one| std::cmp::Reverse((seed.hash(one.id.as_bytes()), one.id)));
        let mut used = 0;
        let fits = |one: &&&Candidate| {
            used += capacity.size(one);
            used <= capacity.limit()
        };
        all.iter().take_while(fits).map(|one| one.id).collect()
    }

    proptest! {
        #[test]
        fn members_are_those_of_the_definition(
            sizes in proptest::collection::vec(0_u64..40, 0..60),
            limit in 0_u64..300,
            unit in 0..3,
            seed: u64,
        ) {
            let capacity = match unit {
                0 => Capacity::Records(limit / 8),
                1 => Capacity::Bytes(schemas::program::config::Bytes::new(limit)),
                _ => Capacity::Tokens(limit),
            };
            let seed = Seed::new(seed);
            let seen: Vec<Candidate> = (0..).zip(&sizes).map(|(seq, bytes)| candidate(seq, *bytes)).collect();
            let expected = twin(capacity, seed, &seen);
            prop_assert_eq!(&members(capacity, seed, &seen), &expected);
            let backwards: Vec<Candidate> = seen.into_iter().rev().collect();
            prop_assert_eq!(&members(capacity, seed, &backwards), &expected);
        }
    }

    #[test]
    fn every_record_is_equally_likely_to_be_a_member() {
        let (n, m, runs) = (40_u64, 10_u64, 4_000_u64);
        let seen: Vec<Candidate> = (0..n).map(|seq| candidate(seq, 1)).collect();
        let mut counts = vec![0_u64; usize::try_from(n).unwrap()];
        for run in 0..runs {
            for id in members(Capacity::Records(m), Seed::new(run), &seen) {
                counts[usize::try_from(id.as_hash()).unwrap()] += 1;
            }
        }
        let expected = (runs * m / n) as f64;
        let variance = expected * (1.0 - m as f64 / n as f64);
        let chi: f64 = counts.iter().map(|count| (*count as f64 - expected).powi(2) / variance).sum();
        // Scaled by (n-1)/n it is chi-square with 39 degrees of freedom: 72.1 is the 0.1 % point.
        assert!(chi * (n as f64 - 1.0) / (n as f64) < 72.1, "{chi}");
    }
}
