//! Canaries: secrets and personal data that can be searched for, planted everywhere they can stand. Afterwards they
//! are looked for in every log line (level trace), in the metrics, the OpenAPI document and its page, in error answers
//! and in all answers of the management API they do not belong in: 0 bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aqueduct::sandbox::Sandbox;
use base64::Engine as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::app::{ADMIN_TOKEN, WRITE_KEY, client};
use crate::support::process::{Process, command};

/// What every canary holds: no other text does.
const MARK: &str = "kanarie";

/// Answers that exist to show events and what vendors said about them.
const SHOWS_EVENTS: [&str; 7] = [
    "/v1/admin/events",
    "/v1/admin/deliveries",
    "/v1/admin/dead-letters",
    "/v1/admin/rejected-events",
    "/v1/admin/assignments",
    "/v1/admin/blueprints/try",
    "/v1/admin/integrations/{id}/test",
];

/// … and those that tell how an integration is doing, in the vendor's own words too.
const SHOWS_REPLIES: [&str; 2] = ["/v1/admin/integrations", "/v1/admin/integrations/{id}"];

/// Canaries by kind.
#[derive(Default)]
struct Canaries {
    made: AtomicUsize,
    secrets: Vec<String>,
    personal: Vec<String>,
    replies: Vec<String>,
}

impl Canaries {
    fn text(&self, of: &str) -> String {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{MARK}{n}{of}x9")
    }

    fn secret(&mut self, of: &str) -> String {
        let text = self.text(of);
        self.secrets.push(text.clone());
        text
    }

    fn personal(&mut self, of: &str) -> String {
        let text = self.text(of);
        self.personal.push(text.clone());
        text
    }

    fn reply(&mut self, of: &str) -> String {
        let text = self.text(of);
        self.replies.push(text.clone());
        text
    }
}

/// A secret as it is, and as HTTP Basic would carry it.
fn forms(secret: &str) -> Vec<String> {
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{secret}:"));
    vec![secret.to_owned(), basic.trim_end_matches('=').to_owned()]
}

struct World {
    http: reqwest::Client,
    gateway: Process,
    sandbox: std::net::SocketAddr,
    /// Every answer of the management API, by path of the document and status.
    answers: Vec<(String, u16, String)>,
}

impl World {
    async fn ask(
        &mut self,
        method: &str,
        template: &str,
        parameters: &[(&str, &str)],
        query: &str,
        body: Option<String>,
    ) -> (u16, Value) {
        let mut path = template.to_owned();
        for (name, value) in parameters {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        let url = format!("http://{}{path}{query}", self.gateway.admin);
        let mut request = self
            .http
            .request(method.parse().expect("method"), url)
            .bearer_auth(ADMIN_TOKEN);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let reply = request.send().await.expect("admin answers");
        let status = reply.status().as_u16();
        let text = reply.text().await.expect("body");
        self.answers
            .push((template.to_owned(), status, text.clone()));
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn post(&self, path: &str, body: String) -> (u16, String) {
        let reply = self
            .http
            .post(format!("http://{}{path}", self.gateway.ingest))
            .basic_auth(WRITE_KEY, Some(""))
            .body(body)
            .send()
            .await
            .expect("ingest answers");
        (reply.status().as_u16(), reply.text().await.expect("body"))
    }

    async fn text(&self, url: String) -> String {
        let reply = self.http.get(url).send().await.expect("answers");
        reply.text().await.expect("body")
    }

    async fn control(&self, path: &str, body: &Value) {
        let url = format!("http://{}/_sandbox/{path}", self.sandbox);
        let reply = self.http.put(url).body(body.to_string()).send();
        let status = reply.await.expect("sandbox answers").status();
        assert!(status.is_success(), "{path}: {status}");
    }
}

/// Every vendor of the catalog, each with a canary in every secret field. Returns the integrations' ids.
async fn install_all(world: &mut World, canaries: &mut Canaries) -> Vec<String> {
    let (_, catalog) = world
        .ask("GET", "/v1/admin/integration-catalog", &[], "", None)
        .await;
    let sandbox = world.sandbox;
    let mut ids = Vec::new();
    for entry in catalog["data"].as_array().expect("entries").clone() {
        let vendor = entry["vendor"].as_str().expect("vendor").to_owned();
        let mut config = json!({});
        for field in entry["fields"].as_array().expect("fields") {
            let key = field["key"].as_str().expect("key");
            let value = match (vendor.as_str(), key) {
                (_, _) if field["type"] == "secret" => canaries.secret(&vendor),
                ("optimizely", "account_id") => "12345678".to_owned(),
                ("optimizely", "project_id") => "98765432".to_owned(),
                ("optimizely", "events_url") => format!("http://{sandbox}/optimizely/v1/events"),
                ("optimizely", "datafile_url") => continue,
                ("heap", "app_id") => "11".to_owned(),
                ("heap", "base_url") => format!("http://{sandbox}/heap-us"),
                ("pendo", "api_base_url") => format!("http://{sandbox}/pendo-app"),
                ("pendo", "track_base_url") => format!("http://{sandbox}/pendo-data"),
                (_, "base_url") => format!("http://{sandbox}/{vendor}"),
                (_, _) if field["required"] == true => panic!("{vendor}: give `{key}` a value"),
                _ => continue,
            };
            config[key] = json!(value);
        }
        if let Some(key) = config["sdk_key"].as_str() {
            let path = format!("optimizely/datafiles/{key}");
            let datafile = json!({ "version": "4", "accountId": "12345678", "projectId": "98765432", "revision": "7",
                "events": [{ "id": "1", "key": "signup", "experimentIds": [] }], "attributes": [], "experiments": [],
                "groups": [], "layers": [], "typedAudiences": [], "audiences": [], "featureFlags": [], "rollouts": [], "variables": [] });
            world.control(&path, &datafile).await;
            config["datafile_url"] =
                json!(format!("http://{sandbox}/optimizely/datafiles/{key}.json"));
        }
        let settings = json!({ "batch_wait_ms": 20, "retry_base_ms": 20, "retry_cap_ms": 100 });
        let body = json!({ "name": vendor, "config": config, "settings": settings });
        let path = "/v1/admin/integration-catalog/{vendor}/install";
        let (status, answer) = world
            .ask(
                "POST",
                path,
                &[("vendor", &vendor)],
                "",
                Some(body.to_string()),
            )
            .await;
        assert_eq!(status, 201, "{vendor}: {answer}");
        ids.push(answer["id"].as_str().expect("id").to_owned());
    }
    assert!(ids.len() >= 5 && canaries.secrets.len() >= 5, "{ids:?}");
    ids
}

/// What vendors say: each a refusal that repeats a secret and tells something about a person.
async fn script_replies(world: &World, canaries: &mut Canaries) {
    let mut rules = Vec::new();
    for (path, status) in [
        ("/optimizely/v1/events", 400),
        ("/brevo/v3/events", 400),
        ("/heap-us", 400),
        ("/pendo-data", 401),
        ("/odp/v3/events", 400),
    ] {
        let person = canaries.reply("reply");
        // A vendor knows no other's secrets.
        let vendor = path.trim_start_matches('/').split(['/', '-']).next();
        let known = canaries
            .secrets
            .iter()
            .filter(|secret| vendor.is_some_and(|vendor| secret.contains(vendor)));
        let echoed = known.map(String::as_str).collect::<Vec<_>>().join(" ");
        let body =
            json!({ "message": format!("refused for {person}, key {echoed}"), "code": "invalid" });
        rules.push(json!({ "path": path, "action": { "status": status, "body": body } }));
    }
    world
        .control("faults", &json!({ "seed": 1, "rules": rules }))
        .await;
}

/// Posts what is taken and what is not. Returns the answers of ingest that say no.
async fn post_events(world: &World, canaries: &mut Canaries) -> Vec<String> {
    let mut refusals = Vec::new();
    let context = json!({ "ip": canaries.personal("ip"), "userAgent": canaries.personal("agent"), "page": { "url": format!("https://shop.example/{}", canaries.personal("page")) } });
    let email = format!("{}@example.org", canaries.personal("mail"));
    let (user, secondary) = (canaries.personal("user"), canaries.personal("anonymous"));
    let properties = json!({ "email": email, "card": canaries.personal("card"), "nested": { "name": canaries.personal("name") }, "revenue": 12.5 });
    let traits = json!({ "email": email, "firstName": canaries.personal("first"), "phone": canaries.personal("phone") });
    for (path, mut body) in [
        (
            "/v1/track",
            json!({ "event": "signup", "properties": properties }),
        ),
        ("/v1/identify", json!({ "traits": traits })),
        (
            "/v1/page",
            json!({ "name": "Home", "properties": properties }),
        ),
    ] {
        body["userId"] = json!(user);
        body["anonymousId"] = json!(secondary);
        body["messageId"] = json!(format!("m{}", path.replace('/', "-")));
        body["context"] = context.clone();
        let (status, answer) = world.post(path, body.to_string()).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }
    let decision = json!({ "type": "flag", "userId": user, "attributes": { "email": email },
        "decisionInfo": { "flagKey": "checkout", "enabled": true, "variationKey": "on", "ruleKey": "r" } });
    refusals.push(world.post("/v1/decisions", decision.to_string()).await.1);
    let odd = canaries.personal("odd");
    for body in [
        format!("{{\"event\": 5, \"userId\": \"{odd}\"}}"),
        format!("{{\"event\": \"x\", \"userId\": \"{odd}\""),
        json!({ "userId": odd, "properties": { "total": odd } }).to_string(),
        json!({ "event": "signup", "userId": odd, "timestamp": odd, "properties": odd })
            .to_string(),
    ] {
        refusals.push(world.post("/v1/track", body.clone()).await.1);
        let batch =
            format!("{{\"batch\": [{body}, {{\"type\": \"purchase\", \"userId\": \"{odd}\"}}]}}");
        refusals.push(world.post("/v1/batch", batch).await.1);
    }
    let wrong = canaries.secret("wrongkey");
    let reply = world
        .http
        .post(format!("http://{}/v1/track", world.gateway.ingest))
        .basic_auth(&wrong, Some(""))
        .body("{}");
    let reply = reply.send().await.expect("ingest answers");
    assert_eq!(reply.status(), 401);
    refusals.push(reply.text().await.expect("body"));
    refusals
}

/// Bodies that hold secrets in the wrong place: refused, and the refusal must not repeat them.
async fn refused_calls(world: &mut World, canaries: &mut Canaries, id: &str) {
    let secret = canaries.secret("misplaced");
    let install = "/v1/admin/integration-catalog/{vendor}/install";
    let vendor = [("vendor", "optimizely")];
    for body in [
        json!({ "name": "x", "config": { "sdk_key": { "value": secret } } }),
        json!({ "name": "x", "config": { "sdk_key": format!("{secret}\u{7}é") } }),
        json!({ "name": "x", "config": { "sdk_key": [secret], "account_id": 5 } }),
        json!({ "name": "x", "settings": { "timeout_ms": secret } }),
        json!({ "config": secret }),
    ] {
        let (status, _) = world
            .ask("POST", install, &vendor, "", Some(body.to_string()))
            .await;
        assert_eq!(status, 422, "{body}");
    }
    let broken = format!("{{\"config\": {{\"sdk_key\": \"{secret}\"");
    let (status, _) = world.ask("POST", install, &vendor, "", Some(broken)).await;
    assert_eq!(status, 400);
    let change = json!({ "config": { "sdk_key": { "set": secret } } });
    let (status, _) = world
        .ask(
            "PATCH",
            "/v1/admin/integrations/{id}",
            &[("id", id)],
            "",
            Some(change.to_string()),
        )
        .await;
    assert_eq!(status, 422);
    let agent = json!({ "name": "bad", "agent": { "url": "http://10.0.0.1", "sdk_key": format!("{secret} !") } });
    let (status, _) = world
        .ask(
            "POST",
            "/v1/admin/sources",
            &[],
            "",
            Some(agent.to_string()),
        )
        .await;
    assert_eq!(status, 422);
}

/// What is shown once, by right, is a secret from then on.
async fn made_secrets(world: &mut World, canaries: &mut Canaries) -> Vec<String> {
    let agent =
        json!({ "url": format!("http://{}", world.sandbox), "sdk_key": canaries.secret("agent") });
    let mut made = Vec::new();
    for (path, body, field) in [
        (
            "/v1/admin/sources",
            json!({ "name": "shop", "agent": agent }),
            "write_key",
        ),
        (
            "/v1/admin/tokens",
            json!({ "name": "ci", "role": "viewer" }),
            "token",
        ),
    ] {
        let (status, answer) = world
            .ask("POST", path, &[], "", Some(body.to_string()))
            .await;
        assert_eq!(status, 201, "{answer}");
        made.push(answer[field].as_str().expect("secret").to_owned());
        // The one answer it belongs in.
        world.answers.pop();
    }
    // A token's open half may be shown.
    made[1] = made[1].rsplit_once('_').expect("halves").1.to_owned();
    made
}

/// Every GET of the document, for every integration and event there is.
async fn read_everything(world: &mut World, ids: &[String]) {
    let document = world
        .text(format!("http://{}/openapi.json", world.gateway.admin))
        .await;
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let first = |list: &Value| list["data"][0]["id"].as_str().unwrap_or("1").to_owned();
    let (_, sources) = world.ask("GET", "/v1/admin/sources", &[], "", None).await;
    let (_, attempts) = world
        .ask("GET", "/v1/admin/deliveries", &[], "", None)
        .await;
    let (source, attempt) = (first(&sources), first(&attempts));
    for (path, item) in document["paths"].as_object().expect("paths") {
        // A stream has no end to read to.
        if item.get("get").is_none() || !path.starts_with("/v1/") || path.ends_with("/live") {
            continue;
        }
        for id in ids {
            let own = match path.as_str() {
                "/v1/admin/sources/{id}" => &source,
                "/v1/admin/deliveries/{id}" => &attempt,
                _ => id,
            };
            let parameters = [
                ("id", own.as_str()),
                ("integration", own),
                ("vendor", "brevo"),
                ("n", "1"),
                ("message_id", "m-v1-track"),
            ];
            world.ask("GET", path, &parameters, "", None).await;
            if !path.contains('{') {
                break;
            }
        }
    }
    for id in ids {
        let own = [("id", id.as_str())];
        let event = json!({ "event": "signup" }).to_string();
        world
            .ask(
                "POST",
                "/v1/admin/integrations/{id}/test",
                &own,
                "",
                Some(event),
            )
            .await;
    }
}

fn found<'a>(text: &'a str, canaries: &[String]) -> Option<(&'a str, String)> {
    canaries.iter().find_map(|canary| {
        let at = text.find(canary.as_str())?;
        let from = text.floor_char_boundary(at.saturating_sub(300));
        let to = text.ceil_char_boundary((at + 300).min(text.len()));
        Some((&text[from..to], canary.clone()))
    })
}

fn nowhere(what: &str, text: &str, canaries: &[String]) {
    if let Some((around, canary)) = found(text, canaries) {
        panic!("{canary} stands in {what}: …{around}…");
    }
}

fn look_through(world: &World, secrets: &[String], personal: &[String], replies: &[String]) {
    let mut shown: BTreeMap<&str, bool> = BTreeMap::new();
    for (path, status, text) in &world.answers {
        let what = format!("{path} ({status})");
        nowhere(&what, text, secrets);
        let events = SHOWS_EVENTS.iter().any(|own| path.starts_with(own));
        if events && *status < 400 {
            let one = found(text, personal)
                .or_else(|| found(text, replies))
                .is_some();
            *shown.entry(path.as_str()).or_default() |= one;
            continue;
        }
        nowhere(&what, text, personal);
        if !SHOWS_REPLIES.contains(&path.as_str()) {
            nowhere(&what, text, replies);
        }
    }
    // Where they belong they are: the search is not blind.
    for path in [
        "/v1/admin/deliveries",
        "/v1/admin/dead-letters",
        "/v1/admin/rejected-events",
        "/v1/admin/events/{message_id}",
    ] {
        assert_eq!(shown.get(path), Some(&true), "{path} shows no event");
    }
}

fn files(dir: &Path, secrets: &[String]) {
    let read = read_files(dir, secrets);
    assert!(read > 100_000, "{read}");
}

fn read_files(dir: &Path, secrets: &[String]) -> usize {
    let mut read = 0;
    for file in std::fs::read_dir(dir).expect("directory") {
        let path = file.expect("entry").path();
        if path.is_dir() {
            read += read_files(&path, secrets);
            continue;
        }
        let bytes = std::fs::read(&path).expect("file");
        read += bytes.len();
        for secret in secrets {
            let found = holds(&bytes, secret.as_bytes());
            assert!(!found, "{secret} stands in {}", path.display());
        }
    }
    read
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_stand_only_where_they_belong() {
    let dir = tempfile::tempdir().expect("dir");
    let stop = CancellationToken::new();
    let sandbox = Sandbox::bind(([127, 0, 0, 1], 0).into())
        .await
        .expect("sandbox");
    let address = sandbox.addr;
    tokio::spawn(sandbox.run(stop.clone().cancelled_owned()));
    let log = dir.path().join("log");
    let data = dir.path().join("data");
    let mut command = command(&data, &address.to_string());
    command
        .env("AQUEDUCT_LOG", "trace")
        .env("AQUEDUCT_LOG_FORMAT", "json")
        .stderr(Stdio::from(std::fs::File::create(&log).expect("log")));
    let mut world = World {
        http: client(),
        gateway: Process::spawn(&mut command),
        sandbox: address,
        answers: Vec::new(),
    };
    let mut canaries = Canaries::default();
    let ids = install_all(&mut world, &mut canaries).await;
    script_replies(&world, &mut canaries).await;
    let mut made = made_secrets(&mut world, &mut canaries).await;
    made.extend([WRITE_KEY.to_owned(), ADMIN_TOKEN.to_owned()]);
    let refusals = post_events(&world, &mut canaries).await;
    refused_calls(&mut world, &mut canaries, &ids[0]).await;

    let began = Instant::now();
    loop {
        let (_, letters) = world
            .ask("GET", "/v1/admin/dead-letters", &[], "", None)
            .await;
        let (_, attempts) = world
            .ask("GET", "/v1/admin/deliveries", &[], "?outcome=pause", None)
            .await;
        let some = |list: &Value| list["data"].as_array().is_some_and(|rows| !rows.is_empty());
        if some(&letters) && some(&attempts) {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{letters} {attempts}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    read_everything(&mut world, &ids).await;
    let mut outside = vec![("an answer of ingest", refusals.join("\n"))];
    for (what, address, path) in [
        ("the metrics", world.gateway.metrics, "metrics"),
        ("readiness", world.gateway.metrics, "readyz?verbose"),
        ("the OpenAPI document", world.gateway.admin, "openapi.json"),
        ("its page", world.gateway.admin, "docs"),
    ] {
        outside.push((what, world.text(format!("http://{address}/{path}")).await));
    }
    world.gateway.terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.cancel();

    let mut secrets: Vec<String> = canaries
        .secrets
        .iter()
        .flat_map(|secret| forms(secret))
        .collect();
    secrets.extend(made.iter().flat_map(|secret| forms(secret)));
    let log = String::from_utf8_lossy(&std::fs::read(&log).expect("log")).into_owned();
    assert!(
        log.lines().count() > 50 && log.contains("\"TRACE\""),
        "{log}"
    );
    outside.push(("the log", log));
    for (what, text) in &outside {
        assert!(!text.is_empty(), "{what}");
        nowhere(what, text, &secrets);
        nowhere(what, text, &canaries.personal);
        nowhere(what, text, &canaries.replies);
    }
    look_through(&world, &secrets, &canaries.personal, &canaries.replies);
    files(&data, &secrets);
}
