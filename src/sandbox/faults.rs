//! Scripted faults: which requests go wrong, how often and in which way. Pure: decides, does not do.
//!
//! A rule names the requests it is for (by the start of the path, by text in the body), how often it strikes
//! (after so many, so many times, with a chance) and what then happens. The first rule that strikes wins.
//! Chance is a function of the seed, the rule and the number of the match, so that a run can be repeated.

use std::collections::BTreeMap;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `PUT /_sandbox/faults` takes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Makes chance repeatable.
    pub seed: u64,
    /// Tried in order.
    pub rules: Vec<Rule>,
}

/// One kind of request that goes wrong.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Start of the path and query, e.g. `/optimizely/v1/events`; empty = every vendor path.
    pub path: String,
    /// Only requests whose body holds this text (a poisoned event).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Leaves the first so many matching requests alone.
    pub after: u64,
    /// Strikes so many times, then never again; none = always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Strikes with this chance, 0 to 1; none = every time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What happens.
    pub action: Action,
}

/// What happens to a request a rule strikes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Action {
    /// Waits so long before anything else, in milliseconds.
    pub delay_ms: u64,
    /// The vendor takes the request in before it goes wrong: an answer lost on the way back.
    pub process: bool,
    /// Answers this status instead of the vendor's own answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Headers of that answer, e.g. `Retry-After`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Body of that answer: text as it is, anything else as JSON.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub body: Value,
    /// How the answer goes wrong on the wire; none = it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire: Option<Wire>,
    /// Time between the bytes of a `drip`, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
}

impl Action {
    /// Whether the vendor's own answer is replaced.
    #[must_use]
    pub fn replaces_answer(&self) -> bool {
        self.status.is_some() || self.wire.is_some()
    }

    /// The body as bytes.
    #[must_use]
    pub fn body_bytes(&self) -> Vec<u8> {
        match &self.body {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        }
    }
}

/// Ways an answer can go wrong on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Nothing ever comes.
    Hang,
    /// The connection is cut by RST before any byte of an answer.
    Reset,
    /// The connection is closed (FIN) before any byte of an answer.
    Close,
    /// Status and half of the promised body, then the connection is closed.
    Cut,
    /// One byte of the body at a time.
    Drip,
    /// A body that never ends.
    Endless,
    /// Bytes that are no HTTP.
    Garbage,
}

/// The rules in force and how often each has matched and struck.
#[derive(Debug, Default)]
pub struct Faults {
    script: Script,
    counts: Vec<Counts>,
}

/// How a rule has fared.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// Requests it was for.
    pub matched: u64,
    /// Requests it spoilt.
    pub struck: u64,
}

impl Faults {
    /// Puts a script in force; counting begins anew.
    pub fn set(&mut self, script: Script) {
        self.counts = vec![Counts::default(); script.rules.len()];
        self.script = script;
    }

    /// Whether no rule is in force.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.script.rules.is_empty()
    }

    /// The script with each rule's counts.
    #[must_use]
    pub fn report(&self) -> Value {
        let rules: Vec<Value> = self
            .script
            .rules
            .iter()
            .zip(&self.counts)
            .map(|(rule, counts)| serde_json::json!({"rule": rule, "counts": counts}))
            .collect();
        serde_json::json!({"seed": self.script.seed, "rules": rules})
    }

    /// The rule that strikes this request, by its place, and what then happens.
    pub fn strike(&mut self, path: &str, body: &[u8]) -> Option<(usize, Action)> {
        let seed = self.script.seed;
        for (index, (rule, counts)) in self
            .script
            .rules
            .iter()
            .zip(self.counts.iter_mut())
            .enumerate()
        {
            if !path.starts_with(&rule.path) {
                continue;
            }
            if let Some(text) = &rule.contains
                && !holds(body, text.as_bytes())
            {
                continue;
            }
            counts.matched += 1;
            if counts.matched <= rule.after || rule.times.is_some_and(|most| counts.struck >= most)
            {
                continue;
            }
            if let Some(chance) = rule.probability
                && lot(seed, index, counts.matched) >= chance
            {
                continue;
            }
            counts.struck += 1;
            return Some((index, rule.action.clone()));
        }
        None
    }
}

/// Whether `text` stands somewhere in `body`.
fn holds(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

/// A number from 0 up to 1 that depends on nothing but its arguments.
fn lot(seed: u64, rule: usize, matched: u64) -> f64 {
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(seed, rule as u64);
    hasher.write_u64(matched);
    // 53 bits fill a double exactly.
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: Value) -> Faults {
        let mut faults = Faults::default();
        faults.set(serde_json::from_value(json).expect("script"));
        faults
    }

    fn struck(faults: &mut Faults, path: &str, body: &str) -> Option<usize> {
        faults.strike(path, body.as_bytes()).map(|(index, _)| index)
    }

    #[test]
    fn a_rule_strikes_its_own_requests_so_many_times_and_in_order() {
        let mut faults = faults(serde_json::json!({"rules": [
            {"path": "/optimizely/v1", "contains": "poison", "action": {"status": 400}},
            {"path": "/optimizely", "after": 1, "times": 2, "action": {"status": 503, "headers": {"Retry-After": "1"}}},
        ]}));
        assert_eq!(struck(&mut faults, "/brevo/v3", "poison"), None);
        assert_eq!(struck(&mut faults, "/optimizely/v1/events", "fine"), None);
        assert_eq!(
            struck(&mut faults, "/optimizely/v1/events", "a poisoned one"),
            Some(0)
        );
        assert_eq!(struck(&mut faults, "/optimizely/x", "fine"), Some(1));
        assert_eq!(struck(&mut faults, "/optimizely/x", "fine"), Some(1));
        assert_eq!(struck(&mut faults, "/optimizely/x", "fine"), None);
        assert_eq!(faults.report()["rules"][1]["counts"]["struck"], 2);
    }

    #[test]
    fn chance_is_near_what_was_asked_and_the_same_for_the_same_seed() {
        let run = |seed: u64| {
            let mut faults = faults(
                serde_json::json!({"seed": seed, "rules": [{"probability": 0.25, "action": {"status": 500}}]}),
            );
            (0..4000)
                .map(|_| faults.strike("/x", b"").is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let hits = run(7).iter().filter(|hit| **hit).count();
        assert!((900..1100).contains(&hits), "{hits}");
    }

    #[test]
    fn a_misspelt_rule_is_refused() {
        let script: Result<Script, _> =
            serde_json::from_str(r#"{"rules":[{"path":"/x","acton":{"status":500}}]}"#);
        assert!(script.is_err());
    }
}
