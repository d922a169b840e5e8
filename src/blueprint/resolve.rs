//! What the names in a formula mean where it stands: event fields, config, values, tables, functions.
//!
//! Every name is checked here, and every argument whose kind is certain.

use std::ops::Range;
use std::sync::Arc;

use super::compile::Compiler;
use super::diagnostic::did_you_mean;
use super::expr::{Expr, Root, Steps, TableRef};
use super::formula::{self, Formula, Kind, Piece, Slip, Word};
use super::function::{FUNCTIONS, Fun, Signature, Takes, Type, named};
use super::yaml::{Node, Span, Text};

/// Which events a formula may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sees {
    /// None: one request carries many.
    None,
    /// Calls of this kind, which are no decisions.
    Call(&'static str),
    Decision,
    /// Any event.
    Any,
}

/// What may stand where a formula stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) sees: Sees,
    /// A secret may be used.
    pub(crate) secret: bool,
    /// `fields.x`.
    pub(crate) fields: bool,
    /// Inside an `each`.
    pub(crate) row: bool,
    pub(crate) tables: bool,
    /// `items` of a batched request, `item` of another.
    pub(crate) items: Option<bool>,
    /// `status` and `body`.
    pub(crate) reply: bool,
}

impl Scope {
    /// In what an event becomes.
    pub(crate) const fn event(sees: Sees) -> Self {
        Self {
            sees,
            secret: false,
            fields: false,
            row: false,
            tables: true,
            items: None,
            reply: false,
        }
    }
}

/// Where a formula stands in the source.
#[derive(Debug)]
pub(crate) struct Origin {
    whole: Span,
    exact: Option<usize>,
    /// It is unquoted inside `[ ]` or `{ }`.
    flow: bool,
}

impl Origin {
    pub(crate) fn of(node: &Node, text: &Text) -> Self {
        Self {
            whole: node.span.clone(),
            exact: text.exact,
            flow: node.flow && text.exact == Some(node.span.start),
        }
    }

    pub(crate) fn of_key(span: &Span, source: &str, text: &str) -> Self {
        let exact = match source.get(span.clone()) {
            Some(raw) if raw == text => Some(span.start),
            Some(raw) if raw.get(1..raw.len().saturating_sub(1)) == Some(text) => {
                Some(span.start + 1)
            }
            _ => None,
        };
        Self {
            whole: span.clone(),
            exact,
            flow: false,
        }
    }

    fn at(&self, span: &Range<usize>) -> Span {
        match self.exact {
            Some(base) => base + span.start..base + span.end.max(span.start),
            None => self.whole.clone(),
        }
    }
}

const DECISION: &[(&str, Type)] = &[
    ("type", Type::Text),
    ("flagKey", Type::Text),
    ("flagSlug", Type::Text),
    ("enabled", Type::YesNo),
    ("variationKey", Type::Text),
    ("ruleKey", Type::Text),
    ("ruleKind", Type::Text),
    ("experimentKey", Type::Text),
    ("experimentId", Type::Text),
    ("variationId", Type::Text),
    ("layerId", Type::Text),
    ("revision", Type::Text),
    ("decisionEventDispatched", Type::YesNo),
    ("impression", Type::YesNo),
    ("heldOut", Type::Group),
    ("cmabUuid", Type::Text),
    ("origin", Type::Text),
    ("attributes", Type::Group),
    ("variables", Type::Group),
    ("reasons", Type::List),
];

const ROOTS: &[(&str, Root, Type)] = &[
    ("type", Root::Plain("type"), Type::Text),
    ("event", Root::Plain("event"), Type::Text),
    ("name", Root::Plain("name"), Type::Text),
    ("userId", Root::Plain("userId"), Type::Text),
    ("anonymousId", Root::Plain("anonymousId"), Type::Text),
    ("groupId", Root::Plain("groupId"), Type::Text),
    ("messageId", Root::Plain("messageId"), Type::Text),
    ("eventId", Root::Plain("eventId"), Type::Text),
    ("timestamp", Root::Timestamp, Type::Text),
    ("receivedAt", Root::ReceivedAt, Type::Text),
    ("sentAt", Root::Plain("sentAt"), Type::Text),
    ("properties", Root::Plain("properties"), Type::Group),
    ("traits", Root::Traits, Type::Group),
    ("context", Root::Plain("context"), Type::Group),
    ("decision", Root::Plain("decision"), Type::Group),
];

fn steps(words: &[Word]) -> Steps {
    words.iter().map(|word| word.text.as_str().into()).collect()
}

impl Compiler<'_> {
    /// A formula as it stands in the file, `=` included.
    pub(crate) fn formula(
        &mut self,
        source: &str,
        origin: &Origin,
        scope: Scope,
    ) -> Option<(Expr, Type)> {
        match formula::read(source, 1) {
            Ok(formula) => self.resolve(&formula, origin, scope),
            Err(slip) => {
                self.slip(slip, origin);
                None
            }
        }
    }

    /// A text with holes.
    pub(crate) fn pieces(&mut self, source: &str, origin: &Origin, scope: Scope) -> Option<Expr> {
        match formula::read_text(source) {
            Ok(pieces) => self.resolve_pieces(&pieces, origin, scope),
            Err(slip) => {
                self.slip(slip, origin);
                None
            }
        }
    }

    fn slip(&mut self, slip: Slip, origin: &Origin) {
        let after = self.source.get(origin.whole.end..).unwrap_or("");
        let comment = after.starts_with(' ') && after.trim_start_matches(' ').starts_with('#');
        let help = if slip.cut && comment {
            Some(
                "YAML ends a value at ` #`; if the text has one, put the whole formula in single quotes"
                    .to_owned(),
            )
        } else if slip.cut && origin.flow {
            Some(
                "inside [ ] or { } YAML cuts a value at a comma: give the formula a line of its own"
                    .to_owned(),
            )
        } else {
            slip.help
        };
        self.faults
            .push("formula", origin.at(&slip.span), slip.message, help);
    }

    fn resolve(
        &mut self,
        formula: &Formula,
        origin: &Origin,
        scope: Scope,
    ) -> Option<(Expr, Type)> {
        match &formula.kind {
            Kind::Number(text) => Some((Expr::Number(text.as_str().into()), Type::Number)),
            Kind::Bool(yes) => Some((Expr::YesNo(*yes), Type::YesNo)),
            Kind::Text(pieces) => Some((self.resolve_pieces(pieces, origin, scope)?, Type::Text)),
            Kind::Path(words) => self.path(words, &origin.at(&formula.span), scope),
            Kind::Call { name, args } => {
                self.call(name, args, &origin.at(&formula.span), origin, scope)
            }
        }
    }

    fn resolve_pieces(&mut self, pieces: &[Piece], origin: &Origin, scope: Scope) -> Option<Expr> {
        if let [Piece::Plain(text)] = pieces {
            return Some(Expr::Text(text.as_str().into()));
        }
        let mut parts = Vec::with_capacity(pieces.len());
        let mut fine = true;
        for piece in pieces {
            match piece {
                Piece::Plain(text) => parts.push(Expr::Text(text.as_str().into())),
                Piece::Hole(formula) => match self.resolve(formula, origin, scope) {
                    Some((expr, kind)) => {
                        if !Takes::Scalar.allows(kind) {
                            self.faults.error(
                                "type",
                                origin.at(&formula.span),
                                format!("a text cannot hold {}", kind.words()),
                            );
                        }
                        parts.push(expr);
                    }
                    None => fine = false,
                },
            }
        }
        fine.then(|| Expr::Pieces(parts.into()))
    }

    fn path(&mut self, words: &[Word], span: &Span, scope: Scope) -> Option<(Expr, Type)> {
        let (first, rest) = words.split_first()?;
        match first.text.as_str() {
            "config" => self.config_path(rest, span, scope),
            "values" => self.values_path(rest, span, scope),
            "gateway" => self.gateway_path(rest, span),
            "fields" if scope.fields => match rest {
                [name] => {
                    self.fields_used.insert(name.text.clone());
                    Some((Expr::Entry(name.text.as_str().into()), Type::Any))
                }
                _ => self.unknown(
                    span,
                    "write `fields.` and the name of one field of the entry",
                    None,
                ),
            },
            "row" if scope.row => Some((Expr::Row(steps(rest)), Type::Any)),
            "row" => self.unknown(span, "`row` is known only in the `row` of an `each`", None),
            "status" if scope.reply && rest.is_empty() => Some((Expr::Status, Type::Number)),
            "body" if scope.reply => Some((Expr::Reply(steps(rest)), Type::Any)),
            "items" | "item" if scope.items.is_some() => {
                let message = if rest.is_empty() {
                    format!(
                        "`{}` stands alone in the body: `=items` or `=item`",
                        first.text
                    )
                } else {
                    format!(
                        "`{}` is placed whole: nothing of it can be taken out",
                        first.text
                    )
                };
                self.unknown(span, &message, None)
            }
            _ => self.event_path(first, rest, span, scope),
        }
    }

    fn unknown<T>(&mut self, span: &Span, message: &str, help: Option<String>) -> Option<T> {
        self.faults
            .push("name", span.clone(), message.to_owned(), help);
        None
    }

    fn gateway_path(&mut self, rest: &[Word], span: &Span) -> Option<(Expr, Type)> {
        match rest {
            [name] if name.text == "version" => {
                Some((Expr::Text(env!("CARGO_PKG_VERSION").into()), Type::Text))
            }
            [name] if name.text == "name" => {
                Some((Expr::Text(env!("CARGO_PKG_NAME").into()), Type::Text))
            }
            _ => self.unknown(span, "`gateway` has `name` and `version`", None),
        }
    }

    fn config_path(&mut self, rest: &[Word], span: &Span, scope: Scope) -> Option<(Expr, Type)> {
        let [name] = rest else {
            return self.unknown(span, "write `config.` and the name of one field", None);
        };
        let Some(field) = self.fields.iter().find(|field| field.key == name.text) else {
            let help = did_you_mean(&name.text, self.fields.iter().map(|f| f.key.as_str()));
            let message = format!("`config` has no field `{}`", name.text);
            return self.unknown(span, &message, help);
        };
        let (secret, kind) = match field.kind {
            super::FieldKind::Secret => (true, Type::Text),
            super::FieldKind::Number => (false, Type::Number),
            super::FieldKind::YesNo => (false, Type::YesNo),
            _ => (false, Type::Text),
        };
        self.config_used.insert(name.text.clone());
        if secret && !scope.secret {
            self.secret_fault(span, &format!("`config.{}` is a secret", name.text));
            return None;
        }
        Some((Expr::Config(name.text.as_str().into()), kind))
    }

    fn secret_fault(&mut self, span: &Span, what: &str) {
        self.faults.error(
            "secret",
            span.clone(),
            format!("{what}: it may stand only in a URL, a header or a table's `from`"),
        );
    }

    fn values_path(&mut self, rest: &[Word], span: &Span, scope: Scope) -> Option<(Expr, Type)> {
        let Some((name, rest)) = rest.split_first() else {
            return self.unknown(span, "write `values.` and the name of one value", None);
        };
        let Some(value) = self.values.iter().find(|value| value.name == name.text) else {
            let known = self.value_names.contains(&name.text);
            let help = if known {
                Some("a value may use only those above it".to_owned())
            } else {
                did_you_mean(&name.text, self.value_names.iter().map(String::as_str))
            };
            let message = format!("there is no `{}` in `values` yet", name.text);
            return self.unknown(span, &message, help);
        };
        let (expr, kind) = value.expr.clone()?;
        let (event, decision, secret, lookup) =
            (value.event, value.decision, value.secret, value.lookup);
        self.values_used.insert(name.text.clone());
        let shown = format!("values.{}", name.text);
        if secret && !scope.secret {
            self.secret_fault(span, &format!("`{shown}` holds a secret"));
            return None;
        }
        if event && scope.sees == Sees::None {
            return self.no_event(&shown, span, scope);
        }
        if let (true, Sees::Call(call)) = (decision, scope.sees) {
            let message = format!("{call} has no `decision`, which `{shown}` uses");
            return self.unknown(span, &message, None);
        }
        if lookup && !scope.tables {
            return self.unknown(
                span,
                &format!("`{shown}` uses a table: that cannot be done here"),
                None,
            );
        }
        if rest.is_empty() {
            return Some((expr, kind));
        }
        if !matches!(kind, Type::Any | Type::Group | Type::List) {
            let message = format!("`{shown}` is {}: it has no fields", kind.words());
            return self.unknown(span, &message, None);
        }
        Some((Expr::Within(Arc::new(expr), steps(rest)), Type::Any))
    }

    fn no_event<T>(&mut self, shown: &str, span: &Span, scope: Scope) -> Option<T> {
        let why = if scope.reply {
            "a reply is read by its status and body"
        } else if scope.items.is_some() || scope.tables {
            "one request carries many events, so only config and items are"
        } else {
            "a table is read before there is an event, so only config is"
        };
        self.unknown(span, &format!("`{shown}` is not known here: {why}"), None)
    }

    fn event_path(
        &mut self,
        first: &Word,
        rest: &[Word],
        span: &Span,
        scope: Scope,
    ) -> Option<(Expr, Type)> {
        let Some((name, root, kind)) = ROOTS.iter().find(|(name, ..)| *name == first.text) else {
            return self.unknown_root(first, span, scope);
        };
        match scope.sees {
            Sees::None => return self.no_event(name, span, scope),
            Sees::Call(call) if *name == "decision" => {
                return self.unknown(span, &format!("{call} has no `decision`"), None);
            }
            _ => {}
        }
        let kind = if *name == "decision" && !rest.is_empty() {
            let Some((_, kind)) = DECISION.iter().find(|(name, _)| *name == rest[0].text) else {
                let help = did_you_mean(&rest[0].text, DECISION.iter().map(|(name, _)| *name));
                let message = format!("a decision has no `{}`", rest[0].text);
                return self.unknown(span, &message, help);
            };
            if rest.len() > 1 {
                self.inside(&format!("decision.{}", rest[0].text), *kind, span)?
            } else {
                *kind
            }
        } else if rest.is_empty() {
            *kind
        } else {
            self.inside(name, *kind, span)?
        };
        Some((Expr::Event(*root, steps(rest)), kind))
    }

    /// The kind of something inside a value: anything, when it may have fields at all.
    fn inside(&mut self, shown: &str, kind: Type, span: &Span) -> Option<Type> {
        if matches!(kind, Type::Any | Type::Group | Type::List) {
            return Some(Type::Any);
        }
        let message = format!("`{shown}` is {}: it has no fields", kind.words());
        self.unknown(span, &message, None)
    }

    fn unknown_root<T>(&mut self, first: &Word, span: &Span, scope: Scope) -> Option<T> {
        let mut known: Vec<&str> = vec!["config", "values", "gateway"];
        if scope.sees != Sees::None {
            known.extend(ROOTS.iter().map(|(name, ..)| *name));
        }
        if scope.fields {
            known.push("fields");
        }
        if scope.row {
            known.push("row");
        }
        if scope.reply {
            known.extend(["status", "body"]);
        }
        let name = &first.text;
        let mut help = did_you_mean(name, known.iter().copied());
        if help.is_none() && FUNCTIONS.iter().any(|function| function.name == name) {
            help = named(name).map(|function| format!("a function is called: {}", function.usage));
        }
        if help.is_none() && self.table_names.iter().any(|table| table == name) {
            help = Some(format!("a table is looked into: lookup({name}, key)"));
        }
        if help.is_none() && scope.sees != Sees::None {
            help = Some(format!(
                "what the app sent along is under `properties`, `traits` or `context`; a text stands in quotes: \"{name}\""
            ));
        }
        let message = match scope.sees {
            Sees::None => format!("`{name}` is not known here"),
            _ => format!("an event has no `{name}`"),
        };
        self.unknown(span, &message, help)
    }

    fn call(
        &mut self,
        name: &Word,
        args: &[Formula],
        span: &Span,
        origin: &Origin,
        scope: Scope,
    ) -> Option<(Expr, Type)> {
        let Some(signature) = named(&name.text) else {
            let help = did_you_mean(&name.text, FUNCTIONS.iter().map(|function| function.name));
            self.faults.push(
                "formula",
                origin.at(&name.span),
                format!("there is no function `{}`", name.text),
                help,
            );
            return None;
        };
        if args.len() < signature.least || args.len() > signature.most {
            self.faults.push(
                "formula",
                span.clone(),
                format!(
                    "`{}` takes {}, not {}",
                    signature.name,
                    count_words(signature),
                    args.len()
                ),
                Some(format!("write {}", signature.usage)),
            );
            return None;
        }
        let mut given = Vec::with_capacity(args.len());
        let mut kinds = Vec::with_capacity(args.len());
        let mut fine = true;
        for (at, arg) in args.iter().enumerate() {
            match self.argument(signature, at, arg, origin, scope) {
                Some((expr, kind)) => {
                    given.push(expr);
                    kinds.push(kind);
                }
                None => fine = false,
            }
        }
        if !fine {
            return None;
        }
        if let (Fun::Clean, Some(Expr::Text(written))) = (signature.fun, given.get(1))
            && super::texts::class(written).is_none()
        {
            self.faults.push(
                "formula",
                args.get(1).map_or(span.clone(), |arg| origin.at(&arg.span)),
                format!("\"{written}\" names no characters"),
                Some("write ASCII characters and ranges, such as A-Za-z0-9_".to_owned()),
            );
            return None;
        }
        let kind = match signature.fun {
            Fun::First => common(&kinds),
            Fun::If => common(&kinds[1..]),
            Fun::Required | Fun::Within => kinds[0],
            _ => signature.gives,
        };
        Some((Expr::Call(signature.fun, given.into()), kind))
    }

    fn argument(
        &mut self,
        signature: &Signature,
        at: usize,
        arg: &Formula,
        origin: &Origin,
        scope: Scope,
    ) -> Option<(Expr, Type)> {
        let takes = signature
            .takes
            .get(at)
            .or(signature.takes.last())
            .copied()
            .unwrap_or(Takes::Any);
        let span = origin.at(&arg.span);
        match (takes, &arg.kind) {
            (Takes::Table, _) => return self.table_argument(arg, &span, scope),
            (Takes::Name | Takes::Written, Kind::Text(pieces))
                if matches!(pieces.as_slice(), [Piece::Plain(_)]) => {}
            (Takes::Name | Takes::Written, _) => {
                let help = match &arg.kind {
                    Kind::Path(words) if words.len() == 1 => {
                        Some(format!("write \"{}\"", words[0].text))
                    }
                    _ => None,
                };
                self.faults.push(
                    "type",
                    span,
                    format!("`{}` takes {} here", signature.name, takes.words()),
                    help,
                );
                return None;
            }
            _ => {}
        }
        let (expr, kind) = self.resolve(arg, origin, scope)?;
        if !takes.allows(kind) {
            self.faults.push(
                "type",
                span,
                format!(
                    "`{}` takes {} here, and this is {}",
                    signature.name,
                    takes.words(),
                    kind.words()
                ),
                Some(format!("write {}", signature.usage)),
            );
            return None;
        }
        Some((expr, kind))
    }

    fn table_argument(&mut self, arg: &Formula, span: &Span, scope: Scope) -> Option<(Expr, Type)> {
        let Kind::Path(words) = &arg.kind else {
            return self.unknown(
                span,
                "the name of one of the `tables` should stand here",
                None,
            );
        };
        let name = &words[0].text;
        if !scope.tables {
            return self.unknown(span, "a table cannot be used here", None);
        }
        let Some(table) = self.tables.iter().find(|table| table.name == *name) else {
            let help = did_you_mean(name, self.table_names.iter().map(String::as_str));
            return self.unknown(span, &format!("there is no table `{name}`"), help);
        };
        if words.len() > 1 {
            return self.unknown(span, "a table's name has no dots", None);
        }
        let table: TableRef = table.reference.clone();
        self.tables_used.insert(name.clone());
        Some((Expr::Table(table), Type::Any))
    }
}

/// The kind all of them are.
fn common(kinds: &[Type]) -> Type {
    match kinds.split_first() {
        Some((first, rest)) if rest.iter().all(|kind| kind == first) => *first,
        _ => Type::Any,
    }
}

fn count_words(signature: &Signature) -> String {
    let (least, most) = (signature.least, signature.most);
    let plural = |count: usize| if count == 1 { "value" } else { "values" };
    if least == most {
        format!("{least} {}", plural(least))
    } else if most >= 32 {
        format!("{least} {} or more", plural(least))
    } else {
        format!("{least} to {most} values")
    }
}
