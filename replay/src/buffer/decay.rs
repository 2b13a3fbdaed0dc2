//! A sample that decays with age: a record is half as likely to be a member for each half-life of
//! readings that came after it.
//!
//! Forward decay (Cormode, Shkapenyuk, Srivastava, Xu 2009) with the keys of Efraimidis and Spirakis
//! (2006) in Gumbel form: the key lambda * seq - ln(-ln u), u = hash(seed, id), is never rescaled, and the
//! members are those of the largest keys ([`super::keyed`]), in any order of arrival.

use perennial_schemas::seed::Seed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keyed::{Keyed, Keys};
use super::{Capacity, Policy, Recipe};

/// Settings of a decaying sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// How much it holds.
    pub capacity: Capacity,
    /// After how many readings of its shard a record's chance is half; 0 counts as 1.
    pub half_life: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { capacity: Capacity::Records(100_000), half_life: 1_000_000 }
    }
}

impl Settings {
    fn keys(&self, seed: Seed) -> Keys {
        Keys::Decay { seed, rate: std::f64::consts::LN_2 / self.half_life.max(1) as f64 }
    }
}

impl Recipe for Settings {
    fn settings(&self) -> String {
        serde_json::json!({ "capacity": self.capacity, "half_life": self.half_life }).to_string()
    }

    fn capacity(&self) -> Option<Capacity> {
        Some(self.capacity)
    }

    fn policy(&self, seed: Seed) -> Box<dyn Policy> {
        Box::new(Keyed::new(self.capacity, self.keys(seed)))
    }
}
