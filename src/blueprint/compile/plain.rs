//! Single values of a file, and what is said when one is something else: texts, sizes, times, counts, groups, keys.
//!
//! Knows nothing of what a key is for.

use std::time::Duration;

use super::Compiler;
use crate::blueprint::diagnostic::did_you_mean;
use crate::blueprint::yaml::{Key, Kind, Node, Span};

impl Compiler<'_> {
    /// Says which keys are not known.
    pub(crate) fn known_keys(&mut self, members: &[(Key, Node)], known: &[&str], what: &str) {
        for (key, node) in members {
            if known.contains(&key.text.as_str()) {
                continue;
            }
            if node.flow && matches!(node.kind, Kind::Null) {
                self.faults.push(
                    "key",
                    key.span.clone(),
                    format!("{what} has no `{}`", key.text),
                    Some(
                        "inside { } YAML cuts a text at a comma: put the whole text in quotes"
                            .to_owned(),
                    ),
                );
            } else {
                self.unknown_key(key, known.iter().copied(), what);
            }
        }
    }

    pub(crate) fn unknown_key<'k>(
        &mut self,
        key: &Key,
        known: impl IntoIterator<Item = &'k str>,
        what: &str,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        let help = did_you_mean(&key.text, known.iter().copied()).or_else(|| {
            (!known.is_empty() && known.len() <= 20)
                .then(|| format!("it has: {}", known.join(", ")))
        });
        self.faults.push(
            "key",
            key.span.clone(),
            format!("{what} has no `{}`", key.text),
            help,
        );
    }

    pub(crate) fn shape(&mut self, node: &Node, message: impl Into<String>) {
        self.faults
            .error("shape", node.span.clone(), message.into());
    }

    /// The members of a group; says so when it is none.
    pub(crate) fn group_of<'n>(&mut self, node: &'n Node, what: &str) -> &'n [(Key, Node)] {
        match &node.kind {
            Kind::Group(members) => members,
            Kind::Null => &[],
            _ => {
                self.shape(
                    node,
                    format!("{what} is a group of keys, and this is {}", node.is_a()),
                );
                &[]
            }
        }
    }

    pub(super) fn required_text(
        &mut self,
        members: &[(Key, Node)],
        key: &str,
        what: &str,
        place: &Span,
    ) -> Option<String> {
        match find(members, key) {
            Some(node) => self.plain_text(node, key),
            None => {
                self.faults
                    .error("missing", place.clone(), format!("{what} needs `{key}`"));
                None
            }
        }
    }

    /// A text for people or for names: no formula.
    pub(crate) fn plain_text(&mut self, node: &Node, key: &str) -> Option<String> {
        match &node.kind {
            Kind::Text(text) if !text.value.trim().is_empty() => Some(text.value.clone()),
            Kind::Number(number) => Some(number.clone()),
            _ => {
                self.shape(node, format!("`{key}` is a text"));
                None
            }
        }
    }

    pub(crate) fn yes_no(&mut self, node: &Node, key: &str) -> bool {
        if let Kind::Bool(yes) = node.kind {
            return yes;
        }
        self.shape(node, format!("`{key}` is true or false"));
        false
    }

    /// `5 min`, `1 s`, `500 ms`, `2 h`, `7 d`.
    pub(crate) fn duration(&mut self, node: &Node, key: &str) -> Option<Duration> {
        let found = node.text().and_then(time_of);
        if found.is_none() {
            self.faults.push(
                "shape",
                node.span.clone(),
                format!("`{key}` is a time"),
                Some("write 500 ms, 1 s, 5 min, 2 h or 7 d".to_owned()),
            );
        }
        found
    }

    /// `3 MB`, `512 KB`, `900 bytes`, or a number of bytes. 1 KB is 1,000 bytes.
    pub(crate) fn bytes(&mut self, node: &Node, key: &str) -> Option<usize> {
        let found = match &node.kind {
            Kind::Number(number) => number.parse().ok(),
            Kind::Text(text) => split_unit(&text.value).and_then(|(count, unit)| {
                let count: usize = count.parse().ok()?;
                let unit = match unit {
                    "bytes" | "B" => 1,
                    "KB" => 1_000,
                    "MB" => 1_000_000,
                    _ => return None,
                };
                count.checked_mul(unit)
            }),
            _ => None,
        }
        .filter(|bytes| *bytes > 0);
        if found.is_none() {
            self.faults.push(
                "shape",
                node.span.clone(),
                format!("`{key}` is a size"),
                Some("write 3 MB, 512 KB or a number of bytes".to_owned()),
            );
        }
        found
    }

    pub(crate) fn count(&mut self, node: &Node, key: &str) -> Option<usize> {
        let found = match &node.kind {
            Kind::Number(number) => number.parse().ok().filter(|count| *count > 0),
            _ => None,
        };
        if found.is_none() {
            self.shape(node, format!("`{key}` is a whole number above 0"));
        }
        found
    }
}

/// The value beside a key.
pub(crate) fn find<'n>(members: &'n [(Key, Node)], key: &str) -> Option<&'n Node> {
    members
        .iter()
        .find(|(name, _)| name.text == key)
        .map(|(_, node)| node)
}

/// The names of the keys of a group, none when there is no group.
pub(super) fn keys_of(node: Option<&Node>) -> Vec<String> {
    node.and_then(Node::group)
        .unwrap_or(&[])
        .iter()
        .map(|(key, _)| key.text.clone())
        .collect()
}

/// A single value as text.
pub(super) fn scalar_text(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Text(text) => Some(text.value.clone()),
        Kind::Number(number) => Some(number.clone()),
        Kind::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

/// `5 min`, `1 s`, `500 ms`, `2 h`, `7 d`; at most a year.
pub(crate) fn time_of(text: &str) -> Option<Duration> {
    let (count, unit) = split_unit(text)?;
    let count: u64 = count.parse().ok()?;
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count
        .checked_mul(unit)
        .filter(|ms| *ms <= 366 * 86_400_000)
        .map(Duration::from_millis)
}

fn split_unit(text: &str) -> Option<(&str, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(at);
    Some((count, unit.trim_start()))
}
