//! The final weights of runs other than the last ones: averages, and the ways from the start to them.

use maud::{Markup, html};
use perennial_report::number::{UNMEASURED, fixed, signed};
use perennial_report::table::{Cell, Row, table};

use super::page::Page;
use crate::evaluate::metrics::{Measures, Metric, measure};

const NOTE: &str = "average-STEPS is an exponential average of the weights along the run, over that many steps; with \
                    @SHARE it is the point at that share of the way from the weights that the run started from to the \
                    average. Bits per byte, lower is better; forgetting is against the best value of the run\u{2019}s \
                    own weights. Compare averages with averages.";

/// One row per run and kind of weights; nothing where no run has any.
#[must_use]
pub fn section(page: &Page<'_>) -> Markup {
    let summary = page.summary;
    let mut rows = Vec::new();
    for (entry, index) in
        page.entries.iter().flat_map(|entry| entry.group.runs.iter().map(move |run| (entry, *run)))
    {
        let (Some(matrix), Some(others)) = (summary.matrices.get(index), summary.final_weights.get(index))
        else {
            continue;
        };
        if others.is_empty() {
            continue;
        }
        let name = page.run_name(entry, index);
        let own = measure(matrix, &summary.counted, None);
        rows.push(Row { name: html! { (name) }, cells: cells("the last", &own, None) });
        for other in others {
            rows.push(Row {
                name: html! { (name) },
                cells: cells(&other.weights, &other.measures, Some(&own)),
            });
        }
    }
    html! {
        @if !rows.is_empty() {
            section { h2 { "Averages of the weights" } p.note { (NOTE) } (table("inline", "", "run", &rows)) }
        }
    }
}

fn cells(weights: &str, measures: &Measures, own: Option<&Measures>) -> Vec<(&'static str, Cell)> {
    let text = |value: Option<f64>, text: fn(f64, usize) -> String, decimals| -> Cell {
        value.map_or(UNMEASURED.into(), |value| text(value, decimals).into())
    };
    let against = own.map_or("\u{2013}".into(), |own| {
        let both = measures.get(Metric::Mean).zip(own.get(Metric::Mean));
        text(both.map(|(value, own)| value - own), signed, 3)
    });
    vec![
        ("weights", weights.into()),
        ("final mean", text(measures.get(Metric::Mean), fixed, 3)),
        ("against the last", against),
        ("Latin mean", text(measures.get(Metric::LatinMean), fixed, 3)),
        ("forgetting", text(measures.get(Metric::Forgetting), signed, 2)),
    ]
}
