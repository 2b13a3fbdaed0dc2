//! Decodes a row of columns: which columns of a file hold what, and what their values mean.
//!
//! | field | columns |
//! |---|---|
//! | text, url, origin | text |
//! | id | text, integers |
//! | timestamp | timestamps of any unit and zone, dates, and what JSON Lines have: text, numbers |
//! | meta | text that holds a JSON object; structs and maps; lists, as the one entry of an object |
//!
//! Text is `Utf8`, `LargeUtf8`, `Utf8View` or a dictionary of one. A column that is not there, or has
//! nulls only, is null in every row, except the text's.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch, new_empty_array};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};
use perennial_schemas::table::records::Reason;

use super::super::time;
use super::json::{check_meta, object};
use super::{Decoded, Refused, check_text, invalid_timestamp};
use crate::block::Columns;
use crate::config::Fields;

/// Column names that a message lists.
const LISTED: usize = 10;

static ENCODING: LazyLock<EncoderOptions> = LazyLock::new(EncoderOptions::default);

/// Which columns of a file hold what.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The file's schema, as it is to be read: text and bytes of columns that are used are views, so that a
    /// value of a dictionary is held once, however many rows have it.
    pub schema: SchemaRef,
    /// By field, in the order of [`Fields::list`]: its column in `schema`.
    columns: [Option<usize>; 6],
}

impl Shape {
    /// The shape of a file with this schema.
    ///
    /// # Errors
    /// `missing_text` where there is no column for the text, `wrong_type` where a column cannot hold what
    /// it is for: no row of the file is a document.
    pub fn of(schema: &Schema, fields: &Fields) -> Result<Self, Refused> {
        let names = fields.list();
        let mut columns = [None; 6];
        for ((slot, name), rule) in columns.iter_mut().zip(names).zip(RULES) {
            let Some((index, field)) = schema.column_with_name(name) else { continue };
            let kind = field.data_type();
            if (rule.fits)(kind) {
                *slot = Some(index);
            } else if *kind != DataType::Null || name == fields.text {
                let detail = format!("column `{name}` is {kind}, not {}", rule.expected);
                return Err(Refused::new(Reason::WrongType, detail));
            }
        }
        if columns.first().is_none_or(Option::is_none) {
            let all = schema.fields().iter().take(LISTED).map(|field| format!("`{}`", field.name()));
            let all = all.collect::<Vec<_>>().join(", ");
            let detail = format!("there is no column `{}` among {all}", fields.text);
            return Err(Refused::new(Reason::MissingText, detail));
        }
        let used = |index: usize| columns.contains(&Some(index));
        let read = schema.fields().iter().enumerate().map(|(index, field)| {
            if used(index) { held_in(field, Memory::Shared) } else { Arc::clone(field) }
        });
        let read: Vec<FieldRef> = read.collect();
        let schema = Arc::new(Schema::new_with_metadata(read, schema.metadata().clone()));
        Ok(Self { schema, columns })
    }

    /// The columns that are used, ascending.
    #[must_use]
    pub fn used(&self) -> Vec<usize> {
        let mut used: Vec<usize> = self.columns.iter().copied().flatten().collect();
        used.sort_unstable();
        used
    }

    /// The column of a field, of a batch of the columns that are used.
    fn column<'b>(&self, batch: &'b RecordBatch, field: usize) -> Option<&'b ArrayRef> {
        let index = (*self.columns.get(field)?)?;
        let before = self.columns.iter().flatten().filter(|other| **other < index).count();
        batch.columns().get(before)
    }

    /// How many bytes a row has in the columns that are used, counted until they are more than `most`.
    #[must_use]
    pub fn weight(&self, batch: &RecordBatch, row: usize, most: u64) -> u64 {
        let columns = (0..self.columns.len()).filter_map(|field| self.column(batch, field));
        columns.fold(0, |sum, column| sum + weight(column, row, most.saturating_sub(sum)))
    }

    /// The text of a row.
    #[must_use]
    pub fn text<'b>(&self, batch: &'b RecordBatch, row: usize) -> Option<&'b str> {
        let texts = self.column(batch, 0)?.as_string_view_opt()?;
        (row < texts.len() && texts.is_valid(row)).then(|| texts.value(row))
    }

    /// A batch of the columns that are used, in memory of its own.
    ///
    /// # Errors
    /// Where the batch is not of this shape.
    pub fn columns(&self, batch: &RecordBatch) -> Result<Columns, ArrowError> {
        let column = |field| {
            let column = self.column(batch, field);
            column.map(|column| cast(column, &held(column.data_type(), Memory::Own))).transpose()
        };
        let missing = || ArrowError::SchemaError("the text is not a column of text".to_owned());
        let text = column(0)?.ok_or_else(missing)?;
        Ok(Columns {
            text: text.as_string_opt::<i64>().ok_or_else(missing)?.clone(),
            id: column(1)?,
            timestamp: column(2)?,
            url: column(3)?,
            origin: column(4)?,
            meta: column(5)?,
        })
    }
}

/// What columns can hold a field.
struct Rule {
    fits: fn(&DataType) -> bool,
    expected: &'static str,
}

const TEXT: Rule = Rule { fits: is_text, expected: "text" };

/// In the order of [`Fields::list`].
const RULES: [Rule; 6] = [
    TEXT,
    Rule { fits: |kind| is_text(kind) || kind.is_integer(), expected: "text or an integer" },
    Rule { fits: is_time, expected: "a time, text or a number" },
    TEXT,
    TEXT,
    Rule { fits: is_meta, expected: "a struct, map or list that JSON can hold, or text" },
];

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

fn is_time(kind: &DataType) -> bool {
    let time = matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    time || is_text(kind) || kind.is_integer() || matches!(kind, DataType::Float32 | DataType::Float64)
}

fn is_meta(kind: &DataType) -> bool {
    if !matches!(
        kind,
        DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(..)
            | DataType::Struct(_)
            | DataType::Map(..)
    ) {
        return is_text(kind);
    }
    if !is_counted(kind) {
        return false;
    }
    let empty = new_empty_array(&held(kind, Memory::Own));
    let field = Arc::new(Field::new("meta", empty.data_type().clone(), true));
    make_encoder(&field, &empty, &ENCODING).is_ok()
}

/// Whether [`weight`] knows how large the values of a type are: what it does not count has no bound.
fn is_counted(kind: &DataType) -> bool {
    match kind {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => is_counted(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_counted(field.data_type())),
        DataType::Dictionary(_, value) => value.is_primitive() || is_text(value),
        DataType::Null
        | DataType::Boolean
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => true,
        kind => kind.is_primitive() || is_text(kind),
    }
}

/// Where text and bytes of a column lie.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// In the pages, and the column has views of them.
    Shared,
    /// In the column.
    Own,
}

/// The type with every type of text and of bytes in it replaced by that of this memory.
fn held(kind: &DataType, memory: Memory) -> DataType {
    let inner = |field: &FieldRef| held_in(field, memory);
    match (kind, memory) {
        (kind, Memory::Shared) if is_text(kind) => DataType::Utf8View,
        (kind, Memory::Own) if is_text(kind) => DataType::LargeUtf8,
        (DataType::Binary | DataType::LargeBinary | DataType::BinaryView, Memory::Shared) => {
            DataType::BinaryView
        }
        (DataType::Binary | DataType::LargeBinary | DataType::BinaryView, Memory::Own) => {
            DataType::LargeBinary
        }
        (DataType::List(item), _) => DataType::List(inner(item)),
        (DataType::LargeList(item), _) => DataType::LargeList(inner(item)),
        (DataType::FixedSizeList(item, size), _) => DataType::FixedSizeList(inner(item), *size),
        (DataType::Struct(fields), _) => DataType::Struct(fields.iter().map(inner).collect()),
        (DataType::Map(entries, sorted), _) => DataType::Map(inner(entries), *sorted),
        (other, _) => other.clone(),
    }
}

fn held_in(field: &FieldRef, memory: Memory) -> FieldRef {
    let kind = held(field.data_type(), memory);
    if kind == *field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(field.as_ref().clone().with_data_type(kind))
}

/// How many bytes a value of a column in shared memory has, about, as JSON: of bytes two digits each. They are
/// counted until they are more than `most`.
fn weight(array: &dyn Array, row: usize, most: u64) -> u64 {
    const SCALAR: u64 = 8;
    if row >= array.len() || array.is_null(row) {
        return 1;
    }
    let items = |values: &dyn Array, from: usize, to: usize| {
        let mut sum = 1;
        for item in from..to {
            sum += weight(values, item, most.saturating_sub(sum));
            if sum > most {
                break;
            }
        }
        sum
    };
    match array.data_type() {
        DataType::Utf8View => array.as_string_view().value(row).len() as u64,
        DataType::BinaryView => 2 * array.as_binary_view().value(row).len() as u64,
        DataType::FixedSizeBinary(size) => 2 * u64::try_from(*size).unwrap_or(SCALAR),
        DataType::List(_) => {
            let value = array.as_list::<i32>().value(row);
            items(&value, 0, value.len())
        }
        DataType::LargeList(_) => {
            let value = array.as_list::<i64>().value(row);
            items(&value, 0, value.len())
        }
        DataType::FixedSizeList(..) => {
            let value = array.as_fixed_size_list().value(row);
            items(&value, 0, value.len())
        }
        DataType::Map(..) => {
            let value = array.as_map().value(row);
            items(&value, 0, value.len())
        }
        // The names are written with every value.
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            columns.fold(1, |sum, (field, column)| {
                let name = if column.is_valid(row) { field.name().len() as u64 } else { 0 };
                sum + name + weight(column, row, most.saturating_sub(sum))
            })
        }
        _ => SCALAR,
    }
}

/// The columns of a file and their types, as a JSON object.
#[must_use]
pub fn described(schema: &Schema) -> String {
    let entry = |field: &FieldRef| (field.name().clone(), field.data_type().to_string().into());
    serde_json::Value::Object(schema.fields().iter().map(entry).collect()).to_string()
}

/// The fields of a row, whose `meta` has at most `most` bytes.
///
/// # Errors
/// Why it is no document.
pub fn row<'a>(columns: &'a Columns, row: usize, fields: &Fields, most: u64) -> Result<Decoded<'a>, Refused> {
    let Some(text) = columns.text(row) else {
        return Err(Refused::new(Reason::WrongType, format!("`{}` is null, not a string", fields.text)));
    };
    check_text(text, &format!("`{}`", fields.text))?;
    let event_time = value(columns.timestamp.as_ref(), row)
        .map_or(Ok(None), |column| timestamp(column, row, &fields.timestamp))?;
    let external_id = value(columns.id.as_ref(), row).and_then(|column| match string(column, row) {
        Some(id) => Some(Cow::Borrowed(id)),
        None => integer(column, row).map(|id| Cow::Owned(id.to_string())),
    });
    let plain = |column: &'a Option<ArrayRef>| {
        value(column.as_ref(), row).and_then(|column| string(column, row)).map(Cow::Borrowed)
    };
    let meta =
        value(columns.meta.as_ref(), row).map_or(Ok(None), |column| meta(column, row, &fields.meta, most))?;
    Ok(Decoded {
        text: Cow::Borrowed(text),
        event_time,
        external_id,
        url: plain(&columns.url),
        origin: plain(&columns.origin),
        meta,
    })
}

/// The fields of a row as a JSON object, the text last.
#[must_use]
pub fn json(columns: &Columns, row: usize, fields: &Fields) -> Vec<u8> {
    let text: ArrayRef = Arc::new(columns.text.clone());
    let others = [&columns.id, &columns.timestamp, &columns.url, &columns.origin, &columns.meta];
    let columns = others.map(Option::as_ref).into_iter().chain(std::iter::once(Some(&text)));
    let names = fields.list();
    let names = names.into_iter().cycle().skip(1);
    let mut json = b"{".to_vec();
    for (column, key) in columns.zip(names) {
        let Some(column) = column else { continue };
        if json.len() > 1 {
            json.push(b',');
        }
        json.extend_from_slice(serde_json::Value::from(key).to_string().as_bytes());
        json.push(b':');
        if value(Some(column), row).is_none() || encode(column, row, &mut json).is_err() {
            json.extend_from_slice(b"null");
        }
    }
    json.push(b'}');
    json
}

/// The column, where it has a value in this row.
fn value(column: Option<&ArrayRef>, row: usize) -> Option<&ArrayRef> {
    column.filter(|column| row < column.len() && column.is_valid(row))
}

fn encode(column: &ArrayRef, row: usize, into: &mut Vec<u8>) -> Result<(), ArrowError> {
    let field = Arc::new(Field::new("value", column.data_type().clone(), true));
    make_encoder(&field, column, &ENCODING)?.encode(row, into);
    Ok(())
}

fn string(column: &ArrayRef, row: usize) -> Option<&str> {
    column.as_string_opt::<i64>().map(|texts| texts.value(row))
}

fn integer(column: &ArrayRef, row: usize) -> Option<i128> {
    macro_rules! integer {
        ($($kind:ident => $values:ty),*) => {
            match column.data_type() {
                $(DataType::$kind => Some(i128::from(column.as_primitive::<$values>().value(row))),)*
                _ => None,
            }
        };
    }
    integer!(Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type,
        UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type, UInt64 => UInt64Type)
}

fn timestamp(column: &ArrayRef, row: usize, key: &str) -> Result<Option<i64>, Refused> {
    if let Some(text) = string(column, row) {
        return time::of_text(text).map(Some).ok_or_else(|| invalid_timestamp(key, text));
    }
    let (time, value) = match column.data_type() {
        DataType::Timestamp(unit, _) => {
            let (value, micros) = instant(column, row, *unit);
            (micros.and_then(time::of_micros), format!("{value} {unit}"))
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row);
            (i64::from(days).checked_mul(86_400_000_000).and_then(time::of_micros), format!("day {days}"))
        }
        DataType::Date64 => {
            let millis = column.as_primitive::<Date64Type>().value(row);
            (millis.checked_mul(1_000).and_then(time::of_micros), format!("{millis} ms"))
        }
        DataType::Float32 => {
            let number = column.as_primitive::<Float32Type>().value(row);
            (time::of_number(f64::from(number)), number.to_string())
        }
        DataType::Float64 => {
            let number = column.as_primitive::<Float64Type>().value(row);
            (time::of_number(number), number.to_string())
        }
        _ => {
            let number = integer(column, row);
            (number.and_then(|number| time::of_number(number as f64)), number.unwrap_or_default().to_string())
        }
    };
    time.map(Some).ok_or_else(|| invalid_timestamp(key, &value))
}

/// A timestamp as it is stored, and in microseconds, cut off.
fn instant(column: &ArrayRef, row: usize, unit: TimeUnit) -> (i64, Option<i64>) {
    match unit {
        TimeUnit::Second => {
            let value = column.as_primitive::<TimestampSecondType>().value(row);
            (value, value.checked_mul(1_000_000))
        }
        TimeUnit::Millisecond => {
            let value = column.as_primitive::<TimestampMillisecondType>().value(row);
            (value, value.checked_mul(1_000))
        }
        TimeUnit::Microsecond => {
            let value = column.as_primitive::<TimestampMicrosecondType>().value(row);
            (value, Some(value))
        }
        TimeUnit::Nanosecond => {
            let value = column.as_primitive::<TimestampNanosecondType>().value(row);
            (value, Some(value.div_euclid(1_000)))
        }
    }
}

fn meta<'a>(column: &'a ArrayRef, row: usize, key: &str, most: u64) -> Result<Option<Cow<'a, str>>, Refused> {
    if let Some(text) = string(column, row) {
        return Ok(object(text, key)?.map(Cow::Borrowed));
    }
    let is_object = matches!(column.data_type(), DataType::Struct(_) | DataType::Map(..));
    let mut json = Vec::new();
    if !is_object {
        json.extend_from_slice(format!("{{{}:", serde_json::Value::from(key)).as_bytes());
    }
    let no_json = |why: String| Refused::new(Reason::WrongType, format!("`{key}` cannot be JSON: {why}"));
    encode(column, row, &mut json).map_err(|error| no_json(error.to_string()))?;
    if !is_object {
        json.push(b'}');
    }
    if json.len() as u64 > most {
        let detail = format!("`{key}` has {} bytes as JSON, more than {most}", json.len());
        return Err(Refused::new(Reason::TooLarge, detail));
    }
    let json = String::from_utf8(json).map_err(|error| no_json(error.to_string()))?;
    check_meta(&json, key)?;
    Ok(Some(Cow::Owned(json)))
}

#[cfg(test)]
mod tests;
