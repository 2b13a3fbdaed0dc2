//! Is every file of Rust compiled? One that no `mod` declares looks like code and is not.

use std::collections::{BTreeMap, BTreeSet};

use super::lex::{code, tokens};
use super::{File, Problem};

/// Files that no target of their crate reaches.
pub fn unreachable(files: &[File]) -> Vec<Problem> {
    let sources: BTreeMap<&str, &str> = files
        .iter()
        .filter(|file| file.path.ends_with(".rs"))
        .map(|file| (file.path.as_str(), file.text.as_str()))
        .collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<(String, bool)> = Vec::new();
    for manifest in files {
        if let Some(member) = manifest.path.strip_suffix("/Cargo.toml") {
            open.extend(roots(member, &manifest.text, sources.keys().copied()).map(|root| (root, true)));
        }
    }
    while let Some((path, beside)) = open.pop() {
        let Some(text) = sources.get(path.as_str()) else { continue };
        if reached.insert(path.clone()) {
            open.extend(declared(&path, beside, text));
        }
    }
    let lost = sources.keys().filter(|path| path.contains('/') && !reached.contains(**path));
    lost.map(|path| Problem::new(path, 1, "no `mod` declares this file, so it is never compiled")).collect()
}

/// The files at which cargo begins: the targets it finds by itself, and those the manifest names.
fn roots<'a>(
    member: &str,
    manifest: &str,
    sources: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = String> {
    let table: toml::Table = manifest.parse().unwrap_or_default();
    let found = |kind: &str| {
        let package = table.get("package").and_then(|package| package.get(format!("auto{kind}")));
        package.and_then(toml::Value::as_bool).unwrap_or(true)
    };
    let mut roots: Vec<String> = ["build.rs", "src/lib.rs", "src/main.rs"].map(str::to_owned).into();
    for kind in ["lib", "bin", "test", "bench", "example"] {
        let targets = match table.get(kind) {
            Some(toml::Value::Array(targets)) => targets.as_slice(),
            Some(target) => std::slice::from_ref(target),
            None => &[],
        };
        let paths = targets.iter().filter_map(|target| target.get("path")?.as_str());
        roots.extend(paths.map(str::to_owned));
    }
    let folders =
        [("bins", "src/bin/"), ("tests", "tests/"), ("benches", "benches/"), ("examples", "examples/")];
    for source in sources {
        let Some(inside) = source.strip_prefix(member).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        for (kind, folder) in folders {
            let Some(name) = inside.strip_prefix(folder).filter(|_| found(kind)) else { continue };
            if !name.contains('/') || (name.ends_with("/main.rs") && name.matches('/').count() == 1) {
                roots.push(inside.to_owned());
            }
        }
    }
    let member = member.to_owned();
    roots.into_iter().map(move |root| format!("{member}/{root}"))
}

/// The files that the `mod name;` of this one may mean, each with whether its own children lie beside it.
fn declared(path: &str, beside: bool, text: &str) -> Vec<(String, bool)> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let own = match file.trim_end_matches(".rs") {
        _ if beside => folder.to_owned(),
        "mod" => folder.to_owned(),
        stem => format!("{folder}/{stem}"),
    };
    let code = code(text);
    let tokens = tokens(&code);
    let mut files = Vec::new();
    let mut depth = 0_usize;
    // The modules with a body around the place: each is a folder, and has the depth of its inside.
    let mut around: Vec<(usize, &str)> = Vec::new();
    for (index, (at, token)) in tokens.iter().enumerate() {
        match *token {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                around.retain(|(inside, _)| *inside <= depth);
            }
            "mod" => {
                let word = |ahead: usize| tokens.get(index + ahead).map_or("", |(_, token)| token);
                let (name, end) = (word(1), word(2));
                let inline: String = around.iter().map(|(_, name)| format!("/{name}")).collect();
                match (end, path_attribute(&code, *at, text)) {
                    (";", Some(path)) if inline.is_empty() => files.push((format!("{folder}/{path}"), true)),
                    (";", Some(path)) => files.push((format!("{own}{inline}/{path}"), true)),
                    (";", None) => {
                        files.push((format!("{own}{inline}/{name}.rs"), false));
                        files.push((format!("{own}{inline}/{name}/mod.rs"), false));
                    }
                    ("{", _) => around.push((depth + 1, name)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    files
}

/// The value of `#[path = ".."]` among the attributes of the `mod` at `keyword`.
fn path_attribute(code: &str, keyword: usize, text: &str) -> Option<String> {
    let begin = code[..keyword].rfind([';', '}', '{']).map_or(0, |at| at + 1);
    let attribute = begin + code[begin..keyword].find("#[path")?;
    text[attribute..keyword].split('"').nth(1).map(str::to_owned)
}

/// The paths of what is unreachable among these files.
fn lost(files: &[(&str, &str)]) -> Vec<String> {
    let file = |(path, text): &(&str, &str)| File { path: (*path).to_owned(), text: (*text).to_owned() };
    let files: Vec<File> = files.iter().map(file).collect();
    unreachable(&files).into_iter().map(|problem| problem.path).collect()
}

#[test]
fn file_is_reported_when_no_module_declares_it() {
    let files =
        [("a/Cargo.toml", ""), ("a/src/lib.rs", "mod b; // mod c;"), ("a/src/b.rs", ""), ("a/src/c.rs", "")];
    assert_eq!(lost(&files), ["a/src/c.rs"]);
}

#[test]
fn modules_are_followed_through_folders_paths_and_inline_modules() {
    let files = [
        ("a/Cargo.toml", ""),
        ("a/src/main.rs", "pub(crate) mod b;\nmod inline {\n    mod d;\n}\nmod e;"),
        ("a/src/b.rs", "#[cfg(test)]\nmod tests;\n#[path = \"odd/name.rs\"]\nmod c;"),
        ("a/src/b/tests.rs", ""),
        ("a/src/odd/name.rs", "mod near;"),
        ("a/src/odd/near.rs", ""),
        ("a/src/inline/d.rs", ""),
        ("a/src/e/mod.rs", "mod f;"),
        ("a/src/e/f.rs", ""),
    ];
    assert_eq!(lost(&files), Vec::<String>::new());
}

#[test]
fn targets_that_cargo_finds_are_roots() {
    let files = [
        ("a/Cargo.toml", ""),
        ("a/build.rs", ""),
        ("a/benches/b.rs", ""),
        ("a/tests/c.rs", ""),
        ("a/src/bin/d.rs", ""),
    ];
    assert_eq!(lost(&files), Vec::<String>::new());
}

#[test]
fn file_of_tests_is_reported_when_the_manifest_names_one_binary() {
    let manifest = "[package]\nautotests = false\n[[test]]\nname = \"main\"\npath = \"tests/main.rs\"";
    let files = [
        ("a/Cargo.toml", manifest),
        ("a/tests/main.rs", "mod b;"),
        ("a/tests/b.rs", "mod d;"),
        ("a/tests/b/d.rs", ""),
        ("a/tests/c.rs", ""),
    ];
    assert_eq!(lost(&files), ["a/tests/c.rs"]);
}
