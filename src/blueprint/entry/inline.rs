//! An entry's fields put into the shape of its request: `=fields.x` of the request's `item` becomes what the entry gives.
//!
//! After this nobody sees that a request had a shape: there is one template per entry and request.

use std::sync::Arc;

use crate::blueprint::compile::Compiler;
use crate::blueprint::expr::Expr;
use crate::blueprint::template::{Each, Element, Fields, Member, Name, Tpl, with_exceptions};
use crate::blueprint::yaml::Span;

/// A field an entry gives to the shape of its request.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) name: String,
    pub(super) tpl: Tpl,
    pub(super) line: u32,
    pub(super) span: Span,
}

impl Compiler<'_> {
    /// The shape of a request with an entry's fields put in.
    pub(super) fn inline(&mut self, shape: &Tpl, given: &[Given]) -> Tpl {
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

/// How often a shape uses a field.
pub(super) fn count_uses(shape: &Tpl, name: &str) -> usize {
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
