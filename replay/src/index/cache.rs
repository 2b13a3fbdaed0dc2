//! The segments of an index as files, so that an open reads what has come since, and not the whole store.
//!
//! ```text
//! <folder>/<store>/manifest.json        which version of `records` the segments are of
//!                  <name>.arrow         the segments; written once, under another name first
//!                  lock                 held by the process that writes
//! ```
//!
//! Everything here can be deleted at any time: it is made again from the store. A file that is missing, cut
//! short or of another format is reported and made again. Processes that map a file keep it when another one
//! replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_schemas::id::{Offset, Version};
use perennial_store::Store;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Segment, SegmentError};

/// Layout of the folder.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const LOCK: &str = "lock";
const PARTIAL: &str = "partial";

/// How far the store was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The version of `records`.
    pub version: Version,
    /// A digest of the entry of the log that made this version: another store, or one that was restored from
    /// a copy, has another one.
    pub entry: String,
    /// The first offset that was not read.
    pub limit: Offset,
    /// The next seq of each shard, as far as its rows were read.
    pub read: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    mark: Mark,
    segments: Vec<SegmentFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SegmentFile {
    name: String,
    records: u64,
    bytes: u64,
}

/// What the folder has of a store.
#[derive(Debug)]
pub struct Cached {
    /// How far it was read.
    pub mark: Mark,
    /// Its segments in order.
    pub segments: Vec<Arc<Segment>>,
}

/// The folder of one store.
#[derive(Debug, Clone)]
pub struct IndexCache {
    folder: PathBuf,
}

/// The folder of a store in a cache folder, which many stores may share.
#[must_use]
pub(crate) fn folder_of(folder: &Path, store: &Store) -> PathBuf {
    let identity = format!("{} {}", store.url(), store.secret());
    folder.join(format!("{:016x}", xxh3_64(identity.as_bytes())))
}

impl IndexCache {
    /// In `folder`, which many stores may share.
    #[must_use]
    pub fn new(folder: &Path, store: &Store) -> Self {
        Self { folder: folder_of(folder, store) }
    }

    /// What the folder has; `None`, with a message, if that cannot be used.
    #[must_use]
    pub fn load(&self) -> Option<Cached> {
        let path = self.folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the index in the cache folder cannot be read");
                return None;
            }
        };
        let manifest: Manifest = match serde_json::from_slice(&text) {
            Ok(Manifest { format: FORMAT, mark, segments }) => Manifest { format: FORMAT, mark, segments },
            Ok(Manifest { format, .. }) => {
                tracing::info!(path = %path.display(), format, "the index in the cache folder is of another release: it is made again");
                return None;
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the index in the cache folder is damaged: it is made again");
                return None;
            }
        };
        let mut segments = Vec::with_capacity(manifest.segments.len());
        for file in &manifest.segments {
            match self.open(file) {
                Ok(segment) => segments.push(Arc::new(segment)),
                Err(error) => {
                    let path = self.folder.join(&file.name);
                    tracing::warn!(path = %path.display(), error = %chain(&error), "a segment in the cache folder is damaged: the index is made again");
                    return None;
                }
            }
        }
        Some(Cached { mark: manifest.mark, segments })
    }

    fn open(&self, file: &SegmentFile) -> Result<Segment, SegmentError> {
        // A name that leads out of the folder is no name of a segment.
        if file.name.contains(['/', '\\']) {
            return Err(SegmentError::Content(format!("`{}` is not a name of a segment", file.name)));
        }
        let path = self.folder.join(&file.name);
        let found = fs::metadata(&path).map_err(|source| SegmentError::Io {
            act: "look at",
            path: path.clone(),
            source,
        })?;
        if found.len() != file.bytes {
            let why = format!("it has {} bytes, not {}", found.len(), file.bytes);
            return Err(SegmentError::Content(why));
        }
        let segment = Segment::open(&path)?;
        if segment.len() as u64 != file.records {
            return Err(SegmentError::Content(format!(
                "it has {} records, not {}",
                segment.len(),
                file.records
            )));
        }
        Ok(segment.named(&file.name))
    }

    /// Writes the segments that are not in the folder yet, and that all of them together are what the store
    /// had at `mark`; all of them, mapped. `None` if another process is writing.
    ///
    /// # Errors
    /// The folder cannot be written: what it had stays as it was.
    pub fn save(
        &self,
        mark: &Mark,
        segments: &[Arc<Segment>],
    ) -> Result<Option<Vec<Arc<Segment>>>, SegmentError> {
        let failed = |act, path: &Path| {
            let path = path.to_owned();
            move |source| SegmentError::Io { act, path, source }
        };
        fs::create_dir_all(&self.folder).map_err(failed("create", &self.folder))?;
        let lock = self.folder.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(failed("open", &lock))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let mut mapped = Vec::with_capacity(segments.len());
        let mut files = Vec::with_capacity(segments.len());
        for segment in segments {
            let (segment, file) = self.save_segment(mark, segment)?;
            mapped.push(segment);
            files.push(file);
        }
        let names: BTreeSet<String> = files.iter().map(|file| file.name.clone()).collect();
        let manifest = Manifest { format: FORMAT, mark: mark.clone(), segments: files };
        let json = serde_json::to_vec(&manifest).unwrap_or_default();
        self.replace(MANIFEST, |path| {
            let mut file = File::create(path)?;
            file.write_all(&json)?;
            file.sync_all()
        })?;
        self.clean(&names);
        Ok(Some(mapped))
    }

    /// The segment as a mapped file of the folder.
    fn save_segment(
        &self,
        mark: &Mark,
        segment: &Arc<Segment>,
    ) -> Result<(Arc<Segment>, SegmentFile), SegmentError> {
        let records = segment.len() as u64;
        let name = segment.name().map_or_else(
            || format!("{}-{}-{records}-v{}.arrow", segment.first(), segment.last(), mark.version),
            str::to_owned,
        );
        let path = self.folder.join(&name);
        let size = |path: &Path| fs::metadata(path).map(|found| found.len());
        if let (Some(_), Ok(bytes)) = (segment.name(), size(&path)) {
            return Ok((Arc::clone(segment), SegmentFile { name, records, bytes }));
        }
        let partial = self.partial(&name);
        let written = segment.write(&partial).and_then(|()| {
            fs::rename(&partial, &path).map_err(|source| SegmentError::Io {
                act: "rename",
                path: partial.clone(),
                source,
            })
        });
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written?;
        let bytes =
            size(&path).map_err(|source| SegmentError::Io { act: "look at", path: path.clone(), source })?;
        let mapped = Segment::open(&path)?.named(&name);
        Ok((Arc::new(mapped), SegmentFile { name, records, bytes }))
    }

    fn partial(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{PARTIAL}"))
    }

    fn replace(
        &self,
        name: &str,
        write: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> Result<(), SegmentError> {
        let (path, partial) = (self.folder.join(name), self.partial(name));
        let done = write(&partial).and_then(|()| fs::rename(&partial, &path));
        done.map_err(|source| {
            let _ = fs::remove_file(&partial);
            SegmentError::Io { act: "write", path, source }
        })
    }

    /// Removes what no manifest names: segments that were merged, and what a killed writer has left.
    fn clean(&self, names: &BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = name.ends_with(".arrow") || name.ends_with(PARTIAL);
            if is_ours && !names.contains(&name) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// An error with its cause.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
