//! A gateway and a vendor sandbox on loopback ports, with Optimizely installed; and the reconciliation of every
//! acknowledged id at the vendor.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::generator::{Ids, Load};
use super::http;
use super::process::Process;

/// The token of all calls.
pub(crate) const ADMIN_TOKEN: &str = "load-harness-admin-token-0123456789abcdef";
const WRITE_KEY: &str = "load-harness-write-key-0123456789abcdef";
/// When the vendor gets nothing new for so long, nothing more will come (retries wait 60 s at most).
const STALL_MAX: Duration = Duration::from_secs(90);
/// Uuids asked about in one call.
const ASK_MAX: usize = 200_000;

/// The set-up.
#[derive(Debug)]
pub(crate) struct Lab {
    binary: PathBuf,
    dir: PathBuf,
    sandbox: Process,
    gateway: Option<Process>,
    /// Settings besides the usual ones, from the next start on.
    more: Vec<(&'static str, String)>,
}

/// What reconciling found.
#[derive(Debug)]
pub(crate) struct Reconciled {
    /// Ids acknowledged.
    pub(crate) acked: u64,
    /// Of these, never seen at the vendor.
    pub(crate) missing: u64,
    /// Some of those.
    pub(crate) sample: Vec<String>,
    /// The vendor's own counts.
    pub(crate) summary: Value,
}

impl Lab {
    /// Starts a sandbox and a gateway with an empty data directory inside `dir`.
    pub(crate) fn open(binary: &Path, dir: &Path) -> Result<Self> {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let sandbox = Process::start(
            binary,
            &["sandbox", "--listen", "127.0.0.1:0"],
            &[],
            &dir.join("sandbox.log"),
        )?;
        let mut lab = Self {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            sandbox,
            gateway: None,
            more: Vec::new(),
        };
        lab.start_gateway()?;
        Ok(lab)
    }

    /// Starts the gateway on the data directory as it is; the time until it was ready.
    pub(crate) fn start_gateway(&mut self) -> Result<Duration> {
        let listen = || "127.0.0.1:0".to_owned();
        let mut settings = vec![
            ("AQUEDUCT_DATA_DIR", self.data().display().to_string()),
            ("AQUEDUCT_INGEST_LISTEN", listen()),
            ("AQUEDUCT_ADMIN_LISTEN", listen()),
            ("AQUEDUCT_METRICS_LISTEN", listen()),
            ("AQUEDUCT_ADMIN_TOKEN", ADMIN_TOKEN.to_owned()),
            ("AQUEDUCT_WRITE_KEY", WRITE_KEY.to_owned()),
            ("AQUEDUCT_EGRESS_ALLOW", "127.0.0.0/8".to_owned()),
            ("AQUEDUCT_LOG", "warn".to_owned()),
        ];
        settings.extend(self.more.iter().cloned());
        let started = Instant::now();
        let gateway = Process::start(
            &self.binary,
            &["serve"],
            &settings,
            &self.dir.join("gateway.log"),
        )?;
        let metrics = gateway.address("metrics")?;
        loop {
            let (status, body) = http::call(&metrics, "GET", "/readyz", None, b"")?;
            if status == 200 {
                break;
            }
            if started.elapsed() > Duration::from_secs(60) {
                bail!("/readyz: {status} {}", String::from_utf8_lossy(&body));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.gateway = Some(gateway);
        Ok(started.elapsed())
    }

    /// The gateway's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A setting besides the usual ones, from the next start on.
    pub(crate) fn set(&mut self, name: &'static str, value: String) {
        self.more.push((name, value));
    }

    /// The running gateway.
    pub(crate) fn gateway(&mut self) -> Result<&mut Process> {
        self.gateway.as_mut().context("the gateway is not running")
    }

    /// The running gateway, taken out to be stopped.
    pub(crate) fn take_gateway(&mut self) -> Result<Process> {
        self.gateway.take().context("the gateway is not running")
    }

    /// Where the sandbox listens.
    pub(crate) fn sandbox_address(&self) -> Result<String> {
        self.sandbox.address("sandbox")
    }

    /// CPU time of the sandbox.
    pub(crate) fn sandbox_cpu(&self) -> Result<Duration> {
        self.sandbox.cpu()
    }

    /// An admin call that has to succeed.
    pub(crate) fn admin(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let address = self.gateway()?.address("admin")?;
        let path = format!("/v1/admin/{path}");
        http::json(&address, method, &path, Some(ADMIN_TOKEN), body)
    }

    /// A control call of the sandbox that has to succeed.
    pub(crate) fn control(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let address = self.sandbox.address("sandbox")?;
        http::json(&address, method, &format!("/_sandbox/{path}"), None, body)
    }

    /// Installs Optimizely, pointing at the sandbox's door with this label ("" = the plain one). The integration's id.
    pub(crate) fn install(&mut self, label: &str) -> Result<String> {
        let sandbox = self.sandbox.address("sandbox")?;
        let door = if label.is_empty() {
            String::new()
        } else {
            format!("/at/{label}")
        };
        let body = json!({
            "name": format!("Optimizely {label}").trim(),
            "variant": "default",
            "config": {
                "account_id": "12345678",
                "project_id": "98765432",
                "sdk_key": "demo",
                "datafile_url": format!("http://{sandbox}{door}/optimizely/datafiles/demo.json"),
                "events_url": format!("http://{sandbox}{door}/optimizely/v1/events"),
            },
            "delivery_mode": "server_side",
        });
        let installed = self.admin("POST", "integration-catalog/optimizely/install", &body)?;
        installed["id"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("no id in {installed}"))
    }

    /// A load at the gateway, to be filled in.
    pub(crate) fn load(&mut self, run: u32) -> Result<Load> {
        let address: SocketAddr = self.gateway()?.address("ingest")?.parse()?;
        Ok(Load {
            address,
            key: WRITE_KEY.to_owned(),
            batch: 1,
            connections: 256,
            posts_per_second: None,
            events_max: u64::MAX,
            time_max: Duration::from_secs(10),
            run,
        })
    }

    /// The sandbox's counts at a door.
    pub(crate) fn summary(&self, label: &str) -> Result<Value> {
        self.control(
            "GET",
            &format!("optimizely/summary?at={label}"),
            &Value::Null,
        )
    }

    /// The id of the source all loads post as.
    fn source(&mut self) -> Result<String> {
        let sources = self.admin("GET", "sources", &Value::Null)?;
        sources["data"]
            .as_array()
            .and_then(|list| list.iter().find(|source| source["name"] == "default"))
            .and_then(|source| source["id"].as_str())
            .map(str::to_owned)
            .with_context(|| format!("no source `default` in {sources}"))
    }

    /// Waits until every acknowledged id is at the vendor, at most `most` and not when nothing moves; then says what
    /// is there.
    pub(crate) fn reconcile(
        &mut self,
        acked: &[Ids],
        label: &str,
        most: Duration,
    ) -> Result<Reconciled> {
        let source = self.source()?;
        let count: u64 = acked.iter().map(Ids::len).sum();
        let until = Instant::now() + most;
        let mut moved = (0, Instant::now());
        loop {
            let summary = self.summary(label)?;
            let unique = summary["unique_events"].as_u64().unwrap_or(0);
            if unique != moved.0 {
                moved = (unique, Instant::now());
            }
            let late = Instant::now() > until || moved.1.elapsed() > STALL_MAX;
            if unique >= count || late {
                let (missing, sample) = self.missing(&source, acked, label)?;
                if missing == 0 || late {
                    return Ok(Reconciled {
                        acked: count,
                        missing,
                        sample,
                        summary,
                    });
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn missing(&self, source: &str, acked: &[Ids], label: &str) -> Result<(u64, Vec<String>)> {
        let address = self.sandbox.address("sandbox")?;
        let path = format!("/_sandbox/optimizely/missing?at={label}");
        let (mut missing, mut sample) = (0, Vec::new());
        let mut ids = acked.iter().flat_map(Ids::iter).peekable();
        while ids.peek().is_some() {
            let mut body = String::with_capacity(ASK_MAX * 37);
            for id in ids.by_ref().take(ASK_MAX) {
                body.push_str(&aqueduct::event::event_id(source, &id).to_string());
                body.push('\n');
            }
            let (status, answer) = http::call(&address, "POST", &path, None, body.as_bytes())?;
            let answer: Value = serde_json::from_slice(&answer)
                .with_context(|| format!("{path} answered {status}"))?;
            missing += answer["missing"].as_u64().context("missing")?;
            if sample.is_empty() {
                sample = answer["sample"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|uuid| uuid.as_str().map(str::to_owned))
                    .take(3)
                    .collect();
            }
        }
        Ok((missing, sample))
    }

    /// Faults of the gateway's own ledger: a row that does not balance. Waits up to `most` for nothing pending.
    pub(crate) fn ledger_faults(&mut self, most: Duration) -> Result<Vec<String>> {
        let until = Instant::now() + most;
        loop {
            let ledger = self.admin("GET", "ledger", &Value::Null)?;
            let rows = rows(&ledger);
            if rows.is_empty() {
                bail!("no rows in the ledger: {ledger}");
            }
            let pending = |row: &Value| row["pending"].as_u64() != Some(0);
            if Instant::now() < until && rows.iter().any(pending) {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            return Ok(rows
                .iter()
                .filter(|row| row["balanced"] != json!(true) || pending(row))
                .map(ToString::to_string)
                .collect());
        }
    }

    /// Removes what was written.
    pub(crate) fn clean(self) {
        let dir = self.dir.clone();
        drop(self);
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Every object with a `pending` field.
fn rows(value: &Value) -> Vec<Value> {
    match value {
        Value::Object(object) if object.contains_key("pending") => vec![value.clone()],
        Value::Object(object) => object.values().flat_map(rows).collect(),
        Value::Array(list) => list.iter().flat_map(rows).collect(),
        _ => Vec::new(),
    }
}
