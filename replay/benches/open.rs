//! What an open costs at many records: the time, the memory of a record, and the latency of a draw.
//!
//! `cargo bench -p perennial-replay --bench open -- [RECORDS]`: kept records, by default 1,000,000. They are
//! passages of about 200 bytes of the bundled stream, over and over; ids and the order are those of as many
//! different records. The store is written first (about 40 MB for each 100,000 records), in a temporary folder.
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark stops where it cannot go on")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time, and reads its settings")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Instant;

use perennial_program::clock::Clock;
use perennial_program::config::{Bytes, Loader};
use perennial_replay::config::Config;
use perennial_replay::library::{Access, Caches, Library};
use perennial_replay::plan::Plan;
use perennial_schemas::id::{Offset, RecordId, Seq};
use perennial_schemas::seed::{Seed, below};
use perennial_schemas::table::Table;
use perennial_schemas::table::column::pack_u32;
use perennial_schemas::table::records::{Builder, Outcome, Row};
use perennial_store::commit::Committer;
use perennial_store::order::{Claim, OrderLog};
use perennial_store::{Store, StoreUrl};
use serde::Deserialize;

/// Records of one commit.
const COMMIT: u64 = 100_000;
/// Records that come after the first open, in commits of a hundredth.
const TAIL: u64 = 20_000;

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// Passages of about 200 bytes.
fn passages() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stream.jsonl.zst");
    let mut decoder = zstd::stream::read::Decoder::new(File::open(path).expect("the stream")).expect("zstd");
    decoder.window_log_max(27).expect("a window of 128 MiB");
    let lines = BufReader::new(decoder).split(b'\n').map(|line| line.expect("it decodes"));
    let texts = lines.filter_map(|line| serde_json::from_slice::<Line>(&line).ok());
    let cut = |line: Line| {
        let characters: Vec<char> = line.text.chars().collect();
        characters.chunks(200).map(|part| part.iter().collect::<String>()).collect::<Vec<_>>()
    };
    texts.flat_map(cut).collect()
}

/// Writes records up to `end`, in commits of `each`, with their place in the order.
async fn write(store: &Store, passages: &[String], from: u64, end: u64, each: u64) {
    let fence = "ingest/main";
    let mut committer = Committer::open(store, Table::Records, fence).await.expect("it opens");
    let mut order = OrderLog::open(store).await.expect("it opens");
    let shard = "main".parse().expect("a name");
    let mut next = from;
    while next < end {
        let mut builder = Builder::new();
        let until = (next + each).min(end);
        for seq in next..until {
            let text = &passages[usize::try_from(seq).expect("it fits") % passages.len()];
            let id = RecordId::from_hash(u128::from(Seed::new(3).at(&[seq])) << 64 | u128::from(seq));
            let (number, length) =
                (i64::try_from(seq).expect("it fits"), u32::try_from(text.len()).expect("short"));
            builder.push(Row {
                seq: Some(number),
                start: number,
                end: number + 1,
                id: Some(id.as_bytes()),
                text: Some(text),
                passages: Some(&pack_u32(&[length])),
                event_time: Some(number * 1_000_000),
                ..Row::new(Outcome::Kept, "main", "bench")
            });
        }
        let number = i64::try_from(until).expect("it fits");
        let transactions = vec![(fence.to_owned(), number), ("seq/main".to_owned(), number)];
        committer.commit(&[builder.finish().expect("rows")], transactions).await.expect("it commits");
        order.append(&[Claim::readings(&shard, Seq(until))]).await.expect("it commits");
        next = until;
    }
}

/// Resident bytes of this process that are its own: not those of mapped files.
fn resident() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).expect("the kernel tells");
        1024 * line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    [of("RssAnon:"), of("RssFile:")]
}

fn plan() -> Plan {
    let mut plan = None;
    let set = ["follow.visible_until=store"];
    let loader =
        set.into_iter().fold(Loader::new("replay"), |loader, setting| loader.assign("--set", setting));
    loader.load_with(|config: &mut Config, problems| plan = config.plan("", problems)).expect("settings");
    plan.expect("a plan")
}

async fn open(url: &StoreUrl, cache: &Path, what: &str, records: u64) -> Library {
    let before = resident();
    let start = Instant::now();
    let store = Store::open(url, &HashMap::new(), Clock::system()).await.expect("it opens");
    let caches = Caches { tokens: Bytes::mib(16), folder: Some(cache.to_owned()) };
    let library = Library::open(store, plan(), caches, Access::Follow).await.expect("it opens");
    let took = start.elapsed().as_secs_f64();
    let [own, mapped] = resident();
    println!(
        "| {what} | {took:.2} s | {:.1} | {:.1} |",
        own.saturating_sub(before[0]) as f64 / records as f64,
        mapped.saturating_sub(before[1]) as f64 / records as f64
    );
    library
}

fn main() {
    let records = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000_u64);
    let folder = tempfile::tempdir().expect("a folder");
    let url: StoreUrl = folder.path().join("store").display().to_string().parse().expect("a path");
    let cache = folder.path().join("cache");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let passages = passages();
        let store = Store::create(&url, &HashMap::new(), Clock::system()).await.expect("a store");
        write(&store, &passages, 0, records, COMMIT).await;
        println!("{records} records\n\n| open | time | own bytes a record | mapped bytes a record |\n|---|---|---|---|");
        drop(open(&url, &cache, "the first: the index is made", records).await);
        write(&store, &passages, records, records + TAIL, TAIL / 100).await;
        drop(open(&url, &cache, &format!("after {TAIL} more in 100 commits"), records).await);
        drop(store);
        let mut library = open(&url, &cache, "once more", records).await;
        println!("\n| | latency |\n|---|---|");
        let members = library.newest_members("main").expect("the buffer");
        let draws = 200_000_u64;
        for range in [10_000, 100_000, 1_000_000, records] {
            let offsets: Vec<Offset> = (0..draws).map(|k| Offset(below(Seed::new(5).at(&[k]), range.min(records)))).collect();
            let mut bytes = 0;
            let start = Instant::now();
            for offset in &offsets {
                bytes += library.index().get(*offset).map_or(0, |record| record.bytes);
            }
            let each = start.elapsed().as_secs_f64() / draws as f64;
            println!("| a record among the first {range} ({} bytes on average) | {:.0} ns |", bytes / draws, 1e9 * each);
        }
        let start = Instant::now();
        let found = (0..draws).filter_map(|k| members.draw(Seed::new(6), k)).filter_map(|chunk| library.index().get(chunk.offset));
        let found = found.count();
        let each = start.elapsed().as_secs_f64() / draws as f64;
        println!("| a draw from {} members, with its record ({found} found) | {:.0} ns |", members.list().len(), 1e9 * each);
    });
}
