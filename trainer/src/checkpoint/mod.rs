//! Checkpoints: everything that a job needs to resume as if it had never stopped.
//!
//! ```text
//! <dir>/step-<n>/model.safetensors     the weights, names as Hugging Face's Llama has them
//!                trainer.safetensors   exp_avg.*, exp_avg_sq.*, step.*, average.<window>.*, rng.cpu, rng.cuda
//!                state.json            the job's position, and the size and hash of the two files
//! ```
//!
//! A checkpoint is written to `step-<n>.partial`, flushed to the disk, and renamed: a folder named `step-<n>`
//! is complete. An older one of the same step is `step-<n>.replaced` between the two renames. The newest
//! checkpoint is found by listing the folder; there is no pointer that can be stale.

mod error;
pub mod release;
mod tensors;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use perennial_program::failpoint;
use perennial_schemas::id::Step;
use perennial_schemas::seed::Seed;
use perennial_schemas::wire::Position;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::model::Decoder;
use crate::model::decoder::WeightsError;
use crate::step::{Learner, TrainConfig};
use crate::torch;

pub use error::CheckpointError;
pub use tensors::{TensorFile, note, write as write_tensors};

/// The format of checkpoints. It changes whenever another version of the program could misread them.
pub const FORMAT: u32 = 3;

const MODEL: &str = "model.safetensors";
const TRAINER: &str = "trainer.safetensors";
const STATE: &str = "state.json";
const CUDA_GENERATOR: &str = "rng.cuda";

/// The size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileNote {
    /// Bytes.
    pub bytes: u64,
    /// xxh3-64 of them, 16 hexadecimal digits.
    pub xxh3: String,
}

/// The origin of a job's initial weights, from which they can be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Start {
    /// Random weights of this seed.
    Seed(Seed),
    /// Weights in a file.
    File {
        /// Its path.
        path: PathBuf,
        /// Its size and hash.
        note: FileNote,
    },
}

/// The checkpoint that a branch started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branched {
    /// The parent job.
    pub job: String,
    /// Steps that the parent had done.
    pub step: Step,
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// Size and hash of its weights.
    pub model: FileNote,
}

/// The content of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// The job.
    pub job: String,
    /// Steps done.
    pub step: Step,
    /// Tokens of text read, without padding.
    pub tokens: u64,
    /// Where the next ticket begins.
    pub next: Position,
    /// Digest of the job's reading plan.
    pub config: String,
    /// The learner's configuration.
    pub train_config: TrainConfig,
    /// The origin of the initial weights; for a branch, that of its parent.
    pub start: Start,
    /// The checkpoint that it branched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branched: Option<Branched>,
    /// Updates of the averages.
    pub averaged: u64,
    /// The version of libtorch.
    pub libtorch: String,
    /// Its threads.
    pub threads: u16,
    /// Its instruction set.
    pub isa: String,
    /// The other files of the checkpoint.
    pub files: BTreeMap<String, FileNote>,
}

/// A job's position: what a checkpoint holds in addition to the learner's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPosition {
    /// The job.
    pub job: String,
    /// Tokens of text read.
    pub tokens: u64,
    /// Where the next ticket begins.
    pub next: Position,
    /// Digest of the job's reading plan.
    pub config: String,
    /// The origin of the initial weights.
    pub start: Start,
    /// The checkpoint that it branched from.
    pub branched: Option<Branched>,
}

impl State {
    /// Size and hash of its weights.
    #[must_use]
    pub fn model(&self) -> Option<&FileNote> {
        self.files.get(MODEL)
    }

    /// The job's position.
    #[must_use]
    pub fn position(&self) -> JobPosition {
        JobPosition {
            job: self.job.clone(),
            tokens: self.tokens,
            next: self.next.clone(),
            config: self.config.clone(),
            start: self.start.clone(),
            branched: self.branched.clone(),
        }
    }
}

/// Writes a checkpoint of the learner to `<dir>/step-<n>` and removes all except the newest `keep` (at least
/// 1). An older `step-<n>` is replaced.
///
/// # Errors
/// [`CheckpointError`] if the disk or libtorch fails; then `<dir>` still holds its previous checkpoints.
pub fn save(
    dir: &Path,
    learner: &Learner,
    position: &JobPosition,
    keep: usize,
) -> Result<PathBuf, CheckpointError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Write { path, source }
    };
    fs::create_dir_all(dir).map_err(at(dir))?;
    sweep(dir)?;
    let done = dir.join(format!("step-{}", learner.at()));
    let partial = dir.join(format!("step-{}.partial", learner.at()));
    fs::create_dir(&partial).map_err(at(&partial))?;
    let mut files = BTreeMap::new();
    for (name, tensors) in [(MODEL, weights(&learner.model)), (TRAINER, rest(learner)?)] {
        files.insert(name.to_owned(), tensors::write(&partial.join(name), &tensors)?);
    }
    let state = State {
        format: FORMAT,
        job: position.job.clone(),
        step: learner.at(),
        tokens: position.tokens,
        next: position.next.clone(),
        config: position.config.clone(),
        train_config: learner.train_config().clone(),
        start: position.start.clone(),
        branched: position.branched.clone(),
        averaged: learner.averages.updates(),
        libtorch: torch::version()?,
        threads: u16::try_from(tch::get_num_threads()).unwrap_or(1),
        isa: torch::cpu_capability()?,
        files,
    };
    write_json(&partial.join(STATE), &state)?;
    sync_folder(&partial)?;
    failpoint::hit("train.checkpoint.before_rename");
    if done.exists() {
        let old = dir.join(format!("step-{}.replaced", learner.at()));
        fs::rename(&done, &old).map_err(at(&done))?;
    }
    fs::rename(&partial, &done).map_err(at(&done))?;
    failpoint::hit("train.checkpoint.after_rename");
    sync_folder(dir)?;
    let all = complete(dir)?;
    for (_, old) in all.iter().rev().skip(keep.max(1)) {
        // Renamed first, so that a folder named `step-<n>` is never partly removed.
        let removed = old.with_extension("removed");
        fs::rename(old, &removed).map_err(at(old))?;
    }
    sweep(dir)?;
    Ok(done)
}

fn write_json(path: &Path, state: &impl Serialize) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::Write { path: path.to_owned(), source };
    let broken =
        |error: serde_json::Error| CheckpointError::Broken { path: path.to_owned(), why: error.to_string() };
    let mut json = serde_json::to_vec_pretty(state).map_err(broken)?;
    json.push(b'\n');
    let mut file = fs::File::create_new(path).map_err(io)?;
    file.write_all(&json).and_then(|()| file.sync_all()).map_err(io)
}

fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    let synced = fs::File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
}

/// Removes the leftovers of an interrupted save.
fn sweep(dir: &Path) -> Result<(), CheckpointError> {
    let kept = complete(dir)?;
    let io = |source| CheckpointError::Write { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let ours =
            path.extension().is_some_and(|end| end == "partial" || end == "replaced" || end == "removed");
        if ours && step_of(&path).is_some() && !kept.iter().any(|(_, kept)| *kept == path) {
            fs::remove_dir_all(&path).map_err(|source| CheckpointError::Write { path, source })?;
        }
    }
    Ok(())
}

/// The step of `step-<n>`, whatever its extension.
fn step_of(path: &Path) -> Option<Step> {
    let stem = path.file_stem()?.to_str()?;
    let step = stem.strip_prefix("step-")?.parse().ok()?;
    // This program never writes `step-007`.
    (format!("step-{step}") == stem).then_some(Step(step))
}

/// The complete checkpoints in a folder, oldest first; an absent folder has none.
///
/// # Errors
/// [`CheckpointError::Read`] if the folder cannot be read.
pub fn complete(dir: &Path) -> Result<Vec<(Step, PathBuf)>, CheckpointError> {
    let io = |source| CheckpointError::Read { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let complete = match path.extension() {
            None => true,
            // The save that replaced it was interrupted between its two renames.
            Some(end) => end == "replaced" && !path.with_extension("").exists(),
        };
        if let (true, Some(step)) = (complete, step_of(&path)) {
            all.push((step, path));
        }
    }
    all.sort();
    Ok(all)
}

/// The newest complete checkpoint in a folder.
///
/// # Errors
/// [`CheckpointError::None`] if there is no checkpoint, [`CheckpointError::Read`] if the folder cannot be
/// read.
pub fn latest(dir: &Path) -> Result<PathBuf, CheckpointError> {
    let newest = complete(dir)?.pop().map(|(_, path)| path);
    newest.ok_or_else(|| CheckpointError::None { path: dir.to_owned() })
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Resumed {
    /// The learner.
    pub learner: Learner,
    /// The content of `state.json`.
    pub state: State,
}

/// Reads a checkpoint and restores everything: weights, moments, averages and the state of the random number
/// generators. `change` may alter the training configuration; the returned state holds the altered one.
///
/// # Errors
/// [`CheckpointError::Unusable`] with the reason and the previous complete checkpoint. A missing part is
/// always an error: nothing is skipped or filled with defaults.
pub fn load(
    path: &Path,
    device: Device,
    change: impl FnOnce(&mut TrainConfig),
) -> Result<Resumed, CheckpointError> {
    read(path, device, change).map_err(|error| {
        let step = step_of(path);
        let siblings = path.parent().and_then(|dir| complete(dir).ok()).unwrap_or_default();
        let before = siblings.into_iter().rev().find(|(other, _)| step.is_some_and(|step| *other < step));
        CheckpointError::Unusable {
            path: path.to_owned(),
            previous: before.map(|(_, path)| path),
            source: Box::new(error),
        }
    })
}

/// The content of a checkpoint's `state.json`.
///
/// # Errors
/// [`CheckpointError`] where it cannot be read or has another format.
pub fn state(path: &Path) -> Result<State, CheckpointError> {
    let file = path.join(STATE);
    let json = fs::read(&file).map_err(|source| CheckpointError::Read { path: file.clone(), source })?;
    let broken =
        |error: serde_json::Error| CheckpointError::Broken { path: file.clone(), why: error.to_string() };
    // Another format has other keys: the number is read first.
    let value: serde_json::Value = serde_json::from_slice(&json).map_err(broken)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(FORMAT) => Err(CheckpointError::Newer { path: file, found }),
        Some(found) if found < u64::from(FORMAT) => Err(CheckpointError::Older { path: file, found }),
        _ => serde_json::from_value(value).map_err(broken),
    }
}

fn read(
    path: &Path,
    device: Device,
    change: impl FnOnce(&mut TrainConfig),
) -> Result<Resumed, CheckpointError> {
    let mut state = state(path)?;
    change(&mut state.train_config);
    for name in [MODEL, TRAINER] {
        let file = path.join(name);
        let found = note(&file)?;
        match state.files.get(name) {
            Some(wanted) if *wanted == found => {}
            Some(wanted) if wanted.bytes != found.bytes => {
                let why = format!("it is {} bytes long, not {}", found.bytes, wanted.bytes);
                return Err(CheckpointError::Broken { path: file, why });
            }
            Some(_) => {
                return Err(CheckpointError::Broken { path: file, why: "its bytes have changed".into() });
            }
            None => {
                return Err(CheckpointError::Broken { path: file, why: format!("{STATE} does not name it") });
            }
        }
    }
    let train_config =
        |source| CheckpointError::TrainConfig { path: path.to_owned(), source: Box::new(source) };
    // Only the shapes matter: `read_into` overwrites every tensor or fails.
    let blank = torch::guarded(|| Decoder::blank(&state.train_config.model, device))?;
    let model = blank.map_err(|error| train_config(error.into()))?;
    let mut learner = Learner::with_model(&state.train_config, model).map_err(train_config)?;
    TensorFile::open(&path.join(MODEL))?.read_into(&mut weights(&learner.model))?;
    let mut targets = rest(&learner)?;
    let mut file = TensorFile::open(&path.join(TRAINER))?;
    // A job may resume on another kind of device, which has other generators.
    if file.has(CUDA_GENERATOR) != device.is_cuda() {
        tracing::warn!(path = %path.display(), "the checkpoint is from another kind of device: its random number generator is reset");
        targets.retain(|(name, _)| name != CUDA_GENERATOR);
        file.forget(CUDA_GENERATOR);
    }
    file.read_into(&mut targets)?;
    for (name, value) in &targets {
        match name.as_str() {
            "rng.cpu" => torch::set_rng_state(Device::Cpu, value)?,
            CUDA_GENERATOR => torch::set_rng_state(device, value)?,
            _ => {}
        }
    }
    learner.averages.set_updates(state.averaged);
    learner.step = state.step;
    Ok(Resumed { learner, state })
}

fn weights(model: &Decoder) -> Vec<(String, Tensor)> {
    // Detached tensors share the memory, and libtorch allows writing to them.
    model.parameters().iter().map(|parameter| (parameter.name.clone(), parameter.tensor.detach())).collect()
}

/// The learner's state except its weights.
fn rest(learner: &Learner) -> Result<Vec<(String, Tensor)>, CheckpointError> {
    let names: Vec<&str> =
        learner.model.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
    let mut all = learner.optimizer.state();
    all.extend(learner.averages.state(&names));
    all.push(("rng.cpu".into(), torch::rng_state(Device::Cpu)?));
    let device = learner.model.device();
    if device.is_cuda() {
        all.push((CUDA_GENERATOR.into(), torch::rng_state(device)?));
    }
    Ok(all)
}

/// The weights that [`Start`] names.
///
/// # Errors
/// [`CheckpointError`] if the file is missing, changed or does not fit the model.
pub fn start_model(
    start: &Start,
    train_config: &TrainConfig,
    device: Device,
) -> Result<Decoder, CheckpointError> {
    let (path, made) = match start {
        Start::Seed(seed) => {
            (PathBuf::from("random weights"), Decoder::init(&train_config.model, *seed, device))
        }
        Start::File { path, note: wanted } => {
            if note(path)? != *wanted {
                return Err(CheckpointError::Broken {
                    path: path.clone(),
                    why: "its bytes have changed".into(),
                });
            }
            (path.clone(), read_model(path, train_config, device)?)
        }
    };
    made.map_err(|source| CheckpointError::TrainConfig { path, source: Box::new(source.into()) })
}

/// [`Start::File`] of the weights at `path`: a file of tensors, or a folder with `model.safetensors`, such as
/// a checkpoint or a model of Hugging Face.
///
/// # Errors
/// [`CheckpointError::Read`] if the file cannot be read.
pub fn start_file(path: &Path) -> Result<Start, CheckpointError> {
    let path = if path.is_dir() { path.join(MODEL) } else { path.to_owned() };
    let note = note(&path)?;
    Ok(Start::File { path, note })
}

fn read_model(
    path: &Path,
    train_config: &TrainConfig,
    device: Device,
) -> Result<Result<Decoder, WeightsError>, CheckpointError> {
    let mut file = TensorFile::open(path)?;
    let read = file.names().into_iter().map(|name| file.read(&name).map(|tensor| (name, tensor)));
    let weights = read.collect::<Result<BTreeMap<String, Tensor>, _>>()?;
    Ok(Decoder::from_weights(&train_config.model, weights, device))
}

#[cfg(test)]
mod tests;
