//! The trainer: batches in, checkpoints out.
//!
//! ```text
//! feed -> model -> loss -> step -> checkpoint -> evaluate
//! ```
//!
//! [`feed`] checks a batch and lays its documents side by side; [`model`] reads them, each document by
//! itself; [`loss`] says what was not foreseen; [`step`] makes the weights a little better, in the order
//! of the equation; [`checkpoint`] holds all that is needed to go on as if nothing had stopped;
//! [`evaluate`] scores text that was held out. [`train`] is the loop around them, with the explicit list
//! of what happens every so many steps.
//!
//! # Invariants
//! - The trainer never opens a source and never picks records: it learns what a ticket names.
//! - Weights are a function of the recipe, the start and the tickets: the same on every run of the same
//!   libtorch, instruction set and number of threads.
//! - No clock, no environment and no unseeded random number reaches the weights.
//! - libtorch is called from one thread; its errors leave as values, never as panics.

pub mod average;
pub mod batches;
pub mod branch;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod evaluate;
pub mod feed;
pub mod job;
pub mod loss;
pub mod metrics;
pub mod model;
pub mod optim;
pub mod report;
pub mod schedule;
pub mod step;
pub mod torch;
pub mod train;
pub mod watch;

#[cfg(test)]
mod testing;
