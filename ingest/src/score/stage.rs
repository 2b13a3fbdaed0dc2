//! The stage `score`: every enabled score over each block.

use super::{CATALOGUE, Context, Entry, Older, Record, Score, Values, Want};
use crate::block::{Block, BlockScores, Row};
use crate::error::IngestError;

/// The enabled scores.
#[derive(Debug)]
pub struct Scores(Vec<Enabled>);

/// A score under its line of the catalogue.
#[derive(Debug)]
struct Enabled {
    entry: &'static Entry,
    score: Box<dyn Score>,
}

impl Scores {
    /// The scores of the catalogue with these names, without memory; other names are passed over.
    #[must_use]
    pub fn new(names: &[String], context: &Context) -> Self {
        let enabled = CATALOGUE.iter().filter(|entry| names.iter().any(|name| name == entry.name));
        Self(enabled.map(|entry| Enabled { entry, score: (entry.build)(context) }).collect())
    }

    /// These scores.
    #[cfg(test)]
    pub(crate) fn of(scores: Vec<(&'static Entry, Box<dyn Score>)>) -> Self {
        Self(scores.into_iter().map(|(entry, score)| Enabled { entry, score }).collect())
    }

    /// Scores the kept documents of `block`, which `dedup` left with their sketches, and takes those out of it.
    ///
    /// # Errors
    /// [`IngestError::Stage`] where a score did not return one row for each record, which is a defect of it.
    pub fn run(&mut self, mut block: Block) -> Result<Block, IngestError> {
        let sketches = std::mem::take(&mut block.sketches);
        let (mut rows, mut records) = (Vec::new(), Vec::new());
        for (index, (row, sketch)) in block.rows.list.iter().zip(&sketches).enumerate() {
            let (Row::Document { document, .. }, Some(sketch)) = (row, sketch) else { continue };
            rows.push(index);
            records.push(Record {
                seq: block.readings.seq(index),
                length: document.identity.length,
                text: block.rows.text(document.text),
                sketch,
            });
        }
        let values = self.score(&records)?;
        let entries = self.0.iter().map(|enabled| enabled.entry);
        block.scores = BlockScores { rows, values: entries.zip(values).collect() };
        Ok(block)
    }

    /// The values of some records, by score; the records are learnt.
    pub(crate) fn score(&mut self, records: &[Record<'_>]) -> Result<Vec<Values>, IngestError> {
        let mut all = Vec::with_capacity(self.0.len());
        for Enabled { entry, score } in &mut self.0 {
            let mut values = Values::new(entry.columns.len());
            score.score(records, &mut values);
            if values.len() != records.len() {
                let message =
                    format!("`{}` has {} rows for {} records", entry.name, values.len(), records.len());
                return Err(IngestError::Stage { name: "score", message });
            }
            all.push(values);
        }
        Ok(all)
    }

    /// What the scores together need of older rows: the columns, and whether texts.
    pub(crate) fn wants(&self) -> Option<(Vec<&'static str>, bool)> {
        let (mut columns, mut texts, mut any) = (Vec::new(), false, false);
        for Enabled { score, .. } in &self.0 {
            let wanted = match score.wants() {
                Want::Nothing => continue,
                Want::Columns(wanted) => wanted,
                Want::Texts(wanted) => {
                    texts = true;
                    wanted
                }
            };
            any = true;
            columns.extend(wanted.iter().filter(|column| !columns.contains(*column)).collect::<Vec<_>>());
        }
        any.then_some((columns, texts))
    }

    /// Hands older rows to the scores that still need some.
    pub(crate) fn recall(&mut self, older: &Older<'_>) {
        for Enabled { score, .. } in &mut self.0 {
            if score.wants() != Want::Nothing {
                score.recall(older);
            }
        }
    }

    /// Has every score learn what it was handed.
    pub(crate) fn resume(&mut self) {
        self.0.iter_mut().for_each(|enabled| enabled.score.resume());
    }
}
