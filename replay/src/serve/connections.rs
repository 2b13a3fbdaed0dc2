//! Connections of HTTP: each one gets so much time for sending a request, and none for staying idle longer.

use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Request, State};
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

use super::http::Refusal;
use super::{ServeError, http};

/// Wait after a failure to accept a connection, as when there are too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves until `stop`, then finishes the running requests.
/// A request's head may take `time`, and so long a connection may be idle.
pub(super) async fn serve(listener: TcpListener, router: Router, time: Duration, clock: &Clock, stop: Stop) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.wait() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(connection(stream, router, time, stop));
                }
                // Of a client that was gone before it was met.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::select! {
                        biased;
                        () = stop.wait() => break,
                        () = clock.sleep(PAUSE) => {}
                    }
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
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(time);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
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
    State(time): State<Duration>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let whole = Request::from_parts(head.clone(), body);
    // In real time, as the head: a client's time is that of its machine.
    let Ok(body) = tokio::time::timeout(time, Bytes::from_request(whole, &())).await else {
        let why = format!("its body has not come within {} s", time.as_secs_f64());
        let error = ServeError::Input { what: "request", why };
        return Err(Refusal { error, status: Some(StatusCode::REQUEST_TIMEOUT) });
    };
    Ok(next.run(Request::from_parts(head, Body::from(http::read(body)?))).await)
}
