//! READ THIS FIRST: one step of training, in the order of the equation.
//!
//! With weights w, batch B, loss L, and AdamW's update U:
//!
//! ```text
//! b      = bf16(w)             round       model (if it computes in bf16; else b is w)
//! for each part P of B:        split       feed  (`micro_rows` rows; else P is B)
//!     logits = f_b(P)          forward     model
//!     l     += L(logits, P)    terms       loss
//!     g     += dl/db           backward    in f32
//! g      = clip(g)             clip        optim
//! w      = U(w, g)             update      optim, schedule
//! e      = e + (w - e)/h       average     average
//! ```
//!
//! A step is a function of the learner's state and the batch: the same state and the same ticket give the
//! same bits on a CPU. [`Learner::step`] returns an error of libtorch with the ticket; drop the learner then,
//! because its weights may be partly updated.

use perennial_program::error::{Kind, ProgramError};
use perennial_schemas::id::Step;
use perennial_schemas::seed::Seed;
use perennial_schemas::wire::Ticket;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::average::{AverageConfig, Averages, WindowError};
use crate::device::Precision;
use crate::feed::{PackedBatch, to_host};
use crate::loss::next_token::{NextToken, Tally, next_token};
use crate::model::config::ShapeError;
use crate::model::decoder::WeightsError;
use crate::model::{Decoder, ModelConfig, Rounded};
use crate::optim::{OptimConfig, OptimError, Optimizer};
use crate::schedule::Schedule;
use crate::torch::{TorchError, guarded};

/// Everything in the configuration that affects the weights, except the batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The model's shape.
    pub model: ModelConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// The learning rate.
    pub schedule: Schedule,
    /// The averages to keep.
    pub average: AverageConfig,
    /// The number format of the forward and backward pass.
    pub precision: Precision,
    /// Rows of a batch that are computed at a time; 0 for all. Gradients are summed, so this changes only the
    /// order of a sum.
    pub micro_rows: u32,
    /// Weight of a prediction in a replayed row; one in a row of new text has weight 1.
    pub replay_weight: f32,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: ModelConfig::default(),
            optim: OptimConfig::default(),
            schedule: Schedule::default(),
            average: AverageConfig::default(),
            precision: Precision::default(),
            micro_rows: 0,
            replay_weight: 1.0,
        }
    }
}

/// An invalid training configuration.
#[derive(Debug, thiserror::Error)]
pub enum TrainConfigError {
    /// The model's shape.
    #[error("`[model]` is invalid")]
    Model(#[from] ShapeError),
    /// The optimiser's numbers.
    #[error("`[optim]` is invalid")]
    Optim(#[from] OptimError),
    /// The averages' windows.
    #[error("`[average]` is invalid")]
    Average(#[from] WindowError),
    /// The learning rate.
    #[error("`schedule.learning_rate` cannot be {0}: it must be a positive number")]
    Rate(f64),
    /// The weights do not fit the model.
    #[error("the weights do not fit the configuration")]
    Weights(#[from] WeightsError),
    /// libtorch failed.
    #[error("the model cannot be created")]
    Torch(#[from] TorchError),
}

impl ProgramError for TrainConfigError {
    fn kind(&self) -> Kind {
        match self {
            Self::Torch(error) => error.kind(),
            _ => Kind::Config,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Weights(error) => error.hint(),
            Self::Torch(error) => error.hint(),
            _ => None,
        }
    }
}

impl TrainConfig {
    /// Refuses an invalid training configuration.
    ///
    /// # Errors
    /// [`TrainConfigError`] with the first key that breaks a rule.
    pub fn check(&self) -> Result<(), TrainConfigError> {
        self.model.check()?;
        self.optim.check()?;
        self.average.check()?;
        let learning_rate = self.schedule.learning_rate;
        if learning_rate.is_finite() && learning_rate > 0.0 {
            Ok(())
        } else {
            Err(TrainConfigError::Rate(learning_rate))
        }
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// An operator of libtorch failed.
    #[error("step {step} failed on the batch of ticket {ticket}")]
    Torch {
        /// The step.
        step: Step,
        /// The ticket's JSON, which identifies the batch.
        ticket: String,
        /// libtorch's error.
        #[source]
        source: TorchError,
    },
    /// The gradients were not finite; the weights did not change.
    #[error("step {step} has a gradient norm of {norm} and loss {loss} on the batch of ticket {ticket}")]
    NotFinite {
        /// The step.
        step: Step,
        /// The gradients' norm.
        norm: f64,
        /// Nats per prediction.
        loss: f64,
        /// The ticket's JSON.
        ticket: String,
    },
    /// A batch for another step.
    #[error("the ticket is of step {found}, the learner is at step {wanted}")]
    Order {
        /// The ticket's step.
        found: Step,
        /// The learner's.
        wanted: Step,
    },
}

impl ProgramError for StepError {
    fn kind(&self) -> Kind {
        match self {
            Self::Torch { source, .. } => source.kind(),
            Self::NotFinite { .. } => Kind::Input,
            Self::Order { .. } => Kind::Bug,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Torch { source, .. } => source.hint(),
            Self::NotFinite { .. } => Some(
                "start another job, with another name and folder, `job.start` set to the last checkpoint's folder \
                 and a smaller `schedule.learning_rate`"
                    .into(),
            ),
            Self::Order { .. } => None,
        }
    }
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The step.
    pub step: Step,
    /// The minimised weighted mean, in nats per prediction; `None` if no prediction counted, so that the
    /// weights did not change.
    pub loss: Option<f64>,
    /// The losses before the update, by kind of row.
    pub tally: Tally,
    /// Joint 2-norm of the gradients before clipping.
    pub norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
}

/// A model with all state that training changes.
#[derive(Debug)]
pub struct Learner {
    pub(crate) model: Decoder,
    pub(crate) optimizer: Optimizer,
    pub(crate) averages: Averages,
    pub(crate) step: Step,
    /// The bf16 copy of the model, if it computes in bf16.
    rounded: Option<Rounded>,
    train_config: TrainConfig,
}

impl Learner {
    /// A learner at step 0 with random weights, a function of the training configuration and the seed.
    ///
    /// # Errors
    /// [`TrainConfigError`] if the configuration is invalid or libtorch fails.
    pub fn init(train_config: &TrainConfig, seed: Seed, device: Device) -> Result<Self, TrainConfigError> {
        train_config.check()?;
        let model = guarded(|| Decoder::init(&train_config.model, seed, device))??;
        Self::with_model(train_config, model)
    }

    /// A learner at step 0 that starts from a model's weights, with an empty optimiser.
    ///
    /// # Errors
    /// [`TrainConfigError`] if the configuration is invalid or libtorch fails.
    pub fn with_model(train_config: &TrainConfig, model: Decoder) -> Result<Self, TrainConfigError> {
        train_config.check()?;
        let optimizer = guarded(|| Optimizer::new(train_config.optim.clone(), model.parameters()))?;
        let averages = guarded(|| Averages::new(&train_config.average, model.tensors()))?;
        let rounded = match train_config.precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(guarded(|| Rounded::of(&model))??),
        };
        Ok(Self { model, optimizer, averages, step: Step(0), rounded, train_config: train_config.clone() })
    }

    /// Learns one batch.
    ///
    /// # Errors
    /// [`StepError`] with the ticket; the learner must be dropped then.
    pub fn step(&mut self, ticket: &Ticket, packed: &PackedBatch) -> Result<Outcome, StepError> {
        let step = self.step;
        if ticket.step != step {
            return Err(StepError::Order { found: ticket.step, wanted: step });
        }
        // During training only this call turns a panic of libtorch into an error.
        let outcome = guarded(|| self.equation(packed))
            .and_then(|made| made)
            .map_err(|source| StepError::Torch { step, ticket: ticket.to_json(), source })?;
        let loss = outcome.loss.unwrap_or(0.0);
        if !outcome.norm.is_finite() || !loss.is_finite() {
            return Err(StepError::NotFinite { step, norm: outcome.norm, loss, ticket: ticket.to_json() });
        }
        self.step = step.next();
        Ok(outcome)
    }

    fn equation(&mut self, packed: &PackedBatch) -> Result<Outcome, TorchError> {
        let learning_rate = self.train_config.schedule.at(self.step);
        let weight = packed.weight();
        if weight <= 0.0 {
            let tally = Tally::default();
            return Ok(Outcome { step: self.step, loss: None, tally, norm: 0.0, learning_rate });
        }
        // round
        if let Some(rounded) = &mut self.rounded {
            rounded.refresh()?;
        }
        // split
        let parts = packed.split(u64::from(self.train_config.micro_rows));
        // forward, terms, backward
        let losses: Vec<NextToken> =
            parts.iter().map(|part| self.backward(part, weight)).collect::<Result<_, _>>()?;
        // clip
        let clipped = self.optimizer.clip()?;
        // update
        self.optimizer.update(learning_rate, &clipped)?;
        self.optimizer.drop_gradients()?;
        // average
        self.averages.update(self.model.tensors())?;
        // The only device-to-host copy of a step, after all operators were launched.
        let (nll, [mean, norm]) = read(&losses, &clipped.norm)?;
        let (mut tally, mut nll) = (Tally::default(), nll.as_slice());
        for part in &parts {
            let (of_part, rest) = nll.split_at_checked(part.tokens.len()).unwrap_or((nll, &[]));
            tally = tally + Tally::of(part, of_part);
            nll = rest;
        }
        Ok(Outcome { step: self.step, loss: Some(mean), tally, norm, learning_rate })
    }

    /// Accumulates the gradients of a part of a batch; `total` is the sum of the whole batch's weights.
    fn backward(&self, part: &PackedBatch, total: f64) -> Result<NextToken, TorchError> {
        let input = part.input(self.model.device());
        // forward
        let logits = match &self.rounded {
            Some(rounded) => rounded.logits(&input),
            None => self.model.logits(&input),
        };
        // terms
        let loss = next_token(&logits, part, total);
        // backward
        loss.mean.backward();
        if let Some(rounded) = &self.rounded {
            rounded.collect_gradients()?;
        }
        // Detached, so that the graph and its memory are freed before the next part.
        Ok(NextToken { mean: loss.mean.detach(), nll: loss.nll })
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Decoder {
        &self.model
    }

    /// The averages of the weights.
    #[must_use]
    pub const fn averages(&self) -> &Averages {
        &self.averages
    }

    /// Steps done, which is the number of the next step.
    #[must_use]
    pub const fn at(&self) -> Step {
        self.step
    }

    /// Its configuration.
    #[must_use]
    pub const fn train_config(&self) -> &TrainConfig {
        &self.train_config
    }
}

/// Copies the losses of a batch's parts to the host at once: those of the tokens, part by part, then the sum
/// of the parts' means and the gradients' norm.
fn read(parts: &[NextToken], norm: &Tensor) -> Result<(Vec<f32>, [f64; 2]), TorchError> {
    let mut all: Vec<Tensor> = parts.iter().map(|part| part.nll.shallow_clone()).collect();
    let mean = parts.iter().map(|part| part.mean.shallow_clone()).reduce(|sum, mean| sum + mean);
    all.extend(mean.iter().chain([norm]).map(|scalar| scalar.to_kind(tch::Kind::Float).view([1])));
    let mut nll = to_host(&Tensor::cat(&all, 0))?;
    let scalars = nll.split_off(nll.len().saturating_sub(2));
    let [mean, norm] = scalars[..] else {
        return Err(TorchError::Refused(format!("a step ended with {} scalars, not 2", scalars.len())));
    };
    Ok((nll, [f64::from(mean), f64::from(norm)]))
}

#[cfg(test)]
mod tests;
