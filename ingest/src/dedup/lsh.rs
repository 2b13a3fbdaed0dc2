//! Candidates: kept records whose signatures share a band with a new one.
//!
//! Signatures are cut into 21 bands of 6 numbers; a pair of texts with Jaccard similarity J shares at
//! least one band with probability P(J) = 1 - (1 - J^6)^21 ([`recall`]):
//!
//! | J | 0.3 | 0.5 | 0.6 | 0.7 | 0.75 | 0.8 | 0.85 | 0.9 |
//! |---|---|---|---|---|---|---|---|---|
//! | P | 0.015 | 0.28 | 0.63 | 0.93 | 0.984 | 0.9983 | 0.99995 | 1 - 10^-7 |
//!
//! Chosen for recall at the threshold of 0.8 and not for few candidates: each is verified on its
//! shingles ([`super::verify`]), so a false one costs time and nothing else.
//!
//! # Memory
//! The index holds the newest `window` records; the oldest leaves when one more comes. With 21 bands a
//! record costs 168 bytes, and 84 bytes a record of the window rounded up to a power of two: 252 MiB for
//! a window of 2^20, 244 MiB for the default of 1,000,000 (memory is taken as it is first used).
//!
//! # Rebuilding
//! What the index answers is a function of the last `window` signatures in order: signatures inserted
//! again from the store, all of them or the last `window`, one by one or in any blocks, give the index
//! that was never interrupted.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::xxh3_64;

use super::minhash::Signature;

/// Bands of a signature.
pub const BANDS: usize = 21;

/// Numbers in a band.
pub const ROWS: usize = 6;

/// Maximum entries read in one table for one record, the newest: it bounds the work on a band that a hundred
/// thousand pages share because one template made them.
const STEPS: usize = 1024;

/// The probability that two texts of this Jaccard similarity are candidates.
#[must_use]
pub fn recall(jaccard: f64) -> f64 {
    1.0 - (1.0 - jaccard.powi(ROWS as i32)).powi(BANDS as i32)
}

/// A kept record that shares a band with a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// How many records were inserted before it.
    pub number: u64,
    /// How many bands it shares, at least 1.
    pub bands: u32,
}

/// The index of the newest signatures by their bands.
#[derive(Debug)]
pub struct Lsh {
    chains: Chains<BANDS>,
    met: Vec<u64>,
}

impl Lsh {
    /// An empty index of the newest `window` records, at least one.
    #[must_use]
    pub fn new(window: u32) -> Self {
        Self { chains: Chains::new(window), met: Vec::new() }
    }

    /// Bytes that it takes when its window is full, its bookkeeping aside.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.chains.memory()
    }

    /// Adds the signature of a record, in place of the oldest if the window is full. Returns its number:
    /// how many were inserted before it.
    pub fn insert(&mut self, signature: &Signature) -> u64 {
        self.chains.insert(keys(signature).map(Some))
    }

    /// Puts the records that share a band with `signature` into `hits`: those that share more bands
    /// first, older ones first among equals. Returns whether a band was so full that only its
    /// newest were read.
    pub fn find(&mut self, signature: &Signature, hits: &mut Vec<Hit>) -> bool {
        self.met.clear();
        let mut cut = false;
        for (band, key) in keys(signature).into_iter().enumerate() {
            let met = &mut self.met;
            cut |= self.chains.walk(band, key, |number| {
                met.push(number);
                ControlFlow::Continue(())
            });
        }
        self.met.sort_unstable();
        hits.clear();
        for same in self.met.chunk_by(|a, b| a == b) {
            if let Some(number) = same.first() {
                hits.push(Hit { number: *number, bands: same.len() as u32 });
            }
        }
        hits.sort_by_key(|hit| (std::cmp::Reverse(hit.bands), hit.number));
        cut
    }
}

/// A 32-bit hash of each band.
fn keys(signature: &Signature) -> [u32; BANDS] {
    let mut keys = [0; BANDS];
    let (bands, _) = signature.slots().as_chunks::<ROWS>();
    for (key, band) in keys.iter_mut().zip(bands) {
        let mut bytes = [0; ROWS * 4];
        for (to, number) in bytes.chunks_exact_mut(4).zip(band) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        *key = (xxh3_64(&bytes) >> 32) as u32;
    }
    keys
}

/// `TABLES` hash tables over the newest records, of chains from newer to older.
///
/// Records lie in a ring. A bucket names the newest record of its chain, and each record the next older
/// one. Nothing is ever unlinked: the oldest record is the end of each of its chains, and a link to a
/// place that has since gone to a newer record says so itself, because links lead to older records only.
#[derive(Debug)]
pub(super) struct Chains<const TABLES: usize> {
    window: usize,
    /// A bucket is this many top bits of a key.
    bits: u32,
    /// For each table: place in the ring + 1 of the newest record of each bucket; 0 for none.
    heads: Vec<u32>,
    /// For each place in the ring: what its record is in each table.
    ring: Vec<[Node; TABLES]>,
    inserted: u64,
}

/// A record in one table.
#[derive(Debug, Clone, Copy)]
struct Node {
    key: u32,
    /// Place in the ring + 1 of the next older record of its bucket; 0 for none.
    older: u32,
}

impl Node {
    /// A record that is not in the table.
    const ABSENT: Self = Self { key: 0, older: u32::MAX };
}

impl<const TABLES: usize> Chains<TABLES> {
    /// Empty tables over the newest `window` records, at least one and at most 2^31.
    pub(super) fn new(window: u32) -> Self {
        let window = window.clamp(1, 1 << 31);
        let bits = window.next_power_of_two().trailing_zeros().max(1);
        let heads = vec![0; TABLES << bits];
        Self { window: window as usize, bits, heads, ring: Vec::new(), inserted: 0 }
    }

    /// Bytes when the window is full.
    #[cfg(test)]
    pub(super) const fn memory(&self) -> usize {
        self.heads.len() * size_of::<u32>() + self.window * size_of::<[Node; TABLES]>()
    }

    /// Where the record with this number lies in a ring of the window's length.
    pub(super) const fn place(&self, number: u64) -> usize {
        (number % self.window as u64) as usize
    }

    /// Adds a record, which is not in the tables for which it has no key, in place of the oldest if the
    /// window is full. Returns how many were inserted before it.
    pub(super) fn insert(&mut self, keys: [Option<u32>; TABLES]) -> u64 {
        let number = self.inserted;
        let place = self.place(number);
        let mut nodes = [Node::ABSENT; TABLES];
        for (table, (node, key)) in nodes.iter_mut().zip(keys).enumerate() {
            let Some(key) = key else { continue };
            let bucket = self.bucket(table, key);
            let Some(head) = self.heads.get_mut(bucket) else { continue };
            *node = Node { key, older: *head };
            *head = place as u32 + 1;
        }
        match self.ring.get_mut(place) {
            Some(oldest) => *oldest = nodes,
            None => self.ring.push(nodes),
        }
        self.inserted += 1;
        number
    }

    /// Calls `found` with the numbers of the records of `table` with this key, from the newest to the
    /// oldest, until it breaks. Returns whether there were more than [`STEPS`] to look at.
    pub(super) fn walk(&self, table: usize, key: u32, mut found: impl FnMut(u64) -> ControlFlow<()>) -> bool {
        let bucket = self.bucket(table, key);
        let mut link = self.heads.get(bucket).copied().unwrap_or(0);
        let mut before = self.inserted;
        for _ in 0..STEPS {
            let Some((number, node)) = self.follow(table, link, before) else { return false };
            if node.older == Node::ABSENT.older || self.bucket(table, node.key) != bucket {
                return false;
            }
            if node.key == key && found(number).is_break() {
                return false;
            }
            (link, before) = (node.older, number);
        }
        self.follow(table, link, before).is_some()
    }

    /// The record a link leads to, if that is older than `before`: else its place went to a newer one.
    fn follow(&self, table: usize, link: u32, before: u64) -> Option<(u64, Node)> {
        let place = (link as usize).checked_sub(1)?;
        let node = self.ring.get(place)?.get(table)?;
        let next = self.place(self.inserted);
        let turn = self.inserted - next as u64;
        let number = if place < next {
            turn + place as u64
        } else {
            (turn + place as u64).checked_sub(self.window as u64)?
        };
        (number < before).then_some((number, *node))
    }

    const fn bucket(&self, table: usize, key: u32) -> usize {
        (table << self.bits) + (key >> (32 - self.bits)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::minhash::MinHasher;
    use super::*;
    use perennial_schemas::seed::Seed;
    use proptest::prelude::*;

    /// What `find` promises, from all signatures in order.
    fn brute(all: &[Signature], window: usize, wanted: &Signature) -> Vec<Hit> {
        let wanted = keys(wanted);
        let first = all.len().saturating_sub(window);
        let mut hits: Vec<Hit> = all
            .iter()
            .enumerate()
            .skip(first)
            .map(|(number, signature)| Hit {
                number: number as u64,
                bands: keys(signature).iter().zip(wanted).filter(|(a, b)| **a == *b).count() as u32,
            })
            .filter(|hit| hit.bands > 0)
            .collect();
        hits.sort_by_key(|hit| (std::cmp::Reverse(hit.bands), hit.number));
        hits
    }

    /// Signatures of sets around a few centres: near and not so near.
    fn signatures(recipe: &[(u8, u8)]) -> Vec<Signature> {
        let hasher = MinHasher::new();
        let seed = Seed::new(5);
        recipe
            .iter()
            .map(|(centre, own)| {
                let shared = (0..60_u64).map(|k| seed.at(&[u64::from(*centre % 4), k]));
                let other = (0..u64::from(*own % 32)).map(|k| seed.at(&[7, u64::from(*own), k]));
                hasher.sign(&shared.chain(other).collect::<Vec<_>>())
            })
            .collect()
    }

    fn find(index: &mut Lsh, signature: &Signature) -> Vec<Hit> {
        let mut hits = Vec::new();
        assert!(!index.find(signature, &mut hits));
        hits
    }

    #[test]
    fn recall_is_that_of_the_table() {
        let table = [(0.3, 0.015), (0.5, 0.28), (0.6, 0.63), (0.7, 0.93), (0.75, 0.984), (0.8, 0.9983)];
        for (jaccard, expected) in table {
            assert!((recall(jaccard) - expected).abs() < 0.006, "{jaccard}: {}", recall(jaccard));
        }
        assert!(recall(0.8) > 0.998 && recall(0.85) > 0.9999 && recall(0.9) > 0.999_999);
    }

    #[test]
    fn candidates_come_as_often_as_the_formula_says() {
        let hasher = MinHasher::new();
        let trials = 1_500_u64;
        for (union, shared) in [(10, 5), (10, 8), (40, 28), (40, 32), (500, 300), (500, 400)] {
            let seed = Seed::new(union).child("bands");
            let mut found = 0;
            for trial in 0..trials {
                let element = |k: u64| seed.at(&[trial, k]);
                let a: Vec<u64> = (0..union).filter(|k| *k < shared || k % 2 == 0).map(element).collect();
                let b: Vec<u64> = (0..union).filter(|k| *k < shared || k % 2 == 1).map(element).collect();
                let mut index = Lsh::new(4);
                index.insert(&hasher.sign(&a));
                found += u32::from(!find(&mut index, &hasher.sign(&b)).is_empty());
            }
            let (expected, found) = (recall(shared as f64 / union as f64), f64::from(found) / trials as f64);
            // Four standard errors, and a little because numbers of one signature are not quite independent.
            let most = 4.0 * (expected * (1.0 - expected) / trials as f64).sqrt() + 0.003;
            assert!((found - expected).abs() < most, "{shared} of {union}: {found}, formula {expected}");
        }
    }

    #[test]
    fn band_of_too_many_records_is_cut_to_the_newest_and_says_so() {
        let signature = MinHasher::new().sign(&[1, 2, 3]);
        let mut index = Lsh::new(4096);
        for _ in 0..STEPS {
            index.insert(&signature);
        }
        let mut hits = Vec::new();
        assert!(!index.find(&signature, &mut hits));
        assert_eq!(hits.len(), STEPS);
        index.insert(&signature);
        assert!(index.find(&signature, &mut hits));
        assert_eq!((hits.len(), hits[0]), (STEPS, Hit { number: 1, bands: BANDS as u32 }));
    }

    #[test]
    fn memory_is_bounded_by_the_window() {
        let signatures = signatures(&(0..50).map(|k| (k, k)).collect::<Vec<_>>());
        let mut index = Lsh::new(7);
        for signature in &signatures {
            index.insert(signature);
            assert!(index.chains.ring.len() <= 7);
        }
        assert_eq!(index.memory(), 7 * 168 + 8 * 84);
        assert_eq!(Lsh::new(1 << 20).memory(), 252 << 20);
        assert_eq!(Lsh::new(1_000_000).memory() >> 20, 244);
    }

    proptest! {
        #[test]
        fn index_finds_what_brute_force_finds(
            recipe in proptest::collection::vec(any::<(u8, u8)>(), 1..60), window in 1_u32..24,
        ) {
            let all = signatures(&recipe);
            let mut index = Lsh::new(window);
            for (count, signature) in all.iter().enumerate() {
                prop_assert_eq!(find(&mut index, signature), brute(&all[..count], window as usize, signature));
                prop_assert_eq!(index.insert(signature), count as u64);
            }
        }

        #[test]
        fn index_rebuilt_from_the_last_window_answers_as_the_one_never_interrupted(
            recipe in proptest::collection::vec(any::<(u8, u8)>(), 1..60), window in 1_u32..24, cut in 0_usize..60,
        ) {
            let all = signatures(&recipe);
            let cut = cut.min(all.len());
            let mut whole = Lsh::new(window);
            all.iter().for_each(|signature| { whole.insert(signature); });
            let first = cut.saturating_sub(window as usize);
            let mut rebuilt = Lsh::new(window);
            all[first..].iter().for_each(|signature| { rebuilt.insert(signature); });
            for signature in &all {
                let mut hits = find(&mut rebuilt, signature);
                hits.iter_mut().for_each(|hit| hit.number += first as u64);
                prop_assert_eq!(hits, find(&mut whole, signature));
            }
        }

        #[test]
        fn chains_pass_over_records_without_a_key(
            keys in proptest::collection::vec(proptest::option::of(0_u32..4), 0..80), window in 1_u32..12,
        ) {
            // Few keys in few buckets, so that places are reused in every way.
            let spread = |key: u32| key << 30;
            let mut chains = Chains::<1>::new(window);
            for (count, key) in keys.iter().enumerate() {
                let first = count.saturating_sub(window as usize);
                for wanted in 0..4 {
                    let mut found = Vec::new();
                    chains.walk(0, spread(wanted), |number| { found.push(number as usize); ControlFlow::Continue(()) });
                    let expected: Vec<usize> = (first..count).rev().filter(|k| keys[*k] == Some(wanted)).collect();
                    prop_assert_eq!(&found, &expected);
                }
                chains.insert([key.map(spread)]);
            }
        }
    }
}
