//! `signals`: what a model said about a record while it learnt from it.

use super::column::table;

table! { "signals" {
    /// The job whose model spoke. Partition column.
    job: Text,
    /// The model: its lineage and architecture, so that stored logits are dropped on a mismatch.
    model: Text,
    /// The optimiser step.
    step: Int,
    /// The shard of the record.
    shard: Text,
    /// The seq of the record.
    seq: Int,
    /// The id of the record.
    id: Blob,
    /// First token of the span that was learnt, in tokens of the record.
    first_token: Int,
    /// How many tokens the span had.
    tokens: Int,
    /// Mean next-token loss of the span, in nats.
    loss: Real,
    /// Mean loss of each passage the span touches, little-endian f32, in nats.
    passage_losses: OptBlob,
    /// Mean predictive entropy, in nats.
    entropy: OptReal,
    /// Random projection of the gradient, little-endian f16.
    gradient_sketch: OptBlob,
    /// Per token the k largest logits' ids, little-endian u32, row by row.
    top_ids: OptBlob,
    /// Per token the k largest log-probabilities, little-endian f16, row by row.
    top_log_probs: OptBlob,
    /// How many logits a token has in `top_ids`.
    top_k: OptShort,
    /// Hash of the tokenizer under which tokens are counted.
    tokenizer: OptText,
    /// When it was received.
    time: Time,
} }
