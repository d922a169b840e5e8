//! How items travel, as written: the `requests` of a file, read and checked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::FieldKind;
use super::compile::{Compiler, find};
use super::expr::Expr;
use super::function::{Fun, Type};
use super::limit::{LIMITS_MAX, Limit, OverRule, Pattern};
use super::resolve::{Scope, Sees};
use super::responses::{Outcome, Rule};
use super::template::{Element, Member, Tpl};
use super::travel::{self, Travel};
use super::yaml::{Key, Kind, Node, Span};

/// A request as the file has it.
#[derive(Debug, Clone)]
pub(crate) struct RequestDef {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) method: &'static str,
    pub(crate) url: Expr,
    pub(crate) headers: Vec<(String, Expr)>,
    /// Only events for which all of these are true are sent as this.
    pub(crate) when: Vec<Expr>,
    /// What goes around an entry's fields.
    pub(crate) shape: Option<Tpl>,
    pub(crate) shape_fields: BTreeSet<String>,
    pub(crate) body: Option<Tpl>,
    pub(crate) batched: bool,
    pub(crate) items_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) wait: Duration,
    pub(crate) by: Option<Expr>,
    pub(crate) travel: Travel,
    pub(crate) limits: Vec<Pattern>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) replies: Option<String>,
    pub(crate) strip: Option<String>,
    /// Event values used outside the item of an unbatched request, in the order of their holes.
    pub(crate) holes: Vec<Expr>,
}

const METHODS: &[(&str, &str)] = &[
    ("post", "POST"),
    ("put", "PUT"),
    ("patch", "PATCH"),
    ("get", "GET"),
    ("delete", "DELETE"),
];

const KEYS: &[&str] = &[
    "post",
    "put",
    "patch",
    "get",
    "delete",
    "when",
    "headers",
    "item",
    "body",
    "batch",
    "limits",
    "responses",
    "replies",
    "strip_leading",
];

const DEFAULT_BYTES: usize = 1_000_000;
const MAX_ITEMS: usize = 10_000;

impl Compiler<'_> {
    pub(crate) fn read_requests(&mut self, node: &Node) {
        let members = self.group_of(node, "`requests`");
        for (key, node) in members {
            if key.text == "when" {
                self.faults.error(
                    "key",
                    key.span.clone(),
                    "a request cannot be named `when`".to_owned(),
                );
            }
            let request = self.request(key, node);
            self.requests.push(request);
        }
        self.link(members);
    }

    fn request(&mut self, key: &Key, node: &Node) -> RequestDef {
        let members = self.group_of(node, "a request");
        let known: Vec<&str> = KEYS.iter().chain(travel::KEYS).copied().collect();
        self.known_keys(members, &known, "a request");
        let batch = find(members, "batch");
        let batched = batch.is_some();
        let mut request = RequestDef {
            name: key.text.clone(),
            span: key.span.clone(),
            method: "POST",
            url: Expr::Missing,
            headers: Vec::new(),
            when: Vec::new(),
            shape: None,
            shape_fields: BTreeSet::new(),
            body: None,
            batched,
            items_max: if batched { 100 } else { 1 },
            bytes_max: DEFAULT_BYTES,
            wait: Duration::ZERO,
            by: None,
            travel: Travel::default(),
            limits: Vec::new(),
            rules: Vec::new(),
            replies: None,
            strip: None,
            holes: Vec::new(),
        };
        let sees = if batched { Sees::None } else { Sees::Any };
        let mut outer = Scope::event(sees);
        outer.items = Some(batched);
        self.address(members, key, &mut request, outer);
        self.headers(members, &mut request, outer);
        self.body(members, key, &mut request, outer);
        if let Some(node) = find(members, "when") {
            let mut scope = Scope::event(Sees::Any);
            scope.secret = true;
            request.when = self.conditions(node, scope);
        }
        if let Some(node) = find(members, "item") {
            let mut scope = Scope::event(Sees::Any);
            scope.fields = true;
            self.fields_used.clear();
            request.shape = Some(self.template(node, scope));
            request.shape_fields = std::mem::take(&mut self.fields_used);
            if node.group().is_none() {
                self.shape(
                    node,
                    "`item` is a group: the shape around the entry's `fields`",
                );
            }
        }
        if let Some(node) = batch {
            self.batch(node, &mut request);
        }
        request.travel = self.travel(members, batched);
        if let Some(node) = find(members, "limits") {
            request.limits = self.limits(node);
        }
        if let Some(node) = find(members, "responses") {
            request.rules = self.responses(node);
        }
        if let Some(node) = find(members, "replies") {
            request.replies = self.plain_text(node, "replies");
            let fine = request.replies.as_deref().is_none_or(|name| {
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            });
            if !fine {
                self.shape(
                    node,
                    "`replies` is the name of a reader: small letters, digits and _",
                );
            }
        }
        if let Some(node) = find(members, "strip_leading") {
            request.strip = node
                .text()
                .filter(|text| !text.is_empty())
                .map(str::to_owned);
            if request.strip.is_none() {
                self.shape(node, "`strip_leading` is the text to take away");
            }
        }
        lift_holes(&mut request);
        request
    }

    fn address(
        &mut self,
        members: &[(Key, Node)],
        key: &Key,
        request: &mut RequestDef,
        scope: Scope,
    ) {
        let found: Vec<(&'static str, &Key, &Node)> = members
            .iter()
            .filter_map(|(key, node)| {
                let (_, method) = METHODS.iter().find(|(name, _)| *name == key.text)?;
                Some((*method, key, node))
            })
            .collect();
        match found.as_slice() {
            [(method, _, node)] => {
                request.method = method;
                let scope = Scope {
                    secret: true,
                    items: None,
                    ..scope
                };
                request.url = self.url(node, scope).unwrap_or(Expr::Missing);
            }
            [] => self.faults.push(
                "missing",
                key.span.clone(),
                format!("`{}` needs its method and address", key.text),
                Some("for example post: https://api.example.com/events".to_owned()),
            ),
            [_, (_, key, _), ..] => self.faults.error(
                "key",
                key.span.clone(),
                "a request has one method".to_owned(),
            ),
        }
    }

    fn headers(&mut self, members: &[(Key, Node)], request: &mut RequestDef, scope: Scope) {
        let Some(node) = find(members, "headers") else {
            return;
        };
        let scope = Scope {
            secret: true,
            items: None,
            ..scope
        };
        for (key, node) in self.group_of(node, "`headers`") {
            let name_fine = !key.text.is_empty()
                && key
                    .text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
            let hop = ["host", "content-length", "connection", "transfer-encoding"]
                .contains(&key.text.to_ascii_lowercase().as_str());
            if !name_fine || hop {
                self.faults.error(
                    "key",
                    key.span.clone(),
                    format!("`{}` cannot be set as a header", key.text),
                );
            }
            let before = self.faults.count();
            match self.scalar(node, scope) {
                Some((expr, kind)) if !matches!(kind, Type::Group | Type::List) => {
                    if let Expr::Text(text) = &expr
                        && !header_text(text)
                    {
                        self.shape(node, "a header holds printable ASCII on one line");
                    }
                    self.weigh(expr.size(), &node.span);
                    request.headers.push((key.text.clone(), expr));
                }
                _ => {
                    if self.faults.count() == before {
                        self.shape(node, "a header is a text or a formula");
                    }
                }
            }
        }
    }

    fn body(&mut self, members: &[(Key, Node)], key: &Key, request: &mut RequestDef, scope: Scope) {
        let bodiless = matches!(request.method, "GET" | "DELETE");
        let Some(node) = find(members, "body") else {
            if !bodiless || request.batched {
                let right = if request.batched { "=items" } else { "=item" };
                self.faults.push(
                    "missing",
                    key.span.clone(),
                    format!("`{}` needs a `body`", key.text),
                    Some(format!("at its simplest, body: {right}")),
                );
            }
            return;
        };
        if request.method == "GET" {
            self.shape(node, "a get request has no body");
            return;
        }
        let before = self.faults.count();
        let body = self.template(node, scope);
        self.weigh(body.size(), &node.span);
        let placed = count_items(&body);
        if placed != 1 && self.faults.count() == before && !bodiless {
            let right = if request.batched { "=items" } else { "=item" };
            self.faults.push(
                "body",
                node.span.clone(),
                format!("the body places what is sent {placed} times"),
                Some(format!("put `{right}` where it belongs, once")),
            );
        }
        request.body = Some(body);
    }

    fn batch(&mut self, node: &Node, request: &mut RequestDef) {
        let members = self.group_of(node, "`batch`");
        self.known_keys(members, &["items", "bytes", "wait", "by"], "a batch");
        if let Some(node) = find(members, "items")
            && let Some(items) = self.count(node, "items")
        {
            if items > MAX_ITEMS {
                self.shape(node, format!("a request carries at most {MAX_ITEMS} items"));
            }
            request.items_max = items;
        }
        if let Some(node) = find(members, "bytes")
            && let Some(bytes) = self.bytes(node, "bytes")
        {
            request.bytes_max = bytes;
        }
        request.wait = find(members, "wait")
            .and_then(|node| self.duration(node, "wait"))
            .unwrap_or(Duration::from_secs(1));
        if let Some(node) = find(members, "by") {
            request.by = self.single(node, "by");
        }
    }

    /// One formula or text over the event, for a single value.
    pub(super) fn single(&mut self, node: &Node, key: &str) -> Option<Expr> {
        self.over_event(node, key, false)
    }

    /// One formula or text over the event, for a value of any kind.
    pub(super) fn any_kind(&mut self, node: &Node, key: &str) -> Option<Expr> {
        self.over_event(node, key, true)
    }

    fn over_event(&mut self, node: &Node, key: &str, any_kind: bool) -> Option<Expr> {
        let before = self.faults.count();
        match self.scalar(node, Scope::event(Sees::Any)) {
            Some((expr, kind)) if any_kind || !matches!(kind, Type::Group | Type::List) => {
                self.weigh(expr.size(), &node.span);
                Some(expr)
            }
            _ => {
                if self.faults.count() == before {
                    self.shape(node, format!("`{key}` is a formula or a text with holes"));
                }
                None
            }
        }
    }

    fn limits(&mut self, node: &Node) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for (key, node) in self.group_of(node, "`limits`") {
            let steps: Vec<String> = key.text.split('.').map(str::to_owned).collect();
            if steps.iter().any(String::is_empty) || steps.len() > 16 {
                self.faults.push(
                    "key",
                    key.span.clone(),
                    format!("`{}` is not a path in the item", key.text),
                    Some("for example properties.* or identity".to_owned()),
                );
            }
            let limit = self.limit(node);
            patterns.push(Pattern {
                text: key.text.clone(),
                steps,
                limit,
            });
            if patterns.len() > LIMITS_MAX {
                self.shape(node, format!("a request has at most {LIMITS_MAX} limits"));
                break;
            }
        }
        patterns
    }

    fn limit(&mut self, node: &Node) -> Limit {
        let members = self.group_of(node, "a limit");
        self.known_keys(
            members,
            &[
                "max_chars",
                "max_bytes",
                "max_items",
                "max_age",
                "over",
                "reason",
                "shed",
            ],
            "a limit",
        );
        let mut limit = Limit::default();
        for (key, node) in members {
            match key.text.as_str() {
                "max_chars" => limit.max_chars = self.count(node, "max_chars"),
                "max_bytes" => limit.max_bytes = self.bytes(node, "max_bytes"),
                "max_items" => limit.max_items = self.count(node, "max_items"),
                "max_age" => {
                    limit.max_age_ms = self
                        .duration(node, "max_age")
                        .and_then(|age| i64::try_from(age.as_millis()).ok());
                }
                "reason" => limit.reason = self.reason(node),
                "shed" => limit.shed = self.shed(node, members),
                "over" => {
                    limit.over = match node.text() {
                        Some("cut") => OverRule::Cut,
                        Some("omit") => OverRule::Omit,
                        Some("skip") => OverRule::Skip,
                        Some("reject") => OverRule::Reject,
                        _ => {
                            self.shape(node, "`over` is cut, omit, skip or reject");
                            OverRule::Cut
                        }
                    };
                    if limit.over == OverRule::Cut && find(members, "max_age").is_some() {
                        self.shape(node, "a time cannot be cut: write omit, skip or reject");
                    }
                }
                _ => {}
            }
        }
        if !members.iter().any(|(key, _)| key.text.starts_with("max_")) {
            self.faults.push(
                "missing",
                node.span.clone(),
                "this limits nothing".to_owned(),
                Some("write max_chars, max_bytes, max_items or max_age".to_owned()),
            );
        }
        limit
    }

    /// A metric label, so a short name.
    fn reason(&mut self, node: &Node) -> Option<String> {
        let reason = self.plain_text(node, "reason")?;
        if !reason
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            self.shape(
                node,
                "`reason` is a short name: small letters, digits and _",
            );
        }
        Some(reason)
    }

    fn shed(&mut self, node: &Node, limit: &[(Key, Node)]) -> Vec<String> {
        if find(limit, "max_bytes").is_none() {
            self.shape(
                node,
                "`shed` needs `max_bytes`: what the group is to fit into",
            );
        }
        let names: Vec<String> = node
            .list()
            .unwrap_or(&[])
            .iter()
            .filter_map(|node| node.text().map(str::to_owned))
            .collect();
        if names.is_empty() || names.len() > 64 {
            self.faults.push(
                "shape",
                node.span.clone(),
                "`shed` is a list of fields to leave out, the first first".to_owned(),
                Some("for example [rule_key, \"*\"], where \"*\" is any other field".to_owned()),
            );
        }
        names
    }

    fn responses(&mut self, node: &Node) -> Vec<Rule> {
        let Kind::List(items) = &node.kind else {
            self.shape(node, "`responses` is a list of `when` and `then`");
            return Vec::new();
        };
        let mut scope = Scope::event(Sees::None);
        scope.reply = true;
        scope.tables = false;
        let mut rules = Vec::new();
        for node in items {
            let members = self.group_of(node, "a response");
            self.known_keys(members, &["when", "then"], "a response");
            let (Some(when), Some(then)) = (find(members, "when"), find(members, "then")) else {
                self.faults.error(
                    "missing",
                    node.span.clone(),
                    "a response needs `when` and `then`".to_owned(),
                );
                continue;
            };
            let when = self.conditions(when, scope);
            match Outcome::named(then.text().unwrap_or("")) {
                Some(then) => rules.push(Rule { when, then }),
                None => self.shape(
                    then,
                    "`then` is delivered, retry, bisect, split, reject or pause",
                ),
            }
        }
        rules
    }

    /// An address: https, its host fixed or chosen by the installer.
    pub(crate) fn url(&mut self, node: &Node, scope: Scope) -> Option<Expr> {
        let before = self.faults.count();
        let found = self.scalar(node, scope);
        let Some((expr, Type::Text | Type::Any)) = found else {
            if self.faults.count() == before {
                self.shape(node, "an address is a text or a formula");
            }
            return None;
        };
        if !self.weigh(expr.size(), &node.span) {
            return None;
        }
        let mut wrong = None;
        leaves(&expr, &mut |leaf| {
            if let Err(message) = self.address_fine(leaf) {
                wrong.get_or_insert(message);
            }
        });
        if let Some((message, help)) = wrong {
            self.faults
                .push("url", node.span.clone(), message, Some(help));
            return None;
        }
        Some(expr)
    }

    fn address_fine(&self, leaf: &Expr) -> Result<(), (String, String)> {
        // `{values.api}/events`: each start that may be chosen, with what follows.
        if let Expr::Pieces(parts) = leaf
            && let [
                start @ Expr::Call(Fun::First | Fun::If | Fun::Required, _),
                rest @ ..,
            ] = parts.as_ref()
        {
            let mut result = Ok(());
            leaves(start, &mut |start| {
                let own = match start {
                    Expr::Pieces(parts) => parts.to_vec(),
                    one => vec![one.clone()],
                };
                let whole: Vec<Expr> = own.iter().chain(rest).cloned().collect();
                if result.is_ok() && !matches!(start, Expr::Missing) {
                    result = self.address_fine(&Expr::Pieces(whole.into()));
                }
            });
            return result;
        }
        let kind = |name: &str| {
            self.fields
                .iter()
                .find(|field| field.key == name)
                .map(|field| &field.kind)
        };
        let host_help =
            "the host is written out, or comes from a `url` or `choice` field of the config";
        let parts: &[Expr] = match leaf {
            Expr::Pieces(parts) => parts,
            Expr::Missing => return Ok(()),
            one => std::slice::from_ref(one),
        };
        let mut start = String::new();
        for part in parts {
            match part {
                Expr::Text(text) => start.push_str(text),
                Expr::Config(name) if start.is_empty() => {
                    return match kind(name) {
                        Some(FieldKind::Url) => Ok(()),
                        Some(FieldKind::Choice(options))
                            if options.iter().all(|(_, url)| https_host(url).is_some()) =>
                        {
                            Ok(())
                        }
                        _ => Err((
                            format!("an address cannot start with `config.{name}`"),
                            host_help.to_owned(),
                        )),
                    };
                }
                Expr::Config(name) if matches!(kind(name), Some(FieldKind::Choice(_))) => {
                    start.push_str("chosen");
                }
                _ => break,
            }
            if https_host(&start).is_some_and(|(_, whole)| whole) {
                return Ok(());
            }
        }
        match https_host(&start) {
            // The end of the text ends the host too.
            Some((host, _)) if !host.is_empty() && parts.len() == 1 => Ok(()),
            Some(_)
                if parts.iter().all(|part| match part {
                    Expr::Text(_) => true,
                    Expr::Config(name) => matches!(kind(name), Some(FieldKind::Choice(_))),
                    _ => false,
                }) =>
            {
                Ok(())
            }
            Some(_) => Err((
                "the host of this address is not fixed".to_owned(),
                host_help.to_owned(),
            )),
            None => Err((
                "an address starts with https://".to_owned(),
                host_help.to_owned(),
            )),
        }
    }
}

/// What may be sent in a header.
pub(crate) fn header_text(text: &str) -> bool {
    text.bytes()
        .all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t')
}

/// The host of an https address (plain http: of this machine only), and whether it is there to its end.
fn https_host(start: &str) -> Option<(&str, bool)> {
    let (rest, plain) = match start.strip_prefix("https://") {
        Some(rest) => (rest, false),
        None => (start.strip_prefix("http://")?, true),
    };
    let end = rest.find(['/', '?', '#']);
    let host = &rest[..end.unwrap_or(rest.len())];
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let local = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    if host.contains('@') || (plain && !local) {
        return None;
    }
    Some((host, end.is_some()))
}

/// The texts a formula may choose between.
pub(crate) fn leaves(expr: &Expr, f: &mut dyn FnMut(&Expr)) {
    match expr {
        Expr::Call(Fun::First | Fun::Required, args) => args.iter().for_each(|arg| leaves(arg, f)),
        Expr::Call(Fun::If, args) => args.iter().skip(1).for_each(|arg| leaves(arg, f)),
        leaf => f(leaf),
    }
}

fn count_items(tpl: &Tpl) -> usize {
    match tpl {
        Tpl::Items | Tpl::Item => 1,
        Tpl::Group(members) => members
            .iter()
            .map(|member| match member {
                Member::Field { tpl, .. } => count_items(tpl),
                Member::Spread { .. } => 0,
            })
            .sum(),
        Tpl::List(items) => items
            .iter()
            .map(|Element { tpl, .. }| count_items(tpl))
            .sum(),
        Tpl::Each(each) => count_items(&each.row),
        _ => 0,
    }
}

/// An unbatched request may use the event around its item. What it uses is put beside the item when the
/// event is mapped, so that the request can be made without the event.
fn lift_holes(request: &mut RequestDef) {
    let mut holes: Vec<Expr> = Vec::new();
    let mut lift = |expr: &Expr| {
        expr.replace(&mut |part| {
            let Expr::Event(root, steps) = part else {
                return None;
            };
            let known = holes
                .iter()
                .position(|hole| matches!(hole, Expr::Event(r, s) if r == root && s == steps));
            let at = known.unwrap_or_else(|| {
                holes.push(Expr::Event(*root, Arc::clone(steps)));
                holes.len() - 1
            });
            Some(Expr::Hole(at))
        })
    };
    if !request.batched {
        request.url = lift(&request.url);
        for (_, header) in &mut request.headers {
            *header = lift(header);
        }
        request.body = request.body.as_ref().map(|body| body.map(&mut lift));
    }
    request.holes = holes;
}
