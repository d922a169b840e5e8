//! What is sent, as a tree of JSON with formulas in it. How a file writes it is in `read`.

use std::sync::Arc;

use serde_json::Value;

use super::expr::Expr;
use super::yaml::Span;

mod read;

/// A piece of what is sent.
#[derive(Debug, Clone)]
pub(crate) enum Tpl {
    /// Always the same: ready JSON.
    Raw(Arc<[u8]>),
    Group(Vec<Member>),
    /// Items; an `each` among them adds its rows.
    List(Vec<Element>),
    Each(Box<Each>),
    /// A group with the fields that rows make.
    Fields(Box<Fields>),
    Value(Expr),
    /// `=fields.x` in a request's `item`: gone after inlining.
    Entry(Arc<str>),
    /// Never sent: a field the entry does not give.
    Nothing,
    /// The items of a batch, in a body.
    Items,
    /// The item, in a body.
    Item,
}

/// An item of a list, and its line.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    pub(crate) tpl: Tpl,
    pub(crate) line: u32,
}

/// One row for each thing in a list or group.
#[derive(Debug, Clone)]
pub(crate) struct Each {
    pub(crate) over: Expr,
    pub(crate) row: Tpl,
    pub(crate) line: u32,
}

/// Fields for each thing in a list or group.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    pub(crate) over: Expr,
    pub(crate) members: Vec<Member>,
    pub(crate) line: u32,
}

/// A part of a group.
#[derive(Debug, Clone)]
pub(crate) enum Member {
    Field {
        key: Name,
        tpl: Tpl,
        line: u32,
        span: Span,
    },
    /// `...`: the fields of another group, but those written beside it.
    Spread {
        from: Tpl,
        line: u32,
        span: Span,
        except: Arc<[Box<str>]>,
    },
}

/// The name of a field.
#[derive(Debug, Clone)]
pub(crate) enum Name {
    Plain(Arc<str>),
    /// As `Plain`, with `"name":` ready to be written.
    Ready(Arc<str>, Arc<[u8]>),
    /// A text with holes.
    Made(Expr),
}

impl Member {
    /// The name of a field, when it is certain.
    pub(crate) fn plain_name(&self) -> Option<&str> {
        match self {
            Self::Field {
                key: Name::Plain(name) | Name::Ready(name, _),
                ..
            } => Some(name),
            _ => None,
        }
    }
}

impl Tpl {
    /// A constant.
    pub(crate) fn constant(value: &Value) -> Self {
        Self::Raw(value.to_string().into_bytes().into())
    }

    /// How many parts it has, counted with what is inlined.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Group(members) => members_size(members),
            Self::Fields(fields) => fields
                .over
                .size()
                .saturating_add(members_size(&fields.members)),
            Self::List(items) => items
                .iter()
                .fold(1, |size, item| size.saturating_add(item.tpl.size())),
            Self::Each(each) => each.over.size().saturating_add(each.row.size()),
            Self::Value(expr) => expr.size(),
            _ => 1,
        }
    }

    /// Calls `f` with every formula in it.
    pub(crate) fn walk(&self, f: &mut dyn FnMut(&Expr)) {
        match self {
            Self::Group(members) => walk_members(members, f),
            Self::Fields(fields) => {
                f(&fields.over);
                walk_members(&fields.members, f);
            }
            Self::List(items) => items.iter().for_each(|item| item.tpl.walk(f)),
            Self::Each(each) => {
                f(&each.over);
                each.row.walk(f);
            }
            Self::Value(expr) => f(expr),
            _ => {}
        }
    }

    /// This with every formula replaced.
    pub(crate) fn map(&self, f: &mut dyn FnMut(&Expr) -> Expr) -> Self {
        match self {
            Self::Group(members) => Self::Group(map_members(members, f)),
            Self::Fields(fields) => Self::Fields(Box::new(Fields {
                over: f(&fields.over),
                members: map_members(&fields.members, f),
                line: fields.line,
            })),
            Self::List(items) => Self::List(
                items
                    .iter()
                    .map(|item| Element {
                        tpl: item.tpl.map(f),
                        line: item.line,
                    })
                    .collect(),
            ),
            Self::Each(each) => Self::Each(Box::new(Each {
                over: f(&each.over),
                row: each.row.map(f),
                line: each.line,
            })),
            Self::Value(expr) => match f(expr) {
                Expr::Missing => Self::Nothing,
                expr => Self::Value(expr),
            },
            same => same.clone(),
        }
    }
}

fn members_size(members: &[Member]) -> usize {
    members.iter().fold(1, |size: usize, member| {
        let (a, b) = match member {
            Member::Field { key, tpl, .. } => {
                let key = match key {
                    Name::Made(expr) => expr.size(),
                    _ => 0,
                };
                (key, tpl.size())
            }
            Member::Spread { from, .. } => (1, from.size()),
        };
        size.saturating_add(a).saturating_add(b)
    })
}

fn walk_members(members: &[Member], f: &mut dyn FnMut(&Expr)) {
    for member in members {
        match member {
            Member::Field { key, tpl, .. } => {
                if let Name::Made(expr) = key {
                    f(expr);
                }
                tpl.walk(f);
            }
            Member::Spread { from, .. } => from.walk(f),
        }
    }
}

fn map_members(members: &[Member], f: &mut dyn FnMut(&Expr) -> Expr) -> Vec<Member> {
    members
        .iter()
        .map(|member| match member {
            Member::Field {
                key,
                tpl,
                line,
                span,
            } => Member::Field {
                key: match key {
                    Name::Made(expr) => match f(expr) {
                        Expr::Text(text) => Name::Plain(text),
                        expr => Name::Made(expr),
                    },
                    plain => plain.clone(),
                },
                tpl: tpl.map(f),
                line: *line,
                span: span.clone(),
            },
            Member::Spread {
                from,
                line,
                span,
                except,
            } => Member::Spread {
                from: from.map(f),
                line: *line,
                span: span.clone(),
                except: Arc::clone(except),
            },
        })
        .collect()
}

/// Written names win over copied ones, and the first of two.
pub(crate) fn with_exceptions(members: Vec<Member>) -> Vec<Member> {
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
