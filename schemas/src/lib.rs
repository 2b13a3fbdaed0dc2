//! What the programs of Perennial say to each other: names, tables, messages. No policy, no model, no I/O.
//!
//! ```text
//! table    the six tables: records, order, signals, evaluations, buffers, draws  what is stored
//! wire     ticket, batch                                                     what replay and trainer exchange
//! id       what names a text, a reading, a step
//! seed     all randomness
//! text     the normal form that an id hashes
//! ```
//! Three more crates complete what the programs share: `perennial-program` (configuration, errors, clock,
//! log, clean stop), `perennial-report` (HTML pages) and `perennial-store` (the tables on an object store).
//! Only the store links DataFusion and Delta.
//!
//! # Where to start
//! [`table::records`], the row that everything else is about.

pub mod id;
pub mod seed;
pub mod table;
pub mod text;
pub mod wire;
