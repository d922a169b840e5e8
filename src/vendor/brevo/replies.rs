//! Brevo's replies: partly accepted batches, error codes, and the rate headers on every answer
//! (developers.brevo.com: create-batch-events, limit-headers; the Python SDK 5.1.0's error models).

use std::time::Duration;

use serde_json::Value;

use crate::blueprint::Verdict;
use crate::vendor::replies::{IfAll, ItemVerdict, Reading, Reads, ReplyFacts, Room};
use crate::vendor::reply_body::{count, halve_or_dead, item, json, pause, pause_long, said, text};

/// How long to wait after a 429 that does not say.
const SLOW: Duration = Duration::from_secs(60);

/// How long a contact takes that another call is being processed for (425).
const IN_PROCESS: Duration = Duration::from_secs(2);

/// … and how often we wait for it.
const IN_PROCESS_TIMES: u32 = 5;

/// A key that is refused is tried again this often.
const KEY_LOOK: Duration = Duration::from_secs(600);

/// Credits that are used up are looked for this often.
const CREDITS_LOOK: Duration = Duration::from_secs(3_600);

/// So many events refused in the same words, and none accepted: the blueprint is at fault, not the events.
const ALL_ALIKE: IfAll = IfAll {
    reason: "every_event_refused",
    in_row: 5,
    alike: true,
};

/// `POST /v3/events/batch`: 202 with a count, 207 and 400 with the indexes of refused events.
pub fn batch(facts: &ReplyFacts<'_>) -> Reading {
    let body = json(facts);
    let reading = match facts.status {
        202 => counted(facts, &body),
        207 => Reading::of(Reads::Each(partly(
            facts.items,
            &body,
            &ItemVerdict::Delivered,
        ))),
        400 if !refusals(&body).is_empty() => all_refused(facts, &body),
        _ => general(facts, &body),
    };
    with_room(facts, reading)
}

/// `POST /v3/events`: one event.
pub fn single(facts: &ReplyFacts<'_>) -> Reading {
    let mut reading = general(facts, &json(facts));
    reading.if_all = (facts.status == 400).then_some(ALL_ALIKE);
    with_room(facts, reading)
}

/// `POST` and `PUT /v3/contacts…`: one contact.
pub fn contact(facts: &ReplyFacts<'_>) -> Reading {
    let body = json(facts);
    let reading = match facts.status {
        400 if is_duplicate(&body) => duplicate(facts, &body),
        400 | 404 if is_about_a_list(facts, &body) => pause(
            "list_missing",
            format!(
                "Brevo has not all of the lists contacts are to be put on: check list_ids ({}). Events go on meanwhile",
                said(text(&body, "message"))
            ),
        ),
        404 => Reading::of(Reads::Each(vec![ItemVerdict::Skip("missing"); facts.items])),
        _ => general(facts, &body),
    };
    with_room(facts, reading)
}

/// What any endpoint may answer.
fn general(facts: &ReplyFacts<'_>, body: &Value) -> Reading {
    let message = text(body, "message");
    match facts.status {
        400 => halve_or_dead(facts, reason(text(body, "code")), || said(message)),
        401 if message
            .to_ascii_lowercase()
            .contains("unrecognised ip address") =>
        {
            pause(
                "ip_not_authorised",
                format!(
                    "Brevo does not know the address this gateway calls from: allow it at \
                 https://app.brevo.com/security/authorised_ips ({})",
                    said(message)
                ),
            )
        }
        401 => pause_long(
            "unauthorized",
            KEY_LOOK,
            format!("Brevo refuses the api_key ({})", said(message)),
        ),
        402 => pause_long(
            "not_enough_credits",
            CREDITS_LOOK,
            "Brevo's plan or credits are used up: delivery goes on when there are some again",
        ),
        403 => pause(
            "forbidden",
            format!(
                "Brevo's account may not do this: {} {}",
                text(body, "code"),
                said(message)
            ),
        ),
        // A body Brevo cannot take at all is no single event's fault, and no repeat would mend it.
        405 | 406 | 415 | 422 => Reading::of(Reads::All(Verdict::Reject)),
        // Others are not concerned: nobody but this contact waits.
        425 => Reading::of(Reads::Each(vec![
            ItemVerdict::Wait {
                after: IN_PROCESS,
                times: IN_PROCESS_TIMES,
                reason: "in_process",
            };
            facts.items
        ])),
        429 => retry(Some(room(facts).map_or(SLOW, |room| room.reset))),
        _ => Reading::common(),
    }
}

/// 202 says how many events were queued, not which.
fn counted(facts: &ReplyFacts<'_>, body: &Value) -> Reading {
    match count(body, "count") {
        Some(0) if facts.items > 0 => Reading::of(Reads::Each(vec![
            ItemVerdict::Dead {
                reason: "not_queued",
                detail: format!(
                    "Brevo answered 202, but queued none: {}",
                    said(text(body, "message"))
                ),
            };
            facts.items
        ])),
        Some(queued) if queued < facts.items => Reading {
            note: Some(format!(
                "Brevo queued only {queued} of {} events and does not say which",
                facts.items
            )),
            ..Reading::of(Reads::All(Verdict::Delivered))
        },
        _ => Reading::of(Reads::All(Verdict::Delivered)),
    }
}

/// The indexes of `errors`, each with its message.
fn refusals(body: &Value) -> Vec<(usize, &str)> {
    let errors = body.get("errors").and_then(Value::as_array);
    errors
        .into_iter()
        .flatten()
        .flat_map(|error| {
            let indexes = error.get("eventIndex").map_or(&[][..], |index| {
                index
                    .as_array()
                    .map_or(std::slice::from_ref(index), Vec::as_slice)
            });
            indexes.iter().filter_map(move |index| {
                let at = usize::try_from(index.as_u64()?).ok()?;
                Some((at, text(error, "message")))
            })
        })
        .collect()
}

/// The refused are dead, the others are `rest`.
fn partly(items: usize, body: &Value, rest: &ItemVerdict) -> Vec<ItemVerdict> {
    let mut each = vec![rest.clone(); items];
    for (at, message) in refusals(body) {
        if let Some(verdict) = each.get_mut(at) {
            *verdict = ItemVerdict::Dead {
                reason: "invalid_event",
                detail: said(message),
            };
        }
    }
    each
}

/// 400 with errors: none was taken. Whoever is not named goes again; each round names somebody, so it ends.
fn all_refused(facts: &ReplyFacts<'_>, body: &Value) -> Reading {
    let each = partly(facts.items, body, &ItemVerdict::Again);
    if each.iter().all(|verdict| *verdict == ItemVerdict::Again) {
        // Indexes beyond the batch: not understood.
        return halve_or_dead(facts, "invalid_event", || said(text(body, "message")));
    }
    Reading {
        if_all: Some(ALL_ALIKE),
        ..Reading::of(Reads::Each(each))
    }
}

/// A contact could not be put on one of the lists the installer named.
fn is_about_a_list(facts: &ReplyFacts<'_>, body: &Value) -> bool {
    let listed = item(facts, 0)
        .get("listIds")
        .and_then(Value::as_array)
        .is_some_and(|lists| !lists.is_empty());
    let said_so = text(body, "message").to_ascii_lowercase().contains("list");
    listed && (facts.status == 404 || said_so)
}

/// Address and external id belong to two contacts. Brevo answers so with two codes.
fn is_duplicate(body: &Value) -> bool {
    text(body, "code") == "duplicate_parameter"
        || body.pointer("/metadata/duplicate_identifiers").is_some()
        || text(body, "message").contains("already associated with another")
}

/// Once more by the address alone; merging contacts is nobody's wish (`forceMerge` deletes one).
fn duplicate(facts: &ReplyFacts<'_>, body: &Value) -> Reading {
    let contact = item(facts, 0);
    let both = contact.get("email").is_some() && contact.get("ext_id").is_some();
    Reading::of(Reads::Each(vec![if both {
        ItemVerdict::AgainWithout("ext_id")
    } else {
        ItemVerdict::Dead {
            reason: "duplicate_parameter",
            detail: said(text(body, "message")),
        }
    }]))
}

/// The codes are an open list; a label comes from a closed one.
fn reason(code: &str) -> &'static str {
    match code {
        "invalid_parameter" => "invalid_parameter",
        "missing_parameter" => "missing_parameter",
        "out_of_range" => "out_of_range",
        "duplicate_parameter" => "duplicate_parameter",
        "bad_request" => "bad_request",
        _ => "refused",
    }
}

fn retry(after: Option<Duration>) -> Reading {
    Reading::of(Reads::All(Verdict::Retry { after }))
}

fn with_room(facts: &ReplyFacts<'_>, mut reading: Reading) -> Reading {
    reading.room = room(facts);
    reading
}

/// `x-sib-ratelimit-*` are on every answer; `reset` is seconds from now, and there is no `Retry-After`.
fn room(facts: &ReplyFacts<'_>) -> Option<Room> {
    let number = |name: &str| (facts.header)(name)?.trim().parse::<u64>().ok();
    Some(Room {
        limit: number("x-sib-ratelimit-limit")?,
        remaining: number("x-sib-ratelimit-remaining")?,
        reset: Duration::from_secs(number("x-sib-ratelimit-reset")?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::vendor::reply_body::testing::read;

    fn events(n: usize) -> Vec<Value> {
        vec![json!({"event_name": "experiment_viewed"}); n]
    }

    fn dead(reason: &'static str, detail: &str) -> ItemVerdict {
        ItemVerdict::Dead {
            reason,
            detail: detail.to_owned(),
        }
    }

    fn pause_of(reading: &Reading) -> &'static str {
        match reading.verdict {
            Reads::All(Verdict::Pause { reason }) => reason,
            ref other => panic!("no pause: {other:?}"),
        }
    }

    #[test]
    fn a_202_counts_what_it_took() {
        let all = read(
            batch,
            202,
            &[],
            r#"{"message":"Batch accepted","count":3}"#,
            &events(3),
        );
        assert_eq!(all, Reading::of(Reads::All(Verdict::Delivered)));
        let some = read(batch, 202, &[], r#"{"message":"m","count":2}"#, &events(3));
        assert_eq!(some.verdict, Reads::All(Verdict::Delivered));
        assert!(some.note.unwrap().contains("2 of 3"));
        let none = read(batch, 202, &[], r#"{"message":"m","count":0}"#, &events(2));
        assert!(matches!(&none.verdict, Reads::Each(each) if each.len() == 2
            && matches!(each[0], ItemVerdict::Dead { reason: "not_queued", .. })));
    }

    #[test]
    fn a_207_names_the_refused_and_the_rest_is_delivered() {
        let body = r#"{"status":"partial","total_events":4,"successful_events":2,"failed_events":2,
            "errors":[{"eventIndex":[1],"message":"bad name"},{"eventIndex":[3, 99],"message":"bad key"}]}"#;
        let reading = read(batch, 207, &[], body, &events(4));
        assert_eq!(
            reading.verdict,
            Reads::Each(vec![
                ItemVerdict::Delivered,
                dead("invalid_event", "bad name"),
                ItemVerdict::Delivered,
                dead("invalid_event", "bad key"),
            ])
        );
    }

    #[test]
    fn a_400_with_errors_is_everybodys_own_and_five_alike_are_the_blueprints() {
        let body =
            r#"{"errors":[{"eventIndex":[0],"message":"a"},{"eventIndex":[2],"message":"b"}]}"#;
        assert_eq!(
            read(batch, 400, &[], body, &events(3)).verdict,
            Reads::Each(vec![
                dead("invalid_event", "a"),
                ItemVerdict::Again,
                dead("invalid_event", "b"),
            ])
        );
        let body = r#"{"errors":[{"eventIndex":[0,1,2,3,4],"message":"event_name is invalid"}]}"#;
        let alike = read(batch, 400, &[], body, &events(5));
        assert_eq!(alike.if_all, Some(ALL_ALIKE));
        let refused = dead("invalid_event", "event_name is invalid");
        assert_eq!(alike.verdict, Reads::Each(vec![refused; 5]));
        // Without indexes it is searched for; alone it is dead by Brevo's code.
        let body = r#"{"code":"invalid_parameter","message":"no"}"#;
        assert_eq!(
            read(batch, 400, &[], body, &events(2)).verdict,
            Reads::All(Verdict::Bisect)
        );
        assert_eq!(
            read(single, 400, &[], body, &events(1)).verdict,
            Reads::Each(vec![dead("invalid_parameter", "no")])
        );
    }

    #[test]
    fn two_contacts_of_one_person_are_tried_once_by_the_address_alone() {
        let body = r#"{"code":"duplicate_parameter","message":"Unable to create contact, ext_id is already associated with another Contact",
            "metadata":{"duplicate_identifiers":["ext_id"]}}"#;
        let both = [json!({"email": "a@b.c", "ext_id": "u", "updateEnabled": true})];
        assert_eq!(
            read(contact, 400, &[], body, &both).verdict,
            Reads::Each(vec![ItemVerdict::AgainWithout("ext_id")])
        );
        let other = body.replace("duplicate_parameter", "invalid_parameter");
        assert_eq!(
            read(contact, 400, &[], &other, &both).verdict,
            Reads::Each(vec![ItemVerdict::AgainWithout("ext_id")])
        );
        let one = [json!({"email": "a@b.c"})];
        assert!(matches!(
            read(contact, 400, &[], body, &one).verdict,
            Reads::Each(each) if matches!(each[0], ItemVerdict::Dead { reason: "duplicate_parameter", .. })
        ));
        assert_eq!(
            read(
                contact,
                404,
                &[],
                r#"{"code":"document_not_found","message":"Contact does not exist"}"#,
                &one
            )
            .verdict,
            Reads::Each(vec![ItemVerdict::Skip("missing")])
        );
    }

    #[test]
    fn a_list_that_is_not_there_is_the_settings_fault_and_not_the_contacts() {
        let say = |status, message: &str, contact: Value| {
            let body = json!({"code": "invalid_parameter", "message": message}).to_string();
            read(super::contact, status, &[], &body, &[contact])
        };
        let listed = json!({"email": "a@b.c", "updateEnabled": true, "listIds": [7]});
        for status in [400, 404] {
            let reading = say(status, "List ID does not exist", listed.clone());
            assert_eq!(pause_of(&reading), "list_missing");
        }
        let invalid = say(400, "Invalid email address", listed);
        assert!(matches!(invalid.verdict, Reads::Each(_)));
        let elsewhere = say(400, "a list is not allowed here", json!({"email": "a@b.c"}));
        assert!(matches!(elsewhere.verdict, Reads::Each(_)));
    }

    #[test]
    fn what_only_the_account_can_mend_pauses_and_says_so() {
        let say = |status, body: &str| read(batch, status, &[], body, &events(2));
        let key = say(401, r#"{"code":"unauthorized","message":"Key not found"}"#);
        assert_eq!(pause_of(&key), "unauthorized");
        assert_eq!(key.look_after, Some(Duration::from_secs(600)));
        let ip = say(
            401,
            r#"{"code":"unauthorized","message":"We have detected you are using an unrecognised IP address 192.0.2.7."}"#,
        );
        assert_eq!(pause_of(&ip), "ip_not_authorised");
        let note = ip.note.unwrap();
        assert!(
            note.contains("192.0.2.7") && note.contains("authorised_ips"),
            "{note}"
        );
        let credits = say(402, "{}");
        assert_eq!(pause_of(&credits), "not_enough_credits");
        assert_eq!(credits.look_after, Some(Duration::from_secs(3_600)));
        assert_eq!(
            pause_of(&say(403, r#"{"code":"account_under_validation"}"#)),
            "forbidden"
        );
        for status in [405, 406, 415, 422] {
            assert_eq!(say(status, "").verdict, Reads::All(Verdict::Reject));
        }
        for status in [200, 302, 404, 408, 413, 500, 524] {
            assert_eq!(say(status, "<html>").verdict, Reads::Common, "{status}");
        }
    }

    #[test]
    fn rates_are_learned_from_every_reply_and_a_429_waits_for_the_reset() {
        let headers = [
            ("x-sib-ratelimit-limit", "100"),
            ("x-sib-ratelimit-remaining", "0"),
            ("X-Sib-RateLimit-Reset", "7"),
        ];
        let slow = read(batch, 429, &headers, "{}", &events(1));
        let after = Some(Duration::from_secs(7));
        assert_eq!(slow.verdict, Reads::All(Verdict::Retry { after }));
        let room = Room {
            limit: 100,
            remaining: 0,
            reset: Duration::from_secs(7),
        };
        assert_eq!(slow.room, Some(room));
        assert_eq!(read(single, 204, &headers, "", &events(1)).room, Some(room));
        let silent = read(batch, 429, &[], "", &events(1));
        assert_eq!(
            silent.verdict,
            Reads::All(Verdict::Retry { after: Some(SLOW) })
        );
        assert_eq!(silent.room, None);
        let early = read(contact, 425, &[], "", &events(1));
        let Reads::Each(each) = early.verdict else {
            panic!("only this contact waits");
        };
        assert!(matches!(
            each[..],
            [ItemVerdict::Wait {
                after: IN_PROCESS,
                times: 5,
                reason: "in_process"
            }]
        ));
    }
}
