//! The messages of the replay API: the ticket that names a batch, and the batch.
//!
//! A [`Ticket`] determines a batch bit for bit, on any machine and after any restart: it is the
//! whole input of `replay::batch` beside the store. It names no version of Delta, so it outlives
//! compaction, vacuum and the clean-up of logs. Its JSON (keys in the order below) is its form
//! on the wire and in `views`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float64Array, Int32Array, Int64Array,
    ListArray, RecordBatch, StructArray,
};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int32Type, Int64Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::id::{Offset, RecordId, Revision, Seq, Shard, Step};
use crate::seed::Seed;
use perennial_program::error::{Kind, ProgramError};

/// The version of ticket and batch that this program speaks. It changes whenever the same ticket
/// would give other bytes.
pub const WIRE_FORMAT: u32 = 4;

/// Where reading of new text goes on: token `token` of the reading at `offset`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// In stream order the first reading not wholly delivered; in permuted order the record read last, also
    /// where all of it was.
    pub offset: Offset,
    /// Tokens of that record already delivered (its boundary token counts as one). In permuted order 0
    /// stands for the start of the order.
    pub token: u64,
}

/// The tokens of a drawn chunk that did not fit into a row and are not delivered yet. It names everything that is
/// needed to deliver them, whatever becomes of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawRest {
    /// The record.
    pub offset: Offset,
    /// The first of the tokens in the record.
    pub first: u64,
    /// Their number, at least 1.
    pub tokens: u64,
    /// The odds of the draw.
    pub odds: Odds,
}

/// The probability of a draw, as integers: JSON keeps them exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Odds {
    /// The weight of the chunk.
    pub weight: u64,
    /// The sum of the weights of all chunks of the buffer.
    pub total: u64,
}

impl Odds {
    /// The probability, 0 to 1.
    #[must_use]
    pub fn probability(self) -> f64 {
        if self.total == 0 { 0.0 } else { self.weight as f64 / self.total as f64 }
    }
}

/// Where a job's draws from one buffer go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawPlace {
    /// The number of the next draw.
    pub draw: u64,
    /// What is left of the last one, and comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<DrawRest>,
}

/// Where a job's batches go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Rows that the job was served: row k is replayed iff floor((k+1)r) > floor(kr).
    #[serde(default)]
    pub row: u64,
    /// Where its new text goes on.
    #[serde(default)]
    pub new_text: Cursor,
    /// Where its draws go on, by buffer; a buffer that is absent begins at draw 0.
    #[serde(default)]
    pub draws: BTreeMap<String, DrawPlace>,
}

/// The order of new text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The order of the store.
    #[default]
    Stream,
    /// A keyed permutation of all kept records: training without drift. It is a bound for comparisons, not a
    /// way to follow a stream; the store should be complete.
    Permuted,
}

/// Shares are integers in these parts of 1, so that the rows of a buffer are counted exactly.
pub const WHOLE: u64 = 1_000_000_000;

/// What may differ between the views of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Rows of a batch.
    pub rows: u32,
    /// The order of new text.
    pub order: Order,
    /// The share of new records to use, in billionths.
    pub keep: u64,
    /// The share of rows drawn from each buffer, in billionths: each above 0, together at most [`WHOLE`].
    pub mix: BTreeMap<String, u64>,
}

/// A buffer that a ticket draws from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawnBuffer {
    /// Its revision.
    pub revision: Revision,
    /// Digest of its policy with its settings and seed, 32 hexadecimal digits.
    pub policy: String,
}

/// Names one batch: evaluated against the store it gives the same bytes for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// [`WIRE_FORMAT`] of the program that issued it.
    pub format: u32,
    /// The job it was issued to.
    pub job: String,
    /// The optimiser step it feeds.
    pub step: Step,
    /// The first offset that the batch may not depend on.
    pub limit: Offset,
    /// The job's settings at this step.
    pub settings: Settings,
    /// The buffers of the mix.
    pub buffers: BTreeMap<String, DrawnBuffer>,
    /// Digest of everything in the config that reaches a batch and never changes in a job, 32 hexadecimal
    /// digits.
    pub config: String,
    /// The seed of the job's draws.
    pub seed: Seed,
    /// Where its rows, its new text and its draws begin.
    pub from: Position,
}

/// A ticket or batch that is not one.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not the JSON of a ticket.
    #[error("invalid ticket")]
    Ticket(#[source] serde_json::Error),
    /// A ticket or batch of another format.
    #[error("format {found} of the replay API is not {WIRE_FORMAT}, the one this program speaks")]
    Format {
        /// Its format.
        found: u32,
    },
    /// A batch that breaks a rule of its shape or content.
    #[error("batch of step {step} is malformed: {why}")]
    Batch {
        /// Its step where known.
        step: String,
        /// The rule it breaks.
        why: String,
    },
    /// Arrow refused its columns.
    #[error("cannot assemble a batch")]
    Arrow(#[from] arrow::error::ArrowError),
}

impl ProgramError for WireError {
    fn kind(&self) -> Kind {
        match self {
            Self::Ticket(_) | Self::Format { .. } | Self::Batch { .. } => Kind::Input,
            Self::Arrow(_) => Kind::Bug,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Format { .. } => {
                Some("run the same release of perennial-replay and perennial-train".into())
            }
            _ => None,
        }
    }
}

impl Ticket {
    /// Its bytes on the wire: compact JSON, keys in the struct's order.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Only maps with non-string keys or failing Serialize impls can fail; a ticket has neither.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a ticket from the wire.
    ///
    /// # Errors
    /// [`WireError::Ticket`] for anything but a ticket's JSON, [`WireError::Format`] for another format.
    pub fn from_json(json: &[u8]) -> Result<Self, WireError> {
        /// What the tickets of every format have.
        #[derive(Deserialize)]
        struct AnyTicket {
            format: u32,
        }
        // The format first: a ticket of another one may have other keys.
        let AnyTicket { format } = serde_json::from_slice(json).map_err(WireError::Ticket)?;
        if format != WIRE_FORMAT {
            return Err(WireError::Format { found: format });
        }
        serde_json::from_slice(json).map_err(WireError::Ticket)
    }
}

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

fn list_size(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

fn token_field(length: usize, name: &str, item: DataType) -> Field {
    let item = Arc::new(Field::new("item", item, false));
    Field::new(name, DataType::FixedSizeList(item, list_size(length)), false)
}

fn span_fields() -> Fields {
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
fn batch_schema(length: usize) -> SchemaRef {
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

/// One row of a batch on its way to becoming columns.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchRow {
    /// The row's number in the job.
    pub row: u64,
    /// The buffer it was drawn from; `None` for new text.
    pub buffer: Option<String>,
    /// T inputs.
    pub tokens: Vec<i32>,
    /// T targets.
    pub targets: Vec<i32>,
    /// T truths: whether the target counts.
    pub mask: Vec<bool>,
    /// Its pieces of records.
    pub spans: Vec<Span>,
}

impl Batch {
    /// The batch of these rows, each of `length` tokens.
    ///
    /// # Errors
    /// [`WireError::Batch`] where a row breaks a rule in the table above.
    pub fn from_rows(length: usize, rows: &[BatchRow]) -> Result<Self, WireError> {
        let is_whole = |row: &BatchRow| {
            [row.tokens.len(), row.targets.len(), row.mask.len()].iter().all(|cells| *cells == length)
        };
        if !rows.iter().all(is_whole) {
            return Err(malformed(
                "?",
                &format!("a row has other than {length} tokens, targets and mask bits"),
            ));
        }
        let list = |values: ArrayRef| -> Result<ArrayRef, WireError> {
            let item = Arc::new(Field::new("item", values.data_type().clone(), false));
            Ok(Arc::new(FixedSizeListArray::try_new(item, list_size(length), values, None)?))
        };
        let flat = |get: fn(&BatchRow) -> &[i32]| -> ArrayRef {
            Arc::new(Int32Array::from_iter_values(rows.iter().flat_map(|row| get(row).iter().copied())))
        };
        let mask = BooleanArray::from_iter(rows.iter().flat_map(|row| row.mask.iter().map(|bit| Some(*bit))));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|row| i64::try_from(row.row).unwrap_or(i64::MAX)),
            )),
            Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.buffer.is_some())))),
            Arc::new(rows.iter().map(|row| row.buffer.as_deref()).collect::<arrow::array::StringArray>()),
            list(flat(|row| &row.tokens))?,
            list(flat(|row| &row.targets))?,
            list(Arc::new(mask))?,
            span_column(rows)?,
        ];
        Self::new(RecordBatch::try_new(batch_schema(length), columns)?)
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

    /// xxh3-128 over the columns in schema order: "the same bytes" means the same digest.
    ///
    /// Of each column its name, then the array: its length as u64, then its cells. A number is
    /// little-endian, a truth one byte, an id its 16 bytes; a text is one byte that says whether it is
    /// there, its length as u64, its bytes. The lists of T are one array of all their values; a list of
    /// structs is, row by row, an array of structs, which is its fields' arrays one after the other.
    /// So it does not depend on how Arrow lays the buffers out.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut hasher = Xxh3::new();
        for (field, column) in self.columns.schema().fields().iter().zip(self.columns.columns()) {
            hasher.update(field.name().as_bytes());
            hash_array(&mut hasher, column);
        }
        hasher.digest128()
    }
}

fn malformed(step: &str, why: &str) -> WireError {
    WireError::Batch { step: step.to_owned(), why: why.to_owned() }
}

fn span_column(rows: &[BatchRow]) -> Result<ArrayRef, WireError> {
    let all: Vec<&Span> = rows.iter().flat_map(|row| &row.spans).collect();
    let long = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let short = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let ids = all.iter().map(|span| span.id.as_bytes());
    let id = if all.is_empty() {
        arrow::array::new_empty_array(&DataType::FixedSizeBinary(16))
    } else {
        Arc::new(arrow::array::FixedSizeBinaryArray::try_from_iter(ids)?) as ArrayRef
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(all.iter().map(|span| short(span.start)))),
        Arc::new(Int32Array::from_iter_values(all.iter().map(|span| short(span.tokens)))),
        Arc::new(arrow::array::StringArray::from_iter_values(all.iter().map(|span| span.shard.as_str()))),
        Arc::new(Int64Array::from_iter_values(all.iter().map(|span| span.seq.to_i64()))),
        Arc::new(Int64Array::from_iter_values(all.iter().map(|span| span.offset.to_i64()))),
        id,
        Arc::new(Int64Array::from_iter_values(all.iter().map(|span| long(span.first_token)))),
        Arc::new(BooleanArray::from_iter(all.iter().map(|span| Some(span.erased)))),
        Arc::new(Float64Array::from_iter_values(all.iter().map(|span| span.probability))),
    ];
    let spans = StructArray::try_new(span_fields(), columns, None)?;
    let lengths = rows.iter().map(|row| row.spans.len());
    let offsets = arrow::buffer::OffsetBuffer::<i32>::from_lengths(lengths);
    let item = Arc::new(Field::new("item", DataType::Struct(span_fields()), false));
    Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(spans), None)?))
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

/// Hashes values one after the other, many at a call: a call costs more than the bytes of one value.
fn hash_values<T: Copy, const N: usize>(hasher: &mut Xxh3, values: &[T], bytes: fn(T) -> [u8; N]) {
    let mut chunk: Vec<[u8; N]> = Vec::with_capacity(values.len().min(1024));
    for values in values.chunks(1024) {
        chunk.clear();
        chunk.extend(values.iter().map(|value| bytes(*value)));
        hasher.update(chunk.as_flattened());
    }
}

fn hash_array(hasher: &mut Xxh3, array: &ArrayRef) {
    hasher.update(&(array.len() as u64).to_le_bytes());
    match array.data_type() {
        DataType::Int32 => hash_values(hasher, array.as_primitive::<Int32Type>().values(), i32::to_le_bytes),
        DataType::Int64 => hash_values(hasher, array.as_primitive::<Int64Type>().values(), i64::to_le_bytes),
        DataType::Float64 => {
            hash_values(hasher, array.as_primitive::<Float64Type>().values(), f64::to_le_bytes);
        }
        DataType::Boolean => {
            let values: Vec<bool> = array.as_boolean().iter().map(|value| value == Some(true)).collect();
            hash_values(hasher, &values, |value| [u8::from(value)]);
        }
        DataType::Utf8 => {
            for value in array.as_string::<i32>() {
                hasher.update(&[u8::from(value.is_some())]);
                let bytes = value.unwrap_or_default().as_bytes();
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            }
        }
        DataType::FixedSizeBinary(_) => {
            array.as_fixed_size_binary().iter().flatten().for_each(|v| hasher.update(v))
        }
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            let size = usize::try_from(list.value_length()).unwrap_or(0);
            hash_array(hasher, &list.values().slice(list.offset() * size, list.len() * size));
        }
        DataType::List(_) => {
            (0..array.len()).for_each(|row| hash_array(hasher, &array.as_list::<i32>().value(row)))
        }
        DataType::Struct(_) => {
            array.as_struct().columns().iter().for_each(|column| hash_array(hasher, column))
        }
        // `Batch::new` admits no other type.
        _ => {}
    }
}

#[cfg(test)]
mod tests;
