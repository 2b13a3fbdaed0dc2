//! Tokens of a `tokenizer.json` (Hugging Face `tokenizers`).
//!
//! A record is tokenised as a whole, as its file says, with three exceptions, all of them so that a
//! record is the boundary and its own text: no template of the file adds tokens, truncation and
//! padding of the file are not done, and the literal of a special token in a text is ordinary text.
//! A text that the model makes the boundary of all the same has no tokens: it is an error.
//! A text of more than [`SECTION`] bytes is cut at passages into sections, each tokenised by itself:
//! memory and time stay in proportion.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::Tokenizer as Inner;
use xxhash_rust::xxh3::xxh3_128;

use super::losses::Losses;

/// A section ends at the first passage that ends at least so many bytes after the section's start.
pub const SECTION: usize = 256 << 10;

/// Raised when the same file would give other tokens than before: another section, another rule.
const FORMAT: u32 = 1;

/// How files call the token that ends a text, in small letters alone.
const ENDS: &[&str] = &["endoftext", "endofsentence", "eos"];

/// A `tokenizer.json` that was read.
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

/// A file that is no tokenizer that records can be read with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("names `{path}`, which cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no tokenizer.
    #[error("names `{path}`, which is no `tokenizer.json` of the `tokenizers` library: {why}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It has no such special token, or none that can be told to end a text.
    #[error("cannot be: {why}; the special tokens of `{path}` are {special}")]
    Boundary {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// Its special tokens, each quoted.
        special: String,
    },
    /// Its model leaves out what it does not know.
    #[error(
        "names `{path}`, whose model leaves out the characters that it does not know: it has no `unk_token`, and not a token for every byte"
    )]
    Drops {
        /// The file.
        path: PathBuf,
    },
}

impl LoadError {
    /// What the reader of the message can do.
    #[must_use]
    pub const fn mend(&self) -> &'static str {
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

/// A text that the tokenizer has no tokens for.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The library gives none.
    #[error("the tokenizer has no tokens for the text")]
    Tokens(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The boundary would be among them.
    #[error("the tokenizer makes the boundary `{literal}` of the text's byte {at} and those after it")]
    Boundary {
        /// The boundary as the file spells it.
        literal: String,
        /// The first byte of the text that it stands for, from 0.
        at: usize,
    },
}

impl EncodeError {
    /// What the reader of the message can do.
    #[must_use]
    pub const fn mend(&self) -> &'static str {
        match self {
            Self::Tokens(_) => {
                "use a `batch.tokenizer` that falls back to bytes or has an unknown token, in a job of its own"
            }
            Self::Boundary { .. } => {
                "name a special token that no text spells in `batch.boundary`, in a job of its own"
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
    /// Reads a `tokenizer.json`, and warns of what it [loses](Self::losses). `boundary` is the special
    /// token that begins and ends a record; where absent the file's only one that by its name ends a
    /// text.
    ///
    /// # Errors
    /// [`LoadError`] for a file that cannot be read or is no tokenizer, has no such token, or has one
    /// that is its model's unknown token too, or a model that leaves out what it does not know.
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

    /// As [`Subword::load`], of a file's content and without a warning; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Subword::load`].
    pub fn parse(bytes: &[u8], path: &Path, boundary: Option<&str>) -> Result<Self, LoadError> {
        let format = |why: String| LoadError::Format { path: path.to_owned(), why };
        let mut file: Value = serde_json::from_slice(bytes).map_err(|error| format(error.to_string()))?;
        let ignored = plain(&mut file);
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

    /// The largest token and one.
    #[must_use]
    pub const fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The token that begins and ends a record.
    #[must_use]
    pub const fn boundary(&self) -> i32 {
        self.boundary
    }

    /// The file's content, the boundary and the rules of this module, as 32 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Settings of the file that do not apply to records: `truncation`, `padding`, `dropout`.
    #[must_use]
    pub fn ignored(&self) -> &[&'static str] {
        &self.ignored
    }

    /// Settings of the file under which texts that differ may have the same tokens: `unk_token` where
    /// there are characters that the model does not know, and the types of normalisers and
    /// pre-tokenizers that take text out or make it equal. What is lost is not predicted, so bits per
    /// byte look better than they are.
    #[must_use]
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// The tokens of a text whose passages end at `passages`, in bytes, rising. The boundary is not
    /// among them.
    ///
    /// # Errors
    /// [`EncodeError`] for a text that the tokenizer has no tokens for.
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
        let behind = |first: usize| {
            let character = section.get(first..).and_then(|rest| rest.chars().next());
            first + character.map_or(0, char::len_utf8)
        };
        // The model itself has the literal for a piece: cut within it, it is none.
        let literals = section.match_indices(&self.literal).map(|(first, _)| behind(first));
        let mut cuts: BTreeSet<usize> = literals.collect();
        part = self.cut(section, at, &cuts)?;
        // A normaliser makes the literal of other characters: cut within those too.
        cuts.extend(part.begins(self.boundary).map(|begin| behind(begin.saturating_sub(at))));
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
        // `parse` found every token of the vocabulary to be an i32.
        part.tokens.extend(encoding.get_ids().iter().map(|id| id.cast_signed()));
        part.offsets.extend(encoding.get_offsets().iter().map(|(start, _)| at + start));
        Ok(())
    }

    /// Tokens as a person reads them, boundaries left out; those that are none of the file's too.
    #[must_use]
    pub fn decode(&self, tokens: &[i32]) -> String {
        let text = tokens.iter().filter(|token| **token != self.boundary);
        let ids: Vec<u32> = text.filter_map(|token| u32::try_from(*token).ok()).collect();
        self.inner.decode(&ids, false).unwrap_or_default()
    }
}

/// The tokens of a section, and where in the record's bytes each begins.
#[derive(Debug, Default)]
struct Part {
    tokens: Vec<i32>,
    offsets: Vec<usize>,
}

impl Part {
    /// Where in the record's bytes each `token` begins.
    fn begins(&self, token: i32) -> impl Iterator<Item = usize> {
        let tokens = self.tokens.iter().zip(&self.offsets);
        tokens.filter(move |(other, _)| **other == token).map(|(_, offset)| *offset)
    }
}

impl Encoding {
    /// The tokens of the text, no boundary among them.
    #[must_use]
    pub const fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// The token that begins and ends the record.
    #[must_use]
    pub const fn boundary(&self) -> i32 {
        self.boundary
    }

    /// Tokens (equally: targets) of the record: those of the text and one.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.tokens.len() as u64 + 1
    }

    /// Bytes of the text.
    #[must_use]
    pub const fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Bytes of memory.
    #[must_use]
    pub const fn memory(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.tokens) + size_of_val(&*self.starts)
    }

    /// The first token of the record that lies in passage `passage`, from 0; of the passages beyond
    /// the last, that of the last.
    #[must_use]
    pub fn passage_start(&self, passage: usize) -> u64 {
        let start = self.starts.get(passage).or(self.starts.last());
        start.copied().unwrap_or_default().into()
    }
}

/// Takes out what adds to a text, shortens it, or tokenises it by chance; what a reader of the file
/// may miss of it.
fn plain(file: &mut Value) -> Vec<&'static str> {
    let mut ignored = Vec::new();
    let mut take = |file: Option<&mut Value>, key: &'static str, told: bool| {
        let Some(value) = file.and_then(|file| file.get_mut(key)).filter(|value| !value.is_null()) else {
            return;
        };
        if told {
            ignored.push(key);
        }
        *value = Value::Null;
    };
    take(Some(file), "truncation", true);
    take(Some(file), "padding", true);
    take(Some(file), "post_processor", false);
    take(file.get_mut("model"), "dropout", true);
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

/// The special token `wanted`, or the only one that ends a text by its name; not `unknown`.
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
            "`{}` is the model's unknown token too, so each character that it does not know would end a record",
            one.content
        )),
        ([one], _) | ([one, ..], Some(_)) => Ok(one),
        ([], Some(wanted)) => Err(format!("`{wanted}` is no special token")),
        ([], None) => Err("none of the special tokens ends a text by its name".to_owned()),
        (_, None) => Err("more than one special token ends a text by its name".to_owned()),
    }
}

fn ends_text(content: &str) -> bool {
    let name: String = content.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    content == "</s>" || ENDS.contains(&name.as_str())
}

/// The ranges of bytes that are tokenised each by itself.
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

/// The first token of each passage, rising: the first that begins at or after the passage's first
/// byte, or the last of the record's `tokens` + 1 where none does.
fn passage_starts(offsets: impl Iterator<Item = usize>, tokens: usize, passages: &[u32]) -> Box<[u32]> {
    // The first passage begins at the boundary; the last end begins none.
    let mut starts = vec![0];
    let begins = passages.split_last().map_or(&[][..], |(_, begins)| begins);
    let mut begins = begins.iter().map(|end| usize::try_from(*end).unwrap_or(usize::MAX)).peekable();
    for (token, offset) in (1_u32..).zip(offsets) {
        while begins.next_if(|begin| *begin <= offset).is_some() {
            starts.push(token);
        }
    }
    let last = u32::try_from(tokens).unwrap_or(u32::MAX);
    starts.extend(begins.map(|_| last));
    starts.into()
}
