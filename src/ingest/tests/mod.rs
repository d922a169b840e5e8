//! The door as a client sees it, with a journal that is a list.

mod calls;
mod decide;
mod decisions;
mod impressions;
mod permits;
mod refusals;
mod sdks;

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
    datafiles: datafile::Shared,
    segments: Arc<decide::FakeSegments>,
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

/// What the answer to a batch rejects, as (index, code, path).
fn rejected(answer: &Value) -> Vec<(u64, &str, &str)> {
    answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap();
            (one["index"].as_u64().unwrap(), text("code"), text("path"))
        })
        .collect()
}

fn source(id: &str, rate: Option<u32>, enabled: bool) -> Arc<Source> {
    Arc::new(Source {
        id: id.to_owned(),
        name: id.to_owned(),
        rate,
        permits: crate::registry::Permits::default(),
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
    let datafiles = datafile::Shared::default();
    let segments = Arc::new(decide::FakeSegments::default());
    let router = routes(Gate {
        backend: Arc::clone(&kept),
        keys: auth::Keys::new(Arc::clone(&view), limits.source_rate),
        clock: Arc::clone(&clock) as SharedClock,
        random: Arc::new(|| 4),
        held: body::Held::new(limits.held_bytes_max),
        limits,
        draining: Arc::clone(&draining),
        webhooks: Some(Arc::new(Hooks)),
        rules: Arc::new(crate::event::decision::NoRules),
        datafiles: datafiles.clone(),
        segments: Some(Arc::clone(&segments) as Arc<dyn Segments>),
        meters: meter::Meters::default(),
    });
    Door {
        router,
        kept,
        view,
        clock,
        draining,
        datafiles,
        segments,
    }
}

impl Door {
    /// As [`Self::send_any`], for calls any page may make.
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let answer = self.send_any(method, path, headers, body).await;
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        answer
    }

    async fn send_any(
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
