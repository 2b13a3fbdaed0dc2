//! Follows a table version by version, in order. A compaction is never reported as new rows.

use arrow::array::RecordBatch;
use deltalake::DeltaTable;
use deltalake::kernel::{Action, Add};
use deltalake::logstore::get_actions;

use crate::cause::is_missing;
use crate::{Store, StoreError, file};
use perennial_schemas::id::Version;
use perennial_schemas::table::Table;

/// The changes of one version.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// Rows were added.
    Appended {
        /// The version.
        version: Version,
        /// The rows added, in the order of the files.
        batches: Vec<RecordBatch>,
    },
    /// Rows were removed or changed (an erase, a retention rule, a reconciliation), or the store no
    /// longer keeps the changes up to `version`: a follower must derive again what it derived from older
    /// versions.
    Rewritten {
        /// The version.
        version: Version,
    },
    /// No row was added or removed: the creation of the table, a compaction, a vacuum, positions alone.
    Nothing {
        /// The version.
        version: Version,
    },
}

impl News {
    /// The version.
    #[must_use]
    pub const fn version(&self) -> Version {
        match self {
            Self::Appended { version, .. } | Self::Rewritten { version } | Self::Nothing { version } => {
                *version
            }
        }
    }
}

/// Reads a table's log forward. The cost of a version does not depend on the number of files in the table.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    table: Table,
    columns: Option<Vec<String>>,
    delta: DeltaTable,
    next: Version,
}

impl Follower {
    /// Follows `table` from the version after `after` (from the first for `None`), reading `columns`
    /// (all where `None`).
    ///
    /// # Errors
    /// [`StoreError::Delta`] if the table cannot be opened.
    pub async fn new(
        store: &Store,
        table: Table,
        after: Option<Version>,
        columns: Option<&[&str]>,
    ) -> Result<Self, StoreError> {
        let delta = store.builder(table)?.build().map_err(StoreError::delta("open", table))?;
        let columns = columns.map(|columns| columns.iter().map(|name| (*name).to_owned()).collect());
        let next = after.map_or(Version(0), Version::next);
        Ok(Self { store: store.clone(), table, columns, delta, next })
    }

    /// The next version that will be read.
    #[must_use]
    pub const fn position(&self) -> Version {
        self.next
    }

    /// The changes of the next version; `None` while it does not exist.
    ///
    /// # Errors
    /// [`StoreError::Delta`] or [`StoreError::File`] if it cannot be read; the next call reads the same
    /// version again.
    pub async fn next(&mut self) -> Result<Option<News>, StoreError> {
        let failed = StoreError::delta("follow", self.table);
        let log = self.delta.log_store();
        let version = self.next;
        let read = || async { log.read_commit_entry(version.0).await.map_err(&failed) };
        let bytes = match read().await? {
            Some(bytes) => bytes,
            None => {
                let newest = self.store.version(self.table).await?;
                if newest < version {
                    return Ok(None);
                }
                // It may have been written between the two reads.
                match read().await? {
                    Some(bytes) => bytes,
                    // The log was cleaned up before this follower read it: the changes are not known.
                    None => {
                        self.next = newest.next();
                        return Ok(Some(News::Rewritten { version: newest }));
                    }
                }
            }
        };
        let actions = get_actions(version.0, &bytes).map_err(&failed)?;
        let news = match self.read(version, actions).await {
            // Its files were compacted into others, and deleted after the retention.
            Err(StoreError::File { source, .. }) if is_missing(source.as_ref()) => {
                News::Rewritten { version: self.store.version(self.table).await? }
            }
            news => news?,
        };
        self.next = news.version().next();
        Ok(Some(news))
    }

    async fn read(&self, version: Version, actions: Vec<Action>) -> Result<News, StoreError> {
        let mut adds = Vec::new();
        for action in actions {
            match action {
                Action::Remove(remove) if remove.data_change => return Ok(News::Rewritten { version }),
                Action::Add(add) if add.data_change => adds.push(add),
                _ => {}
            }
        }
        if adds.is_empty() {
            return Ok(News::Nothing { version });
        }
        adds.sort_by(|a, b| a.path.cmp(&b.path));
        let columns: Option<Vec<&str>> =
            self.columns.as_ref().map(|names| names.iter().map(String::as_str).collect());
        let mut batches = Vec::new();
        for add in adds {
            let data = data_file(add);
            let columns = columns.as_deref();
            batches.extend(file::read(&self.store, &self.delta, self.table, &data, columns, None).await?);
        }
        Ok(News::Appended { version, batches })
    }
}

fn data_file(add: Add) -> file::DataFile {
    file::DataFile {
        path: file::object_path(&add.path).to_string(),
        size: u64::try_from(add.size).unwrap_or(0),
        partition: add.partition_values.into_iter().collect(),
    }
}
