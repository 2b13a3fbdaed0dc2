//! Loads a program's configuration: file < environment < flags.
//!
//! ```text
//! file, variables, flags -> layer (values, origins) -> check -> overlay -> serde -> T -> show, canonical
//! ```
//!
//! Each layer is checked against the type before it is merged over the weaker ones, so a message
//! names the line, the variable or the flag; a wrong value is reported even where a stronger layer
//! hides it. All problems are reported at once. Tables of two layers are merged key by key; arrays,
//! arrays of tables too, are replaced whole.
//!
//! A configuration type is a plain struct that derives `Serialize`, `Deserialize` and `JsonSchema`, with
//! `#[serde(default)]` where there are defaults. Its schema says which keys there are, what they take, what
//! they do (the doc comments of the fields) and their defaults; unknown keys, the list of keys and the
//! reference page follow from it. [`uneven_defaults`] finds a default that would change when its table is
//! written.
//!
//! Where a name decides what the rest of a table means, the type is an enum whose variants each hold a
//! struct, marked `#[schemars(extend("x-tag" = "policy"))]`: the loader reads `policy = "reservoir"` and the
//! other keys of that table as the variant `reservoir`. (Serde's own internally tagged enums lose the key
//! that is wrong.) Two variants that have a key of one name give it one type. A field marked
//! `#[schemars(extend("x-brief" = true))]` is a table whose keys the reference page does not repeat.
//!
//! # Invariants
//! - The environment is read by the caller's `main`, which hands it in.
//! - The same configuration gives the same [`Loaded::canonical`], wherever its values were written.
//! - What [`Loaded::show`] prints reads back as the same configuration, except for the secrets of a
//!   store, which it never prints.
//!
//! ```
//! # use schemars::JsonSchema;
//! # use serde::{Deserialize, Serialize};
//! # use perennial_program::config::{Bytes, Loader};
//! #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
//! #[serde(default)]
//! struct Config {
//!     store: Store,
//! }
//!
//! #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
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
mod layer;
mod problem;
mod reference;
mod schema;
mod show;
mod units;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use layer::Origin;
pub use problem::{ConfigError, Problem, Problems};
pub use reference::{Variant, VariantKey};
pub use schema::Key;
pub use units::{Bytes, Duration, Share, UnitError};

use check::Checker;
use layer::{Layer, Origins};
use schema::Shape;

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
    pub fn load<T: DeserializeOwned + Serialize + JsonSchema>(self) -> Result<Loaded<T>, ConfigError> {
        self.load_with(|_, _| {})
    }

    /// The configuration that the sources make, looked through by the program's own `check`, which
    /// compares keys with each other. What it refuses is reported together with all else that is wrong;
    /// values the loader refused are defaults then.
    ///
    /// # Errors
    /// All that is wrong with any source, and all that `check` refused.
    pub fn load_with<T: DeserializeOwned + Serialize + JsonSchema>(
        self,
        check: impl FnOnce(&mut T, &mut Problems),
    ) -> Result<Loaded<T>, ConfigError> {
        let checker = Checker::new(Shape::of::<T>(), &self.prefix);
        let mut list = Vec::new();
        let mut merged = self.layers::<T>(&checker, &mut list);
        checker.unknown_keys(&mut merged, true, &mut list);
        let value = checker.read::<T>(&mut merged, true, &mut list);
        let mut problems = Problems { list, origins: merged.origins };
        let Some(mut value) = value else {
            return Err(self.refused(problems.list));
        };
        check(&mut value, &mut problems);
        if !problems.is_empty() {
            return Err(self.refused(problems.list));
        }
        match serde_json::to_value(&value).map(|value| checker.shape.flat(&value)) {
            Ok(Value::Object(effective)) => Ok(Loaded { value, effective, origins: problems.origins }),
            _ => {
                let why = "the configuration cannot be written".to_owned();
                Err(self.refused(vec![Problem::new(Origin::Default, "", why)]))
            }
        }
    }

    /// Every source as a layer, checked, merged.
    fn layers<T: DeserializeOwned>(&self, checker: &Checker, problems: &mut Vec<Problem>) -> Layer {
        let mut merged = Layer { value: Value::Object(Map::new()), origins: Origins::new() };
        let lay =
            |merged: &mut Layer, layer: Result<Layer, Vec<Problem>>, problems: &mut Vec<Problem>| match layer
            {
                Ok(mut layer) => {
                    checker.unknown_keys(&mut layer, false, problems);
                    drop(checker.read::<T>(&mut layer, false, problems));
                    merged.overlay(layer);
                }
                Err(wrong) => problems.extend(wrong),
            };
        if let Some(path) = &self.file {
            lay(&mut merged, layer::read_file(path), problems);
        }
        let shape = &checker.shape;
        for (name, value) in &self.env {
            if let Some(layer) = layer::env_layer(&self.prefix, name, value, shape, &merged.value) {
                lay(&mut merged, layer, problems);
            }
        }
        for flag in &self.flags {
            let layer = match flag {
                Flag::Set(flag, key, value) => layer::flag_layer(flag, key, value, shape),
                Flag::Assign(flag, text) => layer::assign_layer(flag, text, shape),
            };
            lay(&mut merged, layer, problems);
        }
        merged
    }

    fn refused(&self, problems: Vec<Problem>) -> ConfigError {
        let missing = problems.iter().find(|problem| problem.missing);
        let hint = missing.and_then(|problem| {
            let variable = layer::env_name(&self.prefix, &problem.key)?;
            Some(format!(
                "set `{}` in the configuration file, or `{variable}` in the environment",
                problem.key
            ))
        });
        ConfigError::new(problems, hint)
    }
}

/// Every key that `T` knows, in the order of its fields: `store.url`, `source[].path`,
/// `buffer.<name>.capacity`.
#[must_use]
pub fn keys<T: JsonSchema>() -> Vec<Key> {
    Shape::of::<T>().keys("")
}

/// The reference of `T`'s keys, a section of a page in Markdown; `program` as for [`Loader::new`].
#[must_use]
pub fn reference<T: JsonSchema>(program: &str) -> String {
    reference::page(program, &layer::env_prefix(program), &Shape::of::<T>())
}

/// The kinds of a table `T` whose keys depend on its kind (`x-tag`), with their keys.
#[must_use]
pub fn variants<T: JsonSchema>() -> Vec<Variant> {
    reference::variants(&Shape::of::<T>())
}

/// The keys whose default depends on whether their table is written, for a test that no such key exists.
///
/// Serde takes what an absent table holds from the parent's `Default`, but what a table that is
/// written lacks from its own: keep the two equal, or `[batch]` alone changes the configuration.
#[must_use]
pub fn uneven_defaults<T: JsonSchema>() -> Vec<String> {
    Shape::of::<T>().uneven("")
}

/// A configuration, and where each of its values is from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    effective: Map<String, Value>,
    origins: Origins,
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
