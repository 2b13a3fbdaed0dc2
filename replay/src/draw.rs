//! Replayed text: a row is filled with spans drawn from one buffer.
//!
//! Draw j of row k takes a token of the buffer, each as likely as any other (or by the policy's
//! weights), and the span from the start of the passage that holds it, as far as the record or the
//! row goes. Draws follow each other until the row is full or has less than [`LEAST`] tokens left;
//! those stay padding. Draws are with replacement, within a row too. Everything is a function of the
//! job's seed, the row's number in the job and the buffer's members: who asks, when, and in how
//! many pieces plays no part.
//!
//! Because spans begin at passages, the first tokens of a passage are read a little more often than
//! its last; the record's boundary token comes with the first passage.

use schemas::seed::Seed;

use crate::buffer::Members;
use crate::index::Index;
use crate::pack::Piece;
use crate::tokenise::Tokenizer;

/// The least room for which another span is drawn, in tokens.
pub const LEAST: u64 = 16;

/// The pieces of row `row`, which has `length` tokens. `job` is the seed of the job's draws. None
/// when nothing can be drawn from the buffer.
#[must_use]
pub fn row(
    job: Seed,
    buffer: &str,
    row: u64,
    length: u64,
    members: &Members,
    index: &Index,
    tokenizer: Tokenizer,
) -> Vec<Piece> {
    let seed = job.child(&format!("draw/{buffer}"));
    let mut pieces = Vec::new();
    let mut room = length;
    for j in 0.. {
        if room == 0 || (j > 0 && room < LEAST) {
            break;
        }
        let Some((member, token)) = members.draw(seed, row, j) else { break };
        // A record that was removed from the store since has lost its passages with its text.
        let record = index.get(&member.shard, member.seq).filter(|record| record.id == member.id);
        let passages = record.map_or(&[][..], |record| &record.passages);
        let first = tokenizer.passage_start(passages, token);
        let tokens = tokenizer.count(member.bytes).saturating_sub(first).min(room);
        let (shard, seq, id, bytes) = (member.shard.clone(), member.seq, member.id, member.bytes);
        pieces.push(Piece { shard, seq, id, bytes, first, tokens });
        room -= tokens;
    }
    pieces
}
