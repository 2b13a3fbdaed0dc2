//! Errors of checkpoints.

use std::path::PathBuf;

use perennial_program::error::{Kind, ProgramError};

use super::FORMAT;
use crate::model::decoder::listed;
use crate::step::TrainConfigError;
use crate::torch::TorchError;

/// A checkpoint that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// A file is truncated, changed or malformed.
    #[error("`{path}` is damaged: {why}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Written by a newer program.
    #[error("`{path}` has format {found}; this program reads up to {FORMAT}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// Written by an older program.
    #[error("`{path}` has format {found}; this program reads format {FORMAT}")]
    Older {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// Tensors are missing or unexpected.
    #[error("`{path}` does not hold this job's tensors: missing {}, not expected {}", listed(.missing), listed(.extra))]
    Names {
        /// The file.
        path: PathBuf,
        /// Missing names.
        missing: Vec<String>,
        /// Unexpected names.
        extra: Vec<String>,
    },
    /// A tensor has another shape.
    #[error("`{name}` in `{path}` has shape {found:?}, not {wanted:?}")]
    Size {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<i64>,
        /// The expected shape.
        wanted: Vec<i64>,
    },
    /// A tensor has another type.
    #[error("`{name}` in `{path}` has numbers of type {found}")]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// The folder holds no checkpoint.
    #[error("`{path}` holds no checkpoint")]
    None {
        /// The folder.
        path: PathBuf,
    },
    /// The training configuration of the checkpoint is invalid.
    #[error("the learner of `{path}` cannot be created")]
    TrainConfig {
        /// The folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: Box<TrainConfigError>,
    },
    /// libtorch failed.
    #[error("libtorch cannot save or restore its state")]
    Torch(#[from] TorchError),
    /// A checkpoint cannot be used.
    #[error("checkpoint `{path}` cannot be used")]
    Unusable {
        /// The checkpoint.
        path: PathBuf,
        /// The newest complete one before it.
        previous: Option<PathBuf>,
        /// The reason.
        #[source]
        source: Box<Self>,
    },
}

impl ProgramError for CheckpointError {
    fn kind(&self) -> Kind {
        match self {
            Self::Write { .. } | Self::Read { .. } => Kind::Unavailable,
            Self::Broken { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::Names { .. }
            | Self::Size { .. }
            | Self::Type { .. } => Kind::Corrupt,
            Self::None { .. } => Kind::NotFound,
            Self::TrainConfig { source, .. } => source.kind(),
            Self::Torch(error) => error.kind(),
            Self::Unusable { source, .. } => source.kind(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Newer { .. } => {
                Some("resume with the release of perennial-train that wrote it, or a newer one".into())
            }
            Self::Older { .. } => Some(
                "resume with the release of perennial-train that wrote it, or start a new job with its weights: \
                 set `job.start` to the checkpoint's folder"
                    .into(),
            ),
            Self::Unusable { path, previous, source } => {
                let back = previous.as_ref().map_or_else(
                    || {
                        format!(
                            "move `{}` away and run again: there is no complete checkpoint before it, so the \
                             job starts from its beginning",
                            path.display()
                        )
                    },
                    |previous| {
                        format!(
                            "move `{}` away and run again: the job resumes from `{}`, the complete checkpoint \
                             before it",
                            path.display(),
                            previous.display()
                        )
                    },
                );
                Some(source.hint().map_or_else(|| back.clone(), |hint| format!("{hint}; or {back}")))
            }
            Self::TrainConfig { source, .. } => source.hint(),
            _ => None,
        }
    }
}
