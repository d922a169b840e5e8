//! Optimizely: whose datafile it is, its revision, its event keys. The wire format is all in the blueprint.

use serde_json::Value;

use super::Vendor;
use crate::blueprint::{Config, ConfigValue, FieldFault};
use crate::datafile::{Datafile, ReadError};
use crate::secret::Secret;

pub mod webhook;

/// Optimizely Feature Experimentation.
#[derive(Debug, Clone, Copy)]
pub struct Optimizely;

/// Longest id taken. Real ones have 8 to 16 digits.
const ID_CHARS_MAX: usize = 64;

impl Vendor for Optimizely {
    fn name(&self) -> &'static str {
        "optimizely"
    }

    /// Ids are opaque ASCII words: older accounts have digits only, newer documents do not promise it.
    fn check_config(&self, config: &Config) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        for (key, extra) in [
            ("account_id", ""),
            ("project_id", ""),
            ("sdk_key", "+/=:"),
            ("access_token", "+/=:.~"),
        ] {
            let Some(text) = text(config, key).filter(|text| !text.is_empty()) else {
                continue;
            };
            let long = key.ends_with("_id") && text.chars().count() > ID_CHARS_MAX;
            let odd = text.chars().find(|c| {
                !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-') || extra.contains(*c))
            });
            if let Some(odd) = odd {
                faults.push(fault(
                    key,
                    "wrong_format",
                    format!(
                        "{key} may hold letters, digits, `-` and `_` only, not {odd:?}; copy it from Optimizely's Settings"
                    ),
                ));
            } else if long {
                faults.push(fault(
                    key,
                    "too_long",
                    format!("{key} has more than {ID_CHARS_MAX} characters"),
                ));
            }
        }
        faults
    }

    /// The datafile names its account and project; another one's would send events to the wrong place unseen,
    /// because the Event API answers 204 to a wrong account too (Event API troubleshooting docs).
    fn check_document(&self, config: &Config, document: &Value) -> Result<(), Vec<FieldFault>> {
        let Some(fields) = document.as_object() else {
            return Err(vec![fault(
                "datafile_url",
                "not_a_datafile",
                "the document at datafile_url is not an Optimizely datafile (not a JSON object)"
                    .to_owned(),
            )]);
        };
        let version = fields.get("version").and_then(Value::as_str);
        if !matches!(version, Some("2" | "3" | "4")) {
            return Err(vec![fault(
                "datafile_url",
                "not_a_datafile",
                "the document at datafile_url is not an Optimizely datafile of version 2, 3 or 4"
                    .to_owned(),
            )]);
        }
        let mut faults = Vec::new();
        for (key, name, code) in [
            ("account_id", "accountId", "account_mismatch"),
            ("project_id", "projectId", "project_mismatch"),
        ] {
            let Some(wanted) = text(config, key) else {
                continue;
            };
            let found = fields.get(name).and_then(id).unwrap_or_default();
            if found != wanted {
                faults.push(fault(
                    key,
                    code,
                    format!(
                        "the datafile is of {name} `{found}`, not `{wanted}`: check {key} and datafile_url"
                    ),
                ));
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    fn datafile(&self, document: &Value) -> Option<Result<Datafile, ReadError>> {
        Some(Datafile::read(document))
    }

    fn sdk_key_tail(&self, config: &Config) -> String {
        let Some(ConfigValue::Secret(key)) = config.get("sdk_key") else {
            return String::new();
        };
        let key = key.expose();
        let start = key.ceil_char_boundary(key.len().saturating_sub(4));
        // Of a short key the end would be most of it.
        let tail = key.get(start..).filter(|_| key.len() >= 8);
        tail.unwrap_or_default().to_owned()
    }

    fn document_revision(&self, document: &Value) -> Option<String> {
        document.get("revision").and_then(id)
    }

    fn owner(&self, config: &Config) -> String {
        format!(
            "{}/{}",
            text(config, "account_id").unwrap_or_default(),
            text(config, "project_id").unwrap_or_default()
        )
    }

    /// Secure environments: `Authorization: Bearer` (as the JS SDK 6.6.1 sends it).
    fn document_token(&self, config: &Config) -> Option<Secret> {
        match config.get("access_token")? {
            ConfigValue::Secret(secret) if !secret.expose().is_empty() => Some(secret.clone()),
            _ => None,
        }
    }

    fn event_keys(&self, document: &Value) -> Option<Vec<String>> {
        let events = document.get("events").and_then(Value::as_array);
        let keys = events.into_iter().flatten();
        Some(
            keys.filter_map(|event| event.get("key")?.as_str().map(str::to_owned))
                .collect(),
        )
    }

    /// "Return failure statuses when the body doesn't meet all field constraints" (Event API OpenAPI 1.3.0).
    fn test_headers(&self) -> &'static [(&'static str, &'static str)] {
        &[("X-Optimizely-Strict", "true")]
    }
}

/// Ids and revisions are texts in a datafile, numbers in a webhook; both read alike.
fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn text<'a>(config: &'a Config, key: &str) -> Option<&'a str> {
    match config.get(key)? {
        ConfigValue::Text(text) => Some(text),
        ConfigValue::Secret(secret) => Some(secret.expose()),
        ConfigValue::Number(_) | ConfigValue::YesNo(_) => None,
    }
}

fn fault(key: &str, code: &str, message: String) -> FieldFault {
    FieldFault {
        field: format!("config.{key}"),
        code: code.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(account: &str, project: &str) -> Config {
        Config::from([
            ("account_id".to_owned(), ConfigValue::Text(account.into())),
            ("project_id".to_owned(), ConfigValue::Text(project.into())),
            (
                "sdk_key".to_owned(),
                ConfigValue::Secret(Secret::new("your_sdk_key")),
            ),
        ])
    }

    #[test]
    fn ids_that_could_break_a_url_or_header_are_refused_all_at_once() {
        assert_eq!(
            Optimizely.check_config(&config("12345678", "98765432")),
            vec![]
        );
        let faults = Optimizely.check_config(&config("123 45", "98\r\nX: 1"));
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["config.account_id", "config.project_id"]);
        assert_eq!(Optimizely.check_config(&config("１２３", "1")).len(), 1);
    }

    #[test]
    fn a_datafile_of_another_account_or_project_is_refused_naming_both() {
        let document = json!({"version": "4", "accountId": "1", "projectId": "2", "revision": "7"});
        assert!(
            Optimizely
                .check_document(&config("1", "2"), &document)
                .is_ok()
        );
        let faults = Optimizely
            .check_document(&config("9", "8"), &document)
            .unwrap_err();
        let codes: Vec<_> = faults.iter().map(|fault| fault.code.as_str()).collect();
        assert_eq!(codes, ["account_mismatch", "project_mismatch"]);
        for odd in [json!([]), json!("x"), json!({}), json!({"version": "9"})] {
            assert!(Optimizely.check_document(&config("1", "2"), &odd).is_err());
        }
        assert_eq!(
            Optimizely.document_revision(&document).as_deref(),
            Some("7")
        );
    }
}
