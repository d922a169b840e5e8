//! What goes in comes out: calls to records to events.

use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::check::happened_at;
use super::parse::{Acceptance, Body, BodyFault, Fault};
use super::{Event, Kind, event_id};

const NOW: i64 = 1_795_223_290_000; // 2026-11-21T01:08:10.000Z

fn accept(body: &Body<'_>, index: usize, kind: Option<Kind>) -> Result<String, Fault> {
    let acceptance = Acceptance {
        source: "src_1",
        received_at_ms: NOW,
        event_bytes_max: 32 << 10,
        make_id: &|| Uuid::from_u128(7),
        rules: &super::decision::NoRules,
        admits: None,
    };
    let accepted = body.accept(index, kind, &acceptance, &mut BytesMut::new())?;
    Ok(String::from_utf8(accepted.record.to_vec()).unwrap())
}

fn single(kind: Kind, text: &str) -> Result<String, Fault> {
    accept(&Body::single(text).unwrap(), 0, Some(kind))
}

fn track(members: &str) -> Result<String, Fault> {
    single(
        Kind::Track,
        &format!(r#"{{"event":"e","userId":"u",{members}}}"#),
    )
}

#[test]
fn a_record_is_the_call_with_our_head_before_it() {
    let record = single(
        Kind::Track,
        r#"{ "writeKey":"k", "messageId":"m-1", "event":"Order \u0041", "type":"page", "userId": 5521,
            "anonymousId":null, "timestamp":"2026-11-21T01:08:05.123456+00:00", "sentAt":"2026-11-21T01:08:06Z",
            "eventId":"mine", "properties": {"total":89.990,"big":9007199254740993, "n":1e400}, "x\"y":[ 1 ], "traits":null }"#,
    );
    assert_eq!(
        record.unwrap(),
        format!(
            concat!(
                r#"{{"type":"track","eventId":"{}","source":"src_1","messageId":"m-1","#,
                r#""receivedAt":"2026-11-21T01:08:10.000Z","timestamp":"2026-11-21T01:08:09.123Z","#,
                r#""originalTimestamp":"2026-11-21T01:08:05.123456+00:00","sentAt":"2026-11-21T01:08:06Z","#,
                r#""userId":"5521","event":"Order \u0041","#,
                r#""properties":{{"total":89.990,"big":9007199254740993, "n":1e400}},"x\"y":[ 1 ]}}"#,
            ),
            event_id("src_1", "m-1")
        )
    );
}

#[test]
fn decode_reads_what_accept_wrote() {
    let record = track(
        r#""messageId":"é-1","timestamp":"2026-01-02T03:04:05.678Z","properties":{"total":0.10}"#,
    );
    let event = Event::decode(record.unwrap().as_bytes()).unwrap();
    assert_eq!(event.kind, Kind::Track);
    assert_eq!(event.event_id, event_id("src_1", "é-1"));
    assert_eq!((&*event.source, &*event.message_id), ("src_1", "é-1"));
    assert_eq!(
        (event.received_at_ms, event.timestamp_ms),
        (NOW, 1_767_323_045_678)
    );
    assert_eq!(event.fields["properties"]["total"].to_string(), "0.10");
    assert_eq!(event.field("userId"), Some(&json!("u")));
    for bad in ["", "[]", "{}", r#"{"type":"track"}"#, "\u{0}\u{1}"] {
        assert!(Event::decode(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn half_a_surrogate_pair_is_kept_and_read_as_a_replacement_character() {
    let record =
        track(r#""properties":{"a":"cut \ud83d","b":"\ude00\ud83d\ude00\\ud83d","\udfff":1}"#)
            .unwrap();
    assert!(record.contains(r#""cut \ud83d""#), "{record}");
    let event = Event::decode(record.as_bytes()).unwrap();
    assert_eq!(
        event.fields["properties"],
        json!({"a": "cut \u{fffd}", "b": "\u{fffd}😀\\ud83d", "\u{fffd}": 1})
    );
    let fault = single(Kind::Track, r#"{"event":"e","userId":"\ud83d"}"#).unwrap_err();
    assert_eq!((fault.code, fault.path), ("invalid_text", "/userId"));
}

#[test]
fn bad_events_are_named_by_code_and_path() {
    let long = "m".repeat(101);
    for (members, code, path) in [
        (r#""userId":null,"anonymousId":"""#, "missing_identity", ""),
        (r#""userId":true"#, "wrong_type", "/userId"),
        (r#""anonymousId":["a"]"#, "wrong_type", "/anonymousId"),
        (r#""messageId":17"#, "wrong_type", "/messageId"),
        (r#""messageId":"""#, "invalid_message_id", "/messageId"),
        (
            &format!(r#""messageId":"{long}""#),
            "invalid_message_id",
            "/messageId",
        ),
        (r#""event":null"#, "missing_event", "/event"),
        (r#""event":"""#, "missing_event", "/event"),
        (r#""event":{}"#, "wrong_type", "/event"),
        (r#""properties":[]"#, "wrong_type", "/properties"),
        (r#""traits":"x""#, "wrong_type", "/traits"),
        (r#""context":1"#, "wrong_type", "/context"),
        (r#""integrations":false"#, "wrong_type", "/integrations"),
        (r#""groupId":{}"#, "wrong_type", "/groupId"),
        (
            &format!(r#""properties":{{"x":"{}"}}"#, "x".repeat(33_000)),
            "event_too_large",
            "",
        ),
    ] {
        let fault = track(members).unwrap_err();
        assert_eq!((fault.code, fault.path), (code, path), "{members:.80}");
        assert!(!fault.message.is_empty());
    }
    let body = Body::batch(
        r#"{"batch":[5,{"userId":"u"},{"type":"sell"},{"type":7},{"type":"decision"}]}"#,
        9,
    )
    .unwrap();
    let codes: Vec<_> = (0..5)
        .map(|index| accept(&body, index, None).unwrap_err())
        .map(|fault| (fault.code, fault.path))
        .collect();
    assert_eq!(
        codes,
        [
            ("wrong_type", ""),
            ("missing_type", "/type"),
            ("unknown_type", "/type"),
            ("wrong_type", "/type"),
            ("unknown_type", "/type"),
        ]
    );
}

#[test]
fn odd_but_lawful_events_are_taken() {
    let hundred = "é".repeat(100);
    for members in [
        &format!(r#""messageId":"{hundred}""#),
        r#""userId":"","anonymousId":12.5"#,
        r#""userId":123456789012345678901234567890"#,
        r#""timestamp":"soon","sentAt":17"#,
        r#""name":5,"category":null"#,
        r#""properties":{"a":1,"a":2}"#,
        r#""properties":{"\u0000":"\u0000","":-0}"#,
    ] {
        let record = track(members).unwrap();
        Event::decode(record.as_bytes()).unwrap();
    }
    // The last of two wins, for our own rules as for the reader.
    let record =
        track(r#""properties":{"a":1},"properties":{"b":2},"userId":7,"userId":"v","k":1,"k":2"#)
            .unwrap();
    assert!(
        !record.contains(r#""a":1"#) && record.contains(r#""userId":"v""#),
        "{record}"
    );
    assert_eq!(Event::decode(record.as_bytes()).unwrap().fields["k"], 2);
}

#[test]
fn batch_level_members_are_merged_and_the_event_wins() {
    let text = r#"{"sentAt":"2026-11-21T01:08:00Z","writeKey":"k","context":{"ip":"1","app":{"v":1}},
        "integrations":{"All":false},"batch":[
        {"type":"page","userId":"u","timestamp":"2026-11-21T01:07:59Z"},
        {"type":"page","userId":"u","context":{"app":2,"x":3},"integrations":{"All":true},
         "timestamp":"2026-11-21T01:07:59Z","sentAt":"2026-11-21T01:08:10Z"},
        {"type":"page","userId":"u","context":{},"integrations":null}]}"#;
    let body = Body::batch(text, 10).unwrap();
    assert_eq!(body.write_key().as_deref(), Some("k"));
    let event = |index| {
        let record = accept(&body, index, None).unwrap();
        Event::decode(record.as_bytes()).unwrap()
    };
    let (first, second, third) = (event(0), event(1), event(2));
    assert_eq!(first.fields["context"], json!({"ip":"1","app":{"v":1}}));
    assert_eq!(first.fields["integrations"], json!({"All":false}));
    assert_eq!(
        first.timestamp_ms,
        NOW - 1_000,
        "corrected by the batch's sentAt"
    );
    assert_eq!(second.fields["context"], json!({"ip":"1","app":2,"x":3}));
    assert_eq!(second.fields["integrations"], json!({"All":true}));
    assert_eq!(second.timestamp_ms, NOW - 11_000, "its own sentAt wins");
    assert_eq!(third.fields["context"], json!({"ip":"1","app":{"v":1}}));
    assert_eq!(third.timestamp_ms, NOW);
    // Batch-level members count towards the size of each event: else 500 KB times 2,500 could be stored.
    let large = format!(
        r#"{{"context":{{"x":"{}"}},"batch":[{{"type":"page","userId":"u"}}]}}"#,
        "x".repeat(33_000)
    );
    let fault = accept(&Body::batch(&large, 10).unwrap(), 0, None).unwrap_err();
    assert_eq!(fault.code, "event_too_large");
}

#[test]
fn a_body_that_is_no_batch_is_refused_as_a_whole() {
    let many = format!(r#"{{"batch":[{}1]}}"#, "1,".repeat(10));
    for (text, wanted) in [
        ("[]", BodyFault::NotAnObject),
        ("{}", BodyFault::NoBatch),
        (r#"{"batch":{}}"#, BodyFault::NoBatch),
        (&many, BodyFault::TooMany(10)),
    ] {
        assert_eq!(Body::batch(text, 10).unwrap_err(), wanted, "{text}");
    }
    assert_eq!(Body::single("[]").unwrap_err(), BodyFault::NotAnObject);
    for text in ["", "{", r#"{"batch":[{}"#, "{} {}"] {
        assert!(
            matches!(Body::batch(text, 10), Err(BodyFault::Syntax(_))),
            "{text}"
        );
        assert!(
            matches!(Body::single(text), Err(BodyFault::Syntax(_))),
            "{text}"
        );
    }
    assert!(Body::batch(r#"{"batch":[]}"#, 10).unwrap().is_empty());
}

#[test]
fn what_is_shown_of_a_refused_event_holds_no_write_key() {
    let text = r#"{"batch":[{"writeKey":"secret","a":"ééé"}, "text"]}"#;
    let body = Body::batch(text, 10).unwrap();
    assert_eq!(&*body.shown(0, 100), r#"{"a":"ééé"}"#.as_bytes());
    assert_eq!(
        &*body.shown(0, 7),
        r#"{"a":""#.as_bytes(),
        "cut between characters"
    );
    assert_eq!(&*body.shown(1, 3), br#""te"#);
}

#[test]
fn the_time_of_an_event_is_corrected_by_the_senders_clock() {
    let (received, day) = (NOW, 86_400_000);
    for (given, original, sent, wanted) in [
        // The device's clock is ten days slow, two years fast.
        (
            None,
            Some(received - 10 * day - 500),
            Some(received - 10 * day),
            received - 500,
        ),
        (
            Some(received + 730 * day - 500),
            None,
            Some(received + 730 * day),
            received - 500,
        ),
        // An import of old events by a server with a right clock.
        (
            Some(received - 300 * day),
            None,
            Some(received),
            received - 300 * day,
        ),
        // Set on purpose beside originalTimestamp (RudderStack): as it is.
        (
            Some(received - 300 * day),
            Some(received - 5),
            Some(received + day),
            received - 300 * day,
        ),
        // Nothing to correct by.
        (Some(received - 700), None, None, received - 700),
        (None, None, Some(received - 700), received),
        (None, None, None, received),
        // Sent before it happened, in the future, before 1970: the time of receipt.
        (Some(received), None, Some(received - 9_000), received),
        (Some(received + 1), None, None, received),
        (Some(-5), None, None, received),
        (Some(i64::MIN), None, Some(i64::MAX), received),
    ] {
        assert_eq!(
            happened_at(given, original, sent, received),
            wanted,
            "{given:?} {original:?} {sent:?}"
        );
    }
}

/// Any value an SDK can serialise.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            members(inner).prop_map(Value::Object),
        ]
    })
}

fn members(
    inner: impl Strategy<Value = Value>,
) -> impl Strategy<Value = serde_json::Map<String, Value>> {
    prop::collection::vec((any::<String>(), inner), 0..5)
        .prop_map(|list| list.into_iter().collect())
}

prop_compose! {
    /// An event as a stock SDK builds it: known members of their types, others of any.
    fn sdk_event()(
        kind in prop::sample::select(vec!["track", "identify", "page", "screen", "group", "alias"]),
        user in prop_oneof![Just(Value::Null), any::<u64>().prop_map(Value::from), ".{1,40}".prop_map(Value::from)],
        anonymous in ".{1,40}",
        name in ".{1,40}",
        message_id in prop::option::of(".{1,100}"),
        timestamp in prop::option::of("20[0-9]{2}-0[1-9]-1[0-9]T0[0-9]:00:00\\.[0-9]{3,6}(Z|\\+00:00)"),
        properties in members(value()),
        traits in members(value()),
        context in prop::option::of(members(value())),
        extra in members(value()),
    ) -> Value {
        let mut event = json!({
            "type": kind, "userId": user, "anonymousId": anonymous, "event": name, "properties": properties,
            "traits": traits, "context": context, "messageId": message_id, "integrations": {}, "timestamp": timestamp,
        });
        for (key, value) in extra {
            event.as_object_mut().unwrap().entry(key).or_insert(value);
        }
        event
    }
}

proptest! {
    #[test]
    fn any_event_a_stock_sdk_can_build_is_taken_and_kept(events in prop::collection::vec(sdk_event(), 1..4), pretty: bool) {
        let body = json!({"batch": events, "sentAt": "2026-11-21T01:08:00Z", "writeKey": "k"});
        let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.unwrap();
        let read = Body::batch(&text, 10).unwrap();
        prop_assert_eq!(read.len(), events.len());
        for (index, posted) in events.iter().enumerate() {
            let record = accept(&read, index, None).unwrap();
            let event = Event::decode(record.as_bytes()).unwrap();
            for (key, posted) in posted.as_object().unwrap() {
                let kept = event.fields.get(key);
                match key.as_str() {
                    "timestamp" => prop_assert_eq!(event.fields.get("originalTimestamp").unwrap_or(&Value::Null), posted),
                    "messageId" if posted.is_null() => prop_assert!(kept.is_some()),
                    "userId" if posted.is_number() => prop_assert_eq!(kept.unwrap(), &json!(posted.to_string())),
                    "userId" | "context" if posted.is_null() => prop_assert_eq!(kept, None),
                    "source" | "eventId" | "receivedAt" | "writeKey" => {}
                    _ => prop_assert_eq!(kept, Some(posted), "{}", key),
                }
            }
        }
    }

    #[test]
    fn random_text_never_panics(text in any::<String>(), json in value()) {
        for text in [text, json.to_string(), format!("{{\"batch\":[{json}],\"context\":{json}}}")] {
            for body in [Body::single(&text), Body::batch(&text, 3)].into_iter().flatten() {
                for index in 0..body.len() {
                    prop_assert!(body.shown(index, 10).len() <= 10);
                    if let Ok(record) = accept(&body, index, None) {
                        Event::decode(record.as_bytes()).unwrap();
                    }
                }
            }
            let _either = Event::decode(text.as_bytes());
        }
    }
}

/// As Python's `hashlib` and `uuid` make them, up to and over a block of SHA-1.
#[test]
fn event_ids_are_version_five_of_source_and_message_id() {
    for (source, message, id) in [
        ("src_1", "m-1", "32bce06d-f88a-53c6-a166-0ebf144e496f"),
        ("", "x", "c553e20d-483b-5d11-8bc8-9f31a1f2a729"),
        ("src_ä", "é-1", "345dd1e5-ee8c-5200-85f7-1e00d515162c"),
        (
            "src_demo",
            "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
            "c29073df-bd8f-524d-88ee-95921a12c8b7",
        ),
        (
            "src_demo",
            "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
            "19d1ae3c-07ea-5189-9fdd-c5a6740696ee",
        ),
        (
            "s",
            "😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀",
            "99ddee4c-3f15-5640-9100-9965b777d16f",
        ),
    ] {
        assert_eq!(event_id(source, message).to_string(), id);
    }
}
