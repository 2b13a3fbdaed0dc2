use perennial_schemas::id::Shard;
use perennial_schemas::table::records::View;
use proptest::prelude::*;

use super::*;
use crate::score::contract::{Sample, bundled, restore, run, samples, stored};

/// Periods of a few records and generations of two periods, so that all of them turn over.
const SMALL: Windows = Windows {
    periods: PeriodSizes { first: 200, longest: 1_200, record: 50 },
    generation: 2,
    prototypes: 4,
    percentile: 10,
};

fn context(shard: &str) -> Context {
    Context { shard: shard.parse::<Shard>().unwrap(), seed: Seed::new(3) }
}

fn small() -> Distance {
    Distance::new(SMALL, &context("main"))
}

fn cells(values: &Values) -> Vec<Vec<Cell<'_>>> {
    (0..values.len()).map(|row| values.row(row).collect()).collect()
}

fn texts() -> impl Strategy<Value = Vec<Sample>> {
    let word = (0_u8..60).prop_map(|word| format!("w{word}"));
    let text = prop::collection::vec(word, 0..30).prop_map(|words| words.join(" "));
    prop::collection::vec(text, 0..160).prop_map(samples)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn restored_in_portions_of_any_size_over_many_generations_it_goes_on_as_if_never_interrupted(
        samples in texts(), cut in 0..160_usize, portions in prop::collection::vec(1..40_usize, 1..4),
    ) {
        let whole = run(&mut small(), &ENTRY, &samples, &[7]);
        let cut = cut.min(samples.len());
        let mut restored = small();
        restore(&mut restored, &ENTRY, &samples[..cut], &whole, &portions);
        let rest = run(&mut restored, &ENTRY, &samples[cut..], &[5]);
        prop_assert_eq!(&cells(&rest), &cells(&whole)[cut..]);
    }

    #[test]
    fn distance_is_one_less_the_largest_cosine_to_prototypes_of_the_last_two_generations(samples in texts()) {
        let whole = run(&mut small(), &ENTRY, &samples, &[samples.len().max(1)]);
        let cells = cells(&whole);
        // Prototypes made again for every record, from the vectors of its generation and the one before.
        for (index, row) in cells.iter().enumerate() {
            let (Cell::Int(period), Cell::Real(distance)) = (row[2], row[3]) else { continue };
            let first = (period / 2 - 1).max(0);
            let seed = Seed::new(3).child("distance").child("main");
            let mut prototypes = Prototypes::new(SMALL.prototypes, seed);
            for (other, sample) in cells[..index].iter().zip(&samples) {
                let (Cell::Int(period), Some(vector)) = (other[2], other[0].blob().and_then(from_blob)) else {
                    continue;
                };
                if period / 2 >= first {
                    prototypes.learn(sample.seq, &vector, prototypes.nearest(&vector));
                }
            }
            let vector = row[0].blob().and_then(from_blob).unwrap();
            let expected = prototypes.nearest(&vector).map_or(1.0, |nearest| nearest.distance);
            prop_assert_eq!(distance, expected, "record {}", index);
        }
    }
}

#[test]
fn rows_of_another_shard_or_embedder_end_what_is_recalled() {
    let samples = samples(bundled().into_iter().take(60));
    let values = run(&mut small(), &ENTRY, &samples, &[60]);
    let fresh = cells(&run(&mut small(), &ENTRY, &samples, &[60])).len();
    assert_eq!(fresh, 60);
    let others = stored(&ENTRY, "other", &samples, &values, 0);
    let foreign = run(&mut Distance::new(Windows::default(), &context("main")), &ENTRY, &samples, &[60]);
    let foreign = stored(&ENTRY, "main", &samples, &foreign, 0);
    for (own, batch) in [(false, &others), (true, &foreign)] {
        let mut score = small();
        assert_eq!(score.wants(), Want::Texts(COLUMNS));
        let sketches: Vec<_> = samples.iter().map(|sample| sample.sketch.clone()).collect();
        score.recall(&Older { own, rows: View::new(batch).unwrap(), sketches: Some(&sketches) });
        assert_eq!(score.wants(), Want::Nothing);
        score.resume();
        let again = run(&mut score, &ENTRY, &samples, &[60]);
        assert_eq!(cells(&again), cells(&values), "it begins again");
    }
}

#[test]
fn no_more_is_read_than_the_windows_hold() {
    let samples = samples(bundled());
    let windows = Windows { periods: PeriodSizes { first: 2_000, longest: 8_000, record: 256 }, ..SMALL };
    let mut score = Distance::new(windows, &context("main"));
    let values = run(&mut score, &ENTRY, &samples, &[100]);
    let mut restored = Distance::new(windows, &context("main"));
    let read = restore(&mut restored, &ENTRY, &samples, &values, &[10]);
    // Nine periods of 8,000 bytes, at about a kilobyte a record.
    assert!((50..250).contains(&read), "{read} of {}", samples.len());
    assert_eq!(run(&mut restored, &ENTRY, &samples[..9], &[9]), run(&mut score, &ENTRY, &samples[..9], &[9]));
}
