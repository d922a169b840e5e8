//! Formulas as they are run: names resolved, values inlined.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::eval::{Scene, Val, eval};
use super::function::Fun;

/// Most parts one entry of a blueprint may have, with all that is inlined.
pub(crate) const MAX_NODES: usize = 4096;
/// Deepest a formula may be, with all that is inlined.
pub(crate) const MAX_DEPTH: usize = 64;

/// A way down into a value.
pub(crate) type Steps = Arc<[Box<str>]>;

/// What a formula is, once it is known what its names mean.
#[derive(Debug, Clone)]
pub(crate) enum Expr {
    /// Nothing: a field the entry does not give, a config field left out.
    Missing,
    Text(Arc<str>),
    /// A number as it was written.
    Number(Arc<str>),
    YesNo(bool),
    /// A text made of pieces.
    Pieces(Arc<[Expr]>),
    /// A place in the event; in an entry that is ready to run, one of the next two.
    Event(Root, Steps),
    /// What was seen in the place of this number, see [`crate::event::reads::Places`].
    Seen(usize),
    /// A place in the traits: the event's own (by number) over those in its context.
    Traits(usize, Option<usize>, Steps),
    /// A place in the row of an `each`.
    Row(Steps),
    /// A config field: gone after binding.
    Config(Arc<str>),
    /// `fields.x` in a request's `item`: gone after inlining.
    Entry(Arc<str>),
    /// A table, as the first argument of `lookup`.
    Table(TableRef),
    /// The status of a reply.
    Status,
    /// A place in the body of a reply.
    Reply(Steps),
    /// A value of the event that travels beside the item of an unbatched request.
    Hole(usize),
    /// A place in what another formula gives.
    Within(Arc<Expr>, Steps),
    /// Percent-encoded, for URLs.
    Encoded(Arc<Expr>),
    Call(Fun, Arc<[Expr]>),
}

impl Expr {
    /// Whether the two surely give the same of one event. False says nothing.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let all = |these: &[Self], those: &[Self]| {
            these.len() == those.len() && these.iter().zip(those).all(|(a, b)| a.is_same(b))
        };
        match (self, other) {
            (Self::Seen(this), Self::Seen(that)) => this == that,
            (Self::Text(this), Self::Text(that)) => this == that,
            (Self::Pieces(these), Self::Pieces(those)) => all(these, those),
            (Self::Call(this, these), Self::Call(that, those)) => this == that && all(these, those),
            _ => std::ptr::eq(self, other),
        }
    }
}

/// Where a path into an event starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// A field of the canonical object by its own name.
    Plain(&'static str),
    /// When it happened, known in milliseconds.
    Timestamp,
    /// When it was accepted, known in milliseconds.
    ReceivedAt,
    /// Top-level traits over those in the context.
    Traits,
}

/// A table a formula looks into.
#[derive(Debug, Clone)]
pub(crate) enum TableRef {
    /// Written out in the blueprint.
    Inline(Arc<BTreeMap<String, Value>>),
    /// Read from a URL.
    Remote(Arc<RemoteTable>),
}

/// What is said of a table that is read from a URL.
#[derive(Debug)]
pub(crate) struct RemoteTable {
    pub(crate) name: String,
    /// What a key is, for people: `event key`.
    pub(crate) label: String,
    /// How long an item may wait for a missing key.
    pub(crate) hold: Duration,
}

impl Expr {
    /// Calls `f` with this and everything in it.
    pub(crate) fn walk(&self, f: &mut dyn FnMut(&Self)) {
        f(self);
        match self {
            Self::Pieces(parts) | Self::Call(_, parts) => {
                for part in parts.iter() {
                    part.walk(f);
                }
            }
            Self::Within(inner, _) | Self::Encoded(inner) => inner.walk(f),
            _ => {}
        }
    }

    /// How many parts it has, counted with what is inlined, and how deep it is. Stops counting past the
    /// most that any blueprint may have.
    pub(crate) fn measure(&self) -> (usize, usize) {
        let (mut count, mut deepest) = (0, 0);
        self.count(1, &mut count, &mut deepest);
        (count, deepest)
    }

    fn count(&self, depth: usize, count: &mut usize, deepest: &mut usize) {
        *count += 1;
        *deepest = depth.max(*deepest);
        if *count > MAX_NODES || depth > MAX_DEPTH {
            return;
        }
        match self {
            Self::Pieces(parts) | Self::Call(_, parts) => {
                for part in parts.iter() {
                    part.count(depth + 1, count, deepest);
                    if *count > MAX_NODES {
                        return;
                    }
                }
            }
            Self::Within(inner, _) | Self::Encoded(inner) => {
                inner.count(depth + 1, count, deepest);
            }
            _ => {}
        }
    }

    /// How many parts it has.
    pub(crate) fn size(&self) -> usize {
        self.measure().0
    }

    /// This with every part replaced by what `f` gives for it, innermost first.
    pub(crate) fn replace(&self, f: &mut dyn FnMut(&Self) -> Option<Self>) -> Self {
        if let Some(new) = f(self) {
            return new;
        }
        match self {
            Self::Pieces(parts) => Self::Pieces(parts.iter().map(|p| p.replace(f)).collect()),
            Self::Call(fun, parts) => {
                Self::Call(*fun, parts.iter().map(|p| p.replace(f)).collect())
            }
            Self::Within(inner, steps) => {
                Self::Within(Arc::new(inner.replace(f)), Arc::clone(steps))
            }
            Self::Encoded(inner) => Self::Encoded(Arc::new(inner.replace(f))),
            same => same.clone(),
        }
    }

    /// Whether some part of it passes the test.
    pub(crate) fn any(&self, test: &mut dyn FnMut(&Self) -> bool) -> bool {
        let mut found = false;
        self.walk(&mut |expr| found = found || test(expr));
        found
    }
}

/// Simplifies what is certain once the config is known: constants chosen, holes filled.
pub(crate) fn simplify(expr: Expr) -> Expr {
    match expr {
        Expr::Pieces(parts) => {
            let mut joined: Vec<Expr> = Vec::with_capacity(parts.len());
            for part in parts.iter().cloned().map(simplify) {
                let part = match part {
                    Expr::Missing => return Expr::Missing,
                    Expr::Number(text) => Expr::Text(text),
                    Expr::YesNo(yes) => Expr::Text(if yes { "true" } else { "false" }.into()),
                    other => other,
                };
                match (joined.last_mut(), part) {
                    (Some(Expr::Text(before)), Expr::Text(text)) => {
                        *before = format!("{before}{text}").into();
                    }
                    (_, part) => joined.push(part),
                }
            }
            match joined.as_slice() {
                [] => Expr::Text("".into()),
                [Expr::Text(text)] => Expr::Text(Arc::clone(text)),
                _ => Expr::Pieces(joined.into()),
            }
        }
        Expr::Call(fun, args) => {
            let args: Vec<Expr> = args.iter().cloned().map(simplify).collect();
            match (fun, args.as_slice()) {
                (Fun::First, _) => simplify_first(args),
                (
                    Fun::Required,
                    [
                        known @ (Expr::Text(_) | Expr::Number(_) | Expr::YesNo(_)),
                        ..,
                    ],
                ) => known.clone(),
                (Fun::Not, [Expr::YesNo(yes)]) => Expr::YesNo(!yes),
                (Fun::Not, [Expr::Missing]) => Expr::YesNo(true),
                (Fun::All, args) if args.iter().any(surely_not) => Expr::YesNo(false),
                (Fun::All, args) if args.iter().all(surely) => Expr::YesNo(true),
                (Fun::Any, args) if args.iter().any(surely) => Expr::YesNo(true),
                (Fun::Any, args) if args.iter().all(surely_not) => Expr::YesNo(false),
                (Fun::Upper, [Expr::Text(text)]) => Expr::Text(text.to_uppercase().into()),
                (Fun::Lower, [Expr::Text(text)]) => Expr::Text(text.to_lowercase().into()),
                (Fun::Present, [Expr::Missing]) => Expr::YesNo(false),
                (Fun::Present, [Expr::Text(_) | Expr::Number(_) | Expr::YesNo(_)]) => {
                    Expr::YesNo(true)
                }
                // A missing test is false.
                (Fun::If, [Expr::Missing, _, rest @ ..]) => {
                    rest.first().cloned().unwrap_or(Expr::Missing)
                }
                (Fun::If, [Expr::YesNo(yes), a, rest @ ..]) => {
                    if *yes {
                        a.clone()
                    } else {
                        rest.first().cloned().unwrap_or(Expr::Missing)
                    }
                }
                (Fun::Is, [Expr::Missing, ..]) => Expr::YesNo(false),
                (Fun::Is, [Expr::YesNo(x), others @ ..])
                    if others.iter().all(|other| matches!(other, Expr::YesNo(_))) =>
                {
                    Expr::YesNo(
                        others
                            .iter()
                            .any(|other| matches!(other, Expr::YesNo(yes) if yes == x)),
                    )
                }
                (Fun::Is, [Expr::Text(x), others @ ..])
                    if others.iter().all(|other| matches!(other, Expr::Text(_))) =>
                {
                    Expr::YesNo(
                        others
                            .iter()
                            .any(|other| matches!(other, Expr::Text(text) if text == x)),
                    )
                }
                (Fun::Get, [_, Expr::Missing]) | (Fun::Get, [Expr::Missing, _]) => Expr::Missing,
                _ => constant(Expr::Call(fun, args.into())),
            }
        }
        Expr::Within(inner, steps) => {
            Expr::Within(Arc::new(simplify(inner.as_ref().clone())), steps)
        }
        Expr::Encoded(inner) => match simplify(inner.as_ref().clone()) {
            Expr::Text(text) => Expr::Text(super::request::percent_encoded(&text).into()),
            other => Expr::Encoded(Arc::new(other)),
        },
        same => same,
    }
}

/// What a formula gives, when it gives a single value whatever the event, and nothing is to be said about it.
fn constant(call: Expr) -> Expr {
    let Expr::Call(fun, args) = &call else {
        return call;
    };
    let known = |arg: &Expr| {
        matches!(
            arg,
            Expr::Missing | Expr::Text(_) | Expr::Number(_) | Expr::YesNo(_)
        )
    };
    if *fun == Fun::Required || !args.iter().all(known) {
        return call;
    }
    let tables = super::Tables::default();
    let scene = Scene::of_request(&[], &tables);
    let found = match eval(&call, scene.cx()) {
        Val::Missing => Expr::Missing,
        Val::Text(text) => Expr::Text(text.as_ref().into()),
        Val::Number(text) => Expr::Number(text.as_ref().into()),
        Val::YesNo(yes) => Expr::YesNo(yes),
        Val::Json(_) | Val::Group(_) => return call,
    };
    let found = (!scene.troubled()).then_some(found);
    found.unwrap_or(call)
}

/// It is true whatever the event.
pub(crate) fn surely(expr: &Expr) -> bool {
    matches!(expr, Expr::YesNo(true))
}

/// It is not true whatever the event.
pub(crate) fn surely_not(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Missing | Expr::YesNo(false) | Expr::Text(_) | Expr::Number(_)
    )
}

/// What is missing for certain is passed over; what follows a constant is never reached.
fn simplify_first(args: Vec<Expr>) -> Expr {
    let mut kept = Vec::with_capacity(args.len());
    for arg in args {
        let known = matches!(arg, Expr::Text(_) | Expr::Number(_) | Expr::YesNo(_));
        if !matches!(arg, Expr::Missing) {
            kept.push(arg);
        }
        if known {
            break;
        }
    }
    if kept.len() == 1 {
        return kept.remove(0);
    }
    if kept.is_empty() {
        return Expr::Missing;
    }
    Expr::Call(Fun::First, kept.into())
}
