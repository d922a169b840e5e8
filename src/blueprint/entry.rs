//! What each event becomes: entries, their templates, and putting them into the shape of their request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::compile::{Compiler, find};
use super::expr::Expr;
use super::formula;
use super::function::Type;
use super::resolve::{Origin, Scope, Sees};
use super::template::{Each, Element, Fields, Member, Name, Tpl};
use super::yaml::{Key, Kind, Node, Span};
use crate::event::Kind as Call;

/// All entries.
#[derive(Debug, Default, Clone)]
pub(crate) struct Entries {
    pub(crate) track: HashMap<String, Entry>,
    pub(crate) any_other: Option<Entry>,
    pub(crate) calls: BTreeMap<Call, Entry>,
}

/// What one kind of event becomes.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// `drop`.
    Drop,
    Send {
        when: Vec<Expr>,
        /// Reasons not to send, each with the condition it holds under; the first that holds is given.
        skips: Vec<(String, Expr)>,
        sends: Vec<Send>,
    },
}

/// One request an event is sent as.
#[derive(Debug, Clone)]
pub(crate) struct Send {
    pub(crate) request: usize,
    pub(crate) item: Tpl,
    pub(crate) line: u32,
}

impl Entries {
    pub(crate) fn is_empty(&self) -> bool {
        self.track.is_empty() && self.any_other.is_none() && self.calls.is_empty()
    }

    /// These entries with every formula replaced.
    pub(crate) fn map(&self, f: &mut dyn FnMut(&Expr) -> Expr) -> Self {
        Self {
            track: self
                .track
                .iter()
                .map(|(name, entry)| (name.clone(), entry.map(f)))
                .collect(),
            any_other: self.any_other.as_ref().map(|entry| entry.map(f)),
            calls: self
                .calls
                .iter()
                .map(|(call, entry)| (*call, entry.map(f)))
                .collect(),
        }
    }
}

impl Entry {
    fn map(&self, f: &mut dyn FnMut(&Expr) -> Expr) -> Self {
        match self {
            Self::Drop => Self::Drop,
            Self::Send { when, skips, sends } => Self::Send {
                when: when.iter().map(&mut *f).collect(),
                skips: skips
                    .iter()
                    .map(|(reason, test)| (reason.clone(), f(test)))
                    .collect(),
                sends: sends
                    .iter()
                    .map(|send| Send {
                        request: send.request,
                        item: send.item.map(f),
                        line: send.line,
                    })
                    .collect(),
            },
        }
    }
}

/// A field an entry gives to the shape of its request.
#[derive(Debug)]
struct Given {
    name: String,
    tpl: Tpl,
    line: u32,
    span: Span,
}

const CALLS: &[(&str, Call, &str)] = &[
    ("identify", Call::Identify, "an identify call"),
    ("page", Call::Page, "a page call"),
    ("screen", Call::Screen, "a screen call"),
    ("group", Call::Group, "a group call"),
    ("decision", Call::Decision, "a decision"),
];

/// The entry that takes all events without one of their own.
const ANY_OTHER: &str = "any other event";

impl Compiler<'_> {
    pub(crate) fn entries(&mut self, members: &[(Key, Node)]) -> Entries {
        let mut entries = Entries::default();
        if let Some(node) = find(members, "track") {
            for (key, node) in self.group_of(node, "`track`") {
                let entry = self.entry(node, Sees::Call("a track event"));
                if key.text == ANY_OTHER {
                    entries.any_other = Some(entry);
                } else {
                    entries.track.insert(key.text.clone(), entry);
                }
            }
        }
        for (name, call, words) in CALLS {
            if let Some(node) = find(members, name) {
                let sees = if *call == Call::Decision {
                    Sees::Decision
                } else {
                    Sees::Call(words)
                };
                let entry = self.entry(node, sees);
                entries.calls.insert(*call, entry);
            }
        }
        entries
    }

    fn entry(&mut self, node: &Node, sees: Sees) -> Entry {
        if node.text() == Some("drop") {
            return Entry::Drop;
        }
        let Kind::Group(members) = &node.kind else {
            self.faults.push(
                "shape",
                node.span.clone(),
                format!(
                    "an entry is a group, one key per request, and this is {}",
                    node.is_a()
                ),
                Some("or write `drop` to send nothing".to_owned()),
            );
            return Entry::Drop;
        };
        let scope = Scope::event(sees);
        let mut when = Vec::new();
        let mut skips = Vec::new();
        let mut sends = Vec::new();
        for (key, node) in members {
            if key.text == "when" {
                when = self.conditions(node, scope);
                continue;
            }
            if key.text == "skip" {
                skips = self.skips(node, scope);
                continue;
            }
            let found = self
                .requests
                .iter()
                .position(|request| request.name == key.text);
            let Some(request) = found else {
                let known: Vec<String> = self
                    .requests
                    .iter()
                    .map(|request| request.name.clone())
                    .chain(["when".to_owned(), "skip".to_owned()])
                    .collect();
                self.unknown_key(key, known.iter().map(String::as_str), "`requests`");
                continue;
            };
            self.requests_used.insert(request);
            if let Some(item) = self.item(request, key, node, scope) {
                sends.push(Send {
                    request,
                    item,
                    line: self.line(&key.span),
                });
            }
        }
        if sends.is_empty()
            && !members
                .iter()
                .any(|(key, _)| !matches!(&*key.text, "when" | "skip"))
        {
            self.faults.push(
                "missing",
                node.span.start..node.span.start,
                "this entry sends nothing".to_owned(),
                Some("name one of the `requests`, or write `drop`".to_owned()),
            );
        }
        Entry::Send { when, skips, sends }
    }

    /// Named reasons not to send, each with its condition.
    fn skips(&mut self, node: &Node, scope: Scope) -> Vec<(String, Expr)> {
        let mut skips = Vec::new();
        for (key, node) in self.group_of(node, "`skip`") {
            let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
            if key.text.is_empty() || key.text.len() > 40 || !key.text.bytes().all(plain) {
                self.faults.push(
                    "key",
                    key.span.clone(),
                    "a reason is a word of small letters, digits and `_`, at most 40".to_owned(),
                    Some("for example `sent_before`: it is a label of metrics".to_owned()),
                );
                continue;
            }
            if let Some(test) = self.condition(node, scope) {
                skips.push((key.text.clone(), test));
            }
        }
        skips
    }

    /// A formula that is true or false, or a list of them.
    pub(crate) fn conditions(&mut self, node: &Node, scope: Scope) -> Vec<Expr> {
        let nodes = node.list().unwrap_or(std::slice::from_ref(node));
        nodes
            .iter()
            .filter_map(|node| self.condition(node, scope))
            .collect()
    }

    pub(crate) fn condition(&mut self, node: &Node, scope: Scope) -> Option<Expr> {
        let before = self.faults.count();
        let formula = node.text().is_some_and(|text| text.starts_with('='));
        let found = if formula {
            self.scalar(node, scope)
        } else {
            None
        };
        match found {
            Some((expr, Type::YesNo | Type::Any)) => {
                self.weigh(expr.size(), &node.span);
                Some(expr)
            }
            Some((_, kind)) => {
                self.faults.push(
                    "type",
                    node.span.clone(),
                    format!("a condition is true or false, and this is {}", kind.words()),
                    Some("write present(…) or is(…)".to_owned()),
                );
                None
            }
            None => {
                if self.faults.count() == before {
                    self.faults.push(
                        "shape",
                        node.span.clone(),
                        "a condition is a formula, or a list of formulas".to_owned(),
                        Some("for example =present(userId)".to_owned()),
                    );
                }
                None
            }
        }
    }

    fn item(&mut self, request: usize, key: &Key, node: &Node, scope: Scope) -> Option<Tpl> {
        if node.group().is_none() {
            self.shape(
                node,
                format!(
                    "`{}` is a group of fields, and this is {}",
                    key.text,
                    node.is_a()
                ),
            );
            return None;
        }
        let shape = self.requests[request].shape.clone();
        let Some(shape) = shape else {
            let tpl = self.template(node, scope);
            return self.weigh(tpl.size(), &key.span).then_some(tpl);
        };
        let known = self.requests[request].shape_fields.clone();
        let mut given = Vec::new();
        for (field, node) in node.group().unwrap_or(&[]) {
            if field.text == "..." || formula::has_holes(&field.text) {
                self.faults.error(
                    "shape",
                    field.span.clone(),
                    format!("the fields of `{}` are named by its `item`: they cannot be copied or made here", key.text),
                );
                continue;
            }
            if !known.contains(&field.text) {
                let help =
                    super::diagnostic::did_you_mean(&field.text, known.iter().map(String::as_str))
                        .or_else(|| {
                            let known: Vec<&str> = known.iter().map(String::as_str).collect();
                            Some(format!("it uses: {}", known.join(", ")))
                        });
                self.faults.push(
                    "key",
                    field.span.clone(),
                    format!("`{}` does not use a field `{}`", key.text, field.text),
                    help,
                );
            }
            given.push(Given {
                name: field.text.clone(),
                tpl: self.template(node, scope),
                line: self.line(&field.span),
                span: field.span.clone(),
            });
        }
        let mut nodes = shape.size();
        for field in &given {
            let uses = count_uses(&shape, &field.name);
            nodes = nodes.saturating_add(field.tpl.size().saturating_mul(uses));
        }
        if !self.weigh(nodes, &key.span) {
            return None;
        }
        Some(self.inline(&shape, &given))
    }

    /// What is written in the file as what is sent.
    pub(crate) fn template(&mut self, node: &Node, scope: Scope) -> Tpl {
        match &node.kind {
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => Tpl::constant(&node.to_json()),
            Kind::Text(text) => {
                if let Some(batched) = scope.items
                    && let Some(tpl) = self.placed_items(&text.value, batched, node)
                {
                    return tpl;
                }
                if !text.value.starts_with('=') && !formula::has_holes(&text.value) {
                    return Tpl::constant(&node.to_json());
                }
                match self.scalar(node, scope) {
                    Some((Expr::Entry(name), _)) => Tpl::Entry(name),
                    Some((expr, _)) => Tpl::Value(expr),
                    None => Tpl::Nothing,
                }
            }
            Kind::List(items) => Tpl::List(
                items
                    .iter()
                    .map(|item| Element {
                        tpl: self.template(item, scope),
                        line: self.line(&item.span),
                    })
                    .collect(),
            ),
            Kind::Group(members) if find(members, "each").is_some() => {
                self.each(node, members, scope)
            }
            Kind::Group(members) => self.group_template(members, scope),
        }
    }

    fn placed_items(&mut self, text: &str, batched: bool, node: &Node) -> Option<Tpl> {
        match (text, batched) {
            ("=items", true) => Some(Tpl::Items),
            ("=item", false) => Some(Tpl::Item),
            ("=items" | "=item", _) => {
                let (right, why) = if batched {
                    ("=items", "this request has a `batch`")
                } else {
                    ("=item", "this request has no `batch`")
                };
                self.faults.push(
                    "body",
                    node.span.clone(),
                    format!("{why}: its body holds `{right}`"),
                    None,
                );
                Some(Tpl::Nothing)
            }
            _ => None,
        }
    }

    fn each(&mut self, node: &Node, members: &[(Key, Node)], scope: Scope) -> Tpl {
        self.known_keys(members, &["each", "row", "fields"], "an `each`");
        if scope.row {
            self.faults.error(
                "each",
                node.span.clone(),
                "an `each` cannot stand inside another".to_owned(),
            );
            return Tpl::Nothing;
        }
        let over = find(members, "each").and_then(|over| {
            if over.text().is_some_and(|text| text.starts_with('=')) {
                self.scalar(over, scope)
            } else {
                self.faults.push(
                    "each",
                    over.span.clone(),
                    "`each` is a formula for a list or a group".to_owned(),
                    Some("for example each: =properties.products".to_owned()),
                );
                None
            }
        });
        let inside = Scope { row: true, ..scope };
        let row = match (find(members, "row"), find(members, "fields")) {
            (Some(row), None) => row,
            (None, Some(fields)) => {
                let given = self.group_of(fields, "`fields`");
                let Tpl::Group(members) = self.group_template(given, inside) else {
                    return Tpl::Nothing;
                };
                if let Some(Member::Spread { span, .. }) = members
                    .iter()
                    .find(|member| matches!(member, Member::Spread { .. }))
                {
                    self.faults.error(
                        "spread",
                        span.clone(),
                        "`fields` names each field it makes: nothing can be copied here".to_owned(),
                    );
                }
                return match over {
                    Some((over, _)) => Tpl::Fields(Box::new(Fields {
                        over,
                        members,
                        line: self.line(&fields.span),
                    })),
                    None => Tpl::Nothing,
                };
            }
            _ => {
                self.faults.push(
                    "missing",
                    node.span.clone(),
                    "an `each` needs a `row`, or `fields`".to_owned(),
                    Some(
                        "row: what each thing becomes in a list; fields: the fields it gives to a group"
                            .to_owned(),
                    ),
                );
                return Tpl::Nothing;
            }
        };
        let row_tpl = self.template(row, inside);
        match over {
            Some((over, _)) => Tpl::Each(Box::new(Each {
                over,
                row: row_tpl,
                line: self.line(&row.span),
            })),
            None => Tpl::Nothing,
        }
    }

    fn group_template(&mut self, members: &[(Key, Node)], scope: Scope) -> Tpl {
        let mut found = Vec::with_capacity(members.len());
        for (key, node) in members {
            let line = self.line(&key.span);
            let span = key.span.clone();
            if key.text == "..." {
                if let Some(from) = self.spread(node, scope) {
                    found.push(Member::Spread {
                        from,
                        line,
                        span,
                        except: Arc::new([]),
                    });
                }
                continue;
            }
            let name = if formula::has_holes(&key.text) || key.text.starts_with('=') {
                let origin = Origin::of_key(&key.span, self.source, &key.text);
                let made = if key.text.starts_with('=') {
                    self.formula(&key.text, &origin, scope)
                        .map(|(expr, _)| expr)
                } else {
                    self.pieces(&key.text, &origin, scope)
                };
                match made {
                    Some(Expr::Text(text)) => Name::Plain(text),
                    Some(expr) => Name::Made(expr),
                    None => continue,
                }
            } else {
                Name::Plain(key.text.as_str().into())
            };
            let tpl = self.template(node, scope);
            found.push(Member::Field {
                key: name,
                tpl,
                line,
                span,
            });
        }
        Tpl::Group(with_exceptions(found))
    }

    fn spread(&mut self, node: &Node, scope: Scope) -> Option<Tpl> {
        let before = self.faults.count();
        if let Kind::Group(members) = &node.kind
            && find(members, "fields").is_some()
        {
            return Some(self.each(node, members, scope));
        }
        let formula = node.text().is_some_and(|text| text.starts_with('='));
        let found = if formula {
            self.scalar(node, scope)
        } else {
            None
        };
        match found {
            Some((Expr::Entry(name), _)) => Some(Tpl::Entry(name)),
            Some((expr, Type::Group | Type::Any)) => Some(Tpl::Value(expr)),
            other => {
                if other.is_some() || self.faults.count() == before {
                    self.faults.push(
                        "spread",
                        node.span.clone(),
                        "`...` copies the fields of a group".to_owned(),
                        Some("for example ...: =scalars(properties)".to_owned()),
                    );
                }
                None
            }
        }
    }

    /// The shape of a request with an entry's fields put in.
    fn inline(&mut self, shape: &Tpl, given: &[Given]) -> Tpl {
        let field = |name: &str| given.iter().find(|field| field.name == name);
        match shape {
            Tpl::Entry(name) => field(name).map_or(Tpl::Nothing, |field| field.tpl.clone()),
            Tpl::Value(expr) => match self.inline_expr(expr, given) {
                Expr::Missing => Tpl::Nothing,
                expr => Tpl::Value(expr),
            },
            Tpl::List(items) => Tpl::List(
                items
                    .iter()
                    .map(|item| Element {
                        tpl: self.inline(&item.tpl, given),
                        line: item.line,
                    })
                    .collect(),
            ),
            Tpl::Each(each) => Tpl::Each(Box::new(Each {
                over: self.inline_expr(&each.over, given),
                row: self.inline(&each.row, given),
                line: each.line,
            })),
            Tpl::Group(members) => Tpl::Group(self.inline_members(members, given)),
            Tpl::Fields(fields) => Tpl::Fields(Box::new(Fields {
                over: self.inline_expr(&fields.over, given),
                members: self.inline_members(&fields.members, given),
                line: fields.line,
            })),
            same => same.clone(),
        }
    }

    fn inline_members(&mut self, members: &[Member], given: &[Given]) -> Vec<Member> {
        let mut found = Vec::with_capacity(members.len());
        for member in members {
            self.inline_member(member, given, &mut found);
        }
        with_exceptions(found)
    }

    fn inline_member(&mut self, member: &Member, given: &[Given], found: &mut Vec<Member>) {
        match member {
            Member::Field {
                key,
                tpl,
                line,
                span,
            } => {
                let key = match key {
                    Name::Made(expr) => Name::Made(self.inline_expr(expr, given)),
                    plain => plain.clone(),
                };
                // The line that made a field is the entry's, when the field is the entry's.
                let line = match tpl {
                    Tpl::Entry(name) => given
                        .iter()
                        .find(|field| field.name == **name)
                        .map_or(*line, |field| field.line),
                    _ => *line,
                };
                found.push(Member::Field {
                    key,
                    tpl: self.inline(tpl, given),
                    line,
                    span: span.clone(),
                });
            }
            Member::Spread {
                from: Tpl::Entry(name),
                ..
            } => {
                let Some(field) = given.iter().find(|field| field.name == **name) else {
                    return;
                };
                match &field.tpl {
                    Tpl::Group(members) => found.extend(members.iter().cloned()),
                    from @ (Tpl::Value(_) | Tpl::Fields(_)) => found.push(Member::Spread {
                        from: from.clone(),
                        line: field.line,
                        span: field.span.clone(),
                        except: Arc::new([]),
                    }),
                    Tpl::Nothing => {}
                    _ => self.faults.error(
                        "spread",
                        field.span.clone(),
                        format!(
                            "`{}` must be a group: its fields are copied into another",
                            field.name
                        ),
                    ),
                }
            }
            Member::Spread {
                from,
                line,
                span,
                except,
            } => found.push(Member::Spread {
                from: self.inline(from, given),
                line: *line,
                span: span.clone(),
                except: Arc::clone(except),
            }),
        }
    }

    fn inline_expr(&mut self, expr: &Expr, given: &[Given]) -> Expr {
        let mut wrong: Vec<(Span, String)> = Vec::new();
        let inlined = expr.replace(&mut |part| {
            let Expr::Entry(name) = part else { return None };
            let Some(field) = given.iter().find(|field| field.name == **name) else {
                return Some(Expr::Missing);
            };
            Some(match &field.tpl {
                Tpl::Value(expr) => expr.clone(),
                Tpl::Raw(json) => constant(json),
                Tpl::Nothing => Expr::Missing,
                _ => {
                    wrong.push((field.span.clone(), field.name.clone()));
                    Expr::Missing
                }
            })
        });
        for (span, name) in wrong {
            self.faults.error(
                "type",
                span,
                format!("`{name}` must be a single value here: its request uses it in a formula"),
            );
        }
        inlined
    }
}

fn constant(json: &[u8]) -> Expr {
    match serde_json::from_slice::<serde_json::Value>(json) {
        Ok(serde_json::Value::String(text)) => Expr::Text(text.into()),
        Ok(serde_json::Value::Number(number)) => Expr::Number(number.as_str().into()),
        Ok(serde_json::Value::Bool(yes)) => Expr::YesNo(yes),
        _ => Expr::Missing,
    }
}

/// Written names win over copied ones, and the first of two.
fn with_exceptions(members: Vec<Member>) -> Vec<Member> {
    let mut names: Vec<Box<str>> = Vec::new();
    let mut kept: Vec<Member> = Vec::with_capacity(members.len());
    for member in members {
        if let Member::Field {
            key: Name::Plain(name),
            ..
        } = &member
        {
            if names.iter().any(|known| **known == **name) {
                continue;
            }
            names.push(name.as_ref().into());
        }
        kept.push(member);
    }
    let names: Arc<[Box<str>]> = names.into();
    for member in &mut kept {
        if let Member::Spread { except, .. } = member {
            *except = Arc::clone(&names);
        }
    }
    kept
}

/// How often a shape uses a field.
fn count_uses(shape: &Tpl, name: &str) -> usize {
    let mut uses = 0;
    let in_expr = |expr: &Expr| {
        let mut uses = 0;
        expr.walk(&mut |part| {
            uses += usize::from(matches!(part, Expr::Entry(entry) if **entry == *name));
        });
        uses
    };
    shape.walk(&mut |expr| uses += in_expr(expr));
    uses + count_entries(shape, name)
}

fn count_entries(tpl: &Tpl, name: &str) -> usize {
    match tpl {
        Tpl::Entry(entry) => usize::from(**entry == *name),
        Tpl::Group(members) => count_in_members(members, name),
        Tpl::Fields(fields) => count_in_members(&fields.members, name),
        Tpl::List(items) => items
            .iter()
            .map(|item| count_entries(&item.tpl, name))
            .sum(),
        Tpl::Each(each) => count_entries(&each.row, name),
        _ => 0,
    }
}

fn count_in_members(members: &[Member], name: &str) -> usize {
    members
        .iter()
        .map(|member| match member {
            Member::Field { tpl, .. } => count_entries(tpl, name),
            Member::Spread { from, .. } => count_entries(from, name),
        })
        .sum()
}
