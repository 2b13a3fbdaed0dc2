//! Colours by name. The style sheet gives each name its colour, once for light and once for dark pages.

use plotters::style::RGBColor;

/// Names of colours; each is a class of the style sheet. The series are distinguishable with colour
/// blindness (Okabe, Ito 2008).
const HUES: [&str; 10] =
    ["text", "grid", "band", "baseline", "bound", "series-1", "series-2", "series-3", "series-4", "series-5"];

/// Names of dash patterns: solid, long, short.
const DASHES: [&str; 3] = ["dash-0", "dash-1", "dash-2"];

/// A colour and a dash pattern of the style sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ink {
    hue: usize,
    dash: usize,
}

impl Ink {
    pub(crate) const TEXT: Self = Self { hue: 0, dash: 0 };
    pub(crate) const GRID: Self = Self { hue: 1, dash: 0 };
    pub(crate) const BAND: Self = Self { hue: 2, dash: 0 };

    /// What others are compared with; `index` counts the baselines of one page.
    #[must_use]
    pub const fn baseline(index: usize) -> Self {
        Self { hue: 3, dash: index % DASHES.len() }
    }

    /// A bound, such as a ceiling: grey and dashed; `index` counts the bounds of one page.
    #[must_use]
    pub const fn bound(index: usize) -> Self {
        Self { hue: 4, dash: index % DASHES.len() }
    }

    /// The series number `index`: five colours, then the same ones dashed.
    #[must_use]
    pub const fn series(index: usize) -> Self {
        Self { hue: 5 + index % 5, dash: (index / 5) % DASHES.len() }
    }

    /// Its classes in the style sheet.
    #[must_use]
    pub fn classes(self) -> String {
        format!("{} {}", HUES[self.hue], DASHES[self.dash])
    }

    /// The colour that stands for it while a chart is drawn.
    pub(crate) const fn stand_in(self) -> RGBColor {
        RGBColor(1, self.hue as u8, self.dash as u8)
    }

    /// Replaces the stand-in colours of a drawing by classes.
    pub(crate) fn into_classes(svg: &str) -> String {
        let mut text = svg.to_owned();
        for (hue, _) in HUES.iter().enumerate() {
            for (dash, _) in DASHES.iter().enumerate() {
                let classes = Self { hue, dash }.classes();
                for paint in ["stroke", "fill"] {
                    let stand_in = format!("{paint}=\"#01{hue:02X}{dash:02X}\"");
                    text = text.replace(&stand_in, &format!("class=\"{paint} {classes}\""));
                }
            }
        }
        text
    }
}
