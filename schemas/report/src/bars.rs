//! Rows of a name, a track of marks and what the marks say: bars, bars beside a reference, intervals.

use maud::{Markup, html};

use crate::ink::Ink;
use crate::number::fixed;

/// A short piece of a line, for legends and names.
#[must_use]
pub fn swatch(ink: Ink) -> Markup {
    html! {
        svg.swatch viewBox="0 0 44 16" aria-hidden="true" {
            line class={ "stroke " (ink.classes()) } x1="0" x2="44" y1="8" y2="8" stroke-width="5" {}
        }
    }
}

/// A legend: a mark and its meaning each.
#[must_use]
pub fn legend(entries: &[(Markup, &str)]) -> Markup {
    html! { p.legend { @for (mark, meaning) in entries { span { (mark) (meaning) } } } }
}

/// A filled box of a colour of the style sheet, for legends.
#[must_use]
pub fn swatch_box(class: &str) -> Markup {
    html! { i class={ "box " (class) } {} }
}

/// A rectangle on a track, of a colour class of the style sheet.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    class: String,
    /// Share of the track's width where it begins, and how much of it it covers.
    x: f64,
    width: f64,
    /// The same of the track's height.
    y: f64,
    height: f64,
}

/// Width of a tick, as a share of the track.
const TICK: f64 = 0.01;

impl Mark {
    /// A bar between two shares of the track's width.
    #[must_use]
    pub fn bar(class: &str, from: f64, to: f64) -> Self {
        Self::new(class, from, to, 0.8)
    }

    /// A thin line between two shares of the track's width.
    #[must_use]
    pub fn whisker(class: &str, from: f64, to: f64) -> Self {
        Self::new(class, from, to, 0.2)
    }

    /// A tick over the whole height.
    #[must_use]
    pub fn tick(class: &str, at: f64) -> Self {
        let from = (at - TICK / 2.0).clamp(0.0, 1.0 - TICK);
        Self::new(class, from, from + TICK, 1.0)
    }

    fn new(class: &str, from: f64, to: f64, height: f64) -> Self {
        let x = from.clamp(0.0, 1.0);
        let width = to.clamp(x, 1.0) - x;
        Self { class: class.to_owned(), x, width, y: (1.0 - height) / 2.0, height }
    }
}

/// Bars laid end to end, `whole` of them filling the track. A part that is not zero is always visible.
#[must_use]
pub fn stacked(parts: &[(&str, u64)], whole: u64) -> Vec<Mark> {
    let mut end = 0.0;
    let mut mark = |(class, amount): &(&str, u64)| {
        let begin = end;
        end += (*amount as f64 / whole.max(1) as f64).max(0.004).min(1.0 - begin);
        Mark::bar(class, begin, end)
    };
    parts.iter().filter(|(_, amount)| *amount > 0).map(&mut mark).collect()
}

/// A row: what it is of, its marks, and what they say in words.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is of.
    pub name: Markup,
    /// Its marks, later ones above earlier ones.
    pub marks: Vec<Mark>,
    /// What they say.
    pub says: String,
}

/// Rows below each other; `class` may be empty or `narrow`, for half of the page's width.
#[must_use]
pub fn rows(class: &str, rows: &[Row]) -> Markup {
    let place = |share: f64, whole: f64| fixed(share * whole, 1);
    html! {
        div class={ "bars " (class) } {
            @for row in rows {
                div.bar-row {
                    span.name { (row.name) }
                    svg.track viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(row.says) {
                        @for mark in &row.marks {
                            rect class={ "fill " (mark.class) } x=(place(mark.x, 1000.0)) y=(place(mark.y, 10.0))
                                width=(place(mark.width, 1000.0)) height=(place(mark.height, 10.0)) {}
                        }
                    }
                    span.says { (row.says) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(marks: Vec<Mark>) -> String {
        rows("", &[Row { name: html! { "a" }, marks, says: "b".into() }]).into_string()
    }

    #[test]
    fn bar_shows_every_part_that_is_not_zero() {
        let svg = drawn(stacked(&[("kept", 9_999), ("duplicate", 0), ("dead", 1)], 10_000));
        assert!(
            svg.contains("class=\"fill kept\" x=\"0.0\" y=\"1.0\" width=\"999.9\" height=\"8.0\""),
            "{svg}"
        );
        assert!(svg.contains("fill dead") && !svg.contains("fill duplicate"));
        let svg = drawn(stacked(&[("kept", 1), ("dead", 999)], 1_000));
        assert!(svg.contains("x=\"4.0\" y=\"1.0\" width=\"996.0\""), "{svg}");
    }

    #[test]
    fn marks_stay_on_their_track() {
        for mark in [
            Mark::tick("a", -3.0),
            Mark::tick("a", 2.0),
            Mark::whisker("a", 0.9, 7.0),
            Mark::bar("a", 0.5, 0.1),
        ] {
            assert!(mark.x >= 0.0 && mark.width >= 0.0 && mark.x + mark.width <= 1.0 + 1e-12, "{mark:?}");
        }
    }
}
