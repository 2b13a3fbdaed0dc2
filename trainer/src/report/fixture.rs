//! Inputs for tests: runs with a wanted matrix.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;

use perennial_schemas::id::Step;
use perennial_schemas::seed::{Seed, unit};

use super::input::*;

/// A slice whose text arrives at these places of the stream.
pub fn slice(name: &str, script: Script, q05: f64, q50: f64, q95: f64) -> Slice {
    let (source, language) = (format!("{name}-source"), "en".to_owned());
    let (from, to) = ("1990-01-01".to_owned(), "1999-12-31".to_owned());
    let arrival = Some(Arrival { q05, q50, q95 });
    Slice { name: name.into(), source, language, script, from, to, arrival }
}

/// A document of this many bits per byte.
pub fn document(name: &str, bytes: u64, bits_per_byte: f64) -> DocumentScore {
    let nats = bits_per_byte * bytes as f64 * LN_2;
    DocumentScore { document: name.into(), nats, predicted: bytes, bytes }
}

/// A run that scored `values[slice][evaluation][document]` bits per byte (documents of 100, 200, ...
/// bytes) at steps 0, 10, 20, ... and evenly spaced places of the stream, 0 to 1.
pub fn run(name: &str, kind: Kind, slices: &[Slice], values: &[Vec<Vec<f64>>]) -> Run {
    let evaluations = values.first().map_or(0, Vec::len);
    let point = |evaluation: usize| {
        let score = |(slice, values): (&Slice, &Vec<Vec<f64>>)| {
            let documents = values[evaluation].iter().enumerate();
            let documents = documents
                .map(|(index, bits)| document(&format!("d{index}"), 100 * (index as u64 + 1), *bits));
            SliceScore { slice: slice.name.clone(), documents: documents.collect() }
        };
        Point {
            step: Step(10 * evaluation as u64),
            tokens: 1000 * evaluation as u64,
            fraction: evaluation as f64 / (evaluations - 1).max(1) as f64,
            scores: slices.iter().zip(values).map(score).collect(),
        }
    };
    Run {
        name: name.into(),
        label: name.into(),
        kind,
        replay: 0.0,
        seed: 0,
        weights: "live".into(),
        points: (0..evaluations).map(point).collect(),
        final_weights: Vec::new(),
        prequential: Vec::new(),
        tokens_per_second: None,
        data_wait: None,
    }
}

/// `values[slice][evaluation]`, every slice one document.
pub fn single(values: &[&[f64]]) -> Vec<Vec<Vec<f64>>> {
    values.iter().map(|row| row.iter().map(|bits| vec![*bits]).collect()).collect()
}

/// Three slices, two of them Latin, the last arriving with the end of the stream.
pub fn three_slices() -> Vec<Slice> {
    vec![
        slice("old", Script::Latin, 0.05, 0.1, 0.25),
        slice("middle", Script::Latin, 0.3, 0.4, 0.6),
        slice("new", Script::Han, 0.8, 0.9, 1.0),
    ]
}

/// `documents` documents a slice, whose difficulty is their own and shared by all runs; a run adds
/// `shift` bits per byte and noise of `noise` at most.
pub fn correlated(
    slices: usize,
    evaluations: usize,
    documents: usize,
    shift: f64,
    noise: f64,
    seed: u64,
) -> Vec<Vec<Vec<f64>>> {
    let hard = Seed::new(1).child("difficulty");
    let own = Seed::new(seed).child("noise");
    let bits = |place: [u64; 3]| {
        2.0 + 3.0 * unit(hard.at(&[place[0], place[2]])) + shift + noise * (unit(own.at(&place)) - 0.5)
    };
    let row = |slice: usize, evaluation: usize| -> Vec<f64> {
        (0..documents).map(|document| bits([slice as u64, evaluation as u64, document as u64])).collect()
    };
    (0..slices).map(|slice| (0..evaluations).map(|evaluation| row(slice, evaluation)).collect()).collect()
}

/// A small whole report.
pub fn input() -> Input {
    let slices = three_slices();
    let with = |mut run: Run, label: &str, replay: f64, preq: f64| {
        run.label = label.into();
        run.replay = replay;
        run.prequential =
            (1..=4).map(|k| NewText { tokens: 1000 * k, nats_per_token: preq * LN_2 }).collect();
        run.tokens_per_second = Some(8_920.0);
        run.data_wait = Some(0.004);
        run
    };
    let values = |shift: f64, seed| {
        let mut values = correlated(3, 5, 12, shift, 0.2, seed);
        // The old slice is learnt at the second evaluation and rises by `shift` thereafter.
        for (evaluation, documents) in values[0].iter_mut().enumerate() {
            for bits in documents {
                *bits += [3.0, -shift, 0.0, 0.5 * shift, 0.0][evaluation];
            }
        }
        values
    };
    let runs = vec![
        with(run("floor", Kind::Floor, &slices, &values(1.5, 1)), "no replay", 0.0, 4.4),
        with(run("method", Kind::Method, &slices, &values(0.5, 2)), "replay 25 %", 0.25, 4.1),
        with(run("ceiling", Kind::Ceiling, &slices, &values(0.0, 3)), "all mixed", 0.0, 3.5),
    ];
    let amount = |records, bytes| Amount { records, bytes };
    let holdings = |a: u64, b: u64| Holdings {
        by_source: BTreeMap::from([
            ("old-source".into(), amount(a, 100 * a)),
            ("new-source".into(), amount(b, 50 * b)),
        ]),
        by_decade: BTreeMap::from([(1990, amount(a, 100 * a)), (2010, amount(b, 50 * b))]),
    };
    let ingested = |source: &str, read, kept, near, bad| Ingested {
        source: source.into(),
        read,
        kept,
        duplicates: BTreeMap::from([("exact".into(), 2), ("near".into(), near)]),
        dead_letters: BTreeMap::from([("invalid_json".into(), bad)]),
        bytes: 100 * kept,
    };
    let novelty = [0.9, 0.5, f64::NAN, 0.7].into_iter().enumerate();
    let novelty = novelty.map(|(k, score)| NoveltyBin { fraction: 0.125 + 0.25 * k as f64, score }).collect();
    Input {
        title: "A small stream".into(),
        parameters: Some(1_000_000),
        settings: vec![Setting { name: "learning rate".into(), value: "0.001".into() }],
        ingested: vec![ingested("old-source", 105, 100, 2, 1), ingested("new-source", 50, 40, 5, 3)],
        stream: holdings(100, 40),
        novelty: Some(Novelty { score: "share of unseen shingles".into(), bins: novelty }),
        buffers: vec![Buffer {
            name: "main".into(),
            policy: "reservoir".into(),
            capacity: Some("64 records".into()),
            holds: holdings(40, 24),
        }],
        slices,
        runs,
    }
}
