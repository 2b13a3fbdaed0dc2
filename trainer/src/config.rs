//! What a training job is configured by. Loaded and refused by [`perennial_program::config`].

use std::path::PathBuf;

use perennial_program::config::{Bytes, Problems};
use perennial_replay::config::Config as Replay;
use perennial_replay::plan::Plan;
use perennial_schemas::id::check_name;
use perennial_schemas::seed::Seed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::average::{Averaging, HorizonError};
use crate::device::{DeviceChoice, Precision, PrecisionChoice};
use crate::model::ModelConfig;
use crate::model::config::ShapeError;
use crate::optim::{OptimConfig, OptimError};
use crate::schedule::ScheduleConfig;
use crate::step::Recipe;

/// The configuration of `perennial-train`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Its name and place.
    pub job: JobConfig,
    /// Everything of `perennial-replay`, with the same defaults, below `replay.`: `[replay.batch]`,
    /// `replay.mix.main`, `[replay.buffer.main]`. A job does not listen: `http`, `flight`, `batches`, `body`
    /// and `grace` of `replay.serve` have no effect in it.
    #[schemars(extend("x-brief" = true))]
    pub replay: Replay,
    /// The model's shape.
    pub model: ModelConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// The learning rate.
    pub schedule: ScheduleConfig,
    /// The averages of the weights that are kept beside them, and what is released of them.
    pub average: Averaging,
    /// How the job runs: nothing here changes what is learnt, but for `precision`, `micro_rows` and
    /// `replay_weight`; another device or number of threads changes last bits.
    pub run: RunConfig,
    /// Held-out slices. Their names and dates are known here and nowhere else.
    pub evaluate: EvaluateConfig,
}

/// `[job]`: its name and place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobConfig {
    /// Its name in tickets, draws and evaluations.
    pub name: String,
    /// The folder of its checkpoints and metrics.
    pub folder: PathBuf,
    /// The seed of its fresh weights.
    pub seed: u64,
    /// Weights to start from in place of fresh ones: a file of safetensors with the names of the Llama
    /// family, or a folder with `model.safetensors` in it. A job that goes on starts from its checkpoint.
    pub start: Option<PathBuf>,
}

impl Default for JobConfig {
    fn default() -> Self {
        Self { name: "job".to_owned(), folder: PathBuf::from("job"), seed: 0, start: None }
    }
}

/// `[run]`: how a job runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunConfig {
    /// `cpu`, `cuda`, `cuda:1`, or `auto`: CUDA where it can be had.
    pub device: DeviceChoice,
    /// What the forward and backward pass computes in: `f32`, `bf16`, or `auto`: bf16 where the device has
    /// instructions for it (CUDA from compute capability 8 on, a CPU with avx512_bf16), else f32. A job that
    /// goes on stays with what it began in. Weights that learn, moments, averages and checkpoints are f32.
    pub precision: PrecisionChoice,
    /// Rows of a batch that are computed at a time, for less memory; 0: all. The gradients of the whole batch
    /// are summed before the weights change.
    pub micro_rows: u32,
    /// Threads of libtorch. One is best where several jobs share a machine.
    pub threads: u16,
    /// A replay server's Flight address, as `http://127.0.0.1:7401`, to read batches from; absent: the store
    /// is read in this process. The server's tables must be those of `[replay]`.
    pub server: Option<String>,
    /// Steps after which the job ends; absent: when its stream ends (`replay.fresh.drain`), or never.
    pub steps: Option<u64>,
    /// Batches made ahead of the step.
    pub prefetch: u32,
    /// Weight of replayed rows in the loss, where a new row weighs 1.
    pub replay_weight: f32,
    /// A line of metrics every so many steps.
    pub metrics_every: u64,
    /// A checkpoint every so many steps.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept.
    pub keep: u32,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            precision: PrecisionChoice::Auto,
            micro_rows: 0,
            threads: 1,
            server: None,
            steps: None,
            prefetch: 4,
            replay_weight: 1.0,
            metrics_every: 20,
            checkpoint_every: 200,
            keep: 3,
        }
    }
}

/// `[evaluate]`: held-out slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvaluateConfig {
    /// A TOML file with `[[slice]]` tables: `name`, `file` (JSON Lines, plain or `.zst`, relative to it),
    /// `source`, `language`, `script`, `from`, `to` (days, as `2016-01-31`). Absent: nothing is evaluated.
    pub slices: Option<PathBuf>,
    /// Every so many steps, and before the first and after the last.
    pub every: u64,
    /// Bytes of a slice that are scored, whole documents in the file's order; the last one may exceed it.
    pub slice: Bytes,
    /// Bytes of a document that are scored.
    pub document: Bytes,
    /// Whether the averages, and the ways to them, are scored too, at the end.
    pub averages: bool,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { slices: None, every: 100, slice: Bytes::kib(12), document: Bytes::kib(1), averages: true }
    }
}

impl Config {
    /// What the learner follows, with the precision that `run.precision` comes to.
    #[must_use]
    pub fn recipe(&self, precision: Precision) -> Recipe {
        Recipe {
            model: self.model.clone(),
            optim: self.optim.clone(),
            schedule: self.schedule.schedule(),
            average: self.average.kept(),
            precision,
            micro_rows: self.run.micro_rows,
            replay_weight: self.run.replay_weight,
        }
    }

    /// The seed of fresh weights.
    #[must_use]
    pub fn weights_seed(&self) -> Seed {
        Seed::new(self.job.seed).child("weights")
    }

    /// Adds what only this program can know to the loader's problems; the plan where there is one.
    pub fn check(&mut self, problems: &mut Problems) -> Option<Plan> {
        if let Err(error) = check_name("job", &self.job.name) {
            problems.refuse("job.name", &format!("cannot be `{}`: {}", self.job.name, error.why));
        }
        if let Err(ShapeError { key, value, why }) = self.model.check() {
            problems.refuse(&format!("model.{key}"), &format!("cannot be {value}: {why}"));
        }
        if let Err(OptimError { key, value, why }) = self.optim.check() {
            problems.refuse(&format!("optim.{key}"), &format!("cannot be {value}: {why}"));
        }
        if let Err(HorizonError { value }) = self.average.kept().check() {
            problems.refuse("average.horizons", &format!("cannot be {value}: {}", HorizonError::WHY));
        }
        if !positive(self.schedule.rate) {
            problems.refuse("schedule.rate", "must be a positive number");
        }
        for (key, why) in self.schedule.cooldown.problems() {
            problems.refuse(&format!("schedule.cooldown.{key}"), why);
        }
        if let Some(why) = self.average.problem() {
            problems.refuse("average.interpolate", why);
        }
        if !positive(f64::from(self.run.replay_weight)) {
            problems.refuse("run.replay_weight", "must be a positive number");
        }
        if self.run.threads == 0 {
            problems.refuse("run.threads", "must be at least 1");
        }
        let plan = self.replay.plan("replay", problems)?;
        if plan.length > usize::try_from(self.model.context).unwrap_or(usize::MAX) {
            problems
                .refuse("model.context", &format!("must be at least `replay.batch.tokens`, {}", plan.length));
        }
        if plan.tokenizer.vocabulary() > usize::try_from(self.model.vocabulary).unwrap_or(0) {
            let needed = plan.tokenizer.vocabulary();
            problems
                .refuse("model.vocabulary", &format!("must be at least {needed}, what the tokenizer has"));
        }
        Some(plan)
    }
}

fn positive(number: f64) -> bool {
    number.is_finite() && number > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_program::config::Loader;

    fn load(toml: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.toml");
        std::fs::write(&path, toml).unwrap();
        let loaded = Loader::new("train").file(Some(&path)).load_with::<Config>(|config, problems| {
            config.check(problems);
        });
        loaded.map(|loaded| loaded.value).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_a_job() {
        let config = load("").unwrap();
        assert_eq!(config.replay.mix.len(), 1);
        assert_eq!(config.weights_seed(), load("[job]\nname = \"other\"").unwrap().weights_seed());
    }

    #[test]
    fn wrong_values_of_several_tables_are_told_at_once() {
        let error =
            load("[job]\nname = \"A B\"\n[run]\nthreads = 0\nreplay_weight = -1.0\n[model]\ncontext = 8\n")
                .unwrap_err();
        for key in ["job.name", "run.threads", "run.replay_weight", "model.context"] {
            assert!(error.contains(key), "{key}: {error}");
        }
        let error = load("[schedule.cooldown]\nfinal = 2.0\nsteps = 5\n[average]\ninterpolate = [0.0]\n");
        let error = error.unwrap_err();
        for key in ["schedule.cooldown.final", "schedule.cooldown.from", "average.interpolate"] {
            assert!(error.contains(key), "{key}: {error}");
        }
        let error = load(
            "[model]\nheads = 3\n[optim]\nbeta2 = 1.0\n[schedule]\nrate = 0.0\n[average]\nhorizons = [0]\n",
        );
        let error = error.unwrap_err();
        for told in [
            "`model.width` cannot be 160",
            "`optim.beta2` cannot be 1",
            "`schedule.rate` must be",
            "`average.horizons` cannot be [0]",
        ] {
            assert!(error.contains(told), "{told}: {error}");
        }
        assert!(load("[optim]\nclipp = 1.0\n").unwrap_err().contains("did you mean `clip`"));
    }

    #[test]
    fn tables_written_in_part_have_the_defaults_of_tables_not_written() {
        assert_eq!(perennial_program::config::uneven_defaults::<Config>(), Vec::<String>::new());
    }
}
