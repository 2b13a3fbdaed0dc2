//! Writes a value as a tree: what is in effect, defaults included.
//!
//! Not by way of `toml::Value`, which holds no integer above `i64::MAX`, nor of JSON, which holds
//! no infinity: a seed and a threshold may be either.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::{self, Impossible, Serialize};

use super::tree::{Node, Origin, Value};

/// `value` as a tree in which nothing has an origin.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Node, Unwritable> {
    value.serialize(Encoder).map(plain)
}

fn plain(value: Value) -> Node {
    Node { at: Origin::Default, value }
}

/// A value that a configuration cannot hold: a defect of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be written as a configuration: {0}")]
pub(super) struct Unwritable(String);

impl ser::Error for Unwritable {
    fn custom<M: fmt::Display>(text: M) -> Self {
        Self(text.to_string())
    }
}

struct Encoder;

macro_rules! integers {
    ($($method:ident: $kind:ty),*) => {$(
        fn $method(self, value: $kind) -> Result<Value, Unwritable> {
            Ok(Value::Int(i128::from(value)))
        }
    )*};
}

impl ser::Serializer for Encoder {
    type Ok = Value;
    type Error = Unwritable;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Impossible<Value, Unwritable>;
    type SerializeMap = Entries;
    type SerializeStruct = Entries;
    type SerializeStructVariant = Impossible<Value, Unwritable>;

    integers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    }

    fn serialize_bool(self, value: bool) -> Result<Value, Unwritable> {
        Ok(Value::Bool(value))
    }

    fn serialize_f32(self, value: f32) -> Result<Value, Unwritable> {
        // By way of its shortest decimal form: 0.1, not 0.10000000149011612.
        Ok(Value::Float(value.to_string().parse().unwrap_or_else(|_| f64::from(value))))
    }

    fn serialize_f64(self, value: f64) -> Result<Value, Unwritable> {
        Ok(Value::Float(value))
    }

    fn serialize_char(self, value: char) -> Result<Value, Unwritable> {
        Ok(Value::Str(value.to_string()))
    }

    fn serialize_str(self, value: &str) -> Result<Value, Unwritable> {
        Ok(Value::Str(value.to_owned()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Value, Unwritable> {
        Ok(Value::Array(value.iter().map(|byte| plain(Value::Int(i128::from(*byte)))).collect()))
    }

    fn serialize_none(self) -> Result<Value, Unwritable> {
        Ok(Value::Gone)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, Unwritable> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Unwritable> {
        Ok(Value::Gone)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, Unwritable> {
        Ok(Value::Gone)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        word: &'static str,
    ) -> Result<Value, Unwritable> {
        Ok(Value::Str(word.to_owned()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Value, Unwritable> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        word: &'static str,
        _: &T,
    ) -> Result<Value, Unwritable> {
        Err(holds_data(name, word))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items, Unwritable> {
        Ok(Items(Vec::new()))
    }

    fn serialize_tuple(self, _: usize) -> Result<Items, Unwritable> {
        Ok(Items(Vec::new()))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items, Unwritable> {
        Ok(Items(Vec::new()))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        word: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unwritable> {
        Err(holds_data(name, word))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries, Unwritable> {
        Ok(Entries::default())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries, Unwritable> {
        Ok(Entries::default())
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        word: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unwritable> {
        Err(holds_data(name, word))
    }
}

fn holds_data(name: &str, word: &str) -> Unwritable {
    Unwritable(format!("variant `{word}` of `{name}` holds data; use a table that a catalogue explains"))
}

/// The elements of an array so far.
struct Items(Vec<Node>);

impl Items {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.0.push(encode(value)?);
        Ok(())
    }
}

impl ser::SerializeSeq for Items {
    type Ok = Value;
    type Error = Unwritable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.push(value)
    }

    fn end(self) -> Result<Value, Unwritable> {
        Ok(Value::Array(self.0))
    }
}

impl ser::SerializeTuple for Items {
    type Ok = Value;
    type Error = Unwritable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.push(value)
    }

    fn end(self) -> Result<Value, Unwritable> {
        Ok(Value::Array(self.0))
    }
}

impl ser::SerializeTupleStruct for Items {
    type Ok = Value;
    type Error = Unwritable;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        self.push(value)
    }

    fn end(self) -> Result<Value, Unwritable> {
        Ok(Value::Array(self.0))
    }
}

/// The entries of a table so far; absent options are left out.
#[derive(Default)]
struct Entries {
    entries: BTreeMap<String, Node>,
    key: String,
}

impl Entries {
    fn insert<T: Serialize + ?Sized>(&mut self, key: String, value: &T) -> Result<(), Unwritable> {
        let node = encode(value)?;
        if node.value != Value::Gone {
            self.entries.insert(key, node);
        }
        Ok(())
    }
}

impl ser::SerializeMap for Entries {
    type Ok = Value;
    type Error = Unwritable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unwritable> {
        self.key = match key.serialize(Encoder)? {
            Value::Str(key) => key,
            Value::Int(key) => key.to_string(),
            Value::Bool(key) => key.to_string(),
            _ => return Err(Unwritable("a key must be a string, a whole number or a word".to_owned())),
        };
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        let key = std::mem::take(&mut self.key);
        self.insert(key, value)
    }

    fn end(self) -> Result<Value, Unwritable> {
        Ok(Value::Table(self.entries))
    }
}

impl ser::SerializeStruct for Entries {
    type Ok = Value;
    type Error = Unwritable;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        self.insert(key.to_owned(), value)
    }

    fn end(self) -> Result<Value, Unwritable> {
        Ok(Value::Table(self.entries))
    }
}
