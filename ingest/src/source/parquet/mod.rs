//! Reads a Parquet file: which generation it is, from which row.
//!
//! ```text
//! footer (what the file is) ─> rows (batches, bounded) ─> blocks
//!                               pages (how large)
//! ```
//!
//! # Positions
//! A position is how many rows of the file have become readings. A Parquet file never grows in place: its
//! generation is recognised by its footer and its length, and read on from any row by passing over row
//! groups and pages.
//!
//! # What is one dead letter
//! - A file whose text column is missing, or whose mapped column is of a type that cannot hold its field,
//!   is *one* dead letter (`missing_text`, `wrong_type`) for all rows from its position to its end: it
//!   keeps the names and types of the columns. Nothing of it is read again until the file is another.
//! - A file that ends without a footer is `truncated`: one dead letter with its first bytes, which
//!   counts as one row. While the source is followed the file is waited for: it may be still being
//!   written. A file that is no Parquet, or whose footer does not decode, is `corrupt_source`.
//! - Damage in the middle is one dead letter `corrupt_source` at the first row that does not decode, which
//!   counts as that row; the rest of the file is not read. When that row decodes another time, the file is
//!   a new generation and read from its beginning.

use std::fs::File;
use std::sync::Arc;

use perennial_schemas::table::records::{RAW_LIMIT, Reason};

use super::blocks::{Blocks, Found};
use super::file::Input;
use super::{End, MARKED, Position, mark, marked_length};
use crate::block::Fault;
use crate::normalise::Refused;
use crate::normalise::decode::columns::{Shape, described};

mod footer;
mod pages;
mod rows;

#[cfg(test)]
mod tests;

use footer::{Chunks, Footer};
use rows::Rows;

/// What is wrong with a file, or with the system that it lies on.
#[derive(Debug)]
enum Broken {
    /// The bytes of the file.
    Damaged(Fault),
    /// The system cannot read them.
    Unreadable(std::io::Error),
}

impl Broken {
    fn corrupt(detail: impl Into<String>) -> Self {
        Self::Damaged(Fault { reason: Reason::CorruptSource, detail: detail.into() })
    }
}

/// Reads what a file of `length` bytes has beyond its position.
pub(super) fn read(
    input: Input<'_>,
    file: &Arc<File>,
    length: u64,
    known: Option<Position>,
    waits: bool,
    blocks: &mut Blocks,
) -> Result<(), End> {
    if length == 0 {
        return Ok(());
    }
    let chunks = Chunks::new(Arc::clone(file), length);
    match Footer::read(&chunks) {
        Ok(footer) => sound(input, &chunks, &footer, known, blocks),
        // What is being written has no footer until it is complete.
        Err(Broken::Damaged(fault)) if waits && fault.reason == Reason::Truncated => Ok(()),
        Err(Broken::Damaged(fault)) => unsound(input, &chunks, fault, known, blocks),
        Err(Broken::Unreadable(error)) => Err(input.failed("read", error).into()),
    }
}

/// A file without a footer that can be read.
fn unsound(
    input: Input<'_>,
    chunks: &Chunks,
    fault: Fault,
    known: Option<Position>,
    blocks: &mut Blocks,
) -> Result<(), End> {
    let first = chunks.first(RAW_LIMIT).map_err(|error| input.failed("read", error))?;
    let same = known.is_some_and(|known| {
        let marked = first.get(..known.head.map_or(0, marked_length)).unwrap_or_default();
        known.broken && known.end == 1 && mark(marked) == known.head
    });
    if same {
        return Ok(());
    }
    let head = mark(first.get(..MARKED).unwrap_or(&first));
    blocks.begin(input.place(input.next_generation(known), head));
    blocks.extend(&first);
    let found = Found { start: 0, end: 1, length: chunks.length, fault: Some(fault) };
    let pushed = blocks.push(0..first.len(), found);
    blocks.end();
    pushed
}

/// A file whose footer says what it has.
fn sound(
    input: Input<'_>,
    chunks: &Chunks,
    footer: &Footer,
    known: Option<Position>,
    blocks: &mut Blocks,
) -> Result<(), End> {
    let shape = match Shape::of(&footer.schema, &input.source.fields) {
        Ok(shape) => shape,
        Err(refused) => return misshapen(input, footer, refused, known, blocks),
    };
    let rows = Rows::new(chunks, footer, &shape, blocks.limits);
    let rows = match rows {
        Ok(rows) => rows,
        Err(Broken::Unreadable(error)) => return Err(input.failed("read", error).into()),
        Err(Broken::Damaged(fault)) => return unsound(input, chunks, fault, known, blocks),
    };
    let (at, generation) = match known.filter(|known| known.head == footer.head) {
        Some(Position { end, broken: false, generation, .. }) => (end, generation),
        Some(Position { end, .. }) if rows.breaks_at(end.saturating_sub(1)) => return Ok(()),
        _ => (0, input.next_generation(known)),
    };
    if at >= footer.rows {
        return Ok(());
    }
    blocks.begin(input.place(generation, footer.head));
    let read = rows.read(at, blocks);
    let ended = match read {
        Ok(None) => Ok(()),
        Ok(Some((row, Broken::Damaged(fault)))) => {
            let end = row.saturating_add(1);
            blocks.push(0..0, Found { start: row, end, length: 0, fault: Some(fault) })
        }
        Ok(Some((_, Broken::Unreadable(error)))) => Err(input.failed("read", error).into()),
        Err(end) => Err(end),
    };
    blocks.end();
    ended
}

/// A file no row of which is a document.
fn misshapen(
    input: Input<'_>,
    footer: &Footer,
    refused: Refused,
    known: Option<Position>,
    blocks: &mut Blocks,
) -> Result<(), End> {
    let same = known.filter(|known| known.head == footer.head);
    let (at, generation) = match same {
        // A break counted as a row that may not be there.
        Some(known) => (known.end, known.generation),
        None => (0, input.next_generation(known)),
    };
    if at >= footer.rows {
        return Ok(());
    }
    let columns = described(&footer.schema);
    blocks.begin(input.place(generation, footer.head));
    blocks.extend(columns.as_bytes());
    let fault = Fault { reason: refused.reason, detail: refused.detail };
    let length = columns.len() as u64;
    let pushed =
        blocks.push(0..columns.len(), Found { start: at, end: footer.rows, length, fault: Some(fault) });
    blocks.end();
    pushed
}
