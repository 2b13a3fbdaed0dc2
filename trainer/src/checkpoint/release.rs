//! What a job leaves to be used: its last weights, their averages, and the ways from its start to them.
//!
//! ```text
//! <dir>/release/step-<n>/live.safetensors              the last weights
//!                        average-<window>.safetensors  their average over that many steps
//!                        average-<window>@<A>.safetensors  start + A (average - start)
//!                        release.json                   what they are, the size and hash of each
//! ```
//!
//! Each file holds the tensors of a `model.safetensors`, in whose place it can be put. The folder is
//! written as `step-<n>.partial` and renamed: it is complete, or not there. Nothing removes it but the
//! release of the same step that takes its place.

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

/// Which weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// The window of an average, or `None` for the last weights.
    window: Option<u32>,
    /// How far from the start to them; `None` for all the way.
    share: Option<f64>,
}

impl Weights {
    /// The last weights.
    pub const LIVE: Self = Self { window: None, share: None };

    /// All that a job leaves: the last weights, the average of each window, and the interpolation of each
    /// share towards each average; towards the last weights where no average is kept.
    #[must_use]
    pub fn all(windows: &[u32], shares: &[f64]) -> Vec<Self> {
        let averages = || windows.iter().map(|window| Self { window: Some(*window), share: None });
        let mut ends: Vec<Self> = averages().collect();
        if ends.is_empty() {
            ends.push(Self::LIVE);
        }
        let ways =
            ends.iter().flat_map(|end| shares.iter().map(|share| Self { share: Some(*share), ..*end }));
        std::iter::once(Self::LIVE).chain(averages()).chain(ways).collect()
    }

    /// What they are called in evaluations and files: `live`, `average-120`, `average-120@0.85`.
    #[must_use]
    pub fn name(&self) -> String {
        let end = self.window.map_or_else(|| "live".to_owned(), |window| format!("average-{window}"));
        self.share.map_or(end.clone(), |share| format!("{end}@{share}"))
    }

    /// Whether they lie between the start and another end.
    #[must_use]
    pub const fn is_interpolated(&self) -> bool {
        self.share.is_some()
    }

    /// Their values, in the order of the model's parameters; `start` is read where they are interpolated.
    /// Nothing where the learner keeps no such average, or a start is needed and not given.
    ///
    /// # Errors
    /// [`TorchError`] where libtorch refuses.
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

/// What a release says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// The job.
    pub job: String,
    /// Steps it had made.
    pub step: Step,
    /// Tokens of text it had read.
    pub tokens: u64,
    /// The shape of the model.
    pub model: ModelConfig,
    /// What the job started from: an interpolation's other end.
    pub start: Start,
    /// The job that it branched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branched: Option<Branched>,
    /// The files, by name.
    pub files: BTreeMap<String, FileNote>,
}

/// Writes the release of a job whose last checkpoint is `checkpoint`. One that is there already is left
/// alone where it holds the same.
///
/// # Errors
/// [`CheckpointError`] where the disk or libtorch refuses; a release that was there is then there still.
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
    // A kill between the two renames left the old release under its other name alone.
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

/// Whether the release `done` is of the checkpoint's weights, and of all the weights wanted.
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

/// What a release says of itself; nothing where there is none, or one that this program does not know.
///
/// # Errors
/// [`CheckpointError::Read`] where it cannot be read.
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
