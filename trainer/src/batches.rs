//! Where a job's batches come from: the store, read in this process, or a replay server over Flight.
//! The bytes are the same, a ticket names them, and what was drawn is noted in the store either way.

use perennial_program::clock::Clock;
use perennial_program::error::{Failure, Fault, Kind};
use perennial_program::stop::Stop;
use perennial_replay::client::Client;
use perennial_replay::issue::{Issued, Request};
use perennial_replay::library::Library;
use perennial_replay::plan::Plan;
use perennial_replay::serve::session::{Session, Settings};
use perennial_schemas::id::{Step, Version};
use perennial_schemas::wire::{Batch, Ticket};
use perennial_store::Store;
use tokio::runtime::Handle;

use crate::checkpoint::Progress;
use crate::config::Config;
use crate::feed::{Delivery, Feed, Sheet, ahead};
use crate::job::limit;

/// How long to wait before looking again at a stream that has nothing new.
const POLL: std::time::Duration = std::time::Duration::from_millis(500);

/// A server that serves something else than the job is configured to read.
#[derive(Debug, thiserror::Error)]
#[error("the server at `{url}` mixes under config `{theirs}`, the job under `{ours}`")]
pub struct OtherPlan {
    url: String,
    theirs: String,
    ours: String,
}

impl Fault for OtherPlan {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }
    fn hint(&self) -> Option<String> {
        Some("give the server and the job's `[replay]` the same seed, batch, fresh, mix, buffer and follow tables".into())
    }
}

/// Notes of what was drawn.
pub struct Notes {
    reader: Reader,
    runtime: Handle,
}

impl Notes {
    /// Waits until the store has them.
    ///
    /// # Errors
    /// The store's, and where the server cannot be reached.
    pub fn flush(&self) -> Result<(), Failure> {
        match &self.reader {
            Reader::Here(session) => Ok(self.runtime.block_on(session.flush())?),
            Reader::Server { client, .. } => Ok(self.runtime.block_on(client.flush())?),
        }
    }
}

/// Where batches come from.
pub struct Batches {
    reader: Reader,
    plan: Plan,
    clock: Clock,
    stop: Stop,
    /// Up to where the store had been read when it had not enough text last.
    read: Option<Version>,
}

#[derive(Clone)]
enum Reader {
    Here(Session),
    Server { client: Client, url: String },
}

impl Batches {
    /// The server that the configuration names, or the store itself.
    ///
    /// # Errors
    /// Where the server cannot be reached or the store cannot be read.
    pub async fn open(
        config: &Config,
        plan: Plan,
        store: &Store,
        clock: &Clock,
        stop: &Stop,
    ) -> Result<Self, Failure> {
        let reader = match &config.run.server {
            Some(url) => {
                Reader::Server { client: Client::connect(url, clock.clone()).await?, url: url.clone() }
            }
            None => {
                let library = Library::open(store.clone(), plan.clone(), config.replay.cache.bytes).await?;
                // A job asks for each batch once.
                let settings = Settings { batches: 0, ..config.replay.serve.settings() };
                Reader::Here(Session::start(library, store.clone(), settings))
            }
        };
        Ok(Self { reader, plan, clock: clock.clone(), stop: stop.clone(), read: None })
    }

    /// The notes of what this job draws.
    #[must_use]
    pub fn notes(&self, runtime: &Handle) -> Notes {
        Notes { reader: self.reader.clone(), runtime: runtime.clone() }
    }

    /// A feed of this job's batches from where `progress` stands, made ahead in a thread of its own.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn feed(
        mut self,
        progress: &Progress,
        step: Step,
        config: &Config,
        runtime: &Handle,
    ) -> Result<Feed, Failure> {
        let mut request =
            Request { job: progress.job.clone(), step, row: progress.row, fresh: progress.next.clone() };
        let (model, weight) = (config.model.clone(), config.run.replay_weight);
        let until = config.run.steps.map(Step);
        let runtime = runtime.clone();
        let make = move || -> Result<Option<Delivery>, Failure> {
            // What is drawn is noted: no batch is made ahead that the job will never learn.
            if until.is_some_and(|until| request.step >= until) {
                return Ok(None);
            }
            runtime.block_on(async {
                let Some(ticket) = self.ticket(&request).await? else { return Ok(None) };
                let (batch, next) = self.batch(&ticket).await?;
                let sheet = Sheet::of_batch(&batch, &model, weight)?;
                request = next;
                Ok(Some(Delivery { ticket, sheet, next: request.fresh.clone() }))
            })
        };
        Ok(ahead(Box::new(make), limit(u64::from(config.run.prefetch)))?)
    }

    /// The next ticket; `None` when the stream has ended (draining) or the job is asked to stop.
    async fn ticket(&mut self, request: &Request) -> Result<Option<Ticket>, Failure> {
        loop {
            if self.stop.is_triggered() {
                return Ok(None);
            }
            let issued = match &mut self.reader {
                Reader::Here(session) => session.ticket(request.clone()).await?,
                Reader::Server { client, .. } => client.ticket(request).await?,
            };
            let missing = match issued {
                Issued::Ticket(ticket) => return self.check(ticket).map(Some),
                Issued::NotYet { missing } => missing,
            };
            let read = match &mut self.reader {
                Reader::Here(session) => {
                    session.follow().await?;
                    session.version()
                }
                Reader::Server { client, .. } => client.follow().await?,
            };
            if self.read.replace(read) != Some(read) {
                continue;
            }
            if self.plan.drain {
                return Ok(None);
            }
            tracing::debug!(missing, "waiting for new text");
            tokio::select! {
                biased;
                () = self.stop.wait() => return Ok(None),
                () = self.clock.sleep(POLL) => {}
            }
        }
    }

    /// A server's ticket must be of this job's plan: its checkpoints promise those batches.
    fn check(&self, ticket: Ticket) -> Result<Ticket, Failure> {
        let Reader::Server { url, .. } = &self.reader else { return Ok(ticket) };
        let ours = self.plan.digest();
        if ticket.config == ours {
            return Ok(ticket);
        }
        Err(OtherPlan { url: url.clone(), theirs: ticket.config, ours }.into())
    }

    async fn batch(&mut self, ticket: &Ticket) -> Result<(Batch, Request), Failure> {
        match &mut self.reader {
            Reader::Here(session) => {
                let served = session.batch(ticket.clone()).await?;
                Ok((served.batch.clone(), served.next.clone()))
            }
            Reader::Server { client, .. } => {
                let received = client.batch(ticket).await?;
                Ok((received.batch, received.next))
            }
        }
    }
}
