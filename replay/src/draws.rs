//! Which tokens of which records a decided step holds: computed from its ticket, not recorded.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use perennial_schemas::id::{Offset, RecordId, Seq, Shard, Step};
use perennial_schemas::wire::{Order, Position, Ticket};
use serde::Serialize;

use crate::batch::BatchLayout;
use crate::buffer::Members;
use crate::index::Index;
use crate::views::Entry;

/// A span of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DrawnSpan {
    /// The row's number in the job.
    pub row: u64,
    /// First token of the row that belongs to it.
    pub start: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// The record's place in the order of the store.
    pub offset: Offset,
    /// The record's shard.
    pub shard: Shard,
    /// The record's seq in the shard.
    pub seq: Seq,
    /// The record's id.
    pub id: RecordId,
    /// Its first token, counted in tokens of the record.
    pub first_token: u64,
    /// The buffer that the row was drawn from; `None` for new text.
    pub buffer: Option<String>,
    /// The probability of the draw that it is part of; 1 for new text.
    pub probability: f64,
    /// Whether the record was removed from the store since.
    pub erased: bool,
}

/// What a step holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepDraws {
    /// The step.
    pub step: Step,
    /// Its ticket.
    pub ticket: Ticket,
    /// Tokens of new text.
    pub new_tokens: u64,
    /// Tokens of replayed text.
    pub replayed_tokens: u64,
    /// Its spans in the order of the batch.
    pub spans: Vec<DrawnSpan>,
}

impl StepDraws {
    /// Of a ticket with its layout.
    #[must_use]
    pub fn new(ticket: &Ticket, layout: &BatchLayout, index: &Index) -> Self {
        let mut draws = Self {
            step: ticket.step,
            ticket: ticket.clone(),
            new_tokens: 0,
            replayed_tokens: 0,
            spans: Vec::new(),
        };
        for row in &layout.rows {
            let mut start = 0;
            for segment in &row.segments {
                let of_kind =
                    if row.buffer.is_some() { &mut draws.replayed_tokens } else { &mut draws.new_tokens };
                *of_kind += segment.tokens;
                draws.spans.push(DrawnSpan {
                    row: row.row,
                    start,
                    tokens: segment.tokens,
                    offset: segment.offset,
                    shard: segment.shard.clone(),
                    seq: segment.seq,
                    id: segment.id,
                    first_token: segment.first,
                    buffer: row.buffer.clone(),
                    probability: segment.probability,
                    erased: index.get(segment.offset).is_none_or(|record| record.erased),
                });
                start += segment.tokens;
            }
        }
        draws
    }
}

/// The schema of draws as columns, one row a span.
#[must_use]
pub fn schema() -> SchemaRef {
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    Arc::new(Schema::new(vec![
        field("step", DataType::Int64),
        field("row", DataType::Int64),
        field("start", DataType::Int64),
        field("tokens", DataType::Int64),
        field("offset", DataType::Int64),
        field("shard", DataType::Utf8),
        field("seq", DataType::Int64),
        field("id", DataType::FixedSizeBinary(16)),
        field("first_token", DataType::Int64),
        Field::new("buffer", DataType::Utf8, true),
        field("probability", DataType::Float64),
        field("erased", DataType::Boolean),
    ]))
}

/// The spans of these steps as columns.
///
/// # Errors
/// Arrow's errors; valid spans cause no error.
pub fn columns(steps: &[StepDraws]) -> Result<RecordBatch, ArrowError> {
    let all: Vec<(&StepDraws, &DrawnSpan)> =
        steps.iter().flat_map(|step| step.spans.iter().map(move |span| (step, span))).collect();
    let long = |get: fn(&StepDraws, &DrawnSpan) -> u64| -> ArrayRef {
        let number =
            |(step, span): &(&StepDraws, &DrawnSpan)| i64::try_from(get(step, span)).unwrap_or(i64::MAX);
        Arc::new(Int64Array::from_iter_values(all.iter().map(number)))
    };
    let ids = all.iter().map(|(_, span)| Some(span.id.as_bytes()));
    let columns: Vec<ArrayRef> = vec![
        long(|step, _| step.step.0),
        long(|_, span| span.row),
        long(|_, span| span.start),
        long(|_, span| span.tokens),
        long(|_, span| span.offset.0),
        Arc::new(StringArray::from_iter_values(all.iter().map(|(_, span)| span.shard.as_str()))),
        long(|_, span| span.seq.0),
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids, 16)?),
        long(|_, span| span.first_token),
        Arc::new(all.iter().map(|(_, span)| span.buffer.as_deref()).collect::<StringArray>()),
        Arc::new(Float64Array::from_iter_values(all.iter().map(|(_, span)| span.probability))),
        Arc::new(BooleanArray::from_iter(all.iter().map(|(_, span)| Some(span.erased)))),
    ];
    RecordBatch::try_new(schema(), columns)
}

/// Whether a view may hold a record, without its layouts: `members` are those of its buffers.
#[must_use]
pub fn may_hold(view: &Entry, offset: Offset, members: &BTreeMap<String, Arc<Members>>) -> bool {
    let (from, ticket) = (&view.ticket.from, &view.ticket);
    let last = view.positions.last().unwrap_or(from);
    let new_text = match ticket.settings.order {
        Order::Stream => (from.new_text.offset..=last.new_text.offset).contains(&offset),
        Order::Permuted => offset < ticket.limit,
    };
    let rest = |position: &Position| {
        position.draws.values().any(|place| place.rest.is_some_and(|rest| rest.offset == offset))
    };
    new_text || rest(from) || members.values().any(|members| members.holds(offset))
}
