//! The learning rate: a linear warm-up, then constant, without an end. It knows no total, so a job can
//! always go on.

use schemas::id::Step;
use serde::{Deserialize, Serialize};

/// The learning rate at each step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// The rate after the warm-up.
    pub rate: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { rate: 1e-3, warmup: 30 }
    }
}

impl Schedule {
    /// The rate of step `step`: `rate * (step + 1) / warmup` until that reaches `rate`.
    #[must_use]
    pub fn at(&self, step: Step) -> f64 {
        let done = step.0.saturating_add(1);
        if done >= self.warmup { self.rate } else { self.rate * done as f64 / self.warmup as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_rises_to_its_value_and_stays() {
        let schedule = Schedule { rate: 0.5, warmup: 4 };
        let rates: Vec<f64> = [0, 1, 2, 3, 4, u64::MAX].map(|step| schedule.at(Step(step))).to_vec();
        assert_eq!(rates, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]);
        assert_eq!(Schedule { rate: 0.5, warmup: 0 }.at(Step(0)).to_bits(), 0.5_f64.to_bits());
    }
}
