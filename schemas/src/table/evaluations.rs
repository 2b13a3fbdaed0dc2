//! `evaluations`: a\[step\]\[slice\], a job's loss on held-out text along its way.

use super::column::table;

table! { "evaluations" {
    /// The job. Partition column.
    job: Text,
    /// The model whose weights were scored: `live`, `average`, `interpolated`.
    weights: Text,
    /// The optimiser step.
    step: Int,
    /// Tokens learnt until then.
    tokens: Int,
    /// The slice: one source and period.
    slice: Text,
    /// The document inside the slice.
    document: OptText,
    /// Sum of the next-token losses, in nats.
    nats: Double,
    /// Tokens predicted.
    predicted: Int,
    /// Bytes of text that those tokens are.
    bytes: Int,
    /// When it was received.
    time: Time,
} }
