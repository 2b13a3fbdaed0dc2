//! Every program dies at every failpoint, is started again, and ends as if nothing had happened.

use std::collections::BTreeSet;
use std::fs;

use schemas::program::failpoint;
use schemas::store::Scan;
use schemas::store::check::check;
use schemas::table::Table;
use schemas::table::records::View;
use tests::world::World;

use crate::walk::{INGEST, TRAIN, ingested};

/// What a reader of the records sees, but for the times of ingest.
async fn readings(world: &World) -> Vec<String> {
    let store = world.store().await;
    let version = store.version(Table::Records).await.unwrap();
    let scan = Scan { order: &["shard", "seq"], ..Scan::default() };
    let batches = store.scan(Table::Records, version, &scan).await.unwrap();
    let rows = batches.iter().flat_map(|batch| {
        let view = View::new(batch).unwrap();
        view.iter()
            .map(|row| {
                format!(
                    "{:?} {} {}..{} {:?} {:?} {:?}",
                    row.seq, row.outcome, row.start, row.end, row.id, row.text, row.reason
                )
            })
            .collect::<Vec<_>>()
    });
    rows.collect()
}

async fn is_sound(world: &World) {
    let report = check(&world.store().await, &BTreeSet::new()).await.unwrap();
    assert_eq!(report.violations, []);
}

#[tokio::test]
async fn ingest_killed_at_any_failpoint_loses_nothing_and_reads_nothing_twice() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let whole = readings(&world).await;
    assert_eq!(whole.len(), 1013);
    let points: Vec<_> = failpoint::ALL
        .iter()
        .filter(|name| name.starts_with("ingest.") || name.starts_with("store."))
        .collect();
    assert_eq!(points.len(), 4);
    for point in points {
        let world = ingested();
        for passage in [1, 2] {
            world.crash_at(&format!("{point}:{passage}"), "perennial-ingest", INGEST);
            is_sound(&world).await;
        }
        world.succeed("perennial-ingest", INGEST);
        assert_eq!(readings(&world).await, whole, "{point}");
        is_sound(&world).await;
    }
}

/// The loss curve without the columns that are about time, and the weights.
fn learnt(world: &World, job: &str) -> (Vec<String>, Vec<u8>) {
    let lines = fs::read_to_string(world.path(&format!("{job}/metrics.jsonl"))).unwrap();
    let curve = lines.lines().map(|line| line.split(",\"tokens_per_second\"").next().unwrap().to_owned());
    let weights = fs::read(world.path(&format!("{job}/step-24/model.safetensors"))).unwrap();
    (curve.collect(), weights)
}

#[tokio::test]
async fn training_killed_at_any_failpoint_resumes_to_the_bit_identical_curve() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    world.succeed("perennial-train", TRAIN);
    let whole = learnt(&world, "a");
    assert_eq!(whole.0.len(), 24);
    let points =
        ["train.step.after_update:8", "train.checkpoint.before_rename:2", "train.checkpoint.after_rename:3"];
    for point in points {
        let folder = world.path("a");
        fs::remove_dir_all(&folder).unwrap();
        world.crash_at(point, "perennial-train", TRAIN);
        world.succeed("perennial-train", TRAIN);
        assert_eq!(learnt(&world, "a"), whole, "{point}");
    }
    // The same job was run again and again: its evaluations are in the store once.
    is_sound(&world).await;
    let store = world.store().await;
    let version = store.version(Table::Evaluations).await.unwrap();
    let scan = Scan {
        columns: &[
            "job",
            "weights",
            "step",
            "tokens",
            "slice",
            "document",
            "nats",
            "predicted",
            "bytes",
            "time",
        ],
        ..Scan::default()
    };
    let batches = store.scan(Table::Evaluations, version, &scan).await.unwrap();
    let mut seen = BTreeSet::new();
    for batch in &batches {
        for row in schemas::table::evaluations::View::new(batch).unwrap().iter() {
            let key =
                (row.weights.to_owned(), row.step, row.slice.to_owned(), row.document.map(str::to_owned));
            assert!(seen.insert(key.clone()), "{key:?} is there twice");
        }
    }
    assert!(!seen.is_empty());
}

#[tokio::test]
async fn followers_killed_while_they_write_leave_buffers_that_others_go_on_with() {
    let sample = ["--store", "store", "--set", "follow.block=16", "sample", "--digests", "--steps", "3"];
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let whole = world.succeed("perennial-replay", &sample);
    for point in ["replay.follow.before_commit", "replay.follow.after_commit"] {
        let world = ingested();
        world.succeed("perennial-ingest", INGEST);
        world.crash_at(point, "perennial-replay", &sample);
        is_sound(&world).await;
        let digests = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with("digest")).map(str::to_owned).collect()
        };
        assert_eq!(digests(&world.succeed("perennial-replay", &sample)), digests(&whole), "{point}");
        is_sound(&world).await;
    }
}
