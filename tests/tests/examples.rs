//! The examples, run as they are: each must print what its README says that it prints.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;

use perennial_program::start::Environment;
use perennial_tests::{path_of_programs, python, root, undisturbed};

use crate::python::torch;
use crate::tutorial::blocks;

/// The names of the folders in examples/.
fn names() -> Vec<String> {
    let entries = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs an example with its store in a temporary folder; what it printed.
fn run(name: &str, torch: Vec<(&str, OsString)>) -> String {
    let out = tempfile::tempdir().unwrap();
    let mut script = undisturbed(root().join("examples").join(name).join("run.sh"));
    script.arg(out.path()).env("PATH", path_of_programs()).env("PYTHON", python()).envs(torch);
    let output = script.output().unwrap();
    assert!(
        output.status.success(),
        "{name}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// With PERENNIAL_BLESS=1 the READMEs are corrected instead.
#[test]
fn examples_print_what_their_readmes_say() {
    let names = names();
    for name in &names {
        let torch = match name.ends_with("-with-pytorch") {
            false => Some(Vec::new()),
            true => torch(),
        };
        let Some(torch) = torch else { continue };
        let printed = run(name, torch);
        let page = root().join("examples").join(name).join("README.md");
        let text = fs::read_to_string(&page).unwrap();
        let said = blocks(&text, "text");
        let [said] = said.as_slice() else { panic!("{name}/README.md needs one block in `text`") };
        if Environment::of_process().get("PERENNIAL_BLESS") == Some("1") {
            let block = |content: &str| format!("```text\n{content}```\n");
            fs::write(page, text.replacen(&block(said), &block(&printed), 1)).unwrap();
        } else {
            assert!(printed == *said, "{name} printed\n{printed}\nand its README says\n{said}");
        }
    }
    assert!(names.len() >= 3, "{names:?}");
    // Not by `eprintln!`: the harness keeps the output of a test that passes.
    let _ = writeln!(std::io::stderr(), "examples run: {}", names.join(", "));
}
