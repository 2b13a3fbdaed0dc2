//! `perennial-replay`: serves batches, and shows a store's buffers and the batches that a job would get.

mod buffers;
mod jobs;

use std::fmt::Write as _;
use std::process::ExitCode;

use self::buffers::{ExplainCommand, VerifyCommand};
use self::jobs::{DrawsCommand, JobsCommand};
use crate::config::Config;
use crate::error::ReplayError;
use crate::inspect::{self, Census, Inspection};
use crate::issue::{Issued, Request};
use crate::jobs::Jobs;
use crate::library::{Access, Library};
use crate::plan::Plan;
use crate::serve;
use crate::tokenise::Tokenizer;
use clap::{Parser, Subcommand};
use perennial_program::cli::{self, ConfigCommand, Log};
use perennial_program::clock::Clock;
use perennial_program::error::Failure;
use perennial_program::start;
use perennial_program::stop::Stop;
use perennial_schemas::wire::{Batch, Ticket};
use perennial_store::Store;

/// Maintains buffers of past text and makes batches that mix new and replayed text; the same ticket always
/// gives the same bytes.
#[derive(Debug, Parser)]
#[command(name = "perennial-replay", version, arg_required_else_help = true)]
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
    /// Print the first batches that a job would get, or the batch of a ticket. Writes nothing to the store.
    Sample {
        /// The job's name, which seeds its draws.
        #[arg(long, default_value = "sample")]
        job: String,
        /// Number of batches, from the start of the stream.
        #[arg(long, default_value_t = 1)]
        steps: u64,
        /// A ticket as JSON; its batch is printed instead.
        #[arg(long, conflicts_with_all = ["job", "steps"])]
        ticket: Option<String>,
        /// Print only tickets and digests.
        #[arg(long)]
        digests: bool,
    },
    /// Print the content of each buffer by source and by decade. Writes nothing to the store.
    Inspect {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show and change the jobs of the store: each step of a job has one ticket, for ever.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Print which tokens of which records the steps of a job hold, or which steps hold a record. Writes
    /// nothing to the store.
    Draws(DrawsCommand),
    /// Say of one record when each buffer held it and why, and which steps of which jobs it was in. Writes
    /// nothing to the store.
    Explain(ExplainCommand),
    /// Make buffers again from the records of the store and compare each change. Writes nothing to the store.
    Verify(VerifyCommand),
    /// List the policies of buffers with their settings.
    Policies {
        /// Print JSON, one policy a line.
        #[arg(long)]
        json: bool,
    },
    /// Serve tickets and batches over HTTP and Arrow Flight until SIGTERM.
    Serve,
    /// Show or check the configuration without running anything.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Parses the command line, runs the command, and prints its error if it fails.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Policies { json } = &cli.command {
        // What the program knows by itself needs no store.
        let json = *json;
        return start::run(&cli.log.clone(), |_, _| async move { buffers::policies(json) });
    }
    start::run(&cli.log.clone(), |environment, stop| async move {
        let mut plan = None;
        let loaded = cli.config.load::<Config>("replay", "store.url", &environment, |config, problems| {
            plan = config.plan("", problems);
        })?;
        let mut config = loaded.value.clone();
        config.cache.set_default(environment.cache_folder());
        let mut library = match (&cli.command, plan) {
            (Command::Config(command), _) => return command.run("replay", &loaded),
            (Command::Serve, Some(plan)) => return serve(&config, plan, stop).await,
            (Command::Jobs(command), Some(plan)) => return jobs::jobs(&config, plan, command).await,
            (Command::Draws(command), Some(plan)) => return jobs::draws(&config, plan, command).await,
            (Command::Explain(command), Some(plan)) => return buffers::explain(&config, plan, command).await,
            (Command::Verify(command), Some(plan)) => return buffers::verify(&config, plan, command).await,
            (_, Some(plan)) => open(&config, plan, Access::Read).await?,
            // `plan` is `None` only if it reported a problem.
            (_, None) => return Ok(()),
        };
        match &cli.command {
            Command::Sample { ticket: Some(json), digests, .. } => {
                let ticket = Ticket::from_json(json.as_bytes())?;
                show(&mut library, &ticket, *digests).await
            }
            Command::Sample { job, steps, digests, .. } => sample(&mut library, job, *steps, *digests).await,
            Command::Inspect { json } => print_inspection(&mut library, *json),
            _ => Ok(()),
        }
    })
}

async fn open_store(config: &Config) -> Result<Store, Failure> {
    let (url, options) = config.store.parts()?;
    Ok(Store::open(&url, &options, Clock::system()).await?)
}

async fn open(config: &Config, plan: Plan, access: Access) -> Result<Library, Failure> {
    Ok(Library::open(open_store(config).await?, plan, config.cache.caches(), access).await?)
}

async fn serve(config: &Config, plan: Plan, stop: Stop) -> Result<(), Failure> {
    let store = open_store(config).await?;
    // A port in use is reported at once, before the store is read.
    let listeners = serve::listen(&config.serve).await?;
    let library = tokio::select! {
        biased;
        library = Library::open(store.clone(), plan, config.cache.caches(), Access::Follow) => library?,
        () = stop.wait() => return Ok(()),
    };
    cli::print(&format!("http {}\nflight {}\n", listeners.http_address, listeners.flight_address))?;
    Ok(serve::serve(listeners, library, store, &config.serve, stop).await?)
}

async fn sample(library: &mut Library, job: &str, steps: u64, digests: bool) -> Result<(), Failure> {
    let mut jobs = Jobs::new(library.store(), Access::Read);
    let mut request = Request::first(job);
    for _ in 0..steps {
        match jobs.issue_now(library, &request).await? {
            Issued::Ticket(ticket) => {
                show(library, &ticket, digests).await?;
                request = Request::step(job, ticket.step.next());
            }
            Issued::NotYet { missing } => {
                cli::print(&format!(
                    "the stream ends here: {missing} tokens of new text are missing for step {}\n",
                    request.step
                ))?;
                break;
            }
        }
    }
    Ok(())
}

async fn show(library: &mut Library, ticket: &Ticket, digests: bool) -> Result<(), Failure> {
    let batch = library.batch(ticket).await?;
    let mut text = format!("ticket {}\ndigest {:032x}\n", ticket.to_json(), batch.digest());
    if !digests {
        describe(&batch, &library.plan().tokenizer, &mut text)?;
    }
    cli::print(&text)?;
    Ok(())
}

/// A value as a line of JSON.
fn line(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).map(|text| text + "\n").unwrap_or_default()
}

/// Number of characters of a span's text to print.
const SHOWN: usize = 96;

fn describe(batch: &Batch, tokenizer: &Tokenizer, text: &mut String) -> Result<(), ReplayError> {
    for row in 0..batch.rows() {
        let kind =
            batch.buffer(row).map_or_else(|| "new".to_owned(), |buffer| format!("replayed from {buffer}"));
        let _ = writeln!(text, "row {} {kind}", batch.row_number(row).unwrap_or(0));
        for span in batch.spans(row)? {
            let from = row * batch.length() + usize::try_from(span.start).unwrap_or(0);
            let end = from + usize::try_from(span.tokens).unwrap_or(0);
            let words = tokenizer.decode(batch.tokens().get(from..end).unwrap_or_default());
            let start: String = words.chars().take(SHOWN).collect();
            let _ = writeln!(
                text,
                "  {}/{} token {} +{}: {}",
                span.shard,
                span.seq,
                span.first_token,
                span.tokens,
                start.escape_debug()
            );
        }
    }
    Ok(())
}

fn print_inspection(library: &mut Library, json: bool) -> Result<(), Failure> {
    let inspection = inspect::inspect(library)?;
    let text = if json {
        serde_json::to_string_pretty(&inspection).map(|text| text + "\n").unwrap_or_default()
    } else {
        summarise(&inspection)
    };
    cli::print(&text)?;
    Ok(())
}

fn summarise(inspection: &Inspection) -> String {
    let mut text = format!("records at version {}\n", inspection.records);
    census(&mut text, "the stream", &inspection.stream);
    for (name, buffer) in &inspection.buffers {
        let capacity = buffer.capacity.as_deref().unwrap_or("no limit");
        let _ =
            writeln!(text, "\nbuffer {name}: {} ({capacity}), revision {}", buffer.policy, buffer.revision);
        census(&mut text, "holds", &buffer.members);
        if buffer.removed.records > 0 {
            let _ = writeln!(text, "  removed from the store since: {} records", buffer.removed.records);
        }
    }
    text
}

fn census(text: &mut String, what: &str, census: &Census) {
    let share = |tokens: u64| 100.0 * tokens as f64 / census.total.tokens.max(1) as f64;
    let _ = writeln!(text, "{what}: {} records, {} byte tokens", census.total.records, census.total.tokens);
    for (source, count) in &census.by_source {
        let _ = writeln!(
            text,
            "  {source:<28} {:>7} records {:>5.1} % of tokens",
            count.records,
            share(count.tokens)
        );
    }
    let mut decades: std::collections::BTreeMap<i64, (u64, u64)> = std::collections::BTreeMap::new();
    for (year, count) in &census.by_year {
        let decade = decades.entry(year.div_euclid(10) * 10).or_default();
        *decade = (decade.0 + count.records, decade.1 + count.tokens);
    }
    for (decade, (records, tokens)) in decades {
        let _ = writeln!(text, "  {decade}s {records:>31} records {:>5.1} % of tokens", share(tokens));
    }
}
