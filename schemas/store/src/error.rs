//! What can go wrong with a store, and what to do about it.

use deltalake::DeltaTableError;
use perennial_program::error::{Kind, ProgramError};
use perennial_schemas::id::Version;
use perennial_schemas::table::{Table, TableError};

use crate::{StoreUrl, cause};

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store at the URL.
    #[error("there is no store at {url}")]
    Missing {
        /// The URL.
        url: String,
    },
    /// A later release of the programs created the store.
    #[error("table `{table}` at {url} has format {found}; this program knows formats up to {known}")]
    Newer {
        /// The table.
        table: Table,
        /// The store.
        url: String,
        /// The format of the table.
        found: String,
        /// The highest format that this program can read.
        known: u32,
    },
    /// A program of an earlier release created it.
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
    /// A table lacks a property or a column of a Perennial store.
    #[error("table `{table}` at {url} is not a table of a Perennial store: {why}")]
    Foreign {
        /// The table.
        table: Table,
        /// The store.
        url: String,
        /// What is missing.
        why: String,
    },
    /// Another writer committed under the same fence.
    #[error(
        "another writer has committed as `{fence}` to table `{table}` (it stands at {theirs}, expected {ours})"
    )]
    Conflict {
        /// The table.
        table: Table,
        /// The fence.
        fence: String,
        /// The number in the table.
        theirs: i64,
        /// The number that this writer last read or committed.
        ours: i64,
    },
    /// Another process holds the shard.
    #[error("shard `{shard}` of {url} is held by {holder}")]
    Held {
        /// The shard.
        shard: String,
        /// The store.
        url: String,
        /// The process that holds it.
        holder: String,
    },
    /// A version that the store no longer keeps, or does not have yet.
    #[error("version {version} of table `{table}` is not in the store, whose newest is {newest}")]
    Version {
        /// The table.
        table: Table,
        /// The version asked for.
        version: Version,
        /// The newest.
        newest: Version,
    },
    /// A filter or an order that the table cannot answer.
    #[error("cannot read table `{table}`")]
    Query {
        /// The table.
        table: Table,
        /// DataFusion's error.
        #[source]
        source: Box<datafusion::error::DataFusionError>,
    },
    /// Delta failed.
    #[error("cannot {act} table `{table}`")]
    Delta {
        /// The operation that failed.
        act: &'static str,
        /// The table.
        table: Table,
        /// Delta's error.
        #[source]
        source: Box<DeltaTableError>,
    },
    /// The file system of the store is full.
    #[error("cannot {act} table `{table}`: no space is left at `{path}`")]
    Full {
        /// The operation that failed.
        act: &'static str,
        /// The table.
        table: Table,
        /// The store's folder.
        path: String,
        /// Delta's error.
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
        /// The error of Parquet or of the object store.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A lock file or a folder of the store cannot be created.
    #[error("cannot {act} `{path}`")]
    Io {
        /// The operation that failed.
        act: &'static str,
        /// The path.
        path: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// Rows that do not have the table's columns.
    #[error("rows for table `{table}` are refused")]
    Rows {
        /// The table.
        table: Table,
        /// The reason.
        #[source]
        source: TableError,
    },
    /// A row of the order that cannot follow the rows before it.
    #[error("row {number} of table `order` cannot follow: {why}")]
    Order {
        /// Its number.
        number: i64,
        /// The contradiction.
        why: String,
    },
    /// A caller broke a rule of this crate.
    #[error("internal: {0}")]
    Misuse(&'static str),
}

impl StoreError {
    pub(crate) fn delta(act: &'static str, table: Table) -> impl Fn(DeltaTableError) -> Self {
        move |source| Self::Delta { act, table, source: Box::new(source) }
    }

    /// The same error; where the disk is full, one that names the store's folder.
    pub(crate) fn of_store(self, url: &StoreUrl) -> Self {
        match self {
            Self::Delta { act, table, source } if cause::is_full(source.as_ref()) => {
                let path =
                    url.local_path().map_or_else(|| url.to_string(), |path| path.display().to_string());
                Self::Full { act, table, path, source }
            }
            other => other,
        }
    }

    /// Whether a retry may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Delta { source, .. } => cause::may_pass(source.as_ref()),
            Self::File { source, .. } => cause::may_pass(source.as_ref()),
            _ => false,
        }
    }
}

/// The kind of a failure to read a version.
fn kind_of_reading(error: &(dyn std::error::Error + 'static)) -> Kind {
    if cause::is_missing(error) {
        Kind::NotFound
    } else if cause::is_damage(error) {
        Kind::Corrupt
    } else {
        Kind::Unavailable
    }
}

impl ProgramError for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } | Self::Version { .. } => Kind::NotFound,
            Self::Newer { .. }
            | Self::Older { .. }
            | Self::Foreign { .. }
            | Self::Rows { .. }
            | Self::Order { .. } => Kind::Corrupt,
            Self::Conflict { .. } | Self::Held { .. } => Kind::Conflict,
            Self::Query { .. } => Kind::Input,
            Self::Delta { act: "read", source, .. } => kind_of_reading(source.as_ref()),
            Self::File { source, .. } => kind_of_reading(source.as_ref()),
            Self::Delta { .. } | Self::Full { .. } | Self::Io { .. } => Kind::Unavailable,
            Self::Misuse(_) => Kind::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        let of_io = |source: &(dyn std::error::Error + 'static)| match cause::io_kind(source)? {
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
            let hint = "check that the bucket exists and can be reached from here: `aws_endpoint_url`, `aws_region` and the credentials, in `[store.options]` or as `AWS_*` variables";
            cause::is_of_a_bucket(source).then(|| hint.to_owned())
        };
        match self {
            Self::Missing { .. } => {
                Some("check `store.url`; `perennial-ingest run` creates the store".to_owned())
            }
            Self::Newer { .. } => Some("use the release that made the store, or a later one".to_owned()),
            Self::Older { .. } => Some(
                "read its sources again into a new store, or use the release that created this one".to_owned(),
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

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io;

    use parquet::errors::ParquetError;

    use super::*;

    fn generic(source: impl Into<Box<dyn Error + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: source.into() }
    }

    fn delta(source: DeltaTableError) -> StoreError {
        StoreError::delta("read", Table::Records)(source)
    }

    #[test]
    fn failures_of_a_network_may_pass_and_answers_of_a_store_or_a_disk_do_not() {
        let not_found = || object_store::Error::NotFound { path: "a".into(), source: "gone".into() };
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let wrapped = io::Error::other(generic("503"));
        let parquet = ParquetError::External(Box::new(wrapped));
        let passing = [delta(generic("503").into()), delta(generic(refused).into()), delta(parquet.into())];
        let lasting = [
            delta(not_found().into()),
            delta(DeltaTableError::KernelError(not_found().into())),
            delta(generic(full).into()),
            delta(io::Error::other(not_found()).into()),
            delta(DeltaTableError::NotInitialized),
            // Text alone: the object store below has tried again already.
            delta(DeltaTableError::KernelError(generic("list").into())),
            StoreError::Misuse("no"),
        ];
        assert_eq!(passing.iter().position(|error| !error.is_transient()), None);
        assert_eq!(lasting.iter().position(StoreError::is_transient), None);
    }

    #[test]
    fn full_disk_is_found_below_what_wraps_it_and_the_hint_names_the_folder() {
        let url = "/data/store".parse().unwrap();
        let written = |kind: io::ErrorKind| {
            let wrapped = io::Error::other(generic(io::Error::from(kind)));
            delta(ParquetError::External(Box::new(wrapped)).into()).of_store(&url)
        };
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = written(kind);
            let hint = "make room on the file system of `/data/store`, then start again: nothing is lost";
            assert_eq!(error.to_string(), "cannot read table `records`: no space is left at `/data/store`");
            assert_eq!((error.hint().as_deref(), error.kind()), (Some(hint), Kind::Unavailable));
            assert!(!error.is_transient());
        }
        let hint = written(io::ErrorKind::PermissionDenied).hint();
        assert!(hint.is_some_and(|hint| hint.contains("write access")));
        let hint = written(io::ErrorKind::ConnectionReset).hint();
        assert!(hint.is_some_and(|hint| hint.contains("`aws_endpoint_url`")), "it was a bucket's");
    }

    #[test]
    fn bytes_that_do_not_decode_are_damage_and_a_file_that_is_gone_is_not_found() {
        let file = |source: ParquetError| StoreError::File {
            table: Table::Records,
            file: "a.parquet".to_owned(),
            source: Box::new(source),
        };
        let page = || ParquetError::General("a page does not decode".to_owned());
        // As the decompressor says it.
        let frame = ParquetError::External(Box::new(io::Error::other("unknown frame")));
        for damaged in [file(page()), file(frame), delta(page().into())] {
            assert_eq!(damaged.kind(), Kind::Corrupt, "{damaged:?}");
            assert!(damaged.hint().is_some_and(|hint| hint.contains("from a copy of the store")));
        }
        let gone = object_store::Error::NotFound { path: "a".into(), source: "gone".into() };
        let gone = file(ParquetError::External(Box::new(gone)));
        assert_eq!(gone.kind(), Kind::NotFound);
        for passing in [generic("503"), generic(io::Error::from(io::ErrorKind::ConnectionReset))] {
            assert_eq!(file(ParquetError::External(Box::new(passing))).kind(), Kind::Unavailable);
        }
    }
}
