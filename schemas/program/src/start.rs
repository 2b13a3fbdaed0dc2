//! The start and end of a program: the only place that reads the environment creates the runtime, and
//! prints an error and returns its exit code.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::{Failure, Kind, ProgramError, render};
use crate::stop::{self, Stop};
use crate::{failpoint, panics, telemetry};

/// The environment of the process.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: Vec<(String, String)>,
}

impl Environment {
    /// The variables of this process; those that are not UTF-8 are ignored.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the environment")]
    pub fn of_process() -> Self {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        Self { variables: std::env::vars_os().filter_map(text).collect() }
    }

    /// The variables, for a configuration's loader.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        self.variables.clone()
    }

    /// The folder for what the user's programs can make again: `XDG_CACHE_HOME`, else `~/.cache`.
    #[must_use]
    pub fn cache_folder(&self) -> Option<PathBuf> {
        let set = |name: &str| self.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))
    }

    /// One variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The errors of a start, before the program's own.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("cannot watch for signals")]
    Signals(#[source] std::io::Error),
    #[error("{0}")]
    Log(String),
}

impl ProgramError for StartError {
    fn kind(&self) -> Kind {
        match self {
            Self::Log(_) => Kind::Config,
            Self::Runtime(_) | Self::Signals(_) => Kind::Unavailable,
        }
    }
}

/// Runs a program's body to its end. `body` gets the environment and a [`Stop`] that the first
/// SIGTERM or SIGINT triggers; its error is printed as [`render`] says.
pub fn run<F, Fut>(log: &crate::cli::Log, body: F) -> ExitCode
where
    F: FnOnce(Environment, Stop) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    match try_run(log, body) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let codes = failure.kind().codes();
            tracing::debug!(kind = codes.name, exit = codes.exit, "failed");
            // A closed standard error does not change the exit code.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{}\n", render(failure.as_ref())).as_bytes(),
            );
            ExitCode::from(codes.exit)
        }
    }
}

fn try_run<F, Fut>(log: &crate::cli::Log, body: F) -> Result<(), Failure>
where
    F: FnOnce(Environment, Stop) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    panics::silence_ended_uploads();
    telemetry::init(&log.log, log.log_format).map_err(StartError::Log)?;
    // Two TLS providers are in the dependency tree: without a choice rustls panics at first use.
    // A second call fails, and finds the same choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let environment = Environment::of_process();
    if let Some(spec) = environment.get("PERENNIAL_FAILPOINT") {
        failpoint::arm(spec)?;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let stop = Stop::new();
        stop::on_signals(&stop).map_err(StartError::Signals)?;
        body(environment, stop).await
    })
}
