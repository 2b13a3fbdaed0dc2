//! AdamW with a state that can be saved.
//!
//! m, v and the step count of every parameter exist from the start, so a checkpoint without one of them is
//! broken.

use perennial_program::error::{Kind as ErrorKind, ProgramError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::model::Parameter;
use crate::torch::{self, AdamW, Clipped, Moments, TorchError};

/// `[optim]`: the hyperparameters of AdamW and clipping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay of matrices; norms do not decay.
    pub weight_decay: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Largest joint 2-norm of the gradients; 0 disables clipping.
    pub clip: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, weight_decay: 0.1, epsilon: 1e-8, clip: 1.0 }
    }
}

/// An invalid hyperparameter.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{key}` cannot be {value}: {why}")]
pub struct OptimError {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub value: f64,
    /// The rule it breaks.
    pub why: &'static str,
}

impl ProgramError for OptimError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Config
    }
}

impl OptimConfig {
    /// Refuses invalid hyperparameters.
    ///
    /// # Errors
    /// [`OptimError`] with the first key that breaks a rule.
    pub fn check(&self) -> Result<(), OptimError> {
        let share = |value: f64| (0.0..1.0).contains(&value);
        let natural = |value: f64| value.is_finite() && value >= 0.0;
        let rules = [
            ("beta1", self.beta1, share(self.beta1), "it must be at least 0 and below 1"),
            ("beta2", self.beta2, share(self.beta2), "it must be at least 0 and below 1"),
            ("weight_decay", self.weight_decay, natural(self.weight_decay), "it must not be negative"),
            ("epsilon", self.epsilon, natural(self.epsilon) && self.epsilon > 0.0, "it must be positive"),
            ("clip", self.clip, natural(self.clip), "it must not be negative"),
        ];
        match rules.into_iter().find(|rule| !rule.2) {
            Some((key, value, _, why)) => Err(OptimError { key, value, why }),
            None => Ok(()),
        }
    }
}

/// The optimiser and its state in two groups: matrices, which decay, and other parameters, which do not.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimConfig,
    groups: [Group; 2],
}

#[derive(Debug, Default)]
struct Group {
    names: Vec<String>,
    moments: Moments,
}

impl Optimizer {
    /// The state before the first step, for these parameters.
    #[must_use]
    pub fn new(config: OptimConfig, parameters: &[Parameter]) -> Self {
        let mut groups = [Group::default(), Group::default()];
        for Parameter { name, tensor } in parameters {
            let [matrices, rest] = &mut groups;
            let Group { names, moments } = if tensor.dim() >= 2 { matrices } else { rest };
            names.push(name.clone());
            moments.first.push(tensor.detach().zeros_like());
            moments.second.push(tensor.detach().zeros_like());
            moments.steps.push(Tensor::zeros([], (Kind::Float, tensor.device())));
            moments.parameters.push(tensor.shallow_clone());
        }
        Self { config, groups }
    }

    fn parameters(&self) -> impl Iterator<Item = &Tensor> {
        self.groups.iter().flat_map(|group| &group.moments.parameters)
    }

    /// Measures the gradients and scales them to `clip`, on the device.
    ///
    /// # Errors
    /// [`TorchError`] if a parameter has no gradient.
    pub fn clip(&self) -> Result<Clipped, TorchError> {
        torch::clip(self.parameters(), self.config.clip)
    }

    /// One update from the gradients; it is skipped if `clipped` says that they are not finite.
    ///
    /// # Errors
    /// [`TorchError`] if a parameter has no gradient.
    pub fn update(&mut self, learning_rate: f64, clipped: &Clipped) -> Result<(), TorchError> {
        let OptimConfig { beta1, beta2, weight_decay, epsilon, .. } = self.config;
        for (group, decay) in self.groups.iter_mut().zip([weight_decay, 0.0]) {
            let with = AdamW { learning_rate, beta1, beta2, decay, epsilon };
            torch::adamw(&mut group.moments, &clipped.skip, with)?;
        }
        Ok(())
    }

    /// Drops the gradients.
    ///
    /// # Errors
    /// [`TorchError`] if libtorch fails.
    pub fn drop_gradients(&self) -> Result<(), TorchError> {
        torch::drop_gradients(self.parameters())
    }

    /// Its state by name, to save it or to read into it: `exp_avg.`, `exp_avg_sq.` or `step.`, and the
    /// parameter's name.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        for Group { names, moments } in &self.groups {
            for (kind, tensors) in
                [("exp_avg", &moments.first), ("exp_avg_sq", &moments.second), ("step", &moments.steps)]
            {
                let named = names.iter().zip(tensors);
                all.extend(named.map(|(name, tensor)| (format!("{kind}.{name}"), tensor.shallow_clone())));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matrices_decay() {
        let leaf =
            |shape: &[i64]| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let parameters = [
            Parameter { name: "matrix".into(), tensor: leaf(&[2, 2]) },
            Parameter { name: "norm".into(), tensor: leaf(&[2]) },
        ];
        let mut optimizer =
            Optimizer::new(OptimConfig { weight_decay: 0.5, ..OptimConfig::default() }, &parameters);
        for parameter in &parameters {
            (&parameter.tensor * 0.0).sum(Kind::Float).backward();
        }
        let clipped = optimizer.clip().unwrap();
        optimizer.update(0.1, &clipped).unwrap();
        assert!((parameters[0].tensor.double_value(&[0, 0]) - 0.95).abs() < 1e-6);
        assert!((parameters[1].tensor.double_value(&[0]) - 1.0).abs() < f64::EPSILON);
        let names: Vec<String> = optimizer.state().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 6);
        assert!(names.contains(&"exp_avg_sq.norm".to_owned()) && names.contains(&"step.matrix".to_owned()));
    }

    #[test]
    fn invalid_hyperparameters_are_refused_by_key() {
        OptimConfig::default().check().unwrap();
        let refused = |config: OptimConfig| config.check().unwrap_err().key;
        assert_eq!(refused(OptimConfig { beta2: 1.0, ..OptimConfig::default() }), "beta2");
        assert_eq!(refused(OptimConfig { clip: -1.0, ..OptimConfig::default() }), "clip");
        assert_eq!(refused(OptimConfig { epsilon: 0.0, ..OptimConfig::default() }), "epsilon");
        assert_eq!(refused(OptimConfig { weight_decay: f64::NAN, ..OptimConfig::default() }), "weight_decay");
    }
}
