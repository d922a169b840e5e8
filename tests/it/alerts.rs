//! Alerts leave a running gateway signed as Standard Webhooks, outlive `kill -9`, and are told once.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use aqueduct::sandbox::Sandbox;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::app::{ADMIN_TOKEN, client};
use crate::support::process::Process;

const PATIENCE: Duration = Duration::from_secs(60);

/// A notice as it arrived, and what was answered.
struct Arrived {
    headers: Value,
    body: String,
    status: u16,
}

impl Arrived {
    fn id(&self) -> &str {
        self.headers["webhook-id"].as_str().expect("webhook-id")
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Somebody's webhook endpoint.
struct Receiver {
    addr: SocketAddr,
    answer: Arc<AtomicU16>,
    arrived: mpsc::UnboundedReceiver<Arrived>,
}

impl Receiver {
    async fn start() -> Self {
        let (sender, arrived) = mpsc::unbounded_channel();
        let answer = Arc::new(AtomicU16::new(204));
        let says = Arc::clone(&answer);
        let hook = move |headers: HeaderMap, body: String| async move {
            let status = says.load(Ordering::SeqCst);
            let headers = headers
                .iter()
                .map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text"))))
                .collect::<serde_json::Map<_, _>>();
            let _test_over = sender.send(Arrived {
                headers: headers.into(),
                body,
                status,
            });
            StatusCode::from_u16(status).expect("status")
        };
        let router = axum::Router::new().route("/hook", axum::routing::post(hook));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("port");
        let addr = listener.local_addr().expect("address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            addr,
            answer,
            arrived,
        }
    }

    fn answers(&self, status: u16) {
        self.answer.store(status, Ordering::SeqCst);
    }

    async fn next(&mut self) -> Arrived {
        let next = tokio::time::timeout(PATIENCE, self.arrived.recv()).await;
        next.expect("a notice in time").expect("open")
    }
}

async fn admin(gateway: &Process, method: &str, path: &str, body: Value) -> Value {
    let reply = client()
        .request(
            method.parse().expect("method"),
            format!("http://{}/v1/admin/{path}", gateway.admin),
        )
        .bearer_auth(ADMIN_TOKEN)
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .expect("admin answers");
    let status = reply.status();
    let text = reply.text().await.expect("body");
    assert!(status.is_success(), "{method} {path}: {status} {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// Has both official packages verify a notice.
fn verify(secret: &str, notice: &Arrived) {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/sdk");
    assert!(
        cache.join("stamp").exists(),
        "the packages are not installed: run `make test`, or tests/sdk/install.sh first"
    );
    let given =
        json!({ "secret": secret, "headers": notice.headers, "body": notice.body }).to_string();
    let python = cache.join("venv/bin/python");
    for (program, script) in [
        (Path::new("node"), "standard-webhooks.mjs"),
        (python.as_path(), "standard_webhooks.py"),
    ] {
        let mut child = Command::new(program)
            .arg(cache.join(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("verifier starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(given.as_bytes()).expect("given");
        drop(stdin);
        let output = child.wait_with_output().expect("verifier ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
        let read: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(read, notice.json(), "{script}");
    }
}

/// An alert's row of the API, once its notice was taken.
async fn told(gateway: &Process, alert: &Value) -> Value {
    let path = "alerts/state?endpoint=ops";
    let began = std::time::Instant::now();
    loop {
        let state = admin(gateway, "GET", path, Value::Null).await;
        let rows = state["data"].as_array().expect("rows");
        let row = rows
            .iter()
            .find(|row| row["id"] == *alert)
            .expect("the alert");
        if row["sent"][0]["state"] == "sent" {
            return row.clone();
        }
        assert!(began.elapsed() < PATIENCE, "{row}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_survives_kill_nine_is_told_once_and_verifies_with_the_official_packages() {
    let dir = tempfile::tempdir().expect("dir");
    let stop = CancellationToken::new();
    let sandbox = Sandbox::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("sandbox");
    let vendor = sandbox.addr;
    tokio::spawn(sandbox.run(stop.clone().cancelled_owned()));
    let mut receiver = Receiver::start().await;
    let egress = format!("{vendor},{}", receiver.addr);
    let gateway = Process::start(dir.path(), &egress);

    let install = json!({
        "name": "Optimizely", "variant": "default", "delivery_mode": "server_side",
        "settings": { "events_url": format!("http://{vendor}/optimizely/v1/events") },
        "config": {
            "account_id": "12345678", "project_id": "98765432", "sdk_key": "demo",
            "datafile_url": format!("http://{vendor}/optimizely/datafiles/demo.json"),
        },
    });
    let installed = admin(
        &gateway,
        "POST",
        "integration-catalog/optimizely/install",
        install,
    )
    .await;
    let integration = installed["id"].as_str().expect("id").to_owned();
    let endpoint = json!({
        "url": format!("http://{}/hook", receiver.addr),
        "rules": { "integration_paused": { "above_s": 0 } },
        "resolve_after_s": 0,
    });
    let made = admin(&gateway, "PUT", "alerts/ops", endpoint).await;
    let secret = made["secret"].as_str().expect("shown once").to_owned();

    let tested = admin(&gateway, "POST", "alerts/ops/test", Value::Null).await;
    let test = receiver.next().await;
    assert_eq!(
        (tested["state"].as_str(), tested["id"].as_str()),
        (Some("sent"), Some(test.id()))
    );
    assert_eq!(test.json()["type"], "alert.test");
    verify(&secret, &test);

    // Raised while its receiver is down, and the process dies.
    receiver.answers(503);
    let pause = json!({ "reason": "a test" });
    admin(
        &gateway,
        "POST",
        &format!("integrations/{integration}/pause"),
        pause,
    )
    .await;
    let refused = receiver.next().await;
    assert_eq!(refused.json()["type"], "alert.firing");
    gateway.kill();

    receiver.answers(204);
    let gateway = Process::start(dir.path(), &egress);
    let firing = loop {
        let next = receiver.next().await;
        assert_eq!(
            (next.id(), &next.body),
            (refused.id(), &refused.body),
            "the same on every attempt"
        );
        if next.status == 204 {
            break next;
        }
    };
    verify(&secret, &firing);
    let data = &firing.json()["data"];
    assert_eq!(
        (data["rule"].as_str(), data["reason"].as_str()),
        (Some("integration_paused"), Some("admin"))
    );
    assert_eq!(
        data["integration"],
        json!({ "id": integration, "name": "Optimizely" })
    );
    let row = told(&gateway, &data["alert"]).await;
    assert_eq!(
        (&row["state"], &row["notices"]),
        (&json!("firing"), &json!(1)),
        "{row}"
    );
    // The gateway's own watch says the same to whoever asks.
    let own = admin(&gateway, "GET", "alerts/state?state=firing", Value::Null).await;
    let rules: Vec<&Value> = own["data"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| &row["rule"])
        .collect();
    assert_eq!(rules, ["integration_paused"], "{own}");

    admin(
        &gateway,
        "POST",
        &format!("integrations/{integration}/resume"),
        Value::Null,
    )
    .await;
    let resolved = receiver.next().await;
    assert_eq!(
        resolved.json()["type"],
        "alert.resolved",
        "nothing was told in between"
    );
    assert_eq!(resolved.json()["data"]["alert"], data["alert"]);
    assert_ne!(resolved.id(), firing.id());
    verify(&secret, &resolved);
    gateway.terminate();
    assert!(gateway.wait(Duration::from_secs(10)).success());
    stop.cancel();
}

/// A source that stops posting is told of once, over a restart too, and again when it posts: through the front door.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_is_told_of_once_over_a_restart_and_is_over_when_it_posts() {
    let dir = tempfile::tempdir().expect("dir");
    let mut receiver = Receiver::start().await;
    let egress = receiver.addr.to_string();
    let gateway = Process::start(dir.path(), &egress);
    let endpoint = json!({
        "url": format!("http://{}/hook", receiver.addr),
        "rules": { "source_silent": { "above_s": 2 } },
        "resolve_after_s": 0,
    });
    admin(&gateway, "PUT", "alerts/ops", endpoint).await;
    let spec = json!({ "name": "shop" });
    let source = admin(&gateway, "POST", "sources", spec).await;
    let key = source["write_key"].as_str().expect("a key").to_owned();

    post(&gateway, &key).await;
    let firing = receiver.next().await.json();
    assert_eq!(firing["type"], "alert.firing");
    let data = &firing["data"];
    assert_eq!(data["rule"], "source_silent", "{firing}");
    assert_eq!(data["source"]["name"], "shop", "{firing}");
    told(&gateway, &data["alert"]).await;
    gateway.terminate();
    assert!(gateway.wait(Duration::from_secs(10)).success());

    // It has been silent ever since, and nobody is told of that again: what comes next is its end.
    let gateway = Process::start(dir.path(), &egress);
    let open = admin(&gateway, "GET", "alerts/state?endpoint=ops", Value::Null).await;
    assert_eq!(open["data"][0]["state"], "firing", "{open}");
    let resolved = loop {
        post(&gateway, &key).await;
        let soon = Duration::from_millis(200);
        if let Ok(next) = tokio::time::timeout(soon, receiver.arrived.recv()).await {
            break next.expect("open").json();
        }
    };
    assert_eq!(resolved["type"], "alert.resolved", "{resolved}");
    assert_eq!(resolved["data"]["alert"], data["alert"]);
    gateway.terminate();
    assert!(gateway.wait(Duration::from_secs(10)).success());
}

async fn post(gateway: &Process, key: &str) {
    let event = json!({ "userId": "u-1", "event": "Order Completed" });
    let reply = client()
        .post(format!("http://{}/v1/track", gateway.ingest))
        .basic_auth(key, Some(""))
        .header("content-type", "application/json")
        .body(event.to_string())
        .send()
        .await
        .expect("ingest answers");
    assert_eq!(reply.status(), 200);
}

#[test]
fn the_documented_receivers_are_the_ones_that_are_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("a file");
    let guide = read("docs/alerts.md");
    for (path, mark) in [
        ("tests/sdk/standard-webhooks.mjs", "// receiver"),
        ("tests/sdk/standard_webhooks.py", "# receiver"),
    ] {
        let text = read(path);
        let (_, rest) = text.split_once(&format!("{mark}\n")).expect("its begin");
        let (code, _) = rest.split_once(&format!("{mark} end")).expect("its end");
        assert!(code.lines().filter(|line| !line.is_empty()).count() <= 6);
        assert!(
            guide.contains(code),
            "docs/alerts.md lacks the lines of {path}"
        );
    }
}
