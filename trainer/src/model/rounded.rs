//! A bf16 copy of the model for the forward and backward pass; the f32 master weights are trained.
//!
//! bf16 has 8 bits of precision: most updates are smaller than a weight's last bit and would be lost. So the
//! optimiser, the averages and the checkpoints hold f32 master weights, and each step computes with a copy of
//! them that is rounded again (Micikevicius et al. 2018, section 3.1).

use tch::{Kind, Tensor};

use super::decoder::{Decoder, Input, Parameter, WeightsError};
use crate::torch::{self, TorchError};

/// A copy of a model in bf16, a function of the masters: no state of it outlives a step.
///
/// The embedding stays f32: its rows are looked up and then rounded, which equals a lookup in a rounded
/// table. A token's gradient is a sum over all its occurrences; in bf16 that sum would stop growing after
/// some hundred of them.
#[derive(Debug)]
pub struct Rounded {
    model: Decoder,
    copies: Vec<Tensor>,
    masters: Vec<Tensor>,
}

impl Rounded {
    /// A rounded copy of `masters`, which must be f32. Panics as `tch` does.
    ///
    /// # Errors
    /// [`WeightsError::Names`] if the masters are not the parameters of a model of their shape.
    pub fn of(masters: &Decoder) -> Result<Self, WeightsError> {
        let wrong = || WeightsError::Names { missing: Vec::new(), extra: Vec::new() };
        // The head gets its own copy even if it is tied: the embedding stays f32.
        let tied = masters.config().tie_word_embeddings;
        let config = super::ModelConfig { tie_word_embeddings: false, ..masters.config().clone() };
        let (embedding, rest) = masters.parameters().split_first().ok_or_else(wrong)?;
        let pairs: Vec<(&str, &Tensor)> = rest
            .iter()
            .map(|parameter| (parameter.name.as_str(), &parameter.tensor))
            .chain(tied.then_some(("lm_head.weight", &embedding.tensor)))
            .collect();
        let mut parameters =
            vec![Parameter { name: embedding.name.clone(), tensor: embedding.tensor.shallow_clone() }];
        let (mut copies, mut sources) = (Vec::new(), Vec::new());
        for (name, master) in pairs {
            let copy = master.detach().to_kind(Kind::BFloat16).set_requires_grad(true);
            copies.push(copy.shallow_clone());
            sources.push(master.shallow_clone());
            parameters.push(Parameter { name: name.to_owned(), tensor: copy });
        }
        let model = Decoder::assemble(config, parameters, masters.device()).ok_or_else(wrong)?;
        Ok(Self { model, copies, masters: sources })
    }

    /// Copies the masters, rounded, into the copy.
    ///
    /// # Errors
    /// [`TorchError`] if libtorch fails.
    pub fn refresh(&mut self) -> Result<(), TorchError> {
        torch::copy(&mut self.copies, &self.masters)
    }

    /// Logits of the next token at each position, computed in bf16: f32 `[tokens, vocab_size]`. Panics as
    /// `tch` does.
    pub fn logits(&self, input: &Input) -> Tensor {
        self.model.logits(input)
    }

    /// Adds the copy's gradients to those of the masters, in f32, and drops them.
    ///
    /// # Errors
    /// [`TorchError`] if no backward pass ran before.
    pub fn collect_gradients(&self) -> Result<(), TorchError> {
        torch::collect_gradients(&self.masters, &self.copies)
    }
}

#[cfg(test)]
mod tests;
