//! What an app sees.

use serde_json::json;

use crate::support::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_listed_and_the_rest_of_its_batch_accepted() {
    let app = TestApp::start().await;
    let id = app.install_optimizely("Optimizely", json!({})).await;
    let (status, reply) = app
        .post(
            "/v1/batch",
            &json!({"batch": [
                {"type": "track", "event": "signup", "userId": "u-1"},
                {"type": "track", "event": "signup"},
                {"type": "track", "event": "signup", "userId": "u-2", "messageId": 7},
            ]}),
        )
        .await;
    assert_eq!(status, 200);
    assert_eq!(reply["accepted"], json!(1));
    let rejected: Vec<_> = reply["rejected"]
        .as_array()
        .expect("list")
        .iter()
        .map(|fault| (fault["index"].clone(), fault["code"].clone()))
        .collect();
    assert_eq!(
        rejected,
        [
            (json!(1), json!("missing_identity")),
            (json!(2), json!("wrong_type"))
        ],
        "{reply}"
    );
    let row = app.settled(&id).await;
    assert_eq!(row["delivered"], json!(1));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_write_key_is_401_with_a_problem_document() {
    let app = TestApp::start().await;
    let reply = app
        .http
        .post(format!("http://{}/v1/track", app.ingest))
        .basic_auth("nobody", Some(""))
        .body("{}")
        .send()
        .await
        .expect("answer");
    assert_eq!(reply.status(), 401);
    assert_eq!(reply.headers()["content-type"], "application/problem+json");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_post_is_delivered_once_also_across_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let setup = || crate::support::Setup {
        data_dir: Some(dir.path().to_owned()),
        ..Default::default()
    };
    let event = json!({"event": "signup", "userId": "u-1", "messageId": "m-1"});

    let app = TestApp::start_with(setup()).await;
    let id = app.install_optimizely("Optimizely", json!({})).await;
    for _ in 0..3 {
        assert_eq!(app.post("/v1/track", &event).await.1["accepted"], json!(1));
    }
    let row = app.settled(&id).await;
    assert_eq!(
        (&row["accepted"], &row["delivered"], &row["deduplicated"]),
        (&json!(3), &json!(1), &json!(2))
    );
    app.halt().await;

    let app = TestApp::start_with(setup()).await;
    assert_eq!(app.post("/v1/track", &event).await.1["accepted"], json!(1));
    let row = app.settled(&id).await;
    assert_eq!(
        (&row["accepted"], &row["delivered"], &row["deduplicated"]),
        (&json!(4), &json!(1), &json!(3))
    );
    app.stop().await;
}
