//! The newest text: the members are the records of the largest seq.
//!
//! A [`super::keyed`] sample whose key is the seq. Evicted text is never replayed again: a control, and a
//! sliding window for drift that recurs soon.

use std::sync::Arc;

use super::keyed::{Keys, Sample};
use super::{Capacity, Entry};

const NAME: &str = "fifo";

/// The entry in the catalogue.
pub const ENTRY: Entry = Entry {
    name: NAME,
    example: "policy = \"fifo\"\ncapacity = \"100000 records\"\n",
    read: |table| Ok(Arc::new(Sample::read(table, of)?)),
};

/// A window of this capacity.
#[must_use]
pub fn of(capacity: Capacity) -> Sample {
    Sample::new(capacity, |_| Keys::Newest)
}
