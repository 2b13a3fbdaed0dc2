//! Scores the held-out slices with a job's weights and writes the scores to the store.

use std::collections::BTreeSet;

use perennial_program::error::{Failure, Kind, ProgramError};
use perennial_replay::receive::{self, Evaluation, Received};
use perennial_schemas::id::Step;
use perennial_schemas::table::Table;
use perennial_schemas::table::evaluations::View;
use perennial_store::order::OrderLog;
use perennial_store::{Scan, Store};
use tokio::runtime::Handle;

use super::held_out::Slice;
use super::slices::{Score, score};
use crate::checkpoint::JobPosition;
use crate::checkpoint::release::Weights;
use crate::config::Config;
use crate::model::Decoder;
use crate::step::{Learner, TrainConfigError};
use crate::torch;

/// Another job has used the new job's name.
#[derive(Debug, thiserror::Error)]
#[error("the store holds other scores of a job named `{job}` at step {step}")]
pub struct NameTaken {
    job: String,
    step: Step,
}

impl ProgramError for NameTaken {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }
    fn hint(&self) -> Option<String> {
        Some("choose another `job.name`, or use the configuration of the job that used this name".into())
    }
}

/// Scores one job.
pub struct Scorer<'a> {
    config: &'a Config,
    slices: &'a [Slice],
    store: &'a Store,
    runtime: &'a Handle,
    /// The last step at which the live weights were scored.
    scored: Option<Step>,
    /// Whether the job's folder held no checkpoint at its start.
    is_new: bool,
}

impl<'a> Scorer<'a> {
    /// The scorer of a job; it `is_new` if its folder held no checkpoint.
    #[must_use]
    pub const fn new(
        config: &'a Config,
        slices: &'a [Slice],
        store: &'a Store,
        runtime: &'a Handle,
        is_new: bool,
    ) -> Self {
        Self { config, slices, store, runtime, scored: None, is_new }
    }

    /// Scores the live weights, unless they were already scored at this step.
    ///
    /// # Errors
    /// [`NameTaken`]; errors of libtorch and the store.
    pub fn live(&mut self, learner: &Learner, position: &JobPosition) -> Result<(), Failure> {
        if self.scored == Some(learner.at()) {
            return Ok(());
        }
        let name = Weights::LIVE.name();
        let scores = self.score(&name, learner.model(), position)?;
        self.scored = Some(learner.at());
        self.send(&name, learner.at(), position, &scores)
    }

    /// Scores the other weights of the job: the averages as one series, and each interpolation as its own
    /// series, because the list of interpolations may grow after the job's end.
    ///
    /// # Errors
    /// [`NameTaken`]; errors of libtorch and the store.
    pub fn others(
        &self,
        learner: &Learner,
        position: &JobPosition,
        all: &[Weights],
        start: Option<&Decoder>,
    ) -> Result<(), Failure> {
        let mut averages = Vec::new();
        for weights in all.iter().filter(|weights| **weights != Weights::LIVE) {
            let Some(values) = weights.values(learner, start)? else { continue };
            let model = torch::guarded(|| learner.model().with_values(&values))?;
            let model = model.map_err(TrainConfigError::from)?;
            let scores = self.score(&weights.name(), &model, position)?;
            if weights.is_interpolated() {
                // The name of a series allows fewer characters than that of weights.
                let series = weights.name().replace('@', "-at-").replace('.', "_");
                self.send(&series, learner.at(), position, &scores)?;
            } else {
                averages.extend(scores);
            }
        }
        self.send("averages", learner.at(), position, &averages)
    }

    fn score(
        &self,
        weights: &str,
        model: &Decoder,
        position: &JobPosition,
    ) -> Result<Vec<Evaluation>, Failure> {
        let window = self.config.replay.batch.tokens as usize;
        // As many rows at a time as in a step, and at most four.
        let rows = match self.config.run.micro_rows {
            0 => 4,
            rows => rows.min(4) as usize,
        };
        let (mut all, mut sums) = (Vec::new(), Vec::new());
        for slice in self.slices {
            let scores = score(model, &slice.documents, window, window.saturating_mul(rows))?;
            sums.push(Score::sum(&scores));
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
        if let Some(bits) = Score::sum(&sums).bits_per_byte() {
            tracing::info!(
                weights,
                tokens = position.tokens,
                "evaluated: {bits:.3} bits per byte over all slices"
            );
        }
        Ok(all)
    }

    fn send(
        &self,
        series: &str,
        step: Step,
        position: &JobPosition,
        scores: &[Evaluation],
    ) -> Result<(), Failure> {
        if scores.is_empty() {
            return Ok(());
        }
        let job = &self.config.job.name;
        let sent = self.runtime.block_on(async {
            let mut order = OrderLog::open(self.store).await?;
            receive::evaluations(self.store, &mut order, job, series, step, position.tokens, scores).await
        })?;
        match sent {
            Received::Written(_) => {}
            // A job that was killed, or started again, computes the same scores.
            Received::Before if self.is_new && !self.has(step, scores)? => {
                return Err(NameTaken { job: job.clone(), step }.into());
            }
            Received::Before => tracing::debug!(series, step = step.0, "the store already has these scores"),
        }
        Ok(())
    }

    /// Whether the store has these scores of the job.
    fn has(&self, step: Step, scores: &[Evaluation]) -> Result<bool, Failure> {
        // A job's name contains no quote.
        let filter = Some(format!("job = '{}' and step = {}", self.config.job.name, step.0));
        let found = self.runtime.block_on(async {
            let version = self.store.version(Table::Evaluations).await?;
            self.store.scan(Table::Evaluations, version, &Scan { filter, ..Scan::default() }).await
        })?;
        let mut there = BTreeSet::new();
        for batch in &found {
            for row in View::new(batch)?.iter() {
                let document = row.document.unwrap_or_default().to_owned();
                there.insert((row.weights.to_owned(), row.slice.to_owned(), document, row.nats.to_bits()));
            }
        }
        let key = |score: &Evaluation| {
            (score.weights.clone(), score.slice.clone(), score.document.clone(), score.nats.to_bits())
        };
        Ok(scores.iter().all(|score| there.contains(&key(score))))
    }
}
