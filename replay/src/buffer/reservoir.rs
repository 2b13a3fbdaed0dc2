//! A uniform sample of all text seen, by keys.
//!
//! Every id has the key hash(seed, id); the members are those of the largest keys ([`super::keyed`]).
//! Order of arrival, number of shards and splits into blocks change nothing, and two samples of one
//! seed merge: all of which algorithms R and L (Vitter 1985, Li 1994), which draw as records arrive,
//! cannot say. With the capacity counted in records each of n records seen is a member with
//! probability m/n.

use std::sync::Arc;

use schemas::seed::Seed;
use serde::{Deserialize, Serialize};

use super::keyed::{Keyed, Keys};
use super::{Capacity, Entry, Policy, Recipe};
use crate::error::Result;

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
        Box::new(Keyed::new(self.capacity, Keys::Uniform(seed)))
    }

    fn restore(&self, seed: Seed, state: &[u8]) -> Result<Box<dyn Policy>> {
        Ok(Box::new(Keyed::restore(NAME, self.capacity, Keys::Uniform(seed), state)?))
    }
}
