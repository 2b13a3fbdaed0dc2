//! The server as its clients see it: started as a program, asked over a socket, stopped by a signal.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use perennial_program::error::Kind;
use perennial_schemas::table::Table;
use perennial_tests::world::{Running, World};
use serde_json::Value;

use crate::walk::{INGEST, ingested};

const SERVE: &[&str] = &[
    "--store",
    "store",
    "--set",
    "batch.rows=2",
    "--set",
    "batch.tokens=128",
    "--set",
    "serve.http=127.0.0.1:0",
    "--set",
    "serve.flight=127.0.0.1:0",
];

/// A running server.
pub struct Server {
    running: Running,
    pub http: String,
    pub flight: String,
}

impl Server {
    pub fn start(world: &World, more: &[&str]) -> Self {
        let mut command = world.command("perennial-replay", SERVE);
        command.args(more).arg("serve").stdout(Stdio::piped());
        let mut running = Running::start(command);
        let mut lines = BufReader::new(running.child().stdout.take().expect("its output is ours")).lines();
        let mut address = |name: &str| {
            let line = lines.next().expect("it says where it listens").expect("in UTF-8");
            line.strip_prefix(name).unwrap_or_else(|| panic!("`{line}` is not {name}")).trim().to_owned()
        };
        let http = address("http");
        let flight = address("flight");
        assert_ne!(http, flight);
        Self { running, http, flight }
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        ask(&self.http, method, path, body).expect("the server answers")
    }

    pub fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = self.ask(method, path, body);
        assert_eq!(status, 200, "{method} {path}: {answer}");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// Stops it; its exit code.
    pub fn terminate(self) -> Option<i32> {
        self.running.terminate().status.code()
    }
}

/// The status and the body of an answer.
///
/// # Errors
/// No server listens, or it ended in the middle of its answer.
pub fn ask(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || std::io::Error::other(format!("a broken answer: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    if length.is_some_and(|length: usize| length != body.len()) {
        return Err(broken());
    }
    Ok((status, body.to_owned()))
}

#[tokio::test]
async fn server_gives_what_sample_prints_and_what_it_decided_outlives_it() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let server = Server::start(&world, &[]);
    assert_eq!(server.ask("GET", "/readyz", "").0, 200);
    let first = server.json("POST", "/v1/tickets", r#"{"job": "a"}"#);
    let ticket = first["ticket"].to_string();
    let batch = server.json("POST", "/v1/batches", &ticket);
    let second = server.json("POST", "/v1/tickets", &batch["next"].to_string());
    assert_eq!(second["ticket"]["step"], 1);

    let sample = ["sample", "--digests", "--job", "a"];
    let printed = world.succeed("perennial-replay", &[SERVE, &sample[..]].concat());
    let digest = batch["digest"].as_str().unwrap();
    assert_eq!(printed, format!("ticket {ticket}\ndigest {digest}\n"));

    assert_eq!(server.terminate(), Some(0));
    let store = world.store().await;
    let rows = store.transaction(Table::Views, "views/a").await.unwrap();
    assert!(rows > Some(1), "{rows:?}");
    let server = Server::start(&world, &[]);
    let draws = server.json("GET", "/v1/draws?job=a&limit=2", "");
    assert_eq!(
        (&draws["draws"][0]["ticket"], &draws["draws"][1]["ticket"]),
        (&first["ticket"], &second["ticket"])
    );
    assert_eq!(server.json("POST", "/v1/batches", &ticket)["digest"], batch["digest"]);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(store.transaction(Table::Views, "views/a").await.unwrap(), rows);
}

#[test]
fn server_without_a_store_or_on_a_taken_port_says_so_and_ends() {
    let world = ingested();
    let missing = world.run("perennial-replay", &[SERVE, &["serve"]].concat());
    let said = String::from_utf8_lossy(&missing.stderr);
    assert_eq!(missing.status.code(), Some(Kind::NotFound.codes().exit.into()), "{said}");
    world.succeed("perennial-ingest", INGEST);
    let server = Server::start(&world, &[]);
    let set = format!("serve.flight={}", server.http);
    let taken = world.run("perennial-replay", &[SERVE, &["--set", &set, "serve"]].concat());
    let said = String::from_utf8_lossy(&taken.stderr);
    assert_eq!(taken.status.code(), Some(Kind::Unavailable.codes().exit.into()), "{said}");
    assert!(said.contains(&format!("cannot serve on {}", server.http)), "{said}");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn job_fed_by_a_server_learns_what_a_job_learns_that_reads_the_store_itself() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let reading = ["--set", "mix.main=0.25", "--set", "new_text.keep=0.75", "--set", "follow.block=16"];
    let job = |folder: &str| format!("job.folder={folder}");
    let train = |folder: &str, more: &[&str]| {
        let folder = job(folder);
        let common = ["--config", "job.toml", "--store", "store", "--set", "job.name=a", "--set", &folder];
        world.run("perennial-train", &[&common[..], more, &["run"]].concat())
    };
    assert!(train("here", &[]).status.success());
    let server = Server::start(&world, &reading);
    let address = format!("run.server=http://{}", server.flight);
    let fed = train("fed", &["--set", &address]);
    assert!(fed.status.success(), "{}", String::from_utf8_lossy(&fed.stderr));
    let weights = |folder: &str| {
        std::fs::read(world.path(&format!("{folder}/step-24/model.safetensors"))).expect("it ended")
    };
    assert!(weights("here") == weights("fed"), "the same bytes make the same weights");
    let other = train("other", &["--set", &address, "--set", "replay.batch.tokens=64"]);
    assert_eq!(other.status.code(), Some(i32::from(Kind::Conflict.codes().exit)), "another plan is refused");
    // What a job is fed is decided once; a configuration that says otherwise is reported.
    let differs = train("differs", &["--set", &address, "--set", "replay.mix.main=0.5"]);
    let said = String::from_utf8_lossy(&differs.stderr);
    assert!(differs.status.success() && said.contains("goes on with its own settings"), "{said}");
    assert!(weights("here") == weights("differs"));
    assert_eq!(server.terminate(), Some(0));
}

/// A job that reads from this Flight address, and how long it waits for it.
fn fed(world: &World, flight: &str, wait: &str, deadline: &str) -> Running {
    let address = format!("run.server=http://{flight}");
    let waits = [format!("run.server_wait={wait}"), format!("run.server_deadline={deadline}")];
    let common =
        ["--config", "job.toml", "--store", "store", "--set", "job.name=a", "--set", "job.folder=fed"];
    let set = ["--set", &address, "--set", &waits[0], "--set", &waits[1], "run"];
    let mut command = world.command("perennial-train", &[&common[..], &set].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(command)
}

#[test]
fn job_waits_for_a_server_that_is_not_there_yet_and_says_so() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let reading = ["--set", "mix.main=0.25", "--set", "new_text.keep=0.75", "--set", "follow.block=16"];
    let server = Server::start(&world, &reading);
    let (http, flight) = (format!("serve.http={}", server.http), format!("serve.flight={}", server.flight));
    let address = server.flight.clone();
    assert_eq!(server.terminate(), Some(0));

    let mut job = fed(&world, &address, "60s", "60s");
    let mut said = BufReader::new(job.child().stderr.take().expect("its output is ours")).lines();
    let waiting = said.find(|line| line.as_ref().is_ok_and(|line| line.contains("does not answer: waiting")));
    assert!(waiting.is_some(), "it does not say that it waits");
    // Its later lines must not fill the pipe.
    let rest = std::thread::spawn(move || said.count());
    let set = ["--set", http.as_str(), "--set", &flight];
    let server = Server::start(&world, &[&reading[..], &set].concat());
    assert!(job.end().status.success());
    rest.join().expect("it only reads");
    assert!(world.path("fed/step-24/model.safetensors").exists());
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn frozen_server_is_noticed() {
    let world = ingested();
    world.succeed("perennial-ingest", INGEST);
    let mut server = Server::start(&world, &[]);
    let process = i32::try_from(server.running.child().id()).expect("a process");
    let signal = |name: &str| {
        let sent = std::process::Command::new("kill").args([name, &process.to_string()]).status();
        assert!(sent.expect("kill is there").success());
    };
    signal("-STOP");
    let ended = fed(&world, &server.flight, "3s", "1s").end();
    signal("-CONT");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(Kind::Unavailable.codes().exit.into()), "{said}");
    assert!(said.contains("the replay server did not issue a ticket within 1 s"), "{said}");
    assert_eq!(server.terminate(), Some(0));
}
