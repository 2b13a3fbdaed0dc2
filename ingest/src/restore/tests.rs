use std::collections::HashMap;
use std::path::Path;

use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use perennial_schemas::seed::Seed;
use perennial_schemas::text::Identity;
use perennial_store::StoreUrl;

use super::*;
use crate::block::Verdict;
use crate::config::{Config, Folded, Source};
use crate::dedup::near::{self, Action, Near};
use crate::score::novelty::distance::{self, Distance, Windows};
use crate::score::novelty::unseen::{self, Scored};
use crate::score::percentile::Percentile;
use crate::score::{Cell, Context, Entry, Record, Score, Values};

const SECRET: u64 = 7;

/// A store that has read the bundled stream, near-duplicates annotated so that all kinds of kept rows are
/// there, and its newest version.
async fn bundled(folder: &Path) -> (Store, Version) {
    let url: StoreUrl = folder.to_str().unwrap().parse().unwrap();
    let store = Store::create(&url, &HashMap::new(), Clock::manual(1_714_521_600_000_000)).await.unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stream.jsonl.zst");
    let mut config = Config {
        source: vec![Source { name: "a".into(), path: path.to_str().unwrap().into(), ..Source::default() }],
        ..Config::default()
    };
    config.dedup.near.action = Action::Annotate;
    crate::pipeline::run(&config, &store, store.clock(), &Stop::new(), true).await.unwrap();
    let version = store.version(Table::Records).await.unwrap();
    (store, version)
}

/// A memory without records: for a window of shingles, and percentiles among a number of values.
struct Memory {
    known: DedupState,
    scores: Scores,
    /// Ranks among the stored values of `unseen`, which the daemon made with its own, larger window.
    ranks: Percentile,
}

impl Memory {
    fn new(shard: &str, near: Near, window: u32, values: usize) -> Self {
        let context = Context { shard: shard.parse().unwrap(), seed: Seed::new(0).child("score") };
        let known = DedupState::new(context.shard.clone(), Folded::Duplicate, near);
        let windows = Windows { percentile: values, ..Windows::default() };
        let scores: Vec<(&'static Entry, Box<dyn Score>)> = vec![
            (&unseen::ENTRY, Box::new(Scored::new(window, Percentile::new(values)))),
            (&distance::ENTRY, Box::new(Distance::new(windows, &context))),
        ];
        Self { known, scores: Scores::of(scores), ranks: Percentile::new(values) }
    }

    /// What the scores say of a record, which they then learn.
    fn score(&mut self, record: Record<'_>) -> Vec<Values> {
        self.scores.score(&[record]).unwrap()
    }
}

/// All kept rows with all their texts, one after the other: what [`restore`] may not differ from.
async fn twin(memory: &mut Memory, store: &Store, version: Version) -> Vec<String> {
    let Memory { known, scores, ranks } = memory;
    let filter = Some("outcome = 'kept'".to_owned());
    let scan = Scan { columns: &[], filter, order: &["shard", "seq"] };
    let mut texts = Vec::new();
    for batch in store.scan(Table::Records, version, &scan).await.unwrap() {
        known.exact.restore(&batch).unwrap();
        for row in View::new(&batch).unwrap().iter() {
            let sketch = Sketcher::new().sketch(row.text.unwrap());
            let (shard, id) = (row.shard.parse().unwrap(), RecordId::from_bytes(row.id.unwrap()).unwrap());
            let candidate = Query {
                shard: &shard,
                seq: Seq::from_i64(row.seq.unwrap()),
                id,
                source: row.source,
                external_id: row.external_id,
                url: row.url,
                event_time: row.event_time,
                text: row.text.unwrap(),
            };
            if row.duplicate_of_seq.is_none() {
                let lineage = row.lineage.and_then(RecordId::from_bytes).unwrap();
                known.near.remember(&candidate, lineage, &sketch.signature);
            }
            let record = Record {
                seq: candidate.seq,
                length: row.length.unwrap() as u64,
                text: candidate.text,
                sketch: &sketch,
            };
            let made = scores.score(&[record]).unwrap();
            ranks.push(row.unseen.unwrap());
            assert_eq!(made[1].row(0).nth(3).and_then(Cell::real), row.distance);
            assert_eq!(made[1].row(0).next().and_then(Cell::blob), row.embedding, "as the daemon scored it");
            texts.push(row.text.unwrap().to_owned());
        }
    }
    texts
}

/// What a memory says of a text that comes next.
fn verdicts(memory: &mut Memory, text: &str) -> (Option<Verdict>, near::Verdict, Vec<Values>) {
    let known = &mut memory.known;
    let sketch = Sketcher::new().sketch(text);
    let identity = Identity::of(text, SECRET);
    let shard = "main".parse().unwrap();
    let candidate = Query {
        shard: &shard,
        seq: Seq(1 << 40),
        id: identity.id,
        source: "a",
        external_id: None,
        url: None,
        event_time: None,
        text,
    };
    let exact = known.exact.look(identity, perennial_schemas::text::folded_hash(text));
    // The original's own text, so that every candidate is verified.
    let Ok(near) = known
        .near
        .decide(&candidate, &sketch, |_| Ok::<_, std::convert::Infallible>(Some(text.to_owned().into())));
    let record = Record { seq: Seq(1 << 40), length: identity.length, text, sketch: &sketch };
    (exact, near, memory.score(record))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_restored_in_portions_of_any_size_is_that_of_all_rows_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (store, version) = bundled(folder.path()).await;
    let portions = [(1 << 16, 32 << 20, 1 << 23), (200, 1 << 20, 20_000), (64, 30_000, 1), (300, 1, 900)];
    for (records, bytes, window) in portions {
        let near = Near { records: window.min(500), ..Near::default() };
        let mut slow = Memory::new("main", near, window, 100);
        let texts = twin(&mut slow, &store, version).await;
        let mut fast = Memory::new("main", near, window, 100);
        // A portion of one byte is one record each: only over the newest.
        restore_by(Portion { records, bytes }, &mut fast.known, &mut fast.scores, &store, version)
            .await
            .unwrap();
        assert_eq!(fast.known.exact.len(), slow.known.exact.len());
        assert_eq!(fast.known.near.len(), slow.known.near.len());
        for text in texts.iter().rev().step_by(37).take(20) {
            let edited = text.replace(" of ", " from ") + " and one more sentence";
            let (exact, near, scores) = verdicts(&mut fast, &edited);
            let (slow_exact, slow_near, slow_scores) = verdicts(&mut slow, &edited);
            assert_eq!((exact, near), (slow_exact, slow_near));
            assert_eq!(scores[1], slow_scores[1]);
            let unseen = slow_scores[0].row(0).next().and_then(Cell::real).unwrap();
            let expected = [Cell::Real(unseen), Cell::Real(slow.ranks.push(unseen))];
            assert_eq!(scores[0].row(0).collect::<Vec<_>>(), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_remembers_its_own_last_rows_whatever_other_shards_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let url: StoreUrl = folder.path().join("store").to_str().unwrap().parse().unwrap();
    let store = Store::create(&url, &HashMap::new(), Clock::manual(0)).await.unwrap();
    let text = |shard: &str, number: usize| {
        (0..40).map(|word| format!("{shard}{number}w{word}")).collect::<Vec<_>>().join(" ")
    };
    for shard in ["mm", "zz", "aa"] {
        let lines: String =
            (0..20).map(|number| format!("{{\"text\": \"{}\"}}\n", text(shard, number))).collect();
        let path = folder.path().join(format!("{shard}.jsonl"));
        std::fs::write(&path, lines).unwrap();
        let source = Source { name: shard.into(), path: path.to_str().unwrap().into(), ..Source::default() };
        let config = Config {
            shard: crate::config::ShardName(shard.into()),
            source: vec![source],
            ..Config::default()
        };
        crate::pipeline::run(&config, &store, store.clock(), &Stop::new(), true).await.unwrap();
    }
    let version = store.version(Table::Records).await.unwrap();
    for own in ["mm", "zz", "aa"] {
        let mut memory = Memory::new(own, Near { records: 15, ..Near::default() }, 500, 100);
        restore(&mut memory.known, &mut memory.scores, &store, version).await.unwrap();
        assert_eq!((memory.known.exact.len(), memory.known.near.len()), (60, 15));
        let (_, near, scores) = verdicts(&mut memory, &format!("{} more", text(own, 19)));
        let unseen = scores[0].row(0).next().and_then(Cell::real).unwrap();
        let distance = scores[1].row(0).nth(3).and_then(Cell::real).unwrap();
        assert!(distance < 0.3, "{own}: {distance}");
        assert!(matches!(near, near::Verdict::Duplicate { .. }), "{own}: {near:?}");
        assert!(unseen < 0.1, "{own}: {unseen}");
    }
}
