//! The whole way with the store in a bucket: what comes out is what comes out of a folder, whatever the
//! network does in between.

use std::fs;
use std::process::Output;

use perennial_program::failpoint;
use perennial_schemas::seed::Seed;
use perennial_tests::faulty::{Faults, Faulty};
use perennial_tests::s3::{SECRET, Server, URL, options};
use perennial_tests::world::{World, lines};
use serde_json::Value;

use crate::crash::learnt;
use crate::walk::{INGEST, TRAIN, prepared};

const SAMPLE: &[&str] = &[
    "--config",
    "reading.toml",
    "--set",
    "batch.rows=2",
    "--set",
    "batch.tokens=128",
    "--set",
    "mix.main=0.5",
    "--set",
    "follow.block=16",
    "sample",
    "--steps",
    "8",
    "--digests",
];

/// What a walk leaves.
#[derive(Debug, PartialEq)]
struct Walked {
    /// What `check` prints: the sums of each source.
    sums: String,
    digests: Vec<String>,
    /// The loss curve and the weights.
    learnt: (Vec<String>, Vec<u8>),
    /// Every step at which the job was scored, with its scores.
    scores: Vec<Value>,
    readings: Vec<String>,
}

/// Runs a program that learns only from its environment where the store is.
fn by_environment(world: &World, program: &str, prefix: &str, arguments: &[&str]) -> String {
    let output = world.command(program, arguments).envs(world.environment(prefix)).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn digests_of(world: &World) -> Vec<String> {
    let said = world.succeed("perennial-replay", SAMPLE);
    said.lines().filter_map(|line| line.strip_prefix("digest ")).map(str::to_owned).collect()
}

/// The bundled stream from the source to the report, each step by the program that does it.
async fn walk(world: World) -> Walked {
    let world = prepared(world);
    world.write("reading.toml", world.store_table(""));
    let said = world.succeed("perennial-ingest", INGEST);
    assert!(said.starts_with("read 1013: kept"), "{said}");
    let digests = digests_of(&world);
    let done = world.succeed("perennial-train", TRAIN);
    assert!(done.starts_with("done after step 24"), "{done}");
    let report = ["report", "--run", "floor:a:all", "--out", "out"];
    by_environment(&world, "perennial-train", "PERENNIAL_TRAIN__REPLAY__", &report);
    let json = fs::read_to_string(world.path("out/report.json")).unwrap();
    let report: Value = serde_json::from_str(&json).unwrap();
    let points = report["runs"][0]["points"].as_array().unwrap();
    let scores = points.iter().map(|point| serde_json::json!([point["step"], point["scores"]])).collect();

    let sums = by_environment(&world, "perennial-ingest", "PERENNIAL_INGEST__", &["check"]);
    by_environment(&world, "perennial-ingest", "PERENNIAL_INGEST__", &["maintain"]);
    let again = world.succeed("perennial-ingest", INGEST);
    assert!(again.starts_with("read 0: kept 0"), "what was read is not read again: {again}");
    assert_eq!(by_environment(&world, "perennial-ingest", "PERENNIAL_INGEST__", &["check"]), sums);
    let shown = fs::read_to_string(world.path("a/config.toml")).unwrap() + &json;
    assert!(!shown.contains(SECRET), "{shown}");
    Walked { sums, digests, learnt: learnt(&world, "a", 24), scores, readings: world.readings().await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn walk_in_a_bucket_behind_a_network_that_fails_gives_what_the_walk_in_a_folder_gives() {
    let server = Server::start();
    let expected = walk(World::new()).await;
    assert_eq!((expected.digests.len(), expected.learnt.0.len(), expected.scores.len()), (8, 24, 3));
    assert_eq!(expected.readings.len(), 1013);
    assert!(expected.sums.contains("read 1013 = ") && expected.sums.ends_with("the store is sound\n"));

    let proxy = Faulty::before(server.address(), Seed::new(13)).await;
    proxy.set(Faults { refused: 0.05, lost: 0.3, cut: 0.05, slow: 0.02, ..Faults::default() });
    let found = walk(World::with_store_at(URL, options(proxy.address()))).await;
    assert!(found == expected, "{found:?} is not {expected:?}");
    let counts = proxy.counts();
    eprintln!("{counts:?}");
    assert!(counts.lost >= 3 && counts.cut >= 10 && counts.refused >= 20 && counts.slow >= 5, "{counts:?}");
}

/// A world whose source has 30 lines, of which ten make a commit.
fn small(world: World) -> World {
    world.write("in.jsonl", lines(30));
    let source =
        "[[source]]\nname = \"s\"\npath = \"in.jsonl\"\n[read]\nblock_lines = 10\n[commit]\nbytes = \"1B\"\n";
    world.write("ingest.toml", source.to_owned() + &world.store_table(""));
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingest_killed_at_any_failpoint_goes_on_exactly_once_in_a_bucket() {
    let server = Server::start();
    let world = small(World::new());
    world.succeed("perennial-ingest", INGEST);
    let whole = world.readings().await;
    assert_eq!(whole.len(), 30);
    let points =
        failpoint::ALL.iter().filter(|name| name.starts_with("ingest.") || name.starts_with("store."));
    for (number, point) in points.enumerate() {
        let url = format!("s3://stream/{number}");
        let world = small(World::with_store_at(&url, options(server.address())));
        world.crash_at(&format!("{point}:2"), "perennial-ingest", INGEST);
        let left = world.readings().await;
        assert!((10..=20).contains(&left.len()) && left[..] == whole[..left.len()], "{point}: {left:?}");
        let said = world.succeed("perennial-ingest", INGEST);
        assert!(said.starts_with(&format!("read {}: ", 30 - left.len())), "{point}: {said}");
        assert_eq!(world.readings().await, whole, "{point}");
        world.checked().await;
    }
}

#[test]
fn secret_of_a_bucket_reaches_no_log_no_message_and_no_shown_configuration() {
    let server = Server::start();
    let world = small(World::with_store_at(URL, options(server.address())));
    world.write("job.toml", world.store_table("replay."));
    world.write("reading.toml", world.store_table(""));
    // Of the libraries below only warnings are logged, unless the filter names them.
    let all = "trace,deltalake=trace,deltalake_core=trace,object_store=trace";
    let run = |program: &str, arguments: &[&str]| {
        let output = world.command_that_logs(all, program, arguments).output().unwrap();
        let said = said(&output);
        assert!(!said.contains(SECRET), "{program} {arguments:?}: {said}");
        (output.status.success(), said)
    };
    let (done, said) = run("perennial-ingest", INGEST);
    assert!(done && said.contains("read 30: ") && said.contains("TRACE"), "{said}");
    for (program, config) in [
        ("perennial-ingest", "ingest.toml"),
        ("perennial-replay", "reading.toml"),
        ("perennial-train", "job.toml"),
    ] {
        let (done, shown) = run(program, &["--config", config, "config", "show"]);
        assert!(done && shown.contains("# aws_secret_access_key is set and not shown"), "{shown}");
        assert!(shown.contains("aws_region = \"us-east-1\""), "{shown}");
    }
    let nowhere = ["--config", "reading.toml", "--store", "s3://nowhere/store", "sample"];
    let (done, said) = run("perennial-replay", &nowhere);
    assert!(!done && said.contains("error: "), "{said}");
}
