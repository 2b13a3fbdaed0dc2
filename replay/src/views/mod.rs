//! The record of a job: the table `views`.
//!
//! A *view* is a range of steps of a job whose tickets are decided together: the same limit, the same
//! revisions, and where each of its steps begins. It is committed before its first ticket leaves, under the
//! transaction `views/<job>`, whose number is that of the job's last row; so a step has one ticket from any
//! server, in any order of asking, for ever. Of two servers that decide at once one gets a conflict, and
//! reads what the other decided.
//!
//! Positions are part of the row: a ticket of any age costs one look, and an erased text does not change the
//! tickets of later steps.

mod summary;

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use perennial_program::error::{Kind, ProgramError as _};
use perennial_program::failpoint;
use perennial_schemas::id::Step;
use perennial_schemas::table::views::{Builder, Op, Row, View, transaction};
use perennial_schemas::table::{Table, TableError};
use perennial_schemas::wire::{Position, Ticket};
use perennial_store::commit::Committer;
use perennial_store::{Scan, Store, StoreError};

use crate::error::{ReplayError, Result};
use crate::issue::Standing;

pub use summary::{EntrySummary, SettingsSummary};

/// Number of views of a job that are cached.
const RECENT: usize = 16;

/// A row of `views`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number, dense from 1 in each job.
    pub number: u64,
    /// What it says.
    pub op: Op,
    /// The ticket of its first step, with the settings that apply from there on.
    pub ticket: Ticket,
    /// `view`: where the job stands after each of its steps. `skip`: where it goes on.
    pub positions: Vec<Position>,
    /// `skip`: number of steps whose text was left out.
    pub skipped: Option<u64>,
    /// `begin`: the job and step that it was forked from, as `JOB@STEP`.
    pub forked_from: Option<String>,
    /// When it was written, microseconds since 1970 UTC.
    pub time: i64,
}

impl Entry {
    /// The first step that it is about.
    #[must_use]
    pub const fn first(&self) -> Step {
        self.ticket.step
    }

    /// The step after its last one.
    #[must_use]
    pub fn end(&self) -> Step {
        let steps = if self.op == Op::View { self.positions.len() as u64 } else { 0 };
        Step(self.first().0.saturating_add(steps))
    }

    /// Where the job stands after it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let position = self.positions.last().unwrap_or(&self.ticket.from).clone();
        let (job, settings) = (self.ticket.job.clone(), self.ticket.settings.clone());
        Standing { job, step: self.end(), position, settings }
    }

    /// The ticket of a step, if it decides it.
    #[must_use]
    pub fn ticket_of(&self, step: Step) -> Option<Ticket> {
        if self.op != Op::View || step >= self.end() {
            return None;
        }
        let from = match step.0.checked_sub(self.first().0)? {
            0 => &self.ticket.from,
            index => self.positions.get(usize::try_from(index - 1).ok()?)?,
        };
        Some(Ticket { step, from: from.clone(), ..self.ticket.clone() })
    }

    fn read(row: &Row<'_>) -> Result<Self> {
        let wrong = |why: &str| {
            let why = format!("row {} of job `{}` {why}", row.number, row.job);
            ReplayError::Inconsistent { table: "views", why }
        };
        let natural = |number: i64| u64::try_from(number).map_err(|_| wrong("has a negative number"));
        let op =
            Op::parse(row.op).ok_or_else(|| wrong(&format!("is a `{}`, which no release writes", row.op)))?;
        let positions: Vec<Position> = serde_json::from_str(row.positions)
            .map_err(|error| wrong(&format!("has no positions: {error}")))?;
        let entry = Self {
            number: natural(row.number)?,
            op,
            ticket: Ticket::from_json(row.ticket.as_bytes())?,
            positions,
            skipped: row.skipped.map(natural).transpose()?,
            forked_from: row.forked_from.map(str::to_owned),
            time: row.time,
        };
        let steps = (entry.first().to_i64(), entry.end().to_i64());
        if steps != (row.first_step, row.end_step) {
            return Err(wrong(&format!(
                "says steps {}..{}, and has {steps:?}",
                row.first_step, row.end_step
            )));
        }
        Ok(entry)
    }

    fn rows(&self) -> Result<RecordBatch> {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut builder = Builder::new();
        builder.push(Row {
            job: &self.ticket.job,
            number: number(self.number),
            op: self.op.as_str(),
            first_step: self.first().to_i64(),
            end_step: self.end().to_i64(),
            ticket: &self.ticket.to_json(),
            positions: &serde_json::json!(self.positions).to_string(),
            skipped: self.skipped.map(number),
            forked_from: self.forked_from.as_deref(),
            time: self.time,
        });
        let wrong = |source: TableError| StoreError::Rows { table: Table::Views, source };
        Ok(builder.finish().map_err(wrong)?)
    }
}

/// The result of writing a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is in the store.
    Landed,
    /// Another server wrote a row of this number.
    Lost,
}

/// Writes a row as the next one of its job.
///
/// # Errors
/// The store's. After one it is not known whether the row is in the store.
pub async fn write(store: &Store, entry: &Entry) -> Result<Written> {
    let fence = transaction(&entry.ticket.job);
    let number = i64::try_from(entry.number).unwrap_or(i64::MAX);
    let mut committer = Committer::open(store, Table::Views, &fence).await?;
    if committer.last(&fence).await?.is_some_and(|last| last >= number) {
        return Ok(Written::Lost);
    }
    failpoint::hit("replay.views.before_commit");
    let committed = committer.commit(&[entry.rows()?], vec![(fence, number)]).await;
    failpoint::hit("replay.views.after_commit");
    match committed {
        Ok(_) => Ok(Written::Landed),
        Err(error) if error.kind() == Kind::Conflict => Ok(Written::Lost),
        Err(error) => Err(error.into()),
    }
}

/// The rows of one job, read as they are needed.
#[derive(Debug)]
pub struct ViewLog {
    store: Store,
    job: String,
    newest: Option<Arc<Entry>>,
    /// The views that were used last, the most recent at the end.
    recent: VecDeque<Arc<Entry>>,
    /// Rows that exist in this process only, without a gap to those in the store.
    unwritten: Vec<Arc<Entry>>,
}

impl ViewLog {
    /// Of a job, whose name must be valid.
    ///
    /// # Errors
    /// The store's; rows that no release writes.
    pub async fn open(store: &Store, job: &str) -> Result<Self> {
        let (store, job) = (store.clone(), job.to_owned());
        let mut log = Self { store, job, newest: None, recent: VecDeque::new(), unwritten: Vec::new() };
        log.refresh().await?;
        Ok(log)
    }

    /// The last row; `None` of a job that does not exist.
    #[must_use]
    pub const fn newest(&self) -> Option<&Arc<Entry>> {
        self.newest.as_ref()
    }

    /// Reads the last row of the store; whether it is another one than before.
    ///
    /// # Errors
    /// As [`ViewLog::open`].
    pub async fn refresh(&mut self) -> Result<bool> {
        let number = self.store.transaction(Table::Views, &transaction(&self.job)).await?.unwrap_or(0);
        let known = self.newest.as_ref().map_or(0, |newest| newest.number);
        if u64::try_from(number).unwrap_or(0) <= known {
            return Ok(false);
        }
        let Some(newest) = self.scan(&format!("number = {number}")).await?.pop() else {
            let why = format!("the log says {number} rows of job `{}`, the last one is not there", self.job);
            return Err(ReplayError::Inconsistent { table: "views", why });
        };
        self.remember(Arc::new(newest));
        Ok(true)
    }

    /// Takes note of the next row, which is in the store now.
    pub fn landed(&mut self, entry: Arc<Entry>) {
        self.remember(entry);
    }

    /// Adds the next row in this process only.
    pub fn imagine(&mut self, entry: Arc<Entry>) {
        self.unwritten.push(Arc::clone(&entry));
        self.newest = Some(entry);
    }

    fn remember(&mut self, entry: Arc<Entry>) {
        self.recent.push_back(Arc::clone(&entry));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let known = self.newest.as_ref().map_or(0, |newest| newest.number);
        if entry.number > known {
            self.newest = Some(entry);
        }
    }

    /// The view that decides a step.
    ///
    /// # Errors
    /// As [`ViewLog::open`].
    pub async fn find(&mut self, step: Step) -> Result<Option<Arc<Entry>>> {
        let decides =
            |entry: &&Arc<Entry>| entry.op == Op::View && entry.first() <= step && step < entry.end();
        let known = self.recent.iter().rev().chain(&self.unwritten).find(decides).map(Arc::clone);
        if known.is_some() {
            return Ok(known);
        }
        let Some(found) = self.views(step, step.next()).await?.pop() else { return Ok(None) };
        let found = Arc::new(found);
        self.remember(Arc::clone(&found));
        Ok(Some(found))
    }

    /// The views of the store that decide the steps of `first .. end`, in order.
    ///
    /// # Errors
    /// As [`ViewLog::open`].
    pub async fn views(&self, first: Step, end: Step) -> Result<Vec<Entry>> {
        let (first, end) = (first.to_i64(), end.to_i64());
        self.scan(&format!("op = 'view' and end_step > {first} and first_step < {end}")).await
    }

    /// All rows of the store with a number in `first ..= last`, in order.
    ///
    /// # Errors
    /// As [`ViewLog::open`].
    pub async fn rows(&self, first: u64, last: u64) -> Result<Vec<Entry>> {
        self.scan(&format!("number >= {first} and number <= {last}")).await
    }

    /// Whether the job stood at this position before a step at any time: also before text was left out there.
    ///
    /// # Errors
    /// As [`ViewLog::open`].
    pub async fn stood_at(&self, step: Step, position: &Position) -> Result<bool> {
        let number = step.to_i64();
        let rows = self.scan(&format!("(first_step = {number} or end_step = {number})")).await?;
        Ok(rows.iter().any(|row| {
            (row.first() == step && row.ticket.from == *position)
                || (row.end() == step && row.standing().position == *position)
        }))
    }

    async fn scan(&self, filter: &str) -> Result<Vec<Entry>> {
        // A job's name contains no quote.
        let filter = Some(format!("job = '{}' and {filter}", self.job));
        let version = self.store.version(Table::Views).await?;
        let scan = Scan { columns: &[], filter, order: &["number"] };
        let mut entries = Vec::new();
        for batch in self.store.scan(Table::Views, version, &scan).await? {
            for row in View::new(&batch)?.iter() {
                entries.push(Entry::read(&row)?);
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests;
