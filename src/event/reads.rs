//! Reading a stored record only as far as somebody looks at it.
//!
//! A pipeline maps every event, and most of an event is of no interest to it: what is not read is checked by the
//! scanner and stepped over, so that no value is built for it. What is read is equal to what
//! [`Event::decode`] gives, and a record that is odd in any way is decoded whole.

use std::borrow::Cow;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::scan::{Scanner, Text};
use super::{DecodeError, Event, Kind, time};

/// How much of a value is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// All of it.
    All,
    /// Of an object these fields; anything else whole.
    Fields(Vec<(Box<str>, Self)>),
    /// Of each object in an array these fields; anything else whole.
    Rows(Vec<Box<str>>),
}

impl Default for Reads {
    fn default() -> Self {
        Self::Fields(Vec::new())
    }
}

impl Reads {
    /// Only what stands at `path`, as far as `what` says.
    pub fn at<'p>(path: impl DoubleEndedIterator<Item = &'p str>, what: Self) -> Self {
        path.rev()
            .fold(what, |inner, step| Self::Fields(vec![(step.into(), inner)]))
    }

    /// Looks also at what `other` looks at.
    pub fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (Self::Rows(mine), Self::Rows(others)) => {
                for name in others {
                    if !mine.contains(&name) {
                        mine.push(name);
                    }
                }
            }
            (Self::Fields(mine), Self::Fields(others)) => {
                for (name, reads) in others {
                    match mine.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => known.add(reads),
                        None => mine.push((name, reads)),
                    }
                }
            }
            _ => *self = Self::All,
        }
    }

    fn of(&self, name: &str) -> Option<&Self> {
        match self {
            Self::All => Some(self),
            Self::Rows(_) => None,
            Self::Fields(fields) => fields
                .iter()
                .find(|(known, _)| **known == *name)
                .map(|(_, reads)| reads),
        }
    }
}

impl Event {
    /// Reads of a stored record its `event`, its `integrations` and what `reads` says for its kind and name; the other
    /// fields are not there.
    ///
    /// # Errors
    /// When the bytes are not the canonical form that [`super::parse`] writes.
    pub fn decode_reading<'r>(
        record: &[u8],
        reads: impl FnOnce(Kind, Option<&str>) -> &'r Reads,
    ) -> Result<Self, DecodeError> {
        match some_of(record, reads) {
            Some(event) => Ok(event),
            None => Self::decode(record),
        }
    }
}

/// None: something is odd, so that the whole record must be looked at.
fn some_of<'r>(
    record: &[u8],
    reads: impl FnOnce(Kind, Option<&str>) -> &'r Reads,
) -> Option<Event> {
    let members = members(std::str::from_utf8(record).ok()?)?;
    let member = |name: &str| {
        let found = members.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, raw)| *raw)
    };
    let text = |name: &str| Text::of(member(name)?)?.read();
    let kind = Kind::stored(&text("type")?)?;
    let name = text("event");
    let reads = reads(kind, name.as_deref());
    let mut fields = Map::with_capacity(8);
    for (key, raw) in &members {
        // The name chose `reads`, and integrations choose whether anybody reads it.
        let reads = match key.as_ref() {
            "event" | "integrations" => Some(&Reads::All),
            key => reads.of(key),
        };
        if let Some(reads) = reads {
            fields.insert(key.clone().into_owned(), value(raw, reads, 2)?);
        }
    }
    Some(Event {
        kind,
        event_id: Uuid::parse_str(&text("eventId")?).ok()?,
        source: text("source")?.into_owned(),
        message_id: text("messageId")?.into_owned(),
        received_at_ms: time::read(&text("receivedAt")?)?,
        timestamp_ms: time::read(&text("timestamp")?)?,
        fields,
    })
}

/// The members of the object in `text`, in order.
fn members(text: &str) -> Option<Vec<(Cow<'_, str>, &str)>> {
    let mut members = Vec::with_capacity(24);
    let mut odd = false;
    let mut scanner = Scanner::new(text);
    scanner
        .object(1, |scanner, key| {
            let raw = scanner.value(2)?;
            match key.read() {
                Some(key) => members.push((key, raw)),
                None => odd = true,
            }
            Ok(())
        })
        .ok()?;
    scanner.end().ok()?;
    (!odd).then_some(members)
}

/// The value in `raw` as far as it is read. `depth`: of the value.
fn value(raw: &str, reads: &Reads, depth: usize) -> Option<Value> {
    match (reads, raw.as_bytes().first()) {
        (Reads::Fields(_), Some(b'{')) => {
            let mut fields = Map::new();
            let mut odd = false;
            let mut scanner = Scanner::new(raw);
            let scanned = scanner.object(depth, |scanner, key| {
                let raw = scanner.value(depth + 1)?;
                let Some(key) = key.read() else {
                    odd = true;
                    return Ok(());
                };
                if let Some(reads) = reads.of(&key) {
                    match value(raw, reads, depth + 1) {
                        Some(value) => _ = fields.insert(key.into_owned(), value),
                        None => odd = true,
                    }
                }
                Ok(())
            });
            (scanned.is_ok() && !odd).then_some(Value::Object(fields))
        }
        (Reads::Rows(names), Some(b'[')) => {
            let row = Reads::Fields(
                names
                    .iter()
                    .map(|name| (name.clone(), Reads::All))
                    .collect(),
            );
            let mut rows = Vec::new();
            let mut odd = false;
            let mut scanner = Scanner::new(raw);
            let scanned = scanner.array(depth, |scanner| {
                let raw = scanner.value(depth + 1)?;
                match value(raw, &row, depth + 1) {
                    Some(value) => rows.push(value),
                    None => odd = true,
                }
                Ok(())
            });
            (scanned.is_ok() && !odd).then_some(Value::Array(rows))
        }
        _ => serde_json::from_str(raw).ok(),
    }
}
