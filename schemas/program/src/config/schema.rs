//! What a configuration type is made of, as its JSON schema says.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::show::{inline, join};

/// Extension of a schema: what may stand at a key, in words.
pub(super) const KIND: &str = "x-kind";
/// Extension of a schema: the key that names the variant of an enum, whose own keys stand beside it.
const TAG: &str = "x-tag";
/// Extension of a schema: the reference describes the table in its own words alone.
const BRIEF: &str = "x-brief";

/// What stands at a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub kind: Kind,
    /// The field's doc comment.
    pub doc: String,
    /// What stands there when it is not written, as the type serializes it.
    default: Value,
    /// Whether the reference describes the table in its own words, without its keys.
    pub brief: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Struct(Vec<(String, Shape)>),
    /// Names chosen by the user, each with the same shape below.
    Map(Box<Shape>),
    List(Box<Shape>),
    /// A table whose key `tag` names which variant's keys stand beside it.
    Choice {
        tag: String,
        variants: Vec<(String, Shape)>,
    },
    /// The words of an enum, with their doc comments.
    Words(Vec<(String, String)>),
    /// A string.
    Text,
    /// A value that reads as TOML, in words; its range; whether it is an `f32`.
    Value {
        words: String,
        range: String,
        single: bool,
    },
}

/// A key that a configuration type knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The dotted key; `[]` stands for any element of an array of tables, `<name>` for any name.
    pub name: String,
    /// What may stand there, in words.
    pub kind: String,
    /// What stands there when it is not written, as a TOML value. Nothing for an absent option, and for
    /// a key that must be written. For a name that the user chooses, the whole default table of names.
    pub default: Option<String>,
}

impl Shape {
    /// The shape of `T`.
    pub(super) fn of<T: JsonSchema>() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        Self::read(settings.into_generator().into_root_schema_for::<T>().as_value())
    }

    fn read(schema: &Value) -> Self {
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut shape = match schema.get("anyOf").and_then(Value::as_array) {
            // An option of what is not a plain type.
            Some(options) => Self::read(options.first().unwrap_or(&Value::Null)),
            None => Self { kind: Kind::read(schema), doc: String::new(), default: Value::Null, brief: false },
        };
        shape.doc = text("description");
        shape.default = shape.flat(schema.get("default").unwrap_or(&Value::Null));
        shape.brief = schema.get(BRIEF).is_some();
        shape
    }

    /// The shape below `name`; of a choice, of the first variant that has such a key.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Struct(fields) => fields.iter().find(|(field, _)| field == name).map(|(_, shape)| shape),
            Kind::Map(inner) | Kind::List(inner) => Some(inner),
            Kind::Choice { variants, .. } => variants.iter().find_map(|(_, variant)| variant.field(name)),
            Kind::Words(_) | Kind::Text | Kind::Value { .. } => None,
        }
    }

    /// Whether a table, not a value, belongs here.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.kind, Kind::Struct(_) | Kind::Map(_) | Kind::Choice { .. })
    }

    /// What serde reads: refused values left out, a choice as a table of one entry.
    pub(super) fn nested(&self, value: &Value) -> Value {
        self.convert(value, &|tag, variants, mut table| {
            let name = table.shift_remove(tag)?.as_str()?.to_owned();
            let (_, variant) = variants.iter().find(|(variant, _)| *variant == name)?;
            Some(Map::from_iter([(name, variant.nested(&Value::Object(table)))]))
        })
    }

    /// What a file holds: the inverse of [`Shape::nested`], keys sorted.
    pub(super) fn flat(&self, value: &Value) -> Value {
        let mut value = self.convert(value, &|tag, variants, table| {
            let (name, inner) = table.into_iter().next()?;
            let (_, variant) = variants.iter().find(|(variant, _)| *variant == name)?;
            let Value::Object(mut table) = variant.flat(&inner) else { return None };
            table.insert(tag.to_owned(), name.into());
            Some(table)
        });
        value.sort_all_objects();
        value
    }

    /// `value` without nulls, each choice in it changed by `choose`.
    fn convert(&self, value: &Value, choose: &Choose) -> Value {
        let below = |shape: Option<&Self>, value: &Value| match shape {
            Some(shape) => shape.convert(value, choose),
            None => value.clone(),
        };
        match (value, &self.kind) {
            (Value::Object(table), Kind::Choice { tag, variants }) => {
                choose(tag, variants, table.clone()).map_or(Value::Null, Value::Object)
            }
            (Value::Object(table), _) => {
                let entries = table.iter().map(|(key, value)| (key.clone(), below(self.field(key), value)));
                entries.filter(|(_, value)| !value.is_null()).collect()
            }
            (Value::Array(items), Kind::List(inner)) => {
                items.iter().map(|item| inner.convert(item, choose)).filter(|item| !item.is_null()).collect()
            }
            // By way of its shortest decimal form: 0.1, not 0.10000000149011612.
            (Value::Number(number), Kind::Value { single: true, .. }) => {
                let short =
                    number.as_f64().and_then(|number| (number as f32).to_string().parse::<f64>().ok());
                short.map_or_else(|| value.clone(), Value::from)
            }
            _ => value.clone(),
        }
    }

    /// What may stand here, in words.
    pub(super) fn words(&self) -> String {
        match &self.kind {
            Kind::Struct(_) | Kind::Map(_) => "table".to_owned(),
            Kind::Choice { variants, .. } => alternatives(variants.iter().map(|(word, _)| word)),
            Kind::List(inner) => match inner.words() {
                words if words.ends_with('`') => format!("array of {words}"),
                words => format!("array of {words}s"),
            },
            Kind::Words(words) => alternatives(words.iter().map(|(word, _)| word)),
            Kind::Text => "string".to_owned(),
            Kind::Value { words, .. } => words.clone(),
        }
    }

    /// What must stand here, for a message: ``a whole number from 0 to 255``.
    pub(super) fn expected(&self) -> String {
        let words = match &self.kind {
            Kind::Choice { .. } => "table".to_owned(),
            Kind::Value { words, range, .. } => format!("{words}{range}"),
            _ => self.words(),
        };
        match words.chars().next() {
            Some('`') => words,
            Some('a') => format!("an {words}"),
            _ => format!("a {words}"),
        }
    }

    /// The default as TOML; nothing for an absent option and for a table without entries.
    pub(super) fn default(&self) -> Option<String> {
        let is_empty = self.default.is_null() || self.default.as_object().is_some_and(Map::is_empty);
        (!is_empty).then(|| inline(&self.default))
    }

    /// Every key below `at`, in the order of the fields.
    pub(super) fn keys(&self, at: &str) -> Vec<Key> {
        let fields = |at: &str, fields: &[(String, Self)]| {
            fields.iter().flat_map(|(field, shape)| shape.keys(&join(at, field))).collect()
        };
        let key = |name: &str, shape: &Self| Key {
            name: name.to_owned(),
            kind: shape.words(),
            default: shape.default(),
        };
        match &self.kind {
            Kind::Struct(inner) => fields(at, inner),
            Kind::Map(inner) => {
                let mut keys = inner.keys(&format!("{at}.<name>"));
                if let (Some(first), false) = (keys.first_mut(), matches!(inner.kind, Kind::Struct(_))) {
                    first.default = self.default();
                }
                keys
            }
            Kind::List(inner) if inner.is_table() => inner.keys(&format!("{at}[]")),
            Kind::Choice { tag, variants } => {
                let mut keys = vec![key(&join(at, tag), self)];
                for new in variants.iter().flat_map(|(_, variant)| variant.keys(at)) {
                    if !keys.contains(&new) {
                        keys.push(new);
                    }
                }
                keys
            }
            _ => vec![key(at, self)],
        }
    }

    /// The keys whose default depends on whether their table is written.
    pub(super) fn uneven(&self, at: &str) -> Vec<String> {
        let Kind::Struct(fields) = &self.kind else { return Vec::new() };
        let mut uneven = Vec::new();
        for (field, shape) in fields {
            let name = join(at, field);
            if let (Kind::Struct(inner), Value::Object(absent)) = (&shape.kind, &shape.default) {
                let differs = inner
                    .iter()
                    .filter(|(key, inner)| *absent.get(key).unwrap_or(&Value::Null) != inner.default);
                uneven.extend(differs.map(|(key, _)| join(&name, key)));
            }
            uneven.extend(shape.uneven(&name));
        }
        uneven
    }
}

/// Changes the table of a choice, given its tag and its variants; nothing where it does not name one of them.
type Choose = dyn Fn(&str, &[(String, Shape)], Map<String, Value>) -> Option<Map<String, Value>>;

impl Kind {
    fn read(schema: &Value) -> Self {
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let variants = schema.get("oneOf").and_then(Value::as_array);
        if let (Some(tag), Some(variants)) = (text(TAG), variants) {
            let variant = |schema: &Value| {
                let (name, inner) = schema.get("properties")?.as_object()?.iter().next()?;
                let doc = Shape::read(schema).doc;
                Some((name.clone(), Shape { doc, ..Shape::read(inner) }))
            };
            let variants = variants.iter().filter_map(variant).collect();
            return Self::Choice { tag: tag.to_owned(), variants };
        }
        let words = words(schema);
        if !words.is_empty() {
            return Self::Words(words);
        }
        let value =
            |words: &str, range: String, single| Self::Value { words: words.to_owned(), range, single };
        if let Some(words) = text(KIND) {
            return value(words, String::new(), false);
        }
        let kind = schema.get("type").map(|kind| kind.get(0).unwrap_or(kind));
        match kind.and_then(Value::as_str) {
            Some("object") => match (schema.get("properties"), schema.get("additionalProperties")) {
                (Some(Value::Object(fields)), _) => Self::Struct(
                    fields.iter().map(|(name, field)| (name.clone(), Shape::read(field))).collect(),
                ),
                (_, Some(inner @ Value::Object(_))) => Self::Map(Box::new(Shape::read(inner))),
                _ => Self::Struct(Vec::new()),
            },
            Some("array") => match schema.get("items") {
                Some(items) => Self::List(Box::new(Shape::read(items))),
                None => value("array", String::new(), false),
            },
            Some("string") => Self::Text,
            Some("integer") => value("whole number", range(schema), false),
            Some("number") => value("number", String::new(), text("format") == Some("float")),
            Some("boolean") => value("`true` or `false`", String::new(), false),
            _ => value("value", String::new(), false),
        }
    }
}

/// The words of an enum of words; none for other types.
fn words(schema: &Value) -> Vec<(String, String)> {
    let list = |key: &str| schema.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let bare = list("enum").iter().filter_map(Value::as_str).map(|word| (word.to_owned(), String::new()));
    let described =
        list("oneOf").iter().flat_map(|variant| match variant.get("const").and_then(Value::as_str) {
            Some(word) => vec![(word.to_owned(), Shape::read(variant).doc)],
            None => words(variant),
        });
    bare.chain(described).collect()
}

/// `` `a` or `b` ``.
fn alternatives<'w>(words: impl Iterator<Item = &'w String>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ")
}

/// The range of an integer, for a message.
fn range(schema: &Value) -> String {
    let most = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => Some(u64::from(u32::MAX)),
        _ => schema.get("maximum").and_then(Value::as_u64),
    };
    match (schema.get("minimum").and_then(Value::as_i64), most) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(", {least} or more"),
        _ => String::new(),
    }
}
