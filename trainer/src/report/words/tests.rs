use super::*;
use crate::evaluate::metrics::{Bootstrap, summarise};
use crate::report::fixture;

/// The headline of the fixture after a change, with few draws.
fn of(change: impl FnOnce(&mut Input)) -> (Headline, String) {
    let mut input = fixture::input();
    change(&mut input);
    let bootstrap = Bootstrap { draws: 200, ..Bootstrap::default() };
    let summary = summarise(&input.slices, &input.runs, &bootstrap).unwrap();
    (headline(&entries(&summary.groups), summary.counted.len()), caveats(&input, &summary).into_string())
}

fn title(change: impl FnOnce(&mut Input)) -> String {
    of(change).0.title
}

/// Gives `to` the scores of `from`, `shift` nats per byte worse.
fn copy(input: &mut Input, from: usize, to: usize, shift: f64) {
    input.runs[to].points = input.runs[from].points.clone();
    let scores = input.runs[to].points.iter_mut().flat_map(|point| &mut point.scores);
    for document in scores.flat_map(|score| &mut score.documents) {
        document.nats += shift * document.bytes as f64;
    }
}

#[test]
fn title_says_what_came_out_whatever_it_is() {
    // Means: floor 1.5 above the ceiling, method 0.5 above it, up to noise.
    assert_eq!(title(|_| ()), "Replay 25 % closed 67\u{a0}% of the gap between no replay and all mixed");
    let (beyond, caveats) = of(|input| copy(input, 2, 1, -0.1));
    assert_eq!(beyond.title, "Replay 25 % closed the whole gap between no replay and all mixed (109\u{a0}%)");
    assert!(caveats.contains("that run ended below all mixed"), "{caveats:?}");
    let worse = title(|input| copy(input, 0, 1, 0.1));
    assert_eq!(worse, "Replay 25 % did not help: it ended 0.14 bits per byte worse than no replay");
    let same = title(|input| copy(input, 0, 1, 0.0));
    assert_eq!(same, "Replay 25 % did not help: its end is not distinguishable from no replay");
    // One document alone is better: a draw without it shows no difference.
    let by_chance = title(|input| {
        copy(input, 0, 1, 0.0);
        input.runs[1].points[4].scores[0].documents[5].nats *= 0.5;
    });
    assert_eq!(by_chance, same);
    let without_ceiling = title(|input| input.runs.truncate(2));
    assert!(without_ceiling.starts_with("Replay 25 % ended 1.0"), "{without_ceiling}");
    assert!(without_ceiling.ends_with("bits per byte better than no replay"), "{without_ceiling}");
    assert_eq!(
        title(|input| drop(input.runs.remove(0))),
        "Replay 25 % was measured without a run to compare it with"
    );
    assert_eq!(
        title(|input| drop(input.runs.remove(1))),
        "No run with replay was measured, so replay cannot be judged"
    );
    assert_eq!(
        title(|input| input.runs.clear()),
        "No run with replay was measured, so replay cannot be judged"
    );
    let diverged =
        |run: usize| title(move |input| input.runs[run].points[4].scores[2].documents[0].nats = f64::NAN);
    assert_eq!(diverged(0), "Replay 25 % cannot be compared with no replay: not every slice was measured");
    assert_eq!(diverged(1), "Replay 25 % has no final figure: not every slice was measured");
}

#[test]
fn sentences_hold_the_figures_of_every_run() {
    let (headline, _) = of(|_| ());
    let about: Vec<&str> = headline.facts.iter().map(|(about, _)| *about).collect();
    assert_eq!(about, ["Final loss", "Gap closed", "Forgetting", "Largest rise", "New text"]);
    let new_text = &headline.facts[4].1;
    assert_eq!(
        new_text,
        "4.40 bits per token with no replay, 4.10 (\u{2212}6.8\u{a0}%) with replay 25 %, before the text was learnt (lower \
         is better)."
    );
}

#[test]
fn no_gap_to_close_is_said() {
    let (headline, _) = of(|input| copy(input, 0, 2, 0.0));
    let gap = &headline.facts[1].1;
    assert_eq!(
        gap,
        "no replay and all mixed are not distinguishable (0.00 [0.00, 0.00]), so there was no gap to close."
    );
    assert!(headline.title.contains("better than no replay"), "{}", headline.title);
}

#[test]
fn best_method_makes_the_title_and_weights_are_told_apart() {
    let title = title(|input| {
        let mut averaged = input.runs.clone();
        for run in &mut averaged {
            run.name += "-averaged";
            run.weights = "average".into();
        }
        input.runs.extend(averaged);
        copy(input, 2, 4, 0.0);
    });
    assert!(title.starts_with("Replay 25 % (average) closed 100"), "{title}");
    assert!(title.ends_with("of the gap between no replay (average) and all mixed (average)"), "{title}");
}

#[test]
fn definition_of_intervals_names_the_number_of_draws() {
    let (_, text) = terms().find(|(name, _)| *name == "Intervals").unwrap();
    assert_eq!(terms().count(), include_str!("terms.txt").lines().count());
    assert!(text.contains(&format!("{} times", count(u64::from(Bootstrap::default().draws)))));
}

#[test]
fn caveats_follow_from_the_runs() {
    let has = |caveats: &str, part: &str| caveats.contains(part);
    let (_, plain) = of(|_| ());
    assert!(
        has(&plain, "one seed")
            && has(&plain, "new is not in Latin script")
            && has(&plain, "1.00\u{a0}M parameters")
    );
    for absent in [
        "the same number of tokens",
        "same places",
        "Not measured by any run",
        "Slices are small",
        "only some documents",
        "More than 100 %",
        "The stream has no text",
    ] {
        assert!(!has(&plain, absent), "{absent}");
    }
    let (_, changed) = of(|input| {
        input.parameters = Some(7_000_000_000);
        input.slices[0].arrival = None;
        input.slices[2].script = Script::Latin;
        let run = &mut input.runs[1];
        run.points.remove(3);
        run.points[3].tokens = 9_000;
        for point in input.runs.iter_mut().flat_map(|run| &mut run.points) {
            point.scores.remove(1);
            point.scores[0].documents.truncate(if point.fraction < 1.0 { 3 } else { 9 });
        }
    });
    for present in [
        "the same number of tokens (4,000 to 9,000)",
        "same places",
        "The stream has no text of old",
        "Not measured by any run and in no figure: middle",
        "the fewest documents: 9, in old",
        "only some documents",
    ] {
        assert!(has(&changed, present), "{present}: {changed:?}");
    }
    assert!(!has(&changed, "Latin script.") && !has(&changed, "parameters"));
    let (_, seeds) = of(|input| {
        let mut second = input.runs[0].clone();
        second.name = "second".into();
        input.runs.push(second);
    });
    assert!(has(&seeds, "Kinds of runs have 1 to 2 seeds"));
    assert!(!of(|input| input.runs.clear()).1.contains("seed"));
}
