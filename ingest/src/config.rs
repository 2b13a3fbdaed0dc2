//! What an ingest daemon is configured by. Loaded and refused by [`perennial_program::config`].

use std::collections::BTreeSet;

use perennial_program::config::{Bytes, Duration, Problems};
use perennial_schemas::id::{Shard, is_name};
use perennial_store::StoreConfig;
use perennial_store::maintain::Retention;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dedup::near::Near;
use crate::score::catalogue::{self, CATALOGUE};

/// The configuration of `perennial-ingest`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The daemon's name: its part of the stream. Two daemons of one name cannot write to one store.
    pub shard: ShardName,
    /// Where the store is.
    pub store: StoreConfig,
    /// What to read, by name.
    pub source: Vec<Source>,
    /// How sources are read.
    pub read: Read,
    /// What counts as the same text.
    pub dedup: Dedup,
    /// The scores of kept records.
    pub score: ScoreConfig,
    /// Rows are committed when the first of these is reached, and at the end.
    pub commit: Commit,
    /// How much may wait between two stages.
    pub queue: Queue,
    /// What must never enter the stream.
    pub holdout: Holdout,
    /// How the store is kept healthy while the daemon runs.
    pub maintain: Maintain,
}

/// A shard's name, `main` by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ShardName(pub String);

impl Default for ShardName {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

/// `[[source]]`: one thing to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Source {
    /// Its name: what the column `source` and its position are called. Sources are read by name.
    pub name: String,
    /// A file, a folder (all its files whose ending is of the format, by path), or `-` for the standard
    /// input.
    pub path: String,
    /// What its bytes are.
    pub format: Format,
    /// What a document is in plain text.
    pub record: Record,
    /// Whether to wait for more at its end, and for new files.
    pub follow: bool,
    /// The keys of a JSON object, or the columns of a Parquet file, that become columns. All other keys
    /// become part of `meta`; all other columns are not read.
    pub fields: Fields,
}

/// What the bytes of a source are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line: `*.jsonl`, `*.ndjson` and `*.json`, plain, `.gz` or `.zst`.
    #[default]
    Jsonl,
    /// Plain text, UTF-8: `*.txt`, plain, `.gz` or `.zst`.
    Text,
    /// Parquet, a document a row: `*.parquet`.
    Parquet,
}

/// What a document is in plain text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// A file; its path is its `external_id`.
    #[default]
    File,
    /// What lies between blank lines.
    Paragraph,
    /// A line.
    Line,
}

/// `[source.fields]`: the names of keys or columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Fields {
    /// The text: a string.
    pub text: String,
    /// The source's own name of the document: a string or a number.
    pub id: String,
    /// When it happened, see [`crate::normalise::time`].
    pub timestamp: String,
    /// Where it was published: a string.
    pub url: String,
    /// Where the source says it is from, as a corpus names its parts: a string. Column `origin`.
    pub origin: String,
    /// What else there is: an object.
    pub meta: String,
}

impl Default for Fields {
    fn default() -> Self {
        let [text, id, timestamp, url, origin, meta] =
            ["text", "id", "timestamp", "url", "source", "meta"].map(str::to_owned);
        Self { text, id, timestamp, url, origin, meta }
    }
}

/// `[read]`: how sources are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Read {
    /// A longer line, paragraph, file of one document, or row is a dead letter.
    pub line: Bytes,
    /// A Parquet file with a larger page (unpacked) or footer is damaged from there on.
    pub page: Bytes,
    /// Maximum readings per block.
    pub block_lines: u32,
    /// Maximum bytes per block, except for a longer line.
    pub block_bytes: Bytes,
    /// How long to wait before looking again at followed sources.
    pub poll: Duration,
}

impl Default for Read {
    fn default() -> Self {
        Self {
            line: Bytes::mib(16),
            page: Bytes::mib(256),
            block_lines: 1024,
            block_bytes: Bytes::mib(4),
            poll: Duration::secs(1),
        }
    }
}

/// `[dedup]`: what counts as the same text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Dedup {
    /// What a text is that differs from a kept one in case, width or spacing only.
    pub folded: Folded,
    /// Which texts are near-duplicates and what becomes of them.
    pub near: Near,
}

/// What a text is whose folded form is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Folded {
    /// A duplicate.
    #[default]
    Duplicate,
    /// Disabled.
    Off,
}

/// `[score]`: the scores of kept records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScoreConfig {
    /// The scores to compute, by name: `perennial-ingest --help` lists them.
    pub enabled: Vec<String>,
    /// The seed of scores that draw at random.
    pub seed: u64,
}

impl Default for ScoreConfig {
    fn default() -> Self {
        Self { enabled: CATALOGUE.iter().map(|entry| entry.name.to_owned()).collect(), seed: 0 }
    }
}

/// `[commit]`: when rows are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Commit {
    /// Bytes of text and of the other fields, and of dead letters.
    pub bytes: Bytes,
    /// Time since the first row that is not committed.
    pub interval: Duration,
}

impl Default for Commit {
    fn default() -> Self {
        Self { bytes: Bytes::mib(32), interval: Duration::secs(10) }
    }
}

/// `[queue]`: how much may wait between two stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Queue {
    /// Blocks.
    pub blocks: u32,
    /// Bytes; one larger block passes alone.
    pub bytes: Bytes,
}

impl Default for Queue {
    fn default() -> Self {
        Self { blocks: 8, bytes: Bytes::mib(32) }
    }
}

/// `[holdout]`: what must never enter the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Holdout {
    /// Files of held-out texts, JSON Lines with the key `text`, plain or `.zst`: a reading that equals one
    /// of them, or nearly does, becomes a dead letter.
    pub files: Vec<std::path::PathBuf>,
}

/// `[maintain]`: how the store is kept healthy while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Maintain {
    /// How often small files are joined, old ones deleted and the log cut; `"0s"` is never.
    pub every: Duration,
    /// The size of the files that are made.
    pub file: Bytes,
    /// How long files that no newer version needs are kept: 1 to 30 days.
    pub retention: Duration,
}

impl Default for Maintain {
    fn default() -> Self {
        Self { every: Duration::secs(600), file: Bytes::mib(128), retention: Duration::secs(7 * 86_400) }
    }
}

const NAME: &str = "must be 1 to 64 of the characters `a-z`, `0-9`, `_` and `-`";

/// The most bytes a line or a block may be allowed to have.
const MOST: Bytes = Bytes::gib(1);

/// The most readings a block may be allowed to have.
const MOST_LINES: u32 = 1 << 20;

impl Config {
    /// Refuses what no single key shows to be wrong. For the loader's `load_with`.
    pub fn check(&mut self, problems: &mut Problems) {
        self.faults().into_iter().for_each(|(key, why)| problems.refuse(&key, &why));
    }

    /// The shard; `None` where the name is invalid, which [`Config::check`] refuses.
    #[must_use]
    pub fn shard(&self) -> Option<Shard> {
        self.shard.0.parse().ok()
    }

    /// Dotted keys whose values cannot be, with the reason.
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults: Vec<(String, String)> = Vec::new();
        let mut refuse = |key: &str, why: &str| faults.push((key.to_owned(), why.to_owned()));
        if self.shard().is_none() {
            refuse("shard", NAME);
        }
        self.source_faults(&mut refuse);
        let stdin = self.source.iter().filter(|source| source.path == "-").count();
        if stdin > 1 {
            refuse("source", "names the standard input twice");
        } else if stdin == 1 && self.source.iter().any(|source| source.follow && source.path != "-") {
            refuse("source", "has the standard input and a followed source, which would wait for its end");
        }
        if self.read.line.get() == 0 || self.read.line > MOST {
            refuse("read.line", "must be from 1 byte to 1 GiB");
        }
        if self.read.page.get() == 0 || self.read.page > MOST {
            refuse("read.page", "must be from 1 byte to 1 GiB");
        }
        if !(1..=MOST_LINES).contains(&self.read.block_lines) {
            refuse("read.block_lines", "must be from 1 to 1048576");
        }
        if self.read.block_bytes.get() == 0 || self.read.block_bytes > MOST {
            refuse("read.block_bytes", "must be from 1 byte to 1 GiB");
        }
        if self.read.poll.get().is_zero() {
            refuse("read.poll", "must be longer than nothing");
        }
        if self.queue.blocks == 0 {
            refuse("queue.blocks", "must be at least 1");
        }
        if self.queue.bytes.get() == 0 || self.queue.bytes > MOST {
            refuse("queue.bytes", "must be from 1 byte to 1 GiB");
        }
        if Retention::new(self.maintain.retention.get()).is_err() {
            refuse("maintain.retention", "must be from 1 to 30 days");
        }
        if self.maintain.file < Bytes::mib(1) {
            refuse("maintain.file", "must be at least 1 MiB");
        }
        for name in self.score.enabled.iter().filter(|name| catalogue::find(name).is_none()) {
            refuse("score.enabled", &catalogue::unknown(name));
        }
        if self.dedup.near.records == 0 {
            refuse("dedup.near.records", "must be at least 1");
        }
        // What a commit's rows hold lies in columns of less than 2 GiB; the last block may go beyond its bytes.
        let most = [self.commit.bytes, self.read.block_bytes, self.read.line].map(Bytes::get);
        if most.into_iter().fold(0, u64::saturating_add) >= Bytes::gib(2).get() {
            refuse("commit.bytes", "must be less than 2 GiB with `read.block_bytes` and `read.line`");
        }
        // Shingles of texts that are kept and not yet committed are in the cache alone; text without spaces has
        // 8 bytes of them for 3 of its own. The queue to `score` counts the shingles, that to `write` the texts.
        let (commit, queue) = (self.commit.bytes.get(), self.queue.bytes.get());
        let waiting = commit.saturating_mul(3).saturating_add(queue.saturating_mul(4));
        if self.dedup.near.cache.get() < waiting {
            refuse("dedup.near.cache", "must be at least 3 x `commit.bytes` + 4 x `queue.bytes`");
        }
        faults
    }

    fn source_faults(&self, refuse: &mut impl FnMut(&str, &str)) {
        let mut names = BTreeSet::new();
        for (index, source) in self.source.iter().enumerate() {
            let key = |field: &str| format!("source[{index}].{field}");
            if !is_name(&source.name) {
                refuse(&key("name"), NAME);
            } else if !names.insert(&source.name) {
                refuse(&key("name"), "is the name of another source: positions are kept by name");
            }
            if source.path.is_empty() {
                refuse(&key("path"), "is empty: name a file, a folder, or `-` for the standard input");
            }
            if source.path == "-" && source.follow {
                refuse(
                    &key("follow"),
                    "has no meaning for the standard input, which is read to its end anyway",
                );
            }
            if source.path == "-" && source.format == Format::Parquet {
                refuse(&key("format"), "cannot be read from a pipe: Parquet begins with its end");
            }
            if source.record != Record::File && source.format != Format::Text {
                refuse(&key("record"), "has a meaning with `format = \"text\"` alone");
            }
            let fields = source.fields.list();
            if fields.iter().collect::<BTreeSet<_>>().len() < fields.len() {
                refuse(&key("fields"), "names one key twice");
            }
        }
    }
}

impl Fields {
    /// The keys, in the order of this type's fields.
    #[must_use]
    pub fn list(&self) -> [&str; 6] {
        [&self.text, &self.id, &self.timestamp, &self.url, &self.origin, &self.meta]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_program::config::{Loader, uneven_defaults};

    #[test]
    fn default_configuration_has_no_fault_and_does_not_depend_on_which_tables_are_written() {
        assert_eq!(Config::default().faults(), []);
        assert_eq!(uneven_defaults::<Config>(), Vec::<String>::new());
    }

    #[test]
    fn file_with_sources_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ingest.toml");
        let text = "shard = 'news'\n[[source]]\nname = 'web'\npath = 'data'\nfollow = true\n\
                    fields.text = 'body'\n[commit]\nbytes = '1MiB'\n";
        std::fs::write(&path, text).unwrap();
        let loaded = Loader::new("ingest").file(Some(&path)).load_with(Config::check).unwrap().value;
        assert_eq!(loaded.shard().unwrap().as_str(), "news");
        assert_eq!(loaded.source[0].fields.text, "body");
        assert_eq!(loaded.source[0].fields.id, "id");
        assert_eq!((loaded.commit.bytes, loaded.commit.interval), (Bytes::mib(1), Duration::secs(10)));
    }

    #[test]
    fn unknown_format_or_record_is_refused_with_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ingest.toml");
        let load = |text: &str| {
            std::fs::write(&path, format!("[[source]]\nname = 'a'\npath = 'x'\n{text}\n")).unwrap();
            Loader::new("ingest").file(Some(&path)).load_with(Config::check)
        };
        assert_eq!(load("format = 'text'\nrecord = 'line'").unwrap().value.source[0].record, Record::Line);
        assert_eq!(load("format = 'parquet'").unwrap().value.source[0].format, Format::Parquet);
        for (text, words) in [
            ("format = 'csv'", ["csv", "jsonl", "text", "parquet"]),
            ("format = 'text'\nrecord = 'word'", ["word", "file", "paragraph", "line"]),
        ] {
            let said = load(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| said.contains(&format!("`{word}`"))), "{said}");
        }
    }

    #[test]
    fn formats_are_refused_where_they_cannot_be_read() {
        let fault = |path: &str, format, record| {
            let source = Source { name: "a".into(), path: path.into(), format, record, ..Source::default() };
            let faults = Config { source: vec![source], ..Config::default() }.faults();
            faults.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(fault("-", Format::Parquet, Record::File), ["source[0].format"]);
        assert_eq!(fault("x", Format::Jsonl, Record::Line), ["source[0].record"]);
        assert_eq!(fault("-", Format::Text, Record::Paragraph), Vec::<String>::new());
    }

    #[test]
    fn faults_name_each_wrong_key() {
        let source =
            |name: &str, path: &str| Source { name: name.into(), path: path.into(), ..Source::default() };
        let mut config = Config {
            shard: ShardName("A".into()),
            source: vec![source("a", "x"), source("a", "-"), source("", ""), source("d", "-")],
            ..Config::default()
        };
        config.source[0].fields.id = "text".into();
        config.read.block_lines = 0;
        config.queue.bytes = Bytes::new(0);
        let keys: Vec<String> = config.faults().into_iter().map(|(key, _)| key).collect();
        let expected = [
            "shard",
            "source[0].fields",
            "source[1].name",
            "source[2].name",
            "source[2].path",
            "source",
            "read.block_lines",
            "queue.bytes",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn commit_that_fits_neither_its_columns_nor_the_cache_is_refused() {
        let keys = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.faults().into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(|config| config.commit.bytes = Bytes::gib(1)), ["dedup.near.cache"]);
        assert_eq!(keys(|config| config.queue.bytes = Bytes::mib(64)), ["dedup.near.cache"]);
        assert_eq!(
            keys(|config| config.commit.bytes = Bytes::new(u64::MAX)),
            ["commit.bytes", "dedup.near.cache"]
        );
        assert_eq!(
            keys(|config| (config.read.line, config.read.block_bytes) = (Bytes::gib(1), Bytes::gib(1))),
            ["commit.bytes"]
        );
        assert_eq!(keys(|config| config.read.block_lines = u32::MAX), ["read.block_lines"]);
    }

    #[test]
    fn standard_input_is_refused_beside_a_followed_source() {
        let source = |name: &str, path: &str, follow| Source {
            name: name.into(),
            path: path.into(),
            follow,
            ..Source::default()
        };
        let config =
            Config { source: vec![source("a", "-", false), source("b", "x", true)], ..Config::default() };
        assert_eq!(config.faults().len(), 1);
        let config = Config { source: vec![source("a", "-", true)], ..Config::default() };
        assert_eq!(config.faults().len(), 1);
    }
}
