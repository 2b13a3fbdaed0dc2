//! The near-duplicate stage on one thread, step by step, in bytes of text a second; the floor beside it is
//! xxh3-64 over the same text.
#![expect(clippy::expect_used, reason = "a benchmark without its data has nothing to do but fail")]

use std::borrow::Cow;
use std::convert::Infallible;
use std::hint::black_box;
use std::io::Read as _;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ingest::block::Original;
use ingest::dedup::lsh::Lsh;
use ingest::dedup::minhash::MinHasher;
use ingest::dedup::near::{Candidate, Near, NearDeduplicator, Sketch, Sketcher};
use ingest::dedup::revision::Reviser;
use ingest::dedup::shingle::Shingler;
use ingest::score::novelty::unseen::{self, Unseen};
use schemas::id::{RecordId, Seq, Shard};
use xxhash_rust::xxh3::xxh3_64;

/// The texts of the bundled stream.
fn texts() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/stream.jsonl.zst");
    let file = std::fs::File::open(path).expect("the bundled stream is there");
    let mut lines = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::new(file).expect("it is zstd");
    decoder.read_to_end(&mut lines).expect("it decodes");
    let values = lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    values.filter_map(|value: serde_json::Value| Some(value.get("text")?.as_str()?.to_owned())).collect()
}

fn candidate<'a>(shard: &'a Shard, texts: &'a [String], index: usize) -> Candidate<'a> {
    Candidate {
        shard,
        seq: Seq(index as u64),
        id: RecordId::from_hash(index as u128),
        source: "bench",
        external_id: None,
        url: None,
        event_time: None,
        text: &texts[index],
    }
}

fn decide_all(texts: &[String], sketches: &[Sketch]) -> NearDeduplicator {
    let shard: Shard = "main".parse().expect("a name");
    let mut stage = NearDeduplicator::new(Near { records: 100_000, ..Near::default() });
    for (index, sketch) in sketches.iter().enumerate() {
        let lookup = |original: &Original| {
            Ok::<_, Infallible>(Some(Cow::Borrowed(texts[original.seq.0 as usize].as_str())))
        };
        let Ok(verdict) = stage.decide(&candidate(&shard, texts, index), sketch, lookup);
        black_box(verdict);
    }
    stage
}

fn steps(criterion: &mut Criterion) {
    let all = texts();
    let (ascii, other): (Vec<String>, Vec<String>) = all.iter().cloned().partition(|text| text.is_ascii());
    for (name, texts) in [("all", &all), ("ascii", &ascii), ("not-ascii", &other)] {
        let mut sketcher = Sketcher::new();
        let sketches: Vec<Sketch> = texts.iter().map(|text| sketcher.sketch(text)).collect();
        let mut group = criterion.benchmark_group(format!("near/{name}"));
        let bytes: usize = texts.iter().map(String::len).sum();
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
        of_texts(&mut group, texts, &sketches);
        of_sketches(&mut group, &sketches);
        group.bench_function("decide, given sketches", |bencher| {
            bencher.iter(|| decide_all(texts, &sketches));
        });
        group.finish();
    }
}

fn of_texts(group: &mut BenchmarkGroup<'_, WallTime>, texts: &[String], sketches: &[Sketch]) {
    group.bench_function("xxh3-64 (floor)", |bencher| {
        bencher.iter(|| texts.iter().map(|text| xxh3_64(text.as_bytes())).fold(0, u64::wrapping_add));
    });
    group.bench_function("folded form", |bencher| {
        bencher.iter(|| texts.iter().map(|text| schemas::text::folded_form(text).len()).sum::<usize>());
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
    group.bench_function("unseen, score and add", |bencher| {
        let mut unseen = Unseen::new(unseen::WINDOW);
        bencher.iter(|| {
            for sketch in sketches {
                black_box(unseen.score(&sketch.shingles));
                unseen.add(&sketch.shingles);
            }
        });
    });
}

criterion_group!(benches, steps);
criterion_main!(benches);
