//! Every status the document names is reached, call by call.

use std::pin::pin;
use std::time::Duration;

use super::document::calls;
use super::limits::exhausted;
use super::*;

/// How often two calls are sent at once until one finds the other under way.
const TURNS_MAX: u32 = 50;

/// A gateway with one of everything, and how to reach each status of each call.
struct Ground {
    api: Api,
    document: Value,
    id: String,
    source: String,
    replay: String,
    viewer: String,
    spent: String,
}

impl Ground {
    async fn new() -> Self {
        let api = Api::new();
        let document: Value = serde_json::from_str(&openapi()).unwrap();
        let source = api
            .ok("POST", "sources", Some(json!({ "name": "shop" })))
            .await;
        let source = source["id"].as_str().unwrap().to_owned();
        let mut install = seed_body();
        install["sources"] = json!([source]);
        let view = api
            .ok(
                "POST",
                "integration-catalog/optimizely/install",
                Some(install),
            )
            .await;
        let id = view["id"].as_str().unwrap().to_owned();
        dead(&api, &id, "m-1").await;
        let replay = api.ok("POST", "dead-letters/replay", Some(json!({}))).await;
        let viewer = api
            .registry
            .create_token(&Actor::cli(), "v", Role::Viewer, None)
            .await
            .unwrap();
        let spent = exhausted(&api).await;
        Self {
            document,
            id,
            source,
            replay: replay["id"].as_str().unwrap().to_owned(),
            viewer: viewer.expose().to_owned(),
            spent,
            api,
        }
    }

    /// A path with ids of things that are there.
    fn filled(&self, path: &str) -> String {
        let own = match path {
            _ if path.starts_with("/v1/admin/sources") => &self.source,
            _ if path.starts_with("/v1/admin/replays") => &self.replay,
            _ => &self.id,
        };
        path.replace("{id}", own)
            .replace("{integration}", &self.id)
            .replace("{vendor}", "optimizely")
            .replace("{n}", "1")
            .replace("{message_id}", "m-1")
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> u16 {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Body::from(body.to_owned());
        let (status, _, _) = self.api.raw(request.body(body).unwrap()).await;
        status.as_u16()
    }

    /// The status of the errors that follow from a call's shape.
    async fn refused(&self, status: u16, method: &str, path: &str, call: &Value) -> u16 {
        let json = [("content-type", "application/json")];
        let example = call
            .pointer("/requestBody/content/application~1json/example")
            .map(Value::to_string);
        let has_body = call.get("requestBody").is_some();
        let there = self.filled(path);
        let nobody = path
            .split('/')
            .map(|part| {
                if part.starts_with('{') {
                    "nobody"
                } else {
                    part
                }
            })
            .collect::<Vec<_>>()
            .join("/");
        match status {
            401 => self.send(method, &there, "", &[], "").await,
            403 => self.send(method, &there, &self.viewer, &[], "").await,
            429 => self.send(method, &there, &self.spent, &[], "").await,
            404 => {
                let body = example.unwrap_or_default();
                let nobody = match path.contains('{') {
                    true => nobody,
                    false => nobody + "?endpoint=nobody",
                };
                self.send(method, &nobody, ADMIN, &json, &body).await
            }
            400 if has_body => self.send(method, &there, ADMIN, &json, "{").await,
            400 => {
                let path = nobody.replace("nobody", "%ff");
                self.send(method, &path, ADMIN, &[], "").await
            }
            413 => {
                let long = format!("\"{}\"", "x".repeat(2 << 20));
                self.send(method, &there, ADMIN, &json, &long).await
            }
            415 => {
                let image = [("content-type", "image/png")];
                self.send(method, &there, ADMIN, &image, "x").await
            }
            422 if has_body => self.send(method, &there, ADMIN, &json, "\"text\"").await,
            422 => {
                let path = format!("{there}?nonsense=1");
                self.send(method, &path, ADMIN, &[], "").await
            }
            501 => self.send(method, &there, ADMIN, &[], "").await,
            other => panic!("{method} {path}: how to reach {other}?"),
        }
    }

    /// Two of the same with one key at once: the second is told so.
    async fn collide(&self, method: &str, path: &str, call: &Value) -> u16 {
        let mut body = call["requestBody"]["content"]["application/json"]["example"].clone();
        if body.get("ids").is_some() {
            body = json!({ "dry_run": true });
        } else if body.get("name").is_some() {
            body["name"] = json!("Another");
        }
        let (path, body) = (self.filled(path), body.to_string());
        let mut found = 0;
        for turn in 0..TURNS_MAX {
            // A key is the token's, whatever the call.
            let key = format!("{}-{turn}", path.replace('/', "-"));
            let headers = [
                ("content-type", "application/json"),
                ("idempotency-key", key.as_str()),
            ];
            let send = || self.send(method, &path, ADMIN, &headers, &body);
            found = self.at_once(send(), send()).await;
            if found == 409 {
                break;
            }
        }
        found
    }

    /// The greater status of two calls of which neither changes anything before both had time to look.
    async fn at_once(
        &self,
        one: impl Future<Output = u16>,
        other: impl Future<Output = u16>,
    ) -> u16 {
        let held = self.api.registry.hold_changes().await;
        let mut both = pin!(futures_util::future::join(one, other));
        let looked = tokio::time::timeout(Duration::from_millis(50), &mut both).await;
        drop(held);
        let (one, other) = match looked {
            Ok(both) => both,
            Err(_) => both.await,
        };
        one.max(other)
    }

    /// Conflicts of each call's own.
    async fn conflict(&self, method: &str, path: &str, call: &Value) -> u16 {
        let there = self.filled(path);
        let json = [("content-type", "application/json")];
        let text = crate::blueprint::builtin()
            .iter()
            .find(|(name, _)| *name == "optimizely/default")
            .map_or("", |(_, text)| *text);
        let body = match path.rsplit('/').next().unwrap() {
            "test" => json!({ "event": "unknown" }),
            "blueprint" => json!({ "text": text }),
            "rollback" => json!({ "revision": 1 }),
            "{id}" if method == "PATCH" => json!({ "name": "Renamed" }),
            "{id}" => return self.send(method, &there, ADMIN, &[], "").await,
            _ => return self.collide(method, path, call).await,
        }
        .to_string();
        let send = || self.send(method, &there, ADMIN, &json, &body);
        let mut found = 0;
        for _ in 0..TURNS_MAX {
            found = self.at_once(send(), send()).await;
            if found == 409 {
                break;
            }
        }
        found
    }
}

#[tokio::test]
async fn every_documented_refusal_is_reached() {
    let ground = Ground::new().await;
    let mut reached = 0;
    let mut others = Vec::new();
    for (method, path, call) in calls(&ground.document) {
        for status in call["responses"].as_object().unwrap().keys() {
            let status: u16 = status.parse().unwrap();
            // Answers that worked: the examples. What fails with the disk: the test below.
            if status < 400 || [500, 503].contains(&status) {
                continue;
            }
            let found = if status == 409 {
                ground.conflict(&method, &path, &call).await
            } else {
                ground.refused(status, &method, &path, &call).await
            };
            if found != status {
                others.push(format!("{method} {path}: {found} instead of {status}"));
            }
            reached += 1;
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    assert!(reached > 150, "{reached}");
}

#[tokio::test]
async fn every_documented_failure_is_reached() {
    let ground = Ground::new().await;
    let documented = |status: &'static str| {
        calls(&ground.document)
            .into_iter()
            .filter(move |(_, _, call)| call["responses"].get(status).is_some())
    };
    let json = [("content-type", "application/json")];
    ground.api.journal.close().await;
    let broken = rusqlite::Connection::open(ground.api.dir.path().join("assignments.db")).unwrap();
    broken
        .execute_batch("PRAGMA foreign_keys=OFF; ALTER TABLE assignment RENAME TO gone")
        .unwrap();
    let mut others = Vec::new();
    for (method, path, call) in documented("503") {
        if path.ends_with("/events/live") || path.ends_with("/dead-letters/replay") {
            // Too many streams; letters left to replay: neither is so here.
            continue;
        }
        let there = match path.as_str() {
            "/v1/admin/integrations/{id}" if method == "DELETE" => {
                ground.filled(&path) + "?force=true"
            }
            path => ground.filled(path),
        };
        let body = match path.rsplit('/').next().unwrap() {
            "install" => {
                let mut body = seed_body();
                body["name"] = json!("Another");
                body
            }
            "replay" => json!({}),
            _ => call["requestBody"].clone(),
        };
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let status = ground.send(&method, &there, ADMIN, &json, &body).await;
        if status != 503 {
            others.push(format!("{method} {path}: {status}"));
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    let control = rusqlite::Connection::open(ground.api.dir.path().join("control.db")).unwrap();
    control
        .execute_batch("ALTER TABLE tokens RENAME TO gone")
        .unwrap();
    for (method, path, _) in documented("500") {
        // Each call finds the database changed by another process, and cannot read it.
        control
            .execute_batch("PRAGMA user_version = 1; PRAGMA user_version = 0")
            .unwrap();
        let there = ground.filled(&path);
        let status = ground.send(&method, &there, ADMIN, &[], "").await;
        assert_eq!(status, 500, "{method} {path}");
    }
}
