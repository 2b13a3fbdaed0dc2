//! k-center over a stream: the members are to lie as near as possible to every record seen, in the space of
//! ingest's embeddings.
//!
//! Among the members and what came, farthest first (Gonzalez 1985): each next member is the record that is the
//! farthest from all before it. It covers rare text; it does not keep the proportions of the stream.

use perennial_schemas::seed::Seed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embedded::{Embedded, Reader, Writer};
use super::{Block, Candidate, Capacity, Change, Dependence, Needs, Policy, PolicySettings, StateError};
use crate::herding::k_center::Centres;

/// Settings of a cover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Its capacity: a block costs about capacity^2 / 3 comparisons.
    pub capacity: Capacity,
}

impl Default for Settings {
    fn default() -> Self {
        Self { capacity: Capacity::Records(1_000) }
    }
}

impl PolicySettings for Settings {
    fn canonical(&self) -> String {
        serde_json::json!({ "capacity": self.capacity }).to_string()
    }

    fn capacity(&self) -> Option<Capacity> {
        Some(self.capacity)
    }

    fn needs(&self) -> Needs {
        Needs { embeddings: true }
    }

    fn dependence(&self) -> Dependence {
        Dependence::History
    }

    fn policy(&self, _: Seed) -> Box<dyn Policy> {
        Box::new(Cover(Embedded::new(self.capacity)))
    }
}

#[derive(Debug)]
struct Cover(Embedded);

impl Policy for Cover {
    fn offer(&mut self, block: &Block<'_>, changes: &mut Vec<Change>) {
        let usable = self.0.usable(block);
        let before = self.0.add(&usable);
        let count = self.0.members().len();
        let mut keep = vec![self.0.excess() == 0; count];
        if self.0.excess() > 0 {
            let most = (0..count).map(|row| self.0.size(row)).sum::<u128>() - self.0.excess();
            let mut used = 0;
            for row in Centres::new(self.0.rows(), &[]) {
                used += self.0.size(row);
                if used > most {
                    break;
                }
                keep[row] = true;
            }
        }
        self.0.retain(&keep, before, changes);
    }

    fn save(&self) -> Vec<u8> {
        let mut state = Writer::default();
        self.0.save(&mut state);
        state.0
    }

    fn load(&mut self, state: &[u8], members: &[Candidate]) -> Result<(), StateError> {
        self.0.load(&mut Reader(state), members)
    }
}
