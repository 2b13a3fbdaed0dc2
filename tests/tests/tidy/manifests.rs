//! Rules over the manifests and the lock file: who depends on whom, and on which version.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::Problem;

/// One of our crates.
struct Member {
    folder: &'static str,
    name: &'static str,
    /// Which of ours it may use: only what stands before it.
    may_use: &'static [&'static str],
}

const MEMBERS: [Member; 8] = [
    Member { folder: "schemas/program", name: "perennial-program", may_use: &[] },
    Member { folder: "schemas/report", name: "perennial-report", may_use: &[] },
    Member { folder: "schemas", name: "perennial-schemas", may_use: &["perennial-program"] },
    Member {
        folder: "schemas/store",
        name: "perennial-store",
        may_use: &["perennial-program", "perennial-schemas"],
    },
    Member {
        folder: "ingest",
        name: "perennial-ingest",
        may_use: &["perennial-program", "perennial-schemas", "perennial-store"],
    },
    Member {
        folder: "replay",
        name: "perennial-replay",
        may_use: &["perennial-program", "perennial-schemas", "perennial-store"],
    },
    Member {
        folder: "trainer",
        name: "perennial-trainer",
        may_use: &[
            "perennial-program",
            "perennial-report",
            "perennial-schemas",
            "perennial-store",
            "perennial-replay",
        ],
    },
    Member {
        folder: "tests",
        name: "perennial-tests",
        may_use: &["perennial-program", "perennial-schemas", "perennial-store"],
    },
];

/// The crates that bring libtorch.
const LIBTORCH: [&str; 2] = ["tch", "torch-sys"];

/// Families of crates whose types our crates hand to each other: a second version would not fit.
const ONE_VERSION: [&str; 7] =
    ["arrow", "parquet", "datafusion", "deltalake", "object_store", "tonic", "prost"];

/// The folder of the crate whose manifest this is; nothing for other files and for the workspace's own.
fn member(path: &str) -> Option<&str> {
    path.strip_suffix("/Cargo.toml")
}

/// Name, value and line of every dependency, of whichever kind and platform.
fn dependencies(text: &str) -> Vec<(String, Value, usize)> {
    fn collect(table: &Table, text: &str, found: &mut Vec<(String, Value, usize)>) {
        for (key, value) in table {
            let Value::Table(inner) = value else { continue };
            if key.ends_with("dependencies") {
                found.extend(
                    inner.iter().map(|(name, value)| (name.clone(), value.clone(), line_of(text, name))),
                );
            } else {
                collect(inner, text, found);
            }
        }
    }
    let mut found = Vec::new();
    collect(&text.parse().unwrap_or_default(), text, &mut found);
    found
}

/// The line on which a dependency of this name begins.
fn line_of(text: &str, name: &str) -> usize {
    1 + text.lines().position(|line| key(line) == Some(name)).unwrap_or(0)
}

/// The first part of the key of a line such as `arrow.workspace = true`.
fn key(line: &str) -> Option<&str> {
    let name = line.split(['.', '=', ' ']).next()?;
    line.contains('=').then_some(name).filter(|name| !name.is_empty())
}

/// A dependency with a version or a path of its own.
pub fn own_version(path: &str, text: &str) -> Vec<Problem> {
    if member(path).is_none() {
        return Vec::new();
    }
    let own = dependencies(text)
        .into_iter()
        .filter(|(_, value, _)| value.get("workspace") != Some(&Value::Boolean(true)));
    let what =
        |name| format!("write `{name}.workspace = true`, and its version in the Cargo.toml of the workspace");
    own.map(|(name, _, line)| Problem::new(path, line, what(name))).collect()
}

/// A dependency that stands after a later name of its group; blank lines and comments divide groups.
pub fn unsorted(path: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut inside = false;
    let mut previous = "";
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            inside =
                member(path).is_some() && line.trim_end().trim_end_matches(']').ends_with("dependencies");
            previous = "";
        } else if line.trim().is_empty() || line.starts_with('#') {
            previous = "";
        } else if let Some(name) = key(line).filter(|_| inside) {
            if name < previous {
                problems.push(Problem::new(path, index + 1, format!("`{name}` belongs before `{previous}`")));
            }
            previous = name;
        }
    }
    problems
}

/// A dependency against the order of our crates, or on libtorch from another crate than `trainer`.
pub fn wrong_way(path: &str, text: &str) -> Vec<Problem> {
    let Some(from) = member(path) else { return Vec::new() };
    let Some(Member { may_use, .. }) = MEMBERS.iter().find(|member| member.folder == from) else {
        return vec![Problem::new(
            path,
            1,
            format!("`{from}` has no line in MEMBERS of tests/tests/tidy/manifests.rs"),
        )];
    };
    let is_wrong = |to: &str| {
        let ours = MEMBERS.iter().any(|member| member.name == to);
        (ours && !may_use.contains(&to)) || (LIBTORCH.contains(&to) && from != "trainer")
    };
    let wrong = dependencies(text).into_iter().filter(|(to, _, _)| is_wrong(to));
    wrong
        .map(|(to, _, line)| Problem::new(path, line, format!("`{from}` must not depend on `{to}`")))
        .collect()
}

/// The packages of a lock file: name, version, names of the dependencies.
fn locked(path: &str, text: &str) -> Vec<(String, String, Vec<String>)> {
    let table: Table = if path == "Cargo.lock" { text.parse().unwrap_or_default() } else { Table::new() };
    let packages = table.get("package").and_then(Value::as_array).cloned().unwrap_or_default();
    let field =
        |package: &Value, key: &str| package.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let read = |package: &Value| {
        let list = package.get("dependencies").and_then(Value::as_array).cloned().unwrap_or_default();
        let names =
            list.iter().filter_map(|entry| entry.as_str()?.split(' ').next().map(str::to_owned)).collect();
        (field(package, "name"), field(package, "version"), names)
    };
    packages.iter().map(read).collect()
}

/// One of our crates, other than `trainer`, from which libtorch can be reached through any chain.
pub fn reaches_libtorch(path: &str, text: &str) -> Vec<Problem> {
    // All versions of a package together: one of them may be the way.
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, _, dependencies) in locked(path, text) {
        packages.entry(name).or_default().extend(dependencies);
    }
    let mut problems = Vec::new();
    for from in MEMBERS.iter().filter(|member| member.folder != "trainer").map(|member| member.name) {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            if reached.insert(name) {
                open.extend(packages.get(name).into_iter().flatten().map(String::as_str));
            }
        }
        if LIBTORCH.iter().any(|name| reached.contains(name)) {
            problems.push(Problem::new(
                path,
                1,
                format!("`{from}` depends on libtorch (`cargo tree -p {from} -i torch-sys`)"),
            ));
        }
    }
    problems
}

/// A crate of [`ONE_VERSION`], or of its family (`arrow-array`), of which the lock file holds two.
pub fn two_versions(path: &str, text: &str) -> Vec<Problem> {
    let in_family = |name: &str, family: &str| {
        name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, version, _) in locked(path, text) {
        if ONE_VERSION.iter().any(|family| in_family(&name, family)) {
            versions.entry(name).or_default().push(version);
        }
    }
    let twice = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    let what =
        |name, versions: Vec<String>| format!("`{name}` is here as {}: one must go", versions.join(" and "));
    twice.map(|(name, versions)| Problem::new(path, 1, what(name, versions))).collect()
}

#[test]
fn own_version_is_reported_in_every_kind_of_dependencies() {
    let text = "[dependencies]\narrow.workspace = true\nserde = { workspace = true, features = [\"rc\"] }\nurl = \"2\"\n\
                [dev-dependencies]\nbytes = { version = \"1\" }\n[target.'cfg(unix)'.dependencies]\nuuid = \"1\"\n";
    let lines: Vec<usize> =
        own_version("ingest/Cargo.toml", text).into_iter().map(|problem| problem.line).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!([4, 6, 8].iter().all(|line| lines.contains(line)), "{lines:?}");
    assert_eq!(own_version("Cargo.toml", text), []);
}

#[test]
fn dependency_is_reported_when_it_stands_after_a_later_name() {
    let text =
        "[dependencies]\nurl.workspace = true\narrow.workspace = true\n\n# others\nserde.workspace = true\n";
    let problems = unsorted("ingest/Cargo.toml", text);
    assert_eq!(problems, [Problem::new("ingest/Cargo.toml", 3, "`arrow` belongs before `url`")]);
    assert_eq!(unsorted("ingest/Cargo.toml", "[package]\nversion = \"1\"\nname = \"a\"\n"), []);
}

#[test]
fn dependency_is_reported_when_it_goes_against_the_order_of_the_crates() {
    let count =
        |path: &str, to: &str| wrong_way(path, &format!("[dependencies]\n{to}.workspace = true\n")).len();
    for (path, to) in [
        ("ingest/Cargo.toml", "perennial-replay"),
        ("replay/Cargo.toml", "perennial-ingest"),
        ("replay/Cargo.toml", "tch"),
        ("schemas/Cargo.toml", "perennial-store"),
        ("schemas/program/Cargo.toml", "perennial-schemas"),
        ("tests/Cargo.toml", "perennial-trainer"),
        ("tests/Cargo.toml", "torch-sys"),
        ("stranger/Cargo.toml", "arrow"),
    ] {
        assert_eq!(count(path, to), 1, "{path} {to}");
    }
    assert_eq!(count("trainer/Cargo.toml", "perennial-replay") + count("trainer/Cargo.toml", "tch"), 0);
    let dev = "[dev-dependencies]\nperennial-replay.workspace = true\n";
    assert_eq!(wrong_way("ingest/Cargo.toml", dev).len(), 1);
}

#[test]
fn libtorch_is_reported_when_a_chain_of_dependencies_reaches_it() {
    let package = |name: &str, to: &str| {
        format!("[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\ndependencies = [\"{to}\"]\n")
    };
    let lock = package("perennial-trainer", "tch")
        + &package("tch", "torch-sys 0.24.0")
        + &package("torch-sys", "cc");
    assert_eq!(reaches_libtorch("Cargo.lock", &lock), []);
    // Of a second version of the one between nothing leads on.
    let lock =
        lock + &package("perennial-ingest", "helper") + &package("helper", "tch") + &package("helper", "cc");
    assert_eq!(reaches_libtorch("Cargo.lock", &lock).len(), 1);
}

#[test]
fn second_version_is_reported_in_a_family_only() {
    let package =
        |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
    let lock = package("arrow-array", "59.3.2") + &package("zstd", "0.11.2") + &package("zstd", "0.13.5");
    assert_eq!(two_versions("Cargo.lock", &lock), []);
    let lock = lock
        + &package("arrow-array", "60.0.0")
        + &package("parquetry", "1.0.0")
        + &package("parquetry", "2.0.0");
    let problems = two_versions("Cargo.lock", &lock);
    assert_eq!(
        problems,
        [Problem::new("Cargo.lock", 1, "`arrow-array` is here as 59.3.2 and 60.0.0: one must go")]
    );
}
