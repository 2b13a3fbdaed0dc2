//! Makes a buffer again from the records of the store, and compares it with its changes.

use std::collections::BTreeSet;

use perennial_schemas::id::{Offset, Revision, Version};
use serde::Serialize;

use super::Follow;
use crate::buffer::LogChange;
use crate::error::{ReplayError, Result};
use crate::index::Index;

/// Offsets between two messages of progress.
const SAID: u64 = 1 << 20;

/// A buffer that is what its policy makes of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Its newest revision.
    pub revision: Revision,
    /// How much of the order its policy had seen.
    pub seen: Offset,
    /// Number of members.
    pub members: u64,
    /// Whether every change was made again. If not, some records that they were about were erased since; the
    /// members are the same.
    pub exact: bool,
    /// Erased records among those that its policy had seen.
    pub erased: u64,
}

/// The members that some changes make.
#[derive(Debug, Default)]
struct Made {
    members: BTreeSet<Offset>,
    range: Option<LogChange>,
}

impl Made {
    fn apply(&mut self, change: LogChange) {
        match change {
            LogChange::Admit(offset) => drop(self.members.insert(offset)),
            LogChange::Evict(offset) => drop(self.members.remove(&offset)),
            LogChange::Range(_) => self.range = Some(change),
        }
    }
}

impl Follow {
    /// Makes the buffer again from the records at `version`, from the first one on, and compares each change with
    /// that of the store. What was decided about records that were erased since cannot be made again: with such
    /// records the members must be the same, not the changes.
    ///
    /// # Errors
    /// [`ReplayError::Unverified`] where they differ, [`ReplayError::NoOffset`] for changes that have seen more
    /// than the records, and the store's errors.
    pub async fn verify(&mut self, index: &Index, version: Version) -> Result<Verified> {
        self.embeddings.at(version);
        // What was computed in memory is not to be compared with itself.
        self.read_log().await?;
        if self.log.seen() > index.limit() {
            return Err(ReplayError::NoOffset { asked: self.log.seen(), newest: index.limit() });
        }
        let mut made = Made::default();
        let differs = self.compare(index, &mut made).await?;
        let (revision, seen) = (self.log.newest(), self.log.seen());
        let theirs = self.log.members(revision, index)?;
        let same = match (&made.range, self.log.range()) {
            (Some(range), theirs) => theirs.map(LogChange::Range).as_ref() == Some(range),
            (None, Some(_)) => false,
            (None, None) => theirs.list().iter().map(|member| member.offset).eq(made.members),
        };
        let (members, erased) = (theirs.list().len() as u64, index.counts(seen).erased);
        match differs {
            Some(why) if erased == 0 || !same => {
                Err(ReplayError::Unverified { buffer: self.spec.name.clone(), why })
            }
            differs => Ok(Verified { revision, seen, members, exact: differs.is_none(), erased }),
        }
    }

    /// Offers all blocks that the changes had seen; the first difference in words.
    async fn compare(&mut self, index: &Index, made: &mut Made) -> Result<Option<String>> {
        (self.policy, self.offered, self.stale) = (self.spec.policy(self.seed), 0, true);
        let (mut revision, mut differs) = (Revision(0), None);
        let end = self.log.seen();
        while self.seen() < end {
            let before = self.seen();
            for ours in self.offer(index).await?.into_iter().map(LogChange::from) {
                let stored = self.log.since(revision).next();
                revision = revision.next();
                if differs.is_none() && stored.as_ref() != Some(&ours) {
                    let stored = stored.map_or_else(|| "nothing".to_owned(), |stored| format!("`{stored}`"));
                    differs = Some(format!("revision {revision} is {stored}, and the policy says `{ours}`"));
                }
                made.apply(ours);
            }
            if before.0 / SAID < self.seen().0 / SAID {
                tracing::info!(buffer = self.spec.name, readings = self.seen().0, of = end.0, "verifying");
            }
        }
        let more = self.log.since(revision).next();
        let more = more
            .map(|stored| format!("revision {} is `{stored}`, and the policy says nothing", revision.next()));
        Ok(differs.or(more))
    }
}
