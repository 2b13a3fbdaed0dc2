//! Rules over every text. The marker below is put together from halves, so that this file keeps the rule too.

use super::Problem;

/// The marker for code that is known to be broken.
pub fn broken(path: &str, text: &str) -> Vec<Problem> {
    const MARKER: &str = concat!("FIX", "ME");
    let found = text.match_indices(MARKER);
    found.map(|(at, _)| Problem::at(path, text, at, format!("`{MARKER}` is left in the text"))).collect()
}

/// A Markdown file without a title, or with a second one.
pub fn titles(path: &str, text: &str) -> Vec<Problem> {
    if !path.ends_with(".md") {
        return Vec::new();
    }
    let mut in_code = false;
    let mut titles = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let fence = line.trim_start();
        in_code ^= fence.starts_with("```") || fence.starts_with("~~~");
        if !in_code && line.starts_with("# ") {
            titles.push(index + 1);
        }
    }
    match titles.as_slice() {
        [_] => Vec::new(),
        [] => vec![Problem::new(path, 1, "has no title: a line that begins with `# `")],
        [_, more @ ..] => {
            more.iter().map(|line| Problem::new(path, *line, "is a second title: use `##`")).collect()
        }
    }
}

/// A link of a Markdown file to a file of the repository that does not exist. Paths are from the root for
/// `exists`, relative to the file in the text.
pub fn broken_links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Problem> {
    if !path.ends_with(".md") {
        return Vec::new();
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut problems = Vec::new();
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split([')', ' ', '\n']).next().unwrap_or_default();
        let file = target.split('#').next().unwrap_or_default();
        if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let file = resolve(folder, file);
        if !exists(&file) {
            problems.push(Problem::at(path, text, at, format!("links to `{file}`, which does not exist")));
        }
    }
    problems
}

/// `target` as seen from `folder`, without `.` and `..`.
fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[test]
fn broken_code_is_reported_in_any_text() {
    let marker = concat!("FIX", "ME");
    assert_eq!(broken("docs/a.md", &format!("a\n{marker}: b")).len(), 1);
    assert_eq!(broken("a/src/b.rs", &format!("// {marker}")).len(), 1);
    assert_eq!(broken("a/src/b.rs", "// fixed"), []);
}

#[test]
fn title_is_reported_when_it_is_missing_or_second() {
    assert_eq!(titles("a.md", "# One\n\n```sh\n# comment\n```\n## Two\n"), []);
    assert_eq!(titles("a.md", "text\n").len(), 1);
    assert_eq!(titles("a.md", "# One\n# Two\n"), [Problem::new("a.md", 2, "is a second title: use `##`")]);
    assert_eq!(titles("a.rs", "text"), []);
}

#[test]
fn link_is_reported_when_its_file_does_not_exist() {
    let exists = |file: &str| ["README.md", "docs/a.md", "data"].contains(&file);
    let good = "[a](a.md) [b](../README.md#title) [c](#here) [d](https://example.org/x.md) [e](../data/)";
    assert_eq!(broken_links("docs/b.md", good, exists), []);
    let bad = broken_links("docs/b.md", "one\n[a](README.md)", exists);
    assert_eq!(bad, [Problem::new("docs/b.md", 2, "links to `docs/README.md`, which does not exist")]);
    assert_eq!(broken_links("docs/b.rs", "[a](README.md)", exists), []);
}
