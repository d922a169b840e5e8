//! The stock SDKs, from npm and PyPI, posting through a running gateway to the sandbox, also across a restart.
//!
//! `make test` installs them first (tests/sdk/install.sh).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::decisions::fixture;
use crate::support::app::WRITE_KEY;
use crate::support::{Setup, TestApp};

/// Events each driver posts.
const COUNT: u64 = 120;

fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/sdk")
}

/// A driver by name, ready for its arguments.
fn driver(name: &str) -> Command {
    if let Some(language) = name.strip_prefix("listener-") {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/listeners/run.sh");
        let mut command = Command::new(script);
        command.arg(language);
        return command;
    }
    let cache = cache();
    assert!(
        cache.join("stamp").exists(),
        "the SDKs are not installed: run `make test`, or tests/sdk/install.sh first"
    );
    let mut command = match name {
        "segment_python" | "optimizely_python" => Command::new(cache.join("venv/bin/python")),
        _ => Command::new("node"),
    };
    command.arg(cache.join(match name {
        "segment_python" | "optimizely_python" => format!("{name}.py"),
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

/// What flags are decided for whom.
fn cases() -> Value {
    let attributes = json!({
        "plan": "premium", "age": 42, "app_version": "2.1.3", "is_beta": false, "city": "Łódź",
        "lifetime_value": 120.5, "not_in_datafile": "zzz", "none": null,
    });
    let mut cases: Vec<Value> = Vec::new();
    for user in ["user_1", "user_2", "qa_user", "user \"5\" ż"] {
        for flag in [
            "checkout_redesign",
            "free_shipping",
            "dark_mode",
            "no_rollout",
        ] {
            cases.push(json!({"user": user, "attributes": attributes, "flag": flag}));
        }
    }
    cases.push(json!({"user": "user_1", "attributes": {}, "flag": "no_such_flag"}));
    cases.push(json!({"user": "user_1", "attributes": {}, "flag": "checkout_redesign", "forced": {"variation": "treatment"}}));
    Value::Array(cases)
}

/// What is stored of the decisions an SDK makes of these cases.
async fn stored(name: &'static str, more: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("dir");
    let cases_file = dir.path().join("cases.json");
    std::fs::write(&cases_file, cases().to_string()).expect("written");
    let data_dir = dir.path().join("data");
    let app = TestApp::start_with(Setup {
        data_dir: Some(data_dir.clone()),
        ..Setup::default()
    })
    .await;
    let mut command = driver(name);
    let host = format!("http://{}", app.ingest);
    command
        .args(["--host", &host, "--write-key", WRITE_KEY, "--datafile"])
        .arg(fixture("datafiles/golden_v4.json"))
        .arg("--cases")
        .arg(cases_file)
        .args(more);
    let output = tokio::task::spawn_blocking(move || command.output().expect("driver runs"))
        .await
        .expect("join");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !complaint.contains("aqueduct: "),
        "{name} {more:?}: {said}{complaint}"
    );
    app.halt().await;
    crate::decisions::stored(&data_dir)
        .into_iter()
        .map(|event| {
            let mut decision = event["decision"].clone();
            let members = decision.as_object_mut().expect("a decision");
            members.shift_remove("reasons");
            json!({"type": event["type"], "userId": event["userId"], "decision": decision})
        })
        .collect()
}

/// Three SDKs decide the same; what is stored of their listeners' posts is the same.
#[tokio::test(flavor = "multi_thread")]
async fn decisions_of_three_optimizely_sdks_are_stored_alike() {
    let six = stored("optimizely-node", &["--sdk", "6"]).await;
    let mut five = stored("optimizely-node", &["--sdk", "5"]).await;
    // It reports no ids; without a datafile here nobody fills them in.
    for (decision, other) in five.iter_mut().zip(&six) {
        for key in ["experimentId", "variationId"] {
            if let Some(id) = other["decision"].get(key) {
                assert!(decision["decision"].get(key).is_none());
                decision["decision"][key] = id.clone();
            }
        }
    }
    // A decision about an unknown flag is not told to listeners.
    assert_eq!(six.len(), cases().as_array().expect("cases").len() - 1);
    assert_eq!(six, five, "5.4.1");
    assert_eq!(six, stored("optimizely_python", &[]).await, "Python");
    let about = |text: &str| {
        let with = |one: &&Value| one.to_string().contains(text);
        six.iter().filter(with).count()
    };
    assert!(about("default-rollout-103") > 0 && about("Łódź") > 0 && about("treatment") > 0);
}

/// Not part of `make test`: it needs Go, a JDK and Maven, and fetches the SDKs (tests/listeners/README.md).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go, a JDK and Maven, and fetches the SDKs"]
async fn decisions_of_the_go_and_java_sdks_are_stored_as_those_of_javascript() {
    let six = stored("optimizely-node", &["--sdk", "6"]).await;
    for name in ["listener-go", "listener-java"] {
        assert_eq!(six, stored(name, &[]).await, "{name}");
    }
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
            ..Setup::default()
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
