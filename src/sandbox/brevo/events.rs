//! Brevo's events: the single call and the batch, field by field. Pure.

use serde_json::{Map, Value, json};

use super::people::Key;
use super::{Brevo, Call, Policies, UnknownContact, invalid, missing, refusal};
use crate::clock::Millis;
use crate::sandbox::book::Marks;
use crate::sandbox::exchange::{Reply, is_iso_time, text};

/// Events of one batch (Brevo's page on event endpoints).
const BATCH_MAX: usize = 200;
/// Bytes of one batch.
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Bytes of one event's properties.
const PROPERTIES_BYTES_MAX: usize = 50 * 1024;
/// Characters of names and keys.
const NAME_MAX: usize = 255;

impl Brevo {
    /// `POST /events`.
    pub(super) fn post_event(&mut self, call: &Call<'_>, marks: &mut Marks) -> Reply {
        let event = match body(call, marks) {
            Ok(event) => event,
            Err(refused) => return refused,
        };
        if let Err(why) = check(event, call.policies, marks) {
            return invalid(why);
        }
        self.take(event, call, marks);
        Reply::empty(204)
    }

    /// `POST /events/batch`.
    pub(super) fn post_batch(&mut self, call: &Call<'_>, marks: &mut Marks) -> Reply {
        if call.ask.body_bytes > BATCH_BYTES_MAX {
            marks.limit("BR5", format!("a batch of {} bytes", call.ask.body_bytes));
            return invalid("Request body size exceeds 512KB");
        }
        let events = match call.ask.json.as_ref() {
            Some(Value::Array(events)) if call.policies.bare_array => events,
            Some(Value::Array(_)) => {
                marks.refused("BR5", "a batch that is a bare array");
                return invalid("events must be sent in the `events` field of an object");
            }
            _ => match body(call, marks).map(|body| body.get("events")) {
                Ok(Some(Value::Array(events))) => events,
                Ok(_) => {
                    marks.refused("BR5", "no `events` array");
                    return invalid("events is required and must be an array");
                }
                Err(refused) => return refused,
            },
        };
        if events.is_empty() {
            marks.refused("BR5", "an empty batch");
            return invalid("events should not be empty");
        }
        if events.len() > BATCH_MAX {
            marks.limit("BR5", format!("a batch of {} events", events.len()));
            return invalid("events cannot be more than 200");
        }
        let mut errors = Vec::new();
        for (index, event) in events.iter().enumerate() {
            match event
                .as_object()
                .ok_or("event must be an object".to_owned())
            {
                Ok(event) => match check(event, call.policies, marks) {
                    Ok(()) => self.take(event, call, marks),
                    Err(why) => errors.push(json!({"eventIndex": [index], "message": why})),
                },
                Err(why) => errors.push(json!({"eventIndex": [index], "message": why})),
            }
        }
        batch_reply(events.len(), errors, call.policies.undercount, marks)
    }

    /// Stores a good event and what it says about its contact.
    fn take(&mut self, event: &Map<String, Value>, call: &Call<'_>, marks: &mut Marks) {
        let none = Map::new();
        let identifiers = event
            .get("identifiers")
            .and_then(Value::as_object)
            .unwrap_or(&none);
        let known = self.resolve(identifiers);
        let contact = match (known, call.policies.unknown_contact) {
            (Some(id), _) => Some(id),
            (None, UnknownContact::Create) => self.create(identifiers, call.ask.now_ms),
            (None, UnknownContact::Ignore) => {
                marks.silent("BR14", "an event of an unknown contact");
                None
            }
        };
        let properties = event.get("contact_properties").and_then(Value::as_object);
        if let (Some(id), Some(properties)) = (contact, properties) {
            self.set_attributes(id, properties, call.policies, marks);
        }
        let who = contact
            .and_then(|id| self.people.get(id))
            .map(|contact| contact.name())
            .or_else(|| text(identifiers, "ext_id").map(str::to_owned))
            .or_else(|| text(identifiers, "email_id").map(str::to_owned))
            .unwrap_or_default();
        let name = text(event, "event_name").unwrap_or_default();
        *self.names.entry(name.to_owned()).or_default() += 1;
        self.events.add(
            &who,
            &json!({"at_ms": call.ask.now_ms, "contact_id": contact, "event": event}),
        );
    }

    /// The contact an event's identifiers name; contact_id beats all others.
    fn resolve(&self, identifiers: &Map<String, Value>) -> Option<i64> {
        if let Some(id) = identifiers.get("contact_id").and_then(Value::as_i64) {
            return self.people.get(id).map(|contact| contact.id);
        }
        identifiers
            .iter()
            .find_map(|(name, value)| self.people.find(Key::of(name)?, value.as_str()?))
    }

    fn create(&mut self, identifiers: &Map<String, Value>, now_ms: Millis) -> Option<i64> {
        let id = self.new_id();
        self.people.create(id, now_ms);
        for (name, value) in identifiers {
            if let (Some(key), Some(value)) = (Key::of(name), value.as_str()) {
                self.people.key(id, key, value.to_owned());
            }
        }
        self.people.get(id).map(|contact| contact.id)
    }
}

/// The body as an object.
pub(super) fn body<'a>(
    call: &'a Call<'_>,
    marks: &mut Marks,
) -> Result<&'a Map<String, Value>, Reply> {
    match call.ask.object() {
        Some(body) if !body.is_empty() => Ok(body),
        _ if call.ask.body_bytes == 0 || call.ask.json.is_some() => {
            marks.refused("BR3", "no inputs");
            Err(missing("No inputs in the body"))
        }
        _ => {
            marks.refused("BR3", "no JSON");
            Err(refusal(400, "bad_request", "Unable to parse the JSON body"))
        }
    }
}

fn batch_reply(sent: usize, errors: Vec<Value>, undercount: u64, marks: &mut Marks) -> Reply {
    if errors.is_empty() {
        let count = (sent as u64).saturating_sub(undercount);
        return Reply::json(
            202,
            &json!({
                "message": "Batch accepted. Valid events have been added to the processing queue.",
                "count": count,
            }),
        );
    }
    let failed = errors.len();
    marks.refused("BR6", format!("{failed} of {sent} events failed"));
    let (status, word) = if failed == sent {
        (400, "failed")
    } else {
        (207, "partial_success")
    };
    Reply::json(
        status,
        &json!({
            "status": word, "total_events": sent, "successful_events": sent - failed,
            "failed_events": failed, "errors": errors,
        }),
    )
}

/// Whether an event's fields are what Brevo takes (rule BR4).
fn check(event: &Map<String, Value>, policies: &Policies, marks: &mut Marks) -> Result<(), String> {
    let found = fields(event).and_then(|()| texts(event, policies));
    if let Err(why) = &found {
        marks.refused("BR4", why.as_str());
        return found;
    }
    let size = event
        .get("event_properties")
        .map_or(0, |properties| properties.to_string().len());
    if size > PROPERTIES_BYTES_MAX {
        marks.limit("BR4", format!("event_properties of {size} bytes"));
        return Err("event_properties exceeds 50KB".to_owned());
    }
    Ok(())
}

/// Whether an event is free of the texts this account refuses.
fn texts(event: &Map<String, Value>, policies: &Policies) -> Result<(), String> {
    if policies.refused_texts.is_empty() {
        return Ok(());
    }
    let said = serde_json::to_string(event).unwrap_or_default();
    let refused = |text: &&String| said.contains(text.as_str());
    match policies.refused_texts.iter().find(refused) {
        Some(text) => Err(format!("`{text}` is not acceptable")),
        None => Ok(()),
    }
}

fn fields(event: &Map<String, Value>) -> Result<(), String> {
    let name = text(event, "event_name").ok_or("event_name is required")?;
    if !is_name(name) {
        return Err(
            "event_name must be at most 255 characters of letters, digits, - and _".to_owned(),
        );
    }
    let identifiers = event
        .get("identifiers")
        .and_then(Value::as_object)
        .filter(|identifiers| !identifiers.is_empty())
        .ok_or("identifiers must hold at least one identifier")?;
    for (name, value) in identifiers {
        let fits = match name.as_str() {
            "contact_id" => value.as_i64().is_some(),
            _ if Key::of(name).is_some() => value.as_str().is_some_and(|text| !text.is_empty()),
            _ => return Err(format!("identifiers.{name} is not an identifier")),
        };
        if !fits {
            return Err(format!("identifiers.{name} is invalid"));
        }
    }
    if let Some(date) = event.get("event_date") {
        let is_time = date
            .as_str()
            .is_some_and(|text| is_iso_time(text) || text.parse::<jiff::civil::Date>().is_ok());
        if !is_time {
            return Err("event_date must be an ISO-8601 date".to_owned());
        }
    }
    properties(event)
}

fn properties(event: &Map<String, Value>) -> Result<(), String> {
    if let Some(properties) = event.get("event_properties") {
        let properties = properties
            .as_object()
            .ok_or("event_properties must be an object")?;
        for (key, value) in properties {
            if !is_name(key) {
                return Err(format!("event_properties key `{key}` is invalid"));
            }
            if value.is_null() {
                return Err(format!("event_properties.{key} must not be null"));
            }
        }
    }
    if let Some(properties) = event.get("contact_properties") {
        let properties = properties
            .as_object()
            .ok_or("contact_properties must be an object")?;
        for (key, value) in properties {
            if !(value.is_string() || value.is_number() || value.is_boolean()) {
                return Err(format!(
                    "contact_properties.{key} must be a string, number or boolean"
                ));
            }
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
