//! The messages of the replay API: the ticket that names a batch, and the batch.
//!
//! A [`Ticket`] determines a batch bit for bit, on any machine and after any restart: it is the
//! whole input of `replay::batch` beside the store. It names no version of Delta, so it outlives
//! compaction, vacuum and the clean-up of logs. Its JSON (keys in the order below) is its form
//! on the wire and in `views`.

mod batch;
mod build;
mod digest;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{Offset, Revision, Step};
use crate::seed::Seed;
use perennial_program::error::{Kind, ProgramError};

pub use batch::{Batch, Span};
pub use build::{BatchBuilder, BatchRow, Piece};

/// The version of ticket and batch that this program speaks. It changes whenever the same ticket
/// would give other bytes.
pub const WIRE_FORMAT: u32 = 4;

/// Where reading of new text goes on: token `token` of the reading at `offset`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// In stream order the first reading not wholly delivered; in permuted order the record read last, also
    /// where all of it was.
    pub offset: Offset,
    /// Tokens of that record already delivered (its boundary token counts as one). In permuted order 0
    /// stands for the start of the order.
    pub token: u64,
}

/// The tokens of a drawn chunk that did not fit into a row and are not delivered yet. It names everything that is
/// needed to deliver them, whatever becomes of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawRest {
    /// The record.
    pub offset: Offset,
    /// The first of the tokens in the record.
    pub first: u64,
    /// Their number, at least 1.
    pub tokens: u64,
    /// The odds of the draw.
    pub odds: Odds,
}

/// The probability of a draw, as integers: JSON keeps them exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Odds {
    /// The weight of the chunk.
    pub weight: u64,
    /// The sum of the weights of all chunks of the buffer.
    pub total: u64,
}

impl Odds {
    /// The probability, 0 to 1.
    #[must_use]
    pub fn probability(self) -> f64 {
        if self.total == 0 { 0.0 } else { self.weight as f64 / self.total as f64 }
    }
}

/// Where a job's draws from one buffer go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawPlace {
    /// The number of the next draw.
    pub draw: u64,
    /// What is left of the last one, and comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<DrawRest>,
}

/// Where a job's batches go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Rows that the job was served: row k is replayed iff floor((k+1)r) > floor(kr).
    #[serde(default)]
    pub row: u64,
    /// Where its new text goes on.
    #[serde(default)]
    pub new_text: Cursor,
    /// Where its draws go on, by buffer; a buffer that is absent begins at draw 0.
    #[serde(default)]
    pub draws: BTreeMap<String, DrawPlace>,
}

/// The order of new text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The order of the store.
    #[default]
    Stream,
    /// A keyed permutation of all kept records: training without drift. It is a bound for comparisons, not a
    /// way to follow a stream; the store should be complete.
    Permuted,
}

/// Shares are integers in these parts of 1, so that the rows of a buffer are counted exactly.
pub const WHOLE: u64 = 1_000_000_000;

/// What may differ between the views of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Rows of a batch.
    pub rows: u32,
    /// The order of new text.
    pub order: Order,
    /// The share of new records to use, in billionths.
    pub keep: u64,
    /// The share of rows drawn from each buffer, in billionths: each above 0, together at most [`WHOLE`].
    pub mix: BTreeMap<String, u64>,
}

/// A buffer that a ticket draws from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawnBuffer {
    /// Its revision.
    pub revision: Revision,
    /// Digest of its policy with its settings and seed, 32 hexadecimal digits.
    pub policy: String,
}

/// Names one batch: evaluated against the store it gives the same bytes for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// [`WIRE_FORMAT`] of the program that issued it.
    pub format: u32,
    /// The job it was issued to.
    pub job: String,
    /// The optimiser step it feeds.
    pub step: Step,
    /// The first offset that the batch may not depend on.
    pub limit: Offset,
    /// The job's settings at this step.
    pub settings: Settings,
    /// The buffers of the mix.
    pub buffers: BTreeMap<String, DrawnBuffer>,
    /// Digest of everything in the config that reaches a batch and never changes in a job, 32 hexadecimal
    /// digits.
    pub config: String,
    /// The seed of the job's draws.
    pub seed: Seed,
    /// Where its rows, its new text and its draws begin.
    pub from: Position,
}

/// A ticket or batch that is not one.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not the JSON of a ticket.
    #[error("invalid ticket")]
    Ticket(#[source] serde_json::Error),
    /// A ticket or batch of another format.
    #[error("format {found} of the replay API is not {WIRE_FORMAT}, the one this program speaks")]
    Format {
        /// Its format.
        found: u32,
    },
    /// A batch that breaks a rule of its shape or content.
    #[error("batch of step {step} is malformed: {why}")]
    Batch {
        /// Its step where known.
        step: String,
        /// The rule it breaks.
        why: String,
    },
    /// Arrow refused its columns.
    #[error("cannot assemble a batch")]
    Arrow(#[from] arrow::error::ArrowError),
}

impl ProgramError for WireError {
    fn kind(&self) -> Kind {
        match self {
            Self::Ticket(_) | Self::Format { .. } | Self::Batch { .. } => Kind::Input,
            Self::Arrow(_) => Kind::Bug,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Format { .. } => {
                Some("run the same release of perennial-replay and perennial-train".into())
            }
            _ => None,
        }
    }
}

impl Ticket {
    /// Its bytes on the wire: compact JSON, keys in the struct's order.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Only maps with non-string keys or failing Serialize impls can fail; a ticket has neither.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a ticket from the wire.
    ///
    /// # Errors
    /// [`WireError::Ticket`] for anything but a ticket's JSON, [`WireError::Format`] for another format.
    pub fn from_json(json: &[u8]) -> Result<Self, WireError> {
        /// What the tickets of every format have.
        #[derive(Deserialize)]
        struct AnyTicket {
            format: u32,
        }
        // The format first: a ticket of another one may have other keys.
        let AnyTicket { format } = serde_json::from_slice(json).map_err(WireError::Ticket)?;
        if format != WIRE_FORMAT {
            return Err(WireError::Format { found: format });
        }
        serde_json::from_slice(json).map_err(WireError::Ticket)
    }
}

#[cfg(test)]
mod tests;
