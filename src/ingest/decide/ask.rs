//! What is asked: the body of a decide call, in the words of the SDKs or of Optimizely's Agent.

use std::sync::Arc;

use axum::http::request::Parts;
use serde_json::{Map, Value};

use super::SegmentsCache;
use crate::datafile::{Forced, Options};
use crate::event::parse::MESSAGE_ID_CHARS_MAX;
use crate::ingest::refusal::Refusal;
use crate::ingest::{Options as Limits, text};

/// Flags asked for by name in one call.
const KEYS_MAX: usize = 2_500;

/// Members that are kept with the event as they were posted.
const BESIDE: [&str; 5] = [
    "anonymousId",
    "context",
    "integrations",
    "properties",
    "traits",
];

/// Which datafile is to decide.
pub(super) enum Chosen {
    /// The one of this integration.
    Integration(String),
    /// The one of this SDK key.
    SdkKey(String),
}

/// A question, checked.
pub(super) struct Ask {
    pub(super) user_id: String,
    pub(super) attributes: Map<String, Value>,
    /// None: all flags.
    pub(super) keys: Vec<String>,
    pub(super) options: Options,
    pub(super) forced: Vec<Forced>,
    pub(super) fetch_segments: bool,
    pub(super) cache: SegmentsCache,
    /// Segments the caller knows the user to be in.
    pub(super) segments: Arc<[String]>,
    pub(super) chosen: Option<Chosen>,
    pub(super) message_id: Option<String>,
    pub(super) beside: Map<String, Value>,
}

impl Ask {
    /// Reads a question. `posted` was found to be a JSON object.
    pub(super) fn read(parts: &Parts, posted: &str, limits: &Limits) -> Result<Self, Refusal> {
        let mut body = Members(
            serde_json::from_str(posted)
                .map_err(|error| Refusal::Field("body", error.to_string()))?,
        );
        let mut options = Options::default();
        for name in body.texts("options", "decideOptions")? {
            options
                .set(&name)
                .map_err(|error| Refusal::Field("options", error.to_string()))?;
        }
        let mut cache = SegmentsCache::default();
        for name in body.texts("fetchSegmentsOptions", "")? {
            match &*name {
                "IGNORE_CACHE" => cache.ignore = true,
                "RESET_CACHE" => cache.reset = true,
                _ => {
                    let message =
                        format!("there is no {name:?}; there are IGNORE_CACHE and RESET_CACHE");
                    return Err(Refusal::Field("fetchSegmentsOptions", message));
                }
            }
        }
        let mut keys = body.texts("keys", "flagKeys")?;
        let query = parts.uri.query().unwrap_or_default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if name == "keys" && !value.is_empty() {
                keys.push(value.into_owned());
            }
        }
        if keys.len() > KEYS_MAX {
            let message = format!("at most {KEYS_MAX} flags; leave it out to ask for all");
            return Err(Refusal::Field("keys", message));
        }
        let message_id = body.text("messageId")?;
        if message_id
            .as_ref()
            .is_some_and(|id| id.chars().count() > MESSAGE_ID_CHARS_MAX)
        {
            let message = format!("at most {MESSAGE_ID_CHARS_MAX} characters");
            return Err(Refusal::Field("messageId", message));
        }
        let ask = Self {
            user_id: body.user_id()?,
            attributes: body.object("attributes", "userAttributes")?,
            keys,
            options,
            forced: body.forced()?,
            fetch_segments: body.yes_no("fetchSegments")?,
            cache,
            segments: body.texts("qualifiedSegments", "")?.into(),
            chosen: body.chosen(parts)?,
            message_id,
            beside: body.beside()?,
        };
        ask.fits(limits)?;
        Ok(ask)
    }

    /// What is recorded with every single decision must not be more than an event may be.
    fn fits(&self, limits: &Limits) -> Result<(), Refusal> {
        let size = |members: &Map<String, Value>| {
            serde_json::to_string(members).map_or(0, |text| text.len())
        };
        let bytes = self.user_id.len() + size(&self.attributes) + size(&self.beside);
        if bytes > limits.event_bytes_max {
            let message = format!(
                "with what is posted beside them they have {bytes} bytes; the limit is {}",
                limits.event_bytes_max
            );
            return Err(Refusal::Field("attributes", message));
        }
        Ok(())
    }
}

/// The members of the body; reading one takes it. Null is absent.
struct Members(Map<String, Value>);

impl Members {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn either(&mut self, name: &str, other: &str) -> Option<Value> {
        let first = self.take(name);
        let second = self.take(other);
        first.or(second)
    }

    /// Ids may be numbers, as in every other call.
    fn user_id(&mut self) -> Result<String, Refusal> {
        let id = match self.take("userId") {
            Some(Value::String(text)) => text,
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return Err(wrong("userId", "a text")),
            None => String::new(),
        };
        if id.is_empty() {
            let message = "it is missing; send the id flags are decided by".to_owned();
            return Err(Refusal::Field("userId", message));
        }
        Ok(id)
    }

    fn text(&mut self, name: &'static str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(_) => Err(wrong(name, "a text")),
        }
    }

    fn yes_no(&mut self, name: &'static str) -> Result<bool, Refusal> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(yes)) => Ok(yes),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    fn object(
        &mut self,
        name: &'static str,
        other: &'static str,
    ) -> Result<Map<String, Value>, Refusal> {
        match self.either(name, other) {
            None => Ok(Map::new()),
            Some(Value::Object(members)) => Ok(members),
            Some(_) => Err(wrong(name, "an object")),
        }
    }

    /// A list of texts; one text alone is a list of one.
    fn texts(&mut self, name: &'static str, other: &'static str) -> Result<Vec<String>, Refusal> {
        let items = match self.either(name, other) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => return Ok(vec![text]),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(wrong(name, "an array of texts")),
        };
        let texts = items.into_iter().map(|item| match item {
            Value::String(text) => Ok(text),
            _ => Err(wrong(name, "an array of texts")),
        });
        texts.collect()
    }

    fn forced(&mut self) -> Result<Vec<Forced>, Refusal> {
        const NAME: &str = "forcedDecisions";
        const SHAPE: &str = "an array of {flagKey, ruleKey?, variationKey}";
        let items = match self.take(NAME) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(wrong(NAME, SHAPE)),
        };
        let forced = items.iter().map(|item| {
            let part = |key: &str| {
                let text = item.get(key).and_then(Value::as_str);
                text.filter(|text| !text.is_empty()).map(str::to_owned)
            };
            match (part("flagKey"), part("variationKey")) {
                (Some(flag_key), Some(variation_key)) => Ok(Forced {
                    flag_key,
                    rule_key: part("ruleKey"),
                    variation_key,
                }),
                _ => Err(wrong(NAME, SHAPE)),
            }
        });
        forced.collect()
    }

    /// The body wins over the header Agent's clients send (`key` or `key:token`).
    fn chosen(&mut self, parts: &Parts) -> Result<Option<Chosen>, Refusal> {
        if let Some(id) = self.text("integration")? {
            return Ok(Some(Chosen::Integration(id)));
        }
        let header = text(&parts.headers, "x-optimizely-sdk-key").map(str::to_owned);
        let key = self.text("sdkKey")?.or(header);
        Ok(key.map(|key| {
            let bare = key.split(':').next().unwrap_or_default();
            Chosen::SdkKey(bare.to_owned())
        }))
    }

    fn beside(&mut self) -> Result<Map<String, Value>, Refusal> {
        let mut beside = Map::new();
        for name in BESIDE {
            let value = match (name, self.take(name)) {
                (_, None) => continue,
                ("anonymousId", Some(Value::String(id))) if id.is_empty() => continue,
                ("anonymousId", Some(Value::Number(id))) => Value::from(id.to_string()),
                ("anonymousId", Some(id @ Value::String(_))) => id,
                ("anonymousId", Some(_)) => return Err(wrong(name, "a text")),
                (_, Some(value @ Value::Object(_))) => value,
                (_, Some(_)) => return Err(wrong(name, "an object")),
            };
            beside.insert(name.to_owned(), value);
        }
        Ok(beside)
    }
}

fn wrong(name: &'static str, wanted: &str) -> Refusal {
    Refusal::Field(name, format!("it must be {wanted}"))
}
