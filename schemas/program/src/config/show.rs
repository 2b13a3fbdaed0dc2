//! Prints the effective configuration: for a reader, with origins; for a digest, canonically.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::layer::{Origin, Origins};

/// `effective` as a TOML file that reads back as the same configuration, each value with the origin
/// it has in `origins`. Of a secret there is only a comment: what is printed ends in logs, reports
/// and folders of jobs, and a secret that is left out may still come from the environment.
pub(super) fn annotated(effective: &Map<String, Value>, origins: &Origins) -> String {
    let mut page = Page { text: String::new(), origins };
    page.table("", "", effective);
    page.text
}

struct Page<'a> {
    text: String,
    origins: &'a Origins,
}

impl<'a> Page<'a> {
    /// The values of a table first, then its tables: TOML gives a header everything that follows it.
    /// `path` counts the elements of arrays, `header` does not.
    fn table(&mut self, path: &str, header: &str, entries: &Map<String, Value>) {
        for (key, value) in entries.iter().filter(|(_, value)| !is_section(value)) {
            let origin = self.origin(&join(path, key));
            let shown = quoted(key);
            let _ = if is_secret(path, key, value) {
                writeln!(self.text, "# {shown} is set and not shown: {origin}")
            } else {
                writeln!(self.text, "{shown} = {}  # {origin}", inline(value))
            };
        }
        for (key, value) in entries.iter().filter(|(_, value)| is_section(value)) {
            let (path, header) = (join(path, key), join(header, key));
            match value {
                Value::Object(entries) => {
                    if entries.is_empty() || entries.values().any(|value| !is_section(value)) {
                        self.header(&format!("[{header}]"), &path, entries.is_empty());
                    }
                    self.table(&path, &header, entries);
                }
                Value::Array(items) => {
                    for (index, entries) in items.iter().filter_map(Value::as_object).enumerate() {
                        let path = format!("{path}[{index}]");
                        self.header(&format!("[[{header}]]"), &path, entries.is_empty());
                        self.table(&path, &header, entries);
                    }
                }
                _ => {}
            }
        }
    }

    fn header(&mut self, header: &str, path: &str, is_empty: bool) {
        let blank = if self.text.is_empty() { "" } else { "\n" };
        // A table without values is a value of its own; otherwise each value says where it is from.
        let origin = if is_empty { format!("  # {}", self.origin(path)) } else { String::new() };
        let _ = writeln!(self.text, "{blank}{header}{origin}");
    }

    fn origin(&self, path: &str) -> &'a Origin {
        self.origins.get(path).unwrap_or(&Origin::Default)
    }
}

/// Words in the names of an object store's options that hold what opens it: `aws_access_key_id`,
/// `aws_secret_access_key`, `aws_session_token`, ...
const SECRET: [&str; 5] = ["secret", "token", "password", "key", "credential"];

/// Whether `value` opens a store: an option with the name of a secret, or a URL with a user in it.
fn is_secret(table: &str, key: &str, value: &Value) -> bool {
    let Value::String(text) = value else { return false };
    let is_option = table == "store.options" || table.ends_with(".store.options");
    let name = key.to_ascii_lowercase();
    let authority = text.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    let opens = SECRET.iter().any(|word| name.contains(word)) || authority.is_some_and(|it| it.contains('@'));
    is_option && opens
}

/// Whether `value` is written under a header of its own.
fn is_section(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_object),
        _ => false,
    }
}

/// One `dotted.key = value` a line, sorted at every level, without origins: equal for equal
/// configurations, wherever and in whatever order they were written.
pub(super) fn canonical(effective: &Map<String, Value>) -> String {
    let mut text = String::new();
    leaves(effective, "", &mut text);
    text
}

fn leaves(entries: &Map<String, Value>, path: &str, text: &mut String) {
    for (key, value) in entries {
        let path = join(path, key);
        match value {
            Value::Object(entries) if !entries.is_empty() => leaves(entries, &path, text),
            _ => drop(writeln!(text, "{path} = {}", inline(value))),
        }
    }
}

/// `value` as a TOML value on one line.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => basic_string(text),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) => format!("{number:?}"),
            None => number.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Object(entries) => {
            let pairs = entries.iter().map(|(key, value)| format!("{} = {}", quoted(key), inline(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Bool(_) | Value::Null => value.to_string(),
    }
}

/// The dotted key of `key` in the table `path`, odd keys quoted: `limits."a.b"`.
pub(super) fn join(path: &str, key: &str) -> String {
    let key = quoted(key);
    if path.is_empty() { key.into_owned() } else { format!("{path}.{key}") }
}

/// `key` as TOML writes it: bare if it can be, else in quotes.
pub(super) fn quoted(key: &str) -> Cow<'_, str> {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { Cow::Borrowed(key) } else { Cow::Owned(basic_string(key)) }
}

/// `text` as a TOML basic string on one line, quotes included.
fn basic_string(text: &str) -> String {
    // JSON escapes all that TOML wants escaped, except this character.
    serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007F")
}
