//! Exponential averages of the weights over several windows, and interpolation between two sets of weights.

use perennial_program::error::{Kind, ProgramError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::torch::{self, TorchError};

/// The averages to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageConfig {
    /// Averaging windows in steps, one average each.
    pub windows: Vec<u32>,
}

/// `[average]`: the averages to keep, and the interpolated weights of a release.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Averaging {
    /// Averaging windows in steps, one average each.
    pub windows: Vec<u32>,
    /// Interpolation shares A: start + A (average - start) is scored and released for each average; absent:
    /// 0.85 if the job started from given weights, no interpolation if it started from random ones.
    pub interpolate: Option<Vec<f64>>,
}

/// The share for a trained model that learns further: it keeps most of the old text and costs 1 to 2 % on new
/// text (Wortsman et al. 2022, and measured).
const FROM_WEIGHTS: [f64; 1] = [0.85];

impl Averaging {
    /// The part that the learner needs.
    #[must_use]
    pub fn kept(&self) -> AverageConfig {
        AverageConfig { windows: self.windows.clone() }
    }

    /// The shares of a job that started from given weights, or from random ones.
    #[must_use]
    pub fn shares(&self, from_weights: bool) -> Vec<f64> {
        match &self.interpolate {
            Some(shares) => shares.clone(),
            None if from_weights => FROM_WEIGHTS.to_vec(),
            None => Vec::new(),
        }
    }

    /// The rule that `interpolate` breaks.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        let shares = self.interpolate.as_deref().unwrap_or_default();
        let mut sorted = shares.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.dedup();
        if !shares.iter().all(|share| *share > 0.0 && *share <= 1.0) {
            return Some("must be shares above 0 and up to 1");
        }
        if !shares.iter().all(|share| ((share * 1e4).round() / 1e4).to_bits() == share.to_bits()) {
            return Some("must be shares of at most 4 decimals: they are part of the weights' names");
        }
        (sorted.len() != shares.len()).then_some("names a share twice")
    }
}

/// Invalid averaging windows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`windows` cannot be {value}: {}", Self::WHY)]
pub struct WindowError {
    /// The windows.
    pub value: String,
}

impl WindowError {
    /// The rule that they break.
    pub const WHY: &str = "each must be at least 1 and occur once";
}

impl ProgramError for WindowError {
    fn kind(&self) -> Kind {
        Kind::Config
    }
}

impl AverageConfig {
    /// Refuses a window of 0 and a repeated one.
    ///
    /// # Errors
    /// [`WindowError`] with the windows.
    pub fn check(&self) -> Result<(), WindowError> {
        let mut sorted = self.windows.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() == self.windows.len() && !sorted.contains(&0) {
            return Ok(());
        }
        Err(WindowError { value: format!("{:?}", self.windows) })
    }
}

/// Averages of the weights. After update t, with window h, an average has moved by `1 / min(t, h)`
/// towards the weights: the plain mean of all steps so far until step h, then exponential with decay
/// `1 - 1/h`. The initial weights have no influence, so no bias correction is needed.
#[derive(Debug)]
pub struct Averages {
    updates: u64,
    all: Vec<Average>,
}

/// One average.
#[derive(Debug)]
pub struct Average {
    window: u32,
    values: Vec<Tensor>,
}

impl Average {
    /// Its window, in steps.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.window
    }

    /// The averaged weights, in the parameters' order.
    pub fn values(&self) -> &[Tensor] {
        &self.values
    }
}

impl Averages {
    /// Averages before the first update: copies of the weights.
    #[must_use]
    pub fn new<'a>(config: &AverageConfig, weights: impl Iterator<Item = &'a Tensor> + Clone) -> Self {
        let copy = |window: &u32| Average {
            window: *window,
            values: weights.clone().map(|weight| weight.detach().copy()).collect(),
        };
        Self { updates: 0, all: config.windows.iter().map(copy).collect() }
    }

    /// Moves every average towards the weights, in the parameters' order.
    ///
    /// # Errors
    /// [`TorchError`] if number or shapes of the weights do not match.
    pub fn update<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a Tensor> + Clone,
    ) -> Result<(), TorchError> {
        self.updates += 1;
        for average in &mut self.all {
            let steps = self.updates.min(u64::from(average.window));
            torch::lerp(&mut average.values, weights.clone(), 1.0 / steps as f64)?;
        }
        Ok(())
    }

    /// The averages, in the config's order.
    #[must_use]
    pub fn all(&self) -> &[Average] {
        &self.all
    }

    /// Updates so far.
    #[must_use]
    pub const fn updates(&self) -> u64 {
        self.updates
    }

    /// Sets the number of updates of a checkpoint, after its values were read.
    pub const fn set_updates(&mut self, updates: u64) {
        self.updates = updates;
    }

    /// Its state by name, to save it or to read into it: `average.<window>.` and the parameter's name.
    #[must_use]
    pub fn state(&self, names: &[&str]) -> Vec<(String, Tensor)> {
        let named = |average: &Average| -> Vec<(String, Tensor)> {
            let pairs = names.iter().zip(&average.values);
            pairs
                .map(|(name, value)| (format!("average.{}.{name}", average.window), value.shallow_clone()))
                .collect()
        };
        self.all.iter().flat_map(named).collect()
    }
}

/// `base + share * (to - base)` for each pair: 0 gives `base`, 1 gives `to` (Wortsman et al. 2022). Panics as
/// `tch` does if shapes do not match.
#[must_use]
pub fn interpolate(base: &[Tensor], to: &[Tensor], share: f64) -> Vec<Tensor> {
    tch::no_grad(|| base.iter().zip(to).map(|(base, to)| base + (to - base) * share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalars(values: &[f32]) -> Vec<Tensor> {
        values.iter().map(|value| Tensor::from(*value)).collect()
    }

    fn numbers(tensors: &[Tensor]) -> Vec<f64> {
        tensors.iter().map(|tensor| tensor.double_value(&[])).collect()
    }

    #[test]
    fn average_is_the_mean_until_its_window_is_full_then_exponential() {
        let config = AverageConfig { windows: vec![1, 4] };
        let mut averages = Averages::new(&config, scalars(&[100.0]).iter());
        let mut twin = 0.0;
        for t in 1..=10_u32 {
            averages.update(scalars(&[t as f32]).iter()).unwrap();
            let weight = 1.0 / f64::from(t.min(4));
            twin += weight * (f64::from(t) - twin);
            let [newest, average] = averages.all() else { panic!("two windows") };
            assert!((numbers(newest.values())[0] - f64::from(t)).abs() < 1e-6);
            assert!((numbers(average.values())[0] - twin).abs() < 1e-5);
            if t == 4 {
                assert!((twin - 2.5).abs() < 1e-12, "the mean of 1, 2, 3, 4");
            }
        }
        assert_eq!(averages.updates(), 10);
    }

    #[test]
    fn averages_do_not_share_memory_with_the_weights() {
        let weights = scalars(&[1.0]);
        let averages = Averages::new(&AverageConfig { windows: vec![2] }, weights.iter());
        let _ = weights[0].shallow_clone().fill_(9.0);
        assert_eq!(numbers(averages.all()[0].values()), [1.0]);
    }

    #[test]
    fn interpolation_goes_from_the_start_to_the_other_end() {
        let (base, to) = (scalars(&[1.0, -2.0]), scalars(&[3.0, 2.0]));
        assert_eq!(numbers(&interpolate(&base, &to, 0.0)), [1.0, -2.0]);
        assert_eq!(numbers(&interpolate(&base, &to, 1.0)), [3.0, 2.0]);
        assert_eq!(numbers(&interpolate(&base, &to, 0.25)), [1.5, -1.0]);
    }

    #[test]
    fn a_release_goes_back_towards_weights_and_not_towards_random_ones() {
        let absent = Averaging::default();
        assert_eq!((absent.shares(true), absent.shares(false)), (vec![0.85], vec![]));
        let named = |shares: &[f64]| Averaging { interpolate: Some(shares.to_vec()), ..absent.clone() };
        assert_eq!(named(&[]).shares(true), Vec::<f64>::new());
        assert_eq!(named(&[0.5, 1.0]).shares(false), [0.5, 1.0]);
        assert!(named(&[0.0001, 0.1234, 0.9999]).problem().is_none());
        assert!(absent.problem().is_none() && named(&[0.5, 1.0]).problem().is_none());
        for shares in [&[0.0][..], &[1.1], &[f64::NAN], &[-0.5], &[0.5, 0.7, 0.5], &[1e-70], &[0.12345]] {
            assert!(named(shares).problem().is_some(), "{shares:?}");
        }
    }

    #[test]
    fn windows_that_cannot_be_kept_are_refused() {
        assert!(AverageConfig { windows: vec![10, 0] }.check().is_err());
        assert!(AverageConfig { windows: vec![10, 10] }.check().is_err());
        AverageConfig { windows: vec![10, 100] }.check().unwrap();
    }
}
