//! A decoder-only model of the Llama family: embedding, layers of attention and gated unit, norm, head.

use std::collections::BTreeMap;

use perennial_program::error::{Kind as ErrorKind, ProgramError};
use perennial_schemas::seed::{Seed, unit};
use tch::{Device, Kind, Tensor};

use super::attention::{Angles, Documents, Rotary, attend, rms_norm};
use super::config::{ModelConfig, ShapeError};

/// A trained tensor and its name, as in Hugging Face's Llama.
#[derive(Debug)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its values: f32; a matrix is `[out, in]`.
    pub tensor: Tensor,
}

/// Tokens on the device, document by document.
#[derive(Debug)]
pub struct Input {
    /// Token ids, i64 `[tokens]`.
    pub tokens: Tensor,
    /// Positions in their documents, i64 `[tokens]`.
    pub positions: Tensor,
    /// How the tokens divide into documents.
    pub documents: Documents,
}

/// Weights that do not fit the model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The model's shape is invalid.
    #[error("the model's shape is invalid")]
    Shape(#[from] ShapeError),
    /// Names are missing or unexpected.
    #[error("the weights do not fit the model: missing {}, not expected {}", listed(.missing), listed(.extra))]
    Names {
        /// Names of the model without a tensor.
        missing: Vec<String>,
        /// Names that the model does not have.
        extra: Vec<String>,
    },
    /// A tensor has another shape.
    #[error("`{name}` has shape {found:?}, the model needs {wanted:?}")]
    Size {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<i64>,
        /// The model's.
        wanted: Vec<i64>,
    },
}

/// `none`, or the first names and the number of further ones.
pub(crate) fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(4).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "none".into(),
        n if n > shown.len() => format!("{} and {} more", shown.join(", "), n - shown.len()),
        _ => shown.join(", "),
    }
}

impl ProgramError for WeightsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Config
    }
    fn hint(&self) -> Option<String> {
        Some("start from weights of the same shape, or change `[model]` to the shape of the weights".into())
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    unit_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// The model. Its parameters are autograd leaves. It computes in the dtype of its head: f32, or bf16 in a
/// [`super::Rounded`] copy; the statistics of norms, rotations and softmax are f32 in both.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    parameters: Vec<Parameter>,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    rotary: Rotary,
}

impl Decoder {
    /// A randomly initialised model: matrices from N(0, 0.02), those that write to the residual stream from
    /// N(0, 0.02 / sqrt(2 layers)) (Radford et al. 2019), norms at 1.
    ///
    /// Each value is a function of the seed, the parameter's name and the value's index, so it is the same on
    /// every machine.
    ///
    /// # Errors
    /// [`WeightsError::Shape`] for an invalid shape.
    pub fn init(config: &ModelConfig, seed: Seed, device: Device) -> Result<Self, WeightsError> {
        config.check()?;
        let seed = seed.child("weights");
        let all = config.parameters().into_iter().map(|(name, shape)| {
            let values = initial_values(config, seed.child(&name), &name, &shape);
            let tensor = Tensor::from_slice(&values).view(shape.as_slice()).to_device(device);
            (name, tensor)
        });
        Self::from_weights(config, all.collect(), device)
    }

    /// A model of zeros, to read weights into.
    pub(crate) fn blank(config: &ModelConfig, device: Device) -> Result<Self, WeightsError> {
        config.check()?;
        let zeros = |(name, shape): (String, Vec<i64>)| (name, Tensor::zeros(shape, (Kind::Float, device)));
        Self::from_weights(config, config.parameters().into_iter().map(zeros).collect(), device)
    }

    /// The model with these weights, which must be exactly the model's parameters. A model with
    /// `tie_word_embeddings` accepts an `lm_head.weight` that equals the embedding.
    ///
    /// # Errors
    /// [`WeightsError`] with the names that are missing, unexpected or of another shape.
    pub fn from_weights(
        config: &ModelConfig,
        mut weights: BTreeMap<String, Tensor>,
        device: Device,
    ) -> Result<Self, WeightsError> {
        config.check()?;
        if let (true, Some(head), Some(embedding)) = (
            config.tie_word_embeddings,
            weights.get("lm_head.weight"),
            weights.get("model.embed_tokens.weight"),
        ) && head.size() == embedding.size()
            && head.equal(embedding)
        {
            weights.remove("lm_head.weight");
        }
        let wanted = config.parameters();
        let missing: Vec<String> = wanted
            .iter()
            .filter(|(name, _)| !weights.contains_key(name))
            .map(|(name, _)| name.clone())
            .collect();
        let known = |name: &str| wanted.iter().any(|(wanted, _)| wanted == name);
        let extra: Vec<String> = weights.keys().filter(|name| !known(name)).cloned().collect();
        let mut parameters = Vec::with_capacity(wanted.len());
        for (name, wanted) in wanted {
            let Some(tensor) = weights.remove(&name) else { break };
            let found = tensor.size();
            if found != wanted {
                return Err(WeightsError::Size { name, found, wanted });
            }
            let tensor = tensor.detach().to_device(device).to_kind(Kind::Float).contiguous();
            parameters.push(Parameter { name, tensor: tensor.set_requires_grad(true) });
        }
        if !missing.is_empty() || !extra.is_empty() {
            return Err(WeightsError::Names { missing, extra });
        }
        Self::assemble(config.clone(), parameters, device).ok_or(WeightsError::Names { missing, extra })
    }

    /// Assigns the parameters, in the order of `ModelConfig::parameters`, to the layers.
    pub(super) fn assemble(config: ModelConfig, parameters: Vec<Parameter>, device: Device) -> Option<Self> {
        let mut next = parameters.iter().map(|parameter| parameter.tensor.shallow_clone());
        let embedding = next.next()?;
        let mut layers = Vec::new();
        for _ in 0..config.num_hidden_layers {
            layers.push(Layer {
                attention_norm: next.next()?,
                q: next.next()?,
                k: next.next()?,
                v: next.next()?,
                o: next.next()?,
                unit_norm: next.next()?,
                gate: next.next()?,
                up: next.next()?,
                down: next.next()?,
            });
        }
        let norm = next.next()?;
        let head = if config.tie_word_embeddings { embedding.shallow_clone() } else { next.next()? };
        drop(next);
        let rotary =
            Rotary::new(config.max_position_embeddings, config.head_dim(), config.rope_theta, device);
        Some(Self { config, parameters, embedding, layers, norm, head, rotary })
    }

    /// The same model with other values, in the order of [`Decoder::parameters`]; they are shared, not
    /// copied.
    ///
    /// # Errors
    /// [`WeightsError`] if the number of values or a shape does not match.
    pub fn with_values(&self, values: &[Tensor]) -> Result<Self, WeightsError> {
        let names = self.parameters.iter().map(|parameter| parameter.name.clone());
        let weights = names.zip(values.iter().map(Tensor::shallow_clone)).collect();
        Self::from_weights(&self.config, weights, self.device())
    }

    /// Its shape.
    #[must_use]
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its parameters in the order of the forward pass.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Its parameters' tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> + Clone {
        self.parameters.iter().map(|parameter| &parameter.tensor)
    }

    /// Number of scalar parameters.
    #[must_use]
    pub fn size(&self) -> usize {
        self.tensors().map(Tensor::numel).sum()
    }

    /// Its device.
    #[must_use]
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// Logits of the next token at each position: f32 `[tokens, vocab_size]`. Panics as `tch` does.
    pub fn logits(&self, input: &Input) -> Tensor {
        self.states(input).linear::<&Tensor>(&self.head, None).to_kind(Kind::Float)
    }

    /// The normalised last hidden states, `[tokens, hidden_size]`. Panics as `tch` does.
    fn states(&self, input: &Input) -> Tensor {
        let angles = self.rotary.at(&input.positions);
        let rows = Tensor::embedding(&self.embedding, &input.tokens, -1, false, false);
        let mut x = rows.to_kind(self.head.kind());
        for layer in &self.layers {
            x = self.attention(layer, &x, &angles, &input.documents) + x;
            x = self.gated_unit(layer, &x) + x;
        }
        rms_norm(&x, &self.norm, self.config.rms_norm_eps)
    }

    fn attention(&self, layer: &Layer, x: &Tensor, angles: &Angles, documents: &Documents) -> Tensor {
        let x = rms_norm(x, &layer.attention_norm, self.config.rms_norm_eps);
        let size = i64::from(self.config.head_dim());
        let heads = |weight: &Tensor| x.linear::<&Tensor>(weight, None).unflatten(1, [-1, size]);
        let (q, k, v) = (angles.rotate(&heads(&layer.q)), angles.rotate(&heads(&layer.k)), heads(&layer.v));
        attend(&q, &k, &v, documents).linear::<&Tensor>(&layer.o, None)
    }

    /// SwiGLU (Shazeer 2020).
    fn gated_unit(&self, layer: &Layer, x: &Tensor) -> Tensor {
        let x = rms_norm(x, &layer.unit_norm, self.config.rms_norm_eps);
        let gate = x.linear::<&Tensor>(&layer.gate, None).silu();
        (gate * x.linear::<&Tensor>(&layer.up, None)).linear::<&Tensor>(&layer.down, None)
    }
}

/// The initial values of one parameter.
fn initial_values(config: &ModelConfig, seed: Seed, name: &str, shape: &[i64]) -> Vec<f32> {
    let count = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
    if shape.len() < 2 {
        return vec![1.0; count];
    }
    let to_residual = name.contains("o_proj") || name.contains("down_proj");
    let deviation =
        if to_residual { 0.02 / (2.0 * f64::from(config.num_hidden_layers)).sqrt() } else { 0.02 };
    let mut values = Vec::with_capacity(count + 1);
    // Box and Muller (1958): two normal numbers from two uniform ones.
    for pair in (0..count as u64).step_by(2) {
        let radius = (-2.0 * unit(seed.at(&[pair])).ln()).sqrt() * deviation;
        let (sin, cos) = (std::f64::consts::TAU * unit(seed.at(&[pair + 1]))).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests;
