//! The yardstick: an axum handler on the same machine, posted to by the same generator, that parses the body into a
//! borrowed struct (properties left as raw text, the cheapest parse that still checks the JSON) and answers.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(rename = "messageId")]
    message_id: &'a str,
    #[serde(rename = "userId")]
    user_id: Option<&'a str>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    batch: Vec<Event<'a>>,
}

impl Event<'_> {
    /// Uses what was parsed, so that it is not parsed in vain.
    fn weight(&self) -> usize {
        self.kind.len()
            + self.message_id.len()
            + self.user_id.map_or(0, str::len)
            + self.properties.map_or(0, |raw| raw.get().len())
            + self.context.map_or(0, |raw| raw.get().len())
    }
}

fn answer(events: &[Event<'_>]) -> (StatusCode, String) {
    if events.iter().map(Event::weight).sum::<usize>() == 0 {
        return (StatusCode::BAD_REQUEST, String::new());
    }
    let accepted = events.len();
    let body = format!(r#"{{"success":true,"accepted":{accepted},"rejected":[]}}"#);
    (StatusCode::OK, body)
}

async fn track(body: Bytes) -> (StatusCode, String) {
    match serde_json::from_slice::<Event<'_>>(&body) {
        Ok(event) => answer(&[event]),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn batch(body: Bytes) -> (StatusCode, String) {
    match serde_json::from_slice::<Batch<'_>>(&body) {
        Ok(batch) => answer(&batch.batch),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    }
}

/// Serves in this process, on as many threads as there are processors, until it ends.
pub(crate) fn serve() -> Result<SocketAddr> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            tell.send(listener.local_addr()?)?;
            let app = Router::new()
                .route("/v1/track", post(track))
                .route("/v1/batch", post(batch))
                .layer(axum::extract::DefaultBodyLimit::max(1 << 20));
            axum::serve(listener, app).await?;
            Ok(())
        })
    });
    told.recv().context("the yardstick did not start")
}
