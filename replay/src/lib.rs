//! Replay makes the batches of training jobs: new text of the stream once, in order, token by token, mixed
//! with text drawn from buffers, so that a model does not forget what it learnt.
//!
//! ```text
//! follow ──> buffer ──> mix ──> draw ──> pack ──> serve
//! records    policy     rows    spans    batch
//! ```
//!
//! [`records`] reads the store version by version into an [`index`]; [`follow`] offers the records to each
//! [`buffer`]'s policy and writes its admissions and evictions; [`issue`] chooses a ticket for a job, and
//! [`jobs`] decides it once, in the table [`views`];
//! [`batch`] evaluates it: [`mix`] decides which rows are replayed, [`new_text`] reads new text, [`draw`]
//! draws from a buffer, [`tokenise`] and [`pack`] make rows. [`serve`] answers clients, [`client`] is one,
//! [`receive`] records the trainers' evaluations.
//!
//! # Invariants
//! - A ticket always gives the same bytes, except that removed text becomes padding: [`batch`] reads no
//!   clock, no environment variable, no unseeded random number, and only those parts of the store that the
//!   ticket names.
//! - Every token of the stream that a plan uses is delivered to a job exactly once, in order.
//! - With `visible_until = "cursor"` no batch holds text from after the job's position in the stream.
//! - Buffers, index and cache are functions of the store and a seed: all can be deleted and rebuilt.
//! - Text is never changed.
//!
//! # Where to start
//! [`batch`]; then [`library`], which opens a store and connects the parts.

pub mod batch;
pub mod buffer;
pub mod cli;
pub mod client;
pub mod config;
pub mod draw;
pub mod draws;
pub mod embeddings;
pub mod error;
pub mod explain;
pub mod follow;
pub mod herding;
pub mod index;
pub mod inspect;
pub mod issue;
pub mod jobs;
pub mod library;
pub mod mix;
pub mod new_text;
pub mod pack;
pub mod plan;
pub mod receive;
pub mod records;
pub mod serve;
pub mod states;
#[cfg(test)]
mod testing;
pub mod texts;
pub mod tokenise;
pub mod views;
