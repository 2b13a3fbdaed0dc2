//! What the scores cost, and whether they rank text of a new kind above the rest.
//!
//! With `PERENNIAL_DATA` a sample of the large stream, else the bundled one. One thread, in bytes of text; the
//! floor beside the rates is the sketch of the stage before, which every record needs anyway. See
//! `detect/mod.rs` for what is injected.
#![expect(clippy::expect_used, reason = "a benchmark without its data has nothing to do but fail")]
#![expect(clippy::indexing_slicing, reason = "indices of its own lists")]

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::path::Path;

use perennial_ingest::dedup::near::{Sketch, Sketcher};
use perennial_ingest::score::embed::hashed::{Embedder, PeriodSizes};
use perennial_ingest::score::{CATALOGUE, Cell, Context, Entry, Record, Values};
use perennial_program::clock::Clock;
use perennial_schemas::id::Seq;
use perennial_schemas::seed::Seed;

mod detect;

use detect::{Document, Injection, Sizes, Thinning};

/// Records that are scored at once.
const BLOCK: usize = 1_024;

fn load() -> (Vec<Document>, Sizes) {
    #[expect(clippy::disallowed_methods, reason = "a benchmark finds its data by the environment")]
    let large = std::env::var_os("PERENNIAL_DATA").map(|root| Path::new(&root).join("stream.jsonl.zst"));
    let (thinning, sizes) = if large.is_some() {
        (Thinning { poems: 8, all: 3 }, Sizes { others: 6_000, group: 40, least: 40 })
    } else {
        (Thinning { poems: 1, all: 1 }, Sizes { others: 1_000, group: 20, least: 15 })
    };
    let bundled = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stream.jsonl.zst");
    let file = File::open(large.unwrap_or_else(bundled)).expect("the stream is there");
    let mut decoder = zstd::stream::read::Decoder::new(file).expect("it is zstd");
    decoder.window_log_max(27).expect("a window of 128 MiB");
    let mut lines = Vec::new();
    std::io::copy(&mut decoder, &mut lines).expect("it decodes");
    (detect::documents(&lines, thinning), sizes)
}

fn records<'a>(documents: &'a [Document], sketches: &'a [Sketch], order: &[usize]) -> Vec<Record<'a>> {
    let record = |(seq, index): (u64, &usize)| Record {
        seq: Seq(seq),
        length: documents[*index].text.len() as u64,
        text: &documents[*index].text,
        sketch: &sketches[*index],
    };
    (0..).zip(order).map(record).collect()
}

/// The values of the column that has the score's name.
fn run(entry: &Entry, records: &[Record<'_>]) -> Vec<f32> {
    let context = Context { shard: "main".parse().expect("a name"), seed: Seed::new(0) };
    let mut score = (entry.build)(&context);
    let column = entry.columns.iter().position(|column| column.name == entry.name).expect("its column");
    let mut made = Vec::new();
    for block in records.chunks(BLOCK) {
        let mut values = Values::new(entry.columns.len());
        score.score(block, &mut values);
        let value = |row| values.row(row).nth(column).and_then(Cell::real).unwrap_or_default();
        made.extend((0..values.len()).map(value));
    }
    made
}

fn rates(documents: &[Document], sketches: &[Sketch]) {
    let clock = Clock::system();
    let bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    let order: Vec<usize> = (0..documents.len()).collect();
    let records = records(documents, sketches, &order);
    let rate = |name: &str, work: &mut dyn FnMut()| {
        let took = (0..3).map(|_| {
            let begun = clock.monotonic();
            work();
            clock.monotonic().saturating_sub(begun)
        });
        let best = took.min().unwrap_or_default().as_secs_f64();
        println!("{name:<40} {:>8.0} MB/s", bytes as f64 / 1e6 / best);
    };
    println!("{:.1} MB of text in {} documents, one thread, best of 3", bytes as f64 / 1e6, documents.len());
    let mut sketcher = Sketcher::new();
    rate("floor: sketch", &mut || {
        documents.iter().for_each(|document| drop(black_box(sketcher.sketch(&document.text))));
    });
    rate("embedding alone", &mut || {
        let (mut embedder, mut embedded) = (Embedder::new(PeriodSizes::default()), Vec::new());
        for block in records.chunks(BLOCK) {
            embedder.embed(block, &mut embedded);
            black_box(&embedded);
        }
    });
    for entry in CATALOGUE {
        rate(&format!("score: {}", entry.name), &mut || drop(black_box(run(entry, &records))));
    }
}

fn ranks(documents: &[Document], sketches: &[Sketch], injections: &[Injection]) {
    let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    let names: String = names.iter().map(|name| format!("{name:>12}")).collect();
    println!("\narea under the ROC curve of injected text; 0.5 is chance\n{:<34}{names}", "");
    let mut means: BTreeMap<&str, Vec<Vec<f64>>> = BTreeMap::new();
    for injection in injections {
        let order: Vec<usize> = injection.stream.iter().map(|(index, _)| *index).collect();
        let records = records(documents, sketches, &order);
        let areas: Vec<f64> = CATALOGUE.iter().map(|entry| injection.auc(&run(entry, &records))).collect();
        println!("{:<10}{:<24}{}", injection.kind, injection.group, figures(&areas));
        means.entry(injection.kind).or_default().push(areas);
    }
    for (kind, areas) in means {
        let mean = |score: usize| areas.iter().map(|areas| areas[score]).sum::<f64>() / areas.len() as f64;
        let all: Vec<f64> = (0..CATALOGUE.len()).map(mean).collect();
        println!("{:<34}{}", format!("mean of {} {kind}s", areas.len()), figures(&all));
    }
}

fn figures(areas: &[f64]) -> String {
    areas.iter().map(|area| format!("{area:>12.3}")).collect()
}

fn main() {
    let (documents, sizes) = load();
    let mut sketcher = Sketcher::new();
    let sketches: Vec<Sketch> = documents.iter().map(|document| sketcher.sketch(&document.text)).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| rates(&documents, &sketches));
    ranks(&documents, &sketches, &detect::injections(&documents, sizes));
}
