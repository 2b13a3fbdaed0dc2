//! The language of the project is plain technical English: a list of phrases that are not, each with its cure.

use super::Problem;

/// Where a phrase is a problem: some are good English before certain words.
enum Where {
    Anywhere,
    /// Except directly before one of these words or punctuation marks.
    Unless(&'static [&'static str]),
    /// Only directly before one of these words or punctuation marks.
    Before(&'static [&'static str]),
}

use Where::{Anywhere, Before, Unless};

/// Ends of a clause. `has not` is correct before a participle, and `no more` before `than`.
const CLAUSE_ENDS: &[&str] =
    &[".", ",", ";", ":", ")", "?", "a", "an", "any", "are", "becomes", "is", "its", "the", "yet"];

/// Phrase, where it is a problem, and what to write instead.
const PHRASES: &[(&str, Where, &str)] = &[
    ("whoever", Anywhere, "`anyone who`, or name who: the user, the caller, the reader"),
    ("nobody", Anywhere, "name what is absent: `no reader`, `no process`; or `never`, `nothing`"),
    ("is none", Unless(&["of"]), "`there is no X`, `is absent`, `does not exist`"),
    ("are none", Unless(&["of"]), "`there are no X`, `are absent`, `do not exist`"),
    ("has not", Before(CLAUSE_ENDS), "`does not have`, `lacks`"),
    ("have not", Before(CLAUSE_ENDS), "`do not have`, `lack`"),
    ("but for", Anywhere, "`except`, `except for`, `apart from`"),
    ("so many", Unless(&["that"]), "`N`: `every N steps`, `at least this number of`"),
    ("anew", Anywhere, "`again`, `from the start`"),
    ("told", Anywhere, "`said`, `reported`, `printed`; `told apart` is `distinguished`"),
    ("heed", Anywhere, "`obey`, `react to`, `take into account`"),
    ("heeds", Anywhere, "`obeys`, `reacts to`, `takes into account`"),
    ("heeded", Anywhere, "`obeyed`, `taken into account`"),
    ("mend", Anywhere, "`fix`, `repair`; of an error message: `hint`, `remedy`"),
    ("mends", Anywhere, "`fixes`, `repairs`"),
    ("mended", Anywhere, "`fixed`, `repaired`"),
    ("mending", Anywhere, "`fixing`, `repairing`"),
    ("came of it", Anywhere, "`the result`, `what resulted`"),
    ("comes of it", Anywhere, "`the result`, `what results`"),
    ("what came of", Anywhere, "`the result of`"),
    ("made all the same", Anywhere, "`still made`, `made nevertheless`"),
    ("plays no part", Anywhere, "`does not affect`, `is not used`"),
    ("play no part", Anywhere, "`do not affect`, `are not used`"),
    ("of no concern", Anywhere, "`disabled`, `ignored`, `irrelevant`"),
    ("is due", Unless(&["to"]), "`must be done now`, `is scheduled`, `is reached`"),
    ("are due", Unless(&["to"]), "`must be done now`, `are scheduled`, `are reached`"),
    ("was due", Unless(&["to"]), "`had to be done`, `was scheduled`, `was reached`"),
    ("no more", Before(&[".", ",", ";", ":", ")"]), "`no longer`, `not any more`"),
    ("this is no", Anywhere, "`not a X`, `invalid X`"),
    ("stumble", Anywhere, "`fail`; of a request: `transient error, retrying`"),
    ("stumbles", Anywhere, "`fails`; of a request: `transient error, retrying`"),
    ("stumbled", Anywhere, "`failed`; of a request: `transient error, retrying`"),
];

/// Files whose words are kept: this list, other people's texts, and the modules that are about to be rewritten.
const EXEMPT: &[&str] = &[
    "Cargo.lock",
    "LICENSE",
    "ingest/src/source/",
    "replay/src/batch.rs",
    "replay/src/batch/",
    "replay/src/draw.rs",
    "replay/src/draw_log.rs",
    "replay/src/draw_log/",
    "replay/src/follow.rs",
    "replay/src/fresh.rs",
    "replay/src/index.rs",
    "replay/src/issue.rs",
    "replay/src/library.rs",
    "replay/src/library/",
    "replay/src/new_text.rs",
    "replay/src/note.rs",
    "replay/src/note/",
    "replay/src/records.rs",
    "replay/src/texts.rs",
    "tests/tests/tidy/phrases.rs",
];

/// A file named above, a file of a folder named above, or a text of `data/` that is not a note of ours.
fn is_exempt(path: &str) -> bool {
    let is_listed =
        |entry: &&str| if entry.ends_with('/') { path.starts_with(*entry) } else { path == *entry };
    let is_quoted =
        path.starts_with("data/") && (!path.ends_with(".md") || path.starts_with("data/LICENSES/"));
    EXEMPT.iter().any(is_listed) || is_quoted
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The words of a text, each with its byte offset.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, character) in text.char_indices().chain([(text.len(), ' ')]) {
        match (is_word(character), start) {
            (true, None) => start = Some(at),
            (false, Some(first)) => {
                words.push((first, &text[first..at]));
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// Whether two words follow each other in one sentence: blanks between them, a line end, and what begins a
/// line of a comment.
fn is_blank(between: &str) -> bool {
    between.chars().all(|character| character.is_whitespace() || "/!#*".contains(character))
}

/// The word or the punctuation mark that follows the byte `end`.
fn follower<'a>(text: &'a str, end: usize, next: Option<&(usize, &'a str)>) -> &'a str {
    let rest = &text[end..];
    match next {
        Some((at, word)) if is_blank(&text[end..*at]) => word,
        _ => rest.trim_start().get(..1).unwrap_or(""),
    }
}

/// One problem for each archaic phrase, with its cure. Only the first word of a phrase may be in capitals:
/// `None` is a value in Rust and in Python.
pub fn archaic(path: &str, text: &str) -> Vec<Problem> {
    if is_exempt(path) {
        return Vec::new();
    }
    let words = words(text);
    let mut problems = Vec::new();
    for (index, (at, first)) in words.iter().enumerate() {
        let first = first.to_lowercase();
        for (phrase, place, cure) in PHRASES {
            let mut parts = phrase.split(' ');
            if parts.next() != Some(first.as_str()) {
                continue;
            }
            let mut last = index;
            let matches = parts.all(|part| {
                let (from, word) = words[last];
                last += 1;
                words
                    .get(last)
                    .is_some_and(|(to, next)| *next == part && is_blank(&text[from + word.len()..*to]))
            });
            if !matches {
                continue;
            }
            let (from, word) = words[last];
            let follower = follower(text, from + word.len(), words.get(last + 1));
            let is_wrong = match place {
                Anywhere => true,
                Unless(good) => !good.contains(&follower),
                Before(bad) => bad.contains(&follower),
            };
            if is_wrong {
                problems.push(Problem::at(path, text, *at, format!("`{phrase}`: write {cure}")));
            }
        }
    }
    problems
}

#[test]
fn each_phrase_is_reported_once_in_prose_and_in_comments() {
    for (phrase, place, _) in PHRASES {
        let after = match place {
            Before(bad) => bad[0],
            Anywhere | Unless(_) => "here",
        };
        let lines =
            |sample: &str| archaic("docs/a.md", sample).into_iter().map(|p| p.line).collect::<Vec<_>>();
        assert_eq!(lines(&format!("One.\nThat {phrase} {after}")), [2], "{phrase}");
        let wrapped = phrase.replace(' ', "\n    /// ");
        assert_eq!(lines(&format!("/// That {wrapped} {after}")), [1], "{phrase} over two lines");
    }
    assert_eq!(archaic("docs/a.md", "Nobody came.").len(), 1);
}

#[test]
fn plain_english_is_not_reported() {
    for sample in [
        "untold retold mender is_due told_apart buttress",
        "the failure is due to the disk",
        "it has not been read; it has not committed",
        "no more than 64 bytes",
        "so many that they do not fit",
        "the value is None, `x` is `none`",
        "is, none the less",
    ] {
        assert_eq!(archaic("docs/a.md", sample), [], "{sample}");
    }
}

#[test]
fn a_phrase_is_judged_by_what_follows_it() {
    for sample in [
        "a column that the file has not is null",
        "the file has not.",
        "it is read no more.",
        "a commit is due at",
    ] {
        assert_eq!(archaic("docs/a.md", sample).len(), 1, "{sample}");
    }
}

#[test]
fn quoted_texts_and_listed_modules_are_exempt() {
    for path in [
        "data/stream.jsonl",
        "data/LICENSES/MIT.txt",
        "LICENSE",
        "replay/src/draw.rs",
        "ingest/src/source/a.rs",
    ] {
        assert_eq!(archaic(path, "nobody"), [], "{path}");
    }
    for path in ["data/README.md", "replay/src/drawing.rs", "ingest/src/source.rs", "Makefile"] {
        assert_eq!(archaic(path, "nobody").len(), 1, "{path}");
    }
}
