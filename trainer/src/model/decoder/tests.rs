use std::collections::BTreeMap;

use super::*;
use crate::testing::{distance, numbers, tiny};

fn model() -> Decoder {
    Decoder::init(&tiny(), Seed::new(5), Device::Cpu).unwrap()
}

fn input(lengths: &[i64]) -> Input {
    let documents = Documents::of_lengths(lengths.iter().copied());
    let tokens: Vec<i64> = (0..documents.tokens()).map(|k| (k * 37) % 256).collect();
    Input {
        tokens: Tensor::from_slice(&tokens),
        positions: Tensor::from_slice(&documents.positions()),
        documents,
    }
}

fn weights(model: &Decoder) -> BTreeMap<String, Tensor> {
    model
        .parameters()
        .iter()
        .map(|parameter| (parameter.name.clone(), parameter.tensor.detach().copy()))
        .collect()
}

#[test]
fn documents_of_a_batch_are_read_as_if_each_were_alone() {
    let model = model();
    let together = input(&[3, 7, 7, 12]);
    let logits = model.logits(&together);
    let mut start = 0;
    for length in [3, 7, 7, 12] {
        let documents = Documents::of_lengths([length]);
        let positions = Tensor::from_slice(&documents.positions());
        let alone = Input { tokens: together.tokens.narrow(0, start, length), positions, documents };
        assert!(distance(&model.logits(&alone), &logits.narrow(0, start, length)) < 1e-5);
        start += length;
    }
}

#[test]
fn what_comes_later_does_not_reach_what_came_before() {
    let model = model();
    let first = input(&[10]);
    let changed = Input {
        tokens: Tensor::cat(&[first.tokens.narrow(0, 0, 9), Tensor::from_slice(&[200_i64])], 0),
        positions: first.positions.shallow_clone(),
        documents: first.documents.clone(),
    };
    let (a, b) = (model.logits(&first), model.logits(&changed));
    assert!(distance(&a.narrow(0, 0, 9), &b.narrow(0, 0, 9)) < 1e-6);
    assert!(distance(&a.narrow(0, 9, 1), &b.narrow(0, 9, 1)) > 1e-4);
}

#[test]
fn forward_pass_follows_the_definition_of_llama() {
    let model = model();
    let config = model.config().clone();
    let (heads, kv_heads, size) = (4, 2, 8);
    let input = input(&[6]);
    let get = |name: &str| weights(&model).remove(&format!("model.{name}.weight")).unwrap();
    let norm = |x: &Tensor, w: &Tensor| {
        x / (x.square().mean_dim(-1, true, Kind::Float) + config.rms_norm_eps).sqrt() * w
    };
    let rotate = |x: &Tensor, heads: i64| {
        let x = x.view([6, heads, size]);
        let frequencies: Vec<f32> = (0..size).map(|k| 10_000_f32.powf(-2.0 * (k % 4) as f32 / 8.0)).collect();
        let angles = Tensor::arange(6, (Kind::Float, Device::Cpu))
            .outer(&Tensor::from_slice(&frequencies))
            .unsqueeze(1);
        let turned = Tensor::cat(&[-x.narrow(2, 4, 4), x.narrow(2, 0, 4)], 2);
        &x * angles.cos() + turned * angles.sin()
    };
    let future = Tensor::ones([6, 6], (Kind::Float, Device::Cpu)).triu(1) * -1e9;
    let mut x = get("embed_tokens").index_select(0, &input.tokens);
    for layer in 0..2 {
        let get = |name: &str| get(&format!("layers.{layer}.{name}"));
        let n = norm(&x, &get("input_layernorm"));
        let q = rotate(&n.matmul(&get("self_attn.q_proj").tr()), heads);
        let k = rotate(&n.matmul(&get("self_attn.k_proj").tr()), kv_heads);
        let v = n.matmul(&get("self_attn.v_proj").tr()).view([6, kv_heads, size]);
        let mixed: Vec<Tensor> = (0..heads)
            .map(|head| {
                let (q, k, v) = (q.select(1, head), k.select(1, head / 2), v.select(1, head / 2));
                (q.matmul(&k.tr()) / (size as f64).sqrt() + &future).softmax(-1, Kind::Float).matmul(&v)
            })
            .collect();
        x = &x + Tensor::cat(&mixed, 1).matmul(&get("self_attn.o_proj").tr());
        let n = norm(&x, &get("post_attention_layernorm"));
        let gate = n.matmul(&get("mlp.gate_proj").tr());
        let gated = &gate * gate.sigmoid() * n.matmul(&get("mlp.up_proj").tr());
        x = &x + gated.matmul(&get("mlp.down_proj").tr());
    }
    let wanted = norm(&x, &get("norm")).matmul(&get("embed_tokens").tr());
    assert!(distance(&model.logits(&input), &wanted) < 1e-5);
}

#[test]
fn initial_weights_are_a_function_of_the_seed_and_have_their_deviations() {
    let config = ModelConfig { hidden_size: 64, num_hidden_layers: 8, ..ModelConfig::default() };
    let model = Decoder::init(&config, Seed::new(1), Device::Cpu).unwrap();
    let again = Decoder::init(&config, Seed::new(1), Device::Cpu).unwrap();
    let other = Decoder::init(&config, Seed::new(2), Device::Cpu).unwrap();
    for ((a, b), c) in model.parameters().iter().zip(again.parameters()).zip(other.parameters()) {
        assert!(a.tensor.equal(&b.tensor), "{}", a.name);
        let deviation = match a.name.as_str() {
            name if name.contains("norm") => {
                assert!(a.tensor.equal(&a.tensor.ones_like()));
                continue;
            }
            name if name.contains("o_proj") || name.contains("down_proj") => 0.02 / 4.0,
            _ => 0.02,
        };
        assert!(!a.tensor.equal(&c.tensor), "{}", a.name);
        let found = a.tensor.std(true).double_value(&[]);
        assert!((found / deviation - 1.0).abs() < 0.06, "{}: {found}", a.name);
        assert!(a.tensor.mean(Kind::Float).double_value(&[]).abs() < deviation * 0.1, "{}", a.name);
    }
    // Changing these changes every model that was ever started from a seed.
    let first = |name: &str| weights(&model)[name].view([-1]).double_value(&[0]);
    assert!(
        (first("model.embed_tokens.weight") - GOLDEN_EMBEDDING).abs() < 1e-9,
        "{}",
        first("model.embed_tokens.weight")
    );
}

/// The first value of the embedding under seed 1.
const GOLDEN_EMBEDDING: f64 = 0.024_513_466_283_679_01;

#[test]
fn weights_that_are_not_the_models_are_refused_by_name() {
    let model = model();
    let refused = |change: fn(&mut BTreeMap<String, Tensor>)| {
        let mut weights = weights(&model);
        change(&mut weights);
        Decoder::from_weights(model.config(), weights, Device::Cpu).unwrap_err().to_string()
    };
    let text = refused(|weights| {
        weights.remove("model.norm.weight");
        weights.insert("model.extra.weight".into(), numbers(1, &[2]));
    });
    assert!(text.contains("missing `model.norm.weight`, not expected `model.extra.weight`"), "{text}");
    let text = refused(|weights| {
        weights.insert("model.norm.weight".into(), numbers(1, &[31]));
    });
    assert_eq!(text, "`model.norm.weight` has shape [31], the model needs [32]");
    let text = refused(|weights| {
        weights.insert("lm_head.weight".into(), numbers(1, &[258, 32]));
    });
    assert!(text.contains("not expected `lm_head.weight`"), "{text}");
}

#[test]
fn a_tied_model_accepts_a_head_that_equals_its_embedding() {
    let model = model();
    let mut all = weights(&model);
    all.insert("lm_head.weight".into(), all["model.embed_tokens.weight"].copy());
    let read = Decoder::from_weights(model.config(), all, Device::Cpu).unwrap();
    assert!(distance(&read.logits(&input(&[5])), &model.logits(&input(&[5]))) < f64::EPSILON);
}

#[test]
fn an_untied_head_is_used_and_learns() {
    let config = ModelConfig { tie_word_embeddings: false, ..tiny() };
    let model = Decoder::init(&config, Seed::new(5), Device::Cpu).unwrap();
    model.logits(&input(&[4])).square().sum(Kind::Float).backward();
    let head = model.parameters().last().unwrap();
    assert_eq!(head.name, "lm_head.weight");
    assert!(head.tensor.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0);
}

#[test]
fn other_values_make_the_same_model_with_other_answers() {
    let model = model();
    let doubled: Vec<Tensor> = model.tensors().map(|tensor| tensor.detach() * 2.0).collect();
    let same: Vec<Tensor> = model.tensors().map(Tensor::detach).collect();
    let logits = model.logits(&input(&[5]));
    assert!(distance(&model.with_values(&same).unwrap().logits(&input(&[5])), &logits) < f64::EPSILON);
    assert!(distance(&model.with_values(&doubled).unwrap().logits(&input(&[5])), &logits) > 1e-3);
    assert!(model.with_values(&same[1..]).is_err());
}
