//! Rules over every text. Their own samples are put together from halves, so that this file keeps them too.

use super::Problem;

/// Paths that exist on the machine of whoever wrote them only, and servers that a build is pointed to by its
/// settings, never by our files.
const MACHINE: [&str; 9] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("../sha", "red"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
];

/// How the work was done is no part of what was made.
const WORKSHOP: [&str; 18] = [
    concat!("helper a", "gent"),
    concat!("sub-a", "gent"),
    concat!("suba", "gent"),
    concat!("ai a", "gent"),
    concat!("coding a", "gent"),
    concat!("other a", "gent"),
    concat!("previous se", "ssion"),
    concat!("earlier se", "ssion"),
    concat!("last se", "ssion"),
    concat!("next se", "ssion"),
    concat!("a later se", "ssion"),
    concat!("my bri", "ef"),
    concat!("the bri", "ef says"),
    concat!("the le", "ad decides"),
    concat!("as an a", "i "),
    concat!("claude c", "ode"),
    concat!("anthro", "pic"),
    concat!("co-auth", "ored-by"),
];

/// Other people's words, kept as they are: the texts in data/, but not our notes about them.
fn is_quoted(path: &str) -> bool {
    path.starts_with("data/") && !path.ends_with(".md")
}

/// Offsets of `phrase` in `text`, where it does not go on from a word or a path to its left.
fn phrases(text: &str, phrase: &str) -> Vec<usize> {
    let goes_on = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || "_-./}~*".contains(c));
    text.match_indices(phrase).map(|(at, _)| at).filter(|at| !goes_on(&text[..*at])).collect()
}

/// One problem for each place of one of these phrases, in any case of letters; `why` says what to do instead.
fn spoken(path: &str, text: &str, list: &[&str], why: &str) -> Vec<Problem> {
    if is_quoted(path) {
        return Vec::new();
    }
    let lower = text.to_ascii_lowercase();
    let mut problems = Vec::new();
    for phrase in list {
        let what = format!("`{phrase}`: {why}");
        let found = phrases(&lower, &phrase.to_ascii_lowercase());
        problems.extend(found.into_iter().map(|at| Problem::at(path, text, at, what.as_str())));
    }
    problems
}

/// A path or a server that means nothing to a reader elsewhere. `.ci/` alone may say what lies beside
/// the clone where it runs.
pub fn machine(path: &str, text: &str) -> Vec<Problem> {
    if path.starts_with(".ci/") {
        return Vec::new();
    }
    spoken(path, text, &MACHINE, "exists on one machine only, say it by what holds everywhere")
}

/// A word about how the work was done.
pub fn workshop_talk(path: &str, text: &str) -> Vec<Problem> {
    spoken(path, text, &WORKSHOP, "say what is so, not how the work was done")
}

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

#[test]
fn machine_is_reported_where_a_path_begins() {
    for sample in MACHINE.map(|place| format!("see `{place}x`")) {
        assert_eq!(machine("docs/a.md", &sample).len(), 1, "{sample}");
        assert_eq!(machine("data/a.txt", &sample), []);
        assert_eq!(machine(".ci/run", &sample), []);
        assert_eq!(machine("data/README.md", &sample).len(), 1);
    }
    let relative = concat!("target/wo", "rk/x https://example.org/ho", "me/ {root}/ro", "ot/");
    assert_eq!(machine("docs/a.md", relative), []);
}

#[test]
fn workshop_talk_is_reported_but_ordinary_words_are_not() {
    for phrase in WORKSHOP {
        let sample = format!("one\nTHE {} \n", phrase.to_uppercase());
        let lines: Vec<usize> =
            workshop_talk("a/src/b.rs", &sample).into_iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2], "{phrase}");
    }
    let ordinary = "a user-agent, an SQL session, torchrun's agent, a brief pause, the lead paragraph, the blast sessions";
    assert_eq!(workshop_talk("docs/a.md", ordinary), []);
}

#[test]
fn broken_code_is_reported_in_any_text() {
    let marker = concat!("FIX", "ME");
    assert_eq!(broken("docs/a.md", &format!("a\n{marker}: b")).len(), 1);
    assert_eq!(broken("a/src/b.rs", &format!("// {marker}")).len(), 1);
    assert_eq!(broken("a/src/b.rs", "// mended"), []);
}

#[test]
fn title_is_reported_when_it_is_missing_or_second() {
    assert_eq!(titles("a.md", "# One\n\n```sh\n# comment\n```\n## Two\n"), []);
    assert_eq!(titles("a.md", "text\n").len(), 1);
    assert_eq!(titles("a.md", "# One\n# Two\n"), [Problem::new("a.md", 2, "is a second title: use `##`")]);
    assert_eq!(titles("a.rs", "text"), []);
}
