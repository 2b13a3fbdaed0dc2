//! The list of all policies; no other module names them all.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PolicySettings, decay, fifo, herding, k_center, reservoir};

/// Which records a buffer holds; the other keys of the table are those of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-tag" = "policy"))]
pub enum PolicyConfig {
    /// A uniform sample of all text seen, by keys.
    Reservoir(reservoir::Settings),
    /// The newest text: the members are the records of the largest offset.
    Fifo(fifo::Settings),
    /// A sample that decays with age: a record is half as likely to be a member for each half-life of
    /// readings that came after it.
    Decay(decay::Settings),
    /// Text whose mean in the space of embeddings is that of all text seen, and of each cluster of it.
    Herding(herding::Settings),
    /// Text that lies near every text seen in the space of embeddings.
    KCenter(k_center::Settings),
}

impl PolicyConfig {
    /// The policy of this name with its default settings.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(serde_json::json!({ name: {} })).ok()
    }

    /// The word in `policy = ".."`, and the settings behind it.
    #[must_use]
    pub fn settings(&self) -> (&'static str, Arc<dyn PolicySettings>) {
        match self {
            Self::Reservoir(settings) => ("reservoir", Arc::new(reservoir::of(settings.capacity))),
            Self::Fifo(settings) => ("fifo", Arc::new(fifo::of(settings.capacity))),
            Self::Decay(settings) => ("decay", Arc::new(settings.clone())),
            Self::Herding(settings) => ("herding", Arc::new(settings.clone())),
            Self::KCenter(settings) => ("k_center", Arc::new(settings.clone())),
        }
    }
}
