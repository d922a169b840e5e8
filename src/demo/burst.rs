//! What the demo posts: orders in three currencies, signups, decisions in every shape apps report them in, and what goes
//! wrong in real life.

use std::time::Duration;

use serde_json::{Value, json};

use super::install::{FLAG, OTHER_FLAG, PEOPLE};
use super::visitor::Visitor;

/// How long the datafile is waited for.
const DATAFILE_PATIENCE: Duration = Duration::from_secs(10);

/// The event key with the wrong capitals.
pub(super) const HELD: &str = "demo-wrong-capitals";

/// The decision the report follows.
pub(super) struct Decided {
    pub(super) message_id: &'static str,
    pub(super) user: &'static str,
    pub(super) variation: String,
}

impl Visitor {
    /// Posts everything.
    pub(super) async fn burst(&self) -> anyhow::Result<Decided> {
        say!("\nPosted");
        let batch = events()?;
        let reply = self.post("/v1/batch", &json!({"batch": batch})).await?;
        said("/v1/batch", &format!("{} events", batch.len()), &reply);
        let decided = self.decide().await?;
        let reported = decisions();
        let reply = self
            .post("/v1/decision", &json!({"batch": reported}))
            .await?;
        let what = format!(
            "{} decisions of other apps, each in a shape of its own",
            reported.len()
        );
        said("/v1/decision", &what, &reply);
        Ok(decided)
    }

    /// Has a flag decided by the gateway; the datafile may still be on its way.
    async fn decide(&self) -> anyhow::Result<Decided> {
        let (message_id, user) = ("demo-decision", "user_8");
        let asked = json!({"userId": user, "keys": [FLAG], "messageId": message_id, "attributes": {"plan": "premium"}});
        let began = tokio::time::Instant::now();
        let reply = loop {
            let (status, reply) = self.try_post("/v1/decide", &asked).await?;
            if status.is_success() {
                break reply;
            }
            let early =
                reply["code"] == json!("no_datafile") && began.elapsed() < DATAFILE_PATIENCE;
            anyhow::ensure!(early, "/v1/decide answered {status}: {reply}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        // A flag that is off is kept by the vendors as "off", whatever its variation.
        let variation = if reply["enabled"] == json!(true) {
            reply["variationKey"].as_str().unwrap_or_default()
        } else {
            "off"
        };
        say!("  {:<13} {user} gets {FLAG} = {variation}", "/v1/decide");
        Ok(Decided {
            message_id,
            user,
            variation: variation.to_owned(),
        })
    }
}

/// Orders, signups, a repeated post, an event nobody can be found for, an event key with the wrong capitals.
fn events() -> anyhow::Result<Vec<Value>> {
    let mut batch = Vec::new();
    let totals = [
        ("89.99", "GBP"),
        ("12800", "JPY"),
        ("4.125", "KWD"),
        ("19.99", "GBP"),
        ("0.29", "GBP"),
    ];
    for (i, (total, currency)) in totals.into_iter().enumerate() {
        let total: Value = serde_json::from_str(total)?;
        batch.push(json!({"type": "track", "event": "Order Completed", "userId": format!("user_{i}"), "messageId": format!("demo-order-{i}"),
            "context": {"traits": {"plan": "premium"}},
            "properties": {"order_id": format!("ORD-{}", 5521 + i), "total": total, "currency": currency, "products": [{"sku": "A", "quantity": 2}]}}));
    }
    for i in 0..PEOPLE {
        batch.push(json!({"type": "track", "event": "signup", "userId": format!("user_{i}"), "messageId": format!("demo-signup-{i}"), "properties": {"plan": "pro"}}));
    }
    batch.push(json!({"type": "track", "event": "signup", "userId": "user_0", "messageId": "demo-signup-0"}));
    batch.push(json!({"type": "track", "event": "Signup", "userId": "user_1", "messageId": HELD}));
    batch.push(json!({"type": "identify", "userId": "user_1", "traits": {"plan": "premium", "firstName": "Ann"}, "messageId": "demo-identify"}));
    batch.push(json!({"type": "track", "event": "signup", "messageId": "demo-nobody"}));
    Ok(batch)
}

/// One decision in each shape of the SDKs and the Agent, as a listener posts its argument.
fn decisions() -> Vec<Value> {
    let camel = json!({"flagKey": FLAG, "enabled": true, "variationKey": "one_page", "ruleKey": "one_page_checkout_test",
        "variables": {"button_text": "Place order"}, "reasons": [], "decisionEventDispatched": true});
    let snake = json!({"flag_key": OTHER_FLAG, "enabled": true, "variation_key": "wide", "rule_key": "everyone",
        "variables": {}, "reasons": [], "decision_event_dispatched": false});
    vec![
        // JavaScript 6 and 5, Java, C#
        json!({"type": "flag", "userId": "user_2", "attributes": {"plan": "pro"}, "decisionInfo": camel, "messageId": "demo-javascript"}),
        // Python, by its four arguments
        json!(["flag", "user_3", {"plan": "pro"}, snake]),
        // Go, and an Agent's event stream
        json!({"Type": "flag", "UserContext": {"ID": "user_4", "Attributes": {}}, "messageId": "demo-agent-stream",
            "DecisionInfo": {"flagKey": FLAG, "enabled": false, "variationKey": "three_steps", "ruleKey": "one_page_checkout_test"}}),
        // an Agent's answer to /v1/decide
        json!({"flagKey": OTHER_FLAG, "enabled": true, "variationKey": "narrow", "ruleKey": "", "messageId": "demo-agent-answer",
            "userContext": {"userId": "user_5", "attributes": {}}}),
        // a call that was there already
        json!({"type": "track", "event": "Experiment Viewed", "userId": "user_6", "messageId": "demo-track-call",
            "properties": {"flag_key": FLAG, "variation_key": "one_page", "enabled": true}}),
    ]
}

/// The line of one post, and each event refused.
fn said(path: &str, what: &str, reply: &Value) {
    let refused = reply["rejected"].as_array().map_or(&[][..], Vec::as_slice);
    say!(
        "  {path:<13} {what}: {} accepted, {} rejected",
        reply["accepted"],
        refused.len()
    );
    for fault in refused {
        say!(
            "  {:<13} #{} {}: {}",
            "",
            fault["index"],
            fault["code"].as_str().unwrap_or_default(),
            fault["message"].as_str().unwrap_or_default()
        );
    }
}
