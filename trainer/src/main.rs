//! `perennial-train`: jobs that learn from what `perennial-ingest` wrote and `perennial-replay` mixes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use schemas::program::cli::{self, ConfigCommand, Log};
use schemas::program::clock::Clock;
use schemas::program::error::{Failure, Fault as _};
use schemas::program::start;
use schemas::program::stop::Stop;
use schemas::store::Store;
use trainer::checkpoint::CheckpointError;
use trainer::config::Config;
use trainer::report::collect::{Compared, collect};
use trainer::{job, torch};

/// Trains a language model on the batches of a Perennial store.
///
/// A job is a configuration file. `run` starts it, or goes on exactly where its newest checkpoint
/// stands: kill it at any time and run it again.
#[derive(Debug, Parser)]
#[command(name = "perennial-train", version, arg_required_else_help = true)]
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
    /// Run a job: start it, or go on from its newest checkpoint.
    Run,
    /// Compare runs: write one self-contained page, `report.html`, and its figures, `report.json`.
    Report {
        /// The folder to write to.
        #[arg(long, default_value = "report")]
        out: PathBuf,
        /// A run: `floor:FOLDER:LABEL`, `method:FOLDER:LABEL` or `ceiling:FOLDER:LABEL`, where FOLDER is
        /// its `job.folder`. Give one floor, one ceiling, and any number of methods.
        #[arg(long = "run", required = true, value_name = "RUN")]
        runs: Vec<String>,
        /// The page's title.
        #[arg(long, default_value = "Learning from a stream without forgetting")]
        title: String,
    },
    /// Look at the configuration without running anything.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print which libtorch computes, on what, and why not on CUDA.
    Doctor,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    torch::quiet_panics();
    start::run(&cli.log.clone(), |environment, stop| async move {
        if matches!(cli.command, Command::Doctor) {
            return torch::on_one_thread(1, doctor);
        }
        let mut plan = None;
        let loaded =
            cli.config.load::<Config>("train", "replay.store.url", &environment, |config, problems| {
                plan = config.check(problems);
            })?;
        match (&cli.command, plan) {
            (Command::Config(command), _) => command.run(&loaded),
            (Command::Report { out, runs, title }, _) => {
                let runs = runs.iter().map(|run| run.parse()).collect::<Result<Vec<Compared>, _>>()?;
                report(&loaded.value, &runs, title, out).await
            }
            (_, Some(plan)) => {
                let effective = loaded.show();
                run(loaded.value, effective, plan, stop).await
            }
            // `check` gives a plan wherever it has no problem to tell.
            (_, None) => Ok(()),
        }
    })
}

async fn run(config: Config, effective: String, plan: replay::plan::Plan, stop: Stop) -> Result<(), Failure> {
    let clock = Clock::system();
    let (url, options) = config.replay.store.parts()?;
    let store = Store::open(&url, &options, clock.clone()).await?;
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        job::run(&config, &effective, plan, &store, &clock, &stop, &runtime)
    });
    let report = work.await.map_err(|error| torch::TorchError::Thread(error.to_string()))??;
    cli::print(&format!(
        "{} after step {}: {} tokens; checkpoint {}\n",
        match report.end {
            trainer::train::End::Done => "done",
            trainer::train::End::Stream => "the stream has ended",
            trainer::train::End::Stopped => "stopped",
        },
        report.steps,
        report.tokens,
        report.checkpoint.display()
    ))?;
    Ok(())
}

async fn report(config: &Config, runs: &[Compared], title: &str, out: &Path) -> Result<(), Failure> {
    let (url, options) = config.replay.store.parts()?;
    let store = Store::open(&url, &options, Clock::system()).await?;
    let input = collect(&store, runs, title).await?;
    let rendered = trainer::report::render(&input)?;
    let written = std::fs::create_dir_all(out)
        .and_then(|()| std::fs::write(out.join("report.html"), rendered.html))
        .and_then(|()| std::fs::write(out.join("report.json"), rendered.json));
    written.map_err(|source| CheckpointError::Write { path: out.to_owned(), source })?;
    cli::print(&format!("{}\n", out.join("report.html").display()))?;
    Ok(())
}

fn doctor() -> Result<(), Failure> {
    // First: whatever asks libtorch for CUDA before it is loaded hides it for good.
    let cuda = torch::load_cuda().and_then(|()| torch::guarded(tch::Cuda::device_count));
    let mut text = String::new();
    let _ = writeln!(text, "libtorch   {}", torch::version()?);
    let _ = writeln!(text, "folder     {}", torch::folder()?.display());
    let _ = writeln!(text, "cpu        {}", torch::cpu_capability()?);
    let _ = writeln!(text, "threads    {}", tch::get_num_threads());
    let _ = match cuda {
        Ok(0) => writeln!(text, "cuda       libtorch_cuda is loaded, this machine has no device"),
        Ok(count) => writeln!(text, "cuda       {count} devices"),
        Err(error) => writeln!(text, "cuda       no: {error}"),
    };
    cli::print(&text)?;
    torch::check_version().map_err(|error| {
        debug_assert!(error.hint().is_some());
        error.into()
    })
}
