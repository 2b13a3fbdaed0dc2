//! Reads one file: recognises its generation, finds its position, decodes it to its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;
use schemas::table::records::Reason;

use super::lines::{Last, Lines};
use super::walk::{Found, Packing, packing};
use super::{End, FileName, MARKED, Position, SourceError, mark, marked_length};
use crate::block::{Fault, Place};
use crate::config;

/// The largest window a zstd frame may have, as a power of two: 128 MiB.
const WINDOW_LOG: u32 = 27;

/// Decoded bytes read at once.
const CHUNK: usize = 128 * 1024;

/// What a file looked like from outside when it was last read.
type Stamp = (u64, Option<SystemTime>);

/// The files of all sources.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Files that need not be opened again while they look the same.
    seen: BTreeMap<FileName, Stamp>,
}

impl Files {
    /// Reads what `found` has beyond its position; with `waits`, its end may not be its last.
    pub(super) fn read(
        &mut self,
        source: &config::Source,
        found: &Found,
        waits: bool,
        lines: &mut Lines,
    ) -> Result<(), End> {
        lines.outlet.go_on()?;
        let input = Input { source, found };
        let Some((file, stamp)) = input.open()? else { return Ok(()) };
        let name: FileName = (source.name.as_str().into(), Some(Arc::clone(&found.relative)));
        if self.seen.get(&name) == Some(&stamp) {
            return Ok(());
        }
        let known = lines.position(&name);
        if let Some(start) = input.start(&file, stamp.0, known)? {
            input.lines(start, waits, lines)?;
        }
        self.seen.insert(name, stamp);
        Ok(())
    }
}

/// Where reading begins.
struct Start {
    place: Place,
    at: u64,
    /// Bytes from `at` on that were decoded already.
    ready: Vec<u8>,
    /// What broke right behind them, if anything did.
    broken: Option<Fault>,
    rest: Box<dyn Read>,
}

/// What a known position means for a file as it is now.
enum Resumed {
    At(Start),
    /// Nothing beyond the position, and nothing to say about it.
    Nothing,
    /// It is another file than the one that was read.
    Replaced,
}

/// One file of a source.
#[derive(Clone, Copy)]
struct Input<'a> {
    source: &'a config::Source,
    found: &'a Found,
}

impl Input<'_> {
    /// The file and what it looks like; `None` where it was removed since it was listed.
    fn open(self) -> Result<Option<(Arc<File>, Stamp)>, SourceError> {
        let file = match File::open(&self.found.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(source = self.source.name, path = %self.found.path.display(), "file is gone");
                return Ok(None);
            }
            Err(error) => return Err(self.failed("open", error)),
        };
        let metadata = file.metadata().map_err(|error| self.failed("look at", error))?;
        Ok(Some((Arc::new(file), (metadata.len(), metadata.modified().ok()))))
    }

    /// Where to go on reading, `None` where there is nothing new.
    fn start(
        self,
        file: &Arc<File>,
        length: u64,
        known: Option<Position>,
    ) -> Result<Option<Start>, SourceError> {
        let Some(known) = known else { return self.fresh(file, 0) };
        match self.resume(file, length, known)? {
            Resumed::At(start) => Ok(Some(start)),
            Resumed::Nothing => Ok(None),
            Resumed::Replaced => {
                let generation = known.generation + 1;
                tracing::info!(
                    source = self.source.name,
                    path = %self.found.path.display(),
                    generation,
                    "file was replaced, shortened or mended: reading it from its beginning"
                );
                self.fresh(file, generation)
            }
        }
    }

    /// The beginning of a generation; `None` of an empty file.
    fn fresh(self, file: &Arc<File>, generation: u64) -> Result<Option<Start>, SourceError> {
        let mut rest = self.decoder(file, 0)?;
        let (ready, broken) = self.take(&mut rest, MARKED)?;
        if ready.is_empty() && broken.is_none() {
            return Ok(None);
        }
        let place = self.place(generation, mark(&ready));
        Ok(Some(Start { place, at: 0, ready, broken, rest }))
    }

    /// Goes to a known position, if the file still is what it was.
    fn resume(self, file: &Arc<File>, length: u64, known: Position) -> Result<Resumed, SourceError> {
        let mut rest = self.decoder(file, 0)?;
        let (first, mut broken) = self.take(&mut rest, known.head.map_or(0, marked_length))?;
        if mark(&first) != known.head {
            return Ok(Resumed::Replaced);
        }
        // A break was counted as one byte, which the file itself does not have.
        let goal = known.end.saturating_sub(u64::from(known.broken));
        let mut ready = Vec::new();
        let beyond = usize::try_from(goal).ok().and_then(|goal| first.get(goal..));
        if self.packing() == Packing::Plain {
            if length < goal {
                return Ok(Resumed::Replaced);
            }
            rest = self.decoder(file, goal)?;
        } else if let Some(beyond) = beyond {
            ready = beyond.to_vec();
        } else {
            let missing = goal - first.len() as u64;
            let skipped = if broken.is_none() { self.skip(&mut rest, missing, &mut broken)? } else { 0 };
            if skipped < missing {
                return Ok(Resumed::Replaced);
            }
        }
        if known.broken {
            if ready.is_empty() && broken.is_none() {
                (ready, broken) = self.take(&mut rest, 1)?;
            }
            let breaks_there = ready.is_empty() && broken.is_some();
            return Ok(if breaks_there { Resumed::Nothing } else { Resumed::Replaced });
        }
        let place = self.place(known.generation, known.head);
        Ok(Resumed::At(Start { place, at: goal, ready, broken, rest }))
    }

    /// Reads from `start` to the end.
    fn lines(self, start: Start, waits: bool, lines: &mut Lines) -> Result<(), End> {
        let Start { place, at, ready, mut broken, mut rest } = start;
        lines.begin(place, at);
        lines.feed(&ready)?;
        let mut chunk = vec![0; CHUNK];
        while broken.is_none() {
            lines.outlet.go_on()?;
            match self.read(&mut rest, &mut chunk)? {
                Ok(0) => break,
                Ok(count) => lines.feed(chunk.get(..count).unwrap_or_default())?,
                Err(fault) => broken = Some(fault),
            }
        }
        lines.finish(match broken {
            // What is being written looks cut off until it is complete.
            Some(fault) if waits && fault.reason == Reason::Truncated => Last::Growing,
            Some(fault) => Last::Broken(fault),
            None if waits => Last::Growing,
            None => Last::Whole,
        })
    }

    fn place(self, generation: u64, head: Option<i64>) -> Place {
        let path = Some(Arc::clone(&self.found.relative));
        let fields = Arc::new(self.source.fields.clone());
        Place { source: self.source.name.as_str().into(), path, generation, head, fields }
    }

    fn packing(self) -> Packing {
        packing(&self.found.relative).0
    }

    /// The file's decoded bytes, from the stored byte `at` on.
    fn decoder(self, file: &Arc<File>, at: u64) -> Result<Box<dyn Read>, SourceError> {
        let mut file = Arc::clone(file);
        file.seek(SeekFrom::Start(at)).map_err(|error| self.failed("read", error))?;
        Ok(match self.packing() {
            Packing::Plain => Box::new(file),
            Packing::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(CHUNK, file))),
            Packing::Zstd => {
                let mut decoder =
                    zstd::Decoder::new(file).map_err(|error| self.failed("begin to decompress", error))?;
                decoder
                    .window_log_max(WINDOW_LOG)
                    .map_err(|error| self.failed("begin to decompress", error))?;
                Box::new(decoder)
            }
        })
    }

    /// Reads once: how many bytes (0 at the end), or what broke.
    fn read(self, from: &mut dyn Read, into: &mut [u8]) -> Result<Result<usize, Fault>, SourceError> {
        loop {
            let error = match from.read(into) {
                Ok(count) => return Ok(Ok(count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            // What the system itself refuses says nothing about the bytes of the file.
            if self.packing() == Packing::Plain || error.raw_os_error().is_some() {
                return Err(self.failed("read", error));
            }
            return Ok(Err(if error.kind() == ErrorKind::UnexpectedEof {
                Fault { reason: Reason::Truncated, detail: "the compressed data end too early".to_owned() }
            } else {
                Fault {
                    reason: Reason::CorruptSource,
                    detail: format!("the compressed data do not decode ({error})"),
                }
            }));
        }
    }

    /// Up to `count` bytes, fewer at the end or where it breaks.
    fn take(self, from: &mut dyn Read, count: usize) -> Result<(Vec<u8>, Option<Fault>), SourceError> {
        let mut taken = vec![0; count];
        let mut filled = 0;
        let mut broken = None;
        while let Some(room) = taken.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.read(from, room)? {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(fault) => {
                    broken = Some(fault);
                    break;
                }
            }
        }
        taken.truncate(filled);
        Ok((taken, broken))
    }

    /// Passes over up to `count` bytes and says how many there were.
    fn skip(self, from: &mut dyn Read, count: u64, broken: &mut Option<Fault>) -> Result<u64, SourceError> {
        let mut chunk = vec![0; CHUNK];
        let mut skipped = 0;
        while skipped < count {
            let most = usize::try_from(count - skipped).unwrap_or(CHUNK).min(CHUNK);
            match self.read(from, chunk.get_mut(..most).unwrap_or_default())? {
                Ok(0) => break,
                Ok(count) => skipped += count as u64,
                Err(fault) => {
                    *broken = Some(fault);
                    break;
                }
            }
        }
        Ok(skipped)
    }

    fn failed(self, act: &'static str, source: std::io::Error) -> SourceError {
        SourceError::Io { name: self.source.name.clone(), act, path: self.found.path.clone(), source }
    }
}
