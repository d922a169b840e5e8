//! A bounded list of JSON texts, each under who it is about: the latest stay. Pure.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// Texts kept.
const ENTRIES_MAX: usize = 200_000;
/// Bytes of all texts together.
const BYTES_MAX: usize = 64 << 20;

/// The latest of what came.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<(Box<str>, Box<str>)>,
    bytes: usize,
    total: u64,
}

impl Ring {
    /// Adds one, about `who`; the oldest go while there are too many.
    pub fn add(&mut self, who: &str, value: &Value) {
        let text = value.to_string();
        self.total += 1;
        self.bytes += who.len() + text.len();
        self.entries.push_back((who.into(), text.into()));
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let Some((who, text)) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= who.len() + text.len();
        }
    }

    /// How many ever came.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The latest `limit`, oldest first; only those about `who` if given.
    #[must_use]
    pub fn latest(&self, who: Option<&str>, limit: usize) -> Vec<Value> {
        let mut values: Vec<Value> = self
            .entries
            .iter()
            .rev()
            .filter(|(about, _)| who.is_none_or(|who| who == &**about))
            .take(limit)
            .map(|(_, text)| serde_json::from_str(text).unwrap_or(json!(null)))
            .collect();
        values.reverse();
        values
    }
}
