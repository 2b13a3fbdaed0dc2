//! Replay: what a training job reads of the stream. New text once, in order, to the token; between it,
//! text drawn from buffers, so that what was learnt is not forgotten.
//!
//! ```text
//! follow ──> buffer ──> mix ──> draw ──> pack ──> serve
//! records    policy     rows    spans    batch
//! ```
//!
//! [`records`] reads the store version by version into an [`index`]; [`follow`] offers it to each
//! [`buffer`]'s policy and writes what enters and leaves; [`issue`] chooses a ticket for a job;
//! [`batch`] evaluates it: [`mix`] says which rows are replayed, [`new_text`] reads new text, [`draw`]
//! draws from a buffer, [`tokenise`] and [`pack`] make rows of it. [`serve`] answers many clients,
//! a [`client`] asks it, [`draw_log`] writes what was served, [`receive`] what trainers say back.
//!
//! # Invariants
//! - A ticket gives the same bytes for ever, but for text that was removed, whose place is padding:
//!   [`batch`] reads no clock, no environment, no unseeded number, and nothing of the store beyond what
//!   the ticket names.
//! - Every token of the stream that a plan uses is delivered to a job exactly once, in order.
//! - With `visible_until = "cursor"` no batch holds text from beyond the place where its job reads.
//! - Buffers, index and cache are functions of the store and a seed: all can be thrown away.
//! - No text is ever changed.
//!
//! # Where to start
//! [`batch`]; then [`library`], which opens a store and ties it all together.

pub mod batch;
pub mod buffer;
pub mod client;
pub mod config;
pub mod draw;
pub mod draw_log;
pub mod error;
pub mod follow;
pub mod index;
pub mod inspect;
pub mod issue;
pub mod library;
pub mod mix;
pub mod new_text;
pub mod pack;
pub mod plan;
pub mod receive;
pub mod records;
pub mod serve;
#[cfg(test)]
mod testing;
pub mod texts;
pub mod tokenise;
