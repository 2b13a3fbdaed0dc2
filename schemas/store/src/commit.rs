//! Writes rows and positions as one version, exactly once.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::logstore::get_actions;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableError};

use crate::retry::{FIRST_WAIT, TRIES};
use crate::{Store, StoreError, file, transaction_of, version_of};
use perennial_program::failpoint;
use perennial_schemas::id::Version;
use perennial_schemas::table::{Table, conform};

/// The one writer of a table under a name, its *fence*: an application transaction that is part of
/// every commit and grows with it. Two committers of one fence cannot both succeed.
#[derive(Debug)]
pub struct Committer {
    store: Store,
    table: Table,
    fence: String,
    delta: DeltaTable,
    last: BTreeMap<String, Option<i64>>,
}

impl Committer {
    /// Opens `table` for writing as `fence`.
    ///
    /// # Errors
    /// [`StoreError::Delta`] where the table cannot be read.
    pub async fn open(store: &Store, table: Table, fence: &str) -> Result<Self, StoreError> {
        let delta = store.newest(table).await?;
        let mut committer =
            Self { store: store.clone(), table, fence: fence.to_owned(), delta, last: BTreeMap::new() };
        committer.last(fence).await?;
        Ok(committer)
    }

    /// The last number committed under `app_id` when this committer opened or last committed.
    ///
    /// # Errors
    /// [`StoreError::Delta`] where the log cannot be read.
    pub async fn last(&mut self, app_id: &str) -> Result<Option<i64>, StoreError> {
        if let Some(known) = self.last.get(app_id) {
            return Ok(*known);
        }
        let found = transaction_of(&self.delta, self.table, app_id).await?;
        self.last.insert(app_id.to_owned(), found);
        Ok(found)
    }

    /// The version of the table that this committer last read or committed.
    #[must_use]
    pub fn version(&self) -> Version {
        version_of(&self.delta)
    }

    /// The table it writes.
    pub(super) const fn table(&self) -> Table {
        self.table
    }

    /// The table as this committer knows it.
    pub(super) const fn delta(&self) -> &DeltaTable {
        &self.delta
    }

    /// Commits `batches` and `transactions` as one version, and returns that version.
    ///
    /// The transactions must contain the fence with a number above its last one. On an error nothing of
    /// the commit is in the store, with one exception: [`StoreError::Delta`] from a store that stayed out
    /// of reach. Then open a new committer and compare the number of the fence.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another writer committed under one of the names, [`StoreError::Rows`]
    /// if the rows do not have the table's columns, [`StoreError::Full`] if the disk is full,
    /// [`StoreError::Delta`] if the store cannot be written for another reason.
    pub async fn commit(
        &mut self,
        batches: &[RecordBatch],
        transactions: Vec<(String, i64)>,
    ) -> Result<Version, StoreError> {
        let done = self.append(batches, transactions).await;
        done.map_err(|error| error.of_store(self.store.url()))
    }

    async fn append(
        &mut self,
        batches: &[RecordBatch],
        transactions: Vec<(String, i64)>,
    ) -> Result<Version, StoreError> {
        let ours = self.last(&self.fence.clone()).await?;
        match transactions.iter().find(|(app_id, _)| *app_id == self.fence) {
            Some((_, number)) if ours.is_none_or(|last| *number > last) => {}
            _ => return Err(StoreError::Misuse("a commit must raise its fence")),
        }
        let adds = self.write_files(batches).await?;
        failpoint::hit("store.commit.after_files");
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(self.table.partitions().iter().map(|name| (*name).to_owned()).collect()),
            predicate: None,
        };
        let actions = adds.into_iter().map(Action::Add).collect();
        let landed = self.land(Change { actions, operation, transactions, needs: &[] }).await?;
        landed.ok_or(StoreError::Misuse("an append that needs no file missed one"))
    }

    /// Commits `actions` that replace the files of these paths, and raises the fence by one. `None`,
    /// without a commit, if one of the files is no longer live: another writer rewrote it.
    ///
    /// # Errors
    /// As [`Committer::commit`].
    pub(super) async fn rewrite(
        &mut self,
        actions: Vec<Action>,
        operation: DeltaOperation,
        replaced: &[String],
    ) -> Result<Option<Version>, StoreError> {
        let number = self.last(&self.fence.clone()).await?.map_or(1, |last| last + 1);
        let transactions = vec![(self.fence.clone(), number)];
        self.land(Change { actions, operation, transactions, needs: replaced }).await
    }

    /// Tries a change until it is in the table, or cannot be, or its outcome cannot be read. `None` where
    /// a file that it needs is no longer live.
    async fn land(&mut self, change: Change<'_>) -> Result<Option<Version>, StoreError> {
        let attempt = Attempt {
            change,
            name: format!("attempt/{}", self.fence),
            number: random_i63(),
            from: self.version(),
        };
        let mut wait = FIRST_WAIT;
        let mut tries_left = TRIES;
        loop {
            tries_left -= 1;
            let error = match self.try_commit(&attempt).await {
                Ok(state) => {
                    self.delta.state = Some(state);
                    failpoint::hit("store.commit.after_log");
                    self.committed(attempt.change.transactions);
                    return Ok(Some(self.version()));
                }
                Err(error) => error,
            };
            match self.settle(&attempt).await {
                Ok(Landing::Landed(version)) => {
                    tracing::info!(table = %self.table, %version, "a commit whose answer was lost is in the store");
                    self.committed(attempt.change.transactions);
                    return Ok(Some(version));
                }
                Ok(Landing::Conflict { name, theirs }) => return Err(self.conflict(name, theirs)),
                Ok(Landing::Outdated) => return Ok(None),
                Ok(Landing::Absent) => {}
                // The store is out of reach: whether the change is in the table is not known.
                Err(_) => return Err(error),
            }
            let is_transient = error.is_transient();
            if tries_left == 0 || !(is_transient || is_race(&error)) {
                return Err(error);
            }
            tracing::warn!(table = %self.table, error = %error, "commit failed, retrying");
            // After a lost race there is nothing to wait for.
            if is_transient {
                self.store.clock().sleep(wait).await;
                wait *= 2;
            }
        }
    }

    /// Reads from the store what became of an attempt that returned an error. Where the attempt landed or
    /// may be repeated, the committer's table is brought up to date.
    async fn settle(&mut self, attempt: &Attempt<'_>) -> Result<Landing, StoreError> {
        // A copy: on a conflict or an error the committer must stay at its old snapshot. From a newer one,
        // which contains what it does not know of, the next commit would write a second copy.
        let mut delta = self.delta.clone();
        delta.update_state().await.map_err(StoreError::delta("read", self.table))?;
        let newest = version_of(&delta);
        let is_last = transaction_of(&delta, self.table, &attempt.name).await? == Some(attempt.number);
        let log = self.read_log(attempt, newest).await?;
        if let Some(version) = log.landed {
            // Where another writer of this fence committed later, the committer stays at its own version,
            // so that its next commit conflicts.
            self.delta = if is_last { delta } else { self.store.at(self.table, version).await? };
            return Ok(Landing::Landed(version));
        }
        if is_last {
            // The log no longer has the attempt's entry, but a checkpoint has its number.
            self.delta = delta;
            return Ok(Landing::Landed(newest));
        }
        // The fence's number shows a conflict also where the log no longer has its entries.
        let theirs = transaction_of(&delta, self.table, &self.fence).await?;
        if theirs != self.known(&self.fence) {
            return Ok(Landing::Conflict { name: self.fence.clone(), theirs: theirs.unwrap_or(NEVER) });
        }
        if let Some((name, theirs)) = log.overtaken {
            return Ok(Landing::Conflict { name, theirs });
        }
        self.delta = delta;
        // delta-rs checks for conflicts from the snapshot on: what came before it is checked here.
        if self.has(attempt.change.needs).await? { Ok(Landing::Absent) } else { Ok(Landing::Outdated) }
    }

    /// What the entries of the log between the attempt's first snapshot and `newest` say about it.
    async fn read_log(&self, attempt: &Attempt<'_>, newest: Version) -> Result<LogSince, StoreError> {
        let failed = StoreError::delta("read the log of", self.table);
        let mut since = LogSince::default();
        for version in attempt.from.0 + 1..=newest.0 {
            let entry = self.delta.log_store().read_commit_entry(version).await.map_err(&failed)?;
            let Some(bytes) = entry else { continue };
            for action in get_actions(version, &bytes).map_err(&failed)? {
                let Action::Txn(txn) = action else { continue };
                if txn.app_id == attempt.name && txn.version == attempt.number {
                    since.landed = Some(Version(version));
                    return Ok(since);
                }
                if attempt.change.transactions.iter().any(|(name, _)| *name == txn.app_id) {
                    since.overtaken.get_or_insert((txn.app_id, txn.version));
                }
            }
        }
        Ok(since)
    }

    fn conflict(&self, fence: String, theirs: i64) -> StoreError {
        let ours = self.known(&fence).unwrap_or(NEVER);
        StoreError::Conflict { table: self.table, fence, theirs, ours }
    }

    /// The number under `app_id` that this committer last read or committed.
    fn known(&self, app_id: &str) -> Option<i64> {
        self.last.get(app_id).copied().flatten()
    }

    /// Whether these files are all live.
    async fn has(&self, paths: &[String]) -> Result<bool, StoreError> {
        if paths.is_empty() {
            return Ok(true);
        }
        let live = file::live(&self.delta, self.table).await?;
        Ok(paths.iter().all(|path| live.binary_search_by(|file| file.path.cmp(path)).is_ok()))
    }

    /// A writer of files for the table, which commits nothing.
    pub(super) fn writer(&self) -> Result<RecordBatchWriter, StoreError> {
        let writer =
            RecordBatchWriter::for_table(&self.delta).map_err(StoreError::delta("write", self.table))?;
        Ok(writer.with_writer_properties(file::writer_properties(self.table)))
    }

    async fn write_files(&self, batches: &[RecordBatch]) -> Result<Vec<Add>, StoreError> {
        let mut writer = self.writer()?;
        let failed = StoreError::delta("write", self.table);
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            let rows = conform(self.table, batch)
                .map_err(|source| StoreError::Rows { table: self.table, source })?;
            writer.write(rows).await.map_err(&failed)?;
        }
        writer.flush().await.map_err(&failed)
    }

    async fn try_commit(&self, attempt: &Attempt<'_>) -> Result<DeltaTableState, StoreError> {
        let failed = StoreError::delta("commit to", self.table);
        let Attempt { change, name, number, .. } = attempt;
        let mut transactions: Vec<Transaction> =
            change.transactions.iter().map(|(app_id, number)| Transaction::new(app_id, *number)).collect();
        transactions.push(Transaction::new(name, *number));
        let properties = CommitProperties::default()
            .with_application_transactions(transactions)
            // It would list the whole log after every commit: `maintain` does it.
            .with_cleanup_expired_logs(Some(false));
        let snapshot = self.delta.snapshot().map_err(&failed)?;
        let done = CommitBuilder::from(properties)
            .with_actions(change.actions.clone())
            .build(Some(snapshot), self.delta.log_store(), change.operation.clone())
            .await
            .map_err(&failed)?;
        Ok(done.snapshot())
    }

    fn committed(&mut self, transactions: Vec<(String, i64)>) {
        for (app_id, number) in transactions {
            self.last.insert(app_id, Some(number));
        }
        self.store.remember(self.table, self.delta.clone());
    }
}

/// The content of a commit.
struct Change<'a> {
    actions: Vec<Action>,
    operation: DeltaOperation,
    transactions: Vec<(String, i64)>,
    /// Paths of the files that must still be live when it lands.
    needs: &'a [String],
}

/// A change on its way into the table, over all its tries.
struct Attempt<'a> {
    change: Change<'a>,
    /// An application transaction whose number no other attempt has: it tells, after a lost answer,
    /// whether the attempt is in the table.
    name: String,
    number: i64,
    /// The version of the committer's table before the first try.
    from: Version,
}

/// What became of an attempt that returned an error.
enum Landing {
    /// It is in the table, as this version.
    Landed(Version),
    /// It is not in the table. A further try may succeed.
    Absent,
    /// It is not in the table and cannot be: a file that it needs is no longer live.
    Outdated,
    /// It is not in the table and cannot be: another writer committed under one of its names.
    Conflict { name: String, theirs: i64 },
}

/// What the log says about an attempt.
#[derive(Default)]
struct LogSince {
    /// The version whose entry is the attempt's.
    landed: Option<Version>,
    /// The first of its names under which another commit came before it, with that commit's number.
    overtaken: Option<(String, i64)>,
}

/// The number in messages of a name that nothing was committed under.
const NEVER: i64 = -1;

/// Whether an error says that the snapshot is stale: another version was written first (also reported
/// where our own was written and its answer lost), or the log no longer has the version that was read.
fn is_race(error: &StoreError) -> bool {
    matches!(error, StoreError::Delta { source, .. } if matches!(
        source.as_ref(),
        DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::InvalidVersion(_)
            | DeltaTableError::Transaction {
                source: TransactionError::CommitConflict(_)
                    | TransactionError::VersionAlreadyExists(_)
                    | TransactionError::MaxCommitAttempts(_),
            }
    ))
}

/// A number that no other attempt has, from 0.
#[expect(clippy::disallowed_methods, reason = "it names an attempt, and reaches no row and no batch")]
fn random_i63() -> i64 {
    (uuid::Uuid::new_v4().as_u64_pair().0 >> 1).cast_signed()
}
