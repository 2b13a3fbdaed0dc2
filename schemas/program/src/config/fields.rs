//! The keys a configuration type knows, asked of the type itself.
//!
//! Serde tells a deserializer a struct's field names before it reads anything. [`Probe`] walks
//! along one path of fields, records what stands at its end, and stops with an error: no value is
//! ever made up, so types that refuse odd values can be walked too. One walk a key.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::tree::{Step, quoted};
use super::{table, units};

/// Types that hold themselves are walked to this depth.
const DEEPEST: usize = 16;

/// What a type is made of, as far as keys go.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Struct(Vec<(&'static str, Shape)>),
    /// Names chosen by the user, each with the same shape below.
    Map(Box<Shape>),
    List(Box<Shape>),
    /// A [`table::Table`]: known only to the catalogue entry that reads it later.
    Raw,
    /// The words of an enum.
    Words(&'static [&'static str]),
    /// A value without keys of its own, and what to call it.
    Leaf(&'static str),
}

/// A key that a configuration type knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The dotted key; `[]` stands for any element of an array of tables, `<name>` for any name, a
    /// final `*` for the keys of the catalogue entry that the table names.
    pub name: String,
    /// What may stand there, in words.
    pub kind: String,
    /// What stands there when nobody writes it, as a TOML value. Nothing for an absent option, and for
    /// a key that must be written. For a name that the user chooses, the whole default table of names.
    pub default: Option<String>,
}

/// A key as the shape alone knows it, and the way to it: `Index(0)` for any element, [`ANY`] for any name.
pub(super) struct Listed {
    pub name: String,
    pub kind: String,
    pub path: Vec<Step>,
}

/// Stands for a name that the user chooses.
pub(super) const ANY: &str = "<name>";

impl Shape {
    pub(super) fn of<T: DeserializeOwned>() -> Self {
        explore::<T>(&mut Vec::new())
    }

    pub(super) fn keys(&self) -> Vec<Listed> {
        let mut keys = Vec::new();
        self.list("", &mut Vec::new(), &mut keys);
        keys
    }

    fn list(&self, at: &str, path: &mut Vec<Step>, keys: &mut Vec<Listed>) {
        let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        let mut enter = |step: Step, inner: &Self, name: &str| {
            path.push(step);
            inner.list(name, path, keys);
            path.pop();
        };
        match self {
            Self::Struct(fields) if !fields.is_empty() => {
                for (field, shape) in fields {
                    enter(Step::Key((*field).to_owned()), shape, &below(&quoted(field)));
                }
            }
            Self::Map(inner) => enter(Step::Key(ANY.to_owned()), inner, &below(ANY)),
            Self::List(inner) if inner.has_keys() => enter(Step::Index(0), inner, &format!("{at}[]")),
            Self::Raw => keys.push(Listed { name: below("*"), kind: self.kind(), path: path.clone() }),
            _ => keys.push(Listed { name: at.to_owned(), kind: self.kind(), path: path.clone() }),
        }
    }

    fn has_keys(&self) -> bool {
        match self {
            Self::Struct(_) | Self::Map(_) | Self::Raw => true,
            Self::List(inner) => inner.has_keys(),
            Self::Words(_) | Self::Leaf(_) => false,
        }
    }

    /// The paths of all structs within structs, the outer before the inner.
    pub(super) fn tables(&self) -> Vec<Vec<String>> {
        let Self::Struct(fields) = self else { return Vec::new() };
        let mut paths = Vec::new();
        for (field, shape) in fields.iter().filter(|(_, shape)| matches!(shape, Self::Struct(_))) {
            paths.push(vec![(*field).to_owned()]);
            for below in shape.tables() {
                paths.push(std::iter::once((*field).to_owned()).chain(below).collect());
            }
        }
        paths
    }

    /// Whether a table, not a value, belongs here.
    pub(super) fn is_table(&self) -> bool {
        matches!(self, Self::Struct(_) | Self::Map(_) | Self::Raw)
    }

    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Struct(fields) => fields.iter().find(|(field, _)| *field == name).map(|(_, shape)| shape),
            Self::Map(inner) => Some(inner),
            _ => None,
        }
    }

    fn kind(&self) -> String {
        match self {
            Self::Struct(_) | Self::Map(_) => "table".to_owned(),
            Self::Raw => "keys of the chosen entry".to_owned(),
            Self::List(inner) => format!("array of {}", inner.kind()),
            Self::Words(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ")
            }
            Self::Leaf(kind) => (*kind).to_owned(),
        }
    }
}

fn explore<T: DeserializeOwned>(path: &mut Vec<Way>) -> Shape {
    let found = RefCell::new(Found::Leaf("value"));
    // The walk always ends in an error or in a value nobody needs: what counts is what it recorded.
    drop(T::deserialize(Probe { path: path.as_slice(), found: &found }));
    let below = |way: Way, path: &mut Vec<Way>| {
        path.push(way);
        let shape = if path.len() > DEEPEST { Shape::Leaf("value") } else { explore::<T>(path) };
        path.pop();
        shape
    };
    match found.into_inner() {
        Found::Struct(fields) => {
            Shape::Struct(fields.iter().map(|field| (*field, below(Way::Field(field), path))).collect())
        }
        Found::Map => Shape::Map(Box::new(below(Way::Entry, path))),
        Found::List => Shape::List(Box::new(below(Way::Element, path))),
        Found::Raw => Shape::Raw,
        Found::Words(words) => Shape::Words(words),
        Found::Leaf(kind) => Shape::Leaf(kind),
    }
}

/// What stood at the end of a walk.
enum Found {
    Struct(&'static [&'static str]),
    Map,
    List,
    Raw,
    Words(&'static [&'static str]),
    Leaf(&'static str),
}

/// One step of a walk.
#[derive(Clone, Copy)]
enum Way {
    Field(&'static str),
    Entry,
    Element,
}

/// Stops a walk: nothing went wrong.
#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("end of the walk")
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
struct Probe<'p> {
    path: &'p [Way],
    found: &'p RefCell<Found>,
}

impl<'p> Probe<'p> {
    /// Records `found` when the walk ends here, and stops.
    fn end<V>(self, found: Found) -> Result<V, Stop> {
        if self.path.is_empty() {
            *self.found.borrow_mut() = found;
        }
        Err(Stop)
    }

    fn next(self) -> Option<(Way, Self)> {
        let (way, path) = self.path.split_first()?;
        Some((*way, Self { path, ..self }))
    }

    /// Goes on into the one entry named `key`.
    fn enter<'de, V: Visitor<'de>>(self, key: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_map(One { key: Some(key), probe: Some(self) })
    }
}

macro_rules! leaves {
    ($($method:ident: $kind:literal),*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
            self.end(Found::Leaf($kind))
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Stop;

    leaves! {
        deserialize_any: "value", deserialize_ignored_any: "value", deserialize_unit: "value",
        deserialize_bool: "`true` or `false`",
        deserialize_u8: "whole number", deserialize_u16: "whole number", deserialize_u32: "whole number",
        deserialize_u64: "whole number", deserialize_u128: "whole number",
        deserialize_i8: "whole number", deserialize_i16: "whole number", deserialize_i32: "whole number",
        deserialize_i64: "whole number", deserialize_i128: "whole number",
        deserialize_f32: "number", deserialize_f64: "number",
        deserialize_char: "string", deserialize_str: "string", deserialize_string: "string",
        deserialize_bytes: "string", deserialize_byte_buf: "string", deserialize_identifier: "string"
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match units::KINDS.iter().find(|(unit, _)| *unit == name) {
            Some((_, kind)) => self.end(Found::Leaf(kind)),
            None => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        if name == table::MARK {
            return self.end(Found::Raw);
        }
        match self.next() {
            Some((Way::Field(field), probe)) => probe.enter(field, visitor),
            _ => self.end(Found::Struct(fields)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.next() {
            Some((Way::Entry, probe)) => probe.enter("name", visitor),
            _ => self.end(Found::Map),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.next() {
            Some((Way::Element, probe)) => visitor.visit_seq(One { key: None, probe: Some(probe) }),
            _ => self.end(Found::List),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Stop> {
        self.end(Found::Leaf("array of fixed length"))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Stop> {
        self.end(Found::Leaf("array of fixed length"))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Stop> {
        self.end(Found::Leaf("value"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stop> {
        self.end(Found::Words(variants))
    }
}

/// A map or sequence with one entry: the next one of the walk.
struct One<'p> {
    key: Option<&'static str>,
    probe: Option<Probe<'p>>,
}

impl<'de> de::MapAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        self.key.take().map(|key| seed.deserialize(Name(key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        seed.deserialize(self.probe.take().ok_or(Stop)?)
    }
}

impl<'de> de::SeqAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_element_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<Option<V::Value>, Stop> {
        self.probe.take().map(|probe| seed.deserialize(probe)).transpose()
    }
}

macro_rules! zeros {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            visitor.visit_u64(0)
        }
    )*};
}

/// A key of the walk: `0` where a map's keys are numbers; where a map's keys are an enum, its first word.
struct Name(&'static str);

impl<'de> Deserializer<'de> for Name {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    zeros! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let word: StrDeserializer<'_, Stop> = variants.first().copied().unwrap_or(self.0).into_deserializer();
        visitor.visit_enum(word)
    }

    forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}
