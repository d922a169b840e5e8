//! Heap's rules for one item: identities, events, property keys and values. Pure.

use serde_json::{Map, Value};

use crate::sandbox::exchange::is_iso_time;

/// Characters of an identity.
const IDENTITY_MAX: usize = 255;
/// Characters of an event name.
const EVENT_MAX: usize = 1_024;
/// Characters of a property key or value, which has to stay below.
const PROPERTY_BELOW: usize = 1_024;
/// The largest user_id: 2^53 - 1.
const USER_ID_MAX: u64 = (1 << 53) - 1;

/// Why an item is refused.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) rule: &'static str,
    pub(super) why: String,
}

impl Fault {
    pub(super) fn new(rule: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { rule, why }
    }
}

fn he1(why: impl Into<String>) -> Option<Fault> {
    Some(Fault::new("HE1", why))
}

/// What is wrong with `identity`, where it has to be there.
pub(super) fn identity_fault(item: &Map<String, Value>) -> Option<Fault> {
    match item.get("identity") {
        None => he1("identity is missing"),
        Some(Value::String(text)) if text.is_empty() => he1("identity is empty"),
        Some(Value::String(text)) if text.chars().count() > IDENTITY_MAX => {
            he1("identity is longer than 255")
        }
        Some(Value::String(_)) => None,
        Some(_) => he1("identity is no string"),
    }
}

/// What is wrong with an event.
pub(super) fn event_fault(item: &Map<String, Value>, booleans: bool) -> Option<Fault> {
    let who = match (item.get("identity"), item.get("user_id")) {
        (Some(_), Some(_)) => he1("both identity and user_id"),
        (None, Some(Value::String(id))) => match id.parse::<u64>() {
            Ok(id) if id <= USER_ID_MAX => None,
            _ => he1("user_id is no decimal up to 2^53 - 1"),
        },
        (None, Some(_)) => he1("user_id is no string"),
        (_, None) => identity_fault(item),
    };
    who.or_else(|| match item.get("event") {
        Some(Value::String(name)) if name.is_empty() => he1("event is empty"),
        Some(Value::String(name)) if name.chars().count() > EVENT_MAX => {
            he1("event is longer than 1024")
        }
        Some(Value::String(_)) => None,
        _ => he1("event is missing or no string"),
    })
    .or_else(|| match item.get("timestamp") {
        None | Some(Value::Number(_)) => None,
        Some(Value::String(text)) if is_time(text) => None,
        Some(_) => he1("timestamp is no ISO-8601 time"),
    })
    .or_else(|| match item.get("idempotency_key") {
        None | Some(Value::String(_) | Value::Number(_)) => None,
        Some(_) => he1("idempotency_key is no string"),
    })
    .or_else(|| properties_fault(item, false, booleans))
}

/// ISO-8601, or Unix time in digits as others are known to send.
fn is_time(text: &str) -> bool {
    is_iso_time(text)
        || text.parse::<jiff::civil::Date>().is_ok()
        || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What is wrong with an item's properties; `of_user`: those of a person, where `id` is Heap's own.
pub(super) fn properties_fault(
    item: &Map<String, Value>,
    of_user: bool,
    booleans: bool,
) -> Option<Fault> {
    let properties = match item.get("properties") {
        None if of_user => return he1("properties is missing"),
        None => return None,
        Some(Value::Object(properties)) => properties,
        Some(_) => return he1("properties is no object"),
    };
    properties.iter().find_map(|(key, value)| {
        if key.is_empty() || key.chars().count() >= PROPERTY_BELOW {
            return he1("a property key is empty or too long");
        }
        if of_user && (key.eq_ignore_ascii_case("id") || key == "user_id") {
            return Some(Fault::new(
                "HE6",
                format!("user property `{key}` is Heap's own"),
            ));
        }
        match value {
            Value::String(text) if text.chars().count() >= PROPERTY_BELOW => {
                he1(format!("the value of `{key}` is too long"))
            }
            Value::String(_) | Value::Number(_) => None,
            Value::Array(_) if !of_user => None,
            Value::Bool(_) if booleans => None,
            Value::Bool(_) => Some(Fault::new("HE7", format!("`{key}` is a boolean"))),
            _ => he1(format!("`{key}` is neither string nor number")),
        }
    })
}

/// A value as Heap stores it: arrays joined with `||` and cut at 1024 characters.
pub(super) fn stored(value: &Value) -> Value {
    let Value::Array(items) = value else {
        return value.clone();
    };
    let texts: Vec<String> = items
        .iter()
        .map(|item| match item {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    Value::String(texts.join("||").chars().take(PROPERTY_BELOW).collect())
}
