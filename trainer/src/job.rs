//! A job from its configuration to its end: it starts, or goes on exactly where its last checkpoint
//! stands, and leaves a checkpoint and its evaluations behind.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use replay::plan::Plan as ReadingPlan;
use replay::receive::{self, Evaluation};
use schemas::id::Step;
use schemas::program::clock::Clock;
use schemas::program::error::{Failure, Fault, Kind};
use schemas::program::stop::Stop;
use schemas::store::Store;
use tch::Tensor;
use tokio::runtime::Handle;

use crate::batches::Batches;
use crate::checkpoint::{self, CheckpointError, Progress, Start};
use crate::config::Config;
use crate::device;
use crate::evaluate::held_out::{self, Slice};
use crate::evaluate::slices::score;
use crate::model::Decoder;
use crate::report::collect::CONFIG;
use crate::step::Learner;
use crate::torch;
use crate::train::{self, Act, Hooks, Plan, Report};

/// A job that cannot go on from where it stands.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The checkpoint was made under another configuration.
    #[error("the checkpoint `{checkpoint}` was made with another `{what}`")]
    Changed {
        /// The checkpoint.
        checkpoint: String,
        /// What differs.
        what: &'static str,
    },
}

impl Fault for JobError {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }
    fn hint(&self) -> Option<String> {
        Some(
            "go on with the job's own configuration, or give the new one another `job.name` and `job.folder`"
                .into(),
        )
    }
}

/// Runs the job that `config` describes (`effective` is its text, which is left in the job's folder),
/// whose reading `plan` is, until its steps or its stream end,
/// or `stop` asks. Must be called on a tokio runtime's blocking thread: it makes the one thread that
/// calls libtorch and waits for it.
///
/// # Errors
/// [`JobError`] where the job's checkpoint belongs to another configuration, and whatever the store,
/// libtorch or the disk refuses.
pub fn run(
    config: &Config,
    effective: &str,
    plan: ReadingPlan,
    store: &Store,
    clock: &Clock,
    stop: &Stop,
    runtime: &Handle,
) -> Result<Report, Failure> {
    let digest = plan.digest();
    let batches = runtime.block_on(Batches::open(config, plan, store, clock, stop))?;
    let slices = match &config.evaluate.slices {
        Some(path) => {
            held_out::load(path, config.evaluate.slice.get(), limit(config.evaluate.document.get()))?
        }
        None => Vec::new(),
    };
    torch::on_one_thread(config.run.threads, || -> Result<Report, Failure> {
        torch::check_version()?;
        let (mut learner, mut progress) = begin(config, &digest)?;
        leave(&config.job.folder, effective)?;
        let mut feed = batches.feed(&progress, learner.at(), config, runtime)?;
        let scorer = Arc::new(Mutex::new(Scorer {
            config,
            slices: &slices,
            store,
            runtime,
            tokens: progress.tokens,
            scored: None,
        }));
        if learner.at() == Step(0) {
            with(&scorer, |scorer| scorer.live(&learner))?;
        }
        let report = train::train(
            &mut learner,
            &mut progress,
            &mut feed,
            &schedule(config),
            hooks(&scorer),
            clock,
            stop,
        )?;
        if report.end != train::End::Stopped {
            with(&scorer, |scorer| scorer.last(&learner))?;
        }
        Ok(report)
    })
}

pub(crate) fn limit(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn schedule(config: &Config) -> Plan {
    Plan {
        dir: config.job.folder.clone(),
        until: config.run.steps.map(Step),
        every: vec![
            (config.run.metrics_every, Act::Metrics),
            (config.evaluate.every, Act::Evaluate),
            (config.run.checkpoint_every, Act::Checkpoint),
        ],
        keep: limit(u64::from(config.run.keep)),
    }
}

/// Leaves the configuration in the job's folder, for reports and for whoever finds it.
fn leave(folder: &Path, effective: &str) -> Result<(), CheckpointError> {
    let (path, partial) = (folder.join(CONFIG), folder.join(format!("{CONFIG}.partial")));
    let failed = |source| CheckpointError::Write { path: path.clone(), source };
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&partial, effective))
        .and_then(|()| std::fs::rename(&partial, &path))
        .map_err(failed)
}

/// A fresh learner, or the one of the newest checkpoint.
fn begin(config: &Config, digest: &str) -> Result<(Learner, Progress), Failure> {
    let chosen = device::choose(config.run.device)?;
    if let Some(why) = &chosen.why_not_cuda {
        tracing::info!(why, "computing on the CPU");
    }
    match checkpoint::latest(&config.job.folder) {
        Ok(path) => resume(config, digest, &path, chosen.device),
        Err(CheckpointError::None { .. }) => {
            let seed = config.weights_seed();
            let learner = Learner::fresh(&config.recipe(), seed, chosen.device)?;
            tracing::info!(
                job = config.job.name,
                parameters = learner.model().size(),
                "starting with fresh weights"
            );
            let progress = Progress {
                job: config.job.name.clone(),
                tokens: 0,
                row: 0,
                next: schemas::wire::Cursor::new(),
                config: digest.to_owned(),
                start: Start::Seed(seed),
            };
            Ok((learner, progress))
        }
        Err(error) => Err(error.into()),
    }
}

fn resume(
    config: &Config,
    digest: &str,
    path: &Path,
    device: tch::Device,
) -> Result<(Learner, Progress), Failure> {
    let resumed = checkpoint::load(path, device)?;
    let state = resumed.state;
    let same = [
        ("job.name", state.job == config.job.name),
        ("recipe (model, optim, schedule, average)", state.recipe == config.recipe()),
        ("reading (replay)", state.config == digest),
    ];
    if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
        return Err(JobError::Changed { checkpoint: path.display().to_string(), what }.into());
    }
    tracing::info!(
        job = state.job,
        step = state.step.0,
        tokens = state.tokens,
        "going on from `{}`",
        path.display()
    );
    let progress = Progress {
        job: state.job,
        tokens: state.tokens,
        row: state.row,
        next: state.next,
        config: state.config,
        start: state.start,
    };
    Ok((resumed.learner, progress))
}

/// Scores the slices and sends what came out to the store.
struct Scorer<'a> {
    config: &'a Config,
    slices: &'a [Slice],
    store: &'a Store,
    runtime: &'a Handle,
    /// Tokens learnt so far.
    tokens: u64,
    /// The step at which the live weights were scored last.
    scored: Option<Step>,
}

fn with<T>(scorer: &Mutex<Scorer<'_>>, act: impl FnOnce(&mut Scorer<'_>) -> T) -> T {
    act(&mut scorer.lock().unwrap_or_else(PoisonError::into_inner))
}

fn hooks<'a>(scorer: &Arc<Mutex<Scorer<'a>>>) -> Hooks<'a> {
    let (counted, asked) = (Arc::clone(scorer), Arc::clone(scorer));
    Hooks {
        observe: Box::new(move |delivery, _| {
            with(&counted, |scorer| scorer.tokens += delivery.sheet.tokens.len() as u64);
            Ok(())
        }),
        evaluate: Box::new(move |learner| with(&asked, |scorer| scorer.live(learner))),
    }
}

impl Scorer<'_> {
    fn live(&mut self, learner: &Learner) -> Result<(), Failure> {
        if self.scored == Some(learner.at()) {
            return Ok(());
        }
        let scores = self.score("live", learner.model())?;
        self.scored = Some(learner.at());
        self.send("live", learner.at(), &scores)
    }

    /// After the last step: the live weights where they were not just scored, and the averages.
    fn last(&mut self, learner: &Learner) -> Result<(), Failure> {
        self.live(learner)?;
        let mut scores = Vec::new();
        if self.config.evaluate.averages {
            for average in learner.averages().all() {
                let values: Vec<Tensor> = average.values().iter().map(Tensor::shallow_clone).collect();
                let model = torch::guarded(|| learner.model().with_values(&values))?;
                let model = model.map_err(crate::step::RecipeError::from)?;
                scores.extend(self.score(&format!("average-{}", average.horizon()), &model)?);
            }
        }
        self.send("averages", learner.at(), &scores)
    }

    fn score(&self, weights: &str, model: &Decoder) -> Result<Vec<Evaluation>, Failure> {
        let window = usize::try_from(self.config.replay.batch.tokens).unwrap_or(usize::MAX);
        let mut all = Vec::new();
        for slice in self.slices {
            let scores = score(model, &slice.documents, window, 4 * window)?;
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
        Ok(all)
    }

    fn send(&self, series: &str, step: Step, scores: &[Evaluation]) -> Result<(), Failure> {
        if scores.is_empty() {
            return Ok(());
        }
        let sent = receive::evaluations(self.store, &self.config.job.name, series, step, self.tokens, scores);
        self.runtime.block_on(sent)?;
        let all = scores.iter();
        let (nats, bytes) =
            all.fold((0.0, 0), |(nats, bytes), score| (nats + score.nats, bytes + score.bytes));
        let bits = nats / std::f64::consts::LN_2 / bytes as f64;
        tracing::info!(series, step = step.0, "evaluated: {bits:.3} bits per byte over all slices");
        Ok(())
    }
}
