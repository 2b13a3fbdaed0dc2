//! What can end an ingest run before its sources end.

use perennial_program::error::{Kind, ProgramError};
use perennial_schemas::table::TableError;
use perennial_store::StoreError;

use crate::block::Tally;
use crate::dedup::held_out::HeldOutError;
use crate::source::SourceError;

/// Why a run ended early. Everything before it is committed, except with [`IngestError::Store`] and
/// [`IngestError::Table`]: then the last commit counts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The configuration is invalid.
    #[error("`{key}` {why}")]
    Config {
        /// The dotted key.
        key: String,
        /// Why.
        why: String,
    },
    /// A source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A batch of rows does not have the shape of its table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table's rows and its transactions tell different positions.
    #[error(
        "the store contradicts itself: `{transaction}` is {said}, but the rows of shard `{shard}` say {found}"
    )]
    Positions {
        /// The shard.
        shard: String,
        /// The application transaction.
        transaction: String,
        /// Its number.
        said: String,
        /// The number that the rows have.
        found: u64,
    },
    /// The held-out texts cannot be read.
    #[error(transparent)]
    HeldOut(#[from] HeldOutError),
    /// Another shard reads the file already.
    #[error("another shard of this store has read `{file}` of a source named `{source_name}`")]
    Taken {
        /// The source's name.
        source_name: String,
        /// The file.
        file: String,
    },
    /// Readings were lost or duplicated between source and commit.
    #[error("the tally of a block does not balance: {tally:?}, rows {rows:?}")]
    Unbalanced {
        /// What the stages counted.
        tally: Tally,
        /// What the rows are.
        rows: Tally,
    },
    /// A thread cannot be started.
    #[error("cannot start the thread `{name}`")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A stage panicked.
    #[error("stage `{name}` failed: {message}")]
    Stage {
        /// The stage.
        name: &'static str,
        /// The message of its panic.
        message: String,
    },
}

impl ProgramError for IngestError {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } => Kind::Config,
            Self::Source(error) => error.kind(),
            Self::HeldOut(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Table(error) => error.kind(),
            Self::Positions { .. } => Kind::Corrupt,
            Self::Taken { .. } => Kind::Conflict,
            Self::Thread { .. } => Kind::Unavailable,
            Self::Unbalanced { .. } | Self::Stage { .. } => Kind::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.hint(),
            Self::HeldOut(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Table(error) => error.hint(),
            Self::Taken { .. } => Some("give this shard's source another `name`, or other files".to_owned()),
            Self::Positions { .. } => Some(
                "keep a copy of the store before anything writes to it; `check` lists what else does not hold"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
