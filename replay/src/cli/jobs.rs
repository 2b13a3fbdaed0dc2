//! `perennial-replay jobs` and `perennial-replay draws`.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Args, Subcommand};
use perennial_program::cli;
use perennial_program::config::Share;
use perennial_program::error::Failure;
use perennial_schemas::id::{RecordId, Step};
use perennial_schemas::wire::Ticket;

use super::{line, open};
use crate::config::Config;
use crate::draws::StepDraws;
use crate::jobs::{Change, Jobs, SettingsChange};
use crate::library::{Access, Library};
use crate::plan::Plan;
use crate::views::{Entry, EntrySummary};

/// Number of rows of a job's record, or of steps, that are read at once.
const PAGE: u64 = 256;

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List all jobs with their settings and the step that comes next.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the whole record of a job: its views and every change.
    Show {
        /// The job.
        job: String,
        /// Print JSON, one row a line.
        #[arg(long)]
        json: bool,
    },
    /// Change the settings of a job from its next view on. Decided steps stay as they are.
    Set {
        /// The job.
        job: String,
        /// Rows of a batch.
        #[arg(long)]
        rows: Option<u32>,
        /// The share of new records to use, 0 to 1.
        #[arg(long)]
        keep: Option<ShareArgument>,
        /// The share of rows from a buffer, as `BUFFER=SHARE`; give every buffer of the new mix.
        #[arg(long, value_name = "BUFFER=SHARE")]
        mix: Vec<MixArgument>,
        /// A mix without any buffer: new text only.
        #[arg(long, conflicts_with = "mix")]
        no_replay: bool,
    },
    /// Leave out the text of the next steps of a job; its steps keep their numbers.
    Skip {
        /// The job.
        job: String,
        /// Number of steps.
        #[arg(long)]
        steps: u64,
    },
    /// Begin a job where another one stood before a step, with its settings.
    Fork {
        /// The job and the step, as `JOB@STEP`.
        #[arg(value_name = "JOB@STEP")]
        from: JobStep,
        /// The new job.
        job: String,
    },
    /// End a job: no step after the decided ones.
    End {
        /// The job.
        job: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct DrawsCommand {
    /// The job.
    #[arg(long)]
    job: String,
    /// The steps, as `FIRST..END` without END; default: all that are decided.
    #[arg(long)]
    steps: Option<StepRange>,
    /// Print only spans of the record with this id, 32 hexadecimal digits.
    #[arg(long)]
    record: Option<RecordId>,
    /// Print JSON, one step a line.
    #[arg(long)]
    json: bool,
}

/// A share on the command line.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShareArgument(Share);

impl FromStr for ShareArgument {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.parse().ok().and_then(|share| Share::new(share).ok());
        share.map(Self).ok_or_else(|| format!("`{text}` is not a share from 0 to 1"))
    }
}

/// `BUFFER=SHARE`.
#[derive(Debug, Clone)]
pub(super) struct MixArgument(String, Share);

impl FromStr for MixArgument {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (buffer, share) = text.split_once('=').ok_or("write it as `BUFFER=SHARE`")?;
        Ok(Self(buffer.to_owned(), share.parse::<ShareArgument>()?.0))
    }
}

/// `JOB@STEP`.
#[derive(Debug, Clone)]
pub(super) struct JobStep(String, Step);

impl FromStr for JobStep {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('@').and_then(|(job, step)| Some((job, step.parse().ok()?)));
        let (job, step) = parts.ok_or_else(|| format!("`{text}` is not `JOB@STEP`"))?;
        Ok(Self(job.to_owned(), Step(step)))
    }
}

/// `FIRST..END`.
#[derive(Debug, Clone)]
pub(super) struct StepRange(Step, Step);

impl FromStr for StepRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once("..").and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
        let (first, end) = parts.ok_or_else(|| format!("`{text}` is not `FIRST..END`"))?;
        Ok(Self(Step(first), Step(end)))
    }
}

/// Runs `perennial-replay jobs`.
pub(super) async fn jobs(config: &Config, plan: Plan, command: &JobsCommand) -> Result<(), Failure> {
    let mut library = open(config, plan, Access::Read).await?;
    let mut jobs = Jobs::new(library.store(), Access::Follow);
    match command {
        JobsCommand::List { json } => list(&mut jobs, *json).await,
        JobsCommand::Show { job, json } => show(&mut jobs, job, *json).await,
        JobsCommand::Set { job, rows, keep, mix, no_replay } => {
            let shares: BTreeMap<_, _> =
                mix.iter().map(|MixArgument(name, share)| (name.clone(), *share)).collect();
            let mix = (*no_replay || !shares.is_empty()).then_some(shares);
            let change = SettingsChange { rows: *rows, keep: keep.map(|keep| keep.0), mix };
            print_row(&*jobs.change(&mut library, job, &Change::Set(change)).await?)
        }
        JobsCommand::Skip { job, steps } => {
            print_row(&*jobs.change(&mut library, job, &Change::Skip(*steps)).await?)
        }
        JobsCommand::End { job } => print_row(&*jobs.change(&mut library, job, &Change::End).await?),
        JobsCommand::Fork { from: JobStep(of, step), job } => {
            print_row(&*jobs.fork(&mut library, of, *step, job).await?)
        }
    }
}

fn print_row(entry: &Entry) -> Result<(), Failure> {
    let row = EntrySummary::from(entry);
    Ok(cli::print(&format!("job {}: {row}\n", row.job))?)
}

async fn list(jobs: &mut Jobs, json: bool) -> Result<(), Failure> {
    for entry in jobs.list().await? {
        let row = EntrySummary::from(entry.as_ref());
        let state = if row.op == "end" { "ended" } else { "next step" };
        let line = if json {
            line(&row)
        } else {
            format!("{}: {state} {}, {}\n", row.job, row.end_step, row.settings)
        };
        cli::print(&line)?;
    }
    Ok(())
}

async fn show(jobs: &mut Jobs, job: &str, json: bool) -> Result<(), Failure> {
    let mut first = 1;
    loop {
        let rows = jobs.rows(job, first, PAGE).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        first = last.number + 1;
        for row in rows.iter().map(EntrySummary::from) {
            cli::print(&if json { line(&row) } else { format!("{row}\n") })?;
        }
    }
}

/// Runs `perennial-replay draws`.
pub(super) async fn draws(config: &Config, plan: Plan, command: &DrawsCommand) -> Result<(), Failure> {
    let mut library = open(config, plan, Access::Read).await?;
    let mut jobs = Jobs::new(library.store(), Access::Read);
    let decided = jobs.decided(&command.job).await?;
    let StepRange(first, end) = command.steps.clone().unwrap_or(StepRange(decided.start, decided.end));
    let (mut next, end) = (first.max(decided.start), end.min(decided.end));
    let offset = command.record.and_then(|id| library.index().records().find(|record| record.id == id));
    let offset = offset.map(|record| record.offset);
    while next < end {
        let until = end.min(Step(next.0 + PAGE));
        let tickets = match (command.record, offset) {
            (None, _) => jobs.tickets(&command.job, next, until).await?,
            (Some(_), None) => Vec::new(),
            (Some(_), Some(offset)) => {
                jobs.tickets_that_may_hold(&mut library, &command.job, next, until, offset).await?
            }
        };
        for ticket in tickets {
            print_step(&mut library, &ticket, command).await?;
        }
        next = until;
    }
    Ok(())
}

async fn print_step(library: &mut Library, ticket: &Ticket, command: &DrawsCommand) -> Result<(), Failure> {
    let mut draws = library.draws(ticket).await?;
    if let Some(id) = command.record {
        draws.spans.retain(|span| span.id == id);
        if draws.spans.is_empty() {
            return Ok(());
        }
    }
    cli::print(&if command.json { line(&draws) } else { describe(&draws) })?;
    Ok(())
}

fn describe(draws: &StepDraws) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "step {}: {} tokens of new text, {} replayed\n",
        draws.step, draws.new_tokens, draws.replayed_tokens
    );
    for span in &draws.spans {
        let from = span.buffer.as_deref().map_or_else(
            || "new".to_owned(),
            |buffer| format!("from {buffer} with probability {:.3e}", span.probability),
        );
        let erased = if span.erased { ", erased since" } else { "" };
        let _ = writeln!(
            text,
            "  row {} +{}: {} {}/{} token {} +{} {from}{erased}",
            span.row, span.start, span.id, span.shard, span.seq, span.first_token, span.tokens
        );
    }
    text
}
