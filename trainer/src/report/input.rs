//! What a report is made of. It is written beside the page and embedded in it, so that every figure
//! can be recomputed.

use std::collections::BTreeMap;

use perennial_schemas::id::Step;
use serde::{Deserialize, Serialize};

/// Everything a report says comes from here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The page's title.
    pub title: String,
    /// Parameters of the model, where known.
    #[serde(default)]
    pub parameters: Option<u64>,
    /// What else the reader must know of how the runs were made, in the order to be shown.
    #[serde(default)]
    pub settings: Vec<Setting>,
    /// The outcomes of what was read, one entry per source.
    #[serde(default)]
    pub ingested: Vec<Ingested>,
    /// The kept records of the whole stream.
    #[serde(default)]
    pub stream: Holdings,
    /// Novelty along the stream, where it was scored.
    #[serde(default)]
    pub novelty: Option<Novelty>,
    /// The replay buffers at the end of the stream.
    #[serde(default)]
    pub buffers: Vec<Buffer>,
    /// The held-out slices, in any order.
    pub slices: Vec<Slice>,
    /// The runs, in the order to be shown; several may share a label and differ in their seed.
    pub runs: Vec<Run>,
}

/// One setting in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value, with its unit.
    pub value: String,
}

/// The outcomes of what one source delivered. `read` = `kept` + all duplicates + all dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingested {
    /// The source's name.
    pub source: String,
    /// Things read.
    pub read: u64,
    /// Records kept.
    pub kept: u64,
    /// Duplicates by match kind (`exact`, `folded`, `near`).
    #[serde(default)]
    pub duplicates: BTreeMap<String, u64>,
    /// Dead letters by reason.
    #[serde(default)]
    pub dead_letters: BTreeMap<String, u64>,
    /// Bytes of text kept.
    pub bytes: u64,
}

/// An amount of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// How many.
    pub records: u64,
    /// Bytes of their text.
    pub bytes: u64,
}

/// Records by where they come from and how old they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holdings {
    /// By source.
    #[serde(default)]
    pub by_source: BTreeMap<String, Amount>,
    /// By the first year of the decade of their event time (1990 = the years 1990 to 1999).
    #[serde(default)]
    pub by_decade: BTreeMap<i32, Amount>,
}

/// One replay buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: String,
    /// Its capacity in words (`512 records`), where it has one.
    #[serde(default)]
    pub capacity: Option<String>,
    /// What it holds.
    pub holds: Holdings,
}

/// Novelty along the stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Novelty {
    /// What the score is, with its unit.
    pub score: String,
    /// Its mean in successive parts of the stream.
    pub bins: Vec<NoveltyBin>,
}

/// One part of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoveltyBin {
    /// The middle of the part, as a share of the stream, 0 to 1.
    pub fraction: f64,
    /// The mean score; null in JSON if it is missing.
    #[serde(with = "finite")]
    pub score: f64,
}

/// A script, as far as the figures distinguish scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Script {
    /// Latin.
    Latin,
    /// Cyrillic.
    Cyrillic,
    /// Han.
    Han,
    /// Any other.
    #[serde(other)]
    Other,
}

/// A held-out set of documents of one source and period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// The source of its documents.
    pub source: String,
    /// Their language, as a BCP 47 tag.
    pub language: String,
    /// Their script.
    pub script: Script,
    /// First day of the period.
    pub from: String,
    /// Last day of the period.
    pub to: String,
    /// When the text of its source and period comes; absent if the stream has no such text.
    #[serde(default)]
    pub arrival: Option<Arrival>,
}

/// Places of the stream, 0 to 1, where shares of a slice's own text have passed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    /// 5 % of it.
    pub q05: f64,
    /// Half of it.
    pub q50: f64,
    /// 95 % of it.
    pub q95: f64,
}

/// What a run is compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The stream in its order, without replay.
    Floor,
    /// The stream in its order, with what is being tried.
    Method,
    /// All of the stream's text mixed: a bound, not a method, as future text is not available.
    Ceiling,
}

/// One run, scored with one kind of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its name, unique in the report.
    pub name: String,
    /// What the reader sees (`no replay`, `replay 10 %`); runs that differ in their seed alone share it.
    pub label: String,
    /// What it is compared as.
    pub kind: Kind,
    /// Share of replayed tokens, 0 to 1.
    pub replay: f64,
    /// Its seed.
    pub seed: u64,
    /// The weights that were scored along the way: `live`.
    pub weights: String,
    /// Its evaluations, by ascending step. One at step 0 is of the initial model.
    pub points: Vec<Point>,
    /// Other weights at its end, scored like those of the last evaluation.
    #[serde(default)]
    pub final_weights: Vec<FinalWeights>,
    /// Loss on each stretch of new text before it was learnt, by ascending tokens.
    #[serde(default)]
    pub prequential: Vec<NewText>,
    /// Tokens learnt a second.
    #[serde(default)]
    pub tokens_per_second: Option<f64>,
    /// Share of the time in which the trainer waited for text, 0 to 1.
    #[serde(default)]
    pub data_wait: Option<f64>,
}

/// Weights at the end of a run, other than those that were scored along the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalWeights {
    /// Their name: `average-120`, `average-120@0.85`.
    pub weights: String,
    /// The slices that were scored.
    pub scores: Vec<SliceScore>,
}

/// One evaluation of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Optimiser steps done.
    pub step: Step,
    /// Tokens learnt.
    pub tokens: u64,
    /// Share of the stream delivered, 0 to 1; of the run itself where the stream was mixed.
    pub fraction: f64,
    /// The slices that were scored.
    pub scores: Vec<SliceScore>,
}

/// One slice at one evaluation. An evaluation may score fewer documents than another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceScore {
    /// The slice's name.
    pub slice: String,
    /// Its documents, in any order.
    pub documents: Vec<DocumentScore>,
}

/// One document at one evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentScore {
    /// Its name in the slice.
    pub document: String,
    /// Sum of its next-token losses in nats; null in JSON where it is not a number.
    #[serde(with = "finite")]
    pub nats: f64,
    /// Tokens predicted.
    pub predicted: u64,
    /// Bytes of text that those tokens are; the same at every evaluation of every run.
    pub bytes: u64,
}

/// Loss on new text before it was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewText {
    /// Tokens learnt at the end of the stretch, which begins where the one before it ends.
    pub tokens: u64,
    /// Mean over the stretch's new text, in nats per token; null in JSON where it is not a number.
    #[serde(with = "finite")]
    pub nats_per_token: f64,
}

/// JSON has no number that is not finite: null stands for all of them.
mod finite {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_none() }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}
