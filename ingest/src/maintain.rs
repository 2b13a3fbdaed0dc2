//! Keeps the table `records` healthy while the daemon runs: small files joined, old ones deleted, the log
//! short. Followers see nothing of it.

use perennial_program::clock::Clock;
use perennial_program::error::{Kind, ProgramError as _};
use perennial_program::stop::Stop;
use perennial_schemas::table::Table;
use perennial_store::maintain::{self, Done, Options, Retention};
use perennial_store::{Store, StoreError};

use crate::config;

/// Maintains the table once.
///
/// # Errors
/// As [`maintain::run`].
pub async fn once(store: &Store, config: &config::Maintain, stop: &Stop) -> Result<Done, StoreError> {
    let options = Options {
        target_bytes: config.file.get(),
        // `Config::check` has refused invalid values.
        retention: Retention::new(config.retention.get()).unwrap_or_default(),
        ..Options::default()
    };
    maintain::run(store, Table::Records, &options, stop).await
}

/// Maintains the table at intervals until `stop`. A failure is logged, and the next run tries again:
/// nothing depends on it. Two daemons on one store may both do it; one of them then finds it done.
pub async fn keep(store: &Store, config: &config::Maintain, clock: &Clock, stop: &Stop) {
    while !config.every.get().is_zero() {
        tokio::select! {
            biased;
            () = stop.wait() => return,
            () = clock.sleep(config.every.get()) => {}
        }
        match once(store, config, stop).await {
            Ok(done) if done.joined > 0 || done.deleted > 0 => {
                tracing::info!(
                    joined = done.joined,
                    made = done.made,
                    deleted = done.deleted,
                    "maintained the store"
                );
            }
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Conflict => {
                tracing::debug!("another process maintains the store")
            }
            Err(error) => tracing::warn!(error = %error, "cannot maintain the store now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_program::config::Duration;
    use perennial_schemas::table::records::{Builder, Outcome, Row};
    use perennial_store::StoreUrl;
    use perennial_store::commit::Committer;

    #[tokio::test]
    async fn small_files_are_joined_when_their_time_has_come_and_stop_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let url: StoreUrl = folder.path().to_str().unwrap().parse().unwrap();
        let store = Store::create(&url, &Default::default(), Clock::manual(0)).await.unwrap();
        let mut committer = Committer::open(&store, Table::Records, "ingest/main").await.unwrap();
        for batch in 1..=40 {
            let mut rows = Builder::new();
            rows.push(Row {
                seq: Some(batch - 1),
                commit: batch,
                ..Row::new(Outcome::DeadLetter, "main", "s")
            });
            committer.commit(&[rows.finish().unwrap()], vec![("ingest/main".into(), batch)]).await.unwrap();
        }
        let before = store.version(Table::Records).await.unwrap();
        let (clock, stop) = (Clock::manual(0), Stop::new());
        let config = config::Maintain { every: Duration::secs(60), ..config::Maintain::default() };
        let watch = async {
            while store.version(Table::Records).await.unwrap() == before {
                clock.advance(std::time::Duration::from_secs(30));
                tokio::task::yield_now().await;
            }
            stop.trigger();
        };
        tokio::join!(keep(&store, &config, &clock, &stop), watch);
        assert!(store.version(Table::Records).await.unwrap() > before);
    }
}
