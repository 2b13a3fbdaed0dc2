//! The objective of a step.

pub mod next_token;
