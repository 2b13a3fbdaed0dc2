//! `perennial-train`: training jobs on the text that `perennial-ingest` wrote and `perennial-replay` mixes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::checkpoint::CheckpointError;
use crate::config::Config;
use crate::report::collect::{Compared, collect};
use crate::{branch, job, torch};
use clap::{Parser, Subcommand};
use perennial_program::cli::{self, ConfigCommand, Log};
use perennial_program::clock::Clock;
use perennial_program::config::Loaded;
use perennial_program::error::Failure;
use perennial_program::start;
use perennial_program::stop::Stop;
use perennial_store::Store;

/// Trains a language model on the batches of a Perennial store.
///
/// A job is a configuration file. `run` starts it, or resumes it exactly from its newest checkpoint: it may
/// be killed at any time and run again.
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
    /// Run a job: start it, or resume it from its newest checkpoint.
    Run,
    /// Cut a release: branch off a job's checkpoint and anneal the learning rate to its end.
    ///
    /// The job itself does not change and never ends. The branch starts from its checkpoint (weights,
    /// moments, averages, position in the stream) and continues to read from there, with its own name and
    /// folder, while the learning rate decreases over N steps as `[schedule.cooldown]` defines. At its end it
    /// is evaluated, and its weights, their averages and the interpolations from the initial weights to them
    /// are in OUT/release.
    ///
    /// It may be killed: the same command, or `--config OUT/config.toml run`, resumes it.
    #[command(
        after_help = "Example:\n  perennial-train --config job.toml branch --out release-1 --steps 500"
    )]
    Branch {
        /// The checkpoint to start from: the step of one of the job's checkpoints, or a checkpoint's folder.
        /// The default is the job's newest checkpoint.
        #[arg(long, value_name = "STEP|CHECKPOINT")]
        from: Option<String>,
        /// The folder of the branch. It must not be inside the job's folder.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Steps of the cool-down: about 10 to 20 % of those since the last release.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        steps: u64,
        /// The branch's name in tickets, draws and evaluations; the default is `<job>-cooldown-<step>`.
        #[arg(long)]
        name: Option<String>,
    },
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
    /// Show or check the configuration without running anything.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the version and devices of libtorch, and why CUDA is not available.
    Doctor,
}

/// Parses the command line, runs the command, and prints its error if it fails.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    torch::quiet_panics();
    start::run(&cli.log.clone(), |environment, stop| async move {
        if matches!(cli.command, Command::Doctor) {
            return torch::on_one_thread(1, doctor);
        }
        let user = environment.cache_folder();
        let load = |flags: &cli::Config| {
            let mut plan = None;
            let loaded =
                flags.load::<Config>("train", "replay.store.url", &environment, |config, problems| {
                    plan = config.check(problems);
                })?;
            Ok::<_, Failure>((loaded, plan))
        };
        let (loaded, plan) = load(&cli.config)?;
        match (cli.command, plan) {
            (Command::Config(command), _) => command.run("train", &loaded),
            (Command::Report { out, runs, title }, _) => {
                let runs = runs.iter().map(|run| run.parse()).collect::<Result<Vec<Compared>, _>>()?;
                report(&loaded.value, &runs, &title, &out).await
            }
            (Command::Branch { from, out, steps, name }, Some(plan)) => {
                let asked = branch::Asked { from, out, steps, name };
                let decided = branch::decide(&loaded.value, &plan.digest(), &asked)?;
                let mut flags = cli.config.clone();
                flags.set.extend(decided.settings);
                match load(&flags)? {
                    (loaded, Some(plan)) => run(loaded, plan, Some(decided.from), user, stop).await,
                    (_, None) => Ok(()),
                }
            }
            (_, Some(plan)) => run(loaded, plan, None, user, stop).await,
            // `check` returns a plan unless it reports a problem.
            (_, None) => Ok(()),
        }
    })
}

async fn run(
    loaded: Loaded<Config>,
    plan: perennial_replay::plan::Plan,
    from: Option<PathBuf>,
    user: Option<PathBuf>,
    stop: Stop,
) -> Result<(), Failure> {
    let effective = loaded.show();
    let mut config = loaded.value;
    config.replay.cache.set_default(user);
    let clock = Clock::system();
    let (url, options) = config.replay.store.parts()?;
    let store = Store::open(&url, &options, clock.clone()).await?;
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let task = job::Task { config: &config, effective: &effective, plan, from: from.as_deref() };
        job::run(task, &store, &clock, &stop, &runtime)
    });
    let job::Ended { report, release, short } =
        work.await.map_err(|error| torch::TorchError::Thread(error.to_string()))??;
    let mut text = format!(
        "{} after step {}: {} tokens; checkpoint {}",
        match report.end {
            crate::train::End::Done => "done",
            crate::train::End::Stream => "the stream has ended",
            crate::train::End::Stopped => "stopped",
        },
        report.steps,
        report.tokens,
        report.checkpoint.display()
    );
    let _ = match release {
        Some(release) => write!(text, "; release {}", release.display()),
        None if short > 0 => write!(text, "; no release: the cool-down lacks {short} steps"),
        None => Ok(()),
    };
    cli::print(&format!("{text}\n"))?;
    Ok(())
}

async fn report(config: &Config, runs: &[Compared], title: &str, out: &Path) -> Result<(), Failure> {
    let (url, options) = config.replay.store.parts()?;
    let store = Store::open(&url, &options, Clock::system()).await?;
    let input = collect(&store, runs, title).await?;
    let rendered = crate::report::render(&input)?;
    let written = std::fs::create_dir_all(out)
        .and_then(|()| std::fs::write(out.join("report.html"), rendered.html))
        .and_then(|()| std::fs::write(out.join("report.json"), rendered.json));
    written.map_err(|source| CheckpointError::Write { path: out.to_owned(), source })?;
    cli::print(&format!("{}\n", out.join("report.html").display()))?;
    Ok(())
}

fn doctor() -> Result<(), Failure> {
    // First: a question about CUDA before it is loaded would disable it for this process.
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
    Ok(torch::check_version()?)
}
