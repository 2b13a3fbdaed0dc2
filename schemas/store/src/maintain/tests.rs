use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use arrow::array::{Array as _, RecordBatch};
use deltalake::kernel::transaction::CommitProperties;
use parquet::basic::Compression;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::Scan;
use crate::check::check;
use crate::follow::{Follower, News};
use crate::testing::delete;
use perennial_program::clock::Clock;
use perennial_schemas::id::{Seq, Shard};
use perennial_schemas::table::buffers;
use perennial_schemas::table::records::{Builder, Outcome, Reason, Row, View, day_of};

const DAY: Duration = Duration::from_secs(86_400);

/// A store whose clock stands at the time of the files' making: the age of a file is its file system's.
async fn new_store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let made = std::fs::metadata(folder.path()).unwrap().modified().unwrap();
    let now = i64::try_from(made.duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    let url = folder.path().to_str().unwrap().parse().unwrap();
    let store = Store::create(&url, &HashMap::new(), Clock::manual(now)).await.unwrap();
    (folder, store)
}

/// One daemon that commits `width` rows at a time, every fifth a dead letter.
struct Daemon {
    shard: &'static str,
    committer: Committer,
    seq: u64,
    batch: i64,
}

impl Daemon {
    async fn start(store: &Store, shard: &'static str) -> Self {
        let fence = format!("ingest/{shard}");
        let committer = Committer::open(store, Table::Records, &fence).await.unwrap();
        Self { shard, committer, seq: 0, batch: 0 }
    }

    async fn commit(&mut self, day: i32, width: u64) -> Version {
        self.batch += 1;
        let mut builder = Builder::new();
        for seq in self.seq..self.seq + width {
            let dead = seq % 5 == 4;
            let outcome = if dead { Outcome::DeadLetter } else { Outcome::Kept };
            let text = text(self.shard, seq);
            let id = id(self.shard, seq);
            let place = i64::try_from(seq).unwrap();
            builder.push(Row {
                day,
                seq: Some(place),
                commit: self.batch,
                path: Some("a.txt"),
                start: place,
                end: place + 1,
                id: (!dead).then_some(&id),
                length: (!dead).then_some(i64::try_from(text.len()).unwrap()),
                text: (!dead).then_some(text.as_str()),
                reason: dead.then_some(Reason::Nul.as_str()),
                ..Row::new(outcome, self.shard, self.shard)
            });
        }
        self.seq += width;
        let next = i64::try_from(self.seq).unwrap();
        let transactions = vec![
            (format!("ingest/{}", self.shard), self.batch),
            (format!("seq/{}", self.shard), next),
            (crate::check::position_app_id(self.shard, "a.txt", 0), next),
        ];
        self.committer.commit(&[builder.finish().unwrap()], transactions).await.unwrap()
    }
}

fn text(shard: &str, seq: u64) -> String {
    // Of many lengths, and not all alike to a compressor.
    let noise = perennial_schemas::seed::Seed::new(1).child(shard);
    let words: Vec<String> = (0..=seq % 40).map(|word| format!("{:x}", noise.at(&[seq, word]))).collect();
    format!("{shard} {seq} {}", words.join(" "))
}

fn id(shard: &str, seq: u64) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(format!("{shard}/{seq}").as_bytes()).to_be_bytes()
}

/// Everything a reader can see of `records` at a version.
async fn seen(store: &Store, version: Version) -> (Vec<RecordBatch>, Vec<(i64, String)>) {
    let scan = Scan { columns: &[], filter: None, order: &["shard", "seq"] };
    let rows = store.scan(Table::Records, version, &scan).await.unwrap();
    let rows = arrow::compute::concat_batches(&Table::Records.schema(), &rows).unwrap();
    let shards: [Shard; 2] = ["main", "other"].map(|name| name.parse().unwrap());
    let wanted: Vec<_> =
        (0..200).rev().flat_map(|seq| shards.iter().map(move |shard| (shard.clone(), Seq(seq)))).collect();
    let fetched = store.fetch(version, &wanted, &["text"]).await.unwrap();
    let view = View::new(&fetched).unwrap();
    let texts = view.iter().map(|row| (row.seq.unwrap(), row.text.unwrap().to_owned())).collect();
    (vec![rows], texts)
}

async fn assert_sound(store: &Store) {
    let report = check(store, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations, []);
}

/// The data files of a table on disk, live or not.
fn on_disk(store: &Store, table: Table) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![store.url().local_path().unwrap().join(table.name())];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("_delta_log") {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "parquet") {
                found.insert(path);
            }
        }
    }
    found
}

fn options() -> Options {
    Options { open_files: 4, ..Options::default() }
}

#[tokio::test]
async fn maintenance_joins_small_files_and_no_reader_sees_a_difference() {
    let (_folder, store) = new_store().await;
    let today = day_of(store.clock().now_us());
    let mut main = Daemon::start(&store, "main").await;
    let mut other = Daemon::start(&store, "other").await;
    // Two shards in turn, so that neighbours in time belong to different ones; two days.
    for round in 0..10_u64 {
        let day = if round < 6 { today - 1 } else { today };
        main.commit(day, 5 + round).await;
        other.commit(day, 5).await;
    }
    let before = store.version(Table::Records).await.unwrap();
    let (old, newest) = (seen(&store, Version(7)).await, seen(&store, before).await);
    assert_sound(&store).await;

    let done = run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    // Kept and dead letters of two days: four partitions of 12, 8, 12 and 8 files.
    assert_eq!((done.before.files, done.joined, done.made, done.after.files), (40, 40, 4, 4));
    assert!(done.after.bytes < done.before.bytes, "{done:?}");
    assert_eq!((done.deleted, done.stopped), (0, false), "the retention protects what was replaced");
    assert_eq!(done.checkpoint, Some(before.next()));

    let after = store.version(Table::Records).await.unwrap();
    assert_eq!(seen(&store, after).await, newest);
    assert_eq!(seen(&store, before).await, newest);
    assert_eq!(seen(&store, Version(7)).await, old);
    // Nothing cached: as another process sees it.
    let fresh = Store::open(store.url(), &HashMap::new(), store.clock().clone()).await.unwrap();
    assert_eq!(seen(&fresh, after).await, newest);
    assert_eq!(seen(&fresh, Version(7)).await, old);
    assert_sound(&fresh).await;

    let mut follower = Follower::new(&fresh, Table::Records, Some(before), None).await.unwrap();
    while let Some(news) = follower.next().await.unwrap() {
        assert!(matches!(news, News::Nothing { .. }), "{news:?}");
    }
    assert_eq!(follower.position(), after.next());
    // A daemon whose snapshot is older commits as if nothing had happened.
    main.commit(today, 4).await;
    assert_sound(&store).await;
    let idle = run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    assert_eq!((idle.joined, idle.checkpoint), (0, None));
}

#[tokio::test]
async fn joined_file_has_its_rows_in_order_and_the_layout_of_a_new_one() {
    let (folder, store) = new_store().await;
    let today = day_of(store.clock().now_us());
    let mut main = Daemon::start(&store, "main").await;
    let mut other = Daemon::start(&store, "other").await;
    for _ in 0..4 {
        other.commit(today - 1, 7).await;
        main.commit(today - 1, 9).await;
    }
    run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    let delta = store.newest(Table::Records).await.unwrap();
    for data in file::live(&delta, Table::Records).await.unwrap() {
        let batches = file::read(&store, &delta, Table::Records, &data, None, None).await.unwrap();
        let places: Vec<_> = batches
            .iter()
            .flat_map(|batch| {
                View::new(batch)
                    .unwrap()
                    .iter()
                    .map(|row| (row.shard.to_owned(), row.seq))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert!(places.is_sorted() && places.len() > 8, "{places:?}");

        let path = folder.path().join("records").join(&data.path);
        let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
        let schema = reader.metadata().file_metadata().key_value_metadata().unwrap();
        assert!(!schema.is_empty());
        let group = reader.metadata().row_group(0);
        let column =
            |name: &str| group.columns().iter().find(|column| column.column_path().string() == name).unwrap();
        assert!(column("id").bloom_filter_offset().is_some());
        assert!(matches!(column("text").compression(), Compression::ZSTD(_)));
        assert_eq!(column("signature").compression(), Compression::UNCOMPRESSED);
        assert!(column("text").statistics().is_none() && column("text").dictionary_page_offset().is_none());
        assert!(column("seq").offset_index_offset().is_some());
    }
    // The log's statistics are those of the file, so that a filter still leaves files out.
    let log = folder.path().join("records/_delta_log/00000000000000000009.json");
    let entry = std::fs::read_to_string(log).unwrap();
    assert!(entry.contains(r#"\"maxValues\""#) && entry.contains(r#"\"numRecords\":52"#), "{entry}");
    assert!(!entry.contains(r#""dataChange":true"#), "{entry}");
}

#[tokio::test]
async fn partition_that_is_written_today_is_left_until_it_has_many_small_files() {
    let (_folder, store) = new_store().await;
    let today = day_of(store.clock().now_us());
    let mut main = Daemon::start(&store, "main").await;
    for _ in 0..4 {
        main.commit(today, 2).await;
    }
    let done = run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    assert_eq!((done.joined, done.after.files), (0, done.before.files));
    // A day later it is closed.
    store.clock().advance(DAY);
    let done = run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    assert_eq!((done.made, done.after.files), (1, 2), "{done:?}");
    assert_sound(&store).await;
}

#[tokio::test]
async fn table_without_days_keeps_its_partitions_apart_whatever_their_names() {
    let (_folder, store) = new_store().await;
    let names = ["main", "a b/c%20d=é", "x:y"];
    let mut committers = Vec::new();
    for name in names {
        committers.push(Committer::open(&store, Table::Buffers, &format!("buffer/{name}")).await.unwrap());
    }
    for change in 1..=6 {
        for (name, committer) in names.iter().zip(&mut committers) {
            let mut builder = buffers::Builder::new();
            for (op, seq) in [("admit", change), ("evict", change)] {
                let row = buffers::Row {
                    buffer: name,
                    revision: change,
                    op,
                    shard: "main",
                    seq,
                    offset: seq,
                    end_offset: None,
                    id: None,
                    bytes: Some(1),
                    key: None,
                    weight: None,
                    class: None,
                    policy: "reservoir",
                    capacity: None,
                    capacity_unit: None,
                    policy_digest: "d",
                    seen: 0,
                };
                builder.push(row);
            }
            let transactions = vec![(format!("buffer/{name}"), change)];
            committer.commit(&[builder.finish().unwrap()], transactions).await.unwrap();
        }
    }
    let rows = async |version| {
        let scan = Scan { order: &["buffer", "revision", "op"], ..Scan::default() };
        let batches = store.scan(Table::Buffers, version, &scan).await.unwrap();
        arrow::compute::concat_batches(&Table::Buffers.schema(), &batches).unwrap()
    };
    let before = rows(Version(18)).await;
    let done = run(&store, Table::Buffers, &options(), &Stop::new()).await.unwrap();
    assert_eq!((done.before.files, done.joined, done.after.files), (18, 18, 3));
    assert_eq!(rows(Version(19)).await, before);
    let mut follower = Follower::new(&store, Table::Buffers, Some(Version(15)), None).await.unwrap();
    for name in names {
        let Some(News::Appended { batches, .. }) = follower.next().await.unwrap() else { panic!("no news") };
        let view = buffers::View::new(&batches[0]).unwrap();
        assert_eq!(view.iter().map(|row| (row.buffer, row.revision)).collect::<Vec<_>>(), [(name, 6); 2]);
    }
    // What came in under one change stays in the order it came.
    let delta = store.newest(Table::Buffers).await.unwrap();
    for data in file::live(&delta, Table::Buffers).await.unwrap() {
        let batches = file::read(&store, &delta, Table::Buffers, &data, None, None).await.unwrap();
        for batch in &batches {
            let view = buffers::View::new(batch).unwrap();
            let changes: Vec<_> = view.iter().map(|row| (row.revision, row.op.to_owned())).collect();
            assert!(changes.is_sorted(), "{changes:?}");
        }
    }
    let deleted = Options { retention: Retention::forced(Duration::ZERO), ..options() };
    store.clock().advance(DAY);
    assert_eq!(run(&store, Table::Buffers, &deleted, &Stop::new()).await.unwrap().deleted, 18);
    assert_eq!(rows(store.version(Table::Buffers).await.unwrap()).await, before);
}

#[tokio::test]
async fn vacuum_deletes_replaced_files_and_orphans_once_the_retention_is_over_and_nothing_sooner() {
    let (folder, store) = new_store().await;
    let today = day_of(store.clock().now_us());
    let mut main = Daemon::start(&store, "main").await;
    for _ in 0..5 {
        main.commit(today - 1, 5).await;
    }
    // What a writer killed before its commit leaves behind.
    let orphan = folder.path().join("records/outcome=kept/part-of-a-killed-writer.parquet");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "anything").unwrap();
    let small = on_disk(&store, Table::Records);
    assert_eq!(small.len(), 11);

    let done = run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    assert_eq!((done.joined, done.deleted), (10, 0));
    store.clock().advance(7 * DAY - Duration::from_secs(3_600));
    assert_eq!(run(&store, Table::Records, &options(), &Stop::new()).await.unwrap().deleted, 0);
    assert_eq!(on_disk(&store, Table::Records).len(), 13);
    let newest = store.version(Table::Records).await.unwrap();
    let rows = seen(&store, newest).await;

    store.clock().advance(Duration::from_secs(7_200));
    let mut follower = Follower::new(&store, Table::Records, Some(newest), None).await.unwrap();
    assert_eq!(run(&store, Table::Records, &options(), &Stop::new()).await.unwrap().deleted, 11);
    let left = on_disk(&store, Table::Records);
    assert!(left.len() == 2 && left.is_disjoint(&small), "{left:?}");
    let fresh = Store::open(store.url(), &HashMap::new(), store.clock().clone()).await.unwrap();
    assert_eq!(seen(&fresh, fresh.version(Table::Records).await.unwrap()).await, rows);
    assert_sound(&fresh).await;
    while let Some(news) = follower.next().await.unwrap() {
        assert!(matches!(news, News::Nothing { .. }), "{news:?}");
    }
    // A follower further behind than the retention cannot read the changes, and starts again at the newest.
    let newest = fresh.version(Table::Records).await.unwrap();
    let mut late = Follower::new(&fresh, Table::Records, Some(Version(2)), None).await.unwrap();
    assert_eq!(late.next().await.unwrap(), Some(News::Rewritten { version: newest }));
    assert_eq!(late.next().await.unwrap(), None);
}

/// As a server sees it whose store another process maintains.
#[tokio::test]
async fn places_in_files_that_another_process_replaced_are_forgotten() {
    let (_folder, store) = new_store().await;
    let yesterday = day_of(store.clock().now_us()) - 1;
    let mut main = Daemon::start(&store, "main").await;
    for _ in 0..6 {
        main.commit(yesterday, 5).await;
    }
    let server = Store::open(store.url(), &HashMap::new(), store.clock().clone()).await.unwrap();
    let held = || server.0.files.places.lock().unwrap().len();
    seen(&server, Version(6)).await;
    assert_eq!(held(), 6);
    run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    seen(&server, server.version(Table::Records).await.unwrap()).await;
    assert_eq!(held(), 1);
}

#[test]
fn retention_is_between_a_day_and_what_the_log_remembers() {
    for refused in [Duration::ZERO, DAY - Duration::from_nanos(1), 30 * DAY + Duration::from_nanos(1)] {
        assert_eq!(Retention::new(refused), Err(RetentionError(refused)));
    }
    for taken in [DAY, 7 * DAY, 30 * DAY] {
        assert_eq!(Retention::new(taken), Ok(Retention::forced(taken)));
    }
    assert_eq!(Retention::default(), Retention::forced(7 * DAY));
}

/// A daemon's six commits of yesterday, and a maintenance that has planned and not yet written.
async fn planned(store: &Store) -> (Daemon, Committer, Vec<Vec<Live>>) {
    let yesterday = day_of(store.clock().now_us()) - 1;
    let mut main = Daemon::start(store, "main").await;
    for _ in 0..6 {
        main.commit(yesterday, 5).await;
    }
    let committer = Committer::open(store, Table::Records, FENCE).await.unwrap();
    let live = live(committer.delta(), Table::Records).await.unwrap();
    let today = day_name(store.clock().now_us());
    let bins = plan(live, &options(), today.as_deref());
    assert_eq!(bins.len(), 2);
    (main, committer, bins)
}

#[tokio::test]
async fn second_of_two_maintenances_gets_a_conflict_and_doubles_nothing() {
    let (_folder, store) = new_store().await;
    let (_main, mut committer, bins) = planned(&store).await;
    let first = run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    assert_eq!(first.joined, 12);
    let mut done = Done::default();
    let second = compact(&store, &mut committer, bins, &options(), &Stop::new(), &mut done).await;
    assert!(matches!(second, Err(StoreError::Conflict { .. })), "{second:?}");
    assert_eq!(done, Done::default());
    assert_sound(&store).await;
}

#[tokio::test]
async fn compaction_gives_way_to_a_delete_that_came_first_and_brings_no_row_back() {
    let (_folder, store) = new_store().await;
    let (mut main, mut committer, bins) = planned(&store).await;
    assert_eq!(delete(&store, |row| row.outcome == "kept" && row.seq == Some(7)).await, 1);
    let mut done = Done::default();
    compact(&store, &mut committer, bins, &options(), &Stop::new(), &mut done).await.unwrap();
    assert_eq!(done.joined, 0, "its plan is stale");
    let count = async || {
        let newest = store.version(Table::Records).await.unwrap();
        let all = store.scan(Table::Records, newest, &Scan::default()).await.unwrap();
        all.iter().map(RecordBatch::num_rows).sum::<usize>()
    };
    assert_eq!(count().await, 29);
    // The next one makes a new plan.
    let done = run(&store, Table::Records, &options(), &Stop::new()).await.unwrap();
    assert_eq!((done.joined, done.after.files), (12, 2));
    assert_eq!(count().await, 29);

    // A delete elsewhere in the table is no hindrance.
    let yesterday = day_of(store.clock().now_us()) - 1;
    for _ in 0..2 {
        main.commit(yesterday, 5).await;
    }
    let mut committer = Committer::open(&store, Table::Records, FENCE).await.unwrap();
    let mut live = live(committer.delta(), Table::Records).await.unwrap();
    live.retain(|file| file.data.partition["outcome"].as_deref() == Some("dead_letter"));
    let bins = plan(live, &options(), day_name(store.clock().now_us()).as_deref());
    assert_eq!(delete(&store, |row| row.outcome == "kept" && row.seq == Some(8)).await, 1);
    let mut done = Done::default();
    compact(&store, &mut committer, bins, &options(), &Stop::new(), &mut done).await.unwrap();
    assert_eq!((done.joined, done.made), (3, 1));
    assert_eq!(count().await, 38);
}

#[tokio::test]
async fn commits_that_come_between_plan_and_rewrite_are_kept() {
    let (_folder, store) = new_store().await;
    let (mut main, mut committer, bins) = planned(&store).await;
    let yesterday = day_of(store.clock().now_us()) - 1;
    for _ in 0..3 {
        main.commit(yesterday, 5).await;
    }
    let mut done = Done::default();
    compact(&store, &mut committer, bins, &options(), &Stop::new(), &mut done).await.unwrap();
    assert_eq!((done.joined, done.made), (12, 2));
    assert_sound(&store).await;
    let newest = store.version(Table::Records).await.unwrap();
    assert_eq!(seen(&store, newest).await.1.len(), 36);
}

#[tokio::test]
async fn stop_ends_it_between_two_steps_and_the_next_run_does_the_rest() {
    let (_folder, store) = new_store().await;
    let yesterday = day_of(store.clock().now_us()) - 1;
    let mut main = Daemon::start(&store, "main").await;
    for _ in 0..3 {
        main.commit(yesterday, 5).await;
    }
    let stop = Stop::new();
    stop.trigger();
    let done = run(&store, Table::Records, &options(), &stop).await.unwrap();
    assert_eq!(done, Done { before: done.before, after: done.before, stopped: true, ..Done::default() });
    assert_eq!(store.version(Table::Records).await.unwrap(), Version(3));
    assert_eq!(run(&store, Table::Records, &options(), &Stop::new()).await.unwrap().joined, 6);
    assert_sound(&store).await;
}

#[tokio::test]
async fn checkpoint_is_written_when_due_and_the_log_forgets_what_its_property_says() {
    let (folder, store) = new_store().await;
    let today = day_of(store.clock().now_us());
    let mut main = Daemon::start(&store, "main").await;
    let mut idle = Daemon::start(&store, "other").await;
    let behind = Store::open(store.url(), &HashMap::new(), store.clock().clone()).await.unwrap();
    for _ in 0..3 {
        main.commit(today, 5).await;
    }
    let few = Options { checkpoint_after: 4, ..options() };
    let done = run(&store, Table::Records, &few, &Stop::new()).await.unwrap();
    assert_eq!((done.checkpoint, done.forgotten), (None, 0));
    main.commit(today, 5).await;
    let done = run(&store, Table::Records, &few, &Stop::new()).await.unwrap();
    assert_eq!((done.checkpoint, done.forgotten), (Some(Version(4)), 0));
    assert!(folder.path().join("records/_delta_log/00000000000000000004.checkpoint.parquet").exists());
    assert_eq!(run(&store, Table::Records, &few, &Stop::new()).await.unwrap().checkpoint, None);

    let delta = store.newest(Table::Records).await.unwrap();
    let soon = HashMap::from([("delta.logRetentionDuration".to_owned(), "interval 0 seconds".to_owned())]);
    let keep_log = CommitProperties::default().with_cleanup_expired_logs(Some(false));
    delta.set_tbl_properties().with_properties(soon).with_commit_properties(keep_log).await.unwrap();
    let done = run(&store, Table::Records, &few, &Stop::new()).await.unwrap();
    assert_eq!(done.forgotten, 4, "versions 0 to 3 are in the checkpoint");
    let fresh = Store::open(store.url(), &HashMap::new(), store.clock().clone()).await.unwrap();
    assert_sound(&fresh).await;
    assert_eq!(fresh.transaction(Table::Records, "seq/main").await.unwrap(), Some(20));
    let gone = fresh.scan(Table::Records, Version(2), &Scan::default()).await.unwrap_err();
    assert!(matches!(gone, StoreError::Version { newest: Version(5), .. }), "{gone}");
    // What a process that was idle stands at is forgotten too: it finds the newest, and commits.
    assert_eq!(behind.version(Table::Records).await.unwrap(), Version(5));
    idle.commit(today, 5).await;
    // An older follower must start again, and learns so.
    let mut follower = Follower::new(&fresh, Table::Records, Some(Version(1)), None).await.unwrap();
    assert_eq!(follower.next().await.unwrap(), Some(News::Rewritten { version: Version(6) }));
    main.commit(today, 5).await;
    assert_sound(&store).await;
}

fn small_file(partition: u8, number: usize, size: u64, rows: u64, written: i64) -> Live {
    let path = format!("p{partition}/{number}");
    let day = ["2024-05-01", "2024-05-02", "2024-05-03"][usize::from(partition % 3)];
    let partition = [("day".to_owned(), Some(day.to_owned())), ("p".to_owned(), Some(partition.to_string()))];
    let remove = Remove { path: path.clone(), ..Remove::default() };
    Live { data: file::DataFile { path, size, partition: partition.into() }, rows, written, remove }
}

proptest! {
    #[test]
    fn bins_join_small_neighbours_of_one_partition_up_to_the_target_and_nothing_else(
        files in prop::collection::vec((0_u8..6, 0_u64..700, 0_u64..MAX_ROWS, 0_i64..50), 0..60),
        turn in 0_usize..60,
    ) {
        let mut live: Vec<Live> = files
            .iter()
            .enumerate()
            .map(|(number, (partition, size, rows, written))| small_file(*partition, number, *size, *rows, *written))
            .collect();
        let options = Options { target_bytes: 1_000, open_files: 5, ..Options::default() };
        let paths = |bins: &[Vec<Live>]| -> Vec<Vec<String>> {
            bins.iter().map(|bin| bin.iter().map(|file| file.data.path.clone()).collect()).collect()
        };
        let bins = plan(live.clone(), &options, Some("2024-05-02"));
        let is_small = |file: &Live| file.data.size < 500 && file.rows < MAX_ROWS / 2;
        let mut seen = BTreeSet::new();
        for bin in &bins {
            prop_assert!(bin.len() > 1);
            prop_assert!(bin.iter().map(|file| file.data.size).sum::<u64>() <= 1_000);
            prop_assert!(bin.iter().map(|file| file.rows).sum::<u64>() <= MAX_ROWS);
            prop_assert!(bin.iter().all(|file| is_small(file) && file.data.partition == bin[0].data.partition));
            prop_assert!(bin.iter().all(|file| seen.insert(file.data.path.clone())));
            prop_assert!(bin.is_sorted_by_key(|file| (file.written, file.data.path.clone())));
            let open = bin[0].data.partition["day"].as_deref() >= Some("2024-05-02");
            let alike = live.iter().filter(|file| is_small(file) && file.data.partition == bin[0].data.partition);
            prop_assert!(!open || alike.count() > 5);
        }
        // Of a closed partition no two neighbours are left that would fit together.
        let closed = live.iter().filter(|file| file.data.partition["day"].as_deref() == Some("2024-05-01"));
        let mut left: Vec<&Live> = closed.filter(|file| is_small(file) && !seen.contains(&file.data.path)).collect();
        left.sort_by_key(|file| (file.data.partition.clone(), file.written, file.data.path.clone()));
        for pair in left.windows(2) {
            let between = |file: &Live| {
                is_small(file)
                    && file.data.partition == pair[0].data.partition
                    && (file.written, &file.data.path) > (pair[0].written, &pair[0].data.path)
                    && (file.written, &file.data.path) < (pair[1].written, &pair[1].data.path)
            };
            prop_assert!(
                pair[0].data.partition != pair[1].data.partition
                    || live.iter().any(between)
                    || pair[0].data.size + pair[1].data.size > 1_000
                    || pair[0].rows + pair[1].rows > MAX_ROWS
            );
        }
        // The order in which the log lists its files decides nothing.
        if !live.is_empty() {
            let turn = turn % live.len();
            live.rotate_left(turn);
        }
        prop_assert_eq!(paths(&plan(live, &options, Some("2024-05-02"))), paths(&bins));
    }
}

/// The rows of several files that overlap, out of order and with ties, read through small windows.
#[tokio::test]
async fn rows_of_files_that_overlap_come_in_the_order_of_a_plain_sort() {
    let (_folder, store) = new_store().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    let seed = perennial_schemas::seed::Seed::new(3).child("rows");
    let mut twin = Vec::new();
    for file in 0..5_u64 {
        let mut builder = Builder::new();
        for row in 0..200_u64 {
            let seq = i64::try_from(perennial_schemas::seed::below(seed.at(&[file, row]), 400)).unwrap();
            let shard = if seed.at(&[file, row, 1]).is_multiple_of(3) { "main" } else { "other" };
            let expired = row % 50 == 49;
            let mark = i64::try_from(file * 1_000 + row).unwrap();
            builder.push(Row {
                seq: (!expired).then_some(seq),
                first_seq: expired.then_some(seq),
                length: Some(1 << 20),
                commit: mark,
                ..Row::new(Outcome::Kept, shard, "files")
            });
            twin.push((shard.to_owned(), (!expired).then_some(seq), expired.then_some(seq), mark));
        }
        let number = i64::try_from(file).unwrap() + 1;
        committer.commit(&[builder.finish().unwrap()], vec![("ingest/main".into(), number)]).await.unwrap();
    }
    let delta = store.newest(Table::Records).await.unwrap();
    let mut files = live(&delta, Table::Records).await.unwrap();
    files.sort_by(|a, b| (a.written, &a.data.path).cmp(&(b.written, &b.data.path)));
    let listed = files.iter().map(|file| &file.data);
    let rows = order::Rows::read(&store, &delta, Table::Records, listed.clone()).await.unwrap();
    // Files that were written in one millisecond are ordered by name: the twin takes them as they are.
    let mut rank = HashMap::new();
    for (index, data) in listed.enumerate() {
        for batch in file::read(&store, &delta, Table::Records, data, Some(&["commit"]), None).await.unwrap()
        {
            let marks = batch.column_by_name("commit").unwrap();
            let marks = marks.as_any().downcast_ref::<arrow::array::Int64Array>().unwrap();
            rank.insert(marks.value(0) / 1_000, index);
        }
    }
    twin.sort_by_key(|(shard, seq, first, mark)| (shard.clone(), *seq, *first, rank[&(mark / 1_000)], *mark));
    let mut found = Vec::new();
    let mut windows = 0;
    for window in rows.windows() {
        windows += 1;
        assert!(window.len() <= 16, "a row says it has 1 MiB");
        let batch = rows.gather(&store, &delta, window).await.unwrap();
        let view = View::new(&batch).unwrap();
        found.extend(view.iter().map(|row| (row.shard.to_owned(), row.seq, row.first_seq, row.commit)));
    }
    assert!(windows >= 1_000 / 16);
    assert_eq!(found, twin);
}
