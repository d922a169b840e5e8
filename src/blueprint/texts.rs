//! Functions that make texts, lists and groups of texts. Pure, and no longer than what they are given (but for
//! a short ending).

use std::borrow::Cow;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::eval::{Cx, Val, known, visit_group};

/// A text that was made: when nothing is left of it, it is missing.
pub(crate) fn made<'a>(text: String) -> Val<'a> {
    if text.is_empty() {
        Val::Missing
    } else {
        Val::Text(Cow::Owned(text))
    }
}

/// As [`made`], of a text that may be the event's own.
pub(crate) fn kept(text: Cow<'_, str>) -> Val<'_> {
    if text.is_empty() {
        Val::Missing
    } else {
        Val::Text(text)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A list of single values joined; what is null or empty is left out.
pub(super) fn join<'a>(list: &Val<'a>, between: Val<'a>) -> Val<'a> {
    let (Val::Json(Value::Array(items)), Some(between)) = (list, between.text()) else {
        return Val::Missing;
    };
    if items.iter().any(|item| item.is_array() || item.is_object()) {
        return Val::Missing;
    }
    let texts: Vec<Cow<'_, str>> = items.iter().filter_map(|item| known(item).text()).collect();
    made(texts.join(&between))
}

/// Small ASCII letters and digits; each run of others one `_`, none at the ends.
pub(super) fn slug(text: &str) -> String {
    let small = text.to_ascii_lowercase();
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    small
        .split(|c| !fine(c))
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("_")
}

/// Which ASCII characters a class such as `A-Za-z0-9_` names; None when it is none.
pub(crate) fn class(written: &str) -> Option<u128> {
    let bytes = written.as_bytes();
    let mut found = 0u128;
    let mut at = 0;
    while let Some(first) = bytes.get(at).copied() {
        let last = match (bytes.get(at + 1), bytes.get(at + 2)) {
            (Some(b'-'), Some(last)) => {
                at += 3;
                *last
            }
            _ => {
                at += 1;
                first
            }
        };
        if !first.is_ascii() || !last.is_ascii() || first > last {
            return None;
        }
        (first..=last).for_each(|byte| found |= 1 << byte);
    }
    (found != 0).then_some(found)
}

/// Every run of characters outside of the class becomes `by`.
pub(super) fn clean(text: &str, class: u128, by: &str) -> String {
    let fine = |c: char| c.is_ascii() && class >> u32::from(c) & 1 == 1;
    let mut out = String::with_capacity(text.len());
    let mut outside = false;
    for c in text.chars() {
        if fine(c) {
            out.push(c);
        } else if !outside {
            out.push_str(by);
        }
        outside = !fine(c);
    }
    out
}

/// Letters, digits and `_`, no digit in front, at most `most` characters: a longer one ends in `_` and four
/// digits of its hash, so that two long ones stay two.
pub(super) fn identifier(text: &str, most: usize) -> String {
    let most = most.max(6);
    let mut name = clean(text, class("A-Za-z0-9_").unwrap_or_default(), "_");
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    if name.len() > most {
        let hash = hex(&Sha256::digest(text.as_bytes())[..2]);
        name.truncate(most - 5);
        name = format!("{name}_{hash}");
    }
    name
}

/// A list of the trimmed texts between; empty ones are left out.
pub(super) fn split(text: &str, between: &str) -> Value {
    let parts = text.split(between).map(str::trim);
    parts.filter(|part| !part.is_empty()).collect()
}

/// The numbers of a list, those written as text too; none when there is no number.
pub(super) fn numbers(items: &[Value]) -> Option<Value> {
    let numbers: Vec<Value> = items
        .iter()
        .filter_map(|item| match item {
            Value::Number(_) => Some(item.clone()),
            Value::String(text) => {
                serde_json::from_str(&crate::event::money::json_number(text)?).ok()
            }
            _ => None,
        })
        .collect();
    (!numbers.is_empty()).then_some(Value::Array(numbers))
}

/// `a=B, c=D` as a group; parts without `=` are left out.
pub(super) fn pairs(text: &str) -> Value {
    let pairs = text.split(',').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        (!key.is_empty()).then(|| (key.to_owned(), Value::from(value)))
    });
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// What kind of value it is.
pub(super) fn kind(val: &Val<'_>) -> Option<&'static str> {
    Some(match val {
        Val::Missing | Val::Json(Value::Null) => return None,
        Val::Text(_) | Val::Json(Value::String(_)) => "text",
        Val::Number(_) | Val::Json(Value::Number(_)) => "number",
        Val::YesNo(_) | Val::Json(Value::Bool(_)) => "yes_no",
        Val::Group(_) | Val::Json(Value::Object(_)) => "group",
        Val::Json(Value::Array(_)) => "list",
    })
}

/// As JSON without spaces; a text is itself.
pub(super) fn json<'a>(val: Val<'a>, cx: Cx<'a>) -> Val<'a> {
    match val {
        Val::Json(value @ (Value::Object(_) | Value::Array(_))) => made(value.to_string()),
        Val::Group(group) => {
            let mut members = Map::new();
            visit_group(group, cx, &mut |key, value| {
                if !members.contains_key(key) {
                    members.insert(key.to_owned(), value.clone());
                }
            });
            made(Value::Object(members).to_string())
        }
        single => single.text().map_or(Val::Missing, Val::Text),
    }
}

/// The field of a group that has this name.
pub(super) fn get<'a>(group: &Val<'a>, name: &str, cx: Cx<'a>) -> Val<'a> {
    match group {
        Val::Json(Value::Object(members)) => members.get(name).map_or(Val::Missing, known),
        Val::Group(group) => {
            let mut found = None;
            visit_group(group, cx, &mut |key, value| {
                if found.is_none() && key == name {
                    found = Some(value.clone());
                }
            });
            found.map_or(Val::Missing, |value| known(cx.scene.keep(value)))
        }
        _ => Val::Missing,
    }
}
