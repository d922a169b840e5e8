//! The sandbox's Heap: track and user or account properties, single and bulk, in two regions over one store. Pure.
//!
//! Sources: Heap's API reference (fields, sizes, rates, `idempotency_key`). Heap promises no error detail: a refusal
//! is `{}`; here the rule stands in the header `x-sandbox-reason`. Where Heap is silent a policy decides.
//!
//! Rules: HE1 fields, HE2 bulk size and bulk refusal, HE3 idempotency key seen, HE4 rates, HE5 region, HE6 values
//! stored otherwise than sent, HE7 booleans.

mod check;

use std::collections::BTreeMap;
use std::hash::Hasher;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::book::Marks;
use super::exchange::{Ask, Reply, text};
use super::ring::Ring;
use super::window::{Meter, Window};
use super::world::{Look, by_user};
use crate::clock::Millis;
use check::{Fault, event_fault, properties_fault, stored};

/// What Heap can be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policies {
    /// App ids that live in the US; asking the EU for one is the wrong region.
    pub us_apps: Vec<String>,
    /// App ids that live in the EU.
    pub eu_apps: Vec<String>,
    /// How the wrong region answers.
    pub wrong_region: WrongRegion,
    /// Booleans as property values.
    pub booleans: Booleans,
    /// Good items of a refused bulk call are stored, and the reply is 200.
    pub bulk_partial: bool,
    /// Rates are enforced.
    pub rate_limits: bool,
    /// Requests per identity.
    pub identity_requests: Window,
    /// Events per identity.
    pub identity_events: Window,
    /// Events per app.
    pub app_events: Window,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            us_apps: Vec::new(),
            eu_apps: Vec::new(),
            wrong_region: WrongRegion::BadRequest,
            booleans: Booleans::Reject,
            bulk_partial: false,
            rate_limits: true,
            identity_requests: Window::new(30, 30_000),
            identity_events: Window::new(1_000, 60_000),
            app_events: Window::new(15_000, 60_000),
        }
    }
}

/// Answers of the wrong region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrongRegion {
    /// 400.
    BadRequest,
    /// 302 to the other one.
    Redirect,
}

/// What becomes of booleans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Booleans {
    /// 400: the reference names strings and numbers only.
    Reject,
    /// Stored as they are.
    Accept,
}

/// Heap's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// `heapanalytics.com`
    Us,
    /// `c.eu.heap-api.com`
    Eu,
}

/// Items of a bulk call.
const BULK_MAX: usize = 1_000;
/// People kept; more are counted, not remembered.
const USERS_MAX: usize = 500_000;
/// Idempotency keys remembered.
const KEYS_MAX: usize = 4_000_000;
/// Apps whose rate is kept.
const APPS_MAX: usize = 1_000;

/// What Heap holds.
#[derive(Debug, Default)]
pub struct Heap {
    users: HashMap<String, User>,
    accounts: BTreeMap<String, Map<String, Value>>,
    events: Ring,
    names: BTreeMap<String, u64>,
    keys: HashSet<u128>,
    apps: BTreeMap<String, Meter>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct User {
    properties: Map<String, Value>,
    requests: Meter,
    events: Meter,
    event_count: u64,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    /// Events stored.
    events: u64,
    /// Repeats by idempotency key, not stored.
    repeats: u64,
    /// Property writes.
    property_writes: u64,
    users_not_remembered: u64,
    keys_not_remembered: u64,
}

/// What may be added through `PUT /_sandbox/state/heap`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    /// Properties by identity.
    users: BTreeMap<String, Map<String, Value>>,
}

/// One kind of write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Track,
    Users,
    Accounts,
}

impl Kind {
    /// Field of the list in a bulk body.
    fn list(self) -> &'static str {
        match self {
            Self::Track => "events",
            Self::Users => "users",
            Self::Accounts => "accounts",
        }
    }
}

impl Heap {
    /// Answers one request.
    pub fn answer(
        &mut self,
        ask: &Ask<'_>,
        region: Region,
        policies: &Policies,
        grace_ms: u64,
        marks: &mut Marks,
    ) -> Reply {
        let (method, path) = ask.route();
        let (endpoint, kind) = match (method, path.as_slice()) {
            ("POST", ["api", "track"]) => ("POST track", Some(Kind::Track)),
            ("POST", ["api", "add_user_properties"]) => {
                ("POST add_user_properties", Some(Kind::Users))
            }
            ("POST", ["api", "add_account_properties"]) => {
                ("POST add_account_properties", Some(Kind::Accounts))
            }
            ("POST", ["api", "v1", "identify"]) => ("POST identify", None),
            _ => {
                marks.endpoint = "unknown";
                return Reply::empty(404);
            }
        };
        marks.endpoint = endpoint;
        let Some(body) = ask.object() else {
            return refused(marks, Fault::new("HE1", "the body is no JSON object"));
        };
        let Some(app) = app_id(body) else {
            return refused(marks, Fault::new("HE1", "app_id is missing"));
        };
        if let Some(reply) = elsewhere(&app, region, policies, ask, marks) {
            return reply;
        }
        match kind {
            Some(kind) => self.write(kind, &app, body, ask.now_ms, policies, grace_ms, marks),
            None => match (text(body, "identity"), body.get("user_id")) {
                (Some(_), Some(_)) => ok(),
                _ => refused(marks, Fault::new("HE1", "identity and user_id are needed")),
            },
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, of one caller")]
    fn write(
        &mut self,
        kind: Kind,
        app: &str,
        body: &Map<String, Value>,
        now_ms: Millis,
        policies: &Policies,
        grace_ms: u64,
        marks: &mut Marks,
    ) -> Reply {
        let items: Vec<&Map<String, Value>> = match body.get(kind.list()) {
            None => vec![body],
            Some(Value::Array(list)) if list.len() > BULK_MAX => {
                let what = format!("{} {} in one call", list.len(), kind.list());
                marks.limit("HE2", what);
                return with_reason(Reply::json(400, &json!({})), "HE2");
            }
            Some(Value::Array(list)) if !list.is_empty() => {
                let items: Option<Vec<_>> = list.iter().map(Value::as_object).collect();
                let Some(items) = items else {
                    return refused(marks, Fault::new("HE1", "an item is no object"));
                };
                items
            }
            Some(_) => return refused(marks, Fault::new("HE1", "an empty bulk call")),
        };
        let mut good = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match fault(kind, item, policies) {
                None => good.push(*item),
                Some(fault) if policies.bulk_partial && items.len() > 1 => {
                    marks.silent(fault.rule, format!("item {index}: {}", fault.why));
                }
                Some(mut fault) => {
                    fault.why = format!("item {index}: {}", fault.why);
                    return refused(marks, fault);
                }
            }
        }
        if policies.rate_limits
            && kind != Kind::Accounts
            && let Some(why) = self.over_rate(kind, app, &good, now_ms, policies, grace_ms)
        {
            marks.limit("HE4", why);
            return with_reason(Reply::json(429, &json!({})), "HE4");
        }
        for item in good {
            self.store(kind, app, item, now_ms, marks);
        }
        ok()
    }

    /// Uses up the rates of a call, or says which has no room (and uses none up).
    fn over_rate(
        &mut self,
        kind: Kind,
        app: &str,
        items: &[&Map<String, Value>],
        now_ms: Millis,
        policies: &Policies,
        grace_ms: u64,
    ) -> Option<String> {
        let mut by_identity: BTreeMap<&str, u64> = BTreeMap::new();
        for item in items {
            *by_identity.entry(identity(item)).or_default() += 1;
        }
        let is_track = kind == Kind::Track;
        let (requests, events) = (&policies.identity_requests, &policies.identity_events);
        let total = items.len() as u64;
        let app_meter = self.apps.get(app).copied().unwrap_or_default();
        let left = |meter: &Meter, window: &Window| meter.room(window, now_ms, grace_ms).remaining;
        if is_track && left(&app_meter, &policies.app_events) < total {
            return Some(format!("{total} events more than app {app} may send"));
        }
        for (identity, count) in &by_identity {
            let Some(user) = self.users.get(*identity) else {
                // Nobody new is over a rate, but for a bulk call full of one person.
                if is_track && *count > events.limit {
                    return Some(format!("{count} events of {identity} at once"));
                }
                continue;
            };
            if left(&user.requests, requests) == 0 {
                let Window { limit, per_ms } = requests;
                return Some(format!(
                    "over {limit} requests in {per_ms} ms of {identity}"
                ));
            }
            if is_track && left(&user.events, events) < *count {
                let Window { limit, per_ms } = events;
                return Some(format!("over {limit} events in {per_ms} ms of {identity}"));
            }
        }
        if is_track && (self.apps.len() < APPS_MAX || self.apps.contains_key(app)) {
            let meter = self.apps.entry(app.to_owned()).or_default();
            meter.add(&policies.app_events, total, now_ms, grace_ms);
        }
        for (identity, count) in by_identity {
            let Some(user) = self.user(identity) else {
                continue;
            };
            user.requests.add(requests, 1, now_ms, grace_ms);
            if is_track {
                user.events.add(events, count, now_ms, grace_ms);
            }
        }
        None
    }

    /// A person; made when new, none when there are too many.
    fn user(&mut self, identity: &str) -> Option<&mut User> {
        if !self.users.contains_key(identity) {
            if self.users.len() >= USERS_MAX {
                self.counts.users_not_remembered += 1;
                return None;
            }
            self.users.insert(identity.to_owned(), User::default());
        }
        self.users.get_mut(identity)
    }

    fn store(
        &mut self,
        kind: Kind,
        app: &str,
        item: &Map<String, Value>,
        now_ms: Millis,
        marks: &mut Marks,
    ) {
        let none = Map::new();
        let given = item.get("properties").and_then(Value::as_object);
        let mut properties = Map::new();
        for (key, value) in given.unwrap_or(&none) {
            let kept = stored(value);
            if kept != *value {
                marks.silent("HE6", format!("{key} stored as text"));
            }
            properties.insert(key.clone(), kept);
        }
        match kind {
            Kind::Track => self.event(app, item, properties, now_ms, marks),
            Kind::Users => {
                self.counts.property_writes += 1;
                if let Some(user) = self.user(identity(item)) {
                    user.properties.extend(properties);
                }
            }
            Kind::Accounts => {
                let id = plain(item.get("account_id"));
                if self.accounts.contains_key(&id) || self.accounts.len() < USERS_MAX {
                    self.accounts.entry(id).or_default().extend(properties);
                }
            }
        }
    }

    fn event(
        &mut self,
        app: &str,
        item: &Map<String, Value>,
        properties: Map<String, Value>,
        now_ms: Millis,
        marks: &mut Marks,
    ) {
        if let Some(key) = item.get("idempotency_key") {
            let mut hasher = siphasher::sip128::SipHasher13::new();
            hasher.write(app.as_bytes());
            hasher.write_u8(0);
            hasher.write(plain(Some(key)).as_bytes());
            let key = siphasher::sip128::Hasher128::finish128(&hasher).as_u128();
            if self.keys.contains(&key) {
                self.counts.repeats += 1;
                marks.silent("HE3", "a repeat by idempotency_key");
                return;
            }
            if self.keys.len() < KEYS_MAX {
                self.keys.insert(key);
            } else {
                self.counts.keys_not_remembered += 1;
            }
        }
        let name = text(item, "event").unwrap_or_default();
        self.counts.events += 1;
        *self.names.entry(name.to_owned()).or_default() += 1;
        let who = identity(item);
        if let Some(user) = self.user(who) {
            user.event_count += 1;
        }
        let mut event = item.clone();
        event.insert("properties".to_owned(), Value::Object(properties));
        self.events.add(
            who,
            &json!({"at_ms": now_ms, "app_id": app, "event": event}),
        );
    }

    /// People with their properties, events.
    #[must_use]
    pub fn state(&self, look: &Look) -> Value {
        let about = look.user.as_deref();
        let users: Map<String, Value> = match about {
            Some(user) => self
                .users
                .get_key_value(user)
                .into_iter()
                .collect::<Vec<_>>(),
            None => self.users.iter().take(look.limit).collect(),
        }
        .into_iter()
        .map(|(identity, user)| {
            let shown = json!({"properties": user.properties, "events": user.event_count});
            (identity.clone(), shown)
        })
        .collect();
        let mut counts = serde_json::to_value(&self.counts).unwrap_or_default();
        counts["users"] = json!(self.users.len());
        json!({
            "counts": counts,
            "events_by_name": self.names,
            "users": users,
            "accounts": self.accounts.iter().take(look.limit).collect::<BTreeMap<_, _>>(),
            "events": self.events.latest(about, look.limit),
        })
    }

    /// Adds people.
    ///
    /// # Errors
    /// Never at present.
    pub fn seed(&mut self, seed: Seed) -> Result<(), String> {
        for (identity, properties) in seed.users {
            if let Some(user) = self.user(&identity) {
                user.properties.extend(properties);
            }
        }
        Ok(())
    }

    /// User properties `[Optimizely] <flag>` as `{user: {flag: value}}`.
    #[must_use]
    pub fn values(&self, user: Option<&str>) -> Value {
        let flags = |(identity, user): (&String, &User)| {
            let of = |(name, value): (&String, &Value)| {
                let flag = name.strip_prefix("[Optimizely] ")?;
                Some((flag.to_owned(), value.clone()))
            };
            let flags = user.properties.iter().filter_map(of).collect();
            (identity.clone(), Value::Object(flags))
        };
        match user {
            Some(user) => by_user(self.users.get_key_value(user).map(flags).into_iter()),
            None => by_user(self.users.iter().map(flags)),
        }
    }
}

fn ok() -> Reply {
    Reply::json(200, &json!({}))
}

fn with_reason(reply: Reply, rule: &'static str) -> Reply {
    reply.with("x-sandbox-reason", rule)
}

fn refused(marks: &mut Marks, fault: Fault) -> Reply {
    marks.refused(fault.rule, fault.why);
    with_reason(Reply::json(400, &json!({})), fault.rule)
}

/// What is wrong with an item, if anything.
fn fault(kind: Kind, item: &Map<String, Value>, policies: &Policies) -> Option<Fault> {
    let booleans = policies.booleans == Booleans::Accept;
    match kind {
        Kind::Track => event_fault(item, booleans),
        Kind::Users => {
            check::identity_fault(item).or_else(|| properties_fault(item, true, booleans))
        }
        Kind::Accounts => plain(item.get("account_id"))
            .is_empty()
            .then(|| Fault::new("HE1", "account_id is missing"))
            .or_else(|| properties_fault(item, false, booleans)),
    }
}

/// Who an item is about: identity, else user_id.
fn identity(item: &Map<String, Value>) -> &str {
    text(item, "identity")
        .or_else(|| text(item, "user_id"))
        .unwrap_or_default()
}

/// A text or number as text; "" for anything else.
fn plain(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// The app id: text, or the integer the account examples use.
fn app_id(body: &Map<String, Value>) -> Option<String> {
    Some(plain(body.get("app_id"))).filter(|app| !app.is_empty())
}

fn elsewhere(
    app: &str,
    region: Region,
    policies: &Policies,
    ask: &Ask<'_>,
    marks: &mut Marks,
) -> Option<Reply> {
    let (others, host) = match region {
        Region::Us => (&policies.eu_apps, "https://c.eu.heap-api.com"),
        Region::Eu => (&policies.us_apps, "https://heapanalytics.com"),
    };
    if !others.iter().any(|other| other == app) {
        return None;
    }
    marks.refused("HE5", "the app lives in the other region");
    let reply = match policies.wrong_region {
        WrongRegion::BadRequest => Reply::json(400, &json!({})),
        WrongRegion::Redirect => {
            Reply::empty(302).with("location", format!("{host}/{}", ask.path.join("/")))
        }
    };
    Some(with_reason(reply, "HE5"))
}

#[cfg(test)]
mod tests;
