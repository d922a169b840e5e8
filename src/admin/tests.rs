//! The management API through its router, over a registry and a journal in a temporary directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{DeliveryControl, Parts, openapi, router};
use crate::blueprint::Tables;
use crate::clock::{ManualClock, SharedClock};
use crate::delivery::status::Status;
use crate::delivery::{Trial, TrialError};
use crate::journal::store::sqlite::SqliteStore;
use crate::journal::{DeadLetter, FeedStart, Journal, Options, Outcome, Record, Settle, Tally};
use crate::logbook::Logbook;
use crate::registry::audit::Actor;
use crate::registry::checks::{Checks, DocumentCheck, DocumentFault};
use crate::registry::random::Random;
use crate::registry::seal::KeyRing;
use crate::registry::{Given, Registry, Rehearsal, Role};
use crate::secret::Secret;
use crate::vendor::guard::Guard;

const ADMIN: &str = "adm_token_of_the_tests";
const SDK_KEY: &str = "sdkkey_4711_verysecret";

/// Answers every fetch with what the test put there.
#[derive(Debug)]
struct Documents(Mutex<Result<Value, DocumentFault>>);

impl DocumentCheck for Documents {
    fn fetch<'a>(
        &'a self,
        _: &'a Secret,
        _: Option<Secret>,
    ) -> BoxFuture<'a, Result<Value, DocumentFault>> {
        let answer = self.0.lock().clone();
        Box::pin(async move { answer })
    }
}

/// Pipelines that do nothing.
#[derive(Debug, Default)]
struct Idle(Mutex<Vec<String>>);

impl DeliveryControl for Idle {
    fn status<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<Status>> {
        Box::pin(async { None })
    }

    fn sync(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn resume(&self, integration: &str) {
        self.0.lock().push(integration.to_owned());
    }

    fn test<'a>(
        &'a self,
        _: &'a str,
        event: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Trial>, TrialError>> {
        let event = event.map(str::to_owned);
        Box::pin(async move {
            match event.as_deref() {
                Some("impossible") => Err(TrialError::NoTables("not read yet".to_owned())),
                _ => Ok(Vec::new()),
            }
        })
    }

    fn rehearse<'a>(
        &'a self,
        _: &'a Rehearsal,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Trial>, TrialError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn tables(&self, _: &str) -> Arc<Tables> {
        Arc::default()
    }
}

struct Api {
    router: Router,
    registry: Registry,
    journal: Journal,
    documents: Arc<Documents>,
    delivery: Arc<Idle>,
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

impl Api {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: SharedClock = ManualClock::at(1_795_183_407_412);
        let store = SqliteStore::open(dir.path(), [7; 16]).unwrap();
        let journal =
            Journal::open(Box::new(store), Options::default(), Arc::clone(&clock)).unwrap();
        let documents = Arc::new(Documents(Mutex::new(Ok(datafile()))));
        let random = Random::system();
        let given = Given {
            admin_token: Some(Secret::new(ADMIN)),
            write_key: None,
        };
        let checks = Checks {
            urls: Arc::new(Guard::default()),
            documents: Arc::<Documents>::clone(&documents),
            feeds: Arc::new(journal.clone()),
            vendor: crate::vendor::by_name,
            builtin: crate::blueprint::builtin(),
        };
        let ring = KeyRing::load(dir.path(), None, &random).unwrap();
        let (registry, _) =
            Registry::open(dir.path(), ring, &given, Arc::clone(&clock), random, checks).unwrap();
        let delivery = Arc::new(Idle::default());
        let router = router(Parts {
            registry: registry.clone(),
            journal: journal.clone(),
            delivery: Arc::<Idle>::clone(&delivery),
            logbook: Logbook::none(),
            clock,
        });
        Self {
            router,
            registry,
            journal,
            documents,
            delivery,
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
async fn the_seeds_install_works_as_it_stands() {
    let api = Api::new();
    let (status, answer) = api
        .call(
            "POST",
            "integration-catalog/optimizely/install",
            Some(seed_body()),
        )
        .await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["name"], "Optimizely");
    assert_eq!(answer["delivery_mode"], "server_side");
    assert_eq!(answer["config"]["account_id"], "12345678");
    assert_eq!(
        answer["config"]["sdk_key"],
        json!({ "set": true, "hint": "…cret" })
    );
    assert!(answer.get("warnings").is_none(), "{answer}");
    let id = answer["id"].as_str().unwrap();
    assert_eq!(api.registry.view().load().integrations[0].id, id);
    assert!(
        api.journal
            .ledger()
            .await
            .unwrap()
            .iter()
            .any(|row| row.feed == id)
    );
    let list = api.ok("GET", "integrations", None).await;
    assert_eq!(list["data"][0]["id"], id);
    assert_eq!(list["has_more"], false);
    let ledger = api.ok("GET", "ledger", None).await;
    assert_eq!(
        (&ledger["balanced"], &ledger["data"][0]["integration"]),
        (&json!(true), &json!(id))
    );
}

#[tokio::test]
async fn the_catalog_tells_what_an_install_asks() {
    let api = Api::new();
    let entry = api.ok("GET", "integration-catalog/optimizely", None).await;
    assert_eq!(entry["category"], "Analytics");
    let fields = entry["fields"].as_array().unwrap();
    let field = |key: &str| fields.iter().find(|field| field["key"] == key).unwrap();
    assert_eq!(
        (&field("sdk_key")["type"], &field("sdk_key")["required"]),
        (&json!("secret"), &json!(true))
    );
    assert_eq!(field("events_url")["advanced"], true);
    assert_eq!(entry["variants"][0]["variant"], "default");
    let (status, _) = api.call("GET", "integration-catalog/nobody", None).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn all_bad_fields_come_at_once_and_nothing_is_installed() {
    let api = Api::new();
    let found = api
        .refused_install(json!({
            "variant": "fancy",
            "delivery_mode": "client_side",
            "sources": ["src_nobody"],
            "colour": "red",
            "settings": { "in_flight_max": 0, "events_url": "http://10.0.0.1/x", "speed": 1 },
            "config": {
                "account_id": "123\r\nX-Evil: 1",
                "sdk_key": "schlüssel",
                "datafile_url": "https://169.254.169.254/latest",
                "shoe_size": 43,
                "currency": 5,
            },
        }))
        .await;
    let expected = [
        "name",
        "variant",
        "delivery_mode",
        "sources[0]",
        "colour",
        "settings.in_flight_max",
        "settings.events_url",
        "settings.speed",
        "config.account_id",
        "config.sdk_key",
        "config.datafile_url",
        "config.shoe_size",
        "config.currency",
        "config.project_id",
    ];
    for field in expected {
        assert!(found.contains_key(field), "{field} is not in {found:?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
    assert!(api.registry.picture().integrations.is_empty());
    assert!(api.journal.ledger().await.unwrap().is_empty());
    assert_eq!(
        api.refused_install(json!({ "name": "x", "config": [] }))
            .await["config"],
        "wrong_type"
    );
}

#[tokio::test]
async fn a_second_install_of_the_same_name_is_refused() {
    let api = Api::new();
    api.installed().await;
    assert_eq!(
        api.refused_install(seed_body()).await,
        faults(&[("name", "duplicate_name")])
    );
}

#[tokio::test]
async fn a_datafile_is_looked_at_before_anything_is_stored() {
    let api = Api::new();
    let mut other = datafile();
    other["projectId"] = json!("1");
    *api.documents.0.lock() = Ok(other);
    let found = api.refused_install(seed_body()).await;
    assert!(found.contains_key("config.project_id"), "{found:?}");

    *api.documents.0.lock() = Err(DocumentFault::Status(403));
    let found = api.refused_install(seed_body()).await;
    assert_eq!(
        found,
        faults(&[("config.datafile_url", "document_refused")])
    );
    let mut without = seed_body();
    without["config"]
        .as_object_mut()
        .unwrap()
        .shift_remove("datafile_url");
    assert_eq!(
        api.refused_install(without).await,
        faults(&[("config.sdk_key", "document_refused")])
    );
    assert!(api.registry.picture().integrations.is_empty());

    *api.documents.0.lock() = Err(DocumentFault::Unreachable("timeout".to_owned()));
    let answer = api
        .ok(
            "POST",
            "integration-catalog/optimizely/install",
            Some(seed_body()),
        )
        .await;
    assert_eq!(answer["warnings"][0]["code"], "document_unreachable");
}

#[tokio::test]
async fn a_change_merges_and_keeps_what_is_left_out() {
    let api = Api::new();
    let id = api.installed().await;
    let path = format!("integrations/{id}");
    let before = api.ok("GET", &path, None).await;
    // What was read can be sent back as it is: masked values stay.
    let body = json!({ "name": "Renamed", "config": before["config"], "settings": { "timeout_ms": 5000, "events_url": "https://eu.logx.optimizely.com/v1/events" } });
    let after = api.ok("PATCH", &path, Some(body)).await;
    assert_eq!(after["name"], "Renamed");
    assert_eq!(after["settings"]["timeout_ms"], 5000);
    assert_eq!(
        after["settings"]["events_url"],
        "https://eu.logx.optimizely.com/v1/events"
    );
    assert_eq!(after["config"], before["config"]);
    assert!(after["version"].as_u64() > before["version"].as_u64());
    let picture = api.registry.picture();
    let config = &picture.integration(&id).unwrap().config;
    assert_eq!(
        config["sdk_key"],
        crate::blueprint::ConfigValue::Secret(Secret::new(SDK_KEY))
    );
    assert_eq!(
        config["datafile_url"],
        crate::blueprint::ConfigValue::Text(format!(
            "https://cdn.optimizely.com/datafiles/{SDK_KEY}.json"
        ))
    );
    let (status, answer) = api
        .call(
            "PATCH",
            &path,
            Some(json!({ "config": { "account_id": null }, "vendor": "x" })),
        )
        .await;
    assert_eq!(status, 422);
    let fields: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["vendor", "config.account_id"]);
}

#[tokio::test]
async fn every_call_takes_exactly_the_roles_it_names() {
    let api = Api::new();
    let mut tokens = vec![(None, String::new()), (None, "adm_x_y".to_owned())];
    for role in [Role::Viewer, Role::Operator, Role::Editor, Role::Admin] {
        let token = api
            .registry
            .create_token(&Actor::cli(), "matrix", role, None)
            .await
            .unwrap();
        tokens.push((Some(role), token.expose().to_owned()));
    }
    let revoked = api
        .ok(
            "POST",
            "tokens",
            Some(json!({ "name": "x", "role": "admin" })),
        )
        .await;
    let path = format!("tokens/{}", revoked["id"].as_str().unwrap());
    api.ok("DELETE", &path, None).await;
    tokens.push((None, revoked["token"].as_str().unwrap().to_owned()));

    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut cells = 0;
    let mut table = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            let needed: Role = serde_json::from_value(call["x-minimum-role"].clone())
                .unwrap_or_else(|_| panic!("{method} {path} names no role"));
            table.push(format!("{needed:?} {method} {path}").to_lowercase());
            for (role, token) in &tokens {
                let path = path
                    .strip_prefix("/v1/admin/")
                    .unwrap()
                    .replace(['{', '}'], "");
                let method = method.to_uppercase();
                let (status, _) = api.as_token(token, &method, &path, None).await;
                match role {
                    None => assert_eq!(status, 401, "{method} {path} with {token}"),
                    Some(role) if *role < needed => {
                        assert_eq!(status, 403, "{method} {path} as {role:?}");
                    }
                    Some(role) => {
                        assert!(
                            ![401, 403, 405].contains(&status),
                            "{method} {path} as {role:?}"
                        );
                    }
                }
                cells += 1;
            }
        }
    }
    assert!(cells > 200, "{cells}");
    table.sort();
    insta::assert_snapshot!("roles", table.join("\n"));
}

#[tokio::test]
async fn secrets_are_in_no_answer_and_not_in_the_files() {
    let api = Api::new();
    let id = api.installed().await;
    let source = api
        .ok("POST", "sources", Some(json!({ "name": "web" })))
        .await;
    let key = source["write_key"].as_str().unwrap().to_owned();
    let token = api
        .ok(
            "POST",
            "tokens",
            Some(json!({ "name": "ci", "role": "viewer" })),
        )
        .await;
    let token = token["token"]
        .as_str()
        .unwrap()
        .rsplit_once('_')
        .unwrap()
        .1
        .to_owned();
    let new_key = "another_sdk_key_0815";
    api.ok(
        "PATCH",
        &format!("integrations/{id}"),
        Some(json!({ "config": { "sdk_key": new_key, "datafile_url": null } })),
    )
    .await;
    api.ok(
        "POST",
        "blueprints/try",
        Some(json!({ "integration": id, "event": { "event": "signup", "userId": "u" } })),
    )
    .await;

    let secrets = [SDK_KEY, new_key, &key, &token, ADMIN];
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        if item.get("get").is_some() {
            let path = path
                .strip_prefix("/v1/admin/")
                .unwrap()
                .replace("{id}", &id)
                .replace("{vendor}", "optimizely")
                .replace("{n}", "1");
            let (_, answer) = api.call("GET", &path, None).await;
            for secret in secrets {
                assert!(!answer.to_string().contains(secret), "{path}: {answer}");
            }
        }
    }
    let mut read = 0;
    for file in std::fs::read_dir(api.dir.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        read += bytes.len();
        for secret in secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} stands in {}", path.display());
        }
    }
    assert!(read > 10_000);
}

#[tokio::test]
async fn blueprints_have_revisions_and_a_bad_one_never_runs() {
    let api = Api::new();
    let id = api.installed().await;
    let path = format!("integrations/{id}/blueprint");
    let first = api.ok("GET", &path, None).await;
    let text = first["text"].as_str().unwrap();
    let second = text.replace("title: Optimizely", "title: Our Optimizely");
    let answer = api
        .ok(
            "PUT",
            &path,
            Some(json!({ "text": second, "note": "our own title" })),
        )
        .await;
    assert_eq!(answer["blueprint_revision"], 2);

    let (status, answer) = api
        .call(
            "PUT",
            &path,
            Some(json!({ "text": "blueprint: optimizely/default\ntrack: 5\n" })),
        )
        .await;
    assert_eq!((status, &answer["code"]), (422, &json!("blueprint_faults")));
    assert!(answer["diagnostics"][0]["line"].is_u64(), "{answer}");
    assert_eq!(api.ok("GET", &path, None).await["revision"], 2);

    let back = api
        .ok(
            "POST",
            &format!("{path}/rollback"),
            Some(json!({ "revision": 1 })),
        )
        .await;
    assert_eq!(back["blueprint_revision"], 3);
    let list = api.ok("GET", &format!("{path}/revisions"), None).await;
    let numbers: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["revision"].as_u64().unwrap(),
                row["in_use"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(numbers, [(3, true), (2, false), (1, false)]);
    let third = api.ok("GET", &format!("{path}/revisions/3"), None).await;
    assert_eq!(
        (&third["text"], &third["author"]),
        (&first["text"], &json!("adm_setting"))
    );
    let (status, _) = api
        .call(
            "POST",
            &format!("{path}/rollback"),
            Some(json!({ "revision": 9 })),
        )
        .await;
    assert_eq!(status, 404);

    let checked = api
        .ok(
            "POST",
            "blueprints/check",
            Some(json!({ "text": "nonsense: 1" })),
        )
        .await;
    assert_eq!(checked["ok"], false);
    let tested = api
        .ok("POST", "blueprints/test", Some(json!({ "text": text })))
        .await;
    assert_eq!(tested["ok"], true, "{tested}");
    assert!(!tested["examples"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn two_keys_live_while_rotating() {
    let api = Api::new();
    let made = api
        .ok(
            "POST",
            "sources",
            Some(json!({ "name": "web", "rate": 50 })),
        )
        .await;
    let id = made["id"].as_str().unwrap().to_owned();
    let mut keys = vec![made["write_key"].as_str().unwrap().to_owned()];
    for _ in 0..2 {
        let answer = api
            .ok("POST", &format!("sources/{id}/rotate-key"), None)
            .await;
        assert_eq!(answer["keys"].as_array().unwrap().len(), 2);
        keys.push(answer["write_key"].as_str().unwrap().to_owned());
    }
    let live = |key: &str| {
        let hash = crate::registry::picture::sha256(key);
        api.registry
            .view()
            .load()
            .sources_by_key
            .contains_key(&hash)
    };
    assert_eq!(
        keys.iter().map(|key| live(key)).collect::<Vec<_>>(),
        [false, true, true]
    );
    let shown = api.ok("GET", &format!("sources/{id}"), None).await;
    assert!(shown.get("write_key").is_none());
    let old = shown["keys"][0]["id"].as_str().unwrap();
    api.ok("DELETE", &format!("sources/{id}/keys/{old}"), None)
        .await;
    assert_eq!(
        keys.iter().map(|key| live(key)).collect::<Vec<_>>(),
        [false, false, true]
    );

    let mut body = seed_body();
    body["sources"] = json!([id]);
    api.ok("POST", "integration-catalog/optimizely/install", Some(body))
        .await;
    let (status, answer) = api.call("DELETE", &format!("sources/{id}"), None).await;
    assert_eq!((status, &answer["code"]), (409, &json!("source_in_use")));
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
        (501, "not_available_yet", request("GET", "/docs", None, "")),
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

    let entry = api.journal.get(seq).await.unwrap().unwrap();
    let dead = DeadLetter {
        id: 0,
        feed: id.clone(),
        seq,
        at_ms: entry.at_ms,
        reason: "rejected".to_owned(),
        detail: "the vendor refused it".to_owned(),
        attempts: 1,
        status: Some(400),
        answer: format!("bad visitor {SDK_KEY}"),
        record: entry.bytes,
    };
    let settle = Settle {
        feed: id.clone(),
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
