//! Serves tickets and batches to many clients: Arrow Flight for trainers, HTTP and JSON for other clients.
//!
//! ```text
//! flight ──┐
//! http ────┴──> session ──> the task that owns the library and decides views
//! ```
//!
//! The server does not affect the content of a batch: both services pass a ticket to the one [`session`], and
//! the same ticket gives the same bytes over both, and without a server.

mod connections;
pub mod flight;
pub mod http;
pub mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_program::config::{self, Bytes};
use perennial_program::error::{Kind, ProgramError, render};
use perennial_program::stop::Stop;
use perennial_store::Store;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::error::ReplayError;
use crate::library::Library;
use session::{Session, Settings};

/// `[serve]`: the server of batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServeConfig {
    /// The address of the HTTP service; port 0 takes a free port. There is no authentication: use a loopback
    /// address or a proxy that authenticates.
    pub http: SocketAddr,
    /// The address of the Arrow Flight service, likewise.
    pub flight: SocketAddr,
    /// Capacity of the request queue; further requests wait to enter it.
    pub queue: u32,
    /// Number of assembled batches to cache for clients that request the same ticket.
    pub batches: u32,
    /// The maximum size of a request.
    pub body: Bytes,
    /// Time that a client gets to send a request. A connection on which none comes is closed after it.
    pub request: config::Duration,
    /// Interval between two looks at the store for new text.
    pub follow: config::Duration,
    /// Time that running requests get to finish when the server stops.
    pub grace: config::Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 7400)),
            flight: SocketAddr::from(([127, 0, 0, 1], 7401)),
            queue: 64,
            batches: 32,
            body: Bytes::mib(16),
            request: config::Duration::secs(60),
            follow: config::Duration::secs(1),
            grace: config::Duration::secs(10),
        }
    }
}

impl ServeConfig {
    /// The settings of the session.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let size = |number: u32| number as usize;
        Settings {
            // Tokio limits the capacity of a queue, far above this value.
            queue: size(self.queue.clamp(1, 1 << 20)),
            batches: size(self.batches),
            // An interval of 0 would leave no time to serve.
            follow: self.follow.get().max(Duration::from_millis(1)),
        }
    }
}

/// An error of a request or of the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An error of replay.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The job's next view could not be written.
    #[error("the next steps of job `{job}` are not decided")]
    Undecided {
        /// The job.
        job: String,
        /// The reason, which other requests share.
        #[source]
        why: Arc<ReplayError>,
    },
    /// The request is malformed.
    #[error("invalid {what}: {why}")]
    Input {
        /// The expected input.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// The path does not exist.
    #[error("there is no `{path}` here")]
    Route {
        /// The path.
        path: String,
    },
    /// The server is stopping.
    #[error("this server is stopping")]
    Stopping,
    /// The server cannot listen on an address, or the listener failed.
    #[error("cannot serve on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A batch cannot be encoded.
    #[error("cannot encode a batch")]
    Encode(#[from] arrow::error::ArrowError),
}

impl ProgramError for ServeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Replay(error) => error.kind(),
            Self::Undecided { why, .. } => why.kind(),
            Self::Input { .. } => Kind::Input,
            Self::Route { .. } => Kind::NotFound,
            Self::Stopping | Self::Listen { .. } => Kind::Unavailable,
            Self::Encode(_) => Kind::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Replay(error) => error.hint(),
            Self::Undecided { why, .. } => why.hint(),
            Self::Route { .. } => Some(format!("there is {}", http::ROUTES.join(", "))),
            Self::Stopping => Some("try again later, or use another server of the store".to_owned()),
            Self::Listen { .. } => {
                Some("stop the process that uses it, or change `serve.http` and `serve.flight`".to_owned())
            }
            Self::Input { .. } | Self::Encode(_) => None,
        }
    }
}

/// The text of an error with its causes, without its hint.
fn message(error: &ServeError) -> String {
    let text = render(error);
    let text = text.split_once("\n  hint: ").map_or(text.as_str(), |(text, _)| text);
    text.strip_prefix("error: ").unwrap_or(text).to_owned()
}

/// The answer to `follow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedJson {
    /// The version of `records` that was read.
    pub version: u64,
}

/// Reads JSON that a client sent.
fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ServeError> {
    serde_json::from_slice(bytes).map_err(|error| ServeError::Input { what, why: error.to_string() })
}

/// JSON of a value whose serialisation cannot fail.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The key of the schema's metadata that holds a batch's digest, 32 hexadecimal digits.
pub const DIGEST_KEY: &str = "perennial.digest";
/// The key that holds the job's position after the batch, as the JSON of a
/// [`Request`](crate::issue::Request).
pub const NEXT_KEY: &str = "perennial.next";

/// The columns of a served batch, with its digest and the next request in the schema's metadata.
fn columns(served: &session::Served) -> Result<arrow::array::RecordBatch, ServeError> {
    let columns = served.batch.columns();
    let mut metadata = columns.schema().metadata().clone();
    metadata.insert(DIGEST_KEY.to_owned(), format!("{:032x}", served.digest));
    metadata.insert(NEXT_KEY.to_owned(), to_json(&served.next));
    let schema = columns.schema().as_ref().clone().with_metadata(metadata);
    Ok(columns.clone().with_schema(Arc::new(schema))?)
}

/// The listeners of both services, which do not accept connections yet.
#[derive(Debug)]
pub struct Listeners {
    http: TcpListener,
    flight: TcpListener,
    /// The address of the HTTP service.
    pub http_address: SocketAddr,
    /// The address of the Flight service.
    pub flight_address: SocketAddr,
}

/// Listens on both addresses.
///
/// # Errors
/// [`ServeError::Listen`] if an address is in use or not available.
pub async fn listen(config: &ServeConfig) -> Result<Listeners, ServeError> {
    let open = async |address: SocketAddr| {
        let failed = |source: std::io::Error| ServeError::Listen { address, source: source.into() };
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "every host that can reach this address can read the store's text");
        }
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok::<_, ServeError>((listener, bound))
    };
    let (http, http_address) = open(config.http).await?;
    let (flight, flight_address) = open(config.flight).await?;
    Ok(Listeners { http, flight, http_address, flight_address })
}

/// Serves until `stop`; then refuses new connections and waits up to `config.grace` for running requests.
///
/// # Errors
/// [`ServeError::Listen`] if a service fails.
pub async fn serve(
    listeners: Listeners,
    library: Library,
    store: Store,
    config: &ServeConfig,
    stop: Stop,
) -> Result<(), ServeError> {
    let clock: Clock = store.clock().clone();
    let session = Session::start(library, store, config.settings());
    let Listeners { http, flight, http_address, flight_address } = listeners;
    let most = config.body.as_usize();
    let mut services = tokio::task::JoinSet::new();
    let (time, http_clock, http_stop) = (config.request.get(), clock.clone(), stop.clone());
    let router = http::router(session.clone(), most, time);
    services.spawn(run_service(http_address, stop.clone(), async move {
        connections::serve(http, router, time, &http_clock, http_stop).await;
        Ok(())
    }));
    services.spawn(run_service(
        flight_address,
        stop.clone(),
        flight::serve(flight, session.clone(), most, stop.clone()),
    ));
    stop.wait().await;
    let all = async {
        let mut result = Ok(());
        while let Some(service) = services.join_next().await {
            result = result.and(service.unwrap_or(Ok(())));
        }
        result
    };
    let served = tokio::select! {
        biased;
        served = all => served,
        () = clock.sleep(config.grace.get()) => {
            tracing::warn!("some running requests did not finish in time");
            Ok(())
        }
    };
    services.abort_all();
    // It has ended already if it panicked, which the log says.
    let _ = session.close().await;
    served
}

/// Runs one service; its end stops the other one.
async fn run_service(
    address: SocketAddr,
    stop: Stop,
    serving: impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
) -> Result<(), ServeError> {
    let served = serving.await;
    stop.trigger();
    served.map_err(|source| ServeError::Listen { address, source })
}

#[cfg(test)]
mod tests;
