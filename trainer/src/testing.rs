//! Helpers of several modules' tests: small models, batches and texts.

use std::collections::BTreeMap;

use perennial_schemas::id::{Offset, RecordId, Seq, Step};
use perennial_schemas::seed::{Seed, below};
use perennial_schemas::wire::{
    Batch, BatchRow, Cursor, Order, Position, Settings, Span, Ticket, WIRE_FORMAT,
};
use tch::{Device, Tensor};

use crate::checkpoint::{JobPosition, Start};
use crate::feed::{Delivery, PackedBatch};
use crate::model::ModelConfig;
use crate::step::{Learner, TrainConfig};

/// A model of a few thousand parameters with shared key heads.
pub fn tiny() -> ModelConfig {
    ModelConfig {
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        intermediate_size: Some(48),
        max_position_embeddings: 32,
        ..ModelConfig::default()
    }
}

/// The training configuration of a tiny learner with one average.
pub fn train_config() -> TrainConfig {
    let mut train_config = TrainConfig { model: tiny(), ..TrainConfig::default() };
    train_config.schedule.warmup = 4;
    train_config.schedule.learning_rate = 3e-3;
    train_config.average.windows = vec![4];
    train_config
}

/// A row of documents of these lengths, consecutive from position `gap`, the rest padding. Tokens are those
/// of `text`, each predicting the next one; the last of a document predicts the boundary.
pub fn row(
    number: u64,
    length: usize,
    lengths: &[usize],
    gap: usize,
    text: &[u8],
    replayed: bool,
) -> BatchRow {
    let (mut tokens, mut targets, mut mask) = (vec![257; length], vec![257; length], vec![false; length]);
    let mut spans = Vec::new();
    let mut start = gap;
    for (index, n) in lengths.iter().enumerate() {
        for k in 0..*n {
            let at = |k: usize| i32::from(text[(start + k) % text.len()]);
            tokens[start + k] = at(k);
            targets[start + k] = if k + 1 < *n { at(k + 1) } else { 256 };
            mask[start + k] = true;
        }
        spans.push(Span {
            start: start as u32,
            tokens: *n as u32,
            shard: "main".parse().unwrap(),
            seq: Seq(number * 100 + index as u64),
            id: RecordId::from_hash(u128::from(number)),
            offset: Offset(number * 100 + index as u64),
            first_token: 0,
            erased: false,
            probability: 1.0,
        });
        start += n;
    }
    BatchRow { row: number, buffer: replayed.then(|| "main".into()), tokens, targets, mask, spans }
}

/// The ticket of a step.
pub fn ticket(step: u64) -> Ticket {
    Ticket {
        format: WIRE_FORMAT,
        job: "test".into(),
        step: Step(step),
        limit: Offset(0),
        settings: Settings { rows: 2, order: Order::Stream, keep: 1_000_000_000, mix: Default::default() },
        buffers: BTreeMap::new(),
        config: "0".repeat(32),
        seed: Seed::new(0),
        from: Position { row: step * 2, ..Position::default() },
    }
}

/// The training text of small learners.
pub const TEXT: &[u8] = b"what is learnt today is not to be forgotten tomorrow; ";

/// The delivery of a step: two rows of several documents, the second replayed.
pub fn delivery(step: u64, model: &ModelConfig) -> Delivery {
    let cut = |k: u64| usize::try_from(below(Seed::new(1).at(&[step, k]), 8)).unwrap() + 1;
    let (a, b) = (cut(0), cut(1));
    let shifted: Vec<u8> = TEXT.iter().copied().cycle().skip(step as usize).take(TEXT.len()).collect();
    let rows =
        [row(step * 2, 24, &[a, b, a], 0, &shifted, false), row(step * 2 + 1, 24, &[b, 10], 1, TEXT, true)];
    let batch = Batch::from_rows(24, &rows).unwrap();
    let packed = PackedBatch::of_batch(&batch, model, 1.0).unwrap();
    let new_text = Cursor { offset: Offset(step + 1), token: 3 };
    let next = Position { row: step * 2 + 2, new_text, ..Position::default() };
    Delivery { ticket: ticket(step), packed, next }
}

/// A batch of rows of 28 tokens with documents of these lengths, every second row replayed; no prediction of
/// row k counts if bit k of `masked` is set.
pub fn rows_of(cuts: &[Vec<usize>], masked: u32, replay_weight: f32) -> PackedBatch {
    let mut rows: Vec<BatchRow> =
        (0..).zip(cuts).map(|(number, lengths)| row(number, 28, lengths, 1, TEXT, number % 2 == 1)).collect();
    for (row, _) in rows.iter_mut().zip(0..32).filter(|(_, bit)| (masked >> bit) & 1 == 1) {
        row.mask.fill(false);
    }
    PackedBatch::of_batch(&Batch::from_rows(28, &rows).unwrap(), &tiny(), replay_weight).unwrap()
}

/// An untrained learner.
pub fn following(train_config: &TrainConfig) -> Learner {
    Learner::init(train_config, Seed::new(11), Device::Cpu).unwrap()
}

/// The tiny learner after this many steps.
pub fn learned(steps: u64) -> Learner {
    let mut learner = following(&train_config());
    learn(&mut learner, steps);
    learner
}

/// Trains until `until` steps are done.
pub fn learn(learner: &mut Learner, until: u64) {
    while learner.at().0 < until {
        let delivery = delivery(learner.at().0, &train_config().model);
        learner.step(&delivery.ticket, &delivery.packed).unwrap();
    }
}

/// The initial position of these learners' job.
pub fn position() -> JobPosition {
    JobPosition {
        job: "test".into(),
        tokens: 0,
        next: Position::default(),
        config: "0".repeat(32),
        start: Start::Seed(Seed::new(11)),
        branched: None,
    }
}

/// Numbers from -1 to 1, a function of the seed.
pub fn numbers(seed: u64, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let values: Vec<f32> = (0..count as u64)
        .map(|k| (perennial_schemas::seed::unit(Seed::new(seed).at(&[k])) * 2.0 - 1.0) as f32)
        .collect();
    Tensor::from_slice(&values).view(shape).to_device(Device::Cpu)
}

/// The largest difference between two tensors.
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}
