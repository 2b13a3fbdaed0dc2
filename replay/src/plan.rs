//! The reading plan: the checked configuration that determines what a job reads.

use std::collections::BTreeMap;

use perennial_program::config::Share;
use perennial_schemas::seed::Seed;
use perennial_schemas::text::NORMAL_FORM;
pub use perennial_schemas::wire::Order;
use perennial_schemas::wire::{Settings, Ticket, WHOLE, WIRE_FORMAT, WireError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::buffer::Spec;
use crate::error::{ReplayError, Result};
use crate::mix::{self, Mix};
use crate::tokenise::Tokenizer;

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
    /// Digest of everything in the plan that a batch depends on and that never changes in a job, in addition
    /// to the ticket and the store; 32 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        let what = serde_json::json!({
            "wire": WIRE_FORMAT,
            "normal_form": NORMAL_FORM,
            "seed": self.seed,
            "length": self.length,
            "tokenizer": self.tokenizer.hash(),
        });
        format!("{:032x}", xxh3_128(what.to_string().as_bytes()))
    }

    /// The settings of a job that begins.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let (keep, mix) = (mix::billionths(self.keep), self.mix.shares().clone());
        Settings { rows: self.rows, order: self.order, keep, mix }
    }

    /// The digest of a buffer's policy; `None` if the plan does not have the buffer.
    #[must_use]
    pub fn policy_digest(&self, buffer: &str) -> Option<String> {
        Some(self.buffers.get(buffer)?.digest(self.seed, self.block))
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

    /// Refuses settings that no batch of this plan can have; their mix.
    ///
    /// # Errors
    /// [`ReplayError::Settings`].
    pub fn check_settings(&self, settings: &Settings) -> Result<Mix> {
        let wrong = |key: &'static str, why: String| ReplayError::Settings { key, why };
        if !(1..=MOST).contains(&settings.rows) {
            return Err(wrong("rows", format!("is {}, not from 1 to {MOST}", settings.rows)));
        }
        if settings.keep > WHOLE {
            return Err(wrong("keep", format!("is {} billionths, which is more than 1", settings.keep)));
        }
        if let Some((name, _)) = settings.mix.iter().find(|(_, share)| **share == 0) {
            return Err(wrong("mix", format!("gives `{name}` a share of 0: leave it out")));
        }
        if let Some(name) = settings.mix.keys().find(|name| !self.buffers.contains_key(*name)) {
            let known: Vec<String> = self.buffers.keys().map(|name| format!("`{name}`")).collect();
            return Err(wrong("mix", format!("names `{name}`: the config has {}", known.join(", "))));
        }
        let mix = Mix::of(&settings.mix).map_err(|error| wrong("mix", format!("cannot be: {error}")))?;
        if settings.order == Order::Permuted
            && self.visible_until == VisibleUntil::Cursor
            && !settings.mix.is_empty()
        {
            let why = "is `permuted`, and such a job has no position in the stream: replay then needs \
                       `follow.visible_until = \"store\"`";
            return Err(wrong("order", why.to_owned()));
        }
        Ok(mix)
    }

    /// Refuses a ticket that this plan cannot evaluate; its mix.
    ///
    /// # Errors
    /// [`WireError::Format`], [`ReplayError::OtherConfig`] (the digests differ), [`ReplayError::Drawn`] (a
    /// buffer has another policy here), or [`ReplayError::Ticket`] if its settings cannot be, or it does not
    /// name a revision of exactly the buffers of its mix.
    pub fn check(&self, ticket: &Ticket) -> Result<Mix> {
        if ticket.format != WIRE_FORMAT {
            return Err(WireError::Format { found: ticket.format }.into());
        }
        let ours = self.digest();
        if ticket.config != ours {
            let (job, step, theirs) = (ticket.job.clone(), ticket.step.0, ticket.config.clone());
            return Err(ReplayError::OtherConfig { job, step, ticket: theirs, ours });
        }
        let settings = Settings { order: Order::Stream, ..ticket.settings.clone() };
        let mix = self.check_settings(&settings).map_err(|error| match error {
            ReplayError::Settings { key, why } => refused(ticket, format!("its `settings.{key}` {why}")),
            other => other,
        })?;
        if !ticket.buffers.keys().eq(ticket.settings.mix.keys()) {
            let named: Vec<&str> = ticket.buffers.keys().map(String::as_str).collect();
            let drawn: Vec<&str> = mix.buffers().collect();
            return Err(refused(
                ticket,
                format!("it names revisions of {named:?}, its mix draws from {drawn:?}"),
            ));
        }
        for (name, drawn) in &ticket.buffers {
            let ours = self.policy_digest(name).unwrap_or_default();
            if drawn.policy != ours {
                let (buffer, theirs) = (name.clone(), drawn.policy.clone());
                let (job, step) = (ticket.job.clone(), ticket.step.0);
                return Err(ReplayError::Drawn { job, step, buffer, ticket: theirs, ours });
            }
        }
        Ok(mix)
    }
}

/// The maximum number of rows of a batch, and of tokens of a row.
pub const MOST: u32 = 1 << 20;

/// A [`ReplayError::Ticket`] about this ticket.
pub(crate) fn refused(ticket: &Ticket, why: String) -> ReplayError {
    ReplayError::Ticket { job: ticket.job.clone(), step: ticket.step.0, why }
}
