//! Reads a type from a tree, and names the place of what does not fit.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{Node, Step, Value};
use super::{layer, table};

/// Why a value was refused, and the path to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fail {
    /// Set by the first table or array that the failure passes on its way out.
    pub path: Option<Vec<Step>>,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Why {
    /// What it must be, what was found.
    Wrong(String, String),
    /// A word that the enum does not have.
    Word { found: String, allowed: &'static [&'static str] },
    /// A table lacks this key.
    Missing(&'static str),
    /// What the type itself said.
    Said(String),
}

impl Fail {
    fn new(why: Why) -> Self {
        Self { path: None, why }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Wrong(expected, found) => write!(f, "must be {expected}; found {found}"),
            Why::Word { found, allowed } => {
                let words = allowed.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>();
                write!(f, "must be one of {}; found {found}", words.join(", "))
            }
            Why::Missing(key) => write!(f, "missing key `{key}`"),
            Why::Said(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Fail {}

impl de::Error for Fail {
    fn custom<M: fmt::Display>(text: M) -> Self {
        Self::new(Why::Said(text.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Why::Wrong(in_words(expected), described(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new(Why::Wrong(in_words(expected), format!("{length} elements")))
    }

    fn unknown_variant(found: &str, allowed: &'static [&'static str]) -> Self {
        Self::new(Why::Word { found: format!("`{}`", shortened(found)), allowed })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Why::Missing(field))
    }
}

/// What serde expects, in the words of somebody who writes a configuration file.
fn in_words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    let words = match text.as_str() {
        "u64" | "usize" | "u128" => "a whole number, 0 or more",
        "u32" => "a whole number from 0 to 4294967295",
        "u16" => "a whole number from 0 to 65535",
        "u8" => "a whole number from 0 to 255",
        "i64" | "isize" | "i128" => "a whole number",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i16" => "a whole number from -32768 to 32767",
        "i8" => "a whole number from -128 to 127",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "string" => "a string",
        "path string" => "a path",
        "a sequence" => "an array",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => match other.strip_prefix("a nonzero ") {
            Some(kind) if kind.starts_with('u') => "a whole number, 1 or more",
            Some(_) => "a whole number other than 0",
            None => other,
        },
    };
    words.to_owned()
}

fn described(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{value:?}`"),
        Unexpected::Str(text) => format!("string `{}`", shortened(text)),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string().replace("integer ", "").replace("floating point ", ""),
    }
}

/// The beginning of a text that a message repeats, on one line.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push_str("...");
    }
    short
}

/// Reads `T` from `node`, which stands at `path`.
pub(super) fn read<T: DeserializeOwned>(node: &Node, path: &[Step]) -> Result<T, Fail> {
    T::deserialize(Reader { node, place: &Place::Root(path) }).map_err(|fail| fail.or_at(&Place::Root(path)))
}

/// The way from the root, as a chain of the readers' stack frames: success builds no path.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root(&'a [Step]),
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn path(&self) -> Vec<Step> {
        match self {
            Self::Root(path) => path.to_vec(),
            Self::Key(above, key) => {
                let mut path = above.path();
                path.push(Step::Key((*key).to_owned()));
                path
            }
            Self::Index(above, index) => {
                let mut path = above.path();
                path.push(Step::Index(*index));
                path
            }
        }
    }
}

impl Fail {
    /// This failure, at `place` unless it already happened deeper.
    fn or_at(mut self, place: &Place<'_>) -> Self {
        self.path.get_or_insert_with(|| place.path());
        self
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    place: &'a Place<'a>,
}

impl Reader<'_> {
    /// A [`Value::Text`] that a string is wanted from: without its quotes, if TOML would read it as one.
    fn bare(self) -> Option<String> {
        match &self.node.value {
            Value::Text(text) => match layer::toml_value(text, &self.node.at) {
                Some(Node { value: Value::Str(inner), .. }) if text.starts_with(['"', '\'']) => Some(inner),
                _ => Some(text.clone()),
            },
            _ => None,
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fail;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        match &self.node.value {
            Value::Str(text) => visitor.visit_str(text),
            Value::Text(text) => match layer::toml_value(text, &self.node.at) {
                Some(node) => Reader { node: &node, place: self.place }.deserialize_any(visitor),
                None => visitor.visit_str(text),
            },
            Value::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_i64(value),
                (_, Ok(value)) => visitor.visit_u64(value),
                _ => visitor.visit_i128(*value),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Array(items) => {
                visitor.visit_seq(Items { items: items.iter().enumerate(), place: self.place })
            }
            Value::Table(entries) => {
                visitor.visit_map(Entries { entries: entries.iter(), value: None, place: self.place })
            }
            Value::Gone => visitor.visit_none(),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        match self.bare() {
            Some(text) => visitor.visit_str(&text),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fail> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        match &self.node.value {
            Value::Table(_) if name == table::MARK => visitor.visit_map(Whole(Some(self))),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        allowed: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        let bare = self.bare();
        let found = match &self.node.value {
            Value::Str(word) => Ok(word),
            Value::Text(word) => Ok(bare.as_ref().unwrap_or(word)),
            Value::Int(value) => Err(format!("`{value}`")),
            Value::Float(value) => Err(format!("`{value:?}`")),
            Value::Bool(value) => Err(format!("`{value}`")),
            Value::Array(_) => Err("an array".to_owned()),
            Value::Table(_) => Err("a table".to_owned()),
            Value::Gone => Err("nothing".to_owned()),
        };
        let word: StrDeserializer<'_, Fail> =
            found.map_err(|found| Fail::new(Why::Word { found, allowed }))?.as_str().into_deserializer();
        visitor.visit_enum(word)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    place: &'a Place<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fail;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fail> {
        let next = self.items.by_ref().find(|(_, node)| node.value != Value::Gone);
        next.map(|(index, node)| {
            let place = Place::Index(self.place, index);
            seed.deserialize(Reader { node, place: &place }).map_err(|fail| fail.or_at(&place))
        })
        .transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

struct Entries<'a> {
    entries: std::collections::btree_map::Iter<'a, String, Node>,
    value: Option<(&'a str, &'a Node)>,
    place: &'a Place<'a>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Fail;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fail> {
        let next = self.entries.by_ref().find(|(_, node)| node.value != Value::Gone);
        next.map(|(key, node)| {
            self.value = Some((key, node));
            seed.deserialize(Name(key)).map_err(|fail| fail.or_at(&Place::Key(self.place, key)))
        })
        .transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fail> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let place = Place::Key(self.place, key);
        seed.deserialize(Reader { node, place: &place }).map_err(|fail| fail.or_at(&place))
    }
}

/// Hands a [`table::Table`] its own subtree, origins and all.
struct Whole<'a>(Option<Reader<'a>>);

impl<'de> de::MapAccess<'de> for Whole<'_> {
    type Error = Fail;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fail> {
        let name: StrDeserializer<'_, Fail> = table::MARK.into_deserializer();
        self.0.map(|_| seed.deserialize(name)).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fail> {
        let Some(reader) = self.0.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let json = serde_json::to_value((reader.place.path(), reader.node));
        json.and_then(|json| seed.deserialize(json)).map_err(de::Error::custom)
    }
}

/// A key, read as the type that a map's keys have.
struct Name<'a>(&'a str);

macro_rules! numbers {
    ($($method:ident: $kind:ty, $visit:ident);*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
            match self.0.parse::<$kind>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => visitor.visit_str(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Name<'_> {
    type Error = Fail;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fail> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fail> {
        let word: StrDeserializer<'_, Fail> = self.0.into_deserializer();
        visitor.visit_enum(word)
    }

    numbers! {
        deserialize_u8: u64, visit_u64; deserialize_u16: u64, visit_u64;
        deserialize_u32: u64, visit_u64; deserialize_u64: u64, visit_u64;
        deserialize_i8: i64, visit_i64; deserialize_i16: i64, visit_i64;
        deserialize_i32: i64, visit_i64; deserialize_i64: i64, visit_i64
    }

    forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
