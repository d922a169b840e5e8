//! Records to arrivals: decode, filter, map. Pure, and made for running on a blocking thread a chunk at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;

use super::batch::Envelope;
use super::flow::{Arrival, Arrivals, Origin};
use crate::blueprint::{Mapping, Sheet, Tables};
use crate::clock::Millis;
use crate::event::reads::Seen;
use crate::journal::{Entry, Parked};
use crate::registry::Integration;

/// Maps records from the log.
pub(super) fn map_fresh(
    integration: &Integration,
    tables: &Arc<Tables>,
    generation: u64,
    entries: Vec<Entry>,
) -> Arrivals {
    let mut sheet = Sheet::for_many();
    let events = entries
        .into_iter()
        .map(|entry| {
            let (mapped, times) = map_one(integration, tables, &entry.bytes, &mut sheet);
            Arrival {
                seq: entry.seq,
                at_ms: entry.at_ms,
                ts_ms: times.map_or(entry.at_ms, |times| times.own_ms),
                record: entry.bytes,
                origin: Origin::Fresh,
                mapped,
            }
        })
        .collect();
    Arrivals {
        envelopes: envelopes(integration, tables),
        generation,
        events,
    }
}

/// Maps records that were set apart.
pub(super) fn map_parked(
    integration: &Integration,
    tables: &Arc<Tables>,
    generation: u64,
    parked: Vec<Parked>,
) -> Arrivals {
    let mut sheet = Sheet::for_many();
    let events = parked
        .into_iter()
        .map(|parked| {
            let (mapped, times) = map_one(integration, tables, &parked.record, &mut sheet);
            Arrival {
                seq: parked.seq,
                at_ms: times.map_or(parked.since_ms, |times| times.received_ms),
                ts_ms: times.map_or(parked.since_ms, |times| times.own_ms),
                record: parked.record,
                origin: Origin::Parked {
                    since_ms: parked.since_ms,
                    attempts: parked.attempts,
                    replay: parked.replay,
                    reason: parked.reason,
                    parts_done: parked.parts_done,
                },
                mapped,
            }
        })
        .collect();
    Arrivals {
        envelopes: envelopes(integration, tables),
        generation,
        events,
    }
}

fn envelopes(integration: &Integration, tables: &Arc<Tables>) -> Vec<Envelope> {
    let plan = &integration.plan;
    (0..plan.requests().len())
        .map(|request| Envelope {
            key: plan.envelope_key(request, tables),
            bytes: plan.envelope_bytes(request, tables),
            tables: tables.clone(),
        })
        .collect()
}

/// An event's times.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// When it was accepted.
    received_ms: Millis,
    /// When it happened.
    own_ms: Millis,
}

/// What a record becomes, and its times.
fn map_one(
    integration: &Integration,
    tables: &Tables,
    record: &[u8],
    sheet: &mut Sheet,
) -> (Result<Mapping, String>, Option<Times>) {
    // One record that trips a bug of ours must not stop all others for ever.
    let mapped = catch_unwind(AssertUnwindSafe(|| {
        let plan = &integration.plan;
        let seen = plan.read(record).map_err(|error| error.to_string())?;
        let mapping = match unwanted(integration, &seen) {
            Some(reason) => Mapping::Skipped(reason),
            None => plan.map_read(&seen, tables, sheet),
        };
        let times = Times {
            received_ms: seen.received_at_ms,
            own_ms: seen.timestamp_ms,
        };
        Ok((mapping, times))
    }));
    match mapped {
        Ok(Ok((mapping, times))) => (Ok(mapping), Some(times)),
        Ok(Err(error)) => (Err(error), None),
        Err(_) => (
            Err("mapping it failed inside aqueduct; please report this event".to_owned()),
            None,
        ),
    }
}

/// Is the event none of this integration's business, before its blueprint is even asked?
fn unwanted(integration: &Integration, event: &Seen<'_>) -> Option<&'static str> {
    if let Some(sources) = &integration.sources
        && !sources.iter().any(|source| *source == event.source)
    {
        return Some("source");
    }
    let wanted = event
        .integrations
        .as_ref()
        .is_none_or(|choice| chosen(choice, integration.blueprint.title()));
    (!wanted).then_some("integrations")
}

/// Segment's `integrations` object: `All: false` switches all off, a vendor's own entry wins. Names are matched
/// byte for byte; unknown ones mean nothing.
fn chosen(choice: &Value, title: &str) -> bool {
    let switch = |key: &str| match choice.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::Bool(on)) => Some(*on),
        // Options for the vendor: it is wanted.
        Some(_) => Some(true),
    };
    switch(title).or_else(|| switch("All")).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::chosen;

    #[test]
    fn the_integrations_object_chooses_by_name_then_by_all() {
        for (choice, expected) in [
            (json!({}), true),
            (json!({"All": true}), true),
            (json!({"All": false}), false),
            (json!({"All": false, "Optimizely": true}), true),
            (json!({"All": false, "Optimizely": {"x": 1}}), true),
            (json!({"All": true, "Optimizely": false}), false),
            (json!({"Optimizely": false}), false),
            (json!({"optimizely": false}), true),
            (json!({"Heap": false, "all": false}), true),
            (json!({"Optimizely": null}), true),
            (json!("nonsense"), true),
        ] {
            assert_eq!(chosen(&choice, "Optimizely"), expected, "{choice}");
        }
    }
}
