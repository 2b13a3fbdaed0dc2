//! The log of draws: which spans of which records went into which step of which job.
//!
//! A ticket names versions that expire; a row of `draws` lasts. Rows are committed in groups under
//! the fence `draws/<job>`, which holds the last step noted plus one: a step that is served again,
//! by this server or another, is noted once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use perennial_schemas::id::{Step, check_name};
use perennial_schemas::table::draws::{Builder, PackedSpan, Row, View};
use perennial_schemas::table::{Table, TableError};
use perennial_schemas::wire::{Batch, Ticket, WireError};
use perennial_store::commit::Committer;
use perennial_store::{Scan, Store, StoreError};

use crate::error::{ReplayError, Result};

/// How many groups, of all jobs together, may wait for a store that cannot be written before serving is
/// refused.
const WAITING: usize = 8;

/// How often a group is tried against other servers that note the same job.
const TRIES: usize = 4;

/// Steps whose tickets are read at once when one is asked for again.
const ASKED: u64 = 256;

/// Jobs that are remembered beyond those with steps that wait.
const JOBS: usize = 1024;

/// When a group of steps is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// As soon as it has this many steps.
    pub steps: usize,
    /// As soon as its first step has waited this long.
    pub wait: Duration,
}

/// What becomes of a step that is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It waits for its group.
    Waiting,
    /// Its group is in the store.
    Written,
    /// It, or a later step of the job, was noted before.
    Before,
}

/// One served step, as its row will say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Draw {
    ticket: String,
    digest: String,
    spans: Vec<u8>,
    shards: String,
    buffers: String,
    new_tokens: i64,
    replayed_tokens: i64,
    time: i64,
}

/// The steps of one job that wait.
#[derive(Debug, Default)]
struct Job {
    /// The first step that is not in the store.
    next: u64,
    waiting: BTreeMap<u64, Draw>,
    /// When the first of them came, on the store's clock.
    since: Duration,
    /// The step after the last one that this process was told of.
    ours: Option<u64>,
    /// Steps that were asked for again, and the tickets that the store has of them.
    asked: Range<u64>,
    tickets: BTreeMap<u64, Ticket>,
    /// What the store has of the steps before this one counts no more.
    void: u64,
}

/// The log of the draws of all jobs of one server.
#[derive(Debug)]
pub struct DrawLog {
    store: Store,
    groups: Groups,
    jobs: BTreeMap<String, Job>,
}

fn fence(job: &str) -> String {
    format!("draws/{job}")
}

impl DrawLog {
    /// Nothing noted yet.
    #[must_use]
    pub const fn new(store: Store, groups: Groups) -> Self {
        Self { store, groups, jobs: BTreeMap::new() }
    }

    /// Records that `ticket` gave `batch`, whose digest is `digest`.
    ///
    /// # Errors
    /// A job that has no name, a step that no column can hold, and the store's errors once too many
    /// steps wait: until then they are tried again with the next group.
    pub async fn append(&mut self, ticket: &Ticket, batch: &Batch, digest: u128) -> Result<Noted> {
        check_name("job", &ticket.job)?;
        let step = ticket.step.0;
        if i64::try_from(step).is_err() || step == Step(u64::MAX).to_i64().unsigned_abs() {
            return Err(crate::plan::refused(
                ticket,
                "its step is beyond the largest that can be noted".into(),
            ));
        }
        let (now, time) = (self.store.clock().monotonic(), self.store.clock().now_us());
        let job = self.job(&ticket.job).await?;
        job.ours = Some(step + 1);
        if step < job.next || job.waiting.contains_key(&step) {
            return Ok(Noted::Before);
        }
        if job.waiting.is_empty() {
            job.since = now;
        }
        job.waiting.insert(step, draw(ticket, batch, digest, time)?);
        let (ours, waiting) = (job.waiting.len(), self.waiting());
        let most = self.groups.steps.max(1).saturating_mul(WAITING);
        if ours < self.groups.steps && waiting < most {
            return Ok(Noted::Waiting);
        }
        match self.write(&ticket.job).await {
            Ok(()) => Ok(Noted::Written),
            Err(error) if waiting >= most => {
                // Refused means not served: its row must not stand.
                self.jobs.get_mut(&ticket.job).and_then(|job| job.waiting.remove(&step));
                Err(error)
            }
            Err(error) => {
                tracing::warn!(job = ticket.job, %error, waiting, "draws are not noted yet");
                Ok(Noted::Waiting)
            }
        }
    }

    /// The ticket that a step of a job was served before, by this server or another; `None` where it was
    /// not. A job that goes on from a checkpoint asks for steps again that were served to it before it
    /// died: with the same tickets it learns the same bytes, though the store has moved on.
    ///
    /// # Errors
    /// The store's, and a row that holds no ticket.
    pub async fn served(&mut self, job: &str, step: Step) -> Result<Option<Ticket>> {
        let store = self.store.clone();
        let known = self.job(job).await?;
        if let Some(draw) = known.waiting.get(&step.0) {
            return Ok(Some(Ticket::from_json(draw.ticket.as_bytes())?));
        }
        if step.0 >= known.next && known.ours != Some(step.0) {
            // Another server may have served the job since.
            known.next = known.next.max(noted(&store, job).await?);
        }
        if step.0 >= known.next || step.0 < known.void {
            return Ok(None);
        }
        if !known.asked.contains(&step.0) {
            known.asked = step.0..step.0.saturating_add(ASKED).min(known.next);
            known.tickets = tickets(&store, job, &known.asked).await?;
        }
        Ok(known.tickets.get(&step.0).cloned())
    }

    /// From now on gives no ticket of the job's that the store has by now.
    pub fn void(&mut self, job: &str) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.void = job.next;
        }
    }

    async fn job(&mut self, name: &str) -> Result<&mut Job> {
        if !self.jobs.contains_key(name) {
            if self.jobs.len() >= JOBS {
                self.jobs.retain(|_, job| !job.waiting.is_empty());
            }
            let job = Job { next: noted(&self.store, name).await?, ..Job::default() };
            self.jobs.insert(name.to_owned(), job);
        }
        Ok(self.jobs.entry(name.to_owned()).or_default())
    }

    /// How many steps wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.jobs.values().map(|job| job.waiting.len()).sum()
    }

    /// Writes the groups that have waited long enough.
    ///
    /// # Errors
    /// The store's; what could not be written still waits.
    pub async fn tick(&mut self) -> Result<()> {
        let now = self.store.clock().monotonic();
        let due = |job: &Job| !job.waiting.is_empty() && now.saturating_sub(job.since) >= self.groups.wait;
        let due = self.jobs.iter().filter(|(_, job)| due(job)).map(|(name, _)| name.clone()).collect();
        self.write_all(due).await
    }

    /// Writes all that waits.
    ///
    /// # Errors
    /// As [`DrawLog::tick`].
    pub async fn flush(&mut self) -> Result<()> {
        self.write_all(self.jobs.keys().cloned().collect()).await
    }

    /// Writes what waits of these jobs: what holds up one need not hold up the others. The first error.
    async fn write_all(&mut self, names: Vec<String>) -> Result<()> {
        let mut result = Ok(());
        for name in names {
            result = result.and(self.write(&name).await);
        }
        result
    }

    /// Writes what waits of one job. Where another server noted some of it, the rest is tried again.
    async fn write(&mut self, name: &str) -> Result<()> {
        let Some(job) = self.jobs.get_mut(name) else { return Ok(()) };
        let fence = fence(name);
        let mut lost = None;
        for _ in 0..TRIES {
            if job.waiting.is_empty() {
                return Ok(());
            }
            let mut committer = Committer::open(&self.store, Table::Draws, &fence).await?;
            let next = committer.last(&fence).await?.unwrap_or(0);
            job.next = job.next.max(u64::try_from(next).unwrap_or(0));
            job.waiting = job.waiting.split_off(&job.next);
            let Some(last) = job.waiting.keys().next_back().copied() else { return Ok(()) };
            let number = Step(last).next();
            match committer.commit(&[rows(name, &job.waiting)?], vec![(fence.clone(), number.to_i64())]).await
            {
                Ok(_) => {
                    job.waiting.clear();
                    job.next = number.0;
                    return Ok(());
                }
                Err(conflict @ StoreError::Conflict { .. }) => lost = Some(conflict),
                Err(error) => return Err(error.into()),
            }
        }
        lost.map_or(Ok(()), |conflict| Err(conflict.into()))
    }
}

/// The first step of the job that the store has not.
async fn noted(store: &Store, job: &str) -> Result<u64> {
    let next = store.transaction(Table::Draws, &fence(job)).await?.unwrap_or(0);
    Ok(u64::try_from(next).unwrap_or(0))
}

/// The tickets that the store has of these steps.
async fn tickets(store: &Store, job: &str, steps: &Range<u64>) -> Result<BTreeMap<u64, Ticket>> {
    let (first, end) = (steps.start, steps.end);
    // A name has no quote in it.
    let filter = Some(format!("job = '{job}' and step >= {first} and step < {end}"));
    let version = store.version(Table::Draws).await?;
    let mut tickets = BTreeMap::new();
    for batch in store.scan(Table::Draws, version, &Scan { columns: &[], filter, order: &[] }).await? {
        for row in View::new(&batch)?.iter() {
            tickets.insert(Step::from_i64(row.step).0, Ticket::from_json(row.ticket.as_bytes())?);
        }
    }
    Ok(tickets)
}

fn rows(job: &str, draws: &BTreeMap<u64, Draw>) -> Result<arrow::array::RecordBatch> {
    let step = |entry: Option<(&u64, &Draw)>| entry.map_or(0, |(step, _)| Step(*step).to_i64());
    let (first_step, last_step) = (step(draws.first_key_value()), step(draws.last_key_value()));
    let mut rows = Builder::new();
    for (number, draw) in draws {
        rows.push(Row {
            job,
            first_step,
            last_step,
            step: Step(*number).to_i64(),
            ticket: &draw.ticket,
            spans: &draw.spans,
            shards: &draw.shards,
            buffers: &draw.buffers,
            digest: &draw.digest,
            new_tokens: draw.new_tokens,
            replayed_tokens: draw.replayed_tokens,
            time: draw.time,
        });
    }
    let wrong = |source: TableError| StoreError::Rows { table: Table::Draws, source };
    Ok(rows.finish().map_err(wrong)?)
}

/// Names in the order in which they were met, each with its number.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn number(&mut self, name: &str, step: Step) -> Result<u16> {
        let index = self.0.iter().position(|known| known == name).unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        });
        u16::try_from(index).ok().filter(|index| *index != PackedSpan::NEW_TEXT).ok_or_else(|| {
            let why = "it has more shards or buffers than a draw can name".to_owned();
            ReplayError::Wire(WireError::Batch { step: step.to_string(), why })
        })
    }

    fn json(&self) -> String {
        serde_json::json!(self.0).to_string()
    }
}

fn draw(ticket: &Ticket, batch: &Batch, digest: u128, time: i64) -> Result<Draw> {
    let (mut shards, mut buffers, mut spans) = (Names::default(), Names::default(), Vec::new());
    let (mut new_tokens, mut replayed_tokens) = (0, 0);
    for row in 0..batch.rows() {
        let buffer = match batch.buffer(row) {
            Some(name) => buffers.number(name, ticket.step)?,
            None => PackedSpan::NEW_TEXT,
        };
        let total = if buffer == PackedSpan::NEW_TEXT { &mut new_tokens } else { &mut replayed_tokens };
        for span in batch.spans(row)? {
            *total += i64::from(span.tokens);
            let packed = PackedSpan {
                row: u32::try_from(row).unwrap_or(u32::MAX),
                first_token: span.first_token,
                tokens: span.tokens,
                seq: span.seq.0,
                shard: shards.number(span.shard.as_str(), ticket.step)?,
                buffer,
                start: span.start,
                reserved: 0,
                id: *span.id.as_bytes(),
            };
            packed.pack(&mut spans);
        }
    }
    Ok(Draw {
        ticket: ticket.to_json(),
        digest: format!("{digest:032x}"),
        spans,
        shards: shards.json(),
        buffers: buffers.json(),
        new_tokens,
        replayed_tokens,
        time,
    })
}

#[cfg(test)]
mod tests;
