//! The sandbox's ODP (Optimizely Data Platform): events, profiles, objects, lists, consent, segments and the GraphQL
//! question the SDKs ask for a user's segments. Pure.
//!
//! Sources: ODP's REST reference, its Node SDK (shapes, regions in keys), the Feature Experimentation SDKs (events
//! and GraphQL). Where ODP is silent a policy decides.
//!
//! Rules: OD1 key, OD2 region, OD3 fields of items (indexed), OD4 batch size, OD5 rates, OD6 passthrough events,
//! OD7 segment ids, OD8 GraphQL, OD9 repeats by idempotence_id.

mod graphql;
mod people;
mod write;

use std::collections::BTreeMap;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::book::Marks;
use super::config::is_good;
use super::exchange::{Ask, Reply};
use super::ring::Ring;
use super::window::{Meter, Window};
use super::world::{Look, by_user};
use crate::clock::Millis;
use people::People;

/// What ODP can be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policies {
    /// Good public keys; with none listed of either kind, any.
    pub public_keys: Vec<String>,
    /// Good private keys, which alone may read profiles and write segments.
    pub private_keys: Vec<String>,
    /// Region this host plays; a key of another is refused.
    pub region: Region,
    /// Which of ODP's published rate tables holds.
    pub rates: Rates,
    /// Objects of one request.
    pub batch_max: usize,
    /// Good items of a refused batch are stored all the same.
    pub batch_partial: bool,
    /// Repeats by `data.idempotence_id` are not stored.
    pub dedupe: bool,
    /// Passthrough events change segments (ODP switches this on by request).
    pub passthrough: bool,
    /// Segments asked for a person ODP does not know.
    pub unknown_user: UnknownUser,
    /// Attributes that identify a profile.
    pub identifiers: Vec<String>,
}

impl Default for Policies {
    fn default() -> Self {
        let identifiers = ["fs_user_id", "vuid", "email", "customer_id", "phone"];
        Self {
            public_keys: Vec::new(),
            private_keys: Vec::new(),
            region: Region::Us,
            rates: Rates::Current,
            batch_max: 500,
            batch_partial: false,
            dedupe: false,
            passthrough: false,
            unknown_user: UnknownUser::Error,
            identifiers: identifiers.map(str::to_owned).to_vec(),
        }
    }
}

/// ODP's regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// Keys without a suffix.
    Us,
    /// Keys ending in `-eu1`.
    Eu,
    /// Keys ending in `-au1`.
    Au,
}

/// ODP's rate tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rates {
    /// Lists and profiles 10/s, GraphQL 500/s, the rest unlimited.
    Current,
    /// 10/s for events and objects too.
    Older,
    /// No rates.
    Off,
}

/// Answers about unknown people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownUser {
    /// `INVALID_IDENTIFIER_EXCEPTION`.
    Error,
    /// No segment.
    Empty,
}

/// Idempotence ids remembered.
const IDS_MAX: usize = 4_000_000;
/// Objects kept per kind.
const OBJECTS_MAX: usize = 100_000;

/// One ODP account.
#[derive(Debug, Default)]
pub struct Odp {
    people: People,
    events: Ring,
    names: BTreeMap<String, u64>,
    ids: HashSet<u128>,
    /// By kind, by primary key.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Members' emails by list id.
    lists: BTreeMap<String, BTreeMap<String, bool>>,
    /// Segment documents by id.
    segments: BTreeMap<String, Value>,
    meters: BTreeMap<&'static str, Meter>,
    counts: Counts,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    events: u64,
    repeats: u64,
    profile_writes: u64,
    passthrough_ignored: u64,
}

/// What may be added through `PUT /_sandbox/state/odp`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    profiles: Vec<ProfileSeed>,
    /// Members by segment: their `fs_user_id`, or `vuid` where it looks like one.
    segments: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProfileSeed {
    identifiers: BTreeMap<String, String>,
    attributes: Map<String, Value>,
}

impl Odp {
    /// Answers one request.
    pub fn answer(
        &mut self,
        ask: &Ask<'_>,
        policies: &Policies,
        grace_ms: u64,
        marks: &mut Marks,
    ) -> Reply {
        let (method, path) = ask.route();
        let path = path.strip_prefix(&["v3"]).unwrap_or(&path);
        let key = ask.header("x-api-key");
        if let Some(rule) = key_fault(key, path, method, policies) {
            marks.endpoint = "forbidden";
            marks.refused(rule, "the key does not open this");
            return Reply::json(403, &json!({"message": "Forbidden"}));
        }
        if let Some(reply) = self.over_rate(path, policies, ask.now_ms, grace_ms, marks) {
            return reply;
        }
        let (endpoint, reply) = match (method, path) {
            ("POST", ["events"]) => ("POST events", self.post_events(ask, policies, marks)),
            ("POST", ["profiles"]) => ("POST profiles", self.post_profiles(ask, policies, marks)),
            ("GET", ["profiles"]) => ("GET profiles", self.get_profile(ask)),
            ("POST", ["objects", kind]) => (
                "POST objects",
                self.post_objects(kind, ask, policies, marks),
            ),
            ("POST", ["lists"]) => ("POST lists", self.post_list(ask, marks)),
            ("POST", ["lists", "subscriptions"]) => (
                "POST lists/subscriptions",
                self.subscribe(ask, policies, marks),
            ),
            ("POST", ["consent"]) => ("POST consent", self.consent(ask, policies, marks)),
            ("POST", ["graphql"]) => ("POST graphql", self.graphql(ask, policies, marks)),
            (_, ["segments", rest @ ..]) => ("segments", self.segment(method, rest, ask, marks)),
            _ => (
                "unknown",
                problem(
                    ask.now_ms,
                    404,
                    "Not Found",
                    &json!({"message": "no such path"}),
                ),
            ),
        };
        marks.endpoint = endpoint;
        reply
    }

    fn over_rate(
        &mut self,
        path: &[&str],
        policies: &Policies,
        now_ms: Millis,
        grace_ms: u64,
        marks: &mut Marks,
    ) -> Option<Reply> {
        let (name, limit) = match (path.first().copied(), policies.rates) {
            (_, Rates::Off) => return None,
            (Some("lists"), _) => ("lists", 10),
            (Some("profiles"), _) => ("profiles", 10),
            (Some("graphql"), _) => ("graphql", 500),
            (Some("events"), Rates::Older) => ("events", 10),
            (Some("objects"), Rates::Older) => ("objects", 10),
            _ => return None,
        };
        let window = Window::new(limit, 1_000);
        let meter = self.meters.entry(name).or_default();
        if meter.take(&window, 1, now_ms, grace_ms) {
            return None;
        }
        marks.endpoint = "limited";
        marks.limit(
            "OD5",
            format!("over {limit} requests of `{name}` in a second"),
        );
        let detail = json!({"message": "Rate limit exceeded"});
        Some(problem(now_ms, 429, "Too Many Requests", &detail))
    }

    fn segment(&mut self, method: &str, path: &[&str], ask: &Ask<'_>, marks: &mut Marks) -> Reply {
        let not_found = || {
            let detail = json!({"message": "Segment not found."});
            problem(ask.now_ms, 404, "Not Found", &detail)
        };
        let bad =
            |message: &str| problem(ask.now_ms, 400, "Bad Request", &json!({"message": message}));
        match (method, path) {
            ("GET", []) => {
                let ids: Vec<&String> = self.segments.keys().collect();
                Reply::json(200, &json!({"segment_ids": ids}))
            }
            ("GET", [id]) => self
                .segments
                .get(&id.to_lowercase())
                .map_or_else(not_found, |segment| Reply::json(200, segment)),
            ("DELETE", [id]) => match self.segments.remove(&id.to_lowercase()) {
                Some(_) => Reply::json(200, &json!({})),
                None => not_found(),
            },
            ("POST" | "PUT", [id]) => {
                if !is_segment_id(id) {
                    marks.refused("OD7", format!("`{id}` is no segment id"));
                    return bad("segment id must match [a-z][a-z0-9_]*");
                }
                let Some(document) = ask.object() else {
                    return bad("no JSON object");
                };
                let id = id.to_lowercase();
                let known = self.segments.get(&id);
                let revision = known.map_or(1, |known| known["revision"].as_i64().unwrap_or(0) + 1);
                let status = if known.is_some() { 200 } else { 201 };
                let mut document = document.clone();
                document.insert("revision".to_owned(), json!(revision));
                self.segments.insert(id, Value::Object(document));
                Reply::json(status, &json!({"revision": revision}))
            }
            _ => not_found(),
        }
    }

    /// Profiles with their segments, events, lists, objects.
    #[must_use]
    pub fn state(&self, look: &Look) -> Value {
        let about = look.user.as_deref();
        let mut counts = serde_json::to_value(&self.counts).unwrap_or_default();
        counts["profiles"] = json!(self.people.len());
        counts["profiles_not_remembered"] = json!(self.people.not_remembered);
        json!({
            "counts": counts,
            "events_by_name": self.names,
            "profiles": self.people.shown(about, look.limit),
            "segments": self.segments,
            "lists": self.lists,
            "objects": self.objects,
            "events": self.events.latest(about, look.limit),
        })
    }

    /// Adds profiles and segments with members.
    ///
    /// # Errors
    /// When a profile has no identifier or a segment id is none.
    pub fn seed(&mut self, seed: Seed, _now_ms: Millis) -> Result<(), String> {
        if let Some(index) = seed
            .profiles
            .iter()
            .position(|profile| profile.identifiers.is_empty())
        {
            return Err(format!("profiles[{index}].identifiers is empty"));
        }
        if let Some(id) = seed.segments.keys().find(|id| !is_segment_id(id)) {
            return Err(format!("segments: `{id}` does not match [a-z][a-z0-9_]*"));
        }
        for profile in seed.profiles {
            if let Some(known) = self.people.resolve(profile.identifiers.into_iter()) {
                known.attributes.extend(profile.attributes);
            }
        }
        for (segment, members) in seed.segments {
            for user in members {
                let name = people::identifier_of(&user);
                if let Some(known) = self.people.resolve([(name.to_owned(), user)].into_iter()) {
                    known.segments.insert(segment.clone(), (true, 0));
                }
            }
            let document = json!({"description": "", "revision": 1});
            self.segments.entry(segment).or_insert(document);
        }
        Ok(())
    }

    /// The variation in the newest event of each flag, as `{user: {flag: value}}`.
    #[must_use]
    pub fn values(&self, user: Option<&str>) -> Value {
        by_user(self.people.flags(user))
    }
}

/// Whether a key opens a path, or the rule it breaks.
fn key_fault(key: &str, path: &[&str], method: &str, policies: &Policies) -> Option<&'static str> {
    let is_listed = |list: &[String]| list.iter().any(|listed| listed == key);
    let any = policies.public_keys.is_empty() && policies.private_keys.is_empty();
    let is_known = any && is_good(&[], key)
        || is_listed(&policies.public_keys)
        || is_listed(&policies.private_keys);
    if !is_known {
        return Some("OD1");
    }
    let needs_private = matches!(
        (method, path),
        (_, ["segments", ..]) | ("GET", ["profiles"])
    );
    if needs_private && !policies.private_keys.is_empty() && !is_listed(&policies.private_keys) {
        return Some("OD1");
    }
    // A private key is the public one, a dot and a secret.
    let public = key.rsplit_once('.').map_or(key, |(public, _)| public);
    let region = if public.ends_with("-eu1") {
        Region::Eu
    } else if public.ends_with("-au1") {
        Region::Au
    } else {
        Region::Us
    };
    (region != policies.region).then_some("OD2")
}

fn is_segment_id(id: &str) -> bool {
    let id = id.to_lowercase();
    id.bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn time(now_ms: Millis) -> String {
    jiff::Timestamp::from_millisecond(now_ms)
        .map(|at| at.to_string())
        .unwrap_or_default()
}

fn accepted(now_ms: Millis) -> Reply {
    let body = json!({"title": "Accepted", "status": 202, "timestamp": time(now_ms)});
    Reply::json(202, &body)
}

fn problem(now_ms: Millis, status: u16, title: &str, detail: &Value) -> Reply {
    let at = time(now_ms);
    let body = json!({"title": title, "status": status, "timestamp": at, "detail": detail});
    Reply::json(status, &body)
}

#[cfg(test)]
mod tests;
