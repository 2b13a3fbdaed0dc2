//! A clean stop: one token that a signal or a failure triggers and every part of a program watches.

use tokio_util::sync::CancellationToken;

/// Says whether the program should end. Cheap to clone; once triggered it stays triggered.
///
/// A [`CancellationToken`] without children: nothing here stops a part of a program alone.
#[derive(Debug, Clone, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// A stop that is not triggered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every part to finish its work and end.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether it was triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns when it is triggered.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }
}

/// Triggers `stop` at the first SIGTERM or SIGINT. A second one ends the process at once, with the
/// exit code that shells expect of an interrupted program: the user wants it, and the store loses
/// nothing.
///
/// # Errors
/// If the operating system refuses the handlers.
pub fn on_signals(stop: &Stop) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut signals = 0;
        loop {
            tokio::select! {
                biased;
                Some(()) = terminate.recv() => {}
                Some(()) = interrupt.recv() => {}
                else => return,
            }
            signals += 1;
            if signals == 1 {
                tracing::info!("stopping: finishing the work in progress; a second signal ends at once");
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
    // SAFETY: it takes a number and does not return. Not `exit`, which destroys statics (libtorch's) that
    // other threads still use.
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
