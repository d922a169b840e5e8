//! One decision in, the right record at each vendor: acceptance through the front door. The gateway and the vendors it
//! delivers to (the sandbox, over HTTP) share a clock that runs fast, so that a vendor's pace is kept and not waited for.

mod big;
mod limits;
mod order;
mod rows;
mod trouble;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use aqueduct::clock::{Clock as _, Millis};
use serde_json::{Value, json};

use crate::support::clock::Brisk;
use crate::support::{Setup, TestApp};

/// How much faster than the machine's clock a test's clock runs, unless it says otherwise.
const TIMES: u32 = 20;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Decisions posted in one call.
const POSTED_AT_ONCE: usize = 500;

/// A gateway, its vendors and their clock.
struct Fan {
    app: TestApp,
    clock: std::sync::Arc<Brisk>,
}

impl Fan {
    async fn start() -> Self {
        Self::start_with(TIMES).await
    }

    async fn start_with(times: u32) -> Self {
        let clock = Brisk::new(times);
        let app = TestApp::start_with(Setup {
            clock: Some(clock.clone()),
            ..Setup::default()
        })
        .await;
        Self { app, clock }
    }

    /// With a data directory of the test's, for [`Fan::restart`].
    async fn start_in(dir: &Path) -> Self {
        let clock = Brisk::new(TIMES);
        let app = TestApp::start_with(Setup {
            data_dir: Some(dir.to_owned()),
            clock: Some(clock.clone()),
            ..Setup::default()
        })
        .await;
        Self { app, clock }
    }

    /// The gateway stops, and begins again in the same directory. The vendors are at the same address, and have
    /// forgotten everything but these policies.
    async fn restart(self, dir: &Path, policies: Value) -> Self {
        let (clock, sandbox) = (self.clock, self.app.sandbox);
        self.app.halt().await;
        let app = TestApp::start_with(Setup {
            data_dir: Some(dir.to_owned()),
            sandbox: Some(sandbox),
            policies: Some(policies),
            clock: Some(clock.clone()),
            ..Setup::default()
        })
        .await;
        Self { app, clock }
    }

    fn now_ms(&self) -> Millis {
        self.clock.now_ms()
    }

    /// `config` with a vendor's address in the sandbox and credentials, as far as it does not say otherwise.
    fn entered(&self, vendor: &str, config: &Value) -> Value {
        let at = |path: &str| format!("http://{}/{path}", self.app.sandbox);
        let mut entered = match vendor {
            "brevo" => {
                json!({"api_key": "xkeysib-test", "base_url": at("brevo"), "per_flag_attributes": true})
            }
            "heap" => json!({"app_id": "11", "base_url": at("heap-us")}),
            "pendo" => {
                json!({"track_secret": "secret-of-track", "integration_key": "key-of-metadata", "exposure": "all",
                    "api_base_url": at("pendo-app"), "track_base_url": at("pendo-data")})
            }
            "odp" => json!({"api_key": "odp-key", "base_url": at("odp")}),
            other => panic!("{other}"),
        };
        for (key, value) in config.as_object().into_iter().flatten() {
            if value.is_null() {
                entered.as_object_mut().expect("object").remove(key);
            } else {
                entered[key] = value.clone();
            }
        }
        entered
    }

    /// Installs a vendor's `decisions`. Returns the integration's id.
    async fn install(&self, vendor: &str, config: Value, settings: Value) -> String {
        let config = self.entered(vendor, &config);
        let reply = self
            .app
            .install(vendor, "decisions", config, settings)
            .await;
        reply["id"].as_str().expect("id").to_owned()
    }

    /// Changes the vendors' policies.
    fn policies(&self, part: Value) {
        self.app.vendors.configure(&part).expect("policy");
    }

    fn seed(&self, vendor: &str, seed: Value) {
        self.app.vendors.seed(vendor, "", seed).expect("seed");
    }

    /// Makes these people, and what is written of these flags (by their slugs), known to Brevo and Pendo.
    fn prepare(&self, users: &[String], slugs: &[&str]) {
        let attributes: Vec<Value> = slugs
            .iter()
            .map(|slug| json!({"name": format!("OPT_{}", slug.to_uppercase()), "type": "text"}))
            .chain([
                json!({"name": "EXPERIMENT_NAME", "type": "text"}),
                json!({"name": "VARIATION_NAME", "type": "text"}),
                json!({"name": "FEATURE_FLAG", "type": "text"}),
                json!({"name": "FEATURE_ENABLED", "type": "boolean"}),
                json!({"name": "EXPERIMENT_DATE", "type": "date"}),
            ])
            .collect();
        let contacts: Vec<Value> = users.iter().map(|user| json!({"ext_id": user})).collect();
        self.seed(
            "brevo",
            json!({"attributes": attributes, "contacts": contacts}),
        );
        let fields: BTreeMap<String, &str> = slugs
            .iter()
            .map(|slug| (format!("optimizely_{slug}"), "text"))
            .collect();
        self.seed(
            "pendo",
            json!({"visitors": users, "visitor_fields": fields}),
        );
    }

    /// Posts decisions; fails the test unless all are accepted.
    async fn post(&self, decisions: &[Value]) {
        for some in decisions.chunks(POSTED_AT_ONCE) {
            let (status, reply) = self.app.post("/v1/decision", &json!({"batch": some})).await;
            assert_eq!(
                (status, &reply["accepted"]),
                (200, &json!(some.len())),
                "{reply}"
            );
        }
    }

    async fn faults(&self, script: Value) {
        self.app
            .sandbox("PUT", "/_sandbox/faults", Some(script))
            .await;
    }

    /// The requests whose path begins so, oldest first, as the vendor's log has them.
    fn requests(&self, path: &str) -> Vec<Value> {
        let page = self.app.vendors.requests(0, path, usize::MAX);
        let rows = page.get("requests").or_else(|| page.get("data"));
        rows.and_then(Value::as_array)
            .unwrap_or_else(|| panic!("{page}"))
            .clone()
    }

    fn state(&self, vendor: &str) -> Value {
        self.app.vendors.state(vendor, "", usize::MAX)
    }

    /// The variation a vendor shows.
    fn value(&self, vendor: &str, user: &str, flag: &str) -> Value {
        self.app.vendors.value(vendor, "", user, flag)
    }

    /// The status of an integration.
    async fn status(&self, id: &str) -> Value {
        let path = format!("integrations/{id}");
        self.app.admin("GET", &path, None).await.1["status"].clone()
    }

    /// Waits for something that is true of an integration's status.
    async fn status_until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.status(id).await;
            if wanted(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the status stays at {status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn resume(&self, id: &str) {
        let path = format!("integrations/{id}/resume");
        let (status, reply) = self.app.admin("POST", &path, None).await;
        assert!(status < 300, "{reply}");
    }

    /// What became of an event at an integration: its outcome and the reason. What the log says comes a moment later.
    async fn outcome(&self, message_id: &str, integration: &str) -> (String, String) {
        let began = Instant::now();
        loop {
            let (status, story) = self
                .app
                .admin("GET", &format!("events/{message_id}"), None)
                .await;
            assert_eq!(status, 200, "{story}");
            let rows = story["events"][0]["integrations"].as_array();
            let row = rows
                .into_iter()
                .flatten()
                .find(|row| row["integration"] == json!(integration))
                .unwrap_or_else(|| panic!("{story}"));
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            if text("outcome") != "settled" {
                return (text("outcome"), text("reason"));
            }
            assert!(began.elapsed() < PATIENCE, "nobody knows: {story}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// No vendor's limit was broken.
    fn no_breaches(&self) {
        let breaches = self.app.vendors.breaches(None);
        assert_eq!(breaches["total"], json!(0), "{breaches}");
    }

    /// Waits for an outcome of every event; the books balance, no vendor's limit was broken.
    async fn stop(self) {
        self.no_breaches();
        self.app.stop().await;
    }
}

/// A decision as the JavaScript SDK reports it.
fn decision(id: &str, user: &str, flag: &str, variation: &str, at_ms: Millis) -> Value {
    let at = jiff::Timestamp::from_millisecond(at_ms).expect("time");
    json!({
        "type": "flag", "messageId": id, "userId": user, "attributes": {}, "timestamp": at.to_string(),
        "decisionInfo": {
            "flagKey": flag, "enabled": true, "variationKey": variation, "ruleKey": "rule", "variables": {},
            "reasons": [], "decisionEventDispatched": true,
        },
    })
}

/// Users `{word}-0` and so on.
fn users(word: &str, n: usize) -> Vec<String> {
    (0..n).map(|n| format!("{word}-{n}")).collect()
}

/// Statuses of requests that were answered.
fn statuses(requests: &[Value]) -> BTreeMap<u64, usize> {
    let mut found = BTreeMap::new();
    for request in requests {
        *found
            .entry(request["status"].as_u64().unwrap_or(0))
            .or_default() += 1;
    }
    found
}

/// When a request came.
fn at_ms(request: &Value) -> Millis {
    request["at_ms"].as_i64().expect("at_ms")
}

/// A request's body.
fn body(request: &Value) -> Value {
    serde_json::from_str(request["body"].as_str().expect("body")).expect("JSON")
}
