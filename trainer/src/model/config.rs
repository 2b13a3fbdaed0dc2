//! The shape of a model, under the key names of Hugging Face's `config.json`.

use perennial_program::error::{Kind, ProgramError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of a decoder of the Llama family. The defaults are a byte model of one million parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Tokens in the vocabulary, at least as many as the tokenizer has. Of the byte tokenizer: bytes 0-255,
    /// 256 the boundary of records, 257 padding.
    pub vocab_size: u32,
    /// Size of the residual stream.
    pub hidden_size: u32,
    /// Number of layers.
    pub num_hidden_layers: u32,
    /// Query heads; `hidden_size / num_attention_heads` is the size of each.
    pub num_attention_heads: u32,
    /// Key and value heads, each shared by `num_attention_heads / num_key_value_heads` query heads (Ainslie
    /// et al. 2023); absent: `num_attention_heads`.
    pub num_key_value_heads: Option<u32>,
    /// Inner size of the gated unit; absent: 8/3 of `hidden_size`, rounded up to a multiple of 16.
    pub intermediate_size: Option<u32>,
    /// The longest document, in tokens.
    pub max_position_embeddings: u32,
    /// Base of the rotary position embedding's wavelengths (Su et al. 2021).
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the output head shares the embedding's weights.
    pub tie_word_embeddings: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            vocab_size: 258,
            hidden_size: 160,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: None,
            intermediate_size: None,
            max_position_embeddings: 1024,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
        }
    }
}

/// An invalid shape.
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

impl ProgramError for ShapeError {
    fn kind(&self) -> Kind {
        Kind::Config
    }
}

impl ModelConfig {
    /// Key and value heads.
    #[must_use]
    pub fn key_value_heads(&self) -> u32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Inner size of the gated unit.
    #[must_use]
    pub fn intermediate_size(&self) -> u32 {
        self.intermediate_size
            .unwrap_or_else(|| (self.hidden_size.saturating_mul(8) / 3).saturating_add(15) / 16 * 16)
    }

    /// Size of one attention head.
    #[must_use]
    pub fn head_dim(&self) -> u32 {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Refuses an invalid shape.
    ///
    /// # Errors
    /// [`ShapeError`] with the first key that breaks a rule.
    pub fn check(&self) -> Result<(), ShapeError> {
        let counts = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.key_value_heads()),
            ("intermediate_size", self.intermediate_size()),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        let refuse = |key, value: String, why: String| Err(ShapeError { key, value, why });
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return refuse(key, "0".into(), "it must be at least 1".into());
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) || !self.head_dim().is_multiple_of(2) {
            let why =
                format!("it must be an even multiple of `num_attention_heads`, {}", self.num_attention_heads);
            return refuse("hidden_size", self.hidden_size.to_string(), why);
        }
        if !self.num_attention_heads.is_multiple_of(self.key_value_heads()) {
            let why = format!("it must divide `num_attention_heads`, {}", self.num_attention_heads);
            return refuse("num_key_value_heads", self.key_value_heads().to_string(), why);
        }
        for (key, value) in [("rope_theta", self.rope_theta), ("rms_norm_eps", self.rms_norm_eps)] {
            if !(value.is_finite() && value > 0.0) {
                return refuse(key, value.to_string(), "it must be a positive number".into());
            }
        }
        Ok(())
    }

    /// Every parameter's name, as in Hugging Face's Llama, and its shape, weights as `[out, in]`; in the
    /// order of the forward pass.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, Vec<i64>)> {
        let [vocabulary, width, hidden] =
            [self.vocab_size, self.hidden_size, self.intermediate_size()].map(i64::from);
        let keys = i64::from(self.key_value_heads()) * i64::from(self.head_dim());
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, width])];
        for layer in 0..self.num_hidden_layers {
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
        if !self.tie_word_embeddings {
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
    fn invalid_shapes_are_refused_by_key() {
        let refused = |change: fn(&mut ModelConfig)| {
            let mut config = ModelConfig::default();
            change(&mut config);
            config.check().unwrap_err().key
        };
        assert_eq!(refused(|config| config.num_hidden_layers = 0), "num_hidden_layers");
        assert_eq!(refused(|config| config.num_attention_heads = 3), "hidden_size");
        assert_eq!(refused(|config| config.hidden_size = 20), "hidden_size");
        assert_eq!(refused(|config| config.num_key_value_heads = Some(3)), "num_key_value_heads");
        assert_eq!(refused(|config| config.num_key_value_heads = Some(8)), "num_key_value_heads");
        assert_eq!(refused(|config| config.rope_theta = f64::NAN), "rope_theta");
    }

    #[test]
    fn an_untied_head_is_one_more_parameter() {
        let tied = ModelConfig::default();
        let untied = ModelConfig { tie_word_embeddings: false, ..tied.clone() };
        assert_eq!(untied.parameters().len(), tied.parameters().len() + 1);
        assert_eq!(untied.parameters().last().unwrap().0, "lm_head.weight");
    }
}
