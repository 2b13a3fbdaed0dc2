//! The lock of a shard in a local store. It names its holder, so that a second daemon can report it.
//!
//! The lock is the operating system's (`flock`) and ends with the process, even if that is killed. It only
//! gives an early message: on any store the fence of each commit keeps two writers apart.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::{Store, StoreError};
use perennial_schemas::id::Shard;

/// Holds a shard until it is dropped. On a store without a local folder it does nothing.
#[derive(Debug)]
pub struct ShardLock {
    _file: Option<File>,
}

impl ShardLock {
    /// Takes the lock of `shard`, as `holder` (program, process, host).
    ///
    /// # Errors
    /// [`StoreError::Held`] if another process holds it, [`StoreError::Io`] if the file cannot be created.
    pub fn take(store: &Store, shard: &Shard, holder: &str) -> Result<Self, StoreError> {
        let Some(root) = store.url().local_path() else {
            return Ok(Self { _file: None });
        };
        let folder = root.join("_lock");
        let path = folder.join(shard.as_str());
        let failed = |act| {
            let path = path.display().to_string();
            move |source| StoreError::Io { act, path, source }
        };
        std::fs::create_dir_all(&folder).map_err(failed("create the folder of"))?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open the lock file"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let named = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let holder = if named { holder.trim().to_owned() } else { "another process".to_owned() };
                return Err(StoreError::Held {
                    shard: shard.to_string(),
                    url: store.url().to_string(),
                    holder,
                });
            }
            Err(error) => return Err(failed("lock")(error.into())),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed("clear the lock file"))?;
        file.write_all(holder.as_bytes()).map_err(failed("write the lock file"))?;
        Ok(Self { _file: Some(file) })
    }
}
