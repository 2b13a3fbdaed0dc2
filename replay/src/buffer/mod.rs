//! Replay buffers: which records are kept for replay, and since which change.
//!
//! A [`Policy`] decides, the `buffers` table remembers, a [`Log`] gives the members at any change.
//! A policy is one file and one line of the [`CATALOGUE`].

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

use perennial_program::config::{ConfigError, Table};
use perennial_schemas::id::{RecordId, Seq, Shard};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::buffers::Op;
use xxhash_rust::xxh3::xxh3_128;

pub use capacity::Capacity;
pub use catalogue::{CATALOGUE, Entry};
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
pub struct Change {
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
    fn offer(&mut self, block: &[Candidate], changes: &mut Vec<Change>);
}

/// The settings of a policy: what makes one.
pub trait PolicyConfig: Send + Sync + fmt::Debug {
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
    /// The catalogue's entry.
    pub entry: &'static Entry,
    /// The settings.
    pub config: Arc<dyn PolicyConfig>,
}

impl Spec {
    /// Reads the table `[buffer.<name>]`: its key `policy` names the entry, the rest is that entry's.
    ///
    /// # Errors
    /// [`ConfigError`] for an unknown policy, and for all that is wrong with its settings.
    pub fn read(name: &str, table: &mut Table) -> Result<Self, ConfigError> {
        let entry = table.choose("policy", CATALOGUE, |entry| entry.name)?;
        Ok(Self { name: name.to_owned(), entry, config: (entry.read)(table)? })
    }

    /// The seed of this buffer's policy: another for each name, or two reservoirs would be one.
    #[must_use]
    pub fn seed(&self, seed: Seed) -> Seed {
        seed.child(&format!("buffer/{}", self.name))
    }

    /// A policy that was offered nothing yet; `seed` is the plan's.
    #[must_use]
    pub fn policy(&self, seed: Seed) -> Box<dyn Policy> {
        self.config.policy(self.seed(seed))
    }

    /// Digest of all that decides this buffer's changes beside the store, 32 hexadecimal digits.
    #[must_use]
    pub fn digest(&self, seed: Seed, block: u64) -> String {
        let what = serde_json::json!([1, self.entry.name, self.config.settings(), self.seed(seed), block]);
        format!("{:032x}", xxh3_128(what.to_string().as_bytes()))
    }
}
