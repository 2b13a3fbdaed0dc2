//! Reads one file of bytes: recognises its generation, finds its position, decodes it to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;
use perennial_program::error::ProgramError as _;
use perennial_schemas::table::records::Reason;
use xxhash_rust::xxh3::Xxh3Default;

use super::blocks::Blocks;
use super::cut::{Cutter, Last};
use super::walk::{Found, Packing, Walk, packing};
use super::{
    End, FileName, MARKED, Outlet, Position, SourceError, digest, mark, marked_length, parquet, record,
};
use crate::block::{Fault, Place};
use crate::config::{self, Format, Record};

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
    /// Files that are read when they look the same once more.
    unsettled: BTreeMap<FileName, Stamp>,
    /// By source, how many files its last look passed over.
    passed: BTreeMap<String, usize>,
    /// By source, what could not be read when it was last tried: it was warned of.
    refused: BTreeMap<String, BTreeSet<PathBuf>>,
}

impl Files {
    /// Reads what `found` has beyond its position; with `waits`, its end may not be its last.
    pub(super) fn read(
        &mut self,
        source: &config::Source,
        found: &Found,
        waits: bool,
        blocks: &mut Blocks,
    ) -> Result<(), End> {
        blocks.outlet.go_on()?;
        let input = Input { source, found };
        let Some((file, stamp)) = self.admit(source, input.open())? else { return Ok(()) };
        let name: FileName = (source.name.as_str().into(), Some(Arc::clone(&found.relative)));
        if let Some(refused) = self.refused.get_mut(&source.name) {
            refused.remove(&found.path);
        }
        if self.seen.get(&name) == Some(&stamp) {
            return Ok(());
        }
        let whole = source.format == Format::Text && source.record == Record::File;
        if whole && waits && self.unsettled.get(&name) != Some(&stamp) {
            self.unsettled.insert(name, stamp);
            return Ok(());
        }
        self.unsettled.remove(&name);
        let known = blocks.position(&name);
        if source.format == Format::Parquet {
            parquet::read(input, &file, stamp.0, known, waits, blocks)?;
        } else if whole {
            input.whole(&file, known, waits, blocks)?;
        } else if let Some(start) = input.start(&file, stamp.0, known, &blocks.outlet)? {
            input.records(start, waits, blocks)?;
        }
        self.seen.insert(name, stamp);
        Ok(())
    }

    /// Passes over what the system does not let be read of a folder: one file must not end all sources.
    pub(super) fn admit<T>(
        &mut self,
        source: &config::Source,
        opened: Result<Option<T>, SourceError>,
    ) -> Result<Option<T>, SourceError> {
        match opened {
            Err(error) if denied(&error).is_some_and(|path| path != Path::new(&source.path)) => {
                self.refuse(source, &error);
                Ok(None)
            }
            other => other,
        }
    }

    /// Warns of what cannot be read, once until it can.
    pub(super) fn refuse(&mut self, source: &config::Source, error: &SourceError) {
        let path = error.path().to_owned();
        if self.refused.entry(source.name.clone()).or_default().insert(path) {
            let hint = error.hint().unwrap_or_default();
            tracing::warn!(source = source.name, %error, hint, "passed over until it can be read");
        }
    }

    /// After a look at a source: of files that are not there any more nothing is kept.
    pub(super) fn forget(&mut self, source: &config::Source, walk: &Walk) {
        let found: BTreeSet<&str> = walk.found.iter().map(|found| found.relative.as_ref()).collect();
        let stays = |(of, path): &FileName| {
            **of != *source.name || path.as_deref().is_some_and(|path| found.contains(path))
        };
        self.seen.retain(|name, _| stays(name));
        self.unsettled.retain(|name, _| stays(name));
        let listed: BTreeSet<&Path> = walk.found.iter().map(|found| found.path.as_path()).collect();
        let still = |path: &Path| {
            let refused = walk.refused.iter().any(|error| error.path() == path);
            refused || listed.contains(path)
        };
        if let Some(refused) = self.refused.get_mut(&source.name) {
            refused.retain(|path| still(path));
        }
    }

    /// How many files need not be opened again, or wait to look the same.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.seen.len() + self.unsettled.len()
    }

    /// How many files are passed over with a warning.
    #[cfg(test)]
    pub(super) fn warned(&self) -> usize {
        self.refused.values().map(BTreeSet::len).sum()
    }

    /// Says which files of a source are passed over, when their number changed.
    pub(super) fn pass_over(&mut self, source: &config::Source, passed: &[String]) {
        let before = self.passed.insert(source.name.clone(), passed.len()).unwrap_or(0);
        if let Some(first) = passed.first().filter(|_| before != passed.len()) {
            let files = passed.len();
            tracing::info!(
                source = source.name,
                files,
                first,
                "files are passed over: their endings are not of the source's format"
            );
        }
        for path in passed.iter().filter(|_| before != passed.len()) {
            tracing::debug!(source = source.name, path, "file is passed over");
        }
    }
}

/// What the user that runs the program may not read, if that is the error.
fn denied(error: &SourceError) -> Option<&Path> {
    match error {
        SourceError::Io { path, source, .. } if source.kind() == ErrorKind::PermissionDenied => Some(path),
        _ => None,
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
pub(super) struct Input<'a> {
    pub source: &'a config::Source,
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
        outlet: &Outlet,
    ) -> Result<Option<Start>, End> {
        let Some(known) = known else { return Ok(self.fresh(file, 0)?) };
        Ok(match self.resume(file, length, known, outlet)? {
            Resumed::At(start) => Some(start),
            Resumed::Nothing => None,
            Resumed::Replaced => self.fresh(file, self.next_generation(Some(known)))?,
        })
    }

    /// The generation of a file that is not the one that was known.
    pub(super) fn next_generation(self, known: Option<Position>) -> u64 {
        let Some(known) = known else { return 0 };
        let generation = known.generation + 1;
        tracing::info!(
            source = self.source.name,
            path = %self.found.path.display(),
            generation,
            "file was replaced, changed or mended: reading it from its beginning"
        );
        generation
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
    fn resume(self, file: &Arc<File>, length: u64, known: Position, outlet: &Outlet) -> Result<Resumed, End> {
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
            let skipped =
                if broken.is_none() { self.skip(&mut rest, missing, &mut broken, outlet)? } else { 0 };
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
    fn records(self, start: Start, waits: bool, blocks: &mut Blocks) -> Result<(), End> {
        let Start { place, at, ready, mut broken, mut rest } = start;
        blocks.begin(place);
        let mut cutter = Cutter::new(record(self.source), at);
        cutter.feed(blocks, &ready)?;
        let mut chunk = vec![0; CHUNK];
        while broken.is_none() {
            blocks.outlet.go_on()?;
            match self.read(&mut rest, &mut chunk)? {
                Ok(0) => break,
                Ok(count) => cutter.feed(blocks, chunk.get(..count).unwrap_or_default())?,
                Err(fault) => broken = Some(fault),
            }
        }
        let last = match broken {
            // What is being written looks cut off until it is complete.
            Some(fault) if waits && fault.reason == Reason::Truncated => Last::Growing,
            Some(fault) => Last::Broken(fault),
            None if waits => Last::Growing,
            None => Last::Whole,
        };
        cutter.finish(blocks, last)
    }

    /// Reads a file that is one document, unless it is the one that is known.
    fn whole(
        self,
        file: &Arc<File>,
        known: Option<Position>,
        waits: bool,
        blocks: &mut Blocks,
    ) -> Result<(), End> {
        let mut rest = self.decoder(file, 0)?;
        let mut cutter = Cutter::new(Record::File, 0);
        let mut hash = Xxh3Default::new();
        let mut chunk = vec![0; CHUNK];
        let (mut length, mut broken) = (0, None);
        while broken.is_none() {
            blocks.outlet.go_on()?;
            match self.read(&mut rest, &mut chunk)? {
                Ok(0) => break,
                Ok(count) => {
                    let bytes = chunk.get(..count).unwrap_or_default();
                    hash.update(bytes);
                    length += count as u64;
                    cutter.feed(blocks, bytes)?;
                }
                Err(fault) => broken = Some(fault),
            }
        }
        let head = digest(hash.digest128(), length);
        let same = known.is_some_and(|known| known.head == head && known.broken == broken.is_some());
        let growing = waits && broken.as_ref().is_some_and(|fault| fault.reason == Reason::Truncated);
        if same || growing || length == 0 && broken.is_none() {
            blocks.truncate(0);
            return Ok(());
        }
        blocks.begin(self.place(self.next_generation(known), head));
        cutter.finish(blocks, broken.map_or(Last::Whole, Last::Broken))
    }

    pub(super) fn place(self, generation: u64, head: Option<i64>) -> Place {
        let path = Some(Arc::clone(&self.found.relative));
        let fields = Arc::new(self.source.fields.clone());
        let config::Source { format, record, .. } = *self.source;
        Place {
            source: self.source.name.as_str().into(),
            path,
            generation,
            fingerprint: head,
            format,
            record,
            fields,
        }
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
    fn skip(
        self,
        from: &mut dyn Read,
        count: u64,
        broken: &mut Option<Fault>,
        outlet: &Outlet,
    ) -> Result<u64, End> {
        let mut chunk = vec![0; CHUNK];
        let mut skipped = 0;
        while skipped < count {
            outlet.go_on()?;
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

    pub(super) fn failed(self, act: &'static str, source: std::io::Error) -> SourceError {
        SourceError::Io { name: self.source.name.clone(), act, path: self.found.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, gzip, source};
    use super::*;

    #[test]
    fn stop_is_heeded_on_the_way_to_a_position_in_packed_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl.gz");
        let lines = "line\n".repeat(10_000);
        std::fs::write(&path, gzip(lines.as_bytes())).unwrap();
        let source = source("s", &path);
        let found = Found { relative: "a.jsonl.gz".into(), path: path.clone() };
        let input = Input { source: &source, found: &found };
        let bench = Bench::default();
        let known = Position { head: mark(lines.as_bytes()), end: lines.len() as u64, ..Position::default() };
        let file = Arc::new(File::open(&path).unwrap());
        let start = || input.start(&file, 0, Some(known), &bench.blocks.outlet);
        assert!(matches!(start(), Ok(Some(Start { at: 50_000, .. }))));
        bench.stop.trigger();
        assert!(matches!(start(), Err(End::Halted)));
    }
}
