//! What can go wrong in replay, by what the caller should do about it.

use perennial_program::config::ConfigError;
use perennial_program::error::{Fault, Kind};
use perennial_schemas::id::{IdError, Revision, Seq, Shard, Version};
use perennial_schemas::table::TableError;
use perennial_schemas::wire::{WIRE_FORMAT, WireError};
use perennial_store::StoreError;

use crate::tokenise::EncodeError;

/// A ticket that cannot be evaluated, a buffer that cannot be kept, or a store that says no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The ticket was issued under another config: its bytes would be others here.
    #[error("the ticket of step {step} of job `{job}` was issued under config `{ticket}`, not `{ours}`")]
    OtherConfig {
        /// The job.
        job: String,
        /// The step.
        step: u64,
        /// The ticket's digest.
        ticket: String,
        /// This plan's digest.
        ours: String,
    },
    /// A ticket that names what there is not, or lacks what it needs.
    #[error("the ticket of step {step} of job `{job}` cannot be evaluated: {why}")]
    Ticket {
        /// The job.
        job: String,
        /// The step.
        step: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A step that a job of this name was served before, under another config.
    #[error("job `{job}` was served step {step} before, under another config")]
    Served {
        /// The job.
        job: String,
        /// The step.
        step: u64,
    },
    /// A version of `records` that was not read yet, or never was.
    #[error("table `records` has no version {asked}: the newest that was read is {newest}")]
    NoVersion {
        /// The version asked for.
        asked: Version,
        /// The newest that was read.
        newest: Version,
    },
    /// A revision that a buffer has not reached.
    #[error("buffer `{buffer}` has no revision {asked}: its newest is {newest}")]
    NoRevision {
        /// The buffer.
        buffer: String,
        /// The revision asked for.
        asked: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The buffer's rows were written under another policy, capacity, seed or block size.
    #[error(
        "buffer `{buffer}` of the store was chosen by policy `{policy}` of digest `{found}`, not `{ours}`"
    )]
    OtherPolicy {
        /// The buffer.
        buffer: String,
        /// The policy that wrote it.
        policy: String,
        /// Its digest.
        found: String,
        /// The digest of this plan's policy.
        ours: String,
    },
    /// Rows of the store that contradict each other.
    #[error("table `{table}` is inconsistent: {why}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The contradiction, with its place.
        why: String,
    },
    /// A record that cannot be tokenised.
    #[error("record {seq} of shard `{shard}` cannot be tokenised")]
    Text {
        /// The record's shard.
        shard: Shard,
        /// Its place in the shard.
        seq: Seq,
        /// What the tokenizer said.
        source: EncodeError,
    },
    /// The tokenizer broke off.
    #[error("the tokenizer broke off")]
    Encoder(#[source] tokio::task::JoinError),
    /// A configuration that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A name or number that is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The store refused or could not be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A batch of the store that lacks its table's shape.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A ticket or batch that breaks the wire's rules.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What replay's functions return.
pub type Result<T, E = ReplayError> = std::result::Result<T, E>;

impl Fault for ReplayError {
    fn kind(&self) -> Kind {
        match self {
            Self::OtherConfig { .. } | Self::Served { .. } => Kind::Conflict,
            Self::Ticket { .. } => Kind::Input,
            Self::NoVersion { .. } | Self::NoRevision { .. } => Kind::NotFound,
            Self::OtherPolicy { .. } | Self::Text { .. } => Kind::Config,
            Self::Encoder(_) => Kind::Bug,
            Self::Inconsistent { .. } => Kind::Corrupt,
            Self::Config(error) => error.kind(),
            Self::Id(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Table(error) => error.kind(),
            Self::Wire(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::OtherConfig { .. } => Some(format!(
                "use the config (mix, buffers, packing, tokenizer, seed) that the job began with, in a release of wire format {WIRE_FORMAT}"
            )),
            Self::Served { .. } => {
                Some("give the job a name of its own, or the config that it began with".into())
            }
            Self::NoVersion { .. } | Self::NoRevision { .. } => {
                Some("read the store again: another process may be ahead of this one".into())
            }
            Self::OtherPolicy { buffer, .. } => Some(format!(
                "give the new settings a buffer of their own: rename `buffer.{buffer}` and its key in `mix`"
            )),
            Self::Config(error) => error.hint(),
            Self::Id(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Table(error) => error.hint(),
            Self::Wire(error) => error.hint(),
            Self::Text { source, .. } => Some(source.mend().into()),
            Self::Encoder(_) | Self::Ticket { .. } | Self::Inconsistent { .. } => None,
        }
    }
}
