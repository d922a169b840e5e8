//! The shapes decisions are reported in, told apart by their keys.
//!
//! | shape | by | user id | the rest |
//! |---|---|---|---|
//! | JavaScript, Java, C# | `decisionInfo` | `userId` | camel case in `decisionInfo` |
//! | Python, as an array | four items | second | fourth, snake case |
//! | Python, by names | `decision_info` | `user_id` | snake case in `decision_info` |
//! | Go, Agent event stream | `DecisionInfo` | `UserContext.ID` | camel case in `DecisionInfo` |
//! | Agent `/v1/decide` answer | `flagKey` | `userContext.userId` | beside it |
//! | track call | name, and a `flag_key` property | of the call | `properties` |
//!
//! Sources: the captured notifications of JavaScript SDK 5.4.1 and 6.6.1 and Python SDK 5.7.0 (`tests/fixtures/optimizely`);
//! optimizely/go-sdk `notification/entities.go`; optimizely/agent `pkg/handlers/decide.go`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{Decision, Origin};
use crate::event::check::fault;
use crate::event::mended;
use crate::event::parse::{self, Fault};
use crate::event::scan::{Scanner, Text};

/// Names of track calls that tell of a decision, as they stand in JSON.
const TRACK_NAMES: [&str; 2] = ["\"Experiment Viewed\"", "\"$feature_flag_called\""];

/// Notification types of the calls that came before `decide()` (Python SDK, `helpers/enums.py`).
const LEGACY: [&str; 5] = [
    "ab-test",
    "feature",
    "feature-test",
    "feature-variable",
    "all-feature-variables",
];

/// A reported decision: slices of the text it was posted in.
#[derive(Debug, Clone, Copy)]
pub(in crate::event) struct Report<'a> {
    origin: Origin,
    word: Option<&'a str>,
    /// The user id, as JSON; none when the shape has it where every event has it.
    pub(in crate::event) user_id: Option<&'a str>,
    attributes: Option<&'a str>,
    info: &'a str,
    /// Where `info` stands, as a JSON pointer from the event.
    info_path: &'static str,
    /// Whether it is on may be left out and is then told by the variation.
    loose: bool,
}

/// True for the name of a track call that may tell of a decision. `event`: as JSON.
#[must_use]
pub(in crate::event) fn is_track_name(event: &str) -> bool {
    TRACK_NAMES.contains(&event)
}

/// A track call of such a name is a decision when its properties hold a flag key.
pub(in crate::event) fn of_track<'a>(properties: Option<&'a str>) -> Option<Report<'a>> {
    let info = properties?;
    let found = parse::members(info)?
        .iter()
        .rfind(|member| is_key(&member.key, &["flag_key", "flagKey"]))
        .is_some_and(|member| !matches!(member.value, "null" | "\"\""));
    found.then_some(Report {
        origin: Origin::Sdk,
        word: None,
        user_id: None,
        attributes: None,
        info,
        info_path: "/properties",
        loose: true,
    })
}

/// Finds out the shape of one posted decision. `raw`: well-formed JSON.
pub(in crate::event) fn of_raw(raw: &str) -> Result<Report<'_>, Fault> {
    match raw.as_bytes().first() {
        Some(b'[') => of_array(raw),
        Some(b'{') => of_object(raw),
        _ => Err(unknown_shape()),
    }
}

fn of_array(raw: &str) -> Result<Report<'_>, Fault> {
    let mut items = Vec::new();
    let read = Scanner::new(raw).array(1, |scanner| {
        items.push(scanner.value(2)?);
        Ok(())
    });
    match (read, items.as_slice()) {
        (Ok(()), &[word, user_id, attributes, info])
            if word.starts_with('"') && info.starts_with('{') =>
        {
            Ok(Report {
                origin: Origin::Sdk,
                word: Some(word),
                user_id: Some(user_id),
                attributes: Some(attributes),
                info,
                info_path: "/3",
                loose: false,
            })
        }
        _ => Err(unknown_shape()),
    }
}

fn of_object(raw: &str) -> Result<Report<'_>, Fault> {
    let members = parse::members(raw).unwrap_or_default();
    let get = |keys: &[&str]| {
        members
            .iter()
            .rfind(|member| is_key(&member.key, keys))
            .map(|member| member.value)
    };
    let word = get(&["type", "Type", "decision_type"]);
    let inside = |keys: &[&str], inner: &[&str]| {
        let found = parse::members(get(keys)?)?;
        let member = found.iter().rfind(|member| is_key(&member.key, inner))?;
        Some(member.value)
    };
    for (key, info_path) in [
        ("decisionInfo", "/decisionInfo"),
        ("decision_info", "/decision_info"),
    ] {
        if let Some(info) = get(&[key]) {
            return Ok(Report {
                origin: Origin::Sdk,
                word,
                user_id: get(&["userId", "user_id"]),
                attributes: get(&["attributes"]),
                info,
                info_path,
                loose: false,
            });
        }
    }
    if let Some(info) = get(&["DecisionInfo"]) {
        // An Agent is the Go SDK, and its stream has no ids. Our listener for the SDK gives each decision one.
        let told_by_app = get(&["messageId"]).is_some();
        return Ok(Report {
            origin: if told_by_app {
                Origin::Sdk
            } else {
                Origin::Agent
            },
            word,
            user_id: inside(&["UserContext"], &["ID"]),
            attributes: inside(&["UserContext"], &["Attributes"]),
            info,
            info_path: "/DecisionInfo",
            loose: false,
        });
    }
    if get(&["flagKey", "flag_key"]).is_some() {
        let context = ["userContext", "user_context"];
        let is_agent = get(&context).is_some();
        return Ok(Report {
            origin: if is_agent { Origin::Agent } else { Origin::Sdk },
            word: None,
            user_id: inside(&context, &["userId", "user_id"])
                .or_else(|| get(&["userId", "user_id"])),
            attributes: inside(&context, &["attributes"]).or_else(|| get(&["attributes"])),
            info: raw,
            info_path: "",
            loose: false,
        });
    }
    if let (Some(name), Some(report)) = (get(&["event"]), of_track(get(&["properties"])))
        && is_track_name(name)
    {
        let user_id = get(&["userId"]);
        return Ok(Report { user_id, ..report });
    }
    // An old notification of another kind says so rather than that it is unknown.
    check_word(word)?;
    Err(unknown_shape())
}

fn is_key(key: &Text<'_>, wanted: &[&str]) -> bool {
    key.read().is_some_and(|key| wanted.contains(&&*key))
}

fn unknown_shape() -> Fault {
    fault(
        "unknown_decision_shape",
        "",
        "this is no decision known here: post what the SDK's DECISION listener was given (an object with `decisionInfo`, \
         or Python's four arguments as an array), an Agent's stream object (`DecisionInfo`) or its /v1/decide answer (`flagKey`)",
    )
}

/// Only `flag` is a decision of `decide()`.
fn check_word(word: Option<&str>) -> Result<(), Fault> {
    let Some(word) = word.filter(|word| *word != "null") else {
        return Ok(());
    };
    let text = Text::of(word)
        .and_then(|text| text.read())
        .unwrap_or(Cow::Borrowed(word));
    let path = "/type";
    if text == "flag" {
        return Ok(());
    }
    if LEGACY.contains(&&*text) {
        let message = format!(
            "a notification of type `{text}` comes from a call older than decide(): it names no flag rule and is not taken; \
             use decide(), which reports `flag`"
        );
        return Err(fault("legacy_decision_type", path, message));
    }
    let text: String = text.chars().take(40).collect();
    let message = format!("`type` of a decision must be `flag`, not `{text}`");
    Err(fault("unknown_decision_type", path, message))
}

impl Report<'_> {
    /// Reads the decision; nothing is filled in yet.
    pub(in crate::event) fn read(&self) -> Result<Decision, Fault> {
        check_word(self.word)?;
        let info = self.object(self.info).ok_or_else(|| {
            let message = "the decision must be an object with the flag's key";
            fault("wrong_type", self.info_path, message)
        })?;
        let info = Info {
            members: &info,
            path: self.info_path,
        };
        let Some(flag_key) = info.text("flagKey", "flag_key")? else {
            let message = "a decision needs the key of its flag in `flagKey`";
            return Err(fault("missing_flag_key", self.info_path, message));
        };
        let variation_key = info.text("variationKey", "variation_key")?;
        let enabled = match info.flag("enabled", "enabled")? {
            Some(enabled) => enabled,
            None if self.loose => variation_key.as_deref().is_some_and(|key| key != "off"),
            None => {
                let message = "a decision needs `enabled`: true or false";
                return Err(fault("missing_enabled", self.info_path, message));
            }
        };
        let mut decision = Decision::of(self.origin, flag_key, enabled);
        decision.variation_key = variation_key;
        decision.rule_key = info.text("ruleKey", "rule_key")?;
        decision.experiment_key = info.text("experimentKey", "experiment_key")?;
        decision.experiment_id = info.text("experimentId", "experiment_id")?;
        decision.variation_id = info.text("variationId", "variation_id")?;
        decision.cmab_uuid = info.text("cmabUuid", "cmab_uuid")?;
        decision.dispatched = info.flag("decisionEventDispatched", "decision_event_dispatched")?;
        decision.variables = info.object("variables");
        decision.attributes = match self.attributes {
            Some(attributes) => self.object(attributes).unwrap_or_default(),
            None if self.loose => info.object("attributes"),
            None => Map::new(),
        };
        if let Some(Value::Array(reasons)) = info.members.get("reasons") {
            decision.reasons.clone_from(reasons);
        }
        Ok(decision)
    }

    fn object(&self, raw: &str) -> Option<Map<String, Value>> {
        serde_json::from_str(raw).ok().or_else(|| {
            let mended = mended(raw.as_bytes())?;
            serde_json::from_slice(&mended).ok()
        })
    }
}

/// The part of a report that tells of the decision, in camel or snake case.
struct Info<'a> {
    members: &'a Map<String, Value>,
    path: &'static str,
}

impl Info<'_> {
    fn get(&self, camel: &str, snake: &str) -> Option<&Value> {
        [camel, snake]
            .into_iter()
            .filter_map(|key| self.members.get(key))
            .find(|value| !value.is_null())
    }

    fn text(&self, camel: &str, snake: &str) -> Result<Option<String>, Fault> {
        match self.get(camel, snake) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            // Ids may have been made numbers on their way.
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.wrong(camel, "a text")),
        }
    }

    fn flag(&self, camel: &str, snake: &str) -> Result<Option<bool>, Fault> {
        match self.get(camel, snake) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            // Track calls made for tools that keep texts only.
            Some(Value::String(text)) => match text.as_str() {
                "" => Ok(None),
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(self.wrong(camel, "true or false")),
            },
            Some(_) => Err(self.wrong(camel, "true or false")),
        }
    }

    fn object(&self, key: &str) -> Map<String, Value> {
        let found = self.members.get(key).and_then(Value::as_object);
        found.cloned().unwrap_or_default()
    }

    fn wrong(&self, key: &str, wanted: &str) -> Fault {
        let message = format!("`{key}` of a decision must be {wanted}");
        fault("wrong_type", self.path, message)
    }
}
