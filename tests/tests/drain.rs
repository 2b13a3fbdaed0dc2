//! SIGTERM: what is under way is finished, nothing that was read is left behind, and the exit code is 0.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{ChildStderr, Command, Stdio};
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_schemas::table::Table;
use perennial_tests::world::{Running, World, lines};
use serde_json::Value;

use crate::crash::learnt;
use crate::walk::{INGEST, ingested};

/// A program under way that tells what it does.
struct Telling {
    running: Running,
    log: BufReader<ChildStderr>,
}

impl Telling {
    fn start(world: &World, program: &str, arguments: &[&str]) -> Self {
        let mut command = world.command_that_logs("info", program, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running::start(command);
        let log = BufReader::new(running.child().stderr.take().expect("its log is ours"));
        Self { running, log }
    }

    /// Reads the log up to a line with these words.
    fn until(&mut self, words: &str) {
        let mut said = String::new();
        while !said.contains(words) {
            let before = said.len();
            self.log.read_line(&mut said).expect("a log is UTF-8");
            assert!(said.len() > before, "it ended without `{words}`: {said}");
        }
    }

    /// Asks it to stop, and waits until it says that it has heard.
    fn ask_to_stop(&mut self) {
        self.running.ask_to_stop();
        self.until("stopping: finishing the work in progress");
    }

    /// Waits for its end, and gives what it printed.
    fn end(mut self) -> String {
        // Its standard input stays open until then: nothing but the signal ends it.
        let input = self.running.child().stdin.take();
        let output = self.running.end();
        drop(input);
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("a log is UTF-8");
        assert_eq!(output.status.code(), Some(0), "{rest}");
        String::from_utf8(output.stdout).expect("programs print UTF-8")
    }
}

/// The length of a line of the standard input.
const LINE: usize = 16 * 1024;
/// Lines that are sent: 1.5 MiB.
const SENT: usize = 96;
/// More of them than a pipe, the pieces that wait behind it and the one at hand can hold unread:
/// 64 KiB, eight times 64 KiB, and three times 64 KiB. Those before were cut into lines.
const UNREAD: usize = 12 * 64 * 1024 / LINE;

/// The standard input: lines that are no JSON, so that each is a dead letter, which is cheap.
fn piped() -> Vec<u8> {
    (0..SENT).flat_map(|number| format!("{number:0width$}\n", width = LINE - 1).into_bytes()).collect()
}

#[tokio::test]
async fn ingest_that_is_asked_to_stop_commits_all_that_it_read_and_goes_on_behind_it() {
    let world = World::new();
    world.write("in.jsonl", lines(30));
    // Read in this order. Nothing but the stop commits what they have: it is far less than `commit.bytes`.
    let sources = "[[source]]\nname = \"a\"\npath = \"in.jsonl\"\n[[source]]\nname = \"b\"\npath = \"-\"\n";
    world.write("ingest.toml", format!("{sources}[commit]\ninterval = \"10h\"\n"));
    let piped = piped();
    let run = ["--config", "ingest.toml", "run"];
    let mut daemon = Telling::start(&world, "perennial-ingest", &run);
    // It begins with the standard input when all of the file is read.
    daemon.until("reading the standard input");
    let mut input = daemon.running.child().stdin.take().unwrap();
    input.write_all(&piped).unwrap();
    daemon.running.child().stdin = Some(input);
    assert_eq!(world.readings().await, [""; 0], "read, and not committed");

    daemon.ask_to_stop();
    let printed = daemon.end();
    let stopped = world.readings().await;
    let of_pipe = stopped.len() - 30;
    assert!((SENT - UNREAD..=SENT).contains(&of_pipe), "{of_pipe} of {SENT} lines: {printed}");
    assert!(
        printed
            .starts_with(&format!("read {}: kept 30, duplicates 0, dead letters {of_pipe};", 30 + of_pipe)),
        "{printed}"
    );
    let position = of_pipe * LINE;
    assert!(printed.contains(&format!("standard input: {position} bytes are in the store")), "{printed}");

    let mut daemon = Telling::start(&world, "perennial-ingest", &run);
    daemon.until("reading the standard input");
    let mut input = daemon.running.child().stdin.take().unwrap();
    input.write_all(&piped[position..]).unwrap();
    drop(input);
    let printed = daemon.end();
    assert!(printed.starts_with(&format!("read {}: kept 0,", SENT - of_pipe)), "{printed}");
    let all = world.readings().await;
    assert_eq!(all[..stopped.len()], stopped[..]);
    assert_eq!(all.len(), 30 + SENT);
    for (number, reading) in all[30..].iter().enumerate() {
        let place = format!("dead_letter {}..{} ", number * LINE, (number + 1) * LINE);
        assert!(reading.starts_with("b ") && reading.contains(&place), "{reading}");
    }
    world.checked().await;
}

#[tokio::test]
async fn follower_that_is_asked_to_stop_commits_the_whole_lines_of_a_growing_file_and_goes_on_behind_them() {
    let world = World::new();
    // Nothing but the stop commits.
    let source = "[[source]]\nname = \"a\"\npath = \"in\"\nfollow = true\n";
    let limits = "[read]\npoll = \"5ms\"\n[commit]\ninterval = \"10h\"\n";
    world.write("ingest.toml", source.to_owned() + limits);
    world.write("in/a.jsonl", lines(3));
    let mut daemon = Telling::start(&world, "perennial-ingest", &["--config", "ingest.toml", "run"]);
    // Each look at the folder says first what it passes over, where that is more than before.
    let look = |daemon: &mut Telling, number: u64| {
        world.write(&format!("in/{number}.txt"), "");
        daemon.until("files are passed over");
    };
    look(&mut daemon, 1);
    let mut file = fs::File::options().append(true).open(world.path("in/a.jsonl")).unwrap();
    let fourth = lines(4).split_off(lines(3).len());
    file.write_all((fourth + "{\"text\": \"written in").as_bytes()).unwrap();
    look(&mut daemon, 2);
    // With the next look the one before it is over.
    look(&mut daemon, 3);
    assert_eq!(world.readings().await, [""; 0], "read, and not committed");
    daemon.ask_to_stop();
    let printed = daemon.end();
    assert!(printed.starts_with("read 4: kept 4,"), "{printed}");
    let stopped = world.readings().await;

    file.write_all(b" two\"}\n").unwrap();
    world.succeed("perennial-ingest", INGEST);
    let all = world.readings().await;
    assert_eq!(all[..4], stopped[..]);
    assert!(all.len() == 5 && all[4].contains("written in two"), "{all:?}");
    world.checked().await;
}

/// What runs the job `a` in a folder up to a step, with no checkpoint but the last.
fn job(folder: &str, steps: u64) -> Vec<String> {
    let sets = [
        "job.name=a".to_owned(),
        format!("job.folder={folder}"),
        format!("run.steps={steps}"),
        "run.checkpoint_every=100000".to_owned(),
        "evaluate.every=100000".to_owned(),
    ];
    let sets = sets.into_iter().flat_map(|set| ["--set".to_owned(), set]);
    ["--config", "job.toml"].map(str::to_owned).into_iter().chain(sets).chain(["run".to_owned()]).collect()
}

fn as_str(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Waits until the metrics of the job in this folder have `steps` lines.
async fn until_steps(trainer: &mut Telling, world: &World, folder: &str, steps: usize) {
    let clock = Clock::system();
    let metrics = world.path(folder).join("metrics.jsonl");
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < steps {
        assert!(trainer.running.child().try_wait().unwrap().is_none(), "it ended of itself");
        clock.sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn job_that_is_asked_twice_ends_at_once_and_does_not_fall_over_what_it_leaves() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    for folder in ["a", "b", "c"] {
        let arguments = job(folder, 2000);
        let mut trainer = Telling::start(&world, "perennial-train", &as_str(&arguments));
        until_steps(&mut trainer, &world, folder, 3).await;
        let id = trainer.running.child().id();
        // Two signals: of one sent twice the system may deliver one.
        let both = format!("kill -TERM {id}; kill -INT {id}");
        assert!(Command::new("sh").args(["-c", &both]).status().unwrap().success());
        assert_eq!(trainer.running.end().status.code(), Some(130));
    }
}

#[tokio::test]
async fn job_that_is_asked_to_stop_leaves_a_checkpoint_at_its_step_and_goes_on_to_the_same_weights() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let arguments = job("a", 2000);
    let mut trainer = Telling::start(&world, "perennial-train", &as_str(&arguments));
    until_steps(&mut trainer, &world, "a", 3).await;
    trainer.ask_to_stop();
    let printed = trainer.end();
    let step: u64 = printed
        .strip_prefix("stopped after step ")
        .and_then(|rest| rest.split(':').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{printed}"));
    assert!(
        (3..2000).contains(&step) && printed.ends_with(&format!("checkpoint a/step-{step}\n")),
        "{printed}"
    );
    assert_eq!(learnt(&world, "a", step).0.len() as u64, step);

    let end = step + 3;
    let whole = ["a", "b"].map(|folder| {
        let arguments = job(folder, end);
        world.succeed("perennial-train", &as_str(&arguments));
        learnt(&world, folder, end)
    });
    assert_eq!(whole[0].0.len() as u64, end);
    assert!(whole[0] == whole[1], "the same as of a job that never stopped");
}

#[tokio::test]
async fn server_that_is_asked_to_stop_answers_the_request_under_way() {
    let world = World::new();
    world.write("in.jsonl", lines(60));
    world.write("ingest.toml", "[[source]]\nname = \"s\"\npath = \"in.jsonl\"\n");
    world.succeed("perennial-ingest", INGEST);
    let mut arguments = vec!["--store", "store"];
    for set in [
        "batch.rows=1",
        "batch.tokens=64",
        "mix={}",
        "serve.http=127.0.0.1:0",
        "serve.flight=127.0.0.1:0",
        // However slow the machine, the request under way is waited for.
        "serve.grace=1h",
    ] {
        arguments.extend(["--set", set]);
    }
    arguments.push("serve");
    let mut server = Telling::start(&world, "perennial-replay", &arguments);
    let mut printed = BufReader::new(server.running.child().stdout.take().unwrap()).lines();
    let address = printed.next().unwrap().unwrap().strip_prefix("http ").unwrap().to_owned();
    // Begins a request: it is under way when the server asks for its body.
    let begin = |path: &str, body: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let length = body.len();
        write!(stream, "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n").unwrap();
        let mut asked = [0; 25];
        stream.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream
    };
    let finish = |mut stream: TcpStream, body: &str| -> Value {
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let job = r#"{"job": "a"}"#;
    let ticket = finish(begin("/v1/tickets", job), job)["ticket"].to_string();
    let under_way = begin("/v1/batches", &ticket);
    server.ask_to_stop();
    let store = world.store().await;
    assert!(store.transaction(Table::Views, "views/a").await.unwrap() >= Some(1));
    let batch = finish(under_way, &ticket);
    server.end();
    // What was on its way when it stopped is there too: the view that follows.
    assert_eq!(store.transaction(Table::Views, "views/a").await.unwrap(), Some(2));
    let sample = [&arguments[..arguments.len() - 1], &["sample", "--job", "a", "--digests"]].concat();
    let printed = world.succeed("perennial-replay", &sample);
    assert!(printed.ends_with(&format!("digest {}\n", batch["digest"].as_str().unwrap())), "{printed}");
}
