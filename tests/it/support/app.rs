//! A whole gateway and a vendor sandbox in this process, spoken to over real HTTP.
//!
//! [`TestApp::stop`] fails the test when an accepted event has no outcome or the books do not balance, and
//! dropping a `TestApp` without stopping it fails too: no test leaves events unaccounted for by accident.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aqueduct::app::App;
use aqueduct::clock::{SharedClock, SystemClock};
use aqueduct::config::{Inputs, Settings};
use aqueduct::sandbox::{Handle, Sandbox};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The write key and the admin token every test gateway starts with.
pub(crate) const WRITE_KEY: &str = "wk_test_key_of_the_suite";
pub(crate) const ADMIN_TOKEN: &str = "adm_test_token_of_the_suite";

/// How long a test waits for something that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running gateway with its sandbox.
pub(crate) struct TestApp {
    pub(crate) ingest: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) sandbox: SocketAddr,
    /// A look inside the sandbox.
    pub(crate) vendors: Handle,
    pub(crate) http: reqwest::Client,
    /// Keeps the directory until the test ends; none when the test owns it.
    _owned_dir: Option<tempfile::TempDir>,
    soft: CancellationToken,
    gateway: Option<JoinHandle<anyhow::Result<()>>>,
    sandbox_stop: CancellationToken,
}

/// What a test may choose.
#[derive(Default)]
pub(crate) struct Setup {
    /// Use this data directory instead of a fresh one.
    pub(crate) data_dir: Option<PathBuf>,
    /// Put the sandbox at this address (after a restart: where the integrations look for it).
    pub(crate) sandbox: Option<SocketAddr>,
    /// Other settings, as environment variables.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// What the vendors' policies are before the gateway asks them anything.
    pub(crate) policies: Option<Value>,
    /// The gateway and the sandbox go by this clock, not by the machine's.
    pub(crate) clock: Option<SharedClock>,
}

impl TestApp {
    /// A gateway with nothing installed.
    pub(crate) async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    /// A gateway with chosen settings.
    pub(crate) async fn start_with(setup: Setup) -> Self {
        let owned_dir = if setup.data_dir.is_none() {
            Some(tempfile::tempdir().expect("temporary directory"))
        } else {
            None
        };
        let data_dir = setup
            .data_dir
            .unwrap_or_else(|| owned_dir.as_ref().expect("made above").path().to_owned());
        let sandbox_stop = CancellationToken::new();
        let clock = setup.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let sandbox = bind_sandbox(setup.sandbox, &clock).await;
        let sandbox_addr = sandbox.addr;
        let vendors = sandbox.handle();
        if let Some(policies) = setup.policies {
            vendors.configure(&policies).expect("policies");
        }
        tokio::spawn(sandbox.run(sandbox_stop.clone().cancelled_owned()));

        let mut inputs = Inputs::default();
        let mut set = |name: &str, value: String| inputs.environment.insert(name.to_owned(), value);
        set("AQUEDUCT_DATA_DIR", data_dir.display().to_string());
        for listener in ["INGEST", "ADMIN", "METRICS"] {
            set(
                &format!("AQUEDUCT_{listener}_LISTEN"),
                "127.0.0.1:0".to_owned(),
            );
        }
        set("AQUEDUCT_WRITE_KEY", WRITE_KEY.to_owned());
        set("AQUEDUCT_ADMIN_TOKEN", ADMIN_TOKEN.to_owned());
        set("AQUEDUCT_EGRESS_ALLOW", sandbox_addr.to_string());
        set("AQUEDUCT_DRAIN_S", "5".to_owned());
        set("AQUEDUCT_FREE_BYTES_MIN", "1000000".to_owned());
        for (name, value) in setup.environment {
            set(name, value);
        }
        let settings = Settings::load(&inputs).expect("valid settings");
        let app = App::build(settings, clock).await.expect("gateway builds");
        let addresses = app.addresses();
        let soft = CancellationToken::new();
        let running = app.run(soft.clone(), CancellationToken::new());
        let gateway = tokio::spawn(async move {
            let ended = running.await;
            // A test would only see that nobody answers any more.
            if let Err(error) = &ended {
                eprintln!("the gateway ended: {error:#}");
            }
            ended
        });
        Self {
            ingest: addresses.ingest,
            admin: addresses.admin,
            metrics: addresses.metrics,
            sandbox: sandbox_addr,
            vendors,
            http: client(),
            _owned_dir: owned_dir,
            soft,
            gateway: Some(gateway),
            sandbox_stop,
        }
    }

    /// Posts JSON to the ingest listener with the suite's write key.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self
            .http
            .post(format!("http://{}{path}", self.ingest))
            .basic_auth(WRITE_KEY, Some(""));
        answer(
            request
                .body(body.to_string())
                .send()
                .await
                .expect("ingest answers"),
        )
        .await
    }

    /// Posts one track call; fails the test unless it is accepted.
    pub(crate) async fn track(&self, event: &str, user: &str, properties: Value) -> String {
        let message_id = uuid::Uuid::new_v4().to_string();
        let body = json!({"event": event, "userId": user, "messageId": message_id, "properties": properties});
        let (status, reply) = self.post("/v1/track", &body).await;
        assert_eq!(
            (status, reply["accepted"].clone()),
            (200, json!(1)),
            "{reply}"
        );
        message_id
    }

    /// Calls the admin API with the suite's token.
    pub(crate) async fn admin(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let method = method.parse().expect("method");
        let mut request = self
            .http
            .request(method, format!("http://{}/v1/admin/{path}", self.admin))
            .bearer_auth(ADMIN_TOKEN);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        answer(request.send().await.expect("admin answers")).await
    }

    /// Calls the sandbox's control routes.
    pub(crate) async fn sandbox(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let method = method.parse().expect("method");
        let mut request = self
            .http
            .request(method, format!("http://{}{path}", self.sandbox));
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let (status, reply) = answer(request.send().await.expect("sandbox answers")).await;
        assert!(status < 300, "sandbox {path}: {status} {reply}");
        reply
    }

    /// Installs Optimizely against the sandbox, with short waits. Returns the integration's id.
    pub(crate) async fn install_optimizely(&self, name: &str, settings: Value) -> String {
        let mut merged = json!({
            "events_url": format!("http://{}/optimizely/v1/events", self.sandbox),
            "batch_wait_ms": 20, "retry_base_ms": 20, "retry_cap_ms": 200,
        });
        for (key, value) in settings.as_object().into_iter().flatten() {
            merged[key] = value.clone();
        }
        let (status, reply) = self
            .admin("POST", "integration-catalog/optimizely/install", Some(json!({
                "name": name, "variant": "default", "delivery_mode": "server_side", "settings": merged,
                "config": {
                    "account_id": "12345678", "project_id": "98765432", "sdk_key": "demo",
                    "datafile_url": format!("http://{}/optimizely/datafiles/demo.json", self.sandbox),
                },
            })))
            .await;
        assert_eq!(status, 201, "{reply}");
        reply["id"].as_str().expect("id").to_owned()
    }

    /// Installs a vendor's variant; the install's whole answer. Fails the test when it is refused.
    pub(crate) async fn install(
        &self,
        vendor: &str,
        variant: &str,
        config: Value,
        settings: Value,
    ) -> Value {
        let (status, reply) = self
            .admin("POST", &format!("integration-catalog/{vendor}/install"), Some(json!({
                "name": format!("{vendor} {variant}"), "variant": variant, "delivery_mode": "server_side",
                "config": config, "settings": settings,
            })))
            .await;
        assert_eq!(status, 201, "{reply}");
        reply
    }

    /// An integration's row of the ledger.
    pub(crate) async fn ledger(&self, integration: &str) -> Value {
        let (status, reply) = self.admin("GET", "ledger", None).await;
        assert_eq!(status, 200, "{reply}");
        assert_eq!(reply["balanced"], json!(true), "{reply}");
        reply["data"]
            .as_array()
            .expect("rows")
            .iter()
            .find(|row| row["integration"] == json!(integration))
            .cloned()
            .unwrap_or_else(|| panic!("{integration} in {reply}"))
    }

    /// Waits until the ledger row satisfies `wanted`; fails the test after a while.
    pub(crate) async fn ledger_until(
        &self,
        integration: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let began = Instant::now();
        loop {
            let row = self.ledger(integration).await;
            if wanted(&row) {
                return row;
            }
            if began.elapsed() >= PATIENCE {
                let path = format!("integrations/{integration}");
                let (_, view) = self.admin("GET", &path, None).await;
                panic!("the ledger stays at {row}; {view}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is pending.
    pub(crate) async fn settled(&self, integration: &str) -> Value {
        self.ledger_until(integration, |row| row["pending"] == json!(0))
            .await
    }

    /// The books by experiment, each row by itself and all of an integration together. Nothing may be on its way.
    async fn experiments_add_up(&self, whole: &[Value]) {
        let (status, reply) = self.admin("GET", "ledger?by=experiment", None).await;
        assert_eq!((status, &reply["balanced"]), (200, &json!(true)), "{reply}");
        let parts = reply["data"].as_array().expect("rows");
        for row in whole {
            for column in [
                "accepted",
                "delivered",
                "skipped",
                "deduplicated",
                "dead",
                "pending",
            ] {
                let own = parts
                    .iter()
                    .filter(|part| part["integration"] == row["integration"]);
                let sum: u64 = own.filter_map(|part| part[column].as_u64()).sum();
                assert_eq!(json!(sum), row[column], "{column} of {row} in {reply}");
            }
        }
    }

    /// What the sandbox's Optimizely has received.
    pub(crate) async fn optimizely(&self) -> Value {
        self.sandbox("GET", "/_sandbox/optimizely/summary", None)
            .await
    }

    /// Stops the gateway as SIGTERM would, without looking at the books (the next start of the test does).
    pub(crate) async fn halt(mut self) {
        self.halt_parts().await;
    }

    /// Waits until every integration has an outcome for every event, checks the books, and stops.
    pub(crate) async fn stop(mut self) {
        let began = Instant::now();
        loop {
            let (status, reply) = self.admin("GET", "ledger", None).await;
            assert_eq!((status, &reply["balanced"]), (200, &json!(true)), "{reply}");
            let rows = reply["data"].as_array().expect("rows");
            if rows.iter().all(|row| row["pending"] == json!(0)) {
                self.experiments_add_up(rows).await;
                break;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "accepted events without an outcome: {reply}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.halt_parts().await;
    }

    async fn halt_parts(&mut self) {
        self.soft.cancel();
        if let Some(gateway) = self.gateway.take() {
            let ended = tokio::time::timeout(PATIENCE, gateway)
                .await
                .expect("the gateway stops in time");
            ended.expect("no panic").expect("clean end");
        }
        self.sandbox_stop.cancel();
    }
}

/// The vendors; where they were before, their old place may take a moment to be free.
async fn bind_sandbox(place: Option<SocketAddr>, clock: &SharedClock) -> Sandbox {
    let began = Instant::now();
    let addr = place.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    loop {
        match Sandbox::bind_with(addr, clock.clone()).await {
            Ok(sandbox) => return sandbox,
            Err(error) => assert!(began.elapsed() < PATIENCE, "sandbox: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.sandbox_stop.cancel();
        if self.gateway.is_some() && !std::thread::panicking() {
            panic!(
                "a TestApp was dropped without stop() or halt(): its events were not accounted for"
            );
        }
    }
}

async fn answer(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.expect("body");
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

/// An outsider's HTTP client.
#[expect(
    clippy::disallowed_methods,
    reason = "an app or an admin, not the gateway calling out"
)]
pub(crate) fn client() -> reqwest::Client {
    // Two in one process may both want to install one: the first wins, and it is the same provider.
    let _first_wins = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        // Less than the gateway keeps an idle connection for: else a test that was stopped for a while (a machine that is
        // measured on, or asleep) would send into one that is just being closed.
        .pool_idle_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("client")
}
