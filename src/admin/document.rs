//! The OpenAPI document, completed: what the macros beside the calls leave out because it is the same everywhere.
//!
//! A call says what it does, what it takes, what it answers when it worked, the errors of its own, and its least role.
//! From its shape (has it a body, a path parameter, a query; which role) follow the errors that every such call can
//! answer; they stand here once. In the macros `default` stands for them.

use serde_json::{Map, Value, json};

use super::auth::EXTENSION;

/// Examples of bodies and answers by `METHOD /path`; a test keeps them true.
const EXAMPLES: &str = include_str!("examples.json");

/// Header that makes a repeated creation harmless; calls that name it take it.
pub(super) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// Methods a path item may hold.
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// The document as it is served, from what the macros made.
pub(super) fn complete(document: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    let examples: Value = serde_json::from_str(EXAMPLES).unwrap_or_default();
    document["tags"] = tags();
    document["servers"] = json!([{ "url": "/", "description": "The admin listener" }]);
    document["components"]["securitySchemes"]["admin_token"] = json!({
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "adm_<id>_<secret>",
        "description": "An admin token; `aqueduct token create` makes one.",
    });
    document["components"]["headers"] = headers();
    let Some(paths) = document["paths"].as_object_mut() else {
        return document;
    };
    for (path, item) in paths {
        for method in METHODS {
            if let Some(Value::Object(call)) = item.get_mut(method) {
                let example = &examples[format!("{} {path}", method.to_uppercase())];
                complete_call(method, path, call, example);
            }
        }
    }
    document
}

fn complete_call(method: &str, path: &str, call: &mut Map<String, Value>, example: &Value) {
    call.insert("operationId".to_owned(), json!(name_of(method, path)));
    let guarded = call.contains_key(EXTENSION);
    if !guarded {
        call.insert("security".to_owned(), json!([]));
    }
    let keyed = takes_key(call);
    let mut statuses = if guarded {
        shared_errors(call)
    } else {
        Vec::new()
    };
    if let Some(Value::Object(media)) = call
        .get_mut("requestBody")
        .and_then(|body| body.pointer_mut("/content/application~1json"))
        && let Some(body) = example.get("request")
    {
        media.insert("example".to_owned(), body.clone());
    }
    if let Some(Value::Array(parameters)) = call.get_mut("parameters") {
        for parameter in parameters {
            let name = parameter["name"].as_str().unwrap_or_default();
            if let Some(value) = example.pointer(&format!("/parameters/{name}")) {
                parameter["example"] = value.clone();
            }
        }
    }
    let Some(Value::Object(responses)) = call.get_mut("responses") else {
        return;
    };
    responses.shift_remove("default");
    let own = responses
        .keys()
        .filter_map(|status| status.parse::<u16>().ok());
    statuses.extend(own);
    statuses.sort_unstable();
    statuses.dedup();
    let mut whole = Map::new();
    for status in statuses {
        let key = status.to_string();
        let said = responses.shift_remove(&key).unwrap_or_else(|| json!({}));
        let answer = if status < 400 {
            let mut answer = said;
            if example["status"] == json!(status)
                && let Some(media) = answer.pointer_mut("/content/application~1json")
            {
                media["example"] = example["answer"].clone();
            }
            if keyed && status < 300 {
                answer["headers"]["Idempotency-Replayed"] = json!({ "description": "`true` on the repetition of an earlier answer", "schema": { "type": "string" } });
            }
            answer
        } else {
            problem(status, &said)
        };
        whole.insert(key, with_headers(answer, status, guarded));
    }
    *responses = whole;
}

/// Name of the extension of calls that make what is not there.
const CREATES: &str = "x-creates";

/// Statuses that follow from the shape of a call.
fn shared_errors(call: &Map<String, Value>) -> Vec<u16> {
    let takes = |place: &str| {
        call.get("parameters")
            .and_then(Value::as_array)
            .is_some_and(|all| all.iter().any(|parameter| parameter["in"] == place))
    };
    let idempotent = takes_key(call);
    let mut statuses = vec![401, 429, 500];
    if call.get(EXTENSION).is_some_and(|role| role != "viewer") {
        statuses.push(403);
    }
    if takes("path") {
        statuses.push(400);
        if !call.contains_key(CREATES) {
            statuses.push(404);
        }
    }
    if takes("query") {
        statuses.push(422);
    }
    if call.contains_key("requestBody") {
        statuses.extend([400, 413, 415, 422]);
    }
    if idempotent {
        statuses.extend([400, 409, 422]);
    }
    statuses
}

/// True for a call that takes an `Idempotency-Key`.
pub(super) fn takes_key(call: &Map<String, Value>) -> bool {
    call.get("parameters")
        .and_then(Value::as_array)
        .is_some_and(|all| {
            all.iter()
                .any(|parameter| parameter["name"] == IDEMPOTENCY_KEY)
        })
}

fn problem(status: u16, said: &Value) -> Value {
    let general = match status {
        400 => "The request cannot be read: its path, its JSON, or its `Idempotency-Key`",
        401 => "No token, or one that is unknown, expired or revoked",
        403 => "The token's role is too small (`x-minimum-role`)",
        404 => "There is no such thing",
        409 => "It does not go together with what is there, or with a request under way",
        413 => "The body is larger than 1 MB",
        415 => "The body's `Content-Type` is not one of those listed",
        422 => "Something in the body or query cannot be used; `errors` names every field",
        429 => "Too many requests; `Retry-After` says when to come again",
        500 => "Something of ours failed; the gateway's log says more",
        501 => "Not part of this release yet",
        503 => "The gateway is stopping, or cannot do it at the moment; nothing was done",
        _ => "An error",
    };
    let words = said["description"]
        .as_str()
        .filter(|words| !words.is_empty())
        .unwrap_or(general);
    json!({
        "description": words,
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    })
}

fn with_headers(mut answer: Value, status: u16, guarded: bool) -> Value {
    let mut named = Vec::new();
    if guarded && ![401, 500].contains(&status) {
        named.extend(["RateLimit", "RateLimit-Policy"]);
    }
    match status {
        401 => named.push("WWW-Authenticate"),
        429 | 503 => named.push("Retry-After"),
        _ => {}
    }
    for name in named {
        answer["headers"][name] = json!({ "$ref": format!("#/components/headers/{name}") });
    }
    if answer["description"].as_str().is_none_or(str::is_empty) {
        answer["description"] = json!(match status {
            201 => "Made",
            202 => "Under way",
            204 => "Done",
            _ => "The answer",
        });
    }
    answer
}

/// E.g. `getIntegrationsId`: unique because method and path are.
fn name_of(method: &str, path: &str) -> String {
    let path = path.strip_prefix("/v1/admin").unwrap_or(path);
    let mut name = method.to_owned();
    for word in path.split(|c: char| !c.is_ascii_alphanumeric()) {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

fn headers() -> Value {
    let text = |words: &str, example: &str| json!({ "description": words, "schema": { "type": "string" }, "example": example });
    let source = "draft-ietf-httpapi-ratelimit-headers-10";
    json!({
        "RateLimit": text(&format!("Requests the token has left, and seconds until it has all of them again ({source})"), "\"token\";r=5987;t=42"),
        "RateLimit-Policy": text(&format!("Requests a token may make, and in how many seconds ({source})"), "\"token\";q=6000;w=60"),
        "Retry-After": { "description": "Seconds to wait", "schema": { "type": "integer", "minimum": 0 }, "example": 17 },
        "WWW-Authenticate": text("How to say who you are", "Bearer realm=\"aqueduct admin\""),
    })
}

fn tags() -> Value {
    let tag = |name: &str, words: &str| json!({ "name": name, "description": words });
    json!([
        tag("catalog", "What can be installed"),
        tag("integrations", "What is installed, and how it is doing"),
        tag(
            "blueprints",
            "How events become requests: revisions, checking, trying out"
        ),
        tag(
            "events",
            "What became of events: stories, attempts, refusals, the books"
        ),
        tag(
            "dead letters",
            "Deliveries that were given up, and sending them again"
        ),
        tag("sources", "Apps that post events, and their write keys"),
        tag("tokens", "Admin tokens"),
        tag(
            "alerts",
            "Who is told when something is wrong, and what was told"
        ),
        tag("audit", "Who did what"),
        tag("sync", "Scheduled syncs"),
        tag("document", "This document"),
    ])
}
