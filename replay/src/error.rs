//! The errors of replay.

use perennial_program::config::ConfigError;
use perennial_program::error::{Kind, ProgramError};
use perennial_schemas::id::{IdError, Offset, Revision, Seq, Shard, Step};
use perennial_schemas::table::TableError;
use perennial_schemas::wire::{WIRE_FORMAT, WireError};
use perennial_store::StoreError;

use crate::tokenise::EncodeError;

/// An error of replay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The ticket was issued under another configuration, which would give another batch.
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
    /// A ticket is invalid or incomplete.
    #[error("the ticket of step {step} of job `{job}` cannot be evaluated: {why}")]
    Ticket {
        /// The job.
        job: String,
        /// The step.
        step: u64,
        /// The reason.
        why: String,
    },
    /// Settings of a job that no batch can have.
    #[error("the job's `{key}` {why}")]
    Settings {
        /// The setting.
        key: &'static str,
        /// The reason.
        why: String,
    },
    /// A ticket draws from a buffer that has another policy here.
    #[error(
        "the ticket of step {step} of job `{job}` draws from buffer `{buffer}` with the policy of digest `{ticket}`, not `{ours}`"
    )]
    Drawn {
        /// The job.
        job: String,
        /// The step.
        step: u64,
        /// The buffer.
        buffer: String,
        /// The ticket's digest.
        ticket: String,
        /// The digest of this plan's policy.
        ours: String,
    },
    /// The job stands elsewhere before this step.
    #[error("job `{job}` was served step {step} before, from another position of the stream")]
    Elsewhere {
        /// The job.
        job: String,
        /// The step.
        step: Step,
    },
    /// Rows that the batches of a job do not have.
    #[error("step {step} of job `{job}` has {rows} rows, not {first} to {end}")]
    Rows {
        /// The job.
        job: String,
        /// The step.
        step: Step,
        /// The first row that was asked for.
        first: u32,
        /// The row after the last one.
        end: u32,
        /// Number of rows.
        rows: u32,
    },
    /// The job has ended.
    #[error("job `{job}` has ended: step {end} and later ones will not be")]
    Ended {
        /// The job.
        job: String,
        /// The step after the last one.
        end: Step,
    },
    /// A step that is too far from the decided ones.
    #[error("step {step} of job `{job}` is too far ahead: steps before {end} are decided")]
    Far {
        /// The job.
        job: String,
        /// The step.
        step: Step,
        /// The step after the last decided one.
        end: Step,
    },
    /// A step from before the job began.
    #[error("job `{job}` began after step {step}")]
    Before {
        /// The job.
        job: String,
        /// The step.
        step: Step,
    },
    /// A job that does not exist.
    #[error("there is no job `{job}`")]
    NoJob {
        /// The job.
        job: String,
    },
    /// A job of this name exists.
    #[error("there is a job `{job}` already")]
    Taken {
        /// The job.
        job: String,
    },
    /// The stream does not have the steps that are to be left out.
    #[error("the text of {steps} steps of job `{job}` cannot be left out: the stream has {had} now")]
    TooShort {
        /// The job.
        job: String,
        /// The steps.
        steps: u64,
        /// Those that the stream has.
        had: u64,
    },
    /// A part of the order that does not exist or was not read yet.
    #[error("the order does not reach offset {asked}: it was read up to {newest}")]
    NoOffset {
        /// The requested limit.
        asked: Offset,
        /// The limit that was read.
        newest: Offset,
    },
    /// A revision that a buffer has not reached.
    #[error("buffer `{buffer}` has no revision {asked}: its newest is {newest}")]
    NoRevision {
        /// The buffer.
        buffer: String,
        /// The requested revision.
        asked: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// A buffer that the config does not have.
    #[error("the config has no buffer `{buffer}`: it has {}", known.join(", "))]
    NoBuffer {
        /// The buffer.
        buffer: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A record that the store does not have.
    #[error("no record of the store is `{asked}`; it was read up to offset {limit}")]
    NoRecord {
        /// What was asked for.
        asked: String,
        /// The limit that was read.
        limit: Offset,
    },
    /// A buffer that is not what its policy makes of the records.
    #[error("buffer `{buffer}` is not what its policy makes of the records: {why}")]
    Unverified {
        /// The buffer.
        buffer: String,
        /// The first difference.
        why: String,
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
    /// Rows of the store are inconsistent.
    #[error("table `{table}` is inconsistent: {why}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The inconsistency and its position.
        why: String,
    },
    /// A record cannot be tokenised.
    #[error("record {seq} of shard `{shard}` cannot be tokenised")]
    Text {
        /// The record's shard.
        shard: Shard,
        /// Its seq in the shard.
        seq: Seq,
        /// The tokenizer's error.
        source: EncodeError,
    },
    /// The tokenizer's task failed.
    #[error("the tokenizer's task failed")]
    Encoder(#[source] tokio::task::JoinError),
    /// The task that writes a view failed.
    #[error("the task that writes a view failed")]
    Writer(#[source] tokio::task::JoinError),
    /// A segment of the index cannot be made.
    #[error("a segment of the index cannot be made")]
    Segment(#[from] crate::index::SegmentError),
    /// The task that writes the index failed.
    #[error("the task that writes the index failed")]
    Index(#[source] tokio::task::JoinError),
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A name or number is invalid.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The store failed or cannot be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A batch of the store does not match its table's schema.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A ticket or batch is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The result type of replay.
pub type Result<T, E = ReplayError> = std::result::Result<T, E>;

impl ProgramError for ReplayError {
    fn kind(&self) -> Kind {
        match self {
            Self::OtherConfig { .. }
            | Self::Drawn { .. }
            | Self::Elsewhere { .. }
            | Self::Ended { .. }
            | Self::Taken { .. } => Kind::Conflict,
            Self::NoBuffer { .. }
            | Self::Rows { .. }
            | Self::Ticket { .. }
            | Self::Settings { .. }
            | Self::Far { .. }
            | Self::TooShort { .. } => Kind::Input,
            Self::NoOffset { .. }
            | Self::NoRevision { .. }
            | Self::NoRecord { .. }
            | Self::Before { .. }
            | Self::NoJob { .. } => Kind::NotFound,
            Self::OtherPolicy { .. } | Self::Text { .. } => Kind::Config,
            Self::Encoder(_) | Self::Writer(_) | Self::Index(_) | Self::Segment(_) => Kind::Bug,
            Self::Inconsistent { .. } | Self::Unverified { .. } => Kind::Corrupt,
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
                "use the config (seed, tokenizer, tokens of a row) that the job started with, in a release of wire format {WIRE_FORMAT}"
            )),
            Self::Drawn { .. } => Some("give the buffer the settings that the job started with".into()),
            Self::Elsewhere { .. } => {
                Some("choose another name for the new job, or `perennial-replay jobs fork` this one".into())
            }
            Self::Ended { .. } => Some("fork it to go on: `perennial-replay jobs fork`".into()),
            Self::Far { .. } => Some("ask for the steps in order".into()),
            Self::NoJob { .. } => Some("list the jobs: `perennial-replay jobs list`".into()),
            Self::Taken { .. } => Some("choose another name".into()),
            Self::TooShort { .. } => Some("leave fewer steps out, or wait for more text".into()),
            Self::NoOffset { .. } | Self::NoRevision { .. } => {
                Some("read the store again: another process may be ahead of this one".into())
            }
            Self::NoBuffer { .. } => Some("name one of these, or none for all".into()),
            Self::NoRecord { .. } => {
                Some("`perennial-replay draws --job JOB` prints the ids of records".into())
            }
            Self::Unverified { .. } => Some(
                "check the store; a buffer of another name, with the same settings, is made from the records"
                    .into(),
            ),
            Self::OtherPolicy { buffer, .. } => Some(format!(
                "give the buffer with the new settings another name: rename `buffer.{buffer}` and its key in `mix`"
            )),
            Self::Config(error) => error.hint(),
            Self::Id(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Table(error) => error.hint(),
            Self::Wire(error) => error.hint(),
            Self::Text { source, .. } => Some(source.hint().into()),
            Self::Encoder(_)
            | Self::Writer(_)
            | Self::Index(_)
            | Self::Segment(_)
            | Self::Ticket { .. }
            | Self::Rows { .. }
            | Self::Settings { .. }
            | Self::Before { .. }
            | Self::Inconsistent { .. } => None,
        }
    }
}
