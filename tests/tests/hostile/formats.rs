//! Plain text and Parquet that are damaged, large, or not what they are said to be.

use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use perennial_schemas::table::records::{Outcome, RAW_LIMIT, Reason};
use perennial_tests::world::World;

use super::corpora::{collection, files};
use super::lines::most_memory;
use super::{FOLLOW, ONCE, Reading, followed, readings, source, start, until_read};

const PARQUET: &str = "format = \"parquet\"\n";

/// A Parquet file of the columns `id` and `text`, in row groups of four rows and pages of two.
fn parquet(texts: &[Option<&str>]) -> Vec<u8> {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let texts: ArrayRef = Arc::new(StringArray::from_iter(texts.iter().copied()));
    written(&[("id", ids), ("text", texts)])
}

fn written(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns.iter().cloned()).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(4))
        .set_data_page_row_count_limit(2)
        .set_write_batch_size(2)
        .set_dictionary_enabled(false)
        .set_compression(Compression::UNCOMPRESSED)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

const TEXTS: [&str; 6] = [
    "a lighthouse keeper writes of the storm",
    "prices of copper fell again on tuesday",
    "how to prune an old apple tree",
    "the committee adjourned without a vote",
    "seven ways to tie a bowline",
    "she counted the trains from her window",
];

fn six() -> Vec<u8> {
    parquet(&TEXTS.map(Some))
}

/// Six texts with the fifth not UTF-8: the page does not decode, nor does what follows it.
fn damaged() -> Vec<u8> {
    let mut bytes = six();
    let at = bytes.windows(9).position(|window| window == b"seven way").unwrap();
    bytes[at] = 0xFF;
    bytes
}

/// A file of Parquet, and what becomes of it: documents, then dead letters with words of their detail.
type Case = (Vec<u8>, usize, Vec<(Reason, &'static str)>);

fn cases() -> Vec<Case> {
    let texts = TEXTS.map(Some);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
    let cut = six()[..700].to_vec();
    vec![
        (six(), 6, vec![]),
        (vec![], 0, vec![]),
        (parquet(&[]), 0, vec![]),
        (cut, 0, vec![(Reason::Truncated, "it ends without a footer, at row 0 of `in.parquet`")]),
        (b"PAR1".to_vec(), 0, vec![(Reason::Truncated, "without a footer")]),
        (TEXTS.join("\n").into_bytes(), 0, vec![(Reason::CorruptSource, "does not begin as Parquet does")]),
        ([b"PAR1", &[7; 90][..], b"PAR1"].concat(), 0, vec![(Reason::CorruptSource, "its footer has")]),
        (damaged(), 4, vec![(Reason::CorruptSource, "at row 4 of `in.parquet`")]),
        (
            written(&[("text", Arc::clone(&numbers))]),
            0,
            vec![(Reason::WrongType, "column `text` is Int64, not text")],
        ),
        (written(&[("body", numbers)]), 0, vec![(Reason::MissingText, "no column `text` among `body`")]),
        (
            parquet(&[texts[0], None, texts[1]]),
            2,
            vec![(Reason::WrongType, "`text` is null, not a string, at row 1")],
        ),
        (
            parquet(&[Some(""), texts[0], Some("a\0b")]),
            1,
            vec![(Reason::EmptyText, "row 0"), (Reason::Nul, "row 2")],
        ),
    ]
}

#[tokio::test]
async fn damaged_parquet_gives_its_sound_rows_and_dead_letters_that_say_what_and_where() {
    for (number, (bytes, documents, dead)) in cases().into_iter().enumerate() {
        let world = World::new();
        world.write("in.parquet", bytes);
        world.write("ingest.toml", source("in.parquet", PARQUET));
        for run in 0..2 {
            world.succeed("perennial-ingest", ONCE);
            if number < 3 && documents == 0 {
                continue;
            }
            let readings = readings(&world).await;
            let (sound, bad): (Vec<_>, Vec<_>) = readings.iter().partition(|reading| reading.is_document());
            assert_eq!(
                (sound.len(), bad.len()),
                (documents, dead.len()),
                "{number}, run {run}: {readings:?}"
            );
            for (reading, (reason, words)) in bad.iter().zip(&dead) {
                let detail = reading.detail.as_deref().unwrap();
                assert!(reading.reason == Some(*reason) && detail.contains(words), "{number}: {reading:?}");
            }
            if let [null @ Reading { reason: Some(Reason::WrongType), .. }] =
                &*bad.into_iter().cloned().collect::<Vec<_>>()
                && documents > 0
            {
                assert_eq!(
                    null.raw.as_deref(),
                    Some(&br#"{"id":1,"text":null}"#[..]),
                    "the fields without text"
                );
            }
        }
    }
}

#[tokio::test]
async fn parquet_that_is_still_written_waits_and_a_mended_one_is_another_generation() {
    let world = World::new();
    let other: Vec<String> = TEXTS.iter().map(|text| format!("{text}, as was said before")).collect();
    let other: Vec<Option<&str>> = other.iter().map(|text| Some(text.as_str())).collect();
    world.write("in/a.parquet", &six()[..600]);
    world.write("in/b.parquet", parquet(&other));
    world.write("in/notes.txt", "passed over");
    world.write("ingest.toml", followed("in", "").replace("follow", &format!("{PARQUET}follow")));
    let running = start(&world, "perennial-ingest", &[FOLLOW, &["--set", "commit.interval=0s"]].concat());
    until_read(&world, 6).await;
    world.write("half", six());
    fs::rename(world.path("half"), world.path("in/a.parquet")).unwrap();
    until_read(&world, 12).await;
    assert!(running.terminate().status.success());
    let first = readings(&world).await;
    assert!(first.iter().all(|reading| reading.is_document() && reading.generation == 0), "{first:?}");
    world.write("in/c.parquet", damaged());
    world.succeed("perennial-ingest", ONCE);
    world.write("in/c.parquet", six());
    world.succeed("perennial-ingest", ONCE);
    let later = &readings(&world).await[12..];
    let seen: Vec<_> =
        later.iter().map(|reading| (reading.generation, reading.start, reading.reason)).collect();
    let sound = |generation, rows| (0..rows).map(move |row| (generation, row, None));
    let damage = (0, 4, Some(Reason::CorruptSource));
    assert_eq!(seen, sound(0, 4).chain([damage]).chain(sound(1, 6)).collect::<Vec<_>>());
}

#[tokio::test]
async fn ingest_of_parquet_killed_at_its_commits_loses_no_row_and_reads_none_twice() {
    let words = ["ash", "birch", "cedar", "dogwood", "elm", "fir", "gum"];
    let texts: Vec<String> = (0..60_usize)
        .map(|row| {
            (0..12).map(|word| words[(row * 31 + word * word * (row + 3)) % 7]).collect::<Vec<_>>().join(" ")
        })
        .enumerate()
        .map(|(row, text)| format!("{row}: {text}"))
        .collect();
    let texts: Vec<Option<&str>> =
        texts.iter().map(|text| Some(text.as_str()).filter(|text| !text.starts_with("7:"))).collect();
    let config = source("in", &format!("{PARQUET}[read]\nblock_lines = 5\n[commit]\nbytes = \"100B\"\n"));
    let world = || {
        let world = World::new();
        world.write("in/a.parquet", parquet(&texts[..25]));
        world.write("in/b.parquet", damaged());
        world.write("in/c.parquet", parquet(&texts[25..]));
        world.write("ingest.toml", &config);
        world
    };
    let whole = world();
    whole.succeed("perennial-ingest", ONCE);
    let expected = readings(&whole).await;
    assert_eq!(expected.len(), 65);
    assert_eq!(expected.iter().filter(|reading| reading.outcome == Outcome::DeadLetter).count(), 2);
    for point in ["ingest.write.before_commit", "ingest.write.after_commit"] {
        let world = world();
        for passage in [2, 3, 1] {
            world.crash_at(&format!("{point}:{passage}"), "perennial-ingest", ONCE);
            let so_far = readings(&world).await;
            assert_eq!(so_far[..], expected[..so_far.len()], "{point}");
        }
        world.succeed("perennial-ingest", ONCE);
        assert_eq!(readings(&world).await, expected, "{point}");
    }
    let places: Vec<_> = expected.iter().map(|reading| (&reading.path, reading.start)).collect();
    assert!(places.is_sorted(), "rows come in the order of the files");
}

/// A source of plain text.
fn text(record: &str) -> String {
    format!("format = \"text\"\nrecord = \"{record}\"\n")
}

#[tokio::test]
async fn text_is_read_by_file_paragraph_and_line_and_what_is_no_text_is_a_dead_letter() {
    let content = b"\xEF\xBB\xBFThe first line\r\nand the second.\r\n\r\n \t\nAnother paragraph here.\n\ncaf\xE9 noir\n\na\0b\n";
    let ends = |readings: &[Reading]| {
        let end = |reading: &Reading| (reading.text.clone(), reading.reason, reading.external_id.clone());
        readings.iter().map(end).collect::<Vec<_>>()
    };
    let document = |text: &str| (Some(text.to_owned()), None, None);
    let dead = |reason| (None, Some(reason), None);
    let bad = [dead(Reason::InvalidUtf8), dead(Reason::Nul)];
    let second = document("Another paragraph here.");
    let paragraphs = [document("The first line\r\nand the second."), second.clone()];
    let lines = [document("The first line"), document("and the second."), second];
    for (record, expected) in
        [("paragraph", [&paragraphs[..], &bad].concat()), ("line", [&lines[..], &bad].concat())]
    {
        let world = World::new();
        world.write("in.txt", content);
        world.write("ingest.toml", source("in.txt", &text(record)));
        for _ in 0..2 {
            world.succeed("perennial-ingest", ONCE);
            let readings = readings(&world).await;
            assert_eq!(ends(&readings), expected);
            assert_eq!(readings.last().unwrap().end, content.len() as i64);
            let invalid = &readings[readings.len() - 2];
            assert_eq!(invalid.raw.as_deref(), Some(&b"caf\xE9 noir"[..]));
            let said =
                format!("byte 3 of the {record}, 0xE9, is not UTF-8, at byte {} of `in.txt`", invalid.start);
            assert_eq!(invalid.detail.as_deref(), Some(said.as_str()));
        }
    }
    let world = World::new();
    world.write("in/a.txt", content);
    world.write("in/b/c.txt", TEXTS[0]);
    world.write("in/d.txt", " \n\n");
    world.write("in/e.txt", "");
    world.write("in/f.md", "passed over");
    world.write("ingest.toml", source("in", &text("file")));
    world.succeed("perennial-ingest", ONCE);
    let named = (Some(TEXTS[0].to_owned()), None, Some("b/c.txt".to_owned()));
    let expected = [dead(Reason::InvalidUtf8), named, dead(Reason::EmptyText)];
    assert_eq!(ends(&readings(&world).await), expected);
}

#[tokio::test]
async fn text_file_that_changes_is_read_again_and_its_new_text_is_a_revision() {
    let world = World::new();
    let sentences: Vec<String> =
        (0..40).map(|n| format!("sentence {n} speaks of {} and {}", n * 7 % 41, n * n % 97)).collect();
    let before = sentences[..30].join(". ");
    world.write("in/a.txt", &before);
    world.write("ingest.toml", source("in", &text("file")));
    world.succeed("perennial-ingest", ONCE);
    world.succeed("perennial-ingest", ONCE);
    let after = sentences.join(". ");
    world.write("in/a.txt", &after);
    world.succeed("perennial-ingest", ONCE);
    let readings = readings(&world).await;
    let seen: Vec<_> =
        readings.iter().map(|reading| (reading.generation, reading.start, reading.end)).collect();
    assert_eq!(seen, [(0, 0, before.len() as i64), (1, 0, after.len() as i64)]);
    assert!(readings.iter().all(|reading| reading.external_id.as_deref() == Some("a.txt")));
    assert_eq!(readings[1].outcome, Outcome::Kept, "{:?}", readings[1]);
}

/// The most memory that a follower has whose folder has a file `a` and a small one after it.
async fn memory_of(ending: &str, file: &[u8], more: &str) -> (u64, Vec<Reading>) {
    let world = World::new();
    world.write(&format!("in/a.{ending}"), file);
    let after = if ending == "parquet" { parquet(&[Some("after")]) } else { b"after".to_vec() };
    world.write(&format!("in/b.{ending}"), after);
    world.write("ingest.toml", followed("in", "").replace("follow", &format!("{more}follow")));
    let mut running = start(&world, "perennial-ingest", &[FOLLOW, &["--set", "commit.interval=0s"]].concat());
    until_read(&world, 2).await;
    let memory = most_memory(running.child().id());
    assert!(running.terminate().status.success());
    (memory, readings(&world).await)
}

#[tokio::test]
async fn text_file_of_50_megabytes_is_a_dead_letter_and_costs_no_memory() {
    let (little, _) = memory_of("txt", b"\0", &text("file")).await;
    let (much, readings) = memory_of("txt", &vec![b'x'; 50_000_000], &text("file")).await;
    assert_eq!((readings[0].reason, readings[1].reason), (Some(Reason::TooLarge), None));
    let detail = readings[0].detail.as_deref().unwrap();
    assert!(detail.contains("the file has 50000000 bytes, more than 16777216"), "{detail}");
    assert_eq!(readings[0].raw.as_deref().map(<[u8]>::len), Some(RAW_LIMIT));
    assert!(much < little + 40, "{much} MiB, {little} MiB without the text");
}

#[tokio::test]
async fn small_parquet_file_that_unpacks_to_half_a_gigabyte_is_a_dead_letter_and_costs_no_memory() {
    let huge: ArrayRef = Arc::new(StringArray::from_iter_values(["x".repeat(500_000_000)]));
    let batch = RecordBatch::try_from_iter([("text", huge)]).unwrap();
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    let bomb = writer.into_inner().unwrap();
    assert!(bomb.len() < 200_000, "{}", bomb.len());
    let (little, _) = memory_of("parquet", b"not Parquet at all", PARQUET).await;
    let (much, readings) = memory_of("parquet", &bomb, PARQUET).await;
    assert_eq!((readings[0].reason, readings[1].reason), (Some(Reason::CorruptSource), None));
    let detail = readings[0].detail.as_deref().unwrap();
    assert!(detail.contains("a page of column `text` has 500000004 bytes, more than 268435456"), "{detail}");
    assert!(much < little + 40, "{much} MiB, {little} MiB without the file");
}

/// Of files that others have made: the columns for text, id, timestamp and meta, and how many documents
/// and dead letters they are.
const COLLECTED: [(&str, [&str; 4], usize, usize); 12] = [
    ("alltypes_tiny_pages", ["string_col", "id", "timestamp_col", ""], 7300, 0),
    ("data_index_bloom_encoding_stats", ["String", "", "", ""], 14, 0),
    ("datapage_v2.snappy", ["a", "b", "c", "e"], 4, 1),
    ("delta_byte_array", ["c_customer_id", "c_first_name", "", ""], 1000, 0),
    ("unknown-logical-type", ["column with known type", "", "", ""], 3, 0),
    ("alltypes_plain", ["string_col", "id", "", ""], 0, 1),
    ("ARROW-GH-41317", ["string", "int32", "date32", "struct_field"], 0, 1),
    ("ARROW-GH-41321", ["string", "int32", "date32", "struct_field"], 3, 2),
    ("ARROW-GH-45185", ["text", "", "", "x"], 0, 1),
    ("ARROW-RS-GH-6229-DICTHEADER", ["name", "nation_key", "", ""], 0, 1),
    ("ARROW-RS-GH-6229-LEVELS", ["text", "", "", "outer"], 0, 1),
    ("PARQUET-1481", ["text", "", "", ""], 0, 1),
];

#[tokio::test]
async fn parquet_that_others_have_made_is_read_or_refused_and_never_fails_the_run() {
    let all: Vec<(String, Vec<u8>)> = [("parquet_data", 22), ("parquet_bad_data", 8)]
        .into_iter()
        .filter_map(|(name, count)| collection(name, count).map(|folder| files(&folder)))
        .flatten()
        .filter(|(name, _)| name.ends_with(".parquet"))
        .collect();
    if all.is_empty() {
        return;
    }
    let world = World::new();
    let mut config = String::new();
    for (number, (name, content)) in all.iter().enumerate() {
        world.write(&format!("in/{name}"), content);
        let known = COLLECTED.iter().find(|(known, ..)| name.strip_suffix(".parquet") == Some(known));
        let [text, id, timestamp, meta] = known.map_or(["text", "id", "", ""], |(_, columns, ..)| *columns);
        let unused =
            |column: &str, other: &str| if column.is_empty() { other.to_owned() } else { column.to_owned() };
        config += &format!(
            "[[source]]\nname = \"s{number}\"\npath = \"in/{name}\"\n{PARQUET}fields.text = \"{text}\"\n\
             fields.id = \"{}\"\nfields.timestamp = \"{}\"\nfields.meta = \"{}\"\n",
            unused(id, "-1"),
            unused(timestamp, "-2"),
            unused(meta, "-3"),
        );
    }
    world.write("ingest.toml", config);
    world.succeed("perennial-ingest", ONCE);
    let readings = readings(&world).await;
    for (name, _) in &all {
        let of: Vec<_> = readings.iter().filter(|reading| reading.path == *name).collect();
        let documents = of.iter().filter(|reading| reading.is_document()).count();
        let ends = (documents, of.len() - documents);
        let known = COLLECTED.iter().find(|(known, ..)| name.strip_suffix(".parquet") == Some(known));
        let expected = known.map_or((0, 1), |(_, _, documents, dead)| (*documents, *dead));
        assert_eq!(ends, expected, "{name}: {:?}", of.last());
    }
}
