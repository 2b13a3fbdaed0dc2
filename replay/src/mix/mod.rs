//! Which rows of a job are replayed, and from which buffer.

mod fixed;

pub use fixed::{Mix, MixError, billionths};
