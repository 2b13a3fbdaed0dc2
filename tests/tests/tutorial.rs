//! The commands of docs/tutorial.md, run as they are.

use std::fs;
use std::process::Command;

use perennial_tests::world::World;
use perennial_tests::{path_of_programs, root, undisturbed};
use serde_json::Value;

/// The code blocks of a Markdown text that are in this language, in order.
pub fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in markdown.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(name)) => open = Some((name == language, String::new())),
            (Some(_), Some("")) => {
                blocks.extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, text)| text))
            }
            (Some((_, text)), _) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}

#[test]
fn tutorial_leads_from_a_folder_of_text_to_checkpoints_and_a_report_in_ten_commands() {
    let page = fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    let commands = blocks(&page, "sh");
    assert_eq!(commands.len(), 10);
    let world = World::new();
    let mut printed = Vec::new();
    for command in &commands {
        let mut shell: Command = undisturbed("sh");
        shell.args(["-eu", "-c", command]).current_dir(world.path("."));
        let output = shell.env("PATH", path_of_programs()).env("PERENNIAL", root()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}\n{}\n{errors}", output.status);
        printed.push(String::from_utf8(output.stdout).unwrap());
    }

    assert!(printed[3].contains("read 1013: kept 937, duplicates 48, dead letters 28"), "{}", printed[3]);
    assert!(
        printed[4].contains("the store is sound") && printed[4].contains("main/100: kept"),
        "{}",
        printed[4]
    );
    assert_eq!(printed[5].lines().filter(|line| line.starts_with("digest ")).count(), 4, "{}", printed[5]);
    assert!(
        printed[5].contains("row 11 new") && printed[5].contains("row 15 replayed from main"),
        "{}",
        printed[5]
    );

    let report = fs::read(world.path("report/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let ends: Vec<f64> = report["runs"].as_array().unwrap().iter().map(end).collect();
    // The page says 5.00 and 4.65; the digits depend on the kind of CPU.
    assert!(ends[0] < 5.5 && ends[1] < ends[0] - 0.1, "{ends:?}");
    for job in ["plain", "replay"] {
        let folders = fs::read_dir(world.path(job)).unwrap().map(|entry| entry.unwrap().path());
        assert!(folders.into_iter().any(|folder| folder.join("model.safetensors").is_file()), "{job}");
    }
    let html = fs::read_to_string(world.path("report/report.html")).unwrap();
    assert!(html.contains("no replay") && html.contains("25 % replay"));
}

/// Bits per byte at a run's last evaluation: the mean over its slices.
fn end(run: &Value) -> f64 {
    let slices = run["points"].as_array().unwrap().last().unwrap()["scores"].as_array().unwrap();
    let sum = |slice: &Value, key: &str| -> f64 {
        slice["documents"].as_array().unwrap().iter().map(|document| document[key].as_f64().unwrap()).sum()
    };
    let bits = slices.iter().map(|slice| sum(slice, "nats") / std::f64::consts::LN_2 / sum(slice, "bytes"));
    bits.sum::<f64>() / slices.len() as f64
}

#[test]
fn blocks_are_those_of_the_language_in_order() {
    let page = "text\n```sh\none\n\ntwo\n```\n```text\nno\n```\n```sh\nthree\n```\n";
    assert_eq!(blocks(page, "sh"), ["one\n\ntwo\n", "three\n"]);
    assert_eq!(blocks(page, "toml"), [""; 0]);
}
