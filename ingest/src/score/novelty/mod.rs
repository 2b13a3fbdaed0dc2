//! How new a record is to the stream so far.

pub mod unseen;
