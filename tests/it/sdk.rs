//! The stock SDKs, from npm and PyPI, posting through a running gateway to the sandbox, also across a restart.
//!
//! `make test` installs them first (tests/sdk/install.sh).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::app::WRITE_KEY;
use crate::support::{Setup, TestApp};

/// Events each driver posts.
const COUNT: u64 = 120;

fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/sdk")
}

/// A driver by name, ready for its arguments.
fn driver(name: &str) -> Command {
    let cache = cache();
    assert!(
        cache.join("stamp").exists(),
        "the SDKs are not installed: run `make test`, or tests/sdk/install.sh first"
    );
    let mut command = match name {
        "segment_python" => Command::new(cache.join("venv/bin/python")),
        _ => Command::new("node"),
    };
    command.arg(cache.join(match name {
        "segment_python" => "segment_python.py".to_owned(),
        other => format!("{other}.mjs"),
    }));
    command
}

async fn run(name: &'static str, plain: bool) {
    let app = TestApp::start().await;
    let id = app.install_optimizely("Optimizely", json!({})).await;
    let mut command = driver(name);
    command.args([
        "--host",
        &format!("http://{}", app.ingest),
        "--write-key",
        WRITE_KEY,
        "--count",
        &COUNT.to_string(),
    ]);
    if plain {
        command.arg("--plain");
    }
    let output = tokio::task::spawn_blocking(move || command.output().expect("driver runs"))
        .await
        .expect("join");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value =
        serde_json::from_str(said.lines().last().unwrap_or_default()).expect("one JSON line");
    let row = app.settled(&id).await;
    assert_eq!(
        row["accepted"].as_u64(),
        report["sent"].as_u64(),
        "{row} {report}"
    );
    let summary = app.optimizely().await;
    assert_eq!(
        summary["keys"]["purchase"]["revenue"], report["revenue_hundredths"],
        "{summary} {report}"
    );
    assert_eq!(summary["would_not_count"], json!({}), "{summary}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segment_node_delivers_everything() {
    run("segment-node", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segment_python_delivers_everything_gzipped_and_plain() {
    run("segment_python", false).await;
    run("segment_python", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rudder_node_delivers_everything_gzipped_and_plain() {
    run("rudder-node", false).await;
    run("rudder-node", true).await;
}

/// The SDK posts half, the gateway stops and comes back at the same address, the SDK posts the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_costs_no_sdk_error() {
    for name in ["segment-node", "segment_python", "rudder-node"] {
        let dir = tempfile::tempdir().expect("dir");
        let setup = |listen: String, sandbox| Setup {
            data_dir: Some(dir.path().to_owned()),
            sandbox,
            environment: vec![("AQUEDUCT_INGEST_LISTEN", listen)],
        };
        let app = TestApp::start_with(setup("127.0.0.1:0".to_owned(), None)).await;
        let id = app.install_optimizely("Optimizely", json!({})).await;
        let (address, sandbox) = (app.ingest, app.sandbox);
        let pause = dir.path().join("pause");
        let mut command = driver(name);
        command
            .args([
                "--host",
                &format!("http://{address}"),
                "--write-key",
                WRITE_KEY,
                "--count",
                &COUNT.to_string(),
                "--pause-file",
            ])
            .arg(&pause);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("driver starts");
        let began = Instant::now();
        while !pause.exists() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{name} does not get to its half"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        app.halt().await;
        std::fs::remove_file(&pause).expect("the driver goes on while nobody listens");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let app = TestApp::start_with(setup(address.to_string(), Some(sandbox))).await;
        let output =
            tokio::task::spawn_blocking(move || child.wait_with_output().expect("driver ends"))
                .await
                .expect("join");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{name}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Value =
            serde_json::from_str(said.lines().last().unwrap_or_default()).expect("one JSON line");
        let row = app.settled(&id).await;
        let accepted = row["accepted"].as_u64().expect("number")
            - row["deduplicated"].as_u64().expect("number");
        assert_eq!(
            Some(accepted),
            report["sent"].as_u64(),
            "{name}: {row} {report}"
        );
        app.stop().await;
    }
}
