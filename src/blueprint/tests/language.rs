//! What formulas, templates, tables, requests and replies do.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{event, fixtures, object, only, optimizely, plan_with, read_json, sent, tables_of};
use crate::blueprint::{Mapping, PartResult, Plan, Reply, Table, Tables, Verdict};

const SMALL: &str = r#"
blueprint: test/small
title: Small
about: For tests.
config:
  key: { type: secret }
  base: { type: url, default: "https://api.example.com" }
  size: { type: number, default: 7 }
tables:
  names: { Order Completed: purchase }
  ids: { from: "https://api.example.com/{config.key}.json", rows: events, key: key, value: id, hold: 15 min, label: event key }
track:
  any other event:
    item:
ENTRY
requests:
  item:
    post: "{config.base}/track"
    headers: { authorization: "=basic(config.key, \"\")" }
    body: =item
examples:
  - name: one
    event: { type: track, event: x, userId: u }
    sends: { item: { always: 1 } }
"#;

/// A plan whose only request has these fields, and `always: 1`.
fn small(fields: &[&str]) -> Plan {
    let entry: String = std::iter::once("      always: 1\n".to_owned())
        .chain(fields.iter().map(|field| format!("      {field}\n")))
        .collect();
    // The example is of the bare entry.
    let text = SMALL.replace("ENTRY\n", &entry).replace(
        "examples:\n  - name: one\n    event: { type: track, event: x, userId: u }\n    sends: { item: { always: 1 } }\n",
        "",
    );
    plan_with(&text, json!({"key": "s3cret"}))
}

fn mapped(plan: &Plan, more: Value) -> Value {
    let mut posted = json!({"type": "track", "event": "Order Completed", "userId": "u-1", "timestamp": "2026-11-20T14:03:27.412Z"});
    for (key, value) in object(more) {
        posted[key] = value;
    }
    let mut item = sent(&only(plan.map(&event(posted), &Tables::default())));
    item.as_object_mut()
        .expect("an item")
        .shift_remove("always");
    item
}

#[test]
fn every_amount_is_exact_as_number_and_as_text() {
    let plan = small(&[
        "amounts:",
        "  each: =properties.amounts",
        "  row: =cents(row)",
    ]);
    for hundreds in 0..100_i64 {
        let pence: Vec<i64> = (hundreds * 10_000..(hundreds + 1) * 10_000).collect();
        let amounts: Vec<String> = pence
            .iter()
            .map(|pence| format!("{}.{:02}", pence / 100, pence % 100))
            .collect();
        for quote in ["", "\""] {
            let list = format!(
                "[{quote}{}{quote}]",
                amounts.join(&format!("{quote},{quote}"))
            );
            let list: Value = serde_json::from_str(&list).expect("JSON");
            let made = mapped(&plan, json!({"properties": {"amounts": list}}));
            assert_eq!(made["amounts"], json!(pence));
        }
    }
}

#[test]
fn money_that_cannot_be_exact_is_refused_and_what_is_no_number_is_noted() {
    let plan = small(&[
        "revenue: =cents(properties.total)",
        "yen: =minor_units(properties.total, properties.currency)",
    ]);
    let result = |total: &str, currency: &str| {
        let posted = format!(
            r#"{{"type":"track","event":"x","properties":{{"total":{total},"currency":"{currency}"}}}}"#
        );
        let posted: Value = serde_json::from_str(&posted).expect("JSON");
        match plan.map(&event(posted), &Tables::default()) {
            Mapping::Parts(mut parts) => parts.remove(0),
            other => panic!("{other:?}"),
        }
    };
    for (total, reason) in [
        ("89.990000000000009", "amount_too_precise"),
        ("\"1234567890123456\"", "amount_too_precise"),
        ("1e17", "revenue_out_of_range"),
    ] {
        match result(total, "GBP").result {
            PartResult::Refused {
                reason: said,
                detail,
            } => {
                assert_eq!(said, reason);
                assert!(detail.starts_with("revenue: `"), "{detail}");
            }
            other => panic!("{total}: {other:?}"),
        }
    }
    assert_eq!(
        sent(&result("1.5", "KWD").result),
        json!({"always": 1, "revenue": 150, "yen": 1500})
    );
    assert_eq!(
        sent(&result("1e-7", "JPY").result),
        json!({"always": 1, "revenue": 0, "yen": 0})
    );
    let odd = result("\"abc\"", "XXX");
    assert_eq!(sent(&odd.result), json!({"always": 1}));
    let notes: Vec<(&str, &str)> = odd
        .notes
        .iter()
        .map(|note| (note.field.as_str(), note.reason.as_str()))
        .collect();
    assert_eq!(
        notes,
        [
            ("revenue", "`abc` is not a number"),
            ("yen", "`XXX` is not a currency with a smallest unit"),
        ]
    );
    assert!(odd.notes.iter().all(|note| note.line > 10));
}

#[test]
fn a_number_no_vendor_can_read_is_left_out_and_noted() {
    let plan = small(&[
        "made: =number(properties.n)",
        "copied: =properties.n",
        "list: =properties.list",
        "group: { ...: =properties.group }",
    ]);
    let needed = small(&["needed: =required(properties.n)"]);
    for (n, fits) in [
        ("1e400", false),
        ("-1e400", false),
        ("1e-400", false),
        ("\"1e400\"", false),
        (&"9".repeat(400), false),
        ("1e300", true),
        ("0e400", true),
    ] {
        let posted = format!(
            r#"{{"type":"track","event":"x","properties":{{"n":{n},"list":[1,{n}],"group":{{"a":{n},"b":{{"c":{n}}}}}}}}}"#
        );
        let posted: Value = serde_json::from_str(&posted).expect("JSON");
        let part = |plan: &Plan| match plan.map(&event(posted.clone()), &Tables::default()) {
            Mapping::Parts(mut parts) => parts.remove(0),
            other => panic!("{other:?}"),
        };
        let made = part(&plan);
        let PartResult::Item { json, .. } = &made.result else {
            panic!("{n}: {:?}", made.result);
        };
        let text = std::str::from_utf8(json).expect("text");
        let is_text = n.starts_with('"');
        assert_eq!(text.contains(r#""made""#), fits, "{text}");
        assert_eq!(text.contains(r#""copied""#), fits || is_text, "{text}");
        if !fits && !is_text {
            assert_eq!(
                sent(&made.result),
                json!({"always": 1, "list": [1, null], "group": {"b": {"c": null}}})
            );
            let noted = |field: &str| {
                made.notes.iter().any(|note| {
                    note.field == field && note.reason.contains("too large or too small")
                })
            };
            assert!(
                ["made", "copied", "list.1", "group.a"]
                    .into_iter()
                    .all(noted),
                "{:?}",
                made.notes
            );
            assert!(
                matches!(part(&needed).result, PartResult::Skipped { reason } if reason == "needed is missing")
            );
        }
    }
}

#[test]
fn functions_do_what_the_page_says() {
    let cases = [
        (
            "=first(properties.none, properties.empty, properties.a)",
            json!("A b"),
        ),
        ("=first(properties.none, \"\")", json!("")),
        (
            "=if(is(properties.n, 5), \"five\", \"other\")",
            json!("five"),
        ),
        ("=if(properties.none, 1, 2)", json!(2)),
        ("=if(properties.no, 1)", Value::Null),
        ("=is(properties.n, 5.00)", json!(true)),
        ("=is(properties.a, \"a b\")", json!(false)),
        ("=not(properties.no)", json!(true)),
        (
            "=all(properties.yes, present(properties.no), not(present(properties.empty)))",
            json!(true),
        ),
        (
            "=any(properties.no, more_than(properties.big, 9007199254740992))",
            json!(true),
        ),
        ("=less_than(properties.n, \"5\")", json!(false)),
        ("=within(properties.big, 9007199254740992)", Value::Null),
        ("=within(properties.a, 1)", json!("A b")),
        ("=starts_with(properties.a, \"A\")", json!(true)),
        ("=text(properties.yes)", json!("true")),
        ("=lower(trim(properties.spaced))", json!("x@y")),
        ("=upper(properties.a)", json!("A B")),
        ("=join(properties.tags, \", \")", json!("a, 2, true")),
        ("=slug(properties.slug)", json!("new_checkout_2")),
        ("=number(properties.text)", json!(89.99)),
        ("=count(properties.rows)", json!(3)),
        (
            "=sum(properties.rows, \"price\", \"quantity\")",
            json!(60.02),
        ),
        ("=sum(properties.rows, \"none\")", Value::Null),
        ("=epoch_ms(timestamp)", json!(1_795_183_407_412_i64)),
        ("=epoch_s(properties.when)", json!(1_795_183_407)),
        ("=iso8601(properties.ms)", json!("2026-11-20T14:03:27.412Z")),
        ("=date(properties.when)", json!("2026-11-20")),
        ("=pick(properties.group, \"x\", \"none\")", json!({"x": 1})),
        (
            "=omit(properties.group, \"x\")",
            json!({"y": {"z": 2, "l": [1]}}),
        ),
        ("=scalars(properties.group)", json!({"x": 1})),
        (
            "=flatten(properties.group, \"_\")",
            json!({"x": 1, "y_z": 2, "y_l": [1]}),
        ),
        (
            "=sha256(\"abc\")",
            json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ),
        ("=lookup(names, event)", json!("purchase")),
        ("=properties.rows.1.price", json!(0.05)),
        ("=properties.\"odd name.x\"", json!(1)),
        ("=traits.plan", json!("own")),
        ("=traits.city", json!("Leeds")),
        ("=config.size", json!(7)),
        ("\"{properties.a}/{{{properties.n}}}\"", json!("A b/{5.0}")),
        ("\"{properties.none}:{properties.n}\"", Value::Null),
        (
            "=if(properties.yes, \"{userId}-{properties.n}\", \"-\")",
            json!("u-1-5.0"),
        ),
    ];
    let fields: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(at, (formula, _))| {
            if formula.starts_with('=') {
                format!("f{at}: '{formula}'")
            } else {
                format!("f{at}: {formula}")
            }
        })
        .collect();
    let plan = small(&fields.iter().map(String::as_str).collect::<Vec<_>>());
    let made = mapped(
        &plan,
        serde_json::from_str(
            r#"{"traits":{"plan":"own"},"context":{"traits":{"plan":"context","city":"Leeds"}},
            "properties":{"empty":"","a":"A b","n":5.0,"yes":true,"no":false,"big":9007199254740993,"spaced":" X@Y ",
            "tags":["a",null,"",2,true],"slug":"New-Checkout 2!","text":"89.99","ms":1795183407412,"when":"2026-11-20T15:03:27+01:00",
            "rows":[{"price":19.99,"quantity":3},{"price":0.05,"quantity":1},{"price":7}],
            "group":{"x":1,"y":{"z":2,"l":[1]}},"odd name.x":1}}"#,
        )
        .expect("JSON"),
    );
    for (at, (formula, wanted)) in cases.iter().enumerate() {
        let found = made.get(format!("f{at}")).unwrap_or(&Value::Null);
        assert_eq!(found, wanted, "{formula}");
    }
}

#[test]
fn missing_fields_leave_no_trace_and_written_names_win() {
    let plan = small(&[
        "inner: { a: =properties.none, b: { c: =properties.none } }",
        "kept: { nothing: null, empty: \"\" }",
        "rows: { each: =properties.none, row: =row.x }",
        "more:",
        "  plan: =properties.none",
        "  ...: =pick(properties, \"plan\", \"x\", \"y\", \"z\")",
        "\"{userId}_key\": 1",
        "\"{properties.none}_key\": 1",
        "both:",
        "  ...: =pick(properties, \"z\", \"zed\")",
        "  \"{properties.zed}\": 1",
        "flat: =flatten(properties.flat, \"_\")",
    ]);
    let made = mapped(
        &plan,
        json!({"properties": {"plan": "p", "x": null, "y": "", "z": "\u{1}\"\\é", "zed": "z", "flat": {"a_b": 1, "a": {"b": 2}}}}),
    );
    assert_eq!(
        made,
        json!({"kept": {"nothing": null, "empty": ""}, "rows": [], "more": {"z": "\u{1}\"\\é"}, "u-1_key": 1,
            "both": {"z": "\u{1}\"\\é", "zed": "z"}, "flat": {"a_b": 1}})
    );
}

#[test]
fn a_missing_key_is_held_until_the_document_has_it() {
    let plan = small(&["id: =required(lookup(ids, event))"]);
    assert_eq!(
        plan.tables()[0].url.expose(),
        "https://api.example.com/s3cret.json"
    );
    let at = |received: &str, tables: &Tables| {
        only(plan.map(
            &event(json!({"type": "track", "event": "Signup", "receivedAt": received})),
            tables,
        ))
    };
    let held = |result: PartResult| match result {
        PartResult::Held {
            reason,
            detail,
            hold,
            ..
        } => (reason, detail, hold),
        other => panic!("{other:?}"),
    };
    let (reason, detail, hold) = held(at("2026-11-20T14:00:00Z", &Tables::default()));
    assert_eq!(reason, "document_not_read");
    assert!(detail.contains("could not be read yet"), "{detail}");
    assert_eq!(hold, Duration::from_secs(900));

    let read = |document: Value| Table::read(&plan, "ids", &document).expect("a table");
    let first = read(json!({"events": [{"key": "signup", "id": "1"}]}));
    let tables = |table: &Table| Tables {
        tables: [("ids".to_owned(), Arc::new(table.clone()))].into(),
    };
    let (reason, detail, _) = held(at("2026-11-20T14:00:00Z", &tables(&first)));
    assert_eq!(reason, "unknown_event_key");
    assert_eq!(
        detail,
        "no event key `Signup`; there is `signup` (capitals count)"
    );

    let noon = 1_795_176_000_000; // 2026-11-20T12:00:00Z
    let made = first.updated(
        read(json!({"events": [{"key": "Signup", "id": "2"}]})),
        noon,
    );
    let remade = made.updated(
        read(json!({"events": [{"key": "Signup", "id": "3"}]})),
        noon + 3_600_000,
    );
    assert_eq!(sent(&at("2026-11-20T11:00:00Z", &tables(&made)))["id"], "2");
    assert_eq!(
        sent(&at("2026-11-20T12:59:59Z", &tables(&remade)))["id"],
        "2"
    );
    assert_eq!(
        sent(&at("2026-11-20T13:00:00Z", &tables(&remade)))["id"],
        "3"
    );
}

#[test]
fn optimizely_follows_its_datafile() {
    let plan = optimizely(json!({}));
    let posted = json!({"type": "track", "event": "signup", "userId": "u", "traits": {"plan": "\u{e000}\u{e000}123", "age": 9_007_199_254_740_993_i64}});
    let mut document = read_json(&fixtures().join("datafiles/golden_v4.json"));
    let us = tables_of(&plan, &document);
    let item = only(plan.map(&event(posted.clone()), &us));
    assert_eq!(
        sent(&item)["attributes"],
        json!([
            {"entity_id": "90001", "key": "plan", "type": "custom", "value": "123"},
            {"entity_id": "$opt_bot_filtering", "key": "$opt_bot_filtering", "type": "custom", "value": true},
        ])
    );
    for (key, value) in [
        ("region", json!("EU")),
        ("revision", json!("43")),
        ("anonymizeIP", json!(false)),
        ("botFiltering", Value::Null),
    ] {
        document[key] = value;
    }
    let eu = tables_of(&plan, &document);
    assert_ne!(plan.envelope_key(0, &us), plan.envelope_key(0, &eu));
    let PartResult::Item { json, .. } = only(plan.map(&event(posted), &eu)) else {
        panic!("not sent");
    };
    let request = plan.assemble(0, &[&json, &json], &eu).expect("a request");
    assert_eq!(
        request.url.expose(),
        "https://eu.logx.optimizely.com/v1/events"
    );
    assert_eq!(request.method, "POST");
    let envelope = plan.envelope_bytes(0, &eu);
    assert_eq!(request.body.len(), envelope + 2 * json.len() + 1);
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(body["revision"], "43");
    assert_eq!(body["anonymize_ip"], false);
    assert_eq!(body["client_name"], "aqueduct/optimizely");
    assert_eq!(body["client_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(body["visitors"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        body["visitors"][0]["attributes"].as_array().map(Vec::len),
        Some(1)
    );

    let moved =
        optimizely(json!({"events_url": "https://events.example.com/v1", "anonymize_ip": true}));
    let request = moved.assemble(0, &[&json], &eu).expect("a request");
    assert_eq!(request.url.expose(), "https://events.example.com/v1");
    let request = &plan.requests()[0];
    assert_eq!(
        (request.items_max, request.bytes_max, request.wait),
        (1000, 3_000_000, Duration::from_secs(1))
    );
}

#[test]
fn replies_are_read_by_the_common_rules_and_the_blueprints_own() {
    let own = r#"
blueprint: test/replies
title: T
about: T
track:
  any other event:
    hit: { user: =required(userId), text: =properties.text, group: { a: =properties.a } }
requests:
  hit:
    put: "https://api.example.com/users/{userId}"
    headers: { x-kind: "{event}" }
    body: { user: =item, kind: =event }
    limits:
      text: { max_chars: 3 }
      group.*: { max_bytes: 4, over: reject }
      user: { max_bytes: 9, over: omit }
    responses:
      - when: =is(body.code, "duplicate_parameter")
        then: delivered
      - when:
          - =is(status, 409)
          - =more_than(body.retry, 0)
        then: retry
      - when: =is(status, 410)
        then: pause
    once: { key: "{userId}:{event}", value: =properties.text, for: 30 min }
    replies: some_reader
"#;
    let plan = plan_with(own, json!({}));
    let reply = |status, body: &'static str| Reply {
        status,
        retry_after: Some(Duration::from_secs(3)),
        body: body.as_bytes(),
    };
    let after = Some(Duration::from_secs(3));
    for (status, body, wanted) in [
        (200, "", Verdict::Delivered),
        (400, r#"{"code":"duplicate_parameter"}"#, Verdict::Delivered),
        (400, "no JSON", Verdict::Reject),
        (409, r#"{"retry":1}"#, Verdict::Retry { after }),
        (
            409,
            "{}",
            Verdict::Pause {
                reason: "unexpected_status",
            },
        ),
        (
            410,
            "",
            Verdict::Pause {
                reason: "unexpected_status",
            },
        ),
        (429, "", Verdict::Retry { after }),
        (
            401,
            "",
            Verdict::Pause {
                reason: "unauthorized",
            },
        ),
        (302, "", Verdict::Pause { reason: "redirect" }),
    ] {
        assert_eq!(
            plan.verdict(0, &reply(status, body)),
            wanted,
            "{status} {body}"
        );
    }
    let batched = optimizely(json!({}));
    for status in [400, 422] {
        assert_eq!(batched.verdict(0, &reply(status, "")), Verdict::Bisect);
    }
    assert_eq!(batched.verdict(0, &reply(413, "")), Verdict::Split);

    // An unbatched request may use the event around its item.
    let posted = |more: Value| {
        let mut posted =
            json!({"type": "track", "event": "e", "userId": "a/b?c", "properties": {}});
        posted["properties"] = more;
        event(posted)
    };
    let mapping = plan.map(&posted(json!({"text": "abcdé"})), &Tables::default());
    let Mapping::Parts(parts) = mapping else {
        panic!("no parts")
    };
    let PartResult::Item { json, .. } = &parts[0].result else {
        panic!("{:?}", parts[0])
    };
    assert_eq!(parts[0].notes[0].field, "text");
    let request = plan
        .assemble(0, &[json], &Tables::default())
        .expect("a request");
    assert_eq!(
        request.url.expose(),
        "https://api.example.com/users/a%2Fb%3Fc"
    );
    assert_eq!(request.method, "PUT");
    assert_eq!(
        serde_json::from_slice::<Value>(&request.body).expect("JSON"),
        json!({"user": {"user": "a/b?c", "text": "abc"}, "kind": "e"})
    );
    match only(plan.map(&posted(json!({"a": "12345"})), &Tables::default())) {
        PartResult::Refused { reason, detail } => {
            assert_eq!(reason, "group.* over max_bytes");
            assert!(detail.starts_with("group.a: it has 5 bytes"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
    let crlf = event(json!({"type": "track", "event": "a\r\nb", "userId": "u"}));
    let PartResult::Item { json, .. } = only(plan.map(&crlf, &Tables::default())) else {
        panic!("not sent")
    };
    assert!(plan.assemble(0, &[&json], &Tables::default()).is_err());

    assert_eq!(
        plan.requests()[0].once.map(|once| once.lasts),
        Some(Duration::from_secs(1800))
    );
    assert_eq!(plan.requests()[0].replies.as_deref(), Some("some_reader"));
}
