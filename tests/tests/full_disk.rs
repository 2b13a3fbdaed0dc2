//! A disk that is full: one error that says where and what to do, and nothing lost once there is room.

use std::fs;
use std::process::Output;

use perennial_program::error::Kind;
use perennial_tests::world::{World, lines, text};
use perennial_tests::{binary, not_run, undisturbed};

use crate::walk::INGEST;

/// Runs `script` where it may mount file systems that no other process sees; it needs no rights.
pub fn inside(world: &World, script: &str) -> Output {
    let mut command = undisturbed("unshare");
    command.current_dir(world.path("")).args(["-Urm", "sh", "-c", script]);
    // A panic that is not kept quiet would come with its whole backtrace.
    command.env("RUST_BACKTRACE", "1").output().expect("`unshare` is there")
}

/// Whether this system lets a test mount what `mount` says.
pub fn may(world: &World, mount: &str) -> bool {
    let may = inside(world, mount).status.success();
    if !may {
        not_run("a test on a file system of its own: this system does not let a test mount one");
    }
    may
}

/// Runs ingest on a file system of these limits until it fails, gives it room, and runs it again. What
/// the first run said, how much was left for the second to read, and the world with the store as that left it.
fn filled(limits: &str) -> Option<(String, usize, World)> {
    let world = World::new();
    world.write("in.jsonl", lines(400));
    let source = "[[source]]\nname = \"s\"\npath = \"in.jsonl\"\n[read]\nblock_lines = 100\n[commit]\nbytes = \"1B\"\n";
    world.write("ingest.toml", source);
    fs::create_dir(world.path("store")).unwrap();
    let mount = format!("mount -t tmpfs -o {limits} tmpfs store");
    if !may(&world, &mount) {
        return None;
    }
    let program = binary("perennial-ingest");
    let run = format!("'{}' --log warn {}", text(&program), INGEST.join(" "));
    let full = format!("{{ {run} >first.out 2>first.err; echo $? >first.code; }}");
    let room = "mount -o remount,size=64m,nr_inodes=10000 store";
    let again = format!("{run} >second.out 2>second.err && cp -a store kept");
    let output = inside(&world, &format!("{mount} && {full} && {room} && {again}"));
    assert!(
        output.status.success(),
        "{limits}: {output:?} {}",
        fs::read_to_string(world.path("second.err")).unwrap_or_default()
    );
    fs::remove_dir(world.path("store")).unwrap();
    fs::rename(world.path("kept"), world.path("store")).unwrap();
    let read = |name: &str| fs::read_to_string(world.path(name)).unwrap();
    let said = read("first.err");
    assert_eq!(read("first.code").trim(), Kind::Unavailable.codes().exit.to_string(), "{limits}: {said}");
    let left = read("second.out").strip_prefix("read ").unwrap().split(':').next().unwrap().parse().unwrap();
    Some((said, left, world))
}

#[tokio::test]
async fn full_disk_is_one_error_with_its_place_and_mend_and_with_room_the_daemon_goes_on_exactly_once() {
    let whole = World::new();
    whole.write("in.jsonl", lines(400));
    whole.write("ingest.toml", "[[source]]\nname = \"s\"\npath = \"in.jsonl\"\n");
    whole.succeed("perennial-ingest", INGEST);
    let expected = whole.readings().await;
    assert_eq!(expected.len(), 400);
    // Out of room for the tables, for a file of rows, for an entry of the log, and for bytes: at once, or
    // with something committed.
    for (limits, act, most_left) in [
        ("nr_inodes=8", "create", 400),
        ("nr_inodes=23", "write", 400),
        ("nr_inodes=27", "commit to", 399),
        ("size=250k", "write", 399),
    ] {
        let Some((said, left, world)) = filled(limits) else { return };
        assert!((1..=most_left).contains(&left), "{limits}: {left} are left");
        let store = text(&world.path("store")).to_owned();
        let lines: Vec<&str> = said.lines().collect();
        let [error, because, hint] = lines[..] else { panic!("{limits}: {said}") };
        assert!(error.starts_with(&format!("error: cannot {act} table `")), "{limits}: {said}");
        assert!(error.ends_with(&format!("no space is left at `{store}`")), "{limits}: {said}");
        assert!(because.contains("No space left on device"), "{limits}: {said}");
        let remedy =
            format!("  hint: make room on the file system of `{store}`, then start again: nothing is lost");
        assert_eq!(hint, remedy, "{limits}: {said}");
        assert_eq!(world.readings().await, expected, "{limits}");
        world.checked().await;
    }
}
