//! The Python package: installed by pip, its own tests against a real server, PyTorch's DataLoader, and servers
//! that are killed while ranks read.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_program::start::Environment;
use perennial_schemas::seed::{Seed, below};
use perennial_tests::world::{Running, World};
use perennial_tests::{full, not_run, python, root, undisturbed};
use tempfile::TempDir;

use crate::serve::Server;
use crate::walk::{INGEST, ingested};

const SETTINGS: &[&str] = &["--set", "batch.rows=6", "--set", "mix.main=0.34", "--set", "follow.block=16"];

/// The package as pip installs it from its folder.
fn installed() -> &'static Path {
    static SITE: OnceLock<TempDir> = OnceLock::new();
    let site = SITE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("the system gives a temporary folder");
        // A build leaves files beside its sources.
        let copy = folder.path().join("python");
        copy_all(&root().join("replay/python"), &copy);
        let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
        let mut pip = undisturbed(python());
        pip.args(arguments)
            .args(["--no-build-isolation", "--target"])
            .arg(folder.path().join("site"))
            .arg(copy);
        succeeded(&pip.output().expect("Python starts"));
        folder
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| site.path().join("site"))
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// The variables with which the Python of the tests imports the package and the torch of `.libtorch`; `None`, with a
/// message, where that is the torch of another Python.
pub fn torch() -> Option<Vec<(&'static str, OsString)>> {
    static STAND_INS: OnceLock<Option<TempDir>> = OnceLock::new();
    let libtorch = root().join(".libtorch");
    let stand_ins = STAND_INS.get_or_init(|| {
        let version = undisturbed(python()).args(["-c", "import sys; print(sys.version_info[:2])"]).output();
        let version = succeeded(&version.expect("Python starts"));
        if version.trim() != "(3, 11)" || !libtorch.join("torch/__init__.py").is_file() {
            not_run("the tests that need PyTorch: its wheel in .libtorch is for Python 3.11");
            return None;
        }
        let out = tempfile::tempdir().expect("the system gives a temporary folder");
        let mut make = undisturbed(python());
        make.arg("-B").arg(root().join("tests/cuda_stand_ins.py")).arg(&libtorch).arg(out.path());
        succeeded(&make.output().expect("Python starts"));
        Some(out)
    });
    let stand_ins = stand_ins.as_ref()?;
    let join = |paths: [&Path; 2]| std::env::join_paths(paths).expect("paths without a colon");
    let libraries = join([stand_ins.path(), &libtorch.join("nvidia/cu13/lib")]);
    Some(vec![("PYTHONPATH", join([installed(), &libtorch])), ("LD_LIBRARY_PATH", libraries)])
}

/// Runs one of the package's own test files against a server.
fn own_tests(name: &str, server: &Server, variables: Vec<(&str, OsString)>) {
    let mut tests = undisturbed(python());
    tests.arg("-B").arg(root().join("replay/python/tests").join(name)).envs(variables);
    tests.env("PERENNIAL_URL", format!("http://{}", server.http));
    if let Some(full) = Environment::of_process().get("PERENNIAL_TESTS") {
        tests.env("PERENNIAL_TESTS", full);
    }
    succeeded(&tests.output().expect("Python starts"));
}

fn ingested_world() -> World {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    world
}

#[test]
fn package_installed_by_pip_passes_its_own_tests() {
    let world = ingested_world();
    let server = Server::start(&world, SETTINGS);
    own_tests("test_batches.py", &server, vec![("PYTHONPATH", installed().into())]);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn data_loader_of_torch_reads_a_job_with_any_number_of_ranks_and_workers() {
    let Some(torch) = torch() else { return };
    let world = ingested_world();
    let server = Server::start(&world, SETTINGS);
    own_tests("test_torch.py", &server, torch);
    assert_eq!(server.terminate(), Some(0));
}

/// Prints a digest of each part of each step.
const READ: &str = r#"
import hashlib, os, sys
import perennial
url, rank, world, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for batch in perennial.Batches(url, "killed", rank=rank, world_size=world, stop=stop, prefetch=6, deadline=10):
    for row in range(len(batch.rows)):
        cells = batch.tokens[row].tobytes() + batch.targets[row].tobytes() + batch.mask[row].tobytes()
        print(batch.step, batch.rows[row], hashlib.sha256(cells).hexdigest(), flush=True)
"#;

fn rank(world: &World, http: &str, rank: u64, ranks: u64, stop: u64) -> Running {
    let mut command = undisturbed(python());
    command.args(["-B", "-c", READ, &format!("http://{http}")]);
    command.args([rank, ranks, stop].map(|number| number.to_string()));
    command.env("PYTHONPATH", installed()).current_dir(world.path("."));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(command)
}

#[tokio::test]
async fn ranks_get_the_same_rows_whoever_serves_them_and_however_often_the_server_is_killed() {
    let (kills, stop) = if full() { (200, 1_400) } else { (8, 600) };
    let world = ingested_world();
    let mut server = Server::start(&world, SETTINGS);
    let http = server.http.clone();
    let address = format!("serve.http={http}");
    let ranks: Vec<Running> = (0..5).map(|number| rank(&world, &http, number, 5, stop)).collect();
    let (clock, seed) = (Clock::system(), Seed::new(33).child("kills"));
    let again = [SETTINGS, &["--set", &address]].concat();
    for kill in 0..kills {
        clock.sleep(Duration::from_micros(below(seed.at(&[kill]), 400_000))).await;
        drop(server);
        server = Server::start(&world, &again);
    }
    let mut rows: Vec<String> = Vec::new();
    for running in ranks {
        rows.extend(succeeded(&running.end()).lines().map(str::to_owned));
    }
    let alone = succeeded(&rank(&world, &http, 0, 1, stop).end());
    let mut expected: Vec<&str> = alone.lines().collect();
    assert_eq!(expected.len() as u64, 6 * stop);
    rows.sort_unstable();
    expected.sort_unstable();
    assert_eq!(rows, expected);
}
