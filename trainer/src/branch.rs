//! A branch: a job that starts from another job's checkpoint and cools down, so that a release can be cut
//! from a job that never ends, without changing that job.
//!
//! A branch has its own name, which its draws and evaluations carry, and its own folder. Everything else
//! comes from its parent: weights, moments, averages, the position in the stream, the number of rows.

use std::path::{Path, PathBuf};

use perennial_program::error::{Failure, Kind, ProgramError};
use perennial_schemas::id::Step;

use crate::checkpoint::{self, State};
use crate::config::Config;
use crate::job::agree;
use crate::report::collect::CONFIG;

/// The user's request for a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The step of a checkpoint in the parent's folder, or the folder of any checkpoint; absent: the parent's
    /// newest checkpoint.
    pub from: Option<String>,
    /// The branch's folder.
    pub out: PathBuf,
    /// Steps of the cool-down.
    pub steps: u64,
    /// The branch's name; absent: `<job>-cooldown-<step>`.
    pub name: Option<String>,
}

/// The settings of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The checkpoint it starts from; an existing branch resumes from its own.
    pub from: PathBuf,
    /// The differences from the parent's configuration, as `key=value`.
    pub settings: Vec<String>,
}

/// A branch that cannot be created or resumed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BranchError {
    /// Its folder is its parent's folder, or inside it.
    #[error("a branch cannot be kept in `{out}`: that is in the folder of the job, which must not change")]
    Inside {
        /// The requested folder.
        out: PathBuf,
    },
    /// Its folder holds something else.
    #[error("`{out}` holds {what}")]
    Other {
        /// The requested folder.
        out: PathBuf,
        /// What it holds.
        what: String,
    },
    /// The parent has no checkpoint of this step.
    #[error("`{folder}` has no complete checkpoint of step {step}; it has {have}")]
    NoStep {
        /// The parent's folder.
        folder: PathBuf,
        /// The requested step.
        step: u64,
        /// The steps that it has.
        have: String,
    },
    /// The job is itself a cool-down.
    #[error("job `{0}` is itself a cool-down: it cannot be branched")]
    Cooling(String),
    /// The folder's name is not UTF-8.
    #[error("`{}` is not UTF-8", .0.display())]
    Text(PathBuf),
}

impl ProgramError for BranchError {
    fn kind(&self) -> Kind {
        match self {
            Self::Inside { .. } | Self::Cooling(_) | Self::Text(_) => Kind::Config,
            Self::Other { .. } => Kind::Conflict,
            Self::NoStep { .. } => Kind::NotFound,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Inside { .. } | Self::Other { .. } => Some("give `--out` another folder".into()),
            Self::NoStep { .. } => Some("omit `--from` for the newest checkpoint".into()),
            Self::Cooling(_) => Some("branch from a checkpoint of its parent job".into()),
            Self::Text(_) => None,
        }
    }
}

/// The settings of the requested branch of the job that `config` describes; `digest` is that of its reading
/// plan. Writes nothing.
///
/// # Errors
/// [`BranchError`], and [`JobError`](crate::job::JobError) if the checkpoint has another configuration.
pub fn decide(config: &Config, digest: &str, asked: &Asked) -> Result<Branch, Failure> {
    apart(asked, &config.job.folder)?;
    let existing = checkpoint::complete(&asked.out)?.pop();
    let BranchPoint { checkpoint, step, name } = match existing {
        Some((_, path)) => resumed_branch(config, asked, &checkpoint::state(&path)?)?,
        None => new_branch(config, digest, asked)?,
    };
    if let Some(folder) = job_folder(&checkpoint) {
        apart(asked, &folder)?;
    }
    let out = asked.out.to_str().ok_or_else(|| BranchError::Text(asked.out.clone()))?;
    let settings = vec![
        format!("job.name={name}"),
        format!("job.folder={out}"),
        format!("schedule.cooldown.from={step}"),
        format!("schedule.cooldown.steps={}", asked.steps),
        format!("run.steps={}", step.0.saturating_add(asked.steps)),
    ];
    Ok(Branch { from: checkpoint, settings })
}

/// The folder of the job that the checkpoint belongs to; `None` for a copy outside of a job's folder.
fn job_folder(checkpoint: &Path) -> Option<PathBuf> {
    let folder = real(checkpoint).parent()?.to_owned();
    folder.join(CONFIG).is_file().then_some(folder)
}

/// Refuses to keep a branch in its parent's folder.
fn apart(asked: &Asked, parent: &Path) -> Result<(), BranchError> {
    if real(&asked.out).starts_with(real(parent)) {
        return Err(BranchError::Inside { out: asked.out.clone() });
    }
    Ok(())
}

/// The start of a branch: its parent's checkpoint and step, and the branch's name.
struct BranchPoint {
    checkpoint: PathBuf,
    step: Step,
    name: String,
}

/// The start of a branch that already has a checkpoint; it does not depend on the parent's later progress.
fn resumed_branch(config: &Config, asked: &Asked, state: &State) -> Result<BranchPoint, Failure> {
    let other = |what: String| BranchError::Other { out: asked.out.clone(), what };
    let Some(branched) = &state.branched else {
        return Err(other(format!("job `{}`, which is not a branch", state.job)).into());
    };
    // The checkpoint may have been removed: a job keeps only its newest ones.
    let same = |from: &String| match from.parse::<u64>() {
        Ok(step) => step == branched.step.0,
        Err(_) => {
            let path = Path::new(from);
            let model = |state: State| state.model().cloned();
            real(path) == real(&branched.checkpoint)
                || checkpoint::state(path).is_ok_and(|state| model(state).as_ref() == Some(&branched.model))
        }
    };
    if !asked.from.as_ref().is_none_or(same) {
        return Err(other(format!("a branch of step {} of job `{}`", branched.step, branched.job)).into());
    }
    if branched.job != config.job.name || asked.name.as_ref().is_some_and(|name| *name != state.job) {
        return Err(other(format!("the branch `{}` of job `{}`", state.job, branched.job)).into());
    }
    Ok(BranchPoint { checkpoint: branched.checkpoint.clone(), step: branched.step, name: state.job.clone() })
}

fn new_branch(config: &Config, digest: &str, asked: &Asked) -> Result<BranchPoint, Failure> {
    let checkpoint = match &asked.from {
        None => checkpoint::latest(&config.job.folder)?,
        Some(from) => match from.parse::<u64>() {
            Ok(step) => checkpoint_of_step(&config.job.folder, step)?,
            Err(_) => real(Path::new(from)),
        },
    };
    let state = checkpoint::state(&checkpoint)?;
    agree(&state, config, digest, &checkpoint)?;
    if state.train_config.schedule.cooldown.is_some() {
        return Err(BranchError::Cooling(state.job).into());
    }
    let name = asked.name.clone().unwrap_or_else(|| format!("{}-cooldown-{}", state.job, state.step));
    Ok(BranchPoint { checkpoint, step: state.step, name })
}

fn checkpoint_of_step(folder: &Path, step: u64) -> Result<PathBuf, Failure> {
    let all = checkpoint::complete(folder)?;
    if let Some((_, path)) = all.iter().find(|(other, _)| other.0 == step) {
        return Ok(path.clone());
    }
    let have: Vec<String> = all.iter().map(|(step, _)| step.to_string()).collect();
    let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
    Err(BranchError::NoStep { folder: folder.to_owned(), step, have }.into())
}

/// The path with links resolved, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        (Err(_), ..) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_checkpoint_lies_in_the_folder_it_is_relative_to() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(real(Path::new("step-10")).parent(), Some(here.as_path()));
        assert_eq!(job_folder(Path::new("step-10")), None, "not a job's folder");
        let folder = tempfile::tempdir().unwrap();
        let step = folder.path().join("step-10");
        assert_eq!(job_folder(&step), None);
        std::fs::write(folder.path().join(CONFIG), "").unwrap();
        assert_eq!(job_folder(&step), Some(real(folder.path())));
    }
}
