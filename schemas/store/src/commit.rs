//! Writes rows and positions as one version, exactly once.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::logstore::get_actions;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableError};

use crate::retry::{FIRST_WAIT, TRIES};
use crate::{Store, StoreError, file, transaction_of};
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

    /// The version this committer stands at.
    #[must_use]
    pub fn version(&self) -> Version {
        Version(self.delta.version().unwrap_or(0))
    }

    /// The table it writes.
    pub(super) const fn table(&self) -> Table {
        self.table
    }

    /// The table as this committer knows it.
    pub(super) const fn delta(&self) -> &DeltaTable {
        &self.delta
    }

    /// Commits `batches` and `transactions` as one version, and says which.
    ///
    /// The transactions must hold the fence with a number above its last. When this returns an
    /// error, nothing of it is in the store, except after [`StoreError::Delta`] with a store that
    /// stayed out of reach: then open a new committer and compare the fence.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another writer committed under one of the names, [`StoreError::Rows`]
    /// for rows of another shape, [`StoreError::Full`] where there is no room, [`StoreError::Delta`]
    /// where the store cannot be written for another reason.
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
        landed.ok_or(StoreError::Misuse("an append needs no file, and missed one"))
    }

    /// Commits `actions` that replace the files of these paths, raising the fence by one. `None`
    /// where one of them is no longer live: somebody else rewrote it, and nothing is committed.
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

    /// Tries a change until it is in the table, cannot be, or cannot be known to be.
    async fn land(&mut self, change: Change<'_>) -> Result<Option<Version>, StoreError> {
        let ours = self.last(&self.fence.clone()).await?;
        let before = self.version();
        // Which attempt won, when an answer is lost, only a number nobody else can have tells.
        let attempt = (format!("attempt/{}", self.fence), random_i63());
        let mut wait = FIRST_WAIT;
        for left in (0..TRIES).rev() {
            let error = match self.try_commit(&change, &attempt).await {
                Ok(state) => {
                    self.delta.state = Some(state);
                    failpoint::hit("store.commit.after_log");
                    self.committed(change.transactions);
                    return Ok(Some(self.version()));
                }
                Err(error) => error,
            };
            match self.settle(&change, &attempt, before, ours).await {
                Ok(Some(version)) => {
                    tracing::info!(table = %self.table, %version, "a commit whose answer was lost is in the store");
                    self.committed(change.transactions);
                    return Ok(Some(version));
                }
                Ok(None) => {}
                Err(conflict @ StoreError::Conflict { .. }) => return Err(conflict),
                // Out of reach to the end: what became of the commit is not known.
                Err(_) => return Err(error),
            }
            // The check for conflicts begins at the snapshot just read: what came before it is ours to see.
            if !self.has(change.needs).await? {
                return Ok(None);
            }
            if left == 0 || !(error.is_transient() || is_race(&error)) {
                return Err(error);
            }
            tracing::warn!(table = %self.table, error = %error, "commit failed, trying again");
            // A lost race is no reason to wait.
            if error.is_transient() {
                self.store.clock().sleep(wait).await;
                wait *= 2;
            }
        }
        Err(StoreError::Misuse("a commit was tried no times"))
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

    async fn try_commit(
        &self,
        change: &Change<'_>,
        attempt: &(String, i64),
    ) -> Result<deltalake::table::state::DeltaTableState, StoreError> {
        let failed = StoreError::delta("commit to", self.table);
        let all = change
            .transactions
            .iter()
            .chain([attempt])
            .map(|(app_id, number)| Transaction::new(app_id, *number));
        let properties = CommitProperties::default()
            .with_application_transactions(all.collect())
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

    /// After a failed attempt: the version it made all the same, or none; brings the table up to date.
    async fn settle(
        &mut self,
        change: &Change<'_>,
        attempt: &(String, i64),
        before: Version,
        ours: Option<i64>,
    ) -> Result<Option<Version>, StoreError> {
        let (delta, found) = self.look(change, attempt, before, ours).await?;
        self.delta = delta;
        Ok(found)
    }

    async fn look(
        &self,
        change: &Change<'_>,
        attempt: &(String, i64),
        before: Version,
        ours: Option<i64>,
    ) -> Result<(DeltaTable, Option<Version>), StoreError> {
        // What this committer stands at changes only with an answer: from a snapshot that has what it
        // does not know of, it would write a second copy.
        let mut delta = self.delta.clone();
        delta.update_state().await.map_err(StoreError::delta("read", self.table))?;
        let (app_id, number) = attempt;
        let is_last = transaction_of(&delta, self.table, app_id).await? == Some(*number);
        let newest = Version(delta.version().unwrap_or(0));
        let since = self.since(before, newest, change, attempt).await?;
        // The table may have moved on since: the version is that of the commit, not the newest.
        match since.landed {
            // Another writer of this fence came after it: seen from there, it is in the next commit's way.
            Some(version) if !is_last => {
                return Ok((self.store.at(self.table, version).await?, Some(version)));
            }
            Some(version) => return Ok((delta, Some(version))),
            None if is_last => return Ok((delta, Some(newest))),
            None => {}
        }
        // The fence's number tells where the log has forgotten its commits; a position that the writer of
        // another fence moved, only the log.
        let theirs = transaction_of(&delta, self.table, &self.fence).await?;
        let moved = (theirs != ours).then(|| (self.fence.clone(), theirs.unwrap_or(NEVER)));
        match moved.or(since.moved) {
            Some((fence, theirs)) => {
                let ours = self.last.get(&fence).copied().flatten().unwrap_or(NEVER);
                Err(StoreError::Conflict { table: self.table, fence, theirs, ours })
            }
            None => Ok((delta, None)),
        }
    }

    /// What the commits after `before` have to do with a change.
    async fn since(
        &self,
        before: Version,
        newest: Version,
        change: &Change<'_>,
        attempt: &(String, i64),
    ) -> Result<Since, StoreError> {
        let failed = StoreError::delta("read the log of", self.table);
        let mut since = Since::default();
        for version in before.0 + 1..=newest.0 {
            let Some(bytes) = self.delta.log_store().read_commit_entry(version).await.map_err(&failed)?
            else {
                continue;
            };
            for action in get_actions(version, &bytes).map_err(&failed)? {
                let Action::Txn(txn) = action else { continue };
                if txn.app_id == attempt.0 && txn.version == attempt.1 {
                    return Ok(Since { landed: Some(Version(version)), moved: None });
                }
                if change.transactions.iter().any(|(app_id, _)| *app_id == txn.app_id) {
                    since.moved.get_or_insert((txn.app_id, txn.version));
                }
            }
        }
        Ok(since)
    }

    fn committed(&mut self, transactions: Vec<(String, i64)>) {
        for (app_id, number) in transactions {
            self.last.insert(app_id, Some(number));
        }
        self.store.remember(self.table, self.delta.clone());
    }
}

/// What a commit does.
struct Change<'a> {
    actions: Vec<Action>,
    operation: DeltaOperation,
    transactions: Vec<(String, i64)>,
    /// Paths of the files that must still be live where it lands.
    needs: &'a [String],
}

/// What the commits since an attempt's snapshot have to do with it.
#[derive(Default)]
struct Since {
    /// Where it landed all the same.
    landed: Option<Version>,
    /// A name of it under which another commit came first, with the number there.
    moved: Option<(String, i64)>,
}

/// Stands in messages for a name that nothing was committed under.
const NEVER: i64 = -1;

/// Whether an error says that another version was written first, or seems so because the answer to
/// our own was lost, or that the log has forgotten the version read: the snapshot is stale, nothing
/// else is wrong.
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

/// A number that no other attempt has.
#[expect(clippy::disallowed_methods, reason = "it names an attempt, and reaches no row and no batch")]
fn random_i63() -> i64 {
    i64::try_from(uuid::Uuid::new_v4().as_u64_pair().0 >> 1).unwrap_or(i64::MAX)
}
