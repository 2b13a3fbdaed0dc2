//! Replayed text: a row is filled with spans drawn from one buffer.
//!
//! Draw j of row k takes a byte token of the buffer, each as likely as any other (or by the policy's
//! weights), and the span from the start of the passage that holds it, as far as the record or the
//! row goes. Draws follow each other until the row is full or has less than [`LEAST`] tokens left;
//! those stay padding. Draws are with replacement, within a row too. Everything is a function of the
//! job's seed, the row's number in the job, the buffer's members and their texts: who asks, when, and
//! in how many segments does not matter.
//!
//! Because spans begin at passages, the first tokens of a passage are read a little more often than
//! its last; the record's boundary token comes with the first passage.
//!
//! An erased member keeps its shape: it is drawn as before, and its tokens are padding. A member of which the
//! store does not even have the shape is drawn again: the others take its share.
//!
//! With a subword tokenizer a row waits for the texts of its draws, and an erased text, whose number of
//! tokens is not known, ends the row: what follows is padding. So the spans that an erase leaves in the row
//! of an older ticket stay where they were.

use perennial_schemas::id::Offset;
use perennial_schemas::seed::Seed;

use crate::buffer::Members;
use crate::index::{Index, Record};
use crate::pack::Segment;
use crate::tokenise::{Contents, Known, Tokenizer, byte_tokens};

/// The least room for which another span is drawn, in tokens.
pub const LEAST: u64 = 16;

/// Bytes of text for each token still wanted that are asked for at once: of ordinary text a little
/// more than are needed.
const AHEAD: u64 = 4;

/// How many draws, one after the other, may fall on members that are not there before none is taken to
/// be left.
const MISSES: u32 = 64;

/// Where rows are drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Draws<'a> {
    /// The job's seed.
    pub job: Seed,
    /// The buffer's name.
    pub buffer: &'a str,
    /// Its members.
    pub members: &'a Members,
    /// Where their passages are.
    pub index: &'a Index,
    /// The first offset that the ticket may not depend on.
    pub limit: Offset,
    /// How their texts become tokens.
    pub tokenizer: &'a Tokenizer,
    /// Those that were read.
    pub contents: &'a Contents,
}

/// What came of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drawn {
    /// Its segments; none when nothing can be drawn from the buffer.
    Row(Vec<Segment>),
    /// Texts that must be read first.
    Unread(Vec<Offset>),
}

impl<'a> Draws<'a> {
    /// Row `row` of the job, which has `length` tokens.
    #[must_use]
    pub fn row(&self, row: u64, length: u64) -> Drawn {
        let (mut segments, mut room) = (Vec::new(), length);
        for Draw { j, record, place } in self.draws(row, 0) {
            let known = self.known(record);
            if matches!(known, Known::Unread) {
                return Drawn::Unread(self.ahead(row, j, room));
            }
            let first = known.passage_start(&record.passages, place);
            let tokens = known.count().map_or(room, |count| count.saturating_sub(first).min(room));
            segments.push(Segment::of(record, first, tokens));
            room -= tokens;
            if room < LEAST {
                break;
            }
        }
        Drawn::Row(segments)
    }

    /// The records not read yet among draw `j` of a row and those after it that about fill `room`.
    fn ahead(&self, row: u64, j: u64, room: u64) -> Vec<Offset> {
        let (mut offsets, mut bytes) = (Vec::new(), 0_u64);
        for Draw { record, place, .. } in self.draws(row, j) {
            if matches!(self.known(record), Known::Unread) {
                offsets.push(record.offset);
            }
            let first = Known::Bytes(record.bytes).passage_start(&record.passages, place);
            bytes = bytes.saturating_add(byte_tokens(record.bytes).saturating_sub(first));
            if bytes >= room.saturating_mul(AHEAD) {
                break;
            }
        }
        offsets
    }

    /// Draw `first` of a row and those after it, but for those of members that are not there.
    fn draws(&self, row: u64, first: u64) -> impl Iterator<Item = Draw<'a>> {
        let seed = self.job.child(&format!("draw/{}", self.buffer));
        let mut missed = 0;
        let draw = move |j| {
            let (member, place) = self.members.draw(seed, row, j)?;
            let record = self.index.get(member.offset).filter(|record| record.offset < self.limit);
            missed = if record.is_some() { 0 } else { missed + 1 };
            let draw = record.map(|record| Draw { j, record, place });
            (missed < MISSES).then_some(draw)
        };
        (first..).map_while(draw).flatten()
    }

    fn known(&self, record: &Record) -> Known<'a> {
        self.tokenizer.known(self.contents, record.offset, record.bytes)
    }
}

/// Where a draw falls.
struct Draw<'a> {
    /// Its number in its row.
    j: u64,
    record: &'a Record,
    /// The byte token of the record.
    place: u64,
}
