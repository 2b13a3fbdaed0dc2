//! Keeps one buffer: offers the stream to its policy, and writes what changes to `buffers`.
//!
//! Records are offered in blocks of a fixed number of seqs of one shard, as soon as the last seq of
//! a block is known; of several whole blocks the one that lies earliest in its shard comes first.
//! Each change says up to which seq of each shard the policy had seen the stream, so a reader can
//! choose the buffer as it was at any place of it.
//!
//! Whoever opens the store through this library is the same follower. The changes of buffer b are
//! committed under the transaction `buffer/<b>`, whose number is that of the last change: of two
//! followers at the same changes one gets a conflict, throws its own away and takes the other's,
//! which are equal: of one shard the changes are a function of the store. Of several shards the order
//! in which their blocks became whole shows in the changes; who commits first decides it for all.
//! The policy's state is never stored: it is made again by offering the records up to what the newest
//! change had seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_program::error::{Kind, ProgramError as _};
use perennial_program::failpoint;
use perennial_schemas::id::{Revision, Seq, Shard, Version};
use perennial_schemas::table::Table;
use perennial_schemas::table::buffers::{Builder, Op, Row, View};
use perennial_store::commit::Committer;
use perennial_store::{Scan, Store};

use crate::buffer::{Candidate, Change, Log, Members, Policy, Seen, Spec, seen_to_json};
use crate::error::{ReplayError, Result};
use crate::index::Index;
use crate::plan::Plan;

/// The most changes in one commit, but for those of its last block.
const MOST: usize = 1 << 16;

/// One buffer that is kept.
#[derive(Debug)]
pub struct Follow {
    store: Store,
    spec: Spec,
    digest: String,
    seed: perennial_schemas::seed::Seed,
    block: u64,
    log: Log,
    committer: Committer,
    policy: Box<dyn Policy>,
    /// Blocks of each shard that the policy was offered.
    offered: BTreeMap<Shard, u64>,
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
    /// The changes were read from the store again, as another follower was faster or a commit's fate
    /// was unknown. Read the records again before going on: the changes may have seen more of them.
    Overtaken,
}

impl Follow {
    /// Reads the buffer's changes. Read the records only after this: then they hold all that the
    /// changes had seen.
    ///
    /// # Errors
    /// [`ReplayError::OtherPolicy`] when the store's changes were decided by other settings, and
    /// the store's errors.
    pub async fn open(store: &Store, plan: &Plan, spec: &Spec) -> Result<Self> {
        let committer = Committer::open(store, Table::Buffers, &fence(&spec.name)).await?;
        let mut follow = Self {
            store: store.clone(),
            spec: spec.clone(),
            digest: spec.digest(plan.seed, plan.block),
            seed: plan.seed,
            block: plan.block.max(1),
            log: Log::new(&spec.name),
            committer,
            policy: spec.policy(plan.seed),
            offered: BTreeMap::new(),
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
    pub fn members(&mut self, revision: Revision) -> Result<Arc<Members>> {
        self.log.members(revision)
    }

    /// The records were rewritten: the policy's state is made again, and what differs is written.
    pub const fn rewritten(&mut self) {
        self.stale = true;
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
        if self.unsure {
            // What is read now may have seen records that `index` does not have yet.
            self.reopen().await?;
            return Ok(Progress::Overtaken);
        }
        if self.stale {
            let changes = self.rebuild(index)?;
            if self.commit(&[(self.log.seen().clone(), changes)], version).await? == Progress::Overtaken {
                return Ok(Progress::Overtaken);
            }
            self.stale = false;
        }
        loop {
            let mut blocks = Vec::new();
            let mut rows = 0;
            while rows < MOST {
                let Some((number, shard)) = self.next_block(index) else { break };
                let changes = self.offer(index, &shard, number);
                rows += changes.len();
                blocks.push((self.seen(), changes));
            }
            if rows == 0 {
                return Ok(Progress::UpToDate);
            }
            // Until it is committed, what the policy knows is ahead of the store.
            self.stale = true;
            if self.commit(&blocks, version).await? == Progress::Overtaken {
                return Ok(Progress::Overtaken);
            }
            self.stale = false;
        }
    }

    /// Makes the policy's state again: of all blocks that the newest change had seen. What its
    /// members differ in from the store's comes back as changes: nothing, unless records were removed,
    /// or several shards hold the same text.
    fn rebuild(&mut self, index: &Index) -> Result<Vec<Change>> {
        self.policy = self.spec.policy(self.seed);
        self.offered.clear();
        let seen = self.log.seen().iter();
        let mut blocks: Vec<(u64, Shard)> = seen
            .flat_map(|(shard, seq)| (0..(seq.0 + 1) / self.block).map(|number| (number, shard.clone())))
            .collect();
        blocks.sort();
        let mut ours: BTreeMap<(Shard, Seq), Change> = BTreeMap::new();
        for (number, shard) in blocks {
            for change in self.offer(index, &shard, number) {
                let place = (change.candidate.shard.clone(), change.candidate.seq);
                match change.op {
                    Op::Admit => drop(ours.insert(place, change)),
                    Op::Evict | Op::Range => drop(ours.remove(&place)),
                }
            }
        }
        let theirs = self.log.members(self.log.newest())?;
        let mut changes = Vec::new();
        for member in theirs.list() {
            if ours.remove(&(member.shard.clone(), member.seq)).is_none() {
                let (shard, seq) = (member.shard.clone(), member.seq);
                let candidate = Candidate { shard, seq, id: member.id, bytes: member.bytes };
                changes.push(Change { op: Op::Evict, candidate, key: 0.0, weight: None, class: None });
            }
        }
        changes.extend(ours.into_values());
        Ok(changes)
    }

    /// The earliest block that is whole and was not offered.
    fn next_block(&self, index: &Index) -> Option<(u64, Shard)> {
        let marks = index.high_water_marks();
        let next = marks.into_iter().filter_map(|(shard, limit)| {
            let number = self.offered.get(&shard).copied().unwrap_or(0);
            let end = number.checked_add(1)?.checked_mul(self.block)?;
            (end <= limit.0).then_some((number, shard))
        });
        next.min()
    }

    fn offer(&mut self, index: &Index, shard: &Shard, number: u64) -> Vec<Change> {
        let start = number.saturating_mul(self.block);
        let records = index.range(shard, Seq(start), Seq(start.saturating_add(self.block)));
        let candidate = |record: &crate::index::Record| Candidate {
            shard: shard.clone(),
            seq: record.seq,
            id: record.id,
            bytes: record.bytes,
        };
        let block: Vec<Candidate> = records.iter().map(candidate).collect();
        let mut changes = Vec::new();
        self.policy.offer(&block, &mut changes);
        self.offered.insert(shard.clone(), number + 1);
        changes
    }

    /// The last seq that was offered of each shard.
    fn seen(&self) -> Seen {
        let last = |blocks: u64| Seq(blocks.saturating_mul(self.block).saturating_sub(1));
        self.offered.iter().map(|(shard, blocks)| (shard.clone(), last(*blocks))).collect()
    }

    /// Writes the changes of some blocks as one version.
    async fn commit(&mut self, blocks: &[(Seen, Vec<Change>)], version: Version) -> Result<Progress> {
        if blocks.iter().all(|(_, changes)| changes.is_empty()) {
            return Ok(Progress::UpToDate);
        }
        let (rows, last) = self.rows(blocks, version)?;
        failpoint::hit("replay.follow.before_commit");
        let transaction = (fence(&self.spec.name), last.to_i64());
        self.unsure = true;
        match self.committer.commit(std::slice::from_ref(&rows), vec![transaction]).await {
            Ok(_) => {
                failpoint::hit("replay.follow.after_commit");
                self.unsure = false;
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

    /// Throws away what the store does not have, and reads what it has.
    async fn reopen(&mut self) -> Result<()> {
        self.committer = Committer::open(&self.store, Table::Buffers, &fence(&self.spec.name)).await?;
        self.read_log().await?;
        (self.stale, self.unsure) = (true, false);
        Ok(())
    }

    fn rows(
        &self,
        blocks: &[(Seen, Vec<Change>)],
        version: Version,
    ) -> Result<(arrow::array::RecordBatch, Revision)> {
        let capacity = self.spec.settings.capacity();
        let mut builder = Builder::new();
        let mut number = self.log.newest();
        for (seen, changes) in blocks {
            let seen = seen_to_json(seen);
            for change in changes {
                number = number.next();
                let candidate = &change.candidate;
                builder.push(Row {
                    buffer: &self.spec.name,
                    revision: number.to_i64(),
                    op: change.op.as_str(),
                    shard: candidate.shard.as_str(),
                    seq: candidate.seq.to_i64(),
                    last_seq: None,
                    id: Some(candidate.id.as_bytes()),
                    bytes: i64::try_from(candidate.bytes).ok(),
                    key: Some(change.key),
                    weight: change.weight,
                    class: change.class.as_deref(),
                    policy: self.spec.policy_name,
                    capacity: capacity.and_then(|capacity| i64::try_from(capacity.limit()).ok()),
                    capacity_unit: capacity.map(|capacity| capacity.unit()),
                    policy_digest: &self.digest,
                    seen: &seen,
                    seen_signals: None,
                    seen_evaluations: None,
                    records_version: version.to_i64(),
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
        let mut log = Log::new(name);
        for batch in self.store.scan(Table::Buffers, version, &scan).await? {
            for row in View::new(&batch)?.iter() {
                if row.policy_digest != self.digest {
                    return Err(ReplayError::OtherPolicy {
                        buffer: name.clone(),
                        policy: row.policy.to_owned(),
                        found: row.policy_digest.to_owned(),
                        ours: self.digest.clone(),
                    });
                }
                log.push(&row)?;
            }
        }
        self.log = log;
        Ok(())
    }
}

fn fence(buffer: &str) -> String {
    format!("buffer/{buffer}")
}
