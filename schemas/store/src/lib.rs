//! The store: five Delta tables below one URL, the only truth of the three programs.
//!
//! ```text
//! open ─> commit (rows and positions, one transaction) ─> follow / scan / fetch ─> check
//!                └─> maintain (the same rows in fewer files)
//! ```
//!
//! # Invariants
//! - Every commit carries its writer's *fence*, an application transaction: a second writer of the
//!   same name gets a conflict and never a second copy of anything.
//! - A commit whose outcome is unknown (a lost answer) is settled by reading the log, never by guessing.
//! - Rows enter a table through [`commit::Committer`] alone.
//! - No random number is unseeded except a store's secret, drawn when it is made, and the names of
//!   attempts to commit.
//! - Rows are handed out in the tables' own types, whoever wrote or rewrote the files.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use url::Url;

use perennial_program::clock::Clock;
use perennial_program::error::{Fault, Kind};
use perennial_schemas::id::{IdError, Version};
use perennial_schemas::table::{Table, TableError};

pub mod check;
pub mod commit;
mod fetch;
mod file;
pub mod follow;
pub mod lock;
pub mod maintain;
mod open;
mod read;
mod retry;

pub use read::Scan;

/// Where a store lies: `s3://bucket/path`, `file:///path` or a path. No trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl(Url);

impl StoreUrl {
    /// The folder, where the store lies in the local file system.
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
                let path = std::path::absolute(text).map_err(|_| refuse("it is no path"))?;
                Url::from_directory_path(path).map_err(|()| refuse("it is no path"))?
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

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing there is a store.
    #[error("there is no store at {url}")]
    Missing {
        /// Where it was looked for.
        url: String,
    },
    /// A program of a later release made it.
    #[error("table `{table}` at {url} has format {found}; this program knows formats up to {known}")]
    Newer {
        /// The table.
        table: Table,
        /// The store.
        url: String,
        /// Its format.
        found: String,
        /// The highest this program knows.
        known: u32,
    },
    /// A program of an earlier release made it.
    #[error("table `{table}` at {url} has format {found}; this program reads format {known} only")]
    Older {
        /// The table.
        table: Table,
        /// The store.
        url: String,
        /// Its format.
        found: u64,
        /// The format of this program.
        known: u32,
    },
    /// Its tables do not belong together or lack a property.
    #[error("table `{table}` at {url} is not a table of a Perennial store: {why}")]
    Foreign {
        /// The table.
        table: Table,
        /// The store.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Somebody else committed under the same fence.
    #[error(
        "another writer has committed as `{fence}` to table `{table}` (it stands at {theirs}, expected {ours})"
    )]
    Conflict {
        /// The table.
        table: Table,
        /// The fence.
        fence: String,
        /// What the table has.
        theirs: i64,
        /// What this writer last knew.
        ours: i64,
    },
    /// Another process holds the shard.
    #[error("shard `{shard}` of {url} is held by {holder}")]
    Held {
        /// The shard.
        shard: String,
        /// The store.
        url: String,
        /// Who holds it.
        holder: String,
    },
    /// A version that the store no longer keeps, or not yet has.
    #[error("version {version} of table `{table}` is not in the store, whose newest is {newest}")]
    Version {
        /// The table.
        table: Table,
        /// The version asked for.
        version: Version,
        /// The newest.
        newest: Version,
    },
    /// A filter or column that the table does not have.
    #[error("cannot read table `{table}`")]
    Query {
        /// The table.
        table: Table,
        /// What the engine said.
        #[source]
        source: Box<datafusion::error::DataFusionError>,
    },
    /// Delta failed.
    #[error("cannot {act} table `{table}`")]
    Delta {
        /// What was tried.
        act: &'static str,
        /// The table.
        table: Table,
        /// What it said.
        #[source]
        source: Box<DeltaTableError>,
    },
    /// The file system of the store is full.
    #[error("cannot {act} table `{table}`: no space is left at `{path}`")]
    Full {
        /// What was tried.
        act: &'static str,
        /// The table.
        table: Table,
        /// The store's folder.
        path: String,
        /// What Delta said.
        #[source]
        source: Box<DeltaTableError>,
    },
    /// A data file cannot be read.
    #[error("cannot read file `{file}` of table `{table}`")]
    File {
        /// The table.
        table: Table,
        /// The file, relative to the table.
        file: String,
        /// What Parquet or the object store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The lock file or folder of the store cannot be made.
    #[error("cannot {act} `{path}`")]
    Io {
        /// What was tried.
        act: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Rows that are not the table's.
    #[error("rows for table `{table}` are refused")]
    Rows {
        /// The table.
        table: Table,
        /// Why.
        #[source]
        source: TableError,
    },
    /// A caller broke a rule of this module.
    #[error("internal: {0}")]
    Misuse(&'static str),
}

impl StoreError {
    pub(crate) fn delta(act: &'static str, table: Table) -> impl Fn(DeltaTableError) -> Self {
        move |source| Self::Delta { act, table, source: Box::new(source) }
    }

    /// The same error; where a disk is full, it names the folder that needs room.
    pub(crate) fn of_store(self, url: &StoreUrl) -> Self {
        match self {
            Self::Delta { act, table, source } if is_full(source.as_ref()) => {
                let path =
                    url.local_path().map_or_else(|| url.to_string(), |path| path.display().to_string());
                Self::Full { act, table, path, source }
            }
            other => other,
        }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Delta { source, .. } => retry::may_pass(source.as_ref()),
            Self::File { source, .. } => retry::may_pass(source.as_ref()),
            _ => false,
        }
    }
}

/// The operating system's word in an error's chain. What wraps another error as one of `io` is not it.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut errors = retry::causes(error).filter_map(|error| error.downcast_ref::<std::io::Error>());
    errors.find(|error| error.get_ref().is_none()).map(std::io::Error::kind)
}

/// Whether a disk, or what a user may have of it, is used up.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind as Io;
    matches!(io_kind(error), Some(Io::StorageFull | Io::QuotaExceeded))
}

/// The kind of a failure to read what a version has.
fn kind_of_reading(error: &(dyn std::error::Error + 'static)) -> Kind {
    if retry::is_missing(error) {
        Kind::NotFound
    } else if retry::is_damage(error) {
        Kind::Corrupt
    } else {
        Kind::Unavailable
    }
}

impl Fault for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } | Self::Version { .. } => Kind::NotFound,
            Self::Newer { .. } | Self::Older { .. } | Self::Foreign { .. } | Self::Rows { .. } => {
                Kind::Corrupt
            }
            Self::Conflict { .. } | Self::Held { .. } => Kind::Conflict,
            Self::Query { .. } => Kind::Input,
            Self::Delta { act: "read", source, .. } => kind_of_reading(source.as_ref()),
            Self::File { source, .. } => kind_of_reading(source.as_ref()),
            Self::Delta { .. } | Self::Full { .. } | Self::Io { .. } => Kind::Unavailable,
            Self::Misuse(_) => Kind::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        let of_io = |source: &(dyn std::error::Error + 'static)| match io_kind(source)? {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Some("the disk is full: make room, then start again: nothing is lost".to_owned())
            }
            std::io::ErrorKind::PermissionDenied => {
                Some("give the user that runs this program write access to the store's folder".to_owned())
            }
            std::io::ErrorKind::ReadOnlyFilesystem => {
                Some("the file system is read-only: mount it for writing".to_owned())
            }
            _ => None,
        };
        let of_bucket = |source: &(dyn std::error::Error + 'static)| {
            let mend = "check that the bucket exists and can be reached from here: `aws_endpoint_url`, `aws_region` and the credentials, in `[store.options]` or as `AWS_*` variables";
            retry::is_of_a_bucket(source).then(|| mend.to_owned())
        };
        match self {
            Self::Missing { .. } => {
                Some("check `store.url`; `perennial-ingest run` makes a store where there is none".to_owned())
            }
            Self::Newer { .. } => Some("use the release that made the store, or a later one".to_owned()),
            Self::Older { .. } => Some(
                "read its sources again into a new store, or use the release that made this one".to_owned(),
            ),
            Self::Conflict { .. } => Some("stop the other writer, or give this one another name".to_owned()),
            Self::Held { .. } => {
                Some("stop that process, or give this daemon another `shard` name".to_owned())
            }
            Self::Full { path, .. } => {
                Some(format!("make room on the file system of `{path}`, then start again: nothing is lost"))
            }
            Self::Delta { .. } | Self::File { .. } if self.kind() == Kind::NotFound => {
                Some("versions older than the retention are gone; of others `perennial-ingest check` names what is missing".to_owned())
            }
            Self::Delta { .. } | Self::File { .. } if self.kind() == Kind::Corrupt => {
                Some("stop every writer and put the damaged file back from a copy of the store".to_owned())
            }
            Self::Delta { source, .. } => of_io(source.as_ref()).or_else(|| of_bucket(source.as_ref())),
            Self::File { source, .. } => of_io(source.as_ref()).or_else(|| of_bucket(source.as_ref())),
            Self::Io { source, .. } => of_io(source),
            _ => None,
        }
    }
}

/// `[store]`: where the store is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct StoreConfig {
    /// `s3://bucket/path`, `file:///path` or a path.
    pub url: String,
    /// Options of the object store, as `aws_endpoint_url`; what is left out comes from `AWS_*` variables.
    /// Those that hold secrets are never printed: better leave them to the environment.
    pub options: std::collections::BTreeMap<String, String>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: "store".to_owned(), options: std::collections::BTreeMap::new() }
    }
}

impl StoreConfig {
    /// The URL and the options as [`Store::open`] and [`Store::create`] take them.
    ///
    /// # Errors
    /// [`IdError`] where the URL is none.
    pub fn parts(&self) -> Result<(StoreUrl, HashMap<String, String>), IdError> {
        Ok((self.url.parse()?, self.options.clone().into_iter().collect()))
    }
}

/// An open store. Cheap to clone; every clone shares its caches.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: StoreUrl,
    options: HashMap<String, String>,
    clock: Clock,
    secret: u64,
    /// The snapshots read last, newest use at the end.
    snapshots: Mutex<Vec<(Table, DeltaTable)>>,
    files: file::Cache,
}

/// Snapshots kept open at once: a job's tickets and the follower move through versions in order.
const SNAPSHOTS: usize = 8;

impl Store {
    /// Where it lies.
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.0.url
    }

    /// The clock it was opened with.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The seed of the second hash in [`perennial_schemas::text::Identity`]: drawn once, when the store is made.
    #[must_use]
    pub fn secret(&self) -> u64 {
        self.0.secret
    }

    /// The newest version of a table.
    ///
    /// # Errors
    /// [`StoreError::Delta`] where the log cannot be read.
    pub async fn version(&self, table: Table) -> Result<Version, StoreError> {
        let known = self.cached(|of, _| of == table).and_then(|delta| delta.version()).unwrap_or(0);
        let failed = StoreError::delta("open", table);
        let log = self.builder(table)?.build().map_err(&failed)?.log_store();
        let newest = retry::retry(self.clock(), || async {
            match log.get_latest_version(known).await {
                // The log has forgotten what is known here: only a checkpoint leads on from there.
                Err(DeltaTableError::InvalidVersion(_)) => {
                    let delta = self.builder(table)?.load().await.map_err(&failed)?;
                    let newest = delta.version().unwrap_or(0);
                    self.remember(table, delta);
                    Ok(newest)
                }
                newest => newest.map_err(&failed),
            }
        });
        Ok(Version(newest.await?))
    }

    /// The last number committed under an application transaction, if any.
    ///
    /// # Errors
    /// [`StoreError::Delta`] where the log cannot be read.
    pub async fn transaction(&self, table: Table, app_id: &str) -> Result<Option<i64>, StoreError> {
        let delta = self.newest(table).await?;
        retry::retry(self.clock(), || transaction_of(&delta, table, app_id)).await
    }

    /// The table as it was at `version`.
    pub(crate) async fn at(&self, table: Table, version: Version) -> Result<DeltaTable, StoreError> {
        if let Some(delta) = self.cached(|of, delta| of == table && delta.version() == Some(version.0)) {
            return Ok(delta);
        }
        let failed = StoreError::delta("open", table);
        let loaded = retry::retry(self.clock(), || async {
            self.builder(table)?.with_version(version.0).load().await.map_err(&failed)
        });
        match loaded.await {
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
        builder(&self.0.url, &self.0.options, table)
    }

    fn cached(&self, is: impl Fn(Table, &DeltaTable) -> bool) -> Option<DeltaTable> {
        let mut snapshots = self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let index = snapshots.iter().rposition(|(table, delta)| is(*table, delta))?;
        let found = snapshots.remove(index);
        snapshots.push(found.clone());
        Some(found.1)
    }

    fn remember(&self, table: Table, delta: DeltaTable) {
        let mut snapshots = self.0.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if snapshots.len() >= SNAPSHOTS {
            snapshots.remove(0);
        }
        snapshots.push((table, delta));
    }
}

fn builder(
    url: &StoreUrl,
    options: &HashMap<String, String>,
    table: Table,
) -> Result<DeltaTableBuilder, StoreError> {
    let builder =
        DeltaTableBuilder::from_url(url.of_table(table)).map_err(StoreError::delta("open", table))?;
    Ok(builder.with_storage_options(options.clone()))
}

async fn transaction_of(delta: &DeltaTable, table: Table, app_id: &str) -> Result<Option<i64>, StoreError> {
    let failed = StoreError::delta("read the transactions of", table);
    let snapshot = delta.snapshot().map_err(&failed)?;
    snapshot.transaction_version(delta.log_store().as_ref(), app_id.to_owned()).await.map_err(&failed)
}

#[cfg(test)]
mod tests;
