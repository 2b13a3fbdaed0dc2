//! `views`: what was decided about the batches of each job. A row of op `view` decides a range of steps; the
//! other rows change what later views may be. The rows of a job are its whole record: each step has one
//! ticket, and what a step saw follows from it.

use super::column::table;

table! { "views" {
    /// The job. Partition column.
    job: Text,
    /// The number of the row, dense from 1 in each job.
    number: Int,
    /// What the row says, an [`Op`].
    op: Text,
    /// First step that it is about: the previous row's `end_step`.
    first_step: Int,
    /// The step after its last one. Equal to `first_step` except for `view`.
    end_step: Int,
    /// The ticket of `first_step`, as JSON, with the settings that apply from there on.
    ticket: Text,
    /// JSON array of positions. `view`: where the job stands after each of its steps. `skip`: where it goes
    /// on. Otherwise empty: it goes on where the ticket begins.
    positions: Text,
    /// `skip`: number of steps whose text was left out.
    skipped: OptInt,
    /// `begin` of a fork: the job and the step that it was forked from, as `JOB@STEP`.
    forked_from: OptText,
    /// When it was written.
    time: Time,
} }

/// What a row says about its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// The job begins here. The first row of a job is this or a `view`.
    Begin,
    /// Decides the tickets of its steps.
    View,
    /// Other settings apply from here on.
    Set,
    /// The text of some steps is left out.
    Skip,
    /// The job has ended.
    End,
}

impl Op {
    /// Every op.
    pub const ALL: [Self; 5] = [Self::Begin, Self::View, Self::Set, Self::Skip, Self::End];

    /// The word in the column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::View => "view",
            Self::Set => "set",
            Self::Skip => "skip",
            Self::End => "end",
        }
    }

    /// The op that a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.as_str() == word)
    }
}

/// The application transaction of a job: its number is that of the job's last row.
#[must_use]
pub fn transaction(job: &str) -> String {
    format!("views/{job}")
}
