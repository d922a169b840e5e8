//! The door as a client sees it, with a journal that is a list.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::http::Request as HttpRequest;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;

use super::*;
use crate::clock::ManualClock;
use crate::event::Event;
use crate::registry::{Source, View};

const NOW: i64 = 1_795_223_290_000;
const KEY: &str = "WRITEKEY_TEST";

/// What the door handed on, and what the journal is to answer.
#[derive(Default)]
struct Kept {
    records: Mutex<Vec<Record>>,
    rejected: Mutex<Vec<Rejected>>,
    fails: Mutex<Option<AppendError>>,
}

impl Backend for Arc<Kept> {
    fn fingerprint(&self, source: &str, message_id: &str) -> u64 {
        assert_ne!(message_id, "panic", "a test wants to see what a panic does");
        (source.len() + message_id.len()) as u64
    }

    async fn append(&self, records: Vec<Record>) -> Result<Appended, AppendError> {
        if let Some(error) = self.fails.lock().clone() {
            return Err(error);
        }
        let stored = records.len() as u64;
        self.records.lock().extend(records);
        Ok(Appended {
            stored,
            duplicates: 0,
        })
    }

    fn rejected(&self, rejected: Rejected) {
        self.rejected.lock().push(rejected);
    }
}

struct Hooks;

impl WebhookSink for Hooks {
    fn optimizely(&self, integration: &str, signature: Option<&str>, body: &[u8]) -> WebhookAnswer {
        match (integration, signature, body) {
            ("int_1", Some("sha1=ok"), b"{}") => WebhookAnswer::NoContent,
            ("int_1", Some("sha1=ok"), _) => WebhookAnswer::Malformed,
            ("int_1", _, _) => WebhookAnswer::BadSignature,
            _ => WebhookAnswer::Unknown,
        }
    }
}

struct Door {
    router: Router,
    kept: Arc<Kept>,
    view: SharedView,
    clock: Arc<ManualClock>,
    draining: Arc<AtomicBool>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn code(&self) -> String {
        let document = self.json();
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(document["status"], self.status);
        assert_eq!(document["detail"], document["message"]);
        assert!(document["title"].is_string() && document["type"].is_string());
        document["code"].as_str().unwrap().to_owned()
    }

    fn retry_after(&self) -> u64 {
        self.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    }
}

fn source(id: &str, rate: Option<u32>, enabled: bool) -> Arc<Source> {
    Arc::new(Source {
        id: id.to_owned(),
        name: id.to_owned(),
        rate,
        enabled,
        created_at_ms: 0,
    })
}

fn view(keys: &[(&str, Arc<Source>)]) -> Arc<View> {
    let sources_by_key: HashMap<[u8; 32], Arc<Source>> = keys
        .iter()
        .map(|(key, source)| (Sha256::digest(key.as_bytes()).into(), Arc::clone(source)))
        .collect();
    Arc::new(View {
        sources_by_key,
        ..View::default()
    })
}

fn door() -> Door {
    door_with(Options::default())
}

fn door_with(limits: Options) -> Door {
    let kept = Arc::new(Kept::default());
    let clock = ManualClock::at(NOW);
    let draining = Arc::new(AtomicBool::new(false));
    let view: SharedView = Arc::new(ArcSwap::from(view(&[
        (KEY, source("src_1", None, true)),
        ("kid", source("src_kid", None, true)),
        ("whole:key", source("src_whole", None, true)),
        ("slow", source("src_slow", Some(10), true)),
        ("off", source("src_off", None, false)),
    ])));
    let router = routes(Gate {
        backend: Arc::clone(&kept),
        keys: auth::Keys::new(Arc::clone(&view)),
        clock: Arc::clone(&clock) as SharedClock,
        random: Arc::new(|| 4),
        held: body::Held::new(limits.held_bytes_max),
        limits,
        draining: Arc::clone(&draining),
        webhooks: Some(Arc::new(Hooks)),
        meters: meter::Meters::default(),
    });
    Door {
        router,
        kept,
        view,
        clock,
        draining,
    }
}

impl Door {
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = HttpRequest::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(
            headers["access-control-expose-headers"]
                .to_str()
                .unwrap()
                .contains("Retry-After")
        );
        assert!(
            !(300..400).contains(&status),
            "SDKs take a redirect for success"
        );
        Answer {
            status,
            headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send("POST", path, &[("x-write-key", KEY)], body).await
    }

    fn events(&self) -> Vec<Event> {
        let records = self.kept.records.lock();
        records
            .iter()
            .map(|record| Event::decode(&record.bytes).unwrap())
            .collect()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const EVENT: &str = r#"{"event":"e","userId":"u","messageId":"m"}"#;

#[tokio::test]
async fn recorded_requests_of_stock_sdks_are_all_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/segment");
    let mut posts = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let requests: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for request in requests {
            let door = door();
            let method = request["method"].as_str().unwrap();
            let url = request["url"].as_str().unwrap();
            let at = format!("{} seq {}", path.display(), request["seq"]);
            let headers: Vec<(&str, &str)> = request["rawHeaders"]
                .as_array()
                .unwrap()
                .iter()
                .map(|line| {
                    line.as_str()
                        .unwrap()
                        .split_once(": ")
                        .unwrap_or(("x-none", ""))
                })
                .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
                .collect();
            let mut body = match &request["body"] {
                Value::String(text) => text.clone().into_bytes(),
                body => serde_json::to_vec(body).unwrap(),
            };
            if request["gzip"] == "gzip" {
                body = gzip(&body);
            }
            let answer = door.send(method, url, &headers, body).await;
            match method {
                "OPTIONS" => {
                    assert_eq!((answer.status, &*answer.text), (204, ""), "{at}");
                    let allowed = answer.headers["access-control-allow-headers"]
                        .to_str()
                        .unwrap();
                    let asked = headers
                        .iter()
                        .find(|(name, _)| *name == "Access-Control-Request-Headers")
                        .unwrap()
                        .1;
                    for header in asked.split(',') {
                        assert!(
                            allowed.split(", ").any(|name| name == header),
                            "{at}: {header}"
                        );
                    }
                    assert_eq!(answer.headers["access-control-max-age"], "7200");
                }
                "GET" => {
                    assert_eq!(answer.status, 200, "{at}");
                    let segment = &answer.json()["integrations"]["Segment.io"];
                    assert_eq!(segment["apiHost"], "127.0.0.1:18981/v1", "{at}");
                    assert_eq!(segment["protocol"], "http", "{at}");
                    assert_eq!(answer.json()["metrics"]["sampleRate"], 0);
                }
                _ => {
                    posts += 1;
                    let single = vec![request["body"].clone()];
                    let posted = request["body"]["batch"].as_array().unwrap_or(&single);
                    let wanted = json!({"success": true, "accepted": posted.len(), "rejected": []});
                    assert_eq!((answer.status, answer.json()), (200, wanted), "{at}");
                    for (event, posted) in door.events().iter().zip(posted) {
                        assert_eq!(
                            event.kind.as_str(),
                            posted["type"].as_str().unwrap(),
                            "{at}"
                        );
                        assert_eq!(
                            event.message_id,
                            posted["messageId"].as_str().unwrap(),
                            "{at}"
                        );
                        for key in [
                            "event",
                            "properties",
                            "traits",
                            "context",
                            "groupId",
                            "previousId",
                            "name",
                        ] {
                            assert_eq!(event.field(key), posted.get(key), "{at} {key}");
                        }
                    }
                }
            }
        }
    }
    assert!(posts > 40, "{posts}");
}

#[tokio::test]
async fn every_route_takes_its_call() {
    let door = door();
    let batch = format!(r#"{{"batch":[{{"type":"track",{}]}}"#, &EVENT[1..]);
    for (path, body, kind) in [
        ("/v1/track", EVENT, "track"),
        ("/v1/t", EVENT, "track"),
        ("/v1/t/", EVENT, "track"),
        ("//v1/identify", EVENT, "identify"),
        ("/v1/i", EVENT, "identify"),
        ("/v1/page", EVENT, "page"),
        ("/v1/p", EVENT, "page"),
        ("/v1/screen?x=y", EVENT, "screen"),
        ("/v1/s", EVENT, "screen"),
        ("/v1/group", EVENT, "group"),
        ("/v1/g", EVENT, "group"),
        ("/v1/alias", EVENT, "alias"),
        ("/v1/a", EVENT, "alias"),
        ("/v1/batch/", &batch, "track"),
        ("/v1/b", &batch, "track"),
        ("/v1/import", &batch, "track"),
        ("/api/s/page", EVENT, "page"),
        ("/api/s/s2s/group", EVENT, "group"),
        (
            "/api/s/s2s/event",
            r#"{"type":"page","userId":"u"}"#,
            "page",
        ),
    ] {
        let answer = door.post(path, body.to_owned()).await;
        assert_eq!(
            answer.text, r#"{"success":true,"accepted":1,"rejected":[]}"#,
            "{path}"
        );
        assert_eq!(door.events().last().unwrap().kind.as_str(), kind, "{path}");
    }
    let stored = door.events().len();
    assert_eq!(
        door.send("POST", "/v1/m", &[], r#"{"series":[]}"#)
            .await
            .status,
        200
    );
    assert_eq!(
        door.post("/v1/batch", r#"{"batch":[]}"#).await.json()["accepted"],
        0
    );
    assert_eq!(door.events().len(), stored);
    for (method, path, status, code) in [
        ("GET", "/v1/track", 405, "method_not_allowed"),
        ("PUT", "/v1/batch", 405, "method_not_allowed"),
        ("POST", "/v1/projects/k/settings", 405, "method_not_allowed"),
        ("GET", "/v1/projects/a b/settings", 400, "bad_request"),
        ("GET", "/", 404, "no_such_route"),
        ("OPTIONS", "/v2/track", 404, "no_such_route"),
        ("POST", "/v1/tracks", 404, "no_such_route"),
        ("POST", "/v1/decision", 501, "not_available_yet"),
        ("POST", "/v1/decide", 501, "not_available_yet"),
        (
            "POST",
            "/v1/webhooks/lytics/src_1",
            501,
            "not_available_yet",
        ),
    ] {
        let answer = door.send(method, &path.replace(' ', "%20"), &[], "").await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (status, code),
            "{method} {path}"
        );
        assert_eq!(
            answer.headers.contains_key("allow"),
            status == 405,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_write_key_may_come_in_every_way_and_the_header_wins() {
    // base64: `WRITEKEY_TEST:`, without colon, `kid:secret`, `nobody:`, `:`
    for (headers, in_body, wanted) in [
        (
            vec![("authorization", "Basic V1JJVEVLRVlfVEVTVDo=")],
            None,
            Ok("src_1"),
        ),
        (
            vec![("authorization", "basic V1JJVEVLRVlfVEVTVA")],
            None,
            Ok("src_1"),
        ),
        (
            vec![("authorization", "Basic a2lkOnNlY3JldA==")],
            None,
            Ok("src_kid"),
        ),
        (
            vec![("authorization", "Bearer WRITEKEY_TEST")],
            None,
            Ok("src_1"),
        ),
        (vec![("x-write-key", "kid:secret")], None, Ok("src_kid")),
        (vec![("x-write-key", "whole:key")], None, Ok("src_whole")),
        (vec![("x-write-key", "kid")], Some(KEY), Ok("src_kid")),
        (
            vec![("authorization", "Basic Og=="), ("x-write-key", "kid")],
            None,
            Ok("src_kid"),
        ),
        (
            vec![("authorization", "Digest abc")],
            Some(KEY),
            Ok("src_1"),
        ),
        (
            vec![("authorization", "Basic Og==")],
            Some("kid:x"),
            Ok("src_kid"),
        ),
        (vec![], Some(KEY), Ok("src_1")),
        (
            vec![("authorization", "Basic bm9ib2R5Og==")],
            Some(KEY),
            Err("unknown_write_key"),
        ),
        (
            vec![("authorization", "Basic !!!")],
            Some(KEY),
            Err("unknown_write_key"),
        ),
        (
            vec![("authorization", "Bearer WRITEKEY_TES")],
            None,
            Err("unknown_write_key"),
        ),
        (vec![("x-write-key", "off")], None, Err("source_disabled")),
        (vec![("x-write-key", "")], None, Err("missing_write_key")),
        (vec![], Some("nobody"), Err("unknown_write_key")),
        (vec![], Some(""), Err("missing_write_key")),
        (vec![], None, Err("missing_write_key")),
    ] {
        let door = door();
        let body = json!({"event": "e", "userId": "u", "writeKey": in_body}).to_string();
        // Twice: the second time the header's text is remembered.
        for _ in 0..2 {
            let answer = door.send("POST", "/v1/track", &headers, body.clone()).await;
            match wanted {
                Ok(source) => {
                    assert_eq!(
                        answer.status, 200,
                        "{headers:?} {in_body:?} {}",
                        answer.text
                    );
                    assert_eq!(door.events().last().unwrap().source, source, "{headers:?}");
                }
                Err(code) => {
                    assert_eq!((answer.status, &*answer.code()), (401, code), "{headers:?}");
                    assert!(answer.headers.contains_key("www-authenticate"));
                    assert!(!answer.text.contains("nobody") && !answer.text.contains("WRITEKEY"));
                }
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_key_is_refused_before_the_body_is_read() {
    let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let answer = door()
        .send("POST", "/v1/batch", &[("x-write-key", "nobody")], never)
        .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_changed_view_counts_at_once() {
    let door = door();
    assert_eq!(door.post("/v1/t", EVENT).await.status, 200);
    door.view
        .store(view(&[("kid", source("src_kid", None, true))]));
    assert_eq!(door.post("/v1/t", EVENT).await.status, 401);
    door.view
        .store(view(&[(KEY, source("src_new", None, true))]));
    assert_eq!(door.post("/v1/t", EVENT).await.status, 200);
    assert_eq!(door.events().last().unwrap().source, "src_new");
}

#[tokio::test]
async fn bad_requests_are_refused_with_the_right_status_and_place() {
    let deep = |levels: usize| {
        format!(
            r#"{{"userId":"u","event":"e","properties":{}{}}}"#,
            r#"{"a":"#.repeat(levels),
            format!("1{}", "}".repeat(levels))
        )
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
async fn a_bad_event_harms_nobody_else() {
    let door = door();
    let large = "x".repeat(33_000);
    let batch = json!({"writeKey": "nobody", "batch": [
        {"type": "track", "event": "e", "userId": "u"},
        {"type": "track", "event": "e", "writeKey": "hide-me"},
        {"type": "track", "event": "e", "userId": "u", "properties": {"x": large}},
        {"type": "track", "event": "e", "userId": "u", "messageId": 5},
        {"type": "page", "anonymousId": "a", "properties": [1]},
        "nonsense",
        {"type": "page", "anonymousId": "a"},
    ]});
    let answer = door.post("/v1/batch", batch.to_string()).await;
    assert_eq!(answer.status, 200);
    let document = answer.json();
    assert_eq!(
        (&document["success"], &document["accepted"]),
        (&json!(true), &json!(2))
    );
    let listed: Vec<_> = document["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["index"].as_u64().unwrap(),
                one["code"].as_str().unwrap(),
                one["path"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        listed,
        [
            (1, "missing_identity", "/batch/1"),
            (2, "event_too_large", "/batch/2"),
            (3, "wrong_type", "/batch/3/messageId"),
            (4, "wrong_type", "/batch/4/properties"),
            (5, "wrong_type", "/batch/5"),
        ]
    );
    assert_eq!(door.events().len(), 2);
    {
        let rejected = door.kept.rejected.lock();
        assert_eq!(rejected.len(), 5);
        assert!(
            rejected
                .iter()
                .all(|one| one.body.len() <= 4 << 10 && one.source == "src_1" && one.at_ms == NOW)
        );
        assert!(!String::from_utf8_lossy(&rejected[0].body).contains("hide-me"));
    }
    // A single call is treated alike: any 4xx would make SDKs complain of the whole.
    let answer = door.post("/v1/track", r#"{"event":"e"}"#).await;
    let document = answer.json();
    assert_eq!((answer.status, &document["accepted"]), (200, &json!(0)));
    assert_eq!(document["rejected"][0]["code"], "missing_identity");
    // Nothing is logged for a request that has to come again.
    *door.kept.fails.lock() = Some(AppendError::Busy);
    assert_eq!(door.post("/v1/batch", batch.to_string()).await.status, 429);
    assert_eq!(door.kept.rejected.lock().len(), 6);
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
async fn a_webhook_is_handed_on_as_it_is() {
    let door = door();
    for (path, signature, body, status) in [
        ("/v1/webhooks/optimizely/int_1", "sha1=ok", "{}", 204),
        ("/v1/webhooks/optimizely/int_1/", "sha1=ok", "[]", 400),
        ("/v1/webhooks/optimizely/int_1", "sha1=no", "{}", 401),
        ("/v1/webhooks/optimizely/int_2", "sha1=ok", "{}", 404),
    ] {
        let answer = door
            .send("POST", path, &[("x-hub-signature", signature)], body)
            .await;
        assert_eq!(answer.status, status, "{path} {signature}");
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
