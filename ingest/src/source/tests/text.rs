//! Plain text: what a record is, however it arrives and grows.

use super::*;
use crate::config::{Format, Record};

const RECORDS: [Record; 3] = [Record::File, Record::Paragraph, Record::Line];

fn text_source(path: &Path, record: Record) -> config::Source {
    config::Source { format: Format::Text, record, ..source("s", path) }
}

/// The records of a text and where they lie, read literally.
fn literally(text: &str, record: Record) -> Vec<(u64, u64, String)> {
    let blank = |line: &str| line.trim_matches(['\n', ' ', '\t', '\r']).is_empty();
    match record {
        Record::Line => twin(text),
        Record::File if text.is_empty() => Vec::new(),
        Record::File => vec![(0, text.len() as u64, text.to_owned())],
        Record::Paragraph => {
            let mut paragraphs: Vec<(u64, u64, String)> = Vec::new();
            let (mut at, mut open) = (0, false);
            for line in text.split_inclusive('\n') {
                let start = at;
                at += line.len() as u64;
                if blank(line) {
                    open = false;
                } else if open {
                    let last = paragraphs.last_mut().unwrap();
                    (last.1, last.2) = (at, format!("{}{line}", last.2));
                } else {
                    paragraphs.push((start, at, line.to_owned()));
                    open = true;
                }
            }
            let without_end = |(start, end, text): (u64, u64, String)| {
                (start, end, text.strip_suffix('\n').unwrap_or(&text).to_owned())
            };
            paragraphs.into_iter().map(without_end).collect()
        }
    }
}

fn found(seen: &[Seen]) -> Vec<(u64, u64, String)> {
    let one = |seen: &Seen| (seen.start, seen.end, String::from_utf8(seen.raw.clone()).unwrap());
    seen.iter().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_are_those_of_reading_literally_for_any_pieces_blocks_and_resumption(
        text in any_lines(),
        record in proptest::sample::select(&RECORDS),
        packed in 0..3_u8,
        pieces in proptest::collection::vec(1..20_usize, 0..20),
        block_lines in 1..4_u32,
        kill in any::<prop::sample::Index>(),
    ) {
        let expected = literally(&text, record);
        let pipe = config::Source { path: "-".into(), ..text_source(Path::new("-"), record) };
        let mut bench = Bench::new(small(block_lines, 100), Positions::new(), 0);
        stdin::read_from(Pieces(Cursor::new(text.clone().into_bytes()), pieces), &pipe, &mut bench.blocks).unwrap();
        bench.blocks.flush().unwrap();
        let piped = readings(&bench.taken());
        prop_assert_eq!(found(&piped), expected.clone());

        let folder = tempfile::tempdir().unwrap();
        let bytes = text.as_bytes();
        let (name, bytes) = match packed {
            0 => ("a.txt", bytes.to_vec()),
            1 => ("a.txt.gz", gzip(bytes)),
            _ => ("a.txt.zst", zst(bytes)),
        };
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let sources = [text_source(&path, record)];
        let blocks = read_all(&sources, small(block_lines, 20), Positions::new(), 0);
        let whole = readings(&blocks);
        prop_assert_eq!(found(&whole), expected);
        let killed = kill.index(blocks.len() + 1);
        prop_assert_eq!(resumed(&sources, blocks, killed), whole);
    }

    #[test]
    fn file_that_grows_in_any_pieces_gives_the_same_lines_and_paragraphs(
        text in any_lines(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        paragraphs: bool,
    ) {
        let record = if paragraphs { Record::Paragraph } else { Record::Line };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let source = text_source(&path, record);
        let mut bench = Bench::default();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let mut grown = Vec::new();
        for cut in cuts {
            fs::write(&path, &text.as_bytes()[..cut]).unwrap();
            grown.extend(bench.look(&source, true));
        }
        fs::write(&path, &text).unwrap();
        grown.extend(bench.look(&source, true));
        let read = found(&grown);
        prop_assert_eq!(&literally(&text, record)[..read.len()], &read[..]);
        // The last one waits for its end, all others have theirs.
        prop_assert!(literally(&text, record).len() - read.len() <= 1);
        bench.files = Files::default();
        grown.extend(bench.look(&source, false));
        prop_assert_eq!(found(&grown), literally(&text, record));
        prop_assert!(grown.iter().all(|seen| seen.generation == 0));
    }
}

#[test]
fn last_paragraph_waits_for_its_blank_line_while_the_file_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let source = text_source(&path, Record::Paragraph);
    let mut bench = Bench::default();
    let mut grow = |text: &str, waits: bool| {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        brief(&bench.look(&source, waits))
    };
    assert_eq!(grow("\u{feff}\r\none\r\n two\n", true), Vec::<String>::new());
    assert_eq!(grow("  ", true), Vec::<String>::new());
    assert_eq!(grow("\nthree\n", true), ["one\r\n two"]);
    assert_eq!(grow(" four", true), Vec::<String>::new());
    assert_eq!(grow("!\n\n", true), ["three\n four!"]);
    assert_eq!(grow("five", false), ["five"]);
}

#[test]
fn paragraph_that_just_fits_is_whole_whatever_blanks_follow_and_one_that_does_not_is_a_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let limit = RAW_LIMIT + 30_000;
    let limits = config::Read { line: Bytes::new(limit as u64), ..config::Read::default() };
    let line = "x".repeat(999);
    let mut fits = [line.as_str()].repeat(limit / 1000).join("\n");
    fits.push_str(&"y".repeat(limit - fits.len()));
    let blanks = " ".repeat(200_000);
    let large = format!("{fits}\n{blanks}z");
    fs::write(&path, format!("{fits}\n{blanks}\n\n{large}\n\n{blanks}last\n\nend")).unwrap();
    let blocks = read_all(&[text_source(&path, Record::Paragraph)], limits, Positions::new(), 0);
    let seen = readings(&blocks);
    assert_eq!(seen.len(), 4);
    assert!(seen[0].raw == fits.as_bytes() && seen[0].reason.is_none());
    assert_eq!((seen[1].reason, seen[1].length), (Some(Reason::TooLarge), large.len() as u64));
    assert_eq!(seen[1].raw, &large.as_bytes()[..RAW_LIMIT]);
    assert_eq!((seen[2].reason, seen[2].length), (Some(Reason::TooLarge), 200_004));
    assert_eq!(seen[2].raw, &blanks.as_bytes()[..RAW_LIMIT]);
    assert_eq!(brief(&seen[3..]), ["end"]);
}

#[test]
fn file_that_is_one_document_is_read_when_it_looked_the_same_twice_and_again_when_it_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let source = text_source(&path, Record::File);
    let mut bench = Bench::default();
    fs::write(&path, "half").unwrap();
    assert_eq!(bench.look(&source, true), []);
    fs::write(&path, "half and whole\n").unwrap();
    assert_eq!(bench.look(&source, true), []);
    let seen = bench.look(&source, true);
    assert_eq!((brief(&seen), seen[0].generation, seen[0].end), (vec!["half and whole\n".into()], 0, 15));
    assert_eq!(bench.look(&source, true), []);
    // Beyond what the mark of a growing file covers.
    let long = "a".repeat(MARKED * 2);
    for (generation, text) in [(1, long.clone() + "b"), (2, long.clone() + "c"), (3, long + "c and more")] {
        fs::write(&path, &text).unwrap();
        // What it looks like may be as before, however little time has passed.
        bench.files = Files::default();
        assert_eq!(bench.look(&source, true), []);
        let seen = bench.look(&source, true);
        assert_eq!((brief(&seen), seen[0].generation, seen[0].start), (vec![text], generation, 0));
        bench.files = Files::default();
        assert_eq!(bench.look(&source, false), [], "known after a restart");
    }
    fs::write(&path, "").unwrap();
    assert_eq!(bench.look(&source, false), [], "nothing to read");
}

#[test]
fn file_that_is_one_document_and_too_large_or_broken_is_one_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let limits = config::Read { line: Bytes::new(100_000), ..config::Read::default() };
    let look = |name: &str, bytes: &[u8], waits: bool| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let mut bench = Bench::new(limits, Positions::new(), 0);
        let source = text_source(&path, Record::File);
        let seen: Vec<Seen> = (0..3).flat_map(|_| bench.look(&source, waits)).collect();
        seen.iter().map(|seen| (seen.reason, seen.raw.len(), seen.length, seen.end)).collect::<Vec<_>>()
    };
    let text = "line of text\n".repeat(10_000);
    let large = Some(Reason::TooLarge);
    assert_eq!(look("a.txt", text.as_bytes(), true), [(large, RAW_LIMIT, 130_000, 130_000)]);
    assert_eq!(look("a.txt.gz", &gzip(text.as_bytes()), false), [(large, RAW_LIMIT, 130_000, 130_000)]);
    assert_eq!(look("b.txt", b"\xEF\xBB\xBFmarked", false), [(None, 6, 9, 9)]);
    let packed = gzip(b"one\n\ntwo");
    let cut = &packed[..packed.len() - 4];
    assert_eq!(look("c.txt.gz", cut, false), [(Some(Reason::Truncated), 8, 8, 9)]);
    assert_eq!(look("d.txt.gz", cut, true), [], "it may be still being written");
    assert_eq!(look("e.txt.gz", b"this is not gzip at all", true), [(Some(Reason::CorruptSource), 0, 0, 1)]);
}

#[test]
fn folder_is_read_by_the_endings_of_the_format_and_the_rest_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["a.jsonl", "b.TXT", "c.txt.gz", "d.parquet", "e.parquet.gz", "f", "sub/g.txt"];
    fs::create_dir(folder.path().join("sub")).unwrap();
    for name in names {
        fs::write(folder.path().join(name), b"").unwrap();
    }
    let walk = |format| {
        let source = config::Source { format, ..source("s", folder.path()) };
        let walk = walk::files(&source, false).unwrap();
        let found: Vec<String> = walk.found.iter().map(|found| found.relative.to_string()).collect();
        assert_eq!(found.len() + walk.passed.len(), names.len(), "each is one or the other");
        found
    };
    assert_eq!(walk(Format::Jsonl), ["a.jsonl"]);
    assert_eq!(walk(Format::Text), ["b.TXT", "c.txt.gz", "sub/g.txt"]);
    assert_eq!(walk(Format::Parquet), ["d.parquet"]);
}
