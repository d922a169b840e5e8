//! Flag decisions from where apps make them into the journal: an Agent's stream that breaks, and the real SDKs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Setup, TestApp};

/// Everything in a stopped gateway's journal, in order.
pub(crate) fn stored(data_dir: &Path) -> Vec<Value> {
    let mut out = Vec::new();
    aqueduct::journal::inspect::export(data_dir, 0..u64::MAX, &mut out).expect("readable journal");
    let text = String::from_utf8(out).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/optimizely")
        .join(name)
}

fn notification(n: usize) -> String {
    let info = json!({"flagKey": "f", "enabled": true, "variationKey": "a", "ruleKey": "", "variables": {}, "reasons": []});
    let context =
        json!({"ID": format!("u-{n}"), "Attributes": {"ż": n}, "QualifiedSegments": null});
    format!(
        "data: {}\n\n",
        json!({"Type": "flag", "UserContext": context, "DecisionInfo": info})
    )
}

/// Plays an Agent: each connection is answered by its number.
async fn agent(listener: TcpListener, connections: Arc<AtomicUsize>) {
    loop {
        let (socket, _) = listener.accept().await.expect("accept");
        let n = connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(answer(socket, n));
    }
}

async fn answer(mut socket: TcpStream, n: usize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).await.expect("a request");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("ASCII").to_lowercase();
    let (path, key) = (
        "get /v1/notifications/event-stream?filter=decision http/1.1\r\n",
        "x-optimizely-sdk-key: sdkkey_1234567890ab\r\n",
    );
    if !head.starts_with(path) || !head.contains(key) {
        let _ = socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .await;
        return;
    }
    let open = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let (text, then_hold) = match n {
        0 => (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
        ),
        // Fifty, and half of one more, that was never read as a whole.
        1 => {
            let half = notification(999);
            let half = &half[..half.len() / 2];
            (
                open.to_owned() + &(0..50).map(notification).collect::<String>() + half,
                false,
            )
        }
        2 => (open.to_owned(), false),
        _ => {
            let others = [
                "data: {\"Type\":\"feature\",\"UserContext\":{\"ID\":\"u\"},\"DecisionInfo\":{\"featureKey\":\"f\"}}\n\n",
                "data: {\"Type\":\"project_config_update\",\"Revision\":\"7\"}\n\n",
                "data: {broken\n\n",
                ": still here\n\n",
            ];
            (
                open.to_owned()
                    + &others.concat()
                    + &(50..100).map(notification).collect::<String>(),
                true,
            )
        }
    };
    // In odd pieces, so that lines and characters are cut.
    for piece in text.as_bytes().chunks(97) {
        if socket.write_all(piece).await.is_err() {
            return;
        }
    }
    if then_hold {
        // Until the listener hangs up.
        let _ = socket.read(&mut [0]).await;
    }
}

/// The value of a metric with this source label, and these other labels.
async fn metric(app: &TestApp, name: &str, source: &str, label: &str) -> f64 {
    let text = app
        .http
        .get(format!("http://{}/metrics", app.metrics))
        .send()
        .await
        .expect("metrics answer")
        .text()
        .await
        .expect("text");
    text.lines()
        .filter(|line| {
            line.starts_with(&format!("{name}{{")) && line.contains(source) && line.contains(label)
        })
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_stream_is_taken_up_again_and_nothing_read_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address: SocketAddr = listener.local_addr().expect("address");
    let connections = Arc::new(AtomicUsize::new(0));
    let playing = tokio::spawn(agent(listener, connections.clone()));
    let dir = tempfile::tempdir().expect("dir");
    let setup = || Setup {
        data_dir: Some(dir.path().to_owned()),
        environment: vec![("AQUEDUCT_EGRESS_ALLOW", address.to_string())],
        ..Setup::default()
    };
    let app = TestApp::start_with(setup()).await;
    let agent = json!({"url": format!("http://{address}/"), "sdk_key": "sdkkey_1234567890ab"});
    for (bad, field) in [
        (
            json!({"url": "http://10.0.0.1", "sdk_key": "abc"}),
            "agent.url",
        ),
        (
            json!({"url": format!("http://{address}"), "sdk_key": "not a key"}),
            "agent.sdk_key",
        ),
        (
            json!({"url": format!("http://{address}"), "sdk_key": "abc", "filter": "track"}),
            "agent.filter",
        ),
    ] {
        let body = json!({"name": "agent", "agent": bad});
        let (status, reply) = app.admin("POST", "sources", Some(body)).await;
        assert_eq!(status, 422, "{reply}");
        assert!(reply.to_string().contains(field), "{reply}");
    }
    let body = json!({"name": "agent", "agent": agent});
    let (status, reply) = app.admin("POST", "sources", Some(body)).await;
    assert_eq!(status, 201, "{reply}");
    let source = reply["id"].as_str().expect("id").to_owned();
    let shown =
        json!({"url": format!("http://{address}"), "sdk_key": "…90ab", "filter": "decision"});
    assert_eq!(reply["agent"], shown);
    let (_, listed) = app.admin("GET", "sources", None).await;
    assert!(!listed.to_string().contains("sdkkey_1234567890ab"));

    let began = Instant::now();
    let accepted = "aqueduct_events_accepted_total";
    while metric(&app, accepted, &source, "decision").await < 100.0 {
        assert!(began.elapsed() < Duration::from_secs(30), "{connections:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let of = async |name: &str, label: &str| metric(&app, name, &source, label).await;
    assert_eq!(of("aqueduct_agent_stream_connected", "").await, 1.0);
    // Unheard three times: from the start, and after each of the two cuts.
    assert_eq!(of("aqueduct_agent_stream_gaps_total", "").await, 3.0);
    assert_eq!(
        of("aqueduct_agent_stream_connects_total", "opened").await,
        3.0
    );
    assert_eq!(
        of("aqueduct_agent_stream_connects_total", "refused").await,
        1.0
    );
    assert_eq!(
        of("aqueduct_events_rejected_total", "legacy_decision_type").await,
        1.0
    );
    assert_eq!(of("aqueduct_events_rejected_total", "bad_json").await, 1.0);

    // A restart goes on with the key from the database; without the source nobody listens.
    let before = connections.load(Ordering::SeqCst);
    app.halt().await;
    let app = TestApp::start_with(setup()).await;
    let began = Instant::now();
    while connections.load(Ordering::SeqCst) == before
        || metric(&app, accepted, &source, "decision").await < 150.0
    {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, _) = app
        .admin("DELETE", &format!("sources/{source}"), None)
        .await;
    assert_eq!(status, 204);
    let began = Instant::now();
    while metric(&app, "aqueduct_agent_stream_connected", &source, "").await > 0.0 {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    app.halt().await;
    playing.abort();

    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for event in stored(dir.path()) {
        assert_eq!(
            (&event["type"], &event["decision"]["origin"]),
            (&json!("decision"), &json!("agent"))
        );
        let user = event["userId"].as_str().expect("user").to_owned();
        let n: Value = user.trim_start_matches("u-").parse().expect("number");
        assert_eq!(event["decision"]["attributes"], json!({"ż": n}));
        *seen.entry(user).or_default() += 1;
    }
    let wanted: BTreeMap<String, u32> = (0..100)
        .map(|n| (format!("u-{n}"), if n < 50 { 1 } else { 2 }))
        .collect();
    assert_eq!(seen, wanted);
}

#[test]
fn the_listeners_in_the_docs_are_those_that_are_tried() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let page = std::fs::read_to_string(root.join("listeners.md")).expect("page");
    for file in [
        "aqueduct-listener.mjs",
        "aqueduct_listener.py",
        "AqueductListener.java",
        "aqueduct.go",
        "AqueductListener.cs",
    ] {
        let code = std::fs::read_to_string(root.join("listeners").join(file)).expect("listener");
        assert!(page.contains(&code), "docs/listeners.md has another {file}");
    }
}
