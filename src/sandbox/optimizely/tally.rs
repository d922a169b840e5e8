//! What the sandbox's Optimizely has received, and what the real one would make of it: repeats, and events it
//! would take with 204 and never count. Pure.
//!
//! Every event received is exactly one of: counted, a repeat (same uuid, timestamp and entity id), or one that
//! would not count, with a reason.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::Hasher;

use hashbrown::{HashMap, HashTable};
use serde_json::{Value, json};
use uuid::Uuid;

use super::datafiles::{Catalog, Known};
use super::wire::{self, Batch};
use crate::clock::Millis;
use crate::sandbox::histogram::Histogram;

/// Event keys told apart; the rest are counted together under [`OTHER_KEYS`].
const KEYS_MAX: usize = 1_000;
/// Where event keys beyond [`KEYS_MAX`] are counted.
const OTHER_KEYS: &str = "(other)";
/// Uuids remembered; beyond that repeats are no longer recognised, and counted as such.
const IDS_MAX: usize = 40_000_000;

/// One event, as far as counting goes.
#[derive(Debug)]
pub struct Fact<'a> {
    /// The uuid, or a hash of a text that is none; none when missing.
    id: Option<u128>,
    /// Hash of entity id and timestamp.
    identity: u64,
    key: Cow<'a, str>,
    /// None = absent, error = not an integer.
    revenue: Option<Result<i64, ()>>,
    timestamp_ms: Option<Millis>,
    /// Why the vendor would not count it.
    fault: Option<&'static str>,
}

/// Looks at every event of a batch.
#[must_use]
pub fn facts<'a>(batch: &'a Batch<'a>, catalog: &Catalog) -> Vec<Fact<'a>> {
    let scope = scope(batch, catalog);
    let mut facts = Vec::with_capacity(batch.visitors.len());
    for visitor in &batch.visitors {
        let no_visitor = wire::text(visitor.visitor_id).is_none();
        for event in visitor
            .snapshots
            .iter()
            .flat_map(|snapshot| &snapshot.events)
        {
            let mut fact = fact(event, scope.as_ref().ok().copied());
            let outer = scope
                .as_ref()
                .err()
                .copied()
                .or(no_visitor.then_some("missing_visitor_id"));
            fact.fault = outer.or(fact.fault);
            facts.push(fact);
        }
    }
    facts
}

/// What is known in the batch's account and project, or why nothing of it counts.
fn scope<'c>(batch: &Batch<'_>, catalog: &'c Catalog) -> Result<&'c Known, &'static str> {
    let account = wire::text(batch.account_id).ok_or("missing_account_id")?;
    let projects = catalog.get(account.as_ref()).ok_or("unknown_account")?;
    // The published schema does not require it; every SDK sends it.
    let project = wire::text(batch.project_id).ok_or("missing_project_id")?;
    projects.get(project.as_ref()).ok_or("unknown_project")
}

fn fact<'a>(event: &'a wire::Event<'a>, known: Option<&Known>) -> Fact<'a> {
    let entity = wire::text(event.entity_id);
    let key = wire::text(event.key);
    let uuid = wire::text(event.uuid);
    let timestamp = event.timestamp.map(serde_json::value::RawValue::get);
    let activation =
        [key.as_deref(), wire::text(event.kind).as_deref()].contains(&Some("campaign_activated"));
    let mut fault = None;
    if uuid.is_none() {
        fault = Some("missing_uuid");
    } else if timestamp.is_none() {
        fault = Some("missing_timestamp");
    } else if !timestamp.is_some_and(thirteen_digits) {
        fault = Some("timestamp_not_13_digits");
    } else if entity.is_none() {
        fault = Some("missing_entity_id");
    } else if let (Some(known), Some(entity)) = (known, entity.as_deref()) {
        fault = match known.events.get(entity) {
            _ if activation => (!known.campaigns.contains(entity)).then_some("unknown_entity_id"),
            None => Some("unknown_entity_id"),
            Some(its_key) => key
                .as_deref()
                .is_some_and(|key| key != its_key)
                .then_some("event_key_differs"),
        };
    }
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(entity.as_deref().unwrap_or("").as_bytes());
    hasher.write_u8(0);
    hasher.write(timestamp.unwrap_or("").as_bytes());
    Fact {
        id: uuid.as_deref().map(id_of),
        identity: hasher.finish(),
        key: key.unwrap_or(Cow::Borrowed("")),
        revenue: event
            .revenue
            .map(|raw| raw.get().parse::<i64>().map_err(|_| ())),
        timestamp_ms: timestamp.and_then(|text| text.parse().ok()),
        fault,
    }
}

fn thirteen_digits(text: &str) -> bool {
    text.len() == 13 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A uuid as a number; any other text by a hash of it.
fn id_of(text: &str) -> u128 {
    Uuid::try_parse(text).map_or_else(
        |_| {
            let mut hasher = siphasher::sip128::SipHasher13::new();
            hasher.write(text.as_bytes());
            siphasher::sip128::Hasher128::finish128(&hasher).as_u128()
        },
        |uuid| uuid.as_u128(),
    )
}

/// Uuids seen, each with the identity it first came with. 24 bytes a uuid.
#[derive(Debug, Default)]
struct Ids(HashTable<([u64; 2], u64)>);

enum Seen {
    New,
    Same,
    Different,
    Unknown,
}

impl Ids {
    fn words(id: u128) -> [u64; 2] {
        [(id >> 64) as u64, id as u64]
    }

    /// A folded product: cheap, and good enough for uuids that only count up, too.
    fn hash(words: [u64; 2]) -> u64 {
        let mixed = u128::from(words[0] ^ words[1].rotate_left(32)) * 0x9e37_79b9_7f4a_7c15;
        (mixed >> 64) as u64 ^ mixed as u64
    }

    fn note(&mut self, id: u128, identity: u64) -> Seen {
        let words = Self::words(id);
        let hash = Self::hash(words);
        if let Some((_, first)) = self.0.find(hash, |(other, _)| *other == words) {
            return if *first == identity {
                Seen::Same
            } else {
                Seen::Different
            };
        }
        if self.0.len() >= IDS_MAX {
            return Seen::Unknown;
        }
        self.0
            .insert_unique(hash, (words, identity), |(words, _)| Self::hash(*words));
        Seen::New
    }

    fn contains(&self, id: u128) -> bool {
        let words = Self::words(id);
        self.0
            .find(Self::hash(words), |(other, _)| *other == words)
            .is_some()
    }
}

/// Requests by how they were answered.
#[derive(Debug, Default)]
struct Requests {
    taken: u64,
    malformed: u64,
    too_large: u64,
    strict_refused: u64,
    faulted: u64,
    unreadable_shape: u64,
    body_bytes_max: usize,
    events_max: usize,
}

#[derive(Debug, Default)]
struct KeyTally {
    received: u64,
    counted: u64,
    revenue: i128,
}

/// How a request was answered when nothing in it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No JSON: 400.
    Malformed,
    /// Over the size limit: 413.
    TooLarge,
    /// Broke the published schema while it was asked to be strict: 400.
    Strict,
    /// A scripted fault answered.
    Fault,
}

/// The counts of one door (`/optimizely/…`, or `/at/{label}/optimizely/…`).
#[derive(Debug, Default)]
pub struct Tally {
    /// Who has which variation.
    pub(super) latest: super::decided::Latest,
    requests: Requests,
    events: u64,
    counted: u64,
    repeats_identical: u64,
    repeats_differing: u64,
    not_remembered: u64,
    would_not_count: BTreeMap<&'static str, u64>,
    revenue_ignored: u64,
    keys: HashMap<String, KeyTally>,
    ids: Ids,
    age_ms: Histogram,
    first_ms: Option<Millis>,
    last_ms: Option<Millis>,
}

impl Tally {
    /// Counts a request nothing was taken of.
    pub fn refused(&mut self, why: Refused) {
        let count = match why {
            Refused::Malformed => &mut self.requests.malformed,
            Refused::TooLarge => &mut self.requests.too_large,
            Refused::Strict => &mut self.requests.strict_refused,
            Refused::Fault => &mut self.requests.faulted,
        };
        *count += 1;
    }

    /// Counts a request that is JSON but no batch: taken with 204 all the same, and worth nothing.
    pub fn unreadable(&mut self, body_bytes: usize) {
        self.requests.taken += 1;
        self.requests.unreadable_shape += 1;
        self.requests.body_bytes_max = self.requests.body_bytes_max.max(body_bytes);
    }

    /// Counts a batch. `remember`: recognise repeats (24 bytes an event).
    pub fn take(&mut self, facts: &[Fact<'_>], body_bytes: usize, remember: bool, now_ms: Millis) {
        self.requests.taken += 1;
        self.requests.body_bytes_max = self.requests.body_bytes_max.max(body_bytes);
        self.requests.events_max = self.requests.events_max.max(facts.len());
        self.events += facts.len() as u64;
        self.first_ms.get_or_insert(now_ms);
        self.last_ms = Some(now_ms);
        for fact in facts {
            if let Some(at_ms) = fact.timestamp_ms {
                self.age_ms
                    .record(u64::try_from(now_ms - at_ms).unwrap_or(0));
            }
            let counts = self.is_counted(fact, remember);
            let key = self.key(&fact.key);
            key.received += 1;
            if !counts {
                continue;
            }
            key.counted += 1;
            match fact.revenue {
                Some(Ok(hundredths)) => key.revenue += i128::from(hundredths),
                Some(Err(())) => self.revenue_ignored += 1,
                None => {}
            }
            self.counted += 1;
        }
    }

    fn is_counted(&mut self, fact: &Fact<'_>, remember: bool) -> bool {
        // Remembered whether or not it counts, so that ids can be reconciled.
        let seen = match fact.id {
            Some(id) if remember => self.ids.note(id, fact.identity),
            _ => Seen::Unknown,
        };
        match seen {
            Seen::Same => {
                self.repeats_identical += 1;
                return false;
            }
            Seen::Different => self.repeats_differing += 1,
            Seen::Unknown => self.not_remembered += 1,
            Seen::New => {}
        }
        if let Some(reason) = fact.fault {
            *self.would_not_count.entry(reason).or_default() += 1;
        }
        fact.fault.is_none()
    }

    fn key(&mut self, key: &str) -> &mut KeyTally {
        let key = if self.keys.len() < KEYS_MAX || self.keys.contains_key(key) {
            key
        } else {
            OTHER_KEYS
        };
        self.keys.entry_ref(key).or_default()
    }

    /// Those of these uuids that never came.
    pub fn missing<'i>(&self, uuids: impl Iterator<Item = &'i str>) -> (u64, Vec<&'i str>) {
        let mut asked = 0;
        let missing = uuids
            .inspect(|_| asked += 1)
            .filter(|uuid| !self.ids.contains(id_of(uuid)))
            .collect();
        (asked, missing)
    }

    /// `{visitor: {flag: variation}}` as impressions say, of all visitors or of one.
    #[must_use]
    pub fn decided(&self, visitor: Option<&str>) -> Value {
        self.latest.values(visitor)
    }

    /// Requests whose body was over the vendor's limit.
    #[must_use]
    pub fn too_large(&self) -> u64 {
        self.requests.too_large
    }

    /// Everything, as JSON.
    #[must_use]
    pub fn summary(&self) -> Value {
        let keys: BTreeMap<&str, Value> = self
            .keys
            .iter()
            .map(|(key, tally)| {
                let value = json!({
                    "received": tally.received, "counted": tally.counted, "revenue": tally.revenue,
                });
                (key.as_str(), value)
            })
            .collect();
        let revenue: i128 = self.keys.values().map(|tally| tally.revenue).sum();
        let requests = &self.requests;
        json!({
            "requests": {
                "taken": requests.taken,
                "malformed": requests.malformed,
                "too_large": requests.too_large,
                "strict_refused": requests.strict_refused,
                "faulted": requests.faulted,
                "unreadable_shape": requests.unreadable_shape,
                "body_bytes_max": requests.body_bytes_max,
                "events_max": requests.events_max,
            },
            "events": self.events,
            "unique_events": self.ids.0.len(),
            "counted": self.counted,
            "duplicates": {
                "identical": self.repeats_identical,
                "differing": self.repeats_differing,
            },
            "not_remembered": self.not_remembered,
            "would_not_count": self.would_not_count,
            "revenue": revenue,
            "revenue_ignored": self.revenue_ignored,
            "keys": keys,
            "age_ms": {
                "p50": self.age_ms.quantile(0.5),
                "p90": self.age_ms.quantile(0.9),
                "p99": self.age_ms.quantile(0.99),
                "max": self.age_ms.max(),
            },
            "first_ms": self.first_ms,
            "last_ms": self.last_ms,
        })
    }
}
