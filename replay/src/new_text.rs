//! New text: the kept records from a cursor on, one after the other, to the token.
//!
//! In stream order the next record is that of the next offset. In permuted order records come by a keyed
//! hash of their offset; the cursor names the record that was read last, with the tokens of it that were
//! delivered: its place in the order outlives it. Records that the job's `keep` leaves out
//! are passed over in both.
//!
//! A subword tokenizer makes a batch wait for texts: [`NewTextReader::ahead`] says which. Where a text was
//! removed since the ticket was issued, nobody knows any more how many tokens it had, so nothing
//! after it can stand where it stood: the rest of the batch's new text is padding, and the next batch
//! goes on with the next record.

use std::sync::Arc;

use perennial_schemas::id::Offset;
use perennial_schemas::seed::{Seed, unit};
use perennial_schemas::wire::{Cursor, Order, Settings, WHOLE};

use crate::index::{Index, RecordRef, Records};
use crate::pack::Segment;
use crate::plan::Plan;
use crate::tokenise::{Contents, Known, Tokenizer, byte_tokens};

/// Whether a record is used, by a keyed hash of its offset: the same for every job of a plan, also after the
/// record was erased.
#[derive(Debug, Clone, Copy)]
pub struct Thinning {
    seed: Seed,
    keep: f64,
}

impl Thinning {
    /// As the settings of a job ask.
    #[must_use]
    pub fn new(plan: &Plan, settings: &Settings) -> Self {
        Self { seed: plan.seed.child("thin"), keep: settings.keep as f64 / WHOLE as f64 }
    }

    /// Whether the record is used: a smaller share's records are among a larger one's.
    #[must_use]
    pub fn keeps(&self, record: &RecordRef<'_>) -> bool {
        unit(self.seed.at(&[record.offset.0])) < self.keep
    }
}

/// The kept records in the order of a keyed hash of their offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    order: Vec<(u64, Offset)>,
}

impl Permutation {
    fn key(plan: &Plan, offset: Offset) -> (u64, Offset) {
        (plan.seed.child("permute").at(&[offset.0]), offset)
    }

    /// Of all records below the limit that the job uses. O(n log n): keep it while it stands.
    #[must_use]
    pub fn new(plan: &Plan, settings: &Settings, index: &Index, limit: Offset) -> Self {
        let thinning = Thinning::new(plan, settings);
        let used = index.range(Offset(0), limit).filter(|record| thinning.keeps(record));
        let mut order: Vec<_> = used.map(|record| Self::key(plan, record.offset)).collect();
        order.sort_unstable();
        Self { order }
    }
}

/// Bytes of text for each token still wanted that are asked for at once: of ordinary text about twice
/// as many as are needed, so that the next batch finds its own read.
const AHEAD: u64 = 8;

/// In permuted order, the token at which the cursor stands behind a record whose count its text alone
/// tells: should the text be removed, it is still known that nothing is left of it. Beyond the tokens
/// of any record, and a number that every JSON reader keeps.
const PASSED: u64 = (1 << 53) - 1;

/// Reads new text from a cursor on.
#[derive(Debug)]
pub struct NewTextReader<'a> {
    source: Source<'a>,
    current: Option<Reading<'a>>,
    cursor: Cursor,
    read: Read<'a>,
    held: Option<Held>,
}

/// Why no more can be taken though there may be more text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The next record's text was not read yet.
    Unread,
    /// The next record's text was removed.
    Removed,
}

/// The texts that were read, and the tokenizer that says when one is needed.
#[derive(Debug, Clone, Copy)]
struct Read<'a> {
    tokenizer: &'a Tokenizer,
    contents: &'a Contents,
}

impl<'a> Read<'a> {
    fn known(self, record: &RecordRef<'_>) -> Known<'a> {
        self.tokenizer.known(self.contents, record.offset, record.bytes)
    }

    /// Whether a record may have tokens from `token` on.
    fn has(self, record: &RecordRef<'_>, token: u64) -> bool {
        // Every record has one.
        token == 0 || self.known(record).count().unwrap_or(PASSED) > token
    }
}

/// A record and the first token of it that was not delivered.
#[derive(Debug, Clone, Copy)]
struct Reading<'a> {
    record: RecordRef<'a>,
    token: u64,
}

#[derive(Debug)]
enum Source<'a> {
    Stream { records: Records<'a>, from: Cursor, thinning: Thinning },
    Permuted { index: &'a Index, permutation: Arc<Permutation>, next: usize, token: u64 },
}

impl<'a> NewTextReader<'a> {
    /// From `cursor` on, over the records below `limit`, of which `contents` were read.
    #[must_use]
    pub fn new(
        plan: &'a Plan,
        settings: &Settings,
        index: &'a Index,
        limit: Offset,
        permutation: Option<&Arc<Permutation>>,
        cursor: Cursor,
        contents: &'a Contents,
    ) -> Self {
        let source = match settings.order {
            Order::Stream => Source::Stream {
                records: index.range(cursor.offset, limit),
                from: cursor,
                thinning: Thinning::new(plan, settings),
            },
            Order::Permuted => {
                let make = || Arc::new(Permutation::new(plan, settings, index, limit));
                let permutation = permutation.map_or_else(make, Arc::clone);
                let (next, token) = stand(plan, &permutation, cursor);
                Source::Permuted { index, permutation, next, token }
            }
        };
        let read = Read { tokenizer: &plan.tokenizer, contents };
        Self { source, current: None, cursor, read, held: None }
    }

    /// The next `room` tokens, or as many as there are before reading is [`held`](Self::held). The
    /// segment of a removed record takes all of the remaining room.
    pub fn take(&mut self, mut room: u64) -> Vec<Segment> {
        let mut segments = Vec::new();
        while room > 0 && self.held.is_none() {
            let Some(reading) = self.current.or_else(|| self.source.next(self.read)) else { break };
            let known = self.read.known(&reading.record);
            let Some(count) = known.count() else {
                let removed = matches!(known, Known::Removed);
                if removed {
                    segments.push(Segment::of(reading.record, reading.token, room));
                    self.source.advance(&mut self.cursor, &reading, PASSED, true);
                }
                self.held = Some(if removed { Held::Removed } else { Held::Unread });
                self.current = Some(reading).filter(|_| !removed);
                break;
            };
            let tokens = room.min(count.saturating_sub(reading.token));
            let end = reading.token + tokens;
            segments.push(Segment::of(reading.record, reading.token, tokens));
            let whole = end == count;
            let counted = matches!(known, Known::Bytes(_));
            let stand = if whole && !counted { PASSED } else { end };
            self.source.advance(&mut self.cursor, &reading, stand, whole);
            self.current = (end < count).then_some(Reading { token: end, ..reading });
            room -= tokens;
        }
        segments
    }

    /// Why no more can be taken though there may be more text.
    #[must_use]
    pub const fn held(&self) -> Option<Held> {
        self.held
    }

    /// The records whose text must be read to take about `room` tokens more, in order.
    #[must_use]
    pub fn ahead(mut self, room: u64) -> Vec<Offset> {
        let (mut offsets, mut bytes) = (Vec::new(), 0_u64);
        while bytes < room.saturating_mul(AHEAD) {
            let Some(reading) = self.current.take().or_else(|| self.source.next(self.read)) else { break };
            if matches!(self.read.known(&reading.record), Known::Unread) {
                offsets.push(reading.record.offset);
            }
            bytes = bytes.saturating_add(byte_tokens(reading.record.bytes));
        }
        offsets
    }

    /// Where reading goes on.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }
}

impl<'a> Source<'a> {
    /// The next record with a token to deliver.
    fn next(&mut self, read: Read<'_>) -> Option<Reading<'a>> {
        match self {
            Self::Stream { records, from, thinning } => {
                let delivered =
                    |record: &RecordRef<'_>| if record.offset == from.offset { from.token } else { 0 };
                let record =
                    records.find(|record| thinning.keeps(record) && read.has(record, delivered(record)))?;
                Some(Reading { token: delivered(&record), record })
            }
            Self::Permuted { index, permutation, next, token } => loop {
                let (_, offset) = permutation.order.get(*next)?;
                *next += 1;
                let from = std::mem::take(token);
                let record = index.get(*offset)?;
                if read.has(&record, from) {
                    return Some(Reading { record, token: from });
                }
            },
        }
    }

    /// Notes in the cursor that the record was delivered up to token `end`, `whole` if that is all of it.
    fn advance(&self, cursor: &mut Cursor, reading: &Reading<'_>, end: u64, whole: bool) {
        let offset = reading.record.offset;
        *cursor = match self {
            Self::Stream { .. } if whole => Cursor { offset: offset.next(), token: 0 },
            Self::Stream { .. } | Self::Permuted { .. } => Cursor { offset, token: end },
        };
    }
}

/// Where in the permutation a cursor stands: the index of a record and tokens of it delivered. If the order
/// does not have its record (it was removed), that is the next one.
fn stand(plan: &Plan, permutation: &Permutation, cursor: Cursor) -> (usize, u64) {
    if cursor == Cursor::default() {
        return (0, 0);
    }
    match permutation.order.binary_search(&Permutation::key(plan, cursor.offset)) {
        Ok(at) => (at, cursor.token),
        Err(next) => (next, 0),
    }
}
