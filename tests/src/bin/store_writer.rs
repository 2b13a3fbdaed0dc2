//! A program for the crash tests: it writes rows that are a function of their position to a store as
//! fast as it can, so that a reader knows afterwards what must be there.
//!
//! ```text
//! store_writer write STORE seed=N [commits=N] [maintain=N] [wait=1]   runs until it is killed
//! store_writer check STORE                                            holds the store to its invariants
//! store_writer sample STORE FOLDER                                    some rows of every table
//! ```
//!
//! What a row says is fixed by its position; what became of it, how many rows make a commit and when
//! the table is compacted are drawn from the seed, another one in each run, because a batch that is
//! written again need not be the one that was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::ExitCode;

use arrow::array::RecordBatch;
use perennial_program::cli::{Log, print};
use perennial_program::clock::Clock;
use perennial_program::error::{Failure, Kind, ProgramError};
use perennial_program::start;
use perennial_program::stop::Stop;
use perennial_program::telemetry::LogFormat;
use perennial_schemas::seed::{Seed, below};
use perennial_schemas::table::Table;
use perennial_schemas::table::column::pack_u32;
use perennial_schemas::table::records::{Builder, MatchKind, Outcome, Reason, Row, day_of};
use perennial_schemas::text::Identity;
use perennial_store::check::{check, position_app_id};
use perennial_store::commit::Committer;
use perennial_store::maintain::{self, Options};
use perennial_store::{Store, StoreError, StoreUrl};

#[path = "store_writer/sample.rs"]
mod sample;

/// The shard it writes as.
const SHARD: &str = "main";
/// The source it says it reads.
const SOURCE: &str = "positions";

/// The command line is wrong, or the store is not sound.
#[derive(Debug)]
struct Refusal(Kind, String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Refusal {}

impl ProgramError for Refusal {
    fn kind(&self) -> Kind {
        self.0
    }
}

fn main() -> ExitCode {
    let log = Log { log: "error".to_owned(), log_format: LogFormat::Text };
    start::run(&log, |_, stop| async move {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["write", url, settings @ ..] => write(url, &Settings::read(settings)?, &stop).await,
            ["check", url] => check_store(url).await,
            ["sample", url, folder] => sample::write(url, folder.as_ref()).await,
            _ => Err(Refusal(Kind::Config, format!("`{}` is no command", words.join(" "))).into()),
        }
    })
}

/// How `write` goes.
#[derive(Debug, Default)]
struct Settings {
    seed: u64,
    /// After how many commits it ends; never for 0.
    commits: u64,
    /// It maintains the table after every N commits; never for 0.
    maintain: u64,
    /// Whether it waits for a line on standard input before it begins.
    wait: u64,
}

impl Settings {
    fn read(words: &[&str]) -> Result<Self, Refusal> {
        let mut settings = Self::default();
        for word in words {
            let refuse = || Refusal(Kind::Config, format!("`{word}` is no setting"));
            let (key, value) = word.split_once('=').ok_or_else(refuse)?;
            let field = match key {
                "seed" => &mut settings.seed,
                "commits" => &mut settings.commits,
                "maintain" => &mut settings.maintain,
                "wait" => &mut settings.wait,
                _ => return Err(refuse()),
            };
            *field = value.parse().map_err(|_| refuse())?;
        }
        Ok(settings)
    }
}

async fn write(url: &str, settings: &Settings, stop: &Stop) -> Result<(), Failure> {
    let url: StoreUrl = url.parse()?;
    let store = Store::create(&url, &std::collections::HashMap::new(), Clock::system()).await?;
    let mut writer = Writer::open(&store, Seed::new(settings.seed)).await?;
    print("open\n")?;
    if settings.wait > 0 {
        // The end of the input is as good as a line.
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    let mut left = settings.commits;
    while !stop.is_triggered() {
        writer.commit().await?;
        if settings.maintain > 0 && writer.draw("maintain", settings.maintain) == 0 {
            print("maintain\n")?;
            let options = Options { open_files: 2, checkpoint_after: 7, ..Options::default() };
            maintain::run(&store, Table::Records, &options, stop).await?;
            print("maintained\n")?;
        }
        left = left.saturating_sub(1);
        if settings.commits > 0 && left == 0 {
            break;
        }
    }
    Ok(())
}

/// What a position holds.
struct Reading {
    path: &'static str,
    start: i64,
    end: i64,
    text: String,
}

/// Three files that are read in turn, whose every reading has 7 bytes.
fn reading(position: i64) -> Reading {
    let path = match position % 3 {
        0 => "a.txt",
        1 => "b.txt",
        _ => "c/d.txt",
    };
    let start = position / 3 * 7;
    let filling = "-".repeat(usize::try_from(position % 50).unwrap_or(0));
    Reading { path, start, end: start + 7, text: format!("reading {position}{filling}") }
}

struct Writer {
    store: Store,
    committer: Committer,
    seed: Seed,
    /// Commits of this run.
    commits: u64,
    batch: i64,
    position: i64,
    /// A kept record that duplicates may be of.
    kept: Option<(i64, Identity)>,
}

impl Writer {
    async fn open(store: &Store, seed: Seed) -> Result<Self, StoreError> {
        let mut committer = Committer::open(store, Table::Records, &format!("ingest/{SHARD}")).await?;
        let batch = committer.last(&format!("ingest/{SHARD}")).await?.unwrap_or(0);
        let position = committer.last(&format!("seq/{SHARD}")).await?.unwrap_or(0);
        Ok(Self { store: store.clone(), committer, seed, commits: 0, batch, position, kept: None })
    }

    /// A number below `n` for this commit of this run.
    fn draw(&self, what: &str, n: u64) -> u64 {
        below(self.seed.child(what).at(&[self.commits]), n)
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        self.commits += 1;
        self.batch += 1;
        let end = self.position + 1 + i64::try_from(self.draw("rows", 40)).unwrap_or(0);
        let mut transactions =
            BTreeMap::from([(format!("ingest/{SHARD}"), self.batch), (format!("seq/{SHARD}"), end)]);
        let rows = self.rows(end, &mut transactions)?;
        self.position = end;
        self.committer.commit(&[rows], transactions.into_iter().collect()).await?;
        Ok(())
    }

    /// The rows from where it stands to `end`, and the positions that they reach.
    fn rows(&mut self, end: i64, positions: &mut BTreeMap<String, i64>) -> Result<RecordBatch, Failure> {
        let mut builder = Builder::new();
        let now = self.store.clock().now_us();
        for seq in self.position..end {
            let Reading { path, start, end, text } = reading(seq);
            positions.insert(position_app_id(SOURCE, path, 0), end);
            let identity = Identity::of(&text, self.store.secret());
            let length = pack_u32(&[u32::try_from(text.len()).unwrap_or(u32::MAX)]);
            let place = Row {
                day: day_of(now),
                seq: Some(seq),
                commit: self.batch,
                path: Some(path),
                start,
                end,
                ingest_time: now,
                ..Row::new(Outcome::Kept, SHARD, SOURCE)
            };
            let drawn = below(self.seed.child("outcome").at(&[seq.unsigned_abs()]), 4);
            builder.push(match (drawn, &self.kept) {
                (0, _) => Row {
                    outcome: Outcome::DeadLetter.as_str(),
                    raw: Some(text.as_bytes()),
                    reason: Some(Reason::InvalidJson.as_str()),
                    ..place
                },
                (1, Some((of, kept))) => Row {
                    outcome: Outcome::Duplicate.as_str(),
                    id: Some(identity.id.as_bytes()),
                    duplicate_of_shard: Some(SHARD),
                    duplicate_of_seq: Some(*of),
                    duplicate_of_id: Some(kept.id.as_bytes()),
                    match_kind: Some(MatchKind::Near.as_str()),
                    ..place
                },
                _ => Row {
                    id: Some(identity.id.as_bytes()),
                    length: i64::try_from(identity.length).ok(),
                    text: Some(&text),
                    passages: Some(&length),
                    ..place
                },
            });
            if drawn > 1 || (drawn == 1 && self.kept.is_none()) {
                self.kept = Some((seq, identity));
            }
        }
        Ok(builder.finish()?)
    }
}

async fn check_store(url: &str) -> Result<(), Failure> {
    let store = Store::open(&url.parse()?, &std::collections::HashMap::new(), Clock::system()).await?;
    let report = check(&store, &BTreeSet::new()).await?;
    let found: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    if !found.is_empty() {
        return Err(Refusal(Kind::Corrupt, found.join("\n")).into());
    }
    for ((shard, source), sums) in &report.sums {
        let (kept, duplicates) = (sums.kept, sums.duplicates);
        let line = format!("{shard} {source} {} {kept} {duplicates} {}\n", sums.read, sums.dead_letters);
        print(&line)?;
    }
    Ok(())
}
