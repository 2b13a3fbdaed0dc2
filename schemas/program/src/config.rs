//! Loads a program's configuration: file < environment < flags.
//!
//! ```text
//! file, variables, flags -> layer (a tree each) -> check -> overlay -> read -> T -> show, canonical
//! ```
//!
//! Each layer is checked against the type before it is laid over the weaker ones, so a message
//! names the line, the variable or the flag; a wrong value is told even where a stronger layer
//! hides it. All that is wrong is told at once. Tables of two layers are merged key by key; arrays,
//! arrays of tables too, are replaced whole.
//!
//! A configuration type is a plain serde struct with `#[serde(default)]` where there are defaults;
//! it need not refuse unknown keys, the loader does. It holds no internally tagged enum and no
//! flattened struct: serde loses lines and keys under both. [`uneven_defaults`] finds a default that
//! would change when its table is written. Where a name decides what the rest of a
//! table means, it holds a [`Table`].
//!
//! # Invariants
//! - The environment is read by nobody but the caller's `main`, which hands it in.
//! - The same configuration gives the same [`Loaded::canonical`], wherever its values were written.
//! - What [`Loaded::show`] prints reads back as the same configuration, but for the secrets of a
//!   store, which it never prints.
//!
//! ```
//! # use serde::{Deserialize, Serialize};
//! # use perennial_program::config::{Bytes, Loader};
//! #[derive(Debug, Default, Serialize, Deserialize)]
//! #[serde(default)]
//! struct Config {
//!     store: Store,
//! }
//!
//! #[derive(Debug, Default, Serialize, Deserialize)]
//! #[serde(default)]
//! struct Store {
//!     url: String,
//!     cache: Bytes,
//! }
//!
//! let variables = [("PERENNIAL_INGEST__STORE__CACHE".to_owned(), "64MiB".to_owned())];
//! let loaded = Loader::new("ingest")
//!     .env(variables)
//!     .set("--store", "store.url", "file:///data")
//!     .load::<Config>()?;
//! assert_eq!(loaded.value.store.cache, Bytes::mib(64));
//! assert_eq!(
//!     loaded.show(),
//!     "[store]\n\
//!      cache = \"64MiB\"  # env PERENNIAL_INGEST__STORE__CACHE\n\
//!      url = \"file:///data\"  # flag --store\n"
//! );
//! # Ok::<(), perennial_program::config::ConfigError>(())
//! ```

mod check;
mod defaults;
mod encode;
mod fields;
mod layer;
mod problem;
mod read;
mod show;
mod table;
mod tree;
mod units;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use defaults::keys;
pub use fields::Key;
pub use problem::{ConfigError, Problem, Problems};
pub use table::Table;
pub use tree::Origin;
pub use units::{Bytes, Duration, Share, UnitError};

use check::Checker;
use fields::Shape;
use tree::{Node, Step, parse_dotted};

/// Gathers the sources of one program's configuration.
#[derive(Debug, Clone)]
pub struct Loader {
    prefix: String,
    file: Option<PathBuf>,
    env: Vec<(String, String)>,
    flags: Vec<Flag>,
}

#[derive(Debug, Clone)]
enum Flag {
    /// The flag's name, the dotted key it stands for, its value.
    Set(String, String, String),
    /// The flag's name and `key=value`.
    Assign(String, String),
}

impl Loader {
    /// No sources yet. `program` names the prefix of the environment's variables: `ingest` reads
    /// `PERENNIAL_INGEST__STORE__URL` as `store.url`.
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self { prefix: layer::env_prefix(program), file: None, env: Vec::new(), flags: Vec::new() }
    }

    /// The configuration file, when there is one; it must exist.
    #[must_use]
    pub fn file(mut self, path: Option<&Path>) -> Self {
        self.file = path.map(Path::to_owned);
        self
    }

    /// The environment; variables of other names are left alone.
    #[must_use]
    pub fn env(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables.into_iter().filter(|(name, _)| name.starts_with(&self.prefix));
        self.env.extend(ours);
        // An environment has no order that means anything.
        self.env.sort();
        self
    }

    /// What the flag named `flag` says about the dotted `key`; of two, the later counts.
    ///
    /// Values, like a variable's, are TOML values where that fits the key's type, else plain text.
    #[must_use]
    pub fn set(mut self, flag: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.flags.push(Flag::Set(flag.into(), key.into(), value.into()));
        self
    }

    /// What the flag named `flag` says in the form `section.key=value`.
    #[must_use]
    pub fn assign(mut self, flag: impl Into<String>, assignment: impl Into<String>) -> Self {
        self.flags.push(Flag::Assign(flag.into(), assignment.into()));
        self
    }

    /// The configuration that the sources make.
    ///
    /// # Errors
    /// All that is wrong with any source.
    pub fn load<T: DeserializeOwned + Serialize>(self) -> Result<Loaded<T>, ConfigError> {
        self.load_with(|_, _| {})
    }

    /// The configuration that the sources make, looked through by the program's own `check`: it
    /// takes the [`Table`]s apart and compares keys with each other. What it refuses is told
    /// together with all else that is wrong; values the loader refused are defaults then.
    ///
    /// # Errors
    /// All that is wrong with any source, and all that `check` refused.
    pub fn load_with<T: DeserializeOwned + Serialize>(
        self,
        check: impl FnOnce(&mut T, &mut Problems),
    ) -> Result<Loaded<T>, ConfigError> {
        let checker = Checker::of::<T>(Some(self.prefix.clone()), Vec::new());
        let mut list = Vec::new();
        let mut tree = self.layers::<T>(&checker, &mut list);
        let value = checker.read::<T>(&mut tree, true, &mut list);
        let mut problems = Problems { list, tree };
        let Some(mut value) = value else {
            return Err(self.refused(problems.list));
        };
        check(&mut value, &mut problems);
        if !problems.is_empty() {
            return Err(self.refused(problems.list));
        }
        match encode::encode(&value) {
            Ok(effective) => Ok(Loaded { value, effective, origins: problems.tree }),
            Err(error) => Err(self.refused(vec![Problem::new(Origin::Default, "", error.to_string())])),
        }
    }

    /// Every source as a tree, checked, laid over each other.
    fn layers<T: DeserializeOwned>(&self, checker: &Checker, problems: &mut Vec<Problem>) -> Node {
        let mut tree = Node::table(Origin::Default);
        let lay = |tree: &mut Node, layer: layer::Layer, problems: &mut Vec<Problem>| match layer {
            Ok(mut layer) => {
                checker.unknown_keys(&mut layer, problems);
                drop(checker.read::<T>(&mut layer, false, problems));
                tree.overlay(layer);
            }
            Err(wrong) => problems.extend(wrong),
        };
        if let Some(path) = &self.file {
            lay(&mut tree, layer::read_file(path), problems);
        }
        for (name, value) in &self.env {
            if let Some(layer) = layer::env_layer(&self.prefix, name, value, &checker.shape, &tree) {
                lay(&mut tree, layer, problems);
            }
        }
        for flag in &self.flags {
            let layer = match flag {
                Flag::Set(flag, key, value) => layer::flag_layer(flag, key, value, &checker.shape),
                Flag::Assign(flag, text) => layer::assign_layer(flag, text, &checker.shape),
            };
            lay(&mut tree, layer, problems);
        }
        tree
    }

    fn refused(&self, problems: Vec<Problem>) -> ConfigError {
        let missing = problems.iter().find(|problem| problem.missing);
        let hint = missing.and_then(|problem| {
            let variable = layer::env_name(&self.prefix, &parse_dotted(&problem.key)?)?;
            Some(format!(
                "set `{}` in the configuration file, or `{variable}` in the environment",
                problem.key
            ))
        });
        ConfigError::new(problems, hint)
    }
}

/// The keys whose default depends on whether their table is written, for a test that there are none.
///
/// Serde takes what an absent table holds from the parent's `Default`, but what a table that is
/// written lacks from its own: keep the two equal, or `[batch]` alone changes the configuration.
/// Empty also when `T` has no default at all.
#[must_use]
pub fn uneven_defaults<T: DeserializeOwned + Serialize>() -> Vec<String> {
    let effective = defaults::effective::<T>;
    let empty = Node::table(Origin::Default);
    let Some(absent) = effective(&empty) else { return Vec::new() };
    let mut uneven = Vec::new();
    for table in Shape::of::<T>().tables() {
        let path: Vec<Step> = table.iter().cloned().map(Step::Key).collect();
        let written = effective(&Node::chain(&table, empty.value.clone(), &Origin::Default));
        let sides =
            (absent.get(&path).and_then(Node::entries), written.as_ref().and_then(|tree| tree.get(&path)));
        if let (Some(absent), Some(written)) = sides {
            let differs = absent
                .iter()
                .filter(|(key, node)| written.entries().and_then(|held| held.get(*key)) != Some(node));
            uneven.extend(differs.map(|(key, _)| format!("{}.{key}", tree::dotted(&path))));
        }
    }
    uneven
}

/// A configuration, and where each of its values is from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    effective: Node,
    origins: Node,
}

impl<T> Loaded<T> {
    /// The effective configuration as TOML, defaults included, each value with its origin:
    /// `url = "file:///data"  # ingest.toml:2`. What opens a store, as `store.options.aws_secret_access_key`,
    /// is only said to be set.
    #[must_use]
    pub fn show(&self) -> String {
        show::annotated(&self.effective, &self.origins)
    }

    /// The effective configuration, one `dotted.key = value` a line, sorted, without origins: what
    /// a digest of the configuration is taken of. It holds secrets: never print it.
    #[must_use]
    pub fn canonical(&self) -> String {
        show::canonical(&self.effective)
    }
}

#[cfg(test)]
mod tests;
