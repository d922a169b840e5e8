//! What a person has at the end is what was decided last, under a name of the flag's own.

use serde_json::json;

use super::*;

/// Contract, test 8.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_decision_that_is_retried_never_takes_the_place_of_a_newer_one() {
    let fan = Fan::start().await;
    fan.prepare(&users("u", 1), &["checkout"]);
    let vendors = ["brevo", "heap", "pendo", "odp"];
    let paths = ["/brevo", "/heap-us", "/pendo-app", "/pendo-data", "/odp"];
    let rules: Vec<Value> = paths
        .iter()
        .map(|path| {
            json!({"path": path, "contains": "\"older\"", "times": 3, "action": {"status": 503}})
        })
        .collect();
    fan.faults(json!({"rules": rules})).await;
    let mut ids = Vec::new();
    for vendor in vendors {
        let config = match vendor {
            "odp" => json!({"per_flag_attributes": true}),
            _ => json!({}),
        };
        let quick = json!({"batch_wait_ms": 0, "retry_base_ms": 2_000, "retry_cap_ms": 4_000});
        ids.push(fan.install(vendor, config, quick).await);
    }
    let now_ms = fan.now_ms();
    fan.post(&[decision("m-1", "u-0", "checkout", "older", now_ms)])
        .await;
    // The older one is at each vendor's door before the newer one comes.
    let began = Instant::now();
    for path in paths {
        while fan
            .requests(path)
            .iter()
            .all(|request| request["status"] != json!(503))
        {
            assert!(began.elapsed() < PATIENCE, "{path}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    fan.post(&[decision("m-2", "u-0", "checkout", "newer", now_ms + 1_000)])
        .await;
    // One that was under way somewhere else, and comes last of all.
    fan.post(&[decision("m-0", "u-0", "checkout", "oldest", now_ms - 5_000)])
        .await;
    for (vendor, id) in vendors.iter().zip(&ids) {
        fan.app.settled(id).await;
        assert_eq!(
            fan.value(vendor, "u-0", "checkout"),
            json!("newer"),
            "{vendor}"
        );
        assert_eq!(fan.outcome("m-2", id).await.0, "delivered", "{vendor}");
    }
    fan.stop().await;
}

/// Contract, test 9.
#[tokio::test(flavor = "multi_thread")]
async fn flags_that_differ_only_in_signs_have_names_of_their_own() {
    let fan = Fan::start().await;
    fan.app
        .vendors
        .put_datafile("demo", two_flags(&fan).await)
        .expect("datafile");
    fan.app.install_optimizely("Optimizely", json!({})).await;
    let began = Instant::now();
    while fan
        .app
        .post("/v1/decide", &json!({"userId": "u-9", "keys": "a_b"}))
        .await
        .0
        != 200
    {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fan.prepare(&users("u", 1), &[]);
    let mut ids = Vec::new();
    for (vendor, prefix) in [("brevo", "OPT_"), ("pendo", "optimizely_")] {
        let config = fan.entered(vendor, &json!({}));
        let reply = fan
            .app
            .install(vendor, "decisions", config, json!({"batch_wait_ms": 0}))
            .await;
        ids.push(reply["id"].as_str().expect("id").to_owned());
        // The warnings name what has to be made there; make just that.
        let said = reply["warnings"].to_string();
        let names: std::collections::BTreeSet<String> = said
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| {
                word.to_lowercase()
                    .starts_with(&format!("{prefix}a_b").to_lowercase())
            })
            .map(str::to_owned)
            .collect();
        assert_eq!(names.len(), 2, "{vendor}: {said}");
        match vendor {
            "brevo" => {
                let attributes: Vec<Value> = names
                    .iter()
                    .map(|name| json!({"name": name, "type": "text"}))
                    .collect();
                fan.seed("brevo", json!({"attributes": attributes}));
            }
            _ => {
                let fields: BTreeMap<&String, &str> =
                    names.iter().map(|name| (name, "text")).collect();
                fan.seed("pendo", json!({"visitor_fields": fields}));
            }
        }
    }
    let now_ms = fan.now_ms();
    fan.post(&[
        decision("m-1", "u-0", "a-b", "one", now_ms),
        decision("m-2", "u-0", "a_b", "two", now_ms),
    ])
    .await;
    for id in &ids {
        assert_eq!(fan.app.settled(id).await["dead"], json!(0));
    }
    for vendor in ["brevo", "pendo"] {
        let all = fan.app.vendors.values(vendor, "");
        let flags = all["u-0"]
            .as_object()
            .unwrap_or_else(|| panic!("{vendor}: {all}"));
        assert_eq!(flags["a_b"], json!("two"), "{vendor}: {flags:?}");
        let others: Vec<_> = flags.iter().filter(|(name, _)| *name != "a_b").collect();
        assert_eq!(others.len(), 1, "{vendor}: {flags:?}");
        assert!(
            others[0].0.starts_with("a_b_") && others[0].1 == &json!("one"),
            "{vendor}: {flags:?}"
        );
    }
    fan.stop().await;
}

/// The demo's datafile with two more flags.
async fn two_flags(fan: &Fan) -> Value {
    let path = "/optimizely/datafiles/demo.json";
    let mut datafile = fan.app.sandbox("GET", path, None).await;
    for (id, key) in [("91", "a-b"), ("92", "a_b")] {
        datafile["featureFlags"].as_array_mut().expect("flags").push(
            json!({"id": id, "key": key, "rolloutId": "", "experimentIds": [], "variables": []}),
        );
    }
    datafile["revision"] = json!("1000");
    datafile
}
