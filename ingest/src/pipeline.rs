//! READ THIS FIRST: the stages of ingest, and how they start, stop and fail.
//!
//! ```text
//! source ─> normalise ─> dedup ─> score ─> write
//! ```
//! - A stage is a thread of its own (`write` a task); what is parallel is parallel *inside* a stage and
//!   keeps the order, so positions and decisions need no thought about races.
//! - An edge is bounded by blocks and bytes, and counts how long its sender waited.
//! - Stop: `source` ends, the edges drain, `write` commits the rest. The end of the sources is the same.
//! - Failure: the stage that failed drops its edges; those before it end, those after it drain, `write`
//!   commits what came before. The first error is the run's. After a restart the daemon goes on at
//!   the last commit, as after a kill.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use perennial_store::Store;
use tokio::runtime::Handle;

use crate::block::Block;
use crate::config::{self, Config};
use crate::dedup::stored_texts;
use crate::edge::{Flow, Receiver, Sender, edge};
use crate::error::IngestError;
use crate::normalise::Normaliser;
use crate::source::{self, Outlet};
use crate::write::{self, Written};

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// What was committed, and where each file stands.
    pub written: Written,
    /// What each edge measured, by the stage that it leads to.
    pub flows: Vec<(&'static str, Flow)>,
}

impl Summary {
    /// How many bytes of the standard input are in the store: where its next writer must begin. `None`
    /// where it is none of `sources`, or nothing of it was read.
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
    let (to_normalise, for_normalise, into_normalise) = edge("normalise", config.queue, clock);
    let (to_dedup, for_dedup, into_dedup) = edge("dedup", config.queue, clock);
    let (to_score, for_score, into_score) = edge("score", config.queue, clock);
    let (to_write, for_write, into_write) = edge("write", config.queue, clock);
    let mut stages = Stages::default();

    let outlet = Outlet::new(to_normalise, stop.clone(), clock.clone(), Handle::current());
    let (sources, limits, positions, next) =
        (config.source.clone(), config.read, opened.positions, opened.next);
    stages.start("source", move || Ok(source::read(&sources, limits, positions, next, once, outlet)?))?;

    let normaliser = Normaliser::new(store.secret());
    stages.stage("normalise", for_normalise, to_dedup, move |block| Ok(normaliser.run(block)))?;
    let mut known = opened.known;
    let mut texts = stored_texts(store.clone(), Handle::current());
    stages.stage("dedup", for_dedup, to_score, move |block| known.run(block, &mut texts))?;
    let mut scores = opened.scores;
    stages.stage("score", for_score, to_write, move |block| scores.run(block))?;

    let written = opened.writer.run(for_write).await;
    let written = stages.end(written).await?;
    let meters = [into_normalise, into_dedup, into_score, into_write];
    let flows = meters.iter().map(|meter| (meter.to, meter.read())).collect();
    Ok(Summary { written, flows })
}

/// The threads of a run and the first error among them.
#[derive(Debug, Default)]
struct Stages {
    threads: Vec<(&'static str, thread::JoinHandle<()>)>,
    first: Arc<Mutex<Option<IngestError>>>,
}

impl Stages {
    /// Starts a stage on a thread of its own. A stage ends when an edge of it does; where this fails,
    /// the edges of `work` are dropped, and the stages that run already end.
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

    /// Starts a stage that makes one block of each, until either of its edges ends.
    fn stage(
        &mut self,
        name: &'static str,
        mut receiver: Receiver,
        sender: Sender,
        mut work: impl FnMut(Block) -> Result<Block, IngestError> + Send + 'static,
    ) -> Result<(), IngestError> {
        self.start(name, move || {
            while let Some(block) = receiver.next_blocking() {
                if sender.send(work(block)?).is_err() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Waits for all stages; `last` is how the last of the pipeline ended.
    async fn end<T>(self, last: Result<T, IngestError>) -> Result<T, IngestError> {
        let Self { threads, first } = self;
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
            (None, Some(done)) => Ok(done),
            (None, None) => Err(IngestError::Stage { name: "end", message: "no stage says why".to_owned() }),
        }
    }
}

fn message(words: &(dyn std::any::Any + Send)) -> String {
    let text = words.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| words.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
}

#[cfg(test)]
mod tests;
