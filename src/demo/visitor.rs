//! Somebody outside the gateway, with its public addresses and credentials.

use std::net::SocketAddr;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use crate::secret::Secret;

/// Calls the listeners and the sandbox by HTTP.
pub(super) struct Visitor {
    pub(super) http: reqwest::Client,
    pub(super) ingest: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) sandbox: SocketAddr,
    pub(super) write_key: Secret,
    pub(super) admin_token: Secret,
}

impl Visitor {
    /// Calls the admin API; `path` without `/v1/admin/`.
    pub(super) async fn admin(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let url = format!("http://{}/v1/admin/{path}", self.admin);
        let request = self
            .http
            .request(method, url)
            .bearer_auth(self.admin_token.expose());
        good(path, ask(request, body.as_ref()).await?)
    }

    /// Posts to the ingest listener.
    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        good(path, self.try_post(path, body).await?)
    }

    /// Posts to the ingest listener; the status is the caller's to judge.
    pub(super) async fn try_post(
        &self,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let request = self
            .http
            .post(format!("http://{}{path}", self.ingest))
            .basic_auth(self.write_key.expose(), Some(""));
        ask(request, Some(body)).await
    }

    /// Calls the sandbox; `path` without `/_sandbox/`.
    pub(super) async fn sandbox(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let url = format!("http://{}/_sandbox/{path}", self.sandbox);
        good(
            path,
            ask(self.http.request(method, url), body.as_ref()).await?,
        )
    }
}

async fn ask(
    mut request: RequestBuilder,
    body: Option<&Value>,
) -> anyhow::Result<(StatusCode, Value)> {
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    let response = request.send().await?;
    let status = response.status();
    let text = response.text().await?;
    Ok((
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    ))
}

fn good(path: &str, (status, reply): (StatusCode, Value)) -> anyhow::Result<Value> {
    anyhow::ensure!(status.is_success(), "{path} answered {status}: {reply}");
    Ok(reply)
}
