//! Reads the documentation of configuration types from the sources: it is written once, at the field.
//!
//! Line by line, as rustfmt lays types out. What it would miss shows at once: every key that a program has
//! must lead to a field with words, and every field on the way must be a key.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A struct or an enum that serde reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration {
    /// The file, from the root with `/`.
    pub path: String,
    pub name: String,
    pub is_enum: bool,
    pub doc: String,
    /// Fields or variants, in order.
    pub members: Vec<Member>,
}

/// A field or a variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub name: String,
    /// A field's type as it is written; empty for a variant.
    pub kind: String,
    pub doc: String,
}

/// Every type of these files that serde reads.
pub struct Sources(Vec<Declaration>);

/// A key's field.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    pub member: &'a Member,
    /// Where it stands.
    pub holder: &'a Declaration,
}

impl Sources {
    /// All types in the sources of these crates, folders below `root`.
    pub fn of(root: &Path, crates: &[&str]) -> Self {
        let mut all = Vec::new();
        let mut open: Vec<_> = crates.iter().map(|name| root.join(name).join("src")).collect();
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    all.extend(declarations(&name, &fs::read_to_string(&path).unwrap()));
                }
            }
        }
        all.sort_by(|a, b| (&a.path, &a.name).cmp(&(&b.path, &b.name)));
        Self(all)
    }

    /// The type `kind` as the file `from` means it: of that file, else of its crate, else of `schemas`.
    pub fn resolve(&self, kind: &str, from: &str, is_enum: bool) -> Result<&Declaration, String> {
        let name = last_name(kind);
        let named: Vec<&Declaration> =
            self.0.iter().filter(|found| found.name == name && found.is_enum == is_enum).collect();
        let crate_of = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
        let home = crate_of(from);
        let near = [
            named.iter().filter(|found| found.path == from).collect::<Vec<_>>(),
            named.iter().filter(|found| crate_of(&found.path) == home).collect(),
            named.iter().filter(|found| crate_of(&found.path) == "schemas").collect(),
        ];
        match near.iter().find(|found| !found.is_empty()).map(Vec::as_slice) {
            Some([one]) => Ok(one),
            Some(several) => {
                let places: Vec<&str> = several.iter().map(|found| found.path.as_str()).collect();
                Err(format!("`{name}`, named in {from}, is in several files: {}", places.join(", ")))
            }
            None => Err(format!("`{name}`, named in {from}, is no type that serde reads")),
        }
    }

    /// The field of the dotted `key` of the program whose root is `Config` in the file `root`.
    pub fn field(&self, root: &str, key: &str) -> Result<Field<'_>, String> {
        let mut holder = self.resolve("Config", root, false)?;
        let names: Vec<&str> = fields_of(key).collect();
        let (last, way) = names.split_last().ok_or_else(|| format!("`{key}` is no key"))?;
        for name in way {
            let member = holder.member(name).ok_or_else(|| format!("`{key}`: {}", holder.lacks(name)))?;
            holder = self.resolve(&member.kind, &holder.path, false)?;
        }
        let member = holder.member(last).ok_or_else(|| format!("`{key}`: {}", holder.lacks(last)))?;
        if member.doc.is_empty() {
            return Err(format!("`{key}`: `{last}` of `{}` in {} has no words", holder.name, holder.path));
        }
        Ok(Field { member, holder })
    }

    /// The only type of the files below `folder` that has exactly these fields, or the one of `first`.
    pub fn with_fields(
        &self,
        folder: &str,
        first: &str,
        fields: &BTreeSet<&str>,
    ) -> Result<&Declaration, String> {
        let has = |found: &&Declaration| {
            found.path.starts_with(folder)
                && !found.is_enum
                && found.members.iter().map(|member| member.name.as_str()).collect::<BTreeSet<_>>() == *fields
        };
        let found: Vec<&Declaration> = self.0.iter().filter(has).collect();
        let own = found.iter().find(|found| found.path == first);
        match (own, found.as_slice()) {
            (Some(own), _) => Ok(own),
            (None, [one]) => Ok(one),
            _ => Err(format!("{} types below {folder} have the fields {fields:?}", found.len())),
        }
    }

    /// Fields of the types on the way to `keys` that are no key: nobody could set them.
    pub fn idle_fields(&self, root: &str, keys: &[String]) -> Result<Vec<String>, String> {
        let known: BTreeSet<Vec<&str>> = keys.iter().map(|key| fields_of(key).collect()).collect();
        let mut idle = BTreeSet::new();
        for key in &known {
            for depth in 1..=key.len() {
                let holder = self.field(root, &key[..depth].join("."))?.holder;
                for member in &holder.members {
                    let full = [&key[..depth - 1], &[member.name.as_str()]].concat();
                    if !known.iter().any(|known| known.starts_with(&full)) {
                        idle.insert(full.join("."));
                    }
                }
            }
        }
        Ok(idle.into_iter().collect())
    }
}

impl Declaration {
    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    fn lacks(&self, name: &str) -> String {
        format!("`{}` in {} has no field `{name}`", self.name, self.path)
    }
}

/// The names of fields in a dotted key: without what the user chooses.
pub fn fields_of(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').map(|part| part.trim_end_matches("[]")).filter(|part| !matches!(*part, "<name>" | "*"))
}

/// `Foo` of `Option<Vec<crate::a::Foo>>`.
fn last_name(kind: &str) -> &str {
    let kind = kind.trim_end_matches(['>', ' ']);
    kind.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(kind)
}

fn declarations(path: &str, text: &str) -> Vec<Declaration> {
    let mut found = Vec::new();
    let (mut doc, mut read) = (String::new(), false);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        if code.starts_with("#[") || code.starts_with("//") {
            read |= code.starts_with("#[derive(") && code.contains("Deserialize");
            note(&mut doc, code);
            continue;
        }
        if let Some((name, is_enum)) = header(code).filter(|_| read) {
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let body: Vec<&str> = lines.by_ref().take_while(|line| **line != end).collect();
            let members = members(&body, is_enum);
            let (path, name, doc) = (path.to_owned(), name.to_owned(), doc.clone());
            found.push(Declaration { path, name, is_enum, doc, members });
        }
        (doc, read) = (String::new(), false);
    }
    found
}

/// Adds a line of documentation to `doc`; whether it is one.
fn note(doc: &mut String, line: &str) -> bool {
    let Some(words) = line.strip_prefix("///") else { return false };
    if !doc.is_empty() {
        doc.push(' ');
    }
    doc.push_str(words.trim());
    true
}

/// The name in `pub struct Name {` or `pub enum Name {`, and whether it is the latter.
fn header(code: &str) -> Option<(&str, bool)> {
    let code = code.strip_suffix(" {")?;
    let code = code.strip_prefix("pub ").or_else(|| code.strip_prefix("pub(crate) ")).unwrap_or(code);
    match code.strip_prefix("struct ") {
        Some(name) => Some((name, false)),
        None => code.strip_prefix("enum ").map(|name| (name, true)),
    }
}

fn members(body: &[&str], is_enum: bool) -> Vec<Member> {
    let mut found = Vec::new();
    let (mut doc, mut renamed) = (String::new(), None);
    for line in body.iter().map(|line| line.trim()) {
        if note(&mut doc, line) {
            continue;
        }
        if line.starts_with("#[") {
            let name = line.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"'));
            renamed = name.map(|(name, _)| name.to_owned()).or(renamed);
            continue;
        }
        let code = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
        let name: String = code.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let rest = &code[name.len()..];
        let kind = rest.strip_prefix(": ").map(|kind| kind.trim_end_matches(',').to_owned());
        if !name.is_empty() && (kind.is_some() || is_enum) {
            let name = renamed.take().unwrap_or(name);
            found.push(Member { name, kind: kind.unwrap_or_default(), doc: std::mem::take(&mut doc) });
        }
        (doc, renamed) = (String::new(), None);
    }
    found
}

/// The words of a documentation comment without its links.
pub fn plain(doc: &str) -> String {
    let mut text = String::new();
    let mut rest = doc;
    while let Some((before, after)) = rest.split_once("[`") {
        let Some((code, after)) = after.split_once("`]") else { break };
        let code = code.trim_start_matches("crate::").trim_start_matches("super::");
        text.push_str(&format!("{before}`{code}`"));
        let link = after.strip_prefix('(').and_then(|link| link.split_once(')'));
        rest = link.map_or(after, |(_, after)| after);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "/// A root.\n#[derive(Debug, Serialize, Deserialize)]\n#[serde(default)]\npub struct Config {\n    \
        /// One thing,\n    /// and more.\n    pub one: u32,\n    /// Others.\n    pub parts: Vec<deep::Part>,\n    \
        pub mute: Option<Mode>,\n}\n\npub struct Unread {\n    pub one: u32,\n}\n\n#[derive(Deserialize)]\npub struct Part {\n    \
        /// Named anew.\n    #[serde(rename = \"new-name\")]\n    pub(crate) old: BTreeMap<String, Mode>,\n}\n\n\
        #[derive(Clone, Deserialize)]\npub enum Mode {\n    /// As it is.\n    #[default]\n    Plain,\n    /// In part.\n    Half,\n}\n";

    fn sample() -> Sources {
        Sources(declarations("a/src/config.rs", SAMPLE))
    }

    #[test]
    fn types_that_serde_reads_are_found_with_their_words() {
        let sources = sample();
        let names: Vec<&str> = sources.0.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["Config", "Part", "Mode"]);
        assert_eq!((sources.0[0].doc.as_str(), sources.0[1].doc.as_str()), ("A root.", ""));
        let one = sources.field("a/src/config.rs", "one").unwrap();
        assert_eq!((one.member.kind.as_str(), one.member.doc.as_str()), ("u32", "One thing, and more."));
        let inner = sources.field("a/src/config.rs", "parts[].new-name.<name>").unwrap();
        assert_eq!((inner.member.doc.as_str(), inner.holder.name.as_str()), ("Named anew.", "Part"));
        let mode = sources.resolve(&inner.member.kind, "a/src/config.rs", true).unwrap();
        let words: Vec<(&str, &str)> =
            mode.members.iter().map(|word| (word.name.as_str(), word.doc.as_str())).collect();
        assert_eq!(words, [("Plain", "As it is."), ("Half", "In part.")]);
    }

    #[test]
    fn key_without_words_and_field_without_a_key_are_told() {
        let sources = sample();
        let told = |key: &str| sources.field("a/src/config.rs", key).unwrap_err();
        assert_eq!(told("mute"), "`mute`: `mute` of `Config` in a/src/config.rs has no words");
        assert_eq!(told("two"), "`two`: `Config` in a/src/config.rs has no field `two`");
        assert_eq!(told("one.x"), "`u32`, named in a/src/config.rs, is no type that serde reads");
        let idle = sources.idle_fields("a/src/config.rs", &["parts[].new-name.<name>".to_owned()]);
        assert_eq!(idle.unwrap(), ["mute", "one"]);
    }

    #[test]
    fn type_is_that_of_the_nearest_file() {
        let text = "#[derive(Deserialize)]\nstruct Config {\n    /// X.\n    x: u8,\n}\n";
        let at = |path: &str| declarations(path, text);
        let sources = Sources(["a/src/b.rs", "a/src/c.rs", "schemas/src/d.rs"].map(at).concat());
        let path = |from: &str| sources.resolve("Config", from, false).map(|found| found.path.as_str());
        assert_eq!(path("a/src/c.rs"), Ok("a/src/c.rs"));
        assert_eq!(path("z/src/z.rs"), Ok("schemas/src/d.rs"));
        assert!(path("a/src/z.rs").unwrap_err().contains("is in several files: a/src/b.rs, a/src/c.rs"));
    }

    #[test]
    fn links_lose_their_brackets_and_targets() {
        assert_eq!(plain("see [`crate::a::b`] and [`X`](super::X), [1] too"), "see `a::b` and `X`, [1] too");
    }
}
