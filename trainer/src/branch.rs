//! A branch: a job that begins at another's checkpoint and cools down, so that a release can be cut from
//! a job that never ends, without touching it.
//!
//! It has a name of its own, which its draws and evaluations go by, and a folder of its own. Everything
//! else is its parent's: weights, moments, averages, the place in the stream, the number of rows.

use std::path::{Path, PathBuf};

use perennial_program::error::{Failure, Fault, Kind};
use perennial_schemas::id::Step;

use crate::checkpoint::{self, State};
use crate::config::Config;
use crate::job::agree;
use crate::report::collect::CONFIG;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The step of a checkpoint in the parent's folder, or the folder of any checkpoint; absent: the
    /// parent's newest.
    pub from: Option<String>,
    /// The branch's folder.
    pub out: PathBuf,
    /// Steps of the cool-down.
    pub steps: u64,
    /// The branch's name; absent: `<job>-cooldown-<step>`.
    pub name: Option<String>,
}

/// A branch that is decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The checkpoint it begins at; a branch that is there already goes on from its own.
    pub from: PathBuf,
    /// What differs from the parent's configuration, as `key=value`.
    pub settings: Vec<String>,
}

/// A branch that cannot be made, or gone on with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BranchError {
    /// Its folder is its parent's, or in it.
    #[error("a branch cannot be kept in `{out}`: that is in the folder of the job, which it must not touch")]
    Inside {
        /// The folder asked for.
        out: PathBuf,
    },
    /// Its folder holds something else.
    #[error("`{out}` holds {what}")]
    Other {
        /// The folder asked for.
        out: PathBuf,
        /// What it holds.
        what: String,
    },
    /// The parent has no checkpoint of this step.
    #[error("`{folder}` has no complete checkpoint of step {step}; it has {have}")]
    NoStep {
        /// The parent's folder.
        folder: PathBuf,
        /// The step asked for.
        step: u64,
        /// Those it has.
        have: String,
    },
    /// The job cools down already.
    #[error("job `{0}` cools down already: nothing branches off it")]
    Cooling(String),
    /// The folder's name is no text.
    #[error("`{}` is not UTF-8", .0.display())]
    Text(PathBuf),
}

impl Fault for BranchError {
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
            Self::NoStep { .. } => Some("leave `--from` out for the newest".into()),
            Self::Cooling(_) => Some("branch from a checkpoint of the job before it".into()),
            Self::Text(_) => None,
        }
    }
}

/// Decides on the branch that is asked for of the job that `config` describes, whose reading has this
/// digest. Nothing is written.
///
/// # Errors
/// [`BranchError`], and [`JobError`](crate::job::JobError) where the checkpoint is of another
/// configuration.
pub fn decide(config: &Config, digest: &str, asked: &Asked) -> Result<Branch, Failure> {
    apart(asked, &config.job.folder)?;
    let own = checkpoint::complete(&asked.out)?.pop();
    let (from, step, name) = match own {
        Some((_, path)) => goes_on(config, asked, &checkpoint::state(&path)?)?,
        None => begins(config, digest, asked)?,
    };
    if let Some(home) = home(&from) {
        apart(asked, &home)?;
    }
    let out = asked.out.to_str().ok_or_else(|| BranchError::Text(asked.out.clone()))?;
    let settings = vec![
        format!("job.name={name}"),
        format!("job.folder={out}"),
        format!("schedule.cooldown.from={step}"),
        format!("schedule.cooldown.steps={}", asked.steps),
        format!("run.steps={}", step.0.saturating_add(asked.steps)),
    ];
    Ok(Branch { from, settings })
}

/// The folder of the job whose checkpoint this is; nothing where it was copied to a place that is no job's.
fn home(checkpoint: &Path) -> Option<PathBuf> {
    let folder = real(checkpoint).parent()?.to_owned();
    folder.join(CONFIG).is_file().then_some(folder)
}

/// Refuses to keep a branch where its parent is kept.
fn apart(asked: &Asked, parent: &Path) -> Result<(), BranchError> {
    if real(&asked.out).starts_with(real(parent)) {
        return Err(BranchError::Inside { out: asked.out.clone() });
    }
    Ok(())
}

type Place = (PathBuf, Step, String);

/// A branch that has a checkpoint: it is what it was, wherever its parent has got to since.
fn goes_on(config: &Config, asked: &Asked, state: &State) -> Result<Place, Failure> {
    let other = |what: String| BranchError::Other { out: asked.out.clone(), what };
    let Some(branched) = &state.branched else {
        return Err(other(format!("job `{}`, which is no branch", state.job)).into());
    };
    // The checkpoint itself may be gone: a job keeps its newest alone.
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
    Ok((branched.checkpoint.clone(), branched.step, state.job.clone()))
}

fn begins(config: &Config, digest: &str, asked: &Asked) -> Result<Place, Failure> {
    let from = match &asked.from {
        None => checkpoint::latest(&config.job.folder)?,
        Some(from) => match from.parse::<u64>() {
            Ok(step) => of_step(&config.job.folder, step)?,
            Err(_) => real(Path::new(from)),
        },
    };
    let state = checkpoint::state(&from)?;
    agree(&state, config, digest, &from)?;
    if state.train_config.schedule.cooldown.is_some() {
        return Err(BranchError::Cooling(state.job).into());
    }
    let name = asked.name.clone().unwrap_or_else(|| format!("{}-cooldown-{}", state.job, state.step));
    Ok((from, state.step, name))
}

fn of_step(folder: &Path, step: u64) -> Result<PathBuf, Failure> {
    let all = checkpoint::complete(folder)?;
    if let Some((_, path)) = all.iter().find(|(other, _)| other.0 == step) {
        return Ok(path.clone());
    }
    let have: Vec<String> = all.iter().map(|(step, _)| step.to_string()).collect();
    let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
    Err(BranchError::NoStep { folder: folder.to_owned(), step, have }.into())
}

/// The path without links, as far as it exists.
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
        assert_eq!(home(Path::new("step-10")), None, "this folder is no job's");
        let folder = tempfile::tempdir().unwrap();
        let step = folder.path().join("step-10");
        assert_eq!(home(&step), None);
        std::fs::write(folder.path().join(CONFIG), "").unwrap();
        assert_eq!(home(&step), Some(real(folder.path())));
    }
}
