//! `values`: short names for formulas. And a single formula or text, wherever one stands.

use super::Compiler;
use crate::blueprint::FieldKind;
use crate::blueprint::expr::{Expr, MAX_DEPTH, MAX_NODES, Root};
use crate::blueprint::function::Type;
use crate::blueprint::resolve::{Origin, Scope, Sees};
use crate::blueprint::yaml::{Kind, Node};

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

impl Compiler<'_> {
    /// Reads the formulas, in the order of the file: each may use those above it.
    pub(super) fn read_values(&mut self, node: &Node) {
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
                decision: test(&|part| matches!(part, Expr::Event(Root::Plain("decision"), _))),
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

    /// As [`Self::scalar`], of a formula only. None for anything else; says nothing of that.
    pub(crate) fn only_formula(&mut self, node: &Node, scope: Scope) -> Option<(Expr, Type)> {
        let formula = node.text().is_some_and(|text| text.starts_with('='));
        if formula {
            self.scalar(node, scope)
        } else {
            None
        }
    }
}
