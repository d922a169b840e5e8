//! What is deployed fits the binary: ports, paths, settings and secrets of the manifests and of the unit are real.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use aqueduct::config::{Inputs, Settings};
use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A part of a document on its way.
enum Part {
    List(Vec<Value>),
    Group(Map<String, Value>, Option<String>),
}

/// The documents of a YAML file. Plain numbers and booleans are read as such.
fn documents(text: &str) -> Vec<Value> {
    let mut done = Vec::new();
    let mut open: Vec<Part> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.unwrap_or_else(|error| panic!("not YAML: {error}"));
        let value = match event {
            Event::SequenceStart(..) => {
                open.push(Part::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Part::Group(Map::new(), None));
                continue;
            }
            Event::Scalar(text, style, ..) => {
                let plain = matches!(style, ScalarStyle::Plain);
                let read = plain.then(|| serde_json::from_str(&text).ok()).flatten();
                read.unwrap_or_else(|| Value::String(text.to_string()))
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop().expect("opened") {
                Part::List(list) => Value::Array(list),
                Part::Group(group, _) => Value::Object(group),
            },
            _ => continue,
        };
        match open.last_mut() {
            None => done.push(value),
            Some(Part::List(list)) => list.push(value),
            Some(Part::Group(group, key @ Some(_))) => {
                let key = key.take().expect("matched");
                assert!(group.insert(key.clone(), value).is_none(), "`{key}` twice");
            }
            Some(Part::Group(_, key)) => *key = value.as_str().map(str::to_owned),
        }
    }
    done
}

fn one<'a>(all: &'a [Value], kind: &str) -> &'a Value {
    let mut found = all.iter().filter(|one| one["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none() || kind == "Service");
    first
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
}

/// The settings of an environment, as the binary reads them. Files of secrets stand in a directory of the test's.
fn settings(environment: impl IntoIterator<Item = (String, String)>) -> Settings {
    let secrets = tempfile::tempdir().expect("dir");
    let mut inputs = Inputs::default();
    for (name, mut value) in environment {
        if name.ends_with("_FILE") {
            let file = secrets
                .path()
                .join(Path::new(&value).file_name().expect("a file"));
            let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
            std::fs::write(&file, key).expect("written");
            value = file.display().to_string();
        }
        inputs.environment.insert(name, value);
    }
    Settings::load(&inputs).expect("settings the binary takes")
}

#[test]
fn the_kubernetes_manifest_fits_the_binary() {
    let all = documents(&read("deploy/kubernetes/aqueduct.yaml"));
    let given = one(&all, "ConfigMap")["data"].as_object().expect("data");
    let text = |(name, value): (&String, &Value)| {
        (name.clone(), value.as_str().expect("a text").to_owned())
    };
    let settings = settings(given.iter().map(text));
    let set = one(&all, "StatefulSet");
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];

    // A second process on the same directory is refused; service variables would be unknown settings.
    assert_eq!(set["spec"]["replicas"], 1);
    assert_eq!(pod["enableServiceLinks"], false);
    assert!(
        pod["terminationGracePeriodSeconds"]
            .as_u64()
            .expect("seconds")
            > settings.drain_s
    );

    let port = |name: &str| {
        let mut ports = list(&container["ports"]).iter();
        let port = ports.find(|port| port["name"] == name);
        port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"].as_u64()
    };
    for (name, listen) in [
        ("ingest", settings.ingest_listen),
        ("admin", settings.admin_listen),
        ("metrics", settings.metrics_listen),
    ] {
        assert_eq!(port(name), Some(u64::from(listen.port())), "{name}");
        assert!(
            listen.ip().is_unspecified(),
            "{name} listens where no probe reaches it"
        );
    }
    let annotations = &set["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"].as_str(), Some("9464"));
    assert_eq!(annotations["prometheus.io/path"].as_str(), Some("/metrics"));
    let routes = read("src/ops.rs");
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!(
            (get["path"].as_str(), get["port"].as_str()),
            (Some(path), Some("metrics"))
        );
        assert!(routes.contains(&format!(".route(\"{path}\"")), "{path}");
    }

    // Not root, nothing writable but the data, and every mount has its volume.
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let security = &container["securityContext"];
    assert_eq!(
        (
            &security["readOnlyRootFilesystem"],
            &security["allowPrivilegeEscalation"]
        ),
        (&true.into(), &false.into())
    );
    let dockerfile = read("Dockerfile");
    let user = pod["securityContext"]["runAsUser"]
        .as_u64()
        .expect("a user");
    assert!(dockerfile.contains(&format!("USER {user}:{user}")));
    let claims = list(&set["spec"]["volumeClaimTemplates"])
        .iter()
        .map(|claim| &claim["metadata"]["name"]);
    let volumes: BTreeSet<String> = list(&pod["volumes"])
        .iter()
        .map(|volume| &volume["name"])
        .chain(claims)
        .map(ToString::to_string)
        .collect();
    let mounts = list(&container["volumeMounts"]);
    assert!(
        mounts
            .iter()
            .all(|mount| volumes.contains(&mount["name"].to_string()))
    );
    let mounted = |dir: &Path| {
        mounts
            .iter()
            .any(|mount| mount["mountPath"].as_str() == dir.to_str())
    };
    assert!(mounted(&settings.data_dir));
    for (name, value) in given.iter().filter(|(name, _)| name.ends_with("_FILE")) {
        let file = Path::new(value.as_str().expect("a path"));
        assert!(file.parent().is_some_and(mounted), "{name}");
        let key = file
            .file_name()
            .and_then(|key| key.to_str())
            .expect("a file");
        assert_eq!(format!("AQUEDUCT_{}_FILE", key.to_uppercase()), *name);
        let how = read("deploy/kubernetes/aqueduct.yaml");
        assert!(
            how.contains(&format!("--from-literal={key}=")),
            "nobody makes {key}"
        );
    }
    for service in all.iter().filter(|one| one["kind"] == "Service") {
        assert_eq!(
            service["spec"]["selector"],
            set["spec"]["selector"]["matchLabels"]
        );
        for port_of in list(&service["spec"]["ports"]) {
            assert!(port(port_of["targetPort"].as_str().expect("a name")).is_some());
        }
    }
}

#[test]
fn the_systemd_unit_fits_the_binary() {
    let unit = read("deploy/systemd/aqueduct.service");
    let values = |key: &str| {
        let start = format!("{key}=");
        let lines = unit
            .lines()
            .filter_map(move |line| line.strip_prefix(&start));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let environment = values("Environment").into_iter().map(|line| {
        let (name, value) = line.split_once('=').expect("NAME=value");
        (name.to_owned(), value.replace("%S", "/var/lib"))
    });
    let settings = settings(environment);
    let state = format!("/var/lib/{}", values("StateDirectory")[0]);
    assert_eq!(settings.data_dir, Path::new(&state));
    assert!(values("TimeoutStopSec")[0].parse::<u64>().expect("seconds") > settings.drain_s);
    assert!(
        values("LimitNOFILE")[0].parse::<usize>().expect("files") > 2 * settings.max_connections
    );
    // EX_USAGE: what the binary ends with when its settings cannot be used.
    assert_eq!(values("RestartPreventExitStatus"), ["64"]);

    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        return;
    };
    assert!(version.status.success());
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("aqueduct.service");
    let here = unit.replace("/usr/local/bin/aqueduct", env!("CARGO_BIN_EXE_aqueduct"));
    std::fs::write(&file, here).expect("written");
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&file)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    // It loads whatever the unit depends on too: only what it says of ours counts.
    assert!(!said.contains("aqueduct.service"), "{said}");
}
