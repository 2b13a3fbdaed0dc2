//! What a Parquet file says of itself at its end, and how its bytes are had.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use perennial_schemas::table::records::Reason;
use xxhash_rust::xxh3::xxh3_128;

use super::super::digest;
use super::{Broken, pages};
use crate::block::Fault;

/// The four bytes at both ends of a file.
const MAGIC: &[u8; 4] = b"PAR1";

/// The four bytes at the end of a file whose footer is encrypted.
const ENCRYPTED: &[u8; 4] = b"PARE";

/// The length of the footer and [`MAGIC`].
const TAIL: u64 = 8;

/// The longest footer that is read: decoded, it takes many times its bytes.
const LONGEST: u64 = 16 << 20;

/// The deepest nesting that a schema may have: readers walk it by recursion.
const DEEPEST: usize = 64;

/// The bytes of a file, read without a cursor. What the system refuses is remembered, because the reader of
/// Parquet tells it as it tells damage.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    file: Arc<File>,
    pub length: u64,
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Chunks {
    pub(super) fn new(file: Arc<File>, length: u64) -> Self {
        Self { file, length, failed: Arc::default() }
    }

    /// The first bytes, at most `count`.
    pub(super) fn first(&self, count: usize) -> io::Result<Vec<u8>> {
        let mut first = vec![0; usize::try_from(self.length).unwrap_or(count).min(count)];
        self.file.read_exact_at(&mut first, 0)?;
        Ok(first)
    }

    /// Bytes of the file, where it has them.
    fn bytes(&self, start: u64, count: usize) -> io::Result<Vec<u8>> {
        if start.checked_add(count as u64).is_none_or(|end| end > self.length) {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the bytes lie beyond the end of the file"));
        }
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, start).map_err(|error| self.note(error))?;
        Ok(bytes)
    }

    /// Remembers what the system refused.
    fn note(&self, error: io::Error) -> io::Error {
        let Some(code) = error.raw_os_error() else { return error };
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        io::Error::from_raw_os_error(code)
    }

    /// Runs a reader of Parquet, which may fail, and panics on some inputs.
    pub(super) fn run<T, E: std::fmt::Display>(
        &self,
        what: &str,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, Broken> {
        // Nothing that it leaves half done is used again.
        let result = catch_unwind(AssertUnwindSafe(read));
        if let Some(error) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Broken::Unreadable(error));
        }
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Broken::corrupt(format!("{what} ({})", shortened(&error.to_string())))),
            Err(_) => Err(Broken::corrupt(format!("{what} (its reader fails on it)"))),
        }
    }
}

/// Messages of the reader may hold what a hostile file says.
fn shortened(text: &str) -> String {
    text.chars().take(200).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Chunks {
    type T = From;

    fn get_read(&self, start: u64) -> Result<From, ParquetError> {
        Ok(From { chunks: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(self.bytes(start, length)?.into())
    }
}

/// The bytes of a file from some place on.
#[derive(Debug)]
pub(super) struct From {
    chunks: Chunks,
    at: u64,
}

impl Read for From {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.chunks.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = into.len().min(left);
        let into = into.get_mut(..most).unwrap_or_default();
        let count = self.chunks.file.read_at(into, self.at).map_err(|error| self.chunks.note(error))?;
        self.at += count as u64;
        Ok(count)
    }
}

/// What a file says of itself.
#[derive(Debug)]
pub(super) struct Footer {
    pub metadata: Arc<ParquetMetaData>,
    /// The columns, as whoever wrote them had them.
    pub schema: SchemaRef,
    /// By what its generation is recognised.
    pub head: Option<i64>,
    /// How many rows it has.
    pub rows: u64,
    /// By row group: the first row and how many there are.
    pub groups: Vec<(u64, u64)>,
}

impl Footer {
    /// Reads the footer.
    pub(super) fn read(chunks: &Chunks) -> Result<Self, Broken> {
        let bytes = stored(chunks)?;
        let head = digest(xxh3_128(&bytes), chunks.length);
        let said = "the footer does not decode";
        if !pages::is_shallow(&bytes, DEEPEST) {
            return Err(Broken::corrupt(format!(
                "its schema is damaged, or nested more than {DEEPEST} deep"
            )));
        }
        let metadata = Arc::new(chunks.run(said, || ParquetMetaDataReader::decode_metadata(&bytes))?);
        let options = ArrowReaderOptions::new();
        let arrow = chunks.run(said, || ArrowReaderMetadata::try_new(Arc::clone(&metadata), options))?;
        let mut rows: u64 = 0;
        let mut groups = Vec::new();
        for group in metadata.row_groups() {
            let count = u64::try_from(group.num_rows()).ok();
            let sum = count.and_then(|count| Some((count, rows.checked_add(count)?)));
            let Some((count, sum)) = sum.filter(|(_, sum)| i64::try_from(*sum).is_ok()) else {
                return Err(Broken::corrupt("its footer counts rows that cannot be"));
            };
            groups.push((rows, count));
            rows = sum;
        }
        Ok(Self { schema: Arc::clone(arrow.schema()), metadata, head, rows, groups })
    }
}

/// The bytes of the footer.
fn stored(chunks: &Chunks) -> Result<Vec<u8>, Broken> {
    let bytes = |start, count| match chunks.bytes(start, count) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.raw_os_error().is_some() => Err(Broken::Unreadable(error)),
        // It was shortened since it was opened.
        Err(_) => Err(truncated()),
    };
    let begins = bytes(0, chunks.length.min(4) as usize)?;
    if !MAGIC.starts_with(&begins) && !ENCRYPTED.starts_with(&begins) {
        return Err(Broken::corrupt("it does not begin as Parquet does"));
    }
    let Some(end) = chunks.length.checked_sub(TAIL).filter(|end| *end >= 4) else { return Err(truncated()) };
    let tail = bytes(end, TAIL as usize)?;
    let Some((length, magic)) = tail.split_first_chunk::<4>() else { return Err(truncated()) };
    if magic == ENCRYPTED {
        return Err(Broken::corrupt("its footer is encrypted"));
    }
    if magic != MAGIC {
        return Err(truncated());
    }
    let length = u32::from_le_bytes(*length);
    if u64::from(length) > LONGEST {
        return Err(Broken::corrupt(format!("its footer has {length} bytes, more than {LONGEST}")));
    }
    match end.checked_sub(u64::from(length)).filter(|start| *start >= 4) {
        Some(start) => bytes(start, length as usize),
        None => Err(Broken::corrupt(format!("its footer has {length} bytes, more than the file"))),
    }
}

fn truncated() -> Broken {
    let detail = "it ends without a footer".to_owned();
    Broken::Damaged(Fault { reason: Reason::Truncated, detail })
}
