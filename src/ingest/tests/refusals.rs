//! What is turned away, how, and that nothing of it is kept.

use super::*;

#[tokio::test]
async fn bad_requests_are_refused_with_the_right_status_and_place() {
    let deep = |levels: usize| {
        let (open, close) = (r#"{"a":"#.repeat(levels), "}".repeat(levels));
        format!(r#"{{"userId":"u","event":"e","properties":{open}1{close}}}"#)
    };
    let batch = |events: usize| format!(r#"{{"batch":[{}1]}}"#, "1,".repeat(events - 1));
    let packed = gzip(EVENT.as_bytes());
    let twice = [&packed[..], &packed[..]].concat();
    let mut damaged = packed.clone();
    let tail = damaged.len() - 6;
    damaged[tail] ^= 0x40;
    let bomb = gzip(&vec![b' '; 50 << 20]);
    let mut not_utf8 = EVENT.as_bytes().to_vec();
    not_utf8[10] = 0xff;
    let wide = format!(r#"{{"pad":"{}"}}"#, "x".repeat(501 << 10));
    for (path, encoding, body, status, code) in [
        ("/v1/track", "", b"".to_vec(), 400, "bad_json"),
        ("/v1/track", "", b"{\"a\":1".to_vec(), 400, "bad_json"),
        ("/v1/track", "", b"{} {}".to_vec(), 400, "bad_json"),
        ("/v1/track", "", b"{\"n\":NaN}".to_vec(), 400, "bad_json"),
        (
            "/v1/track",
            "",
            b"{\"n\":\"\x00\"}".to_vec(),
            400,
            "bad_json",
        ),
        ("/v1/track", "", b"[]".to_vec(), 400, "not_an_object"),
        ("/v1/track", "", not_utf8, 400, "not_utf8"),
        ("/v1/track", "", deep(127).into_bytes(), 400, "bad_json"),
        ("/v1/track", "", deep(60_000).into_bytes(), 400, "bad_json"),
        ("/v1/track", "", wide.into_bytes(), 413, "body_too_large"),
        ("/v1/batch", "", b"{}".to_vec(), 400, "missing_batch"),
        (
            "/v1/batch",
            "",
            batch(2_501).into_bytes(),
            413,
            "batch_too_large",
        ),
        ("/v1/track", "br", packed.clone(), 415, "unknown_encoding"),
        (
            "/v1/track",
            "gzip, gzip",
            packed.clone(),
            415,
            "unknown_encoding",
        ),
        (
            "/v1/track",
            "gzip",
            EVENT.as_bytes().to_vec(),
            400,
            "bad_gzip",
        ),
        ("/v1/track", "gzip", b"".to_vec(), 400, "bad_gzip"),
        (
            "/v1/track",
            "gzip",
            packed[..packed.len() - 1].to_vec(),
            400,
            "bad_gzip",
        ),
        ("/v1/track", "gzip", packed[..20].to_vec(), 400, "bad_gzip"),
        ("/v1/track", "gzip", twice, 400, "bad_gzip"),
        ("/v1/track", "gzip", damaged, 400, "bad_gzip"),
        ("/v1/track", "gzip", bomb, 413, "body_too_large"),
    ] {
        let door = door();
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let headers = [("x-write-key", KEY), ("content-encoding", encoding)];
        // As one piece and, as chunked bodies come, in many.
        let pieces: Vec<_> = body
            .chunks(1_000)
            .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
            .collect();
        for body in [
            Body::from(body.clone()),
            Body::from_stream(futures_util::stream::iter(pieces)),
        ] {
            let answer = door.send("POST", path, &headers, body).await;
            assert_eq!(
                (answer.status, &*answer.code()),
                (status, code),
                "{path} {encoding} {shown}"
            );
            assert!(door.events().is_empty());
        }
    }
    assert_eq!(
        door().post("/v1/track", deep(125)).await.json()["accepted"],
        1
    );
    assert_eq!(
        door().post("/v1/batch", batch(2_500)).await.json()["rejected"]
            .as_array()
            .unwrap()
            .len(),
        2_500
    );
    let answer = door()
        .post(
            "/v1/batch",
            "{\"batch\":[{},\n {\"properties\":{\"total\":01}}]}",
        )
        .await;
    let document = answer.json();
    assert_eq!(document["path"], "/batch/1/properties/total");
    assert_eq!(
        (&document["line"], &document["column"]),
        (&json!(2), &json!(26))
    );
    assert!(
        document["message"]
            .as_str()
            .unwrap()
            .contains("/batch/1/properties/total"),
        "{document}"
    );
}

#[tokio::test]
async fn not_now_is_429_or_503_with_a_whole_number_of_seconds() {
    for (error, status, code) in [
        (AppendError::Busy, 429, "busy"),
        (AppendError::Full, 429, "disk_full"),
        (
            AppendError::Failed("EIO on /secret/path".into()),
            503,
            "store_stopped",
        ),
        (AppendError::Closed, 503, "store_stopped"),
    ] {
        let door = door();
        *door.kept.fails.lock() = Some(error);
        let answer = door.post("/v1/track", EVENT).await;
        assert_eq!((answer.status, &*answer.code()), (status, code));
        assert!((1..=30).contains(&answer.retry_after()));
        assert!(!answer.text.contains("secret"));
    }
    let door = door();
    door.draining.store(true, Ordering::Relaxed);
    let answer = door.post("/v1/track", EVENT).await;
    assert_eq!((answer.status, &*answer.code()), (503, "draining"));
    assert_eq!(answer.headers["connection"], "close");
    assert!((1..=30).contains(&answer.retry_after()));
}

#[tokio::test]
async fn a_source_without_a_rate_has_the_one_of_the_settings() {
    let door = door_with(Options {
        source_rate: Some(5),
        ..Options::default()
    });
    let statuses = |key: &'static str| {
        let door = &door;
        async move {
            let batch =
                json!({"batch": vec![json!({"type": "page", "userId": "u"}); 8]}).to_string();
            let first = door
                .send("POST", "/v1/b", &[("x-write-key", key)], batch)
                .await;
            let second = door
                .send("POST", "/v1/t", &[("x-write-key", key)], EVENT)
                .await;
            (
                first.status,
                second.status,
                second.headers.get("ratelimit-policy").cloned(),
            )
        }
    };
    let policy = |text: &'static str| Some(axum::http::HeaderValue::from_static(text));
    assert_eq!(
        statuses(KEY).await,
        (200, 429, policy("\"source\";q=5;w=1"))
    );
    // Its own is ten a second: eight at once leave room for one more.
    assert_eq!(statuses("slow").await.1, 200);
}

#[tokio::test]
async fn a_source_may_post_so_many_events_a_second() {
    let door = door();
    let slow = [("x-write-key", "slow")];
    let batch = json!({"batch": vec![json!({"type": "page", "userId": "u"}); 40]}).to_string();
    assert_eq!(
        door.send("POST", "/v1/b", &slow, batch.clone())
            .await
            .status,
        200
    );
    let answer = door.send("POST", "/v1/t", &slow, EVENT).await;
    assert_eq!((answer.status, &*answer.code()), (429, "rate_limited"));
    assert!(
        (4..=6).contains(&answer.retry_after()),
        "{}",
        answer.retry_after()
    );
    assert_eq!(answer.headers["ratelimit-policy"], "\"source\";q=10;w=1");
    assert_eq!(
        door.post("/v1/t", EVENT).await.status,
        200,
        "other sources are not held back"
    );
    // What was spent stays spent when something else changes.
    let (_, mut sources) = (0, View::clone(&door.view.load()));
    sources.integrations.clear();
    door.view.store(Arc::new(sources));
    assert_eq!(door.send("POST", "/v1/t", &slow, EVENT).await.status, 429);
    door.clock.advance(4_000);
    assert_eq!(
        door.send("POST", "/v1/b", &slow, batch).await.status,
        200,
        "larger than a second's worth, yet let in"
    );
}

#[tokio::test]
async fn a_slow_body_is_answered_408_and_the_connection_closed() {
    let door = door_with(Options {
        body_timeout: Duration::from_millis(30),
        ..Options::default()
    });
    let started = Instant::now();
    let first = futures_util::stream::once(async {
        Ok::<_, std::io::Error>(Bytes::from_static(b"{\"a\""))
    });
    let slow = Body::from_stream(futures_util::StreamExt::chain(
        first,
        futures_util::stream::pending(),
    ));
    let answer = door.post("/v1/track", slow).await;
    assert_eq!((answer.status, &*answer.code()), (408, "body_timeout"));
    assert_eq!(answer.headers["connection"], "close");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn all_bodies_together_are_bounded_and_give_their_share_back() {
    let door = door_with(Options {
        held_bytes_max: 100,
        ..Options::default()
    });
    for _ in 0..5 {
        assert_eq!(door.post("/v1/track", EVENT).await.status, 200);
        assert_eq!(door.post("/v1/track", " ".repeat(101)).await.code(), "busy");
    }
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let answer = door()
        .post(
            "/v1/track",
            r#"{"event":"e","userId":"u","messageId":"panic"}"#,
        )
        .await;
    assert_eq!((answer.status, &*answer.code()), (500, "internal"));
}

#[test]
fn the_refusal_of_a_connection_is_a_whole_answer() {
    let text = std::str::from_utf8(CONNECTION_REFUSED).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len()))
            || head.ends_with(&format!("content-length: {}", body.len())),
        "{}",
        body.len()
    );
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap()["code"],
        "connections"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_requests_get_an_answer(body in prop::collection::vec(any::<u8>(), 0..200), packed: bool, path in "(/v1/(batch|track|m|[a-z]{0,3})|/api/s/[a-z0-9/]{0,6}|/[ -~&&[^?#%<>\"{}|^`\\\\ ]]{0,12})") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let encoding = if packed { "gzip" } else { "" };
        let answer = runtime.block_on(door().send("POST", &path, &[("x-write-key", KEY), ("content-encoding", encoding)], body));
        prop_assert!(answer.status < 500 || answer.status == 501, "{}", answer.text);
    }
}

#[tokio::test]
async fn the_sender_of_a_body_far_too_large_sees_the_answer() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let options = crate::net::ServeOptions::default();
    let serving = tokio::spawn(crate::net::serve(
        listener,
        door().router,
        options,
        stop.clone(),
    ));
    let head = format!("POST /v1/batch HTTP/1.1\r\nhost: h\r\nx-write-key: {KEY}\r\n");
    let announced = format!(
        "{head}content-length: 2000000\r\n\r\n{}",
        " ".repeat(2_000_000)
    );
    let chunked = format!(
        "{head}transfer-encoding: chunked\r\n\r\n{}",
        format!("8000\r\n{}\r\n", " ".repeat(0x8000)).repeat(60) + "0\r\n\r\n"
    );
    for request in [announced, chunked] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    stop.cancel();
    serving.await.unwrap();
}
