//! Who may do what, and what nobody is ever shown.

use super::*;
use crate::registry::SourceSpec;

/// Who calls, and the role that counts: none for those without a token that works.
async fn callers(api: &Api) -> Vec<(&'static str, Option<Role>, String)> {
    let (_, write_key) = api
        .registry
        .create_source(&Actor::cli(), SourceSpec::named("matrix"), None)
        .await
        .unwrap();
    let mut callers = vec![
        ("none", None, String::new()),
        ("invented", None, "adm_x_y".to_owned()),
        ("write key", None, write_key.expose().to_owned()),
    ];
    for (name, role) in [
        ("viewer", Role::Viewer),
        ("operator", Role::Operator),
        ("editor", Role::Editor),
        ("admin", Role::Admin),
    ] {
        let token = api
            .registry
            .create_token(&Actor::cli(), name, role, None)
            .await
            .unwrap();
        callers.push((name, Some(role), token.expose().to_owned()));
    }
    let revoked = api
        .ok(
            "POST",
            "tokens",
            Some(json!({ "name": "x", "role": "admin" })),
        )
        .await;
    let path = format!("tokens/{}", revoked["id"].as_str().unwrap());
    api.ok("DELETE", &path, None).await;
    callers.push((
        "revoked",
        None,
        revoked["token"].as_str().unwrap().to_owned(),
    ));
    callers
}

/// Every call of the document × every kind of caller: exactly the documented cells get past the door.
#[tokio::test]
async fn every_call_takes_exactly_the_roles_it_names() {
    let api = Api::new();
    let callers = callers(&api).await;
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut cells = 0;
    let mut table = Vec::new();
    for (method, path, call) in document::calls(&document) {
        let is_open = call["security"] == json!([]);
        let needed: Option<Role> = serde_json::from_value(call["x-minimum-role"].clone()).ok();
        assert_eq!(
            needed.is_none(),
            is_open,
            "{method} {path} names no role, and does not say that it needs none"
        );
        let row = needed.map_or_else(|| "nobody".to_owned(), |role| format!("{role:?}"));
        table.push(format!("{row} {method} {path}").to_lowercase());
        for (caller, role, token) in &callers {
            let mut request = Request::builder()
                .method(method.as_str())
                .uri(path.replace(['{', '}'], ""));
            if !token.is_empty() {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = api
                .router
                .clone()
                .oneshot(request.body(Body::empty()).unwrap())
                .await
                .unwrap();
            let status = response.status().as_u16();
            let expected = match (needed, role) {
                (None, _) => 200,
                (Some(_), None) => 401,
                (Some(needed), Some(role)) if *role < needed => 403,
                (Some(_), Some(_)) => 0,
            };
            if expected == 0 {
                assert!(
                    ![401, 403, 405].contains(&status),
                    "{method} {path} as {caller}: {status}"
                );
            } else {
                assert_eq!(status, expected, "{method} {path} as {caller}");
            }
            cells += 1;
        }
    }
    assert_eq!(cells, table.len() * 8);
    assert!(cells > 300, "{cells}");
    table.sort();
    insta::assert_snapshot!("roles", table.join("\n"));
}

#[tokio::test]
async fn secrets_are_in_no_answer_and_not_in_the_files() {
    let api = Api::new();
    let id = api.installed().await;
    let source = api
        .ok("POST", "sources", Some(json!({ "name": "web" })))
        .await;
    let key = source["write_key"].as_str().unwrap().to_owned();
    let token = api
        .ok(
            "POST",
            "tokens",
            Some(json!({ "name": "ci", "role": "viewer" })),
        )
        .await;
    let token = token["token"]
        .as_str()
        .unwrap()
        .rsplit_once('_')
        .unwrap()
        .1
        .to_owned();
    let new_key = "another_sdk_key_0815";
    api.ok(
        "PATCH",
        &format!("integrations/{id}"),
        Some(json!({ "config": { "sdk_key": new_key, "datafile_url": null } })),
    )
    .await;
    api.ok(
        "POST",
        "blueprints/try",
        Some(json!({ "integration": id, "event": { "event": "signup", "userId": "u" } })),
    )
    .await;

    let secrets = [SDK_KEY, new_key, &key, &token, ADMIN];
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        if item.get("get").is_some() && path.starts_with("/v1/") {
            let path = path
                .strip_prefix("/v1/admin/")
                .unwrap()
                .replace("{id}", &id)
                .replace("{vendor}", "optimizely")
                .replace("{n}", "1");
            let (_, answer) = api.call("GET", &path, None).await;
            for secret in secrets {
                assert!(!answer.to_string().contains(secret), "{path}: {answer}");
            }
        }
    }
    let mut read = 0;
    for file in std::fs::read_dir(api.dir.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        read += bytes.len();
        for secret in secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} stands in {}", path.display());
        }
    }
    assert!(read > 10_000);
}

#[tokio::test]
async fn two_keys_live_while_rotating() {
    let api = Api::new();
    let made = api
        .ok(
            "POST",
            "sources",
            Some(json!({ "name": "web", "rate": 50 })),
        )
        .await;
    let id = made["id"].as_str().unwrap().to_owned();
    let mut keys = vec![made["write_key"].as_str().unwrap().to_owned()];
    for _ in 0..2 {
        let answer = api
            .ok("POST", &format!("sources/{id}/rotate-key"), None)
            .await;
        assert_eq!(answer["keys"].as_array().unwrap().len(), 2);
        keys.push(answer["write_key"].as_str().unwrap().to_owned());
    }
    let live = |key: &str| {
        let hash = crate::registry::picture::sha256(key);
        api.registry
            .view()
            .load()
            .sources_by_key
            .contains_key(&hash)
    };
    assert_eq!(
        keys.iter().map(|key| live(key)).collect::<Vec<_>>(),
        [false, true, true]
    );
    let shown = api.ok("GET", &format!("sources/{id}"), None).await;
    assert!(shown.get("write_key").is_none());
    let old = shown["keys"][0]["id"].as_str().unwrap();
    api.ok("DELETE", &format!("sources/{id}/keys/{old}"), None)
        .await;
    assert_eq!(
        keys.iter().map(|key| live(key)).collect::<Vec<_>>(),
        [false, false, true]
    );

    let mut body = seed_body();
    body["sources"] = json!([id]);
    api.ok("POST", "integration-catalog/optimizely/install", Some(body))
        .await;
    let (status, answer) = api.call("DELETE", &format!("sources/{id}"), None).await;
    assert_eq!((status, &answer["code"]), (409, &json!("source_in_use")));
}
