//! Reads sources into blocks of readings, each with its position.
//!
//! ```text
//! walk (which files, in order) ─> file (which generation, from where) ─> cut (records) ─> blocks
//! stdin ─────────────────────────────────────────────────────────────────┘                  │
//! parquet (which generation, from which row) ───────────────────────────────────────────────┘
//! ```
//!
//! The order of reading is a function of the input: sources by name, files by path, records as they
//! come. Followed sources are looked at again in the same order, so a file that grew is read on after
//! all others were looked at.
//!
//! Files of JSON Lines and of plain text are plain, gzip (of any number of members) or zstd (of any number
//! of frames, with a window of up to 128 MiB), told apart by the ending of their name.
//!
//! # Positions
//! A position is how many *decoded* bytes of a file have become readings. A reading ends after its
//! line end; blank lines are no readings and belong to nobody. A line or paragraph without its end counts
//! when the source is not followed (or the run is to end by itself), else it waits for it.
//!
//! A file that breaks off inside its compression is one dead letter at the decoded offset of the
//! break; the break counts as one byte, so that it has a position like everything else. When such a
//! file is mended, it is a new generation and read from its beginning: the first reading had cut a
//! line in two.
//!
//! A text file that is one document ([`config::Record::File`]) is read whole or not at all: it does not
//! grow, it is another generation when anything of it changed. While it is followed it is read when it
//! looked the same twice, so that a half-written one is not taken.
//!
//! What lies in a folder and cannot be opened, or has a name that is not UTF-8, is passed over with one
//! warning and tried again at the next look; a path that the configuration names is an error.
//!
//! The positions of a Parquet file are rows: see the module `parquet`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_program::error::{Kind, ProgramError};
use perennial_store::check::position_app_id;
use xxhash_rust::xxh3::xxh3_64;

use crate::config;

mod blocks;
mod cut;
mod file;
mod outlet;
mod parquet;
mod stdin;
mod walk;

#[cfg(test)]
mod tests;

pub use outlet::Outlet;

use blocks::Blocks;
use file::Files;

/// Where one file stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// How often it had been replaced or had shrunk.
    pub generation: u64,
    /// The mark of its first bytes, see [`mark`], or of its [`digest`]; `None` for the standard input.
    pub head: Option<i64>,
    /// Decoded bytes, or rows, consumed.
    pub end: u64,
    /// Whether the last of them stands for the place where it breaks off.
    pub broken: bool,
}

/// A file of a source: its source and, unless it is the standard input, its path below the source's root.
pub type FileName = (Arc<str>, Option<Arc<str>>);

/// Where each file stands: its newest generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<FileName, Position>);

impl Positions {
    /// No file.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Where this file stands.
    #[must_use]
    pub fn get(&self, name: &FileName) -> Option<&Position> {
        self.0.get(name)
    }

    /// Says where a file stands now.
    pub fn set(&mut self, name: FileName, position: Position) {
        self.0.insert(name, position);
    }

    /// Moves every file that `later` names to where it says.
    pub fn advance(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    /// All files in order.
    pub fn iter(&self) -> impl Iterator<Item = (&FileName, &Position)> {
        self.0.iter()
    }
}

/// The application transaction that holds the position of one generation of a file.
#[must_use]
pub fn transaction_name(name: &FileName, generation: u64) -> String {
    position_app_id(&name.0, name.1.as_deref().unwrap_or_default(), generation)
}

/// The most bytes by which a file is recognised.
pub const MARKED: usize = 4096;

/// The mark by which a generation of a file is recognised: the high 52 bits of the xxh3-64 of its first
/// decoded bytes, and in the low 12 bits how many bytes that were, less one.
///
/// The count is what there was when the generation was first read, at most [`MARKED`], so a file that
/// grows keeps its mark. `None` of no bytes.
#[must_use]
pub fn mark(first: &[u8]) -> Option<i64> {
    let first = first.get(..MARKED).unwrap_or(first);
    let count = first.len().checked_sub(1)? as u64;
    Some((xxh3_64(first) & !(MARKED as u64 - 1) | count).cast_signed())
}

/// How many bytes a mark covers.
#[must_use]
pub const fn marked_length(mark: i64) -> usize {
    (mark as usize & (MARKED - 1)) + 1
}

/// The mark of a file that does not grow, by the hash of what identifies it and its length.
#[must_use]
pub fn digest(hash: u128, length: u64) -> Option<i64> {
    mark(&[&hash.to_be_bytes()[..], &length.to_be_bytes()].concat())
}

/// A source that cannot be read at all. What is wrong with single records is a dead letter, never an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The path of a source leads nowhere.
    #[error("source `{name}`: there is no `{path}`")]
    Missing {
        /// The source.
        name: String,
        /// Its path.
        path: PathBuf,
    },
    /// A file or folder cannot be read.
    #[error("source `{name}`: cannot {act} `{path}`")]
    Io {
        /// The source.
        name: String,
        /// What was tried.
        act: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file name that a column of text cannot hold.
    #[error("source `{name}`: the name of `{path}` is not UTF-8")]
    Name {
        /// The source.
        name: String,
        /// The file.
        path: PathBuf,
    },
}

impl SourceError {
    /// The file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path, .. } | Self::Io { path, .. } | Self::Name { path, .. } => path,
        }
    }
}

impl ProgramError for SourceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::NotFound,
            Self::Io { .. } => Kind::Unavailable,
            Self::Name { .. } => Kind::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => {
                Some("correct the `path` of the source, or make the file or folder".to_owned())
            }
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("give the user that runs this program read access".to_owned())
            }
            Self::Name { .. } => Some("rename the file; its name is part of its position".to_owned()),
            Self::Io { .. } => None,
        }
    }
}

/// Why reading ended before the sources did.
#[derive(Debug)]
pub(crate) enum End {
    /// Nobody takes the blocks any more, or the program is to stop.
    Halted,
    /// A source cannot be read.
    Failed(SourceError),
}

impl From<SourceError> for End {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

/// Reads the sources until they end (with `once`, or where none is followed) or the outlet says stop.
///
/// `positions` is where each file stands, `first` the seq of the next reading.
///
/// # Errors
/// [`SourceError`] where a source cannot be read at all; what was read before is in the outlet.
pub fn read(
    sources: &[config::Source],
    limits: config::Read,
    positions: Positions,
    first: perennial_schemas::id::Seq,
    once: bool,
    outlet: Outlet,
) -> Result<(), SourceError> {
    let mut ordered: Vec<&config::Source> = sources.iter().collect();
    ordered.sort_by(|a, b| a.name.cmp(&b.name));
    let mut blocks = Blocks::new(limits, positions, first, outlet);
    let ended = passes(&ordered, once, &mut blocks);
    // What was read before a stop or a failure is good.
    let flushed = blocks.flush();
    match ended.and(flushed) {
        Ok(()) | Err(End::Halted) => Ok(()),
        Err(End::Failed(error)) => Err(error),
    }
}

/// Looks at all sources, and again at the followed ones.
fn passes(sources: &[&config::Source], once: bool, blocks: &mut Blocks) -> Result<(), End> {
    let mut files = Files::default();
    for source in sources {
        read_source(source, once, &mut files, blocks)?;
    }
    let followed: Vec<_> = sources.iter().filter(|source| source.follow && !once).collect();
    while !followed.is_empty() {
        blocks.flush()?;
        blocks.outlet.pause(blocks.limits.poll.get())?;
        for source in &followed {
            read_source(source, once, &mut files, blocks)?;
        }
    }
    Ok(())
}

fn read_source(
    source: &config::Source,
    once: bool,
    files: &mut Files,
    blocks: &mut Blocks,
) -> Result<(), End> {
    if source.path == "-" {
        return stdin::read(source, blocks);
    }
    let waits = source.follow && !once;
    let walk = walk::files(source, waits)?;
    files.pass_over(source, &walk.passed);
    walk.refused.iter().for_each(|error| files.refuse(source, error));
    files.forget(source, &walk);
    for found in &walk.found {
        files.read(source, found, waits, blocks)?;
    }
    Ok(())
}

/// What a record of a source is that comes in bytes.
const fn record(source: &config::Source) -> config::Record {
    match source.format {
        config::Format::Text => source.record,
        config::Format::Jsonl | config::Format::Parquet => config::Record::Line,
    }
}
