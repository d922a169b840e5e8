//! Running a formula on one event: what it gives, and what could not be computed.
//!
//! Bounded: a formula has no loops but those over the rows of a list or group in the event.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::cmp::Ordering;

use base64::Engine as _;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::Tables;
use super::amount::{
    amount, compare, in_range, iso8601, minor_units, not_a_number, number, sum, time, within,
};
use super::expr::{Expr, TableRef};
use super::function::Fun;
use super::javascript;
use super::texts::{self, hex, join, kept, made};
use crate::clock::Millis;
use crate::event::money;
use crate::event::reads::{Found, Seen};

/// What a formula gives.
#[derive(Debug, Clone)]
pub(crate) enum Val<'a> {
    /// Absent, null, or an empty text of the event.
    Missing,
    /// A part of the event, of a table or of a reply; never null and never an empty text.
    Json(&'a Value),
    Text(Cow<'a, str>),
    /// A JSON number.
    Number(Cow<'a, str>),
    YesNo(bool),
    /// A group to be gone through with [`visit_group`].
    Group(&'a Expr),
}

/// Why something has no value, or may not be sent.
#[derive(Debug, Clone)]
pub(crate) enum Problem {
    /// The field is left out.
    Note(String),
    /// A required value is missing; perhaps with the reason to give.
    Missing(Option<String>),
    /// A required key is not in its table: (table, label, key, hold).
    Hold(std::sync::Arc<super::expr::RemoteTable>, String),
    /// The item must not be sent as it is.
    Refuse {
        reason: &'static str,
        detail: String,
    },
}

/// All that formulas may look at.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(super) seen: Option<&'a Seen<'a>>,
    tables: &'a Tables,
    reply: Option<(u16, &'a Value)>,
    holes: &'a [Value],
    traits: OnceCell<Option<Value>>,
    problems: RefCell<Vec<Problem>>,
    troubled: Cell<bool>,
    made: OnceCell<Box<Kept>>,
}

/// Values that formulas made, kept as long as what they are about.
#[derive(Debug, Default)]
struct Kept {
    values: [OnceCell<Value>; 16],
    more: OnceCell<Box<Kept>>,
}

/// The row an `each` is at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row<'a> {
    Item(&'a Value),
    Pair(&'a str, &'a Value),
    Single(&'a Value),
}

/// What formulas look at, at one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cx<'a> {
    pub(crate) scene: &'a Scene<'a>,
    pub(crate) row: Option<Row<'a>>,
}

impl<'a> Scene<'a> {
    pub(crate) fn of_event(seen: &'a Seen<'a>, tables: &'a Tables) -> Self {
        Self::new(Some(seen), tables, None, &[])
    }

    pub(crate) fn of_reply(status: u16, body: &'a Value, tables: &'a Tables) -> Self {
        Self::new(None, tables, Some((status, body)), &[])
    }

    pub(crate) fn of_request(holes: &'a [Value], tables: &'a Tables) -> Self {
        Self::new(None, tables, None, holes)
    }

    fn new(
        seen: Option<&'a Seen<'a>>,
        tables: &'a Tables,
        reply: Option<(u16, &'a Value)>,
        holes: &'a [Value],
    ) -> Self {
        Self {
            seen,
            tables,
            reply,
            holes,
            traits: OnceCell::new(),
            problems: RefCell::new(Vec::new()),
            troubled: Cell::new(false),
            made: OnceCell::new(),
        }
    }

    pub(crate) fn cx(&'a self) -> Cx<'a> {
        Cx {
            scene: self,
            row: None,
        }
    }

    pub(crate) fn received_at_ms(&self) -> Millis {
        self.seen.map_or(Millis::MAX, |seen| seen.received_at_ms)
    }

    pub(super) fn problem(&self, problem: Problem) {
        self.troubled.set(true);
        self.problems.borrow_mut().push(problem);
    }

    /// Keeps a value that was made.
    pub(super) fn keep(&self, value: Value) -> &Value {
        let mut kept = self.made.get_or_init(Box::default);
        let mut value = Some(value);
        loop {
            for place in &kept.values {
                if place.get().is_none()
                    && let Some(value) = value.take()
                {
                    return place.get_or_init(|| value);
                }
            }
            kept = kept.more.get_or_init(Box::default);
        }
    }

    /// What went wrong since this was last asked.
    pub(crate) fn take_problems(&self) -> Vec<Problem> {
        if self.troubled.replace(false) {
            std::mem::take(&mut *self.problems.borrow_mut())
        } else {
            Vec::new()
        }
    }

    pub(crate) fn troubled(&self) -> bool {
        self.troubled.get()
    }

    /// The event's own traits over those in its context.
    fn traits(&'a self, own: usize, context: Option<usize>) -> Option<&'a Value> {
        let seen = self.seen?;
        let group = |number: usize| match seen.at(number) {
            Found::Json(value) if value.is_object() => Some(value.as_ref()),
            _ => None,
        };
        match (group(own), context.and_then(group)) {
            (own, None) => own,
            (None, context) => context,
            (Some(Value::Object(own)), Some(Value::Object(context))) => self
                .traits
                .get_or_init(|| {
                    let mut merged: Map<String, Value> = own.clone();
                    for (key, value) in context {
                        if !merged.contains_key(key) {
                            merged.insert(key.clone(), value.clone());
                        }
                    }
                    Some(Value::Object(merged))
                })
                .as_ref(),
            (own, _) => own,
        }
    }
}

/// What has no value for the language: null and the empty text.
pub(super) fn known(value: &Value) -> Val<'_> {
    match value {
        Value::Null => Val::Missing,
        Value::String(text) if text.is_empty() => Val::Missing,
        value => Val::Json(value),
    }
}

fn down<'a>(value: &'a Value, steps: &[Box<str>]) -> Val<'a> {
    let mut value = value;
    for step in steps {
        let next = match value {
            Value::Object(members) => members.get(step.as_ref()),
            Value::Array(items) => step.parse::<usize>().ok().and_then(|at| items.get(at)),
            _ => None,
        };
        match next {
            Some(next) => value = next,
            None => return Val::Missing,
        }
    }
    known(value)
}

impl<'a> Val<'a> {
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }

    /// The value as text, when it is a single value.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text),
            Self::YesNo(yes) => Some(Cow::Borrowed(if yes { "true" } else { "false" })),
            Self::Json(Value::String(text)) => Some(Cow::Borrowed(text)),
            Self::Json(Value::Number(number)) => Some(Cow::Borrowed(number.as_str())),
            Self::Json(Value::Bool(yes)) => {
                Some(Cow::Borrowed(if *yes { "true" } else { "false" }))
            }
            _ => None,
        }
    }

    /// The text of a number, or of a text that reads as one.
    pub(super) fn numeric(self) -> Option<Cow<'a, str>> {
        if matches!(self, Self::YesNo(_) | Self::Json(Value::Bool(_))) {
            return None;
        }
        self.text().filter(|text| money::is_number(text))
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Json(Value::Number(_)))
    }

    fn yes_no(&self) -> Option<bool> {
        match self {
            Self::YesNo(yes) | Self::Json(Value::Bool(yes)) => Some(*yes),
            _ => None,
        }
    }

    /// True only when it is true.
    pub(crate) fn is_true(&self) -> bool {
        self.yes_no() == Some(true)
    }

    /// Beginning of it, for messages.
    pub(crate) fn shown(&self) -> String {
        match self.clone().text() {
            Some(text) => {
                let mut short: String = text.chars().take(60).collect();
                if short.len() < text.len() {
                    short.push('…');
                }
                format!("`{short}`")
            }
            None => match self {
                Self::Json(Value::Array(_)) => "a list".to_owned(),
                Self::Missing => "nothing".to_owned(),
                _ => "a group".to_owned(),
            },
        }
    }
}

/// Runs a formula.
pub(crate) fn eval<'a>(expr: &'a Expr, cx: Cx<'a>) -> Val<'a> {
    match expr {
        // The places of an event are numbered before there is one.
        Expr::Missing | Expr::Config(_) | Expr::Entry(_) | Expr::Table(_) | Expr::Event(..) => {
            Val::Missing
        }
        Expr::Text(text) => Val::Text(Cow::Borrowed(text)),
        Expr::Number(text) => Val::Number(Cow::Borrowed(text)),
        Expr::YesNo(yes) => Val::YesNo(*yes),
        Expr::Pieces(parts) => pieces(parts, cx),
        Expr::Seen(number) => seen(*number, cx),
        Expr::Traits(own, context, steps) => match cx.scene.traits(*own, *context) {
            Some(traits) => down(traits, steps),
            None => Val::Missing,
        },
        Expr::Row(steps) => row_path(steps, cx),
        Expr::Status => match cx.scene.reply {
            Some((status, _)) => Val::Number(Cow::Owned(status.to_string())),
            None => Val::Missing,
        },
        Expr::Reply(steps) => match cx.scene.reply {
            Some((_, body)) => down(body, steps),
            None => Val::Missing,
        },
        Expr::Hole(at) => cx.scene.holes.get(*at).map_or(Val::Missing, known),
        Expr::Within(inner, steps) => match eval(inner, cx) {
            Val::Json(value) => down(value, steps),
            _ => Val::Missing,
        },
        Expr::Encoded(inner) => match eval(inner, cx).text() {
            Some(text) => Val::Text(Cow::Owned(super::request::percent_encoded(&text))),
            None => Val::Missing,
        },
        Expr::Call(fun, args) => call(*fun, expr, args, cx),
    }
}

fn pieces<'a>(parts: &'a [Expr], cx: Cx<'a>) -> Val<'a> {
    // Most are keys of some thirty bytes.
    let mut joined = String::with_capacity(48);
    for part in parts {
        match eval(part, cx).text() {
            Some(text) => joined.push_str(&text),
            None => return Val::Missing,
        }
    }
    Val::Text(Cow::Owned(joined))
}

fn seen<'a>(number: usize, cx: Cx<'a>) -> Val<'a> {
    match cx.scene.seen.map(|seen| seen.at(number)) {
        Some(Found::Text(text)) if !text.is_empty() => Val::Text(Cow::Borrowed(text)),
        Some(Found::Json(value)) => known(value),
        _ => Val::Missing,
    }
}

fn row_path<'a>(steps: &'a [Box<str>], cx: Cx<'a>) -> Val<'a> {
    match (cx.row, steps) {
        // A thing that is a single value, as if it stood alone.
        (Some(Row::Item(value)), [first])
            if first.as_ref() == "value" && !value.is_object() && !value.is_array() =>
        {
            known(value)
        }
        (Some(Row::Item(value)), steps) => down(value, steps),
        (Some(Row::Pair(key, _)), [first]) if first.as_ref() == "key" => {
            if key.is_empty() {
                Val::Missing
            } else {
                Val::Text(Cow::Borrowed(key))
            }
        }
        (Some(Row::Pair(_, value) | Row::Single(value)), [first, rest @ ..])
            if first.as_ref() == "value" =>
        {
            down(value, rest)
        }
        _ => Val::Missing,
    }
}

fn call<'a>(fun: Fun, expr: &'a Expr, args: &'a [Expr], cx: Cx<'a>) -> Val<'a> {
    let arg = |at: usize| args.get(at).map_or(Val::Missing, |arg| eval(arg, cx));
    let text = |make: &dyn Fn(&str) -> String| match arg(0).text() {
        Some(text) => made(make(&text)),
        None => Val::Missing,
    };
    match fun {
        Fun::First => args
            .iter()
            .map(|arg| eval(arg, cx))
            .find(|val| !val.is_missing())
            .unwrap_or(Val::Missing),
        Fun::If => {
            if arg(0).is_true() {
                arg(1)
            } else {
                arg(2)
            }
        }
        Fun::Required => required(args, cx),
        Fun::Is => Val::YesNo(is(&arg(0), args.get(1..).unwrap_or(&[]), cx)),
        Fun::Present => Val::YesNo(!arg(0).is_missing()),
        Fun::Not => Val::YesNo(!arg(0).is_true()),
        Fun::All => Val::YesNo(args.iter().all(|arg| eval(arg, cx).is_true())),
        Fun::Any => Val::YesNo(args.iter().any(|arg| eval(arg, cx).is_true())),
        Fun::MoreThan => Val::YesNo(compare(arg(0), arg(1)) == Some(Ordering::Greater)),
        Fun::LessThan => Val::YesNo(compare(arg(0), arg(1)) == Some(Ordering::Less)),
        Fun::Within => within(arg(0), arg(1)),
        Fun::Digits => match arg(0).text() {
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => Val::Text(text),
            _ => Val::Missing,
        },
        // The one null a formula can give: for vendors that tell "nothing" from "not said".
        Fun::OrNull => match arg(0) {
            Val::Missing => Val::Json(&Value::Null),
            val => val,
        },
        Fun::StartsWith => Val::YesNo(match (arg(0).text(), arg(1).text()) {
            (Some(text), Some(start)) => text.starts_with(start.as_ref()),
            _ => false,
        }),
        Fun::Text => arg(0).text().map_or(Val::Missing, Val::Text),
        Fun::Lower => match arg(0).text() {
            // Most addresses are in small letters already.
            Some(text) if text.is_ascii() && !text.bytes().any(|b| b.is_ascii_uppercase()) => {
                kept(text)
            }
            Some(text) => made(text.to_lowercase()),
            None => Val::Missing,
        },
        Fun::Upper => match arg(0).text() {
            // Most codes are in capitals already.
            Some(text) if text.is_ascii() && !text.bytes().any(|b| b.is_ascii_lowercase()) => {
                Val::Text(text)
            }
            Some(text) => made(text.to_uppercase()),
            None => Val::Missing,
        },
        Fun::Trim => match args.get(1).map(|chars| eval(chars, cx).text()) {
            None => match arg(0).text() {
                Some(Cow::Borrowed(text)) => kept(Cow::Borrowed(text.trim())),
                Some(Cow::Owned(text)) => made(text.trim().to_owned()),
                None => Val::Missing,
            },
            Some(chars) => {
                let chars = chars.unwrap_or_default();
                text(&|text| text.trim_matches(|c| chars.contains(c)).to_owned())
            }
        },
        Fun::Join => join(&arg(0), arg(1)),
        Fun::Slug => text(&texts::slug),
        Fun::Clean => match (
            arg(1).text().and_then(|written| texts::class(&written)),
            arg(2),
        ) {
            (Some(class), by) => {
                let by = by.text().unwrap_or_default();
                text(&|text| texts::clean(text, class, &by))
            }
            _ => Val::Missing,
        },
        Fun::Cut => match whole(arg(1)) {
            Some(most) => text(&|text| text.chars().take(most).collect()),
            None => Val::Missing,
        },
        Fun::Identifier => match whole(arg(1)) {
            Some(most) => text(&|text| texts::identifier(text, most)),
            None => Val::Missing,
        },
        Fun::Kind => texts::kind(&arg(0)).map_or(Val::Missing, |kind| Val::Text(kind.into())),
        Fun::Json => texts::json(arg(0), cx),
        Fun::Split => match (arg(0).text(), arg(1).text()) {
            (Some(text), Some(between)) if !between.is_empty() => {
                Val::Json(cx.scene.keep(texts::split(&text, &between)))
            }
            _ => Val::Missing,
        },
        Fun::Numbers => match arg(0) {
            Val::Json(Value::Array(items)) => match texts::numbers(items) {
                Some(numbers) => Val::Json(cx.scene.keep(numbers)),
                None => Val::Missing,
            },
            _ => Val::Missing,
        },
        Fun::Pairs => match arg(0).text() {
            Some(text) => Val::Json(cx.scene.keep(texts::pairs(&text))),
            None => Val::Missing,
        },
        Fun::Get => match arg(1).text() {
            Some(name) => texts::get(&arg(0), &name, cx),
            None => Val::Missing,
        },
        Fun::After => match (arg(0).text(), arg(1).text()) {
            (Some(text), Some(start)) => text
                .strip_prefix(start.as_ref())
                .map_or(Val::Missing, |rest| made(rest.to_owned())),
            _ => Val::Missing,
        },
        Fun::Number => number(arg(0), cx),
        Fun::JsInteger => javascript::integer(arg(0)).unwrap_or_else(|| not_a_number(&arg(0), cx)),
        Fun::JsNumber => javascript::number(arg(0)).unwrap_or_else(|| not_a_number(&arg(0), cx)),
        Fun::Count => match arg(0) {
            Val::Json(Value::Array(items)) => Val::Number(Cow::Owned(items.len().to_string())),
            _ => Val::Missing,
        },
        Fun::Sum => sum(&arg(0), args.get(1..).unwrap_or(&[]), cx),
        Fun::Cents => amount(arg(0), 2, cx),
        Fun::MinorUnits => minor_units(arg(0), &arg(1), cx),
        Fun::EpochMs => time(args, cx, |ms| Val::Number(Cow::Owned(ms.to_string()))),
        Fun::EpochS => time(args, cx, |ms| {
            Val::Number(Cow::Owned(ms.div_euclid(1000).to_string()))
        }),
        Fun::Iso8601 => time(args, cx, |ms| iso8601(ms).map_or(Val::Missing, made)),
        Fun::Date => time(args, cx, |ms| {
            iso8601(ms)
                .and_then(|text| text.split_once('T').map(|(date, _)| made(date.to_owned())))
                .unwrap_or(Val::Missing)
        }),
        Fun::Pick | Fun::Omit | Fun::Scalars | Fun::Flatten => match arg(0) {
            Val::Json(Value::Object(_)) | Val::Group(_) => Val::Group(expr),
            _ => Val::Missing,
        },
        Fun::Sha256 => text(&|text| hex(&Sha256::digest(text.as_bytes()))),
        Fun::Lookup => lookup(args, cx),
        Fun::Basic => match (arg(0).text(), arg(1).text()) {
            (Some(user), Some(password)) => made(format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
            )),
            _ => Val::Missing,
        },
    }
}

/// A whole number that counts something.
fn whole(val: Val<'_>) -> Option<usize> {
    val.numeric()?.parse().ok()
}

fn required<'a>(args: &'a [Expr], cx: Cx<'a>) -> Val<'a> {
    let Some(inner) = args.first() else {
        return Val::Missing;
    };
    let val = in_range(eval(inner, cx), cx);
    if !val.is_missing() {
        return val;
    }
    if let Expr::Call(Fun::Lookup, args) = inner
        && let [Expr::Table(TableRef::Remote(table)), key] = args.as_ref()
        && !table.hold.is_zero()
        && let Some(key) = eval(key, cx).text()
    {
        let hold = Problem::Hold(std::sync::Arc::clone(table), key.into_owned());
        cx.scene.problem(hold);
    } else {
        let reason = args.get(1).and_then(|reason| eval(reason, cx).text());
        cx.scene
            .problem(Problem::Missing(reason.map(Cow::into_owned)));
    }
    Val::Missing
}

fn is<'a>(val: &Val<'a>, others: &'a [Expr], cx: Cx<'a>) -> bool {
    if val.is_missing() {
        return false;
    }
    others.iter().any(|other| {
        let other = eval(other, cx);
        if val.is_number() && other.is_number() {
            return compare(val.clone(), other) == Some(Ordering::Equal);
        }
        if let (Some(left), Some(right)) = (val.yes_no(), other.yes_no()) {
            return left == right;
        }
        match (val.clone().text(), other.text()) {
            (Some(left), Some(right)) => left == right,
            _ => false,
        }
    })
}

fn lookup<'a>(args: &'a [Expr], cx: Cx<'a>) -> Val<'a> {
    let [Expr::Table(table), key] = args else {
        return Val::Missing;
    };
    let Some(key) = eval(key, cx).text() else {
        return Val::Missing;
    };
    match table {
        TableRef::Inline(rows) => rows.get(key.as_ref()).map_or(Val::Missing, known),
        TableRef::Remote(remote) => cx
            .scene
            .tables
            .tables
            .get(&remote.name)
            .and_then(|table| table.get(&key, cx.scene.received_at_ms()))
            .map_or(Val::Missing, known),
    }
}

/// Calls `f` with every field of the group a formula gives. Nothing is built on the way.
pub(crate) fn visit_group(expr: &Expr, cx: Cx<'_>, f: &mut dyn FnMut(&str, &Value)) {
    let (fun, args) = match expr {
        Expr::Call(fun @ (Fun::Pick | Fun::Omit | Fun::Scalars | Fun::Flatten), args) => {
            (*fun, args)
        }
        other => {
            match eval(other, cx) {
                Val::Json(Value::Object(members)) => {
                    for (key, value) in members {
                        f(key, value);
                    }
                }
                Val::Group(inner) => visit_group(inner, cx, f),
                _ => {}
            }
            return;
        }
    };
    let Some(inner) = args.first() else { return };
    let listed = |key: &str| {
        args[1..]
            .iter()
            .any(|name| matches!(name, Expr::Text(name) if name.as_ref() == key))
    };
    match fun {
        Fun::Pick => visit_group(inner, cx, &mut |key, value| {
            if listed(key) {
                f(key, value);
            }
        }),
        Fun::Omit => visit_group(inner, cx, &mut |key, value| {
            if !listed(key) {
                f(key, value);
            }
        }),
        Fun::Scalars => visit_group(inner, cx, &mut |key, value| {
            if !value.is_object() && !value.is_array() {
                f(key, value);
            }
        }),
        _ => {
            let between = match args.get(1) {
                Some(Expr::Text(text)) => text.as_ref(),
                _ => "_",
            };
            visit_group(inner, cx, &mut |key, value| flatten(key, value, between, f));
        }
    }
}

/// Groups inside groups become fields with long names; lists stay as they are.
fn flatten(key: &str, value: &Value, between: &str, f: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(members) => {
            for (inner, value) in members {
                flatten(&format!("{key}{between}{inner}"), value, between, f);
            }
        }
        value => f(key, value),
    }
}
