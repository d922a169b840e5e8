//! Writing a template straight to JSON bytes, with what was left out and why.
//!
//! A field without a value is taken back; so is a group none of whose fields got one. No JSON tree is built.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::Value;

use super::amount::out_of_range;
use super::eval::{Cx, Problem, Row, Val, eval, visit_group};
use super::expr::{Expr, RemoteTable};
use super::limit::{self, Limits};
use super::template::{Each, Element, Fields, Member, Name, Tpl};
use super::{FieldTrace, Note};
use crate::event::money;

/// Why an item is not sent.
#[derive(Debug, Clone)]
pub(crate) enum Stop {
    /// Something required is missing: the reason.
    Missing(String),
    /// A limit says that it is not to be sent: the reason.
    Skip(String),
    Hold(Arc<RemoteTable>, String),
    Refuse {
        reason: String,
        detail: String,
    },
}

/// Where in the item we are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path<'p> {
    up: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'p> {
    Top,
    Name(&'p str),
    /// A name made from the event: shown, but never part of a reason.
    Made(&'p str),
    At(usize),
}

impl<'p> Path<'p> {
    pub(crate) const TOP: Path<'static> = Path {
        up: None,
        step: Step::Top,
    };

    pub(crate) fn name(&'p self, name: &'p str) -> Self {
        Self {
            up: Some(self),
            step: Step::Name(name),
        }
    }

    fn made(&'p self, name: &'p str) -> Self {
        Self {
            up: Some(self),
            step: Step::Made(name),
        }
    }

    fn at(&'p self, at: usize) -> Self {
        Self {
            up: Some(self),
            step: Step::At(at),
        }
    }

    /// Its last name.
    fn last(&self) -> &str {
        match (self.step, self.up) {
            (Step::Name(name), _) => name,
            (_, Some(up)) => up.last(),
            (_, None) => "item",
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            up.fmt(f)?;
            if up.up.is_some() {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Top => Ok(()),
            Step::Name(name) | Step::Made(name) => f.write_str(name),
            Step::At(at) => write!(f, "{at}"),
        }
    }
}

/// Writes templates as JSON.
#[derive(Debug)]
pub(crate) struct Writer<'w> {
    pub(crate) out: Vec<u8>,
    pub(crate) notes: Vec<Note>,
    /// Lines of fields, when asked for.
    pub(crate) trace: Option<Vec<FieldTrace>>,
    /// Taken from the start of every text of the event.
    pub(crate) strip: Option<&'w str>,
    /// Most bytes it may write; None: any number.
    pub(crate) most_bytes: usize,
    /// What `=items` and `=item` stand for.
    pub(crate) items: &'w [&'w [u8]],
}

impl<'w> Writer<'w> {
    /// Writes over what stands there.
    pub(crate) fn on(mut out: Vec<u8>) -> Self {
        out.clear();
        Self {
            out,
            notes: Vec::new(),
            trace: None,
            strip: None,
            most_bytes: usize::MAX,
            items: &[],
        }
    }

    /// Writes `tpl`; false when there is nothing to write, and nothing was written then.
    pub(crate) fn write(
        &mut self,
        tpl: &Tpl,
        cx: Cx<'_>,
        path: &Path<'_>,
        line: u32,
        limits: Limits<'_>,
    ) -> Result<bool, Stop> {
        match tpl {
            Tpl::Nothing | Tpl::Entry(_) => Ok(false),
            Tpl::Raw(json) => {
                self.out.extend_from_slice(json);
                self.traced(path, line);
                Ok(true)
            }
            Tpl::Value(expr) => self.value(expr, cx, path, line, limits),
            Tpl::Group(members) => self.group(members, cx, path, limits),
            Tpl::List(items) => self.list(items, cx, path, limits),
            Tpl::Each(each) => {
                self.out.push(b'[');
                self.each(each, cx, path, 0, limits)?;
                self.out.push(b']');
                Ok(true)
            }
            Tpl::Fields(fields) => {
                let start = self.out.len();
                self.out.push(b'{');
                let mut first = true;
                let seen = &mut Vec::new();
                self.fields(fields, cx, (&[], seen), &mut first, path, limits)?;
                if first {
                    self.out.truncate(start);
                    return Ok(false);
                }
                self.out.push(b'}');
                Ok(true)
            }
            Tpl::Items => {
                self.out.push(b'[');
                for (at, item) in self.items.iter().enumerate() {
                    if at > 0 {
                        self.out.push(b',');
                    }
                    self.out.extend_from_slice(item);
                }
                self.out.push(b']');
                Ok(true)
            }
            Tpl::Item => {
                if let Some(item) = self.items.first() {
                    self.out.extend_from_slice(item);
                }
                Ok(true)
            }
        }
    }

    fn traced(&mut self, path: &Path<'_>, line: u32) {
        if let Some(trace) = &mut self.trace {
            trace.push(FieldTrace {
                field: path.to_string(),
                line,
            });
        }
    }

    pub(crate) fn note(&mut self, path: &Path<'_>, line: u32, reason: String) {
        const MOST_NOTES: usize = 50;
        if self.notes.len() < MOST_NOTES {
            self.notes.push(Note {
                field: path.to_string(),
                line,
                reason,
            });
        }
    }

    /// What the formula just run could not do.
    fn problems(&mut self, cx: Cx<'_>, path: &Path<'_>, line: u32) -> Result<(), Stop> {
        if !cx.scene.troubled() {
            return Ok(());
        }
        let mut stop = None;
        for problem in cx.scene.take_problems() {
            let next = match problem {
                Problem::Note(reason) => {
                    self.note(path, line, reason);
                    continue;
                }
                Problem::Missing(reason) => {
                    Stop::Missing(reason.unwrap_or_else(|| format!("{} is missing", path.last())))
                }
                Problem::Hold(table, key) => Stop::Hold(table, key),
                Problem::Refuse { reason, detail } => Stop::Refuse {
                    reason: reason.to_owned(),
                    detail: format!("{path}: {detail}"),
                },
            };
            stop.get_or_insert(next);
        }
        stop.map_or(Ok(()), Err)
    }

    fn value(
        &mut self,
        expr: &Expr,
        cx: Cx<'_>,
        path: &Path<'_>,
        line: u32,
        limits: Limits<'_>,
    ) -> Result<bool, Stop> {
        let val = eval(expr, cx);
        self.problems(cx, path, line)?;
        let written = match val {
            Val::Missing => false,
            Val::Json(Value::Number(number)) => self.number(number.as_str(), path, line),
            Val::Number(number) => self.number(&number, path, line),
            Val::Json(value) => {
                self.json(value, path, line, limits)?;
                true
            }
            Val::Text(text) => {
                self.text(&text);
                true
            }
            Val::YesNo(yes) => {
                self.out
                    .extend_from_slice(if yes { b"true" } else { b"false" });
                true
            }
            Val::Group(group) => {
                self.out.push(b'{');
                let mut first = true;
                let mut seen = makes_names(group).then(Vec::new);
                self.copy(
                    group,
                    cx,
                    (&[], seen.as_mut()),
                    &mut first,
                    path,
                    line,
                    limits,
                )?;
                self.out.push(b'}');
                true
            }
        };
        if written {
            self.traced(path, line);
        }
        Ok(written)
    }

    /// Copies the fields of a group, but for the excepted and those without a value.
    #[expect(
        clippy::too_many_arguments,
        reason = "the place in the output and in the blueprint"
    )]
    fn copy(
        &mut self,
        group: &Expr,
        cx: Cx<'_>,
        (except, mut seen): (&[Box<str>], Option<&mut Vec<String>>),
        first: &mut bool,
        path: &Path<'_>,
        line: u32,
        limits: Limits<'_>,
    ) -> Result<(), Stop> {
        let mut stopped = None;
        visit_group(group, cx, &mut |key, value| {
            if stopped.is_some() || except.iter().any(|name| name.as_ref() == key) {
                return;
            }
            if value.is_null() || value.as_str().is_some_and(str::is_empty) {
                return;
            }
            if let Some(seen) = &mut seen {
                if seen.iter().any(|done| done == key) {
                    return;
                }
                seen.push(key.to_owned());
            }
            if let Err(stop) = self.copied_field(key, value, first, path, line, limits) {
                stopped = Some(stop);
            }
        });
        stopped.map_or(Ok(()), Err)
    }

    fn copied_field(
        &mut self,
        key: &str,
        value: &Value,
        first: &mut bool,
        path: &Path<'_>,
        line: u32,
        limits: Limits<'_>,
    ) -> Result<(), Stop> {
        let mark = self.out.len();
        let here = path.made(key);
        if let Value::Number(number) = value
            && !money::is_in_range(number.as_str())
        {
            self.note(&here, line, out_of_range(number.as_str()));
            return Ok(());
        }
        if !*first {
            self.out.push(b',');
        }
        write_text(&mut self.out, key);
        self.out.push(b':');
        let start = self.out.len();
        let below = limits.below(key);
        self.json(value, &here, line, below)?;
        if self.limited(start, &here, line, below)?.is_break() {
            self.out.truncate(mark);
            return Ok(());
        }
        *first = false;
        self.traced(&here, line);
        Ok(())
    }

    fn group(
        &mut self,
        members: &[Member],
        cx: Cx<'_>,
        path: &Path<'_>,
        limits: Limits<'_>,
    ) -> Result<bool, Stop> {
        let start = self.out.len();
        self.out.push(b'{');
        let mut first = true;
        // Names that were made or copied may meet others: each is written once.
        let several = members
            .iter()
            .map(|member| match member {
                Member::Field { .. } => usize::from(member.plain_name().is_none()),
                Member::Spread {
                    from: Tpl::Value(from),
                    ..
                } if makes_names(from) => 2,
                Member::Spread {
                    from: Tpl::Fields(_),
                    ..
                } => 2,
                Member::Spread { .. } => 1,
            })
            .sum::<usize>()
            > 1;
        let mut seen: Vec<String> = Vec::new();
        for member in members {
            match member {
                Member::Field { key, tpl, line, .. } => match key {
                    Name::Plain(name) => {
                        let head = head(name);
                        let here = path.name(name);
                        self.field(&head, tpl, cx, &mut first, &here, *line, limits.below(name))?;
                    }
                    Name::Ready(name, head) => {
                        let here = path.name(name);
                        self.field(head, tpl, cx, &mut first, &here, *line, limits.below(name))?;
                    }
                    Name::Made(expr) => {
                        let name = eval(expr, cx).text();
                        self.problems(cx, path, *line)?;
                        let Some(name) = name.filter(|name| !name.is_empty()) else {
                            continue;
                        };
                        let plain = members
                            .iter()
                            .any(|member| member.plain_name() == Some(name.as_ref()));
                        if plain || seen.iter().any(|done| *done == name) {
                            continue;
                        }
                        let here = path.made(&name);
                        let below = limits.below(&name);
                        self.field(&head(&name), tpl, cx, &mut first, &here, *line, below)?;
                        seen.push(name.into_owned());
                    }
                },
                Member::Spread {
                    from, line, except, ..
                } => {
                    if let Tpl::Fields(fields) = from {
                        let known = (&**except, &mut seen);
                        self.fields(fields, cx, known, &mut first, path, limits)?;
                        continue;
                    }
                    let Tpl::Value(from) = from else { continue };
                    let seen = several.then_some(&mut seen);
                    self.copy(from, cx, (except, seen), &mut first, path, *line, limits)?;
                    self.problems(cx, path, *line)?;
                }
            }
        }
        if first && !members.is_empty() {
            self.out.truncate(start);
            return Ok(false);
        }
        self.out.push(b'}');
        Ok(true)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the place in the output and in the blueprint"
    )]
    fn field(
        &mut self,
        head: &[u8],
        tpl: &Tpl,
        cx: Cx<'_>,
        first: &mut bool,
        here: &Path<'_>,
        line: u32,
        below: Limits<'_>,
    ) -> Result<(), Stop> {
        let mark = self.out.len();
        if !*first {
            self.out.push(b',');
        }
        self.out.extend_from_slice(head);
        let start = self.out.len();
        if !self.write(tpl, cx, here, line, below)? {
            self.out.truncate(mark);
            return Ok(());
        }
        if self.limited(start, here, line, below)?.is_break() {
            self.out.truncate(mark);
            return Ok(());
        }
        if self.out.len() > self.most_bytes {
            return Err(Stop::Refuse {
                reason: "item_too_large".to_owned(),
                detail: format!(
                    "the item is longer than the {} bytes one request may have",
                    self.most_bytes
                ),
            });
        }
        *first = false;
        Ok(())
    }

    /// Applies the limits that end at the value just written from `start`; Break: it is to be left out.
    fn limited(
        &mut self,
        start: usize,
        path: &Path<'_>,
        line: u32,
        below: Limits<'_>,
    ) -> Result<ControlFlow<()>, Stop> {
        for (pattern, limit) in below.ending() {
            let Some(over) = limit.apply(&mut self.out, start, below.received_at_ms) else {
                continue;
            };
            match over {
                limit::Over::Cut(what) => self.note(path, line, what),
                limit::Over::Omit(what) => {
                    self.note(path, line, what);
                    return Ok(ControlFlow::Break(()));
                }
                limit::Over::Reject(kind, what) => {
                    return Err(Stop::Refuse {
                        reason: limit.label(pattern, kind),
                        detail: format!("{path}: {what}"),
                    });
                }
                limit::Over::Skip(kind) => return Err(Stop::Skip(limit.label(pattern, kind))),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn list(
        &mut self,
        items: &[Element],
        cx: Cx<'_>,
        path: &Path<'_>,
        limits: Limits<'_>,
    ) -> Result<bool, Stop> {
        self.out.push(b'[');
        let mut count = 0;
        for item in items {
            if let Tpl::Each(each) = &item.tpl {
                count = self.each(each, cx, path, count, limits)?;
                continue;
            }
            let mark = self.out.len();
            if count > 0 {
                self.out.push(b',');
            }
            let below = limits.below_at(count);
            if self.write(&item.tpl, cx, &path.at(count), item.line, below)? {
                count += 1;
            } else {
                self.out.truncate(mark);
            }
        }
        self.out.push(b']');
        Ok(true)
    }

    /// Writes rows; gives how many there are now.
    fn each(
        &mut self,
        each: &Each,
        cx: Cx<'_>,
        path: &Path<'_>,
        count: usize,
        limits: Limits<'_>,
    ) -> Result<usize, Stop> {
        let over = eval(&each.over, cx);
        self.problems(cx, path, each.line)?;
        let mut rows = Rows {
            writer: self,
            each,
            path,
            limits,
            count,
            stopped: None,
        };
        each_row(over, cx, &mut |row| rows.row(cx, row));
        let count = rows.count;
        rows.stopped.map_or(Ok(count), Err)
    }

    /// Writes the fields that rows make; a row that lacks what it requires is left out.
    fn fields(
        &mut self,
        fields: &Fields,
        cx: Cx<'_>,
        (except, seen): (&[Box<str>], &mut Vec<String>),
        first: &mut bool,
        path: &Path<'_>,
        limits: Limits<'_>,
    ) -> Result<(), Stop> {
        let over = eval(&fields.over, cx);
        self.problems(cx, path, fields.line)?;
        let mut stopped = None;
        each_row(over, cx, &mut |row| {
            if stopped.is_some() {
                return;
            }
            let before = (self.out.len(), self.notes.len(), *first, seen.len());
            let traces = self.trace.as_ref().map_or(0, Vec::len);
            let cx = Cx {
                scene: cx.scene,
                row: Some(row),
            };
            match self.row_fields(fields, cx, (except, &mut *seen), first, path, limits) {
                Ok(()) => {}
                Err(Stop::Missing(_)) => {
                    self.out.truncate(before.0);
                    self.notes.truncate(before.1);
                    *first = before.2;
                    seen.truncate(before.3);
                    if let Some(trace) = &mut self.trace {
                        trace.truncate(traces);
                    }
                }
                Err(stop) => stopped = Some(stop),
            }
        });
        stopped.map_or(Ok(()), Err)
    }

    /// The fields of one row. Of two with one name the later gets `_2`, the next `_3`.
    fn row_fields(
        &mut self,
        fields: &Fields,
        cx: Cx<'_>,
        (except, seen): (&[Box<str>], &mut Vec<String>),
        first: &mut bool,
        path: &Path<'_>,
        limits: Limits<'_>,
    ) -> Result<(), Stop> {
        for member in &fields.members {
            let Member::Field { key, tpl, line, .. } = member else {
                continue;
            };
            let name = match key {
                Name::Plain(name) | Name::Ready(name, _) => Some(name.to_string()),
                Name::Made(expr) => eval(expr, cx).text().map(std::borrow::Cow::into_owned),
            };
            self.problems(cx, path, *line)?;
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                continue;
            };
            if except.iter().any(|written| **written == *name) {
                continue;
            }
            let taken = |name: &str| seen.iter().any(|done| done == name);
            let mut own = name.clone();
            let mut nth = 1u64;
            while taken(&own) || except.iter().any(|written| **written == *own) {
                nth += 1;
                own = format!("{name}_{nth}");
            }
            let before = self.out.len();
            let here = path.made(&own);
            self.field(
                &head(&own),
                tpl,
                cx,
                first,
                &here,
                *line,
                limits.below(&own),
            )?;
            if self.out.len() > before {
                seen.push(own);
            }
        }
        Ok(())
    }

    /// Copies a value of the event as it is.
    fn json(
        &mut self,
        value: &Value,
        path: &Path<'_>,
        line: u32,
        limits: Limits<'_>,
    ) -> Result<(), Stop> {
        match value {
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Bool(yes) => self
                .out
                .extend_from_slice(if *yes { b"true" } else { b"false" }),
            Value::Number(number) => {
                // Inside of what is copied whole, it has no field of its own to be left out.
                if !self.number(number.as_str(), path, line) {
                    self.out.extend_from_slice(b"null");
                }
            }
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                self.out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        self.out.push(b',');
                    }
                    self.json(item, &path.at(at), line, limits.below_at(at))?;
                }
                self.out.push(b']');
            }
            Value::Object(members) if limits.is_empty() => {
                self.out.push(b'{');
                for (at, (key, value)) in members.iter().enumerate() {
                    if at > 0 {
                        self.out.push(b',');
                    }
                    write_text(&mut self.out, key);
                    self.out.push(b':');
                    self.json(value, path, line, limits)?;
                }
                self.out.push(b'}');
            }
            Value::Object(members) => {
                self.out.push(b'{');
                let mut first = true;
                for (key, value) in members {
                    self.copied_field(key, value, &mut first, path, line, limits)?;
                }
                self.out.push(b'}');
            }
        }
        Ok(())
    }

    /// Writes a number; false, and noted, when no vendor could read it.
    fn number(&mut self, number: &str, path: &Path<'_>, line: u32) -> bool {
        let fits = money::is_in_range(number);
        if fits {
            self.out.extend_from_slice(number.as_bytes());
        } else {
            self.note(path, line, out_of_range(number));
        }
        fits
    }

    fn text(&mut self, text: &str) {
        let text = match self.strip {
            Some(strip) if text.starts_with(strip) => text.trim_start_matches(strip),
            _ => text,
        };
        write_text(&mut self.out, text);
    }
}

/// `"name":`.
pub(crate) fn head(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 3);
    write_text(&mut out, name);
    out.push(b':');
    out
}

/// Calls `f` with each thing in a list or group, or with a single value.
fn each_row(over: Val<'_>, cx: Cx<'_>, f: &mut dyn FnMut(Row<'_>)) {
    match over {
        Val::Missing => {}
        Val::Group(group) => visit_group(group, cx, &mut |key, value| f(Row::Pair(key, value))),
        Val::Json(Value::Object(members)) => members
            .iter()
            .for_each(|(key, value)| f(Row::Pair(key, value))),
        Val::Json(Value::Array(items)) => items.iter().for_each(|item| f(Row::Item(item))),
        Val::Json(value) => f(Row::Single(value)),
        Val::YesNo(yes) => f(Row::Single(&Value::Bool(yes))),
        Val::Text(text) => f(Row::Single(&Value::String(text.into_owned()))),
        Val::Number(text) => {
            let value = serde_json::from_str(&text).unwrap_or(Value::Null);
            f(Row::Single(&value));
        }
    }
}

/// Whether the names of a group are made, so that two may be the same.
fn makes_names(group: &Expr) -> bool {
    group.any(&mut |part| matches!(part, Expr::Call(super::function::Fun::Flatten, _)))
}

/// Rows being written.
struct Rows<'r, 'w> {
    writer: &'r mut Writer<'w>,
    each: &'r Each,
    path: &'r Path<'r>,
    limits: Limits<'r>,
    count: usize,
    stopped: Option<Stop>,
}

impl Rows<'_, '_> {
    /// A row that lacks what it requires is left out; anything graver stops the item.
    fn row(&mut self, cx: Cx<'_>, row: Row<'_>) {
        if self.stopped.is_some() {
            return;
        }
        let (mark, notes) = (self.writer.out.len(), self.writer.notes.len());
        let traces = self.writer.trace.as_ref().map_or(0, Vec::len);
        if self.count > 0 {
            self.writer.out.push(b',');
        }
        let cx = Cx {
            scene: cx.scene,
            row: Some(row),
        };
        let here = self.path.at(self.count);
        let below = self.limits.below_at(self.count);
        match self
            .writer
            .write(&self.each.row, cx, &here, self.each.line, below)
        {
            Ok(true) => self.count += 1,
            Ok(false) | Err(Stop::Missing(_)) => {
                self.writer.out.truncate(mark);
                self.writer.notes.truncate(notes);
                if let Some(trace) = &mut self.writer.trace {
                    trace.truncate(traces);
                }
            }
            Err(stop) => self.stopped = Some(stop),
        }
    }
}

/// Writes a JSON text.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    // Nearly every text is plain; looking at all of it without a branch is quickest.
    let plain = bytes.iter().fold(true, |plain, byte| {
        plain & (*byte >= 0x20) & (*byte != b'"') & (*byte != b'\\')
    });
    if plain {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}
