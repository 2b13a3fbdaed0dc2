//! What the figures say, in sentences made from them: whatever came out.

use maud::{Markup, html};

use super::input::{Input, Kind, Script, Slice};
use super::number::{bare_percent, count, fixed, large, percent, signed};
use super::page::{Entry, entries, interval};
use crate::evaluate::matrix::Matrix;
use crate::evaluate::metrics::{Figure, Metric, Recovered, RunGroup, Summary};

/// The sentence at the top and the facts below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headline {
    /// One sentence without its full stop.
    pub title: String,
    /// What it rests on: a term, and what was measured.
    pub facts: Vec<(&'static str, String)>,
}

/// What came out for these groups of runs, over the number of `slices` that figures are over.
#[must_use]
pub fn headline(entries: &[Entry<'_>], slices: usize) -> Headline {
    let results = Results::of(entries);
    let facts = [
        ("Final loss", results.final_loss(slices)),
        ("Gap closed", results.gap_closed()),
        ("Forgetting", results.forgetting()),
        ("Largest rise", results.largest_rise()),
        ("New text", results.new_text()),
    ];
    let measured = facts.into_iter().filter_map(|(about, fact)| fact.map(|fact| (about, fact)));
    let mut title = results.title().chars().collect::<Vec<_>>();
    let first: Vec<char> = title.drain(..title.len().min(1)).flat_map(char::to_uppercase).collect();
    Headline { title: first.into_iter().chain(title).collect(), facts: measured.collect() }
}

/// The groups by the part that they have in the comparison.
struct Results<'a> {
    entries: Vec<&'a Entry<'a>>,
    methods: Vec<&'a Entry<'a>>,
    /// The method with the lowest final mean.
    best: Option<&'a Entry<'a>>,
    /// The floor and the ceiling of the same weights as the best.
    floor: Option<&'a Entry<'a>>,
    ceiling: Option<&'a Entry<'a>>,
}

impl<'a> Results<'a> {
    fn of(entries: &'a [Entry<'a>]) -> Self {
        let entries: Vec<&Entry<'_>> = entries.iter().collect();
        let methods: Vec<_> =
            entries.iter().copied().filter(|entry| entry.group.kind == Kind::Method).collect();
        let means = methods.iter().filter_map(|method| Some((method.value(Metric::Mean)?, *method)));
        let best = means.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, method)| method);
        let find = |kind| {
            let same = |entry: &&Entry<'_>| best.is_none_or(|best| best.group.weights == entry.group.weights);
            entries.iter().copied().filter(|entry| entry.group.kind == kind).find(same)
        };
        Self { methods, best, floor: find(Kind::Floor), ceiling: find(Kind::Ceiling), entries }
    }

    fn title(&self) -> String {
        let Some(best) = self.best else {
            return self.methods.first().map_or_else(
                || "No run with replay was measured, so replay cannot be judged".to_owned(),
                |method| format!("{} has no final figure: not every slice was measured", method.label),
            );
        };
        let label = &best.label;
        let Some(floor) = self.floor.map(|floor| &floor.label) else {
            return format!("{label} was measured without a run to compare it with");
        };
        let Some(change) = best.group.against_floor else {
            return format!("{label} cannot be compared with {floor}: not every slice was measured");
        };
        // A difference counts where its whole interval is on one side of 0.
        let (low, high) = change.interval.map_or((change.value, change.value), |ends| (ends.low, ends.high));
        let size = fixed(change.value.abs(), 2);
        match (best.group.recovered, self.ceiling) {
            _ if low > 0.0 => {
                format!("{label} did not help: it ended {size} bits per byte worse than {floor}")
            }
            _ if high >= 0.0 => format!("{label} did not help: its end is not distinguishable from {floor}"),
            (Recovered::Share(share), Some(ceiling)) => {
                let (whole, share, ceiling) = (exceeds_all(share), percent(share.value), &ceiling.label);
                match whole {
                    true => format!("{label} closed the whole gap between {floor} and {ceiling} ({share})"),
                    false => format!("{label} closed {share} of the gap between {floor} and {ceiling}"),
                }
            }
            _ => format!("{label} ended {size} bits per byte better than {floor}"),
        }
    }

    fn final_loss(&self, slices: usize) -> Option<String> {
        let list = each(&self.entries, " bits per byte", |entry| Some(fixed(entry.value(Metric::Mean)?, 2)))?;
        let plural = if slices == 1 { "" } else { "s" };
        Some(format!("{list} (mean of {slices} held-out slice{plural}; lower is better)."))
    }

    fn gap_closed(&self) -> Option<String> {
        let (floor, ceiling) = (self.floor?, self.ceiling?);
        let same = |method: &&Entry<'_>| method.group.weights == floor.group.weights;
        let methods: Vec<&Entry<'_>> = self.methods.iter().copied().filter(same).collect();
        let (floor, ceiling) = (&floor.label, &ceiling.label);
        if let Some(Recovered::NoRoom(room)) = methods.first().map(|method| method.group.recovered) {
            let room = with_interval(room, |value| signed(value, 2), |end| signed(end, 2));
            return Some(format!(
                "{floor} and {ceiling} are not distinguishable ({room}), so there was no gap to close."
            ));
        }
        let shares = |recovered: fn(&RunGroup) -> Recovered| {
            each(&methods, "", |method| match recovered(method.group) {
                Recovered::Share(figure) => Some(with_interval(figure, percent, bare_percent)),
                _ => None,
            })
        };
        let all = shares(|group| group.recovered)?;
        let latin = shares(|group| group.recovered_latin)
            .map_or_else(String::new, |latin| format!("; on the slices in Latin script alone {latin}"));
        Some(format!("{all}, of the gap between {floor} and {ceiling}{latin}."))
    }

    fn forgetting(&self) -> Option<String> {
        let in_order: Vec<_> =
            self.entries.iter().copied().filter(|entry| entry.group.kind != Kind::Ceiling).collect();
        let rise = |entry: &Entry<'_>| Some(signed(entry.value(Metric::Forgetting)?, 2));
        let list = each(&in_order, " bits per byte", rise)?;
        Some(format!(
            "{list} (mean rise of a slice from its best value after its own text had passed to the end; negative is a gain)."
        ))
    }

    fn largest_rise(&self) -> Option<String> {
        let rise = |entry: &Entry<'_>| {
            let worst = entry.group.worst.as_ref()?;
            let place = match worst.fraction {
                end if end >= 1.0 => "at the end".to_owned(),
                fraction => format!("at {} of the stream", percent(fraction)),
            };
            let (best, value) = (fixed(worst.best, 2), fixed(worst.value, 2));
            Some(format!("{} from {best} to {value} {place}", worst.slice))
        };
        Some(each(&self.floor_and_methods(), "", rise)? + ".")
    }

    fn new_text(&self) -> Option<String> {
        let base = self.floor.and_then(|floor| floor.group.prequential);
        let cost = |entry: &Entry<'_>| {
            let own = entry.group.prequential?;
            let change = base.filter(|_| entry.group.kind != Kind::Floor).map_or_else(String::new, |base| {
                format!(" ({}\u{a0}%)", signed(100.0 * (own / base - 1.0), 1))
            });
            Some(fixed(own, 2) + &change)
        };
        let list = each(&self.floor_and_methods(), " bits per token", cost)?;
        Some(format!("{list}, before the text was learnt (lower is better)."))
    }

    fn floor_and_methods(&self) -> Vec<&'a Entry<'a>> {
        self.floor.into_iter().chain(self.methods.iter().copied()).collect()
    }
}

/// Whether a share reads as more than all.
const fn exceeds_all(share: Figure) -> bool {
    share.value >= 1.005
}

/// `a unit with x, b with y`, of those that have a text.
fn each(
    entries: &[&Entry<'_>],
    mut unit: &str,
    text: impl Fn(&Entry<'_>) -> Option<String>,
) -> Option<String> {
    let mut parts = Vec::new();
    for entry in entries {
        if let Some(text) = text(entry) {
            parts.push(format!("{text}{} with {}", std::mem::take(&mut unit), entry.label));
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn with_interval(figure: Figure, text: fn(f64) -> String, end: fn(f64) -> String) -> String {
    interval(figure, end).map_or_else(|| text(figure.value), |ends| format!("{} {ends}", text(figure.value)))
}

/// How far apart evaluations at the same place of the stream may be: runs that thin their new text read it at
/// speeds that differ by as much.
const SAME_PLACE: f64 = 0.03;

/// What the reader must keep in mind, as far as it is true of these runs.
#[must_use]
pub fn caveats(input: &Input, summary: &Summary) -> Markup {
    html! { ul { (limits(input, summary)) (differences(summary)) } }
}

/// What the figures do not show.
fn limits(input: &Input, summary: &Summary) -> Markup {
    let slices = |is: fn(&Slice) -> bool| -> Vec<&str> {
        let counted = input.slices.iter().filter(|slice| summary.counted.contains(&slice.name) && is(slice));
        counted.map(|slice| slice.name.as_str()).collect()
    };
    let other_scripts = slices(|slice| slice.script != Script::Latin);
    let unread = slices(|slice| slice.arrival.is_none());
    html! {
        @if let Some(seeds) = seeds(&summary.groups) {
            li {
                (seeds) ". The intervals show how much a figure depends on which documents were held out, not on the \
                seed, which can have a larger effect."
            }
        }
        @if !other_scripts.is_empty() {
            li {
                (other_scripts.join(", ")) (if other_scripts.len() == 1 { " is" } else { " are" }) " not in Latin \
                script. A model that no longer reads a script drifts there without bound, and by how much is chance: \
                such slices can dominate a plain mean. The median and the Latin-script columns stand beside it."
            }
        }
        @if let Some(parameters) = input.parameters.filter(|parameters| *parameters < 100_000_000) {
            li {
                "The model is small (" (large(parameters as f64)) " parameters). It shows the mechanism; a large model \
                has other figures."
            }
        }
        @if let Some(ceiling) = surpassed(&summary.groups) {
            li {
                "More than 100 % of a gap: that run ended below " (ceiling) " on a mean of slices. Mixed text is a \
                bound for how well old text is kept, not for the newest slices, which runs in the stream\u{2019}s \
                order have just read."
            }
        }
        @if !unread.is_empty() {
            li {
                "The stream has no text of " (unread.join(", ")) ": these slices count in the means alone, not in \
                forgetting, gap, plasticity or transfer."
            }
        }
    }
}

/// What makes figures less comparable, or is missing from them.
fn differences(summary: &Summary) -> Markup {
    let matrices = &summary.matrices;
    let tokens = || matrices.iter().filter_map(|matrix| Some(matrix.evaluations().last()?.tokens));
    let (least, most) = (tokens().min().unwrap_or(0), tokens().max().unwrap_or(0));
    let tracks = || matrices.iter().flat_map(|matrix| matrix.tracks());
    let sizes = tracks().map(|track| (track.last.documents().len(), track.slice.as_str()));
    let few = sizes.filter(|(documents, _)| (1..10).contains(documents)).min();
    let part = tracks().any(|track| track.along.documents().len() < track.last.documents().len());
    html! {
        @if most as f64 > 1.01 * least as f64 {
            li {
                "The runs did not learn the same number of tokens (" (count(least)) " to " (count(most)) "): part of a \
                difference is due to that."
            }
        }
        @if !same_places(matrices) {
            li {
                "The runs were not evaluated at the same places of the stream: forgetting and stability gap are not \
                strictly comparable."
            }
        }
        @if let Some((documents, slice)) = few {
            li {
                "Slices are small (the fewest documents: " (documents) ", in " (slice) "); intervals from few documents \
                are too narrow."
            }
        }
        @if part {
            li {
                "Evaluations before the end scored only some documents of a slice: curves, forgetting, gap and \
                plasticity are of those, final means of all."
            }
        }
        @if !summary.unmeasured.is_empty() {
            li { "Not measured by any run and in no figure: " (summary.unmeasured.join(", ")) "." }
        }
        @if summary.groups.iter().any(|group| group.get(Metric::StabilityGap).is_some()) {
            li {
                "The stability gap is the largest of many numbers, and grows with their number and noise: compare it \
                only between runs with the same evaluations."
            }
        }
    }
}

fn seeds(groups: &[RunGroup]) -> Option<String> {
    let counts = || groups.iter().map(|group| group.runs.len());
    Some(match (counts().min()?, counts().max()?) {
        (_, 0 | 1) => "Every kind of run has one seed".to_owned(),
        (least, most) if least == most => format!("Every kind of run has {most} seeds"),
        (least, most) => format!("Kinds of runs have {least} to {most} seeds"),
    })
}

/// The name of a ceiling that a run ended below.
fn surpassed(groups: &[RunGroup]) -> Option<String> {
    let exceeds = |share| matches!(share, Recovered::Share(figure) if exceeds_all(figure));
    let surpasses = |group: &&RunGroup| exceeds(group.recovered) || exceeds(group.recovered_latin);
    let weights = &groups.iter().find(surpasses)?.weights;
    let ceilings = entries(groups).into_iter().filter(|entry| entry.group.kind == Kind::Ceiling);
    ceilings.filter(|entry| entry.group.weights == *weights).map(|entry| entry.label).next()
}

fn same_places(matrices: &[Matrix]) -> bool {
    let places = |matrix: &Matrix| -> Vec<f64> {
        matrix.evaluations().iter().map(|evaluation| evaluation.fraction).collect()
    };
    let first = matrices.first().map(places).unwrap_or_default();
    let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= SAME_PLACE);
    matrices.iter().map(places).all(|other| other.len() == first.len() && near(&other, &first))
}

/// The terms of the page and what they mean.
pub fn terms() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("words/terms.txt").lines().filter_map(|line| line.split_once(": "))
}

#[cfg(test)]
mod tests;
