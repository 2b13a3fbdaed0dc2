//! The whole way: real text in at one end, checkpoints, evaluations and a report out at the other.

use std::collections::BTreeSet;

use perennial_schemas::table::Table;
use perennial_store::check::check;
use perennial_tests::world::{World, data, text};
use serde_json::Value;

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
    let report: Value = serde_json::from_str(&json).unwrap();
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
    what_each_step_was_fed_can_be_read(&world);
    let checked = check(&store, &BTreeSet::new()).await.unwrap();
    assert_eq!(checked.violations, []);
    let sums = checked.sums.values().next().unwrap();
    assert_eq!((sums.read, sums.dead_letters, sums.balanced()), (1013, 28, true));
    assert!(checked.versions[&Table::Records].0 > 3, "several commits");
}

/// A job that reads the store itself leaves what it was fed, as a server would: the ticket of each step, from
/// which follow its spans and its bytes.
fn what_each_step_was_fed_can_be_read(world: &World) {
    let settings =
        ["batch.rows=2", "batch.tokens=128", "mix.main=0.25", "new_text.keep=0.75", "follow.block=16"];
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    let arguments: Vec<&str> = ["--store", "store"].into_iter().chain(settings).collect();
    let replay = |more: &[&str]| world.succeed("perennial-replay", &[&arguments[..], more].concat());
    let draws = replay(&["draws", "--job", "a", "--steps", "0..24", "--json"]);
    let steps: Vec<Value> = draws.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(steps.iter().map(|step| step["step"].as_u64().unwrap()).eq(0..24));
    let last = &steps[23];
    let printed = replay(&["sample", "--ticket", &last["ticket"].to_string()]);
    let spans = last["spans"].as_array().unwrap();
    let lines = spans.iter().map(|span| {
        let [seq, first, tokens] = ["seq", "first_token", "tokens"].map(|key| span[key].as_u64().unwrap());
        format!("{}/{seq} token {first} +{tokens}: ", span["shard"].as_str().unwrap())
    });
    assert!(!spans.is_empty() && lines.into_iter().all(|line| printed.contains(&line)), "{printed}");
    // The other way: from a record to the steps that it was in.
    let id = spans[0]["id"].as_str().unwrap();
    let found = replay(&["draws", "--job", "a", "--record", id, "--json"]);
    let held = |step: &&Value| step["spans"].as_array().unwrap().iter().any(|span| span["id"] == id);
    let expected: Vec<_> = steps.iter().filter(held).map(|step| step["step"].clone()).collect();
    let found: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> =
        found.iter().map(|step| step["step"].clone()).filter(|step| step.as_u64() < Some(24)).collect();
    assert_eq!(found, expected);
    explanations_agree(&replay, id, found.first().and_then(Value::as_u64));
    let jobs = replay(&["jobs", "list"]);
    assert!(jobs.contains("a: next step ") && jobs.contains("main 0.25, keep 0.75"), "{jobs}");
    assert!(replay(&["jobs", "show", "a"]).starts_with("steps 0..1: 2 rows, main 0.25"), "{jobs}");
}

/// What is said of a record, and of the buffer and its policy.
fn explanations_agree(replay: &dyn Fn(&[&str]) -> String, id: &str, first: Option<u64>) {
    let said: Value = serde_json::from_str(&replay(&["explain", id, "--json"])).unwrap();
    let uses = &said["jobs"]["a"];
    let ways = uses["drawn"].as_object().unwrap().values().chain(Some(&uses["new_text"]));
    assert_eq!(ways.filter_map(|all| all["first"].as_u64()).min(), first, "{said}");
    let words = replay(&["explain", &format!("{}/{}", said["shard"].as_str().unwrap(), said["seq"])]);
    assert!(
        words.contains(&format!("record {id}")) && words.contains("buffer main (reservoir): is"),
        "{words}"
    );
    let verified = replay(&["verify"]);
    assert!(
        verified.starts_with("main: ") && verified.ends_with("every change was made again\n"),
        "{verified}"
    );
    let policies = replay(&["policies", "--json"]);
    let names = policies.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].to_string());
    assert!(
        names.eq(["reservoir", "fifo", "decay", "herding", "k_center"].map(|name| format!("\"{name}\"")))
    );
    assert!(replay(&["policies"]).contains("\n  capacity (string, default \"100000 records\"): "));
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
