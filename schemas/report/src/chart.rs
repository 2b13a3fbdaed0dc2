//! Line charts over a share of something, drawn by plotters and coloured by the style sheet.

use std::ops::Range;

use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::ink::Ink;
use crate::number::{UNMEASURED, fixed, percent, short};

// In units of the drawing, which the page shows at about half its size.
const WIDTH: u32 = 700;
const HEIGHT: u32 = 400;
const TOP: i32 = 18;
const AXIS_LEFT: i32 = 58;
const AXIS_BOTTOM: i32 = 40;
const LABELS_RIGHT: i32 = 170;
const FONT: (&str, i32) = ("sans-serif", 28);
/// Most numbers on an axis.
const TICKS: usize = 6;
const LABEL_LENGTH: usize = 13;
const LABEL_GAP: i32 = 25;
/// Values are kept within this distance from zero: beyond it a scale loses its digits.
const LARGEST: f64 = 1e12;

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is of.
    pub name: String,
    /// Whether its name stands at its end.
    pub labelled: bool,
    /// Its look.
    pub ink: Ink,
    /// Ascending places, 0 to 1, and the values there, where measured.
    pub points: Vec<(f64, Option<f64>)>,
}

/// Lines over a share, 0 to 1.
#[derive(Debug, Clone)]
pub struct LineChart {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// A shaded stretch.
    pub band: Option<(f64, f64)>,
    /// The lines.
    pub lines: Vec<Line>,
    /// The values from bottom to top, as [`scale`] gives them. Larger values are drawn at the top, as triangles.
    pub scale: Range<f64>,
}

/// A scale that holds the finite ones of `values` up to `cut`, with some room around them.
#[must_use]
pub fn scale(values: impl Iterator<Item = f64>, cut: f64) -> Range<f64> {
    let finite =
        values.filter(|value| value.is_finite()).map(|value| value.clamp(-LARGEST, LARGEST).min(cut));
    let (low, high) = finite
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let room = (0.05 * (high - low)).max(1e-3 * high.abs()).max(1e-6);
    low - room..(high + room).min(cut.max(low + room))
}

impl LineChart {
    /// The chart, and its values in words below it.
    #[must_use]
    pub fn draw(&self) -> Markup {
        let lines = self.lines.iter().filter(|line| !line.points.is_empty());
        html! {
            div.plot role="img" aria-label=(self.title) { (PreEscaped(self.svg())) }
            details {
                summary { "Values" }
                dl.values {
                    @for line in lines {
                        dt { (line.name) }
                        dd {
                            @for (place, value) in &line.points {
                                @let value = value.map_or_else(|| UNMEASURED.to_owned(), |value| fixed(value, 2));
                                span { (value) " at " (percent(*place)) } " "
                            }
                        }
                    }
                }
            }
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "the canvas is larger than its margins, and writing to a string cannot fail"
    )]
    fn svg(&self) -> String {
        let mut svg = String::new();
        self.draw_on(SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT))).expect("a drawing in memory");
        Ink::into_classes(&svg)
    }

    fn draw_on<B: DrawingBackend>(&self, backend: B) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let root = backend.into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_top(TOP)
            .margin_right(LABELS_RIGHT)
            .x_label_area_size(AXIS_BOTTOM)
            .y_label_area_size(AXIS_LEFT)
            .build_cartesian_2d(0.0..1.0, self.scale.clone())?;
        let Range { start: low, end: high } = self.scale;
        if let Some((from, to)) = self.band {
            // A stretch that is a single place is still visible.
            let from = from.clamp(0.0, 0.99);
            let corners = [(from, low), (to.clamp(from + 0.01, 1.0), high)];
            chart.plotting_area().draw(&Rectangle::new(corners, Ink::BAND.stand_in().filled()))?;
        }
        // Enough to tell ticks apart: a step is at least a seventh of the scale.
        let decimals = (-((high - low) / 3.5).log10()).ceil().clamp(0.0, 6.0) as usize;
        chart
            .configure_mesh()
            .axis_style(TRANSPARENT)
            .disable_x_mesh()
            .max_light_lines(1)
            .light_line_style(TRANSPARENT)
            .bold_line_style(Ink::GRID.stand_in().stroke_width(2))
            .label_style(FONT.into_font().color(&Ink::TEXT.stand_in()))
            .x_labels(TICKS)
            .x_label_formatter(&|share| percent(*share))
            .y_labels(TICKS)
            .y_label_formatter(&|value| fixed(*value, decimals))
            .draw()?;
        for line in &self.lines {
            let colour = line.ink.stand_in();
            for stretch in line.stretches() {
                let path: Vec<_> = stretch.iter().map(|(place, value)| (*place, value.min(high))).collect();
                for (point, (_, value)) in path.iter().zip(&stretch) {
                    if *value > high {
                        chart.plotting_area().draw(&TriangleMarker::new(*point, 11, colour.filled()))?;
                    } else {
                        chart.plotting_area().draw(&Circle::new(*point, 4, colour.filled()))?;
                    }
                }
                chart.plotting_area().draw(&PathElement::new(path, colour.stroke_width(4)))?;
            }
        }
        let style = |ink: Ink, h_pos| {
            FONT.into_font().color(&ink.stand_in()).pos(Pos::new(h_pos, VPos::Center)).into_text_style(&root)
        };
        let end = |line: &Line| Some((1.0, line.stretches().last()?.last()?.1.min(high)));
        let named = self.lines.iter().filter(|line| line.labelled);
        let mut labels: Vec<_> =
            named.filter_map(|line| Some((chart.backend_coord(&end(line)?), line))).collect();
        labels.sort_by_key(|((_, y), _)| *y);
        let places: Vec<i32> = labels.iter().map(|((_, y), _)| *y).collect();
        let places = spread(&places, LABEL_GAP, TOP, HEIGHT as i32 - AXIS_BOTTOM);
        for (((x, _), line), y) in labels.iter().zip(places) {
            root.draw(&Text::new(short(&line.name, LABEL_LENGTH), (x + 14, y), style(line.ink, HPos::Left)))?;
        }
        if self.lines.iter().all(|line| line.stretches().is_empty()) {
            let middle = chart.backend_coord(&(0.5, (low + high) / 2.0));
            root.draw(&Text::new(UNMEASURED, middle, style(Ink::TEXT, HPos::Center)))?;
        }
        root.present()
    }
}

impl Line {
    /// The stretches between places where it was not measured.
    fn stretches(&self) -> Vec<Vec<(f64, f64)>> {
        let finite = |value: &f64| value.is_finite();
        let place = |(place, value): &(f64, Option<f64>)| {
            Some((place.clamp(0.0, 1.0), value.filter(finite)?.clamp(-LARGEST, LARGEST)))
        };
        let split = self.points.split(|point| place(point).is_none());
        split
            .map(|part| part.iter().filter_map(place).collect())
            .filter(|part: &Vec<_>| !part.is_empty())
            .collect()
    }
}

/// Ascending places moved as little as needed to lie `gap` apart between `low` and `high`; where there is
/// no room for all, `high` gives way.
fn spread(places: &[i32], gap: i32, low: i32, high: i32) -> Vec<i32> {
    let mut result = places.to_vec();
    let mut limit = high;
    for place in result.iter_mut().rev() {
        *place = (*place).min(limit);
        limit = *place - gap;
    }
    let mut limit = low;
    for place in &mut result {
        *place = (*place).max(limit);
        limit = *place + gap;
    }
    result
}

#[cfg(test)]
mod tests;
