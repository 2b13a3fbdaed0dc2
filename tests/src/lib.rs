//! What the tests across the three programs share.
//!
//! The tests themselves are modules of one binary, `tests/tests/main.rs`. They know the programs by
//! their public faces only: they start them, talk to them, and read the store through `perennial-store`.
//! [`binary`] gives the program to start, [`undisturbed`] starts it, [`root`] the files of the repository,
//! [`world`] a folder to run programs in, [`s3`] a server with a bucket, [`faulty`] a network that fails.

#![allow(clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise and says it")]

pub mod faulty;
pub mod s3;
pub mod world;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use perennial_program::start::Environment;

/// The folder of the workspace: where the `Cargo.toml` with the `[workspace]` lies.
///
/// # Panics
/// Never: this crate is a folder in it.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace")
}

/// The built program of this name, say `perennial-ingest`.
///
/// Cargo tells a test only where the programs of its own package are, so this one looks beside the
/// test's own executable: what it finds has the same profile.
///
/// # Panics
/// With the command to run, if the program is not built or is older than one of its sources: a test of
/// yesterday's program would prove nothing.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the system tells a program its own path");
    // target/debug/deps/main-0123456789abcdef
    let folder = test.ancestors().nth(2).expect("cargo puts a test two folders below its target folder");
    fresh_program(folder, name).unwrap_or_else(|why| {
        let release = if folder.ends_with("release") { " --release" } else { "" };
        panic!("{why}\n  hint: run `cargo build --workspace --bins{release}` first; `make test` does both")
    })
}

/// The value of `PATH` with which a shell finds the three programs first.
///
/// # Panics
/// As [`binary`], if one of them is not built.
#[must_use]
pub fn path_of_programs() -> String {
    let programs = ["perennial-ingest", "perennial-replay", "perennial-train"].map(binary);
    let folder = programs[0].parent().expect("a program is in a folder").display();
    format!("{folder}:{}", Environment::of_process().get("PATH").unwrap_or_default())
}

/// A command for `program` without the variables that the shell of the user may set for programs
/// like it: keys, failpoints, a cloud's credentials, proxies.
pub fn undisturbed(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in Environment::of_process().variables().iter().filter(|(name, _)| disturbs(name)) {
        command.env_remove(name);
    }
    command.env("XDG_CACHE_HOME", std::env::temp_dir().join("perennial-tests"));
    command
}

fn disturbs(variable: &str) -> bool {
    let upper = variable.to_ascii_uppercase();
    upper.starts_with("PERENNIAL_") || upper.starts_with("AWS_") || upper.ends_with("_PROXY")
}

/// The Python of the tests, with the packages that tests/requirements.txt asks for.
///
/// # Panics
/// With the command to run, if it is not there or has other packages.
#[must_use]
pub fn python() -> PathBuf {
    let home = root().join(".venv");
    let has = fs::read(home.join("requirements.txt")).ok();
    let wanted = fs::read(root().join("tests/requirements.txt")).expect("it lies beside this crate");
    assert!(
        has.as_ref() == Some(&wanted),
        "`{}` {}\n  hint: run `make python` first; `make test` does both",
        home.display(),
        if has.is_some() { "is not what tests/requirements.txt asks for" } else { "is missing" },
    );
    home.join("bin/python3")
}

/// Whether all tests are asked for, however long they take.
#[must_use]
pub fn full() -> bool {
    Environment::of_process().get("PERENNIAL_TESTS") == Some("full")
}

/// Prints what could not be run, and why. Not by `eprintln!`: the harness hides the output of a test that
/// passes.
pub fn not_run(what: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "not run: {what}");
}

/// The program `name` in `folder`, unless cargo would build it again.
fn fresh_program(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let program = folder.join(name);
    let built = modified(&program).ok_or_else(|| format!("`{}` is not built", program.display()))?;
    let listing = folder.join(format!("{name}.d"));
    let dep_info = fs::read_to_string(&listing)
        .map_err(|error| format!("cannot read `{}`, the list of its sources: {error}", listing.display()))?;
    for source in sources(&dep_info) {
        // Folders are listed too (a build script may watch one); their time is no content's.
        if !source.is_dir() && modified(&source).is_none_or(|changed| changed > built) {
            return Err(format!("`{}` is older than its source `{}`", program.display(), source.display()));
        }
    }
    Ok(program)
}

/// When a file was last written; nothing if it does not exist.
fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

/// The sources that one of cargo's `.d` files lists: `program: source source ..`, blanks in a path as `\ `.
fn sources(dep_info: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (_, list) in dep_info.lines().filter_map(|line| line.split_once(": ")) {
        let mut path = String::new();
        let mut characters = list.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => path.extend(characters.next()),
                ' ' => paths.push(PathBuf::from(std::mem::take(&mut path))),
                other => path.push(other),
            }
        }
        paths.push(PathBuf::from(path));
    }
    paths.retain(|path| !path.as_os_str().is_empty());
    paths
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    /// A folder with the program `walk`, its list of sources, and the one source, an hour older.
    fn built() -> (tempfile::TempDir, PathBuf, SystemTime) {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("main one.rs");
        let escaped = source.display().to_string().replace(' ', "\\ ");
        fs::write(&source, "fn main() {}").unwrap();
        fs::write(folder.path().join("walk"), "program").unwrap();
        fs::write(folder.path().join("walk.d"), format!("walk: {escaped}\n")).unwrap();
        let built = modified(&folder.path().join("walk")).unwrap();
        touch(&source, built - Duration::from_secs(3600));
        (folder, source, built)
    }

    fn touch(file: &Path, time: SystemTime) {
        File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn root_holds_the_workspace() {
        let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn program_is_found_when_it_is_newer_than_its_sources() {
        let (folder, _, _) = built();
        assert_eq!(fresh_program(folder.path(), "walk"), Ok(folder.path().join("walk")));
    }

    #[test]
    fn program_is_refused_when_a_source_is_newer() {
        let (folder, source, built) = built();
        touch(&source, built + Duration::from_secs(1));
        let why = fresh_program(folder.path(), "walk").unwrap_err();
        assert!(why.contains("older than its source") && why.contains("main one.rs"), "{why}");
    }

    #[test]
    fn program_is_refused_when_a_source_is_gone() {
        let (folder, source, _) = built();
        fs::remove_file(source).unwrap();
        assert!(fresh_program(folder.path(), "walk").unwrap_err().contains("older than its source"));
    }

    #[test]
    fn program_is_refused_when_it_is_not_built() {
        let (folder, _, _) = built();
        assert!(fresh_program(folder.path(), "run").unwrap_err().contains("is not built"));
    }

    #[test]
    fn variables_that_speak_to_programs_disturb_and_those_of_the_system_do_not() {
        for name in ["PERENNIAL_FAILPOINT", "PERENNIAL_INGEST__SHARD", "AWS_REGION", "http_proxy", "NO_PROXY"]
        {
            assert!(disturbs(name), "{name}");
        }
        for name in ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "MY_PERENNIAL_X"] {
            assert!(!disturbs(name), "{name}");
        }
    }

    #[test]
    fn missing_program_stops_a_test_with_the_command_to_run() {
        let stopped = std::panic::catch_unwind(|| binary("perennial-nothing")).unwrap_err();
        let message = stopped.downcast_ref::<String>().unwrap();
        assert!(message.contains("cargo build --workspace --bins"), "{message}");
    }

    #[test]
    fn sources_are_split_at_blanks_that_are_not_escaped() {
        let paths = sources("/t/a: /s/one.rs /s/two\\ words.rs\n\n/t/empty: \n");
        assert_eq!(paths, [PathBuf::from("/s/one.rs"), PathBuf::from("/s/two words.rs")]);
    }
}
