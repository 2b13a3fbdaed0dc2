//! The model that computes in bf16, and its f32 masters that learn.
//!
//! bf16 keeps 8 bits of a weight: most updates are smaller than its last bit and would be lost. So the
//! optimiser, the averages and the checkpoints hold the f32 masters, and what computes is a copy of them
//! that is rounded anew for each step (Micikevicius et al. 2018, section 3.1).

use tch::{Kind, Tensor};

use super::decoder::{Decoder, Input, Parameter, WeightsError};
use crate::torch::{self, TorchError};

/// A copy of a model in bf16. Nothing of it outlives a step: it is a function of the masters.
///
/// Tokens are looked up in the f32 masters and the rows rounded, which gives the rows of a rounded
/// table; but a token's gradient is the sum over all its places, and in bf16 that sum would stop growing
/// after some hundred of them.
#[derive(Debug)]
pub struct Rounded {
    model: Decoder,
    copies: Vec<Tensor>,
    masters: Vec<Tensor>,
}

impl Rounded {
    /// A copy of `masters`, which must be f32, rounded as they are now. Panics as `tch` does.
    ///
    /// # Errors
    /// [`WeightsError::Names`] where their number is not that of a model of their shape.
    pub fn of(masters: &Decoder) -> Result<Self, WeightsError> {
        let wrong = || WeightsError::Names { missing: Vec::new(), extra: Vec::new() };
        // The head is a copy of its own even where it is the embedding: that one stays f32.
        let tied = masters.config().tied;
        let config = super::ModelConfig { tied: false, ..masters.config().clone() };
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

    /// Rounds the masters into the copy.
    ///
    /// # Errors
    /// [`TorchError`] where libtorch refuses.
    pub fn refresh(&mut self) -> Result<(), TorchError> {
        torch::copy(&mut self.copies, &self.masters)
    }

    /// Logits of the token that follows each token, computed in bf16: f32 `[tokens, vocabulary]`. Panics as
    /// `tch` does.
    pub fn logits(&self, input: &Input) -> Tensor {
        self.model.logits(input)
    }

    /// Adds the gradients that arrived in the copy to those of the masters, in f32, and drops them.
    ///
    /// # Errors
    /// [`TorchError`] where no backward pass has gone before.
    pub fn collect_gradients(&self) -> Result<(), TorchError> {
        torch::collect_gradients(&self.masters, &self.copies)
    }
}

#[cfg(test)]
mod tests;
