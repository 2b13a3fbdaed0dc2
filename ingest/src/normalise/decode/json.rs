//! Decodes a line of JSON into the fields of a document.
//!
//! Looked at in this order, the first that is wrong is the reason: bytes, JSON, object, text,
//! timestamp, the other fields. Of a key that occurs twice the last counts, as most readers of JSON
//! have it. Keys that no column is mapped to are kept: they become entries of `meta`, before the
//! entries of the source's own `meta`, which win over them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use perennial_schemas::table::records::Reason;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::time;
use super::{Decoded, Refused, check_text, invalid_timestamp, utf8};
use crate::config::Fields;

/// The deepest nesting that `meta` may have: readers of JSON refuse more.
const DEEPEST: usize = 100;

/// Decodes lines; its memory is reused from line to line.
#[derive(Debug, Default)]
pub struct Decoder<'a> {
    entries: Entries<'a>,
    inner: Entries<'a>,
}

type Entries<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

impl<'a> Decoder<'a> {
    /// The fields of a line, which has no line end.
    ///
    /// # Errors
    /// Why it is no document.
    pub fn line(&mut self, line: &'a [u8], fields: &Fields) -> Result<Decoded<'a>, Refused> {
        let line = utf8(line, "line")?;
        if !line.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
            return Err(not_an_object(line));
        }
        read_object(line, &mut self.entries).map_err(|error| invalid_json(line, line, &error))?;
        let text = text(line, self.last(&fields.text), &fields.text)?;
        let event_time =
            self.last(&fields.timestamp).map_or(Ok(None), |raw| timestamp(line, raw, &fields.timestamp))?;
        let external_id = match self.last(&fields.id) {
            Some(raw) if kind(raw) == Kind::Number => Some(Cow::Borrowed(raw.get())),
            raw => raw.map_or(Ok(None), |raw| string(line, raw, &fields.id))?,
        };
        let url = self.last(&fields.url).map_or(Ok(None), |raw| string(line, raw, &fields.url))?;
        let origin = self.last(&fields.origin).map_or(Ok(None), |raw| string(line, raw, &fields.origin))?;
        let meta = self.meta(line, fields)?;
        Ok(Decoded { text, event_time, external_id, url, origin, meta })
    }

    fn last(&self, key: &str) -> Option<&'a RawValue> {
        self.entries.iter().rev().find(|(name, _)| name == key).map(|(_, raw)| *raw)
    }

    fn meta(&mut self, line: &'a str, fields: &Fields) -> Result<Option<Cow<'a, str>>, Refused> {
        let own = self.last(&fields.meta).filter(|raw| kind(raw) != Kind::Null);
        if let Some(raw) = own.filter(|raw| kind(raw) != Kind::Object) {
            return Err(wrong_type(&fields.meta, raw, "an object"));
        }
        let mapped = fields.list();
        let mut others = self.entries.iter().filter(|(name, _)| !mapped.contains(&name.as_ref())).peekable();
        let meta = match (own, others.peek()) {
            (None, None) => return Ok(None),
            (Some(raw), None) => Cow::Borrowed(raw.get()),
            (own, Some(_)) => {
                self.inner.clear();
                if let Some(raw) = own {
                    read_object(raw.get(), &mut self.inner)
                        .map_err(|error| invalid_json(line, raw.get(), &error))?;
                }
                Cow::Owned(joined(others, &self.inner))
            }
        };
        check_meta(&meta, &fields.meta)?;
        Ok(Some(meta))
    }
}

/// `meta` that a text holds: a JSON object; `None` of `null`.
///
/// # Errors
/// Why it is not a document.
pub(super) fn object<'a>(text: &'a str, key: &str) -> Result<Option<&'a str>, Refused> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
        Refused::new(
            Reason::InvalidJson,
            format!("{}, near byte {} of `{key}`", said(&error), error.column()),
        )
    })?;
    match kind(raw) {
        Kind::Null => Ok(None),
        Kind::Object => {
            check_meta(raw.get(), key)?;
            Ok(Some(raw.get()))
        }
        _ => Err(wrong_type(key, raw, "an object")),
    }
}

/// An object of the entries of `outer` whose keys `inner` does not have, then those of `inner`.
fn joined<'e, 'a: 'e>(
    outer: impl Iterator<Item = &'e (Cow<'a, str>, &'a RawValue)>,
    inner: &'e [(Cow<'a, str>, &'a RawValue)],
) -> String {
    let taken: BTreeSet<&str> = inner.iter().map(|(key, _)| key.as_ref()).collect();
    let outer = outer.filter(|(name, _)| !taken.contains(name.as_ref()));
    let mut object = String::from("{");
    for (name, raw) in outer.chain(inner) {
        if object.len() > 1 {
            object.push(',');
        }
        // How JSON writes a string.
        object.push_str(&serde_json::Value::from(name.as_ref()).to_string());
        object.push(':');
        object.push_str(raw.get());
    }
    object.push('}');
    object
}

/// Refuses what a later reader of the column could not read.
pub(super) fn check_meta(meta: &str, key: &str) -> Result<(), Refused> {
    let mut depth = 0_usize;
    let mut deepest = 0;
    let mut in_string = false;
    let mut escaped = false;
    for byte in meta.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEEPEST {
        let detail = format!("`{key}` is nested {deepest} deep, more than {DEEPEST}");
        return Err(Refused::new(Reason::InvalidJson, detail));
    }
    // Values were passed over unread: an escape may be of no character, a number of no size that can be read.
    serde_json::from_str::<serde_json::Value>(meta).map(drop).map_err(|error| {
        let detail = format!("{} in `{key}` or a key without a column", said(&error));
        Refused::new(Reason::InvalidJson, detail)
    })
}

fn text<'a>(line: &str, raw: Option<&'a RawValue>, key: &str) -> Result<Cow<'a, str>, Refused> {
    let Some(raw) = raw else {
        return Err(Refused::new(Reason::MissingText, format!("there is no key `{key}`")));
    };
    if kind(raw) != Kind::String {
        return Err(wrong_type(key, raw, "a string"));
    }
    let text = unescape(line, raw)?;
    check_text(&text, &format!("`{key}`"))?;
    Ok(text)
}

fn string<'a>(line: &str, raw: &'a RawValue, key: &str) -> Result<Option<Cow<'a, str>>, Refused> {
    match kind(raw) {
        Kind::Null => Ok(None),
        Kind::String => unescape(line, raw).map(Some),
        _ => Err(wrong_type(key, raw, "a string")),
    }
}

fn timestamp(line: &str, raw: &RawValue, key: &str) -> Result<Option<i64>, Refused> {
    let time = match kind(raw) {
        Kind::Null => return Ok(None),
        Kind::String => time::of_text(&unescape(line, raw)?),
        Kind::Number => raw.get().parse().ok().and_then(time::of_number),
        _ => return Err(wrong_type(key, raw, "a string or a number")),
    };
    time.map(Some).ok_or_else(|| invalid_timestamp(key, raw.get()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Truth,
    Number,
    String,
    Array,
    Object,
}

/// What kind of value a raw value is, which is known to be valid.
fn kind(raw: &RawValue) -> Kind {
    match raw.get().bytes().next() {
        Some(b'n') => Kind::Null,
        Some(b't' | b'f') => Kind::Truth,
        Some(b'"') => Kind::String,
        Some(b'[') => Kind::Array,
        Some(b'{') => Kind::Object,
        _ => Kind::Number,
    }
}

const fn described(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "null",
        Kind::Truth => "true or false",
        Kind::Number => "a number",
        Kind::String => "a string",
        Kind::Array => "an array",
        Kind::Object => "an object",
    }
}

fn wrong_type(key: &str, raw: &RawValue, expected: &str) -> Refused {
    Refused::new(Reason::WrongType, format!("`{key}` is {}, not {expected}", described(kind(raw))))
}

fn not_an_object(line: &str) -> Refused {
    match serde_json::from_str::<&RawValue>(line) {
        Ok(raw) => {
            Refused::new(Reason::NotAnObject, format!("the line is {}, not an object", described(kind(raw))))
        }
        Err(error) => invalid_json(line, line, &error),
    }
}

/// What a parser said about `part`, which lies in `line`, with the byte of the line.
fn invalid_json(line: &str, part: &str, error: &serde_json::Error) -> Refused {
    let offset = (part.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
    let at = offset + error.column();
    Refused::new(Reason::InvalidJson, format!("{}, near byte {at} of the line", said(error)))
}

/// What a parser said, without the place.
fn said(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = message.strip_suffix(&place).unwrap_or(&message);
    // The parser's words for an escape like `\ud83d` without its other half.
    if what.contains("surrogate") || what == "unexpected end of hex escape" {
        return "a surrogate escape without its other half".to_owned();
    }
    what.to_owned()
}

fn unescape<'a>(line: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, Refused> {
    let inside = raw.get().get(1..raw.get().len().saturating_sub(1)).unwrap_or_default();
    if !inside.contains('\\') {
        return Ok(Cow::Borrowed(inside));
    }
    serde_json::from_str(raw.get()).map(Cow::Owned).map_err(|error| invalid_json(line, raw.get(), &error))
}

/// Reads the entries of an object into `entries`, values unread.
fn read_object<'a>(text: &'a str, entries: &mut Entries<'a>) -> Result<(), serde_json::Error> {
    entries.clear();
    let mut reader = serde_json::Deserializer::from_str(text);
    Collect(entries).deserialize(&mut reader)?;
    reader.end()
}

struct Collect<'e, 'a>(&'e mut Entries<'a>);

impl<'a> DeserializeSeed<'a> for Collect<'_, 'a> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Collect<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some((Key(name), raw)) = map.next_entry::<Key<'a>, &'a RawValue>()? {
            self.0.push((name, raw));
        }
        Ok(())
    }
}

/// A key, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests;
