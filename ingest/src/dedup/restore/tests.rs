use std::collections::HashMap;
use std::path::Path;

use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use perennial_schemas::text::Identity;
use perennial_store::StoreUrl;

use super::*;
use crate::block::Verdict;
use crate::config::{Config, Folded, Source};
use crate::dedup::near::{self, Action, Near};
use crate::score::novelty::unseen::Unseen;
use crate::score::percentile::Percentile;

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

fn empty(near: Near, window: u32, scores: usize) -> Known {
    let mut known = Known::new("main".parse().unwrap(), Folded::Duplicate, near);
    known.unseen = Unseen::new(window);
    known.novelty = Percentile::new(scores);
    known
}

/// All kept rows with all their texts, one after the other: what [`restore`] may not differ from.
async fn twin(known: &mut Known, store: &Store, version: Version) -> Vec<String> {
    let filter = Some("outcome = 'kept'".to_owned());
    let scan = Scan { columns: &[], filter, order: &["shard", "seq"] };
    let mut texts = Vec::new();
    for batch in store.scan(Table::Records, version, &scan).await.unwrap() {
        known.exact.restore(&batch).unwrap();
        for row in View::new(&batch).unwrap().iter() {
            let sketch = Sketcher::new().sketch(row.text.unwrap());
            let (shard, id) = (row.shard.parse().unwrap(), RecordId::from_bytes(row.id.unwrap()).unwrap());
            let candidate = Candidate {
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
            known.unseen.add(&sketch.shingles);
            known.novelty.push(row.unseen.unwrap());
            texts.push(row.text.unwrap().to_owned());
        }
    }
    texts
}

/// What a memory says of a text that comes next.
fn verdicts(known: &mut Known, text: &str) -> (Option<Verdict>, near::Verdict, f32, f32) {
    let sketch = Sketcher::new().sketch(text);
    let identity = Identity::of(text, SECRET);
    let shard = "main".parse().unwrap();
    let candidate = Candidate {
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
    let score = known.unseen.score(&sketch.shingles);
    known.unseen.add(&sketch.shingles);
    (exact, near, score, known.novelty.push(score))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_restored_in_portions_of_any_size_is_that_of_all_rows_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (store, version) = bundled(folder.path()).await;
    let portions = [(1 << 16, 32 << 20, 1 << 23), (200, 1 << 20, 20_000), (64, 30_000, 1), (300, 1, 900)];
    for (records, bytes, window) in portions {
        let near = Near { records: window.min(500), ..Near::default() };
        let mut slow = empty(near, window, 100);
        let texts = twin(&mut slow, &store, version).await;
        let mut fast = empty(near, window, 100);
        // A portion of one byte is one record each: only over the newest.
        restore_by(Portion { records, bytes }, &mut fast, &store, version).await.unwrap();
        assert_eq!(fast.exact.len(), slow.exact.len());
        assert_eq!(fast.near.len(), slow.near.len());
        assert_eq!(fast.unseen.len(), slow.unseen.len());
        for text in texts.iter().rev().step_by(37).take(20) {
            let edited = text.replace(" of ", " from ") + " and one more sentence";
            assert_eq!(verdicts(&mut fast, &edited), verdicts(&mut slow, &edited));
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
        let mut known =
            Known::new(own.parse().unwrap(), Folded::Duplicate, Near { records: 15, ..Near::default() });
        known.unseen = Unseen::new(500);
        restore(&mut known, &store, version).await.unwrap();
        assert_eq!((known.exact.len(), known.near.len()), (60, 15));
        let (_, near, unseen, _) = verdicts(&mut known, &format!("{} more", text(own, 19)));
        assert!(matches!(near, near::Verdict::Duplicate { .. }), "{own}: {near:?}");
        assert!(unseen < 0.1, "{own}: {unseen}");
    }
}
