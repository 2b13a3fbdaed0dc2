//! What users and machines do to the programs: each failure has its exit code, says what is wrong and
//! how to fix it, and leaves the store sound.

use perennial_program::error::Kind;
use perennial_tests::world::{World, lines, text};

use super::{FOLLOW, ONCE, assert_failed, followed, readings, said, source, start, until_read};
use crate::full_disk::{inside, may};

/// A world with `in.jsonl` of three lines, and the configuration that reads it.
fn small() -> World {
    let world = World::new();
    world.write("in.jsonl", lines(3));
    world.write("ingest.toml", source("in.jsonl", ""));
    world
}

#[test]
fn configuration_with_faults_is_refused_with_every_line_and_what_may_be_meant() {
    let world = small();
    let faulty = "shrad = \"x\"\n[[source]]\nname = \"s\"\npath = \"in.jsonl\"\nfolow = true\n[read]\nblock_line = 3\n[commit]\nbytes = \"lots\"\n";
    world.write("ingest.toml", faulty);
    let output = world.run("perennial-ingest", ONCE);
    let words = [
        "ingest.toml:1: unknown key `shrad`; did you mean `shard`?",
        "ingest.toml:5: unknown key `source[0].folow`; did you mean `follow`?",
        "ingest.toml:7: unknown key `read.block_line`; did you mean `block_lines`?",
        "ingest.toml:9: `commit.bytes`: `lots` is not a size; write one as `64MiB`",
    ];
    assert_failed(&output, Kind::Config, &words);
    assert!(!world.path("store").exists(), "nothing was done");
    for (content, words) in [
        ("x = [", &["ingest.toml:1:", "is not TOML"][..]),
        ("shard = \"Not A Name\"", &["ingest.toml:1", "`shard`", "must be 1 to 64 of the characters"]),
        ("[queue]\nblocks = 0", &["ingest.toml:2", "`queue.blocks`", "must be at least 1"]),
        ("[queue]\nblocks = 2", &["`source`", "nothing to read", "`[[source]]`"]),
        (
            "[[source]]\nname = \"a\"\npath = \"-\"\nfollow = true",
            &["ingest.toml:4", "follow", "standard input"],
        ),
        (
            "[[source]]\nname = \"a\"\npath = \"b\"\n[[source]]\nname = \"a\"\npath = \"c\"",
            &["ingest.toml:5", "another source"],
        ),
    ] {
        world.write("ingest.toml", content);
        assert_failed(&world.run("perennial-ingest", ONCE), Kind::Config, words);
    }
    let absent = ["--config", "none.toml", "run"];
    assert_failed(&world.run("perennial-ingest", &absent), Kind::Config, &["none.toml: no such file"]);
}

#[test]
fn unknown_failpoint_is_refused_before_anything_is_done() {
    let world = small();
    let output =
        world.command("perennial-ingest", ONCE).env("PERENNIAL_FAILPOINT", "nowhere").output().unwrap();
    assert_failed(&output, Kind::Config, &["`nowhere` is not a failpoint", "ingest.write.before_commit"]);
    assert!(!world.path("store").exists());
}

#[test]
fn source_that_is_not_there_is_named_with_the_key_that_names_it() {
    let world = small();
    world.write("ingest.toml", source("none.jsonl", ""));
    let output = world.run("perennial-ingest", ONCE);
    assert_failed(
        &output,
        Kind::NotFound,
        &["source `s`: there is no `none.jsonl`", "hint: correct the `path`"],
    );
}

#[test]
fn store_that_is_not_there_is_no_store_and_is_not_made_by_who_reads() {
    let world = small();
    for (program, arguments) in [
        ("perennial-ingest", &["--config", "ingest.toml", "check"][..]),
        ("perennial-replay", &["--store", "store", "sample"]),
    ] {
        let output = world.run(program, arguments);
        assert_failed(&output, Kind::NotFound, &["there is no store at file://", "hint: check `store.url`"]);
        assert!(!world.path("store").exists());
    }
}

#[test]
fn store_below_a_file_cannot_be_made() {
    let world = small();
    let arguments = ["--config", "ingest.toml", "--set", "store.url=in.jsonl/store", "run", "--once"];
    let output = world.run("perennial-ingest", &arguments);
    assert_failed(
        &output,
        Kind::Unavailable,
        &["cannot create the folder", "in.jsonl/store/records", "Not a directory"],
    );
}

#[test]
fn store_on_a_file_system_for_reading_is_refused_with_the_mend() {
    let world = small();
    std::fs::create_dir(world.path("store")).unwrap();
    let mount = "mount --bind store store && mount -o remount,ro,bind store";
    if !may(&world, mount) {
        return;
    }
    let program = perennial_tests::binary("perennial-ingest");
    let run = format!("'{}' --log warn {}", text(&program), ONCE.join(" "));
    let output = inside(&world, &format!("{mount} && {run}"));
    let words = ["cannot create the folder", "Read-only file system", "hint: the file system is read-only"];
    assert_failed(&output, Kind::Unavailable, &words);
}

#[tokio::test]
async fn store_of_another_release_is_refused_by_every_program_and_left_as_it_is() {
    let world = small();
    world.succeed("perennial-ingest", ONCE);
    let log = world.path("store/records/_delta_log/00000000000000000000.json");
    let made = std::fs::read_to_string(&log).unwrap();
    world.write("in.jsonl", lines(4));
    let others = [
        (
            "99",
            "has format 99; this program knows formats up to 4",
            "hint: use the release that made the store",
        ),
        (
            "1",
            "has format 1; this program reads format 4 only",
            "hint: read its sources again into a new store",
        ),
    ];
    for (format, words, hint) in others {
        let other = made.replace("\"perennial.format\":\"4\"", &format!("\"perennial.format\":\"{format}\""));
        assert_ne!(other, made);
        std::fs::write(&log, other).unwrap();
        for (program, arguments) in [
            ("perennial-ingest", ONCE),
            ("perennial-replay", &["--store", "store", "sample"]),
            ("perennial-ingest", &["--config", "ingest.toml", "check"]),
        ] {
            let output = world.run(program, arguments);
            assert_failed(&output, Kind::Corrupt, &["table `records` at file://", words, hint]);
        }
    }
    std::fs::write(&log, made).unwrap();
    assert_eq!(readings(&world).await.len(), 3, "nothing was written");
}

#[tokio::test]
async fn second_daemon_of_a_shard_is_told_who_holds_it_and_a_killed_one_holds_nothing() {
    let world = small();
    world.write("ingest.toml", followed("in.jsonl", "[commit]\ninterval = \"0s\"\n"));
    let mut first = start(&world, "perennial-ingest", FOLLOW);
    until_read(&world, 3).await;
    let holder = format!("is held by perennial-ingest, process {}", first.child().id());
    let second = world.run("perennial-ingest", ONCE);
    assert_failed(&second, Kind::Conflict, &["shard `main` of file://", &holder]);
    world.write("other.jsonl", lines(3));
    world.write("other.toml", format!("shard = \"other\"\n{}", source("other.jsonl", "")));
    world.succeed("perennial-ingest", &["--config", "other.toml", "run", "--once"]);
    drop(first);
    world.succeed("perennial-ingest", ONCE);
    assert_eq!(readings(&world).await.len(), 6, "three of each shard");
}

#[test]
fn tickets_that_are_none_are_refused_as_input() {
    let world = small();
    world.succeed("perennial-ingest", ONCE);
    let sample = ["--store", "store", "--set", "batch.rows=1", "--set", "batch.tokens=8", "--set", "mix={}"];
    let sample = [&sample[..], &["--set", "follow.block=4", "sample"]].concat();
    let issued = world.succeed("perennial-replay", &sample);
    let ticket = issued.lines().find_map(|line| line.strip_prefix("ticket ")).unwrap();
    let with = |ticket: &str| world.run("perennial-replay", &[&sample[..], &["--ticket", ticket]].concat());
    assert!(with(ticket).status.success(), "{}", said(&with(ticket)));
    let unknown = ticket.replacen('{', "{\"more\":1,", 1);
    for malformed in ["", "{", "[]", "null", "{}", "ticket", &ticket[..ticket.len() - 1], &unknown] {
        assert_failed(&with(malformed), Kind::Input, &["invalid ticket", "because: "]);
    }
    let format = ticket.replacen("\"format\":4", "\"format\":7", 1);
    assert_ne!(format, ticket);
    assert_failed(
        &with(&format),
        Kind::Input,
        &["format 7 of the replay API is not 4", "hint: run the same release"],
    );
}
