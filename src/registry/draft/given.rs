//! Reading the members of an install or a change one by one: name, sources, variant and settings, each with its own
//! faults.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{DraftFault, fault};
use crate::blueprint::{Blueprint, FieldFault};
use crate::registry::Tuning;
use crate::registry::picture::Picture;

/// Longest name of anything, in characters.
const NAME_CHARS_MAX: usize = 100;

pub(super) fn only(body: &Map<String, Value>, allowed: &[&str], faults: &mut Vec<FieldFault>) {
    for key in body.keys().filter(|key| !allowed.contains(&key.as_str())) {
        faults.push(fault(
            key,
            "unknown_field",
            format!("is not a field here; there are: {}", allowed.join(", ")),
        ));
    }
}

/// Reads a name: one to a hundred characters, none of them a control character.
pub(in crate::registry) fn name_of(
    body: &Map<String, Value>,
    key: &str,
    faults: &mut Vec<FieldFault>,
) -> Option<String> {
    let found = match body.get(key) {
        None => Err(("missing", "is required: a name for people".to_owned())),
        Some(Value::String(name)) => good_name(name),
        Some(_) => Err(("wrong_type", "must be a text".to_owned())),
    };
    match found {
        Ok(name) => Some(name),
        Err((code, message)) => {
            faults.push(fault(key, code, message));
            None
        }
    }
}

/// A name as it is kept: without blanks around it.
pub(in crate::registry) fn good_name(name: &str) -> Result<String, (&'static str, String)> {
    let name = name.trim();
    if name.is_empty() {
        Err(("missing", "is empty; give a name for people".to_owned()))
    } else if name.chars().count() > NAME_CHARS_MAX {
        Err((
            "too_long",
            format!("is longer than {NAME_CHARS_MAX} characters"),
        ))
    } else if name.chars().any(char::is_control) {
        Err((
            "control_character",
            "holds a line break or another control character".to_owned(),
        ))
    } else {
        Ok(name.to_owned())
    }
}

pub(super) fn unique(
    name: &str,
    but: Option<&str>,
    picture: &Picture,
    faults: &mut Vec<FieldFault>,
) {
    let taken = picture
        .integrations
        .iter()
        .any(|other| other.name == name && Some(other.id.as_str()) != but);
    if taken {
        faults.push(fault(
            "name",
            "duplicate_name",
            format!("there is an integration named `{name}` already; choose another name"),
        ));
    }
}

pub(super) fn delivery_mode(body: &Map<String, Value>, faults: &mut Vec<FieldFault>) {
    match body.get("delivery_mode") {
        None => {}
        Some(Value::String(mode)) if mode == "server_side" => {}
        Some(Value::String(mode)) => faults.push(fault(
            "delivery_mode",
            "unsupported",
            format!(
                "is `{}`; only `server_side` is there",
                mode.escape_default()
            ),
        )),
        Some(_) => faults.push(fault(
            "delivery_mode",
            "wrong_type",
            "must be the text `server_side`",
        )),
    }
}

/// None: left out. Some(None): all sources.
pub(super) fn sources_of(
    body: &Map<String, Value>,
    picture: &Picture,
    faults: &mut Vec<FieldFault>,
) -> Option<Option<Vec<String>>> {
    let list = match body.get("sources")? {
        Value::Null => return Some(None),
        Value::Array(list) => list,
        _ => {
            faults.push(fault(
                "sources",
                "wrong_type",
                "must be a list of source ids, or null for all",
            ));
            return None;
        }
    };
    if list.is_empty() {
        faults.push(fault(
            "sources",
            "empty",
            "names no source; leave it out for all sources, or pause the integration",
        ));
    }
    let mut ids = Vec::new();
    for (place, id) in list.iter().enumerate() {
        let path = format!("sources[{place}]");
        match id.as_str() {
            None => faults.push(fault(
                path,
                "wrong_type",
                "must be the id of a source, a text",
            )),
            Some(id) if picture.source(id).is_none() => faults.push(fault(
                path,
                "unknown_source",
                format!(
                    "there is no source `{}`; GET /v1/admin/sources lists them",
                    id.escape_default()
                ),
            )),
            Some(id) if ids.iter().any(|known| known == id) => {}
            Some(id) => ids.push(id.to_owned()),
        }
    }
    Some(Some(ids))
}

pub(super) fn variant_of<'a>(
    body: &'a Map<String, Value>,
    shipped: &BTreeMap<&'static str, &'static str>,
    faults: &mut Vec<FieldFault>,
) -> Result<(&'a str, &'static str), DraftFault> {
    // With an unknown variant the other fields are still checked, by the vendor's first one.
    let first = shipped
        .values()
        .next()
        .copied()
        .ok_or(DraftFault::UnknownVendor)?;
    let variant = match body.get("variant") {
        None => "default",
        Some(Value::String(variant)) => variant,
        Some(_) => {
            faults.push(fault("variant", "wrong_type", "must be a text"));
            return Ok(("default", first));
        }
    };
    let Some(text) = shipped.get(variant) else {
        let known: Vec<_> = shipped.keys().copied().collect();
        faults.push(fault(
            "variant",
            "unknown_variant",
            format!(
                "there is no variant `{}`; there is: {}",
                variant.escape_default(),
                known.join(", ")
            ),
        ));
        return Ok((variant, first));
    };
    Ok((variant, text))
}

/// The settings that say how to deliver, and the blueprint's advanced fields given among them.
pub(super) fn settings_of(
    body: &Map<String, Value>,
    blueprint: &Blueprint,
    now: &Tuning,
    faults: &mut Vec<FieldFault>,
) -> (Tuning, Map<String, Value>) {
    let settings = match body.get("settings") {
        None => return (now.clone(), Map::new()),
        Some(Value::Object(settings)) => settings,
        Some(_) => {
            faults.push(fault("settings", "wrong_type", "must be an object"));
            return (now.clone(), Map::new());
        }
    };
    let tuning = crate::registry::tuning::changed(now, settings, faults);
    let mut advanced = Map::new();
    for (key, value) in settings {
        if crate::registry::tuning::is_setting(key) {
            continue;
        }
        if blueprint
            .fields()
            .iter()
            .any(|field| field.advanced && field.key == *key)
        {
            advanced.insert(key.clone(), value.clone());
        } else {
            faults.push(fault(
                format!("settings.{key}"),
                "unknown_field",
                "is neither a delivery setting nor an advanced field of this vendor",
            ));
        }
    }
    (tuning, advanced)
}

pub(super) fn add_advanced(
    given: &mut Map<String, Value>,
    advanced: Map<String, Value>,
    body: &Map<String, Value>,
    faults: &mut Vec<FieldFault>,
) -> BTreeSet<String> {
    let keys = advanced.keys().cloned().collect();
    for (key, value) in advanced {
        if body
            .get("config")
            .and_then(|config| config.get(&key))
            .is_some()
        {
            faults.push(given_twice(&key));
        } else if !value.is_null() {
            given.insert(key, value);
        }
    }
    keys
}

pub(super) fn given_twice(key: &str) -> FieldFault {
    fault(
        format!("settings.{key}"),
        "duplicate",
        format!("is given in `config.{key}` too; give it once"),
    )
}
