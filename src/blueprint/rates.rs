//! How much a vendor takes, as written: `rate`, which may depend on a choice of the config; `bucket`, with whom it is
//! shared; `spill`, which way items go meanwhile. And `lane`, which one request may share with another.

use super::FieldKind;
use super::compile::{Compiler, find};
use super::diagnostic::did_you_mean;
use super::expr::Expr;
use super::function::Type;
use super::plan::{Rate, RateOf};
use super::resolve::{Scope, Sees};
use super::travel::MAX_STEPS;
use super::wire::RequestDef;
use super::yaml::{Key, Kind, Node};

/// Rates that depend on what the installer chooses.
#[derive(Debug, Clone)]
pub(crate) struct RatesBy {
    /// Which field.
    pub(crate) field: String,
    /// By its value.
    pub(crate) of: Vec<(String, Vec<Rate>)>,
}

impl Compiler<'_> {
    /// `rate`: windows, or `by` a choice of the config the windows of each of its values.
    pub(super) fn rate_of(&mut self, node: &Node, batched: bool) -> (Vec<Rate>, Option<RatesBy>) {
        let Some(by) = node.group().and_then(|members| find(members, "by")) else {
            return (self.rates(node, batched), None);
        };
        let Some((field, values)) = self.choice(by) else {
            return (Vec::new(), None);
        };
        let members = self.group_of(node, "`rate`");
        let known: Vec<&str> = std::iter::once("by")
            .chain(values.iter().map(String::as_str))
            .collect();
        self.known_keys(members, &known, "`rate`");
        let mut of = Vec::with_capacity(values.len());
        for value in values {
            match find(members, &value) {
                Some(node) => {
                    let rates = self.rates(node, batched);
                    of.push((value, rates));
                }
                None => self.faults.error(
                    "missing",
                    by.span.clone(),
                    format!("`rate` does not say how much it is for `{value}`"),
                ),
            }
        }
        (Vec::new(), Some(RatesBy { field, of }))
    }

    /// The choice of the config a formula names, and its values.
    fn choice(&mut self, node: &Node) -> Option<(String, Vec<String>)> {
        let before = self.faults.count();
        let found = self.scalar(node, Scope::event(Sees::None));
        let field = match &found {
            Some((Expr::Config(name), _)) => self.fields.iter().find(|field| field.key == **name),
            _ => None,
        };
        if let Some(field) = field
            && (!field.optional || field.default.is_some())
            && let FieldKind::Choice(options) = &field.kind
        {
            let values = options.iter().map(|(_, value)| value.clone()).collect();
            return Some((field.key.clone(), values));
        }
        if self.faults.count() == before {
            self.faults.push(
                "shape",
                node.span.clone(),
                "`by` is a choice of the config".to_owned(),
                Some(
                    "write by: =config.x where x is a `choice` that always has a value".to_owned(),
                ),
            );
        }
        None
    }

    fn rates(&mut self, node: &Node, batched: bool) -> Vec<Rate> {
        let one = std::slice::from_ref(node);
        let items: &[Node] = match &node.kind {
            Kind::List(items) => items,
            _ => one,
        };
        if items.is_empty() || items.len() > MAX_STEPS {
            self.shape(node, format!("`rate` is one to {MAX_STEPS} windows"));
            return Vec::new();
        }
        items
            .iter()
            .filter_map(|node| self.rate(node, batched))
            .collect()
    }

    fn rate(&mut self, node: &Node, batched: bool) -> Option<Rate> {
        let members = self.group_of(node, "a rate");
        self.known_keys(members, &["requests", "items", "per"], "a rate");
        let (of, count) = match (find(members, "requests"), find(members, "items")) {
            (Some(count), None) => (RateOf::Requests, self.count(count, "requests")),
            (None, Some(count)) => {
                let count = self.count(count, "items");
                // One request carries one item.
                let of = if batched {
                    RateOf::Items
                } else {
                    RateOf::Requests
                };
                (of, count)
            }
            _ => {
                self.faults.push(
                    "missing",
                    node.span.clone(),
                    "a rate counts `requests` or `items`".to_owned(),
                    Some("for example { requests: 10, per: 1 s }".to_owned()),
                );
                return None;
            }
        };
        let Some(per) = find(members, "per") else {
            self.faults.push(
                "missing",
                node.span.clone(),
                "a rate needs `per`".to_owned(),
                Some("for example { requests: 10, per: 1 s }".to_owned()),
            );
            return None;
        };
        let per = self.some_time(per, "per")?;
        let Ok(n) = u32::try_from(count?) else {
            self.shape(node, "a rate has at most 4,294,967,295");
            return None;
        };
        Some(Rate { n, per, of })
    }

    /// `bucket`: a text of the config; requests with the same one share their rate.
    pub(super) fn bucket(&mut self, node: &Node) -> Option<Expr> {
        let before = self.faults.count();
        let scope = Scope {
            secret: true,
            tables: false,
            ..Scope::event(Sees::None)
        };
        match self.scalar(node, scope) {
            Some((expr, kind)) if !matches!(kind, Type::Group | Type::List) => {
                self.weigh(expr.size(), &node.span);
                Some(expr)
            }
            _ => {
                if self.faults.count() == before {
                    self.shape(node, "`bucket` is a text with holes, or a formula");
                }
                None
            }
        }
    }

    /// `lane: =key`, or `lane: { key: =key, with: request }`; whom it names is looked up by [`Self::link_lanes`].
    pub(super) fn lane(&mut self, node: &Node) -> Option<Expr> {
        if node.group().is_none() {
            return self.single(node, "lane");
        }
        let members = self.group_of(node, "`lane`");
        self.known_keys(members, &["key", "with"], "`lane`");
        for name in ["key", "with"] {
            if find(members, name).is_none() {
                self.faults.error(
                    "missing",
                    node.span.start..node.span.start,
                    format!("`lane` needs `{name}`, or is written lane: =key"),
                );
            }
        }
        find(members, "key").and_then(|node| self.single(node, "key"))
    }

    /// Whose lanes requests share, once all are read.
    pub(super) fn link_lanes(&mut self, requests: &[(Key, Node)]) {
        for (at, (_, node)) in requests.iter().enumerate() {
            let with = node
                .group()
                .and_then(|members| find(find(members, "lane")?.group()?, "with"));
            let Some(node) = with else {
                continue;
            };
            let Some(target) = self.named(node, "with", "to share lanes with") else {
                continue;
            };
            let fits = target != at
                && self
                    .requests
                    .get(target)
                    .is_some_and(|other| other.travel.lane.is_some());
            let leads = requests.get(target).is_some_and(|(_, node)| {
                let lane = node.group().and_then(|members| find(members, "lane"));
                lane.is_some_and(|lane| lane.group().is_none())
            });
            if !fits || !leads {
                self.faults.push(
                    "lane",
                    node.span.clone(),
                    "lanes are shared with another request that has a `lane` of its own".to_owned(),
                    Some("of three requests, two name the third".to_owned()),
                );
                continue;
            }
            if let Some(request) = self.requests.get_mut(at) {
                request.travel.lane_with = Some(target);
            }
        }
    }

    /// Where `spill` leads, once all requests are read.
    pub(super) fn link_spills(&mut self, requests: &[(Key, Node)]) {
        for (at, (_, node)) in requests.iter().enumerate() {
            let Some(node) = node.group().and_then(|members| find(members, "spill")) else {
                continue;
            };
            let (mut never, mut always) = (Vec::new(), Vec::new());
            let to = if node.group().is_some() {
                let members = self.group_of(node, "`spill`");
                self.known_keys(members, &["to", "never", "always"], "`spill`");
                let scope = Scope::event(Sees::None);
                if let Some(node) = find(members, "never") {
                    never = self.conditions(node, scope);
                }
                if let Some(node) = find(members, "always") {
                    always = self.conditions(node, scope);
                }
                if find(members, "to").is_none() {
                    self.faults.error(
                        "missing",
                        node.span.start..node.span.start,
                        "`spill` needs `to`".to_owned(),
                    );
                }
                find(members, "to")
            } else {
                Some(node)
            };
            let Some(to) = to else {
                continue;
            };
            let Some(target) = self.named(to, "spill", "to spill to") else {
                continue;
            };
            if let Some(wrong) = self.spill_fault(at, target) {
                let (from, name) = (&self.requests[at].name, &self.requests[target].name);
                self.faults.push(
                    "spill",
                    to.span.clone(),
                    format!("`{from}` cannot spill to `{name}`: {wrong}"),
                    Some("a spill target has no `batch`, no `item`, and uses nothing of the event but its item".to_owned()),
                );
                continue;
            }
            self.requests_used.insert(target);
            if let Some(request) = self.requests.get_mut(at) {
                request.travel.spill = Some(target);
                request.travel.spill_never = never;
                request.travel.spill_always = always;
            }
        }
    }

    /// The request a text names.
    fn named(&mut self, node: &Node, key: &str, what_for: &str) -> Option<usize> {
        let name = self.plain_text(node, key)?;
        let target = self.requests.iter().position(|def| def.name == name);
        if target.is_none() {
            let known = self.requests.iter().map(|def| def.name.as_str());
            let help = did_you_mean(&name, known);
            self.faults.push(
                "name",
                node.span.clone(),
                format!("there is no request `{name}` {what_for}"),
                help,
            );
        }
        target
    }

    /// Why items of one request cannot go by the other.
    fn spill_fault(&self, from: usize, to: usize) -> Option<&'static str> {
        let target: &RequestDef = self.requests.get(to)?;
        if from == to {
            Some("that is the same request")
        } else if target.batched {
            Some("it has a `batch`, and what is spilled goes one by one")
        } else if target.shape.is_some() {
            Some("it puts a shape of its own around the item")
        } else if !target.holes.is_empty() {
            Some("its address, headers or body use the event, and only the item is there")
        } else {
            None
        }
    }
}
