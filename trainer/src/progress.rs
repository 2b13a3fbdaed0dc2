//! The progress log of a job: one line every ten seconds, the first within seconds.

use std::time::Duration;

use perennial_schemas::id::Step;

use crate::feed::PackedBatch;
use crate::metrics::{Interval, Line};
use crate::report::number;
use crate::step::Outcome;

/// The first line follows the first step that ends this long after the start.
const FIRST: Duration = Duration::from_secs(2);

/// The least time between two lines, except for the last line.
const EVERY: Duration = Duration::from_secs(10);

/// Sums the steps since the last line, and makes the next line in time.
#[derive(Debug)]
pub struct Progress {
    interval: Interval,
    /// Steps done in this run of the program.
    steps: u64,
    began: Duration,
    /// The start of the interval.
    since: Duration,
    due: Duration,
    until: Option<Step>,
}

/// One line of the progress log.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressLine {
    /// The steps since the previous line.
    pub line: Line,
    /// The step at which the job ends, if known.
    pub until: Option<Step>,
    /// The remaining time at the speed of this run so far, if the end is known and not reached.
    pub left: Option<Duration>,
}

impl Progress {
    /// The progress of a job that starts `now` and ends at step `until`, if known.
    #[must_use]
    pub fn new(now: Duration, until: Option<Step>) -> Self {
        Self { interval: Interval::default(), steps: 0, began: now, since: now, due: now + FIRST, until }
    }

    /// Adds a step over `packed`, which the step waited for during `waited`.
    pub fn add(&mut self, outcome: &Outcome, packed: &PackedBatch, waited: Duration) {
        self.interval.add(outcome, packed, waited);
        self.steps += 1;
    }

    /// The line after `step` steps and `tokens` tokens of the job, if it is time for one.
    pub fn due_line(&mut self, step: Step, tokens: u64, now: Duration) -> Option<ProgressLine> {
        (now >= self.due).then(|| self.last(step, tokens, now)).flatten()
    }

    /// The line, whatever the time; `None` if no step was done since the last one.
    pub fn last(&mut self, step: Step, tokens: u64, now: Duration) -> Option<ProgressLine> {
        if self.interval.is_empty() {
            return None;
        }
        let line = self.interval.line(step, tokens, now.saturating_sub(self.since));
        let pace = now.saturating_sub(self.began).as_secs_f64() / self.steps.max(1) as f64;
        let steps = self.until.map(|until| until.0.saturating_sub(step.0)).filter(|steps| *steps > 0);
        let left = steps.map(|steps| steps as f64 * pace);
        let left = left.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
        self.interval = Interval::default();
        (self.since, self.due) = (now, now + EVERY);
        Some(ProgressLine { line, until: self.until, left })
    }
}

impl ProgressLine {
    /// Logs it.
    pub fn log(&self) {
        let Self { line, until, left } = self;
        let loss = |loss: Option<f64>| loss.map(|loss| rounded(loss, 4));
        tracing::info!(
            step = line.step.0,
            of = until.map(|until| until.0),
            tokens = line.tokens,
            tokens_per_second = line.tokens_per_second.round() as u64,
            loss = loss(line.loss),
            loss_new = loss(line.loss_new),
            loss_replayed = loss(line.loss_replayed),
            replay_share = line.replay_share.map(|share| rounded(share, 3)),
            wait = rounded(line.wait, 3),
            learning_rate = %format_args!("{:.3e}", line.learning_rate),
            left = left.map(|left| number::duration(left.as_secs_f64()).replace('\u{a0}', " ")),
            "trained"
        );
    }
}

fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::next_token::{Sum, Tally};

    fn step(progress: &mut Progress, nats: f64) {
        let sum = |nats, tokens| Sum { nats, tokens };
        let tally = Tally { new_text: sum(nats, 1), replayed: sum(0.0, 0) };
        let outcome = Outcome { step: Step(0), loss: None, tally, norm: 1.0, learning_rate: 1.0 };
        let packed = PackedBatch { tokens: vec![0; 50], ..PackedBatch::default() };
        progress.add(&outcome, &packed, Duration::ZERO);
    }

    #[test]
    fn the_first_line_comes_within_seconds_and_the_others_ten_seconds_apart() {
        let second = Duration::from_secs(1);
        let mut progress = Progress::new(100 * second, Some(Step(61)));
        let mut lines = Vec::new();
        for made in 1..=30_u64 {
            step(&mut progress, made as f64);
            let now = 100 * second + u32::try_from(made).unwrap() * second;
            lines.extend(progress.due_line(Step(made), made * 50, now));
        }
        let steps: Vec<u64> = lines.iter().map(|line| line.line.step.0).collect();
        assert_eq!(steps, [2, 12, 22]);
        // Steps 3 to 12, and the pace of all so far: a second each.
        assert_eq!(lines[1].line.loss, Some(7.5));
        assert_eq!(lines[1].line.tokens_per_second, 50.0);
        assert_eq!(lines[1].left, Some(49 * second));

        let last = progress.last(Step(30), 1_500, 130 * second).unwrap();
        assert_eq!((last.line.loss, last.left), (Some(26.5), Some(31 * second)));
        assert_eq!(progress.last(Step(30), 1_500, 131 * second), None, "nothing new");
        step(&mut progress, 1.0);
        assert_eq!(progress.last(Step(61), 3_050, 140 * second).unwrap().left, None, "it is there");
    }

    #[test]
    fn a_job_without_an_end_has_no_time_left() {
        let mut progress = Progress::new(Duration::ZERO, None);
        step(&mut progress, 1.0);
        assert_eq!(progress.due_line(Step(1), 50, Duration::from_secs(1)), None, "not yet");
        let line = progress.due_line(Step(1), 50, Duration::from_secs(3)).unwrap();
        assert_eq!((line.until, line.left), (None, None));
        line.log();
    }
}
