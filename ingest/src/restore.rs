//! Rebuilds what `dedup` and `score` remember from the store when it opens.
//!
//! ```text
//! every kept row, in any order      identities and folded forms                     exact
//! the newest originals, in order    signatures and names                            near
//! the newest records, backwards     what the scores want: columns, or texts too     scores
//! ```
//! The newest are the daemon's own last rows, then those of the other shards by name and seq: of other
//! daemons' rows it learns only here. Memory and texts read are bounded by what is remembered, not by the
//! store: 32 bytes a kept record while it runs, in addition to what
//! [`DedupState`] and [`Scores`] hold. Texts are read once for all scores.

use std::ops::Range;

use arrow::array::RecordBatch;
use perennial_schemas::id::{RecordId, Seq, Shard, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{Outcome, View};
use perennial_store::{Scan, Store};
use rayon::prelude::*;

use crate::dedup::DedupState;
use crate::dedup::minhash::{SIGNATURE_KIND, Signature};
use crate::dedup::near::{Query, Sketch, Sketcher};
use crate::error::IngestError;
use crate::score::{Older, Scores};

/// How much is read at once.
#[derive(Debug, Clone, Copy)]
struct Portion {
    /// Records.
    records: usize,
    /// Bytes of their texts, where texts are read.
    bytes: u64,
}

/// About as much as one row group, and as one commit.
const PORTION: Portion = Portion { records: 1 << 16, bytes: 32 << 20 };

/// A kept row: where it is, and what decides whether it is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    /// Index in [`Layout::shards`].
    shard: u32,
    /// Bytes of its normal form: those of its text, about.
    length: u32,
    seq: i64,
}

/// The kept rows of a version, in the order of (shard, seq).
#[derive(Debug, Default)]
struct Layout {
    /// In the order of their names, the daemon's own last.
    shards: Vec<String>,
    all: Vec<Kept>,
    /// Those that near-duplicates are compared with: all but the annotated.
    originals: Vec<Kept>,
    /// Whether each of them has a signature of the kind that this program makes.
    signed: bool,
}

/// Learns the kept records of `store` at `version`: what was scored and compared before goes on as if never
/// interrupted.
///
/// # Errors
/// Where the store cannot be read, or a kept row lacks its identity.
pub async fn restore(
    known: &mut DedupState,
    scores: &mut Scores,
    store: &Store,
    version: Version,
) -> Result<(), IngestError> {
    restore_by(PORTION, known, scores, store, version).await
}

async fn restore_by(
    portion: Portion,
    known: &mut DedupState,
    scores: &mut Scores,
    store: &Store,
    version: Version,
) -> Result<(), IngestError> {
    let layout = identities(known, store, version).await?;
    let reader = Reader { store, version, layout: &layout };
    near(portion, known, &reader).await?;
    recall(portion, scores, known.shard.as_str(), &reader).await
}

async fn identities(known: &mut DedupState, store: &Store, version: Version) -> Result<Layout, IngestError> {
    let columns = ["seq", "id", "length", "verify_hash", "folded", "duplicate_of_seq", "signature_kind"];
    let filter = Some(format!("outcome = '{}'", Outcome::Kept));
    let scan = Scan { columns: &columns, filter, order: &[] };
    let mut layout = Layout { signed: true, ..Layout::default() };
    store
        .scan_each(Table::Records, version, &scan, |batch| {
            known.exact.restore(batch)?;
            for row in View::new(batch)?.iter() {
                let (Some(seq), Some(length)) = (row.seq, row.length) else { continue };
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                let kept = Kept { shard: layout.shard(row.shard), length, seq };
                layout.all.push(kept);
                if row.duplicate_of_seq.is_none() {
                    layout.originals.push(kept);
                    layout.signed &= row.signature_kind == Some(SIGNATURE_KIND);
                }
            }
            Ok::<_, IngestError>(())
        })
        .await?;
    layout.sort(known.shard.as_str());
    Ok(layout)
}

impl Layout {
    fn shard(&mut self, name: &str) -> u32 {
        let known = self.shards.iter().position(|shard| shard == name);
        let index = known.unwrap_or_else(|| {
            self.shards.push(name.to_owned());
            self.shards.len() - 1
        });
        index as u32
    }

    /// Brings shards into the order of their names, `own` last, and rows into that of (shard, seq).
    fn sort(&mut self, own: &str) {
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        let place = |index: &usize| self.shards.get(*index).map(|shard| (shard == own, shard));
        order.sort_by(|a, b| place(a).cmp(&place(b)));
        let rank =
            |old: u32| order.iter().position(|index| *index == old as usize).unwrap_or_default() as u32;
        for rows in [&mut self.all, &mut self.originals] {
            rows.iter_mut().for_each(|row| row.shard = rank(row.shard));
            rows.sort_unstable_by_key(|row| (row.shard, row.seq));
        }
        self.shards.sort_unstable_by(|a, b| (a == own, a).cmp(&(b == own, b)));
    }
}

/// Reads rows of a version again.
struct Reader<'a> {
    store: &'a Store,
    version: Version,
    layout: &'a Layout,
}

impl Reader<'_> {
    /// These columns of the kept rows from the first to the last of `rows`, in order.
    async fn read(&self, rows: &[Kept], columns: &[&str]) -> Result<Vec<RecordBatch>, IngestError> {
        let mut batches = Vec::new();
        for of_shard in rows.chunk_by(|a, b| a.shard == b.shard) {
            let (Some(first), Some(last)) = (of_shard.first(), of_shard.last()) else { continue };
            let Some(shard) = self.layout.shards.get(first.shard as usize) else { continue };
            // The name of a shard has no character that SQL knows.
            let filter = format!(
                "outcome = '{}' and shard = '{shard}' and seq between {} and {}",
                Outcome::Kept,
                first.seq,
                last.seq
            );
            let scan = Scan { columns, filter: Some(filter), order: &["seq"] };
            batches.extend(self.store.scan(Table::Records, self.version, &scan).await?);
        }
        Ok(batches)
    }
}

/// Learns the newest originals, as many as are compared with.
async fn near(portion: Portion, known: &mut DedupState, reader: &Reader<'_>) -> Result<(), IngestError> {
    let originals = &reader.layout.originals;
    let newest = originals.len().saturating_sub(known.near.window());
    let columns =
        ["seq", "id", "event_time", "external_id", "url", "lineage", "signature", "duplicate_of_seq"];
    // Signatures of another kind are made again, which needs the texts.
    let columns = [&columns[..], if reader.layout.signed { &[] } else { &["text"] }].concat();
    let mut rest = originals.get(newest..).unwrap_or_default();
    let portion = Portion { bytes: if reader.layout.signed { u64::MAX } else { portion.bytes }, ..portion };
    while !rest.is_empty() {
        let (rows, after) = rest.split_at(portion.first(rest));
        rest = after;
        for batch in reader.read(rows, &columns).await? {
            let sketches = if reader.layout.signed { Vec::new() } else { sketch(&batch).await? };
            for (index, row) in View::new(&batch)?.iter().enumerate() {
                if row.duplicate_of_seq.is_some() {
                    continue;
                }
                let made = sketches.get(index).map(|sketch| sketch.signature.clone());
                let signature = made.or_else(|| row.signature.and_then(Signature::from_bytes));
                let (Some(seq), Some(id), Some(signature), Ok(shard)) =
                    (row.seq, row.id.and_then(RecordId::from_bytes), signature, row.shard.parse::<Shard>())
                else {
                    continue;
                };
                let candidate = Query {
                    shard: &shard,
                    seq: Seq::from_i64(seq),
                    id,
                    source: row.source,
                    external_id: row.external_id,
                    url: row.url,
                    event_time: row.event_time,
                    text: "",
                };
                let lineage = row.lineage.and_then(RecordId::from_bytes).unwrap_or(id);
                known.near.remember(&candidate, lineage, &signature);
            }
        }
    }
    Ok(())
}

/// Hands the newest records to the scores, from the newest portion to the oldest, until no score needs more.
async fn recall(
    portion: Portion,
    scores: &mut Scores,
    own: &str,
    reader: &Reader<'_>,
) -> Result<(), IngestError> {
    let all = &reader.layout.all;
    let mut end = all.len();
    while end > 0
        && let Some((mut columns, texts)) = scores.wants()
    {
        let portion = Portion { bytes: if texts { portion.bytes } else { u64::MAX }, ..portion };
        let rows = portion.before(all, end);
        end = rows.start;
        columns
            .extend(["shard", "seq"].iter().filter(|column| !columns.contains(*column)).collect::<Vec<_>>());
        if texts {
            columns.push("text");
        }
        let batches = reader.read(all.get(rows).unwrap_or_default(), &columns).await?;
        for batch in batches.iter().rev() {
            let sketches = if texts { Some(sketch(batch).await?) } else { None };
            let rows = View::new(batch)?;
            let own = rows.get(0).is_some_and(|row| row.shard == own);
            scores.recall(&Older { own, rows, sketches: sketches.as_deref() });
        }
    }
    scores.resume();
    Ok(())
}

impl Portion {
    /// The rows before `end` that are read at once, at least one.
    fn before(self, rows: &[Kept], end: usize) -> Range<usize> {
        end.saturating_sub(self.fitting(rows.get(..end).unwrap_or_default().iter().rev()))..end
    }

    /// How many of `rows` are read at once, from the first on.
    fn first(self, rows: &[Kept]) -> usize {
        self.fitting(rows.iter()).min(rows.len())
    }

    /// At least one.
    fn fitting<'a>(self, rows: impl Iterator<Item = &'a Kept>) -> usize {
        let mut bytes = 0_u64;
        let fitting = rows.take(self.records).take_while(|row| {
            bytes = bytes.saturating_add(row.length.into());
            bytes <= self.bytes
        });
        fitting.count().max(1)
    }
}

/// The sketches of a batch's texts, one for each row.
async fn sketch(batch: &RecordBatch) -> Result<Vec<Sketch>, IngestError> {
    let batch = batch.clone();
    let work = move || {
        let view = View::new(&batch)?;
        let texts: Vec<&str> = view.iter().map(|row| row.text.unwrap_or_default()).collect();
        let sketches = texts.par_iter().map_init(Sketcher::new, |sketcher, text| sketcher.sketch(text));
        Ok(sketches.collect())
    };
    let failed =
        |error: tokio::task::JoinError| IngestError::Stage { name: "restore", message: error.to_string() };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

#[cfg(test)]
mod tests;
