//! Pictures as inline SVG. Text in them is kept to what must stand at its place: all else is HTML, which
//! stays readable when the picture shrinks.

use super::html::Html;
use super::number::{fixed, percent, short};
use crate::evaluate::metrics::Arm;
use crate::report::input::Kind;

/// Bits per byte above which lines are cut: a byte model that knows nothing of a text is at 8.
pub const CUT: f64 = 8.0;

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 26.0;
const RIGHT: f64 = 84.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 22.0;

/// How an arm looks, everywhere alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Style {
    /// A colour that the colour-blind tell from the others (Okabe, Ito 2008), dark enough for text.
    pub colour: &'static str,
    /// SVG's `stroke-dasharray`; empty is a full line.
    pub dash: &'static str,
    /// Width of the line.
    pub width: &'static str,
}

/// One style per arm: red the floor, dashed grey the ceiling; methods in their order.
#[must_use]
pub fn styles(arms: &[Arm]) -> Vec<Style> {
    const METHODS: [&str; 5] = ["#0067a5", "#00805e", "#9a5a8a", "#8a6d00", "#2a86b8"];
    const DASHES: [&str; 3] = ["", "7 2", "2 2"];
    let mut seen = [0_usize; 3];
    let style = |arm: &Arm| {
        let index = seen.get_mut(arm.kind as usize).map_or(0, |seen| {
            *seen += 1;
            *seen - 1
        });
        let round = |index: usize| DASHES.get(index % DASHES.len()).copied().unwrap_or_default();
        match arm.kind {
            Kind::Floor => Style { colour: "#c8500a", dash: round(index), width: "2" },
            Kind::Ceiling => Style { colour: "#555555", dash: "4 3", width: "1.6" },
            Kind::Method => Style {
                colour: METHODS.get(index % METHODS.len()).copied().unwrap_or("#000000"),
                dash: round(index / METHODS.len()),
                width: "2",
            },
        }
    };
    arms.iter().map(style).collect()
}

/// One line of a panel.
#[derive(Debug, Clone)]
pub struct Line {
    /// Whose it is.
    pub name: String,
    /// Written at its end; empty for none.
    pub label: String,
    /// Its look.
    pub style: Style,
    /// Ascending places of the stream, 0 to 1, and the values there, where measured.
    pub points: Vec<(f64, Option<f64>)>,
}

/// Lines over the stream.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// A shaded stretch of the stream.
    pub band: Option<(f64, f64)>,
    /// The lines.
    pub lines: Vec<Line>,
    /// The value at the bottom.
    pub low: f64,
    /// The value at the top; larger ones are cut.
    pub high: f64,
    /// Values with a line and a number.
    pub ticks: Vec<f64>,
    /// Decimals of those numbers.
    pub decimals: usize,
}

/// A scale for `values`: low, high and ticks in between, `high` at most `cut`.
#[must_use]
pub fn scale(values: impl Iterator<Item = f64>, cut: f64) -> (f64, f64, Vec<f64>, usize) {
    let finite = values.filter(|value| value.is_finite()).map(|value| value.min(cut));
    let (low, high) = finite
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    // The largest step of 1, 2, 5 times a power of ten that still gives four ticks or so.
    let wanted = ((high - low) / 4.0).max(1e-9);
    let power = 10_f64.powf(wanted.log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().map(|factor| factor * power).find(|step| *step <= wanted);
    let step = step.unwrap_or(power);
    let (first, last) = ((low / step).floor(), (high / step - 1e-9).ceil().max((low / step).floor() + 1.0));
    let ticks = (0..=(last - first) as usize).take(12).map(|index| (first + index as f64) * step).collect();
    let decimals = if step >= 1.0 { 0 } else { (-step.log10()).ceil().clamp(0.0, 6.0) as usize };
    (first * step, last * step, ticks, decimals)
}

impl Panel {
    fn x(fraction: f64) -> f64 {
        LEFT + fraction.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE);
        TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM)
    }

    /// Draws it; `id` is a number that no other panel of the page has.
    pub fn draw(&self, html: &mut Html, id: usize) {
        let view = format!("0 0 {WIDTH} {HEIGHT}");
        let attributes =
            [("viewBox", &view[..]), ("class", "panel"), ("role", "img"), ("aria-label", &self.title)];
        html.element("svg", &attributes, |html| {
            self.frame(html, id);
            let clip = format!("url(#clip-{id})");
            for line in &self.lines {
                self.line(html, line, &clip);
            }
            self.labels(html);
            if !self.lines.iter().flat_map(|line| &line.points).any(|(_, value)| value.is_some()) {
                let (x, y) = (fixed(Self::x(0.5), 1), fixed(HEIGHT / 2.0, 1));
                html.leaf("text", &[("x", &x), ("y", &y), ("class", "middle")], super::number::UNMEASURED);
            }
        });
    }

    fn frame(&self, html: &mut Html, id: usize) {
        let (left, right) = (Self::x(0.0), Self::x(1.0));
        let place = |x: f64, y: f64, width: f64, height: f64| {
            [x, y, width, height].map(|number| fixed(number.max(0.0), 1))
        };
        let name = format!("clip-{id}");
        html.element("clipPath", &[("id", &name)], |html| {
            let [x, y, width, height] = place(left, TOP, right - left, HEIGHT - TOP - BOTTOM);
            html.empty("rect", &[("x", &x), ("y", &y), ("width", &width), ("height", &height)]);
        });
        if let Some((from, to)) = self.band {
            // A slice whose text came at one instant is still to be seen.
            let width = (Self::x(to) - Self::x(from)).max(2.0);
            let [x, y, width, height] =
                place(Self::x(from).min(right - width), TOP, width, HEIGHT - TOP - BOTTOM);
            let attributes =
                [("x", &x[..]), ("y", &y), ("width", &width), ("height", &height), ("class", "band")];
            html.empty("rect", &attributes);
        }
        let (from, to) = (fixed(left, 1), fixed(right, 1));
        for tick in &self.ticks {
            let y = self.y(*tick);
            let (line, text) = (fixed(y, 1), fixed(y + 3.5, 1));
            html.empty(
                "line",
                &[("x1", &from), ("x2", &to), ("y1", &line), ("y2", &line), ("class", "grid")],
            );
            let x = fixed(left - 4.0, 1);
            html.leaf("text", &[("x", &x), ("y", &text), ("class", "end")], &fixed(*tick, self.decimals));
        }
        let text = fixed(HEIGHT - 7.0, 1);
        for quarter in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let x = fixed(Self::x(quarter), 1);
            html.leaf("text", &[("x", &x), ("y", &text), ("class", "middle")], &percent(quarter));
        }
    }

    fn line(&self, html: &mut Html, line: &Line, clip: &str) {
        let mut path = String::new();
        let mut pen = 'M';
        for (fraction, value) in &line.points {
            let Some(value) = value else {
                pen = 'M';
                continue;
            };
            // Far above the top only the direction counts.
            let y = self.y(value.min(self.high + 4.0 * (self.high - self.low)));
            path.push_str(&format!("{pen}{:.1} {y:.1}", Self::x(*fraction)));
            pen = 'L';
        }
        if path.is_empty() {
            return;
        }
        let style = line.style;
        let attributes = [
            ("d", &path[..]),
            ("class", "line"),
            ("stroke", style.colour),
            ("stroke-width", style.width),
            ("stroke-dasharray", style.dash),
            ("clip-path", clip),
        ];
        html.empty("path", &attributes);
        for (fraction, value) in &line.points {
            let Some(value) = value else { continue };
            let x = Self::x(*fraction);
            let says = format!(
                "{}: {} at {} of the stream",
                line.name,
                fixed(*value, self.decimals.max(2)),
                percent(*fraction)
            );
            if *value > self.high {
                let triangle = format!("M{:.1} {:.1}l4 6h-8z", x, TOP - 6.0);
                html.element("path", &[("d", &triangle), ("fill", style.colour)], |html| {
                    html.leaf("title", &[], &says)
                });
            } else {
                let (x, y) = (fixed(x, 1), fixed(self.y(*value), 1));
                let attributes = [("cx", &x[..]), ("cy", &y), ("r", "1.8"), ("fill", style.colour)];
                html.element("circle", &attributes, |html| html.leaf("title", &[], &says));
            }
        }
    }

    /// Names at the lines' ends, moved apart where they would overlap.
    fn labels(&self, html: &mut Html) {
        let end = |line: &Line| line.points.iter().rev().find_map(|(_, value)| *value);
        let place = |line| Some((self.y(end(line)?.min(self.high)), line));
        let mut labels: Vec<(f64, &Line)> =
            self.lines.iter().filter(|line| !line.label.is_empty()).filter_map(place).collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let places =
            spread(&labels.iter().map(|label| label.0).collect::<Vec<_>>(), 12.0, TOP + 4.0, HEIGHT - BOTTOM);
        let x = fixed(Self::x(1.0) + 6.0, 1);
        for ((_, line), place) in labels.iter().zip(places) {
            let y = fixed(place + 4.0, 1);
            let attributes = [("x", &x[..]), ("y", &y), ("fill", line.style.colour), ("class", "label")];
            html.leaf("text", &attributes, &short(&line.label, 13));
        }
    }
}

/// Ascending places moved as little as needed to lie `gap` apart between `low` and `high`; where there
/// is no room for all, `high` gives way.
fn spread(places: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut result = places.to_vec();
    let mut limit = high;
    for place in result.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - gap;
    }
    let mut limit = low;
    for place in &mut result {
        *place = place.max(limit);
        limit = *place + gap;
    }
    result
}

/// One bar of parts laid end to end, each a class of the style sheet and an amount; `whole` fills the
/// width. A part that is not zero is always to be seen.
pub fn stacked(html: &mut Html, title: &str, parts: &[(&'static str, u64)], whole: u64) {
    let attributes = [
        ("viewBox", "0 0 1000 10"),
        ("preserveAspectRatio", "none"),
        ("class", "bar"),
        ("role", "img"),
        ("aria-label", title),
    ];
    html.element("svg", &attributes, |html| {
        let mut x = 0.0;
        for (class, amount) in parts.iter().filter(|(_, amount)| *amount > 0) {
            let width = (1000.0 * *amount as f64 / whole.max(1) as f64).max(4.0).min(1000.0 - x);
            let (at, wide) = (fixed(x, 1), fixed(width, 1));
            html.empty(
                "rect",
                &[("x", &at), ("y", "0"), ("width", &wide), ("height", "10"), ("class", class)],
            );
            x += width;
        }
    });
}

/// A bar of `share` and a mark at `reference`, both of `whole` (all 0 to 1).
pub fn bullet(html: &mut Html, title: &str, share: f64, reference: f64, whole: f64) {
    let attributes = [
        ("viewBox", "0 0 1000 10"),
        ("preserveAspectRatio", "none"),
        ("class", "bar"),
        ("role", "img"),
        ("aria-label", title),
    ];
    let place = |share: f64| 1000.0 * (share / whole.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    html.element("svg", &attributes, |html| {
        let width = fixed(place(share), 1);
        html.empty(
            "rect",
            &[("x", "0"), ("y", "1.5"), ("width", &width), ("height", "7"), ("class", "held")],
        );
        let x = fixed((place(reference) - 3.0).clamp(0.0, 994.0), 1);
        html.empty("rect", &[("x", &x), ("y", "0"), ("width", "6"), ("height", "10"), ("class", "mark")]);
    });
}

#[cfg(test)]
mod tests;
