//! Pendo's replies: a metadata write answers 200 and counts what it did not write; a wrong key answers 403 with
//! nothing in it (support.pendo.io articles 360032294291 and 360031832072, and what implementers observed).

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use crate::blueprint::Verdict;
use crate::vendor::replies::{ItemVerdict, Reading, Reads, ReplyFacts};
use crate::vendor::reply_body::{count, halve_or_dead, item, json, pause, said_all, text};

/// Pendo publishes no rates and sends no `Retry-After`.
const SLOW: Duration = Duration::from_secs(30);

/// An operation on the same thing is under way (409).
const BUSY: Duration = Duration::from_secs(5);

/// A visitor who opted out is left alone for so long.
const OPTED_OUT: Duration = Duration::from_secs(24 * 3_600);

/// `POST /data/track`: one event.
pub fn track(facts: &ReplyFacts<'_>) -> Reading {
    match facts.status {
        400 => halve_or_dead(facts, "invalid_event", || {
            said_or(facts, "Pendo refuses the event without saying why")
        }),
        _ => general(facts, "track_secret"),
    }
}

/// `POST /api/v1/metadata/{visitor|account}/{group}/value`: an array of records.
pub fn metadata(facts: &ReplyFacts<'_>) -> Reading {
    match facts.status {
        200..=299 => written(facts),
        400 => refused(facts),
        _ => general(facts, "integration_key"),
    }
}

fn general(facts: &ReplyFacts<'_>, secret: &str) -> Reading {
    let slow = || Reading::of(Reads::All(Verdict::Retry { after: Some(SLOW) }));
    match facts.status {
        // Some endpoints answer a rate limit with 403.
        401 | 403 if limited(facts) => Reading {
            slow: true,
            ..slow()
        },
        status @ (401 | 403) => pause(
            if status == 401 {
                "unauthorized"
            } else {
                "forbidden"
            },
            format!(
                "Pendo refuses {secret} and never says why. One of four: the key is wrong; it may only read; \
                 it belongs to another region; or integration_key and track_secret are swapped"
            ),
        ),
        404 => pause(
            "not_found",
            "Pendo has no such path: check region and the *_base_url settings",
        ),
        // It took too long: fewer at a time.
        408 if facts.items > 1 => Reading::of(Reads::All(Verdict::Split)),
        409 => Reading::of(Reads::All(Verdict::Retry { after: Some(BUSY) })),
        429 => slow(),
        // The visitor opted out, or is blocked.
        451 if facts.items > 1 => Reading::of(Reads::All(Verdict::Split)),
        451 => Reading::of(Reads::Each(vec![
            ItemVerdict::OptedOut { lasts: OPTED_OUT };
            facts.items
        ])),
        _ => Reading::common(),
    }
}

fn limited(facts: &ReplyFacts<'_>) -> bool {
    facts
        .body
        .windows(17)
        .any(|part| part == b"rateLimitExceeded")
}

/// 200 `{"total":n,"updated":n,"failed":n,"missing":["id"]?,"errors":[…]?}`.
fn written(facts: &ReplyFacts<'_>) -> Reading {
    let body = json(facts);
    let missing: HashSet<String> = body
        .get("missing")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(id)
        .collect();
    let failed = count(&body, "failed").unwrap_or_default();
    if missing.is_empty() && failed == 0 {
        return Reading::of(Reads::All(Verdict::Delivered));
    }
    if failed > missing.len() {
        // Which ones failed is not said. Writing a value again changes nothing, so the search may repeat it.
        return refused(facts);
    }
    let each = (0..facts.items)
        .map(|at| match whom(&item(facts, at)) {
            Some(id) if missing.contains(&id) => ItemVerdict::Missing,
            _ => ItemVerdict::Delivered,
        })
        .collect();
    Reading::of(Reads::Each(each))
}

/// The likely cause is a field nobody made: what there is is looked up. Else one record is at fault.
fn refused(facts: &ReplyFacts<'_>) -> Reading {
    Reading {
        look_up: true,
        ..halve_or_dead(facts, "metadata_refused", || unmapped(facts))
    }
}

fn whom(record: &Value) -> Option<String> {
    record
        .get("visitorId")
        .or_else(|| record.get("accountId"))
        .and_then(id)
}

fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The likely cause first: a field nobody made. Its name is the one to type.
fn unmapped(facts: &ReplyFacts<'_>) -> String {
    let record = item(facts, 0);
    let fields: Vec<&str> = record
        .get("values")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let said = said_or(facts, "Pendo did not write it");
    if fields.is_empty() {
        return said;
    }
    format!(
        "{said}; its fields must exist under Settings › Data Mappings: {}",
        fields.join(", ")
    )
}

fn said_or(facts: &ReplyFacts<'_>, otherwise: &str) -> String {
    let body = json(facts);
    let message = text(&body, "message");
    if !message.is_empty() {
        return message.to_owned();
    }
    let said = said_all(facts);
    if said.is_empty() || said == "{}" {
        otherwise.to_owned()
    } else {
        said
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::vendor::reply_body::testing::read;

    fn records(ids: &[&str]) -> Vec<Value> {
        ids.iter()
            .map(|id| json!({"visitorId": id, "values": {"optimizely_nav": "on"}}))
            .collect()
    }

    fn say(
        reader: fn(&ReplyFacts<'_>) -> Reading,
        status: u16,
        body: &str,
        items: usize,
    ) -> Reading {
        read(
            reader,
            status,
            &[],
            body,
            &records(&["a", "b", "c"][..items]),
        )
    }

    #[test]
    fn a_200_for_metadata_names_who_is_not_there_yet() {
        let all = say(metadata, 200, r#"{"total":2,"updated":2,"failed":0}"#, 2);
        assert_eq!(all.verdict, Reads::All(Verdict::Delivered));
        let body = r#"{"total":3,"updated":2,"failed":1,"missing":["b"]}"#;
        assert_eq!(
            say(metadata, 200, body, 3).verdict,
            Reads::Each(vec![
                ItemVerdict::Delivered,
                ItemVerdict::Missing,
                ItemVerdict::Delivered,
            ])
        );
        let body = r#"{"total":3,"updated":2,"failed":0,"missing":["b"]}"#;
        assert!(matches!(
            say(metadata, 200, body, 3).verdict,
            Reads::Each(_)
        ));
        assert_eq!(
            say(metadata, 200, "", 3).verdict,
            Reads::All(Verdict::Delivered)
        );
    }

    #[test]
    fn records_that_failed_unnamed_are_searched_for_and_the_field_is_named() {
        let body = r#"{"total":3,"updated":1,"failed":2,"missing":["b"]}"#;
        assert_eq!(
            say(metadata, 200, body, 3).verdict,
            Reads::All(Verdict::Bisect)
        );
        assert_eq!(
            say(metadata, 400, "", 3).verdict,
            Reads::All(Verdict::Bisect)
        );
        for (status, body) in [(400, ""), (200, r#"{"total":1,"updated":0,"failed":1}"#)] {
            let Reads::Each(each) = say(metadata, status, body, 1).verdict else {
                panic!("not each");
            };
            let ItemVerdict::Dead { reason, detail } = &each[0] else {
                panic!("not dead");
            };
            assert_eq!(*reason, "metadata_refused");
            assert!(say(metadata, status, body, 1).look_up);
            assert!(detail.contains("optimizely_nav"), "{detail}");
        }
    }

    #[test]
    fn a_403_names_its_four_causes_unless_it_is_a_rate_limit() {
        for (reader, secret) in [
            (track as fn(&ReplyFacts<'_>) -> Reading, "track_secret"),
            (metadata, "integration_key"),
        ] {
            let reading = say(reader, 403, "", 1);
            let reason = "forbidden";
            assert_eq!(reading.verdict, Reads::All(Verdict::Pause { reason }));
            let note = reading.note.unwrap();
            for cause in [secret, "wrong", "only read", "region", "swapped"] {
                assert!(note.contains(cause), "{note}");
            }
            let body = r#"{"error":{"reason":"rateLimitExceeded"}}"#;
            let after = Some(SLOW);
            let limited = say(reader, 403, body, 1);
            assert_eq!(limited.verdict, Reads::All(Verdict::Retry { after }));
            assert!(limited.slow, "as a 429");
            assert_eq!(
                say(reader, 429, "", 1).verdict,
                Reads::All(Verdict::Retry { after })
            );
        }
    }

    #[test]
    fn too_slow_is_halved_too_soon_waits_and_opted_out_is_let_be() {
        assert_eq!(
            say(metadata, 408, "", 3).verdict,
            Reads::All(Verdict::Split)
        );
        assert_eq!(say(metadata, 408, "", 1).verdict, Reads::Common);
        let after = Some(BUSY);
        assert_eq!(
            say(metadata, 409, "", 1).verdict,
            Reads::All(Verdict::Retry { after })
        );
        assert_eq!(
            say(metadata, 451, "", 2).verdict,
            Reads::All(Verdict::Split)
        );
        assert_eq!(
            say(track, 451, "", 1).verdict,
            Reads::Each(vec![ItemVerdict::OptedOut { lasts: OPTED_OUT }])
        );
        assert!(matches!(
            say(track, 404, "", 1).verdict,
            Reads::All(Verdict::Pause {
                reason: "not_found"
            })
        ));
        assert!(matches!(
            say(track, 400, "", 1).verdict,
            Reads::Each(each) if matches!(each[..], [ItemVerdict::Dead { reason: "invalid_event", .. }])
        ));
        for status in [200, 500, 503] {
            assert_eq!(say(track, status, "", 1), Reading::common());
        }
    }
}
