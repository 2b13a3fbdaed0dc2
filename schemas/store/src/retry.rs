//! Tries again where a store stumbles.
//!
//! The object store repeats single requests by itself, but not the body of a listing, nor what fails
//! between two requests; what is read or written through here is safe to do twice.

use std::error::Error;
use std::io;
use std::time::Duration;

use arrow::error::ArrowError;
use deltalake::DeltaTableError;
use parquet::errors::ParquetError;

use crate::StoreError;
use perennial_program::clock::Clock;

/// How often anything is tried while the store cannot be reached.
pub(super) const TRIES: u32 = 8;

/// The wait before the second try; it doubles with each.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Calls `attempt` until it succeeds or fails for good, at most [`TRIES`] times.
pub(super) async fn retry<T, F>(clock: &Clock, attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match attempt().await {
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %error, "the store stumbled, trying again in {wait:?}");
                clock.sleep(wait).await;
                wait *= 2;
            }
            done => return done,
        }
    }
    attempt().await
}

/// An error and what caused it, down to the first cause.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // An error wrapped as one of `io` names as its source not the wrapped error but that one's source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// Whether the same call may succeed later without anybody doing anything: the object store could not
/// be reached or asked for patience. No permission, no room, no such file stay so.
pub(super) fn may_pass(error: &(dyn Error + 'static)) -> bool {
    let mut may_pass = false;
    for cause in causes(error) {
        if let Some(error) = cause.downcast_ref::<object_store::Error>() {
            // What the object store has a word for (not found, exists, not allowed) is an answer.
            may_pass = matches!(error, object_store::Error::Generic { .. });
        } else if let Some(error) = cause.downcast_ref::<DeltaTableError>()
            && matches!(error, DeltaTableError::KernelError(_) | DeltaTableError::Generic(_))
        {
            // The kernel names the object store's error in its text alone.
            may_pass = error.to_string().contains("Error interacting with object store: Generic ");
        } else if let Some(error) = cause.downcast_ref::<io::Error>()
            && error.get_ref().is_none()
        {
            return is_of_a_connection(error.kind());
        }
    }
    may_pass
}

/// Whether what is to be read is not there.
pub(super) fn is_missing(error: &(dyn Error + 'static)) -> bool {
    let mut errors = causes(error).filter_map(|error| error.downcast_ref::<object_store::Error>());
    errors.any(|error| matches!(error, object_store::Error::NotFound { .. }))
}

/// Whether a bucket, or the way to it, did not do what was asked.
pub(super) fn is_of_a_bucket(error: &(dyn Error + 'static)) -> bool {
    use object_store::Error as Store;
    let mut errors = causes(error).filter_map(|error| error.downcast_ref::<Store>());
    errors.any(|error| match error {
        Store::Generic { store, .. } => *store != "LocalFileSystem",
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => true,
        _ => false,
    })
}

/// Whether bytes were read that do not decode. What a disk or a network says is not it.
pub(super) fn is_damage(error: &(dyn Error + 'static)) -> bool {
    let is_of_reading = |error: &(dyn Error + 'static)| {
        error.is::<object_store::Error>()
            || error.downcast_ref::<io::Error>().is_some_and(|error| error.get_ref().is_none())
    };
    let is_of_decoding = |error: &(dyn Error + 'static)| {
        error.is::<ParquetError>()
            || matches!(error.downcast_ref::<ArrowError>(), Some(ArrowError::ParquetError(_)))
    };
    !causes(error).any(is_of_reading) && causes(error).any(is_of_decoding)
}

/// Whether a connection may end so. What a disk says is none of these.
const fn is_of_a_connection(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Io;
    matches!(
        kind,
        Io::BrokenPipe
            | Io::ConnectionAborted
            | Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::HostUnreachable
            | Io::Interrupted
            | Io::NetworkDown
            | Io::NetworkUnreachable
            | Io::NotConnected
            | Io::TimedOut
            | Io::UnexpectedEof
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use perennial_schemas::table::Table;

    fn generic(source: impl Into<Box<dyn Error + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: source.into() }
    }

    fn delta(source: DeltaTableError) -> StoreError {
        StoreError::delta("read", Table::Records)(source)
    }

    #[test]
    fn failures_of_a_network_may_pass_and_answers_of_a_store_or_a_disk_do_not() {
        let not_found = || object_store::Error::NotFound { path: "a".into(), source: "gone".into() };
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let wrapped = io::Error::other(generic("503"));
        let parquet = ParquetError::External(Box::new(wrapped));
        let passing = [
            delta(generic("503").into()),
            delta(generic(refused).into()),
            delta(DeltaTableError::KernelError(generic("list").into())),
            delta(DeltaTableError::Generic(DeltaTableError::KernelError(generic("list").into()).to_string())),
            delta(parquet.into()),
        ];
        let lasting = [
            delta(not_found().into()),
            delta(DeltaTableError::KernelError(not_found().into())),
            delta(generic(full).into()),
            delta(io::Error::other(not_found()).into()),
            delta(DeltaTableError::NotInitialized),
            StoreError::Misuse("no"),
        ];
        assert_eq!(passing.iter().position(|error| !error.is_transient()), None);
        assert_eq!(lasting.iter().position(StoreError::is_transient), None);
    }

    #[test]
    fn full_disk_is_found_below_what_wraps_it_and_the_mend_names_the_folder() {
        use perennial_program::error::{Fault as _, Kind};
        let url = "/data/store".parse().unwrap();
        let written = |kind: io::ErrorKind| {
            let wrapped = io::Error::other(generic(io::Error::from(kind)));
            delta(ParquetError::External(Box::new(wrapped)).into()).of_store(&url)
        };
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = written(kind);
            let hint = "make room on the file system of `/data/store`, then start again: nothing is lost";
            assert_eq!(error.to_string(), "cannot read table `records`: no space is left at `/data/store`");
            assert_eq!((error.hint().as_deref(), error.kind()), (Some(hint), Kind::Unavailable));
            assert!(!error.is_transient());
        }
        let hint = written(io::ErrorKind::PermissionDenied).hint();
        assert!(hint.is_some_and(|hint| hint.contains("write access")));
        let hint = written(io::ErrorKind::ConnectionReset).hint();
        assert!(hint.is_some_and(|hint| hint.contains("`aws_endpoint_url`")), "it was a bucket's");
    }

    #[test]
    fn bytes_that_do_not_decode_are_damage_and_a_file_that_is_gone_is_not_found() {
        use perennial_program::error::{Fault as _, Kind};
        let file = |source: ParquetError| StoreError::File {
            table: Table::Records,
            file: "a.parquet".to_owned(),
            source: Box::new(source),
        };
        let page = || ParquetError::General("a page does not decode".to_owned());
        // As the decompressor says it.
        let frame = ParquetError::External(Box::new(io::Error::other("unknown frame")));
        for damaged in [file(page()), file(frame), delta(page().into())] {
            assert_eq!(damaged.kind(), Kind::Corrupt, "{damaged:?}");
            assert!(damaged.hint().is_some_and(|hint| hint.contains("from a copy of the store")));
        }
        let gone = object_store::Error::NotFound { path: "a".into(), source: "gone".into() };
        let gone = file(ParquetError::External(Box::new(gone)));
        assert_eq!(gone.kind(), Kind::NotFound);
        for passing in [generic("503"), generic(io::Error::from(io::ErrorKind::ConnectionReset))] {
            assert_eq!(file(ParquetError::External(Box::new(passing))).kind(), Kind::Unavailable);
        }
    }

    #[tokio::test]
    async fn call_that_fails_is_repeated_after_waits_that_double_until_it_succeeds_or_tries_are_out() {
        for (failures, tries, waited) in [(0, 1, 0), (3, 4, 700), (7, 8, 12_700), (99, 8, 12_700)] {
            let clock = Clock::manual(0);
            let count = Cell::new(0);
            let call = retry(&clock, || async {
                count.set(count.get() + 1);
                if count.get() > failures { Ok(()) } else { Err(delta(generic("503").into())) }
            });
            let driver = async {
                loop {
                    clock.advance(Duration::from_millis(1));
                    tokio::task::yield_now().await;
                }
            };
            let done = tokio::select! { biased; done = call => done, () = driver => unreachable!() };
            assert_eq!((done.is_ok(), count.get()), (failures < 8, tries));
            let moved = clock.monotonic().as_millis();
            assert!((waited..waited + 10).contains(&moved), "{moved} ms for {failures} failures");
        }
        let count = Cell::new(0);
        let clock = Clock::manual(0);
        let lasting = retry(&clock, || async {
            count.set(count.get() + 1);
            Err::<(), _>(delta(DeltaTableError::NotInitialized))
        });
        assert!(lasting.await.is_err() && count.get() == 1);
    }
}
