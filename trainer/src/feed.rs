//! From batches to tensors. Shapes, token ranges and masks are checked here, once.
//!
//! A batch becomes a [`PackedBatch`]: its tokens document by document, documents of equal length next to each
//! other, without padding and erased text. A packed batch is plain numbers, so any thread can prepare it;
//! [`PackedBatch::input`] makes its tensors in the thread that calls libtorch.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::mpsc::sync_channel;

use perennial_program::error::{Failure, Kind, ProgramError};
use perennial_schemas::wire::{Batch, Position, Ticket, WireError};
use tch::{Device, Tensor};

use crate::model::{Documents, Input, ModelConfig};
use crate::torch::TorchError;

/// A batch that this model cannot learn from.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// A row is longer than the model's context.
    #[error("rows of {length} tokens are longer than the model's `max_position_embeddings`, {context}")]
    Length {
        /// Tokens of a row.
        length: usize,
        /// `model.max_position_embeddings`.
        context: u32,
    },
    /// A token is not in the vocabulary.
    #[error("row {row} holds token {token} at position {place}; the vocabulary ends at {last}")]
    Token {
        /// The row in the batch.
        row: usize,
        /// The position in the row.
        place: usize,
        /// The token.
        token: i32,
        /// The largest token.
        last: i64,
    },
    /// A prediction counts but belongs to no text.
    #[error("row {row} counts the prediction at position {place}, which belongs to no record")]
    Mask {
        /// The row in the batch.
        row: usize,
        /// The position in the row.
        place: usize,
    },
    /// The batch is malformed.
    #[error("the batch cannot be read")]
    Wire(#[from] WireError),
    /// The thread that prefetches batches is gone.
    #[error("the thread that prefetches batches ended without a result")]
    Gone,
    /// The thread that prefetches batches cannot be started.
    #[error("cannot start the thread that prefetches batches")]
    Thread(#[from] std::io::Error),
}

impl ProgramError for FeedError {
    fn kind(&self) -> Kind {
        match self {
            Self::Length { .. } | Self::Token { .. } => Kind::Config,
            Self::Mask { .. } | Self::Wire(_) => Kind::Input,
            Self::Gone => Kind::Bug,
            Self::Thread(_) => Kind::Unavailable,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Length { length, .. } => Some(format!(
                "set `model.max_position_embeddings` to {length}, or lower `replay.batch.tokens`"
            )),
            Self::Token { token, .. } => Some(format!(
                "set `model.vocab_size` above {token}, or use the tokenizer of this model in `replay.batch.tokenizer`"
            )),
            _ => None,
        }
    }
}

/// One document of a packed batch: a segment of a record in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The row in the batch.
    pub row: usize,
    /// Whether the row was replayed.
    pub replayed: bool,
    /// First token in the packed batch.
    pub start: usize,
    /// Tokens.
    pub tokens: usize,
    /// Predictions that count.
    pub counted: usize,
}

/// A batch as numbers, document by document. All lists except `segments` have one entry per token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PackedBatch {
    /// Inputs.
    pub tokens: Vec<i64>,
    /// The token that follows each input.
    pub targets: Vec<i64>,
    /// Whether the prediction of each target counts.
    pub counts: Vec<bool>,
    /// The prediction's weight in the loss; 0 if it does not count.
    pub weights: Vec<f32>,
    /// The documents' lengths, in the order of the tokens.
    pub documents: Documents,
    /// The documents, in the order of the tokens.
    pub segments: Vec<Segment>,
    /// Rows of the batch.
    pub rows: u64,
}

impl PackedBatch {
    /// Checks and packs a batch. Predictions in replayed rows have weight `replay_weight`, others 1.
    ///
    /// # Errors
    /// [`FeedError`] if the batch does not fit the model.
    pub fn of_batch(batch: &Batch, model: &ModelConfig, replay_weight: f32) -> Result<Self, FeedError> {
        let length = batch.length();
        if length as u64 > u64::from(model.max_position_embeddings) {
            return Err(FeedError::Length { length, context: model.max_position_embeddings });
        }
        let mask = batch.mask();
        check_tokens(batch, i64::from(model.vocab_size) - 1)?;
        let mut segments = Vec::new();
        for row in 0..batch.rows() {
            let first = row * length;
            let mut end = 0;
            for segment in &batch.spans(row)? {
                let (start, tokens) = (segment.start as usize, segment.tokens as usize);
                check_gap(&mask, row, length, end..start)?;
                end = start + tokens;
                let counted = mask
                    .get(first + start..first + end)
                    .map_or(0, |bits| bits.iter().filter(|bit| **bit).count());
                // Erased text is padding: it is neither learnt nor attended to.
                if !segment.erased {
                    segments.push(Segment {
                        row,
                        replayed: batch.is_replayed(row),
                        start: first + start,
                        tokens,
                        counted,
                    });
                } else if counted > 0 {
                    return Err(FeedError::Mask { row, place: start });
                }
            }
            check_gap(&mask, row, length, end..length)?;
        }
        // Stable: segments of equal length stay in the batch's order.
        segments.sort_by_key(|segment| segment.tokens);
        let mut packed = Self { rows: batch.rows() as u64, ..Self::default() };
        for segment in segments {
            let from = segment.start..segment.start + segment.tokens;
            let long = |tokens: &[i32]| -> Vec<i64> {
                tokens.get(from.clone()).unwrap_or_default().iter().map(|token| i64::from(*token)).collect()
            };
            let counts = mask.get(from.clone()).unwrap_or_default();
            let weight = if segment.replayed { replay_weight } else { 1.0 };
            packed.push(segment, long(batch.tokens()), long(batch.targets()), counts, weight);
        }
        packed.lay_out();
        Ok(packed)
    }

    /// A packed batch of documents to predict: `(inputs, targets)` of equal length, which must fit the model;
    /// shorter ones first, so that equal lengths are next to each other. `Segment::row` is the document's
    /// index.
    #[must_use]
    pub fn of_documents(documents: &[(Vec<i64>, Vec<i64>)]) -> Self {
        let mut order: Vec<usize> = (0..documents.len()).collect();
        order.sort_by_key(|index| documents.get(*index).map(|(tokens, _)| tokens.len()));
        let mut packed = Self { rows: documents.len() as u64, ..Self::default() };
        for row in order {
            let Some((tokens, targets)) = documents.get(row).filter(|(tokens, _)| !tokens.is_empty()) else {
                continue;
            };
            let n = tokens.len();
            let segment = Segment { row, replayed: false, start: 0, tokens: n, counted: n };
            packed.push(segment, tokens.clone(), targets.clone(), &vec![true; n], 1.0);
        }
        packed.lay_out();
        packed
    }

    fn push(&mut self, segment: Segment, tokens: Vec<i64>, targets: Vec<i64>, counts: &[bool], weight: f32) {
        self.segments.push(Segment { start: self.tokens.len(), ..segment });
        self.tokens.extend(tokens);
        self.targets.extend(targets);
        self.counts.extend(counts);
        self.weights.extend(counts.iter().map(|counts| if *counts { weight } else { 0.0 }));
    }

    fn lay_out(&mut self) {
        self.documents = Documents::of_lengths(self.segments.iter().map(|segment| segment.tokens as i64));
    }

    /// The packed batch in parts of `rows` rows each, in the batch's order, without rows in which nothing
    /// counts; the packed batch itself if `rows` is 0 or at least its number of rows.
    #[must_use]
    pub fn split(&self, rows: u64) -> Vec<Cow<'_, Self>> {
        if rows == 0 || rows >= self.rows {
            return vec![Cow::Borrowed(self)];
        }
        let counts: BTreeSet<usize> =
            self.segments.iter().filter(|segment| segment.counted > 0).map(|segment| segment.row).collect();
        let counts: Vec<usize> = counts.into_iter().collect();
        let parts = counts.chunks(usize::try_from(rows).unwrap_or(usize::MAX));
        parts.map(|rows| Cow::Owned(self.part(rows))).collect()
    }

    /// The documents of these rows; `rows` is sorted.
    fn part(&self, rows: &[usize]) -> Self {
        let mut part = Self { rows: rows.len() as u64, ..Self::default() };
        for segment in self.segments.iter().filter(|segment| rows.binary_search(&segment.row).is_ok()) {
            let from = segment.start..segment.start + segment.tokens;
            part.segments.push(Segment { start: part.tokens.len(), ..*segment });
            part.tokens.extend_from_slice(self.tokens.get(from.clone()).unwrap_or_default());
            part.targets.extend_from_slice(self.targets.get(from.clone()).unwrap_or_default());
            part.counts.extend_from_slice(self.counts.get(from.clone()).unwrap_or_default());
            part.weights.extend_from_slice(self.weights.get(from).unwrap_or_default());
        }
        part.lay_out();
        part
    }

    /// The sum of all weights; 0 if there is nothing to learn.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight)).sum()
    }

    /// Its tokens as tensors on the device.
    #[must_use]
    pub fn input(&self, device: Device) -> Input {
        Input {
            tokens: Tensor::from_slice(&self.tokens).to_device(device),
            positions: Tensor::from_slice(&self.documents.positions()).to_device(device),
            documents: self.documents.clone(),
        }
    }
}

fn check_tokens(batch: &Batch, last: i64) -> Result<(), FeedError> {
    for tokens in [batch.tokens(), batch.targets()] {
        // `Batch` holds no negative token.
        if let Some(at) = tokens.iter().position(|token| i64::from(*token) > last) {
            let (row, place) = (at / batch.length().max(1), at % batch.length().max(1));
            return Err(FeedError::Token {
                row,
                place,
                token: tokens.get(at).copied().unwrap_or_default(),
                last,
            });
        }
    }
    Ok(())
}

fn check_gap(mask: &[bool], row: usize, length: usize, gap: std::ops::Range<usize>) -> Result<(), FeedError> {
    let counts = |place: &usize| mask.get(row * length + place).copied().unwrap_or(false);
    gap.clone().find(counts).map_or(Ok(()), |place| Err(FeedError::Mask { row, place }))
}

/// A batch on its way to a step.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Names the batch.
    pub ticket: Ticket,
    /// The packed batch.
    pub packed: PackedBatch,
    /// The position of the new text after this batch.
    pub next: Position,
}

/// Returns a job's deliveries in order; `None` if the stream has ended.
pub type Feed = Box<dyn FnMut() -> Result<Option<Delivery>, Failure> + Send>;

/// The deliveries of `feed`, prefetched by a thread; at most `depth` of them wait. An error or the end of
/// `feed` comes after the deliveries before it.
///
/// # Errors
/// [`FeedError::Thread`] if no thread can be started.
pub fn prefetch(mut feed: Feed, depth: usize) -> Result<Feed, FeedError> {
    let (sender, queue) = sync_channel(depth.max(1));
    let make = move || {
        loop {
            let made = feed();
            let last = !matches!(made, Ok(Some(_)));
            // Sending fails once the receiver is dropped.
            if sender.send(made).is_err() || last {
                return;
            }
        }
    };
    std::thread::Builder::new().name("feed".into()).spawn(make)?;
    let mut ended = false;
    Ok(Box::new(move || {
        if ended {
            return Ok(None);
        }
        let made = queue.recv().unwrap_or_else(|_| Err(FeedError::Gone.into()));
        ended = !matches!(made, Ok(Some(_)));
        made
    }))
}

/// A tensor's numbers on the host, flattened.
///
/// # Errors
/// [`TorchError::Refused`] if the tensor does not hold floating-point numbers.
pub fn to_host(tensor: &Tensor) -> Result<Vec<f32>, TorchError> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(tch::Kind::Float).contiguous().flatten(0, -1);
    Vec::<f32>::try_from(flat).map_err(|error| TorchError::Refused(error.to_string()))
}

#[cfg(test)]
mod tests;
