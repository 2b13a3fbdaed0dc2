//! A clean stop: one flag that a signal or a failure raises and every part of a program watches.

use std::sync::Arc;

use tokio::sync::watch;

/// Says whether the program should end. Cheap to clone; once triggered it stays so.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// One that nobody has triggered.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Asks every part to finish what it holds and end.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it is triggered.
    pub async fn wait(&self) {
        let mut watched = self.0.subscribe();
        // The sender lives in `self`: waiting cannot fail.
        let _ = watched.wait_for(|stop| *stop).await;
    }
}

/// Triggers `stop` at the first SIGTERM or SIGINT. A second one ends the process at once, with the
/// exit code shells expect of an interrupted program: whoever presses Ctrl-C twice means it, and
/// the store loses nothing by it.
///
/// # Errors
/// Where the operating system refuses the handlers.
pub fn on_signals(stop: &Stop) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut asked = 0;
        loop {
            tokio::select! {
                biased;
                Some(()) = terminate.recv() => {}
                Some(()) = interrupt.recv() => {}
                else => return,
            }
            asked += 1;
            if asked == 1 {
                tracing::info!("stopping: finishing what is under way; a second signal ends at once");
                stop.trigger();
            } else {
                exit_now();
            }
        }
    });
    Ok(())
}

fn exit_now() -> ! {
    let code = i32::from(crate::error::Kind::Interrupted.codes().exit);
    // SAFETY: it takes a number and does not return. Not `exit`: other threads are at work, and what that
    // tears down (libtorch's statics) they would fall over.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_see_a_stop_triggered_before_and_after_they_began() {
        let stop = Stop::new();
        let waiter = tokio::spawn({
            let stop = stop.clone();
            async move { stop.wait().await }
        });
        assert!(!stop.is_triggered());
        stop.trigger();
        waiter.await.unwrap();
        stop.wait().await;
        assert!(stop.is_triggered());
    }
}
