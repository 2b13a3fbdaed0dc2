//! The client of a replay server, for trainers without access to the store.

use std::time::Duration;

use arrow::compute::concat_batches;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightData, FlightDescriptor, Ticket as FlightTicket};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use perennial_program::clock::Clock;
use perennial_program::error::{CODES, Kind, ProgramError};
use perennial_schemas::id::{Step, Version};
use perennial_schemas::wire::{Batch, Ticket, WireError};
use serde::de::DeserializeOwned;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::issue::{Issued, Request};
use crate::receive::{self, Evaluation};
use crate::serve::flight::{CONNECTION_WINDOW, FRAME, Put, STREAM_WINDOW, scores_to_columns};
use crate::serve::{DIGEST_KEY, FollowedJson, NEXT_KEY};

/// Wait before the second attempt; it doubles for each further one, up to [`MOST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const MOST_WAIT: Duration = Duration::from_secs(5);
/// Timeout of a connection attempt.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which nothing arrives for this long is tested, and given up if nothing arrives for as long
/// again: a server that is frozen, or whose machine is gone, closes no connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Interval between two messages about a server that does not answer.
const REPORT: Duration = Duration::from_secs(30);
/// The largest message that is accepted from a server.
const MESSAGE: usize = 256 << 20;

/// An error of the server or of the connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not the address of a server.
    #[error("`{url}` is not the address of a replay server")]
    Url {
        /// The address.
        url: String,
    },
    /// No server answers.
    #[error("cannot connect to the replay server at `{url}`")]
    Connect {
        /// The address.
        url: String,
        /// The transport's error.
        #[source]
        source: tonic::transport::Error,
    },
    /// The server refused the request or disconnected.
    #[error("the replay server refused to {act}: {message}")]
    Refused {
        /// The request.
        act: &'static str,
        /// Its code.
        code: Code,
        /// Its message, hint included.
        message: String,
    },
    /// No answer came in time.
    #[error("the replay server did not {act} within {} s", after.as_secs())]
    Late {
        /// The request.
        act: &'static str,
        /// The time that it had.
        after: Duration,
    },
    /// The answer is malformed.
    #[error("the replay server's answer to `{act}` is malformed: {why}")]
    Answer {
        /// The request.
        act: &'static str,
        /// The reason.
        why: String,
    },
    /// The batch is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The batch was changed in transit.
    #[error("the batch of step {step} has digest {found:032x}, the server sent {sent}")]
    Digest {
        /// The step.
        step: Step,
        /// The digest of the received batch.
        found: u128,
        /// The digest that the server sent.
        sent: String,
    },
}

impl ProgramError for ClientError {
    fn kind(&self) -> Kind {
        match self {
            Self::Url { .. } => Kind::Config,
            Self::Connect { .. } | Self::Late { .. } => Kind::Unavailable,
            Self::Refused { code, .. } => {
                // Two kinds share a code: a server's config and input errors are both wrong input for a
                // client.
                let row = CODES.iter().rev().find(|row| row.grpc == *code as i32);
                // A connection that breaks during an answer has the code `Unknown`.
                let other = if *code == Code::Unknown { Kind::Unavailable } else { Kind::Bug };
                row.map_or(other, |row| row.kind)
            }
            Self::Answer { .. } => Kind::Bug,
            Self::Wire(error) => error.kind(),
            Self::Digest { .. } => Kind::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Url { .. } => Some("write it as `http://127.0.0.1:7401`".to_owned()),
            Self::Connect { .. } => Some("start `perennial-replay serve`, or correct the address".to_owned()),
            Self::Digest { .. } => {
                Some("try again: the connection to the server changed the data".to_owned())
            }
            Self::Late { .. } => {
                Some("look at the server: it may be frozen, or its store out of reach".to_owned())
            }
            Self::Wire(error) => error.hint(),
            Self::Refused { .. } | Self::Answer { .. } => None,
        }
    }
}

fn refused(act: &'static str) -> impl Fn(Status) -> ClientError {
    move |status| ClientError::Refused { act, code: status.code(), message: status.message().to_owned() }
}

fn broken(act: &'static str) -> impl Fn(FlightError) -> ClientError {
    move |error| match error {
        FlightError::Tonic(status) => refused(act)(*status),
        other => ClientError::Answer { act, why: other.to_string() },
    }
}

/// How long a client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a server that cannot be reached or is stopping, counted from the first failure of a call.
    pub wait: Duration,
    /// For the answer to one attempt of a call.
    pub deadline: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { wait: Duration::from_secs(600), deadline: Duration::from_secs(120) }
    }
}

/// A connection to a server. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    flight: FlightServiceClient<Channel>,
    clock: Clock,
    patience: Patience,
}

/// A batch from a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// The batch, its digest checked.
    pub batch: Batch,
    /// The job's next request.
    pub next: Request,
}

impl Client {
    /// Connects to the Flight address of a server, such as `http://127.0.0.1:7401`. It waits for a server that
    /// is not there yet.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Connect`].
    pub async fn connect(url: &str, clock: Clock, patience: Patience) -> Result<Self, ClientError> {
        // No server will ever answer there.
        let uri: Option<Uri> = url.parse().ok();
        let is_http = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if !uri.as_ref().is_some_and(is_http) {
            return Err(ClientError::Url { url: url.to_owned() });
        }
        let failed = |source| ClientError::Connect { url: url.to_owned(), source };
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(failed)?
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_timeout(CONNECT);
        let channel =
            retry(&clock, patience, "connect", || async { endpoint.connect().await.map_err(failed) }).await?;
        let flight = FlightServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        Ok(Self { flight, clock, patience })
    }

    /// The ticket of a job's next batch.
    ///
    /// # Errors
    /// The server's errors, after retries while it is unavailable.
    pub async fn ticket(&self, request: &Request) -> Result<Issued, ClientError> {
        self.act("issue a ticket", "ticket", serde_json::to_vec(request).unwrap_or_default()).await
    }

    /// Makes the server read the store; returns the newest version of `records` that it has read.
    ///
    /// # Errors
    /// As [`Client::ticket`].
    pub async fn follow(&self) -> Result<Version, ClientError> {
        let followed: FollowedJson = self.act("follow the store", "follow", Vec::new()).await?;
        Ok(Version(followed.version))
    }

    async fn act<T: DeserializeOwned>(
        &self,
        act: &'static str,
        name: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let action = Action { r#type: name.to_owned(), body: body.into() };
        let answer = self.retry(act, || async {
            let mut results =
                self.flight.clone().do_action(action.clone()).await.map_err(refused(act))?.into_inner();
            results.message().await.map_err(refused(act))
        });
        let body = answer.await?.map(|result| result.body).unwrap_or_default();
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer { act, why: error.to_string() })
    }

    /// The batch that a ticket names, with its digest checked, and the job's next request.
    ///
    /// # Errors
    /// As [`Client::ticket`]; [`ClientError::Digest`] if the batch was changed in transit.
    pub async fn batch(&self, ticket: &Ticket) -> Result<Received, ClientError> {
        self.retry("serve a batch", || self.try_batch(ticket)).await
    }

    async fn retry<T, F>(&self, act: &'static str, call: impl FnMut() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        retry(&self.clock, self.patience, act, call).await
    }

    async fn try_batch(&self, ticket: &Ticket) -> Result<Received, ClientError> {
        const ACT: &str = "serve a batch";
        let asked = FlightTicket { ticket: ticket.to_json().into() };
        let data = self.flight.clone().do_get(asked).await.map_err(refused(ACT))?.into_inner();
        let mut stream = FlightRecordBatchStream::new_from_flight_data(data.map_err(FlightError::from));
        let mut parts = Vec::new();
        while let Some(part) = stream.try_next().await.map_err(broken(ACT))? {
            parts.push(part);
        }
        let malformed = |why: &str| ClientError::Answer { act: ACT, why: why.to_owned() };
        let schema = stream.schema().cloned().ok_or_else(|| malformed("it has no schema"))?;
        let metadata = |key: &str| schema.metadata().get(key).cloned().unwrap_or_default();
        let sent = metadata(DIGEST_KEY);
        let next = serde_json::from_str(&metadata(NEXT_KEY))
            .map_err(|error| malformed(&format!("`{NEXT_KEY}`: {error}")))?;
        let batch = Batch::new(concat_batches(&schema, &parts).map_err(WireError::from)?)?;
        let found = batch.digest();
        if sent != format!("{found:032x}") {
            return Err(ClientError::Digest { step: ticket.step, found, sent });
        }
        Ok(Received { batch, next })
    }

    /// Sends the evaluations of `job` at `step`, after `tokens` trained tokens.
    ///
    /// # Errors
    /// As [`Client::ticket`]. Sending them again is safe.
    pub async fn evaluations(
        &self,
        job: &str,
        series: &str,
        step: Step,
        tokens: u64,
        scores: &[Evaluation],
    ) -> Result<receive::Received, ClientError> {
        const ACT: &str = "receive evaluations";
        let put = Put { job: job.to_owned(), series: series.to_owned(), step, tokens };
        let cmd = serde_json::to_vec(&put).unwrap_or_default();
        let columns = scores_to_columns(scores).map_err(WireError::from)?;
        let encoded: Vec<FlightData> = FlightDataEncoderBuilder::new()
            .with_flight_descriptor(Some(FlightDescriptor::new_cmd(cmd)))
            .with_schema(columns.schema())
            .build(stream::iter([Ok(columns)]))
            .try_collect()
            .await
            .map_err(broken(ACT))?;
        let answer = self.retry(ACT, || async {
            let sent = stream::iter(encoded.clone());
            let results = self.flight.clone().do_put(sent).await.map_err(refused(ACT))?.into_inner();
            results.boxed().next().await.transpose().map_err(refused(ACT))
        });
        let body = answer.await?.map(|result| result.app_metadata).unwrap_or_default();
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::Answer { act: ACT, why: error.to_string() })
    }
}

/// Repeats a call until it succeeds, fails permanently, or patience ends.
async fn retry<T, F>(
    clock: &Clock,
    patience: Patience,
    act: &'static str,
    mut call: impl FnMut() -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut wait = FIRST_WAIT;
    // When the first attempt failed, and when that was reported last.
    let mut failing: Option<(Duration, Duration)> = None;
    loop {
        let answer = tokio::select! {
            biased;
            answer = call() => answer,
            () = clock.sleep(patience.deadline) => Err(ClientError::Late { act, after: patience.deadline }),
        };
        let error = match answer {
            Err(error) if error.kind().codes().retry => error,
            other => return other,
        };
        let now = clock.monotonic();
        let (since, reported) = failing.get_or_insert((now, now.saturating_sub(REPORT)));
        let waited = now.saturating_sub(*since);
        if waited >= patience.wait {
            return Err(error);
        }
        if now.saturating_sub(*reported) >= REPORT {
            *reported = now;
            let (waited, most) = (waited.as_secs(), patience.wait.as_secs());
            tracing::warn!(%error, "the replay server does not answer: waiting, {waited} of {most} s");
        }
        clock.sleep(wait).await;
        wait = (2 * wait).min(MOST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const PATIENCE: Patience = Patience { wait: Duration::from_secs(60), deadline: Duration::from_secs(10) };

    /// The number of attempts, the result and the time of a call that fails with `code` until its `good`-th
    /// attempt; with no code it never answers.
    async fn tried(code: Option<Code>, good: u32) -> (u32, Result<(), ClientError>, Duration) {
        let (clock, calls) = (Clock::manual(0), AtomicU32::new(0));
        let call = || async {
            let refuse = calls.fetch_add(1, Ordering::Relaxed) + 1 < good;
            match code {
                _ if !refuse => Ok(()),
                Some(code) => Err(refused("try")(Status::new(code, "no"))),
                None => std::future::pending().await,
            }
        };
        let passing = async {
            loop {
                clock.advance(FIRST_WAIT);
                tokio::task::yield_now().await;
            }
        };
        let result = tokio::select! {
            biased;
            result = retry(&clock, PATIENCE, "try", call) => result,
            () = passing => Ok(()),
        };
        (calls.into_inner(), result, clock.monotonic())
    }

    #[tokio::test]
    async fn server_that_is_gone_is_waited_for_and_one_that_refuses_is_not() {
        let unavailable = Some(Code::Unavailable);
        assert!(matches!(tried(unavailable, 4).await, (4, Ok(()), _)));
        let (calls, result, took) = tried(unavailable, 999).await;
        assert!(result.is_err() && calls > 10, "{calls}");
        assert!((60..70).contains(&took.as_secs()), "{took:?}");
        for (code, kind) in [
            (Code::InvalidArgument, Kind::Input),
            (Code::NotFound, Kind::NotFound),
            (Code::Aborted, Kind::Conflict),
            (Code::DataLoss, Kind::Corrupt),
            (Code::Internal, Kind::Bug),
        ] {
            let (calls, result, _) = tried(Some(code), 2).await;
            assert_eq!((calls, result.unwrap_err().kind()), (1, kind));
        }
    }

    #[tokio::test]
    async fn answer_that_never_comes_is_noticed() {
        assert!(matches!(tried(None, 3).await, (3, Ok(()), _)));
        let (_, result, took) = tried(None, 999).await;
        assert!(matches!(result, Err(ClientError::Late { act: "try", .. })), "{result:?}");
        assert!((60..80).contains(&took.as_secs()), "{took:?}");
    }

    #[tokio::test]
    async fn address_that_is_none_is_refused_with_it_at_once() {
        for address in ["not an address", "nonsense", "", "127.0.0.1:7401", "ftp://127.0.0.1:7401"] {
            let tried = Client::connect(address, Clock::system(), Patience::default()).await;
            let error = tried.unwrap_err();
            assert!(matches!(error, ClientError::Url { .. }), "{error}");
            assert!(error.to_string().contains(&format!("`{address}`")), "{error}");
            assert_eq!(error.kind(), Kind::Config);
        }
    }
}
