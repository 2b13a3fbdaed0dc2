//! The embedder `hashed`: a text as a unit vector of 128 numbers, from its words and characters alone.
//!
//! ```text
//! words, character 3-grams ─> buckets ─> tf-idf weights ─> signed sparse projection ─> unit vector
//! ```
//! - **Features.** The hashes of the words that shingles are made of, in 2^18 buckets; and the 3-grams of the
//!   first 512 bytes (lower case, runs of ASCII punctuation and white space as one blank), in 2^13 buckets:
//!   they tell scripts and languages apart where words are few, and more of them adds time and no
//!   information. Feature hashing: Weinberger et al. 2009.
//! - **Weights.** A feature that a text has t times weighs (1 + ln t) sqrt(ln((N + 8) / (n + 8))), at least
//!   0.05 (1 + ln t): of N records n have it, both counted over the eight periods before this one with
//!   weights that fall linearly, 8/8 to 1/8 (Salton, Buckley 1988; the square root keeps frequent words,
//!   which tell languages and registers apart). In the first period all weights of idf are 1.
//! - **Projection.** Each feature adds its weight, with a sign, to 4 of the 128 places, all given by a hash of
//!   its bucket: cosines are kept up to an error of standard deviation about 1 / sqrt(128) (Achlioptas 2003;
//!   Kane, Nelson 2014). Words and 3-grams are each brought to length 1 and added with the shares 0.95 and
//!   0.05 of the squared length.
//!
//! # Causal, and the same again
//! Weights are learnt from the stream, from earlier records only. They stand still for a *period*: 64 KiB of
//! text at first, each twice the one before up to 4 MiB. So all records of a period are embedded in
//! parallel, and the period of a record, which the store has in `embedder_period`, says which weights made
//! its vector. Only IEEE additions, multiplications, divisions and square roots are used, in a fixed order: the
//! same stream gives the same bits on every machine and any number of threads.
//!
//! # State
//! The counts of nine periods, 1 MiB each, and the weights: 11 MiB, with 0.5 MiB a thread. Rebuilt from the
//! texts of the last nine periods ([`Embedder::recall`]): at most 36 MiB of text and a record.

use std::cell::RefCell;
use std::collections::BTreeMap;

use perennial_schemas::table::column::{pack_f16, unpack_f16};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::super::Record;

/// Numbers of a vector.
pub const DIMENSIONS: usize = 128;

/// Periods before the present one that the weights are learnt from.
pub const PERIODS: i64 = 8;

const WORD_BITS: u32 = 18;
const GRAM_BITS: u32 = 13;
const WORD_BUCKETS: usize = 1 << WORD_BITS;
const BUCKETS: usize = WORD_BUCKETS + (1 << GRAM_BITS);
/// Bytes of a text that 3-grams are taken of.
const GRAM_TEXT: usize = 512;
/// Share of the 3-grams in the squared length of a vector.
const GRAM_SHARE: f32 = 0.05;
/// The least weight, so that a text has a vector though all its features are in every record.
const LEAST_WEIGHT: f32 = 0.05;
/// The rules above: a change of any is another embedder.
const RULES: &str =
    "words 2^18, 3-grams 2^13 of 512 bytes at 0.05, 4 of 128 places, (1 + ln t) sqrt(ln idf), 8 periods";

/// A unit vector.
pub type Vector = [f32; DIMENSIONS];

/// How long periods are, in bytes of normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodSizes {
    /// The first; each is twice the one before.
    pub first: u64,
    /// The longest.
    pub longest: u64,
    /// A shorter record counts as this number of bytes, which bounds the records of a period.
    pub record: u64,
}

impl Default for PeriodSizes {
    fn default() -> Self {
        Self { first: 64 << 10, longest: 4 << 20, record: 256 }
    }
}

impl PeriodSizes {
    fn of(self, period: i64) -> u64 {
        let doublings = u32::try_from(period.clamp(0, 32)).unwrap_or(0);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }

    /// What a record adds to its period.
    #[must_use]
    pub fn charge(self, length: u64) -> u64 {
        length.max(self.record)
    }
}

/// A record's vector, and what it was made of.
#[derive(Debug, Clone, Default)]
pub struct Embedded {
    /// The period whose weights made it.
    pub period: i64,
    /// The vector, as the store has it: every number is a half-precision one. `None` for a text without
    /// features, or whose features cancel out.
    pub vector: Option<Vector>,
    features: Vec<u32>,
}

/// How many records of one period have each feature.
#[derive(Debug)]
struct Counts {
    records: u32,
    features: Vec<u32>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { records: 0, features: vec![0; BUCKETS] }
    }
}

impl Counts {
    fn add(&mut self, features: &[u32]) {
        self.records += 1;
        for feature in features {
            if let Some(count) = self.features.get_mut(*feature as usize) {
                *count += 1;
            }
        }
    }
}

/// Makes vectors, and learns the weights of features.
#[derive(Debug)]
pub struct Embedder {
    sizes: PeriodSizes,
    name: String,
    period: i64,
    /// Bytes that the period has had.
    charged: u64,
    /// By period, the present one and at most [`PERIODS`] before it.
    counts: BTreeMap<i64, Counts>,
    /// The weight of each feature that occurs once, in this period.
    weights: Vec<f32>,
}

impl Embedder {
    /// One that has learnt nothing.
    #[must_use]
    pub fn new(sizes: PeriodSizes) -> Self {
        let name = format!("hashed/{:016x}", xxh3_64(format!("{RULES}, {sizes:?}").as_bytes()));
        let counts = BTreeMap::from([(0, Counts::default())]);
        Self { sizes, name, period: 0, charged: 0, counts, weights: vec![1.0; BUCKETS] }
    }

    /// Its name and a hash of its rules, as the column `embedder` has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long its periods are.
    #[must_use]
    pub const fn sizes(&self) -> PeriodSizes {
        self.sizes
    }

    /// Embeds `records`, one after the other as to what is learnt, in place of what `embedded` held.
    pub fn embed(&mut self, records: &[Record<'_>], embedded: &mut Vec<Embedded>) {
        embedded.resize_with(records.len(), Embedded::default);
        let (mut records, mut embedded) = (records, embedded.as_mut_slice());
        while !records.is_empty() {
            if self.charged >= self.sizes.of(self.period) {
                self.next_period();
            }
            let run = self.charge(records);
            let (now, later) = records.split_at(run);
            let (made, rest) = embedded.split_at_mut(run);
            let (period, weights) = (self.period, &self.weights);
            now.par_iter().zip(made.par_iter_mut()).with_min_len(8).for_each(|(record, made)| {
                made.period = period;
                made.vector = vector(record.text, &record.sketch.words, weights, &mut made.features);
            });
            let counts = self.counts.entry(period).or_default();
            made.iter().for_each(|made| counts.add(&made.features));
            (records, embedded) = (later, rest);
        }
    }

    /// How many of `records`, at least one, are of this period.
    fn charge(&mut self, records: &[Record<'_>]) -> usize {
        let size = self.sizes.of(self.period);
        let mut run = 0;
        for record in records {
            if self.charged >= size {
                break;
            }
            self.charged = self.charged.saturating_add(self.sizes.charge(record.length));
            run += 1;
        }
        run
    }

    fn next_period(&mut self) {
        self.period += 1;
        self.charged = 0;
        self.counts.insert(self.period, Counts::default());
        self.weigh();
    }

    /// Computes the weights of the present period.
    fn weigh(&mut self) {
        self.counts.retain(|period, _| (self.period - PERIODS..=self.period).contains(period));
        let (mut records, mut features) = (0_u64, vec![0_u32; BUCKETS]);
        for (period, counts) in self.counts.range(..self.period) {
            let weight = (PERIODS + 1 - (self.period - period)) as u32;
            records += u64::from(weight) * u64::from(counts.records);
            for (sum, count) in features.iter_mut().zip(&counts.features) {
                *sum = sum.saturating_add(weight.saturating_mul(*count));
            }
        }
        let all = records as f32 + PERIODS as f32;
        let never = weight(all, 0);
        for (weight_of, count) in self.weights.iter_mut().zip(features) {
            *weight_of = match (records, count) {
                (0, _) => 1.0,
                (_, 0) => never,
                (_, count) => weight(all, count),
            };
        }
    }

    /// Counts the features of a stored record again: one of the periods that [`Embedder::resume`] goes on from.
    pub fn recall(&mut self, period: i64, text: &str, words: &[u64]) {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut features = std::mem::take(&mut scratch.recalled);
            features.clear();
            scratch.words(words, &mut features);
            scratch.grams(text, &mut features);
            scratch.clear(&features);
            self.counts.entry(period).or_default().add(&features);
            scratch.recalled = features;
        });
    }

    /// Goes on in `period`, which has had `charged` bytes, from what was recalled.
    pub fn resume(&mut self, period: i64, charged: u64) {
        (self.period, self.charged) = (period, charged);
        self.counts.entry(period).or_default();
        self.weigh();
    }
}

/// The weight of a feature that `count` of `all` weighted records have, 8 added to both.
fn weight(all: f32, count: u32) -> f32 {
    ln(all / (count as f32 + PERIODS as f32)).max(0.0).sqrt().max(LEAST_WEIGHT)
}

/// The natural logarithm of a number of at least 1, with an error below 2e-5: the same bits everywhere, which the
/// standard library does not promise of its own.
fn ln(x: f32) -> f32 {
    let bits = x.max(1.0).to_bits();
    let exponent = (bits >> 23) as f32 - 127.0;
    let mantissa = f32::from_bits((bits & 0x7F_FFFF) | 0x3F80_0000);
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let series = 1.0 + square * (1.0 / 3.0 + square * (0.2 + square * (1.0 / 7.0)));
    exponent * std::f32::consts::LN_2 + 2.0 * z * series
}

/// Counts of one text's features; all zero between texts.
#[derive(Debug)]
struct Scratch {
    times: Vec<u16>,
    recalled: Vec<u32>,
}

thread_local! {
    // A thread's buffer, so that no text allocates one; nothing of a text stays in it.
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { times: vec![0; BUCKETS], recalled: Vec::new() });
}

impl Scratch {
    fn add(&mut self, bucket: usize, features: &mut Vec<u32>) {
        if let Some(times) = self.times.get_mut(bucket) {
            if *times == 0 {
                features.push(bucket as u32);
            }
            *times = times.saturating_add(1);
        }
    }

    /// Appends the buckets of the words, each once, in the order in which they first occur.
    fn words(&mut self, words: &[u64], features: &mut Vec<u32>) {
        for word in words {
            self.add((word >> (64 - WORD_BITS)) as usize, features);
        }
    }

    /// Appends the buckets of the 3-grams of the first bytes.
    fn grams(&mut self, text: &str, features: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let mut gram = 0x0020_2020_u64;
        for byte in bytes.get(..GRAM_TEXT).unwrap_or(bytes) {
            let byte = match byte {
                b if b.is_ascii_alphanumeric() || !b.is_ascii() => b.to_ascii_lowercase(),
                _ => b' ',
            };
            if byte == b' ' && gram & 0xFF == u64::from(b' ') {
                continue;
            }
            gram = ((gram << 8) | u64::from(byte)) & 0xFF_FFFF;
            self.add(WORD_BUCKETS + (mix(gram) >> (64 - GRAM_BITS)) as usize, features);
        }
    }

    fn clear(&mut self, features: &[u32]) {
        for feature in features {
            if let Some(times) = self.times.get_mut(*feature as usize) {
                *times = 0;
            }
        }
    }

    /// The weighted features, projected and brought to length 1.
    fn project(&self, features: &[u32], weights: &[f32]) -> Option<Vector> {
        let mut sum = [0.0; DIMENSIONS];
        for feature in features {
            let bucket = *feature as usize;
            let (Some(times), Some(weight)) = (self.times.get(bucket), weights.get(bucket)) else { continue };
            let value = weight * if *times == 1 { 1.0 } else { 1.0 + ln(f32::from(*times)) };
            // A place and a sign from each of four bytes.
            for byte in (mix(u64::from(*feature)) as u32).to_le_bytes() {
                if let Some(place) = sum.get_mut(usize::from(byte & 127)) {
                    *place += if byte < 128 { value } else { -value };
                }
            }
        }
        unit(sum)
    }
}

/// The vector of a text, and its features in place of what `features` held.
fn vector(text: &str, words: &[u64], weights: &[f32], features: &mut Vec<u32>) -> Option<Vector> {
    SCRATCH.with_borrow_mut(|scratch| {
        features.clear();
        scratch.words(words, features);
        let count = features.len();
        scratch.grams(text, features);
        let (words, grams) = features.split_at(count);
        let parts = [(words, 1.0 - GRAM_SHARE), (grams, GRAM_SHARE)];
        let mut sum = [0.0; DIMENSIONS];
        for (part, share) in parts {
            let Some(vector) = scratch.project(part, weights) else { continue };
            let length = f32::sqrt(share);
            sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += length * value);
        }
        scratch.clear(features);
        unit(sum).map(rounded)
    })
}

/// The vector of length 1 in this direction; `None` for no direction.
fn unit(mut vector: Vector) -> Option<Vector> {
    let length = dot(&vector, &vector).sqrt();
    (length > 1e-12).then(|| {
        vector.iter_mut().for_each(|value| *value /= length);
        vector
    })
}

/// As the store has it: half precision.
fn rounded(vector: Vector) -> Vector {
    from_blob(&to_blob(&vector)).unwrap_or(vector)
}

/// The column `embedding` of a vector.
#[must_use]
pub fn to_blob(vector: &Vector) -> [u8; 2 * DIMENSIONS] {
    let mut blob = [0; 2 * DIMENSIONS];
    pack_f16(vector, &mut blob);
    blob
}

/// The vector of a column `embedding`; `None` where it has another length.
#[must_use]
pub fn from_blob(blob: &[u8]) -> Option<Vector> {
    let mut vector = [0.0; DIMENSIONS];
    (blob.len() == 2 * DIMENSIONS).then(|| {
        vector.iter_mut().zip(unpack_f16(blob)).for_each(|(to, value)| *to = value);
        vector
    })
}

/// The inner product, in 16 running sums that are added from the first to the last: the order is fixed, so that
/// the result is the same on every machine, and the compiler can use wide registers.
#[must_use]
pub fn dot(a: &Vector, b: &Vector) -> f32 {
    let mut sums = [0.0_f32; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

/// A bijection of 64 bits whose every output bit depends on every input bit (Stafford's variant 13 of the finaliser
/// of MurmurHash3).
const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
