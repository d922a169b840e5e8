//! Webhooks of vendors: the bytes are taken here, what they mean is decided elsewhere.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;

use super::refusal::Refusal;
use super::{Backend, Gate, WebhookAnswer};

impl<B: Backend> Gate<B> {
    /// Optimizely signs the very bytes it sends, so they are handed on undecoded.
    pub(super) async fn optimizely_webhook(
        &self,
        integration: &str,
        parts: &Parts,
        body: Body,
    ) -> Result<Response, Refusal> {
        let sink = self.webhooks.as_ref().ok_or(Refusal::NoSuchRoute)?;
        let body = self.held.read(&parts.headers, body, &self.limits).await?;
        let signature = super::text(&parts.headers, "x-hub-signature");
        match sink.optimizely(integration, signature, &body) {
            WebhookAnswer::NoContent => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            WebhookAnswer::BadSignature => Err(Refusal::BadSignature),
            WebhookAnswer::Unknown => Err(Refusal::NoIntegration),
            WebhookAnswer::Malformed => {
                Err(Refusal::BadRequest("the body is no Optimizely webhook"))
            }
        }
    }
}
