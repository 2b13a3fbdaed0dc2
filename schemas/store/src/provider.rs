//! A table at one version, as DataFusion reads it: its live files, without those that the statistics of
//! the log rule out.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, Result, ScalarValue, Statistics, project_schema};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use deltalake::DeltaTable;
use deltalake::kernel::LogicalFileView;
use futures::TryStreamExt as _;
use object_store::ObjectMeta;
use serde_json::Value;

use crate::StoreError;
use crate::file::object_path;
use perennial_schemas::table::Table;

/// The live files of a table at the version it is loaded at.
#[derive(Debug)]
pub(crate) struct LiveFiles {
    schema: TableSchema,
    store: ObjectStoreUrl,
    files: Vec<PartitionedFile>,
    /// Of each file, by the columns of the schema.
    statistics: Vec<Arc<Statistics>>,
}

impl LiveFiles {
    /// The files of `delta`, which are read through the object store registered under `store`.
    ///
    /// # Errors
    /// [`StoreError::Delta`] where the log cannot be read.
    pub(crate) async fn of(
        delta: &DeltaTable,
        table: Table,
        store: ObjectStoreUrl,
    ) -> std::result::Result<Self, StoreError> {
        let views: Vec<LogicalFileView> = delta
            .get_active_add_actions_by_partitions(&[])
            .try_collect()
            .await
            .map_err(StoreError::delta("list the files of", table))?;
        let schema = table_schema(table);
        let mut files = Vec::with_capacity(views.len());
        let mut statistics = Vec::with_capacity(views.len());
        for view in &views {
            let file = partitioned_file(view, &schema);
            let known = file_statistics(view, schema.file_schema());
            let whole = file.clone().with_statistics(Arc::new(known)).statistics;
            statistics.push(whole.unwrap_or_default());
            files.push(file);
        }
        Ok(Self { schema, store, files, statistics })
    }

    /// The files in which rows may be for which `predicate` holds; all where it says nothing of statistics.
    fn matching(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Result<Vec<PartitionedFile>> {
        let Some(predicate) = predicate.filter(|_| !self.files.is_empty()) else {
            return Ok(self.files.clone());
        };
        let schema = Arc::clone(self.schema.table_schema());
        let pruning = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(&schema))
            .try_build(Arc::clone(predicate))?;
        let may_match = pruning.prune(&PrunableStatistics::new(self.statistics.clone(), schema))?;
        let kept = self.files.iter().zip(may_match).filter(|(_, may_match)| *may_match);
        Ok(kept.map(|(file, _)| file.clone()).collect())
    }
}

#[async_trait]
impl TableProvider for LiveFiles {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.schema.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // Statistics rule out files and row groups; the rows of the others are filtered above.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut source = ParquetSource::new(self.schema.clone());
        let mut predicate = None;
        if let Some(filter) = conjunction(filters.to_vec()) {
            let columns = DFSchema::try_from(Arc::clone(self.schema.table_schema()))?;
            let filter = state.create_physical_expr(filter, &columns)?;
            source = source.with_predicate(Arc::clone(&filter));
            predicate = Some(filter);
        }
        let files = self.matching(predicate.as_ref())?;
        if files.is_empty() {
            let schema = project_schema(self.schema.table_schema(), projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(self.store.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// The columns of the files, then those of the partitions.
fn table_schema(table: Table) -> TableSchema {
    let schema = table.schema();
    let is_partition = |field: &Arc<Field>| table.partitions().contains(&field.name().as_str());
    let (partitions, columns): (Vec<_>, Vec<_>) = schema.fields().iter().cloned().partition(is_partition);
    TableSchema::builder(Arc::new(Schema::new(columns))).with_table_partition_cols(partitions).build()
}

fn partitioned_file(view: &LogicalFileView, schema: &TableSchema) -> PartitionedFile {
    let values = view.partition_values_map();
    let mut file = PartitionedFile::from(ObjectMeta {
        location: object_path(view.object_store_path().as_ref()),
        last_modified: chrono::DateTime::from_timestamp_millis(view.modification_time()).unwrap_or_default(),
        size: u64::try_from(view.size()).unwrap_or(0),
        e_tag: None,
        version: None,
    });
    file.partition_values = schema
        .table_partition_cols()
        .iter()
        .map(|field| partition_value(values.get(field.name()).and_then(Option::as_deref), field.data_type()))
        .collect();
    file
}

/// A value of a partition column, as the log writes it. One that does not parse is null: Delta wrote it.
fn partition_value(text: Option<&str>, kind: &DataType) -> ScalarValue {
    let null = || ScalarValue::try_from(kind).unwrap_or(ScalarValue::Null);
    match text {
        Some(text) => ScalarValue::try_from_string(text.to_owned(), kind).unwrap_or_else(|_| null()),
        None => null(),
    }
}

/// What the log knows of the integers and strings of a file. (Of times it knows only milliseconds, which
/// would rule out too much.)
fn file_statistics(view: &LogicalFileView, schema: &Schema) -> Statistics {
    let mut known = Statistics::new_unknown(schema);
    let json: Value = view.stats().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let rows = json["numRecords"].as_u64().and_then(|rows| usize::try_from(rows).ok());
    known.num_rows = rows.map_or(Precision::Absent, Precision::Exact);
    for (field, column) in schema.fields().iter().zip(&mut known.column_statistics) {
        let bound = |side: &str| scalar(&json[side][field.name()], field.data_type());
        let nulls = json["nullCount"][field.name()].as_u64().and_then(|count| usize::try_from(count).ok());
        *column = ColumnStatistics {
            min_value: bound("minValues").map_or(Precision::Absent, Precision::Exact),
            max_value: bound("maxValues").map_or(Precision::Absent, Precision::Exact),
            null_count: nulls.map_or(Precision::Absent, Precision::Exact),
            ..ColumnStatistics::new_unknown()
        };
    }
    known
}

fn scalar(value: &Value, kind: &DataType) -> Option<ScalarValue> {
    match kind {
        DataType::Int64 => value.as_i64().map(|number| ScalarValue::Int64(Some(number))),
        DataType::Int32 => value
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .map(|number| ScalarValue::Int32(Some(number))),
        DataType::Utf8 => value.as_str().map(|text| ScalarValue::Utf8(Some(text.to_owned()))),
        _ => None,
    }
}
