use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use tempfile::TempDir;

use super::commit::Committer;
use super::follow::{Follower, News};
use super::lock::ShardLock;
use super::*;
use crate::id::{Seq, Shard};
use crate::table::records::{Builder, Outcome, Row, View};

async fn new_store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let url: StoreUrl = folder.path().to_str().unwrap().parse().unwrap();
    let store = Store::create(&url, &HashMap::new(), Clock::manual(0)).await.unwrap();
    (folder, store)
}

/// Rows `from..to` of shard main: every third is a duplicate, every seventh a dead letter.
fn rows(from: u64, to: u64, batch: i64) -> RecordBatch {
    let mut builder = Builder::new();
    for seq in from..to {
        let outcome = match seq {
            seq if seq % 7 == 6 => Outcome::DeadLetter,
            seq if seq % 3 == 2 => Outcome::Duplicate,
            _ => Outcome::Kept,
        };
        let text = format!("text {seq}");
        let id = u128::from(seq).to_be_bytes();
        let place = seq as i64;
        builder.push(Row {
            seq: Some(place),
            batch,
            start: place,
            end: place + 1,
            id: Some(&id),
            text: (outcome == Outcome::Kept).then_some(text.as_str()),
            ..Row::new(outcome, "main", "files")
        });
    }
    builder.finish().unwrap()
}

fn seqs(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| {
        batch.column_by_name("seq").unwrap().as_primitive::<Int64Type>().values().to_vec()
    };
    batches.iter().flat_map(column).collect()
}

fn transactions(batch: i64, seq: i64) -> Vec<(String, i64)> {
    vec![("ingest/main".into(), batch), ("seq/main".into(), seq)]
}

#[tokio::test]
async fn committed_rows_are_scanned_fetched_and_followed_as_they_were() {
    let (_folder, store) = new_store().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    let mut follower = Follower::new(&store, Table::Records, None, None).await.unwrap();
    for (batch, (from, to)) in [(0, 10), (10, 25), (25, 60)].into_iter().enumerate() {
        let batch = batch as i64 + 1;
        let version =
            committer.commit(&[rows(from, to, batch)], transactions(batch, to as i64)).await.unwrap();
        assert_eq!(version, Version(batch as u64));
    }

    let scan = Scan { columns: &["seq", "outcome", "day"], filter: Some("seq < 30".into()), order: &["seq"] };
    let all = store.scan(Table::Records, Version(3), &scan).await.unwrap();
    assert_eq!(seqs(&all), (0..30).collect::<Vec<_>>());
    let older = store.scan(Table::Records, Version(1), &scan).await.unwrap();
    assert_eq!(seqs(&older), (0..10).collect::<Vec<_>>());

    let main: Shard = "main".parse().unwrap();
    // Out of order, one twice, one a duplicate's (not kept), one that does not exist.
    let wanted: Vec<_> = [31, 3, 0, 31, 2, 99].map(|seq| (main.clone(), Seq(seq))).into();
    let fetched = store.fetch(Version(3), &wanted, &["text"]).await.unwrap();
    let view = View::new(&fetched).unwrap();
    let texts: Vec<_> = view.iter().map(|row| (row.seq.unwrap(), row.text.unwrap())).collect();
    assert_eq!(texts, [(31, "text 31"), (3, "text 3"), (0, "text 0"), (31, "text 31")]);
    let older = store.fetch(Version(1), &wanted, &["text"]).await.unwrap();
    assert_eq!(seqs(&[older]), [3, 0], "a version does not see what came later");

    let mut followed = Vec::new();
    while let Some(news) = follower.next().await.unwrap() {
        match news {
            News::Nothing { version } => assert_eq!(version, Version(0)),
            News::Appended { batches, .. } => {
                let mut part = seqs(&batches);
                part.sort_unstable();
                followed.extend(part);
            }
            News::Rewritten { version } => panic!("{version} is no rewrite"),
        }
    }
    assert_eq!(followed, (0..60).collect::<Vec<_>>());
    assert_eq!(follower.position(), Version(4));
    assert_eq!(store.transaction(Table::Records, "seq/main").await.unwrap(), Some(60));
    assert_eq!(store.transaction(Table::Records, "seq/other").await.unwrap(), None);
}

#[tokio::test]
async fn second_writer_of_a_fence_gets_a_conflict_and_writes_nothing() {
    let (_folder, store) = new_store().await;
    let mut first = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    let mut second = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    let mut other = Committer::open(&store, Table::Records, "ingest/other").await.unwrap();
    first.commit(&[rows(0, 5, 1)], transactions(1, 5)).await.unwrap();
    let error = second.commit(&[rows(0, 5, 1)], transactions(1, 5)).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { theirs: 1, ours: -1, .. }), "{error}");
    assert_eq!(error.kind(), Kind::Conflict);
    // Another fence is no conflict, however stale its snapshot.
    let version = other.commit(&[rows(0, 3, 1)], vec![("ingest/other".into(), 1)]).await.unwrap();
    assert_eq!(version, Version(2));
    first.commit(&[rows(5, 6, 2)], transactions(2, 6)).await.unwrap();
    let all = store.scan(Table::Records, Version(3), &Scan::default()).await.unwrap();
    assert_eq!(seqs(&all).len(), 9);
}

#[tokio::test]
async fn commit_must_raise_its_fence() {
    let (_folder, store) = new_store().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    committer.commit(&[], transactions(4, 0)).await.unwrap();
    for stale in [transactions(4, 0), transactions(3, 0), vec![("seq/main".into(), 9)]] {
        assert!(matches!(committer.commit(&[], stale).await, Err(StoreError::Misuse(_))));
    }
}

#[tokio::test]
async fn store_that_is_missing_foreign_or_newer_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let url: StoreUrl = folder.path().join("none").to_str().unwrap().parse().unwrap();
    let missing = Store::open(&url, &HashMap::new(), Clock::manual(0)).await.unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert_eq!(missing.kind(), Kind::NotFound);

    let (folder, store) = new_store().await;
    let log = folder.path().join("draws/_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replace("\"perennial.format\":\"1\"", "\"perennial.format\":\"2\"")).unwrap();
    let newer = Store::open(store.url(), &HashMap::new(), Clock::manual(0)).await.unwrap_err();
    assert!(matches!(newer, StoreError::Newer { table: Table::Draws, .. }), "{newer}");
    std::fs::write(&log, text.replace("perennial.format", "somebody.else")).unwrap();
    let foreign = Store::open(store.url(), &HashMap::new(), Clock::manual(0)).await.unwrap_err();
    assert!(matches!(foreign, StoreError::Foreign { table: Table::Draws, .. }), "{foreign}");
}

#[tokio::test]
async fn made_twice_a_store_keeps_its_secret_and_its_rows() {
    let (_folder, store) = new_store().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    committer.commit(&[rows(0, 5, 1)], transactions(1, 5)).await.unwrap();
    let again = Store::create(store.url(), &HashMap::new(), Clock::manual(0)).await.unwrap();
    assert_eq!(again.secret(), store.secret());
    assert_ne!(again.secret(), 0);
    assert_eq!(again.version(Table::Records).await.unwrap(), Version(1));
}

#[tokio::test]
async fn version_that_does_not_exist_is_refused_and_a_bad_filter_is_the_callers_fault() {
    let (_folder, store) = new_store().await;
    let error = store.scan(Table::Records, Version(7), &Scan::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Version { newest: Version(0), .. }), "{error}");
    let scan = Scan { filter: Some("colour = 1".into()), ..Scan::default() };
    assert_eq!(store.scan(Table::Records, Version(0), &scan).await.unwrap_err().kind(), Kind::Input);
}

#[tokio::test]
async fn compaction_is_no_news_and_a_delete_is_a_rewrite() {
    let (_folder, store) = new_store().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    for batch in 1..=3 {
        let from = (batch as u64 - 1) * 10;
        committer.commit(&[rows(from, from + 10, batch)], transactions(batch, batch * 10)).await.unwrap();
    }
    let delta = store.newest(Table::Records).await.unwrap();
    let (delta, metrics) = delta.optimize().await.unwrap();
    assert!(metrics.num_files_removed > 0);
    let (_, metrics) = delta.delete().with_predicate("seq = 4").await.unwrap();
    assert_eq!(metrics.num_deleted_rows, Some(1));
    let mut follower = Follower::new(&store, Table::Records, Some(Version(3)), None).await.unwrap();
    assert_eq!(follower.next().await.unwrap(), Some(News::Nothing { version: Version(4) }));
    assert_eq!(follower.next().await.unwrap(), Some(News::Rewritten { version: Version(5) }));
    assert_eq!(follower.next().await.unwrap(), None);
    let main: Shard = "main".parse().unwrap();
    let wanted: Vec<_> = [21, 4, 3].map(|seq| (main.clone(), Seq(seq))).into();
    let left = store.fetch(Version(5), &wanted, &["text"]).await.unwrap();
    assert_eq!(seqs(&[left]), [21, 3]);
}

#[tokio::test]
async fn shard_lock_names_its_holder_and_ends_with_it() {
    let (_folder, store) = new_store().await;
    let main: Shard = "main".parse().unwrap();
    let lock = ShardLock::take(&store, &main, "perennial-ingest, process 7").unwrap();
    let held = ShardLock::take(&store, &main, "another").unwrap_err();
    assert!(held.to_string().contains("perennial-ingest, process 7"), "{held}");
    ShardLock::take(&store, &"other".parse().unwrap(), "x").unwrap();
    drop(lock);
    ShardLock::take(&store, &main, "next").unwrap();
    store.clock().advance(Duration::ZERO);
}
