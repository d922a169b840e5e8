//! What each vendor received, how one decision went through all of them, and whether the books balance.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::burst::{Decided, HELD};
use super::install::{FLAG, Installed};
use super::visitor::Visitor;

/// How long the report waits for the burst to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it waits between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest line of JSON shown, in characters.
const LINE_CHARS_MAX: usize = 320;

/// Width of an integration's name.
const NAME: usize = 11;

impl Visitor {
    /// Waits until the burst has arrived and reports; true when the books balance and every vendor has the decision.
    pub(super) async fn report(
        &self,
        integrations: &[Installed],
        decided: &Decided,
    ) -> anyhow::Result<bool> {
        let ledger = self.settled_ledger().await?;
        let reached = self.received(integrations, decided).await?;
        let told = self.story(integrations, decided).await?;
        let balanced = books(integrations, &ledger);
        self.held().await?;
        Ok(balanced && reached && told)
    }

    /// The ledger once nothing moves any more. The event key with the wrong capitals is held for a quarter of an
    /// hour: one pending event is the right end.
    async fn settled_ledger(&self) -> anyhow::Result<Value> {
        let began = tokio::time::Instant::now();
        loop {
            let ledger = self.admin(Method::GET, "ledger", None).await?;
            let pending: u64 = rows(&ledger)
                .iter()
                .filter_map(|row| row["pending"].as_u64())
                .sum();
            if pending <= 1 || began.elapsed() > PATIENCE {
                return Ok(ledger);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What each vendor holds now, as the sandbox tells it; true when each has the decision.
    async fn received(
        &self,
        integrations: &[Installed],
        decided: &Decided,
    ) -> anyhow::Result<bool> {
        say!("\nReceived");
        let mut reached = true;
        for installed in integrations {
            let events = self.events(&installed.vendor).await?;
            say!("  {:<NAME$} {events}", installed.name);
            let path = format!(
                "values/{}?user={}&flag={FLAG}",
                installed.vendor, decided.user
            );
            let shown = self.sandbox(Method::GET, &path, None).await?;
            let shown = plain(&shown["value"]);
            say!("  {:<NAME$} {}: {FLAG} = {shown}", "", decided.user);
            if shown != decided.variation {
                say!("  {:<NAME$} THE DECISION DID NOT ARRIVE", "");
                reached = false;
            }
        }
        let breaches = self.sandbox(Method::GET, "breaches", None).await?;
        say!("  limits of a vendor broken: {}", breaches["total"]);
        Ok(reached)
    }

    /// A vendor's events by name; Optimizely's with what they are worth.
    async fn events(&self, vendor: &str) -> anyhow::Result<String> {
        let events: Vec<String> = if vendor == "optimizely" {
            let path = "optimizely/summary";
            let summary = self.sandbox(Method::GET, path, None).await?;
            let keys = summary["keys"].as_object().into_iter().flatten();
            keys.map(|(key, row)| match row["revenue"].as_i64() {
                None | Some(0) => format!("{} {key}", row["counted"]),
                Some(units) => format!("{} {key} (revenue {units} hundredths)", row["counted"]),
            })
            .collect()
        } else {
            let path = format!("state/{vendor}?limit=1");
            let state = self.sandbox(Method::GET, &path, None).await?;
            let names = state["events_by_name"].as_object().into_iter().flatten();
            names
                .map(|(name, count)| format!("{count} {name}"))
                .collect()
        };
        Ok(events.join(", "))
    }

    /// The decision's way through every integration, as the admin API tells it; true when all delivered it.
    async fn story(&self, integrations: &[Installed], decided: &Decided) -> anyhow::Result<bool> {
        let story = self.whole_story(decided).await?;
        let event = &story["events"][0];
        let decision = &event["event"]["decision"];
        say!(
            "\nThe story of the decision (GET /v1/admin/events/{})",
            decided.message_id
        );
        say!(
            "  {}: {} = {}, by {} `{}` of datafile revision {}",
            decided.user,
            plain(&decision["flagKey"]),
            decided.variation,
            plain(&decision["ruleKind"]),
            plain(&decision["ruleKey"]),
            plain(&decision["revision"])
        );
        let mut all = true;
        for installed in integrations {
            let chapters = event["integrations"].as_array().into_iter().flatten();
            let Some(chapter) = chapters
                .into_iter()
                .find(|chapter| chapter["integration"] == json!(installed.id))
            else {
                all = false;
                continue;
            };
            all &= chapter["outcome"] == json!("delivered");
            tell(&installed.name, chapter, self.sandbox);
        }
        Ok(all)
    }

    /// Why the one event is pending.
    async fn held(&self) -> anyhow::Result<()> {
        let path = format!("events/{HELD}");
        let story = self.admin(Method::GET, &path, None).await?;
        let chapters = story["events"][0]["integrations"].as_array();
        let detail = chapters
            .into_iter()
            .flatten()
            .filter(|chapter| chapter["outcome"] == json!("pending"))
            .find_map(|chapter| chapter["mapping"]["requests"][0]["detail"].as_str());
        if let Some(detail) = detail {
            say!("  pending is `{HELD}`, until the datafile has its key: {detail}");
        }
        Ok(())
    }

    /// The log of attempts is written a moment after the outcome.
    async fn whole_story(&self, decided: &Decided) -> anyhow::Result<Value> {
        let began = tokio::time::Instant::now();
        let path = format!("events/{}", decided.message_id);
        loop {
            let story = self.admin(Method::GET, &path, None).await?;
            let chapters = story["events"][0]["integrations"].as_array();
            let whole = chapters.into_iter().flatten().all(|chapter| {
                let made = |of: &Value| of["result"] == json!("item");
                let parts = chapter["mapping"]["requests"].as_array().into_iter();
                let items = parts.flatten().filter(|part| made(part)).count();
                chapter["attempts"].as_array().map_or(0, Vec::len) >= items
            });
            if whole || began.elapsed() > PATIENCE {
                return Ok(story);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How to go on by hand.
    pub(super) fn invite(&self) {
        let key = self.write_key.expose();
        let post = format!("curl -u {key}: http://{}", self.ingest);
        let read = format!(
            "curl -H 'Authorization: Bearer {}' 'http://{}/v1/admin",
            self.admin_token.expose(),
            self.admin
        );
        say!(
            "\nThe gateway stays up at http://{}. Post events …",
            self.ingest
        );
        say!(
            "  {post}/v1/track -d '{{\"event\":\"Order Completed\",\"userId\":\"user_9\",\"messageId\":\"mine-1\",\"properties\":{{\"total\":89.99,\"currency\":\"GBP\"}}}}'"
        );
        say!(
            "  {post}/v1/decision -d '{{\"type\":\"flag\",\"userId\":\"user_9\",\"messageId\":\"mine-2\",\"decisionInfo\":{{\"flagKey\":\"{FLAG}\",\"enabled\":true,\"variationKey\":\"one_page\",\"ruleKey\":\"one_page_checkout_test\"}}}}'"
        );
        say!(
            "  {post}/v1/decide -d '{{\"userId\":\"user_10\",\"keys\":[\"{FLAG}\"],\"messageId\":\"mine-3\"}}'"
        );
        say!("… and read what became of them");
        say!("  {read}/events/mine-2");
        say!("  {read}/ledger");
        say!("  {read}/assignments?user=user_9");
        say!(
            "  curl http://{}/_sandbox/values/heap?user=user_9",
            self.sandbox
        );
        say!(
            "The console is at http://{}/ (sign in with {}).",
            self.admin,
            self.admin_token.expose()
        );
        say!(
            "The vendor sandbox is at http://{} (its log: /_sandbox/requests). Stop with Ctrl-C.",
            self.sandbox
        );
    }
}

/// One integration's part of the story: each request that held the decision, its reply, and the decision's own part of it.
fn tell(name: &str, chapter: &Value, sandbox: std::net::SocketAddr) {
    let outcome = plain(&chapter["outcome"]);
    let attempts = chapter["attempts"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if attempts.is_empty() {
        say!("  {name:<NAME$} {outcome}: {}", plain(&chapter["detail"]));
    }
    // Newest first in the answer; told in the order they were made.
    for (i, own) in attempts.iter().rev().enumerate() {
        let attempt = &own["attempt"];
        let head = if i == 0 { name } else { "" };
        let url = plain(&attempt["url"]);
        let place = url
            .strip_prefix(&format!("http://{sandbox}"))
            .unwrap_or(&url);
        let beside = match attempt["events"].as_u64() {
            Some(count) if count > 1 => format!(", with {} others", count - 1),
            _ => String::new(),
        };
        say!(
            "  {head:<NAME$} {} {place} -> {} {}{beside}",
            plain(&attempt["method"]),
            plain(&attempt["status"]),
            plain(&attempt["verdict"]),
        );
        if let Some(item) = own["item"].as_object() {
            let mut item = item.clone();
            // Optimizely's list of what is known of the person is longer than what was decided.
            item.shift_remove("attributes");
            say!(
                "  {:<NAME$}   {}",
                "",
                cut(&Value::Object(item).to_string())
            );
        }
    }
}

/// Prints the ledger; true when it balances.
fn books(integrations: &[Installed], ledger: &Value) -> bool {
    say!("\nLedger: accepted = delivered + skipped + deduplicated + dead + pending");
    for installed in integrations {
        let Some(row) = rows(ledger)
            .iter()
            .find(|row| row["integration"] == json!(installed.id))
        else {
            continue;
        };
        let count = |key: &str| row[key].to_string();
        let line = format!(
            "  {:<NAME$} {:>3} = {:>3} + {:>2} + {:>2} + {:>2} + {:>2}   {}",
            installed.name,
            count("accepted"),
            count("delivered"),
            count("skipped"),
            count("deduplicated"),
            count("dead"),
            count("pending"),
            reasons(row)
        );
        say!("{}", line.trim_end());
    }
    let balanced = ledger["balanced"] == json!(true);
    say!(
        "  {}",
        if balanced {
            "the books balance"
        } else {
            "THE BOOKS DO NOT BALANCE"
        }
    );
    balanced
}

/// Why events were skipped or are dead.
fn reasons(row: &Value) -> String {
    let mut said = Vec::new();
    for (word, key) in [("skipped", "skipped_reasons"), ("dead", "dead_reasons")] {
        for (reason, count) in row[key].as_object().into_iter().flatten() {
            said.push(format!("{count} {word}: {reason}"));
        }
    }
    said.join(", ")
}

fn rows(list: &Value) -> &[Value] {
    list["data"].as_array().map_or(&[][..], Vec::as_slice)
}

/// A value without quotation marks.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LINE_CHARS_MAX {
        return text.to_owned();
    }
    let head: String = text.chars().take(LINE_CHARS_MAX - 1).collect();
    format!("{head}…")
}
