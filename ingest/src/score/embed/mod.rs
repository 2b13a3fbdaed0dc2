//! Texts as unit vectors.

pub mod hashed;
