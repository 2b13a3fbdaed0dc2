//! What a person who watches the daemon is told: one line now and then while it reads, the first within
//! seconds, none while nothing comes.

use std::time::Duration;

use crate::block::{Counts, Tally};

/// The first line comes with the first block that arrives so long after the start.
const FIRST: Duration = Duration::from_secs(2);

/// No two lines are closer than this.
const EVERY: Duration = Duration::from_secs(10);

/// Says when the next line is due.
#[derive(Debug)]
pub struct Watch {
    /// When the last line was told, on the clock's monotonic time, and the bytes read until then.
    since: Duration,
    bytes: u64,
    due: Duration,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// What became of the readings so far, committed or about to be.
    pub total: Tally,
    /// Decoded bytes read so far, in millions.
    pub megabytes: f64,
    /// Millions of bytes a second since the line before.
    pub pace: f64,
}

impl Watch {
    /// Of a run that begins `now`.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { since: now, bytes: 0, due: now + FIRST }
    }

    /// The line, where one is due `now`; `counts` are those of the whole run so far, in parts.
    pub fn told(&mut self, now: Duration, counts: [&Counts; 2]) -> Option<Told> {
        if now < self.due {
            return None;
        }
        let mut total = Tally::default();
        counts.iter().for_each(|part| total.add(&part.total()));
        let bytes: u64 = counts.iter().map(|part| part.read_bytes).sum();
        let seconds = now.saturating_sub(self.since).as_secs_f64();
        let pace = bytes.saturating_sub(self.bytes) as f64 / 1e6 / seconds;
        *self = Self { since: now, bytes, due: now + EVERY };
        Some(Told { total, megabytes: bytes as f64 / 1e6, pace })
    }
}

impl Told {
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
        let mut watch = Watch::new(100 * second);
        let mut told = Vec::new();
        for at in 1..=30_u64 {
            // Ten readings and a megabyte a second; what was committed last is one part, the rest the other.
            let (committed, pending) =
                (counts(at / 5 * 50, at / 5 * 5_000_000), counts(at % 5 * 10, at % 5 * 1_000_000));
            told.extend(watch.told(Duration::from_secs(100 + at), [&committed, &pending]));
        }
        let read: Vec<u64> = told.iter().map(|told| told.total.read).collect();
        assert_eq!(read, [20, 120, 220]);
        assert!(told.iter().all(|told| told.total.balanced() && (told.pace - 1.0).abs() < 1e-9), "{told:?}");
        assert!((told[2].megabytes - 22.0).abs() < 1e-9);
        told[2].log(4);
    }
}
