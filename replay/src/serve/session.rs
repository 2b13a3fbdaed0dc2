//! The task that owns the library, and the handle through which many clients use it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_schemas::id::{Step, Version, check_name};
use perennial_schemas::table::Table;
use perennial_schemas::wire::{Batch, Ticket};
use perennial_store::{Scan, Store};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::ServeError;
use crate::draw_log::{DrawLog, Groups};
use crate::error::ReplayError;
use crate::inspect::{Inspection, inspect};
use crate::issue::{Issued, Request};
use crate::library::Library;
use crate::receive::{self, Evaluation, Received};

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
    /// When draws are recorded.
    pub groups: Groups,
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

/// The counters of a server. All except `ready`, `version` and `unnoted` only increase.
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
    /// Served steps whose draws wait to be recorded.
    pub unnoted: AtomicU64,
}

type Answer<T> = oneshot::Sender<Result<T>>;

enum Command {
    Ticket(Request, Answer<Issued>),
    Batch(Ticket, Duration, Answer<Arc<Served>>),
    Evaluations(Evaluations, Answer<Received>),
    Buffers(Answer<Inspection>),
    Follow(Answer<()>),
    Flush(Answer<()>),
    Close(Answer<()>),
    #[cfg(test)]
    Fail,
}

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
        let draw_log = DrawLog::new(store.clone(), settings.groups);
        let owner = Owner {
            clock: store.clock().clone(),
            store: store.clone(),
            library,
            draw_log,
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

    /// The ticket of a job's next batch.
    ///
    /// # Errors
    /// As [`Library::ticket`]; an invalid job name, a step or row above the store's range.
    pub async fn ticket(&self, request: Request) -> Result<Issued> {
        check_name("job", &request.job).map_err(ReplayError::from)?;
        in_range("step", request.step.0)?;
        in_range("row", request.from.row)?;
        self.ask(|answer| Command::Ticket(request, answer)).await
    }

    /// The batch that a ticket names; its draw is recorded.
    ///
    /// # Errors
    /// As [`Library::batch`] and [`DrawLog::append`].
    pub async fn batch(&self, ticket: Ticket) -> Result<Arc<Served>> {
        check_name("job", &ticket.job).map_err(ReplayError::from)?;
        in_range("step", ticket.step.0)?;
        in_range("row", ticket.from.row)?;
        let asked = self.store.clock().monotonic();
        self.ask(|answer| Command::Batch(ticket, asked, answer)).await
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

    /// Records the waiting draws.
    ///
    /// # Errors
    /// As [`DrawLog::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.ask(Command::Flush).await
    }

    /// Records the waiting draws and ends the owner task; later requests are refused.
    ///
    /// # Errors
    /// As [`DrawLog::flush`].
    pub async fn close(&self) -> Result<()> {
        self.ask(Command::Close).await
    }

    /// The recorded draws of `count` steps of a job from `first` on, in order, as rows of the table.
    ///
    /// # Errors
    /// An invalid job name; the store's errors.
    pub async fn draws(&self, job: &str, first: u64, count: u64) -> Result<Vec<arrow::array::RecordBatch>> {
        check_name("job", job).map_err(ReplayError::from)?;
        in_range("from", first)?;
        let end = first.saturating_add(count).min(Step(u64::MAX).to_i64().unsigned_abs());
        // A job's name contains no quote.
        let filter = Some(format!("job = '{job}' and step >= {first} and step < {end}"));
        let version = self.store.version(Table::Draws).await.map_err(ReplayError::from)?;
        let scan = Scan { columns: &[], filter, order: &["step"] };
        Ok(self.store.scan(Table::Draws, version, &scan).await.map_err(ReplayError::from)?)
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
    draw_log: DrawLog,
    settings: Settings,
    counters: Arc<ServerCounters>,
    /// The most recently assembled batches with their tickets, newest at the end.
    assembled: VecDeque<(Ticket, Arc<Served>)>,
}

impl Owner {
    async fn run(mut self, mut receiver: mpsc::Receiver<Command>) {
        let mut next_follow = self.clock.monotonic() + self.settings.follow;
        loop {
            let left = next_follow.saturating_sub(self.clock.monotonic());
            // The timer comes first, so that a constant load of requests does not delay it.
            let command = tokio::select! {
                biased;
                () = self.clock.sleep(left) => None,
                command = receiver.recv() => match command {
                    Some(command) => Some(command),
                    None => break,
                },
            };
            match command {
                Some(Command::Close(answer)) => {
                    receiver.close();
                    let _ = answer.send(self.draw_log.flush().await.map_err(ServeError::from));
                    return;
                }
                Some(command) => self.execute(command).await,
                None => {
                    self.tick().await;
                    next_follow = self.clock.monotonic() + self.settings.follow;
                }
            }
            self.counters.unnoted.store(self.draw_log.waiting() as u64, Relaxed);
        }
        if let Err(error) = self.draw_log.flush().await {
            tracing::error!(%error, "draws could not be recorded");
        }
    }

    /// Executes one command. Sending the answer may fail: the client may have gone away.
    async fn execute(&mut self, command: Command) {
        match command {
            Command::Ticket(request, answer) => {
                let _ = answer.send(self.ticket(&request).await);
            }
            Command::Batch(ticket, asked, answer) => {
                let result = self.batch(ticket).await;
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
            Command::Flush(answer) => {
                let _ = answer.send(self.draw_log.flush().await.map_err(ServeError::from));
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
        if let Err(error) = self.draw_log.tick().await {
            tracing::warn!(%error, "draws are not recorded yet");
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

    async fn ticket(&mut self, request: &Request) -> Result<Issued> {
        let issued = match self.served(request).await? {
            Some(ticket) => Issued::Ticket(ticket),
            None => self.library.ticket(request).await?,
        };
        let count = match issued {
            Issued::Ticket(_) => &self.counters.tickets,
            Issued::NotYet { .. } => &self.counters.not_yet,
        };
        count.fetch_add(1, Relaxed);
        Ok(issued)
    }

    /// The ticket that the job was served before at this step, if the job requests the same position of the
    /// stream and the batch can still be made. Otherwise the recorded draws of this and later steps become
    /// void.
    async fn served(&mut self, request: &Request) -> Result<Option<Ticket>> {
        let Some(ticket) = self.draw_log.served(&request.job, request.step).await? else { return Ok(None) };
        if ticket.config != self.library.plan().digest() {
            return Err(ReplayError::Served { job: request.job.clone(), step: request.step.0 }.into());
        }
        let why = if ticket.from != request.from {
            "it continues from another position of the stream"
        } else {
            let mut after = self.library.after(&ticket).await;
            if after.as_ref().is_err_and(is_ahead) {
                self.follow().await?;
                after = self.library.after(&ticket).await;
            }
            match after {
                Ok(_) => return Ok(Some(ticket)),
                Err(ReplayError::NoOffset { .. } | ReplayError::NoRevision { .. }) => {
                    "the store no longer has what its ticket names"
                }
                Err(error) => return Err(error.into()),
            }
        };
        tracing::warn!(
            job = request.job,
            step = request.step.0,
            why,
            "the job gets other batches than it was served before; `draws` records what was served first"
        );
        self.draw_log.void(&request.job);
        Ok(None)
    }

    async fn batch(&mut self, ticket: Ticket) -> Result<Arc<Served>> {
        if let Some((_, served)) = self.assembled.iter().find(|(known, _)| *known == ticket) {
            let served = Arc::clone(served);
            self.counters.hits.fetch_add(1, Relaxed);
            self.draw_log.append(&ticket, &served.batch, served.digest).await?;
            return Ok(served);
        }
        let mut batch = self.library.batch(&ticket).await;
        if batch.as_ref().is_err_and(is_ahead) {
            self.follow().await?;
            batch = self.library.batch(&ticket).await;
        }
        let batch = batch?;
        let next = self.library.after(&ticket).await?;
        let digest = batch.digest();
        let served = Arc::new(Served { batch, digest, next });
        self.draw_log.append(&ticket, &served.batch, digest).await?;
        if self.settings.batches > 0 {
            if self.assembled.len() >= self.settings.batches {
                self.assembled.pop_front();
            }
            self.assembled.push_back((ticket, Arc::clone(&served)));
        }
        Ok(served)
    }
}
