//! Cuts decoded bytes into records: lines, paragraphs, or whole files.
//!
//! A blank line has blanks (space, tab, carriage return) only. Lines and paragraphs that are blank are no
//! records. A paragraph is the lines between blank ones.

use perennial_schemas::table::records::RAW_LIMIT;
use perennial_schemas::table::records::Reason;

use super::End;
use super::blocks::{Blocks, Found};
use crate::block::Fault;
use crate::config::Record;

/// What the end of a file's bytes means.
#[derive(Debug)]
pub(super) enum Last {
    /// They are all: a last record needs no end.
    Whole,
    /// More may come: a last record without its end is read later.
    Growing,
    /// The file breaks off here: what is left of the record, and the break, are one dead letter.
    Broken(Fault),
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Cuts one file. It is fed bytes in pieces of any size, which never show in what comes out.
#[derive(Debug)]
pub(super) struct Cutter {
    record: Record,
    /// Where the record under way began.
    start: u64,
    /// Bytes of its whole lines, with their ends; how many of these are the last line's end.
    lines: u64,
    terminator: u64,
    /// How many bytes were held after them.
    kept: usize,
    /// Bytes of the line under way, and whether they are blanks.
    line: u64,
    blank: bool,
}

impl Cutter {
    /// Begins at the decoded byte `at`.
    pub(super) const fn new(record: Record, at: u64) -> Self {
        Self { record, start: at, lines: 0, terminator: 0, kept: 0, line: 0, blank: true }
    }

    /// Takes the next bytes of the file.
    pub(super) fn feed(&mut self, blocks: &mut Blocks, mut bytes: &[u8]) -> Result<(), End> {
        if self.record != Record::File {
            while let Some((line, rest)) =
                memchr::memchr(b'\n', bytes).and_then(|at| Some((bytes.get(..at)?, bytes.get(at + 1..)?)))
            {
                self.extend(blocks, line);
                self.end_line(blocks, 1)?;
                bytes = rest;
            }
        }
        self.extend(blocks, bytes);
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self, blocks: &mut Blocks, last: Last) -> Result<(), End> {
        let ended = match last {
            Last::Whole => self.end_all(blocks),
            Last::Growing => Ok(()),
            Last::Broken(fault) => {
                let length = self.lines + self.line;
                let end = self.start + length + 1;
                let held = blocks.held().len();
                blocks.push(0..held, Found { start: self.start, end, length, fault: Some(fault) })
            }
        };
        blocks.end();
        ended
    }

    fn end_all(&mut self, blocks: &mut Blocks) -> Result<(), End> {
        match self.record {
            Record::File if self.line > 0 => self.push(blocks, self.line, 0, blocks.held().len()),
            Record::Line | Record::Paragraph if self.line > 0 => {
                self.end_line(blocks, 0)?;
                self.end_paragraph(blocks)
            }
            _ => self.end_paragraph(blocks),
        }
    }

    /// Adds to the line under way. Of a record that is too long only what a dead letter keeps is held.
    fn extend(&mut self, blocks: &mut Blocks, part: &[u8]) {
        self.line += part.len() as u64;
        self.blank &= self.record != Record::File && part.iter().all(is_blank);
        let limit = blocks.limits.line.get();
        let most = if self.lines - self.terminator > limit || !self.blank && self.lines + self.line > limit {
            RAW_LIMIT
        } else if self.blank {
            // They may turn out to end a paragraph that is not too long.
            usize::try_from(limit).unwrap_or(usize::MAX).max(RAW_LIMIT)
        } else {
            usize::MAX
        };
        let room = most.saturating_sub(blocks.held().len());
        blocks.extend(part.get(..room).unwrap_or(part));
        blocks.truncate(most);
    }

    fn end_line(&mut self, blocks: &mut Blocks, terminator: u64) -> Result<(), End> {
        let held = blocks.held();
        // A byte-order mark is no part of the text that it announces.
        let announced = self.start == 0 && self.lines == 0 && held.len() as u64 == self.line;
        let only_mark =
            announced && held.strip_prefix(BYTE_ORDER_MARK).is_some_and(|rest| rest.iter().all(is_blank));
        if self.blank || only_mark {
            blocks.truncate(self.kept);
            self.end_paragraph(blocks)?;
            self.start += self.line + terminator;
            self.line = 0;
            self.blank = true;
            return Ok(());
        }
        if self.record == Record::Line {
            return self.push(blocks, self.line, terminator, held.len());
        }
        let line = std::mem::take(&mut self.line);
        self.lines += line + terminator;
        self.terminator = terminator;
        self.blank = true;
        if terminator > 0 {
            blocks.extend(b"\n");
        }
        self.kept = blocks.held().len();
        Ok(())
    }

    /// Makes a reading of the whole lines under way, if there are any.
    fn end_paragraph(&mut self, blocks: &mut Blocks) -> Result<(), End> {
        if self.lines == 0 {
            return Ok(());
        }
        let length = self.lines - self.terminator;
        let held = usize::try_from(length).unwrap_or(usize::MAX).min(self.kept);
        let line = self.line;
        self.push(blocks, length, self.terminator, held)?;
        self.line = line;
        Ok(())
    }

    /// Makes the first bytes of the record under way a reading: of `length` bytes, of which `held` are
    /// held, with `after` bytes that follow it.
    fn push(&mut self, blocks: &mut Blocks, length: u64, after: u64, held: usize) -> Result<(), End> {
        let limit = blocks.limits.line.get();
        let what = match self.record {
            Record::Line => "line",
            Record::Paragraph => "paragraph",
            Record::File => "file",
        };
        let fault = (length > limit).then(|| Fault {
            reason: Reason::TooLarge,
            detail: format!("the {what} has {length} bytes, more than {limit}"),
        });
        let marked = self.start == 0 && blocks.held().starts_with(BYTE_ORDER_MARK);
        let skipped = if marked { BYTE_ORDER_MARK.len().min(held) } else { 0 };
        let end = self.start + length + after;
        let found = Found { start: self.start, end, length, fault };
        *self = Self::new(self.record, end);
        blocks.push(skipped..held, found)
    }
}

const fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}
