//! What a plan says it reads is enough: an event decoded only that far maps as one decoded whole.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{optimizely, plan_with, read_json, tables_of};
use crate::blueprint::{Plan, Sheet, Tables};
use crate::event::Event;

/// Looks at events in every way the language has.
const CURIOUS: &str = r#"
blueprint: test/curious
title: Test
about: Looks at events in every way the language has.
category: Test
values:
  worth: =first(properties.total, sum(properties.products, "price", "quantity"))
track:
  Order Completed:
    when: =present(context.page)
    thing:
      worth: =values.worth
      rows: =count(properties.products)
      more:
        - each: =properties.items
          row: { name: =row.name, all: =row.value }
  any other event:
    thing:
      worth: =properties.a.b
      rest: =omit(properties, "a")
      name: "{event} of {userId} at {context.page.path}"
identify:
  thing:
    plan: =traits.plan
    rest: =scalars(traits)
requests:
  thing:
    post: https://example.com/things
    headers: { x-user: =anonymousId }
    item: { worth: =fields.worth, rows: =fields.rows, more: =fields.more, rest: =fields.rest, name: =fields.name, plan: =fields.plan, at: =timestamp, page: =context.page.path }
    body: =item
    once: { key: =userId, value: =context.traits.plan, for: 1 min }
"#;

fn words() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "a", "b", "total", "price", "quantity", "products", "items", "name", "value", "plan",
        "page", "path", "currency", "revenue", "coupon", "é", "$opt_x", "traits", "",
    ])
    .prop_map(str::to_owned)
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-100i64..100_000).prop_map(Value::from),
        Just(json!(89.99)),
        words().prop_map(Value::from),
        Just(json!("a \u{1F600} \"quoted\" \\ line\n")),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((words(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn plans() -> Vec<(Plan, Tables)> {
    let plan = optimizely(json!({}));
    let datafile = read_json(&super::fixtures().join("datafiles/golden_v4.json"));
    let tables = tables_of(&plan, &datafile);
    vec![
        (plan, tables),
        (plan_with(CURIOUS, json!({})), Tables::default()),
    ]
}

proptest! {
    #[test]
    fn an_event_read_only_in_part_maps_as_one_read_whole(
        kind in prop::sample::select(vec!["track", "identify", "page"]),
        name in prop::sample::select(vec!["Order Completed", "purchase", "Signed Up", "Product Added"]),
        properties in values(), traits in values(), context in values(),
    ) {
        let record = json!({
            "type": kind, "eventId": "7c1f2a5e-0b64-5d1c-9a53-0f3d2e1c4b5a", "source": "src_1", "messageId": "m-1",
            "receivedAt": "2026-11-20T14:03:28.000Z", "timestamp": "2026-11-20T14:03:27.412Z",
            "event": name, "userId": "u-1", "anonymousId": "a-1",
            "properties": properties, "traits": traits, "context": { "page": context, "traits": traits },
        })
        .to_string();
        let whole = Event::decode(record.as_bytes()).unwrap();
        for (plan, tables) in plans() {
            let part = plan.read(record.as_bytes()).unwrap();
            prop_assert_eq!((part.kind, part.timestamp_ms, part.received_at_ms), (whole.kind, whole.timestamp_ms, whole.received_at_ms));
            prop_assert_eq!(part.name.as_deref(), whole.field("event").and_then(Value::as_str));
            prop_assert_eq!(
                format!("{:?}", plan.map_read(&part, &tables, &mut Sheet::default())),
                format!("{:?}", plan.map(&whole, &tables))
            );
        }
    }
}

#[test]
fn what_no_entry_looks_at_is_not_decoded() {
    let record = json!({
        "type": "track", "eventId": "7c1f2a5e-0b64-5d1c-9a53-0f3d2e1c4b5a", "source": "src_1", "messageId": "m-1",
        "receivedAt": "2026-11-20T14:03:28.000Z", "timestamp": "2026-11-20T14:03:27.412Z", "event": "Order Completed",
        "userId": "u-1", "properties": { "total": 1, "note": "long", "products": [{ "name": "x", "quantity": 2 }] },
        "context": { "ip": "10.0.0.1" },
    })
    .to_string();
    let plan = optimizely(json!({}));
    let seen = plan.read(record.as_bytes()).unwrap();
    let shown = format!("{seen:?}");
    assert!(shown.contains("quantity"), "{shown}");
    for unseen in ["10.0.0.1", "long", "\"x\"", "m-1"] {
        assert!(!shown.contains(unseen), "{unseen} in {shown}");
    }
}

#[test]
fn an_odd_record_is_read_whole() {
    let record = r#"{"type":"track","eventId":"7c1f2a5e-0b64-5d1c-9a53-0f3d2e1c4b5a","source":"s","messageId":"m","receivedAt":"2026-11-20T14:03:28.000Z","timestamp":"2026-11-20T14:03:27.412Z","event":"Signed Up","userId":"u","properties":{"half":"\ud83d"}}"#;
    let plan = optimizely(json!({}));
    let seen = format!("{:?}", plan.read(record.as_bytes()).unwrap());
    assert!(seen.contains("{\"half\": String(\"\u{fffd}\")}"), "{seen}");
    assert!(plan.read(b"{}").is_err());
}

#[test]
fn members_in_another_order_or_there_twice_read_as_decoded_whole() {
    let head = r#""eventId":"7c1f2a5e-0b64-5d1c-9a53-0f3d2e1c4b5a","source":"s","messageId":"m","receivedAt":"2026-11-20T14:03:28.000Z","timestamp":"2026-11-20T14:03:27.412Z""#;
    let plan = plan_with(CURIOUS, json!({}));
    for rest in [
        r#""type":"track","properties":{"a":{"b":1}},"event":"Signed Up","userId":"u""#,
        r#""userId":"u","properties":{"a":{"b":1},"c":2},"type":"track""#,
        r#""type":"track","event":"x","properties":{"a":{"b":1}},"properties":{"c":{"b":2}}"#,
        r#""type":"track","event":"x","properties":{"a":{"b":1},"a":{"c":2}}"#,
        r#""type":"track","event":"x","properties":{"a":{"b":1},"a":5}"#,
        r#""type":"track","event":"x","properties":{"a":[{"b":1}],"b":2}"#,
        r#""type":"track","event":"Signed Up","properties":{"total":1},"event":"Order Completed""#,
        r#""type":"track","event":"Order Completed","properties":{"total":"","products":[{"price":2,"quantity":3,"x":1},5]},"context":{"page":{"path":"/"},"page":{}}"#,
        r#""type":"track","event":"Order Completed","context":{"page":7},"properties":[1]"#,
        r#""type":"identify","type":"track","event":"x","traits":{"plan":"p"}"#,
        r#""type":"identify","traits":{"plan":null},"context":{"traits":{"plan":"p"}}"#,
        r#""type":"track","event":7,"context":{"traits":{"plan":"p"}},"integrations":{"All":false}"#,
    ] {
        for record in [
            format!("{{{head},{rest}}}"),
            format!("{{{rest},{head}}}"),
            format!("{{ {rest} , \"anonymousId\" : \"\\u0061\" , {head} }}"),
        ] {
            let whole = Event::decode(record.as_bytes()).unwrap();
            let part = plan.read(record.as_bytes()).unwrap();
            assert_eq!(
                format!(
                    "{:?}",
                    plan.map_read(&part, &Tables::default(), &mut Sheet::default())
                ),
                format!("{:?}", plan.map(&whole, &Tables::default())),
                "{record}"
            );
            assert_eq!(part.integrations.as_deref(), whole.field("integrations"));
        }
    }
}
