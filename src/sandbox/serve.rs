//! Connections: HTTP/1.1 by hyper, and the rude endings a scripted fault asks for.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::faults::{Action, Wire};
use super::{State, control, vendors};

/// Body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How a connection is to end, set by the request that spoils it.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Reset,
    Close,
    Garbage,
}

/// An answer, or the end of the connection.
pub(super) type Outcome = Result<Response<Body>, io::Error>;

/// Accepts until `shutdown` is done.
pub(super) async fn run(
    listener: TcpListener,
    state: Arc<State>,
    shutdown: impl Future<Output = ()>,
) {
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer.ip(), Arc::clone(&state)));
                }
                // Out of file descriptors and the like: neither spin nor stop.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, peer: IpAddr, state: Arc<State>) {
    // Answers are small: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    state.connections.fetch_add(1, Ordering::Relaxed);
    let ending = Arc::new(OnceLock::new());
    let service = service_fn(|request: Request<Incoming>| {
        let state = Arc::clone(&state);
        let ending = Arc::clone(&ending);
        async move { answer(&state, request, peer, &ending).await }
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let _ = (&mut connection).await;
    let mut stream = connection.into_parts().io.into_inner();
    match ending.get() {
        Some(Ending::Reset) => {
            let _ = stream.set_zero_linger();
        }
        Some(Ending::Garbage) => {
            let _ = stream
                .write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
                .await;
            let _ = stream.shutdown().await;
        }
        Some(Ending::Close) | None => {}
    }
    state.connections.fetch_sub(1, Ordering::Relaxed);
}

async fn answer(
    state: &Arc<State>,
    request: Request<Incoming>,
    peer: IpAddr,
    ending: &OnceLock<Ending>,
) -> Outcome {
    if request.uri().path().starts_with("/_sandbox") {
        return Ok(control::answer(state, request).await);
    }
    match vendors::answer(state, request, Some(peer)).await {
        vendors::Answer::Plain(response) => Ok(response),
        vendors::Answer::Spoilt(action) => spoil(&action, ending).await,
    }
}

/// Gives the answer a fault asks for.
async fn spoil(action: &Action, ending: &OnceLock<Ending>) -> Outcome {
    let end = |how: Ending| {
        let _ = ending.set(how);
        Err(io::Error::other("scripted fault"))
    };
    let body = Bytes::from(action.body_bytes());
    let length = body.len();
    let (length, body) = match action.wire {
        Some(Wire::Hang) => std::future::pending().await,
        Some(Wire::Reset) => return end(Ending::Reset),
        Some(Wire::Close) => return end(Ending::Close),
        Some(Wire::Garbage) => return end(Ending::Garbage),
        None => (Some(length), full(body)),
        Some(Wire::Cut) => (Some(length.max(2)), cut(&body)),
        Some(Wire::Drip) => (
            Some(length),
            drip(
                body,
                Duration::from_millis(action.interval_ms.unwrap_or(1000)),
            ),
        ),
        Some(Wire::Endless) => (None, endless()),
    };
    let mut response = Response::builder().status(action.status.unwrap_or(200));
    if let Some(length) = length {
        response = response.header(header::CONTENT_LENGTH, length);
    }
    for (name, value) in &action.headers {
        response = response.header(name, value);
    }
    // Statuses and headers were checked when the script was set.
    Ok(response
        .body(body)
        .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "bad fault")))
}

/// A body sent whole.
pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A short text answer.
pub(super) fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

fn cut(body: &Bytes) -> Body {
    let half = body.slice(..body.len().div_ceil(2).min(body.len().saturating_sub(1)));
    let steps = stream::unfold(Some(half), |half| async {
        let Some(half) = half else {
            // Gives hyper a turn in which to send what it has.
            tokio::time::sleep(Duration::from_millis(10)).await;
            return Some((Err(io::Error::other("scripted fault")), None));
        };
        Some((Ok(Frame::data(half)), None))
    });
    StreamBody::new(steps).boxed_unsync()
}

fn drip(body: Bytes, interval: Duration) -> Body {
    let steps = stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(interval).await;
        let byte = rest.split_to(1);
        Some((Ok(Frame::data(byte)), rest))
    });
    StreamBody::new(steps).boxed_unsync()
}

fn endless() -> Body {
    let chunk = Bytes::from(vec![b'x'; 16 * 1024]);
    let steps = stream::unfold(chunk, |chunk| async {
        Some((Ok(Frame::data(chunk.clone())), chunk))
    });
    StreamBody::new(steps).boxed_unsync()
}
