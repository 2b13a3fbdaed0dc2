//! The flags that all three programs have, and their `config` command.

use std::io::Write as _;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{self, ConfigError, Key, Loaded, Loader, Problems};
use crate::error::{Failure, Kind, ProgramError};
use crate::start::Environment;
use crate::telemetry::LogFormat;

/// Flags about logging.
#[derive(Debug, Clone, clap::Args)]
pub struct Log {
    /// What to log: `error`, `warn`, `info`, `debug`, or more for one part, as `info,perennial_ingest=debug`.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How log lines look.
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// Flags about configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// The configuration file (TOML). Environment variables override it, flags override both.
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets one key, as `--set commit.interval=5s`. May be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where the store is.
    #[arg(long, global = true, value_name = "URL")]
    pub store: Option<String>,
}

/// `config`: look at the configuration without running anything.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration: every unknown key and wrong value at once, with its line.
    Check,
    /// Print the effective configuration with where each value comes from.
    Show,
    /// Print every key with its type and its default.
    Keys {
        /// As a section of the reference page, with what each key does.
        #[arg(long)]
        markdown: bool,
    },
}

/// Standard output is closed or full.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct OutputError(#[from] std::io::Error);

impl ProgramError for OutputError {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// Prints `text` to standard output. A closed pipe (`| head`) is not an error.
///
/// # Errors
/// [`OutputError`] if the output cannot be written for another reason.
pub fn print(text: &str) -> Result<(), OutputError> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(OutputError(error)),
        _ => Ok(()),
    }
}

impl Config {
    /// Loads the configuration of `program`, whose store's URL is the key `store_key`. `check` adds the
    /// problems that only the program can find.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems at once.
    pub fn load<T: DeserializeOwned + Serialize + JsonSchema>(
        &self,
        program: &str,
        store_key: &str,
        environment: &Environment,
        check: impl FnOnce(&mut T, &mut Problems),
    ) -> Result<Loaded<T>, ConfigError> {
        let mut loader = Loader::new(program).file(self.config.as_deref()).env(environment.variables());
        if let Some(url) = &self.store {
            loader = loader.set("--store", store_key, url.clone());
        }
        for assignment in &self.set {
            loader = loader.assign("--set", assignment);
        }
        loader.load_with(check)
    }
}

impl ConfigCommand {
    /// Runs the command of `program` on a loaded configuration.
    ///
    /// # Errors
    /// [`OutputError`] if standard output cannot be written.
    pub fn run<T: JsonSchema>(&self, program: &str, loaded: &Loaded<T>) -> Result<(), Failure> {
        let line = |key: &Key| {
            let default = key.default.as_deref().unwrap_or_default();
            let line = format!("{:<36}  {:<28}  {default}", key.name, key.kind);
            format!("{}\n", line.trim_end())
        };
        print(&match self {
            Self::Check => "the configuration is good\n".to_owned(),
            Self::Show => loaded.show(),
            Self::Keys { markdown: true } => config::reference::<T>(program),
            Self::Keys { markdown: false } => config::keys::<T>().iter().map(line).collect(),
        })?;
        Ok(())
    }
}
