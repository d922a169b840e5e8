//! The OpenAPI document against the router it describes, and its page.

use std::collections::BTreeSet;

use super::*;

/// Every call of a document: method in capitals, path, the rest.
pub(super) fn calls(document: &Value) -> Vec<(String, String, Value)> {
    let mut calls = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, call) in item.as_object().unwrap() {
            assert!(call["responses"].is_object(), "{method} {path}");
            calls.push((method.to_uppercase(), path.clone(), call.clone()));
        }
    }
    calls
}

/// The paths a router has: axum tells them in its debug text only.
fn paths_of(router: &Router) -> BTreeSet<String> {
    let text = format!("{router:?}");
    let paths: BTreeSet<String> = text
        .split('"')
        .skip(1)
        .step_by(2)
        // The fallback, which is no route, stands there as these.
        .filter(|quoted| {
            quoted.starts_with('/') && !["/", "/{*__private__axum_fallback}"].contains(quoted)
        })
        .map(str::to_owned)
        .collect();
    assert!(paths.len() > 30, "axum's debug text has changed: {text}");
    paths
}

#[tokio::test]
async fn every_route_stands_in_the_document_and_nothing_else() {
    let api = Api::new();
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let documented: BTreeSet<(String, String)> = calls(&document)
        .into_iter()
        .map(|(method, path, _)| (path, method))
        .collect();
    let mut routed = BTreeSet::new();
    for path in paths_of(&api.router) {
        // A method nobody has is answered with those there are.
        let request = Request::builder()
            .method("BREW")
            .uri(path.replace(['{', '}'], ""))
            .body(Body::empty())
            .unwrap();
        let (status, headers, _) = api.raw(request).await;
        assert_eq!(status, 405, "{path}");
        for method in headers["allow"].to_str().unwrap().split(',') {
            if method != "HEAD" {
                routed.insert((path.clone(), method.to_owned()));
            }
        }
    }
    assert_eq!(routed, documented);
}

#[test]
fn every_call_says_what_it_takes_and_answers() {
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut names = BTreeSet::new();
    for (method, path, call) in calls(&document) {
        let place = format!("{method} {path}");
        assert!(
            names.insert(call["operationId"].as_str().unwrap().to_owned()),
            "{place}"
        );
        assert!(call["summary"].is_string(), "{place}");
        let tag = &call["tags"][0];
        let tags = document["tags"].as_array().unwrap();
        assert!(tags.iter().any(|known| known["name"] == *tag), "{place}");
        if let Some(body) = call.pointer("/requestBody/content/application~1json") {
            assert!(
                !body["example"].is_null(),
                "{place}: no example of the body"
            );
        }
        for parameter in call["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{place}: {parameter}");
        }
        for (status, answer) in call["responses"].as_object().unwrap() {
            assert!(status.parse::<u16>().is_ok(), "{place}: {status}");
            assert!(answer["description"].is_string(), "{place} {status}");
        }
    }
}

#[tokio::test]
async fn the_page_shows_every_call_and_lets_no_script_run() {
    let api = Api::new();
    let request = Request::builder().uri("/docs").body(Body::empty()).unwrap();
    let (status, headers, page) = api.raw(request).await;
    assert_eq!(
        (status.as_u16(), &headers["content-type"]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"));
    assert!(!policy.contains("unsafe") && !policy.contains("script"));
    assert!(!page.contains("<script") && !page.contains(" src=") && !page.contains(" style="));
    let outside = page
        .split("href=\"")
        .skip(1)
        .filter(|link| !link.starts_with('#') && !link.starts_with("/openapi.json\""));
    assert_eq!(outside.count(), 0);
    let ids: Vec<&str> = page
        .split("id=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "an anchor stands twice");
    for link in page.split("href=\"#").skip(1) {
        let name = link.split('"').next().unwrap();
        assert!(unique.contains(name), "#{name} leads nowhere");
    }
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    for (method, path, call) in calls(&document) {
        let id = call["operationId"].as_str().unwrap();
        assert!(unique.contains(id), "{method} {path} is not on the page");
    }
}

/// Where the examples are kept.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/examples.json");

/// Calls made one after the other, and what they answered.
struct Walk {
    api: Api,
    examples: serde_json::Map<String, Value>,
}

/// Long texts (whole blueprints) and long lists by their beginning.
fn short(value: &Value) -> Value {
    match value {
        Value::String(text) if text.chars().count() > 400 => {
            let lines: Vec<&str> = text.lines().take(3).collect();
            json!(format!("{}\n…", lines.join("\n")))
        }
        Value::Array(rows) => rows.iter().take(2).map(short).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), short(value)))
            .collect(),
        other => other.clone(),
    }
}

impl Walk {
    async fn step(
        &mut self,
        method: &str,
        path: &str,
        parameters: Value,
        request: Option<Value>,
    ) -> Value {
        let mut filled = path.to_owned();
        for (name, value) in parameters.as_object().unwrap() {
            filled = filled.replace(&format!("{{{name}}}"), value.as_str().unwrap());
        }
        let (status, answer) = self.api.call(method, &filled, request.clone()).await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
        let mut example = json!({ "status": status, "parameters": parameters });
        if let Some(request) = &request {
            example["request"] = short(request);
        }
        if !answer.is_null() {
            example["answer"] = short(&answer);
        }
        self.examples.insert(
            format!("{method} /v1/admin/{}", path.split('?').next().unwrap()),
            example,
        );
        answer
    }
}

async fn access(walk: &mut Walk) {
    let source = walk
        .step(
            "POST",
            "sources",
            json!({}),
            Some(json!({ "name": "shop", "rate": 500 })),
        )
        .await;
    let id = json!({ "id": source["id"] });
    let change = json!({ "key_rate": 200, "allowed_origins": ["https://shop.example"], "allowed_events": ["Order Completed", "Product *"] });
    walk.step("PATCH", "sources/{id}", id.clone(), Some(change))
        .await;
    walk.step(
        "POST",
        "sources/{id}/rotate-key",
        id.clone(),
        Some(json!({ "label": "second" })),
    )
    .await;
    walk.step("GET", "sources/{id}", id.clone(), None).await;
    walk.step("GET", "sources", json!({}), None).await;
    let key = json!({ "id": source["id"], "key": source["keys"][0]["id"] });
    walk.step("DELETE", "sources/{id}/keys/{key}", key, None)
        .await;
    walk.step("DELETE", "sources/{id}", id, None).await;
    let token =
        json!({ "name": "on-call", "role": "operator", "expires_at": "2027-11-20T00:00:00Z" });
    let token = walk.step("POST", "tokens", json!({}), Some(token)).await;
    walk.step("DELETE", "tokens/{id}", json!({ "id": token["id"] }), None)
        .await;
    walk.step("GET", "tokens", json!({}), None).await;
}

async fn alerts(walk: &mut Walk) {
    let name = json!({ "name": "on-call" });
    let body = json!({ "url": "https://hooks.example.com/aqueduct", "repeat_h": 4 });
    walk.step("PUT", "alerts/{name}", name.clone(), Some(body))
        .await;
    walk.step("GET", "alerts/{name}", name.clone(), None).await;
    walk.step("GET", "alerts", json!({}), None).await;
    walk.step("DELETE", "alerts/{name}", name, None).await;
}

async fn installed(walk: &mut Walk) -> Value {
    let vendor = json!({ "vendor": "optimizely" });
    walk.step("GET", "integration-catalog?limit=1", json!({}), None)
        .await;
    walk.step("GET", "integration-catalog/{vendor}", vendor.clone(), None)
        .await;
    walk.step(
        "POST",
        "integration-catalog/{vendor}/test",
        vendor.clone(),
        Some(seed_body()),
    )
    .await;
    let view = walk
        .step(
            "POST",
            "integration-catalog/{vendor}/install",
            vendor,
            Some(seed_body()),
        )
        .await;
    let id = json!({ "id": view["id"] });
    walk.step("GET", "integrations", json!({}), None).await;
    let change = json!({ "name": "Optimizely EU", "settings": { "timeout_ms": 5000 } });
    walk.step("PATCH", "integrations/{id}", id.clone(), Some(change))
        .await;
    walk.step(
        "POST",
        "integrations/{id}/pause",
        id.clone(),
        Some(json!({ "reason": "key is being changed" })),
    )
    .await;
    walk.step("POST", "integrations/{id}/resume", id.clone(), None)
        .await;
    walk.step("GET", "integrations/{id}", id.clone(), None)
        .await;
    walk.step(
        "POST",
        "integrations/{id}/test",
        id.clone(),
        Some(json!({ "event": "signup" })),
    )
    .await;
    id
}

async fn blueprints(walk: &mut Walk, id: &Value) {
    let path = "integrations/{id}/blueprint";
    let first = walk.step("GET", path, id.clone(), None).await;
    let text = first["text"]
        .as_str()
        .unwrap()
        .replace("title: ", "title: Our ");
    walk.step(
        "PUT",
        path,
        id.clone(),
        Some(json!({ "text": text, "note": "our own title" })),
    )
    .await;
    walk.step(
        "POST",
        &format!("{path}/rollback"),
        id.clone(),
        Some(json!({ "revision": 1, "note": "back" })),
    )
    .await;
    walk.step("GET", &format!("{path}/revisions"), id.clone(), None)
        .await;
    walk.step(
        "GET",
        &format!("{path}/revisions/{{n}}"),
        json!({ "id": id["id"], "n": "1" }),
        None,
    )
    .await;
    let small = json!({ "text": "blueprint: acme/default\ntrack: 5\n" });
    walk.step("POST", "blueprints/check", json!({}), Some(small))
        .await;
    walk.step(
        "POST",
        "blueprints/test",
        json!({}),
        Some(json!({ "text": text })),
    )
    .await;
    let event = json!({ "type": "track", "event": "signup", "userId": "u-1", "messageId": "m-0", "properties": { "plan": "pro" } });
    let body = json!({ "integration": id["id"], "documents": { "event_ids": datafile(), "attribute_ids": datafile(), "datafile": datafile() }, "event": event });
    walk.step("POST", "blueprints/try", json!({}), Some(body))
        .await;
}

async fn events(walk: &mut Walk, id: &Value) {
    let feed = id["id"].as_str().unwrap().to_owned();
    dead(&walk.api, &feed, "m-1").await;
    walk.step(
        "GET",
        "events/{message_id}",
        json!({ "message_id": "m-1" }),
        None,
    )
    .await;
    let letters = walk.step("GET", "dead-letters", json!({}), None).await;
    let body = json!({ "integration": feed, "reason": "rejected", "ids": [letters["data"][0]["id"]], "rate": 100 });
    let replay = walk
        .step("POST", "dead-letters/replay", json!({}), Some(body))
        .await;
    let replay = json!({ "id": replay["id"] });
    walk.step("GET", "replays/{id}", replay.clone(), None).await;
    walk.step("DELETE", "replays/{id}", replay, None).await;
    for list in [
        "ledger",
        "deliveries",
        "rejected-events",
        "assignments",
        "audit?limit=2",
        "audit/verify",
    ] {
        walk.step("GET", list, json!({}), None).await;
    }
    walk.step("DELETE", "integrations/{id}?force=true", id.clone(), None)
        .await;
}

/// The examples are what the API answers, word for word. `AQUEDUCT_WRITE_EXAMPLES=1 cargo test examples_are` writes them anew.
#[tokio::test]
async fn examples_are_what_the_api_answers() {
    let mut walk = Walk {
        api: Api::drawing(counting()),
        examples: serde_json::Map::new(),
    };
    access(&mut walk).await;
    alerts(&mut walk).await;
    let id = installed(&mut walk).await;
    blueprints(&mut walk, &id).await;
    events(&mut walk, &id).await;
    let found = Value::Object(walk.examples);
    if option_env!("AQUEDUCT_WRITE_EXAMPLES").is_some() {
        let text = serde_json::to_string_pretty(&found).unwrap();
        std::fs::write(KEPT, text + "\n").unwrap();
    }
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(KEPT).unwrap()).unwrap();
    for (call, example) in found.as_object().unwrap() {
        assert_eq!(kept[call], *example, "{call}");
    }
    assert_eq!(
        kept.as_object().unwrap().len(),
        found.as_object().unwrap().len()
    );
}
