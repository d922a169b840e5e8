//! Brevo: the rates of an account, as its tier is declared and as its headers tell.

use serde_json::json;

use super::*;

const BATCH: &str = "/brevo/v3/events/batch";
const EVENTS: &str = "/brevo/v3/events";

/// The longest run of requests within less than this time.
fn densest(requests: &[Value], within_ms: Millis) -> usize {
    let times: Vec<Millis> = requests.iter().map(at_ms).collect();
    let from = |at: usize| {
        let end = times[at] + within_ms;
        times[at..].iter().take_while(|time| **time < end).count()
    };
    (0..times.len()).map(from).max().unwrap_or(0)
}

/// Twice as many a second as on the general tier, and not one more: the vendor counts.
#[tokio::test(flavor = "multi_thread")]
async fn the_tier_somebody_declares_is_the_rate_that_is_kept() {
    for (tier, per_s) in [("general", 10), ("advanced", 20)] {
        // The machine's own time: a burst is not a matter of how busy it is.
        let fan = Fan::start_with(1).await;
        fan.policies(json!({"brevo": {"tier": tier}}));
        let people = users("u", 2 * per_s + 5);
        fan.prepare(&people, &["checkout"]);
        let config = json!({"tier": tier, "events_mode": "single"});
        let id = fan
            .install("brevo", config, json!({"batch_wait_ms": 20}))
            .await;
        fan.post(&one_each(&fan, &people)).await;
        assert_eq!(fan.app.settled(&id).await["delivered"], json!(people.len()));
        let requests = with_method(fan.requests(EVENTS), "POST");
        assert_eq!(requests.len(), people.len(), "{tier}");
        assert!(answers(&requests).iter().all(|status| *status == 204));
        // What the network adds to one request may bring it nearer to the next.
        let most = densest(&requests, 800);
        assert!(most <= per_s, "{tier}: {most} in a second");
        if tier == "advanced" {
            let most = densest(&requests, 1_000);
            assert!(most > 10, "no more than on the general tier: {most}");
        }
        fan.stop().await;
    }
}

/// The headers tell of less than is published: after the first answers nobody has to be refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_allowance_in_the_headers_is_kept_from_then_on() {
    let fan = Fan::start().await;
    fan.policies(json!({"brevo": {"buckets": {"events_batch": [{"limit": 4, "per_ms": 10_000}]}}}));
    let people = users("u", 32);
    fan.prepare(&people, &["checkout"]);
    let config = json!({"events_mode": "batch"});
    let settings = json!({"batch_items": 2, "batch_wait_ms": 100, "in_flight_max": 2});
    let id = fan.install("brevo", config, settings).await;
    forget_requests(&fan).await;
    fan.post(&one_each(&fan, &people)).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(32));
    let requests = fan.requests(BATCH);
    assert_eq!(answers(&requests), [202; 16]);
    assert!(densest(&requests, 9_000) <= 4);
    fan.stop().await;
}

/// The headers tell of more: the published hundred an hour do not hold anybody up, and nothing goes one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_larger_allowance_in_the_headers_is_used_at_once() {
    let fan = Fan::start().await;
    fan.policies(json!({"brevo": {"events_batch_bucket": "events"}}));
    let people = users("u", 130);
    fan.prepare(&people, &["checkout"]);
    let id = fan
        .install(
            "brevo",
            json!({"events_mode": "batch"}),
            json!({"batch_items": 1, "batch_wait_ms": 20}),
        )
        .await;
    forget_requests(&fan).await;
    fan.post(&one_each(&fan, &people)).await;
    assert_eq!(fan.app.settled(&id).await["delivered"], json!(130));
    let requests = fan.requests(BATCH);
    assert_eq!(answers(&requests), [202; 130]);
    let took_ms = at_ms(&requests[129]) - at_ms(&requests[0]);
    assert!(took_ms < 3_600_000, "{took_ms} ms");
    fan.stop().await;
}
