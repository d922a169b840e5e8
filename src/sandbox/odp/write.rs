//! What is written to ODP: events, profiles, objects, lists and consent, item by item. Pure.

use std::hash::Hasher;

use serde_json::{Map, Value, json};

use super::people::note;
use super::{IDS_MAX, OBJECTS_MAX, Odp, Policies, accepted, problem};
use crate::clock::Millis;
use crate::sandbox::book::Marks;
use crate::sandbox::exchange::{Ask, Reply, text};

type Item = Map<String, Value>;

/// The items of a body, each with what is wrong with it.
struct Batch<'a> {
    items: Vec<&'a Item>,
    invalids: Vec<Value>,
}

/// Reads a body of one or many items, checking each. `what` names an item in the refusal's list.
fn batch<'a>(
    ask: &'a Ask<'_>,
    policies: &Policies,
    what: &str,
    marks: &mut Marks,
    check: impl Fn(&Item) -> Result<(), String>,
) -> Result<Batch<'a>, Reply> {
    let bad =
        |message: String| problem(ask.now_ms, 400, "Bad Request", &json!({"message": message}));
    let values: Vec<&Value> = match &ask.json {
        Some(Value::Array(values)) if !values.is_empty() => values.iter().collect(),
        Some(value @ Value::Object(_)) => vec![value],
        _ => {
            marks.refused("OD3", "the body is neither an object nor a list of some");
            return Err(bad(
                "the body must be an object or an array of objects".to_owned()
            ));
        }
    };
    if values.len() > policies.batch_max {
        marks.limit("OD4", format!("{} objects in one request", values.len()));
        let max = policies.batch_max;
        return Err(bad(format!("at most {max} objects in one request")));
    }
    let mut batch = Batch {
        items: Vec::with_capacity(values.len()),
        invalids: Vec::new(),
    };
    for (index, value) in values.iter().enumerate() {
        let checked = value
            .as_object()
            .ok_or_else(|| "must be an object".to_owned())
            .and_then(|item| check(item).map(|()| item));
        match checked {
            Ok(item) => batch.items.push(item),
            Err(message) => {
                marks.refused("OD3", format!("{what} {index}: {message}"));
                let mut invalid = Map::new();
                invalid.insert(what.to_owned(), json!(index));
                invalid.insert("message".to_owned(), json!(message));
                batch.invalids.push(Value::Object(invalid));
            }
        }
    }
    Ok(batch)
}

impl Odp {
    pub(super) fn post_events(
        &mut self,
        ask: &Ask<'_>,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Reply {
        match batch(ask, policies, "event", marks, event_fault) {
            Ok(batch) => self.finish(ask, policies, &batch, |odp, event| {
                odp.event(event, ask.now_ms, policies, marks);
            }),
            Err(refused) => refused,
        }
    }

    /// Stores what is good if all is, or if the policy says so, and answers.
    fn finish(
        &mut self,
        ask: &Ask<'_>,
        policies: &Policies,
        batch: &Batch<'_>,
        mut store: impl FnMut(&mut Self, &Item),
    ) -> Reply {
        if batch.invalids.is_empty() || policies.batch_partial {
            for item in &batch.items {
                store(self, item);
            }
        }
        if batch.invalids.is_empty() {
            return accepted(ask.now_ms);
        }
        let detail = json!({"invalids": batch.invalids});
        problem(ask.now_ms, 400, "Bad Request", &detail)
    }

    fn event(&mut self, event: &Item, now_ms: Millis, policies: &Policies, marks: &mut Marks) {
        let none = Map::new();
        let data = event
            .get("data")
            .and_then(Value::as_object)
            .unwrap_or(&none);
        if let Some(id) = data.get("idempotence_id").and_then(Value::as_str) {
            let mut hasher = siphasher::sip128::SipHasher13::new();
            hasher.write(id.as_bytes());
            let id = siphasher::sip128::Hasher128::finish128(&hasher).as_u128();
            let is_new = if self.ids.len() < IDS_MAX {
                self.ids.insert(id)
            } else {
                !self.ids.contains(&id)
            };
            if !is_new {
                self.counts.repeats += 1;
                marks.silent("OD9", "a repeat by idempotence_id");
                if policies.dedupe {
                    return;
                }
            }
        }
        let identifiers: Vec<(String, String)> = event
            .get("identifiers")
            .and_then(Value::as_object)
            .unwrap_or(&none)
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect();
        let kind = text(event, "type").unwrap_or_default();
        let action = text(event, "action").unwrap_or_default();
        self.counts.events += 1;
        *self.names.entry(format!("{kind}/{action}")).or_default() += 1;
        let who = identifiers
            .iter()
            .find(|(name, _)| name == "fs_user_id")
            .or(identifiers.first())
            .map(|(_, value)| value.clone())
            .unwrap_or_default();
        self.events
            .add(&who, &json!({"at_ms": now_ms, "event": event}));
        if kind == "passthrough" {
            self.passthrough(action, identifiers, data, policies, marks);
            return;
        }
        if let (Some(profile), Some((flag, variation))) =
            (self.people.resolve(identifiers.into_iter()), decision(data))
        {
            let at_ms = time_of(data).unwrap_or(now_ms);
            note(&mut profile.flags, flag, (at_ms, variation));
        }
    }

    /// A passthrough event moves its one person in or out of a segment that exists; anything else does nothing.
    fn passthrough(
        &mut self,
        action: &str,
        identifiers: Vec<(String, String)>,
        data: &Item,
        policies: &Policies,
        marks: &mut Marks,
    ) {
        let segment = text(data, "audience_id").map(str::to_lowercase);
        let ts = data.get("ts").and_then(Value::as_i64);
        let (Some(segment), Some(ts), [_], true) = (
            segment.filter(|segment| self.segments.contains_key(segment)),
            ts,
            identifiers.as_slice(),
            policies.passthrough && ["qualify", "disqualify"].contains(&action),
        ) else {
            self.counts.passthrough_ignored += 1;
            marks.silent("OD6", "a passthrough event without effect");
            return;
        };
        if let Some(profile) = self.people.resolve(identifiers.into_iter()) {
            let known = profile.segments.entry(segment).or_insert((false, ts));
            if ts >= known.1 {
                *known = (action == "qualify", ts);
            }
        }
    }

    pub(super) fn post_profiles(
        &mut self,
        ask: &Ask<'_>,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Reply {
        let check = |item: &Item| match item.get("attributes").and_then(Value::as_object) {
            None => Err("attributes must be an object".to_owned()),
            Some(attributes) if identifiers(attributes, policies).is_empty() => {
                Err("attributes must hold at least one identifier".to_owned())
            }
            Some(_) => Ok(()),
        };
        match batch(ask, policies, "profile", marks, check) {
            Ok(batch) => self.finish(ask, policies, &batch, |odp, profile| {
                odp.counts.profile_writes += 1;
                let attributes = profile.get("attributes").and_then(Value::as_object);
                let Some(attributes) = attributes else {
                    return;
                };
                let identifiers = identifiers(attributes, policies);
                if let Some(known) = odp.people.resolve(identifiers.into_iter()) {
                    let others = attributes
                        .iter()
                        .filter(|(name, _)| !policies.identifiers.contains(name));
                    known
                        .attributes
                        .extend(others.map(|(name, value)| (name.clone(), value.clone())));
                }
            }),
            Err(refused) => refused,
        }
    }

    pub(super) fn get_profile(&self, ask: &Ask<'_>) -> Reply {
        let found = url::form_urlencoded::parse(ask.query.as_bytes())
            .next()
            .and_then(|(name, value)| self.people.find(&name, &value));
        let Some(profile) = found else {
            let detail = json!({"message": "Profile not found."});
            return problem(ask.now_ms, 404, "Not Found", &detail);
        };
        let mut attributes = profile.attributes.clone();
        for (name, value) in &profile.identifiers {
            attributes.insert(name.clone(), json!(value));
        }
        // The reference shows 202 for this read.
        Reply::json(202, &json!({"attributes": attributes}))
    }

    pub(super) fn post_objects(
        &mut self,
        kind: &str,
        ask: &Ask<'_>,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Reply {
        // `products` has the primary key `product_id`.
        let key = format!("{}_id", kind.trim_end_matches('s'));
        let check = |item: &Item| match text(item, &key) {
            Some(_) => Ok(()),
            None => Err(format!("{key} is missing")),
        };
        match batch(ask, policies, "object", marks, check) {
            Ok(batch) => self.finish(ask, policies, &batch, |odp, item| {
                let objects = odp.objects.entry(kind.to_owned()).or_default();
                let id = text(item, &key).unwrap_or_default();
                if objects.len() < OBJECTS_MAX || objects.contains_key(id) {
                    objects.insert(id.to_owned(), json!(item));
                }
            }),
            Err(refused) => refused,
        }
    }

    pub(super) fn post_list(&mut self, ask: &Ask<'_>, marks: &mut Marks) -> Reply {
        let Some(name) = ask.object().and_then(|list| text(list, "name")) else {
            marks.refused("OD3", "a list without a name");
            let detail = json!({"field": "name", "reason": "missing"});
            return problem(ask.now_ms, 400, "Bad Request", &detail);
        };
        let id = crate::sandbox::exchange::slug(name);
        if self.lists.len() < OBJECTS_MAX {
            self.lists.entry(id.clone()).or_default();
        }
        let mut reply = json!({"title": "Accepted", "status": 202});
        reply["list_id"] = json!(id);
        Reply::json(202, &reply)
    }

    pub(super) fn subscribe(
        &mut self,
        ask: &Ask<'_>,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Reply {
        let check = |item: &Item| {
            let is_whole = text(item, "list_id").is_some()
                && text(item, "email").is_some()
                && item.get("subscribed").is_some_and(Value::is_boolean);
            is_whole
                .then_some(())
                .ok_or_else(|| "list_id, email and subscribed are needed".to_owned())
        };
        match batch(ask, policies, "subscription", marks, check) {
            Ok(batch) => self.finish(ask, policies, &batch, |odp, item| {
                let list = text(item, "list_id").unwrap_or_default();
                let email = text(item, "email").unwrap_or_default();
                let is_in = item.get("subscribed").and_then(Value::as_bool) == Some(true);
                let members = odp.lists.entry(list.to_owned()).or_default();
                if members.len() < OBJECTS_MAX {
                    members.insert(email.to_owned(), is_in);
                }
            }),
            Err(refused) => refused,
        }
    }

    pub(super) fn consent(
        &mut self,
        ask: &Ask<'_>,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Reply {
        let check = |item: &Item| {
            let is_whole = text(item, "identifier_field_name").is_some()
                && text(item, "identifier_value").is_some()
                && item.get("consent").is_some_and(Value::is_boolean);
            is_whole.then_some(()).ok_or_else(|| {
                "identifier_field_name, identifier_value and consent are needed".to_owned()
            })
        };
        match batch(ask, policies, "consent", marks, check) {
            Ok(batch) => self.finish(ask, policies, &batch, |odp, item| {
                let of = |field| text(item, field).unwrap_or_default().to_owned();
                let identifier = (of("identifier_field_name"), of("identifier_value"));
                if let Some(profile) = odp.people.resolve([identifier].into_iter()) {
                    let consent = item.get("consent").cloned().unwrap_or_default();
                    profile.attributes.insert("consent".to_owned(), consent);
                }
            }),
            Err(refused) => refused,
        }
    }
}

/// What is wrong with an event.
fn event_fault(event: &Item) -> Result<(), String> {
    for field in ["type", "action"] {
        text(event, field).ok_or_else(|| format!("{field} is missing"))?;
    }
    let identifiers = event
        .get("identifiers")
        .and_then(Value::as_object)
        .filter(|identifiers| !identifiers.is_empty())
        .ok_or("identifiers must hold at least one identifier")?;
    for (name, value) in identifiers {
        if value.as_str().is_none_or(str::is_empty) {
            return Err(format!("identifiers.{name} must be a text"));
        }
    }
    if event.get("data").is_some_and(|data| !data.is_object()) {
        return Err("data must be an object".to_owned());
    }
    Ok(())
}

fn identifiers(attributes: &Item, policies: &Policies) -> Vec<(String, String)> {
    policies
        .identifiers
        .iter()
        .filter_map(|name| Some((name.clone(), text(attributes, name)?.to_owned())))
        .collect()
}

/// Flag and variation in an event's data, under the names in use.
fn decision(data: &Item) -> Option<(String, Value)> {
    let flag = ["flag_key", "flag"]
        .iter()
        .find_map(|name| text(data, name))?;
    let variation = ["variation_key", "variation"]
        .iter()
        .find_map(|name| data.get(*name))
        .cloned()
        .unwrap_or_default();
    Some((flag.to_owned(), variation))
}

/// The time an event's data names, in Unix milliseconds: `ts` in seconds or milliseconds, or an ISO-8601 text.
fn time_of(data: &Item) -> Option<Millis> {
    ["ts", "timestamp", "decided_at"]
        .iter()
        .find_map(|name| match data.get(*name)? {
            Value::String(text) => text
                .parse::<jiff::Timestamp>()
                .ok()
                .map(|at| at.as_millisecond()),
            value => value.as_i64().map(|at| {
                // Unix seconds stay below this until the year 5138.
                if at < 100_000_000_000 {
                    at.saturating_mul(1_000)
                } else {
                    at
                }
            }),
        })
}
