//! The reference of a program's keys, in Markdown.

use std::fmt::Write as _;

use serde::Serialize;

use super::schema::{Kind, Shape};
use super::show::join;

/// The section of `program`.
pub(super) fn page(program: &str, prefix: &str, shape: &Shape) -> String {
    let mut text = format!("## perennial-{program}\n\nVariables begin with `{prefix}__`.\n");
    table(&mut text, "", shape);
    text
}

/// The keys of a table, then its tables.
fn table(text: &mut String, at: &str, shape: &Shape) {
    let Kind::Struct(fields) = &shape.kind else { return };
    let (tables, keys): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, shape)| holds_keys(shape));
    if !keys.is_empty() {
        text.push('\n');
    }
    for (field, shape) in keys {
        match &shape.kind {
            // Names that the user chooses stand beside their table.
            Kind::Map(inner) => entry(text, &format!("{}.<name>", join(at, field)), inner, shape),
            _ => entry(text, &join(at, field), shape, shape),
        }
    }
    for (field, shape) in tables {
        section(text, &join(at, field), shape);
    }
}

/// Whether `shape` has a header of its own.
fn holds_keys(shape: &Shape) -> bool {
    match &shape.kind {
        Kind::Map(inner) | Kind::List(inner) => inner.is_table(),
        _ => shape.is_table(),
    }
}

/// A table, or tables of one kind: the header, what it is, what it holds.
fn section(text: &mut String, at: &str, shape: &Shape) {
    let (name, header, inner) = match &shape.kind {
        Kind::List(inner) => (at.to_owned(), format!("[[{at}]]"), &**inner),
        Kind::Map(inner) => (format!("{at}.<name>"), format!("[{at}.<name>]"), &**inner),
        _ => (at.to_owned(), format!("[{at}]"), shape),
    };
    let _ = writeln!(text, "\n### `{header}`\n\n{}", prose(&shape.doc));
    if let (Kind::Map(_), Some(default)) = (&shape.kind, shape.default()) {
        let _ = writeln!(text, "Where no such table is written: `{default}`.");
    }
    match &inner.kind {
        _ if shape.brief => {}
        Kind::Choice { tag, variants } => {
            let kind = choices(&inner.words());
            let _ = writeln!(text, "\n- `{}` ({kind}; no default): {}", join(&name, tag), prose(&inner.doc));
            for (word, variant) in variants {
                let _ = writeln!(text, "\n#### `{tag} = \"{word}\"`\n\n{}", prose(&variant.doc));
                table(text, &name, variant);
            }
        }
        _ => table(text, &name, inner),
    }
}

/// A key as a line of a list; the default and the words are those of `field`.
fn entry(text: &mut String, name: &str, shape: &Shape, field: &Shape) {
    let words = shape.words();
    let kind = words.split(", as `").next().unwrap_or(&words);
    let default = match field.default() {
        Some(default) => format!("default `{default}`"),
        None => "no default".to_owned(),
    };
    let doc = meaning(shape, field);
    let _ = writeln!(text, "- `{name}` ({}; {default}): {doc}", choices(kind));
}

/// What a field is, and each word that may stand there.
fn meaning(shape: &Shape, field: &Shape) -> String {
    let mut doc = prose(&field.doc);
    if let Kind::Words(words) = &shape.kind {
        for (word, meaning) in words.iter().filter(|(_, meaning)| !meaning.is_empty()) {
            if !field.doc.contains(&format!("`{word}`:")) {
                let _ = write!(doc, " `{word}`: {}", prose(meaning));
            }
        }
    }
    doc
}

/// One kind of a table whose other keys depend on its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// The word that chooses it.
    pub name: String,
    /// What it is.
    pub words: String,
    /// The keys that stand beside the word.
    pub keys: Vec<VariantKey>,
}

/// A key of a [`Variant`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VariantKey {
    /// The key.
    pub name: String,
    /// What may stand there.
    pub kind: String,
    /// What stands there when it is not written, as a TOML value.
    pub default: Option<String>,
    /// What it is.
    pub words: String,
}

/// The variants of a choice; none of another shape.
pub(super) fn variants(shape: &Shape) -> Vec<Variant> {
    let Kind::Choice { variants, .. } = &shape.kind else { return Vec::new() };
    let key = |(name, field): &(String, Shape)| VariantKey {
        name: name.clone(),
        kind: choices(&field.words()),
        default: field.default(),
        words: meaning(field, field),
    };
    let one = |(name, variant): &(String, Shape)| Variant {
        name: name.clone(),
        words: prose(&variant.doc),
        keys: match &variant.kind {
            Kind::Struct(fields) => fields.iter().map(key).collect(),
            _ => Vec::new(),
        },
    };
    variants.iter().map(one).collect()
}

/// A kind as a reader says it: `` `a`, `b` or `c` `` of `` `a` or `b` or `c` ``.
fn choices(kind: &str) -> String {
    match kind.rsplit_once(" or ") {
        Some((rest, last)) => format!("{} or {last}", rest.replace(" or ", ", ")),
        None => kind.to_owned(),
    }
}

/// A doc comment on one line, without the marks of its links.
fn prose(doc: &str) -> String {
    let line = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("[`crate::", "`").replace("[`", "`").replace("`]", "`")
}
