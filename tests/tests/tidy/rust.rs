//! Rules over one Rust file.

use super::lex::{code, code_without_tests, is_word};
use super::{File, Problem};

/// Most lines of code in a file, without documentation, comments, blank lines and tests.
const MOST_LINES: usize = 500;

/// Files that may be longer, each with the reason.
const LONG: &[(&str, &str)] = &[];

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

/// Under some crate's `src`, and not a file of tests.
fn is_source(path: &str) -> bool {
    let inside = path.split_once('/').is_some_and(|(_, inside)| inside.starts_with("src/"));
    is_rust(path) && inside && !path.ends_with("/tests.rs") && !path.contains("/src/tests/")
}

fn lines_of_code(text: &str) -> usize {
    code_without_tests(text).lines().filter(|line| !line.trim().is_empty()).count()
}

/// A source file with more than [`MOST_LINES`] lines of code.
pub fn long_file(path: &str, text: &str) -> Vec<Problem> {
    let lines = if is_source(path) { lines_of_code(text) } else { 0 };
    if lines <= MOST_LINES || LONG.iter().any(|(long, _)| *long == path) {
        return Vec::new();
    }
    let what = format!(
        "has {lines} lines of code, more than {MOST_LINES}: give its second concept a file of its own, \
         or exempt it in tests/tests/tidy/rust.rs with the reason"
    );
    vec![Problem::new(path, 1, what)]
}

/// Exemptions from [`long_file`] whose file is gone or short.
pub fn idle_exemptions(files: &[File]) -> Vec<Problem> {
    idle(LONG, files)
}

fn idle(exempt: &[(&str, &str)], files: &[File]) -> Vec<Problem> {
    let needed =
        |path: &str| files.iter().any(|file| file.path == path && lines_of_code(&file.text) > MOST_LINES);
    let idle = exempt.iter().filter(|(path, _)| !needed(path));
    idle.map(|(path, _)| Problem::new(path, 1, "needs no exemption from the length of a file any more"))
        .collect()
}

/// What was left for later: stub macros, and the marker for broken code in any text.
pub fn stub(path: &str, text: &str) -> Vec<Problem> {
    const MARKER: &str = concat!("FIX", "ME");
    let mut problems = Vec::new();
    if is_rust(path) {
        let code = code(text);
        for stub in ["todo!", "unimplemented!", "dbg!"] {
            let found = code.match_indices(stub).filter(|(at, _)| !code[..*at].ends_with(is_word));
            problems.extend(
                found.map(|(at, _)| Problem::at(path, text, at, format!("`{stub}` is left in the code"))),
            );
        }
    }
    let markers = text.match_indices(MARKER);
    problems.extend(
        markers.map(|(at, _)| Problem::at(path, text, at, format!("`{MARKER}` is left in the text"))),
    );
    problems
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
    assert_eq!(long_file("ingest/src/a/tests.rs", &lines(MOST_LINES + 1)), []);
    assert_eq!(long_file("ingest/tests/main.rs", &lines(MOST_LINES + 1)), []);
}

#[test]
fn long_file_counts_neither_comments_nor_tests() {
    let padded =
        "/// why\n\n// so\nlet a = 1;\n".repeat(MOST_LINES) + "#[cfg(test)]\nmod tests {\n fn f() {}\n}\n";
    assert_eq!(long_file("ingest/src/a.rs", &padded), []);
}

#[test]
fn exemption_is_reported_when_its_file_is_short_or_gone() {
    let file = |path: &str, lines| File { path: path.to_owned(), text: "let a = 1;\n".repeat(lines) };
    let files = [file("a/src/long.rs", MOST_LINES + 1), file("a/src/short.rs", 1)];
    let exempt = [("a/src/long.rs", ""), ("a/src/short.rs", ""), ("a/src/gone.rs", "")];
    let idle: Vec<String> = idle(&exempt, &files).into_iter().map(|problem| problem.path).collect();
    assert_eq!(idle, ["a/src/short.rs", "a/src/gone.rs"]);
}

#[test]
fn stub_is_reported_in_code_but_not_in_comments_and_strings() {
    let lines =
        |text: &str| stub("a/src/b.rs", text).into_iter().map(|problem| problem.line).collect::<Vec<_>>();
    assert_eq!(lines("fn f() {\n    todo!()\n}\nfn g() { dbg!(1); unimplemented!(); }"), [2, 4, 4]);
    assert_eq!(lines("// todo!()\nconst A: &str = \"dbg!(\"; my_todo!();"), Vec::<usize>::new());
}

#[test]
fn broken_code_marker_is_reported_in_any_text() {
    let marker = concat!("FIX", "ME");
    assert_eq!(stub("docs/a.md", &format!("a\n{marker}: b")).len(), 1);
    assert_eq!(stub("a/src/b.rs", &format!("// {marker}")).len(), 1);
}

#[test]
fn select_is_reported_when_it_is_not_biased() {
    assert_eq!(unordered_select("a/src/b.rs", "tokio::select! {\n a = b => {} }").len(), 1);
    assert_eq!(unordered_select("a/src/b.rs", "tokio::select! {\n biased;\n a = b => {} }"), []);
    assert_eq!(unordered_select("a/src/b.rs", "// a select! { here"), []);
}
