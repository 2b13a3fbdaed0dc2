//! Tables. On a narrow screen each row becomes a card.

use maud::{Markup, html};

/// A value and what stands below it, such as an interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// The value.
    pub value: String,
    /// What stands below it, in small type.
    pub note: Option<String>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(value: T) -> Self {
        Self { value: value.into(), note: None }
    }
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// Its name, in the first column.
    pub name: Markup,
    /// The other columns, each with its head: the same heads in every row.
    pub cells: Vec<(&'a str, Cell)>,
}

/// A table of `rows`, whose first column is headed `first`; `class` may be empty or `inline`, which puts
/// notes beside the values.
#[must_use]
pub fn table(class: &str, caption: &str, first: &str, rows: &[Row<'_>]) -> Markup {
    let heads = rows.first().into_iter().flat_map(|row| &row.cells);
    html! {
        table class={ "cards " (class) } {
            @if !caption.is_empty() { caption { (caption) } }
            thead { tr { th scope="col" { (first) } @for (head, _) in heads { th scope="col" { (head) } } } }
            tbody {
                @for row in rows {
                    tr {
                        th scope="row" { (row.name) }
                        @for (head, cell) in &row.cells {
                            td data-label=(head) {
                                span { (cell.value) @if let Some(note) = &cell.note { small { (note) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A list of names and numbers with a caption; says `none` where it is empty.
#[must_use]
pub fn tally(caption: &str, rows: &[(String, String)]) -> Markup {
    html! {
        table.tally {
            caption { (caption) }
            tbody {
                @for (name, number) in rows { tr { th scope="row" { (name) } td { (number) } } }
                @if rows.is_empty() { tr { td { "none" } } }
            }
        }
    }
}
