//! The tree every source becomes: values that remember where each was written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where an effective value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// A value and its origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Node {
    pub at: Origin,
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Value {
    /// A string, or a TOML date and time as it was written.
    Str(String),
    /// The text of a variable or flag: a TOML value or a bare string, decided by the type that reads it.
    Text(String),
    /// Within `i64::MIN ..= u64::MAX`.
    Int(i128),
    Float(#[serde(with = "bits")] f64),
    Bool(bool),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// Refused and reported, or an absent option: read as if it were not there.
    Gone,
}

/// Floats travel as their bits: JSON has no infinity.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// One step from a table or an array to what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Node {
    pub(super) fn table(at: Origin) -> Self {
        Self { at, value: Value::Table(BTreeMap::new()) }
    }

    /// A chain of tables named by `keys` that ends in `value`.
    pub(super) fn chain(keys: &[String], value: Value, at: &Origin) -> Self {
        let leaf = Self { at: at.clone(), value };
        keys.iter().rev().fold(leaf, |inner, key| Self {
            at: at.clone(),
            value: Value::Table(BTreeMap::from([(key.clone(), inner)])),
        })
    }

    pub(super) fn entries(&self) -> Option<&BTreeMap<String, Self>> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.value, step) {
            (Value::Table(entries), Step::Key(key)) => entries.get(key),
            (Value::Array(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    pub(super) fn get(&self, path: &[Step]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| node.child(step))
    }

    pub(super) fn get_mut(&mut self, path: &[Step]) -> Option<&mut Self> {
        path.iter().try_fold(self, |node, step| match (&mut node.value, step) {
            (Value::Table(entries), Step::Key(key)) => entries.get_mut(key),
            (Value::Array(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// The origin of what stands at `path`; of the array or text that holds it, when it was given
    /// whole; [`Origin::Default`] when nobody wrote it.
    pub(super) fn origin(&self, path: &[Step]) -> Origin {
        let mut node = self;
        for step in path {
            match (node.child(step), &node.value) {
                (Some(child), _) => node = child,
                (None, Value::Table(_)) => return Origin::Default,
                (None, _) => break,
            }
        }
        if matches!(node.value, Value::Gone) { Origin::Default } else { node.at.clone() }
    }

    /// Gives every node of this tree the origin that its place has in `origins`.
    pub(super) fn place_from(&mut self, origins: &Self) {
        self.place_below(&mut Vec::new(), origins);
    }

    fn place_below(&mut self, path: &mut Vec<Step>, origins: &Self) {
        self.at = origins.origin(path);
        let mut place = |step: Step, node: &mut Self| {
            path.push(step);
            node.place_below(path, origins);
            path.pop();
        };
        match &mut self.value {
            Value::Table(entries) => {
                entries.iter_mut().for_each(|(key, node)| place(Step::Key(key.clone()), node));
            }
            Value::Array(items) => {
                items.iter_mut().enumerate().for_each(|(index, node)| place(Step::Index(index), node));
            }
            _ => {}
        }
    }

    /// Lays a stronger layer over this one: tables are merged key by key, all else is replaced.
    pub(super) fn overlay(&mut self, over: Self) {
        match (&mut self.value, over) {
            (_, Self { value: Value::Gone, .. }) => {}
            (Value::Table(under), Self { value: Value::Table(entries), .. }) => {
                for (key, node) in entries {
                    match under.get_mut(&key) {
                        Some(held) => held.overlay(node),
                        None => drop(under.insert(key, node)),
                    }
                }
            }
            (_, over) => *self = over,
        }
    }
}

/// The path as a reader writes it: `source[1].path`, odd keys quoted.
pub(super) fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&quoted(key));
            }
        }
    }
    text
}

/// `key` as TOML writes it: bare if it can be, else in quotes.
pub(super) fn quoted(key: &str) -> Cow<'_, str> {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { Cow::Borrowed(key) } else { Cow::Owned(basic_string(key)) }
}

/// `text` as a TOML basic string on one line, quotes included.
pub(super) fn basic_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Reads what [`dotted`] writes; `None` when it is not a dotted key.
pub(super) fn parse_dotted(text: &str) -> Option<Vec<Step>> {
    let mut path = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(' ');
        let (key, after) = parse_key(rest)?;
        path.push(Step::Key(key));
        rest = after.trim_matches(' ');
        while let Some(index) = rest.strip_prefix('[') {
            let (number, after) = index.split_once(']')?;
            path.push(Step::Index(number.parse().ok()?));
            rest = after;
        }
        if rest.is_empty() {
            return Some(path);
        }
        rest = rest.strip_prefix('.')?;
    }
}

/// The first key of `text`, bare or quoted, and what follows it.
fn parse_key(text: &str) -> Option<(String, &str)> {
    let quote = match text.chars().next()? {
        c @ ('"' | '\'') => c,
        _ => {
            let end = text.find(['.', '[', ' ', ']', '"', '\'', '=']).unwrap_or(text.len());
            let (key, rest) = text.split_at(end);
            return (!key.is_empty()).then(|| (key.to_owned(), rest));
        }
    };
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = quote == '"' && *c == '\\' && !escaped;
        ends
    })?;
    let (written, rest) = text.split_at(end.0 + 1);
    match toml::de::DeValue::parse(written).ok()?.into_inner() {
        toml::de::DeValue::String(key) => Some((key.into_owned(), rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn dotted_path_reads_back_as_written(
            keys in prop::collection::vec((any::<String>(), prop::option::of(0_usize..99)), 1..5)
        ) {
            let mut path = Vec::new();
            for (key, index) in keys {
                path.push(Step::Key(key));
                path.extend(index.map(Step::Index));
            }
            prop_assert_eq!(parse_dotted(&dotted(&path)), Some(path));
        }

        #[test]
        fn dotted_path_is_never_a_panic(text in any::<String>()) {
            let _ = parse_dotted(&text);
        }
    }

    #[test]
    fn dotted_path_is_refused_when_it_is_none() {
        for text in ["", ".", "a.", ".a", "a..b", "a[", "a[x]", "\"a", "a=b"] {
            assert_eq!(parse_dotted(text), None, "{text}");
        }
    }
}
