use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::RecordBatch;
use perennial_program::config::Bytes;
use perennial_schemas::id::{Seq, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::column::unpack_u32;
use perennial_schemas::table::records::{Builder, MatchKind, Outcome, Reason, Row, View};
use perennial_schemas::text::normal_form;
use perennial_store::check::check;
use perennial_store::commit::Committer;
use perennial_store::{Scan, StoreError, StoreUrl};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::block::{self, Block, Content, Place, Reading, Tally};
use crate::config::{Commit, Queue, Read, Source};
use crate::dedup::near::Action;
use crate::dedup::{DedupState, Found};
use crate::source::{Position, Positions, SourceError};
use crate::write::Writer;

/// 2024-05-01T00:00:00Z.
const TODAY_US: i64 = 1_714_521_600_000_000;

async fn store_at(path: &Path) -> Store {
    let url: StoreUrl = path.to_str().unwrap().parse().unwrap();
    Store::create(&url, &HashMap::new(), Clock::manual(TODAY_US)).await.unwrap()
}

async fn new_store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = store_at(folder.path()).await;
    (folder, store)
}

fn config(sources: &[(&str, &Path)]) -> Config {
    let source = |(name, path): &(&str, &Path)| Source {
        name: (*name).into(),
        path: path.to_str().unwrap().into(),
        ..Source::default()
    };
    Config { source: sources.iter().map(source).collect(), ..Config::default() }
}

/// Small blocks, and a commit for each.
fn in_pieces(config: &Config, lines: u32) -> Config {
    Config {
        read: Read { block_lines: lines, ..config.read },
        commit: Commit { bytes: Bytes::new(0), ..config.commit },
        queue: Queue { blocks: 2, bytes: Bytes::new(100) },
        ..config.clone()
    }
}

async fn run_once(config: &Config, store: &Store) -> Result<Summary, IngestError> {
    run(config, store, store.clock(), &Stop::new(), true).await
}

/// All rows in the order of their seq, as one batch, after a check of the store.
async fn rows(store: &Store) -> RecordBatch {
    let report = check(store, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations, []);
    let version = store.version(Table::Records).await.unwrap();
    let scan = Scan { order: &["shard", "seq"], ..Scan::default() };
    let batches = store.scan(Table::Records, version, &scan).await.unwrap();
    arrow::compute::concat_batches(&Table::Records.schema(), &batches).unwrap()
}

/// The rows without the column that says how they were cut into commits.
async fn lasting(store: &Store) -> RecordBatch {
    let mut rows = rows(store).await;
    let commit = rows.schema().index_of("commit").unwrap();
    rows.remove_column(commit);
    rows
}

fn line(text: &str) -> String {
    serde_json::json!({ "text": text }).to_string() + "\n"
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data").join(file)
}

/// The damaged lines of the bundled stream by number, as its README lists them.
fn damaged() -> BTreeMap<usize, Reason> {
    let readme = fs::read_to_string(data("README.md")).unwrap();
    let listed = readme.split("## Damaged lines").nth(1).unwrap().split("## Re-deliveries").next().unwrap();
    let entry = |row: &str| {
        let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`'])).collect();
        Some((cells.first()?.parse().ok()?, cells.get(2)?.parse().ok()?))
    };
    listed.lines().filter_map(entry).collect()
}

#[tokio::test]
async fn bundled_stream_has_the_damage_and_the_repeats_that_its_readme_lists() {
    let (_folder, store) = new_store().await;
    let summary = run_once(&config(&[("stream", &data("stream.jsonl.zst"))]), &store).await.unwrap();
    let packed = fs::File::open(data("stream.jsonl.zst")).unwrap();
    let stream = zstd::decode_all(packed).unwrap();
    let lines: Vec<&[u8]> = stream.split_inclusive(|byte| *byte == b'\n').collect();
    let rows = rows(&store).await;
    let mut dead = BTreeMap::new();
    let (mut end, mut repeats, mut folded, mut texts) = (0, 0, 0, BTreeSet::new());
    let (mut near, mut revisions) = (0, 0);
    for (index, (row, line)) in View::new(&rows).unwrap().iter().zip(&lines).enumerate() {
        assert_eq!((row.start, row.end), (end, end + line.len() as i64));
        end = row.end;
        if let Some(reason) = row.reason {
            dead.insert(index + 1, reason.parse::<Reason>().unwrap());
            assert_eq!(row.raw, Some(line.strip_suffix(b"\n").unwrap()));
            assert!(row.detail.unwrap().ends_with(&format!(", at byte {} of `stream.jsonl.zst`", row.start)));
            continue;
        }
        let sound: serde_json::Value = serde_json::from_slice(line).unwrap();
        let text = sound["text"].as_str().unwrap();
        let known = texts.contains(&*normal_form(text));
        assert_eq!(row.match_kind == Some(MatchKind::Exact.as_str()), known);
        assert_eq!(row.external_id, sound["id"].as_str());
        assert_eq!(row.url, sound["url"].as_str());
        let meta: serde_json::Value = serde_json::from_str(row.meta.unwrap()).unwrap();
        assert_eq!(row.origin, sound["source"].as_str());
        assert_eq!(meta, sound["meta"]);
        let time = chrono::DateTime::parse_from_rfc3339(sound["timestamp"].as_str().unwrap()).unwrap();
        assert_eq!(row.event_time, Some(time.timestamp_micros()));
        repeats += u32::from(known);
        folded += u32::from(row.match_kind == Some(MatchKind::Folded.as_str()));
        near += u32::from(row.match_kind == Some(MatchKind::Near.as_str()));
        assert!(row.match_kind != Some(MatchKind::Near.as_str()) || row.jaccard >= Some(0.8));
        revisions += u32::from(row.revises.is_some());
        if row.outcome == Outcome::Kept.as_str() {
            texts.insert(normal_form(text).into_owned());
            assert!(row.unseen.is_some_and(|score| (0.0..=1.0).contains(&score)));
            assert!(row.distance.is_some_and(|score| (0.0..=2.0).contains(&score)));
            assert_eq!(row.embedding.map(<[u8]>::len), Some(256));
            assert_eq!(row.text, Some(text));
            assert_eq!(unpack_u32(row.passages.unwrap()).last(), Some(text.len() as u32));
        }
    }
    assert_eq!(dead, damaged());
    assert_eq!((dead.len(), repeats, folded, near, revisions), (28, 30, 0, 18, 14));
    let total = summary.written.counts.total();
    let duplicates = u64::from(repeats + folded + near);
    assert_eq!(total, Tally { read: 1013, kept: 985 - duplicates, duplicates, dead_letters: 28 });
    assert_eq!(summary.written.counts.read_bytes, stream.len() as u64);
    assert_eq!(summary.written.next, Seq(1013));
}

#[tokio::test]
async fn second_run_reads_only_what_is_new() {
    let (folder, store) = new_store().await;
    let path = folder.path().join("in.jsonl");
    fs::write(&path, line("one") + &line("two")).unwrap();
    let config = config(&[("s", &path)]);
    assert_eq!(run_once(&config, &store).await.unwrap().written.counts.total().kept, 2);
    let again = run_once(&config, &store).await.unwrap().written;
    assert_eq!((again.commits, again.version, again.next), (0, None, Seq(2)));
    fs::write(&path, line("one") + &line("two") + &line("One") + "oops").unwrap();
    let more = run_once(&config, &store).await.unwrap().written;
    assert_eq!(more.counts.total(), Tally { read: 2, kept: 0, duplicates: 1, dead_letters: 1 });
    assert_eq!(more.counts.reasons, [(Reason::InvalidJson, 1)].into());
    let rows = rows(&store).await;
    let duplicate = View::new(&rows).unwrap().get(2).unwrap();
    assert_eq!(
        (duplicate.duplicate_of_seq, duplicate.match_kind, duplicate.text),
        (Some(0), Some("folded"), None)
    );
    assert_eq!((duplicate.commit, duplicate.ingest_time, duplicate.day), (2, TODAY_US, 19_844));
}

/// The store as it was right after its `version`, uncommitted files and all: what a kill leaves.
async fn killed_after(store: &Store, version: u64) -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let from = store.url().local_path().unwrap();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        fs::create_dir_all(folder.path().join(&below)).unwrap();
        for entry in fs::read_dir(from.join(&below)).unwrap() {
            let entry = entry.unwrap();
            let name = below.join(entry.file_name());
            let number: Option<u64> = entry.path().file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            let later =
                name.starts_with("records/_delta_log") && number.is_some_and(|number| number > version);
            if entry.file_type().unwrap().is_dir() {
                open.push(name);
            } else if !later {
                fs::copy(entry.path(), folder.path().join(name)).unwrap();
            }
        }
    }
    let store = store_at(folder.path()).await;
    (folder, store)
}

fn any_files() -> impl Strategy<Value = Vec<String>> {
    let sound = "[aAb]{1,3}( [aAb])?".prop_map(|text| line(&text));
    let one = prop_oneof![6 => sound, 1 => Just("\n".to_owned()), 1 => "[{a\"]{0,5}\n".prop_map(|line| line)];
    let text = proptest::collection::vec(one, 0..7).prop_map(|lines| lines.concat());
    proptest::collection::vec(text, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn rows_are_the_same_for_any_blocks_and_commits_and_after_a_kill_at_any_commit(
        files in any_files(),
        lines in 3..6_u32,
        kill in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let input = tempfile::tempdir().unwrap();
            for (index, text) in files.iter().enumerate() {
                fs::write(input.path().join(format!("{index}.jsonl")), text).unwrap();
            }
            let config = config(&[("s", input.path())]);
            let (_whole, store) = new_store().await;
            run_once(&config, &store).await.unwrap();
            let version = store.version(Table::Records).await.unwrap();
            assert!(version <= Version(1), "one commit for all");
            let expected = lasting(&store).await;
            // Hashes of one store are not those of another: the pieces go on from the making of the first.
            let (_pieces, pieces) = killed_after(&store, 0).await;
            let done = run_once(&in_pieces(&config, lines), &pieces).await.unwrap().written;
            assert_eq!(lasting(&pieces).await, expected);
            let readings = expected.num_rows() as u64;
            assert_eq!(done.commits, readings.div_ceil(u64::from(lines)));
            let commits = kill.index(usize::try_from(done.commits).unwrap() + 1) as u64;
            let (_killed, killed) = killed_after(&pieces, commits).await;
            let rest = run_once(&config, &killed).await.unwrap().written;
            assert_eq!(lasting(&killed).await, expected);
            assert_eq!(rest.next, Seq(readings));
            assert_eq!(rest.positions, done.positions);
        });
    }
}

#[tokio::test]
async fn source_that_fails_leaves_what_was_read_before_it() {
    let (folder, store) = new_store().await;
    let path = folder.path().join("a.jsonl");
    fs::write(&path, line("one")).unwrap();
    let config = config(&[("a", &path), ("b", &folder.path().join("none"))]);
    let error = run_once(&config, &store).await.unwrap_err();
    assert!(matches!(error, IngestError::Source(SourceError::Missing { .. })), "{error}");
    assert_eq!(rows(&store).await.num_rows(), 1);
}

#[tokio::test]
async fn stop_commits_what_was_read_and_the_next_run_reads_the_rest() {
    let (folder, store) = new_store().await;
    let path = folder.path().join("a.jsonl");
    fs::write(&path, (0..500).map(|n| line(&format!("text {n}"))).collect::<String>() + "{\"text\":\"cut")
        .unwrap();
    let mut config = in_pieces(&config(&[("a", &path)]), 50);
    config.commit.bytes = Bytes::mib(1);
    config.source[0].follow = true;
    let stop = Stop::new();
    let asked = async {
        tokio::task::yield_now().await;
        stop.trigger();
    };
    let (stopped, ()) = tokio::join!(run(&config, &store, store.clock(), &stop, false), asked);
    let stopped = stopped.unwrap().written;
    assert_eq!(rows(&store).await.num_rows() as u64, stopped.next.0);
    let rest = run_once(&config, &store).await.unwrap().written;
    assert_eq!(stopped.counts.total().read + rest.counts.total().read, 501);
    assert_eq!(
        rest.counts.reasons,
        [(Reason::InvalidJson, 1)].into(),
        "with once, the cut line is all there is"
    );
    assert_eq!(rows(&store).await.num_rows(), 501);
}

/// The one block that the stage `dedup` of a daemon that stands so would send.
async fn decided(
    store: &Store,
    config: &Config,
    positions: Positions,
    next: Seq,
    mut known: DedupState,
) -> Block {
    let (to, mut from, _) = channel("normalise", config.queue, store.clock());
    let outlet = Outlet::new(to, Stop::new(), store.clock().clone(), Handle::current());
    let (sources, limits) = (config.source.clone(), config.read);
    let reader = move || source::read(&sources, limits, positions, next, true, outlet).unwrap();
    tokio::task::spawn_blocking(reader).await.unwrap();
    let block = Normaliser::new(store.secret()).run(from.next().await.unwrap());
    known.run(block, |_| Ok(Found::new())).unwrap()
}

/// Has `writer` commit `blocks`.
async fn commit(store: &Store, writer: Writer, blocks: Vec<Block>) -> Result<Written, IngestError> {
    let roomy = Queue { bytes: Bytes::gib(1), ..Queue::default() };
    let (sender, receiver, _) = channel("write", roomy, store.clock());
    blocks.into_iter().for_each(|block| sender.send(block).unwrap());
    drop(sender);
    writer.run(receiver).await
}

#[tokio::test]
async fn second_daemon_of_a_shard_is_refused_and_writes_nothing() {
    let (folder, store) = new_store().await;
    let path = folder.path().join("a.jsonl");
    fs::write(&path, line("one")).unwrap();
    let config = config(&[("a", &path)]);
    let shard = config.shard().unwrap();
    let late = write::open(&store, &shard, &config).await.unwrap();
    run_once(&config, &store).await.unwrap();
    let block = decided(&store, &config, late.positions, late.next, late.dedup).await;
    let error = commit(&store, late.writer, vec![block]).await.unwrap_err();
    assert!(matches!(error, IngestError::Store(StoreError::Conflict { .. })), "{error}");
    assert_eq!(rows(&store).await.num_rows(), 1);
}

#[tokio::test]
async fn held_out_texts_and_near_duplicates_of_them_become_dead_letters_and_nothing_else_does() {
    let (folder, store) = new_store().await;
    let words = |from: u32| (from..from + 60).map(|word| format!("word{word}")).collect::<Vec<_>>().join(" ");
    let held = folder.path().join("held.jsonl");
    fs::write(&held, line(&words(0)) + &line("short held text")).unwrap();
    let path = folder.path().join("in.jsonl");
    let near = words(0).replace("word30", "changed");
    let all = [words(100), words(0), near, "Short  HELD text".into(), words(40), words(0)];
    fs::write(&path, all.iter().map(|text| line(text)).collect::<String>()).unwrap();
    let mut config = config(&[("s", &path)]);
    config.holdout.files = vec![held.clone()];
    let counts = run_once(&config, &store).await.unwrap().written.counts;
    assert_eq!(counts.reasons, [(Reason::HeldOut, 4)].into());
    assert_eq!(counts.total(), Tally { read: 6, kept: 2, duplicates: 0, dead_letters: 4 });
    let rows = rows(&store).await;
    let details: Vec<_> = View::new(&rows).unwrap().iter().filter_map(|row| row.detail).collect();
    assert!(details[0].starts_with("the text of line 1 of"), "{details:?}");
    assert!(details[1].contains("(Jaccard 0."), "{details:?}");
    fs::write(&held, "{\"body\":1}\n").unwrap();
    let error = run_once(&config, &store).await.unwrap_err();
    assert!(matches!(error, IngestError::HeldOut(_)), "{error}");
}

#[tokio::test]
async fn shard_that_would_read_the_files_of_another_is_refused_and_the_store_stays_sound() {
    let (folder, store) = new_store().await;
    let path = folder.path().join("a.jsonl");
    fs::write(&path, line("one")).unwrap();
    let first = config(&[("a", &path)]);
    run_once(&first, &store).await.unwrap();
    let second = Config { shard: config::ShardName("second".into()), ..first.clone() };
    let error = run_once(&second, &store).await.unwrap_err();
    assert!(matches!(error, IngestError::Taken { .. }), "{error}");
    fs::write(&path, line("one") + &line("two")).unwrap();
    run_once(&first, &store).await.unwrap();
    assert_eq!(rows(&store).await.num_rows(), 2);
    let named = Config { source: config(&[("b", &path)]).source, ..second };
    run_once(&named, &store).await.unwrap();
    assert_eq!(rows(&store).await.num_rows(), 4);
}

#[tokio::test]
async fn shard_that_began_before_the_other_read_the_file_is_refused_too() {
    let (folder, store) = new_store().await;
    let path = folder.path().join("a.jsonl");
    fs::write(&path, line("one")).unwrap();
    let first = config(&[("a", &path)]);
    let late = write::open(&store, &"second".parse().unwrap(), &first).await.unwrap();
    run_once(&first, &store).await.unwrap();
    let block = decided(&store, &first, late.positions, late.next, late.dedup).await;
    let error = commit(&store, late.writer, vec![block]).await.unwrap_err();
    assert!(matches!(error, IngestError::Taken { .. }), "{error}");
    assert_eq!(rows(&store).await.num_rows(), 1);
}

#[tokio::test]
async fn commit_is_due_by_diverted_texts_and_by_the_fields_of_duplicates_too() {
    let (folder, store) = new_store().await;
    let path = folder.path().join("in.jsonl");
    let words = (0..60).map(|word| format!("word{word}")).collect::<Vec<_>>().join(" ");
    let linked = serde_json::json!({ "text": "t", "url": "u".repeat(300) }).to_string() + "\n";
    let near = words.replace("word30", "changed");
    fs::write(&path, [line(&words), line(&near), linked.clone(), linked].concat()).unwrap();
    let mut config = config(&[("s", &path)]);
    config.dedup.near.action = Action::Divert;
    config.read.block_lines = 1;
    config.commit.bytes = Bytes::new(250);
    let written = run_once(&config, &store).await.unwrap().written;
    assert_eq!(written.counts.total(), Tally { read: 4, kept: 2, duplicates: 2, dead_letters: 0 });
    assert_eq!(written.commits, 4);
    rows(&store).await;
}

#[tokio::test]
async fn commit_is_due_by_its_rows_however_small_they_are() {
    let (_folder, store) = new_store().await;
    let config = Config::default();
    let place = Arc::new(Place {
        source: "a".into(),
        path: None,
        generation: 0,
        fingerprint: None,
        format: config::Format::Jsonl,
        record: config::Record::Line,
        fields: Default::default(),
    });
    let dead = |first: u64, count: u64| {
        let mut block = Block::default();
        let content = Content::Bytes(0..0);
        let one = |start| Reading {
            place: 0,
            start,
            end: start + 1,
            content: content.clone(),
            length: 0,
            fault: None,
        };
        block.readings.list = (first..first + count).map(one).collect();
        block.readings.places = vec![Arc::clone(&place)];
        block.readings.first = Seq(first);
        let detail = block.rows.push_text("");
        block.rows.list = vec![block::Row::Dead { reason: Reason::Nul, detail }; count as usize];
        block.tally = Tally { read: count, dead_letters: count, ..Tally::default() };
        block.positions.set(("a".into(), None), Position { end: first + count, ..Position::default() });
        block
    };
    let opened = write::open(&store, &config.shard().unwrap(), &config).await.unwrap();
    let most = write::MOST_ROWS as u64;
    let written = commit(&store, opened.writer, vec![dead(0, most), dead(most, 1)]).await.unwrap();
    assert_eq!((written.commits, written.next), (2, Seq(most + 1)));
}

#[tokio::test]
async fn rows_are_committed_when_their_time_has_come() {
    let (folder, store) = new_store().await;
    let path = folder.path().join("a.jsonl");
    fs::write(&path, line("one")).unwrap();
    let config = config(&[("a", &path)]);
    let opened = write::open(&store, &config.shard().unwrap(), &config).await.unwrap();
    let (sender, receiver, meter) = channel("write", config.queue, store.clock());
    sender.send(decided(&store, &config, opened.positions, Seq(0), opened.dedup).await).unwrap();
    let time = async {
        while meter.read().queued_bytes > 0 {
            tokio::task::yield_now().await;
        }
        store.clock().advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert_eq!(store.version(Table::Records).await.unwrap(), Version(0));
        store.clock().advance(Duration::from_secs(1));
        while store.version(Table::Records).await.unwrap() == Version(0) {
            tokio::task::yield_now().await;
        }
        drop(sender);
    };
    let (written, ()) = tokio::join!(opened.writer.run(receiver), time);
    assert_eq!(written.unwrap().commits, 1);
}

#[tokio::test]
async fn store_whose_positions_contradict_its_rows_is_refused() {
    for (transactions, wrong) in [
        (vec![("ingest/main", 1), ("seq/main", 2)], "seq/main"),
        (vec![("ingest/main", 1), ("seq/main", 1)], "src/a/2d06800538d394c2.0"),
        (
            vec![("ingest/main", 1), ("seq/main", 1), ("src/a/2d06800538d394c2.0", 8)],
            "src/a/2d06800538d394c2.0",
        ),
    ] {
        let (_folder, store) = new_store().await;
        let mut builder = Builder::new();
        let raw = Row {
            seq: Some(0),
            commit: 1,
            end: 9,
            reason: Some("nul"),
            ..Row::new(Outcome::DeadLetter, "main", "a")
        };
        builder.push(raw);
        let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
        let transactions = transactions.into_iter().map(|(name, number)| (name.to_owned(), number)).collect();
        committer.commit(&[builder.finish().unwrap()], transactions).await.unwrap();
        let error = run_once(&Config::default(), &store).await.unwrap_err();
        assert!(
            matches!(&error, IngestError::Positions { transaction, .. } if transaction == wrong),
            "{error}"
        );
    }
}

#[tokio::test]
async fn positions_are_rebuilt_from_the_rows_with_generations_marks_and_breaks() {
    let (folder, store) = new_store().await;
    let root = folder.path().join("in");
    fs::create_dir(&root).unwrap();
    let config = config(&[("s", &root)]);
    fs::write(root.join("a.jsonl"), line("one")).unwrap();
    fs::write(root.join("b.jsonl.zst"), &zstd::encode_all(line("two").as_bytes(), 1).unwrap()[..9]).unwrap();
    run_once(&config, &store).await.unwrap();
    fs::write(root.join("a.jsonl"), line("other")).unwrap();
    let done = run_once(&config, &store).await.unwrap().written;
    let opened = write::open(&store, &config.shard().unwrap(), &config).await.unwrap();
    assert_eq!(opened.positions, done.positions);
    assert_eq!(opened.next, done.next);
    let of = |path: &str| *opened.positions.get(&("s".into(), Some(path.into()))).unwrap();
    let head = source::mark(line("other").as_bytes());
    assert_eq!(
        of("a.jsonl"),
        Position { generation: 1, head, end: line("other").len() as u64, broken: false }
    );
    let broken = of("b.jsonl.zst");
    assert!(broken.broken && broken.end == 1 && broken.head.is_none());
}

#[tokio::test]
async fn configuration_that_cannot_be_is_refused_before_anything_is_read() {
    let (_folder, store) = new_store().await;
    let config = Config { shard: config::ShardName("No".into()), ..Config::default() };
    let error = run_once(&config, &store).await.unwrap_err();
    assert!(matches!(&error, IngestError::Config { key, .. } if key == "shard"), "{error}");
}

#[tokio::test]
async fn stage_that_panics_is_named_with_its_message() {
    let mut stages = Stages::new(Queue::default(), &Clock::manual(0));
    stages.start("quiet", || Ok(())).unwrap();
    stages.start("loud", || panic!("no {}", "more")).unwrap();
    let error = stages.end(Ok(())).await.unwrap_err();
    assert_eq!(error.to_string(), "stage `loud` failed: no more");
}
