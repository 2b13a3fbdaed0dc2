//! The reading plan: the checked configuration that determines what a job reads.

use std::collections::BTreeMap;

use perennial_program::config::Share;
use perennial_schemas::seed::Seed;
use perennial_schemas::text::NORMAL_FORM;
use perennial_schemas::wire::{Ticket, WIRE_FORMAT, WireError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::buffer::Spec;
use crate::error::{ReplayError, Result};
use crate::mix::Mix;
use crate::tokenise::Tokenizer;

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

/// The part of the stream that a buffer may have seen when a batch is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VisibleUntil {
    /// The stream up to the job's position: no text from the job's future, even if the store already has it.
    #[default]
    Cursor,
    /// The whole store.
    Store,
}

/// What a job reads and how. [`Plan::digest`] covers every part that affects a batch.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of buffers, thinning and permutation, and the parent of every job's.
    pub seed: Seed,
    /// Rows of a batch.
    pub rows: u32,
    /// Tokens of a row: T.
    pub length: usize,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The order of new text.
    pub order: Order,
    /// The share of new records to use: those with unit(hash(offset)) below it.
    pub keep: Share,
    /// The share of rows of each buffer.
    pub mix: Mix,
    /// Every buffer, by name, including those of the mix.
    pub buffers: BTreeMap<String, Spec>,
    /// Offsets of the order that are offered to the policies at a time.
    pub block: u64,
    /// The part of the stream that a buffer may have seen.
    pub visible_until: VisibleUntil,
    /// Whether a batch is issued even if the stream does not have enough new text to fill it.
    pub drain: bool,
}

impl Plan {
    /// Digest of everything in the plan that a batch depends on, in addition to the ticket and the store; 32
    /// hexadecimal digits.
    ///
    /// It excludes `visible_until` and `drain`: they affect which tickets are issued, not the batch of a
    /// ticket.
    #[must_use]
    pub fn digest(&self) -> String {
        let buffers: BTreeMap<&str, String> = self
            .mix
            .buffers()
            .filter_map(|name| Some((name, self.buffers.get(name)?.digest(self.seed, self.block))))
            .collect();
        let what = serde_json::json!({
            "wire": WIRE_FORMAT,
            "normal_form": NORMAL_FORM,
            "seed": self.seed,
            "rows": self.rows,
            "length": self.length,
            "tokenizer": self.tokenizer.hash(),
            "order": self.order,
            "keep": self.keep,
            "mix": self.mix,
            "buffers": buffers,
        });
        format!("{:032x}", xxh3_128(what.to_string().as_bytes()))
    }

    /// The most byte tokens of a chunk, the unit of draws: with bytes for tokens a row. A token of a subword
    /// tokenizer has about four bytes; in chunks smaller than passages few would have a token.
    #[must_use]
    pub const fn chunk(&self) -> u64 {
        const LEAST: u64 = 2048;
        match self.tokenizer {
            Tokenizer::Bytes => self.length as u64,
            Tokenizer::Subword(_) if (self.length as u64) < LEAST / 4 => LEAST,
            Tokenizer::Subword(_) => 4 * self.length as u64,
        }
    }

    /// The seed of a job's draws.
    #[must_use]
    pub fn job_seed(&self, job: &str) -> Seed {
        self.seed.child("job").child(job)
    }

    /// Refuses a ticket that this plan cannot evaluate.
    ///
    /// # Errors
    /// [`WireError::Format`], [`ReplayError::OtherConfig`] (the digests differ), or [`ReplayError::Ticket`]
    /// if it does not name a revision of exactly the buffers of the mix.
    pub fn check(&self, ticket: &Ticket) -> Result<()> {
        if ticket.format != WIRE_FORMAT {
            return Err(WireError::Format { found: ticket.format }.into());
        }
        let ours = self.digest();
        if ticket.config != ours {
            let (job, step, theirs) = (ticket.job.clone(), ticket.step.0, ticket.config.clone());
            return Err(ReplayError::OtherConfig { job, step, ticket: theirs, ours });
        }
        if !ticket.buffers.keys().map(String::as_str).eq(self.mix.buffers()) {
            let named: Vec<&str> = ticket.buffers.keys().map(String::as_str).collect();
            let drawn: Vec<&str> = self.mix.buffers().collect();
            return Err(refused(
                ticket,
                format!("it names revisions of {named:?}, the mix draws from {drawn:?}"),
            ));
        }
        if let Some(name) = ticket.from.draws.keys().find(|name| !ticket.buffers.contains_key(*name)) {
            return Err(refused(
                ticket,
                format!("it has a place in the draws from `{name}`, and no revision of it"),
            ));
        }
        Ok(())
    }
}

/// A [`ReplayError::Ticket`] about this ticket.
pub(crate) fn refused(ticket: &Ticket, why: String) -> ReplayError {
    ReplayError::Ticket { job: ticket.job.clone(), step: ticket.step.0, why }
}
