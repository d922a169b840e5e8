//! Pendo's metadata: writes in arrays, one field at a time, and the schema. Pure.

use serde_json::{Map, Value, json};

use super::{Field, Pendo, Policies, Who};
use crate::sandbox::book::Marks;
use crate::sandbox::exchange::{Ask, Reply, is_iso_time, text};

impl Pendo {
    /// `POST /api/v1/metadata/{who}/{group}/value`.
    pub(super) fn write(
        &mut self,
        who: Who,
        group: &str,
        ask: &Ask<'_>,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Reply {
        let Some(Value::Array(records)) = &ask.json else {
            marks.refused("PE8", "the body is no array");
            return Reply::empty(400);
        };
        if records.len() > policies.max_records {
            marks.limit("PE10", format!("{} records", records.len()));
            return Reply::empty(408);
        }
        let mut parsed = Vec::with_capacity(records.len());
        for record in records {
            match record_of(who, record) {
                Some(record) => parsed.push(record),
                None => {
                    marks.refused("PE8", "a record without id or values");
                    return Reply::empty(400);
                }
            }
        }
        for (_, values) in &parsed {
            for name in values.keys() {
                if !self.has_field(who, group, name, policies) {
                    marks.refused("PE8", format!("field `{name}` is not in group `{group}`"));
                    return Reply::empty(400);
                }
            }
        }
        let creates = ask.param("create").as_deref() == Some("true");
        let (mut missing, mut errors, mut updated) = (Vec::new(), Vec::new(), 0);
        for (id, values) in parsed {
            let known = self.people(who).get(id).is_some_and(|person| person.known);
            if !known && !creates {
                missing.push(id);
                continue;
            }
            let misfit = values.iter().find(|(name, value)| {
                let schema = self.schema.get(&(who, group.to_owned()));
                let field = schema.and_then(|fields| fields.get(&name.to_lowercase()));
                field.is_some_and(|field| !fits(field, value))
            });
            if let Some((name, _)) = misfit {
                errors.push(format!("{id}: wrong type for {name}"));
                continue;
            }
            self.set(who, group, id, values);
            updated += 1;
        }
        self.counts.metadata_writes += updated;
        self.counts.metadata_missing += missing.len() as u64;
        if !missing.is_empty() {
            marks.silent("PE9", format!("{} unknown", missing.len()));
        }
        let failed = missing.len() + errors.len();
        let mut reply = json!({"total": records.len(), "updated": updated, "failed": failed});
        if !missing.is_empty() {
            reply["missing"] = json!(missing);
        }
        if !errors.is_empty() {
            reply["errors"] = json!(errors);
        }
        Reply::json(200, &reply)
    }

    /// `PUT /api/v1/metadata/{who}/{group}/value/{id}/{field}`: the body is the bare value, an unknown custom field
    /// becomes a text.
    pub(super) fn write_one(
        &mut self,
        who: Who,
        group: &str,
        id: &str,
        field: &str,
        ask: &Ask<'_>,
        marks: &mut Marks,
    ) -> Reply {
        let Some(value) = &ask.json else {
            marks.refused("PE8", "no value");
            return Reply::empty(400);
        };
        let creating = Policies {
            autocreate_custom: true,
            ..Policies::default()
        };
        if !self.has_field(who, group, field, &creating) {
            marks.refused("PE8", format!("field `{field}` is not in group `{group}`"));
            return Reply::empty(400);
        }
        if !self.people(who).get(id).is_some_and(|person| person.known) {
            marks.silent("PE9", "unknown");
            return Reply::empty(404);
        }
        let values = Map::from_iter([(field.to_owned(), value.clone())]);
        self.set(who, group, id, &values);
        Reply::empty(200)
    }

    fn set(&mut self, who: Who, group: &str, id: &str, values: &Map<String, Value>) {
        let Some(person) = self.person(who, id) else {
            return;
        };
        person.known = true;
        let kept = person.metadata.entry(group.to_owned()).or_default();
        for (name, value) in values {
            kept.insert(name.to_lowercase(), value.clone());
        }
    }

    /// Whether a group has a field. The agent's group takes any; `custom` may be told to grow.
    fn has_field(&mut self, who: Who, group: &str, name: &str, policies: &Policies) -> bool {
        let name = name.to_lowercase();
        let key = (who, group.to_owned());
        let known = self.schema.get(&key).and_then(|fields| fields.get(&name));
        match known {
            Some(field) => !field.deleted,
            None if group != "custom" || policies.autocreate_custom => {
                let field = Field {
                    kind: "text".to_owned(),
                    deleted: false,
                };
                self.schema.entry(key).or_default().insert(name, field);
                true
            }
            None => false,
        }
    }

    /// What `GET /api/v1/metadata/schema/{who}` answers.
    pub(super) fn schema_reply(&self, who: Who) -> Value {
        let mut groups = Map::new();
        for group in ["agent", "auto", "custom", "pendo"] {
            let fields = self.schema.get(&(who, group.to_owned()));
            let shown: Map<String, Value> = fields
                .into_iter()
                .flatten()
                .map(|(name, field)| (name.clone(), shown(name, field)))
                .collect();
            groups.insert(group.to_owned(), Value::Object(shown));
        }
        Value::Object(groups)
    }
}

fn shown(name: &str, field: &Field) -> Value {
    json!({
        "Type": field.kind, "DisplayName": name, "ElementType": "", "ElementFormat": "", "sample": null,
        "isHidden": false, "isDeleted": field.deleted, "isCalculated": false, "isPerApp": false,
    })
}

/// Id and values of a record.
fn record_of(who: Who, record: &Value) -> Option<(&str, &Map<String, Value>)> {
    let record = record.as_object()?;
    let id = text(record, who.id_field())?;
    let values = record.get("values")?.as_object()?;
    Some((id, values))
}

/// Whether a field takes a value. A text takes what prints as one; null clears.
fn fits(field: &Field, value: &Value) -> bool {
    match (field.kind.as_str(), value) {
        (_, Value::Null) => true,
        ("text", value) => value.is_string() || value.is_number() || value.is_boolean(),
        ("boolean", value) => value.is_boolean(),
        ("number", value) => value.is_number(),
        ("date", Value::String(text)) => {
            is_iso_time(text) || text.parse::<jiff::civil::Date>().is_ok()
        }
        ("date", value) => value.is_number(),
        _ => false,
    }
}
