//! The page: a headline made from the figures, the main table, the charts, and what they rest on.

use maud::{Markup, html};
use perennial_report::bars::{self, Mark, legend, swatch, swatch_box};
use perennial_report::chart::{Line, LineChart, scale};
use perennial_report::ink::Ink;
use perennial_report::number::{INAPPLICABLE, UNMEASURED, bare_percent, fixed, percent, signed};
use perennial_report::table::{Cell, Row, table};

use super::input::{Input, Kind, Script, Slice};
use super::{final_weights, sections, words};
use crate::evaluate::metrics::{Figure, Interval, Metric, Recovered, RunGroup, Summary};

/// Bits per byte above which lines are cut: a byte model that knows nothing of a text is at 8.
const CUT: f64 = 8.0;

/// Runs that differ in their seed alone, as the page shows them.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The name by which a reader knows them: their label, with the weights where these differ.
    pub label: String,
    /// Their look.
    pub ink: Ink,
    /// Their figures.
    pub group: &'a RunGroup,
}

/// The groups as the page shows them, in their order.
#[must_use]
pub fn entries(groups: &[RunGroup]) -> Vec<Entry<'_>> {
    let several = groups.iter().any(|group| groups.iter().any(|other| other.weights != group.weights));
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for group in groups {
        let before = entries.iter().filter(|other| other.group.kind == group.kind).count();
        let ink = match group.kind {
            Kind::Floor => Ink::baseline(before),
            Kind::Method => Ink::series(before),
            Kind::Ceiling => Ink::bound(before),
        };
        let weights = if several { format!(" ({})", group.weights) } else { String::new() };
        entries.push(Entry { label: format!("{}{weights}", group.label), ink, group });
    }
    entries
}

impl Entry<'_> {
    /// The value of a figure.
    #[must_use]
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.group.get(metric).map(|figure| figure.value)
    }

    /// A piece of their line and their name.
    #[must_use]
    pub fn name(&self) -> Markup {
        html! { (swatch(self.ink)) (self.label) }
    }
}

/// What the parts of the page share.
pub struct Page<'a> {
    /// The report's input.
    pub input: &'a Input,
    /// The figures.
    pub summary: &'a Summary,
    /// The groups of runs.
    pub entries: Vec<Entry<'a>>,
}

/// Writes the page; `json` is embedded in it.
#[must_use]
pub fn page(input: &Input, summary: &Summary, json: &str) -> String {
    let page = Page { input, summary, entries: entries(&summary.groups) };
    perennial_report::page::page(&input.title, &page.body(), json)
}

/// A figure and its interval, each number as `text` writes it.
pub fn estimate(figure: Option<Figure>, text: impl Fn(f64) -> String) -> Cell {
    figure.map_or_else(
        || UNMEASURED.into(),
        |figure| Cell { value: text(figure.value), note: interval(figure, text) },
    )
}

/// The interval of a figure: `[3.50, 3.56]`, each end as `text` writes it.
pub fn interval(figure: Figure, text: impl Fn(f64) -> String) -> Option<String> {
    figure.interval.map(|interval| format!("[{}, {}]", text(interval.low), text(interval.high)))
}

impl Page<'_> {
    fn body(&self) -> Markup {
        let headline = words::headline(&self.entries, self.summary.counted.len());
        html! {
            header {
                p.kicker { (self.input.title) }
                h1 { (headline.title) }
                dl.facts { @for (about, fact) in &headline.facts { dt { (about) } dd { (fact) } } }
            }
            @if !self.entries.is_empty() {
                (self.intervals())
                (self.charts())
                (self.figures())
                (self.ends())
                (final_weights::section(self))
            }
            (sections::ingested(self.input))
            (sections::novelty(self.input))
            (sections::buffers(self.input))
            (sections::runs(self))
            (sections::notes(self))
            footer { "Everything on this page was computed from the JSON that is embedded in it and stands beside it." }
        }
    }

    /// The two main figures as intervals.
    fn intervals(&self) -> Markup {
        html! {
            section {
                h2 { "Final loss and forgetting" }
                p.note { "Bits per byte on held-out text, lower is better. Bars are 95 % intervals; the grey tick is at 0, where nothing is forgotten." }
                div.pair {
                    div { h3 { "Loss at the end, mean over slices" } (self.interval_chart(Metric::Mean, None)) }
                    div { h3 { "Forgetting" } (self.interval_chart(Metric::Forgetting, Some(0.0))) }
                }
            }
        }
    }

    /// One figure of every run as an interval; `zero` is marked on each row.
    fn interval_chart(&self, metric: Metric, zero: Option<f64>) -> Markup {
        let figures = || self.entries.iter().filter_map(|entry| entry.group.get(metric));
        let ends = |figure: Figure| {
            let none = Interval { low: figure.value, high: figure.value };
            let Interval { low, high } = figure.interval.unwrap_or(none);
            [figure.value, low, high]
        };
        let scale = scale(figures().flat_map(ends).chain(zero), f64::INFINITY);
        let place = |value: f64| (value - scale.start) / (scale.end - scale.start);
        let row = |entry: &Entry<'_>| {
            let figure = entry.group.get(metric);
            let mut marks: Vec<Mark> = zero.map(|zero| Mark::tick("zero", place(zero))).into_iter().collect();
            if let Some([value, low, high]) = figure.map(ends) {
                let ink = entry.ink.classes();
                marks.extend([Mark::whisker(&ink, place(low), place(high)), Mark::tick(&ink, place(value))]);
            }
            let text = |value| if zero.is_some() { signed(value, 2) } else { fixed(value, 2) };
            let Cell { value, note } = estimate(figure, text);
            let says = note.map_or(value.clone(), |note| format!("{value} {note}"));
            bars::Row { name: entry.name(), marks, says }
        };
        bars::rows("narrow", &self.entries.iter().map(row).collect::<Vec<_>>())
    }

    /// The table of runs and figures.
    fn figures(&self) -> Markup {
        let mut floors = self.entries.iter().filter(|entry| entry.group.kind == Kind::Floor);
        let against = match (floors.next(), floors.next()) {
            (Some(floor), None) => format!("against {}", floor.label),
            _ => "against floor".to_owned(),
        };
        let caption = "Bits per byte, lower is better (prequential: bits per token; recovered: higher is better). In \
                       brackets: 95 % intervals over held-out documents.";
        let row = |entry: &Entry<'_>| {
            let name =
                html! { (entry.name()) @if let Some(seeds) = seeds(entry.group) { small { (seeds) } } };
            Row { name, cells: main_figures(entry.group, &against) }
        };
        html! {
            section {
                h2 { "All figures" }
                (table("", caption, "run", &self.entries.iter().map(row).collect::<Vec<_>>()))
            }
        }
    }

    /// The slices and their indices, in the order in which their text arrived; those without any first.
    fn slices(&self) -> Vec<(usize, &Slice)> {
        let mut slices: Vec<(usize, &Slice)> = self.input.slices.iter().enumerate().collect();
        let place = |slice: &Slice| slice.arrival.map_or(-1.0, |arrival| arrival.q50);
        slices.sort_by(|a, b| place(a.1).total_cmp(&place(b.1)).then_with(|| a.1.name.cmp(&b.1.name)));
        slices
    }

    /// One chart per slice.
    fn charts(&self) -> Markup {
        let slices = self.slices();
        let lines: Vec<Vec<Line>> = slices.iter().map(|(index, _)| self.lines(*index)).collect();
        let values = lines.iter().flatten().flat_map(|line| &line.points).filter_map(|(_, value)| *value);
        let scale = scale(values.clone(), CUT);
        let cut = values.into_iter().any(|value| value > scale.end);
        let arrival = "when text of the slice\u{2019}s source and period arrived (5 to 95 % of it)";
        let mut meanings: Vec<_> =
            self.entries.iter().map(|entry| (swatch(entry.ink), entry.label.as_str())).collect();
        meanings.push((swatch_box("band"), arrival));
        let mixed = self.entries.iter().find(|entry| entry.group.kind == Kind::Ceiling);
        html! {
            section {
                h2 { "Each held-out slice along the stream" }
                (legend(&meanings))
                p.note {
                    "Across: share of the stream read. Upwards: bits per byte on the held-out text, so a rise to the right of \
                     the shaded stretch is forgetting."
                    @if let Some(mixed) = mixed {
                        " For " (mixed.label) ", which reads the text in another order, across is the share of its own run, and \
                         the shaded stretch has no meaning."
                    }
                    " All charts have one scale."
                    @if cut { " Lines are cut at the top; a triangle marks each value above it." }
                }
                div.charts {
                    @for ((_, slice), lines) in slices.into_iter().zip(lines) {
                        figure {
                            (caption(slice))
                            (LineChart {
                                title: format!("Bits per byte on {} along the stream", slice.name),
                                band: slice.arrival.map(|arrival| (arrival.q05, arrival.q95)),
                                lines,
                                scale: scale.clone(),
                            }.draw())
                        }
                    }
                }
            }
        }
    }

    /// One line per run on the slice at `index`; the first run of a group carries its name.
    fn lines(&self, index: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        for entry in &self.entries {
            for (place, run) in entry.group.runs.iter().enumerate() {
                let Some(matrix) = self.summary.matrices.get(*run) else { continue };
                let Some(track) = matrix.tracks().get(index) else { continue };
                let evaluations = matrix.evaluations().iter().enumerate();
                let points = evaluations
                    .map(|(at, evaluation)| (evaluation.fraction, track.along.bits_per_byte(at, None)));
                lines.push(Line {
                    name: self.run_name(entry, *run),
                    labelled: place == 0,
                    ink: entry.ink,
                    points: points.collect(),
                });
            }
        }
        lines
    }

    /// The name of one run: that of its group, with the seed where the group has several.
    pub fn run_name(&self, entry: &Entry<'_>, run: usize) -> String {
        match self.input.runs.get(run).filter(|_| entry.group.runs.len() > 1) {
            Some(run) => format!("{}, seed {}", entry.label, run.seed),
            None => entry.label.clone(),
        }
    }

    /// Final bits per byte by slice.
    fn ends(&self) -> Markup {
        let caption =
            "Final bits per byte by slice, all documents; in parentheses the change from the floor.";
        let row = |(index, slice): (usize, &Slice)| {
            let end = |group: &RunGroup| group.slices.get(index).copied().flatten();
            let cell = |group: &RunGroup| {
                let same = |other: &&RunGroup| other.kind == Kind::Floor && other.weights == group.weights;
                let floor = self.summary.groups.iter().find(same).and_then(end);
                let change = end(group).zip(floor).filter(|_| group.kind != Kind::Floor);
                let note = change.map(|(own, floor)| format!("({})", signed(own - floor, 2)));
                Cell { note, ..end(group).map_or(UNMEASURED.into(), |value| fixed(value, 2).into()) }
            };
            let cells = self.entries.iter().map(|entry| (entry.label.as_str(), cell(entry.group)));
            Row { name: html! { (slice.name) }, cells: cells.collect() }
        };
        let rows: Vec<Row<'_>> = self.slices().into_iter().map(row).collect();
        html! { section { h2 { "Where each slice ended" } (table("inline", caption, "slice", &rows)) } }
    }
}

/// The cells of the main table; `against` heads the difference to the floor.
fn main_figures<'a>(group: &RunGroup, against: &'a str) -> Vec<(&'a str, Cell)> {
    let levels = |metric| estimate(group.get(metric), |value| fixed(value, 3));
    let difference = match group.kind {
        Kind::Floor => "\u{2013}".into(),
        _ => estimate(group.against_floor, |value| signed(value, 3)),
    };
    let plasticity = match group.kind {
        Kind::Ceiling => INAPPLICABLE.into(),
        _ => estimate(group.get(Metric::Plasticity), |value| fixed(value, 2)),
    };
    vec![
        ("final mean", levels(Metric::Mean)),
        (against, difference),
        ("Latin mean", levels(Metric::LatinMean)),
        ("forgetting", estimate(group.get(Metric::Forgetting), |value| signed(value, 2))),
        ("stability gap", estimate(group.get(Metric::StabilityGap), |value| fixed(value, 2))),
        ("plasticity", plasticity),
        ("prequential", group.prequential.map_or(UNMEASURED.into(), |value| fixed(value, 2).into())),
        ("recovered", share(group.kind, group.recovered)),
        ("recovered, Latin", share(group.kind, group.recovered_latin)),
    ]
}

fn caption(slice: &Slice) -> Markup {
    let script = match slice.script {
        Script::Latin => "Latin",
        Script::Cyrillic => "Cyrillic",
        Script::Han => "Han",
        Script::Other => "other",
    };
    let year = |date: &str| date.split('-').next().unwrap_or_default().to_owned();
    let (from, to) = (year(&slice.from), year(&slice.to));
    let period = if from == to { from } else { format!("{from}\u{2013}{to}") };
    html! {
        figcaption {
            b { (slice.name) }
            small {
                (slice.source) ", " (period) ", " (slice.language) " in " (script) " script"
                @if slice.arrival.is_none() { "; the stream has no text of it" }
            }
        }
    }
}

fn seeds(group: &RunGroup) -> Option<String> {
    let ends = || group.seeds.iter().flatten().copied();
    let (low, high) = (ends().reduce(f64::min)?, ends().reduce(f64::max)?);
    let count = group.runs.len();
    (count > 1).then(|| format!("{count} seeds: {}\u{2013}{}", fixed(low, 3), fixed(high, 3)))
}

fn share(kind: Kind, recovered: Recovered) -> Cell {
    match (kind, recovered) {
        (Kind::Floor, Recovered::Share(_)) => percent(0.0).into(),
        (Kind::Ceiling, Recovered::Share(_)) => percent(1.0).into(),
        (_, Recovered::Share(figure)) => {
            Cell { value: percent(figure.value), note: interval(figure, bare_percent) }
        }
        (_, Recovered::NoRoom(_)) => "nothing to recover".into(),
        (_, Recovered::Unmeasured) => UNMEASURED.into(),
    }
}
