//! Tokens of a `tokenizer.json` (Hugging Face `tokenizers`).
//!
//! A record is tokenised as a whole according to the file, with three exceptions, so that a record is the
//! boundary and its own text: templates of the file add no tokens, truncation and padding are disabled, and
//! the literal of a special token in a text is ordinary text. A text that would still yield the boundary
//! token is an error. A text of more than [`SECTION`] bytes is cut at passages into sections that are
//! tokenised separately, so memory and time are linear in its size.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::Tokenizer as Inner;
use xxhash_rust::xxh3::xxh3_128;

use super::losses::Losses;

/// A section ends at the first end of a passage that is at least this many bytes after the section's start.
pub const SECTION: usize = 256 << 10;

/// The version of these rules; raised if the same file would give other tokens than before.
const FORMAT: u32 = 1;

/// Names of the token that ends a text, in lower case without punctuation.
const ENDS: &[&str] = &["endoftext", "endofsentence", "eos"];

/// A tokenizer of a `tokenizer.json`.
#[derive(Debug)]
pub struct Subword {
    inner: Inner,
    literal: String,
    boundary: i32,
    vocabulary: usize,
    hash: String,
    ignored: Vec<&'static str>,
    losses: Vec<String>,
}

/// A tokenizer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("names `{path}`, which cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not a tokenizer.
    #[error("names `{path}`, which is not a `tokenizer.json` of the `tokenizers` library: {why}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// It has no suitable special token.
    #[error("cannot be: {why}; the special tokens of `{path}` are {special}")]
    Boundary {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
        /// Its special tokens, each quoted.
        special: String,
    },
    /// Its model drops unknown characters.
    #[error(
        "names `{path}`, whose model drops unknown characters: it has no `unk_token`, and not a token for every byte"
    )]
    Drops {
        /// The file.
        path: PathBuf,
    },
}

impl LoadError {
    /// The remedy.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => "give `bytes` or the path of a `tokenizer.json`",
            Self::Format { .. } => "give the file that the library's `save` writes",
            Self::Boundary { .. } => "name the one that ends a text in `batch.boundary`",
            Self::Drops { .. } => {
                "give a byte-level file that was trained with the whole byte alphabet, one with `byte_fallback` and its 256 tokens, or one with an `unk_token`"
            }
        }
    }
}

/// A text that cannot be tokenised.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The library failed.
    #[error("the tokenizer has no tokens for the text")]
    Tokens(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The tokens would contain the boundary.
    #[error("the tokenizer makes the boundary `{literal}` of the text's byte {at} and those after it")]
    Boundary {
        /// The boundary as the file spells it.
        literal: String,
        /// The first byte of the text that becomes the boundary, from 0.
        at: usize,
    },
}

impl EncodeError {
    /// The remedy.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Tokens(_) => {
                "start a new job with a `batch.tokenizer` that falls back to bytes or has an unknown token"
            }
            Self::Boundary { .. } => {
                "start a new job with a special token in `batch.boundary` that no text spells"
            }
        }
    }
}

/// The tokens of one record's text, and the first token of each passage.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoding {
    boundary: i32,
    tokens: Box<[i32]>,
    starts: Box<[u32]>,
    text_bytes: u64,
}

/// A special token of the file.
struct Special {
    content: String,
    id: u32,
}

impl Subword {
    /// Reads a `tokenizer.json`, and warns about text that it [loses](Self::losses). `boundary` is the
    /// special token that begins and ends a record; absent: the file's only one whose name means the end of a
    /// text.
    ///
    /// # Errors
    /// [`LoadError`] if the file cannot be read or is not a tokenizer, if it has no such token, if that token
    /// is also its model's unknown token, or if its model drops unknown characters.
    pub fn load(path: &Path, boundary: Option<&str>) -> Result<Self, LoadError> {
        let bytes =
            std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let subword = Self::parse(&bytes, path, boundary)?;
        for setting in &subword.losses {
            let file = path.display();
            tracing::warn!(setting, %file, "the tokenizer loses text: bits per byte look better than they are");
        }
        Ok(subword)
    }

    /// As [`Subword::load`], from a file's content and without a warning; `path` is for errors.
    ///
    /// # Errors
    /// As [`Subword::load`].
    pub fn parse(bytes: &[u8], path: &Path, boundary: Option<&str>) -> Result<Self, LoadError> {
        let format = |why: String| LoadError::Format { path: path.to_owned(), why };
        let mut file: Value = serde_json::from_slice(bytes).map_err(|error| format(error.to_string()))?;
        let ignored = disable_settings(&mut file);
        let special = special_tokens(&file).ok_or_else(|| format("it lists no `added_tokens`".to_owned()))?;
        let mut inner: Inner =
            serde_json::from_value(file.clone()).map_err(|error| format(error.to_string()))?;
        inner.set_encode_special_tokens(true);
        for Special { content, id } in &special {
            if inner.token_to_id(content) != Some(*id) {
                let found = inner.token_to_id(content).map_or("no id".to_owned(), |id| format!("id {id}"));
                return Err(format(format!("it gives `{content}` the id {id}, its vocabulary {found}")));
            }
        }
        let losses = Losses::of(&file, &inner);
        if losses.drops {
            return Err(LoadError::Drops { path: path.to_owned() });
        }
        let chosen = choose(&special, boundary, losses.unknown).map_err(|why| {
            let names: Vec<String> = special.iter().map(|token| format!("`{}`", token.content)).collect();
            let special = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            LoadError::Boundary { path: path.to_owned(), why, special }
        })?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or_default();
        let numbers = (i32::try_from(chosen.id), i32::try_from(largest), usize::try_from(largest));
        let (Ok(id), Ok(_), Ok(largest)) = numbers else {
            return Err(format(format!("token {largest} is beyond the largest, {}", i32::MAX)));
        };
        let content = xxh3_128(bytes);
        let what = format!("tokenizer.json {content:032x}: boundary {id}, pad {id}, format {FORMAT}");
        let hash = format!("{:032x}", xxh3_128(what.as_bytes()));
        let (literal, vocabulary, losses) = (chosen.content.clone(), largest + 1, losses.settings);
        Ok(Self { inner, literal, boundary: id, vocabulary, hash, ignored, losses })
    }

    /// The largest token plus one.
    #[must_use]
    pub const fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The token that begins and ends a record.
    #[must_use]
    pub const fn boundary(&self) -> i32 {
        self.boundary
    }

    /// Hash of the file's content, the boundary and the rules of this module, 32 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Settings of the file that are ignored: `truncation`, `padding`, `dropout`.
    #[must_use]
    pub fn ignored(&self) -> &[&'static str] {
        &self.ignored
    }

    /// Settings of the file under which different texts may have the same tokens: `unk_token` if the model
    /// has unknown characters, and the types of normalisers and pre-tokenizers that remove or unify text.
    /// Lost text is not predicted, so bits per byte are too low.
    #[must_use]
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// The tokens of a text without the boundary; `passages` are the ends of its passages in bytes,
    /// ascending.
    ///
    /// # Errors
    /// [`EncodeError`] if the text cannot be tokenised.
    pub fn encode(&self, text: &str, passages: &[u32]) -> Result<Encoding, EncodeError> {
        let sections = sections(text, passages);
        let parts: Vec<Part> =
            sections.into_par_iter().map(|range| self.section(text, range)).collect::<Result<_, _>>()?;
        let tokens: Box<[i32]> = parts.iter().flat_map(|part| &part.tokens).copied().collect();
        let offsets = || parts.iter().flat_map(|part| &part.offsets).copied();
        let starts = passage_starts(offsets(), tokens.len(), passages);
        Ok(Encoding { boundary: self.boundary, tokens, starts, text_bytes: text.len() as u64 })
    }

    fn section(&self, text: &str, range: Range<usize>) -> Result<Part, EncodeError> {
        let (section, at) = (text.get(range.clone()).unwrap_or_default(), range.start);
        let mut part = self.cut(section, at, &BTreeSet::new())?;
        if part.begins(self.boundary).next().is_none() {
            return Ok(part);
        }
        let after_character = |first: usize| {
            let character = section.get(first..).and_then(|rest| rest.chars().next());
            first + character.map_or(0, char::len_utf8)
        };
        // The model's own vocabulary may contain the literal: a cut inside prevents the token.
        let literals = section.match_indices(&self.literal).map(|(first, _)| after_character(first));
        let mut cuts: BTreeSet<usize> = literals.collect();
        part = self.cut(section, at, &cuts)?;
        // A normaliser may make the literal from other characters: cut inside those too.
        cuts.extend(part.begins(self.boundary).map(|begin| after_character(begin.saturating_sub(at))));
        part = self.cut(section, at, &cuts)?;
        if let Some(at) = part.begins(self.boundary).next() {
            return Err(EncodeError::Boundary { literal: self.literal.clone(), at });
        }
        Ok(part)
    }

    /// The tokens of `section`, which begins at byte `at` of its record, cut at `cuts`.
    fn cut(&self, section: &str, at: usize, cuts: &BTreeSet<usize>) -> Result<Part, EncodeError> {
        let (mut part, mut start) = (Part::default(), 0);
        for end in cuts.iter().copied().chain([section.len()]) {
            let piece = section.get(start..end).unwrap_or_default();
            self.append(piece, at + start, &mut part)?;
            start = end;
        }
        Ok(part)
    }

    /// Appends the tokens of `text`, which begins at byte `at` of its record.
    fn append(&self, text: &str, at: usize, part: &mut Part) -> Result<(), EncodeError> {
        if text.is_empty() {
            return Ok(());
        }
        let encoding = self.inner.encode(text, false).map_err(EncodeError::Tokens)?;
        // `parse` checked that every token of the vocabulary is an i32.
        part.tokens.extend(encoding.get_ids().iter().map(|id| id.cast_signed()));
        part.offsets.extend(encoding.get_offsets().iter().map(|(start, _)| at + start));
        Ok(())
    }

    /// The text of tokens, without boundaries and without tokens that the file does not have.
    #[must_use]
    pub fn decode(&self, tokens: &[i32]) -> String {
        let text = tokens.iter().filter(|token| **token != self.boundary);
        let ids: Vec<u32> = text.filter_map(|token| u32::try_from(*token).ok()).collect();
        self.inner.decode(&ids, false).unwrap_or_default()
    }
}

/// The tokens of a section, and the offset in the record's bytes at which each begins.
#[derive(Debug, Default)]
struct Part {
    tokens: Vec<i32>,
    offsets: Vec<usize>,
}

impl Part {
    /// The offsets in the record's bytes at which `token` begins.
    fn begins(&self, token: i32) -> impl Iterator<Item = usize> {
        let tokens = self.tokens.iter().zip(&self.offsets);
        tokens.filter(move |(other, _)| **other == token).map(|(_, offset)| *offset)
    }
}

impl Encoding {
    /// The tokens of the text, without the boundary.
    #[must_use]
    pub const fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// The token that begins and ends the record.
    #[must_use]
    pub const fn boundary(&self) -> i32 {
        self.boundary
    }

    /// Number of tokens, which is the number of targets: those of the text plus one.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.tokens.len() as u64 + 1
    }

    /// Bytes of the text.
    #[must_use]
    pub const fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Size in memory, in bytes.
    #[must_use]
    pub const fn memory(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.tokens) + size_of_val(&*self.starts)
    }

    /// The first token of passage `passage`, from 0; for a passage after the last one, that of the last one.
    #[must_use]
    pub fn passage_start(&self, passage: usize) -> u64 {
        let start = self.starts.get(passage).or(self.starts.last());
        start.copied().unwrap_or_default().into()
    }
}

/// Disables settings that add to a text, shorten it, or tokenise it randomly; returns those to report as
/// ignored.
fn disable_settings(file: &mut Value) -> Vec<&'static str> {
    let mut ignored = Vec::new();
    let mut disable = |file: Option<&mut Value>, key: &'static str, report: bool| {
        let Some(value) = file.and_then(|file| file.get_mut(key)).filter(|value| !value.is_null()) else {
            return;
        };
        if report {
            ignored.push(key);
        }
        *value = Value::Null;
    };
    disable(Some(file), "truncation", true);
    disable(Some(file), "padding", true);
    disable(Some(file), "post_processor", false);
    disable(file.get_mut("model"), "dropout", true);
    ignored
}

fn special_tokens(file: &Value) -> Option<Vec<Special>> {
    let tokens = file.get("added_tokens")?.as_array()?;
    let special = tokens.iter().filter(|token| token.get("special").and_then(Value::as_bool) == Some(true));
    let read = |token: &Value| {
        let content = token.get("content")?.as_str()?.to_owned();
        Some(Special { content, id: u32::try_from(token.get("id")?.as_u64()?).ok()? })
    };
    special.map(read).collect()
}

/// The special token `wanted`, or the only one whose name means the end of a text; not `unknown`.
fn choose<'a>(
    special: &'a [Special],
    wanted: Option<&str>,
    unknown: Option<u32>,
) -> Result<&'a Special, String> {
    let ends: Vec<&Special> = special
        .iter()
        .filter(|token| wanted.map_or_else(|| ends_text(&token.content), |wanted| token.content == wanted))
        .collect();
    match (ends.as_slice(), wanted) {
        ([one], _) | ([one, ..], Some(_)) if Some(one.id) == unknown => Err(format!(
            "`{}` is the model's unknown token too, so each unknown character would end a record",
            one.content
        )),
        ([one], _) | ([one, ..], Some(_)) => Ok(one),
        ([], Some(wanted)) => Err(format!("`{wanted}` is not a special token")),
        ([], None) => Err("it has no special token whose name means the end of a text".to_owned()),
        (_, None) => Err("it has more than one special token whose name means the end of a text".to_owned()),
    }
}

fn ends_text(content: &str) -> bool {
    let name: String = content.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    content == "</s>" || ENDS.contains(&name.as_str())
}

/// The byte ranges that are tokenised separately.
fn sections(text: &str, passages: &[u32]) -> Vec<Range<usize>> {
    let mut sections = Vec::new();
    let mut start = 0;
    for end in passages.iter().filter_map(|end| usize::try_from(*end).ok()) {
        if end < text.len() && end.saturating_sub(start) >= SECTION && text.is_char_boundary(end) {
            sections.push(start..end);
            start = end;
        }
    }
    sections.push(start..text.len());
    sections
}

/// The first token of each passage, ascending: the first one that begins at or after the passage's first
/// byte, or the last of the record's `tokens` + 1 if no token has it.
#[expect(clippy::expect_used, reason = "the ends of a text's passages are 32-bit offsets")]
fn passage_starts(offsets: impl Iterator<Item = usize>, tokens: usize, passages: &[u32]) -> Box<[u32]> {
    // The first passage begins at the boundary; no passage begins at the last end.
    let mut starts = vec![0];
    let begins = passages.split_last().map_or(&[][..], |(_, begins)| begins);
    let mut begins = begins.iter().map(|end| *end as usize).peekable();
    for (token, offset) in (1_u32..).zip(offsets) {
        while begins.next_if(|begin| *begin <= offset).is_some() {
            starts.push(token);
        }
    }
    let last = u32::try_from(tokens).expect("a text has fewer than 2^32 tokens");
    starts.extend(begins.map(|_| last));
    starts.into()
}
