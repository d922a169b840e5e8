//! Form fields made from a catalog entry: what is asked, what was entered, and what is wrong with it beside it.

use askama::Template;
use serde_json::{Map, Value};

use super::form::Form;
use super::views::{Field, FieldFault};

/// Fields of a config are named so in forms.
const PREFIX: &str = "config.";

/// One field of a form.
#[derive(Template, Clone)]
#[template(path = "field.html")]
pub(super) struct Input {
    /// Its name in the form; also its id.
    pub(super) name: String,
    pub(super) label: String,
    /// `text`, `secret`, `url`, `choice`, `number` or `yes_no`.
    pub(super) kind: String,
    pub(super) required: bool,
    pub(super) help: Option<String>,
    pub(super) placeholder: Option<String>,
    pub(super) value: String,
    pub(super) options: Vec<(String, String)>,
    /// A secret that is set already: how it ends.
    pub(super) kept: Option<String>,
    pub(super) fault: Option<String>,
    pub(super) advanced: bool,
}

/// The first fault with one of these names. What was used is ticked off, so that the rest can be shown elsewhere.
pub(super) fn take_fault(faults: &mut Vec<FieldFault>, names: &[&str]) -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    faults.retain(|fault| {
        let is_it = names.contains(&fault.field.as_str());
        if is_it {
            found.push(fault.message.clone());
        }
        !is_it
    });
    (!found.is_empty()).then(|| found.join("; "))
}

/// Inputs for a blueprint's fields. `stored`: the values as they are, secrets masked; `form`: what was entered just now.
pub(super) fn inputs(
    fields: &[Field],
    stored: &Map<String, Value>,
    form: Option<&Form>,
    kept: &dyn Fn(&str) -> bool,
    faults: &mut Vec<FieldFault>,
) -> Vec<Input> {
    fields
        .iter()
        .map(|field| {
            let name = format!("{PREFIX}{}", field.key);
            let known = stored.get(&field.key);
            let value = match (form, known) {
                _ if field.kind == "secret" => String::new(),
                (Some(form), _) => form.text(&name).to_owned(),
                (None, Some(Value::String(text))) => text.clone(),
                (None, Some(Value::Null) | None) if field.kind == "choice" => {
                    field.default.clone().unwrap_or_default()
                }
                (None, Some(Value::Null) | None) => String::new(),
                (None, Some(value)) => value.to_string(),
            };
            let hint = known
                .and_then(|value| value.get("hint")?.as_str())
                .map(|hint| match hint {
                    "…" => "set".to_owned(),
                    hint => format!("set, ends in {hint}"),
                });
            Input {
                label: field.label.clone(),
                kind: field.kind.clone(),
                required: field.required,
                help: field.help.clone(),
                placeholder: field.default.clone(),
                value,
                options: field
                    .options
                    .iter()
                    .map(|choice| (choice.label.clone(), choice.value.clone()))
                    .collect(),
                kept: hint.or_else(|| {
                    (field.kind == "secret" && kept(&field.key))
                        .then(|| "entered, kept until you install".to_owned())
                }),
                fault: take_fault(
                    faults,
                    &[&name, &format!("settings.{}", field.key), &field.key],
                ),
                advanced: field.advanced,
                name,
            }
        })
        .collect()
}

/// What was entered for a blueprint's fields, as the API takes it. An empty secret is left out: the one that is set
/// stays. `cleared`: give an empty field as null, so that a value stored before goes back to its default.
pub(super) fn entered(fields: &[Field], form: &Form, cleared: bool) -> Map<String, Value> {
    let mut config = Map::new();
    for field in fields {
        let name = format!("{PREFIX}{}", field.key);
        let text = form.text(&name).trim();
        let value = match (field.kind.as_str(), text) {
            ("yes_no", "true") => Value::Bool(true),
            ("yes_no", "false") => Value::Bool(false),
            ("secret", "") => continue,
            (_, "") if cleared => Value::Null,
            (_, "") => continue,
            ("number", text) => serde_json::from_str::<serde_json::Number>(text)
                .map_or_else(|_| Value::String(text.to_owned()), Value::Number),
            (_, text) => Value::String(text.to_owned()),
        };
        config.insert(field.key.clone(), value);
    }
    config
}
