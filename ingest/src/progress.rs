//! Progress for a person who watches the daemon: a log line every ten seconds while it reads, the first after
//! two seconds, none while nothing arrives.

use std::time::Duration;

use crate::block::{Counts, Tally};

/// The first line comes with the first block that arrives this long after the start.
const FIRST: Duration = Duration::from_secs(2);

/// No two lines are closer than this.
const EVERY: Duration = Duration::from_secs(10);

/// Decides when the next line is logged.
#[derive(Debug)]
pub struct ProgressTimer {
    /// When the last line was logged, on the clock's monotonic time, and the bytes read until then.
    since: Duration,
    bytes: u64,
    next: Duration,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// What became of the readings so far, committed or about to be.
    pub total: Tally,
    /// Decoded bytes read so far, in millions.
    pub megabytes: f64,
    /// Millions of bytes a second since the line before.
    pub pace: f64,
}

impl ProgressTimer {
    /// Of a run that begins `now`.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { since: now, bytes: 0, next: now + FIRST }
    }

    /// The line, if it is time for one; `counts` are those of the whole run so far, in parts.
    pub fn progress(&mut self, now: Duration, counts: [&Counts; 2]) -> Option<Progress> {
        if now < self.next {
            return None;
        }
        let mut total = Tally::default();
        counts.iter().for_each(|part| total.add(&part.total()));
        let bytes: u64 = counts.iter().map(|part| part.read_bytes).sum();
        let seconds = now.saturating_sub(self.since).as_secs_f64();
        let pace = bytes.saturating_sub(self.bytes) as f64 / 1e6 / seconds;
        *self = Self { since: now, bytes, next: now + EVERY };
        Some(Progress { total, megabytes: bytes as f64 / 1e6, pace })
    }
}

impl Progress {
    /// Logs it.
    pub fn log(&self, commits: u64) {
        let Self { total, megabytes, pace } = self;
        tracing::info!(
            read = total.read,
            kept = total.kept,
            duplicates = total.duplicates,
            dead_letters = total.dead_letters,
            megabytes = %format_args!("{megabytes:.1}"),
            megabytes_per_second = %format_args!("{pace:.1}"),
            commits,
            "reading"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(read: u64, read_bytes: u64) -> Counts {
        let tally = Tally { read, kept: read, ..Tally::default() };
        Counts { sources: [("s".into(), tally)].into(), read_bytes, ..Counts::default() }
    }

    #[test]
    fn the_first_line_comes_within_seconds_and_the_others_ten_seconds_apart() {
        let second = Duration::from_secs(1);
        let mut timer = ProgressTimer::new(100 * second);
        let mut lines = Vec::new();
        for at in 1..=30_u64 {
            // Ten readings and a megabyte a second; what was committed last is one part, the rest the other.
            let (committed, pending) =
                (counts(at / 5 * 50, at / 5 * 5_000_000), counts(at % 5 * 10, at % 5 * 1_000_000));
            lines.extend(timer.progress(Duration::from_secs(100 + at), [&committed, &pending]));
        }
        let read: Vec<u64> = lines.iter().map(|line| line.total.read).collect();
        assert_eq!(read, [20, 120, 220]);
        assert!(
            lines.iter().all(|line| line.total.balanced() && (line.pace - 1.0).abs() < 1e-9),
            "{lines:?}"
        );
        assert!((lines[2].megabytes - 22.0).abs() < 1e-9);
        lines[2].log(4);
    }
}
