//! What only a process can show: settings refused, one process a directory, signals, kill -9.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{ADMIN_TOKEN, WRITE_KEY, client};
use crate::support::process::{Process, command};

async fn post(http: &reqwest::Client, gateway: &Process, message_id: &str) -> bool {
    let body = json!({"event": "signup", "userId": "u-1", "messageId": message_id}).to_string();
    match http
        .post(format!("http://{}/v1/track", gateway.ingest))
        .basic_auth(WRITE_KEY, Some(""))
        .body(body)
        .send()
        .await
    {
        Ok(reply) => reply.status() == 200,
        Err(_) => false,
    }
}

async fn story(http: &reqwest::Client, gateway: &Process, message_id: &str) -> (u16, Value) {
    let reply = http
        .get(format!(
            "http://{}/v1/admin/events/{message_id}",
            gateway.admin
        ))
        .bearer_auth(ADMIN_TOKEN)
        .send()
        .await
        .expect("admin answers");
    (
        reply.status().as_u16(),
        serde_json::from_str(&reply.text().await.expect("body")).expect("JSON"),
    )
}

#[test]
fn bad_settings_are_all_named_before_a_port_is_bound() {
    let dir = tempfile::tempdir().expect("dir");
    let output = command(dir.path(), "")
        .env("AQUEDUCT_DRAIN_S", "soon")
        .env("AQUEDUCT_LOG_FORMAT", "xml")
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("drain_s") && said.contains("log_format"),
        "{said}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let first = Process::start(dir.path(), "");
    let output = command(dir.path(), "").output().expect("runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&dir.path().display().to_string()), "{said}");
    first.terminate();
    assert!(first.wait(Duration::from_secs(10)).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_nine() {
    let dir = tempfile::tempdir().expect("dir");
    let http = client();
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let gateway = Process::start(dir.path(), "");
        let posts = (0..64).map(|i| {
            let (http, gateway, id) = (http.clone(), &gateway, format!("m-{round}-{i}"));
            async move { post(&http, gateway, &id).await.then_some(id) }
        });
        acknowledged.extend(
            futures_util::future::join_all(posts)
                .await
                .into_iter()
                .flatten(),
        );
        gateway.kill();
    }
    assert_eq!(acknowledged.len(), 4 * 64);
    let gateway = Process::start(dir.path(), "");
    for id in &acknowledged {
        let (status, reply) = story(&http, &gateway, id).await;
        assert_eq!(status, 200, "{id} was acknowledged and is gone: {reply}");
    }
    gateway.terminate();
    assert!(gateway.wait(Duration::from_secs(10)).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_answer_on_their_own_listener() {
    let dir = tempfile::tempdir().expect("dir");
    let http = client();
    let gateway = Process::start(dir.path(), "");
    assert!(post(&http, &gateway, "m-1").await);
    for path in ["livez", "readyz"] {
        assert_eq!(
            http.get(format!("http://{}/{path}", gateway.metrics))
                .send()
                .await
                .expect("answer")
                .status(),
            200
        );
    }
    let text = http
        .get(format!("http://{}/metrics", gateway.metrics))
        .send()
        .await
        .expect("answer")
        .text()
        .await
        .expect("text");
    assert!(
        text.contains("aqueduct_events_accepted_total{") && text.contains("type=\"track\"} 1"),
        "{text}"
    );
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_aqueduct"))
        .arg("healthcheck")
        .env("AQUEDUCT_METRICS_LISTEN", gateway.metrics.to_string())
        .status()
        .expect("runs");
    assert!(status.success());
    gateway.terminate();
    assert!(gateway.wait(Duration::from_secs(10)).success());
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_aqueduct"))
        .arg("healthcheck")
        .env("AQUEDUCT_METRICS_LISTEN", "127.0.0.1:1")
        .status()
        .expect("runs");
    assert!(!status.success());
}
