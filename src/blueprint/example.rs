//! The examples in a blueprint: events, and exactly what they must become.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::amount::{iso8601, read_time};
use super::compile::{Compiler, find};
use super::diagnostic::Faults;
use super::eval::Val;
use super::expr::TableRef;
use super::table::Table;
use super::yaml::{Key, Node, Span};
use super::{Blueprint, ExampleResult, FieldKind, Mapping, Part, PartResult, Tables};
use crate::clock::Millis;
use crate::event::{Event, Kind, event_id};

/// One example.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) span: Span,
    event: Value,
    config: Map<String, Value>,
    tables: Vec<(String, Map<String, Value>)>,
    sends: Vec<(String, Value)>,
    /// (`skips`, `holds` or `refuses`, request, reason)
    others: Vec<(&'static str, String, String)>,
}

const KEYS: &[&str] = &[
    "name", "event", "config", "tables", "sends", "skips", "holds", "refuses",
];

impl Example {
    pub(crate) fn sends(&self, request: &str) -> bool {
        self.sends.iter().any(|(name, _)| name == request)
    }
}

impl Compiler<'_> {
    pub(crate) fn examples(&mut self, node: &Node) -> Vec<Example> {
        let Some(items) = node.list() else {
            self.shape(node, "`examples` is a list");
            return Vec::new();
        };
        items.iter().filter_map(|node| self.example(node)).collect()
    }

    fn example(&mut self, node: &Node) -> Option<Example> {
        let members = self.group_of(node, "an example");
        self.known_keys(members, KEYS, "an example");
        let place = node.span.start..node.span.start;
        let name = match find(members, "name") {
            Some(name) => self.plain_text(name, "name"),
            None => {
                self.faults.error(
                    "missing",
                    place.clone(),
                    "an example needs a `name`: what it shows".to_owned(),
                );
                None
            }
        };
        let span = find(members, "name").map_or(place, |name| name.span.clone());
        let Some(event) = find(members, "event") else {
            self.faults
                .error("missing", span, "an example needs an `event`".to_owned());
            return None;
        };
        let json = event.to_json();
        if let Err(message) = event_of(&json, 0) {
            self.shape(event, message);
        }
        let mut sends = Vec::new();
        if let Some(node) = find(members, "sends") {
            for (key, node) in self.group_of(node, "`sends`") {
                self.known_request(key);
                sends.push((key.text.clone(), node.to_json()));
            }
        }
        let mut others = Vec::new();
        for what in ["skips", "holds", "refuses"] {
            if let Some(node) = find(members, what) {
                for (key, node) in self.group_of(node, "a request's reason") {
                    self.known_request(key);
                    if let Some(reason) = self.plain_text(node, "reason") {
                        others.push((what, key.text.clone(), reason));
                    }
                }
            }
        }
        let says = ["sends", "skips", "holds", "refuses"];
        if !members
            .iter()
            .any(|(key, _)| says.contains(&key.text.as_str()))
        {
            self.faults.push(
                "missing",
                span.clone(),
                "an example says what is sent".to_owned(),
                Some("write `sends: {}` when nothing is".to_owned()),
            );
        }
        let tables = self.example_tables(find(members, "tables"));
        let config = find(members, "config").map(|node| {
            for (key, _) in self.group_of(node, "`config`") {
                if !self.fields.iter().any(|field| field.key == key.text) {
                    let known: Vec<String> =
                        self.fields.iter().map(|field| field.key.clone()).collect();
                    self.unknown_key(key, known.iter().map(String::as_str), "`config`");
                }
            }
            object(node)
        });
        Some(Example {
            name: name?,
            span,
            event: json,
            config: config.unwrap_or_default(),
            tables,
            sends,
            others,
        })
    }

    fn known_request(&mut self, key: &Key) {
        if !self.requests.iter().any(|request| request.name == key.text) {
            let known: Vec<String> = self.requests.iter().map(|r| r.name.clone()).collect();
            self.unknown_key(key, known.iter().map(String::as_str), "`requests`");
        }
    }

    fn example_tables(&mut self, node: Option<&Node>) -> Vec<(String, Map<String, Value>)> {
        let Some(node) = node else { return Vec::new() };
        let mut tables = Vec::new();
        for (key, node) in self.group_of(node, "`tables`") {
            let remote: Vec<String> = self
                .tables
                .iter()
                .filter(|table| matches!(table.reference, TableRef::Remote(_)))
                .map(|table| table.name.clone())
                .collect();
            if !remote.contains(&key.text) {
                self.unknown_key(
                    key,
                    remote.iter().map(String::as_str),
                    "what is read from a URL",
                );
            }
            tables.push((key.text.clone(), object(node)));
        }
        tables
    }
}

fn object(node: &Node) -> Map<String, Value> {
    match node.to_json() {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// An event as an app posts it, made whole as the gateway makes it when it accepts it: for examples and trials.
///
/// # Errors
/// When it is no event: what is wrong, for people.
pub fn event_of(posted: &Value, now_ms: Millis) -> Result<Event, String> {
    let Value::Object(posted) = posted else {
        return Err("an event is a group of fields".to_owned());
    };
    let kind = posted.get("type").and_then(Value::as_str).unwrap_or("");
    let kind: Kind = serde_json::from_value(Value::from(kind)).map_err(|_| {
        "an event needs a `type`: track, identify, page, screen, group, alias or decision"
            .to_owned()
    })?;
    if kind == Kind::Track && !posted.get("event").is_some_and(Value::is_string) {
        return Err("a track event needs its name under `event`".to_owned());
    }
    let time = |key: &str| match posted.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read_time(&Val::Json(value))
            .map(Some)
            .ok_or_else(|| format!("`{key}` is not a time: write 2026-11-20T14:03:27.412Z")),
    };
    let timestamp = time("timestamp")?;
    let received_at_ms = time("receivedAt")?.or(timestamp).unwrap_or(now_ms);
    let timestamp_ms = timestamp.unwrap_or(received_at_ms);
    let text = |key: &str, default: &str| {
        posted
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or(default)
            .to_owned()
    };
    let source = text("source", "example");
    let message_id = text("messageId", "example");
    let id = match posted.get("eventId").and_then(Value::as_str) {
        Some(id) => Uuid::parse_str(id).map_err(|_| "`eventId` is a UUID".to_owned())?,
        None => event_id(&source, &message_id),
    };
    let mut fields = posted.clone();
    for (key, value) in [
        ("eventId", id.to_string()),
        ("messageId", message_id.clone()),
        ("timestamp", iso8601(timestamp_ms).unwrap_or_default()),
        ("receivedAt", iso8601(received_at_ms).unwrap_or_default()),
    ] {
        fields.insert(key.to_owned(), Value::String(value));
    }
    Ok(Event {
        kind,
        event_id: id,
        source,
        message_id,
        received_at_ms,
        timestamp_ms,
        fields,
    })
}

impl Blueprint {
    /// Runs the blueprint's examples.
    #[must_use]
    pub fn run_examples(&self) -> Vec<ExampleResult> {
        self.examples
            .iter()
            .map(|example| {
                let detail = self.run_example(example).err();
                ExampleResult {
                    name: example.name.clone(),
                    passed: detail.is_none(),
                    detail,
                }
            })
            .collect()
    }

    /// Runs the examples and says which fail, at their place.
    pub(super) fn check_examples(&self, faults: &mut Faults) {
        for example in &self.examples {
            if let Err(detail) = self.run_example(example) {
                faults.error(
                    "example",
                    example.span.clone(),
                    format!("this example does not hold: {detail}"),
                );
            }
        }
    }

    /// A config for trials: what is entered, and made-up values for what is not.
    ///
    /// # Errors
    /// What is wrong with the entered values, for people.
    pub fn trial_config(&self, entered: &Map<String, Value>) -> Result<super::Config, String> {
        let mut filled = entered.clone();
        for field in self.fields() {
            if filled.contains_key(&field.key) || field.optional || field.default.is_some() {
                continue;
            }
            let value = match &field.kind {
                FieldKind::Text | FieldKind::Secret => Value::from(format!("<{}>", field.key)),
                FieldKind::Url => Value::from("https://example.com"),
                FieldKind::Choice(options) => options
                    .first()
                    .map_or(Value::Null, |(_, value)| Value::from(value.as_str())),
                FieldKind::Number => Value::from(0),
                FieldKind::YesNo => Value::Bool(false),
            };
            filled.insert(field.key.clone(), value);
        }
        self.read_config(&filled, "config").map_err(|faults| {
            let lines: Vec<String> = faults
                .into_iter()
                .map(|fault| format!("{}: {}", fault.field, fault.message))
                .collect();
            lines.join("; ")
        })
    }

    fn run_example(&self, example: &Example) -> Result<(), String> {
        let config = self.trial_config(&example.config)?;
        let plan = self.bind(&config, &|_| true).map_err(|faults| {
            faults.first().map_or_else(String::new, |fault| {
                format!("{}: {}", fault.field, fault.message)
            })
        })?;
        let tables: BTreeMap<String, Arc<Table>> = example
            .tables
            .iter()
            .map(|(name, rows)| (name.clone(), Arc::new(Table::of(rows.clone()))))
            .collect();
        let tables = Tables { tables };
        let event = event_of(&example.event, 0)?;
        let parts = match plan.map(&event, &tables) {
            Mapping::Skipped(_) => Vec::new(),
            Mapping::Parts(parts) => parts,
        };
        self.compare(example, &parts)
    }

    fn compare(&self, example: &Example, parts: &[Part]) -> Result<(), String> {
        for (name, wanted) in &example.sends {
            match self.part(parts, name).map(|part| &part.result) {
                Some(PartResult::Item { json, .. }) => {
                    let at = self.requests.iter().find(|request| request.name == *name);
                    let json = at
                        .map_or_else(|| json.to_vec(), |def| super::request::bare_item(def, json));
                    let sent: Value = serde_json::from_slice(&json)
                        .map_err(|error| format!("`{name}` is not JSON: {error}"))?;
                    differ(name, wanted, &sent).map_or(Ok(()), Err)?;
                }
                Some(other) => return Err(format!("`{name}` is not sent: {}", reason(other))),
                None => return Err(format!("nothing is sent as `{name}`")),
            }
        }
        for (what, name, wanted) in &example.others {
            let result = self.part(parts, name).map(|part| &part.result);
            let (found, reason_text, detail) = match result {
                Some(PartResult::Skipped { reason }) => ("skips", reason.as_str(), ""),
                Some(PartResult::Held { reason, detail, .. }) => {
                    ("holds", reason.as_str(), detail.as_str())
                }
                Some(PartResult::Refused { reason, detail }) => {
                    ("refuses", reason.as_str(), detail.as_str())
                }
                Some(PartResult::Item { .. }) => ("sends", "", ""),
                None => return Err(format!("nothing is sent as `{name}`")),
            };
            if found != *what || (reason_text != wanted && detail != wanted) {
                let found = result.map_or_else(String::new, reason);
                return Err(format!("`{name}`: {found}"));
            }
        }
        for part in parts {
            let Some(request) = self.requests.get(part.request) else {
                continue;
            };
            let listed = example.sends(&request.name)
                || example
                    .others
                    .iter()
                    .any(|(_, name, _)| *name == request.name);
            if !listed {
                return Err(format!(
                    "`{}` is not expected: {}",
                    request.name,
                    reason(&part.result)
                ));
            }
        }
        Ok(())
    }

    fn part<'p>(&self, parts: &'p [Part], name: &str) -> Option<&'p Part> {
        parts.iter().find(|part| {
            self.requests
                .get(part.request)
                .is_some_and(|request| request.name == name)
        })
    }
}

fn reason(result: &PartResult) -> String {
    match result {
        PartResult::Item { json, .. } => {
            format!("it sends {}", String::from_utf8_lossy(json))
        }
        PartResult::Skipped { reason } => format!("it is skipped: {reason}"),
        PartResult::Refused { reason, detail } => format!("it is refused: {reason} ({detail})"),
        PartResult::Held { reason, detail, .. } => format!("it is held: {reason} ({detail})"),
    }
}

/// The first place where two values differ, in words.
fn differ(path: &str, wanted: &Value, sent: &Value) -> Option<String> {
    match (wanted, sent) {
        (Value::Object(wanted), Value::Object(sent)) => {
            for (key, value) in wanted {
                let here = format!("{path}.{key}");
                match sent.get(key) {
                    Some(sent) => {
                        if let Some(found) = differ(&here, value, sent) {
                            return Some(found);
                        }
                    }
                    None => return Some(format!("`{here}` is not sent; it should be {value}")),
                }
            }
            sent.iter()
                .find(|(key, _)| !wanted.contains_key(*key))
                .map(|(key, value)| format!("`{path}.{key}` is sent ({value}) but not expected"))
        }
        (Value::Array(wanted), Value::Array(sent)) => {
            if let Some(found) = wanted
                .iter()
                .zip(sent)
                .enumerate()
                .find_map(|(at, (wanted, sent))| differ(&format!("{path}.{at}"), wanted, sent))
            {
                return Some(found);
            }
            (wanted.len() != sent.len()).then(|| {
                format!(
                    "`{path}` has {} items; {} are expected",
                    sent.len(),
                    wanted.len()
                )
            })
        }
        (wanted, sent) if wanted == sent => None,
        (wanted, sent) => Some(format!("`{path}` is {sent}; it should be {wanted}")),
    }
}
