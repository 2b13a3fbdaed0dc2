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
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::issue::{Issued, Request};
use crate::receive::{self, Evaluation};
use crate::serve::flight::{CONNECTION_WINDOW, FRAME, Put, STREAM_WINDOW, scores_to_columns};
use crate::serve::{DIGEST_KEY, FlushedJson, FollowedJson, NEXT_KEY};

/// Maximum number of attempts of a call.
const TRIES: u32 = 6;
/// Wait before the second attempt; it doubles for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Timeout of a connection attempt.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest message that is accepted from a server.
const MESSAGE: usize = 256 << 20;

/// An error of the server or of the connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is invalid, or no server answers.
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
            Self::Connect { .. } => Kind::Unavailable,
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
            Self::Connect { .. } => Some("start `perennial-replay serve`, or correct the address".to_owned()),
            Self::Digest { .. } => {
                Some("try again: the connection to the server changed the data".to_owned())
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

/// A connection to a server. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    flight: FlightServiceClient<Channel>,
    clock: Clock,
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
    /// Connects to the Flight address of a server, such as `http://127.0.0.1:7401`. It retries while the
    /// server starts.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect(url: &str, clock: Clock) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { url: url.to_owned(), source };
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(failed)?
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .tcp_nodelay(true)
            .connect_timeout(CONNECT);
        let channel = retry(&clock, || async { endpoint.connect().await.map_err(failed) }).await?;
        let flight = FlightServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        Ok(Self { flight, clock })
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

    /// Waits until every draw so far is recorded in the store.
    ///
    /// # Errors
    /// As [`Client::ticket`].
    pub async fn flush(&self) -> Result<(), ClientError> {
        let FlushedJson {} = self.act("record the draws", "flush", Vec::new()).await?;
        Ok(())
    }

    async fn act<T: DeserializeOwned>(
        &self,
        act: &'static str,
        name: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let action = Action { r#type: name.to_owned(), body: body.into() };
        let answer = retry(&self.clock, || async {
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
        retry(&self.clock, || self.try_batch(ticket)).await
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
        let answer = retry(&self.clock, || async {
            let sent = stream::iter(encoded.clone());
            let results = self.flight.clone().do_put(sent).await.map_err(refused(ACT))?.into_inner();
            results.boxed().next().await.transpose().map_err(refused(ACT))
        });
        let body = answer.await?.map(|result| result.app_metadata).unwrap_or_default();
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::Answer { act: ACT, why: error.to_string() })
    }
}

/// Retries until the call succeeds, fails permanently, or the attempts are exhausted.
async fn retry<T, F>(clock: &Clock, mut call: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut wait = FIRST_WAIT;
    let mut left = TRIES;
    loop {
        left -= 1;
        match call().await {
            Err(error) if left > 0 && error.kind().codes().retry => {
                tracing::debug!(%error, left, "the replay server does not answer, retrying");
                clock.sleep(wait).await;
                wait *= 2;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// The number of attempts and the result of a call that fails with `code` until its `good`-th attempt.
    async fn tried(code: Code, good: u32) -> (u32, Result<(), ClientError>) {
        let (clock, calls) = (Clock::manual(0), AtomicU32::new(0));
        let call = || async {
            let refuse = calls.fetch_add(1, Ordering::Relaxed) + 1 < good;
            if refuse { Err(refused("try")(Status::new(code, "no"))) } else { Ok(()) }
        };
        let passing = async {
            loop {
                clock.advance(FIRST_WAIT);
                tokio::task::yield_now().await;
            }
        };
        let result = tokio::select! {
            biased;
            result = retry(&clock, call) => result,
            () = passing => Ok(()),
        };
        (calls.into_inner(), result)
    }

    #[tokio::test]
    async fn call_is_tried_again_only_where_the_server_is_unavailable() {
        assert!(matches!(tried(Code::Unavailable, 4).await, (4, Ok(()))));
        assert!(matches!(tried(Code::Unavailable, 99).await, (TRIES, Err(_))));
        for (code, kind) in [
            (Code::InvalidArgument, Kind::Input),
            (Code::NotFound, Kind::NotFound),
            (Code::Aborted, Kind::Conflict),
            (Code::DataLoss, Kind::Corrupt),
            (Code::Internal, Kind::Bug),
        ] {
            let (calls, result) = tried(code, 2).await;
            assert_eq!((calls, result.unwrap_err().kind()), (1, kind));
        }
    }

    #[tokio::test]
    async fn address_that_is_none_is_refused_with_it() {
        let error = Client::connect("not an address", Clock::system()).await.unwrap_err();
        assert!(error.to_string().contains("`not an address`"), "{error}");
    }
}
