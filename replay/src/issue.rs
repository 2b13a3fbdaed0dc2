//! The server chooses what a ticket names: the limit in the order, and the revision of each buffer.

use std::collections::BTreeMap;

use perennial_schemas::id::{Offset, Revision, Step};
use perennial_schemas::wire::{Cursor, Position, Ticket, WIRE_FORMAT};
use serde::{Deserialize, Serialize};

use crate::buffer::Log;
use crate::plan::{Order, Plan, VisibleUntil};

/// Where a job stands when it asks for its next batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The job.
    pub job: String,
    /// The step that the batch will feed.
    #[serde(default)]
    pub step: Step,
    /// Where its rows, its new text and its draws go on.
    #[serde(default)]
    pub from: Position,
}

impl Request {
    /// Of a job that begins at the start of the stream.
    #[must_use]
    pub fn first(job: &str) -> Self {
        Self { job: job.to_owned(), step: Step(0), from: Position::default() }
    }

    /// For what comes after a ticket that [`following`](crate::batch::following) made.
    #[must_use]
    pub fn of(ticket: &Ticket) -> Self {
        Self { job: ticket.job.clone(), step: ticket.step, from: ticket.from.clone() }
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

/// How much of the order a buffer may have seen to be drawn from.
///
/// With [`VisibleUntil::Cursor`] it may know nothing that the job has not wholly read: at most what lies
/// before the cursor. A job in permuted order is at no place of the stream: then only the empty buffer
/// will do.
#[must_use]
pub fn visible(plan: &Plan, limit: Offset, cursor: Cursor) -> Offset {
    match (plan.visible_until, plan.order) {
        (VisibleUntil::Store, _) => limit,
        (VisibleUntil::Cursor, Order::Stream) => cursor.offset.min(limit),
        (VisibleUntil::Cursor, Order::Permuted) => Offset(0),
    }
}

/// The ticket for a request, with the newest revision of each buffer that [`visible`] admits.
#[must_use]
pub fn ticket<'a>(
    plan: &Plan,
    request: &Request,
    limit: Offset,
    log: impl Fn(&str) -> Option<&'a Log>,
) -> Ticket {
    let visible = visible(plan, limit, request.from.new_text);
    let revision = |name: &str| log(name).map_or(Revision(0), |log| log.newest_within(visible));
    let buffers: BTreeMap<String, Revision> =
        plan.mix.buffers().map(|name| (name.to_owned(), revision(name))).collect();
    Ticket {
        format: WIRE_FORMAT,
        job: request.job.clone(),
        step: request.step,
        limit,
        buffers,
        config: plan.digest(),
        seed: plan.job_seed(&request.job),
        from: request.from.clone(),
    }
}
