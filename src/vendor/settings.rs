//! What the vendors' configs share: reading fields, and faults that can be seen without asking anybody.

use crate::blueprint::{Config, ConfigValue, FieldFault};
use crate::secret::Secret;

/// A field's text; none when it is empty, absent or no text.
pub(super) fn text<'a>(config: &'a Config, key: &str) -> Option<&'a str> {
    match config.get(key)? {
        ConfigValue::Text(text) => Some(text.as_str()).filter(|text| !text.is_empty()),
        ConfigValue::Secret(secret) => Some(secret.expose()).filter(|text| !text.is_empty()),
        ConfigValue::Number(_) | ConfigValue::YesNo(_) => None,
    }
}

/// A secret.
pub(super) fn secret(config: &Config, key: &str) -> Option<Secret> {
    text(config, key).map(|text| Secret::new(text.to_owned()))
}

/// Whether a yes-no field is on; off when nothing was entered.
pub(super) fn on(config: &Config, key: &str) -> bool {
    matches!(config.get(key), Some(ConfigValue::YesNo(true)))
}

/// A fault of one field.
pub(super) fn fault(key: &str, code: &str, message: impl Into<String>) -> FieldFault {
    FieldFault {
        field: format!("config.{key}"),
        code: code.to_owned(),
        message: message.into(),
    }
}

/// `identity_from` and the addresses, which all four vendors have.
pub(super) fn common_faults(config: &Config) -> Vec<FieldFault> {
    let mut faults = Vec::new();
    if let Some(from) = text(config, "identity_from") {
        let named = from
            .strip_prefix("attributes.")
            .is_some_and(|name| !name.is_empty());
        if !named && !matches!(from, "user_id" | "email" | "anonymous_id") {
            faults.push(fault(
                "identity_from",
                "unknown_choice",
                format!("`{from}` is none of user_id, email, anonymous_id and attributes.NAME"),
            ));
        }
    }
    for key in ["base_url", "api_base_url", "track_base_url"] {
        let Some(url) = text(config, key) else {
            continue;
        };
        if url.ends_with('/') || url.contains(['?', '#']) {
            faults.push(fault(
                key,
                "wrong_format",
                "is where the vendor's own path is added to: no `/` at its end, no `?` and no `#`",
            ));
        }
    }
    faults
}

/// A vendor that cannot be asked just now is no reason to refuse.
pub(super) fn not_checked(key: &str, status: u16) -> FieldFault {
    fault(
        key,
        "not_checked",
        format!("could not be checked now (the vendor answers with status {status})"),
    )
}
