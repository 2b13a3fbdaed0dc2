//! The order of the store: each reading of every shard has one offset, the same for every reader for ever.
//!
//! ```text
//! a shard commits its readings ─> ingest appends their range to `order` ─> a follower reads `order`, then `records`
//!                                 (or, after a kill, the reader that finds it missing)
//! ```
//!
//! A follower that reads `order` before `records` finds a row of `records` for every offset. Rows of the
//! order are written under one fence, whose number is the number of rows: of two that append at once one
//! gets a conflict, reads the other's rows, and appends what is still missing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::commit::Committer;
use crate::follow::{Follower, News};
use crate::{Scan, Store, StoreError};
use perennial_program::error::{Kind as ErrorKind, ProgramError as _};
use perennial_program::failpoint;
use perennial_schemas::id::{Offset, Seq, Shard};
use perennial_schemas::table::Table;
use perennial_schemas::table::order::{Builder, Kind, Row, View};

/// The fence of every commit to the order: its number is the number of rows.
pub const FENCE: &str = "order";

/// What a source has committed: everything below `next` is to have a place in the order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// What its commits hold.
    pub kind: Kind,
    /// The shard, or the job and series.
    pub source: Arc<str>,
    /// One more than its last seq or step.
    pub next: u64,
}

impl Claim {
    /// The readings of a shard before `next`.
    #[must_use]
    pub fn readings(shard: &Shard, next: Seq) -> Self {
        Self { kind: Kind::Reading, source: shard.as_str().into(), next: next.0 }
    }
}

/// Consecutive readings of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The offset of the first.
    pub offset: Offset,
    /// The shard.
    pub shard: Shard,
    /// Their seqs, never empty.
    pub seqs: Range<u64>,
}

impl Run {
    const fn len(&self) -> u64 {
        self.seqs.end - self.seqs.start
    }

    /// One more than the last offset.
    #[must_use]
    pub const fn end(&self) -> Offset {
        Offset(self.offset.0.saturating_add(self.len()))
    }
}

/// Evaluations, and where they lie between the readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The offset of the next reading.
    pub offset: Offset,
    /// The job and the series.
    pub source: Arc<str>,
    /// Their steps.
    pub steps: Range<u64>,
}

/// The order as far as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    rows: u64,
    end: Offset,
    /// Neighbours of one shard are joined.
    runs: Vec<Run>,
    /// By shard, the indices of its runs.
    of_shard: BTreeMap<Shard, Vec<usize>>,
    events: Vec<Event>,
    next: BTreeMap<(Kind, Arc<str>), u64>,
}

impl Order {
    /// One more than the last offset.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Rows of the table.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The evaluations, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The first seq or step of a source that has no place yet.
    #[must_use]
    pub fn next(&self, kind: Kind, source: &str) -> u64 {
        self.next.get(&(kind, Arc::from(source))).copied().unwrap_or(0)
    }

    /// Whether everything of a claim has its place.
    #[must_use]
    pub fn covers(&self, claim: &Claim) -> bool {
        self.next(claim.kind, &claim.source) >= claim.next
    }

    /// The shards, in the order of their names.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.of_shard.keys()
    }

    /// The offset of a reading; `None` while it has none. O(log runs).
    #[must_use]
    pub fn offset(&self, shard: &Shard, seq: Seq) -> Option<Offset> {
        let runs = self.of_shard.get(shard)?;
        let at = runs.partition_point(|run| self.runs.get(*run).is_some_and(|run| run.seqs.start <= seq.0));
        let run = self.runs.get(*runs.get(at.checked_sub(1)?)?)?;
        run.seqs.contains(&seq.0).then(|| Offset(run.offset.0 + (seq.0 - run.seqs.start)))
    }

    /// The reading with this offset; `None` beyond the end. O(log runs).
    #[must_use]
    pub fn reading(&self, offset: Offset) -> Option<(&Shard, Seq)> {
        let at = self.runs.partition_point(|run| run.offset <= offset);
        let run = self.runs.get(at.checked_sub(1)?)?;
        (offset < run.end()).then(|| (&run.shard, Seq(run.seqs.start + (offset.0 - run.offset.0))))
    }

    /// The readings from one offset up to another, as runs of one shard each.
    pub fn runs(&self, from: Offset, to: Offset) -> impl Iterator<Item = Run> + '_ {
        let first = self.runs.partition_point(|run| run.end() <= from);
        let inside = self.runs.get(first..).unwrap_or(&[]).iter().take_while(move |run| run.offset < to);
        inside.map(move |run| {
            let start = run.offset.max(from);
            let end = run.end().min(to);
            let seq = |offset: Offset| run.seqs.start + (offset.0 - run.offset.0);
            Run { offset: start, shard: run.shard.clone(), seqs: seq(start)..seq(end) }
        })
    }

    /// Appends the next row of the table.
    ///
    /// # Errors
    /// [`StoreError::Order`] for a row that cannot follow.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), StoreError> {
        let refuse = |why: String| StoreError::Order { number: row.number, why };
        if u64::try_from(row.number) != Ok(self.rows) {
            return Err(refuse(format!("row {} comes next", self.rows)));
        }
        if u64::try_from(row.offset) != Ok(self.end.0) {
            return Err(refuse(format!("its offset is {}, not {}", row.offset, self.end)));
        }
        let Some(kind) = Kind::parse(row.kind) else {
            return Err(refuse(format!("`{}` is not a kind that this program knows", row.kind)));
        };
        let (Ok(first), Ok(last)) = (u64::try_from(row.first), u64::try_from(row.last)) else {
            return Err(refuse(format!("{}..={} is no range", row.first, row.last)));
        };
        let next = self.next(kind, row.source);
        if first != next || last < first {
            let source = row.source;
            return Err(refuse(format!("{first}..={last} of {kind:?} `{source}` does not follow {next}")));
        }
        match kind {
            Kind::Reading => {
                let shard = row.source.parse().map_err(|error| refuse(format!("{error}")))?;
                self.place(shard, first..last + 1);
            }
            Kind::Evaluation => {
                let (offset, source) = (self.end, row.source.into());
                self.events.push(Event { offset, source, steps: first..last + 1 });
            }
        }
        self.next.insert((kind, row.source.into()), last + 1);
        self.rows += 1;
        Ok(())
    }

    fn place(&mut self, shard: Shard, seqs: Range<u64>) {
        let offset = self.end;
        self.end = Offset(offset.0.saturating_add(seqs.end - seqs.start));
        if let Some(newest) = self.runs.last_mut().filter(|run| run.shard == shard) {
            newest.seqs.end = seqs.end;
            return;
        }
        self.of_shard.entry(shard.clone()).or_default().push(self.runs.len());
        self.runs.push(Run { offset, shard, seqs });
    }
}

/// Reads the order, and appends to it.
#[derive(Debug)]
pub struct OrderLog {
    store: Store,
    follower: Follower,
    committer: Option<Committer>,
    order: Arc<Order>,
}

impl OrderLog {
    /// Reads the whole order.
    ///
    /// # Errors
    /// Any [`StoreError`] where it cannot be read, [`StoreError::Order`] where its rows contradict each
    /// other.
    pub async fn open(store: &Store) -> Result<Self, StoreError> {
        let version = store.version(Table::Order).await?;
        let follower = Follower::new(store, Table::Order, Some(version), None).await?;
        let mut log = Self { store: store.clone(), follower, committer: None, order: Arc::default() };
        log.read(version).await?;
        Ok(log)
    }

    /// The order as far as it was read.
    #[must_use]
    pub const fn order(&self) -> &Arc<Order> {
        &self.order
    }

    /// Reads what was appended since.
    ///
    /// # Errors
    /// As [`OrderLog::open`].
    pub async fn follow(&mut self) -> Result<(), StoreError> {
        while let Some(news) = self.follower.next().await? {
            match news {
                News::Appended { batches, .. } => self.add(&batches)?,
                // The log was cleaned up before this was read: rows are never changed, so the newest
                // version has all of them.
                News::Rewritten { version } => self.read(version).await?,
                News::Nothing { .. } => {}
            }
        }
        Ok(())
    }

    async fn read(&mut self, version: perennial_schemas::id::Version) -> Result<(), StoreError> {
        let filter = Some(format!("number >= {}", self.order.rows()));
        let batches = self
            .store
            .scan(Table::Order, version, &Scan { filter, order: &["number"], columns: &[] })
            .await?;
        self.add(&batches)
    }

    /// Adds the rows that are new. Those of one commit may lie in any order.
    fn add(&mut self, batches: &[RecordBatch]) -> Result<(), StoreError> {
        let mut rows: Vec<Row<'_>> = Vec::new();
        let views: Vec<View<'_>> = batches
            .iter()
            .map(|batch| View::new(batch).map_err(|source| StoreError::Rows { table: Table::Order, source }))
            .collect::<Result<_, _>>()?;
        for view in &views {
            rows.extend(view.iter().filter(|row| row.number >= i64_of(self.order.rows())));
        }
        rows.sort_by_key(|row| row.number);
        if !rows.is_empty() {
            let order = Arc::make_mut(&mut self.order);
            rows.iter().try_for_each(|row| order.push(row))?;
        }
        Ok(())
    }

    /// Gives everything claimed a place, in the order of the claims, except what has one. When it
    /// returns, the order that this holds covers all claims.
    ///
    /// # Errors
    /// The store's, except a conflict: what another writer appended meanwhile is read, and the rest is
    /// tried again.
    pub async fn append(&mut self, claims: &[Claim]) -> Result<(), StoreError> {
        loop {
            if claims.iter().all(|claim| self.order.covers(claim)) {
                return Ok(());
            }
            let mut committer = match self.committer.take() {
                Some(committer) => committer,
                None => {
                    let committer = Committer::open(&self.store, Table::Order, FENCE).await?;
                    // After the committer: then this has all rows that the committer stands on.
                    self.follow().await?;
                    committer
                }
            };
            let missing = self.missing(claims)?;
            if missing.num_rows() == 0 {
                continue;
            }
            let rows = i64_of(self.order.rows()).saturating_add(missing.num_rows() as i64);
            failpoint::hit("store.order.before_commit");
            match committer.commit(std::slice::from_ref(&missing), vec![(FENCE.to_owned(), rows)]).await {
                Ok(_) => {
                    failpoint::hit("store.order.after_commit");
                    self.add(&[missing])?;
                    self.committer = Some(committer);
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    tracing::debug!("another process has appended to the order");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The rows that the claims still need.
    fn missing(&self, claims: &[Claim]) -> Result<RecordBatch, StoreError> {
        let (mut builder, time) = (Builder::new(), self.store.clock().now_us());
        let (mut number, mut offset) = (self.order.rows(), self.order.end().0);
        for claim in claims.iter().filter(|claim| !self.order.covers(claim)) {
            let first = self.order.next(claim.kind, &claim.source);
            builder.push(Row {
                number: i64_of(number),
                offset: i64_of(offset),
                kind: claim.kind.as_str(),
                source: &claim.source,
                first: i64_of(first),
                last: i64_of(claim.next - 1),
                time,
            });
            number += 1;
            if claim.kind == Kind::Reading {
                offset = offset.saturating_add(claim.next - first);
            }
        }
        builder.finish().map_err(|source| StoreError::Rows { table: Table::Order, source })
    }
}

fn i64_of(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Everything that the newest versions of `records` and `evaluations` hold, as claims: what a writer that
/// was killed between its commit and the order left without a place is among them.
///
/// # Errors
/// Any [`StoreError`] where the tables cannot be read.
pub async fn claims(store: &Store) -> Result<Vec<Claim>, StoreError> {
    let mut claims = Vec::new();
    for (table, kind, columns) in [
        (Table::Records, Kind::Reading, &["shard"][..]),
        (Table::Evaluations, Kind::Evaluation, &["job", "series"][..]),
    ] {
        let version = store.version(table).await?;
        let delta = store.at(table, version).await?;
        for source in crate::read::distinct(&delta, table, columns).await? {
            let number = crate::transaction_of(&delta, table, &kind.transaction(&source)).await?;
            let next = number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
            claims.push(Claim { kind, source: source.into(), next });
        }
    }
    Ok(claims)
}

#[cfg(test)]
mod tests;
