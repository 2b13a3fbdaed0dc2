//! A daemon killed at random instants while its file grows: nothing is lost and nothing is there twice.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_schemas::seed::{Seed, below};
use perennial_tests::full;
use perennial_tests::world::World;

use super::{FOLLOW, ONCE, Reading, followed, readings, source, start, until_read};
use crate::walk::{INGEST, ingested};

/// Lines of the bundled stream, documents and damage alike, `rounds` times a hundred of them.
pub async fn real_lines(rounds: u64) -> Vec<u8> {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let mut lines = Vec::new();
    let read = readings(&world).await;
    for reading in read
        .iter()
        .cycle()
        .filter(|reading| reading.text.is_some() || reading.raw.is_some())
        .take(100 * usize::try_from(rounds).unwrap())
    {
        match (&reading.text, &reading.raw) {
            (Some(text), _) => {
                let line = serde_json::json!({ "id": reading.external_id, "text": text });
                lines.extend_from_slice(line.to_string().as_bytes());
            }
            (None, raw) => lines.extend_from_slice(raw.as_deref().unwrap_or_default()),
        }
        lines.push(b'\n');
    }
    lines
}

/// What one run reads of a file that has all of it.
async fn undisturbed(stream: &[u8]) -> Vec<Reading> {
    let world = World::new();
    world.write("fed.jsonl", stream);
    world.write("ingest.toml", source("fed.jsonl", ""));
    world.succeed("perennial-ingest", ONCE);
    readings(&world).await
}

#[tokio::test]
async fn daemon_killed_at_any_instant_while_its_file_grows_loses_nothing_and_reads_nothing_twice() {
    let rounds = if full() { 60 } else { 8 };
    let seed = Seed::new(20).child("kill");
    let stream = real_lines(rounds).await;
    let world = World::new();
    let pace = "block_lines = 5\n[commit]\nbytes = \"4kB\"\ninterval = \"10ms\"\n";
    world.write("ingest.toml", followed("fed.jsonl", pace));
    let mut file = OpenOptions::new().create(true).append(true).open(world.path("fed.jsonl")).unwrap();
    let clock = Clock::system();
    let mut fed = 0;
    for round in 0..rounds {
        let daemon = start(&world, "perennial-ingest", FOLLOW);
        let pieces = 4 + below(seed.at(&[round, 0]), 12);
        let share = stream.len() / usize::try_from(rounds * pieces).unwrap();
        for piece in 0..pieces {
            // Pieces end anywhere, in the middle of a line and of a character too.
            let to = (fed + share).min(stream.len());
            file.write_all(&stream[fed..to]).unwrap();
            fed = to;
            clock.sleep(Duration::from_micros(below(seed.at(&[round, 1, piece]), 60_000))).await;
        }
        if round == 0 {
            // However slow the machine: one at least is killed with something behind it.
            until_read(&world, 5).await;
        }
        drop(daemon);
    }
    file.write_all(&stream[fed..]).unwrap();
    let before = readings(&world).await;
    world.succeed("perennial-ingest", ONCE);
    let all = readings(&world).await;
    assert_eq!(all[..before.len()], before[..], "what was committed stays as it is");
    let expected = undisturbed(&stream).await;
    assert_eq!(all.len(), expected.len());
    for (number, (reading, expected)) in all.iter().zip(&expected).enumerate() {
        assert_eq!(reading, expected, "reading {number}");
    }
}
