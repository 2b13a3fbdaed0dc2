//! The parts of the page below the figures: what was read, how novel it was, what the buffers hold, how
//! the runs were made, and what the words mean.

use std::collections::BTreeMap;

use super::charts::{Line, Panel, Style, bullet, scale, stacked};
use super::html::Html;
use super::input::{Amount, Buffer, Holdings, Ingested, Input, Kind, Run};
use super::number::{self, INAPPLICABLE, UNMEASURED, count, figure, fixed, percent, percent_fine, signed};
use super::page::Page;
use super::words;
use crate::evaluate::metrics::{Arm, Metric};

/// A table's cell: the column's name (shown where the table becomes cards), a value, and what is below it.
pub fn cell(html: &mut Html, head: &str, value: &str, below: Option<&str>) {
    html.element("td", &[("data-label", head)], |html| {
        html.element("span", &[], |html| {
            html.text(value);
            if let Some(below) = below {
                html.leaf("small", &[], below);
            }
        });
    });
}

/// A short piece of an arm's line.
pub fn swatch(html: &mut Html, style: Style) {
    let attributes = [("viewBox", "0 0 22 8"), ("class", "swatch"), ("aria-hidden", "true")];
    html.element("svg", &attributes, |html| {
        let line = [
            ("x1", "0"),
            ("x2", "22"),
            ("y1", "4"),
            ("y2", "4"),
            ("stroke", style.colour),
            ("stroke-width", "2.5"),
            ("stroke-dasharray", style.dash),
        ];
        html.empty("line", &line);
    });
}

fn sum(map: &BTreeMap<String, u64>) -> u64 {
    map.values().fold(0, |sum, number| sum.saturating_add(*number))
}

fn accounted(source: &Ingested) -> u64 {
    source.kept.saturating_add(sum(&source.duplicates)).saturating_add(sum(&source.dead_letters))
}

/// What became of what was read.
pub fn ingested(html: &mut Html, input: &Input) {
    if input.ingested.is_empty() {
        return;
    }
    let mut total = Ingested { source: "all sources".into(), ..Ingested::default() };
    for source in &input.ingested {
        total.read = total.read.saturating_add(source.read);
        total.kept = total.kept.saturating_add(source.kept);
        total.bytes = total.bytes.saturating_add(source.bytes);
        for (to, from) in
            [(&mut total.duplicates, &source.duplicates), (&mut total.dead_letters, &source.dead_letters)]
        {
            for (name, number) in from {
                let entry = to.entry(name.clone()).or_insert(0);
                *entry = entry.saturating_add(*number);
            }
        }
    }
    html.element("section", &[], |html| {
        html.leaf("h2", &[], "What was ingested");
        html.leaf("p", &[], &totals(&total));
        let note = "By where each record says it is from; what says nothing, as a damaged line, stands under the name of the \
                    source that it was read from.";
        html.leaf("p", &[("class", "note")], note);
        for source in input.ingested.iter().filter(|source| accounted(source) != source.read) {
            let (read, known) = (count(source.read), count(accounted(source)));
            let text =
                format!("The sums do not hold for {}: {read} read, {known} accounted for.", source.source);
            html.leaf("p", &[("class", "alarm")], &text);
        }
        html.element("p", &[("class", "legend")], |html| {
            for (class, name) in [("kept", "kept"), ("duplicate", "duplicate"), ("dead", "dead letter")] {
                html.element("span", &[], |html| {
                    html.leaf("i", &[("class", &format!("box {class}-box"))], "");
                    html.text(name);
                });
            }
        });
        let largest =
            input.ingested.iter().map(|source| source.read.max(accounted(source))).max().unwrap_or(0);
        html.element("div", &[("class", "bars")], |html| {
            input.ingested.iter().for_each(|source| outcome(html, source, largest));
        });
        html.element("div", &[("class", "pair")], |html| {
            reasons(html, "Duplicates, by what found them", &total.duplicates);
            reasons(html, "Dead letters, by reason", &total.dead_letters);
        });
    });
}

fn totals(total: &Ingested) -> String {
    let holds = if accounted(total) == total.read { "" } else { " (which does not add up)" };
    format!(
        "{} read = {} kept ({}) + {} duplicates + {} dead letters{holds}.",
        count(total.read),
        count(total.kept),
        number::bytes(total.bytes),
        count(sum(&total.duplicates)),
        count(sum(&total.dead_letters)),
    )
}

fn outcome(html: &mut Html, source: &Ingested, largest: u64) {
    let (duplicates, dead) = (sum(&source.duplicates), sum(&source.dead_letters));
    html.element("div", &[("class", "bar-row")], |html| {
        html.leaf("span", &[("class", "name")], &source.source);
        let title =
            format!("{}: {} kept, {duplicates} duplicates, {dead} dead letters", source.source, source.kept);
        stacked(html, &title, &[("kept", source.kept), ("duplicate", duplicates), ("dead", dead)], largest);
        let parts = [(duplicates, "dup."), (dead, "dead")].into_iter().filter(|(number, _)| *number > 0);
        let parts: String = parts.map(|(number, name)| format!(" + {} {name}", count(number))).collect();
        let text = format!("{} kept{parts}, {}", count(source.kept), number::bytes(source.bytes));
        html.leaf("span", &[("class", "says")], &text);
    });
}

fn reasons(html: &mut Html, title: &str, by_name: &BTreeMap<String, u64>) {
    let mut rows: Vec<(&String, &u64)> = by_name.iter().filter(|(_, number)| **number > 0).collect();
    rows.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    html.element("table", &[("class", "small")], |html| {
        html.leaf("caption", &[], title);
        html.element("tbody", &[], |html| {
            for (name, number) in &rows {
                html.element("tr", &[], |html| {
                    html.leaf("th", &[("scope", "row")], name);
                    html.leaf("td", &[], &count(**number));
                });
            }
            if rows.is_empty() {
                html.element("tr", &[], |html| html.leaf("td", &[], "none"));
            }
        });
    });
}

/// Novelty along the stream, where it was scored.
pub fn novelty(html: &mut Html, input: &Input) {
    let Some(novelty) = &input.novelty else { return };
    let value = |score: f64| score.is_finite().then_some(score);
    let mut points: Vec<(f64, Option<f64>)> =
        novelty.bins.iter().map(|bin| (bin.fraction, value(bin.score))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let measured = || points.iter().filter_map(|(place, score)| score.map(|score| (*place, score)));
    let (low, high, ticks, decimals) = scale(measured().map(|(_, score)| score), f64::INFINITY);
    let most = measured().max_by(|a, b| a.1.total_cmp(&b.1));
    let least = measured().min_by(|a, b| a.1.total_cmp(&b.1));
    html.element("section", &[], |html| {
        html.leaf("h2", &[], "Novelty along the stream");
        let text = match (most, least) {
            (Some(most), Some(least)) => format!(
                "Score: {}, mean of each part of the stream. Highest {} at {} of the stream, lowest {} at {}.",
                novelty.score,
                fixed(most.1, 2),
                percent(most.0),
                fixed(least.1, 2),
                percent(least.0)
            ),
            _ => format!("Score: {}: {UNMEASURED}.", novelty.score),
        };
        html.leaf("p", &[], &text);
        html.element("div", &[("class", "one")], |html| {
            let style = Style { colour: "#0067a5", dash: "", width: "2" };
            let title = format!("{} along the stream", novelty.score);
            let lines = vec![Line { name: "mean".into(), label: String::new(), style, points: points.clone() }];
            Panel { title, band: None, lines, low, high, ticks, decimals }.draw(html, input.slices.len());
        });
    });
}

/// What each buffer holds against what the stream held.
pub fn buffers(html: &mut Html, input: &Input) {
    if input.buffers.is_empty() {
        return;
    }
    html.element("section", &[], |html| {
        html.leaf("h2", &[], "What the replay buffer holds");
        html.element("p", &[("class", "legend")], |html| {
            for (class, name) in [
                ("held-box", "share of the buffer\u{2019}s text"),
                ("mark-box", "share of the stream\u{2019}s text"),
            ] {
                html.element("span", &[], |html| {
                    html.leaf("i", &[("class", &format!("box {class}"))], "");
                    html.text(name);
                });
            }
        });
        input.buffers.iter().for_each(|buffer| holdings(html, buffer, &input.stream));
    });
}

fn holdings(html: &mut Html, buffer: &Buffer, stream: &Holdings) {
    let total = |holdings: &Holdings| {
        let all = holdings.by_source.values();
        all.fold(Amount::default(), |sum, amount| Amount {
            records: sum.records.saturating_add(amount.records),
            bytes: sum.bytes.saturating_add(amount.bytes),
        })
    };
    let (held, all) = (total(&buffer.holds), total(stream));
    let capacity =
        buffer.capacity.as_ref().map_or_else(String::new, |capacity| format!(", capacity {capacity}"));
    let of = if all.bytes > 0 {
        format!(", {} of the stream\u{2019}s text", percent(held.bytes as f64 / all.bytes as f64))
    } else {
        String::new()
    };
    let text = format!(
        "{}: policy {}{capacity}; holds {} records, {}{of}.",
        buffer.name,
        buffer.policy,
        count(held.records),
        number::bytes(held.bytes)
    );
    html.leaf("p", &[], &text);
    html.element("div", &[("class", "pair")], |html| {
        let names = |map: &BTreeMap<String, Amount>| {
            map.iter().map(|(name, amount)| (name.clone(), amount.bytes)).collect()
        };
        shares(html, "By source", &names(&buffer.holds.by_source), &names(&stream.by_source), true);
        let decades = |map: &BTreeMap<i32, Amount>| {
            map.iter().map(|(year, amount)| (Decade(*year), amount.bytes)).collect()
        };
        shares(
            html,
            "By age: decade of the event",
            &decades(&buffer.holds.by_decade),
            &decades(&stream.by_decade),
            false,
        );
    });
}

/// A decade by its first year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Decade(i32);

impl std::fmt::Display for Decade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// Rows of `held` and `stream` amounts; the largest of the stream first where `sorted`, else by key.
fn shares<K: Ord + Clone + std::fmt::Display>(
    html: &mut Html,
    title: &str,
    held: &BTreeMap<K, u64>,
    stream: &BTreeMap<K, u64>,
    sorted: bool,
) {
    let of = |map: &BTreeMap<K, u64>, key: &K| {
        let all: u64 = map.values().fold(0, |sum, bytes| sum.saturating_add(*bytes));
        map.get(key).map_or(0.0, |bytes| *bytes as f64 / all.max(1) as f64)
    };
    let keys: std::collections::BTreeSet<&K> = held.keys().chain(stream.keys()).collect();
    let mut rows: Vec<(&K, f64, f64)> =
        keys.into_iter().map(|key| (key, of(held, key), of(stream, key))).collect();
    if sorted {
        rows.sort_by(|a, b| b.2.total_cmp(&a.2).then_with(|| a.0.cmp(b.0)));
    }
    let whole = rows.iter().map(|row| row.1.max(row.2)).fold(0.0, f64::max);
    html.element("div", &[], |html| {
        html.leaf("h3", &[], title);
        html.element("div", &[("class", "bars narrow")], |html| {
            for (key, held, stream) in &rows {
                html.element("div", &[("class", "bar-row")], |html| {
                    html.leaf("span", &[("class", "name")], &key.to_string());
                    let says = format!("{} (stream {})", percent_fine(*held), percent_fine(*stream));
                    bullet(html, &format!("{key}: {says}"), *held, *stream, whole);
                    html.leaf("span", &[("class", "says")], &says);
                });
            }
        });
        let apart = |row: &&(&K, f64, f64)| (row.1 - row.2).abs();
        if let Some(far) =
            rows.iter().max_by(|a, b| apart(a).total_cmp(&apart(b))).filter(|row| apart(row) >= 0.01)
        {
            let text = format!(
                "Furthest from the stream: {}, {} of the buffer against {} of the stream.",
                far.0,
                percent_fine(far.1),
                percent_fine(far.2)
            );
            html.leaf("p", &[("class", "note")], &text);
        }
    });
}

/// How the runs were made, and the figures that the first table leaves out.
pub fn runs(html: &mut Html, page: &Page<'_>) {
    const HEADS: [&str; 12] = [
        "run",
        "replayed",
        "tokens",
        "evaluations",
        "tokens/s",
        "waiting for data",
        "median",
        "Latin median",
        "forgetting, against floor",
        "forgetting, clipped",
        "backward transfer",
        "forward transfer",
    ];
    if page.summary.arms.is_empty() {
        return;
    }
    html.element("section", &[], |html| {
        html.leaf("h2", &[], "The runs");
        html.element("table", &[("class", "cards")], |html| {
            html.leaf(
                "caption",
                &[],
                "How each run went, and the remaining figures in bits per byte. In brackets: 95 % intervals.",
            );
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    HEADS.iter().for_each(|head| html.leaf("th", &[("scope", "col")], head));
                });
            });
            html.element("tbody", &[], |html| {
                for (arm, label) in page.summary.arms.iter().zip(&page.labels) {
                    html.element("tr", &[], |html| {
                        html.leaf("th", &[("scope", "row")], label);
                        for (head, (value, interval)) in HEADS.iter().skip(1).zip(facts(page, arm)) {
                            cell(html, head, &value, interval.as_deref());
                        }
                    });
                }
            });
        });
    });
}

fn facts(page: &Page<'_>, arm: &Arm) -> [(String, Option<String>); 11] {
    let unmeasured = || UNMEASURED.to_owned();
    let runs = || arm.runs.iter().filter_map(|index| page.input.runs.get(*index));
    let mean = |of: fn(&Run) -> Option<f64>| {
        let values: Option<Vec<f64>> = runs().map(of).collect();
        values
            .filter(|values| !values.is_empty())
            .map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    let level = |metric| figure(arm.get(metric), |value| fixed(value, 2));
    let change = |of| figure(of, |value| signed(value, 2));
    let timed = |metric| match arm.kind {
        Kind::Ceiling => (INAPPLICABLE.to_owned(), None),
        _ => change(arm.get(metric)),
    };
    let against = match arm.kind {
        Kind::Floor => ("\u{2013}".to_owned(), None),
        _ => change(arm.forgetting_against_floor),
    };
    let tokens = mean(|run| run.points.last().map(|point| point.tokens as f64));
    let evaluations = runs().map(|run| run.points.len()).max().unwrap_or(0);
    [
        (percent(arm.replay), None),
        (tokens.map_or_else(unmeasured, number::large), None),
        (evaluations.to_string(), None),
        (mean(|run| run.tokens_per_second).map_or_else(unmeasured, number::large), None),
        (mean(|run| run.data_wait).map_or_else(unmeasured, percent), None),
        level(Metric::Median),
        level(Metric::LatinMedian),
        against,
        level(Metric::ForgettingClipped),
        timed(Metric::BackwardTransfer),
        timed(Metric::ForwardTransfer),
    ]
}

/// What to keep in mind, the settings, and what the words mean.
pub fn notes(html: &mut Html, page: &Page<'_>) {
    html.element("section", &[], |html| {
        html.leaf("h2", &[], "What to keep in mind");
        html.element("ul", &[], |html| {
            for caveat in words::caveats(page.input, page.summary) {
                html.leaf("li", &[], &caveat);
            }
        });
    });
    let parameters =
        page.input.parameters.map(|number| ("parameters".to_owned(), number::large(number as f64)));
    let settings = page.input.settings.iter().map(|setting| (setting.name.clone(), setting.value.clone()));
    let settings: Vec<(String, String)> = parameters.into_iter().chain(settings).collect();
    if !settings.is_empty() {
        html.element("section", &[], |html| {
            html.leaf("h2", &[], "Settings");
            html.element("dl", &[("class", "settings")], |html| {
                for (name, value) in &settings {
                    html.element("div", &[], |html| {
                        html.leaf("dt", &[], name);
                        html.leaf("dd", &[], value);
                    });
                }
            });
        });
    }
    html.element("section", &[], |html| {
        html.leaf("h2", &[], "What the words mean");
        html.element("dl", &[("class", "words")], |html| {
            for (name, text) in words::DEFINITIONS {
                html.leaf("dt", &[], name);
                html.leaf("dd", &[], text);
            }
        });
    });
}
