//! What all three programs need: configuration, errors, time, a clean stop, failpoints and logging.
//!
//! # Invariants
//! - The clock and the environment are read in this crate alone.

pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod failpoint;
mod panics;
pub mod start;
pub mod stop;
pub mod telemetry;
