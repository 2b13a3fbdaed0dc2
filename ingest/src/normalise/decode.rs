//! Decodes a reading into the fields of a document.
//!
//! One file a format: [`json`] a line of JSON, [`text`] plain text, [`columns`] a row of columns. What a
//! text must be is the same for all: UTF-8 with a visible character and without NUL.

use std::borrow::Cow;

use perennial_schemas::table::records::Reason;

use super::Refused;
use crate::block::{Place, Reading, Readings};
use crate::config::Format;

pub mod columns;
pub mod json;
pub mod text;

/// A decoded reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The text.
    pub text: Cow<'a, str>,
    /// When it happened: microseconds since 1970, UTC.
    pub event_time: Option<i64>,
    /// The source's own name for it.
    pub external_id: Option<Cow<'a, str>>,
    /// Where it was published.
    pub url: Option<Cow<'a, str>>,
    /// Where the source says it is from.
    pub origin: Option<Cow<'a, str>>,
    /// What else it says: a JSON object.
    pub meta: Option<Cow<'a, str>>,
}

/// Decodes readings; its memory is reused from one to the next.
#[derive(Debug, Default)]
pub struct Decoder<'a> {
    json: json::Decoder<'a>,
}

impl<'a> Decoder<'a> {
    /// The fields of a reading without a fault.
    ///
    /// # Errors
    /// Why it is no document.
    pub fn decode(
        &mut self,
        readings: &'a Readings,
        reading: &Reading,
        place: &'a Place,
    ) -> Result<Decoded<'a>, Refused> {
        if let Some((columns, row)) = readings.row(reading) {
            return columns::row(columns, row, &place.fields, readings.line);
        }
        match place.format {
            Format::Text => text::decode(readings.content(reading), place),
            Format::Jsonl | Format::Parquet => self.json.line(readings.content(reading), &place.fields),
        }
    }
}

/// The text that `bytes` are, those of a `what`.
fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, Refused> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        Refused::new(Reason::InvalidUtf8, format!("byte {at} of the {what}, 0x{byte:02X}, is not UTF-8"))
    })
}

/// Refuses an empty text, or one with a NUL character.
fn check_text(text: &str, what: &str) -> Result<(), Refused> {
    if let Some(at) = memchr::memchr(0, text.as_bytes()) {
        return Err(Refused::new(Reason::Nul, format!("byte {at} of {what} is NUL")));
    }
    if text.trim().is_empty() {
        let why = if text.is_empty() { "is empty" } else { "is white space only" };
        return Err(Refused::new(Reason::EmptyText, format!("{what} {why}")));
    }
    Ok(())
}

fn invalid_timestamp(key: &str, value: &str) -> Refused {
    let detail = format!("`{key}` is {}, no time in the years 0001 to 9999", shortened(value));
    Refused::new(Reason::InvalidTimestamp, detail)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("`{}...`", text.get(..end).unwrap_or_default()),
        None => format!("`{text}`"),
    }
}
