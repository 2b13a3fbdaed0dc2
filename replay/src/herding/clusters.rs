//! Spherical k-means (Dhillon, Modha 2001), to divide rows into clusters of similar directions.
//!
//! The first centres are rows at equal distances in their order, so nothing is random, and where there are many
//! rows there are many centres: clusters of about equal size, which stratified herding costs the least with. A row
//! belongs to the centre with the largest inner product, of equal ones to the first.

use super::{Rows, Scored, add, dot};

/// Centres of clusters, unit vectors one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clusters {
    centres: Vec<f32>,
    width: usize,
}

impl Clusters {
    /// From centres that were saved.
    #[must_use]
    pub const fn of(centres: Vec<f32>, width: usize) -> Self {
        Self { centres, width }
    }

    /// At most `count` clusters of these rows, after `rounds` rounds.
    #[must_use]
    pub fn fit(rows: Rows<'_>, count: usize, rounds: usize) -> Self {
        let mut clusters = Self::spread(rows, count.min(rows.len()));
        for _ in 0..rounds {
            let before = clusters.centres.clone();
            clusters.move_to_means(rows);
            if clusters.centres == before {
                break;
            }
        }
        clusters
    }

    /// Rows at equal distances as the first centres.
    fn spread(rows: Rows<'_>, count: usize) -> Self {
        let at = |number: usize| rows.get(number * rows.len() / count.max(1));
        Self { centres: (0..count).flat_map(at).copied().collect(), width: rows.width() }
    }

    fn move_to_means(&mut self, rows: Rows<'_>) {
        let mut sums = vec![vec![0.0_f64; self.width]; self.len()];
        for row in rows.iter() {
            if let Some(sum) = self.nearest(row).and_then(|cluster| sums.get_mut(cluster)) {
                add(sum, row, 1.0);
            }
        }
        for (centre, sum) in self.centres.chunks_exact_mut(self.width.max(1)).zip(&sums) {
            let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
            // Of a cluster without rows the centre stays.
            if norm > 0.0 {
                centre.iter_mut().zip(sum).for_each(|(centre, sum)| *centre = (sum / norm) as f32);
            }
        }
    }

    /// Number of clusters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows().len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The centres.
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        Rows::new(&self.centres, self.width)
    }

    /// The cluster of a row.
    #[must_use]
    pub fn nearest(&self, row: &[f32]) -> Option<usize> {
        let scored =
            self.rows().iter().enumerate().map(|(at, centre)| Scored { score: dot(centre, row), row: at });
        scored.reduce(|best, next| if next.beats(best) { next } else { best }).map(|best| best.row)
    }
}
