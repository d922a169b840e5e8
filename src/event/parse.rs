//! One inbound JSON call to a stored record, or the faults that keep it out.
//!
//! [`Body`] checks a request's whole text in one pass and remembers where each member of each event
//! stands; [`Body::accept`] validates one event and writes its canonical record by copying those slices.
//! No value is built on the way, so numbers, escapes and key order are stored exactly as they were posted.
//!
//! Rules that are not in the names of things:
//! - `null` is absent, and so is an empty `userId`, `anonymousId` or `event`.
//! - A key given twice means its last value, at every depth.
//! - Ids may be numbers; they are kept as the text of the number (Python SDK: `user_id` may be any number).
//! - `eventId`, `source` and `receivedAt` belong to the record; a caller's values for them are dropped, and
//!   so is `writeKey`, which is a credential.
//! - An event's time is [`happened_at`](super::check::happened_at).
//! - A track call that tells of a flag decision becomes one; see [`posted`](super::decision::posted).

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use super::Kind;
use super::check::{Checked, Field, Member, fault, object, present, write_id};
use super::decision::{Decision, Rules};
use super::scan::{Scanner, SyntaxFault, Text};
use crate::clock::Millis;

/// Longest message id, in characters.
pub const MESSAGE_ID_CHARS_MAX: usize = 100;

/// Why a request's body is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Not JSON, or nested too deep.
    #[error("{}", .0.kind)]
    Syntax(SyntaxFault),
    /// JSON, but no object.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// A batch without `batch`, or with something else than an array there.
    #[error("`batch` must be an array of events")]
    NoBatch,
    /// More events than one request may hold.
    #[error("a batch may hold at most {0} events")]
    TooMany(usize),
}

impl From<SyntaxFault> for BodyFault {
    fn from(fault: SyntaxFault) -> Self {
        Self::Syntax(fault)
    }
}

/// Why one event is refused. The rest of its request is not touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Stable code, also a metric label.
    pub code: &'static str,
    /// The member that is wrong, as a JSON pointer from the event; empty for the event itself.
    pub path: &'static str,
    /// What is wrong and the way out.
    pub message: String,
}

/// Says what a source may post.
pub trait Admits {
    /// Whether it may make calls of this kind.
    fn kind(&self, kind: Kind) -> bool;
    /// Whether its track calls may have this name; asked only if `names` says so.
    fn name(&self, name: &str) -> bool;
    /// Whether names matter.
    fn names(&self) -> bool;
}

/// What all events of one request have in common.
pub struct Acceptance<'a> {
    /// Id of the source that posts.
    pub source: &'a str,
    /// Now.
    pub received_at_ms: Millis,
    /// Largest event, in bytes of JSON, batch-level `context` and `integrations` included.
    pub event_bytes_max: usize,
    /// Makes a message id for an event that has none.
    pub make_id: &'a dyn Fn() -> Uuid,
    /// What decisions are filled in from.
    pub rules: &'a dyn Rules,
    /// What the source may post; none = everything.
    pub admits: Option<&'a dyn Admits>,
}

/// One event, ready to be appended.
#[derive(Debug, Clone)]
pub struct Accepted<'a> {
    /// Kind of call.
    pub kind: Kind,
    /// The caller's id, or the one made.
    pub message_id: Cow<'a, str>,
    /// The canonical record.
    pub record: Bytes,
}

#[derive(Debug, Clone)]
pub(super) struct Item<'a> {
    pub(super) raw: &'a str,
    /// Its members in `Body::members`; none when it is no object.
    members: Option<Range<usize>>,
}

/// A request's body, checked and cut into events.
#[derive(Debug, Default)]
pub struct Body<'a> {
    /// The members of all items, one after another: one allocation instead of one per event.
    members: Vec<Member<'a>>,
    items: Vec<Item<'a>>,
    pub(super) form: Form,
    write_key: Option<&'a str>,
    pub(super) sent_at: Option<&'a str>,
    context: Option<Common<'a>>,
    integrations: Option<Common<'a>>,
}

/// How a body holds its events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// It is the event.
    #[default]
    One,
    /// In its member `batch`.
    Batch,
    /// It is an array of them.
    Array,
}

/// A batch-level object that is merged into every event.
#[derive(Debug)]
struct Common<'a> {
    raw: &'a str,
    members: Vec<Member<'a>>,
}

impl<'a> Body<'a> {
    /// Reads the body of a single call: the event itself.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn single(text: &'a str) -> Result<Self, BodyFault> {
        let mut body = Self {
            members: Vec::with_capacity(16),
            items: Vec::with_capacity(1),
            ..Self::default()
        };
        let mut scanner = Scanner::new(text);
        body.item(&mut scanner, 1)?;
        scanner.end()?;
        if body.items.first().is_none_or(|item| item.members.is_none()) {
            return Err(BodyFault::NotAnObject);
        }
        body.write_key = body
            .lone()
            .iter()
            .rfind(|member| member.field == Field::WriteKey)
            .map(|member| member.value);
        Ok(body)
    }

    /// Reads the body of a batch call: `{"batch": [event, …], …}`.
    ///
    /// # Errors
    /// When it is not JSON of that shape, or holds more than `events_max` events.
    pub fn batch(text: &'a str, events_max: usize) -> Result<Self, BodyFault> {
        let mut body = Self {
            form: Form::Batch,
            ..Self::default()
        };
        let mut events: Option<usize> = None;
        let mut context = None;
        let mut integrations = None;
        let mut scanner = Scanner::new(text);
        if scanner.peek().is_some_and(|byte| byte != b'{') {
            scanner.value(1)?;
            scanner.end()?;
            return Err(BodyFault::NotAnObject);
        }
        scanner.object(1, |scanner, key| {
            let key = key.read().unwrap_or_default();
            if key == "batch" {
                body.items.clear();
                body.members.clear();
                events = None;
                if scanner.peek() == Some(b'[') {
                    let mut count = 0;
                    scanner.array(2, |scanner| {
                        count += 1;
                        if count > events_max {
                            return scanner.value(3).map(|_| ());
                        }
                        body.item(scanner, 3)
                    })?;
                    events = Some(count);
                    return Ok(());
                }
            }
            let value = scanner.value(2)?;
            match &*key {
                "writeKey" => body.write_key = Some(value),
                "sentAt" => body.sent_at = present(value),
                "context" => context = object(value),
                "integrations" => integrations = object(value),
                _ => {}
            }
            Ok(())
        })?;
        scanner.end()?;
        match events {
            None => return Err(BodyFault::NoBatch),
            Some(count) if count > events_max => return Err(BodyFault::TooMany(events_max)),
            Some(_) => {}
        }
        body.context = context.and_then(Common::of);
        body.integrations = integrations.and_then(Common::of);
        Ok(body)
    }

    /// How many events it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// It holds no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Where event `index` stands, as a JSON pointer; empty when the body is the event.
    #[must_use]
    pub fn place(&self, index: usize) -> String {
        match self.form {
            Form::One => String::new(),
            Form::Batch => format!("/batch/{index}"),
            Form::Array => format!("/{index}"),
        }
    }

    /// The `writeKey` given in the body, if it is a text.
    #[must_use]
    pub fn write_key(&self) -> Option<Cow<'a, str>> {
        Text::of(self.write_key?)?.read()
    }

    /// Event `index` as it was posted, for people: without its write key and cut after `bytes_max`.
    #[must_use]
    pub fn shown(&self, index: usize, bytes_max: usize) -> Bytes {
        let Some(item) = self.items.get(index) else {
            return Bytes::new();
        };
        let Some(members) = self.members_of(item) else {
            let end = item.raw.floor_char_boundary(bytes_max);
            let cut = item.raw.get(..end).unwrap_or_default();
            return Bytes::copy_from_slice(cut.as_bytes());
        };
        let mut out = String::from("{");
        for member in members {
            if member.field == Field::WriteKey {
                continue;
            }
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(member.key.raw);
            out.push(':');
            out.push_str(member.value);
            if out.len() >= bytes_max {
                break;
            }
        }
        out.push('}');
        out.truncate(out.floor_char_boundary(bytes_max));
        Bytes::from(out)
    }

    /// Validates event `index` and writes its record. `kind`: that of the route, or none to go by the
    /// event's own `type`. `out` is working space; it may be shared by all events of a request.
    ///
    /// # Errors
    /// The first fault found.
    pub fn accept(
        &self,
        index: usize,
        kind: Option<Kind>,
        with: &Acceptance<'_>,
        out: &mut BytesMut,
    ) -> Result<Accepted<'a>, Fault> {
        let item = self.sized(index, with)?;
        let members = self
            .members_of(item)
            .ok_or_else(|| fault("wrong_type", "", "an event must be a JSON object"))?;
        let mut event = Checked::of(members, kind, self.sent_at)?;
        let decision = event.reported();
        if decision.is_some() {
            event.kind = Kind::Decision;
        }
        event.check_admitted(with)?;
        Ok(self.write(item, &event, members, decision, with, out))
    }

    /// Event `index`, when it is there and not too large.
    pub(super) fn sized(&self, index: usize, with: &Acceptance<'_>) -> Result<&Item<'a>, Fault> {
        let item = self
            .items
            .get(index)
            .ok_or_else(|| fault("no_event", "", "there is no such event in the batch"))?;
        let bytes = item.raw.len() + self.common_bytes();
        if bytes > with.event_bytes_max {
            let message = format!(
                "the event has {bytes} bytes, the limit is {}",
                with.event_bytes_max
            );
            return Err(fault("event_too_large", "", message));
        }
        Ok(item)
    }

    /// Writes the record of an event found good.
    pub(super) fn write(
        &self,
        item: &Item<'a>,
        event: &Checked<'a>,
        members: &[Member<'a>],
        decision: Option<Decision>,
        with: &Acceptance<'_>,
        out: &mut BytesMut,
    ) -> Accepted<'a> {
        out.reserve(item.raw.len() + self.common_bytes() + 320);
        let message_id = event
            .message_id
            .clone()
            .unwrap_or_else(|| Cow::Owned((with.make_id)().to_string()));
        event.write_head(&message_id, with, out);
        self.write_members(event, members, out);
        match decision {
            Some(mut decision) => {
                decision.enrich(with.rules);
                decision.write_tail(out);
            }
            None => out.put_u8(b'}'),
        }
        Accepted {
            kind: event.kind,
            message_id,
            record: out.split().freeze(),
        }
    }

    pub(super) fn item(
        &mut self,
        scanner: &mut Scanner<'a>,
        depth: usize,
    ) -> Result<(), SyntaxFault> {
        let is_object = scanner.peek() == Some(b'{');
        let start = scanner.at();
        let first = self.members.len();
        if is_object {
            scanner.object(depth, |scanner, key| {
                let value = scanner.value(depth + 1)?;
                self.members.push(Member::of(key, value));
                Ok(())
            })?;
        } else {
            scanner.value(depth)?;
        }
        self.items.push(Item {
            raw: scanner.since(start),
            members: is_object.then_some(first..self.members.len()),
        });
        Ok(())
    }

    /// The members of a body that is one object.
    pub(super) fn lone(&self) -> &[Member<'a>] {
        let first = self.items.first().and_then(|item| self.members_of(item));
        first.unwrap_or_default()
    }

    pub(super) fn members_of(&self, item: &Item<'a>) -> Option<&[Member<'a>]> {
        self.members.get(item.members.clone()?)
    }

    fn common_bytes(&self) -> usize {
        let of = |common: &Option<Common<'_>>| common.as_ref().map_or(0, |it| it.raw.len());
        of(&self.context) + of(&self.integrations)
    }

    /// Everything that is not part of the head, in the order it was posted; the record is left open.
    fn write_members(&self, event: &Checked<'a>, members: &[Member<'a>], out: &mut BytesMut) {
        for member in members {
            let common = match member.field {
                Field::Other => None,
                Field::Event
                | Field::GroupId
                | Field::PreviousId
                | Field::Properties
                | Field::Traits => None,
                Field::Context => self.context.as_ref(),
                Field::Integrations => self.integrations.as_ref(),
                _ => continue,
            };
            // Of a known member given twice only the last is written.
            if member.field != Field::Other
                && !event
                    .get(member.field)
                    .is_some_and(|last| std::ptr::eq(last, member.value))
            {
                continue;
            }
            out.put_u8(b',');
            out.put_slice(member.key.raw.as_bytes());
            out.put_u8(b':');
            match common {
                Some(common) => common.write_merged(member.value, out),
                None if matches!(member.field, Field::GroupId | Field::PreviousId) => {
                    write_id(member.value, out);
                }
                None => out.put_slice(member.value.as_bytes()),
            }
        }
        for (field, key, common) in [
            (Field::Context, ",\"context\":", &self.context),
            (
                Field::Integrations,
                ",\"integrations\":",
                &self.integrations,
            ),
        ] {
            if let (None, Some(common)) = (event.get(field), common) {
                out.put_slice(key.as_bytes());
                out.put_slice(common.raw.as_bytes());
            }
        }
    }
}

impl<'a> Common<'a> {
    fn of(raw: &'a str) -> Option<Self> {
        Some(Self {
            raw,
            members: members(raw)?,
        })
    }

    /// Writes this object with the members of `own` laid over it: the event's own win.
    fn write_merged(&self, own: &'a str, out: &mut BytesMut) {
        let own = members(own).unwrap_or_default();
        // A set: comparing each with each would let one request of many small keys burn a second.
        let own_keys: HashSet<_> = own.iter().map(|member| member.key.read()).collect();
        let kept = self
            .members
            .iter()
            .filter(|member| !own_keys.contains(&member.key.read()));
        let mut lead = b'{';
        for member in kept.chain(&own) {
            out.put_u8(lead);
            out.put_slice(member.key.raw.as_bytes());
            out.put_u8(b':');
            out.put_slice(member.value.as_bytes());
            lead = b',';
        }
        if lead == b'{' {
            out.put_u8(lead);
        }
        out.put_u8(b'}');
    }
}

/// The members of an object that was scanned before.
pub(super) fn members(raw: &str) -> Option<Vec<Member<'_>>> {
    let mut members = Vec::new();
    Scanner::new(raw)
        .object(1, |scanner, key| {
            let value = scanner.value(2)?;
            members.push(Member {
                field: Field::Other,
                key,
                value,
            });
            Ok(())
        })
        .ok()?;
    Some(members)
}
