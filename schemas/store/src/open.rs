//! Makes a store where there is none, and opens one: its format, its normal form and its secret are
//! properties of the tables.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use deltalake::kernel::StructField;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::transaction::{CommitProperties, TransactionError};
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableError};

use crate::retry::retry;
use crate::{Inner, Store, StoreError, StoreUrl, builder, file};
use perennial_program::clock::Clock;
use perennial_schemas::table::{FORMAT, Table};
use perennial_schemas::text::NORMAL_FORM;

const FORMAT_KEY: &str = "perennial.format";
const NORMAL_FORM_KEY: &str = "perennial.normal_form";
const SECRET_KEY: &str = "perennial.secret";

impl Store {
    /// Opens the store at `url`, making it (or what a killed maker left out) where it is absent.
    ///
    /// # Errors
    /// As [`Store::open`], [`StoreError::Io`] where the folder cannot be made, and [`StoreError::Full`].
    pub async fn create(
        url: &StoreUrl,
        options: &HashMap<String, String>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        for table in Table::ALL {
            let made = retry(&clock, || create_table(url, options, table)).await;
            made.map_err(|error| error.of_store(url))?;
        }
        Self::open(url, options, clock).await
    }

    /// Opens the store at `url`. `options` are the object store's own (`aws_endpoint_url`, ...);
    /// what they leave out is taken from the `AWS_*` environment by the object store.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where there is none, [`StoreError::Newer`] or [`StoreError::Older`] where
    /// another release made it, [`StoreError::Foreign`] where a table is not ours, [`StoreError::Delta`] where it cannot
    /// be read.
    pub async fn open(
        url: &StoreUrl,
        options: &HashMap<String, String>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let mut secret = 0;
        let mut snapshots = Vec::new();
        for table in Table::ALL {
            let delta = open_table(url, options, &clock, table).await?;
            let found = check_properties(url, table, &delta)?;
            // Every table has one: that of `records` counts.
            if table == Table::Records {
                secret = found;
            }
            snapshots.push((table, delta));
        }
        Ok(Self(Arc::new(Inner {
            url: url.clone(),
            options: options.clone(),
            clock,
            secret,
            snapshots: Mutex::new(snapshots),
            files: file::Cache::default(),
        })))
    }
}

async fn open_table(
    url: &StoreUrl,
    options: &HashMap<String, String>,
    clock: &Clock,
    table: Table,
) -> Result<DeltaTable, StoreError> {
    let missing = || StoreError::Missing { url: url.to_string() };
    // delta-rs reports a missing local folder as an engine failure: look first.
    if let Some(path) = url.local_path()
        && !path.join(table.name()).join("_delta_log").is_dir()
    {
        return Err(missing());
    }
    retry(clock, || async {
        match builder(url, options, table)?.load().await {
            Ok(delta) => Ok(delta),
            Err(DeltaTableError::NotATable(_)) => Err(missing()),
            Err(source) => Err(StoreError::delta("open", table)(source)),
        }
    })
    .await
}

fn foreign(url: &StoreUrl, table: Table, why: &str) -> StoreError {
    StoreError::Foreign { table, url: url.to_string(), why: why.to_owned() }
}

/// The table's secret, once its format and columns are known to be ours.
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

async fn create_table(
    url: &StoreUrl,
    options: &HashMap<String, String>,
    table: Table,
) -> Result<(), StoreError> {
    let failed = StoreError::delta("create", table);
    if let Some(root) = url.local_path() {
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
    let made = CreateBuilder::new()
        .with_location(url.of_table(table))
        .with_storage_options(options.clone())
        .with_save_mode(SaveMode::Ignore)
        .with_columns(columns)
        .with_partition_columns(table.partitions().iter().copied())
        .with_raise_if_key_not_exists(false)
        .with_configuration(properties(table).into_iter().map(|(key, value)| (key, Some(value))))
        // A second try would lay these properties, a new secret among them, over another maker's table.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await;
    match made {
        Ok(_) => Ok(()),
        // Two makers at once, or the answer to this one was lost: the table that is there is as good.
        Err(DeltaTableError::Transaction { source: TransactionError::MaxCommitAttempts(_) }) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

fn properties(table: Table) -> Vec<(String, String)> {
    let statistics = match table {
        // Delta would keep the minimum and maximum of every text.
        Table::Records => "shard,seq,commit,source,start,end,event_time,ingest_time,language",
        Table::Signals => "step,shard,seq",
        Table::Evaluations => "step,tokens,slice",
        Table::Buffers => "change,shard,seq",
        Table::Draws => "first_step,last_step,step",
    };
    vec![
        (FORMAT_KEY.to_owned(), FORMAT.to_string()),
        (NORMAL_FORM_KEY.to_owned(), NORMAL_FORM.to_string()),
        (SECRET_KEY.to_owned(), new_secret().to_string()),
        ("delta.dataSkippingStatsColumns".to_owned(), statistics.to_owned()),
        // Until then the log remembers when a file was replaced: the longest retention a vacuum can keep.
        ("delta.deletedFileRetentionDuration".to_owned(), "interval 30 days".to_owned()),
    ]
}

/// A store's secret must be one that no source can guess.
#[expect(clippy::disallowed_methods, reason = "drawn once, when a store is made, and kept in it")]
fn new_secret() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 >> 1
}
