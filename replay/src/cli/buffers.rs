//! `perennial-replay policies`, `verify` and `explain`.

use std::fmt::Write as _;

use clap::Args;
use perennial_program::cli;
use perennial_program::config;
use perennial_program::error::Failure;
use serde::Serialize;

use super::{line, open};
use crate::buffer::{Dependence, PolicyConfig, PolicySettings};
use crate::config::Config;
use crate::explain::{self, Asked, Explanation, Use};
use crate::jobs::Jobs;
use crate::library::{Access, Library};
use crate::plan::Plan;

#[derive(Debug, Args)]
pub(super) struct VerifyCommand {
    /// The buffers; default: all of the config.
    buffers: Vec<String>,
    /// Print JSON, one buffer a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExplainCommand {
    /// The record: its id (32 hexadecimal digits), `SHARD/SEQ`, or its offset in the order of the store.
    record: Asked,
    /// Search the steps of this job only.
    #[arg(long)]
    job: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A policy as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    /// Whether its members depend on the order of the stream.
    sequential: bool,
    /// Whether it reads the embeddings of records.
    embeddings: bool,
    #[serde(flatten)]
    variant: config::Variant,
}

/// Runs `perennial-replay policies`.
pub(super) fn policies(json: bool) -> Result<(), Failure> {
    let mut text = String::new();
    for variant in config::variants::<PolicyConfig>() {
        let settings = PolicyConfig::named(&variant.name).map(|policy| policy.settings().1);
        let is = |test: fn(&dyn PolicySettings) -> bool| settings.as_deref().is_some_and(test);
        let sequential = is(|settings| settings.dependence() == Dependence::History);
        let listed = Listed { sequential, embeddings: is(|settings| settings.needs().embeddings), variant };
        text += &if json { line(&listed) } else { describe_policy(&listed) };
    }
    Ok(cli::print(&text)?)
}

fn describe_policy(policy: &Listed) -> String {
    let Listed { sequential, embeddings, variant } = policy;
    let depends = if *sequential { "the order of the stream" } else { "the set of records, in any order" };
    let needs = if *embeddings { "; reads embeddings" } else { "" };
    let mut text = format!("{}: {}\n  depends on {depends}{needs}\n", variant.name, variant.words);
    for key in &variant.keys {
        let default = key.default.as_ref().map(|default| format!(", default {default}")).unwrap_or_default();
        let _ = writeln!(text, "  {} ({}{default}): {}", key.name, key.kind, key.words);
    }
    text
}

/// Runs `perennial-replay verify`.
pub(super) async fn verify(config: &Config, plan: Plan, command: &VerifyCommand) -> Result<(), Failure> {
    let mut library = open(config, plan, Access::Read).await?;
    let all = || library.buffers().keys().cloned().collect();
    let names: Vec<String> = if command.buffers.is_empty() { all() } else { command.buffers.clone() };
    for name in names {
        let verified = library.verify(&name).await?;
        let text = if command.json {
            let mut value = serde_json::to_value(verified).unwrap_or_default();
            value["buffer"] = name.into();
            line(&value)
        } else {
            let how = match (verified.exact, verified.erased) {
                (true, _) => "every change was made again".to_owned(),
                (false, erased) => format!("the members are the same; {erased} records were erased since"),
            };
            format!(
                "{name}: {} members at revision {}, made from offsets 0..{}: {how}\n",
                verified.members, verified.revision, verified.seen
            )
        };
        cli::print(&text)?;
    }
    Ok(())
}

/// Runs `perennial-replay explain`.
pub(super) async fn explain(config: &Config, plan: Plan, command: &ExplainCommand) -> Result<(), Failure> {
    let mut library: Library = open(config, plan, Access::Read).await?;
    let mut jobs = Jobs::new(library.store(), Access::Read);
    let found = explain::explain(&mut library, &mut jobs, &command.record, command.job.as_deref()).await?;
    Ok(cli::print(&if command.json { line(&found) } else { describe(&found) })?)
}

fn describe(found: &Explanation) -> String {
    let erased = if found.erased { ", removed from the store since" } else { "" };
    let mut text = format!(
        "record {} ({}/{}, offset {}): {} bytes of {}{erased}\n",
        found.id, found.shard, found.seq, found.offset, found.bytes, found.source
    );
    for (name, one) in &found.buffers {
        let state = if one.member { "is a member" } else { "is not a member" };
        let _ = writeln!(text, "buffer {name} ({}): {state}: {}", one.policy, one.why);
        if !one.stays.is_empty() {
            let _ = writeln!(text, "  a member {}", one.history());
        }
    }
    if found.jobs.is_empty() {
        text += "no decided step of a job holds it\n";
    }
    for (job, uses) in &found.jobs {
        let _ = writeln!(text, "job {job}:");
        if let Some(new_text) = &uses.new_text {
            let _ = writeln!(text, "  as new text: {}", describe_use(new_text));
        }
        for (buffer, drawn) in &uses.drawn {
            let (least, most) = drawn.probability;
            let odds =
                if least == most { format!("{least:.3e}") } else { format!("{least:.3e} to {most:.3e}") };
            let _ = writeln!(
                text,
                "  drawn from {buffer}: {}, each with probability {odds}",
                describe_use(drawn)
            );
        }
    }
    text
}

fn describe_use(all: &Use) -> String {
    format!("{} spans of {} tokens, steps {} to {}", all.spans, all.tokens, all.first, all.last)
}
