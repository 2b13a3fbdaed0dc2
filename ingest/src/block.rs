//! What travels from stage to stage: readings, what became of each, and the tally that must balance.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, LargeStringArray};
use perennial_schemas::id::{RecordId, Seq, Shard};
use perennial_schemas::table::records::{self, MatchKind, RAW_LIMIT, Reason};
use perennial_schemas::text::Identity;

use crate::config;
use crate::dedup::near::{Match, Sketch};
use crate::score::{Entry, Values};
use crate::source::Positions;

/// Some consecutive readings of the shard, on their way from `source` to `write`.
///
/// Position and tally travel with the rows, so that any prefix of the blocks is a correct commit.
/// How readings are cut into blocks does not change the rows, except for the time of ingest.
#[derive(Debug, Default)]
pub struct Block {
    /// What was read.
    pub readings: Readings,
    /// What became of it: one row a reading, in the same order; empty before `normalise`.
    pub rows: Rows,
    /// The positions of the files it read from, after its last reading.
    pub positions: Positions,
    /// How many of its readings had which outcome.
    pub tally: Tally,
    /// The sketches of the rows that `dedup` kept, one place a row: what `score` works on. Empty before
    /// and after.
    pub sketches: Vec<Option<Sketch>>,
    /// What `score` says of the rows that it scored; empty before.
    pub scores: BlockScores,
}

/// The scores of some rows of a block.
#[derive(Debug, Clone, Default)]
pub struct BlockScores {
    /// The rows, by their index in [`Rows::list`], ascending.
    pub rows: Vec<usize>,
    /// For each score, the values of these rows.
    pub values: Vec<(&'static Entry, Values)>,
}

impl BlockScores {
    /// Puts the values of the row with this index, if it was scored, into its row of the table.
    pub fn fill<'a>(&'a self, index: usize, row: &mut records::Row<'a>) {
        let Ok(place) = self.rows.binary_search(&index) else { return };
        for (entry, values) in &self.values {
            for (column, cell) in entry.columns.iter().zip(values.row(place)) {
                (column.set)(row, cell);
            }
        }
    }

    fn weight(&self) -> usize {
        let values: usize = self.values.iter().map(|(_, values)| values.weight()).sum();
        self.rows.len() * size_of::<usize>() + values
    }
}

impl Block {
    /// Bytes that it holds in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        let lists = self.readings.list.len() * size_of::<Reading>() + self.rows.list.len() * size_of::<Row>();
        let columns: usize = self.readings.columns.iter().map(Columns::weight).sum();
        let marks: usize = self.rows.list.iter().map(Row::marks_weight).sum();
        let sketches: usize = self.sketches.iter().flatten().map(Sketch::weight).sum();
        let rows = self.rows.texts.len() + self.rows.ends.len() * 4 + lists + marks;
        self.readings.bytes.len() + columns + rows + sketches + self.scores.weight()
    }
}

/// How many readings had which outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Readings.
    pub read: u64,
    /// Of them kept.
    pub kept: u64,
    /// Of them duplicates of a kept one.
    pub duplicates: u64,
    /// Of them dead letters.
    pub dead_letters: u64,
}

impl Tally {
    /// Whether every reading had exactly one outcome.
    #[must_use]
    pub const fn balanced(&self) -> bool {
        self.read == self.kept + self.duplicates + self.dead_letters
    }

    /// Adds another tally to this one.
    pub const fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.kept += other.kept;
        self.duplicates += other.duplicates;
        self.dead_letters += other.dead_letters;
    }

    /// What was added to `earlier` to make this one.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            read: self.read - earlier.read,
            kept: self.kept - earlier.kept,
            duplicates: self.duplicates - earlier.duplicates,
            dead_letters: self.dead_letters - earlier.dead_letters,
        }
    }
}

/// One generation of one file, or the standard input: what the readings of it have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The configured source.
    pub source: Arc<str>,
    /// The file, relative to the source's root; `None` for the standard input.
    pub path: Option<Arc<str>>,
    /// How often the file had been replaced or had shrunk before.
    pub generation: u64,
    /// The hash of the first bytes, by which the generation is recognised; `None` for the standard input.
    pub fingerprint: Option<i64>,
    /// How its readings are decoded.
    pub format: config::Format,
    /// What a reading is, where it is plain text.
    pub record: config::Record,
    /// Which keys or columns hold what.
    pub fields: Arc<config::Fields>,
}

impl Place {
    /// How messages name it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.as_deref().unwrap_or("standard input")
    }

    /// What its positions count.
    #[must_use]
    pub const fn unit(&self) -> &'static str {
        match self.format {
            config::Format::Jsonl | config::Format::Text => "byte",
            config::Format::Parquet => "row",
        }
    }
}

/// Readings, their bytes in one buffer; those that are rows, in columns.
#[derive(Debug, Default)]
pub struct Readings {
    /// What the readings' ranges point into.
    pub bytes: Vec<u8>,
    /// What the readings' rows point into.
    pub columns: Vec<Columns>,
    /// The files they are from, in the order of reading.
    pub places: Vec<Arc<Place>>,
    /// The readings in the order of their seq.
    pub list: Vec<Reading>,
    /// The seq of the first; they are dense.
    pub first: Seq,
    /// When the block was full: microseconds since 1970, UTC.
    pub time_us: i64,
    /// The most bytes that a reading may have.
    pub line: u64,
}

/// Some rows of a file of columns: those that fields are mapped to, each as long as `text`. All strings
/// are `LargeUtf8`, in structs and lists too; a column that the file does not have is `None`.
#[derive(Debug, Clone)]
pub struct Columns {
    /// The text.
    pub text: LargeStringArray,
    /// The source's own name for the document: text or integers.
    pub id: Option<ArrayRef>,
    /// When it happened: timestamps, dates, numbers or text.
    pub timestamp: Option<ArrayRef>,
    /// Where it was published: text.
    pub url: Option<ArrayRef>,
    /// Where the source says it is from: text.
    pub origin: Option<ArrayRef>,
    /// What else there is: text, structs, maps or lists.
    pub meta: Option<ArrayRef>,
}

impl Columns {
    /// Bytes that they hold in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        let others = [&self.id, &self.timestamp, &self.url, &self.origin, &self.meta];
        let others: usize = others.into_iter().flatten().map(|column| column.get_array_memory_size()).sum();
        self.text.get_array_memory_size() + others
    }

    /// The text of a row; `None` where it is null.
    #[must_use]
    pub fn text(&self, row: usize) -> Option<&str> {
        (row < self.text.len() && self.text.is_valid(row)).then(|| self.text.value(row))
    }
}

/// Where lies what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its bytes in [`Readings::bytes`].
    Bytes(Range<usize>),
    /// A row of one of [`Readings::columns`].
    Row {
        /// Which of the columns.
        columns: u32,
        /// Its row there.
        row: u32,
    },
}

/// One thing that was read: a line, a row, a file, or the place where a file breaks off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which of [`Readings::places`].
    pub place: u32,
    /// Decoded bytes, or rows, of the file before it.
    pub start: u64,
    /// Decoded bytes of the file up to its end, line end included; or rows.
    pub end: u64,
    /// What was read, without the line end; at most [`RAW_LIMIT`] bytes of a dead letter.
    pub content: Content,
    /// How many bytes it had, without the line end; of a row, its text, or its fields where it is dead.
    pub length: u64,
    /// What the source itself found wrong with it.
    pub fault: Option<Box<Fault>>,
}

/// Why a reading is dead before it is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The reason.
    pub reason: Reason,
    /// The reason in words, without the place.
    pub detail: String,
}

impl Readings {
    /// The bytes of a reading; of a row, those of its text.
    #[must_use]
    pub fn content(&self, reading: &Reading) -> &[u8] {
        match &reading.content {
            Content::Bytes(range) => self.bytes.get(range.clone()).unwrap_or_default(),
            Content::Row { .. } => {
                let text = self.row(reading).and_then(|(columns, row)| columns.text(row));
                text.unwrap_or_default().as_bytes()
            }
        }
    }

    /// The columns and the row of a reading that is a row.
    #[must_use]
    pub fn row(&self, reading: &Reading) -> Option<(&Columns, usize)> {
        let Content::Row { columns, row } = reading.content else { return None };
        Some((self.columns.get(usize::try_from(columns).ok()?)?, usize::try_from(row).ok()?))
    }

    /// The bytes of a reading that a dead letter keeps.
    #[must_use]
    pub fn raw(&self, reading: &Reading) -> &[u8] {
        let content = self.content(reading);
        content.get(..RAW_LIMIT).unwrap_or(content)
    }

    /// Where a reading is from.
    #[must_use]
    pub fn place(&self, reading: &Reading) -> Option<&Arc<Place>> {
        usize::try_from(reading.place).ok().and_then(|index| self.places.get(index))
    }

    /// The seq of the reading with this index.
    #[must_use]
    pub const fn seq(&self, index: usize) -> Seq {
        Seq(self.first.0 + index as u64)
    }
}

/// What became of readings; texts and passages of all rows lie in two buffers.
#[derive(Debug, Default)]
pub struct Rows {
    /// What the rows' spans point into.
    pub texts: String,
    /// Ends of passages: what [`Document::passages`] points into.
    pub ends: Vec<u32>,
    /// The rows.
    pub list: Vec<Row>,
}

/// A part of [`Rows::texts`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// Its length in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end == self.start
    }

    const fn moved(self, by: usize) -> Self {
        Self { start: self.start + by, end: self.end + by }
    }
}

/// What became of one reading.
#[expect(clippy::large_enum_variant, reason = "nearly all are documents; a box each would cost more")]
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// It is a document.
    Document {
        /// The document.
        document: Document,
        /// Whether its text is new.
        verdict: Verdict,
        /// What else dedup says of it.
        marks: Option<Box<Marks>>,
    },
    /// It is a dead letter.
    Dead {
        /// Why.
        reason: Reason,
        /// The reason in words, with the place.
        detail: Span,
    },
}

impl Row {
    /// Bytes that its marks hold in memory, about.
    fn marks_weight(&self) -> usize {
        let Self::Document { marks: Some(marks), .. } = self else { return 0 };
        size_of::<Marks>() + marks.signature.len() + marks.new_spans.len() * size_of::<(u32, u32)>()
    }
}

/// A decoded reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What identifies its text.
    pub identity: Identity,
    /// xxh3-128 of the folded form.
    pub folded: u128,
    /// When the source says it happened: microseconds since 1970, UTC.
    pub event_time: Option<i64>,
    /// The text exactly as decoded.
    pub text: Span,
    /// The source's own name for it.
    pub external_id: Option<Span>,
    /// Where it was published.
    pub url: Option<Span>,
    /// Where the source says it is from.
    pub origin: Option<Span>,
    /// What else the source said: a JSON object.
    pub meta: Option<Span>,
    /// Its passages in [`Rows::ends`].
    pub passages: Range<usize>,
}

/// Whether a document's text is new to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Kept,
    /// It is that of a kept record.
    Duplicate {
        /// Of which.
        of: Original,
        /// How that was found.
        match_kind: MatchKind,
    },
}

/// What dedup says of a document that is no exact duplicate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Marks {
    /// Its `MinHash` signature, as the store's column has it.
    pub signature: Vec<u8>,
    /// The first record of its chain of revisions.
    pub lineage: Option<RecordId>,
    /// What it revises.
    pub revises: Option<RecordId>,
    /// What is new in a revision: (start, end) in bytes of its text.
    pub new_spans: Vec<(u32, u32)>,
    /// The kept record it is nearly equal to.
    pub alike: Option<Match>,
    /// Whether a duplicate's row has its text.
    pub with_text: bool,
}

/// A kept record that another repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Its shard.
    pub shard: Shard,
    /// Its seq.
    pub seq: Seq,
    /// Its id.
    pub id: RecordId,
}

impl Rows {
    /// Stores a text and says where.
    pub fn push_text(&mut self, text: &str) -> Span {
        let start = self.texts.len();
        self.texts.push_str(text);
        Span { start, end: self.texts.len() }
    }

    /// The text at a span of these rows.
    #[must_use]
    pub fn text(&self, span: Span) -> &str {
        self.texts.get(span.start..span.end).unwrap_or_default()
    }

    /// The ends of a document's passages, in bytes of its text.
    #[must_use]
    pub fn passages(&self, document: &Document) -> &[u32] {
        self.ends.get(document.passages.clone()).unwrap_or_default()
    }

    /// Appends all rows of `other`.
    pub fn append(&mut self, other: Self) {
        if self.list.is_empty() {
            *self = other;
            return;
        }
        let (texts, ends) = (self.texts.len(), self.ends.len());
        self.texts.push_str(&other.texts);
        self.ends.extend_from_slice(&other.ends);
        self.list.extend(other.list.into_iter().map(|row| match row {
            Row::Dead { reason, detail } => Row::Dead { reason, detail: detail.moved(texts) },
            Row::Document { document, verdict, marks } => {
                let moved = |span: Option<Span>| span.map(|span| span.moved(texts));
                let document = Document {
                    text: document.text.moved(texts),
                    external_id: moved(document.external_id),
                    url: moved(document.url),
                    origin: moved(document.origin),
                    meta: moved(document.meta),
                    passages: document.passages.start + ends..document.passages.end + ends,
                    ..document
                };
                Row::Document { document, verdict, marks }
            }
        }));
    }
}

/// Tallies by source and dead letters by reason, of a whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// By source.
    pub sources: BTreeMap<Arc<str>, Tally>,
    /// By reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// Bytes of text kept.
    pub text_bytes: u64,
    /// Decoded bytes read; of rows their text, or of a dead letter its fields.
    pub read_bytes: u64,
}

impl Counts {
    /// Adds other counts to these.
    pub fn add(&mut self, other: &Self) {
        for (source, tally) in &other.sources {
            self.sources.entry(Arc::clone(source)).or_default().add(tally);
        }
        for (reason, count) in &other.reasons {
            *self.reasons.entry(*reason).or_default() += count;
        }
        self.text_bytes += other.text_bytes;
        self.read_bytes += other.read_bytes;
    }

    /// The tally over all sources.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.sources.values().for_each(|tally| total.add(tally));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(texts: &[&str]) -> Rows {
        let mut rows = Rows::default();
        for text in texts {
            let detail = rows.push_text(text);
            rows.list.push(Row::Dead { reason: Reason::Nul, detail });
            let start = rows.ends.len();
            rows.ends.push(text.len() as u32);
            let text = rows.push_text(text);
            let document = Document {
                identity: Identity::of(rows.text(text), 1),
                folded: 0,
                event_time: None,
                text,
                external_id: Some(text),
                url: None,
                origin: None,
                meta: Some(detail),
                passages: start..start + 1,
            };
            rows.list.push(Row::Document { document, verdict: Verdict::Kept, marks: None });
        }
        rows
    }

    #[test]
    fn rows_appended_are_the_rows_made_in_one_go() {
        let texts = ["a", "", "ünï", "four"];
        for cut in 0..=texts.len() {
            let mut joined = rows(&texts[..cut]);
            joined.append(rows(&texts[cut..]));
            let whole = rows(&texts);
            assert_eq!((joined.texts, joined.ends, joined.list), (whole.texts, whole.ends, whole.list));
        }
    }

    #[test]
    fn weight_counts_the_marks_of_documents() {
        let mut block = Block { rows: rows(&["a"]), ..Block::default() };
        let bare = block.weight();
        let Some(Row::Document { marks, .. }) = block.rows.list.last_mut() else { panic!("no document") };
        let new = Marks { signature: vec![0; 512], new_spans: vec![(0, 1); 10], ..Marks::default() };
        *marks = Some(Box::new(new));
        assert_eq!(block.weight() - bare, size_of::<Marks>() + 512 + 80);
    }

    #[test]
    fn tally_balances_when_every_reading_has_one_end() {
        let mut tally = Tally { read: 3, kept: 1, duplicates: 1, dead_letters: 1 };
        assert!(tally.balanced());
        tally.add(&Tally { read: 1, ..Tally::default() });
        assert!(!tally.balanced());
    }
}
