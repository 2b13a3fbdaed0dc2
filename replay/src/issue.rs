//! The server chooses what a ticket names: the limit in the order, and the revision of each buffer.

use std::collections::BTreeMap;

use perennial_schemas::id::{Offset, Revision, Step};
use perennial_schemas::wire::{Cursor, DrawnBuffer, Position, Settings, Ticket, WIRE_FORMAT};
use serde::{Deserialize, Serialize};

use crate::buffer::Log;
use crate::plan::{Order, Plan, VisibleUntil};

/// A request for the ticket of a step. A job and a step determine it; the other fields matter to a job that
/// begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The job.
    pub job: String,
    /// The step that the batch will feed.
    #[serde(default)]
    pub step: Step,
    /// Where the job stands at this step. A job that does not exist begins here, at this step; without it, at
    /// the start of the stream and step 0. Where the step is decided, it must be where the job stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Position>,
    /// The settings of a job that does not exist; absent: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
}

impl Request {
    /// Of the first step of a job.
    #[must_use]
    pub fn first(job: &str) -> Self {
        Self::step(job, Step(0))
    }

    /// Of a step of a job.
    #[must_use]
    pub fn step(job: &str, step: Step) -> Self {
        Self { job: job.to_owned(), step, from: None, settings: None }
    }

    /// For the step of a ticket that [`following`](crate::batch::following) made.
    #[must_use]
    pub fn of(ticket: &Ticket) -> Self {
        Self { from: Some(ticket.from.clone()), ..Self::step(&ticket.job, ticket.step) }
    }
}

/// What a request comes to. Over the wire `{"ticket": ..}` or `{"not_yet": {"missing": tokens}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Issued {
    /// The batch can be read.
    Ticket(Ticket),
    /// The stream has not enough new text yet.
    NotYet {
        /// Tokens of new text that would have to come.
        missing: u64,
    },
}

/// Where a job stands before a step, and its settings there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The job.
    pub job: String,
    /// The step.
    pub step: Step,
    /// Where its rows, its new text and its draws go on.
    pub position: Position,
    /// Its settings.
    pub settings: Settings,
}

/// How much of the order a buffer may have seen to be drawn from.
///
/// With [`VisibleUntil::Cursor`] it may know nothing that the job has not wholly read: at most what lies
/// before the cursor. A job in permuted order is at no place of the stream: then only the empty buffer
/// will do.
#[must_use]
pub fn visible(until: VisibleUntil, order: Order, limit: Offset, cursor: Cursor) -> Offset {
    match (until, order) {
        (VisibleUntil::Store, _) => limit,
        (VisibleUntil::Cursor, Order::Stream) => cursor.offset.min(limit),
        (VisibleUntil::Cursor, Order::Permuted) => Offset(0),
    }
}

/// The ticket of the step before which a job stands, with the newest revision of each buffer that [`visible`]
/// admits.
#[must_use]
pub fn ticket<'a>(
    plan: &Plan,
    standing: Standing,
    limit: Offset,
    log: impl Fn(&str) -> Option<&'a Log>,
) -> Ticket {
    let Standing { job, step, position, settings } = standing;
    let visible = visible(plan.visible_until, settings.order, limit, position.new_text);
    let drawn = |name: &String| {
        let revision = log(name).map_or(Revision(0), |log| log.newest_within(visible));
        let policy = plan.policy_digest(name).unwrap_or_default();
        (name.clone(), DrawnBuffer { revision, policy })
    };
    let buffers: BTreeMap<String, DrawnBuffer> = settings.mix.keys().map(drawn).collect();
    let (config, seed) = (plan.digest(), plan.job_seed(&job));
    Ticket { format: WIRE_FORMAT, job, step, limit, settings, buffers, config, seed, from: position }
}
