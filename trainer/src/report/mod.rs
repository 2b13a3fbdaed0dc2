//! The report: one HTML page that says what came out of a set of runs, and the JSON it was computed from.
//!
//! [`input`] is what a report is made of, [`page`] puts it on the page in the order of a reader's
//! questions, [`words`] makes sentences from figures, [`final_weights`] is the table of averages,
//! [`sections`] the rest; `perennial-report` draws all of it. [`collect`] gathers the input, and [`place`]
//! says where in the stream a run was.
//!
//! # Invariants
//! - The page needs nothing else: no script, no network, no other file.
//! - No sentence is fixed in advance: what the page claims follows from the figures, whatever they are.
//! - What was not measured is called so.
//! - Equal inputs give equal pages.

pub mod collect;
pub mod final_weights;
#[cfg(test)]
pub(crate) mod fixture;
pub mod input;
pub mod page;
pub mod place;
pub mod sections;
pub mod words;

use perennial_program::error::{Kind, ProgramError};
pub use perennial_report::number;

pub use input::Input;

use crate::evaluate::matrix::{MatrixError, unique};
use crate::evaluate::metrics::{Bootstrap, summarise};

/// A report ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The page.
    pub html: String,
    /// The input as JSON: [`Input`] reads it back.
    pub json: String,
}

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The scores do not belong together.
    #[error("the runs cannot be reported together")]
    Scores(#[from] MatrixError),
    /// The input cannot be written as JSON.
    #[error("the report's input cannot be written as json")]
    Json(#[from] serde_json::Error),
}

impl ProgramError for ReportError {
    fn kind(&self) -> Kind {
        match self {
            Self::Scores(error) => error.kind(),
            Self::Json(_) => Kind::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Scores(error) => error.hint(),
            Self::Json(_) => None,
        }
    }
}

/// Makes the page and the JSON of `input`, with intervals from the default [`Bootstrap`].
///
/// # Errors
/// [`ReportError::Scores`] where names come twice, evaluations are out of order, or runs were not
/// scored on the same documents.
pub fn render(input: &Input) -> Result<Rendered, ReportError> {
    unique("source", input.ingested.iter().map(|source| source.source.as_str()), " among what was ingested")?;
    let summary = summarise(&input.slices, &input.runs, &Bootstrap::default())?;
    let json = serde_json::to_string(input)?;
    let html = page::page(input, &summary, &json);
    Ok(Rendered { html, json })
}

#[cfg(test)]
mod tests;
