//! Replay in one process: an open store, what is known of it, and the batches that come of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use perennial_program::config::Bytes;
use perennial_schemas::id::{Offset, Revision, Seq, Shard, Version, check_name};
use perennial_schemas::table::column::unpack_u32;
use perennial_schemas::table::records::View as Rows;
use perennial_schemas::wire::{Batch, Position, Settings, Ticket};
use perennial_store::Store;
use perennial_store::order::OrderLog;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::batch::{self, BatchLayout, LayoutOutcome, View};
use crate::buffer::Members;
use crate::draws::{self, StepDraws};
use crate::error::{ReplayError, Result};
use crate::follow::{Follow, Progress, Verified};
use crate::index::Index;
use crate::index::cache::IndexCache;
use crate::issue::{self, Issued, Request, Standing};
use crate::new_text::Permutation;
use crate::plan::{Order, Plan};
use crate::records::Records;
use crate::states::States;
use crate::texts::Texts;
use crate::tokenise::{Contents, EncodeError, Tokenizer, Tokens};
use crate::views::Entry;

/// An open store, its buffers, and a cache of tokens. One owner: calls follow each other.
#[derive(Debug)]
pub struct Library {
    store: Store,
    plan: Plan,
    records: Records,
    buffers: BTreeMap<String, Follow>,
    /// How many rewrites of the records the buffers and the texts know of.
    rewrites: u64,
    texts: Texts,
    /// The order below the limit of the last ticket, where its job permutes.
    permutation: Option<Permuted>,
    /// What was laid out last: a ticket is issued, evaluated and followed by the next one in turn.
    laid: Option<Laid>,
}

/// The permutation below a limit, of a job that keeps this share.
#[derive(Debug)]
struct Permuted {
    limit: Offset,
    keep: u64,
    permutation: Arc<Permutation>,
}

/// Rows of a batch, from `first` to the one before `end`, counted from 0. Over the wire `[first, end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct RowRange {
    /// The first row.
    pub first: u32,
    /// The row after the last one.
    pub end: u32,
}

impl From<(u32, u32)> for RowRange {
    fn from((first, end): (u32, u32)) -> Self {
        Self { first, end }
    }
}

impl From<RowRange> for (u32, u32) {
    fn from(rows: RowRange) -> Self {
        (rows.first, rows.end)
    }
}

impl RowRange {
    fn check(self, ticket: &Ticket) -> Result<()> {
        let Self { first, end } = self;
        let rows = ticket.settings.rows;
        if first > end || end > rows {
            return Err(ReplayError::Rows { job: ticket.job.clone(), step: ticket.step, first, end, rows });
        }
        Ok(())
    }

    /// Whether these are the rows of a batch whose first row has this number in the job.
    pub(crate) const fn holds(self, row: u64, begin: u64) -> bool {
        let at = row.saturating_sub(begin);
        at >= self.first as u64 && at < self.end as u64
    }
}

/// The next steps of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// The ticket of the first one.
    pub ticket: Ticket,
    /// Where the job stands after each of them.
    pub positions: Vec<Position>,
    /// Tokens of new text that would have to come for another one; 0 if there may be text for more.
    pub missing: u64,
}

/// The layout of a ticket, and the tokens that were read for it: those it needed, or all it holds.
#[derive(Debug)]
struct Laid {
    ticket: Ticket,
    layout: Arc<BatchLayout>,
    contents: Contents,
}

/// Records that cannot be tokenised, of which none is known to be needed.
type Failed = BTreeMap<Offset, EncodeError>;

/// What is known of the store at a ticket.
struct Known {
    index: Arc<Index>,
    members: BTreeMap<String, Arc<Members>>,
    permutation: Option<Arc<Permutation>>,
}

impl Known {
    fn view(&self) -> View<'_> {
        let Self { index, members, permutation } = self;
        View { index, members, permutation: permutation.as_ref() }
    }
}

/// What a library may do to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Commit the changes of the buffers, and the places of readings that a killed ingest left without one.
    Follow,
    /// Nothing: changes that no follower has committed are computed in memory, and claim no buffer's name.
    Read,
}

/// What a library may keep beside the store.
#[derive(Debug, Clone, Default)]
pub struct Caches {
    /// Size of the tokens in memory beside those of the batch laid out last, with about 200 bytes for each
    /// record.
    pub tokens: Bytes,
    /// The folder of the index.
    pub folder: Option<PathBuf>,
}

impl From<Bytes> for Caches {
    fn from(tokens: Bytes) -> Self {
        Self { tokens, folder: None }
    }
}

impl Library {
    /// Opens the store, reads what it holds, and brings the plan's buffers up to date.
    ///
    /// # Errors
    /// [`ReplayError::OtherPolicy`] for a buffer that other settings chose, and the store's errors.
    pub async fn open(store: Store, plan: Plan, caches: impl Into<Caches>, access: Access) -> Result<Self> {
        let Caches { tokens, folder } = caches.into();
        let cache = folder.as_ref().map(|folder| IndexCache::new(folder, &store));
        let states = folder.map(|folder| States::new(&folder, &store));
        let mut buffers = BTreeMap::new();
        for (name, spec) in &plan.buffers {
            check_name("buffer", name)?;
            buffers.insert(name.clone(), Follow::open(&store, &plan, spec, access, states.clone()).await?);
        }
        let records = Records::open(&store, access, cache).await?;
        let rewrites = records.rewrites();
        let texts = Texts::new(tokens);
        let (permutation, laid) = (None, None);
        let mut library = Self { store, plan, records, buffers, rewrites, texts, permutation, laid };
        library.follow().await?;
        Ok(library)
    }

    /// Reads what the store has got since, and brings the buffers up to date.
    ///
    /// # Errors
    /// The store's. The next call goes on from what was committed.
    pub async fn follow(&mut self) -> Result<()> {
        self.follow_records().await?;
        for name in self.buffers.keys().cloned().collect::<Vec<_>>() {
            while let Some(buffer) = self.buffers.get_mut(&name) {
                match buffer.advance(self.records.index(), self.records.version()).await? {
                    Progress::UpToDate => break,
                    // The other follower may have read further.
                    Progress::Overtaken => self.follow_records().await?,
                }
            }
        }
        Ok(())
    }

    async fn follow_records(&mut self) -> Result<()> {
        let followed = self.records.follow().await;
        if self.rewrites != self.records.rewrites() {
            self.rewrites = self.records.rewrites();
            // A text that was removed must not come out of the cache.
            self.texts.clear();
            self.laid = None;
            self.permutation = None;
            self.buffers.values_mut().for_each(Follow::rewritten);
        }
        followed
    }

    /// The plan it was opened with.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The newest version of `records` that was read.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.records.version()
    }

    /// The records that have an offset.
    #[must_use]
    pub fn index(&self) -> &Index {
        self.records.index()
    }

    /// To append to the order of the store.
    pub const fn order_log(&mut self) -> &mut OrderLog {
        self.records.order_log()
    }

    /// The buffers that are kept, by name.
    #[must_use]
    pub const fn buffers(&self) -> &BTreeMap<String, Follow> {
        &self.buffers
    }

    /// Makes a buffer again from the records and compares it with its changes.
    ///
    /// # Errors
    /// As [`Follow::verify`]; a name that the plan does not have.
    pub async fn verify(&mut self, buffer: &str) -> Result<Verified> {
        let unknown = || ReplayError::NoBuffer {
            buffer: buffer.to_owned(),
            known: self.plan.buffers.keys().cloned().collect(),
        };
        let follow = self.buffers.get_mut(buffer).ok_or_else(unknown)?;
        follow.verify(self.records.index(), self.records.version()).await
    }

    /// The members of a buffer at its newest revision.
    ///
    /// # Errors
    /// Where the buffer's changes contradict each other, or the plan has no such buffer.
    pub fn newest_members(&mut self, buffer: &str) -> Result<Arc<Members>> {
        let newest = self.buffers.get(buffer).map(|follow| follow.log().newest()).unwrap_or_default();
        self.members(buffer, newest)
    }

    fn members(&mut self, buffer: &str, asked: Revision) -> Result<Arc<Members>> {
        match self.buffers.get_mut(buffer) {
            Some(follow) => follow.members(asked, self.records.index()),
            None => Err(ReplayError::NoRevision { buffer: buffer.to_owned(), asked, newest: Revision(0) }),
        }
    }

    /// The ticket of the next batch of a job as it would be now: nothing is decided, and views are not looked
    /// at. [`Jobs`](crate::jobs::Jobs) gives the one that stands.
    ///
    /// # Errors
    /// The store's errors.
    pub async fn ticket(&mut self, request: &Request) -> Result<Issued> {
        let settings = request.settings.clone().unwrap_or_else(|| self.plan.settings());
        let (job, position) = (request.job.clone(), request.from.clone().unwrap_or_default());
        let standing = Standing { job, step: request.step, position, settings };
        let steps = self.lay_out(standing, 1, true).await?;
        let enough = !steps.positions.is_empty();
        Ok(if enough { Issued::Ticket(steps.ticket) } else { Issued::NotYet { missing: steps.missing } })
    }

    /// The ticket of the step before which a job stands, whose limit is the end of the order that was read,
    /// whether or not there is text for it.
    #[must_use]
    pub fn next_ticket(&self, standing: Standing) -> Ticket {
        let limit = self.records.index().limit();
        issue::ticket(&self.plan, standing, limit, |name| self.buffers.get(name).map(Follow::log))
    }

    /// The next steps of a job, at most `most`, as far as there is new text for them. With `drain`, a first
    /// step that has some but not enough is one where the plan drains.
    ///
    /// # Errors
    /// The store's errors.
    pub async fn lay_out(&mut self, standing: Standing, most: u64, drain: bool) -> Result<Steps> {
        let ticket = self.next_ticket(standing);
        let mut steps = Steps { ticket: ticket.clone(), positions: Vec::new(), missing: 0 };
        let mut next = ticket;
        while (steps.positions.len() as u64) < most {
            let layout = match self.layout(&next).await {
                Ok(layout) => layout,
                // A record that cannot be tokenised holds up its own step alone, when that is asked for.
                Err(_) if !steps.positions.is_empty() => break,
                Err(error) => return Err(error),
            };
            let rest = drain && self.plan.drain && layout.new_text > 0 && steps.positions.is_empty();
            steps.missing = layout.missing;
            if layout.missing > 0 && !rest {
                break;
            }
            steps.positions.push(layout.after.clone());
            if layout.missing > 0 {
                break;
            }
            next = batch::following(&next, layout.after.clone());
        }
        Ok(steps)
    }

    /// Which tokens of which records the batch of a ticket holds.
    ///
    /// # Errors
    /// As [`Library::batch`].
    pub async fn draws(&mut self, ticket: &Ticket) -> Result<StepDraws> {
        let layout = self.layout(ticket).await?;
        Ok(StepDraws::new(ticket, &layout, self.records.index()))
    }

    /// Whether a view may hold a record: if not, no batch of it does.
    ///
    /// # Errors
    /// Where a buffer does not have the view's revision.
    pub fn may_hold(&mut self, view: &Entry, offset: Offset) -> Result<bool> {
        let mut members = BTreeMap::new();
        for (buffer, drawn) in &view.ticket.buffers {
            members.insert(buffer.clone(), self.members(buffer, drawn.revision)?);
        }
        Ok(draws::may_hold(view, offset, &members))
    }

    /// The batch that a ticket names.
    ///
    /// # Errors
    /// A ticket that the plan refuses, a limit or a revision that was not read yet, and the store's errors.
    pub async fn batch(&mut self, ticket: &Ticket) -> Result<Batch> {
        self.rows(ticket, None).await
    }

    /// The batch that a ticket names, or some of its rows: of the others no text is read (a subword tokenizer
    /// needs them to know where rows end). What a partial batch does not have is left out.
    ///
    /// # Errors
    /// As [`Library::batch`]; [`ReplayError::Rows`] for rows that the job's batches do not have.
    pub async fn rows(&mut self, ticket: &Ticket, rows: Option<RowRange>) -> Result<Batch> {
        rows.map_or(Ok(()), |rows| rows.check(ticket))?;
        let mut layout = self.layout(ticket).await?;
        if let Some(rows) = rows {
            layout = Arc::new(layout.part(rows, ticket.from.row));
        }
        let mut contents =
            self.laid.as_mut().map(|laid| std::mem::take(&mut laid.contents)).unwrap_or_default();
        let records = layout.records();
        let read = self.read(&mut contents, &records).await;
        let batch = read.and_then(|failed| {
            self.raise(failed, &records)?;
            batch::fill(&layout, &self.plan, &contents)
        });
        if let Some(laid) = &mut self.laid {
            laid.contents = contents;
        }
        batch
    }

    /// Where a job stands after the batch that a ticket names.
    ///
    /// # Errors
    /// As [`Library::batch`].
    pub async fn after(&mut self, ticket: &Ticket) -> Result<Request> {
        let layout = self.layout(ticket).await?;
        Ok(Request::of(&batch::following(ticket, layout.after.clone())))
    }

    /// The layout of a ticket, which then is the one laid out last.
    async fn layout(&mut self, ticket: &Ticket) -> Result<Arc<BatchLayout>> {
        let known = |laid: &&Laid| laid.ticket == *ticket;
        if let Some(laid) = self.laid.as_ref().filter(known) {
            return Ok(Arc::clone(&laid.layout));
        }
        self.plan.check(ticket)?;
        let known = self.known(ticket).await?;
        let (mut contents, mut failed) = (Contents::new(), Failed::new());
        let layout = loop {
            match batch::layout(ticket, &self.plan, known.view(), &contents)? {
                LayoutOutcome::Whole(layout) => break Arc::new(layout),
                LayoutOutcome::Unread(offsets) => {
                    failed.extend(self.read(&mut contents, &offsets).await?);
                    // As if removed: such a record is in the layout where, and only where, it is needed.
                    contents.extend(failed.keys().map(|offset| (*offset, None)));
                }
            }
        };
        contents.retain(|offset, _| !failed.contains_key(offset));
        self.raise(failed, &layout.records())?;
        self.laid = Some(Laid { ticket: ticket.clone(), layout: Arc::clone(&layout), contents });
        Ok(layout)
    }

    async fn known(&mut self, ticket: &Ticket) -> Result<Known> {
        let index = self.records.at(ticket.limit)?;
        let mut members = BTreeMap::new();
        for (buffer, drawn) in &ticket.buffers {
            members.insert(buffer.clone(), self.members(buffer, drawn.revision)?);
        }
        let permutation = match ticket.settings.order {
            Order::Stream => None,
            Order::Permuted => Some(self.permutation(ticket.limit, &ticket.settings, &index)),
        };
        Ok(Known { index, members, permutation })
    }

    fn permutation(&mut self, limit: Offset, settings: &Settings, index: &Index) -> Arc<Permutation> {
        let keep = settings.keep;
        let known = self.permutation.as_ref().filter(|known| known.limit == limit && known.keep == keep);
        if let Some(known) = known {
            return Arc::clone(&known.permutation);
        }
        let permutation = Arc::new(Permutation::new(&self.plan, settings, index, limit));
        self.permutation = Some(Permuted { limit, keep, permutation: Arc::clone(&permutation) });
        permutation
    }

    /// Adds the tokens of these records to `contents`, of their texts as the newest version has them:
    /// none for what was removed since. Those that cannot be tokenised are returned, not added: not
    /// every record that is read ahead is needed.
    async fn read(&mut self, contents: &mut Contents, offsets: &[Offset]) -> Result<Failed> {
        let mut wanted = Vec::new();
        let mut removed: BTreeMap<(Shard, Seq), Offset> = BTreeMap::new();
        for offset in offsets {
            if contents.contains_key(offset) {
                continue;
            }
            let laid = self.laid.as_ref().and_then(|laid| laid.contents.get(offset).cloned().flatten());
            match (laid.or_else(|| self.texts.get(offset)), self.records.index().get(*offset)) {
                (Some(tokens), _) => drop(contents.insert(*offset, Some(tokens))),
                (None, Some(record)) if !record.erased => {
                    let place = (record.shard.clone(), record.seq);
                    wanted.push(place.clone());
                    removed.insert(place, *offset);
                }
                (None, _) => drop(contents.insert(*offset, None)),
            }
        }
        if wanted.is_empty() {
            return Ok(Failed::new());
        }
        let columns: &[&str] = match self.plan.tokenizer {
            Tokenizer::Bytes => &["text"],
            Tokenizer::Subword(_) => &["text", "passages"],
        };
        let rows = self.store.fetch(self.records.version(), &wanted, columns).await?;
        let mut texts: Vec<Text> = Vec::new();
        for row in Rows::new(&rows)?.iter() {
            let (Some(seq), Some(text)) = (row.seq, row.text) else { continue };
            let Some(offset) = removed.remove(&(row.shard.parse()?, Seq::from_i64(seq))) else { continue };
            let passages = row.passages.map(|blob| unpack_u32(blob).collect()).unwrap_or_default();
            texts.push(Text { offset, text: text.into(), passages });
        }
        let mut failed = Failed::new();
        for (offset, tokens) in encode(&self.plan.tokenizer, texts).await? {
            match tokens {
                Ok(tokens) => {
                    self.texts.insert(offset, tokens.clone());
                    contents.insert(offset, Some(tokens));
                }
                Err(error) => drop(failed.insert(offset, error)),
            }
        }
        contents.extend(removed.into_values().map(|offset| (offset, None)));
        Ok(failed)
    }

    /// Refuses `records` of which one failed.
    fn raise(&self, mut failed: Failed, records: &[Offset]) -> Result<()> {
        let Some((offset, source)) = records.iter().find_map(|offset| failed.remove_entry(offset)) else {
            return Ok(());
        };
        match self.records.index().get(offset) {
            Some(record) => Err(ReplayError::Text { shard: record.shard.clone(), seq: record.seq, source }),
            None => Ok(()),
        }
    }
}

/// A record's text as it was fetched.
struct Text {
    offset: Offset,
    text: Arc<str>,
    passages: Vec<u32>,
}

/// The tokens of each text, in their order.
async fn encode(
    tokenizer: &Tokenizer,
    texts: Vec<Text>,
) -> Result<Vec<(Offset, Result<Tokens, EncodeError>)>> {
    let bytes = matches!(tokenizer, Tokenizer::Bytes);
    let tokenizer = tokenizer.clone();
    let one = move |text: Text| (text.offset, tokenizer.encode(text.text, &text.passages));
    if bytes {
        return Ok(texts.into_iter().map(one).collect());
    }
    // It would hold up whatever else the runtime does.
    let all = tokio::task::spawn_blocking(move || texts.into_par_iter().map(one).collect());
    all.await.map_err(ReplayError::Encoder)
}

#[cfg(test)]
mod tests;
