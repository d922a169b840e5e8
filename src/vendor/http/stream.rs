//! An answer that does not end: read piece by piece, with no deadline but the one for its head.
//!
//! Addresses are guarded as for every request. A peer that vanished is found by TCP keep-alive (about a minute).

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Client, SendError, SendErrorKind, classify, header};
use crate::secret::Secret;

/// An open answer.
#[derive(Debug)]
pub struct Stream {
    /// HTTP status.
    pub status: u16,
    response: reqwest::Response,
    opened: Instant,
}

impl Client {
    /// Asks for `url` and returns once the head of the answer is there, within `timeout`.
    ///
    /// # Errors
    /// When there was no answer, or the address may not be reached.
    pub async fn open(
        &self,
        url: &str,
        headers: &[(&str, &Secret)],
        timeout: Duration,
    ) -> Result<Stream, SendError> {
        let opened = Instant::now();
        let failed = |(kind, message)| SendError {
            kind,
            message,
            took: opened.elapsed(),
        };
        let mut request =
            reqwest::Request::new(reqwest::Method::GET, self.checked(url).map_err(failed)?);
        let accept = Secret::new("text/event-stream");
        for (name, value) in headers.iter().copied().chain([("accept", &accept)]) {
            let (name, value) = header(name, value.expose()).map_err(failed)?;
            request.headers_mut().append(name, value);
        }
        let response = tokio::time::timeout(timeout, self.http.execute(request))
            .await
            .map_err(|_| {
                let message = format!("no answer within {} ms", timeout.as_millis());
                failed((SendErrorKind::Timeout, message))
            })?
            .map_err(|error| failed(classify(&error)))?;
        Ok(Stream {
            status: response.status().as_u16(),
            response,
            opened,
        })
    }
}

impl Stream {
    /// The next piece; none when the other side ended it properly.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, SendError> {
        self.response.chunk().await.map_err(|error| {
            let (kind, message) = classify(&error);
            SendError {
                kind,
                message,
                took: self.opened.elapsed(),
            }
        })
    }
}
