//! An S3 server in a process of its own, and the store in its bucket.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use perennial_program::clock::Clock;
use perennial_store::{Store, StoreError};

use crate::world::Running;
use crate::{python, undisturbed};

/// The URL of the store.
pub const URL: &str = "s3://stream/a/store";

/// The secret that opens it, which no program may print.
pub const SECRET: &str = "never-to-be-printed";

/// The options that open the store for a program, through the server or proxy at `address`.
#[must_use]
pub fn options(address: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("aws_endpoint_url", format!("http://{address}")),
        ("aws_access_key_id", "any".to_owned()),
        ("aws_secret_access_key", SECRET.to_owned()),
        ("aws_region", "us-east-1".to_owned()),
        ("aws_allow_http", "true".to_owned()),
        // The default waits are for a server far away.
        ("backoff_config.init_backoff", "5ms".to_owned()),
        ("backoff_config.max_backoff", "50ms".to_owned()),
    ]
}

/// An S3 server that forgets everything when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    _running: Running,
}

impl Server {
    /// One with an empty bucket `stream`.
    ///
    /// # Panics
    /// Where the tests' Python is missing, or the server does not start.
    #[must_use]
    pub fn start() -> Self {
        let mut command = undisturbed(python());
        command.args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut running = Running::start(command);
        let mut lines = BufReader::new(running.child().stderr.take().expect("its errors are ours")).lines();
        let mut said = String::new();
        // It names its port once it listens there.
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            said.push_str(&line);
            let (_, rest) = line.split_once("Running on http://127.0.0.1:")?;
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
        });
        let port = port.unwrap_or_else(|| panic!("the S3 server does not start: {said}"));
        // A log without a reader would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let server = Self { address: SocketAddr::from(([127, 0, 0, 1], port)), _running: running };
        server.make_bucket();
        server
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    fn make_bucket(&self) {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        let request =
            "PUT /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("the server takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Makes or opens the store in the bucket, through the server or proxy at `address`.
    ///
    /// # Errors
    /// The store's.
    pub async fn store(address: SocketAddr) -> Result<Store, StoreError> {
        let options: HashMap<String, String> =
            options(address).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Store::create(&URL.parse().expect("a URL"), &options, Clock::system()).await
    }
}
