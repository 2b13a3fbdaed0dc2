//! The cross-entropy of the next token, and what it was where.

use std::ops::Add;

use tch::{Reduction, Tensor};

use crate::feed::Sheet;

/// The loss of a batch, on the device.
#[derive(Debug)]
pub struct NextToken {
    /// sum(w * nll) / total: a scalar with a graph, in nats per prediction.
    pub mean: Tensor,
    /// Each token's -ln p(target), f32 `[tokens]`, without a graph; also where it does not count.
    pub nll: Tensor,
}

/// The loss of `logits` f32 `[tokens, vocabulary]` against the sheet's targets under its weights. `total`, which
/// must not be 0, is what all predictions of the batch weigh: the sheet's own weight, or that of the batch
/// that it is a part of, whose mean is then the sum over its parts. Panics as `tch` does.
#[must_use]
pub fn next_token(logits: &Tensor, sheet: &Sheet, total: f64) -> NextToken {
    let device = logits.device();
    let shares: Vec<f32> = sheet.weights.iter().map(|weight| (f64::from(*weight) / total) as f32).collect();
    let shares = Tensor::from_slice(&shares).to_device(device);
    let nll = losses(logits, sheet);
    NextToken { mean: nll.dot(&shares), nll: nll.detach() }
}

/// Each token's -ln p(target), f32 `[tokens]`. Panics as `tch` does.
pub fn losses(logits: &Tensor, sheet: &Sheet) -> Tensor {
    let targets = Tensor::from_slice(&sheet.targets).to_device(logits.device());
    logits.cross_entropy_loss::<&Tensor>(&targets, None, Reduction::None, -100, 0.0)
}

/// A sum of losses and of what they are of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sum {
    /// Nats.
    pub nats: f64,
    /// Predictions that count.
    pub tokens: u64,
}

impl Sum {
    /// Nats per prediction; `None` where none counts.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.nats / self.tokens as f64)
    }
}

impl Add for Sum {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { nats: self.nats + other.nats, tokens: self.tokens + other.tokens }
    }
}

/// Where the nats of a batch lie, unweighted. Sums are made in f64 in the sheet's order, so they are the same
/// wherever the losses were computed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// In rows of new text.
    pub fresh: Sum,
    /// In replayed rows.
    pub replayed: Sum,
}

impl Tally {
    /// Sums `nll`, one loss per token of the sheet, over the predictions that count.
    #[must_use]
    pub fn of(sheet: &Sheet, nll: &[f32]) -> Self {
        let mut tally = Self::default();
        for piece in &sheet.pieces {
            let range = piece.start..piece.start + piece.tokens;
            let losses = nll.get(range.clone()).unwrap_or_default().iter();
            let counts = sheet.counts.get(range).unwrap_or_default();
            let counted = losses.zip(counts).filter(|(_, counts)| **counts).map(|(nats, _)| f64::from(*nats));
            let loss = Sum { nats: counted.sum(), tokens: piece.counted as u64 };
            let part = if piece.replayed { &mut tally.replayed } else { &mut tally.fresh };
            *part = *part + loss;
        }
        tally
    }

    /// Over all rows.
    #[must_use]
    pub fn all(&self) -> Sum {
        self.fresh + self.replayed
    }
}

impl Add for Tally {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { fresh: self.fresh + other.fresh, replayed: self.replayed + other.replayed }
    }
}

#[cfg(test)]
mod tests;
