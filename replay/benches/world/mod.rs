//! A store of real text, written as ingest's rows are, and what a benchmark asks of it.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use perennial_program::clock::Clock;
use perennial_program::config::{Bytes, Loader};
use perennial_replay::config::Config;
use perennial_replay::issue::{Issued, Request};
use perennial_replay::library::{Access, Library};
use perennial_replay::plan::Plan;
use perennial_schemas::table::Table;
use perennial_schemas::table::column::pack_u32;
use perennial_schemas::table::records::{Builder, Outcome, Row};
use perennial_schemas::wire::Ticket;
use perennial_store::Store;
use perennial_store::commit::Committer;
use serde::Deserialize;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

/// Documents that are read of the large stream.
const MOST: usize = 30_000;
/// Text of one commit, as ingest's default.
const COMMIT: usize = 32 << 20;
/// The least passage, as ingest's.
const PASSAGE: usize = 256;

/// A store and what is in it.
#[derive(Debug)]
pub struct World {
    /// What the text is.
    pub from: &'static str,
    /// Kept records.
    pub records: usize,
    /// Bytes of their text.
    pub bytes: usize,
    folder: TempDir,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

impl World {
    /// The bundled stream.
    pub async fn bundled() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/stream.jsonl.zst");
        Self::of("the bundled stream", &path).await
    }

    /// The first of the large stream, where `PERENNIAL_DATA` names the folder that holds it.
    pub async fn large() -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "a benchmark finds its data by the environment")]
        let path = PathBuf::from(std::env::var_os("PERENNIAL_DATA")?).join("stream.jsonl.zst");
        Some(Self::of("the first of the large stream", &path).await)
    }

    async fn of(from: &'static str, path: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut world = Self { from, records: 0, bytes: 0, folder };
        let url = world.url();
        let store = Store::create(&url, &HashMap::new(), Clock::system()).await.expect("a store");
        let fence = "ingest/main";
        let mut committer = Committer::open(&store, Table::Records, fence).await.expect("it opens");
        let mut decoder =
            zstd::stream::read::Decoder::new(File::open(path).expect("the stream is there")).expect("zstd");
        decoder.window_log_max(27).expect("a window of 128 MiB");
        let (mut builder, mut waiting, mut known, mut next) = (Builder::new(), 0, BTreeSet::new(), 0);
        for (seq, line) in BufReader::new(decoder).split(b'\n').take(MOST).enumerate() {
            // The bundled stream has malformed lines, for ingest to refuse.
            let Ok(line) = serde_json::from_slice::<Line>(&line.expect("it decodes")) else { continue };
            if known.insert(push(&mut builder, i64::try_from(seq).expect("it is small"), &line.text)) {
                world.records += 1;
                world.bytes += line.text.len();
                waiting += line.text.len();
            }
            next = i64::try_from(seq).expect("it is small") + 1;
            if waiting >= COMMIT {
                commit(&mut committer, fence, &mut builder, next).await;
                waiting = 0;
            }
        }
        commit(&mut committer, fence, &mut builder, next).await;
        world
    }

    fn url(&self) -> perennial_store::StoreUrl {
        self.folder.path().display().to_string().parse().expect("a path")
    }

    /// The store, as a program that starts opens it.
    pub async fn store(&self) -> Store {
        Store::open(&self.url(), &HashMap::new(), Clock::system()).await.expect("it opens")
    }

    /// The library over a store that was just opened.
    pub async fn library(&self, plan: &Plan, cache: Bytes) -> Library {
        Library::open(self.store().await, plan.clone(), cache, Access::Follow).await.expect("it opens")
    }
}

async fn commit(committer: &mut Committer, fence: &str, builder: &mut Builder, next: i64) {
    let number = committer.last(fence).await.expect("it reads").unwrap_or(0) + 1;
    let rows = builder.finish().expect("rows");
    let transactions = vec![(fence.to_owned(), number), ("seq/main".to_owned(), next)];
    committer.commit(&[rows], transactions).await.expect("it commits");
}

fn push(builder: &mut Builder, seq: i64, text: &str) -> u128 {
    let id = xxh3_128(text.as_bytes());
    let mut ends: Vec<u32> = Vec::new();
    let mut end = 0;
    for paragraph in text.split_inclusive("\n\n") {
        end += paragraph.len();
        if end - ends.last().map_or(0, |last| *last as usize) >= PASSAGE && end < text.len() {
            ends.push(u32::try_from(end).expect("a text is small"));
        }
    }
    ends.push(u32::try_from(text.len()).expect("a text is small"));
    builder.push(Row {
        seq: Some(seq),
        start: seq,
        end: seq + 1,
        id: Some(&id.to_be_bytes()),
        text: Some(text),
        passages: Some(&pack_u32(&ends)),
        ..Row::new(Outcome::Kept, "main", "bench")
    });
    id
}

/// The plan of these settings of replay's config; buffers may be drawn from at any place of the stream.
pub fn plan(settings: &[String]) -> Plan {
    let mut plan = None;
    let loader = Loader::new("replay").assign("--set", "follow.visible_until=store");
    let loader = settings.iter().fold(loader, |loader, setting| loader.assign("--set", setting.as_str()));
    loader
        .load_with(|config: &mut Config, problems| plan = config.plan("", problems))
        .expect("settings that are");
    plan.expect("a plan")
}

/// A job's consecutive requests from the start of the stream, at most this many.
pub async fn tickets(library: &mut Library, most: usize) -> Vec<(Request, Ticket)> {
    let mut request = Request::first("bench");
    let mut tickets = Vec::new();
    while tickets.len() < most
        && let Issued::Ticket(ticket) = library.ticket(&request).await.expect("it answers")
    {
        let next = library.after(&ticket).await.expect("it was issued");
        tickets.push((std::mem::replace(&mut request, next), ticket));
    }
    tickets
}
