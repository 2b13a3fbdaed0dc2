use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, Ticket as FlightTicket};
use futures::TryStreamExt as _;
use perennial_schemas::id::{Offset, Step, Version};
use perennial_schemas::table::Table;
use perennial_schemas::wire::Position;
use perennial_schemas::wire::{Batch, Ticket};
use perennial_store::maintain::{Options, Retention, run};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use super::*;
use crate::client::Client;
use crate::issue::{Issued, Request};
use crate::mix::Mix;
use crate::plan::{Plan, VisibleUntil};
use crate::receive::{Evaluation, Received};
use crate::testing::World;

/// Any port that is free.
const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A store with this many readings.
async fn world(readings: i64) -> World {
    let mut world = World::new().await;
    world.write("a", readings).await;
    world
}

impl World {
    async fn session(&self, plan: &Plan) -> Session {
        Session::start(self.library(plan).await, self.store.clone(), ServeConfig::default().settings())
    }

    async fn server(&self, plan: &Plan) -> Server {
        self.server_at(plan, FREE).await
    }

    async fn server_at(&self, plan: &Plan, flight: SocketAddr) -> Server {
        let config = ServeConfig { http: FREE, flight, body: Bytes::kib(64), ..ServeConfig::default() };
        let (listeners, stop) = (listen(&config).await.unwrap(), Stop::new());
        let (http, flight) = (listeners.http_address, listeners.flight_address);
        let (library, store, stopper) = (self.library(plan).await, self.store.clone(), stop.clone());
        let task = tokio::spawn(async move { serve(listeners, library, store, &config, stopper).await });
        let flight = format!("http://{flight}");
        let client =
            Client::connect(&flight, Clock::system(), crate::client::Patience::default()).await.unwrap();
        Server { http, flight, client, stop, task }
    }
}

struct Server {
    http: SocketAddr,
    flight: String,
    client: Client,
    stop: Stop,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Server {
    /// Status, head and body of an answer.
    async fn raw(&self, method: &str, path: &str, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n{head}\r\n",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        // A server that refuses a body need not read it to its end.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    async fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.raw(method, path, "", body.as_bytes()).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn ipc(&self, ticket: &Ticket) -> Batch {
        let accept = format!("accept: {}\r\n", http::ARROW);
        let (status, head, body) =
            self.raw("POST", "/v1/batches", &accept, ticket.to_json().as_bytes()).await;
        assert_eq!(status, 200, "{head}");
        let mut reader = arrow::ipc::reader::StreamReader::try_new(body.as_slice(), None).unwrap();
        let batch = Batch::new(reader.next().unwrap().unwrap()).unwrap();
        assert!(head.contains(&format!("perennial-digest: {:032x}", batch.digest())), "{head}");
        batch
    }

    async fn end(self) {
        self.stop.trigger();
        // A client that stays connected does not hold it.
        self.task.await.unwrap().unwrap();
        drop(self.client);
    }
}

/// A generic Flight client without our settings.
async fn stranger(url: &str) -> FlightServiceClient<tonic::transport::Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned()).unwrap();
    FlightServiceClient::new(endpoint.connect().await.unwrap())
}

fn plan() -> Plan {
    Plan { rows: 4, length: 64, drain: false, ..crate::testing::plan(0.4) }
}

/// All that a job gets until the stream ends.
async fn walk(client: &Client, job: &str) -> Vec<(Ticket, u128)> {
    let mut request = Request::first(job);
    let mut got = Vec::new();
    while let Issued::Ticket(ticket) = client.ticket(&request).await.unwrap() {
        let received = client.batch(&ticket).await.unwrap();
        got.push((ticket, received.batch.digest()));
        request = received.next;
    }
    got
}

/// Requests that stop in the middle, of the head and of the body, and connections without any.
#[tokio::test]
async fn half_sent_requests_are_dropped_in_time_and_hold_up_no_other() {
    let world = world(90).await;
    let config = ServeConfig {
        http: FREE,
        flight: FREE,
        request: config::Duration::millis(400),
        ..ServeConfig::default()
    };
    let (listeners, stop) = (listen(&config).await.unwrap(), Stop::new());
    let (http, stopper, store) = (listeners.http_address, stop.clone(), world.store.clone());
    let library = world.library(&plan()).await;
    let task = tokio::spawn(async move { serve(listeners, library, store, &config, stopper).await });
    let halves =
        ["", "POST /v1/tickets HT", "POST /v1/tickets HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{\"jo"];
    for wave in 0..4 {
        let mut open = Vec::new();
        for number in 0..250 {
            let mut stream = TcpStream::connect(http).await.unwrap();
            stream.write_all(halves[number % 3].as_bytes()).await.unwrap();
            open.push(stream);
        }
        // Others are served meanwhile.
        let mut stream = TcpStream::connect(http).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{wave}: {answer}");
        for (number, mut stream) in open.into_iter().enumerate() {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            // The server knows to whom it has to say why.
            let said = if number % 3 == 2 {
                answer.contains("its body has not come within 0.4 s")
            } else {
                answer.is_empty() || answer.starts_with("HTTP/1.1 408")
            };
            assert!(said, "{number}: {answer}");
        }
    }
    stop.trigger();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn rows_of_a_step_are_those_of_the_whole_batch() {
    let world = world(90).await;
    let server = world.server(&plan()).await;
    let Issued::Ticket(ticket) = server.client.ticket(&Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    let ticket = ticket.to_json();
    let (_, whole) = server.json("POST", "/v1/batches", &ticket).await;
    let all = whole["rows"].as_array().unwrap();
    let mut stranger = stranger(&server.flight).await;
    for (first, end) in [(0, 4), (0, 1), (1, 3), (3, 4), (2, 2)] {
        let asked = format!(r#"{{"ticket": {ticket}, "rows": [{first}, {end}]}}"#);
        let (status, part) = server.json("POST", "/v1/batches", &asked).await;
        assert_eq!((status, part["rows"].as_array().unwrap().as_slice()), (200, &all[first..end]));
        assert_eq!(part["next"], whole["next"]);
        let data = stranger.do_get(FlightTicket { ticket: asked.into() }).await.unwrap().into_inner();
        let stream = FlightRecordBatchStream::new_from_flight_data(data.map_err(FlightError::from));
        let batches: Vec<_> = stream.try_collect().await.unwrap();
        let rows: Vec<Batch> = batches.into_iter().map(|columns| Batch::new(columns).unwrap()).collect();
        assert_eq!(rows.iter().map(Batch::rows).sum::<usize>(), end - first);
        assert!(
            rows.iter().all(|batch| format!("{:032x}", batch.digest()) == part["digest"].as_str().unwrap())
        );
    }
    for rows in ["[3, 5]", "[2, 1]", "[0]", "[0, -1]"] {
        let asked = format!(r#"{{"ticket": {ticket}, "rows": {rows}}}"#);
        assert_eq!(server.json("POST", "/v1/batches", &asked).await.0, 400, "{rows}");
    }
    server.end().await;
}

#[tokio::test]
async fn ticket_gives_the_same_bytes_through_every_door_from_another_server_and_after_a_restart() {
    let world = world(90).await;
    let plan = plan();
    let (one, two) = (world.server(&plan).await, world.server(&plan).await);
    let got = walk(&one.client, "demo").await;
    assert!(got.len() > 10, "{}", got.len());
    assert!(got.iter().any(|(ticket, _)| ticket.buffers["main"].revision.0 > 0));
    let mut library = world.library(&plan).await;
    for (ticket, digest) in &got {
        let here = library.batch(ticket).await.unwrap();
        assert_eq!(here.digest(), *digest);
        for server in [&one, &two] {
            let flight = server.client.batch(ticket).await.unwrap();
            assert_eq!(flight.batch.columns().columns(), here.columns().columns());
            assert_eq!(flight.next, library.after(ticket).await.unwrap());
            assert_eq!(server.ipc(ticket).await.columns().columns(), here.columns().columns());
        }
        let (status, json) = one.json("POST", "/v1/batches", &ticket.to_json()).await;
        assert_eq!((status, &json["digest"]), (200, &json!(format!("{digest:032x}"))));
        let tokens: Vec<i32> = json["rows"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row["tokens"].as_array().unwrap())
            .map(|token| token.as_i64().unwrap() as i32)
            .collect();
        assert_eq!(tokens, here.tokens());
    }
    one.end().await;
    two.end().await;
    let again = world.server(&plan).await;
    for (ticket, digest) in got.iter().rev() {
        assert_eq!(again.client.batch(ticket).await.unwrap().batch.digest(), *digest);
    }
    assert_eq!(walk(&again.client, "demo").await, got);
    again.end().await;
}

#[tokio::test]
async fn client_goes_on_with_the_server_that_takes_the_place_of_another() {
    let world = world(40).await;
    let plan = plan();
    let first = world.server(&plan).await;
    let client = first.client.clone();
    let got = walk(&client, "demo").await;
    let address = first.flight.strip_prefix("http://").unwrap().parse().unwrap();
    first.end().await;
    // The request is made before a server answers.
    let (again, second) = tokio::join!(walk(&client, "demo"), world.server_at(&plan, address));
    assert_eq!(again, got);
    second.end().await;
}

#[tokio::test]
async fn clients_that_ask_at_once_get_the_same_and_what_a_step_saw_can_be_read() {
    let world = world(60).await;
    let plan = plan();
    let server = world.server(&plan).await;
    let clients = (0..6).map(|_| {
        let client = server.client.clone();
        tokio::spawn(async move { walk(&client, "demo").await })
    });
    let walks = futures::future::join_all(clients).await;
    let first = walks[0].as_ref().unwrap().clone();
    assert!(first.len() > 5);
    for walk in walks {
        assert_eq!(walk.unwrap(), first);
    }
    server.end().await;
    let server = world.server(&plan).await;
    assert_eq!(walk(&server.client, "demo").await, first);
    let (status, noted) = server.json("GET", "/v1/draws?job=demo", "").await;
    assert_eq!(status, 200);
    let draws = noted["draws"].as_array().unwrap();
    // Views are decided ahead of what is asked for, and end where the text ends.
    assert_eq!((draws.len(), &noted["next"]), (first.len(), &Value::Null));
    for (draw, (ticket, _)) in draws.iter().zip(&first) {
        assert_eq!(draw["step"], ticket.step.0);
        assert_eq!(draw["ticket"], serde_json::from_str::<Value>(&ticket.to_json()).unwrap());
        let tokens = draw["new_tokens"].as_u64().unwrap() + draw["replayed_tokens"].as_u64().unwrap();
        let spans: u64 =
            draw["spans"].as_array().unwrap().iter().map(|span| span["tokens"].as_u64().unwrap()).sum();
        assert_eq!(tokens, spans);
    }
    let (_, page) = server.json("GET", "/v1/draws?job=demo&from=2&limit=3", "").await;
    let steps: Vec<_> = page["draws"].as_array().unwrap().iter().map(|draw| draw["step"].clone()).collect();
    assert_eq!((steps.as_slice(), &page["next"]), ([2, 3, 4].map(Value::from).as_slice(), &json!(5)));
    let accept = format!("accept: {}\r\n", http::ARROW);
    let (_, head, body) = server.raw("GET", "/v1/draws?job=demo&limit=2", &accept, b"").await;
    assert!(head.contains("perennial-next-step: 2"), "{head}");
    let columns =
        arrow::ipc::reader::StreamReader::try_new(body.as_slice(), None).unwrap().next().unwrap().unwrap();
    let spans = |draw: &Value| draw["spans"].as_array().unwrap().len();
    assert_eq!(columns.num_rows(), draws.iter().take(2).map(spans).sum::<usize>());
    server.end().await;
}

#[tokio::test]
async fn requests_that_are_none_are_refused_by_http_in_words() {
    let world = world(30).await;
    let plan = plan();
    let server = world.server(&plan).await;
    let Issued::Ticket(ticket) = server.client.ticket(&Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    let json = |change: &dyn Fn(&mut Ticket)| {
        let mut ticket = ticket.clone();
        change(&mut ticket);
        ticket.to_json()
    };
    let cases: Vec<(&str, &str, String, u16, &str, &str)> = vec![
        ("POST", "/v1/batches", "{".into(), 400, "input", "invalid ticket"),
        ("POST", "/v1/batches", json(&|t| t.format = 99), 400, "input", "format 99"),
        (
            "POST",
            "/v1/batches",
            json(&|t| t.config = "0".into()),
            409,
            "conflict",
            "was issued under config `0`",
        ),
        ("POST", "/v1/batches", json(&|t| t.limit = Offset(9_999)), 404, "not_found", "9999"),
        ("POST", "/v1/batches", json(&|t| t.step = Step(u64::MAX)), 400, "input", "is above"),
        ("POST", "/v1/batches", json(&|t| t.from.row = u64::MAX), 400, "input", "is above"),
        ("POST", "/v1/batches", json(&|t| t.job = "a/b".into()), 400, "input", "`a/b` is not a job"),
        ("POST", "/v1/batches", json(&|t| t.buffers.clear()), 400, "input", "its mix draws from"),
        ("POST", "/v1/batches", "x".repeat(70_000), 413, "input", "length limit"),
        ("POST", "/v1/tickets", "[]".into(), 400, "input", "request for a ticket"),
        ("POST", "/v1/tickets", r#"{"job": ""}"#.into(), 400, "input", "is not a job"),
        ("POST", "/v1/tickets", r#"{"job": "a", "more": 1}"#.into(), 400, "input", "unknown field"),
        ("GET", "/v1/tickets", String::new(), 405, "input", "does not take GET"),
        ("GET", "/v1/draws", String::new(), 400, "input", "query for draws"),
        ("GET", "/v1/draws?job=a%27b", String::new(), 400, "input", "is not a job"),
        ("GET", "/v1/draws?job=nothing", String::new(), 404, "not_found", "there is no job `nothing`"),
        ("GET", "/v1/jobs/nothing", String::new(), 404, "not_found", "there is no job `nothing`"),
        ("PUT", "/v1/jobs/demo", r#"{"rows": 0}"#.into(), 400, "input", "the job's `rows` is 0"),
        ("PUT", "/v1/jobs/demo", r#"{"row": 1}"#.into(), 400, "input", "unknown field"),
        ("POST", "/v1/jobs/demo/skip", r#"{"steps": 1000000}"#.into(), 400, "input", "cannot be left out"),
        (
            "POST",
            "/v1/jobs/demo/fork",
            r#"{"step": 0, "job": "demo"}"#.into(),
            409,
            "conflict",
            "a job `demo` already",
        ),
        ("POST", "/v1/tickets", r#"{"job": "demo", "step": 9999}"#.into(), 400, "input", "too far ahead"),
        ("GET", "/v1/nothing", String::new(), 404, "not_found", "there is no `/v1/nothing` here"),
        ("POST", "/v1/evaluations", "{}".into(), 400, "input", "set of evaluations"),
    ];
    for (method, path, body, status, kind, text) in cases {
        let (found, answer) = server.json(method, path, &body).await;
        assert_eq!((found, answer["kind"].as_str()), (status, Some(kind)), "{method} {path}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(text), "{method} {path}: {answer}");
    }
    let (_, nothing) = server.json("GET", "/", "").await;
    assert!(nothing["hint"].as_str().unwrap().contains("POST /v1/batches"), "{nothing}");
    // After all this it serves.
    assert_eq!(server.client.batch(&ticket).await.unwrap().batch.rows(), 4);
    server.end().await;
}

#[tokio::test]
async fn requests_that_are_none_are_refused_by_flight_with_the_code_of_their_kind() {
    let world = world(30).await;
    let server = world.server(&plan()).await;
    let mut flight = stranger(&server.flight).await;
    let Issued::Ticket(ticket) = server.client.ticket(&Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    let other = Ticket { config: "0".into(), ..ticket.clone() };
    let unknown = Ticket { limit: Offset(9_999), ..ticket.clone() };
    for (bytes, code, text) in [
        (String::from("\u{0}nonsense"), Code::InvalidArgument, "invalid ticket"),
        ("x".repeat(70_000), Code::OutOfRange, "too large"),
        (other.to_json(), Code::Aborted, "hint: use the config"),
        (unknown.to_json(), Code::NotFound, "99"),
    ] {
        let status = flight.do_get(FlightTicket { ticket: bytes.into() }).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    for (r#type, body) in [("erase", "{}"), ("ticket", "{}"), ("ticket", "\u{1}")] {
        let action = Action { r#type: r#type.into(), body: body.into() };
        assert_eq!(flight.do_action(action).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let put = |cmd: &str| {
        let descriptor = arrow_flight::FlightDescriptor::new_cmd(cmd.to_owned());
        let data = arrow_flight::FlightData { data_header: vec![7; 9].into(), ..Default::default() };
        futures::stream::iter([data.with_descriptor(descriptor)])
    };
    for cmd in ["", "{}", r#"{"job":"a","series":"live","step":0,"tokens":0}"#] {
        assert_eq!(flight.do_put(put(cmd)).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let none = futures::stream::iter([]);
    assert_eq!(flight.do_put(none).await.unwrap_err().code(), Code::InvalidArgument);
    let status = flight.do_put(many_scores().await).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("it is longer than 65536 bytes"), "{status}");
    assert_eq!(server.client.batch(&other).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(server.client.batch(&unknown).await.unwrap_err().kind(), Kind::NotFound);
    server.end().await;
}

/// Evaluations in messages that are each small enough, and together larger than a request may be.
async fn many_scores() -> impl futures::Stream<Item = arrow_flight::FlightData> {
    let score = Evaluation {
        weights: "live".into(),
        slice: "law".into(),
        document: "x".repeat(100),
        nats: 1.0,
        predicted: 1,
        bytes: 1,
    };
    let columns = flight::scores_to_columns(&vec![score; 2_000]).unwrap();
    let command = json!({"job": "a", "series": "live", "step": 0, "tokens": 0}).to_string();
    let messages = arrow_flight::encode::FlightDataEncoderBuilder::new()
        .with_max_flight_data_size(16 << 10)
        .with_flight_descriptor(Some(arrow_flight::FlightDescriptor::new_cmd(command)))
        .build(futures::stream::iter([Ok(columns)]));
    let messages: Vec<_> = futures::TryStreamExt::try_collect(messages).await.unwrap();
    assert!(messages.iter().all(|message| prost::Message::encoded_len(message) < 32 << 10));
    futures::stream::iter(messages)
}

#[tokio::test]
async fn evaluations_are_received_once_through_either_door() {
    let world = world(5).await;
    let server = world.server(&plan()).await;
    let score = Evaluation {
        weights: "live".into(),
        slice: "law".into(),
        document: "one".into(),
        nats: 2.5,
        predicted: 10,
        bytes: 9,
    };
    let send = async |step, score: &Evaluation| {
        server.client.evaluations("demo", "live", Step(step), 64, std::slice::from_ref(score)).await
    };
    assert_eq!(send(1, &score).await.unwrap(), Received::Written(Version(1)));
    assert_eq!(send(1, &score).await.unwrap(), Received::Before);
    let body = |step: u64| {
        let score = json!({"weights": "live", "slice": "law", "document": "one", "nats": 2.5, "predicted": 10, "bytes": 9});
        json!({"job": "demo", "series": "live", "step": step, "tokens": 64, "scores": [score]}).to_string()
    };
    assert_eq!(server.json("POST", "/v1/evaluations", &body(1)).await, (200, json!("before")));
    assert_eq!(server.json("POST", "/v1/evaluations", &body(2)).await, (200, json!({"written": 2})));
    for nats in [f64::NAN, f64::INFINITY, -1.0] {
        let error = send(3, &Evaluation { nats, ..score.clone() }).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{error}");
    }
    server.end().await;
}

#[tokio::test]
async fn state_of_the_server_can_be_read() {
    let world = world(40).await;
    let server = world.server(&plan()).await;
    let got = walk(&server.client, "demo").await;
    server.client.batch(&got[0].0).await.unwrap();
    assert_eq!(server.raw("GET", "/healthz", "", b"").await.2, b"ok\n");
    assert_eq!(server.json("GET", "/readyz", "").await, (200, json!({"ready": true, "records": 1})));
    let (status, buffers) = server.json("GET", "/v1/buffers", "").await;
    assert_eq!((status, &buffers["buffers"]["main"]["members"]["total"]["records"]), (200, &json!(12)));
    let (_, _, metrics) = server.raw("GET", "/metrics", "", b"").await;
    let metrics = String::from_utf8(metrics).unwrap();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("perennial_replay_{name} ")));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    let served = got.len() as f64;
    assert_eq!(
        (value("tickets_total"), value("batches_total"), value("not_yet_total")),
        (served, served + 1.0, 1.0)
    );
    assert_eq!((value("batch_seconds_count"), value("cache_hits_total")), (served + 1.0, 1.0));
    assert_eq!((value("ready"), value("records_version")), (1.0, 1.0));
    assert!(value("views_total") >= 3.0);
    assert!(value("batch_bytes_total") >= served * 4.0 * 64.0 * 8.0);
    server.end().await;
}

#[tokio::test]
async fn batch_that_is_larger_than_a_message_arrives_whole_at_a_client_that_sets_nothing() {
    let mut world = World::new().await;
    let texts: Vec<String> =
        (0..30).map(|seq| format!("{seq} {}", "lorem ipsum ".repeat(seq % 7 * 1500))).collect();
    world.write_texts("a", &texts).await;
    let plan = Plan { rows: 40, length: 16_384, mix: Mix::default(), ..plan() };
    let server = world.server(&plan).await;
    let Issued::Ticket(ticket) = server.client.ticket(&Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    let here = world.library(&plan).await.batch(&ticket).await.unwrap();
    assert_eq!(here.rows(), 40);
    let asked = FlightTicket { ticket: ticket.to_json().into() };
    let data = stranger(&server.flight).await.do_get(asked).await.unwrap().into_inner();
    let messages: Vec<arrow_flight::FlightData> = futures::TryStreamExt::try_collect(data).await.unwrap();
    assert!(messages.len() > 2, "a schema and {} record batches", messages.len() - 1);
    let parts = arrow_flight::utils::flight_data_to_batches(&messages).unwrap();
    let whole = arrow::compute::concat_batches(&parts[0].schema(), &parts).unwrap();
    assert_eq!(Batch::new(whole).unwrap().digest(), here.digest());
    assert_eq!(server.client.batch(&ticket).await.unwrap().batch.digest(), here.digest());
    assert_eq!(server.ipc(&ticket).await.digest(), here.digest());
    server.end().await;
}

#[tokio::test]
async fn request_that_never_ends_does_not_hold_a_server_that_should_stop() {
    let world = world(5).await;
    let server = world.server(&plan()).await;
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    let head = "POST /v1/tickets HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server says this once it waits for the body.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    server.stop.trigger();
    while !server.task.is_finished() {
        world.store.clock().advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    server.task.await.unwrap().unwrap();
    assert!(world.store.clock().monotonic() >= ServeConfig::default().grace.get());
}

#[tokio::test]
async fn session_follows_the_store_as_time_passes() {
    let mut world = world(3).await;
    let session = world.session(&plan()).await;
    let request = Request::first("demo");
    assert!(matches!(session.ticket(request.clone()).await.unwrap(), Issued::NotYet { .. }));
    world.write("a", 40).await;
    assert!(matches!(session.ticket(request.clone()).await.unwrap(), Issued::NotYet { .. }));
    world.store.clock().advance(Duration::from_secs(1));
    let Issued::Ticket(ticket) = session.ticket(request).await.unwrap() else { panic!("no ticket") };
    let served = session.batch(ticket.clone()).await.unwrap();
    assert_eq!(session.batch(ticket.clone()).await.unwrap().digest, served.digest);
    assert_eq!(session.counters().hits.load(Relaxed), 1);
    world.write("a", 5).await;
    session.follow().await.unwrap();
    // What was assembled of an older version is made again: its text may have been removed.
    assert_eq!(session.batch(ticket).await.unwrap().digest, served.digest);
    assert_eq!(session.counters().hits.load(Relaxed), 1);
    assert_eq!(session.counters().version.load(Relaxed), 3);
}

#[tokio::test]
async fn assembled_batch_is_made_again_after_a_new_version_though_the_buffers_could_not_follow_at_once() {
    let mut world = world(40).await;
    let session = world.session(&plan()).await;
    let Issued::Ticket(ticket) = session.ticket(Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    let served = session.batch(ticket.clone()).await.unwrap();
    world.write("a", 40).await;
    let blocked = world.block("buffers/buffer=main");
    session.follow().await.unwrap_err();
    drop(blocked);
    session.follow().await.unwrap();
    assert_eq!(session.batch(ticket).await.unwrap().digest, served.digest);
    assert_eq!(session.counters().hits.load(Relaxed), 0);
}

#[tokio::test]
async fn ticket_of_a_server_that_has_read_further_is_served() {
    let mut world = world(40).await;
    let plan = plan();
    let behind = world.session(&plan).await;
    world.write("a", 40).await;
    let ahead = world.session(&plan).await;
    let new_text = perennial_schemas::wire::Cursor { offset: Offset(60), token: 0 };
    let from = Position { new_text, ..Position::default() };
    let request = Request { from: Some(from), ..Request::first("demo") };
    let Issued::Ticket(ticket) = ahead.ticket(request).await.unwrap() else { panic!("no ticket") };
    let (one, two) = (ahead.batch(ticket.clone()).await.unwrap(), behind.batch(ticket).await.unwrap());
    assert_eq!(one.digest, two.digest);
}

#[tokio::test]
async fn job_that_goes_back_gets_the_tickets_it_was_served_though_the_store_has_moved_on() {
    let mut world = world(80).await;
    // With `VisibleUntil::Store` a new ticket would draw from newer text.
    let plan = Plan { visible_until: VisibleUntil::Store, ..plan() };
    let (mut request, mut tickets) = (Request::first("demo"), Vec::new());
    let session = world.session(&plan).await;
    for _ in 0..3 {
        let Issued::Ticket(ticket) = session.ticket(request).await.unwrap() else { panic!("no ticket") };
        let served = session.batch(ticket.clone()).await.unwrap();
        request = served.next.clone();
        tickets.push((ticket, served.digest));
    }
    world.write("a", 40).await;
    session.follow().await.unwrap();
    let again = async |session: &Session| {
        let mut request = Request::first("demo");
        for (ticket, digest) in &tickets {
            assert_eq!(session.ticket(request).await.unwrap(), Issued::Ticket(ticket.clone()));
            let served = session.batch(ticket.clone()).await.unwrap();
            assert_eq!(served.digest, *digest);
            request = served.next.clone();
        }
        // What was not decided yet is drawn from the store as it is.
        while let Issued::Ticket(next) = session.ticket(request).await.unwrap() {
            if next.limit > tickets[0].0.limit {
                return;
            }
            request = Request::step("demo", next.step.next());
        }
        panic!("no later view");
    };
    again(&session).await;
    session.close().await.unwrap();
    again(&world.session(&plan).await).await;

    // A server with other settings goes on with the job's.
    again(&world.session(&Plan { rows: 5, ..plan.clone() }).await).await;
}

#[tokio::test]
async fn job_that_goes_back_gets_the_same_tickets_after_a_compaction_and_none_at_another_place() {
    let mut world = world(80).await;
    let plan = Plan { visible_until: VisibleUntil::Store, ..plan() };
    let session = world.session(&plan).await;
    let Issued::Ticket(first) = session.ticket(Request::first("demo")).await.unwrap() else { panic!("none") };
    let second = session.batch(first.clone()).await.unwrap().next.clone();
    let Issued::Ticket(ticket) = session.ticket(second.clone()).await.unwrap() else { panic!("none") };
    session.batch(ticket.clone()).await.unwrap();
    session.close().await.unwrap();

    let from = Some(Position { row: 4, ..Position::default() });
    let elsewhere = Request { from, ..Request::first("demo") };
    let error = world.session(&plan).await.ticket(elsewhere).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.hint().unwrap().contains("another name"));

    world.write("a", 8).await;
    // The files of the first tickets are joined into others and deleted.
    let retention = Retention::forced(Duration::ZERO);
    let options = Options { open_files: 1, retention, ..Options::default() };
    for _ in 0..2 {
        world.store.clock().advance(Duration::from_secs(3600));
        run(&world.store, Table::Records, &options, &Stop::new()).await.unwrap();
    }
    // Who opens the store now remembers nothing of its files.
    world.store = Store::open(world.store.url(), &HashMap::new(), Clock::manual(0)).await.unwrap();
    let session = world.session(&plan).await;
    for (request, served) in [(Request::first("demo"), &first), (second, &ticket)] {
        assert_eq!(session.ticket(request).await.unwrap(), Issued::Ticket(served.clone()));
        session.batch(served.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn client_can_have_the_store_read() {
    let mut world = world(3).await;
    let server = world.server(&plan()).await;
    let version = server.client.follow().await.unwrap();
    world.write("a", 40).await;
    assert_eq!(server.client.follow().await.unwrap(), version.next());
    server.end().await;
}

#[tokio::test]
async fn jobs_are_listed_changed_forked_and_ended_over_http() {
    let world = world(90).await;
    let server = world.server(&plan()).await;
    let Issued::Ticket(first) = server.client.ticket(&Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    let (_, set) = server.json("PUT", "/v1/jobs/demo", r#"{"rows": 2, "mix": {"main": 0.5}}"#).await;
    assert_eq!((&set["op"], &set["settings"]["mix"]["main"]), (&json!("set"), &json!(0.5)));
    let from = set["end_step"].as_u64().unwrap();
    let ask = async |job: &str, step: u64| {
        let body = json!({"job": job, "step": step}).to_string();
        server.json("POST", "/v1/tickets", &body).await.1["ticket"].clone()
    };
    assert_eq!(ask("demo", from).await["settings"]["rows"], 2);
    assert_eq!(ask("demo", 0).await, serde_json::from_str::<Value>(&first.to_json()).unwrap());
    let (_, fork) =
        server.json("POST", "/v1/jobs/demo/fork", &json!({"step": from, "job": "two"}).to_string()).await;
    assert_eq!(
        (&fork["forked_from"], &fork["settings"]["rows"]),
        (&json!(format!("demo@{from}")), &json!(2))
    );
    assert_eq!(ask("two", from).await["from"], ask("demo", from).await["from"]);
    let (_, skip) = server.json("POST", "/v1/jobs/two/skip", r#"{"steps": 1}"#).await;
    assert_eq!(skip["skipped"], 1);
    let (_, end) = server.json("POST", "/v1/jobs/two/end", "").await;
    assert_eq!(end["op"], "end");
    let (_, jobs) = server.json("GET", "/v1/jobs", "").await;
    let names: Vec<_> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["job"].clone()).collect();
    assert_eq!(names, ["demo", "two"]);
    let (_, page) = server.json("GET", "/v1/jobs/two?limit=1", "").await;
    assert_eq!((&page["rows"][0]["op"], &page["next"]), (&json!("begin"), &json!(2)));
    let (_, rest) = server.json("GET", "/v1/jobs/two?from=2", "").await;
    let ops: Vec<_> = rest["rows"].as_array().unwrap().iter().map(|row| row["op"].clone()).collect();
    assert_eq!(
        (ops.first(), ops.last(), &rest["next"]),
        (Some(&json!("view")), Some(&json!("end")), &Value::Null)
    );
    server.end().await;
}

#[tokio::test]
async fn ticket_served_by_another_is_given_again_though_the_buffers_could_not_follow_before() {
    let mut world = world(40).await;
    let plan = Plan { visible_until: VisibleUntil::Store, ..plan() };
    let (one, two) = (world.session(&plan).await, world.session(&plan).await);
    world.write("a", 40).await;
    let blocked = world.block("buffers/buffer=main");
    two.follow().await.unwrap_err();
    drop(blocked);
    one.follow().await.unwrap();
    let Issued::Ticket(ticket) = one.ticket(Request::first("demo")).await.unwrap() else { panic!("none") };
    assert_eq!(two.version(), Version(2));
    assert_eq!(two.ticket(Request::first("demo")).await.unwrap(), Issued::Ticket(ticket));
}

#[tokio::test]
async fn session_whose_owner_has_panicked_is_not_alive_and_refuses_requests() {
    let world = world(40).await;
    let session = world.session(&plan()).await;
    assert!(session.is_alive());
    session.fail().await;
    assert!(!session.is_alive());
    let error = session.ticket(Request::first("demo")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn session_that_is_closed_refuses_more() {
    let world = world(40).await;
    let session = world.session(&plan()).await;
    let Issued::Ticket(ticket) = session.ticket(Request::first("demo")).await.unwrap() else {
        panic!("no ticket")
    };
    session.batch(ticket.clone()).await.unwrap();
    session.close().await.unwrap();
    assert_eq!(session.batch(ticket).await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn address_that_is_taken_is_refused_with_the_keys_to_change() {
    let config = ServeConfig { http: FREE, flight: FREE, ..ServeConfig::default() };
    let first = listen(&config).await.unwrap();
    let error = listen(&ServeConfig { flight: first.flight_address, ..config }).await.unwrap_err();
    assert!(render(&error).contains("change `serve.http` and `serve.flight`"), "{}", render(&error));
}
