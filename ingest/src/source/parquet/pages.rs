//! How large the pages of a column are, read from their headers before any page is read.
//!
//! A page is decompressed whole, so a small file can ask for much memory: the size must be known first.
//!
//! # Why the headers are decoded here
//! No released API of the parquet crate bounds the memory of a page (looked at in 59.3.2). Its page readers
//! allocate `uncompressed_page_size` bytes as soon as they meet a header; neither `ReaderProperties`,
//! `ReadOptions` nor `ArrowReaderOptions` has a limit for it. `PageReader::peek_next_page` reads a header
//! without its page, but returns a `PageMetadata` without sizes and encoding; the `PageHeader` itself is
//! private, and the offset index holds compressed sizes alone. The footer has uncompressed sizes of whole
//! column chunks, to which no reader holds the pages. Nor is the depth of a schema bounded where a
//! recursion makes a tree of its elements.
//!
//! The headers are structs of the Thrift compact protocol
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>), of which only
//! the fields needed of the Parquet format's `PageHeader` and `SchemaElement` are decoded.

use std::io::Read;

/// The deepest that structs of a header nest, and more.
const NESTED: usize = 16;

/// The types of the compact protocol.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// The encoding that stores of a value only what follows the beginning that it shares with the one before.
const DELTA_BYTE_ARRAY: i64 = 7;

/// A page by its header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// Bytes when it is unpacked.
    pub unpacked: u64,
    /// Bytes that follow the header.
    pub stored: u64,
    /// Values, nulls included; of a dictionary none.
    pub values: u64,
    /// Whether its values share their beginnings: any of them may have as many bytes as the whole page.
    pub shares: bool,
    /// Bytes of the header.
    pub header: u64,
}

/// The page whose header `from` begins with; `None` where there is none that could be.
pub(super) fn header(from: impl Read) -> Option<Page> {
    let mut thrift = Thrift { from, at: 0 };
    let mut page = Page::default();
    let (mut unpacked, mut stored) = (None, None);
    thrift.fields(|thrift, field, kind| {
        match (field, kind) {
            (2, I32) => unpacked = u64::try_from(thrift.integer()?).ok(),
            (3, I32) => stored = u64::try_from(thrift.integer()?).ok(),
            (5, STRUCT) => (page.values, page.shares) = thrift.values(2)?,
            (8, STRUCT) => (page.values, page.shares) = thrift.values(4)?,
            _ => thrift.skip(kind, NESTED)?,
        }
        Some(())
    })?;
    Some(Page { unpacked: unpacked?, stored: stored?, header: thrift.at, ..page })
}

/// Whether the schema in a footer nests at most `deepest` deep. Its elements come depth first, each with
/// the number of its children.
pub(super) fn is_shallow(footer: &[u8], deepest: usize) -> bool {
    let mut thrift = Thrift { from: footer, at: 0 };
    let mut open: Vec<u64> = Vec::new();
    let read = thrift.fields(|thrift, field, kind| {
        if (field, kind) != (2, LIST) {
            return thrift.skip(kind, NESTED);
        }
        let (kind, count) = thrift.list()?;
        for _ in 0..count {
            let children = if kind == STRUCT { thrift.children()? } else { return None };
            while open.last() == Some(&0) {
                open.pop();
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children);
            if open.len() > deepest {
                return None;
            }
        }
        Some(())
    });
    read.is_some()
}

struct Thrift<R> {
    from: R,
    at: u64,
}

impl<R: Read> Thrift<R> {
    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte).ok()?;
        self.at += 1;
        Some(u8::from_le_bytes(byte))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn pass(&mut self, count: u64) -> Option<()> {
        let passed = std::io::copy(&mut self.from.by_ref().take(count), &mut std::io::sink()).ok()?;
        self.at += passed;
        (passed == count).then_some(())
    }

    /// The type and the number of a list's elements.
    fn list(&mut self) -> Option<(u8, u64)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        Some((head & 15, count))
    }

    /// Reads a struct: `each` must take the value of every field.
    fn fields(&mut self, mut each: impl FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut field: i64 = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            field = match head >> 4 {
                0 => self.integer()?,
                delta => field.checked_add(i64::from(delta))?,
            };
            each(self, field, head & 15)?;
        }
    }

    /// Of the header of a data page: its values, and whether they share their beginnings, which its field
    /// `encoding` says.
    fn values(&mut self, encoding: i64) -> Option<(u64, bool)> {
        let (mut values, mut shares) = (0, false);
        self.fields(|thrift, field, kind| {
            match (field, kind) {
                (1, I32) => values = u64::try_from(thrift.integer()?).ok()?,
                (_, I32) if field == encoding => shares = thrift.integer()? == DELTA_BYTE_ARRAY,
                _ => thrift.skip(kind, NESTED)?,
            }
            Some(())
        })?;
        Some((values, shares))
    }

    /// How many children an element of a schema has.
    fn children(&mut self) -> Option<u64> {
        let mut children = 0;
        self.fields(|thrift, field, kind| {
            if (field, kind) == (5, I32) {
                children = u64::try_from(thrift.integer()?).ok()?;
                return Some(());
            }
            thrift.skip(kind, NESTED)
        })?;
        Some(children)
    }

    fn skip(&mut self, kind: u8, deep: usize) -> Option<()> {
        let deep = deep.checked_sub(1)?;
        match kind {
            TRUE | FALSE => Some(()),
            BYTE => self.pass(1),
            I16 | I32 | I64 => self.varint().map(|_| ()),
            DOUBLE => self.pass(8),
            BINARY => {
                let length = self.varint()?;
                self.pass(length)
            }
            LIST | SET => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind, deep))
            }
            MAP => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, deep)?;
                    self.skip_element(kinds & 15, deep)
                })
            }
            STRUCT => self.fields(|thrift, _, kind| thrift.skip(kind, deep)),
            _ => None,
        }
    }

    /// Truth is a byte of its own in a list, and a part of the type in a struct.
    fn skip_element(&mut self, kind: u8, deep: usize) -> Option<()> {
        if matches!(kind, TRUE | FALSE) { self.pass(1) } else { self.skip(kind, deep) }
    }
}
