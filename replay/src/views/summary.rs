//! Rows of a job's record as users read them: shares of 1 instead of billionths.

use std::collections::BTreeMap;
use std::fmt;

use perennial_schemas::id::{Offset, Revision, Step};
use perennial_schemas::wire::{Order, Position, Settings, WHOLE};
use serde::Serialize;

use super::Entry;

/// The settings of a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SettingsSummary {
    /// Rows of a batch.
    pub rows: u32,
    /// The order of new text.
    pub order: Order,
    /// The share of new records to use.
    pub keep: f64,
    /// The share of rows drawn from each buffer.
    pub mix: BTreeMap<String, f64>,
}

/// A row of a job's record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntrySummary {
    /// The job.
    pub job: String,
    /// The number of the row.
    pub number: u64,
    /// `begin`, `view`, `set`, `skip` or `end`.
    pub op: &'static str,
    /// The first step that it is about.
    pub first_step: Step,
    /// The step after its last one.
    pub end_step: Step,
    /// The job's settings.
    pub settings: SettingsSummary,
    /// The first offset that its batches may not depend on.
    pub limit: Offset,
    /// The revisions of the buffers of the mix.
    pub revisions: BTreeMap<String, Revision>,
    /// Where the job stands after it.
    pub position: Position,
    /// `skip`: number of steps whose text was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
    /// `begin`: the job and step that it was forked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<String>,
    /// When it was written, microseconds since 1970 UTC.
    pub time: i64,
}

impl From<&Settings> for SettingsSummary {
    fn from(settings: &Settings) -> Self {
        let share = |billionths: u64| billionths as f64 / WHOLE as f64;
        Self {
            rows: settings.rows,
            order: settings.order,
            keep: share(settings.keep),
            mix: settings.mix.iter().map(|(name, billionths)| (name.clone(), share(*billionths))).collect(),
        }
    }
}

impl From<&Entry> for EntrySummary {
    fn from(entry: &Entry) -> Self {
        let standing = entry.standing();
        Self {
            job: standing.job,
            number: entry.number,
            op: entry.op.as_str(),
            first_step: entry.first(),
            end_step: entry.end(),
            settings: (&standing.settings).into(),
            limit: entry.ticket.limit,
            revisions: entry
                .ticket
                .buffers
                .iter()
                .map(|(name, drawn)| (name.clone(), drawn.revision))
                .collect(),
            position: standing.position,
            skipped: entry.skipped,
            forked_from: entry.forked_from.clone(),
            time: entry.time,
        }
    }
}

impl fmt::Display for SettingsSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows", self.rows)?;
        for (name, share) in &self.mix {
            write!(f, ", {name} {share}")?;
        }
        if self.keep < 1.0 {
            write!(f, ", keep {}", self.keep)?;
        }
        if self.order == Order::Permuted {
            write!(f, ", permuted")?;
        }
        Ok(())
    }
}

impl fmt::Display for EntrySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, end) = (self.first_step, self.end_step);
        match self.op {
            "view" => write!(f, "steps {first}..{end}: {}", self.settings)?,
            "set" => write!(f, "from step {end} on: {}", self.settings)?,
            "skip" => write!(f, "before step {end}: text of {} steps left out", self.skipped.unwrap_or(0))?,
            "end" => write!(f, "ended before step {end}")?,
            _ => write!(f, "begins at step {end}: {}", self.settings)?,
        }
        if let Some(from) = &self.forked_from {
            write!(f, ", forked from {from}")?;
        }
        if self.op == "view" {
            for (name, revision) in &self.revisions {
                write!(f, ", {name} at revision {revision}")?;
            }
        }
        Ok(())
    }
}
