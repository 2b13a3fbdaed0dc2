//! Where a score stands among the last ones.
//!
//! The percentile of a score is (those below it + half of those equal to it) / all, over the last
//! scores of a window, itself included: above 0 and below 1, one half for the first score and for one like all
//! others. Scores of different scales become comparable so, without a guess at their distribution.
//!
//! Rebuilding: [`Percentile::push`] the stored scores in order, all or the last window.

use std::collections::VecDeque;

/// Scores of the default window.
pub const WINDOW: usize = 4096;

/// The last scores.
#[derive(Debug, Clone)]
pub struct Percentile {
    window: usize,
    order: VecDeque<f32>,
    /// The same, ascending.
    sorted: Vec<f32>,
}

impl Default for Percentile {
    fn default() -> Self {
        Self::new(WINDOW)
    }
}

impl Percentile {
    /// One without scores yet, for the last `window`, at least one.
    #[must_use]
    pub fn new(window: usize) -> Self {
        Self { window: window.max(1), order: VecDeque::new(), sorted: Vec::new() }
    }

    /// Scores that it holds at most.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.window
    }

    /// Adds the next score, in place of the oldest if the window is full, and returns its percentile.
    /// NaN ranks above all others.
    pub fn push(&mut self, score: f32) -> f32 {
        // One zero, one NaN: the order below tells their bits apart.
        let score = if score.is_nan() { f32::NAN } else { score + 0.0 };
        if self.order.len() == self.window
            && let Some(oldest) = self.order.pop_front()
        {
            self.sorted.remove(self.below(oldest));
        }
        let below = self.below(score);
        self.sorted.insert(below, score);
        self.order.push_back(score);
        let equal = self.sorted.partition_point(|other| other.total_cmp(&score).is_le()) - below;
        ((below as f64 + equal as f64 / 2.0) / self.sorted.len() as f64) as f32
    }

    /// Adds stored scores, given from the newest to the oldest; those before the window are left out.
    pub fn resume(&mut self, newest_first: &[f32]) {
        let newest = newest_first.get(..self.window).unwrap_or(newest_first);
        newest.iter().rev().for_each(|score| {
            self.push(*score);
        });
    }

    /// How many are below `score`.
    fn below(&self, score: f32) -> usize {
        self.sorted.partition_point(|other| other.total_cmp(&score).is_lt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_take_the_middle_rank() {
        let mut percentile = Percentile::new(4);
        let expected =
            [(0.5, 0.5), (0.5, 0.5), (0.9, 5.0 / 6.0), (0.1, 0.125), (0.5, 0.5), (-0.0, 0.125), (0.0, 0.25)];
        for (score, rank) in expected {
            assert_eq!(percentile.push(score), rank as f32, "{score}");
        }
    }

    #[test]
    fn nan_ranks_above_all() {
        let mut percentile = Percentile::new(3);
        assert_eq!(percentile.push(f32::INFINITY), 0.5);
        assert_eq!(percentile.push(-f32::NAN), 0.75);
        assert_eq!(percentile.push(f32::NAN), (4.0_f64 / 6.0) as f32);
        assert_eq!(percentile.push(1.0), (0.5_f64 / 3.0) as f32);
    }

    proptest! {
        #[test]
        fn percentile_is_that_of_its_definition(
            scores in proptest::collection::vec(prop_oneof![(0_u8..6).prop_map(f32::from), any::<f32>()], 1..60),
            window in 1_usize..20,
        ) {
            let mut percentile = Percentile::new(window);
            for (index, score) in scores.iter().enumerate() {
                let last = &scores[(index + 1).saturating_sub(window)..=index];
                let key = |x: f32| if x.is_nan() { f64::MAX } else { f64::from(x) };
                let below = last.iter().filter(|other| key(**other) < key(*score)).count() as f64;
                let equal = last.iter().filter(|other| key(**other) == key(*score)).count() as f64;
                let rank = percentile.push(*score);
                prop_assert_eq!(rank, ((below + equal / 2.0) / last.len() as f64) as f32);
                prop_assert!(rank > 0.0 && rank < 1.0);
                prop_assert!(percentile.order.len() <= window);
            }
        }

        #[test]
        fn window_rebuilt_from_the_last_scores_ranks_as_that_never_interrupted(
            scores in proptest::collection::vec(0_u8..9, 0..60), window in 1_usize..20, next in 0_u8..9,
        ) {
            let mut whole = Percentile::new(window);
            scores.iter().for_each(|score| { whole.push(f32::from(*score)); });
            let mut rebuilt = Percentile::new(window);
            let newest_first: Vec<f32> = scores.iter().rev().map(|score| f32::from(*score)).collect();
            rebuilt.resume(&newest_first);
            prop_assert_eq!(rebuilt.push(f32::from(next)), whole.push(f32::from(next)));
        }
    }
}
