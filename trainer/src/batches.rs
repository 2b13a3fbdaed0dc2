//! The source of a job's batches: the store, read in this process, or a replay server over Flight. The bytes
//! are the same because a ticket names them, and each step's ticket is decided once, in the store, in both cases.

use perennial_program::clock::Clock;
use perennial_program::error::{Failure, Kind, ProgramError};
use perennial_program::stop::Stop;
use perennial_replay::client::{Client, Patience};
use perennial_replay::issue::{Issued, Request};
use perennial_replay::library::{Access, Library};
use perennial_replay::plan::Plan;
use perennial_replay::serve::session::{Session, Settings};
use perennial_replay::views::SettingsSummary;
use perennial_schemas::id::{Step, Version};
use perennial_schemas::wire::{Batch, Settings as JobSettings, Ticket};
use perennial_store::Store;
use tokio::runtime::Handle;

use crate::checkpoint::JobPosition;
use crate::config::Config;
use crate::feed::{Delivery, Feed, PackedBatch, prefetch};
use crate::job::limit;

/// Time between two looks at a stream without new text.
const POLL: std::time::Duration = std::time::Duration::from_millis(500);

/// The time that a batch under way has to arrive when the job is asked to stop.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// Ends [`GRACE`] after the job is asked to stop.
async fn patience_of(stop: &Stop, clock: &Clock) {
    stop.wait().await;
    clock.sleep(GRACE).await;
}

/// The server's configuration differs from the job's.
#[derive(Debug, thiserror::Error)]
#[error("the server at `{url}` serves configuration `{theirs}`, the job has configuration `{ours}`")]
pub struct OtherPlan {
    url: String,
    theirs: String,
    ours: String,
}

impl ProgramError for OtherPlan {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }
    fn hint(&self) -> Option<String> {
        Some("give the server and the job's `[replay]` the same `seed` and `batch` tables".into())
    }
}

/// The job was asked to stop before its server answered.
#[derive(Debug, thiserror::Error)]
#[error("stopped while waiting for the replay server at `{url}`")]
pub struct StoppedWaiting {
    url: String,
}

impl ProgramError for StoppedWaiting {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// A job's batches.
pub struct Batches {
    source: BatchSource,
    plan: Plan,
    clock: Clock,
    stop: Stop,
    /// The version of `records` that was read when new text last ran out.
    read: Option<Version>,
    /// Settings that differ from the configuration's, and were reported.
    followed: Option<JobSettings>,
}

enum BatchSource {
    Local(Session),
    Server { client: Box<Client>, url: String },
}

impl Batches {
    /// Connects to the server that the configuration names, or opens the store.
    ///
    /// # Errors
    /// The server cannot be reached, or the store cannot be read.
    pub async fn open(
        config: &Config,
        plan: Plan,
        store: &Store,
        clock: &Clock,
        stop: &Stop,
    ) -> Result<Self, Failure> {
        let source = match &config.run.server {
            Some(url) => {
                let (wait, deadline) = (config.run.server_wait.get(), config.run.server_deadline.get());
                let patience = Patience { wait, deadline };
                let client = tokio::select! {
                    biased;
                    client = Client::connect(url, clock.clone(), patience) => client?,
                    () = stop.wait() => return Err(StoppedWaiting { url: url.clone() }.into()),
                };
                BatchSource::Server { client: Box::new(client), url: url.clone() }
            }
            None => {
                let library = {
                    let cache = config.replay.cache.caches();
                    Library::open(store.clone(), plan.clone(), cache, Access::Follow).await?
                };
                // A job requests each batch once.
                let settings = Settings { batches: 0, ..config.replay.serve.settings() };
                BatchSource::Local(Session::start(library, store.clone(), settings))
            }
        };
        Ok(Self { source, plan, clock: clock.clone(), stop: stop.clone(), read: None, followed: None })
    }

    /// A feed of this job's batches from `position` on, prefetched by its own thread.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn feed(
        mut self,
        position: &JobPosition,
        step: Step,
        config: &Config,
        runtime: &Handle,
    ) -> Result<Feed, Failure> {
        let (from, settings) = (Some(position.next.clone()), Some(self.plan.settings()));
        let mut request = Request { from, settings, ..Request::step(&position.job, step) };
        let (model, weight) = (config.model.clone(), config.run.replay_weight);
        let until = config.run.steps.map(Step);
        let runtime = runtime.clone();
        let make = move || -> Result<Option<Delivery>, Failure> {
            if until.is_some_and(|until| request.step >= until) {
                return Ok(None);
            }
            let (stop, clock) = (self.stop.clone(), self.clock.clone());
            let delivery = async {
                let Some(ticket) = self.ticket(&request).await? else { return Ok(None) };
                let (batch, next) = self.batch(&ticket).await?;
                let packed = PackedBatch::of_batch(&batch, &model, weight)?;
                let after = next.from.clone().unwrap_or_default();
                // After text was left out the job goes on elsewhere than this batch ends.
                request = Request { from: None, ..next };
                Ok(Some(Delivery { ticket, packed, next: after }))
            };
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    delivery = delivery => delivery,
                    // A server that does not answer must not hold up the end of the job.
                    () = patience_of(&stop, &clock) => Ok(None),
                }
            })
        };
        Ok(prefetch(Box::new(make), limit(u64::from(config.run.prefetch)))?)
    }

    /// The next ticket; `None` if the stream has ended (draining) or the job is to stop.
    async fn ticket(&mut self, request: &Request) -> Result<Option<Ticket>, Failure> {
        loop {
            if self.stop.is_triggered() {
                return Ok(None);
            }
            let issued = match &mut self.source {
                BatchSource::Local(session) => session.ticket(request.clone()).await?,
                BatchSource::Server { client, .. } => client.ticket(request).await?,
            };
            let missing = match issued {
                Issued::Ticket(ticket) => return self.check(ticket).map(Some),
                Issued::NotYet { missing } => missing,
            };
            let read = match &mut self.source {
                BatchSource::Local(session) => {
                    session.follow().await?;
                    session.version()
                }
                BatchSource::Server { client, .. } => client.follow().await?,
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

    /// Refuses a server's ticket of another plan: the job's checkpoints depend on the plan. Its settings are
    /// the job's, whatever the configuration says by now.
    fn check(&mut self, ticket: Ticket) -> Result<Ticket, Failure> {
        if ticket.settings != self.plan.settings() && self.followed.as_ref() != Some(&ticket.settings) {
            let (of, job) = (SettingsSummary::from(&ticket.settings), &ticket.job);
            tracing::warn!(job, settings = %of, "the job goes on with its own settings, not the configuration's; \
                change them with `perennial-replay jobs set`");
            self.followed = Some(ticket.settings.clone());
        }
        let BatchSource::Server { url, .. } = &self.source else { return Ok(ticket) };
        let ours = self.plan.digest();
        if ticket.config == ours {
            return Ok(ticket);
        }
        Err(OtherPlan { url: url.clone(), theirs: ticket.config, ours }.into())
    }

    async fn batch(&mut self, ticket: &Ticket) -> Result<(Batch, Request), Failure> {
        match &mut self.source {
            BatchSource::Local(session) => {
                let served = session.batch(ticket.clone()).await?;
                Ok((served.batch.clone(), served.next.clone()))
            }
            BatchSource::Server { client, .. } => {
                let received = client.batch(ticket).await?;
                Ok((received.batch, received.next))
            }
        }
    }
}
