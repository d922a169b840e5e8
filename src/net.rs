//! The bounded accept loop all listeners share. Knows HTTP/1.1 and connections, nothing of what is served.
//!
//! `axum::serve` has no deadline for request heads and no cap on connections; a stranger who opens sockets
//! and says nothing would hold them for ever.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics::{Counter, Gauge};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Layer as _;

/// How long to wait after the system refused a socket (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Refusals under way at once; beyond it connections are closed without a word.
const REFUSALS_MAX: usize = 256;
/// How long a refused connection is kept for the client to read why.
const REFUSE_TIME_MAX: Duration = Duration::from_secs(1);

/// Limits of one listener.
#[derive(Clone)]
pub struct ServeOptions {
    /// Time for a request's head to arrive. Also how long an idle connection is kept.
    pub head_timeout: Duration,
    /// Most headers in one request; beyond it 431 is answered.
    pub headers_max: usize,
    /// Largest request head, in bytes; beyond it 431 is answered. At least 8,192. hyper looks after each
    /// read, so up to twice as much may pass when it arrives at once.
    pub head_bytes_max: usize,
    /// Connections served at once.
    pub connections_max: usize,
    /// Written to a connection that is one too many, before it is closed: a whole HTTP answer.
    pub refusal: &'static [u8],
    /// Nothing is read while a request is being worked on, which saves a system call and a buffer for every request;
    /// a client may end its own side and wait for the answer. Else work for a client that is gone is given up, as
    /// listeners with long answers want.
    pub half_close: bool,
    /// When stopping, requests under way get this long to finish.
    pub drain: Duration,
    /// Shows the open connections.
    pub connections: Gauge,
    /// Counts the connections refused.
    pub refused: Counter,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(20),
            headers_max: 64,
            head_bytes_max: 32 << 10,
            connections_max: 10_000,
            refusal: b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            half_close: false,
            drain: Duration::from_secs(20),
            connections: Gauge::noop(),
            refused: Counter::noop(),
        }
    }
}

/// Where a request came from: an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Serves `app` on `listener` until `shutdown`: then nothing new is accepted, requests under way are
/// answered, and what is left after the drain time is cut off. Returns when all connections are closed.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    options: ServeOptions,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .half_close(options.half_close)
        .max_headers(options.headers_max)
        .max_buf_size(options.head_bytes_max.max(8_192));
    let places = Arc::new(Semaphore::new(options.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, Peer(peer.ip())),
                Err(error) => {
                    after_failed_accept(&error).await;
                    continue;
                }
            },
        };
        // Those that ended are forgotten, or the set would grow for ever.
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            options.refused.increment(1);
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                let refusal = options.refusal;
                connections.spawn(async move {
                    refuse(stream, refusal).await;
                    drop(place);
                });
            }
            continue;
        };
        // Answers are small and complete: waiting to fill a packet only costs time.
        let _unsupported = stream.set_nodelay(true);
        let service = TowerToHyperService::new(Extension(peer).layer(app.clone()));
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let gauge = options.connections.clone();
        // A token of its own: all connections polling one would fight for its lock.
        let stop = shutdown.child_token();
        connections.spawn(async move {
            let _place = place;
            let _open = Open::count(gauge);
            run(connection, stop).await;
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(options.drain, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests under way at the end of the drain time are cut off"
        );
    }
    connections.shutdown().await;
}

/// Serves one connection; told to stop, it finishes the request under way and closes.
async fn run<S>(connection: http1::Connection<TokioIo<TcpStream>, S>, stop: CancellationToken)
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = axum::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The peer went away or spoke no HTTP: its affair, and too common to log louder.
        tracing::debug!(%error, "connection ended");
    }
}

/// Counts a connection while it lives.
struct Open(Gauge);

impl Open {
    fn count(gauge: Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Says no and closes. The client's bytes are read until it closes too: closing over unread bytes resets
/// the connection, and the client would not see the answer.
async fn refuse(mut stream: TcpStream, refusal: &'static [u8]) {
    let farewell = async {
        stream.write_all(refusal).await?;
        stream.shutdown().await?;
        let mut sink = [0; 4_096];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the client heard it, was gone already or never closes: nothing more is owed.
    let _done = tokio::time::timeout(REFUSE_TIME_MAX, farewell).await;
}

async fn after_failed_accept(error: &io::Error) {
    use io::ErrorKind as K;
    if matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted
    ) {
        return;
    }
    tracing::error!(%error, "cannot accept connections");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use axum::routing::any;
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;

    /// A listener with an echo at `/` and, at `/wait`, an answer that comes when the test says so.
    struct Served {
        address: SocketAddr,
        shutdown: CancellationToken,
        entered: Arc<Notify>,
        go: Arc<Notify>,
        task: JoinHandle<()>,
    }

    async fn served(options: ServeOptions) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, wait) = (Arc::clone(&entered), Arc::clone(&go));
        let app = Router::new()
            .route("/", any(|body: String| async { body }))
            .route(
                "/wait",
                any(|| async move {
                    told.notify_one();
                    wait.notified().await;
                    "done"
                }),
            );
        Served {
            address,
            entered,
            go,
            task: tokio::spawn(serve(listener, app, options, shutdown.clone())),
            shutdown,
        }
    }

    impl Served {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        /// Sends these bytes and reads until the server closes.
        async fn talk(&self, bytes: &[u8]) -> String {
            let mut stream = self.connect().await;
            // The server may close before it has read all.
            let _reset = stream.write_all(bytes).await;
            rest(&mut stream).await
        }
    }

    async fn rest(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _end = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    const HELLO: &[u8] = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi";

    #[tokio::test]
    async fn a_head_that_does_not_come_is_not_waited_for() {
        let served = served(ServeOptions {
            head_timeout: Duration::from_millis(100),
            ..ServeOptions::default()
        })
        .await;
        let started = Instant::now();
        for half in [&b""[..], b"POST / HT", b"POST / HTTP/1.1\r\nhost: h\r\nx: "] {
            let answer = served.talk(half).await;
            assert!(!answer.contains("200"), "{answer}");
        }
        assert!(
            served.talk(HELLO).await.ends_with("hi"),
            "kept open, then idle, then closed"
        );
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn heads_are_bounded_and_malformed_requests_close() {
        let served = served(ServeOptions {
            head_timeout: Duration::from_secs(1),
            ..ServeOptions::default()
        })
        .await;
        let many = format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "a: b\r\n".repeat(64));
        assert!(
            served
                .talk(many.as_bytes())
                .await
                .starts_with("HTTP/1.1 431")
        );
        let large = format!(
            "GET / HTTP/1.1\r\nhost: h\r\na: {}\r\n\r\n",
            "b".repeat(100_000)
        );
        // What was not read of it may reset the connection before the answer is seen.
        let answer = served.talk(large.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer:.80}"
        );
        for bad in [
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi!",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: xchunked\r\n\r\nhi",
            "POST / HTTP/1.1\r\nhost: h\r\na: b\r\n c\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhi",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            let answer = served.talk(bad.as_bytes()).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
                "{bad:?}: {answer}"
            );
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so_and_a_place_is_given_back() {
        let served = served(ServeOptions {
            connections_max: 1,
            refusal: b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\n\r\n",
            ..ServeOptions::default()
        })
        .await;
        let mut first = served.connect().await;
        first
            .write_all(b"POST /wait HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        served.entered.notified().await;
        assert!(served.talk(HELLO).await.starts_with("HTTP/1.1 429"));
        served.go.notify_one();
        assert!(rest(&mut first).await.ends_with("done"));
        // The place is free a moment after the client sees the end.
        let mut tries = 0;
        while !served
            .talk(b"GET / HTTP/1.0\r\n\r\n")
            .await
            .starts_with("HTTP/1.0 200")
        {
            tries += 1;
            assert!(tries < 1_000);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_client_may_end_its_own_side_and_wait_for_the_answer_where_that_is_wanted() {
        for (half_close, wanted) in [(true, "done"), (false, "")] {
            let served = served(ServeOptions {
                half_close,
                ..ServeOptions::default()
            })
            .await;
            let mut client = served.connect().await;
            client
                .write_all(b"POST /wait HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            served.entered.notified().await;
            client.shutdown().await.unwrap();
            if half_close {
                served.go.notify_one();
            }
            let answer = rest(&mut client).await;
            assert!(answer.ends_with(wanted), "{answer}");
            assert_eq!(answer.is_empty(), wanted.is_empty(), "{answer}");
        }
    }

    #[tokio::test]
    async fn stopping_answers_what_is_under_way_and_takes_nothing_new() {
        let served = served(ServeOptions::default()).await;
        let mut idle = served.connect().await;
        let mut busy = served.connect().await;
        busy.write_all(b"POST /wait HTTP/1.1\r\nhost: h\r\n\r\n")
            .await
            .unwrap();
        served.entered.notified().await;
        served.shutdown.cancel();
        assert_eq!(rest(&mut idle).await, "");
        served.go.notify_one();
        let answer = rest(&mut busy).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"),
            "{answer}"
        );
        served.task.await.unwrap();
        assert!(TcpStream::connect(served.address).await.is_err());
    }

    #[tokio::test]
    async fn what_outlasts_the_drain_time_is_cut_off() {
        let served = served(ServeOptions {
            drain: Duration::from_millis(50),
            ..ServeOptions::default()
        })
        .await;
        let mut busy = served.connect().await;
        busy.write_all(b"POST /wait HTTP/1.1\r\nhost: h\r\n\r\n")
            .await
            .unwrap();
        served.entered.notified().await;
        served.shutdown.cancel();
        assert_eq!(rest(&mut busy).await, "");
        served.task.await.unwrap();
    }
}
