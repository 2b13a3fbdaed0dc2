//! What a batch costs: in-process with its text in memory and without, over both doors on loopback, and
//! what a library costs to open. The floors are copies of the same bytes, in memory and over a socket.
//!
//! The store holds the bundled stream, then, with `PERENNIAL_DATA`, the first 30,000 documents of
//! `stream.jsonl.zst` in that folder. Its files lie in the system's cache: "cold" is a library that keeps
//! no text, so that every batch reads its records from Parquet.
#![expect(clippy::expect_used, reason = "a benchmark without its data has nothing to do but fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use perennial_program::clock::Clock;
use perennial_program::config::Bytes;
use perennial_program::stop::Stop;
use perennial_replay::batch::{LayoutOutcome, View, fill, layout};
use perennial_replay::buffer::Members;
use perennial_replay::client::{Client, Patience};
use perennial_replay::issue::Request;
use perennial_replay::library::{Access, Library};
use perennial_replay::serve::{self, ServeConfig, http};
use perennial_replay::tokenise::{Contents, Tokens};
use perennial_schemas::seed::Seed;
use perennial_schemas::table::records::View as Rows;
use perennial_schemas::wire::{Batch, Ticket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use xxhash_rust::xxh3::xxh3_128;

#[path = "../../ingest/benches/table/mod.rs"]
mod table;
mod world;

use table::{Case, Table, time};
use world::{World, plan, tickets};

const COPY: &str = "floor: memcpy of a batch, 8 x 1024";
const COPY_LARGE: &str = "floor: memcpy of a batch, 64 x 2048";
const HASH: &str = "floor: xxh3-128 of a batch, 8 x 1024";
const SOCKET: &str = "floor: as many bytes over TCP";
const SOCKETS: &str = "floor: as many bytes over TCP, 4 clients";

/// Rows of a batch, and tokens of a row.
type Shape = (u32, u32);
const USUAL: Shape = (8, 1024);
const LARGE: Shape = (64, 2048);

/// Tickets that a step goes through in turn.
const TICKETS: usize = 128;
/// Clients that ask at once.
const CLIENTS: usize = 4;
/// Any port that is free.
const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Counts the bytes that live.
struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

fn count(bytes: usize, sign: i64) {
    LIVE.fetch_add(sign * i64::try_from(bytes).unwrap_or(i64::MAX), Relaxed);
}

// SAFETY: every call is the system's own with the same arguments; the counters next to it touch no memory
// that was allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps the contract of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller keeps the contract of the system's.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, 1);
        count(layout.size(), -1);
        // SAFETY: the caller keeps the contract of the system's.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The steps over one store.
struct Steps<'w, 'c> {
    world: &'w World,
    runtime: &'w Runtime,
    group: BenchmarkGroup<'c, WallTime>,
    table: Table,
    /// What was measured once.
    remarks: Vec<String>,
}

impl Steps<'_, '_> {
    fn step(
        &mut self,
        name: impl Into<String>,
        floor: &'static str,
        size: (f64, &'static str),
        run: impl FnMut() -> Duration,
    ) {
        let case = Case { name: name.into(), floor, size: size.0, unit: size.1 };
        self.table.case(&mut self.group, case, run);
    }

    /// A step of one batch of this shape.
    fn batch<T>(
        &mut self,
        name: impl Into<String>,
        floor: &'static str,
        (rows, tokens): Shape,
        mut work: impl FnMut() -> T,
    ) {
        let clock = self.table.clock.clone();
        let size = (f64::from(rows * tokens), "tokens");
        self.step(name, floor, size, || time(&clock, &mut work));
    }

    fn opening(&mut self) {
        let (world, runtime, clock) = (self.world, self.runtime, self.table.clock.clone());
        let (plan, cache) = (plan(&settings(0.25, USUAL)), Bytes::mib(256));
        let first = time(&clock, || runtime.block_on(world.library(&plan, cache)));
        let store = runtime.block_on(world.store());
        let before = LIVE.load(Relaxed);
        let opened = runtime.block_on(Library::open(store, plan.clone(), cache, Access::Follow));
        let library = opened.expect("it opens");
        let bytes = LIVE.load(Relaxed) - before;
        drop(library);
        self.remarks.push(format!(
            "the first open, which writes the buffer: {:.1} ms; memory of an open library: {:.0} bytes a record",
            first.as_secs_f64() * 1e3,
            bytes as f64 / world.records as f64
        ));
        let size = (world.records as f64, "records");
        self.step("open", "", size, || time(&clock, || runtime.block_on(world.library(&plan, cache))));
    }

    fn in_process(&mut self) {
        let (world, runtime) = (self.world, self.runtime);
        for (name, shape) in [(COPY, USUAL), (COPY_LARGE, LARGE)] {
            let sample = self.sample(shape);
            let mut room = vec![0; sample.len()];
            self.batch(name, "", shape, || room.copy_from_slice(black_box(&sample)));
            if shape == USUAL {
                self.batch(HASH, "", shape, || xxh3_128(&sample));
            }
        }
        let plan = plan(&settings(0.25, USUAL));
        let mut library = runtime.block_on(world.library(&plan, Bytes::mib(256)));
        let members = library.newest_members("main").expect("a buffer");
        let clock = self.table.clock.clone();
        self.step("draw", "", (10_000.0, "draws"), || {
            let draw = |row| members.draw(Seed::new(1), row).map(|chunk| chunk.first);
            time(&clock, || (0..10_000).filter_map(draw).sum::<u64>())
        });
        let issued = runtime.block_on(tickets(&mut library, 1));
        let ticket = &issued.first().expect("a ticket").1;
        let batch = runtime.block_on(library.batch(ticket)).expect("a batch");
        self.batch("digest, 8 x 1024", HASH, USUAL, || batch.digest());
        self.packing(&library, &[("main".to_owned(), members)].into(), ticket);
        for (share, shape) in [(0.0, USUAL), (0.25, USUAL), (1.0, USUAL), (0.25, LARGE)] {
            self.mixed(share, shape);
        }
    }

    /// Tokens into rows and columns, of a batch that is laid out and whose text was read.
    fn packing(&mut self, library: &Library, members: &BTreeMap<String, Arc<Members>>, ticket: &Ticket) {
        let (runtime, store) = (self.runtime, self.runtime.block_on(self.world.store()));
        let view = View { index: library.index(), members, permutation: None };
        // With bytes for tokens no text is needed before.
        let laid = match layout(ticket, library.plan(), view, &Contents::new()) {
            Ok(LayoutOutcome::Whole(laid)) => Some(laid),
            _ => None,
        };
        let laid = laid.expect("an layout");
        let read = |offset| {
            let record = library.index().get(offset).expect("a record");
            let place = (record.shard.clone(), record.seq);
            let fetched = store.fetch(library.version(), std::slice::from_ref(&place), &["text"]);
            let rows = runtime.block_on(fetched).expect("a record");
            let row = Rows::new(&rows).expect("its columns").get(0).expect("its row");
            (offset, row.text.map(|text| Tokens::Bytes(text.into())))
        };
        let contents: Contents = laid.records().into_iter().map(read).collect();
        self.batch("pack, 8 x 1024", COPY, USUAL, || {
            fill(&laid, library.plan(), &contents).expect("a batch")
        });
    }

    /// Tickets and batches of one mix and shape.
    fn mixed(&mut self, share: f64, shape: Shape) {
        let (world, runtime) = (self.world, self.runtime);
        let of = format!("mix {share}, {} x {}", shape.0, shape.1);
        let floor = if shape == USUAL { COPY } else { COPY_LARGE };
        let plan = plan(&settings(share, shape));
        // The text of the whole store fits.
        let mut warm = runtime.block_on(world.library(&plan, Bytes::gib(1)));
        let issued = runtime.block_on(tickets(&mut warm, TICKETS));
        for (_, ticket) in &issued {
            runtime.block_on(warm.batch(ticket)).expect("a batch");
        }
        let mut turn = issued.iter().cycle();
        let mut next = move || turn.next().expect("a ticket");
        self.batch(format!("ticket, {of}"), "", shape, || {
            runtime.block_on(warm.ticket(&next().0)).expect("a ticket")
        });
        self.batch(format!("batch, warm, {of}"), floor, shape, || {
            runtime.block_on(warm.batch(&next().1)).expect("a batch")
        });
        self.batch(format!("ticket, batch, next; warm, {of}"), floor, shape, || {
            let (request, ticket) = next();
            runtime.block_on(async {
                black_box(warm.ticket(request).await.expect("a ticket"));
                black_box(warm.batch(ticket).await.expect("a batch"));
                warm.after(ticket).await.expect("it was issued")
            })
        });
        let mut cold = runtime.block_on(world.library(&plan, Bytes::new(0)));
        self.batch(format!("batch, cold, {of}"), floor, shape, || {
            runtime.block_on(cold.batch(&next().1)).expect("a batch")
        });
    }

    /// The bytes of a batch of this shape.
    fn sample(&self, shape: Shape) -> Vec<u8> {
        let plan = plan(&settings(0.25, shape));
        let batch = self.runtime.block_on(async {
            let mut library = self.world.library(&plan, Bytes::mib(256)).await;
            let issued = tickets(&mut library, 1).await;
            library.batch(&issued.first().expect("a ticket").1).await.expect("a batch")
        });
        encoded(&batch)
    }

    fn loopback(&mut self) {
        let (runtime, clock) = (self.runtime, self.table.clock.clone());
        let sample = self.sample(USUAL);
        let mut sockets: Vec<Socket> =
            (0..CLIENTS).map(|_| runtime.block_on(Socket::answering(sample.clone()))).collect();
        let question = vec![1; QUESTION];
        self.batch(SOCKET, "", USUAL, || runtime.block_on(sockets[0].ask(&question)));
        let all = ((USUAL.0 * USUAL.1) as f64 * CLIENTS as f64, "tokens");
        self.step(SOCKETS, "", all, || {
            time(&clock, || {
                let asked = sockets.iter_mut().map(|socket| socket.ask(&question));
                runtime.block_on(futures::future::join_all(asked))
            })
        });
        for (kept, said) in [(0, "assembled"), (TICKETS, "cached")] {
            let server = runtime.block_on(Server::start(self.world, kept));
            if kept == 0 {
                self.batch("Flight, ticket", SOCKET, USUAL, || {
                    runtime.block_on(server.client.ticket(&server.request)).expect("a ticket")
                });
            }
            self.doors(&server, said);
            runtime.block_on(server.end());
        }
    }

    fn doors(&mut self, server: &Server, said: &str) {
        let (runtime, clock) = (self.runtime, self.table.clock.clone());
        let mut turn = server.tickets.iter().cycle();
        let mut next = move || turn.next().expect("a ticket");
        for ticket in &server.tickets {
            runtime.block_on(server.client.batch(ticket)).expect("a batch");
        }
        self.batch(format!("Flight, {said}"), SOCKET, USUAL, || {
            runtime.block_on(server.client.batch(next())).expect("a batch")
        });
        let mut connections: Vec<Http> =
            (0..CLIENTS).map(|_| runtime.block_on(Http::to(server.http))).collect();
        for (accept, name) in [(http::ARROW, "HTTP, Arrow"), ("application/json", "HTTP, JSON")] {
            self.batch(format!("{name}, {said}"), SOCKET, USUAL, || {
                runtime.block_on(connections[0].batch(next(), accept))
            });
        }
        let all = ((USUAL.0 * USUAL.1) as f64 * CLIENTS as f64, "tokens");
        self.step(format!("Flight, {CLIENTS} clients, {said}"), SOCKETS, all, || {
            let asked = (0..CLIENTS).map(|_| server.client.batch(next()));
            time(&clock, || runtime.block_on(futures::future::join_all(asked)))
        });
        self.step(format!("HTTP, Arrow, {CLIENTS} clients, {said}"), SOCKETS, all, || {
            let asked = connections.iter_mut().map(|connection| connection.batch(next(), http::ARROW));
            time(&clock, || runtime.block_on(futures::future::join_all(asked)))
        });
    }
}

fn settings(share: f64, (rows, tokens): Shape) -> Vec<String> {
    vec![format!("mix.main={share}"), format!("batch.rows={rows}"), format!("batch.tokens={tokens}")]
}

/// A batch as it goes over a socket.
fn encoded(batch: &Batch) -> Vec<u8> {
    let columns = batch.columns();
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &columns.schema()).expect("a schema");
    writer.write(columns).expect("it encodes");
    writer.into_inner().expect("it ends")
}

/// A server in this process, and what is asked of it.
struct Server {
    http: SocketAddr,
    client: Client,
    request: Request,
    tickets: Vec<Ticket>,
    stop: Stop,
    task: tokio::task::JoinHandle<Result<(), serve::ServeError>>,
}

impl Server {
    async fn start(world: &World, batches: usize) -> Self {
        let batches = u32::try_from(batches).expect("a small number");
        let config = ServeConfig { http: FREE, flight: FREE, batches, ..ServeConfig::default() };
        let (listeners, stop) = (serve::listen(&config).await.expect("it listens"), Stop::new());
        let (http, flight) = (listeners.http_address, listeners.flight_address);
        let store = world.store().await;
        let plan = plan(&settings(0.25, USUAL));
        let mut library = world.library(&plan, Bytes::gib(1)).await;
        let issued = tickets(&mut library, TICKETS).await;
        let request = issued.first().expect("a ticket").0.clone();
        let stopper = stop.clone();
        let task =
            tokio::spawn(async move { serve::serve(listeners, library, store, &config, stopper).await });
        let client = Client::connect(&format!("http://{flight}"), Clock::system(), Patience::default())
            .await
            .expect("it connects");
        let tickets = issued.into_iter().map(|(_, ticket)| ticket).collect();
        Self { http, client, request, tickets, stop, task }
    }

    async fn end(self) {
        drop(self.client);
        self.stop.trigger();
        self.task.await.expect("it ends").expect("it served");
    }
}

/// A connection over HTTP/1.1 that stays open.
struct Http {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Http {
    async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it connects");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, answer: Vec::new() }
    }

    /// The bytes of a batch's body; of Arrow, read into columns as a client would.
    async fn batch(&mut self, ticket: &Ticket, accept: &str) -> usize {
        let body = ticket.to_json();
        let head = format!(
            "POST /v1/batches HTTP/1.1\r\nhost: a\r\naccept: {accept}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await.expect("it is sent");
        self.answer.clear();
        let end = loop {
            assert!(
                self.stream.read_buf(&mut self.answer).await.expect("it answers") > 0,
                "the server went away"
            );
            if let Some(end) = self.answer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&self.answer[..end]).expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        while self.answer.len() < end + length {
            self.stream.read_buf(&mut self.answer).await.expect("it answers");
        }
        if accept == http::ARROW {
            let mut reader =
                arrow::ipc::reader::StreamReader::try_new(&self.answer[end..], None).expect("a schema");
            black_box(Batch::new(reader.next().expect("a batch").expect("its columns")).expect("a batch"));
        }
        length
    }
}

/// Bytes of a question, about those of a ticket.
const QUESTION: usize = 400;

/// A connection to what answers each question with the same bytes.
struct Socket {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Socket {
    async fn answering(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind(FREE).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let length = answer.len();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.set_nodelay(true).expect("a socket");
            let mut question = vec![0; QUESTION];
            while stream.read_exact(&mut question).await.is_ok() && stream.write_all(&answer).await.is_ok() {}
        });
        let stream = TcpStream::connect(address).await.expect("it connects");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, answer: vec![0; length] }
    }

    async fn ask(&mut self, question: &[u8]) {
        self.stream.write_all(question).await.expect("it is sent");
        self.stream.read_exact(&mut self.answer).await.expect("it answers");
    }
}

/// Measures everything over one store.
fn measure(criterion: &mut Criterion, runtime: &Runtime, world: &World) {
    let mut group = criterion.benchmark_group(format!("batch, {} records", world.records));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    let mut steps = Steps { world, runtime, group, table: Table::new(), remarks: Vec::new() };
    steps.opening();
    steps.in_process();
    steps.loopback();
    steps.table.print(&format!(
        "{} records, {:.1} MB of text: {}",
        world.records,
        world.bytes as f64 / 1e6,
        world.from
    ));
    steps.remarks.iter().for_each(|remark| println!("{remark}"));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Runtime::new().expect("a runtime");
    measure(&mut criterion, &runtime, &runtime.block_on(World::bundled()));
    if let Some(world) = runtime.block_on(World::large()) {
        measure(&mut criterion, &runtime, &world);
    }
    criterion.final_summary();
}
