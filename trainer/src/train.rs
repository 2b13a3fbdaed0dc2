//! The training loop: a step for each batch, and what happens every N steps.

use std::path::PathBuf;
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_program::error::Failure;
use perennial_program::failpoint;
use perennial_program::stop::Stop;
use perennial_schemas::id::Step;

use crate::checkpoint::{self, JobPosition};
use crate::feed::{Delivery, Feed};
use crate::metrics::{Interval, Metrics};
use crate::progress::Progress;
use crate::step::Learner;

/// What can happen every N steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A line in `metrics.jsonl`.
    Metrics,
    /// The evaluation hook.
    Evaluate,
    /// A checkpoint, after a line of metrics.
    Checkpoint,
}

/// How a job runs; none of it affects the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The job's folder, which must exist; it holds `metrics.jsonl` and `step-<n>`.
    pub dir: PathBuf,
    /// The step at which the job ends; `None`: it ends with its stream.
    pub until: Option<Step>,
    /// Pairs of an interval in steps and what happens then, in this order within a step. 0 is never.
    pub every: Vec<(u64, Act)>,
    /// How many checkpoints to keep.
    pub keep: usize,
}

/// Called with the learner and the job's position.
pub type Evaluate<'a> = dyn FnMut(&Learner, &JobPosition) -> Result<(), Failure> + 'a;

/// Callbacks of a running job; they cannot change it.
pub struct Hooks<'a> {
    /// Called by [`Act::Evaluate`].
    pub evaluate: Box<Evaluate<'a>>,
}

/// Why a job ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All its steps are done.
    Done,
    /// Its stream ended.
    Stream,
    /// A signal asked it to stop.
    Stopped,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The reason.
    pub end: End,
    /// Steps done, including those before a resume.
    pub steps: Step,
    /// Tokens of text read, including those before a resume.
    pub tokens: u64,
    /// Its last checkpoint.
    pub checkpoint: PathBuf,
}

/// A running job.
struct Job<'a> {
    learner: &'a mut Learner,
    position: &'a mut JobPosition,
    plan: &'a Plan,
    hooks: Hooks<'a>,
    metrics: Metrics,
    interval: Interval,
    clock: &'a Clock,
    /// When the interval began.
    since: Duration,
    progress: Progress,
    saved: Option<PathBuf>,
}

/// Runs a job from the state of `learner` and `position` until its plan, its stream or `stop` ends it, and
/// writes a checkpoint. Must run on the thread that calls libtorch.
///
/// # Errors
/// The error of a step, the feed, a hook or the disk; the newest checkpoint is then the last one written
/// before.
pub fn train(
    learner: &mut Learner,
    position: &mut JobPosition,
    feed: &mut Feed,
    plan: &Plan,
    hooks: Hooks<'_>,
    clock: &Clock,
    stop: &Stop,
) -> Result<Report, Failure> {
    let metrics = Metrics::open(&plan.dir.join("metrics.jsonl"), learner.at())?;
    let (interval, since) = (Interval::default(), clock.monotonic());
    let progress = Progress::new(since, plan.until);
    let mut job =
        Job { learner, position, plan, hooks, metrics, interval, clock, since, progress, saved: None };
    let end = loop {
        if plan.until.is_some_and(|until| job.learner.at() >= until) {
            break End::Done;
        }
        if stop.is_triggered() {
            break End::Stopped;
        }
        let asked = clock.monotonic();
        let Some(delivery) = feed()? else {
            // A feed that waits for text returns at a stop: its stream has not ended.
            break if stop.is_triggered() { End::Stopped } else { End::Stream };
        };
        let waited = clock.monotonic().saturating_sub(asked);
        job.learn(&delivery, waited)?;
        let made = job.learner.at().0;
        for (every, act) in &plan.every {
            if *every > 0 && made.is_multiple_of(*every) {
                job.act(*act)?;
            }
        }
    };
    job.act(Act::Metrics)?;
    if let Some(line) = job.progress.last(job.learner.at(), job.position.tokens, clock.monotonic()) {
        line.log();
    }
    let checkpoint = match job.saved.take() {
        Some(path) => path,
        None => job.save()?,
    };
    Ok(Report { end, steps: job.learner.at(), tokens: job.position.tokens, checkpoint })
}

impl Job<'_> {
    fn learn(&mut self, delivery: &Delivery, waited: Duration) -> Result<(), Failure> {
        let outcome = self.learner.step(&delivery.ticket, &delivery.packed)?;
        failpoint::hit("train.step.after_update");
        let tokens = delivery.packed.tokens.len() as u64;
        self.saved = None;
        self.position.tokens += tokens;
        self.position.next.clone_from(&delivery.next);
        self.interval.add(&outcome, &delivery.packed, waited);
        self.progress.add(&outcome, &delivery.packed, waited);
        if let Some(line) =
            self.progress.due_line(self.learner.at(), self.position.tokens, self.clock.monotonic())
        {
            line.log();
        }
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), Failure> {
        match act {
            Act::Metrics => self.write_line(),
            Act::Evaluate => (self.hooks.evaluate)(self.learner, self.position),
            Act::Checkpoint => self.save().map(|path| self.saved = Some(path)),
        }
    }

    fn write_line(&mut self) -> Result<(), Failure> {
        if self.interval.is_empty() {
            return Ok(());
        }
        let now = self.clock.monotonic();
        let lasted = now.saturating_sub(self.since);
        let line = self.interval.line(self.learner.at(), self.position.tokens, lasted);
        self.metrics.write(&line)?;
        self.interval = Interval::default();
        self.since = now;
        Ok(())
    }

    /// No line of metrics spans a checkpoint, so a resumed job writes the same lines as one that never
    /// stopped.
    fn save(&mut self) -> Result<PathBuf, Failure> {
        self.write_line()?;
        self.metrics.sync()?;
        Ok(checkpoint::save(&self.plan.dir, self.learner, self.position, self.plan.keep)?)
    }
}

#[cfg(test)]
mod tests;
