//! Reads a table at a version with a filter and an order, through DataFusion.

use std::io;
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::prelude::{DataFrame, SessionContext};
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt as _;

use crate::cause::{causes, is_damage};
use crate::provider::LiveFiles;
use crate::{Store, StoreError, file};
use perennial_schemas::id::Version;
use perennial_schemas::table::{Table, conform_to};

/// The rows and columns to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan<'a> {
    /// The columns to read, besides those that are never null, which are always read; all if empty.
    pub columns: &'a [&'a str],
    /// A SQL predicate over the table's columns.
    pub filter: Option<String>,
    /// The columns to order by. Without them the order of the rows is not defined.
    pub order: &'a [&'a str],
}

impl Store {
    /// The rows of `table` at `version` that a scan selects, in the tables' own types.
    ///
    /// # Errors
    /// [`StoreError::Version`] if the version is not in the store, [`StoreError::Query`] if the filter or
    /// the order is invalid, [`StoreError::Delta`] if reading fails.
    pub async fn scan(
        &self,
        table: Table,
        version: Version,
        scan: &Scan<'_>,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let delta = self.at(table, version).await?;
        let wanted = scan.schema(table);
        let frame = frame(&delta, table, &sql(scan, &wanted)).await?;
        let batches = frame.collect().await.map_err(|source| query_error(table, source))?;
        batches.iter().map(|batch| conform(table, &wanted, batch)).collect()
    }

    /// As [`Store::scan`], but passes each batch to `take` when it is read, so that a table need not fit
    /// into memory (with an order, the selected columns must).
    ///
    /// # Errors
    /// As [`Store::scan`], and the first error that `take` returns.
    pub async fn scan_each<E: From<StoreError>>(
        &self,
        table: Table,
        version: Version,
        scan: &Scan<'_>,
        mut take: impl FnMut(&RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let delta = self.at(table, version).await?;
        let wanted = scan.schema(table);
        let failed = |source| query_error(table, source);
        let frame = frame(&delta, table, &sql(scan, &wanted)).await?;
        let mut batches = frame.execute_stream().await.map_err(failed)?;
        while let Some(batch) = batches.try_next().await.map_err(failed)? {
            take(&conform(table, &wanted, &batch)?)?;
        }
        Ok(())
    }
}

impl Store {
    /// The distinct values of a text column of the newest version, in ascending order.
    ///
    /// # Errors
    /// As [`Store::scan`].
    pub async fn distinct(&self, table: Table, column: &str) -> Result<Vec<String>, StoreError> {
        distinct(&self.newest(table).await?, table, &[column]).await
    }
}

/// The distinct values of a table's text columns, joined by `/`, in ascending order.
pub(crate) async fn distinct(
    delta: &DeltaTable,
    table: Table,
    columns: &[&str],
) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "select distinct arrow_cast({}, 'Utf8') as value from t order by value",
        columns.join(" || '/' || ")
    );
    let batches =
        frame(delta, table, &sql).await?.collect().await.map_err(|source| query_error(table, source))?;
    let strings = batches.iter().filter_map(|batch| batch.column(0).as_string_opt::<i32>());
    Ok(strings.flatten().flatten().map(str::to_owned).collect())
}

impl Scan<'_> {
    fn schema(&self, table: Table) -> SchemaRef {
        file::project(table, (!self.columns.is_empty()).then_some(self.columns))
    }
}

async fn frame(delta: &DeltaTable, table: Table, sql: &str) -> Result<DataFrame, StoreError> {
    let failed = |source| query_error(table, source);
    let url = ObjectStoreUrl::parse(format!("table://{table}")).map_err(failed)?;
    let context = SessionContext::new();
    context.register_object_store(url.as_ref(), delta.log_store().object_store(None));
    let files = LiveFiles::of(delta, table, url).await?;
    context.register_table("t", Arc::new(files)).map_err(failed)?;
    context.sql(sql).await.map_err(failed)
}

fn conform(table: Table, wanted: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, StoreError> {
    conform_to(table, wanted, batch).map_err(|source| StoreError::Rows { table, source })
}

/// An error of the engine is one of the query, unless the store could not be read.
fn query_error(table: Table, source: DataFusionError) -> StoreError {
    let of_store = causes(&source).any(|error| error.is::<object_store::Error>() || error.is::<io::Error>());
    if of_store || is_damage(&source) {
        StoreError::delta("read", table)(DeltaTableError::GenericError { source: Box::new(source) })
    } else {
        StoreError::Query { table, source: Box::new(source) }
    }
}

fn sql(scan: &Scan<'_>, wanted: &SchemaRef) -> String {
    let quoted = |name: &str| format!("\"{name}\"");
    let columns: Vec<String> = wanted.fields().iter().map(|field| quoted(field.name())).collect();
    let filter = scan.filter.as_ref().map(|filter| format!(" where {filter}")).unwrap_or_default();
    let order: Vec<String> = scan.order.iter().map(|name| quoted(name)).collect();
    let order = if order.is_empty() { String::new() } else { format!(" order by {}", order.join(", ")) };
    format!("select {} from t{filter}{order}", columns.join(", "))
}
