use std::fs;
use std::path::Path;

use perennial_schemas::id::Version;
use proptest::prelude::*;

use super::cache::{IndexCache, Mark};
use super::*;
use crate::testing::store;

/// A record whose fields all follow from its offset.
fn record(offset: u64) -> Record {
    let passages: Box<[u32]> =
        (0..offset % 4 + 1).map(|passage| (7 * passage + offset % 50) as u32).collect();
    Record {
        offset: Offset(offset),
        shard: ["a", "b"][usize::try_from(offset % 2).unwrap()].parse().unwrap(),
        seq: Seq(offset / 2),
        id: RecordId::from_hash(u128::from(offset) << 70 | 3),
        bytes: u64::from(*passages.last().unwrap()),
        passages,
        source: ["web", "books", "law"][usize::try_from(offset % 3).unwrap()].into(),
        event_time: (!offset.is_multiple_of(5)).then_some(offset as i64 * 1_000_003),
        erased: offset.is_multiple_of(11),
    }
}

/// Records at offsets that rise by these steps.
fn records(steps: &[u64]) -> Vec<Record> {
    let mut next = 0;
    let offset = |step: &u64| {
        next += step;
        next
    };
    steps.iter().map(offset).map(record).collect()
}

fn equals(index: &Index, all: &[Record]) -> Result<(), TestCaseError> {
    prop_assert_eq!(index.len(), all.len());
    let read: Vec<Record> = index.records().map(|record| record.to_record()).collect();
    prop_assert_eq!(read.as_slice(), all);
    let end = all.last().map_or(0, |last| last.offset.0) + 3;
    for offset in (0..end).step_by(usize::try_from(end / 64).unwrap() + 1) {
        let expected = all.iter().find(|record| record.offset == Offset(offset));
        let found = index.get(Offset(offset)).map(|record| record.to_record());
        prop_assert_eq!(found.as_ref(), expected);
        let to = Offset(offset + end / 3);
        let range: Vec<Offset> = index.range(Offset(offset), to).map(|record| record.offset).collect();
        let expected: Vec<Offset> =
            all.iter().map(|record| record.offset).filter(|at| (Offset(offset)..to).contains(at)).collect();
        prop_assert_eq!(range, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn index_of_segments_and_a_tail_is_that_of_one_list(
        steps in proptest::collection::vec(prop_oneof![4 => 1_u64..4, 1 => 1_u64..2_000], 0..120),
        cuts in proptest::collection::vec((0_usize..40, any::<bool>()), 0..12),
    ) {
        let all = records(&steps);
        let (mut index, mut rest) = (Index::new(), all.as_slice());
        for (count, settle) in cuts {
            let (some, after) = rest.split_at(count.min(rest.len()));
            rest = after;
            let limit = rest.first().map_or_else(|| all.last().map_or(0, |last| last.offset.0) + 1, |next| next.offset.0);
            index.extend(some.to_vec(), Offset(limit)).unwrap();
            if settle {
                index.settle().unwrap();
            }
        }
        index.extend(rest.to_vec(), Offset(1 << 40)).unwrap();
        equals(&index, &all)?;
        index.settle().unwrap();
        equals(&index, &all)?;
        prop_assert!(index.segments().windows(2).all(|pair| !joins(&pair[0], &pair[1])));
    }
}

fn segment(first: u64, count: u64) -> Segment {
    let all: Vec<Record> = (first..first + count).map(record).collect();
    Segment::new(all.iter().map(Record::view)).unwrap()
}

fn same(one: &Segment, two: &Segment) -> bool {
    one.len() == two.len() && (0..one.len()).all(|row| one.get(row) == two.get(row))
}

#[test]
fn segment_comes_back_from_its_file_and_one_that_is_torn_or_foreign_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.arrow");
    let whole = segment(40, 500);
    whole.write(&path).unwrap();
    assert!(same(&Segment::open(&path).unwrap(), &whole));
    let bytes = fs::read(&path).unwrap();
    for length in [0, 1, 9, 10, 11, 200, bytes.len() / 2, bytes.len() - 11, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(matches!(Segment::open(&path), Err(SegmentError::Arrow(_))), "{length} bytes");
    }
    // A whole Arrow file of something else.
    let other = arrow::array::RecordBatch::new_empty(crate::draws::schema());
    let mut writer =
        arrow::ipc::writer::FileWriter::try_new(fs::File::create(&path).unwrap(), &crate::draws::schema())
            .unwrap();
    writer.write(&other).unwrap();
    writer.finish().unwrap();
    assert!(matches!(Segment::open(&path), Err(SegmentError::Content(_))));
    assert!(matches!(Segment::open(&folder.path().join("none")), Err(SegmentError::Io { .. })));
}

fn mark(version: u64, limit: u64) -> Mark {
    let read = [("a".to_owned(), 7), ("b".to_owned(), 9)].into();
    Mark { version: Version(version), entry: "e".to_owned(), limit: Offset(limit), read }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for store in fs::read_dir(folder).unwrap() {
        for file in fs::read_dir(store.unwrap().path()).unwrap() {
            names.push(file.unwrap().file_name().into_string().unwrap());
        }
    }
    names.sort();
    names
}

#[tokio::test]
async fn folder_gives_back_what_was_saved_and_nothing_of_what_is_damaged() {
    let (_store, store) = store(0).await;
    let folder = tempfile::tempdir().unwrap();
    let cache = IndexCache::new(folder.path(), &store);
    assert!(cache.load().is_none());
    let segments = [segment(0, 300), segment(300, 20)].map(Arc::new);
    let mapped = cache.save(&mark(4, 320), &segments).unwrap().unwrap();
    let found = cache.load().unwrap();
    assert_eq!(found.mark, mark(4, 320));
    assert!(found.segments.iter().zip(&segments).all(|(one, two)| same(one, two)));
    // The first stays, the second is joined with what came.
    let next = [Arc::clone(&mapped[0]), Arc::new(segment(300, 60))];
    let before = files(folder.path());
    cache.save(&mark(9, 360), &next).unwrap().unwrap();
    assert_eq!(files(folder.path()).len(), before.len());
    assert_eq!(cache.load().unwrap().segments[1].len(), 60);
    assert!(same(&mapped[1], &segments[1]), "who has mapped a file that is gone still reads it");

    let path = |end: &str| {
        let inner = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let name = files(folder.path()).into_iter().find(|name| name.ends_with(end)).unwrap();
        inner.join(name)
    };
    for end in [".arrow", "manifest.json"] {
        let (file, whole) = (path(end), fs::read(path(end)).unwrap());
        for damaged in [&whole[..whole.len() - 1], b"", b"{}"] {
            fs::write(&file, damaged).unwrap();
            assert!(cache.load().is_none(), "{end}");
        }
        fs::remove_file(&file).unwrap();
        assert!(cache.load().is_none(), "{end}");
        fs::write(&file, &whole).unwrap();
        assert!(cache.load().is_some(), "{end}");
    }
    let manifest = fs::read_to_string(path("manifest.json")).unwrap();
    for (from, to) in [("\"format\":1", "\"format\":2"), ("\"name\":\"", "\"name\":\"../")] {
        fs::write(path("manifest.json"), manifest.replace(from, to)).unwrap();
        assert!(cache.load().is_none(), "{to}");
    }
}

#[tokio::test]
async fn process_that_finds_another_one_writing_leaves_the_folder_to_it() {
    let (_store, store) = store(0).await;
    let folder = tempfile::tempdir().unwrap();
    let cache = IndexCache::new(folder.path(), &store);
    cache.save(&mark(1, 10), &[Arc::new(segment(0, 10))]).unwrap().unwrap();
    let inner = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let lock = fs::File::open(inner.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(cache.save(&mark(2, 20), &[Arc::new(segment(0, 20))]).unwrap().is_none());
    assert_eq!(cache.load().unwrap().mark, mark(1, 10));
    drop(lock);
    // What a killed writer has left goes with the next one.
    fs::write(inner.join("0-19-20-v2.arrow.partial"), "half").unwrap();
    cache.save(&mark(2, 20), &[Arc::new(segment(0, 20))]).unwrap().unwrap();
    assert_eq!(files(folder.path()), ["0-19-20-v2.arrow", "lock", "manifest.json"]);
    // Where nothing can be written, what is there stays.
    let blocked = IndexCache::new(&inner.join("lock"), &store);
    assert!(matches!(blocked.save(&mark(3, 20), &[]), Err(SegmentError::Io { .. })));
}
