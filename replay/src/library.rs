//! Replay in one process: an open store, what is known of it, and the batches that come of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::id::{Seq, Shard, Version, check_name};
use schemas::program::config::Bytes;
use schemas::store::Store;
use schemas::table::records::View as Rows;
use schemas::wire::{Batch, Ticket};

use crate::batch::{self, Outline, View};
use crate::buffer::Members;
use crate::error::{ReplayError, Result};
use crate::follow::{Follow, Progress};
use crate::fresh::Permutation;
use crate::index::{Index, Limits};
use crate::issue::{self, Issued, Request};
use crate::plan::{Order, Plan};
use crate::records::Records;
use crate::texts::Texts;

/// An open store, its buffers, and a cache of texts. One owner: calls follow each other.
#[derive(Debug)]
pub struct Library {
    store: Store,
    plan: Plan,
    records: Records,
    buffers: BTreeMap<String, Follow>,
    /// How many rewrites of the records the buffers and the texts know of.
    rewrites: u64,
    texts: Texts,
    /// The order of the version read last, where the plan permutes.
    permutation: Option<(Version, Arc<Permutation>)>,
}

/// What is known of the store at a ticket.
struct Known {
    index: Arc<Index>,
    limits: Arc<Limits>,
    members: BTreeMap<String, Arc<Members>>,
    permutation: Option<Arc<Permutation>>,
}

impl Known {
    fn view(&self) -> View<'_> {
        let Self { index, limits, members, permutation } = self;
        View { index, limits, members, permutation: permutation.as_ref() }
    }
}

impl Library {
    /// Opens the store, reads what it holds, and brings the plan's buffers up to date. `cache` bounds
    /// the text that is kept in memory.
    ///
    /// # Errors
    /// [`ReplayError::OtherPolicy`] for a buffer that other settings chose, and the store's errors.
    pub async fn open(store: Store, plan: Plan, cache: Bytes) -> Result<Self> {
        let mut buffers = BTreeMap::new();
        for (name, spec) in &plan.buffers {
            check_name("buffer", name)?;
            buffers.insert(name.clone(), Follow::open(&store, &plan, spec).await?);
        }
        let records = Records::open(&store).await?;
        let rewrites = records.rewrites();
        let texts = Texts::new(cache);
        let mut library = Self { store, plan, records, buffers, rewrites, texts, permutation: None };
        library.follow().await?;
        Ok(library)
    }

    /// Reads what the store has got since, and brings the buffers up to date; whether `records` had
    /// a new version.
    ///
    /// # Errors
    /// The store's. The next call goes on from what was committed.
    pub async fn follow(&mut self) -> Result<bool> {
        let mut moved = self.follow_records().await?;
        for name in self.buffers.keys().cloned().collect::<Vec<_>>() {
            while let Some(buffer) = self.buffers.get_mut(&name) {
                match buffer.advance(self.records.index(), self.records.version()).await? {
                    Progress::UpToDate => break,
                    // The other follower may have read further.
                    Progress::Overtaken => moved |= self.follow_records().await?,
                }
            }
        }
        Ok(moved)
    }

    async fn follow_records(&mut self) -> Result<bool> {
        let moved = self.records.follow().await?;
        if self.rewrites != self.records.rewrites() {
            self.rewrites = self.records.rewrites();
            // A text that was removed must not come out of the cache.
            self.texts.clear();
            self.permutation = None;
            self.buffers.values_mut().for_each(Follow::rewritten);
        }
        Ok(moved)
    }

    /// The plan it was opened with.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The newest version of `records` that was read.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.records.version()
    }

    /// The records of that version.
    #[must_use]
    pub fn index(&self) -> &Index {
        self.records.index()
    }

    /// The buffers that are kept, by name.
    #[must_use]
    pub const fn buffers(&self) -> &BTreeMap<String, Follow> {
        &self.buffers
    }

    /// The members of a buffer at its newest change.
    ///
    /// # Errors
    /// Where the buffer's changes contradict each other, or the plan has no such buffer.
    pub fn newest_members(&mut self, buffer: &str) -> Result<Arc<Members>> {
        let newest = self.buffers.get(buffer).map(|follow| follow.log().newest()).unwrap_or_default();
        self.members(buffer, newest)
    }

    fn members(&mut self, buffer: &str, change: schemas::id::Change) -> Result<Arc<Members>> {
        match self.buffers.get_mut(buffer) {
            Some(follow) => follow.members(change),
            None => {
                let newest = schemas::id::Change(0);
                Err(ReplayError::NoChange { buffer: buffer.to_owned(), asked: change, newest })
            }
        }
    }

    /// The ticket of the next batch of a job, at the newest version that was read.
    ///
    /// # Errors
    /// A cursor that stands nowhere, and the store's errors.
    pub async fn ticket(&mut self, request: &Request) -> Result<Issued> {
        let (version, limits) = (self.records.version(), self.records.limits());
        let ticket = issue::ticket(&self.plan, request, version, &limits, |name| {
            self.buffers.get(name).map(Follow::log)
        });
        let outline = self.outline(&ticket).await?;
        let enough = outline.missing == 0 || (self.plan.drain && outline.fresh > 0);
        Ok(if enough { Issued::Ticket(ticket) } else { Issued::NotYet { missing: outline.missing } })
    }

    /// The batch that a ticket names.
    ///
    /// # Errors
    /// A ticket that the plan refuses, a version that the store no longer keeps, a change that nobody
    /// made, and the store's errors.
    pub async fn batch(&mut self, ticket: &Ticket) -> Result<Batch> {
        let outline = self.outline(ticket).await?;
        let texts = self.read(&outline.records()).await?;
        batch::fill(&outline, &self.plan, |piece| texts.get(&(piece.shard.clone(), piece.seq)).cloned())
    }

    /// Where a job stands after the batch that a ticket names.
    ///
    /// # Errors
    /// As [`Library::batch`].
    pub async fn after(&mut self, ticket: &Ticket) -> Result<Request> {
        let outline = self.outline(ticket).await?;
        Ok(Request::of(&batch::following(ticket, &self.plan, outline.after)))
    }

    async fn outline(&mut self, ticket: &Ticket) -> Result<Outline> {
        self.plan.check(ticket)?;
        let known = self.known(ticket).await?;
        batch::outline(ticket, &self.plan, known.view())
    }

    async fn known(&mut self, ticket: &Ticket) -> Result<Known> {
        let (index, limits) = self.records.at(ticket.records).await?;
        let mut members = BTreeMap::new();
        for (buffer, change) in &ticket.buffers {
            members.insert(buffer.clone(), self.members(buffer, *change)?);
        }
        let permutation = match (&self.permutation, self.plan.order) {
            (_, Order::Stream) => None,
            (Some((version, permutation)), _) if *version == ticket.records => Some(Arc::clone(permutation)),
            _ => {
                let permutation = Arc::new(Permutation::new(&self.plan, &index, &limits));
                self.permutation = Some((ticket.records, Arc::clone(&permutation)));
                Some(permutation)
            }
        };
        Ok(Known { index, limits, members, permutation })
    }

    /// The texts of these records, as the newest version has them: what was removed since is absent.
    async fn read(&mut self, places: &[(Shard, Seq)]) -> Result<BTreeMap<(Shard, Seq), Arc<str>>> {
        let mut found = BTreeMap::new();
        let mut wanted = Vec::new();
        for place in places {
            match self.texts.get(place) {
                Some(text) => drop(found.insert(place.clone(), text)),
                None => wanted.push(place.clone()),
            }
        }
        if wanted.is_empty() {
            return Ok(found);
        }
        let rows = self.store.fetch(self.records.version(), &wanted, &["text"]).await?;
        for row in Rows::new(&rows)?.iter() {
            let (Some(seq), Some(text)) = (row.seq, row.text) else { continue };
            let place = (row.shard.parse::<Shard>()?, Seq::from_i64(seq));
            let text: Arc<str> = text.into();
            self.texts.insert(place.clone(), Arc::clone(&text));
            found.insert(place, text);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
