//! Policies that keep the records of the largest keys; they differ only in the definition of the key.
//!
//! A key is a function of only the record and the seed, so the members are a function of the *set* seen: the
//! order of arrival, the number of shards and the split into blocks do not matter. With a capacity in bytes
//! or tokens the members are the longest prefix of the records by descending key whose sizes sum to at most
//! the capacity. The first record that does not fit ends the prefix, even if a smaller one after it would
//! fit, so an excluded record never becomes a member later. Of the excluded keys only the largest one (the
//! bar) is stored. A record larger than the whole capacity is ignored: otherwise it would exclude all records
//! with smaller keys without being a member itself.
//!
//! Cost: one key per record, and O(log m) for each record above the bar.

use std::collections::{BTreeMap, BTreeSet};

use perennial_schemas::id::RecordId;
use perennial_schemas::seed::{Seed, unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Block, Candidate, Capacity, Change, Judged, Policy, PolicySettings, StateError};

/// The definition of a record's key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keys {
    /// hash(seed, id): a uniform sample.
    Uniform(Seed),
    /// rate * offset - ln(-ln u), u = hash(seed, id): a sample that decays with age, never rescaled.
    Decay {
        /// The seed of u.
        seed: Seed,
        /// ln 2 / half-life, per reading.
        rate: f64,
    },
}

/// The sort order: the key's rank, then the id.
type Key = (u64, RecordId);

impl Keys {
    fn key(self, candidate: &Candidate) -> Key {
        let rank = match self {
            Self::Uniform(seed) => seed.hash(candidate.id.as_bytes()),
            Self::Decay { seed, rate } => {
                let gumbel = -(-unit(seed.hash(candidate.id.as_bytes())).ln()).ln();
                rank_of(rate * candidate.offset.0 as f64 + gumbel)
            }
        };
        (rank, candidate.id)
    }

    /// The key's value in the `key` column.
    fn value(self, key: Key) -> f64 {
        match self {
            Self::Uniform(_) => unit(key.0),
            Self::Decay { .. } => value_of(key.0),
        }
    }
}

/// An integer with the same order as the number (`f64::total_cmp`).
const fn rank_of(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The inverse of [`rank_of`].
const fn value_of(rank: u64) -> f64 {
    f64::from_bits(if rank >> 63 == 1 { rank & !(1 << 63) } else { !rank })
}

/// A policy whose only setting is its capacity.
#[derive(Debug, Clone)]
pub struct Sample {
    capacity: Capacity,
    keys: fn(Seed) -> Keys,
}

/// Its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Its capacity.
    pub capacity: Capacity,
}

impl Default for Settings {
    fn default() -> Self {
        Self { capacity: Capacity::Records(100_000) }
    }
}

impl Sample {
    /// The policy with the keys `keys(seed)` of the buffer's seed.
    #[must_use]
    pub const fn new(capacity: Capacity, keys: fn(Seed) -> Keys) -> Self {
        Self { capacity, keys }
    }
}

impl PolicySettings for Sample {
    fn canonical(&self) -> String {
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
    /// The largest excluded key: no record with a smaller one can become a member.
    bar: Option<Key>,
}

impl Keyed {
    /// An empty sample.
    #[must_use]
    pub const fn new(capacity: Capacity, keys: Keys) -> Self {
        Self { keys, capacity, members: BTreeMap::new(), ids: BTreeSet::new(), used: 0, bar: None }
    }

    /// Inserts a record that is not a member; evicts the smallest keys until the rest fits.
    fn insert(&mut self, candidate: Candidate) -> Vec<(Key, Candidate)> {
        self.used += u128::from(self.capacity.size(&candidate));
        self.ids.insert(candidate.id);
        self.members.insert(self.keys.key(&candidate), candidate);
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
    fn offer(&mut self, block: &Block<'_>, changes: &mut Vec<Change>) {
        // A record that is admitted and evicted within the block causes no change.
        let mut entered = BTreeSet::new();
        let mut left = Vec::new();
        for candidate in block.candidates {
            let key = self.keys.key(candidate);
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
        let judged =
            |key: Key, candidate| Judged { candidate, key: keys.value(key), weight: None, class: None };
        changes.extend(left.into_iter().map(|(key, candidate)| Change::Evict(judged(key, candidate))));
        let stay = entered.iter().filter_map(|key| Some((*key, self.members.get(key)?)));
        let mut stay: Vec<(Key, &Candidate)> = stay.collect();
        stay.sort_by_key(|(_, candidate)| candidate.offset);
        changes
            .extend(stay.into_iter().map(|(key, candidate)| Change::Admit(judged(key, candidate.clone()))));
    }

    fn save(&self) -> Vec<u8> {
        let bar = self.bar.map(|(rank, id)| (rank, id.to_string()));
        serde_json::to_vec(&bar).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8], members: &[Candidate]) -> Result<(), StateError> {
        let bar: Option<(u64, String)> =
            serde_json::from_slice(state).map_err(|error| StateError(error.to_string()))?;
        let parse = |(rank, id): (u64, String)| {
            Ok::<_, StateError>((rank, id.parse().map_err(|error| StateError(format!("{error}")))?))
        };
        *self = Self { bar: bar.map(parse).transpose()?, ..Self::new(self.capacity, self.keys) };
        for candidate in members {
            if !self.insert(candidate.clone()).is_empty() {
                return Err(StateError("its members are above the capacity".to_owned()));
            }
        }
        Ok(())
    }

    fn reason(&self, candidate: &Candidate) -> Option<String> {
        let key = self.keys.key(candidate);
        let value = self.keys.value(key);
        Some(match self.bar {
            None => format!("its key is {value:.6}, and no record was left out yet"),
            Some(bar) if key <= bar => {
                format!(
                    "its key {value:.6} is not above {:.6}, the largest that was left out",
                    self.keys.value(bar)
                )
            }
            Some(bar) => {
                format!(
                    "its key {value:.6} is above {:.6}, the largest that was left out",
                    self.keys.value(bar)
                )
            }
        })
    }
}

#[cfg(test)]
mod tests;
