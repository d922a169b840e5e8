//! Reading a stored record only where somebody looks at it.
//!
//! A pipeline maps every event, and most of an event is of no interest to it. [`Places`] are the places it looks at,
//! numbered; [`read`] goes once over a record and brings what stands there. What nobody looks at is checked by the
//! scanner and stepped over: no value is built for it. What is found is equal to what [`Event::decode`] gives, and a
//! record that is odd in any way is decoded whole.

use std::borrow::Cow;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::scan::{Scanner, SyntaxFault, Text};
use super::{DecodeError, Event, Kind, time};
use crate::clock::Millis;

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
            // Nothing so far.
            (Self::Fields(mine), other) if mine.is_empty() => *self = other,
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

/// Places of an event that are looked at, each with a number.
#[derive(Debug, Default)]
pub struct Places {
    top: Below,
    count: usize,
}

type Below = Vec<(Box<str>, Place)>;

/// One place: looked at itself, or somewhere below, or both.
#[derive(Debug, Default)]
struct Place {
    number: Option<usize>,
    reads: Reads,
    below: Below,
}

impl Places {
    /// None at all.
    pub const NONE: Self = Self {
        top: Vec::new(),
        count: 0,
    };

    /// The number of the place at `path` (not empty), looked at as far as `what` says, and as it was said before.
    pub fn number(&mut self, path: &[&str], what: Reads) -> usize {
        let mut below = &mut self.top;
        let mut steps = path.iter().peekable();
        while let Some(step) = steps.next() {
            let at = match below.iter().position(|(name, _)| **name == **step) {
                Some(at) => at,
                None => {
                    below.push(((*step).into(), Place::default()));
                    below.len() - 1
                }
            };
            let place = &mut below[at].1;
            if steps.peek().is_none() {
                place.reads.add(what);
                let count = &mut self.count;
                return *place.number.get_or_insert_with(|| {
                    *count += 1;
                    *count - 1
                });
            }
            below = &mut place.below;
        }
        // Of an empty path: a place where nothing is.
        self.count += 1;
        self.count - 1
    }

    /// What stands in these places of an event.
    #[must_use]
    pub fn look<'e>(&self, event: &'e Event) -> Seen<'e> {
        let mut found = self.nothing();
        for (name, place) in &self.top {
            if let Some(value) = event.fields.get(name.as_ref()) {
                place.look(value, &mut |number, what| put(&mut found, number, what));
            }
        }
        Seen {
            kind: event.kind,
            name: event
                .field("event")
                .and_then(Value::as_str)
                .map(Cow::Borrowed),
            source: Cow::Borrowed(&event.source),
            received_at_ms: event.received_at_ms,
            timestamp_ms: event.timestamp_ms,
            integrations: event.field("integrations").map(Cow::Borrowed),
            found,
        }
    }

    fn nothing<'r>(&self) -> Vec<Found<'r>> {
        let mut found = Vec::new();
        found.resize_with(self.count, Found::default);
        found
    }
}

/// What stands in a place.
#[derive(Debug, Clone, Default)]
pub enum Found<'r> {
    /// Nothing, or null.
    #[default]
    Nothing,
    /// A text.
    Text(Cow<'r, str>),
    /// Anything else.
    Json(Cow<'r, Value>),
}

impl<'r> Found<'r> {
    fn of(value: &'r Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            value => Self::Json(Cow::Borrowed(value)),
        }
    }

    fn owned<'o>(self) -> Found<'o> {
        match self {
            Self::Nothing => Found::Nothing,
            Self::Text(text) => Found::Text(Cow::Owned(text.into_owned())),
            Self::Json(value) => Found::Json(Cow::Owned(value.into_owned())),
        }
    }
}

fn put<'r>(found: &mut [Found<'r>], number: usize, what: Found<'r>) {
    if let Some(slot) = found.get_mut(number) {
        *slot = what;
    }
}

/// An event, as far as it was looked at.
#[derive(Debug)]
pub struct Seen<'r> {
    /// Kind of call.
    pub kind: Kind,
    /// Name of a track event.
    pub name: Option<Cow<'r, str>>,
    /// Id of the source that posted it.
    pub source: Cow<'r, str>,
    /// When it was accepted.
    pub received_at_ms: Millis,
    /// When it happened, after clock-skew correction.
    pub timestamp_ms: Millis,
    /// Which integrations it is for, when it says so.
    pub integrations: Option<Cow<'r, Value>>,
    found: Vec<Found<'r>>,
}

impl<'r> Seen<'r> {
    /// What stands in the place of this number.
    #[must_use]
    pub fn at(&self, number: usize) -> &Found<'r> {
        self.found.get(number).unwrap_or(&Found::Nothing)
    }

    fn owned<'o>(self) -> Seen<'o> {
        Seen {
            kind: self.kind,
            name: self.name.map(|name| Cow::Owned(name.into_owned())),
            source: Cow::Owned(self.source.into_owned()),
            received_at_ms: self.received_at_ms,
            timestamp_ms: self.timestamp_ms,
            integrations: self
                .integrations
                .map(|value| Cow::Owned(value.into_owned())),
            found: self.found.into_iter().map(Found::owned).collect(),
        }
    }
}

/// Reads of a stored record what stands in the places that `places` gives for its kind and, of a track event, its
/// name.
///
/// # Errors
/// When the bytes are not the canonical form that [`super::parse`] writes.
pub fn read<'r, 'p>(
    record: &'r [u8],
    places: impl Fn(Kind, Option<&str>) -> &'p Places,
) -> Result<Seen<'r>, DecodeError> {
    if let Some(seen) = in_one_pass(record, &places) {
        return Ok(seen);
    }
    let event = Event::decode(record)?;
    let name = event.field("event").and_then(Value::as_str);
    Ok(places(event.kind, name).look(&event).owned())
}

/// None: something is odd, so that the whole record must be looked at.
fn in_one_pass<'r, 'p>(
    record: &'r [u8],
    places: &impl Fn(Kind, Option<&str>) -> &'p Places,
) -> Option<Seen<'r>> {
    let mut scanner = Scanner::new(std::str::from_utf8(record).ok()?);
    let mut reading = Reading {
        head: Head::default(),
        places: None,
        early: Vec::new(),
        found: Vec::new(),
        odd: false,
    };
    scanner
        .object(1, |scanner, key| reading.member(scanner, key, places))
        .ok()?;
    scanner.end().ok()?;
    if reading.places.is_none() {
        reading.choose(places);
    }
    reading.seen()
}

/// What every event says of itself, as it stands in the record.
#[derive(Debug, Default)]
struct Head<'r> {
    kind: Option<&'r str>,
    name: Option<&'r str>,
    event_id: Option<&'r str>,
    source: Option<&'r str>,
    message_id: Option<&'r str>,
    received_at: Option<&'r str>,
    timestamp: Option<&'r str>,
    integrations: Option<&'r str>,
}

impl<'r> Head<'r> {
    /// The place of a member that belongs here.
    fn of(&mut self, key: &str) -> Option<&mut Option<&'r str>> {
        Some(match key {
            "type" => &mut self.kind,
            "event" => &mut self.name,
            "eventId" => &mut self.event_id,
            "source" => &mut self.source,
            "messageId" => &mut self.message_id,
            "receivedAt" => &mut self.received_at,
            "timestamp" => &mut self.timestamp,
            "integrations" => &mut self.integrations,
            _ => return None,
        })
    }

    /// Whether it is known now what is to be looked at: only track events are told apart by their names.
    fn says_enough(&self) -> bool {
        match self.kind {
            None => false,
            Some("\"track\"") => self.name.is_some(),
            Some(_) => true,
        }
    }
}

fn text(raw: Option<&str>) -> Option<Cow<'_, str>> {
    Text::of(raw?)?.read()
}

/// A record on its way through the scanner.
struct Reading<'r, 'p> {
    head: Head<'r>,
    /// Where to look, once that is known …
    places: Option<&'p Places>,
    /// … and what came before.
    early: Vec<(Cow<'r, str>, &'r str)>,
    found: Vec<Found<'r>>,
    odd: bool,
}

type Scan = Result<(), SyntaxFault>;

impl<'r, 'p> Reading<'r, 'p> {
    fn member(
        &mut self,
        scanner: &mut Scanner<'r>,
        key: Text<'r>,
        places: &impl Fn(Kind, Option<&str>) -> &'p Places,
    ) -> Scan {
        let Some(key) = key.read() else {
            self.odd = true;
            return scanner.value(2).map(drop);
        };
        if let Some(place) = self.head.of(&key) {
            let raw = scanner.value(2)?;
            // Once more, and perhaps another one, after it was relied upon.
            self.odd |= place.replace(raw).is_some() && self.places.is_some();
            if self.places.is_none() && self.head.says_enough() {
                self.choose(places);
            }
            return self.raw(key, raw);
        }
        match self.places {
            Some(places) => match find(&places.top, &key) {
                Some(place) => place.read(scanner, 2, self),
                None => scanner.value(2).map(drop),
            },
            None => {
                let raw = scanner.value(2)?;
                self.raw(key, raw)
            }
        }
    }

    /// A member whose end is known already.
    fn raw(&mut self, key: Cow<'r, str>, raw: &'r str) -> Scan {
        match self.places {
            None => self.early.push((key, raw)),
            Some(places) => {
                if let Some(place) = find(&places.top, &key) {
                    place.read(&mut Scanner::new(raw), 2, self)?;
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self, places: &impl Fn(Kind, Option<&str>) -> &'p Places) {
        let Some(kind) = text(self.head.kind).and_then(|word| Kind::stored(&word)) else {
            self.odd = true;
            return;
        };
        let chosen = places(kind, text(self.head.name).as_deref());
        self.places = Some(chosen);
        self.found = chosen.nothing();
        for (key, raw) in std::mem::take(&mut self.early) {
            self.odd |= self.raw(key, raw).is_err();
        }
    }

    fn seen(self) -> Option<Seen<'r>> {
        if self.odd {
            return None;
        }
        let head = &self.head;
        Uuid::parse_str(&text(head.event_id)?).ok()?;
        text(head.message_id)?;
        Some(Seen {
            kind: Kind::stored(&text(head.kind)?)?,
            name: text(head.name),
            source: text(head.source)?,
            received_at_ms: time::read(&text(head.received_at)?)?,
            timestamp_ms: time::read(&text(head.timestamp)?)?,
            integrations: match head.integrations {
                Some(raw) => Some(Cow::Owned(value(raw, &Reads::All, 2)?)),
                None => None,
            },
            found: self.found,
        })
    }

    fn put(&mut self, number: usize, what: Found<'r>) {
        put(&mut self.found, number, what);
    }
}

fn find<'b>(below: &'b Below, name: &str) -> Option<&'b Place> {
    let found = below.iter().find(|(known, _)| **known == *name);
    found.map(|(_, place)| place)
}

impl Place {
    /// Reads what the scanner stands at. `depth`: of the value.
    fn read<'r>(
        &self,
        scanner: &mut Scanner<'r>,
        depth: usize,
        reading: &mut Reading<'r, '_>,
    ) -> Scan {
        let first = scanner.peek();
        if let (Some(number), true) = (self.number, self.below.is_empty()) {
            let what = match first {
                Some(b'"') => scanner.text()?.read().map(Found::Text),
                _ => found(scanner.value(depth)?, &self.reads, depth),
            };
            match what {
                Some(what) => reading.put(number, what),
                None => reading.odd = true,
            }
            return Ok(());
        }
        if self.number.is_none() && first != Some(b'[') {
            return self.read_below(scanner, depth, reading);
        }
        // Rarely looked into: a list, or a group that is wanted whole as well.
        self.clear(reading);
        let raw = scanner.value(depth)?;
        match value(raw, &Reads::All, depth) {
            Some(value) => self.look(&value, &mut |number, what| {
                put(&mut reading.found, number, what.owned());
            }),
            None => reading.odd = true,
        }
        Ok(())
    }

    /// Of an object, only what stands in the places below.
    fn read_below<'r>(
        &self,
        scanner: &mut Scanner<'r>,
        depth: usize,
        reading: &mut Reading<'r, '_>,
    ) -> Scan {
        // A member may be there twice; the later one counts.
        self.clear(reading);
        if scanner.peek() != Some(b'{') {
            return scanner.value(depth).map(drop);
        }
        scanner.object(depth, |scanner, key| {
            let Some(key) = key.read() else {
                reading.odd = true;
                return scanner.value(depth + 1).map(drop);
            };
            match find(&self.below, &key) {
                Some(place) => place.read(scanner, depth + 1, reading),
                None => scanner.value(depth + 1).map(drop),
            }
        })
    }

    fn clear(&self, reading: &mut Reading<'_, '_>) {
        if let Some(number) = self.number {
            reading.put(number, Found::Nothing);
        }
        self.below
            .iter()
            .for_each(|(_, place)| place.clear(reading));
    }

    /// Gives `put` what stands in the places of a value that was read whole.
    fn look<'v>(&self, value: &'v Value, put: &mut dyn FnMut(usize, Found<'v>)) {
        if let Some(number) = self.number {
            put(number, Found::of(value));
        }
        for (step, place) in &self.below {
            let next = match value {
                Value::Object(members) => members.get(step.as_ref()),
                Value::Array(items) => step.parse::<usize>().ok().and_then(|at| items.get(at)),
                _ => None,
            };
            if let Some(next) = next {
                place.look(next, put);
            }
        }
    }
}

/// What stands in `raw`, which is no text, as far as it is read. `depth`: of the value.
fn found<'r>(raw: &'r str, reads: &Reads, depth: usize) -> Option<Found<'r>> {
    Some(match value(raw, reads, depth)? {
        Value::Null => Found::Nothing,
        value => Found::Json(Cow::Owned(value)),
    })
}

/// The value in `raw` as far as it is read. `depth`: of the value.
fn value(raw: &str, reads: &Reads, depth: usize) -> Option<Value> {
    match (reads, raw.as_bytes().first()) {
        (_, Some(b't')) => Some(Value::Bool(true)),
        (_, Some(b'f')) => Some(Value::Bool(false)),
        (_, Some(b'"')) => Some(Value::String(Text::of(raw)?.read()?.into_owned())),
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
