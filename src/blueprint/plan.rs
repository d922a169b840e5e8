//! A blueprint bound to a config, and one event through it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use super::compile::RowsDef;
use super::entry::{Entries, Entry, Send};
use super::eval::{Scene, eval};
use super::expr::{Expr, simplify};
use super::limit::{Below, Limits};
use super::table::Table;
use super::template::{Member, Name, Path, Stop, Tpl, Writer, head};
use super::wire::{OnceDef, RequestDef, header_text};
use super::{
    Blueprint, Config, ConfigValue, FieldFault, FieldKind, FieldTrace, Mapping, Part, PartResult,
    Tables,
};
use crate::event::{Event, Kind};
use crate::secret::Secret;

/// A blueprint bound to an integration's config: ready to map.
#[derive(Debug)]
pub struct Plan {
    entries: Entries,
    requests: Vec<RequestPlan>,
    pub(super) wires: Vec<Wire>,
    sources: Vec<TableSource>,
    rows: Vec<Option<RowsDef>>,
}

/// A request as it is made.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) def: RequestDef,
    /// What the parts around the items read from tables: these decide which items may go together.
    pub(super) lookups: Vec<Expr>,
}

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
    /// Send only what changed.
    pub once: Option<OncePlan>,
    /// Name of the reader of replies with partial success, in the vendor's folder.
    pub replies: Option<String>,
}

/// `once`: an item goes out only when its value differs from the last one with the same key, or that one is
/// older than `lasts`.
#[derive(Debug, Clone)]
pub struct OncePlan {
    def: Arc<OnceDef>,
    /// How long a value stays known.
    pub lasts: Duration,
}

/// What an event is remembered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnceMark {
    /// Whose value it is.
    pub key: String,
    /// The value; without one, the key alone decides.
    pub value: Option<String>,
}

impl OncePlan {
    /// What `event` is remembered by; None when it has no key, and is always sent then.
    #[must_use]
    pub fn mark(&self, event: &Event, tables: &Tables) -> Option<OnceMark> {
        let scene = Scene::of_event(event, tables);
        let text = |expr: &Expr| eval(expr, scene.cx()).text().map(|text| text.into_owned());
        Some(OnceMark {
            key: text(&self.def.key)?,
            value: self.def.value.as_ref().and_then(text),
        })
    }
}

impl Blueprint {
    /// Fills in the config.
    ///
    /// # Errors
    /// Fields that are missing, unknown or of another kind; addresses that are not https (unless
    /// `insecure_ok(url)`); line breaks and non-ASCII where a header or URL is made.
    pub fn bind(
        &self,
        config: &Config,
        insecure_ok: &dyn Fn(&str) -> bool,
    ) -> Result<Plan, Vec<FieldFault>> {
        let faults = self.config_faults(config, insecure_ok);
        if !faults.is_empty() {
            return Err(faults);
        }
        let binder = Binder {
            blueprint: self,
            config,
        };
        let wires: Vec<Wire> = self.requests.iter().map(|def| binder.wire(def)).collect();
        let requests = wires.iter().map(|wire| request_plan(&wire.def)).collect();
        let mut sources = Vec::new();
        let mut rows = Vec::new();
        for table in &self.tables {
            let (Some(remote), super::expr::TableRef::Remote(about)) =
                (&table.remote, &table.reference)
            else {
                continue;
            };
            let url = match binder.url(&remote.from) {
                Expr::Text(text) => text.to_string(),
                _ => {
                    return Err(vec![FieldFault {
                        field: "config".to_owned(),
                        code: "missing".to_owned(),
                        message: format!(
                            "the config does not say where `{}` is read from",
                            table.name
                        ),
                    }]);
                }
            };
            sources.push(TableSource {
                name: table.name.clone(),
                url: Secret::new(url),
                refresh: remote.refresh,
                hold: about.hold,
            });
            rows.push(remote.rows.clone());
        }
        let mut entries = self.entries.map(&mut |expr| binder.expr(expr));
        entries.freeze();
        Ok(Plan {
            entries,
            requests,
            wires,
            sources,
            rows,
        })
    }

    fn config_faults(
        &self,
        config: &Config,
        insecure_ok: &dyn Fn(&str) -> bool,
    ) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, code: &str, message: String| {
            faults.push(FieldFault {
                field: format!("config.{key}"),
                code: code.to_owned(),
                message,
            });
        };
        for key in config.keys() {
            if !self.fields.iter().any(|field| field.key == *key) {
                fault(key, "unknown_field", format!("there is no field `{key}`"));
            }
        }
        let on_wire = self.on_wire();
        for field in &self.fields {
            let value = config.get(&field.key);
            let key = field.key.as_str();
            let Some(value) = value else {
                if !field.optional && field.default.is_none() {
                    fault(key, "missing", format!("`{}` is needed", field.label));
                }
                continue;
            };
            let fits = matches!(
                (&field.kind, value),
                (FieldKind::Secret, ConfigValue::Secret(_))
                    | (
                        FieldKind::Text | FieldKind::Url | FieldKind::Choice(_),
                        ConfigValue::Text(_)
                    )
                    | (FieldKind::Number, ConfigValue::Number(_))
                    | (FieldKind::YesNo, ConfigValue::YesNo(_))
            );
            if !fits {
                fault(
                    key,
                    "wrong_type",
                    format!("`{}` is of another kind", field.label),
                );
                continue;
            }
            let text = config_text(value);
            if on_wire.contains(&field.key) && !header_text(&text) {
                fault(
                    key,
                    "not_ascii",
                    format!(
                        "`{}` is part of an address or a header: it must be one line of printable ASCII",
                        field.label
                    ),
                );
            } else if field.kind == FieldKind::Url
                && let Err((code, message)) = url_fault(&text, insecure_ok)
            {
                fault(key, code, format!("`{}` {message}", field.label));
            }
        }
        faults
    }

    /// Config fields that stand in an address or a header.
    fn on_wire(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |expr: &Expr| {
            expr.walk(&mut |part| {
                if let Expr::Config(name) = part {
                    found.push(name.to_string());
                }
            });
        };
        for request in &self.requests {
            note(&request.url);
            request.headers.iter().for_each(|(_, header)| note(header));
        }
        for remote in self.tables.iter().filter_map(|table| table.remote.as_ref()) {
            note(&remote.from);
        }
        found
    }
}

fn url_fault(
    text: &str,
    insecure_ok: &dyn Fn(&str) -> bool,
) -> Result<(), (&'static str, &'static str)> {
    let Ok(url) = url::Url::parse(text) else {
        return Err(("not_a_url", "is not an address: write https://host/path"));
    };
    if url.host_str().is_none_or(str::is_empty)
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err((
            "not_a_url",
            "must be an address with a host and without a user name",
        ));
    }
    if url.scheme() != "https" && !(url.scheme() == "http" && insecure_ok(text)) {
        return Err((
            "not_https",
            "must start with https:// (other addresses must be allowed in AQUEDUCT_EGRESS_ALLOW)",
        ));
    }
    Ok(())
}

/// A config value as text.
fn config_text(value: &ConfigValue) -> String {
    match value {
        ConfigValue::Text(text) => text.clone(),
        ConfigValue::Secret(secret) => secret.expose().to_owned(),
        ConfigValue::Number(number) => number.to_string(),
        ConfigValue::YesNo(yes) => yes.to_string(),
    }
}

fn request_plan(def: &RequestDef) -> RequestPlan {
    RequestPlan {
        name: def.name.clone(),
        batched: def.batched,
        items_max: def.items_max,
        bytes_max: def.bytes_max,
        wait: def.wait,
        once: def.once.as_ref().map(|once| OncePlan {
            def: Arc::new(once.clone()),
            lasts: once.lasts,
        }),
        replies: def.replies.clone(),
    }
}

/// Puts config values where their names stand.
struct Binder<'b> {
    blueprint: &'b Blueprint,
    config: &'b Config,
}

impl Binder<'_> {
    fn value(&self, name: &str) -> Expr {
        let field = self.blueprint.fields.iter().find(|field| field.key == name);
        match self.config.get(name) {
            Some(ConfigValue::Text(text)) if !text.is_empty() => Expr::Text(text.as_str().into()),
            Some(ConfigValue::Secret(secret)) => Expr::Text(secret.expose().into()),
            Some(ConfigValue::Number(number)) => Expr::Number(number.to_string().into()),
            Some(ConfigValue::YesNo(yes)) => Expr::YesNo(*yes),
            _ => match field.and_then(|field| Some((&field.kind, field.default.as_deref()?))) {
                Some((FieldKind::Number, text)) => Expr::Number(text.into()),
                Some((FieldKind::YesNo, text)) => Expr::YesNo(text == "true"),
                Some((_, text)) => Expr::Text(text.into()),
                None => Expr::Missing,
            },
        }
    }

    fn expr(&self, expr: &Expr) -> Expr {
        simplify(expr.replace(&mut |part| match part {
            Expr::Config(name) => Some(self.value(name)),
            _ => None,
        }))
    }

    /// As `expr`, with everything that is filled into an address percent-encoded, but for addresses and
    /// choices of the config.
    fn url(&self, expr: &Expr) -> Expr {
        let bound = match expr {
            Expr::Call(fun, args) => Expr::Call(
                *fun,
                args.iter()
                    .enumerate()
                    .map(|(at, arg)| {
                        if at == 0 && *fun == super::function::Fun::If {
                            self.expr(arg)
                        } else {
                            self.url(arg)
                        }
                    })
                    .collect(),
            ),
            Expr::Pieces(parts) => {
                let parts: Vec<Expr> = parts
                    .iter()
                    .enumerate()
                    .map(|(at, part)| self.url_part(part, parts.get(at + 1)))
                    .collect();
                Expr::Pieces(parts.into())
            }
            other => self.expr(other),
        };
        simplify(bound)
    }

    fn url_part(&self, part: &Expr, next: Option<&Expr>) -> Expr {
        let plain = |name: &str| {
            self.blueprint
                .fields
                .iter()
                .any(|f| f.key == name && matches!(f.kind, FieldKind::Url | FieldKind::Choice(_)))
        };
        match part {
            Expr::Text(_) => part.clone(),
            Expr::Config(name) if plain(name) => match (self.value(name), next) {
                (Expr::Text(base), Some(Expr::Text(next))) if next.starts_with('/') => {
                    Expr::Text(base.trim_end_matches('/').into())
                }
                (value, _) => value,
            },
            other => Expr::Encoded(Arc::new(self.expr(other))),
        }
    }

    fn wire(&self, def: &RequestDef) -> Wire {
        let mut bound = def.clone();
        bound.url = self.url(&def.url);
        for (_, header) in &mut bound.headers {
            *header = self.expr(header);
        }
        bound.body = def
            .body
            .as_ref()
            .map(|body| frozen(body.map(&mut |expr| self.expr(expr))));
        // Shapes are inlined already.
        bound.shape = None;
        bound.by = def.by.as_ref().map(|by| self.expr(by));
        bound.once = def.once.as_ref().map(|once| OnceDef {
            key: self.expr(&once.key),
            value: once.value.as_ref().map(|value| self.expr(value)),
            lasts: once.lasts,
        });
        let mut lookups = Vec::new();
        let mut note = |expr: &Expr| {
            expr.walk(&mut |part| {
                if matches!(part, Expr::Call(super::function::Fun::Lookup, _)) {
                    lookups.push(part.clone());
                }
            });
        };
        note(&bound.url);
        bound.headers.iter().for_each(|(_, header)| note(header));
        if let Some(body) = &bound.body {
            body.walk(&mut note);
        }
        Wire {
            def: bound,
            lookups,
        }
    }
}

impl Entries {
    fn freeze(&mut self) {
        let all = self
            .track
            .values_mut()
            .chain(&mut self.any_other)
            .chain(self.calls.values_mut());
        for entry in all {
            if let Entry::Send { sends, .. } = entry {
                for send in sends {
                    send.item = frozen(std::mem::replace(&mut send.item, Tpl::Nothing));
                }
            }
        }
    }
}

/// This with its constants as ready JSON.
fn frozen(tpl: Tpl) -> Tpl {
    match tpl {
        Tpl::Value(Expr::Text(text)) => Tpl::constant(&serde_json::Value::from(text.as_ref())),
        Tpl::Value(Expr::YesNo(yes)) => Tpl::constant(&yes.into()),
        Tpl::Value(Expr::Number(text)) => Tpl::Raw(text.as_bytes().into()),
        Tpl::Group(members) => Tpl::Group(
            members
                .into_iter()
                .filter_map(|member| match member {
                    Member::Field {
                        key,
                        tpl,
                        line,
                        span,
                    } => Some(Member::Field {
                        key: match key {
                            Name::Plain(name) => {
                                let head = head(&name).into();
                                Name::Ready(name, head)
                            }
                            key => key,
                        },
                        tpl: frozen(tpl),
                        line,
                        span,
                    }),
                    Member::Spread {
                        from: Tpl::Nothing, ..
                    } => None,
                    spread => Some(spread),
                })
                .collect(),
        ),
        Tpl::List(mut items) => {
            for item in &mut items {
                item.tpl = frozen(std::mem::replace(&mut item.tpl, Tpl::Nothing));
            }
            Tpl::List(items)
        }
        Tpl::Each(mut each) => {
            each.row = frozen(each.row);
            Tpl::Each(each)
        }
        same => same,
    }
}

impl Table {
    /// The table's rows of a document. `name` as in [`TableSource::name`].
    ///
    /// # Errors
    /// When the plan has no such table, or the document has not the shape it says.
    pub fn read(plan: &Plan, name: &str, document: &serde_json::Value) -> Result<Self, String> {
        let at = plan
            .sources
            .iter()
            .position(|source| source.name == name)
            .ok_or_else(|| {
                format!("the blueprint has no table `{name}` that is read from a URL")
            })?;
        Self::read_rows(plan.rows.get(at).and_then(Option::as_ref), document)
    }
}

impl Plan {
    /// The tables to be read from URLs.
    #[must_use]
    pub fn tables(&self) -> &[TableSource] {
        &self.sources
    }

    /// The requests, in the order of the file.
    #[must_use]
    pub fn requests(&self) -> &[RequestPlan] {
        &self.requests
    }

    /// What an event becomes.
    #[must_use]
    pub fn map(&self, event: &Event, tables: &Tables) -> Mapping {
        self.run(event, tables, false).0
    }

    /// As `map`, and for every field of every item the line that made it (slow: for people).
    #[must_use]
    pub fn map_traced(&self, event: &Event, tables: &Tables) -> (Mapping, Vec<Vec<FieldTrace>>) {
        self.run(event, tables, true)
    }

    fn entry(&self, event: &Event) -> Option<&Entry> {
        if event.kind != Kind::Track {
            return self.entries.calls.get(&event.kind);
        }
        event
            .field("event")
            .and_then(serde_json::Value::as_str)
            .and_then(|name| self.entries.track.get(name))
            .or(self.entries.any_other.as_ref())
    }

    fn run(&self, event: &Event, tables: &Tables, traced: bool) -> (Mapping, Vec<Vec<FieldTrace>>) {
        let (when, sends) = match self.entry(event) {
            None => return (Mapping::Skipped("unmapped"), Vec::new()),
            Some(Entry::Drop) => return (Mapping::Skipped("dropped"), Vec::new()),
            Some(Entry::Send { when, sends }) => (when, sends),
        };
        let scene = Scene::of_event(event, tables);
        if !when.iter().all(|test| eval(test, scene.cx()).is_true()) {
            return (Mapping::Skipped("filtered"), Vec::new());
        }
        scene.take_problems();
        let mut traces = Vec::new();
        let parts = sends
            .iter()
            .map(|send| {
                let (part, trace) = self.part(send, &scene, tables, traced);
                traces.extend(trace);
                part
            })
            .collect();
        (Mapping::Parts(parts), traces)
    }

    fn part(
        &self,
        send: &Send,
        scene: &Scene<'_>,
        tables: &Tables,
        traced: bool,
    ) -> (Part, Option<Vec<FieldTrace>>) {
        let mut part = Part {
            request: send.request,
            result: PartResult::Skipped {
                reason: "nothing to send".to_owned(),
            },
            notes: Vec::new(),
        };
        let Some(wire) = self.wires.get(send.request) else {
            return (part, None);
        };
        let mut writer = Writer::new();
        writer.trace = traced.then(Vec::new);
        writer.strip = wire.def.strip.as_deref();
        writer.most_bytes = wire.def.bytes_max;
        let written = self.write_item(&mut writer, send, wire, scene);
        part.notes = std::mem::take(&mut writer.notes);
        match written {
            Ok(true) => {
                part.result = PartResult::Item {
                    group: group_of(wire, scene),
                    json: std::mem::take(&mut writer.out),
                };
            }
            Ok(false) => {}
            Err(stop) => part.result = stopped(stop, tables),
        }
        scene.take_problems();
        (part, writer.trace.take())
    }

    fn write_item(
        &self,
        writer: &mut Writer<'_>,
        send: &Send,
        wire: &Wire,
        scene: &Scene<'_>,
    ) -> Result<bool, Stop> {
        let cx = scene.cx();
        let holes = &wire.def.holes;
        if !holes.is_empty() {
            writer.out.push(b'[');
        }
        let top;
        let limits = if wire.def.limits.is_empty() {
            Limits::NONE
        } else {
            top = Below::top(&wire.def.limits, scene.received_at_ms());
            top.limits()
        };
        if !writer.write(&send.item, cx, &Path::TOP, send.line, limits)? {
            return Ok(false);
        }
        if holes.is_empty() {
            return Ok(true);
        }
        for hole in holes {
            writer.out.push(b',');
            if !writer.write(
                &Tpl::Value(hole.clone()),
                cx,
                &Path::TOP.name("request"),
                send.line,
                Limits::NONE,
            )? {
                writer.out.extend_from_slice(b"null");
            }
        }
        writer.out.push(b']');
        if !super::request::has_address(&wire.def, &writer.out) {
            return Err(Stop::Missing("address".to_owned()));
        }
        Ok(true)
    }
}

fn group_of(wire: &Wire, scene: &Scene<'_>) -> u64 {
    let Some(by) = &wire.def.by else { return 0 };
    let mut hasher = DefaultHasher::new();
    eval(by, scene.cx()).text().hash(&mut hasher);
    hasher.finish()
}

fn stopped(stop: Stop, tables: &Tables) -> PartResult {
    match stop {
        Stop::Missing(field) => PartResult::Skipped {
            reason: format!("{field} is missing"),
        },
        Stop::Refuse { reason, detail } => PartResult::Refused { reason, detail },
        Stop::Hold(remote, key) => {
            let (reason, detail) = match tables.tables.get(&remote.name) {
                Some(table) => (
                    format!("unknown_{}", remote.label.replace(' ', "_")),
                    table.not_found(&remote.label, &key),
                ),
                None => (
                    "document_not_read".to_owned(),
                    format!(
                        "no {} `{key}`: the document with the table `{}` could not be read yet",
                        remote.label, remote.name
                    ),
                ),
            };
            PartResult::Held {
                table: remote.name.clone(),
                key,
                reason,
                detail,
                hold: remote.hold,
            }
        }
    }
}
