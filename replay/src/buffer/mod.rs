//! Replay buffers: the records that are kept for replay, at each revision.
//!
//! A [`Policy`] decides, the `buffers` table stores its changes, a [`Log`] gives the members at any revision.
//! A policy is one file and one variant of [`PolicyConfig`].

mod capacity;
mod catalogue;
#[cfg(test)]
mod contract;
pub mod decay;
mod embedded;
pub mod fifo;
pub mod herding;
pub mod k_center;
pub mod keyed;
mod log;
mod members;
pub mod reservoir;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use perennial_schemas::id::{Offset, RecordId, Seq, Shard};
use perennial_schemas::seed::Seed;
use xxhash_rust::xxh3::xxh3_128;

pub use capacity::Capacity;
pub use catalogue::PolicyConfig;
pub use log::{Log, LogChange, Stay};
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

impl From<&Member> for Candidate {
    fn from(member: &Member) -> Self {
        let Member { offset, seq, id, bytes, .. } = *member;
        Self { offset, shard: member.shard.clone(), seq, id, bytes }
    }
}

/// A record with what a policy says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The record.
    pub candidate: Candidate,
    /// The policy's key: records with larger keys stay longer.
    pub key: f64,
    /// Relative weight of each of its chunks in a draw; `None`: 1.
    pub weight: Option<f32>,
    /// The group that the policy assigned it to.
    pub class: Option<Arc<str>>,
}

/// A change that a policy makes to its buffer.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A record becomes a member.
    Admit(Judged),
    /// A member leaves.
    Evict(Judged),
    /// The members are the kept records with these offsets, without those larger than the capacity: one row
    /// where many records come and go. A policy makes only such changes, or none.
    Range(Range<Offset>),
}

/// An embedding of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embedding<'a> {
    /// What made it: only vectors of one embedder are comparable.
    pub embedder: &'a str,
    /// The vector.
    pub values: &'a [f32],
}

/// What a policy is offered at a time.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The kept records in the order of the store.
    pub candidates: &'a [Candidate],
    /// The embedding of each that has one. Empty for a policy that does not [need](Needs) them.
    pub embeddings: &'a [Option<Embedding<'a>>],
    /// The offset after the block.
    pub end: Offset,
}

/// What a policy needs to know of a record in addition to [`Candidate`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its embedding.
    pub embeddings: bool,
}

/// On what the members of a buffer depend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// On the set of records seen: not on their order, or the split into blocks.
    Set,
    /// On the history of blocks.
    History,
}

/// A saved state that does not belong to a policy.
#[derive(Debug, thiserror::Error)]
#[error("not the state of such a policy: {0}")]
pub struct StateError(pub String);

/// Decides which records a buffer holds.
///
/// One thread calls it, with blocks in the order of the store, so that every policy has one history. Its state is a function of only its settings,
/// its seed and the blocks that it was offered.
pub trait Policy: Send + fmt::Debug {
    /// Offers one block, in the order of the store; appends the evictions, then the admissions, so that the
    /// capacity holds after every single change. The order of changes is part of the result.
    fn offer(&mut self, block: &Block<'_>, changes: &mut Vec<Change>);

    /// What its state is beside its members.
    fn save(&self) -> Vec<u8>;

    /// Goes on from a state that was saved when these were the members, in the order of the store.
    ///
    /// # Errors
    /// [`StateError`]; the policy is of no use then.
    fn load(&mut self, state: &[u8], members: &[Candidate]) -> Result<(), StateError>;

    /// Why a record that it was offered is a member or not, in words, where it can tell from the record.
    fn reason(&self, _: &Candidate) -> Option<String> {
        None
    }
}

/// The settings of a policy, from which it is made.
pub trait PolicySettings: Send + Sync + fmt::Debug {
    /// The settings as canonical JSON, for digests.
    fn canonical(&self) -> String;

    /// The capacity of the buffer, if the policy has one.
    fn capacity(&self) -> Option<Capacity>;

    /// What it needs to know of a record.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// On what its members depend.
    fn dependence(&self) -> Dependence {
        Dependence::Set
    }

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
