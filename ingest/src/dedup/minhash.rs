//! Signatures: 128 numbers that agree in as many places as two sets of shingles are alike.
//!
//! One-permutation hashing with optimal densification (Shrivastava, "Optimal densification for fast and
//! accurate minwise hashing", ICML 2017): the top bits of a shingle's hash choose one of 128 slots, the
//! slot keeps the least of the remaining bits, and a slot that got none copies that of another slot,
//! which is chosen without regard to the text. One pass over the shingles, whatever the number of slots;
//! and for two sets A and B each slot agrees with probability J = |A and B| / |A or B|.
//!
//! Why it is unbiased: the slot that an empty slot copies is the first filled one in an order of its own,
//! the same for all texts. In that order (the slot itself first), look at the first slot that A or B
//! fills, and at its least element: it is a random element of A or B, and both signatures hold it iff it
//! is in A and in B. If only one of them has it, the other holds another slot's element, and two elements
//! agree by chance with probability 2^-32.
//!
//! The orders are random permutations of the slots, so that a search ends after at most 128 steps: a
//! text of few shingles costs no more than a table look-up a slot and step.

use perennial_schemas::seed::{Seed, below};

/// Numbers in a signature.
pub const SLOTS: usize = 128;

/// Which signature this is: one-permutation hashing with optimal densification over shingles of 5 words,
/// 128 slots, first version of hash and orders. Signatures of another kind cannot be compared with it.
pub const SIGNATURE_KIND: &str = "oph-odens/w5/128/1";

/// A signature of kind [`SIGNATURE_KIND`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Signature(Box<[u32; SLOTS]>);

impl Signature {
    /// Its numbers.
    #[must_use]
    pub const fn slots(&self) -> &[u32; SLOTS] {
        &self.0
    }

    /// As the store's column `signature` holds it: little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|slot| slot.to_le_bytes()).collect()
    }

    /// From the store's column; `None` unless there are 128 numbers.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() || numbers.len() != SLOTS {
            return None;
        }
        let mut slots = Box::new([0; SLOTS]);
        for (slot, number) in slots.iter_mut().zip(numbers) {
            *slot = u32::from_le_bytes(*number);
        }
        Some(Self(slots))
    }

    /// The Jaccard similarity of the two sets of shingles, estimated: the share of slots that agree.
    /// Unbiased; the standard deviation is at most sqrt(J(1 - J) / 128), 0.035 at 0.8, for texts of a
    /// hundred shingles and more, and up to 1.2 times that for shorter ones.
    #[must_use]
    pub fn estimate(&self, other: &Self) -> f64 {
        let equal = self.0.iter().zip(other.0.iter()).filter(|(a, b)| a == b).count();
        equal as f64 / SLOTS as f64
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signature({:08x?}..)", self.0.first_chunk::<4>())
    }
}

/// Makes signatures. Two of them make the same ones.
#[derive(Debug, Clone)]
pub struct MinHasher {
    /// For each slot: the slots in the order in which it asks them when it is empty.
    orders: Box<[[u8; SLOTS]]>,
}

impl Default for MinHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl MinHasher {
    /// One with the orders of [`SIGNATURE_KIND`].
    #[must_use]
    pub fn new() -> Self {
        let seed = Seed::new(0).child(SIGNATURE_KIND);
        Self { orders: (0..SLOTS).map(|slot| order(seed, slot as u64)).collect() }
    }

    /// The signature of a set of shingles; in any order, repeats do not matter. That of the empty set,
    /// which no text has, is all ones.
    #[must_use]
    pub fn sign(&self, shingles: &[u64]) -> Signature {
        let mut slots = Box::new([u32::MAX; SLOTS]);
        let mut filled = 0_u128;
        for shingle in shingles {
            let index = (shingle >> 57) as usize;
            // The 32 bits below those that chose the slot.
            let value = (shingle >> 25) as u32;
            if let Some(slot) = slots.get_mut(index) {
                *slot = (*slot).min(value);
                filled |= 1 << index;
            }
        }
        if filled != 0 && filled != u128::MAX {
            self.densify(&mut slots, filled);
        }
        Signature(slots)
    }

    /// Fills the slots that are not in `filled`.
    fn densify(&self, slots: &mut [u32; SLOTS], filled: u128) {
        let has = |index: &u8| filled >> index & 1 == 1;
        for (index, order) in self.orders.iter().enumerate() {
            if filled >> index & 1 == 1 {
                continue;
            }
            let from = order.iter().find(|index| has(index)).and_then(|from| slots.get(usize::from(*from)));
            if let Some(value) = from.copied()
                && let Some(slot) = slots.get_mut(index)
            {
                *slot = value;
            }
        }
    }
}

/// A random permutation of the slots (Fisher and Yates).
fn order(seed: Seed, slot: u64) -> [u8; SLOTS] {
    let mut order = std::array::from_fn(|index| index as u8);
    for left in (2..=SLOTS as u64).rev() {
        let pick = below(seed.at(&[slot, left]), left);
        order.swap(left as usize - 1, pick as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use xxhash_rust::xxh3::xxh3_64;

    /// Two sets whose union has `union` elements, `shared` of them in both, the others in one in turn.
    fn pair(seed: Seed, union: u64, shared: u64) -> (Vec<u64>, Vec<u64>) {
        let element = |k: u64| seed.at(&[k]);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for k in 0..union {
            if k < shared || k % 2 == 0 {
                a.push(element(k));
            }
            if k < shared || k % 2 == 1 {
                b.push(element(k));
            }
        }
        (a, b)
    }

    #[test]
    fn estimate_is_unbiased_for_small_and_large_sets() {
        let hasher = MinHasher::new();
        let trials = 600_u64;
        for (union, shared) in [(2, 1), (5, 4), (20, 2), (20, 16), (100, 50), (400, 320), (2000, 1900)] {
            let jaccard = shared as f64 / union as f64;
            let seed = Seed::new(union).child("unbiased");
            let estimates: Vec<f64> = (0..trials)
                .map(|trial| {
                    let (a, b) = pair(seed.child(&trial.to_string()), union, shared);
                    hasher.sign(&a).estimate(&hasher.sign(&b))
                })
                .collect();
            let mean = estimates.iter().sum::<f64>() / trials as f64;
            let variance = estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (trials - 1) as f64;
            // Four standard errors: one run in 16,000 would fail by chance, and the seed is fixed.
            let error = (variance / trials as f64).sqrt();
            assert!((mean - jaccard).abs() < 4.0 * error, "J {jaccard} of {union}: {mean} +- {error}");
            if union >= 20 {
                // Few shingles share slots by chance, and the one that is not the least is lost.
                let most = if union < 100 { 1.7 } else { 1.15 };
                let minhash = jaccard * (1.0 - jaccard) / SLOTS as f64;
                assert!(variance < most * minhash, "J {jaccard} of {union}: {variance}, MinHash {minhash}");
            }
        }
    }

    #[test]
    fn every_slot_agrees_as_often_as_the_others() {
        let hasher = MinHasher::new();
        let trials = 2_000_u64;
        let seed = Seed::new(9);
        let mut agree = [0_u32; SLOTS];
        for trial in 0..trials {
            let (a, b) = pair(seed.child(&trial.to_string()), 30, 18);
            let (a, b) = (hasher.sign(&a), hasher.sign(&b));
            for (count, (a, b)) in agree.iter_mut().zip(a.slots().iter().zip(b.slots())) {
                *count += u32::from(a == b);
            }
        }
        // Five standard deviations of a binomial count: 128 slots, one chance in 10,000.
        let deviation = (trials as f64 * 0.6 * 0.4).sqrt();
        for (slot, count) in agree.iter().enumerate() {
            let off = f64::from(*count) - 0.6 * trials as f64;
            assert!(off.abs() < 5.0 * deviation, "slot {slot}: {count}");
        }
    }

    #[test]
    fn signature_is_the_same_in_every_build() {
        // Changing any of these makes signatures in stores wrong: change `SIGNATURE_KIND` with it.
        let hasher = MinHasher::new();
        let few: Vec<u64> = (0..7_u64).map(|k| xxh3_64(&k.to_le_bytes())).collect();
        let many: Vec<u64> = (0..5_000_u64).map(|k| xxh3_64(&k.to_le_bytes())).collect();
        let [few, many] = [few, many].map(|shingles| hasher.sign(&shingles));
        assert_eq!(few.slots()[..4], [3_181_206_967, 1_130_573_384, 32_822_556, 3_727_465_138]);
        assert_eq!(many.slots()[..4], [75_463_461, 239_426_773, 66_328_558, 181_624_216]);
        let hashes = [few, many].map(|signature| xxh3_64(&signature.to_bytes()));
        assert_eq!(hashes, [17_385_015_842_665_523_226, 1_365_573_620_392_337_603]);
    }

    #[test]
    fn orders_are_permutations_that_differ() {
        let hasher = MinHasher::new();
        let mut seen = BTreeSet::new();
        for order in &hasher.orders {
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), SLOTS);
            assert!(seen.insert(order));
        }
    }

    #[test]
    fn signature_of_one_shingle_is_one_number() {
        let signature = MinHasher::new().sign(&[0x0123_4567_89ab_cdef]);
        assert!(signature.slots().iter().all(|slot| *slot == (0x0123_4567_89ab_cdef_u64 >> 25) as u32));
        assert_eq!(MinHasher::new().sign(&[]).slots(), &[u32::MAX; SLOTS]);
    }

    proptest! {
        #[test]
        fn signature_is_that_of_the_set(mut shingles in proptest::collection::vec(any::<u64>(), 1..300)) {
            let hasher = MinHasher::new();
            let signature = hasher.sign(&shingles);
            prop_assert_eq!(signature.estimate(&signature), 1.0);
            prop_assert_eq!(Signature::from_bytes(&signature.to_bytes()), Some(signature.clone()));
            shingles.extend_from_within(..shingles.len() / 2);
            shingles.reverse();
            prop_assert_eq!(hasher.sign(&shingles), signature);
        }

        #[test]
        fn slot_holds_the_least_of_the_first_slot_of_its_order_that_is_filled(
            shingles in proptest::collection::vec(any::<u64>(), 1..300),
        ) {
            let hasher = MinHasher::new();
            let least = |slot: usize| {
                let own = shingles.iter().filter(|shingle| (*shingle >> 57) as usize == slot);
                own.map(|shingle| (shingle >> 25) as u32).min()
            };
            for (slot, value) in hasher.sign(&shingles).slots().iter().enumerate() {
                let others = hasher.orders[slot].iter().map(|other| usize::from(*other));
                prop_assert_eq!(Some(*value), std::iter::once(slot).chain(others).find_map(least));
            }
        }

        #[test]
        fn other_blobs_are_no_signature(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(Signature::from_bytes(&bytes).is_some(), bytes.len() == 4 * SLOTS);
        }
    }
}
