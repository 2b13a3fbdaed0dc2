//! Two servers of one store, killed at random instants while clients ask both for the steps of a job: each step
//! has one ticket and one batch, and the job gets all new text.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_schemas::seed::{Seed, below};
use perennial_schemas::table::records::Outcome;
use perennial_tests::full;
use perennial_tests::world::World;
use serde_json::Value;

use super::kill::real_lines;
use super::{ONCE, Reading, readings, source};
use crate::serve::{Server, ask};

/// Clients that ask at once.
const CLIENTS: u64 = 4;
/// Steps among which a client chooses: what a job's prefetching workers ask for.
const WINDOW: u64 = 24;
const SETTINGS: &[&str] = &["--set", "mix.main=0.25", "--set", "follow.block=16"];

/// What was answered so far.
#[derive(Default)]
struct Known {
    tickets: BTreeMap<u64, String>,
    digests: BTreeMap<u64, String>,
    /// Where the stream ended for a client.
    end: Option<u64>,
}

/// What clients share.
#[derive(Default)]
struct Shared {
    addresses: [Mutex<String>; 2],
    known: Mutex<Known>,
    answers: AtomicU64,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// A client: any step of the window, of any server, until it has to stop.
    fn client(&self, seed: Seed) {
        for turn in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let number = |what: u64, most: u64| below(seed.at(&[turn, what]), most);
            let low = {
                let known = lock(&self.known);
                let next = (0..).find(|step| !known.digests.contains_key(step)).unwrap_or(0);
                known.end.map_or(next, |end| next.min(end))
            };
            let step = (low + number(0, WINDOW)).saturating_sub(number(1, 8));
            let address = |which: u64| lock(&self.addresses[usize::from(which == 1)]).clone();
            let body = serde_json::json!({ "job": "a", "step": step }).to_string();
            let Some(issued) = answer(&address(number(2, 2)), "/v1/tickets", &body) else { continue };
            let ticket = issued["ticket"].to_string();
            if issued["ticket"].is_null() {
                let mut known = lock(&self.known);
                known.end = Some(known.end.map_or(step, |end| end.min(step)));
                continue;
            }
            {
                let mut known = lock(&self.known);
                let first = known.tickets.entry(step).or_insert_with(|| ticket.clone());
                assert_eq!(*first, ticket, "step {step} has two tickets");
                if known.end.is_some_and(|end| end <= step) {
                    known.end = None;
                }
            }
            let Some(batch) = answer(&address(number(3, 2)), "/v1/batches", &ticket) else { continue };
            let digest = batch["digest"].to_string();
            let mut known = lock(&self.known);
            let first = known.digests.entry(step).or_insert_with(|| digest.clone());
            assert_eq!(*first, digest, "step {step} has two batches");
            drop(known);
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The answer of a server; `None` where it was killed, or does not know yet what the other one has decided.
fn answer(address: &str, path: &str, body: &str) -> Option<Value> {
    let (status, text) = ask(address, "POST", path, body).ok()?;
    // A ticket may name what the other server wrote a moment ago.
    let behind =
        status == 404 && (text.contains("the order does not reach") || text.contains("has no revision"));
    if behind || status == 503 {
        return None;
    }
    assert_eq!(status, 200, "{path} {body}: {text}");
    serde_json::from_str(&text).ok()
}

/// Kills one of two servers `kills` times at a random instant, while clients ask and the stream grows.
async fn kill(world: &World, shared: &Shared, stream: &[u8], kills: u64) {
    let (seed, clock) = (Seed::new(14).child("kills"), Clock::system());
    let start = |which: usize| {
        let server = Server::start(world, SETTINGS);
        lock(&shared.addresses[which]).clone_from(&server.http);
        server
    };
    let mut servers = [start(0), start(1)];
    let mut fed = stream.len() / 5;
    for kill in 0..kills {
        clock.sleep(Duration::from_micros(below(seed.at(&[kill, 0]), 200_000))).await;
        let which = usize::from(below(seed.at(&[kill, 1]), 2) == 1);
        // A server is killed when its value is dropped.
        servers[which] = start(which);
        if kill % 6 == 5 {
            let to = (fed + stream.len() / 5).min(stream.len());
            append(world, &stream[fed..to]);
            fed = to;
        }
    }
    // However slow the machine: much is asked for after the last kill.
    let enough = shared.answers.load(Ordering::Relaxed) + 4 * WINDOW;
    for _ in 0..6000 {
        if shared.answers.load(Ordering::Relaxed) > enough {
            break;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    shared.stop.store(true, Ordering::Relaxed);
}

/// Adds text to the stream, and reads it.
fn append(world: &World, text: &[u8]) {
    let file = OpenOptions::new().create(true).append(true).open(world.path("fed.jsonl"));
    file.and_then(|mut file| file.write_all(text)).expect("a file can be written");
    world.succeed("perennial-ingest", ONCE);
}

/// The steps of the job as the store has them: what clients were given, and all new text, token by token, as
/// `kept` has it (offset and number of tokens of each record). Their number.
fn compare(world: &World, known: &Known, kept: &[(u64, u64)]) -> u64 {
    let server = Server::start(world, SETTINGS);
    let (mut step, mut record, mut token) = (0, 0, 0);
    loop {
        let page = server.json("GET", &format!("/v1/draws?job=a&from={step}&limit=200"), "");
        let draws = page["draws"].as_array().expect("a list");
        if draws.is_empty() {
            return step;
        }
        for draw in draws {
            assert_eq!(draw["step"], step);
            if let Some(ticket) = known.tickets.get(&step) {
                assert_eq!(draw["ticket"].to_string(), *ticket, "step {step}");
            }
            for span in
                draw["spans"].as_array().expect("a list").iter().filter(|span| span["buffer"].is_null())
            {
                let [offset, first, tokens] =
                    ["offset", "first_token", "tokens"].map(|key| span[key].as_u64().expect("a number"));
                let (kept_offset, size) = kept[record];
                assert_eq!((offset, first), (kept_offset, token), "step {step}: {span}");
                token += tokens;
                if token == size {
                    (record, token) = (record + 1, 0);
                }
            }
            step += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_killed_at_any_instant_give_each_step_of_a_job_one_ticket_and_one_batch() {
    let kills = if full() { 1_000 } else { 24 };
    let stream = real_lines(10).await;
    let world = World::new();
    world.write("ingest.toml", source("fed.jsonl", "[commit]\nbytes = \"20kB\"\n"));
    append(&world, &stream[..stream.len() / 5]);
    let shared = Arc::new(Shared::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.client(Seed::new(15).child(&client.to_string())))
        })
        .collect();
    kill(&world, &shared, &stream, kills).await;
    for client in clients {
        client.join().expect("every answer was what it had been");
    }
    let read = readings(&world).await;
    let kept = (0..).zip(&read).filter(|(_, reading)| reading.outcome == Outcome::Kept);
    let size = |reading: &Reading| reading.text.as_ref().map_or(0, String::len) as u64 + 1;
    let kept: Vec<(u64, u64)> = kept.map(|(offset, reading)| (offset, size(reading))).collect();
    let known = lock(&shared.known);
    let decided = compare(&world, &known, &kept);
    let last = known.tickets.last_key_value().map_or(0, |(last, _)| *last);
    assert!(last > 2 * WINDOW && last < decided, "{last} of {decided}");
    assert!(known.digests.len() as u64 > WINDOW, "{}", known.digests.len());
}
