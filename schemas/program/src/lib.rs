//! What every program needs, the same in all three: configuration, errors, time, a clean stop,
//! named places to crash at, and what it says while it runs.
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
