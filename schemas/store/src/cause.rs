//! Reads an error's chain of causes: whether a retry may help, whether a file is missing or damaged,
//! whether a bucket or a disk failed.

use std::error::Error;
use std::io;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

/// An error and its causes, down to the first one.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // The source of an `io` error that wraps another error is not that error but its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// Whether the same call may succeed later without a change by anybody: the object store could not be
/// reached, or was overloaded. A missing permission, file or disk space is no such error.
///
/// The kernel of delta-rs passes on an object store's error as text; such an error counts as lasting. The
/// object store below it has already been asked repeatedly (see [`retry`](crate::retry)).
pub(crate) fn may_pass(error: &(dyn Error + 'static)) -> bool {
    let mut may_pass = false;
    for cause in causes(error) {
        if let Some(error) = cause.downcast_ref::<object_store::Error>() {
            // The other variants (not found, exists, not allowed) are answers of the store.
            may_pass = matches!(error, object_store::Error::Generic { .. });
        } else if let Some(kind) = system_error(cause) {
            return is_of_a_connection(kind);
        }
    }
    may_pass
}

/// Whether the object to be read does not exist.
pub(crate) fn is_missing(error: &(dyn Error + 'static)) -> bool {
    let mut errors = causes(error).filter_map(|error| error.downcast_ref::<object_store::Error>());
    errors.any(|error| matches!(error, object_store::Error::NotFound { .. }))
}

/// Whether a bucket, or the network to it, failed.
pub(crate) fn is_of_a_bucket(error: &(dyn Error + 'static)) -> bool {
    use object_store::Error as Store;
    let mut errors = causes(error).filter_map(|error| error.downcast_ref::<Store>());
    errors.any(|error| match error {
        Store::Generic { store, .. } => *store != "LocalFileSystem",
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => true,
        _ => false,
    })
}

/// Whether bytes were read that do not decode. An error of a disk or a network is not damage.
pub(crate) fn is_damage(error: &(dyn Error + 'static)) -> bool {
    let is_of_reading =
        |error: &(dyn Error + 'static)| error.is::<object_store::Error>() || system_error(error).is_some();
    let is_of_decoding = |error: &(dyn Error + 'static)| {
        error.is::<ParquetError>()
            || matches!(error.downcast_ref::<ArrowError>(), Some(ArrowError::ParquetError(_)))
    };
    !causes(error).any(is_of_reading) && causes(error).any(is_of_decoding)
}

/// Whether a disk, or a user's quota on it, is full.
pub(crate) fn is_full(error: &(dyn Error + 'static)) -> bool {
    matches!(io_kind(error), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// The first error of the operating system in the chain.
pub(crate) fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    causes(error).find_map(system_error)
}

/// The kind of an error of the operating system. An `io` error that wraps another error is not one.
fn system_error(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let error = error.downcast_ref::<io::Error>()?;
    error.get_ref().is_none().then(|| error.kind())
}

/// Whether an error of the operating system is one of a network connection. A disk's errors are not.
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
