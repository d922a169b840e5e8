//! What `X-Optimizely-Strict: true` refuses: the published schema (Event API OpenAPI 1.3.0), field by field. Pure.
//!
//! The vendor does not publish the shape of its answer; ours lists every fault with its place.

use serde_json::{Map, Value};

use super::datafiles::Catalog;

/// Faults listed in one answer.
const FAULTS_MAX: usize = 50;

/// One broken constraint.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// JSON pointer.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// What a field may hold.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Integer,
    Number,
    YesNo,
    Object,
    List,
    /// Text, number or boolean.
    Scalar,
    TextOrNull,
}

/// (name, required, kind)
type Shape = &'static [(&'static str, bool, Kind)];

const BATCH: Shape = &[
    ("account_id", true, Kind::Text),
    ("visitors", true, Kind::List),
    ("project_id", false, Kind::Text),
    ("anonymize_ip", false, Kind::YesNo),
    ("client_name", false, Kind::Text),
    ("client_version", false, Kind::Text),
    // Not published; every SDK sends them.
    ("enrich_decisions", false, Kind::YesNo),
    ("revision", false, Kind::Text),
];
const VISITOR: Shape = &[
    ("visitor_id", true, Kind::Text),
    ("snapshots", true, Kind::List),
    ("session_id", false, Kind::Text),
    ("attributes", false, Kind::List),
];
const SNAPSHOT: Shape = &[
    ("events", true, Kind::List),
    ("decisions", false, Kind::List),
];
const EVENT: Shape = &[
    ("timestamp", true, Kind::Integer),
    ("uuid", true, Kind::Text),
    ("key", false, Kind::Text),
    ("entity_id", false, Kind::Text),
    ("type", false, Kind::Text),
    ("revenue", false, Kind::Integer),
    ("value", false, Kind::Number),
    ("quantity", false, Kind::Integer),
    ("tags", false, Kind::Object),
    ("properties", false, Kind::Object),
];
const DECISION: Shape = &[
    ("campaign_id", true, Kind::TextOrNull),
    ("experiment_id", true, Kind::Text),
    ("variation_id", true, Kind::TextOrNull),
    ("is_campaign_holdback", false, Kind::YesNo),
];
const ATTRIBUTE: Shape = &[
    ("type", true, Kind::Text),
    ("value", true, Kind::Scalar),
    ("entity_id", false, Kind::Text),
    ("key", false, Kind::Text),
];

/// Every broken constraint of a batch, at most [`FAULTS_MAX`].
#[must_use]
pub fn faults(batch: &Value, catalog: &Catalog) -> Vec<Fault> {
    let mut found = Faults(Vec::new());
    found.object("", batch, BATCH);
    for (path, visitor) in items("", batch, "visitors") {
        found.object(&path, visitor, VISITOR);
        for (path, attribute) in items(&path, visitor, "attributes") {
            found.object(&path, attribute, ATTRIBUTE);
            if attribute["type"] == "custom" {
                for name in ["entity_id", "key"] {
                    if attribute.get(name).is_none() {
                        found.add(&format!("{path}/{name}"), "is required for type custom");
                    }
                }
            }
        }
        for (path, snapshot) in items(&path, visitor, "snapshots") {
            found.snapshot(&path, snapshot);
        }
    }
    found.scope(batch, catalog);
    found.0
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: &str, message: &str) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(Fault {
                path: path.to_owned(),
                message: message.to_owned(),
            });
        }
    }

    fn object(&mut self, path: &str, value: &Value, shape: Shape) {
        let Some(object) = value.as_object() else {
            self.add(path, "must be an object");
            return;
        };
        for (name, required, kind) in shape {
            self.field(path, object, name, *required, *kind);
        }
    }

    fn field(
        &mut self,
        path: &str,
        object: &Map<String, Value>,
        name: &str,
        required: bool,
        kind: Kind,
    ) {
        let path = format!("{path}/{name}");
        let Some(value) = object.get(name) else {
            if required {
                self.add(&path, "is required");
            }
            return;
        };
        let (fits, wanted) = match kind {
            Kind::Text => (value.is_string(), "must be a string"),
            Kind::Integer => (
                value.as_i64().is_some(),
                "must be an integer of at most 64 bits",
            ),
            Kind::Number => (value.is_number(), "must be a number"),
            Kind::YesNo => (value.is_boolean(), "must be true or false"),
            Kind::Object => (value.is_object(), "must be an object"),
            Kind::List => (value.is_array(), "must be an array"),
            Kind::Scalar => (scalar(value), "must be a string, number or boolean"),
            Kind::TextOrNull => (
                value.is_string() || value.is_null(),
                "must be a string or null",
            ),
        };
        if !fits {
            self.add(&path, wanted);
        }
    }

    fn snapshot(&mut self, path: &str, snapshot: &Value) {
        self.object(path, snapshot, SNAPSHOT);
        for (path, decision) in items(path, snapshot, "decisions") {
            self.object(&path, decision, DECISION);
        }
        for (path, event) in items(path, snapshot, "events") {
            self.object(&path, event, EVENT);
            for (name, value) in event
                .get("tags")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                if !scalar(value) {
                    let path = format!("{path}/tags/{name}");
                    self.add(&path, "must be a string, number or boolean");
                }
            }
        }
    }

    fn scope(&mut self, batch: &Value, catalog: &Catalog) {
        let Some(account) = batch["account_id"].as_str() else {
            return;
        };
        let Some(projects) = catalog.get(account) else {
            self.add("/account_id", "is not a known account");
            return;
        };
        if let Some(project) = batch["project_id"].as_str()
            && !projects.contains_key(project)
        {
            self.add("/project_id", "is not a project of this account");
        }
    }
}

fn scalar(value: &Value) -> bool {
    value.is_string() || value.is_number() || value.is_boolean()
}

fn items<'v>(
    path: &str,
    holder: &'v Value,
    name: &str,
) -> impl Iterator<Item = (String, &'v Value)> + use<'v> {
    let path = format!("{path}/{name}");
    holder
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
        .map(move |(index, value)| (format!("{path}/{index}"), value))
}
