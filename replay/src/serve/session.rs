//! The task that owns the library, and the handle through which many clients use it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_schemas::id::{Step, Version, check_name};
use perennial_schemas::wire::{Batch, Ticket};
use perennial_store::Store;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::ServeError;
use crate::draws::StepDraws;
use crate::error::ReplayError;
use crate::inspect::{Inspection, inspect};
use crate::issue::{Issued, Request};
use crate::jobs::{Change, Jobs, Landing};
use crate::library::{Access, Library, RowRange};
use crate::receive::{self, Evaluation, Received};
use crate::views::Entry;

type Result<T> = std::result::Result<T, ServeError>;

/// The settings of the owner task.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Capacity of the request queue.
    pub queue: usize,
    /// Number of assembled batches to cache.
    pub batches: usize,
    /// Interval between two looks at the store.
    pub follow: Duration,
}

/// What a client asks for: the batch of a ticket, or some of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The ticket.
    pub ticket: Ticket,
    /// The rows; `None`: all.
    pub rows: Option<RowRange>,
}

impl From<Ticket> for Wanted {
    fn from(ticket: Ticket) -> Self {
        Self { ticket, rows: None }
    }
}

impl Wanted {
    /// Reads the JSON of a ticket, or `{"ticket": .., "rows": [first, end]}`.
    ///
    /// # Errors
    /// Neither of them; a ticket of another format.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Part {
            ticket: serde_json::Value,
            rows: RowRange,
        }
        let of = |json: &[u8]| Ticket::from_json(json).map_err(ReplayError::from);
        match serde_json::from_slice::<Part>(json) {
            Ok(Part { ticket, rows }) => {
                Ok(Self { ticket: of(ticket.to_string().as_bytes())?, rows: Some(rows) })
            }
            Err(_) => Ok(of(json)?.into()),
        }
    }
}

/// A batch with the metadata that is sent with it.
#[derive(Debug)]
pub struct Served {
    /// The batch.
    pub batch: Batch,
    /// Its digest.
    pub digest: u128,
    /// The job's next request.
    pub next: Request,
}

/// Evaluations of one step.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluations {
    /// The job.
    pub job: String,
    /// The series within which steps ascend.
    pub series: String,
    /// The step.
    pub step: Step,
    /// Tokens trained so far.
    pub tokens: u64,
    /// The scores.
    pub scores: Vec<Evaluation>,
}

/// The counters of a server. All except `ready` and `version` only increase.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Whether the last look at the store succeeded.
    pub ready: AtomicBool,
    /// The newest version of `records` that was read.
    pub version: AtomicU64,
    /// Tickets issued.
    pub tickets: AtomicU64,
    /// Requests for which the stream did not have enough text.
    pub not_yet: AtomicU64,
    /// Batches served.
    pub batches: AtomicU64,
    /// Bytes of their columns.
    pub bytes: AtomicU64,
    /// Batches that were in the cache.
    pub hits: AtomicU64,
    /// Requests that failed.
    pub failures: AtomicU64,
    /// Total microseconds from request to answer, over all batches.
    pub batch_us: AtomicU64,
    /// Views that were written, by this server or another that was faster.
    pub views: AtomicU64,
}

type Answer<T> = oneshot::Sender<Result<T>>;

enum Command {
    Ticket(Request, Answer<Issued>),
    Batch(Wanted, Duration, Answer<Arc<Served>>),
    Evaluations(Evaluations, Answer<Received>),
    Buffers(Answer<Inspection>),
    Follow(Answer<()>),
    Jobs(Answer<Vec<Arc<Entry>>>),
    Job(JobRows, Answer<Vec<Entry>>),
    Change(String, Change, Answer<Arc<Entry>>),
    Fork(Fork, Answer<Arc<Entry>>),
    Draws(Range, Answer<Vec<StepDraws>>),
    Close(Answer<()>),
    #[cfg(test)]
    Fail,
}

/// Rows of a job's record.
#[derive(Debug)]
struct JobRows {
    job: String,
    first: u64,
    limit: u64,
}

/// Steps of a job.
#[derive(Debug)]
struct Range {
    job: String,
    first: Step,
    end: Step,
}

/// A job that is to begin where another one stood.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// The other job.
    pub of: String,
    /// The step of the other job, which is the new job's first.
    pub step: Step,
    /// The new job.
    pub job: String,
}

/// Draws of consecutive steps.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawsPage {
    /// The steps, in order.
    pub draws: Vec<StepDraws>,
    /// The step to go on with; `None` where no later one is decided.
    pub next: Option<Step>,
}

/// Steps whose draws are computed at a time: other requests come in between.
const STEPS: u64 = 16;

/// Spans after which a page of draws ends.
const SPANS: usize = 1 << 16;

/// A handle to the owner task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Session {
    sender: mpsc::Sender<Command>,
    counters: Arc<ServerCounters>,
    store: Store,
}

impl Session {
    /// Starts the owner task of `library`, which must have been opened on `store`. It ends with
    /// [`Session::close`], or when the last session is dropped.
    #[must_use]
    pub fn start(library: Library, store: Store, settings: Settings) -> Self {
        let (sender, receiver) = mpsc::channel(settings.queue.max(1));
        let counters = Arc::new(ServerCounters::default());
        counters.ready.store(true, Relaxed);
        counters.version.store(library.version().0, Relaxed);
        let jobs = Jobs::new(&store, Access::Follow);
        let owner = Owner {
            clock: store.clock().clone(),
            store: store.clone(),
            library,
            jobs,
            waiting: Vec::new(),
            settings,
            counters: Arc::clone(&counters),
            assembled: VecDeque::new(),
        };
        tokio::spawn(owner.run(receiver));
        Self { sender, counters, store }
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.sender.send(command(answer)).await.map_err(|_| ServeError::Stopping)?;
        let result = answered.await.unwrap_or(Err(ServeError::Stopping));
        if result.is_err() {
            self.counters.failures.fetch_add(1, Relaxed);
        }
        result
    }

    /// The ticket of a step of a job, which is decided for ever.
    ///
    /// # Errors
    /// As [`Jobs::issue`]; a step or row above the store's range.
    pub async fn ticket(&self, request: Request) -> Result<Issued> {
        check_name("job", &request.job).map_err(ReplayError::from)?;
        in_range("step", request.step.0)?;
        in_range("row", request.from.as_ref().map_or(0, |from| from.row))?;
        self.ask(|answer| Command::Ticket(request, answer)).await
    }

    /// The batch that a ticket names.
    ///
    /// # Errors
    /// As [`Library::batch`].
    pub async fn batch(&self, wanted: impl Into<Wanted>) -> Result<Arc<Served>> {
        let wanted = wanted.into();
        check_name("job", &wanted.ticket.job).map_err(ReplayError::from)?;
        in_range("step", wanted.ticket.step.0)?;
        in_range("row", wanted.ticket.from.row)?;
        let asked = self.store.clock().monotonic();
        self.ask(|answer| Command::Batch(wanted, asked, answer)).await
    }

    /// Receives evaluations.
    ///
    /// # Errors
    /// As [`receive::evaluations`]; a step or a count above the store's range, a loss that is not finite.
    pub async fn evaluations(&self, evaluations: Evaluations) -> Result<Received> {
        in_range("step", evaluations.step.0)?;
        in_range("tokens", evaluations.tokens)?;
        for score in &evaluations.scores {
            in_range("predicted", score.predicted)?;
            in_range("bytes", score.bytes)?;
            if !score.nats.is_finite() || score.nats < 0.0 {
                let why = format!("`nats` of document `{}` is {}, not a loss", score.document, score.nats);
                return Err(ServeError::Input { what: "evaluation", why });
            }
        }
        self.ask(|answer| Command::Evaluations(evaluations, answer)).await
    }

    /// Statistics of the buffers.
    ///
    /// # Errors
    /// As [`inspect`].
    pub async fn buffers(&self) -> Result<Inspection> {
        self.ask(Command::Buffers).await
    }

    /// Follows the store now.
    ///
    /// # Errors
    /// As [`Library::follow`].
    pub async fn follow(&self) -> Result<()> {
        self.ask(Command::Follow).await
    }

    /// Ends the owner task after the views that are on their way; later requests are refused.
    ///
    /// # Errors
    /// The task has ended already.
    pub async fn close(&self) -> Result<()> {
        self.ask(Command::Close).await
    }

    /// The newest row of every job of the store.
    ///
    /// # Errors
    /// The store's errors.
    pub async fn jobs(&self) -> Result<Vec<Arc<Entry>>> {
        self.ask(Command::Jobs).await
    }

    /// The record of a job: `limit` of its rows from number `first` on.
    ///
    /// # Errors
    /// As [`Jobs::newest`].
    pub async fn job(&self, job: &str, first: u64, limit: u64) -> Result<Vec<Entry>> {
        let rows = JobRows { job: job.to_owned(), first, limit };
        self.ask(|answer| Command::Job(rows, answer)).await
    }

    /// Changes a job from its next view on; the row that records it.
    ///
    /// # Errors
    /// As [`Jobs::change`].
    pub async fn change(&self, job: &str, change: Change) -> Result<Arc<Entry>> {
        if let Change::Skip(steps) = change {
            in_range("skip", steps)?;
        }
        self.ask(|answer| Command::Change(job.to_owned(), change, answer)).await
    }

    /// Begins a job where another one stood.
    ///
    /// # Errors
    /// As [`Jobs::fork`].
    pub async fn fork(&self, fork: Fork) -> Result<Arc<Entry>> {
        in_range("step", fork.step.0)?;
        self.ask(|answer| Command::Fork(fork, answer)).await
    }

    /// The draws of at most `count` decided steps of a job from `first` on. It ends earlier after 65,536
    /// spans.
    ///
    /// # Errors
    /// As [`Jobs::tickets`] and [`Library::draws`].
    pub async fn draws(&self, job: &str, first: Step, count: u64) -> Result<DrawsPage> {
        in_range("from", first.0)?;
        let (end, mut next) = (Step(first.0.saturating_add(count)), first);
        let (mut draws, mut spans) = (Vec::new(), 0);
        while next < end && spans < SPANS {
            let range = Range { job: job.to_owned(), first: next, end: end.min(Step(next.0 + STEPS)) };
            let some = self.ask(|answer| Command::Draws(range, answer)).await?;
            let Some(last) = some.last() else { return Ok(DrawsPage { draws, next: None }) };
            next = last.step.next();
            spans += some.iter().map(|step| step.spans.len()).sum::<usize>();
            draws.extend(some);
        }
        Ok(DrawsPage { draws, next: Some(next) })
    }

    /// The newest version of `records` that was read.
    #[must_use]
    pub fn version(&self) -> Version {
        Version(self.counters.version.load(Relaxed))
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &ServerCounters {
        &self.counters
    }

    /// Whether the owner task runs: after a panic or [`Session::close`] it does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Makes the owner task panic.
    #[cfg(test)]
    pub(crate) async fn fail(&self) {
        let _ = self.sender.send(Command::Fail).await;
        self.sender.closed().await;
    }

    /// Number of waiting requests.
    #[must_use]
    pub fn queue(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }
}

/// Refuses a number that is too large for a column of the store.
fn in_range(what: &'static str, number: u64) -> Result<()> {
    // Half of the range leaves room for sums.
    const MOST: u64 = 1 << 62;
    if number <= MOST {
        return Ok(());
    }
    Err(ServeError::Input { what, why: format!("{number} is above {MOST}") })
}

/// Whether the ticket may come from another server that has read a newer version.
const fn is_ahead(error: &ReplayError) -> bool {
    matches!(error, ReplayError::NoOffset { .. } | ReplayError::NoRevision { .. })
}

struct Owner {
    library: Library,
    store: Store,
    clock: Clock,
    jobs: Jobs,
    /// Requests that wait for a view of their job.
    waiting: Vec<(Request, Answer<Issued>)>,
    settings: Settings,
    counters: Arc<ServerCounters>,
    /// The most recently assembled batches with their tickets, newest at the end.
    assembled: VecDeque<(Wanted, Arc<Served>)>,
}

/// What the owner does next.
enum Event {
    Tick,
    Landing(Option<Landing>),
    Command(Option<Command>),
}

impl Owner {
    async fn run(mut self, mut receiver: mpsc::Receiver<Command>) {
        let mut next_follow = self.clock.monotonic() + self.settings.follow;
        loop {
            let left = next_follow.saturating_sub(self.clock.monotonic());
            let has_room = self.waiting.len() < self.settings.queue.max(1);
            // The timer comes first, so that a constant load of requests does not delay it.
            let event = tokio::select! {
                biased;
                () = self.clock.sleep(left) => Event::Tick,
                landing = self.jobs.landing(), if self.jobs.is_writing() => Event::Landing(landing),
                command = receiver.recv(), if has_room => Event::Command(command),
            };
            match event {
                Event::Tick => {
                    self.tick().await;
                    next_follow = self.clock.monotonic() + self.settings.follow;
                }
                Event::Landing(landing) => self.land(landing).await,
                Event::Command(Some(Command::Close(answer))) => {
                    receiver.close();
                    self.finish().await;
                    let _ = answer.send(Ok(()));
                    return;
                }
                Event::Command(Some(command)) => self.execute(command).await,
                Event::Command(None) => return self.finish().await,
            }
        }
    }

    /// Answers what waits for a view.
    async fn finish(&mut self) {
        while self.jobs.is_writing() {
            let landing = self.jobs.landing().await;
            self.land(landing).await;
        }
    }

    /// A view has reached the store, or not: answers the requests that waited for it.
    async fn land(&mut self, landing: Option<Landing>) {
        let job = landing.as_ref().map(|landing| landing.job().to_owned());
        let landed = match landing {
            Some(landing) => self.jobs.land(landing).await.map_err(Arc::new),
            None => Ok(()),
        };
        self.counters.views.fetch_add(u64::from(job.is_some() && landed.is_ok()), Relaxed);
        let waited = |(request, _): &mut (Request, _)| job.as_ref().is_none_or(|job| *job == request.job);
        let waited: Vec<_> = self.waiting.extract_if(.., waited).collect();
        for (request, answer) in waited {
            match &landed {
                Ok(()) => self.ticket(request, answer).await,
                Err(why) => {
                    let undecided = ServeError::Undecided { job: request.job, why: Arc::clone(why) };
                    let _ = answer.send(Err(undecided));
                }
            }
        }
    }

    /// Executes one command. Sending the answer may fail: the client may have gone away.
    async fn execute(&mut self, command: Command) {
        match command {
            Command::Ticket(request, answer) => self.ticket(request, answer).await,
            Command::Batch(wanted, asked, answer) => {
                let result = self.batch(wanted).await;
                if let Ok(served) = &result {
                    let took = self.clock.monotonic().saturating_sub(asked);
                    self.counters.batches.fetch_add(1, Relaxed);
                    let bytes = served.batch.columns().get_array_memory_size();
                    self.counters.bytes.fetch_add(bytes as u64, Relaxed);
                    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    self.counters.batch_us.fetch_add(us, Relaxed);
                }
                let _ = answer.send(result);
            }
            Command::Evaluations(sent, answer) => {
                let Evaluations { job, series, step, tokens, scores } = &sent;
                let order = self.library.order_log();
                let result =
                    receive::evaluations(&self.store, order, job, series, *step, *tokens, scores).await;
                let _ = answer.send(result.map_err(ServeError::from));
            }
            Command::Buffers(answer) => {
                let _ = answer.send(inspect(&mut self.library).map_err(ServeError::from));
            }
            Command::Follow(answer) => {
                let _ = answer.send(self.follow().await);
            }
            Command::Jobs(answer) => {
                let _ = answer.send(self.jobs.list().await.map_err(ServeError::from));
            }
            Command::Job(JobRows { job, first, limit }, answer) => {
                let _ = answer.send(self.jobs.rows(&job, first, limit).await.map_err(ServeError::from));
            }
            Command::Change(job, change, answer) => {
                let result = self.jobs.change(&mut self.library, &job, &change).await;
                let _ = answer.send(result.map_err(ServeError::from));
            }
            Command::Fork(Fork { of, step, job }, answer) => {
                let result = self.jobs.fork(&mut self.library, &of, step, &job).await;
                let _ = answer.send(result.map_err(ServeError::from));
            }
            Command::Draws(range, answer) => {
                let _ = answer.send(self.draws(&range).await);
            }
            // `run` answers it, because it ends the loop.
            Command::Close(_) => {}
            #[cfg(test)]
            Command::Fail => panic!("a test asked for it"),
        }
    }

    async fn tick(&mut self) {
        if let Err(error) = self.follow().await {
            tracing::warn!(%error, "the store cannot be followed");
        }
    }

    async fn follow(&mut self) -> Result<()> {
        let before = self.library.version();
        let followed = self.library.follow().await;
        self.counters.ready.store(followed.is_ok(), Relaxed);
        self.counters.version.store(self.library.version().0, Relaxed);
        if self.library.version() != before {
            // The new version may have removed text that cached batches hold.
            self.assembled.clear();
        }
        Ok(followed?)
    }

    async fn ticket(&mut self, request: Request, answer: Answer<Issued>) {
        let result = match self.jobs.issue(&mut self.library, &request).await {
            Ok(None) => return self.waiting.push((request, answer)),
            Ok(Some(issued)) => Ok(issued),
            Err(error) => Err(error.into()),
        };
        match &result {
            Ok(Issued::Ticket(_)) => drop(self.counters.tickets.fetch_add(1, Relaxed)),
            Ok(Issued::NotYet { .. }) => drop(self.counters.not_yet.fetch_add(1, Relaxed)),
            Err(_) => {}
        }
        let _ = answer.send(result);
    }

    async fn draws(&mut self, range: &Range) -> Result<Vec<StepDraws>> {
        let mut draws = Vec::new();
        for ticket in self.jobs.tickets(&range.job, range.first, range.end).await? {
            let mut step = self.library.draws(&ticket).await;
            if step.as_ref().is_err_and(is_ahead) {
                self.follow().await?;
                step = self.library.draws(&ticket).await;
            }
            draws.push(step?);
        }
        Ok(draws)
    }

    async fn batch(&mut self, wanted: Wanted) -> Result<Arc<Served>> {
        if let Some((_, served)) = self.assembled.iter().find(|(known, _)| *known == wanted) {
            self.counters.hits.fetch_add(1, Relaxed);
            return Ok(Arc::clone(served));
        }
        let Wanted { ticket, rows } = &wanted;
        let mut batch = self.library.rows(ticket, *rows).await;
        if batch.as_ref().is_err_and(is_ahead) {
            self.follow().await?;
            batch = self.library.rows(ticket, *rows).await;
        }
        let batch = batch?;
        let next = self.library.after(ticket).await?;
        let digest = batch.digest();
        let served = Arc::new(Served { batch, digest, next });
        if self.settings.batches > 0 {
            if self.assembled.len() >= self.settings.batches {
                self.assembled.pop_front();
            }
            self.assembled.push_back((wanted, Arc::clone(&served)));
        }
        Ok(served)
    }
}
