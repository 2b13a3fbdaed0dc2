//! The kinds of column, and the macro that makes a table of them.

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, Date32Array, Date32Builder, Float32Array, Float32Builder,
    Float64Array, Float64Builder, Int32Array, Int32Builder, Int64Array, Int64Builder, StringArray,
    StringBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, TimeUnit};

/// A kind of column: its Arrow type, and how a value goes in and comes out.
pub trait Column {
    /// The array that holds it.
    type Array: Array + 'static;
    /// What builds that array.
    type Builder: Default;
    /// A cell, borrowed from the array.
    type Value<'a>;
    /// Whether a row may lack it.
    const NULLABLE: bool;

    /// Its Arrow type.
    fn data_type() -> DataType;
    /// Appends a cell.
    fn append(builder: &mut Self::Builder, value: Self::Value<'_>);
    /// Ends the array.
    fn finish(builder: &mut Self::Builder) -> ArrayRef;
    /// The cell in row `row`, which the caller knows to exist.
    fn get(array: &Self::Array, row: usize) -> Self::Value<'_>;
    /// What a row has where the column was not read: only for nullable kinds.
    fn absent<'a>() -> Option<Self::Value<'a>>;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $plain:ident / $optional:ident: $array:ty, $builder:ty, $value:ty, $type:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $plain;
        $(#[$doc])*
        /// May be absent.
        #[derive(Debug)]
        pub struct $optional;

        impl Column for $plain {
            type Array = $array;
            type Builder = $builder;
            type Value<'a> = $value;
            const NULLABLE: bool = false;
            fn data_type() -> DataType {
                $type
            }
            fn append(builder: &mut Self::Builder, value: Self::Value<'_>) {
                builder.append_value(value);
            }
            fn finish(builder: &mut Self::Builder) -> ArrayRef {
                std::sync::Arc::new(builder.finish())
            }
            fn get(array: &Self::Array, row: usize) -> Self::Value<'_> {
                array.value(row)
            }
            fn absent<'a>() -> Option<Self::Value<'a>> {
                None
            }
        }

        impl Column for $optional {
            type Array = $array;
            type Builder = $builder;
            type Value<'a> = Option<$value>;
            const NULLABLE: bool = true;
            fn data_type() -> DataType {
                $type
            }
            fn append(builder: &mut Self::Builder, value: Self::Value<'_>) {
                builder.append_option(value);
            }
            fn finish(builder: &mut Self::Builder) -> ArrayRef {
                std::sync::Arc::new(builder.finish())
            }
            fn get(array: &Self::Array, row: usize) -> Self::Value<'_> {
                array.is_valid(row).then(|| array.value(row))
            }
            fn absent<'a>() -> Option<Self::Value<'a>> {
                Some(None)
            }
        }
    )*};
}

kinds! {
    /// UTF-8 text.
    Text / OptText: StringArray, StringBuilder, &'a str, DataType::Utf8;
    /// Bytes. Delta knows no fixed-size binary, u32, f16 or fixed-size list: ids, signatures,
    /// spans and embeddings are blobs.
    Blob / OptBlob: BinaryArray, BinaryBuilder, &'a [u8], DataType::Binary;
    /// A 64-bit number.
    Int / OptInt: Int64Array, Int64Builder, i64, DataType::Int64;
    /// A 32-bit number.
    Short / OptShort: Int32Array, Int32Builder, i32, DataType::Int32;
    /// A score.
    Real / OptReal: Float32Array, Float32Builder, f32, DataType::Float32;
    /// A number whose every bit counts.
    Double / OptDouble: Float64Array, Float64Builder, f64, DataType::Float64;
    /// Days since 1970-01-01.
    Day / OptDay: Date32Array, Date32Builder, i32, DataType::Date32;
    /// Microseconds since 1970-01-01 UTC.
    Time / OptTime: TimestampMicrosecondArray, UtcBuilder, i64,
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
}

/// A timestamp builder whose arrays carry the time zone that Delta's `timestamp` has.
#[derive(Debug)]
pub struct UtcBuilder(TimestampMicrosecondBuilder);

impl Default for UtcBuilder {
    fn default() -> Self {
        Self(TimestampMicrosecondBuilder::new().with_timezone("UTC"))
    }
}

impl UtcBuilder {
    fn append_value(&mut self, value: i64) {
        self.0.append_value(value);
    }

    fn append_option(&mut self, value: Option<i64>) {
        self.0.append_option(value);
    }

    fn finish(&mut self) -> TimestampMicrosecondArray {
        self.0.finish()
    }
}

/// Declares a table: the module gets `schema()`, `Row<'a>`, `Builder` and `View<'a>`.
///
/// `Row` borrows its cells, so reading allocates nothing per row.
macro_rules! table {
    ($table:literal { $($(#[$doc:meta])* $field:ident: $kind:ident,)* }) => {
        /// One row: its cells are borrowed from the caller, or from the batch it is read from.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct Row<'a> {
            $($(#[$doc])* pub $field: <$crate::table::column::$kind as $crate::table::column::Column>::Value<'a>,)*
        }

        /// The table's columns in order.
        #[must_use]
        pub fn schema() -> arrow::datatypes::SchemaRef {
            use $crate::table::column::{self, Column as _};
            static SCHEMA: std::sync::LazyLock<arrow::datatypes::SchemaRef> = std::sync::LazyLock::new(|| {
                std::sync::Arc::new(arrow::datatypes::Schema::new(vec![$(
                    arrow::datatypes::Field::new(
                        stringify!($field),
                        column::$kind::data_type(),
                        column::$kind::NULLABLE,
                    ),
                )*]))
            });
            std::sync::Arc::clone(&SCHEMA)
        }

        /// Builds a batch of the table, row by row.
        #[derive(Debug, Default)]
        pub struct Builder {
            rows: usize,
            $($field: <$crate::table::column::$kind as $crate::table::column::Column>::Builder,)*
        }

        impl Builder {
            /// An empty builder.
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }

            /// Rows appended since the last [`Builder::finish`].
            #[must_use]
            pub const fn len(&self) -> usize {
                self.rows
            }

            /// Whether no row was appended since the last [`Builder::finish`].
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.rows == 0
            }

            /// Appends one row.
            pub fn push(&mut self, row: Row<'_>) {
                use $crate::table::column::{self, Column as _};
                self.rows += 1;
                $(column::$kind::append(&mut self.$field, row.$field);)*
            }

            /// The rows as a batch; the builder is empty again.
            ///
            /// # Errors
            /// [`TableError`]($crate::table::TableError) where Arrow refuses the columns.
            pub fn finish(&mut self) -> Result<arrow::array::RecordBatch, $crate::table::TableError> {
                use $crate::table::column::{self, Column as _};
                self.rows = 0;
                let columns = vec![$(column::$kind::finish(&mut self.$field),)*];
                arrow::array::RecordBatch::try_new(schema(), columns)
                    .map_err(|source| $crate::table::TableError::Arrow { table: $table, source })
            }
        }

        /// Reads the rows of a batch. Columns that may be absent need not have been read.
        #[derive(Debug, Clone, Copy)]
        pub struct View<'a> {
            rows: usize,
            $($field: Option<&'a <$crate::table::column::$kind as $crate::table::column::Column>::Array>,)*
        }

        impl<'a> View<'a> {
            /// A view of `batch`, whose columns are found by name.
            ///
            /// # Errors
            /// [`TableError`]($crate::table::TableError) where a required column is absent or a type differs.
            pub fn new(batch: &'a arrow::array::RecordBatch) -> Result<Self, $crate::table::TableError> {
                use $crate::table::column::{self, Column as _};
                $(
                    let $field = $crate::table::column::find::<column::$kind>($table, stringify!($field), batch)?;
                    if $field.is_none() && column::$kind::absent().is_none() {
                        return Err($crate::table::TableError::Missing { table: $table, column: stringify!($field) });
                    }
                )*
                Ok(Self { rows: batch.num_rows(), $($field,)* })
            }

            /// How many rows there are.
            #[must_use]
            pub const fn len(&self) -> usize {
                self.rows
            }

            /// Whether it has no rows.
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.rows == 0
            }

            /// Row `row`, or `None` past the end.
            #[must_use]
            pub fn get(&self, row: usize) -> Option<Row<'a>> {
                use $crate::table::column::{self, Column as _};
                if row >= self.rows {
                    return None;
                }
                Some(Row {
                    $($field: match self.$field {
                        Some(array) => column::$kind::get(array, row),
                        None => column::$kind::absent()?,
                    },)*
                })
            }

            /// All rows in order.
            pub fn iter(self) -> impl Iterator<Item = Row<'a>> {
                (0..self.rows).map_while(move |row| self.get(row))
            }
        }
    };
}
pub(crate) use table;

/// The column of this name and kind, if the batch has it.
///
/// # Errors
/// [`TableError::Type`](super::TableError::Type) where it has another type, or nulls where none may be.
pub(crate) fn find<'a, C: Column>(
    table: &'static str,
    column: &'static str,
    batch: &'a arrow::array::RecordBatch,
) -> Result<Option<&'a C::Array>, super::TableError> {
    let Some(array) = batch.column_by_name(column) else {
        return Ok(None);
    };
    let wrong = |found: String| super::TableError::Type {
        table,
        column,
        found,
        expected: C::data_type().to_string(),
    };
    if !C::NULLABLE && array.null_count() > 0 {
        return Err(wrong(format!("{} with nulls", array.data_type())));
    }
    match array.as_any().downcast_ref::<C::Array>() {
        Some(array) if *array.data_type() == C::data_type() => Ok(Some(array)),
        _ => Err(wrong(array.data_type().to_string())),
    }
}

/// Packs numbers into a blob of little-endian u32.
#[must_use]
pub fn pack_u32(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Unpacks a blob of little-endian u32; bytes beyond a multiple of four are ignored.
pub fn unpack_u32(blob: &[u8]) -> impl ExactSizeIterator<Item = u32> + '_ {
    blob.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Packs numbers into little-endian half-precision floats, as many as `blob` has room for, rounded to nearest.
pub fn pack_f16(numbers: &[f32], blob: &mut [u8]) {
    for (bytes, number) in blob.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
        *bytes = half::f16::from_f32(*number).to_le_bytes();
    }
}

/// Unpacks a blob of little-endian half-precision floats; a byte beyond a multiple of two is ignored.
pub fn unpack_f16(blob: &[u8]) -> impl ExactSizeIterator<Item = f32> + '_ {
    blob.as_chunks::<2>().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_numbers_come_back_rounded_to_nearest() {
        let numbers = [0.0, -1.0, 0.1, 65_504.0, 1e-9];
        let mut blob = [0; 11];
        pack_f16(&numbers, &mut blob);
        assert_eq!(blob[2..4], [0x00, 0xBC], "little-endian");
        let back: Vec<f32> = unpack_f16(&blob).collect();
        assert_eq!(back, [0.0, -1.0, 0.099_975_586, 65_504.0, 0.0]);
        assert_eq!(unpack_f16(&blob[..3]).len(), 1);
    }
}
