//! All tests across the programs, as one binary: linked once, and what they share is built once.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at the first surprise"
)]

mod bucket;
mod configuration;
mod crash;
mod drain;
mod exactly_once;
mod examples;
mod full_disk;
mod hostile;
mod python;
mod readme;
mod s3;
mod serve;
mod stranger;
mod tidy;
mod tutorial;
mod walk;
