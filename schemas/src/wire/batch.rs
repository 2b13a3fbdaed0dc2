//! The batch: rows of tokens as columns.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int32Type, Schema, SchemaRef};

use super::{WIRE_FORMAT, WireError};
use crate::id::{Offset, RecordId, Seq, Shard};

/// A piece of one record inside one row of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// First token of the row that belongs to it.
    pub start: u32,
    /// How many tokens it has.
    pub tokens: u32,
    /// The record's shard.
    pub shard: Shard,
    /// The record's place in the shard.
    pub seq: Seq,
    /// The record's place in the order of the store.
    pub offset: Offset,
    /// The record's id.
    pub id: RecordId,
    /// Its first token, counted in tokens of the record, boundary token included.
    pub first_token: u64,
    /// Whether the record was removed from the store since: then it is padding with mask 0.
    pub erased: bool,
    /// The probability with which the buffer's chunk that it is part of was drawn, 0 to 1; 1 for new text.
    pub probability: f64,
}

/// A batch: `rows` sequences of T tokens with their targets, and where each token is from.
///
/// | column | type | meaning |
/// |---|---|---|
/// | `row` | i64 | the row's number in the job |
/// | `replayed` | bool | whether the row holds replayed text |
/// | `buffer` | utf8, null for new text | the buffer it was drawn from |
/// | `tokens` | fixed list of T i32 | inputs |
/// | `targets` | fixed list of T i32 | the token that follows each input in its record |
/// | `mask` | fixed list of T bool | whether the prediction of this target counts |
/// | `spans` | list of struct | the row's pieces of records, in order, never overlapping |
///
/// Tokens of no span are padding with mask false. Attention must not cross spans.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    columns: RecordBatch,
    length: usize,
}

pub(super) fn list_size(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

fn token_field(length: usize, name: &str, item: DataType) -> Field {
    let item = Arc::new(Field::new("item", item, false));
    Field::new(name, DataType::FixedSizeList(item, list_size(length)), false)
}

pub(super) fn span_fields() -> Fields {
    Fields::from(vec![
        Field::new("start", DataType::Int32, false),
        Field::new("tokens", DataType::Int32, false),
        Field::new("shard", DataType::Utf8, false),
        Field::new("seq", DataType::Int64, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("id", DataType::FixedSizeBinary(16), false),
        Field::new("first_token", DataType::Int64, false),
        Field::new("erased", DataType::Boolean, false),
        Field::new("probability", DataType::Float64, false),
    ])
}

/// The schema of batches whose rows have `length` tokens.
pub(super) fn batch_schema(length: usize) -> SchemaRef {
    let spans = Field::new("item", DataType::Struct(span_fields()), false);
    let metadata = [("perennial.format".to_owned(), WIRE_FORMAT.to_string())];
    Arc::new(Schema::new_with_metadata(
        vec![
            Field::new("row", DataType::Int64, false),
            Field::new("replayed", DataType::Boolean, false),
            Field::new("buffer", DataType::Utf8, true),
            token_field(length, "tokens", DataType::Int32),
            token_field(length, "targets", DataType::Int32),
            token_field(length, "mask", DataType::Boolean),
            Field::new("spans", DataType::List(Arc::new(spans)), false),
        ],
        metadata.into(),
    ))
}

impl Batch {
    /// Of columns that are known to be a batch with rows of `length` tokens.
    pub(super) const fn of_checked(columns: RecordBatch, length: usize) -> Self {
        Self { columns, length }
    }

    /// Checks that `columns` is a batch.
    ///
    /// # Errors
    /// [`WireError::Format`] for another format, [`WireError::Batch`] for a broken rule.
    pub fn new(columns: RecordBatch) -> Result<Self, WireError> {
        let schema = columns.schema();
        let format =
            schema.metadata().get("perennial.format").and_then(|text| text.parse().ok()).unwrap_or(0);
        if format != WIRE_FORMAT {
            return Err(WireError::Format { found: format });
        }
        let length = match columns.column_by_name("tokens").map(|column| column.data_type()) {
            Some(DataType::FixedSizeList(_, size)) => usize::try_from(*size).unwrap_or(0),
            _ => return Err(malformed("?", "column `tokens` is not a fixed-size list")),
        };
        let expected = batch_schema(length);
        if schema.fields() != expected.fields() {
            return Err(malformed("?", &format!("its schema is {:?}", schema.fields())));
        }
        let batch = Self { columns, length };
        batch.check()?;
        Ok(batch)
    }

    fn check(&self) -> Result<(), WireError> {
        let tokens = self.tokens();
        let bad = |values: &[i32]| values.iter().any(|token| *token < 0);
        if bad(tokens) || bad(self.targets()) {
            return Err(malformed("?", "a token is negative"));
        }
        for row in 0..self.rows() {
            let mut end = 0_u64;
            for span in self.spans(row)? {
                if u64::from(span.start) < end || span.tokens == 0 {
                    return Err(malformed("?", &format!("the spans of row {row} overlap or are empty")));
                }
                end = u64::from(span.start) + u64::from(span.tokens);
            }
            if end > self.length as u64 {
                return Err(malformed(
                    "?",
                    &format!("the spans of row {row} end at {end} of {} tokens", self.length),
                ));
            }
        }
        Ok(())
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.columns.num_rows()
    }

    /// How many tokens a row has: T.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Its columns.
    #[must_use]
    pub const fn columns(&self) -> &RecordBatch {
        &self.columns
    }

    /// Inputs, `rows * T` of them, row by row.
    #[must_use]
    pub fn tokens(&self) -> &[i32] {
        self.token_column("tokens")
    }

    /// Targets, `rows * T` of them, row by row.
    #[must_use]
    pub fn targets(&self) -> &[i32] {
        self.token_column("targets")
    }

    fn token_column(&self, name: &str) -> &[i32] {
        let list = self.columns.column_by_name(name).and_then(|column| column.as_fixed_size_list_opt());
        let values =
            list.and_then(|list| list.values().as_primitive_opt::<Int32Type>().map(|values| (list, values)));
        values.map_or(&[], |(list, values)| {
            // A sliced batch keeps the whole child array: take the rows that belong to it.
            let from = list.offset() * self.length;
            values.values().get(from..from + list.len() * self.length).unwrap_or(&[])
        })
    }

    /// Whether each target counts, `rows * T` of them, row by row.
    #[must_use]
    pub fn mask(&self) -> Vec<bool> {
        let list = self.columns.column_by_name("mask").and_then(|column| column.as_fixed_size_list_opt());
        list.map_or_else(Vec::new, |list| {
            let from = list.offset() * self.length;
            let bits = list.values().as_boolean();
            (from..from + list.len() * self.length).map(|index| bits.value(index)).collect()
        })
    }

    /// The row's number in the job.
    #[must_use]
    pub fn row_number(&self, row: usize) -> Option<u64> {
        let column = self.columns.column_by_name("row")?.as_any().downcast_ref::<Int64Array>()?;
        (row < column.len()).then(|| u64::try_from(column.value(row)).unwrap_or(0))
    }

    /// The buffer the row was drawn from; `None` for new text.
    #[must_use]
    pub fn buffer(&self, row: usize) -> Option<&str> {
        let column = self.columns.column_by_name("buffer")?.as_string_opt::<i32>()?;
        (row < column.len() && column.is_valid(row)).then(|| column.value(row))
    }

    /// Whether the row holds replayed text.
    #[must_use]
    pub fn is_replayed(&self, row: usize) -> bool {
        self.buffer(row).is_some()
    }

    /// The row's pieces of records, in order.
    ///
    /// # Errors
    /// [`WireError::Batch`] where a value is out of its range.
    pub fn spans(&self, row: usize) -> Result<Vec<Span>, WireError> {
        let lists = self.columns.column_by_name("spans").and_then(|column| column.as_list_opt::<i32>());
        let Some(lists) = lists.filter(|lists| row < lists.len()) else {
            return Err(malformed("?", &format!("it has no row {row}")));
        };
        let list = lists.value(row);
        let spans = list.as_struct_opt().ok_or_else(|| malformed("?", "`spans` holds no structs"))?;
        (0..spans.len()).map(|index| span_at(spans, index)).collect()
    }
}

pub(super) fn malformed(step: &str, why: &str) -> WireError {
    WireError::Batch { step: step.to_owned(), why: why.to_owned() }
}

fn span_at(spans: &StructArray, index: usize) -> Result<Span, WireError> {
    let number = |name: &str| -> Option<i64> {
        let column = spans.column_by_name(name)?;
        match column.data_type() {
            DataType::Int32 => Some(i64::from(column.as_primitive_opt::<Int32Type>()?.value(index))),
            _ => Some(column.as_any().downcast_ref::<Int64Array>()?.value(index)),
        }
    };
    let bad = || malformed("?", &format!("span {index} has a value out of range"));
    let natural = |name: &str| number(name).and_then(|value| u64::try_from(value).ok()).ok_or_else(bad);
    let small = |name: &str| natural(name).and_then(|value| u32::try_from(value).map_err(|_| bad()));
    let shard =
        spans.column_by_name("shard").and_then(|column| column.as_string_opt::<i32>()).ok_or_else(bad)?;
    let id =
        spans.column_by_name("id").and_then(|column| column.as_fixed_size_binary_opt()).ok_or_else(bad)?;
    let erased = spans.column_by_name("erased").and_then(|column| column.as_boolean_opt()).ok_or_else(bad)?;
    let probability = spans
        .column_by_name("probability")
        .and_then(|column| column.as_primitive_opt::<Float64Type>())
        .ok_or_else(bad)?;
    Ok(Span {
        start: small("start")?,
        tokens: small("tokens")?,
        shard: shard.value(index).parse().map_err(|_| bad())?,
        seq: Seq(natural("seq")?),
        offset: Offset(natural("offset")?),
        id: RecordId::from_bytes(id.value(index)).ok_or_else(bad)?,
        first_token: natural("first_token")?,
        erased: erased.value(index),
        probability: probability.value(index),
    })
}
