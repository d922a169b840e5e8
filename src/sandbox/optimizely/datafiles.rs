//! The datafile host: one document per SDK key, conditional reads, revisions; and what the served documents know.
//!
//! Plays `cdn.optimizely.com/datafiles/{sdk_key}.json` (docs "Get the datafile"; 403 for an unknown key as the Go
//! SDK 2 expects). Pure but for the time handed in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::Millis;

/// The document every sandbox begins with, under SDK key `demo`.
const DEMO: &str = include_str!("demo_datafile.json");

/// How often the host was asked.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Reads {
    /// Answered with the document.
    pub full: u64,
    /// Answered 304.
    pub not_modified: u64,
    /// Unknown SDK key.
    pub forbidden: u64,
}

/// One served document.
#[derive(Debug, Clone)]
struct Served {
    document: Value,
    bytes: Bytes,
    etag: String,
    modified_ms: Millis,
}

/// What the documents of one account and project know.
#[derive(Debug, Default)]
pub struct Known {
    /// Event ids, with their keys.
    pub events: HashMap<String, String>,
    /// Ids an activation may name: layers, experiments, rollout rules, holdouts.
    pub campaigns: HashSet<String>,
}

/// An answer to a read.
#[derive(Debug)]
pub struct Answer {
    /// 200, 304 or 403.
    pub status: StatusCode,
    /// `ETag`, when the document exists.
    pub etag: Option<String>,
    /// `Last-Modified`, when the document exists.
    pub last_modified: Option<String>,
    /// The document, with 200.
    pub body: Bytes,
}

/// What the events endpoint checks against: account → project → what is known there.
pub type Catalog = HashMap<String, HashMap<String, Known>>;

/// The documents.
#[derive(Debug)]
pub struct Datafiles {
    by_sdk_key: BTreeMap<String, Served>,
    catalog: Arc<Catalog>,
    /// How often they were read.
    pub reads: Reads,
}

impl Datafiles {
    /// A host that serves the demo document.
    #[must_use]
    pub fn new(now_ms: Millis) -> Self {
        let mut datafiles = Self {
            by_sdk_key: BTreeMap::new(),
            catalog: Arc::default(),
            reads: Reads::default(),
        };
        if let Ok(demo) = serde_json::from_str(DEMO) {
            datafiles.serve("demo", demo, now_ms);
        }
        datafiles
    }

    /// What the served documents know, by account and project.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    /// Serves `document` under `sdk_key` from now on. When its revision is absent or the one served so far, the next one is put in.
    ///
    /// # Errors
    /// In words, when it is not a datafile.
    pub fn put(
        &mut self,
        sdk_key: &str,
        mut document: Value,
        now_ms: Millis,
    ) -> Result<Value, String> {
        for field in ["accountId", "projectId", "version"] {
            if !document.get(field).is_some_and(Value::is_string) {
                return Err(format!("`{field}` is missing or not a text"));
            }
        }
        let before = self
            .by_sdk_key
            .get(sdk_key)
            .and_then(|served| served.document["revision"].as_str());
        let given = document["revision"].as_str();
        if given.is_none() || given == before {
            let next = before
                .and_then(|text| text.parse::<u64>().ok())
                .map_or(1, |n| n + 1);
            document["revision"] = Value::String(next.to_string());
        }
        Ok(self.serve(sdk_key, document, now_ms))
    }

    /// Adds an event with this key, as an admin would in Optimizely, and raises the revision.
    ///
    /// # Errors
    /// In words, when no document is served under `sdk_key`.
    pub fn add_event(&mut self, sdk_key: &str, key: &str, now_ms: Millis) -> Result<Value, String> {
        let Some(served) = self.by_sdk_key.get(sdk_key) else {
            return Err(format!("no datafile under `{sdk_key}`"));
        };
        let mut document = served.document.clone();
        let Some(events) = document.get_mut("events").and_then(Value::as_array_mut) else {
            return Err("the datafile has no list `events`".to_owned());
        };
        let id = format!("{}", 900_000 + events.len());
        events.push(json!({"id": id, "key": key, "experimentIds": []}));
        self.put(sdk_key, document, now_ms)
    }

    /// Serves nothing under `sdk_key` any more. Whether something was served.
    pub fn remove(&mut self, sdk_key: &str) -> bool {
        let removed = self.by_sdk_key.remove(sdk_key).is_some();
        self.index();
        removed
    }

    /// The document under `sdk_key`, as it is.
    #[must_use]
    pub fn document(&self, sdk_key: &str) -> Option<&Value> {
        self.by_sdk_key.get(sdk_key).map(|served| &served.document)
    }

    /// Answers a read with these conditions. `If-None-Match` goes before `If-Modified-Since` (RFC 9110 §13.2.2).
    pub fn read(
        &mut self,
        sdk_key: &str,
        if_none_match: Option<&str>,
        if_modified_since: Option<&str>,
    ) -> Answer {
        let Some(served) = self.by_sdk_key.get(sdk_key) else {
            self.reads.forbidden += 1;
            return Answer {
                status: StatusCode::FORBIDDEN,
                etag: None,
                last_modified: None,
                body: Bytes::new(),
            };
        };
        let last_modified = http_date(served.modified_ms);
        let same = match (if_none_match, if_modified_since) {
            (Some(tags), _) => {
                tags.trim() == "*"
                    || tags
                        .split(',')
                        .any(|tag| tag.trim().trim_start_matches("W/") == served.etag)
            }
            (None, Some(since)) => {
                last_modified.as_deref() == Some(since)
                    || jiff::fmt::rfc2822::parse(since).is_ok_and(|since| {
                        since.timestamp().as_second() >= served.modified_ms.div_euclid(1000)
                    })
            }
            (None, None) => false,
        };
        let answer = Answer {
            status: if same {
                StatusCode::NOT_MODIFIED
            } else {
                StatusCode::OK
            },
            etag: Some(served.etag.clone()),
            last_modified,
            body: if same {
                Bytes::new()
            } else {
                served.bytes.clone()
            },
        };
        if same {
            self.reads.not_modified += 1;
        } else {
            self.reads.full += 1;
        }
        answer
    }

    fn serve(&mut self, sdk_key: &str, document: Value, now_ms: Millis) -> Value {
        let bytes = Bytes::from(document.to_string());
        let mut hasher = siphasher::sip::SipHasher13::new();
        hasher.write(&bytes);
        let etag = format!("\"{:016x}\"", hasher.finish());
        // HTTP dates count whole seconds: two changes within one must still be told apart.
        let modified_ms = match self.by_sdk_key.get(sdk_key) {
            Some(before) => now_ms.max(before.modified_ms + 1000),
            None => now_ms,
        };
        let summary =
            json!({"sdk_key": sdk_key, "revision": document["revision"].clone(), "etag": etag});
        self.by_sdk_key.insert(
            sdk_key.to_owned(),
            Served {
                document,
                bytes,
                etag,
                modified_ms,
            },
        );
        self.index();
        summary
    }

    fn index(&mut self) {
        let mut catalog = Catalog::new();
        for served in self.by_sdk_key.values() {
            let document = &served.document;
            let (Some(account), Some(project)) = (
                document["accountId"].as_str(),
                document["projectId"].as_str(),
            ) else {
                continue;
            };
            let known = catalog
                .entry(account.to_owned())
                .or_default()
                .entry(project.to_owned())
                .or_default();
            learn(known, document);
        }
        self.catalog = Arc::new(catalog);
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn learn(known: &mut Known, document: &Value) {
    for event in list(document, "events") {
        if let (Some(id), Some(key)) = (event["id"].as_str(), event["key"].as_str()) {
            known.events.insert(id.to_owned(), key.to_owned());
        }
    }
    let grouped = list(document, "groups")
        .iter()
        .chain(list(document, "rollouts"))
        .flat_map(|holder| list(holder, "experiments"));
    let rules = list(document, "experiments")
        .iter()
        .chain(grouped)
        .chain(list(document, "holdouts"))
        .chain(list(document, "localHoldouts"));
    for rule in rules {
        for field in ["id", "layerId"] {
            if let Some(id) = rule.get(field).and_then(Value::as_str) {
                known.campaigns.insert(id.to_owned());
            }
        }
    }
}

/// Unix milliseconds as an HTTP date.
fn http_date(ms: Millis) -> Option<String> {
    let timestamp = jiff::Timestamp::from_millisecond(ms).ok()?;
    jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&timestamp)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_it_gets_304_until_it_changes() {
        let mut host = Datafiles::new(1_795_000_000_500);
        let first = host.read("demo", None, None);
        assert_eq!(first.status, StatusCode::OK);
        let (etag, modified) = (
            first.etag.expect("etag"),
            first.last_modified.expect("date"),
        );
        assert_eq!(modified, "Wed, 18 Nov 2026 11:06:40 GMT");
        assert_eq!(
            host.read("demo", Some(&etag), None).status,
            StatusCode::NOT_MODIFIED
        );
        assert_eq!(
            host.read("demo", None, Some(&modified)).status,
            StatusCode::NOT_MODIFIED
        );

        // Changed within the same second.
        host.add_event("demo", "Signup", 1_795_000_000_600)
            .expect("added");
        assert_eq!(
            host.read("demo", None, Some(&modified)).status,
            StatusCode::OK
        );
        let second = host.read("demo", Some(&etag), Some(&modified));
        assert_eq!(second.status, StatusCode::OK);
        let document: Value = serde_json::from_slice(&second.body).expect("json");
        assert_eq!(document["revision"], "8");
        assert!(
            host.catalog()["12345678"]["98765432"]
                .events
                .values()
                .any(|key| key == "Signup")
        );
        assert_eq!(
            host.read("nobody", None, None).status,
            StatusCode::FORBIDDEN
        );
    }

    #[test]
    fn a_document_of_another_shape_is_refused() {
        let mut host = Datafiles::new(0);
        let error = host
            .put("k", json!({"version": "4", "accountId": 1}), 0)
            .expect_err("refused");
        assert!(error.contains("accountId"), "{error}");
    }
}
