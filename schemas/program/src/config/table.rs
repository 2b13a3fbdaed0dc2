//! A table whose meaning depends on a name within it: `policy = "reservoir"` and its settings.

use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

use super::check::{Checker, nearest};
use super::encode::encode;
use super::layer::toml_value;
use super::problem::{ConfigError, Problem};
use super::show;
use super::tree::{Node, Origin, Step, Value, dotted};

/// The struct name by which the loader recognises a [`Table`].
pub(super) const MARK: &str = "$perennial::Table";

/// A table that is read in two steps: first the name of a catalogue's entry, then the rest as that
/// entry's own type. It remembers where each of its values was written.
///
/// Equal when it holds the same values, wherever they were written.
#[derive(Clone)]
pub struct Table {
    path: Vec<Step>,
    node: Node,
    /// Keys that were looked up here: they need not be keys of the entry's type.
    spent: Vec<String>,
}

impl Table {
    /// The dotted key of this table.
    #[must_use]
    pub fn path(&self) -> String {
        dotted(&self.path)
    }

    /// A table that holds `key = "word"` and nothing else, for a default.
    #[must_use]
    pub fn of(key: &str, word: &str) -> Self {
        let mut table = Self::default();
        table.or(key, word);
        table
    }

    /// Gives `key` the value `word` unless it has one.
    pub fn or(&mut self, key: &str, word: &str) -> &mut Self {
        if let Value::Table(entries) = &mut self.node.value {
            let node = Node { at: Origin::Default, value: Value::Str(word.to_owned()) };
            entries.entry(key.to_owned()).or_insert(node);
        }
        self
    }

    /// The entry of a catalogue that `key` names; `name` tells the name of an entry.
    ///
    /// # Errors
    /// When the table lacks `key`, or no entry has that name: with the names most like it.
    pub fn choose<'c, E>(
        &mut self,
        key: &str,
        entries: &'c [E],
        name: impl Fn(&E) -> &str,
    ) -> Result<&'c E, ConfigError> {
        let names =
            || entries.iter().map(&name).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let mut path = self.path.clone();
        path.push(Step::Key(key.to_owned()));
        let at = dotted(&path);
        let node =
            self.node.entries().and_then(|entries| entries.get(key)).filter(|node| node.value != Value::Gone);
        let Some(node) = node else {
            let message = format!("missing key `{at}`: one of {}", names());
            return Err(Problem::new(self.node.at.clone(), &at, message).into());
        };
        let word = super::read::read::<String>(node, &path);
        let Ok(word) = word else {
            let message = format!("`{at}` must be one of {}", names());
            return Err(Problem::new(node.at.clone(), &at, message).into());
        };
        if let Some(entry) = entries.iter().find(|entry| name(entry) == word) {
            if !self.spent.iter().any(|spent| spent == key) {
                self.spent.push(key.to_owned());
            }
            return Ok(entry);
        }
        let near: Vec<String> =
            nearest(&word, entries.iter().map(&name)).into_iter().map(str::to_owned).collect();
        let known = if near.is_empty() { format!("; known are {}", names()) } else { String::new() };
        let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path()) };
        let message = format!("unknown {key} `{word}`{place}{known}");
        Err(Problem { suggestions: near, ..Problem::new(node.at.clone(), &at, message) }.into())
    }

    /// The rest of the table as a `T`. The table then also holds `T`'s defaults, so that what it is
    /// part of shows and digests them.
    ///
    /// # Errors
    /// Every unknown key, missing key and value that does not fit, each with its place.
    pub fn take<T: DeserializeOwned + Serialize>(&mut self) -> Result<T, ConfigError> {
        let checker = Checker::of::<T>(None, self.path.clone());
        let mut tree = self.node.clone();
        let mut aside = Vec::new();
        if let Value::Table(entries) = &mut tree.value {
            for key in &self.spent {
                if checker.shape.field(key).is_none() {
                    aside.extend(entries.remove_entry(key));
                }
            }
        }
        let mut problems = Vec::new();
        checker.unknown_keys(&mut tree, &mut problems);
        let value = checker.read::<T>(&mut tree, true, &mut problems);
        let Some(value) = value.filter(|_| problems.is_empty()) else {
            return Err(ConfigError::new(problems, None));
        };
        let unwritable = |error| {
            let message = format!("`{}`: {error}", self.path());
            ConfigError::from(Problem::new(self.node.at.clone(), &self.path(), message))
        };
        let mut filled = encode(&value).map_err(unwritable)?;
        filled.place_from(&self.node);
        if let Value::Table(entries) = &mut filled.value {
            entries.extend(aside);
        }
        self.node = filled;
        Ok(value)
    }
}

impl Default for Table {
    /// A table without keys.
    fn default() -> Self {
        Self { path: Vec::new(), node: Node::table(Origin::Default), spent: Vec::new() }
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        show::canonical(&self.node) == show::canonical(&other.node)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table {}", show::inline(&self.node))
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Plain(&self.node).serialize(to)
    }
}

/// A node without its origins.
struct Plain<'a>(&'a Node);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0.value {
            Value::Str(text) => to.serialize_str(text),
            Value::Text(text) => match toml_value(text, &self.0.at) {
                Some(node) => Plain(&node).serialize(to),
                None => to.serialize_str(text),
            },
            Value::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => to.serialize_i64(value),
                (_, Ok(value)) => to.serialize_u64(value),
                _ => to.serialize_i128(*value),
            },
            Value::Float(value) => to.serialize_f64(*value),
            Value::Bool(value) => to.serialize_bool(*value),
            Value::Array(items) => {
                let mut seq = to.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(&Plain(item))?;
                }
                seq.end()
            }
            Value::Table(entries) => {
                let mut map = to.serialize_map(Some(entries.len()))?;
                for (key, node) in entries.iter().filter(|(_, node)| node.value != Value::Gone) {
                    map.serialize_entry(key, &Plain(node))?;
                }
                map.end()
            }
            Value::Gone => to.serialize_none(),
        }
    }
}

struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = Table;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table, A::Error> {
        match map.next_key::<String>()? {
            Some(key) if key == MARK => {
                let (path, node) = map.next_value()?;
                Ok(Table { path, node, spent: Vec::new() })
            }
            None => Ok(Table::default()),
            Some(_) => Err(serde::de::Error::custom("a table of a configuration is read by its loader")),
        }
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_struct(MARK, &[MARK], TableVisitor)
    }
}
