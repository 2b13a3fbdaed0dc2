//! The six tables of the store: for each its schema, a typed builder and a typed view.
//!
//! A table is declared once, as a list of columns; the row struct, the Arrow schema, the builder
//! and the view are made from that list, so that they cannot part. Every column that any part of
//! Perennial will ever write exists from format 1 on, nullable, because a table whose schema grows
//! stops the daemons of the day before.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use perennial_program::error::{Kind, ProgramError};

pub mod buffers;
pub mod column;
pub mod evaluations;
pub mod order;
pub mod records;
pub mod signals;
pub mod views;

/// The version of the tables' layout that this program writes; a store of another is refused.
pub const FORMAT: u32 = 4;

/// A table of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// What became of each thing that was read.
    Records,
    /// What a model said about a record.
    Signals,
    /// A model's score on a held-out slice.
    Evaluations,
    /// Admissions to and evictions from replay buffers.
    Buffers,
    /// Which tickets were decided for which steps of which job.
    Views,
    /// The order of all readings.
    Order,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 6] =
        [Self::Records, Self::Signals, Self::Evaluations, Self::Order, Self::Buffers, Self::Views];

    /// Its name: the folder below the store's root.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Signals => "signals",
            Self::Evaluations => "evaluations",
            Self::Buffers => "buffers",
            Self::Views => "views",
            Self::Order => "order",
        }
    }

    /// All its columns, partition columns included.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        match self {
            Self::Records => records::schema(),
            Self::Signals => signals::schema(),
            Self::Evaluations => evaluations::schema(),
            Self::Buffers => buffers::schema(),
            Self::Views => views::schema(),
            Self::Order => order::schema(),
        }
    }

    /// The columns it is partitioned by. Days are days of *ingest* or of writing, never of the
    /// event: a stream may span centuries.
    #[must_use]
    pub const fn partitions(self) -> &'static [&'static str] {
        match self {
            Self::Records => &["outcome", "day"],
            Self::Buffers => &["buffer"],
            Self::Signals | Self::Evaluations | Self::Views => &["job"],
            Self::Order => &[],
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A batch that does not have a table's shape.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A column that every row needs is absent.
    #[error("table `{table}` has no column `{column}`")]
    Missing {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// A column has another type.
    #[error("column `{column}` of table `{table}` is {found}, not {expected}")]
    Type {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// Its type in the batch.
        found: String,
        /// Its type in the schema.
        expected: String,
    },
    /// A value that the column's rules forbid.
    #[error("column `{column}` of table `{table}` holds `{value}` in row {row}: {why}")]
    Value {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The value, shortened.
        value: String,
        /// The row in the batch.
        row: usize,
        /// Why it is refused.
        why: &'static str,
    },
    /// Arrow refused to put the columns together.
    #[error("cannot assemble a batch of table `{table}`")]
    Arrow {
        /// The table.
        table: &'static str,
        /// What Arrow said.
        #[source]
        source: arrow::error::ArrowError,
    },
}

impl ProgramError for TableError {
    fn kind(&self) -> Kind {
        Kind::Corrupt
    }
}

/// A batch with the table's columns in the schema's order and types; absent optional columns are
/// null. Delta hands out `Utf8View` and `BinaryView` where a file was rewritten: they become `Utf8`
/// and `Binary` here, so that nothing above needs to know.
///
/// # Errors
/// [`TableError`] where a required column is absent or a type cannot be brought to the schema's.
pub fn conform(table: Table, batch: &RecordBatch) -> Result<RecordBatch, TableError> {
    let schema = table.schema();
    conform_to(table, &schema, batch)
}

/// As [`conform`], for the columns of `schema` alone (a projection of the table's).
///
/// # Errors
/// As [`conform`].
pub fn conform_to(table: Table, schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, TableError> {
    let name = table.name();
    let arrow_error = |source| TableError::Arrow { table: name, source };
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
            Some(column) => arrow::compute::cast(column, field.data_type()).map_err(arrow_error)?,
            None => arrow::array::new_null_array(field.data_type(), batch.num_rows()),
        };
        columns.push(column);
    }
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(arrow_error)
}
