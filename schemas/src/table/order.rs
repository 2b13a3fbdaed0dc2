//! `order`: one order over all shards. Each reading has one offset, dense from 0, which never changes:
//! not by a compaction, a vacuum, a clean-up of the log or a restart.
//!
//! A row places what one source committed: the readings `first..=last` of a shard, or the evaluations of
//! the steps `first..=last` of a series. It cannot be derived from other tables: between two shards that
//! commit at once, it alone says which came first.

use super::column::table;

table! { "order" {
    /// The number of the row, dense from 0.
    number: Int,
    /// The offset of its first reading: how many readings all earlier rows have. A row of another kind uses
    /// up no offset.
    offset: Int,
    /// What it places, a [`Kind`].
    kind: Text,
    /// `reading`: the shard. `evaluation`: the job and the series, as `job/series`.
    source: Text,
    /// `reading`: the first seq. `evaluation`: the first step.
    first: Int,
    /// `reading`: the last seq. `evaluation`: the last step.
    last: Int,
    /// When the row was written.
    time: Time,
} }

/// What a row of the order places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Readings of a shard.
    Reading,
    /// Evaluations of a job.
    Evaluation,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Reading, Self::Evaluation];

    /// The word in the column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Evaluation => "evaluation",
        }
    }

    /// The kind that a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The application transaction of a source of this kind: its number is one more than the last seq or
    /// step that is committed.
    #[must_use]
    pub fn transaction(self, source: &str) -> String {
        match self {
            Self::Reading => format!("seq/{source}"),
            Self::Evaluation => format!("evaluations/{source}"),
        }
    }
}
