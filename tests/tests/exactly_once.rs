//! A writer is killed at any instant, again and again: nothing is lost, nothing is in the store twice.
//!
//! The killed program is `store_writer`. What it must have written is defined here once more, and read
//! back without anything of the store's own code: the entries of the log as JSON, the files as Parquet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use perennial_program::error::Kind;
use perennial_program::failpoint;
use perennial_schemas::seed::{Seed, below};
use perennial_store::check::position_app_id;
use perennial_tests::world::{Running, World};
use perennial_tests::{full, undisturbed};
use serde_json::Value;

/// Longer than anything here takes: a test that waits so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A `store_writer` that runs.
struct Writer {
    running: Running,
    news: Receiver<News>,
}

/// What a writer's standard output says.
enum News {
    /// It has opened the store.
    Open,
    /// It has ended; the last line it wrote.
    Ended(String),
}

impl Writer {
    fn start(store: &Path, settings: &[&str], failpoint: Option<&str>) -> Self {
        let mut command = undisturbed(env!("CARGO_BIN_EXE_store_writer"));
        command.arg("write").arg(store).args(settings);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(failpoint.map(|point| ("PERENNIAL_FAILPOINT", point)));
        let mut running = Running::start(command);
        let lines = BufReader::new(running.child().stdout.take().unwrap()).lines();
        let (sender, news) = sync_channel(2);
        std::thread::spawn(move || {
            let mut last = String::new();
            for line in lines.map_while(Result::ok) {
                if line == "open" {
                    // The receiver may be gone.
                    let _ = sender.send(News::Open);
                }
                last = line;
            }
            let _ = sender.send(News::Ended(last));
        });
        Self { running, news }
    }

    fn wait_until_open(&self) {
        assert!(matches!(self.news.recv_timeout(PATIENCE), Ok(News::Open)), "the writer did not open");
    }

    /// Lets it begin, where it waits for that.
    fn begin(&mut self) {
        self.running.child().stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    /// Kills it `delay` after its start or, where `opened`, after it has opened the store. Says in
    /// which act it was: the last line it wrote.
    fn kill(mut self, delay: Duration, opened: bool) -> String {
        if opened {
            self.wait_until_open();
        }
        let mut ended = self.news.recv_timeout(delay);
        if matches!(ended, Ok(News::Open)) {
            ended = self.news.recv_timeout(delay);
        }
        assert!(
            matches!(ended, Err(RecvTimeoutError::Timeout)),
            "the writer ended by itself: {}",
            self.said()
        );
        self.running.child().kill().unwrap();
        assert_eq!(self.running.child().wait().unwrap().signal(), Some(9));
        let last = self.news.into_iter().find_map(|news| match news {
            News::Open => None,
            News::Ended(last) => Some(last),
        });
        last.unwrap()
    }

    /// Waits until it has ended by itself.
    fn end(mut self) -> ExitStatus {
        loop {
            match self.news.recv_timeout(PATIENCE) {
                Ok(News::Open) => {}
                Ok(News::Ended(_)) => return self.running.child().wait().unwrap(),
                Err(error) => panic!("the writer does not end: {error}"),
            }
        }
    }

    fn said(&mut self) -> String {
        std::io::read_to_string(self.running.child().stderr.take().unwrap()).unwrap()
    }
}

/// The table `records` as its log has it.
#[derive(Default)]
struct Log {
    live: BTreeSet<String>,
    /// Every file that any version has or had.
    named: BTreeSet<String>,
    transactions: HashMap<String, i64>,
    versions: usize,
    /// How many versions replace files.
    rewrites: usize,
}

impl Log {
    fn read(store: &Path) -> Self {
        let mut log = Self::default();
        let Ok(folder) = fs::read_dir(store.join("records/_delta_log")) else { return log };
        let paths = folder.map(|entry| entry.unwrap().path());
        let mut entries: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
        entries.sort();
        log.versions = entries.len();
        for entry in entries {
            let text = fs::read_to_string(entry).unwrap();
            let removed = text.lines().filter(|line| log.apply(line)).count();
            log.rewrites += usize::from(removed > 0);
        }
        log
    }

    /// Applies a line of an entry; says whether it removes a file.
    fn apply(&mut self, line: &str) -> bool {
        let action: Value = serde_json::from_str(line).unwrap();
        let path = |action: &Value| action["path"].as_str().unwrap().to_owned();
        if let Some(add) = action.get("add") {
            self.named.insert(path(add));
            assert!(self.live.insert(path(add)), "a file is added twice");
        } else if let Some(remove) = action.get("remove") {
            assert!(self.live.remove(&path(remove)), "a file that is not there is removed");
            return true;
        } else if let Some(txn) = action.get("txn") {
            let number = txn["version"].as_i64().unwrap();
            self.transactions.insert(txn["appId"].as_str().unwrap().to_owned(), number);
        }
        false
    }

    fn number(&self, app_id: &str) -> i64 {
        self.transactions.get(app_id).copied().unwrap_or(0)
    }

    /// How many readings are committed.
    fn position(&self) -> i64 {
        self.number("seq/main")
    }
}

/// The data files of `records` on the disk, relative to the table; those that are not whole have a `#`.
fn on_disk(store: &Path) -> BTreeSet<String> {
    let root = store.join("records");
    let mut open = vec![root.clone()];
    let mut files = BTreeSet::new();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("_delta_log") {
                open.push(path);
            } else if path.is_file() {
                files.insert(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files
}

/// What must stand at a position: path, start, end and text.
fn expected(position: i64) -> (&'static str, i64, i64, String) {
    let path = ["a.txt", "b.txt", "c/d.txt"][position as usize % 3];
    let start = position / 3 * 7;
    let filling: String = (0..position % 50).map(|_| '-').collect();
    (path, start, start + 7, format!("reading {position}{filling}"))
}

/// Counts what is in the store against what must be: nothing lost, nothing twice, nothing that no
/// position has, every row as its position says, and each file's position where its last row ends.
/// Says how many readings there are.
fn count(store: &Path) -> i64 {
    let log = Log::read(store);
    let end = log.position();
    let (mut times, mut wrong, mut beyond) = (vec![0_u32; end as usize], Vec::new(), 0);
    for path in &log.live {
        let file = File::open(store.join("records").join(path)).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let numbers = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>();
            let texts = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>();
            let raw = batch.column_by_name("raw").unwrap().as_binary::<i32>();
            let kept = path.starts_with("outcome=kept/");
            for row in 0..batch.num_rows() {
                let seq = numbers("seq").value(row);
                match times.get_mut(seq as usize) {
                    Some(times) => *times += 1,
                    None => beyond += 1,
                }
                let (path, start, end, text) = expected(seq);
                let place =
                    (texts("path").value(row), numbers("start").value(row), numbers("end").value(row));
                let found = if kept { texts("text").value(row).as_bytes() } else { raw.value(row) };
                let is_duplicate = !kept && found.is_empty();
                if place != (path, start, end) || !(is_duplicate || found == text.as_bytes()) {
                    wrong.push(seq);
                }
            }
        }
    }
    let lost = times.iter().filter(|times| **times == 0).count();
    let twice = times.iter().filter(|times| **times > 1).count();
    assert_eq!((lost, twice, beyond), (0, 0, 0), "lost, twice and beyond, of {end}");
    assert_eq!(wrong, [0_i64; 0]);
    for last in (end - 3).max(0)..end {
        let (path, _, until, _) = expected(last);
        assert_eq!(log.number(&position_app_id("positions", path, 0)), until, "{path}");
    }
    end
}

#[tokio::test]
async fn writer_killed_at_any_instant_loses_nothing_and_writes_nothing_twice() {
    let kills: u64 = if full() { 200 } else { 25 };
    let world = World::new();
    let store = world.path("store");
    let seed = Seed::new(5);
    // Where each kill fell.
    let mut fell: BTreeMap<&str, u64> = BTreeMap::new();
    for kill in 0..kills {
        let before = on_disk(&store);
        let position = Log::read(&store).position();
        let writer = Writer::start(&store, &[&format!("seed={kill}"), "maintain=16"], None);
        let delay = Duration::from_millis(20 + below(seed.child("delay").at(&[kill]), 680));
        // Half of the time is counted from the start, so that the opening is hit as well.
        let act = writer.kill(delay, kill % 2 == 1);

        let log = Log::read(&store);
        assert!(log.position() >= position, "what was committed is gone");
        let left: Vec<String> = on_disk(&store).difference(&before).cloned().collect();
        let orphans = left.iter().filter(|file| !log.named.contains(*file)).count();
        let place = match (act.as_str(), orphans) {
            ("", _) => "while it opened the store",
            ("maintain", _) => "while it compacted",
            (_, 0) => "elsewhere",
            _ => "between files and log",
        };
        *fell.entry(place).or_default() += 1;
        if kill % 10 == 9 {
            count(&store);
            world.checked().await;
        }
        if kill % 5 == 4 {
            // Undisturbed, as the start after a crash: so the table stays as small as one that is kept.
            assert!(Writer::start(&store, &["commits=2", "maintain=1"], None).end().success());
        }
    }
    let readings = count(&store);
    world.checked().await;
    let log = Log::read(&store);
    let (live, disk) = (log.live.len(), on_disk(&store).len());
    println!("{kills} kills: {fell:?}");
    println!(
        "{readings} readings in {} versions ({} compactions), none lost, none twice; {live} live files of {disk}",
        log.versions, log.rewrites
    );
    assert!(readings > 100, "the writer came to nothing");
    assert!(log.rewrites > 0, "no compaction");
}

#[tokio::test]
async fn writer_that_dies_at_a_failpoint_of_the_store_has_committed_all_of_a_batch_or_nothing() {
    let points: Vec<_> = failpoint::ALL.iter().filter(|point| point.starts_with("store.commit.")).collect();
    assert!(points.len() >= 2);
    let world = World::new();
    let store = world.path("store");
    for (point, passage) in points.iter().flat_map(|point| [1, 3].map(|passage| (**point, passage))) {
        let before = Log::read(&store);
        let files = on_disk(&store);
        let writer = Writer::start(&store, &["commits=9"], Some(&format!("{point}:{passage}")));
        assert_eq!(writer.end().signal(), Some(6), "{point} was not passed {passage} times");
        let after = Log::read(&store);
        let batches = after.number("ingest/main") - before.number("ingest/main");
        let left = on_disk(&store).difference(&files).filter(|file| !after.named.contains(*file)).count();
        match point {
            "store.commit.after_files" => assert_eq!((batches, left > 0), (passage - 1, true)),
            "store.commit.after_log" => assert_eq!((batches, left), (passage, 0)),
            _ => assert!((passage - 1..=passage).contains(&batches), "{point}: {batches}"),
        }
        assert_eq!(count(&store) > before.position(), batches > 0);
        world.checked().await;
    }
    assert!(Writer::start(&store, &["commits=2", "maintain=1"], None).end().success());
    count(&store);
    world.checked().await;
}

#[tokio::test]
async fn second_of_two_writers_at_once_ends_with_a_conflict_and_writes_nothing() {
    let world = World::new();
    let store = world.path("store");
    assert!(Writer::start(&store, &["commits=2"], None).end().success());
    for round in 0..3 {
        let before = Log::read(&store).number("ingest/main");
        let seeds = [format!("seed={round}"), format!("seed={}", round + 100)];
        let mut writers = seeds.map(|seed| Writer::start(&store, &[&seed, "commits=5", "wait=1"], None));
        // Both have read the same position before either of them writes.
        writers.iter().for_each(Writer::wait_until_open);
        writers.iter_mut().for_each(Writer::begin);
        let mut codes = writers.map(|writer| writer.end().code());
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(i32::from(Kind::Conflict.codes().exit))]);
        assert_eq!(Log::read(&store).number("ingest/main"), before + 5);
        count(&store);
    }
    world.checked().await;
}
