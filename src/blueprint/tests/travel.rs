//! How items travel: what is read of it, what is refused, and what items are known by.

use std::time::Duration;

use serde_json::{Value, json};

use super::{clean, event, object, plan_with};
use crate::blueprint::{ItemKeys, Mapping, PartResult, Plan, Rate, RateOf, Tables, check, render};

const CONTACTS: &str = r#"
blueprint: test/travel
title: T
about: T
config:
  ttl: { type: text, label: Remember for, default: 30 min }
  pacing: { type: choice, label: Pacing, options: [0 s, 2 s], default: 2 s }
  forward: { type: yes_no, label: Forward, default: true }
track:
  any other event:
    contacts: { email: =properties.email, plan: =properties.plan }
    audit: { who: =userId }
requests:
  contacts:
    post: https://api.example.com/batch
    batch: { items: 50, wait: 1 s }
    body: { contacts: =items }
    lane: =userId
    pace: =config.pacing
    newest: { key: =properties.email, without: plan }
    once: { key: =userId, value: =properties, for: =config.ttl }
    combine: true
    rate: [ { requests: 10, per: 1 s }, { items: 14000, per: 1 min } ]
    spill: contact
    in_flight: 4
    gate: api
    replies: some_reader
    requeue: [1 h, 6 h]
    stale_after: 7 d
    retry_for: 24 h
  contact:
    post: https://api.example.com/contacts
    body: =item
    gate: api
  audit:
    when: =config.forward
    post: https://api.example.com/audit
    body: =item
    newest: =userId
    rate: { items: 5, per: 2 s }
examples:
  - name: both
    event: { type: track, event: x, userId: u, properties: { email: e, plan: p } }
    sends: { contacts: { email: e, plan: p }, audit: { who: u } }
"#;

fn keys_of(plan: &Plan, posted: Value) -> Vec<ItemKeys> {
    let Mapping::Parts(parts) = plan.map(&event(posted), &Tables::default()) else {
        panic!("not sent")
    };
    let keys = parts.into_iter().map(|part| match part.result {
        PartResult::Item { keys, .. } => keys,
        other => panic!("{other:?}"),
    });
    keys.collect()
}

#[test]
fn what_is_said_of_the_way_is_in_the_plan() {
    let checked = check(CONTACTS);
    assert!(
        checked.diagnostics.is_empty(),
        "{}",
        render("x.yaml", CONTACTS, &checked.diagnostics)
    );
    let plan = plan_with(CONTACTS, json!({}));
    let contacts = &plan.requests()[0];
    let rate = |n, seconds, of| Rate {
        n,
        per: Duration::from_secs(seconds),
        of,
    };
    assert!(contacts.lane && contacts.newest && contacts.combine);
    assert_eq!(contacts.newest_without.as_deref(), Some("plan"));
    assert_eq!(contacts.pace, Some(Duration::from_secs(2)));
    assert_eq!(
        contacts.once.map(|once| once.lasts),
        Some(Duration::from_secs(1800))
    );
    assert_eq!(
        contacts.rates,
        [
            rate(10, 1, RateOf::Requests),
            rate(14_000, 60, RateOf::Items)
        ]
    );
    assert_eq!((contacts.spill, contacts.in_flight), (Some(1), Some(4)));
    assert_eq!(contacts.gate.as_deref(), Some("api"));
    assert_eq!(contacts.requeue.len(), 2);
    assert_eq!(contacts.stale_after, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(contacts.retry_for, Some(Duration::from_secs(86_400)));
    // Without a batch, items are requests.
    assert_eq!(plan.requests()[2].rates, [rate(5, 2, RateOf::Requests)]);

    let off = plan_with(
        CONTACTS,
        json!({"ttl": "0 s", "pacing": "0 s", "forward": false}),
    );
    assert_eq!(
        (off.requests()[0].once, off.requests()[0].pace),
        (None, None)
    );
    let posted =
        json!({"type": "track", "event": "x", "userId": "u", "properties": {"email": "e"}});
    assert_eq!(keys_of(&off, posted).len(), 1, "the audit is ruled out");
    let blueprint = clean(CONTACTS);
    let config = blueprint
        .read_config(&object(json!({"ttl": "a while"})), "config")
        .expect("readable");
    let faults = blueprint.bind(&config, &|_| false).expect_err("a fault");
    assert_eq!(
        (faults[0].field.as_str(), faults[0].code.as_str()),
        ("config.ttl", "not_a_time")
    );
}

#[test]
fn items_are_known_by_what_they_say() {
    let plan = plan_with(CONTACTS, json!({}));
    let track = |user: &str, email: &str, plan: &str| json!({"type": "track", "event": "x", "userId": user, "properties": {"email": email, "plan": plan}});
    let first = keys_of(&plan, track("u", "e", "p"));
    let again = keys_of(&plan, track("u", "e", "p"));
    assert_eq!(first, again);
    let changed = keys_of(&plan, track("u", "e", "q"));
    let once = |keys: &[ItemKeys]| keys[0].once.expect("once");
    assert_eq!(once(&first).key, once(&changed).key);
    assert_ne!(once(&first).value, once(&changed).value);
    let other = keys_of(&plan, track("v", "e", "p"));
    assert_ne!(first[0].lane, other[0].lane);
    assert_eq!(first[0].newest, other[0].newest, "the same address");
    // Equal texts of two requests are two keys.
    let same = keys_of(&plan, track("u", "u", "p"));
    assert_ne!(same[0].newest, same[1].newest);
    assert_ne!(same[0].newest, Some(once(&same).key));
    // Stored: these numbers must stay as they are.
    assert_eq!(first[0].lane, Some(LANE_OF_U));
    // Nobody to keep in order.
    let alone = plan_with(CONTACTS, json!({"forward": false}));
    let posted =
        json!({"type": "track", "event": "x", "anonymousId": "a", "properties": {"email": "e"}});
    let bare = keys_of(&alone, posted);
    assert_eq!((bare[0].lane, bare[0].once), (None, None));
}

const ACCOUNTS: &str = r#"
blueprint: test/accounts
title: T
about: T
config:
  key: { type: secret, label: Key }
  group: { type: text, label: Group, optional: true }
  plan: { type: choice, label: Plan, options: [small, large], default: small }
  mode: { type: choice, label: Mode, options: [auto, batch, single], default: auto }
track:
  any other event:
    person: { who: =userId }
    events: { who: =userId }
requests:
  person:
    post: https://api.example.com/people
    headers: { key: =config.key }
    body: =item
    lane: =userId
  events:
    post: https://api.example.com/batch
    batch: { items: 50, wait: 1 s }
    body: { events: =items }
    lane: { key: =userId, with: person }
    rate:
      by: =config.plan
      small: { requests: 100, per: 1 h }
      large: [ { requests: 200, per: 1 h }, { requests: 20, per: 1 s } ]
    bucket: "batches {first(config.group, config.key)}"
    spill: { to: event, never: '=is(config.mode, "batch")', always: '=is(config.mode, "single")' }
    dead_after: 24 h
  event:
    post: https://api.example.com/events
    body: =item
    rate: { requests: 10, per: 1 s }
    bucket: "events {first(config.group, config.key)}"
examples:
  - name: both
    event: { type: track, event: x, userId: u }
    sends: { person: { who: u }, events: { who: u } }
"#;

#[test]
fn rates_go_by_a_choice_and_accounts_keep_them_together() {
    let events = |config: Value| {
        let plan = plan_with(ACCOUNTS, config);
        plan.requests()[1].clone()
    };
    let small = events(json!({"key": "a"}));
    let windows = |rates: &[Rate]| rates.iter().map(|rate| rate.n).collect::<Vec<_>>();
    assert_eq!(windows(&small.rates), [100]);
    assert_eq!(
        windows(&events(json!({"key": "a", "plan": "large"})).rates),
        [200, 20]
    );
    assert_eq!(small.lane_with, Some(0));
    assert_eq!(small.dead_after, Some(Duration::from_secs(86_400)));
    // The same key, or the same name: the same bucket, and another for other requests.
    let bucket = |config: Value| events(config).bucket.expect("a bucket");
    assert_eq!(
        small.bucket,
        Some(bucket(json!({"key": "a", "plan": "large"})))
    );
    assert_ne!(bucket(json!({"key": "a"})), bucket(json!({"key": "b"})));
    assert_eq!(
        bucket(json!({"key": "a", "group": "ours"})),
        bucket(json!({"key": "b", "group": "ours"}))
    );
    let plan = plan_with(ACCOUNTS, json!({"key": "a"}));
    assert_ne!(plan.requests()[1].bucket, plan.requests()[2].bucket);
    for (mode, spill, always) in [
        ("auto", Some(2), false),
        ("batch", None, false),
        ("single", Some(2), true),
    ] {
        let events = events(json!({"key": "a", "mode": mode}));
        assert_eq!(
            (events.spill, events.spill_always),
            (spill, always),
            "{mode}"
        );
    }
}

#[test]
fn what_cannot_be_shared_is_refused() {
    for (from, to, says) in [
        (
            "      small: { requests: 100, per: 1 h }\n",
            "",
            "how much it is for `small`",
        ),
        ("      large: [", "      larger: [", "did you mean `large`?"),
        (
            "by: =config.plan",
            "by: =config.group",
            "`by` is a choice of the config",
        ),
        (
            "by: =config.plan",
            "by: =userId",
            "`userId` is not known here",
        ),
        (
            "bucket: \"batches {first(config.group, config.key)}\"",
            "bucket: =userId",
            "`userId` is not known here",
        ),
        (
            "    rate: { requests: 10, per: 1 s }\n",
            "",
            "`bucket` needs `rate`",
        ),
        ("with: person", "with: persons", "did you mean `person`?"),
        (
            "with: person",
            "with: events",
            "another request that has a `lane`",
        ),
        (
            "with: person",
            "with: event",
            "another request that has a `lane`",
        ),
        ("with: person ", "", "`lane` needs `with`"),
        ("to: event,", "", "`spill` needs `to`"),
        (
            "never: '=is(config.mode, \"batch\")'",
            "never: =userId",
            "`userId` is not known here",
        ),
    ] {
        refused(ACCOUNTS, from, to, says);
    }
}

/// Checks `text` with `from` replaced by `to`: among what is remarked is `says`.
fn refused(text: &str, from: &str, to: &str, says: &str) {
    assert!(text.contains(from), "{from}");
    let text = text.replacen(from, to, 1);
    let shown = render("x.yaml", &text, &check(&text).diagnostics);
    assert!(shown.contains(says), "{says} in {shown}");
}

/// SHA-256 of the length (eight bytes, little-endian) and the text `u`: the first eight bytes.
const LANE_OF_U: u64 = 9527873288850269342;

#[test]
fn what_cannot_be_kept_is_refused() {
    for (from, to, says) in [
        ("    lane: =userId\n", "", "`pace` needs `lane`"),
        ("    lane: =userId\n", "", "`combine` needs `lane`"),
        (
            "    batch: { items: 50, wait: 1 s }\n",
            "",
            "`combine` needs `batch`",
        ),
        ("spill: contact", "spill: contct", "did you mean `contact`?"),
        (
            "spill: contact",
            "spill: contacts",
            "that is the same request",
        ),
        (
            "    post: https://api.example.com/contacts\n",
            "    post: \"https://api.example.com/contacts/{userId}\"\n",
            "use the event, and only the item is there",
        ),
        (
            "    rate: [ { requests: 10, per: 1 s }, { items: 14000, per: 1 min } ]\n",
            "",
            "`spill` needs `rate`",
        ),
        (
            "    replies: some_reader\n",
            "",
            "`requeue` needs `replies`",
        ),
        (
            "default: 30 min",
            "default: soon",
            "`for` is a time, or a field of the config that holds one",
        ),
        (
            "options: [0 s, 2 s]",
            "options: [0 s, quick]",
            "`pace` is a time",
        ),
        ("stale_after: 7 d", "stale_after: 0 s", "more than nothing"),
        ("in_flight: 4", "in_flight: 400", "at most 100"),
        (
            "{ requests: 10, per: 1 s }",
            "{ requests: 10 }",
            "a rate needs `per`",
        ),
        ("combine: true", "combined: true", "did you mean `combine`?"),
        (
            "    gate: api\n  audit",
            "  audit",
            "no other request has the gate `api`",
        ),
        (
            "{ key: =properties.email, without: plan }",
            "{ without: plan }",
            "`newest` needs `key`",
        ),
    ] {
        refused(CONTACTS, from, to, says);
    }
}
