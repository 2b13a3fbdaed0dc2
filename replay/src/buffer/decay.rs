//! A sample that decays with age: for each half-life of later readings, a record is half as likely to be a
//! member.
//!
//! Forward decay (Cormode, Shkapenyuk, Srivastava, Xu 2009) with the keys of Efraimidis and Spirakis (2006)
//! in Gumbel form: the key lambda * offset - ln(-ln u), u = hash(seed, id), is never rescaled, and the members
//! are the records of the largest keys ([`super::keyed`]), for any order of arrival.

use perennial_schemas::seed::Seed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keyed::{Keyed, Keys};
use super::{Capacity, Policy, PolicySettings};

/// Settings of a decaying sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Its capacity.
    pub capacity: Capacity,
    /// Readings after which a record's probability is halved; 0 is read as 1.
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

impl PolicySettings for Settings {
    fn canonical(&self) -> String {
        serde_json::json!({ "capacity": self.capacity, "half_life": self.half_life }).to_string()
    }

    fn capacity(&self) -> Option<Capacity> {
        Some(self.capacity)
    }

    fn policy(&self, seed: Seed) -> Box<dyn Policy> {
        Box::new(Keyed::new(self.capacity, self.keys(seed)))
    }
}
