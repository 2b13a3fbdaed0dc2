//! The jobs that a server serves: which ticket each step of each job has.
//!
//! ```text
//! request --decided?--> views ──────────────────────────────> ticket
//!     \--no--> lay out steps --> commit (a task of its own) --/
//! ```
//!
//! A step that no view decides yet makes one: of 1, 2, 4 .. [`MOST`] steps, so that the first batch of a job is
//! early and later ones do not wait. When half of the last view was asked for the next one is laid out and
//! committed beside the serving of batches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use perennial_schemas::id::{Offset, Step, check_name};
use perennial_schemas::table::Table;
use perennial_schemas::table::views::Op;
use perennial_schemas::wire::{Position, Settings, Ticket};
use perennial_store::Store;
use tokio::task::{self, JoinSet};

use crate::error::{ReplayError, Result};
use crate::issue::{Issued, Request, Standing};
use crate::library::{Access, Library};
use crate::tokenise::Tokenizer;
use crate::views::{self, Entry, ViewLog, Written};

/// The most steps of a view.
pub const MOST: u64 = 64;

/// How far past the last decided step a request may be.
pub const AHEAD: u64 = 1024;

/// Tokens of a view with a subword tokenizer, about: its texts are tokenised when it is laid out.
const SUBWORDS: u64 = 1 << 17;

/// Number of jobs that are kept in memory.
const JOBS: usize = 1024;

/// A row that was on its way to the store, and what became of it.
#[derive(Debug)]
pub struct Landing {
    entry: Arc<Entry>,
    written: Result<Written>,
}

impl Landing {
    /// The job.
    #[must_use]
    pub fn job(&self) -> &str {
        &self.entry.ticket.job
    }
}

/// A change of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Other settings from the next view on.
    Set(SettingsChange),
    /// The text of the next steps is left out.
    Skip(u64),
    /// No step after the decided ones.
    End,
}

/// Settings of a job that are to change; absent ones stay.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsChange {
    /// Rows of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
    /// The share of new records to use, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<perennial_program::config::Share>,
    /// The share of rows of each buffer, 0 to 1: the whole mix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<BTreeMap<String, perennial_program::config::Share>>,
}

/// One job.
#[derive(Debug)]
struct Job {
    log: ViewLog,
    /// Whether a row is on its way to the store.
    writing: bool,
    /// When it was used last, in uses of all jobs.
    used: u64,
}

/// The jobs of one server.
#[derive(Debug)]
pub struct Jobs {
    store: Store,
    access: Access,
    jobs: BTreeMap<String, Job>,
    uses: u64,
    tasks: JoinSet<Result<Written>>,
    /// What each task writes.
    entries: HashMap<task::Id, Arc<Entry>>,
}

impl Jobs {
    /// No job is read yet.
    #[must_use]
    pub fn new(store: &Store, access: Access) -> Self {
        let (store, jobs) = (store.clone(), BTreeMap::new());
        Self { store, access, jobs, uses: 0, tasks: JoinSet::new(), entries: HashMap::new() }
    }

    /// What a request comes to; `None` while the job's next view is on its way to the store: ask again when it
    /// has [landed](Jobs::land).
    ///
    /// # Errors
    /// An invalid name; [`ReplayError::Elsewhere`], [`ReplayError::Ended`], [`ReplayError::Far`],
    /// [`ReplayError::Before`]; settings that cannot be; the store's errors.
    pub async fn issue(&mut self, library: &mut Library, request: &Request) -> Result<Option<Issued>> {
        check_name("job", &request.job)?;
        loop {
            let job = self.job(&request.job).await?;
            let newest = job.log.newest().map(Arc::clone);
            let end = newest.as_ref().map_or(Step(0), |newest| newest.end());
            if request.step < end {
                let ticket = decided(job, request).await?;
                self.run_ahead(library, &ticket).await;
                return Ok(Some(Issued::Ticket(ticket)));
            }
            if job.writing {
                return Ok(None);
            }
            let standing = match &newest {
                Some(newest) => {
                    check_open(&job.log, newest, request).await?;
                    newest.standing()
                }
                None => beginning(library, request)?,
            };
            if request.step.0 - standing.step.0 >= AHEAD {
                if job.log.refresh().await? {
                    continue;
                }
                return Err(ReplayError::Far { job: request.job.clone(), step: request.step, end });
            }
            let steps = size(newest.as_deref(), &standing.settings, library);
            let laid = library.lay_out(standing, steps, true).await?;
            if laid.positions.is_empty() {
                // Another server may have read more of the stream.
                if self.job(&request.job).await?.log.refresh().await? {
                    continue;
                }
                return Ok(Some(Issued::NotYet { missing: laid.missing }));
            }
            let entry = next(newest.as_deref(), Op::View, laid.ticket, laid.positions, self.now());
            if self.access == Access::Read {
                self.job(&request.job).await?.log.imagine(Arc::new(entry));
                continue;
            }
            self.write(entry).await?;
            return Ok(None);
        }
    }

    /// As [`Jobs::issue`]; waits for the job's views.
    ///
    /// # Errors
    /// As [`Jobs::issue`].
    pub async fn issue_now(&mut self, library: &mut Library, request: &Request) -> Result<Issued> {
        loop {
            match self.issue(library, request).await? {
                Some(issued) => return Ok(issued),
                None => self.settle(&request.job).await?,
            }
        }
    }

    /// Waits until a row has reached the store, or not; pass it to [`Jobs::land`]. Nothing is lost when the
    /// wait is given up. `None` while none is on its way.
    pub async fn landing(&mut self) -> Option<Landing> {
        let (task, written) = match self.tasks.join_next_with_id().await? {
            Ok((task, written)) => (task, written),
            Err(error) => (error.id(), Err(ReplayError::Writer(error))),
        };
        let entry = self.entries.remove(&task)?;
        Some(Landing { entry, written })
    }

    /// Takes note of what became of a row.
    ///
    /// # Errors
    /// The store's: whether the row is in the store is not known, and the job is read again.
    pub async fn land(&mut self, landing: Landing) -> Result<()> {
        let Landing { entry, written } = landing;
        let name = entry.ticket.job.clone();
        let Some(job) = self.jobs.get_mut(&name) else { return Ok(()) };
        job.writing = false;
        let known = match written {
            Ok(Written::Landed) => {
                job.log.landed(entry);
                Ok(())
            }
            Ok(Written::Lost) => job.log.refresh().await.map(drop),
            Err(error) => Err(error),
        };
        known.inspect_err(|_| drop(self.jobs.remove(&name)))
    }

    /// Whether a row is on its way to the store.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// The view after the last one, when half of that was asked for.
    async fn run_ahead(&mut self, library: &mut Library, ticket: &Ticket) {
        let Some(job) = self.jobs.get_mut(&ticket.job) else { return };
        let Some(newest) = job.log.newest().map(Arc::clone) else { return };
        let half = newest.first().0 + (newest.end().0 - newest.first().0) / 2;
        if newest.op != Op::View || ticket.step.0 < half || job.writing || self.access == Access::Read {
            return;
        }
        let (standing, now) = (newest.standing(), self.now());
        let steps = size(Some(&newest), &standing.settings, library);
        // What fails here fails again, and is said, when the step is asked for.
        if let Ok(laid) = library.lay_out(standing, steps, false).await
            && !laid.positions.is_empty()
        {
            let entry = next(Some(&newest), Op::View, laid.ticket, laid.positions, now);
            drop(self.write(entry).await);
        }
    }

    /// Starts to write a row.
    async fn write(&mut self, entry: Entry) -> Result<()> {
        let (store, entry) = (self.store.clone(), Arc::new(entry));
        self.job(&entry.ticket.job).await?.writing = true;
        let written = Arc::clone(&entry);
        let task = self.tasks.spawn(async move { views::write(&store, &written).await });
        self.entries.insert(task.id(), entry);
        Ok(())
    }

    fn now(&self) -> i64 {
        self.store.clock().now_us()
    }

    async fn job(&mut self, name: &str) -> Result<&mut Job> {
        self.uses += 1;
        if !self.jobs.contains_key(name) {
            self.forget();
            let log = ViewLog::open(&self.store, name).await?;
            self.jobs.insert(name.to_owned(), Job { log, writing: false, used: self.uses });
        }
        let missing = || ReplayError::NoJob { job: name.to_owned() };
        let job = self.jobs.get_mut(name).ok_or_else(missing)?;
        job.used = self.uses;
        Ok(job)
    }

    /// Makes room for a job.
    fn forget(&mut self) {
        if self.jobs.len() < JOBS {
            return;
        }
        let idle = self.jobs.iter().filter(|(_, job)| !job.writing);
        if let Some(name) = idle.min_by_key(|(_, job)| job.used).map(|(name, _)| name.clone()) {
            self.jobs.remove(&name);
        }
    }

    /// The newest row of a job that exists, as the store has it.
    ///
    /// # Errors
    /// An invalid name, [`ReplayError::NoJob`], the store's errors.
    pub async fn newest(&mut self, name: &str) -> Result<Arc<Entry>> {
        check_name("job", name)?;
        let job = self.job(name).await?;
        job.log.refresh().await?;
        job.log.newest().map(Arc::clone).ok_or_else(|| ReplayError::NoJob { job: name.to_owned() })
    }

    /// The rows of a job in order, `limit` of them from number `first` on.
    ///
    /// # Errors
    /// As [`Jobs::newest`].
    pub async fn rows(&mut self, name: &str, first: u64, limit: u64) -> Result<Vec<Entry>> {
        self.newest(name).await?;
        self.job(name).await?.log.rows(first, first.saturating_add(limit).saturating_sub(1)).await
    }

    /// The tickets of the decided ones of `first .. end`, in order.
    ///
    /// # Errors
    /// As [`Jobs::newest`].
    pub async fn tickets(&mut self, name: &str, first: Step, end: Step) -> Result<Vec<Ticket>> {
        let end = end.min(self.newest(name).await?.end());
        let log = &mut self.job(name).await?.log;
        let mut tickets = Vec::new();
        for step in (first.0..end.0).map(Step) {
            let found = log.find(step).await?;
            tickets.extend(found.and_then(|entry| entry.ticket_of(step)));
        }
        Ok(tickets)
    }

    /// The decided steps of a job: the first and the one after the last.
    ///
    /// # Errors
    /// As [`Jobs::newest`].
    pub async fn decided(&mut self, name: &str) -> Result<std::ops::Range<Step>> {
        let end = self.newest(name).await?.end();
        let first = self.job(name).await?.log.rows(1, 1).await?.first().map_or(end, Entry::first);
        Ok(first..end)
    }

    /// The views of a job that decide the steps of `first .. end`, in order.
    ///
    /// # Errors
    /// As [`Jobs::newest`].
    pub async fn views(&mut self, name: &str, first: Step, end: Step) -> Result<Vec<Entry>> {
        self.newest(name).await?;
        self.job(name).await?.log.views(first, end).await
    }

    /// The tickets of the decided ones of `first .. end`, in order, without those of views that cannot hold the record
    /// at `offset`.
    ///
    /// # Errors
    /// As [`Jobs::newest`]; a buffer that does not have a view's revision.
    pub async fn tickets_that_may_hold(
        &mut self,
        library: &mut Library,
        name: &str,
        first: Step,
        end: Step,
        offset: Offset,
    ) -> Result<Vec<Ticket>> {
        let mut tickets = Vec::new();
        for view in self.views(name, first, end).await? {
            if library.may_hold(&view, offset)? {
                let (first, end) = (view.first().max(first), view.end().min(end));
                tickets.extend((first.0..end.0).filter_map(|step| view.ticket_of(Step(step))));
            }
        }
        Ok(tickets)
    }

    /// The newest row of every job of the store, by name.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&mut self) -> Result<Vec<Arc<Entry>>> {
        let mut all = Vec::new();
        for name in self.store.distinct(Table::Views, "job").await? {
            all.push(self.newest(&name).await?);
        }
        Ok(all)
    }

    /// Changes a job from its next view on; the row that records it, with the step in its ticket.
    ///
    /// # Errors
    /// As [`Jobs::newest`]; settings that cannot be; [`ReplayError::Ended`]; [`ReplayError::TooShort`] where the
    /// stream does not have the steps that are to be left out.
    pub async fn change(&mut self, library: &mut Library, name: &str, change: &Change) -> Result<Arc<Entry>> {
        loop {
            self.settle(name).await?;
            let newest = self.newest(name).await?;
            if newest.op == Op::End {
                return Err(ReplayError::Ended { job: name.to_owned(), end: newest.end() });
            }
            let mut standing = newest.standing();
            if let Change::Set(set) = change {
                set.apply(&mut standing.settings);
                library.plan().check_settings(&standing.settings)?;
            }
            let (op, skipped) = match change {
                Change::Set(_) => (Op::Set, None),
                Change::Skip(steps) => (Op::Skip, Some(*steps)),
                Change::End => (Op::End, None),
            };
            let (ticket, positions) = match skipped {
                None => (library.next_ticket(standing), Vec::new()),
                Some(steps) => left_out(library, standing, steps).await?,
            };
            let entry = Entry { skipped, ..next(Some(&newest), op, ticket, positions, self.now()) };
            if let Some(entry) = self.append(entry).await? {
                return Ok(entry);
            }
        }
    }

    /// Begins a job where another one stood before a step, with its settings there.
    ///
    /// # Errors
    /// As [`Jobs::newest`]; [`ReplayError::Taken`] where the new job exists; [`ReplayError::Far`] and
    /// [`ReplayError::Before`] for a step that is not decided.
    pub async fn fork(
        &mut self,
        library: &mut Library,
        of: &str,
        step: Step,
        name: &str,
    ) -> Result<Arc<Entry>> {
        check_name("job", name)?;
        let newest = self.newest(of).await?;
        let standing = match self.tickets(of, step, step.next()).await?.pop() {
            Some(Ticket { settings, from: position, .. }) => {
                Standing { job: name.to_owned(), step, position, settings }
            }
            None if step == newest.end() => Standing { job: name.to_owned(), ..newest.standing() },
            None if step > newest.end() => {
                return Err(ReplayError::Far { job: of.to_owned(), step, end: newest.end() });
            }
            None => return Err(ReplayError::Before { job: of.to_owned(), step }),
        };
        let taken = || ReplayError::Taken { job: name.to_owned() };
        if self.job(name).await?.log.newest().is_some() {
            return Err(taken());
        }
        let ticket = library.next_ticket(standing);
        let entry = next(None, Op::Begin, ticket, Vec::new(), self.now());
        let entry = Entry { forked_from: Some(format!("{of}@{step}")), ..entry };
        self.append(entry).await?.ok_or_else(taken)
    }

    /// Waits until no row of a job is on its way. An error of another job is said when that is asked for.
    async fn settle(&mut self, name: &str) -> Result<()> {
        while self.jobs.get(name).is_some_and(|job| job.writing) {
            let Some(landing) = self.landing().await else { break };
            let ours = landing.job() == name;
            let landed = self.land(landing).await;
            if ours {
                landed?;
            }
        }
        Ok(())
    }

    /// Writes a row and waits for it; `None` where another server was faster.
    async fn append(&mut self, entry: Entry) -> Result<Option<Arc<Entry>>> {
        let entry = Arc::new(entry);
        let written = views::write(&self.store, &entry).await;
        let landed = matches!(written, Ok(Written::Landed));
        self.land(Landing { entry: Arc::clone(&entry), written }).await?;
        Ok(landed.then_some(entry))
    }
}

impl SettingsChange {
    fn apply(&self, settings: &mut Settings) {
        if let Some(rows) = self.rows {
            settings.rows = rows;
        }
        if let Some(keep) = self.keep {
            settings.keep = crate::mix::billionths(keep);
        }
        if let Some(mix) = &self.mix {
            let shares = mix.iter().map(|(name, share)| (name.clone(), crate::mix::billionths(*share)));
            settings.mix = shares.filter(|(_, share)| *share > 0).collect();
        }
    }
}

/// The ticket of a step that is decided.
async fn decided(job: &mut Job, request: &Request) -> Result<Ticket> {
    let found = job.log.find(request.step).await?;
    let ticket = found.and_then(|entry| entry.ticket_of(request.step));
    let Some(ticket) = ticket else {
        return Err(ReplayError::Before { job: request.job.clone(), step: request.step });
    };
    check_position(&job.log, request, &ticket.from).await?;
    Ok(ticket)
}

/// Refuses a request for the steps after the last decided one where there will be none, or where the job
/// stands elsewhere.
async fn check_open(log: &ViewLog, newest: &Entry, request: &Request) -> Result<()> {
    if newest.op == Op::End {
        return Err(ReplayError::Ended { job: request.job.clone(), end: newest.end() });
    }
    if request.step > newest.end() {
        return Ok(());
    }
    check_position(log, request, &newest.standing().position).await
}

/// Refuses a request from another position than `ours`, unless what lies between was left out.
async fn check_position(log: &ViewLog, request: &Request, ours: &Position) -> Result<()> {
    match &request.from {
        Some(from) if from != ours && !log.stood_at(request.step, from).await? => {
            Err(ReplayError::Elsewhere { job: request.job.clone(), step: request.step })
        }
        _ => Ok(()),
    }
}

/// Where a job stands that does not exist.
fn beginning(library: &Library, request: &Request) -> Result<Standing> {
    let settings = request.settings.clone().unwrap_or_else(|| library.plan().settings());
    library.plan().check_settings(&settings)?;
    let step = request.from.as_ref().map_or(Step(0), |_| request.step);
    let position = request.from.clone().unwrap_or_default();
    Ok(Standing { job: request.job.clone(), step, position, settings })
}

/// Number of steps of the view after `newest`.
fn size(newest: Option<&Entry>, settings: &Settings, library: &Library) -> u64 {
    let before =
        newest.filter(|newest| newest.op == Op::View).map_or(0, |newest| newest.positions.len() as u64);
    let plan = library.plan();
    let tokens = u64::from(settings.rows).saturating_mul(plan.length as u64).max(1);
    let most = match plan.tokenizer {
        Tokenizer::Bytes => MOST,
        Tokenizer::Subword(_) => (SUBWORDS / tokens).clamp(1, MOST),
    };
    before.saturating_mul(2).clamp(1, most)
}

/// The row after `newest`.
fn next(newest: Option<&Entry>, op: Op, ticket: Ticket, positions: Vec<Position>, time: i64) -> Entry {
    let number = newest.map_or(0, |newest| newest.number) + 1;
    Entry { number, op, ticket, positions, skipped: None, forked_from: None, time }
}

/// The ticket of the first of these steps, and where the job goes on after them.
async fn left_out(library: &mut Library, standing: Standing, steps: u64) -> Result<(Ticket, Vec<Position>)> {
    let job = standing.job.clone();
    let laid = library.lay_out(standing, steps, false).await?;
    let had = laid.positions.len() as u64;
    match laid.positions.last() {
        Some(last) if had == steps => Ok((laid.ticket, vec![last.clone()])),
        _ => Err(ReplayError::TooShort { job, steps, had }),
    }
}

#[cfg(test)]
mod tests;
