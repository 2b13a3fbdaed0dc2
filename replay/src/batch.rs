//! READ THIS FIRST. A ticket becomes a batch: a pure function of the ticket, the plan and what the
//! store holds below the ticket's limit in the order.
//!
//! ```text
//! ticket --check--> rows --mix--> new text: new_text  \
//!                            \--> a buffer: draw  --> segments of records --text--> pack --> batch
//! ```
//!
//! [`layout`] decides which tokens of which records go where; [`fill`] writes them. The server
//! fetches the texts in between, all at once. With bytes for tokens a layout needs no text at all;
//! with a subword tokenizer it may say which texts it needs to go on, and is asked again with them.
//! How often, and which other texts were read, does not change the result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_schemas::id::{Offset, Step};
use perennial_schemas::wire::{Batch, BatchBuilder, DrawRest, Position, Ticket};

use crate::buffer::Members;
use crate::draw::{Drawn, Draws, Source};
use crate::error::{ReplayError, Result};
use crate::index::Index;
use crate::library::RowRange;
use crate::mix::Mix;
use crate::new_text::{Held, NewTextReader, Permutation};
use crate::pack::{self, PlannedRow};
use crate::plan::{Plan, refused};
use crate::tokenise::{Contents, Tokenizer, byte_tokens};

/// What a batch needs to know of the store.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Kept records: at least those below the ticket's limit.
    pub index: &'a Index,
    /// The members of each buffer at the ticket's revision.
    pub members: &'a BTreeMap<String, Arc<Members>>,
    /// In permuted order, the records in it, if they were sorted before.
    pub permutation: Option<&'a Arc<Permutation>>,
}

/// A batch before its text is written.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchLayout {
    /// Its rows. New-text rows for which there was no text at all are not among them.
    pub rows: Vec<PlannedRow>,
    /// Where the next batch begins.
    pub after: Position,
    /// Tokens of new text that are in it.
    pub new_text: u64,
    /// Tokens of new text that would have to come to fill its rows.
    pub missing: u64,
}

impl BatchLayout {
    /// Some of its rows; `begin` is the number of its first row in the job.
    #[must_use]
    pub fn part(&self, rows: RowRange, begin: u64) -> Self {
        let kept = self.rows.iter().filter(|row| rows.holds(row.row, begin));
        Self { rows: kept.cloned().collect(), after: self.after.clone(), ..*self }
    }

    /// The records whose text it needs, each once, in order.
    #[must_use]
    pub fn records(&self) -> Vec<Offset> {
        let segments = self.rows.iter().flat_map(|row| &row.segments);
        let offsets: BTreeSet<Offset> = segments.map(|segment| segment.offset).collect();
        offsets.into_iter().collect()
    }
}

/// The result of [`layout`].
#[derive(Debug, Clone, PartialEq)]
pub enum LayoutOutcome {
    /// It is whole.
    Whole(BatchLayout),
    /// Records whose text it needs first, none of which was read, at least one, in order.
    Unread(Vec<Offset>),
}

/// Which tokens of which records go where, as far as `contents`, what was read, goes.
///
/// # Errors
/// A ticket that the plan refuses ([`Plan::check`]), or that names a revision which `view` lacks.
pub fn layout(ticket: &Ticket, plan: &Plan, view: View<'_>, contents: &Contents) -> Result<LayoutOutcome> {
    let mix = plan.check(ticket)?;
    let length = plan.length as u64;
    let (settings, limit, from) = (&ticket.settings, ticket.limit, &ticket.from);
    let mut new_text =
        NewTextReader::new(plan, settings, view.index, limit, view.permutation, from.new_text, contents);
    let mut draws = draws(ticket, &mix, plan, view, contents)?;
    let mut layout = BatchLayout { rows: Vec::new(), after: from.clone(), new_text: 0, missing: 0 };
    let mut unread = BTreeSet::new();
    let mut wanted = 0_u64;
    // Tokens of the rows of each buffer that wait for a text.
    let mut held: BTreeMap<&str, u64> = BTreeMap::new();
    layout.after.row = from.row.saturating_add(u64::from(settings.rows));
    for row in from.row..layout.after.row {
        if let Some((buffer, draws)) =
            mix.buffer(row).and_then(|name| draws.get_mut(name).map(|of| (name, of)))
        {
            if let Some(held) = held.get_mut(buffer) {
                *held += length;
                continue;
            }
            match draws.row(length) {
                Drawn::Row(segments) if segments.is_empty() => {}
                Drawn::Row(segments) => {
                    layout.rows.push(PlannedRow { row, buffer: Some(buffer.to_owned()), segments });
                    continue;
                }
                Drawn::Padding => {
                    layout.rows.push(PlannedRow {
                        row,
                        buffer: Some(buffer.to_owned()),
                        segments: Vec::new(),
                    });
                    continue;
                }
                Drawn::Unread => {
                    held.insert(buffer, length);
                    continue;
                }
            }
        }
        let segments = new_text.take(length);
        let tokens = segments.iter().map(|segment| segment.tokens).sum::<u64>();
        layout.new_text += tokens;
        // After a removed text there may be more, but not here: such a row is padding.
        match new_text.held() {
            None => layout.missing += length - tokens,
            Some(Held::Unread) => wanted += length - tokens,
            Some(Held::Removed) => {}
        }
        if !segments.is_empty() || new_text.held() == Some(Held::Removed) {
            layout.rows.push(PlannedRow { row, buffer: None, segments });
        }
    }
    layout.after.new_text = new_text.cursor();
    for (name, draws) in &draws {
        layout.after.draws.insert((*name).to_owned(), draws.place());
        unread.extend(held.get(name).into_iter().flat_map(|room| draws.ahead(*room)));
    }
    if new_text.held() == Some(Held::Unread) {
        unread.extend(new_text.ahead(wanted));
    }
    if unread.is_empty() {
        return Ok(LayoutOutcome::Whole(layout));
    }
    Ok(LayoutOutcome::Unread(unread.into_iter().collect()))
}

/// The draws of each buffer of the mix, from the ticket's place on.
fn draws<'a>(
    ticket: &Ticket,
    mix: &'a Mix,
    plan: &'a Plan,
    view: View<'a>,
    contents: &'a Contents,
) -> Result<BTreeMap<&'a str, Draws<'a>>> {
    let mut draws = BTreeMap::new();
    for buffer in mix.buffers() {
        let members = members(ticket, view, buffer)?;
        let (index, limit, tokenizer) = (view.index, ticket.limit, &plan.tokenizer);
        let source = Source { members, index, limit, tokenizer, contents };
        let place = ticket.from.draws.get(buffer).copied().unwrap_or_default();
        if let Some(why) = place.rest.and_then(|rest| wrong(&rest, &source)) {
            return Err(refused(ticket, format!("what is left of a draw from `{buffer}` {why}")));
        }
        draws.insert(buffer, Draws::new(ticket.seed, buffer, source, place));
    }
    Ok(draws)
}

/// What is wrong with the rest of a draw in a ticket.
fn wrong(rest: &DrawRest, source: &Source<'_>) -> Option<&'static str> {
    let bytes = source.index.get(rest.offset).map(|record| record.bytes);
    let is_bytes = matches!(source.tokenizer, Tokenizer::Bytes);
    let end = rest.first.checked_add(rest.tokens);
    match (end, bytes) {
        _ if rest.tokens == 0 => Some("has no token"),
        _ if rest.odds.weight == 0 || rest.odds.weight > rest.odds.total => Some("has impossible odds"),
        (None, _) => Some("lies beyond every record"),
        // Of subwords only the text tells: what lies beyond it is left out.
        (Some(end), Some(bytes)) if is_bytes && end > byte_tokens(bytes) => Some("lies beyond its record"),
        _ => None,
    }
}

/// The members of a buffer at the ticket's revision.
fn members<'a>(ticket: &Ticket, view: View<'a>, buffer: &str) -> Result<&'a Members> {
    let asked = ticket.buffers.get(buffer).map(|drawn| drawn.revision).unwrap_or_default();
    match view.members.get(buffer) {
        Some(members) if members.revision() == asked => Ok(members),
        other => {
            let newest = other.map(|members| members.revision()).unwrap_or_default();
            Err(ReplayError::NoRevision { buffer: buffer.to_owned(), asked, newest })
        }
    }
}

/// Writes the tokens of a layout's records into a batch. What `contents` does not have was removed.
///
/// # Errors
/// [`ReplayError::Inconsistent`] when a text is not as long as its record says.
pub fn fill(layout: &BatchLayout, plan: &Plan, contents: &Contents) -> Result<Batch> {
    let mut batch = BatchBuilder::new(plan.length, layout.rows.len(), plan.tokenizer.pad());
    for row in &layout.rows {
        pack::fill(row, &mut batch, contents)?;
    }
    Ok(batch.finish()?)
}

/// The ticket after one whose batch ended at `after`.
#[must_use]
pub fn following(ticket: &Ticket, after: Position) -> Ticket {
    Ticket { step: Step(ticket.step.0.saturating_add(1)), from: after, ..ticket.clone() }
}

#[cfg(test)]
mod tests;
