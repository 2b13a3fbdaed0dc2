//! Rows of T tokens from segments of records.
//!
//! ```text
//! row      | end of record 4 | record 5, whole      | begin of record 6 |
//! inputs     ..  x9            256 y1 y2 .. y7        256 z1 z2 z3
//! targets    ..  256           y1  y2 ..    256       z1  z2 z3 z4
//! mask       1 .. (1)          1   1  ..    1         1   1  1  1
//! ```
//!
//! Every input of a segment has a target in its own record, so every prediction counts. Tokens outside of
//! segments and tokens of a removed record are padding with mask false.

use perennial_schemas::id::{Offset, RecordId, Seq, Shard};
use perennial_schemas::wire::{BatchBuilder, Piece};

use crate::error::{ReplayError, Result};
use crate::index::RecordRef;
use crate::tokenise::Contents;

/// A segment of a record: tokens `first .. first + tokens` of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// The record's place in the order of the store.
    pub offset: Offset,
    /// The record's shard.
    pub shard: Shard,
    /// Its seq in the shard.
    pub seq: Seq,
    /// The id of its text.
    pub id: RecordId,
    /// Bytes of its text.
    pub bytes: u64,
    /// The segment's first token in the record.
    pub first: u64,
    /// Number of tokens, at least 1.
    pub tokens: u64,
    /// The probability of the draw that it is part of; 1 for new text.
    pub probability: f64,
}

impl Segment {
    /// These tokens of a record, as new text.
    #[must_use]
    pub fn of(record: RecordRef<'_>, first: u64, tokens: u64) -> Self {
        Self::drawn(record, first, tokens, 1.0)
    }

    /// These tokens of a record, part of a chunk that was drawn with this probability.
    #[must_use]
    pub fn drawn(record: RecordRef<'_>, first: u64, tokens: u64, probability: f64) -> Self {
        let RecordRef { offset, seq, id, bytes, .. } = record;
        Self { offset, shard: record.shard.clone(), seq, id, bytes, first, tokens, probability }
    }
}

/// A row of a batch before its text is read.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRow {
    /// The row's number in the job.
    pub row: u64,
    /// The buffer it was drawn from; `None` for new text.
    pub buffer: Option<String>,
    /// Its segments, in order, with a total of at most T tokens.
    pub segments: Vec<Segment>,
}

/// Adds a row with its tokens. `contents` has the tokens of its records; a record that is not in it was removed.
///
/// # Errors
/// [`ReplayError::Inconsistent`] if a text does not have the size that its record states.
pub fn fill(row: &PlannedRow, batch: &mut BatchBuilder, contents: &Contents) -> Result<()> {
    batch.row(row.row, row.buffer.as_deref());
    for segment in &row.segments {
        let content = contents.get(&segment.offset).and_then(Option::as_ref);
        let tokens = usize::try_from(segment.tokens).unwrap_or(usize::MAX).min(batch.room());
        let Segment { ref shard, seq, offset, id, bytes, first, probability, .. } = *segment;
        if let Some(found) = content.filter(|content| {
            content.text_bytes() != bytes || content.count() < first.saturating_add(tokens as u64)
        }) {
            let found = found.text_bytes();
            let why = format!("the text of record {seq} of shard `{shard}` has {found} bytes, not {bytes}");
            return Err(ReplayError::Inconsistent { table: "records", why });
        }
        let piece = Piece { shard, seq, offset, id, first_token: first, probability };
        let write = content.map(|content| {
            move |inputs: &mut Vec<i32>, targets: &mut Vec<i32>| {
                content.append(first, tokens, inputs, targets)
            }
        });
        batch.span(piece, tokens, write)?;
    }
    Ok(())
}
