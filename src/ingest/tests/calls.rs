//! What is taken, from whom, and what the caller is told.

use super::*;

#[tokio::test]
async fn every_route_takes_its_call() {
    let door = door();
    let batch = format!(r#"{{"batch":[{{"type":"track",{}]}}"#, &EVENT[1..]);
    for (path, body, kind) in [
        ("/v1/track", EVENT, "track"),
        ("/v1/t", EVENT, "track"),
        ("/v1/t/", EVENT, "track"),
        ("//v1/identify", EVENT, "identify"),
        ("/v1/i", EVENT, "identify"),
        ("/v1/page", EVENT, "page"),
        ("/v1/p", EVENT, "page"),
        ("/v1/screen?x=y", EVENT, "screen"),
        ("/v1/s", EVENT, "screen"),
        ("/v1/group", EVENT, "group"),
        ("/v1/g", EVENT, "group"),
        ("/v1/alias", EVENT, "alias"),
        ("/v1/a", EVENT, "alias"),
        ("/v1/batch/", &batch, "track"),
        ("/v1/b", &batch, "track"),
        ("/v1/import", &batch, "track"),
        ("/api/s/page", EVENT, "page"),
        ("/api/s/s2s/group", EVENT, "group"),
        (
            "/api/s/s2s/event",
            r#"{"type":"page","userId":"u"}"#,
            "page",
        ),
    ] {
        let answer = door.post(path, body.to_owned()).await;
        assert_eq!(
            answer.text, r#"{"success":true,"accepted":1,"rejected":[]}"#,
            "{path}"
        );
        assert_eq!(door.events().last().unwrap().kind.as_str(), kind, "{path}");
    }
    let stored = door.events().len();
    assert_eq!(
        door.send("POST", "/v1/m", &[], r#"{"series":[]}"#)
            .await
            .status,
        200
    );
    assert_eq!(
        door.post("/v1/batch", r#"{"batch":[]}"#).await.json()["accepted"],
        0
    );
    assert_eq!(door.events().len(), stored);
    for (method, path, status, code) in [
        ("GET", "/v1/track", 405, "method_not_allowed"),
        ("PUT", "/v1/batch", 405, "method_not_allowed"),
        ("POST", "/v1/projects/k/settings", 405, "method_not_allowed"),
        ("GET", "/v1/projects/a b/settings", 400, "bad_request"),
        ("GET", "/", 404, "no_such_route"),
        ("OPTIONS", "/v2/track", 404, "no_such_route"),
        ("POST", "/v1/tracks", 404, "no_such_route"),
        ("GET", "/v1/decide", 405, "method_not_allowed"),
        (
            "POST",
            "/v1/webhooks/lytics/src_1",
            501,
            "not_available_yet",
        ),
    ] {
        let answer = door.send(method, &path.replace(' ', "%20"), &[], "").await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (status, code),
            "{method} {path}"
        );
        assert_eq!(
            answer.headers.contains_key("allow"),
            status == 405,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_write_key_may_come_in_every_way_and_the_header_wins() {
    // base64: `WRITEKEY_TEST:`, without colon, `kid:secret`, `nobody:`, `:`
    for (headers, in_body, wanted) in [
        (
            vec![("authorization", "Basic V1JJVEVLRVlfVEVTVDo=")],
            None,
            Ok("src_1"),
        ),
        (
            vec![("authorization", "basic V1JJVEVLRVlfVEVTVA")],
            None,
            Ok("src_1"),
        ),
        (
            vec![("authorization", "Basic a2lkOnNlY3JldA==")],
            None,
            Ok("src_kid"),
        ),
        (
            vec![("authorization", "Bearer WRITEKEY_TEST")],
            None,
            Ok("src_1"),
        ),
        (vec![("x-write-key", "kid:secret")], None, Ok("src_kid")),
        (vec![("x-write-key", "whole:key")], None, Ok("src_whole")),
        (vec![("x-write-key", "kid")], Some(KEY), Ok("src_kid")),
        (
            vec![("authorization", "Basic Og=="), ("x-write-key", "kid")],
            None,
            Ok("src_kid"),
        ),
        (
            vec![("authorization", "Digest abc")],
            Some(KEY),
            Ok("src_1"),
        ),
        (
            vec![("authorization", "Basic Og==")],
            Some("kid:x"),
            Ok("src_kid"),
        ),
        (vec![], Some(KEY), Ok("src_1")),
        (
            vec![("authorization", "Basic bm9ib2R5Og==")],
            Some(KEY),
            Err("unknown_write_key"),
        ),
        (
            vec![("authorization", "Basic !!!")],
            Some(KEY),
            Err("unknown_write_key"),
        ),
        (
            vec![("authorization", "Bearer WRITEKEY_TES")],
            None,
            Err("unknown_write_key"),
        ),
        (vec![("x-write-key", "off")], None, Err("source_disabled")),
        (vec![("x-write-key", "")], None, Err("missing_write_key")),
        (vec![], Some("nobody"), Err("unknown_write_key")),
        (vec![], Some(""), Err("missing_write_key")),
        (vec![], None, Err("missing_write_key")),
    ] {
        let door = door();
        let body = json!({"event": "e", "userId": "u", "writeKey": in_body}).to_string();
        // Twice: the second time the header's text is remembered.
        for _ in 0..2 {
            let answer = door.send("POST", "/v1/track", &headers, body.clone()).await;
            match wanted {
                Ok(source) => {
                    assert_eq!(
                        answer.status, 200,
                        "{headers:?} {in_body:?} {}",
                        answer.text
                    );
                    assert_eq!(door.events().last().unwrap().source, source, "{headers:?}");
                }
                Err(code) => {
                    assert_eq!((answer.status, &*answer.code()), (401, code), "{headers:?}");
                    assert!(answer.headers.contains_key("www-authenticate"));
                    assert!(!answer.text.contains("nobody") && !answer.text.contains("WRITEKEY"));
                }
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_key_is_refused_before_the_body_is_read() {
    let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let answer = door()
        .send("POST", "/v1/batch", &[("x-write-key", "nobody")], never)
        .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_changed_view_counts_at_once() {
    let door = door();
    assert_eq!(door.post("/v1/t", EVENT).await.status, 200);
    door.view
        .store(view(&[("kid", source("src_kid", None, true))]));
    assert_eq!(door.post("/v1/t", EVENT).await.status, 401);
    door.view
        .store(view(&[(KEY, source("src_new", None, true))]));
    assert_eq!(door.post("/v1/t", EVENT).await.status, 200);
    assert_eq!(door.events().last().unwrap().source, "src_new");
}

#[tokio::test]
async fn a_bad_event_harms_nobody_else() {
    let door = door();
    let large = "x".repeat(33_000);
    let batch = json!({"writeKey": "nobody", "batch": [
        {"type": "track", "event": "e", "userId": "u"},
        {"type": "track", "event": "e", "writeKey": "hide-me"},
        {"type": "track", "event": "e", "userId": "u", "properties": {"x": large}},
        {"type": "track", "event": "e", "userId": "u", "messageId": 5},
        {"type": "page", "anonymousId": "a", "properties": [1]},
        "nonsense",
        {"type": "page", "anonymousId": "a"},
    ]});
    let answer = door.post("/v1/batch", batch.to_string()).await;
    assert_eq!(answer.status, 200);
    let document = answer.json();
    assert_eq!(
        (&document["success"], &document["accepted"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(
        rejected(&document),
        [
            (1, "missing_identity", "/batch/1"),
            (2, "event_too_large", "/batch/2"),
            (3, "wrong_type", "/batch/3/messageId"),
            (4, "wrong_type", "/batch/4/properties"),
            (5, "wrong_type", "/batch/5"),
        ]
    );
    assert_eq!(door.events().len(), 2);
    {
        let rejected = door.kept.rejected.lock();
        assert_eq!(rejected.len(), 5);
        assert!(
            rejected
                .iter()
                .all(|one| one.body.len() <= 4 << 10 && one.source == "src_1" && one.at_ms == NOW)
        );
        assert!(!String::from_utf8_lossy(&rejected[0].body).contains("hide-me"));
    }
    // A single call is treated alike: any 4xx would make SDKs complain of the whole.
    let answer = door.post("/v1/track", r#"{"event":"e"}"#).await;
    let document = answer.json();
    assert_eq!((answer.status, &document["accepted"]), (200, &json!(0)));
    assert_eq!(document["rejected"][0]["code"], "missing_identity");
    // Nothing is logged for a request that has to come again.
    *door.kept.fails.lock() = Some(AppendError::Busy);
    assert_eq!(door.post("/v1/batch", batch.to_string()).await.status, 429);
    assert_eq!(door.kept.rejected.lock().len(), 6);
}

#[tokio::test]
async fn a_webhook_is_handed_on_as_it_is() {
    let door = door();
    for (path, signature, body, status) in [
        ("/v1/webhooks/optimizely/int_1", "sha1=ok", "{}", 204),
        ("/v1/webhooks/optimizely/int_1/", "sha1=ok", "[]", 400),
        ("/v1/webhooks/optimizely/int_1", "sha1=no", "{}", 401),
        ("/v1/webhooks/optimizely/int_2", "sha1=ok", "{}", 404),
    ] {
        let answer = door
            .send("POST", path, &[("x-hub-signature", signature)], body)
            .await;
        assert_eq!(answer.status, status, "{path} {signature}");
    }
}
