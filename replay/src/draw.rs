//! Replayed text: rows of tokens drawn from one buffer, each token as likely as any other.
//!
//! A record of n byte tokens is cut into c = ceil(n / s) near-equal chunks, chunk i from byte token
//! floor(i n / c) to floor((i + 1) n / c); s is the length of a row, or as many bytes as about a row of
//! subword tokens has ([`Plan::chunk`](crate::plan::Plan::chunk)). A draw takes a chunk with probability w / (the sum over the members of w c), w the weight that
//! the policy gives the member, 1 where it gives none. Each token is in exactly one chunk, and a chunk that
//! was drawn is delivered whole: so without weights every token of the buffer is equally likely.
//!
//! A subword tokenizer has its tokens by passages: a chunk then has the tokens of the passages that begin in
//! it, which is no token for a chunk in the middle of a passage. No token has to be counted before it is
//! drawn.
//!
//! The draws of a job from a buffer are one sequence: draw k is a function of the job's seed, the buffer's
//! name, k and the members. Rows are filled without padding: what does not fit goes on in the buffer's next
//! row, whose ticket names it, though the members may have changed by then. Draws are with replacement.
//!
//! An erased member keeps its shape: it is drawn as before, and its tokens are padding. A member of which the
//! store does not even have the shape is passed over. With a subword tokenizer the number of an erased
//! text's tokens is not known: it takes the rest of its row, and the buffer's further rows of the batch are
//! padding. So the spans that an erase leaves stay where they were.

use perennial_schemas::id::Offset;
use perennial_schemas::seed::Seed;
use perennial_schemas::wire::{DrawPlace, DrawRest, Odds};

use crate::buffer::{MemberChunk, Members};
use crate::index::{Index, RecordRef};
use crate::pack::Segment;
use crate::tokenise::{Contents, Known, Tokenizer};

/// Byte tokens of text for each token still wanted that are asked for at once: of ordinary text a little
/// more than are needed.
const AHEAD: u64 = 4;

/// How many draws, one after the other, may fall on members that are not there before none is taken to be left.
const MISSES: u32 = 64;

/// How many draws, one after the other, may fall on chunks without a token before none is taken to have one.
const EMPTY: u32 = 1 << 16;

/// The draws of a job from one buffer, from a place on.
#[derive(Debug, Clone)]
pub struct Draws<'a> {
    seed: Seed,
    source: Source<'a>,
    place: DrawPlace,
    /// Whether a removed text has hidden where its draw ends.
    lost: bool,
}

/// Where rows are drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The members of the buffer.
    pub members: &'a Members,
    /// The records.
    pub index: &'a Index,
    /// The first offset that the ticket may not depend on.
    pub limit: Offset,
    /// How texts become tokens.
    pub tokenizer: &'a Tokenizer,
    /// Those that were read.
    pub contents: &'a Contents,
}

/// The result of [`Draws::row`].
#[derive(Debug, Clone, PartialEq)]
pub enum Drawn {
    /// The row's segments; none if nothing can be drawn from the buffer.
    Row(Vec<Segment>),
    /// Where the row begins is not known, because a text was removed: it is padding.
    Padding,
    /// The next record's text must be read first.
    Unread,
}

/// Tokens of a record that are to be delivered next.
#[derive(Debug, Clone, Copy)]
struct Piece<'a> {
    record: RecordRef<'a>,
    first: u64,
    /// `None` where their number is not known, because the text was removed.
    tokens: Option<u64>,
    odds: Odds,
}

/// What the next draw gives.
enum Next<'a> {
    Piece(Piece<'a>),
    Unread,
    Nothing,
}

impl<'a> Draws<'a> {
    /// The draws of the job with this seed from the buffer of this name.
    #[must_use]
    pub fn new(job: Seed, buffer: &str, source: Source<'a>, place: DrawPlace) -> Self {
        Self { seed: job.child(&format!("draw/{buffer}")), source, place, lost: false }
    }

    /// Where the next row begins.
    #[must_use]
    pub const fn place(&self) -> DrawPlace {
        self.place
    }

    /// The next row, which has `length` tokens. After [`Drawn::Unread`] the place is where it was.
    pub fn row(&mut self, length: u64) -> Drawn {
        if self.lost {
            return Drawn::Padding;
        }
        let before = self.place;
        let (mut segments, mut room) = (Vec::new(), length);
        while room > 0 {
            let piece = match self.next() {
                Next::Piece(piece) => piece,
                Next::Nothing => break,
                Next::Unread => {
                    self.place = before;
                    return Drawn::Unread;
                }
            };
            self.lost = piece.tokens.is_none();
            let tokens = piece.tokens.map_or(room, |tokens| tokens.min(room));
            segments.push(Segment::drawn(piece.record, piece.first, tokens, piece.odds.probability()));
            self.place.rest = piece.tokens.filter(|all| *all > tokens).map(|all| DrawRest {
                offset: piece.record.offset,
                first: piece.first + tokens,
                tokens: all - tokens,
                odds: piece.odds,
            });
            room -= tokens;
        }
        Drawn::Row(segments)
    }

    /// The rest of the last draw, or the next draw that has a token.
    fn next(&mut self) -> Next<'a> {
        if let Some(DrawRest { offset, first, tokens, odds }) = self.place.rest.take()
            && let Some(record) = self.source.record(offset)
        {
            let tokens = match self.source.known(record) {
                Known::Unread => return Next::Unread,
                Known::Removed => None,
                // Of a ticket that nobody issued the rest may lie beyond the record.
                known => Some(known.count().unwrap_or(0).saturating_sub(first).min(tokens)),
            };
            if tokens != Some(0) {
                return Next::Piece(Piece { record, first, tokens, odds });
            }
        }
        let (mut missing, mut empty) = (0, 0);
        while missing < MISSES && empty < EMPTY {
            let Some(chunk) = self.source.members.draw(self.seed, self.place.draw) else { break };
            let piece = match self.source.record(chunk.offset) {
                Some(record) => match self.source.known(record) {
                    Known::Unread => return Next::Unread,
                    known => {
                        (missing, empty) = (0, empty + 1);
                        piece(record, &known, &chunk)
                    }
                },
                None => {
                    missing += 1;
                    None
                }
            };
            self.place.draw = self.place.draw.saturating_add(1);
            if let Some(piece) = piece {
                return Next::Piece(piece);
            }
        }
        Next::Nothing
    }

    /// The records not read yet that about `room` tokens from here on need: at least one, if the next row is
    /// [`Drawn::Unread`].
    #[must_use]
    pub fn ahead(&self, room: u64) -> Vec<Offset> {
        let (mut offsets, mut bytes, mut misses) = (Vec::new(), 0_u64, 0);
        let want = |record: RecordRef<'_>, offsets: &mut Vec<Offset>| {
            if matches!(self.source.known(record), Known::Unread) {
                offsets.push(record.offset);
            }
        };
        if let Some(record) = self.place.rest.and_then(|rest| self.source.record(rest.offset)) {
            want(record, &mut offsets);
        }
        for k in self.place.draw.. {
            let Some(chunk) = self.source.members.draw(self.seed, k) else { break };
            match self.source.record(chunk.offset) {
                Some(record) => {
                    misses = 0;
                    want(record, &mut offsets);
                    bytes = bytes.saturating_add(chunk.tokens);
                }
                None => misses += 1,
            }
            // Chunks without a token may lie before the first unread one.
            let enough = bytes >= room.saturating_mul(AHEAD) && !offsets.is_empty();
            if misses == MISSES || enough || k - self.place.draw >= u64::from(EMPTY) {
                break;
            }
        }
        offsets
    }
}

impl<'a> Source<'a> {
    fn record(&self, offset: Offset) -> Option<RecordRef<'a>> {
        self.index.get(offset).filter(|record| record.offset < self.limit)
    }

    fn known(&self, record: RecordRef<'_>) -> Known<'a> {
        self.tokenizer.known(self.contents, record.offset, record.bytes)
    }
}

/// The tokens of a chunk; `None` if it has none.
fn piece<'a>(record: RecordRef<'a>, known: &Known<'_>, chunk: &MemberChunk) -> Option<Piece<'a>> {
    let (end, odds) = (chunk.first.saturating_add(chunk.tokens), chunk.odds);
    let (first, tokens) = match known {
        Known::Bytes(_) => (chunk.first, Some(chunk.tokens)),
        Known::Subword(_) => {
            let first = known.token_from(record.passages, chunk.first)?;
            let end = known.token_from(record.passages, end)?;
            (first, Some(end.saturating_sub(first)).filter(|tokens| *tokens > 0).map(Some)?)
        }
        Known::Removed | Known::Unread => (0, None),
    };
    Some(Piece { record, first, tokens, odds })
}
