//! Randomness that is a function of names: a [`Seed`] has named children and keyed hashes, no state.
//!
//! Everything random in Perennial is `seed.child("what for").hash(..)` of what it is about, so that
//! it does not depend on the order in which anything happens, and two users of one seed never
//! share their numbers by accident.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::id::IdError;

/// 128 bits that name a family of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seed(u128);

impl Seed {
    /// The seed a user wrote in a config.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(u128::from(number)).child("perennial")
    }

    /// The child of this name: independent of this seed and of every other child.
    #[must_use]
    pub fn child(self, name: &str) -> Self {
        let mut bytes = Vec::with_capacity(16 + name.len());
        bytes.extend_from_slice(&self.0.to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        Self(xxh3_128(&bytes))
    }

    /// A uniform 64-bit hash of `bytes` under this seed.
    #[must_use]
    pub fn hash(self, bytes: &[u8]) -> u64 {
        // One half keys the hash, the other is mixed in: 128 bits of seed reach the result.
        let low = self.0 as u64;
        let high = (self.0 >> 64) as u64;
        xxh3_64_with_seed(bytes, low) ^ xxh3_64_with_seed(&high.to_le_bytes(), low.rotate_left(32))
    }

    /// A uniform 64-bit number for a place named by numbers (a job's row, the k-th draw of it).
    #[must_use]
    pub fn at(self, place: &[u64]) -> u64 {
        let mut bytes = [0_u8; 64];
        let Some(room) = bytes.get_mut(..place.len() * 8) else {
            let all: Vec<u8> = place.iter().flat_map(|number| number.to_le_bytes()).collect();
            return self.hash(&all);
        };
        for (to, number) in room.chunks_exact_mut(8).zip(place) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        self.hash(room)
    }
}

/// A hash as a number in the open interval (0, 1): never 0 or 1, so that its logarithm is finite.
#[must_use]
pub fn unit(hash: u64) -> f64 {
    ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// A hash as a number in `0..n`, without the bias of a remainder (Lemire 2019, without rejection:
/// the bias is below n / 2^64).
#[must_use]
pub fn below(hash: u64, n: u64) -> u64 {
    ((u128::from(hash) * u128::from(n)) >> 64) as u64
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Seed {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(bits) if hex => Ok(Self(bits)),
            _ => Err(IdError { what: "seed", value: text.into(), why: "it must be 32 hexadecimal digits" }),
        }
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn children_differ_from_each_other_and_from_their_parent() {
        let seed = Seed::new(7);
        let all = [
            seed,
            seed.child("a"),
            seed.child("b"),
            seed.child("a").child("b"),
            seed.child("ab"),
            Seed::new(8),
        ];
        let distinct: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn numbers_are_the_same_in_every_build() {
        // Changing any of these changes every batch ever drawn: raise the wire's format number with it.
        let seed = Seed::new(0).child("golden");
        assert_eq!(seed.to_string(), "a5c3b89980ec60eb7ac20bcf6ff3f788");
        assert_eq!(seed.hash(b"text"), 9531480314207337253);
        assert_eq!(seed.at(&[1, 2, 3]), 2292429757983516483);
    }

    #[test]
    fn unit_is_uniform_and_open() {
        assert!(unit(0) > 0.0 && unit(u64::MAX) < 1.0);
        let seed = Seed::new(1);
        let n = 20_000;
        let mut bins = [0_u32; 20];
        for k in 0..n {
            bins[(unit(seed.at(&[k])) * 20.0) as usize] += 1;
        }
        // Chi-square with 19 degrees of freedom: 43.8 is the 0.1 % point.
        let expected = n as f64 / 20.0;
        let chi: f64 = bins.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
        assert!(chi < 43.8, "{chi}");
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let seed = Seed::new(2);
        let mut counts = [0_u32; 7];
        for k in 0..7_000 {
            counts[below(seed.at(&[k]), 7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(below(u64::MAX, 1), 0);
    }

    #[test]
    fn a_place_of_many_numbers_is_hashed_whole() {
        let seed = Seed::new(3);
        let long: Vec<u64> = (0..12).collect();
        assert_ne!(seed.at(&long), seed.at(&long[..11]));
        assert_ne!(seed.at(&long[..8]), seed.at(&long[..7]));
    }
}
