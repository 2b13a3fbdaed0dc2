//! Checks a layer against a type: unknown keys with what was meant, and every value that does not fit.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use super::layer::{Layer, Origin, Origins, env_name};
use super::problem::{MOST, Problem, is_within};
use super::schema::{Kind, Shape};
use super::show::{inline, join, quoted};

/// The most readings of one layer: each finds one more value that does not fit.
const MOST_READINGS: usize = 1000;

/// What a layer is checked against.
pub(super) struct Checker {
    pub shape: Shape,
    /// Every known key, for suggestions from other tables.
    known: Vec<String>,
    /// The prefix of the program's variables.
    prefix: String,
}

/// The values of a layer while its keys are checked.
struct Walk<'a> {
    origins: &'a Origins,
    /// Whether nothing can complete the layer.
    whole: bool,
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Default)
    }
}

impl Checker {
    pub(super) fn new(shape: Shape, prefix: &str) -> Self {
        let known = shape.keys("").into_iter().map(|key| key.name).collect();
        Self { shape, known, prefix: prefix.to_owned() }
    }

    /// Refuses every key of `layer` that the type does not know, and takes it out. A layer that is not the
    /// `whole` configuration may lack the names of choices: other sources may complete it.
    pub(super) fn unknown_keys(&self, layer: &mut Layer, whole: bool, problems: &mut Vec<Problem>) {
        let mut walk = Walk { origins: &layer.origins, whole, problems };
        self.below(&mut layer.value, &self.shape, "", &mut walk);
    }

    fn below(&self, value: &mut Value, shape: &Shape, path: &str, walk: &mut Walk<'_>) {
        match (value, &shape.kind) {
            (Value::Object(entries), Kind::Choice { tag, variants }) => {
                self.choice(entries, shape, (tag, variants), path, walk);
            }
            (Value::Object(entries), Kind::Struct(_) | Kind::Map(_)) => {
                self.entries(entries, shape, path, walk)
            }
            (Value::Array(items), Kind::List(inner)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.below(item, inner, &format!("{path}[{index}]"), walk);
                }
            }
            _ => {}
        }
    }

    fn entries(&self, entries: &mut Map<String, Value>, shape: &Shape, path: &str, walk: &mut Walk<'_>) {
        for (key, value) in entries.iter_mut().filter(|(_, value)| !value.is_null()) {
            let name = join(path, key);
            match shape.field(key) {
                Some(shape) => self.below(value, shape, &name, walk),
                None => {
                    let problem = self.unknown(value, key, path, shape, walk);
                    walk.problems.push(problem);
                    *value = Value::Null;
                }
            }
        }
    }

    fn choice(
        &self,
        entries: &mut Map<String, Value>,
        shape: &Shape,
        (tag, variants): (&str, &[(String, Shape)]),
        path: &str,
        walk: &mut Walk<'_>,
    ) {
        let name = join(path, tag);
        let chosen = entries.get(tag).filter(|value| !value.is_null());
        if let Some((_, variant)) =
            variants.iter().find(|(word, _)| chosen == Some(&Value::from(word.as_str())))
        {
            let word = entries.shift_remove(tag);
            self.entries(entries, variant, path, walk);
            entries.extend(word.map(|word| (tag.to_owned(), word)));
            return;
        }
        let problem = match chosen {
            Some(found) => {
                let words = variants.iter().map(|(word, _)| word.as_str());
                wrong(walk.origin(&name), &name, &shape.words(), words, found)
            }
            None if !walk.whole => return,
            None => {
                Problem::new(walk.origin(path), &name, format!("missing key `{name}`: {}", shape.words()))
            }
        };
        walk.problems.push(problem);
        // So that what refers to the table finds it.
        let first = variants.iter().take(1).map(|(word, _)| (tag.to_owned(), word.as_str().into()));
        *entries = first.collect();
    }

    /// The problem that the unknown `key` of the table `path` is.
    fn unknown(&self, value: &Value, key: &str, path: &str, table: &Shape, walk: &Walk<'_>) -> Problem {
        let name = join(path, key);
        let origin = walk.origin(&name);
        let is_table = match value {
            Value::Object(_) => matches!(origin, Origin::File { .. }),
            Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_object),
            _ => false,
        };
        let what = if is_table { "table" } else { "key" };
        let suggestions =
            if walk.problems.len() < MOST { self.meant(key, path, table, &origin) } else { Vec::new() };
        Problem { suggestions, ..Problem::new(origin, &name, format!("unknown {what} `{name}`")) }
    }

    /// What the unknown `key` of `table` may have meant, as its source would write it.
    fn meant(&self, key: &str, path: &str, table: &Shape, origin: &Origin) -> Vec<String> {
        let Kind::Struct(fields) = &table.kind else { return Vec::new() };
        let here = nearest(key, fields.iter().map(|(field, _)| field.as_str()));
        let names = match here.is_empty() {
            true => self.elsewhere(key),
            false => here.iter().map(|key| join(path, key)).collect(),
        };
        match origin {
            Origin::Env(_) => names.iter().filter_map(|name| env_name(&self.prefix, name)).collect(),
            Origin::File { .. } if !here.is_empty() => {
                here.iter().map(|key| quoted(key).into_owned()).collect()
            }
            _ => names,
        }
    }

    /// Keys and tables elsewhere whose last name is `key` or nearly so.
    fn elsewhere(&self, key: &str) -> Vec<String> {
        let ends = |known: &str| {
            known.match_indices('.').map(|(dot, _)| dot).chain([known.len()]).collect::<Vec<_>>()
        };
        let mut seen = BTreeSet::new();
        let names =
            self.known.iter().flat_map(|known| ends(known).into_iter().filter_map(|end| known.get(..end)));
        let names: Vec<&str> = names.filter(|name| seen.insert(*name)).collect();
        let last = |name: &str| plain(name.rsplit('.').next().unwrap_or_default());
        let lasts: Vec<String> = names.iter().map(|name| last(name)).collect();
        let near = match lasts.contains(&plain(key)) {
            true => vec![plain(key)],
            false => nearest(key, lasts.iter().map(String::as_str)).into_iter().map(str::to_owned).collect(),
        };
        let meant = names.iter().filter(|name| near.contains(&last(name)));
        meant.take(3).map(|name| (*name).to_owned()).collect()
    }

    /// Reads `T` from `layer`. Every value that does not fit is reported and taken out, so that the rest
    /// is read too; `None` when without them there is no `T`.
    ///
    /// A layer that is not the `whole` configuration may lack keys: other sources may complete it.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        layer: &mut Layer,
        whole: bool,
        problems: &mut Vec<Problem>,
    ) -> Option<T> {
        let mut scratch = layer.value.clone();
        for _ in 0..MOST_READINGS {
            let fail = match serde_path_to_error::deserialize(self.shape.nested(&scratch)) {
                Ok(value) => return Some(value),
                Err(fail) => fail,
            };
            let place = Place::of(fail.path(), &scratch);
            // Arrays are replaced whole: nothing can complete what stands in one.
            let complete = whole || place.in_array;
            let message: &serde_json::Error = fail.inner();
            let found = scratch.pointer(&place.pointer).filter(|found| !found.is_null())?;
            let problem = self.problem(&place, &message.to_string(), found, layer);
            let is_known = problems.iter().any(|other| is_within(&other.key, &problem.key));
            let reported = !problem.missing || complete && !is_known;
            if reported {
                problems.push(problem);
            }
            if place.pointer.is_empty() || problems.len() >= MOST {
                return None;
            }
            *scratch.pointer_mut(&place.pointer)? = Value::Null;
            if reported {
                *layer.value.pointer_mut(&place.pointer)? = Value::Null;
            }
        }
        None
    }

    /// What serde's `message` about `place` says, in the words of somebody who writes a configuration.
    fn problem(&self, place: &Place, message: &str, found: &Value, layer: &Layer) -> Problem {
        const TYPES: [&str; 4] = ["invalid type", "invalid value", "unknown variant", "data did not match"];
        let origin = layer.origin(&place.held);
        if let Some(rest) = message.strip_prefix("missing field `") {
            let name = join(&place.name, rest.trim_end_matches('`'));
            return Problem { missing: true, ..Problem::new(origin, &name, format!("missing key `{name}`")) };
        }
        let shape = place.keys.iter().try_fold(&self.shape, |shape, key| shape.field(key));
        match shape.filter(|_| TYPES.iter().any(|start| message.starts_with(start))) {
            Some(shape) => {
                let words = match &shape.kind {
                    Kind::Words(words) => words.as_slice(),
                    _ => &[],
                };
                let words = words.iter().map(|(word, _)| word.as_str());
                wrong(origin, &place.name, &shape.expected(), words, found)
            }
            None => Problem::new(origin, &place.name, format!("`{}`: {message}", place.name)),
        }
    }
}

/// Where serde stopped.
#[derive(Default)]
struct Place {
    /// The dotted key.
    name: String,
    /// The longest beginning of `name` that stands in the layer.
    held: String,
    /// The JSON pointer of `held`.
    pointer: String,
    /// The steps of `name`; any text for an index.
    keys: Vec<String>,
    in_array: bool,
}

impl Place {
    fn of(path: &Path, root: &Value) -> Self {
        let mut place = Self::default();
        let mut node = Some(root);
        for segment in path {
            let step = match segment {
                Segment::Map { key } => {
                    place.name = join(&place.name, key);
                    key.clone()
                }
                Segment::Seq { index } => {
                    // Serde did not see what was taken out before.
                    let items = node.and_then(Value::as_array).into_iter().flatten().enumerate();
                    let held = items.filter(|(_, item)| !item.is_null()).nth(*index);
                    place.in_array = true;
                    let index = held.map_or(*index, |(index, _)| index);
                    place.name = format!("{}[{index}]", place.name);
                    index.to_string()
                }
                Segment::Enum { .. } | Segment::Unknown => continue,
            };
            let pointer = format!("{}/{}", place.pointer, step.replace('~', "~0").replace('/', "~1"));
            node = root.pointer(&pointer).filter(|_| node.is_some());
            if node.is_some() {
                (place.pointer, place.held) = (pointer, place.name.clone());
            }
            place.keys.push(step);
        }
        place
    }
}

/// The problem that `found` is not what is `expected`, one of `words` where it is a word.
fn wrong<'w>(
    origin: Origin,
    name: &str,
    expected: &str,
    words: impl Iterator<Item = &'w str>,
    found: &Value,
) -> Problem {
    let near = found.as_str().map(|found| nearest(found, words)).unwrap_or_default();
    let found = match found {
        Value::String(text) => format!("string `{}`", shortened(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        other => format!("`{}`", inline(other)),
    };
    let message = format!("`{name}` must be {expected}; found {found}");
    let suggestions = near.into_iter().map(str::to_owned).collect();
    Problem { suggestions, ..Problem::new(origin, name, message) }
}

/// The beginning of a text that a message repeats, on one line.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push_str("...");
    }
    short
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
