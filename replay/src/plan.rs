//! All that decides what a job reads, checked once: the config in the form the rest works with.

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

/// In which order new text comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As it was read: by seq, shards side by side.
    #[default]
    Stream,
    /// A keyed permutation of all kept records: what a model could learn without any drift. It is a
    /// ceiling to compare with, not a way to follow a stream: the store should be complete.
    Permuted,
}

/// How much of the stream a buffer may know when a batch is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Horizon {
    /// What the policy held when the stream stood where the job reads: nothing from its future,
    /// though the store may hold it already.
    #[default]
    Cursor,
    /// What the policy holds of all that is in the store.
    Store,
}

/// What a job reads and how. [`Plan::digest`] names all of it that reaches a batch.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of buffers, thinning and permutation, and the parent of every job's.
    pub seed: Seed,
    /// Rows of a batch.
    pub rows: u32,
    /// Tokens of a row: T.
    pub length: usize,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// In which order new text comes.
    pub order: Order,
    /// The share of new records that is used: those with unit(hash(id)) below it.
    pub keep: Share,
    /// The share of rows for each buffer.
    pub mix: Mix,
    /// Every buffer that is kept, by name; those of the mix are among them.
    pub buffers: BTreeMap<String, Spec>,
    /// How many seqs of a shard are offered to the policies at a time.
    pub block: u64,
    /// How much of the stream a buffer may know.
    pub horizon: Horizon,
    /// Whether a batch is issued though the stream has not enough new text to fill it.
    pub drain: bool,
}

impl Plan {
    /// Digest of everything here that a batch depends on beside the ticket and the store, 32
    /// hexadecimal digits.
    ///
    /// `horizon` and `drain` are not in it: they choose tickets, and a ticket that was issued stays
    /// what it is.
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

    /// The seed of a job's draws.
    #[must_use]
    pub fn job_seed(&self, job: &str) -> Seed {
        self.seed.child("job").child(job)
    }

    /// Refuses a ticket that this plan cannot give the bytes of.
    ///
    /// # Errors
    /// [`WireError::Format`], [`ReplayError::OtherConfig`] (the digests differ), or
    /// [`ReplayError::Ticket`] when it does not name a change of exactly the buffers of the mix.
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
                format!("it names changes of {named:?}, the mix draws from {drawn:?}"),
            ));
        }
        Ok(())
    }
}

/// A [`ReplayError::Ticket`] about this ticket.
pub(crate) fn refused(ticket: &Ticket, why: String) -> ReplayError {
    ReplayError::Ticket { job: ticket.job.clone(), step: ticket.step.0, why }
}
