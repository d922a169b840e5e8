//! The sandbox's Brevo: events (single and batch), contacts, attributes, lists and imports, with its rate buckets
//! and what it keeps silent about. Pure: request in, reply out.
//!
//! Sources: Brevo's API reference and the SDKs generated from it (shapes, sizes, codes), its pages on limits and
//! limit headers (buckets). Where Brevo says nothing, a policy decides; see [`Policies`].
//!
//! Rules: BR1 key, BR2 address, BR3 empty or broken body, BR4 event fields, BR5 batch shape and size, BR6 batch
//! replies, BR7 attributes ignored, BR8 contact exists, BR9 contact unknown, BR10 identifiers of two contacts,
//! BR11 list additions, BR12 contact batch, BR13 rate buckets, BR14 events of unknown contacts.

mod contacts;
mod events;
mod people;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::book::Marks;
use super::config::{is_good, may_ask};
use super::exchange::{Ask, Reply, slug, text};
use super::ring::Ring;
use super::window::{Meters, Room, Window};
use super::world::{Look, by_user};
use crate::clock::Millis;
use people::{Attribute, Contact, People};

/// What Brevo can be told. All at their defaults: the documented behaviour, on the General tier.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policies {
    /// Good API keys; none listed = any.
    pub keys: Vec<String>,
    /// Addresses that may ask; none listed = any.
    pub allowed_ips: Vec<IpAddr>,
    /// Rate table.
    pub tier: Tier,
    /// Rates are enforced.
    pub rate_limits: bool,
    /// The bucket of `POST /events/batch`, which Brevo does not publish.
    pub events_batch_bucket: BatchBucket,
    /// Windows instead of the tier's, by bucket: `events`, `contacts`, `other`, `events_batch`.
    pub buckets: BTreeMap<Bucket, Vec<Window>>,
    /// Unknown attributes of contacts are refused instead of ignored.
    pub strict_attributes: bool,
    /// Events of people Brevo does not know.
    pub unknown_contact: UnknownContact,
    /// `POST /contacts/batch` with an unknown contact.
    pub contacts_batch_unknown: BatchUnknown,
    /// `date` attributes take a date with a time.
    pub date_takes_time: bool,
    /// Every second `duplicate_parameter` comes as `invalid_parameter`.
    pub flaky_codes: bool,
    /// A batch may be a bare array (Brevo took it until April 2026).
    pub bare_array: bool,
    /// A 202 counts so many events fewer than were sent: a loss Brevo does not explain.
    pub undercount: u64,
    /// Events that hold one of these texts are refused, for a reason Brevo does not publish.
    pub refused_texts: Vec<String>,
    /// How long an import takes, in milliseconds.
    pub import_ms: u64,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            allowed_ips: Vec::new(),
            tier: Tier::General,
            rate_limits: true,
            events_batch_bucket: BatchBucket::Other,
            buckets: BTreeMap::new(),
            strict_attributes: false,
            unknown_contact: UnknownContact::Ignore,
            contacts_batch_unknown: BatchUnknown::NotFound,
            date_takes_time: false,
            flaky_codes: false,
            bare_array: false,
            undercount: 0,
            refused_texts: Vec::new(),
            import_ms: 0,
        }
    }
}

/// Brevo's rate tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// All plans.
    General,
    /// Professional and Enterprise.
    Advanced,
    /// Enterprise, on request.
    Extended,
}

/// Where batch calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchBucket {
    /// With all unlisted endpoints.
    Other,
    /// With single events.
    Events,
}

/// What becomes of people only events name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownContact {
    /// The event is taken; no contact comes of it.
    Ignore,
    /// A contact is created.
    Create,
}

/// How a contact batch with an unknown contact is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchUnknown {
    /// 404 for the whole batch.
    NotFound,
    /// 207 with the ids that failed.
    Partial,
}

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bucket {
    /// `POST /events`.
    Events,
    /// Everything under `/contacts`.
    Contacts,
    /// Everything Brevo does not list.
    Other,
    /// `POST /events/batch`, once it has windows of its own.
    EventsBatch,
}

impl Bucket {
    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Contacts => "contacts",
            Self::Other => "other",
            Self::EventsBatch => "events_batch",
        }
    }
}

/// One Brevo account.
#[derive(Debug)]
pub struct Brevo {
    meters: BTreeMap<Bucket, Meters>,
    people: People,
    lists: BTreeMap<i64, String>,
    /// Imports and when each is done.
    processes: BTreeMap<i64, Millis>,
    events: Ring,
    /// Events by name.
    names: BTreeMap<String, u64>,
    ignored_attributes: u64,
    duplicates_told: u64,
    next_id: i64,
}

impl Default for Brevo {
    fn default() -> Self {
        Self {
            meters: BTreeMap::new(),
            people: People::default(),
            lists: BTreeMap::from([(1, "sandbox".to_owned())]),
            processes: BTreeMap::new(),
            events: Ring::default(),
            names: BTreeMap::new(),
            ignored_attributes: 0,
            duplicates_told: 0,
            next_id: 1,
        }
    }
}

/// What may be added through `PUT /_sandbox/state/brevo`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    attributes: Vec<Attribute>,
    contacts: Vec<Map<String, Value>>,
    lists: Vec<ListSeed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListSeed {
    id: i64,
    name: String,
}

/// What a call needs beside the account.
struct Call<'a> {
    ask: &'a Ask<'a>,
    policies: &'a Policies,
}

/// A refusal in Brevo's shape.
fn refusal(status: u16, code: &str, message: impl Into<String>) -> Reply {
    Reply::json(status, &json!({"code": code, "message": message.into()}))
}

fn invalid(message: impl Into<String>) -> Reply {
    refusal(400, "invalid_parameter", message)
}

fn missing(message: impl Into<String>) -> Reply {
    refusal(400, "missing_parameter", message)
}

fn unknown_path() -> Reply {
    refusal(
        404,
        "document_not_found",
        "The sandbox plays no such Brevo path",
    )
}

impl Brevo {
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
        let bucket = bucket(method, path, policies);
        if let Some(refused) = enter(ask, policies, marks) {
            marks.endpoint = "unauthorized";
            let windows = windows(bucket, policies);
            let meters = self.meters.entry(bucket).or_default();
            return told(refused, meters.tightest(&windows, ask.now_ms, grace_ms));
        }
        let windows = windows(bucket, policies);
        let meters = self.meters.entry(bucket).or_default();
        let (has_room, room) = meters.take(&windows, ask.now_ms, grace_ms);
        if !has_room && policies.rate_limits {
            marks.endpoint = "limited";
            let (limit, reset_ms) = room.map_or((0, 0), |room| (room.limit, room.reset_ms));
            marks.limit(
                "BR13",
                format!(
                    "bucket `{}`: {limit} used, {reset_ms} ms to go",
                    bucket.name()
                ),
            );
            // The body of a 429 is not documented.
            return told(Reply::json(429, &json!({})), room);
        }
        let call = Call { ask, policies };
        told(self.route(method, path, &call, marks), room)
    }

    fn route(&mut self, method: &str, path: &[&str], call: &Call<'_>, marks: &mut Marks) -> Reply {
        let (endpoint, reply) = match (method, path) {
            ("POST", ["events"]) => ("POST events", self.post_event(call, marks)),
            ("POST", ["events", "batch"]) => ("POST events/batch", self.post_batch(call, marks)),
            ("GET", ["account"]) => ("GET account", account()),
            ("GET", ["processes", id]) => ("GET processes", self.process(id, call.ask.now_ms)),
            (_, ["contacts", rest @ ..]) => return self.contact_calls(method, rest, call, marks),
            (_, ["events" | "account"] | ["events", "batch"]) => (
                "wrong method",
                refusal(
                    405,
                    "method_not_allowed",
                    format!("{method} is not allowed here"),
                ),
            ),
            _ => ("unknown", unknown_path()),
        };
        marks.endpoint = endpoint;
        reply
    }

    fn process(&self, id: &str, now_ms: Millis) -> Reply {
        let done = id
            .parse()
            .ok()
            .and_then(|id: i64| self.processes.get(&id).map(|done| (id, *done)));
        let Some((id, done_ms)) = done else {
            return refusal(404, "document_not_found", "Process not found");
        };
        let status = if now_ms < done_ms {
            "in_process"
        } else {
            "completed"
        };
        let info = json!({"import": {"invalid_emails": null, "duplicate_contact_id": null,
            "duplicate_ext_id": null, "duplicate_email_id": null}});
        Reply::json(
            200,
            &json!({"id": id, "name": "IMPORTUSER", "status": status, "info": info}),
        )
    }

    fn new_id(&mut self) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Sets attributes of a contact, and counts those Brevo would ignore.
    fn set_attributes(
        &mut self,
        id: i64,
        attributes: &Map<String, Value>,
        policies: &Policies,
        marks: &mut Marks,
    ) {
        for (name, value) in attributes {
            if let Err(why) = self.people.set(id, name, value, policies.date_takes_time) {
                self.ignored_attributes += 1;
                marks.silent("BR7", format!("ignored_attribute {name}: {why}"));
            }
        }
    }

    /// Contacts, attributes, events, lists.
    #[must_use]
    pub fn state(&self, look: &Look) -> Value {
        let who = look.user.as_deref().map(|user| self.people.find_any(user));
        let contacts: Vec<Value> = match who {
            Some(contact) => contact.map(Contact::shown).into_iter().collect(),
            None => self
                .people
                .contacts()
                .take(look.limit)
                .map(Contact::shown)
                .collect(),
        };
        let about = look.user.as_deref();
        json!({
            "counts": {
                "contacts": self.people.len(),
                "contacts_not_remembered": self.people.not_remembered,
                "events": self.events.total(),
                "ignored_attributes": self.ignored_attributes,
            },
            "events_by_name": self.names,
            "contacts": contacts,
            "attributes": self.people.attributes().collect::<Vec<_>>(),
            "lists": self.lists.iter().map(|(id, name)| json!({"id": id, "name": name})).collect::<Vec<_>>(),
            "events": self.events.latest(about, look.limit),
        })
    }

    /// Adds attributes, lists and contacts (in the shape of `POST /contacts`; a known one is changed).
    ///
    /// # Errors
    /// When a contact has no identifier or two contacts' ones.
    pub fn seed(&mut self, seed: Seed, now_ms: Millis) -> Result<(), String> {
        for (index, contact) in seed.contacts.iter().enumerate() {
            if people::identifiers(contact).is_empty() {
                return Err(format!(
                    "contacts[{index}] has none of email, ext_id, attributes.SMS"
                ));
            }
        }
        for attribute in seed.attributes {
            self.people.define(attribute);
        }
        for list in seed.lists {
            self.lists.insert(list.id, list.name);
        }
        let policies = Policies::default();
        for contact in &seed.contacts {
            let known = self.people.matches(contact).first().copied();
            let id = match known {
                Some(id) => id,
                None => {
                    let id = self.new_id();
                    self.people.create(id, now_ms);
                    id
                }
            };
            self.people.identify(id, contact);
            self.change(id, contact, &policies, &mut Marks::default());
        }
        Ok(())
    }

    /// Attributes `OPT_<FLAG>` as `{user: {flag: value}}`, flags in lower case; where a contact has none for the flag
    /// of its latest decision, `VARIATION_NAME` under `FEATURE_FLAG`. Users go by ext_id, else by email; asked for, by
    /// any identifier.
    #[must_use]
    pub fn values(&self, user: Option<&str>) -> Value {
        let flags = |contact: &Contact| {
            let of = |(name, value): (&String, &Value)| {
                let flag = name.strip_prefix("OPT_")?;
                Some((flag.to_ascii_lowercase(), value.clone()))
            };
            let attributes = &contact.attributes;
            let mut flags: Map<String, Value> = attributes.iter().filter_map(of).collect();
            let latest = text(attributes, "FEATURE_FLAG").zip(attributes.get("VARIATION_NAME"));
            if let Some((flag, variation)) = latest {
                flags.entry(slug(flag)).or_insert_with(|| variation.clone());
            }
            Value::Object(flags)
        };
        match user {
            Some(user) => by_user(
                self.people
                    .find_any(user)
                    .map(|contact| (user.to_owned(), flags(contact)))
                    .into_iter(),
            ),
            None => by_user(
                self.people
                    .contacts()
                    .map(|contact| (contact.name(), flags(contact))),
            ),
        }
    }
}

/// Key and address.
fn enter(ask: &Ask<'_>, policies: &Policies, marks: &mut Marks) -> Option<Reply> {
    if !is_good(&policies.keys, ask.header("api-key")) {
        marks.refused("BR1", "api-key missing or unknown");
        return Some(refusal(401, "unauthorized", "Key not found"));
    }
    if !may_ask(&policies.allowed_ips, ask.peer) {
        marks.refused("BR2", "address not in the list");
        let ip = ask.peer.map(|ip| ip.to_string()).unwrap_or_default();
        return Some(refusal(
            401,
            "unauthorized",
            format!(
                "We have detected you are using an unrecognised IP address {ip}. If you performed this action make \
                 sure to add the new IP address in this link: https://app.brevo.com/security/authorised_ips"
            ),
        ));
    }
    None
}

fn bucket(method: &str, path: &[&str], policies: &Policies) -> Bucket {
    match (method, path) {
        ("POST", ["events"]) => Bucket::Events,
        ("POST", ["events", "batch"]) if policies.buckets.contains_key(&Bucket::EventsBatch) => {
            Bucket::EventsBatch
        }
        ("POST", ["events", "batch"]) => match policies.events_batch_bucket {
            BatchBucket::Events => Bucket::Events,
            BatchBucket::Other => Bucket::Other,
        },
        (_, ["contacts", ..]) => Bucket::Contacts,
        _ => Bucket::Other,
    }
}

/// The windows of a bucket (Brevo's page on API limits).
fn windows(bucket: Bucket, policies: &Policies) -> Vec<Window> {
    const SECOND: u64 = 1_000;
    const HOUR: u64 = 3_600_000;
    if let Some(windows) = policies.buckets.get(&bucket) {
        return windows.clone();
    }
    match (bucket, policies.tier) {
        (Bucket::Events | Bucket::Contacts, Tier::General) => {
            vec![Window::new(10, SECOND), Window::new(36_000, HOUR)]
        }
        (Bucket::Events | Bucket::Contacts, Tier::Advanced) => {
            vec![Window::new(20, SECOND), Window::new(72_000, HOUR)]
        }
        (Bucket::Events | Bucket::Contacts, Tier::Extended) => vec![Window::new(60, SECOND)],
        (_, Tier::General) => vec![Window::new(100, HOUR)],
        (_, Tier::Advanced) => vec![Window::new(200, HOUR)],
        (_, Tier::Extended) => vec![Window::new(600, HOUR)],
    }
}

/// Brevo's three headers, on every reply; the reset in whole seconds from now.
fn told(reply: Reply, room: Option<Room>) -> Reply {
    let Some(room) = room else {
        return reply;
    };
    reply
        .with("x-sib-ratelimit-limit", room.limit.to_string())
        .with("x-sib-ratelimit-remaining", room.remaining.to_string())
        .with(
            "x-sib-ratelimit-reset",
            room.reset_ms.div_ceil(1_000).to_string(),
        )
}

fn account() -> Reply {
    Reply::json(
        200,
        &json!({
            "email": "sandbox@example.com", "firstName": "Sand", "lastName": "Box", "companyName": "Sandbox",
            "address": {"street": "", "city": "", "zipCode": "", "country": ""},
            "plan": [{"type": "free", "credits": 300, "creditsType": "sendLimit"}],
            "relay": {"enabled": false},
        }),
    )
}

#[cfg(test)]
mod tests;
