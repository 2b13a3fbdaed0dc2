//! Checks a tree against a type: unknown keys with what was meant, and every value that does not fit.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;

use super::fields::Shape;
use super::layer::env_name;
use super::problem::{MOST, Problem};
use super::read::{Fail, Why, read};
use super::tree::{Node, Origin, Step, Value, dotted, parse_dotted, quoted};

/// The most readings of one tree: each finds one more value that does not fit.
const MOST_READINGS: usize = 1000;

/// What a tree is checked against.
pub(super) struct Checker {
    pub shape: Shape,
    /// Every known key, for suggestions from other tables.
    known: Vec<String>,
    /// The prefix of the program's variables.
    prefix: Option<String>,
    /// Where the tree stands in the configuration.
    base: Vec<Step>,
}

impl Checker {
    pub(super) fn of<T: DeserializeOwned>(prefix: Option<String>, base: Vec<Step>) -> Self {
        let shape = Shape::of::<T>();
        let known = shape.keys().into_iter().map(|key| key.name).collect();
        Self { shape, known, prefix, base }
    }

    /// Refuses every key of `tree` that the type does not know, and takes it out.
    pub(super) fn unknown_keys(&self, tree: &mut Node, problems: &mut Vec<Problem>) {
        self.unknown_below(tree, &self.shape, &mut self.base.clone(), problems);
    }

    fn unknown_below(
        &self,
        node: &mut Node,
        shape: &Shape,
        path: &mut Vec<Step>,
        problems: &mut Vec<Problem>,
    ) {
        match (&mut node.value, shape) {
            (Value::Table(entries), Shape::Struct(_) | Shape::Map(_)) => {
                for (key, child) in entries {
                    path.push(Step::Key(key.clone()));
                    match shape.field(key) {
                        Some(shape) => self.unknown_below(child, shape, path, problems),
                        None => {
                            let told = problems.len() < MOST;
                            problems.push(self.unknown(child, path, told.then_some(shape)));
                            child.value = Value::Gone;
                        }
                    }
                    path.pop();
                }
            }
            (Value::Array(items), Shape::List(inner)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(Step::Index(index));
                    self.unknown_below(item, inner, path, problems);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// The problem that `node` at `path` is; with suggestions when the shape of its table is given.
    fn unknown(&self, node: &Node, path: &[Step], table: Option<&Shape>) -> Problem {
        let is_table = match &node.value {
            Value::Table(_) => matches!(node.at, Origin::File { .. }),
            Value::Array(items) => !items.is_empty() && items.iter().all(|item| item.entries().is_some()),
            _ => false,
        };
        let name = dotted(path);
        let what = if is_table { "table" } else { "key" };
        let suggestions = table.map(|table| self.meant(table, path, &node.at)).unwrap_or_default();
        Problem { suggestions, ..Problem::new(node.at.clone(), &name, format!("unknown {what} `{name}`")) }
    }

    /// What the unknown key at the end of `path` may have meant, as its source would write it.
    fn meant(&self, table: &Shape, path: &[Step], origin: &Origin) -> Vec<String> {
        let Some((Step::Key(key), above)) = path.split_last() else { return Vec::new() };
        let fields: &[(&str, Shape)] = match table {
            Shape::Struct(fields) => fields,
            _ => &[],
        };
        let siblings = nearest(key, fields.iter().map(|(field, _)| *field));
        let in_place = |sibling: &&str| {
            let mut full = above.to_vec();
            full.push(Step::Key((*sibling).to_owned()));
            full
        };
        let here: Vec<Vec<Step>> = siblings.iter().map(in_place).collect();
        let paths: Vec<String> = if here.is_empty() {
            self.elsewhere(key)
        } else {
            here.iter().map(|path| dotted(path)).collect()
        };
        match (origin, &self.prefix) {
            (Origin::Env(_), Some(prefix)) => paths
                .iter()
                .filter(|path| !path.contains(['<', '*']))
                .filter_map(|path| env_name(prefix, &parse_dotted(path)?))
                .collect(),
            (Origin::File { .. }, _) if !here.is_empty() => {
                siblings.iter().map(|key| quoted(key).into_owned()).collect()
            }
            _ => paths,
        }
    }

    /// Keys and tables elsewhere whose last name is `key` or nearly so.
    fn elsewhere(&self, key: &str) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let names = self.known.iter().flat_map(|known| {
            let ends = known.match_indices('.').map(|(dot, _)| dot).chain([known.len()]);
            ends.filter_map(|end| known.get(..end))
        });
        let names: Vec<&str> = names.filter(|name| seen.insert(*name)).collect();
        let ends: Vec<String> =
            names.iter().map(|name| plain(name.rsplit('.').next().unwrap_or_default())).collect();
        let key = plain(key);
        let near = if ends.contains(&key) {
            vec![key.as_str()]
        } else {
            nearest(&key, ends.iter().map(String::as_str))
        };
        let meant = names.iter().zip(&ends).filter(|(_, end)| near.contains(&end.as_str()));
        meant.take(3).map(|(name, _)| (*name).to_owned()).collect()
    }

    /// Reads `T` from `tree`. Every value that does not fit is told and taken out, so that the rest
    /// is read too; `None` when without them there is no `T`.
    ///
    /// A tree that is not the `whole` configuration may lack keys and is not held to checks that
    /// look at a whole table: other sources may complete it.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        tree: &mut Node,
        whole: bool,
        problems: &mut Vec<Problem>,
    ) -> Option<T> {
        let mut scratch = tree.clone();
        let mut bare: Vec<(Vec<Step>, Fail)> = Vec::new();
        let mut removed = 0;
        let value = loop {
            let fail = match read::<T>(&scratch, &self.base) {
                Ok(value) => break Some(value),
                Err(fail) => fail,
            };
            let full = fail.path.clone().unwrap_or_else(|| self.base.clone());
            let path = existing(&scratch, full.get(self.base.len()..).unwrap_or_default());
            let Some(node) = scratch.get_mut(&path) else { break None };
            if let Value::Text(text) = &node.value {
                // It read as TOML, but not as the type wanted: perhaps it is a string as it stands.
                node.value = Value::Str(text.clone());
                bare.push((path, fail));
                continue;
            }
            let first = bare.iter().position(|(at, _)| *at == path).map(|at| bare.swap_remove(at).1);
            let reported = self.report(node, &path, first.unwrap_or(fail), whole, problems);
            removed += 1;
            if path.is_empty() || problems.len() >= MOST || removed >= MOST_READINGS {
                break None;
            }
            node.value = Value::Gone;
            if let Some(node) = tree.get_mut(&path).filter(|_| reported) {
                node.value = Value::Gone;
            }
        };
        for (path, _) in bare {
            if let (Some(to), Some(from)) = (tree.get_mut(&path), scratch.get(&path)) {
                to.value = from.value.clone();
            }
        }
        value
    }

    /// Tells of `fail`, whose deepest node in the tree is `node`; whether it was told.
    fn report(
        &self,
        node: &Node,
        path: &[Step],
        fail: Fail,
        whole: bool,
        problems: &mut Vec<Problem>,
    ) -> bool {
        let is_table = matches!(node.value, Value::Table(_));
        // Arrays are replaced whole: nothing can complete what stands in one.
        let complete = whole || path.iter().any(|step| matches!(step, Step::Index(_)));
        let mut full = fail.path.unwrap_or_else(|| self.base.clone());
        if let Why::Missing(field) = &fail.why {
            full.push(Step::Key((*field).to_owned()));
        }
        let name = dotted(&full);
        let (message, suggestions) = match &fail.why {
            Why::Missing(_) => {
                if !complete || problems.iter().any(|problem| problem.is_within(&name)) {
                    return false;
                }
                (format!("missing key `{name}`"), Vec::new())
            }
            Why::Said(_) if is_table && !complete => return false,
            Why::Said(text) if name.is_empty() => (text.clone(), Vec::new()),
            Why::Said(text) => (format!("`{name}`: {text}"), Vec::new()),
            Why::Word { found, allowed } => {
                let near = nearest(found.trim_matches('`'), allowed.iter().copied());
                let near = near.into_iter().map(str::to_owned).collect();
                (format!("`{name}` {}", Fail { path: None, why: fail.why.clone() }), near)
            }
            Why::Wrong(..) => {
                (format!("`{name}` {}", Fail { path: None, why: fail.why.clone() }), Vec::new())
            }
        };
        let missing = matches!(fail.why, Why::Missing(_));
        problems.push(Problem { suggestions, missing, ..Problem::new(node.at.clone(), &name, message) });
        true
    }
}

/// The longest beginning of `path` that stands in `tree`.
fn existing(tree: &Node, path: &[Step]) -> Vec<Step> {
    let ends = (0..=path.len()).rev().filter_map(|end| path.get(..end));
    ends.into_iter().find(|path| tree.get(path).is_some()).unwrap_or_default().to_vec()
}

/// How `key` compares: case and the kind of dash do not matter.
fn plain(key: &str) -> String {
    key.to_lowercase().replace('-', "_")
}

/// The candidates most like `wanted`, the likeliest first, at most three, none below a likeness of
/// 0.6 (normalised Damerau-Levenshtein) or far below the best.
pub(super) fn nearest<'c>(wanted: &str, candidates: impl Iterator<Item = &'c str>) -> Vec<&'c str> {
    const LEAST: f64 = 0.6;
    const SPREAD: f64 = 0.15;
    const LONGEST: usize = 100;
    if wanted.len() > LONGEST {
        return Vec::new();
    }
    let wanted = plain(wanted);
    let mut scored: Vec<(f64, &str)> = candidates
        .map(|candidate| (likeness(&wanted, &plain(candidate)), candidate))
        .filter(|(score, _)| *score >= LEAST)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup_by_key(|(_, candidate)| *candidate);
    let best = scored.first().map_or(0.0, |(score, _)| *score);
    scored
        .into_iter()
        .take_while(|(score, _)| *score >= best - SPREAD)
        .take(3)
        .map(|(_, name)| name)
        .collect()
}

fn likeness(wanted: &str, candidate: &str) -> f64 {
    /// Long enough for a whole word in common to mean something.
    const WORD: usize = 4;
    let edits = strsim::normalized_damerau_levenshtein(wanted, candidate);
    let (short, long) =
        if wanted.len() < candidate.len() { (wanted, candidate) } else { (candidate, wanted) };
    let whole_word = short.len() >= WORD && long.split('_').any(|word| word == short);
    if whole_word { edits.max(0.65) } else { edits }
}
