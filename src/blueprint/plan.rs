//! A blueprint bound to a config, and one event through it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::compile::RowsDef;
use super::eval::{Scene, eval};
use super::expr::Expr;
use super::limit::Limits;
use super::ready::{Ready, ReadyEntries, ReadySend};
use super::sheet::Sheet;
use super::table::Table;
use super::travel::Digests;
use super::wire::RequestDef;
use super::writer::{Path, Stop, Writer};
use super::{FieldTrace, Mapping, Part, PartResult, Tables};
use crate::event::reads::{Seen, read};
use crate::event::{DecodeError, Event};
use crate::secret::Secret;

/// A blueprint bound to an integration's config: ready to map.
#[derive(Debug)]
pub struct Plan {
    pub(super) entries: ReadyEntries,
    pub(super) requests: Vec<RequestPlan>,
    pub(super) wires: Vec<Wire>,
    pub(super) sources: Vec<TableSource>,
    pub(super) rows: Vec<Option<RowsDef>>,
}

/// A request as it is made.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) def: RequestDef,
    /// What the parts around the items read from tables: these decide which items may go together.
    pub(super) lookups: Vec<Expr>,
}

/// A table to be read from a URL.
#[derive(Debug, Clone)]
pub struct TableSource {
    /// Name in the blueprint.
    pub name: String,
    /// Where its document is (may hold a secret: never log it).
    pub url: Secret,
    /// How often to read it.
    pub refresh: Duration,
    /// How long an item may wait for a missing key, zero = not at all.
    pub hold: Duration,
    /// Why an item waits whose key it lacks.
    pub unknown: String,
}

/// Why an item waits while a document was never read.
const NOT_READ: &str = "document_not_read";

/// Why an item waits whose key, called this by people, is in no row.
pub(super) fn unknown(label: &str) -> String {
    format!("unknown_{}", label.replace(' ', "_"))
}

/// What the requests of a plan are.
#[derive(Debug, Clone)]
pub struct RequestPlan {
    /// Name in the blueprint.
    pub name: String,
    /// Items go out together.
    pub batched: bool,
    /// Most items in one request (1 when not batched).
    pub items_max: usize,
    /// Most bytes in one body.
    pub bytes_max: usize,
    /// How long the first item waits for company.
    pub wait: Duration,
    /// Items with the same [`ItemKeys::lane`] are never in two requests under way at once, and keep their order.
    pub lane: bool,
    /// Index of the request whose lanes it shares: their items of one lane keep their order, too.
    pub lane_with: Option<usize>,
    /// Least time between two requests with items of the same lane.
    pub pace: Option<Duration>,
    /// Of the items with the same [`ItemKeys::newest`], one that is older than what was sent is not sent.
    pub newest: bool,
    /// … but for this: then it is sent all the same, without this field at the top of the item.
    pub newest_without: Option<String>,
    /// Send only what changed.
    pub once: Option<OncePlan>,
    /// Items of one lane in one batch become one: objects are merged deep, the later one wins.
    pub combine: bool,
    /// What the vendor takes in a time; all must have room.
    pub rates: Vec<Rate>,
    /// Requests with the same number share their rates, whichever integration they are of.
    pub bucket: Option<u128>,
    /// Index of the unbatched request by which the oldest waiting items go one by one while no rate has room.
    pub spill: Option<usize>,
    /// … or always.
    pub spill_always: bool,
    /// Most of these requests under way at once.
    pub in_flight: Option<usize>,
    /// Requests with the same gate pause and back off together; None: by the request's own name.
    pub gate: Option<String>,
    /// How long an item that the vendor calls missing is set apart: first, second, … time.
    pub requeue: Vec<Duration>,
    /// An event older than this when its item would be sent is not sent.
    pub stale_after: Option<Duration>,
    /// An event older than this when its item would be sent is dead, unless it is replayed.
    pub dead_after: Option<Duration>,
    /// How long an item is tried; None: as the integration's tuning says.
    pub retry_for: Option<Duration>,
    /// Name of the reader of replies with partial success, in the vendor's folder.
    pub replies: Option<String>,
}

/// `once`: an item goes out only when its value differs from the last one with the same key, or that one is
/// older than `lasts`. Key and value are the item's, see [`ItemKeys::once`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OncePlan {
    /// How long a value stays known; never zero.
    pub lasts: Duration,
}

/// At most `n` in any `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub n: u32,
    /// In how long.
    pub per: Duration,
    /// Of what.
    pub of: RateOf,
}

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateOf {
    /// Items, whichever requests they are in.
    Items,
    /// Requests.
    Requests,
}

/// What an item is known by on its way. The numbers are hashes; those of `newest` and `once` hold the
/// request's name too, so that equal texts of two requests never meet, and may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ItemKeys {
    /// Items with the same one keep their order. By its text alone: equal in all requests of a blueprint.
    pub lane: Option<u64>,
    /// Only the newest event with this one is to be sent.
    pub newest: Option<u128>,
    /// Sent only when it changed.
    pub once: Option<OnceKey>,
}

/// What an item says, and of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnceKey {
    /// Whose value it is.
    pub key: u128,
    /// The value; 0 when there is none, and the key alone decides.
    pub value: u128,
}

impl Table {
    /// The table's rows of a document. `name` as in [`TableSource::name`].
    ///
    /// # Errors
    /// When the plan has no such table, or the document has not the shape it says.
    pub fn read(plan: &Plan, name: &str, document: &serde_json::Value) -> Result<Self, String> {
        let at = plan
            .sources
            .iter()
            .position(|source| source.name == name)
            .ok_or_else(|| {
                format!("the blueprint has no table `{name}` that is read from a URL")
            })?;
        Self::read_rows(plan.rows.get(at).and_then(Option::as_ref), document)
    }
}

impl Plan {
    /// The tables to be read from URLs.
    #[must_use]
    pub fn tables(&self) -> &[TableSource] {
        &self.sources
    }

    /// Every reason for which an item may wait for a row of a table.
    #[must_use]
    pub fn hold_reasons(&self) -> Vec<String> {
        let unknown = self.sources.iter().map(|source| source.unknown.clone());
        let mut reasons: Vec<String> = unknown.collect();
        if !reasons.is_empty() {
            reasons.push(NOT_READ.to_owned());
        }
        reasons.sort();
        reasons.dedup();
        reasons
    }

    /// The requests, in the order of the file.
    #[must_use]
    pub fn requests(&self) -> &[RequestPlan] {
        &self.requests
    }

    /// Reads of a stored record what this plan looks at.
    ///
    /// # Errors
    /// When the bytes are not a canonical event.
    pub fn read<'r>(&self, record: &'r [u8]) -> Result<Seen<'r>, DecodeError> {
        read(record, |kind, name| self.places(kind, name))
    }

    /// What an event becomes, of which this plan has [`read`](Self::read) what it looks at. The items are written on
    /// the sheet.
    #[must_use]
    pub fn map_read(&self, seen: &Seen<'_>, tables: &Tables, sheet: &mut Sheet) -> Mapping {
        self.run(seen, tables, sheet, false).0
    }

    /// What an event becomes.
    #[must_use]
    pub fn map(&self, event: &Event, tables: &Tables) -> Mapping {
        self.run(&self.look(event), tables, &mut Sheet::default(), false)
            .0
    }

    /// As `map`, and for every field of every item the line that made it (slow: for people).
    #[must_use]
    pub fn map_traced(&self, event: &Event, tables: &Tables) -> (Mapping, Vec<Vec<FieldTrace>>) {
        self.run(&self.look(event), tables, &mut Sheet::default(), true)
    }

    fn look<'e>(&self, event: &'e Event) -> Seen<'e> {
        let name = event.field("event").and_then(serde_json::Value::as_str);
        self.places(event.kind, name).look(event)
    }

    fn run(
        &self,
        seen: &Seen<'_>,
        tables: &Tables,
        sheet: &mut Sheet,
        traced: bool,
    ) -> (Mapping, Vec<Vec<FieldTrace>>) {
        let (when, skips, sends) = match self.entry(seen.kind, seen.name.as_deref()) {
            None => return (Mapping::Skipped("unmapped"), Vec::new()),
            Some(Ready::Drop) => return (Mapping::Skipped("dropped"), Vec::new()),
            // The config rules out all it would be sent as.
            Some(Ready::Send { sends, .. }) if sends.is_empty() => {
                return (Mapping::Skipped("filtered"), Vec::new());
            }
            Some(Ready::Send {
                when, skips, sends, ..
            }) => (when, skips, sends),
        };
        let scene = Scene::of_event(seen, tables);
        if !when.iter().all(|test| eval(test, scene.cx()).is_true()) {
            return (Mapping::Skipped("filtered"), Vec::new());
        }
        let skip = skips
            .iter()
            .find(|(_, test)| eval(test, scene.cx()).is_true());
        scene.take_problems();
        if let Some((reason, _)) = skip {
            let skipped = sends.iter().map(|send| Part {
                request: send.request,
                result: PartResult::Skipped {
                    reason: reason.clone(),
                },
                notes: Vec::new(),
            });
            return (
                Mapping::Parts(skipped.collect()),
                vec![Vec::new(); sends.len()],
            );
        }
        let mut traces = Vec::new();
        let mut digests = Digests::default();
        let parts = sends
            .iter()
            .map(|send| {
                let (part, trace) = self.part(send, &scene, tables, sheet, &mut digests, traced);
                traces.extend(trace);
                part
            })
            .collect();
        (Mapping::Parts(parts), traces)
    }

    fn part<'s>(
        &self,
        send: &'s ReadySend,
        scene: &'s Scene<'s>,
        tables: &Tables,
        sheet: &mut Sheet,
        digests: &mut Digests<'s>,
        traced: bool,
    ) -> (Part, Option<Vec<FieldTrace>>) {
        let part = |result, notes| Part {
            request: send.request,
            result,
            notes,
        };
        let skipped = |reason: &str| PartResult::Skipped {
            reason: reason.to_owned(),
        };
        let Some(wire) = self.wires.get(send.request) else {
            return (part(skipped("nothing to send"), Vec::new()), None);
        };
        let wanted = |test: &Expr| eval(test, scene.cx()).is_true();
        if !send.when.iter().all(wanted) {
            scene.take_problems();
            return (part(skipped("filtered"), Vec::new()), None);
        }
        let mut writer = Writer::on(std::mem::take(&mut sheet.draft));
        writer.trace = traced.then(Vec::new);
        writer.strip = wire.def.strip.as_deref();
        writer.most_bytes = wire.def.bytes_max;
        let written = self.write_item(&mut writer, send, wire, scene);
        sheet.draft = std::mem::take(&mut writer.out);
        let result = match written {
            Ok(true) => PartResult::Item {
                group: group_of(send, scene),
                keys: send.travel.keys(&wire.def.name, scene, digests),
                json: sheet.written(),
            },
            Ok(false) => skipped("nothing to send"),
            Err(stop) => stopped(stop, tables),
        };
        scene.take_problems();
        (part(result, writer.notes), writer.trace)
    }

    /// An item as it stands in the request's body, without what is kept beside it for the request's address.
    #[must_use]
    pub fn bare<'a>(&self, request: usize, json: &'a [u8]) -> &'a [u8] {
        let wrapped = self
            .wires
            .get(request)
            .is_some_and(|wire| !wire.def.holes.is_empty());
        let bare = || {
            let parts: Vec<&'a serde_json::value::RawValue> = serde_json::from_slice(json).ok()?;
            Some(parts.first()?.get().as_bytes())
        };
        wrapped.then(bare).flatten().unwrap_or(json)
    }

    fn write_item(
        &self,
        writer: &mut Writer<'_>,
        send: &ReadySend,
        wire: &Wire,
        scene: &Scene<'_>,
    ) -> Result<bool, Stop> {
        let cx = scene.cx();
        let holes = &send.holes;
        if !holes.is_empty() {
            writer.out.push(b'[');
        }
        let limits = Limits::top(&wire.def.limits, scene.received_at_ms());
        if !writer.write(&send.item, cx, &Path::TOP, send.line, limits)? {
            return Ok(false);
        }
        if holes.is_empty() {
            return Ok(true);
        }
        for hole in holes {
            writer.out.push(b',');
            if !writer.write(
                hole,
                cx,
                &Path::TOP.name("request"),
                send.line,
                Limits::NONE,
            )? {
                writer.out.extend_from_slice(b"null");
            }
        }
        writer.out.push(b']');
        if !super::request::has_address(&wire.def, &writer.out) {
            return Err(Stop::Missing("address is missing".to_owned()));
        }
        Ok(true)
    }
}

fn group_of(send: &ReadySend, scene: &Scene<'_>) -> u64 {
    let Some(by) = &send.by else { return 0 };
    let mut hasher = DefaultHasher::new();
    eval(by, scene.cx()).text().hash(&mut hasher);
    hasher.finish()
}

fn stopped(stop: Stop, tables: &Tables) -> PartResult {
    match stop {
        Stop::Missing(reason) | Stop::Skip(reason) => PartResult::Skipped { reason },
        Stop::Refuse { reason, detail } => PartResult::Refused { reason, detail },
        Stop::Hold(remote, key) => {
            let (reason, detail) = match tables.tables.get(&remote.name) {
                Some(table) => (unknown(&remote.label), table.not_found(&remote.label, &key)),
                None => (
                    NOT_READ.to_owned(),
                    format!(
                        "no {} `{key}`: the document with the table `{}` could not be read yet",
                        remote.label, remote.name
                    ),
                ),
            };
            PartResult::Held {
                table: remote.name.clone(),
                key,
                reason,
                detail,
                hold: remote.hold,
            }
        }
    }
}
