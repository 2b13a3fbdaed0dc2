//! Scores documents with any weights: total nats, predictions and bytes of each.

use perennial_program::error::{Kind, ProgramError};
use perennial_replay::tokenise::{EncodeError, Tokenizer};
use tch::Tensor;

use crate::feed::{PackedBatch, to_host};
use crate::loss::next_token::losses;
use crate::model::Decoder;
use crate::torch::{TorchError, guarded};

/// A document as tokens, and the size of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The boundary token, then the text.
    pub tokens: Vec<i64>,
    /// Bytes of the text.
    pub bytes: u64,
}

impl Document {
    /// The boundary token and the text's tokens.
    ///
    /// # Errors
    /// [`EncodeError`] if the text cannot be tokenised.
    pub fn of(tokenizer: &Tokenizer, text: &str) -> Result<Self, EncodeError> {
        let encoded = tokenizer.encode(text.into(), &[])?;
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        encoded.append(0, usize::MAX, &mut tokens, &mut targets);
        Ok(Self { tokens: tokens.into_iter().map(i64::from).collect(), bytes: text.len() as u64 })
    }
}

/// The loss on a text.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Nats.
    pub nats: f64,
    /// Tokens predicted: all except the boundary.
    pub tokens: u64,
    /// Bytes of text.
    pub bytes: u64,
}

impl Score {
    /// Bits per byte; `None` for no bytes. It is too low if the tokenizer loses text
    /// ([`Subword::losses`](perennial_replay::tokenise::Subword::losses)): lost text is not predicted, but
    /// its bytes are counted.
    #[must_use]
    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.nats / std::f64::consts::LN_2 / self.bytes as f64)
    }

    /// The sum over the documents of a slice.
    #[must_use]
    pub fn sum(scores: &[Self]) -> Self {
        scores.iter().fold(Self::default(), |all, score| Self {
            nats: all.nats + score.nats,
            tokens: all.tokens + score.tokens,
            bytes: all.bytes + score.bytes,
        })
    }
}

/// Documents that cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// A token is not in the vocabulary.
    #[error("document {document} holds token {token}; the vocabulary ends at {last}")]
    Token {
        /// The document's index.
        document: usize,
        /// The token.
        token: i64,
        /// The largest token.
        last: i64,
    },
    /// libtorch failed.
    #[error("the documents cannot be scored")]
    Torch(#[from] TorchError),
}

impl ProgramError for ScoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Token { .. } => Kind::Config,
            Self::Torch(error) => error.kind(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Token { .. } => Some("score with the tokenizer that the model was trained with".into()),
            Self::Torch(error) => error.hint(),
        }
    }
}

/// Scores each document, in the order given. A document longer than `window` tokens (at most the model's
/// context) is cut into windows; each token except the boundary is predicted once, from the tokens before it
/// in its window. About `tokens_per_batch` tokens are computed at a time, windows of equal length together;
/// apart from rounding, the scores do not depend on this.
///
/// # Errors
/// [`ScoreError`] if a token is not in the model's vocabulary or libtorch fails.
pub fn score(
    model: &Decoder,
    documents: &[Document],
    window: usize,
    tokens_per_batch: usize,
) -> Result<Vec<Score>, ScoreError> {
    let last = i64::from(model.config().vocab_size) - 1;
    for (document, text) in documents.iter().enumerate() {
        if let Some(token) = text.tokens.iter().find(|token| !(0..=last).contains(*token)) {
            return Err(ScoreError::Token { document, token: *token, last });
        }
    }
    let window = window.clamp(1, model.config().max_position_embeddings as usize);
    let mut windows: Vec<Window> = Vec::new();
    for (document, text) in documents.iter().enumerate() {
        let predicted = text.tokens.len().saturating_sub(1);
        windows.extend((0..predicted).step_by(window).map(|start| Window {
            document,
            start,
            tokens: window.min(predicted - start),
        }));
    }
    windows.sort_by_key(|window| window.tokens);
    let mut scores: Vec<Score> =
        documents.iter().map(|text| Score { nats: 0.0, tokens: 0, bytes: text.bytes }).collect();
    for batch in batches(&windows, tokens_per_batch) {
        let nats = guarded(|| tch::no_grad(|| score_batch(model, documents, batch)))??;
        for (window, nats) in batch.iter().zip(nats) {
            if let Some(score) = scores.get_mut(window.document) {
                score.nats += nats;
                score.tokens += window.tokens as u64;
            }
        }
    }
    Ok(scores)
}

/// A window of a document: `tokens` inputs from `start`, each predicting the next token.
#[derive(Debug, Clone, Copy)]
struct Window {
    document: usize,
    start: usize,
    tokens: usize,
}

fn batches(windows: &[Window], limit: usize) -> impl Iterator<Item = &[Window]> {
    let mut rest = windows;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|window| {
            tokens += window.tokens;
            tokens <= limit
        });
        let (batch, after) = rest.split_at(fitting.count().max(1).min(rest.len()));
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

/// The nats of each window.
fn score_batch(model: &Decoder, documents: &[Document], windows: &[Window]) -> Result<Vec<f64>, TorchError> {
    let segment = |window: &Window, shift: usize| -> Vec<i64> {
        let from = window.start + shift;
        let tokens =
            documents.get(window.document).and_then(|text| text.tokens.get(from..from + window.tokens));
        tokens.unwrap_or_default().to_vec()
    };
    let pairs: Vec<_> = windows.iter().map(|window| (segment(window, 0), segment(window, 1))).collect();
    let packed = PackedBatch::of_documents(&pairs);
    let logits: Tensor = model.logits(&packed.input(model.device()));
    let nll = to_host(&losses(&logits, &packed))?;
    let mut nats = vec![0.0; windows.len()];
    for segment in &packed.segments {
        let losses = nll.get(segment.start..segment.start + segment.tokens).unwrap_or_default();
        if let Some(sum) = nats.get_mut(segment.row) {
            *sum = losses.iter().map(|nats| f64::from(*nats)).sum();
        }
    }
    Ok(nats)
}

#[cfg(test)]
mod tests;
