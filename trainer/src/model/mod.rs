//! The decoder-only language model: its shape, its layers, its attention per document.

pub mod attention;
pub mod config;
pub mod decoder;
pub mod rounded;

pub use attention::Documents;
pub use config::ModelConfig;
pub use decoder::{Decoder, Input, Parameter};
pub use rounded::Rounded;
