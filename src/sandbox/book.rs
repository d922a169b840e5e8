//! What clients did wrong, by rule: limits broken (a well-behaved client breaks none), requests refused for other
//! reasons, and effects a vendor keeps silent about. Pure.
//!
//! Rule ids are the sandbox's own, listed in `docs/sandbox.md`. What a scripted fault answers is in none of these.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::clock::Millis;

/// Examples kept.
const SAMPLES_MAX: usize = 50;
/// Marks of one request that are kept as examples.
const SAMPLES_PER_REQUEST: usize = 3;

/// How bad a mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A published or configured limit was broken: rate, size, age.
    Limit,
    /// Refused for another reason: credentials, shape, unknown things.
    Refused,
    /// Taken, but not as the client may think.
    Silent,
}

/// The marks of one request.
#[derive(Debug, Default)]
pub struct Marks {
    list: Vec<(&'static str, Weight, String)>,
    /// Which endpoint it was for, as counted.
    pub endpoint: &'static str,
}

impl Marks {
    /// A limit was broken.
    pub fn limit(&mut self, rule: &'static str, detail: impl Into<String>) {
        self.list.push((rule, Weight::Limit, detail.into()));
    }

    /// Refused by a rule that is no limit.
    pub fn refused(&mut self, rule: &'static str, detail: impl Into<String>) {
        self.list.push((rule, Weight::Refused, detail.into()));
    }

    /// Taken, with an effect the reply does not tell.
    pub fn silent(&mut self, rule: &'static str, detail: impl Into<String>) {
        self.list.push((rule, Weight::Silent, detail.into()));
    }

    /// The rule that speaks loudest, for the request log.
    #[must_use]
    pub fn rule(&self) -> Option<&'static str> {
        let of = |weight| self.list.iter().find(|mark| mark.1 == weight);
        of(Weight::Limit)
            .or_else(|| of(Weight::Refused))
            .or_else(|| of(Weight::Silent))
            .map(|mark| mark.0)
    }
}

/// All marks so far, and what was asked.
#[derive(Debug, Default)]
pub struct Book {
    limits: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    silent: BTreeMap<&'static str, u64>,
    samples: VecDeque<Value>,
    requests: BTreeMap<(&'static str, &'static str), BTreeMap<u16, u64>>,
}

impl Book {
    /// Enters one request of a vendor.
    pub fn enter(&mut self, vendor: &'static str, status: u16, marks: &Marks, now_ms: Millis) {
        *self
            .requests
            .entry((vendor, marks.endpoint))
            .or_default()
            .entry(status)
            .or_default() += 1;
        for (index, (rule, weight, detail)) in marks.list.iter().enumerate() {
            let counts = match weight {
                Weight::Limit => &mut self.limits,
                Weight::Refused => &mut self.refused,
                Weight::Silent => &mut self.silent,
            };
            *counts.entry(rule).or_default() += 1;
            if *weight == Weight::Silent || index >= SAMPLES_PER_REQUEST {
                continue;
            }
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            let weight = if *weight == Weight::Limit {
                "limit"
            } else {
                "refused"
            };
            self.samples.push_back(json!({
                "at_ms": now_ms, "vendor": vendor, "endpoint": marks.endpoint, "rule": rule,
                "weight": weight, "status": status, "detail": detail,
            }));
        }
    }

    /// Adds another book to this one.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.limits, &other.limits),
            (&mut self.refused, &other.refused),
            (&mut self.silent, &other.silent),
        ] {
            for (rule, count) in theirs {
                *mine.entry(rule).or_default() += count;
            }
        }
        self.samples.extend(other.samples.iter().cloned());
    }

    /// Counts limits broken elsewhere (the Optimizely tally keeps its own).
    pub fn add_limit(&mut self, rule: &'static str, count: u64) {
        if count > 0 {
            *self.limits.entry(rule).or_default() += count;
        }
    }

    /// What `GET /_sandbox/breaches` answers.
    #[must_use]
    pub fn report(&self) -> Value {
        json!({
            "total": self.limits.values().sum::<u64>(),
            "limits": self.limits,
            "refused": self.refused,
            "silent": self.silent,
            "samples": self.samples,
        })
    }

    /// Requests of a vendor by endpoint and status.
    #[must_use]
    pub fn requests(&self, vendor: &str) -> Value {
        self.requests
            .iter()
            .filter(|((of, _), _)| *of == vendor)
            .map(|((_, endpoint), counts)| ((*endpoint).to_owned(), json!(counts)))
            .collect::<serde_json::Map<String, Value>>()
            .into()
    }
}
