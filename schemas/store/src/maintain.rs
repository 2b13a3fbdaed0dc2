//! Keeps a table fast to open and deletes files that no reader needs.
//!
//! ```text
//! plan (bins of small files) ─> join (rows in the table's order) ─> rewrite ─> vacuum ─> checkpoint ─> log
//! ```
//!
//! No row is changed, added or removed: a follower sees [`News::Nothing`](crate::follow::News), old versions
//! stay readable for the retention, and nothing that is being written can be touched, because files
//! younger than the retention are never deleted.
//!
//! # Who runs it
//! The program that writes a table's rows, beside its own commits: ingest for `records`, replay for
//! the others. A rewrite carries the fence [`FENCE`]: of two that run on one table at the same time
//! the second gets [`StoreError::Conflict`]. Never call Delta's own compaction: it has no such fence and
//! accepts two rewrites of one file as compatible, which would double every row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deltalake::DeltaTable;
use deltalake::kernel::{Action, Remove};
use deltalake::operations::vacuum::VacuumMode;
use deltalake::protocol::DeltaOperation;
use deltalake::table::config::TablePropertiesExt as _;
use deltalake::writer::DeltaWriter as _;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use crate::commit::Committer;
use crate::{Store, StoreError, file, version_of};
use perennial_program::error::{Kind, ProgramError};
use perennial_program::stop::Stop;
use perennial_schemas::id::Version;
use perennial_schemas::table::Table;

mod order;

/// The fence of every commit that replaces files: two of them cannot replace the same file.
pub const FENCE: &str = "rewrite";

/// The most rows of a file that compaction makes: their keys are held in memory while it does.
const MAX_ROWS: u64 = 1 << 20;

/// How long a file that no version from now on needs is kept, for readers of older versions and for
/// files that are written but not yet committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention(Duration);

/// A retention that is shorter than a reader or writer may need, or longer than the log keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a retention of {0:?} is not between 1 and 30 days")]
pub struct RetentionError(Duration);

impl ProgramError for RetentionError {
    fn kind(&self) -> Kind {
        Kind::Config
    }
}

impl Retention {
    const LEAST: Duration = Duration::from_secs(86_400);
    const MOST: Duration = Duration::from_secs(30 * 86_400);

    /// A retention of 1 to 30 days.
    ///
    /// # Errors
    /// [`RetentionError`] for any other: every reader and writer ends within a day, and the log keeps for
    /// 30 days when a file was removed.
    pub fn new(duration: Duration) -> Result<Self, RetentionError> {
        if (Self::LEAST..=Self::MOST).contains(&duration) {
            Ok(Self(duration))
        } else {
            Err(RetentionError(duration))
        }
    }

    /// Any retention, down to 0. Only for a store that no other process has open: a reader of an older
    /// version would lose its files, and a writer those not yet committed.
    #[must_use]
    pub const fn forced(duration: Duration) -> Self {
        Self(duration)
    }

    fn delta(self) -> chrono::Duration {
        chrono::Duration::from_std(self.0).unwrap_or(chrono::Duration::MAX)
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self(7 * Self::LEAST)
    }
}

/// How a table is maintained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of the files that compaction writes; a file of less than half of it is small.
    pub target_bytes: u64,
    /// The most small files of a partition that is still written to: today's of `records`, and every
    /// partition of the tables that have no day.
    pub open_files: usize,
    /// Versions between checkpoints; a compaction always writes one.
    pub checkpoint_after: u64,
    /// How long files are kept that no newer version needs.
    pub retention: Retention,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target_bytes: 128 << 20,
            open_files: 32,
            checkpoint_after: 50,
            retention: Retention::default(),
        }
    }
}

/// Live files of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// How many.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The work that a maintenance did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// The live files before.
    pub before: Size,
    /// The live files after.
    pub after: Size,
    /// Small files that were joined.
    pub joined: usize,
    /// Files that they were joined into.
    pub made: usize,
    /// Files deleted: replaced files past their retention, and orphans of killed writers.
    pub deleted: usize,
    /// Entries of the log deleted because a checkpoint contains them.
    pub forgotten: usize,
    /// The version of the checkpoint that was written.
    pub checkpoint: Option<Version>,
    /// Whether it was stopped before it had done everything.
    pub stopped: bool,
}

/// Compacts, vacuums and checkpoints the newest version of `table`. Between two steps it checks `stop`;
/// the next run does the remaining steps.
///
/// # Errors
/// [`StoreError::Conflict`] if another process rewrites the table at the same time,
/// [`StoreError::Delta`] or [`StoreError::File`] if it cannot be read or written.
pub async fn run(store: &Store, table: Table, options: &Options, stop: &Stop) -> Result<Done, StoreError> {
    let done = all(store, table, options, stop).await;
    done.map_err(|error| error.of_store(store.url()))
}

async fn all(store: &Store, table: Table, options: &Options, stop: &Stop) -> Result<Done, StoreError> {
    let mut committer = Committer::open(store, table, FENCE).await?;
    let live = live(committer.delta(), table).await?;
    let mut done = Done { before: Size::of(&live), after: Size::of(&live), ..Done::default() };
    let today = day_name(store.clock().now_us());
    let bins = plan(live, options, today.as_deref());
    compact(store, &mut committer, bins, options, stop, &mut done).await?;
    if done.joined > 0 {
        done.after = Size::of(&self::live(committer.delta(), table).await?);
    }
    if !stop.is_triggered() {
        done.deleted = vacuum(store, table, options.retention).await?;
    }
    if !stop.is_triggered() {
        done.checkpoint = checkpoint(store, table, options, done.joined > 0).await?;
        done.forgotten = clean_log(store, table).await?;
    }
    done.stopped = stop.is_triggered();
    Ok(done)
}

/// A live file with the action that removes it.
#[derive(Debug, Clone)]
struct Live {
    data: file::DataFile,
    /// Rows, if the log says; else 0.
    rows: u64,
    /// When it was written, in milliseconds.
    written: i64,
    remove: Remove,
}

impl Size {
    fn of(live: &[Live]) -> Self {
        Self { files: live.len(), bytes: live.iter().map(|file| file.data.size).sum() }
    }
}

async fn live(delta: &DeltaTable, table: Table) -> Result<Vec<Live>, StoreError> {
    let views = delta.get_active_add_actions_by_partitions(&[]);
    let live = views.map_ok(|view| Live {
        data: file::DataFile::of(&view),
        rows: view.num_records().and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0),
        written: view.modification_time(),
        remove: view.remove_action(false),
    });
    live.try_collect().await.map_err(StoreError::delta("list the files of", table))
}

/// The day of a time, in the form of the log.
fn day_name(time_us: i64) -> Option<String> {
    chrono::DateTime::from_timestamp_micros(time_us).map(|time| time.format("%Y-%m-%d").to_string())
}

/// The files to join: small files of one partition, neighbours in time, up to the target size. A single
/// file is left as it is, and so are the few small files of a partition that is still written to: they
/// would be rewritten with every run.
fn plan(live: Vec<Live>, options: &Options, today: Option<&str>) -> Vec<Vec<Live>> {
    let mut partitions: BTreeMap<BTreeMap<String, Option<String>>, Vec<Live>> = BTreeMap::new();
    for file in live {
        if file.data.size < options.target_bytes / 2 && file.rows < MAX_ROWS / 2 {
            partitions.entry(file.data.partition.clone()).or_default().push(file);
        }
    }
    let mut bins = Vec::new();
    for (partition, mut small) in partitions {
        let is_closed = partition.get("day").is_some_and(|day| day.as_deref() < today);
        if !is_closed && small.len() <= options.open_files {
            continue;
        }
        small.sort_by(|a, b| (a.written, &a.data.path).cmp(&(b.written, &b.data.path)));
        let mut bin: Vec<Live> = Vec::new();
        for file in small {
            let bytes: u64 = bin.iter().map(|file| file.data.size).sum();
            let rows: u64 = bin.iter().map(|file| file.rows).sum();
            if bytes + file.data.size > options.target_bytes || rows + file.rows > MAX_ROWS {
                bins.push(std::mem::take(&mut bin));
            }
            bin.push(file);
        }
        bins.push(bin);
    }
    bins.retain(|bin| bin.len() > 1);
    bins
}

/// Joins each bin, and commits whenever files of four times the target size are written: a kill loses
/// little work, and a table of many small partitions does not get a version for each.
async fn compact(
    store: &Store,
    committer: &mut Committer,
    bins: Vec<Vec<Live>>,
    options: &Options,
    stop: &Stop,
    done: &mut Done,
) -> Result<(), StoreError> {
    let mut pending = Pending::default();
    for bin in bins {
        let Some(adds) = join(store, committer, &bin, stop).await? else { break };
        pending.made += adds.len();
        pending.bytes += adds.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum::<u64>();
        let now_ms = store.clock().now_us() / 1_000;
        pending.actions.extend(
            bin.iter().map(|file| {
                Action::Remove(Remove { deletion_timestamp: Some(now_ms), ..file.remove.clone() })
            }),
        );
        pending.actions.extend(adds.into_iter().map(Action::Add));
        pending.replaced.extend(bin.into_iter().map(|file| file.data.path));
        if pending.bytes >= 4 * options.target_bytes
            && !land(store, committer, &mut pending, options, done).await?
        {
            return Ok(());
        }
    }
    land(store, committer, &mut pending, options, done).await.map(|_| ())
}

/// Joined files that are written and not yet committed.
#[derive(Default)]
struct Pending {
    actions: Vec<Action>,
    replaced: Vec<String>,
    made: usize,
    bytes: u64,
}

/// Commits the pending files. False if another rewrite has removed one of the files they replace: then the
/// plan is stale, and a later vacuum deletes the pending files.
async fn land(
    store: &Store,
    committer: &mut Committer,
    pending: &mut Pending,
    options: &Options,
    done: &mut Done,
) -> Result<bool, StoreError> {
    let Pending { actions, replaced, made, .. } = std::mem::take(pending);
    if replaced.is_empty() {
        return Ok(true);
    }
    // Only a note in the log.
    let target_size = i64::try_from(options.target_bytes).unwrap_or(i64::MAX);
    let operation = DeltaOperation::Optimize { predicate: None, target_size };
    let Some(version) = committer.rewrite(actions, operation, &replaced).await? else {
        tracing::info!("another process rewrote files to be joined: they are left to the next maintenance");
        return Ok(false);
    };
    tracing::info!(%version, joined = replaced.len(), made, "small files joined");
    done.joined += replaced.len();
    done.made += made;
    store.0.files.forget(&replaced);
    Ok(true)
}

/// Writes the rows of a bin as one file, in the table's order; `None` when stopped.
async fn join(
    store: &Store,
    committer: &Committer,
    bin: &[Live],
    stop: &Stop,
) -> Result<Option<Vec<deltalake::kernel::Add>>, StoreError> {
    let table = committer.table();
    let failed = StoreError::delta("write", table);
    let rows = order::Rows::read(store, committer.delta(), table, bin.iter().map(|file| &file.data)).await?;
    let mut writer = committer.writer()?;
    for window in rows.windows() {
        if stop.is_triggered() {
            writer.reset();
            return Ok(None);
        }
        let batch = rows.gather(store, committer.delta(), window).await?;
        writer.write(batch).await.map_err(&failed)?;
    }
    let mut adds = writer.flush().await.map_err(&failed)?;
    for add in &mut adds {
        add.data_change = false;
    }
    Ok(Some(adds))
}

/// Deletes files that no version within the retention needs.
async fn vacuum(store: &Store, table: Table, retention: Retention) -> Result<usize, StoreError> {
    let now = Now(store.clock().now_us() / 1_000);
    let delta = store.newest(table).await?;
    let vacuum = delta
        .vacuum()
        // The lighter mode does not find the files that a killed writer left behind.
        .with_mode(VacuumMode::Full)
        .with_retention_period(retention.delta())
        .with_enforce_retention_duration(false)
        .with_clock(Arc::new(now));
    let (delta, metrics) = vacuum.await.map_err(StoreError::delta("vacuum", table))?;
    store.remember(table, delta);
    Ok(metrics.files_deleted.len())
}

/// The time of one vacuum, in milliseconds.
#[derive(Debug)]
struct Now(i64);

impl deltalake::operations::vacuum::Clock for Now {
    fn current_timestamp_millis(&self) -> i64 {
        self.0
    }
}

/// Writes a checkpoint of the newest version if the last one is too old.
async fn checkpoint(
    store: &Store,
    table: Table,
    options: &Options,
    compacted: bool,
) -> Result<Option<Version>, StoreError> {
    let delta = store.newest(table).await?;
    let newest = version_of(&delta);
    let last = last_checkpoint(table, &delta).await?;
    let is_needed = match last {
        Some(last) => newest.0 > last && (compacted || newest.0 - last >= options.checkpoint_after),
        None => compacted || newest.0 >= options.checkpoint_after,
    };
    if !is_needed {
        return Ok(None);
    }
    let failed = StoreError::delta("write a checkpoint of", table);
    deltalake::checkpoints::create_checkpoint(&delta, None).await.map_err(failed)?;
    Ok(Some(newest))
}

/// The version of the last checkpoint, from the log's hint.
async fn last_checkpoint(table: Table, delta: &DeltaTable) -> Result<Option<u64>, StoreError> {
    #[derive(serde::Deserialize)]
    struct Hint {
        version: u64,
    }
    let name = "_delta_log/_last_checkpoint";
    let failed = |source| StoreError::File { table, file: name.to_owned(), source: Box::new(source) };
    let objects = delta.log_store().object_store(None);
    let hint = match objects.get(&Path::from(name)).await {
        Ok(found) => found.bytes().await.map_err(failed)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    // A hint that cannot be read counts as none.
    Ok(serde_json::from_slice::<Hint>(&hint).ok().map(|hint| hint.version))
}

/// Deletes the entries of the log that are too old by the table's properties, up to a checkpoint.
async fn clean_log(store: &Store, table: Table) -> Result<usize, StoreError> {
    let delta = store.newest(table).await?;
    let state = delta.snapshot().map_err(StoreError::delta("read", table))?;
    if !state.table_config().enable_expired_log_cleanup() {
        return Ok(0);
    }
    let failed = StoreError::delta("clean up the log of", table);
    deltalake::checkpoints::cleanup_metadata(&delta, None).await.map_err(failed)
}

#[cfg(test)]
mod tests;
