//! The page: a headline made from the figures, the table, the pictures, and what they rest on.

use super::charts::{CUT, Line, Panel, Style, scale, styles};
use super::html::Html;
use super::input::{Input, Kind, Script, Slice};
use super::number::{INAPPLICABLE, UNMEASURED, bare_percent, figure, fixed, interval, percent, signed};
use super::{left, sections, words};
use crate::evaluate::metrics::{Arm, Metric, Recovered, Summary};

/// What the parts of the page share.
pub struct Page<'a> {
    /// The report's input.
    pub input: &'a Input,
    /// The figures.
    pub summary: &'a Summary,
    /// The name of each arm.
    pub labels: Vec<String>,
    /// The look of each arm.
    pub styles: Vec<Style>,
}

/// Writes the page; `json` is embedded in it.
#[must_use]
pub fn page(input: &Input, summary: &Summary, json: &str) -> String {
    let (labels, styles) = (words::labels(&summary.arms), styles(&summary.arms));
    let page = Page { input, summary, labels, styles };
    let mut html = Html::new();
    html.doctype();
    html.element("html", &[("lang", "en")], |html| {
        html.element("head", &[], |html| {
            html.empty("meta", &[("charset", "utf-8")]);
            html.empty("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
            let policy = "default-src 'none'; style-src 'unsafe-inline'";
            html.empty("meta", &[("http-equiv", "Content-Security-Policy"), ("content", policy)]);
            html.leaf("title", &[], &input.title);
            html.style(include_str!("style.css"));
        });
        html.element("body", &[], |html| {
            html.element("main", &[], |html| page.body(html));
            html.data("input", json);
        });
    });
    let mut text = html.finish();
    text.push('\n');
    text
}

impl Page<'_> {
    fn body(&self, html: &mut Html) {
        let headline = words::headline(self.summary);
        html.element("header", &[], |html| {
            html.leaf("p", &[("class", "kicker")], &self.input.title);
            html.leaf("h1", &[], &headline.title);
            html.element("ul", &[("class", "found")], |html| {
                for (about, sentence) in &headline.sentences {
                    html.element("li", &[], |html| {
                        html.leaf("b", &[], about);
                        html.text(": ");
                        html.text(sentence);
                    });
                }
            });
        });
        if !self.summary.arms.is_empty() {
            self.figures(html);
            self.panels(html);
            self.ends(html);
            left::left(html, self);
        }
        sections::ingested(html, self.input);
        sections::novelty(html, self.input);
        sections::buffers(html, self.input);
        sections::runs(html, self);
        sections::notes(html, self);
        html.leaf(
            "footer",
            &[],
            "Everything on this page was computed from the JSON embedded in it (and written beside it).",
        );
    }

    /// The table of runs and figures.
    fn figures(&self, html: &mut Html) {
        let mut floors =
            self.summary.arms.iter().zip(&self.labels).filter(|(arm, _)| arm.kind == Kind::Floor);
        let against = match (floors.next(), floors.next()) {
            (Some((_, floor)), None) => format!("against {floor}"),
            _ => "against floor".to_owned(),
        };
        let heads = [
            "run",
            "final mean",
            &against,
            "Latin mean",
            "forgetting",
            "stability gap",
            "plasticity",
            "prequential",
            "recovered",
            "recovered, Latin",
        ];
        html.element("table", &[("class", "cards figures")], |html| {
            html.leaf(
                "caption",
                &[],
                "Bits per byte, lower is better (prequential: bits per token; recovered: higher is better). In brackets: \
                 95 % intervals over held-out documents.",
            );
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    heads.iter().for_each(|head| html.leaf("th", &[("scope", "col")], head));
                });
            });
            html.element("tbody", &[], |html| {
                for ((arm, label), style) in self.summary.arms.iter().zip(&self.labels).zip(&self.styles) {
                    html.element("tr", &[], |html| self.row(html, arm, label, *style, &heads));
                }
            });
        });
    }

    fn row(&self, html: &mut Html, arm: &Arm, label: &str, style: Style, heads: &[&str]) {
        html.element("th", &[("scope", "row")], |html| {
            sections::swatch(html, style);
            html.text(label);
            if let Some(seeds) = seeds(arm) {
                html.leaf("small", &[], &seeds);
            }
        });
        let levels = |metric| figure(arm.get(metric), |value| fixed(value, 3));
        let changes = |metric| figure(arm.get(metric), |value| signed(value, 2));
        let plasticity = match arm.kind {
            Kind::Ceiling => (INAPPLICABLE.to_owned(), None),
            _ => figure(arm.get(Metric::Plasticity), |value| fixed(value, 2)),
        };
        let against = match arm.kind {
            Kind::Floor => ("\u{2013}".to_owned(), None),
            _ => figure(arm.against_floor, |value| signed(value, 3)),
        };
        let cells = [
            levels(Metric::Mean),
            against,
            levels(Metric::LatinMean),
            changes(Metric::Forgetting),
            figure(arm.get(Metric::StabilityGap), |value| fixed(value, 2)),
            plasticity,
            (arm.prequential.map_or_else(|| UNMEASURED.into(), |value| fixed(value, 2)), None),
            share(arm.kind, arm.recovered),
            share(arm.kind, arm.recovered_latin),
        ];
        for (head, (value, interval)) in heads.iter().skip(1).zip(cells) {
            sections::cell(html, head, &value, interval.as_deref());
        }
    }

    /// The slices and their indices, in the order in which their text arrived; those without any first.
    fn slices(&self) -> Vec<(usize, &Slice)> {
        let mut slices: Vec<(usize, &Slice)> = self.input.slices.iter().enumerate().collect();
        let place = |slice: &Slice| slice.arrival.map_or(-1.0, |arrival| arrival.q50);
        slices.sort_by(|a, b| place(a.1).total_cmp(&place(b.1)).then_with(|| a.1.name.cmp(&b.1.name)));
        slices
    }

    /// One panel per slice.
    fn panels(&self, html: &mut Html) {
        let slices = self.slices();
        let lines: Vec<Vec<Line>> = slices.iter().map(|(index, _)| self.lines(*index)).collect();
        let values = lines.iter().flatten().flat_map(|line| &line.points).filter_map(|(_, value)| *value);
        let (low, high, ticks, decimals) = scale(values.clone(), CUT);
        let cut = values.into_iter().any(|value| value > high);
        html.element("section", &[], |html| {
            html.leaf("h2", &[], "Each held-out slice along the stream");
            html.element("p", &[("class", "legend")], |html| {
                for (label, style) in self.labels.iter().zip(&self.styles) {
                    html.element("span", &[], |html| {
                        sections::swatch(html, *style);
                        html.text(label);
                    });
                }
                html.element("span", &[], |html| {
                    html.leaf("i", &[("class", "box band-box")], "");
                    html.text("when text of the slice\u{2019}s source and period arrived (5 to 95 % of it)");
                });
            });
            let mixed = self.summary.arms.iter().zip(&self.labels).find(|(arm, _)| arm.kind == Kind::Ceiling);
            let mixed = mixed.map_or_else(String::new, |(_, label)| {
                format!(
                    " The text of {label} has another order: across is the share of its own run, and the shaded stretch \
                     says nothing of it."
                )
            });
            let cut = if cut { " Lines are cut at the top; a triangle marks each value above it." } else { "" };
            html.leaf(
                "p",
                &[("class", "note")],
                &format!(
                    "Across: share of the stream read. Upwards: bits per byte on the held-out text, so a rise to the right \
                     of the shaded stretch is forgetting.{mixed} All panels have one scale.{cut}"
                ),
            );
            html.element("div", &[("class", "grid")], |html| {
                for (id, ((_, slice), lines)) in slices.iter().zip(lines).enumerate() {
                    html.element("figure", &[], |html| {
                        caption(html, slice);
                        let title = format!("Bits per byte on {} along the stream", slice.name);
                        let band = slice.arrival.map(|arrival| (arrival.q05, arrival.q95));
                        Panel { title, band, lines, low, high, ticks: ticks.clone(), decimals }.draw(html, id);
                    });
                }
            });
        });
    }

    /// One line per run on the slice at `index`; the first run of an arm carries its name.
    fn lines(&self, index: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        for ((arm, label), style) in self.summary.arms.iter().zip(&self.labels).zip(&self.styles) {
            for (place, run) in arm.runs.iter().enumerate() {
                let Some(matrix) = self.summary.matrices.get(*run) else { continue };
                let Some(track) = matrix.tracks().get(index) else { continue };
                let point = |(place, evaluation): (usize, &crate::evaluate::matrix::Evaluation)| {
                    (evaluation.fraction, track.along.bits_per_byte(place, None))
                };
                lines.push(Line {
                    name: match self.input.runs.get(*run).filter(|_| arm.runs.len() > 1) {
                        Some(run) => format!("{label}, seed {}", run.seed),
                        None => label.clone(),
                    },
                    label: if place == 0 { label.clone() } else { String::new() },
                    style: *style,
                    points: matrix.evaluations().iter().enumerate().map(point).collect(),
                });
            }
        }
        lines
    }

    /// Final bits per byte by slice.
    fn ends(&self, html: &mut Html) {
        html.element("section", &[], |html| {
            html.leaf("h2", &[], "Where each slice ended");
            html.element("table", &[("class", "cards inline")], |html| {
                html.leaf(
                    "caption",
                    &[],
                    "Final bits per byte by slice, all documents; in parentheses the change against the floor.",
                );
                html.element("thead", &[], |html| {
                    html.element("tr", &[], |html| {
                        html.leaf("th", &[("scope", "col")], "slice");
                        self.labels.iter().for_each(|label| html.leaf("th", &[("scope", "col")], label));
                    });
                });
                html.element("tbody", &[], |html| {
                    for (index, slice) in self.slices() {
                        html.element("tr", &[], |html| self.end(html, index, slice));
                    }
                });
            });
        });
    }

    fn end(&self, html: &mut Html, index: usize, slice: &Slice) {
        html.leaf("th", &[("scope", "row")], &slice.name);
        let of = |arm: &Arm| arm.slices.get(index).copied().flatten();
        for (arm, label) in self.summary.arms.iter().zip(&self.labels) {
            let alike = |floor: &&Arm| floor.kind == Kind::Floor && floor.weights == arm.weights;
            let floor = self.summary.arms.iter().find(alike).and_then(of);
            let change = of(arm).zip(floor).filter(|_| arm.kind != Kind::Floor);
            let change = change.map(|(own, floor)| format!("({})", signed(own - floor, 2)));
            let value = of(arm).map_or_else(|| UNMEASURED.to_owned(), |value| fixed(value, 2));
            sections::cell(html, label, &value, change.as_deref());
        }
    }
}

fn caption(html: &mut Html, slice: &Slice) {
    let script = match slice.script {
        Script::Latin => "Latin",
        Script::Cyrillic => "Cyrillic",
        Script::Han => "Han",
        Script::Other => "other",
    };
    let year = |date: &str| date.split('-').next().unwrap_or_default().to_owned();
    let (from, to) = (year(&slice.from), year(&slice.to));
    let period = if from == to { from } else { format!("{from}\u{2013}{to}") };
    let none = if slice.arrival.is_none() { "; the stream has no text of it" } else { "" };
    html.element("figcaption", &[], |html| {
        html.leaf("b", &[], &slice.name);
        html.leaf(
            "small",
            &[],
            &format!("{}, {period}, {} in {script} script{none}", slice.source, slice.language),
        );
    });
}

fn seeds(arm: &Arm) -> Option<String> {
    let ends: Vec<f64> = arm.seeds.iter().flatten().copied().collect();
    let (low, high) = (ends.iter().copied().reduce(f64::min)?, ends.iter().copied().reduce(f64::max)?);
    (arm.runs.len() > 1)
        .then(|| format!("{} seeds: {}\u{2013}{}", arm.runs.len(), fixed(low, 3), fixed(high, 3)))
}

fn share(kind: Kind, recovered: Recovered) -> (String, Option<String>) {
    match (kind, recovered) {
        (Kind::Floor, Recovered::Share(_)) => (percent(0.0), None),
        (Kind::Ceiling, Recovered::Share(_)) => (percent(1.0), None),
        (_, Recovered::Share(figure)) => (percent(figure.value), interval(&figure, bare_percent)),
        (_, Recovered::NoRoom(_)) => ("nothing to recover".to_owned(), None),
        (_, Recovered::Unmeasured) => (UNMEASURED.to_owned(), None),
    }
}
