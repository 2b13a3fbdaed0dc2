//! The steps of sketching and looking up that `stages` has as one, on one thread, in bytes of text a second,
//! and for text in ASCII and other text apart; the floor beside them is xxh3-64 over the same text.
#![expect(clippy::expect_used, reason = "a benchmark without its data has nothing to do but fail")]

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use perennial_ingest::dedup::lsh::Lsh;
use perennial_ingest::dedup::minhash::MinHasher;
use perennial_ingest::dedup::near::{Sketch, Sketcher};
use perennial_ingest::dedup::revision::Reviser;
use perennial_ingest::dedup::shingle::Shingler;
use xxhash_rust::xxh3::xxh3_64;

mod stream;

fn steps(criterion: &mut Criterion) {
    let (lines, _) = stream::lines();
    let values = lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let all: Vec<String> =
        values.filter_map(|value: serde_json::Value| Some(value.get("text")?.as_str()?.to_owned())).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let (ascii, other) = all.iter().copied().partition(|text| text.is_ascii());
    for (name, texts) in [("all", all), ("ascii", ascii), ("not-ascii", other)] {
        let mut sketcher = Sketcher::new();
        let sketches: Vec<Sketch> = texts.iter().map(|text| sketcher.sketch(text)).collect();
        let mut group = criterion.benchmark_group(format!("near/{name}"));
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
        of_texts(&mut group, &texts, &sketches);
        of_sketches(&mut group, &sketches);
        group.finish();
    }
}

fn of_texts(group: &mut BenchmarkGroup<'_, WallTime>, texts: &[&str], sketches: &[Sketch]) {
    group.bench_function("xxh3-64 (floor)", |bencher| {
        bencher.iter(|| texts.iter().map(|text| xxh3_64(text.as_bytes())).fold(0, u64::wrapping_add));
    });
    group.bench_function("shingle", |bencher| {
        let (mut shingler, mut out) = (Shingler::new(), Vec::new());
        bencher.iter(|| {
            for text in texts {
                shingler.shingle(text, &mut out);
                black_box(&out);
            }
        });
    });
    group.bench_function("new text of a revision", |bencher| {
        let mut reviser = Reviser::new();
        bencher.iter(|| {
            for (text, sketch) in texts.iter().zip(sketches) {
                black_box(reviser.new_text(text, &sketch.shingles));
            }
        });
    });
}

fn of_sketches(group: &mut BenchmarkGroup<'_, WallTime>, sketches: &[Sketch]) {
    group.bench_function("minhash", |bencher| {
        let hasher = MinHasher::new();
        bencher.iter(|| {
            for sketch in sketches {
                black_box(hasher.sign(&sketch.shingles));
            }
        });
    });
    let mut index = Lsh::new(100_000);
    group.bench_function("lsh insert", |bencher| {
        bencher.iter(|| {
            sketches.iter().map(|sketch| index.insert(&sketch.signature)).fold(0, u64::wrapping_add)
        });
    });
    group.bench_function("lsh probe", |bencher| {
        let mut index = Lsh::new(100_000);
        for sketch in sketches {
            index.insert(&sketch.signature);
        }
        let mut hits = Vec::new();
        bencher.iter(|| {
            for sketch in sketches {
                index.find(&sketch.signature, &mut hits);
                black_box(&hits);
            }
        });
    });
}

criterion_group!(benches, steps);
criterion_main!(benches);
