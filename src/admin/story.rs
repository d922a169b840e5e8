//! Pure parts of explaining an event: how it maps now, which item of a request body is its own, how it ended.

use serde_json::{Map, Value};

use crate::blueprint::{
    Config, ConfigValue, FieldTrace, Mapping, Note, Part, PartResult, Plan, Tables,
};
use crate::clock::Millis;
use crate::event::{Event, Kind, event_id};

/// How an event maps.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct MappingView {
    /// Why it goes nowhere, if so: `unmapped`, `dropped`, `filtered`.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    /// One row per request its entry names.
    requests: Vec<PartView>,
}

/// One request an event has a share in.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct PartView {
    /// Name of the request in the blueprint.
    request: String,
    /// `item`, `skipped`, `refused` or `held`.
    result: &'static str,
    /// Why, when it is not an item.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// The event's own item.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    item: Option<Value>,
    /// The whole request, with this item alone; secrets masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_as: Option<RequestView>,
    /// The blueprint's line behind each field of the item.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    made_by: Vec<FieldTrace>,
    /// Fields left out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<Note>,
}

/// A request; secrets masked.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct RequestView {
    pub(super) method: String,
    pub(super) url: String,
    #[schema(value_type = Object)]
    pub(super) headers: Map<String, Value>,
    #[schema(value_type = Object)]
    pub(super) body: Value,
}

/// How one event stands with one integration.
pub(super) struct Outcome {
    pub(super) outcome: &'static str,
    /// Short machine-readable cause.
    pub(super) reason: Option<String>,
    /// The same in a sentence.
    pub(super) detail: String,
}

/// Maps an event for people.
pub(super) fn map(plan: &Plan, config: &Config, event: &Event, tables: &Tables) -> MappingView {
    let (mapping, traces) = plan.map_traced(event, tables);
    match mapping {
        Mapping::Skipped(reason) => MappingView {
            skipped: Some(reason.to_owned()),
            requests: Vec::new(),
        },
        Mapping::Parts(parts) => {
            let mut traces = traces.into_iter();
            MappingView {
                skipped: None,
                requests: parts
                    .into_iter()
                    .map(|part| {
                        let made_by = traces.next().unwrap_or_default();
                        part_view(plan, config, tables, part, made_by)
                    })
                    .collect(),
            }
        }
    }
}

impl MappingView {
    /// The event's own item of a request.
    pub(super) fn item(&self, request: &str) -> Option<&Value> {
        self.requests
            .iter()
            .find(|part| part.request == request)?
            .item
            .as_ref()
    }

    /// Has it a share in more than one request?
    pub(super) fn has_several(&self) -> bool {
        self.requests
            .iter()
            .filter(|part| part.item.is_some())
            .count()
            > 1
    }

    /// Why the mapping as it is now sends nothing, if it does not.
    pub(super) fn skip_reason(&self) -> Option<String> {
        if let Some(reason) = &self.skipped {
            return Some(reason.clone());
        }
        let all_skipped = self.requests.iter().all(|part| part.result == "skipped");
        all_skipped.then(|| {
            let reasons = || self.requests.iter().filter_map(|part| part.reason.clone());
            reasons()
                .find(|reason| reason != "filtered")
                .or_else(|| reasons().next())
                .unwrap_or_else(|| "unmapped".to_owned())
        })
    }
}

fn part_view(
    plan: &Plan,
    config: &Config,
    tables: &Tables,
    part: Part,
    made_by: Vec<FieldTrace>,
) -> PartView {
    let mut view = PartView {
        request: plan
            .requests()
            .get(part.request)
            .map_or_else(String::new, |request| request.name.clone()),
        result: "item",
        reason: None,
        detail: None,
        item: None,
        sent_as: None,
        made_by,
        notes: part.notes,
    };
    match part.result {
        PartResult::Item { json, .. } => {
            view.item = serde_json::from_slice(&json).ok();
            match plan.assemble(part.request, &[&json], tables) {
                Ok(request) => {
                    view.sent_as = Some(RequestView {
                        method: request.method,
                        url: mask(config, request.url.expose()),
                        headers: request
                            .headers
                            .iter()
                            .map(|(name, value)| {
                                (name.clone(), Value::String(mask(config, value.expose())))
                            })
                            .collect(),
                        body: shown(config, &request.body),
                    });
                }
                Err(detail) => view.detail = Some(detail),
            }
        }
        PartResult::Skipped { reason } => {
            view.result = "skipped";
            view.reason = Some(reason);
        }
        PartResult::Refused { reason, detail } => {
            view.result = "refused";
            view.reason = Some(reason);
            view.detail = Some(detail);
        }
        PartResult::Held { reason, detail, .. } => {
            view.result = "held";
            view.reason = Some(reason);
            view.detail = Some(detail);
        }
    }
    view
}

/// A text without the config's secrets, however they are written in it.
pub(super) fn mask(config: &Config, text: &str) -> String {
    use base64::Engine as _;
    let mut text = text.to_owned();
    for value in config.values() {
        let ConfigValue::Secret(secret) = value else {
            continue;
        };
        let plain = secret.expose();
        if plain.len() < 4 {
            continue;
        }
        let percent: String = url::form_urlencoded::byte_serialize(plain.as_bytes()).collect();
        text = text.replace(plain, "…").replace(&percent, "…");
    }
    // A Basic header hides its secret from a search: it is masked whole.
    if let Some(code) = text.strip_prefix("Basic ")
        && base64::engine::general_purpose::STANDARD
            .decode(code)
            .is_ok()
    {
        "Basic …".clone_into(&mut text);
    }
    text
}

/// A body for people: as JSON if it is, else as text; secrets masked.
pub(super) fn shown(config: &Config, body: &[u8]) -> Value {
    let text = mask(config, &String::from_utf8_lossy(body));
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// The part of a request body that is one event's own: the outermost row of a list that holds its id or, where vendors
/// are not told ids, what the event maps to; the whole body when no list does.
pub(super) fn own_item<'a>(
    body: &'a Value,
    event_id: &str,
    mapped: Option<&Value>,
) -> Option<&'a Value> {
    fn holds(value: &Value, id: &str) -> bool {
        match value {
            Value::String(text) => text == id,
            Value::Array(rows) => rows.iter().any(|row| holds(row, id)),
            Value::Object(fields) => fields.values().any(|field| holds(field, id)),
            _ => false,
        }
    }
    let own = |value: &Value| holds(value, event_id);
    let same = |value: &Value| mapped.is_some_and(|mapped| covers(value, mapped));
    // An item that came late goes without what would put an old value back.
    let less = |value: &Value| mapped.is_some_and(|mapped| covers(mapped, value));
    row(body, &own)
        .or_else(|| own(body).then_some(body))
        .or_else(|| row(body, &same))
        .or_else(|| same(body).then_some(body))
        .or_else(|| row(body, &less))
}

/// The outermost row of a list that is `wanted`.
fn row<'a>(value: &'a Value, wanted: &dyn Fn(&Value) -> bool) -> Option<&'a Value> {
    match value {
        Value::Array(rows) => rows.iter().find(|row| wanted(row)),
        Value::Object(fields) => fields.values().find_map(|field| row(field, wanted)),
        _ => None,
    }
}

/// Does a row say all that an item says? It may say more: items of one person are sent as one.
fn covers(row: &Value, item: &Value) -> bool {
    match (row, item) {
        (Value::Object(row), Value::Object(item)) => item
            .iter()
            .all(|(key, value)| row.get(key).is_some_and(|own| covers(own, value))),
        _ => row == item,
    }
}

/// An event as an app would post it, made whole: what ingest fills in is filled in.
pub(super) fn event_as_posted(
    mut fields: Map<String, Value>,
    now_ms: Millis,
) -> Result<Event, (String, &'static str, String)> {
    let kind = match fields.get("type") {
        None => Kind::Track,
        Some(word) => serde_json::from_value(word.clone()).map_err(|_| {
            (
                "event.type".to_owned(),
                "unknown_type",
                "must be track, identify, page, screen, group, alias or decision".to_owned(),
            )
        })?,
    };
    let time = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_str()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .map(|at| Some(at.as_millisecond()))
            .ok_or_else(|| {
                (
                    format!("event.{name}"),
                    "wrong_format",
                    "must be a time such as 2026-11-20T14:03:27Z".to_owned(),
                )
            }),
    };
    let timestamp_ms = time("timestamp")?.unwrap_or(now_ms);
    let received_at_ms = time("receivedAt")?.unwrap_or(now_ms);
    let text = |name: &str, default: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err((
            format!("event.{name}"),
            "wrong_type",
            "must be a text".to_owned(),
        )),
    };
    let message_id = text("messageId", "try")?;
    let source = text("source", "try")?;
    let event_id = event_id(&source, &message_id);
    for (name, value) in [
        ("type", kind.as_str().to_owned()),
        ("eventId", event_id.to_string()),
        ("source", source.clone()),
        ("messageId", message_id.clone()),
        ("receivedAt", super::page::rfc3339(received_at_ms)),
        ("timestamp", super::page::rfc3339(timestamp_ms)),
    ] {
        fields.insert(name.to_owned(), Value::String(value));
    }
    Ok(Event {
        kind,
        event_id,
        source,
        message_id,
        received_at_ms,
        timestamp_ms,
        fields,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{event_as_posted, mask, own_item};
    use crate::blueprint::{Config, ConfigValue};
    use crate::secret::Secret;

    #[test]
    fn an_events_own_item_is_the_outermost_row_with_its_id() {
        let body = json!({ "account_id": "1", "visitors": [
            { "visitor_id": "a", "snapshots": [{ "events": [{ "uuid": "e-1" }] }] },
            { "visitor_id": "b", "snapshots": [{ "events": [{ "uuid": "e-2" }] }] },
        ]});
        assert_eq!(own_item(&body, "e-2", None).unwrap()["visitor_id"], "b");
        assert_eq!(own_item(&body, "e-3", None), None);
        let alone = json!({ "id": "e-1" });
        assert_eq!(own_item(&alone, "e-1", None), Some(&alone));
    }

    #[test]
    fn without_ids_an_events_own_item_is_the_row_that_says_what_it_maps_to() {
        let body = json!([
            { "visitorId": "a", "values": { "flag": "on" } },
            { "visitorId": "b", "values": { "other": "on", "flag": "off" } },
        ]);
        let mapped = json!({ "visitorId": "b", "values": { "flag": "off" } });
        assert_eq!(own_item(&body, "e-1", Some(&mapped)), Some(&body[1]));
        let later = json!({ "visitorId": "b", "values": { "flag": "on" } });
        assert_eq!(own_item(&body, "e-1", Some(&later)), None);
        assert_eq!(own_item(&mapped, "e-1", Some(&mapped)), Some(&mapped));
        let whole = json!({ "visitorId": "a", "values": { "flag": "on" }, "late": 1 });
        assert_eq!(own_item(&body, "e-1", Some(&whole)), Some(&body[0]));
    }

    #[test]
    fn secrets_are_masked_plain_percent_encoded_and_in_basic() {
        let config = Config::from([("k".to_owned(), ConfigValue::Secret(Secret::new("se/cret")))]);
        assert_eq!(mask(&config, "https://x/se/cret.json"), "https://x/….json");
        assert_eq!(mask(&config, "https://x/?k=se%2Fcret"), "https://x/?k=…");
        assert_eq!(mask(&config, "Basic c2UvY3JldDo="), "Basic …");
    }

    #[test]
    fn a_tried_event_is_made_whole_and_keeps_its_numbers() {
        let posted = json!({ "type": "track", "event": "x", "properties": { "total": 1 } });
        let event = event_as_posted(posted.as_object().unwrap().clone(), 5).unwrap();
        assert_eq!(event.fields["timestamp"], "1970-01-01T00:00:00.005Z");
        let wrong = json!({ "type": "purchase" });
        let fault = event_as_posted(wrong.as_object().unwrap().clone(), 5).unwrap_err();
        assert_eq!(fault.0, "event.type");
    }
}
