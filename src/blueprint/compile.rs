//! From the tree of a file to a [`Blueprint`]: every key known, every name resolved, all faults at once.
//!
//! Here is the [`Compiler`], the order in which it goes through a file, and what it says of the whole at the end.
//! Each part of a file is read in a file of its own: single values in [`plain`], `config` in `config`, `values` in
//! [`values`], `tables` in [`tables`], entries in [`super::entry`], requests in [`super::wire`].

use std::collections::BTreeSet;

use super::diagnostic::{Faults, Lines};
use super::example::Example;
use super::expr::MAX_NODES;
use super::wire::RequestDef;
use super::yaml::{Key, Node, Span};
use super::{Blueprint, Field};

mod config;
mod plain;
mod tables;
mod values;

pub(crate) use plain::{find, time_of};
pub(crate) use tables::{RowsDef, TableDef};
pub(crate) use values::Named;

/// Most parts a whole blueprint may have.
const MAX_TOTAL: usize = 65_536;

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
        self.table_names = plain::keys_of(tables);
        self.value_names = plain::keys_of(top("values"));
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

    pub(crate) fn line(&self, span: &Span) -> u32 {
        self.lines.line(span.start)
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

/// Whether another request's items may go by this one: what they are is seen there.
fn spilled_to(requests: &[RequestDef], at: usize) -> bool {
    requests
        .iter()
        .any(|request| request.travel.spill == Some(at))
}
