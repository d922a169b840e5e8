//! What each event becomes: the entries of a file.
//!
//! What an entry gives is read in [`super::template`], and put into the shape of its request in `inline`.

use std::collections::{BTreeMap, HashMap};

use super::compile::{Compiler, find};
use super::diagnostic::did_you_mean;
use super::expr::Expr;
use super::formula;
use super::function::Type;
use super::resolve::{Scope, Sees};
use super::template::Tpl;
use super::yaml::{Key, Kind, Node};
use crate::event::Kind as Call;
use inline::{Given, count_uses};

mod inline;

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
        match self.only_formula(node, scope) {
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
                    did_you_mean(&field.text, known.iter().map(String::as_str)).or_else(|| {
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
}
