//! What replay knows of one record: where it is, when each buffer held it and why, and which steps it was in.

use std::collections::BTreeMap;

use perennial_schemas::id::{Offset, RecordId, Revision, Seq, Shard, Step};
use serde::Serialize;

use crate::buffer::{Candidate, Stay};
use crate::error::{ReplayError, Result};
use crate::follow::Follow;
use crate::index::RecordRef;
use crate::jobs::Jobs;
use crate::library::Library;

/// Steps that are searched between two looks at a job's record.
const PAGE: u64 = 256;

/// How a record is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// By its id: 32 hexadecimal digits.
    Id(RecordId),
    /// By its place in its shard: `SHARD/SEQ`.
    Place(Shard, Seq),
    /// By its offset in the order of the store.
    Offset(Offset),
}

impl std::str::FromStr for Asked {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(Offset(offset)));
        }
        let place =
            text.rsplit_once('/').and_then(|(shard, seq)| Some((shard.parse().ok()?, seq.parse().ok()?)));
        let wrong = || format!("`{text}` is not an id of 32 hexadecimal digits, `SHARD/SEQ` or an offset");
        place.map(|(shard, seq)| Self::Place(shard, Seq(seq))).ok_or_else(wrong)
    }
}

impl Asked {
    fn is(&self, record: &RecordRef<'_>) -> bool {
        match self {
            Self::Id(id) => record.id == *id && !record.erased,
            Self::Place(shard, seq) => record.shard == shard && record.seq == *seq,
            Self::Offset(offset) => record.offset == *offset,
        }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Place(shard, seq) => write!(f, "{shard}/{seq}"),
            Self::Offset(offset) => write!(f, "{offset}"),
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Its place in the order of the store.
    pub offset: Offset,
    /// Its shard.
    pub shard: Shard,
    /// Its seq in the shard.
    pub seq: Seq,
    /// The id of its text; zero where it was erased.
    pub id: RecordId,
    /// Where the source says it is from, else the source itself.
    pub source: String,
    /// Bytes of its text.
    pub bytes: u64,
    /// Whether its text was removed from the store.
    pub erased: bool,
    /// What each buffer made of it.
    pub buffers: BTreeMap<String, Membership>,
    /// The steps that it was in, by job.
    pub jobs: BTreeMap<String, Uses>,
}

/// What a buffer made of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Membership {
    /// The policy.
    pub policy: &'static str,
    /// Whether it is a member at the newest revision.
    pub member: bool,
    /// Why, in words.
    pub why: String,
    /// When it was a member.
    pub stays: Vec<Stay>,
}

/// What the decided steps of a job hold of a record.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Uses {
    /// As new text.
    pub new_text: Option<Use>,
    /// Drawn from each buffer.
    pub drawn: BTreeMap<String, Use>,
}

/// The spans of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Use {
    /// Number of spans.
    pub spans: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// The first step.
    pub first: Step,
    /// The last step.
    pub last: Step,
    /// The least and the largest probability of a draw.
    pub probability: (f64, f64),
}

impl Use {
    fn add(kept: Option<Self>, step: Step, tokens: u64, probability: f64) -> Self {
        let first =
            Self { spans: 0, tokens: 0, first: step, last: step, probability: (probability, probability) };
        let mut all = kept.unwrap_or(first);
        (all.spans, all.tokens, all.last) = (all.spans + 1, all.tokens + tokens, step);
        all.probability = (all.probability.0.min(probability), all.probability.1.max(probability));
        all
    }
}

/// Explains a record: its buffers, and its steps in one job, or in all.
///
/// # Errors
/// [`ReplayError::NoRecord`], an unknown job, and the store's errors.
pub async fn explain(
    library: &mut Library,
    jobs: &mut Jobs,
    asked: &Asked,
    job: Option<&str>,
) -> Result<Explanation> {
    let missing = || ReplayError::NoRecord { asked: asked.to_string(), limit: library.index().limit() };
    let record = match asked {
        Asked::Offset(offset) => library.index().get(*offset),
        Asked::Id(_) | Asked::Place(..) => library.index().records().find(|record| asked.is(record)),
    };
    let record = record.ok_or_else(missing)?.to_record();
    let (offset, seq, id, bytes, erased) =
        (record.offset, record.seq, record.id, record.bytes, record.erased);
    let candidate = Candidate { offset, shard: record.shard.clone(), seq, id, bytes };
    let buffers = library.buffers().iter();
    let buffers =
        buffers.map(|(name, follow)| (name.clone(), membership(follow, &candidate, erased))).collect();
    let names = match job {
        Some(job) => vec![job.to_owned()],
        None => jobs.list().await?.iter().map(|row| row.ticket.job.clone()).collect(),
    };
    let mut used = BTreeMap::new();
    for name in names {
        let uses = uses(library, jobs, &name, offset).await?;
        if uses != Uses::default() {
            used.insert(name, uses);
        }
    }
    let (shard, source) = (record.shard, record.source.to_string());
    Ok(Explanation { offset, shard, seq, id, source, bytes, erased, buffers, jobs: used })
}

fn membership(follow: &Follow, candidate: &Candidate, erased: bool) -> Membership {
    let (log, spec) = (follow.log(), follow.spec());
    let stays = log.stays(candidate.offset, candidate.bytes);
    let member = stays.last().is_some_and(|stay| stay.left.is_none());
    let seen = follow.seen();
    let large = spec.settings.capacity().filter(|capacity| capacity.size(candidate) > capacity.limit());
    let why = if candidate.offset >= seen {
        format!("its block is not whole: the policy has seen the order up to {seen}")
    } else if let Some(capacity) = large {
        format!("it is larger than the whole capacity, {capacity}")
    } else if erased {
        "its text was removed from the store".to_owned()
    } else {
        let said = follow.reason(candidate);
        said.unwrap_or_else(|| match (member, stays.is_empty()) {
            (true, _) => "the policy has chosen it".to_owned(),
            (false, true) => "the policy has chosen others of what it had seen".to_owned(),
            (false, false) => "the policy has replaced it by others".to_owned(),
        })
    };
    Membership { policy: spec.policy_name, member, why, stays }
}

async fn uses(library: &mut Library, jobs: &mut Jobs, job: &str, offset: Offset) -> Result<Uses> {
    let mut uses = Uses::default();
    let decided = jobs.decided(job).await?;
    let mut next = decided.start;
    while next < decided.end {
        let until = decided.end.min(Step(next.0 + PAGE));
        for ticket in jobs.tickets_that_may_hold(library, job, next, until, offset).await? {
            for span in library.draws(&ticket).await?.spans.into_iter().filter(|span| span.offset == offset) {
                add(&mut uses, span.buffer, ticket.step, span.tokens, span.probability);
            }
        }
        next = until;
    }
    Ok(uses)
}

fn add(uses: &mut Uses, buffer: Option<String>, step: Step, tokens: u64, probability: f64) {
    match buffer {
        None => uses.new_text = Some(Use::add(uses.new_text.take(), step, tokens, probability)),
        Some(buffer) => {
            let before = uses.drawn.remove(&buffer);
            uses.drawn.insert(buffer, Use::add(before, step, tokens, probability));
        }
    }
}

impl Membership {
    /// Its stays in words: `since revision 12 (offset 64)`.
    #[must_use]
    pub fn history(&self) -> String {
        let at = |revision: Revision, seen: Offset| format!("revision {revision} (at offset {seen})");
        let one = |stay: &Stay| {
            let entered = at(stay.entered, stay.entered_seen);
            match (stay.left, stay.left_seen) {
                (Some(left), Some(seen)) => format!("from {entered} to {}", at(left, seen)),
                _ => format!("since {entered}"),
            }
        };
        self.stays.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}
