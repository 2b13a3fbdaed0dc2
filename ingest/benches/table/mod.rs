//! What a benchmark prints at its end: every step beside the floor that it is measured against, both
//! of the same run, so that a slow hour of the machine slows both.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use perennial_program::clock::Clock;

/// One step to measure.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is.
    pub name: String,
    /// The step that nothing of its kind can be faster than; empty for a floor.
    pub floor: &'static str,
    /// How many units one run handles.
    pub size: f64,
    /// What a unit is, as it is printed.
    pub unit: &'static str,
}

/// All that was measured.
#[derive(Debug)]
pub struct Table {
    /// What tells the time.
    pub clock: Clock,
    rows: Vec<(Case, Vec<Duration>)>,
}

impl Table {
    /// An empty one.
    pub fn new() -> Self {
        Self { clock: Clock::system(), rows: Vec::new() }
    }

    /// Has criterion measure `run`, which says how long it took without what it had to prepare.
    pub fn case(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        case: Case,
        mut run: impl FnMut() -> Duration,
    ) {
        let mut took = Vec::new();
        group.bench_function(&case.name, |bencher| {
            bencher.iter_custom(|runs| {
                let first = took.len();
                (0..runs).for_each(|_| took.push(run()));
                took.iter().skip(first).sum()
            });
        });
        if !took.is_empty() {
            took.sort();
            self.rows.push((case, took));
        }
    }

    /// Prints a line for each step: its rate in its best run, the run in the middle, the run that one
    /// of a hundred is slower than, and its rate over its floor's, best against best.
    pub fn print(&self, title: &str) {
        let mut text = format!(
            "\n{title}\n{:<46}{:>20}{:>12}{:>12}{:>7}  of its floor\n",
            "step", "best", "p50", "p99", "runs"
        );
        for (case, took) in &self.rows {
            let at = |part: f64| took.get((took.len() as f64 * part) as usize).copied().unwrap_or_default();
            let best = format!("{} {}/s", figure(rate(case, took)), case.unit);
            let p99 = if took.len() < 100 { "-".to_owned() } else { duration(at(0.99)) };
            let floor = self.rows.iter().find(|(other, _)| other.name == case.floor);
            let floor = floor.map_or_else(String::new, |(floor, of)| {
                format!("{} of {}", share(rate(case, took) / rate(floor, of)), floor.name)
            });
            let _ = writeln!(
                text,
                "{:<46}{best:>20}{:>12}{p99:>12}{:>7}  {floor}",
                case.name,
                duration(at(0.5)),
                took.len()
            );
        }
        println!("{text}");
    }
}

/// How long `work` takes by this clock.
pub fn time<T>(clock: &Clock, work: impl FnOnce() -> T) -> Duration {
    let begun = clock.monotonic();
    black_box(work());
    clock.monotonic().saturating_sub(begun)
}

/// Units a second of the best run; `took` rises.
fn rate(case: &Case, took: &[Duration]) -> f64 {
    case.size / took.first().copied().unwrap_or_default().as_secs_f64().max(1e-9)
}

fn share(value: f64) -> String {
    if value < 0.1 { format!("1/{:.0}", 1.0 / value) } else { format!("{value:.2}") }
}

fn figure(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 1e5 {
        format!("{value:.0}")
    } else {
        format!("{:.1} M", value / 1e6)
    }
}

fn duration(value: Duration) -> String {
    let us = value.as_secs_f64() * 1e6;
    if us < 10.0 {
        format!("{us:.2} us")
    } else if us < 10_000.0 {
        format!("{us:.0} us")
    } else {
        format!("{:.1} ms", us / 1e3)
    }
}
