//! Writes the reference of the keys: what the programs say of them and what their fields' words say.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use perennial_tests::root;
use perennial_tests::world::World;

use super::source::{Sources, plain};

/// A line of `config keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub kind: String,
    pub default: String,
}

/// A program: its name, the crate whose `src/config.rs` holds its configuration, the middle of its variables.
pub struct Program {
    pub name: &'static str,
    pub folder: &'static str,
    pub variable: &'static str,
}

pub const PROGRAMS: [Program; 3] = [
    Program { name: "perennial-ingest", folder: "ingest", variable: "INGEST" },
    Program { name: "perennial-replay", folder: "replay", variable: "REPLAY" },
    Program { name: "perennial-train", folder: "trainer", variable: "TRAIN" },
];

const WIDTH: usize = 110;

impl Program {
    /// The file of its configuration, from the root.
    pub fn root(&self) -> String {
        format!("{}/src/config.rs", self.folder)
    }

    /// Every key it has, as `config keys` prints them.
    pub fn keys(&self, world: &World) -> Vec<Key> {
        let printed = world.succeed(self.name, &["config", "keys"]);
        printed.lines().map(Key::of).collect()
    }
}

impl Key {
    fn of(line: &str) -> Self {
        let mut columns = line.splitn(3, "  ");
        let (name, rest) = (columns.next().unwrap_or_default(), columns.collect::<Vec<_>>().join("  "));
        let rest = rest.trim_start();
        let (kind, default) = rest.split_once("  ").unwrap_or((rest, ""));
        let own = |text: &str| text.trim().to_owned();
        Self { name: own(name), kind: own(kind), default: own(default) }
    }

    /// The table it stands in, as a dotted name: `source[].fields` of `source[].fields.text`. A key whose
    /// name the user chooses stands beside its table.
    fn table(&self) -> &str {
        let name = self.name.strip_suffix(".<name>").unwrap_or(&self.name);
        name.rsplit_once('.').map_or("", |(table, _)| table)
    }
}

/// The sources of the three programs' configuration types.
pub fn sources() -> Sources {
    Sources::of(root(), &["schemas", "schemas/program", "schemas/store", "ingest", "replay", "trainer"])
}

/// The generated part of `docs/configuration.md`, or all that keeps it from being written.
pub fn page(world: &World, sources: &Sources) -> Result<String, Vec<String>> {
    let mut text = String::new();
    let mut problems = Vec::new();
    let replay = PROGRAMS[1].keys(world);
    for program in &PROGRAMS {
        let mut keys = program.keys(world);
        let (inner, own) = keys.into_iter().partition(|key| key.name.starts_with("replay."));
        keys = own;
        let _ = write!(
            text,
            "\n## {}\n\nVariables begin with `PERENNIAL_{}__`.\n",
            program.name, program.variable
        );
        section(&mut text, &mut problems, program, sources, &keys, "");
        let tables: Vec<&str> = keys.iter().map(Key::table).filter(|table| !table.is_empty()).collect();
        let mut done = BTreeSet::new();
        for table in tables.into_iter().filter(|table| done.insert(*table)) {
            section(&mut text, &mut problems, program, sources, &keys, table);
            if table == "buffer.<name>" {
                policies(&mut text, &mut problems, world, sources);
            }
        }
        if !inner.is_empty() {
            text.push_str(&nested(&replay, &inner, &mut problems));
        }
    }
    if problems.is_empty() { Ok(text) } else { Err(problems) }
}

/// One table: its header, what it is, its keys.
fn section(
    text: &mut String,
    problems: &mut Vec<String>,
    program: &Program,
    sources: &Sources,
    keys: &[Key],
    table: &str,
) {
    let own: Vec<&Key> = keys.iter().filter(|key| key.table() == table).collect();
    if !table.is_empty() {
        match title(program, sources, table) {
            Ok(title) => text.push_str(&title),
            Err(problem) => problems.push(problem),
        }
    }
    if let Some(open) = own.iter().find(|key| key.name.ends_with(".*")) {
        text.push_str(&wrapped("", &format!("Where no such table is written: `{}`.", open.default)));
    }
    if !own.is_empty() {
        text.push('\n');
    }
    for key in own.into_iter().filter(|key| !key.name.ends_with(".*")) {
        match words(program, sources, key) {
            Ok(words) => text.push_str(&entry(&key.name.replace("[]", ""), &key.kind, &key.default, &words)),
            Err(problem) => problems.push(problem),
        }
    }
}

/// A table's header, and what it is: the fuller of what its field and its type say.
fn title(program: &Program, sources: &Sources, table: &str) -> Result<String, String> {
    let name = table.replace("[]", "");
    let header = if table.ends_with("[]") { format!("[[{name}]]") } else { format!("[{name}]") };
    let field = sources.field(&program.root(), table)?;
    let holder = sources.resolve(&field.member.kind, &field.holder.path, false);
    // A type that speaks of its table begins with its header.
    let told = holder.ok().and_then(|holder| holder.doc.strip_prefix('`')?.split_once("]`: "));
    let told = told.map_or(String::new(), |(_, words)| upper_start(&plain(words)));
    let words = plain(&field.member.doc);
    let fuller = if told.len() > words.len() { told } else { words };
    Ok(format!("\n### `{header}`\n\n{}", wrapped("", &fuller)))
}

/// What a key does, and what each of its words means.
fn words(program: &Program, sources: &Sources, key: &Key) -> Result<String, String> {
    let field = sources.field(&program.root(), &key.name)?;
    let mut words = plain(&field.member.doc);
    let choices: Vec<&str> = key.kind.split(" or ").map(|word| word.trim_matches('`')).collect();
    let told = choices.iter().any(|word| words.contains(&format!("`{word}`:")));
    if told || choices.len() < 2 || choices == ["true", "false"] {
        return Ok(words);
    }
    let variants = &sources.resolve(&field.member.kind, &field.holder.path, true)?.members;
    let same = |word: &str, name: &str| word.replace(['_', '-'], "") == name.to_lowercase();
    if variants.len() != choices.len() || !choices.iter().zip(variants).all(|(word, is)| same(word, &is.name))
    {
        return Err(format!("`{}` takes {choices:?}, its type has {variants:?}", key.name));
    }
    for (word, variant) in choices.iter().zip(variants) {
        if variant.doc.is_empty() {
            return Err(format!("`{}`: `{word}` has no words", key.name));
        }
        let _ = write!(words, " `{word}`: {}", plain(&variant.doc));
    }
    Ok(words)
}

/// Each policy of a buffer, as the program gives its settings.
fn policies(text: &mut String, problems: &mut Vec<String>, world: &World, sources: &Sources) {
    let refused =
        world.run("perennial-replay", &["--set", "buffer.main.policy=none-such", "config", "check"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    let names = told.split_once("known are ").map(|(_, names)| names.lines().next().unwrap_or_default());
    let names: Vec<&str> = names.unwrap_or_default().split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        problems.push(format!("an unknown policy is not answered with those there are: {told}"));
    }
    let list: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let choice = "Which records it holds; the other keys of the table are those of the policy.";
    text.push_str(&entry("buffer.<name>.policy", &list.join(" or "), "", choice));
    for name in names {
        if let Err(problem) = policy(text, name, world, sources) {
            problems.push(format!("policy `{name}`: {problem}"));
        }
    }
}

fn policy(text: &mut String, name: &str, world: &World, sources: &Sources) -> Result<(), String> {
    const FOLDER: &str = "replay/src/buffer/";
    let path = format!("{FOLDER}{name}.rs");
    let code = fs::read_to_string(root().join(&path)).map_err(|error| format!("{path}: {error}"))?;
    let opening = code.lines().map_while(|line| line.strip_prefix("//! "));
    let opening = opening.collect::<Vec<_>>().join(" ");
    if opening.is_empty() {
        return Err(format!("{path} does not open with what it holds"));
    }
    let _ = write!(text, "\n#### `policy = \"{name}\"`\n\n");
    text.push_str(&wrapped("", &plain(&opening)));
    text.push('\n');
    let shown = world.succeed(
        "perennial-replay",
        &["--set", &format!("buffer={{ main = {{ policy = \"{name}\" }} }}"), "config", "show"],
    );
    let shown: toml::Table = shown.parse().map_err(|error| format!("`config show`: {error}"))?;
    let table = shown.get("buffer").and_then(|buffer| buffer.get("main")).and_then(toml::Value::as_table);
    let table = table.ok_or("`config show` has no table `buffer.main`")?;
    let settings: Vec<(&String, &toml::Value)> = table.iter().filter(|(key, _)| *key != "policy").collect();
    let fields: BTreeSet<&str> = settings.iter().map(|(key, _)| key.as_str()).collect();
    let holder = sources.with_fields(FOLDER, &path, &fields)?;
    for member in &holder.members {
        let default = settings.iter().find(|(key, _)| **key == member.name).map(|(_, value)| *value);
        let default = default.ok_or_else(|| format!("`{}` has no default", member.name))?;
        let kind = match default {
            toml::Value::Integer(_) => "whole number",
            toml::Value::Float(_) => "number",
            toml::Value::Boolean(_) => "`true` or `false`",
            _ => "string",
        };
        if member.doc.is_empty() {
            return Err(format!("`{}` has no words", member.name));
        }
        let key = format!("buffer.<name>.{}", member.name);
        text.push_str(&entry(&key, kind, &default.to_string(), &plain(&member.doc)));
    }
    Ok(())
}

/// The trainer's table `replay`: the replay program's own configuration, or it is a problem.
fn nested(replay: &[Key], inner: &[Key], problems: &mut Vec<String>) -> String {
    let bare = |key: &Key| Key { name: key.name.trim_start_matches("replay.").to_owned(), ..key.clone() };
    if !inner.iter().map(bare).eq(replay.iter().cloned()) {
        problems.push("the trainer's `replay.` keys are not those of perennial-replay".to_owned());
    }
    let words = "Everything of [perennial-replay](#perennial-replay), with the same defaults, below `replay.`: \
                 `[replay.batch]`, `replay.mix.main`, `[replay.buffer.main]`. A job listens to \
                 nobody: `http`, `flight`, `batches`, `body` and `grace` of `replay.serve` have no effect in it.";
    format!("\n### `[replay]`\n\n{}", wrapped("", words))
}

/// A key as a line of a list; `default` as TOML, empty where there is none.
fn entry(name: &str, kind: &str, default: &str, words: &str) -> String {
    let kind = choices(kind.split(", as `").next().unwrap_or(kind));
    let facts = if default.is_empty() {
        format!("{kind}; no default")
    } else {
        format!("{kind}; default `{default}`")
    };
    wrapped("- ", &format!("`{name}` ({facts}): {words}"))
}

/// A kind as a reader says it: `` `a`, `b` or `c` `` of `` `a` or `b` or `c` ``.
fn choices(kind: &str) -> String {
    let words: Vec<&str> = kind.split(" or ").collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ if kind.starts_with("array of") => format!("{kind}s"),
        _ => kind.to_owned(),
    }
}

fn upper_start(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

/// `text` in lines of at most [`WIDTH`] characters where its words allow, the first after `bullet`, the
/// others below it. What stands in backticks is one word.
fn wrapped(bullet: &str, text: &str) -> String {
    let mut page = bullet.to_owned();
    let mut column = bullet.chars().count();
    let mut in_code = false;
    let mut word = String::new();
    for character in text.chars().chain([' ']) {
        in_code ^= character == '`';
        if character != ' ' || in_code {
            word.push(character);
            continue;
        }
        let length = word.chars().count();
        // A line that begins so would be a list, a title or a quotation.
        let plain = word.starts_with(|c: char| c.is_alphabetic() || "`\"([{".contains(c));
        let is_first = column == bullet.chars().count();
        if !is_first && plain && column + 1 + length > WIDTH {
            let _ = write!(page, "\n{}{word}", " ".repeat(bullet.len()));
            column = bullet.len() + length;
        } else {
            let gap = if is_first { "" } else { " " };
            let _ = write!(page, "{gap}{word}");
            column += gap.len() + length;
        }
        word.clear();
    }
    page + "\n"
}

/// What became of the keys between two pages: those that are gone, new, or of another kind or default.
pub fn changes(before: &str, after: &str) -> Vec<String> {
    let (old, new) = (entries(before), entries(after));
    let missing = old.iter().filter(|(key, _)| !new.iter().any(|(other, _)| other == key));
    let mut told: Vec<String> = missing.map(|(key, _)| format!("gone: {key}")).collect();
    for (key, facts) in &new {
        match old.iter().find(|(other, _)| other == key) {
            None => told.push(format!("new: {key} {facts}")),
            Some((_, was)) if was != facts => told.push(format!("changed: {key} was {was}, is {facts}")),
            Some(_) => {}
        }
    }
    told
}

/// Every key with its kind and default, under its program and policy.
fn entries(page: &str) -> Vec<(String, String)> {
    let joined = page.replace("\n  ", " ");
    let (mut program, mut policy) = ("", "");
    let mut found = Vec::new();
    for line in joined.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            (program, policy) = (title, "");
        } else if line.starts_with("###") {
            policy = line.strip_prefix("#### ").unwrap_or_default();
        } else if let Some((key, rest)) = line.strip_prefix("- `").and_then(|rest| rest.split_once("` (")) {
            let facts = rest.split("): ").next().unwrap_or(rest);
            found.push((format!("{program} {policy} `{key}`").replace("  ", " "), format!("({facts})")));
        }
    }
    found
}
