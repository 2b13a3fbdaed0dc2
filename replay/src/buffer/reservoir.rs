//! A uniform sample of all text seen, by keys.
//!
//! Every id has the key hash(seed, id); the members are those of the largest keys ([`super::keyed`]):
//! the keys of Efraimidis and Spirakis (2006) with equal weights. Order of arrival, number of shards and
//! splits into blocks change nothing, and two samples of one seed merge: all of which algorithms R and L
//! (Vitter 1985, Li 1994), which draw as records arrive, cannot say. With the capacity counted in records
//! each of n records seen is a member with probability m/n.

use super::Capacity;
use super::keyed::{Keys, Sample};

pub use super::keyed::Settings;

/// A reservoir of this capacity.
#[must_use]
pub fn of(capacity: Capacity) -> Sample {
    Sample::new(capacity, Keys::Uniform)
}
