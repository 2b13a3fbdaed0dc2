//! Input, machines and users as they are: what goes in, what must come out, and a sound store after each.

mod corpora;
mod formats;
mod jobs;
mod kill;
mod lines;
mod programs;

use std::process::{Output, Stdio};
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_program::error::Kind;
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{Outcome, Reason, View};
use perennial_store::Scan;
use perennial_store::check::Sums;
use perennial_tests::world::{Running, World};

/// What became of one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    outcome: Outcome,
    reason: Option<Reason>,
    detail: Option<String>,
    path: String,
    generation: i64,
    start: i64,
    end: i64,
    external_id: Option<String>,
    event_time: Option<i64>,
    text: Option<String>,
    raw: Option<Vec<u8>>,
}

impl Reading {
    fn is_document(&self) -> bool {
        self.outcome != Outcome::DeadLetter
    }
}

/// All readings by their number, after a check of the store and of the sums over them.
async fn readings(world: &World) -> Vec<Reading> {
    let report = world.checked().await;
    let store = world.store().await;
    let version = store.version(Table::Records).await.unwrap();
    let scan = Scan { order: &["shard", "seq"], ..Scan::default() };
    let mut readings = Vec::new();
    for batch in &store.scan(Table::Records, version, &scan).await.unwrap() {
        readings.extend(View::new(batch).unwrap().iter().map(|row| Reading {
            outcome: row.outcome.parse().unwrap(),
            reason: row.reason.map(|reason| reason.parse().unwrap()),
            detail: row.detail.map(str::to_owned),
            path: row.path.unwrap_or_default().to_owned(),
            generation: row.generation,
            start: row.start,
            end: row.end,
            external_id: row.external_id.map(str::to_owned),
            event_time: row.event_time,
            text: row.text.map(str::to_owned),
            raw: row.raw.map(<[u8]>::to_vec),
        }));
    }
    assert!(report.sums.values().all(Sums::balanced));
    assert_eq!(report.sums.values().map(|sums| sums.read).sum::<u64>(), readings.len() as u64);
    readings
}

/// A configuration of one source.
fn source(path: &str, more: &str) -> String {
    format!("[[source]]\nname = \"s\"\npath = \"{path}\"\n{more}")
}

/// What `run` is asked for: the configuration `ingest.toml`, to the present end of its sources.
const ONCE: &[&str] = &["--config", "ingest.toml", "run", "--once"];
const FOLLOW: &[&str] = &["--config", "ingest.toml", "run"];

/// A source that is followed closely: `path`, and keys of other tables.
fn followed(path: &str, more: &str) -> String {
    source(path, &format!("follow = true\n[read]\npoll = \"5ms\"\n{more}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts how a program failed: the exit code of `kind`, and every one of `words` in what it said.
fn assert_failed(output: &Output, kind: Kind, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(i32::from(kind.codes().exit)), "{said}");
    assert!(said.contains("error: "), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

/// Waits until the store of `world` is there and has `count` readings; what does not come in a minute will
/// not come.
async fn until_read(world: &World, count: usize) {
    let clock = Clock::system();
    for _ in 0..6000 {
        if count_of(world).await.is_some_and(|readings| readings >= count) {
            return;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    panic!("reading {count} did not come");
}

/// How many readings the store has, where it is there.
async fn count_of(world: &World) -> Option<usize> {
    // Files of commits: to open the store before it is made would be an error.
    world.path("store/records/_delta_log/00000000000000000001.json").is_file().then_some(())?;
    let store = world.store().await;
    let version = store.version(Table::Records).await.ok()?;
    let scan = Scan { columns: &["seq"], ..Scan::default() };
    let batches = store.scan(Table::Records, version, &scan).await.ok()?;
    Some(batches.iter().map(arrow::array::RecordBatch::num_rows).sum())
}

/// Starts a program whose output is read at its end.
fn start(world: &World, program: &str, arguments: &[&str]) -> Running {
    let mut command = world.command(program, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(command)
}
