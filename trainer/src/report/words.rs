//! What the figures say, in sentences made from them: whatever came out.

use super::input::{Input, Kind, Script};
use super::number::{self, bare_percent, fixed, interval, percent, signed};
use crate::evaluate::metrics::{Arm, Figure, Metric, Recovered, Summary};

/// What an arm did against the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It ended better: the whole interval of the difference is below 0.
    Better,
    /// It ended worse: the whole interval is above 0.
    Worse,
    /// The interval holds 0.
    Undecided,
    /// There is no difference to judge.
    Unmeasured,
}

/// Judges the difference of the final means.
fn verdict(arm: &Arm) -> Verdict {
    let Some(figure) = arm.against_floor else { return Verdict::Unmeasured };
    let (low, high) =
        figure.interval.map_or((figure.value, figure.value), |interval| (interval.low, interval.high));
    match () {
        () if high < 0.0 => Verdict::Better,
        () if low > 0.0 => Verdict::Worse,
        () => Verdict::Undecided,
    }
}

/// The names by which a reader tells arms apart: labels, with the weights where they differ.
#[must_use]
pub fn labels(arms: &[Arm]) -> Vec<String> {
    let several = arms.iter().any(|arm| arms.first().is_some_and(|first| first.weights != arm.weights));
    let label =
        |arm: &Arm| if several { format!("{} ({})", arm.label, arm.weights) } else { arm.label.clone() };
    arms.iter().map(label).collect()
}

/// The sentence at the top and those below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headline {
    /// One sentence without its full stop.
    pub title: String,
    /// What it rests on: a word or two, and what there is to say of it.
    pub sentences: Vec<(&'static str, String)>,
}

struct Named<'a> {
    label: String,
    arm: &'a Arm,
}

impl Named<'_> {
    fn value(&self, metric: Metric) -> Option<f64> {
        self.arm.get(metric).map(|figure| figure.value)
    }
}

/// What came out.
#[must_use]
pub fn headline(summary: &Summary) -> Headline {
    let named: Vec<Named<'_>> = labels(&summary.arms)
        .into_iter()
        .zip(&summary.arms)
        .map(|(label, arm)| Named { label, arm })
        .collect();
    let methods: Vec<&Named<'_>> = named.iter().filter(|named| named.arm.kind == Kind::Method).collect();
    let best = methods.iter().filter(|method| method.value(Metric::Mean).is_some()).min_by(|a, b| {
        let mean = |named: &Named<'_>| named.value(Metric::Mean).unwrap_or(f64::INFINITY);
        mean(a).total_cmp(&mean(b))
    });
    let find = |kind: Kind| {
        let weights = best.map(|best| &best.arm.weights);
        named.iter().find(|named| {
            named.arm.kind == kind && weights.is_none_or(|weights| *weights == named.arm.weights)
        })
    };
    let (floor, ceiling) = (find(Kind::Floor), find(Kind::Ceiling));
    let mut headline =
        Headline { title: title(best.copied(), floor, ceiling, &methods), sentences: Vec::new() };
    let sentences = [
        ("End", levels(&named, summary.counted.len())),
        ("Gap", closed(&methods, floor, ceiling)),
        ("Forgetting", forgetting(&named)),
        ("Worst moments", moments(floor, &methods)),
        ("New text", new_text(floor, &methods)),
    ];
    let said =
        sentences.into_iter().filter_map(|(about, sentence)| sentence.map(|sentence| (about, sentence)));
    headline.sentences.extend(said);
    headline
}

fn title(
    best: Option<&Named<'_>>,
    floor: Option<&Named<'_>>,
    ceiling: Option<&Named<'_>>,
    methods: &[&Named<'_>],
) -> String {
    let Some(best) = best else {
        let text = match methods.first() {
            Some(method) => format!("{} has no final figure: not every slice was measured", method.label),
            None => "No run with replay was measured, so nothing can be said of replay".to_owned(),
        };
        return capital(&text);
    };
    let Some(floor) = floor else {
        return capital(&format!("{} was measured without a run to compare it with", best.label));
    };
    let text = match (verdict(best.arm), best.arm.recovered, ceiling) {
        (Verdict::Better, Recovered::Share(share), Some(ceiling)) if beyond(share) => format!(
            "{} closed the whole gap between {} and {} ({})",
            best.label,
            floor.label,
            ceiling.label,
            percent(share.value)
        ),
        (Verdict::Better, Recovered::Share(share), Some(ceiling)) => format!(
            "{} closed {} of the gap between {} and {}",
            best.label,
            percent(share.value),
            floor.label,
            ceiling.label
        ),
        (Verdict::Better, ..) => format!(
            "{} ended {} bits per byte better than {}",
            best.label,
            best.arm.against_floor.map_or_else(String::new, |figure| fixed(figure.value.abs(), 2)),
            floor.label
        ),
        (Verdict::Worse, ..) => format!(
            "{} did not help: it ended {} bits per byte worse than {}",
            best.label,
            best.arm.against_floor.map_or_else(String::new, |figure| fixed(figure.value.abs(), 2)),
            floor.label
        ),
        (Verdict::Undecided, ..) => format!(
            "{} did not help: it ended no different from {} as far as the held-out text can tell",
            best.label, floor.label
        ),
        (Verdict::Unmeasured, ..) => {
            format!("{} cannot be compared with {}: not every slice was measured", best.label, floor.label)
        }
    };
    capital(&text)
}

/// Whether a share reads as more than all.
const fn beyond(share: Figure) -> bool {
    share.value >= 1.005
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// `a unit with x, b with y and c with z`, of those that have a figure.
fn each(named: &[&Named<'_>], unit: &str, text: impl Fn(&Named<'_>) -> Option<String>) -> Option<String> {
    let mut unit = unit;
    let mut part = |named: &&Named<'_>| {
        let text = text(named)?;
        Some(format!("{text}{} with {}", std::mem::take(&mut unit), named.label))
    };
    let parts: Vec<String> = named.iter().filter_map(&mut part).collect();
    match parts.split_last() {
        None => None,
        Some((last, [])) => Some(last.clone()),
        Some((last, rest)) => Some(format!("{} and {last}", rest.join(", "))),
    }
}

fn levels(named: &[Named<'_>], slices: usize) -> Option<String> {
    let all: Vec<&Named<'_>> = named.iter().collect();
    let list = each(&all, " bits per byte", |named| named.value(Metric::Mean).map(|mean| fixed(mean, 2)))?;
    let of = if slices == 1 { "the one slice".to_owned() } else { format!("the mean of {slices} slices") };
    Some(format!("{of} of held-out text ended at {list} (lower is better)."))
}

fn closed(methods: &[&Named<'_>], floor: Option<&Named<'_>>, ceiling: Option<&Named<'_>>) -> Option<String> {
    let (floor, ceiling) = (floor?, ceiling?);
    let alike = methods.iter().copied().filter(|method| method.arm.weights == floor.arm.weights);
    let methods: &[&Named<'_>] = &alike.collect::<Vec<_>>();
    if let Some(Recovered::NoRoom(room)) = methods.first().map(|method| method.arm.recovered) {
        return Some(format!(
            "{} and {} do not differ for certain ({}), so there was nothing to recover.",
            floor.label,
            ceiling.label,
            with_interval(room, |value| signed(value, 2), |end| signed(end, 2)),
        ));
    }
    let shares = |unit: &str, recovered: fn(&Arm) -> Recovered| {
        each(methods, unit, |method| match recovered(method.arm) {
            Recovered::Share(figure) => Some(with_interval(figure, percent, bare_percent)),
            _ => None,
        })
    };
    let all = shares(" was closed", |arm| arm.recovered)?;
    let latin = shares("", |arm| arm.recovered_latin);
    let latin =
        latin.map_or_else(String::new, |latin| format!("; on the slices in Latin script alone {latin}"));
    Some(format!("of the gap between {} and {}, {all}{latin}.", floor.label, ceiling.label))
}

fn with_interval(figure: Figure, text: fn(f64) -> String, end: fn(f64) -> String) -> String {
    match interval(&figure, end) {
        Some(interval) => format!("{} {interval}", text(figure.value)),
        None => text(figure.value),
    }
}

fn forgetting(named: &[Named<'_>]) -> Option<String> {
    let ordered: Vec<&Named<'_>> = named.iter().filter(|named| named.arm.kind != Kind::Ceiling).collect();
    let text = |named: &Named<'_>| named.value(Metric::Forgetting).map(|value| signed(value, 2));
    let list = each(&ordered, " bits per byte", text)?;
    Some(format!(
        "the average rise of a slice, from its best after its own text had passed to the end, was {list} (below 0 is a \
         gain)."
    ))
}

fn moments(floor: Option<&Named<'_>>, methods: &[&Named<'_>]) -> Option<String> {
    let all: Vec<&Named<'_>> = floor.into_iter().chain(methods.iter().copied()).collect();
    let moment = |named: &Named<'_>| {
        let worst = named.arm.worst.as_ref()?;
        let when = match worst.fraction {
            end if end >= 1.0 => "at the end".to_owned(),
            fraction => format!("at {} of the stream", percent(fraction)),
        };
        let (best, value) = (fixed(worst.best, 2), fixed(worst.value, 2));
        Some(format!("with {}, {} went from {best} to {value} {when}", named.label, worst.slice))
    };
    let parts: Vec<String> = all.into_iter().filter_map(moment).collect();
    (!parts.is_empty()).then(|| format!("{}.", parts.join("; ")))
}

fn new_text(floor: Option<&Named<'_>>, methods: &[&Named<'_>]) -> Option<String> {
    let all: Vec<&Named<'_>> = floor.into_iter().chain(methods.iter().copied()).collect();
    let base = floor.and_then(|floor| floor.arm.prequential);
    let text = |named: &Named<'_>| {
        let own = named.arm.prequential?;
        let change = base
            .filter(|_| named.arm.kind != Kind::Floor)
            .map_or_else(String::new, |base| format!(" ({}\u{a0}%)", signed(100.0 * (own / base - 1.0), 1)));
        Some(format!("{}{change}", fixed(own, 2)))
    };
    let list = each(&all, " bits per token", text)?;
    Some(format!("before it was learnt, it cost {list} (lower is better)."))
}

/// What the reader must keep in mind, as far as it holds of these runs.
#[must_use]
pub fn caveats(input: &Input, summary: &Summary) -> Vec<String> {
    let mut caveats = Vec::new();
    if !summary.arms.is_empty() {
        caveats.push(seeds(summary));
    }
    let foreign: Vec<&str> = input
        .slices
        .iter()
        .filter(|slice| slice.script != Script::Latin && summary.counted.contains(&slice.name))
        .map(|slice| slice.name.as_str())
        .collect();
    if !foreign.is_empty() {
        caveats.push(format!(
            "{} {} not in Latin script. A model that no longer reads a script drifts there without bound, and by how \
             much is chance: such slices can rule a plain mean. The median and the Latin-script columns stand beside it.",
            foreign.join(", "),
            if foreign.len() == 1 { "is" } else { "are" }
        ));
    }
    if let Some(parameters) = input.parameters.filter(|parameters| *parameters < 100_000_000) {
        caveats.push(format!(
            "The model is small ({} parameters). It shows the mechanism; the figures of a large model will be others.",
            number::large(parameters as f64)
        ));
    }
    if let Some(ceiling) = surpassed(summary) {
        caveats.push(format!(
            "More than 100 % of a gap: that run ended below {ceiling} on a mean of slices. Mixed text is a bound for \
             what is kept of the old, not for the newest slices, which runs in the stream\u{2019}s order have just read."
        ));
    }
    caveats.extend(unread(input, summary));
    caveats.extend(tokens(summary));
    caveats.extend(places(summary));
    caveats.extend(documents(summary));
    if !summary.unmeasured.is_empty() {
        caveats.push(format!("Not measured by any run and in no figure: {}.", summary.unmeasured.join(", ")));
    }
    if summary.arms.iter().any(|arm| arm.get(Metric::StabilityGap).is_some()) {
        caveats.push(
            "The stability gap is the largest of many numbers, and grows with their number and noise: compare it \
             between runs that were evaluated alike."
                .into(),
        );
    }
    caveats
}

fn seeds(summary: &Summary) -> String {
    let most = summary.arms.iter().map(|arm| arm.runs.len()).max().unwrap_or(0);
    let least = summary.arms.iter().map(|arm| arm.runs.len()).min().unwrap_or(0);
    let how = match (least, most) {
        (0 | 1, 0 | 1) => "Every kind of run has one seed".to_owned(),
        (least, most) if least == most => format!("Every kind of run has {most} seeds"),
        (least, most) => format!("Kinds of runs have {least} to {most} seeds"),
    };
    format!(
        "{how}. The intervals say how much a figure depends on which documents were held out, not on the seed, which \
         can move it by more."
    )
}

/// The name of a ceiling that a run ended below.
fn surpassed(summary: &Summary) -> Option<String> {
    let beyond = |arm: &&Arm| {
        let shares = [arm.recovered, arm.recovered_latin];
        shares.iter().any(|share| matches!(share, Recovered::Share(figure) if beyond(*figure)))
    };
    let weights = &summary.arms.iter().find(beyond)?.weights;
    let mut named = summary.arms.iter().zip(labels(&summary.arms));
    named.find(|(arm, _)| arm.kind == Kind::Ceiling && arm.weights == *weights).map(|(_, label)| label)
}

/// Slices that the stream has no text of.
fn unread(input: &Input, summary: &Summary) -> Option<String> {
    let slices = input.slices.iter();
    let names: Vec<&str> = slices
        .filter(|slice| slice.arrival.is_none() && summary.counted.contains(&slice.name))
        .map(|slice| slice.name.as_str())
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "The stream has no text of {}: what is known of it counts in the means alone, not in forgetting, gap, \
             plasticity or transfer.",
            names.join(", ")
        )
    })
}

/// Where totals differ by more than 1 %.
fn tokens(summary: &Summary) -> Option<String> {
    let totals = summary.matrices.iter().filter_map(|matrix| matrix.evaluations().last());
    let totals: Vec<u64> = totals.map(|evaluation| evaluation.tokens).collect();
    let (least, most) = (*totals.iter().min()?, *totals.iter().max()?);
    let differ = most as f64 > 1.01 * least as f64;
    differ.then(|| {
        format!(
            "The runs did not learn equally many tokens ({} to {}): part of a difference is due to that.",
            number::count(least),
            number::count(most)
        )
    })
}

/// How far apart evaluations at the same place of the stream may lie: runs that thin their new text read it at
/// paces that differ by as much.
const PLACES: f64 = 0.03;

fn places(summary: &Summary) -> Option<String> {
    let first = summary.matrices.first()?.evaluations();
    let alike = |other: &[crate::evaluate::matrix::Evaluation]| {
        other.len() == first.len()
            && other.iter().zip(first).all(|(a, b)| (a.fraction - b.fraction).abs() <= PLACES)
    };
    let same = summary.matrices.iter().all(|matrix| alike(matrix.evaluations()));
    (!same).then(|| {
        "The runs were not evaluated at the same places of the stream: forgetting and stability gap are not strictly \
         comparable."
            .into()
    })
}

fn documents(summary: &Summary) -> Option<String> {
    let tracks = || summary.matrices.iter().flat_map(|matrix| matrix.tracks());
    let few = tracks()
        .filter(|track| (1..10).contains(&track.last.documents().len()))
        .map(|track| (track.last.documents().len(), track.slice.as_str()))
        .min();
    let part = tracks().any(|track| track.along.documents().len() < track.last.documents().len());
    let few = few.map(|(count, slice)| {
        format!("Slices are small (the fewest documents: {count}, in {slice}); intervals from few documents are too narrow.")
    });
    let part = part.then(|| {
        "On the way only some documents of a slice were scored: curves, forgetting, gap and plasticity are of those, \
         final means of all."
            .to_owned()
    });
    match (few, part) {
        (Some(few), Some(part)) => Some(format!("{few} {part}")),
        (few, part) => few.or(part),
    }
}

/// What every word of the page means, for readers.
pub const DEFINITIONS: [(&str, &str); 10] = [
    (
        "Bits per byte",
        "The model's loss on a text in nats, divided by ln 2 and by the text's bytes of UTF-8: how many bits it would \
         take to write each byte down. Lower is better; guessing every byte costs 8. A slice is a set of held-out \
         documents of one source and period; none of its text is in the stream.",
    ),
    (
        "Final mean, Latin mean",
        "The mean over slices of the bits per byte at the end, over all slices and over those in Latin script. The \
         difference to the floor is taken on the same documents.",
    ),
    (
        "Forgetting",
        "Over the slices whose text (95 % of it) had arrived before the end: final bits per byte minus the best at any \
         evaluation from then until before the end, averaged. Negative means that the slice was at its best at the \
         end. The clipped form counts the end among the evaluations, so that it is never negative.",
    ),
    (
        "Stability gap",
        "The worst rise of any slice above its best so far, at any evaluation after its text had arrived: how bad it \
         got on the way, even if it recovered.",
    ),
    (
        "Plasticity",
        "The mean over slices of the bits per byte at the first evaluation after 95 % of a slice's text had arrived: \
         how well the present is learnt. Does not apply to mixed text, which has no present.",
    ),
    (
        "Prequential",
        "The loss on every stretch of new text before it was learnt, in bits per token, over the last three quarters \
         of the run. Mixed text comes in another order: its figure is not comparable with the others.",
    ),
    (
        "Recovered",
        "The share of the gap between floor and ceiling that a run closes: (floor \u{2212} run) / (floor \u{2212} \
         ceiling), on the final mean. The floor is the stream in its order without replay; the ceiling is the same \
         text mixed, which nobody can do with text that has not come yet.",
    ),
    (
        "Backward and forward transfer",
        "Backward: bits per byte when a slice's text had arrived minus those at the end (negative is forgotten). \
         Forward: bits per byte of the untrained model minus those just before 5 % of a slice's text had arrived: \
         what other text had taught of it.",
    ),
    (
        "Duplicates, dead letters",
        "A duplicate repeats a kept record: exact, the same text; folded, the same but for case, width and white space; \
         near, so many five-word runs in common (Jaccard similarity) and so little new that it is no revision. A \
         dead letter could not be read as a record, or is too like a held-out text; the store has its first 64 KiB and the reason.",
    ),
    (
        "Intervals",
        "95 % intervals in brackets: documents are drawn anew inside each slice 2,000 times, the same ones for all \
         runs, and the figure is computed from each draw. Whether two runs differ is told by the interval of their difference, not by whether their own intervals overlap.",
    ),
];

#[cfg(test)]
mod tests;
