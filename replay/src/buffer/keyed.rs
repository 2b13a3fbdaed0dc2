//! Policies that keep the records of the largest keys: what a key is, is the policy's only choice.
//!
//! A key is a function of the record and the seed alone, so the members are a function of the *set* seen:
//! order of arrival, number of shards and splits into blocks change nothing. With the capacity in bytes
//! or tokens the members are the longest prefix of the descending keys whose sizes sum to at most the
//! capacity. The first record that does not fit ends the prefix, even if a smaller one behind it would
//! fit: so a record that is out stays out. Every key but the largest of those left out (the bar) can be
//! forgotten. A record larger than the whole capacity counts for nothing: or it would keep out all
//! below it and never be a member.
//!
//! Cost: a key a record, and O(log m) for those above the bar.

use std::collections::{BTreeMap, BTreeSet};

use perennial_schemas::id::RecordId;
use perennial_schemas::seed::{Seed, unit};
use perennial_schemas::table::buffers::Op;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Candidate, Capacity, Delta, Policy, Recipe};

/// What a record's key is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keys {
    /// hash(seed, id): a uniform sample.
    Uniform(Seed),
    /// seq: the newest.
    Newest,
    /// rate * seq - ln(-ln u), u = hash(seed, id): a sample that decays with age and is never rescaled.
    Decay {
        /// What u is drawn under.
        seed: Seed,
        /// ln 2 / half-life, per reading.
        rate: f64,
    },
}

/// The whole of the order: the key's rank, and the id where two agree.
type Key = (u64, RecordId);

impl Keys {
    fn of(self, candidate: &Candidate) -> Key {
        let rank = match self {
            Self::Uniform(seed) => seed.hash(candidate.id.as_bytes()),
            Self::Newest => candidate.seq.0,
            Self::Decay { seed, rate } => {
                let gumbel = -(-unit(seed.hash(candidate.id.as_bytes())).ln()).ln();
                rank_of(rate * candidate.seq.0 as f64 + gumbel)
            }
        };
        (rank, candidate.id)
    }

    /// The key as the `key` column has it.
    fn value(self, key: Key) -> f64 {
        match self {
            Self::Uniform(_) => unit(key.0),
            Self::Newest => key.0 as f64,
            Self::Decay { .. } => value_of(key.0),
        }
    }
}

/// A number in the order of f64 (`f64::total_cmp`).
const fn rank_of(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The inverse of [`rank_of`].
const fn value_of(rank: u64) -> f64 {
    f64::from_bits(if rank >> 63 == 1 { rank & !(1 << 63) } else { !rank })
}

/// A policy that is told nothing but how much it holds.
#[derive(Debug, Clone)]
pub struct Sample {
    capacity: Capacity,
    keys: fn(Seed) -> Keys,
}

/// Its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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

impl Sample {
    /// The policy whose keys are `keys` of the buffer's seed.
    #[must_use]
    pub const fn new(capacity: Capacity, keys: fn(Seed) -> Keys) -> Self {
        Self { capacity, keys }
    }
}

impl Recipe for Sample {
    fn settings(&self) -> String {
        serde_json::json!({ "capacity": self.capacity }).to_string()
    }

    fn capacity(&self) -> Option<Capacity> {
        Some(self.capacity)
    }

    fn policy(&self, seed: Seed) -> Box<dyn Policy> {
        Box::new(Keyed::new(self.capacity, (self.keys)(seed)))
    }
}

/// The records of the largest keys.
#[derive(Debug)]
pub struct Keyed {
    keys: Keys,
    capacity: Capacity,
    members: BTreeMap<Key, Candidate>,
    ids: BTreeSet<RecordId>,
    used: u128,
    /// The largest key that is not a member: nothing below it can ever enter.
    bar: Option<Key>,
}

impl Keyed {
    /// One that was offered nothing yet.
    #[must_use]
    pub const fn new(capacity: Capacity, keys: Keys) -> Self {
        Self { keys, capacity, members: BTreeMap::new(), ids: BTreeSet::new(), used: 0, bar: None }
    }

    /// Puts in a record that is no member; the smallest keys leave until the rest fits.
    fn insert(&mut self, candidate: Candidate) -> Vec<(Key, Candidate)> {
        self.used += u128::from(self.capacity.size(&candidate));
        self.ids.insert(candidate.id);
        self.members.insert(self.keys.of(&candidate), candidate);
        let mut out = Vec::new();
        while self.used > u128::from(self.capacity.limit()) {
            let Some((key, smallest)) = self.members.pop_first() else { break };
            self.used -= u128::from(self.capacity.size(&smallest));
            self.ids.remove(&smallest.id);
            self.bar = self.bar.max(Some(key));
            out.push((key, smallest));
        }
        out
    }
}

impl Policy for Keyed {
    fn offer(&mut self, block: &[Candidate], changes: &mut Vec<Delta>) {
        // Whoever enters and leaves within the block leaves no trace.
        let mut entered = BTreeSet::new();
        let mut left = Vec::new();
        for candidate in block {
            let key = self.keys.of(candidate);
            if self.capacity.size(candidate) > self.capacity.limit()
                || self.bar.is_some_and(|bar| key <= bar)
                || self.ids.contains(&candidate.id)
            {
                continue;
            }
            entered.insert(key);
            for (key, out) in self.insert(candidate.clone()) {
                if !entered.remove(&key) {
                    left.push((key, out));
                }
            }
        }
        let keys = self.keys;
        let delta = |op, key: Key, candidate| Delta {
            op,
            candidate,
            key: keys.value(key),
            weight: None,
            class: None,
        };
        changes.extend(left.into_iter().map(|(key, candidate)| delta(Op::Evict, key, candidate)));
        let stay = entered.iter().filter_map(|key| Some((*key, self.members.get(key)?)));
        let mut stay: Vec<(Key, &Candidate)> = stay.collect();
        stay.sort_by(|(_, a), (_, b)| (a.seq, &a.shard).cmp(&(b.seq, &b.shard)));
        changes.extend(stay.into_iter().map(|(key, candidate)| delta(Op::Admit, key, candidate.clone())));
    }
}

#[cfg(test)]
mod tests;
