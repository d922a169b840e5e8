//! Reads an event batch as loosely as the vendor does: leaves of any type, unknown fields ignored, text borrowed.
//!
//! Field names as in the Event API's published schema and as the SDKs send them. Pure.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A batch. Leaves stay as they were written, so that a wrong type is told from an absence.
#[derive(Debug, Deserialize)]
pub struct Batch<'a> {
    /// Account.
    #[serde(borrow, default)]
    pub account_id: Option<&'a RawValue>,
    /// Project.
    #[serde(borrow, default)]
    pub project_id: Option<&'a RawValue>,
    /// Visitors.
    #[serde(borrow, default)]
    pub visitors: Vec<Visitor<'a>>,
}

/// One visitor.
#[derive(Debug, Deserialize)]
pub struct Visitor<'a> {
    /// Who.
    #[serde(borrow, default)]
    pub visitor_id: Option<&'a RawValue>,
    /// What.
    #[serde(borrow, default)]
    pub snapshots: Vec<Snapshot<'a>>,
}

/// Decisions, and the events that tell of them.
#[derive(Debug, Deserialize)]
pub struct Snapshot<'a> {
    /// Decisions, unread.
    #[serde(borrow, default)]
    pub decisions: Option<&'a RawValue>,
    /// Events.
    #[serde(borrow, default)]
    pub events: Vec<Event<'a>>,
}

/// One event.
#[derive(Debug, Deserialize)]
pub struct Event<'a> {
    /// Event id, or campaign id of an activation.
    #[serde(borrow, default)]
    pub entity_id: Option<&'a RawValue>,
    /// Event key.
    #[serde(borrow, default)]
    pub key: Option<&'a RawValue>,
    /// `campaign_activated` in the docs' own examples.
    #[serde(borrow, default, rename = "type")]
    pub kind: Option<&'a RawValue>,
    /// Unix milliseconds.
    #[serde(borrow, default)]
    pub timestamp: Option<&'a RawValue>,
    /// What repeats are known by.
    #[serde(borrow, default)]
    pub uuid: Option<&'a RawValue>,
    /// Hundredths of a currency unit.
    #[serde(borrow, default)]
    pub revenue: Option<&'a RawValue>,
}

/// The text a leaf holds; none when it is absent, empty or no text.
#[must_use]
pub fn text<'a>(leaf: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    let raw = leaf?.get();
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.is_empty() {
        return None;
    }
    if inner.contains('\\') {
        return serde_json::from_str::<String>(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}
