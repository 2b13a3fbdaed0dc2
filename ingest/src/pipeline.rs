//! READ THIS FIRST: the stages of ingest, and how they start, stop and fail.
//!
//! ```text
//! source ─> normalise ─> dedup ─> score ─> write
//! ```
//! - Each stage runs on a thread of its own (`write` as a task). Stages run in sequence; parallelism stays
//!   inside a stage and keeps the order, so positions and decisions cannot race.
//! - A channel is bounded by blocks and bytes, and counts how long its sender waited.
//! - Stop: `source` ends, the channels drain, `write` commits the rest. The end of the sources is the same.
//! - Failure: the stage that failed drops its channels; those before it end, those after it drain, `write`
//!   commits what came before. The first error is the run's. After a restart the daemon resumes from the
//!   last commit, as after a kill.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use perennial_store::Store;
use tokio::runtime::Handle;

use crate::block::Block;
use crate::channel::{Flow, Meter, Receiver, Sender, channel};
use crate::config::{self, Config};
use crate::dedup::stored_texts;
use crate::error::IngestError;
use crate::normalise::Normaliser;
use crate::source::{self, Outlet};
use crate::write::{self, Written};

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// What was committed, and where each file stands.
    pub written: Written,
    /// What each channel measured, by the stage that it leads to.
    pub flows: Vec<(&'static str, Flow)>,
}

impl Summary {
    /// How many bytes of the standard input are in the store: where its next writer must begin. `None`
    /// if it is not among `sources`, or nothing of it was read.
    #[must_use]
    pub fn standard_input(&self, sources: &[config::Source]) -> Option<u64> {
        let source = sources.iter().find(|source| source.path == "-")?;
        let name = (source.name.as_str().into(), None);
        self.written.positions.get(&name).map(|position| position.end)
    }
}

/// Reads the configured sources into `store` until `stop`, or with `once` (or where no source is
/// followed) until they end.
///
/// # Errors
/// [`IngestError`], after what was read before it is committed, unless it is the store that failed.
pub async fn run(
    config: &Config,
    store: &Store,
    clock: &Clock,
    stop: &Stop,
    once: bool,
) -> Result<Summary, IngestError> {
    if let Some((key, why)) = config.faults().into_iter().next() {
        return Err(IngestError::Config { key, why });
    }
    let Some(shard) = config.shard() else {
        return Err(IngestError::Config { key: "shard".to_owned(), why: "is no name".to_owned() });
    };
    let opened = write::open(store, &shard, config).await?;
    let mut stages = Stages::new(config.queue, clock);

    let (to_normalise, blocks) = stages.channel("normalise");
    let outlet = Outlet::new(to_normalise, stop.clone(), clock.clone(), Handle::current());
    let (sources, limits, positions, next) =
        (config.source.clone(), config.read, opened.positions, opened.next);
    stages.start("source", move || Ok(source::read(&sources, limits, positions, next, once, outlet)?))?;

    let normaliser = Normaliser::new(store.secret());
    let blocks = stages.stage("normalise", blocks, "dedup", move |block| Ok(normaliser.run(block)))?;
    let (mut dedup, mut texts) = (opened.dedup, stored_texts(store.clone(), Handle::current()));
    let blocks = stages.stage("dedup", blocks, "score", move |block| dedup.run(block, &mut texts))?;
    let mut scores = opened.scores;
    let blocks = stages.stage("score", blocks, "write", move |block| scores.run(block))?;

    let written = opened.writer.run(blocks).await;
    let (written, flows) = stages.end(written).await?;
    Ok(Summary { written, flows })
}

/// The threads of a run, the channels between them, and the first error.
#[derive(Debug)]
struct Stages {
    queue: config::Queue,
    clock: Clock,
    meters: Vec<Meter>,
    threads: Vec<(&'static str, thread::JoinHandle<()>)>,
    first: Arc<Mutex<Option<IngestError>>>,
}

impl Stages {
    fn new(queue: config::Queue, clock: &Clock) -> Self {
        let (meters, threads, first) = Default::default();
        Self { queue, clock: clock.clone(), meters, threads, first }
    }

    /// A channel to the stage `to`.
    fn channel(&mut self, to: &'static str) -> (Sender, Receiver) {
        let (sender, receiver, meter) = channel(to, self.queue, &self.clock);
        self.meters.push(meter);
        (sender, receiver)
    }

    /// Starts a stage on a thread of its own. A stage ends when one of its channels does; where this fails,
    /// the channels of `work` are dropped, and the stages that run already end.
    fn start(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), IngestError> + Send + 'static,
    ) -> Result<(), IngestError> {
        let first = Arc::clone(&self.first);
        let run = move || {
            if let Err(error) = work() {
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push((name, thread.map_err(|source| IngestError::Thread { name, source })?));
        Ok(())
    }

    /// Starts a stage that makes one block for `to` of each of `blocks`, until one of its channels ends.
    fn stage(
        &mut self,
        name: &'static str,
        mut blocks: Receiver,
        to: &'static str,
        mut work: impl FnMut(Block) -> Result<Block, IngestError> + Send + 'static,
    ) -> Result<Receiver, IngestError> {
        let (sender, receiver) = self.channel(to);
        self.start(name, move || {
            while let Some(block) = blocks.next_blocking() {
                if sender.send(work(block)?).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(receiver)
    }

    /// Waits for all stages and says what their channels measured; `last` is how the last stage ended.
    async fn end<T>(
        self,
        last: Result<T, IngestError>,
    ) -> Result<(T, Vec<(&'static str, Flow)>), IngestError> {
        let Self { threads, first, meters, .. } = self;
        let failed = |error| {
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        };
        let last = last.map_err(failed).ok();
        let wait = move || {
            let died = threads.into_iter().filter_map(|(name, thread)| Some((name, thread.join().err()?)));
            let stage = |(name, words): (_, Box<_>)| IngestError::Stage { name, message: message(&*words) };
            died.map(stage).collect::<Vec<_>>()
        };
        match tokio::task::spawn_blocking(wait).await {
            Ok(died) => died.into_iter().for_each(failed),
            Err(error) => failed(IngestError::Stage { name: "end", message: error.to_string() }),
        }
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (first, last) {
            (Some(error), _) => Err(error),
            (None, Some(done)) => Ok((done, meters.iter().map(|meter| (meter.to, meter.read())).collect())),
            (None, None) => {
                Err(IngestError::Stage { name: "end", message: "no stage gave a reason".to_owned() })
            }
        }
    }
}

fn message(words: &(dyn std::any::Any + Send)) -> String {
    let text = words.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| words.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests;
