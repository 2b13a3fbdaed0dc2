//! The record of each job: that its rows follow each other, and name only what the store has.

use std::collections::BTreeMap;

use deltalake::DeltaTable;
use serde::Deserialize;

use super::{Checker, or_none};
use crate::{Scan, StoreError, transaction_of};
use perennial_schemas::id::Step;
use perennial_schemas::table::Table;
use perennial_schemas::table::views::{Op, Row, View, transaction};
use perennial_schemas::wire::{Position, Ticket};

const FOLLOW: &str = "the rows of a job follow each other";
const NAMED: &str = "a view names what the store has";

/// Where a job stands after its rows so far.
#[derive(Default)]
struct Job {
    number: i64,
    step: Step,
    position: Position,
    ended: bool,
}

impl Checker<'_> {
    /// `buffers` is the table of that name at the version that is checked.
    pub(super) async fn views(
        &mut self,
        delta: &DeltaTable,
        buffers: Option<&DeltaTable>,
    ) -> Result<(), StoreError> {
        let table = Table::Views;
        let scan = Scan { columns: &["skipped"], filter: None, order: &["job", "number"] };
        let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
        // The highest revision of each buffer that a ticket names.
        let mut revisions: BTreeMap<String, u64> = BTreeMap::new();
        self.scan(table, &scan, |checker, batch| {
            for row in View::new(batch)?.iter() {
                let job = jobs.entry(row.job.to_owned()).or_default();
                let end = checker.order.end().0;
                let mut problems = Vec::new();
                match Ticket::from_json(row.ticket.as_bytes()) {
                    Ok(ticket) => {
                        problems.extend(job.follow(&row, &ticket).map(|why| (FOLLOW, why)));
                        if ticket.limit.0 > end {
                            let why = format!("its limit is {}, the order ends at {end}", ticket.limit);
                            problems.push((NAMED, why));
                        }
                        for (name, drawn) in ticket.buffers {
                            let newest = revisions.entry(name).or_default();
                            *newest = drawn.revision.0.max(*newest);
                        }
                    }
                    Err(error) => problems.push((FOLLOW, format!("its ticket cannot be read: {error}"))),
                }
                job.number = row.number;
                for (invariant, why) in problems {
                    let detail = format!("job `{}` row {}: {why}", row.job, row.number);
                    checker.violation(table, invariant, detail);
                }
            }
            Ok(())
        })
        .await?;
        for (name, job) in &jobs {
            let committed = transaction_of(delta, table, &transaction(name)).await?;
            if committed != Some(job.number) {
                let (name, committed) = (transaction(name), or_none(committed));
                let detail = format!("`{name}` stands at {committed}, the rows end at {}", job.number);
                self.violation(table, FOLLOW, detail);
            }
        }
        let Some(buffers) = buffers else { return Ok(()) };
        for (name, named) in revisions {
            let found = transaction_of(buffers, Table::Buffers, &format!("buffer/{name}")).await?;
            let newest = found.and_then(|found| u64::try_from(found).ok()).unwrap_or(0);
            if named > newest {
                let detail =
                    format!("a ticket names revision {named} of buffer `{name}`, its newest is {newest}");
                self.violation(table, NAMED, detail);
            }
        }
        Ok(())
    }
}

impl Job {
    /// Takes the next row; what is wrong with it.
    fn follow(&mut self, row: &Row<'_>, ticket: &Ticket) -> Option<String> {
        let first = self.number == 0;
        let before = Self {
            number: self.number,
            step: self.step,
            position: std::mem::take(&mut self.position),
            ended: self.ended,
        };
        let positions: Vec<Position> = match parse(row.positions) {
            Ok(positions) => positions,
            Err(why) => return Some(why),
        };
        self.step = Step::from_i64(row.end_step);
        self.position = positions.last().unwrap_or(&ticket.from).clone();
        let Some(op) = Op::parse(row.op) else { return Some(format!("it is a `{}`", row.op)) };
        self.ended |= op == Op::End;
        let steps = row.end_step.saturating_sub(row.first_step);
        let wanted = match op {
            Op::View => usize::try_from(steps).ok().filter(|steps| *steps > 0),
            Op::Skip => Some(1).filter(|_| steps == 0),
            Op::Begin | Op::Set | Op::End => Some(0).filter(|_| steps == 0),
        };
        if row.number != before.number.saturating_add(1) {
            return Some(format!("row {} comes before it", before.number));
        }
        if before.ended {
            return Some("the job has ended before it".to_owned());
        }
        if !first && (ticket.step, &ticket.from) != (before.step, &before.position) {
            return Some(format!("it does not go on where the row before ends, at step {}", before.step));
        }
        if ticket.job != row.job || ticket.step.to_i64() != row.first_step {
            return Some(format!("its ticket is of job `{}`, step {}", ticket.job, ticket.step));
        }
        if wanted != Some(positions.len()) {
            return Some(format!("it is a `{}` of {steps} steps with {} positions", row.op, positions.len()));
        }
        let mut all = std::iter::once(&ticket.from).chain(&positions);
        let rises = |rows: &mut u64, position: &Position| {
            let rises = position.row >= *rows;
            *rows = position.row;
            rises
        };
        let mut rows = 0;
        if !all.all(|position| rises(&mut rows, position)) {
            return Some("its positions go back".to_owned());
        }
        None
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| format!("its positions cannot be read: {error}"))
}
