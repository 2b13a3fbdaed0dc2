//! Every stage of the pipeline alone, on inputs prepared for it, and the whole of it into a store on the
//! local disk, beside the floor of each.
//!
//! All rates are of bytes of *text*, whatever the bytes that a step handles, so that times compare.
//! Stages run on one thread, the whole pipeline on all cores.
#![expect(clippy::expect_used, reason = "a benchmark without its data has nothing to do but fail")]

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::RecordBatch;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use perennial_ingest::block::{Block, Document, Reading, Readings, Row, Rows};
use perennial_ingest::channel::channel;
use perennial_ingest::config::{Config, Folded, Queue, Read, Source};
use perennial_ingest::dedup::exact::Exact;
use perennial_ingest::dedup::near::{Near, NearDeduplicator, Query, Sketch, Sketcher};
use perennial_ingest::dedup::{DedupState, Found};
use perennial_ingest::normalise::decode::Decoder;
use perennial_ingest::normalise::{Normaliser, passage};
use perennial_ingest::pipeline::{self, Summary};
use perennial_ingest::score::novelty::unseen::{self, Unseen};
use perennial_ingest::score::{CATALOGUE, Context, Scores};
use perennial_ingest::source::{self, Outlet, Positions};
use perennial_ingest::write;
use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use perennial_schemas::id::{Seq, Shard};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::Table as Of;
use perennial_schemas::text::{Identity, folded_hash};
use perennial_store::commit::Committer;
use perennial_store::{Scan, Store};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use xxhash_rust::xxh3::xxh3_64;

mod stream;
mod table;

use table::{Case, Table, time};

/// Keys the second hash, which is as fast under any key.
const SECRET: u64 = 1;

const LINES: &str = "floor: file read, lines by memchr";
const HASH: &str = "floor: xxh3-64";
const COPY: &str = "floor: memcpy";
const UNZSTD: &str = "floor: zstd decoding";
const JSON: &str = "floor: serde_json, the text alone";
const PARQUET: &str = "floor: Parquet, zstd 3";

/// The text, as it lies in files and as it travels.
struct Stream {
    from: &'static str,
    folder: TempDir,
    lines: Vec<u8>,
    packed: Vec<u8>,
    /// As `source` sends them.
    read: Vec<Block>,
    /// As `normalise` sends them.
    rows: Vec<Block>,
    /// The text of every document, in order.
    texts: Vec<String>,
    runtime: Runtime,
    pool: rayon::ThreadPool,
    clock: Clock,
}

impl Stream {
    fn load() -> Self {
        let (lines, from) = stream::lines();
        let folder = tempfile::tempdir().expect("a folder");
        let packed = zstd::bulk::compress(&lines, 3).expect("it packs");
        std::fs::write(folder.path().join("stream.jsonl"), &lines).expect("the disk has room");
        std::fs::write(folder.path().join("stream.jsonl.zst"), &packed).expect("the disk has room");
        let runtime = Runtime::new().expect("a runtime");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        let (read, rows, texts) = Default::default();
        let clock = Clock::system();
        let mut stream = Self { from, folder, lines, packed, read, rows, texts, runtime, pool, clock };
        stream.read = stream.blocks("stream.jsonl");
        let normaliser = Normaliser::new(SECRET);
        stream.rows = stream.read.iter().map(|block| normaliser.run(copy(block))).collect();
        stream.texts =
            stream.documents().map(|(block, document)| block.rows.text(document.text).to_owned()).collect();
        stream
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self, name: &str) -> Source {
        let path = self.path(name).display().to_string();
        Source { name: "bench".to_owned(), path, ..Source::default() }
    }

    /// Reads a file as the stage `source` does and hands each block to `take`, on this thread.
    fn reading(&self, name: &str, mut take: impl FnMut(Block)) {
        let (sender, mut receiver, _) = channel("bench", Queue::default(), &self.clock);
        let outlet = Outlet::new(sender, Stop::new(), self.clock.clone(), self.runtime.handle().clone());
        let sources = [self.source(name)];
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                source::read(&sources, Read::default(), Positions::new(), Seq(0), true, outlet)
            });
            while let Some(block) = receiver.next_blocking() {
                take(block);
            }
            reader.join().expect("it ends").expect("it is read");
        });
    }

    fn blocks(&self, name: &str) -> Vec<Block> {
        let mut blocks = Vec::new();
        self.reading(name, |block| blocks.push(block));
        blocks
    }

    fn documents(&self) -> impl Iterator<Item = (&Block, &Document)> {
        self.rows.iter().flat_map(|block| {
            block.rows.list.iter().filter_map(move |row| match row {
                Row::Document { document, .. } => Some((block, document)),
                Row::Dead { .. } => None,
            })
        })
    }

    /// Runs a stage over copies of `blocks` on one thread: how long it worked, and what it made.
    fn stage(
        &self,
        blocks: &[Block],
        mut stage: impl FnMut(Block) -> Block + Send,
    ) -> (Duration, Vec<Block>) {
        let copies: Vec<Block> = blocks.iter().map(copy).collect();
        self.pool.install(|| {
            let begun = self.clock.monotonic();
            let made = copies.into_iter().map(&mut stage).collect();
            (self.clock.monotonic().saturating_sub(begun), made)
        })
    }

    /// What `dedup` sends.
    fn decided(&self, blocks: &[Block]) -> (Duration, Vec<Block>) {
        let mut known = DedupState::new(shard(), Folded::default(), Near::default());
        self.stage(blocks, move |block| known.run(block, |_| Ok(Found::new())).expect("it decides"))
    }

    /// What `score` sends.
    fn scored(&self, blocks: &[Block]) -> (Duration, Vec<Block>) {
        let names: Vec<String> = CATALOGUE.iter().map(|entry| entry.name.to_owned()).collect();
        let mut scores = Scores::new(&names, &Context { shard: shard(), seed: Seed::new(0) });
        self.stage(blocks, move |block| scores.run(block).expect("it scores"))
    }

    fn store(&self) -> (TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let url = folder.path().display().to_string().parse().expect("a path");
        let made = self.runtime.block_on(Store::create(&url, &HashMap::new(), self.clock.clone()));
        (folder, made.expect("a store"))
    }

    /// Commits blocks to a new store as the stage `write` does.
    fn write(&self, blocks: &[Block]) -> (Duration, TempDir, Store) {
        let (folder, store) = self.store();
        let opened = self.runtime.block_on(write::open(&store, &shard(), &Config::default()));
        let writer = opened.expect("it opens").writer;
        let (sender, receiver, _) = channel("bench", Queue::default(), &self.clock);
        let copies: Vec<Block> = blocks.iter().map(copy).collect();
        let took = time(&self.clock, || {
            std::thread::scope(|scope| {
                scope.spawn(move || copies.into_iter().all(|block| sender.send(block).is_ok()));
                self.runtime.block_on(writer.run(receiver)).expect("it commits")
            })
        });
        (took, folder, store)
    }

    /// The whole pipeline from one file into a new store.
    fn whole(&self, name: &str) -> (Duration, Summary) {
        let (_folder, store) = self.store();
        let config = Config { source: vec![self.source(name)], ..Config::default() };
        let stop = Stop::new();
        let begun = self.clock.monotonic();
        let run = pipeline::run(&config, &store, &self.clock, &stop, true);
        let summary = self.runtime.block_on(run).expect("it runs");
        (self.clock.monotonic().saturating_sub(begun), summary)
    }
}

fn shard() -> Shard {
    "main".parse().expect("a name")
}

fn copy(block: &Block) -> Block {
    let Block { readings, rows, positions, tally, sketches, scores } = block;
    let readings = Readings {
        bytes: readings.bytes.clone(),
        columns: readings.columns.clone(),
        places: readings.places.clone(),
        list: readings.list.clone(),
        ..*readings
    };
    let rows = Rows { texts: rows.texts.clone(), ends: rows.ends.clone(), list: rows.list.clone() };
    let (positions, sketches, scores) = (positions.clone(), sketches.clone(), scores.clone());
    Block { readings, rows, positions, tally: *tally, sketches, scores }
}

/// One group of steps over a stream.
struct Steps<'s, 'c> {
    stream: &'s Stream,
    megabytes: f64,
    group: BenchmarkGroup<'c, WallTime>,
    table: Table,
}

impl<'s> Steps<'s, '_> {
    fn step(&mut self, name: &str, floor: &'static str, run: impl FnMut() -> Duration) {
        let case = Case { name: name.to_owned(), floor, size: self.megabytes, unit: "MB" };
        self.table.case(&mut self.group, case, run);
    }

    /// A step with nothing to prepare.
    fn plain<T>(&mut self, name: &str, floor: &'static str, mut work: impl FnMut() -> T) {
        let clock = self.table.clock.clone();
        self.step(name, floor, || time(&clock, &mut work));
    }

    fn reading(&mut self) {
        let stream = self.stream;
        let (lines, packed) = (&stream.lines[..], &stream.packed[..]);
        let mut room = vec![0; lines.len()];
        self.plain(COPY, "", || room.copy_from_slice(black_box(lines)));
        self.plain(HASH, COPY, || xxh3_64(lines));
        self.plain(LINES, COPY, || {
            room.clear();
            let mut file = File::open(stream.path("stream.jsonl")).expect("the file is there");
            file.read_to_end(&mut room).expect("it is read");
            memchr::memchr_iter(b'\n', &room).count()
        });
        self.plain(UNZSTD, "", || {
            std::io::copy(&mut zstd::Decoder::new(packed).expect("it is zstd"), &mut std::io::sink())
        });
        self.plain("source: read and split, plain", LINES, || stream.reading("stream.jsonl", drop));
        self.plain("source: read and split, zstd", UNZSTD, || stream.reading("stream.jsonl.zst", drop));
    }

    fn normalising(&mut self) {
        let stream = self.stream;
        let lines: Vec<_> = stream
            .read
            .iter()
            .flat_map(|Block { readings, .. }| readings.list.iter().map(move |reading| (readings, reading)))
            .filter_map(|(readings, reading)| Some((readings, reading, readings.place(reading)?)))
            .collect();
        let line = |(readings, reading, _): &(&'s Readings, &Reading, _)| readings.content(reading);
        self.plain("floor: UTF-8 by the standard library", COPY, || {
            lines.iter().filter(|reading| std::str::from_utf8(line(reading)).is_ok()).count()
        });
        self.plain(JSON, "", || {
            let texts =
                lines.iter().filter_map(|reading| serde_json::from_slice::<TextOnly<'_>>(line(reading)).ok());
            texts.map(|line| line.text.len()).sum::<usize>()
        });
        self.plain("normalise: decode", JSON, || {
            let mut decoder = Decoder::default();
            for (readings, reading, place) in &lines {
                let _ = black_box(decoder.decode(readings, reading, place));
            }
        });
        self.plain("normalise: passages", COPY, || {
            let mut ends = Vec::new();
            for text in &stream.texts {
                ends.clear();
                passage::cut(text, &mut ends);
            }
        });
        self.plain("normalise: identity", HASH, || {
            stream.texts.iter().map(|text| Identity::of(text, SECRET).length).sum::<u64>()
        });
        self.plain("normalise: folded form", HASH, || {
            stream.texts.iter().fold(0, |all, text| all ^ folded_hash(text))
        });
        let normaliser = Normaliser::new(SECRET);
        self.step("normalise", JSON, || stream.stage(&stream.read, |block| normaliser.run(block)).0);
    }

    fn deduplicating(&mut self) {
        let stream = self.stream;
        let identities: Vec<_> =
            stream.documents().map(|(_, document)| (document.identity, document.folded)).collect();
        self.plain("dedup: exact", HASH, || {
            let mut exact = Exact::new(shard(), Folded::default());
            for (seq, (identity, folded)) in identities.iter().enumerate() {
                if exact.look(*identity, *folded).is_none() {
                    exact.learn(*identity, *folded, Seq(seq as u64));
                }
            }
            exact
        });
        let mut sketcher = Sketcher::new();
        let sketches: Vec<Sketch> = stream.texts.iter().map(|text| sketcher.sketch(text)).collect();
        self.plain("dedup: sketch", HASH, || {
            stream.texts.iter().for_each(|text| drop(black_box(sketcher.sketch(text))));
        });
        let (clock, shard) = (self.table.clock.clone(), shard());
        self.step("dedup: decide, given sketches", HASH, || {
            let mut near = NearDeduplicator::new(Near::default());
            time(&clock, || {
                for (index, (document, sketch)) in stream.documents().zip(&sketches).enumerate() {
                    let lookup = |_: &_| Ok::<Option<Cow<'static, str>>, Infallible>(None);
                    let Ok(verdict) = near.decide(&candidate(&shard, index, document), sketch, lookup);
                    black_box(verdict);
                }
            })
        });
        self.step("score: unseen", HASH, || {
            let mut unseen = Unseen::new(unseen::WINDOW);
            time(&clock, || {
                for sketch in &sketches {
                    black_box(unseen.score(&sketch.shingles));
                    unseen.add(&sketch.shingles);
                }
            })
        });
        self.step("dedup", HASH, || stream.decided(&stream.rows).0);
        let (_, decided) = stream.decided(&stream.rows);
        self.step("score", HASH, || stream.scored(&decided).0);
    }

    fn writing(&mut self) {
        let stream = self.stream;
        let (_, decided) = stream.decided(&stream.rows);
        let (_, scored) = stream.scored(&decided);
        let (_, _folder, store) = stream.write(&scored);
        let batches = stream.runtime.block_on(async {
            let version = store.version(Of::Records).await.expect("a version");
            let all = Scan { columns: &[], filter: None, order: &["seq"] };
            store.scan(Of::Records, version, &all).await.expect("it reads")
        });
        let text = stream.texts.concat();
        self.plain("floor: zstd 3 of the text", "", || zstd::bulk::compress(text.as_bytes(), 3));
        self.plain(PARQUET, "", || parquet(&batches));
        let clock = self.table.clock.clone();
        self.step("write: commit, given rows", PARQUET, || {
            let (_folder, store) = stream.store();
            stream.runtime.block_on(async {
                let fence = "ingest/main";
                let mut committer = Committer::open(&store, Of::Records, fence).await.expect("it opens");
                let begun = clock.monotonic();
                committer.commit(&batches, vec![(fence.to_owned(), 1)]).await.expect("it commits");
                clock.monotonic().saturating_sub(begun)
            })
        });
        self.step("write", PARQUET, || stream.write(&scored).0);
    }

    fn whole(&mut self) -> Option<Summary> {
        let stream = self.stream;
        let mut last = None;
        self.step("whole, plain", PARQUET, || {
            let (took, summary) = stream.whole("stream.jsonl");
            last = Some(summary);
            took
        });
        self.step("whole, zstd", PARQUET, || stream.whole("stream.jsonl.zst").0);
        last
    }
}

/// What the least reader of these lines would ask of them.
#[derive(Deserialize)]
struct TextOnly<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// A document as `dedup` decides on it, with the names by which revisions are found.
fn candidate<'a>(shard: &'a Shard, index: usize, (block, document): (&'a Block, &Document)) -> Query<'a> {
    Query {
        shard,
        seq: Seq(index as u64),
        id: document.identity.id,
        source: "bench",
        external_id: document.external_id.map(|id| block.rows.text(id)),
        url: document.url.map(|url| block.rows.text(url)),
        event_time: document.event_time,
        text: block.rows.text(document.text),
    }
}

/// The rows as one file of Parquet with the format's defaults.
fn parquet(batches: &[RecordBatch]) -> Vec<u8> {
    let compression = Compression::ZSTD(ZstdLevel::try_new(3).expect("a level"));
    let properties = WriterProperties::builder().set_compression(compression).build();
    let schema = batches.first().expect("rows").schema();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).expect("a schema");
    for batch in batches {
        writer.write(batch).expect("it encodes");
    }
    writer.into_inner().expect("it ends")
}

/// Measures everything; what the whole pipeline says of its last run comes beside it.
fn measure(criterion: &mut Criterion, stream: &Stream, megabytes: f64) -> (Table, Option<Summary>) {
    let mut group = criterion.benchmark_group("stages");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    let mut steps = Steps { stream, megabytes, group, table: Table::new() };
    steps.reading();
    steps.normalising();
    steps.deduplicating();
    steps.writing();
    let summary = steps.whole();
    (steps.table, summary)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let stream = Stream::load();
    let megabytes = stream.texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let (table, summary) = measure(&mut criterion, &stream, megabytes);
    criterion.final_summary();
    let title = format!("{megabytes:.1} MB of text in {} documents: {}", stream.texts.len(), stream.from);
    table.print(&title);
    if let Some(Summary { written, flows }) = summary {
        println!("whole, plain: {:?}, {} commits", written.counts.total(), written.commits);
        for (to, flow) in flows {
            println!(
                "  senders to {to} waited {:.1} ms, {} blocks",
                flow.waited_us as f64 / 1e3,
                flow.blocks
            );
        }
    }
}
