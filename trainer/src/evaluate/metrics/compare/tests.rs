use proptest::prelude::*;

use super::*;
use crate::report::fixture::{correlated, run, single, three_slices};

fn few(draws: u32) -> Bootstrap {
    Bootstrap { draws, seed: Seed::new(5) }
}

fn kinds(values: [&[Vec<Vec<f64>>]; 3], slices: &[Slice]) -> Vec<Run> {
    let [floor, method, ceiling] = values;
    vec![
        run("floor", Kind::Floor, slices, floor),
        run("method", Kind::Method, slices, method),
        run("ceiling", Kind::Ceiling, slices, ceiling),
    ]
}

fn width(figure: Option<Figure>) -> f64 {
    let interval = figure.unwrap().interval.unwrap();
    interval.high - interval.low
}

#[test]
fn recovered_is_the_share_of_the_way_from_floor_to_ceiling() {
    let slices = three_slices();
    let ending = |bits: [f64; 3]| single(&[&[9.0, bits[0]], &[9.0, bits[1]], &[9.0, bits[2]]]);
    let runs = kinds([&ending([4.0, 5.0, 9.0]), &ending([3.5, 4.0, 4.5]), &ending([2.0, 3.0, 4.0])], &slices);
    let summary = summarise(&slices, &runs, &few(0)).unwrap();
    let share = |recovered| match recovered {
        Recovered::Share(figure) => figure.value,
        other => panic!("{other:?}"),
    };
    // Means 6, 4, 3; Latin means 4.5, 3.75, 2.5.
    let shares: Vec<f64> = summary.groups.iter().map(|group| share(group.recovered)).collect();
    assert!(shares.iter().zip([0.0, 2.0 / 3.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{shares:?}");
    assert!((share(summary.groups[1].recovered_latin) - 0.375).abs() < 1e-12);
    assert!((summary.groups[1].against_floor.unwrap().value + 2.0).abs() < 1e-12);
    assert_eq!(summary.groups[1].against_floor.unwrap().interval, None);
}

#[test]
fn nothing_is_recovered_where_floor_and_ceiling_do_not_differ() {
    let slices = three_slices();
    let same = correlated(3, 3, 10, 0.0, 0.5, 1);
    let near = correlated(3, 3, 10, 0.0, 0.5, 2);
    let summary = summarise(&slices, &kinds([&same, &near, &same], &slices), &few(200)).unwrap();
    assert!(matches!(summary.groups[1].recovered, Recovered::NoRoom(room) if room.value == 0.0));
    let floor_alone = [run("floor", Kind::Floor, &slices, &same)];
    let summary = summarise(&slices, &floor_alone, &few(10)).unwrap();
    assert_eq!(summary.groups[0].recovered, Recovered::Unmeasured);
    let none = summarise(&slices, &[], &few(10)).unwrap();
    assert!(none.groups.is_empty() && none.unmeasured.len() == 3);
}

#[test]
fn runs_with_equal_scores_differ_by_exactly_nothing() {
    let slices = three_slices();
    let values = correlated(3, 5, 8, 0.0, 2.0, 3);
    let better = correlated(3, 5, 8, -0.5, 2.0, 4);
    let summary = summarise(&slices, &kinds([&values, &values, &better], &slices), &few(300)).unwrap();
    let nothing = Figure { value: 0.0, interval: Some(Interval { low: 0.0, high: 0.0 }) };
    assert_eq!(summary.groups[1].against_floor, Some(nothing));
    assert_eq!(summary.groups[1].forgetting_against_floor, Some(nothing));
    assert!(width(summary.groups[1].get(Metric::Mean)) > 0.0);
}

#[test]
fn pairing_by_document_narrows_the_interval_of_a_difference() {
    let slices = three_slices();
    let (floor, method) = (correlated(3, 5, 30, 0.3, 0.2, 1), correlated(3, 5, 30, 0.0, 0.2, 2));
    let runs = [run("floor", Kind::Floor, &slices, &floor), run("method", Kind::Method, &slices, &method)];
    let summary = summarise(&slices, &runs, &few(500)).unwrap();
    let [floor, method] = &summary.groups[..] else { panic!("two groups") };
    let paired = width(method.against_floor);
    let unpaired = width(floor.get(Metric::Mean)).hypot(width(method.get(Metric::Mean)));
    assert!(paired * 5.0 < unpaired, "{paired} against {unpaired}");
    let interval = method.against_floor.unwrap().interval.unwrap();
    assert!(interval.low < -0.3 + 0.05 && interval.high > -0.3 - 0.05 && interval.high < 0.0);
}

#[test]
fn interval_of_a_mean_is_that_of_the_normal_approximation() {
    // One slice, equal bytes, 400 documents at 2 or 4 bits: standard error 1 / sqrt(400) = 0.05.
    let slices = &three_slices()[..1];
    let bits: Vec<f64> = (0..400).map(|index| if index % 2 == 0 { 2.0 } else { 4.0 }).collect();
    let mut run = run("r", Kind::Floor, slices, &[vec![bits]]);
    for document in &mut run.points[0].scores[0].documents {
        document.nats /= document.bytes as f64;
        document.bytes = 1;
    }
    let summary = summarise(slices, &[run], &few(4000)).unwrap();
    let mean = summary.groups[0].get(Metric::Mean).unwrap();
    let interval = mean.interval.unwrap();
    assert!((mean.value - 3.0).abs() < 1e-9);
    assert!((interval.low - 2.902).abs() < 0.008 && (interval.high - 3.098).abs() < 0.008, "{interval:?}");
}

#[test]
fn runs_that_differ_in_their_seed_alone_are_one_arm() {
    let slices = three_slices();
    let (first, second) = (correlated(3, 5, 6, 1.0, 0.5, 1), correlated(3, 5, 6, 2.0, 0.5, 2));
    let mut runs = vec![run("a", Kind::Floor, &slices, &first), run("b", Kind::Floor, &slices, &second)];
    runs[1].label = "a".into();
    runs[1].seed = 1;
    let together = summarise(&slices, &runs, &few(50)).unwrap();
    assert_eq!(together.groups.len(), 1);
    let alone: Vec<f64> = runs
        .iter()
        .map(|run| summarise(&slices, std::slice::from_ref(run), &few(0)).unwrap())
        .map(|summary| summary.groups[0].get(Metric::Mean).unwrap().value)
        .collect();
    let group = &together.groups[0];
    assert!((group.get(Metric::Mean).unwrap().value - (alone[0] + alone[1]) / 2.0).abs() < 1e-12);
    assert_eq!(group.seeds, [Some(alone[0]), Some(alone[1])]);
    runs[1].weights = "average".into();
    assert_eq!(summarise(&slices, &runs, &few(0)).unwrap().groups.len(), 2);
}

#[test]
fn weights_are_compared_with_a_floor_and_a_ceiling_of_their_own() {
    let slices = three_slices();
    let at = |shift| correlated(3, 3, 6, shift, 0.0, 1);
    let mut runs = kinds([&at(2.0), &at(1.0), &at(0.0)], &slices);
    let mut averaged = kinds([&at(1.0), &at(0.25), &at(0.0)], &slices);
    for run in &mut averaged {
        run.name += " averaged";
        run.weights = "average".into();
    }
    runs.extend(averaged);
    let summary = summarise(&slices, &runs, &few(20)).unwrap();
    let share = |group: &RunGroup| match group.recovered {
        Recovered::Share(figure) => figure.value,
        other => panic!("{other:?}"),
    };
    assert!((share(&summary.groups[1]) - 0.5).abs() < 1e-9);
    assert!((share(&summary.groups[4]) - 0.75).abs() < 1e-9);
}

#[test]
fn ceiling_has_no_plasticity_as_its_text_arrives_mixed() {
    let slices = three_slices();
    let values = correlated(3, 5, 4, 0.0, 1.0, 1);
    let summary = summarise(&slices, &kinds([&values, &values, &values], &slices), &few(0)).unwrap();
    let has = |index: usize| summary.groups[index].get(Metric::Plasticity).is_some();
    assert_eq!([has(0), has(1), has(2)], [true, true, false]);
    assert!(summary.groups[2].get(Metric::Forgetting).is_some());
}

#[test]
fn worst_moment_names_its_slice_and_place() {
    let slices = three_slices();
    let values =
        single(&[&[8.0, 3.0, 4.0, 7.0, 4.0], &[8.0, 6.0, 4.0, 3.0, 6.5], &[9.0, 9.0, 9.0, 9.0, 3.0]]);
    let summary = summarise(&slices, &[run("r", Kind::Floor, &slices, &values)], &few(0)).unwrap();
    let worst = summary.groups[0].worst.clone().unwrap();
    assert_eq!((worst.slice.as_str(), worst.fraction), ("old", 0.75));
    assert!((worst.best - 3.0).abs() < 1e-12 && (worst.value - 7.0).abs() < 1e-12);
}

#[test]
fn slice_that_no_run_measured_is_left_out_and_named() {
    let slices = three_slices();
    let mut run = run("r", Kind::Floor, &slices, &correlated(3, 5, 4, 0.0, 1.0, 1));
    run.points[4].scores.remove(1);
    let summary = summarise(&slices, &[run.clone()], &few(10)).unwrap();
    assert_eq!((summary.counted.len(), &summary.unmeasured[..]), (2, &["middle".to_owned()][..]));
    assert!(summary.groups[0].get(Metric::Mean).unwrap().interval.is_some());
    assert_eq!(summary.groups[0].slices[1], None);
    let mut other = run.clone();
    other.name = "r".into();
    assert_eq!(summarise(&slices, &[run, other], &few(0)).unwrap_err().to_string(), "run `r` comes twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn draw_counts_as_many_documents_as_there_are(draw: u32, documents in 1_usize..40, fewer in 1_usize..40) {
        let names: Vec<String> = (0..documents).map(|index| index.to_string()).collect();
        let along = &names[..fewer.min(documents)];
        let slices = [SliceDocuments { name: "a", along, last: &names }, SliceDocuments { name: "b", along, last: &names }];
        let times = few(1).times(&slices, draw);
        prop_assert_eq!(times[0].last.iter().sum::<u32>() as usize, documents);
        prop_assert_eq!(times[1].along.iter().sum::<u32>() as usize, along.len());
        prop_assert_eq!(times, few(1).times(&slices, draw));
    }

    #[test]
    fn intervals_do_not_depend_on_the_order_of_documents_or_on_other_runs(seed in 0_u64..1000, turn in 1_usize..7) {
        let slices = three_slices();
        let values = correlated(3, 4, 7, 0.0, 1.0, seed);
        let plain = run("r", Kind::Floor, &slices, &values);
        let mut turned = plain.clone();
        for score in turned.points.iter_mut().flat_map(|point| &mut point.scores) {
            score.documents.rotate_left(turn);
        }
        let other = run("other", Kind::Method, &slices, &correlated(3, 4, 7, 0.5, 1.0, seed + 1));
        let alone = summarise(&slices, &[plain], &few(40)).unwrap();
        let beside = summarise(&slices, &[turned, other], &few(40)).unwrap();
        prop_assert_eq!(&alone.groups[0].figures, &beside.groups[0].figures);
    }

    #[test]
    fn value_lies_inside_its_interval_for_a_level(seed in 0_u64..1000) {
        let slices = three_slices();
        let run = run("r", Kind::Floor, &slices, &correlated(3, 3, 15, 0.0, 2.0, seed));
        let summary = summarise(&slices, &[run], &few(200)).unwrap();
        for metric in [Metric::Mean, Metric::LatinMean, Metric::BackwardTransfer, Metric::Plasticity] {
            let figure = summary.groups[0].get(metric).unwrap();
            let interval = figure.interval.unwrap();
            prop_assert!(interval.low <= figure.value && figure.value <= interval.high, "{:?}", metric);
        }
    }
}
