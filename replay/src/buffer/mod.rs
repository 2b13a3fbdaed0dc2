//! Replay buffers: which records are kept for replay, and since which change.
//!
//! A [`Policy`] decides, the `buffers` table remembers, a [`Log`] gives the members at any change.
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

use perennial_schemas::id::{RecordId, Seq, Shard};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::buffers::Op;
use xxhash_rust::xxh3::xxh3_128;

pub use capacity::Capacity;
pub use catalogue::PolicyConfig;
pub use log::{Log, Seen, seen_to_json};
pub use members::{Member, Members};

/// A record as a policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its shard.
    pub shard: Shard,
    /// Its place in the shard.
    pub seq: Seq,
    /// The id of its text: a policy counts an id once.
    pub id: RecordId,
    /// Bytes of its text.
    pub bytes: u64,
}

/// What a policy does to its buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// [`Op::Admit`] or [`Op::Evict`].
    pub op: Op,
    /// The record that enters or leaves.
    pub candidate: Candidate,
    /// The policy's key: larger stays longer.
    pub key: f64,
    /// Relative draw weight; `None` means by its byte tokens. A policy sets it for all members or none.
    pub weight: Option<f32>,
    /// The group the policy put it in.
    pub class: Option<Arc<str>>,
}

/// Decides which records a buffer holds.
///
/// Called by one thread, with blocks in the order of the store. Its state is a function of its
/// settings, its seed and the blocks it was offered, and of nothing else.
pub trait Policy: Send + fmt::Debug {
    /// Offers one block, in the order of its seq; appends what leaves, then what enters, so that
    /// the capacity holds after every single change. The order of changes is part of the result.
    fn offer(&mut self, block: &[Candidate], changes: &mut Vec<Delta>);
}

/// The settings of a policy: what makes one.
pub trait Recipe: Send + Sync + fmt::Debug {
    /// The settings as canonical JSON, for digests.
    fn settings(&self) -> String;

    /// How much the buffer may hold, where the policy has a limit.
    fn capacity(&self) -> Option<Capacity>;

    /// A policy that was offered nothing yet.
    fn policy(&self, seed: Seed) -> Box<dyn Policy>;
}

/// A buffer as the config asks for it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// The policy's name.
    pub policy_name: &'static str,
    /// The settings.
    pub recipe: Arc<dyn Recipe>,
}

impl Spec {
    /// The buffer of the table `[buffer.<name>]`.
    #[must_use]
    pub fn new(name: &str, config: &PolicyConfig) -> Self {
        let (policy_name, recipe) = config.recipe();
        Self { name: name.to_owned(), policy_name, recipe }
    }

    /// The seed of this buffer's policy: another for each name, or two reservoirs would be one.
    #[must_use]
    pub fn seed(&self, seed: Seed) -> Seed {
        seed.child(&format!("buffer/{}", self.name))
    }

    /// A policy that was offered nothing yet; `seed` is the plan's.
    #[must_use]
    pub fn policy(&self, seed: Seed) -> Box<dyn Policy> {
        self.recipe.policy(self.seed(seed))
    }

    /// Digest of all that decides this buffer's changes beside the store, 32 hexadecimal digits.
    #[must_use]
    pub fn digest(&self, seed: Seed, block: u64) -> String {
        let what = serde_json::json!([1, self.policy_name, self.recipe.settings(), self.seed(seed), block]);
        format!("{:032x}", xxh3_128(what.to_string().as_bytes()))
    }
}
