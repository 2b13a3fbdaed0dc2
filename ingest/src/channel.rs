//! The bounded channel between two stages, which counts what waits and how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use perennial_program::clock::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::block::Block;
use crate::config;

/// What a channel measured. The stage whose input waits most and whose output waits least is the bottleneck.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Microseconds that senders waited for capacity.
    pub waited_us: u64,
    /// Bytes that wait now.
    pub queued_bytes: u64,
    /// Blocks that were sent.
    pub blocks: u64,
}

/// Reads what a channel measured, while it is in use and after.
#[derive(Debug, Clone)]
pub struct Meter {
    /// The stage that the channel leads to.
    pub to: &'static str,
    counts: Arc<Counts>,
}

impl Meter {
    /// What the channel measured so far.
    #[must_use]
    pub fn read(&self) -> Flow {
        Flow {
            waited_us: self.counts.waited_us.load(Ordering::Relaxed),
            queued_bytes: self.counts.queued_bytes.load(Ordering::Relaxed),
            blocks: self.counts.blocks.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    waited_us: AtomicU64,
    queued_bytes: AtomicU64,
    blocks: AtomicU64,
}

/// The other side is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

/// A queued block, with its share of the channel's bytes.
#[derive(Debug)]
struct Queued {
    block: Block,
    weight: u64,
    _permit: OwnedSemaphorePermit,
}

/// Where a stage puts its blocks.
#[derive(Debug)]
pub struct Sender {
    queue: mpsc::Sender<Queued>,
    free: Arc<Semaphore>,
    capacity: u32,
    counts: Arc<Counts>,
    clock: Clock,
}

/// Where a stage takes its blocks.
#[derive(Debug)]
pub struct Receiver {
    queue: mpsc::Receiver<Queued>,
    counts: Arc<Counts>,
}

/// A channel to the stage `to`, bounded by blocks and by bytes; a block larger than the bound passes alone.
#[must_use]
pub fn channel(to: &'static str, limits: config::Queue, clock: &Clock) -> (Sender, Receiver, Meter) {
    let (sender, receiver) = mpsc::channel(limits.blocks.max(1) as usize);
    let counts = Arc::new(Counts::default());
    let capacity = u32::try_from(limits.bytes.get()).unwrap_or(u32::MAX).max(1);
    // The semaphore has a limit of its own, which differs between machines.
    let permits = (capacity as usize).min(Semaphore::MAX_PERMITS);
    let sender = Sender {
        queue: sender,
        free: Arc::new(Semaphore::new(permits)),
        capacity,
        counts: Arc::clone(&counts),
        clock: clock.clone(),
    };
    let receiver = Receiver { queue: receiver, counts: Arc::clone(&counts) };
    (sender, receiver, Meter { to, counts })
}

impl Sender {
    /// Sends a block, waiting for capacity. Must not be called on a task: it blocks its thread.
    ///
    /// # Errors
    /// [`Closed`] where the receiver is gone.
    pub fn send(&self, block: Block) -> Result<(), Closed> {
        let weight = block.weight() as u64;
        let share = u32::try_from(weight).unwrap_or(u32::MAX).clamp(1, self.capacity);
        let began = self.clock.monotonic();
        let permit = futures::executor::block_on(async {
            tokio::select! {
                biased;
                permit = Arc::clone(&self.free).acquire_many_owned(share) => permit.map_err(|_| Closed),
                () = self.queue.closed() => Err(Closed),
            }
        })?;
        self.counts.queued_bytes.fetch_add(weight, Ordering::Relaxed);
        let sent = futures::executor::block_on(self.queue.send(Queued { block, weight, _permit: permit }));
        let waited = self.clock.monotonic().saturating_sub(began).as_micros();
        self.counts.waited_us.fetch_add(u64::try_from(waited).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.counts.blocks.fetch_add(1, Ordering::Relaxed);
        sent.map_err(|_| Closed)
    }

    /// Returns when the receiver is gone.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

impl Receiver {
    /// The next block; `None` when the stage before has ended and all its blocks were received.
    pub async fn next(&mut self) -> Option<Block> {
        let queued = self.queue.recv().await?;
        self.counts.queued_bytes.fetch_sub(queued.weight, Ordering::Relaxed);
        Some(queued.block)
    }

    /// As [`Receiver::next`], for a stage on a thread of its own.
    pub fn next_blocking(&mut self) -> Option<Block> {
        futures::executor::block_on(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_program::config::Bytes;

    fn block(bytes: usize) -> Block {
        let mut block = Block::default();
        block.readings.bytes = vec![0; bytes];
        block
    }

    fn limits(blocks: u32, bytes: u64) -> config::Queue {
        config::Queue { blocks, bytes: Bytes::new(bytes) }
    }

    #[test]
    fn blocks_arrive_in_order_and_the_end_is_seen() {
        let (sender, mut receiver, meter) = channel("next", limits(2, 100), &Clock::manual(0));
        let thread = std::thread::spawn(move || {
            // Those above 100 bytes pass alone.
            for size in [1, 500, 60, 60, 0, 1000, 7] {
                sender.send(block(size)).unwrap();
            }
        });
        let mut sizes = Vec::new();
        while let Some(block) = receiver.next_blocking() {
            sizes.push(block.readings.bytes.len());
        }
        thread.join().unwrap();
        assert_eq!(sizes, [1, 500, 60, 60, 0, 1000, 7]);
        assert_eq!(meter.read(), Flow { waited_us: 0, queued_bytes: 0, blocks: 7 });
    }

    #[test]
    fn sender_waits_for_bytes_and_its_wait_is_counted() {
        let clock = Clock::manual(0);
        let (sender, mut receiver, meter) = channel("next", limits(100, 100), &clock);
        sender.send(block(60)).unwrap();
        let (about_to_send, seen) = std::sync::mpsc::sync_channel(0);
        let thread = std::thread::spawn(move || {
            about_to_send.send(()).unwrap();
            sender.send(block(60)).unwrap();
        });
        seen.recv().unwrap();
        assert_eq!(meter.read().queued_bytes, 60, "there is no capacity for the second block");
        clock.advance(std::time::Duration::from_micros(25));
        assert!(receiver.next_blocking().is_some());
        assert!(receiver.next_blocking().is_some());
        thread.join().unwrap();
        // The thread may have looked at the clock before or after it moved.
        assert!([0, 25].contains(&meter.read().waited_us));
        assert!(receiver.next_blocking().is_none());
    }

    #[test]
    fn sender_learns_that_the_receiver_is_gone_even_while_it_waits_for_capacity() {
        let (sender, receiver, _) = channel("next", limits(1, 10), &Clock::manual(0));
        sender.send(block(10)).unwrap();
        let thread = std::thread::spawn(move || sender.send(block(10)));
        drop(receiver);
        assert_eq!(thread.join().unwrap(), Err(Closed));
    }
}
