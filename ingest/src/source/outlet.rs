//! Where the readings go, and what the reader must ask before it waits.

use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::End;
use crate::block::Block;
use crate::channel;

/// The source's side of the pipeline. It blocks, so it belongs to a thread of its own, never to a task.
#[derive(Debug)]
pub struct Outlet {
    edge: channel::Sender,
    stop: Stop,
    clock: Clock,
    runtime: Handle,
}

impl Outlet {
    /// Sends blocks into `edge` until `stop` is triggered; waits on `runtime`.
    #[must_use]
    pub const fn new(edge: channel::Sender, stop: Stop, clock: Clock, runtime: Handle) -> Self {
        Self { edge, stop, clock, runtime }
    }

    /// The time: microseconds since 1970, UTC.
    pub(super) fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    /// Sends a block, waiting for room.
    pub(super) fn send(&self, block: Block) -> Result<(), End> {
        self.edge.send(block).map_err(|channel::Closed| End::Halted)
    }

    /// Refuses to go on where the program is to stop.
    pub(super) fn go_on(&self) -> Result<(), End> {
        if self.stop.is_triggered() { Err(End::Halted) } else { Ok(()) }
    }

    /// Waits for `duration`, a stop, or the end of whoever takes the blocks.
    pub(super) fn pause(&self, duration: Duration) -> Result<(), End> {
        self.until(self.clock.sleep(duration))
    }

    /// The next of `queue`; `None` at its end.
    pub(super) fn next<T>(&self, queue: &mut mpsc::Receiver<T>) -> Result<Option<T>, End> {
        self.until(queue.recv())
    }

    fn until<T>(&self, event: impl Future<Output = T>) -> Result<T, End> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.wait() => Err(End::Halted),
                () = self.edge.closed() => Err(End::Halted),
                value = event => Ok(value),
            }
        })
    }
}
