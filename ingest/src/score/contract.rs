//! What every score must do, run over the catalogue.

use std::path::Path;
use std::sync::LazyLock;

use arrow::array::RecordBatch;
use perennial_schemas::id::Seq;
use perennial_schemas::seed::Seed;
use perennial_schemas::table::records::{Builder, Outcome, Row, View};
use rayon::ThreadPoolBuilder;

use super::{CATALOGUE, Cell, Context, Entry, Older, Record, Score, Values, Want};
use crate::dedup::near::{Sketch, Sketcher};

/// A record before it is scored.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) seq: u64,
    pub(super) text: String,
    pub(super) sketch: Sketch,
}

/// Texts as records; between two of them seqs are missing now and then, as duplicates take some.
pub(super) fn samples(texts: impl IntoIterator<Item = String>) -> Vec<Sample> {
    let mut sketcher = Sketcher::new();
    let mut seq = 0;
    let sample = |text: String| {
        seq += 1 + u64::from(text.len().is_multiple_of(3));
        Sample { seq, sketch: sketcher.sketch(&text), text }
    };
    texts.into_iter().map(sample).collect()
}

fn records(samples: &[Sample]) -> Vec<Record<'_>> {
    samples
        .iter()
        .map(|sample| Record {
            seq: Seq(sample.seq),
            length: sample.text.len() as u64,
            text: &sample.text,
            sketch: &sample.sketch,
        })
        .collect()
}

/// The texts of the bundled stream, and odd ones.
static TEXTS: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let mut texts = bundled();
    texts.truncate(400);
    let odd = [
        String::new(),
        "a".to_owned(),
        "\u{301}".to_owned(),
        " \n\t ".to_owned(),
        "\u{feff}\u{200d}\u{0}\u{10ffff}".to_owned(),
        "!?".repeat(500),
        "a ".repeat(70_000),
        "x".repeat(40_000),
        "\u{1F331}\u{fffd}".repeat(2_000),
        "学".repeat(9_000),
    ];
    for (index, text) in odd.into_iter().enumerate() {
        texts.insert(7 + index * 40, text.clone());
        // And once more: a record that repeats another is scored like any.
        if text.len() < 100_000 {
            texts.insert(8 + index * 40, text);
        }
    }
    samples(texts)
});

/// The texts of the sound lines of the bundled stream.
pub(super) fn bundled() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stream.jsonl.zst");
    let lines = zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap();
    let text = |line: &[u8]| {
        let line: serde_json::Value = serde_json::from_slice(line).ok()?;
        Some(line.get("text")?.as_str()?.to_owned())
    };
    lines.split(|byte| *byte == b'\n').filter_map(text).collect()
}

fn context(seed: u64) -> Context {
    Context { shard: "main".parse().unwrap(), seed: Seed::new(seed) }
}

/// Scores all records in calls of these lengths, repeated.
pub(super) fn run(score: &mut dyn Score, entry: &Entry, samples: &[Sample], cuts: &[usize]) -> Values {
    let mut values = Values::new(entry.columns.len());
    let mut rest = samples;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(rest.len().min(*cut));
        score.score(&records(now), &mut values);
        rest = later;
    }
    assert_eq!(values.len(), samples.len(), "one row for each record");
    values
}

/// The kept rows of the store that hold these values.
pub(super) fn stored(
    entry: &Entry,
    shard: &str,
    samples: &[Sample],
    values: &Values,
    from: usize,
) -> RecordBatch {
    let mut builder = Builder::new();
    for (index, sample) in samples.iter().enumerate() {
        let mut row = Row {
            seq: Some(i64::try_from(sample.seq).unwrap()),
            length: Some(i64::try_from(sample.text.len()).unwrap()),
            text: Some(&sample.text),
            ..Row::new(Outcome::Kept, shard, "files")
        };
        for (column, cell) in entry.columns.iter().zip(values.row(from + index)) {
            (column.set)(&mut row, cell);
        }
        builder.push(row);
    }
    builder.finish().unwrap()
}

/// Restores a score from stored rows, in portions of these lengths, and only what it wants.
pub(super) fn restore(
    score: &mut dyn Score,
    entry: &Entry,
    samples: &[Sample],
    values: &Values,
    portions: &[usize],
) -> usize {
    let (mut end, mut read) = (samples.len(), 0);
    for portion in portions.iter().cycle() {
        let texts = match score.wants() {
            Want::Nothing => break,
            Want::Columns(_) => false,
            Want::Texts(_) => true,
        };
        if end == 0 {
            break;
        }
        let start = end.saturating_sub(*portion);
        let part = &samples[start..end];
        let batch = stored(entry, "main", part, values, start);
        let keep: Vec<usize> = (0..batch.num_columns())
            .filter(|column| texts || batch.schema().field(*column).name() != "text")
            .collect();
        let batch = batch.project(&keep).unwrap();
        let sketches: Vec<Sketch> = part.iter().map(|sample| sample.sketch.clone()).collect();
        let rows = View::new(&batch).unwrap();
        score.recall(&Older { own: true, rows, sketches: texts.then_some(&*sketches) });
        read += part.len();
        end = start;
    }
    score.resume();
    read
}

fn all(values: &Values) -> Vec<Vec<Cell<'_>>> {
    (0..values.len()).map(|row| values.row(row).collect()).collect()
}

#[test]
fn same_seed_gives_the_same_values_however_records_are_cut_and_whatever_the_number_of_threads() {
    for entry in CATALOGUE {
        let whole = run(&mut *(entry.build)(&context(1)), entry, &TEXTS, &[TEXTS.len()]);
        for cuts in [&[1][..], &[2, 3, 5, 64], &[200]] {
            let cut = run(&mut *(entry.build)(&context(1)), entry, &TEXTS, cuts);
            assert_eq!(all(&cut), all(&whole), "`{}` cut by {cuts:?}", entry.name);
        }
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let other = pool.install(|| run(&mut *(entry.build)(&context(1)), entry, &TEXTS, &[100]));
            assert_eq!(all(&other), all(&whole), "`{}` on {threads} threads", entry.name);
        }
    }
}

#[test]
fn restored_score_goes_on_as_if_never_interrupted() {
    for entry in CATALOGUE {
        let whole = run(&mut *(entry.build)(&context(1)), entry, &TEXTS, &[64]);
        for (cut, portions) in [(0, &[9][..]), (1, &[1]), (77, &[10, 1]), (301, &[500]), (410, &[33, 7])] {
            let mut score = (entry.build)(&context(1));
            restore(&mut *score, entry, &TEXTS[..cut], &whole, portions);
            let rest = run(&mut *score, entry, &TEXTS[cut..], &[50]);
            assert_eq!(all(&rest), all(&whole)[cut..], "`{}` restored at {cut}", entry.name);
        }
    }
}

#[test]
fn values_are_finite_and_in_the_range_of_their_column_for_every_text() {
    for entry in CATALOGUE {
        let values = run(&mut *(entry.build)(&context(2)), entry, &TEXTS, &[40]);
        for (index, row) in all(&values).iter().enumerate() {
            for (column, cell) in entry.columns.iter().zip(row) {
                if let Cell::Real(value) = cell {
                    let (low, high) = column.range.unwrap();
                    assert!((low..=high).contains(value), "`{}` of record {index} is {value}", column.name);
                } else {
                    assert!(column.range.is_none() || *cell == Cell::Null, "`{}`: {cell:?}", column.name);
                }
            }
        }
    }
}

#[test]
fn column_puts_its_cell_into_its_own_column() {
    for entry in CATALOGUE {
        let values = run(&mut *(entry.build)(&context(0)), entry, &TEXTS[..50], &[50]);
        let batch = stored(entry, "main", &TEXTS[..50], &values, 0);
        let empty = stored(entry, "main", &TEXTS[..50], &Values::new(0), 0);
        let columns: Vec<&str> = entry.columns.iter().map(|column| column.name).collect();
        let names = batch.schema();
        let names = names.fields().iter().map(|field| field.name().clone());
        let mut changed: Vec<String> =
            names.filter(|name| batch.column_by_name(name) != empty.column_by_name(name)).collect();
        changed.sort_by_key(|name| columns.iter().position(|column| column == name));
        assert_eq!(changed, columns, "`{}`", entry.name);
        let explained = View::new(&batch).unwrap().iter().filter_map(|row| (entry.explain)(&row)).count();
        assert!(explained > 40, "`{}` explains {explained} of 50", entry.name);
        assert!(View::new(&empty).unwrap().iter().all(|row| (entry.explain)(&row).is_none()));
    }
}
