//! `perennial-ingest`: reads streaming text into a store, exactly once.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::config::Config;
use crate::dedup::held_out::HeldOut;
use crate::error::IngestError;
use crate::explain::explain;
use crate::maintain;
use crate::pipeline::{self, Summary};
use crate::score::catalogue;
use clap::{Parser, Subcommand};
use perennial_program::cli::{self, ConfigCommand, Log};
use perennial_program::clock::Clock;
use perennial_program::error::{Failure, Kind, ProgramError};
use perennial_program::start;
use perennial_program::stop::Stop;
use perennial_schemas::id::Seq;
use perennial_store::Store;
use perennial_store::check::{self, Report};
use perennial_store::lock::ShardLock;

/// Reads streaming text into a Perennial store, exactly once: every reading becomes one row that says
/// what became of it, in the same commit as the position behind it.
///
/// Kill it at any time and run it again: it goes on at the last commit.
#[derive(Debug, Parser)]
#[command(name = "perennial-ingest", version, arg_required_else_help = true, after_help = catalogue::help())]
struct Cli {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    config: cli::Config,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the configured sources into the store, which is created if it does not exist.
    Run {
        /// End when every source is read to its present end, followed ones too.
        #[arg(long)]
        once: bool,
    },
    /// Check every invariant of the store.
    Check,
    /// Join small files, delete old ones and cut the log now; `run` does it every `maintain.every`.
    Maintain,
    /// Say what became of one reading, and why.
    Explain {
        /// The reading, as `SHARD/SEQ`.
        reading: String,
    },
    /// Look at the configuration without running anything.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// The store does not hold what it promises.
#[derive(Debug, thiserror::Error)]
#[error("the store is not sound: {0} violations")]
struct Unsound(usize);

impl ProgramError for Unsound {
    fn kind(&self) -> Kind {
        Kind::Corrupt
    }
    fn hint(&self) -> Option<String> {
        Some("stop every writer, keep a copy of the store, and look at the violations above before writing again".into())
    }
}

/// Parses the command line, runs the command, and prints its error if it fails.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start::run(&cli.log.clone(), |environment, stop| async move {
        let loaded = cli.config.load::<Config>("ingest", "store.url", &environment, Config::check)?;
        match &cli.command {
            Command::Config(command) => command.run("ingest", &loaded),
            Command::Run { once } => run(&loaded.value, *once, &stop).await,
            Command::Check => check(&loaded.value).await,
            Command::Maintain => maintain_now(&loaded.value, &stop).await,
            Command::Explain { reading } => explain_reading(&loaded.value, reading).await,
        }
    })
}

async fn run(config: &Config, once: bool, stop: &Stop) -> Result<(), Failure> {
    if config.source.is_empty() {
        let why = "names nothing to read: write a `[[source]]` with its `name` and `path`".to_owned();
        return Err(IngestError::Config { key: "source".to_owned(), why }.into());
    }
    let clock = Clock::system();
    let (url, options) = config.store.parts()?;
    let store = Store::create(&url, &options, clock.clone()).await?;
    let holder = format!("perennial-ingest, process {}", std::process::id());
    let lock = config.shard().map(|shard| ShardLock::take(&store, &shard, &holder)).transpose()?;
    let done = Stop::new();
    let keeper = {
        let (store, config, clock, done) = (store.clone(), config.maintain, clock.clone(), done.clone());
        tokio::spawn(async move { maintain::keep(&store, &config, &clock, &done).await })
    };
    let summary = pipeline::run(config, &store, &clock, stop, once).await;
    done.trigger();
    // It stops between two of its steps; the next run does the rest.
    let _ = keeper.await;
    drop(lock);
    let summary = summary?;
    cli::print(&describe(&summary, config, clock.monotonic().as_secs_f64()))?;
    Ok(())
}

fn describe(summary: &Summary, config: &Config, seconds: f64) -> String {
    let counts = &summary.written.counts;
    let total = counts.total();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "read {}: kept {}, duplicates {}, dead letters {}; {:.1} MB of text kept, {} commits, {seconds:.1} s",
        total.read,
        total.kept,
        total.duplicates,
        total.dead_letters,
        counts.text_bytes as f64 / 1e6,
        summary.written.commits,
    );
    for (source, tally) in &counts.sources {
        let _ = writeln!(
            text,
            "  {source}: read {}, kept {}, duplicates {}, dead letters {}",
            tally.read, tally.kept, tally.duplicates, tally.dead_letters
        );
    }
    for (reason, count) in &counts.reasons {
        let _ = writeln!(text, "  dead letters, {reason}: {count}");
    }
    for (to, flow) in &summary.flows {
        let _ = writeln!(text, "  waited before {to}: {:.2} s", flow.waited_us as f64 / 1e6);
    }
    if let Some(byte) = summary.standard_input(&config.source) {
        let _ = writeln!(
            text,
            "  standard input: {byte} bytes are in the store; a caller that resumes begins there"
        );
    }
    text
}

async fn maintain_now(config: &Config, stop: &Stop) -> Result<(), Failure> {
    let (url, options) = config.store.parts()?;
    let store = Store::open(&url, &options, Clock::system()).await?;
    let done = maintain::once(&store, &config.maintain, stop).await?;
    cli::print(&format!(
        "files {} -> {}, bytes {} -> {}; {} joined into {}, {} deleted\n",
        done.before.files,
        done.after.files,
        done.before.bytes,
        done.after.bytes,
        done.joined,
        done.made,
        done.deleted
    ))?;
    Ok(())
}

/// A reading that was asked for and is not there.
#[derive(Debug, thiserror::Error)]
enum NotThere {
    #[error("`{0}` is not the name of a reading")]
    Name(String),
    #[error("the store has no reading `{0}`")]
    Reading(String),
}

impl ProgramError for NotThere {
    fn kind(&self) -> Kind {
        match self {
            Self::Name(_) => Kind::Config,
            Self::Reading(_) => Kind::NotFound,
        }
    }
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Name(_) => "write the shard and the number, as `main/42`",
            Self::Reading(_) => "`check` says how many readings each shard has; the first is 0",
        };
        Some(hint.to_owned())
    }
}

async fn explain_reading(config: &Config, reading: &str) -> Result<(), Failure> {
    let name = || NotThere::Name(reading.to_owned());
    let (shard, seq) = reading.split_once('/').ok_or_else(name)?;
    let (shard, seq) = (shard.parse().map_err(|_| name())?, seq.parse().map(Seq).map_err(|_| name())?);
    let (url, options) = config.store.parts()?;
    let store = Store::open(&url, &options, Clock::system()).await?;
    let explained =
        explain(&store, &shard, seq).await?.ok_or_else(|| NotThere::Reading(reading.to_owned()))?;
    cli::print(&explained)?;
    Ok(())
}

async fn check(config: &Config) -> Result<(), Failure> {
    let (url, options) = config.store.parts()?;
    let store = Store::open(&url, &options, Clock::system()).await?;
    let held_out = HeldOut::load(&config.holdout.files, config.dedup.near.threshold.get())?;
    let report: Report = check::check(&store, &held_out.ids().collect()).await?;
    let mut text = String::new();
    for ((shard, source), sums) in &report.sums {
        let _ = writeln!(
            text,
            "shard {shard}, source {source}: read {} = kept {} + duplicates {} + dead letters {}",
            sums.read, sums.kept, sums.duplicates, sums.dead_letters
        );
    }
    for violation in &report.violations {
        let _ = writeln!(text, "{violation}");
    }
    if report.violations.is_empty() {
        text.push_str("the store is sound\n");
        cli::print(&text)?;
        Ok(())
    } else {
        cli::print(&text)?;
        Err(Unsound(report.violations.len()).into())
    }
}
