//! The store in the eyes of a program that knows nothing of Perennial: Python's `deltalake`.

use std::fs;
use std::path::Path;
use std::process::Output;

use perennial_tests::{python, root, undisturbed};
use tempfile::TempDir;

/// A store with some rows in every table, and beside it what must be found there.
fn sample() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut command = undisturbed(env!("CARGO_BIN_EXE_store_writer"));
    let output = command.arg("sample").arg(folder.path().join("store")).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

fn compare(folder: &Path) -> Output {
    let script = root().join("tests/tests/stranger.py");
    undisturbed(python()).arg("-B").arg(script).arg(folder.join("store")).arg(folder).output().unwrap()
}

#[test]
fn python_finds_every_cell_of_every_version_and_every_transaction_as_it_was_committed() {
    let folder = sample();
    let output = compare(folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn python_tells_a_store_that_differs() {
    let folder = sample();
    let path = |name: &str| folder.path().join(name);
    let expected = fs::read_to_string(path("expected.json")).unwrap();
    let wrong = expected.replace("\"sample/views\":2", "\"sample/views\":3");
    assert_ne!(wrong, expected);
    fs::write(path("expected.json"), wrong).unwrap();
    // The newest version of the one table for the first of the other.
    fs::copy(path("evaluations-2.arrow"), path("evaluations-1.arrow")).unwrap();
    // A cell: the letter stands once in the texts, plainly.
    let mut buffers = fs::read(path("buffers-2.arrow")).unwrap();
    let at = buffers.windows(9).rposition(|window| window == b"reservoir").unwrap();
    buffers[at] = b'R';
    fs::write(path("buffers-2.arrow"), buffers).unwrap();

    let output = compare(folder.path());
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    for line in [
        "evaluations at version 1: 1 rows instead of 2",
        "buffers at version 2: column policy of row 1 is 'reservoir' instead of 'Reservoir'",
        "views: sample/views stands at 2 instead of 3",
    ] {
        assert!(said.contains(line), "`{line}` is missing in:\n{said}");
    }
}
