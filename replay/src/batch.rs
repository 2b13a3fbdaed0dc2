//! READ THIS FIRST. A ticket becomes a batch: a pure function of the ticket, the plan and what the
//! store holds at the versions that the ticket names.
//!
//! ```text
//! ticket --check--> rows --mix--> new text: fresh  \
//!                            \--> a buffer: draw  --> pieces of records --text--> pack --> batch
//! ```
//!
//! [`outline`] decides which tokens of which records go where; [`fill`] writes them. Who serves
//! fetches the texts in between, all at once. With bytes for tokens an outline needs no text at all;
//! with a subword tokenizer it may say which texts it needs to go on, and is asked again with them.
//! How often, and what was read beside, plays no part in what comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_schemas::id::{Seq, Shard, Step};
use perennial_schemas::wire::{Batch, BatchRow, Cursor, Ticket};

use crate::buffer::Members;
use crate::draw::{Drawn, Draws};
use crate::error::{ReplayError, Result};
use crate::fresh::{Held, Permutation, Reader};
use crate::index::{Index, Limits};
use crate::pack::{self, PlannedRow};
use crate::plan::{Plan, refused};
use crate::tokenise::Contents;

/// What a batch needs to know of the store, at the versions that its ticket names.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Kept records: at least those of the ticket's version.
    pub index: &'a Index,
    /// The first seq of each shard that the ticket's version of `records` does not have.
    pub limits: &'a Limits,
    /// The members of each buffer at the ticket's change.
    pub members: &'a BTreeMap<String, Arc<Members>>,
    /// In permuted order, the records in it, if they were sorted before.
    pub permutation: Option<&'a Arc<Permutation>>,
}

/// A batch before its text is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Its rows. New-text rows for which there was no text at all are not among them.
    pub rows: Vec<PlannedRow>,
    /// Where the new text of the next batch begins.
    pub after: Cursor,
    /// Tokens of new text that are in it.
    pub fresh: u64,
    /// Tokens of new text that would have to come to fill its rows.
    pub missing: u64,
}

impl Outline {
    /// The records whose text it needs, each once, in order.
    #[must_use]
    pub fn records(&self) -> Vec<(Shard, Seq)> {
        let pieces = self.rows.iter().flat_map(|row| &row.pieces);
        let places: BTreeSet<(Shard, Seq)> = pieces.map(|piece| (piece.shard.clone(), piece.seq)).collect();
        places.into_iter().collect()
    }
}

/// What came of an outline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlined {
    /// It is whole.
    Whole(Outline),
    /// Records whose text it needs first, none of which was read, at least one, in order.
    Unread(Vec<(Shard, Seq)>),
}

/// Which tokens of which records go where, as far as `contents`, what was read, goes.
///
/// # Errors
/// A ticket that the plan refuses ([`Plan::check`]), or whose cursor stands nowhere
/// ([`ReplayError::Ticket`]).
pub fn outline(ticket: &Ticket, plan: &Plan, view: View<'_>, contents: &Contents) -> Result<Outlined> {
    plan.check(ticket)?;
    let length = plan.length as u64;
    let mut fresh = Reader::new(plan, view.index, view.limits, view.permutation, &ticket.fresh, contents)
        .map_err(|why| refused(ticket, why))?;
    let mut outline = Outline { rows: Vec::new(), after: Cursor::new(), fresh: 0, missing: 0 };
    let mut unread = BTreeSet::new();
    let mut wanted = 0_u64;
    let end = ticket.row.saturating_add(u64::from(plan.rows));
    for row in ticket.row..end {
        if let Some(buffer) = plan.mix.buffer(row) {
            let members = members(ticket, view, buffer)?;
            let View { index, limits, .. } = view;
            let (job, tokenizer) = (ticket.seed, &plan.tokenizer);
            let draws = Draws { job, buffer, members, index, limits, tokenizer, contents };
            let pieces = match draws.row(row, length) {
                Drawn::Row(pieces) => pieces,
                Drawn::Unread(places) => {
                    unread.extend(places);
                    continue;
                }
            };
            if !pieces.is_empty() {
                outline.rows.push(PlannedRow { row, buffer: Some(buffer.to_owned()), pieces });
                continue;
            }
        }
        let pieces = fresh.take(length);
        let tokens = pieces.iter().map(|piece| piece.tokens).sum::<u64>();
        outline.fresh += tokens;
        // After a removed text there may be more, but not here: such a row is padding.
        match fresh.held() {
            None => outline.missing += length - tokens,
            Some(Held::Unread) => wanted += length - tokens,
            Some(Held::Removed) => {}
        }
        if !pieces.is_empty() || fresh.held() == Some(Held::Removed) {
            outline.rows.push(PlannedRow { row, buffer: None, pieces });
        }
    }
    outline.after.clone_from(fresh.cursor());
    if fresh.held() == Some(Held::Unread) {
        unread.extend(fresh.ahead(wanted));
    }
    if unread.is_empty() {
        return Ok(Outlined::Whole(outline));
    }
    Ok(Outlined::Unread(unread.into_iter().collect()))
}

/// The members of a buffer at the ticket's change.
fn members<'a>(ticket: &Ticket, view: View<'a>, buffer: &str) -> Result<&'a Members> {
    let asked = ticket.buffers.get(buffer).copied().unwrap_or_default();
    match view.members.get(buffer) {
        Some(members) if members.change() == asked => Ok(members),
        other => {
            let newest = other.map(|members| members.change()).unwrap_or_default();
            Err(ReplayError::NoChange { buffer: buffer.to_owned(), asked, newest })
        }
    }
}

/// Writes the tokens of an outline's records into a batch. What `contents` has not was removed.
///
/// # Errors
/// [`ReplayError::Inconsistent`] when a text is not as long as its record says.
pub fn fill(outline: &Outline, plan: &Plan, contents: &Contents) -> Result<Batch> {
    let row = |row| pack::fill(row, plan.length, &plan.tokenizer, contents);
    let rows: Vec<BatchRow> = outline.rows.iter().map(row).collect::<Result<_>>()?;
    Ok(Batch::from_rows(plan.length, &rows)?)
}

/// The ticket after one whose new text ended at `after`.
#[must_use]
pub fn following(ticket: &Ticket, plan: &Plan, after: Cursor) -> Ticket {
    Ticket {
        step: Step(ticket.step.0.saturating_add(1)),
        row: ticket.row.saturating_add(u64::from(plan.rows)),
        fresh: after,
        ..ticket.clone()
    }
}

#[cfg(test)]
mod tests;
