//! A job from its configuration to its end: it starts, branches off another job, or resumes exactly from its
//! newest checkpoint; it writes checkpoints, evaluations and a release.

use std::path::{Path, PathBuf};

use perennial_program::clock::Clock;
use perennial_program::error::{Failure, Kind, ProgramError};
use perennial_program::stop::Stop;
use perennial_replay::plan::Plan as ReadingPlan;
use perennial_schemas::id::Step;
use perennial_store::Store;
use tch::Device;
use tokio::runtime::Handle;

use crate::batches::Batches;
use crate::checkpoint::release::{self, Weights};
use crate::checkpoint::{self, Branched, CheckpointError, JobPosition, Start, State};
use crate::config::Config;
use crate::device::{self, Precision};
use crate::evaluate::held_out;
use crate::evaluate::scorer::Scorer;
use crate::feed::Feed;
use crate::model::Decoder;
use crate::report::collect::CONFIG;
use crate::step::{Learner, TrainConfig};
use crate::torch;
use crate::train::{self, Act, End, Hooks, Plan, Report};

/// A job that cannot be resumed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The checkpoint was made under another configuration.
    #[error("the checkpoint `{checkpoint}` was made with another `{what}`")]
    Changed {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The weights that it started from are missing or changed.
    #[error("the weights that job `{job}` started from cannot be read")]
    Start {
        /// Its configuration.
        job: String,
        /// The reason.
        #[source]
        source: CheckpointError,
    },
}

impl ProgramError for JobError {
    fn kind(&self) -> Kind {
        match self {
            Self::Changed { .. } => Kind::Conflict,
            Self::Start { source, .. } => source.kind(),
        }
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Changed { .. } => {
                "resume with the job's own configuration, or give the new one another `job.name` and `job.folder`"
                    .into()
            }
            Self::Start { .. } => {
                "restore the file and run the job again, or set `average.interpolate` to `[]`".into()
            }
        })
    }
}

/// A job to run.
pub struct Task<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// The effective configuration as text, written to the job's folder.
    pub effective: &'a str,
    /// Its reading plan.
    pub plan: ReadingPlan,
    /// The checkpoint to branch from if the job has no checkpoint yet.
    pub from: Option<&'a Path>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The report of its training.
    pub report: Report,
    /// The release that it wrote.
    pub release: Option<PathBuf>,
    /// Steps that are missing from a branch's cool-down, because its stream ended.
    pub short: u64,
}

/// Runs a job until its steps or its stream end, or `stop` is triggered. Call it on a blocking thread of a
/// tokio runtime: it starts the one thread that calls libtorch and waits for it.
///
/// # Errors
/// [`JobError`] if the job's checkpoint belongs to another configuration; errors of the store, libtorch and
/// the disk.
pub fn run(
    task: Task<'_>,
    store: &Store,
    clock: &Clock,
    stop: &Stop,
    runtime: &Handle,
) -> Result<Ended, Failure> {
    let Task { config, effective, plan, from } = task;
    let digest = plan.digest();
    let tokenizer = plan.tokenizer.clone();
    let batches = runtime.block_on(Batches::open(config, plan, store, clock, stop))?;
    let slices = match &config.evaluate.slices {
        Some(path) => {
            let document = limit(config.evaluate.document.get());
            held_out::load(path, &tokenizer, config.evaluate.slice.get(), document)?
        }
        None => Vec::new(),
    };
    torch::on_one_thread(config.run.threads, || -> Result<Ended, Failure> {
        torch::check_version()?;
        let is_new = checkpoint::complete(&config.job.folder)?.is_empty();
        let (learner, position) = begin(config, &digest, from)?;
        write_config(&config.job.folder, effective)?;
        let feed = batches.feed(&position, learner.at(), config, runtime)?;
        let scorer = Scorer::new(config, &slices, store, runtime, is_new);
        Running { config, learner, position, scorer }.run(feed, clock, stop)
    })
}

pub(crate) fn limit(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn plan(config: &Config) -> Plan {
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

/// Writes the effective configuration to the job's folder, for reports and for reference.
fn write_config(folder: &Path, effective: &str) -> Result<(), CheckpointError> {
    let (path, partial) = (folder.join(CONFIG), folder.join(format!("{CONFIG}.partial")));
    let failed = |source| CheckpointError::Write { path: path.clone(), source };
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&partial, effective))
        .and_then(|()| std::fs::rename(&partial, &path))
        .map_err(failed)
}

/// The learner of the job's newest checkpoint, else of the checkpoint that it branches from, else a new one.
fn begin(config: &Config, digest: &str, from: Option<&Path>) -> Result<(Learner, JobPosition), Failure> {
    let chosen = device::choose(config.run.device)?;
    if let Some(why) = &chosen.why_not_cuda {
        tracing::info!(why, "computing on the CPU");
    }
    match (checkpoint::latest(&config.job.folder), from) {
        (Ok(path), _) => resume(config, digest, &path, chosen.device),
        (Err(CheckpointError::None { .. }), Some(from)) => branch_off(config, digest, from, chosen.device),
        (Err(CheckpointError::None { .. }), None) => start(config, digest, chosen.device),
        (Err(error), _) => Err(error.into()),
    }
}

/// The precision of a new job, or of a job that started with `begun`; logs it with the reason.
fn computing(config: &Config, device: Device, begun: Option<Precision>) -> Precision {
    let found = device::precision(config.run.precision, device, begun);
    tracing::info!(precision = %found.precision, why = found.why, "computing");
    found.precision
}

fn start(config: &Config, digest: &str, device: Device) -> Result<(Learner, JobPosition), Failure> {
    let train_config = config.train_config(computing(config, device, None));
    let (start, learner) = match &config.job.start {
        None => {
            let seed = config.weights_seed();
            (Start::Seed(seed), Learner::init(&train_config, seed, device)?)
        }
        Some(path) => {
            let start = checkpoint::start_file(path)?;
            let model = checkpoint::start_model(&start, &train_config, device)?;
            (start, Learner::with_model(&train_config, model)?)
        }
    };
    tracing::info!(
        job = config.job.name,
        parameters = learner.model().size(),
        "starting with {}",
        match &start {
            Start::Seed(_) => "random weights".to_owned(),
            Start::File { path, .. } => format!("the weights of `{}`", path.display()),
        }
    );
    let position = JobPosition {
        job: config.job.name.clone(),
        tokens: 0,
        next: perennial_schemas::wire::Position::default(),
        config: digest.to_owned(),
        start,
        branched: None,
    };
    Ok((learner, position))
}

fn resume(
    config: &Config,
    digest: &str,
    path: &Path,
    device: Device,
) -> Result<(Learner, JobPosition), Failure> {
    let resumed = checkpoint::load(path, device, |train_config| in_parts(config, train_config))?;
    let start = agree(&resumed.state, config, digest, path)?;
    check_start(config, &start)?;
    computing(config, device, Some(resumed.state.train_config.precision));
    let position = JobPosition { start, ..resumed.state.position() };
    tracing::info!(
        job = position.job,
        step = resumed.state.step.0,
        tokens = position.tokens,
        "resuming from `{}`",
        path.display()
    );
    Ok((resumed.learner, position))
}

/// A branch first writes its parent's checkpoint under its own name: the parent may then remove its
/// checkpoint at any time.
fn branch_off(
    config: &Config,
    digest: &str,
    from: &Path,
    device: Device,
) -> Result<(Learner, JobPosition), Failure> {
    let resumed = checkpoint::load(from, device, |train_config| {
        train_config.schedule.cooldown = config.schedule.schedule().cooldown;
        in_parts(config, train_config);
    })?;
    let mut state = resumed.state;
    let job = std::mem::replace(&mut state.job, config.job.name.clone());
    let start = agree(&state, config, digest, from)?;
    check_start(config, &start)?;
    computing(config, device, Some(state.train_config.precision));
    let model = state.model().cloned().ok_or_else(|| CheckpointError::None { path: from.to_owned() })?;
    let branched = Branched { job, step: state.step, checkpoint: from.to_owned(), model };
    tracing::info!(
        job = state.job,
        step = state.step.0,
        tokens = state.tokens,
        "branching off job `{}` at `{}`",
        branched.job,
        from.display()
    );
    let position = JobPosition { start, branched: Some(branched), ..state.position() };
    checkpoint::save(&config.job.folder, &resumed.learner, &position, limit(u64::from(config.run.keep)))?;
    Ok((resumed.learner, position))
}

/// Takes over `run.micro_rows`, which a resumed job may change: less memory may be available.
fn in_parts(config: &Config, train_config: &mut TrainConfig) {
    let (was, now) = (train_config.micro_rows, config.run.micro_rows);
    if was != now {
        tracing::warn!(
            was,
            now,
            "`run.micro_rows` has changed: gradients are summed in another order, so the weights will differ in \
             their last bits from those of a job that never changed it"
        );
        train_config.micro_rows = now;
    }
}

/// Refuses to resume without the initial weights that the release interpolates from, before any step.
fn check_start(config: &Config, start: &Start) -> Result<(), JobError> {
    let Start::File { path, .. } = start else { return Ok(()) };
    if config.average.shares(true).is_empty() {
        return Ok(());
    }
    let found = checkpoint::TensorFile::open(path);
    found.map(|_| ()).map_err(|source| JobError::Start { job: config.job.name.clone(), source })
}

/// Refuses a checkpoint of another configuration; returns the job's start with the current path of its file.
///
/// # Errors
/// [`JobError::Changed`] with the part that differs.
pub fn agree(state: &State, config: &Config, digest: &str, path: &Path) -> Result<Start, JobError> {
    let start = same_start(config, &state.start);
    let precision = config.run.precision.of_job(state.train_config.precision);
    let train_config =
        TrainConfig { micro_rows: state.train_config.micro_rows, ..config.train_config(precision) };
    let same = [
        ("job.name", state.job == config.job.name),
        ("run.precision", state.train_config.precision == precision),
        (
            "run.replay_weight",
            state.train_config.replay_weight.to_bits() == config.run.replay_weight.to_bits(),
        ),
        ("training configuration (model, optim, schedule, average)", state.train_config == train_config),
        ("reading (replay)", state.config == digest),
    ];
    let other = same.into_iter().find(|(_, same)| !same).map(|(what, _)| what);
    match (other, start) {
        (None, Some(start)) => Ok(start),
        (other, _) => Err(JobError::Changed {
            checkpoint: path.to_owned(),
            what: other.unwrap_or("start (job.seed, job.start)"),
        }),
    }
}

/// The start of a checkpoint, if the configuration names the same one. The file may have been moved or
/// removed, but not changed.
fn same_start(config: &Config, start: &Start) -> Option<Start> {
    let Some(path) = &config.job.start else {
        return (*start == Start::Seed(config.weights_seed())).then(|| start.clone());
    };
    let Start::File { path: was, note } = start else { return None };
    match checkpoint::start_file(path) {
        Ok(Start::File { path, note: found }) => {
            (found == *note).then_some(Start::File { path, note: found })
        }
        _ => was.starts_with(path).then(|| start.clone()),
    }
}

/// A job with its learner.
struct Running<'a> {
    config: &'a Config,
    learner: Learner,
    position: JobPosition,
    scorer: Scorer<'a>,
}

impl Running<'_> {
    fn run(self, mut feed: Feed, clock: &Clock, stop: &Stop) -> Result<Ended, Failure> {
        let Self { config, mut learner, mut position, mut scorer } = self;
        let first = position.branched.as_ref().map_or(Step(0), |branched| branched.step);
        if learner.at() == first {
            scorer.live(&learner, &position)?;
        }
        let hooks = Hooks { evaluate: Box::new(|learner, position| scorer.live(learner, position)) };
        let plan = plan(config);
        let report = train::train(&mut learner, &mut position, &mut feed, &plan, hooks, clock, stop)?;
        if report.end == End::Stopped {
            return Ok(Ended { report, release: None, short: 0 });
        }
        let (all, start) = finish(config, &learner, &position, &mut scorer)?;
        let end = learner.train_config().schedule.cooldown.map_or(Step(0), |cooldown| cooldown.end());
        let short = if position.branched.is_some() { end.0.saturating_sub(report.steps.0) } else { 0 };
        if short > 0 {
            tracing::warn!(
                short,
                "the cool-down is incomplete, so no release was written; run it again when the stream has more \
                 text"
            );
            return Ok(Ended { report, release: None, short });
        }
        let release = release::write(&report.checkpoint, &learner, &position, &all, start.as_ref())?;
        Ok(Ended { report, release: Some(release), short })
    }
}

/// Scores the weights that a job ends with; returns their list and the start of the interpolated ones.
fn finish(
    config: &Config,
    learner: &Learner,
    position: &JobPosition,
    scorer: &mut Scorer<'_>,
) -> Result<(Vec<Weights>, Option<Decoder>), Failure> {
    let shares = config.average.shares(matches!(position.start, Start::File { .. }));
    let all = Weights::all(&config.average.windows, &shares);
    let (interpolated, averages): (Vec<Weights>, Vec<Weights>) =
        all.iter().partition(|one| one.is_interpolated());
    scorer.live(learner, position)?;
    if config.evaluate.averages {
        scorer.others(learner, position, &averages, None)?;
    }
    if interpolated.is_empty() {
        return Ok((all, None));
    }
    let start = checkpoint::start_model(&position.start, learner.train_config(), learner.model().device());
    let start = match start {
        Ok(start) => start,
        Err(error) => {
            let why = perennial_program::error::render(&error);
            tracing::warn!(why, "the initial weights cannot be read: interpolated weights are left out");
            return Ok((averages, None));
        }
    };
    if config.evaluate.averages {
        scorer.others(learner, position, &interpolated, Some(&start))?;
    }
    Ok((all, Some(start)))
}

#[cfg(test)]
mod tests;
