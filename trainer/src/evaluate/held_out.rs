//! Held-out slices: texts that never enter the stream, by source and period. Only this module and the report
//! know a slice's name and dates.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use perennial_program::error::{Kind, ProgramError};
use perennial_replay::tokenise::{EncodeError, Tokenizer};
use serde::{Deserialize, Serialize};

use super::slices::Document;

/// An entry of the list of slices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceEntry {
    /// Its name.
    pub name: String,
    /// JSON Lines with `id` and `text`, plain or `.zst`, relative to the list.
    pub file: PathBuf,
    /// The source of the stream whose text it represents.
    pub source: String,
    /// BCP 47 tag.
    pub language: String,
    /// `latin`, `cyrillic`, `han`, ...
    pub script: String,
    /// First day of its period, inclusive, as `1803-03-14`.
    pub from: String,
    /// Last day of its period, inclusive.
    pub to: String,
}

#[derive(Deserialize)]
struct List {
    slice: Vec<SliceEntry>,
}

#[derive(Deserialize)]
struct Line {
    id: String,
    text: String,
}

/// A slice with the documents to score.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Its entry in the list.
    pub entry: SliceEntry,
    /// The documents' ids.
    pub ids: Vec<String>,
    /// The documents.
    pub documents: Vec<Document>,
}

/// Slices that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HeldOutError {
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The list is malformed.
    #[error("`{path}` is not a list of slices")]
    List {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An invalid period.
    #[error("the period of slice `{name}` in `{path}` is from `{from}` to `{to}`")]
    Period {
        /// The list.
        path: PathBuf,
        /// The slice.
        name: String,
        /// Its first day.
        from: String,
        /// Its last day.
        to: String,
    },
    /// A repeated name: its scores would be ambiguous.
    #[error("{what} `{name}` comes twice in `{path}`")]
    Twice {
        /// What it names.
        what: &'static str,
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// A line is not a document.
    #[error("line {line} of `{path}` is not a document")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// A text cannot be tokenised.
    #[error("line {line} of `{path}` cannot be tokenised")]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The tokenizer's error.
        source: EncodeError,
    },
    /// A slice has no text.
    #[error("slice `{name}` has no text in `{path}`")]
    Empty {
        /// The slice.
        name: String,
        /// Its file.
        path: PathBuf,
    },
}

impl ProgramError for HeldOutError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } if source.kind() == ErrorKind::NotFound => Kind::NotFound,
            Self::Read { source, .. } if source.raw_os_error().is_some() => Kind::Unavailable,
            // Decompression failed, or the text is not UTF-8.
            Self::Read { .. }
            | Self::List { .. }
            | Self::Period { .. }
            | Self::Twice { .. }
            | Self::Line { .. }
            | Self::Tokens { .. }
            | Self::Empty { .. } => Kind::Input,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::List { .. } => {
                Some("each `[[slice]]` needs name, file, source, language, script, from and to".to_owned())
            }
            Self::Line { .. } => {
                Some("each line is a JSON object with the strings `id` and `text`".to_owned())
            }
            Self::Period { .. } => {
                Some("write both days as `1803-03-14`, the first one not after the last".to_owned())
            }
            Self::Tokens { source, .. } => Some(source.hint().to_owned()),
            Self::Read { .. } | Self::Twice { .. } | Self::Empty { .. } => None,
        }
    }
}

/// The entries of a list of slices, in its order.
///
/// # Errors
/// [`HeldOutError`] if the list cannot be read.
pub fn list(path: &Path) -> Result<Vec<SliceEntry>, HeldOutError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| HeldOutError::Read { path: path.to_owned(), source })?;
    let list: List = toml::from_str(&text)
        .map_err(|source| HeldOutError::List { path: path.to_owned(), source: Box::new(source) })?;
    let mut names = BTreeSet::new();
    for entry in &list.slice {
        let place = || (path.to_owned(), entry.name.clone());
        if !(is_day(&entry.from) && is_day(&entry.to) && entry.from <= entry.to) {
            let ((path, name), from, to) = (place(), entry.from.clone(), entry.to.clone());
            return Err(HeldOutError::Period { path, name, from, to });
        }
        if !names.insert(&entry.name) {
            let (path, name) = place();
            return Err(HeldOutError::Twice { what: "slice", name, path });
        }
    }
    Ok(list.slice)
}

/// Whether the text is a day of the form `1803-03-14`; such days sort as text.
fn is_day(text: &str) -> bool {
    let is_valid = |(index, byte): (usize, u8)| match index {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(is_valid)
}

/// The slices that `path` lists, as tokens. Each has documents in the file's order until `slice_bytes` are
/// reached, and each document is cut to at most `document_bytes` at a character boundary.
///
/// # Errors
/// [`HeldOutError`] if the list or a slice cannot be read or tokenised.
pub fn load(
    path: &Path,
    tokenizer: &Tokenizer,
    slice_bytes: u64,
    document_bytes: usize,
) -> Result<Vec<Slice>, HeldOutError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    list(path)?
        .into_iter()
        .map(|entry| {
            let file = folder.join(&entry.file);
            read(&file, entry, tokenizer, slice_bytes, document_bytes)
        })
        .collect()
}

fn read(
    file: &Path,
    entry: SliceEntry,
    tokenizer: &Tokenizer,
    slice_bytes: u64,
    document_bytes: usize,
) -> Result<Slice, HeldOutError> {
    let failed = |source| HeldOutError::Read { path: file.to_owned(), source };
    let (mut ids, mut documents, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut known = BTreeSet::new();
    for (number, line) in open(file).map_err(failed)?.lines().enumerate() {
        if bytes >= slice_bytes {
            break;
        }
        let line = line.map_err(failed)?;
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line).map_err(|source| HeldOutError::Line {
            path: file.to_owned(),
            line: number + 1,
            source,
        })?;
        if !known.insert(line.id.clone()) {
            return Err(HeldOutError::Twice { what: "document", name: line.id, path: file.to_owned() });
        }
        let cut = line.text.floor_char_boundary(document_bytes);
        let text = line.text.get(..cut).unwrap_or_default();
        let document = Document::of(tokenizer, text).map_err(|source| HeldOutError::Tokens {
            path: file.to_owned(),
            line: number + 1,
            source,
        })?;
        if document.bytes > 0 {
            bytes += document.bytes;
            ids.push(line.id);
            documents.push(document);
        }
    }
    if documents.is_empty() {
        return Err(HeldOutError::Empty { name: entry.name, path: file.to_owned() });
    }
    Ok(Slice { entry, ids, documents })
}

fn open(file: &Path) -> std::io::Result<Box<dyn BufRead>> {
    let plain = std::fs::File::open(file)?;
    Ok(if file.extension().is_some_and(|extension| extension == "zst") {
        Box::new(BufReader::new(zstd::Decoder::new(plain)?))
    } else {
        Box::new(BufReader::new(plain))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_slices_load_within_their_bounds() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/slices.toml");
        let slices = load(&path, &Tokenizer::Bytes, 6_000, 1_000).unwrap();
        assert_eq!(slices.len(), 9);
        for slice in &slices {
            let bytes: u64 = slice.documents.iter().map(|document| document.bytes).sum();
            assert!((6_000..7_000).contains(&bytes), "{}: {bytes}", slice.entry.name);
            assert_eq!(slice.ids.len(), slice.documents.len());
            assert!(slice.documents.iter().all(|document| document.bytes <= 1_000));
        }
    }

    #[test]
    fn unreadable_files_are_refused_with_their_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slices.toml");
        assert!(matches!(load(&path, &Tokenizer::Bytes, 1, 1), Err(HeldOutError::Read { .. })));
        std::fs::write(&path, "[[slice]]\nname = \"a\"\n").unwrap();
        assert!(matches!(load(&path, &Tokenizer::Bytes, 1, 1), Err(HeldOutError::List { .. })));
        let entry = "[[slice]]\nname='a'\nfile='a.jsonl'\nsource='s'\nlanguage='en'\nscript='latin'\n\
                     from='1803-03-14'\nto='1999-12-31'\n";
        for wrong in ["from='1803'", "from='2000-01-01'"] {
            std::fs::write(&path, entry.replace("from='1803-03-14'", wrong)).unwrap();
            assert!(matches!(list(&path), Err(HeldOutError::Period { .. })), "{wrong}");
        }
        std::fs::write(&path, entry.repeat(2)).unwrap();
        assert!(matches!(list(&path), Err(HeldOutError::Twice { what: "slice", .. })));
        std::fs::write(&path, entry).unwrap();
        std::fs::write(folder.path().join("a.jsonl"), "{\"id\":\"x\",\"text\":\"é\"}\n{\"id\":1}\n").unwrap();
        assert!(matches!(load(&path, &Tokenizer::Bytes, 100, 100), Err(HeldOutError::Line { line: 2, .. })));
        // A character that does not fit is not split.
        assert!(matches!(load(&path, &Tokenizer::Bytes, 1, 1), Err(HeldOutError::Line { line: 2, .. })));
        std::fs::write(folder.path().join("a.jsonl"), "{\"id\":\"x\",\"text\":\"a\"}\n".repeat(2)).unwrap();
        let twice = load(&path, &Tokenizer::Bytes, 100, 100).unwrap_err();
        assert!(matches!(&twice, HeldOutError::Twice { what: "document", name, .. } if name == "x"));
        std::fs::write(folder.path().join("a.jsonl"), b"\xff\n").unwrap();
        assert_eq!(load(&path, &Tokenizer::Bytes, 100, 100).unwrap_err().kind(), Kind::Input);
        std::fs::write(folder.path().join("a.jsonl"), "{\"id\":\"x\",\"text\":\"\"}\n").unwrap();
        assert!(matches!(load(&path, &Tokenizer::Bytes, 1, 1), Err(HeldOutError::Empty { .. })));
    }
}
