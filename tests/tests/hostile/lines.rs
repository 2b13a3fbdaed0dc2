//! Lines and files that are damaged: each has its own end, and its neighbours come to no harm.

use perennial_schemas::table::records::{Outcome, Reason};
use perennial_tests::world::{World, data};

use super::{FOLLOW, ONCE, Reading, followed, readings, source, start, until_read};

/// What must become of a line.
#[derive(Debug, Clone, Copy)]
enum End {
    /// A document with this text.
    Document(&'static str),
    /// A dead letter whose detail has these words.
    Dead(Reason, &'static str),
}

use End::{Dead, Document};

const LINES: &[(&[u8], End)] = &[
    (b"{\"text\":\"caf\xE9\"}", Dead(Reason::InvalidUtf8, "byte 12 of the line, 0xE9, is not UTF-8")),
    (b"{\"text\":\"\xED\xA0\x80\"}", Dead(Reason::InvalidUtf8, "0xED")),
    (b"\xFF\xFE{\x00}\x00", Dead(Reason::InvalidUtf8, "byte 0 of the line, 0xFF")),
    (b"[\"text\"]", Dead(Reason::NotAnObject, "the line is an array, not an object")),
    (b"\"text\"", Dead(Reason::NotAnObject, "the line is a string")),
    (b"17", Dead(Reason::NotAnObject, "the line is a number")),
    (b"null", Dead(Reason::NotAnObject, "the line is null")),
    (b"plain words", Dead(Reason::InvalidJson, "near byte 1 of the line")),
    (b"{\"text\":\"cut", Dead(Reason::InvalidJson, "near byte 12 of the line")),
    (
        b"{\"text\":\"two\"}{\"text\":\"on a line\"}",
        Dead(Reason::InvalidJson, "trailing characters, near byte 15"),
    ),
    (b"{}", Dead(Reason::MissingText, "there is no key `text`")),
    (b"{\"txt\":\"misspelt\"}", Dead(Reason::MissingText, "`text`")),
    (b"{\"text\":null}", Dead(Reason::WrongType, "`text` is null, not a string")),
    (b"{\"text\":5}", Dead(Reason::WrongType, "`text` is a number")),
    (b"{\"text\":[\"a\"]}", Dead(Reason::WrongType, "`text` is an array")),
    (b"{\"text\":\"x\",\"url\":7}", Dead(Reason::WrongType, "`url` is a number, not a string")),
    (b"{\"text\":\"x\",\"meta\":[]}", Dead(Reason::WrongType, "`meta` is an array, not an object")),
    (b"{\"text\":\"x\",\"timestamp\":{}}", Dead(Reason::WrongType, "`timestamp` is an object")),
    (b"{\"text\":\"\"}", Dead(Reason::EmptyText, "`text` is empty")),
    (b"{\"text\":\" \\n\\t\\u00a0 \"}", Dead(Reason::EmptyText, "`text` is white space only")),
    (b"{\"text\":\"a\\u0000b\"}", Dead(Reason::Nul, "byte 1 of `text` is NUL")),
    (b"{\"text\":\"a\x00b\"}", Dead(Reason::InvalidJson, "control character")),
    (b"{\"text\":\"\\ud83d\"}", Dead(Reason::InvalidJson, "a surrogate escape without its other half")),
    (
        b"{\"text\":\"x\",\"meta\":{\"a\":\"\\udc00\"}}",
        Dead(Reason::InvalidJson, "a surrogate escape without its other half"),
    ),
    (
        b"{\"text\":\"x\",\"timestamp\":\"0000-01-01\"}",
        Dead(Reason::InvalidTimestamp, "no time in the years 0001 to 9999"),
    ),
    (
        b"{\"text\":\"x\",\"timestamp\":\"10000-01-01T00:00:00Z\"}",
        Dead(Reason::InvalidTimestamp, "`timestamp`"),
    ),
    (b"{\"text\":\"x\",\"timestamp\":\"2024-02-30\"}", Dead(Reason::InvalidTimestamp, "2024-02-30")),
    (b"{\"text\":\"x\",\"timestamp\":1e300}", Dead(Reason::InvalidTimestamp, "1e300")),
    (
        b"{\"text\":\"x\",\"timestamp\":-99999999999999999}",
        Dead(Reason::InvalidTimestamp, "-99999999999999999"),
    ),
    (b"{\"text\":\"the pair \\ud83d\\ude00 is whole\"}", Document("the pair \u{1F600} is whole")),
    (b"{\"text\":\"first of two keys\",\"text\":\"last of two keys\"}", Document("last of two keys")),
    (b"{\"text\":\"an ending of two bytes\"}\r", Document("an ending of two bytes")),
    (b"{\"text\":\"\xE2\x80\xAEright to left\"}", Document("\u{202E}right to left")),
];

#[tokio::test]
async fn damaged_lines_become_dead_letters_that_say_what_and_where_and_their_neighbours_documents() {
    let world = World::new();
    let (mut input, mut expected) = (Vec::new(), Vec::new());
    for (number, (line, end)) in LINES.iter().enumerate() {
        expected.push((input.len(), *line, *end));
        input.extend_from_slice(line);
        let neighbour = format!("\n{{\"id\":{number},\"text\":\"neighbour of line {number}\"}}\n");
        input.extend_from_slice(neighbour.as_bytes());
    }
    world.write("in.jsonl", &input);
    world.write("ingest.toml", source("in.jsonl", ""));
    let printed = world.succeed("perennial-ingest", ONCE);
    let dead = LINES.iter().filter(|(_, end)| matches!(end, Dead(..))).count();
    assert!(printed.contains(&format!("read {}: ", 2 * LINES.len())), "{printed}");
    assert!(printed.contains(&format!("dead letters {dead}")), "{printed}");
    let readings = readings(&world).await;
    assert_eq!(readings.len(), 2 * LINES.len());
    for (pair, (at, line, end)) in readings.chunks(2).zip(expected) {
        let [reading, neighbour] = pair else { panic!("pairs") };
        let case = String::from_utf8_lossy(line);
        assert_eq!(reading.start, at as i64, "{case}");
        match end {
            Document(text) => assert_eq!(reading.text.as_deref(), Some(text), "{case}"),
            Dead(reason, words) => {
                assert_eq!(reading.reason, Some(reason), "{case}: {reading:?}");
                let detail = reading.detail.as_deref().unwrap();
                assert!(detail.contains(words), "{case}: {detail}");
                assert!(detail.ends_with(&format!(", at byte {at} of `in.jsonl`")), "{case}: {detail}");
                assert_eq!(reading.raw.as_deref(), Some(line), "{case}");
            }
        }
        assert!(neighbour.is_document() && neighbour.external_id.is_some(), "{case}: {neighbour:?}");
    }
}

/// A gzip file of one stored block without its checksum: cut off.
fn cut_gzip(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let header = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF, 1];
    [&header[..], &length.to_le_bytes(), &(!length).to_le_bytes(), content].concat()
}

/// A zstd frame of one raw block, at most 255 bytes.
fn zstd(content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    let block = (u32::from(length) << 3 | 1).to_le_bytes();
    [&[0x28, 0xB5, 0x2F, 0xFD, 0x20, length][..], &block[..3], content].concat()
}

const TWO: &[u8] = b"{\"text\":\"one\"}\n{\"text\":\"two\"}\n";

/// A file by its name and its bytes, and what must become of it: `None` for a document.
type Case = (&'static str, Vec<u8>, Vec<Option<Reason>>);

fn files() -> Vec<Case> {
    let whole = zstd(TWO);
    let cut = |by: usize| whole[..whole.len() - by].to_vec();
    let mut flipped = whole.clone();
    flipped[6] |= 6;
    vec![
        ("in.jsonl", vec![], vec![]),
        ("in.jsonl", b"\n\n \r\n".to_vec(), vec![]),
        ("in.jsonl", [b"\xEF\xBB\xBF", TWO].concat(), vec![None, None]),
        ("in.jsonl", TWO[..TWO.len() - 1].to_vec(), vec![None, None]),
        ("in.jsonl", TWO[..TWO.len() - 2].to_vec(), vec![None, Some(Reason::InvalidJson)]),
        ("in.jsonl.gz", cut_gzip(TWO), vec![None, None, Some(Reason::Truncated)]),
        ("in.jsonl.gz", cut_gzip(&TWO[..20]), vec![None, Some(Reason::Truncated)]),
        ("in.jsonl.gz", b"\x1F\x8B".to_vec(), vec![Some(Reason::Truncated)]),
        ("in.jsonl.gz", TWO.to_vec(), vec![Some(Reason::CorruptSource)]),
        ("in.jsonl.zst", whole.clone(), vec![None, None]),
        ("in.jsonl.zst", [&whole[..], &whole].concat(), vec![None; 4]),
        ("in.jsonl.zst", cut(20), vec![Some(Reason::Truncated)]),
        ("in.jsonl.zst", [&whole[..], &cut(1)].concat(), vec![None, None, None, Some(Reason::Truncated)]),
        ("in.jsonl.zst", flipped, vec![Some(Reason::CorruptSource)]),
        ("in.jsonl.zst", TWO.to_vec(), vec![Some(Reason::CorruptSource)]),
        ("in.jsonl.zst", [&whole[..], TWO].concat(), vec![None, None, Some(Reason::CorruptSource)]),
    ]
}

#[tokio::test]
async fn damaged_files_give_what_lies_before_the_damage_and_one_dead_letter() {
    for (number, (name, bytes, expected)) in files().into_iter().enumerate() {
        let world = World::new();
        world.write(name, bytes);
        world.write("ingest.toml", source(name, ""));
        world.succeed("perennial-ingest", ONCE);
        let ends =
            |readings: Vec<Reading>| readings.into_iter().map(|reading| reading.reason).collect::<Vec<_>>();
        let first = readings(&world).await;
        if let Some(broken) = first.last().filter(|last| last.reason == Some(Reason::Truncated)) {
            let detail = broken.detail.as_deref().unwrap();
            assert!(
                detail.contains("the compressed data end too early") && detail.contains(name),
                "{detail}"
            );
        }
        assert_eq!(ends(first), expected, "file {number}, `{name}`");
        world.succeed("perennial-ingest", ONCE);
        assert_eq!(ends(readings(&world).await), expected, "file {number} again, `{name}`");
    }
}

#[tokio::test]
async fn bundled_stream_cut_in_half_is_read_to_the_cut_and_anew_when_it_is_whole() {
    let world = World::new();
    let stream = std::fs::read(data("stream.jsonl.zst")).unwrap();
    world.write("in.jsonl.zst", &stream[..stream.len() / 2]);
    world.write("ingest.toml", source("in.jsonl.zst", ""));
    world.succeed("perennial-ingest", ONCE);
    let cut = readings(&world).await;
    assert!(cut.len() > 100, "{}", cut.len());
    let (last, before) = cut.split_last().unwrap();
    assert_eq!(last.reason, Some(Reason::Truncated));
    assert!(before.iter().all(|reading| reading.reason != Some(Reason::Truncated)));
    world.write("in.jsonl.zst", &stream);
    world.succeed("perennial-ingest", ONCE);
    let whole = readings(&world).await;
    assert_eq!(whole.len(), cut.len() + 1013);
    assert!(whole[cut.len()..].iter().all(|reading| reading.generation == 1));
    assert_eq!(whole[cut.len()].start, 0);
    let again: Vec<_> = whole[cut.len()..].iter().take(before.len()).collect();
    assert!(
        again.iter().all(|reading| reading.outcome != Outcome::Kept),
        "what was read before is not kept twice"
    );
}

#[tokio::test]
async fn file_that_grows_is_read_on_and_one_that_shrinks_or_is_another_is_read_anew() {
    let line = |text: &str| format!("{{\"text\":\"{text}\"}}\n");
    // What the file is at each run, and how many readings are new, of which generation.
    let runs = [
        (line("the first") + &line("the second"), 2, 0),
        (line("the first") + &line("the second") + &line("the third"), 1, 0),
        (line("the first"), 1, 1),
        (line("the first") + &line("the fourth"), 1, 1),
        (line("it is") + &line("another"), 2, 2),
        (String::new(), 0, 2),
        (line("it is") + &line("another") + &line("the first"), 1, 2),
    ];
    let world = World::new();
    world.write("ingest.toml", source("in.jsonl", ""));
    let mut before = 0;
    for (number, (content, new, generation)) in runs.into_iter().enumerate() {
        world.write("in.jsonl", content);
        world.succeed("perennial-ingest", ONCE);
        let readings = readings(&world).await;
        assert_eq!(readings.len() - before, new, "run {number}: {readings:?}");
        assert!(readings[before..].iter().all(|reading| reading.generation == generation), "run {number}");
        before = readings.len();
    }
    let kept = readings(&world).await.into_iter().filter(|reading| reading.outcome == Outcome::Kept).count();
    assert_eq!(kept, 6, "each text once");
}

/// The most memory that a running program ever had, in MiB.
pub(super) fn most_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
}

/// The most memory that a follower has when its file has one line between two others.
async fn memory_of(line: &[u8]) -> (u64, Vec<Reading>) {
    let world = World::new();
    let (before, after) = (&b"{\"text\":\"before\"}\n"[..], &b"\n{\"text\":\"after\"}\n"[..]);
    world.write("in.jsonl", [before, line, after].concat());
    world.write("ingest.toml", followed("in.jsonl", "line = \"1MiB\"\n"));
    let mut running = start(&world, "perennial-ingest", &[FOLLOW, &["--set", "commit.interval=0s"]].concat());
    until_read(&world, 3).await;
    let memory = most_memory(running.child().id());
    assert!(running.terminate().status.success());
    (memory, readings(&world).await)
}

#[tokio::test]
async fn document_of_50_megabytes_is_a_dead_letter_and_costs_no_memory() {
    let huge = [b"{\"text\":\"", &vec![b'x'; 50_000_000][..], b"\"}"].concat();
    let (little, _) = memory_of(b"{\"text\":5}").await;
    let (much, readings) = memory_of(&huge).await;
    let ends: Vec<_> = readings.iter().map(|reading| reading.reason).collect();
    assert_eq!(ends, [None, Some(Reason::TooLarge), None]);
    let dead = &readings[1];
    let detail = dead.detail.as_deref().unwrap();
    assert!(
        detail.contains("the line has 50000011 bytes, more than 1048576, at byte 18 of `in.jsonl`"),
        "{detail}"
    );
    assert_eq!(
        dead.raw.as_deref().map(<[u8]>::len),
        Some(64 * 1024),
        "its beginning is there to be looked at"
    );
    assert!(much < little + 25, "{much} MiB, {little} MiB without the line");
}

/// A follower with queues of a few lines reads `count` lines of a kilobyte: the most memory it had, and
/// what it printed about its waits, in hundredths of a second by the stage that it waited for.
async fn flood(count: usize) -> (u64, Vec<u64>) {
    let world = World::new();
    // Dead letters, since texts that are kept are remembered.
    let line = format!("{{\"text\":5,\"padding\":\"{}\"}}\n", "x".repeat(1000));
    world.write("in.jsonl", line.repeat(count));
    let tables = "block_lines = 10\n[queue]\nblocks = 1\nbytes = \"10kB\"\n[commit]\nbytes = \"2MB\"\ninterval = \"1s\"\n";
    world.write("ingest.toml", followed("in.jsonl", tables));
    let mut running = start(&world, "perennial-ingest", FOLLOW);
    until_read(&world, count).await;
    let memory = most_memory(running.child().id());
    let output = running.terminate();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(&format!("read {count}: kept 0")), "{printed}");
    let waits = printed.lines().filter_map(|line| line.trim().strip_prefix("waited before "));
    let hundredths = |wait: &str| wait.split(' ').nth(1).unwrap().replace('.', "").parse().unwrap();
    (memory, waits.map(hundredths).collect())
}

#[tokio::test]
async fn source_that_is_faster_than_the_store_waits_for_it_and_its_wait_is_counted() {
    let (little, _) = flood(200).await;
    let (much, waits) = flood(10_000).await;
    assert_eq!(waits.len(), 4);
    assert!(waits[0] > 0, "the source waited: {waits:?}");
    assert!(much < little + 30, "{much} MiB, {little} MiB for a fiftieth of the lines");
}
