//! Files of named tensors in the safetensors format, written and read one tensor at a time.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tch::{Device, Kind, Tensor};
use xxhash_rust::xxh3::Xxh3;

use super::{CheckpointError, FileNote};

/// The largest header in bytes; a header has a few hundred bytes per tensor.
const HEADER_LIMIT: u64 = 100_000_000;

/// The number types of checkpoints.
const TYPES: [(Kind, Dtype); 4] = [
    (Kind::Float, Dtype::F32),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
    (Kind::Uint8, Dtype::U8),
];

fn dtype(kind: Kind) -> Option<Dtype> {
    TYPES.iter().find(|(known, _)| *known == kind).map(|(_, dtype)| *dtype)
}

fn kind(dtype: Dtype) -> Option<Kind> {
    TYPES.iter().find(|(_, known)| *known == dtype).map(|(kind, _)| *kind)
}

/// A writer that hashes and counts its bytes.
struct Hashing<W> {
    inner: W,
    hash: Xxh3,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.inner.write_all(bytes)
    }
}

/// Writes `tensors` to a new file and flushes it to the disk. They are sorted by type, larger ones first,
/// then by name, so that every tensor is aligned and the same tensors give the same bytes.
///
/// # Errors
/// [`CheckpointError`] if the disk or libtorch fails.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<FileNote, CheckpointError> {
    let io = |source| CheckpointError::Write { path: path.to_owned(), source };
    let mut sorted: Vec<(&str, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    sorted.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.kind().elt_size_in_bytes()), *name));
    let mut end = 0;
    let mut infos = Vec::with_capacity(sorted.len());
    for (name, tensor) in &sorted {
        let kind = tensor.kind();
        let dtype = dtype(kind).ok_or_else(|| CheckpointError::Type {
            path: path.to_owned(),
            name: (*name).to_owned(),
            found: format!("{kind:?}"),
        })?;
        let start = end;
        end += tensor.numel() * kind.elt_size_in_bytes();
        let shape = tensor.size().iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
        infos.push(((*name).to_owned(), TensorInfo { dtype, shape, data_offsets: (start, end) }));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let broken = |why: String| CheckpointError::Broken { path: path.to_owned(), why };
    let header = Metadata::new(Some(metadata), infos).map_err(|error| broken(error.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|error| broken(error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let file = File::create_new(path).map_err(io)?;
    let mut out = Hashing { inner: BufWriter::with_capacity(1 << 20, file), hash: Xxh3::new(), bytes: 0 };
    out.put(&(header.len() as u64).to_le_bytes()).and_then(|()| out.put(&header)).map_err(io)?;
    let mut bytes = Vec::new();
    for (_, tensor) in sorted {
        let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
        bytes.resize(tensor.numel() * tensor.kind().elt_size_in_bytes(), 0);
        tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(|error| broken(error.to_string()))?;
        out.put(&bytes).map_err(io)?;
    }
    let note = FileNote { bytes: out.bytes, xxh3: format!("{:016x}", out.hash.digest()) };
    out.inner.into_inner().map_err(|error| io(error.into_error()))?.sync_all().map_err(io)?;
    Ok(note)
}

/// An open file of tensors with a checked header.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    data: u64,
    infos: BTreeMap<String, TensorInfo>,
}

impl TensorFile {
    /// Opens a file and checks that its header describes the whole file.
    ///
    /// # Errors
    /// [`CheckpointError::Read`] if it cannot be read, [`CheckpointError::Broken`] if it is truncated, too
    /// long or not a safetensors file.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Read { path: path.to_owned(), source };
        let broken = |why: String| CheckpointError::Broken { path: path.to_owned(), why };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(|_| broken(format!("it ends after {length} bytes")))?;
        let header_length = u64::from_le_bytes(size);
        let data = header_length.saturating_add(8);
        if header_length > HEADER_LIMIT || data > length {
            return Err(broken(format!("its header would be {header_length} bytes, the file is {length}")));
        }
        let mut header = vec![0; usize::try_from(header_length).unwrap_or(0)];
        file.read_exact(&mut header).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| broken(error.to_string()))?;
        let wanted = data.saturating_add(header.data_len() as u64);
        if wanted != length {
            return Err(broken(format!("it is {length} bytes long, its header describes {wanted}")));
        }
        let infos = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { path: path.to_owned(), file, data, infos })
    }

    /// The names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.infos.keys().cloned().collect()
    }

    /// Whether it has a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.infos.contains_key(name)
    }

    /// Ignores the tensor of this name from now on.
    pub fn forget(&mut self, name: &str) {
        self.infos.remove(name);
    }

    /// Reads one tensor to the CPU.
    ///
    /// # Errors
    /// [`CheckpointError`] if the file has no such tensor or cannot be read.
    pub fn read(&mut self, name: &str) -> Result<Tensor, CheckpointError> {
        let path = self.path.clone();
        let Some(info) = self.infos.get(name) else {
            return Err(CheckpointError::Names { path, missing: vec![name.to_owned()], extra: Vec::new() });
        };
        let Some(kind) = kind(info.dtype) else {
            return Err(CheckpointError::Type {
                path,
                name: name.to_owned(),
                found: format!("{:?}", info.dtype),
            });
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let from = SeekFrom::Start(self.data + start as u64);
        let read = self.file.seek(from).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
        let shape: Vec<i64> =
            info.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
        Tensor::f_from_data_size(&bytes, &shape, kind)
            .map_err(|error| CheckpointError::Broken { path, why: error.to_string() })
    }

    /// Reads every tensor of `targets` from the file into the target's memory, on its device.
    ///
    /// # Errors
    /// [`CheckpointError`] with the names that are missing, unexpected, or of another shape or type; no
    /// target has changed then.
    pub fn read_into(&mut self, targets: &mut [(String, Tensor)]) -> Result<(), CheckpointError> {
        let wanted: BTreeMap<&str, &Tensor> =
            targets.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let missing: Vec<String> = wanted
            .keys()
            .filter(|name| !self.infos.contains_key(**name))
            .map(|name| (*name).to_owned())
            .collect();
        let extra: Vec<String> =
            self.infos.keys().filter(|name| !wanted.contains_key(name.as_str())).cloned().collect();
        if !missing.is_empty() || !extra.is_empty() {
            return Err(CheckpointError::Names { path: self.path.clone(), missing, extra });
        }
        for (name, target) in targets.iter() {
            let Some(info) = self.infos.get(name) else { continue };
            let found: Vec<i64> =
                info.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
            let (name, path) = (name.clone(), self.path.clone());
            if found != target.size() {
                return Err(CheckpointError::Size { path, name, found, wanted: target.size() });
            }
            if kind(info.dtype) != Some(target.kind()) {
                return Err(CheckpointError::Type { path, name, found: format!("{:?}", info.dtype) });
            }
        }
        for (name, target) in targets.iter_mut() {
            let read = self.read(name)?;
            tch::no_grad(|| target.f_copy_(&read)).map_err(|error| CheckpointError::Broken {
                path: self.path.clone(),
                why: error.to_string(),
            })?;
        }
        Ok(())
    }
}

/// The size and hash of a file.
///
/// # Errors
/// [`CheckpointError::Read`] where it cannot be read.
pub fn note(path: &Path) -> Result<FileNote, CheckpointError> {
    let io = |source| CheckpointError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let (mut hash, mut bytes, mut block) = (Xxh3::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut block).map_err(io)?;
        if read == 0 {
            return Ok(FileNote { bytes, xxh3: format!("{:016x}", hash.digest()) });
        }
        hash.update(block.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}
