//! Finds texts that the store has already.
//!
//! The one stage with a memory: decisions follow the order of reading, so it runs on one thread.

use crate::block::{Block, Document, Row, Verdict};

pub mod exact;

use exact::Exact;

/// Decides which documents of `block` are new, in the order of their seq, and counts them.
#[must_use]
pub fn run(known: &mut Exact, mut block: Block) -> Block {
    for (index, row) in block.rows.list.iter_mut().enumerate() {
        let Row::Document { document, verdict } = row else { continue };
        *verdict = judge(known, document, block.readings.seq(index));
        match verdict {
            Verdict::Kept => block.tally.kept += 1,
            Verdict::Duplicate { .. } => block.tally.duplicates += 1,
        }
    }
    block
}

fn judge(known: &mut Exact, document: &Document, seq: schemas::id::Seq) -> Verdict {
    known.judge(document.identity, document.folded, seq)
}
