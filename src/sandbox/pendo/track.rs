//! Pendo's track endpoint: what it refuses, and what it takes with 200 and never shows. Pure.

use serde_json::{Map, Value, json};

use super::{Pendo, Policies, UndefinedEvents, Who, rate_reply};
use crate::clock::Millis;
use crate::sandbox::book::Marks;
use crate::sandbox::exchange::{Ask, Reply, text};
use crate::sandbox::window::Window;

/// Older events are never processed.
const STALE_MS: Millis = 7 * 24 * 3_600_000;
/// Characters of a property name.
const NAME_MAX: usize = 32;
/// Bytes of an event's properties that are shown.
const SHOWN_BYTES_MAX: usize = 512;
/// Bytes of an event's properties that are kept.
const KEPT_BYTES_MAX: usize = 25 * 1024;
/// The shortest integer that can be Unix milliseconds: September 2001. Seconds stay below.
const MILLIS_MIN: Millis = 1_000_000_000_000;

impl Pendo {
    /// `POST /data/track`.
    pub(super) fn track(
        &mut self,
        ask: &Ask<'_>,
        policies: &Policies,
        grace_ms: u64,
        marks: &mut Marks,
    ) -> Reply {
        if ask.json.as_ref().is_some_and(Value::is_array) {
            marks.refused("PE4", "an array");
            return Reply::empty(400);
        }
        let none = Map::new();
        let event = ask.object().unwrap_or(&none);
        let (name, visitor, at_ms) = match fields(event) {
            Ok(fields) => fields,
            Err(why) => {
                marks.refused("PE3", why);
                return Reply::empty(400);
            }
        };
        if let Some(reply) = self.visitor_rate(visitor, ask.now_ms, policies, grace_ms, marks) {
            return reply;
        }
        if let Some(person) = self.person(Who::Visitor, visitor) {
            person.events += 1;
            person.known |= policies.track_creates_visitors;
        }
        self.keep(event, name, visitor, at_ms, ask.now_ms, policies, marks);
        Reply::empty(200)
    }

    fn visitor_rate(
        &mut self,
        visitor: &str,
        now_ms: Millis,
        policies: &Policies,
        grace_ms: u64,
        marks: &mut Marks,
    ) -> Option<Reply> {
        if policies.visitor_interval_ms == 0 {
            return None;
        }
        let window = Window::new(1, policies.visitor_interval_ms);
        let person = self.person(Who::Visitor, visitor)?;
        if person.track.take(&window, 1, now_ms, grace_ms) {
            return None;
        }
        let interval = policies.visitor_interval_ms;
        marks.limit(
            "PE11",
            format!("{visitor}: two events within {interval} ms"),
        );
        rate_reply(policies)
    }

    /// Stores an event where its age and its properties put it.
    #[expect(clippy::too_many_arguments, reason = "one call, of one caller")]
    fn keep(
        &mut self,
        event: &Map<String, Value>,
        name: &str,
        visitor: &str,
        at_ms: Millis,
        now_ms: Millis,
        policies: &Policies,
        marks: &mut Marks,
    ) {
        let never = match self.defined.get(name) {
            _ if now_ms.saturating_sub(at_ms) > STALE_MS => {
                marks.limit("PE5", format!("{name}: older than 7 days"));
                Some("older than 7 days")
            }
            Some(since_ms) if at_ms < *since_ms => {
                marks.silent("PE5", format!("{name}: before it was defined"));
                Some("before the event was defined")
            }
            None if policies.undefined_events == UndefinedEvents::Discard => {
                marks.silent("PE5", format!("{name}: not defined"));
                Some("not defined")
            }
            _ => None,
        };
        let mut event = event.clone();
        let hidden = self.properties(&mut event, marks);
        let mut stored = json!({"at_ms": now_ms, "event": event});
        if !hidden.is_empty() {
            stored["hidden"] = json!(hidden);
        }
        if let Some(why) = never {
            stored["why"] = json!(why);
            self.counts.discarded += 1;
            self.discarded.add(visitor, &stored);
        } else {
            self.counts.track_events += 1;
            *self.names.entry(name.to_owned()).or_default() += 1;
            self.events.add(visitor, &stored);
        }
    }

    /// Looks at the properties' sizes and names; the names nobody will see.
    fn properties(&mut self, event: &mut Map<String, Value>, marks: &mut Marks) -> Vec<String> {
        let Some(Value::Object(properties)) = event.get("properties") else {
            return Vec::new();
        };
        let bytes = Value::Object(properties.clone()).to_string().len();
        let hidden: Vec<String> = properties
            .keys()
            .filter(|name| !is_shown(name))
            .cloned()
            .collect();
        if !hidden.is_empty() {
            self.counts.hidden += 1;
            marks.limit("PE6", format!("property names {}", hidden.join(", ")));
        }
        if bytes > KEPT_BYTES_MAX {
            self.counts.replaced += 1;
            marks.limit("PE6", format!("properties of {bytes} bytes"));
            event.insert(
                "properties".to_owned(),
                json!({"error": "event properties JSON too large"}),
            );
        } else if bytes > SHOWN_BYTES_MAX {
            self.counts.too_large += 1;
            marks.limit("PE6", format!("properties of {bytes} bytes"));
            event.insert("too_large".to_owned(), json!(true));
        }
        hidden
    }
}

/// Name, visitor and time of an event that has all it needs.
fn fields(event: &Map<String, Value>) -> Result<(&str, &str, Millis), &'static str> {
    if event.get("type").and_then(Value::as_str) != Some("track") {
        return Err("`type` is not \"track\"");
    }
    let name = text(event, "event").ok_or("`event` is missing")?;
    let visitor = text(event, "visitorId").ok_or("`visitorId` is missing")?;
    let at_ms = event
        .get("timestamp")
        .and_then(Value::as_i64)
        .filter(|at_ms| *at_ms >= MILLIS_MIN)
        .ok_or("`timestamp` is no integer of milliseconds")?;
    let is_map = |field: &str| event.get(field).is_none_or(Value::is_object);
    if !is_map("properties") || !is_map("context") {
        return Err("`properties` or `context` is no object");
    }
    if event.get("accountId").is_some_and(|id| !id.is_string()) {
        return Err("`accountId` is no string");
    }
    Ok((name, visitor, at_ms))
}

/// Whether a property is shown under its name.
fn is_shown(name: &str) -> bool {
    let starts = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let of_pendo = name.starts_with("__") && name.ends_with("__") || name == "error";
    starts
        && !of_pendo
        && name.len() <= NAME_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
