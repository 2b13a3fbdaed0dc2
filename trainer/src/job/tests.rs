use std::collections::{BTreeMap, BTreeSet};

use perennial_program::config::Loader;
use perennial_schemas::table::Table;
use perennial_schemas::table::column::pack_u32;
use perennial_schemas::table::evaluations::View;
use perennial_schemas::table::records::{Builder, Outcome, Row};
use perennial_store::commit::Committer;
use perennial_store::{Scan, StoreUrl};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use xxhash_rust::xxh3::xxh3_128;

use super::*;
use crate::branch::{Asked, BranchError, decide};
use crate::checkpoint::{state, write_tensors};
use crate::metrics::Line;

const JOB: &str = r#"
[job]
name = "a"
folder = "FOLDER/a"
[replay]
store.url = "FOLDER/store"
batch = { rows = 2, tokens = 64 }
mix.main = 0.5
follow.block = 8
new_text.drain = true
[model]
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 64
[schedule]
learning_rate = 3e-3
warmup = 4
[average]
windows = [4]
[run]
device = "cpu"
steps = 12
metrics_every = 1
checkpoint_every = 5
[evaluate]
slices = "FOLDER/slices.toml"
every = 0
"#;

const SLICES: &str = "[[slice]]\nname='old'\nfile='old.jsonl'\nsource='s'\nlanguage='en'\nscript='latin'\n\
                      from='2000-01-01'\nto='2000-12-31'\n";

/// A store with a stream, and a job to learn it.
struct World {
    folder: TempDir,
    store: Store,
    runtime: Runtime,
    read: i64,
}

impl World {
    fn new() -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let url: StoreUrl = folder.path().join("store").to_str().unwrap().parse().unwrap();
        let store = runtime.block_on(Store::create(&url, &Default::default(), Clock::manual(0))).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("job.toml", &JOB.replace("FOLDER", folder.path().to_str().unwrap()));
        write("slices.toml", SLICES);
        write("old.jsonl", "{\"id\":\"x\",\"text\":\"what was learnt long ago\"}\n");
        let mut world = Self { folder, store, runtime, read: 0 };
        world.grow(90);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds records of 16 bytes to the stream.
    fn grow(&mut self, count: i64) {
        let mut rows = Builder::new();
        for seq in self.read..self.read + count {
            let text = format!("the text of {seq:04}");
            let id = xxh3_128(text.as_bytes()).to_be_bytes();
            let passages = pack_u32(&[16]);
            let place =
                Row { seq: Some(seq), start: seq, end: seq + 1, ..Row::new(Outcome::Kept, "main", "s") };
            rows.push(Row { id: Some(&id), text: Some(&text), passages: Some(&passages), ..place });
        }
        self.read += count;
        let last = vec![("ingest/main".into(), self.read), ("seq/main".into(), self.read)];
        self.runtime.block_on(async {
            let mut committer = Committer::open(&self.store, Table::Records, "ingest/main").await.unwrap();
            committer.commit(&[rows.finish().unwrap()], last).await.unwrap();
        });
    }

    fn load(&self, settings: &[String]) -> (Config, ReadingPlan) {
        let file = self.path("job.toml");
        let loader = Loader::new("train").file(Some(&file));
        let loader = settings.iter().fold(loader, |loader, setting| loader.assign("--set", setting));
        let mut plan = None;
        let loaded = loader.load_with::<Config>(|config, problems| plan = config.check(problems)).unwrap();
        (loaded.value, plan.unwrap())
    }

    fn run(&self, settings: &[String], from: Option<&Path>) -> Result<Ended, Failure> {
        let (config, plan) = self.load(settings);
        let task = Task { config: &config, effective: "", plan, from };
        run(task, &self.store, &Clock::manual(0), &Stop::new(), self.runtime.handle())
    }

    fn ran(&self, settings: &[&str]) -> Ended {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        self.run(&settings, None).unwrap_or_else(|failure| panic!("{failure}"))
    }

    fn asked(&self, from: Option<&str>, out: &str, steps: u64) -> Asked {
        let from = from.map(str::to_owned);
        Asked { from, out: self.path(out), steps, name: None }
    }

    /// As the command does it.
    fn branch(&self, asked: &Asked) -> Result<Ended, Failure> {
        let (config, plan) = self.load(&[]);
        let branch = decide(&config, &plan.digest(), asked)?;
        self.run(&branch.settings, Some(&branch.from))
    }

    fn branched(&self, asked: &Asked) -> Ended {
        self.branch(asked).unwrap_or_else(|failure| panic!("{failure}"))
    }

    fn refused(&self, asked: &Asked) -> String {
        let (config, plan) = self.load(&[]);
        decide(&config, &plan.digest(), asked).unwrap_err().to_string()
    }

    fn lines(&self, job: &str) -> Vec<Line> {
        let text = std::fs::read_to_string(self.path(job).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// (job, weights, step) of all that was scored.
    fn scored(&self) -> BTreeSet<(String, String, i64)> {
        let batches = self.runtime.block_on(async {
            let version = self.store.version(Table::Evaluations).await.unwrap();
            self.store.scan(Table::Evaluations, version, &Scan::default()).await.unwrap()
        });
        let mut seen = BTreeSet::new();
        for batch in &batches {
            for row in View::new(batch).unwrap().iter() {
                let new = seen.insert((row.job.to_owned(), row.weights.to_owned(), row.step));
                assert!(new, "{} {} {} is there twice", row.job, row.weights, row.step);
            }
        }
        seen
    }

    fn scored_of(&self, job: &str) -> Vec<(String, i64)> {
        let all = self.scored().into_iter().filter(|(name, ..)| name == job);
        all.map(|(_, weights, step)| (weights, step)).collect()
    }
}

/// Every file below a folder, and its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

#[test]
fn a_branch_cools_down_under_its_own_name_and_leaves_its_parent_as_it_was() {
    let world = World::new();
    world.ran(&[]);
    let before = files(&world.path("a"));
    let ended = world.branched(&world.asked(None, "b", 6));
    assert_eq!(files(&world.path("a")), before, "the parent's folder");

    assert_eq!((ended.report.end, ended.report.steps, ended.short), (End::Done, Step(18), 0));
    let [parent, state] = ["a/step-12", "b/step-18"].map(|path| state(&world.path(path)).unwrap());
    let branched = state.branched.clone().unwrap();
    assert_eq!((state.job.as_str(), branched.job.as_str(), branched.step), ("a-cooldown-12", "a", Step(12)));
    assert_eq!((Some(&branched.model), &state.start), (parent.model(), &parent.start));
    assert_eq!(state.averaged, 18, "averages continue");
    let rates: Vec<f64> = world.lines("b").iter().map(|line| line.learning_rate).collect();
    assert_eq!((rates[0], rates[5]), (3e-3, 3e-3 * 0.01));
    assert!(rates.windows(2).all(|pair| pair[1] < pair[0]) && rates.len() == 6, "{rates:?}");

    // The text that it learnt is the text that its parent learns next; what is replayed is its own draw.
    assert!(state.tokens > parent.tokens);
    world.ran(&["run.steps=18"]);
    let on = checkpoint::state(&world.path("a/step-18")).unwrap();
    assert_eq!((state.next.new_text, state.next.row, on.next.row), (on.next.new_text, 36, 36));
    let losses = |job, after| {
        let lines = world.lines(job).into_iter().filter(move |line| line.step > Step(after));
        lines.map(|line| (line.loss_new, line.loss_replayed)).collect::<Vec<_>>()
    };
    let (own, parents) = (losses("b", 12), losses("a", 12));
    assert_eq!(own[0].0, parents[0].0, "the same weights on the same new text");
    assert_ne!(own[0].1, parents[0].1, "another replayed text");

    let evaluation = |weights: &str, step| (weights.to_owned(), step);
    assert_eq!(
        world.scored_of("a-cooldown-12"),
        [evaluation("average-4", 18), evaluation("live", 12), evaluation("live", 18)]
    );
    let parents = [
        evaluation("average-4", 12),
        evaluation("average-4", 18),
        evaluation("live", 0),
        evaluation("live", 12),
        evaluation("live", 18),
    ];
    assert_eq!(world.scored_of("a"), parents);
    let release = ended.release.unwrap();
    assert_eq!(release, world.path("b/release/step-18"));
    let model = |path: PathBuf| std::fs::read(path).unwrap();
    assert_eq!(model(release.join("live.safetensors")), model(world.path("b/step-18/model.safetensors")));
}

#[test]
fn a_branch_that_was_killed_goes_on_without_its_parent_to_the_same_bits() {
    let world = World::new();
    world.ran(&[]);
    let asked = world.asked(Some("10"), "b", 9);
    world.branched(&asked);
    let weights = |path: &str| -> Vec<Vec<u8>> {
        let release = world.path(path).join("release/step-19");
        let names = ["live.safetensors", "average-4.safetensors"];
        names.map(|name| std::fs::read(release.join(name)).unwrap()).to_vec()
    };
    let (whole, lines) = (weights("b"), world.lines("b"));
    let scored = world.scored();

    // The state after a kill between step 15 and the end, when the parent has continued and removed
    // checkpoints.
    std::fs::remove_dir_all(world.path("b/step-19")).unwrap();
    std::fs::remove_dir_all(world.path("b/release")).unwrap();
    world.ran(&["run.steps=14"]);
    std::fs::remove_dir_all(world.path("a/step-10")).unwrap();
    let ended = world.branched(&asked);
    assert_eq!((ended.report.end, ended.report.steps), (End::Done, Step(19)));
    assert_eq!(weights("b"), whole);
    assert_eq!(world.lines("b"), lines);
    let again: BTreeSet<_> = world.scored().into_iter().filter(|(job, ..)| job != "a").collect();
    assert_eq!(again, scored.into_iter().filter(|(job, ..)| job != "a").collect());

    // A finished branch does not change, with and without `--from`.
    let before = files(&world.path("b"));
    world.branched(&world.asked(None, "b", 9));
    let after = files(&world.path("b"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(
        before
            .iter()
            .filter(|(path, _)| path.ends_with("release.json"))
            .all(|(path, old)| after[path] == *old)
    );
}

#[test]
fn a_cooldown_that_its_stream_cut_short_is_no_release_and_goes_on_when_there_is_more() {
    let mut world = World::new();
    world.ran(&[]);
    let asked = world.asked(None, "b", 60);
    let ended = world.branched(&asked);
    assert_eq!(ended.report.end, End::Stream);
    assert_eq!((ended.short, ended.release), (72 - ended.report.steps.0, None));
    assert!(ended.short > 0 && ended.report.steps > Step(12), "{:?}", ended.report);
    assert!(!world.path("b/release").exists());
    world.grow(250);
    let ended = world.branched(&asked);
    assert_eq!((ended.report.end, ended.report.steps, ended.short), (End::Done, Step(72), 0));
    assert!(ended.release.unwrap().join("live.safetensors").exists());
}

#[test]
fn branches_that_cannot_be_are_refused_with_the_reason() {
    let world = World::new();
    let nothing = world.refused(&world.asked(None, "b", 5));
    assert!(nothing.contains("holds no checkpoint"), "{nothing}");
    world.ran(&[]);
    for out in ["a", "a/release", "a/step-12", "b/../a/c"] {
        std::fs::create_dir_all(world.path("b")).unwrap();
        let inside = world.refused(&world.asked(None, out, 5));
        let wanted = BranchError::Inside { out: world.path(out) };
        assert_eq!(inside, wanted.to_string());
    }
    let none = world.refused(&world.asked(Some("11"), "b", 5));
    assert!(none.ends_with("has no complete checkpoint of step 11; it has 5, 10, 12"), "{none}");
    let path = world.path("a/step-10");
    world.branched(&world.asked(path.to_str(), "b", 4));
    let other = world.refused(&world.asked(Some("12"), "b", 4));
    assert!(other.ends_with("holds a branch of step 10 of job `a`"), "{other}");
    let renamed = Asked { name: Some("c".into()), ..world.asked(None, "b", 4) };
    assert!(world.refused(&renamed).ends_with("holds the branch `a-cooldown-10` of job `a`"));
    let longer = world.branch(&world.asked(None, "b", 5)).unwrap_err().to_string();
    assert!(longer.contains("made with another `training configuration"), "{longer}");

    // A branch may be kept next to a copy of a checkpoint outside of a job's folder.
    let copy = world.path("copy");
    std::fs::create_dir_all(copy.join("step-10")).unwrap();
    std::fs::copy(path.join("state.json"), copy.join("step-10/state.json")).unwrap();
    let (config, plan) = world.load(&[]);
    let next_to_copy = world.asked(copy.join("step-10").to_str(), "copy/f", 4);
    assert_eq!(decide(&config, &plan.digest(), &next_to_copy).unwrap().from, copy.join("step-10"));

    // Neither another configuration's job nor a branch can be branched.
    world.ran(&["job.name=d", &format!("job.folder={}", world.path("d").display())]);
    assert!(world.refused(&world.asked(None, "d", 4)).ends_with("holds job `d`, which is not a branch"));
    let foreign = world.path("d/step-12");
    let foreign = world.refused(&world.asked(foreign.to_str(), "e", 4));
    assert!(foreign.ends_with("made with another `job.name`"), "{foreign}");
    let (config, plan) = world.load(&[
        "job.name=a-cooldown-10".into(),
        format!("job.folder={}", world.path("b").display()),
        "schedule.cooldown.from=10".into(),
        "schedule.cooldown.steps=4".into(),
    ]);
    let cooling = decide(&config, &plan.digest(), &world.asked(None, "e", 4)).unwrap_err().to_string();
    assert!(cooling.contains("is itself a cool-down"), "{cooling}");
}

#[test]
fn a_job_that_starts_from_weights_goes_back_towards_them_at_its_end() {
    let world = World::new();
    world.ran(&[]);
    let set = |key: &str, value: &Path| format!("{key}={}", value.display());
    let start = world.path("start.safetensors");
    std::fs::copy(world.path("a/step-12/model.safetensors"), &start).unwrap();
    let settings = ["job.name=b".to_owned(), set("job.folder", &world.path("b")), set("job.start", &start)];
    let run = |more: &[&str]| {
        let settings: Vec<String> =
            settings.iter().cloned().chain(more.iter().map(|setting| (*setting).to_owned())).collect();
        world.run(&settings, None)
    };
    let ended = run(&["run.steps=6"]).unwrap_or_else(|failure| panic!("{failure}"));
    let first = state(&world.path("b/step-6")).unwrap();
    assert_eq!(first.start, checkpoint::start_file(&start).unwrap());
    let evaluation = |weights: &str, step| (weights.to_owned(), step);
    let scored = [
        evaluation("average-4", 6),
        evaluation("average-4@0.85", 6),
        evaluation("live", 0),
        evaluation("live", 6),
    ];
    assert_eq!(world.scored_of("b"), scored);
    assert!(ended.release.unwrap().join("average-4@0.85.safetensors").exists());

    // A share more, after its end: the rest is not scored again.
    run(&["run.steps=6", "average.interpolate=[0.85, 0.5]"]).unwrap_or_else(|failure| panic!("{failure}"));
    let more = world.scored_of("b");
    assert!(more.contains(&evaluation("average-4@0.5", 6)) && more.len() == 5, "{more:?}");

    // The same file at another path is the same start; another file and no file are not.
    let moved = world.path("moved");
    std::fs::create_dir(&moved).unwrap();
    std::fs::rename(&start, moved.join("model.safetensors")).unwrap();
    run(&["run.steps=7", &set("job.start", &moved)]).unwrap_or_else(|failure| panic!("{failure}"));
    let gone = run(&["run.steps=8"]).unwrap_err().to_string();
    assert!(gone.contains("made with another `start"), "it is at its new path now: {gone}");
    std::fs::copy(world.path("a/step-10/model.safetensors"), &start).unwrap();
    let other = run(&["run.steps=8"]).unwrap_err().to_string();
    assert!(other.contains("made with another `start"), "{other}");
    let none = world.run(&settings[..2], None).unwrap_err().to_string();
    assert!(none.contains("made with another `start"), "{none}");

    // Without the file it cannot interpolate, and reports that before it resumes.
    std::fs::remove_file(moved.join("model.safetensors")).unwrap();
    let lost = run(&["run.steps=8", &set("job.start", &moved)]).unwrap_err();
    assert_eq!(lost.to_string(), "the weights that job `b` started from cannot be read");
    assert!(!world.path("b/step-8").exists());
    let ended = run(&["run.steps=8", &set("job.start", &moved), "average.interpolate=[]"]);
    assert_eq!(ended.unwrap_or_else(|failure| panic!("{failure}")).report.steps, Step(8));
}

#[test]
fn a_start_that_goes_missing_while_the_job_runs_costs_the_ways_from_it_and_nothing_else() {
    let world = World::new();
    world.ran(&[]);
    let file = world.path("start.safetensors");
    std::fs::copy(world.path("a/step-12/model.safetensors"), &file).unwrap();
    let set = |key: &str, value: &Path| format!("{key}={}", value.display());
    let folder = world.path("b");
    std::fs::create_dir(&folder).unwrap();
    let (config, plan) =
        world.load(&["job.name=b".into(), set("job.folder", &folder), set("job.start", &file)]);
    let slices = held_out::load(&world.path("slices.toml"), &plan.tokenizer, 1000, 1000).unwrap();
    let (learner, position) = start(&config, &plan.digest(), Device::Cpu).unwrap();
    let (clock, stop, runtime) = (Clock::manual(0), Stop::new(), world.runtime.handle());
    let batches = runtime.block_on(Batches::open(&config, plan, &world.store, &clock, &stop)).unwrap();
    let scorer = Scorer::new(&config, &slices, &world.store, runtime, true);
    let feed: Feed = Box::new(move || {
        std::fs::remove_file(&file).unwrap();
        Ok(None)
    });
    drop(batches);
    let ended = Running { config: &config, learner, position, scorer }.run(feed, &clock, &stop).unwrap();
    let mut left: Vec<_> =
        files(&ended.release.unwrap()).into_keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    left.sort();
    assert_eq!(left, ["average-4.safetensors", "live.safetensors", "release.json"]);
    assert_eq!(world.scored_of("b"), [("average-4".to_owned(), 0), ("live".to_owned(), 0)]);
}

#[test]
fn a_job_that_begins_under_the_name_of_another_is_refused_where_their_scores_differ() {
    let world = World::new();
    world.ran(&[]);
    let scored = world.scored();
    let elsewhere = |folder: &str, setting: &str| {
        let folder = format!("job.folder={}", world.path(folder).display());
        world.run(&[folder, setting.to_owned()], None)
    };
    // The same job from its beginning computes the same scores.
    elsewhere("b", "run.steps=12").unwrap();
    for (folder, setting, step) in [("c", "job.seed=9", 0), ("d", "schedule.learning_rate=1e-3", 12)] {
        let taken = elsewhere(folder, setting).unwrap_err();
        let wanted = format!("the store holds other scores of a job named `a` at step {step}");
        assert_eq!((taken.kind(), taken.to_string()), (Kind::Conflict, wanted));
    }
    assert!(!world.path("c/step-5").exists(), "it was refused before its first step");
    assert_eq!(world.scored(), scored);
}

#[test]
fn weights_that_are_not_the_models_cannot_be_started_from() {
    let world = World::new();
    let file = world.path("other.safetensors");
    let tensor = tch::Tensor::zeros([3], (tch::Kind::Float, Device::Cpu));
    write_tensors(&file, &[("model.other".into(), tensor)]).unwrap();
    let error = world.run(&[format!("job.start={}", file.display())], None).unwrap_err();
    let text = perennial_program::error::render(&*error);
    for part in ["missing `model.embed_tokens.weight`", "not expected `model.other`"] {
        assert!(text.contains(part), "{text}");
    }
    let absent = world.run(&["job.start=absent".into()], None).unwrap_err();
    assert!(absent.to_string().contains("cannot read `absent`"), "{absent}");
    assert!(!world.path("a").exists(), "nothing was begun");
}

#[test]
fn a_job_stays_in_the_precision_it_began_in_and_refuses_another_by_name() {
    let world = World::new();
    world.ran(&["run.precision=bf16", "run.steps=6"]);
    for (setting, named) in
        [("run.precision=f32", "`run.precision`"), ("run.replay_weight=0.5", "`run.replay_weight`")]
    {
        let refused = world.run(&[setting.to_owned()], None).unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
    }
    // `auto`, whatever this machine would take for a new job.
    world.ran(&[]);
    let train_config = state(&world.path("a/step-12")).unwrap().train_config;
    assert_eq!((train_config.precision, train_config.micro_rows), (Precision::Bf16, 0));

    let world = World::new();
    world.ran(&["run.precision=f32", "run.micro_rows=1", "run.steps=6"]);
    world.ran(&["run.micro_rows=0"]);
    let train_config = state(&world.path("a/step-12")).unwrap().train_config;
    assert_eq!(
        (train_config.precision, train_config.micro_rows),
        (Precision::F32, 0),
        "rows at a time may change"
    );
}
