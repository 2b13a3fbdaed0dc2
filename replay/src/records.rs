//! The kept records of a store, version by version.
//!
//! One [`Index`] holds the newest version; because records are only ever added at the end of their
//! shard, an older version is the same index below its own [`HighWaterMarks`]. Where an erase or another
//! rewrite lies in between, that version is read from the store as it was: an old ticket keeps its shape.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use perennial_schemas::id::{RecordId, Seq, Shard, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::column::unpack_u32;
use perennial_schemas::table::records::{Outcome, Row, View};
use perennial_store::follow::{Follower, News};
use perennial_store::{Scan, Store};

use crate::error::{ReplayError, Result};
use crate::index::{HighWaterMarks, Index, Record};

/// What the index is made of, beside what every row has.
const COLUMNS: &[&str] = &["seq", "origin", "event_time", "id", "passages"];

/// Without what only a record's use needs.
const PLACES: &[&str] = &["seq"];

/// Versions that were read one by one whose marks are held.
const FOLLOWED: usize = 4096;

/// Versions before those that are held at once.
const OLDER: usize = 4;

/// What a version had: the newest index below its marks, or an index of its own.
#[derive(Debug, Clone)]
struct Older {
    version: Version,
    marks: Arc<HighWaterMarks>,
    index: Option<Arc<Index>>,
}

/// Follows `records`.
#[derive(Debug)]
pub struct Records {
    store: Store,
    follower: Follower,
    version: Version,
    index: Arc<Index>,
    /// The marks from each version on at which they changed, since the newest rewrite or the open.
    history: BTreeMap<Version, Arc<HighWaterMarks>>,
    older: Vec<Older>,
    rewrites: u64,
    /// A version that was seen and is still to be read as a whole.
    unread: Option<Version>,
}

impl Records {
    /// Reads the newest version.
    ///
    /// # Errors
    /// Where the store cannot be read, or holds kept records that are not whole.
    pub async fn open(store: &Store) -> Result<Self> {
        let version = store.version(Table::Records).await?;
        let follower = Follower::new(store, Table::Records, Some(version), Some(COLUMNS)).await?;
        let index = read(store, version).await?;
        let history = [(version, Arc::new(index.high_water_marks()))].into();
        let (store, index) = (store.clone(), Arc::new(index));
        Ok(Self { store, follower, version, index, history, older: Vec::new(), rewrites: 0, unread: None })
    }

    /// Reads the versions that came since.
    ///
    /// # Errors
    /// As [`Records::open`]. The next call goes on from there.
    pub async fn follow(&mut self) -> Result<()> {
        self.reread().await?;
        while let Some(news) = self.follower.next().await? {
            let version = news.version();
            match news {
                News::Appended { batches, .. } => {
                    // Of rows that contradict each other the index may have some: then all are read again.
                    self.unread = Some(version);
                    // Nobody else holds it between two calls, so nothing is copied.
                    extend(Arc::make_mut(&mut self.index), &batches)?;
                    self.unread = None;
                    self.history.insert(version, Arc::new(self.index.high_water_marks()));
                    if self.history.len() > FOLLOWED {
                        self.history.pop_first();
                    }
                }
                News::Rewritten { .. } => {
                    self.unread = Some(version);
                    self.reread().await?;
                }
                News::Nothing { .. } => {}
            }
            self.version = version;
        }
        Ok(())
    }

    /// Reads the version that is still to be read as a whole, if there is one.
    async fn reread(&mut self) -> Result<()> {
        let Some(version) = self.unread else { return Ok(()) };
        self.index = Arc::new(read(&self.store, version).await?);
        self.history = [(version, Arc::new(self.index.high_water_marks()))].into();
        self.older.clear();
        self.rewrites += 1;
        self.version = version;
        self.unread = None;
        Ok(())
    }

    /// The newest version that was read.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// How many rewrites were seen since the open: what was derived before one is derived again.
    #[must_use]
    pub const fn rewrites(&self) -> u64 {
        self.rewrites
    }

    /// The newest version's records.
    #[must_use]
    pub const fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The newest version's marks.
    #[must_use]
    pub fn high_water_marks(&self) -> Arc<HighWaterMarks> {
        self.history.last_key_value().map(|(_, marks)| Arc::clone(marks)).unwrap_or_default()
    }

    /// The records of any version up to the newest: an index, and the marks below which it counts.
    ///
    /// # Errors
    /// [`ReplayError::NoVersion`] for a version that was not read yet, the store's own error for
    /// one that it no longer keeps.
    pub async fn at(&mut self, version: Version) -> Result<(Arc<Index>, Arc<HighWaterMarks>)> {
        if version > self.version {
            return Err(ReplayError::NoVersion { asked: version, newest: self.version });
        }
        if let Some((_, marks)) = self.history.range(..=version).next_back() {
            return Ok((Arc::clone(&self.index), Arc::clone(marks)));
        }
        let known = self.older.iter().find(|older| older.version == version).cloned();
        let older = match known {
            Some(older) => older,
            None => self.read_older(version).await?,
        };
        let index = older.index.unwrap_or_else(|| Arc::clone(&self.index));
        Ok((index, older.marks))
    }

    async fn read_older(&mut self, version: Version) -> Result<Older> {
        let mut counts: BTreeMap<Shard, (Seq, usize)> = BTreeMap::new();
        for batch in scan(&self.store, version, PLACES).await? {
            for row in View::new(&batch)?.iter() {
                let seq = seq_of(&row)?;
                let (limit, count) = counts.entry(row.shard.parse()?).or_default();
                *limit = (*limit).max(seq.next());
                *count += 1;
            }
        }
        let kept_since = |(shard, (limit, count)): (&Shard, &(Seq, usize))| {
            self.index.range(shard, Seq(0), *limit).len() == *count
        };
        // Records are only added at the end or removed: as many are the same ones.
        let same = counts.iter().all(kept_since);
        let marks = Arc::new(counts.into_iter().map(|(shard, (limit, _))| (shard, limit)).collect());
        let index = if same { None } else { Some(Arc::new(read(&self.store, version).await?)) };
        let older = Older { version, marks, index };
        if self.older.len() == OLDER {
            self.older.remove(0);
        }
        self.older.push(older.clone());
        Ok(older)
    }
}

async fn scan(store: &Store, version: Version, columns: &[&str]) -> Result<Vec<RecordBatch>> {
    let filter = Some(format!("outcome = '{}'", Outcome::Kept));
    Ok(store.scan(Table::Records, version, &Scan { columns, filter, order: &["shard", "seq"] }).await?)
}

async fn read(store: &Store, version: Version) -> Result<Index> {
    let mut index = Index::new();
    extend(&mut index, &scan(store, version, COLUMNS).await?)?;
    Ok(index)
}

/// Adds the kept records among these rows, whatever their order.
fn extend(index: &mut Index, batches: &[RecordBatch]) -> Result<()> {
    let mut records: Vec<(Shard, Record)> = Vec::new();
    for batch in batches {
        let rows = View::new(batch)?;
        for row in rows.iter().filter(|row| row.outcome == Outcome::Kept.as_str()) {
            let known = records.last().filter(|(shard, _)| shard.as_str() == row.shard);
            let shard = known.map_or_else(|| row.shard.parse(), |(shard, _)| Ok(shard.clone()))?;
            records.push((shard, record(&row)?));
        }
    }
    records.sort_by(|(a, left), (b, right)| (a, left.seq).cmp(&(b, right.seq)));
    records.into_iter().try_for_each(|(shard, record)| index.push(&shard, record))
}

fn record(row: &Row<'_>) -> Result<Record> {
    let seq = seq_of(row)?;
    let lacks = |what: &str| {
        let why = format!("kept record {seq} of shard `{}` has no {what}", row.shard);
        ReplayError::Inconsistent { table: "records", why }
    };
    let id = row.id.and_then(RecordId::from_bytes).ok_or_else(|| lacks("id"))?;
    let passages: Box<[u32]> = row.passages.map(|blob| unpack_u32(blob).collect()).unwrap_or_default();
    let bytes = passages.last().copied().ok_or_else(|| lacks("passages"))?;
    if !passages.is_sorted() {
        return Err(lacks("passages that rise"));
    }
    let (source, event_time) = (row.origin.unwrap_or(row.source).into(), row.event_time);
    Ok(Record { seq, id, bytes: bytes.into(), passages, source, event_time })
}

fn seq_of(row: &Row<'_>) -> Result<Seq> {
    let seq = row.seq.and_then(|seq| u64::try_from(seq).ok()).map(Seq);
    seq.ok_or_else(|| {
        let why = format!("a kept record of shard `{}` and commit {} has no seq", row.shard, row.commit);
        ReplayError::Inconsistent { table: "records", why }
    })
}
