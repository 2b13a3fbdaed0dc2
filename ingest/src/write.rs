//! The only committer: rows and the positions behind them become one version of the store.
//!
//! A commit carries the transactions `ingest/<shard>` (its number, dense from 1: the fence),
//! `seq/<shard>` (the next seq) and `src/<source>/<hash of the path>.<generation>` (where each file
//! stands that it has rows of). After the commit its readings get their place in the order of the store.
//!
//! What a daemon needs to go on is rebuilt from the table alone when it opens: where each file stands,
//! the next seq and the texts that are kept. The transactions must agree with the rows, or the daemon
//! does not start.

use std::sync::Arc;
use std::time::Duration;

use perennial_program::failpoint;
use perennial_schemas::id::{Seq, Shard, Version};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::Table;
use perennial_schemas::table::column::pack_u32;
use perennial_schemas::table::records::{self, MatchKind, Outcome, Reason, View, day_of};
use perennial_store::commit::Committer;
use perennial_store::order::{Claim, OrderLog};
use perennial_store::{Scan, Store};

use crate::block::{Block, Counts, Document, Marks, Place, Reading, Row, Rows, Verdict};
use crate::channel::Receiver;
use crate::config;
use crate::dedup::DedupState;
use crate::dedup::held_out::HeldOut;
use crate::dedup::minhash::SIGNATURE_KIND;
use crate::error::IngestError;
use crate::progress::ProgressTimer;
use crate::restore::restore;
use crate::score::{Context, Scores};
use crate::source::{FileName, Position, Positions, transaction_name};

/// A store that is open for a shard, and what its table says about it.
#[derive(Debug)]
pub struct Opened {
    /// Commits the shard's rows.
    pub writer: Writer,
    /// Where each file stands.
    pub positions: Positions,
    /// The seq of the next reading.
    pub next: Seq,
    /// The texts that are kept, in all shards.
    pub dedup: DedupState,
    /// The scores, with what they remember of them.
    pub scores: Scores,
}

/// Maximum rows per commit: a column of text or bytes holds less than 2 GiB, which this number of signatures,
/// paths and details never reaches.
pub(crate) const MOST_ROWS: usize = 1 << 18;

/// Opens the store for `shard`.
///
/// # Errors
/// [`IngestError::Store`] where it cannot be read, [`IngestError::Positions`] where it contradicts itself.
pub async fn open(store: &Store, shard: &Shard, config: &config::Config) -> Result<Opened, IngestError> {
    let mut committer = Committer::open(store, Table::Records, &fence(shard)).await?;
    let version = committer.version();
    // The name of a shard has no character that SQL knows.
    let columns = ["seq", "path", "fingerprint", "reason", "last_seq"];
    let ours = Scan { columns: &columns, filter: Some(format!("shard = '{shard}'")), order: &[] };
    let mut stand = Stand::default();
    store
        .scan_each(Table::Records, version, &ours, |batch| {
            View::new(batch)?.iter().for_each(|row| stand.add(&row));
            Ok::<_, IngestError>(())
        })
        .await?;
    stand.check(shard, &mut committer).await?;
    let mut dedup = DedupState::new(shard.clone(), config.dedup.folded, config.dedup.near);
    if !config.holdout.files.is_empty() {
        dedup = dedup.without(HeldOut::load(&config.holdout.files, config.dedup.near.threshold.get())?);
    }
    let context = Context { shard: shard.clone(), seed: Seed::new(config.score.seed).child("score") };
    let mut scores = Scores::new(&config.score.enabled, &context);
    restore(&mut dedup, &mut scores, store, version).await?;
    let commit = committer.last(&fence(shard)).await?.unwrap_or(0);
    let mut order = OrderLog::open(store).await?;
    // A daemon that was killed between its commit and the order left its last readings without a place.
    order.append(&[Claim::readings(shard, stand.next)]).await?;
    let writer = Writer {
        committer,
        order,
        store: store.clone(),
        shard: shard.clone(),
        limits: config.commit,
        commit,
        pending: Pending::default(),
        timer: ProgressTimer::new(store.clock().monotonic()),
        written: Written { positions: stand.positions.clone(), next: stand.next, ..Written::default() },
    };
    Ok(Opened { writer, positions: stand.positions, next: stand.next, dedup, scores })
}

fn fence(shard: &Shard) -> String {
    format!("ingest/{shard}")
}

fn seq_name(shard: &Shard) -> String {
    format!("seq/{shard}")
}

/// Where a shard stands, gathered from its rows in any order.
#[derive(Debug, Default)]
struct Stand {
    positions: Positions,
    next: Seq,
}

impl Stand {
    fn add(&mut self, row: &records::Row<'_>) {
        if let Some(seq) = row.seq.max(row.last_seq) {
            self.next = self.next.max(Seq::from_i64(seq).next());
        }
        let breaks = [Reason::Truncated, Reason::CorruptSource].map(Reason::as_str);
        let here = Position {
            generation: u64::try_from(row.generation).unwrap_or(0),
            head: row.fingerprint,
            end: u64::try_from(row.end).unwrap_or(0),
            broken: row.reason.is_some_and(|reason| breaks.contains(&reason)),
        };
        let name: FileName = (row.source.into(), row.path.map(Arc::from));
        let order = |position: &Position| (position.generation, position.end);
        if self.positions.get(&name).is_none_or(|known| order(known) < order(&here)) {
            self.positions.set(name, here);
        }
    }

    /// Compares with the transactions, which a retention rule leaves where they are.
    async fn check(&mut self, shard: &Shard, committer: &mut Committer) -> Result<(), IngestError> {
        let mut said = Vec::new();
        let next = committer.last(&seq_name(shard)).await?;
        said.push((seq_name(shard), next, self.next.0));
        for (name, position) in self.positions.iter() {
            let transaction = transaction_name(name, position.generation);
            let end = committer.last(&transaction).await?;
            said.push((transaction, end, position.end));
        }
        for (transaction, number, found) in said {
            let holds = match number.map(u64::try_from) {
                Some(Ok(number)) => number == found,
                None => found == 0,
                Some(Err(_)) => false,
            };
            if !holds {
                let said = number.map_or_else(|| "absent".to_owned(), |number| number.to_string());
                return Err(IngestError::Positions { shard: shard.to_string(), transaction, said, found });
            }
        }
        Ok(())
    }
}

/// Commits the rows of a shard.
#[derive(Debug)]
pub struct Writer {
    committer: Committer,
    order: OrderLog,
    store: Store,
    shard: Shard,
    limits: config::Commit,
    /// The number of the last commit.
    commit: i64,
    pending: Pending,
    timer: ProgressTimer,
    written: Written,
}

/// What a writer has committed since it opened, and where the shard stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// What became of what was read.
    pub counts: Counts,
    /// Where each file stands, with what was committed before.
    pub positions: Positions,
    /// The seq of the next reading.
    pub next: Seq,
    /// Commits.
    pub commits: u64,
    /// The last version that was written, if any was.
    pub version: Option<Version>,
}

/// Rows that are not committed yet.
#[derive(Debug, Default)]
struct Pending {
    builder: records::Builder,
    bytes: u64,
    /// When the first of them came, on the clock's monotonic time.
    since: Duration,
    positions: Positions,
    next: Seq,
    counts: Counts,
}

impl Writer {
    /// Commits the rows of `blocks` until it ends, and returns what was committed.
    ///
    /// # Errors
    /// [`IngestError::Store`] where the store refuses a commit, [`IngestError::Unbalanced`] where a
    /// block lost readings; nothing after it is committed.
    pub async fn run(mut self, mut blocks: Receiver) -> Result<Written, IngestError> {
        let clock = self.store.clock().clone();
        loop {
            let wait = self.wait();
            let due = async {
                match wait {
                    Some(wait) => clock.sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = due => self.commit().await?,
                block = blocks.next() => match block {
                    Some(block) => self.take(&block).await?,
                    None => {
                        self.commit().await?;
                        return Ok(self.written);
                    }
                },
            }
        }
    }

    /// How long the pending rows may still wait.
    fn wait(&self) -> Option<Duration> {
        let age = self.store.clock().monotonic().saturating_sub(self.pending.since);
        (!self.pending.builder.is_empty()).then(|| self.limits.interval.get().saturating_sub(age))
    }

    async fn take(&mut self, block: &Block) -> Result<(), IngestError> {
        if self.pending.builder.is_empty() {
            self.pending.since = self.store.clock().monotonic();
        }
        self.pending.add(block, &self.shard, self.commit + 1)?;
        let full = self.pending.bytes >= self.limits.bytes.get() || self.pending.builder.len() >= MOST_ROWS;
        if full {
            self.commit().await?;
        }
        let counts = [&self.written.counts, &self.pending.counts];
        if let Some(progress) = self.timer.progress(self.store.clock().monotonic(), counts) {
            progress.log(self.written.commits);
        }
        Ok(())
    }

    /// Refuses a file that another shard reads under the same source name: a position has one owner.
    async fn refuse_taken(&self, positions: &Positions) -> Result<(), IngestError> {
        let known = |name| self.written.positions.get(name).map(|known| known.generation);
        let new: Vec<_> =
            positions.iter().filter(|(name, position)| known(name) != Some(position.generation)).collect();
        if new.is_empty() {
            return Ok(());
        }
        // Opened now: the other shard may have begun since this one last committed.
        let mut newest = Committer::open(&self.store, Table::Records, &fence(&self.shard)).await?;
        if newest.last(&fence(&self.shard)).await?.unwrap_or(0) != self.commit {
            // Another daemon of this very shard: the commit is refused by its fence.
            return Ok(());
        }
        for (name, position) in new {
            if newest.last(&transaction_name(name, position.generation)).await?.is_some() {
                let file = name.1.as_deref().unwrap_or("the standard input").to_owned();
                return Err(IngestError::Taken { source_name: name.0.to_string(), file });
            }
        }
        Ok(())
    }

    /// Commits the pending rows, if any.
    async fn commit(&mut self) -> Result<(), IngestError> {
        if self.pending.builder.is_empty() {
            return Ok(());
        }
        let Pending { mut builder, positions, next, counts, .. } = std::mem::take(&mut self.pending);
        self.refuse_taken(&positions).await?;
        let rows = builder.finish()?;
        let commit = self.commit + 1;
        let mut transactions = vec![(fence(&self.shard), commit), (seq_name(&self.shard), next.to_i64())];
        transactions.extend(
            positions
                .iter()
                .map(|(name, position)| (transaction_name(name, position.generation), to_i64(position.end))),
        );
        failpoint::hit("ingest.write.before_commit");
        let version = self.committer.commit(&[rows], transactions).await?;
        failpoint::hit("ingest.write.after_commit");
        // A failure here loses nothing: the next start, or a reader, gives the readings their place.
        self.order.append(&[Claim::readings(&self.shard, next)]).await?;
        let total = counts.total();
        tracing::debug!(%version, commit, read = total.read, kept = total.kept, "committed");
        self.commit = commit;
        self.written.positions.advance(positions);
        self.written.next = next;
        self.written.counts.add(&counts);
        self.written.commits += 1;
        self.written.version = Some(version);
        Ok(())
    }
}

impl Pending {
    fn add(&mut self, block: &Block, shard: &Shard, commit: i64) -> Result<(), IngestError> {
        let before = self.counts.total();
        for (index, (reading, row)) in block.readings.list.iter().zip(&block.rows.list).enumerate() {
            let Some(place) = block.readings.place(reading) else { continue };
            let seq = block.readings.seq(index);
            let about = About { block, shard, commit, index, seq, reading, place };
            self.count(&about, row);
            about.push(row, &mut self.builder);
        }
        // The stages counted the outcomes too: both counts must agree.
        let rows = self.counts.total().since(&before);
        if rows != block.tally || !rows.balanced() {
            return Err(IngestError::Unbalanced { tally: block.tally, rows });
        }
        self.next = block.readings.seq(block.readings.list.len());
        self.positions.advance(block.positions.clone());
        Ok(())
    }

    fn count(&mut self, about: &About<'_>, row: &Row) {
        let tally = self.counts.sources.entry(Arc::clone(&about.place.source)).or_default();
        tally.read += 1;
        // Positions of a file of columns are rows.
        self.counts.read_bytes += match about.place.format {
            config::Format::Parquet => about.reading.length,
            config::Format::Jsonl | config::Format::Text => about.reading.end - about.reading.start,
        };
        match row {
            Row::Dead { reason, .. } => {
                tally.dead_letters += 1;
                *self.counts.reasons.entry(*reason).or_default() += 1;
                self.bytes += about.block.readings.raw(about.reading).len() as u64;
            }
            Row::Document { document, verdict, marks } => {
                let Document { text, external_id, url, origin, meta, .. } = document;
                let kept = *verdict == Verdict::Kept;
                let stored = kept || marks.as_ref().is_some_and(|marks| marks.with_text);
                let fields = [stored.then_some(*text), *external_id, *url, *origin, *meta];
                self.bytes += fields.into_iter().flatten().map(|span| span.len() as u64).sum::<u64>();
                if kept {
                    tally.kept += 1;
                    self.counts.text_bytes += text.len() as u64;
                } else {
                    tally.duplicates += 1;
                }
            }
        }
    }
}

/// A reading, with what its row holds for every outcome.
struct About<'a> {
    block: &'a Block,
    shard: &'a Shard,
    commit: i64,
    /// Of its row in the block.
    index: usize,
    seq: Seq,
    reading: &'a Reading,
    place: &'a Place,
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl About<'_> {
    /// Appends the row of this reading.
    fn push(&self, row: &Row, builder: &mut records::Builder) {
        match row {
            Row::Dead { reason, detail } => builder.push(records::Row {
                raw: Some(self.block.readings.raw(self.reading)),
                raw_length: Some(to_i64(self.reading.length)),
                reason: Some(reason.as_str()),
                detail: Some(self.block.rows.text(*detail)),
                ..self.row(Outcome::DeadLetter)
            }),
            Row::Document { document, verdict, marks } => {
                self.document(document, verdict, marks.as_deref(), builder);
            }
        }
    }

    fn document(
        &self,
        document: &Document,
        verdict: &Verdict,
        marks: Option<&Marks>,
        builder: &mut records::Builder,
    ) {
        let rows: &Rows = &self.block.rows;
        let alike = marks.and_then(|marks| marks.alike.as_ref());
        let new_spans: Vec<u32> =
            marks.map_or(&[][..], |marks| &marks.new_spans).iter().flat_map(|(a, b)| [*a, *b]).collect();
        let new_spans = pack_u32(&new_spans);
        let folded = document.folded.to_be_bytes();
        let id = document.identity.id.as_bytes().as_slice();
        let common = |outcome| records::Row {
            event_time: document.event_time,
            id: Some(id),
            length: Some(to_i64(document.identity.length)),
            verify_hash: Some(document.identity.verify_hash.cast_signed()),
            folded: Some(&folded),
            external_id: document.external_id.map(|span| rows.text(span)),
            url: document.url.map(|span| rows.text(span)),
            origin: document.origin.map(|span| rows.text(span)),
            meta: document.meta.map(|span| rows.text(span)),
            signature: marks.map(|marks| marks.signature.as_slice()),
            signature_kind: marks.map(|_| SIGNATURE_KIND),
            duplicate_of_shard: alike.map(|alike| alike.original.shard.as_str()),
            duplicate_of_seq: alike.map(|alike| alike.original.seq.to_i64()),
            duplicate_of_id: alike.map(|alike| alike.original.id.as_bytes().as_slice()),
            jaccard: alike.map(|alike| alike.jaccard as f32),
            containment: alike.map(|alike| alike.containment as f32),
            ..self.row(outcome)
        };
        match verdict {
            Verdict::Kept => {
                let passages = pack_u32(rows.passages(document));
                let mut row = records::Row {
                    text: Some(rows.text(document.text)),
                    passages: Some(&passages),
                    lineage: Some(
                        marks.and_then(|marks| marks.lineage.as_ref()).map_or(id, |first| first.as_bytes()),
                    ),
                    revises: marks
                        .and_then(|marks| marks.revises.as_ref())
                        .map(|of| of.as_bytes().as_slice()),
                    new_spans: marks.filter(|marks| marks.revises.is_some()).map(|_| new_spans.as_slice()),
                    ..common(Outcome::Kept)
                };
                self.block.scores.fill(self.index, &mut row);
                builder.push(row);
            }
            Verdict::Duplicate { of, match_kind } => {
                let whole = (*match_kind == MatchKind::Exact).then_some(1.0);
                let (jaccard, containment) = alike.map_or((whole, whole), |alike| {
                    (Some(alike.jaccard as f32), Some(alike.containment as f32))
                });
                let text = marks.filter(|marks| marks.with_text).map(|_| rows.text(document.text));
                builder.push(records::Row {
                    text,
                    duplicate_of_shard: Some(of.shard.as_str()),
                    duplicate_of_seq: Some(of.seq.to_i64()),
                    duplicate_of_id: Some(of.id.as_bytes()),
                    match_kind: Some(match_kind.as_str()),
                    jaccard,
                    containment,
                    ..common(Outcome::Duplicate)
                });
            }
        }
    }

    fn row(&self, outcome: Outcome) -> records::Row<'_> {
        let time = self.block.readings.time_us;
        records::Row {
            day: day_of(time),
            seq: Some(self.seq.to_i64()),
            commit: self.commit,
            path: self.place.path.as_deref(),
            generation: to_i64(self.place.generation),
            fingerprint: self.place.fingerprint,
            start: to_i64(self.reading.start),
            end: to_i64(self.reading.end),
            ingest_time: time,
            ..records::Row::new(outcome, self.shard.as_str(), &self.place.source)
        }
    }
}
