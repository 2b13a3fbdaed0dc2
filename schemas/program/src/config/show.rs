//! Prints the effective configuration: for a reader, with origins; for a digest, canonically.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::tree::{Node, Step, Value, basic_string, dotted, quoted};

/// `effective` as a TOML file that reads back as the same configuration, each value with the origin
/// it has in `origins`. Of a secret there is only a comment: what is printed ends in logs, reports
/// and folders of jobs, and a secret that is left out may still come from the environment.
pub(super) fn annotated(effective: &Node, origins: &Node) -> String {
    let mut page = Page { text: String::new(), origins };
    if let Some(entries) = effective.entries() {
        page.table(&mut Vec::new(), entries);
    }
    page.text
}

struct Page<'a> {
    text: String,
    origins: &'a Node,
}

impl Page<'_> {
    /// The values of a table first, then its tables: TOML gives a header everything that follows it.
    fn table(&mut self, path: &mut Vec<Step>, entries: &BTreeMap<String, Node>) {
        for (key, node) in entries.iter().filter(|(_, node)| !is_section(node)) {
            path.push(Step::Key(key.clone()));
            let (origin, key) = (self.origins.origin(path), quoted(key));
            let _ = if is_secret(path, node) {
                writeln!(self.text, "# {key} is set and not shown: {origin}")
            } else {
                writeln!(self.text, "{key} = {}  # {origin}", inline(node))
            };
            path.pop();
        }
        for (key, node) in entries.iter().filter(|(_, node)| is_section(node)) {
            path.push(Step::Key(key.clone()));
            match &node.value {
                Value::Table(entries) => {
                    if entries.is_empty() || entries.values().any(|node| !is_section(node)) {
                        self.header("[", path, "]", entries.is_empty());
                    }
                    self.table(path, entries);
                }
                Value::Array(items) => {
                    for (index, entries) in items.iter().filter_map(Node::entries).enumerate() {
                        path.push(Step::Index(index));
                        self.header("[[", path, "]]", entries.is_empty());
                        self.table(path, entries);
                        path.pop();
                    }
                }
                _ => {}
            }
            path.pop();
        }
    }

    fn header(&mut self, open: &str, path: &[Step], close: &str, is_empty: bool) {
        let keys: Vec<Step> = path.iter().filter(|step| matches!(step, Step::Key(_))).cloned().collect();
        let blank = if self.text.is_empty() { "" } else { "\n" };
        let origin = self.origins.origin(path);
        // A table without values is a value of its own; otherwise each value says where it is from.
        let origin = if is_empty { format!("  # {origin}") } else { String::new() };
        let _ = writeln!(self.text, "{blank}{open}{}{close}{origin}", dotted(&keys));
    }
}

/// Words in the names of an object store's options that hold what opens it: `aws_access_key_id`,
/// `aws_secret_access_key`, `aws_session_token`, ...
const SECRET: [&str; 5] = ["secret", "token", "password", "key", "credential"];

/// Whether `node` opens a store: an option with the name of a secret, or a URL with a user in it.
fn is_secret(path: &[Step], node: &Node) -> bool {
    let (Value::Str(text) | Value::Text(text)) = &node.value else { return false };
    let [.., Step::Key(store), Step::Key(options), Step::Key(name)] = path else { return false };
    let name = name.to_ascii_lowercase();
    let authority = text.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    let opens = SECRET.iter().any(|word| name.contains(word)) || authority.is_some_and(|it| it.contains('@'));
    store == "store" && options == "options" && opens
}

/// Whether `node` is written under a header of its own.
fn is_section(node: &Node) -> bool {
    match &node.value {
        Value::Table(_) => true,
        Value::Array(items) => !items.is_empty() && items.iter().all(|item| item.entries().is_some()),
        _ => false,
    }
}

/// One `dotted.key = value` a line, sorted at every level, without origins: equal for equal
/// configurations, wherever and in whatever order they were written.
pub(super) fn canonical(effective: &Node) -> String {
    let mut text = String::new();
    leaves(effective, &mut Vec::new(), &mut text);
    text
}

fn leaves(node: &Node, path: &mut Vec<Step>, text: &mut String) {
    match node.entries().filter(|entries| path.is_empty() || !entries.is_empty()) {
        Some(entries) => {
            for (key, node) in entries {
                path.push(Step::Key(key.clone()));
                leaves(node, path, text);
                path.pop();
            }
        }
        None => {
            let _ = writeln!(text, "{} = {}", dotted(path), inline(node));
        }
    }
}

/// `node` as a TOML value on one line.
pub(super) fn inline(node: &Node) -> String {
    match &node.value {
        Value::Str(text) | Value::Text(text) => basic_string(text),
        Value::Int(value) => value.to_string(),
        Value::Float(value) if value.is_nan() => "nan".to_owned(),
        Value::Float(value) => format!("{value:?}"),
        Value::Bool(value) => value.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Table(entries) => {
            let pairs: Vec<String> =
                entries.iter().map(|(key, node)| format!("{} = {}", quoted(key), inline(node))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // An absent element of an array: TOML has no word for it.
        Value::Gone => "\"\"".to_owned(),
    }
}
