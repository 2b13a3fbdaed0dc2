//! The matrix a\[i\]\[j\] of a run: bits per byte on slice j at evaluation i. It holds the scores of each
//! document, so two runs can be compared on resampled documents.
//!
//! # Invariants
//! - a\[i\]\[j\] is sum(nats) / ln 2 / sum(bytes) over documents: long documents weigh more, and the figure
//!   does not depend on the tokenisation.
//! - Evaluations are compared on the documents that *every* evaluation of the run scored ([`Track::along`]);
//!   the last one by itself uses all documents that it scored ([`Track::last`]).
//! - Documents are sorted by name, so no figure depends on the order of scoring.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;

use perennial_program::error::{Kind, ProgramError};
use perennial_schemas::id::Step;

use crate::report::input::{Arrival, Run, Script, Slice, SliceScore};

/// Scores that are invalid or cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MatrixError {
    /// A name is not unique.
    #[error("{what} `{name}` comes twice{place}")]
    Twice {
        /// What it names.
        what: &'static str,
        /// The name.
        name: Box<str>,
        /// The location, or empty.
        place: Box<str>,
    },
    /// A slice that was not declared.
    #[error("run `{run}` scored slice `{slice}` at step {step}, which is not among the slices")]
    Unknown {
        /// The run.
        run: Box<str>,
        /// The evaluation.
        step: Step,
        /// The slice.
        slice: Box<str>,
    },
    /// Evaluations are out of order.
    #[error("the evaluation of run `{run}` at step {step} is out of order: {why}")]
    Order {
        /// The run.
        run: Box<str>,
        /// The evaluation.
        step: Step,
        /// What is wrong.
        why: &'static str,
    },
    /// A number outside its range.
    #[error("{what} of {place} is {value}: {why}")]
    Range {
        /// Its name.
        what: &'static str,
        /// Its owner.
        place: Box<str>,
        /// The number.
        value: Box<str>,
        /// The range.
        why: &'static str,
    },
    /// A document has different sizes.
    #[error(
        "document `{document}` of slice `{slice}` has {left} bytes in {left_place}, {right} in {right_place}"
    )]
    Bytes {
        /// The slice.
        slice: Box<str>,
        /// The document.
        document: Box<str>,
        /// Bytes in the first place.
        left: u64,
        /// The first place.
        left_place: Box<str>,
        /// Bytes in the second place.
        right: u64,
        /// The second place.
        right_place: Box<str>,
    },
    /// Two runs were scored on different documents.
    #[error(
        "runs `{left}` and `{right}` cannot be compared on slice `{slice}`: {which} scored document \
         `{document}` for `{holder}` alone"
    )]
    Documents {
        /// The slice.
        slice: Box<str>,
        /// The first run.
        left: Box<str>,
        /// The second run.
        right: Box<str>,
        /// Which evaluations.
        which: &'static str,
        /// The first document that one of them did not score.
        document: Box<str>,
        /// The run that scored it.
        holder: Box<str>,
    },
}

impl ProgramError for MatrixError {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Documents { .. } => "evaluate both runs on the same documents, or report them separately",
            Self::Bytes { .. } => "use the same `evaluate.document` at every evaluation of every run",
            _ => return None,
        };
        Some(text.into())
    }
}

/// The time of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Optimiser steps done.
    pub step: Step,
    /// Tokens learnt.
    pub tokens: u64,
    /// Share of the stream delivered, 0 to 1.
    pub fraction: f64,
}

/// The same documents of one slice at several evaluations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    documents: Vec<String>,
    bytes: Vec<u64>,
    nats: Vec<Option<Vec<f64>>>,
}

impl Block {
    /// The documents' names, sorted.
    #[must_use]
    pub fn documents(&self) -> &[String] {
        &self.documents
    }

    /// Bits per byte at `evaluation`, with document d counted `times[d]` times (once without `times`); `None`
    /// if the slice was not scored, a loss is not finite, or the documents have no bytes.
    #[must_use]
    pub fn bits_per_byte(&self, evaluation: usize, times: Option<&[u32]>) -> Option<f64> {
        let nats = self.nats.get(evaluation)?.as_ref()?;
        let (mut sum, mut bytes) = (0.0, 0.0);
        for (index, (nats, size)) in nats.iter().zip(&self.bytes).enumerate() {
            let times = times.map_or(1.0, |times| times.get(index).map_or(0.0, |times| f64::from(*times)));
            sum += times * nats;
            bytes += times * *size as f64;
        }
        let bits = sum / LN_2 / bytes;
        bits.is_finite().then_some(bits)
    }
}

/// One slice in one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// The slice's name.
    pub slice: String,
    /// Whether it is in Latin script.
    pub latin: bool,
    /// The documents that every evaluation scored, at each evaluation.
    pub along: Block,
    /// All documents of the last evaluation: one entry.
    pub last: Block,
    /// t_j: the first evaluation that scored it after 95 % of its stream text was delivered, even if its
    /// losses were not finite; `None` if the stream has no such text.
    pub arrived: Option<usize>,
    /// The last evaluation that scored it before 5 % of its stream text was delivered.
    pub before: Option<usize>,
}

/// a\[i\]\[j\] of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    run: String,
    evaluations: Vec<Evaluation>,
    tracks: Vec<Track>,
}

impl Matrix {
    /// The matrix of `run` over `slices`, in their order.
    ///
    /// # Errors
    /// [`MatrixError`] if evaluations are out of order, a fraction or quantile is outside 0 to 1, a slice is
    /// unknown or repeated, or a document is repeated or changes its size.
    pub fn of(run: &Run, slices: &[Slice]) -> Result<Self, MatrixError> {
        let evaluations = order(run)?;
        known(run, slices)?;
        let track = |slice| track(run, slice, &evaluations);
        let tracks = slices.iter().map(track).collect::<Result<_, _>>()?;
        Ok(Self { run: run.name.clone(), evaluations, tracks })
    }

    /// The evaluations, by ascending step.
    #[must_use]
    pub fn evaluations(&self) -> &[Evaluation] {
        &self.evaluations
    }

    /// The slices, in the order given.
    #[must_use]
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// The index of the initial model's evaluation.
    #[must_use]
    pub fn start(&self) -> Option<usize> {
        self.evaluations.iter().position(|evaluation| evaluation.step == Step(0))
    }

    /// Refuses runs that were not scored on the same documents. A slice that only one of them scored is
    /// accepted: it has no figure.
    ///
    /// # Errors
    /// [`MatrixError::Documents`] with the first document that one of them did not score,
    /// [`MatrixError::Bytes`] with the first that differs in size.
    pub fn comparable(&self, other: &Self) -> Result<(), MatrixError> {
        for (left, right) in self.tracks.iter().zip(&other.tracks) {
            self.check_same(other, &left.slice, "the last evaluation", &left.last, &right.last)?;
            self.check_same(other, &left.slice, "the earlier evaluations", &left.along, &right.along)?;
        }
        Ok(())
    }

    fn check_same(
        &self,
        other: &Self,
        slice: &str,
        which: &'static str,
        left: &Block,
        right: &Block,
    ) -> Result<(), MatrixError> {
        if left.documents.is_empty() || right.documents.is_empty() {
            return Ok(());
        }
        let sizes = |block: &Block| -> BTreeMap<String, u64> {
            block.documents.iter().cloned().zip(block.bytes.iter().copied()).collect()
        };
        let (mine, theirs) = (sizes(left), sizes(right));
        for (holder, first, second) in [(&self.run, &mine, &theirs), (&other.run, &theirs, &mine)] {
            if let Some(document) = first.keys().find(|document| !second.contains_key(*document)) {
                return Err(MatrixError::Documents {
                    slice: slice.into(),
                    left: self.run.as_str().into(),
                    right: other.run.as_str().into(),
                    which,
                    document: document.as_str().into(),
                    holder: holder.as_str().into(),
                });
            }
        }
        let differs = mine.iter().zip(theirs.values()).find(|((_, left), right)| left != right);
        differs.map_or(Ok(()), |((document, left), right)| {
            Err(MatrixError::Bytes {
                slice: slice.into(),
                document: document.as_str().into(),
                left: *left,
                left_place: format!("run `{}`", self.run).into(),
                right: *right,
                right_place: format!("run `{}`", other.run).into(),
            })
        })
    }
}

/// Refuses repeated slice names and arrival times that are not positions of the stream.
///
/// # Errors
/// [`MatrixError::Twice`] or [`MatrixError::Range`].
pub fn check_slices(slices: &[Slice]) -> Result<(), MatrixError> {
    unique("slice", slices.iter().map(|slice| slice.name.as_str()), "")?;
    for slice in slices {
        let place = || format!("slice `{}`", slice.name);
        let Some(Arrival { q05, q50, q95 }) = slice.arrival else { continue };
        for (what, value) in [("`q05`", q05), ("`q50`", q50), ("`q95`", q95)] {
            share(what, value, place)?;
        }
        if !(q05 <= q50 && q50 <= q95) {
            let value = format!("{q05} {q50} {q95}").into();
            let why = "they must ascend";
            return Err(MatrixError::Range {
                what: "`q05`, `q50`, `q95`",
                place: place().into(),
                value,
                why,
            });
        }
    }
    Ok(())
}

/// Refuses a repeated name; `place` is appended to the message.
///
/// # Errors
/// [`MatrixError::Twice`] with the first repeated name.
pub fn unique<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a str>,
    place: &str,
) -> Result<(), MatrixError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(MatrixError::Twice { what, name: name.into(), place: place.into() });
        }
    }
    Ok(())
}

fn share(what: &'static str, value: f64, place: impl Fn() -> String) -> Result<(), MatrixError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    let why = "it must be from 0 to 1";
    Err(MatrixError::Range { what, place: place().into(), value: value.to_string().into(), why })
}

fn order(run: &Run) -> Result<Vec<Evaluation>, MatrixError> {
    let mut evaluations: Vec<Evaluation> = Vec::with_capacity(run.points.len());
    for point in &run.points {
        share("`fraction`", point.fraction, || format!("run `{}` at step {}", run.name, point.step))?;
        if let Some(last) = evaluations.last() {
            let refuse = |why| MatrixError::Order { run: run.name.as_str().into(), step: point.step, why };
            if point.step <= last.step {
                return Err(refuse("its step is not above the one before it"));
            }
            if point.tokens < last.tokens || point.fraction < last.fraction {
                return Err(refuse("its tokens or its share of the stream are below the one before it"));
            }
        }
        evaluations.push(Evaluation { step: point.step, tokens: point.tokens, fraction: point.fraction });
    }
    Ok(evaluations)
}

fn known(run: &Run, slices: &[Slice]) -> Result<(), MatrixError> {
    for point in &run.points {
        let place = format!(" in run `{}` at step {}", run.name, point.step);
        unique("slice", point.scores.iter().map(|score| score.slice.as_str()), &place)?;
        for score in &point.scores {
            if !slices.iter().any(|slice| slice.name == score.slice) {
                let (run, slice) = (run.name.as_str().into(), score.slice.as_str().into());
                return Err(MatrixError::Unknown { run, step: point.step, slice });
            }
            let place = format!(" in slice `{}` of run `{}` at step {}", score.slice, run.name, point.step);
            unique("document", score.documents.iter().map(|score| score.document.as_str()), &place)?;
        }
    }
    Ok(())
}

fn track(run: &Run, slice: &Slice, evaluations: &[Evaluation]) -> Result<Track, MatrixError> {
    let scores: Vec<Option<&SliceScore>> = run
        .points
        .iter()
        .map(|point| {
            point.scores.iter().find(|score| score.slice == slice.name && !score.documents.is_empty())
        })
        .collect();
    let documents = documents(run, slice, &scores)?;
    let evaluated = scores.iter().flatten().count();
    let common = documents.iter().filter(|(_, document)| document.times == evaluated);
    let along = block(&scores, common.map(|(name, document)| (*name, document.bytes)).collect());
    let last = scores.last().copied().flatten();
    let last_documents = last.iter().flat_map(|score| &score.documents);
    let last = block(&[last], last_documents.map(|score| (score.document.as_str(), score.bytes)).collect());
    Ok(Track {
        slice: slice.name.clone(),
        latin: slice.script == Script::Latin,
        along,
        last,
        arrived: slice.arrival.and_then(|arrival| first_after(arrival, &scores, evaluations)),
        before: slice.arrival.and_then(|arrival| last_before(arrival, &scores, evaluations)),
    })
}

/// The first evaluation that scored the slice when 95 % of its text was delivered.
fn first_after(
    arrival: Arrival,
    scores: &[Option<&SliceScore>],
    evaluations: &[Evaluation],
) -> Option<usize> {
    let mut points = evaluations.iter().zip(scores);
    points.position(|(evaluation, score)| score.is_some() && evaluation.fraction >= arrival.q95)
}

/// The last evaluation that scored the slice before 5 % of its text was delivered.
fn last_before(
    arrival: Arrival,
    scores: &[Option<&SliceScore>],
    evaluations: &[Evaluation],
) -> Option<usize> {
    let mut points = evaluations.iter().zip(scores);
    points.rposition(|(evaluation, score)| score.is_some() && evaluation.fraction < arrival.q05)
}

/// A document's size, and the evaluations of a run that scored it.
struct Scored {
    bytes: u64,
    /// The first evaluation that scored it.
    step: Step,
    /// How many evaluations scored it.
    times: usize,
}

fn documents<'a>(
    run: &Run,
    slice: &Slice,
    scores: &[Option<&'a SliceScore>],
) -> Result<BTreeMap<&'a str, Scored>, MatrixError> {
    let mut all: BTreeMap<&str, Scored> = BTreeMap::new();
    for (point, score) in run.points.iter().zip(scores) {
        for document in score.iter().flat_map(|score| &score.documents) {
            let new = Scored { bytes: document.bytes, step: point.step, times: 0 };
            let first = all.entry(&document.document).or_insert(new);
            first.times += 1;
            if first.bytes != document.bytes {
                return Err(MatrixError::Bytes {
                    slice: slice.name.as_str().into(),
                    document: document.document.as_str().into(),
                    left: first.bytes,
                    left_place: format!("run `{}` at step {}", run.name, first.step).into(),
                    right: document.bytes,
                    right_place: format!("run `{}` at step {}", run.name, point.step).into(),
                });
            }
        }
    }
    Ok(all)
}

/// The scores of the `chosen` documents, given with their sizes in bytes.
fn block(scores: &[Option<&SliceScore>], chosen: BTreeMap<&str, u64>) -> Block {
    let row = |score: &Option<&SliceScore>| -> Option<Vec<f64>> {
        let by_name: BTreeMap<&str, f64> =
            score.as_ref()?.documents.iter().map(|score| (score.document.as_str(), score.nats)).collect();
        let nats: Option<Vec<f64>> = chosen.keys().map(|name| by_name.get(name).copied()).collect();
        nats.filter(|nats| !nats.is_empty() && nats.iter().all(|nats| nats.is_finite()))
    };
    Block {
        documents: chosen.keys().map(|name| (*name).to_owned()).collect(),
        bytes: chosen.values().copied().collect(),
        nats: scores.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests;
