//! A vendor's limits on fields: cut, leave out, or refuse the item.
//!
//! A limit is on a path in the item (`properties.*`); it looks at the JSON just written for that path.

use serde_json::Value;

use super::amount::read_time;
use super::eval::Val;
use crate::clock::Millis;

/// What a vendor says of one field.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limit {
    /// Most characters of a text.
    pub(crate) max_chars: Option<usize>,
    /// Most bytes, as JSON; of a text without its quotes.
    pub(crate) max_bytes: Option<usize>,
    /// Most items of a list or fields of a group.
    pub(crate) max_items: Option<usize>,
    /// How long a time may lie before the event's arrival, in milliseconds.
    pub(crate) max_age_ms: Option<i64>,
    pub(crate) over: OverRule,
    /// What is said of an item that is not sent for it; else the path and the name of the limit.
    pub(crate) reason: Option<String>,
    /// Fields of a group to leave out, in this order, until it has no more than `max_bytes`; `*` is any other, from
    /// the last.
    pub(crate) shed: Vec<String>,
}

/// What is done with a value that is over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum OverRule {
    /// Cut it, when it can be cut; else leave it out.
    #[default]
    Cut,
    Omit,
    /// The item is not sent, and that is well.
    Skip,
    Reject,
}

/// What a limit did.
#[derive(Debug)]
pub(crate) enum Over {
    Cut(String),
    Omit(String),
    /// (name of the limit)
    Skip(&'static str),
    /// (name of the limit, what is wrong)
    Reject(&'static str, String),
}

/// A path and what is said of it.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) steps: Vec<String>,
    pub(crate) limit: Limit,
}

/// Most limits of a request.
pub(crate) const LIMITS_MAX: usize = 64;

/// The limits that apply where we are in an item, or may still apply below.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits<'l> {
    patterns: &'l [Pattern],
    /// Those whose path agrees with the way here, by bit.
    agree: u64,
    /// Steps taken so far.
    depth: usize,
    pub(crate) received_at_ms: Millis,
}

impl<'l> Limits<'l> {
    pub(crate) const NONE: Limits<'static> = Limits {
        patterns: &[],
        agree: 0,
        depth: 0,
        received_at_ms: 0,
    };

    /// All limits of a request, at the top of an item.
    pub(crate) fn top(patterns: &'l [Pattern], received_at_ms: Millis) -> Self {
        let patterns = patterns.get(..LIMITS_MAX).unwrap_or(patterns);
        Self {
            patterns,
            agree: (0..patterns.len()).fold(0, |agree, at| agree | 1 << at),
            depth: 0,
            received_at_ms,
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.agree == 0
    }

    /// One step further.
    pub(crate) fn below(self, name: &str) -> Self {
        self.next(|step| step == "*" || step == name)
    }

    /// … to an item of a list.
    pub(crate) fn below_at(self, at: usize) -> Self {
        self.next(|step| step == "*" || step.parse() == Ok(at))
    }

    fn next(mut self, fits: impl Fn(&str) -> bool) -> Self {
        if self.is_empty() {
            return self;
        }
        for (at, pattern) in self.patterns.iter().enumerate() {
            if !pattern.steps.get(self.depth).is_some_and(|step| fits(step)) {
                self.agree &= !(1 << at);
            }
        }
        self.depth += 1;
        self
    }

    /// Those whose path ends here, each with its path.
    pub(crate) fn ending(self) -> impl Iterator<Item = (&'l str, &'l Limit)> {
        let agree = self.patterns.iter().enumerate();
        agree
            .filter(move |(at, pattern)| {
                self.agree & 1 << at != 0 && pattern.steps.len() == self.depth
            })
            .map(|(_, pattern)| (pattern.text.as_str(), &pattern.limit))
    }
}

impl Limit {
    /// Looks at the JSON in `out[start..]`; changes it when it is to be cut.
    pub(crate) fn apply(
        &self,
        out: &mut Vec<u8>,
        start: usize,
        received_at_ms: Millis,
    ) -> Option<Over> {
        let json = out.get(start..)?;
        let text = json.first() == Some(&b'"');
        let length = if text { json.len() - 2 } else { json.len() };
        // The JSON of a text is never shorter than the text: most values pass here.
        let chars = text && self.max_chars.is_some_and(|most| length > most);
        let bytes = self.max_bytes.is_some_and(|most| length > most);
        // An item and its comma are two bytes.
        let items = self.max_items.is_some_and(|most| length / 2 > most);
        if !chars && !bytes && !items && self.max_age_ms.is_none() {
            return None;
        }
        let mut value: Value = serde_json::from_slice(json).ok()?;
        let dropped = self.lighten(&mut value, json.len());
        if !dropped.is_empty() {
            out.truncate(start);
            out.extend_from_slice(value.to_string().as_bytes());
        }
        let json_len = out.len() - start;
        let Some((kind, what, cut)) = self.find(&value, json_len, received_at_ms) else {
            let dropped = dropped.join(", ");
            let most = self.max_bytes.unwrap_or_default();
            return (!dropped.is_empty()).then(|| {
                Over::Cut(format!(
                    "to keep it within {most} bytes, {dropped} was left out"
                ))
            });
        };
        Some(match (self.over, cut) {
            (OverRule::Reject, _) => Over::Reject(kind, what),
            (OverRule::Skip, _) => Over::Skip(kind),
            (OverRule::Cut, Some(cut)) => {
                out.truncate(start);
                out.extend_from_slice(cut.to_string().as_bytes());
                Over::Cut(format!("{what}; it was cut"))
            }
            _ => Over::Omit(format!("{what}; it was left out")),
        })
    }

    /// What an item that is not sent for this is told apart by.
    pub(crate) fn label(&self, pattern: &str, kind: &str) -> String {
        let own = self.reason.clone();
        own.unwrap_or_else(|| format!("{pattern} over {kind}"))
    }

    /// Takes fields out until the group is short enough. Gives their names.
    fn lighten(&self, value: &mut Value, mut bytes: usize) -> Vec<String> {
        let (Value::Object(members), Some(most)) = (value, self.max_bytes) else {
            return Vec::new();
        };
        let mut dropped = Vec::new();
        for name in &self.shed {
            while bytes > most {
                let key = if name == "*" {
                    let last = members.keys().rev().find(|key| !self.shed.contains(key));
                    last.cloned()
                } else {
                    members.contains_key(name).then(|| name.clone())
                };
                let Some(value) = key.as_ref().and_then(|key| members.shift_remove(key)) else {
                    break;
                };
                let key = key.unwrap_or_default();
                // With its colon and a comma, while others are left.
                let comma = usize::from(!members.is_empty());
                bytes -= Value::from(key.as_str()).to_string().len()
                    + value.to_string().len()
                    + 1
                    + comma;
                dropped.push(key);
            }
        }
        dropped
    }

    /// The first limit it is over: its name, what is wrong, and the value cut to it.
    fn find(
        &self,
        value: &Value,
        json_bytes: usize,
        received_at_ms: Millis,
    ) -> Option<(&'static str, String, Option<Value>)> {
        if let (Value::String(text), Some(most)) = (value, self.max_chars) {
            let chars = text.chars().count();
            if chars > most {
                let cut = text.chars().take(most).collect();
                let what = format!("it has {chars} characters, the limit is {most}");
                return Some(("max_chars", what, Some(Value::String(cut))));
            }
        }
        if let Some(most) = self.max_bytes {
            let (bytes, cut) = match value {
                Value::String(text) => {
                    let cut = &text[..super::yaml::floor(text, most)];
                    (text.len(), Some(Value::String(cut.to_owned())))
                }
                _ => (json_bytes, None),
            };
            if bytes > most {
                let what = format!("it has {bytes} bytes, the limit is {most}");
                return Some(("max_bytes", what, cut));
            }
        }
        if let Some(most) = self.max_items {
            let (items, cut) = match value {
                Value::Array(items) => (
                    items.len(),
                    Some(items.iter().take(most).cloned().collect()),
                ),
                Value::Object(members) => (
                    members.len(),
                    Some(Value::Object(
                        members
                            .iter()
                            .take(most)
                            .map(|(key, value)| (key.clone(), value.clone()))
                            .collect(),
                    )),
                ),
                _ => (0, None),
            };
            if items > most {
                let what = format!("it has {items} items, the limit is {most}");
                return Some(("max_items", what, cut));
            }
        }
        if let Some(most) = self.max_age_ms
            && let Some(at) = read_time(&Val::Json(value))
            && received_at_ms.saturating_sub(at) > most
        {
            let days = received_at_ms.saturating_sub(at) / 86_400_000;
            let what = format!("it lay {days} days back when the event arrived");
            return Some(("max_age", what, None));
        }
        None
    }
}
