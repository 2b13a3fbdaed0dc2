//! The states of policies in the cache folder, so that an open offers only what has come since.
//!
//! A state names what it is of: the digest of the policy, the revision with a digest of the changes up to it, and
//! how many records there were. One that does not agree with the store is ignored; all can be deleted at any time.

use std::fs;
use std::path::{Path, PathBuf};

use perennial_schemas::id::Revision;
use perennial_store::Store;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::index::Counts;
use crate::index::cache::folder_of;

/// Layout of the files.
const FORMAT: u32 = 1;

/// The state of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Blocks that it was offered.
    pub offered: u64,
    /// The revision that it agrees with.
    pub revision: Revision,
    /// A digest of the changes up to that.
    pub log: u64,
    /// Records of what it was offered.
    pub counts: Counts,
    /// What the policy has saved.
    pub state: Vec<u8>,
}

/// The first line of a file; the rest is the state.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    policy: String,
    offered: u64,
    revision: Revision,
    log: u64,
    counts: Counts,
    /// A digest of the state.
    state: u64,
}

/// The states of the buffers of one store.
#[derive(Debug, Clone)]
pub struct States {
    folder: PathBuf,
}

impl States {
    /// In a cache folder, which many stores may share.
    #[must_use]
    pub fn new(folder: &Path, store: &Store) -> Self {
        Self { folder: folder_of(folder, store) }
    }

    fn path(&self, buffer: &str) -> PathBuf {
        self.folder.join(format!("buffer-{buffer}.state"))
    }

    /// The state of a buffer with this policy; `None` without a whole one.
    #[must_use]
    pub fn load(&self, buffer: &str, policy: &str) -> Option<Saved> {
        let bytes = fs::read(self.path(buffer)).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (line, state) = (bytes.get(..end)?, bytes.get(end + 1..)?);
        let header: Header = serde_json::from_slice(line).ok()?;
        let is_whole = header.format == FORMAT && header.policy == policy && header.state == xxh3_64(state);
        let Header { offered, revision, log, counts, .. } = header;
        is_whole.then(|| Saved { offered, revision, log, counts, state: state.to_vec() })
    }

    /// Replaces the state of a buffer.
    ///
    /// # Errors
    /// The folder cannot be written; what it had stays.
    pub fn save(&self, buffer: &str, policy: &str, saved: &Saved) -> std::io::Result<()> {
        let Saved { offered, revision, log, counts, ref state } = *saved;
        let (policy, digest) = (policy.to_owned(), xxh3_64(state));
        let header = Header { format: FORMAT, policy, offered, revision, log, counts, state: digest };
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(state);
        fs::create_dir_all(&self.folder)?;
        let path = self.path(buffer);
        // Of two processes that write at once each has a file of its own.
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &path));
        written.inspect_err(|_| drop(fs::remove_file(&partial)))
    }
}
