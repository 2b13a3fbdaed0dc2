//! The cross-entropy of the next token, and its sums over new and replayed text.

use std::ops::Add;

use tch::{Reduction, Tensor};

use crate::feed::PackedBatch;

/// The loss of a batch, on the device.
#[derive(Debug)]
pub struct NextToken {
    /// sum(w * nll) / total: a scalar with an autograd graph, in nats per prediction.
    pub mean: Tensor,
    /// Each token's -ln p(target), f32 `[tokens]`, without a graph; also for targets that do not count.
    pub nll: Tensor,
}

/// The loss of `logits` f32 `[tokens, vocab_size]` against the targets and weights of `packed`. `total`, not
/// 0, is the sum of the weights of the whole batch that `packed` is, or is a part of: the sum over the parts
/// is then the weighted mean over the batch. Panics as `tch` does.
#[must_use]
pub fn next_token(logits: &Tensor, packed: &PackedBatch, total: f64) -> NextToken {
    let device = logits.device();
    let shares: Vec<f32> = packed.weights.iter().map(|weight| (f64::from(*weight) / total) as f32).collect();
    let shares = Tensor::from_slice(&shares).to_device(device);
    let nll = losses(logits, packed);
    NextToken { mean: nll.dot(&shares), nll: nll.detach() }
}

/// Each token's -ln p(target), f32 `[tokens]`. Panics as `tch` does.
pub fn losses(logits: &Tensor, packed: &PackedBatch) -> Tensor {
    let targets = Tensor::from_slice(&packed.targets).to_device(logits.device());
    logits.cross_entropy_loss::<&Tensor>(&targets, None, Reduction::None, -100, 0.0)
}

/// A sum of losses and the number of predictions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sum {
    /// Nats.
    pub nats: f64,
    /// Predictions that count.
    pub tokens: u64,
}

impl Sum {
    /// Nats per prediction; `None` without predictions.
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

/// The unweighted losses of a batch, summed in f64 in the order of the packed batch, so they are the same on
/// every device.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// In rows of new text.
    pub new_text: Sum,
    /// In replayed rows.
    pub replayed: Sum,
}

impl Tally {
    /// Sums `nll`, one loss per token of the packed batch, over the predictions that count.
    #[must_use]
    pub fn of(packed: &PackedBatch, nll: &[f32]) -> Self {
        let mut tally = Self::default();
        for segment in &packed.segments {
            let range = segment.start..segment.start + segment.tokens;
            let losses = nll.get(range.clone()).unwrap_or_default().iter();
            let counts = packed.counts.get(range).unwrap_or_default();
            let counted = losses.zip(counts).filter(|(_, counts)| **counts).map(|(nats, _)| f64::from(*nats));
            let loss = Sum { nats: counted.sum(), tokens: segment.counted as u64 };
            let part = if segment.replayed { &mut tally.replayed } else { &mut tally.new_text };
            *part = *part + loss;
        }
        tally
    }

    /// Over all rows.
    #[must_use]
    pub fn all(&self) -> Sum {
        self.new_text + self.replayed
    }
}

impl Add for Tally {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { new_text: self.new_text + other.new_text, replayed: self.replayed + other.replayed }
    }
}

#[cfg(test)]
mod tests;
