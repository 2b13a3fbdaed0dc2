//! `docs/configuration.md` is what the programs say of their keys, and the frozen list of them.
//!
//! Its beginning is written by hand and checked here; from [`MARK`] on it is what `config keys --markdown`
//! prints. `make docs` writes it.

use std::fs;

use perennial_tests::root;
use perennial_tests::world::World;

const PATH: &str = "docs/configuration.md";

/// What stands between the two parts.
const MARK: &str = "<!-- Generated from here on by `make docs`: what `config keys --markdown` prints. -->\n";

/// Set to `1` by `make docs`: writes the page instead of comparing it.
const BLESS: &str = "PERENNIAL_BLESS";

#[test]
#[expect(clippy::disallowed_methods, reason = "`make docs` runs this test as its generator")]
fn reference_of_the_configuration_is_what_the_programs_print() {
    let written = fs::read_to_string(root().join(PATH)).unwrap();
    let (opening, before) = written.split_once(MARK).expect("the page has its mark");
    let world = World::new();
    let after: String = ["perennial-ingest", "perennial-replay", "perennial-train"]
        .map(|program| format!("\n{}", world.succeed(program, &["config", "keys", "--markdown"])))
        .concat();
    if std::env::var_os(BLESS).is_some_and(|value| value == "1") {
        fs::write(root().join(PATH), format!("{opening}{MARK}{after}")).unwrap();
        return;
    }
    let missing = |from: &str, other: &str| -> String {
        from.lines()
            .filter(|line| !other.lines().any(|o| o == *line))
            .map(|line| format!("  {line}\n"))
            .collect()
    };
    assert!(
        before == after,
        "{PATH} is not what the programs print. Only on the page:\n{}Only printed:\n{}\
         The page is the frozen list of keys and defaults: a key that is gone and a default that changed break\n\
         somebody's file. If it is meant, run `make docs` and commit the page.",
        missing(before, &after),
        missing(&after, before)
    );
    for (key, words) in before.lines().filter_map(|line| line.strip_prefix("- `")?.split_once("): ")) {
        assert!(!words.is_empty(), "`{key}` has no words");
    }
}

/// The trainer's table `replay` is described as the whole of perennial-replay.
#[test]
fn keys_of_replay_are_those_of_a_job_below_replay() {
    let world = World::new();
    let keys = |program: &str| -> Vec<String> {
        let printed = world.succeed(program, &["config", "keys"]);
        printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let job = keys("perennial-train");
    let inner: Vec<&str> = job.iter().filter_map(|line| line.strip_prefix("replay.")).collect();
    assert_eq!(inner, keys("perennial-replay"));
}

/// What the opening shows, done.
#[test]
fn opening_of_the_reference_shows_what_the_programs_do() {
    let written = fs::read_to_string(root().join(PATH)).unwrap();
    let (opening, _) = written.split_once(MARK).unwrap();
    let blocks: Vec<&str> = opening.split("```").skip(1).step_by(2).collect();
    let [file, command, shown, wrong, refused] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    let inside = |block: &str| block.split_once('\n').unwrap().1.to_owned();
    let world = World::new();
    world.write("ingest.toml", inside(file));

    let command = inside(command);
    let (variable, arguments) = command.trim().split_once(" perennial-ingest ").unwrap();
    let (name, value) = variable.split_once('=').unwrap();
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let output = world.command("perennial-ingest", &arguments).env(name, value).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in inside(shown).lines() {
        assert!(printed.lines().any(|known| known == line), "no line `{line}` in:\n{printed}");
    }

    world.write("ingest.toml", inside(wrong));
    let output = world.run("perennial-ingest", &["--config", "ingest.toml", "config", "check"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    for line in inside(refused).lines() {
        assert!(said.contains(line), "no line `{line}` in:\n{said}");
    }
}
