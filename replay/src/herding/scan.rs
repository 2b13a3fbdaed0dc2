//! The exact maximum of inner products in a quarter of the memory traffic: 8-bit rows with an error bound tell
//! which rows can be the best one, and only those are scored in full.
//!
//! With x = s q + e (q in -127..=127, e the rest) and w = u v + r (v integers): |<w, x> - s u <v, q>| is at most
//! norm(w) norm(e) + norm(r) s norm(q) (Cauchy-Schwarz, twice). <v, q> is an integer, so it has the same value
//! in any order of summation, on any processor.

use super::{Rows, Scored, dot};

/// Rows in 8 bits.
#[derive(Debug, Clone)]
pub(super) struct Quantised {
    width: usize,
    values: Vec<i8>,
    scales: Vec<RowScale>,
}

/// How a row was rounded.
#[derive(Debug, Clone, Copy)]
struct RowScale {
    /// s: 0 of a row of zeros.
    scale: f32,
    /// At least norm(e).
    error: f32,
    /// At least s norm(q).
    norm: f32,
}

/// A row or a weight that is not finite fits no bound.
const UNBOUNDED: f32 = f32::INFINITY;

/// Room for the rounding of the bounds themselves, relative.
const FUZZ: f64 = 1e-6;

/// Room for the rounding of a score, relative to the norms: far above the 2^-53 of each of its sums.
const ROUNDING: f64 = 1e-12;

impl Quantised {
    pub(super) fn new(rows: Rows<'_>) -> Self {
        let mut all =
            Self { width: rows.width(), values: Vec::new(), scales: Vec::with_capacity(rows.len()) };
        all.values.reserve(rows.len() * rows.width());
        rows.iter().for_each(|row| all.push(row));
        all
    }

    fn push(&mut self, row: &[f32]) {
        let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = largest / 127.0;
        let is_sound = scale.is_finite() && row.iter().all(|value| value.is_finite());
        let (mut error, mut norm) = (0.0_f64, 0.0_f64);
        for value in row {
            let q = if is_sound && scale > 0.0 { (value / scale).round().clamp(-127.0, 127.0) } else { 0.0 };
            let rounded = f64::from(scale) * f64::from(q);
            error += (f64::from(*value) - rounded).powi(2);
            norm += rounded.powi(2);
            self.values.push(q as i8);
        }
        let above = |square: f64| {
            if is_sound { (square.sqrt() * (1.0 + FUZZ)) as f32 + f32::MIN_POSITIVE } else { UNBOUNDED }
        };
        self.scales.push(RowScale { scale, error: above(error), norm: above(norm) });
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.scales.len()
    }

    /// The row with the largest inner product with `weights` among those that `is_open` admits; of equal ones
    /// the lowest. `rows` are the rows that this was made of.
    pub(super) fn best(
        &self,
        rows: Rows<'_>,
        weights: &[f32],
        is_open: impl Fn(usize) -> bool,
        scratch: &mut Scratch,
    ) -> Option<usize> {
        let query = Query::new(weights);
        scratch.integers.resize(self.len(), 0);
        products(&self.values, &query.values, self.width, &mut scratch.integers);
        scratch.candidates.clear();
        let mut lower = f64::NEG_INFINITY;
        for (row, (scale, integer)) in self.scales.iter().zip(&scratch.integers).enumerate() {
            let score = query.scale * f64::from(scale.scale) * f64::from(*integer);
            let slack = query.slack(*scale);
            // Not `score + slack < lower`: where a bound is NaN the row is scored.
            let is_below = score + slack < lower;
            if !is_below && is_open(row) {
                if score - slack > lower {
                    lower = score - slack;
                }
                scratch.candidates.push(Scored { score: score + slack, row });
            }
        }
        let mut best: Option<Scored> = None;
        for candidate in &scratch.candidates {
            if candidate.score < lower {
                continue;
            }
            let scored = Scored { score: dot(weights, rows.get(candidate.row)), row: candidate.row };
            if best.is_none_or(|best| scored.beats(best)) {
                best = Some(scored);
            }
        }
        best.map(|best| best.row)
    }
}

/// Memory that is used again by each scan.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    integers: Vec<i32>,
    /// Upper bounds.
    candidates: Vec<Scored>,
}

/// Weights in integers.
struct Query {
    values: Vec<i16>,
    scale: f64,
    /// At least norm(w).
    norm: f64,
    /// At least norm(r).
    error: f64,
}

impl Query {
    fn new(weights: &[f32]) -> Self {
        // No sum of width products of 127 overflows 31 bits.
        let most =
            (i32::MAX / 127 / i32::try_from(weights.len().max(1)).unwrap_or(i32::MAX)).clamp(1, 32_767);
        let largest = weights.iter().fold(0.0_f64, |largest, value| largest.max(f64::from(*value).abs()));
        let is_sound = largest.is_finite() && weights.iter().all(|value| value.is_finite());
        let scale = if is_sound && largest > 0.0 { largest / f64::from(most) } else { 0.0 };
        let (mut norm, mut error) = (0.0, 0.0);
        let values = weights
            .iter()
            .map(|value| {
                let exact = f64::from(*value);
                let v = if scale > 0.0 {
                    (exact / scale).round().clamp(-f64::from(most), f64::from(most))
                } else {
                    0.0
                };
                norm += exact * exact;
                error += (exact - scale * v).powi(2);
                v as i16
            })
            .collect();
        let above = |square: f64| if is_sound { square.sqrt() * (1.0 + FUZZ) } else { f64::INFINITY };
        Self { values, scale, norm: above(norm), error: above(error) }
    }

    fn slack(&self, row: RowScale) -> f64 {
        let bound = self.norm * f64::from(row.error) + self.error * f64::from(row.norm);
        // The score that is compared in the end is rounded, too.
        let size = self.norm * (f64::from(row.norm) + f64::from(row.error));
        bound * (1.0 + FUZZ) + size * ROUNDING
    }
}

/// The inner product of `query` with each row of `values`.
fn products(values: &[i8], query: &[i16], width: usize, into: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has what the function is compiled for.
            #[expect(unsafe_code, reason = "a call for a processor that was asked for")]
            return unsafe { products_avx512(values, query, width, into) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            #[expect(unsafe_code, reason = "a call for a processor that was asked for")]
            return unsafe { products_avx2(values, query, width, into) };
        }
    }
    products_of_any(values, query, width, into);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bw,avx512vl")]
fn products_avx512(values: &[i8], query: &[i16], width: usize, into: &mut [i32]) {
    products_of_any(values, query, width, into);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn products_avx2(values: &[i8], query: &[i16], width: usize, into: &mut [i32]) {
    products_of_any(values, query, width, into);
}

#[inline(always)]
fn products_of_any(values: &[i8], query: &[i16], width: usize, into: &mut [i32]) {
    for (row, product) in values.chunks_exact(width.max(1)).zip(into) {
        *product = row.iter().zip(query).map(|(q, v)| i32::from(i16::from(*q)) * i32::from(*v)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn products_are_the_same_on_every_path(values in proptest::collection::vec(-127_i8..=127, 0..400), width in 1_usize..40, seed: i16) {
            let query: Vec<i16> = (0..width).map(|k| seed.wrapping_mul(k as i16 + 3)).collect();
            let rows = values.len() / width;
            let (mut fast, mut plain) = (vec![0; rows], vec![0; rows]);
            products(&values, &query, width, &mut fast);
            products_of_any(&values, &query, width, &mut plain);
            prop_assert_eq!(fast, plain);
        }
    }
}
