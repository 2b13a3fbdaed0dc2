//! Rules over one Rust file.

use super::Problem;
use super::lex::{code, code_without_tests, is_word};

/// Most lines of code in a file, without documentation, comments, blank lines and tests.
const MOST_LINES: usize = 500;

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

/// Under some crate's `src`, and not a file of tests.
fn is_source(path: &str) -> bool {
    is_rust(path) && path.contains("/src/") && !path.ends_with("/tests.rs") && !path.contains("/tests/")
}

fn lines_of_code(text: &str) -> usize {
    code_without_tests(text).lines().filter(|line| !line.trim().is_empty()).count()
}

/// A source file with more than [`MOST_LINES`] lines of code.
pub fn long_file(path: &str, text: &str) -> Vec<Problem> {
    let lines = if is_source(path) { lines_of_code(text) } else { 0 };
    if lines <= MOST_LINES {
        return Vec::new();
    }
    let what = format!("has {lines} lines of code, more than {MOST_LINES}");
    vec![Problem::new(path, 1, what + ": give its second concept a file of its own")]
}

/// A `select!` that tries its branches in random order: what comes out would differ from run to run.
pub fn unordered_select(path: &str, text: &str) -> Vec<Problem> {
    if !is_rust(path) {
        return Vec::new();
    }
    let code = code(text);
    let selects = code.match_indices("select!").filter(|(at, _)| !code[..*at].ends_with(is_word));
    let unordered = selects.filter(|(at, name)| {
        let body = code[at + name.len()..].trim_start().trim_start_matches(['{', '(']);
        !body.trim_start().starts_with("biased;")
    });
    let what = "begin this `select!` with `biased;`, the branch that must win first";
    unordered.map(|(at, _)| Problem::at(path, text, at, what)).collect()
}

#[test]
fn long_file_is_reported_when_its_code_is_over_the_limit() {
    let lines = |count: usize| "let a = 1;\n".repeat(count);
    assert_eq!(long_file("ingest/src/a.rs", &lines(MOST_LINES)), []);
    assert_eq!(long_file("ingest/src/a.rs", &lines(MOST_LINES + 1)).len(), 1);
    assert_eq!(long_file("schemas/store/src/a.rs", &lines(MOST_LINES + 1)).len(), 1);
    assert_eq!(long_file("ingest/src/a/tests.rs", &lines(MOST_LINES + 1)), []);
    assert_eq!(long_file("ingest/src/a/tests/b.rs", &lines(MOST_LINES + 1)), []);
    assert_eq!(long_file("tests/src/a.rs", &lines(MOST_LINES + 1)).len(), 1);
    assert_eq!(long_file("ingest/tests/main.rs", &lines(MOST_LINES + 1)), []);
}

#[test]
fn long_file_counts_neither_comments_nor_tests() {
    let padded =
        "/// why\n\n// so\nlet a = 1;\n".repeat(MOST_LINES) + "#[cfg(test)]\nmod tests {\n fn f() {}\n}\n";
    assert_eq!(long_file("ingest/src/a.rs", &padded), []);
}

#[test]
fn select_is_reported_when_it_is_not_biased() {
    assert_eq!(unordered_select("a/src/b.rs", "tokio::select! {\n a = b => {} }").len(), 1);
    assert_eq!(unordered_select("a/src/b.rs", "tokio::select! {\n biased;\n a = b => {} }"), []);
    assert_eq!(unordered_select("a/src/b.rs", "// a select! { here"), []);
}
