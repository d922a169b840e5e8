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
use super::expr::{Expr, Root, TableRef};
use super::function::Fun;
use super::javascript;
use crate::clock::Millis;
use crate::event::money::{self, AmountError, Exact};
use crate::event::{Event, Kind};

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
    /// A required value is missing.
    Missing,
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
    event: Option<&'a Event>,
    tables: &'a Tables,
    reply: Option<(u16, &'a Value)>,
    holes: &'a [Value],
    traits: OnceCell<Option<Value>>,
    problems: RefCell<Vec<Problem>>,
    troubled: Cell<bool>,
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
    pub(crate) fn of_event(event: &'a Event, tables: &'a Tables) -> Self {
        Self::new(Some(event), tables, None, &[])
    }

    pub(crate) fn of_reply(status: u16, body: &'a Value, tables: &'a Tables) -> Self {
        Self::new(None, tables, Some((status, body)), &[])
    }

    pub(crate) fn of_request(holes: &'a [Value], tables: &'a Tables) -> Self {
        Self::new(None, tables, None, holes)
    }

    fn new(
        event: Option<&'a Event>,
        tables: &'a Tables,
        reply: Option<(u16, &'a Value)>,
        holes: &'a [Value],
    ) -> Self {
        Self {
            event,
            tables,
            reply,
            holes,
            traits: OnceCell::new(),
            problems: RefCell::new(Vec::new()),
            troubled: Cell::new(false),
        }
    }

    pub(crate) fn cx(&'a self) -> Cx<'a> {
        Cx {
            scene: self,
            row: None,
        }
    }

    pub(crate) fn received_at_ms(&self) -> Millis {
        self.event.map_or(Millis::MAX, |event| event.received_at_ms)
    }

    fn problem(&self, problem: Problem) {
        self.troubled.set(true);
        self.problems.borrow_mut().push(problem);
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

    /// Identify calls carry their traits at the top; other calls may carry them in the context as well.
    fn traits(&'a self) -> Option<&'a Value> {
        let event = self.event?;
        let own = event.field("traits").filter(|traits| traits.is_object());
        if event.kind == Kind::Identify {
            return own;
        }
        let context = event
            .field("context")
            .and_then(|context| context.get("traits"))
            .filter(|traits| traits.is_object());
        match (own, context) {
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
fn known(value: &Value) -> Val<'_> {
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
    fn numeric(self) -> Option<Cow<'a, str>> {
        if matches!(self, Self::YesNo(_) | Self::Json(Value::Bool(_))) {
            return None;
        }
        self.text().filter(|text| money::is_number(text))
    }

    fn is_number(&self) -> bool {
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
        Expr::Missing | Expr::Config(_) | Expr::Entry(_) | Expr::Table(_) => Val::Missing,
        Expr::Text(text) => Val::Text(Cow::Borrowed(text)),
        Expr::Number(text) => Val::Number(Cow::Borrowed(text)),
        Expr::YesNo(yes) => Val::YesNo(*yes),
        Expr::Pieces(parts) => pieces(parts, cx),
        Expr::Event(root, steps) => event_path(*root, steps, cx),
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
    let mut joined = String::new();
    for part in parts {
        match eval(part, cx).text() {
            Some(text) => joined.push_str(&text),
            None => return Val::Missing,
        }
    }
    Val::Text(Cow::Owned(joined))
}

fn event_path<'a>(root: Root, steps: &'a [Box<str>], cx: Cx<'a>) -> Val<'a> {
    let Some(event) = cx.scene.event else {
        return Val::Missing;
    };
    let start = match root {
        Root::Plain(name) => event.field(name),
        Root::Timestamp => event.field("timestamp"),
        Root::ReceivedAt => event.field("receivedAt"),
        Root::Traits => cx.scene.traits(),
    };
    start.map_or(Val::Missing, |value| down(value, steps))
}

fn row_path<'a>(steps: &'a [Box<str>], cx: Cx<'a>) -> Val<'a> {
    match (cx.row, steps) {
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
        Fun::StartsWith => Val::YesNo(match (arg(0).text(), arg(1).text()) {
            (Some(text), Some(start)) => text.starts_with(start.as_ref()),
            _ => false,
        }),
        Fun::Text => arg(0).text().map_or(Val::Missing, Val::Text),
        Fun::Lower => text(&str::to_lowercase),
        Fun::Upper => match arg(0).text() {
            // Most codes are in capitals already.
            Some(text) if text.is_ascii() && !text.bytes().any(|b| b.is_ascii_lowercase()) => {
                Val::Text(text)
            }
            Some(text) => made(text.to_uppercase()),
            None => Val::Missing,
        },
        Fun::Trim => text(&|text| text.trim().to_owned()),
        Fun::Join => join(&arg(0), arg(1)),
        Fun::Slug => text(&slug),
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

/// A text that was made: when nothing is left of it, it is missing.
fn made<'a>(text: String) -> Val<'a> {
    if text.is_empty() {
        Val::Missing
    } else {
        Val::Text(Cow::Owned(text))
    }
}

fn required<'a>(args: &'a [Expr], cx: Cx<'a>) -> Val<'a> {
    let Some(inner) = args.first() else {
        return Val::Missing;
    };
    let val = eval(inner, cx);
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
        cx.scene.problem(Problem::Missing);
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

fn compare(left: Val<'_>, right: Val<'_>) -> Option<Ordering> {
    money::compare(&left.numeric()?, &right.numeric()?)
}

fn within<'a>(val: Val<'a>, most: Val<'a>) -> Val<'a> {
    if !val.is_number() {
        return val;
    }
    match (val.clone().text(), most.numeric()) {
        (Some(number), Some(most))
            if money::compare_size(&number, &most) != Some(Ordering::Greater) =>
        {
            val
        }
        _ => Val::Missing,
    }
}

fn join<'a>(list: &Val<'a>, between: Val<'a>) -> Val<'a> {
    let (Val::Json(Value::Array(items)), Some(between)) = (list, between.text()) else {
        return Val::Missing;
    };
    let texts: Vec<Cow<'_, str>> = items.iter().filter_map(|item| known(item).text()).collect();
    made(texts.join(&between))
}

fn slug(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect()
}

fn not_a_number<'a>(val: &Val<'a>, cx: Cx<'_>) -> Val<'a> {
    cx.scene
        .problem(Problem::Note(format!("{} is not a number", val.shown())));
    Val::Missing
}

fn number<'a>(val: Val<'a>, cx: Cx<'a>) -> Val<'a> {
    match &val {
        Val::Missing => Val::Missing,
        Val::Number(_) | Val::Json(Value::Number(_)) => val,
        _ => match val
            .clone()
            .numeric()
            .and_then(|text| money::json_number(&text))
        {
            Some(number) => Val::Number(Cow::Owned(number)),
            None => not_a_number(&val, cx),
        },
    }
}

fn amount<'a>(val: Val<'a>, places: u32, cx: Cx<'a>) -> Val<'a> {
    if val.is_missing() {
        return Val::Missing;
    }
    if matches!(val, Val::YesNo(_) | Val::Json(Value::Bool(_))) {
        return not_a_number(&val, cx);
    }
    let Some(text) = val.clone().text() else {
        return not_a_number(&val, cx);
    };
    match money::scaled(&text, places) {
        Ok(units) => Val::Number(Cow::Owned(units.to_string())),
        Err(AmountError::NotANumber) => not_a_number(&val, cx),
        Err(error) => {
            cx.scene.problem(Problem::Refuse {
                reason: match error {
                    AmountError::OutOfRange => "revenue_out_of_range",
                    _ => "amount_too_precise",
                },
                detail: format!("{} {error}", val.shown()),
            });
            Val::Missing
        }
    }
}

fn minor_units<'a>(val: Val<'a>, currency: &Val<'a>, cx: Cx<'a>) -> Val<'a> {
    if val.is_missing() || currency.is_missing() {
        return Val::Missing;
    }
    let places = currency
        .clone()
        .text()
        .and_then(|code| money::currency_decimals(&code));
    match places {
        Some(places) => amount(val, places, cx),
        None => {
            cx.scene.problem(Problem::Note(format!(
                "{} is not a currency with a smallest unit",
                currency.shown()
            )));
            Val::Missing
        }
    }
}

fn sum<'a>(list: &Val<'a>, names: &'a [Expr], cx: Cx<'a>) -> Val<'a> {
    let Val::Json(Value::Array(rows)) = list else {
        return Val::Missing;
    };
    let mut total = Exact::ZERO;
    let mut any = false;
    'rows: for row in rows {
        let mut product = Exact::ONE;
        for name in names {
            let Expr::Text(name) = name else { continue };
            let field = row.get(name.as_ref()).map_or(Val::Missing, known);
            if field.is_missing() {
                continue 'rows;
            }
            let Some(number) = field.clone().numeric().and_then(|text| Exact::read(&text)) else {
                not_a_number(&field, cx);
                continue 'rows;
            };
            match product.times(number) {
                Some(next) => product = next,
                None => return too_long(cx),
            }
        }
        match total.plus(product) {
            Some(next) => total = next,
            None => return too_long(cx),
        }
        any = true;
    }
    if any {
        Val::Number(Cow::Owned(total.to_json_number()))
    } else {
        Val::Missing
    }
}

fn too_long<'a>(cx: Cx<'_>) -> Val<'a> {
    cx.scene.problem(Problem::Note(
        "the sum has too many digits to be exact".to_owned(),
    ));
    Val::Missing
}

/// Calls `give` with a point in time.
fn time<'a>(args: &'a [Expr], cx: Cx<'a>, give: impl Fn(Millis) -> Val<'a>) -> Val<'a> {
    let Some(arg) = args.first() else {
        return Val::Missing;
    };
    // The event's own times are known already.
    match (arg, cx.scene.event) {
        (Expr::Event(Root::Timestamp, steps), Some(event)) if steps.is_empty() => {
            return give(event.timestamp_ms);
        }
        (Expr::Event(Root::ReceivedAt, steps), Some(event)) if steps.is_empty() => {
            return give(event.received_at_ms);
        }
        _ => {}
    }
    let val = eval(arg, cx);
    if val.is_missing() {
        return Val::Missing;
    }
    match read_time(&val) {
        Some(ms) => give(ms),
        None => {
            cx.scene
                .problem(Problem::Note(format!("{} is not a time", val.shown())));
            Val::Missing
        }
    }
}

/// A text as RFC 3339 writes it (without a zone: UTC), or a number of milliseconds or, when small, seconds.
pub(crate) fn read_time(val: &Val<'_>) -> Option<Millis> {
    /// In milliseconds this is March 1973; in seconds, the year 5138.
    const SMALLEST_MS: i64 = 100_000_000_000;
    let text = val.clone().text()?;
    if val.is_number() {
        let number: i64 = text.parse().ok()?;
        return if number.abs() >= SMALLEST_MS {
            Some(number)
        } else {
            number.checked_mul(1000)
        };
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let at = jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()?;
    Some(at.as_millisecond())
}

/// `2026-11-20T14:03:27.412Z`.
pub(crate) fn iso8601(ms: Millis) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(ms).ok()?;
    Some(format!("{at:.3}"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
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
