//! From the tree of a file to a [`Blueprint`]: every key known, every name resolved, all faults at once.
//!
//! This file does the parts around the mapping: head, config, values, tables. Entries are in
//! [`super::entry`], requests in [`super::wire`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::diagnostic::{Faults, Lines, did_you_mean};
use super::example::Example;
use super::expr::{Expr, MAX_DEPTH, MAX_NODES, RemoteTable, TableRef};
use super::function::Type;
use super::resolve::{Origin, Scope, Sees};
use super::wire::RequestDef;
use super::yaml::{self, Key, Kind, Node, Span};
use super::{Blueprint, Field, FieldKind};

/// Most parts a whole blueprint may have.
const MAX_TOTAL: usize = 65_536;

/// A short name for a formula.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// None when it is faulty: that was said already.
    pub(crate) expr: Option<(Expr, Type)>,
    pub(crate) event: bool,
    pub(crate) decision: bool,
    pub(crate) secret: bool,
    pub(crate) lookup: bool,
}

/// A table of the blueprint.
#[derive(Debug)]
pub(crate) struct TableDef {
    pub(crate) name: String,
    pub(crate) reference: TableRef,
    pub(crate) remote: Option<RemoteDef>,
}

/// Where a table is read from.
#[derive(Debug, Clone)]
pub(crate) struct RemoteDef {
    pub(crate) from: Expr,
    /// Way to the list; None: the document's own plain fields.
    pub(crate) rows: Option<RowsDef>,
    pub(crate) refresh: Duration,
}

/// What a row is read from.
#[derive(Debug, Clone)]
pub(crate) struct RowsDef {
    pub(crate) rows: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Reads a file, keeping everything that is wrong with it.
#[derive(Debug)]
pub(crate) struct Compiler<'c> {
    pub(crate) source: &'c str,
    pub(crate) faults: &'c mut Faults,
    pub(crate) lines: Lines,
    pub(crate) fields: Vec<Field>,
    pub(crate) values: Vec<Named>,
    pub(crate) value_names: Vec<String>,
    pub(crate) tables: Vec<TableDef>,
    pub(crate) table_names: Vec<String>,
    pub(crate) requests: Vec<RequestDef>,
    pub(crate) config_used: BTreeSet<String>,
    pub(crate) values_used: BTreeSet<String>,
    pub(crate) tables_used: BTreeSet<String>,
    pub(crate) requests_used: BTreeSet<usize>,
    /// `fields.x` met since this was last emptied.
    pub(crate) fields_used: BTreeSet<String>,
    /// Parts of all entries so far.
    pub(crate) nodes: usize,
}

const TOP: &[&str] = &[
    "blueprint",
    "title",
    "about",
    "category",
    "config",
    "values",
    "tables",
    "track",
    "identify",
    "page",
    "screen",
    "group",
    "decision",
    "requests",
    "examples",
];

/// Compiles a tree. None when there was an error.
pub(crate) fn compile(source: &str, root: &Node, faults: &mut Faults) -> Option<Blueprint> {
    let mut compiler = Compiler {
        source,
        faults,
        lines: Lines::of(source),
        fields: Vec::new(),
        values: Vec::new(),
        value_names: Vec::new(),
        tables: Vec::new(),
        table_names: Vec::new(),
        requests: Vec::new(),
        config_used: BTreeSet::new(),
        values_used: BTreeSet::new(),
        tables_used: BTreeSet::new(),
        requests_used: BTreeSet::new(),
        fields_used: BTreeSet::new(),
        nodes: 0,
    };
    compiler.blueprint(root)
}

impl Compiler<'_> {
    fn blueprint(&mut self, root: &Node) -> Option<Blueprint> {
        let Some(members) = root.group() else {
            self.faults.error(
                "shape",
                root.span.clone(),
                format!(
                    "a blueprint is a group of keys, and this is {}",
                    root.is_a()
                ),
            );
            return None;
        };
        self.known_keys(members, TOP, "a blueprint");
        let top = |key: &str| find(members, key);
        let whole = root.span.start..root.span.start;
        let id = self.required_text(members, "blueprint", "a blueprint", &whole);
        let (vendor, variant) = self.id(top("blueprint"), id.as_deref());
        let title = self.required_text(members, "title", "a blueprint", &whole);
        let about = self.required_text(members, "about", "a blueprint", &whole);
        let category = top("category").and_then(|node| self.plain_text(node, "category"));

        let config_keys = top("config")
            .map(|node| self.config(node))
            .unwrap_or_default();
        let tables = top("tables");
        self.table_names = keys_of(tables);
        self.value_names = keys_of(top("values"));
        let table_keys = tables
            .map(|node| self.table_heads(node))
            .unwrap_or_default();
        if let Some(node) = top("values") {
            self.read_values(node);
        }
        if let Some(node) = tables {
            self.table_sources(node);
        }
        match top("requests") {
            Some(node) => self.read_requests(node),
            None => self.faults.error(
                "missing",
                whole.clone(),
                "a blueprint needs `requests`: how its items travel".to_owned(),
            ),
        }
        let entries = self.entries(members);
        if entries.is_empty() {
            self.faults.push(
                "missing",
                whole,
                "a blueprint says what events become".to_owned(),
                Some("add `track:` (or identify, page, screen, group, decision)".to_owned()),
            );
        }
        let examples = top("examples")
            .map(|node| self.examples(node))
            .unwrap_or_default();
        if self.faults.any_error() {
            // What seems unused may be used where the error is.
            return None;
        }
        self.unused(&config_keys, &table_keys, top("values"), &examples);
        Some(Blueprint {
            vendor,
            variant,
            title: title.unwrap_or_default(),
            about: about.unwrap_or_default(),
            category: category.unwrap_or_else(|| "Other".to_owned()),
            fields: std::mem::take(&mut self.fields),
            tables: std::mem::take(&mut self.tables),
            entries,
            requests: std::mem::take(&mut self.requests),
            examples,
        })
    }

    fn id(&mut self, node: Option<&Node>, id: Option<&str>) -> (String, String) {
        let fine = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_')
                })
        };
        match id.and_then(|id| id.split_once('/')) {
            Some((vendor, variant)) if fine(vendor) && fine(variant) => {
                (vendor.to_owned(), variant.to_owned())
            }
            _ => {
                if let (Some(node), Some(_)) = (node, id) {
                    self.faults.push(
                        "shape",
                        node.span.clone(),
                        "a blueprint is named vendor/variant".to_owned(),
                        Some(
                            "for example `optimizely/default`: small letters, digits, - and _"
                                .to_owned(),
                        ),
                    );
                }
                (String::new(), String::new())
            }
        }
    }

    /// Says which keys are not known.
    pub(crate) fn known_keys(&mut self, members: &[(Key, Node)], known: &[&str], what: &str) {
        for (key, node) in members {
            if known.contains(&key.text.as_str()) {
                continue;
            }
            if node.flow && matches!(node.kind, Kind::Null) {
                self.faults.push(
                    "key",
                    key.span.clone(),
                    format!("{what} has no `{}`", key.text),
                    Some(
                        "inside { } YAML cuts a text at a comma: put the whole text in quotes"
                            .to_owned(),
                    ),
                );
            } else {
                self.unknown_key(key, known.iter().copied(), what);
            }
        }
    }

    pub(crate) fn unknown_key<'k>(
        &mut self,
        key: &Key,
        known: impl IntoIterator<Item = &'k str>,
        what: &str,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        let help = did_you_mean(&key.text, known.iter().copied()).or_else(|| {
            (!known.is_empty() && known.len() <= 20)
                .then(|| format!("it has: {}", known.join(", ")))
        });
        self.faults.push(
            "key",
            key.span.clone(),
            format!("{what} has no `{}`", key.text),
            help,
        );
    }

    pub(crate) fn shape(&mut self, node: &Node, message: impl Into<String>) {
        self.faults
            .error("shape", node.span.clone(), message.into());
    }

    /// The members of a group; says so when it is none.
    pub(crate) fn group_of<'n>(&mut self, node: &'n Node, what: &str) -> &'n [(Key, Node)] {
        match &node.kind {
            Kind::Group(members) => members,
            Kind::Null => &[],
            _ => {
                self.shape(
                    node,
                    format!("{what} is a group of keys, and this is {}", node.is_a()),
                );
                &[]
            }
        }
    }

    fn required_text(
        &mut self,
        members: &[(Key, Node)],
        key: &str,
        what: &str,
        place: &Span,
    ) -> Option<String> {
        match find(members, key) {
            Some(node) => self.plain_text(node, key),
            None => {
                self.faults
                    .error("missing", place.clone(), format!("{what} needs `{key}`"));
                None
            }
        }
    }

    /// A text for people or for names: no formula.
    pub(crate) fn plain_text(&mut self, node: &Node, key: &str) -> Option<String> {
        match &node.kind {
            Kind::Text(text) if !text.value.trim().is_empty() => Some(text.value.clone()),
            Kind::Number(number) => Some(number.clone()),
            _ => {
                self.shape(node, format!("`{key}` is a text"));
                None
            }
        }
    }

    pub(crate) fn yes_no(&mut self, node: &Node, key: &str) -> bool {
        if let Kind::Bool(yes) = node.kind {
            return yes;
        }
        self.shape(node, format!("`{key}` is true or false"));
        false
    }

    /// `5 min`, `1 s`, `500 ms`, `2 h`, `7 d`.
    pub(crate) fn duration(&mut self, node: &Node, key: &str) -> Option<Duration> {
        let found = node.text().and_then(time_of);
        if found.is_none() {
            self.faults.push(
                "shape",
                node.span.clone(),
                format!("`{key}` is a time"),
                Some("write 500 ms, 1 s, 5 min, 2 h or 7 d".to_owned()),
            );
        }
        found
    }

    /// `3 MB`, `512 KB`, `900 bytes`, or a number of bytes. 1 KB is 1,000 bytes.
    pub(crate) fn bytes(&mut self, node: &Node, key: &str) -> Option<usize> {
        let found = match &node.kind {
            Kind::Number(number) => number.parse().ok(),
            Kind::Text(text) => split_unit(&text.value).and_then(|(count, unit)| {
                let count: usize = count.parse().ok()?;
                let unit = match unit {
                    "bytes" | "B" => 1,
                    "KB" => 1_000,
                    "MB" => 1_000_000,
                    _ => return None,
                };
                count.checked_mul(unit)
            }),
            _ => None,
        }
        .filter(|bytes| *bytes > 0);
        if found.is_none() {
            self.faults.push(
                "shape",
                node.span.clone(),
                format!("`{key}` is a size"),
                Some("write 3 MB, 512 KB or a number of bytes".to_owned()),
            );
        }
        found
    }

    pub(crate) fn count(&mut self, node: &Node, key: &str) -> Option<usize> {
        let found = match &node.kind {
            Kind::Number(number) => number.parse().ok().filter(|count| *count > 0),
            _ => None,
        };
        if found.is_none() {
            self.shape(node, format!("`{key}` is a whole number above 0"));
        }
        found
    }

    pub(crate) fn line(&self, span: &Span) -> u32 {
        self.lines.line(span.start)
    }

    fn config(&mut self, node: &Node) -> Vec<Key> {
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

    fn read_values(&mut self, node: &Node) {
        for (key, node) in self.group_of(node, "`values`") {
            let before = self.faults.count();
            let mut scope = Scope::event(Sees::Any);
            scope.secret = true;
            let expr = self.scalar(node, scope).and_then(|(expr, kind)| {
                let (nodes, depth) = expr.measure();
                if nodes > MAX_NODES || depth > MAX_DEPTH {
                    self.faults.error(
                        "size",
                        node.span.clone(),
                        format!(
                            "with all it uses, `{}` has more than {MAX_NODES} parts or is deeper than {MAX_DEPTH}",
                            key.text
                        ),
                    );
                    return None;
                }
                Some((expr, kind))
            });
            if expr.is_none() && self.faults.count() == before {
                self.shape(
                    node,
                    format!(
                        "a value is one formula or text, and this is {}",
                        node.is_a()
                    ),
                );
            }
            let test = |wanted: &dyn Fn(&Expr) -> bool| {
                expr.as_ref()
                    .is_some_and(|(expr, _)| expr.any(&mut |part| wanted(part)))
            };
            let secrets: Vec<&str> = self
                .fields
                .iter()
                .filter(|field| field.kind == FieldKind::Secret)
                .map(|field| field.key.as_str())
                .collect();
            let named = Named {
                name: key.text.clone(),
                event: test(&|part| matches!(part, Expr::Event(..))),
                decision: test(&|part| {
                    matches!(part, Expr::Event(super::expr::Root::Plain("decision"), _))
                }),
                secret: test(
                    &|part| matches!(part, Expr::Config(name) if secrets.contains(&name.as_ref())),
                ),
                lookup: test(&|part| matches!(part, Expr::Table(_))),
                expr,
            };
            self.values.push(named);
        }
    }

    /// One text, number, true or false, or formula. None for anything else; says nothing of that.
    pub(crate) fn scalar(&mut self, node: &Node, scope: Scope) -> Option<(Expr, Type)> {
        match &node.kind {
            Kind::Number(number) => Some((Expr::Number(number.as_str().into()), Type::Number)),
            Kind::Bool(yes) => Some((Expr::YesNo(*yes), Type::YesNo)),
            Kind::Text(text) => {
                let origin = Origin::of(node, text);
                if text.value.starts_with('=') {
                    self.formula(&text.value, &origin, scope)
                } else {
                    Some((self.pieces(&text.value, &origin, scope)?, Type::Text))
                }
            }
            _ => None,
        }
    }

    /// Names and inline rows of tables, before values are read (values may look into them).
    fn table_heads(&mut self, node: &Node) -> Vec<Key> {
        let mut keys = Vec::new();
        for (key, node) in self.group_of(node, "`tables`") {
            keys.push(key.clone());
            let members = self.group_of(node, "a table");
            let reference = if find(members, "from").is_some() {
                let label = find(members, "label").and_then(|node| self.plain_text(node, "label"));
                let hold = find(members, "hold").and_then(|node| self.duration(node, "hold"));
                TableRef::Remote(Arc::new(RemoteTable {
                    name: key.text.clone(),
                    label: label.unwrap_or_else(|| key.text.replace('_', " ")),
                    hold: hold.unwrap_or_default(),
                }))
            } else {
                let mut rows = BTreeMap::new();
                for (key, node) in members {
                    if scalar_text(node).is_none() {
                        self.shape(node, "a table holds texts, numbers, true and false");
                    }
                    rows.insert(key.text.clone(), node.to_json());
                }
                TableRef::Inline(Arc::new(rows))
            };
            self.tables.push(TableDef {
                name: key.text.clone(),
                reference,
                remote: None,
            });
        }
        keys
    }

    fn table_sources(&mut self, node: &Node) {
        for (at, (_, node)) in self.group_of(node, "`tables`").iter().enumerate() {
            let members = node.group().unwrap_or(&[]);
            let Some(from) = find(members, "from") else {
                continue;
            };
            self.known_keys(
                members,
                &["from", "rows", "key", "value", "refresh", "hold", "label"],
                "a table read from a URL",
            );
            let mut scope = Scope::event(Sees::None);
            scope.secret = true;
            scope.tables = false;
            let expr = self.url(from, scope);
            let text = |compiler: &mut Self, key: &str| {
                find(members, key).and_then(|node| compiler.plain_text(node, key))
            };
            let (rows, key, value) = (text(self, "rows"), text(self, "key"), text(self, "value"));
            let rows = match (rows, key, value) {
                (None, None, None) => None,
                (Some(rows), Some(key), Some(value)) => Some(RowsDef { rows, key, value }),
                _ => {
                    self.faults.push(
                        "missing",
                        node.span.start..node.span.start,
                        "a table with `rows` needs `key` and `value` too".to_owned(),
                        Some(
                            "without all three, the table is the document's own plain fields"
                                .to_owned(),
                        ),
                    );
                    None
                }
            };
            let refresh = find(members, "refresh").and_then(|node| self.duration(node, "refresh"));
            if let (Some(expr), Some(table)) = (expr, self.tables.get_mut(at)) {
                table.remote = Some(RemoteDef {
                    from: expr,
                    rows,
                    refresh: refresh.unwrap_or(Duration::from_secs(300)),
                });
            }
        }
    }

    /// Counts parts; says so when an entry or the whole has too many.
    pub(crate) fn weigh(&mut self, nodes: usize, span: &Span) -> bool {
        self.nodes = self.nodes.saturating_add(nodes);
        if nodes > MAX_NODES {
            self.faults.error(
                "size",
                span.clone(),
                format!("with all it uses, this has more than {MAX_NODES} parts"),
            );
            return false;
        }
        if self.nodes > MAX_TOTAL {
            self.faults.error(
                "size",
                span.clone(),
                format!("with all it uses, the blueprint has more than {MAX_TOTAL} parts"),
            );
            return false;
        }
        true
    }

    fn unused(
        &mut self,
        config: &[Key],
        tables: &[Key],
        values: Option<&Node>,
        examples: &[Example],
    ) {
        let values: Vec<Key> = values
            .and_then(Node::group)
            .unwrap_or(&[])
            .iter()
            .map(|(key, _)| key.clone())
            .collect();
        for (keys, used, what) in [
            (config, &self.config_used, "config"),
            (tables, &self.tables_used, "tables"),
            (values.as_slice(), &self.values_used, "values"),
        ] {
            for key in keys.iter().filter(|key| !used.contains(&key.text)) {
                self.faults.warn(
                    "unused",
                    key.span.clone(),
                    format!("nothing uses `{what}.{}`", key.text),
                );
            }
        }
        for (at, request) in self.requests.iter().enumerate() {
            if !self.requests_used.contains(&at) {
                self.faults.warn(
                    "unused",
                    request.span.clone(),
                    format!("no entry is sent as `{}`", request.name),
                );
            } else if !examples.iter().any(|example| example.sends(&request.name))
                && !spilled_to(&self.requests, at)
            {
                self.faults.warn(
                    "untested",
                    request.span.clone(),
                    format!("no example sends `{}`", request.name),
                );
            }
        }
    }
}

/// The value beside a key.
pub(crate) fn find<'n>(members: &'n [(Key, Node)], key: &str) -> Option<&'n Node> {
    members
        .iter()
        .find(|(name, _)| name.text == key)
        .map(|(_, node)| node)
}

fn keys_of(node: Option<&Node>) -> Vec<String> {
    node.and_then(Node::group)
        .unwrap_or(&[])
        .iter()
        .map(|(key, _)| key.text.clone())
        .collect()
}

/// Whether another request's items may go by this one: what they are is seen there.
fn spilled_to(requests: &[RequestDef], at: usize) -> bool {
    requests
        .iter()
        .any(|request| request.travel.spill == Some(at))
}

/// A single value as text.
fn scalar_text(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Text(text) => Some(text.value.clone()),
        Kind::Number(number) => Some(number.clone()),
        Kind::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

/// `5 min`, `1 s`, `500 ms`, `2 h`, `7 d`; at most a year.
pub(crate) fn time_of(text: &str) -> Option<Duration> {
    let (count, unit) = split_unit(text)?;
    let count: u64 = count.parse().ok()?;
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count
        .checked_mul(unit)
        .filter(|ms| *ms <= 366 * 86_400_000)
        .map(Duration::from_millis)
}

fn split_unit(text: &str) -> Option<(&str, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(at);
    Some((count, unit.trim_start()))
}
