//! Tables read from a document: which value stands beside a key, now and when an event was accepted.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::compile::RowsDef;
use super::diagnostic::nearest;
use crate::clock::Millis;

/// Most rows that are read.
const MAX_ROWS: usize = 200_000;
/// Most former values kept for one key.
const MAX_FORMER: usize = 8;
/// How long former values are kept: longer than any event may wait or be replayed.
const FORMER_MS: Millis = 90 * 86_400_000;

/// Rows read from a document. Remembers values it had before, so that an event accepted while a row was
/// there still finds it.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: HashMap<String, Row>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    /// The value now.
    now: Option<Value>,
    /// Values it had, each with the moment it was first seen gone; oldest first.
    former: Vec<(Millis, Value)>,
}

impl Table {
    /// A table of these rows, for tests and examples.
    #[must_use]
    pub fn of(rows: impl IntoIterator<Item = (String, Value)>) -> Self {
        Self {
            rows: rows
                .into_iter()
                .map(|(key, value)| {
                    let row = Row {
                        now: Some(value),
                        former: Vec::new(),
                    };
                    (key, row)
                })
                .collect(),
        }
    }

    /// How many rows it has now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.values().filter(|row| row.now.is_some()).count()
    }

    /// Whether it has no rows now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn read_rows(rows: Option<&RowsDef>, document: &Value) -> Result<Self, String> {
        let Some(def) = rows else {
            let members = document
                .as_object()
                .ok_or_else(|| "the document is not a JSON object".to_owned())?;
            return Ok(Self::of(
                members
                    .iter()
                    .filter(|(_, value)| is_single(value))
                    .map(|(key, value)| (key.clone(), value.clone())),
            ));
        };
        let list = down(document, &def.rows)
            .and_then(Value::as_array)
            .ok_or_else(|| format!("the document has no list `{}`", def.rows))?;
        if list.len() > MAX_ROWS {
            return Err(format!(
                "`{}` has {} rows; at most {MAX_ROWS} are read",
                def.rows,
                list.len()
            ));
        }
        Ok(Self::of(list.iter().filter_map(|row| {
            let key = match down(row, &def.key)? {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            let value = down(row, &def.value).filter(|value| is_single(value))?;
            Some((key, value.clone()))
        })))
    }

    /// This table after a newer reading at `now_ms`: rows gone or changed stay findable for events accepted before.
    #[must_use]
    pub fn updated(&self, newer: Self, now_ms: Millis) -> Self {
        let mut next = newer;
        for (key, old) in &self.rows {
            let row = next.rows.entry(key.clone()).or_default();
            let mut former = old.former.clone();
            if let Some(value) = &old.now
                && row.now.as_ref() != Some(value)
            {
                former.push((now_ms, value.clone()));
            }
            former.retain(|(until, _)| now_ms.saturating_sub(*until) < FORMER_MS);
            if former.len() > MAX_FORMER {
                former.drain(..former.len() - MAX_FORMER);
            }
            row.former = former;
        }
        next.rows
            .retain(|_, row| row.now.is_some() || !row.former.is_empty());
        next
    }

    /// The value beside `key` for an event accepted at `at_ms`.
    #[must_use]
    pub fn get(&self, key: &str, at_ms: Millis) -> Option<&Value> {
        let row = self.rows.get(key)?;
        row.former
            .iter()
            .find(|(until, _)| at_ms < *until)
            .map(|(_, value)| value)
            .or(row.now.as_ref())
    }

    /// A key that differs from `key` only in case, or by a slip.
    #[must_use]
    pub fn near(&self, key: &str) -> Option<String> {
        let mut keys: Vec<&str> = self
            .rows
            .iter()
            .filter(|(_, row)| row.now.is_some())
            .map(|(key, _)| key.as_str())
            .collect();
        keys.sort_unstable();
        nearest(key, keys).map(str::to_owned)
    }

    /// Why `key` was not found, for people: `no event key `Signup`; there is `signup` (capitals count)`.
    #[must_use]
    pub fn not_found(&self, label: &str, key: &str) -> String {
        match self.near(key) {
            Some(near) if near.to_lowercase() == key.to_lowercase() => {
                format!("no {label} `{key}`; there is `{near}` (capitals count)")
            }
            Some(near) => format!("no {label} `{key}`; did you mean `{near}`?"),
            None => format!("no {label} `{key}`; it must be created in the vendor's project first"),
        }
    }

    /// JSON to keep on disk, history included.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut rows: Vec<(&String, &Row)> = self.rows.iter().collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        let rows: Map<String, Value> = rows
            .into_iter()
            .map(|(key, row)| {
                let former: Vec<Value> = row
                    .former
                    .iter()
                    .map(|(until, value)| json!([until, value]))
                    .collect();
                let mut kept = Map::new();
                if let Some(now) = &row.now {
                    kept.insert("now".to_owned(), now.clone());
                }
                if !former.is_empty() {
                    kept.insert("former".to_owned(), Value::Array(former));
                }
                (key.clone(), Value::Object(kept))
            })
            .collect();
        json!({ "rows": rows })
    }

    /// Reads back what [`Table::to_json`] wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_json(json: &Value) -> Result<Self, String> {
        let rows = json
            .get("rows")
            .and_then(Value::as_object)
            .ok_or_else(|| "a stored table has `rows`".to_owned())?;
        let mut table = Self::default();
        for (key, kept) in rows {
            let former = kept
                .get("former")
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice)
                .iter()
                .map(|pair| match pair.as_array().map(Vec::as_slice) {
                    Some([until, value]) => {
                        until.as_i64().map(|until| (until, value.clone())).ok_or(())
                    }
                    _ => Err(()),
                })
                .collect::<Result<Vec<_>, ()>>()
                .map_err(|()| format!("the stored row `{key}` cannot be read"))?;
            let row = Row {
                now: kept.get("now").cloned(),
                former,
            };
            table.rows.insert(key.clone(), row);
        }
        Ok(table)
    }
}

fn is_single(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

fn down<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.')
        .try_fold(value, |value, step| value.get(step))
}

#[cfg(test)]
mod tests {
    use super::Table;
    use serde_json::{Value, json};

    fn table(rows: &[(&str, &str)]) -> Table {
        Table::of(
            rows.iter()
                .map(|(key, value)| ((*key).to_owned(), json!(value))),
        )
    }

    #[test]
    fn an_event_finds_the_row_there_was_when_it_was_accepted() {
        let table = table(&[("signup", "1"), ("purchase", "2")])
            .updated(table(&[("purchase", "22"), ("new", "3")]), 1_000)
            .updated(self::table(&[("purchase", "22"), ("signup", "11")]), 2_000);
        let get = |key, at| table.get(key, at).and_then(Value::as_str);
        assert_eq!(get("signup", 999), Some("1"));
        assert_eq!(get("signup", 1_500), Some("11"));
        assert_eq!(get("purchase", 999), Some("2"));
        assert_eq!(get("purchase", 1_000), Some("22"));
        assert_eq!(get("new", 500), Some("3"), "held since before it was made");
        assert_eq!(get("new", 2_000), None);
        assert_eq!(table.near("new"), None, "what is gone is not suggested");
    }

    #[test]
    fn a_table_comes_back_from_disk_with_its_history() {
        let table = table(&[("signup", "1")]).updated(table(&[("purchase", "2")]), 1_000);
        let stored = table.to_json().to_string();
        let back =
            Table::from_json(&serde_json::from_str(&stored).expect("JSON")).expect("a table");
        assert_eq!(back.rows, table.rows);
        assert!(Table::from_json(&json!([])).is_err());
    }

    #[test]
    fn a_missing_key_names_the_near_one() {
        let table = table(&[("signup", "1"), ("purchase", "2")]);
        assert_eq!(
            table.not_found("event key", "Signup"),
            "no event key `Signup`; there is `signup` (capitals count)"
        );
        assert_eq!(
            table.not_found("event key", "singup"),
            "no event key `singup`; did you mean `signup`?"
        );
        assert!(table.not_found("event key", "refund").contains("created"));
    }
}
