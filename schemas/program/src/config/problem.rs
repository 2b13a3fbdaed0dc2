//! What is wrong with a configuration: every problem, each with its place and its remedy.

use std::fmt;
use std::sync::Arc;

use super::layer::{Origin, Origins};
use crate::error::{Kind, ProgramError};

/// The most problems reported in one run.
pub(super) const MOST: usize = 100;

/// One thing wrong with a configuration.
///
/// ```text
/// replay.toml:3: unknown key `buffer.main.capactiy`; did you mean `capacity`?
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the wrong value was written; `None` when it was written nowhere.
    pub origin: Option<Origin>,
    /// The column within the line, from 1, of a syntax error.
    pub column: Option<usize>,
    /// The dotted key, empty when the problem is not about one.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What may have been meant, the likeliest first; at most three.
    pub suggestions: Vec<String>,
    /// Whether the key is missing.
    pub(super) missing: bool,
}

impl Problem {
    pub(super) fn new(origin: Origin, key: &str, message: String) -> Self {
        let origin = (origin != Origin::Default).then_some(origin);
        Self { origin, column: None, key: key.to_owned(), message, suggestions: Vec::new(), missing: false }
    }

    /// A problem of the file `name`, at a line and column if there is one.
    pub(super) fn of_file(name: &Arc<str>, at: Option<(usize, Option<usize>)>, message: String) -> Self {
        let (line, column) = at.unwrap_or((0, None));
        Self { column, ..Self::new(Origin::File { path: name.clone(), line }, "", message) }
    }
}

/// Whether the dotted key `name` is `key` or stands below it.
pub(super) fn is_within(name: &str, key: &str) -> bool {
    let rest = name.strip_prefix(key);
    rest.is_some_and(|rest| rest.is_empty() || key.is_empty() || rest.starts_with(['.', '[']))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(Origin::File { path, line: 0 }) => write!(f, "{path}: ")?,
            Some(Origin::File { path, line }) => match self.column {
                Some(column) => write!(f, "{path}:{line}:{column}: ")?,
                None => write!(f, "{path}:{line}: ")?,
            },
            Some(Origin::Env(name)) => write!(f, "environment variable `{name}`: ")?,
            Some(Origin::Flag(name)) => write!(f, "flag `{name}`: ")?,
            Some(Origin::Default) | None => {}
        }
        f.write_str(&self.message)?;
        for (index, suggestion) in self.suggestions.iter().enumerate() {
            let before = match index {
                0 => "; did you mean ",
                _ if index + 1 == self.suggestions.len() => " or ",
                _ => ", ",
            };
            write!(f, "{before}`{suggestion}`")?;
        }
        if self.suggestions.is_empty() { Ok(()) } else { f.write_str("?") }
    }
}

/// Everything wrong with a configuration, in the order of its sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
    hint: Option<String>,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<Problem>, hint: Option<String>) -> Self {
        // The file by line, then variables, then flags, then what was written nowhere.
        problems.sort_by(|a, b| {
            (a.origin.is_none(), &a.origin, a.column).cmp(&(b.origin.is_none(), &b.origin, b.column))
        });
        problems.dedup();
        Self { problems, hint }
    }

    /// What is wrong; never empty.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(MOST).enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        match self.problems.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ProgramError for ConfigError {
    fn kind(&self) -> Kind {
        Kind::Config
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// Collects what a program's own checks find, next to what the loader found.
#[derive(Debug)]
pub struct Problems {
    pub(super) list: Vec<Problem>,
    pub(super) origins: Origins,
}

impl Problems {
    /// Says that the value of the dotted `key` cannot be, and why: ``must be less than `batch.size` ``.
    ///
    /// Ignored when the loader already refused that key: what stands there is then a default.
    pub fn refuse(&mut self, key: &str, why: &str) {
        if self.list.iter().any(|problem| is_within(&problem.key, key)) {
            return;
        }
        self.list.push(Problem::new(self.nearest_origin(key), key, format!("`{key}` {why}")));
    }

    /// Whether nothing is wrong so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Where `key`, or the nearest table or array that holds it, was written.
    fn nearest_origin(&self, key: &str) -> Origin {
        let ends = key.match_indices(['.', '[']).map(|(at, _)| at).chain([key.len()]);
        let mut above: Vec<&str> = ends.filter_map(|end| key.get(..end)).collect();
        above.reverse();
        above.into_iter().find_map(|key| self.origins.get(key)).cloned().unwrap_or(Origin::Default)
    }
}
