//! What ingest, replay and the trainer share, on four shelves.
//!
//! ```text
//! table    the five tables: records, signals, evaluations, buffers, draws   what is stored
//! store    open, commit, follow, scan, fetch, maintain, lock, check          where it is stored
//! wire     ticket, batch                                                     what replay and trainer say to each other
//! program  start, cli, config, error, clock, stop, failpoint, telemetry      what every program needs
//! ```
//! Below them lie the words all use: [`id`] (what names a text and a reading), [`seed`] (all
//! randomness), [`text`] (the normal form that an id hashes).
//!
//! # Invariants
//! - No policy and no model lives here.
//! - The clock and the environment are read in [`program`] alone. No random number is unseeded but a
//!   store's secret, drawn when it is made, and the names of attempts to commit.
//! - Rows enter a table through [`store::commit::Committer`] alone.
//!
//! # Where to start
//! [`table::records`], the row that everything else is about; then [`store`].

pub mod id;
pub mod program;
pub mod seed;
pub mod store;
pub mod table;
pub mod text;
pub mod wire;
