use std::collections::BTreeMap;

use perennial_schemas::id::Seq;
use proptest::prelude::*;

use super::*;
use crate::dedup::near::{Sketch, Sketcher};

const SMALL: PeriodSizes = PeriodSizes { first: 300, longest: 1_000, record: 10 };

fn sketches(texts: &[String]) -> Vec<Sketch> {
    let mut sketcher = Sketcher::new();
    texts.iter().map(|text| sketcher.sketch(text)).collect()
}

fn records<'a>(texts: &'a [String], sketches: &'a [Sketch]) -> Vec<Record<'a>> {
    let record = |(seq, (text, sketch)): (u64, (&'a String, &'a Sketch))| Record {
        seq: Seq(seq),
        length: text.len() as u64,
        text,
        sketch,
    };
    (0..).zip(texts.iter().zip(sketches)).map(record).collect()
}

fn embed(sizes: PeriodSizes, texts: &[String]) -> Vec<Embedded> {
    let sketches = sketches(texts);
    let mut embedded = Vec::new();
    Embedder::new(sizes).embed(&records(texts, &sketches), &mut embedded);
    embedded
}

/// The features of a text with how often it has each, by their definition.
fn features(text: &str) -> [BTreeMap<u64, f64>; 2] {
    let (mut words, mut grams) = (BTreeMap::new(), BTreeMap::new());
    for word in Sketcher::new().sketch(text).words {
        *words.entry(word >> 46).or_insert(0.0) += 1.0;
    }
    let lower = text
        .as_bytes()
        .iter()
        .take(512)
        .map(|b| if b.is_ascii() && !b.is_ascii_alphanumeric() { b' ' } else { b.to_ascii_lowercase() });
    let mut normal = vec![b' '; 3];
    for byte in lower {
        if byte != b' ' || normal.last() != Some(&b' ') {
            normal.push(byte);
        }
    }
    for gram in normal.windows(3).skip(1) {
        let gram = gram.iter().fold(0, |gram, byte| (gram << 8) | u64::from(*byte));
        *grams.entry((1 << 18) + (mix(gram) >> 51)).or_insert(0.0) += 1.0;
    }
    [words, grams]
}

/// All vectors by the definition: every record against all counts of the periods before, in f64.
fn twin(sizes: PeriodSizes, texts: &[String]) -> Vec<(i64, Option<Vec<f64>>)> {
    let (mut period, mut charged) = (0, 0);
    let mut periods: Vec<i64> = Vec::new();
    for text in texts {
        if charged >= (sizes.first << period.min(32)).min(sizes.longest) {
            (period, charged) = (period + 1, 0);
        }
        charged += (text.len() as u64).max(sizes.record);
        periods.push(period);
    }
    let all: Vec<_> = texts.iter().map(|text| features(text)).collect();
    let share = |age: i64| if (1..=8).contains(&age) { (9 - age) as f64 } else { 0.0 };
    let unit = |sum: Vec<f64>| {
        let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        (length > 1e-12).then(|| sum.into_iter().map(|x| x / length).collect::<Vec<f64>>())
    };
    let vector = |index: usize| {
        let weight = |feature: &u64| {
            let (mut with, mut total) = (0.0, 0.0);
            for (other, parts) in all.iter().enumerate() {
                let share = share(periods[index] - periods[other]);
                total += share;
                with += if parts.iter().any(|part| part.contains_key(feature)) { share } else { 0.0 };
            }
            if total == 0.0 { 1.0 } else { f64::ln((total + 8.0) / (with + 8.0)).sqrt().max(0.05) }
        };
        let mut sum = vec![0.0; 128];
        for (part, share) in all[index].iter().zip([0.95_f64, 0.05]) {
            let mut projected = vec![0.0; 128];
            for (feature, times) in part {
                let hash = mix(*feature);
                for byte in 0..4 {
                    let byte = (hash >> (8 * byte)) & 255;
                    let sign = if byte < 128 { 1.0 } else { -1.0 };
                    projected[(byte & 127) as usize] += sign * weight(feature) * (1.0 + times.ln());
                }
            }
            for (sum, x) in sum.iter_mut().zip(unit(projected).unwrap_or(vec![0.0; 128])) {
                *sum += share.sqrt() * x;
            }
        }
        (periods[index], unit(sum))
    };
    (0..texts.len()).map(vector).collect()
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    let word =
        prop_oneof![Just("the"), Just("of"), Just("Wort"), Just("слово"), Just("学而时习"), Just("x-1")];
    let text = prop_oneof![
        4 => prop::collection::vec(word, 0..40).prop_map(|words| words.join(" ")),
        1 => "\\PC{0,40}",
    ];
    prop::collection::vec(text, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn vectors_are_those_of_the_definition(texts in texts()) {
        for (found, (period, expected)) in embed(SMALL, &texts).iter().zip(twin(SMALL, &texts)) {
            prop_assert_eq!(found.period, period);
            prop_assert_eq!(found.vector.is_some(), expected.is_some());
            for (x, y) in found.vector.iter().flatten().zip(expected.iter().flatten()) {
                // Half precision, and the logarithm.
                prop_assert!((f64::from(*x) - y).abs() < 1.5e-3, "{} {}", x, y);
            }
        }
    }

    #[test]
    fn embedder_recalled_from_its_texts_goes_on_as_if_never_interrupted(texts in texts(), cut in 0..60_usize) {
        let cut = cut.min(texts.len());
        let whole = embed(SMALL, &texts);
        let sketches = sketches(&texts);
        let mut recalled = Embedder::new(SMALL);
        let Some(newest) = cut.checked_sub(1).map(|last| whole[last].period) else { return Ok(()) };
        let mut charged = 0;
        for index in (0..cut).rev().filter(|index| whole[*index].period >= newest - PERIODS) {
            recalled.recall(whole[index].period, &texts[index], &sketches[index].words);
            if whole[index].period == newest {
                charged += SMALL.charge(texts[index].len() as u64);
            }
        }
        recalled.resume(newest, charged);
        let mut rest = Vec::new();
        recalled.embed(&records(&texts, &sketches)[cut..], &mut rest);
        for (found, expected) in rest.iter().zip(&whole[cut..]) {
            prop_assert_eq!((found.period, found.vector), (expected.period, expected.vector));
        }
    }
}

#[test]
fn vectors_are_units_and_likeness_follows_the_words() {
    let texts: Vec<String> = [
        "The parliament adopted a law on the taxation of land and houses in the northern provinces.",
        "A law on the taxation of houses and land in the provinces was adopted by the parliament.",
        "Le parlement a voté une loi sur les impôts des maisons dans les provinces du nord.",
        "函数返回一个整数，如果输入为空则返回零。",
    ]
    .map(str::to_owned)
    .to_vec();
    let vectors: Vec<Vector> = embed(SMALL, &texts).iter().map(|made| made.vector.unwrap()).collect();
    for vector in &vectors {
        assert!((dot(vector, vector) - 1.0).abs() < 2e-3);
        assert_eq!(from_blob(&to_blob(vector)), Some(*vector), "a vector is what the store has");
    }
    let cosine = |a: usize, b: usize| dot(&vectors[a], &vectors[b]);
    assert!(cosine(0, 1) > 0.8, "{}", cosine(0, 1));
    assert!(cosine(0, 2) < 0.5 && cosine(0, 3) < 0.35, "{} {}", cosine(0, 2), cosine(0, 3));
    assert_eq!(from_blob(&[0; 7]), None);
}

#[test]
fn logarithm_is_close_to_that_of_the_standard_library() {
    let mut x = 1.0_f32;
    while x < 1e9 {
        assert!((f64::from(ln(x)) - f64::from(x).ln()).abs() < 2e-5 * (1.0 + f64::from(x).ln()), "{x}");
        x *= 1.0137;
    }
    assert_eq!((ln(1.0), ln(0.5)), (0.0, 0.0));
}

#[test]
fn another_rule_is_another_embedder() {
    let name = |sizes| Embedder::new(sizes).name().to_owned();
    assert_eq!(name(SMALL), name(SMALL));
    assert_ne!(name(SMALL), name(PeriodSizes::default()));
    assert!(name(SMALL).starts_with("hashed/") && name(SMALL).len() == 23);
}
