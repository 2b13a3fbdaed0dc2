//! Reads a table at a version with a filter and an order, through DataFusion.

use std::error::Error;

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use deltalake::{DeltaTable, DeltaTableError};

use super::retry::retry;
use super::{Store, StoreError, file};
use crate::id::Version;
use crate::table::{Table, conform_to};

/// What to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan<'a> {
    /// The columns; all where empty.
    pub columns: &'a [&'a str],
    /// A SQL predicate over the table's columns.
    pub filter: Option<String>,
    /// The columns to order by. Without them the order of the rows is nobody's promise.
    pub order: &'a [&'a str],
}

impl Store {
    /// The rows of `table` at `version` that a scan asks for, in the tables' own types.
    ///
    /// # Errors
    /// [`StoreError::Version`] where the version is not there, [`StoreError::Query`] where the filter
    /// or a column is wrong, [`StoreError::Delta`] where reading fails.
    pub async fn scan(
        &self,
        table: Table,
        version: Version,
        scan: &Scan<'_>,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let delta = self.at(table, version).await?;
        retry(self.clock(), || scan_once(&delta, table, scan)).await
    }
}

async fn scan_once(
    delta: &DeltaTable,
    table: Table,
    scan: &Scan<'_>,
) -> Result<Vec<RecordBatch>, StoreError> {
    let failed = |source| query_error(table, source);
    let context = SessionContext::new();
    delta.update_datafusion_session(&context.state()).map_err(StoreError::delta("read", table))?;
    let provider = delta.table_provider().build().await.map_err(failed)?;
    context.register_table("t", std::sync::Arc::new(provider)).map_err(failed)?;
    let frame = context.sql(&sql(scan)).await.map_err(failed)?;
    let batches = frame.collect().await.map_err(failed)?;
    let wanted = file::project(table, (!scan.columns.is_empty()).then_some(scan.columns));
    batches
        .iter()
        .map(|batch| conform_to(table, &wanted, batch).map_err(|source| StoreError::Rows { table, source }))
        .collect()
}

/// What the engine says is the query's fault, unless the store could not be read.
fn query_error(table: Table, source: DataFusionError) -> StoreError {
    let mut next: Option<&(dyn Error + 'static)> = Some(&source);
    while let Some(error) = next {
        if error.is::<object_store::Error>() || error.is::<std::io::Error>() {
            let source = DeltaTableError::GenericError { source: Box::new(source) };
            return StoreError::delta("read", table)(source);
        }
        next = error.source();
    }
    StoreError::Query { table, source: Box::new(source) }
}

fn sql(scan: &Scan<'_>) -> String {
    let quoted =
        |names: &[&str]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let columns = if scan.columns.is_empty() { "*".to_owned() } else { quoted(scan.columns) };
    let filter = scan.filter.as_ref().map(|filter| format!(" where {filter}")).unwrap_or_default();
    let order =
        if scan.order.is_empty() { String::new() } else { format!(" order by {}", quoted(scan.order)) };
    format!("select {columns} from t{filter}{order}")
}
