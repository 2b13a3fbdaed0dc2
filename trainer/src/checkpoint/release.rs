//! The release of a job: its last weights, their averages, and interpolations from its initial weights to
//! them.
//!
//! ```text
//! <dir>/release/step-<n>/live.safetensors              the last weights
//!                        average-<window>.safetensors  their average over that many steps
//!                        average-<window>@<A>.safetensors  start + A (average - start)
//!                        release.json                   the job, the model, and the size and hash of each file
//! ```
//!
//! Each file has the tensors of a `model.safetensors` and can be used as one. The folder is written as
//! `step-<n>.partial` and renamed: it is complete or absent. Only a release of the same step replaces it.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use perennial_schemas::id::Step;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{
    Branched, CheckpointError, FORMAT, FileNote, JobPosition, Start, state, sync_folder, write_json,
    write_tensors,
};
use crate::average::interpolate;
use crate::model::{Decoder, ModelConfig};
use crate::step::Learner;
use crate::torch::{TorchError, guarded};

/// The folder of a job's releases.
pub const FOLDER: &str = "release";
const MANIFEST: &str = "release.json";

/// A set of weights of a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// The window of an average, or `None` for the last weights.
    window: Option<u32>,
    /// The interpolation share from the start; `None` without interpolation.
    share: Option<f64>,
}

impl Weights {
    /// The last weights.
    pub const LIVE: Self = Self { window: None, share: None };

    /// All weights of a release: the last ones, the average of each window, and the interpolation with each
    /// share towards each average; without averages, towards the last weights.
    #[must_use]
    pub fn all(windows: &[u32], shares: &[f64]) -> Vec<Self> {
        let averages = || windows.iter().map(|window| Self { window: Some(*window), share: None });
        let mut ends: Vec<Self> = averages().collect();
        if ends.is_empty() {
            ends.push(Self::LIVE);
        }
        let interpolated =
            ends.iter().flat_map(|end| shares.iter().map(|share| Self { share: Some(*share), ..*end }));
        std::iter::once(Self::LIVE).chain(averages()).chain(interpolated).collect()
    }

    /// Their name in evaluations and files: `live`, `average-120`, `average-120@0.85`.
    #[must_use]
    pub fn name(&self) -> String {
        let end = self.window.map_or_else(|| "live".to_owned(), |window| format!("average-{window}"));
        self.share.map_or(end.clone(), |share| format!("{end}@{share}"))
    }

    /// Whether they are interpolated.
    #[must_use]
    pub const fn is_interpolated(&self) -> bool {
        self.share.is_some()
    }

    /// Their values, in the order of the model's parameters; interpolated ones need `start`. `None` if the
    /// learner has no such average, or `start` is needed but absent.
    ///
    /// # Errors
    /// [`TorchError`] if libtorch fails.
    pub fn values(
        &self,
        learner: &Learner,
        start: Option<&Decoder>,
    ) -> Result<Option<Vec<Tensor>>, TorchError> {
        let end = match self.window {
            None => Some(detached(learner.model().tensors())),
            Some(window) => {
                let average = learner.averages().all().iter().find(|average| average.window() == window);
                average.map(|average| detached(average.values()))
            }
        };
        match (end, self.share, start) {
            (None, ..) | (_, Some(_), None) => Ok(None),
            (end, None, _) => Ok(end),
            (Some(end), Some(share), Some(start)) => {
                let start = detached(start.tensors());
                guarded(|| Some(interpolate(&start, &end, share)))
            }
        }
    }
}

fn detached<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<Tensor> {
    tensors.into_iter().map(Tensor::detach).collect()
}

/// The content of `release.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// The job.
    pub job: String,
    /// Steps that it had done.
    pub step: Step,
    /// Tokens of text that it had read.
    pub tokens: u64,
    /// The shape of the model.
    pub model: ModelConfig,
    /// The job's initial weights, from which interpolation starts.
    pub start: Start,
    /// The checkpoint that it branched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branched: Option<Branched>,
    /// The files, by name.
    pub files: BTreeMap<String, FileNote>,
}

/// Writes the release of a job whose last checkpoint is `checkpoint`. An existing release with the same
/// content is kept.
///
/// # Errors
/// [`CheckpointError`] if the disk or libtorch fails; an existing release is then still there.
pub fn write(
    checkpoint: &Path,
    learner: &Learner,
    position: &JobPosition,
    all: &[Weights],
    start: Option<&Decoder>,
) -> Result<PathBuf, CheckpointError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Write { path, source }
    };
    let folder = checkpoint.parent().unwrap_or(Path::new("")).join(FOLDER);
    let name = format!("step-{}", learner.at());
    let [done, partial, replaced] =
        ["", ".partial", ".replaced"].map(|end| folder.join(format!("{name}{end}")));
    let mut manifest = Manifest {
        format: FORMAT,
        job: position.job.clone(),
        step: learner.at(),
        tokens: position.tokens,
        model: learner.train_config().model.clone(),
        start: position.start.clone(),
        branched: position.branched.clone(),
        files: BTreeMap::new(),
    };
    // A kill between the two renames left the old release under its second name only.
    if !done.exists() && replaced.exists() {
        fs::rename(&replaced, &done).map_err(io(&replaced))?;
    }
    if is_there(&done, checkpoint, &manifest, all)? {
        return Ok(done);
    }
    fs::create_dir_all(&folder).map_err(io(&folder))?;
    sync_folder(folder.parent().filter(|parent| parent.is_dir()).unwrap_or(Path::new(".")))?;
    for left in [&partial, &replaced] {
        match fs::remove_dir_all(left) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(left)(error)),
            _ => {}
        }
    }
    fs::create_dir(&partial).map_err(io(&partial))?;
    for weights in all {
        let Some(values) = weights.values(learner, start)? else { continue };
        let names = learner.model().parameters().iter().map(|parameter| parameter.name.clone());
        let file = file(weights);
        let note = write_tensors(&partial.join(&file), &names.zip(values).collect::<Vec<_>>())?;
        manifest.files.insert(file, note);
    }
    write_json(&partial.join(MANIFEST), &manifest)?;
    sync_folder(&partial)?;
    if done.exists() {
        fs::rename(&done, &replaced).map_err(io(&done))?;
    }
    fs::rename(&partial, &done).map_err(io(&done))?;
    sync_folder(&folder)?;
    if replaced.exists() {
        fs::remove_dir_all(&replaced).map_err(io(&replaced))?;
    }
    Ok(done)
}

fn file(weights: &Weights) -> String {
    format!("{}.safetensors", weights.name())
}

/// Whether the release `done` holds the checkpoint's weights and all the wanted ones.
fn is_there(
    done: &Path,
    checkpoint: &Path,
    wanted: &Manifest,
    all: &[Weights],
) -> Result<bool, CheckpointError> {
    let Some(found) = manifest(done)? else { return Ok(false) };
    let names: std::collections::BTreeSet<String> = all.iter().map(file).collect();
    let same_files = names.iter().eq(found.files.keys())
        && state(checkpoint)?.model() == found.files.get(&file(&Weights::LIVE));
    Ok(same_files && Manifest { files: BTreeMap::new(), ..found } == *wanted)
}

/// The manifest of a release; `None` if there is no release, or if this program does not know its format.
///
/// # Errors
/// [`CheckpointError::Read`] if it cannot be read.
pub fn manifest(release: &Path) -> Result<Option<Manifest>, CheckpointError> {
    let path = release.join(MANIFEST);
    match fs::read(&path) {
        Ok(json) => Ok(serde_json::from_slice(&json).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckpointError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests;
