//! What a restart of the process must not forget: which part of an event a vendor already has, and how much of its
//! rate is used up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aqueduct::journal::inspect;
use aqueduct::sandbox::{Handle, Sandbox};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::app::{ADMIN_TOKEN, WRITE_KEY, client};
use crate::support::process::Process;

/// Longest any wait may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory, the vendors beside it, and the process that runs on it now.
struct House {
    dir: tempfile::TempDir,
    http: reqwest::Client,
    vendors: Handle,
    sandbox: std::net::SocketAddr,
    gateway: Option<Process>,
    _stop: DropGuard,
}

impl House {
    async fn start() -> Self {
        let stop = CancellationToken::new();
        let sandbox = Sandbox::bind(([127, 0, 0, 1], 0).into())
            .await
            .expect("sandbox");
        let (addr, vendors) = (sandbox.addr, sandbox.handle());
        tokio::spawn(sandbox.run(stop.clone().cancelled_owned()));
        let mut house = Self {
            dir: tempfile::tempdir().expect("dir"),
            http: client(),
            vendors,
            sandbox: addr,
            gateway: None,
            _stop: stop.drop_guard(),
        };
        house.begin();
        house
    }

    fn begin(&mut self) {
        self.gateway = Some(Process::start(self.dir.path(), &self.sandbox.to_string()));
    }

    fn gateway(&self) -> &Process {
        self.gateway.as_ref().expect("it runs")
    }

    /// SIGKILL, and another process.
    fn kill(&mut self) {
        self.gateway.take().expect("it runs").kill();
        self.begin();
    }

    /// SIGTERM, and another process.
    fn restart(&mut self) {
        let gateway = self.gateway.take().expect("it runs");
        gateway.terminate();
        assert!(gateway.wait(PATIENCE).success());
        self.begin();
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> Value {
        let reply = request.send().await.expect("an answer");
        let (status, text) = (reply.status(), reply.text().await.expect("body"));
        assert!(status.is_success(), "{status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let url = format!("http://{}/v1/admin/{path}", self.gateway().admin);
        let request = self.http.request(method.parse().expect("method"), url);
        let request = request.bearer_auth(ADMIN_TOKEN);
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body.to_string()),
            None => request,
        };
        self.call(request).await
    }

    async fn faults(&self, method: &str, script: Value) {
        let url = format!("http://{}/_sandbox/faults", self.sandbox);
        let request = self.http.request(method.parse().expect("method"), url);
        let request = request
            .header("content-type", "application/json")
            .body(script.to_string());
        self.call(request).await;
    }

    /// Installs a vendor's `decisions`, whose address is in the sandbox.
    async fn install(&self, vendor: &str, config: Value) {
        let body = json!({
            "name": vendor, "variant": "decisions", "delivery_mode": "server_side", "config": config,
            "settings": {"batch_wait_ms": 0, "retry_base_ms": 50, "retry_cap_ms": 200},
        });
        let path = format!("integration-catalog/{vendor}/install");
        self.admin("POST", &path, Some(body)).await;
    }

    /// Posts a decision for each of these people.
    async fn decide(&self, people: &[String]) {
        let decisions: Vec<Value> = people
            .iter()
            .map(|user| {
                json!({
                    "type": "flag", "messageId": format!("m-{user}"), "userId": user, "attributes": {},
                    "decisionInfo": {
                        "flagKey": "checkout", "enabled": true, "variationKey": "on", "ruleKey": "rule",
                        "variables": {}, "reasons": [], "decisionEventDispatched": true,
                    },
                })
            })
            .collect();
        let url = format!("http://{}/v1/decision", self.gateway().ingest);
        let request = self.http.post(url).basic_auth(WRITE_KEY, Some(""));
        let reply = self
            .call(request.body(json!({"batch": decisions}).to_string()))
            .await;
        assert_eq!(reply["accepted"], json!(people.len()), "{reply}");
    }

    /// The requests a vendor took whose path begins so.
    fn taken(&self, path: &str) -> Vec<Value> {
        let page = self.vendors.requests(0, path, usize::MAX);
        let rows = page.get("requests").or_else(|| page.get("data"));
        let rows = rows.and_then(Value::as_array).expect("rows").iter();
        let taken = |row: &&Value| row["status"].as_u64().is_some_and(|status| status < 300);
        rows.filter(taken).cloned().collect()
    }

    /// Waits for something to be true.
    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self).await {
            assert!(began.elapsed() < PATIENCE, "still not so: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn settled(&self, delivered: usize) {
        let mut row = Value::Null;
        let began = Instant::now();
        while row["pending"] != json!(0) || row["delivered"] != json!(delivered) {
            let ledger = self.admin("GET", "ledger", None).await;
            assert_eq!(ledger["balanced"], json!(true), "{ledger}");
            row = ledger["data"][0].clone();
            assert!(began.elapsed() < PATIENCE, "the ledger stays at {row}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Parts the journal on disk knows to have ended of events that are open.
    fn parts_on_disk(&self) -> usize {
        let shape = inspect::shape(self.dir.path()).expect("a journal");
        shape.feeds.iter().map(|(feed, _)| feed.parts.len()).sum()
    }

    fn no_breaches(&self) {
        let breaches = self.vendors.breaches(None);
        assert_eq!(breaches["total"], json!(0), "{breaches}");
    }
}

fn people(word: &str, n: usize) -> Vec<String> {
    (0..n).map(|n| format!("{word}-{n}")).collect()
}

/// Pendo takes the event and not what it says of the visitor, for as long as several processes live.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_arrived_does_not_arrive_again_after_a_stop_or_a_kill() {
    let mut house = House::start().await;
    let users: Vec<String> = [people("a", 12), people("b", 12)].concat();
    let seed = json!({"visitors": users, "visitor_fields": {"optimizely_checkout": "text"}});
    house.vendors.seed("pendo", "", seed).expect("seed");
    let at = |path: &str| format!("http://{}/{path}", house.sandbox);
    let config = json!({"track_secret": "t", "integration_key": "k", "exposure": "all",
        "api_base_url": at("pendo-app"), "track_base_url": at("pendo-data")});
    house.install("pendo", config).await;
    let down = json!({"rules": [{"path": "/pendo-app", "action": {"status": 503, "body": {}}}]});
    house.faults("PUT", down).await;

    house.decide(&users[..12]).await;
    house
        .until("twelve events at Pendo", async |house| {
            house.taken("/pendo-data").len() >= 12
        })
        .await;
    house.restart();
    assert_eq!(house.parts_on_disk(), 12, "written down by the stop");
    house.decide(&users[12..]).await;
    house
        .until("the others at Pendo", async |house| {
            house.taken("/pendo-data").len() >= 24
        })
        .await;
    house
        .until("all parts on disk", async |house| {
            house.parts_on_disk() == 24
        })
        .await;
    house.kill();
    house.kill();
    house.faults("DELETE", json!({})).await;
    house.settled(24).await;

    let mut arrived: BTreeMap<String, u32> = BTreeMap::new();
    for request in house.taken("/pendo-data") {
        let body: Value =
            serde_json::from_str(request["body"].as_str().expect("body")).expect("JSON");
        let visitor = body["visitorId"].as_str().expect("visitor").to_owned();
        *arrived.entry(visitor).or_default() += 1;
    }
    let once: BTreeMap<String, u32> = users.iter().map(|user| (user.clone(), 1)).collect();
    assert_eq!(arrived, once);
    for user in &users {
        assert_eq!(
            house.vendors.value("pendo", "", user, "checkout"),
            json!("on")
        );
    }
    assert_eq!(house.parts_on_disk(), 0);
    house.no_breaches();
}

/// Brevo takes a hundred batches an hour, whoever sends them.
#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_an_hour_holds_through_a_stop_and_a_kill() {
    const EACH: usize = 40;
    let mut house = House::start().await;
    let users: Vec<String> = people("u", 3 * EACH);
    let attributes = [
        "OPT_CHECKOUT",
        "EXPERIMENT_NAME",
        "VARIATION_NAME",
        "FEATURE_FLAG",
    ]
    .map(|name| json!({"name": name, "type": "text"}))
    .into_iter()
    .chain([
        json!({"name": "FEATURE_ENABLED", "type": "boolean"}),
        json!({"name": "EXPERIMENT_DATE", "type": "date"}),
    ]);
    let contacts: Vec<Value> = users.iter().map(|user| json!({"ext_id": user})).collect();
    let seed = json!({"attributes": attributes.collect::<Vec<_>>(), "contacts": contacts});
    house.vendors.seed("brevo", "", seed).expect("seed");
    let base_url = format!("http://{}/brevo", house.sandbox);
    let config =
        json!({"api_key": "xkeysib-test", "base_url": base_url, "per_flag_attributes": true});
    house.install("brevo", config).await;
    for (round, some) in users.chunks(EACH).enumerate() {
        for (n, user) in some.iter().enumerate() {
            house.decide(std::slice::from_ref(user)).await;
            let before = round * EACH + n;
            house
                .until("one more at Brevo", async |house| {
                    house.taken("/brevo/v3/events").len() > before
                })
                .await;
        }
        match round {
            0 => house.kill(),
            1 => house.restart(),
            _ => {}
        }
    }
    house.settled(3 * EACH).await;
    let batches = house.taken("/brevo/v3/events/batch").len();
    assert!((2 * EACH..=100).contains(&batches), "{batches} batches");
    house.no_breaches();
}
