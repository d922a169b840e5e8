//! ODP's replies: a refused batch names the invalid ones by index, most of the time
//! (Optimizely Data Platform v3 reference: batch requests, errors).

use serde_json::Value;

use crate::vendor::replies::{ItemVerdict, Reading, Reads, ReplyFacts};
use crate::vendor::reply_body::{halve_or_dead, json, pause, said, text};

/// `POST /v3/events` and `POST /v3/profiles`.
pub fn any(facts: &ReplyFacts<'_>) -> Reading {
    match facts.status {
        400 => refused(facts),
        401 | 403 => pause(
            "forbidden",
            "ODP refuses api_key: it is wrong, revoked, or belongs to another region. Were the key right, see whether App \
             Consent for the channel \"Api\" is opted in",
        ),
        404 => {
            let body = json(facts);
            pause(
                "not_found",
                format!(
                    "ODP has no such path: check region and base_url ({})",
                    said(text(detail(&body), "message"))
                ),
            )
        }
        _ => Reading::common(),
    }
}

fn detail(body: &Value) -> &Value {
    body.get("detail").unwrap_or(&Value::Null)
}

/// Whether the others of the batch were taken is not documented, so they go again: an event's `idempotence_id`
/// stays the same, and a profile's fields are a state. Each round names somebody, so it ends.
fn refused(facts: &ReplyFacts<'_>) -> Reading {
    let body = json(facts);
    let mut each = vec![ItemVerdict::Again; facts.items];
    for invalid in detail(&body)
        .get("invalids")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Some(at) = index(invalid)
            && let Some(verdict) = each.get_mut(at)
        {
            *verdict = ItemVerdict::Dead {
                reason: "invalid",
                detail: said(words(invalid)),
            };
        }
    }
    if each.iter().all(|verdict| *verdict == ItemVerdict::Again) {
        return halve_or_dead(facts, "invalid", || said(&body_words(&body)));
    }
    Reading::of(Reads::Each(each))
}

/// Under which name the index stands depends on what was sent.
fn index(invalid: &Value) -> Option<usize> {
    ["event", "profile", "object", "index"]
        .iter()
        .find_map(|name| usize::try_from(invalid.get(name)?.as_u64()?).ok())
}

fn words(invalid: &Value) -> &str {
    ["message", "reason"]
        .iter()
        .map(|name| text(invalid, name))
        .find(|words| !words.is_empty())
        .unwrap_or("invalid")
}

fn body_words(body: &Value) -> String {
    match body.get("detail") {
        Some(detail) => detail.to_string(),
        None if body.is_null() => "ODP refuses it without saying why".to_owned(),
        None => body.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::blueprint::Verdict;
    use crate::vendor::reply_body::testing::read;

    fn say(status: u16, body: &str, items: usize) -> Reading {
        read(
            any,
            status,
            &[],
            body,
            &vec![json!({"type": "fullstack"}); items],
        )
    }

    #[test]
    fn the_invalid_are_dead_and_the_others_go_again() {
        let body = r#"{"title":"Bad Request","status":400,"timestamp":"t","detail":{"invalids":[
            {"event":0,"message":"missing 'type' field"},{"event":2,"message":"missing 'action' field"},{"event":9,"message":"?"}]}}"#;
        let dead = |detail: &str| ItemVerdict::Dead {
            reason: "invalid",
            detail: detail.to_owned(),
        };
        assert_eq!(
            say(400, body, 3).verdict,
            Reads::Each(vec![
                dead("missing 'type' field"),
                ItemVerdict::Again,
                dead("missing 'action' field"),
            ])
        );
    }

    #[test]
    fn a_400_without_indexes_is_halved_until_the_culprit_is_alone() {
        let body = r#"{"title":"Bad Request","status":400,"detail":{"invalids":[{"field":"x","reason":"unknown field"}]}}"#;
        assert_eq!(say(400, body, 2).verdict, Reads::All(Verdict::Bisect));
        assert_eq!(say(400, "", 2).verdict, Reads::All(Verdict::Bisect));
        assert!(matches!(
            say(400, body, 1).verdict,
            Reads::Each(each) if matches!(&each[0], ItemVerdict::Dead { detail, .. } if detail.contains("unknown field"))
        ));
    }

    #[test]
    fn a_key_that_opens_nothing_pauses_and_a_202_delivers() {
        let reading = say(403, r#"{"message":"Forbidden"}"#, 2);
        assert_eq!(
            reading.verdict,
            Reads::All(Verdict::Pause {
                reason: "forbidden"
            })
        );
        assert!(reading.note.unwrap().contains("region"));
        assert!(matches!(
            say(404, r#"{"detail":{"message":"x"}}"#, 1).verdict,
            Reads::All(Verdict::Pause {
                reason: "not_found"
            })
        ));
        for status in [202, 413, 429, 500, 502] {
            assert_eq!(say(status, "{}", 2), Reading::common(), "{status}");
        }
    }
}
