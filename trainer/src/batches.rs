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

use crate::checkpoint::JobPosition;
use crate::config::Config;
use crate::feed::{Delivery, Feed, PackedBatch, ahead};
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
        Some("give the server and the job's `[replay]` the same seed, batch, new_text, mix, buffer and follow tables".into())
    }
}

/// DrawLog of what was drawn.
pub struct DrawLog {
    source: Source,
    runtime: Handle,
}

impl DrawLog {
    /// Waits until the store has them.
    ///
    /// # Errors
    /// The store's, and where the server cannot be reached.
    pub fn flush(&self) -> Result<(), Failure> {
        match &self.source {
            Source::Local(session) => Ok(self.runtime.block_on(session.flush())?),
            Source::Server { client, .. } => Ok(self.runtime.block_on(client.flush())?),
        }
    }
}

/// Where batches come from.
pub struct Batches {
    source: Source,
    plan: Plan,
    clock: Clock,
    stop: Stop,
    /// Up to where the store had been read when it had not enough text last.
    read: Option<Version>,
}

#[derive(Clone)]
enum Source {
    Local(Session),
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
        let source = match &config.run.server {
            Some(url) => {
                Source::Server { client: Client::connect(url, clock.clone()).await?, url: url.clone() }
            }
            None => {
                let library = Library::open(store.clone(), plan.clone(), config.replay.cache.bytes).await?;
                // A job asks for each batch once.
                let settings = Settings { batches: 0, ..config.replay.serve.settings() };
                Source::Local(Session::start(library, store.clone(), settings))
            }
        };
        Ok(Self { source, plan, clock: clock.clone(), stop: stop.clone(), read: None })
    }

    /// The draw log of what this job draws.
    #[must_use]
    pub fn draw_log(&self, runtime: &Handle) -> DrawLog {
        DrawLog { source: self.source.clone(), runtime: runtime.clone() }
    }

    /// A feed of this job's batches from where `position` stands, made ahead in a thread of its own.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn feed(
        mut self,
        position: &JobPosition,
        step: Step,
        config: &Config,
        runtime: &Handle,
    ) -> Result<Feed, Failure> {
        let mut request =
            Request { job: position.job.clone(), step, row: position.row, new_text: position.next.clone() };
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
                let packed = PackedBatch::of_batch(&batch, &model, weight)?;
                request = next;
                Ok(Some(Delivery { ticket, packed, next: request.new_text.clone() }))
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
            let issued = match &mut self.source {
                Source::Local(session) => session.ticket(request.clone()).await?,
                Source::Server { client, .. } => client.ticket(request).await?,
            };
            let missing = match issued {
                Issued::Ticket(ticket) => return self.check(ticket).map(Some),
                Issued::NotYet { missing } => missing,
            };
            let read = match &mut self.source {
                Source::Local(session) => {
                    session.follow().await?;
                    session.version()
                }
                Source::Server { client, .. } => client.follow().await?,
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
        let Source::Server { url, .. } = &self.source else { return Ok(ticket) };
        let ours = self.plan.digest();
        if ticket.config == ours {
            return Ok(ticket);
        }
        Err(OtherPlan { url: url.clone(), theirs: ticket.config, ours }.into())
    }

    async fn batch(&mut self, ticket: &Ticket) -> Result<(Batch, Request), Failure> {
        match &mut self.source {
            Source::Local(session) => {
                let served = session.batch(ticket.clone()).await?;
                Ok((served.batch.clone(), served.next.clone()))
            }
            Source::Server { client, .. } => {
                let received = client.batch(ticket).await?;
                Ok((received.batch, received.next))
            }
        }
    }
}
