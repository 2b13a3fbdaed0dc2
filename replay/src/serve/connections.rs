//! Connections of HTTP: each one gets so much time for sending a request, and none for staying idle longer.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use perennial_program::clock::Clock;
use perennial_program::stop::Stop;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ServeError;
use super::http::Refusal;

/// Wait after a failure to accept a connection, as when there are too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// What a client may send.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// The maximum size of a request, in bytes.
    pub(super) most: usize,
    /// The time that its head may take, and then its body.
    pub(super) time: Duration,
    pub(super) clock: Clock,
}

/// Serves until `stop`, then finishes the running requests.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: Stop) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (router, time, stop) = (router.clone(), limits.time, stop.clone());
                    connections.spawn(connection(stream, router, time, stop));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    limits.clock.sleep(PAUSE).await;
                }
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Answers the requests of one connection.
async fn connection(stream: TcpStream, router: Router, time: Duration, stop: Stop) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(time);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        biased;
        ended = served.as_mut() => ended,
        () = stop.wait() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of HTTP has ended");
    }
}

/// Reads the whole body of a request before anything else is done for it.
pub(super) async fn receive(
    State(limits): State<Limits>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let refusal = |why: String, status| Refusal {
        error: ServeError::Input { what: "request", why },
        status: Some(status),
    };
    // In real time, as the head: a client's time is that of its machine.
    let Ok(body) = tokio::time::timeout(limits.time, to_bytes(body, limits.most)).await else {
        let why = format!("its body has not come within {} s", limits.time.as_secs_f64());
        return Err(refusal(why, StatusCode::REQUEST_TIMEOUT));
    };
    let is_long = |error: &axum::Error| {
        let cause = std::error::Error::source(error);
        cause.is_some_and(|cause| cause.to_string().contains("length limit"))
    };
    let body = body.map_err(|error| match is_long(&error) {
        true => {
            let why = format!("it is longer than {} bytes", limits.most);
            refusal(why, StatusCode::PAYLOAD_TOO_LARGE)
        }
        false => refusal(error.to_string(), StatusCode::BAD_REQUEST),
    })?;
    Ok(next.run(Request::from_parts(head, Body::from(body))).await)
}
