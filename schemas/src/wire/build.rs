//! Makes batches: row by row, straight into the columns.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Float64Array, Int32Array, Int64Array,
    ListArray, RecordBatch, StringBuilder, StructArray,
};
use arrow::array::{BooleanBufferBuilder, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};

use super::batch::{batch_schema, list_size, malformed, span_fields};
use super::{Batch, Span, WireError};
use crate::id::{Offset, RecordId, Seq, Shard};

/// One row of a batch with its cells.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchRow {
    /// The row's number in the job.
    pub row: u64,
    /// The buffer it was drawn from; `None` for new text.
    pub buffer: Option<String>,
    /// T inputs.
    pub tokens: Vec<i32>,
    /// T targets.
    pub targets: Vec<i32>,
    /// T truths: whether the target counts.
    pub mask: Vec<bool>,
    /// Its pieces of records.
    pub spans: Vec<Span>,
}

impl Batch {
    /// The batch of these rows, each of `length` tokens.
    ///
    /// # Errors
    /// [`WireError::Batch`] where a row breaks a rule of the table at [`Batch`].
    pub fn from_rows(length: usize, rows: &[BatchRow]) -> Result<Self, WireError> {
        let mut columns = Columns::new(length, rows.len());
        for row in rows {
            if [row.tokens.len(), row.targets.len(), row.mask.len()].iter().any(|cells| *cells != length) {
                let why = format!("a row has other than {length} tokens, targets and mask bits");
                return Err(malformed("?", &why));
            }
            columns.tokens.extend_from_slice(&row.tokens);
            columns.targets.extend_from_slice(&row.targets);
            columns.mask.append_slice(&row.mask);
            row.spans.iter().for_each(|span| columns.spans.push(span));
            columns.end_row(row.row, row.buffer.as_deref());
        }
        Self::new(columns.finish()?)
    }
}

/// Fills a batch row by row. What it makes keeps the rules of the table at [`Batch`].
///
/// ```text
/// row, span, span, row, span, .. finish
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    columns: Columns,
    pad: i32,
    /// The number and the buffer of the row that is being filled.
    row: Option<(u64, Option<String>)>,
}

/// A piece of a record that is added to a row.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The record's shard.
    pub shard: &'a Shard,
    /// The record's place in the shard.
    pub seq: Seq,
    /// The record's place in the order of the store.
    pub offset: Offset,
    /// The record's id.
    pub id: RecordId,
    /// Its first token, counted in tokens of the record.
    pub first_token: u64,
    /// The probability of the draw that it is part of; 1 for new text.
    pub probability: f64,
}

impl BatchBuilder {
    /// A batch of `rows` rows of `length` tokens, which are `pad` where no span is.
    #[must_use]
    pub fn new(length: usize, rows: usize, pad: i32) -> Self {
        Self { columns: Columns::new(length, rows), pad, row: None }
    }

    /// Begins the next row.
    pub fn row(&mut self, number: u64, buffer: Option<&str>) {
        self.end_row();
        self.row = Some((number, buffer.map(str::to_owned)));
    }

    /// Number of tokens that the row has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.columns.end().saturating_sub(self.columns.tokens.len())
    }

    /// Adds a span of `tokens` tokens, at least 1 and at most [`room`](Self::room). `write` appends that many
    /// inputs and as many targets, none negative; without it the span is of an erased record, and padding.
    ///
    /// # Errors
    /// [`WireError::Batch`] for another number of tokens.
    pub fn span(
        &mut self,
        piece: Piece<'_>,
        tokens: usize,
        write: Option<impl FnOnce(&mut Vec<i32>, &mut Vec<i32>)>,
    ) -> Result<(), WireError> {
        let room = self.room();
        if self.row.is_none() || tokens == 0 || tokens > room {
            return Err(malformed("?", &format!("a span of {tokens} tokens in a row with room for {room}")));
        }
        let columns = &mut self.columns;
        let begin = columns.tokens.len();
        let (end, erased) = (begin + tokens, write.is_none());
        if let Some(write) = write {
            write(&mut columns.tokens, &mut columns.targets);
            if columns.tokens.len() != end || columns.targets.len() != end {
                let (inputs, targets) =
                    (columns.tokens.len() - begin, columns.targets.len().saturating_sub(begin));
                let why = format!("a span of {tokens} tokens got {inputs} inputs and {targets} targets");
                return Err(malformed("?", &why));
            }
        }
        columns.pad(end, self.pad);
        columns.mask.append_n(tokens, !erased);
        let start = begin - columns.rows.len() * columns.length;
        columns.spans.push_piece(start, tokens, &piece, erased);
        Ok(())
    }

    fn end_row(&mut self) {
        if let Some((number, buffer)) = self.row.take() {
            let room = self.room();
            self.columns.pad(self.columns.end(), self.pad);
            self.columns.mask.append_n(room, false);
            self.columns.end_row(number, buffer.as_deref());
        }
    }

    /// The batch.
    ///
    /// # Errors
    /// Arrow's errors; rows that fit into memory cause none.
    pub fn finish(mut self) -> Result<Batch, WireError> {
        self.end_row();
        let length = self.columns.length;
        Ok(Batch::of_checked(self.columns.finish()?, length))
    }
}

/// The columns of a batch while rows are added.
#[derive(Debug)]
struct Columns {
    length: usize,
    rows: Vec<i64>,
    replayed: BooleanBufferBuilder,
    buffers: StringBuilder,
    tokens: Vec<i32>,
    targets: Vec<i32>,
    mask: BooleanBufferBuilder,
    spans: SpanColumns,
    /// Number of spans of each row, and their sum.
    counts: Vec<usize>,
    counted: usize,
}

impl Columns {
    fn new(length: usize, rows: usize) -> Self {
        let cells = length.saturating_mul(rows);
        Self {
            length,
            rows: Vec::with_capacity(rows),
            replayed: BooleanBufferBuilder::new(rows),
            buffers: StringBuilder::new(),
            tokens: Vec::with_capacity(cells),
            targets: Vec::with_capacity(cells),
            mask: BooleanBufferBuilder::new(cells),
            spans: SpanColumns::default(),
            counts: Vec::with_capacity(rows),
            counted: 0,
        }
    }

    /// Number of tokens at the end of the row that is being filled.
    fn end(&self) -> usize {
        (self.rows.len() + 1) * self.length
    }

    fn pad(&mut self, end: usize, pad: i32) {
        self.tokens.resize(end, pad);
        self.targets.resize(end, pad);
    }

    fn end_row(&mut self, number: u64, buffer: Option<&str>) {
        self.rows.push(i64::try_from(number).unwrap_or(i64::MAX));
        self.replayed.append(buffer.is_some());
        self.buffers.append_option(buffer);
        let all = self.spans.start.len();
        self.counts.push(all - self.counted);
        self.counted = all;
    }

    fn finish(mut self) -> Result<RecordBatch, WireError> {
        let length = self.length;
        let list = |values: ArrayRef| -> Result<ArrayRef, WireError> {
            let item = Arc::new(Field::new("item", values.data_type().clone(), false));
            Ok(Arc::new(FixedSizeListArray::try_new(item, list_size(length), values, None)?))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(self.rows)),
            Arc::new(BooleanArray::new(self.replayed.finish(), None)),
            Arc::new(self.buffers.finish()),
            list(Arc::new(Int32Array::from(self.tokens)))?,
            list(Arc::new(Int32Array::from(self.targets)))?,
            list(Arc::new(BooleanArray::new(self.mask.finish(), None)))?,
            self.spans.finish(self.counts)?,
        ];
        Ok(RecordBatch::try_new(batch_schema(length), columns)?)
    }
}

/// The column `spans` while spans are added.
#[derive(Debug, Default)]
struct SpanColumns {
    start: Vec<i32>,
    tokens: Vec<i32>,
    shard: StringBuilder,
    seq: Vec<i64>,
    offset: Vec<i64>,
    id: Vec<u8>,
    first_token: Vec<i64>,
    erased: Vec<bool>,
    probability: Vec<f64>,
}

impl SpanColumns {
    fn push(&mut self, span: &Span) {
        let Span { ref shard, seq, offset, id, first_token, probability, .. } = *span;
        let piece = Piece { shard, seq, offset, id, first_token, probability };
        self.push_piece(span.start as usize, span.tokens as usize, &piece, span.erased);
    }

    fn push_piece(&mut self, start: usize, tokens: usize, piece: &Piece<'_>, erased: bool) {
        self.start.push(i32::try_from(start).unwrap_or(i32::MAX));
        self.tokens.push(i32::try_from(tokens).unwrap_or(i32::MAX));
        self.shard.append_value(piece.shard.as_str());
        self.seq.push(piece.seq.to_i64());
        self.offset.push(piece.offset.to_i64());
        self.id.extend_from_slice(piece.id.as_bytes());
        self.first_token.push(i64::try_from(piece.first_token).unwrap_or(i64::MAX));
        self.erased.push(erased);
        self.probability.push(piece.probability);
    }

    fn finish(mut self, counts: Vec<usize>) -> Result<ArrayRef, WireError> {
        let id: ArrayRef = if self.id.is_empty() {
            new_empty_array(&DataType::FixedSizeBinary(16))
        } else {
            Arc::new(FixedSizeBinaryArray::try_new(16, self.id.into(), None)?)
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(self.start)),
            Arc::new(Int32Array::from(self.tokens)),
            Arc::new(self.shard.finish()),
            Arc::new(Int64Array::from(self.seq)),
            Arc::new(Int64Array::from(self.offset)),
            id,
            Arc::new(Int64Array::from(self.first_token)),
            Arc::new(BooleanArray::from(self.erased)),
            Arc::new(Float64Array::from(self.probability)),
        ];
        let spans = StructArray::try_new(span_fields(), columns, None)?;
        let item = Arc::new(Field::new("item", DataType::Struct(span_fields()), false));
        let offsets = OffsetBuffer::<i32>::from_lengths(counts);
        Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(spans), None)?))
    }
}
