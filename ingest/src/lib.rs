//! Reads text from sources and writes what became of each reading to the store, exactly once.
//!
//! ```text
//! source ─> normalise ─> dedup ─> score ─> write
//! ```
//! [`source`] reads bytes with a position, [`normalise`] makes documents or dead letters of them,
//! [`dedup`] finds texts that are in the store already, exactly or nearly, [`score`] says how novel the
//! others are, [`mod@write`] commits rows and positions as one version. [`config`] says what to read,
//! [`block`] is what travels, [`channel`] what it travels on. [`restore`] rebuilds what `dedup` and `score`
//! remember. Besides: [`maintain`] keeps the table's files few, [`progress`] logs how far it is,
//! [`explain`] what became of one reading.
//!
//! # Invariants
//! - Every reading has one row, and the rows come in the order of reading, whatever the number of
//!   threads and however readings are cut into blocks and commits.
//! - Rows and the position behind them are one version of the store: kill the process at any instant,
//!   start it again, and nothing is lost and nothing is there twice.
//! - What the daemon remembers is a function of the store; nothing else is kept anywhere.
//! - Nothing after [`source`] knows what kind of source a reading is from.
//!
//! Where to start: [`pipeline`].

pub mod block;
pub mod channel;
pub mod cli;
pub mod config;
pub mod dedup;
pub mod error;
pub mod explain;
pub mod maintain;
pub mod normalise;
pub mod pipeline;
pub mod progress;
pub mod restore;
pub mod score;
pub mod source;
pub mod write;

pub use config::Config;
pub use error::IngestError;
pub use pipeline::{Summary, run};
