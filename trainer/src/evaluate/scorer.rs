//! Scores the held-out slices with a job's weights and sends what came out to the store.

use std::collections::BTreeSet;

use replay::receive::{self, Evaluation, Received};
use schemas::id::Step;
use schemas::program::error::Failure;
use schemas::store::Store;
use tokio::runtime::Handle;

use super::held_out::Slice;
use super::slices::score;
use crate::checkpoint::release::Weights;
use crate::config::Config;
use crate::model::Decoder;
use crate::step::{Learner, RecipeError};
use crate::torch;

/// Scores one job.
pub struct Scorer<'a> {
    config: &'a Config,
    slices: &'a [Slice],
    store: &'a Store,
    runtime: &'a Handle,
    /// Tokens learnt so far.
    tokens: u64,
    /// The step at which the live weights were scored last.
    scored: Option<Step>,
    /// Whether the job's folder held no checkpoint when it began.
    anew: bool,
    /// The series whose scores were not taken, once told.
    warned: BTreeSet<String>,
}

impl<'a> Scorer<'a> {
    /// Of a job that has learnt `tokens` tokens, and begins `anew` where its folder held no checkpoint.
    #[must_use]
    pub const fn new(
        config: &'a Config,
        slices: &'a [Slice],
        store: &'a Store,
        runtime: &'a Handle,
        tokens: u64,
        anew: bool,
    ) -> Self {
        Self { config, slices, store, runtime, tokens, scored: None, anew, warned: BTreeSet::new() }
    }

    /// Counts what the job has learnt since.
    pub const fn learnt(&mut self, tokens: u64) {
        self.tokens += tokens;
    }

    /// Scores the live weights, unless they were just scored.
    ///
    /// # Errors
    /// What libtorch or the store refuses.
    pub fn live(&mut self, learner: &Learner) -> Result<(), Failure> {
        if self.scored == Some(learner.at()) {
            return Ok(());
        }
        let name = Weights::LIVE.name();
        let scores = self.score(&name, learner.model())?;
        self.scored = Some(learner.at());
        self.send(&name, learner.at(), &scores)
    }

    /// Scores what the job leaves beside the live weights: the averages as one series, each way from the
    /// start to one as a series of its own, because the list of ways may be lengthened after the job's end.
    ///
    /// # Errors
    /// What libtorch or the store refuses.
    pub fn rest(
        &mut self,
        learner: &Learner,
        all: &[Weights],
        start: Option<&Decoder>,
    ) -> Result<(), Failure> {
        let mut averages = Vec::new();
        for weights in all.iter().filter(|weights| **weights != Weights::LIVE) {
            let Some(values) = weights.values(learner, start)? else { continue };
            let model = torch::guarded(|| learner.model().with_values(&values))?;
            let model = model.map_err(RecipeError::from)?;
            let scores = self.score(&weights.name(), &model)?;
            if weights.is_interpolated() {
                // A series is named with fewer characters than weights are.
                let series = weights.name().replace('@', "-at-").replace('.', "_");
                self.send(&series, learner.at(), &scores)?;
            } else {
                averages.extend(scores);
            }
        }
        self.send("averages", learner.at(), &averages)
    }

    fn score(&self, weights: &str, model: &Decoder) -> Result<Vec<Evaluation>, Failure> {
        let window = usize::try_from(self.config.replay.batch.tokens).unwrap_or(usize::MAX);
        // As many rows at a time as a step takes, and no more than four.
        let rows = match self.config.run.micro_rows {
            0 => 4,
            rows => rows.min(4) as usize,
        };
        let mut all = Vec::new();
        for slice in self.slices {
            let scores = score(model, &slice.documents, window, window.saturating_mul(rows))?;
            for (id, score) in slice.ids.iter().zip(scores) {
                all.push(Evaluation {
                    weights: weights.to_owned(),
                    slice: slice.entry.name.clone(),
                    document: id.clone(),
                    nats: score.nats,
                    predicted: score.tokens,
                    bytes: score.bytes,
                });
            }
        }
        let (nats, bytes) =
            all.iter().fold((0.0, 0), |(nats, bytes), score| (nats + score.nats, bytes + score.bytes));
        if bytes > 0 {
            let bits = nats / std::f64::consts::LN_2 / bytes as f64;
            tracing::info!(
                weights,
                tokens = self.tokens,
                "evaluated: {bits:.3} bits per byte over all slices"
            );
        }
        Ok(all)
    }

    fn send(&mut self, series: &str, step: Step, scores: &[Evaluation]) -> Result<(), Failure> {
        if scores.is_empty() {
            return Ok(());
        }
        let sent = receive::evaluations(self.store, &self.config.job.name, series, step, self.tokens, scores);
        match self.runtime.block_on(sent)? {
            Received::Written(_) => {}
            Received::Before if self.anew && self.warned.insert(series.to_owned()) => tracing::warn!(
                job = self.config.job.name,
                series,
                step = step.0,
                "scores are not taken: a job of this name has sent those of this step before; give the job a \
                 name of its own"
            ),
            Received::Before => tracing::debug!(series, step = step.0, "these scores are there already"),
        }
        Ok(())
    }
}
