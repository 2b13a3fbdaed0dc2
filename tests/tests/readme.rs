//! The commands that the documents name exist.

use std::collections::BTreeSet;
use std::fs;

use perennial_tests::root;

use crate::tutorial::blocks;

/// The targets that the Makefile documents.
fn targets() -> BTreeSet<String> {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let documented = makefile.lines().filter(|line| line.contains(": ") && line.contains(" ## "));
    documented.filter_map(|line| line.split(':').next()).map(str::to_owned).collect()
}

/// The targets that follow `make ` in a text, in code blocks and between backticks.
fn named(text: &str) -> BTreeSet<String> {
    let places = text.match_indices("make ");
    let commands =
        places.filter(|(at, _)| text[..*at].is_empty() || text[..*at].ends_with(['`', '\n', '(', '"']));
    let word = |at: usize| {
        text[at..].split(|c: char| !(c.is_ascii_lowercase() || c == '-')).next().unwrap_or_default()
    };
    commands.map(|(at, found)| word(at + found.len()).to_owned()).filter(|word| !word.is_empty()).collect()
}

#[test]
fn make_targets_of_the_documents_exist() {
    let targets = targets();
    for page in
        ["README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/tutorial.md", "examples/README.md"]
    {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let named = named(&text);
        assert!(named.is_subset(&targets), "{page}: {:?}", named.difference(&targets).collect::<Vec<_>>());
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let first = blocks(&readme, "sh").into_iter().next().unwrap();
    assert_eq!(first.lines().count(), 2, "the README begins with two commands:\n{first}");
    assert!(named(&first).contains("demo") && named(&first).contains("test"));
}

#[test]
fn make_targets_are_found_where_a_command_begins() {
    let found = named("run `make test-ingest TEST=x` or\nmake demo   # makes it\nwe make bread");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["demo", "test-ingest"]);
    assert!(targets().contains("test") && !targets().contains("MAKEFLAGS"));
}
