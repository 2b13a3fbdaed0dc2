use std::path::Path;

use perennial_replay::tokenise::Subword;
use perennial_schemas::seed::Seed;
use tch::{Device, Kind};

use super::*;
use crate::evaluate::held_out;
use crate::model::{Documents, Input, ModelConfig};
use crate::step::{Learner, TrainConfig};
use crate::testing::{ticket, tiny, train_config};

fn model() -> Decoder {
    Decoder::init(&tiny(), Seed::new(2), Device::Cpu).unwrap()
}

fn texts() -> Vec<Document> {
    [
        "a",
        "",
        "the quick brown fox",
        "jumps over the lazy dog, and over this window's end",
        "the quick brown fix",
    ]
    .map(|text| Document::of(&Tokenizer::Bytes, text).unwrap())
    .to_vec()
}

/// Nats of a document, one window at a time.
fn alone(model: &Decoder, tokens: &[i64], window: usize) -> f64 {
    let mut nats = 0.0;
    let mut start = 0;
    while start + 1 < tokens.len() {
        let n = window.min(tokens.len() - 1 - start);
        let documents = Documents::of_lengths([n as i64]);
        let input = Input {
            tokens: Tensor::from_slice(&tokens[start..start + n]),
            positions: Tensor::from_slice(&documents.positions()),
            documents,
        };
        let chances = model.logits(&input).log_softmax(-1, Kind::Double);
        nats -= (0..n).map(|k| chances.double_value(&[k as i64, tokens[start + k + 1]])).sum::<f64>();
        start += n;
    }
    nats
}

#[test]
fn scores_are_those_of_each_document_alone_whatever_is_computed_together() {
    let model = model();
    for window in [1, 8, 32] {
        let wanted: Vec<f64> = texts().iter().map(|text| alone(&model, &text.tokens, window)).collect();
        for batch in [1, 40, 10_000] {
            let scores = score(&model, &texts(), window, batch).unwrap();
            for ((score, wanted), text) in scores.iter().zip(&wanted).zip(texts()) {
                assert!((score.nats - wanted).abs() < 1e-3, "{score:?} is not {wanted}");
                assert_eq!((score.tokens, score.bytes), (text.bytes, text.bytes));
            }
        }
    }
}

#[test]
fn an_untrained_model_needs_about_eight_bits_for_a_byte() {
    let scores = score(&model(), &texts(), 32, 256).unwrap();
    let bits = Score::sum(&scores).bits_per_byte().unwrap();
    assert!((bits - 258_f64.log2()).abs() < 0.1, "{bits}");
    assert_eq!(scores[1], Score::default());
    assert_eq!(scores[1].bits_per_byte(), None);
}

#[test]
fn scoring_makes_no_graph_and_no_gradient() {
    let model = model();
    score(&model, &texts(), 32, 256).unwrap();
    assert!(model.tensors().all(|tensor| !tensor.grad().defined()));
}

#[test]
fn a_token_that_the_model_has_not_is_refused() {
    let document = Document { tokens: vec![256, 300], bytes: 1 };
    let error = score(&model(), &[document], 32, 256).unwrap_err();
    assert_eq!(error.to_string(), "document 0 holds token 300; the vocabulary ends at 257");
}

#[test]
fn a_model_of_subwords_learns_and_is_scored_in_bits_per_byte() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = data.join("../replay/src/tokenise/tiny.json");
    let tokenizer = Tokenizer::Subword(Subword::load(&file, None).unwrap().into());
    let slices = held_out::load(&data.join("../data/slices.toml"), &tokenizer, 900, 300).unwrap();
    let documents: Vec<Document> = slices.into_iter().flat_map(|slice| slice.documents).collect();
    let (tokens, bytes) = documents.iter().fold((0, 0), |(tokens, bytes), document| {
        assert_eq!(document.tokens[0], 0);
        (tokens + document.tokens.len() as u64 - 1, bytes + document.bytes)
    });
    assert!(tokens * 10 < bytes * 9, "{tokens} tokens, {bytes} bytes");
    let vocab_size = u32::try_from(tokenizer.vocabulary()).unwrap();
    let train_config = TrainConfig { model: ModelConfig { vocab_size, ..tiny() }, ..train_config() };
    let mut learner = Learner::init(&train_config, Seed::new(3), Device::Cpu).unwrap();
    let bits = |learner: &Learner| {
        let sum = Score::sum(&score(learner.model(), &documents, 32, 4096).unwrap());
        assert_eq!((sum.tokens, sum.bytes), (tokens, bytes));
        sum.bits_per_byte().unwrap()
    };
    let before = bits(&learner);
    assert!((before / (384_f64.log2() * tokens as f64 / bytes as f64) - 1.0).abs() < 0.05, "{before}");
    let pairs = documents.iter().flat_map(|document| {
        let (inputs, targets) = (document.tokens.split_last().unwrap().1, &document.tokens[1..]);
        inputs.chunks(32).zip(targets.chunks(32)).map(|(inputs, targets)| (inputs.to_vec(), targets.to_vec()))
    });
    let packed = PackedBatch::of_documents(&pairs.take(40).collect::<Vec<_>>());
    for step in 0..20 {
        learner.step(&ticket(step), &packed).unwrap();
    }
    let after = bits(&learner);
    assert!(after < 0.93 * before, "{before} bits a byte, then {after}");
}
