//! Named places where a test makes the process die as if by `kill -9`.
//!
//! Always compiled; costs one relaxed load while no point is armed. The variable
//! `PERENNIAL_FAILPOINT=name[:n]`, which each program's `main` passes to [`arm`], arms one: the n-th
//! passage (from 1) through that point aborts. The crash tests loop over [`ALL`], so every new point is
//! covered.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Kind, ProgramError};

/// Every point, in the order a record passes them.
pub const ALL: &[&str] = &[
    "ingest.write.before_commit",
    "ingest.write.after_commit",
    "store.commit.after_files",
    "store.commit.after_log",
    "store.order.before_commit",
    "store.order.after_commit",
    "replay.follow.before_commit",
    "replay.follow.after_commit",
    "replay.views.before_commit",
    "replay.views.after_commit",
    "train.step.after_update",
    "train.checkpoint.before_rename",
    "train.checkpoint.after_rename",
];

static ARMED: AtomicBool = AtomicBool::new(false);
static PASSAGES_LEFT: AtomicU64 = AtomicU64::new(0);
static POINT: OnceLock<String> = OnceLock::new();

/// A failpoint that does not exist or cannot be armed.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a failpoint: use `name` or `name:n` with one of {names}", names = ALL.join(", "))]
pub struct UnknownFailpoint(String);

impl ProgramError for UnknownFailpoint {
    fn kind(&self) -> Kind {
        Kind::Config
    }
}

/// Arms the point that `spec` names, for the rest of the process.
///
/// # Errors
/// [`UnknownFailpoint`] if there is no such point, the count is invalid, or a point is armed already.
pub fn arm(spec: &str) -> Result<(), UnknownFailpoint> {
    let (name, count) = match spec.split_once(':') {
        Some((name, count)) => (name, count.parse().ok().filter(|count| *count > 0)),
        None => (spec, Some(1)),
    };
    let unknown = || UnknownFailpoint(spec.to_owned());
    let count: u64 = count.ok_or_else(unknown)?;
    if !ALL.contains(&name) || POINT.set(name.to_owned()).is_err() {
        return Err(unknown());
    }
    PASSAGES_LEFT.store(count, Ordering::SeqCst);
    ARMED.store(true, Ordering::SeqCst);
    Ok(())
}

/// Passes the point of this name; does not return if it is armed and its count is reached.
pub fn hit(name: &'static str) {
    debug_assert!(ALL.contains(&name), "`{name}` is not in failpoint::ALL");
    if ARMED.load(Ordering::Relaxed)
        && POINT.get().is_some_and(|point| point == name)
        && PASSAGES_LEFT.fetch_sub(1, Ordering::SeqCst) == 1
    {
        // Like kill -9, this runs no destructor and flushes nothing.
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arm_refuses_what_is_no_point_and_passing_an_unarmed_one_does_nothing() {
        for spec in
            ["", "nowhere", "store.commit.after_log:0", "store.commit.after_log:x", "store.commit.after_log:"]
        {
            assert!(arm(spec).is_err(), "{spec}");
        }
        hit("store.commit.after_log");
    }
}
