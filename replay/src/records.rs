//! The kept records of a store in its order, version by version.
//!
//! The order is read before `records`, so that of everything that has an offset the record is known, or was
//! removed. A record becomes visible when its offset is known: readings that a killed ingest left without
//! one get theirs here, after [`PATIENCE`].
//!
//! What was read is kept in the cache folder, as segments of the index with the version of `records` that they
//! are of: an open reads those, and then only what has come since.
//!
//! An erased record keeps its shape (its passages and so its bytes), so an older ticket needs no older
//! version: it reads the same index below its own limit.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use perennial_schemas::id::{Offset, RecordId, Seq, Shard, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::column::unpack_u32;
use perennial_schemas::table::order::Kind;
use perennial_schemas::table::records::{Outcome, Reason, Row, View};
use perennial_store::follow::{Follower, News};
use perennial_store::order::{self, Claim, Order, OrderLog, Run};
use perennial_store::{Scan, Store, StoreError};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{ReplayError, Result};
use crate::index::cache::{Cached, IndexCache, Mark, chain};
use crate::index::{Index, Record, SEGMENT};
use crate::library::Access;

/// What the index is made of, beside what every row has.
const COLUMNS: &[&str] = &["seq", "origin", "event_time", "id", "passages", "reason"];

/// How long readings may lack a place in the order before a reader gives them one: the ingest that read
/// them does it at once, unless it was killed.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often a whole version is read again because its files were replaced meanwhile.
const TRIES: usize = 8;

/// Records in memory beside the segments, after which they become one. A record of a segment takes less.
const TAIL: usize = 1 << 16;

/// Versions after which what has come is kept in the cache folder: each costs an open a read of two files.
const VERSIONS: u64 = 64;

/// Follows `records` and `order`.
#[derive(Debug)]
pub struct Records {
    store: Store,
    access: Access,
    cache: Option<IndexCache>,
    /// The version that the cache folder has.
    saved: Version,
    order_log: OrderLog,
    /// The order as it was before the records were last read: of everything in it the record was read.
    order: Arc<Order>,
    follower: Follower,
    version: Version,
    index: Arc<Index>,
    /// Records that were read and have no offset yet.
    pending: Vec<Record>,
    /// The next seq of each shard, as far as its rows were read.
    read: BTreeMap<Shard, Seq>,
    /// Since when readings lack a place, on the store's clock.
    lacking: Option<Duration>,
    rewrites: u64,
    /// Whether the newest version is still to be read as a whole.
    stale: bool,
}

impl Records {
    /// Reads the newest version. Readings without a place in the order get one, or are not visible.
    ///
    /// # Errors
    /// Where the store cannot be read, or holds kept records that are not whole.
    pub async fn open(store: &Store, access: Access, cache: Option<IndexCache>) -> Result<Self> {
        let mut order_log = OrderLog::open(store).await?;
        if access == Access::Follow {
            order_log.append(&order::claims(store).await?).await?;
        }
        let order = Arc::clone(order_log.order());
        let version = store.version(Table::Records).await?;
        let follower = Follower::new(store, Table::Records, Some(version), Some(COLUMNS)).await?;
        let mut records = Self {
            store: store.clone(),
            access,
            cache,
            saved: Version(0),
            order_log,
            order,
            follower,
            version,
            index: Arc::default(),
            pending: Vec::new(),
            read: BTreeMap::new(),
            lacking: None,
            rewrites: 0,
            stale: true,
        };
        records.load().await?;
        records.read_on().await?;
        records.rewrites = 0;
        Ok(records)
    }

    /// Takes over what the cache folder has, if it is of this store.
    async fn load(&mut self) -> Result<()> {
        let Some(Cached { mark, segments }) = self.cache.as_ref().and_then(IndexCache::load) else {
            return Ok(());
        };
        if mark.limit > self.order.end() || self.entry(mark.version).await? != Some(mark.entry) {
            tracing::info!("the index in the cache folder is not of this store as it is: it is made again");
            return Ok(());
        }
        let mut read = BTreeMap::new();
        for (shard, next) in mark.read {
            read.insert(shard.parse()?, Seq(next));
        }
        let Ok(index) = Index::of(segments, mark.limit) else {
            tracing::warn!(
                "the segments in the cache folder do not follow each other: the index is made again"
            );
            return Ok(());
        };
        let after = Some(mark.version);
        self.follower = Follower::new(&self.store, Table::Records, after, Some(COLUMNS)).await?;
        (self.index, self.read, self.version, self.saved) =
            (Arc::new(index), read, mark.version, mark.version);
        self.stale = false;
        Ok(())
    }

    /// A digest of the entry of the log that made a version; `None` if the log does not have it any more.
    async fn entry(&self, version: Version) -> Result<Option<String>> {
        let entry = self.store.log_entry(Table::Records, version).await?;
        Ok(entry.map(|bytes| format!("{:032x}", xxh3_128(&bytes))))
    }

    /// Keeps what was read in the cache folder, and in less memory.
    async fn settle(&mut self) -> Result<()> {
        let tail = self.index.tail().len();
        let due = self.cache.is_some() && self.version.0.saturating_sub(self.saved.0) >= VERSIONS;
        // Without their offsets the pending ones are in no segment.
        if tail == 0 || !self.pending.is_empty() || (tail < TAIL && !due) {
            return Ok(());
        }
        Arc::make_mut(&mut self.index).settle()?;
        self.save().await
    }

    async fn save(&mut self) -> Result<()> {
        let Some(cache) = self.cache.clone().filter(|_| self.pending.is_empty()) else { return Ok(()) };
        let Some(entry) = self.entry(self.version).await? else { return Ok(()) };
        let read = self.read.iter().map(|(shard, next)| (shard.to_string(), next.0)).collect();
        let mark = Mark { version: self.version, entry, limit: self.index.limit(), read };
        let segments = self.index.segments().to_vec();
        let saved = tokio::task::spawn_blocking(move || cache.save(&mark, &segments)).await;
        match saved.map_err(ReplayError::Index)? {
            Ok(Some(mapped)) => {
                Arc::make_mut(&mut self.index).replace_segments(mapped);
                self.saved = self.version;
            }
            Ok(None) => tracing::debug!("another process is writing to the cache folder"),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the index cannot be kept in the cache folder: the next open reads the store");
                self.cache = None;
            }
        }
        Ok(())
    }

    /// Reads what came since.
    ///
    /// # Errors
    /// As [`Records::open`]. The next call goes on from there.
    pub async fn follow(&mut self) -> Result<()> {
        self.order_log.follow().await?;
        self.read_on().await?;
        if self.complete().await? {
            // The order may now have more than was read.
            self.read_on().await?;
        }
        Ok(())
    }

    async fn read_on(&mut self) -> Result<()> {
        self.order = Arc::clone(self.order_log.order());
        if self.stale {
            self.reread().await?;
        }
        while let Some(news) = self.follower.next().await? {
            match news {
                News::Appended { version, batches } => {
                    self.stale = true;
                    self.add(&batches)?;
                    self.stale = false;
                    self.version = version;
                }
                News::Rewritten { .. } => {
                    self.stale = true;
                    self.reread().await?;
                }
                News::Nothing { version } => self.version = version,
            }
        }
        self.place()?;
        self.settle().await
    }

    /// Reads the newest version as a whole. The version that was announced may have lost its files since.
    async fn reread(&mut self) -> Result<()> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let version = self.store.version(Table::Records).await?;
            // Of rows that contradict each other nothing is taken over.
            let known = (self.index.clone(), std::mem::take(&mut self.pending), self.read.clone());
            let error = match self.read_all(version).await {
                Ok(()) => break,
                Err(error) => error,
            };
            (self.index, self.pending, self.read) = known;
            // Only if the files were replaced meanwhile is it worth another look.
            if tries == 0 || self.store.version(Table::Records).await? == version {
                return Err(error);
            }
            tracing::debug!(%error, %version, "the table was rewritten while it was read");
        }
        self.rewrites += 1;
        self.stale = false;
        if self.index.len() >= TAIL {
            self.save().await?;
        }
        Ok(())
    }

    /// Reads a version as a whole, in pieces of about a segment.
    async fn read_all(&mut self, version: Version) -> Result<()> {
        let follower = Follower::new(&self.store, Table::Records, Some(version), Some(COLUMNS)).await?;
        (self.index, self.read) = (Arc::default(), BTreeMap::new());
        let (end, total) = (self.order.end(), self.order.end().0);
        let mut from = Offset(0);
        while from < end {
            let to = Offset(from.0.saturating_add(SEGMENT as u64)).min(end);
            let batches = scan(&self.store, version, &of_runs(self.order.runs(from, to))).await?;
            self.add(&batches)?;
            // The ranges of seq may touch on readings of the next piece: those are read again there.
            self.pending.retain(|record| {
                let offset = self.order.offset(&record.shard, record.seq);
                offset.is_some_and(|offset| (from..to).contains(&offset))
            });
            self.place_below(to)?;
            if self.index.tail().len() >= TAIL {
                Arc::make_mut(&mut self.index).settle()?;
            }
            if to < end {
                tracing::info!(readings = to.0, of = total, "reading the index of the store");
            }
            from = to;
        }
        let batches = scan(&self.store, version, &self.without_place()).await?;
        self.add(&batches)?;
        self.pending.retain(|record| self.order.offset(&record.shard, record.seq).is_none());
        self.place()?;
        (self.follower, self.version) = (follower, version);
        Ok(())
    }

    /// The predicate of readings that have no place in the order.
    fn without_place(&self) -> String {
        let known: Vec<String> = self
            .order
            .shards()
            .map(|shard| {
                let next = self.order.next(Kind::Reading, shard.as_str());
                format!("(shard = '{shard}' and seq >= {next})")
            })
            .collect();
        let names: Vec<String> = self.order.shards().map(|shard| format!("'{shard}'")).collect();
        match names.is_empty() {
            true => "true".to_owned(),
            false => format!("shard not in ({}) or {}", names.join(", "), known.join(" or ")),
        }
    }

    /// Adds the records among these rows, whatever their order.
    fn add(&mut self, batches: &[RecordBatch]) -> Result<()> {
        for batch in batches {
            for row in View::new(batch)?.iter() {
                let known = self.pending.last().filter(|record| record.shard.as_str() == row.shard);
                let shard = known.map_or_else(|| row.shard.parse(), |record| Ok(record.shard.clone()))?;
                if let Some(seq) = row.seq {
                    let next = Seq::from_i64(seq).next();
                    match self.read.get_mut(&shard) {
                        Some(known) => *known = next.max(*known),
                        None => drop(self.read.insert(shard.clone(), next)),
                    }
                }
                self.pending.extend(record(&row, shard)?);
            }
        }
        Ok(())
    }

    /// Moves the records whose offset is known into the index. Only when everything is read that the order
    /// knows of: then nothing comes later that belongs below its end.
    fn place(&mut self) -> Result<()> {
        self.place_below(self.order.end())
    }

    fn place_below(&mut self, limit: Offset) -> Result<()> {
        let mut placed = Vec::with_capacity(self.pending.len());
        for record in std::mem::take(&mut self.pending) {
            match self.order.offset(&record.shard, record.seq) {
                Some(offset) => placed.push(Record { offset, ..record }),
                None => self.pending.push(record),
            }
        }
        placed.sort_by_key(|record| record.offset);
        // Of rows that contradict each other the index may get some: then all are read again.
        self.stale = true;
        // Nobody else holds it between two calls, so nothing is copied.
        Arc::make_mut(&mut self.index).extend(placed, limit)?;
        self.stale = false;
        Ok(())
    }

    /// Gives readings that lack a place for too long one; whether there were any.
    async fn complete(&mut self) -> Result<bool> {
        let claims: Vec<Claim> =
            self.read.iter().map(|(shard, next)| Claim::readings(shard, *next)).collect();
        if self.access == Access::Read || claims.iter().all(|claim| self.order.covers(claim)) {
            self.lacking = None;
            return Ok(false);
        }
        let now = self.store.clock().monotonic();
        if now.saturating_sub(*self.lacking.get_or_insert(now)) < PATIENCE {
            return Ok(false);
        }
        tracing::warn!("an ingest has left readings without a place in the order: they get one now");
        self.order_log.append(&claims).await?;
        self.lacking = None;
        Ok(true)
    }

    /// The newest version that was read.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// How often all records were read again since the open: what was derived before is derived again.
    #[must_use]
    pub const fn rewrites(&self) -> u64 {
        self.rewrites
    }

    /// The records that have an offset.
    #[must_use]
    pub const fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The order as far as it was read.
    #[must_use]
    pub const fn order(&self) -> &Arc<Order> {
        &self.order
    }

    /// To append to the order.
    pub const fn order_log(&mut self) -> &mut OrderLog {
        &mut self.order_log
    }

    /// The index, for a ticket with this limit.
    ///
    /// # Errors
    /// [`ReplayError::NoOffset`] for a limit that was not read yet.
    pub fn at(&self, limit: Offset) -> Result<Arc<Index>> {
        let newest = self.index.limit();
        if limit > newest {
            return Err(ReplayError::NoOffset { asked: limit, newest });
        }
        Ok(Arc::clone(&self.index))
    }
}

/// The predicate of the readings of some runs: of each shard one range of seq.
fn of_runs(runs: impl Iterator<Item = Run>) -> String {
    let mut ranges: BTreeMap<Shard, Range<u64>> = BTreeMap::new();
    for run in runs {
        let range = ranges.entry(run.shard).or_insert_with(|| run.seqs.clone());
        *range = range.start.min(run.seqs.start)..range.end.max(run.seqs.end);
    }
    let one = |(shard, seqs): (&Shard, &Range<u64>)| {
        format!("(shard = '{shard}' and seq >= {} and seq < {})", seqs.start, seqs.end)
    };
    let all: Vec<String> = ranges.iter().map(one).collect();
    if all.is_empty() { "false".to_owned() } else { all.join(" or ") }
}

async fn scan(store: &Store, version: Version, which: &str) -> Result<Vec<RecordBatch>, StoreError> {
    let outcome = format!("outcome = '{}' or reason = '{}'", Outcome::Kept, Reason::Erased);
    let filter = Some(format!("({outcome}) and ({which})"));
    store.scan(Table::Records, version, &Scan { columns: COLUMNS, filter, order: &[] }).await
}

/// The record in a row, without its offset; `None` for a row of another outcome.
fn record(row: &Row<'_>, shard: Shard) -> Result<Option<Record>> {
    let erased = row.reason == Some(Reason::Erased.as_str());
    if row.outcome != Outcome::Kept.as_str() && !erased {
        return Ok(None);
    }
    let seq = row.seq.and_then(|seq| u64::try_from(seq).ok()).map(Seq);
    let inconsistent = |why: String| ReplayError::Inconsistent { table: "records", why };
    let seq = seq.ok_or_else(|| {
        inconsistent(format!("a kept record of shard `{shard}` and commit {} has no seq", row.commit))
    })?;
    let lacks = |what: &str| inconsistent(format!("record {seq} of shard `{shard}` has no {what}"));
    let id = match row.id.and_then(RecordId::from_bytes) {
        Some(id) => id,
        None if erased => RecordId::from_hash(0),
        None => return Err(lacks("id")),
    };
    let passages: Box<[u32]> = row.passages.map(|blob| unpack_u32(blob).collect()).unwrap_or_default();
    let bytes = passages.last().copied().ok_or_else(|| lacks("passages"))?.into();
    if !passages.is_sorted() {
        return Err(lacks("passages that rise"));
    }
    let (offset, source, event_time) = (Offset(0), row.origin.unwrap_or(row.source).into(), row.event_time);
    Ok(Some(Record { offset, shard, seq, id, bytes, passages, source, event_time, erased }))
}
