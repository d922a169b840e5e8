//! `config`: what an installer is asked for, as declared.

use super::Compiler;
use super::plain::{find, scalar_text};
use crate::blueprint::diagnostic::did_you_mean;
use crate::blueprint::yaml::{self, Key, Kind, Node};
use crate::blueprint::{Field, FieldKind};

impl Compiler<'_> {
    /// Reads the fields; gives the keys they stand under, for the remarks on what nothing uses.
    pub(super) fn config(&mut self, node: &Node) -> Vec<Key> {
        let mut keys = Vec::new();
        for (key, node) in self.group_of(node, "`config`") {
            keys.push(key.clone());
            if let Some(field) = self.config_field(key, node) {
                self.fields.push(field);
            }
        }
        keys
    }

    fn config_field(&mut self, key: &Key, node: &Node) -> Option<Field> {
        let members = self.group_of(node, "a config field");
        self.known_keys(
            members,
            &[
                "type", "label", "help", "default", "options", "optional", "advanced", "gateway",
            ],
            "a config field",
        );
        let get = |name: &str| find(members, name);
        let label = get("label").and_then(|node| self.plain_text(node, "label"));
        let help = get("help").and_then(|node| self.plain_text(node, "help"));
        let optional = get("optional").is_some_and(|node| self.yes_no(node, "optional"));
        let advanced = get("advanced").is_some_and(|node| self.yes_no(node, "advanced"));
        if get("gateway").is_some_and(|node| self.yes_no(node, "gateway")) {
            // Read by the gateway itself (a webhook's secret), so the blueprint need not name it.
            self.config_used.insert(key.text.clone());
        }
        let Some(kind_node) = get("type") else {
            self.faults.push(
                "missing",
                key.span.clone(),
                format!("`config.{}` needs `type`", key.text),
                Some("text, secret, url, choice, number or yes_no".to_owned()),
            );
            return None;
        };
        let kind = match kind_node.text().unwrap_or("") {
            "text" => FieldKind::Text,
            "secret" => FieldKind::Secret,
            "url" => FieldKind::Url,
            "number" => FieldKind::Number,
            "yes_no" => FieldKind::YesNo,
            "choice" => FieldKind::Choice(self.options(key, get("options"))),
            other => {
                let kinds = ["text", "secret", "url", "choice", "number", "yes_no"];
                self.faults.push(
                    "shape",
                    kind_node.span.clone(),
                    format!("`{other}` is no kind of field"),
                    did_you_mean(other, kinds)
                        .or_else(|| Some(format!("one of: {}", kinds.join(", ")))),
                );
                return None;
            }
        };
        if let (Some(node), false) = (get("options"), matches!(kind, FieldKind::Choice(_))) {
            self.shape(node, "only a `choice` has options");
        }
        let default = get("default").and_then(|node| self.config_default(node, &kind));
        Some(Field {
            label: label.unwrap_or_else(|| key.text.replace('_', " ")),
            key: key.text.clone(),
            kind,
            help,
            default,
            optional,
            advanced,
        })
    }

    fn options(&mut self, key: &Key, node: Option<&Node>) -> Vec<(String, String)> {
        let found: Vec<(String, String)> = match node.map(|node| &node.kind) {
            Some(Kind::Group(members)) => members
                .iter()
                .filter_map(|(label, node)| Some((label.text.clone(), scalar_text(node)?)))
                .collect(),
            Some(Kind::List(items)) => items
                .iter()
                .filter_map(scalar_text)
                .map(|value| (value.clone(), value))
                .collect(),
            _ => Vec::new(),
        };
        if found.is_empty() {
            let place = node.map_or(&key.span, |node| &node.span).clone();
            self.faults.push(
                "missing",
                place,
                format!("`config.{}` needs `options`", key.text),
                Some("write options: { Label: value } or options: [a, b]".to_owned()),
            );
        }
        found
    }

    fn config_default(&mut self, node: &Node, kind: &FieldKind) -> Option<String> {
        let text = scalar_text(node);
        let fine = match (kind, &text) {
            (_, None) => false,
            (FieldKind::Secret, _) => {
                self.faults.error(
                    "secret",
                    node.span.clone(),
                    "a secret cannot have a default: blueprints are shared".to_owned(),
                );
                return None;
            }
            (FieldKind::Choice(options), Some(text)) => {
                options.iter().any(|(_, value)| value == text)
            }
            (FieldKind::Number, Some(text)) => yaml::is_json_number(text),
            (FieldKind::YesNo, _) => matches!(node.kind, Kind::Bool(_)),
            (FieldKind::Url, Some(text)) => url::Url::parse(text).is_ok(),
            (FieldKind::Text, _) => true,
        };
        if !fine {
            self.shape(
                node,
                "this default does not fit the field's type or options",
            );
        }
        text
    }
}
