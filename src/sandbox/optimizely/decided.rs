//! Which variation of which flag Optimizely was last told a visitor has. Pure.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::wire::{self, Batch};
use crate::clock::Millis;

/// Visitors kept; those beyond are not.
const VISITORS_MAX: usize = 500_000;

/// One decision of an impression.
#[derive(Debug)]
pub struct Decided {
    visitor: String,
    flag: String,
    at_ms: Millis,
    variation: String,
}

/// By visitor and flag, the latest by its own time.
#[derive(Debug, Default)]
pub struct Latest(HashMap<String, BTreeMap<String, (Millis, String)>>);

#[derive(Deserialize)]
struct Decision {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    flag_key: String,
    variation_key: String,
    #[serde(default)]
    enabled: bool,
}

/// The decisions of a batch that say which flag they are of.
#[must_use]
pub fn of_batch(batch: &Batch<'_>) -> Vec<Decided> {
    let mut found = Vec::new();
    for visitor in &batch.visitors {
        for snapshot in &visitor.snapshots {
            let Some(decisions) = snapshot.decisions else {
                continue;
            };
            let at_ms = snapshot
                .events
                .first()
                .and_then(|event| event.timestamp?.get().parse().ok())
                .unwrap_or(0);
            let Some(who) = wire::text(visitor.visitor_id) else {
                continue;
            };
            let decisions: Vec<Decision> =
                serde_json::from_str(decisions.get()).unwrap_or_default();
            found.extend(decisions.into_iter().map(|decision| Decided {
                visitor: who.clone().into_owned(),
                flag: decision.metadata.flag_key,
                at_ms,
                variation: if decision.metadata.enabled {
                    decision.metadata.variation_key
                } else {
                    "off".to_owned()
                },
            }));
        }
    }
    found
}

impl Latest {
    /// Takes in what a batch says.
    pub fn take(&mut self, decided: &[Decided]) {
        for one in decided {
            if !self.0.contains_key(&one.visitor) && self.0.len() >= VISITORS_MAX {
                continue;
            }
            let flags = self.0.entry(one.visitor.clone()).or_default();
            let known = flags.entry(one.flag.clone()).or_default();
            if known.0 <= one.at_ms {
                *known = (one.at_ms, one.variation.clone());
            }
        }
    }

    /// `{visitor: {flag: variation}}`, of all or of one.
    #[must_use]
    pub fn values(&self, visitor: Option<&str>) -> Value {
        let shown = |flags: &BTreeMap<String, (Millis, String)>| {
            let flags = flags.iter();
            Value::Object(
                flags
                    .map(|(flag, (_, variation))| (flag.clone(), variation.clone().into()))
                    .collect(),
            )
        };
        let all: BTreeMap<&String, Value> = self
            .0
            .iter()
            .filter(|(who, _)| visitor.is_none_or(|visitor| visitor == *who))
            .map(|(who, flags)| (who, shown(flags)))
            .collect();
        Value::Object(
            all.into_iter()
                .map(|(who, flags)| (who.clone(), flags))
                .collect::<Map<_, _>>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_of_a_flag_is_shown_however_they_come() {
        let mut latest = Latest::default();
        for (at, variation, enabled) in [(2, "b", true), (1, "a", true), (3, "c", false)] {
            let body = json!({"visitors": [{"visitor_id": "u", "snapshots": [{
                "decisions": [{"campaign_id": null, "metadata": {"flag_key": "f", "variation_key": variation, "enabled": enabled}}],
                "events": [{"timestamp": at}]}]}]})
            .to_string();
            latest.take(&of_batch(&serde_json::from_str(&body).expect("batch")));
            let shown = if at == 3 { "off" } else { "b" };
            assert_eq!(latest.values(None), json!({"u": {"f": shown}}));
        }
        assert_eq!(latest.values(Some("x")), json!({}));
    }
}
