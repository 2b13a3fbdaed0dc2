//! Cuts decoded bytes into lines and lines into blocks.

use std::sync::Arc;

use memchr::memchr;
use schemas::id::Seq;
use schemas::table::records::{RAW_LIMIT, Reason};

use super::{End, FileName, Outlet, Position, Positions};
use crate::block::{Block, Fault, Place, Reading, Readings, Tally};
use crate::config;

/// What the end of a file's bytes means.
#[derive(Debug)]
pub(super) enum Last {
    /// They are all: a last line needs no line end.
    Whole,
    /// More may come: a last line without its end is read later.
    Growing,
    /// The file breaks off here: what is left of the line, and the break, are one dead letter.
    Broken(Fault),
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Gathers lines into blocks and sends these on. It is fed bytes in pieces of any size, which never
/// show in what comes out.
#[derive(Debug)]
pub(super) struct Lines {
    pub outlet: Outlet,
    /// Where each file stands, with the readings that were not sent yet.
    positions: Positions,
    limits: config::Read,
    next: Seq,
    /// The file under way, and its last reading's end if that is not in `positions` yet.
    place: Option<Arc<Place>>,
    done: Option<Position>,
    /// The block under way; the bytes from `from` on are those of the line under way.
    buffer: Vec<u8>,
    from: usize,
    places: Vec<Arc<Place>>,
    list: Vec<Reading>,
    upto: Positions,
    /// The line under way: where it began, and how many bytes it has so far.
    start: u64,
    length: u64,
}

impl Lines {
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
            list: Vec::new(),
            upto: Positions::new(),
            positions,
            start: 0,
            length: 0,
        }
    }

    /// Where a file stands.
    pub(super) fn position(&self, name: &FileName) -> Option<Position> {
        self.positions.get(name).copied()
    }

    /// Begins to read a file at the decoded byte `at`.
    pub(super) fn begin(&mut self, place: Place, at: u64) {
        self.settle();
        self.place = Some(Arc::new(place));
        self.start = at;
    }

    /// Takes the next bytes of the file.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        while let Some((line, rest)) =
            memchr(b'\n', bytes).and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?)))
        {
            self.extend(line);
            self.end_line(1)?;
            bytes = rest;
        }
        self.extend(bytes);
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(&mut self, last: Last) -> Result<(), End> {
        let ended = match last {
            Last::Whole if self.length > 0 => self.end_line(0),
            Last::Whole => Ok(()),
            Last::Growing => {
                self.buffer.truncate(self.from);
                self.length = 0;
                Ok(())
            }
            Last::Broken(fault) => {
                let content = self.from..self.buffer.len().min(self.from + RAW_LIMIT);
                self.push(content, 1, Some(fault))
            }
        };
        self.settle();
        self.place = None;
        ended
    }

    /// Sends the block under way, if it has readings.
    pub(super) fn flush(&mut self) -> Result<(), End> {
        self.settle();
        if self.list.is_empty() {
            return Ok(());
        }
        let rest = self.buffer.split_off(self.from);
        self.from = 0;
        let readings = Readings {
            bytes: std::mem::replace(&mut self.buffer, rest),
            places: std::mem::take(&mut self.places),
            list: std::mem::take(&mut self.list),
            first: self.next,
            time_us: self.outlet.now_us(),
        };
        let read = readings.list.len() as u64;
        self.next = Seq(self.next.0 + read);
        let tally = Tally { read, ..Tally::default() };
        let upto = std::mem::take(&mut self.upto);
        self.outlet.send(Block { readings, upto, tally, ..Block::default() })
    }

    /// Adds to the line under way. Of a line that is too long only what a dead letter keeps is held.
    fn extend(&mut self, part: &[u8]) {
        self.length += part.len() as u64;
        let most = if self.length > self.limits.line.get() { RAW_LIMIT } else { usize::MAX };
        let room = most.saturating_sub(self.buffer.len() - self.from);
        self.buffer.extend_from_slice(part.get(..room).unwrap_or(part));
        self.buffer.truncate(self.from.saturating_add(most));
    }

    fn end_line(&mut self, terminator: u64) -> Result<(), End> {
        let line = self.buffer.get(self.from..).unwrap_or_default();
        // A byte-order mark is no part of the text that it announces.
        let marked = self.start == 0 && line.starts_with(BYTE_ORDER_MARK);
        let skipped = if marked { BYTE_ORDER_MARK.len() } else { 0 };
        let fault = (self.length > self.limits.line.get()).then(|| Fault {
            reason: Reason::TooLarge,
            detail: format!("the line has {} bytes, more than {}", self.length, self.limits.line.get()),
        });
        if fault.is_none() && line.iter().skip(skipped).all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            self.buffer.truncate(self.from);
            self.start += self.length + terminator;
            self.length = 0;
            return Ok(());
        }
        self.push(self.from + skipped..self.buffer.len(), terminator, fault)
    }

    /// Makes the line under way a reading; `after` bytes follow it that are not part of it.
    fn push(&mut self, content: std::ops::Range<usize>, after: u64, fault: Option<Fault>) -> Result<(), End> {
        let Some(place) = &self.place else { return Ok(()) };
        if !self.places.last().is_some_and(|last| Arc::ptr_eq(last, place)) {
            self.places.push(Arc::clone(place));
        }
        let end = self.start + self.length + after;
        let broken = fault
            .as_ref()
            .is_some_and(|fault| matches!(fault.reason, Reason::Truncated | Reason::CorruptSource));
        self.done = Some(Position { generation: place.generation, head: place.head, end, broken });
        self.list.push(Reading {
            place: u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX),
            start: self.start,
            end,
            content,
            length: self.length,
            fault: fault.map(Box::new),
        });
        self.from = self.buffer.len();
        self.start = end;
        self.length = 0;
        let lines = self.list.len() >= self.limits.block_lines as usize;
        if lines || self.buffer.len() as u64 >= self.limits.block_bytes.get() { self.flush() } else { Ok(()) }
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
