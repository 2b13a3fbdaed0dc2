use proptest::prelude::*;

use super::*;

fn line(points: &[(f64, Option<f64>)]) -> Line {
    let style = Style { colour: "#000000", dash: "", width: "2" };
    Line { name: "a run".into(), label: "a run".into(), style, points: points.to_vec() }
}

fn drawn(lines: Vec<Line>) -> String {
    let ticks = vec![2.0, 4.0, 6.0, 8.0];
    let panel =
        Panel { title: "t".into(), band: Some((0.2, 0.4)), lines, low: 2.0, high: 8.0, ticks, decimals: 0 };
    let mut html = Html::new();
    panel.draw(&mut html, 7);
    html.finish()
}

#[test]
fn line_is_broken_where_it_was_not_measured() {
    let svg = drawn(vec![line(&[
        (0.0, Some(8.0)),
        (0.25, Some(5.0)),
        (0.5, None),
        (0.75, Some(2.0)),
        (1.0, Some(5.0)),
    ])]);
    // Across 26 to 256, down from 8 at the top to 178 at the bottom.
    assert!(svg.contains("d=\"M26.0 8.0L83.5 93.0M198.5 178.0L256.0 93.0\""), "{svg}");
    assert_eq!(svg.matches("<circle").count(), 4);
    assert!(!svg.contains("not measured"));
    assert!(svg.contains("<title>a run: 5.00 at 25\u{a0}% of the stream</title>"));
}

#[test]
fn values_above_the_top_are_marked_there() {
    let svg = drawn(vec![line(&[(0.0, Some(9.5)), (1.0, Some(5.0))])]);
    assert_eq!((svg.matches("<circle").count(), svg.matches("d=\"M26.0 2.0l4 6h-8z\"").count()), (1, 1));
    assert!(svg.contains("a run: 9.50 at 0\u{a0}%"));
    assert!(svg.contains("clip-path=\"url(#clip-7)\"") && svg.contains("<clipPath id=\"clip-7\">"));
}

#[test]
fn points_are_named_where_no_label_stands_at_the_end() {
    let second = Line { name: "a run, seed 1".into(), label: String::new(), ..line(&[(0.0, Some(5.0))]) };
    let svg = drawn(vec![second]);
    assert!(svg.contains("<title>a run, seed 1: 5.00 at 0\u{a0}% of the stream</title>"), "{svg}");
    assert!(!svg.contains("class=\"label\""));
}

#[test]
fn panel_without_a_value_says_so() {
    assert!(drawn(vec![line(&[(0.5, None)])]).contains(">not measured</text>"));
    assert!(drawn(Vec::new()).contains(">not measured</text>"));
}

#[test]
fn bar_shows_every_part_that_is_not_zero() {
    let mut html = Html::new();
    stacked(&mut html, "t", &[("kept", 9_999), ("duplicate", 0), ("dead", 1)], 10_000);
    let svg = html.finish();
    assert!(svg.contains("x=\"0.0\" y=\"0\" width=\"999.9\" height=\"10\" class=\"kept\""), "{svg}");
    assert!(svg.contains("class=\"dead\"") && !svg.contains("class=\"duplicate\""));
    let mut html = Html::new();
    stacked(&mut html, "t", &[("kept", 1), ("dead", 999)], 1_000);
    assert!(html.finish().contains("x=\"4.0\" y=\"0\" width=\"996.0\""));
}

proptest! {
    #[test]
    fn labels_are_moved_apart_and_stay_in_order(
        mut places in prop::collection::vec(0.0_f64..200.0, 0..8), gap in 1.0_f64..14.0,
    ) {
        places.sort_by(f64::total_cmp);
        let moved = spread(&places, gap, 10.0, 190.0);
        prop_assert_eq!(moved.len(), places.len());
        for pair in moved.windows(2) {
            prop_assert!(pair[1] - pair[0] >= gap - 1e-9);
        }
        // Seven gaps of at most 14 fit between 10 and 190.
        prop_assert!(moved.iter().all(|place| (10.0 - 1e-9..=190.0 + 1e-9).contains(place)), "{:?}", moved);
        // Nothing moves that had room.
        let room = places.windows(2).all(|pair| pair[1] - pair[0] >= gap);
        if room && places.iter().all(|place| (10.0..=190.0).contains(place)) {
            prop_assert!(moved.iter().zip(&places).all(|(a, b)| (a - b).abs() < 1e-9));
        }
    }

    #[test]
    fn scale_holds_every_value_up_to_the_cut(values in prop::collection::vec(-50.0_f64..50.0, 0..20), cut in 1.0_f64..60.0) {
        let (low, high, ticks, _) = scale(values.iter().copied().chain([f64::NAN]), cut);
        prop_assert!(low < high && high.is_finite());
        for value in &values {
            prop_assert!(low <= value.min(cut) + 1e-6 && value.min(cut) <= high + 1e-6);
        }
        prop_assert!((2..=12).contains(&ticks.len()) && ticks.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", ticks);
        prop_assert!((ticks[0] - low).abs() < 1e-6 && (ticks[ticks.len() - 1] - high).abs() < 1e-6);
    }
}
