//! The management API's answers as far as pages show them. Fields not named here are passed over, so that the API may
//! grow without the console.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Listed<T> {
    pub(super) data: Vec<T>,
    pub(super) next_cursor: Option<String>,
}

impl Listed<Integration> {
    /// An integration's name; its id when it is gone.
    pub(super) fn name_of<'a>(&'a self, id: &'a str) -> &'a str {
        // Test connection in the library, before there is an integration.
        if id.starts_with("rehearsal_") {
            return "a test before install";
        }
        let known = self.data.iter().find(|one| one.id == id);
        known.map_or(id, |one| &one.name)
    }
}

impl Listed<Source> {
    /// A source's name; its id when it is gone.
    pub(super) fn name_of<'a>(&'a self, id: &'a str) -> &'a str {
        let known = self.data.iter().find(|one| one.id == id);
        known.map_or(id, |one| &one.name)
    }

    /// Each, and whether it is chosen: for forms and filters.
    pub(super) fn chosen(self, chosen: impl Fn(&str) -> bool) -> Vec<(Source, bool)> {
        self.data
            .into_iter()
            .map(|source| {
                let lit = chosen(&source.id);
                (source, lit)
            })
            .collect()
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct FieldFault {
    pub(super) field: String,
    pub(super) message: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Diagnostic {
    pub(super) code: String,
    pub(super) severity: String,
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Integration {
    pub(super) id: String,
    pub(super) vendor: String,
    pub(super) variant: String,
    pub(super) name: String,
    pub(super) sources: Option<Vec<String>>,
    pub(super) config: Map<String, Value>,
    pub(super) settings: Map<String, Value>,
    pub(super) paused: Option<Pause>,
    pub(super) blueprint_revision: u32,
    pub(super) created_at: String,
    pub(super) changed_at: String,
    pub(super) status: Status,
    pub(super) problem: Option<Trouble>,
    #[serde(default)]
    pub(super) warnings: Vec<FieldFault>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pause {}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Trouble {
    pub(super) message: String,
    #[serde(default)]
    pub(super) diagnostics: Vec<Diagnostic>,
    #[serde(default)]
    pub(super) errors: Vec<FieldFault>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) since_ms: Option<i64>,
    pub(super) until_ms: Option<i64>,
    pub(super) oldest_pending_ms: Option<i64>,
    pub(super) in_flight: usize,
    pub(super) unsettled: usize,
    pub(super) last_error: Option<String>,
    pub(super) last_error_ms: Option<i64>,
    pub(super) last_success_ms: Option<i64>,
    #[serde(default)]
    pub(super) documents: Vec<Document>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Document {
    pub(super) tables: Vec<String>,
    pub(super) revision: Option<String>,
    pub(super) confirmed_at_ms: Option<i64>,
    pub(super) fault: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct CatalogEntry {
    pub(super) vendor: String,
    pub(super) title: String,
    pub(super) about: String,
    pub(super) category: String,
    pub(super) variants: Vec<Variant>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Variant {
    pub(super) variant: String,
    pub(super) about: String,
    pub(super) fields: Vec<Field>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Field {
    pub(super) key: String,
    pub(super) label: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) required: bool,
    pub(super) help: Option<String>,
    pub(super) default: Option<String>,
    pub(super) advanced: bool,
    #[serde(default)]
    pub(super) options: Vec<Choice>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Choice {
    pub(super) label: String,
    pub(super) value: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tested {
    pub(super) trials: Vec<Trial>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Trial {
    pub(super) request: String,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) status: Option<u16>,
    pub(super) answer: String,
    pub(super) verdict: String,
    pub(super) took_ms: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Books {
    pub(super) balanced: bool,
    pub(super) data: Vec<BooksRow>,
    pub(super) next_cursor: Option<String>,
}

/// What a row of the ledger by experiment is of.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct BooksPart {
    pub(super) kind: String,
    pub(super) flag: Option<String>,
    pub(super) experiment: Option<String>,
    #[serde(default)]
    pub(super) also: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct BooksRow {
    pub(super) integration: String,
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) of: Option<BooksPart>,
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) skipped: u64,
    pub(super) skipped_reasons: BTreeMap<String, u64>,
    pub(super) deduplicated: u64,
    pub(super) dead: u64,
    pub(super) dead_reasons: BTreeMap<String, u64>,
    pub(super) pending: u64,
    pub(super) balanced: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Attempt {
    pub(super) id: String,
    pub(super) integration: String,
    pub(super) request: String,
    pub(super) at: String,
    pub(super) took_ms: u64,
    pub(super) attempt: u32,
    pub(super) trigger: String,
    pub(super) events: u64,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) request_body: Option<Value>,
    pub(super) request_bytes: u64,
    pub(super) status: Option<u16>,
    pub(super) response_body: Option<Value>,
    pub(super) verdict: String,
    pub(super) error: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Story {
    pub(super) message_id: String,
    pub(super) events: Vec<StoryEvent>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StoryEvent {
    pub(super) seq: String,
    pub(super) accepted_at: String,
    pub(super) event_id: String,
    pub(super) event: Value,
    pub(super) integrations: Vec<Chapter>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Chapter {
    pub(super) integration: String,
    pub(super) name: String,
    pub(super) outcome: String,
    pub(super) reason: Option<String>,
    pub(super) detail: String,
    pub(super) mapping: Option<Mapped>,
    pub(super) attempts: Vec<OwnAttempt>,
}

#[derive(Debug, Deserialize)]
pub(super) struct OwnAttempt {
    pub(super) item: Option<Value>,
    pub(super) attempt: Attempt,
}

#[derive(Debug, Deserialize)]
pub(super) struct Mapped {
    #[serde(default)]
    pub(super) skipped: Option<String>,
    #[serde(default)]
    pub(super) requests: Vec<Part>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Part {
    pub(super) request: String,
    pub(super) result: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) detail: Option<String>,
    #[serde(default)]
    pub(super) item: Option<Value>,
    #[serde(default)]
    pub(super) sent_as: Option<SentAs>,
    #[serde(default)]
    pub(super) made_by: Vec<MadeBy>,
    #[serde(default)]
    pub(super) notes: Vec<LeftOut>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SentAs {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Map<String, Value>,
    pub(super) body: Value,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct MadeBy {
    pub(super) field: String,
    pub(super) line: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct LeftOut {
    #[serde(default)]
    pub(super) field: String,
    #[serde(default)]
    pub(super) line: u32,
    #[serde(default)]
    pub(super) reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Accepted {
    pub(super) seq: String,
    pub(super) accepted_at: String,
    pub(super) message_id: String,
    pub(super) source: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) name: Option<String>,
    pub(super) user_id: Option<String>,
    pub(super) anonymous_id: Option<String>,
    pub(super) event: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct DeadLetter {
    pub(super) id: String,
    pub(super) message_id: Option<String>,
    pub(super) at: String,
    pub(super) detail: String,
    pub(super) attempts: u32,
    pub(super) status: Option<u16>,
    pub(super) answer: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Replay {
    pub(super) id: Option<String>,
    pub(super) matched: u64,
    pub(super) waiting: u64,
    pub(super) cancelled: u64,
    pub(super) state: String,
    pub(super) filter: Option<Value>,
    pub(super) started_at: Option<String>,
}

/// Something that is or was wrong.
#[derive(Debug, Deserialize)]
pub(super) struct Alert {
    pub(super) rule: String,
    pub(super) integration: Option<String>,
    pub(super) source: Option<String>,
    pub(super) state: String,
    pub(super) summary: String,
    pub(super) since: String,
    pub(super) resolved_at: Option<String>,
    pub(super) sent: Vec<SentNotice>,
}

/// A message to an endpoint.
#[derive(Debug, Deserialize)]
pub(super) struct SentNotice {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) attempts: u32,
    pub(super) last_error: Option<String>,
    pub(super) created_at: String,
    pub(super) ended_at: Option<String>,
}

/// Somebody who is told of alerts.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct AlertEndpoint {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) rules: crate::registry::alerts::Rules,
    pub(super) integrations: Option<Vec<String>>,
    pub(super) resolved: bool,
    pub(super) repeat_h: u32,
    pub(super) resolve_after_s: u32,
    pub(super) state: String,
    pub(super) last_error: Option<String>,
    pub(super) last_sent_at: Option<String>,
    pub(super) retry_at: Option<String>,
    pub(super) waiting: u64,
    pub(super) secret_hint: String,
    pub(super) old_secret_until: Option<String>,
    #[serde(default)]
    pub(super) secret: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rejected {
    pub(super) at: String,
    pub(super) source: String,
    pub(super) index: u32,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) event: Value,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Source {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) rate: Option<u32>,
    pub(super) key_rate: Option<u32>,
    pub(super) allowed_origins: Option<Vec<String>>,
    pub(super) allowed_events: Option<Vec<String>>,
    pub(super) allowed_types: Option<Vec<String>>,
    pub(super) last_event_at: Option<String>,
    pub(super) created_at: String,
    pub(super) keys: Vec<Key>,
    #[serde(default)]
    pub(super) write_key: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) prefix: String,
    pub(super) label: String,
    pub(super) created_at: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) live: bool,
    pub(super) from_setting: bool,
    pub(super) created_at: String,
    pub(super) expires_at: Option<String>,
    pub(super) revoked_at: Option<String>,
    #[serde(default)]
    pub(super) token: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Deed {
    pub(super) at: String,
    pub(super) actor: String,
    pub(super) role: String,
    pub(super) action: String,
    pub(super) object: String,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
    pub(super) result: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Verified {
    pub(super) intact: bool,
    pub(super) rows: u64,
    pub(super) fault: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Revision {
    pub(super) revision: u32,
    #[serde(default)]
    pub(super) text: Option<String>,
    pub(super) author: String,
    pub(super) note: String,
    pub(super) created_at: String,
    pub(super) in_use: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct BlueprintTested {
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) examples: Vec<Example>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Example {
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) detail: Option<String>,
}
