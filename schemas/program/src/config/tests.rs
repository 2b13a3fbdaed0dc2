use std::collections::BTreeMap;

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::error::{Kind, ProgramError, render};

/// A configuration with everything a program's may have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Config {
    seed: u64,
    store: Store,
    batch: Batch,
    mode: Mode,
    source: Vec<Source>,
    buffer: BTreeMap<String, Buffer>,
    weights: BTreeMap<String, f64>,
    limits: BTreeMap<String, Limit>,
    tags: Vec<String>,
    note: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 7,
            store: Store::default(),
            batch: Batch::default(),
            mode: Mode::Exact,
            source: Vec::new(),
            buffer: BTreeMap::new(),
            weights: BTreeMap::new(),
            limits: BTreeMap::new(),
            tags: vec!["a".into()],
            note: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Store {
    url: String,
    cache_size: Bytes,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Batch {
    size: u32,
    wait: Duration,
    fresh: Share,
    rate: f32,
}

impl Default for Batch {
    fn default() -> Self {
        Self { size: 32, wait: Duration::secs(10), fresh: Share::ONE, rate: 0.5 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Exact,
    NearDuplicate,
}

/// `path` is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Source {
    path: String,
    #[serde(default)]
    follow: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Limit {
    rows: u64,
    #[serde(default)]
    size: Bytes,
}

/// What a buffer's `policy` names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-tag" = "policy"))]
enum Buffer {
    /// A sample.
    Reservoir(Reservoir),
    /// The means.
    Herding(Herding),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Reservoir {
    capacity: u64,
}

impl Default for Reservoir {
    fn default() -> Self {
        Self { capacity: 1000 }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Herding {
    capacity: u64,
    clusters: u32,
    name: String,
}

fn check(config: &mut Config, problems: &mut Problems) {
    if config.batch.size > 1000 {
        problems.refuse("batch.size", "must be at most 1000");
    }
}

/// A folder with the file `replay.toml`, and a loader that reads it.
struct Given {
    folder: tempfile::TempDir,
    loader: Loader,
}

fn given(text: impl AsRef<[u8]>) -> Given {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replay.toml");
    std::fs::write(&path, text).unwrap();
    Given { loader: Loader::new("replay").file(Some(&path)), folder }
}

impl Given {
    fn with(mut self, change: impl FnOnce(Loader) -> Loader) -> Self {
        self.loader = change(self.loader);
        self
    }

    fn env(self, name: &str, value: &str) -> Self {
        let variable = (format!("PERENNIAL_REPLAY{name}"), value.to_owned());
        self.with(|loader| loader.env([variable]))
    }

    fn load(self) -> Loaded<Config> {
        self.loader.load_with(check).unwrap()
    }

    /// The whole message, with the file's name for its path.
    fn refusal(self) -> String {
        let error = self.loader.clone().load_with::<Config>(check).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        self.short(&error.to_string())
    }

    fn show(self) -> String {
        let loaded = self.loader.clone().load_with::<Config>(check).unwrap();
        self.short(&loaded.show())
    }

    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

#[test]
fn every_problem_of_a_file_is_told_at_once_with_its_line() {
    let text = r#"[buffer.main]
policy = "herding"
capactiy = 10
clusterz = 4

[buffer.old]
size = 3
policy = "resevoir"

# a comment
[bufer.main]
policy = "reservoir"

[buffer.bad]
policy = "reservoir"
capacity = "ten"

[batch]
size = -1
wait = 10
fresh = 1.5
rate = "fast"

[store]
url = 3
cache_size = "64M"
mode = "exact"
"#;
    assert_eq!(
        given(text).refusal(),
        "replay.toml:3: unknown key `buffer.main.capactiy`; did you mean `capacity`?\n\
         replay.toml:4: unknown key `buffer.main.clusterz`; did you mean `clusters`?\n\
         replay.toml:8: `buffer.old.policy` must be `reservoir` or `herding`; found string `resevoir`; did you mean `reservoir`?\n\
         replay.toml:11: unknown table `bufer`; did you mean `buffer`?\n\
         replay.toml:16: `buffer.bad.capacity` must be a whole number, 0 or more; found string `ten`\n\
         replay.toml:19: `batch.size` must be a whole number from 0 to 4294967295; found `-1`\n\
         replay.toml:20: `batch.wait`: `10` is not a duration, as `10s` or `1h30m`: time unit needed, for example 10sec or 10ms\n\
         replay.toml:21: `batch.fresh`: `1.5` is not a share; write a number from 0 to 1\n\
         replay.toml:22: `batch.rate` must be a number; found string `fast`\n\
         replay.toml:25: `store.url` must be a string; found `3`\n\
         replay.toml:26: `store.cache_size`: `64M` has no known unit; write `64MiB` (powers of 1024) or `64MB` (powers of 1000)\n\
         replay.toml:27: unknown key `store.mode`; did you mean `mode`?"
    );
}

#[test]
fn problems_of_all_layers_are_told_at_once_by_name() {
    let given = given("[batch]\nsize = \"x\"\n")
        .env("__BATCH__SIZE", "ten")
        .env("__STORE__ULR", "file:///x")
        .env("__CACHE_SIZE", "1MiB")
        .env("_STORE__URL", "file:///x")
        .env("__store__url", "file:///x")
        .env("__STORE____URL", "file:///x")
        .with(|loader| {
            loader
                .set("--mode", "mode", "near")
                .assign("--set", "store.urll=file:///x")
                .assign("--set", "store.url")
                .assign("--set", "source[0].path=x")
                .assign("--set", "..=x")
        });
    assert_eq!(
        given.refusal(),
        "replay.toml:2: `batch.size` must be a whole number from 0 to 4294967295; found string `x`\n\
         environment variable `PERENNIAL_REPLAY_STORE__URL`: is not read: two `_` follow the program's name; did you mean `PERENNIAL_REPLAY__STORE__URL`?\n\
         environment variable `PERENNIAL_REPLAY__BATCH__SIZE`: `batch.size` must be a whole number from 0 to 4294967295; found string `ten`\n\
         environment variable `PERENNIAL_REPLAY__CACHE_SIZE`: unknown key `cache_size`; did you mean `PERENNIAL_REPLAY__STORE__CACHE_SIZE`?\n\
         environment variable `PERENNIAL_REPLAY__STORE__ULR`: unknown key `store.ulr`; did you mean `PERENNIAL_REPLAY__STORE__URL`?\n\
         environment variable `PERENNIAL_REPLAY__STORE____URL`: has an empty key in its name\n\
         environment variable `PERENNIAL_REPLAY__store__url`: is not read: names are in upper case; did you mean `PERENNIAL_REPLAY__STORE__URL`?\n\
         flag `--mode`: `mode` must be `exact` or `near-duplicate`; found string `near`; did you mean `near-duplicate`?\n\
         flag `--set`: unknown key `store.urll`; did you mean `store.url`?\n\
         flag `--set`: `store.url` is not of the form `section.key=value`; an array is given as a whole\n\
         flag `--set`: `source[0].path=x` is not of the form `section.key=value`; an array is given as a whole\n\
         flag `--set`: `..=x` is not of the form `section.key=value`; an array is given as a whole"
    );
}

#[test]
fn problems_within_maps_and_arrays_of_tables_have_their_lines() {
    let text = "[[source]]\npath = \"a\"\n\n[[source]]\npth = \"b\"\nfollow = 1\n\n\
                [limits.en]\nrows = 1\n[limits.\"a.b\"]\nrow = 2\n\n\
                [weights]\nen = 1\nde = \"x\"\n\n[mode]\nx = 1\n";
    assert_eq!(
        given(text).refusal(),
        "replay.toml:4: missing key `source[1].path`\n\
         replay.toml:5: unknown key `source[1].pth`; did you mean `path`?\n\
         replay.toml:6: `source[1].follow` must be `true` or `false`; found `1`\n\
         replay.toml:10: missing key `limits.\"a.b\".rows`\n\
         replay.toml:11: unknown key `limits.\"a.b\".row`; did you mean `rows`?\n\
         replay.toml:15: `weights.de` must be a number; found string `x`\n\
         replay.toml:17: `mode` must be `exact` or `near-duplicate`; found a table"
    );
}

#[test]
fn table_that_belongs_elsewhere_is_told_where() {
    assert_eq!(
        given("[batch.store]\nurl = \"a\"\n").refusal(),
        "replay.toml:1: unknown table `batch.store`; did you mean `store`?"
    );
}

#[test]
fn value_with_lines_of_its_own_is_told_by_the_line_it_is_on() {
    let text =
        "tags = [\n  \"a\",\n  2,\n  \"c\",\n  4,\n]\nsource = [\n  { path = \"x\" },\n  { pth = 1 },\n]\n";
    assert_eq!(
        given(text).refusal(),
        "replay.toml:3: `tags[1]` must be a string; found `2`\n\
         replay.toml:5: `tags[3]` must be a string; found `4`\n\
         replay.toml:9: unknown key `source[1].pth`; did you mean `path`?\n\
         replay.toml:9: missing key `source[1].path`"
    );
}

#[test]
fn stronger_layer_wins_and_show_names_the_origin_of_every_value() {
    let text = r#"
mode = "near-duplicate"
seed = 18446744073709551615
[batch]
size = 1
wait = "90s"
rate = 0.1
[[source]]
path = "a\tb"
[[source]]
path = "c"
follow = true
[buffer.main]
policy = "reservoir"
[buffer.old]
policy = "herding"
clusters = 3
[limits."a.b"]
rows = 1
"#;
    let given = given(text)
        .env("__BATCH__SIZE", "2")
        .env("__BATCH__FRESH", "0.25")
        .env("__BUFFER__OLD__CLUSTERS", "4")
        .env("__BUFFER__OLD__NAME", "12")
        .env("__TAGS", r#"["x", "y"]"#)
        .env("__NOTE", "12")
        .with(|loader| loader.set("--size", "batch.size", "3").assign("--set", "limits.\"a.b\".size=1 KiB"));
    let expected = r#"mode = "near-duplicate"  # replay.toml:2
note = "12"  # env PERENNIAL_REPLAY__NOTE
seed = 18446744073709551615  # replay.toml:3
tags = ["x", "y"]  # env PERENNIAL_REPLAY__TAGS

[batch]
fresh = 0.25  # env PERENNIAL_REPLAY__BATCH__FRESH
rate = 0.1  # replay.toml:7
size = 3  # flag --size
wait = "1m 30s"  # replay.toml:6

[buffer.main]
capacity = 1000  # default
policy = "reservoir"  # replay.toml:14

[buffer.old]
capacity = 0  # default
clusters = 4  # env PERENNIAL_REPLAY__BUFFER__OLD__CLUSTERS
name = "12"  # env PERENNIAL_REPLAY__BUFFER__OLD__NAME
policy = "herding"  # replay.toml:16

[limits."a.b"]
rows = 1  # replay.toml:19
size = "1KiB"  # flag --set

[[source]]
follow = false  # default
path = "a\tb"  # replay.toml:9

[[source]]
follow = true  # replay.toml:12
path = "c"  # replay.toml:11

[store]
cache_size = "0B"  # default
url = ""  # default

[weights]  # default
"#;
    let loaded = given.loader.clone().load_with::<Config>(check).unwrap();
    let shown = given.show();
    assert_eq!(shown, expected);

    // What is shown is a configuration file, and the same configuration.
    let again = self::given(&shown).load();
    assert_eq!(again.value, loaded.value);
    assert_eq!(again.canonical(), loaded.canonical());
}

/// As the programs have it: options of an object store, here one table deeper too.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Stored {
    store: Options,
    replay: Nested,
    options: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Options {
    options: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Nested {
    store: Options,
}

#[test]
fn what_opens_a_store_is_said_to_be_set_and_never_shown() {
    let secrets = [
        "aws_access_key_id",
        "AWS_SECRET_ACCESS_KEY",
        "aws_session_token",
        "aws_sse_customer_key_base64",
        "password",
    ];
    let mut file = String::new();
    for table in ["store.options", "replay.store.options", "options"] {
        file += &format!("[{table}]\naws_region = \"shown\"\naws_endpoint_url = \"http://host/a@b\"\n");
        file += "aws_proxy = \"http://user:hidden@host\"\n";
        file.extend(secrets.map(|name| format!("{name} = \"hidden\"\n")));
    }
    let given = given(&file);
    let shown = given.short(&given.loader.clone().load::<Stored>().unwrap().show());
    let lines = |text: &str| shown.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("\"shown\"  #"), 3, "{shown}");
    assert_eq!(lines("\"http://host/a@b\"  #"), 3, "{shown}");
    assert_eq!(lines("hidden"), 6, "only what is no option of a store is shown: {shown}");
    assert!(shown.contains("# aws_session_token is set and not shown: replay.toml:7\n"), "{shown}");
    // What is left is a configuration still, and lacks the secrets alone.
    let again = self::given(&shown).loader.load::<Stored>().unwrap().value;
    let mut expected = given.loader.load::<Stored>().unwrap().value;
    for options in [&mut expected.store.options, &mut expected.replay.store.options] {
        options.retain(|name, _| matches!(name.as_str(), "aws_region" | "aws_endpoint_url"));
    }
    assert_eq!(again, expected);
}

#[test]
fn canonical_form_has_one_sorted_line_a_value() {
    let text = "[weights]\nb = 1\na = 0.5\n[[source]]\npath = \"p\"\n";
    assert_eq!(
        given(text).load().canonical(),
        "batch.fresh = 1.0\nbatch.rate = 0.5\nbatch.size = 32\nbatch.wait = \"10s\"\nbuffer = {}\n\
         limits = {}\nmode = \"exact\"\nseed = 7\nsource = [{ follow = false, path = \"p\" }]\n\
         store.cache_size = \"0B\"\nstore.url = \"\"\ntags = [\"a\"]\nweights.a = 0.5\nweights.b = 1.0\n"
    );
}

#[test]
fn defaults_are_the_configuration_when_there_is_no_source() {
    let loaded = Loader::new("replay").load::<Config>().unwrap();
    assert_eq!(loaded.value, Config::default());
    for empty in ["", "\n", "# nothing\n", "\u{feff}"] {
        assert_eq!(given(empty).load().value, Config::default(), "{empty:?}");
    }
}

#[test]
fn text_of_variables_and_flags_is_read_as_the_type_wants() {
    let config = given("")
        .env("__STORE__URL", "\"quoted\"")
        .env("__SEED", "0x10")
        .env("__SOURCE", "[{ path = \"a\" }, { path = \"b\", follow = true }]")
        .env("__WEIGHTS__EN", "1")
        .env("__BATCH", "{ size = 5 }")
        .with(|loader| {
            loader
                .set("--note", "note", "true")
                .set("--cache", "store.cache_size", "4096")
                .set("--mode", "mode", "near-duplicate")
                .set("--wait", "batch.wait", "5m")
                .set("--tags", "tags", "[]")
        })
        .load()
        .value;
    assert_eq!(config.store, Store { url: "quoted".into(), cache_size: Bytes::kib(4) });
    assert_eq!(config.seed, 16);
    assert_eq!(config.source.len(), 2);
    assert_eq!(config.weights, BTreeMap::from([("en".into(), 1.0)]));
    assert_eq!(config.batch, Batch { size: 5, wait: Duration::secs(300), ..Config::default().batch });
    assert_eq!(config.note.as_deref(), Some("true"));
    assert_eq!(config.mode, Mode::NearDuplicate);
    assert!(config.tags.is_empty());
}

#[test]
fn text_that_no_type_fits_is_told_as_it_reads() {
    let given = given("").env("__MODE", "3").env("__SEED", "").env("__TAGS", "[1]").env("__BATCH", "7");
    assert_eq!(
        given.refusal(),
        "environment variable `PERENNIAL_REPLAY__BATCH`: `batch` must be a table; found `7`\n\
         environment variable `PERENNIAL_REPLAY__MODE`: `mode` must be `exact` or `near-duplicate`; found string `3`\n\
         environment variable `PERENNIAL_REPLAY__SEED`: `seed` must be a whole number, 0 or more; found string ``\n\
         environment variable `PERENNIAL_REPLAY__TAGS`: `tags[0]` must be a string; found `1`"
    );
}

#[test]
fn variable_finds_the_name_that_the_file_chose() {
    let text = "[limits.Main-1]\nrows = 1\n[limits.other]\nrows = 1\n";
    let config = given(text).env("__LIMITS__MAIN_1__ROWS", "2").env("__LIMITS__NEW__ROWS", "3").load().value;
    let rows: Vec<(&str, u64)> =
        config.limits.iter().map(|(name, limit)| (name.as_str(), limit.rows)).collect();
    assert_eq!(rows, [("Main-1", 2), ("new", 3), ("other", 1)]);
}

#[test]
fn variables_of_others_are_left_alone() {
    let others = ["PATH", "PERENNIAL_REPLAYER__X", "PERENNIAL_REPLAY", "PERENNIAL_REPLAY_LOG"];
    let variables = others.map(|name| (name.to_owned(), "1".to_owned()));
    assert_eq!(Loader::new("replay").env(variables).load::<Config>().unwrap().value, Config::default());
}

#[test]
fn wrong_value_is_told_even_where_a_stronger_layer_hides_it() {
    let given = given("seed = \"x\"\n").env("__SEED", "1");
    assert_eq!(given.refusal(), "replay.toml:1: `seed` must be a whole number, 0 or more; found string `x`");
}

#[test]
fn required_key_may_come_from_another_layer_than_its_table() {
    let given = given("[limits.en]\nsize = 5\n").env("__LIMITS__EN__ROWS", "2");
    assert_eq!(given.load().value.limits["en"], Limit { rows: 2, size: Bytes::new(5) });

    let error = self::given("\n[limits.en]\nsize = 5\n").loader.load::<Config>().unwrap_err();
    assert!(error.to_string().ends_with("replay.toml:2: missing key `limits.en.rows`"), "{error}");
    assert!(render(&error).ends_with(
        "\n  hint: set `limits.en.rows` in the configuration file, or `PERENNIAL_REPLAY__LIMITS__EN__ROWS` in the environment"
    ));
}

#[test]
fn required_key_of_the_root_is_told_without_a_place() {
    let error = Loader::new("replay").load::<Source>().unwrap_err();
    assert_eq!(error.to_string(), "missing key `path`");
    // A key that is there but wrong is not also missing.
    let wrong = given("path = 3\n");
    let said = wrong.loader.clone().load::<Source>().unwrap_err();
    assert_eq!(wrong.short(&said.to_string()), "replay.toml:1: `path` must be a string; found `3`");
}

#[test]
fn own_check_is_told_with_the_line_and_not_twice() {
    let text = "\n[batch]\nsize = 2000\n";
    assert_eq!(given(text).refusal(), "replay.toml:3: `batch.size` must be at most 1000");
    let given = given(text).env("__BATCH__SIZE", "-5");
    assert_eq!(
        given.refusal(),
        "environment variable `PERENNIAL_REPLAY__BATCH__SIZE`: `batch.size` must be a whole number from 0 to 4294967295; found `-5`"
    );
}

#[test]
fn table_without_its_name_is_refused_with_the_names_there_are() {
    let text =
        "[buffer.a]\ncapacity = 1\n[buffer.b]\npolicy = 1\n[buffer.c]\npolicy = \"xyz\"\n[buffer]\nd = 5\n";
    assert_eq!(
        given(text).refusal(),
        "replay.toml:1: missing key `buffer.a.policy`: `reservoir` or `herding`\n\
         replay.toml:4: `buffer.b.policy` must be `reservoir` or `herding`; found `1`\n\
         replay.toml:6: `buffer.c.policy` must be `reservoir` or `herding`; found string `xyz`\n\
         replay.toml:8: `buffer.d` must be a table; found `5`"
    );
}

#[test]
fn name_of_a_table_may_come_from_another_layer_than_its_keys() {
    let given = given("[buffer.a]\ncapacity = 5\n").env("__BUFFER__A__POLICY", "herding");
    let buffer = given.load().value.buffer;
    assert_eq!(buffer["a"], Buffer::Herding(Herding { capacity: 5, ..Herding::default() }));
    let given = self::given("[buffer.a]\nclusters = -5\n").env("__BUFFER__A__POLICY", "herding");
    assert_eq!(
        given.refusal(),
        "replay.toml:2: `buffer.a.clusters` must be a whole number from 0 to 4294967295; found `-5`"
    );
}

#[test]
fn known_keys_are_listed_with_their_kinds_and_defaults() {
    let of = |key: &Key| match &key.default {
        Some(default) => format!("{}: {} = {default}", key.name, key.kind),
        None => format!("{}: {}", key.name, key.kind),
    };
    let listed: Vec<String> = keys::<Config>().iter().map(of).collect();
    assert_eq!(
        listed,
        [
            "seed: whole number = 7",
            "store.url: string = \"\"",
            "store.cache_size: size, as `64MiB` = \"0B\"",
            "batch.size: whole number = 32",
            "batch.wait: duration, as `1h30m` = \"10s\"",
            "batch.fresh: share from 0 to 1 = 1.0",
            "batch.rate: number = 0.5",
            "mode: `exact` or `near-duplicate` = \"exact\"",
            "source[].path: string",
            "source[].follow: `true` or `false` = false",
            "buffer.<name>.policy: `reservoir` or `herding`",
            "buffer.<name>.capacity: whole number = 1000",
            "buffer.<name>.capacity: whole number = 0",
            "buffer.<name>.clusters: whole number = 0",
            "buffer.<name>.name: string = \"\"",
            "weights.<name>: number",
            "limits.<name>.rows: whole number",
            "limits.<name>.size: size, as `64MiB` = \"0B\"",
            "tags: array of strings = [\"a\"]",
            "note: string",
        ]
    );
}

/// Elements and named tables that need nothing written, and names that have a default.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Filled {
    sizes: Vec<Batch>,
    stores: BTreeMap<String, Store>,
    weights: BTreeMap<String, f64>,
    buffer: BTreeMap<String, Buffer>,
    none: BTreeMap<String, f64>,
}

impl Default for Filled {
    fn default() -> Self {
        let weights = [("b".to_owned(), 0.5), ("a".to_owned(), 2.0)].into();
        let buffer = [("main".to_owned(), Buffer::Reservoir(Reservoir::default()))].into();
        Self { sizes: Vec::new(), stores: BTreeMap::new(), weights, buffer, none: BTreeMap::new() }
    }
}

#[test]
fn default_of_a_key_in_an_element_or_a_named_table_is_that_of_an_empty_one() {
    let keys = keys::<Filled>();
    let default = |name: &str| {
        keys.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("{name}: {keys:?}")).default.clone()
    };
    assert_eq!(default("sizes[].wait").unwrap(), "\"10s\"");
    assert_eq!(default("stores.<name>.cache_size").unwrap(), "\"0B\"");
    assert_eq!(default("weights.<name>").unwrap(), "{ a = 2.0, b = 0.5 }");
    assert_eq!(
        default("buffer.<name>.policy").unwrap(),
        "{ main = { capacity = 1000, policy = \"reservoir\" } }"
    );
    assert_eq!(default("none.<name>"), None);
}

/// What a page says.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Described {
    /// How it works, see [`crate::config`]:
    /// in two lines.
    how: How,
    /// The buffers.
    buffer: BTreeMap<String, Buffer>,
    /// What is read.
    source: Vec<Read>,
    /// The share of each buffer.
    mix: BTreeMap<String, Share>,
    /// Not repeated.
    #[schemars(extend("x-brief" = true))]
    store: Store,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Read {
    /// Where.
    path: String,
    /// How long to wait.
    #[serde(default)]
    wait: Option<Duration>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum How {
    /// Well.
    #[default]
    Well,
    /// Not.
    NotAtAll,
    Perhaps,
}

#[test]
fn reference_has_every_key_under_its_table_with_its_words() {
    let herding = "- `buffer.<name>.clusters` (whole number; default `0`): \n\
                   - `buffer.<name>.name` (string; default `\"\"`): \n";
    let page = reference::<Described>("replay");
    assert_eq!(
        page.replace(herding, ""),
        "## perennial-replay\n\nVariables begin with `PERENNIAL_REPLAY__`.\n\n\
         - `how` (`perhaps`, `well` or `not_at_all`; default `\"well\"`): How it works, see `config`: in two \
         lines. `well`: Well. `not_at_all`: Not.\n\
         - `mix.<name>` (share from 0 to 1; no default): The share of each buffer.\n\n\
         ### `[buffer.<name>]`\n\nThe buffers.\n\n\
         - `buffer.<name>.policy` (`reservoir` or `herding`; no default): What a buffer's `policy` names.\n\n\
         #### `policy = \"reservoir\"`\n\nA sample.\n\n\
         - `buffer.<name>.capacity` (whole number; default `1000`): \n\n\
         #### `policy = \"herding\"`\n\nThe means.\n\n\
         - `buffer.<name>.capacity` (whole number; default `0`): \n\n\
         ### `[[source]]`\n\nWhat is read.\n\n\
         - `source.path` (string; no default): Where.\n\
         - `source.wait` (duration; no default): How long to wait.\n\n\
         ### `[store]`\n\nNot repeated.\n"
    );
    assert!(page.contains(herding));
}

/// Its `Default` and that of its table disagree.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Uneven {
    store: Store,
    batch: Batch,
}

impl Default for Uneven {
    fn default() -> Self {
        Self { store: Store::default(), batch: Batch { size: 1, ..Batch::default() } }
    }
}

#[test]
fn default_that_depends_on_its_table_being_written_is_found() {
    assert_eq!(uneven_defaults::<Config>(), Vec::<String>::new());
    assert_eq!(uneven_defaults::<Uneven>(), ["batch.size"]);
}

/// Types that refuse most values.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Odd {
    port: std::num::NonZeroU16,
    #[serde(rename = "pair-of")]
    pair: Option<(u8, String)>,
    mode: Option<Mode>,
    #[serde(default)]
    any: Value,
}

#[test]
fn odd_types_are_read_written_and_refused() {
    let text = "port = 1\npair-of = [1, \"a\"]\nany = { x = [1, 2.5] }\nmode = \"exact\"\n";
    let loaded = given(text).loader.load::<Odd>().unwrap();
    assert_eq!(loaded.value.mode, Some(Mode::Exact));
    assert_eq!(given(loaded.show()).loader.load::<Odd>().unwrap().value, loaded.value);

    let given = given("port = 0\npair-of = [1]\nmode = \"exac\"\n");
    let error = given.loader.clone().load::<Odd>().unwrap_err();
    assert_eq!(
        given.short(&error.to_string()),
        "replay.toml:1: `port` must be a whole number from 1 to 65535; found `0`\n\
         replay.toml:2: `pair-of`: invalid length 1, expected a tuple of size 2\n\
         replay.toml:3: `mode` must be `exact` or `near-duplicate`; found string `exac`; did you mean `exact`?"
    );
}

#[test]
fn file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.toml");
    let refused = |path: &Path| Loader::new("replay").file(Some(path)).load::<Config>().unwrap_err();
    let error = refused(&missing);
    assert_eq!(error.to_string(), format!("{}: no such file", missing.display()));
    assert_eq!(error.kind(), Kind::Config);
    let error = refused(folder.path());
    assert_eq!(error.to_string(), format!("{}: is a folder, not a file", folder.path().display()));
}

#[test]
fn file_that_is_not_toml_is_refused_with_line_and_column() {
    for (text, expected) in [
        ("a = 1\n\nseed = = 3\n", "replay.toml:3:8: is not TOML: extra `=`, expected nothing"),
        ("seed = 1\nseed = 2\n", "replay.toml:2:1: duplicate key `seed`"),
        ("[store]\n[batch]\n[store]\n", "replay.toml:3:2: duplicate key `store`"),
        ("seed = \"x\n", "replay.toml:1:10: is not TOML: invalid basic string, expected `\"`"),
        ("seed = 1\r\nseed = 1\r\n", "replay.toml:2:1: duplicate key `seed`"),
        ("\u{feff}seed = 1\nseed = 1\n", "replay.toml:2:1: duplicate key `seed`"),
        ("seed = 99999999999999999999\n", "replay.toml:1: number `99999999999999999999` is out of range"),
        ("tags = [1e999]\n", "replay.toml:1: number `1e999` is out of range"),
        ("tags = [inf]\n", "replay.toml:1: number `inf` is out of range"),
    ] {
        assert_eq!(given(text).refusal(), expected, "{text:?}");
    }
}

#[test]
fn every_syntax_error_is_told_and_those_of_the_other_layers() {
    let given = given("seed = \n[batch\nsize = 3\n").env("__SEED", "x");
    assert_eq!(
        given.refusal(),
        "replay.toml:1:8: is not TOML: string values must be quoted, expected literal string\n\
         replay.toml:2:7: is not TOML: unclosed table, expected `]`\n\
         environment variable `PERENNIAL_REPLAY__SEED`: `seed` must be a whole number, 0 or more; found string `x`"
    );
}

#[test]
fn lines_are_right_with_crlf_and_a_byte_order_mark() {
    let config = given("\u{feff}seed = 3\r\n\r\n[store]\r\nurl = \"a\"\r\n");
    assert_eq!(config.load().value.seed, 3);
    let said = given("\u{feff}sed = 3\r\n\r\n[store]\r\nulr = \"a\"\r\n").refusal();
    assert_eq!(
        said,
        "replay.toml:1: unknown key `sed`; did you mean `seed`?\n\
         replay.toml:4: unknown key `store.ulr`; did you mean `url`?"
    );
}

#[test]
fn file_of_other_bytes_is_refused() {
    assert_eq!(given(b"seed = 1\n# \xff\n").refusal(), "replay.toml:2:3: is not UTF-8");
    let large = format!("# {}\n", "x".repeat(1 << 20));
    assert_eq!(
        given(large).refusal(),
        "replay.toml: is larger than 1MiB: this cannot be a configuration file"
    );
}

#[test]
fn deep_files_and_variables_are_refused_before_the_stack_ends() {
    let dots = |count: usize| vec!["a"; count].join(".");
    let within = |keys: usize, braces: usize| {
        format!("{}a=1{}", format!("{}={{", dots(keys)).repeat(braces), "}".repeat(braces))
    };
    for text in [
        format!("{} = 1", dots(100_000)),
        format!("[{}]", dots(100_000)),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}{}", "[".repeat(33), "]".repeat(33)),
        within(3, 15),
        within(15, 30),
        within(79, 79),
    ] {
        let said = given(&text).refusal();
        assert!(said.starts_with("replay.toml:1:") && said.ends_with("is nested too deeply"), "{said:.200}");
    }
    let said = given("").env(&"__A".repeat(10_000), "1").refusal();
    assert!(said.ends_with("is nested too deeply"));
    let said = given("").env("__TAGS", &"[".repeat(100_000)).refusal();
    assert!(said.contains("`tags` must be an array of strings; found string"), "{said:.300}");
}

#[test]
fn dots_and_brackets_in_strings_and_comments_are_not_depth() {
    let dots = ".".repeat(500);
    let brackets = "[".repeat(500);
    let text = format!(
        "# {dots}{brackets}\nnote = \"{dots}\\\"{brackets}\"\n\
         tags = [\n'{brackets}{dots}', \"\"\"\n{dots}\"{brackets}\n\"\"\", '''{dots}'''\n]\n"
    );
    assert_eq!(given(text).load().value.tags.len(), 3);
}

#[test]
fn wrong_file_of_many_lines_is_told_in_part() {
    let text: String = (0..5000).map(|line| format!("key{line} = 1\n")).collect();
    let said = given(text).refusal();
    assert_eq!(said.lines().count(), 101);
    assert!(said.ends_with("\nand 4900 more"), "{said}");
    let text: String = (0..2000).map(|line| format!("w{line} = 'x'\n")).collect();
    let said = given(format!("[weights]\n{text}")).refusal();
    assert_eq!(said.lines().count(), 100);
}

/// Any configuration that a file can hold: odd strings, odd names, every finite float.
fn any_config() -> impl Strategy<Value = Config> {
    let float = any::<f64>().prop_filter("a configuration holds finite numbers", |x| x.is_finite());
    let limit = (any::<u64>(), any::<u64>()).prop_map(|(rows, size)| Limit { rows, size: Bytes::new(size) });
    let source = (any::<String>(), any::<bool>()).prop_map(|(path, follow)| Source { path, follow });
    let batch =
        (any::<u32>(), any::<u64>(), 0.0..=1.0_f64, any::<f32>()).prop_map(|(size, wait, fresh, rate)| {
            Batch {
                size: size % 1000,
                wait: Duration::millis(wait),
                fresh: Share::new(fresh).unwrap(),
                rate: if rate.is_finite() { rate } else { 0.0 },
            }
        });
    let maps = (
        prop::collection::btree_map(any::<String>(), float, 0..4),
        prop::collection::btree_map(any::<String>(), limit, 0..4),
    );
    let lists = (prop::collection::vec(source, 0..4), prop::collection::vec(any::<String>(), 0..4));
    (any::<u64>(), any::<String>(), any::<bool>(), batch, maps, lists, prop::option::of(any::<String>()))
        .prop_map(|(seed, url, exact, batch, (weights, limits), (source, tags), note)| Config {
            seed,
            store: Store { url, cache_size: Bytes::new(seed / 3) },
            batch,
            mode: if exact { Mode::Exact } else { Mode::NearDuplicate },
            source,
            buffer: BTreeMap::from([("main".into(), Buffer::Reservoir(Reservoir { capacity: seed / 7 }))]),
            weights,
            limits,
            tags,
            note,
        })
}

fn effective(config: &Config) -> Map<String, Value> {
    let value = Shape::of::<Config>().flat(&serde_json::to_value(config).unwrap());
    value.as_object().unwrap().clone()
}

proptest! {
    #[test]
    fn shown_and_canonical_forms_read_back_as_the_same_configuration(config in any_config()) {
        let effective = effective(&config);
        for text in [show::annotated(&effective, &Origins::new()), show::canonical(&effective)] {
            let read = given(&text).loader.load::<Config>();
            prop_assert!(read.is_ok(), "{:?}\n{}", read.err(), text);
            let read = read.unwrap();
            prop_assert_eq!(&read.value, &config);
            prop_assert_eq!(read.canonical(), show::canonical(&effective));
        }
    }

    #[test]
    fn flag_for_each_line_of_the_canonical_form_makes_the_same_configuration(config in any_config()) {
        let canonical = show::canonical(&effective(&config));
        let loader = canonical.lines().fold(Loader::new("replay"), |loader, line| loader.assign("--set", line));
        let read = loader.load::<Config>();
        prop_assert!(read.is_ok(), "{:?}\n{}", read.err(), canonical);
        prop_assert_eq!(read.unwrap().canonical(), canonical);
    }

    #[test]
    fn no_file_variable_or_flag_is_a_panic(
        text in r#"([\[\]{}=.,"'#\\ \n\ra-c0-9_é-]|store|source|batch|weights|\[\[source\]\]\n|size *= *|= *"x"\n){0,40}"#,
        name in "(__|STORE|URL|WEIGHTS|[A-C_]){0,6}",
        key in r#"(store|weights|\.|"|[a-c\[\]0-9 ]){0,6}"#,
    ) {
        let given = given(&text).env(&name, &text).with(|loader| loader.set("--x", &key, &text).assign("--set", &text));
        match given.loader.load_with::<Config>(check) {
            Ok(loaded) => drop(self::given(loaded.show()).load()),
            Err(error) => prop_assert!(!error.problems().is_empty()),
        }
    }

    #[test]
    fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        drop(given(bytes).loader.load::<Config>());
    }
}
