//! What is said of a blueprint that is wrong.

use crate::blueprint::{Faults, check, render, yaml};

const BROKEN: &str = r#"blueprint: Test
title: T
about: T
colour: red
config:
  sdk_key: { type: secret, default: x }
  kind: { type: chioce }
values:
  late: =values.later
  later: =event
tables:
  ids: { a: "1" }
track:
  Order Completed:
    conversion:
      key: purchase
      revenu: =cents(properties.total)
      tags:
        currency: =propertes.currency
        total: =cent(properties.total)
        plan: =if(decision.enabled, "a", "b")
        secret: =config.sdk_key
        id: =lookup(idz, event)
        sum: =sum(userId, "price")
        size: =count(properties.a, 1)
        more: =first(properties.a || 1)
        pair: { a: =first(userId, anonymousId), b: 1 }
        note: =first(properties.note, "none # yet")
        deep: =userId.x
        nested: { each: =properties.a, row: { each: =row.b, row: 1 } }
        ...: =userId
  other:
    conversoin: {}
  third:
    when: =decision.flagKey
    plain: { a: =row.x, b: "{open", c: "}" }
requests:
  conversion:
    post: http://vendor.example.com/{userId}
    item:
      key: =fields.key
      revenue: =fields.revenue
      tags: =fields.tags
    batch: { items: 0, bytes: 3 parsecs, wait: soon }
    body: { account: =config.sdk_key, visitor: =userId, one: =item }
  plain:
    post: https://{config.sdk_key}.example.com
    body: { no: items }
    limits: { a: { over: fold } }
    once: { key: =event }
    responses:
      - { when: true, then: maybe }
examples:
  - name: nothing said
    event: { type: tracks }
"#;

#[test]
fn all_faults_are_found_at_once_each_at_its_place() {
    let checked = check(BROKEN);
    assert!(checked.blueprint.is_none());
    let found: Vec<String> = checked
        .diagnostics
        .iter()
        .map(|d| {
            format!(
                "{}:{} {} {}{}",
                d.line,
                d.column,
                d.code,
                d.message,
                d.help
                    .as_ref()
                    .map_or(String::new(), |help| format!(" — {help}"))
            )
        })
        .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn a_fault_is_shown_under_its_line() {
    let text = "blueprint: test/x\ntitle: Ärger\nabout: =x # y\ntrack:\n  'Ünit':\n    hit: { a: \"é {propertes.x}\" }\nrequests:\n  hit:\n    post: https://a.example\n    body: =item\n";
    let checked = check(text);
    insta::assert_snapshot!(render("x.yaml", text, &checked.diagnostics), @r#"
    error[name]: an event has no `propertes`
     --> x.yaml:6:19
      |
    6 |     hit: { a: "é {propertes.x}" }
      |                   ^^^^^^^^^^^
      |
      = help: did you mean `properties`?
    "#);
}

#[test]
fn yaml_is_read_strictly() {
    for (text, wanted) in [
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: !!str 1\n", "tags"),
        ("a: 1\na: 2\n", "stands here twice"),
        ("a: 1\n---\nb: 2\n", "one file holds one blueprint"),
        ("a:\n\t- b\n", "tabs"),
        ("", "empty"),
        ("- a\n", "a blueprint is a group"),
        ("a: [\n", "not YAML"),
    ] {
        let checked = check(text);
        let shown = render("x.yaml", text, &checked.diagnostics);
        assert!(shown.contains(wanted), "{wanted} in {shown}");
        assert!(checked.blueprint.is_none());
    }
    let deep = "[".repeat(40) + &"]".repeat(40);
    assert!(check(&deep).diagnostics[0].message.contains("deep"));
    let tree = yaml::read(
        "[no, on, 010, 0x1F, 1_000, 2026-11-20, +1, .5, ~, 1.50, true, \"1\"]",
        &mut Faults::default(),
    );
    assert_eq!(
        tree.expect("YAML").to_json().to_string(),
        r#"["no","on","010","0x1F","1_000","2026-11-20","+1",".5",null,1.50,true,"1"]"#
    );
}

#[test]
fn what_grows_without_end_is_refused() {
    let mut values = String::from("  v0: =event\n");
    for at in 1..40 {
        values.push_str(&format!(
            "  v{at}: \"{{values.v{0}}}{{values.v{0}}}\"\n",
            at - 1
        ));
    }
    let text = format!(
        "blueprint: a/b\ntitle: T\nabout: T\nvalues:\n{values}track:\n  any other event:\n    hit: {{ a: =values.v39 }}\nrequests:\n  hit:\n    post: https://a.example/\n    body: =item\n"
    );
    let checked = check(&text);
    assert!(
        checked.diagnostics.iter().any(|d| d.code == "size"),
        "{:?}",
        checked.diagnostics
    );
    let nested = format!(
        "blueprint: a/b\ntitle: T\nabout: T\ntrack:\n  any other event:\n    hit: {{ a: '={}event{}' }}\nrequests:\n  hit:\n    post: https://a.example/\n    body: =item\n",
        "text(".repeat(500),
        ")".repeat(500)
    );
    assert!(
        check(&nested)
            .diagnostics
            .iter()
            .any(|d| d.message.contains("deep"))
    );
}
