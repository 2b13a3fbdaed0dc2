//! Text to tokens. A record of n bytes has n + 1 inputs and n + 1 targets:
//!
//! ```text
//! input   256  b1  b2 ... bn      256: a record begins
//! target   b1  b2 ... bn  256     the target of the last byte is the boundary again
//! ```
//!
//! so a model learns to end a record as well as to begin one, and every input has a target of its
//! own record. Tokens of a record are numbered from 0, the boundary.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// How text becomes tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// One token a byte of UTF-8, 0 to 255; 256 is the boundary, 257 the padding.
    #[default]
    Bytes,
}

impl Tokenizer {
    /// How many different tokens there are.
    #[must_use]
    pub const fn vocabulary(self) -> usize {
        match self {
            Self::Bytes => 258,
        }
    }

    /// The token before the first of a record, and the target of its last.
    #[must_use]
    pub const fn boundary(self) -> i32 {
        match self {
            Self::Bytes => 256,
        }
    }

    /// The token of a place that holds no text.
    #[must_use]
    pub const fn pad(self) -> i32 {
        match self {
            Self::Bytes => 257,
        }
    }

    /// What this tokenizer is, as 32 hexadecimal digits: part of every ticket's config digest.
    #[must_use]
    pub fn hash(self) -> String {
        let what = match self {
            Self::Bytes => "bytes: utf-8, boundary 256, pad 257, vocabulary 258",
        };
        format!("{:032x}", xxh3_128(what.as_bytes()))
    }

    /// Tokens (equally: targets) of a record whose text has `bytes` bytes.
    #[must_use]
    pub const fn count(self, bytes: u64) -> u64 {
        match self {
            Self::Bytes => bytes.saturating_add(1),
        }
    }

    /// The first token of the passage that holds token `token`. `passages` are the ends of the
    /// record's passages in bytes, rising. The first passage begins at the boundary.
    #[must_use]
    pub fn passage_start(self, passages: &[u32], token: u64) -> u64 {
        // Token t > 0 is byte t - 1; a passage that ends at byte e holds tokens up to e.
        let held_by = passages.partition_point(|end| u64::from(*end) < token);
        let before = held_by.checked_sub(1).and_then(|index| passages.get(index));
        before.map_or(0, |end| u64::from(*end) + 1)
    }

    /// Writes inputs and targets of the record `text` from its token `first` on, as many as the
    /// shorter of the two slices and the record have; returns how many.
    pub fn copy(self, text: &str, first: u64, inputs: &mut [i32], targets: &mut [i32]) -> usize {
        let bytes = text.as_bytes();
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let token = |index: usize| bytes.get(index).map_or(self.boundary(), |byte| i32::from(*byte));
        let mut written = 0;
        for (index, (input, target)) in (first..=bytes.len()).zip(inputs.iter_mut().zip(targets.iter_mut())) {
            *input = index.checked_sub(1).map_or(self.boundary(), token);
            *target = token(index);
            written += 1;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str, first: u64, room: usize) -> (Vec<i32>, Vec<i32>) {
        let (mut inputs, mut targets) = (vec![-1; room], vec![-1; room]);
        let written = Tokenizer::Bytes.copy(text, first, &mut inputs, &mut targets);
        inputs.truncate(written);
        targets.truncate(written);
        (inputs, targets)
    }

    #[test]
    fn record_begins_and_ends_at_a_boundary() {
        assert_eq!(all("ab", 0, 9), (vec![256, 97, 98], vec![97, 98, 256]));
        assert_eq!(all("", 0, 9), (vec![256], vec![256]));
        assert_eq!(all("é", 1, 9), (vec![0xC3, 0xA9], vec![0xA9, 256]));
    }

    #[test]
    fn copy_past_the_end_writes_nothing() {
        assert_eq!(all("ab", 3, 9), (vec![], vec![]));
        assert_eq!(all("ab", u64::MAX, 9), (vec![], vec![]));
    }

    #[test]
    fn hash_is_the_same_in_every_build() {
        assert_eq!(Tokenizer::Bytes.hash(), "2e06c65a4aff4a33f8e3426575419e61");
    }

    proptest! {
        #[test]
        fn copy_in_pieces_is_the_whole(text in "\\PC{0,40}", cuts in proptest::collection::vec(1_usize..9, 1..60)) {
            let whole = all(&text, 0, usize::from(u16::MAX));
            prop_assert_eq!(whole.0.len() as u64, Tokenizer::Bytes.count(text.len() as u64));
            let mut pieces = (Vec::new(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (inputs, targets) = all(&text, pieces.0.len() as u64, *cut);
                if inputs.is_empty() {
                    break;
                }
                pieces.0.extend(inputs);
                pieces.1.extend(targets);
            }
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn passage_start_is_that_of_a_scan(lengths in proptest::collection::vec(1_u32..9, 1..9)) {
            let mut starts = vec![0_u64];
            let mut ends = Vec::new();
            for length in &lengths {
                ends.push(ends.last().copied().unwrap_or(0) + length);
                starts.push(u64::from(*ends.last().unwrap()) + 1);
            }
            for token in 0..=u64::from(*ends.last().unwrap()) {
                let slow = starts.iter().rev().find(|start| **start <= token);
                prop_assert_eq!(Some(Tokenizer::Bytes.passage_start(&ends, token)), slow.copied());
            }
        }
    }
}
