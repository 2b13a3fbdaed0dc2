//! A proxy before an S3 server that fails as servers and networks do: it refuses, loses the answer to
//! a commit that was made, cuts bodies short, and is slow. Which request meets what is a function of a seed and
//! of the request's number.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_schemas::seed::{Seed, unit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How often what fails, each a share from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Requests that are answered with 503 and never reach the server.
    pub refused: f64,
    /// Commits that are made, and whose answer is dropped or becomes a 503, in turn.
    pub lost: f64,
    /// Whether nothing is answered any more after the first lost answer.
    pub out_after_lost: bool,
    /// Answers to a GET whose body ends in the middle.
    pub cut: f64,
    /// Requests that wait for [`SLOW`] before they are passed on.
    pub slow: f64,
}

/// How long a slow request waits.
pub const SLOW: Duration = Duration::from_millis(150);

/// How many requests met what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All requests.
    pub requests: u64,
    /// Those refused.
    pub refused: u64,
    /// Commits whose answer was lost.
    pub lost: u64,
    /// Bodies cut.
    pub cut: u64,
    /// Requests that waited.
    pub slow: u64,
}

/// The proxy, which ends when it is dropped.
#[derive(Debug)]
pub struct Faulty {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    seed: Seed,
    faults: Faults,
    counts: Counts,
}

impl Faulty {
    /// Begins to pass requests on to `server`, at first without any fault.
    ///
    /// # Panics
    /// Where the system gives no port.
    pub async fn before(server: SocketAddr, seed: Seed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system gives a port");
        let address = listener.local_addr().expect("a bound port has an address");
        let state = State { seed, faults: Faults::default(), counts: Counts::default() };
        let shared = Arc::new(Mutex::new(state));
        let for_all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&for_all);
                // What breaks here is one more fault to its client.
                tokio::spawn(async move { pass(client, server, &state).await.ok() });
            }
        });
        Self { address, shared, task }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on fails so often.
    pub fn set(&self, faults: Faults) {
        lock(&self.shared).faults = faults;
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        lock(&self.shared).counts
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Takes one request, and does with it what its number says.
async fn pass(mut client: TcpStream, server: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let Some(request) = Message::read(&mut client, false).await? else { return Ok(()) };
    let (seed, number, faults) = {
        let mut state = lock(state);
        state.counts.requests += 1;
        (state.seed, state.counts.requests, state.faults)
    };
    let strikes = |what: &str, share: f64| unit(seed.child(what).at(&[number])) < share;
    if strikes("refused", faults.refused) {
        lock(state).counts.refused += 1;
        return client.write_all(UNAVAILABLE).await;
    }
    if strikes("slow", faults.slow) {
        lock(state).counts.slow += 1;
        Clock::system().sleep(SLOW).await;
    }
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(&request.with_closing_head()).await?;
    upstream.write_all(&request.body).await?;
    let Some(answer) = Message::read(&mut upstream, request.is("HEAD")).await? else { return Ok(()) };

    if request.is_commit() && answer.head.starts_with(b"HTTP/1.1 2") && strikes("lost", faults.lost) {
        let lost = {
            let mut state = lock(state);
            if faults.out_after_lost {
                state.faults.refused = 1.0;
            }
            state.counts.lost += 1;
            state.counts.lost
        };
        return if lost % 2 == 0 { Ok(()) } else { client.write_all(UNAVAILABLE).await };
    }
    client.write_all(&answer.head).await?;
    if request.is("GET") && answer.body.len() > 1 && strikes("cut", faults.cut) {
        lock(state).counts.cut += 1;
        return client.write_all(answer.body.split_at(answer.body.len() / 2).0).await;
    }
    client.write_all(&answer.body).await
}

/// A request or an answer of HTTP/1.1 with the length of its body in its head.
struct Message {
    /// The first line and the headers, with the empty line that ends them.
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    /// The next message of a connection; none where it has ended.
    async fn read(stream: &mut TcpStream, without_body: bool) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let mut body = bytes.split_off(end);
        let mut message = Self { head: bytes, body: Vec::new() };
        let length = if without_body { 0 } else { message.length()? };
        while body.len() < length {
            if stream.read_buf(&mut body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        message.body = body;
        Ok(Some(message))
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        std::str::from_utf8(&self.head).unwrap_or_default().split("\r\n").filter(|line| !line.is_empty())
    }

    fn length(&self) -> io::Result<usize> {
        for (name, value) in self.lines().filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                return value.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into());
            }
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(io::Error::other("a body in chunks is not expected of S3"));
            }
        }
        Ok(0)
    }

    fn is(&self, method: &str) -> bool {
        self.lines().next().is_some_and(|line| line.split(' ').next() == Some(method))
    }

    /// Whether it writes a version of a table.
    fn is_commit(&self) -> bool {
        let path = self.lines().next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        self.is("PUT") && path.contains("/_delta_log/") && path.ends_with(".json")
    }

    /// The head, asking for one answer on this connection.
    fn with_closing_head(&self) -> Vec<u8> {
        let keeps =
            |line: &&str| !line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("connection"));
        let lines: Vec<&str> = self.lines().filter(keeps).collect();
        format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n")).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that counts its requests and answers each with ten bytes.
    async fn server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = Message::read(&mut stream, false).await.unwrap().unwrap();
                let body = String::from_utf8(request.body.clone()).unwrap();
                record.lock().unwrap().push(format!("{} {body}", request.lines().next().unwrap()));
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789").await.unwrap();
            }
        });
        (address, seen)
    }

    async fn ask(proxy: &Faulty, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    const COMMIT: &str = "/bucket/records/_delta_log/00000000000000000001.json";

    #[tokio::test]
    async fn proxy_without_faults_passes_requests_and_answers_as_they_are() {
        let (address, seen) = server().await;
        let proxy = Faulty::before(address, Seed::new(1)).await;
        assert!(ask(&proxy, "GET", "/a").await.ends_with("\r\n\r\n0123456789"));
        assert!(ask(&proxy, "PUT", COMMIT).await.starts_with("HTTP/1.1 200"));
        assert_eq!(
            *seen.lock().unwrap(),
            ["GET /a HTTP/1.1 body".to_owned(), format!("PUT {COMMIT} HTTP/1.1 body")]
        );
        assert_eq!(proxy.counts(), Counts { requests: 2, ..Counts::default() });
    }

    #[tokio::test]
    async fn refused_request_never_reaches_the_server_and_a_lost_answer_is_to_one_that_did() {
        let (address, seen) = server().await;
        let proxy = Faulty::before(address, Seed::new(1)).await;
        proxy.set(Faults { refused: 1.0, ..Faults::default() });
        assert!(ask(&proxy, "PUT", COMMIT).await.starts_with("HTTP/1.1 503"));
        assert_eq!(seen.lock().unwrap().len(), 0);

        proxy.set(Faults { lost: 1.0, ..Faults::default() });
        assert!(ask(&proxy, "PUT", COMMIT).await.starts_with("HTTP/1.1 503"));
        assert_eq!(ask(&proxy, "PUT", COMMIT).await, "");
        assert!(ask(&proxy, "PUT", "/bucket/records/part-0.parquet").await.starts_with("HTTP/1.1 200"));
        assert_eq!(seen.lock().unwrap().len(), 3);
        assert_eq!(proxy.counts(), Counts { requests: 4, refused: 1, lost: 2, ..Counts::default() });

        proxy.set(Faults { lost: 1.0, out_after_lost: true, ..Faults::default() });
        ask(&proxy, "PUT", COMMIT).await;
        assert!(ask(&proxy, "GET", "/a").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn cut_body_ends_in_the_middle_and_only_that_of_a_get() {
        let (address, _seen) = server().await;
        let proxy = Faulty::before(address, Seed::new(1)).await;
        proxy.set(Faults { cut: 1.0, ..Faults::default() });
        assert!(ask(&proxy, "GET", "/a").await.ends_with("content-length: 10\r\n\r\n01234"));
        assert!(ask(&proxy, "POST", "/a").await.ends_with("0123456789"));
    }

    #[tokio::test]
    async fn slow_request_waits_and_is_passed_on() {
        let (address, seen) = server().await;
        let proxy = Faulty::before(address, Seed::new(1)).await;
        proxy.set(Faults { slow: 1.0, ..Faults::default() });
        let clock = Clock::system();
        assert!(ask(&proxy, "GET", "/a").await.ends_with("0123456789"));
        assert!(clock.monotonic() >= SLOW);
        assert_eq!((seen.lock().unwrap().len(), proxy.counts().slow), (1, 1));
    }

    #[tokio::test]
    async fn faults_strike_the_same_requests_under_the_same_seed_about_as_often_as_asked() {
        let (address, _seen) = server().await;
        let mut runs = Vec::new();
        for seed in [5, 5, 6] {
            let proxy = Faulty::before(address, Seed::new(seed)).await;
            proxy.set(Faults { refused: 0.2, ..Faults::default() });
            let mut refused = Vec::new();
            for _ in 0..200 {
                refused.push(ask(&proxy, "GET", "/a").await.starts_with("HTTP/1.1 503"));
            }
            let count = refused.iter().filter(|refused| **refused).count();
            assert!((20..=60).contains(&count), "{count} of 200");
            runs.push(refused);
        }
        assert!(runs[0] == runs[1] && runs[0] != runs[2]);
    }
}
