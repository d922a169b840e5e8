//! Pendo: two secrets under one header, and fields of visitors that must exist before they can be written.

use serde_json::Value;

use super::Vendor;
use super::flags;
use super::preflight::{Answered, Findings, Question};
use super::settings::{common_faults, fault, not_checked, secret, text};
use crate::blueprint::{Config, FieldFault};

pub mod fields;
pub mod replies;

/// Pendo.
#[derive(Debug, Clone, Copy)]
pub struct Pendo;

/// What the key is asked.
const KEY: &str = "key";

/// What fields visitors have.
const SCHEMA: &str = "schema";

/// The default header of both secrets.
const HEADER: &str = "x-pendo-integration-key";

impl Vendor for Pendo {
    fn name(&self) -> &'static str {
        "pendo"
    }

    fn check_config(&self, config: &Config) -> Vec<FieldFault> {
        let mut faults = common_faults(config);
        let (track, key) = (
            text(config, "track_secret"),
            text(config, "integration_key"),
        );
        if track.is_none() && key.is_none() {
            faults.push(fault(
                "track_secret",
                "missing",
                "give track_secret (Track Events), integration_key (fields of visitors and accounts), or both",
            ));
        }
        if track.is_some() && track == key {
            faults.push(fault(
                "track_secret",
                "same_secret",
                "is the same as integration_key: the Track Event shared secret is another one, under Subscription \
                 Settings › Applications › App Details",
            ));
        }
        faults
    }

    /// `GET /api/v1/token/verify` and the schema of visitors; the track secret cannot be checked.
    fn questions(&self, config: &Config) -> Vec<Question> {
        let Some(key) = secret(config, "integration_key") else {
            return Vec::new();
        };
        let ask = |about, path: &str| {
            let url = format!("{}{path}", api(config));
            Question::get(
                about,
                "api_base_url",
                url,
                vec![(HEADER.to_owned(), key.clone())],
            )
        };
        vec![
            ask(KEY, "/api/v1/token/verify"),
            ask(SCHEMA, "/api/v1/metadata/schema/visitor"),
        ]
    }

    fn judge(&self, config: &Config, about: &str, answer: &Answered, flags: &[String]) -> Findings {
        match (about, answer.status) {
            (KEY, 200) => verified(&answer.body),
            (KEY, 401 | 403) => Findings::refuse(fault(
                "integration_key",
                "unauthorized",
                "Pendo refuses it: it is wrong, belongs to another region, or is the track secret",
            )),
            (SCHEMA, 200) => Findings {
                warnings: lacking(config, &answer.body, flags),
                ..Findings::default()
            },
            // Said of the key already.
            (SCHEMA, 401 | 403) => Findings::default(),
            (_, 404) => Findings::refuse(fault(
                if text(config, "api_base_url").is_some() {
                    "api_base_url"
                } else {
                    "region"
                },
                "not_found",
                "there is no Pendo API at this address",
            )),
            (_, status) => Findings::warn(not_checked("integration_key", status)),
        }
    }

    fn remarks(&self, config: &Config, flags: &[String]) -> Vec<FieldFault> {
        if text(config, "integration_key").is_some() {
            flags::collisions(flags, |name| format!("optimizely_{name}"))
        } else {
            Vec::new()
        }
    }
}

/// `{"valid":true,"writeAccess":true}`
fn verified(body: &Value) -> Findings {
    let says = |key: &str, what: bool| body.get(key).and_then(Value::as_bool) == Some(what);
    if says("valid", false) {
        Findings::refuse(fault(
            "integration_key",
            "unauthorized",
            "Pendo says it is not valid",
        ))
    } else if says("writeAccess", false) {
        Findings::refuse(fault(
            "integration_key",
            "read_only",
            "may only read; make one with write access under Settings › Integrations › Integration Keys",
        ))
    } else {
        Findings::default()
    }
}

/// A field for each known flag that visitors do not have. Pendo shows a field's name in small letters, and the
/// name typed at its creation is its name for ever.
fn lacking(config: &Config, schema: &Value, flags: &[String]) -> Vec<FieldFault> {
    let group = text(config, "metadata_group").unwrap_or("custom");
    let fields = schema.get(group).and_then(Value::as_object);
    let has = |name: &str| {
        fields
            .and_then(|fields| fields.get(name))
            .is_some_and(|field| field.get("isDeleted").and_then(Value::as_bool) != Some(true))
    };
    flags::names(flags)
        .into_iter()
        .map(|(key, name)| (key, format!("optimizely_{name}")))
        .filter(|(_, field)| !has(field))
        .map(|(key, field)| {
            fault(
                "integration_key",
                "field_missing",
                format!(
                    "visitors have no {group} field `{field}` (for the flag `{key}`): make it in Pendo under Settings › \
                     Data Mappings, of type text, with exactly this name"
                ),
            )
        })
        .collect()
}

/// Where the API is, as the blueprints say it too.
fn api(config: &Config) -> &str {
    text(config, "api_base_url").unwrap_or(match text(config, "region") {
        Some("us1") => "https://us1.app.pendo.io",
        Some("eu") => "https://app.eu.pendo.io",
        Some("jpn") => "https://app.jpn.pendo.io",
        Some("au") => "https://app.au.pendo.io",
        _ => "https://app.pendo.io",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::blueprint::ConfigValue;
    use crate::secret::Secret;

    fn config(fields: &[(&str, &str)]) -> Config {
        fields
            .iter()
            .map(|(key, value)| {
                let value = if key.ends_with("_key") || key.ends_with("_secret") {
                    ConfigValue::Secret(Secret::new((*value).to_owned()))
                } else {
                    ConfigValue::Text((*value).to_owned())
                };
                ((*key).to_owned(), value)
            })
            .collect()
    }

    fn answered(status: u16, body: Value) -> Answered {
        Answered { status, body }
    }

    #[test]
    fn one_of_the_two_secrets_is_needed_and_they_differ() {
        let code = |fields: &[(&str, &str)]| {
            Pendo
                .check_config(&config(fields))
                .first()
                .map(|fault| fault.code.clone())
        };
        assert_eq!(code(&[]).as_deref(), Some("missing"));
        assert_eq!(code(&[("track_secret", "a")]), None);
        assert_eq!(code(&[("integration_key", "a")]), None);
        let same = code(&[("track_secret", "a"), ("integration_key", "a")]);
        assert_eq!(same.as_deref(), Some("same_secret"));
        assert!(
            Pendo
                .questions(&config(&[("track_secret", "a")]))
                .is_empty()
        );
    }

    #[test]
    fn a_key_that_cannot_write_is_refused() {
        let config = config(&[("integration_key", "k"), ("region", "eu")]);
        let asked = Pendo.questions(&config);
        assert_eq!(
            asked[0].request.url.expose(),
            "https://app.eu.pendo.io/api/v1/token/verify"
        );
        let code = |answer| {
            let found = Pendo.judge(&config, KEY, &answer, &[]);
            (
                found.faults.first().map(|fault| fault.code.clone()),
                found.warnings.len(),
            )
        };
        let good = json!({"valid": true, "writeAccess": true});
        assert_eq!(code(answered(200, good)), (None, 0));
        let reads = json!({"valid": true, "writeAccess": false});
        assert_eq!(code(answered(200, reads)).0.as_deref(), Some("read_only"));
        assert_eq!(
            code(answered(403, Value::Null)).0.as_deref(),
            Some("unauthorized")
        );
        assert_eq!(code(answered(503, Value::Null)), (None, 1));
        assert_eq!(
            code(answered(404, Value::Null)).0.as_deref(),
            Some("not_found")
        );
    }

    #[test]
    fn fields_that_visitors_lack_are_named_as_they_must_be_typed() {
        let config = config(&[("integration_key", "k")]);
        let flags = ["nav", "a-b", "a_b", "old"].map(str::to_owned);
        let schema = json!({
            "custom": {
                "optimizely_nav": {"Type": "string"},
                "optimizely_old": {"Type": "string", "isDeleted": true},
            },
            "agent": {"optimizely_a_b": {"Type": "string"}},
        });
        let found = Pendo.judge(&config, SCHEMA, &answered(200, schema), &flags);
        assert!(found.faults.is_empty());
        let said: Vec<&str> = found.warnings.iter().map(|w| w.message.as_str()).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].contains("`optimizely_a_b_"), "{said:?}");
        assert!(said[1].contains("`optimizely_a_b`"), "{said:?}");
        assert!(said[2].contains("`optimizely_old`"), "{said:?}");
        assert_eq!(Pendo.remarks(&config, &flags).len(), 1);
    }
}
