use proptest::prelude::*;

use super::*;

fn line(points: &[(f64, Option<f64>)]) -> Line {
    Line { name: "a run".into(), labelled: true, ink: Ink::series(0), points: points.to_vec() }
}

fn drawn(lines: Vec<Line>) -> String {
    LineChart { title: "t".into(), band: Some((0.2, 0.4)), lines, scale: 2.0..8.0 }.draw().into_string()
}

#[test]
fn line_is_broken_where_it_was_not_measured() {
    let points = [(0.0, Some(8.0)), (0.25, Some(5.0)), (0.5, None), (0.75, Some(2.0)), (1.0, Some(5.0))];
    let svg = drawn(vec![line(&points)]);
    // Across 58 to 529, down from 8 at the top (18) to 2 at the bottom (359).
    for path in ["points=\"58,18 175,189 \"", "points=\"411,359 529,189 \""] {
        assert!(svg.contains(path), "{path}: {svg}");
    }
    assert_eq!((svg.matches("<circle").count(), svg.matches("<polyline").count()), (4, 2));
    assert!(svg.contains("class=\"stroke series-1 dash-0\"") && !svg.contains("\"#"), "{svg}");
    let values = ["8.00 at 0\u{a0}%", "5.00 at 25\u{a0}%", "not measured at 50\u{a0}%"];
    assert!(values.iter().all(|value| svg.contains(&format!("<span>{value}</span>"))), "{svg}");
}

#[test]
fn values_above_the_top_are_marked_there() {
    let svg = drawn(vec![line(&[(0.0, Some(9.5)), (1.0, Some(6.5))])]);
    assert_eq!((svg.matches("<circle").count(), svg.matches("<polygon").count()), (1, 1));
    assert!(svg.contains("<span>9.50 at 0\u{a0}%</span>"));
    // The line begins at the top.
    assert!(svg.contains("points=\"58,18 529,104 \""), "{svg}");
}

#[test]
fn line_without_a_label_is_named_among_the_values() {
    let svg = drawn(vec![Line { name: "<second>".into(), labelled: false, ..line(&[(0.0, Some(5.0))]) }]);
    assert_eq!(svg.matches("&lt;second&gt;").count(), 1);
    assert!(svg.contains("<dt>&lt;second&gt;</dt>"), "{svg}");
}

#[test]
fn chart_without_a_value_says_so() {
    for lines in [vec![line(&[(0.5, None)])], Vec::new(), vec![line(&[(0.5, Some(f64::NAN))])]] {
        assert!(drawn(lines).contains(">\nnot measured\n</text>"));
    }
}

#[test]
fn ticks_have_the_same_decimals_as_many_as_they_need() {
    for (scale, ticks) in [
        (0.62..0.88, ["0.65", "0.70", "0.85"]),
        (2.6..5.6, ["3.0", "3.5", "5.5"]),
        (-2.0..7.0, ["\u{2212}2", "0", "6"]),
    ] {
        let chart = LineChart { title: String::new(), band: None, lines: Vec::new(), scale };
        let svg = chart.draw().into_string();
        assert!(ticks.iter().all(|tick| svg.contains(&format!(">\n{tick}\n</text>"))), "{svg}");
    }
}

proptest! {
    #[test]
    fn labels_are_moved_apart_and_stay_in_order(
        mut places in prop::collection::vec(0_i32..400, 0..8), gap in 2_i32..28,
    ) {
        places.sort_unstable();
        let moved = spread(&places, gap, 10, 390);
        prop_assert_eq!(moved.len(), places.len());
        prop_assert!(moved.windows(2).all(|pair| pair[1] - pair[0] >= gap), "{:?}", moved);
        // Seven gaps of at most 28 fit between 10 and 390.
        prop_assert!(moved.iter().all(|place| (10..=390).contains(place)), "{:?}", moved);
        // Nothing moves that had room.
        let room = places.windows(2).all(|pair| pair[1] - pair[0] >= gap);
        if room && places.iter().all(|place| (10..=390).contains(place)) {
            prop_assert_eq!(moved, places);
        }
    }

    #[test]
    fn scale_holds_every_value_up_to_the_cut(
        values in prop::collection::vec(prop_oneof![-50.0_f64..50.0, any::<f64>()], 0..20), cut in 1.0_f64..60.0,
    ) {
        let scale = scale(values.iter().copied().chain([f64::NAN]), cut);
        prop_assert!(scale.start < scale.end && scale.start.is_finite() && scale.end.is_finite());
        for value in values.iter().filter(|value| value.is_finite() && value.abs() < LARGEST) {
            prop_assert!(scale.contains(&value.min(cut)) || value.min(cut) == scale.end, "{value} {scale:?}");
        }
        let points = values.iter().enumerate().map(|(index, value)| (index as f64 / 20.0, Some(*value))).collect();
        let chart = LineChart { title: String::new(), band: None, lines: vec![Line { points, ..line(&[]) }], scale };
        let svg = chart.draw().into_string();
        prop_assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
