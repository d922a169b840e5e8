//! Every decision vector of the fixtures, and datafiles no SDK would write.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn fixture(path: &str) -> String {
    let path = format!(
        "{}/tests/fixtures/optimizely/{path}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path).expect("fixture")
}

fn datafile(name: &str) -> Datafile {
    Datafile::parse(fixture(&format!("datafiles/{name}.json")).as_bytes()).expect("datafile")
}

/// Numbers as JavaScript sees them: 0 and 0.0 are one.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, left)| right.get(key).is_some_and(|right| same(left, right)))
        }
        _ => left == right,
    }
}

fn buckets(reasons: &[String]) -> Vec<u64> {
    let bucket = |reason: &String| {
        let rest = reason.strip_prefix("Assigned bucket ")?;
        rest.split(' ').next()?.parse().ok()
    };
    reasons.iter().filter_map(bucket).collect()
}

fn check_vectors(name: &str) -> usize {
    let datafile = datafile(name);
    let vectors = fixture(&format!("vectors/{name}.vectors.jsonl"));
    for line in vectors.lines() {
        let vector: Value = serde_json::from_str(line).expect("a vector");
        let forced: Vec<Forced> = vector["forced"]
            .as_object()
            .map(|forced| Forced {
                flag_key: forced["flag"].as_str().expect("flag").to_owned(),
                rule_key: forced["rule"].as_str().map(str::to_owned),
                variation_key: forced["variation"].as_str().expect("variation").to_owned(),
            })
            .into_iter()
            .collect();
        let segments: Vec<String> =
            serde_json::from_value(vector.get("segments").cloned().unwrap_or(json!([])))
                .expect("segments");
        let user = User {
            id: vector["user"].as_str().expect("user"),
            traits: Traits {
                attributes: vector["attributes"].as_object().expect("attributes"),
                segments: &segments,
            },
            forced: &forced,
        };
        let options = Options {
            include_reasons: true,
            ..Options::default()
        };
        let decision = datafile.decide(vector["flag"].as_str().expect("flag"), user, options);
        let given = json!({
            "variationKey": decision.variation_key,
            "enabled": decision.enabled,
            "ruleKey": decision.rule_key,
            "variables": decision.variables,
            "experimentId": decision.experiment_id,
            "variationId": decision.variation_id,
            "notified": decision.error.is_none(),
        });
        assert!(
            same(&given, &vector["expect"]),
            "{name}: {line}\n  gives {given}\n  because {:#?}",
            decision.reasons
        );
        // The SDK says a holdout's bucket twice.
        let mut wanted: Vec<u64> =
            serde_json::from_value(vector["buckets"].clone()).expect("buckets");
        wanted.dedup();
        let mut given = buckets(&decision.reasons);
        given.dedup();
        assert_eq!(given, wanted, "{name}: {line}");
    }
    vectors.lines().count()
}

#[test]
fn every_vector_of_the_sdks_is_decided_alike() {
    assert_eq!(check_vectors("golden_v4"), 1_000);
    assert_eq!(check_vectors("golden_v4_holdouts"), 400);
    assert_eq!(check_vectors("golden_v4_misc"), 400);
}

#[test]
fn hashes_and_buckets_are_the_sdks() {
    let table: Value = serde_json::from_str(&fixture("vectors/bucket_hash.json")).expect("JSON");
    let rows = table.as_array().expect("rows");
    assert!(rows.len() > 10);
    for row in rows {
        let key = row["key"].as_str().expect("key");
        let hash = u64::from(bucket::murmur3(key.as_bytes(), 1));
        assert_eq!(Some(hash), row["murmur3_x86_32"].as_u64(), "{key}");
        let (head, tail) = key.split_at(key.floor_char_boundary(key.len() / 2));
        let bucket = u64::from(bucket::bucket(head, tail));
        assert_eq!(Some(bucket), row["bucket"].as_u64(), "{key}");
    }
}

fn plain<'a>(id: &'a str, attributes: &'a Map<String, Value>) -> User<'a> {
    User {
        id,
        traits: Traits {
            attributes,
            segments: &[],
        },
        forced: &[],
    }
}

#[test]
fn a_flag_the_prediction_service_decides_is_refused_by_name() {
    let datafile = datafile("golden_v4_misc");
    let attributes = Map::new();
    let users: Vec<String> = (0..200).map(|n| format!("u{n}")).collect();
    let decisions: Vec<_> = users
        .iter()
        .map(|user| datafile.decide("cmab_flag", plain(user, &attributes), Options::default()))
        .collect();
    let refused: Vec<_> = decisions
        .iter()
        .filter(|decision| decision.error == Some("cmab_unsupported"))
        .collect();
    // Four in ten are held out of experiments; of the others, half are in its traffic.
    assert!((40..80).contains(&refused.len()), "{}", refused.len());
    for decision in refused {
        assert!(decision.reasons[0].starts_with("cmab_unsupported:"));
        assert_eq!((decision.variation_key, decision.impression), (None, false));
    }
}

#[test]
fn impressions_follow_the_rule_that_decided() {
    let sends = datafile("golden_v4");
    let quiet = datafile("golden_v4_holdouts");
    let misc = datafile("golden_v4_misc");
    let attributes = Map::new();
    let mut seen = std::collections::BTreeSet::new();
    for datafile in [&sends, &quiet, &misc] {
        for n in 0..300 {
            let id = format!("u{n}");
            let keys: Vec<_> = datafile.flag_keys().collect();
            for key in keys {
                let user = plain(&id, &attributes);
                let decision = datafile.decide(key, user, Options::default());
                if decision.error.is_some() {
                    continue;
                }
                let wanted =
                    datafile.send_flag_decisions || decision.rule_type != RuleType::Rollout;
                assert_eq!(decision.impression, wanted);
                seen.insert((
                    format!("{:?}", decision.rule_type),
                    decision.impression,
                    decision.held_out.is_some(),
                ));
                let off = Options {
                    disable_decision_event: true,
                    ..Options::default()
                };
                let decision = datafile.decide(key, user, off);
                assert_eq!((decision.impression, decision.held_out), (false, None));
            }
        }
    }
    let all = [
        ("FeatureTest", true, false),
        ("Holdout", true, false),
        ("Rollout", false, false),
        ("Rollout", true, false),
        ("Rollout", true, true),
    ];
    let seen: Vec<_> = seen
        .iter()
        .map(|(kind, sent, held)| (kind.as_str(), *sent, *held))
        .collect();
    assert_eq!(seen, all);
}

#[test]
fn rule_info_knows_what_a_decision_names() {
    let golden = datafile("golden_v4");
    let holdouts = datafile("golden_v4_holdouts");
    let info = golden
        .rule_info(
            "checkout_redesign",
            Some("checkout_redesign_ab"),
            Some("treatment"),
        )
        .expect("known");
    assert_eq!(info.kind, RuleKind::Experiment);
    assert_eq!(info.experiment_id, Some("20001"));
    assert_eq!(info.layer_id, Some("30001"));
    assert_eq!(info.variation_id, Some("40002"));
    let kind = |datafile: &Datafile, flag, rule, variation| {
        datafile
            .rule_info(flag, rule, variation)
            .map(|info| info.kind.as_str())
    };
    let last = Some("default-rollout-103");
    assert_eq!(
        kind(&golden, "dark_mode", last, Some("off")),
        Some("everyone_else")
    );
    let premium = Some("free_shipping_premium");
    assert_eq!(
        kind(&golden, "free_shipping", premium, Some("on")),
        Some("rollout")
    );
    assert_eq!(kind(&golden, "no_rollout", None, None), Some("none"));
    assert_eq!(
        kind(&golden, "free_shipping", None, Some("on")),
        Some("forced")
    );
    for rule in ["global_ho_5pct", "local_ho_checkout"] {
        let found = kind(&holdouts, "checkout_redesign", Some(rule), Some("off"));
        assert_eq!(found, Some("holdout"));
    }
    // Not guessed: another datafile may know.
    assert_eq!(
        kind(&golden, "free_shipping", Some("gone"), Some("on")),
        None
    );
    assert_eq!(kind(&golden, "gone", None, None), None);
}

#[test]
fn what_is_decided_is_what_rule_info_says() {
    let attributes = Map::new();
    for name in ["golden_v4", "golden_v4_holdouts", "golden_v4_misc"] {
        let datafile = datafile(name);
        for n in 0..100 {
            let id = format!("u{n}");
            for key in datafile.flag_keys() {
                let decision = datafile.decide(key, plain(&id, &attributes), Options::default());
                let info = datafile
                    .rule_info(key, decision.rule_key, decision.variation_key)
                    .expect("known");
                assert_eq!(info.kind, decision.kind);
                assert_eq!(info.experiment_id, decision.experiment_id);
                assert_eq!(info.variation_id, decision.variation_id);
                assert_eq!(info.layer_id, decision.layer_id);
            }
        }
    }
}

#[test]
fn shared_datafiles_are_kept_by_integration() {
    let shared = Shared::default();
    let publish = |integration: &str, name: &str| {
        shared.publish(Known {
            integration: integration.to_owned(),
            sdk_key_tail: String::new(),
            datafile: Arc::new(datafile(name)),
        });
    };
    publish("b", "golden_v4_misc");
    publish("a", "golden_v4");
    publish("b", "golden_v4_holdouts");
    let revisions: Vec<_> = shared
        .load()
        .iter()
        .map(|known| {
            (
                known.integration.clone(),
                known.datafile.revision().to_owned(),
            )
        })
        .collect();
    assert_eq!(
        revisions,
        [
            ("a".to_owned(), "42".to_owned()),
            ("b".to_owned(), "7".to_owned())
        ]
    );
    shared.remove("a");
    let known = shared.with_flag("dark_mode").expect("known");
    assert_eq!(known.integration, "b");
}

#[test]
fn versions_compare_by_what_the_condition_names() {
    let order = |condition, user| {
        semver::compare(condition, user).map(|order| match order {
            std::cmp::Ordering::Less => -1,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => 1,
        })
    };
    for (condition, user, wanted) in [
        ("2", "2.1.3", Some(0)),
        ("2.1.3", "2.1", Some(-1)),
        ("2.1.3-beta", "2.1.3", Some(1)),
        ("2.1.3", "2.1.3-beta", Some(-1)),
        ("2.1.3-beta", "2.1.3-alpha", Some(-1)),
        ("2.1.3+build", "2.1.3", Some(1)),
        ("2.1", "2.10", Some(1)),
        ("2.1.3.4", "2.1.3", None),
        ("2.1", "2. 1", None),
        ("2.1", "", None),
        ("2.1", "v2.1", None),
        ("18446744073709551616", "18446744073709551617", Some(1)),
    ] {
        assert_eq!(order(condition, user), wanted, "{condition} {user}");
    }
}

#[test]
fn values_that_are_none_are_null() {
    use cast::Type;
    assert_eq!(Type::Integer.cast("12.5"), json!(12));
    assert_eq!(Type::Integer.cast("twelve"), Value::Null);
    assert_eq!(Type::Double.cast("12.50"), json!(12.5));
    assert_eq!(Type::Double.cast("NaN"), Value::Null);
    assert_eq!(Type::Boolean.cast("True"), Value::Null);
    assert_eq!(Type::Json.cast("{"), Value::Null);
    assert_eq!(Type::Text.cast("{"), json!("{"));
}

/// Any JSON, with the names a datafile uses.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "and",
        "or",
        "not",
        "exact",
        "gt",
        "semver_ge",
        "qualified",
        "custom_attribute",
        "third_party_dimension",
        "Running",
        "random",
        "20001",
        "30001",
        "plan",
        "fr",
        "cmab",
        "1.0-",
        "4",
        "",
        "a",
    ];
    let keys = [
        "id",
        "key",
        "conditions",
        "audienceIds",
        "audienceConditions",
        "experiments",
        "rollouts",
        "featureFlags",
        "groups",
        "holdouts",
        "localHoldouts",
        "includedRules",
        "variations",
        "trafficAllocation",
        "endOfRange",
        "entityId",
        "variables",
        "type",
        "match",
        "value",
        "name",
        "status",
        "rolloutId",
        "experimentIds",
        "policy",
        "cmab",
        "forcedVariations",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(keys.to_vec()), inner), 0..8).prop_map(
                |members| Value::Object(
                    members
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect()
                )
            ),
        ]
    })
}

/// Puts `odd` in the place the numbers lead to.
fn spoil(value: &mut Value, path: &[usize], odd: Value) {
    let next = match (path, &mut *value) {
        ([step, ..], Value::Array(items)) if !items.is_empty() => {
            let index = step % items.len();
            items.get_mut(index)
        }
        ([step, ..], Value::Object(members)) if !members.is_empty() => {
            let index = step % members.len();
            members.values_mut().nth(index)
        }
        _ => None,
    };
    match next {
        Some(next) => spoil(next, &path[1..], odd),
        None => *value = odd,
    }
}

fn decide_all(datafile: &Datafile) {
    let attributes =
        json!({"plan": "premium", "age": 42, "app_version": "2.1.3-", "is_beta": true});
    let attributes = attributes.as_object().expect("object");
    let options = Options {
        include_reasons: true,
        ..Options::default()
    };
    for key in datafile.flag_keys() {
        for id in ["user_1", "qa_user", ""] {
            let decision = datafile.decide(key, plain(id, attributes), options);
            let _info = datafile.rule_info(key, decision.rule_key, decision.variation_key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn odd_datafiles_never_panic(document in any_json()) {
        if let Ok(datafile) = Datafile::read(&document) {
            decide_all(&datafile);
        }
    }

    #[test]
    fn a_spoilt_datafile_still_decides(path in prop::collection::vec(0_usize..64, 1..8), odd in any_json()) {
        let mut document: Value =
            serde_json::from_str(&fixture("datafiles/golden_v4_holdouts.json")).expect("JSON");
        spoil(&mut document, &path, odd);
        if let Ok(datafile) = Datafile::read(&document) {
            decide_all(&datafile);
        }
    }
}
