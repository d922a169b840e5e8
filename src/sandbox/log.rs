//! The sandbox's request log: the latest requests in full, bounded by count and by bytes. Pure.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::Millis;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Entries.
    pub entries_max: usize,
    /// Bytes of all bodies together.
    pub bytes_max: usize,
    /// Bytes of one body; the rest is cut off.
    pub body_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            entries_max: 10_000,
            bytes_max: 64 << 20,
            body_max: 1 << 20,
        }
    }
}

/// One request and what was answered.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its number, from 1.
    pub n: u64,
    /// When it came.
    pub at_ms: Millis,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers as they came.
    pub headers: serde_json::Map<String, Value>,
    /// Bytes of the body as it came.
    pub body_bytes: usize,
    /// The body, as text, cut when it is long.
    pub body: String,
    /// Status answered; none when the answer was spoilt on the wire.
    pub status: Option<u16>,
    /// The fault rule that struck, by its place.
    pub fault: Option<usize>,
    /// The vendor's rule it ran into, e.g. `BR4`.
    pub rule: Option<&'static str>,
}

/// The log.
#[derive(Debug, Default)]
pub struct RequestLog {
    bounds: Bounds,
    entries: VecDeque<Entry>,
    bytes: usize,
    last: u64,
    forgotten: u64,
}

impl RequestLog {
    /// Longest body kept, in bytes.
    #[must_use]
    pub fn body_max(&self) -> usize {
        self.bounds.body_max
    }

    /// Adds an entry and forgets the oldest while there are too many. `entry.n` is set here.
    pub fn add(&mut self, mut entry: Entry) {
        self.last += 1;
        entry.n = self.last;
        self.bytes += entry.body.len();
        self.entries.push_back(entry);
        while self.entries.len() > self.bounds.entries_max || self.bytes > self.bounds.bytes_max {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.body.len();
            self.forgotten += 1;
        }
    }

    /// Entries after number `since` whose path begins with `path`, oldest first, at most `limit`.
    #[must_use]
    pub fn page(&self, since: u64, path: &str, limit: usize) -> Value {
        let data: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.n > since && entry.path.starts_with(path))
            .take(limit)
            .collect();
        json!({"data": data, "last": self.last, "forgotten": self.forgotten})
    }

    /// Empties the log; numbers go on.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.forgotten = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: &str) -> Entry {
        Entry {
            n: 0,
            at_ms: 0,
            method: "POST".into(),
            path: "/optimizely/v1/events".into(),
            headers: serde_json::Map::new(),
            body_bytes: body.len(),
            body: body.into(),
            status: Some(204),
            fault: None,
            rule: None,
        }
    }

    #[test]
    fn the_oldest_go_first_and_are_counted() {
        let mut log = RequestLog {
            bounds: Bounds {
                entries_max: 3,
                bytes_max: 10,
                body_max: 10,
            },
            ..RequestLog::default()
        };
        for body in ["1", "2", "3", "4", "56789abc"] {
            log.add(entry(body));
        }
        let page = log.page(0, "/optimizely", 100);
        let kept: Vec<u64> = page["data"]
            .as_array()
            .expect("list")
            .iter()
            .filter_map(|e| e["n"].as_u64())
            .collect();
        assert_eq!(kept, [3, 4, 5]);
        assert_eq!(page["forgotten"], 2);
        assert_eq!(
            log.page(4, "", 100)["data"].as_array().map(Vec::len),
            Some(1)
        );
        assert_eq!(
            log.page(0, "/brevo", 100)["data"].as_array().map(Vec::len),
            Some(0)
        );
    }
}
