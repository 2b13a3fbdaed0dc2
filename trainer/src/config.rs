//! The configuration of a training job. [`perennial_program::config`] loads it.

use std::path::PathBuf;

use perennial_program::config::{Bytes, Duration, Problems};
use perennial_replay::config::Config as Replay;
use perennial_replay::plan::Plan;
use perennial_schemas::id::check_name;
use perennial_schemas::seed::Seed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::average::{Averaging, WindowError};
use crate::device::{DeviceChoice, Precision, PrecisionChoice};
use crate::model::ModelConfig;
use crate::model::config::ShapeError;
use crate::optim::{OptimConfig, OptimError};
use crate::schedule::ScheduleConfig;
use crate::step::TrainConfig;

/// The configuration of `perennial-train`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Its name and place.
    pub job: JobConfig,
    /// What the job reads: the store, the mix, the buffers, the shape of a batch.
    #[schemars(extend("x-brief" = true))]
    pub replay: Replay,
    /// The model's shape.
    pub model: ModelConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// The learning rate.
    pub schedule: ScheduleConfig,
    /// Averages of the weights, and which of them a release contains.
    pub average: Averaging,
    /// How the job runs. Of these keys only `precision`, `micro_rows` and `replay_weight` change what is
    /// learnt; another device or number of threads changes the last bits of results.
    pub run: RunConfig,
    /// What is evaluated during the job.
    pub evaluate: EvaluateConfig,
}

/// `[job]`: its name, its folder and its initial weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobConfig {
    /// The job's name in tickets, draws and evaluations.
    pub name: String,
    /// The folder of the job's checkpoints and metrics.
    pub folder: PathBuf,
    /// The seed of randomly initialised weights.
    pub seed: u64,
    /// Weights to start from instead of random ones: a safetensors file with the tensor names of the Llama
    /// family, or a folder that contains `model.safetensors`. A job with a checkpoint resumes from that
    /// instead.
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
    /// `cpu`, `cuda`, `cuda:1`, or `auto`: CUDA if it is available.
    pub device: DeviceChoice,
    /// The number format of the forward and backward pass: `f32`, `bf16`, or `auto`: bf16 if the device has
    /// instructions for it (CUDA from compute capability 8 on, a CPU with avx512_bf16), else f32. A resumed
    /// job keeps the format that it started with. Master weights, moments, averages and checkpoints are f32.
    pub precision: PrecisionChoice,
    /// Rows of a batch that are computed at a time, to save memory; 0: all. Gradients are accumulated over
    /// the whole batch before the weights are updated.
    pub micro_rows: u32,
    /// Threads of libtorch. Use 1 if several jobs share a machine.
    pub threads: u16,
    /// The Flight address of a replay server to read batches from, such as `http://127.0.0.1:7401`; absent:
    /// this process reads the store. The server must be configured with the same tables as `[replay]`.
    pub server: Option<String>,
    /// How long the job waits for a replay server that does not answer before it ends. It says so while it waits.
    pub server_wait: Duration,
    /// The time that a replay server has for one answer.
    pub server_deadline: Duration,
    /// Steps after which the job ends; absent: it ends with its stream (`replay.new_text.drain`), or never.
    pub steps: Option<u64>,
    /// Batches that are prepared ahead of the step.
    pub prefetch: u32,
    /// Weight of a replayed row in the loss; a row of new text has weight 1.
    pub replay_weight: f32,
    /// A line of metrics every N steps.
    pub metrics_every: u64,
    /// A checkpoint every N steps.
    pub checkpoint_every: u64,
    /// Number of checkpoints to keep.
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
            server_wait: Duration::secs(600),
            server_deadline: Duration::secs(120),
            steps: None,
            prefetch: 4,
            replay_weight: 1.0,
            metrics_every: 20,
            checkpoint_every: 200,
            keep: 3,
        }
    }
}

/// `[evaluate]`: held-out slices. No other part of the job knows their names and dates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvaluateConfig {
    /// A TOML file with `[[slice]]` tables: `name`, `file` (JSON Lines, plain or `.zst`, relative to it),
    /// `source`, `language`, `script`, `from`, `to` (days, as `2016-01-31`). Absent: nothing is evaluated.
    pub slices: Option<PathBuf>,
    /// An evaluation every N steps, and before the first and after the last.
    pub every: u64,
    /// Bytes of a slice to score: whole documents in the file's order; the last one may exceed the limit.
    pub slice: Bytes,
    /// Bytes of a document to score.
    pub document: Bytes,
    /// Whether averages and interpolated weights are scored too, at the end.
    pub averages: bool,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { slices: None, every: 100, slice: Bytes::kib(12), document: Bytes::kib(1), averages: true }
    }
}

impl Config {
    /// The training configuration, with the precision that `run.precision` resolves to.
    #[must_use]
    pub fn train_config(&self, precision: Precision) -> TrainConfig {
        TrainConfig {
            model: self.model.clone(),
            optim: self.optim.clone(),
            schedule: self.schedule.schedule(),
            average: self.average.kept(),
            precision,
            micro_rows: self.run.micro_rows,
            replay_weight: self.run.replay_weight,
        }
    }

    /// The seed of randomly initialised weights.
    #[must_use]
    pub fn weights_seed(&self) -> Seed {
        Seed::new(self.job.seed).child("weights")
    }

    /// Adds this program's own checks to the loader's problems; returns the reading plan if it is valid.
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
        if let Err(WindowError { value }) = self.average.kept().check() {
            problems.refuse("average.windows", &format!("cannot be {value}: {}", WindowError::WHY));
        }
        if !positive(self.schedule.learning_rate) {
            problems.refuse("schedule.learning_rate", "must be a positive number");
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
        if plan.length > self.model.max_position_embeddings as usize {
            problems.refuse(
                "model.max_position_embeddings",
                &format!("must be at least `replay.batch.tokens`, {}", plan.length),
            );
        }
        if plan.tokenizer.vocabulary() > self.model.vocab_size as usize {
            let needed = plan.tokenizer.vocabulary();
            problems.refuse(
                "model.vocab_size",
                &format!("must be at least {needed}, the tokenizer's vocabulary"),
            );
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
    fn wrong_values_of_several_tables_are_reported_at_once() {
        let error =
            load("[job]\nname = \"A B\"\n[run]\nthreads = 0\nreplay_weight = -1.0\n[model]\nmax_position_embeddings = 8\n")
                .unwrap_err();
        for key in ["job.name", "run.threads", "run.replay_weight", "model.max_position_embeddings"] {
            assert!(error.contains(key), "{key}: {error}");
        }
        let error = load("[schedule.cooldown]\nfinal = 2.0\nsteps = 5\n[average]\ninterpolate = [0.0]\n");
        let error = error.unwrap_err();
        for key in ["schedule.cooldown.final", "schedule.cooldown.from", "average.interpolate"] {
            assert!(error.contains(key), "{key}: {error}");
        }
        let error = load(
            "[model]\nnum_attention_heads = 3\n[optim]\nbeta2 = 1.0\n[schedule]\nlearning_rate = 0.0\n[average]\nwindows = [0]\n",
        );
        let error = error.unwrap_err();
        for expected in [
            "`model.hidden_size` cannot be 160",
            "`optim.beta2` cannot be 1",
            "`schedule.learning_rate` must be",
            "`average.windows` cannot be [0]",
        ] {
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert!(load("[optim]\nclipp = 1.0\n").unwrap_err().contains("did you mean `clip`"));
    }

    #[test]
    fn partly_written_tables_have_the_same_defaults_as_absent_ones() {
        assert_eq!(perennial_program::config::uneven_defaults::<Config>(), Vec::<String>::new());
    }
}
