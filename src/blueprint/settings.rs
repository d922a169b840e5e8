//! What the installer enters, read against the fields a blueprint asks for.

use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::diagnostic::did_you_mean;
use super::{Blueprint, Config, ConfigValue, Field, FieldFault, FieldKind};
use crate::secret::Secret;

impl Blueprint {
    /// Reads entered JSON values into a config.
    ///
    /// # Errors
    /// Unknown, missing and wrong-typed fields, all at once, under `path`.
    pub fn read_config(
        &self,
        entered: &Map<String, Value>,
        path: &str,
    ) -> Result<Config, Vec<FieldFault>> {
        let mut faults = Vec::new();
        let mut config = Config::new();
        let fault = |key: &str, code: &str, message: String| FieldFault {
            field: format!("{path}.{key}"),
            code: code.to_owned(),
            message,
        };
        for key in entered.keys() {
            if !self.fields().iter().any(|field| field.key == *key) {
                let known = self.fields().iter().map(|field| field.key.as_str());
                let help = did_you_mean(key, known.clone()).unwrap_or_else(|| {
                    format!("it asks for: {}", known.collect::<Vec<_>>().join(", "))
                });
                let message = format!("{} has no field `{key}`; {help}", self.title());
                faults.push(fault(key, "unknown_field", message));
            }
        }
        for field in self.fields() {
            match entered.get(&field.key).filter(|value| !is_empty(value)) {
                None => {
                    if !field.optional && field.default.is_none() {
                        let help = field
                            .help
                            .as_deref()
                            .map_or(String::new(), |help| format!(" (find it under {help})"));
                        let message = format!("`{}` is needed{help}", field.label);
                        faults.push(fault(&field.key, "missing", message));
                    }
                }
                Some(value) => match read_value(field, value) {
                    Ok(value) => {
                        config.insert(field.key.clone(), value);
                    }
                    Err((code, message)) => faults.push(fault(&field.key, code, message)),
                },
            }
        }
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(faults)
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn read_value(field: &Field, value: &Value) -> Result<ConfigValue, (&'static str, String)> {
    let label = &field.label;
    let text = || {
        value
            .as_str()
            .map(|text| text.trim().to_owned())
            .ok_or_else(|| {
                let help = if value.is_number() {
                    ": write the digits in quotes"
                } else {
                    ""
                };
                ("wrong_type", format!("`{label}` is a text{help}"))
            })
    };
    match &field.kind {
        FieldKind::Text => text().map(ConfigValue::Text),
        FieldKind::Secret => text().map(|text| ConfigValue::Secret(Secret::new(text))),
        FieldKind::Url => {
            let text = text()?;
            match url::Url::parse(&text) {
                Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => {
                    Ok(ConfigValue::Text(text))
                }
                _ => Err((
                    "not_a_url",
                    format!("`{label}` is an address: https://host/path"),
                )),
            }
        }
        FieldKind::Choice(options) => {
            let text = text()?;
            let chosen = options
                .iter()
                .find(|(shown, value)| *value == text || *shown == text);
            match chosen {
                Some((_, value)) => Ok(ConfigValue::Text(value.clone())),
                None => {
                    let known: Vec<&str> =
                        options.iter().map(|(_, value)| value.as_str()).collect();
                    Err((
                        "unknown_choice",
                        format!("`{label}` is one of: {}", known.join(", ")),
                    ))
                }
            }
        }
        FieldKind::Number => {
            let number = match value {
                Value::Number(number) => Some(number.as_str().to_owned()),
                Value::String(text) => Some(text.trim().to_owned()),
                _ => None,
            };
            number
                .and_then(|text| {
                    text.parse::<Decimal>()
                        .or_else(|_| Decimal::from_scientific(&text))
                        .ok()
                })
                .map(ConfigValue::Number)
                .ok_or_else(|| ("wrong_type", format!("`{label}` is a number")))
        }
        FieldKind::YesNo => value
            .as_bool()
            .map(ConfigValue::YesNo)
            .ok_or_else(|| ("wrong_type", format!("`{label}` is true or false"))),
    }
}
