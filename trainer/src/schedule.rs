//! The learning rate: a linear warm-up, then constant, without an end. It does not depend on a total number
//! of steps, so a job can always continue. A release is made on a branch, which anneals the learning rate
//! over a known number of steps (Hu et al. 2024; Ibrahim et al. 2024).

use perennial_schemas::id::Step;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[schedule]`: the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// How a branch anneals the learning rate.
    pub cooldown: CooldownConfig,
}

/// `[schedule.cooldown]`: how a branch anneals the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CooldownConfig {
    /// `root`, `linear` or `exponential`.
    pub shape: CooldownShape,
    /// The last step's learning rate as a share of the first step's: 0 to 1.
    #[serde(rename = "final")]
    pub last: f64,
    /// The first step of the cool-down. `branch` sets it; a job without it never cools down.
    pub from: Option<u64>,
    /// Number of steps of the cool-down. `branch` sets it.
    pub steps: Option<u64>,
}

impl Default for CooldownConfig {
    fn default() -> Self {
        Self { shape: CooldownShape::default(), last: 0.01, from: None, steps: None }
    }
}

/// The share of the learning rate during a cool-down to the final share f; p goes from 0 (first step) to 1
/// (last).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CooldownShape {
    /// `f + (1 - f)(1 - sqrt(p))` (Haegele et al. 2024).
    #[default]
    Root,
    /// `f + (1 - f)(1 - p)` (Zhai et al. 2022).
    Linear,
    /// `f^p` (Ibrahim et al. 2024).
    Exponential,
}

/// The learning rate at each step: a pure function of the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// The cool-down of a branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Cooldown>,
}

/// A cool-down: from the learning rate of step `from` to its share `last` in `steps` steps, then constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cooldown {
    /// The first step: its learning rate is that of the schedule without a cool-down.
    pub from: Step,
    /// Number of steps; the last one has the final learning rate.
    pub steps: u64,
    /// The shape of the decrease.
    pub shape: CooldownShape,
    /// The final learning rate as a share of that of step `from`.
    #[serde(rename = "final")]
    pub last: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3, warmup: 30, cooldown: CooldownConfig::default() }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        ScheduleConfig::default().schedule()
    }
}

impl ScheduleConfig {
    /// The schedule. It holds a cool-down only if that has a first step and a number of steps.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let CooldownConfig { shape, last, from, steps } = self.cooldown;
        let cooldown = from.zip(steps).map(|(from, steps)| {
            let from = Step(from);
            Cooldown { from, steps, shape, last }
        });
        Schedule { learning_rate: self.learning_rate, warmup: self.warmup, cooldown }
    }
}

impl CooldownConfig {
    /// The keys of `schedule.cooldown` that break a rule, each with the rule.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let lowest = match self.shape {
            CooldownShape::Exponential => f64::MIN_POSITIVE,
            CooldownShape::Root | CooldownShape::Linear => 0.0,
        };
        let mut problems = Vec::new();
        if !(lowest..=1.0).contains(&self.last) {
            problems.push(("final", "must be a share from 0 to 1, and above 0 if the shape is exponential"));
        }
        if self.steps == Some(0) {
            problems.push(("steps", "must be at least 1"));
        }
        if self.from.is_some() != self.steps.is_some() {
            problems.push(("from", "and `schedule.cooldown.steps` go together: `branch` sets both"));
        }
        problems
    }
}

impl Schedule {
    /// The learning rate of step `step`: `learning_rate * (step + 1) / warmup` during the warm-up, then
    /// `learning_rate`; from the first step of a cool-down on, that step's learning rate times
    /// [`Cooldown::share`].
    #[must_use]
    pub fn at(&self, step: Step) -> f64 {
        match &self.cooldown {
            Some(cooldown) if step >= cooldown.from => {
                self.without_cooldown(cooldown.from) * cooldown.share(step)
            }
            _ => self.without_cooldown(step),
        }
    }

    fn without_cooldown(&self, step: Step) -> f64 {
        let done = step.0.saturating_add(1);
        if done >= self.warmup {
            self.learning_rate
        } else {
            self.learning_rate * done as f64 / self.warmup as f64
        }
    }
}

impl Cooldown {
    /// The share of the first step's learning rate at `step`: 1 at the first step, `last` at the last one and
    /// later.
    #[must_use]
    pub fn share(&self, step: Step) -> f64 {
        let (made, last) = (step.0.saturating_sub(self.from.0), self.steps.saturating_sub(1));
        if made >= last {
            return self.last;
        }
        let part = made as f64 / last as f64;
        match self.shape {
            CooldownShape::Root => self.last + (1.0 - self.last) * (1.0 - part.sqrt()),
            CooldownShape::Linear => self.last + (1.0 - self.last) * (1.0 - part),
            CooldownShape::Exponential => self.last.powf(part),
        }
    }

    /// The step after its last one.
    #[must_use]
    pub const fn end(&self) -> Step {
        Step(self.from.0.saturating_add(self.steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn constant(learning_rate: f64, warmup: u64) -> Schedule {
        Schedule { learning_rate, warmup, cooldown: None }
    }

    #[test]
    fn rate_rises_to_its_value_and_stays() {
        let schedule = constant(0.5, 4);
        let rates: Vec<f64> = [0, 1, 2, 3, 4, u64::MAX].map(|step| schedule.at(Step(step))).to_vec();
        assert_eq!(rates, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]);
        assert_eq!(constant(0.5, 0).at(Step(0)).to_bits(), 0.5_f64.to_bits());
    }

    #[test]
    fn shapes_have_the_values_of_their_definitions() {
        let share =
            |shape, step| Cooldown { from: Step(10), steps: 5, shape, last: 0.0625 }.share(Step(step));
        // p = 1/4: 1 - sqrt(p) = 1/2, 1 - p = 3/4, f^p = 1/2.
        assert_eq!(share(CooldownShape::Root, 11), 0.0625 + 0.9375 * 0.5);
        assert_eq!(share(CooldownShape::Linear, 11), 0.0625 + 0.9375 * 0.75);
        assert!((share(CooldownShape::Exponential, 11) - 0.5).abs() < 1e-15);
        assert_eq!(
            Cooldown { from: Step(3), steps: 1, shape: CooldownShape::Root, last: 0.5 }.share(Step(3)),
            0.5
        );
    }

    #[test]
    fn a_job_without_a_cooldown_does_not_mention_it_in_its_train_config() {
        let mut config = ScheduleConfig::default();
        config.cooldown.shape = CooldownShape::Linear;
        assert_eq!(config.schedule(), Schedule::default());
        let json = serde_json::to_string(&config.schedule()).unwrap();
        assert_eq!(json, r#"{"learning_rate":0.001,"warmup":30}"#);
        config.cooldown = CooldownConfig { from: Some(7), steps: Some(3), ..config.cooldown };
        let schedule = config.schedule();
        let cooldown = schedule.cooldown.unwrap();
        assert_eq!(
            (cooldown.from, cooldown.end(), cooldown.shape),
            (Step(7), Step(10), CooldownShape::Linear)
        );
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
    }

    #[test]
    fn cooldowns_that_cannot_be_are_refused_by_key() {
        let keys = |config: CooldownConfig| -> Vec<&str> {
            config.problems().into_iter().map(|(key, _)| key).collect()
        };
        let with = |last, shape| CooldownConfig { last, shape, ..CooldownConfig::default() };
        assert!(keys(CooldownConfig::default()).is_empty());
        assert!(keys(with(0.0, CooldownShape::Linear)).is_empty());
        assert_eq!(keys(with(0.0, CooldownShape::Exponential)), ["final"]);
        assert_eq!(keys(with(1.5, CooldownShape::Root)), ["final"]);
        assert_eq!(keys(with(f64::NAN, CooldownShape::Root)), ["final"]);
        assert_eq!(keys(CooldownConfig { steps: Some(0), ..Default::default() }), ["steps", "from"]);
        assert_eq!(keys(CooldownConfig { from: Some(3), ..Default::default() }), ["from"]);
    }

    fn cooldowns() -> impl Strategy<Value = Cooldown> {
        let shape = prop_oneof![
            Just(CooldownShape::Root),
            Just(CooldownShape::Linear),
            Just(CooldownShape::Exponential)
        ];
        (0_u64..500, 1_u64..300, shape, 1e-6_f64..=1.0).prop_map(|(from, steps, shape, last)| Cooldown {
            from: Step(from),
            steps,
            shape,
            last,
        })
    }

    proptest! {
        #[test]
        fn a_cooldown_begins_at_the_rate_falls_and_ends_at_the_final_rate(
            cooldown in cooldowns(),
            warmup in 0_u64..600,
        ) {
            let before = constant(3e-3, warmup);
            let schedule = Schedule { cooldown: Some(cooldown), ..before };
            let from = cooldown.from.0;
            for step in 0..from {
                prop_assert_eq!(schedule.at(Step(step)).to_bits(), before.at(Step(step)).to_bits());
            }
            let first = before.at(cooldown.from);
            if cooldown.steps > 1 {
                // A branch starts with the learning rate that its parent would have had.
                prop_assert!((schedule.at(cooldown.from) / first - 1.0).abs() < 1e-12);
            }
            let rates: Vec<f64> =
                (from..from + cooldown.steps).map(|step| schedule.at(Step(step))).collect();
            prop_assert!(rates.windows(2).all(|pair| pair[1] <= pair[0]), "{:?}", rates);
            prop_assert_eq!(rates[rates.len() - 1], first * cooldown.last);
            prop_assert_eq!(schedule.at(cooldown.end()), first * cooldown.last, "it stays there");
        }

        #[test]
        fn steps_of_a_longer_cooldown_are_smaller(cooldown in cooldowns(), shape_steps in 2_u64..200) {
            // A longer cool-down never has a larger single decrease.
            let largest = |steps: u64| {
                let longer = Cooldown { steps, ..cooldown };
                let shares: Vec<f64> =
                    (0..steps).map(|k| longer.share(Step(cooldown.from.0 + k))).collect();
                shares.windows(2).map(|pair| pair[0] - pair[1]).fold(0.0, f64::max)
            };
            prop_assert!(largest(2 * shape_steps - 1) <= largest(shape_steps) + 1e-12);
        }
    }
}
