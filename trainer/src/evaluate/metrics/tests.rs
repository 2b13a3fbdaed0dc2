use std::f64::consts::LN_2;

use proptest::prelude::*;

use super::*;
use crate::report::fixture::{correlated, run, single, slice, three_slices};
use crate::report::input::{Kind, Run, Script, Slice};

fn names(slices: &[Slice]) -> Vec<String> {
    slices.iter().map(|slice| slice.name.clone()).collect()
}

fn measures(run: &Run, slices: &[Slice]) -> Measures {
    measure(&Matrix::of(run, slices).unwrap(), &names(slices), None)
}

fn assert_figures(measures: &Measures, expected: &[(Metric, f64)]) {
    for (metric, value) in expected {
        let got = measures.get(*metric).unwrap();
        assert!((got - value).abs() < 1e-12, "{metric:?} is {got}, not {value}");
    }
}

/// Evaluations at 0, .25, .5, .75, 1; `old` arrives at the second, `middle` at the fourth, `new` at the last.
const GOLDEN: [&[f64]; 3] =
    [&[8.0, 3.0, 4.0, 5.0, 4.0], &[8.0, 6.0, 4.0, 3.0, 2.5], &[9.0, 8.5, 8.0, 7.0, 3.0]];

#[test]
fn figures_are_those_computed_by_hand() {
    let slices = three_slices();
    let measures = measures(&run("r", Kind::Floor, &slices, &single(&GOLDEN)), &slices);
    let expected = [
        (Metric::Mean, 9.5 / 3.0),
        (Metric::Median, 3.0),
        (Metric::LatinMean, 3.25),
        (Metric::LatinMedian, 3.25),
        // old: 4 - 3 = 1; middle: 2.5 - 3 = -0.5; new has no time after its own.
        (Metric::Forgetting, 0.25),
        (Metric::ForgettingClipped, 0.5),
        // old: 3 - 4 = -1; middle: 3 - 2.5 = 0.5.
        (Metric::BackwardTransfer, -0.25),
        // middle: 8 - 6; new: 9 - 7; before old there is only the initial model.
        (Metric::ForwardTransfer, 2.0),
        (Metric::Plasticity, 3.0),
        // old at the fourth evaluation: 5 - 3.
        (Metric::StabilityGap, 2.0),
    ];
    assert_figures(&measures, &expected);
}

#[test]
fn slice_that_the_stream_has_no_text_of_counts_at_the_end_alone() {
    let mut slices = three_slices();
    let run = run("r", Kind::Floor, &slices, &single(&GOLDEN));
    slices[1].arrival = None;
    let measures = measures(&run, &slices);
    let expected = [
        (Metric::Mean, 9.5 / 3.0),
        (Metric::Forgetting, 1.0),
        (Metric::BackwardTransfer, -1.0),
        (Metric::ForwardTransfer, 2.0),
        (Metric::Plasticity, 3.0),
        (Metric::StabilityGap, 2.0),
    ];
    assert_figures(&measures, &expected);
}

#[test]
fn forward_transfer_needs_the_initial_model() {
    let slices = three_slices();
    let mut run = run("r", Kind::Floor, &slices, &single(&GOLDEN));
    run.points.remove(0);
    let measures = measures(&run, &slices);
    assert_eq!(measures.get(Metric::ForwardTransfer), None);
    assert!(measures.get(Metric::Forgetting).is_some());
}

#[test]
fn run_that_lacks_a_slice_has_no_mean_rather_than_an_easier_one() {
    let slices = three_slices();
    let mut run = run("r", Kind::Floor, &slices, &single(&GOLDEN));
    run.points[4].scores[2].documents[0].nats = f64::INFINITY;
    let matrix = Matrix::of(&run, &slices).unwrap();
    let all = measure(&matrix, &names(&slices), None);
    let latin = [Metric::LatinMean, Metric::LatinMedian];
    for metric in Metric::ALL {
        assert_eq!(all.get(metric).is_some(), latin.contains(&metric), "{metric:?}");
    }
    assert!((all.get(Metric::LatinMean).unwrap() - 3.25).abs() < 1e-12);
    let fewer = measure(&matrix, &names(&slices[..2]), None);
    assert!((fewer.get(Metric::Mean).unwrap() - 3.25).abs() < 1e-12);
}

#[test]
fn run_without_evaluations_has_no_figures() {
    let slices = three_slices();
    let measures = measures(&run("r", Kind::Floor, &slices, &[]), &slices);
    assert_eq!(measures, Measures::default());
}

#[test]
fn prequential_loss_weighs_stretches_by_their_tokens_and_skips_the_first_quarter() {
    let stretch = |tokens, bits: f64| NewText { tokens, nats_per_token: bits * LN_2 };
    let series = [stretch(100, 9.0), stretch(300, 4.0), stretch(400, 2.0)];
    // The first ends at a quarter of 400 tokens: (200 * 4 + 100 * 2) / 300.
    assert!((prequential(&series, PREQUENTIAL_SKIP).unwrap() - 10.0 / 3.0).abs() < 1e-12);
    assert!((prequential(&series, 0.0).unwrap() - 4.75).abs() < 1e-12);
    assert_eq!(prequential(&[], 0.0), None);
    assert_eq!(prequential(&[stretch(100, f64::NAN)], 0.0), None);
    assert_eq!(prequential(&[stretch(0, 1.0)], 0.25), None);
}

#[test]
fn quantiles_are_linear_between_neighbours() {
    let numbers = [1.0, 2.0, 4.0, 8.0, 16.0];
    for (share, value) in [(0.0, 1.0), (0.25, 2.0), (0.375, 3.0), (0.5, 4.0), (0.875, 12.0), (1.0, 16.0)] {
        assert_eq!(quantile(&numbers, share), Some(value));
    }
    assert_eq!(quantile(&[], 0.5), None);
    assert_eq!(median([Some(5.0), Some(1.0), Some(2.0), Some(4.0)].into_iter()), Some(3.0));
}

/// The definitions written out once more over plain numbers, with loops instead of rows.
fn twin(values: &[Vec<f64>], arrived: &[usize]) -> [f64; 4] {
    let end = values[0].len() - 1;
    let (mut forgotten, mut clipped, mut back, mut gap, mut count) = (0.0, 0.0, 0.0, f64::MIN, 0.0);
    for (row, arrived) in values.iter().zip(arrived) {
        if *arrived >= end {
            continue;
        }
        let mut best = f64::MAX;
        for value in &row[*arrived..end] {
            best = best.min(*value);
        }
        forgotten += row[end] - best;
        clipped += row[end] - best.min(row[end]);
        back += row[*arrived] - row[end];
        for i in *arrived..=end {
            for k in *arrived..=i {
                gap = f64::max(gap, row[i] - row[k]);
            }
        }
        count += 1.0;
    }
    [forgotten / count, clipped / count, back / count, gap]
}

proptest! {
    #[test]
    fn figures_equal_those_of_the_definitions_written_out(
        values in prop::collection::vec(prop::collection::vec(0.5_f64..10.0, 6), 3),
    ) {
        // Evaluations at 0, .2, .4, .6, .8, 1.
        let slices: Vec<Slice> = [0.2, 0.5, 0.8]
            .iter().enumerate()
            .map(|(index, q95)| slice(&format!("s{index}"), Script::Latin, 0.0, 0.1, *q95)).collect();
        let rows: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        let measures = measures(&run("r", Kind::Floor, &slices, &single(&rows)), &slices);
        let expected = twin(&values, &[1, 3, 4]);
        let metrics =
            [Metric::Forgetting, Metric::ForgettingClipped, Metric::BackwardTransfer, Metric::StabilityGap];
        for (metric, value) in metrics.into_iter().zip(expected) {
            prop_assert!((measures.get(metric).unwrap() - value).abs() < 1e-9, "{:?}", metric);
        }
        let get = |metric| measures.get(metric).unwrap();
        prop_assert!(get(Metric::ForgettingClipped) >= get(Metric::Forgetting) - 1e-12);
        prop_assert!(get(Metric::ForgettingClipped) >= 0.0);
        prop_assert!(get(Metric::StabilityGap) >= get(Metric::ForgettingClipped) - 1e-12);
    }

    #[test]
    fn shift_of_every_loss_moves_levels_and_leaves_differences(shift in -1.0_f64..5.0, seed in 0_u64..20) {
        let slices = three_slices();
        let shifted = |shift| measures(&run("r", Kind::Floor, &slices, &correlated(3, 5, 4, shift, 1.0, seed)), &slices);
        let (plain, moved) = (shifted(0.0), shifted(shift));
        for metric in Metric::ALL {
            let level = matches!(
                metric,
                Metric::Mean | Metric::Median | Metric::LatinMean | Metric::LatinMedian | Metric::Plasticity
            );
            let expected = plain.get(metric).unwrap() + if level { shift } else { 0.0 };
            prop_assert!((moved.get(metric).unwrap() - expected).abs() < 1e-9, "{:?}", metric);
        }
    }
}
