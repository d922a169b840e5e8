//! Repeated requests have one effect; too many are refused.

use std::net::IpAddr;

use super::*;
use crate::net::Peer;

/// One POST with an Idempotency-Key.
fn keyed(token: &str, path: &str, key: &str, body: &Value) -> Request<Body> {
    Request::builder()
        .method("POST")
        .uri(format!("/v1/admin/{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("idempotency-key", key)
        .body(Body::from(body.to_string()))
        .unwrap()
}

impl Api {
    async fn post_keyed(&self, path: &str, key: &str, body: &Value) -> (u16, bool, Value) {
        let (status, headers, text) = self.raw(keyed(ADMIN, path, key, body)).await;
        (
            status.as_u16(),
            headers.contains_key("idempotency-replayed"),
            serde_json::from_str(&text).unwrap(),
        )
    }
}

#[tokio::test]
async fn a_repeated_creation_has_one_effect_and_one_answer_also_after_a_restart() {
    const INSTALL: &str = "integration-catalog/optimizely/install";
    let api = Api::new();
    let (status, again, first) = api.post_keyed(INSTALL, "k-1", &seed_body()).await;
    assert_eq!((status, again), (201, false), "{first}");
    assert_eq!(
        api.post_keyed(INSTALL, "k-1", &seed_body()).await,
        (201, true, first.clone())
    );
    // The answer that holds a key is kept too, and not in clear.
    let source = json!({ "name": "shop" });
    let (_, _, made) = api.post_keyed("sources", "k-1-source", &source).await;
    let write_key = made["write_key"].as_str().unwrap();

    let api = api.again().await;
    assert_eq!(
        api.post_keyed(INSTALL, "k-1", &seed_body()).await,
        (201, true, first)
    );
    assert_eq!(
        api.post_keyed("sources", "k-1-source", &source).await,
        (201, true, made.clone())
    );
    assert_eq!(api.registry.picture().integrations.len(), 1);
    let mut read = 0;
    for file in std::fs::read_dir(api.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        read += bytes.len();
        for secret in [write_key, SDK_KEY] {
            assert!(
                !bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes())
            );
        }
    }
    assert!(read > 10_000);

    let mut other = seed_body();
    other["name"] = json!("Another");
    let (status, _, answer) = api.post_keyed(INSTALL, "k-1", &other).await;
    assert_eq!(
        (status, &answer["code"]),
        (422, &json!("idempotency_key_reused"))
    );
    // The same key in another hand is another key.
    let editor = api
        .registry
        .create_token(&Actor::cli(), "e", Role::Editor, None)
        .await
        .unwrap();
    let (status, _, _) = api
        .raw(keyed(editor.expose(), INSTALL, "k-1", &other))
        .await;
    assert_eq!(status, 201);

    api.clock.advance(crate::registry::answers::KEPT_MS);
    let (status, again, answer) = api.post_keyed(INSTALL, "k-1", &seed_body()).await;
    assert_eq!((status, again), (422, false), "{answer}");
}

#[tokio::test]
async fn posts_at_the_same_time_have_one_effect() {
    let api = Api::new();
    let body = json!({ "name": "shop" });
    let posts = (0..8).map(|_| api.post_keyed("sources", "k-2", &body));
    let answers = futures_util::future::join_all(posts).await;
    let made: Vec<_> = answers
        .iter()
        .filter(|(status, again, _)| *status == 201 && !again)
        .collect();
    assert_eq!(made.len(), 1);
    for (status, again, answer) in &answers {
        match status {
            201 => assert_eq!(answer, &made[0].2),
            409 => assert_eq!(answer["code"], "idempotency_key_in_use"),
            other => panic!("{other} {again} {answer}"),
        }
    }
    assert!(answers.iter().any(|(status, _, _)| *status == 409));
    let named = |entry: &&crate::registry::picture::SourceEntry| entry.source.name == "shop";
    let picture = api.registry.picture();
    assert_eq!(picture.sources.iter().filter(named).count(), 1);
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_free_and_a_bad_key_is_refused() {
    let api = Api::new();
    let path = "tokens";
    let (status, _, _) = api.post_keyed(path, "k-3", &json!({ "name": "" })).await;
    assert_eq!(status, 422);
    let good = json!({ "name": "ci", "role": "viewer" });
    assert_eq!(api.post_keyed(path, "k-3", &good).await.0, 201);
    for key in ["", &"x".repeat(256), "t\tab"] {
        let (status, _, answer) = api.post_keyed(path, key, &good).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid_idempotency_key")),
            "{key:?}"
        );
    }
    // A replay by key: the second post finds nothing dead any more and is answered all the same.
    let id = api.installed().await;
    dead(&api, &id, "m-1").await;
    let body = json!({ "integration": id });
    let (status, _, first) = api.post_keyed("dead-letters/replay", "k-4", &body).await;
    assert_eq!((status, &first["matched"]), (202, &json!(1)));
    assert_eq!(
        api.post_keyed("dead-letters/replay", "k-4", &body).await,
        (202, true, first)
    );
}

/// A token that has made all its calls.
pub(super) async fn exhausted(api: &Api) -> String {
    let token = api
        .registry
        .create_token(&Actor::cli(), "busy", Role::Admin, None)
        .await
        .unwrap();
    for _ in 0..RATE {
        api.as_token(token.expose(), "GET", "ledger", None).await;
    }
    token.expose().to_owned()
}

#[tokio::test]
async fn a_token_has_so_many_calls_a_minute() {
    let api = Api::new();
    let viewer = api
        .registry
        .create_token(&Actor::cli(), "v", Role::Viewer, None)
        .await
        .unwrap();
    let ask = |token: &str| {
        Request::builder()
            .uri("/v1/admin/ledger")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap()
    };
    for n in 1..=RATE {
        let (status, headers, _) = api.raw(ask(viewer.expose())).await;
        assert_eq!(status, 200);
        assert_eq!(
            headers["ratelimit"].to_str().unwrap(),
            format!("\"token\";r={};t=60", RATE - n)
        );
        assert_eq!(
            headers["ratelimit-policy"].to_str().unwrap(),
            format!("\"token\";q={RATE};w=60")
        );
    }
    api.clock.advance(20_500);
    let (status, headers, text) = api.raw(ask(viewer.expose())).await;
    assert_eq!(
        (status.as_u16(), &headers["retry-after"]),
        (429, &"40".parse().unwrap())
    );
    assert!(text.contains("too_many_requests"), "{text}");
    assert_eq!(api.raw(ask(ADMIN)).await.0, 200);
    api.clock.advance(39_500);
    assert_eq!(api.raw(ask(viewer.expose())).await.0, 200);
}

#[tokio::test]
async fn an_address_may_guess_so_often() {
    let api = Api::new();
    let ask = async |address: &str, token: &str| {
        let address: IpAddr = address.parse().unwrap();
        let request = Request::builder()
            .uri("/v1/admin/ledger")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .extension(Peer(address))
            .body(Body::empty())
            .unwrap();
        let (status, headers, _) = api.raw(request).await;
        (status.as_u16(), headers.contains_key("retry-after"))
    };
    assert_eq!(ask("192.0.2.1", ADMIN).await, (200, false));
    for n in 0..30 {
        assert_eq!(ask("192.0.2.1", &format!("adm_guess_{n}")).await.0, 401);
    }
    assert_eq!(ask("192.0.2.1", "adm_guess_31").await, (429, true));
    // Not even a right guess is told apart; who was in already stays in, and other addresses are not concerned.
    let fresh = api
        .registry
        .create_token(&Actor::cli(), "v", Role::Viewer, None)
        .await
        .unwrap();
    assert_eq!(ask("192.0.2.1", fresh.expose()).await, (429, true));
    assert_eq!(ask("192.0.2.1", ADMIN).await, (200, false));
    assert_eq!(ask("192.0.2.2", fresh.expose()).await, (200, false));
    api.clock.advance(60_000);
    assert_eq!(ask("192.0.2.1", fresh.expose()).await, (200, false));
}
