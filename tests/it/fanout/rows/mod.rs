//! What a vendor says and what follows from it, row by row of the vendors' contracts, where no other test shows it
//! already. Each vendor has a room; here is what they share.

mod brevo;
mod brevo_codes;
mod brevo_rates;
mod heap;
mod odp;
mod optimizely;
mod pendo;

use serde_json::json;

use super::*;

/// One fault for a vendor's path, so many times.
async fn fault(fan: &Fan, path: &str, times: u64, action: Value) {
    fan.faults(json!({"rules": [{"path": path, "times": times, "action": action}]}))
        .await;
}

/// Decisions of these people, one each.
fn one_each(fan: &Fan, people: &[String]) -> Vec<Value> {
    let now_ms = fan.now_ms();
    people
        .iter()
        .map(|user| decision(&format!("m-{user}"), user, "checkout", "on", now_ms))
        .collect()
}

/// The requests of a method, in the order they came.
fn with_method(requests: Vec<Value>, method: &str) -> Vec<Value> {
    requests
        .into_iter()
        .filter(|request| request["method"] == json!(method))
        .collect()
}

/// The statuses of requests, in the order they came.
fn answers(requests: &[Value]) -> Vec<u64> {
    let status = |request: &Value| request["status"].as_u64().unwrap_or(0);
    requests.iter().map(status).collect()
}

/// The time between each request and the next.
fn gaps(requests: &[Value]) -> Vec<Millis> {
    requests
        .windows(2)
        .map(|pair| at_ms(&pair[1]) - at_ms(&pair[0]))
        .collect()
}

/// Installs a vendor's `decisions` beside another integration of it.
async fn install_another(
    fan: &Fan,
    vendor: &str,
    name: &str,
    config: Value,
    settings: Value,
) -> String {
    let body = json!({"name": name, "variant": "decisions", "delivery_mode": "server_side",
        "config": fan.entered(vendor, &config), "settings": settings});
    let path = format!("integration-catalog/{vendor}/install");
    let (status, reply) = fan.app.admin("POST", &path, Some(body)).await;
    assert_eq!(status, 201, "{reply}");
    reply["id"].as_str().expect("id").to_owned()
}

/// Waits until a vendor has had so many requests under a path.
async fn requests_until(fan: &Fan, path: &str, least: usize) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let requests = fan.requests(path);
        if requests.len() >= least {
            return requests;
        }
        assert!(began.elapsed() < PATIENCE, "{path}: {}", requests.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The reasons an integration's events were skipped for, and its dead ones' reasons.
async fn ends(fan: &Fan, id: &str) -> (Value, Value, BTreeMap<String, usize>) {
    let row = fan.app.settled(id).await;
    let (_, letters) = fan.app.admin("GET", "dead-letters?limit=100", None).await;
    let mut dead = BTreeMap::new();
    for letter in letters["data"].as_array().into_iter().flatten() {
        if letter["integration"] == json!(id) {
            let reason = letter["reason"].as_str().expect("reason").to_owned();
            *dead.entry(reason).or_default() += 1;
        }
    }
    (
        row["delivered"].clone(),
        row["skipped_reasons"].clone(),
        dead,
    )
}

/// The dead letter of an event.
async fn letter(fan: &Fan, message_id: &str) -> Value {
    let (_, letters) = fan.app.admin("GET", "dead-letters?limit=100", None).await;
    let mut all = letters["data"].as_array().into_iter().flatten();
    all.find(|letter| letter["message_id"] == json!(message_id))
        .cloned()
        .unwrap_or_else(|| panic!("{message_id} in {letters}"))
}

/// A vendor refuses one request in this way: the integration pauses for this reason, keeps what it has, and delivers it
/// when it is resumed. Returns what the status said.
async fn pauses_and_goes_on(
    fan: &Fan,
    id: &str,
    path: &str,
    action: Value,
    reason: &str,
    events: &[Value],
) -> Value {
    let before = fan.app.ledger(id).await;
    fault(fan, path, 1_000, action).await;
    fan.post(events).await;
    let paused = |now: &Value| now["state"] == json!("paused") && now["reason"] == json!(reason);
    let status = fan.status_until(id, paused).await;
    let row = fan.app.ledger(id).await;
    assert_eq!(row["pending"], json!(events.len()), "{row}");
    assert_eq!(
        (&row["dead"], &row["delivered"]),
        (&before["dead"], &before["delivered"])
    );
    fan.app.sandbox("DELETE", "/_sandbox/faults", None).await;
    fan.resume(id).await;
    let row = fan.app.settled(id).await;
    let delivered = before["delivered"].as_u64().expect("a count") + events.len() as u64;
    assert_eq!(row["delivered"], json!(delivered), "{row}");
    fan.status_until(id, |now| now["state"] == json!("running"))
        .await;
    status
}

/// One of an integration's requests, in its status.
fn request_of(status: &Value, name: &str) -> Value {
    status["requests"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["name"] == json!(name))
        .cloned()
        .unwrap_or_default()
}

/// Installing asks the vendor, too: what was asked until now is no part of a test.
async fn forget_requests(fan: &Fan) {
    fan.app.sandbox("DELETE", "/_sandbox/requests", None).await;
}
