//! Evaluation on held-out text: slices, the matrix of evaluations by slices, and the metrics computed from
//! it.

pub mod held_out;
pub mod matrix;
pub mod metrics;
pub mod scorer;
pub mod slices;
