//! `tables`: rows in the file, or where and how rows are read from. Fetching them is not done here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Compiler;
use super::plain::{find, scalar_text};
use crate::blueprint::expr::{Expr, RemoteTable, TableRef};
use crate::blueprint::resolve::{Scope, Sees};
use crate::blueprint::yaml::{Key, Node};

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

impl Compiler<'_> {
    /// Names and inline rows of tables, before values are read (values may look into them).
    pub(super) fn table_heads(&mut self, node: &Node) -> Vec<Key> {
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

    /// Where the tables that are no rows are read from, after `config` and `values`, whose names an address may use.
    pub(super) fn table_sources(&mut self, node: &Node) {
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
}
