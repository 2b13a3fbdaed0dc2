//! One training step of the byte model of one million parameters on one CPU thread, 1,024 tokens: documents
//! of one length and of many, f32 and bf16, at once and in parts. Run `cargo bench -p perennial-trainer`.
//!
//! The lower bound is the time of the matrix products: 6 operations per parameter and token, at the speed of
//! a single product of the same shape.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use perennial_program::error::Failure;
use perennial_schemas::id::{Offset, Step};
use perennial_schemas::seed::{Seed, below};
use perennial_schemas::wire::{Order, Position, Settings, Ticket, WIRE_FORMAT};
use perennial_trainer::device::Precision;
use perennial_trainer::feed::PackedBatch;
use perennial_trainer::step::{Learner, TrainConfig};
use perennial_trainer::torch::on_one_thread;
use tch::{Device, Kind, Tensor};

const TOKENS: usize = 1024;

fn ticket(step: Step) -> Ticket {
    Ticket {
        format: WIRE_FORMAT,
        job: "bench".into(),
        step,
        limit: Offset(0),
        settings: Settings { rows: 2, order: Order::Stream, keep: 1_000_000_000, mix: Default::default() },
        buffers: BTreeMap::new(),
        config: String::new(),
        seed: Seed::new(0),
        from: Position::default(),
    }
}

/// Documents of these lengths with random bytes.
fn packed(lengths: &[usize]) -> PackedBatch {
    let token = |document: usize, k: usize| below(Seed::new(1).at(&[document as u64, k as u64]), 256) as i64;
    let document = |(index, n): (usize, &usize)| {
        let tokens: Vec<i64> = (0..=*n).map(|k| token(index, k)).collect();
        (tokens[..*n].to_vec(), tokens[1..].to_vec())
    };
    let documents: Vec<_> = lengths.iter().enumerate().map(document).collect();
    PackedBatch::of_documents(&documents)
}

fn measure(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut group = criterion.benchmark_group("step");
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(TOKENS as u64));
    use Precision::{Bf16, F32};
    let (few, many) = (vec![256; 4], vec![32; 32]);
    let mixed = vec![256, 250, 6, 200, 56, 140, 116, 100, 90, 60, 30, 20];
    let cases = [
        ("4 documents of 256 tokens, f32", &few, F32, 0),
        ("4 documents of 256 tokens, f32, one by one", &few, F32, 1),
        ("4 documents of 256 tokens, bf16", &few, Bf16, 0),
        ("4 documents of 256 tokens, bf16, one by one", &few, Bf16, 1),
        ("32 documents of 32 tokens, f32", &many, F32, 0),
        ("32 documents of 32 tokens, bf16", &many, Bf16, 0),
        ("12 documents of 12 lengths, f32", &mixed, F32, 0),
        ("12 documents of 12 lengths, bf16", &mixed, Bf16, 0),
    ];
    for (name, lengths, precision, micro_rows) in cases {
        let packed = packed(lengths);
        let train_config = TrainConfig { precision, micro_rows, ..TrainConfig::default() };
        let mut learner = Learner::init(&train_config, Seed::new(0), Device::Cpu)?;
        group.throughput(Throughput::Elements(packed.tokens.len() as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| assert!(learner.step(&ticket(learner.at()), &packed).is_ok()));
        });
    }
    group.throughput(Throughput::Elements(TOKENS as u64));
    let ones = |shape: [i64; 2]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
    // 6 * 971,680 operations per token = 42.2 products of a token with a 160 x 432 matrix.
    let (x, w) = (ones([TOKENS as i64, 160]), ones([160, 432]));
    group.bench_function("floor: the products alone", |bench| {
        bench.iter(|| {
            for _ in 0..42 {
                drop(black_box(x.matmul(&w)));
            }
        });
    });
    group.finish();
    Ok(())
}

fn main() -> Result<(), Failure> {
    // As in a job: on the thread that calls libtorch.
    on_one_thread(1, || {
        let mut criterion = Criterion::default().configure_from_args();
        measure(&mut criterion)?;
        criterion.final_summary();
        Ok(())
    })
}
