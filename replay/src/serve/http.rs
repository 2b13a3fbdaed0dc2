//! The HTTP service: JSON, or batches as Arrow IPC for clients that accept it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::RecordBatch;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use perennial_program::error::ProgramError as _;
use perennial_schemas::id::Step;
use perennial_schemas::wire::Batch;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connections;
use super::session::{Evaluations, Fork, Served, Session, Wanted};
use super::{DIGEST_KEY, ServeError, columns, from_json, message, to_json};
use crate::draws;
use crate::error::ReplayError;
use crate::issue::Request;
use crate::jobs::{Change, SettingsChange};
use crate::views::{Entry, EntrySummary};

/// The media type of a batch as an Arrow IPC stream.
pub const ARROW: &str = "application/vnd.apache.arrow.stream";

/// All routes.
pub const ROUTES: [&str; 14] = [
    "POST /v1/tickets",
    "POST /v1/batches",
    "GET /v1/buffers",
    "GET /v1/draws?job=&from=&limit=",
    "GET /v1/jobs",
    "GET /v1/jobs/JOB?from=&limit=",
    "PUT /v1/jobs/JOB",
    "POST /v1/jobs/JOB/skip",
    "POST /v1/jobs/JOB/fork",
    "POST /v1/jobs/JOB/end",
    "POST /v1/evaluations",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
];

/// The maximum number of steps, or of rows of a job's record, in one answer.
const PAGE: u64 = 1000;

type Answer = Result<Response, Refusal>;

/// An error as a response.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: ServeError,
    /// A status that the error's kind does not have: method not allowed, body too large.
    pub(super) status: Option<StatusCode>,
}

impl<E: Into<ServeError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self { error: error.into(), status: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let codes = self.error.kind().codes();
        let status = StatusCode::from_u16(codes.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = json!({"kind": codes.name, "message": message(&self.error), "hint": self.error.hint()});
        json_response(self.status.unwrap_or(status), &body)
    }
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], to_json(body)).into_response()
}

fn ok(body: &impl Serialize) -> Answer {
    Ok(json_response(StatusCode::OK, body))
}

/// A router of all routes. A request may have `most` bytes, and its body may take `time`.
pub(super) fn router(session: Session, most: usize, time: Duration) -> Router {
    Router::new()
        .route("/v1/tickets", post(tickets))
        .route("/v1/batches", post(batches))
        .route("/v1/buffers", get(buffers))
        .route("/v1/draws", get(draws))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{job}", put(set_job).get(job))
        .route("/v1/jobs/{job}/skip", post(skip_job))
        .route("/v1/jobs/{job}/fork", post(fork_job))
        .route("/v1/jobs/{job}/end", post(end_job))
        .route("/v1/evaluations", post(evaluations))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(time, connections::receive))
        .layer(DefaultBodyLimit::max(most))
        .with_state(session)
}

async fn nothing(uri: Uri) -> Refusal {
    ServeError::Route { path: uri.path().to_owned() }.into()
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let why = format!("`{}` does not take {method}; there is {}", uri.path(), ROUTES.join(", "));
    let error = ServeError::Input { what: "request", why };
    Refusal { error, status: Some(StatusCode::METHOD_NOT_ALLOWED) }
}

/// The body, or the error of reading it.
pub(super) fn read(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| Refusal {
        error: ServeError::Input { what: "request", why: rejection.body_text() },
        status: Some(rejection.status()),
    })
}

async fn tickets(State(session): State<Session>, body: Result<Bytes, BytesRejection>) -> Answer {
    let asked: Request = from_json("request for a ticket", &read(body)?)?;
    ok(&session.ticket(asked).await?)
}

async fn batches(
    State(session): State<Session>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let served = session.batch(Wanted::from_json(&read(body)?)?).await?;
    if accepts_arrow(&headers) { arrow_batch(&served) } else { json_batch(&served) }
}

fn accepts_arrow(headers: &HeaderMap) -> bool {
    let accepts = |value: &header::HeaderValue| value.to_str().is_ok_and(|text| text.contains(ARROW));
    headers.get_all(header::ACCEPT).iter().any(accepts)
}

/// Columns as an Arrow IPC stream.
fn ipc(columns: &RecordBatch) -> Result<Vec<u8>, ServeError> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &columns.schema())?;
    writer.write(columns)?;
    Ok(writer.into_inner()?)
}

fn arrow_batch(served: &Served) -> Answer {
    let body = ipc(&columns(served)?)?;
    let digest = format!("{:032x}", served.digest);
    let headers = [(header::CONTENT_TYPE, ARROW.to_owned())];
    Ok((headers, [(DIGEST_KEY.replace('.', "-"), digest)], body).into_response())
}

fn json_batch(served: &Served) -> Answer {
    let (batch, mask) = (&served.batch, served.batch.mask());
    let rows = (0..batch.rows()).map(|row| json_row(batch, &mask, row)).collect::<Result<Vec<_>, _>>()?;
    ok(&json!({
        "digest": format!("{:032x}", served.digest),
        "next": served.next,
        "rows": rows,
    }))
}

fn json_row(batch: &Batch, mask: &[bool], row: usize) -> Result<Value, ServeError> {
    let places = row * batch.length()..(row + 1) * batch.length();
    let spans = batch.spans(row).map_err(ReplayError::from)?;
    let spans: Vec<Value> = spans
        .iter()
        .map(|span| {
            json!({
                "start": span.start, "tokens": span.tokens, "shard": span.shard, "seq": span.seq,
                "offset": span.offset, "id": span.id, "first_token": span.first_token, "erased": span.erased,
                "probability": span.probability,
            })
        })
        .collect();
    Ok(json!({
        "row": batch.row_number(row),
        "replayed": batch.is_replayed(row),
        "buffer": batch.buffer(row),
        "tokens": batch.tokens().get(places.clone()),
        "targets": batch.targets().get(places.clone()),
        "mask": mask.get(places),
        "spans": spans,
    }))
}

async fn buffers(State(session): State<Session>) -> Answer {
    ok(&session.buffers().await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrawsQuery {
    job: String,
    #[serde(default)]
    from: u64,
    limit: Option<u64>,
}

/// The query of a request, or what is wrong with it.
fn query<T>(what: &'static str, query: Result<Query<T>, QueryRejection>) -> Result<T, ServeError> {
    let Query(query) = query.map_err(|rejection| ServeError::Input { what, why: rejection.body_text() })?;
    Ok(query)
}

async fn draws(
    State(session): State<Session>,
    headers: HeaderMap,
    asked: Result<Query<DrawsQuery>, QueryRejection>,
) -> Answer {
    let DrawsQuery { job, from, limit } = query("query for draws", asked)?;
    let page = session.draws(&job, Step(from), limit.unwrap_or(PAGE).min(PAGE)).await?;
    if accepts_arrow(&headers) {
        let body = ipc(&draws::columns(&page.draws).map_err(ServeError::from)?)?;
        let next = page.next.map(|next| next.to_string()).unwrap_or_default();
        let headers = [(header::CONTENT_TYPE, ARROW.to_owned())];
        return Ok((headers, [("perennial-next-step", next)], body).into_response());
    }
    ok(&json!({"job": job, "from": from, "next": page.next, "draws": page.draws}))
}

async fn jobs(State(session): State<Session>) -> Answer {
    let jobs = session.jobs().await?;
    let jobs: Vec<EntrySummary> = jobs.iter().map(|entry| entry.as_ref().into()).collect();
    ok(&json!({"jobs": jobs}))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RowsQuery {
    from: Option<u64>,
    limit: Option<u64>,
}

async fn job(
    State(session): State<Session>,
    Path(job): Path<String>,
    asked: Result<Query<RowsQuery>, QueryRejection>,
) -> Answer {
    let RowsQuery { from, limit } = query("query for a job", asked)?;
    let (from, limit) = (from.unwrap_or(1), limit.unwrap_or(PAGE).min(PAGE));
    let rows = session.job(&job, from, limit).await?;
    let rows: Vec<EntrySummary> = rows.iter().map(EntrySummary::from).collect();
    let next = rows.last().filter(|_| rows.len() as u64 == limit).map(|row| row.number + 1);
    ok(&json!({"job": job, "from": from, "next": next, "rows": rows}))
}

fn changed(entry: &Entry) -> Answer {
    ok(&EntrySummary::from(entry))
}

async fn set_job(
    State(session): State<Session>,
    Path(job): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let change: SettingsChange = from_json("change of a job", &read(body)?)?;
    changed(&*session.change(&job, Change::Set(change)).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SkipBody {
    steps: u64,
}

async fn skip_job(
    State(session): State<Session>,
    Path(job): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let SkipBody { steps } = from_json("request to leave out steps", &read(body)?)?;
    changed(&*session.change(&job, Change::Skip(steps)).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForkBody {
    step: Step,
    job: String,
}

async fn fork_job(
    State(session): State<Session>,
    Path(of): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let ForkBody { step, job } = from_json("request for a fork", &read(body)?)?;
    changed(&*session.fork(Fork { of, step, job }).await?)
}

async fn end_job(State(session): State<Session>, Path(job): Path<String>) -> Answer {
    changed(&*session.change(&job, Change::End).await?)
}

async fn evaluations(State(session): State<Session>, body: Result<Bytes, BytesRejection>) -> Answer {
    let sent: Evaluations = from_json("set of evaluations", &read(body)?)?;
    ok(&session.evaluations(sent).await?)
}

/// Whether requests are answered at all: a supervisor restarts a server of which this is not so.
async fn health(State(session): State<Session>) -> Response {
    if session.is_alive() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "the task that owns the store has ended: restart the server\n")
        .into_response()
}

async fn ready(State(session): State<Session>) -> Response {
    let counters = session.counters();
    let ready = counters.ready.load(Relaxed) && session.is_alive();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({"ready": ready, "records": counters.version.load(Relaxed)}))
}

async fn metrics(State(session): State<Session>) -> Response {
    let counters = session.counters();
    let mut text = String::new();
    let mut write = |name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display| {
        let name = format!("perennial_replay_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    let load = |counter: &AtomicU64| counter.load(Relaxed);
    write(
        "ready",
        "gauge",
        "1 if the last read of the store succeeded",
        &u8::from(counters.ready.load(Relaxed)),
    );
    write("records_version", "gauge", "newest version of records that was read", &load(&counters.version));
    write("queue_length", "gauge", "waiting requests", &session.queue());
    write("views_total", "counter", "views of jobs that were written", &load(&counters.views));
    write("tickets_total", "counter", "tickets issued", &load(&counters.tickets));
    write(
        "not_yet_total",
        "counter",
        "requests for which the stream had too little text",
        &load(&counters.not_yet),
    );
    write("batches_total", "counter", "batches served", &load(&counters.batches));
    write("batch_bytes_total", "counter", "bytes of the columns served", &load(&counters.bytes));
    write("cache_hits_total", "counter", "batches from the cache", &load(&counters.hits));
    write("failures_total", "counter", "requests that failed", &load(&counters.failures));
    let seconds = load(&counters.batch_us) as f64 / 1e6;
    let name = "perennial_replay_batch_seconds";
    let _ = writeln!(
        text,
        "# HELP {name} time from request to answer\n# TYPE {name} summary\n{name}_sum {seconds}\n{name}_count {}",
        load(&counters.batches)
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
