//! What many small files cost a store of real text, and what is left of it when maintenance has joined them:
//! each step on the same store, just before and just after. No step is sampled by criterion: a commit changes
//! what the next one meets.
#![expect(clippy::expect_used, reason = "a benchmark without its data has nothing to do but fail")]

use std::collections::HashMap;
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use perennial_schemas::id::{Seq, Shard, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{Builder, Outcome, Row};
use perennial_store::commit::Committer;
use perennial_store::maintain::{self, Options};
use perennial_store::{Store, StoreUrl};
use xxhash_rust::xxh3::xxh3_128;

mod stream;

const FENCE: &str = "ingest/main";
/// Commits of one file each before maintenance.
const COMMITS: usize = 300;
/// Runs of a step; what is printed is the one in the middle.
const RUNS: usize = 15;
/// Records of a fetch, spread evenly.
const FETCH: u64 = 64;

/// A store that one daemon writes.
struct World {
    url: StoreUrl,
    clock: Clock,
    committer: Committer,
    texts: Vec<String>,
    width: usize,
    seq: usize,
}

/// How long the steps take.
struct Took {
    open: Duration,
    commit: Duration,
    fetch: Duration,
}

fn main() {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(measure());
}

async fn measure() {
    let (lines, from) = stream::lines();
    let values = lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let texts: Vec<String> =
        values.filter_map(|value: serde_json::Value| Some(value.get("text")?.as_str()?.to_owned())).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    println!("{from}: {} documents, {:.1} MB of text", texts.len(), bytes as f64 / 1e6);

    let folder = tempfile::tempdir().expect("a folder");
    let url: StoreUrl = folder.path().display().to_string().parse().expect("a path");
    let clock = Clock::system();
    let store = Store::create(&url, &HashMap::new(), clock.clone()).await.expect("a store");
    let committer = Committer::open(&store, Table::Records, FENCE).await.expect("it opens");
    // Some are left for the commits that are measured.
    let width = texts.len() / (COMMITS + 2 * RUNS);
    let mut world = World { url, clock, committer, texts, width, seq: 0 };
    while world.seq < COMMITS * width {
        world.commit().await;
    }
    let before = world.took().await;
    let store = world.open().await;
    let (done, joining) = {
        let begun = world.clock.monotonic();
        let done = maintain::run(&store, Table::Records, &Options::default(), &Stop::new()).await;
        (done.expect("it is maintained"), world.clock.monotonic().saturating_sub(begun))
    };
    world.committer = Committer::open(&store, Table::Records, FENCE).await.expect("it opens");
    let after = world.took().await;

    println!("{:<32}{:>12}{:>12}", "", "before", "after");
    println!("{:<32}{:>12}{:>12}", "files", done.before.files, done.after.files);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    println!("{:<32}{:>12}{:>12}", "bytes", megabytes(done.before.bytes), megabytes(done.after.bytes));
    for (what, before, after) in [
        ("open the store", before.open, after.open),
        ("a commit", before.commit, after.commit),
        ("fetch 64 records, cold", before.fetch, after.fetch),
    ] {
        println!("{what:<32}{:>12}{:>12}", milliseconds(before), milliseconds(after));
    }
    println!("the maintenance took {}", milliseconds(joining));
}

impl World {
    async fn open(&self) -> Store {
        Store::open(&self.url, &HashMap::new(), self.clock.clone()).await.expect("it opens")
    }

    /// Commits the next rows as one file, of a day long past: today's partition is joined later than others.
    async fn commit(&mut self) -> Version {
        let mut builder = Builder::new();
        for (seq, text) in self.texts.iter().enumerate().skip(self.seq).take(self.width) {
            let place = i64::try_from(seq).expect("it is small");
            builder.push(Row {
                seq: Some(place),
                start: place,
                end: place + 1,
                id: Some(&xxh3_128(text.as_bytes()).to_be_bytes()),
                text: Some(text),
                ..Row::new(Outcome::Kept, "main", "bench")
            });
        }
        self.seq += self.width;
        let rows = builder.finish().expect("rows");
        let number = self.committer.last(FENCE).await.expect("it reads").unwrap_or(0) + 1;
        self.committer.commit(&[rows], vec![(FENCE.to_owned(), number)]).await.expect("it commits")
    }

    /// Each step in turn, `RUNS` times.
    async fn took(&mut self) -> Took {
        let shard: Shard = "main".parse().expect("a name");
        let (mut open, mut commit, mut fetch) = (Vec::new(), Vec::new(), Vec::new());
        let clock = self.clock.clone();
        for _ in 0..RUNS {
            let begun = clock.monotonic();
            let store = self.open().await;
            let version = store.version(Table::Records).await.expect("it reads");
            open.push(clock.monotonic().saturating_sub(begun));

            let step = (self.seq as u64 / FETCH).max(1);
            let wanted: Vec<_> = (0..FETCH).map(|at| (shard.clone(), Seq(at * step))).collect();
            let begun = clock.monotonic();
            let rows = store.fetch(version, &wanted, &["text"]).await.expect("it reads");
            fetch.push(clock.monotonic().saturating_sub(begun));
            assert_eq!(rows.num_rows() as u64, FETCH, "every record is there");

            let begun = clock.monotonic();
            self.commit().await;
            commit.push(clock.monotonic().saturating_sub(begun));
        }
        Took { open: middle(open), commit: middle(commit), fetch: middle(fetch) }
    }
}

fn middle(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took.get(took.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
