use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;

use perennial_program::clock::Clock;
use perennial_program::config::{Bytes, Duration};
use perennial_program::stop::Stop;
use perennial_schemas::id::Seq;
use perennial_schemas::table::records::{RAW_LIMIT, Reason};
use proptest::prelude::*;

use super::*;
use crate::block::Block;
use crate::channel::{Receiver, channel};

mod folder;
mod text;

/// A reading without how it travelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub seq: u64,
    pub source: String,
    pub path: Option<String>,
    pub generation: u64,
    pub start: u64,
    pub end: u64,
    pub raw: Vec<u8>,
    pub length: u64,
    pub reason: Option<Reason>,
}

pub(super) fn seen(block: &Block) -> Vec<Seen> {
    let readings = &block.readings;
    assert_eq!(block.tally.read, readings.list.len() as u64);
    let one = |(index, reading): (usize, &crate::block::Reading)| {
        let place = readings.place(reading).unwrap();
        Seen {
            seq: readings.seq(index).0,
            source: place.source.to_string(),
            path: place.path.as_deref().map(str::to_owned),
            generation: place.generation,
            start: reading.start,
            end: reading.end,
            raw: readings.content(reading).to_vec(),
            length: reading.length,
            reason: reading.fault.as_ref().map(|fault| fault.reason),
        }
    };
    readings.list.iter().enumerate().map(one).collect()
}

pub(super) fn source(name: &str, path: &Path) -> config::Source {
    config::Source { name: name.into(), path: path.to_str().unwrap().into(), ..config::Source::default() }
}

fn roomy() -> config::Queue {
    config::Queue { blocks: 100_000, bytes: Bytes::gib(1) }
}

pub(super) fn small(block_lines: u32, block_bytes: u64) -> config::Read {
    config::Read { block_lines, block_bytes: Bytes::new(block_bytes), ..config::Read::default() }
}

/// Reads with one `Blocks` over an edge with room for everything.
pub(super) struct Bench {
    runtime: tokio::runtime::Runtime,
    pub blocks: Blocks,
    pub files: Files,
    pub stop: Stop,
    receiver: Receiver,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(config::Read::default(), Positions::new(), 0)
    }
}

impl Bench {
    pub fn new(limits: config::Read, positions: Positions, first: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let clock = Clock::manual(0);
        let (sender, receiver, _) = channel("test", roomy(), &clock);
        let stop = Stop::new();
        let outlet = Outlet::new(sender, stop.clone(), clock, runtime.handle().clone());
        Self {
            runtime,
            stop,
            blocks: Blocks::new(limits, positions, Seq(first), outlet),
            files: Files::default(),
            receiver,
        }
    }

    /// Looks once at a source and says what was new.
    pub fn look(&mut self, source: &config::Source, waits: bool) -> Vec<Seen> {
        let source = config::Source { follow: waits, ..source.clone() };
        read_source(&source, !waits, &mut self.files, &mut self.blocks).unwrap();
        self.blocks.flush().unwrap();
        readings(&self.taken())
    }

    pub fn taken(&mut self) -> Vec<Block> {
        let mut blocks = Vec::new();
        self.runtime.block_on(async {
            loop {
                tokio::select! {
                    biased;
                    Some(block) = self.receiver.next() => blocks.push(block),
                    () = std::future::ready(()) => return,
                }
            }
        });
        blocks
    }
}

/// Reads sources to their end.
pub(super) fn read_all(
    sources: &[config::Source],
    limits: config::Read,
    positions: Positions,
    first: u64,
) -> Vec<Block> {
    let mut bench = Bench::new(limits, positions, first);
    let mut ordered: Vec<_> = sources.iter().collect();
    ordered.sort_by(|a, b| a.name.cmp(&b.name));
    passes(&ordered, true, &mut bench.blocks).unwrap();
    bench.blocks.flush().unwrap();
    bench.taken()
}

pub(super) fn all(sources: &[config::Source]) -> Vec<Seen> {
    readings(&read_all(sources, config::Read::default(), Positions::new(), 0))
}

/// All readings of some blocks.
pub(super) fn readings(blocks: &[Block]) -> Vec<Seen> {
    blocks.iter().flat_map(seen).collect()
}

/// Where files stand after these blocks.
fn stand(blocks: &[Block]) -> Positions {
    let mut positions = Positions::new();
    blocks.iter().for_each(|block| positions.advance(block.positions.clone()));
    positions
}

/// What is read in all when only the first `killed` of `blocks` were committed.
pub(super) fn resumed(sources: &[config::Source], mut blocks: Vec<Block>, killed: usize) -> Vec<Seen> {
    blocks.truncate(killed);
    let mut all = readings(&blocks);
    let rest = read_all(sources, config::Read::default(), stand(&blocks), all.len() as u64);
    all.extend(readings(&rest));
    all
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Contents as raw texts, the reasons in brackets.
pub(super) fn brief(seen: &[Seen]) -> Vec<String> {
    let text = |seen: &Seen| match seen.reason {
        Some(reason) => format!("[{reason}] {}", String::from_utf8_lossy(&seen.raw)),
        None => String::from_utf8_lossy(&seen.raw).into_owned(),
    };
    seen.iter().map(text).collect()
}

#[test]
fn lines_have_dense_numbers_and_exact_positions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "\u{feff}one\r\n\n \t\ntwo\nlast").unwrap();
    let seen = all(&[source("s", &path)]);
    let places: Vec<_> =
        seen.iter().map(|seen| (seen.seq, seen.start, seen.end, seen.raw.as_slice())).collect();
    assert_eq!(places, [(0, 0, 8, &b"one\r"[..]), (1, 12, 16, b"two"), (2, 16, 20, b"last")]);
    assert_eq!(seen[0].path.as_deref(), Some("a.jsonl"));
}

#[test]
fn sources_are_read_by_name_and_files_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("x/b/.hidden")).unwrap();
    fs::create_dir_all(root.join("y")).unwrap();
    for (path, bytes) in [
        ("x/b.jsonl", b"b.jsonl".to_vec()),
        ("x/b/c.ndjson.gz", gzip(b"c")),
        ("x/b/a.JSON.zst", zst(b"a")),
        ("x/a.json", b"x/a".to_vec()),
        ("x/notes.txt", b"not read".to_vec()),
        ("x/.half.jsonl", b"hidden".to_vec()),
        ("x/b/.hidden/d.jsonl", b"hidden".to_vec()),
        ("y/z.jsonl", b"z".to_vec()),
    ] {
        fs::write(root.join(path), bytes).unwrap();
    }
    let sources = [source("2", &root.join("x")), source("10", &root.join("y"))];
    assert_eq!(brief(&all(&sources)), ["z", "x/a", "b.jsonl", "a", "c"]);
}

#[test]
fn missing_path_is_an_error_unless_the_source_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = source("s", &folder.path().join("none.jsonl"));
    let mut bench = Bench::default();
    assert_eq!(bench.look(&source, true), []);
    let ended = read_source(&source, true, &mut bench.files, &mut bench.blocks);
    assert!(matches!(ended, Err(End::Failed(SourceError::Missing { .. }))));
}

#[test]
fn line_that_is_too_long_is_a_dead_letter_with_its_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let long = vec![b'x'; 300_000];
    let fits = vec![b'y'; 100_000];
    fs::write(&path, [b"a\n", long.as_slice(), b"\n", &fits, b"\nz\n", &long].concat()).unwrap();
    let limits = config::Read { line: Bytes::new(100_000), ..config::Read::default() };
    let blocks = read_all(&[source("s", &path)], limits, Positions::new(), 0);
    let seen = readings(&blocks);
    let found: Vec<_> =
        seen.iter().map(|seen| (seen.raw.len(), seen.length, seen.end, seen.reason)).collect();
    let too_large = Some(Reason::TooLarge);
    assert_eq!(
        found,
        [
            (1, 1, 2, None),
            (RAW_LIMIT, 300_000, 300_003, too_large),
            (100_000, 100_000, 400_004, None),
            (1, 1, 400_006, None),
            (RAW_LIMIT, 300_000, 700_006, too_large),
        ]
    );
}

#[test]
fn file_cut_off_in_its_compression_is_read_as_far_as_it_decodes_and_said_once() {
    let text: String = (0..2_000).map(|n| format!("line {n} {}\n", n * 7919)).collect();
    for (name, packed) in [("a.jsonl.gz", gzip(text.as_bytes())), ("a.jsonl.zst", zst(text.as_bytes()))] {
        for cut in [1, 3, 12, packed.len() / 3, packed.len() / 2, packed.len() - 1] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            fs::write(&path, &packed[..cut]).unwrap();
            let sources = [source("s", &path)];
            let blocks = read_all(&sources, config::Read::default(), Positions::new(), 0);
            let seen = readings(&blocks);
            let (last, sound) = seen.split_last().unwrap();
            assert_eq!(last.reason, Some(Reason::Truncated), "{name} {cut}");
            let decoded: String = brief(sound).iter().map(|line| format!("{line}\n")).collect();
            assert!(text.starts_with(&(decoded.clone() + str::from_utf8(&last.raw).unwrap())));
            assert_eq!(
                (last.start, last.end),
                (decoded.len() as u64, decoded.len() as u64 + last.length + 1)
            );

            let positions = stand(&blocks);
            let first = seen.len() as u64;
            assert!(read_all(&sources, config::Read::default(), positions.clone(), first).is_empty());

            fs::write(&path, &packed).unwrap();
            let again = readings(&read_all(&sources, config::Read::default(), positions, first));
            assert!(again.iter().all(|seen| seen.generation == 1 && seen.reason.is_none()));
            assert_eq!(brief(&again), text.lines().collect::<Vec<_>>(), "the mended file is read whole");
        }
    }
}

#[test]
fn file_whose_compression_is_damaged_is_a_dead_letter_that_says_so() {
    let text = b"one\ntwo\nthree".to_vec();
    let mut flipped = gzip(&text);
    let last = flipped.len() - 6;
    flipped[last] ^= 0xFF;
    for (name, packed) in [
        ("a.jsonl.gz", flipped),
        ("b.jsonl.gz", [gzip(&text).as_slice(), b"trailing bytes"].concat()),
        ("c.jsonl.zst", [zst(&text).as_slice(), b"trailing bytes"].concat()),
        ("d.jsonl.zst", b"{\"text\":\"not compressed at all\"}\n".to_vec()),
        ("e.jsonl.gz", b"{\"text\":\"not compressed at all\"}\n".to_vec()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, packed).unwrap();
        let sources = [source("s", &path)];
        for (limits, waits) in [(small(1, 1), false), (config::Read::default(), true)] {
            let mut bench = Bench::new(limits, Positions::new(), 0);
            let seen = bench.look(&sources[0], waits);
            let expected: &[&str] = match name {
                "d.jsonl.zst" | "e.jsonl.gz" => &["[corrupt_source] "],
                _ => &["one", "two", "[corrupt_source] three"],
            };
            assert_eq!(brief(&seen), expected, "{name}");
            assert_eq!(bench.look(&sources[0], waits), [], "said once");
        }
    }
}

#[test]
fn zstd_of_a_window_of_128_mib_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl.zst");
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(b"far\n").unwrap();
    fs::write(&path, encoder.finish().unwrap()).unwrap();
    assert_eq!(brief(&all(&[source("s", &path)])), ["far"]);
}

#[test]
fn growing_file_is_read_on_and_its_last_line_waits_for_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let source = source("s", &path);
    let mut bench = Bench::default();
    let mut grow = |bytes: &str| {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(bytes.as_bytes()).unwrap();
        let seen = bench.look(&source, true);
        assert!(seen.iter().all(|seen| seen.generation == 0));
        brief(&seen)
    };
    assert_eq!(grow(""), Vec::<String>::new());
    assert_eq!(grow("on"), Vec::<String>::new());
    assert_eq!(grow("e\ntw"), ["one"]);
    assert_eq!(grow("o"), Vec::<String>::new());
    assert_eq!(grow("\nthree\n"), ["two", "three"]);
    assert_eq!(grow(&"x".repeat(9_000)), Vec::<String>::new());
    assert_eq!(grow("\nfour\n"), ["x".repeat(9_000), "four".to_owned()]);
    assert_eq!(
        bench.blocks.position(&("s".into(), Some("a.jsonl".into()))).unwrap().end,
        4 + 4 + 6 + 9_001 + 5
    );
}

#[test]
fn compressed_file_that_is_still_written_is_read_as_far_as_it_goes_and_then_on() {
    let members = [gzip(b"one\ntwo\nth"), gzip(b"ree\nfour\n")];
    let whole = members.concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl.gz");
    let source = source("s", &path);
    let mut bench = Bench::default();
    let mut lines = Vec::new();
    for end in 0..=whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        lines.extend(bench.look(&source, true));
    }
    assert_eq!(brief(&lines), ["one", "two", "three", "four"]);
    assert_eq!(
        lines.iter().map(|seen| (seen.seq, seen.start)).collect::<Vec<_>>(),
        [(0, 0), (1, 4), (2, 8), (3, 14)]
    );
}

#[test]
fn replaced_and_shortened_files_are_new_generations_read_from_their_beginning() {
    let folder = tempfile::tempdir().unwrap();
    for (name, pack) in [("a.jsonl", (|bytes| bytes.to_vec()) as fn(&[u8]) -> Vec<u8>), ("b.jsonl.gz", gzip)]
    {
        let path = folder.path().join(name);
        let source = source("s", &path);
        let mut bench = Bench::default();
        let mut write = |text: &str| {
            fs::write(&path, pack(text.as_bytes())).unwrap();
            let seen = bench.look(&source, false);
            (seen.first().map(|seen| (seen.generation, seen.start)), brief(&seen))
        };
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(write("one\ntwo\n"), (Some((0, 0)), lines(&["one", "two"])));
        assert_eq!(write("one\ntwo\nthree\n"), (Some((0, 8)), lines(&["three"])));
        assert_eq!(write("other\ntwo\nthree\n"), (Some((1, 0)), lines(&["other", "two", "three"])));
        assert_eq!(write("other\ntwo\n"), (Some((2, 0)), lines(&["other", "two"])));
        assert_eq!(write("other\ntwo\nmore\n"), (Some((2, 10)), lines(&["more"])));
        assert_eq!(write(""), (None, lines(&[])));
        assert_eq!(write("new\n"), (Some((3, 0)), lines(&["new"])));
    }
}

#[test]
fn mark_covers_what_there_was_up_to_its_limit_and_says_how_much() {
    assert_eq!(mark(b""), None);
    for length in [1, 2, 4095, 4096, 5000] {
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let of = mark(&bytes).unwrap();
        assert_eq!(marked_length(of), length.min(MARKED));
        assert_eq!(mark(&bytes[..marked_length(of)]), Some(of));
        let mut other = bytes;
        other[0] ^= 1;
        assert_ne!(mark(&other), Some(of));
    }
}

#[test]
fn transaction_names_differ_by_source_path_and_generation() {
    let name = |source: &str, path: Option<&str>| (Arc::from(source), path.map(Arc::from));
    // xxh3-64 of nothing and of "a.jsonl", as its specification has it.
    assert_eq!(transaction_name(&name("pipe", None), 0), "src/pipe/2d06800538d394c2.0");
    let file = transaction_name(&name("web", Some("a.jsonl")), 2);
    assert_eq!(file, format!("src/web/{:016x}.2", xxh3_64(b"a.jsonl")));
}

#[test]
fn followed_source_is_read_on_until_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let sources = [config::Source { follow: true, ..source("s", &path) }];
    let limits = config::Read { poll: Duration::millis(1), ..config::Read::default() };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (clock, stop) = (Clock::system(), Stop::new());
    let (sender, mut receiver, _) = channel("test", roomy(), &clock);
    let outlet = Outlet::new(sender, stop.clone(), clock, runtime.handle().clone());
    let reader = std::thread::spawn(move || read(&sources, limits, Positions::new(), Seq(5), false, outlet));
    fs::create_dir(&path).unwrap();
    for (seq, file) in ["b", "a"].into_iter().enumerate() {
        fs::write(path.join(".half"), format!("{file}\n")).unwrap();
        fs::rename(path.join(".half"), path.join(format!("{file}.jsonl"))).unwrap();
        let block = receiver.next_blocking().unwrap();
        assert_eq!(
            (block.readings.first, brief(&seen(&block))),
            (Seq(5 + seq as u64), vec![file.to_owned()])
        );
    }
    stop.trigger();
    reader.join().unwrap().unwrap();
    assert!(receiver.next_blocking().is_none());
}

/// Gives its bytes in pieces of these sizes.
pub(super) struct Pieces(pub Cursor<Vec<u8>>, pub Vec<usize>);

impl std::io::Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = self.1.pop().unwrap_or(1).clamp(1, into.len());
        self.0.read(&mut into[..most])
    }
}

/// The lines of a text and where they lie, read literally.
fn twin(text: &str) -> Vec<(u64, u64, String)> {
    let mut at = 0;
    let mut lines = Vec::new();
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len() as u64;
        let content = line.strip_suffix('\n').unwrap_or(line);
        if !content.trim_matches([' ', '\t', '\r']).is_empty() {
            lines.push((start, at, content.to_owned()));
        }
    }
    lines
}

pub(super) fn any_lines() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-c \r\t]{0,3}\n|[a-c]{1,80}\n|\n|d", 0..12).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn standard_input_gives_the_same_readings_however_it_arrives(
        text in any_lines(),
        pieces in proptest::collection::vec(1..20_usize, 0..20),
        at in 0..100_u64,
        block_lines in 1..4_u32,
    ) {
        let mut positions = Positions::new();
        positions.set(("pipe".into(), None), Position { end: at, ..Position::default() });
        let mut bench = Bench::new(small(block_lines, 1_000), positions, 3);
        let source = config::Source { name: "pipe".into(), path: "-".into(), ..config::Source::default() };
        stdin::read_from(Pieces(Cursor::new(text.clone().into_bytes()), pieces), &source, &mut bench.blocks).unwrap();
        bench.blocks.flush().unwrap();
        let seen = readings(&bench.taken());
        let found: Vec<_> = seen.iter().map(|seen| (seen.start - at, seen.end - at, brief(std::slice::from_ref(seen)).concat())).collect();
        prop_assert_eq!(found, twin(&text));
        prop_assert!(seen.iter().enumerate().all(|(index, seen)| seen.seq == 3 + index as u64 && seen.path.is_none()));
    }

    #[test]
    fn readings_are_those_of_reading_literally_for_any_blocks_and_any_resumption(
        files in proptest::collection::vec((any_lines(), 0..3_u8, 0..200_usize), 1..5),
        block_lines in 1..6_u32,
        block_bytes in 1..200_u64,
        kill in any::<prop::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for (index, (text, packing, split)) in files.iter().enumerate() {
            let mut split = (*split).min(text.len());
            while !text.is_char_boundary(split) {
                split -= 1;
            }
            let (first, second) = text.as_bytes().split_at(split);
            // Packed files have two members or frames.
            let (ending, bytes) = match packing {
                0 => ("", text.clone().into_bytes()),
                1 => (".gz", [gzip(first), gzip(second)].concat()),
                _ => (".zst", [zst(first), zst(second)].concat()),
            };
            let name = format!("{index}.jsonl{ending}");
            fs::write(folder.path().join(&name), bytes).unwrap();
            expected.extend(twin(text).into_iter().map(|line| (name.clone(), line)));
        }
        let sources = [source("s", folder.path())];
        let limits = small(block_lines, block_bytes);
        let blocks = read_all(&sources, limits, Positions::new(), 0);
        let whole = readings(&blocks);
        let found: Vec<_> = whole
            .iter()
            .map(|seen| (seen.path.clone().unwrap(), (seen.start, seen.end, String::from_utf8(seen.raw.clone()).unwrap())))
            .collect();
        prop_assert_eq!(found, expected);
        prop_assert!(whole.iter().enumerate().all(|(index, seen)| seen.seq == index as u64));
        prop_assert!(blocks.iter().all(|block| block.readings.list.len() <= block_lines as usize));

        let killed = kill.index(blocks.len() + 1);
        prop_assert_eq!(resumed(&sources, blocks, killed), whole);
    }
}
