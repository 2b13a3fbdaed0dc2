//! Herding over all rows at once: the mean of the selection is as near to `mean` as any known method brings it,
//! and nothing else of the distribution is (its second moment is no better than that of a random sample).

use super::scan::{Quantised, Scratch};
use super::{Rows, add, rounded};

/// A herd that grows row by row.
#[derive(Debug)]
pub struct Herd<'a> {
    rows: Rows<'a>,
    quantised: Quantised,
    mean: Vec<f64>,
    /// w_t.
    weights: Vec<f64>,
    taken: Vec<bool>,
    query: Vec<f32>,
    scratch: Scratch,
}

impl<'a> Herd<'a> {
    /// Of rows whose mean is to be `mean`, a row at most once.
    #[must_use]
    pub fn new(rows: Rows<'a>, mean: &[f64]) -> Self {
        Self {
            rows,
            quantised: Quantised::new(rows),
            mean: mean.to_vec(),
            weights: mean.to_vec(),
            taken: vec![false; rows.len()],
            query: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// norm(w_t): the mean of the first t rows is off by at most (norm(w_t) + norm(mean)) / t. Of a good herd it
    /// stays bounded.
    #[must_use]
    pub fn health(&self) -> f64 {
        self.weights.iter().map(|weight| weight * weight).sum::<f64>().sqrt()
    }
}

impl Iterator for Herd<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        rounded(&self.weights, &mut self.query);
        let taken = &self.taken;
        let row = self.quantised.best(
            self.rows,
            &self.query,
            |row| taken.get(row) == Some(&false),
            &mut self.scratch,
        )?;
        if let Some(taken) = self.taken.get_mut(row) {
            *taken = true;
        }
        for (weight, mean) in self.weights.iter_mut().zip(&self.mean) {
            *weight += mean;
        }
        add(&mut self.weights, self.rows.get(row), -1.0);
        Some(row)
    }
}
