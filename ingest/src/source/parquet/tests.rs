use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray,
    StringDictionaryBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use perennial_program::config::Bytes;
use perennial_schemas::table::records::{RAW_LIMIT, Reason};
use proptest::prelude::*;

use super::super::Positions;
use super::super::file::Files;
use super::super::tests::{Bench, Seen, brief, read_all, readings, resumed, seen, small, source};
use crate::config::{self, Fields, Format};
use crate::dedup::held_out::HeldOut;
use crate::dedup::near::Near;
use crate::dedup::{DedupState, Found};

fn parquet_source(path: &Path) -> config::Source {
    config::Source { format: Format::Parquet, ..source("s", path) }
}

/// How a file is laid out.
#[derive(Debug, Clone, Copy)]
struct Layout {
    group: usize,
    page: usize,
    dictionary: bool,
    packed: bool,
}

const SMALL: Layout = Layout { group: 8, page: 3, dictionary: false, packed: true };

fn written(batch: &RecordBatch, layout: Layout) -> Vec<u8> {
    let codec =
        if layout.packed { Compression::ZSTD(ZstdLevel::default()) } else { Compression::UNCOMPRESSED };
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(layout.group))
        .set_data_page_row_count_limit(layout.page)
        .set_write_batch_size(layout.page)
        .set_dictionary_enabled(layout.dictionary)
        .set_compression(codec)
        .build();
    written_by(batch, properties)
}

fn written_by(batch: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

/// A file of these texts, with ids and a struct.
fn file(texts: &[Option<String>], layout: Layout) -> Vec<u8> {
    let text: ArrayRef = Arc::new(StringArray::from_iter(texts.iter().map(Option::as_deref)));
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let inner: ArrayRef = Arc::new(StringArray::from_iter_values(texts.iter().map(|_| "value")));
    let field = Arc::new(Field::new("key", DataType::Utf8, false));
    let meta: ArrayRef = Arc::new(StructArray::from(vec![(field, inner)]));
    let batch = RecordBatch::try_from_iter([
        ("id", id),
        ("other", Arc::clone(&text)),
        ("meta", meta),
        ("text", text),
    ]);
    written(&batch.unwrap(), layout)
}

fn numbered(count: usize) -> Vec<Option<String>> {
    (0..count).map(|row| Some(format!("text of row {row}"))).collect()
}

fn opened(path: &Path) -> super::Chunks {
    let file = fs::File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    super::Chunks::new(Arc::new(file), length)
}

fn texts(seen: &[Seen]) -> Vec<(u64, u64, String)> {
    seen.iter().map(|seen| (seen.start, seen.end, brief(std::slice::from_ref(seen)).concat())).collect()
}

fn expected(texts: &[Option<String>]) -> Vec<(u64, u64, String)> {
    let one = |(row, text): (usize, &Option<String>)| {
        (row as u64, row as u64 + 1, text.clone().unwrap_or_default())
    };
    texts.iter().enumerate().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_are_the_same_for_any_layout_any_blocks_and_any_resumption(
        texts in proptest::collection::vec(proptest::option::weighted(0.9, "[a-c]{0,40}"), 0..60),
        group in 1..20_usize,
        page in 1..10_usize,
        dictionary: bool,
        packed: bool,
        block_lines in 1..12_u32,
        block_bytes in 1..300_u64,
        kill in any::<prop::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        fs::write(&path, file(&texts, Layout { group, page, dictionary, packed })).unwrap();
        let sources = [parquet_source(&path)];
        let blocks = read_all(&sources, small(block_lines, block_bytes), Positions::new(), 0);
        let whole = readings(&blocks);
        prop_assert_eq!(self::texts(&whole), expected(&texts));
        prop_assert!(blocks.iter().all(|block| block.readings.list.len() <= block_lines as usize));
        for block in &blocks {
            for reading in &block.readings.list {
                let (columns, row) = block.readings.row(reading).unwrap();
                let id = columns.id.as_ref().unwrap().as_any().downcast_ref::<Int64Array>().unwrap();
                prop_assert_eq!(id.value(row) as u64, reading.start);
                prop_assert_eq!(columns.text(row), texts[reading.start as usize].as_deref());
            }
        }
        let killed = kill.index(blocks.len() + 1);
        prop_assert_eq!(resumed(&sources, blocks, killed), whole);
    }

    #[test]
    fn damaged_file_is_read_without_an_error_and_what_is_read_does_not_depend_on_the_blocks(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
        dictionary: bool,
        packed: bool,
    ) {
        let mut bytes = file(&numbered(40), Layout { dictionary, packed, ..SMALL });
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        fs::write(&path, bytes).unwrap();
        let sources = [parquet_source(&path)];
        let read = |lines| read_all(&sources, small(lines, 10_000), Positions::new(), 0);
        let blocks = read(7);
        let whole = readings(&blocks);
        prop_assert_eq!(&whole, &readings(&read(1000)));
        prop_assert!(whole.iter().all(|seen| seen.end == seen.start + 1 || seen.reason.is_some()));
        prop_assert!(whole.windows(2).all(|pair| pair[0].end == pair[1].start));
        let all = blocks.len();
        prop_assert_eq!(resumed(&sources, blocks, all), whole, "what was said is not said again");
    }
}

#[test]
fn truncated_file_waits_while_it_is_followed_and_is_one_dead_letter_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let source = parquet_source(&path);
    let whole = file(&numbered(20), SMALL);
    for cut in [1, 4, 11, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut bench = Bench::default();
        assert_eq!(bench.look(&source, true), [], "{cut}");
        bench.files = Files::default();
        let seen = bench.look(&source, false);
        assert_eq!(seen.len(), 1);
        let dead = &seen[0];
        assert_eq!((dead.reason, dead.start, dead.end), (Some(Reason::Truncated), 0, 1));
        assert_eq!((dead.length, dead.raw.as_slice()), (cut as u64, &whole[..cut]));
        bench.files = Files::default();
        assert_eq!(bench.look(&source, false), [], "said once");
        // It has grown and still has no footer.
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(bench.look(&source, false).is_empty() || cut == whole.len() - 1);
        fs::write(&path, &whole).unwrap();
        let mended = bench.look(&source, true);
        assert_eq!(texts(&mended), expected(&numbered(20)));
        assert!(mended.iter().all(|seen| seen.generation == 1 && seen.reason.is_none()));
    }
}

#[test]
fn file_that_is_no_parquet_is_a_dead_letter_with_its_first_bytes_and_an_empty_one_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let source = parquet_source(&path);
    let whole = file(&numbered(20), SMALL);
    let mut longer = whole.clone();
    let tail = longer.len() - 8;
    longer[tail..tail + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut encrypted = whole;
    encrypted[tail + 7] = b'E';
    for (bytes, said) in [
        (vec![b'x'; RAW_LIMIT + 5], "begin"),
        (b"PAR1xxxx\x04\0\0\0PAR1".to_vec(), "nested"),
        (longer, "4294967295 bytes, more than 16777216"),
        (encrypted, "encrypted"),
    ] {
        fs::write(&path, &bytes).unwrap();
        for waits in [false, true] {
            let mut bench = Bench::default();
            let source = config::Source { follow: waits, ..source.clone() };
            super::super::read_source(&source, !waits, &mut bench.files, &mut bench.blocks).unwrap();
            bench.blocks.flush().unwrap();
            let blocks = bench.taken();
            let dead = &blocks[0].readings.list;
            let fault = dead[0].fault.as_ref().unwrap();
            assert_eq!((dead.len(), fault.reason), (1, Reason::CorruptSource));
            assert!(fault.detail.contains(said), "{}", fault.detail);
            assert_eq!(seen(&blocks[0])[0].raw, bytes[..bytes.len().min(RAW_LIMIT)]);
        }
    }
    fs::write(&path, b"").unwrap();
    assert_eq!(Bench::default().look(&source, false), []);
    fs::write(&path, file(&[], SMALL)).unwrap();
    assert_eq!(Bench::default().look(&source, false), []);
}

#[test]
fn damage_in_the_middle_is_one_dead_letter_and_a_mended_file_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let source = parquet_source(&path);
    let whole = file(&numbered(40), Layout { packed: false, ..SMALL });
    // The text of row 20, in pages of 3 rows and groups of 8, is now not UTF-8.
    let at = whole.windows(14).rposition(|window| window == b"text of row 20").unwrap();
    let mut damaged = whole.clone();
    damaged[at] = 0xFF;
    fs::write(&path, &damaged).unwrap();
    let mut bench = Bench::default();
    let seen = bench.look(&source, true);
    let (last, sound) = seen.split_last().unwrap();
    assert_eq!(texts(sound), expected(&numbered(20)));
    assert_eq!((last.start, last.end, last.reason), (20, 21, Some(Reason::CorruptSource)));
    bench.files = Files::default();
    assert_eq!(bench.look(&source, false), [], "said once");
    fs::write(&path, &whole).unwrap();
    bench.files = Files::default();
    let mended = bench.look(&source, false);
    assert_eq!(texts(&mended), expected(&numbered(40)));
    assert!(mended.iter().all(|seen| seen.generation == 1));
    fs::write(&path, file(&numbered(41), SMALL)).unwrap();
    let replaced = bench.look(&source, false);
    assert_eq!((replaced.len(), replaced[0].generation), (41, 2));
}

#[test]
fn file_of_another_shape_is_one_dead_letter_for_all_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    fs::write(&path, file(&numbered(20), SMALL)).unwrap();
    let fields = |fields: Fields| config::Source { fields, ..parquet_source(&path) };
    let missing = fields(Fields { text: "body".into(), ..Fields::default() });
    let wrong = fields(Fields { text: "id".into(), id: "none".into(), ..Fields::default() });
    let wrong_other = fields(Fields { url: "meta".into(), meta: "none".into(), ..Fields::default() });
    for (source, reason) in
        [(missing, Reason::MissingText), (wrong, Reason::WrongType), (wrong_other, Reason::WrongType)]
    {
        let mut bench = Bench::default();
        let seen = bench.look(&source, false);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].start, seen[0].end, seen[0].reason), (0, 20, Some(reason)));
        let raw = String::from_utf8(seen[0].raw.clone()).unwrap();
        assert!(raw.contains(r#""text":"Utf8""#), "{raw}");
        bench.files = Files::default();
        assert_eq!(bench.look(&source, false), [], "said once");
        // From row 8 on the configuration was wrong.
        let mut positions = Positions::new();
        let head = bench.blocks.position(&("s".into(), Some("a.parquet".into()))).unwrap().head;
        let at = super::Position { head, end: 8, ..super::Position::default() };
        positions.set(("s".into(), Some("a.parquet".into())), at);
        let rest = Bench::new(config::Read::default(), positions, 8).look(&source, false);
        assert_eq!((rest.len(), rest[0].start, rest[0].end), (1, 8, 20));
    }
}

#[test]
fn row_that_is_too_large_is_a_dead_letter_between_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let mut texts = numbered(5);
    texts[2] = Some("x".repeat(200_000));
    texts[4] = Some("y".repeat(90_000));
    fs::write(&path, file(&texts, SMALL)).unwrap();
    let limits = config::Read { line: Bytes::new(100_000), ..config::Read::default() };
    let blocks = read_all(&[parquet_source(&path)], limits, Positions::new(), 0);
    let seen = readings(&blocks);
    let found: Vec<_> = seen.iter().map(|seen| (seen.raw.len(), seen.length, seen.reason)).collect();
    let large = (RAW_LIMIT, 200_000, Some(Reason::TooLarge));
    assert_eq!(found, [(13, 13, None), (13, 13, None), large, (13, 13, None), (90_000, 90_000, None)]);
}

#[test]
fn small_file_that_asks_for_much_memory_gets_blocks_no_larger_than_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    // A thousand rows of one value of a dictionary: a gigabyte of text in a file of some kilobytes.
    let mut rows = StringDictionaryBuilder::<Int32Type>::new();
    let value = "x".repeat(1_000_000);
    (0..1000).for_each(|_| rows.append_value(&value));
    let batch = RecordBatch::try_from_iter([("text", Arc::new(rows.finish()) as ArrayRef)]).unwrap();
    let layout = Layout { group: 1_000_000, page: 1_000_000, dictionary: true, packed: true };
    let bytes = written(&batch, layout);
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    fs::write(&path, &bytes).unwrap();
    let source = parquet_source(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let clock = perennial_program::clock::Clock::manual(0);
    let queue = config::Queue { blocks: 2, bytes: Bytes::mib(1) };
    let (sender, mut receiver, _) = crate::channel::channel("test", queue, &clock);
    let stop = perennial_program::stop::Stop::new();
    let outlet = super::super::Outlet::new(sender, stop, clock, runtime.handle().clone());
    let reader = std::thread::spawn(move || {
        let limits = config::Read::default();
        super::super::read(&[source], limits, Positions::new(), perennial_schemas::id::Seq(0), true, outlet)
    });
    let (mut rows, mut heaviest) = (0, 0);
    while let Some(block) = receiver.next_blocking() {
        rows += block.readings.list.len();
        heaviest = heaviest.max(block.weight());
    }
    reader.join().unwrap().unwrap();
    assert_eq!(rows, 1000);
    assert!(heaviest < 12 << 20, "{heaviest}");
    // A page that is larger than allowed is not unpacked at all.
    let limits = config::Read { page: Bytes::kib(500), ..config::Read::default() };
    let blocks = read_all(&[parquet_source(&path)], limits, Positions::new(), 0);
    let fault = blocks[0].readings.list[0].fault.as_ref().unwrap();
    assert_eq!(fault.reason, Reason::CorruptSource);
    assert!(fault.detail.contains("column `text` has 1000004 bytes, more than 512000"), "{}", fault.detail);
}

#[test]
fn headers_of_all_pages_of_a_column_lead_to_its_end_and_count_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    for dictionary in [false, true] {
        let layout = Layout { group: 100, page: 3, dictionary, packed: true };
        fs::write(&path, file(&numbered(50), layout)).unwrap();
        let chunks = opened(&path);
        let footer = super::Footer::read(&chunks).unwrap();
        assert_eq!((footer.rows, footer.groups.as_slice()), (50, &[(0, 50)][..]));
        for column in footer.metadata.row_group(0).columns() {
            let (start, stored) = column.byte_range();
            let (mut at, mut values, mut pages, mut unpacked) = (start, 0, 0, 0);
            while at < start + stored {
                let from = parquet::file::reader::ChunkReader::get_read(&chunks, at).unwrap();
                let page = super::pages::header(from).unwrap();
                at += page.header + page.stored;
                values += page.values;
                unpacked += page.header + page.unpacked;
                pages += 1;
            }
            assert_eq!((at, values), (start + stored, 50));
            assert_eq!(unpacked, column.uncompressed_size() as u64);
            assert!(pages >= 50 / 3, "{pages}");
        }
    }
    assert_eq!(super::pages::header(&b"\xFF\xFF"[..]), None);
    assert_eq!(super::pages::header(&b""[..]), None);
}

#[test]
fn rows_read_at_once_follow_from_the_pages_whatever_the_footer_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let texts: Vec<_> = (0..100).map(|_| Some("x".repeat(10_000))).collect();
    let layout = Layout { group: 100, page: 5, dictionary: false, packed: true };
    fs::write(&path, file(&texts, layout)).unwrap();
    let chunks = opened(&path);
    let mut footer = super::Footer::read(&chunks).unwrap();
    let fields = Fields { meta: "none".into(), ..Fields::default() };
    let shape = super::Shape::of(&footer.schema, &fields).unwrap();
    let limits = small(1000, 200_000);
    let at_once = |footer: &super::Footer| {
        super::Rows::new(&chunks, footer, &shape, limits).unwrap().at_once(0).unwrap()
    };
    assert_eq!(at_once(&footer), 19);
    let group = footer.metadata.row_group(0);
    for said in [1, 1_000_000] {
        let columns = group
            .columns()
            .iter()
            .map(|column| column.clone().into_builder().set_num_values(said).build().unwrap());
        let group = group.clone().into_builder().set_column_metadata(columns.collect()).build().unwrap();
        let metadata = footer.metadata.as_ref().clone().into_builder().set_row_groups(vec![group]).build();
        let groups = footer.groups.clone();
        let lying = super::Footer {
            metadata: Arc::new(metadata),
            schema: Arc::clone(&footer.schema),
            groups,
            ..footer
        };
        assert_eq!(at_once(&lying), 19, "{said}");
    }
    // Nor is a page taken for more rows than it has values.
    footer.groups = vec![(0, 1_000_000)];
    assert_eq!(at_once(&footer), 19);
}

/// How many rows of its first row group are read at once of a file.
fn at_once(path: &Path, limits: config::Read) -> usize {
    let chunks = opened(path);
    let footer = super::Footer::read(&chunks).unwrap();
    let shape = super::Shape::of(&footer.schema, &Fields::default()).unwrap();
    super::Rows::new(&chunks, &footer, &shape, limits).unwrap().at_once(0).unwrap()
}

#[test]
fn values_that_share_their_beginnings_are_read_a_few_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let texts: Vec<_> = (0..500).map(|row| Some(format!("{}{row}", "x".repeat(10_000)))).collect();
    let column: ArrayRef = Arc::new(StringArray::from_iter(texts.iter().map(Option::as_deref)));
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::DELTA_BYTE_ARRAY);
        let bytes = written_by(&batch, properties.build());
        assert!(bytes.len() < 50_000, "{}", bytes.len());
        fs::write(&path, bytes).unwrap();
        assert!((1..=20).contains(&at_once(&path, small(1000, 200_000))));
        let blocks = read_all(&[parquet_source(&path)], small(1000, 200_000), Positions::new(), 0);
        assert_eq!(self::texts(&readings(&blocks)), expected(&texts));
    }
}

#[test]
fn bytes_of_a_dictionary_are_not_held_for_every_row_that_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["text"; 300]));
    let value = vec![7_u8; 50_000];
    let free: ArrayRef = Arc::new(BinaryArray::from_iter_values(vec![&value; 300]));
    let fixed = FixedSizeBinaryArray::try_from_iter(vec![&value; 300].into_iter()).unwrap();
    for (bytes, most) in [(free, 1000), (Arc::new(fixed) as ArrayRef, 4)] {
        let field = Arc::new(Field::new("k", bytes.data_type().clone(), false));
        let meta: ArrayRef = Arc::new(StructArray::from(vec![(field, bytes)]));
        let batch = RecordBatch::try_from_iter([("text", Arc::clone(&text)), ("meta", meta)]).unwrap();
        // The first version of the writer makes no dictionary of values of a fixed length.
        let properties = WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_2_0).build();
        let bytes = written_by(&batch, properties);
        assert!(bytes.len() < 200_000, "{}", bytes.len());
        fs::write(&path, bytes).unwrap();
        assert!((1..=most).contains(&at_once(&path, small(1000, 200_000))));
        let blocks = read_all(&[parquet_source(&path)], small(1000, 200_000), Positions::new(), 0);
        let lines: usize = blocks.iter().map(|block| block.readings.list.len()).sum();
        assert!(lines == 300 && blocks.iter().all(|block| block.weight() < 1_000_000));
        let rows = crate::normalise::Normaliser::new(1).run(blocks.into_iter().next().unwrap()).rows;
        let crate::block::Row::Document { document, .. } = &rows.list[0] else { panic!("a document") };
        assert_eq!(rows.text(document.meta.unwrap()), format!(r#"{{"k":"{}"}}"#, "07".repeat(50_000)));
    }
}

#[test]
fn schema_is_shallow_up_to_its_bound_and_no_deeper() {
    let sound = [0x29, 0x2C, 0x55, 0x02, 0x00, 0x55, 0x00, 0x00, 0x00];
    assert!(super::pages::is_shallow(&sound, 2));
    assert!(!super::pages::is_shallow(&sound, 1));
}

#[test]
fn dead_row_keeps_its_fields_though_it_has_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let long = "x".repeat(RAW_LIMIT);
    let column = |value: &str| Arc::new(StringArray::from(vec!["", value, "t"])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([
        ("text", Arc::new(StringArray::from(vec![Some("t"), Some(long.as_str()), None])) as ArrayRef),
        ("timestamp", column("yesterday")),
        ("id", column("b")),
        ("url", column("u")),
    ]);
    fs::write(&path, written(&batch.unwrap(), SMALL)).unwrap();
    let mut blocks = read_all(&[parquet_source(&path)], config::Read::default(), Positions::new(), 0);
    let block = crate::normalise::Normaliser::new(1).run(blocks.remove(0));
    assert_eq!(block.tally.dead_letters, 3);
    let raw =
        |index: usize| String::from_utf8_lossy(block.readings.raw(&block.readings.list[index])).into_owned();
    assert_eq!(raw(0), r#"{"id":"","timestamp":"","url":"","text":"t"}"#);
    assert!(raw(1).starts_with(r#"{"id":"b","timestamp":"yesterday","url":"u","text":"xxx"#));
    assert_eq!(raw(1).len(), RAW_LIMIT);
    assert!(block.readings.list[1].length > RAW_LIMIT as u64);
    assert_eq!(raw(2), r#"{"id":"t","timestamp":"t","url":"t","text":null}"#);
}

#[test]
fn row_that_is_held_out_keeps_its_fields() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    fs::write(&path, file(&numbered(2), SMALL)).unwrap();
    let mut blocks = read_all(&[parquet_source(&path)], config::Read::default(), Positions::new(), 0);
    let block = crate::normalise::Normaliser::new(1).run(blocks.remove(0));
    let held_out = HeldOut::new(vec![("text of row 1".into(), "a place".into())], 0.8);
    let known = DedupState::new("main".parse().unwrap(), config::Folded::default(), Near::default());
    let block = known.without(held_out).run(block, |_| Ok(Found::new())).unwrap();
    assert_eq!((block.tally.kept, block.tally.dead_letters), (1, 1));
    let reading = &block.readings.list[1];
    let raw = String::from_utf8_lossy(block.readings.raw(reading)).into_owned();
    assert_eq!(raw, r#"{"id":1,"meta":{"key":"value"},"text":"text of row 1"}"#);
    assert_eq!(reading.length, raw.len() as u64);
}

#[test]
fn schema_that_nests_too_deep_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    for (deep, documents) in [(30, 1), (70, 0)] {
        let mut column: ArrayRef = Arc::new(StringArray::from(vec!["value"]));
        for _ in 0..deep {
            let field = Arc::new(Field::new("k", column.data_type().clone(), false));
            column = Arc::new(StructArray::from(vec![(field, column)]));
        }
        let text: ArrayRef = Arc::new(StringArray::from(vec!["text"]));
        let batch = RecordBatch::try_from_iter([("text", text), ("meta", column)]).unwrap();
        fs::write(&path, written(&batch, SMALL)).unwrap();
        let seen = Bench::default().look(&parquet_source(&path), false);
        let sound = seen.iter().filter(|seen| seen.reason.is_none()).count();
        assert_eq!((seen.len(), sound), (1, documents), "{deep}");
    }
}
