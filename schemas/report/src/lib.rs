//! Pages for people: one self-contained HTML file that opens offline, follows the reader's light or dark
//! scheme and fits a phone.
//!
//! [`page`] is the frame and the style sheet, [`number`] writes numbers, [`table`] tables, [`bars`] and
//! [`chart`] SVG whose colours are those of the style sheet ([`ink`]). What a page says is its user's.
//!
//! # Invariants
//! - A page needs nothing else: no script, no network, no other file.
//! - All text is escaped; control characters and direction overrides become U+FFFD.
//! - Equal inputs give equal pages.

pub mod bars;
pub mod chart;
pub mod ink;
pub mod number;
pub mod page;
pub mod table;
