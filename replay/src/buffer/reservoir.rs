//! A uniform sample of all text seen, by keys.
//!
//! Every id has the key hash(seed, id); the members are the records of the largest keys ([`super::keyed`]),
//! which are the keys of Efraimidis and Spirakis (2006) with equal weights. The order of arrival, the number
//! of shards and the split into blocks do not matter, and two samples of one seed can be merged; algorithms R
//! and L (Vitter 1985, Li 1994) draw as records arrive and have neither property. With a capacity of m
//! records, each of n records seen is a member with probability m/n.

use super::Capacity;
use super::keyed::{Keys, Sample};

pub use super::keyed::Settings;

/// A reservoir of this capacity.
#[must_use]
pub fn of(capacity: Capacity) -> Sample {
    Sample::new(capacity, Keys::Uniform)
}
