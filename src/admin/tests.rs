//! The management API through its router, over a registry and a journal in a temporary directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::openapi;
use super::testing::{Idle, api};
use crate::clock::{ManualClock, SharedClock};
use crate::journal::{
    self, DeadLetter, FeedStart, Journal, Options, Outcome, Record, Settle, Tally,
};
use crate::registry::audit::Actor;
use crate::registry::checks::DocumentFault;
use crate::registry::random::Random;
use crate::registry::testing::Outside;
use crate::registry::{self, Given, Registry, Role};
use crate::secret::Secret;

mod access;
mod alerts;
mod document;
mod install;
mod limits;
mod statuses;

const ADMIN: &str = "adm_token_of_the_tests";
const RATE: u32 = 1_000;
const SDK_KEY: &str = "sdkkey_4711_verysecret";

struct Api {
    router: Router,
    registry: Registry,
    journal: Journal,
    outside: Arc<Outside>,
    delivery: Arc<Idle>,
    clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
}

fn datafile() -> Value {
    json!({ "version": "4", "accountId": "12345678", "projectId": "98765432", "revision": "7",
            "events": [{ "id": "1", "key": "signup", "experimentIds": [] }], "attributes": [] })
}

/// The body of seed 001, with a key that can be searched for.
fn seed_body() -> Value {
    json!({
        "name": "Optimizely",
        "variant": "default",
        "config": {
            "account_id": "12345678",
            "project_id": "98765432",
            "sdk_key": SDK_KEY,
            "datafile_url": format!("https://cdn.optimizely.com/datafiles/{SDK_KEY}.json"),
        },
        "delivery_mode": "server_side",
    })
}

/// Randomness that is the same every time.
fn counting() -> Random {
    let next = std::sync::atomic::AtomicU64::new(1);
    Random::new(move |bytes| {
        for byte in bytes {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            *byte = u8::try_from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).unwrap_or(0);
        }
    })
}

impl Api {
    fn new() -> Self {
        Self::drawing(Random::system())
    }

    fn drawing(random: Random) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::over(dir, ManualClock::at(1_795_183_407_412), random)
    }

    /// The same after a restart.
    async fn again(self) -> Self {
        self.journal.close().await;
        let Self { dir, clock, .. } = self;
        Self::over(dir, clock, Random::system())
    }

    fn over(dir: tempfile::TempDir, time: Arc<ManualClock>, random: Random) -> Self {
        let clock: SharedClock = Arc::<ManualClock>::clone(&time);
        let journal = journal::testing::open(dir.path(), Options::default(), Arc::clone(&clock));
        let outside = Outside::answering(datafile());
        let given = Given {
            admin_token: Some(Secret::new(ADMIN)),
            write_key: None,
        };
        let checks = registry::testing::checks(&outside, Arc::new(journal.clone()));
        let registry =
            registry::testing::open(dir.path(), &given, Arc::clone(&clock), random, checks);
        let delivery = Arc::new(Idle::default());
        let router = api(dir.path(), &registry, &journal, &delivery, clock, RATE);
        Self {
            router,
            registry,
            journal,
            outside,
            delivery,
            clock: time,
            dir,
        }
    }

    async fn raw(&self, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        // A stream of events has no end: only its beginning is looked at.
        let is_stream = head
            .headers
            .get("content-type")
            .is_some_and(|kind| kind == "text/event-stream");
        let body = if is_stream { Body::empty() } else { body };
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(head.headers["x-content-type-options"], "nosniff");
        assert_eq!(head.headers["cache-control"], "no-store");
        if head.status.as_u16() >= 400 {
            assert_eq!(
                head.headers["content-type"], "application/problem+json",
                "{text}"
            );
            let problem: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(problem["status"], head.status.as_u16());
            assert!(problem["code"].is_string() && problem["message"].is_string());
        }
        (head.status, head.headers, text)
    }

    async fn as_token(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/admin/{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let (status, _, text) = self.raw(request.body(body).unwrap()).await;
        let value = serde_json::from_str(&text).unwrap_or(Value::Null);
        (status.as_u16(), value)
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.as_token(ADMIN, method, path, body).await
    }

    async fn ok(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    async fn installed(&self) -> String {
        let answer = self
            .ok(
                "POST",
                "integration-catalog/optimizely/install",
                Some(seed_body()),
            )
            .await;
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The faults of a refused install, as (field, code), in order of their fields.
    async fn refused_install(&self, body: Value) -> BTreeMap<String, String> {
        let (status, answer) = self
            .call("POST", "integration-catalog/optimizely/install", Some(body))
            .await;
        assert_eq!(status, 422, "{answer}");
        assert!(!answer.to_string().contains(SDK_KEY), "{answer}");
        answer["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fault| {
                (
                    fault["field"].as_str().unwrap().to_owned(),
                    fault["code"].as_str().unwrap().to_owned(),
                )
            })
            .collect()
    }
}

fn faults(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected
        .iter()
        .map(|(field, code)| ((*field).to_owned(), (*code).to_owned()))
        .collect()
}

#[tokio::test]
async fn every_error_is_a_problem_document() {
    let api = Api::new();
    let request = |method: &str, path: &str, kind: Option<&str>, body: &str| {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {ADMIN}"));
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        request.body(Body::from(body.to_owned())).unwrap()
    };
    let json = Some("application/json");
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20));
    for (status, code, request) in [
        (
            404,
            "not_found",
            request("GET", "/v1/admin/nothing", None, ""),
        ),
        (
            405,
            "method_not_allowed",
            request("PUT", "/v1/admin/sources", json, "{}"),
        ),
        (
            415,
            "unsupported_media_type",
            request("POST", "/v1/admin/sources", None, "{}"),
        ),
        (
            400,
            "malformed_json",
            request("POST", "/v1/admin/sources", json, "{\"name\":"),
        ),
        (
            422,
            "invalid_fields",
            request("POST", "/v1/admin/sources", json, "{\"nam\":1}"),
        ),
        (
            413,
            "body_too_large",
            request("POST", "/v1/admin/sources", json, &long),
        ),
        (
            422,
            "invalid_query",
            request("GET", "/v1/admin/sources?page=2", None, ""),
        ),
        (
            422,
            "invalid_fields",
            request("GET", "/v1/admin/sources?limit=101", None, ""),
        ),
        (
            422,
            "invalid_fields",
            request("GET", "/v1/admin/events/live?last=501", None, ""),
        ),
        (
            400,
            "bad_request",
            request("GET", "/v1/admin/sources/%ff", None, ""),
        ),
    ] {
        let uri = request.uri().clone();
        let (found, headers, text) = api.raw(request).await;
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (found.as_u16(), problem["code"].as_str()),
            (status, Some(code)),
            "{uri}: {text}"
        );
        assert_eq!(headers.contains_key("allow"), status == 405);
    }
}

#[tokio::test]
async fn every_change_is_written_down_and_so_is_every_refusal() {
    let api = Api::new();
    let id = api.installed().await;
    api.refused_install(json!({})).await;
    api.ok(
        "POST",
        &format!("integrations/{id}/pause"),
        Some(json!({ "reason": "holiday" })),
    )
    .await;
    let paused = api.ok("GET", &format!("integrations/{id}"), None).await;
    assert_eq!(
        (&paused["status"]["state"], &paused["paused"]["reason"]),
        (&json!("paused"), &json!("holiday"))
    );
    api.ok("POST", &format!("integrations/{id}/resume"), None)
        .await;
    assert_eq!(*api.delivery.0.lock(), [id.as_str()]);
    let test = format!("integrations/{id}/test");
    assert_eq!(api.ok("POST", &test, None).await["trials"], json!([]));
    assert_eq!(
        api.call("POST", &test, Some(json!({ "event": "impossible" })))
            .await
            .0,
        422
    );
    let viewer = api
        .registry
        .create_token(&Actor::cli(), "v", Role::Viewer, None)
        .await
        .unwrap();
    api.as_token(
        viewer.expose(),
        "DELETE",
        &format!("integrations/{id}"),
        None,
    )
    .await;

    let audit = api.ok("GET", "audit?limit=8", None).await;
    let deeds: Vec<_> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["action"].as_str().unwrap(),
                row["result"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        deeds,
        [
            ("request", "forbidden"),
            ("token.create", "ok"),
            ("integration.test", "not_sent"),
            ("integration.test", "ok"),
            ("integration.resume", "ok"),
            ("integration.pause", "ok"),
            ("integration.install", "invalid_fields"),
            ("integration.install", "ok"),
        ]
    );
    assert_eq!(audit["has_more"], true);
    assert_eq!(audit["data"][5]["before"]["paused"], Value::Null);
    assert_eq!(audit["data"][5]["after"]["paused"]["reason"], "holiday");
    assert_eq!(api.ok("GET", "audit/verify", None).await["intact"], true);
}

/// Appends one signup and returns its number.
async fn accepted(api: &Api, message_id: &str) -> u64 {
    let source = api.registry.picture().sources[0].source.id.clone();
    let posted = json!({ "type": "track", "event": "signup", "userId": "u", "source": source,
                         "messageId": message_id,
                         "properties": serde_json::from_str::<Value>(r#"{ "total": 89.990 }"#).unwrap() });
    let event = super::story::event_as_posted(posted.as_object().unwrap().clone(), 5).unwrap();
    let record = Record {
        fingerprint: api.journal.fingerprint(&source, message_id),
        bytes: serde_json::to_vec(&event.fields).unwrap().into(),
    };
    api.journal.append(vec![record]).await.unwrap();
    *api.journal.end().borrow() - 1
}

/// Settles an event as dead for a feed; the vendor's answer holds a secret.
async fn given_up(api: &Api, feed: &str, seq: u64) {
    let entry = api.journal.get(seq).await.unwrap().unwrap();
    let dead = DeadLetter {
        id: 0,
        feed: feed.to_owned(),
        seq,
        at_ms: entry.at_ms,
        reason: "rejected".to_owned(),
        detail: "the vendor refused it".to_owned(),
        attempts: 1,
        status: Some(400),
        answer: format!("bad visitor {SDK_KEY}"),
        parts_done: 0,
        record: entry.bytes,
    };
    let settle = Settle {
        feed: feed.to_owned(),
        done: std::iter::once(seq..seq + 1).collect(),
        tallies: vec![Tally {
            outcome: Outcome::Dead,
            reason: "rejected".to_owned(),
            n: 1,
        }],
        dead: vec![dead],
        ..Settle::default()
    };
    api.journal.settle(settle).await.unwrap();
}

/// Appends one signup that is dead for a feed.
async fn dead(api: &Api, feed: &str, message_id: &str) {
    let seq = accepted(api, message_id).await;
    given_up(api, feed, seq).await;
}

#[tokio::test]
async fn an_events_story_its_dead_letter_and_its_replay() {
    let api = Api::new();
    let id = api.installed().await;
    let seq = accepted(&api, "m-1").await;
    let story = api.ok("GET", "events/m-1", None).await;
    let event = &story["events"][0];
    assert_eq!(event["event"]["properties"]["total"].to_string(), "89.990");
    let chapter = &event["integrations"][0];
    assert_eq!(
        (&chapter["integration"], &chapter["outcome"]),
        (&json!(id), &json!("pending"))
    );
    assert_eq!(
        chapter["mapping"]["requests"][0]["request"], "conversion",
        "{chapter}"
    );
    assert_eq!(api.call("GET", "events/m-2", None).await.0, 404);

    let (status, answer) = api
        .call("DELETE", &format!("integrations/{id}"), None)
        .await;
    assert_eq!((status, &answer["code"]), (409, &json!("not_empty")));
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .starts_with("1 events wait"),
        "{answer}"
    );

    given_up(&api, &id, seq).await;
    let letters = api
        .ok("GET", &format!("dead-letters?integration={id}"), None)
        .await;
    let letter = &letters["data"][0];
    assert_eq!(
        (&letter["message_id"], &letter["status"], &letter["answer"]),
        (&json!("m-1"), &json!(400), &json!("bad visitor …"))
    );
    let story = api.ok("GET", "events/m-1", None).await;
    let chapter = &story["events"][0]["integrations"][0];
    assert_eq!(
        (&chapter["outcome"], &chapter["reason"]),
        (&json!("dead"), &json!("rejected"))
    );

    let filter = |dry_run: bool| json!({ "integration": id, "ids": [letter["id"]], "dry_run": dry_run, "rate": 0.5 });
    let dry = api
        .ok("POST", "dead-letters/replay", Some(filter(true)))
        .await;
    assert_eq!(
        (&dry["matched"], &dry["state"], &dry["id"]),
        (&json!(1), &json!("counted"), &Value::Null)
    );
    let (status, replay) = api
        .call("POST", "dead-letters/replay", Some(filter(false)))
        .await;
    assert_eq!(
        (status, &replay["state"], &replay["waiting"]),
        (202, &json!("running"), &json!(1)),
        "{replay}"
    );
    let path = format!("replays/{}", replay["id"].as_str().unwrap());
    let chapter = &api.ok("GET", "events/m-1", None).await["events"][0]["integrations"][0];
    assert_eq!(
        (&chapter["outcome"], &chapter["reason"]),
        (&json!("pending"), &json!("replay")),
        "{chapter}"
    );
    let cancelled = api.ok("DELETE", &path, None).await;
    assert_eq!(
        (&cancelled["state"], &cancelled["cancelled"]),
        (&json!("cancelled"), &json!(1))
    );
    assert_eq!(api.ok("GET", &path, None).await["state"], "cancelled");
    let ledger = api.ok("GET", "ledger", None).await;
    assert_eq!(
        (&ledger["balanced"], &ledger["data"][0]["dead"]),
        (&json!(true), &json!(1))
    );
    let (status, answer) = api
        .call(
            "POST",
            "dead-letters/replay",
            Some(json!({ "integration": "int_x", "ids": ["x"], "rate": 0 })),
        )
        .await;
    assert_eq!(
        (status, answer["errors"].as_array().unwrap().len()),
        (422, 3),
        "{answer}"
    );

    assert_eq!(
        api.call("DELETE", &format!("integrations/{id}?force=true"), None)
            .await
            .0,
        204
    );
    assert!(api.journal.ledger().await.unwrap().is_empty());
    assert!(api.registry.view().load().integrations.is_empty());
    assert!(
        api.journal
            .open_feed(&id, FeedStart::Now)
            .await
            .unwrap()
            .start
            > seq
    );
}

#[tokio::test]
async fn trying_shows_the_whole_request_without_secrets() {
    let api = Api::new();
    let id = api.installed().await;
    let body = json!({
        "integration": id,
        "documents": { "event_ids": datafile(), "attribute_ids": datafile(), "datafile": datafile() },
        "event": { "event": "signup", "userId": "u-1", "messageId": "m", "properties": { "revenue": 19.99 } },
    });
    let tried = api.ok("POST", "blueprints/try", Some(body)).await;
    let part = &tried["requests"][0];
    assert_eq!(part["result"], "item", "{tried}");
    assert_eq!(part["sent_as"]["method"], "POST");
    let text = part["item"].to_string();
    assert!(text.contains("1999"), "{text}");
    assert!(!part["made_by"].as_array().unwrap().is_empty());
    let (status, answer) = api
        .call(
            "POST",
            "blueprints/try",
            Some(json!({ "event": { "type": "x" } })),
        )
        .await;
    assert_eq!(
        (status, &answer["errors"][0]["field"]),
        (422, &json!("event.type"))
    );
}

#[test]
fn the_document_is_whole() {
    fn refs<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| refs(field, found));
            }
            Value::Array(rows) => rows.iter().for_each(|row| refs(row, found)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut found = Vec::new();
    refs(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let place = reference.strip_prefix('#').unwrap();
        assert!(
            document.pointer(place).is_some(),
            "{reference} leads nowhere"
        );
    }
}
