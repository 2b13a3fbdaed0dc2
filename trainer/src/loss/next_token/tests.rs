use perennial_schemas::seed::Seed;
use perennial_schemas::wire::Batch;
use tch::{Device, Kind};

use super::*;
use crate::feed::to_host;
use crate::model::Decoder;
use crate::testing::{TEXT, numbers, row, tiny};

fn packed(replay_weight: f32) -> PackedBatch {
    let mut rows = [row(0, 12, &[5, 3], 0, TEXT, false), row(1, 12, &[4], 2, TEXT, true)];
    rows[0].mask[6] = false;
    PackedBatch::of_batch(&Batch::from_rows(12, &rows).unwrap(), &tiny(), replay_weight).unwrap()
}

/// -ln softmax of the target, by its definition.
fn nll(logits: &Tensor, packed: &PackedBatch) -> Vec<f64> {
    (0..packed.tokens.len())
        .map(|token| {
            let row = Vec::<f32>::try_from(logits.get(token as i64)).unwrap();
            let total: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            total.ln() - f64::from(row[packed.targets[token] as usize])
        })
        .collect()
}

#[test]
fn loss_is_the_weighted_mean_over_the_mask() {
    for replay_weight in [1.0, 0.25, 0.0] {
        let packed = packed(replay_weight);
        let logits = numbers(3, &[12, 258]) * 4.0;
        let wanted = nll(&logits, &packed);
        let loss = next_token(&logits, &packed, packed.weight());
        let (mut sum, mut weight) = (0.0, 0.0);
        for (nats, w) in wanted.iter().zip(&packed.weights) {
            sum += nats * f64::from(*w);
            weight += f64::from(*w);
        }
        assert!((loss.mean.double_value(&[]) - sum / weight).abs() < 1e-5);

        let tally = Tally::of(&packed, &to_host(&loss.nll).unwrap());
        assert_eq!((tally.new_text.tokens, tally.replayed.tokens, tally.all().tokens), (7, 4, 11));
        // The packed batch's order is by length: 3 tokens of row 0, the second of which does not count; row
        // 1; row 0.
        let new_text = wanted[0] + wanted[2] + wanted[7..].iter().sum::<f64>();
        assert!((tally.new_text.nats - new_text).abs() < 1e-4);
        assert!((tally.replayed.nats - wanted[3..7].iter().sum::<f64>()).abs() < 1e-4);
    }
}

#[test]
fn mean_of_nothing_is_none() {
    assert_eq!(Sum::default().mean(), None);
    assert_eq!(Sum { nats: 3.0, tokens: 2 }.mean(), Some(1.5));
}

#[test]
fn gradient_of_the_loss_agrees_with_finite_differences() {
    // The whole way, embedding to loss: f32 tensors, so the steps are as large as the curvature allows.
    let model = Decoder::init(&tiny(), Seed::new(3), Device::Cpu).unwrap();
    for tensor in model.tensors() {
        // Fresh weights are near zero, and so are their gradients: scale them up.
        let _ = tch::no_grad(|| tensor.shallow_clone().g_mul_scalar_(4.0));
    }
    let packed = packed(0.5);
    let input = packed.input(Device::Cpu);
    let loss = || next_token(&model.logits(&input), &packed, packed.weight()).mean;
    loss().backward();
    for (index, parameter) in model.parameters().iter().enumerate() {
        let direction = numbers(index as u64, &parameter.tensor.size());
        let direction = &direction / direction.norm();
        let slope = (parameter.tensor.grad() * &direction).sum(Kind::Double).double_value(&[]);
        let moved = |by: f64| {
            let _ = tch::no_grad(|| parameter.tensor.shallow_clone().g_add_(&(&direction * by)));
        };
        let step = 1e-2;
        moved(step);
        let up = loss().double_value(&[]);
        moved(-2.0 * step);
        let down = loss().double_value(&[]);
        moved(step);
        let measured = (up - down) / (2.0 * step);
        let scale = parameter.tensor.grad().norm().double_value(&[]);
        assert!(scale > 1e-6, "{} has no gradient", parameter.name);
        assert!(
            (measured - slope).abs() < 0.02 * scale + 2e-4,
            "{}: {measured} is not {slope}",
            parameter.name
        );
    }
}
