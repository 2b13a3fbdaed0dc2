//! Herding cluster by cluster: each cluster has a quota by its mass, and inside it the next row is the one that
//! serves the mean of all and the mean of the cluster best.
//!
//! ```text
//! next cluster   largest share * (t + 1) - rows selected of it
//! next row       argmax <w + lambda w_c, x>;  w += mu - x;  w_c += mu_c - x
//! ```
//!
//! Global herding matches the mean of all rows and nothing else. This gives up a part of that, matches the second
//! moment better than a random sample, and looks at the rows of one cluster only: 1/k of the work.

use super::{Rows, Scored, add, dot, rounded};

/// What is to be matched.
#[derive(Debug, Clone)]
pub struct Target {
    /// The mean of all rows.
    pub mean: Vec<f64>,
    /// Each cluster.
    pub clusters: Vec<ClusterTarget>,
    /// How much the mean of a cluster counts beside that of all: 0.3 for the mean, 1 for the second moment.
    pub lambda: f64,
}

/// What is to be matched of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterTarget {
    /// Its part of all rows, 0 to 1.
    pub share: f64,
    /// The mean of its rows.
    pub mean: Vec<f64>,
}

impl Target {
    /// Of rows, of which `cluster_of` says the cluster.
    #[must_use]
    pub fn of(rows: Rows<'_>, cluster_of: &[usize], clusters: usize, lambda: f64) -> Self {
        let empty = ClusterTarget { share: 0.0, mean: vec![0.0; rows.width()] };
        let mut all = vec![empty; clusters];
        for (row, cluster) in rows.iter().zip(cluster_of) {
            if let Some(cluster) = all.get_mut(*cluster) {
                cluster.share += 1.0;
                add(&mut cluster.mean, row, 1.0);
            }
        }
        let total = rows.len().max(1) as f64;
        for cluster in &mut all {
            let count = cluster.share.max(1.0);
            cluster.mean.iter_mut().for_each(|value| *value /= count);
            cluster.share /= total;
        }
        Self { mean: rows.mean(), clusters: all, lambda }
    }
}

/// A herd that grows row by row.
#[derive(Debug)]
pub struct StratifiedHerd<'a> {
    rows: Rows<'a>,
    target: Target,
    /// w.
    weights: Vec<f64>,
    strata: Vec<Stratum>,
    selected: u64,
    query: Vec<f32>,
    /// Inner products that were computed.
    products: u64,
}

#[derive(Debug)]
struct Stratum {
    /// Its rows that are not selected.
    open: Vec<usize>,
    selected: u64,
    /// w_c.
    weights: Vec<f64>,
}

impl<'a> StratifiedHerd<'a> {
    /// Of rows, of which `cluster_of` says the cluster; a row at most once.
    #[must_use]
    pub fn new(rows: Rows<'a>, cluster_of: &[usize], target: Target) -> Self {
        let stratum = |cluster: &ClusterTarget| Stratum {
            open: Vec::new(),
            selected: 0,
            weights: cluster.mean.clone(),
        };
        let mut strata: Vec<Stratum> = target.clusters.iter().map(stratum).collect();
        for (row, cluster) in cluster_of.iter().enumerate().take(rows.len()) {
            if let Some(stratum) = strata.get_mut(*cluster) {
                stratum.open.push(row);
            }
        }
        let weights = target.mean.clone();
        Self { rows, target, weights, strata, selected: 0, query: Vec::new(), products: 0 }
    }

    /// Inner products that were computed so far.
    #[must_use]
    pub const fn products(&self) -> u64 {
        self.products
    }

    /// The cluster whose quota is the least filled, among those that have rows.
    fn next_cluster(&self) -> Option<usize> {
        let due = |(at, (stratum, cluster)): (usize, (&Stratum, &ClusterTarget))| {
            let score = cluster.share * (self.selected + 1) as f64 - stratum.selected as f64;
            (!stratum.open.is_empty()).then_some(Scored { score, row: at })
        };
        let all = self.strata.iter().zip(&self.target.clusters).enumerate().filter_map(due);
        all.reduce(|best, next| if next.beats(best) { next } else { best }).map(|best| best.row)
    }
}

impl Iterator for StratifiedHerd<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let cluster = self.next_cluster()?;
        let (stratum, target) = (self.strata.get_mut(cluster)?, self.target.clusters.get(cluster)?);
        let lambda = self.target.lambda;
        let sum: Vec<f64> =
            self.weights.iter().zip(&stratum.weights).map(|(all, own)| all + lambda * own).collect();
        rounded(&sum, &mut self.query);
        self.products += stratum.open.len() as u64;
        let scored =
            stratum.open.iter().map(|row| Scored { score: dot(&self.query, self.rows.get(*row)), row: *row });
        let best = scored.reduce(|best, next| if next.beats(best) { next } else { best })?;
        // The order of the open rows does not matter: of equal scores the lowest row is taken.
        let at = stratum.open.iter().position(|row| *row == best.row)?;
        stratum.open.swap_remove(at);
        stratum.selected += 1;
        self.selected += 1;
        let row = self.rows.get(best.row);
        for (weights, mean) in [(&mut self.weights, &self.target.mean), (&mut stratum.weights, &target.mean)]
        {
            weights.iter_mut().zip(mean).for_each(|(weight, mean)| *weight += mean);
            add(weights, row, -1.0);
        }
        Some(best.row)
    }
}
