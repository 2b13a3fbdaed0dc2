//! The shape of a model.

use perennial_program::error::{Fault, Kind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of a decoder of the Llama family. The defaults are a byte model of one million parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Tokens in the vocabulary, at least as many as the tokenizer has. Of the byte tokenizer: bytes 0-255,
    /// 256 the boundary of records, 257 padding.
    pub vocabulary: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads; `width / heads` is the size of each.
    pub heads: u32,
    /// Key and value heads, each shared by `heads / kv_heads` query heads (Ainslie et al. 2023);
    /// as many as `heads` where absent.
    pub kv_heads: Option<u32>,
    /// Inner width of the gated unit; 8/3 of `width`, rounded up to 16, where absent.
    pub hidden: Option<u32>,
    /// The longest document, in tokens.
    pub context: u32,
    /// Base of the rotary wavelengths (Su et al. 2021).
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub norm_epsilon: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            vocabulary: 258,
            width: 160,
            layers: 3,
            heads: 4,
            kv_heads: None,
            hidden: None,
            context: 1024,
            rope_theta: 10_000.0,
            norm_epsilon: 1e-5,
            tied: true,
        }
    }
}

/// A shape that no model has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{key}` cannot be {value}: {why}")]
pub struct ShapeError {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// The rule it breaks.
    pub why: String,
}

impl Fault for ShapeError {
    fn kind(&self) -> Kind {
        Kind::Config
    }
}

impl ModelConfig {
    /// Key and value heads.
    #[must_use]
    pub fn kv_heads(&self) -> u32 {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Inner width of the gated unit.
    #[must_use]
    pub fn hidden(&self) -> u32 {
        self.hidden.unwrap_or_else(|| (self.width.saturating_mul(8) / 3).saturating_add(15) / 16 * 16)
    }

    /// Size of one head.
    #[must_use]
    pub fn head_size(&self) -> u32 {
        self.width / self.heads.max(1)
    }

    /// Refuses a shape that no model can have.
    ///
    /// # Errors
    /// [`ShapeError`] with the first key that breaks a rule.
    pub fn check(&self) -> Result<(), ShapeError> {
        let counts = [
            ("vocabulary", self.vocabulary),
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads()),
            ("hidden", self.hidden()),
            ("context", self.context),
        ];
        let refuse = |key, value: String, why: String| Err(ShapeError { key, value, why });
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return refuse(key, "0".into(), "it must be at least 1".into());
        }
        if !self.width.is_multiple_of(self.heads) || !self.head_size().is_multiple_of(2) {
            let why = format!("it must be an even multiple of `heads`, {}", self.heads);
            return refuse("width", self.width.to_string(), why);
        }
        if !self.heads.is_multiple_of(self.kv_heads()) {
            let why = format!("it must divide `heads`, {}", self.heads);
            return refuse("kv_heads", self.kv_heads().to_string(), why);
        }
        for (key, value) in [("rope_theta", self.rope_theta), ("norm_epsilon", self.norm_epsilon)] {
            if !(value.is_finite() && value > 0.0) {
                return refuse(key, value.to_string(), "it must be a positive number".into());
            }
        }
        Ok(())
    }

    /// Every parameter's name, as Hugging Face's Llama has it, and its shape, weights as `[out, in]`;
    /// in the order of the forward pass.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, Vec<i64>)> {
        let [vocabulary, width, hidden] = [self.vocabulary, self.width, self.hidden()].map(i64::from);
        let keys = i64::from(self.kv_heads()) * i64::from(self.head_size());
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, width])];
        for layer in 0..self.layers {
            let parts = [
                ("input_layernorm", vec![width]),
                ("self_attn.q_proj", vec![width, width]),
                ("self_attn.k_proj", vec![keys, width]),
                ("self_attn.v_proj", vec![keys, width]),
                ("self_attn.o_proj", vec![width, width]),
                ("post_attention_layernorm", vec![width]),
                ("mlp.gate_proj", vec![hidden, width]),
                ("mlp.up_proj", vec![hidden, width]),
                ("mlp.down_proj", vec![width, hidden]),
            ];
            all.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
        }
        all.push(("model.norm.weight".into(), vec![width]));
        if !self.tied {
            all.push(("lm_head.weight".into(), vec![vocabulary, width]));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_a_byte_model_of_one_million_parameters() {
        let config = ModelConfig::default();
        config.check().unwrap();
        let count: i64 = config.parameters().iter().map(|(_, shape)| shape.iter().product::<i64>()).sum();
        // 258 * 160 + 3 * (4 * 160^2 + 3 * 160 * 432 + 2 * 160) + 160
        assert_eq!(count, 971_680);
    }

    #[test]
    fn shapes_that_no_model_has_are_refused_by_key() {
        let refused = |change: fn(&mut ModelConfig)| {
            let mut config = ModelConfig::default();
            change(&mut config);
            config.check().unwrap_err().key
        };
        assert_eq!(refused(|config| config.layers = 0), "layers");
        assert_eq!(refused(|config| config.heads = 3), "width");
        assert_eq!(refused(|config| config.width = 20), "width");
        assert_eq!(refused(|config| config.kv_heads = Some(3)), "kv_heads");
        assert_eq!(refused(|config| config.kv_heads = Some(8)), "kv_heads");
        assert_eq!(refused(|config| config.rope_theta = f64::NAN), "rope_theta");
    }

    #[test]
    fn an_untied_head_is_one_more_parameter() {
        let tied = ModelConfig::default();
        let untied = ModelConfig { tied: false, ..tied.clone() };
        assert_eq!(untied.parameters().len(), tied.parameters().len() + 1);
        assert_eq!(untied.parameters().last().unwrap().0, "lm_head.weight");
    }
}
