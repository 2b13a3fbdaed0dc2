//! The store in a bucket: an S3 server in a process of its own, several writers, and a network that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use perennial_program::error::{Kind, ProgramError as _};
use perennial_program::stop::Stop;
use perennial_schemas::id::{Seq, Shard, Version};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::Table;
use perennial_schemas::table::records::{Builder, Outcome, Reason, Row, View};
use perennial_store::check::{check, position_app_id};
use perennial_store::commit::Committer;
use perennial_store::follow::{Follower, News};
use perennial_store::maintain::{self, Options, Retention};
use perennial_store::{Scan, Store, StoreError};
use perennial_tests::faulty::{Faults, Faulty};
use perennial_tests::full;
use perennial_tests::s3::Server;

/// Rows in each commit of a daemon.
const WIDTH: u64 = 7;

/// Every seventh reading is a dead letter.
fn is_kept(seq: u64) -> bool {
    seq % 7 != 3
}

/// A daemon of this name at its `number`-th commit, from 1.
async fn commit(daemon: &mut Committer, shard: &str, number: u64) -> Result<Version, StoreError> {
    let mut builder = Builder::new();
    let as_i64 = |number| i64::try_from(number).unwrap();
    for seq in (number - 1) * WIDTH..number * WIDTH {
        let kept = is_kept(seq);
        let text = format!("{shard} {seq}");
        let id = [Seed::new(0).hash(text.as_bytes()).to_be_bytes(); 2].concat();
        builder.push(Row {
            seq: Some(as_i64(seq)),
            commit: as_i64(number),
            path: Some("file"),
            start: as_i64(seq),
            end: as_i64(seq + 1),
            id: kept.then_some(id.as_slice()),
            length: kept.then_some(as_i64(text.len() as u64)),
            text: kept.then_some(text.as_str()),
            reason: (!kept).then_some(Reason::Nul.as_str()),
            ..Row::new(if kept { Outcome::Kept } else { Outcome::DeadLetter }, shard, shard)
        });
    }
    let next = as_i64(number * WIDTH);
    let transactions = vec![
        (format!("ingest/{shard}"), as_i64(number)),
        (format!("seq/{shard}"), next),
        (position_app_id(shard, "file", 0), next),
    ];
    daemon.commit(&[builder.finish().unwrap()], transactions).await
}

/// Makes all the commits of a daemon, and gives their versions.
async fn daemon(store: Store, shard: &'static str, commits: u64) -> Vec<Version> {
    let mut daemon = Committer::open(&store, Table::Records, &format!("ingest/{shard}")).await.unwrap();
    let mut versions = Vec::new();
    for number in 1..=commits {
        versions.push(commit(&mut daemon, shard, number).await.unwrap());
    }
    versions
}

/// Shard and seq of these rows, in their order.
fn places(batches: &[RecordBatch]) -> Vec<(String, i64)> {
    let mut places = Vec::new();
    for batch in batches {
        let [shards, seqs] = ["shard", "seq"].map(|name| batch.column_by_name(name).unwrap());
        let (shards, seqs) = (shards.as_string::<i32>(), seqs.as_primitive::<Int64Type>());
        places.extend(shards.iter().flatten().map(str::to_owned).zip(seqs.iter().flatten()));
    }
    places
}

/// Follows until every daemon's last row has come, and gives what each version brought.
async fn follower(store: Store, rows: usize) -> BTreeMap<Version, BTreeSet<(String, i64)>> {
    let mut follower =
        Follower::new(&store, Table::Records, None, Some(&["shard", "seq", "outcome", "day"])).await.unwrap();
    let mut seen = BTreeMap::new();
    let (mut count, mut looks) = (0, 0);
    while count < rows {
        match follower.next().await.unwrap() {
            None => {
                looks += 1;
                assert!(looks < 15_000, "{count} of {rows} rows have come in five minutes");
                store.clock().sleep(Duration::from_millis(20)).await;
            }
            Some(News::Nothing { .. }) => {}
            Some(News::Rewritten { version }) => panic!("version {version} is no rewrite"),
            Some(News::Appended { version, batches }) => {
                let places = places(&batches);
                count += places.len();
                seen.insert(version, places.into_iter().collect());
            }
        }
    }
    seen
}

/// Compacts again and again while others write, and says how many files it joined.
async fn maintainer(store: Store, stop: Stop) -> usize {
    let options = Options { open_files: 6, checkpoint_after: 10, ..Options::default() };
    let mut joined = 0;
    while !stop.is_triggered() {
        joined += maintain::run(&store, Table::Records, &options, &stop).await.unwrap().joined;
        store.clock().sleep(Duration::from_millis(100)).await;
    }
    joined
}

/// Two daemons, a follower and a maintainer at once; then the store must hold every row once.
async fn walk(store: &Store, commits: u64) {
    let shards = ["main", "other"];
    let rows = usize::try_from(2 * commits * WIDTH).unwrap();
    let stop = Stop::new();
    let following = tokio::spawn(follower(store.clone(), rows));
    let maintaining = tokio::spawn(maintainer(store.clone(), stop.clone()));
    let writing = shards.map(|shard| tokio::spawn(daemon(store.clone(), shard, commits)));
    let mut versions = Vec::new();
    for writer in writing {
        let own = writer.await.unwrap();
        assert!(own.is_sorted_by(|a, b| a < b), "{own:?}");
        versions.push(own);
    }
    stop.trigger();
    assert!(maintaining.await.unwrap() > 0, "nothing was compacted while others wrote");

    // The version that a commit says it is, is the one that brought its rows.
    let followed = following.await.unwrap();
    assert_eq!(followed.len(), usize::try_from(2 * commits).unwrap());
    for (shard, versions) in shards.iter().zip(versions) {
        for (first, version) in (0..).step_by(usize::try_from(WIDTH).unwrap()).zip(versions) {
            let end = first + i64::try_from(WIDTH).unwrap();
            let expected: BTreeSet<_> = (first..end).map(|seq| ((*shard).to_owned(), seq)).collect();
            assert_eq!(followed.get(&version), Some(&expected), "version {version}");
        }
    }
}

/// What the store must hold after `commits` of each daemon, as a reader sees it that has nothing cached.
async fn holds(store: &Store, commits: u64) {
    let newest = store.version(Table::Records).await.unwrap();
    let scan = Scan { columns: &["shard", "seq"], order: &["shard", "seq"], ..Scan::default() };
    let batches = store.scan(Table::Records, newest, &scan).await.unwrap();
    let found = places(&batches);
    let seqs = 0..commits * WIDTH;
    let expected: Vec<_> = ["main", "other"]
        .into_iter()
        .flat_map(|shard| seqs.clone().map(move |seq| (shard.to_owned(), i64::try_from(seq).unwrap())))
        .collect();
    assert!(found == expected, "{} rows instead of {}", found.len(), expected.len());

    let main: Shard = "main".parse().unwrap();
    let wanted: Vec<_> = seqs.clone().rev().map(|seq| (main.clone(), Seq(seq))).collect();
    let fetched = store.fetch(newest, &wanted, &["text"]).await.unwrap();
    let view = View::new(&fetched).unwrap();
    let texts: Vec<_> = view.iter().map(|row| row.text.unwrap().to_owned()).collect();
    let expected: Vec<_> = seqs.rev().filter(|seq| is_kept(*seq)).map(|seq| format!("main {seq}")).collect();
    assert_eq!(texts, expected);
    let report = check(store, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_in_a_bucket_keeps_every_commit_of_two_writers_once() {
    let server = Server::start();
    // Two that make it at once make one store.
    let made = tokio::join!(Server::store(server.address()), Server::store(server.address()));
    let (store, twin) = (made.0.unwrap(), made.1.unwrap());
    assert_eq!(store.secret(), twin.secret());
    let commits = if full() { 250 } else { 16 };
    walk(&store, commits).await;
    let fresh = Server::store(server.address()).await.unwrap();
    holds(&fresh, commits).await;

    // A second daemon of a name is refused, and leaves nothing.
    let mut first = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    let mut second = Committer::open(&twin, Table::Records, "ingest/main").await.unwrap();
    let before = commit(&mut first, "main", commits + 1).await.unwrap();
    let refused = commit(&mut second, "main", commits + 1).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict, "{refused}");
    assert_eq!(store.version(Table::Records).await.unwrap(), before);

    // The last maintenance leaves two files, and what they replaced is gone from the bucket.
    let mut third = Committer::open(&store, Table::Records, "ingest/other").await.unwrap();
    commit(&mut third, "other", commits + 1).await.unwrap();
    let none = Retention::forced(Duration::ZERO);
    let options = Options { open_files: 1, retention: none, ..Options::default() };
    let done = maintain::run(&store, Table::Records, &options, &Stop::new()).await.unwrap();
    assert_eq!(done.after.files, 2, "{done:?}");
    assert!(done.deleted >= 4 * usize::try_from(commits).unwrap() && done.checkpoint.is_some(), "{done:?}");
    let fresh = Server::store(server.address()).await.unwrap();
    holds(&fresh, commits + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_through_a_network_that_refuses_cuts_and_loses_answers_are_each_kept_once() {
    let server = Server::start();
    let proxy = Faulty::before(server.address(), Seed::new(11)).await;
    proxy.set(Faults { refused: 0.2, lost: 0.3, cut: 0.1, ..Faults::default() });
    let store = Server::store(proxy.address()).await.unwrap();
    let commits = if full() { 200 } else { 15 };
    walk(&store, commits).await;
    let counts = proxy.counts();
    eprintln!("{counts:?}");
    assert!(counts.lost >= commits / 4 && counts.cut >= commits && counts.refused >= commits, "{counts:?}");
    // As it is, and as it looks through the network.
    holds(&Server::store(server.address()).await.unwrap(), commits).await;
    holds(&Server::store(proxy.address()).await.unwrap(), commits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_whose_store_goes_away_is_unavailable_and_its_fence_says_afterwards_whether_it_is_in() {
    let server = Server::start();
    let proxy = Faulty::before(server.address(), Seed::new(12)).await;
    let store = Server::store(proxy.address()).await.unwrap();
    let mut daemon = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    commit(&mut daemon, "main", 1).await.unwrap();

    // It goes away before anything is written, or after the commit is made and before it is answered.
    let before = Faults { refused: 1.0, ..Faults::default() };
    let after = Faults { lost: 1.0, out_after_lost: true, ..Faults::default() };
    let mut number = 2;
    for (faults, is_in) in [(before, false), (after, true)] {
        proxy.set(faults);
        let error = commit(&mut daemon, "main", number).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (Kind::Unavailable, true), "{error:?}");
        proxy.set(Faults::default());
        daemon = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
        let last = daemon.last("ingest/main").await.unwrap().unwrap();
        assert_eq!(last, i64::try_from(number).unwrap() - i64::from(!is_in));
        number = u64::try_from(last).unwrap() + 1;
    }
    commit(&mut daemon, "main", number).await.unwrap();
    let report = check(&Server::store(server.address()).await.unwrap(), &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations, []);
    assert_eq!(report.sums.values().map(|sums| sums.read).sum::<u64>(), 3 * WIDTH);
}
