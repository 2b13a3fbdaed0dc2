//! The store: six Delta tables below one URL, the only state that the three programs share.
//!
//! ```text
//! open ─> commit (rows and positions, one transaction) ─> follow / scan / fetch ─> check
//!                ├─> order (one number for every reading of every shard)
//!                └─> maintain (the same rows in fewer files)
//! ```
//!
//! # Invariants
//! - Every commit carries its writer's *fence*, an application transaction: a second writer of the
//!   same name gets a conflict and never writes a row twice.
//! - Whether a commit whose answer was lost is in the table is read from the log, never guessed.
//! - Every read and write, Delta's too, goes through one object store that retries (`retry`).
//! - Rows enter a table through [`commit::Committer`] alone.
//! - No random number is unseeded except a store's secret, drawn when it is created, and the numbers of
//!   attempts to commit.
//! - Rows are returned in the tables' own types, whatever program wrote the files.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use quick_cache::unsync::Cache;
use url::Url;

use perennial_program::clock::Clock;
use perennial_schemas::id::{IdError, Version};
use perennial_schemas::table::Table;

mod bucket;
mod cause;
pub mod check;
pub mod commit;
mod error;
mod fetch;
mod file;
pub mod follow;
pub mod lock;
pub mod maintain;
mod open;
pub mod order;
mod provider;
mod read;
mod retry;

pub use error::StoreError;
use open::Source;
pub use read::Scan;

/// The location of a store: `s3://bucket/path`, `file:///path` or a path. No trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl(Url);

impl StoreUrl {
    /// The folder, if the store is in the local file system.
    #[must_use]
    pub fn local_path(&self) -> Option<std::path::PathBuf> {
        self.0.to_file_path().ok()
    }

    pub(crate) fn of_table(&self, table: Table) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}/{}", self.0.path().trim_end_matches('/'), table.name()));
        url
    }
}

impl FromStr for StoreUrl {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let refuse = |why| IdError { what: "store URL", value: text.into(), why };
        if text.is_empty() {
            return Err(refuse("it is empty"));
        }
        let mut url = match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "file" | "s3" | "memory") => url,
            Ok(_) => return Err(refuse("its scheme must be `file` or `s3`")),
            Err(_) => {
                let path = std::path::absolute(text).map_err(|_| refuse("it is not a path"))?;
                Url::from_directory_path(path).map_err(|()| refuse("it is not a path"))?
            }
        };
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// `[store]`: where the store is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct StoreConfig {
    /// `s3://bucket/path`, `file:///path` or a path.
    pub url: String,
    /// Options of the object store, as `aws_endpoint_url`; what is left out comes from `AWS_*` variables.
    /// Those that hold secrets are never printed: better leave them to the environment.
    pub options: BTreeMap<String, String>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: "store".to_owned(), options: BTreeMap::new() }
    }
}

impl StoreConfig {
    /// The URL and the options as [`Store::open`] and [`Store::create`] take them.
    ///
    /// # Errors
    /// [`IdError`] if the URL is invalid.
    pub fn parts(&self) -> Result<(StoreUrl, HashMap<String, String>), IdError> {
        Ok((self.url.parse()?, self.options.clone().into_iter().collect()))
    }
}

/// An open store. Cheap to clone; every clone shares its caches.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    clock: Clock,
    secret: u64,
    snapshots: Mutex<Snapshots>,
    files: file::Cache,
}

/// Snapshots kept open at once: a job's tickets and the follower move through versions in order.
const SNAPSHOTS: usize = 8;

/// Tables at versions that were read recently.
#[derive(Debug)]
struct Snapshots {
    open: Cache<(Table, Version), DeltaTable>,
    /// The highest version of each table that was ever open: from there the log is listed.
    newest: BTreeMap<Table, Version>,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { open: Cache::new(SNAPSHOTS), newest: BTreeMap::new() }
    }
}

impl Snapshots {
    fn insert(&mut self, table: Table, delta: DeltaTable) {
        let version = version_of(&delta);
        let newest = self.newest.entry(table).or_default();
        *newest = version.max(*newest);
        self.open.insert((table, version), delta);
    }
}

impl Store {
    /// The location of the store.
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.0.source.url
    }

    /// The clock it was opened with.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The seed of the second hash in [`perennial_schemas::text::Identity`]: drawn once, when the store is created.
    #[must_use]
    pub fn secret(&self) -> u64 {
        self.0.secret
    }

    /// The newest version of a table.
    ///
    /// # Errors
    /// [`StoreError::Delta`] if the log cannot be read.
    pub async fn version(&self, table: Table) -> Result<Version, StoreError> {
        let known = self.snapshots().newest.get(&table).copied().unwrap_or_default();
        let failed = StoreError::delta("open", table);
        let log = self.builder(table)?.build().map_err(&failed)?.log_store();
        match log.get_latest_version(known.0).await {
            // The log no longer has the version known here: only a checkpoint leads on from there.
            Err(DeltaTableError::InvalidVersion(_)) => {
                let delta = self.builder(table)?.load().await.map_err(&failed)?;
                let newest = version_of(&delta);
                self.remember(table, delta);
                Ok(newest)
            }
            newest => newest.map(Version).map_err(&failed),
        }
    }

    /// The last number committed under an application transaction, if any.
    ///
    /// # Errors
    /// [`StoreError::Delta`] if the log cannot be read.
    pub async fn transaction(&self, table: Table, app_id: &str) -> Result<Option<i64>, StoreError> {
        let delta = self.newest(table).await?;
        transaction_of(&delta, table, app_id).await
    }

    /// The entry of a table's log that made a version; `None` if the log does not have it any more.
    ///
    /// # Errors
    /// [`StoreError::Delta`] if the log cannot be read.
    pub async fn log_entry(
        &self,
        table: Table,
        version: Version,
    ) -> Result<Option<bytes::Bytes>, StoreError> {
        let failed = StoreError::delta("open", table);
        let log = self.builder(table)?.build().map_err(&failed)?.log_store();
        log.read_commit_entry(version.0).await.map_err(&failed)
    }

    /// The table as it was at `version`.
    pub(crate) async fn at(&self, table: Table, version: Version) -> Result<DeltaTable, StoreError> {
        let known = self.snapshots().open.get(&(table, version)).cloned();
        if let Some(delta) = known {
            return Ok(delta);
        }
        let failed = StoreError::delta("open", table);
        let loaded = self.builder(table)?.with_version(version.0).load().await;
        match loaded.map_err(failed) {
            Ok(delta) => {
                self.remember(table, delta.clone());
                Ok(delta)
            }
            Err(error) => match self.version(table).await {
                Ok(newest) if newest < version || self.has_forgotten(table, version).await => {
                    Err(StoreError::Version { table, version, newest })
                }
                _ => Err(error),
            },
        }
    }

    async fn has_forgotten(&self, table: Table, version: Version) -> bool {
        match self.builder(table).map(DeltaTableBuilder::build) {
            Ok(Ok(delta)) => matches!(delta.log_store().read_commit_entry(version.0).await, Ok(None)),
            _ => false,
        }
    }

    pub(crate) async fn newest(&self, table: Table) -> Result<DeltaTable, StoreError> {
        let version = self.version(table).await?;
        self.at(table, version).await
    }

    fn builder(&self, table: Table) -> Result<DeltaTableBuilder, StoreError> {
        self.0.source.builder(table)
    }

    fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, table: Table, delta: DeltaTable) {
        self.snapshots().insert(table, delta);
    }
}

/// The version of a loaded table.
#[expect(clippy::expect_used, reason = "a table is asked for its version only after it was loaded")]
fn version_of(delta: &DeltaTable) -> Version {
    Version(delta.version().expect("a loaded table has a version"))
}

async fn transaction_of(delta: &DeltaTable, table: Table, app_id: &str) -> Result<Option<i64>, StoreError> {
    let failed = StoreError::delta("read the transactions of", table);
    let snapshot = delta.snapshot().map_err(&failed)?;
    snapshot.transaction_version(delta.log_store().as_ref(), app_id.to_owned()).await.map_err(&failed)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
