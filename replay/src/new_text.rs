//! New text: the kept records from a cursor on, one after the other, to the token.
//!
//! In stream order the next record is the one with the smallest (seq, shard) of all shards' next
//! ones; the cursor says for each shard where it goes on. In permuted order records come by a keyed
//! hash of their place; the cursor has one entry, the record that was read last, with the tokens of it
//! that were delivered: its place in the order outlives it. Records that the plan's `keep` leaves out
//! are passed over in both.
//!
//! A subword tokenizer makes a batch wait for texts: [`NewTextReader::ahead`] says which. Where a text was
//! removed since the ticket was issued, nobody knows any more how many tokens it had, so nothing
//! after it can stand where it stood: the rest of the batch's new text is padding, and the next batch
//! goes on with the next record.

use std::sync::Arc;

use perennial_schemas::id::{Seq, Shard};
use perennial_schemas::seed::{Seed, unit};
use perennial_schemas::wire::{Cursor, ShardPosition};

use crate::index::{HighWaterMarks, Index, Record};
use crate::pack::Segment;
use crate::plan::{Order, Plan};
use crate::tokenise::{Contents, Known, Tokenizer, byte_tokens};

/// Whether a record is used, by its id: the same for every job of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Thinning {
    seed: Seed,
    keep: f64,
}

impl Thinning {
    /// As the plan asks.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self { seed: plan.seed.child("thin"), keep: plan.keep.get() }
    }

    /// Whether the record is used: a smaller share's records are among a larger one's.
    #[must_use]
    pub fn keeps(&self, record: &Record) -> bool {
        unit(self.seed.hash(record.id.as_bytes())) < self.keep
    }
}

/// The kept records in the order of a keyed hash of their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    order: Vec<(u64, Shard, Seq)>,
}

impl Permutation {
    fn key(plan: &Plan, shard: &Shard, seq: Seq) -> (u64, Shard, Seq) {
        (plan.seed.child("permute").child(shard.as_str()).at(&[seq.0]), shard.clone(), seq)
    }

    /// Of all records below the marks that the plan uses. O(n log n): keep it while they stand.
    #[must_use]
    pub fn new(plan: &Plan, index: &Index, marks: &HighWaterMarks) -> Self {
        let thinning = Thinning::new(plan);
        let records = index
            .shards()
            .flat_map(|shard| index.visible(shard, Seq(0), marks).iter().map(move |record| (shard, record)));
        let used = records.filter(|(_, record)| thinning.keeps(record));
        let mut order: Vec<_> = used.map(|(shard, record)| Self::key(plan, shard, record.seq)).collect();
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
    fn known(self, shard: &Shard, record: &Record) -> Known<'a> {
        self.tokenizer.known(self.contents, shard, record.seq, record.bytes)
    }

    /// Whether a record may have tokens from `token` on.
    fn has(self, shard: &Shard, record: &Record, token: u64) -> bool {
        // Every record has one.
        token == 0 || self.known(shard, record).count().unwrap_or(PASSED) > token
    }
}

/// A record and the first token of it that was not delivered.
#[derive(Debug, Clone, Copy)]
struct Reading<'a> {
    shard: &'a Shard,
    record: &'a Record,
    token: u64,
}

#[derive(Debug)]
enum Source<'a> {
    Stream { heads: Vec<Head<'a>>, thinning: Thinning },
    Permuted { index: &'a Index, permutation: Arc<Permutation>, next: usize, token: u64 },
}

/// What is left of one shard.
#[derive(Debug)]
struct Head<'a> {
    shard: &'a Shard,
    records: &'a [Record],
    place: ShardPosition,
}

impl<'a> NewTextReader<'a> {
    /// From `cursor` on, over the records below `marks`, of which `contents` were read.
    ///
    /// # Errors
    /// What is wrong with the cursor.
    pub fn new(
        plan: &'a Plan,
        index: &'a Index,
        marks: &HighWaterMarks,
        permutation: Option<&Arc<Permutation>>,
        cursor: &Cursor,
        contents: &'a Contents,
    ) -> Result<Self, String> {
        let source = match plan.order {
            Order::Stream => {
                let head = |shard: &'a Shard| {
                    let place = cursor.get(shard).copied().unwrap_or_default();
                    Head { shard, records: index.visible(shard, place.seq, marks), place }
                };
                Source::Stream { heads: index.shards().map(head).collect(), thinning: Thinning::new(plan) }
            }
            Order::Permuted => {
                let make = || Arc::new(Permutation::new(plan, index, marks));
                let permutation = permutation.map_or_else(make, Arc::clone);
                let (next, token) = stand(plan, &permutation, cursor)?;
                Source::Permuted { index, permutation, next, token }
            }
        };
        let read = Read { tokenizer: &plan.tokenizer, contents };
        Ok(Self { source, current: None, cursor: cursor.clone(), read, held: None })
    }

    /// The next `room` tokens, or as many as there are before reading is [`held`](Self::held). The
    /// segment of a removed record takes all of the remaining room.
    pub fn take(&mut self, mut room: u64) -> Vec<Segment> {
        let mut segments = Vec::new();
        while room > 0 && self.held.is_none() {
            let Some(reading) = self.current.or_else(|| self.source.next(self.read)) else { break };
            let known = self.read.known(reading.shard, reading.record);
            let Some(count) = known.count() else {
                let removed = matches!(known, Known::Removed);
                if removed {
                    segments.push(Segment::of(reading.shard, reading.record, reading.token, room));
                    self.source.advance(&mut self.cursor, &reading, PASSED, true);
                }
                self.held = Some(if removed { Held::Removed } else { Held::Unread });
                self.current = Some(reading).filter(|_| !removed);
                break;
            };
            let tokens = room.min(count.saturating_sub(reading.token));
            let end = reading.token + tokens;
            segments.push(Segment::of(reading.shard, reading.record, reading.token, tokens));
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
    pub fn ahead(mut self, room: u64) -> Vec<(Shard, Seq)> {
        let (mut places, mut bytes) = (Vec::new(), 0_u64);
        while bytes < room.saturating_mul(AHEAD) {
            let Some(reading) = self.current.take().or_else(|| self.source.next(self.read)) else { break };
            if matches!(self.read.known(reading.shard, reading.record), Known::Unread) {
                places.push((reading.shard.clone(), reading.record.seq));
            }
            bytes = bytes.saturating_add(byte_tokens(reading.record.bytes));
        }
        places
    }

    /// Where reading goes on.
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }
}

impl<'a> Source<'a> {
    /// The next record with a token to deliver.
    fn next(&mut self, read: Read<'_>) -> Option<Reading<'a>> {
        match self {
            Self::Stream { heads, thinning } => {
                let heads = heads.iter_mut().filter_map(|head| {
                    let first = head.skip(*thinning, read)?;
                    Some((first, head))
                });
                let (record, head) = heads.min_by_key(|(record, head)| (record.seq, head.shard))?;
                let token = head.delivered(record);
                head.records = head.records.get(1..).unwrap_or(&[]);
                Some(Reading { shard: head.shard, record, token })
            }
            Self::Permuted { index, permutation, next, token } => loop {
                let (_, shard, seq) = permutation.order.get(*next)?;
                *next += 1;
                let from = std::mem::take(token);
                let (shard, record) = index.entry(shard, *seq)?;
                if read.has(shard, record, from) {
                    return Some(Reading { shard, record, token: from });
                }
            },
        }
    }

    /// Notes in the cursor that the record was delivered up to token `end`, `whole` if that is all of it.
    fn advance(&self, cursor: &mut Cursor, reading: &Reading<'_>, end: u64, whole: bool) {
        let seq = reading.record.seq;
        let place = match self {
            Self::Stream { .. } if whole => ShardPosition { seq: seq.next(), token: 0 },
            Self::Stream { .. } => ShardPosition { seq, token: end },
            Self::Permuted { .. } => {
                cursor.clear();
                ShardPosition { seq, token: end }
            }
        };
        cursor.insert(reading.shard.clone(), place);
    }
}

impl<'a> Head<'a> {
    /// Passes over what is not used or was delivered; the first record that is left.
    fn skip(&mut self, thinning: Thinning, read: Read<'_>) -> Option<&'a Record> {
        let used =
            |record: &Record| thinning.keeps(record) && read.has(self.shard, record, self.delivered(record));
        let at = self.records.iter().position(used).unwrap_or(self.records.len());
        self.records = self.records.get(at..).unwrap_or(&[]);
        self.records.first()
    }

    const fn delivered(&self, record: &Record) -> u64 {
        if record.seq.0 == self.place.seq.0 { self.place.token } else { 0 }
    }
}

/// Where in the permutation a cursor stands: the index of a record and tokens of it delivered. Where its
/// own record was removed, that is the next one.
fn stand(plan: &Plan, permutation: &Permutation, cursor: &Cursor) -> Result<(usize, u64), String> {
    let Some((shard, place)) = cursor.first_key_value() else { return Ok((0, 0)) };
    if cursor.len() > 1 {
        return Err("a cursor in permuted order names one record, this one more".to_owned());
    }
    Ok(match permutation.order.binary_search(&Permutation::key(plan, shard, place.seq)) {
        Ok(at) => (at, place.token),
        Err(next) => (next, 0),
    })
}
