//! A config as it is stored, as it is shown, and as it was entered. Secrets stand in none of the first two.

use std::str::FromStr as _;

use serde_json::{Map, Value, json};

use crate::blueprint::{Config, ConfigValue};
use crate::secret::Secret;

/// Shorter secrets are not looked for in other values: they would be found everywhere.
const FINDABLE_LEN: usize = 4;

/// A config for the `config` column: each value with its kind, secrets only by their place.
pub(super) fn to_stored(config: &Config) -> Value {
    let fields = config.iter().map(|(key, value)| {
        let value = match value {
            ConfigValue::Text(text) if hidden(config, text) != *text => {
                json!({ "sealed_text": true })
            }
            ConfigValue::Text(text) => json!({ "text": text }),
            ConfigValue::Number(number) => json!({ "number": number.to_string() }),
            ConfigValue::YesNo(yes) => json!({ "yes_no": yes }),
            ConfigValue::Secret(_) => json!({ "secret": true }),
        };
        (key.clone(), value)
    });
    Value::Object(fields.collect())
}

/// Back, with the secrets from where they are sealed.
pub(super) fn from_stored(
    stored: &Value,
    mut secret: impl FnMut(&str) -> Result<Secret, String>,
) -> Result<Config, String> {
    let fields = stored.as_object().ok_or("not an object")?;
    let mut config = Config::new();
    for (key, value) in fields {
        let (kind, content) = value
            .as_object()
            .and_then(|value| value.iter().next())
            .ok_or_else(|| format!("field `{key}` has no value"))?;
        let wrong = || format!("field `{key}` is not a {kind}");
        let value = match kind.as_str() {
            "text" => ConfigValue::Text(content.as_str().ok_or_else(wrong)?.to_owned()),
            "number" => ConfigValue::Number(
                content
                    .as_str()
                    .and_then(|text| rust_decimal::Decimal::from_str(text).ok())
                    .ok_or_else(wrong)?,
            ),
            "yes_no" => ConfigValue::YesNo(content.as_bool().ok_or_else(wrong)?),
            "secret" => ConfigValue::Secret(secret(key)?),
            "sealed_text" => ConfigValue::Text(secret(key)?.expose().to_owned()),
            _ => return Err(format!("field `{key}` is of unknown kind `{kind}`")),
        };
        config.insert(key.clone(), value);
    }
    Ok(config)
}

/// What is to be sealed: the secrets, and texts that hold one of them (an address made with the key).
pub(super) fn to_seal(config: &Config) -> Vec<(&str, &str)> {
    config
        .iter()
        .filter_map(|(key, value)| match value {
            ConfigValue::Secret(secret) => Some((key.as_str(), secret.expose())),
            ConfigValue::Text(text) if hidden(config, text) != *text => {
                Some((key.as_str(), text.as_str()))
            }
            _ => None,
        })
        .collect()
}

/// A text with `…` in place of any of the config's secrets.
fn hidden(config: &Config, text: &str) -> String {
    config
        .values()
        .fold(text.to_owned(), |text, value| match value {
            ConfigValue::Secret(secret) if secret.expose().len() >= FINDABLE_LEN => {
                text.replace(secret.expose(), "…")
            }
            _ => text,
        })
}

/// A config as the API and the audit log show it.
#[must_use]
pub(super) fn masked(config: &Config) -> Map<String, Value> {
    config
        .iter()
        .map(|(key, value)| {
            let value = match value {
                ConfigValue::Secret(secret) => json!({ "set": true, "hint": secret.hint() }),
                ConfigValue::Text(text) => Value::String(hidden(config, text)),
                other => entered(other),
            };
            (key.clone(), value)
        })
        .collect()
}

/// A value as it would be entered. Holds the secret itself: never leaves the process.
pub(super) fn entered(value: &ConfigValue) -> Value {
    match value {
        ConfigValue::Text(text) => Value::String(text.clone()),
        ConfigValue::Secret(secret) => Value::String(secret.expose().to_owned()),
        ConfigValue::YesNo(yes) => Value::Bool(*yes),
        ConfigValue::Number(number) => {
            serde_json::from_str(&number.to_string()).unwrap_or(Value::Null)
        }
    }
}

/// True for what [`masked`] shows in place of a secret: sent back unchanged, it means "as it is".
pub(super) fn is_mask(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|mask| mask.get("set") == Some(&Value::Bool(true)) && mask.len() <= 2)
}

#[cfg(test)]
mod tests {
    use super::{from_stored, is_mask, masked, to_seal, to_stored};
    use crate::blueprint::{Config, ConfigValue};
    use crate::secret::Secret;

    #[test]
    fn a_config_comes_back_whole_and_shows_no_secret() {
        let config = Config::from([
            ("a".to_owned(), ConfigValue::Text("1".to_owned())),
            ("b".to_owned(), ConfigValue::Number("1.50".parse().unwrap())),
            ("c".to_owned(), ConfigValue::YesNo(true)),
            (
                "d".to_owned(),
                ConfigValue::Secret(Secret::new("sdk_0123456789")),
            ),
            (
                "e".to_owned(),
                ConfigValue::Text("https://x/sdk_0123456789.json".to_owned()),
            ),
        ]);
        let stored = to_stored(&config);
        assert!(!stored.to_string().contains("0123"));
        let sealed = to_seal(&config);
        let back = from_stored(&stored, |key| {
            let (_, text) = sealed
                .iter()
                .find(|(field, _)| *field == key)
                .ok_or("not sealed")?;
            Ok(Secret::new(*text))
        });
        assert_eq!(back.as_ref(), Ok(&config));
        let shown = masked(&config);
        assert_eq!(
            serde_json::to_string(&shown).unwrap(),
            r#"{"a":"1","b":1.50,"c":true,"d":{"set":true,"hint":"…6789"},"e":"https://x/….json"}"#
        );
        assert!(is_mask(&shown["d"]) && !is_mask(&shown["a"]));
    }
}
