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
//! - An event's time is [`happened_at`].

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use super::scan::{Scanner, SyntaxFault, Text};
use super::{Kind, event_id, time};
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

/// A member this module knows; everything else is stored as posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Type,
    MessageId,
    UserId,
    AnonymousId,
    Timestamp,
    OriginalTimestamp,
    SentAt,
    WriteKey,
    /// `eventId`, `source`, `receivedAt`.
    Ours,
    Event,
    GroupId,
    PreviousId,
    Properties,
    Traits,
    Context,
    Integrations,
    Other,
}

const FIELDS: usize = Field::Other as usize;

impl Field {
    fn of(key: &str) -> Self {
        match key {
            "type" => Self::Type,
            "messageId" => Self::MessageId,
            "userId" => Self::UserId,
            "anonymousId" => Self::AnonymousId,
            "timestamp" => Self::Timestamp,
            "originalTimestamp" => Self::OriginalTimestamp,
            "sentAt" => Self::SentAt,
            "writeKey" => Self::WriteKey,
            "eventId" | "source" | "receivedAt" => Self::Ours,
            "event" => Self::Event,
            "groupId" => Self::GroupId,
            "previousId" => Self::PreviousId,
            "properties" => Self::Properties,
            "traits" => Self::Traits,
            "context" => Self::Context,
            "integrations" => Self::Integrations,
            _ => Self::Other,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Member<'a> {
    field: Field,
    key: Text<'a>,
    value: &'a str,
}

#[derive(Debug, Clone)]
struct Item<'a> {
    raw: &'a str,
    /// Its members in `Body::members`; none when it is no object.
    members: Option<Range<usize>>,
}

/// A request's body, checked and cut into events.
#[derive(Debug, Default)]
pub struct Body<'a> {
    /// The members of all items, one after another: one allocation instead of one per event.
    members: Vec<Member<'a>>,
    items: Vec<Item<'a>>,
    write_key: Option<&'a str>,
    sent_at: Option<&'a str>,
    context: Option<Common<'a>>,
    integrations: Option<Common<'a>>,
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
        let Some(Item {
            members: Some(members),
            ..
        }) = body.items.first()
        else {
            return Err(BodyFault::NotAnObject);
        };
        body.write_key = body
            .members
            .get(members.clone())
            .unwrap_or_default()
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
        let mut body = Self::default();
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
        let item = self
            .items
            .get(index)
            .ok_or_else(|| fault("no_event", "", "there is no such event in the batch"))?;
        let members = self
            .members_of(item)
            .ok_or_else(|| fault("wrong_type", "", "an event must be a JSON object"))?;
        let bytes = item.raw.len() + self.common_bytes();
        if bytes > with.event_bytes_max {
            let message = format!(
                "the event has {bytes} bytes, the limit is {}",
                with.event_bytes_max
            );
            return Err(fault("event_too_large", "", message));
        }
        let event = Checked::of(members, kind, self.sent_at)?;
        out.reserve(bytes + 320);
        let message_id = event
            .message_id
            .clone()
            .unwrap_or_else(|| Cow::Owned((with.make_id)().to_string()));
        event.write_head(&message_id, with, out);
        self.write_members(&event, members, out);
        Ok(Accepted {
            kind: event.kind,
            message_id,
            record: out.split().freeze(),
        })
    }

    fn item(&mut self, scanner: &mut Scanner<'a>, depth: usize) -> Result<(), SyntaxFault> {
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

    fn members_of(&self, item: &Item<'a>) -> Option<&[Member<'a>]> {
        self.members.get(item.members.clone()?)
    }

    fn common_bytes(&self) -> usize {
        let of = |common: &Option<Common<'_>>| common.as_ref().map_or(0, |it| it.raw.len());
        of(&self.context) + of(&self.integrations)
    }

    /// Everything that is not part of the head, in the order it was posted.
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
        out.put_u8(b'}');
    }
}

impl<'a> Member<'a> {
    fn of(key: Text<'a>, value: &'a str) -> Self {
        let field = key.read().map_or(Field::Other, |key| Field::of(&key));
        Self { field, key, value }
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
        let kept = self.members.iter().filter(|member| {
            let key = member.key.read();
            !own.iter().any(|other| other.key.read() == key)
        });
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
fn members(raw: &str) -> Option<Vec<Member<'_>>> {
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

/// An event whose known members have been looked at.
struct Checked<'a> {
    /// By [`Field`]; the last value wins, null is absent.
    known: [Option<&'a str>; FIELDS],
    kind: Kind,
    message_id: Option<Cow<'a, str>>,
    sent_at: Option<&'a str>,
}

impl<'a> Checked<'a> {
    fn of(
        members: &[Member<'a>],
        kind: Option<Kind>,
        batch_sent_at: Option<&'a str>,
    ) -> Result<Self, Fault> {
        let mut known = [None; FIELDS];
        for member in members {
            if let Some(slot) = known.get_mut(member.field as usize) {
                *slot = present(member.value);
            }
        }
        let mut event = Self {
            known,
            kind: Kind::Track,
            message_id: None,
            sent_at: None,
        };
        event.sent_at = event.get(Field::SentAt).or(batch_sent_at);
        event.kind = match kind {
            Some(kind) => kind,
            None => event.own_kind()?,
        };
        event.message_id = event.own_message_id()?;
        event.check_identity()?;
        event.check_types()?;
        Ok(event)
    }

    fn get(&self, field: Field) -> Option<&'a str> {
        self.known.get(field as usize).copied().flatten()
    }

    fn own_kind(&self) -> Result<Kind, Fault> {
        const KINDS: &str = "track, identify, page, screen, group or alias";
        let Some(raw) = self.get(Field::Type) else {
            let message = format!("an event in a batch needs a `type`: {KINDS}");
            return Err(fault("missing_type", "/type", message));
        };
        let name = Text::of(raw)
            .ok_or_else(|| wrong_type("/type", "a text", raw))?
            .read()
            .unwrap_or_default();
        Kind::posted(&name).ok_or_else(|| {
            let name: String = name.chars().take(40).collect();
            let message = format!("`type` must be {KINDS}, not `{name}`");
            fault("unknown_type", "/type", message)
        })
    }

    fn own_message_id(&self) -> Result<Option<Cow<'a, str>>, Fault> {
        let path = "/messageId";
        let Some(raw) = self.get(Field::MessageId) else {
            return Ok(None);
        };
        let text = Text::of(raw).ok_or_else(|| wrong_type(path, "a text", raw))?;
        let id = text.read().ok_or_else(|| cut_pair(path))?;
        let short = id.len() <= MESSAGE_ID_CHARS_MAX || id.chars().count() <= MESSAGE_ID_CHARS_MAX;
        if id.is_empty() || !short {
            let message = format!(
                "`messageId` must have 1 to {MESSAGE_ID_CHARS_MAX} characters, this one has {}; leave it out to have one made",
                id.chars().count()
            );
            return Err(fault("invalid_message_id", path, message));
        }
        Ok(Some(id))
    }

    fn check_identity(&self) -> Result<(), Fault> {
        let user = check_id("/userId", self.get(Field::UserId))?;
        let anonymous = check_id("/anonymousId", self.get(Field::AnonymousId))?;
        if user || anonymous {
            return Ok(());
        }
        Err(fault(
            "missing_identity",
            "",
            "an event needs a `userId` or an `anonymousId`",
        ))
    }

    fn check_types(&self) -> Result<(), Fault> {
        check_id("/groupId", self.get(Field::GroupId))?;
        check_id("/previousId", self.get(Field::PreviousId))?;
        for (field, path) in [
            (Field::Properties, "/properties"),
            (Field::Traits, "/traits"),
            (Field::Context, "/context"),
            (Field::Integrations, "/integrations"),
        ] {
            if let Some(raw) = self.get(field)
                && !raw.starts_with('{')
            {
                return Err(wrong_type(path, "an object", raw));
            }
        }
        match self.get(Field::Event) {
            Some(raw) if !raw.starts_with('"') => Err(wrong_type("/event", "a text", raw)),
            None | Some("\"\"") if self.kind == Kind::Track => Err(fault(
                "missing_event",
                "/event",
                "a track call needs the name of what happened in `event`",
            )),
            _ => Ok(()),
        }
    }

    /// The record up to and with the identity.
    fn write_head(&self, message_id: &str, with: &Acceptance<'_>, out: &mut BytesMut) {
        let given = self.get(Field::Timestamp);
        let original = self.get(Field::OriginalTimestamp);
        let happened = happened_at(
            given.and_then(read_time),
            original.and_then(read_time),
            self.sent_at.and_then(read_time),
            with.received_at_ms,
        );
        out.put_slice(b"{\"type\":\"");
        out.put_slice(self.kind.as_str().as_bytes());
        out.put_slice(b"\",\"eventId\":\"");
        let mut buffer = Uuid::encode_buffer();
        let id = event_id(with.source, message_id);
        out.put_slice(id.hyphenated().encode_lower(&mut buffer).as_bytes());
        out.put_slice(b"\",\"source\":");
        write_text(with.source, out);
        out.put_slice(b",\"messageId\":");
        match self.get(Field::MessageId) {
            Some(raw) => out.put_slice(raw.as_bytes()),
            None => write_text(message_id, out),
        }
        out.put_slice(b",\"receivedAt\":\"");
        out.put_slice(&time::write(with.received_at_ms));
        out.put_slice(b"\",\"timestamp\":\"");
        out.put_slice(&time::write(happened));
        out.put_u8(b'"');
        for (key, raw) in [
            (",\"originalTimestamp\":", original.or(given)),
            (",\"sentAt\":", self.sent_at),
        ] {
            if let Some(raw) = raw {
                out.put_slice(key.as_bytes());
                out.put_slice(raw.as_bytes());
            }
        }
        for (key, field) in [
            (",\"userId\":", Field::UserId),
            (",\"anonymousId\":", Field::AnonymousId),
        ] {
            if let Some(raw) = self.get(field).filter(|raw| *raw != "\"\"") {
                out.put_slice(key.as_bytes());
                write_id(raw, out);
            }
        }
    }
}

/// When an event happened, by the server's clock.
///
/// `given`: the caller's `timestamp`; `original`: its `originalTimestamp`; unreadable times count as absent.
/// - The time of the device is corrected by how wrong its clock was when it sent:
///   `receivedAt - (sentAt - originalTimestamp)` (Segment, "common fields"). SDKs call that time `timestamp`
///   (Segment) or `originalTimestamp` (RudderStack, Jitsu forwards).
/// - With both given, `timestamp` is a time somebody set on purpose and is taken as it is, as RudderStack does.
/// - Without a readable `sentAt` nothing can be corrected: the time is taken as it is.
/// - Without any readable time it is the time of receipt.
/// - Nothing happens after it was received: a later result (sent before it happened, or a clock in the
///   future) is the time of receipt. Nor before 1970, which only a broken clock says.
#[must_use]
pub fn happened_at(
    given: Option<Millis>,
    original: Option<Millis>,
    sent: Option<Millis>,
    received: Millis,
) -> Millis {
    let happened = match (given, original, sent) {
        (Some(given), Some(_), _) => given,
        (Some(device), None, Some(sent)) | (None, Some(device), Some(sent)) => {
            device.saturating_add(received.saturating_sub(sent))
        }
        (Some(device), None, None) | (None, Some(device), None) => device,
        (None, None, _) => received,
    };
    if happened < 0 {
        return received;
    }
    happened.min(received)
}

fn read_time(raw: &str) -> Option<Millis> {
    time::read(&Text::of(raw)?.read()?)
}

fn present(raw: &str) -> Option<&str> {
    (raw != "null").then_some(raw)
}

fn object(raw: &str) -> Option<&str> {
    raw.starts_with('{').then_some(raw)
}

/// Checks an id; tells whether there is one.
fn check_id(path: &'static str, raw: Option<&str>) -> Result<bool, Fault> {
    let Some(raw) = raw else { return Ok(false) };
    match raw.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => Ok(true),
        Some(b'"') => match Text::of(raw) {
            // An identity has to be exact, so half a surrogate pair is refused here and nowhere else.
            Some(text) if text.escaped && text.read().is_none() => Err(cut_pair(path)),
            _ => Ok(raw != "\"\""),
        },
        _ => Err(wrong_type(path, "a text or a number", raw)),
    }
}

fn write_id(raw: &str, out: &mut BytesMut) {
    if raw.starts_with('"') {
        out.put_slice(raw.as_bytes());
    } else {
        out.put_u8(b'"');
        out.put_slice(raw.as_bytes());
        out.put_u8(b'"');
    }
}

/// Writes a JSON text.
fn write_text(text: &str, out: &mut BytesMut) {
    if text
        .bytes()
        .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
    {
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
    } else {
        out.put_slice(serde_json::Value::from(text).to_string().as_bytes());
    }
}

fn fault(code: &'static str, path: &'static str, message: impl Into<String>) -> Fault {
    Fault {
        code,
        path,
        message: message.into(),
    }
}

fn wrong_type(path: &'static str, wanted: &str, raw: &str) -> Fault {
    let is = match raw.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    };
    let field = path.trim_start_matches('/');
    fault(
        "wrong_type",
        path,
        format!("`{field}` must be {wanted}, it is {is}"),
    )
}

fn cut_pair(path: &'static str) -> Fault {
    let field = path.trim_start_matches('/');
    fault(
        "invalid_text",
        path,
        format!("`{field}` holds half of a surrogate pair (a cut emoji), which is no character"),
    )
}
