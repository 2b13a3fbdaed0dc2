//! Keeps a table fast to open and free of what nobody needs.
//!
//! ```text
//! plan (bins of small files) ─> join (rows in the table's order) ─> rewrite ─> vacuum ─> checkpoint ─> log
//! ```
//!
//! No row changes, comes or goes: a follower sees [`News::Nothing`](crate::follow::News), old versions
//! stay readable for the retention, and nothing that is being written can be touched, because files
//! younger than the retention are never deleted.
//!
//! # Who runs it
//! The program that writes a table's rows, beside its own commits: ingest for `records`, replay for
//! the others. A rewrite carries the fence [`FENCE`], so that of two that run at once on one table
//! the second gets [`StoreError::Conflict`]. The engine's own compaction has no such fence and takes
//! two rewrites of one file for compatible, which would double every row: nobody may call it.

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
use crate::{Store, StoreError, file};
use perennial_program::error::{Fault, Kind};
use perennial_program::stop::Stop;
use perennial_schemas::id::Version;
use perennial_schemas::table::Table;

mod order;

/// The fence of every commit that replaces files, so that no two of them undo each other.
pub const FENCE: &str = "rewrite";

/// The most rows of a file that compaction makes: their keys are held in memory while it does.
const MAX_ROWS: u64 = 1 << 20;

/// How long a file that no version from now on needs is kept, for readers of older versions and for
/// files that are written but not yet committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention(Duration);

/// A retention that is too short for what may be under way, or longer than the log remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a retention of {0:?} is not between 1 and 30 days")]
pub struct RetentionError(Duration);

impl Fault for RetentionError {
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
    /// [`RetentionError`] for any other: a day is more than any reader or writer takes, and the log
    /// forgets after 30 days when a file went.
    pub fn new(duration: Duration) -> Result<Self, RetentionError> {
        if (Self::LEAST..=Self::MOST).contains(&duration) {
            Ok(Self(duration))
        } else {
            Err(RetentionError(duration))
        }
    }

    /// Any retention, down to none. Only where nobody else has the store open: a reader of an older
    /// version loses its files, a writer those it has not yet committed.
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

/// How a table is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of the files that compaction makes; what has less than half of it is a small file.
    pub target_bytes: u64,
    /// The small files that a partition still being written may have: today's of `records`, and every
    /// one of the tables that have no day.
    pub open_files: usize,
    /// Versions after which a checkpoint is due; a compaction makes one in any case.
    pub checkpoint_after: u64,
    /// How long files that no newer version needs are kept.
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

/// What a maintenance did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// The live files before.
    pub before: Size,
    /// The live files after.
    pub after: Size,
    /// How many small files were joined.
    pub joined: usize,
    /// Into how many.
    pub made: usize,
    /// Files deleted: replaced ones past their retention, and orphans of killed writers.
    pub deleted: usize,
    /// Entries of the log deleted, that a checkpoint stands for.
    pub forgotten: usize,
    /// The version of the checkpoint that was written.
    pub checkpoint: Option<Version>,
    /// Whether it was asked to stop before it had done everything.
    pub stopped: bool,
}

/// Compacts, vacuums and checkpoints `table` as it is now. Between two steps it heeds `stop`; what
/// it leaves out then, the next run does.
///
/// # Errors
/// [`StoreError::Conflict`] where somebody else rewrites the table at the same time,
/// [`StoreError::Delta`] or [`StoreError::File`] where it cannot be read or written.
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

/// A live file with what it takes to remove it.
#[derive(Debug, Clone)]
struct Live {
    data: file::DataFile,
    /// Rows, where the log says.
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

/// The day of a time, as the log writes it.
fn day_name(time_us: i64) -> Option<String> {
    chrono::DateTime::from_timestamp_micros(time_us).map(|time| time.format("%Y-%m-%d").to_string())
}

/// Which files become one: small files of one partition, neighbours in time, up to the target. A
/// file alone is left as it is, and so are the few small ones of a partition still being written:
/// they would be written again with every run.
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

/// Joins each bin, and commits whenever a few targets' worth of files are written, so that a kill
/// loses little and a table of many small partitions does not get a version for each.
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

/// Commits what is pending; false where another rewrite has taken one of its files away: the plan is
/// stale, and what was written for it is left to a later vacuum.
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
    let target_size = i64::try_from(options.target_bytes).unwrap_or(i64::MAX);
    let operation = DeltaOperation::Optimize { predicate: None, target_size };
    let Some(version) = committer.rewrite(actions, operation, &replaced).await? else {
        tracing::info!("files to be joined were rewritten by another: left for the next maintenance");
        return Ok(false);
    };
    tracing::info!(%version, joined = replaced.len(), made, "small files joined");
    done.joined += replaced.len();
    done.made += made;
    store.0.files.forget(&replaced);
    Ok(true)
}

/// Writes the rows of a bin as one file, in the table's order; `None` when asked to stop.
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
        // The lighter mode does not see what a killed writer left behind.
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

/// Writes a checkpoint of the newest version where one is due.
async fn checkpoint(
    store: &Store,
    table: Table,
    options: &Options,
    compacted: bool,
) -> Result<Option<Version>, StoreError> {
    let delta = store.newest(table).await?;
    let newest = delta.version().unwrap_or(0);
    let last = last_checkpoint(table, &delta).await?;
    let is_due = match last {
        Some(last) => newest > last && (compacted || newest - last >= options.checkpoint_after),
        None => compacted || newest >= options.checkpoint_after,
    };
    if !is_due {
        return Ok(None);
    }
    let failed = StoreError::delta("write a checkpoint of", table);
    deltalake::checkpoints::create_checkpoint(&delta, None).await.map_err(failed)?;
    Ok(Some(Version(newest)))
}

/// The version of the last checkpoint, as the log's hint says.
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

/// Deletes the entries of the log that its properties say are too old, up to a checkpoint.
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
