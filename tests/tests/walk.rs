//! The whole way: real text in at one end, checkpoints, evaluations and a report out at the other.

use std::collections::BTreeSet;

use perennial_schemas::table::{Table, draws};
use perennial_store::check::check;
use perennial_store::{Scan, Store};
use perennial_tests::world::{World, data, text};

/// A model and a job small enough to be run many times.
const JOB: &str = r#"
[replay.batch]
rows = 2
tokens = 128
[replay.mix]
main = 0.25
[replay.new_text]
keep = 0.75
[replay.follow]
block = 16
[model]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 128
[average]
windows = [5]
[run]
device = "cpu"
steps = 24
metrics_every = 1
checkpoint_every = 6
[evaluate]
every = 12
slice = "1KiB"
document = "256B"
"#;

/// A world with `ingest.toml`, which reads the bundled stream into its store, and `job.toml`.
pub fn ingested() -> World {
    prepared(World::new())
}

/// The same, of a world wherever its store is.
pub fn prepared(world: World) -> World {
    let slices = data("slices.toml");
    let job = JOB.replace("[evaluate]", &format!("[evaluate]\nslices = \"{}\"", text(&slices)));
    world.write("job.toml", job + &world.store_table("replay."));
    let stream = data("stream.jsonl.zst");
    // Nothing is committed for its age: the time that a store or a machine takes must choose no commit.
    let source = format!(
        "[[source]]\nname = \"stream\"\npath = \"{}\"\n[read]\nblock_lines = 100\n\
         [commit]\nbytes = \"100KB\"\ninterval = \"1h\"\n",
        text(&stream)
    );
    world.write("ingest.toml", source + &world.store_table(""));
    world
}

pub const INGEST: &[&str] = &["--config", "ingest.toml", "run", "--once"];
pub const TRAIN: &[&str] = &["--config", "job.toml", "--set", "job.name=a", "--set", "job.folder=a", "run"];

#[tokio::test]
async fn bundled_text_becomes_a_sound_store_a_trained_model_and_a_report() {
    let world = ingested();
    let said = world.succeed("perennial-ingest", INGEST);
    assert!(said.contains("read 1013: kept"), "{said}");
    let again = world.succeed("perennial-ingest", INGEST);
    assert!(again.contains("read 0: kept 0"), "what was read is not read again: {again}");

    let done = world.succeed("perennial-train", TRAIN);
    assert!(done.starts_with("done after step 24"), "{done}");
    let again = world.succeed("perennial-train", TRAIN);
    assert!(again.starts_with("done after step 24"), "a job that has ended stays as it is: {again}");
    let floor = ["--config", "job.toml", "--set", "replay.mix={}", "--set", "job.name=b"];
    world.succeed("perennial-train", &[&floor[..], &["--set", "job.folder=b", "run"]].concat());

    let runs = ["--run", "floor:b:no replay", "--run", "method:a:replay", "--out", "out"];
    world.succeed("perennial-train", &[&["--store", "store", "report"][..], &runs].concat());
    let json = std::fs::read_to_string(world.path("out/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        let points = run["points"].as_array().unwrap();
        let steps: Vec<_> = points.iter().map(|point| point["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 12, 24]);
        let places: Vec<_> = points.iter().map(|point| point["fraction"].as_f64().unwrap()).collect();
        // Such a run sees the first texts of the stream; thinning may pass over the very first.
        assert!(
            places[0] < 0.005 && places[1] > places[0] && places[2] > places[1] && places[2] < 0.02,
            "{places:?}"
        );
        assert_eq!(run["points"][0]["scores"].as_array().unwrap().len(), 9);
    }
    assert_eq!(report["slices"].as_array().unwrap().len(), 9);
    let page = std::fs::read_to_string(world.path("out/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("no replay"));

    let store = world.store().await;
    every_step_is_noted_with_the_bytes_it_was_fed(&world, &store).await;
    let checked = check(&store, &BTreeSet::new()).await.unwrap();
    assert_eq!(checked.violations, []);
    let sums = checked.sums.values().next().unwrap();
    assert_eq!((sums.read, sums.dead_letters, sums.balanced()), (1013, 28, true));
    assert!(checked.versions[&Table::Records].0 > 3, "several commits");
}

/// A job that reads the store itself leaves what it drew, as a server would: a noted ticket gives its bytes.
async fn every_step_is_noted_with_the_bytes_it_was_fed(world: &World, store: &Store) {
    let version = store.version(Table::Draws).await.unwrap();
    let scan = Scan { filter: Some("job = 'a'".to_owned()), order: &["step"], ..Scan::default() };
    let batches = store.scan(Table::Draws, version, &scan).await.unwrap();
    let rows: Vec<_> = batches.iter().flat_map(|batch| draws::View::new(batch).unwrap().iter()).collect();
    let steps: Vec<i64> = rows.iter().map(|row| row.step).collect();
    // Batches are made ahead of the steps.
    assert!(steps.len() >= 24 && steps.iter().copied().eq(0..steps.len() as i64), "{steps:?}");
    let last = rows[23];
    let settings =
        ["batch.rows=2", "batch.tokens=128", "mix.main=0.25", "new_text.keep=0.75", "follow.block=16"];
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    let arguments: Vec<&str> = ["--store", "store"].into_iter().chain(settings).collect();
    let sample = [&arguments[..], &["sample", "--digests", "--ticket", last.ticket]].concat();
    let said = world.succeed("perennial-replay", &sample);
    assert!(said.contains(&format!("digest {}", last.digest)), "{said}");
}

#[test]
fn same_ticket_gives_the_same_bytes_in_another_process_and_from_another_store() {
    let sample =
        ["--store", "store", "--set", "batch.rows=2", "--set", "batch.tokens=128", "--set", "mix.main=0.5"];
    let sample =
        [&sample[..], &["--set", "follow.block=16", "sample", "--steps", "40", "--digests"]].concat();
    let worlds = [ingested(), ingested()];
    let digests = worlds.map(|world| {
        world.succeed("perennial-ingest", INGEST);
        let first = world.succeed("perennial-replay", &sample);
        assert_eq!(world.succeed("perennial-replay", &sample), first, "a second process");
        let ticket = first.lines().filter_map(|line| line.strip_prefix("ticket ")).next_back().unwrap();
        let one =
            [&sample[..8], &["--set", "follow.block=16", "sample", "--digests", "--ticket", ticket]].concat();
        let alone = world.succeed("perennial-replay", &one);
        assert!(first.ends_with(&alone), "a ticket alone names its batch: {alone}");
        first.lines().filter_map(|line| line.strip_prefix("digest ")).map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(digests[0].len(), 40);
    assert_eq!(digests[0], digests[1], "a store made elsewhere of the same stream");
}
