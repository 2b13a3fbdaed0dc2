//! A fixed share of rows for each buffer.
//!
//! With the sum r of all shares, row k of a job is replayed iff floor((k+1)r) > floor(kr): the first n rows
//! have floor(nr) replayed ones, for every n. The buffer of a replayed row is chosen in the same way, buffer
//! by buffer in the order of their names: the first gets the share r1/r of the replayed rows, the second
//! r2/(r-r1) of the remaining ones, and so on. So of the first n rows every buffer has n times its share, to
//! within one row for each buffer.
//!
//! Shares are integers in billionths, and all computations are in integers: row 10^15 is as exact as row 0.

use std::collections::BTreeMap;

use perennial_program::config::Share;
use perennial_schemas::wire::WHOLE;

/// The shares of all buffers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mix {
    /// Billionths of all rows, by buffer; each above 0, their sum at most 10^9.
    shares: BTreeMap<String, u64>,
}

/// Shares with a sum above 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the shares of all buffers add up to {0}, which is more than 1")]
pub struct MixError(f64);

/// A share in billionths.
#[must_use]
pub fn billionths(share: Share) -> u64 {
    (share.get() * WHOLE as f64).round() as u64
}

impl Mix {
    /// These shares, each rounded to a billionth.
    ///
    /// # Errors
    /// [`MixError`] if their sum is above 1.
    pub fn new(shares: impl IntoIterator<Item = (String, Share)>) -> Result<Self, MixError> {
        let shares = shares.into_iter().map(|(name, share)| (name, billionths(share)));
        let mix = Self { shares: shares.filter(|(_, share)| *share > 0).collect() };
        let total = mix.total();
        if total > WHOLE { Err(MixError(total as f64 / WHOLE as f64)) } else { Ok(mix) }
    }

    /// The mix of a ticket.
    ///
    /// # Errors
    /// As [`Mix::new`].
    pub fn of(shares: &BTreeMap<String, u64>) -> Result<Self, MixError> {
        let mix = Self { shares: shares.clone() };
        let total = mix.total();
        if total > WHOLE { Err(MixError(total as f64 / WHOLE as f64)) } else { Ok(mix) }
    }

    /// The shares in billionths.
    #[must_use]
    pub const fn shares(&self) -> &BTreeMap<String, u64> {
        &self.shares
    }

    fn total(&self) -> u64 {
        self.shares.values().fold(0, |sum, share| sum.saturating_add(*share))
    }

    /// The buffers that have a share, in order.
    pub fn buffers(&self) -> impl Iterator<Item = &str> {
        self.shares.keys().map(String::as_str)
    }

    /// The share of rows that are replayed, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.total() as f64 / WHOLE as f64
    }

    /// The buffer that row `row` of a job is drawn from; `None` for new text.
    ///
    /// If that buffer is empty, [`batch`](crate::batch) fills the row with new text; no other row compensates
    /// for it.
    #[must_use]
    pub fn buffer(&self, row: u64) -> Option<&str> {
        let mut remaining = self.total();
        // The row's index among the rows of the remaining buffers.
        let mut index = index_if_taken(row, remaining, WHOLE)?;
        for (name, share) in &self.shares {
            match index_if_taken(index, *share, remaining) {
                Some(_) => return Some(name),
                None => index -= count(index, *share, remaining),
            }
            remaining -= share;
        }
        None
    }
}

/// floor(k * share / whole).
fn count(k: u64, share: u64, whole: u64) -> u64 {
    // At most k, as no share is above the whole.
    (u128::from(k) * u128::from(share)).checked_div(u128::from(whole)).map_or(0, |count| count as u64)
}

/// The number of rows taken before row `k`, if row `k` is taken: iff floor((k+1)r) > floor(kr).
fn index_if_taken(k: u64, share: u64, whole: u64) -> Option<u64> {
    let before = count(k, share, whole);
    (count(k.saturating_add(1), share, whole) > before).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mix(shares: &[f64]) -> Mix {
        let name = |index: usize| char::from(b'a' + u8::try_from(index).unwrap()).to_string();
        Mix::new(shares.iter().enumerate().map(|(index, share)| (name(index), Share::new(*share).unwrap())))
            .unwrap()
    }

    #[test]
    fn row_is_replayed_where_the_share_passes_a_whole_number() {
        let rows = |share: f64, n: u64| {
            (0..n).filter(|row| mix(&[share]).buffer(*row).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(rows(0.0, 50), Vec::<u64>::new());
        assert_eq!(rows(0.1, 30), [9, 19, 29]);
        assert_eq!(rows(0.25, 9), [3, 7]);
        assert_eq!(rows(0.4, 10), [2, 4, 7, 9]);
        assert_eq!(rows(1.0, 4), [0, 1, 2, 3]);
    }

    proptest! {
        #[test]
        fn one_buffer_has_exactly_its_share_of_any_first_rows(parts in 0_u64..=WHOLE, from in 0_u64..1 << 60, n in 0_u64..300) {
            let mix = mix(&[parts as f64 / WHOLE as f64]);
            let taken = (from..from + n).filter(|row| mix.buffer(*row).is_some()).count() as u128;
            let upto = |row: u64| u128::from(row) * u128::from(parts) / u128::from(WHOLE);
            prop_assert_eq!(taken, upto(from + n) - upto(from));
        }

        #[test]
        fn every_buffer_has_its_share_to_within_a_row_for_each(
            weights in proptest::collection::vec(0_u32..100, 1..5), rest in 0_u32..200, n in 1_u64..2_000,
        ) {
            let sum = f64::from(weights.iter().sum::<u32>() + rest).max(1.0);
            let shares: Vec<f64> = weights.iter().map(|weight| f64::from(*weight) / sum).collect();
            // Rounding to billionths may carry a sum of 1 above it.
            let shares: Vec<f64> = shares.iter().map(|share| (share * 1e6).floor() / 1e6).collect();
            let mix = mix(&shares);
            let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
            for row in 0..n {
                if let Some(buffer) = mix.buffer(row) {
                    *counts.entry(buffer).or_default() += 1.0;
                }
            }
            prop_assert_eq!(counts.values().sum::<f64>() as u64, count(n, mix.total(), WHOLE));
            for (name, share) in ["a", "b", "c", "d"].into_iter().zip(&shares) {
                let taken = counts.get(name).copied().unwrap_or(0.0);
                let due = n as f64 * share;
                prop_assert!((taken - due).abs() <= shares.len() as f64, "{} {} {}", name, taken, due);
            }
        }
    }

    #[test]
    fn last_rows_a_job_can_have_do_not_overflow() {
        let mix = mix(&[0.3, 0.7]);
        assert!((u64::MAX - 10..u64::MAX).all(|row| mix.buffer(row).is_some()));
        assert_eq!(mix.buffer(u64::MAX), None);
    }

    #[test]
    fn shares_above_one_are_refused() {
        let shares = [("a".to_owned(), Share::new(0.6).unwrap()), ("b".to_owned(), Share::new(0.5).unwrap())];
        assert_eq!(
            Mix::new(shares).unwrap_err().to_string(),
            "the shares of all buffers add up to 1.1, which is more than 1"
        );
    }
}
