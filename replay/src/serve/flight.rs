//! The Arrow Flight service, for trainers.
//!
//! | call | request | answer |
//! |---|---|---|
//! | `do_action` `ticket` | JSON `{job, step}` | JSON `{"ticket": ..}` or `{"not_yet": {"missing": n}}` |
//! | `do_action` `follow` | empty | JSON `{"version": n}`, after the newest version of the store was read |
//! | `do_get` | a ticket's JSON, or `{"ticket": .., "rows": [first, end]}` for some of its rows | the batch; its digest is in the schema's metadata |
//! | `do_put` | descriptor command JSON `{job, series, step, tokens}`; columns weights, slice, document, nats, predicted, bytes | JSON `{"written": version}` or `"before"` |

use std::pin::Pin;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket as FlightTicket,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use perennial_program::error::ProgramError as _;
use perennial_program::stop::Stop;
use perennial_schemas::id::Step;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

use super::session::{Evaluations, Session, Wanted};
use super::{FollowedJson, ServeError, columns, from_json, message, to_json};
use crate::issue;
use crate::receive::Evaluation;

/// HTTP/2's window of a stream in bytes: a whole batch is sent without waiting for the client.
pub const STREAM_WINDOW: u32 = 8 << 20;
/// HTTP/2's window of a connection, in bytes.
pub const CONNECTION_WINDOW: u32 = 32 << 20;
/// The largest HTTP/2 frame in bytes: the default of 16 KiB halves the throughput.
pub const FRAME: u32 = 1 << 20;
/// The largest message of a batch: clients refuse 4 MiB by default. A larger batch is sent as several record
/// batches.
const MESSAGE: usize = 3 << 20;
/// A connection on which nothing has come for this long is tested, and closed after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// The maximum number of scores of one step.
const SCORES: usize = 1 << 20;

/// The actions with their descriptions.
const ACTIONS: [(&str, &str); 2] = [
    ("ticket", "the ticket of a step of a job; body: JSON {job, step}"),
    ("follow", "reads the store's newest version of `records` and returns its number"),
];

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The command of a `do_put`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The job.
    pub job: String,
    /// The series within which steps ascend.
    pub series: String,
    /// The step.
    pub step: Step,
    /// Tokens trained so far.
    pub tokens: u64,
}

/// Serves until `stop`, then finishes the running requests. A request may have `most` bytes.
///
/// # Errors
/// The transport's errors.
pub(super) async fn serve(
    listener: TcpListener,
    session: Session,
    most: usize,
    stop: Stop,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = FlightServiceServer::new(Flight { session, most }).max_decoding_message_size(most);
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // A client that is gone without a word is noticed.
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service);
    Ok(server.serve_with_incoming_shutdown(incoming, async move { stop.wait().await }).await?)
}

/// The status of an error: its code is the one of its kind, its hint is a line of the message.
#[must_use]
pub fn status(error: &ServeError) -> Status {
    let hint = error.hint().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
    Status::new(Code::from_i32(error.kind().codes().grpc), format!("{}{hint}", message(error)))
}

fn malformed(what: &'static str, why: impl Into<String>) -> Status {
    status(&ServeError::Input { what, why: why.into() })
}

/// The status of an error in a client's stream. A status from a lower layer is passed on.
fn refused(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => malformed("stream of record batches", other.to_string()),
    }
}

#[derive(Debug)]
struct Flight {
    session: Session,
    /// The maximum size of a request in bytes, over all its messages.
    most: usize,
}

fn unknown<T>(call: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!(
        "`{call}` is not part of this service\n  hint: there is do_action, do_get and do_put"
    )))
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn do_get(&self, request: Request<FlightTicket>) -> Result<Response<Self::DoGetStream>, Status> {
        let wanted = Wanted::from_json(&request.into_inner().ticket).map_err(|error| status(&error))?;
        let served = self.session.batch(wanted).await.map_err(|error| status(&error))?;
        let columns = columns(&served).map_err(|error| status(&error))?;
        let data = FlightDataEncoderBuilder::new()
            .with_max_flight_data_size(MESSAGE)
            .with_schema(columns.schema())
            .build(stream::iter([Ok(columns)]))
            .map_err(refused);
        Ok(Response::new(Box::pin(data)))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let action = request.into_inner();
        let body = match action.r#type.as_str() {
            "ticket" => {
                let asked: issue::Request =
                    from_json("request for a ticket", &action.body).map_err(|error| status(&error))?;
                to_json(&self.session.ticket(asked).await.map_err(|error| status(&error))?)
            }
            "follow" => {
                self.session.follow().await.map_err(|error| status(&error))?;
                to_json(&FollowedJson { version: self.session.version().0 })
            }
            other => {
                let names: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
                let why = format!("there is no action `{other}`, there are {}", names.join(", "));
                return Err(malformed("action", why));
            }
        };
        Ok(Response::new(Box::pin(stream::iter([Ok(arrow_flight::Result { body: body.into() })]))))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let actions = ACTIONS.map(|(name, description)| {
            Ok(ActionType { r#type: name.to_owned(), description: description.to_owned() })
        });
        Ok(Response::new(Box::pin(stream::iter(actions))))
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let mut sent = request.into_inner();
        let Some(first) = sent.message().await? else {
            return Err(malformed("stream of evaluations", "it is empty"));
        };
        let Some(descriptor) = first.flight_descriptor.clone() else {
            return Err(malformed("stream of evaluations", "its first message has no descriptor"));
        };
        let put: Put = from_json("command of a stream of evaluations", &descriptor.cmd)
            .map_err(|error| status(&error))?;
        let (most, mut bytes) = (self.most, 0_usize);
        let within = move |data: FlightData| {
            bytes = bytes.saturating_add(data.encoded_len());
            let longer = || malformed("stream of evaluations", format!("it is longer than {most} bytes"));
            future::ready(if bytes > most { Err(FlightError::from(longer())) } else { Ok(data) })
        };
        let all = stream::iter([Ok(first)]).chain(sent.map_err(FlightError::from));
        let mut batches = FlightRecordBatchStream::new_from_flight_data(all.and_then(within));
        let mut scores = Vec::new();
        while let Some(batch) = batches.try_next().await.map_err(refused)? {
            scores_of(&batch, &mut scores).map_err(|error| status(&error))?;
        }
        let Put { job, series, step, tokens } = put;
        let evaluations = Evaluations { job, series, step, tokens, scores };
        let received = self.session.evaluations(evaluations).await.map_err(|error| status(&error))?;
        let app_metadata = to_json(&received).into();
        Ok(Response::new(Box::pin(stream::iter([Ok(PutResult { app_metadata })]))))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        unknown("handshake")
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        unknown("list_flights")
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        unknown("get_flight_info")
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        unknown("poll_flight_info")
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        unknown("get_schema")
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        unknown("do_exchange")
    }
}

/// The schema of scores on the wire: the columns of `evaluations` that a trainer provides.
#[must_use]
pub fn score_schema() -> arrow::datatypes::SchemaRef {
    let all = perennial_schemas::table::evaluations::schema();
    let known = ["weights", "slice", "document", "nats", "predicted", "bytes"];
    let fields = all.fields().iter().filter(|field| known.contains(&field.name().as_str())).cloned();
    std::sync::Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}

/// The scores of `scores` as columns of [`score_schema`].
///
/// # Errors
/// Arrow's errors; valid scores cause no error.
pub fn scores_to_columns(scores: &[Evaluation]) -> Result<RecordBatch, arrow::error::ArrowError> {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;
    let text = |get: fn(&Evaluation) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(scores.iter().map(get)))
    };
    let long = |get: fn(&Evaluation) -> u64| -> ArrayRef {
        let number = |score| i64::try_from(get(score)).unwrap_or(i64::MAX);
        Arc::new(Int64Array::from_iter_values(scores.iter().map(number)))
    };
    let nats = Float64Array::from_iter_values(scores.iter().map(|score| score.nats));
    let columns: Vec<ArrayRef> = vec![
        text(|score| &score.weights),
        text(|score| &score.slice),
        text(|score| &score.document),
        Arc::new(nats),
        long(|score| score.predicted),
        long(|score| score.bytes),
    ];
    RecordBatch::try_new(score_schema(), columns)
}

fn scores_of(batch: &RecordBatch, scores: &mut Vec<Evaluation>) -> Result<(), ServeError> {
    let bad = |why: String| ServeError::Input { what: "batch of evaluations", why };
    let find = |name: &str| {
        let column = batch.column_by_name(name).ok_or_else(|| bad(format!("column `{name}` is missing")))?;
        if column.null_count() > 0 {
            return Err(bad(format!("column `{name}` has nulls")));
        }
        Ok(column)
    };
    let wrong = |name: &str, kind: &str| bad(format!("column `{name}` is not of {kind}"));
    let text = |name| find(name)?.as_string_opt::<i32>().ok_or_else(|| wrong(name, "UTF-8 text"));
    let long =
        |name| find(name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong(name, "64-bit integers"));
    let nats =
        find("nats")?.as_primitive_opt::<Float64Type>().ok_or_else(|| wrong("nats", "64-bit floats"))?;
    let (weights, slice, document) = (text("weights")?, text("slice")?, text("document")?);
    let (predicted, bytes) = (long("predicted")?, long("bytes")?);
    if scores.len().saturating_add(batch.num_rows()) > SCORES {
        return Err(bad(format!("a step has at most {SCORES} scores")));
    }
    let natural = |name: &str, value: i64| {
        u64::try_from(value).map_err(|_| bad(format!("column `{name}` holds {value}, which is negative")))
    };
    for row in 0..batch.num_rows() {
        scores.push(Evaluation {
            weights: weights.value(row).to_owned(),
            slice: slice.value(row).to_owned(),
            document: document.value(row).to_owned(),
            nats: nats.value(row),
            predicted: natural("predicted", predicted.value(row))?,
            bytes: natural("bytes", bytes.value(row))?,
        });
    }
    Ok(())
}
