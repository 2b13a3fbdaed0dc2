//! A folder with a store and jobs in it, and the three programs run in it as a user would.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use perennial_program::clock::Clock;
use perennial_schemas::seed::Seed;
use perennial_schemas::table::Table;
use perennial_schemas::table::records::View;
use perennial_store::check::{Report, check};
use perennial_store::{Scan, Store};

use crate::{binary, root, undisturbed};

/// A folder of its own, removed with it, and the store that belongs to it.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    /// Where the store is, if not in the folder, and the options that open it.
    elsewhere: Option<(String, HashMap<String, String>)>,
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
        Self { folder: tempfile::tempdir().expect("the system gives a temporary folder"), elsewhere: None }
    }

    /// An empty one whose store is at `url` and is opened with `options`.
    ///
    /// # Panics
    /// Where the system gives no folder.
    #[must_use]
    pub fn with_store_at(url: &str, options: Vec<(&'static str, String)>) -> Self {
        let options = options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Self { elsewhere: Some((url.to_owned(), options)), ..Self::new() }
    }

    /// The table of a configuration that says where the store is, below `prefix` (`""` or `"replay."`).
    #[must_use]
    pub fn store_table(&self, prefix: &str) -> String {
        let Some((url, options)) = &self.elsewhere else {
            return format!("[{prefix}store]\nurl = \"store\"\n");
        };
        let mut text = format!("[{prefix}store]\nurl = \"{url}\"\n[{prefix}store.options]\n");
        for (key, value) in options {
            let _ = writeln!(text, "\"{key}\" = \"{value}\"");
        }
        text
    }

    /// The variables that say where the store is to a program whose variables begin with `prefix`.
    #[must_use]
    pub fn environment(&self, prefix: &str) -> Vec<(String, String)> {
        let name = format!("{prefix}STORE__URL");
        let Some((url, options)) = &self.elsewhere else { return vec![(name, "store".to_owned())] };
        let mut variables = vec![(name, url.clone())];
        let of_aws = options.iter().filter(|(key, _)| key.starts_with("aws_"));
        variables.extend(of_aws.map(|(key, value)| (key.to_uppercase(), value.clone())));
        variables
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
        self.command_that_logs("warn", program, arguments)
    }

    /// A program to be run in it, which logs what `filter` says.
    #[must_use]
    pub fn command_that_logs(&self, filter: &str, program: &str, arguments: &[&str]) -> Command {
        let mut command = undisturbed(binary(program));
        command.current_dir(self.folder.path()).args(["--log", filter]).args(arguments);
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
        assert_eq!(
            output.status.signal(),
            Some(6),
            "`{failpoint}` was not reached: {:?}\n{said}",
            output.status
        );
    }

    /// The store: the one that programs call `store`, unless it is elsewhere.
    ///
    /// # Panics
    /// Where it cannot be opened.
    pub async fn store(&self) -> Store {
        let here = (text(&self.path("store")).to_owned(), HashMap::new());
        let (url, options) = self.elsewhere.as_ref().unwrap_or(&here);
        let url = url.parse().expect("a path or a URL");
        Store::open(&url, options, Clock::system()).await.expect("the store opens")
    }

    /// What a reader of the records sees, except the times of ingest: a line for each reading, in order.
    ///
    /// # Panics
    /// Where the store cannot be read.
    pub async fn readings(&self) -> Vec<String> {
        let store = self.store().await;
        let version = store.version(Table::Records).await.expect("the table has a version");
        let scan = Scan { order: &["shard", "seq"], ..Scan::default() };
        let batches = store.scan(Table::Records, version, &scan).await.expect("the table is read");
        let mut lines = Vec::new();
        for batch in &batches {
            lines.extend(View::new(batch).expect("rows of records").iter().map(|row| {
                format!(
                    "{} {:?} {} {}..{} {:?} {:?} {:?} {:?}",
                    row.source,
                    row.seq,
                    row.outcome,
                    row.start,
                    row.end,
                    row.external_id,
                    row.id,
                    row.text,
                    row.reason
                )
            }));
        }
        lines
    }

    /// Checks the store, which must be sound, and says what was found.
    ///
    /// # Panics
    /// With what is wrong.
    pub async fn checked(&self) -> Report {
        let report = check(&self.store().await, &BTreeSet::new()).await.expect("the store is read");
        assert_eq!(report.violations, []);
        report
    }
}

/// A program under way; it is killed when it is dropped.
#[derive(Debug)]
pub struct Running(Option<Child>);

impl Running {
    /// Starts it, with the streams that `command` says.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        Self(Some(command.spawn().expect("the program starts")))
    }

    /// Its process.
    ///
    /// # Panics
    /// Never: it is ours until it is waited for.
    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it runs")
    }

    /// Asks it to stop as a service manager does.
    ///
    /// # Panics
    /// Where it ended before.
    pub fn ask_to_stop(&mut self) {
        // A shell has its own `kill`; not every system has the program.
        let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child().id())]).status();
        assert!(asked.expect("a shell is there").success());
    }

    /// Waits for its end, and gives the output that was not taken before.
    ///
    /// # Panics
    /// Where it cannot be waited for.
    #[must_use]
    pub fn end(mut self) -> Output {
        self.0.take().expect("it runs").wait_with_output().expect("it ends")
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Panics
    /// Where it cannot be asked or waited for.
    #[must_use]
    pub fn terminate(mut self) -> Output {
        self.ask_to_stop();
        self.end()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended of itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `count` lines of JSON whose texts are unlike each other.
#[must_use]
pub fn lines(count: u64) -> String {
    let mut lines = String::new();
    for number in 0..count {
        let _ = write!(lines, "{{\"id\": {number}, \"text\": \"");
        for word in 0..12 {
            let _ = write!(lines, "{:x} ", Seed::new(3).at(&[number, word]));
        }
        lines += "\"}\n";
    }
    lines
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
