//! The trainer: batches in, checkpoints out.
//!
//! ```text
//! feed -> model -> loss -> step -> checkpoint -> evaluate
//! ```
//!
//! [`feed`] checks a batch and packs its documents; [`model`] computes logits, each document by itself;
//! [`loss`] is the objective; [`step`] is one optimiser step, in the order of the equation; [`checkpoint`]
//! stores everything that resuming needs; [`evaluate`] scores held-out text. [`train`] is the loop around
//! them, with the explicit list of what happens every N steps.
//!
//! # Invariants
//! - The trainer never opens a source and never selects records: a ticket names what it learns.
//! - Weights are a function of the training configuration, the initial weights and the tickets: identical on
//!   every run with the same libtorch, instruction set and number of threads.
//! - No clock, no environment variable and no unseeded random number affects the weights.
//! - One thread calls libtorch; its errors are returned as values, never raised as panics.

pub mod average;
pub mod batches;
pub mod branch;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod device;
pub mod evaluate;
pub mod feed;
pub mod job;
pub mod loss;
pub mod metrics;
pub mod model;
pub mod optim;
pub mod progress;
pub mod report;
pub mod schedule;
pub mod step;
pub mod torch;
pub mod train;

#[cfg(test)]
mod testing;
