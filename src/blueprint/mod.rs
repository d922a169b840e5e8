//! What an integration wants, declared: the mapping language, its checker and its engine. Pure.
//!
//! Knows events and nothing else: no I/O, no clock, no vendor, no registry. [`check`] reads a blueprint and
//! reports every fault with its place; [`Blueprint::bind`] fills in an integration's config; [`Plan::map`]
//! turns one event into the items of its requests; [`Plan::assemble`] makes a request of a batch of items;
//! [`Plan::verdict`] reads the reply.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Millis;
use crate::event::Event;
use crate::secret::Secret;

/// One remark on a blueprint, with its place (lines and columns count from 1, columns in characters).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Diagnostic {
    /// Stable short code (`yaml`, `key`, `formula`, `name`, …).
    pub code: String,
    /// Fault or hint.
    pub severity: Severity,
    /// First line.
    pub line: u32,
    /// First column.
    pub column: u32,
    /// Last line.
    pub end_line: u32,
    /// Column after the last character.
    pub end_column: u32,
    /// What is wrong, in the author's words.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// How grave a remark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The blueprint cannot be used.
    Error,
    /// It can, but look.
    Warning,
}

/// A blueprint that checked clean, not yet bound to an integration's config. Cheap to share by `Arc`.
#[derive(Debug)]
pub struct Blueprint {}

/// One field the installer asks for.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name in `config`.
    pub key: String,
    /// What may be entered.
    pub kind: FieldKind,
    /// Name for people.
    pub label: String,
    /// Where to find the value.
    pub help: Option<String>,
    /// Taken when nothing is entered.
    pub default: Option<String>,
    /// May be left out.
    pub optional: bool,
    /// Shown only on request (vendor addresses and the like); may also be given in `settings`.
    pub advanced: bool,
}

/// What a field may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldKind {
    /// Text.
    Text,
    /// Text that is never shown again.
    Secret,
    /// An address.
    Url,
    /// One of these: (label, value).
    Choice(Vec<(String, String)>),
    /// A number.
    Number,
    /// true or false.
    YesNo,
}

/// A value entered for a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigValue {
    /// Of a text, url or choice field.
    Text(String),
    /// Of a secret field.
    Secret(Secret),
    /// Of a number field.
    Number(rust_decimal::Decimal),
    /// Of a yes-no field.
    YesNo(bool),
}

/// An integration's config.
pub type Config = BTreeMap<String, ConfigValue>;

/// A field that cannot be used as entered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct FieldFault {
    /// Path of the field, e.g. `config.account_id`.
    pub field: String,
    /// Stable short code, e.g. `missing`, `unknown_field`, `wrong_type`, `not_https`.
    pub code: String,
    /// What is wrong and the way out. Never repeats a secret.
    pub message: String,
}

/// A blueprint bound to an integration's config: ready to map.
#[derive(Debug)]
pub struct Plan {}

/// A table to be read from a URL.
#[derive(Debug, Clone)]
pub struct TableSource {
    /// Name in the blueprint.
    pub name: String,
    /// Where its document is (may hold a secret: never log it).
    pub url: Secret,
    /// How often to read it.
    pub refresh: Duration,
    /// How long an item may wait for a missing key, zero = not at all.
    pub hold: Duration,
}

/// What the requests of a plan are.
#[derive(Debug, Clone)]
pub struct RequestPlan {
    /// Name in the blueprint.
    pub name: String,
    /// Items go out together.
    pub batched: bool,
    /// Most items in one request (1 when not batched).
    pub items_max: usize,
    /// Most bytes in one body.
    pub bytes_max: usize,
    /// How long the first item waits for company.
    pub wait: Duration,
}

/// What an event becomes.
#[derive(Debug, Clone)]
pub enum Mapping {
    /// It goes nowhere: `unmapped`, `dropped` or `filtered`.
    Skipped(&'static str),
    /// One part per request the entry names.
    Parts(Vec<Part>),
}

/// One request's share of an event.
#[derive(Debug, Clone)]
pub struct Part {
    /// Index into [`Plan::requests`].
    pub request: usize,
    /// What became of it.
    pub result: PartResult,
    /// Fields left out, and why.
    pub notes: Vec<Note>,
}

/// What became of a part.
#[derive(Debug, Clone)]
pub enum PartResult {
    /// An item, as JSON bytes. `group` is the value of `batch.by`: items of different groups never share a request.
    Item { json: Vec<u8>, group: u64 },
    /// Not sent. `reason` comes from a small closed set per blueprint (`entity_id is missing`): a metric label.
    Skipped { reason: String },
    /// Not to be sent as it is: refused with a reason (`limits … over: reject`, a 16-digit amount). Dead letter.
    Refused { reason: String, detail: String },
    /// A remote table lacks a key that is required: wait for the table, then give up with this sentence.
    Held {
        table: String,
        key: String,
        reason: String,
        detail: String,
        hold: Duration,
    },
}

/// A field that was left out.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Note {
    /// Path in the item.
    pub field: String,
    /// Line of the blueprint.
    pub line: u32,
    /// Why.
    pub reason: String,
}

/// One request, ready to send.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name in the blueprint.
    pub name: String,
    /// HTTP method, upper case.
    pub method: String,
    /// Whole URL (may hold a secret).
    pub url: Secret,
    /// Headers (values may hold secrets).
    pub headers: Vec<(String, Secret)>,
    /// Body bytes (JSON).
    pub body: bytes::Bytes,
}

/// A reply as far as it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, already read and clamped.
    pub retry_after: Option<Duration>,
    /// The body, capped.
    pub body: &'a [u8],
}

/// How a reply is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The vendor took it.
    Delivered,
    /// Later, as it is.
    Retry {
        /// Not before.
        after: Option<Duration>,
    },
    /// The batch was refused: halve it until the culprit is alone, which is then dead.
    Bisect,
    /// These events are refused.
    Reject,
    /// Nobody's event's fault: stop the integration and keep the backlog.
    Pause {
        /// `unauthorized`, `forbidden`, `not_found`, `redirect`, `unexpected_status`.
        reason: &'static str,
    },
}

/// The remote tables of one plan, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// By name.
    pub tables: BTreeMap<String, std::sync::Arc<Table>>,
}

/// Rows read from a document. Remembers values it had before, so that an event accepted while a row was
/// there still finds it.
#[derive(Debug, Clone, Default)]
pub struct Table {}

#[expect(unused_variables, clippy::todo, missing_docs, reason = "skeleton")]
impl Table {
    /// The table's rows of a document. `name` as in [`TableSource::name`].
    pub fn read(plan: &Plan, name: &str, document: &Value) -> Result<Self, String> {
        todo!()
    }
    /// This table after a newer reading at `now_ms`: rows gone or changed stay findable for events accepted before.
    #[must_use]
    pub fn updated(&self, newer: Self, now_ms: Millis) -> Self {
        todo!()
    }
    /// The value beside `key` for an event accepted at `at_ms`.
    pub fn get(&self, key: &str, at_ms: Millis) -> Option<&Value> {
        todo!()
    }
    /// A key that differs from `key` only in case, or by a slip.
    pub fn near(&self, key: &str) -> Option<String> {
        todo!()
    }
    /// JSON to keep on disk, history included; and back.
    pub fn to_json(&self) -> Value {
        todo!()
    }
    pub fn from_json(json: &Value) -> Result<Self, String> {
        todo!()
    }
}

/// What [`check`] found.
#[derive(Debug)]
pub struct Checked {
    /// The blueprint, when there was no error.
    pub blueprint: Option<Blueprint>,
    /// All remarks, by place.
    pub diagnostics: Vec<Diagnostic>,
}

/// What one example gave.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct ExampleResult {
    /// Its name.
    pub name: String,
    /// It sent exactly what it says.
    pub passed: bool,
    /// What differs.
    pub detail: Option<String>,
}

/// A field of a request and the line that made it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct FieldTrace {
    /// Path in the item.
    pub field: String,
    /// Line of the blueprint.
    pub line: u32,
}

/// Reads and checks a blueprint, YAML or JSON, its examples included. All faults at once.
#[must_use]
#[expect(unused_variables, clippy::todo, reason = "skeleton")]
pub fn check(text: &str) -> Checked {
    todo!()
}

/// The remarks as text with the lines they are about, for terminals without colours.
#[must_use]
#[expect(unused_variables, clippy::todo, reason = "skeleton")]
pub fn render(file: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    todo!()
}

#[expect(unused_variables, clippy::todo, missing_docs, reason = "skeleton")]
impl Blueprint {
    pub fn vendor(&self) -> &str {
        todo!()
    }
    pub fn variant(&self) -> &str {
        todo!()
    }
    pub fn title(&self) -> &str {
        todo!()
    }
    pub fn about(&self) -> &str {
        todo!()
    }
    /// For the library, e.g. `Analytics`.
    pub fn category(&self) -> &str {
        todo!()
    }
    pub fn fields(&self) -> &[Field] {
        todo!()
    }
    /// Reads entered JSON values into a config: unknown, missing and wrong-typed fields all at once, under `path`.
    pub fn read_config(
        &self,
        entered: &serde_json::Map<String, Value>,
        path: &str,
    ) -> Result<Config, Vec<FieldFault>> {
        todo!()
    }
    /// Fills in the config. Faults: addresses that are not https (unless `insecure_ok(url)`), CR/LF or non-ASCII
    /// where a header or URL is made.
    pub fn bind(
        &self,
        config: &Config,
        insecure_ok: &dyn Fn(&str) -> bool,
    ) -> Result<Plan, Vec<FieldFault>> {
        todo!()
    }
    pub fn run_examples(&self) -> Vec<ExampleResult> {
        todo!()
    }
}

#[expect(unused_variables, clippy::todo, missing_docs, reason = "skeleton")]
impl Plan {
    pub fn tables(&self) -> &[TableSource] {
        todo!()
    }
    pub fn requests(&self) -> &[RequestPlan] {
        todo!()
    }
    pub fn map(&self, event: &Event, tables: &Tables) -> Mapping {
        todo!()
    }
    /// As `map`, and for every field of every item the line that made it (slow: for people).
    pub fn map_traced(&self, event: &Event, tables: &Tables) -> (Mapping, Vec<Vec<FieldTrace>>) {
        todo!()
    }
    /// Items may share a request only while this stays the same (envelope values such as the datafile's revision).
    pub fn envelope_key(&self, request: usize, tables: &Tables) -> u64 {
        todo!()
    }
    /// Bytes of the body around the items.
    pub fn envelope_bytes(&self, request: usize, tables: &Tables) -> usize {
        todo!()
    }
    /// `items` are JSON bytes made by `map`. Not batched: exactly one item.
    pub fn assemble(
        &self,
        request: usize,
        items: &[&[u8]],
        tables: &Tables,
    ) -> Result<Request, String> {
        todo!()
    }
    /// Reads a reply by the blueprint's `responses`, else by the common rules:
    /// 2xx delivered; 400, 413 bisect (reject when single); 408, 425, 429, 5xx retry; 401, 403, 404, 3xx, other pause;
    /// 422 and other 4xx named in the blueprint reject.
    pub fn verdict(&self, request: usize, reply: &Reply<'_>) -> Verdict {
        todo!()
    }
}

/// The blueprints shipped in the binary: (path such as `optimizely/default`, text).
#[must_use]
pub fn builtin() -> &'static [(&'static str, &'static str)] {
    &[]
}
