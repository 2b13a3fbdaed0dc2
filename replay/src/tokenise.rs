//! Text to tokens. A record of n tokens of text has n + 1 inputs and n + 1 targets; with bytes:
//!
//! ```text
//! input   256  b1  b2 ... bn      256: a record begins
//! target   b1  b2 ... bn  256     the target of the last byte is the boundary again
//! ```
//!
//! so a model learns to end a record as well as to begin one, and every input has a target of its
//! own record. Tokens of a record are numbered from 0, the boundary.
//!
//! How many byte tokens a record has, its size says. How many tokens a [`Subword`] tokenizer makes
//! of it, only its text says: it is read before a batch is laid out. What must not depend on any
//! text (what a member weighs, where a draw falls, what a buffer may hold) counts byte tokens under
//! every tokenizer.

mod losses;
mod subword;

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_schemas::id::{Seq, Shard};
use xxhash_rust::xxh3::xxh3_128;

pub use subword::{EncodeError, Encoding, LoadError, Subword};

/// How text becomes tokens. Cheap to clone; equal when the hashes are.
#[derive(Debug, Clone, Default)]
pub enum Tokenizer {
    /// One token a byte of UTF-8, 0 to 255; 256 is the boundary, 257 the padding.
    #[default]
    Bytes,
    /// A `tokenizer.json`. One special token of it is the boundary, and the padding too.
    Subword(Arc<Subword>),
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.hash() == other.hash()
    }
}

impl Eq for Tokenizer {}

/// Byte tokens of a record whose text has `bytes` bytes: those, and one for its boundary.
#[must_use]
pub const fn byte_tokens(bytes: u64) -> u64 {
    bytes.saturating_add(1)
}

impl Tokenizer {
    /// The largest token and one: rows that a model's embedding needs.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Bytes => 258,
            Self::Subword(subword) => subword.vocabulary(),
        }
    }

    /// The token before the first of a record, and the target of its last.
    #[must_use]
    pub fn boundary(&self) -> i32 {
        match self {
            Self::Bytes => 256,
            Self::Subword(subword) => subword.boundary(),
        }
    }

    /// The token of a place that holds no text. Its mask is false, so it may be one that text has too.
    #[must_use]
    pub fn pad(&self) -> i32 {
        match self {
            Self::Bytes => 257,
            Self::Subword(subword) => subword.boundary(),
        }
    }

    /// What this tokenizer is, as 32 hexadecimal digits: part of every ticket's config digest.
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

    /// The tokens of a record's text, whose passages end at `passages`, in bytes, rising.
    ///
    /// # Errors
    /// [`EncodeError`] for a text that the tokenizer has no tokens for.
    pub fn encode(&self, text: Arc<str>, passages: &[u32]) -> Result<Tokens, EncodeError> {
        match self {
            Self::Bytes => Ok(Tokens::Bytes(text)),
            Self::Subword(subword) => Ok(Tokens::Subword(Arc::new(subword.encode(&text, passages)?))),
        }
    }

    /// Tokens as a person reads them, boundaries left out.
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

    /// What is known of a record of `bytes` bytes before a batch is laid out.
    #[must_use]
    pub fn known<'a>(&self, contents: &'a Contents, shard: &Shard, seq: Seq, bytes: u64) -> Known<'a> {
        match self {
            Self::Bytes => Known::Bytes(bytes),
            Self::Subword(_) => match contents.get(&(shard.clone(), seq)) {
                None => Known::Unread,
                Some(Some(Tokens::Subword(encoding))) => Known::Subword(encoding),
                Some(_) => Known::Removed,
            },
        }
    }
}

/// The tokens of the records that were read, `None` for one whose text was removed.
pub type Contents = BTreeMap<(Shard, Seq), Option<Tokens>>;

/// The tokens of one record. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Tokens {
    /// The bytes of its text.
    Bytes(Arc<str>),
    /// What a [`Subword`] made of it.
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

    /// Bytes of memory that they take.
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Bytes(text) => text.len(),
            Self::Subword(encoding) => encoding.memory(),
        }
    }

    /// How many they are (equally: how many targets), the boundary among them.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Bytes(text) => byte_tokens(text.len() as u64),
            Self::Subword(encoding) => encoding.count(),
        }
    }

    /// Writes inputs and targets from token `first` on, as many as the shorter of the two slices and
    /// the record have; returns how many.
    pub fn copy(&self, first: u64, inputs: &mut [i32], targets: &mut [i32]) -> usize {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        match self {
            Self::Bytes(text) => {
                let boundary = Tokenizer::Bytes.boundary();
                let tokens = text.as_bytes();
                let token = |index: usize| tokens.get(index).map_or(boundary, |byte| i32::from(*byte));
                shifted(first, tokens.len(), boundary, token, inputs, targets)
            }
            Self::Subword(encoding) => {
                let (tokens, boundary) = (encoding.tokens(), encoding.boundary());
                let token = |index: usize| tokens.get(index).copied().unwrap_or(boundary);
                shifted(first, tokens.len(), boundary, token, inputs, targets)
            }
        }
    }
}

/// Writes token `first` of the record and those after it, of which `token` gives each but the first
/// boundary, `count` of them and the boundary again.
fn shifted(
    first: usize,
    count: usize,
    boundary: i32,
    token: impl Fn(usize) -> i32,
    inputs: &mut [i32],
    targets: &mut [i32],
) -> usize {
    let mut written = 0;
    for (index, (input, target)) in (first..=count).zip(inputs.iter_mut().zip(targets.iter_mut())) {
        *input = index.checked_sub(1).map_or(boundary, &token);
        *target = token(index);
        written += 1;
    }
    written
}

/// What is known of a record's tokens before a batch is laid out.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// Its size says how many there are.
    Bytes(u64),
    /// Its text was read.
    Subword(&'a Encoding),
    /// Its text was removed from the store: how many there were, nobody can say any more.
    Removed,
    /// Its text was not read yet.
    Unread,
}

impl Known<'_> {
    /// How many tokens (equally: targets) it has, at least 1, where that is known.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(byte_tokens(*bytes)),
            Self::Subword(encoding) => Some(encoding.count()),
            Self::Removed | Self::Unread => None,
        }
    }

    /// The first token of the passage that holds byte token `place` of the record: the first one
    /// that begins within the passage, or the record's last where none does. `passages` are the ends
    /// of the record's passages in bytes, rising. The first passage begins at the boundary.
    #[must_use]
    pub fn passage_start(&self, passages: &[u32], place: u64) -> u64 {
        let passage = passage_of(passages, place);
        match self {
            Self::Bytes(_) => byte_start(passages, passage),
            Self::Subword(encoding) => encoding.passage_start(passage),
            Self::Removed | Self::Unread => 0,
        }
    }
}

/// The passage that holds byte token `place`, from 0.
fn passage_of(passages: &[u32], place: u64) -> usize {
    // Byte token t > 0 is byte t - 1; a passage that ends at byte e holds byte tokens up to e.
    passages.partition_point(|end| u64::from(*end) < place)
}

/// The first byte token of a passage.
pub(crate) fn byte_start(passages: &[u32], passage: usize) -> u64 {
    let before = passage.checked_sub(1).and_then(|index| passages.get(index));
    before.map_or(0, |end| u64::from(*end) + 1)
}

#[cfg(test)]
pub(crate) mod tests;
