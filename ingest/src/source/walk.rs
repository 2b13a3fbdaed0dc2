//! Which files a source has, in order.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SourceError;
use crate::config::{self, Format};

/// A file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Below the source's root, with `/`.
    pub relative: Arc<str>,
    /// Where it lies.
    pub path: PathBuf,
}

/// The files of a source.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Those that are read, by their path below the source's root.
    pub found: Vec<Found>,
    /// Those that are passed over, because their ending is not one of the source's format.
    pub passed: Vec<String>,
    /// Those below the source's root that cannot be read as they are now.
    pub refused: Vec<SourceError>,
}

/// The files of `source`. A source that is one file has its name, whatever its ending.
///
/// Hidden files and folders (a leading dot: half-written files of many programs) are passed over, and
/// links to folders are not followed, as they may lead in circles. Where the source waits for files,
/// a path that is not there yet has none. What lies in a folder may be removed while it is listed; what of
/// it has a name that is not UTF-8, or may not be listed, is refused without keeping the others.
pub(super) fn files(source: &config::Source, waits: bool) -> Result<Walk, SourceError> {
    let root = Path::new(&source.path);
    let failed = |act, path: &Path, error| SourceError::Io {
        name: source.name.clone(),
        act,
        path: path.to_owned(),
        source: error,
    };
    let metadata = match fs::metadata(root) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound && waits => return Ok(Walk::default()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(SourceError::Missing { name: source.name.clone(), path: root.to_owned() });
        }
        Err(error) => return Err(failed("look at", root, error)),
    };
    if !metadata.is_dir() {
        let name = root.file_name().unwrap_or(root.as_os_str());
        let unreadable = || SourceError::Name { name: source.name.clone(), path: root.to_owned() };
        let relative = name.to_str().ok_or_else(unreadable)?.into();
        return Ok(Walk { found: vec![Found { relative, path: root.to_owned() }], ..Walk::default() });
    }
    let mut walk = Walk::default();
    let mut open = vec![(String::new(), root.to_owned())];
    while let Some((prefix, folder)) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.kind() == ErrorKind::PermissionDenied && folder != root => {
                walk.refused.push(failed("list", &folder, error));
                continue;
            }
            Err(error) => return Err(failed("list", &folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", &folder, error))?;
            let path = entry.path();
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                // Removed since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("look at", &path, error)),
            };
            let name = entry.file_name();
            let lossy = name.to_string_lossy();
            if lossy.starts_with('.') {
                continue;
            }
            if !kind.is_dir() && !is_read(source.format, &lossy) {
                walk.passed.push(format!("{prefix}{lossy}"));
                continue;
            }
            let Some(name) = name.to_str() else {
                walk.refused.push(SourceError::Name { name: source.name.clone(), path });
                continue;
            };
            let relative = format!("{prefix}{name}");
            if kind.is_dir() {
                open.push((format!("{relative}/"), path));
            } else if kind.is_file() || fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                walk.found.push(Found { relative: relative.into(), path });
            }
        }
    }
    walk.found.sort_by(|a, b| a.relative.cmp(&b.relative));
    walk.passed.sort();
    Ok(walk)
}

/// How the bytes of a file are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    Plain,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

/// The packing that the ending of a name tells.
pub(super) fn packing(name: &str) -> (Packing, &str) {
    let ends = |end: &str| {
        let (stem, tail) = name.split_at_checked(name.len().checked_sub(end.len())?)?;
        tail.eq_ignore_ascii_case(end).then_some(stem)
    };
    if let Some(stem) = ends(".gz") {
        (Packing::Gzip, stem)
    } else if let Some(stem) = ends(".zst") {
        (Packing::Zstd, stem)
    } else {
        (Packing::Plain, name)
    }
}

/// Whether a file of this name, found in a folder, is one of the format.
fn is_read(format: Format, name: &str) -> bool {
    // Parquet packs its pages itself.
    let stem = if format == Format::Parquet { name } else { packing(name).1 };
    let ending = stem.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let endings: &[&str] = match format {
        Format::Jsonl => &["jsonl", "ndjson", "json"],
        Format::Text => &["txt"],
        Format::Parquet => &["parquet"],
    };
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}
