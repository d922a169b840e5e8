//! What an event must be to be taken, and the head of its record.

use std::borrow::Cow;

use bytes::{BufMut as _, BytesMut};
use uuid::Uuid;

use super::decision::{Decision, posted};
use super::parse::{Acceptance, Fault, MESSAGE_ID_CHARS_MAX};
use super::scan::Text;
use super::{Kind, event_id, time};
use crate::clock::Millis;

/// A member this module knows; everything else is stored as posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
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
pub(super) struct Member<'a> {
    pub(super) field: Field,
    pub(super) key: Text<'a>,
    pub(super) value: &'a str,
}

impl<'a> Member<'a> {
    pub(super) fn of(key: Text<'a>, value: &'a str) -> Self {
        let field = key.read().map_or(Field::Other, |key| Field::of(&key));
        Self { field, key, value }
    }
}

/// An event whose known members have been looked at.
pub(super) struct Checked<'a> {
    /// By [`Field`]; the last value wins, null is absent.
    known: [Option<&'a str>; FIELDS],
    pub(super) kind: Kind,
    pub(super) message_id: Option<Cow<'a, str>>,
    sent_at: Option<&'a str>,
}

impl<'a> Checked<'a> {
    /// Looks at an event's members; the first fault found is told.
    pub(super) fn of(
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

    /// Looks at what surrounds a reported decision. `user_id`: where the report has it, if elsewhere.
    pub(super) fn of_decision(
        members: &[Member<'a>],
        user_id: Option<&'a str>,
        batch_sent_at: Option<&'a str>,
    ) -> Result<Self, Fault> {
        let mut known = [None; FIELDS];
        let report = Member {
            field: Field::UserId,
            key: Text {
                raw: "\"userId\"",
                escaped: false,
            },
            value: user_id.unwrap_or("null"),
        };
        for member in members.iter().chain([&report]) {
            if let Some(slot) = known.get_mut(member.field as usize) {
                *slot = present(member.value);
            }
        }
        let mut event = Self {
            known,
            kind: Kind::Decision,
            message_id: None,
            sent_at: None,
        };
        event.sent_at = event.get(Field::SentAt).or(batch_sent_at);
        event.message_id = event.own_message_id()?;
        event.check_identity()?;
        event.check_types()?;
        Ok(event)
    }

    /// The decision a track call tells of, if its name and its properties say so. One that cannot be read stays
    /// the track call it is.
    pub(super) fn reported(&self) -> Option<Decision> {
        let name = self.get(Field::Event)?;
        if self.kind != Kind::Track || !posted::is_track_name(name) {
            return None;
        }
        posted::of_track(self.get(Field::Properties))?.read().ok()
    }

    pub(super) fn get(&self, field: Field) -> Option<&'a str> {
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

    /// Refuses what its source may not post.
    pub(super) fn check_admitted(&self, with: &Acceptance<'_>) -> Result<(), Fault> {
        let Some(admits) = with.admits else {
            return Ok(());
        };
        if !admits.kind(self.kind) {
            let message = format!(
                "this write key may not make {} calls; add the type to its source's allowed types",
                self.kind.as_str()
            );
            return Err(fault("type_not_allowed", "/type", message));
        }
        if self.kind != Kind::Track || !admits.names() {
            return Ok(());
        }
        let name = self.get(Field::Event).and_then(Text::of);
        let name = name.and_then(|name| name.read()).unwrap_or_default();
        if admits.name(&name) {
            return Ok(());
        }
        let name: String = name.chars().take(80).collect();
        let message = format!(
            "this write key may not post the event `{name}`; add the name to its source's allowed events"
        );
        Err(fault("event_not_allowed", "/event", message))
    }

    /// The record up to and with the identity.
    pub(super) fn write_head(&self, message_id: &str, with: &Acceptance<'_>, out: &mut BytesMut) {
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

pub(super) fn present(raw: &str) -> Option<&str> {
    (raw != "null").then_some(raw)
}

pub(super) fn object(raw: &str) -> Option<&str> {
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

pub(super) fn write_id(raw: &str, out: &mut BytesMut) {
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

pub(super) fn fault(code: &'static str, path: &'static str, message: impl Into<String>) -> Fault {
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
