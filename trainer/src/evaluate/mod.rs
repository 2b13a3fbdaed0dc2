//! Scores held-out text: slices of it, the matrix of evaluation by slice, and what follows from it.

pub mod held_out;
pub mod matrix;
pub mod metrics;
pub mod scorer;
pub mod slices;
