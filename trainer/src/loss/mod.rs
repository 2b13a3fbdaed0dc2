//! What a step minimises.

pub mod next_token;
