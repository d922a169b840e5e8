//! The sandbox's Pendo: track events on both hosts, metadata, schema and token check on the API host. Pure.
//!
//! Sources: Pendo's help centre (track event fields and limits), its own server provider (headers), the code of
//! others who call its API (metadata replies, statuses). Refusals have an empty body. Where Pendo is silent a policy
//! decides.
//!
//! Rules: PE1 secret or region wrong, PE2 read-only key, PE3 track fields, PE4 array on track, PE5 stale or undefined
//! events (taken with 200, then discarded), PE6 property names and sizes (taken with 200, then hidden), PE7 metadata
//! path, PE8 metadata body and fields, PE9 unknown people, PE10 too many records, PE11 rates, PE12 checks and schema.

mod metadata;
mod track;

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::book::Marks;
use super::config::is_good;
use super::exchange::{Ask, Reply};
use super::ring::Ring;
use super::window::{Meter, Window};
use super::world::{Look, by_user};
use crate::clock::Millis;

/// What Pendo can be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policies {
    /// Good integration keys with write access; none listed = any that is not listed otherwise.
    pub integration_keys: Vec<String>,
    /// Integration keys without write access.
    pub read_only_keys: Vec<String>,
    /// Good track event shared secrets; none listed = any that is not listed otherwise.
    pub track_secrets: Vec<String>,
    /// Keys and secrets of another region.
    pub other_region_keys: Vec<String>,
    /// Header the track secret has to come in.
    pub track_header: TrackHeader,
    /// Metadata fields nobody defined are created in group `custom`.
    pub autocreate_custom: bool,
    /// A track event makes its visitor known.
    pub track_creates_visitors: bool,
    /// Events nobody defined in Pendo.
    pub undefined_events: UndefinedEvents,
    /// Records of one metadata call; more take too long (408).
    pub max_records: usize,
    /// Least time between two track events of a visitor, in milliseconds; 0 = any.
    pub visitor_interval_ms: u64,
    /// Requests of a host in a second; 0 = any number.
    pub requests_per_s: u64,
    /// How a broken rate is answered.
    pub rate_reply: RateReply,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            integration_keys: Vec::new(),
            read_only_keys: Vec::new(),
            track_secrets: Vec::new(),
            other_region_keys: Vec::new(),
            track_header: TrackHeader::Either,
            autocreate_custom: false,
            track_creates_visitors: false,
            undefined_events: UndefinedEvents::Accept,
            max_records: 10_000,
            visitor_interval_ms: 0,
            requests_per_s: 0,
            rate_reply: RateReply::TooMany,
        }
    }
}

/// Where the track secret is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackHeader {
    /// `x-pendo-integration-key` or `x-pendo-track-event-secret`.
    Either,
    /// `x-pendo-integration-key`.
    IntegrationKey,
    /// `x-pendo-track-event-secret`.
    TrackEventSecret,
}

/// What becomes of events nobody defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UndefinedEvents {
    /// Processed.
    Accept,
    /// Taken with 200 and never processed.
    Discard,
}

/// Answers to a broken rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateReply {
    /// 429, empty.
    TooMany,
    /// 403 with the reason `rateLimitExceeded`.
    Forbidden,
    /// The usual answer: the breach is only counted.
    CountOnly,
}

/// Pendo's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// `app.pendo.io`: API and track.
    App,
    /// `data.pendo.io`: track only.
    Data,
}

/// Who metadata is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Visitor,
    Account,
}

impl Who {
    fn of(word: &str) -> Option<Self> {
        match word {
            "visitor" => Some(Self::Visitor),
            "account" => Some(Self::Account),
            _ => None,
        }
    }

    /// The id's field in a metadata record.
    fn id_field(self) -> &'static str {
        match self {
            Self::Visitor => "visitorId",
            Self::Account => "accountId",
        }
    }
}

/// People and accounts kept; more are counted, not remembered.
const PEOPLE_MAX: usize = 500_000;

/// One visitor or account.
#[derive(Debug, Default)]
struct Person {
    /// Known to Pendo; otherwise only its track rate is kept.
    known: bool,
    /// Values by field, by group.
    metadata: BTreeMap<String, Map<String, Value>>,
    track: Meter,
    events: u64,
}

/// A metadata field of the schema.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    /// `text`, `boolean`, `number`, `date`.
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    deleted: bool,
}

/// One Pendo subscription.
#[derive(Debug, Default)]
pub struct Pendo {
    visitors: HashMap<String, Person>,
    accounts: HashMap<String, Person>,
    /// Fields of groups `custom` and `agent`, by kind of person and group.
    schema: BTreeMap<(Who, String), BTreeMap<String, Field>>,
    /// Track events defined by an admin, and since when.
    defined: BTreeMap<String, Millis>,
    events: Ring,
    /// Taken with 200, never to be seen.
    discarded: Ring,
    names: BTreeMap<String, u64>,
    hosts: [Meter; 2],
    counts: Counts,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    track_events: u64,
    discarded: u64,
    /// Events with a property nobody will see.
    hidden: u64,
    /// Events over 512 bytes of properties.
    too_large: u64,
    /// Events over 25 KB, whose properties were replaced.
    replaced: u64,
    metadata_writes: u64,
    metadata_missing: u64,
    not_remembered: u64,
}

/// What may be added through `PUT /_sandbox/state/pendo`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    /// Known visitors.
    visitors: Vec<String>,
    /// Known accounts.
    accounts: Vec<String>,
    /// Types of the visitors' custom fields by name.
    visitor_fields: BTreeMap<String, String>,
    /// Types of the accounts' custom fields by name.
    account_fields: BTreeMap<String, String>,
    /// Names of fields to mark as deleted, of visitors.
    deleted_visitor_fields: Vec<String>,
    /// Track events defined, and since when in Unix milliseconds.
    track_events: BTreeMap<String, Millis>,
}

impl Pendo {
    /// Answers one request.
    pub fn answer(
        &mut self,
        ask: &Ask<'_>,
        host: Host,
        policies: &Policies,
        grace_ms: u64,
        marks: &mut Marks,
    ) -> Reply {
        let (method, path) = ask.route();
        if let Some(reply) = self.host_rate(ask, host, policies, grace_ms, marks) {
            return reply;
        }
        match (method, path.as_slice(), host) {
            ("POST", ["data", "track"], _) => {
                marks.endpoint = "POST track";
                if !may_track(ask, policies) {
                    marks.refused("PE1", "no good track secret");
                    return Reply::empty(403);
                }
                self.track(ask, policies, grace_ms, marks)
            }
            (_, ["api", "v1", rest @ ..], Host::App) => {
                let access = api_access(ask, policies);
                if access == Access::None {
                    marks.endpoint = "unauthorized";
                    marks.refused("PE1", "no good integration key");
                    return Reply::empty(403);
                }
                self.api(method, rest, ask, access, policies, marks)
            }
            _ => {
                marks.endpoint = "unknown";
                Reply::empty(404)
            }
        }
    }

    fn api(
        &mut self,
        method: &str,
        path: &[&str],
        ask: &Ask<'_>,
        access: Access,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Reply {
        let who = path.get(1).or(path.first()).copied().unwrap_or("");
        match (method, path) {
            ("GET", ["token", "verify"]) => {
                marks.endpoint = "GET token/verify";
                let write = access == Access::Write;
                Reply::json(200, &json!({"valid": true, "writeAccess": write}))
            }
            ("GET", ["metadata", "schema", who]) => {
                marks.endpoint = "GET metadata/schema";
                Who::of(who).map_or(Reply::empty(404), |who| {
                    Reply::json(200, &self.schema_reply(who))
                })
            }
            ("GET", ["visitor" | "account", id]) => {
                marks.endpoint = "GET person";
                let people = self.people(Who::of(who).unwrap_or(Who::Visitor));
                match people.get(*id).filter(|person| person.known) {
                    Some(person) => {
                        let shown = json!({"id": id, "metadata": person.metadata});
                        Reply::json(200, &shown)
                    }
                    None => Reply::empty(404),
                }
            }
            ("POST" | "PUT", ["metadata", who, rest @ ..]) => {
                marks.endpoint = "POST metadata";
                if access != Access::Write {
                    marks.refused("PE2", "a read-only key");
                    return Reply::empty(403);
                }
                match (Who::of(who), method, rest) {
                    (Some(who), "POST", [group @ ("custom" | "agent"), "value"]) => {
                        self.write(who, group, ask, policies, marks)
                    }
                    (Some(who), "PUT", [group @ ("custom" | "agent"), "value", id, field]) => {
                        marks.endpoint = "PUT metadata";
                        self.write_one(who, group, id, field, ask, marks)
                    }
                    _ => {
                        marks.refused("PE7", "no metadata path with a group");
                        Reply::empty(404)
                    }
                }
            }
            _ => {
                marks.endpoint = "unknown";
                Reply::empty(404)
            }
        }
    }

    fn host_rate(
        &mut self,
        ask: &Ask<'_>,
        host: Host,
        policies: &Policies,
        grace_ms: u64,
        marks: &mut Marks,
    ) -> Option<Reply> {
        if policies.requests_per_s == 0 {
            return None;
        }
        let window = Window::new(policies.requests_per_s, 1_000);
        let [app, data] = &mut self.hosts;
        let meter = if host == Host::App { app } else { data };
        if meter.take(&window, 1, ask.now_ms, grace_ms) {
            return None;
        }
        marks.endpoint = "limited";
        let limit = policies.requests_per_s;
        marks.limit("PE11", format!("over {limit} requests in a second"));
        rate_reply(policies)
    }

    fn people(&self, who: Who) -> &HashMap<String, Person> {
        match who {
            Who::Visitor => &self.visitors,
            Who::Account => &self.accounts,
        }
    }

    /// A visitor or account; made when new, none when there are too many.
    fn person(&mut self, who: Who, id: &str) -> Option<&mut Person> {
        let people = match who {
            Who::Visitor => &mut self.visitors,
            Who::Account => &mut self.accounts,
        };
        if !people.contains_key(id) {
            if people.len() >= PEOPLE_MAX {
                self.counts.not_remembered += 1;
                return None;
            }
            people.insert(id.to_owned(), Person::default());
        }
        people.get_mut(id)
    }

    /// Visitors, accounts, schema, track events seen and discarded.
    #[must_use]
    pub fn state(&self, look: &Look) -> Value {
        let about = look.user.as_deref();
        let shown = |people: &HashMap<String, Person>| -> Map<String, Value> {
            people
                .iter()
                .filter(|(id, _)| about.is_none_or(|about| about == id.as_str()))
                .take(look.limit)
                .map(|(id, person)| {
                    let Person {
                        known,
                        metadata,
                        events,
                        ..
                    } = person;
                    let shown = json!({"known": known, "metadata": metadata, "events": events});
                    (id.clone(), shown)
                })
                .collect()
        };
        let mut counts = serde_json::to_value(&self.counts).unwrap_or_default();
        let known = self.visitors.values().filter(|person| person.known);
        counts["visitors"] = json!(known.count());
        json!({
            "counts": counts,
            "events_by_name": self.names,
            "defined_events": self.defined,
            "schema": {
                "visitor": self.schema_reply(Who::Visitor),
                "account": self.schema_reply(Who::Account),
            },
            "visitors": shown(&self.visitors),
            "accounts": shown(&self.accounts),
            "events": self.events.latest(about, look.limit),
            "discarded": self.discarded.latest(about, look.limit),
        })
    }

    /// Adds people, fields and defined events.
    ///
    /// # Errors
    /// When a field has no type Pendo offers.
    pub fn seed(&mut self, seed: Seed) -> Result<(), String> {
        let fields = [
            (Who::Visitor, &seed.visitor_fields),
            (Who::Account, &seed.account_fields),
        ];
        for (name, kind) in fields.iter().flat_map(|(_, fields)| fields.iter()) {
            if !["text", "boolean", "number", "date"].contains(&kind.as_str()) {
                return Err(format!(
                    "field `{name}` has the type `{kind}`; Pendo has text, boolean, number and date"
                ));
            }
        }
        for (who, fields) in fields {
            let schema = self.schema.entry((who, "custom".to_owned())).or_default();
            for (name, kind) in fields {
                let kind = kind.clone();
                let field = Field {
                    kind,
                    deleted: false,
                };
                schema.insert(name.to_lowercase(), field);
            }
        }
        let custom = (Who::Visitor, "custom".to_owned());
        for name in &seed.deleted_visitor_fields {
            let schema = self.schema.entry(custom.clone()).or_default();
            if let Some(field) = schema.get_mut(name) {
                field.deleted = true;
            }
        }
        for (who, ids) in [
            (Who::Visitor, &seed.visitors),
            (Who::Account, &seed.accounts),
        ] {
            for id in ids {
                if let Some(person) = self.person(who, id) {
                    person.known = true;
                }
            }
        }
        self.defined.extend(seed.track_events);
        Ok(())
    }

    /// Visitors' custom fields `optimizely_<slug>` as `{user: {slug: value}}`.
    #[must_use]
    pub fn values(&self, user: Option<&str>) -> Value {
        let flags = |(id, person): (&String, &Person)| {
            let of = |(name, value): (&String, &Value)| {
                let flag = name.strip_prefix("optimizely_")?;
                Some((flag.to_owned(), value.clone()))
            };
            let custom = person.metadata.get("custom").into_iter().flatten();
            (id.clone(), Value::Object(custom.filter_map(of).collect()))
        };
        match user {
            Some(user) => by_user(self.visitors.get_key_value(user).map(flags).into_iter()),
            None => by_user(self.visitors.iter().map(flags)),
        }
    }
}

/// What an integration key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    None,
    Read,
    Write,
}

const KEY_HEADER: &str = "x-pendo-integration-key";
const SECRET_HEADER: &str = "x-pendo-track-event-secret";

fn api_access(ask: &Ask<'_>, policies: &Policies) -> Access {
    let key = ask.header(KEY_HEADER);
    let is_listed = |list: &[String]| list.iter().any(|listed| listed == key);
    if is_listed(&policies.other_region_keys) {
        Access::None
    } else if is_listed(&policies.read_only_keys) {
        Access::Read
    } else if is_listed(&policies.track_secrets) && !is_listed(&policies.integration_keys) {
        Access::None
    } else if is_good(&policies.integration_keys, key) {
        Access::Write
    } else {
        Access::None
    }
}

fn may_track(ask: &Ask<'_>, policies: &Policies) -> bool {
    let secret = match policies.track_header {
        TrackHeader::IntegrationKey => ask.header(KEY_HEADER),
        TrackHeader::TrackEventSecret => ask.header(SECRET_HEADER),
        TrackHeader::Either => match ask.header(SECRET_HEADER) {
            "" => ask.header(KEY_HEADER),
            secret => secret,
        },
    };
    let is_listed = |list: &[String]| list.iter().any(|listed| listed == secret);
    if is_listed(&policies.track_secrets) {
        return !is_listed(&policies.other_region_keys);
    }
    is_good(&policies.track_secrets, secret)
        && !is_listed(&policies.integration_keys)
        && !is_listed(&policies.read_only_keys)
        && !is_listed(&policies.other_region_keys)
}

/// The answer to a broken rate; none when it is only counted.
fn rate_reply(policies: &Policies) -> Option<Reply> {
    match policies.rate_reply {
        RateReply::TooMany => Some(Reply::empty(429)),
        RateReply::Forbidden => {
            let body = json!({"error": {"reason": "rateLimitExceeded"}});
            Some(Reply::json(403, &body))
        }
        RateReply::CountOnly => None,
    }
}

#[cfg(test)]
mod tests;
