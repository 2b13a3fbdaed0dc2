//! A folder with a store and jobs in it, and the three programs run in it as a user would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use schemas::program::clock::Clock;
use schemas::store::{Store, StoreUrl};

use crate::{binary, root};

/// A folder of its own, removed with it.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty one.
    ///
    /// # Panics
    /// Where the system gives no folder.
    #[must_use]
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("the system gives a temporary folder") }
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in it, and says where.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("a folder can be made");
        }
        fs::write(&path, content).expect("a file can be written");
        path
    }

    /// A program to be run in it, with a quiet log.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary(program));
        command.current_dir(self.folder.path()).args(["--log", "warn"]).args(arguments);
        command.env_remove("PERENNIAL_FAILPOINT");
        command
    }

    /// Runs a program to its end.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().expect("the program starts")
    }

    /// Runs a program that must succeed, and gives what it printed.
    ///
    /// # Panics
    /// With what it said, where it fails.
    pub fn succeed(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {:?}\n{said}", output.status);
        String::from_utf8(output.stdout).expect("programs print UTF-8")
    }

    /// Runs a program that an armed failpoint must kill.
    ///
    /// # Panics
    /// Where it ends in another way: the point was not reached.
    pub fn crash_at(&self, failpoint: &str, program: &str, arguments: &[&str]) {
        let output = self.command(program, arguments).env("PERENNIAL_FAILPOINT", failpoint).output();
        let output = output.expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_none(), "`{failpoint}` was not reached: {:?}\n{said}", output.status);
    }

    /// The store in it that programs call `store`.
    ///
    /// # Panics
    /// Where there is none.
    pub async fn store(&self) -> Store {
        let path = self.path("store");
        let url: StoreUrl = path.to_str().expect("a path in UTF-8").parse().expect("a path is a URL");
        Store::open(&url, &Default::default(), Clock::system()).await.expect("the store opens")
    }
}

/// A file of the bundled data.
#[must_use]
pub fn data(name: &str) -> PathBuf {
    root().join("data").join(name)
}

/// A path as an argument.
///
/// # Panics
/// Where it is not UTF-8.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
