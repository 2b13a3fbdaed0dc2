//! Gathers a report's input: what the store holds, and the files in each job's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::DateTime;
use perennial_program::config::{Bytes, ConfigError, Loader};
use perennial_program::error::{Failure, Kind as ErrorKind, ProgramError};
use perennial_replay::inspect::{self, Census};
use perennial_replay::library::{Access, Library};
use perennial_replay::plan::{Order, Plan};
use perennial_schemas::id::{Offset, Seq, Step};
use perennial_schemas::table::records::{Outcome, Row, View};
use perennial_schemas::table::{Table, TableError, evaluations};
use perennial_store::order::OrderLog;
use perennial_store::{Scan, Store};

use super::input::{
    Amount, Arrival, Buffer, DocumentScore, FinalWeights, Holdings, Ingested, Input, Kind, NewText, Novelty,
    NoveltyBin, Point, Run, Script, Setting, Slice, SliceScore,
};
use super::place::{Ruler, delivered};
use crate::config::Config;
use crate::evaluate::held_out::{self, SliceEntry};
use crate::metrics::Line;

/// Where a job keeps the configuration that it runs with.
pub const CONFIG: &str = "config.toml";

/// A run that the report is to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// What it is compared as.
    pub kind: Kind,
    /// The job's folder.
    pub folder: PathBuf,
    /// Its label in the charts.
    pub label: String,
}

/// A run that cannot be reported.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// `--run` in another form.
    #[error("`{0}` does not say which run to compare as what")]
    Form(String),
    /// A file of a job cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// A line of metrics is invalid.
    #[error("line {line} of `{path}` is not a line of metrics")]
    Metrics {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The error of its parser.
        #[source]
        source: serde_json::Error,
    },
    /// The store has no evaluation of the job.
    #[error("job `{0}` has no evaluation in the store")]
    NotEvaluated(String),
    /// A job without held-out slices.
    #[error("job `{0}` names no list of slices")]
    NoSlices(String),
    /// The configuration of the job.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Invalid rows.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl ProgramError for CollectError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Form(_) => ErrorKind::Config,
            Self::Read { .. } | Self::NotEvaluated(_) => ErrorKind::NotFound,
            Self::NoSlices(_) | Self::Metrics { .. } => ErrorKind::Input,
            Self::Config(error) => error.kind(),
            Self::Table(error) => error.kind(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Form(_) => {
                Some("write `floor:FOLDER:LABEL`, `method:FOLDER:LABEL` or `ceiling:FOLDER:LABEL`".into())
            }
            Self::NotEvaluated(_) | Self::NoSlices(_) => {
                Some("set `evaluate.slices` in the job's configuration and run it to its end".into())
            }
            _ => None,
        }
    }
}

impl std::str::FromStr for Compared {
    type Err = CollectError;
    fn from_str(text: &str) -> Result<Self, CollectError> {
        let form = || CollectError::Form(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(form)?;
        let (folder, label) = rest.split_once(':').ok_or_else(form)?;
        let kind = match kind {
            "floor" => Kind::Floor,
            "method" => Kind::Method,
            "ceiling" => Kind::Ceiling,
            _ => return Err(form()),
        };
        Ok(Self { kind, folder: folder.into(), label: label.to_owned() })
    }
}

/// The input of a report that compares these runs, whose evaluations are in `store`.
///
/// # Errors
/// [`CollectError`] for what a job's folder lacks, and the store's errors.
pub async fn collect(store: &Store, runs: &[Compared], title: &str) -> Result<Input, Failure> {
    let mut configs = Vec::new();
    for run in runs {
        configs.push(config(&run.folder)?);
    }
    let Some((first, _)) = configs.first() else { return Err(CollectError::Form(String::new()).into()) };
    let Some(list) = &first.evaluate.slices else {
        return Err(CollectError::NoSlices(first.job.name.clone()).into());
    };
    let entries = held_out::list(list)?;
    let stream = read_stream(store, &entries).await?;
    let mut input = Input {
        title: title.to_owned(),
        ingested: stream.ingested.into_values().collect(),
        novelty: stream.novelty,
        slices: stream.slices,
        settings: settings(runs, &configs),
        ..Input::default()
    };
    for (run, (config, plan)) in runs.iter().zip(&configs) {
        let permuted = plan.as_ref().is_some_and(|plan| plan.order == Order::Permuted);
        input.runs.push(read_run(store, run, config, &stream.ruler, permuted).await?);
        if let Some(plan) = plan.as_ref().filter(|plan| input.buffers.is_empty() && plan.mix.share() > 0.0) {
            (input.stream, input.buffers) = holdings(store, plan, config.replay.cache.bytes).await?;
        }
    }
    if configs.iter().all(|(config, _)| config.model == first.model) {
        input.parameters = Some(parameters(first)?);
    }
    Ok(input)
}

fn config(folder: &Path) -> Result<(Config, Option<Plan>), CollectError> {
    let path = folder.join(CONFIG);
    let mut plan = None;
    let loaded = Loader::new("train").file(Some(&path)).load_with::<Config>(|config, problems| {
        plan = config.check(problems);
    })?;
    Ok((loaded.value, plan))
}

fn parameters(config: &Config) -> Result<u64, Failure> {
    let model = crate::torch::on_one_thread(1, || -> Result<u64, Failure> {
        let model = crate::model::Decoder::init(&config.model, config.weights_seed(), tch::Device::Cpu)
            .map_err(crate::step::TrainConfigError::from)?;
        Ok(model.size() as u64)
    })?;
    Ok(model)
}

/// The settings that all runs share; where they do not, each run's own.
fn settings(runs: &[Compared], configs: &[(Config, Option<Plan>)]) -> Vec<Setting> {
    let all: Vec<[Setting; 5]> = configs.iter().map(|(config, _)| described(config)).collect();
    let Some(first) = all.first() else { return Vec::new() };
    let merged = |(index, setting): (usize, &Setting)| {
        let own = || all.iter().filter_map(move |one| one.get(index)).map(|setting| &setting.value);
        if own().all(|value| *value == setting.value) {
            return setting.clone();
        }
        let each: Vec<String> =
            runs.iter().zip(own()).map(|(run, value)| format!("{}: {value}", run.label)).collect();
        Setting { name: setting.name.clone(), value: each.join("; ") }
    };
    first.iter().enumerate().map(merged).collect()
}

fn described(config: &Config) -> [Setting; 5] {
    let setting = |name: &str, value: String| Setting { name: name.to_owned(), value };
    let (model, tokenizer) = (&config.model, &config.replay.batch.tokenizer);
    let tokenizer = Path::new(tokenizer).file_name().map_or(tokenizer.into(), |name| name.to_string_lossy());
    [
        setting(
            "model",
            format!(
                "decoder, width {}, {} layers, {} heads; tokens: {tokenizer}",
                model.hidden_size, model.num_hidden_layers, model.num_attention_heads
            ),
        ),
        setting(
            "batch",
            format!("{} rows of {} tokens", config.replay.batch.rows, config.replay.batch.tokens),
        ),
        setting(
            "optimiser",
            format!("AdamW, weight decay {}, clip {}", config.optim.weight_decay, config.optim.clip),
        ),
        setting(
            "learning rate",
            format!(
                "{} after {} steps of warm-up, then constant{}",
                config.schedule.learning_rate,
                config.schedule.warmup,
                config.schedule.schedule().cooldown.map_or_else(String::new, |cooldown| format!(
                    "; from step {} annealed over {} steps to {} of it",
                    cooldown.from, cooldown.steps, cooldown.last
                ))
            ),
        ),
        setting(
            "evaluated",
            format!(
                "every {} steps, {} of each slice, {} of a document",
                config.evaluate.every, config.evaluate.slice, config.evaluate.document
            ),
        ),
    ]
}

/// What the records say.
#[derive(Default)]
struct Stream {
    ingested: BTreeMap<String, Ingested>,
    novelty: Option<Novelty>,
    slices: Vec<Slice>,
    ruler: Ruler,
}

/// Bins of the novelty curve.
const BINS: usize = 40;

async fn read_stream(store: &Store, entries: &[SliceEntry]) -> Result<Stream, Failure> {
    let columns = ["seq", "event_time", "origin", "length", "match_kind", "reason", "unseen"];
    let scan = Scan { columns: &columns, filter: None, order: &["shard", "seq"] };
    let order = OrderLog::open(store).await?;
    let version = store.version(Table::Records).await?;
    let batches = store.scan(Table::Records, version, &scan).await?;
    let views = batches.iter().map(View::new).collect::<Result<Vec<_>, _>>().map_err(CollectError::from)?;
    let mut rows: Vec<(Option<Offset>, Row<'_>)> = Vec::new();
    for row in views.iter().flat_map(|view| view.iter()) {
        let place = row.shard.parse().ok().zip(row.seq.map(Seq::from_i64));
        rows.push((place.and_then(|(shard, seq)| order.order().offset(&shard, seq)), row));
    }
    rows.sort_by_key(|(offset, _)| *offset);
    let mut stream = Stream::default();
    // The place of each of a slice's own records, and its bytes.
    let mut places: Vec<Vec<(u64, u64)>> = vec![Vec::new(); entries.len()];
    let mut scores: Vec<(u64, f32)> = Vec::new();
    for (offset, row) in &rows {
        stream.count(row);
        let Some(offset) = offset.filter(|_| row.outcome == Outcome::Kept.as_str()) else { continue };
        let bytes = natural(row.length);
        let before = stream.ruler.add(offset, bytes);
        for (entry, places) in entries.iter().zip(&mut places) {
            if is_of(entry, row) {
                places.push((before, bytes));
            }
        }
        scores.extend(row.unseen.map(|score| (before, score)));
    }
    let whole = stream.ruler.whole().max(1) as f64;
    stream.slices = entries.iter().zip(&places).map(|(entry, places)| slice(entry, places, whole)).collect();
    stream.novelty = novelty(&scores, whole);
    Ok(stream)
}

fn natural(number: Option<i64>) -> u64 {
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

impl Stream {
    fn count(&mut self, row: &Row<'_>) {
        let source = row.origin.unwrap_or(row.source);
        let entry = self.ingested.entry(source.to_owned()).or_default();
        entry.source = source.to_owned();
        entry.read += 1;
        match row.outcome.parse() {
            Ok(Outcome::Kept) => {
                entry.kept += 1;
                entry.bytes += natural(row.length);
            }
            Ok(Outcome::Duplicate) => {
                *entry.duplicates.entry(row.match_kind.unwrap_or("unknown").to_owned()).or_default() += 1
            }
            _ => *entry.dead_letters.entry(row.reason.unwrap_or("unknown").to_owned()).or_default() += 1,
        }
    }
}

/// Whether a record is of a slice's source and period.
fn is_of(entry: &SliceEntry, row: &Row<'_>) -> bool {
    let Some(time) = row.event_time else { return false };
    let day = day_text(time);
    row.origin.unwrap_or(row.source) == entry.source
        && entry.from.as_str() <= day.as_str()
        && day.as_str() <= entry.to.as_str()
}

/// The day of a time, as `1803-03-14`: dates in this form sort as text. Empty beyond the calendar.
fn day_text(time_us: i64) -> String {
    let time = DateTime::from_timestamp_micros(time_us);
    time.map_or_else(String::new, |time| time.format("%Y-%m-%d").to_string())
}

fn slice(entry: &SliceEntry, places: &[(u64, u64)], whole: f64) -> Slice {
    let total: u64 = places.iter().map(|(_, bytes)| bytes).sum();
    let quantile = |share: f64| {
        let mut sum = 0;
        let reached = places.iter().find(|(_, bytes)| {
            sum += bytes;
            sum as f64 >= share * total as f64
        });
        reached.map_or(1.0, |(before, bytes)| (before + bytes) as f64 / whole)
    };
    Slice {
        name: entry.name.clone(),
        source: entry.source.clone(),
        language: entry.language.clone(),
        script: match entry.script.as_str() {
            "latin" => Script::Latin,
            "cyrillic" => Script::Cyrillic,
            "han" => Script::Han,
            _ => Script::Other,
        },
        from: entry.from.clone(),
        to: entry.to.clone(),
        arrival: (total > 0).then(|| Arrival {
            q05: quantile(0.05),
            q50: quantile(0.5),
            q95: quantile(0.95),
        }),
    }
}

fn novelty(scores: &[(u64, f32)], whole: f64) -> Option<Novelty> {
    if scores.is_empty() {
        return None;
    }
    let mut bins = vec![(0.0_f64, 0_u32); BINS];
    for (before, score) in scores {
        let bin = ((*before as f64 / whole * BINS as f64) as usize).min(BINS - 1);
        if let Some((sum, count)) = bins.get_mut(bin) {
            *sum += f64::from(*score);
            *count += 1;
        }
    }
    let filled = bins.iter().enumerate().filter(|(_, (_, count))| *count > 0);
    let bins = filled.map(|(bin, (sum, count))| NoveltyBin {
        fraction: (bin as f64 + 0.5) / BINS as f64,
        score: sum / f64::from(*count),
    });
    let score = "share of a record\u{2019}s five-word runs that no earlier kept record in the window has";
    Some(Novelty { score: score.to_owned(), bins: bins.collect() })
}

async fn holdings(store: &Store, plan: &Plan, cache: Bytes) -> Result<(Holdings, Vec<Buffer>), Failure> {
    let mut library = Library::open(store.clone(), plan.clone(), cache, Access::Read).await?;
    let inspection = inspect::inspect(&mut library)?;
    let buffers = inspection.buffers.iter().map(|(name, buffer)| Buffer {
        name: name.clone(),
        policy: buffer.policy.to_owned(),
        capacity: buffer.capacity.clone(),
        holds: held(&buffer.members),
    });
    Ok((held(&inspection.stream), buffers.collect()))
}

fn held(census: &Census) -> Holdings {
    let mut holdings = Holdings::default();
    for (source, count) in &census.by_source {
        holdings
            .by_source
            .insert(source.clone(), Amount { records: count.records, bytes: count.tokens - count.records });
    }
    for (year, count) in &census.by_year {
        let decade = i32::try_from(year.div_euclid(10) * 10).unwrap_or(0);
        let amount = holdings.by_decade.entry(decade).or_default();
        amount.records += count.records;
        amount.bytes += count.tokens - count.records;
    }
    holdings
}

/// The documents of each slice.
type Scores = BTreeMap<String, Vec<DocumentScore>>;

/// The weights that are scored along the way.
const LIVE: &str = "live";

/// The scores of a job. `live`: by step, the tokens learnt until then and the scores of the live weights;
/// `others`: by step and name, the scores of other weights.
#[derive(Default)]
struct Scored {
    live: BTreeMap<i64, (u64, Scores)>,
    others: BTreeMap<(i64, String), Scores>,
}

async fn read_scores(store: &Store, job: &str) -> Result<Scored, Failure> {
    let version = store.version(Table::Evaluations).await?;
    let scan = Scan {
        // A name has no quote in it.
        filter: Some(format!("job = '{job}'")),
        order: &["step", "slice", "document"],
        ..Scan::default()
    };
    let mut scored = Scored::default();
    for batch in &store.scan(Table::Evaluations, version, &scan).await? {
        for row in evaluations::View::new(batch).map_err(CollectError::from)?.iter() {
            let scores = if row.weights == LIVE {
                let tokens = natural(Some(row.tokens));
                &mut scored.live.entry(row.step).or_insert_with(|| (tokens, Scores::new())).1
            } else {
                scored.others.entry((row.step, row.weights.to_owned())).or_default()
            };
            scores.entry(row.slice.to_owned()).or_default().push(DocumentScore {
                document: row.document.unwrap_or_default().to_owned(),
                nats: row.nats,
                predicted: natural(Some(row.predicted)),
                bytes: natural(Some(row.bytes)),
            });
        }
    }
    Ok(scored)
}

async fn read_run(
    store: &Store,
    run: &Compared,
    config: &Config,
    ruler: &Ruler,
    permuted: bool,
) -> Result<Run, Failure> {
    let name = &config.job.name;
    let lines = read_metrics(&run.folder.join("metrics.jsonl"))?;
    let Scored { live, others } = read_scores(store, name).await?;
    let Some((end, last)) = live.iter().map(|(step, (tokens, _))| (*step, *tokens)).next_back() else {
        return Err(CollectError::NotEvaluated(name.clone()).into());
    };
    let fractions = if permuted {
        live.values().map(|(tokens, _)| *tokens as f64 / last.max(1) as f64).collect()
    } else {
        delivered(store, name, &live.keys().copied().collect::<Vec<_>>(), ruler).await?
    };
    let of = |scores: Scores| -> Vec<SliceScore> {
        scores.into_iter().map(|(slice, documents)| SliceScore { slice, documents }).collect()
    };
    // A branch counts on from its parent's tokens.
    let begun = live.values().next().map_or(0, |(tokens, _)| *tokens);
    // Weights of an earlier end of the job do not belong to its last ones.
    let others = others.into_iter().filter(|((step, _), _)| *step == end);
    let final_weights =
        others.map(|((_, weights), scores)| FinalWeights { weights, scores: of(scores) }).collect();
    let points = live.into_iter().zip(fractions).map(|((step, (tokens, scores)), fraction)| Point {
        step: Step::from_i64(step),
        tokens,
        fraction,
        scores: of(scores),
    });
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    Ok(Run {
        name: name.clone(),
        label: run.label.clone(),
        kind: run.kind,
        replay: config.replay.mix.values().map(|share| share.get()).sum(),
        seed: config.job.seed,
        weights: LIVE.to_owned(),
        points: points.collect(),
        final_weights,
        prequential: new_text(&lines, begun),
        tokens_per_second: median(lines.iter().map(|line| line.tokens_per_second).collect()),
        data_wait: median(lines.iter().map(|line| line.wait).collect()),
    })
}

/// The stretches that learnt new text. Tokens that were learnt before the run began, and those of stretches
/// without new text, are not counted.
fn new_text(lines: &[Line], begun: u64) -> Vec<NewText> {
    let (mut before, mut tokens) = (begun, 0);
    let stretch = |line: &Line| {
        let own = line.tokens.saturating_sub(before);
        before = before.max(line.tokens);
        let nats_per_token = line.loss_new?;
        tokens += own;
        Some(NewText { tokens, nats_per_token })
    };
    lines.iter().filter_map(stretch).collect()
}

fn read_metrics(path: &Path) -> Result<Vec<Line>, CollectError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CollectError::Read { path: path.to_owned(), source })?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|source| CollectError::Metrics {
            path: path.to_owned(),
            line: number + 1,
            source,
        })
    };
    text.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use perennial_program::clock::Clock;
    use perennial_schemas::table::records::Builder;
    use perennial_store::StoreUrl;
    use perennial_store::commit::Committer;
    use perennial_store::order::Claim;

    use super::*;

    #[test]
    fn day_text_is_the_civil_date() {
        let day = 86_400_000_000;
        for (days, text) in
            [(0, "1970-01-01"), (-1, "1969-12-31"), (11_016, "2000-02-29"), (-60_924, "1803-03-14")]
        {
            assert_eq!(day_text(days * day), text);
            assert_eq!(day_text(days * day + day - 1), text);
        }
    }

    #[test]
    fn new_text_of_a_branch_has_only_its_own_tokens() {
        let line = |tokens: u64, loss: Option<f64>| -> Line {
            serde_json::from_value(serde_json::json!({
                "step": tokens, "tokens": tokens, "loss": loss, "loss_new": loss, "loss_replayed": null,
                "replay_share": 0.0, "grad_norm": 1.0, "learning_rate": 1.0, "tokens_per_second": 1.0, "wait": 0.0
            }))
            .unwrap()
        };
        let lines = [(1_010, Some(4.0)), (1_030, None), (1_040, Some(2.0))];
        let lines = lines.map(|(tokens, loss)| line(tokens, loss));
        let wanted = [(10, 4.0), (20, 2.0)];
        let wanted = wanted.map(|(tokens, nats_per_token)| NewText { tokens, nats_per_token });
        assert_eq!(new_text(&lines, 1_000), wanted);
    }

    #[test]
    fn quantiles_say_where_a_slices_text_has_arrived() {
        let entry = SliceEntry {
            name: "a".into(),
            file: "a".into(),
            source: "a".into(),
            language: "fr".into(),
            script: "latin".into(),
            from: String::new(),
            to: String::new(),
        };
        let of = slice(&entry, &[(100, 50), (200, 50)], 1_000.0);
        assert_eq!(of.arrival, Some(Arrival { q05: 0.15, q50: 0.15, q95: 0.25 }));
        assert_eq!(
            slice(&entry, &[], 1_000.0).arrival,
            None,
            "what never comes has not arrived with the end"
        );
    }

    #[test]
    fn text_of_several_shards_arrives_in_the_order_in_which_jobs_read_it() {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), tokio::runtime::Runtime::new().unwrap());
        let url: StoreUrl = folder.path().to_str().unwrap().parse().unwrap();
        let entry = |source: &str| SliceEntry {
            name: source.into(),
            file: source.into(),
            source: source.into(),
            language: "en".into(),
            script: "latin".into(),
            from: "1970-01-01".into(),
            to: "1970-12-31".into(),
        };
        let stream = runtime.block_on(async {
            let store = Store::create(&url, &Default::default(), Clock::manual(0)).await.unwrap();
            for (shard, origin) in [("one", "x"), ("two", "y")] {
                let mut rows = Builder::new();
                for seq in 0..4 {
                    let row = Row::new(Outcome::Kept, shard, "s");
                    let row = Row { seq: Some(seq), start: seq, end: seq + 1, origin: Some(origin), ..row };
                    rows.push(Row { length: Some(10), event_time: Some(0), ..row });
                }
                let fence = format!("ingest/{shard}");
                let mut committer = Committer::open(&store, Table::Records, &fence).await.unwrap();
                committer.commit(&[rows.finish().unwrap()], vec![(fence, 4)]).await.unwrap();
            }
            let mut order = OrderLog::open(&store).await.unwrap();
            for (shard, next) in [("one", 2), ("two", 3), ("one", 4), ("two", 4)] {
                let claim = Claim::readings(&shard.parse().unwrap(), Seq(next));
                order.append(&[claim]).await.unwrap();
            }
            read_stream(&store, &[entry("x"), entry("y")]).await.unwrap()
        });
        let arrivals = stream.slices.iter().map(|slice| slice.arrival.map(|at| [at.q05, at.q50, at.q95]));
        assert_eq!(arrivals.collect::<Vec<_>>(), [Some([0.125, 0.25, 0.875]), Some([0.375, 0.5, 1.0])]);
        assert_eq!(stream.ruler.whole(), 80);
        assert_eq!(stream.ingested["x"].kept, 4);
    }

    #[test]
    fn a_setting_that_runs_do_not_share_is_given_for_each() {
        let runs = ["method:a:slow", "method:b:fast"].map(|run| run.parse::<Compared>().unwrap());
        let mut configs = [(Config::default(), None), (Config::default(), None)];
        let alike = settings(&runs, &configs);
        assert!(alike.iter().all(|setting| !setting.value.contains("slow")), "{alike:?}");
        configs[1].0.optim.clip = 7.0;
        let differ = settings(&runs, &configs);
        let other: Vec<&Setting> = differ.iter().filter(|setting| !alike.contains(setting)).collect();
        let [setting] = other[..] else { panic!("{differ:?}") };
        assert!(setting.value.starts_with("slow: AdamW") && setting.value.contains("; fast: AdamW"));
        assert!(setting.value.ends_with("clip 7"), "{}", setting.value);
    }

    #[test]
    fn runs_are_named_by_kind_folder_and_label() {
        let run: Compared = "method:jobs/a:replay 25 %".parse().unwrap();
        assert_eq!(
            (run.kind, run.folder.to_str(), run.label.as_str()),
            (Kind::Method, Some("jobs/a"), "replay 25 %")
        );
        for text in ["", "floor", "floor:a", "best:a:b"] {
            assert!(text.parse::<Compared>().is_err(), "{text}");
        }
    }
}
