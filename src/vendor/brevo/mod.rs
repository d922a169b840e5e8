//! Brevo: contact attributes that must exist, with the right type, before a value for them is kept. Brevo ignores
//! what it does not know in silence, so they are looked at when an integration is installed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Vendor;
use super::flags;
use super::preflight::{Answered, Findings, Question};
use super::settings::{common_faults, fault, not_checked, on, secret, text};
use crate::blueprint::{Config, FieldFault};
use crate::secret::Secret;

pub mod replies;

/// Brevo (formerly Sendinblue).
#[derive(Debug, Clone, Copy)]
pub struct Brevo;

/// Which attributes contacts have.
const ATTRIBUTES: &str = "attributes";

/// Make one.
const CREATE: &str = "create_attribute";

/// What every decision writes: (attribute, type).
const WRITTEN: &[(&str, &str)] = &[
    ("EXPERIMENT_NAME", "text"),
    ("VARIATION_NAME", "text"),
    ("FEATURE_FLAG", "text"),
    ("FEATURE_ENABLED", "boolean"),
    ("EXPERIMENT_DATE", "date"),
];

/// Where traits go when nobody says otherwise; the blueprints have the same default.
const DEFAULT_MAP: &str = "firstName=FIRSTNAME, lastName=LASTNAME";

impl Vendor for Brevo {
    fn name(&self) -> &'static str {
        "brevo"
    }

    fn check_config(&self, config: &Config) -> Vec<FieldFault> {
        let mut faults = common_faults(config);
        if text(config, "api_key").is_some_and(|key| key.starts_with("xsmtpsib-")) {
            faults.push(fault(
                "api_key",
                "wrong_kind",
                "is an SMTP key; the API key begins with `xkeysib-`: Settings › SMTP & API › API Keys",
            ));
        }
        for part in text(config, "attribute_map").into_iter().flat_map(parts) {
            if let Err(message) = pair(part) {
                faults.push(fault("attribute_map", "wrong_format", message));
                break;
            }
        }
        if let Some(lists) = text(config, "list_ids")
            && let Some(odd) = parts(lists).find(|id| !id.bytes().all(|b| b.is_ascii_digit()))
        {
            faults.push(fault(
                "list_ids",
                "wrong_format",
                format!("`{odd}` is no list's number: write them as in `2, 17`"),
            ));
        }
        faults
    }

    fn questions(&self, config: &Config) -> Vec<Question> {
        let Some(key) = secret(config, "api_key") else {
            return Vec::new();
        };
        let url = format!("{}/v3/contacts/attributes", base(config));
        vec![Question::get(ATTRIBUTES, "base_url", url, with_key(key))]
    }

    fn judge(&self, config: &Config, about: &str, answer: &Answered, flags: &[String]) -> Findings {
        let said = |key: &str| answer.body.get(key).and_then(Value::as_str).unwrap_or("");
        match (about, answer.status) {
            (ATTRIBUTES, 200) => looked_at(config, &answer.body, flags),
            (CREATE, 200..=299) => Findings::default(),
            (CREATE, status) => Findings::warn(fault(
                "auto_create_attributes",
                "not_created",
                format!(
                    "Brevo did not make an attribute (status {status}, {}): make it yourself under Contacts › \
                     Settings › Contact attributes",
                    said("message")
                ),
            )),
            (_, 401)
                if said("message")
                    .to_ascii_lowercase()
                    .contains("unrecognised ip") =>
            {
                Findings::refuse(fault(
                    "api_key",
                    "ip_not_authorised",
                    format!(
                        "Brevo does not accept it from this gateway's address: allow that at \
                         https://app.brevo.com/security/authorised_ips ({})",
                        said("message")
                    ),
                ))
            }
            (_, 401 | 403) => {
                let hint = if text(config, "api_key").is_some_and(|key| key.starts_with("xkeysib-"))
                {
                    ""
                } else {
                    "; Brevo's keys begin with `xkeysib-`"
                };
                Findings::refuse(fault(
                    "api_key",
                    "unauthorized",
                    format!("Brevo refuses it ({}){hint}", said("message")),
                ))
            }
            (_, 404 | 405) => Findings::refuse(fault(
                "base_url",
                "not_found",
                "there is no Brevo API at this address",
            )),
            (_, status) => Findings::warn(not_checked("api_key", status)),
        }
    }

    fn remarks(&self, config: &Config, flags: &[String]) -> Vec<FieldFault> {
        if on(config, "per_flag_attributes") {
            flags::collisions(flags, attribute_of)
        } else {
            Vec::new()
        }
    }
}

fn base(config: &Config) -> &str {
    text(config, "base_url").unwrap_or("https://api.brevo.com")
}

fn with_key(key: Secret) -> Vec<(String, Secret)> {
    vec![("api-key".to_owned(), key)]
}

fn attribute_of(slug: &str) -> String {
    format!("OPT_{}", slug.to_ascii_uppercase())
}

fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// `trait=ATTRIBUTE`.
fn pair(part: &str) -> Result<(&str, &str), String> {
    let (from, to) = part
        .split_once('=')
        .map(|(from, to)| (from.trim(), to.trim()))
        .filter(|(from, to)| !from.is_empty() && !to.is_empty())
        .ok_or_else(|| format!("`{part}` is no `trait=ATTRIBUTE`"))?;
    if to == "EMAIL" {
        // Brevo subscribes a blocked contact again when its address changes.
        return Err(
            "EMAIL cannot be written: a changed address subscribes a blocked contact again"
                .to_owned(),
        );
    }
    let fine = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if to.bytes().all(fine) {
        Ok((from, to))
    } else {
        Err(format!(
            "`{to}` is no attribute's name: capitals, digits and `_`"
        ))
    }
}

/// Attributes the integration will write: name, type (none when any will do).
fn wanted(config: &Config, flags: &[String]) -> BTreeMap<String, Option<&'static str>> {
    let mapped = text(config, "attribute_map").unwrap_or(DEFAULT_MAP);
    let mut wanted: BTreeMap<String, Option<&'static str>> = parts(mapped)
        .filter_map(|part| Some((pair(part).ok()?.1.to_owned(), None)))
        .collect();
    for (name, kind) in WRITTEN {
        wanted.insert((*name).to_owned(), Some(*kind));
    }
    if on(config, "per_flag_attributes") {
        for (_, name) in flags::names(flags) {
            wanted.insert(attribute_of(&name), Some("text"));
        }
    }
    wanted
}

fn looked_at(config: &Config, body: &Value, flags: &[String]) -> Findings {
    let known: BTreeMap<&str, &str> = body
        .get("attributes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|attribute| {
            let kind = attribute.get("type").and_then(Value::as_str);
            Some((attribute.get("name")?.as_str()?, kind.unwrap_or("")))
        })
        .collect();
    let create = on(config, "auto_create_attributes");
    let mut found = Findings::default();
    for (name, kind) in wanted(config, flags) {
        match (known.get(name.as_str()), kind) {
            (None, kind) if create => found.then.extend(creation(config, &name, kind.unwrap_or("text"))),
            (None, kind) => found.warnings.push(fault(
                "api_key",
                "attribute_missing",
                format!(
                    "contacts have no attribute `{name}`, and Brevo drops values for it in silence: make it under \
                     Contacts › Settings › Contact attributes{}",
                    kind.map_or(String::new(), |kind| format!(", of type {kind}"))
                ),
            )),
            (Some(is), Some(kind)) if *is != kind => found.warnings.push(fault(
                "api_key",
                "attribute_type",
                format!("the contact attribute `{name}` is of type {is}, not {kind}: Brevo drops values for it in silence"),
            )),
            _ => {}
        }
    }
    found
}

fn creation(config: &Config, name: &str, kind: &str) -> Option<Question> {
    let url = format!("{}/v3/contacts/attributes/normal/{name}", base(config));
    let headers = with_key(secret(config, "api_key")?);
    Some(Question::post(
        CREATE,
        "base_url",
        url,
        headers,
        &json!({ "type": kind }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blueprint::ConfigValue;

    fn config(fields: &[(&str, ConfigValue)]) -> Config {
        let key = ConfigValue::Secret(Secret::new("xkeysib-1".to_owned()));
        [("api_key", key)]
            .iter()
            .chain(fields)
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect()
    }

    fn words(text: &str) -> ConfigValue {
        ConfigValue::Text(text.to_owned())
    }

    fn ok(body: Value) -> Answered {
        Answered { status: 200, body }
    }

    #[test]
    fn a_config_that_cannot_work_is_refused() {
        let fields = |fields: &[(&str, ConfigValue)]| -> Vec<String> {
            let faults = Brevo.check_config(&config(fields));
            faults.into_iter().map(|fault| fault.field).collect()
        };
        assert!(
            fields(&[
                ("attribute_map", words("plan=PLAN, a.b=A_B")),
                ("list_ids", words("2, 17"))
            ])
            .is_empty()
        );
        for map in ["plan", "plan=Plan", "email=EMAIL", "=X"] {
            assert_eq!(
                fields(&[("attribute_map", words(map))]),
                ["config.attribute_map"],
                "{map}"
            );
        }
        assert_eq!(
            fields(&[("list_ids", words("2, two"))]),
            ["config.list_ids"]
        );
        let smtp = ConfigValue::Secret(Secret::new("xsmtpsib-1".to_owned()));
        assert_eq!(fields(&[("api_key", smtp)]), ["config.api_key"]);
    }

    #[test]
    fn attributes_that_are_missing_or_of_another_type_are_named() {
        let body = json!({"attributes": [
            {"name": "FIRSTNAME", "category": "normal", "type": "text"},
            {"name": "LASTNAME", "category": "normal", "type": "text"},
            {"name": "EXPERIMENT_NAME", "category": "normal", "type": "text"},
            {"name": "VARIATION_NAME", "category": "normal", "type": "category"},
            {"name": "FEATURE_FLAG", "category": "normal", "type": "text"},
            {"name": "FEATURE_ENABLED", "category": "normal", "type": "boolean"},
        ]});
        let per_flag = config(&[("per_flag_attributes", ConfigValue::YesNo(true))]);
        let flags = ["new-nav".to_owned()];
        let found = Brevo.judge(&per_flag, ATTRIBUTES, &ok(body.clone()), &flags);
        let said: Vec<(&str, bool)> = ["EXPERIMENT_DATE", "OPT_NEW_NAV", "VARIATION_NAME"]
            .into_iter()
            .map(|name| {
                let said = found
                    .warnings
                    .iter()
                    .any(|w| w.message.contains(&format!("`{name}`")));
                (name, said)
            })
            .collect();
        assert!(said.iter().all(|(_, said)| *said), "{said:?}");
        assert_eq!(found.warnings.len(), 3);
        assert!(found.faults.is_empty() && found.then.is_empty());

        let creating = config(&[("auto_create_attributes", ConfigValue::YesNo(true))]);
        let found = Brevo.judge(&creating, ATTRIBUTES, &ok(body), &flags);
        assert_eq!(found.warnings.len(), 1, "a wrong type is not mended");
        let made = &found.then[0].request;
        assert_eq!(
            made.url.expose(),
            "https://api.brevo.com/v3/contacts/attributes/normal/EXPERIMENT_DATE"
        );
        assert_eq!(made.body.as_ref(), br#"{"type":"date"}"#);
    }

    #[test]
    fn a_key_that_opens_nothing_is_refused_and_the_way_out_named() {
        let say = |status, message: &str| {
            let body = json!({"code": "unauthorized", "message": message});
            let found = Brevo.judge(&config(&[]), ATTRIBUTES, &Answered { status, body }, &[]);
            found
                .faults
                .into_iter()
                .next()
                .map(|fault| (fault.code, fault.message))
        };
        assert_eq!(say(401, "Key not found").unwrap().0, "unauthorized");
        let ip = say(
            401,
            "We have detected you are using an unrecognised IP address 192.0.2.7",
        )
        .unwrap();
        assert_eq!(ip.0, "ip_not_authorised");
        assert!(ip.1.contains("authorised_ips") && ip.1.contains("192.0.2.7"));
        assert_eq!(say(503, ""), None);
        assert_eq!(say(404, "").unwrap().0, "not_found");
    }
}
