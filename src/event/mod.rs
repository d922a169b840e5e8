//! The vocabulary: what an app told us. Pure values; no I/O, no clock, no logging.
//!
//! [`parse`] turns one inbound call into a stored record (canonical JSON bytes) or a list of faults;
//! [`Event::decode`] reads such a record back for delivery. The canonical form is one JSON object:
//! `type`, `eventId`, `source`, `messageId`, `receivedAt`, `timestamp` (after clock-skew correction),
//! then `originalTimestamp`, `sentAt`, `userId`, `anonymousId`, … and every other field as it was posted. A flag
//! decision, in whatever form it was reported, is stored in one form; see [`decision`].

pub mod check;
pub mod decision;
pub mod money;
pub mod parse;
pub mod reads;
pub mod scan;
pub mod time;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};
use sha1::{Digest as _, Sha1};
use uuid::Uuid;

use crate::clock::Millis;

/// What kind of call an event was.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something a user did.
    Track,
    /// Who a user is.
    Identify,
    /// A web page seen.
    Page,
    /// An app screen seen.
    Screen,
    /// The group a user belongs to.
    Group,
    /// Two ids are one user.
    Alias,
    /// A feature-flag decision reported by an app.
    Decision,
}

impl Kind {
    /// The word used on the wire and in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
            Self::Decision => "decision",
        }
    }

    /// The kind an app means by this word.
    #[must_use]
    pub fn posted(word: &str) -> Option<Self> {
        Some(match word {
            "track" => Self::Track,
            "identify" => Self::Identify,
            "page" => Self::Page,
            "screen" => Self::Screen,
            "group" => Self::Group,
            "alias" => Self::Alias,
            _ => return None,
        })
    }

    /// The kind a stored record says it is.
    #[must_use]
    pub fn stored(word: &str) -> Option<Self> {
        match word {
            "decision" => Some(Self::Decision),
            word => Self::posted(word),
        }
    }
}

/// One accepted event, read back from the journal.
#[derive(Debug, Clone)]
pub struct Event {
    /// Kind of call.
    pub kind: Kind,
    /// UUIDv5 of (source, message id), fixed at acceptance; what vendors deduplicate by.
    pub event_id: Uuid,
    /// Id of the source that posted it.
    pub source: String,
    /// The caller's id, or one made at acceptance.
    pub message_id: String,
    /// When it was accepted.
    pub received_at_ms: Millis,
    /// When it happened, after clock-skew correction.
    pub timestamp_ms: Millis,
    /// The whole canonical object, these fields included (`receivedAt` and `timestamp` as RFC 3339 texts).
    pub fields: Map<String, Value>,
}

/// A stored record that is not a canonical event.
#[derive(Debug, thiserror::Error)]
#[error("stored record is not an event: {0}")]
pub struct DecodeError(pub String);

impl Event {
    /// Reads a stored record.
    ///
    /// # Errors
    /// When the bytes are not the canonical form that [`parse`] writes.
    pub fn decode(record: &[u8]) -> Result<Self, DecodeError> {
        let fields: Map<String, Value> = match serde_json::from_slice(record) {
            Ok(fields) => fields,
            Err(error) => mended(record)
                .and_then(|record| serde_json::from_slice(&record).ok())
                .ok_or_else(|| DecodeError(error.to_string()))?,
        };
        let text = |key: &str| {
            fields
                .get(key)
                .and_then(Value::as_str)
                .ok_or_else(|| DecodeError(format!("`{key}` is missing or no text")))
        };
        let time = |key: &str| {
            time::read(text(key)?).ok_or_else(|| DecodeError(format!("`{key}` is no time")))
        };
        let word = text("type")?;
        let kind = Kind::stored(word)
            .ok_or_else(|| DecodeError(format!("`{word}` is no kind of event")))?;
        let event_id = Uuid::parse_str(text("eventId")?)
            .map_err(|error| DecodeError(format!("`eventId`: {error}")))?;
        Ok(Self {
            kind,
            event_id,
            source: text("source")?.to_owned(),
            message_id: text("messageId")?.to_owned(),
            received_at_ms: time("receivedAt")?,
            timestamp_ms: time("timestamp")?,
            fields,
        })
    }

    /// A field of the canonical object.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }
}

/// The record with every escape that names half a surrogate pair made U+FFFD; none when there is none.
///
/// Apps post such texts: `JSON.stringify` makes `"\\ud83d"` of an emoji cut in two. The journal keeps them as
/// they came; no vendor can be sent half a character, so they are read as every UTF-8 encoder writes them.
fn mended(record: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| -> Option<u16> {
        let digits = record.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut out = record.to_vec();
    let mut changed = false;
    let mut at = 0;
    while let Some(byte) = record.get(at) {
        if *byte != b'\\' {
            at += 1;
            continue;
        }
        let paired = |low: Option<u16>| matches!(low, Some(0xdc00..=0xdfff));
        match unit(at) {
            Some(0xd800..=0xdbff) if paired(unit(at + 6)) => at += 12,
            Some(0xd800..=0xdfff) => {
                if let Some(escape) = out.get_mut(at..at + 6) {
                    escape.copy_from_slice(b"\\ufffd");
                }
                changed = true;
                at += 6;
            }
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    changed.then_some(out)
}

/// A message id for an event that came without one: a UUIDv7. `chance`: random bits.
#[must_use]
pub fn made_message_id(now_ms: Millis, chance: [u64; 2]) -> Uuid {
    let mut random = [0; 10];
    for (to, from) in random
        .iter_mut()
        .zip(chance.map(u64::to_le_bytes).as_flattened())
    {
        *to = *from;
    }
    let ms = u64::try_from(now_ms).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid()
}

/// The id vendors deduplicate by: a function of source and message id alone, so that a repeated post,
/// a retry, a replay and a crash recovery all say the same.
#[must_use]
pub fn event_id(source: &str, message_id: &str) -> Uuid {
    /// Made once for this product; changing it would change every id.
    const NAMESPACE: Uuid = Uuid::from_u128(0x6d1f_93c2_70b4_4f5e_9a57_1c6f_2be4_a9d0);
    // UUIDv5 as RFC 9562 has it, with a SHA-1 that uses the processor's own instructions.
    let digest = Sha1::new()
        .chain_update(NAMESPACE)
        .chain_update(source)
        .chain_update([0])
        .chain_update(message_id)
        .finalize();
    let mut first = [0; 16];
    for (to, from) in first.iter_mut().zip(digest) {
        *to = from;
    }
    uuid::Builder::from_sha1_bytes(first).into_uuid()
}
