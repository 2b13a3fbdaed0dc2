//! Turns each source into a tree: the file, the environment's variables, the flags.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::fields::Shape;
use super::problem::Problem;
use super::tree::{Node, Origin, Step, Value, parse_dotted};

/// The largest file read, in bytes.
const LARGEST: u64 = 1 << 20;
/// The most keys in one dotted key, and the most brackets open at once: the parser's stack is finite.
const LONGEST_KEY: usize = 16;
const MOST_BRACKETS: usize = 32;
/// The most tables and arrays within each other.
const DEEPEST: usize = 32;
/// The most syntax errors told of one file: the parser's guesses get worse after each.
const MOST_ERRORS: usize = 20;

/// A source as a tree, or all that keeps it from being one.
pub(super) type Layer = Result<Node, Vec<Problem>>;

/// Reads the file at `path`; problems name it as it was given.
///
/// # Errors
/// Every reason why it cannot be read, with line and column where there is one.
pub(super) fn read_file(path: &Path) -> Layer {
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
pub(super) fn parse_file(name: &Arc<str>, bytes: &[u8]) -> Layer {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let lines = Lines::of(bytes);
    let refuse = |offset: usize, why: &str| {
        let (line, column) = lines.position(bytes, offset);
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
    for error in errors {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let problem = refuse(offset, &syntax(&error, text));
        if problems.iter().all(|told| told.origin != problem.origin) {
            problems.push(problem);
        }
        if problems.len() == MOST_ERRORS {
            break;
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let at = |offset: usize| Origin::File { path: name.clone(), line: lines.position(bytes, offset).0 };
    let root = Node { at: Origin::Default, value: Value::Table(BTreeMap::new()) };
    let entries = table(document.into_inner(), &at, 1);
    entries
        .map(|entries| Node { value: Value::Table(entries), ..root })
        .map_err(|(origin, why)| vec![Problem { origin: Some(origin), ..Problem::of_file(name, None, why) }])
}

/// The parser's message in the house's form, with the key for a duplicate one.
fn syntax(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().trim_end().replace('\n', "; ");
    let word = error.span().and_then(|span| text.get(span)).unwrap_or_default();
    match message.as_str() {
        "duplicate key" if !word.is_empty() => format!("duplicate key `{word}`"),
        _ => format!("is not TOML: {message}"),
    }
}

/// Where each line of a text begins.
struct Lines(Vec<usize>);

impl Lines {
    fn of(bytes: &[u8]) -> Self {
        let after = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(after).collect())
    }

    /// Line and column of `offset`, both from 1; the column in characters.
    fn position(&self, bytes: &[u8], offset: usize) -> (usize, usize) {
        let line = self.0.partition_point(|start| *start <= offset);
        let start = self.0.get(line - 1).copied().unwrap_or(0);
        let before = bytes.get(start..offset).unwrap_or_default();
        (line, String::from_utf8_lossy(before).chars().count() + 1)
    }
}

/// The offset at which `text` nests deeper than the parser's stack is known to bear: a kilobyte of
/// dots makes as many tables within each other, and freeing them recurses.
fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut brackets, mut dots, mut at) = (0_usize, 0_usize, 0_usize);
    while let Some(byte) = bytes.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        match byte {
            b'#' => at += rest.iter().take_while(|byte| **byte != b'\n').count(),
            b'"' | b'\'' => at += string_length(rest, *byte) - 1,
            b'[' | b'{' => (brackets, dots) = (brackets + 1, 0),
            b']' | b'}' => (brackets, dots) = (brackets.saturating_sub(1), 0),
            b'=' | b',' | b'\n' => dots = 0,
            b'.' => dots += 1,
            _ => {}
        }
        if brackets > MOST_BRACKETS || dots >= LONGEST_KEY {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// The length in bytes of the string that begins `rest`, quotes included; to the end of the line
/// when it is not closed there, to the end of the text when it has three quotes.
fn string_length(rest: &[u8], quote: u8) -> usize {
    let triple = [quote; 3];
    let long = rest.starts_with(&triple);
    let mut at = if long { 3 } else { 1 };
    while let Some(byte) = rest.get(at) {
        let ends =
            if long { rest.get(at..).is_some_and(|rest| rest.starts_with(&triple)) } else { *byte == quote };
        if ends {
            return at + if long { 3 } else { 1 };
        }
        if !long && *byte == b'\n' {
            return at;
        }
        at += if *byte == b'\\' && quote == b'"' { 2 } else { 1 };
    }
    rest.len()
}

type Refusal = (Origin, String);

fn table(
    entries: DeTable<'_>,
    at: &dyn Fn(usize) -> Origin,
    depth: usize,
) -> Result<BTreeMap<String, Node>, Refusal> {
    let mut nodes = BTreeMap::new();
    for (key, value) in entries {
        let origin = at(key.span().start);
        let value = convert(value.into_inner(), &origin, at, depth)?;
        nodes.insert(key.into_inner().into_owned(), Node { at: origin, value });
    }
    Ok(nodes)
}

/// `value`, whose key stands at `origin`, with the origins of all within it.
fn convert(
    value: DeValue<'_>,
    origin: &Origin,
    at: &dyn Fn(usize) -> Origin,
    depth: usize,
) -> Result<Value, Refusal> {
    if depth > DEEPEST {
        return Err((origin.clone(), "is nested too deeply".to_owned()));
    }
    Ok(match value {
        DeValue::String(text) => Value::Str(text.into_owned()),
        DeValue::Datetime(time) => Value::Str(time.to_string()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Float(value) => match value.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() || value.as_str().contains("inf") || number.is_nan() => {
                Value::Float(number)
            }
            _ => return Err((origin.clone(), format!("number `{value}` is out of range"))),
        },
        DeValue::Integer(value) => {
            let number = i128::from_str_radix(value.as_str(), value.radix()).ok();
            let range = i128::from(i64::MIN)..=i128::from(u64::MAX);
            match number.filter(|number| range.contains(number)) {
                Some(number) => Value::Int(number),
                None => return Err((origin.clone(), format!("number `{value}` is out of range"))),
            }
        }
        DeValue::Array(items) => {
            let mut nodes = Vec::new();
            for item in items {
                let origin = at(item.span().start);
                let value = convert(item.into_inner(), &origin, at, depth + 1)?;
                nodes.push(Node { at: origin, value });
            }
            Value::Array(nodes)
        }
        DeValue::Table(entries) => Value::Table(table(entries, at, depth + 1)?),
    })
}

/// `text` as a TOML value that stands at `origin`; `None` when it is not one.
pub(super) fn toml_value(text: &str, origin: &Origin) -> Option<Node> {
    if text.len() as u64 > LARGEST || too_deep(text).is_some() {
        return None;
    }
    let value = DeValue::parse(text.trim()).ok()?.into_inner();
    let value = convert(value, origin, &|_| origin.clone(), 1).ok()?;
    Some(Node { at: origin.clone(), value })
}

/// The prefix of a program's variables, without the `__` that follows it.
pub(super) fn env_prefix(program: &str) -> String {
    format!("PERENNIAL_{}", upper(program))
}

fn upper(key: &str) -> String {
    key.to_uppercase().replace('-', "_")
}

/// The variable that sets the key at `path`; `None` for a key within an array.
pub(super) fn env_name(prefix: &str, path: &[Step]) -> Option<String> {
    path.iter().try_fold(prefix.to_owned(), |name, step| match step {
        Step::Key(key) => Some(format!("{name}__{}", upper(key))),
        Step::Index(_) => None,
    })
}

/// The tree of one environment variable; `None` when its name is not this program's.
///
/// Names are matched to the type's keys; where the user chooses names, to those that weaker layers
/// hold (`under`), else taken in lower case.
pub(super) fn env_layer(prefix: &str, name: &str, value: &str, shape: &Shape, under: &Node) -> Option<Layer> {
    let origin = Origin::Env(name.into());
    let refuse =
        |why, suggestions| Err(vec![Problem { suggestions, ..Problem::new(origin.clone(), "", why) }]);
    let rest = name.strip_prefix(prefix)?;
    let Some(rest) = rest.strip_prefix("__") else {
        // `PERENNIAL_INGEST_STORE__URL` would be ignored in silence: tell who meant a key by it.
        let path = keys_of(rest.strip_prefix('_')?, shape, under);
        let known = reaches_value(shape, &path);
        let meant = env_name(prefix, &path.iter().cloned().map(Step::Key).collect::<Vec<_>>());
        let why = "is not read: two `_` follow the program's name".to_owned();
        return known.then(|| refuse(why, meant.into_iter().collect()));
    };
    if rest.split("__").any(str::is_empty) {
        return Some(refuse("has an empty key in its name".to_owned(), Vec::new()));
    }
    if rest != rest.to_uppercase() {
        let name = format!("{prefix}__{}", rest.to_uppercase());
        return Some(refuse("is not read: names are in upper case".to_owned(), vec![name]));
    }
    let path = keys_of(rest, shape, under);
    if path.len() > LONGEST_KEY {
        return Some(refuse("is nested too deeply".to_owned(), Vec::new()));
    }
    let node = settled(&path, value, &origin, shape);
    Some(Ok(node))
}

/// The keys that the segments of a variable's name mean.
fn keys_of(segments: &str, shape: &Shape, under: &Node) -> Vec<String> {
    let (mut shape, mut under) = (Some(shape), Some(under));
    let mut keys = Vec::new();
    for segment in segments.split("__") {
        let lower = segment.to_lowercase();
        let held = under.and_then(Node::entries);
        let key = match shape {
            Some(Shape::Struct(fields)) => fields
                .iter()
                .map(|(field, _)| *field)
                .find(|field| upper(field) == segment)
                .map(str::to_owned),
            _ if held.is_some_and(|held| held.contains_key(&lower)) => None,
            _ => held.and_then(|held| held.keys().find(|key| upper(key) == segment)).cloned(),
        };
        let key = key.unwrap_or(lower);
        shape = shape.and_then(|shape| shape.field(&key));
        under = held.and_then(|held| held.get(&key));
        keys.push(key);
    }
    keys
}

fn reaches_value(shape: &Shape, path: &[String]) -> bool {
    let end = path.iter().try_fold(shape, |shape, key| match shape {
        Shape::Struct(_) => shape.field(key),
        _ => None,
    });
    end.is_some_and(|end| !end.is_table())
}

/// The tree of one flag.
pub(super) fn flag_layer(flag: &str, key: &str, value: &str, shape: &Shape) -> Layer {
    let origin = Origin::Flag(flag.into());
    let refuse = |why: String| vec![Problem::new(origin.clone(), key, why)];
    let path = parse_dotted(key).ok_or_else(|| refuse(format!("`{key}` is not a dotted key")))?;
    let keys: Option<Vec<String>> = path
        .into_iter()
        .map(|step| match step {
            Step::Key(key) => Some(key),
            Step::Index(_) => None,
        })
        .collect();
    let keys = keys.ok_or_else(|| refuse(format!("`{key}` is within an array: give the whole array")))?;
    if keys.len() > LONGEST_KEY {
        return Err(refuse(format!("`{key}` is nested too deeply")));
    }
    let node = settled(&keys, value, &origin, shape);
    Ok(node)
}

/// The tree of one flag of the form `section.key=value`; blanks around both count only in quotes.
pub(super) fn assign_layer(flag: &str, text: &str, shape: &Shape) -> Layer {
    match split_assignment(text) {
        Some((key, value)) => flag_layer(flag, key.trim(), value.trim(), shape),
        None => {
            let why = format!("`{text}` is not of the form `section.key=value`");
            Err(vec![Problem::new(Origin::Flag(flag.into()), "", why)])
        }
    }
}

/// Splits at the first `=` outside of quotes.
fn split_assignment(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        at += match bytes.get(at)? {
            b'=' => break,
            quote @ (b'"' | b'\'') => string_length(bytes.get(at..)?, *quote),
            _ => 1,
        };
    }
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// `text` at the end of `keys`: as a table where the type has one, so that it is merged and not
/// replaced; else undecided, until a type reads it.
fn settled(keys: &[String], text: &str, origin: &Origin, shape: &Shape) -> Node {
    let end = keys.iter().try_fold(shape, |shape, key| shape.field(key));
    let table = end.filter(|shape| shape.is_table()).and_then(|_| toml_value(text, origin));
    let value = match table {
        Some(Node { value: value @ Value::Table(_), .. }) => value,
        _ => Value::Text(text.to_owned()),
    };
    Node::chain(keys, value, origin)
}
