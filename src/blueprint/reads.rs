//! What a plan looks at of an event, by entry: the rest need not be decoded for it.

use std::collections::{BTreeMap, HashMap};

use super::entry::{Entries, Entry};
use super::expr::{Expr, Root, Steps};
use super::function::Fun;
use super::plan::{Plan, Wire};
use crate::event::Kind;
use crate::event::reads::Reads;

/// As [`Entries`], with what each entry reads.
#[derive(Debug, Default)]
pub(super) struct EntryReads {
    track: HashMap<String, Reads>,
    any_other: Reads,
    calls: BTreeMap<Kind, Reads>,
}

impl EntryReads {
    pub(super) fn of(entries: &Entries, wires: &[Wire]) -> Self {
        let reads = |entry: &Entry| of_entry(entry, wires);
        Self {
            track: entries
                .track
                .iter()
                .map(|(name, entry)| (name.clone(), reads(entry)))
                .collect(),
            any_other: entries.any_other.as_ref().map(reads).unwrap_or_default(),
            calls: entries
                .calls
                .iter()
                .map(|(call, entry)| (*call, reads(entry)))
                .collect(),
        }
    }
}

impl Plan {
    /// What `map` looks at of an event of this kind and name.
    #[must_use]
    pub fn reads(&self, kind: Kind, name: Option<&str>) -> &Reads {
        static NOTHING: Reads = Reads::Fields(Vec::new());
        if kind != Kind::Track {
            return self.reads.calls.get(&kind).unwrap_or(&NOTHING);
        }
        name.and_then(|name| self.reads.track.get(name))
            .unwrap_or(&self.reads.any_other)
    }
}

fn of_entry(entry: &Entry, wires: &[Wire]) -> Reads {
    let mut reads = Reads::default();
    let Entry::Send { when, skips, sends } = entry else {
        return reads;
    };
    for (_, test) in skips {
        add(test, &mut reads);
    }
    for test in when {
        add(test, &mut reads);
    }
    for send in sends {
        send.item.walk(&mut |expr| add(expr, &mut reads));
        if let Some(wire) = wires.get(send.request) {
            wire.def.walk(&mut |expr| add(expr, &mut reads));
        }
    }
    reads
}

/// What a formula looks at.
fn add(expr: &Expr, reads: &mut Reads) {
    match expr {
        Expr::Event(root, steps) => at(*root, steps, &Reads::All, reads),
        Expr::Call(fun @ (Fun::Sum | Fun::Count), args) => {
            let Some((Expr::Event(root, steps), names)) = args.split_first() else {
                return args.iter().for_each(|arg| add(arg, reads));
            };
            let names: Option<Vec<Box<str>>> = names
                .iter()
                .map(|name| match name {
                    Expr::Text(name) => Some(Box::from(&**name)),
                    _ => None,
                })
                .collect();
            let rows = match (fun, names) {
                (_, Some(names)) => Reads::Rows(names),
                (_, None) => Reads::All,
            };
            at(*root, steps, &rows, reads);
        }
        Expr::Pieces(parts) | Expr::Call(_, parts) => {
            parts.iter().for_each(|part| add(part, reads));
        }
        Expr::Within(inner, _) | Expr::Encoded(inner) => add(inner, reads),
        _ => {}
    }
}

fn at(root: Root, steps: &Steps, what: &Reads, reads: &mut Reads) {
    let mut look = |from: &[&str]| {
        let path = from.iter().copied().chain(steps.iter().map(|step| &**step));
        let path: Vec<&str> = path.collect();
        reads.add(Reads::at(path.into_iter(), what.clone()));
    };
    match root {
        Root::Plain(name) => look(&[name]),
        Root::Timestamp => look(&["timestamp"]),
        Root::ReceivedAt => look(&["receivedAt"]),
        Root::Traits => {
            look(&["traits"]);
            look(&["context", "traits"]);
        }
    }
}
