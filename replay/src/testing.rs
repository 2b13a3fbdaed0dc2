//! Helpers of several modules' tests: a store in its own folder, its readings, and a plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::RecordBatch;
use perennial_program::clock::Clock;
use perennial_program::config::{Bytes, Share};
use perennial_schemas::id::{Seq, Shard, Version};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::Table;
use perennial_schemas::table::column::{pack_f16, pack_u32};
use perennial_schemas::table::records::{Builder, Outcome, Reason, Row, View};
use perennial_store::commit::Committer;
use perennial_store::order::{Claim, OrderLog};
use perennial_store::{Scan, Store, StoreUrl};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

use crate::buffer::{Capacity, PolicyConfig, Spec, reservoir};
use crate::library::{Access, Library};
use crate::mix::Mix;
use crate::plan::{Order, Plan, VisibleUntil};
use crate::tokenise::Tokenizer;

/// An empty store whose clock stands at `now`.
pub(crate) async fn store(now: i64) -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let url: StoreUrl = folder.path().to_str().unwrap().parse().unwrap();
    let store = Store::create(&url, &HashMap::new(), Clock::manual(now)).await.unwrap();
    (folder, store)
}

pub(crate) fn shard(name: &str) -> Shard {
    name.parse().unwrap()
}

/// The text of a reading: its own, of a length that varies, but some repeat the text of three before.
pub(crate) fn text(name: &str, seq: i64) -> String {
    let repeated = if seq % 11 == 10 { seq - 3 } else { seq };
    format!("{name} {repeated} {}", "lorem ipsum ".repeat(usize::try_from(repeated % 7).unwrap()))
}

/// The shard and seq of each row.
fn places(batch: &RecordBatch) -> Vec<(String, i64)> {
    View::new(batch).unwrap().iter().map(|row| (row.shard.to_owned(), row.seq.unwrap())).collect()
}

/// What became of a reading.
pub(crate) fn outcome(seq: i64) -> Outcome {
    match seq % 5 {
        3 => Outcome::Duplicate,
        4 if seq % 2 == 0 => Outcome::DeadLetter,
        _ => Outcome::Kept,
    }
}

/// A store and its one writer.
pub(crate) struct World {
    _folder: TempDir,
    pub(crate) store: Store,
    /// The next seq of each shard.
    next: BTreeMap<&'static str, i64>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let (folder, store) = store(0).await;
        Self { _folder: folder, store, next: BTreeMap::new() }
    }

    /// One commit of `count` readings of a shard, with their place in the order.
    pub(crate) async fn write(&mut self, name: &'static str, count: i64) {
        self.write_unplaced(name, count).await;
        self.place(name).await;
    }

    /// As an ingest that is killed between its commit and the order.
    pub(crate) async fn write_unplaced(&mut self, name: &'static str, count: i64) {
        let first = self.next.get(name).copied().unwrap_or(0);
        let mut builder = Builder::new();
        // The order of rows in a file is not guaranteed.
        for seq in (first..first + count).rev() {
            let text = text(name, seq);
            let id = xxh3_128(text.as_bytes()).to_be_bytes();
            let bytes = u32::try_from(text.len()).unwrap();
            let passages = pack_u32(&[bytes / 2, bytes]);
            let outcome = outcome(seq);
            let kept = outcome == Outcome::Kept;
            // Any vector of the text will do.
            let values = id.first_chunk::<8>().unwrap().map(|byte| f32::from(byte) - 128.0);
            let mut embedding = [0; 16];
            pack_f16(&values, &mut embedding);
            builder.push(Row {
                seq: Some(seq),
                start: seq,
                end: seq + 1,
                id: (outcome != Outcome::DeadLetter).then_some(&id),
                text: kept.then_some(text.as_str()),
                passages: kept.then_some(passages.as_slice()),
                embedding: kept.then_some(embedding.as_slice()),
                embedder: kept.then_some("test"),
                event_time: (seq % 2 == 0).then_some(seq * 86_400_000_000 * 30),
                ..Row::new(outcome, name, if seq % 3 == 0 { "web" } else { "files" })
            });
        }
        self.commit_unplaced(name, count, builder).await;
    }

    /// One commit of these texts of a shard, all kept.
    pub(crate) async fn write_texts(&mut self, name: &'static str, texts: &[String]) {
        let first = self.next.get(name).copied().unwrap_or(0);
        let mut builder = Builder::new();
        for (seq, text) in (first..).zip(texts) {
            let id = xxh3_128(text.as_bytes()).to_be_bytes();
            let passages = pack_u32(&[u32::try_from(text.len()).unwrap()]);
            builder.push(Row {
                seq: Some(seq),
                start: seq,
                end: seq + 1,
                id: Some(&id),
                text: Some(text),
                passages: Some(&passages),
                ..Row::new(Outcome::Kept, name, "files")
            });
        }
        self.commit(name, i64::try_from(texts.len()).unwrap(), builder).await;
    }

    /// One commit of the next `count` readings of a shard, in `builder`.
    pub(crate) async fn commit(&mut self, name: &'static str, count: i64, builder: Builder) {
        self.commit_unplaced(name, count, builder).await;
        self.place(name).await;
    }

    async fn place(&self, name: &'static str) {
        let claim = Claim::readings(&shard(name), Seq::from_i64(self.next[name]));
        OrderLog::open(&self.store).await.unwrap().append(&[claim]).await.unwrap();
    }

    async fn commit_unplaced(&mut self, name: &'static str, count: i64, mut builder: Builder) {
        let fence = format!("ingest/{name}");
        let mut committer = Committer::open(&self.store, Table::Records, &fence).await.unwrap();
        let next = self.next.entry(name).or_default();
        *next += count;
        let transactions = vec![(fence, *next), (format!("seq/{name}"), *next)];
        committer.commit(&[builder.finish().unwrap()], transactions).await.unwrap();
    }

    /// Erases the kept records of one version of `records`: only their shape stays.
    pub(crate) async fn erase(&self, version: u64) {
        let scan =
            Scan { columns: &["seq", "passages"], filter: Some("outcome = 'kept'".into()), order: &["seq"] };
        let rows = |version| self.store.scan(Table::Records, Version(version), &scan);
        let (before, after) = (rows(version - 1).await.unwrap(), rows(version).await.unwrap());
        let known: BTreeSet<(String, i64)> = before.iter().flat_map(places).collect();
        let mut builder = Builder::new();
        for batch in &after {
            for row in View::new(batch)
                .unwrap()
                .iter()
                .filter(|row| !known.contains(&(row.shard.to_owned(), row.seq.unwrap())))
            {
                builder.push(Row {
                    seq: row.seq,
                    start: row.start,
                    end: row.end,
                    passages: row.passages,
                    reason: Some(Reason::Erased.as_str()),
                    ..Row::new(Outcome::DeadLetter, row.shard, row.source)
                });
            }
        }
        // One version adds the shapes and takes out the records: through a store of its own, whose caches go.
        let store = Store::open(self.store.url(), &HashMap::new(), self.store.clock().clone()).await.unwrap();
        let mut committer = Committer::open(&store, Table::Records, "erase").await.unwrap();
        let number = committer.last("erase").await.unwrap().unwrap_or(0) + 1;
        let rows = builder.finish().unwrap();
        let newest = committer.commit(&[rows], vec![("erase".into(), number)]).await.unwrap();
        self.remove(version, newest.0);
    }

    /// Lets the version `by` also take out the kept records that the version `of` added.
    fn remove(&self, of: u64, by: u64) {
        let log = self.store.url().local_path().unwrap().join("records/_delta_log");
        let file = |version: u64| log.join(format!("{version:020}.json"));
        let text = std::fs::read_to_string(file(of)).unwrap();
        let actions = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let kept = actions
            .filter_map(|action| action.get("add").cloned())
            .find(|add| add["partitionValues"]["outcome"] == "kept")
            .unwrap();
        let remove = serde_json::json!({"remove": {
            "path": kept["path"],
            "dataChange": true,
            "deletionTimestamp": 0,
            "extendedFileMetadata": true,
            "partitionValues": kept["partitionValues"],
            "size": kept["size"],
        }});
        let entry = std::fs::read_to_string(file(by)).unwrap();
        std::fs::write(file(by), format!("{}\n{remove}\n", entry.trim_end())).unwrap();
    }

    /// A folder of a partition that nothing can be written to until it is dropped.
    pub(crate) fn block(&self, folder: &str) -> Blocked {
        let path = self.store.url().local_path().unwrap().join(folder);
        let aside = path.with_extension("aside");
        // An empty one may not be there yet.
        let _ = std::fs::rename(&path, &aside);
        std::fs::write(&path, "no folder").unwrap();
        Blocked { path, aside }
    }

    pub(crate) async fn library(&self, plan: &Plan) -> Library {
        Library::open(self.store.clone(), plan.clone(), Bytes::new(2_000), Access::Follow).await.unwrap()
    }
}

/// Where nothing can be written.
pub(crate) struct Blocked {
    path: std::path::PathBuf,
    aside: std::path::PathBuf,
}

impl Drop for Blocked {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
        let _ = std::fs::rename(&self.aside, &self.path);
    }
}

/// The buffer `main` with a reservoir of this capacity.
pub(crate) fn main_of(capacity: Capacity) -> Spec {
    Spec::new("main", &PolicyConfig::Reservoir(reservoir::Settings { capacity }))
}

/// Three rows of 96 byte tokens, this share of them from a reservoir of twelve records.
pub(crate) fn plan(share: f64) -> Plan {
    Plan {
        seed: Seed::new(9),
        rows: 3,
        length: 96,
        tokenizer: Tokenizer::Bytes,
        order: Order::Stream,
        keep: Share::ONE,
        mix: Mix::new([("main".to_owned(), Share::new(share).unwrap())]).unwrap(),
        buffers: [("main".to_owned(), main_of(Capacity::Records(12)))].into(),
        block: 8,
        visible_until: VisibleUntil::Cursor,
        drain: true,
    }
}
