//! Writes rows and positions as one version, exactly once.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::logstore::get_actions;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableError};

use super::{Store, StoreError, file, transaction_of};
use crate::id::Version;
use crate::program::failpoint;
use crate::table::{Table, conform};

/// How often a commit is tried while the store cannot be reached.
const TRIES: u32 = 6;

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

    /// Commits `batches` and `transactions` as one version, and says which.
    ///
    /// The transactions must hold the fence with a number above its last. When this returns an
    /// error, nothing of it is in the store, except after [`StoreError::Delta`] with a store that
    /// stayed out of reach: then open a new committer and compare the fence.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another writer committed under the fence, [`StoreError::Rows`]
    /// for rows of another shape, [`StoreError::Delta`] where the store cannot be written.
    pub async fn commit(
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
        // Which attempt won, when an answer is lost, only a number nobody else can have tells.
        let attempt = (format!("attempt/{}", self.fence), random_i63());
        let mut wait = Duration::from_millis(100);
        for left in (0..TRIES).rev() {
            let error = match self.try_commit(&adds, &transactions, &attempt).await {
                Ok(state) => {
                    self.delta.state = Some(state);
                    failpoint::hit("store.commit.after_log");
                    return Ok(self.committed(transactions));
                }
                Err(error) => error,
            };
            match self.settle(&attempt, ours).await {
                Ok(true) => return Ok(self.committed(transactions)),
                Ok(false) => {}
                Err(conflict @ StoreError::Conflict { .. }) => return Err(conflict),
                Err(_) if left > 0 => {}
                Err(_) => return Err(error),
            }
            if left == 0 || !(error.is_transient() || is_race(&error)) {
                return Err(error);
            }
            tracing::warn!(table = %self.table, error = %error, "commit failed, trying again in {wait:?}");
            self.store.clock().sleep(wait).await;
            wait *= 2;
        }
        Err(StoreError::Misuse("a commit was tried no times"))
    }

    async fn write_files(&self, batches: &[RecordBatch]) -> Result<Vec<Add>, StoreError> {
        let failed = StoreError::delta("write", self.table);
        let mut writer = RecordBatchWriter::for_table(&self.delta)
            .map_err(&failed)?
            .with_writer_properties(file::writer_properties(self.table));
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            let rows = conform(self.table, batch)
                .map_err(|source| StoreError::Rows { table: self.table, source })?;
            writer.write(rows).await.map_err(&failed)?;
        }
        writer.flush().await.map_err(&failed)
    }

    async fn try_commit(
        &self,
        adds: &[Add],
        transactions: &[(String, i64)],
        attempt: &(String, i64),
    ) -> Result<deltalake::table::state::DeltaTableState, StoreError> {
        let failed = StoreError::delta("commit to", self.table);
        let all =
            transactions.iter().chain([attempt]).map(|(app_id, number)| Transaction::new(app_id, *number));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(self.table.partitions().iter().map(|name| (*name).to_owned()).collect()),
            predicate: None,
        };
        let properties = CommitProperties::default().with_application_transactions(all.collect());
        let snapshot = self.delta.snapshot().map_err(&failed)?;
        let done = CommitBuilder::from(properties)
            .with_actions(adds.iter().cloned().map(Action::Add).collect())
            .build(Some(snapshot), self.delta.log_store(), operation)
            .await
            .map_err(&failed)?;
        Ok(done.snapshot())
    }

    /// After a failed attempt: whether it is in the table all the same.
    async fn settle(&mut self, attempt: &(String, i64), ours: Option<i64>) -> Result<bool, StoreError> {
        let from = self.version();
        self.delta.update_state().await.map_err(StoreError::delta("read", self.table))?;
        let (app_id, number) = attempt;
        if transaction_of(&self.delta, self.table, app_id).await? == Some(*number) {
            // The table may have moved on since; go back to the version that is ours.
            if let Some(version) = self.version_of(from, attempt).await? {
                tracing::info!(table = %self.table, %version, "a commit whose answer was lost is in the store");
            }
            return Ok(true);
        }
        let theirs = transaction_of(&self.delta, self.table, &self.fence).await?;
        if theirs != ours {
            let none = -1;
            return Err(StoreError::Conflict {
                table: self.table,
                fence: self.fence.clone(),
                theirs: theirs.unwrap_or(none),
                ours: ours.unwrap_or(none),
            });
        }
        Ok(false)
    }

    async fn version_of(
        &self,
        after: Version,
        attempt: &(String, i64),
    ) -> Result<Option<Version>, StoreError> {
        let failed = StoreError::delta("read the log of", self.table);
        for version in after.0 + 1..=self.version().0 {
            let Some(bytes) = self.delta.log_store().read_commit_entry(version).await.map_err(&failed)?
            else {
                continue;
            };
            let is_ours = |action: &Action| matches!(action, Action::Txn(txn) if txn.app_id == attempt.0 && txn.version == attempt.1);
            if get_actions(version, &bytes).map_err(&failed)?.iter().any(is_ours) {
                return Ok(Some(Version(version)));
            }
        }
        Ok(None)
    }

    fn committed(&mut self, transactions: Vec<(String, i64)>) -> Version {
        for (app_id, number) in transactions {
            self.last.insert(app_id, Some(number));
        }
        self.store.remember(self.table, self.delta.clone());
        self.version()
    }
}

/// Whether an error says that another version was written first, or seems so because the answer to
/// our own was lost: the snapshot is stale, nothing else is wrong.
fn is_race(error: &StoreError) -> bool {
    matches!(error, StoreError::Delta { source, .. } if matches!(
        source.as_ref(),
        DeltaTableError::Transaction { .. } | DeltaTableError::VersionAlreadyExists(_)
    ))
}

/// A number that no other attempt has.
#[expect(clippy::disallowed_methods, reason = "it names an attempt, and reaches no row and no batch")]
fn random_i63() -> i64 {
    i64::try_from(uuid::Uuid::new_v4().as_u64_pair().0 >> 1).unwrap_or(i64::MAX)
}
