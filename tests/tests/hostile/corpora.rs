//! Collections of bad input that others have made; they lie in `bad-inputs` of the folder `PERENNIAL_DATA`.

use std::fs;
use std::path::{Path, PathBuf};

use perennial_program::start::Environment;
use perennial_schemas::table::records::{Outcome, Reason};
use perennial_tests::not_run;
use perennial_tests::world::{World, text};

use super::{ONCE, readings, source};

/// The folder of one collection; nothing, with a message, where it is not there.
pub(super) fn collection(name: &str, inputs: usize) -> Option<PathBuf> {
    let environment = Environment::of_process();
    let folder = environment.get("PERENNIAL_DATA").map(|root| Path::new(root).join("bad-inputs").join(name));
    let there = folder.filter(|folder| folder.is_dir());
    if there.is_none() {
        not_run(&format!("{inputs} inputs of `{name}`: PERENNIAL_DATA names no folder with them"));
    }
    there
}

/// The files of a folder, by name.
pub(super) fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.iter().filter(|path| path.is_file()).map(|path| (name(path), fs::read(path).unwrap())).collect()
}

#[tokio::test]
async fn json_is_taken_and_refused_as_the_test_suite_says() {
    let Some(folder) = collection("json_test_suite/test_parsing", 318) else { return };
    let world = World::new();
    let mut plain = 0;
    for (name, content) in files(&folder) {
        // As it is, and as a value in a document.
        world.write(&format!("in/plain/{name}"), &content);
        plain += 1;
        let mut value = content;
        if name.starts_with("y_") {
            // Outside of strings, where alone a sound text can have one, it is white space.
            value.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        }
        let line = [&b"{\"text\":\"a document\",\"meta\":{\"value\":"[..], &value, b"}}\n"].concat();
        world.write(&format!("in/value/{name}"), line);
    }
    assert_eq!(plain, 318);
    world.write("ingest.toml", source("in", ""));
    world.succeed("perennial-ingest", ONCE);
    let readings = readings(&world).await;
    let mut sound = 0;
    for reading in &readings {
        let Some(name) = reading.path.strip_prefix("value/") else {
            assert_eq!(reading.outcome, Outcome::DeadLetter, "no test has a text: {reading:?}");
            continue;
        };
        match name.get(..2) {
            Some("y_") => assert!(reading.is_document(), "{reading:?}"),
            Some("n_") => assert!(!reading.is_document(), "{reading:?}"),
            _ => {}
        }
        sound += usize::from(name.starts_with("y_"));
    }
    assert_eq!(sound, 95, "one reading of each");
}

#[tokio::test]
async fn naughty_strings_are_kept_as_they_are() {
    let Some(folder) = collection("naughty_strings", 1) else { return };
    let strings: Vec<String> = serde_json::from_slice(&fs::read(folder.join("blns.json")).unwrap()).unwrap();
    let world = World::new();
    let line = |string: &String| {
        serde_json::json!({ "id": string, "text": string, "url": string }).to_string() + "\n"
    };
    world.write("in.jsonl", strings.iter().map(line).collect::<String>());
    world.write("ingest.toml", source("in.jsonl", ""));
    world.succeed("perennial-ingest", ONCE);
    let readings = readings(&world).await;
    assert_eq!(readings.len(), strings.len());
    for (reading, string) in readings.iter().zip(&strings) {
        if reading.is_document() {
            assert_eq!(reading.external_id.as_ref(), Some(string));
            assert!(reading.text.as_ref().is_none_or(|text| text == string), "{reading:?}");
        } else {
            assert_eq!(reading.reason, Some(Reason::EmptyText), "{reading:?}");
            assert!(string.trim().is_empty());
        }
    }
}

#[tokio::test]
async fn zstd_frames_are_read_and_refused_as_their_makers_say() {
    let Some(folder) = collection("zstd", 7) else { return };
    let world = World::new();
    for (kind, whole) in [("golden-decompression", true), ("golden-decompression-errors", false)] {
        for (name, content) in files(&folder.join(kind)) {
            world.write(&format!("in/{whole}/{}", name.replace(".zst", ".jsonl.zst")), content);
        }
    }
    world.write("ingest.toml", source("in", ""));
    world.succeed("perennial-ingest", ONCE);
    let breaks = [Reason::Truncated, Reason::CorruptSource];
    let broken: Vec<_> = readings(&world)
        .await
        .into_iter()
        .filter(|reading| reading.reason.is_some_and(|reason| breaks.contains(&reason)))
        .collect();
    assert_eq!(broken.len(), 3, "{broken:?}");
    assert!(broken.iter().all(|reading| reading.path.starts_with("false/")), "{broken:?}");
}

#[tokio::test]
async fn files_that_are_no_lines_at_all_do_no_harm() {
    let mut inputs = Vec::new();
    for (name, count) in [("unicode", 3), ("parquet_bad_data", 9), ("parquet_data", 24)] {
        inputs.extend(collection(name, count).map(|folder| files(&folder)).unwrap_or_default());
    }
    if inputs.is_empty() {
        return;
    }
    let world = World::new();
    for (name, content) in &inputs {
        world.write(&format!("in/{name}.jsonl"), content);
    }
    world.write("ingest.toml", source("in", ""));
    world.succeed("perennial-ingest", ONCE);
    let readings = readings(&world).await;
    assert!(readings.len() > 1000);
    assert!(readings.iter().all(|reading| reading.outcome == Outcome::DeadLetter));
    // What a config names is read whatever it is called.
    let (name, _) = &inputs[0];
    world.write("ingest.toml", source(text(&world.path(&format!("in/{name}.jsonl"))), ""));
    world.succeed("perennial-ingest", ONCE);
}
