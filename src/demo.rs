//! `aqueduct demo`: the whole product in one process against the vendor sandbox, and a report of what happened.
//!
//! A stranger to the gateway: it installs by the admin API, posts by HTTP and reads the ledger, as a user would.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::SharedClock;
use crate::config::Settings;
use crate::sandbox::Sandbox;
use crate::secret::Secret;

/// How long the report waits for the burst to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the demo; true when the ledger balances.
///
/// # Errors
/// When a listener cannot be bound or the gateway does not start.
pub async fn run(
    mut settings: Settings,
    clock: SharedClock,
    exit: bool,
    soft: CancellationToken,
    hard: CancellationToken,
) -> anyhow::Result<bool> {
    let directory = Directory::make()?;
    settings.data_dir.clone_from(&directory.0);
    let write_key = settings
        .write_key
        .get_or_insert_with(|| Secret::new(format!("wk_demo_{}", uuid::Uuid::new_v4().simple())))
        .clone();
    let admin_token = settings
        .admin_token
        .get_or_insert_with(|| Secret::new(format!("adm_demo_{}", uuid::Uuid::new_v4().simple())))
        .clone();

    let sandbox = Sandbox::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .context("the vendor sandbox")?;
    let sandbox_addr = sandbox.addr;
    let sandbox_stop = CancellationToken::new();
    tokio::spawn(sandbox.run(sandbox_stop.clone().cancelled_owned()));
    settings.egress_allow.push(sandbox_addr.to_string());

    let app = App::build(settings, clock).await?;
    let addresses = app.addresses();
    let gateway = tokio::spawn(app.run(soft.clone(), hard));
    #[expect(
        clippy::disallowed_methods,
        reason = "an outsider calling our own listeners, not the gateway calling out"
    )]
    let http = reqwest::Client::builder().no_proxy().build()?;
    let visitor = Visitor {
        http,
        ingest: local(addresses.ingest),
        admin: local(addresses.admin),
        sandbox: sandbox_addr,
        write_key,
        admin_token,
    };

    let integrations = visitor.install_all().await?;
    visitor.burst().await?;
    let balanced = visitor.report(&integrations).await?;
    if !exit {
        visitor.invite();
        soft.cancelled().await;
    }
    soft.cancel();
    gateway.await??;
    sandbox_stop.cancel();
    Ok(balanced)
}

/// A data directory that goes when the demo ends.
struct Directory(std::path::PathBuf);

impl Directory {
    fn make() -> anyhow::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("aqueduct-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_dir_all(&self.0);
    }
}

/// An address to call a listener by: the unspecified address becomes loopback.
fn local(addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], addr.port()))
    } else {
        addr
    }
}

/// Somebody outside the gateway, with its public addresses and credentials.
struct Visitor {
    http: reqwest::Client,
    ingest: SocketAddr,
    admin: SocketAddr,
    sandbox: SocketAddr,
    write_key: Secret,
    admin_token: Secret,
}

impl Visitor {
    async fn admin(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let mut request = self
            .http
            .request(method, format!("http://{}/v1/admin/{path}", self.admin))
            .bearer_auth(self.admin_token.expose());
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        anyhow::ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self
            .http
            .post(format!("http://{}{path}", self.ingest))
            .basic_auth(self.write_key.expose(), Some(""));
        let response = request
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await?;
        let status = response.status();
        let text = response.text().await?;
        anyhow::ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Installs every entry of the catalog against the sandbox; (id, name) of each.
    async fn install_all(&self) -> anyhow::Result<Vec<(String, String)>> {
        let catalog = self
            .admin(reqwest::Method::GET, "integration-catalog", None)
            .await?;
        let mut installed = Vec::new();
        for entry in catalog["data"].as_array().into_iter().flatten() {
            let vendor = entry["vendor"].as_str().unwrap_or_default();
            let (config, settings) = self.entered(vendor);
            for variant in entry["variants"].as_array().into_iter().flatten() {
                let variant = variant["variant"]
                    .as_str()
                    .or_else(|| variant.as_str())
                    .unwrap_or("default");
                if variant == "sdk" {
                    // Its revenue is in hundredths; the demo's events carry amounts.
                    continue;
                }
                let name = if variant == "default" {
                    entry["title"].as_str().unwrap_or(vendor).to_owned()
                } else {
                    format!("{vendor} {variant}")
                };
                let body = json!({"name": name, "variant": variant, "config": config, "settings": settings, "delivery_mode": "server_side"});
                let reply = self
                    .admin(
                        reqwest::Method::POST,
                        &format!("integration-catalog/{vendor}/install"),
                        Some(body),
                    )
                    .await?;
                installed.push((reply["id"].as_str().unwrap_or_default().to_owned(), name));
            }
        }
        Ok(installed)
    }

    /// What is entered for a vendor: config and settings.
    fn entered(&self, vendor: &str) -> (Value, Value) {
        match vendor {
            "optimizely" => (
                json!({"account_id": "12345678", "project_id": "98765432", "sdk_key": "demo", "datafile_url": format!("http://{}/optimizely/datafiles/demo.json", self.sandbox)}),
                json!({"events_url": format!("http://{}/optimizely/v1/events", self.sandbox), "batch_wait_ms": 200}),
            ),
            _ => (json!({}), json!({})),
        }
    }

    /// A realistic burst: orders in three currencies, signups, a repeated post, an event nobody can be found for,
    /// and an event key with the wrong capitals.
    async fn burst(&self) -> anyhow::Result<()> {
        let mut batch = Vec::new();
        for (i, (total, currency)) in [
            ("89.99", "GBP"),
            ("12800", "JPY"),
            ("4.125", "KWD"),
            ("19.99", "GBP"),
            ("0.29", "GBP"),
        ]
        .into_iter()
        .enumerate()
        {
            batch.push(json!({"type": "track", "event": "Order Completed", "userId": format!("user_{i}"), "messageId": format!("demo-order-{i}"),
                "context": {"traits": {"plan": "premium"}},
                "properties": {"order_id": format!("ORD-{}", 5521 + i), "total": serde_json::from_str::<Value>(total)?, "currency": currency, "products": [{"sku": "A", "quantity": 2}]}}));
        }
        for i in 0..20 {
            batch.push(json!({"type": "track", "event": "signup", "userId": format!("user_{i}"), "messageId": format!("demo-signup-{i}"), "properties": {"plan": "pro"}}));
        }
        batch.push(json!({"type": "track", "event": "signup", "userId": "user_0", "messageId": "demo-signup-0"}));
        batch.push(json!({"type": "track", "event": "Signup", "userId": "user_1", "messageId": "demo-wrong-capitals"}));
        batch.push(json!({"type": "identify", "userId": "user_1", "traits": {"plan": "premium"}, "messageId": "demo-identify"}));
        batch.push(json!({"type": "track", "event": "signup", "messageId": "demo-nobody"}));
        let reply = self.post("/v1/batch", &json!({"batch": batch})).await?;
        println!(
            "\nPosted one batch of {} events: {} accepted, {} rejected",
            batch.len(),
            reply["accepted"],
            reply["rejected"].as_array().map_or(0, Vec::len)
        );
        for fault in reply["rejected"].as_array().into_iter().flatten() {
            println!(
                "  rejected #{}: {} ({})",
                fault["index"],
                fault["message"].as_str().unwrap_or_default(),
                fault["code"].as_str().unwrap_or_default()
            );
        }
        Ok(())
    }

    /// Waits until the burst has arrived, then says what each vendor received and whether the books balance.
    async fn report(&self, integrations: &[(String, String)]) -> anyhow::Result<bool> {
        let began = tokio::time::Instant::now();
        let mut ledger = self.admin(reqwest::Method::GET, "ledger", None).await?;
        // The event key with the wrong capitals is held for a quarter of an hour: one pending event is the right end.
        while began.elapsed() < PATIENCE
            && ledger["data"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|row| row["pending"].as_u64() > Some(1))
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
            ledger = self.admin(reqwest::Method::GET, "ledger", None).await?;
        }
        let received = self
            .http
            .get(format!(
                "http://{}/_sandbox/optimizely/summary",
                self.sandbox
            ))
            .send()
            .await?
            .text()
            .await?;
        let received: Value = serde_json::from_str(&received)?;
        println!(
            "\nOptimizely received {} events in {} requests:",
            received["unique_events"], received["requests"]["taken"]
        );
        for (key, row) in received["keys"].as_object().into_iter().flatten() {
            println!(
                "  {key:<16} {:>4} events   revenue {:>9} hundredths",
                row["counted"], row["revenue"]
            );
        }
        println!("\nLedger");
        for row in ledger["data"].as_array().into_iter().flatten() {
            let id = row["integration"].as_str().unwrap_or_default();
            let name = integrations
                .iter()
                .find(|(known, _)| known == id)
                .map_or(id, |(_, name)| name.as_str());
            println!(
                "  {name}: accepted {} = delivered {} + skipped {} + deduplicated {} + dead {} + pending {}",
                row["accepted"],
                row["delivered"],
                row["skipped"],
                row["deduplicated"],
                row["dead"],
                row["pending"]
            );
        }
        let balanced = ledger["balanced"] == json!(true);
        println!(
            "  {}",
            if balanced {
                "the books balance"
            } else {
                "THE BOOKS DO NOT BALANCE"
            }
        );
        Ok(balanced)
    }

    /// How to go on by hand.
    fn invite(&self) {
        let (key, token) = (self.write_key.expose(), self.admin_token.expose());
        println!("\nThe gateway stays up. Post an event, then read its story:");
        println!(
            "  curl -u {key}: http://{}/v1/track -d '{{\"event\":\"Order Completed\",\"userId\":\"user_9\",\"messageId\":\"mine-1\",\"properties\":{{\"total\":89.99,\"currency\":\"GBP\"}}}}'",
            self.ingest
        );
        println!(
            "  curl -H 'Authorization: Bearer {token}' http://{}/v1/admin/events/mine-1",
            self.admin
        );
        println!(
            "  curl -H 'Authorization: Bearer {token}' http://{}/v1/admin/ledger",
            self.admin
        );
        println!(
            "The vendor sandbox is at http://{} (its log: /_sandbox/requests). Stop with Ctrl-C.",
            self.sandbox
        );
    }
}
