//! Scores of kept records, by which replay chooses: never a reason to drop one.
//!
//! ```text
//! dedup ─> score ─> write          one stage, every enabled score over each block, in the order of seq
//! ```
//! A [`Score`] sees each kept record once, fills its columns of the table `records`, and then learns the
//! record: a value says what the record was to the stream at that moment. What a score remembers is
//! bounded, and a function of the stored rows and a seed.
//!
//! # How to add a score
//! One file and one line.
//!
//! 1. **Columns.** Look for them in `schemas/src/table/records.rs`; most planned scores have theirs. A new
//!    column is a line there, and raises `FORMAT` in `schemas/src/table/mod.rs`.
//! 2. **The file.** `score/novelty/<name>.rs` (or `score/<name>.rs`), with the definition and its paper in
//!    the first lines, a type that implements [`Score`], and
//!    `pub const ENTRY: Entry = Entry { name: "<name>", .. }`. A score that ranks itself holds a
//!    [`percentile::Percentile`]. Copy `novelty/unseen.rs`: the window there is the state, `Scored` the
//!    score.
//! 3. **The line.** `<name>::ENTRY,` in [`catalogue::CATALOGUE`]. From there the score is known to the
//!    configuration (`score.enabled`, with suggestions), to `--help`, `explain`, the table of
//!    docs/methods.md, the benchmark `score` and the contract suite.
//! 4. **The tests.** `cargo test -p perennial-ingest --lib score` runs the contract suite over the
//!    catalogue (`contract.rs`): the same seed gives the same values, the cut into blocks and the number of
//!    threads change nothing, a restored score goes on as if never interrupted, no text makes it panic, and
//!    every value lies in the range that its column states. Add to the file what the contract cannot know:
//!    a slow twin of the definition, and a hand-made case.
//! 5. **The documents.** A row in the table of docs/methods.md; a test compares the names and columns.
//!
//! # Restoring
//! When the daemon opens a store, the newest kept rows are read backwards, in portions, until every score
//! has what it needs ([`Score::wants`], [`Score::recall`]); then each learns what it collected, oldest
//! first ([`Score::resume`]). A score that can go on from its stored columns asks for columns only; texts
//! are read once for all scores that need them. The start-up time is bounded by the scores' windows, not by
//! the store.

use std::fmt;

use perennial_schemas::id::{Seq, Shard};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::records::{Row, View};

use crate::dedup::near::Sketch;

pub mod catalogue;
pub mod embed;
pub mod novelty;
pub mod percentile;
pub mod stage;
pub mod values;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod ranks;

pub use catalogue::CATALOGUE;
pub use stage::Scores;
pub use values::{Cell, Values};

/// A score: values of kept records, and the memory that they are made from.
///
/// Called from one thread. An implementation may use all cores inside a call; its values must not depend
/// on how many there are.
pub trait Score: fmt::Debug + Send {
    /// Scores `records`, which come in the order of their seq, and learns them: record i is scored before
    /// it is learnt, and after record i - 1 is. Appends one row of cells for each record to `values`, in
    /// the order of [`Entry::columns`]. How records are cut into calls must not change any value.
    fn score(&mut self, records: &[Record<'_>], values: &mut Values);

    /// What it needs of the rows older than those that [`Score::recall`] was given.
    fn wants(&self) -> Want;

    /// Takes some consecutive kept rows, older than all that it was given before. They have at least the
    /// columns, and if it wanted them the texts, of its last [`Score::wants`].
    fn recall(&mut self, older: &Older<'_>);

    /// Learns what it was given, oldest first: from here on it scores as if it had never been interrupted.
    fn resume(&mut self);
}

/// A kept record, as scores see it.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its number in the shard.
    pub seq: Seq,
    /// Bytes of its normal form, the column `length`.
    pub length: u64,
    /// Its text exactly as decoded.
    pub text: &'a str,
    /// Its shingles and the hashes of its words, from the stage before.
    pub sketch: &'a Sketch,
}

/// What a score needs to be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing more.
    Nothing,
    /// These columns of older rows.
    Columns(&'static [&'static str]),
    /// These columns of older rows, and their texts with sketches.
    Texts(&'static [&'static str]),
}

/// Some consecutive kept rows of one shard, in the order of their seq.
#[derive(Debug, Clone, Copy)]
pub struct Older<'a> {
    /// Whether they are of the daemon's own shard. Rows of other shards are older than all own ones.
    pub own: bool,
    /// The rows; columns that were not wanted are null.
    pub rows: View<'a>,
    /// The sketches of their texts, one for each row, where texts were read.
    pub sketches: Option<&'a [Sketch]>,
}

/// What a score may depend on besides the stream.
#[derive(Debug, Clone)]
pub struct Context {
    /// The daemon's shard.
    pub shard: Shard,
    /// The seed of the scores, `score.seed`.
    pub seed: Seed,
}

/// A column of the table `records` that a score fills.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// The lowest and the highest value, of numbers.
    pub range: Option<(f32, f32)>,
    /// Puts a cell into a row.
    pub set: for<'a> fn(&mut Row<'a>, Cell<'a>),
}

/// A line of the catalogue: all that the rest of ingest knows of a score.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its name in `score.enabled`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub summary: &'static str,
    /// The columns it fills.
    pub columns: &'static [Column],
    /// One without memory.
    pub build: fn(&Context) -> Box<dyn Score>,
    /// What a stored row's values say, for `explain`; `None` where the row has none.
    pub explain: fn(&Row<'_>) -> Option<String>,
}
