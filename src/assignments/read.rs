//! A decision out of a stored record. Records that are none are passed over cheaply.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::Assignment;
use crate::event::{Event, Kind, time};
use crate::journal::Entry;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'r> {
    #[serde(borrow, default)]
    user_id: Option<Cow<'r, str>>,
    #[serde(borrow)]
    source: Cow<'r, str>,
    #[serde(borrow)]
    timestamp: Cow<'r, str>,
    #[serde(borrow)]
    decision: Decision<'r>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decision<'r> {
    #[serde(borrow)]
    flag_key: Cow<'r, str>,
    #[serde(default)]
    enabled: bool,
    #[serde(borrow, default)]
    variation_key: Option<Cow<'r, str>>,
    #[serde(borrow, default)]
    rule_key: Option<Cow<'r, str>>,
    #[serde(borrow, default)]
    rule_kind: Option<Cow<'r, str>>,
    #[serde(borrow, default)]
    experiment_id: Option<Cow<'r, str>>,
    #[serde(borrow, default)]
    revision: Option<Cow<'r, str>>,
}

/// The assignment a record makes; None when it is no decision about a flag for a user.
pub(super) fn assignment(entry: &Entry) -> Option<Assignment> {
    if !says_decision(&entry.bytes) {
        return None;
    }
    let read = serde_json::from_slice::<Record<'_>>(&entry.bytes).ok();
    read.and_then(|record| quick(record, entry))
        .or_else(|| thorough(entry))
}

/// Nearly every record is none, and a record says first what it is: a look at the first bytes is enough.
fn says_decision(record: &[u8]) -> bool {
    const FIRST: &[u8] = b"{\"type\":\"";
    const MARK: &[u8] = b"\"type\":\"decision\"";
    match record.strip_prefix(FIRST) {
        Some(rest) => rest.starts_with(b"decision\""),
        None => {
            let head = record.get(..64).unwrap_or(record);
            head.windows(MARK.len()).any(|window| window == MARK)
        }
    }
}

fn quick(record: Record<'_>, entry: &Entry) -> Option<Assignment> {
    let own =
        |text: Option<Cow<'_, str>>| text.map(Cow::into_owned).filter(|text| !text.is_empty());
    let decision = record.decision;
    Some(Assignment {
        user: own(record.user_id)?,
        flag: own(Some(decision.flag_key))?,
        enabled: decision.enabled,
        variation: own(decision.variation_key),
        rule: own(decision.rule_key),
        rule_kind: own(decision.rule_kind),
        experiment: own(decision.experiment_id),
        revision: own(decision.revision),
        source: record.source.into_owned(),
        decided_ms: time::read(&record.timestamp)?,
        seq: entry.seq,
    })
}

/// As delivery reads it: texts with half a character in them, numbers where a text is meant.
fn thorough(entry: &Entry) -> Option<Assignment> {
    let event = Event::decode(&entry.bytes).ok()?;
    if event.kind != Kind::Decision {
        return None;
    }
    let text = |value: Option<&Value>| match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let decision = event.field("decision")?;
    let of = |key: &str| text(decision.get(key));
    Some(Assignment {
        user: text(event.field("userId"))?,
        flag: of("flagKey")?,
        enabled: decision.get("enabled").and_then(Value::as_bool) == Some(true),
        variation: of("variationKey"),
        rule: of("ruleKey"),
        rule_kind: of("ruleKind"),
        experiment: of("experimentId"),
        revision: of("revision"),
        source: event.source.clone(),
        decided_ms: event.timestamp_ms,
        seq: entry.seq,
    })
}
