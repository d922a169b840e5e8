//! Installing an integration, changing it, and its blueprint's revisions.

use super::*;

#[tokio::test]
async fn the_seeds_install_works_as_it_stands() {
    let api = Api::new();
    let (status, answer) = api
        .call(
            "POST",
            "integration-catalog/optimizely/install",
            Some(seed_body()),
        )
        .await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["name"], "Optimizely");
    assert_eq!(answer["delivery_mode"], "server_side");
    assert_eq!(answer["config"]["account_id"], "12345678");
    assert_eq!(
        answer["config"]["sdk_key"],
        json!({ "set": true, "hint": "…cret" })
    );
    assert!(answer.get("warnings").is_none(), "{answer}");
    let id = answer["id"].as_str().unwrap();
    assert_eq!(api.registry.view().load().integrations[0].id, id);
    assert!(
        api.journal
            .ledger()
            .await
            .unwrap()
            .iter()
            .any(|row| row.feed == id)
    );
    let list = api.ok("GET", "integrations", None).await;
    assert_eq!(list["data"][0]["id"], id);
    assert_eq!(list["has_more"], false);
    let ledger = api.ok("GET", "ledger", None).await;
    assert_eq!(
        (&ledger["balanced"], &ledger["data"][0]["integration"]),
        (&json!(true), &json!(id))
    );
}

#[tokio::test]
async fn the_catalog_tells_what_an_install_asks() {
    let api = Api::new();
    let entry = api.ok("GET", "integration-catalog/optimizely", None).await;
    assert_eq!(entry["category"], "Analytics");
    let fields = entry["fields"].as_array().unwrap();
    let field = |key: &str| fields.iter().find(|field| field["key"] == key).unwrap();
    assert_eq!(
        (&field("sdk_key")["type"], &field("sdk_key")["required"]),
        (&json!("secret"), &json!(true))
    );
    assert_eq!(field("events_url")["advanced"], true);
    assert_eq!(entry["variants"][0]["variant"], "default");
    let (status, _) = api.call("GET", "integration-catalog/nobody", None).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn all_bad_fields_come_at_once_and_nothing_is_installed() {
    let api = Api::new();
    let found = api
        .refused_install(json!({
            "variant": "fancy",
            "delivery_mode": "client_side",
            "sources": ["src_nobody"],
            "colour": "red",
            "settings": { "in_flight_max": 0, "events_url": "http://10.0.0.1/x", "speed": 1 },
            "config": {
                "account_id": "123\r\nX-Evil: 1",
                "sdk_key": "schlüssel",
                "datafile_url": "https://169.254.169.254/latest",
                "shoe_size": 43,
                "currency": 5,
            },
        }))
        .await;
    let expected = [
        "name",
        "variant",
        "delivery_mode",
        "sources[0]",
        "colour",
        "settings.in_flight_max",
        "settings.events_url",
        "settings.speed",
        "config.account_id",
        "config.sdk_key",
        "config.datafile_url",
        "config.shoe_size",
        "config.currency",
        "config.project_id",
    ];
    for field in expected {
        assert!(found.contains_key(field), "{field} is not in {found:?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
    assert!(api.registry.picture().integrations.is_empty());
    assert!(api.journal.ledger().await.unwrap().is_empty());
    assert_eq!(
        api.refused_install(json!({ "name": "x", "config": [] }))
            .await["config"],
        "wrong_type"
    );
}

#[tokio::test]
async fn a_second_install_of_the_same_name_is_refused() {
    let api = Api::new();
    api.installed().await;
    assert_eq!(
        api.refused_install(seed_body()).await,
        faults(&[("name", "duplicate_name")])
    );
}

#[tokio::test]
async fn a_datafile_is_looked_at_before_anything_is_stored() {
    let api = Api::new();
    let mut other = datafile();
    other["projectId"] = json!("1");
    *api.outside.0.lock() = Ok(other);
    let found = api.refused_install(seed_body()).await;
    assert!(found.contains_key("config.project_id"), "{found:?}");

    *api.outside.0.lock() = Err(DocumentFault::Status(403));
    let found = api.refused_install(seed_body()).await;
    assert_eq!(
        found,
        faults(&[("config.datafile_url", "document_refused")])
    );
    let mut without = seed_body();
    without["config"]
        .as_object_mut()
        .unwrap()
        .shift_remove("datafile_url");
    assert_eq!(
        api.refused_install(without).await,
        faults(&[("config.sdk_key", "document_refused")])
    );
    assert!(api.registry.picture().integrations.is_empty());

    *api.outside.0.lock() = Err(DocumentFault::Unreachable("timeout".to_owned()));
    let answer = api
        .ok(
            "POST",
            "integration-catalog/optimizely/install",
            Some(seed_body()),
        )
        .await;
    assert_eq!(answer["warnings"][0]["code"], "document_unreachable");
}

#[tokio::test]
async fn a_change_merges_and_keeps_what_is_left_out() {
    let api = Api::new();
    let id = api.installed().await;
    let path = format!("integrations/{id}");
    let before = api.ok("GET", &path, None).await;
    // What was read can be sent back as it is: masked values stay.
    let body = json!({ "name": "Renamed", "config": before["config"], "settings": { "timeout_ms": 5000, "events_url": "https://eu.logx.optimizely.com/v1/events" } });
    let after = api.ok("PATCH", &path, Some(body)).await;
    assert_eq!(after["name"], "Renamed");
    assert_eq!(after["settings"]["timeout_ms"], 5000);
    assert_eq!(
        after["settings"]["events_url"],
        "https://eu.logx.optimizely.com/v1/events"
    );
    assert_eq!(after["config"], before["config"]);
    assert!(after["version"].as_u64() > before["version"].as_u64());
    let picture = api.registry.picture();
    let config = &picture.integration(&id).unwrap().config;
    assert_eq!(
        config["sdk_key"],
        crate::blueprint::ConfigValue::Secret(Secret::new(SDK_KEY))
    );
    assert_eq!(
        config["datafile_url"],
        crate::blueprint::ConfigValue::Text(format!(
            "https://cdn.optimizely.com/datafiles/{SDK_KEY}.json"
        ))
    );
    let (status, answer) = api
        .call(
            "PATCH",
            &path,
            Some(json!({ "config": { "account_id": null }, "vendor": "x" })),
        )
        .await;
    assert_eq!(status, 422);
    let fields: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["vendor", "config.account_id"]);
}

#[tokio::test]
async fn blueprints_have_revisions_and_a_bad_one_never_runs() {
    let api = Api::new();
    let id = api.installed().await;
    let path = format!("integrations/{id}/blueprint");
    let first = api.ok("GET", &path, None).await;
    let text = first["text"].as_str().unwrap();
    let second = text.replace("title: Optimizely", "title: Our Optimizely");
    let answer = api
        .ok(
            "PUT",
            &path,
            Some(json!({ "text": second, "note": "our own title" })),
        )
        .await;
    assert_eq!(answer["blueprint_revision"], 2);

    let (status, answer) = api
        .call(
            "PUT",
            &path,
            Some(json!({ "text": "blueprint: optimizely/default\ntrack: 5\n" })),
        )
        .await;
    assert_eq!((status, &answer["code"]), (422, &json!("blueprint_faults")));
    assert!(answer["diagnostics"][0]["line"].is_u64(), "{answer}");
    assert_eq!(api.ok("GET", &path, None).await["revision"], 2);

    let back = api
        .ok(
            "POST",
            &format!("{path}/rollback"),
            Some(json!({ "revision": 1 })),
        )
        .await;
    assert_eq!(back["blueprint_revision"], 3);
    let list = api.ok("GET", &format!("{path}/revisions"), None).await;
    let numbers: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["revision"].as_u64().unwrap(),
                row["in_use"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(numbers, [(3, true), (2, false), (1, false)]);
    let third = api.ok("GET", &format!("{path}/revisions/3"), None).await;
    assert_eq!(
        (&third["text"], &third["author"]),
        (&first["text"], &json!("adm_setting"))
    );
    let (status, _) = api
        .call(
            "POST",
            &format!("{path}/rollback"),
            Some(json!({ "revision": 9 })),
        )
        .await;
    assert_eq!(status, 404);

    let checked = api
        .ok(
            "POST",
            "blueprints/check",
            Some(json!({ "text": "nonsense: 1" })),
        )
        .await;
    assert_eq!(checked["ok"], false);
    let tested = api
        .ok("POST", "blueprints/test", Some(json!({ "text": text })))
        .await;
    assert_eq!(tested["ok"], true, "{tested}");
    assert!(!tested["examples"].as_array().unwrap().is_empty());
}
