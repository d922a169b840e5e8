//! Journal to vendor: one pipeline per integration.
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::blueprint::Request;
use crate::registry::Integration;
use crate::vendor::http::{Answer, Client, SendError};

mod batch;
mod bisect;
mod flow;
mod gate;
mod mapping;
mod retry;
pub mod status;
mod worker;

/// Makes one request at a vendor.
pub trait Sender: Send + Sync {
    /// Sends it; the future owns all it needs.
    fn send(
        &self,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, SendError>>;
}

impl Sender for Client {
    fn send(
        &self,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Answer, SendError>> {
        let client = self.clone();
        Box::pin(async move { Client::send(&client, &request, timeout).await })
    }
}

/// An address without the integration's secrets.
fn masked_url(integration: &Integration, url: &str) -> String {
    mask(integration, url)
}

/// A text without the integration's secrets.
fn mask(integration: &Integration, text: &str) -> String {
    integration
        .config
        .values()
        .fold(text.to_owned(), |text, value| match value {
            crate::blueprint::ConfigValue::Secret(secret) if secret.expose().len() >= 4 => {
                text.replace(secret.expose(), "…")
            }
            _ => text,
        })
}
