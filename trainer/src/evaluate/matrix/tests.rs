use proptest::prelude::*;

use super::*;
use crate::report::fixture::{correlated, document, run, single, slice, three_slices};
use crate::report::input::Kind as RunKind;

fn close(left: Option<f64>, right: f64) -> bool {
    left.is_some_and(|left| (left - right).abs() < 1e-12)
}

#[test]
fn bits_per_byte_is_the_sum_of_nats_over_the_sum_of_bytes() {
    let slices = [slice("s", Script::Latin, 0.0, 0.5, 1.0)];
    // 100 bytes at 2 bits and 200 bytes at 5 bits: 1,200 bits of 300 bytes, not the mean 3.5.
    let run = run("r", RunKind::Floor, &slices, &[vec![vec![2.0, 5.0]]]);
    let matrix = Matrix::of(&run, &slices).unwrap();
    let block = &matrix.tracks()[0].along;
    assert!(close(block.bits_per_byte(0, None), 4.0));
    assert!(close(block.bits_per_byte(0, Some(&[3, 0])), 2.0));
    assert!(close(block.bits_per_byte(0, Some(&[1, 1])), 4.0));
    assert_eq!(block.bits_per_byte(0, Some(&[0, 0])), None);
    assert_eq!(block.bits_per_byte(1, None), None);
}

#[test]
fn slice_arrives_at_the_first_evaluation_after_95_percent_of_its_text() {
    let slices = three_slices();
    let run = run("r", RunKind::Floor, &slices, &correlated(3, 5, 2, 0.0, 0.1, 7));
    let matrix = Matrix::of(&run, &slices).unwrap();
    // Evaluations at 0, .25, .5, .75, 1; slices end at .25, .6, 1.0 and begin at .05, .3, .8.
    let places: Vec<_> = matrix.tracks().iter().map(|track| (track.before, track.arrived)).collect();
    assert_eq!(places, [(Some(0), Some(1)), (Some(1), Some(3)), (Some(3), Some(4))]);
    assert_eq!(matrix.start(), Some(0));
}

#[test]
fn evaluations_that_did_not_score_a_slice_are_passed_over() {
    let slices = three_slices();
    let mut run = run("r", RunKind::Floor, &slices, &correlated(3, 5, 2, 0.0, 0.1, 7));
    run.points[1].scores.remove(0);
    run.points[3].scores[1].documents[0].nats = f64::NAN;
    let matrix = Matrix::of(&run, &slices).unwrap();
    assert_eq!(matrix.tracks()[0].along.bits_per_byte(1, None), None);
    assert_eq!(matrix.tracks()[0].arrived, Some(2));
    assert_eq!(matrix.tracks()[1].along.bits_per_byte(3, None), None);
    // Scored, but not with numbers: its time does not move.
    assert_eq!(matrix.tracks()[1].arrived, Some(3));
    assert!(matrix.tracks()[2].along.bits_per_byte(3, None).is_some());
}

#[test]
fn evaluations_are_compared_on_the_documents_that_all_of_them_scored() {
    let slices = [slice("s", Script::Latin, 0.0, 0.5, 0.5)];
    let values = vec![vec![vec![4.0, 9.0], vec![2.0, 9.0], vec![3.0, 6.0]]];
    let mut run = run("r", RunKind::Floor, &slices, &values);
    run.points[0].scores[0].documents.pop();
    run.points[1].scores[0].documents.pop();
    let matrix = Matrix::of(&run, &slices).unwrap();
    let track = &matrix.tracks()[0];
    assert_eq!(track.along.documents(), ["d0"]);
    let along: Vec<f64> = (0..3).filter_map(|index| track.along.bits_per_byte(index, None)).collect();
    assert!(along.iter().zip([4.0, 2.0, 3.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{along:?}");
    assert_eq!(track.last.documents(), ["d0", "d1"]);
    assert!(close(track.last.bits_per_byte(0, None), 5.0));
}

#[test]
fn runs_on_different_documents_are_refused_by_name() {
    let slices = [slice("s", Script::Latin, 0.0, 0.5, 0.5)];
    let values = correlated(1, 2, 3, 0.0, 0.1, 1);
    let left = run("left", RunKind::Floor, &slices, &values);
    let mut right = run("right", RunKind::Method, &slices, &values);
    right.points[1].scores[0].documents[2].document = "other".into();
    let matrix = |run: &Run| Matrix::of(run, &slices).unwrap();
    let error = matrix(&left).comparable(&matrix(&right)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "runs `left` and `right` cannot be compared on slice `s`: the last evaluation scored document `d2` \
         for `left` alone"
    );
    assert!(error.hint().is_some());
    // A document fewer is refused from the other side too.
    right.points[1].scores[0].documents.pop();
    let error = matrix(&right).comparable(&matrix(&left)).unwrap_err();
    assert!(matches!(error, MatrixError::Documents { holder, .. } if &*holder == "left"));
    // A slice that was not scored at all is no hindrance: it has no figure.
    right.points.iter_mut().for_each(|point| point.scores.clear());
    assert_eq!(matrix(&left).comparable(&matrix(&right)), Ok(()));
}

#[test]
fn document_that_changes_its_size_is_refused() {
    let slices = [slice("s", Script::Latin, 0.0, 0.5, 0.5)];
    let left = run("left", RunKind::Floor, &slices, &correlated(1, 2, 2, 0.0, 0.1, 1));
    let mut right = left.clone();
    right.name = "right".into();
    right.points.iter_mut().for_each(|point| point.scores[0].documents[1].bytes = 7);
    let matrix = |run: &Run| Matrix::of(run, &slices).unwrap();
    let error = matrix(&left).comparable(&matrix(&right)).unwrap_err();
    assert_eq!(error.to_string(), "document `d1` of slice `s` has 200 bytes in run `left`, 7 in run `right`");
    right.points[0].scores[0].documents[1].bytes = 8;
    let error = Matrix::of(&right, &slices).unwrap_err();
    assert_eq!(
        error.to_string(),
        "document `d1` of slice `s` has 8 bytes in run `right` at step 0, 7 in run `right` at step 10"
    );
}

#[test]
fn runs_that_make_no_matrix_are_refused() {
    let slices = three_slices();
    let good = run("r", RunKind::Floor, &slices, &single(&[&[1.0, 2.0], &[3.0, 4.0], &[5.0, 6.0]]));
    let refused = |change: fn(&mut Run)| {
        let mut run = good.clone();
        change(&mut run);
        Matrix::of(&run, &slices).unwrap_err().to_string()
    };
    let cases = [
        (refused(|run| run.points[1].step = Step(0)), "its step is not above"),
        (refused(|run| run.points[0].tokens = 5000), "its tokens or its share"),
        (refused(|run| run.points[0].fraction = f64::NAN), "`fraction` of run `r` at step 0 is NaN"),
        (refused(|run| run.points[1].fraction = 1.5), "from 0 to 1"),
        (refused(|run| run.points[1].scores[0].slice = "x".into()), "scored slice `x` at step 10"),
        (
            refused(|run| run.points[1].scores[0].slice = "new".into()),
            "slice `new` comes twice in run `r` at step 10",
        ),
        (
            refused(|run| run.points[1].scores[0].documents.push(document("d0", 100, 1.0))),
            "document `d0` comes twice in slice `old` of run `r` at step 10",
        ),
    ];
    for (message, part) in cases {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn slices_without_a_place_in_the_stream_are_refused() {
    let refused =
        |q05, q50, q95| check_slices(&[slice("s", Script::Han, q05, q50, q95)]).unwrap_err().to_string();
    assert_eq!(refused(0.0, 0.5, 1.5), "`q95` of slice `s` is 1.5: it must be from 0 to 1");
    assert_eq!(refused(0.6, 0.5, 1.0), "`q05`, `q50`, `q95` of slice `s` is 0.6 0.5 1: they must ascend");
    let twice = [slice("s", Script::Han, 0.0, 0.5, 1.0), slice("s", Script::Han, 0.0, 0.5, 1.0)];
    assert_eq!(check_slices(&twice).unwrap_err().to_string(), "slice `s` comes twice");
}

proptest! {
    #[test]
    fn matrix_does_not_depend_on_the_order_of_scores(seed in 0_u64..50, turn in 0_usize..6) {
        let slices = three_slices();
        let plain = run("r", RunKind::Floor, &slices, &correlated(3, 3, 6, 0.0, 1.0, seed));
        let mut turned = plain.clone();
        for point in &mut turned.points {
            point.scores.rotate_left(turn % 3);
            point.scores.iter_mut().for_each(|score| score.documents.rotate_left(turn));
        }
        prop_assert_eq!(Matrix::of(&plain, &slices), Matrix::of(&turned, &slices));
    }

    #[test]
    fn counting_every_document_equally_often_changes_nothing(
        bits in prop::collection::vec(0.0_f64..20.0, 1..20), often in 1_u32..5,
    ) {
        let slices = [slice("s", Script::Latin, 0.0, 0.5, 1.0)];
        let run = run("r", RunKind::Floor, &slices, &[vec![bits.clone()]]);
        let matrix = Matrix::of(&run, &slices).unwrap();
        let block = &matrix.tracks()[0].last;
        let times = vec![often; bits.len()];
        let (once, often) = (block.bits_per_byte(0, None).unwrap(), block.bits_per_byte(0, Some(&times)).unwrap());
        prop_assert!((once - often).abs() < 1e-9);
        // A weighted mean lies between its extremes.
        let (low, high) = bits.iter().fold((f64::MAX, f64::MIN), |(l, h), b| (l.min(*b), h.max(*b)));
        prop_assert!(low - 1e-9 <= once && once <= high + 1e-9);
    }
}
