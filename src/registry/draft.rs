//! What somebody wants installed or changed, checked whole before anything is stored: every fault at once, each with
//! the path of its field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Tuning;
use super::checks::{Checks, DocumentFault};
use super::picture::{Installed, Picture};
use super::values::{entered, is_mask};
use crate::blueprint::{
    Blueprint, Config, ConfigValue, Field, FieldFault, FieldKind, Plan, Severity, check,
};
use crate::secret::Secret;

mod given;

pub(super) use given::good_name;
use given::{
    add_advanced, delivery_mode, given_twice, name_of, only, settings_of, sources_of, unique,
    variant_of,
};

/// Everything an integration is made of, found good.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) variant: String,
    pub(super) sources: Option<Vec<String>>,
    pub(super) config: Config,
    pub(super) tuning: Tuning,
    pub(super) text: String,
    pub(super) plan: Plan,
    fields: Vec<Field>,
}

/// Why there is no draft.
#[derive(Debug)]
pub(super) enum DraftFault {
    /// No vendor of this name.
    UnknownVendor,
    /// The blueprint does not check.
    Blueprint(Vec<crate::blueprint::Diagnostic>),
    /// These fields cannot be used.
    Fields(Vec<FieldFault>),
}

/// A fault of one field.
pub(super) fn fault(
    field: impl Into<String>,
    code: &str,
    message: impl Into<String>,
) -> FieldFault {
    FieldFault {
        field: field.into(),
        code: code.to_owned(),
        message: message.into(),
    }
}

/// The values that a blueprint asks for: those it does not know are kept for a later revision, but not bound.
pub(super) fn of_blueprint(blueprint: &Blueprint, config: &Config) -> Config {
    let known: BTreeSet<&str> = blueprint
        .fields()
        .iter()
        .map(|field| field.key.as_str())
        .collect();
    config
        .iter()
        .filter(|(key, _)| known.contains(key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The shipped variants of a vendor: (variant, text), in order.
pub(super) fn variants<'a>(
    builtin: &'a [(&'static str, &'static str)],
    vendor: &'a str,
) -> impl Iterator<Item = (&'static str, &'static str)> + 'a {
    builtin.iter().filter_map(move |(path, text)| {
        let (of, variant) = path.split_once('/')?;
        (of == vendor).then_some((variant, *text))
    })
}

/// Reads the body of an install.
pub(super) fn install(
    vendor: &str,
    body: &Map<String, Value>,
    picture: &Picture,
    checks: &Checks,
) -> Result<Draft, DraftFault> {
    let shipped: BTreeMap<_, _> = variants(checks.builtin, vendor).collect();
    let mut faults = Vec::new();
    only(
        body,
        &[
            "name",
            "variant",
            "config",
            "delivery_mode",
            "sources",
            "settings",
        ],
        &mut faults,
    );
    let name = name_of(body, "name", &mut faults);
    if let Some(name) = &name {
        unique(name, None, picture, &mut faults);
    }
    delivery_mode(body, &mut faults);
    let sources = sources_of(body, picture, &mut faults).unwrap_or(None);
    let (variant, text) = variant_of(body, &shipped, &mut faults)?;
    let blueprint = check(text);
    let Some(blueprint) = blueprint.blueprint else {
        return Err(DraftFault::Blueprint(blueprint.diagnostics));
    };
    let mut given = match body.get("config") {
        Some(Value::Object(config)) => config.clone(),
        Some(_) => {
            faults.push(fault("config", "wrong_type", "must be an object"));
            Map::new()
        }
        None => {
            faults.push(fault(
                "config",
                "missing",
                "is required: the fields of the catalog entry",
            ));
            Map::new()
        }
    };
    let (tuning, advanced) = settings_of(body, &blueprint, &Tuning::default(), &mut faults);
    let from_settings = add_advanced(&mut given, advanced, body, &mut faults);
    let bound = compose(
        vendor,
        &blueprint,
        &given,
        &from_settings,
        checks,
        &mut faults,
    );
    match (name, bound) {
        (Some(name), Some((config, plan))) if faults.is_empty() => Ok(Draft {
            name,
            variant: variant.to_owned(),
            sources,
            config,
            tuning,
            text: text.to_owned(),
            plan,
            fields: blueprint.fields().to_vec(),
        }),
        _ => Err(DraftFault::Fields(faults)),
    }
}

/// Reads the body of a change: what is left out stays, a secret sent back masked stays, null gives back the default.
pub(super) fn change(
    current: &Installed,
    body: &Map<String, Value>,
    picture: &Picture,
    checks: &Checks,
) -> Result<Draft, DraftFault> {
    let mut faults = Vec::new();
    only(
        body,
        &["name", "config", "sources", "settings"],
        &mut faults,
    );
    let mut name = current.name.clone();
    if body.contains_key("name")
        && let Some(entered) = name_of(body, "name", &mut faults)
    {
        unique(&entered, Some(&current.id), picture, &mut faults);
        name = entered;
    }
    let sources = sources_of(body, picture, &mut faults).unwrap_or_else(|| current.sources.clone());
    let checked = check(&current.blueprint_text);
    let Some(blueprint) = checked.blueprint else {
        return Err(DraftFault::Blueprint(checked.diagnostics));
    };
    let mut given = as_entered(&of_blueprint(&blueprint, &current.config));
    let shown = current.masked_config();
    match body.get("config") {
        Some(Value::Object(config)) => overlay(&mut given, config, &shown),
        Some(_) => faults.push(fault("config", "wrong_type", "must be an object")),
        None => {}
    }
    let (tuning, advanced) = settings_of(body, &blueprint, &current.tuning, &mut faults);
    let from_settings: BTreeSet<String> = advanced.keys().cloned().collect();
    for key in from_settings.iter().filter(|key| {
        body.get("config")
            .and_then(|config| config.get(key.as_str()))
            .is_some()
    }) {
        faults.push(given_twice(key));
    }
    overlay(&mut given, &advanced, &shown);
    let bound = compose(
        &current.vendor,
        &blueprint,
        &given,
        &from_settings,
        checks,
        &mut faults,
    );
    match bound {
        Some((config, plan)) if faults.is_empty() => Ok(Draft {
            name,
            variant: current.variant.clone(),
            sources,
            config: kept(config, &blueprint, &current.config),
            tuning,
            text: current.blueprint_text.clone(),
            plan,
            fields: blueprint.fields().to_vec(),
        }),
        _ => Err(DraftFault::Fields(faults)),
    }
}

/// Puts another blueprint under an installed integration: it must check, be of the same vendor, and be content with
/// the config as it is.
pub(super) fn with_blueprint(
    current: &Installed,
    text: &str,
    checks: &Checks,
) -> Result<Draft, DraftFault> {
    let checked = check(text);
    let blueprint = match checked.blueprint {
        Some(blueprint)
            if !checked
                .diagnostics
                .iter()
                .any(|remark| remark.severity == Severity::Error) =>
        {
            blueprint
        }
        _ => return Err(DraftFault::Blueprint(checked.diagnostics)),
    };
    if blueprint.vendor() != current.vendor {
        return Err(DraftFault::Fields(vec![fault(
            "blueprint",
            "other_vendor",
            format!(
                "is a blueprint for `{}`; this integration is one of `{}`",
                blueprint.vendor(),
                current.vendor
            ),
        )]));
    }
    let mut faults = Vec::new();
    let given = as_entered(&of_blueprint(&blueprint, &current.config));
    let bound = compose(
        &current.vendor,
        &blueprint,
        &given,
        &BTreeSet::new(),
        checks,
        &mut faults,
    );
    match bound {
        Some((config, plan)) if faults.is_empty() => Ok(Draft {
            name: current.name.clone(),
            variant: current.variant.clone(),
            sources: current.sources.clone(),
            config: kept(config, &blueprint, &current.config),
            tuning: current.tuning.clone(),
            text: text.to_owned(),
            plan,
            fields: blueprint.fields().to_vec(),
        }),
        _ => Err(DraftFault::Fields(faults)),
    }
}

impl Draft {
    /// Reads each document the plan depends on once, and asks the vendor what there is to ask. Ok: remarks (a host that cannot be reached now is no reason to
    /// refuse); Err: faults (the document is another project's, or the key opens none).
    pub(super) async fn check_documents(
        &self,
        vendor: &str,
        checks: &Checks,
    ) -> Result<Vec<FieldFault>, Vec<FieldFault>> {
        let mut warnings = Vec::new();
        let mut faults = Vec::new();
        let mut seen: Vec<&Secret> = Vec::new();
        let known = (checks.vendor)(vendor);
        for table in self.plan.tables() {
            if seen.contains(&&table.url) {
                continue;
            }
            seen.push(&table.url);
            let field = self.field_behind(&table.url);
            let bearer = known.and_then(|vendor| vendor.document_token(&self.config));
            match checks.documents.fetch(&table.url, bearer).await {
                Ok(document) => {
                    if let Some(vendor) = known
                        && let Err(found) = vendor.check_document(&self.config, &document)
                    {
                        faults.extend(found);
                    }
                }
                Err(trouble) => {
                    let (is_fault, remark) = document_remark(&field, &trouble);
                    if is_fault {
                        faults.push(remark);
                    } else {
                        warnings.push(remark);
                    }
                }
            }
        }
        super::preflight::ask(vendor, &self.config, checks, &mut faults, &mut warnings).await;
        if faults.is_empty() {
            Ok(warnings)
        } else {
            Err(faults)
        }
    }

    /// Reads the documents of the plan's tables, each once: (table, document). One that cannot be read is a fault here.
    pub(super) async fn documents(
        &self,
        vendor: &str,
        checks: &Checks,
    ) -> Result<Vec<(String, Value)>, Vec<FieldFault>> {
        let known = (checks.vendor)(vendor);
        let mut read: Vec<(&Secret, Value)> = Vec::new();
        let mut documents = Vec::new();
        for table in self.plan.tables() {
            let before = read.iter().find(|(url, _)| *url == &table.url);
            let document =
                match before {
                    Some((_, document)) => document.clone(),
                    None => {
                        let bearer = known.and_then(|vendor| vendor.document_token(&self.config));
                        let document = checks.documents.fetch(&table.url, bearer).await.map_err(
                            |trouble| {
                                vec![document_remark(&self.field_behind(&table.url), &trouble).1]
                            },
                        )?;
                        if let Some(vendor) = known {
                            vendor.check_document(&self.config, &document)?;
                        }
                        read.push((&table.url, document.clone()));
                        document
                    }
                };
            documents.push((table.name.clone(), document));
        }
        Ok(documents)
    }

    /// The field an address was made from: the address itself, or the secret within it.
    fn field_behind(&self, url: &Secret) -> String {
        let is_in = |field: &&Field| match self.config.get(&field.key) {
            Some(ConfigValue::Text(text)) => field.kind == FieldKind::Url && text == url.expose(),
            _ => false,
        };
        let holds = |field: &&Field| match self.config.get(&field.key) {
            Some(ConfigValue::Secret(secret)) => url.expose().contains(secret.expose()),
            _ => false,
        };
        self.fields
            .iter()
            .find(is_in)
            .or_else(|| self.fields.iter().find(holds))
            .map_or_else(
                || "config".to_owned(),
                |field| format!("config.{}", field.key),
            )
    }
}

fn document_remark(field: &str, trouble: &DocumentFault) -> (bool, FieldFault) {
    match trouble {
        DocumentFault::Status(status @ (429 | 500..=599)) => (
            false,
            fault(
                field,
                "document_unreachable",
                format!(
                    "the document behind it could not be read now (status {status}); it is tried again"
                ),
            ),
        ),
        DocumentFault::Status(status) => (
            true,
            fault(
                field,
                "document_refused",
                format!(
                    "the document behind it answers with status {status}; check that it is the right one, of the right environment"
                ),
            ),
        ),
        DocumentFault::NotJson => (
            true,
            fault(
                field,
                "document_not_json",
                "the document behind it is no JSON; check that it is the address of the document itself",
            ),
        ),
        DocumentFault::Blocked(code, message) => (true, fault(field, code, message.clone())),
        DocumentFault::Unreachable(words) => (
            false,
            fault(
                field,
                "document_unreachable",
                format!(
                    "the document behind it could not be read now ({words}); it is tried again"
                ),
            ),
        ),
    }
}

/// Reads, checks and binds the entered values. None when there is a fault.
fn compose(
    vendor: &str,
    blueprint: &Blueprint,
    given: &Map<String, Value>,
    from_settings: &BTreeSet<String>,
    checks: &Checks,
    faults: &mut Vec<FieldFault>,
) -> Option<(Config, Plan)> {
    let mut found = Vec::new();
    for field in blueprint.fields() {
        if let Some(text) = given.get(&field.key).and_then(Value::as_str) {
            found.extend(text_fault(field, text, checks));
        }
    }
    let vendor = (checks.vendor)(vendor);
    let mut made = None;
    match blueprint.read_config(given, "config") {
        Ok(config) => {
            found.extend(vendor.map_or_else(Vec::new, |vendor| vendor.check_config(&config)));
            match blueprint.bind(&config, &|url| checks.urls.allows_insecure(url)) {
                Ok(plan) => made = Some((config, plan)),
                Err(faults) => found.extend(faults),
            }
        }
        Err(faults) => {
            // The others are looked at all the same, so that all faults come in one answer.
            found.extend(faults);
            found.extend(vendor.map_or_else(Vec::new, |vendor| {
                vendor.check_config(&readable(blueprint, given))
            }));
        }
    }
    for mut fault in found {
        if let Some(key) = fault.field.strip_prefix("config.")
            && from_settings.contains(key)
        {
            fault.field = format!("settings.{key}");
        }
        if !faults.iter().any(|known| known.field == fault.field) {
            faults.push(fault);
        }
    }
    made.filter(|_| faults.is_empty())
}

/// What no field may hold, whatever the vendor: it would end up in a header, a URL or a log line.
fn text_fault(field: &Field, text: &str, checks: &Checks) -> Option<FieldFault> {
    let path = format!("config.{}", field.key);
    if let Some(control) = text.chars().find(|letter| letter.is_control()) {
        return Some(fault(
            path,
            "control_character",
            format!(
                "holds the control character U+{:04X}; line breaks and the like are not allowed",
                u32::from(control)
            ),
        ));
    }
    let travels = matches!(field.kind, FieldKind::Secret | FieldKind::Url);
    if travels && !text.is_ascii() {
        return Some(fault(
            path,
            "not_ascii",
            "holds characters other than ASCII, which a header or an address cannot carry",
        ));
    }
    if field.kind == FieldKind::Url && !text.is_empty() {
        return checks
            .urls
            .check_url(text)
            .err()
            .map(|(code, message)| fault(path, &code, message));
    }
    None
}

/// Those entered values that are of the right kind, for checks beside the failed reading.
fn readable(blueprint: &Blueprint, given: &Map<String, Value>) -> Config {
    blueprint
        .fields()
        .iter()
        .filter_map(|field| {
            let text = given.get(&field.key)?.as_str()?.to_owned();
            let value = match field.kind {
                FieldKind::Secret => ConfigValue::Secret(Secret::new(text)),
                FieldKind::Text | FieldKind::Url | FieldKind::Choice(_) => ConfigValue::Text(text),
                FieldKind::Number | FieldKind::YesNo => return None,
            };
            Some((field.key.clone(), value))
        })
        .collect()
}

fn as_entered(config: &Config) -> Map<String, Value> {
    config
        .iter()
        .map(|(key, value)| (key.clone(), entered(value)))
        .collect()
}

/// Lays changes over what there is. What is sent back as it was shown (masked) stays as it is.
fn overlay(
    given: &mut Map<String, Value>,
    changes: &Map<String, Value>,
    shown: &Map<String, Value>,
) {
    for (key, value) in changes {
        let as_shown = is_mask(value) || shown.get(key) == Some(value);
        if value.is_null() {
            given.shift_remove(key);
        } else if !(as_shown && given.contains_key(key)) {
            given.insert(key.clone(), value.clone());
        }
    }
}

/// The new config, and the values of fields that only other revisions of the blueprint have.
fn kept(mut config: Config, blueprint: &Blueprint, current: &Config) -> Config {
    let known: BTreeSet<&str> = blueprint
        .fields()
        .iter()
        .map(|field| field.key.as_str())
        .collect();
    for (key, value) in current {
        if !known.contains(key.as_str()) {
            config.insert(key.clone(), value.clone());
        }
    }
    config
}

/// The shipped blueprints of a vendor: (variant, text), in order.
#[must_use]
pub fn shipped_variants(checks: &Checks, vendor: &str) -> Vec<(&'static str, &'static str)> {
    variants(checks.builtin, vendor).collect()
}
