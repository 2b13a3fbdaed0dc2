//! The list of all policies; no other module names them all.

use std::sync::Arc;

use perennial_program::config::{ConfigError, Table};

use super::{PolicyConfig, decay, fifo, reservoir};

/// One policy.
#[derive(Debug)]
pub struct Entry {
    /// Its name in `policy = ".."`.
    pub name: &'static str,
    /// A valid table `[buffer.<name>]`.
    pub example: &'static str,
    /// Reads its settings from such a table.
    pub read: fn(&mut Table) -> Result<Arc<dyn PolicyConfig>, ConfigError>,
}

/// Every policy, one line each.
pub const CATALOGUE: &[Entry] = &[reservoir::ENTRY, fifo::ENTRY, decay::ENTRY];
