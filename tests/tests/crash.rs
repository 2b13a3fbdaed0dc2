//! Every program dies at every failpoint, is started again, and ends as if nothing had happened.

use std::collections::BTreeSet;
use std::fs;

use perennial_program::failpoint;
use perennial_schemas::id::Offset;
use perennial_schemas::table::Table;
use perennial_store::Scan;
use perennial_store::order::OrderLog;
use perennial_tests::world::World;

use crate::walk::{INGEST, TRAIN, ingested};

#[tokio::test]
async fn ingest_killed_at_any_failpoint_loses_nothing_and_reads_nothing_twice() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let whole = world.readings().await;
    assert_eq!(whole.len(), 1013);
    let points: Vec<_> = failpoint::ALL
        .iter()
        .filter(|name| name.starts_with("ingest.") || name.starts_with("store."))
        .collect();
    assert_eq!(points.len(), 6);
    for point in points {
        let world = ingested();
        for passage in [1, 2] {
            world.crash_at(&format!("{point}:{passage}"), "perennial-ingest", INGEST);
            world.checked().await;
        }
        world.succeed("perennial-ingest", INGEST);
        assert_eq!(world.readings().await, whole, "{point}");
        world.checked().await;
        let order = OrderLog::open(&world.store().await).await.unwrap();
        assert_eq!(order.order().end(), Offset(1013), "{point}: every reading has its place");
    }
}

/// The loss curve without the columns that are about time, and the weights of a step.
pub fn learnt(world: &World, job: &str, step: u64) -> (Vec<String>, Vec<u8>) {
    let lines = fs::read_to_string(world.path(&format!("{job}/metrics.jsonl"))).unwrap();
    let curve = lines.lines().map(|line| line.split(",\"tokens_per_second\"").next().unwrap().to_owned());
    let weights = fs::read(world.path(&format!("{job}/step-{step}/model.safetensors"))).unwrap();
    (curve.collect(), weights)
}

#[tokio::test]
async fn training_killed_at_any_failpoint_resumes_to_the_bit_identical_curve() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    world.succeed("perennial-train", TRAIN);
    let whole = learnt(&world, "a", 24);
    assert_eq!(whole.0.len(), 24);
    for point in failpoint::ALL.iter().filter(|name| name.starts_with("train.")) {
        // A step or two after a checkpoint, and at one that has others behind it.
        let passage = if point.starts_with("train.step.") { 8 } else { 3 };
        fs::remove_dir_all(world.path("a")).unwrap();
        world.crash_at(&format!("{point}:{passage}"), "perennial-train", TRAIN);
        world.succeed("perennial-train", TRAIN);
        assert_eq!(learnt(&world, "a", 24), whole, "{point}");
    }
    // Before and after a view is in the store, none of whose tickets has been given away.
    for point in failpoint::ALL.iter().filter(|name| name.starts_with("replay.views.")) {
        let world = ingested();
        world.succeed("perennial-ingest", INGEST);
        world.crash_at(&format!("{point}:3"), "perennial-train", TRAIN);
        world.checked().await;
        world.succeed("perennial-train", TRAIN);
        assert_eq!(learnt(&world, "a", 24), whole, "{point}");
        world.checked().await;
    }
    // The same job was run again and again: its evaluations are in the store once.
    world.checked().await;
    let store = world.store().await;
    let version = store.version(Table::Evaluations).await.unwrap();
    let batches = store.scan(Table::Evaluations, version, &Scan::default()).await.unwrap();
    let mut seen = BTreeSet::new();
    for batch in &batches {
        for row in perennial_schemas::table::evaluations::View::new(batch).unwrap().iter() {
            let key =
                (row.weights.to_owned(), row.step, row.slice.to_owned(), row.document.map(str::to_owned));
            assert!(seen.insert(key.clone()), "{key:?} is there twice");
        }
    }
    assert!(!seen.is_empty());
}

#[tokio::test]
async fn followers_killed_while_they_write_leave_buffers_that_others_go_on_with() {
    let free = ["--set", "serve.http=127.0.0.1:0", "--set", "serve.flight=127.0.0.1:0"];
    let points = || failpoint::ALL.iter().filter(|name| name.starts_with("replay.follow."));
    for policy in ["reservoir", "fifo", "herding", "k_center"] {
        let policy = format!("buffer.main.policy={policy}");
        let follow = ["--store", "store", "--set", "follow.block=16", "--set", policy.as_str()];
        let follow = [&follow[..], &["--set", "buffer.main.capacity=60 records"]].concat();
        let sample = ["--set", "follow.visible_until=store", "sample", "--digests", "--steps", "3"];
        let sample = [&follow[..], &sample].concat();
        let serve = [&follow[..], &free, &["serve"]].concat();
        let world = ingested();
        world.succeed("perennial-ingest", INGEST);
        let whole = world.succeed("perennial-replay", &sample);
        for point in points() {
            let world = ingested();
            world.succeed("perennial-ingest", INGEST);
            world.crash_at(point, "perennial-replay", &serve);
            world.checked().await;
            let digests = |text: &str| -> Vec<String> {
                text.lines().filter(|line| line.starts_with("digest")).map(str::to_owned).collect()
            };
            let then = digests(&world.succeed("perennial-replay", &sample));
            assert_eq!(then, digests(&whole), "{policy} {point}");
            world.checked().await;
        }
    }
}
