//! The OpenAPI document and its page. The page is rendered here, once, out of the document: no script, no file from
//! elsewhere, and a policy that would let none run.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::auth::EXTENSION;

/// The page's only style. Its hash stands in the page's policy.
const STYLE: &str = include_str!("docs.css");

/// The document as it is served.
pub(super) struct Rendered {
    json: String,
    page: String,
    policy: Option<HeaderValue>,
}

impl Rendered {
    /// Renders a finished document.
    pub(super) fn of(document: &Value) -> Arc<Self> {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        Arc::new(Self {
            json: document.to_string(),
            page: page(document),
            policy: HeaderValue::try_from(policy).ok(),
        })
    }
}

/// This document, as JSON. No token is needed.
#[utoipa::path(
    get, path = "/openapi.json", tag = "document",
    responses((status = 200, body = Object)),
)]
pub(super) async fn json(State(rendered): State<Arc<Rendered>>) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        rendered.json.clone(),
    )
        .into_response()
}

/// This document, as a page for people. No token is needed.
#[utoipa::path(
    get, path = "/docs", tag = "document",
    responses((status = 200, body = String, content_type = "text/html")),
)]
pub(super) async fn html(State(rendered): State<Arc<Rendered>>) -> Response {
    let mut response = Html(rendered.page.clone()).into_response();
    if let Some(policy) = &rendered.policy {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    }
    response
}

/// Text that cannot be taken for markup, with `code` between backquotes.
fn words(text: &str) -> String {
    let mut made = String::new();
    for (place, piece) in text.split('`').enumerate() {
        let safe = safe(piece);
        if place % 2 == 1 {
            let _ = write!(made, "<code>{safe}</code>");
        } else {
            made.push_str(&safe);
        }
    }
    made
}

fn safe(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => made.push_str("&amp;"),
            '<' => made.push_str("&lt;"),
            '>' => made.push_str("&gt;"),
            '"' => made.push_str("&quot;"),
            '\'' => made.push_str("&#39;"),
            letter => made.push(letter),
        }
    }
    made
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// One call of the document.
struct Call<'a> {
    method: String,
    path: &'a str,
    body: &'a Value,
}

fn page(document: &Value) -> String {
    let info = &document["info"];
    let calls = calls(document);
    let mut contents = String::new();
    let mut chapters = String::new();
    for tag in document["tags"].as_array().into_iter().flatten() {
        let name = text(tag, "name");
        let own: Vec<&Call<'_>> = calls
            .iter()
            .filter(|call| call.body["tags"][0] == *name)
            .collect();
        if own.is_empty() {
            continue;
        }
        let _ = write!(contents, "<li>{}<ul>", safe(name));
        let _ = write!(
            chapters,
            "<h2>{}</h2><p>{}</p>",
            safe(name),
            words(text(tag, "description"))
        );
        for call in own {
            let id = safe(text(call.body, "operationId"));
            let _ = write!(
                contents,
                "<li><a href=\"#{id}\"><b>{}</b> {}</a></li>",
                call.method,
                safe(call.path)
            );
            chapters.push_str(&one_call(call));
        }
        contents.push_str("</ul></li>");
    }
    contents.push_str("<li>schemas<ul>");
    chapters.push_str("<h2>schemas</h2>");
    for (name, schema) in document["components"]["schemas"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let _ = write!(
            contents,
            "<li><a href=\"#schema-{0}\">{0}</a></li>",
            safe(name)
        );
        chapters.push_str(&one_schema(name, schema));
    }
    contents.push_str("</ul></li>");
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><a class=\"skip\" href=\"#calls\">Skip to the calls</a>\
         <header><h1>{title} <small>{version}</small></h1><p>{about}</p><p>Every call below <code>/v1/admin</code> needs \
         <code>Authorization: Bearer adm_…</code> (<code>aqueduct token create</code> makes one). \
         The document itself: <a href=\"/openapi.json\">/openapi.json</a>. Every heading is an address: link to \
         <code>/docs#…</code>, or search this page with your browser.</p></header>\
         <nav aria-label=\"Calls\"><ul>{contents}</ul></nav><main id=\"calls\">{chapters}</main></body></html>",
        title = safe(text(info, "title")),
        version = safe(text(info, "version")),
        about = words(text(info, "description")),
    )
}

fn calls(document: &Value) -> Vec<Call<'_>> {
    let mut calls = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, body) in item.as_object().into_iter().flatten() {
            if body.get("responses").is_some() {
                calls.push(Call {
                    method: method.to_uppercase(),
                    path,
                    body,
                });
            }
        }
    }
    calls
}

fn one_call(call: &Call<'_>) -> String {
    let body = call.body;
    let id = safe(text(body, "operationId"));
    let role = body[EXTENSION].as_str().map_or_else(
        || "no token needed".to_owned(),
        |role| format!("role {role} or above"),
    );
    let mut made = format!(
        "<article id=\"{id}\"><h3><a href=\"#{id}\"><b>{}</b> <code>{}</code></a></h3><p class=\"role\">{}</p><p>{} {}</p>",
        call.method,
        safe(call.path),
        safe(&role),
        words(text(body, "summary")),
        words(text(body, "description")),
    );
    let parameters = body["parameters"].as_array().map_or(&[][..], Vec::as_slice);
    if !parameters.is_empty() {
        made.push_str("<table><caption>Parameters</caption><tr><th>name<th>in<th>type<th>about");
        for parameter in parameters {
            let must = if parameter["required"] == true {
                " (required)"
            } else {
                ""
            };
            let _ = write!(
                made,
                "<tr><td><code>{}</code>{must}<td>{}<td>{}<td>{}",
                safe(text(parameter, "name")),
                safe(text(parameter, "in")),
                kind_of(&parameter["schema"]),
                words(text(parameter, "description"))
            );
        }
        made.push_str("</table>");
    }
    if let Some(request) = body.get("requestBody") {
        let _ = write!(
            made,
            "<h4>Body</h4><p>{}</p>",
            words(text(request, "description"))
        );
        made.push_str(&media(&request["content"]));
    }
    made.push_str("<table><caption>Answers</caption><tr><th>status<th>when<th>body");
    for (status, answer) in body["responses"].as_object().into_iter().flatten() {
        let kinds: Vec<String> = answer["content"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, media)| kind_of(&media["schema"]))
            .collect();
        let _ = write!(
            made,
            "<tr><td>{}<td>{}<td>{}",
            safe(status),
            words(text(answer, "description")),
            kinds.join(", ")
        );
    }
    made.push_str("</table>");
    for (status, answer) in body["responses"].as_object().into_iter().flatten() {
        if let Some(example) = answer.pointer("/content/application~1json/example") {
            made.push_str(&shown(&format!("Example of {status}"), example));
        }
    }
    made.push_str("</article>");
    made
}

fn media(content: &Value) -> String {
    let mut made = String::new();
    for (kind, media) in content.as_object().into_iter().flatten() {
        let _ = write!(
            made,
            "<p><code>{}</code>: {}</p>",
            safe(kind),
            kind_of(&media["schema"])
        );
        if let Some(example) = media.get("example") {
            made.push_str(&shown("Example", example));
        }
    }
    made
}

fn shown(what: &str, example: &Value) -> String {
    let pretty = match example {
        Value::String(text) => text.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    };
    format!(
        "<details><summary>{}</summary><pre>{}</pre></details>",
        safe(what),
        safe(&pretty)
    )
}

/// A schema in a word or two, with a link where it has a name.
fn kind_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|place| place.rsplit('/').next())
    {
        return format!("<a href=\"#schema-{0}\">{0}</a>", safe(name));
    }
    for several in ["oneOf", "anyOf", "allOf"] {
        if let Some(all) = schema[several].as_array() {
            let kinds: Vec<String> = all.iter().map(kind_of).collect();
            return kinds.join(" or ");
        }
    }
    let kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
            kinds.join(" or ")
        }
        _ => "anything".to_owned(),
    };
    if kind.starts_with("array") {
        return format!("{} of {}", safe(&kind), kind_of(&schema["items"]));
    }
    let choices: Vec<&str> = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if choices.is_empty() {
        safe(&kind)
    } else {
        safe(&choices.join(" | "))
    }
}

fn one_schema(name: &str, schema: &Value) -> String {
    let id = format!("schema-{}", safe(name));
    let mut made = format!(
        "<article id=\"{id}\"><h3><a href=\"#{id}\"><code>{}</code></a></h3><p>{}</p>",
        safe(name),
        words(text(schema, "description"))
    );
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some(fields) = schema["properties"].as_object() else {
        let _ = write!(made, "<p>{}</p></article>", kind_of(schema));
        return made;
    };
    made.push_str("<table><tr><th>field<th>type<th>about");
    for (field, schema) in fields {
        let must = if required.contains(&field.as_str()) {
            ""
        } else {
            " (optional)"
        };
        let _ = write!(
            made,
            "<tr><td><code>{}</code>{must}<td>{}<td>{}",
            safe(field),
            kind_of(schema),
            words(text(schema, "description"))
        );
    }
    made.push_str("</table></article>");
    made
}

#[cfg(test)]
mod tests {
    use super::{safe, words};

    #[test]
    fn text_is_never_markup() {
        assert_eq!(
            safe("<a href='x'>\"&\"</a>"),
            "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt;"
        );
        assert_eq!(words("a `b<c` d"), "a <code>b&lt;c</code> d");
    }
}
