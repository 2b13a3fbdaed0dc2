//! Serves tickets and batches to many clients: Arrow Flight for trainers, HTTP and JSON for everyone.
//!
//! ```text
//! flight ──┐
//! http ────┴──> session ──> the owner of the library ──> note
//! ```
//!
//! Nothing here decides what a batch holds: both doors hand a ticket to the one [`session`], and the
//! same ticket gives the same bytes through either, and without any server.

pub mod flight;
pub mod http;
pub mod session;

use std::net::SocketAddr;
use std::time::Duration;

use perennial_program::clock::Clock;
use perennial_program::config::{self, Bytes};
use perennial_program::error::{Fault, Kind, render};
use perennial_program::stop::Stop;
use perennial_store::Store;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::error::ReplayError;
use crate::library::Library;
use crate::note::Groups;
use session::{Session, Settings};

/// `[serve]`: where and how batches are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServeConfig {
    /// Where HTTP listens; port 0 takes a free one. There is no authentication: keep it on loopback or
    /// behind what has one.
    pub http: SocketAddr,
    /// Where Arrow Flight listens, likewise.
    pub flight: SocketAddr,
    /// Requests that may wait; further ones wait at the door.
    pub queue: u32,
    /// Assembled batches that are kept for clients that ask for the same ticket.
    pub batches: u32,
    /// The largest request.
    pub body: Bytes,
    /// How often the store is looked at for new text.
    pub follow: config::Duration,
    /// Steps of a job that are noted in one commit.
    pub note_steps: u32,
    /// How long a served step may wait to be noted.
    pub note_after: config::Duration,
    /// How long requests under way may take once the server is asked to stop.
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
            follow: config::Duration::secs(1),
            note_steps: 100,
            note_after: config::Duration::secs(10),
            grace: config::Duration::secs(10),
        }
    }
}

impl ServeConfig {
    /// How the owner of the library works.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Settings {
            // Tokio's queues have a largest size, far above this one.
            queue: size(self.queue.clamp(1, 1 << 20)),
            batches: size(self.batches),
            // A store that is looked at without pause leaves no time to serve.
            follow: self.follow.get().max(Duration::from_millis(1)),
            groups: Groups { steps: size(self.note_steps), wait: self.note_after.get() },
        }
    }
}

/// What a request can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// What replay says.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A request that is none.
    #[error("this is no {what}: {why}")]
    Input {
        /// What it should have been.
        what: &'static str,
        /// Why it is not.
        why: String,
    },
    /// An address that nothing answers to.
    #[error("there is no `{path}` here")]
    Route {
        /// The path.
        path: String,
    },
    /// The server is about to end.
    #[error("this server is stopping")]
    Stopping,
    /// An address cannot be listened on, or the listener failed.
    #[error("cannot serve on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Arrow refused to encode a batch.
    #[error("cannot encode a batch")]
    Encode(#[from] arrow::error::ArrowError),
}

impl Fault for ServeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Replay(error) => error.kind(),
            Self::Input { .. } => Kind::Input,
            Self::Route { .. } => Kind::NotFound,
            Self::Stopping | Self::Listen { .. } => Kind::Unavailable,
            Self::Encode(_) => Kind::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Replay(error) => error.hint(),
            Self::Route { .. } => Some(format!("there is {}", http::ROUTES.join(", "))),
            Self::Stopping => Some("ask again in a moment, or ask another server of the store".to_owned()),
            Self::Listen { .. } => {
                Some("stop what listens there, or change `serve.http` and `serve.flight`".to_owned())
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

/// Up to where the store was read, as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowedJson {
    /// The version of `records`.
    pub version: u64,
}

/// That all that was served is noted, as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushedJson {}

/// Reads JSON that a client sent.
fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ServeError> {
    serde_json::from_slice(bytes).map_err(|error| ServeError::Input { what, why: error.to_string() })
}

/// JSON of what cannot fail to have one.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The key of the schema's metadata that holds a batch's digest, 32 hexadecimal digits.
pub const DIGEST_KEY: &str = "perennial.digest";
/// The key that holds where the job stands after the batch, as the JSON of a [`Request`](crate::issue::Request).
pub const NEXT_KEY: &str = "perennial.next";

/// The columns of a served batch, with its digest and what follows it in the schema's metadata.
fn columns(served: &session::Served) -> Result<arrow::array::RecordBatch, ServeError> {
    let columns = served.batch.columns();
    let mut metadata = columns.schema().metadata().clone();
    metadata.insert(DIGEST_KEY.to_owned(), format!("{:032x}", served.digest));
    metadata.insert(NEXT_KEY.to_owned(), to_json(&served.next));
    let schema = columns.schema().as_ref().clone().with_metadata(metadata);
    Ok(columns.clone().with_schema(std::sync::Arc::new(schema))?)
}

/// Both doors, listening but not yet answering.
#[derive(Debug)]
pub struct Listeners {
    http: TcpListener,
    flight: TcpListener,
    /// Where HTTP listens.
    pub http_address: SocketAddr,
    /// Where Arrow Flight listens.
    pub flight_address: SocketAddr,
}

/// Listens on both addresses.
///
/// # Errors
/// [`ServeError::Listen`] where one is taken or not ours.
pub async fn listen(config: &ServeConfig) -> Result<Listeners, ServeError> {
    let open = async |address: SocketAddr| {
        let failed = |source: std::io::Error| ServeError::Listen { address, source: source.into() };
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "anyone who reaches this address can read the store's text");
        }
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok::<_, ServeError>((listener, bound))
    };
    let (http, http_address) = open(config.http).await?;
    let (flight, flight_address) = open(config.flight).await?;
    Ok(Listeners { http, flight, http_address, flight_address })
}

/// Serves until `stop`: then takes no new connection, lets what is under way end within
/// `config.grace`, and notes what waits.
///
/// # Errors
/// [`ServeError::Listen`] where a door fails, and the store's errors where what waits cannot be noted.
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
    let mut doors = tokio::task::JoinSet::new();
    doors.spawn(door(http_address, stop.clone(), http::serve(http, session.clone(), most, stop.clone())));
    doors.spawn(door(
        flight_address,
        stop.clone(),
        flight::serve(flight, session.clone(), most, stop.clone()),
    ));
    stop.wait().await;
    let all = async {
        let mut result = Ok(());
        while let Some(door) = doors.join_next().await {
            result = result.and(door.unwrap_or(Ok(())));
        }
        result
    };
    let served = tokio::select! {
        biased;
        served = all => served,
        () = clock.sleep(config.grace.get()) => {
            tracing::warn!("requests under way did not end in time");
            Ok(())
        }
    };
    doors.abort_all();
    session.close().await?;
    served
}

/// Runs one door; where it ends, so does the other.
async fn door(
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
