//! Creates a store and opens one. Its format, its normal form and its secret are properties of the tables.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use backon::Retryable as _;
use deltalake::kernel::StructField;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::transaction::{CommitProperties, TransactionError};
use deltalake::logstore::{StorageConfig, object_store_factories};
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::SaveMode;
use deltalake::{DeltaResult, DeltaTable, DeltaTableBuilder, DeltaTableError};
use object_store::ObjectStore;
use url::Url;

use crate::retry::{self, ListOrder, RetryingStore};
use crate::{Inner, Snapshots, Store, StoreError, StoreUrl, bucket, file};
use perennial_program::clock::Clock;
use perennial_schemas::table::{FORMAT, Table};
use perennial_schemas::text::NORMAL_FORM;

const FORMAT_KEY: &str = "perennial.format";
const NORMAL_FORM_KEY: &str = "perennial.normal_form";
const SECRET_KEY: &str = "perennial.secret";

impl Store {
    /// Opens the store at `url`. Creates it first, or those of its tables that are missing after a kill.
    ///
    /// # Errors
    /// As [`Store::open`], [`StoreError::Io`] if the folder cannot be created, and [`StoreError::Full`].
    pub async fn create(
        url: &StoreUrl,
        options: &HashMap<String, String>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let source = Source::new(url, options, &clock)?;
        for table in Table::ALL {
            // The log entry that creates a table is not repeated by the object store.
            let created = (|| create_table(&source, table))
                .retry(retry::waits())
                .sleep(retry::sleeper(&clock))
                .when(StoreError::is_transient);
            created.await.map_err(|error| error.of_store(url))?;
        }
        Self::open_at(source, clock).await
    }

    /// Opens the store at `url`. `options` are those of the object store (`aws_endpoint_url`, ...); it
    /// takes options that are not given from the `AWS_*` environment.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no store, [`StoreError::Newer`] or [`StoreError::Older`] if another
    /// release created it, [`StoreError::Foreign`] if a table is not one of a Perennial store,
    /// [`StoreError::Delta`] if it cannot be read.
    pub async fn open(
        url: &StoreUrl,
        options: &HashMap<String, String>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        Self::open_at(Source::new(url, options, &clock)?, clock).await
    }

    async fn open_at(source: Source, clock: Clock) -> Result<Self, StoreError> {
        let mut secret = 0;
        let mut snapshots = Snapshots::default();
        for table in Table::ALL {
            let delta = open_table(&source, table).await?;
            let found = check_properties(&source.url, table, &delta)?;
            // Every table has a secret; the one of `records` is used.
            if table == Table::Records {
                secret = found;
            }
            snapshots.insert(table, delta);
        }
        Ok(Self(Arc::new(Inner {
            source,
            clock,
            secret,
            snapshots: Mutex::new(snapshots),
            files: file::Cache::default(),
        })))
    }
}

/// Where a store is, and the object store that its tables are read and written through.
#[derive(Debug)]
pub(crate) struct Source {
    pub url: StoreUrl,
    options: HashMap<String, String>,
    /// Of the whole bucket or file system: paths in it begin at its root.
    root: Arc<dyn ObjectStore>,
}

impl Source {
    fn new(url: &StoreUrl, options: &HashMap<String, String>, clock: &Clock) -> Result<Self, StoreError> {
        // Any table's location names the bucket.
        let table = Table::Records;
        let failed = StoreError::delta("open", table);
        let location = url.of_table(table);
        let builder = DeltaTableBuilder::from_url(location.clone()).map_err(&failed)?;
        let options = builder.with_storage_options(options.clone()).storage_options();
        let root = object_store(&location, &options).map_err(&failed)?;
        let root = Arc::new(RetryingStore::new(root, clock.clone(), list_order(&location)));
        Ok(Self { url: url.clone(), options, root })
    }

    /// A builder of the table whose every read and write goes through [`RetryingStore`].
    pub(crate) fn builder(&self, table: Table) -> Result<DeltaTableBuilder, StoreError> {
        let location = self.url.of_table(table);
        let builder =
            DeltaTableBuilder::from_url(location.clone()).map_err(StoreError::delta("open", table))?;
        let root = Arc::clone(&self.root);
        Ok(builder.with_storage_options(self.options.clone()).with_storage_backend(root, location))
    }
}

/// The object store that delta-rs would use for this location.
fn object_store(location: &Url, options: &HashMap<String, String>) -> DeltaResult<Arc<dyn ObjectStore>> {
    bucket::register();
    let invalid = || DeltaTableError::InvalidTableLocation(location.to_string());
    let config = StorageConfig::parse_options(options)?;
    let scheme = Url::parse(&format!("{}://", location.scheme())).map_err(|_| invalid())?;
    let factory = object_store_factories().get(&scheme).map(|entry| Arc::clone(entry.value()));
    let (root, _path) = factory.ok_or_else(invalid)?.parse_url_opts(location, &config)?;
    Ok(root)
}

/// As far as it is documented: not of file systems, and not of S3's directory buckets.
fn list_order(location: &Url) -> ListOrder {
    let is_directory_bucket =
        location.host_str().is_some_and(|bucket| bucket.contains("--x-s3") || bucket.contains("-xa-s3"));
    if location.scheme() == "file" || is_directory_bucket { ListOrder::Unknown } else { ListOrder::ByPath }
}

async fn open_table(source: &Source, table: Table) -> Result<DeltaTable, StoreError> {
    let missing = || StoreError::Missing { url: source.url.to_string() };
    // delta-rs reports a missing local folder as an engine failure: look first.
    if let Some(path) = source.url.local_path()
        && !path.join(table.name()).join("_delta_log").is_dir()
    {
        return Err(missing());
    }
    match source.builder(table)?.load().await {
        Ok(delta) => Ok(delta),
        Err(DeltaTableError::NotATable(_)) => Err(missing()),
        Err(error) => Err(StoreError::delta("open", table)(error)),
    }
}

fn foreign(url: &StoreUrl, table: Table, why: &str) -> StoreError {
    StoreError::Foreign { table, url: url.to_string(), why: why.to_owned() }
}

/// Checks that the table's format and columns are known, and returns its secret.
pub(super) fn check_properties(url: &StoreUrl, table: Table, delta: &DeltaTable) -> Result<u64, StoreError> {
    let state = delta.snapshot().map_err(StoreError::delta("open", table))?;
    let properties = state.metadata().configuration();
    let number = |key: &str| properties.get(key).and_then(|value| value.parse::<u64>().ok());
    let newer = |found: String, known| StoreError::Newer { table, url: url.to_string(), found, known };
    let Some(format) = number(FORMAT_KEY) else {
        return Err(foreign(url, table, "it has no property `perennial.format`"));
    };
    if format > u64::from(FORMAT) {
        return Err(newer(format.to_string(), FORMAT));
    }
    if format < u64::from(FORMAT) {
        return Err(StoreError::Older { table, url: url.to_string(), found: format, known: FORMAT });
    }
    match number(NORMAL_FORM_KEY) {
        Some(form) if form == u64::from(NORMAL_FORM) => {}
        Some(form) => return Err(newer(format!("{format}, normal form {form}"), FORMAT)),
        None => return Err(foreign(url, table, "it has no property `perennial.normal_form`")),
    }
    let schema = state.schema();
    for field in table.schema().fields() {
        if schema.field(field.name()).is_none() {
            return Err(foreign(url, table, &format!("it has no column `{}`", field.name())));
        }
    }
    number(SECRET_KEY).ok_or_else(|| foreign(url, table, "it has no property `perennial.secret`"))
}

async fn create_table(source: &Source, table: Table) -> Result<(), StoreError> {
    let failed = StoreError::delta("create", table);
    if let Some(root) = source.url.local_path() {
        let path = root.join(table.name());
        std::fs::create_dir_all(&path).map_err(|source| StoreError::Io {
            act: "create the folder",
            path: path.display().to_string(),
            source,
        })?;
    }
    let schema = table.schema();
    let columns: Result<Vec<StructField>, _> =
        schema.fields().iter().map(|field| field.as_ref().try_into_kernel()).collect();
    let columns = columns.map_err(|source| failed(DeltaTableError::Arrow { source }))?;
    let created = CreateBuilder::new()
        .with_log_store(source.builder(table)?.build_storage().map_err(&failed)?)
        .with_save_mode(SaveMode::Ignore)
        .with_columns(columns)
        .with_partition_columns(table.partitions().iter().copied())
        .with_raise_if_key_not_exists(false)
        .with_configuration(properties(table).into_iter().map(|(key, value)| (key, Some(value))))
        // A second try would overwrite the properties of a table that another process created, its secret
        // among them.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await;
    match created {
        Ok(_) => Ok(()),
        // Another process created it at the same time, or the answer to this commit was lost.
        Err(DeltaTableError::Transaction { source: TransactionError::MaxCommitAttempts(_) }) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

fn properties(table: Table) -> Vec<(String, String)> {
    let statistics = match table {
        // By default Delta would keep the minimum and maximum of every text.
        Table::Records => "shard,seq,commit,source,start,end,event_time,ingest_time,language",
        Table::Signals => "step,shard,seq",
        Table::Evaluations => "step,tokens,slice",
        Table::Buffers => "revision,shard,seq",
        Table::Views => "number,first_step,end_step",
        Table::Order => "number,offset",
    };
    vec![
        (FORMAT_KEY.to_owned(), FORMAT.to_string()),
        (NORMAL_FORM_KEY.to_owned(), NORMAL_FORM.to_string()),
        (SECRET_KEY.to_owned(), new_secret().to_string()),
        ("delta.dataSkippingStatsColumns".to_owned(), statistics.to_owned()),
        // So long the log keeps when a file was replaced: the longest possible retention of a vacuum.
        ("delta.deletedFileRetentionDuration".to_owned(), "interval 30 days".to_owned()),
    ]
}

/// A random number: no source of text may guess a store's secret.
#[expect(clippy::disallowed_methods, reason = "drawn once, when a store is created, and kept in it")]
fn new_secret() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 >> 1
}
