//! The data files of a table: how they are written, and how their rows are read without DataFusion.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use deltalake::DeltaTable;
use deltalake::kernel::LogicalFileView;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::{Store, StoreError};
use perennial_schemas::table::{Table, conform_to};

/// The format of the files of a table: small pages of text, so that one record can be read without its
/// neighbours; a Bloom filter on ids; no statistics and no dictionary where they save nothing.
pub(crate) fn writer_properties(table: Table) -> WriterProperties {
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_write_batch_size(64)
        .set_data_page_size_limit(64 * 1024)
        .set_max_row_group_row_count(Some(128 * 1024));
    let noise: &[&str] = match table {
        Table::Records => {
            &["text", "meta", "raw", "id", "folded", "signature", "embedding", "passages", "new_spans"]
        }
        Table::Signals => &["id", "gradient_sketch", "top_ids", "top_log_probs", "passage_losses"],
        Table::Buffers => &["id"],
        Table::Views => &["ticket", "positions"],
        Table::Evaluations | Table::Order => &[],
    };
    for column in noise {
        let path = ColumnPath::from(*column);
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    if table == Table::Records {
        let id = ColumnPath::from("id");
        builder = builder
            .set_column_bloom_filter_enabled(id.clone(), true)
            .set_column_bloom_filter_fpp(id, 0.01)
            // Signatures are noise: compressing them costs time and saves nothing.
            .set_column_compression(ColumnPath::from("signature"), Compression::UNCOMPRESSED);
    }
    builder.build()
}

/// One live data file of a table.
#[derive(Debug, Clone)]
pub(crate) struct DataFile {
    /// Relative to the table.
    pub path: String,
    pub size: u64,
    /// Values of the partition columns, as the log writes them.
    pub partition: BTreeMap<String, Option<String>>,
}

impl DataFile {
    /// The file of an entry of the log.
    pub(super) fn of(view: &LogicalFileView) -> Self {
        Self {
            path: view.object_store_path().to_string(),
            size: u64::try_from(view.size()).unwrap_or(0),
            partition: view.partition_values_map().into_iter().collect(),
        }
    }

    /// The file's name in the object store.
    pub(super) fn object(&self) -> Path {
        object_path(&self.path)
    }
}

/// A path of the log, already decoded once; a partition value in it may still be encoded, and stays so.
pub(super) fn object_path(path: &str) -> Path {
    Path::parse(path).unwrap_or_else(|_| Path::from(path))
}

/// What is kept in memory of files. Files never change, so it never goes stale.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    footers: Mutex<Footers>,
    pub(super) places: Mutex<HashMap<String, Arc<crate::fetch::Places>>>,
}

impl Cache {
    fn footers(&self) -> MutexGuard<'_, Footers> {
        self.footers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets files that were replaced.
    pub(super) fn forget(&self, paths: &[String]) {
        let mut footers = self.footers();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for path in paths {
            footers.0.remove(path);
            places.remove(path);
        }
    }

    /// Forgets the places of files that are not `live` (sorted by path) once most are not: another process
    /// has replaced them.
    pub(super) fn keep(&self, live: &[DataFile]) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() > 2 * live.len() {
            places.retain(|path, _| live.binary_search_by(|file| file.path.cmp(path)).is_ok());
        }
    }
}

/// Bytes of the footers kept in memory; one with its page index has about 28 kB.
const FOOTER_BYTES: u64 = 128 << 20;

/// Footers by path. Those that are read again stay longest.
#[derive(Debug)]
struct Footers(quick_cache::unsync::Cache<String, Footer, ByBytes>);

impl Default for Footers {
    fn default() -> Self {
        Self(quick_cache::unsync::Cache::with_weighter(4_096, FOOTER_BYTES, ByBytes))
    }
}

#[derive(Debug)]
struct Footer {
    metadata: ArrowReaderMetadata,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct ByBytes;

impl quick_cache::Weighter<String, Footer> for ByBytes {
    fn weight(&self, path: &String, footer: &Footer) -> u64 {
        path.len() as u64 + footer.bytes
    }
}

/// The live files of a table at the version it is loaded at, by path.
pub(crate) async fn live(delta: &DeltaTable, table: Table) -> Result<Vec<DataFile>, StoreError> {
    let views = delta.get_active_add_actions_by_partitions(&[]);
    let mut files: Vec<DataFile> = views
        .map_ok(|view| DataFile::of(&view))
        .try_collect()
        .await
        .map_err(StoreError::delta("list the files of", table))?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Reads `columns` (all where `None`) of a file, all rows or those selected, in the file's order.
pub(crate) async fn read(
    store: &Store,
    delta: &DeltaTable,
    table: Table,
    file: &DataFile,
    columns: Option<&[&str]>,
    rows: Option<Vec<Range<usize>>>,
) -> Result<Vec<RecordBatch>, StoreError> {
    let failed =
        |source: ParquetError| StoreError::File { table, file: file.path.clone(), source: Box::new(source) };
    let mut reader =
        Reader { store: delta.log_store().object_store(None), path: file.object(), size: file.size };
    let metadata = footer(&mut reader, file, &store.0.files).await.map_err(failed)?;
    let total = usize::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
    let wanted = project(table, columns);
    let inside = wanted.fields().iter().map(|field| field.name().as_str());
    let mask = ProjectionMask::columns(metadata.parquet_schema(), inside);
    let mut builder =
        ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata).with_projection(mask);
    if let Some(ranges) = rows {
        builder =
            builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges.into_iter(), total));
    }
    let stream = builder.build().map_err(failed)?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(failed)?;
    batches.iter().map(|batch| with_partition(table, file, &wanted, batch)).collect()
}

/// The table's schema with only these columns and those that every row has, in the table's order.
pub(crate) fn project(table: Table, columns: Option<&[&str]>) -> SchemaRef {
    let schema = table.schema();
    match columns {
        None => schema,
        Some(columns) => {
            let wanted =
                |field: &&Arc<Field>| !field.is_nullable() || columns.contains(&field.name().as_str());
            Arc::new(Schema::new(schema.fields().iter().filter(wanted).cloned().collect::<Vec<_>>()))
        }
    }
}

/// Adds the partition's values, which the file itself does not contain, to its rows.
fn with_partition(
    table: Table,
    file: &DataFile,
    wanted: &SchemaRef,
    batch: &RecordBatch,
) -> Result<RecordBatch, StoreError> {
    let failed = |source| StoreError::Rows { table, source };
    let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    for (name, value) in &file.partition {
        let Ok(field) = wanted.field_with_name(name) else { continue };
        let text: ArrayRef = Arc::new(StringArray::from(vec![value.as_deref(); batch.num_rows()]));
        let column = match field.data_type() {
            DataType::Utf8 => text,
            other => arrow::compute::cast(&text, other).map_err(|source| {
                failed(perennial_schemas::table::TableError::Arrow { table: table.name(), source })
            })?,
        };
        fields.push(Arc::new(field.clone()));
        columns.push(column);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let whole = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(
        |source| failed(perennial_schemas::table::TableError::Arrow { table: table.name(), source }),
    )?;
    conform_to(table, wanted, &whole).map_err(failed)
}

async fn footer(
    reader: &mut Reader,
    file: &DataFile,
    cache: &Cache,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let known = cache.footers().0.get(&file.path).map(|footer| footer.metadata.clone());
    if let Some(known) = known {
        return Ok(known);
    }
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let metadata = ArrowReaderMetadata::load_async(reader, options).await?;
    let bytes = metadata.metadata().memory_size() as u64;
    cache.footers().0.insert(file.path.clone(), Footer { metadata: metadata.clone(), bytes });
    Ok(metadata)
}

/// Reads byte ranges of one object for the Parquet reader.
struct Reader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let policy = options.map_or(PageIndexPolicy::Skip, ArrowReaderOptions::offset_index_policy);
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_page_index_policy(policy);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
