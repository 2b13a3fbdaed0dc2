//! The score `distance`: how far a record is from everything that recent records are about, and its percentile.
//!
//! 1 - the largest cosine of the record's embedding ([`super::super::embed::hashed`]) to the prototypes
//! ([`super::prototypes`]) of recent records; 1 before the first. It sees another language
//! where `unseen`, which compares runs of five words, sees only that the wording is new; docs/benchmarks.md has
//! figures of both.
//!
//! # What is recent
//! Prototypes are made in generations of 16 periods of the embedder, 64 MiB of text each. Those of generation
//! g learn the records of g and g + 1, and are compared with in g + 1 (the first also in 0): a record is
//! always compared with prototypes of the last 64 to 128 MiB, and what is older has no effect at all.
//!
//! # State
//! Of the shard's own rows alone, and of those only: the latest run of kept rows that this embedder made, so a
//! score that was turned off, or whose rules changed, begins again. Rebuilding reads the texts of the
//! last 9 periods (at most 36 MiB and a record) for the embedder's weights, and of the last 32 periods the
//! embeddings alone: 256 bytes a record, at most 16,384 records a period, 128 MiB in the worst case and about
//! 15 MB for records of 2.5 kB.

use perennial_schemas::id::Seq;
use perennial_schemas::seed::Seed;
use perennial_schemas::table::records::Row;

use super::super::embed::hashed::{Embedded, Embedder, PERIODS, PeriodSizes, Vector, from_blob, to_blob};
use super::super::percentile::Percentile;
use super::super::{Cell, Column, Context, Entry, Older, Record, Score, Values, Want};
use super::prototypes::Prototypes;

/// Its line of the catalogue.
pub const ENTRY: Entry = Entry {
    name: "distance",
    summary: "embedding, and its distance to the stream's prototypes",
    columns: &[
        Column { name: "embedding", range: None, set: |row, cell| row.embedding = cell.blob() },
        Column { name: "embedder", range: None, set: |row, cell| row.embedder = cell.text() },
        Column { name: "embedder_period", range: None, set: |row, cell| row.embedder_period = cell.int() },
        Column { name: "distance", range: Some((0.0, 2.0)), set: |row, cell| row.distance = cell.real() },
        Column {
            name: "distance_percentile",
            range: Some((0.0, 1.0)),
            set: |row, cell| row.distance_percentile = cell.real(),
        },
    ],
    build: |context| Box::new(Distance::new(Windows::default(), context)),
    explain,
};

fn explain(row: &Row<'_>) -> Option<String> {
    let mut text = format!("its distance to the prototypes of the stream is {:.2}", row.distance?);
    if let Some(percentile) = row.distance_percentile {
        text += &format!(": farther than {:.0} % of the last records", 100.0 * percentile);
    }
    Some(text)
}

/// What is recent.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// The periods of the embedder.
    pub periods: PeriodSizes,
    /// Periods of a generation of prototypes.
    pub generation: i64,
    /// Most prototypes.
    pub prototypes: usize,
    /// Values that the percentile ranks among.
    pub percentile: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            periods: PeriodSizes::default(),
            generation: 16,
            prototypes: 64,
            percentile: super::super::percentile::WINDOW,
        }
    }
}

/// The score.
#[derive(Debug)]
pub struct Distance {
    windows: Windows,
    embedder: Embedder,
    models: Models,
    percentile: Percentile,
    /// Reused from block to block.
    embedded: Vec<Embedded>,
    recalled: Recalled,
}

/// Prototypes of two generations.
#[derive(Debug)]
struct Models {
    empty: Prototypes,
    generation: i64,
    /// Compared with.
    present: Prototypes,
    /// Learning, to be compared with in the next generation; `None` in the first.
    next: Option<Prototypes>,
}

impl Models {
    fn new(empty: Prototypes) -> Self {
        Self { present: empty.clone(), next: None, generation: 0, empty }
    }

    /// Goes on to a generation, if it is a later one.
    fn advance(&mut self, generation: i64) {
        while self.generation < generation {
            if let Some(next) = self.next.take() {
                self.present = next;
            }
            self.next = Some(self.empty.clone());
            self.generation += 1;
        }
    }

    /// The distance of a vector, which is then learnt.
    fn score(&mut self, seq: Seq, vector: &Vector) -> f32 {
        let nearest = self.present.nearest(vector);
        self.present.learn(seq.0, vector, nearest);
        if let Some(next) = &mut self.next {
            next.learn(seq.0, vector, next.nearest(vector));
        }
        nearest.map_or(1.0, |nearest| nearest.distance)
    }
}

/// What [`Score::recall`] collected.
#[derive(Debug, Default)]
struct Recalled {
    /// Whether a row that does not belong to the latest run was met.
    ended: bool,
    /// The periods of the newest and of the oldest row.
    periods: Option<(i64, i64)>,
    /// Bytes that the newest period has had.
    charged: u64,
    /// Rows of the generations that prototypes learn from, newest first.
    vectors: Vec<(i64, Seq, Box<Vector>)>,
    /// The distances, newest first.
    values: Vec<f32>,
}

const COLUMNS: &[&str] = &["seq", "length", "embedding", "embedder", "embedder_period", "distance"];

impl Distance {
    /// Without memory.
    #[must_use]
    pub fn new(windows: Windows, context: &Context) -> Self {
        let seed: Seed = context.seed.child("distance").child(context.shard.as_str());
        Self {
            windows,
            embedder: Embedder::new(windows.periods),
            models: Models::new(Prototypes::new(windows.prototypes, seed)),
            percentile: Percentile::new(windows.percentile),
            embedded: Vec::new(),
            recalled: Recalled::default(),
        }
    }

    const fn generation(&self, period: i64) -> i64 {
        period.div_euclid(self.windows.generation)
    }

    /// The first generation whose records matter in `period`.
    fn first_generation(&self, period: i64) -> i64 {
        (self.generation(period) - 1).max(0)
    }

    /// Takes a row of the run, older than those before.
    fn recall_row(&mut self, period: i64, row: &Row<'_>, words: Option<&[u64]>) {
        let newest = self.recalled.periods.map_or(period, |(newest, _)| newest);
        let seq = row.seq.map_or(Seq(0), Seq::from_i64);
        if period == newest {
            let length = row.length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0);
            self.recalled.charged += self.windows.periods.charge(length);
        }
        if period >= newest - PERIODS
            && let (Some(text), Some(words)) = (row.text, words)
        {
            self.embedder.recall(period, text, words);
        }
        if self.generation(period) >= self.first_generation(newest)
            && let Some(vector) = row.embedding.and_then(from_blob)
        {
            self.recalled.vectors.push((period, seq, Box::new(vector)));
        }
        self.recalled.values.extend(row.distance);
        self.recalled.periods = Some((newest, period));
    }
}

impl Score for Distance {
    fn score(&mut self, records: &[Record<'_>], values: &mut Values) {
        self.embedder.embed(records, &mut self.embedded);
        for (record, embedded) in records.iter().zip(&self.embedded) {
            self.models.advance(embedded.period.div_euclid(self.windows.generation));
            let (name, period) = (Cell::Text(self.embedder.name()), Cell::Int(embedded.period));
            let Some(vector) = &embedded.vector else {
                values.push(&[Cell::Null, name, period]);
                continue;
            };
            let distance = self.models.score(record.seq, vector);
            let percentile = self.percentile.push(distance);
            let blob = to_blob(vector);
            values.push(&[Cell::Blob(&blob), name, period, Cell::Real(distance), Cell::Real(percentile)]);
        }
    }

    fn wants(&self) -> Want {
        let recalled = &self.recalled;
        if recalled.ended {
            return Want::Nothing;
        }
        let Some((newest, oldest)) = recalled.periods else { return Want::Texts(COLUMNS) };
        // A period is complete once a row of an older one was met.
        if oldest >= newest - PERIODS {
            Want::Texts(COLUMNS)
        } else if self.generation(oldest) >= self.first_generation(newest)
            || recalled.values.len() < self.percentile.window()
        {
            Want::Columns(COLUMNS)
        } else {
            Want::Nothing
        }
    }

    fn recall(&mut self, older: &Older<'_>) {
        for index in (0..older.rows.len()).rev() {
            let Some(row) = older.rows.get(index) else { continue };
            let period = row
                .embedder_period
                .filter(|_| older.own && !self.recalled.ended && row.embedder == Some(self.embedder.name()));
            let Some(period) = period else {
                self.recalled.ended = true;
                return;
            };
            // The weights began again between the two: another run.
            if self.recalled.periods.is_some_and(|(_, oldest)| period > oldest) {
                self.recalled.ended = true;
                return;
            }
            let words = older.sketches.and_then(|sketches| sketches.get(index)).map(|sketch| &*sketch.words);
            self.recall_row(period, &row, words);
        }
    }

    fn resume(&mut self) {
        let recalled = std::mem::take(&mut self.recalled);
        let Some((newest, _)) = recalled.periods else { return };
        self.embedder.resume(newest, recalled.charged);
        let first = self.first_generation(newest);
        if first > 0 {
            // What the first generation was compared with is of older records and not needed again.
            self.models.generation = first;
            self.models.next = Some(self.models.empty.clone());
        }
        for (period, seq, vector) in recalled.vectors.into_iter().rev() {
            self.models.advance(self.generation(period));
            self.models.score(seq, &vector);
        }
        self.models.advance(self.generation(newest));
        self.percentile.resume(&recalled.values);
    }
}

#[cfg(test)]
mod tests;
