//! How new a record is to the stream so far.

pub mod distance;
pub mod prototypes;
pub mod unseen;
