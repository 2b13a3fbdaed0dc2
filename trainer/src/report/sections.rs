//! The parts of the page below the figures: what was read, how novel it was, what the buffers hold, how
//! the runs were made, and what the terms mean.

use std::collections::BTreeMap;

use maud::{Markup, html};
use perennial_report::bars::{self, Mark, legend, stacked, swatch_box};
use perennial_report::chart::{Line, LineChart, scale};
use perennial_report::ink::Ink;
use perennial_report::number::{INAPPLICABLE, UNMEASURED, bytes, count, fixed, large, percent, signed};
use perennial_report::table::{Cell, Row, table, tally};

use super::input::{Amount, Buffer, Holdings, Ingested, Input, Kind, Novelty, Run};
use super::page::{Entry, Page, estimate};
use super::words;
use crate::evaluate::metrics::Metric;

fn sum(map: &BTreeMap<String, u64>) -> u64 {
    map.values().sum()
}

fn accounted(source: &Ingested) -> u64 {
    source.kept + sum(&source.duplicates) + sum(&source.dead_letters)
}

fn total(sources: &[Ingested]) -> Ingested {
    let mut total = Ingested::default();
    for source in sources {
        total.read += source.read;
        total.kept += source.kept;
        total.bytes += source.bytes;
        for (name, number) in &source.duplicates {
            *total.duplicates.entry(name.clone()).or_default() += number;
        }
        for (name, number) in &source.dead_letters {
            *total.dead_letters.entry(name.clone()).or_default() += number;
        }
    }
    total
}

/// What became of what was read.
#[must_use]
pub fn ingested(input: &Input) -> Markup {
    let total = total(&input.ingested);
    let largest = input.ingested.iter().map(|source| source.read.max(accounted(source))).max().unwrap_or(0);
    let row = |source: &Ingested| {
        let (duplicates, dead) = (sum(&source.duplicates), sum(&source.dead_letters));
        let part =
            |number, name| if number > 0 { format!(" + {} {name}", count(number)) } else { String::new() };
        let says = format!(
            "{} kept{}{}, {}",
            count(source.kept),
            part(duplicates, "dup."),
            part(dead, "dead"),
            bytes(source.bytes)
        );
        let parts = [("kept", source.kept), ("duplicate", duplicates), ("dead", dead)];
        bars::Row { name: html! { (source.source) }, marks: stacked(&parts, largest), says }
    };
    let colours = [("kept", "kept"), ("duplicate", "duplicate"), ("dead", "dead letter")];
    html! {
        @if !input.ingested.is_empty() {
            section {
                h2 { "What was ingested" }
                p {
                    (count(total.read)) " read = " (count(total.kept)) " kept (" (bytes(total.bytes)) ") + "
                    (count(sum(&total.duplicates))) " duplicates + " (count(sum(&total.dead_letters))) " dead letters"
                    @if accounted(&total) != total.read { " (which does not add up)" } "."
                }
                p.note {
                    "By the origin that each record names. A record without one, such as a damaged line, counts for the \
                     source that it was read from."
                }
                @for source in input.ingested.iter().filter(|source| accounted(source) != source.read) {
                    p.alarm {
                        "The sums do not hold for " (source.source) ": " (count(source.read)) " read, "
                        (count(accounted(source))) " accounted for."
                    }
                }
                (legend(&colours.map(|(class, meaning)| (swatch_box(class), meaning))))
                (bars::rows("", &input.ingested.iter().map(row).collect::<Vec<_>>()))
                div.pair {
                    (tally("Duplicates, by match kind", &by_number(&total.duplicates)))
                    (tally("Dead letters, by reason", &by_number(&total.dead_letters)))
                }
            }
        }
    }
}

fn by_number(map: &BTreeMap<String, u64>) -> Vec<(String, String)> {
    let mut rows: Vec<(&String, &u64)> = map.iter().filter(|(_, number)| **number > 0).collect();
    rows.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    rows.into_iter().map(|(name, number)| (name.clone(), count(*number))).collect()
}

/// Novelty along the stream, where it was scored.
#[must_use]
pub fn novelty(input: &Input) -> Markup {
    html! {
        @if let Some(novelty) = &input.novelty {
            section {
                h2 { "Novelty along the stream" }
                (novelty_chart(novelty))
            }
        }
    }
}

fn novelty_chart(novelty: &Novelty) -> Markup {
    let value = |score: f64| score.is_finite().then_some(score);
    let mut points: Vec<(f64, Option<f64>)> =
        novelty.bins.iter().map(|bin| (bin.fraction, value(bin.score))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let measured = || points.iter().filter_map(|(place, score)| score.map(|score| (*place, score)));
    let most = measured().max_by(|a, b| a.1.total_cmp(&b.1));
    let least = measured().min_by(|a, b| a.1.total_cmp(&b.1));
    let scale = scale(measured().map(|(_, score)| score), f64::INFINITY);
    let line = Line { name: "mean".into(), labelled: false, ink: Ink::series(0), points: points.clone() };
    let title = format!("{} along the stream", novelty.score);
    html! {
        p {
            "Score: " (novelty.score)
            @if let (Some(most), Some(least)) = (most, least) {
                ", mean of each part of the stream. Highest " (fixed(most.1, 2)) " at " (percent(most.0))
                " of the stream, lowest " (fixed(least.1, 2)) " at " (percent(least.0)) "."
            } @else { ": " (UNMEASURED) "." }
        }
        div.single { (LineChart { title, band: None, lines: vec![line], scale }.draw()) }
    }
}

/// What each buffer holds against what the stream held.
#[must_use]
pub fn buffers(input: &Input) -> Markup {
    let meanings = [
        (swatch_box("kept"), "share of the buffer\u{2019}s text"),
        (swatch_box("mark"), "share of the stream\u{2019}s text"),
    ];
    html! {
        @if !input.buffers.is_empty() {
            section {
                h2 { "What the replay buffer holds" }
                (legend(&meanings))
                @for buffer in &input.buffers { (holdings(buffer, &input.stream)) }
            }
        }
    }
}

fn holdings(buffer: &Buffer, stream: &Holdings) -> Markup {
    let total =
        |holdings: &Holdings, part: fn(&Amount) -> u64| holdings.by_source.values().map(part).sum::<u64>();
    let (held, all) = (total(&buffer.holds, |amount| amount.bytes), total(stream, |amount| amount.bytes));
    let decades =
        |holdings: &Holdings| holdings.by_decade.iter().map(|(year, amount)| (*year, amount.bytes)).collect();
    let sources = |holdings: &Holdings| {
        holdings.by_source.iter().map(|(name, amount)| (name.clone(), amount.bytes)).collect()
    };
    let decades = shares(&decades(&buffer.holds), &decades(stream), |year| format!("{year}s"));
    let mut sources = shares(&sources(&buffer.holds), &sources(stream), String::clone);
    sources.sort_by(|a, b| b.stream.total_cmp(&a.stream));
    html! {
        p {
            (buffer.name) ": policy " (buffer.policy)
            @if let Some(capacity) = &buffer.capacity { ", capacity " (capacity) }
            "; holds " (count(total(&buffer.holds, |amount| amount.records))) " records, " (bytes(held))
            @if all > 0 { ", " (percent(held as f64 / all as f64)) " of the stream\u{2019}s text" } "."
        }
        div.pair {
            div { h3 { "By source" } (share_rows(&sources)) }
            div { h3 { "By age: decade of the event" } (share_rows(&decades)) }
        }
    }
}

/// Shares of the buffer's and of the stream's text, 0 to 1.
struct Share {
    name: String,
    held: f64,
    stream: f64,
}

fn shares<K: Ord>(held: &BTreeMap<K, u64>, stream: &BTreeMap<K, u64>, name: fn(&K) -> String) -> Vec<Share> {
    let share = |map: &BTreeMap<K, u64>, key: &K| {
        let all: u64 = map.values().sum();
        map.get(key).map_or(0.0, |bytes| *bytes as f64 / all.max(1) as f64)
    };
    let keys: std::collections::BTreeSet<&K> = held.keys().chain(stream.keys()).collect();
    keys.into_iter()
        .map(|key| Share { name: name(key), held: share(held, key), stream: share(stream, key) })
        .collect()
}

fn share_rows(shares: &[Share]) -> Markup {
    let whole = shares.iter().map(|share| share.held.max(share.stream)).fold(f64::MIN_POSITIVE, f64::max);
    let row = |share: &Share| bars::Row {
        name: html! { (share.name) },
        marks: vec![Mark::bar("kept", 0.0, share.held / whole), Mark::tick("mark", share.stream / whole)],
        says: format!("{} (stream {})", percent(share.held), percent(share.stream)),
    };
    let apart = |share: &&Share| (share.held - share.stream).abs();
    let furthest =
        shares.iter().max_by(|a, b| apart(a).total_cmp(&apart(b))).filter(|share| apart(share) >= 0.01);
    html! {
        (bars::rows("narrow", &shares.iter().map(row).collect::<Vec<_>>()))
        @if let Some(share) = furthest {
            p.note {
                "Furthest from the stream: " (share.name) ", " (percent(share.held)) " of the buffer against "
                (percent(share.stream)) " of the stream."
            }
        }
    }
}

/// How the runs were made, and the figures that the main table leaves out.
#[must_use]
pub fn runs(page: &Page<'_>) -> Markup {
    let caption =
        "How each run went, and the remaining figures in bits per byte. In brackets: 95 % intervals.";
    let row = |entry: &Entry<'_>| Row { name: html! { (entry.label) }, cells: facts(page, entry) };
    let rows: Vec<Row<'_>> = page.entries.iter().map(row).collect();
    html! { @if !rows.is_empty() { section { h2 { "The runs" } (table("", caption, "run", &rows)) } } }
}

fn facts(page: &Page<'_>, entry: &Entry<'_>) -> Vec<(&'static str, Cell)> {
    let group = entry.group;
    let runs = || group.runs.iter().filter_map(|index| page.input.runs.get(*index));
    let mean = |value: fn(&Run) -> Option<f64>, text: fn(f64) -> String| -> Cell {
        let values: Vec<f64> = runs().map(value).collect::<Option<_>>().unwrap_or_default();
        match values.len() {
            0 => UNMEASURED.into(),
            runs => text(values.iter().sum::<f64>() / runs as f64).into(),
        }
    };
    let level = |metric| estimate(group.get(metric), |value| fixed(value, 2));
    let transfer = |metric| match group.kind {
        Kind::Ceiling => INAPPLICABLE.into(),
        _ => estimate(group.get(metric), |value| signed(value, 2)),
    };
    let against = match group.kind {
        Kind::Floor => "\u{2013}".into(),
        _ => estimate(group.forgetting_against_floor, |value| signed(value, 2)),
    };
    let evaluations = runs().map(|run| run.points.len()).max().unwrap_or(0);
    vec![
        ("replayed", percent(group.replay).into()),
        ("tokens", mean(|run| run.points.last().map(|point| point.tokens as f64), large)),
        ("evaluations", evaluations.to_string().into()),
        ("tokens/s", mean(|run| run.tokens_per_second, large)),
        ("waiting for data", mean(|run| run.data_wait, percent)),
        ("median", level(Metric::Median)),
        ("Latin median", level(Metric::LatinMedian)),
        ("forgetting, against floor", against),
        ("forgetting, clipped", level(Metric::ForgettingClipped)),
        ("backward transfer", transfer(Metric::BackwardTransfer)),
        ("forward transfer", transfer(Metric::ForwardTransfer)),
    ]
}

/// What to keep in mind, the settings, and what the terms mean.
#[must_use]
pub fn notes(page: &Page<'_>) -> Markup {
    let parameters = page.input.parameters.map(|number| ("parameters", large(number as f64)));
    let settings = page.input.settings.iter().map(|setting| (setting.name.as_str(), setting.value.clone()));
    let settings: Vec<_> = parameters.into_iter().chain(settings).collect();
    html! {
        section {
            h2 { "What to keep in mind" }
            (words::caveats(page.input, page.summary))
        }
        @if !settings.is_empty() {
            section {
                h2 { "Settings" }
                dl.settings { @for (name, value) in &settings { div { dt { (name) } dd { (value) } } } }
            }
        }
        section {
            h2 { "What the terms mean" }
            dl.terms { @for (name, text) in words::terms() { dt { (name) } dd { (text) } } }
        }
    }
}
