//! The newest text: the members are the records of the largest offset.
//!
//! A [`super::keyed`] sample whose key is the offset, so that it does not matter which shard read a record. Evicted text is never replayed again: a control, and a
//! sliding window for drift that recurs soon.

use super::Capacity;
use super::keyed::{Keys, Sample};

pub use super::keyed::Settings;

/// A window of this capacity.
#[must_use]
pub fn of(capacity: Capacity) -> Sample {
    Sample::new(capacity, |_| Keys::Newest)
}
