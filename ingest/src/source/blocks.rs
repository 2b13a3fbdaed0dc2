//! Gathers readings into blocks.

use std::ops::Range;
use std::sync::Arc;

use perennial_schemas::id::Seq;
use perennial_schemas::table::records::{RAW_LIMIT, Reason};

use super::{End, FileName, Outlet, Position, Positions};
use crate::block::{Block, Columns, Content, Fault, Place, Reading, Readings, Tally};
use crate::config;

/// A reading without its bytes.
#[derive(Debug)]
pub(super) struct Found {
    pub start: u64,
    pub end: u64,
    pub length: u64,
    pub fault: Option<Fault>,
}

/// Gathers readings into blocks and sends these on. Of the record under way it holds the bytes.
#[derive(Debug)]
pub(super) struct Blocks {
    pub outlet: Outlet,
    pub limits: config::Read,
    /// Where each file stands, with the readings that were not sent yet.
    positions: Positions,
    next: Seq,
    /// The file under way, and its last reading's end if that is not in `positions` yet.
    place: Option<Arc<Place>>,
    done: Option<Position>,
    /// The block under way; the bytes from `from` on are those of the record under way.
    buffer: Vec<u8>,
    from: usize,
    places: Vec<Arc<Place>>,
    columns: Vec<Columns>,
    /// Bytes of `columns`.
    weight: u64,
    list: Vec<Reading>,
    upto: Positions,
}

impl Blocks {
    pub(super) const fn new(limits: config::Read, positions: Positions, next: Seq, outlet: Outlet) -> Self {
        Self {
            outlet,
            limits,
            next,
            place: None,
            done: None,
            buffer: Vec::new(),
            from: 0,
            places: Vec::new(),
            columns: Vec::new(),
            weight: 0,
            list: Vec::new(),
            upto: Positions::new(),
            positions,
        }
    }

    /// Where a file stands.
    pub(super) fn position(&self, name: &FileName) -> Option<Position> {
        self.positions.get(name).copied()
    }

    /// Begins to read a file.
    pub(super) fn begin(&mut self, place: Place) {
        self.settle();
        self.place = Some(Arc::new(place));
    }

    /// Ends the file; the bytes of a record under way are dropped.
    pub(super) fn end(&mut self) {
        self.truncate(0);
        self.settle();
        self.place = None;
    }

    /// The bytes of the record under way.
    pub(super) fn held(&self) -> &[u8] {
        self.buffer.get(self.from..).unwrap_or_default()
    }

    /// Adds bytes to the record under way.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Drops all but the first bytes of the record under way.
    pub(super) fn truncate(&mut self, length: usize) {
        self.buffer.truncate(self.from.saturating_add(length));
    }

    /// Makes `content`, a part of the record under way, a reading; of a dead letter its beginning. The
    /// rest of the record is dropped.
    pub(super) fn push(&mut self, content: Range<usize>, found: Found) -> Result<(), End> {
        let length = if found.fault.is_some() { content.len().min(RAW_LIMIT) } else { content.len() };
        self.truncate(content.start + length);
        let start = (self.from + content.start).min(self.buffer.len());
        self.add(Content::Bytes(start..self.buffer.len()), found);
        self.from = self.buffer.len();
        self.close_if_full()
    }

    /// How many more readings, and how many more bytes, the block under way takes; at least one of each.
    pub(super) fn room(&self) -> (usize, u64) {
        let lines = (self.limits.block_lines as usize).saturating_sub(self.list.len());
        (lines.max(1), self.limits.block_bytes.get().saturating_sub(self.bytes()).max(1))
    }

    /// Makes rows of `columns` readings: `raw` are the bytes of a row that is a dead letter already, all
    /// others are those of `columns`, in their order.
    pub(super) fn push_rows(
        &mut self,
        columns: Columns,
        rows: impl IntoIterator<Item = (Option<Vec<u8>>, Found)>,
    ) -> Result<(), End> {
        let index = u32::try_from(self.columns.len()).unwrap_or(u32::MAX);
        let mut row = 0;
        for (raw, found) in rows {
            if let Some(raw) = raw {
                let start = self.buffer.len();
                self.buffer.extend_from_slice(&raw);
                self.from = self.buffer.len();
                self.add(Content::Bytes(start..self.from), found);
            } else {
                self.add(Content::Row { columns: index, row }, found);
                row += 1;
            }
        }
        self.weight += columns.weight() as u64;
        self.columns.push(columns);
        self.close_if_full()
    }

    fn add(&mut self, content: Content, found: Found) {
        let Some(place) = &self.place else { return };
        if !self.places.last().is_some_and(|last| Arc::ptr_eq(last, place)) {
            self.places.push(Arc::clone(place));
        }
        let Found { start, end, length, fault } = found;
        let broken = fault
            .as_ref()
            .is_some_and(|fault| matches!(fault.reason, Reason::Truncated | Reason::CorruptSource));
        self.done = Some(Position { generation: place.generation, head: place.fingerprint, end, broken });
        self.list.push(Reading {
            place: u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX),
            start,
            end,
            content,
            length,
            fault: fault.map(Box::new),
        });
    }

    const fn bytes(&self) -> u64 {
        self.buffer.len() as u64 + self.weight
    }

    fn close_if_full(&mut self) -> Result<(), End> {
        let lines = self.list.len() >= self.limits.block_lines as usize;
        if lines || self.bytes() >= self.limits.block_bytes.get() { self.flush() } else { Ok(()) }
    }

    /// Sends the block under way, if it has readings.
    pub(super) fn flush(&mut self) -> Result<(), End> {
        self.settle();
        if self.list.is_empty() {
            return Ok(());
        }
        let rest = self.buffer.split_off(self.from);
        self.from = 0;
        self.weight = 0;
        let readings = Readings {
            bytes: std::mem::replace(&mut self.buffer, rest),
            columns: std::mem::take(&mut self.columns),
            places: std::mem::take(&mut self.places),
            list: std::mem::take(&mut self.list),
            first: self.next,
            time_us: self.outlet.now_us(),
            line: self.limits.line.get(),
        };
        let read = readings.list.len() as u64;
        self.next = Seq(self.next.0 + read);
        let tally = Tally { read, ..Tally::default() };
        let upto = std::mem::take(&mut self.upto);
        self.outlet.send(Block { readings, positions: upto, tally, ..Block::default() })
    }

    /// Writes down where the file under way stands.
    fn settle(&mut self) {
        if let (Some(position), Some(place)) = (self.done.take(), &self.place) {
            let name = (Arc::clone(&place.source), place.path.clone());
            self.positions.set(name.clone(), position);
            self.upto.set(name, position);
        }
    }
}
