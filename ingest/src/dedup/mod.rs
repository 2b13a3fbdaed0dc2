//! Finds texts that the store has already, exactly or nearly.
//!
//! ```text
//! exact ─> shingle ─> minhash ─> lsh ─> verify ─> revision
//! ```
//! Decisions follow the order of reading, so they are made on one thread, with the sketches of a block made
//! in parallel before; those of kept documents stay with the block for the scores. What it remembers is a function of the rows of the store,
//! and [`crate::restore`] rebuilds it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use perennial_schemas::id::{Seq, Shard};
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{MatchKind, Reason, View};
use perennial_store::Store;
use rayon::prelude::*;
use tokio::runtime::Handle;

use crate::block::{Block, Document, Marks, Original, Row, Rows, Verdict};
use crate::error::IngestError;
use crate::normalise::keep_fields;

pub mod exact;
pub mod held_out;
pub mod lsh;
pub mod minhash;
pub mod near;
pub mod revision;
pub mod shingle;
pub mod verify;

use exact::Exact;
use held_out::HeldOut;
use near::{Action, Near, NearDeduplicator, Query, Sketch, Sketcher};

/// What deduplication remembers of the kept records.
#[derive(Debug)]
pub struct DedupState {
    pub(crate) shard: Shard,
    pub(crate) exact: Exact,
    pub(crate) near: NearDeduplicator,
    held_out: Option<HeldOut>,
}

/// The decision on a document.
enum Decision {
    /// A document: kept, or a duplicate.
    Document(Verdict, Option<Box<Marks>>),
    /// It is held out, for this reason.
    HeldOut(String),
}

impl DedupState {
    /// The state for a store without records, for the daemon of `shard`.
    #[must_use]
    pub fn new(shard: Shard, folded: crate::config::Folded, near: Near) -> Self {
        Self {
            exact: Exact::new(shard.clone(), folded),
            shard,
            near: NearDeduplicator::new(near),
            held_out: None,
        }
    }

    /// Keeps these texts out of the stream from now on.
    #[must_use]
    pub fn without(self, held_out: HeldOut) -> Self {
        Self { held_out: Some(held_out), ..self }
    }

    /// Decides which documents of `block` are new, in the order of their seq, counts them, and leaves the
    /// sketches of those that are kept in the block. `texts` gives the text of kept records whose shingles are forgotten.
    ///
    /// # Errors
    /// That of `texts`.
    pub fn run(
        &mut self,
        mut block: Block,
        mut texts: impl FnMut(&[Original]) -> Result<Found, IngestError>,
    ) -> Result<Block, IngestError> {
        let mut sketches: Vec<Option<Sketch>> = block
            .rows
            .list
            .par_iter()
            .map_init(Sketcher::new, |sketcher, row| match row {
                Row::Document { document, .. } => Some(sketcher.sketch(block.rows.text(document.text))),
                Row::Dead { .. } => None,
            })
            .collect();
        let found = texts(&self.wanted(&block, &sketches))?;
        for (index, place) in sketches.iter_mut().enumerate() {
            let Some(sketch) = place.take() else { continue };
            match self.decide(&block, index, &sketch, &found) {
                Some(Decision::Document(decision, its)) => {
                    match &decision {
                        Verdict::Kept => {
                            block.tally.kept += 1;
                            *place = Some(sketch);
                        }
                        Verdict::Duplicate { .. } => block.tally.duplicates += 1,
                    }
                    if let Some(Row::Document { verdict, marks, .. }) = block.rows.list.get_mut(index) {
                        *verdict = decision;
                        *marks = its;
                    }
                }
                Some(Decision::HeldOut(why)) => {
                    keep_fields(&mut block.readings, index);
                    let detail = block.rows.push_text(&why);
                    if let Some(row) = block.rows.list.get_mut(index) {
                        *row = Row::Dead { reason: Reason::HeldOut, detail };
                        block.tally.dead_letters += 1;
                    }
                }
                None => {}
            }
        }
        block.sketches = sketches;
        Ok(block)
    }

    /// The kept records whose text will be needed, each once.
    fn wanted(&mut self, block: &Block, sketches: &[Option<Sketch>]) -> Vec<Original> {
        let mut wanted = Vec::new();
        for (index, sketch) in sketches.iter().enumerate() {
            if let (Some(sketch), Some(document)) = (sketch, document_of(&block.rows, index))
                && self.exact.look(document.identity, document.folded).is_none()
                && let Some(candidate) = candidate(&self.shard, block, index, document)
            {
                self.near.missing(&candidate, &sketch.signature, &mut wanted);
            }
        }
        wanted.sort_by(|a, b| (&a.shard, a.seq).cmp(&(&b.shard, b.seq)));
        wanted.dedup();
        wanted
    }

    fn decide(&mut self, block: &Block, index: usize, sketch: &Sketch, found: &Found) -> Option<Decision> {
        let document = document_of(&block.rows, index)?;
        if let Some(why) = self.held_out.as_mut().and_then(|held_out| held_out.refuses(document, sketch)) {
            return Some(Decision::HeldOut(why));
        }
        if let Some(known) = self.exact.look(document.identity, document.folded) {
            return Some(Decision::Document(known, None));
        }
        let shard = self.shard.clone();
        let candidate = candidate(&shard, block, index, document)?;
        let lookup = |original: &Original| -> Result<_, std::convert::Infallible> {
            Ok(found.get(&(original.shard.clone(), original.seq)).map(|text| Cow::Borrowed(text.as_str())))
        };
        let Ok(near) = self.near.decide(&candidate, sketch, lookup);
        let mut marks = Box::new(Marks { signature: sketch.signature.to_bytes(), ..Marks::default() });
        let verdict = match near {
            near::Verdict::Kept { revises, new_spans, lineage } => {
                marks.lineage = Some(lineage);
                marks.revises = revises.map(|of| of.original.id);
                marks.new_spans = new_spans;
                Verdict::Kept
            }
            near::Verdict::Duplicate { of } => {
                marks.alike = Some(of.clone());
                match self.near.action() {
                    Action::Annotate => Verdict::Kept,
                    action => {
                        marks.with_text = action == Action::Divert;
                        Verdict::Duplicate { of: of.original, match_kind: MatchKind::Near }
                    }
                }
            }
        };
        if verdict == Verdict::Kept {
            self.exact.learn(document.identity, document.folded, candidate.seq);
        }
        Some(Decision::Document(verdict, Some(marks)))
    }
}

fn document_of(rows: &Rows, index: usize) -> Option<&Document> {
    match rows.list.get(index)? {
        Row::Document { document, .. } => Some(document),
        Row::Dead { .. } => None,
    }
}

fn candidate<'a>(shard: &'a Shard, block: &'a Block, index: usize, document: &Document) -> Option<Query<'a>> {
    let place = block.readings.place(block.readings.list.get(index)?)?;
    Some(Query {
        shard,
        seq: block.readings.seq(index),
        id: document.identity.id,
        source: &place.source,
        external_id: document.external_id.map(|span| block.rows.text(span)),
        url: document.url.map(|span| block.rows.text(span)),
        event_time: document.event_time,
        text: block.rows.text(document.text),
    })
}

/// Texts of kept records by place.
pub type Found = BTreeMap<(Shard, Seq), String>;

/// Reads texts of kept records out of `store`, from a thread that is not the runtime's; those that are not
/// (yet, or any more) in the store are left out.
pub fn stored_texts(store: Store, runtime: Handle) -> impl FnMut(&[Original]) -> Result<Found, IngestError> {
    move |wanted| {
        let mut found = Found::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        let places: Vec<(Shard, Seq)> = wanted.iter().map(|of| (of.shard.clone(), of.seq)).collect();
        let batch = runtime.block_on(async {
            let version = store.version(Table::Records).await?;
            store.fetch(version, &places, &["text"]).await
        })?;
        for row in View::new(&batch)?.iter() {
            if let (Ok(shard), Some(seq), Some(text)) = (row.shard.parse(), row.seq, row.text) {
                found.insert((shard, Seq::from_i64(seq)), text.to_owned());
            }
        }
        Ok(found)
    }
}
