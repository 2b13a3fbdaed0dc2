//! Which policies there are: the only place that knows every one.

use std::sync::Arc;

use perennial_program::config::{ConfigError, Table};

use super::{PolicyConfig, decay, fifo, reservoir};

/// One policy.
#[derive(Debug)]
pub struct Entry {
    /// The word in `policy = ".."`.
    pub name: &'static str,
    /// A table `[buffer.<name>]` that works.
    pub example: &'static str,
    /// Reads its settings from that table.
    pub read: fn(&mut Table) -> Result<Arc<dyn PolicyConfig>, ConfigError>,
}

/// Every policy, one line each.
pub const CATALOGUE: &[Entry] = &[reservoir::ENTRY, fifo::ENTRY, decay::ENTRY];
