//! The configuration of replay, and the [`Plan`] made from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_program::config::{Bytes, Problems, Share};
use perennial_schemas::id::check_name;
use perennial_schemas::seed::Seed;
use perennial_store::StoreConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::buffer::{PolicyConfig, Spec, reservoir};
use crate::library::Caches;
use crate::mix::Mix;
use crate::plan::{MOST, Order, Plan, VisibleUntil};
use crate::serve::ServeConfig;
use crate::tokenise::{LoadError, Subword, Tokenizer};

/// The configuration of replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The seed of everything random: buffers, draws, thinning, permutation.
    pub seed: u64,
    /// The location of the store.
    pub store: StoreConfig,
    /// The shape of a batch.
    pub batch: BatchConfig,
    /// The selection and order of new text.
    pub new_text: NewTextConfig,
    /// The share of rows drawn from each buffer; their sum is at most 1.
    pub mix: BTreeMap<String, Share>,
    /// The buffers: `policy`, and the settings of that policy.
    pub buffer: BTreeMap<String, PolicyConfig>,
    /// How the buffers follow the stream.
    pub follow: FollowConfig,
    /// The memory for texts, and the folder for the index.
    pub cache: CacheConfig,
    /// The server.
    pub serve: ServeConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            store: StoreConfig::default(),
            batch: BatchConfig::default(),
            new_text: NewTextConfig::default(),
            mix: tenth(),
            buffer: [("main".to_owned(), PolicyConfig::Reservoir(reservoir::Settings::default()))].into(),
            follow: FollowConfig::default(),
            cache: CacheConfig::default(),
            serve: ServeConfig::default(),
        }
    }
}

/// A tenth of all rows from the buffer `main`.
fn tenth() -> BTreeMap<String, Share> {
    Share::new(0.1).map(|share| ("main".to_owned(), share)).into_iter().collect()
}

/// `[batch]`: the shape of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BatchConfig {
    /// Rows of a batch.
    pub rows: u32,
    /// Tokens of a row.
    pub tokens: u32,
    /// How text becomes tokens: `bytes`, or the path of a `tokenizer.json` of the Hugging Face
    /// `tokenizers` library.
    pub tokenizer: String,
    /// The special token of that file that begins and ends a record, such as `<|endoftext|>`; absent: the
    /// only one whose name means the end of a text.
    pub boundary: Option<String>,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { rows: 8, tokens: 1024, tokenizer: BYTES.to_owned(), boundary: None }
    }
}

/// The name of the byte tokenizer.
const BYTES: &str = "bytes";

impl BatchConfig {
    /// The tokenizer, read from its file.
    ///
    /// # Errors
    /// The invalid key and the reason.
    fn load(&self) -> Result<Tokenizer, (&'static str, String)> {
        if self.tokenizer == BYTES {
            return match self.boundary {
                None => Ok(Tokenizer::Bytes),
                Some(_) => Err((
                    "batch.boundary",
                    "is for a `tokenizer.json`; omit it with `batch.tokenizer = \"bytes\"`".to_owned(),
                )),
            };
        }
        let subword =
            Subword::load(Path::new(&self.tokenizer), self.boundary.as_deref()).map_err(|error| {
                let boundary = matches!(error, LoadError::Boundary { .. });
                let source = std::error::Error::source(&error).map(|source| format!(" ({source})"));
                let why = format!("{error}{}; {}", source.unwrap_or_default(), error.hint());
                (if boundary { "batch.boundary" } else { "batch.tokenizer" }, why)
            })?;
        for setting in subword.ignored() {
            tracing::warn!(setting, file = self.tokenizer, "the tokenizer's setting is ignored");
        }
        Ok(Tokenizer::Subword(Arc::new(subword)))
    }
}

/// `[new_text]`: the selection and order of new text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NewTextConfig {
    /// `stream`: the order of the stream; `permuted`: all kept records in a keyed random order, a bound
    /// without drift.
    pub order: Order,
    /// The share of new records to use. A run with replay share r that keeps 1 - r reads as many tokens in
    /// total as a run without replay.
    pub keep: Share,
    /// Whether to serve the rest of the stream when it is too short for a whole batch.
    pub drain: bool,
}

impl Default for NewTextConfig {
    fn default() -> Self {
        Self { order: Order::Stream, keep: Share::ONE, drain: false }
    }
}

/// `[follow]`: how the buffers follow the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FollowConfig {
    /// `cursor`: a batch draws from the buffer as it was at the job's position in the stream; `store`: from
    /// the newest buffer.
    pub visible_until: VisibleUntil,
    /// Offsets of the order that are offered to the policies at a time. A buffer's members may depend on it.
    pub block: u64,
}

impl Default for FollowConfig {
    fn default() -> Self {
        Self { visible_until: VisibleUntil::Cursor, block: 256 }
    }
}

/// `[cache]`: the memory for texts, and the folder for the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CacheConfig {
    /// Size of the cache of tokenised records, in addition to those of the current batch.
    pub bytes: Bytes,
    /// Folder for the index of the store, which processes share and which can be deleted at any time. Absent:
    /// `perennial` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`); empty: none, and each open
    /// reads the metadata of all records.
    pub folder: Option<PathBuf>,
}

impl CacheConfig {
    /// Without a folder takes the one in the user's cache folder.
    pub fn set_default(&mut self, user: Option<PathBuf>) {
        if self.folder.is_none() {
            self.folder = user.map(|user| user.join("perennial"));
        }
    }

    /// What a library may keep beside the store.
    #[must_use]
    pub fn caches(&self) -> Caches {
        let folder = self.folder.clone().filter(|folder| !folder.as_os_str().is_empty());
        Caches { tokens: self.bytes, folder }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { bytes: Bytes::mib(256), folder: None }
    }
}

impl Config {
    /// The plan of this configuration; `None` if it is invalid, with the reasons in `problems`. `path` is the
    /// dotted key of the table that holds this configuration; it is empty for a whole file.
    pub fn plan(&mut self, path: &str, problems: &mut Problems) -> Option<Plan> {
        let key = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let mut valid = true;
        let mut refuse = |problems: &mut Problems, name: &str, why: &str| {
            problems.refuse(&key(name), why);
            valid = false;
        };
        for (name, value) in [("batch.rows", self.batch.rows), ("batch.tokens", self.batch.tokens)] {
            if !(1..=MOST).contains(&value) {
                refuse(problems, name, &format!("must be from 1 to {MOST}"));
            }
        }
        if self.follow.block == 0 || self.follow.block > u64::from(MOST) {
            refuse(problems, "follow.block", &format!("must be from 1 to {MOST}"));
        }
        let tokenizer =
            self.batch.load().map_err(|(name, why)| refuse(problems, name, &why)).unwrap_or_default();
        let mut buffers = BTreeMap::new();
        for (name, policy) in &self.buffer {
            if let Err(error) = check_name("buffer", name) {
                refuse(problems, "buffer", &format!("holds `{name}`: {}", error.why));
            }
            buffers.insert(name.clone(), Spec::new(name, policy));
        }
        for name in self.mix.keys().filter(|name| !self.buffer.contains_key(*name)) {
            let known: Vec<String> = self.buffer.keys().map(|name| format!("`{name}`")).collect();
            refuse(
                problems,
                &format!("mix.{name}"),
                &format!("names no buffer; there is {}", known.join(", ")),
            );
        }
        let mix = match Mix::new(self.mix.clone()) {
            Ok(mix) => mix,
            Err(error) => {
                refuse(problems, "mix", &format!("cannot be: {error}"));
                Mix::default()
            }
        };
        if self.new_text.order == Order::Permuted
            && self.follow.visible_until == VisibleUntil::Cursor
            && mix.share() > 0.0
        {
            let why = "must be `store` with `new_text.order = \"permuted\"`: such a job has no position in the stream";
            refuse(problems, "follow.visible_until", why);
        }
        valid.then_some(Plan {
            seed: Seed::new(self.seed),
            rows: self.batch.rows,
            length: self.batch.tokens as usize,
            tokenizer,
            order: self.new_text.order,
            keep: self.new_text.keep,
            mix,
            buffers,
            block: self.follow.block,
            visible_until: self.follow.visible_until,
            drain: self.new_text.drain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_program::config::{ConfigError, Loaded, Loader, uneven_defaults};

    fn load(settings: &[&str]) -> Result<(Loaded<Config>, Option<Plan>), ConfigError> {
        let loader =
            settings.iter().fold(Loader::new("replay"), |loader, setting| loader.assign("--set", *setting));
        let mut plan = None;
        let loaded = loader.load_with(|config: &mut Config, problems| plan = config.plan("", problems))?;
        Ok((loaded, plan))
    }

    #[test]
    fn default_config_makes_a_plan_with_a_tenth_from_a_reservoir() {
        let (loaded, plan) = load(&[]).unwrap();
        let plan = plan.unwrap();
        assert_eq!((plan.rows, plan.length, plan.mix.share()), (8, 1024, 0.1));
        assert!(
            loaded.canonical().contains("buffer.main.capacity = \"100000 records\""),
            "{}",
            loaded.canonical()
        );
        assert_eq!(uneven_defaults::<Config>(), Vec::<String>::new());
    }

    #[test]
    fn tokenizer_is_bytes_or_that_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        std::fs::write(&path, crate::tokenise::tests::TINY).unwrap();
        let file = format!("batch.tokenizer={}", path.display());
        let plan = |settings: &[&str]| load(settings).unwrap().1.unwrap();
        assert_eq!(plan(&["batch.tokenizer=bytes"]).digest(), plan(&[]).digest());
        let subword = plan(&[&file]);
        assert_eq!(subword.tokenizer, crate::tokenise::tests::tiny());
        assert_eq!(plan(&[&file, "batch.boundary=<|endoftext|>"]).digest(), subword.digest());
        let padded = plan(&[&file, "batch.boundary=<|pad|>"]);
        assert_eq!(padded.tokenizer.boundary(), 1);
        assert_ne!(padded.digest(), subword.digest());
        assert_ne!(subword.digest(), plan(&[]).digest());
        let refused = |settings: &[&str]| load(settings).unwrap_err().to_string();
        let missing = refused(&["batch.tokenizer=byte"]);
        assert!(missing.contains("`batch.tokenizer` names `byte`, which cannot be read"), "{missing}");
        assert!(missing.contains("give `bytes` or the path of a `tokenizer.json`"), "{missing}");
        let none = refused(&[&file, "batch.boundary=</s>"]);
        assert!(none.contains("`batch.boundary` cannot be: `</s>` is not a special token"), "{none}");
        let bytes = refused(&["batch.boundary=</s>"]);
        assert!(bytes.contains("`batch.boundary` is for a `tokenizer.json`"), "{bytes}");
    }

    #[test]
    fn invalid_config_is_refused_with_every_reason() {
        let text = load(&[
            "batch.rows=0",
            "follow.block=0",
            "mix.main=0.7",
            "mix.other=0.2",
            "buffer.main.policy=resevoir",
            "new_text.order=permuted",
        ])
        .unwrap_err()
        .to_string();
        for part in [
            "`batch.rows` must be from 1",
            "`follow.block` must be from 1",
            "`mix.other` names no buffer; there is `main`",
            "did you mean `reservoir`?",
            "`follow.visible_until` must be `store`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn shares_above_one_are_refused_with_their_sum() {
        let other = "buffer.other.policy=reservoir";
        let text = load(&["buffer.main.policy=reservoir", other, "mix.main=0.7", "mix.other=0.5"])
            .unwrap_err()
            .to_string();
        assert!(text.contains("`mix` cannot be: the shares of all buffers add up to 1.2"), "{text}");
    }

    #[test]
    fn unknown_policy_and_settings_are_refused_with_what_was_meant() {
        let text = |settings: &[&str]| load(settings).unwrap_err().to_string();
        assert!(text(&["buffer.main.policy=resevoir"]).contains("did you mean `reservoir`?"));
        let misspelt = text(&["buffer.main.policy=reservoir", "buffer.main.capactiy=1"]);
        assert!(misspelt.contains("did you mean `buffer.main.capacity`?"), "{misspelt}");
        let bare = text(&["buffer.main.policy=reservoir", "buffer.main.capacity=100"]);
        assert!(bare.contains("is not a capacity"), "{bare}");
    }

    #[test]
    fn config_within_another_is_refused_by_its_whole_key() {
        #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(default)]
        struct Outer {
            replay: Config,
        }
        let loader = Loader::new("train").assign("--set", "replay.batch.rows=0");
        let error =
            loader.load_with(|outer: &mut Outer, problems| drop(outer.replay.plan("replay", problems)));
        assert!(error.unwrap_err().to_string().contains("`replay.batch.rows` must be from 1"));
    }
}
