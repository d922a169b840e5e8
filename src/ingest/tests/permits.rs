//! What a source's lists let in: pages by their origin, events by name and kind, keys by their own rate.

use super::*;
use crate::event::Kind;
use crate::registry::Permits;

const PAGE: &str = "https://shop.example";

fn held(id: &str, permits: Permits) -> Arc<Source> {
    let mut held = Source::clone(&source(id, None, true));
    held.permits = permits;
    Arc::new(held)
}

fn texts(texts: &[&str]) -> Option<Vec<String>> {
    Some(texts.iter().map(|text| (*text).to_owned()).collect())
}

fn pages_only() -> Arc<Source> {
    held(
        "src_web",
        Permits {
            origins: texts(&[PAGE, "https://*.shop.example"]),
            ..Permits::default()
        },
    )
}

#[tokio::test]
async fn a_page_that_is_not_listed_is_refused_and_shown() {
    let door = door();
    door.view.store(view(&[
        ("web", pages_only()),
        (KEY, source("src_1", None, true)),
    ]));
    let post = async |origin: Option<&str>, key: &str| {
        let mut headers = vec![("x-write-key", key)];
        headers.extend(origin.map(|origin| ("origin", origin)));
        door.send_any("POST", "/v1/track", &headers, EVENT).await
    };
    for (origin, key, status, allowed) in [
        (Some(PAGE), "web", 200, Some(PAGE)),
        (
            Some("https://m.shop.example"),
            "web",
            200,
            Some("https://m.shop.example"),
        ),
        (None, "web", 200, Some("*")),
        (Some("https://evil.example"), "web", 403, None),
        (Some("null"), "web", 403, None),
        (Some("https://evil.example"), KEY, 200, Some("*")),
    ] {
        let answer = post(origin, key).await;
        let place = format!("{origin:?} with {key}");
        assert_eq!(answer.status, status, "{place}");
        let named = answer.headers.get("access-control-allow-origin");
        assert_eq!(
            named.map(|value| value.to_str().unwrap()),
            allowed,
            "{place}"
        );
        let varies = answer.headers.get("vary").is_some();
        assert_eq!(varies, origin.is_some() && key == "web", "{place}");
        if status == 403 {
            assert_eq!(answer.code(), "origin_not_allowed");
            assert!(answer.text.contains(origin.unwrap()), "{}", answer.text);
        }
    }
    assert_eq!(door.kept.records.lock().len(), 4);
    let rejected = door.kept.rejected.lock();
    let shown: Vec<_> = rejected
        .iter()
        .map(|event| (event.source.as_str(), event.code))
        .collect();
    assert_eq!(shown, [("src_web", "origin_not_allowed"); 2]);
}

#[tokio::test]
async fn a_key_in_the_body_and_a_decide_call_are_held_to_the_list_too() {
    let door = door();
    door.view.store(view(&[("web", pages_only())]));
    let evil = [("origin", "https://evil.example")];
    // As `sendBeacon` posts: no header of ours, so no preflight either.
    let body = r#"{"writeKey":"web","event":"e","userId":"u"}"#;
    let answer = door.send_any("POST", "/v1/track", &evil, body).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (403, "origin_not_allowed")
    );
    let body = r#"{"writeKey":"web","userId":"u"}"#;
    let answer = door.send_any("POST", "/v1/decide", &evil, body).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (403, "origin_not_allowed")
    );
    assert!(door.kept.records.lock().is_empty());
}

#[tokio::test]
async fn a_preflight_is_refused_when_no_source_takes_the_origin() {
    let door = door();
    let ask = async |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x-write-key"),
        ];
        door.send_any("OPTIONS", "/v1/track", &headers, "").await
    };
    assert_eq!(
        ask("https://evil.example").await.status,
        204,
        "some source takes all"
    );
    door.view.store(view(&[
        ("web", pages_only()),
        ("off", source("src_off", None, false)),
    ]));
    let allowed = ask(PAGE).await;
    assert_eq!(allowed.status, 204);
    assert!(allowed.headers.contains_key("access-control-allow-origin"));
    let asked = allowed.headers["access-control-allow-headers"]
        .to_str()
        .unwrap();
    assert!(asked.contains("x-write-key"));
    let refused = ask("https://evil.example").await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "origin_not_allowed")
    );
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn names_and_kinds_that_are_not_listed_are_rejected_one_by_one() {
    let door = door();
    let permits = Permits {
        events: texts(&["Order Completed", "Product *"]),
        types: Some(vec![Kind::Track, Kind::Page]),
        ..Permits::default()
    };
    door.view.store(view(&[(KEY, held("src_1", permits))]));
    let batch = json!({ "batch": [
        { "type": "track", "event": "Order Completed", "userId": "u" },
        { "type": "track", "event": "Order completed", "userId": "u" },
        { "type": "track", "event": "Product Added", "userId": "u" },
        { "type": "identify", "userId": "u" },
        { "type": "page", "name": "Home", "userId": "u" },
        { "type": "track", "event": "Experiment Viewed", "userId": "u",
          "properties": { "flag_key": "f", "enabled": true, "variation_key": "on" } },
    ]});
    let answer = door.post("/v1/batch", batch.to_string()).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["accepted"], 3);
    assert_eq!(
        rejected(&answer),
        [
            (1, "event_not_allowed", "/batch/1/event"),
            (3, "type_not_allowed", "/batch/3/type"),
            (5, "type_not_allowed", "/batch/5/type"),
        ]
    );
    let names: Vec<_> = door.events().into_iter().map(|event| event.kind).collect();
    assert_eq!(names, [Kind::Track, Kind::Track, Kind::Page]);
    let answer = door.post("/v1/decide", r#"{"userId":"u"}"#).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (403, "type_not_allowed")
    );
}

#[tokio::test]
async fn each_key_has_its_own_rate_within_the_sources() {
    let door = door();
    let mut both = Source::clone(&held(
        "src_1",
        Permits {
            key_rate: Some(10),
            ..Permits::default()
        },
    ));
    both.rate = Some(10);
    let both = Arc::new(both);
    door.view
        .store(view(&[("old", Arc::clone(&both)), ("new", both)]));
    let ten = json!({ "batch": vec![json!({ "type": "track", "event": "e", "userId": "u" }); 10] });
    let post = async |key: &str| {
        let headers = [("x-write-key", key)];
        door.send("POST", "/v1/batch", &headers, ten.to_string())
            .await
    };
    assert_eq!(post("old").await.status, 200);
    let spent = post("old").await;
    assert_eq!((spent.status, spent.code().as_str()), (429, "rate_limited"));
    assert_eq!(spent.headers["ratelimit-policy"], "\"key\";q=10;w=1");
    // The other key has spent nothing of its own, but the source has.
    let spent = post("new").await;
    assert_eq!(spent.status, 429);
    assert_eq!(spent.headers["ratelimit-policy"], "\"source\";q=10;w=1");
    // What a refused call took of the key's own is given back.
    door.clock.advance(1_000);
    assert_eq!(post("new").await.status, 200);
}
