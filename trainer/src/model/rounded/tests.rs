use perennial_schemas::seed::Seed;
use tch::Device;

use super::*;
use crate::feed::PackedBatch;
use crate::loss::next_token::next_token;
use crate::model::ModelConfig;
use crate::testing::{delivery, distance, tiny};

/// A model whose weights are far enough from 0 to have gradients that say something.
fn masters(config: &ModelConfig) -> Decoder {
    let model = Decoder::init(config, Seed::new(3), Device::Cpu).unwrap();
    for tensor in model.tensors() {
        let _ = tch::no_grad(|| tensor.shallow_clone().g_mul_scalar_(3.0));
    }
    model
}

/// The gradients of the masters, computed in f32 or through a rounded copy.
fn gradients(masters: &Decoder, rounded: Option<&Rounded>, packed: &PackedBatch) -> Vec<Tensor> {
    let input = packed.input(Device::Cpu);
    let logits = rounded.map_or_else(|| masters.logits(&input), |rounded| rounded.logits(&input));
    assert_eq!(logits.kind(), Kind::Float);
    next_token(&logits, packed, packed.weight()).mean.backward();
    if let Some(rounded) = rounded {
        rounded.collect_gradients().unwrap();
    }
    let all = masters.tensors().map(|tensor| tensor.grad().copy()).collect();
    torch::drop_gradients(masters.tensors()).unwrap();
    all
}

/// |a - b| / |b|
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(a - b)) / norm(b)
}

#[test]
fn gradients_of_bf16_arrive_in_f32_and_follow_those_of_f32() {
    for tied in [true, false] {
        let masters = masters(&ModelConfig { tie_word_embeddings: tied, ..tiny() });
        let rounded = Rounded::of(&masters).unwrap();
        for step in 0..3 {
            let packed = delivery(step, masters.config()).packed;
            let wanted = gradients(&masters, None, &packed);
            let found = gradients(&masters, Some(&rounded), &packed);
            for ((found, wanted), parameter) in found.iter().zip(&wanted).zip(masters.parameters()) {
                assert_eq!(found.kind(), Kind::Float);
                let apart = apart(found, wanted);
                // 2^-8 for each of some ten roundings on the way; measured: up to 0.02.
                assert!(apart > 0.0 && apart < 0.04, "{}: {apart}", parameter.name);
            }
        }
    }
}

#[test]
fn a_token_that_comes_often_has_the_whole_of_its_gradient() {
    // Untied, so that nothing but the look-up gives the embedding a gradient.
    let masters = masters(&ModelConfig { tie_word_embeddings: false, ..tiny() });
    let rounded = Rounded::of(&masters).unwrap();
    let document = (vec![101_i64; 32], vec![102_i64; 32]);
    let packed = PackedBatch::of_documents(&vec![document; 64]);
    let wanted = gradients(&masters, None, &packed);
    let found = gradients(&masters, Some(&rounded), &packed);
    let apart = apart(&found[0], &wanted[0]);
    assert!(apart < 0.02, "{apart}");
}

#[test]
fn rows_rounded_after_the_look_up_give_the_logits_of_a_model_that_is_bf16_throughout() {
    let masters = masters(&tiny());
    let halves = masters.parameters().iter().map(|parameter| Parameter {
        name: parameter.name.clone(),
        tensor: parameter.tensor.detach().to_kind(Kind::BFloat16),
    });
    let twin = Decoder::assemble(tiny(), halves.collect(), Device::Cpu).unwrap();
    let input = delivery(1, &tiny()).packed.input(Device::Cpu);
    assert!(Rounded::of(&masters).unwrap().logits(&input).equal(&twin.logits(&input)));
}

#[test]
fn documents_are_read_as_if_each_were_alone_in_bf16_too() {
    let masters = masters(&tiny());
    let rounded = Rounded::of(&masters).unwrap();
    let packed = delivery(2, &tiny()).packed;
    let logits = rounded.logits(&packed.input(Device::Cpu));
    for segment in &packed.segments {
        let from = segment.start..segment.start + segment.tokens;
        let alone = PackedBatch::of_documents(&[(
            packed.tokens[from.clone()].to_vec(),
            packed.targets[from].to_vec(),
        )]);
        let found = rounded.logits(&alone.input(Device::Cpu));
        let distance = distance(&found, &logits.narrow(0, segment.start as i64, segment.tokens as i64));
        let size = found.abs().max().double_value(&[]);
        assert!(distance <= 0.02 * size, "{distance} of {size}");
    }
}

#[test]
fn a_copy_follows_its_masters_only_when_it_is_refreshed() {
    let masters = masters(&tiny());
    let mut rounded = Rounded::of(&masters).unwrap();
    let input = delivery(0, &tiny()).packed.input(Device::Cpu);
    let norm = masters.parameters().last().unwrap().tensor.detach();
    let before = rounded.logits(&input);
    let _ = norm.shallow_clone().g_mul_scalar_(2.0);
    assert!(rounded.logits(&input).equal(&before));
    rounded.refresh().unwrap();
    assert!(rounded.logits(&input).equal(&(before * 2.0)));
}
