//! The weights that runs left beside the last ones: averages, and the ways from the start to them.

use super::html::Html;
use super::number::{UNMEASURED, fixed, signed};
use super::page::Page;
use super::sections::cell;
use crate::evaluate::metrics::{Measures, Metric, measure};

const HEADS: [&str; 6] = ["run", "weights", "final mean", "against the last", "Latin mean", "forgetting"];

/// One row per run and kind of weights; nothing where no run left any.
pub fn left(html: &mut Html, page: &Page<'_>) {
    let summary = page.summary;
    if summary.left.iter().all(Vec::is_empty) {
        return;
    }
    html.element("section", &[], |html| {
        html.leaf("h2", &[], "Averages of the weights");
        let note = "average-STEPS is an exponential average of the weights along the run, over that many steps; where \
                    @SHARE follows, the point at that share of the way to it from the weights that the run started \
                    from. Bits per byte, lower is better; forgetting is against the best that the run\u{2019}s own \
                    weights had been. Compare averages with averages.";
        html.leaf("p", &[("class", "note")], note);
        html.element("table", &[("class", "cards inline")], |html| {
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    HEADS.iter().for_each(|head| html.leaf("th", &[("scope", "col")], head));
                });
            });
            html.element("tbody", &[], |html| {
                for (arm, label) in summary.arms.iter().zip(&page.labels) {
                    for index in &arm.runs {
                        run(html, page, *index, label, arm.runs.len() > 1);
                    }
                }
            });
        });
    });
}

fn run(html: &mut Html, page: &Page<'_>, index: usize, label: &str, several: bool) {
    let summary = page.summary;
    let (Some(run), Some(matrix), Some(left)) =
        (page.input.runs.get(index), summary.matrices.get(index), summary.left.get(index))
    else {
        return;
    };
    if left.is_empty() {
        return;
    }
    let label = if several { format!("{label}, seed {}", run.seed) } else { label.to_owned() };
    let own = measure(matrix, &summary.counted, None);
    row(html, &label, "the last", &own, None);
    for left in left {
        row(html, &label, &left.weights, &left.measures, Some(&own));
    }
}

fn row(html: &mut Html, label: &str, weights: &str, measures: &Measures, own: Option<&Measures>) {
    let said =
        |value: Option<f64>, text: &dyn Fn(f64) -> String| value.map_or_else(|| UNMEASURED.to_owned(), text);
    let level = |metric| said(measures.get(metric), &|value| fixed(value, 3));
    let against = match own {
        None => "\u{2013}".to_owned(),
        Some(own) => {
            let change = measures.get(Metric::Mean).zip(own.get(Metric::Mean));
            said(change.map(|(value, own)| value - own), &|value| signed(value, 3))
        }
    };
    let forgetting = said(measures.get(Metric::Forgetting), &|value| signed(value, 2));
    let cells = [weights.to_owned(), level(Metric::Mean), against, level(Metric::LatinMean), forgetting];
    html.element("tr", &[], |html| {
        html.leaf("th", &[("scope", "row")], label);
        for (head, value) in HEADS.iter().skip(1).zip(cells) {
            cell(html, head, &value, None);
        }
    });
}
