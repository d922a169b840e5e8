//! Functions on texts and lists, groups made of groups, and limits that shed fields or skip.

use serde_json::{Value, json};

use super::{event, only, plan_with, sent};
use crate::blueprint::{PartResult, Tables, check, render};

fn blueprint(item: &str, more: &str) -> String {
    format!(
        "blueprint: test/texts\ntitle: T\nabout: T\nconfig:\n  lists: {{ type: text, default: \"12, 15\" }}\n  base: {{ type: url, optional: true }}\n  create: {{ type: yes_no, default: true }}\nvalues:\n  api: =first(config.base, \"https://api.example.com\")\ntrack:\n  any other event:\n    hit:\n{item}\nrequests:\n  hit:\n    post: \"{{values.api}}/v1/hits{{if(config.create, \\\"?create=true\\\", \\\"\\\")}}\"\n    body: =item\n{more}"
    )
}

fn run(item: &str, more: &str, properties: Value) -> PartResult {
    let text = blueprint(item, more);
    let mut posted =
        json!({"type": "track", "event": "e", "userId": "u", "traits": {"email": "e@x"}});
    posted["properties"] = properties;
    only(plan_with(&text, json!({})).map(&event(posted), &Tables::default()))
}

#[test]
fn functions_give_what_the_page_says() {
    let properties = json!({
        "name": "A  b!", "event": "Experiment Viewed", "under": "_a_", "six": "abcdef", "two": "2 big",
        "long": "a_name_that_is_much_longer_than_it_may_be", "list": ["a", 1, true, null, ""], "nested": ["a", ["b"]],
        "ids": "1, 2,,3", "map": "plan=Tarif, crm = K 1, none", "path": "attributes.crm_id",
        "group": {"b": 1.50}, "umlaut": "Größe 1",
    });
    for (formula, wanted) in [
        ("=slug(properties.name)", json!("a_b")),
        ("=slug(properties.umlaut)", json!("gr_e_1")),
        ("=slug(\"!!\")", Value::Null),
        (
            "=clean(properties.event, \"A-Za-z0-9\", \"_\")",
            json!("Experiment_Viewed"),
        ),
        ("=clean(properties.name, \"a-z\", \"\")", json!("b")),
        ("=clean(properties.ids, \"0-9_-\", \"-\")", json!("1-2-3")),
        ("=trim(properties.under, \"_\")", json!("a")),
        ("=cut(properties.six, 3)", json!("abc")),
        ("=cut(properties.umlaut, 3)", json!("Grö")),
        ("=identifier(properties.two, 31)", json!("_2_big")),
        (
            "=identifier(properties.long, 16)",
            json!("a_name_that_HASH"),
        ),
        ("=kind(properties.group)", json!("group")),
        ("=kind(properties.list)", json!("list")),
        ("=kind(properties.absent)", Value::Null),
        ("=kind(pairs(properties.map))", json!("group")),
        ("=json(properties.group)", json!("{\"b\":1.5}")),
        ("=json(scalars(properties.group))", json!("{\"b\":1.5}")),
        ("=json(properties.six)", json!("abcdef")),
        ("=join(properties.list, \"||\")", json!("a||1||true")),
        ("=join(properties.nested, \"||\")", Value::Null),
        ("=split(properties.ids, \",\")", json!(["1", "2", "3"])),
        (
            "=pairs(properties.map)",
            json!({"plan": "Tarif", "crm": "K 1"}),
        ),
        ("=get(pairs(properties.map), \"crm\")", json!("K 1")),
        ("=get(traits, \"email\")", json!("e@x")),
        ("=get(scalars(traits), \"email\")", json!("e@x")),
        ("=after(properties.path, \"attributes.\")", json!("crm_id")),
        ("=after(properties.path, \"traits.\")", Value::Null),
        ("=count(split(properties.ids, \",\"))", json!(3)),
    ] {
        let item = format!("      x: '{formula}'\n      y: 1");
        let found = sent(&run(&item, "", properties.clone()));
        let wanted = match wanted.as_str().and_then(|text| text.strip_suffix("HASH")) {
            Some(start) => {
                let text = found["x"].as_str().expect("a text");
                assert!(text.starts_with(start) && text.len() == 16, "{text}");
                found["x"].clone()
            }
            None => wanted,
        };
        assert_eq!(found["x"], wanted, "{formula}");
    }
    let text = blueprint("      x: '=clean(event, \"z-a\", \"_\")'", "");
    let shown = render("x.yaml", &text, &check(&text).diagnostics);
    assert!(shown.contains("\"z-a\" names no characters"), "{shown}");
}

#[test]
fn groups_are_made_of_groups_and_lists_of_texts() {
    let item = r#"      lists: { each: '=split(config.lists, ",")', row: =number(row.value) }
      flat:
        each: =flatten(properties.deep, ".")
        fields: { "{cut(row.key, 3)}": '=if(not(is(kind(row.value), "list")), row.value)' }
      beside:
        own: 1
        ...: { each: =properties.pairs, fields: { "{row.key}": =required(row.value.v), "{row.key}_n": =row.value.n } }
      none: { each: =properties.absent, fields: { "{row.key}": =row.value } }"#;
    let properties = json!({
        "deep": {"aaaa": 1, "aaab": {"c": 2}, "list": [1], "b": null, "aaac": 3},
        "pairs": {"own": {"v": 9}, "x": {"v": 1, "n": 2}, "y": {"n": 3}},
    });
    assert_eq!(
        sent(&run(item, "", properties)),
        json!({
            "lists": [12, 15],
            "flat": {"aaa": 1, "aaa_2": 2, "aaa_3": 3},
            "beside": {"own": 1, "x": 1, "x_n": 2},
        })
    );
}

#[test]
fn limits_shed_skip_and_name_their_reason() {
    let item = "      props: =properties\n      who: =required(properties.who, \"nobody\")";
    let more = "    limits:\n      props: { max_bytes: 40, shed: [rule, \"*\"], over: reject, reason: too_large }\n      props.who: { max_chars: 5, over: skip, reason: long_name }\n";
    let of = |properties: Value| run(item, more, properties);
    assert_eq!(
        sent(&of(
            json!({"who": "u", "rule": "rrrrrrrrrrrrrrrr", "a": 1, "b": 2})
        )),
        json!({"props": {"who": "u", "a": 1, "b": 2}, "who": "u"})
    );
    let exact = json!({"who": "u", "a": "12345678", "b": "1234567"});
    assert_eq!(exact.to_string().len(), 40);
    assert_eq!(sent(&of(exact.clone()))["props"], exact);
    assert_eq!(
        sent(&of(
            json!({"who": "u", "a": "123456789", "b": "12345678", "c": 1})
        ))["props"],
        json!({"who": "u", "a": "123456789"}),
        "the last are left out first"
    );
    let reason = |result: PartResult| match result {
        PartResult::Skipped { reason } => format!("skipped {reason}"),
        PartResult::Refused { reason, .. } => format!("refused {reason}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(of(json!({"a": 1}))), "skipped nobody");
    assert_eq!(reason(of(json!({"who": "longer"}))), "skipped long_name");
    let item = "      props: { a: =properties.a }";
    let more =
        "    limits: { props: { max_bytes: 8, shed: [other], over: reject, reason: too_large } }\n";
    assert_eq!(
        reason(run(item, more, json!({"a": "1234"}))),
        "refused too_large"
    );
}

#[test]
fn an_address_may_begin_and_end_with_a_choice() {
    let text = blueprint("      x: =event", "");
    for (config, wanted) in [
        (json!({}), "https://api.example.com/v1/hits?create=true"),
        (
            json!({"base": "https://eu.example.com/", "create": false}),
            "https://eu.example.com/v1/hits",
        ),
    ] {
        let plan = plan_with(&text, config);
        let posted = json!({"type": "track", "event": "e", "userId": "u"});
        let PartResult::Item { json, .. } = only(plan.map(&event(posted), &Tables::default()))
        else {
            panic!("not sent")
        };
        let request = plan
            .assemble(0, &[&json], &Tables::default())
            .expect("a request");
        assert_eq!(request.url.expose(), wanted);
    }
    let text = text.replace("\"https://api.example.com\"", "event");
    assert!(check(&text).blueprint.is_none());
}
