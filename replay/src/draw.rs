//! Replayed text: a row is filled with spans drawn from one buffer.
//!
//! Draw j of row k takes a byte token of the buffer, each as likely as any other (or by the policy's
//! weights), and the span from the start of the passage that holds it, as far as the record or the
//! row goes. Draws follow each other until the row is full or has less than [`LEAST`] tokens left;
//! those stay padding. Draws are with replacement, within a row too. Everything is a function of the
//! job's seed, the row's number in the job, the buffer's members and their texts: who asks, when, and
//! in how many pieces plays no part.
//!
//! Because spans begin at passages, the first tokens of a passage are read a little more often than
//! its last; the record's boundary token comes with the first passage.
//!
//! With a subword tokenizer a row waits for the texts of its draws, and a removed text, of which
//! nobody knows any more how many tokens it had, ends the row: what follows is padding. So whatever a
//! removal leaves of a row stands where it stood.

use schemas::id::{Seq, Shard};
use schemas::seed::Seed;

use crate::buffer::{Member, Members};
use crate::index::{Index, Record};
use crate::pack::Piece;
use crate::tokenise::{Contents, Known, Tokenizer, byte_tokens};

/// The least room for which another span is drawn, in tokens.
pub const LEAST: u64 = 16;

/// Bytes of text for each token still wanted that are asked for at once: of ordinary text a little
/// more than are needed.
const AHEAD: u64 = 4;

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
    /// How their texts become tokens.
    pub tokenizer: &'a Tokenizer,
    /// Those that were read.
    pub contents: &'a Contents,
}

/// What came of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drawn {
    /// Its pieces; none when nothing can be drawn from the buffer.
    Row(Vec<Piece>),
    /// Texts that must be read first.
    Unread(Vec<(Shard, Seq)>),
}

impl<'a> Draws<'a> {
    /// Row `row` of the job, which has `length` tokens.
    #[must_use]
    pub fn row(&self, row: u64, length: u64) -> Drawn {
        let seed = self.seed();
        let mut pieces = Vec::new();
        let mut room = length;
        for j in 0.. {
            if room == 0 || (j > 0 && room < LEAST) {
                break;
            }
            let Some((member, place)) = self.members.draw(seed, row, j) else { break };
            let known = self.known(member);
            if matches!(known, Known::Unread) {
                return Drawn::Unread(self.ahead(row, j, room));
            }
            // A record that was removed from the store since has lost its passages with its text.
            let passages = self.record(member).map_or(&[][..], |record| &record.passages);
            let first = known.passage_start(passages, place);
            let tokens = known.count().map_or(room, |count| count.saturating_sub(first).min(room));
            let (shard, seq, id, bytes) = (member.shard.clone(), member.seq, member.id, member.bytes);
            pieces.push(Piece { shard, seq, id, bytes, first, tokens });
            room -= tokens;
        }
        Drawn::Row(pieces)
    }

    /// The records not read yet among draw `j` of a row and those after it that about fill `room`.
    fn ahead(&self, row: u64, j: u64, room: u64) -> Vec<(Shard, Seq)> {
        let (mut places, mut bytes) = (Vec::new(), 0_u64);
        for j in j.. {
            if bytes >= room.saturating_mul(AHEAD) {
                break;
            }
            let Some((member, place)) = self.members.draw(self.seed(), row, j) else { break };
            if matches!(self.known(member), Known::Unread) {
                places.push((member.shard.clone(), member.seq));
            }
            let passages = self.record(member).map_or(&[][..], |record| &record.passages);
            let first = Known::Bytes(member.bytes).passage_start(passages, place);
            bytes = bytes.saturating_add(byte_tokens(member.bytes).saturating_sub(first));
        }
        places
    }

    fn seed(&self) -> Seed {
        self.job.child(&format!("draw/{}", self.buffer))
    }

    fn known(&self, member: &Member) -> Known<'a> {
        self.tokenizer.known(self.contents, &member.shard, member.seq, member.bytes)
    }

    fn record(&self, member: &Member) -> Option<&'a Record> {
        self.index.get(&member.shard, member.seq).filter(|record| record.id == member.id)
    }
}
