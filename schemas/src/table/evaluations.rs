//! `evaluations`: a\[step\]\[slice\], a job's loss on held-out text along its way.

use super::column::table;

table! { "evaluations" {
    /// The job. Partition column.
    job: Text,
    /// The series within which steps ascend: the evaluations of live weights are one, those of final
    /// weights another.
    series: Text,
    /// Which weights were scored: `live`, an average as `average-120` (its horizon in steps), or what lies
    /// between the start and one of these, as `live@0.5`.
    weights: Text,
    /// The optimiser step.
    step: Int,
    /// Tokens learnt until then.
    tokens: Int,
    /// The slice: one source and period.
    slice: Text,
    /// The document inside the slice. The programs write one for every row.
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
