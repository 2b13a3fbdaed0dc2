//! What scores say of the kept records of a block.

use std::ops::Range;

/// One value of one record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// None.
    Null,
    /// A score.
    Real(f32),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl<'a> Cell<'a> {
    /// The score, if it is one.
    #[must_use]
    pub const fn real(self) -> Option<f32> {
        if let Self::Real(value) = self { Some(value) } else { None }
    }

    /// The whole number, if it is one.
    #[must_use]
    pub const fn int(self) -> Option<i64> {
        if let Self::Int(value) = self { Some(value) } else { None }
    }

    /// The text, if it is one.
    #[must_use]
    pub const fn text(self) -> Option<&'a str> {
        if let Self::Text(value) = self { Some(value) } else { None }
    }

    /// The bytes, if it is a blob.
    #[must_use]
    pub const fn blob(self) -> Option<&'a [u8]> {
        if let Self::Blob(value) = self { Some(value) } else { None }
    }
}

/// Rows of cells, all of the same width; texts and blobs of all rows lie in one buffer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values {
    width: usize,
    cells: Vec<Stored>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
enum Stored {
    Null,
    Real(f32),
    Int(i64),
    Text(Range<usize>),
    Blob(Range<usize>),
}

impl Values {
    /// Without rows; each will have `width` cells.
    #[must_use]
    pub const fn new(width: usize) -> Self {
        Self { width, cells: Vec::new(), bytes: Vec::new() }
    }

    /// Appends a row; cells beyond the width are dropped, missing ones are null.
    pub fn push(&mut self, row: &[Cell<'_>]) {
        for index in 0..self.width {
            let stored = match row.get(index).copied().unwrap_or(Cell::Null) {
                Cell::Null => Stored::Null,
                Cell::Real(value) => Stored::Real(value),
                Cell::Int(value) => Stored::Int(value),
                Cell::Text(text) => Stored::Text(self.append(text.as_bytes())),
                Cell::Blob(blob) => Stored::Blob(self.append(blob)),
            };
            self.cells.push(stored);
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// Rows.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.cells.len().checked_div(self.width) {
            Some(rows) => rows,
            None => 0,
        }
    }

    /// Whether there is no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The cells of a row; none past the end.
    pub fn row(&self, row: usize) -> impl Iterator<Item = Cell<'_>> {
        let start = row.saturating_mul(self.width);
        let cells = self.cells.get(start..start.saturating_add(self.width)).unwrap_or_default();
        let bytes = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
        cells.iter().map(move |cell| match cell {
            Stored::Null => Cell::Null,
            Stored::Real(value) => Cell::Real(*value),
            Stored::Int(value) => Cell::Int(*value),
            Stored::Text(range) => Cell::Text(std::str::from_utf8(bytes(range)).unwrap_or_default()),
            Stored::Blob(range) => Cell::Blob(bytes(range)),
        })
    }

    /// Bytes that they hold in memory, about.
    #[must_use]
    pub const fn weight(&self) -> usize {
        self.cells.len() * size_of::<Stored>() + self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_went_in() {
        let rows = [
            [Cell::Real(0.5), Cell::Null, Cell::Text("é")],
            [Cell::Int(-7), Cell::Blob(b"\xff"), Cell::Text("")],
        ];
        let mut values = Values::new(3);
        rows.iter().for_each(|row| values.push(row));
        values.push(&[Cell::Int(1)]);
        assert_eq!(values.len(), 3);
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(values.row(index).collect::<Vec<_>>(), row);
        }
        assert_eq!(values.row(2).collect::<Vec<_>>(), [Cell::Int(1), Cell::Null, Cell::Null]);
        assert_eq!(values.row(3).count(), 0);
        assert_eq!(Values::new(0).len(), 0);
    }
}
