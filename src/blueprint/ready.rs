//! Entries ready to run: each knows by number the places of an event it looks at, with the formulas of its requests
//! beside its own, and what is certain for its kind of event is worked out beforehand.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::bind::frozen;
use super::entry::{Entries, Entry};
use super::expr::{Expr, Root, Steps, simplify, surely_not};
use super::function::Fun;
use super::plan::{Plan, Wire};
use super::template::Tpl;
use super::travel::Travel;
use crate::event::Kind;
use crate::event::reads::{Places, Reads};

/// As [`Entries`].
#[derive(Debug, Default)]
pub(super) struct ReadyEntries {
    track: HashMap<String, Ready>,
    any_other: Option<Ready>,
    calls: BTreeMap<Kind, Ready>,
}

/// As [`Entry`].
#[derive(Debug)]
pub(super) enum Ready {
    Drop,
    Send {
        places: Places,
        when: Vec<Expr>,
        skips: Vec<(String, Expr)>,
        sends: Vec<ReadySend>,
    },
}

/// One request an event is sent as, with what it asks of the event.
#[derive(Debug)]
pub(super) struct ReadySend {
    pub(super) request: usize,
    pub(super) line: u32,
    pub(super) when: Vec<Expr>,
    pub(super) item: Tpl,
    /// What travels beside the item.
    pub(super) holes: Vec<Tpl>,
    pub(super) by: Option<Expr>,
    pub(super) travel: Travel,
}

impl ReadyEntries {
    pub(super) fn of(entries: &Entries, wires: &[Wire]) -> Self {
        let track = |entry: &Entry| ready(entry, wires, Kind::Track);
        Self {
            track: entries
                .track
                .iter()
                .map(|(name, entry)| (name.clone(), track(entry)))
                .collect(),
            any_other: entries.any_other.as_ref().map(track),
            calls: entries
                .calls
                .iter()
                .map(|(call, entry)| (*call, ready(entry, wires, *call)))
                .collect(),
        }
    }
}

impl Plan {
    /// What an event of this kind and name becomes.
    pub(super) fn entry(&self, kind: Kind, name: Option<&str>) -> Option<&Ready> {
        if kind != Kind::Track {
            return self.entries.calls.get(&kind);
        }
        name.and_then(|name| self.entries.track.get(name))
            .or(self.entries.any_other.as_ref())
    }

    /// Where `map` looks in an event of this kind and name.
    pub(super) fn places(&self, kind: Kind, name: Option<&str>) -> &Places {
        static NOWHERE: Places = Places::NONE;
        match self.entry(kind, name) {
            Some(Ready::Send { places, .. }) => places,
            Some(Ready::Drop) | None => &NOWHERE,
        }
    }
}

fn ready(entry: &Entry, wires: &[Wire], kind: Kind) -> Ready {
    let Entry::Send { when, skips, sends } = entry else {
        return Ready::Drop;
    };
    let mut places = Places::default();
    let mut number = |expr: &Expr| numbered(&simplify(certain(expr, kind)), kind, &mut places);
    let when = when.iter().map(&mut number).collect();
    let skips = skips
        .iter()
        .map(|(reason, test)| (reason.clone(), number(test)))
        .collect();
    let sends = sends
        .iter()
        .filter_map(|send| {
            let def = &wires.get(send.request)?.def;
            let when: Vec<Expr> = def.when.iter().map(&mut number).collect();
            // Never sent as this: nothing is looked at for it.
            let never = when.iter().any(surely_not);
            let mut tpl = |tpl: &Tpl| match never {
                true => Tpl::Nothing,
                false => frozen(tpl.map(&mut number)),
            };
            let item = tpl(&send.item);
            let holes = def.holes.iter().cloned().map(Tpl::Value);
            let holes = holes.map(|hole| tpl(&hole)).collect();
            Some(ReadySend {
                request: send.request,
                line: send.line,
                item,
                holes,
                by: def.by.as_ref().filter(|_| !never).map(&mut number),
                travel: match never {
                    true => Travel::default(),
                    false => def.travel.map(&mut number),
                },
                when,
            })
        })
        .collect();
    Ready::Send {
        places,
        when,
        skips,
        sends,
    }
}

/// With what every event of this kind says in the same way.
fn certain(expr: &Expr, kind: Kind) -> Expr {
    expr.replace(&mut |part| match part {
        Expr::Event(Root::Plain("type"), steps) if steps.is_empty() => {
            Some(Expr::Text(kind.as_str().into()))
        }
        _ => None,
    })
}

/// With the numbers of the places it looks at.
fn numbered(expr: &Expr, kind: Kind, places: &mut Places) -> Expr {
    expr.replace(&mut |part| match part {
        Expr::Event(root, steps) => Some(place(*root, steps, Reads::All, kind, places)),
        Expr::Call(fun @ (Fun::Sum | Fun::Count), args) => {
            let (Expr::Event(root, steps), names) = args.split_first()? else {
                return None;
            };
            let texts = names.iter().map(|name| match name {
                Expr::Text(name) => Some(Box::from(&**name)),
                _ => None,
            });
            let rows = texts.collect::<Option<_>>().map_or(Reads::All, Reads::Rows);
            let list = place(*root, steps, rows, kind, places);
            let names = names.iter().map(|name| numbered(name, kind, places));
            Some(Expr::Call(*fun, std::iter::once(list).chain(names).collect()))
        }
        // The event's own times are known in milliseconds: nobody looks at their text.
        Expr::Call(Fun::EpochMs | Fun::EpochS | Fun::Iso8601 | Fun::Date, args)
            if matches!(&**args, [Expr::Event(Root::Timestamp | Root::ReceivedAt, steps)] if steps.is_empty()) =>
        {
            Some(part.clone())
        }
        _ => None,
    })
}

fn place(root: Root, steps: &Steps, what: Reads, kind: Kind, places: &mut Places) -> Expr {
    let first: &[&str] = match root {
        Root::Plain(name) => &[name],
        Root::Timestamp => &["timestamp"],
        Root::ReceivedAt => &["receivedAt"],
        Root::Traits => {
            let what = Reads::at(steps.iter().map(|step| &**step), what);
            let own = places.number(&["traits"], what.clone());
            // Those of an identify call are at the top; other calls may carry them in the context as well.
            let context =
                (kind != Kind::Identify).then(|| places.number(&["context", "traits"], what));
            return Expr::Traits(own, context, Arc::clone(steps));
        }
    };
    let path = first.iter().copied();
    let path: Vec<&str> = path.chain(steps.iter().map(|step| &**step)).collect();
    Expr::Seen(places.number(&path, what))
}
