use std::path::Path;

use perennial_replay::tokenise::Tokenizer;
use proptest::prelude::*;

use super::*;
use crate::checkpoint::{self, TensorFile};
use crate::evaluate::held_out;
use crate::testing::{delivery, distance, following, learned, position, rows_of, ticket, train_config};

fn losses(learner: &mut Learner, steps: std::ops::Range<u64>) -> Vec<f64> {
    let step = |step| {
        let delivery = delivery(step, &train_config().model);
        learner.step(&delivery.ticket, &delivery.packed).unwrap().loss.unwrap()
    };
    steps.map(step).collect()
}

/// Losses of 20 steps, seed 11: a change that moves them changes every model trained from here on.
const GOLDEN: [f64; 20] = [
    5.5803089, 5.5080605, 5.3450031, 5.1595726, 4.9932880, 4.8527341, 4.6555519, 4.6262031, 4.4436808,
    4.3294349, 4.0749097, 3.9990580, 4.0090919, 3.8470345, 3.7144375, 3.6559672, 3.5099366, 3.4629431,
    3.1817100, 2.9923637,
];

#[test]
fn losses_of_twenty_steps_are_as_they_always_were() {
    let found = losses(&mut learned(0), 0..20);
    for (step, (found_one, golden)) in found.iter().zip(GOLDEN).enumerate() {
        assert!(
            (found_one / golden - 1.0).abs() < 1e-5,
            "step {step}: {found_one} is not {golden}; all: {found:?}"
        );
    }
}

#[test]
fn same_tickets_give_the_same_bits() {
    let (mut a, mut b) = (learned(0), learned(0));
    assert_eq!(losses(&mut a, 0..5), losses(&mut b, 0..5));
    for (a, b) in a.model().tensors().zip(b.model().tensors()) {
        assert!(a.equal(b));
    }
}

#[test]
fn a_step_reports_rate_norm_and_losses_before_the_update() {
    let mut learner = learned(0);
    let delivery = delivery(0, &train_config().model);
    let outcome = learner.step(&delivery.ticket, &delivery.packed).unwrap();
    assert_eq!(outcome.step, Step(0));
    assert!((outcome.learning_rate - 3e-3 / 4.0).abs() < 1e-12);
    assert!(outcome.norm > 0.0);
    // Equal weights: the objective is the mean of the tally, and a new model knows nothing.
    let mean = outcome.tally.all().mean().unwrap();
    assert!((outcome.loss.unwrap() - mean).abs() < 1e-5);
    assert!((mean - 258_f64.ln()).abs() < 0.1, "{mean}");
    let counted = delivery.packed.segments.iter().map(|segment| segment.counted as u64);
    assert_eq!(outcome.tally.all().tokens, counted.sum::<u64>());
    assert_eq!(learner.at(), Step(1));
    assert_eq!(learner.averages().updates(), 1);
}

#[test]
fn a_ticket_of_another_step_is_refused() {
    let mut learner = learned(0);
    let delivery = delivery(3, &train_config().model);
    let error = learner.step(&delivery.ticket, &delivery.packed).unwrap_err();
    assert!(matches!(error, StepError::Order { found: Step(3), wanted: Step(0) }), "{error}");
}

#[test]
fn a_batch_without_text_makes_a_step_and_changes_nothing() {
    let mut learner = learned(0);
    let before: Vec<Tensor> = learner.model().tensors().map(|tensor| tensor.detach().copy()).collect();
    let outcome = learner.step(&ticket(0), &PackedBatch::default()).unwrap();
    assert_eq!((outcome.loss, outcome.tally), (None, Tally::default()));
    assert_eq!(learner.at(), Step(1));
    assert!(learner.model().tensors().zip(&before).all(|(after, before)| after.equal(before)));
}

#[test]
fn a_gradient_that_is_not_finite_stops_the_job_and_leaves_the_weights() {
    for precision in [Precision::F32, Precision::Bf16] {
        let mut learner = following(&TrainConfig { precision, ..train_config() });
        losses(&mut learner, 0..1);
        let broken = learner.model().parameters()[2].tensor.shallow_clone();
        let _ = tch::no_grad(|| broken.shallow_clone().get(0).fill_(f64::INFINITY));
        let before: Vec<Tensor> = learner.model().tensors().map(|tensor| tensor.detach().copy()).collect();
        let delivery = delivery(1, &train_config().model);
        let error = learner.step(&delivery.ticket, &delivery.packed).unwrap_err();
        assert!(matches!(error, StepError::NotFinite { step: Step(1), .. }), "{error}");
        assert!(error.to_string().contains(&delivery.ticket.to_json()));
        assert!(learner.model().tensors().zip(&before).all(|(after, before)| after.equal(before)));
    }
}

#[test]
fn what_libtorch_refuses_carries_the_ticket() {
    crate::torch::quiet_panics();
    let mut learner = learned(0);
    let mut delivery = delivery(0, &train_config().model);
    delivery.packed.targets.pop();
    let error = learner.step(&delivery.ticket, &delivery.packed).unwrap_err();
    assert!(error.to_string().contains(&delivery.ticket.to_json()), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("libtorch failed: ") && !source.contains('\n'), "{source}");
}

#[test]
fn recipes_that_no_learner_can_follow_are_refused() {
    let refused = |change: fn(&mut TrainConfig)| {
        let mut train_config = train_config();
        change(&mut train_config);
        let error = Learner::init(&train_config, Seed::new(0), Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        error
    };
    assert!(matches!(
        refused(|train_config| train_config.model.num_attention_heads = 5),
        TrainConfigError::Model(_)
    ));
    assert!(matches!(refused(|train_config| train_config.optim.beta1 = 2.0), TrainConfigError::Optim(_)));
    assert!(matches!(
        refused(|train_config| train_config.average.windows = vec![0]),
        TrainConfigError::Average(_)
    ));
    assert!(matches!(
        refused(|train_config| train_config.schedule.learning_rate = -1.0),
        TrainConfigError::Rate(_)
    ));
}

fn in_bf16() -> TrainConfig {
    TrainConfig { precision: Precision::Bf16, ..train_config() }
}

/// Losses of 60 steps on 256 bytes each of speeches that come with the demo.
fn curve(train_config: &TrainConfig) -> Vec<f64> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/slices.toml");
    let slices = held_out::load(&list, &Tokenizer::Bytes, 20_000, 20_000).unwrap();
    let speeches = slices.iter().find(|slice| slice.entry.name.starts_with("us-speeches")).unwrap();
    let tokens: Vec<i64> = speeches.documents.iter().flat_map(|document| document.tokens.clone()).collect();
    let documents: Vec<(Vec<i64>, Vec<i64>)> =
        tokens.windows(33).step_by(32).map(|window| (window[..32].to_vec(), window[1..].to_vec())).collect();
    let mut learner = following(train_config);
    let batches = documents.chunks_exact(8).take(60);
    let losses: Vec<f64> = batches
        .zip(0..)
        .map(|(batch, step)| {
            learner.step(&ticket(step), &PackedBatch::of_documents(batch)).unwrap().loss.unwrap()
        })
        .collect();
    assert_eq!(losses.len(), 60);
    losses
}

#[test]
fn bf16_learns_real_text_as_f32_does() {
    // At the learning rate of the other tests, what a young model makes of a byte that it has seen once or
    // twice hangs on the last bits, in f32 too.
    let [wide, narrow] = [train_config(), in_bf16()].map(|mut train_config| {
        train_config.schedule.learning_rate = 1e-3;
        curve(&train_config)
    });
    for (step, (wide, narrow)) in wide.iter().zip(&narrow).enumerate() {
        // Measured: at most 0.0021.
        assert!((wide - narrow).abs() < 0.01, "step {step}: {narrow} in bf16, {wide} in f32");
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&narrow[50..]) < mean(&narrow[..5]) - 1.5, "{narrow:?}");
    assert!(wide.iter().zip(&narrow).any(|(wide, narrow)| wide.to_bits() != narrow.to_bits()));
}

#[test]
fn a_change_smaller_than_the_last_bit_of_bf16_is_not_lost() {
    let mut train_config = in_bf16();
    train_config.schedule.learning_rate = 1e-4;
    train_config.schedule.warmup = 0;
    let mut learner = following(&train_config);
    let norm = learner.model().parameters().last().unwrap().tensor.detach();
    let rounded = |tensor: &Tensor| tensor.to_kind(tch::Kind::BFloat16).to_kind(tch::Kind::Float);
    let mut largest = 0.0;
    for step in 1..=60 {
        losses(&mut learner, step - 1..step);
        let moved = distance(&norm, &norm.ones_like());
        // AdamW moves a weight by about the learning rate: 1/39 of half the last bit of bf16 below 1.
        assert!(moved > largest, "step {step}: {moved} after {largest}");
        assert_eq!(step == 1, moved < 1.1e-4, "step {step}: {moved}");
        largest = moved;
        if step == 1 {
            assert!(rounded(&norm).equal(&norm.ones_like()), "the copy does not see it yet");
        }
    }
    assert!(!rounded(&norm).equal(&norm.ones_like()), "in the end it does");
}

#[test]
fn a_job_in_bf16_is_saved_in_f32_and_goes_on_with_the_bits_of_one_that_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let train_config = TrainConfig { micro_rows: 1, ..in_bf16() };
    let mut straight = following(&train_config);
    let first = losses(&mut straight, 0..3);
    let path = checkpoint::save(dir.path(), &straight, &position(), 1).unwrap();
    let second = losses(&mut straight, 3..8);

    let resumed = checkpoint::load(&path, Device::Cpu, |_| {}).unwrap();
    assert_eq!(resumed.state.train_config, train_config);
    let mut resumed = resumed.learner;
    assert_eq!(losses(&mut resumed, 3..8), second);
    for (a, b) in straight.model().tensors().zip(resumed.model().tensors()) {
        assert!(a.equal(b));
    }
    let mut again = following(&train_config);
    assert_eq!(losses(&mut again, 0..3), first);

    for name in ["model.safetensors", "trainer.safetensors"] {
        let mut file = TensorFile::open(&path.join(name)).unwrap();
        for name in file.names().iter().filter(|name| !name.starts_with("rng")) {
            assert_eq!(file.read(name).unwrap().kind(), tch::Kind::Float, "{name}");
        }
    }
    // The masters are not what bf16 can say: nothing was rounded on the way.
    let mut file = TensorFile::open(&path.join("model.safetensors")).unwrap();
    let embedding = file.read("model.embed_tokens.weight").unwrap();
    assert!(!embedding.equal(&embedding.to_kind(tch::Kind::BFloat16).to_kind(tch::Kind::Float)));
}

/// Loss and gradients of a packed batch that goes through the model `rows` rows at a time.
fn gradients(learner: &Learner, packed: &PackedBatch, rows: u64) -> (f64, Vec<Tensor>) {
    let total = packed.weight();
    let parts = packed.split(rows);
    let means = parts.iter().map(|part| learner.backward(part, total).unwrap().mean.double_value(&[]));
    let mean = means.sum();
    let all = learner.model().tensors().map(|tensor| tensor.grad().copy()).collect();
    learner.optimizer.drop_gradients().unwrap();
    (mean, all)
}

/// |a - b| / |b| over all of them.
fn apart(a: &[Tensor], b: &[Tensor]) -> f64 {
    let square = |x: Tensor| x.square().sum(tch::Kind::Double).double_value(&[]);
    let (mut difference, mut size) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        difference += square(a - b);
        size += square(b.shallow_clone());
    }
    (difference / size).sqrt()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_split_of_a_batch_gives_its_loss_and_gradients(
        cuts in prop::collection::vec(prop::collection::vec(1_usize..6, 1..5), 1..7),
        masked in 0_u32..64,
        rows in 1_u64..7,
        replay_weight in prop::sample::select(vec![1.0_f32, 0.25, 3.0]),
    ) {
        let packed = rows_of(&cuts, masked, replay_weight);
        prop_assume!(packed.weight() > 0.0);
        let learner = following(&train_config());
        let (wanted, whole) = gradients(&learner, &packed, 0);
        let (found, split) = gradients(&learner, &packed, rows);
        prop_assert!((found / wanted - 1.0).abs() < 1e-5, "{found} is not {wanted}");
        let apart = apart(&split, &whole);
        prop_assert!(apart < 1e-5, "{apart}");
    }

    #[test]
    fn a_split_step_tells_the_losses_of_the_undivided_one(
        cuts in prop::collection::vec(prop::collection::vec(1_usize..6, 0..5), 1..7),
        masked in 0_u32..64,
        rows in 1_u32..7,
    ) {
        let packed = rows_of(&cuts, masked, 0.5);
        let made = |micro_rows| {
            let mut learner = following(&TrainConfig { micro_rows, ..train_config() });
            learner.step(&ticket(0), &packed).unwrap()
        };
        let (whole, split) = (made(0), made(rows));
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs();
        prop_assert!(close(split.loss.unwrap_or(0.0), whole.loss.unwrap_or(0.0)));
        prop_assert!(close(split.norm, whole.norm), "{} is not {}", split.norm, whole.norm);
        let sums = |tally: Tally| [tally.new_text, tally.replayed];
        for (found, wanted) in sums(split.tally).into_iter().zip(sums(whole.tally)) {
            prop_assert_eq!(found.tokens, wanted.tokens);
            prop_assert!(close(found.nats, wanted.nats), "{} is not {}", found.nats, wanted.nats);
        }
    }
}

#[test]
fn as_many_micro_rows_as_a_batch_has_are_the_undivided_step_bit_for_bit() {
    for precision in [Precision::F32, Precision::Bf16] {
        // The batches have two rows.
        let [whole, two, many, one] = [0, 2, 9, 1].map(|micro_rows| {
            let mut learner = following(&TrainConfig { micro_rows, precision, ..train_config() });
            (losses(&mut learner, 0..4), learner)
        });
        for other in [two, many] {
            assert_eq!(whole.0, other.0);
            assert!(whole.1.model().tensors().zip(other.1.model().tensors()).all(|(a, b)| a.equal(b)));
        }
        assert!(whole.1.model().tensors().zip(one.1.model().tensors()).any(|(a, b)| !a.equal(b)));
    }
}

#[test]
fn gradients_of_many_small_parts_are_not_rounded_away_in_bf16() {
    let cuts: Vec<Vec<usize>> = (0..512_usize).map(|row| vec![1 + row % 5]).collect();
    let packed = rows_of(&cuts, 0, 1.0);
    let (_, wanted) = gradients(&following(&train_config()), &packed, 0);
    let learner = following(&in_bf16());
    let [whole, split] = [0, 1].map(|rows| apart(&gradients(&learner, &packed, rows).1, &wanted));
    assert!(whole < 0.02 && split < 0.02, "{whole} in one go, {split} row by row");
}
