//! A template as the file has it: constants, formulas, lists, groups, `each`, and `...`.

use std::sync::Arc;

use super::{Each, Element, Fields, Member, Name, Tpl, with_exceptions};
use crate::blueprint::compile::{Compiler, find};
use crate::blueprint::expr::Expr;
use crate::blueprint::formula;
use crate::blueprint::function::Type;
use crate::blueprint::resolve::{Origin, Scope};
use crate::blueprint::yaml::{Key, Kind, Node};

impl Compiler<'_> {
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
        match self.only_formula(node, scope) {
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
}
