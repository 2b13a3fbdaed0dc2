//! `metrics.jsonl`: one line of JSON per interval of steps, in order, each interval once.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_program::error::{Kind, ProgramError};
use perennial_schemas::id::Step;
use serde::{Deserialize, Serialize};

use crate::feed::PackedBatch;
use crate::loss::next_token::Tally;
use crate::step::Outcome;

/// The file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot read or write `{path}`")]
pub struct MetricsError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl ProgramError for MetricsError {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// One line: the steps since the previous line. Losses are nats per prediction, before the update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Steps made.
    pub step: Step,
    /// Tokens of text read since the job began.
    pub tokens: u64,
    /// Mean loss over all rows, unweighted; `null` if no prediction counted.
    pub loss: Option<f64>,
    /// Mean loss over new text.
    pub loss_new: Option<f64>,
    /// Mean loss over replayed text.
    pub loss_replayed: Option<f64>,
    /// Share of the text's tokens that were replayed; `null` without tokens.
    pub replay_share: Option<f64>,
    /// Mean joint norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Tokens of text read per second, including waiting.
    pub tokens_per_second: f64,
    /// Share of the time that was spent waiting for batches.
    pub wait: f64,
}

/// The sums between two lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Interval {
    steps: u64,
    tokens: u64,
    replayed_tokens: u64,
    tally: Tally,
    norms: f64,
    learning_rate: f64,
    waited: Duration,
}

impl Interval {
    /// Adds a step over `packed`, which the step waited for during `waited`.
    pub fn add(&mut self, outcome: &Outcome, packed: &PackedBatch, waited: Duration) {
        self.steps += 1;
        self.tokens += packed.tokens.len() as u64;
        let replayed = packed.segments.iter().filter(|segment| segment.replayed);
        self.replayed_tokens += replayed.map(|segment| segment.tokens as u64).sum::<u64>();
        self.norms += outcome.norm;
        self.learning_rate = outcome.learning_rate;
        self.waited += waited;
        self.tally = self.tally + outcome.tally;
    }

    /// Whether it has no step.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.steps == 0
    }

    /// The interval's line, after `step` steps and `tokens` tokens of the job; `lasted` is its duration.
    #[must_use]
    pub fn line(&self, step: Step, tokens: u64, lasted: Duration) -> Line {
        let seconds = lasted.as_secs_f64();
        let per_second = |number: f64| if seconds > 0.0 { number / seconds } else { 0.0 };
        Line {
            step,
            tokens,
            loss: self.tally.all().mean(),
            loss_new: self.tally.new_text.mean(),
            loss_replayed: self.tally.replayed.mean(),
            replay_share: (self.tokens > 0).then(|| self.replayed_tokens as f64 / self.tokens as f64),
            grad_norm: self.norms / self.steps.max(1) as f64,
            learning_rate: self.learning_rate,
            tokens_per_second: per_second(self.tokens as f64),
            wait: per_second(self.waited.as_secs_f64()),
        }
    }
}

/// The open file.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file to append lines after step `after`: lines of later steps and an incomplete line are
    /// removed.
    ///
    /// # Errors
    /// [`MetricsError`] if the file cannot be read or written.
    pub fn open(path: &Path, after: Step) -> Result<Self, MetricsError> {
        let io = |source| MetricsError { path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let keep = kept(&mut file, after).map_err(io)?;
        file.set_len(keep).and_then(|()| file.seek(SeekFrom::Start(keep))).map_err(io)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// [`MetricsError`] if the file cannot be written.
    pub fn write(&mut self, line: &Line) -> Result<(), MetricsError> {
        let io = |source| MetricsError { path: self.path.clone(), source };
        let mut json = serde_json::to_vec(line).map_err(|error| io(error.into()))?;
        json.push(b'\n');
        self.file.write_all(&json).map_err(io)
    }

    /// Flushes every line to the disk.
    ///
    /// # Errors
    /// [`MetricsError`] if the file cannot be written.
    pub fn sync(&self) -> Result<(), MetricsError> {
        self.file.sync_data().map_err(|source| MetricsError { path: self.path.clone(), source })
    }
}

/// The length in bytes of the complete lines of steps up to `after`.
fn kept(file: &mut File, after: Step) -> std::io::Result<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        step: Step,
    }
    let mut lines = BufReader::new(file);
    let (mut keep, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line)?;
        let whole = line.last() == Some(&b'\n');
        match serde_json::from_slice::<Numbered>(&line) {
            Ok(numbered) if whole && numbered.step <= after => keep += read as u64,
            _ => return Ok(keep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::Segment;
    use crate::loss::next_token::Sum;

    fn line(step: u64) -> Line {
        Interval::default().line(Step(step), step * 100, Duration::from_secs(1))
    }

    #[test]
    fn a_resumed_file_loses_the_lines_past_its_step_and_a_cut_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, Step(0)).unwrap();
        for step in [10, 20, 30] {
            metrics.write(&line(step)).unwrap();
        }
        metrics.file.write_all(b"{\"step\":40,\"tok").unwrap();
        metrics.sync().unwrap();

        let mut metrics = Metrics::open(&path, Step(25)).unwrap();
        metrics.write(&line(30)).unwrap();
        let steps = |path: &Path| -> Vec<Step> {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().step).collect()
        };
        assert_eq!(steps(&path), [Step(10), Step(20), Step(30)]);

        drop(Metrics::open(&path, Step(30)).unwrap());
        assert_eq!(steps(&path).len(), 3, "nothing is past step 30");
        drop(Metrics::open(&path, Step(0)).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn an_interval_sums_losses_by_token_and_time_by_share() {
        let outcome = |new_text: (f64, u64), replayed: (f64, u64), norm: f64| {
            let sum = |(nats, tokens)| Sum { nats, tokens };
            let tally = Tally { new_text: sum(new_text), replayed: sum(replayed) };
            Outcome { step: Step(0), loss: None, tally, norm, learning_rate: 0.5 }
        };
        let packed = |new_text: usize, replayed: usize| {
            let segment = |tokens, replayed| Segment { row: 0, replayed, start: 0, tokens, counted: 0 };
            let segments = vec![segment(new_text, false), segment(replayed, true)];
            PackedBatch { tokens: vec![0; new_text + replayed], segments, ..PackedBatch::default() }
        };
        let mut interval = Interval::default();
        interval.add(&outcome((6.0, 2), (0.0, 0), 1.0), &packed(10, 0), Duration::from_millis(500));
        interval.add(&outcome((2.0, 2), (9.0, 3), 3.0), &packed(26, 4), Duration::from_millis(500));
        let line = interval.line(Step(2), 40, Duration::from_secs(4));
        assert_eq!((line.loss_new, line.loss_replayed), (Some(2.0), Some(3.0)));
        assert_eq!(line.loss, Some(17.0 / 7.0));
        assert_eq!(line.replay_share, Some(0.1));
        assert_eq!(
            [line.grad_norm, line.learning_rate, line.tokens_per_second, line.wait],
            [2.0, 0.5, 10.0, 0.25]
        );
    }
}
