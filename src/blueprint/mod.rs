//! What an integration wants, declared: the mapping language, its checker and its engine. Pure.
//!
//! Knows events and nothing else: no I/O, no clock, no vendor, no registry. [`check`] reads a blueprint and
//! reports every fault with its place; [`Blueprint::bind`] fills in an integration's config; [`Plan::map`]
//! turns one event into the items of its requests; [`Plan::assemble`] makes a request of a batch of items;
//! [`Plan::verdict`] reads the reply.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::secret::Secret;

mod amount;
mod bind;
mod builtin;
mod compile;
mod diagnostic;
mod entry;
mod eval;
mod example;
mod expr;
mod formula;
mod function;
mod javascript;
mod limit;

mod plan;
mod rates;
mod ready;
mod request;
mod resolve;
mod responses;
mod settings;
mod sheet;
mod table;
mod template;
mod texts;
mod travel;
mod wire;
mod writer;
mod yaml;

#[cfg(test)]
mod tests;

use diagnostic::Faults;
pub use example::event_of;
pub use plan::{ItemKeys, OnceKey, OncePlan, Plan, Rate, RateOf, RequestPlan, TableSource};
pub(crate) use responses::verdict as common_verdict;
pub use sheet::Sheet;
pub use table::Table;

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
pub struct Blueprint {
    vendor: String,
    variant: String,
    title: String,
    about: String,
    category: String,
    fields: Vec<Field>,
    tables: Vec<compile::TableDef>,
    entries: entry::Entries,
    requests: Vec<wire::RequestDef>,
    examples: Vec<example::Example>,
}

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
    /// An item, as JSON bytes.
    Item {
        /// The bytes; opaque where an unbatched request uses the event around its item.
        json: Bytes,
        /// The value of `batch.by`: items of different groups never share a request.
        group: u64,
        /// What it is known by on its way.
        keys: ItemKeys,
    },
    /// Not sent.
    Skipped {
        /// From a small closed set per blueprint (`entity_id is missing`): a metric label.
        reason: String,
    },
    /// Not to be sent as it is: a limit with `over: reject`, a 16-digit amount. Dead letter.
    Refused {
        /// Stable short code, or the limit's path and name: a metric label.
        reason: String,
        /// Field, value and what is wrong.
        detail: String,
    },
    /// A remote table lacks a key that is required: wait for the table, then give up with this sentence.
    Held {
        /// Name of the table.
        table: String,
        /// The key it lacks.
        key: String,
        /// `unknown_` and what the key is (`unknown_event_key`), or `document_not_read`: a metric label.
        reason: String,
        /// Names the key and, when there is one, the near one.
        detail: String,
        /// How long to wait.
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
    /// It was too much at once: both halves go as they are; an item that is too much by itself is refused.
    Split,
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
pub fn check(text: &str) -> Checked {
    let mut faults = Faults::default();
    let blueprint = yaml::read(text, &mut faults)
        .and_then(|root| compile::compile(text, &root, &mut faults))
        .inspect(|blueprint| blueprint.check_examples(&mut faults))
        .filter(|_| !faults.any_error());
    Checked {
        blueprint,
        diagnostics: faults.finish(text),
    }
}

/// The remarks as text with the lines they are about, for terminals without colours.
#[must_use]
pub fn render(file: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    diagnostic::render(file, text, diagnostics)
}

impl Blueprint {
    /// The vendor it is for: `optimizely`.
    #[must_use]
    pub fn vendor(&self) -> &str {
        &self.vendor
    }

    /// Which of the vendor's blueprints it is: `default`.
    #[must_use]
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// Its name for people.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What it does, in a sentence.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.about
    }

    /// For the library, e.g. `Analytics`.
    #[must_use]
    pub fn category(&self) -> &str {
        &self.category
    }

    /// What the installer asks for.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// The blueprints shipped in the binary: (path such as `optimizely/default`, text).
#[must_use]
pub fn builtin() -> &'static [(&'static str, &'static str)] {
    builtin::SHIPPED
}
