//! YAML or JSON text to a tree in which every value knows its place.
//!
//! A strict subset: no anchors, aliases, tags, second documents or repeated keys, and only the plain words
//! that JSON has (`no`, `on`, `010` and dates stay text). Bounded in size and depth. Knows nothing of what
//! a blueprint says.

use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};
use serde_json::Value;

use super::diagnostic::Faults;

/// Longest text that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 256 * 1024;
const MAX_DEPTH: usize = 32;

/// A place in the text: byte offsets.
pub(crate) type Span = Range<usize>;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
    /// It stands inside `[ ]` or `{ }`, where YAML cuts at commas.
    pub(crate) flow: bool,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// The number's own text.
    Number(String),
    Text(Text),
    List(Vec<Node>),
    Group(Vec<(Key, Node)>),
}

/// A text and where its characters stand.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// Byte offset in the source of the first character, where source and value run alike.
    pub(crate) exact: Option<usize>,
}

/// A key and its place.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Span,
}

impl Node {
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(&text.value),
            _ => None,
        }
    }

    pub(crate) fn group(&self) -> Option<&[(Key, Self)]> {
        match &self.kind {
            Kind::Group(members) => Some(members),
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> Option<&[Self]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub(crate) fn is_a(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Group(_) => "a group",
        }
    }

    /// As plain JSON, numbers as written.
    pub(crate) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(yes) => Value::Bool(*yes),
            Kind::Number(text) => serde_json::from_str(text).unwrap_or(Value::Null),
            Kind::Text(text) => Value::String(text.value.clone()),
            Kind::List(items) => items.iter().map(Self::to_json).collect(),
            Kind::Group(members) => Value::Object(
                members
                    .iter()
                    .map(|(key, node)| (key.text.clone(), node.to_json()))
                    .collect(),
            ),
        }
    }
}

/// Whether the text is a number as JSON writes it.
pub(crate) fn is_json_number(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|byte| byte == b'-' || byte.is_ascii_digit())
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

/// Reads the text. None when it cannot be read at all; what is wrong is in `faults`.
pub(crate) fn read(text: &str, faults: &mut Faults) -> Option<Node> {
    if text.len() > MAX_BYTES {
        faults.error(
            "yaml",
            0..0,
            format!(
                "a blueprint may have {MAX_BYTES} bytes; this has {}",
                text.len()
            ),
        );
        return None;
    }
    let mut reader = Reader {
        text,
        faults,
        open: Vec::new(),
        root: None,
        documents: 0,
    };
    for next in Parser::new_from_str(text) {
        let (event, span) = match next {
            Ok(next) => next,
            Err(error) => {
                let at = error.marker().byte_offset().unwrap_or(0).min(text.len());
                reader.scan_error(at, &error.info());
                return None;
            }
        };
        let span = span.byte_range().unwrap_or(0..0);
        if !reader.take(&event, span) {
            return None;
        }
    }
    if reader.root.is_none() {
        reader
            .faults
            .error("yaml", 0..0, "the file is empty".to_owned());
    }
    reader.root
}

/// A list or group that is not closed yet.
struct Open {
    start: usize,
    flow: bool,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Group(Vec<(Key, Node)>, Option<Key>),
}

struct Reader<'a> {
    text: &'a str,
    faults: &'a mut Faults,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Reader<'_> {
    fn scan_error(&mut self, at: usize, info: &str) {
        let line_start = self.text[..floor(self.text, at)]
            .rfind('\n')
            .map_or(0, |at| at + 1);
        let tab = self.text[line_start..]
            .chars()
            .take_while(|c| c.is_whitespace() && *c != '\n')
            .any(|c| c == '\t');
        let at = floor(self.text, at);
        let end = self.text[at..]
            .chars()
            .next()
            .map_or(at, |c| at + c.len_utf8());
        self.faults.push(
            "yaml",
            at..end,
            format!("this is not YAML: {info}"),
            if tab {
                Some("indent with spaces, not tabs".to_owned())
            } else {
                Some(
                    "a text with `: `, ` #`, or a special character at its start needs quotes"
                        .to_owned(),
                )
            },
        );
    }

    /// Takes one event; false when reading must stop.
    fn take(&mut self, event: &Event<'_>, span: Span) -> bool {
        if event.tag().is_some() {
            self.faults.error(
                "yaml",
                span.clone(),
                "tags (`!…`) are not used in blueprints".to_owned(),
            );
        }
        if event.anchor_id().is_some_and(|id| id != 0) && !event.is_alias() {
            self.faults.push(
                "yaml",
                span.clone(),
                "anchors (`&…`) are not used in blueprints".to_owned(),
                Some("give the formula a short name under `values` instead".to_owned()),
            );
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.faults.error(
                        "yaml",
                        span,
                        "one file holds one blueprint: `---` may not follow".to_owned(),
                    );
                    return false;
                }
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.faults.push(
                    "yaml",
                    span.clone(),
                    "aliases (`*…`) are not used in blueprints".to_owned(),
                    Some("a text that starts with `*` needs quotes".to_owned()),
                );
                self.put(Kind::Null, span);
            }
            Event::Scalar(value, style, ..) => self.scalar(value, *style, span),
            Event::SequenceStart(style, ..) => {
                return self.start(span, *style, Content::List(Vec::new()));
            }
            Event::MappingStart(style, ..) => {
                return self.start(span, *style, Content::Group(Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span.end),
            _ => {}
        }
        true
    }

    fn start(&mut self, span: Span, style: StructureStyle, content: Content) -> bool {
        if self.open.len() >= MAX_DEPTH {
            self.faults.error(
                "yaml",
                span,
                format!("groups and lists may stand {MAX_DEPTH} deep"),
            );
            return false;
        }
        let flow = style == StructureStyle::Flow || self.open.last().is_some_and(|o| o.flow);
        self.open.push(Open {
            start: span.start,
            flow,
            content,
        });
        true
    }

    fn close(&mut self, end: usize) {
        let Some(open) = self.open.pop() else { return };
        let kind = match open.content {
            Content::List(items) => Kind::List(items),
            Content::Group(members, _) => Kind::Group(members),
        };
        // A block ends where the next thing starts; its text ends before the white space.
        let start = open.start.min(self.text.len());
        let end = end.clamp(start, self.text.len());
        let end = match self.text.get(start..end) {
            Some(inside) => start + inside.trim_end().len(),
            None => end,
        };
        self.put(kind, start..end);
    }

    fn scalar(&mut self, value: &str, style: ScalarStyle, span: Span) {
        let exact = match self.text.get(span.clone()) {
            Some(raw) if raw == value => Some(span.start),
            Some(raw) if raw.get(1..raw.len().saturating_sub(1)) == Some(value) => {
                Some(span.start + 1)
            }
            _ => None,
        };
        let text = Kind::Text(Text {
            value: value.to_owned(),
            exact,
        });
        let kind = if style != ScalarStyle::Plain || self.awaits_key() {
            text
        } else {
            match value {
                "" | "null" | "~" => Kind::Null,
                "true" => Kind::Bool(true),
                "false" => Kind::Bool(false),
                number if is_json_number(number) => Kind::Number(number.to_owned()),
                _ => text,
            }
        };
        self.put(kind, span);
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                content: Content::Group(_, None),
                ..
            })
        )
    }

    /// Puts a finished value where it belongs.
    fn put(&mut self, kind: Kind, span: Span) {
        let flow = self.open.last().is_some_and(|open| open.flow);
        let node = Node { span, kind, flow };
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open {
                content: Content::List(items),
                ..
            }) => items.push(node),
            Some(Open {
                content: Content::Group(members, key),
                ..
            }) => match key.take() {
                Some(key) => members.push((key, node)),
                None => {
                    let name = match &node.kind {
                        Kind::Text(text) => text.value.clone(),
                        _ => {
                            self.faults.error(
                                "yaml",
                                node.span.clone(),
                                "a key must be a text".to_owned(),
                            );
                            String::new()
                        }
                    };
                    if members.iter().any(|(key, _)| key.text == name) {
                        self.faults.error(
                            "yaml",
                            node.span.clone(),
                            format!("`{name}` stands here twice"),
                        );
                    }
                    *key = Some(Key {
                        text: name,
                        span: node.span,
                    });
                }
            },
        }
    }
}

/// The nearest character boundary at or before `at`.
pub(crate) fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
