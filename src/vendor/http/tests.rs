//! The client against a server that behaves badly in one way at a time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{
    ANSWER_BYTES_MAX, Answer, Client, RETRY_AFTER_MAX, SendError, SendErrorKind, retry_after,
};
use crate::blueprint::Request;
use crate::clock::SystemClock;
use crate::secret::Secret;
use crate::vendor::guard::Guard;

/// A server that does to every connection what `behave` says; counts connections.
fn stub(behave: fn(TcpStream)) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            seen.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || behave(stream));
        }
    });
    (addr, count)
}

fn read_request(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 1_024];
    while !seen.windows(6).any(|at| at == b"[body]") {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => seen.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
}

fn client(allow: &[&str]) -> Client {
    let guard = Arc::new(Guard::parse(allow).unwrap());
    Client::new(guard, "aqueduct/test", Arc::new(SystemClock)).unwrap()
}

fn post(url: &str) -> Request {
    Request {
        name: "r".into(),
        method: "POST".into(),
        url: Secret::new(url),
        headers: vec![("content-type".into(), Secret::new("application/json"))],
        body: "[body]".into(),
    }
}

async fn send(addr: SocketAddr, timeout_ms: u64) -> Result<Answer, SendError> {
    let request = post(&format!("http://{addr}/v1/key_0123456789"));
    client(&["127.0.0.1/32"])
        .send(&request, Duration::from_millis(timeout_ms))
        .await
}

#[tokio::test]
async fn an_answer_is_read_with_what_matters_of_its_head() {
    let (addr, _) = stub(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(
            b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\nno",
        );
    });
    let answer = send(addr, 5_000).await.unwrap();
    assert_eq!(
        (answer.status, answer.retry_after),
        (429, Some(Duration::from_secs(7)))
    );
    assert_eq!(
        (answer.body.as_ref(), answer.cut),
        (b"no".as_slice(), false)
    );
    assert_eq!(answer.etag.as_deref(), Some("\"x\""));
}

#[tokio::test]
async fn redirects_are_answers_and_never_followed() {
    let (inner, inner_hits) = stub(|_| {});
    static TARGET: std::sync::OnceLock<SocketAddr> = std::sync::OnceLock::new();
    TARGET.set(inner).unwrap();
    let (addr, _) = stub(|mut stream| {
        read_request(&mut stream);
        let target = TARGET.get().unwrap();
        let _ = write!(
            stream,
            "HTTP/1.1 307 Go\r\nLocation: http://{target}/\r\nContent-Length: 0\r\n\r\n"
        );
    });
    assert_eq!(send(addr, 5_000).await.unwrap().status, 307);
    assert_eq!(inner_hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn endless_and_dripping_answers_end() {
    let (endless, _) = stub(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 8_192]).is_ok() {}
    });
    let answer = send(endless, 5_000).await.unwrap();
    assert_eq!((answer.body.len(), answer.cut), (ANSWER_BYTES_MAX, true));

    let (drip, _) = stub(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n");
        while stream.write_all(b".").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(
        send(drip, 200).await.unwrap_err().kind,
        SendErrorKind::Timeout
    );

    let (silent, _) = stub(|mut stream| {
        let _ = stream.read(&mut [0; 1 << 16]);
        std::thread::sleep(Duration::from_secs(2));
    });
    assert_eq!(
        send(silent, 200).await.unwrap_err().kind,
        SendErrorKind::Timeout
    );
}

#[tokio::test]
async fn compressed_answers_are_not_unpacked() {
    let (addr, _) = stub(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
        );
    });
    assert_eq!(
        send(addr, 5_000).await.unwrap().body.as_ref(),
        b"\x1f\x8b\x08\x00"
    );
}

#[tokio::test]
async fn failures_are_told_apart_and_never_show_the_address() {
    let (cut, cut_hits) = stub(|mut stream| read_request(&mut stream));
    let (garbage, _) = stub(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
    });
    let (short, _) = stub(|mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nhalf");
    });
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (addr, kind) in [
        (cut, SendErrorKind::Reset),
        (garbage, SendErrorKind::Malformed),
        (short, SendErrorKind::Reset),
        (gone, SendErrorKind::Connect),
    ] {
        let error = send(addr, 5_000).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error:?}");
        assert!(!error.message.contains("key_0123456789"), "{error:?}");
    }
    assert_eq!(
        cut_hits.load(Ordering::SeqCst),
        1,
        "nothing is sent twice behind our back"
    );
    // A TLS hello is answered in plain text.
    let (plain, _) = stub(|mut stream| {
        let _ = stream.read(&mut [0; 1_024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let request = post(&format!("https://{plain}/"));
    let error = client(&["127.0.0.1/32"])
        .send(&request, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Tls, "{error:?}");
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_place_is_not_dialled() {
    let (addr, hits) = stub(|_| {});
    // The name itself is listed for one port only, so plain `localhost` names are refused before any look-up …
    let guarded = client(&[]);
    let port = addr.port();
    for url in [
        format!("https://localhost:{port}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("https://127.1:{port}/"),
    ] {
        let error = guarded
            .send(&post(&url), Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Blocked, "{url}");
    }
    // … and what a name resolves to is judged when it is dialled.
    use reqwest::dns::Resolve as _;
    let resolver =
        super::GuardedResolver::new(guarded.guard().clone(), Arc::new(super::SystemNames));
    let Err(error) = resolver.resolve("localhost".parse().unwrap()).await else {
        panic!("localhost was admitted");
    };
    assert!(error.to_string().contains("(loopback)"), "{error}");
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_no_header_may_hold_is_not_sent() {
    let (addr, hits) = stub(|_| {});
    let mut request = post(&format!("http://{addr}/"));
    request
        .headers
        .push(("x-key".into(), Secret::new("a\r\nX-Evil: 1")));
    let error = client(&["127.0.0.1/32"])
        .send(&request, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Malformed);
    assert!(!error.message.contains("Evil") && hits.load(Ordering::SeqCst) == 0);
}

#[test]
fn retry_after_is_read_and_clamped() {
    // 1994-11-06T08:49:37Z, the date of the RFC.
    const AT: i64 = 784_111_777_000;
    let secs = |n| Some(Duration::from_secs(n));
    for (value, expected) in [
        ("120", secs(120)),
        (" 1 ", secs(1)),
        ("0", None),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1.5", None),
        ("315360000", Some(RETRY_AFTER_MAX)),
        ("99999999999999999999999999", Some(RETRY_AFTER_MAX)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", secs(60)),
        ("Sunday, 06-Nov-94 08:50:37 GMT", secs(60)),
        ("Sun Nov  6 08:50:37 1994", secs(60)),
        ("Sun, 06 Nov 2094 08:49:37 GMT", Some(RETRY_AFTER_MAX)),
        ("Sun, 06 Nov 1994 08:49:36 GMT", None),
        ("Sun, 99 Nov 1994 08:49:36 GMT", None),
    ] {
        assert_eq!(retry_after(value, AT), expected, "{value:?}");
    }
}

proptest::proptest! {
    #[test]
    fn retry_after_never_panics_and_never_exceeds_the_cap(value in ".{0,40}", now: i64) {
        if let Some(wait) = retry_after(&value, now) {
            proptest::prop_assert!(wait > Duration::ZERO && wait <= RETRY_AFTER_MAX);
        }
    }
}
