use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use tempfile::TempDir;

use super::*;
use crate::commit::Committer;
use crate::follow::{Follower, News};
use crate::lock::ShardLock;
use crate::testing::{delete, optimize};
use perennial_program::error::{Kind, ProgramError as _};
use perennial_schemas::id::{Seq, Shard};
use perennial_schemas::table::records::{Builder, Outcome, Row, View};

async fn new_store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let url: StoreUrl = folder.path().to_str().unwrap().parse().unwrap();
    let store = Store::create(&url, &HashMap::new(), Clock::manual(0)).await.unwrap();
    (folder, store)
}

fn rows(from: u64, to: u64, batch: i64) -> RecordBatch {
    rows_of("main", from, to, batch)
}

/// Rows `from..to` of a shard: every third is a duplicate, every seventh a dead letter.
fn rows_of(shard: &str, from: u64, to: u64, batch: i64) -> RecordBatch {
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
            commit: batch,
            start: place,
            end: place + 1,
            id: Some(&id),
            text: (outcome == Outcome::Kept).then_some(text.as_str()),
            ..Row::new(outcome, shard, "files")
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
    // However often it is asked: what it does not know of stays in its way.
    let again = second.commit(&[rows(0, 5, 2)], transactions(2, 5)).await.unwrap_err();
    assert_eq!(again.kind(), Kind::Conflict);
    // Another fence is no conflict, however stale its snapshot.
    let version = other.commit(&[rows(0, 3, 1)], vec![("ingest/other".into(), 1)]).await.unwrap();
    assert_eq!(version, Version(2));
    first.commit(&[rows(5, 6, 2)], transactions(2, 6)).await.unwrap();
    let all = store.scan(Table::Records, Version(3), &Scan::default()).await.unwrap();
    assert_eq!(seqs(&all).len(), 9);
}

#[tokio::test]
async fn writer_of_a_position_that_another_fence_moved_meanwhile_gets_a_conflict_and_writes_nothing() {
    let (_folder, store) = new_store().await;
    let mut main = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    let mut other = Committer::open(&store, Table::Records, "ingest/other").await.unwrap();
    let of = |fence: &str, end| vec![(fence.to_owned(), 1), ("src/news/1.0".to_owned(), end)];
    main.commit(&[rows(0, 5, 1)], of("ingest/main", 50)).await.unwrap();
    for _ in 0..2 {
        let rows = rows_of("other", 0, 5, 1);
        let error = other.commit(&[rows], of("ingest/other", 50)).await.unwrap_err();
        assert!(matches!(&error, StoreError::Conflict { fence, .. } if fence == "src/news/1.0"), "{error}");
    }
    let all = store.scan(Table::Records, Version(1), &Scan::default()).await.unwrap();
    assert_eq!(seqs(&all).len(), 5);
    assert_eq!(store.version(Table::Records).await.unwrap(), Version(1));
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
async fn store_that_is_missing_foreign_newer_or_older_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let url: StoreUrl = folder.path().join("none").to_str().unwrap().parse().unwrap();
    let missing = Store::open(&url, &HashMap::new(), Clock::manual(0)).await.unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert_eq!(missing.kind(), Kind::NotFound);

    let (folder, store) = new_store().await;
    let log = folder.path().join("views/_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replace("\"perennial.format\":\"4\"", "\"perennial.format\":\"5\"")).unwrap();
    let newer = Store::open(store.url(), &HashMap::new(), Clock::manual(0)).await.unwrap_err();
    assert!(matches!(newer, StoreError::Newer { table: Table::Views, .. }), "{newer}");
    std::fs::write(&log, text.replace("\"perennial.format\":\"4\"", "\"perennial.format\":\"1\"")).unwrap();
    let older = Store::open(store.url(), &HashMap::new(), Clock::manual(0)).await.unwrap_err();
    assert!(matches!(older, StoreError::Older { table: Table::Views, found: 1, .. }), "{older}");
    assert!(older.hint().unwrap().contains("into a new store"), "{older}");
    std::fs::write(&log, text.replace("perennial.format", "somebody.else")).unwrap();
    let foreign = Store::open(store.url(), &HashMap::new(), Clock::manual(0)).await.unwrap_err();
    assert!(matches!(foreign, StoreError::Foreign { table: Table::Views, .. }), "{foreign}");
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
async fn scan_opens_no_file_that_a_partition_or_a_statistic_of_the_log_rules_out() {
    let (folder, store) = new_store().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    let mut paths = Vec::new();
    for (commit, from) in [(1, 0), (2, 100)] {
        committer.commit(&[rows(from, from + 20, commit)], transactions(commit, 20)).await.unwrap();
        let live = file::live(committer.delta(), Table::Records).await.unwrap();
        paths.push(live.into_iter().map(|file| file.path).collect::<Vec<_>>());
    }
    // Every file of the second commit, and the dead letters of the first, cannot be read.
    let is_first = |path: &&String| paths[0].contains(path) && !path.contains("dead_letter");
    for path in paths[1].iter().filter(|path| !is_first(path)) {
        let place = folder.path().join("records").join(path);
        let size = std::fs::metadata(&place).unwrap().len() as usize;
        std::fs::write(place, vec![0; size]).unwrap();
    }
    let version = committer.version();
    let found = async |filter: &str| {
        let scan = Scan { columns: &["seq"], filter: Some(filter.to_owned()), order: &["seq"] };
        store.scan(Table::Records, version, &scan).await.map(|batches| seqs(&batches))
    };
    assert_eq!(found("outcome = 'kept' and seq < 4").await.unwrap(), [0, 1, 3]);
    assert_eq!(found("outcome in ('kept', 'duplicate') and seq between 1 and 3").await.unwrap(), [1, 2, 3]);
    assert_eq!(found("outcome = 'kept' and shard = 'other'").await.unwrap(), [0_i64; 0]);
    assert_eq!(found("seq > 1000").await.unwrap(), [0_i64; 0]);
    assert_eq!(found("outcome = 'kept' and seq >= 100").await.unwrap_err().kind(), Kind::Corrupt);
    // The first dead letter has seq 6.
    assert_eq!(found("seq < 6").await.unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(found("seq <= 6").await.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn compaction_is_no_news_and_a_delete_is_a_rewrite() {
    let (_folder, store) = new_store().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    for batch in 1..=3 {
        let from = (batch as u64 - 1) * 10;
        committer.commit(&[rows(from, from + 10, batch)], transactions(batch, batch * 10)).await.unwrap();
    }
    optimize(&store).await;
    assert_eq!(delete(&store, |row| row.seq == Some(4)).await, 1);
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
}

/// Commits, followers and fetches may run in tasks of their own.
#[tokio::test]
async fn futures_of_a_store_can_be_spawned() {
    let (_folder, store) = new_store().await;
    let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
    tokio::spawn({
        let store = store.clone();
        async move {
            committer.commit(&[rows(0, 5, 1)], transactions(1, 5)).await.unwrap();
            drop(Committer::open(&store, Table::Records, "ingest/other").await.unwrap());
        }
    })
    .await
    .unwrap();
    tokio::spawn({
        let store = store.clone();
        async move {
            let main: Shard = "main".parse().unwrap();
            store.fetch(Version(1), &[(main, Seq(0))], &["text"]).await.unwrap();
            let mut follower = Follower::new(&store, Table::Records, None, None).await.unwrap();
            follower.next().await.unwrap();
            store.scan(Table::Records, Version(1), &Scan::default()).await.unwrap();
        }
    })
    .await
    .unwrap();
    let checked = tokio::spawn(async move { check::check(&store, &std::collections::BTreeSet::new()).await });
    assert!(checked.await.unwrap().is_ok());
}

/// What a shard's writer commits as its n-th batch, from 1: its rows begin where the last one's end.
fn nth(shard: &str, n: i64) -> (RecordBatch, Vec<(String, i64)>) {
    let ends = |n: i64| n * (n + 1) / 2;
    let batch = rows_of(shard, ends(n - 1) as u64, ends(n) as u64, n);
    (batch, vec![(format!("ingest/{shard}"), n), (format!("seq/{shard}"), ends(n))])
}

/// Asserts that each of the first `batches` batches of a shard is in the store, and each once.
async fn assert_once(store: &Store, shard: &str, batches: i64) {
    let end = batches * (batches + 1) / 2;
    assert_eq!(store.transaction(Table::Records, &format!("seq/{shard}")).await.unwrap(), Some(end));
    let version = store.version(Table::Records).await.unwrap();
    let filter = Some(format!("shard = '{shard}'"));
    let scan = Scan { columns: &["seq"], filter, order: &["seq"] };
    let all = store.scan(Table::Records, version, &scan).await.unwrap();
    assert_eq!(seqs(&all), (0..end).collect::<Vec<_>>(), "shard {shard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_different_fences_lose_and_double_nothing_and_a_follower_sees_each_row_once() {
    const BATCHES: i64 = 12;
    let (_folder, store) = new_store().await;
    let shards = ["a", "b", "c"];
    let writers = shards.map(|shard| {
        // As of another process: with caches of its own.
        let (url, clock) = (store.url().clone(), Clock::system());
        tokio::spawn(async move {
            let store = Store::open(&url, &HashMap::new(), clock).await.unwrap();
            let mut committer =
                Committer::open(&store, Table::Records, &format!("ingest/{shard}")).await.unwrap();
            for n in 1..=BATCHES {
                let (rows, transactions) = nth(shard, n);
                committer.commit(&[rows], transactions).await.unwrap();
            }
        })
    });
    // It asks all the time, so that it also asks in the instant in which a version comes to be.
    let mut follower = Follower::new(&store, Table::Records, None, None).await.unwrap();
    let mut followed: HashMap<String, Vec<i64>> = HashMap::new();
    while follower.position() <= Version(BATCHES as u64 * 3) {
        match follower.next().await.unwrap() {
            None | Some(News::Nothing { .. }) => tokio::task::yield_now().await,
            Some(News::Rewritten { version }) => panic!("{version} is no rewrite"),
            Some(News::Appended { batches, .. }) => {
                let rows: Vec<(String, i64)> = batches
                    .iter()
                    .flat_map(|batch| View::new(batch).unwrap().iter())
                    .map(|row| (row.shard.to_owned(), row.seq.unwrap()))
                    .collect();
                rows.into_iter().for_each(|(shard, seq)| followed.entry(shard).or_default().push(seq));
            }
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for shard in shards {
        assert_once(&store, shard, BATCHES).await;
        let mut seen = followed.remove(shard).unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..BATCHES * (BATCHES + 1) / 2).collect::<Vec<_>>());
    }
}

mod lost_answers {
    //! Commits to a store in memory that does what it was asked and says that it did not, or the
    //! other way round.

    use std::collections::{BTreeMap, VecDeque};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, LazyLock, Mutex};

    use bytes::Bytes;
    use deltalake::logstore::{ObjectStoreFactory, ObjectStoreRef, StorageConfig, object_store_factories};
    use deltalake::{DeltaResult, Path};
    use futures::StreamExt as _;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
        ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    };

    use super::*;
    use perennial_schemas::seed::{Seed, below};

    /// What happens to the write of an entry of the log.
    #[derive(Debug, Clone, PartialEq)]
    enum Fate {
        /// Done and said so.
        Done,
        /// Done; the answer is lost, and the next `deaf` reads fail.
        LostAnswer { deaf: u64 },
        /// Done; the client repeated the request, and the answer is that the object exists.
        AskedTwice,
        /// Not done.
        Refused,
        /// Done and followed by another writer's entry with these transactions; the answer is lost.
        LostAndFollowed(Vec<(&'static str, i64)>),
    }

    #[derive(Debug, Default)]
    struct Faults {
        /// Of the next writes to a log; then `chance` decides.
        script: Mutex<VecDeque<Fate>>,
        /// How many reads from now on fail.
        deaf: AtomicU64,
        /// Of 100 writes, how many have each of three faults. Then also one read in 100 fails.
        chance: AtomicU64,
        asked: AtomicU64,
        /// Faults that happened.
        happened: AtomicU64,
    }

    #[derive(Debug, Default)]
    struct Faulty {
        inner: InMemory,
        faults: Arc<Faults>,
    }

    impl fmt::Display for Faulty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a faulty store")
        }
    }

    fn transient() -> object_store::Error {
        let source = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection was closed");
        object_store::Error::Generic { store: "faulty", source: Box::new(source) }
    }

    impl Faults {
        fn draw(&self) -> u64 {
            let place = self.asked.fetch_add(1, Ordering::SeqCst);
            below(Seed::new(11).at(&[place]), 100)
        }

        fn fate(&self) -> Fate {
            let scripted = self.script.lock().unwrap().pop_front();
            let fate = scripted.unwrap_or_else(|| match self.chance.load(Ordering::SeqCst) {
                0 => Fate::Done,
                chance => match self.draw() / chance {
                    0 => Fate::LostAnswer { deaf: 0 },
                    1 => Fate::AskedTwice,
                    2 => Fate::Refused,
                    _ => Fate::Done,
                },
            });
            self.happened.fetch_add(u64::from(fate != Fate::Done), Ordering::SeqCst);
            fate
        }

        fn hear(&self) -> Result<()> {
            let less = |deaf: u64| deaf.checked_sub(1);
            let chance = self.chance.load(Ordering::SeqCst);
            if self.deaf.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
                || (chance > 0 && self.draw() == 0)
            {
                self.happened.fetch_add(1, Ordering::SeqCst);
                return Err(transient());
            }
            Ok(())
        }
    }

    #[tonic::async_trait]
    impl ObjectStore for Faulty {
        async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            let is_entry = path.as_ref().contains("_delta_log/") && path.as_ref().ends_with(".json");
            let fate = if is_entry { self.faults.fate() } else { Fate::Done };
            if fate == Fate::Refused {
                return Err(transient());
            }
            let done = self.inner.put_opts(path, payload, options).await?;
            match fate {
                Fate::Done | Fate::Refused => Ok(done),
                Fate::LostAnswer { deaf } => {
                    self.faults.deaf.store(deaf, Ordering::SeqCst);
                    Err(transient())
                }
                Fate::AskedTwice => {
                    Err(object_store::Error::AlreadyExists { path: path.to_string(), source: "412".into() })
                }
                Fate::LostAndFollowed(transactions) => {
                    let (folder, name) = path.as_ref().rsplit_once('/').unwrap();
                    let version: u64 = name.trim_end_matches(".json").parse().unwrap();
                    let lines = transactions.iter().map(|(app_id, number)| {
                        format!("{{\"txn\":{{\"appId\":\"{app_id}\",\"version\":{number}}}}}\n")
                    });
                    let next = Path::from(format!("{folder}/{:020}.json", version + 1));
                    self.inner.put(&next, lines.collect::<String>().into()).await?;
                    Err(transient())
                }
            }
        }

        async fn put_multipart_opts(
            &self,
            path: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(path, options).await
        }

        async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
            self.faults.hear()?;
            self.inner.get_opts(path, options).await
        }

        async fn get_ranges(&self, path: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>> {
            self.faults.hear()?;
            self.inner.get_ranges(path, ranges).await
        }

        fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            match self.faults.hear() {
                Ok(()) => self.inner.list(prefix),
                Err(error) => futures::stream::once(async { Err(error) }).boxed(),
            }
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.faults.hear()?;
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    /// Hands each `memory://name/` its own store: every one that asks for a name gets the same.
    #[derive(Default)]
    struct Factory(Mutex<BTreeMap<String, ObjectStoreRef>>);

    static FACTORY: LazyLock<Arc<Factory>> = LazyLock::new(|| {
        let factory = Arc::new(Factory::default());
        object_store_factories().insert(Url::parse("memory://").unwrap(), factory.clone());
        factory
    });

    impl ObjectStoreFactory for Factory {
        fn parse_url_opts(&self, url: &Url, _: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
            let stores = self.0.lock().unwrap();
            let store = stores.get(url.host_str().unwrap()).unwrap();
            Ok((Arc::clone(store), Path::from(url.path())))
        }
    }

    /// An empty store, whose faults begin when they are asked for, and a clock on which no wait is long.
    async fn faulty_store(name: &str) -> (Store, Arc<Faults>) {
        let (url, clock, faults) = nothing(name);
        (Store::create(&url, &HashMap::new(), clock).await.unwrap(), faults)
    }

    /// A place where no store is yet.
    fn nothing(name: &str) -> (StoreUrl, Clock, Arc<Faults>) {
        let faulty = Faulty::default();
        let faults = Arc::clone(&faulty.faults);
        FACTORY.0.lock().unwrap().insert(name.to_owned(), Arc::new(faulty));
        let clock = Clock::manual(0);
        tokio::spawn({
            let clock = clock.clone();
            async move {
                loop {
                    clock.advance(Duration::from_secs(1));
                    tokio::task::yield_now().await;
                }
            }
        });
        (format!("memory://{name}/store").parse().unwrap(), clock, faults)
    }

    /// As where two daemons make a store at once: an answer that says so leads to no second entry, whose
    /// secret would be another than the first maker's.
    #[tokio::test]
    async fn table_that_is_made_already_is_left_as_it_is() {
        for (name, fate) in [("made-asked", Fate::AskedTwice), ("made-lost", Fate::LostAnswer { deaf: 0 })] {
            let (url, clock, faults) = nothing(name);
            faults.script.lock().unwrap().extend(vec![fate; Table::ALL.len()]);
            let store = Store::create(&url, &HashMap::new(), clock).await.unwrap();
            for table in Table::ALL {
                assert_eq!(store.version(table).await.unwrap(), Version(0));
            }
        }
    }

    /// The versions whose entries hold this transaction.
    async fn versions_with(store: &Store, app_id: &str, number: i64) -> Vec<Version> {
        let newest = store.version(Table::Records).await.unwrap();
        let log = store.at(Table::Records, newest).await.unwrap().log_store();
        let line = format!("\"appId\":\"{app_id}\",\"version\":{number}}}");
        let mut versions = Vec::new();
        for version in 0..=newest.0 {
            let entry = log.read_commit_entry(version).await.unwrap().unwrap();
            if std::str::from_utf8(&entry).unwrap().contains(&line) {
                versions.push(Version(version));
            }
        }
        versions
    }

    #[tokio::test]
    async fn commit_whose_answer_is_lost_is_in_the_store_once_under_the_version_it_names() {
        let (store, faults) = faulty_store("once").await;
        let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
        let followed = Fate::LostAndFollowed(vec![("ingest/other", 1), ("attempt/ingest/other", 7)]);
        let mut expected = 0;
        for (n, fate) in
            [Fate::LostAnswer { deaf: 0 }, Fate::AskedTwice, Fate::Refused, followed].into_iter().enumerate()
        {
            let n = n as i64 + 1;
            faults.script.lock().unwrap().push_back(fate.clone());
            let (rows, transactions) = nth("main", n);
            let version = committer.commit(&[rows], transactions).await.unwrap();
            expected += 1;
            assert_eq!(version, Version(expected), "{fate:?}");
            assert_eq!(versions_with(&store, "ingest/main", n).await, [version], "{fate:?}");
        }
        // The other writer's entry is the newest version now; the next one is after that.
        let (rows, transactions) = nth("main", 5);
        assert_eq!(committer.commit(&[rows], transactions).await.unwrap(), Version(expected + 2));
        assert_once(&store, "main", 5).await;
    }

    #[tokio::test]
    async fn commit_whose_answer_is_lost_and_that_another_of_its_fence_followed_is_the_last_that_succeeds() {
        let (store, faults) = faulty_store("overtaken").await;
        let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
        let followed = Fate::LostAndFollowed(vec![("ingest/main", 2), ("attempt/ingest/main", 7)]);
        faults.script.lock().unwrap().push_back(followed);
        let (rows, transactions) = nth("main", 1);
        assert_eq!(committer.commit(&[rows], transactions).await.unwrap(), Version(1));
        for _ in 0..2 {
            let (rows, transactions) = nth("main", 2);
            let error = committer.commit(&[rows], transactions).await.unwrap_err();
            assert!(matches!(error, StoreError::Conflict { theirs: 2, ours: 1, .. }), "{error}");
        }
        assert_once(&store, "main", 1).await;
    }

    #[tokio::test]
    async fn commit_that_cannot_be_settled_is_refused_by_the_same_committer_and_seen_by_a_new_one() {
        let (store, faults) = faulty_store("unsettled").await;
        let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
        let (rows, transactions) = nth("main", 1);
        // More reads fail than anything tries.
        faults.script.lock().unwrap().push_back(Fate::LostAnswer { deaf: 10_000 });
        let error = committer.commit(std::slice::from_ref(&rows), transactions.clone()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        faults.deaf.store(0, Ordering::SeqCst);
        let again = committer.commit(&[rows], transactions).await.unwrap_err();
        assert_eq!(again.kind(), Kind::Conflict, "{again}");
        let mut next = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
        assert_eq!(next.last("ingest/main").await.unwrap(), Some(1));
        let (rows, transactions) = nth("main", 2);
        next.commit(&[rows], transactions).await.unwrap();
        assert_once(&store, "main", 2).await;
    }

    /// Wherever in the settling of a lost answer a read fails, and however often.
    #[tokio::test]
    async fn lost_answer_is_settled_through_any_number_of_failing_reads() {
        let mut settled = 0;
        for deaf in 0..12 {
            let (store, faults) = faulty_store(&format!("deaf-{deaf}")).await;
            let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
            faults.script.lock().unwrap().push_back(Fate::LostAnswer { deaf });
            let (rows, transactions) = nth("main", 1);
            let said = committer.commit(&[rows], transactions).await;
            faults.deaf.store(0, Ordering::SeqCst);
            settled += u64::from(said.is_ok());
            if let Err(error) = said {
                assert_eq!(error.kind(), Kind::Unavailable, "{deaf}: {error}");
                committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
                assert_eq!(committer.last("ingest/main").await.unwrap(), Some(1));
            }
            let (rows, transactions) = nth("main", 2);
            committer.commit(&[rows], transactions).await.unwrap();
            assert_once(&store, "main", 2).await;
        }
        assert!((2..12).contains(&settled), "{settled} of 12 were settled: both ways were to be tried");
    }

    /// Two writers to a store where three of ten writes and one of a hundred reads go wrong.
    #[tokio::test]
    async fn rows_are_in_the_store_once_whatever_goes_wrong() {
        const BATCHES: i64 = 25;
        let (store, faults) = faulty_store("anything").await;
        faults.chance.store(10, Ordering::SeqCst);
        let writers = ["a", "b"].map(|shard| {
            let store = store.clone();
            async move {
                let fence = format!("ingest/{shard}");
                loop {
                    let Ok(mut committer) = Committer::open(&store, Table::Records, &fence).await else {
                        continue;
                    };
                    let Ok(last) = committer.last(&fence).await else { continue };
                    let last = last.unwrap_or(0);
                    if last == BATCHES {
                        return;
                    }
                    for n in last + 1..=BATCHES {
                        let (rows, transactions) = nth(shard, n);
                        match committer.commit(&[rows], transactions).await {
                            Ok(_) => {}
                            // Whether it is in the store, only the store knows: start again from there.
                            Err(StoreError::Delta { .. }) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
        });
        futures::future::join_all(writers).await;
        faults.chance.store(0, Ordering::SeqCst);
        assert!(faults.happened.load(Ordering::SeqCst) > 10);
        for shard in ["a", "b"] {
            assert_once(&store, shard, BATCHES).await;
            for n in 1..=BATCHES {
                assert_eq!(versions_with(&store, &format!("ingest/{shard}"), n).await.len(), 1);
            }
        }
    }
}
