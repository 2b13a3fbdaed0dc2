//! Keeps one buffer: offers the stream to its policy, and writes what changes to `buffers`.
//!
//! Records are offered in blocks of a fixed number of offsets of the store's order, as soon as all
//! offsets of a block are known. Each change says how much of the order the policy had seen, so a reader
//! can choose the buffer as it was at any place of it.
//!
//! Every process that opens the store through this library is the same follower: the changes are a
//! function of the order, the settings and the seed. The changes of buffer b are committed under the
//! transaction `buffer/<b>`, whose number is that of the last change. The follower that committed last
//! goes on at once; another one waits for it for [`PATIENCE`], so that N followers do not race for every
//! commit. Of two that commit at once one gets a conflict, throws its own changes away and reads the other's.
//! The policy's state is a function of what it was offered. It is kept in the cache folder, with a digest of the
//! changes that it agrees with; without that it is made again by offering the records up to what the newest change
//! had seen.

mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial_program::error::{Kind, ProgramError as _};
use perennial_program::failpoint;
use perennial_schemas::id::{Offset, Revision, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::buffers::{Builder, Op, Row, View};
use perennial_store::commit::Committer;
use perennial_store::follow::{Follower, News};
use perennial_store::{Scan, Store};

use crate::buffer::{Block, Candidate, Change, Embedding, Judged, Log, LogChange, Members, Policy, Spec};
use crate::embeddings::Embeddings;
use crate::error::{ReplayError, Result};
use crate::index::Index;
use crate::library::Access;
use crate::plan::Plan;
use crate::records::PATIENCE;
use crate::states::{Saved, States};

pub use verify::Verified;

/// The most changes in one commit, but for those of its last block.
const MOST: usize = 1 << 16;

/// Offsets after which the state of a policy is kept again: each costs the next open an offer.
const SAVE: u64 = if cfg!(test) { 32 } else { 1 << 14 };

/// One buffer that is kept.
#[derive(Debug)]
pub struct Follow {
    store: Store,
    access: Access,
    states: Option<States>,
    /// Blocks that the policy had been offered when its state was kept.
    saved: u64,
    embeddings: Embeddings,
    spec: Spec,
    digest: String,
    seed: perennial_schemas::seed::Seed,
    block: u64,
    /// The most byte tokens of a drawn chunk.
    chunk: u64,
    log: Log,
    committer: Committer,
    follower: Follower,
    policy: Box<dyn Policy>,
    /// Blocks that the policy was offered.
    offered: u64,
    /// The revision that the policy's state agrees with.
    agreed: Revision,
    /// Whether the newest change is this follower's, or it has just opened.
    leads: bool,
    /// Since when blocks are whole that another follower is expected to offer, on the store's clock.
    waiting: Option<Duration>,
    /// Whether the policy's state is still to be made from the records.
    stale: bool,
    /// Whether a commit failed in a way that leaves open whether it is in the store.
    unsure: bool,
}

/// What came of an attempt to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Everything that can be offered was.
    UpToDate,
    /// The changes of another follower were read, or a commit's fate was unknown. Read the records again
    /// before going on: the changes may have seen more of them.
    Overtaken,
}

impl Follow {
    /// Reads the buffer's changes. Read the records only after this: then they hold all that the
    /// changes had seen.
    ///
    /// # Errors
    /// [`ReplayError::OtherPolicy`] when the store's changes were decided by other settings, and
    /// the store's errors.
    pub async fn open(
        store: &Store,
        plan: &Plan,
        spec: &Spec,
        access: Access,
        states: Option<States>,
    ) -> Result<Self> {
        let committer = Committer::open(store, Table::Buffers, &fence(&spec.name)).await?;
        let follower = Follower::new(store, Table::Buffers, Some(committer.version()), None).await?;
        let mut follow = Self {
            store: store.clone(),
            access,
            states,
            saved: 0,
            embeddings: Embeddings::new(store),
            spec: spec.clone(),
            digest: spec.digest(plan.seed, plan.block),
            seed: plan.seed,
            block: plan.block.max(1),
            chunk: plan.chunk(),
            log: Log::new(&spec.name, plan.chunk()),
            committer,
            follower,
            policy: spec.policy(plan.seed),
            offered: 0,
            agreed: Revision(0),
            leads: true,
            waiting: None,
            stale: true,
            unsure: false,
        };
        follow.read_log().await?;
        Ok(follow)
    }

    /// What the config says of the buffer.
    #[must_use]
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its changes.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// The members at a revision.
    ///
    /// # Errors
    /// As [`Log::members`].
    pub fn members(&mut self, revision: Revision, index: &Index) -> Result<Arc<Members>> {
        self.log.members(revision, index)
    }

    /// Why the policy says that a record that it was offered is a member or not; `None` where it does not say.
    #[must_use]
    pub fn reason(&self, candidate: &Candidate) -> Option<String> {
        self.policy.reason(candidate)
    }

    /// The records were rewritten: the policy's state is made again, and what differs is written.
    pub const fn rewritten(&mut self) {
        self.stale = true;
    }

    /// Number of blocks that its state had seen when it was taken from the cache folder or kept there.
    #[cfg(test)]
    pub(crate) const fn saved(&self) -> u64 {
        self.saved
    }

    /// As if the answer to the last commit had been lost.
    #[cfg(test)]
    pub(crate) const fn doubt(&mut self) {
        self.unsure = true;
    }

    /// Offers what is whole of the records at `version`, and commits what changes.
    ///
    /// # Errors
    /// The store's errors. Nothing is lost by one: the next call goes on from what was committed.
    pub async fn advance(&mut self, index: &Index, version: Version) -> Result<Progress> {
        self.embeddings.at(version);
        if self.unsure {
            self.reopen().await?;
        } else {
            self.read_others().await?;
        }
        if self.log.seen() > index.limit() {
            return Ok(Progress::Overtaken);
        }
        if !self.stale && self.agreed < self.log.newest() {
            self.catch_up(index).await?;
        }
        if self.stale && !self.load(index).await? {
            let changes = self.rebuild(index).await?;
            if self.commit(&[(self.log.seen(), changes)]).await? == Progress::Overtaken {
                return Ok(Progress::Overtaken);
            }
            self.agree();
        }
        while self.is_due(index) {
            let mut blocks = Vec::new();
            let mut rows = 0;
            while rows < MOST && self.is_whole(index) {
                let changes = self.offer(index).await?;
                rows += changes.len();
                blocks.push((self.seen(), changes));
            }
            // Until it is committed, what the policy knows is ahead of the store.
            self.stale = true;
            if self.commit(&blocks).await? == Progress::Overtaken {
                return Ok(Progress::Overtaken);
            }
            self.agree();
        }
        self.save(index);
        Ok(Progress::UpToDate)
    }

    /// Takes over the state that the cache folder has; whether it has one that agrees with the store's changes
    /// and the records.
    async fn load(&mut self, index: &Index) -> Result<bool> {
        let Some(saved) = self.states.as_ref().and_then(|states| states.load(&self.spec.name, &self.digest))
        else {
            return Ok(false);
        };
        let seen = Offset(saved.offered.saturating_mul(self.block));
        let agrees = saved.revision <= self.log.newest()
            && saved.log == self.log.digest(saved.revision)
            && seen >= self.log.seen_at(saved.revision)
            && seen <= index.limit()
            && saved.counts == index.counts(seen);
        if !agrees {
            return Ok(false);
        }
        let members = self.log.members(saved.revision, index)?;
        // The records are read only where some of them may be gone: most of the index stays on the disk.
        let none_gone = saved.counts.erased == 0;
        let known = |offset: Offset| none_gone || index.get(offset).is_some_and(|record| !record.erased);
        let members: Vec<Candidate> =
            members.list().iter().filter(|one| known(one.offset)).map(Candidate::from).collect();
        self.policy = self.spec.policy(self.seed);
        if let Err(error) = self.policy.load(&saved.state, &members) {
            tracing::warn!(buffer = self.spec.name, %error, "the kept state of a policy is damaged: it is made again");
            return Ok(false);
        }
        (self.offered, self.saved, self.agreed) = (saved.offered, saved.offered, saved.revision);
        self.stale = false;
        if self.agreed < self.log.newest() {
            self.catch_up(index).await?;
        }
        Ok(!self.stale)
    }

    /// Keeps the policy's state in the cache folder, if it has seen enough since.
    fn save(&mut self, index: &Index) {
        let Some(states) = &self.states else { return };
        let fresh = self.offered.saturating_sub(self.saved).saturating_mul(self.block);
        if self.stale || fresh < SAVE {
            return;
        }
        let revision = self.agreed;
        let saved = Saved {
            offered: self.offered,
            revision,
            log: self.log.digest(revision),
            counts: index.counts(self.seen()),
            state: self.policy.save(),
        };
        match states.save(&self.spec.name, &self.digest, &saved) {
            Ok(()) => self.saved = self.offered,
            Err(error) => {
                tracing::warn!(buffer = self.spec.name, %error, "the state of a policy cannot be kept in the cache folder");
                self.states = None;
            }
        }
    }

    fn agree(&mut self) {
        (self.stale, self.agreed) = (false, self.log.newest());
    }

    /// Offers the policy what another follower's policy had seen. If it decides otherwise (records were
    /// removed in between), its state is made again from the start.
    async fn catch_up(&mut self, index: &Index) -> Result<()> {
        let mut ours = Vec::new();
        // What fails in between leaves a state that agrees with nothing.
        self.stale = true;
        while self.seen() < self.log.seen() {
            ours.extend(self.offer(index).await?.into_iter().map(LogChange::from));
        }
        self.stale = !ours.into_iter().eq(self.log.since(self.agreed));
        self.agreed = self.log.newest();
        Ok(())
    }

    /// Whether the next block is whole, and not another follower's for now.
    fn is_due(&mut self, index: &Index) -> bool {
        if !self.is_whole(index) {
            self.waiting = None;
            return false;
        }
        let now = self.store.clock().monotonic();
        self.leads || now.saturating_sub(*self.waiting.get_or_insert(now)) >= PATIENCE
    }

    /// Reads the changes that other followers have committed since.
    async fn read_others(&mut self) -> Result<()> {
        while let Some(news) = self.follower.next().await? {
            match news {
                News::Nothing { .. } => {}
                News::Rewritten { .. } => self.read_log().await?,
                News::Appended { batches, .. } => {
                    let newest = self.log.newest();
                    for batch in &batches {
                        for row in View::new(batch)?.iter() {
                            if row.buffer == self.spec.name && row.revision > self.log.newest().to_i64() {
                                self.add(&row)?;
                            }
                        }
                    }
                    if self.log.newest() > newest {
                        (self.leads, self.waiting) = (false, None);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the policy's state again: of all blocks that the newest change had seen. What its
    /// members differ in from the store's comes back as changes: nothing, unless records were removed,
    /// or several shards hold the same text.
    async fn rebuild(&mut self, index: &Index) -> Result<Vec<Change>> {
        self.policy = self.spec.policy(self.seed);
        self.offered = 0;
        let mut ours: BTreeMap<Offset, Judged> = BTreeMap::new();
        let mut range = None;
        while self.seen() < self.log.seen() {
            for change in self.offer(index).await? {
                match change {
                    Change::Admit(one) => drop(ours.insert(one.candidate.offset, one)),
                    Change::Evict(one) => drop(ours.remove(&one.candidate.offset)),
                    Change::Range(now) => range = Some(now),
                }
            }
        }
        if let Some(range) = range {
            let same = self.log.range().as_ref() == Some(&range);
            return Ok(if same { Vec::new() } else { vec![Change::Range(range)] });
        }
        let theirs = self.log.members(self.log.newest(), index)?;
        let mut changes = Vec::new();
        for member in theirs.list() {
            if ours.remove(&member.offset).is_none() {
                let candidate = Candidate::from(member);
                changes.push(Change::Evict(Judged { candidate, key: 0.0, weight: None, class: None }));
            }
        }
        changes.extend(ours.into_values().map(Change::Admit));
        Ok(changes)
    }

    /// Whether all offsets of the next block are known.
    fn is_whole(&self, index: &Index) -> bool {
        self.seen().0.saturating_add(self.block) <= index.limit().0
    }

    /// Offers the next block. What was erased is not offered.
    async fn offer(&mut self, index: &Index) -> Result<Vec<Change>> {
        let start = self.seen();
        let end = Offset(start.0.saturating_add(self.block));
        let records = index.range(start, end).filter(|record| !record.erased);
        let candidates: Vec<Candidate> = records
            .map(|record| Candidate {
                offset: record.offset,
                shard: record.shard.clone(),
                seq: record.seq,
                id: record.id,
                bytes: record.bytes,
            })
            .collect();
        let mut embeddings: Vec<Option<Embedding<'_>>> = Vec::new();
        if self.spec.settings.needs().embeddings {
            self.embeddings.read(index, start, end).await?;
            embeddings.extend(candidates.iter().map(|candidate| self.embeddings.get(candidate.offset)));
        }
        self.offered += 1;
        let mut changes = Vec::new();
        self.policy.offer(&Block { candidates: &candidates, embeddings: &embeddings, end }, &mut changes);
        Ok(changes)
    }

    /// The first offset that was not offered.
    #[must_use]
    pub const fn seen(&self) -> Offset {
        Offset(self.offered.saturating_mul(self.block))
    }

    /// Writes the changes of some blocks as one version.
    async fn commit(&mut self, blocks: &[(Offset, Vec<Change>)]) -> Result<Progress> {
        if blocks.iter().all(|(_, changes)| changes.is_empty()) {
            return Ok(Progress::UpToDate);
        }
        if self.access == Access::Read {
            let (rows, _) = self.rows(blocks)?;
            View::new(&rows)?.iter().try_for_each(|row| self.log.push(&row))?;
            return Ok(Progress::UpToDate);
        }
        if self.committed().await? < self.log.newest() {
            // Another follower has committed since this one opened or committed.
            self.committer = Committer::open(&self.store, Table::Buffers, &fence(&self.spec.name)).await?;
        }
        if self.committed().await? > self.log.newest() {
            self.read_others().await?;
            return Ok(Progress::Overtaken);
        }
        let (rows, last) = self.rows(blocks)?;
        failpoint::hit("replay.follow.before_commit");
        let transaction = (fence(&self.spec.name), last.to_i64());
        self.unsure = true;
        match self.committer.commit(std::slice::from_ref(&rows), vec![transaction]).await {
            Ok(_) => {
                failpoint::hit("replay.follow.after_commit");
                (self.unsure, self.leads, self.waiting) = (false, true, None);
                View::new(&rows)?.iter().try_for_each(|row| self.log.push(&row))?;
                Ok(Progress::UpToDate)
            }
            Err(error) if error.kind() == Kind::Conflict => {
                tracing::debug!(buffer = self.spec.name, "another follower was faster");
                self.reopen().await?;
                Ok(Progress::Overtaken)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest revision in the store as far as the committer knows.
    async fn committed(&mut self) -> Result<Revision> {
        let last = self.committer.last(&fence(&self.spec.name)).await?;
        Ok(Revision::from_i64(last.unwrap_or(0)))
    }

    /// Throws away what the store does not have, and reads what it has.
    async fn reopen(&mut self) -> Result<()> {
        self.committer = Committer::open(&self.store, Table::Buffers, &fence(&self.spec.name)).await?;
        self.read_log().await?;
        (self.unsure, self.leads, self.waiting) = (false, false, None);
        Ok(())
    }

    fn rows(&self, blocks: &[(Offset, Vec<Change>)]) -> Result<(arrow::array::RecordBatch, Revision)> {
        let capacity = self.spec.settings.capacity();
        let mut builder = Builder::new();
        let mut number = self.log.newest();
        for (seen, changes) in blocks {
            for change in changes {
                number = number.next();
                let row = Row {
                    buffer: &self.spec.name,
                    revision: number.to_i64(),
                    op: "",
                    shard: "",
                    seq: 0,
                    offset: 0,
                    end_offset: None,
                    id: None,
                    bytes: None,
                    key: None,
                    weight: None,
                    class: None,
                    policy: self.spec.policy_name,
                    capacity: capacity.and_then(|capacity| i64::try_from(capacity.limit()).ok()),
                    capacity_unit: capacity.map(|capacity| capacity.unit()),
                    policy_digest: &self.digest,
                    seen: seen.to_i64(),
                };
                let (op, one) = match change {
                    Change::Admit(one) => (Op::Admit, one),
                    Change::Evict(one) => (Op::Evict, one),
                    Change::Range(range) => {
                        let (op, offset) = (Op::Range.as_str(), range.start.to_i64());
                        builder.push(Row { op, offset, end_offset: Some(range.end.to_i64()), ..row });
                        continue;
                    }
                };
                builder.push(Row {
                    op: op.as_str(),
                    shard: one.candidate.shard.as_str(),
                    seq: one.candidate.seq.to_i64(),
                    offset: one.candidate.offset.to_i64(),
                    id: Some(one.candidate.id.as_bytes()),
                    bytes: i64::try_from(one.candidate.bytes).ok(),
                    key: Some(one.key),
                    weight: one.weight,
                    class: one.class.as_deref(),
                    ..row
                });
            }
        }
        Ok((builder.finish()?, number))
    }

    /// Reads all changes that the store has.
    async fn read_log(&mut self) -> Result<()> {
        let name = &self.spec.name;
        let version = self.store.version(Table::Buffers).await?;
        let filter = Some(format!("buffer = '{name}'"));
        let scan = Scan { columns: &[], filter, order: &["revision"] };
        let batches = self.store.scan(Table::Buffers, version, &scan).await?;
        self.follower = Follower::new(&self.store, Table::Buffers, Some(version), None).await?;
        self.log = Log::new(name, self.chunk);
        self.stale = true;
        for batch in &batches {
            View::new(batch)?.iter().try_for_each(|row| self.add(&row))?;
        }
        Ok(())
    }

    /// Adds the next change of the store.
    fn add(&mut self, row: &Row<'_>) -> Result<()> {
        if row.policy_digest != self.digest {
            return Err(ReplayError::OtherPolicy {
                buffer: self.spec.name.clone(),
                policy: row.policy.to_owned(),
                found: row.policy_digest.to_owned(),
                ours: self.digest.clone(),
            });
        }
        self.log.push(row)
    }
}

fn fence(buffer: &str) -> String {
    format!("buffer/{buffer}")
}
