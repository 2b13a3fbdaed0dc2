use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::maintain::{self, Options, Retention};
use crate::{StoreUrl, check};
use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use perennial_schemas::id::Version;
use perennial_schemas::table::records::{self, Outcome};

async fn new_store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let url: StoreUrl = folder.path().to_str().unwrap().parse().unwrap();
    let store = Store::create(&url, &HashMap::new(), Clock::manual(0)).await.unwrap();
    (folder, store)
}

fn shard(name: &str) -> Shard {
    name.parse().unwrap()
}

fn claim(name: &str, next: u64) -> Claim {
    Claim::readings(&shard(name), Seq(next))
}

/// One commit of the readings `first..next` of a shard, which get no place in the order.
async fn commit(store: &Store, name: &str, first: u64, next: u64) {
    let fence = format!("ingest/{name}");
    let mut committer = Committer::open(store, Table::Records, &fence).await.unwrap();
    let number = committer.last(&fence).await.unwrap().unwrap_or(0) + 1;
    let mut builder = records::Builder::new();
    for seq in first..next {
        let place = i64_of(seq);
        builder.push(records::Row {
            seq: Some(place),
            commit: number,
            path: Some(name),
            start: place,
            end: place + 1,
            reason: Some("nul"),
            ..records::Row::new(Outcome::DeadLetter, name, "files")
        });
    }
    let position = (check::position_app_id("files", name, 0), i64_of(next));
    let transactions = vec![(fence, number), (format!("seq/{name}"), i64_of(next)), position];
    committer.commit(&[builder.finish().unwrap()], transactions).await.unwrap();
}

/// Every reading in the order, one by one.
fn walk(order: &Order) -> Vec<(Shard, u64)> {
    let readings = (0..order.end().0).map(|offset| order.reading(Offset(offset)).unwrap());
    readings.map(|(shard, seq)| (shard.clone(), seq.0)).collect()
}

fn row(number: i64, offset: i64, source: &'static str, first: i64, last: i64) -> Row<'static> {
    Row { number, offset, kind: "reading", source, first, last, time: 0 }
}

proptest! {
    #[test]
    fn offsets_are_those_of_counting_one_by_one(
        commits in proptest::collection::vec((0_usize..3, 1_i64..6, any::<bool>()), 0..30),
        from in 0_u64..100,
        length in 0_u64..100,
    ) {
        let (mut order, mut all, mut next) = (Order::default(), Vec::new(), [0_i64; 3]);
        let mut evaluated = 0;
        for (number, (which, count, evaluates)) in commits.into_iter().enumerate() {
            let number = i64_of(number as u64);
            let end = i64_of(order.end().0);
            if evaluates {
                let row = Row { kind: "evaluation", ..row(number, end, "job/live", evaluated, evaluated + 4) };
                order.push(&row).unwrap();
                evaluated += 5;
                continue;
            }
            let name = ["a", "b", "c"][which];
            order.push(&row(number, end, name, next[which], next[which] + count - 1)).unwrap();
            all.extend((next[which]..next[which] + count).map(|seq| (shard(name), seq.unsigned_abs())));
            next[which] += count;
        }
        prop_assert_eq!(&walk(&order), &all);
        for (offset, (shard, seq)) in (0..).zip(&all) {
            prop_assert_eq!(order.offset(shard, Seq(*seq)), Some(Offset(offset)));
        }
        prop_assert_eq!(order.reading(order.end()), None);
        prop_assert_eq!(order.offset(&shard("a"), Seq(next[0].unsigned_abs())), None);
        let (from, to) = (from.min(order.end().0), (from + length).min(order.end().0));
        let runs = order.runs(Offset(from), Offset(to));
        let part: Vec<_> = runs.flat_map(|run| run.seqs.map(move |seq| (run.shard.clone(), seq))).collect();
        prop_assert_eq!(&part[..], &all[from as usize..to as usize]);
    }
}

#[test]
fn row_that_cannot_follow_is_refused() {
    let mut order = Order::default();
    order.push(&row(0, 0, "a", 0, 9)).unwrap();
    for (why, bad) in [
        ("number", row(2, 10, "a", 10, 12)),
        ("repeat", row(0, 10, "a", 10, 12)),
        ("offset", row(1, 9, "a", 10, 12)),
        ("gap in the shard", row(1, 10, "a", 11, 12)),
        ("twice", row(1, 10, "a", 9, 12)),
        ("shard that begins late", row(1, 10, "b", 1, 12)),
        ("empty", row(1, 10, "a", 10, 9)),
        ("negative", row(1, 10, "a", -10, 12)),
        ("name", row(1, 10, "A/b", 0, 12)),
        ("kind", Row { kind: "signal", ..row(1, 10, "a", 10, 12) }),
    ] {
        assert!(matches!(order.clone().push(&bad), Err(StoreError::Order { .. })), "{why}");
    }
    order.push(&row(1, 10, "a", 10, 12)).unwrap();
    assert_eq!((order.end(), order.rows()), (Offset(13), 2));
}

#[tokio::test]
async fn order_is_one_for_all_that_append_and_read_it_at_once() {
    let (_folder, store) = new_store().await;
    let names = ["a", "b", "c"];
    let writers = names.map(|name| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut log = OrderLog::open(&store).await.unwrap();
            let mut seen = Vec::new();
            for turn in 0..8_u64 {
                let (first, next) = (turn * (turn + 1) / 2, (turn + 1) * (turn + 2) / 2);
                commit(&store, name, first, next).await;
                // Every second time it leaves its place to the others, as if it had been killed.
                if turn % 2 == 1 {
                    log.append(&[claim(name, next)]).await.unwrap();
                } else if turn == 4 {
                    log.append(&claims(&store).await.unwrap()).await.unwrap();
                }
                log.follow().await.unwrap();
                seen.push(walk(log.order()));
            }
            seen
        })
    });
    let mut seen = Vec::new();
    for writer in writers {
        seen.extend(writer.await.unwrap());
    }
    let mut log = OrderLog::open(&store).await.unwrap();
    log.append(&claims(&store).await.unwrap()).await.unwrap();
    let all = walk(log.order());
    assert_eq!(all.len(), 3 * 36);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    for part in seen {
        assert_eq!(part, all[..part.len()], "a reading has changed its offset");
    }
    let report = check::check(&store, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations, []);
}

#[tokio::test]
async fn order_outlives_compaction_vacuum_and_the_clean_up_of_the_log() {
    let (folder, store) = new_store().await;
    let mut early = OrderLog::open(&store).await.unwrap();
    let mut writer = OrderLog::open(&store).await.unwrap();
    for turn in 1..=20 {
        for name in ["b", "a"] {
            writer.append(&[claim(name, 3 * turn)]).await.unwrap();
        }
    }
    let before = Arc::clone(writer.order());
    let retention = Retention::forced(std::time::Duration::ZERO);
    let options = Options { open_files: 1, retention, ..Options::default() };
    let run = async || {
        // Long after all files were written, whose times are the machine's.
        store.clock().advance(std::time::Duration::from_secs(1 << 33));
        maintain::run(&store, Table::Order, &options, &Stop::new()).await.unwrap()
    };
    let (done, again) = (run().await, run().await);
    assert!(done.joined >= 40 && done.deleted + again.deleted >= 40, "{done:?}, {again:?}");
    // What a clean-up does to entries that a checkpoint covers.
    let log = folder.path().join("order/_delta_log");
    for version in 0..40 {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    assert_eq!(*OrderLog::open(&store).await.unwrap().order(), before);
    early.follow().await.unwrap();
    assert_eq!(*early.order(), before);
    writer.append(&[claim("c", 5)]).await.unwrap();
    early.follow().await.unwrap();
    assert_eq!(early.order().end(), Offset(125));
    assert_eq!(early.order().reading(Offset(124)), Some((&shard("c"), Seq(4))));
}

#[tokio::test]
async fn readings_without_a_place_are_found_and_check_finds_a_place_without_readings() {
    let (_folder, store) = new_store().await;
    assert_eq!(claims(&store).await.unwrap(), []);
    commit(&store, "b", 0, 4).await;
    commit(&store, "a", 0, 2).await;
    commit(&store, "b", 4, 7).await;
    assert_eq!(claims(&store).await.unwrap(), [claim("a", 2), claim("b", 7)]);
    assert_eq!(store.version(Table::Order).await.unwrap(), Version(0), "to look is not to write");
    let violations = async || check::check(&store, &BTreeSet::new()).await.unwrap().violations;
    assert_eq!(violations().await, [], "what lacks a place gets it later");
    let mut log = OrderLog::open(&store).await.unwrap();
    log.append(&[claim("a", 3)]).await.unwrap();
    let found = violations().await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].detail.contains("`seq/a` stands at 2, the order goes on at 3"), "{found:?}");
}

#[tokio::test]
async fn check_finds_an_order_that_was_tampered_with() {
    let (_folder, store) = new_store().await;
    commit(&store, "a", 0, 4).await;
    let mut committer = Committer::open(&store, Table::Order, FENCE).await.unwrap();
    for (number, bad) in [(1, row(0, 0, "a", 0, 1)), (2, row(1, 3, "a", 2, 3))] {
        let mut builder = Builder::new();
        builder.push(bad);
        committer.commit(&[builder.finish().unwrap()], vec![(FENCE.into(), number)]).await.unwrap();
    }
    let report = check::check(&store, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations.len(), 1, "{:?}", report.violations);
    assert!(report.violations[0].detail.contains("its offset is 3, not 2"), "{:?}", report.violations);
    assert!(matches!(OrderLog::open(&store).await, Err(StoreError::Order { number: 1, .. })));
}
