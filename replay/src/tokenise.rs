//! Text to tokens. A record of n tokens of text has n + 1 inputs and n + 1 targets; with bytes:
//!
//! ```text
//! input   256  b1  b2 ... bn      256: a record begins
//! target   b1  b2 ... bn  256     the target of the last byte is the boundary again
//! ```
//!
//! so a model learns to begin and to end a record, and every input has a target in its own record. Tokens of
//! a record are numbered from 0, the boundary.
//!
//! A record's size determines its number of byte tokens. Its number of [`Subword`] tokens depends on its
//! text, which is therefore read before the layout of a batch. Everything that must not depend on text (a
//! member's weight, the position of a draw, a buffer's capacity) counts byte tokens with every tokenizer.

mod losses;
mod subword;

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_schemas::id::Offset;
use xxhash_rust::xxh3::xxh3_128;

pub use subword::{EncodeError, Encoding, LoadError, Subword};

/// A tokenizer. Cheap to clone; equal if the hashes are equal.
#[derive(Debug, Clone, Default)]
pub enum Tokenizer {
    /// One token per byte of UTF-8, 0 to 255; 256 is the boundary, 257 the padding.
    #[default]
    Bytes,
    /// A `tokenizer.json`. One of its special tokens is both the boundary and the padding.
    Subword(Arc<Subword>),
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.hash() == other.hash()
    }
}

impl Eq for Tokenizer {}

/// Byte tokens of a record whose text has `bytes` bytes: one per byte, and one for the boundary.
#[must_use]
pub const fn byte_tokens(bytes: u64) -> u64 {
    bytes.saturating_add(1)
}

impl Tokenizer {
    /// The largest token plus one: the number of rows of a model's embedding.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Bytes => 258,
            Self::Subword(subword) => subword.vocabulary(),
        }
    }

    /// The token before a record's first one, and the target of its last one.
    #[must_use]
    pub fn boundary(&self) -> i32 {
        match self {
            Self::Bytes => 256,
            Self::Subword(subword) => subword.boundary(),
        }
    }

    /// The padding token. Its mask is false, so text may contain it too.
    #[must_use]
    pub fn pad(&self) -> i32 {
        match self {
            Self::Bytes => 257,
            Self::Subword(subword) => subword.boundary(),
        }
    }

    /// The identity of this tokenizer, 32 hexadecimal digits: part of every ticket's config digest.
    #[must_use]
    pub fn hash(&self) -> String {
        match self {
            Self::Bytes => {
                let what = "bytes: utf-8, boundary 256, pad 257, vocabulary 258";
                format!("{:032x}", xxh3_128(what.as_bytes()))
            }
            Self::Subword(subword) => subword.hash().to_owned(),
        }
    }

    /// The tokens of a record's text; `passages` are the ends of its passages in bytes, ascending.
    ///
    /// # Errors
    /// [`EncodeError`] if the text cannot be tokenised.
    pub fn encode(&self, text: Arc<str>, passages: &[u32]) -> Result<Tokens, EncodeError> {
        match self {
            Self::Bytes => Ok(Tokens::Bytes(text)),
            Self::Subword(subword) => Ok(Tokens::Subword(Arc::new(subword.encode(&text, passages)?))),
        }
    }

    /// The text of tokens, without boundaries.
    #[must_use]
    pub fn decode(&self, tokens: &[i32]) -> String {
        match self {
            Self::Bytes => {
                let bytes: Vec<u8> = tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Self::Subword(subword) => subword.decode(tokens),
        }
    }

    /// What is known about a record of `bytes` bytes before the layout of a batch.
    #[must_use]
    pub fn known<'a>(&self, contents: &'a Contents, offset: Offset, bytes: u64) -> Known<'a> {
        match self {
            Self::Bytes => Known::Bytes(bytes),
            Self::Subword(_) => match contents.get(&offset) {
                None => Known::Unread,
                Some(Some(Tokens::Subword(encoding))) => Known::Subword(encoding),
                Some(_) => Known::Removed,
            },
        }
    }
}

/// The tokens of the records that were read; `None` for a removed text.
pub type Contents = BTreeMap<Offset, Option<Tokens>>;

/// The tokens of one record. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Tokens {
    /// The bytes of its text.
    Bytes(Arc<str>),
    /// The encoding of a [`Subword`] tokenizer.
    Subword(Arc<Encoding>),
}

impl Tokens {
    /// Bytes of the text.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        match self {
            Self::Bytes(text) => text.len() as u64,
            Self::Subword(encoding) => encoding.text_bytes(),
        }
    }

    /// Size in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Bytes(text) => text.len(),
            Self::Subword(encoding) => encoding.memory(),
        }
    }

    /// Number of inputs, which is the number of targets, including the boundary.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Bytes(text) => byte_tokens(text.len() as u64),
            Self::Subword(encoding) => encoding.count(),
        }
    }

    /// Appends at most `count` inputs and their targets from token `first` on, as far as the record goes.
    pub fn append(&self, first: u64, count: usize, inputs: &mut Vec<i32>, targets: &mut Vec<i32>) {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        match self {
            Self::Bytes(text) => {
                let boundary = Tokenizer::Bytes.boundary();
                shifted(first, count, text.as_bytes(), |byte| i32::from(*byte), boundary, inputs, targets);
            }
            Self::Subword(encoding) => {
                shifted(
                    first,
                    count,
                    encoding.tokens(),
                    |token| *token,
                    encoding.boundary(),
                    inputs,
                    targets,
                );
            }
        }
    }
}

/// Appends the tokens of a record from number `first` on: the boundary, then those of its text. The loops over
/// slices become vector instructions.
fn shifted<T>(
    first: usize,
    count: usize,
    text: &[T],
    widen: impl Fn(&T) -> i32,
    boundary: i32,
    inputs: &mut Vec<i32>,
    targets: &mut Vec<i32>,
) {
    let count = (text.len() + 1).saturating_sub(first).min(count);
    let tokens = |from: usize, count: usize| text.get(from..from + count).unwrap_or_default().iter();
    if count == 0 {
        return;
    }
    // Input t is token t - 1 of the text, input 0 the boundary.
    match first.checked_sub(1) {
        Some(from) => inputs.extend(tokens(from, count).map(&widen)),
        None => {
            inputs.push(boundary);
            inputs.extend(tokens(0, count - 1).map(&widen));
        }
    }
    // Target t is token t of the text, the last one the boundary.
    let is_last = first + count > text.len();
    targets.extend(tokens(first, count - usize::from(is_last)).map(&widen));
    targets.extend(is_last.then_some(boundary));
}

/// What is known about a record's tokens before the layout of a batch.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// Its size determines their number.
    Bytes(u64),
    /// Its text was read.
    Subword(&'a Encoding),
    /// Its text was removed from the store, so their number is unknown.
    Removed,
    /// Its text has not been read.
    Unread,
}

impl Known<'_> {
    /// Number of tokens, which is the number of targets, at least 1; `None` if unknown.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(byte_tokens(*bytes)),
            Self::Subword(encoding) => Some(encoding.count()),
            Self::Removed | Self::Unread => None,
        }
    }

    /// The first token of the first passage that begins at byte token `place` or after it; the number of
    /// tokens without such a passage, `None` if that is unknown. `passages` are the ends of the record's
    /// passages in bytes, ascending. The first passage begins at the boundary, byte token 0.
    #[must_use]
    pub fn token_from(&self, passages: &[u32], place: u64) -> Option<u64> {
        let passage = passage_from(passages, place);
        match self {
            Self::Bytes(_) if passage < passages.len() => Some(byte_start(passages, passage)),
            Self::Subword(encoding) if passage < passages.len() => Some(encoding.passage_start(passage)),
            _ => self.count(),
        }
    }
}

/// The first passage that begins at byte token `place` or after it, from 0.
fn passage_from(passages: &[u32], place: u64) -> usize {
    // Byte token t > 0 is byte t - 1: the passage after one that ends at byte e begins at byte token e + 1.
    let begins_before = |end: &u32| u64::from(*end) + 1 < place;
    if place == 0 { 0 } else { 1 + passages.partition_point(begins_before) }
}

/// The first byte token of a passage.
pub(crate) fn byte_start(passages: &[u32], passage: usize) -> u64 {
    let before = passage.checked_sub(1).and_then(|index| passages.get(index));
    before.map_or(0, |end| u64::from(*end) + 1)
}

#[cfg(test)]
pub(crate) mod tests;
