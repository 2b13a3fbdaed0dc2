//! The newest text: the members are the records of the largest seq ([`super::keyed`]).
//!
//! Text that left is never replayed again: a control, and a window against a drift that repeats soon.

use std::sync::Arc;

use schemas::seed::Seed;
use serde::{Deserialize, Serialize};

use super::keyed::{Keyed, Keys};
use super::{Capacity, Entry, Policy, Recipe};
use crate::error::Result;

const NAME: &str = "fifo";

/// The catalogue's line.
pub const ENTRY: Entry = Entry {
    name: NAME,
    summary: "the newest text",
    paper: "the sliding window of stream learning",
    example: "policy = \"fifo\"\ncapacity = \"100000 records\"\n",
    read: |table| Ok(Arc::new(table.take::<Settings>()?)),
};

/// Settings of a window.
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

    fn policy(&self, _seed: Seed) -> Box<dyn Policy> {
        Box::new(Keyed::new(self.capacity, Keys::Newest))
    }

    fn restore(&self, _seed: Seed, state: &[u8]) -> Result<Box<dyn Policy>> {
        Ok(Box::new(Keyed::restore(NAME, self.capacity, Keys::Newest, state)?))
    }
}
