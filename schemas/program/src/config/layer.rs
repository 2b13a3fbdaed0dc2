//! Turns each source into a layer, values with their origins: the file, the environment's variables, the
//! flags.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::problem::{Problem, is_within};
use super::schema::{Kind, Shape};
use super::show::join;

/// The largest file read, in bytes.
const LARGEST: u64 = 1 << 20;
/// The most keys in one dotted key, and the most tables and arrays within each other: freeing them recurses.
const LONGEST_KEY: usize = 16;
const DEEPEST: usize = 32;
/// The most syntax errors reported of one file: the parser's guesses get worse after each.
const MOST_ERRORS: usize = 20;

/// Where an effective value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A line of the configuration file.
    File {
        /// The path as it was given.
        path: Arc<str>,
        /// The line of the key, from 1; 0 for the file as a whole.
        line: usize,
    },
    /// An environment variable, by its name.
    Env(Arc<str>),
    /// A command-line flag, by its name.
    Flag(Arc<str>),
    /// Nowhere: the program's own default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Where the value of each dotted key was written.
pub(super) type Origins = BTreeMap<String, Origin>;

/// The values of a source, or of several that were merged. A value that was refused is null.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub value: Value,
    pub origins: Origins,
}

impl Layer {
    pub(super) fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Default)
    }

    /// Merges a stronger layer into this one: tables key by key; any other value replaces what was there.
    pub(super) fn overlay(&mut self, over: Self) {
        let mut replaced = Vec::new();
        merge(&mut self.value, over.value, "", &mut replaced);
        self.origins.retain(|name, _| !replaced.iter().any(|other| is_within(name, other)));
        for (name, origin) in over.origins {
            self.origins.entry(name).or_insert(origin);
        }
    }
}

/// Lays `over` on `under`, and lists the keys whose value it replaced.
fn merge(under: &mut Value, over: Value, path: &str, replaced: &mut Vec<String>) {
    match (under, over) {
        (_, Value::Null) => {}
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(&key).or_insert(Value::Null), value, &join(path, &key), replaced);
            }
        }
        (under, over) => {
            replaced.push(path.to_owned());
            *under = over;
        }
    }
}

/// Reads the file at `path`; problems name it as it was given.
///
/// # Errors
/// Every reason why it cannot be read, with line and column where there is one.
pub(super) fn read_file(path: &Path) -> Result<Layer, Vec<Problem>> {
    let name: Arc<str> = path.display().to_string().into();
    let refuse = |why: String| vec![Problem::of_file(&name, None, why)];
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(refuse(match error.kind() {
            ErrorKind::NotFound => "no such file".to_owned(),
            ErrorKind::IsADirectory => "is a folder, not a file".to_owned(),
            ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
            _ => format!("cannot be read: {error}"),
        }));
    }
    if bytes.len() as u64 > LARGEST {
        return Err(refuse("is larger than 1MiB: this cannot be a configuration file".to_owned()));
    }
    parse_file(&name, &bytes)
}

/// Reads a file's bytes as TOML.
fn parse_file(name: &Arc<str>, bytes: &[u8]) -> Result<Layer, Vec<Problem>> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let refuse = |offset: usize, why: &str| {
        let (line, column) = position(bytes, offset);
        Problem::of_file(name, Some((line, Some(column))), why.to_owned())
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(vec![refuse(error.valid_up_to(), "is not UTF-8")]),
    };
    if let Some(offset) = too_deep(text) {
        return Err(vec![refuse(offset, "is nested too deeply")]);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors.iter().take(MOST_ERRORS) {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let problem = refuse(offset, &syntax(error, text));
        if problems.iter().all(|other| other.origin != problem.origin) {
            problems.push(problem);
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let ends: Vec<usize> = text.match_indices('\n').map(|(end, _)| end).collect();
    let line = |offset: usize| {
        let line = ends.partition_point(|end| *end < offset) + 1;
        Origin::File { path: name.clone(), line }
    };
    let mut origins = Origins::new();
    match table(document.into_inner(), "", &line, &mut origins, 1) {
        Ok(entries) => Ok(Layer { value: Value::Object(entries), origins }),
        Err((origin, why)) => Err(vec![Problem::new(origin, "", why)]),
    }
}

/// The parser's message, with the key for a duplicate one.
fn syntax(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().trim_end().replace('\n', "; ");
    let word = error.span().and_then(|span| text.get(span)).unwrap_or_default();
    match message.as_str() {
        "duplicate key" if !word.is_empty() => format!("duplicate key `{word}`"),
        _ => format!("is not TOML: {message}"),
    }
}

/// Line and column of `offset`, both from 1; the column in characters.
fn position(bytes: &[u8], offset: usize) -> (usize, usize) {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count() + 1;
    (before.iter().filter(|byte| **byte == b'\n').count() + 1, column)
}

/// The offset at which `text` nests deeper than the stack is known to bear: the parser itself allows 80
/// brackets with 80 dots in each.
fn too_deep(text: &str) -> Option<usize> {
    let (mut brackets, mut dots) = (0_usize, 0_usize);
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => {
                (brackets, dots) = (brackets + 1, 0)
            }
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                (brackets, dots) = (brackets.saturating_sub(1), 0);
            }
            TokenKind::Equals | TokenKind::Comma | TokenKind::Newline => dots = 0,
            TokenKind::Dot => dots += 1,
            _ => {}
        }
        if brackets > DEEPEST || dots >= LONGEST_KEY {
            return Some(token.span().start());
        }
    }
    None
}

type Refusal = (Origin, String);

fn table(
    entries: DeTable<'_>,
    path: &str,
    at: &dyn Fn(usize) -> Origin,
    origins: &mut Origins,
    depth: usize,
) -> Result<Map<String, Value>, Refusal> {
    let mut values = Map::new();
    for (key, value) in entries {
        let path = join(path, key.get_ref());
        origins.insert(path.clone(), at(key.span().start));
        let value = convert(value.into_inner(), &path, at, origins, depth)?;
        values.insert(key.into_inner().into_owned(), value);
    }
    Ok(values)
}

/// `value`, which stands at `path`, with the origins of all within it.
fn convert(
    value: DeValue<'_>,
    path: &str,
    at: &dyn Fn(usize) -> Origin,
    origins: &mut Origins,
    depth: usize,
) -> Result<Value, Refusal> {
    let refuse = |why: String| Err((origins.get(path).cloned().unwrap_or(Origin::Default), why));
    if depth > DEEPEST {
        return refuse("is nested too deeply".to_owned());
    }
    let number = |number: Option<Number>, text: &dyn fmt::Display| match number {
        Some(number) => Ok(Value::Number(number)),
        None => refuse(format!("number `{text}` is out of range")),
    };
    match value {
        DeValue::String(text) => Ok(Value::String(text.into_owned())),
        DeValue::Datetime(time) => Ok(Value::String(time.to_string())),
        DeValue::Boolean(value) => Ok(Value::Bool(value)),
        DeValue::Float(value) => number(value.as_str().parse().ok().and_then(Number::from_f64), &value),
        DeValue::Integer(value) => {
            let whole = i128::from_str_radix(value.as_str(), value.radix()).ok();
            number(whole.and_then(Number::from_i128), &value)
        }
        DeValue::Array(items) => {
            let mut values = Vec::new();
            for (index, item) in items.into_iter().enumerate() {
                let path = format!("{path}[{index}]");
                origins.insert(path.clone(), at(item.span().start));
                values.push(convert(item.into_inner(), &path, at, origins, depth + 1)?);
            }
            Ok(Value::Array(values))
        }
        DeValue::Table(entries) => table(entries, path, at, origins, depth + 1).map(Value::Object),
    }
}

/// A layer in which `text` stands at the end of `keys`: as TOML where that fits the type, else as a string.
fn set(keys: &[String], text: &str, origin: &Origin, shape: &Shape) -> Layer {
    let mut origins = Origins::new();
    let path = keys.iter().fold(String::new(), |path, key| {
        let path = join(&path, key);
        origins.insert(path.clone(), origin.clone());
        path
    });
    let end = keys.iter().try_fold(shape, |shape, key| shape.field(key));
    let is_text = end.is_some_and(|shape| matches!(shape.kind, Kind::Text | Kind::Words(_)));
    let value = if is_text && !text.starts_with(['"', '\'']) || too_deep(text).is_some() {
        None
    } else {
        let value = DeValue::parse(text.trim()).ok();
        value.and_then(|value| convert(value.into_inner(), &path, &|_| origin.clone(), &mut origins, 1).ok())
    };
    let value = value.unwrap_or_else(|| Value::String(text.to_owned()));
    let table = |inner, key: &String| Value::Object(Map::from_iter([(key.clone(), inner)]));
    Layer { value: keys.iter().rev().fold(value, table), origins }
}

/// The prefix of a program's variables, without the `__` that follows it.
pub(super) fn env_prefix(program: &str) -> String {
    format!("PERENNIAL_{}", upper(program))
}

fn upper(key: &str) -> String {
    key.to_uppercase().replace('-', "_")
}

/// The variable that sets the dotted key `name`; `None` for a key within an array, and for an odd one.
pub(super) fn env_name(prefix: &str, name: &str) -> Option<String> {
    let keys = dotted_key(name)?;
    Some(keys.iter().fold(prefix.to_owned(), |name, key| format!("{name}__{}", upper(key))))
}

/// The layer of one environment variable; `None` when its name is not this program's.
///
/// Names are matched to the type's keys; where the user chooses names, to those that weaker layers
/// hold (`under`), else taken in lower case.
pub(super) fn env_layer(
    prefix: &str,
    name: &str,
    value: &str,
    shape: &Shape,
    under: &Value,
) -> Option<Result<Layer, Vec<Problem>>> {
    let origin = Origin::Env(name.into());
    let refuse = |why: &str, suggestions| {
        Some(Err(vec![Problem { suggestions, ..Problem::new(origin.clone(), "", why.to_owned()) }]))
    };
    let rest = name.strip_prefix(prefix)?;
    let Some(rest) = rest.strip_prefix("__") else {
        // `PERENNIAL_INGEST_STORE__URL` would be ignored in silence: report it where it means a key.
        let keys = keys_of(rest.strip_prefix('_')?, shape, under);
        let end = keys.iter().try_fold(shape, |shape, key| match shape.kind {
            Kind::Struct(_) => shape.field(key),
            _ => None,
        });
        let meant = keys.iter().fold(prefix.to_owned(), |name, key| format!("{name}__{}", upper(key)));
        return match end {
            Some(end) if !end.is_table() => {
                refuse("is not read: two `_` follow the program's name", vec![meant])
            }
            _ => None,
        };
    };
    if rest.split("__").any(str::is_empty) {
        return refuse("has an empty key in its name", Vec::new());
    }
    if rest != rest.to_uppercase() {
        let name = format!("{prefix}__{}", rest.to_uppercase());
        return refuse("is not read: names are in upper case", vec![name]);
    }
    let keys = keys_of(rest, shape, under);
    if keys.len() > LONGEST_KEY {
        return refuse("is nested too deeply", Vec::new());
    }
    Some(Ok(set(&keys, value, &origin, shape)))
}

/// The keys that the segments of a variable's name mean.
fn keys_of(segments: &str, shape: &Shape, under: &Value) -> Vec<String> {
    let (mut shape, mut under) = (Some(shape), Some(under));
    let mut keys = Vec::new();
    for segment in segments.split("__") {
        let lower = segment.to_lowercase();
        let held = under.and_then(Value::as_object);
        let same = |key: &&String| upper(key) == segment;
        let key = match shape.map(|shape| &shape.kind) {
            Some(Kind::Struct(fields)) => fields.iter().map(|(field, _)| field).find(same),
            _ => held
                .and_then(|held| held.keys().find(|key| **key == lower).or_else(|| held.keys().find(same))),
        };
        let key = key.cloned().unwrap_or(lower);
        shape = shape.and_then(|shape| shape.field(&key));
        under = held.and_then(|held| held.get(&key));
        keys.push(key);
    }
    keys
}

/// The keys of a dotted key; `None` when it is not one.
pub(super) fn dotted_key(text: &str) -> Option<Vec<String>> {
    let line = format!("{text} = 0");
    if text.contains('\n') || too_deep(&line).is_some() {
        return None;
    }
    let mut tables = Some(DeTable::parse(&line).ok()?.into_inner());
    let mut keys = Vec::new();
    while let Some(entries) = tables {
        let (key, value) = entries.into_iter().next()?;
        keys.push(key.into_inner().into_owned());
        tables = match value.into_inner() {
            DeValue::Table(entries) => Some(entries),
            _ => None,
        };
    }
    Some(keys)
}

/// The layer of one flag that sets the dotted `key`.
pub(super) fn flag_layer(flag: &str, key: &str, value: &str, shape: &Shape) -> Result<Layer, Vec<Problem>> {
    let origin = Origin::Flag(flag.into());
    match dotted_key(key) {
        Some(keys) => Ok(set(&keys, value, &origin, shape)),
        None => Err(vec![Problem::new(origin, key, format!("`{key}` is not a dotted key"))]),
    }
}

/// The layer of one flag of the form `section.key=value`; blanks around both count only in quotes.
pub(super) fn assign_layer(flag: &str, text: &str, shape: &Shape) -> Result<Layer, Vec<Problem>> {
    // The first `=` that is not within quotes.
    let mut ends = text.match_indices('=').filter_map(|(at, _)| Some((text.get(..at)?, text.get(at + 1..)?)));
    match ends.find(|(key, _)| dotted_key(key).is_some()) {
        Some((key, value)) => flag_layer(flag, key, value.trim(), shape),
        None => {
            let why =
                format!("`{text}` is not of the form `section.key=value`; an array is given as a whole");
            Err(vec![Problem::new(Origin::Flag(flag.into()), "", why)])
        }
    }
}
