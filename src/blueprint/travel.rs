//! What a request promises of its items on their way, as written: order, pace, what is sent once only, rates,
//! and how long an item is worth sending. Read and checked here; kept by whoever delivers.

use std::borrow::Cow;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::FieldKind;
use super::compile::{Compiler, find, time_of};
use super::eval::{Scene, Val, eval};
use super::expr::Expr;
use super::plan::{ItemKeys, OnceKey, Rate};
use super::rates::RatesBy;
use super::resolve::{Scope, Sees};
use super::yaml::{Key, Kind, Node, Span};

/// The keys of a request that are read here.
pub(super) const KEYS: &[&str] = &[
    "lane",
    "bucket",
    "pace",
    "newest",
    "once",
    "combine",
    "rate",
    "spill",
    "in_flight",
    "gate",
    "requeue",
    "stale_after",
    "dead_after",
    "retry_for",
];

/// Most requests of one kind under way at once.
const MAX_IN_FLIGHT: usize = 100;
/// Most windows of `rate`, most steps of `requeue`.
pub(super) const MAX_STEPS: usize = 8;

/// How a request's items travel, as the file has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Travel {
    pub(crate) lane: Option<Expr>,
    /// Index of the request whose lanes it shares, once all are read.
    pub(crate) lane_with: Option<usize>,
    pub(crate) pace: Option<Time>,
    pub(crate) newest: Option<Expr>,
    /// Of an item that is not the newest, this field is left out, and the rest is sent.
    pub(crate) newest_without: Option<String>,
    pub(crate) once: Option<OnceDef>,
    pub(crate) combine: bool,
    pub(crate) rates: Vec<Rate>,
    /// … or by a choice of the config.
    pub(crate) rates_by: Option<RatesBy>,
    /// Requests with the same text share their rate.
    pub(crate) bucket: Option<Expr>,
    /// Index of the other request, once all are read.
    pub(crate) spill: Option<usize>,
    /// Tests of the config that switch it off, or on for everything.
    pub(crate) spill_never: Vec<Expr>,
    pub(crate) spill_always: Vec<Expr>,
    pub(crate) in_flight: Option<usize>,
    pub(crate) gate: Option<String>,
    pub(crate) requeue: Vec<Duration>,
    pub(crate) stale_after: Option<Duration>,
    pub(crate) dead_after: Option<Duration>,
    pub(crate) retry_for: Option<Duration>,
}

/// `once`, as written.
#[derive(Debug, Clone)]
pub(crate) struct OnceDef {
    pub(crate) key: Expr,
    pub(crate) value: Option<Expr>,
    pub(crate) lasts: Time,
}

/// A time, as written.
#[derive(Debug, Clone)]
pub(crate) enum Time {
    Fixed(Duration),
    /// What the installer enters in this field.
    Config(String),
}

impl Time {
    /// What is written, or what the config says; zero is none.
    pub(crate) fn bound(&self, config: &dyn Fn(&str) -> Option<Duration>) -> Option<Duration> {
        match self {
            Self::Fixed(time) => Some(*time),
            Self::Config(name) => config(name),
        }
        .filter(|time| !time.is_zero())
    }

    /// The field it comes from.
    pub(crate) fn field(&self) -> Option<&str> {
        match self {
            Self::Fixed(_) => None,
            Self::Config(name) => Some(name),
        }
    }
}

impl Travel {
    /// Fields of the config that hold a time.
    pub(crate) fn times(&self) -> impl Iterator<Item = &str> {
        let once = self.once.as_ref().map(|once| &once.lasts);
        once.into_iter().chain(&self.pace).filter_map(Time::field)
    }

    /// With config values in the place of their names.
    pub(crate) fn map(&self, f: &mut dyn FnMut(&Expr) -> Expr) -> Self {
        let once = self.once.as_ref().map(|once| OnceDef {
            key: f(&once.key),
            value: once.value.as_ref().map(&mut *f),
            lasts: once.lasts.clone(),
        });
        Self {
            lane: self.lane.as_ref().map(&mut *f),
            newest: self.newest.as_ref().map(&mut *f),
            newest_without: self.newest_without.clone(),
            pace: self.pace.clone(),
            once,
            rates: self.rates.clone(),
            rates_by: self.rates_by.clone(),
            bucket: self.bucket.as_ref().map(&mut *f),
            spill_never: self.spill_never.iter().map(&mut *f).collect(),
            spill_always: self.spill_always.iter().map(&mut *f).collect(),
            gate: self.gate.clone(),
            requeue: self.requeue.clone(),
            ..*self
        }
    }

    /// What an item made of the scene's event is known by, in the request of this name. `digests`: those of this event.
    pub(crate) fn keys<'s>(
        &'s self,
        request: &str,
        scene: &'s Scene<'s>,
        digests: &mut Digests<'s>,
    ) -> ItemKeys {
        let lane = self.lane.as_ref();
        let lane = lane.and_then(|expr| eval(expr, scene.cx()).text());
        ItemKeys {
            lane: lane.map(|text| (digests.of(text) >> 64) as u64),
            newest: self.newest.as_ref().and_then(|expr| {
                let text = digests.text(expr, scene)?;
                Some(digest(&["newest", request, text]))
            }),
            once: self.once.as_ref().and_then(|once| {
                let key = digest(&["once", request, digests.text(&once.key, scene)?]);
                let value = |value: &'s Expr| whole(value, scene, digests);
                Some(OnceKey {
                    key,
                    value: once.value.as_ref().map_or(0, value),
                })
            }),
        }
    }
}

/// What the keys of one event came to: its requests often have the same lane and key, and say the same. A few are enough.
#[derive(Debug, Default)]
pub(crate) struct Digests<'s> {
    /// Of texts that stand alone.
    alone: [Option<(Cow<'s, str>, u128)>; 4],
    /// What formulas gave.
    texts: [Option<(&'s Expr, Cow<'s, str>)>; 4],
}

impl<'s> Digests<'s> {
    fn of(&mut self, text: Cow<'s, str>) -> u128 {
        let mut known = self.alone.iter().flatten();
        if let Some((_, digest)) = known.find(|(known, _)| *known == text) {
            return *digest;
        }
        let digest = digest(&[&text]);
        if let Some(place) = self.alone.iter_mut().find(|place| place.is_none()) {
            *place = Some((text, digest));
        }
        digest
    }

    /// The text of a key.
    fn text(&mut self, expr: &'s Expr, scene: &'s Scene<'s>) -> Option<&str> {
        let mut known = self.texts.iter().flatten();
        let at = match known.position(|(known, _)| known.is_same(expr)) {
            Some(at) => at,
            None => {
                let text = eval(expr, scene.cx()).text()?;
                // With all taken, the last is written over.
                let free = self.texts.iter().position(Option::is_none);
                let at = free.unwrap_or(self.texts.len() - 1);
                *self.texts.get_mut(at)? = Some((expr, text));
                at
            }
        };
        let (_, text) = self.texts.get(at)?.as_ref()?;
        Some(text)
    }
}

/// A number for a value of any kind; groups by their JSON, so the order of their fields counts.
fn whole<'s>(expr: &'s Expr, scene: &'s Scene<'s>, digests: &mut Digests<'s>) -> u128 {
    match eval(expr, scene.cx()) {
        Val::Missing => 0,
        Val::Json(json @ (serde_json::Value::Object(_) | serde_json::Value::Array(_))) => {
            digest(&[&json.to_string()])
        }
        Val::Group(group) => {
            let mut parts: Vec<String> = Vec::new();
            super::eval::visit_group(group, scene.cx(), &mut |key, value| {
                parts.push(format!("{key:?}:{value}"));
            });
            digest(&[&parts.join(",")])
        }
        single => single.text().map_or(0, |text| digests.of(text)),
    }
}

/// The first 128 bits of SHA-256 over the parts, each after its length. Persisted: must be kept stable.
pub(super) fn digest(parts: &[&str]) -> u128 {
    // Nearly all are short enough to be hashed in one go, which is quicker.
    let mut room = [0; 256];
    let mut filled = 0;
    let fits = parts.iter().all(|part| {
        let end = filled + 8 + part.len();
        let Some((length, text)) = room
            .get_mut(filled..end)
            .and_then(|place| place.split_at_mut_checked(8))
        else {
            return false;
        };
        length.copy_from_slice(&(part.len() as u64).to_le_bytes());
        text.copy_from_slice(part.as_bytes());
        filled = end;
        true
    });
    let hash = match room.get(..filled) {
        Some(filled) if fits => Sha256::digest(filled),
        _ => {
            let mut hash = Sha256::new();
            for part in parts {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
            hash.finalize()
        }
    };
    hash.iter()
        .take(16)
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

impl Compiler<'_> {
    /// The keys of this file; `spill` is looked up when all requests are read, by [`Self::link`].
    pub(super) fn travel(&mut self, members: &[(Key, Node)], batched: bool) -> Travel {
        let has = |key: &str| find(members, key).is_some();
        let mut travel = Travel::default();
        for (key, node) in members {
            match key.text.as_str() {
                "lane" => travel.lane = self.lane(node),
                "newest" => (travel.newest, travel.newest_without) = self.newest(node),
                "once" => travel.once = self.once(node),
                "pace" => travel.pace = self.time_or_config(node, "pace"),
                "combine" => travel.combine = self.yes_no(node, "combine"),
                "rate" => (travel.rates, travel.rates_by) = self.rate_of(node, batched),
                "bucket" => travel.bucket = self.bucket(node),
                "in_flight" => travel.in_flight = self.in_flight(node),
                "gate" => travel.gate = self.gate(node),
                "requeue" => travel.requeue = self.requeue(node),
                "stale_after" => travel.stale_after = self.some_time(node, "stale_after"),
                "dead_after" => travel.dead_after = self.some_time(node, "dead_after"),
                "retry_for" => travel.retry_for = self.some_time(node, "retry_for"),
                _ => {}
            }
            let needs: &[(&str, &str)] = match key.text.as_str() {
                "pace" => &[("lane", "which items the pace is between")],
                "combine" => &[
                    ("lane", "which items are combined"),
                    ("batch", "only items that travel together are combined"),
                ],
                "bucket" => &[("rate", "what is shared is how much there may be of it")],
                "spill" => &[("rate", "without one there is always room")],
                "requeue" => &[("replies", "the reader says which items are missing")],
                _ => &[],
            };
            for (needed, why) in needs.iter().filter(|(needed, _)| !has(needed)) {
                self.faults.push(
                    "missing",
                    key.span.clone(),
                    format!("`{}` needs `{needed}`", key.text),
                    Some((*why).to_owned()),
                );
            }
        }
        travel
    }

    /// A time above zero.
    pub(super) fn some_time(&mut self, node: &Node, key: &str) -> Option<Duration> {
        let time = self.duration(node, key)?;
        if time.is_zero() {
            self.shape(node, format!("`{key}` is more than nothing"));
            return None;
        }
        Some(time)
    }

    /// `newest: =key`, or `newest: { key: =key, without: field }`.
    fn newest(&mut self, node: &Node) -> (Option<Expr>, Option<String>) {
        if node.group().is_none() {
            return (self.single(node, "newest"), None);
        }
        let members = self.group_of(node, "`newest`");
        self.known_keys(members, &["key", "without"], "`newest`");
        let key = find(members, "key").and_then(|node| self.single(node, "key"));
        if find(members, "key").is_none() {
            self.faults.error(
                "missing",
                node.span.start..node.span.start,
                "`newest` needs `key`".to_owned(),
            );
        }
        let without = find(members, "without").and_then(|node| self.plain_text(node, "without"));
        (key, without)
    }

    fn once(&mut self, node: &Node) -> Option<OnceDef> {
        let members = self.group_of(node, "`once`");
        self.known_keys(members, &["key", "value", "for"], "`once`");
        let key = find(members, "key").and_then(|node| self.single(node, "key"));
        let value = find(members, "value").and_then(|node| self.any_kind(node, "value"));
        let lasts = find(members, "for").and_then(|node| self.time_or_config(node, "for"));
        for name in ["key", "for"] {
            if find(members, name).is_none() {
                self.faults.error(
                    "missing",
                    node.span.start..node.span.start,
                    format!("`once` needs `{name}`"),
                );
            }
        }
        Some(OnceDef {
            key: key?,
            value,
            lasts: lasts?,
        })
    }

    /// A time, or the field of the config that holds one.
    fn time_or_config(&mut self, node: &Node, key: &str) -> Option<Time> {
        if !node.text().is_some_and(|text| text.starts_with('=')) {
            return self.duration(node, key).map(Time::Fixed);
        }
        let before = self.faults.count();
        let found = self.scalar(node, Scope::event(Sees::None));
        let field = match &found {
            Some((Expr::Config(name), _)) => self.fields.iter().find(|field| field.key == **name),
            _ => None,
        };
        let times = match field.map(|field| (&field.kind, &field.default)) {
            Some((FieldKind::Text, default)) => default.iter().all(|text| time_of(text).is_some()),
            Some((FieldKind::Choice(options), _)) => {
                options.iter().all(|(_, value)| time_of(value).is_some())
            }
            _ => false,
        };
        let name = field
            .filter(|field| !field.optional || field.default.is_some())
            .map(|field| field.key.clone());
        if let (true, Some(name)) = (times, name) {
            return Some(Time::Config(name));
        }
        if self.faults.count() == before {
            self.faults.push(
                "shape",
                node.span.clone(),
                format!("`{key}` is a time, or a field of the config that holds one"),
                Some(format!(
                    "write {key}: 30 min, or {key}: =config.x where x is a `text` or `choice` field whose default and options are times"
                )),
            );
        }
        None
    }

    fn in_flight(&mut self, node: &Node) -> Option<usize> {
        let count = self.count(node, "in_flight")?;
        if count > MAX_IN_FLIGHT {
            self.shape(node, format!("`in_flight` is at most {MAX_IN_FLIGHT}"));
            return None;
        }
        Some(count)
    }

    fn gate(&mut self, node: &Node) -> Option<String> {
        let name = self.plain_text(node, "gate")?;
        let fine = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !fine {
            self.shape(node, "`gate` is a name: small letters, digits and _");
            return None;
        }
        Some(name)
    }

    fn requeue(&mut self, node: &Node) -> Vec<Duration> {
        let Kind::List(items) = &node.kind else {
            self.faults.push(
                "shape",
                node.span.clone(),
                "`requeue` is a list of times".to_owned(),
                Some("for example [1 h, 6 h, 24 h]".to_owned()),
            );
            return Vec::new();
        };
        if items.is_empty() || items.len() > MAX_STEPS {
            self.shape(node, format!("`requeue` is one to {MAX_STEPS} times"));
        }
        items
            .iter()
            .filter_map(|node| self.some_time(node, "requeue"))
            .collect()
    }

    /// What names other requests: `spill`, `lane` and `gate`.
    pub(super) fn link(&mut self, requests: &[(Key, Node)]) {
        self.link_spills(requests);
        self.link_lanes(requests);
        self.lonely_gates(requests);
    }

    /// A gate named once is no gate shared.
    fn lonely_gates(&mut self, requests: &[(Key, Node)]) {
        let named: Vec<(String, Span)> = requests
            .iter()
            .filter_map(|(_, node)| {
                let gate = find(node.group()?, "gate")?;
                Some((gate.text()?.to_owned(), gate.span.clone()))
            })
            .collect();
        for (gate, span) in &named {
            let shared = named.iter().filter(|(other, _)| other == gate).count() > 1
                || self.requests.iter().any(|request| request.name == *gate);
            if !shared {
                self.faults.warn(
                    "unused",
                    span.clone(),
                    format!("no other request has the gate `{gate}`"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn a_digest_is_what_it_ever_was_however_long_its_parts() {
        // Stored in journals: printed once, to be kept for ever.
        let known = [
            (0, "7999bc7509da19ecfb4dd9fd1c4edf18"),
            (100, "2aa191ba898eb8df087e23e23c8dac7d"),
            (223, "81cdde23ebcd9aa64035150dab0d34cf"),
            (224, "2300b59c4c98b27492394aa2726bd27d"),
            (1_000, "30226ce44adf4691e54bf74f333d4084"),
        ];
        for (length, wanted) in known {
            let text = "x".repeat(length);
            let found = digest(&["once", "event", &text]);
            assert_eq!(format!("{found:032x}"), wanted, "{length}");
        }
    }
}
