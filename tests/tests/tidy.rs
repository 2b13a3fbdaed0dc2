//! The rules of the project that no lint can see, as tests over the files of the repository.
//!
//! A rule is a function from a file, or from all files, to the [`Problem`]s in it; beside each stands a test
//! that it fires on a bad sample. The tests below hold the repository to all of them.

mod lex;
mod licences;
mod manifests;
mod modules;
mod phrases;
mod rust;
mod text;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// Larger files are data.
const LARGEST: u64 = 1 << 20;

/// A text file of the repository, its path from the root with `/`.
pub struct File {
    pub path: String,
    pub text: String,
}

/// What is wrong, and on which line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub line: usize,
    pub what: String,
}

impl Problem {
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }

    /// The problem at the byte `offset` of `text`.
    pub fn at(path: &str, text: &str, offset: usize, what: impl Into<String>) -> Self {
        let before = text.as_bytes().iter().take(offset);
        Self::new(path, 1 + before.filter(|byte| **byte == b'\n').count(), what)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// What git tracks or would track, sorted by path.
static REPOSITORY: LazyLock<Vec<File>> = LazyLock::new(|| {
    let root = perennial_tests::root();
    let mut paths = list_by_git(root).unwrap_or_else(|| list_by_walking(root));
    paths.sort();
    paths.dedup();
    paths.into_iter().filter_map(|path| read(root, path)).collect()
});

/// The file as text; nothing if it is gone, too large or not UTF-8.
fn read(root: &Path, path: String) -> Option<File> {
    let place = root.join(&path);
    let metadata = fs::symlink_metadata(&place).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    fs::read_to_string(place).ok().map(|text| File { path, text })
}

fn list_by_git(root: &Path) -> Option<Vec<String>> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let listing = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<String> = listing.split_terminator('\0').map(str::to_owned).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

/// For a copy without git: all files but what the root's `.gitignore` names as `/folder/`.
fn list_by_walking(root: &Path) -> Vec<String> {
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    let mut paths = Vec::new();
    let mut open = vec![String::new()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}{}", entry.file_name().to_str().unwrap());
            if path == ".git" || ignored.contains(&path.as_str()) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                open.push(format!("{path}/"));
            } else {
                paths.push(path);
            }
        }
    }
    paths
}

/// Stops with all problems, one a line.
fn demand(problems: impl IntoIterator<Item = Problem>) {
    let lines: Vec<String> = problems.into_iter().map(|problem| format!("  {problem}")).collect();
    assert!(lines.is_empty(), "{} to fix:\n{}", lines.len(), lines.join("\n"));
}

fn demand_of_each_file(rule: fn(&str, &str) -> Vec<Problem>) {
    demand(REPOSITORY.iter().flat_map(|file| rule(&file.path, &file.text)));
}

#[test]
fn source_files_are_short_enough_to_be_one_concept() {
    demand_of_each_file(rust::long_file);
}

#[test]
fn texts_mark_nothing_as_broken() {
    demand_of_each_file(text::broken);
}

#[test]
fn selects_choose_their_branches_in_order() {
    demand_of_each_file(rust::unordered_select);
}

#[test]
fn module_files_are_all_compiled() {
    demand(modules::unreachable(&REPOSITORY));
}

#[test]
fn dependencies_take_their_version_from_the_workspace() {
    demand_of_each_file(manifests::own_version);
}

#[test]
fn dependencies_are_in_alphabetical_order() {
    demand_of_each_file(manifests::unsorted);
}

#[test]
fn crates_depend_only_on_the_crates_before_them() {
    demand_of_each_file(manifests::wrong_way);
}

#[test]
fn libtorch_is_reached_by_the_trainer_alone() {
    demand_of_each_file(manifests::reaches_libtorch);
}

#[test]
fn crates_whose_types_cross_our_borders_have_one_version() {
    demand_of_each_file(manifests::two_versions);
}

#[test]
fn dependencies_have_the_licences_and_sources_that_deny_toml_allows() {
    let policy = fs::read_to_string(perennial_tests::root().join("deny.toml")).unwrap();
    let metadata = licences::packages();
    assert!(metadata["packages"].as_array().unwrap().len() > 100, "all packages are listed");
    demand(licences::Policy::read(&policy).problems(&metadata));
}

#[test]
fn texts_are_in_plain_english() {
    demand_of_each_file(phrases::archaic);
}

#[test]
fn links_between_documents_lead_to_something() {
    let exists = |path: &str| perennial_tests::root().join(path).exists();
    demand(REPOSITORY.iter().flat_map(|file| text::broken_links(&file.path, &file.text, exists)));
}

#[test]
fn markdown_files_have_one_title() {
    demand_of_each_file(text::titles);
}

#[test]
fn repository_is_read() {
    let paths: Vec<&str> = REPOSITORY.iter().map(|file| file.path.as_str()).collect();
    for path in ["Cargo.toml", "Cargo.lock", "tests/tests/tidy.rs"] {
        assert!(paths.contains(&path), "`{path}` is missing in {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.starts_with("target/") || path.starts_with(".git/")));
}

#[test]
fn walking_finds_what_is_not_ignored_without_git() {
    let root = tempfile::tempdir().unwrap();
    for folder in [".git", "target/debug", "a/b", "a/target"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    for file in [".git/HEAD", "target/debug/x", "a/b/c.rs", "a/target/kept.rs"] {
        fs::write(root.path().join(file), "").unwrap();
    }
    fs::write(root.path().join(".gitignore"), "/target/\n").unwrap();
    let mut paths = list_by_walking(root.path());
    paths.sort();
    assert_eq!(paths, [".gitignore", "a/b/c.rs", "a/target/kept.rs"]);
}

#[test]
fn reading_passes_over_what_is_large_or_no_text() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("text"), "é").unwrap();
    fs::write(root.path().join("binary"), [0xff, 0xfe]).unwrap();
    fs::write(root.path().join("large"), vec![b'a'; LARGEST as usize + 1]).unwrap();
    let read = |name: &str| read(root.path(), name.to_owned()).map(|file| file.text);
    assert_eq!(
        [read("text"), read("binary"), read("large"), read("none")],
        [Some("é".to_owned()), None, None, None]
    );
}

#[test]
fn problem_prints_its_file_and_line() {
    let problem = Problem::at("a/b.rs", "one\ntwo\nthree", 4, "is wrong");
    assert_eq!(problem.to_string(), "a/b.rs:2: is wrong");
}
