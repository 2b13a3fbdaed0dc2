//! The only place that reads the clock. Code that needs the time takes a [`Clock`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// The machine's clock, or one that a test moves by hand. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Inner);

#[derive(Debug, Clone)]
enum Inner {
    System { start: Instant },
    Manual { start_us: i64, now_us: Arc<watch::Sender<i64>> },
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the clock")]
    pub fn system() -> Self {
        Self(Inner::System { start: Instant::now() })
    }

    /// A clock that stands at `start_us` microseconds since 1970 until [`Clock::advance`] moves it.
    #[must_use]
    pub fn manual(start_us: i64) -> Self {
        Self(Inner::Manual { start_us, now_us: Arc::new(watch::Sender::new(start_us)) })
    }

    /// Microseconds since 1970-01-01 UTC.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the clock")]
    #[expect(clippy::expect_used, reason = "microseconds fit into 63 bits for 292,000 years")]
    pub fn now_us(&self) -> i64 {
        match &self.0 {
            Inner::System { .. } => {
                // A clock set before 1970 reads as 1970.
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_micros()).expect("the year is below 292,000")
            }
            Inner::Manual { now_us, .. } => *now_us.borrow(),
        }
    }

    /// Time since this clock was made; never goes back.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Inner::System { start } => start.elapsed(),
            Inner::Manual { start_us, now_us } => {
                Duration::from_micros(u64::try_from(*now_us.borrow() - start_us).unwrap_or(0))
            }
        }
    }

    /// Waits until `duration` has passed on this clock.
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the clock")]
    pub async fn sleep(&self, duration: Duration) {
        match &self.0 {
            Inner::System { .. } => tokio::time::sleep(duration).await,
            Inner::Manual { now_us, .. } => {
                let mut now = now_us.subscribe();
                let until =
                    self.now_us().saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX));
                // The sender lives in `self`: waiting cannot fail.
                let _ = now.wait_for(|now| *now >= until).await;
            }
        }
    }

    /// Moves a manual clock forward; the machine's clock ignores it.
    pub fn advance(&self, duration: Duration) {
        if let Inner::Manual { now_us, .. } = &self.0 {
            let step = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
            now_us.send_modify(|now| *now = now.saturating_add(step));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleep_on_a_manual_clock_ends_when_it_is_moved_far_enough() {
        let clock = Clock::manual(1_000);
        let sleeper = {
            let clock = clock.clone();
            tokio::spawn(async move {
                clock.sleep(Duration::from_micros(50)).await;
                clock.now_us()
            })
        };
        tokio::task::yield_now().await;
        clock.advance(Duration::from_micros(49));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_micros(1));
        assert_eq!(sleeper.await.unwrap(), 1_050);
        assert_eq!(clock.monotonic(), Duration::from_micros(50));
    }

    #[test]
    fn system_clock_is_past_2020_and_never_goes_back() {
        let clock = Clock::system();
        assert!(clock.now_us() > 1_577_836_800_000_000);
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
    }
}
