//! `docs/configuration.md` is what the programs say of their keys, and the frozen list of them.
//!
//! Its beginning is written by hand and checked here; from [`MARK`] on it is generated from `config keys`,
//! `config show` and the words at the fields. `make docs` writes it anew.

mod page;
mod source;

use std::fs;

use page::{PROGRAMS, changes, page, sources};
use perennial_tests::root;
use perennial_tests::world::World;

const PATH: &str = "docs/configuration.md";

/// What stands between the two parts.
const MARK: &str =
    "<!-- Generated from here on by `make docs`, from the programs and the words at their fields. -->\n";

/// Set to `1` by `make docs`: writes the page instead of comparing it.
const BLESS: &str = "PERENNIAL_BLESS";

#[test]
#[expect(clippy::disallowed_methods, reason = "`make docs` runs this test as its generator")]
fn reference_of_the_configuration_is_what_the_programs_and_their_fields_say() {
    let written = fs::read_to_string(root().join(PATH)).unwrap();
    let (opening, before) = written.split_once(MARK).expect("the page has its mark");
    let after = page(&World::new(), &sources())
        .unwrap_or_else(|problems| panic!("{} to mend:\n  {}", problems.len(), problems.join("\n  ")));
    if std::env::var_os(BLESS).is_some_and(|value| value == "1") {
        fs::write(root().join(PATH), format!("{opening}{MARK}{after}")).unwrap();
        return;
    }
    let told = changes(before, &after).join("\n  ");
    let told = if told.is_empty() { "the words of some".to_owned() } else { told };
    assert!(
        before == after,
        "{PATH} is not what the programs say; these differ:\n  {told}\n\
         The page is the frozen list of keys and defaults: a key that is gone and a default that changed break\n\
         somebody's file. If it is meant, run `make docs` and commit the page."
    );
}

#[test]
fn every_field_of_a_configuration_is_a_key() {
    let (world, sources) = (World::new(), sources());
    for program in &PROGRAMS {
        let keys = program.keys(&world).into_iter().map(|key| key.name);
        let keys: Vec<String> = keys.filter(|key| !key.starts_with("replay.")).collect();
        assert!(keys.len() > 10, "{}: {keys:?}", program.name);
        let idle = sources.idle_fields(&program.root(), &keys).unwrap();
        let idle: Vec<&String> = idle.iter().filter(|field| *field != "replay").collect();
        assert!(idle.is_empty(), "{}: nobody can set {idle:?}", program.name);
    }
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

#[test]
fn key_that_is_gone_or_changed_is_told_by_name() {
    let before = "## one\n- `a` (size; default `1`): X\n  y.\n### `[t]`\n- `t.b` (string; no default): X.\n";
    let after = "## one\n- `a` (size; default `2`): X.\n#### `p`\n- `t.c` (string; no default): X.\n";
    let told = changes(before, after);
    assert_eq!(
        told,
        [
            "gone: one `t.b`",
            "changed: one `a` was (size; default `1`), is (size; default `2`)",
            "new: one `p` `t.c` (string; no default)"
        ]
    );
    assert_eq!(changes(before, before), Vec::<String>::new());
}
