//! Replay buffers: the records that are kept for replay, at each revision.
//!
//! A [`Policy`] decides, the `buffers` table stores its changes, a [`Log`] gives the members at any revision.
//! A policy is one file and one variant of [`PolicyConfig`].

mod capacity;
mod catalogue;
#[cfg(test)]
mod contract;
pub mod decay;
pub mod fifo;
pub mod keyed;
mod log;
mod members;
pub mod reservoir;

use std::fmt;
use std::sync::Arc;

use perennial_schemas::id::{Offset, RecordId, Seq, Shard};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::buffers::Op;
use xxhash_rust::xxh3::xxh3_128;

pub use capacity::Capacity;
pub use catalogue::PolicyConfig;
pub use log::Log;
pub use members::{Member, MemberChunk, Members};

/// A record that is offered to a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the order of the store.
    pub offset: Offset,
    /// Its shard.
    pub shard: Shard,
    /// Its seq in the shard.
    pub seq: Seq,
    /// The id of its text: a policy admits an id once.
    pub id: RecordId,
    /// Bytes of its text.
    pub bytes: u64,
}

/// A change that a policy makes to its buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// [`Op::Admit`] or [`Op::Evict`].
    pub op: Op,
    /// The record that is admitted or evicted.
    pub candidate: Candidate,
    /// The policy's key: records with larger keys stay longer.
    pub key: f64,
    /// Relative weight of each of its chunks in a draw; `None`: 1.
    pub weight: Option<f32>,
    /// The group that the policy assigned it to.
    pub class: Option<Arc<str>>,
}

/// Decides which records a buffer holds.
///
/// One thread calls it, with blocks in the order of the store, so that every policy has one history. Its state is a function of only its settings,
/// its seed and the blocks that it was offered.
pub trait Policy: Send + fmt::Debug {
    /// Offers one block, in the order of the store; appends the evictions, then the admissions, so that the
    /// capacity holds after every single change. The order of changes is part of the result.
    fn offer(&mut self, block: &[Candidate], changes: &mut Vec<Change>);
}

/// The settings of a policy, from which it is made.
pub trait PolicySettings: Send + Sync + fmt::Debug {
    /// The settings as canonical JSON, for digests.
    fn canonical(&self) -> String;

    /// The capacity of the buffer, if the policy has one.
    fn capacity(&self) -> Option<Capacity>;

    /// A policy with an empty buffer.
    fn policy(&self, seed: Seed) -> Box<dyn Policy>;
}

/// The configuration of a buffer.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// The policy's name.
    pub policy_name: &'static str,
    /// The settings.
    pub settings: Arc<dyn PolicySettings>,
}

impl Spec {
    /// The buffer of the table `[buffer.<name>]`.
    #[must_use]
    pub fn new(name: &str, config: &PolicyConfig) -> Self {
        let (policy_name, settings) = config.settings();
        Self { name: name.to_owned(), policy_name, settings }
    }

    /// The seed of this buffer's policy; it depends on the name, so that two reservoirs differ.
    #[must_use]
    pub fn seed(&self, seed: Seed) -> Seed {
        seed.child(&format!("buffer/{}", self.name))
    }

    /// A policy with an empty buffer; `seed` is the plan's.
    #[must_use]
    pub fn policy(&self, seed: Seed) -> Box<dyn Policy> {
        self.settings.policy(self.seed(seed))
    }

    /// Digest of everything except the store that determines this buffer's changes, 32 hexadecimal digits.
    #[must_use]
    pub fn digest(&self, seed: Seed, block: u64) -> String {
        let what =
            serde_json::json!([1, self.policy_name, self.settings.canonical(), self.seed(seed), block]);
        format!("{:032x}", xxh3_128(what.to_string().as_bytes()))
    }
}
