//! What the playing vendors can be told at run time: which credentials are good, tiers, and what to do where a
//! vendor is silent or has changed. `PUT /_sandbox/config` takes a part of it; what it does not name stays.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::brevo::Policies as Brevo;
use super::heap::Policies as Heap;
use super::odp::Policies as Odp;
use super::pendo::Policies as Pendo;

/// The whole of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Rate windows close so much early, in milliseconds: requests sent evenly may arrive bunched up.
    pub rate_grace_ms: u64,
    /// Brevo.
    pub brevo: Brevo,
    /// Heap, both regions.
    pub heap: Heap,
    /// Pendo, both hosts.
    pub pendo: Pendo,
    /// ODP.
    pub odp: Odp,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rate_grace_ms: 50,
            brevo: Brevo::default(),
            heap: Heap::default(),
            pendo: Pendo::default(),
            odp: Odp::default(),
        }
    }
}

impl Config {
    /// This, changed by what `part` names.
    ///
    /// # Errors
    /// In words, with the place, when `part` names what is not there or gives it a wrong type.
    pub fn with(&self, part: &Value) -> Result<Self, String> {
        let mut whole = serde_json::to_value(self).map_err(|error| error.to_string())?;
        merge(&mut whole, part);
        serde_path_to_error::deserialize(whole).map_err(|error| error.to_string())
    }
}

/// Objects are merged, anything else is replaced.
fn merge(into: &mut Value, part: &Value) {
    match (into, part) {
        (Value::Object(into), Value::Object(part)) => {
            for (key, value) in part {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, part) => *into = part.clone(),
    }
}

/// Whether a credential is good: any that is not empty while none are listed.
pub(super) fn is_good(listed: &[String], given: &str) -> bool {
    !given.is_empty() && (listed.is_empty() || listed.iter().any(|good| good == given))
}

/// Whether an address may ask: any while none are listed, or when it is not known.
pub(super) fn may_ask(listed: &[IpAddr], peer: Option<IpAddr>) -> bool {
    let Some(peer) = peer.filter(|_| !listed.is_empty()) else {
        return true;
    };
    listed.contains(&peer.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_changes_only_what_it_names_and_a_slip_is_named() {
        let config = Config::default()
            .with(&json!({"brevo": {"tier": "advanced"}}))
            .and_then(|config| {
                config.with(&json!({"brevo": {"keys": ["a"]}, "heap": {"booleans": "accept"}}))
            })
            .expect("config");
        let whole = serde_json::to_value(&config).expect("json");
        assert_eq!(whole["brevo"]["tier"], "advanced");
        assert_eq!(whole["brevo"]["keys"], json!(["a"]));
        assert_eq!(whole["heap"]["booleans"], "accept");
        let slip = Config::default().with(&json!({"pendo": {"max_record": 3}}));
        let slip = slip.expect_err("unknown field");
        assert!(
            slip.contains("pendo") && slip.contains("max_record"),
            "{slip}"
        );
        let slip = Config::default().with(&json!({"brevo": {"tier": "golden"}}));
        assert!(slip.expect_err("tier").contains("golden"));
    }
}
