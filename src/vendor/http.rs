//! The one door for outbound HTTP: guarded addresses, no redirects, no proxy, no hidden retries, one deadline per
//! request, capped answers. Knows no vendor and no integration; who retries, and when, is decided elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use resolve::{GuardedResolver, Names, ResolveError, SystemNames};

use super::guard::Guard;
use crate::blueprint::Request;
use crate::clock::{Millis, SharedClock};

/// Of an answer to a delivery no more than this is kept; the rest is not read.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Time to look up a name, connect and shake hands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// No vendor may ask us to wait longer than this at a time.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// The outbound client. Cheap to clone; all clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    guard: Arc<Guard>,
    clock: SharedClock,
}

/// What came back, as far as it is looked at.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, read and clamped.
    pub retry_after: Option<Duration>,
    /// `ETag`, as sent.
    pub etag: Option<String>,
    /// `Last-Modified`, as sent.
    pub last_modified: Option<String>,
    /// All headers, for readers of replies.
    pub headers: HeaderMap,
    /// The body, at most as long as allowed.
    pub body: Bytes,
    /// There was more of it.
    pub cut: bool,
    /// From the first step of connecting to the end of the body.
    pub took: Duration,
}

impl Answer {
    /// A header by its name, any case; none when it is absent or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        text(&self.headers, name)
    }
}

/// Class of a request that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SendErrorKind {
    /// The deadline passed.
    Timeout,
    /// Nobody listened, or the network was unreachable.
    Connect,
    /// The name could not be resolved.
    Dns,
    /// The handshake or the certificate was refused.
    Tls,
    /// The address is not one we may reach.
    Blocked,
    /// The connection ended in the middle.
    Reset,
    /// What came back is not HTTP, or what we were to send is not.
    Malformed,
}

impl SendErrorKind {
    /// The word used in metric labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Blocked => "blocked",
            Self::Reset => "reset",
            Self::Malformed => "malformed",
        }
    }

    /// The request may have arrived all the same: sent again, it may count twice where a vendor knows no repeats.
    #[must_use]
    pub fn is_ambiguous(self) -> bool {
        matches!(self, Self::Timeout | Self::Reset | Self::Malformed)
    }
}

/// A request that got no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SendError {
    /// Its class.
    pub kind: SendErrorKind,
    /// One sentence for people. Never holds the address: it may hold a key.
    pub message: String,
    /// Time until it failed.
    pub took: Duration,
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up outbound HTTP: {0}")]
pub struct SetupError(String);

/// A conditional read of a document.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// For `If-None-Match`.
    pub etag: Option<String>,
    /// For `If-Modified-Since`.
    pub last_modified: Option<String>,
    /// For `Authorization: Bearer`.
    pub bearer: Option<crate::secret::Secret>,
}

impl Client {
    /// Makes the client. `user_agent` is sent with every request.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        guard: Arc<Guard>,
        user_agent: &str,
        clock: SharedClock,
    ) -> Result<Self, SetupError> {
        // Two crates in one process may both want to install one: the first wins, and it is the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let names: Arc<dyn Names> = Arc::new(SystemNames);
        Self::built(
            guard.clone(),
            user_agent,
            clock.clone(),
            names.clone(),
            None,
        )
        .or_else(|error| {
            // A machine without CA certificates: plain http to listed hosts still works, https fails closed.
            tracing::warn!(
                %error,
                "no CA certificates found: every https request will fail; install ca-certificates"
            );
            let trusting_none = trusting(rustls::RootCertStore::empty())?;
            Self::built(guard, user_agent, clock, names, Some(trusting_none))
        })
    }

    /// `tls`: instead of trusting the certificate authorities the machine does.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the door the lint points to"
    )]
    fn built(
        guard: Arc<Guard>,
        user_agent: &str,
        clock: SharedClock,
        names: Arc<dyn Names>,
        tls: Option<rustls::ClientConfig>,
    ) -> Result<Self, SetupError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(16)
            .tcp_nodelay(true)
            .dns_resolver(Arc::new(GuardedResolver::new(guard.clone(), names)));
        if let Some(tls) = tls {
            builder = builder.tls_backend_preconfigured(tls);
        }
        let http = builder.build().map_err(|error| SetupError(chain(&error)))?;
        Ok(Self { http, guard, clock })
    }

    /// The guard it asks.
    #[must_use]
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Sends one request of a plan. `timeout` covers everything up to the last byte of the answer.
    ///
    /// # Errors
    /// When there was no whole answer head; an answer's body that drips past the deadline is a timeout too.
    pub async fn send(&self, request: &Request, timeout: Duration) -> Result<Answer, SendError> {
        let started = Instant::now();
        let built = self.build(request);
        self.exchange(built, timeout, ANSWER_BYTES_MAX, started)
            .await
    }

    /// Reads a document, unless it is still as `conditions` say (then the answer is a 304).
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(
        &self,
        url: &str,
        conditions: &Conditions,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<Answer, SendError> {
        let started = Instant::now();
        let built = self.build_get(url, conditions);
        self.exchange(built, timeout, bytes_max, started).await
    }

    /// Sends one request of any kind and keeps up to `bytes_max` of the answer.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn ask(
        &self,
        request: &Request,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<Answer, SendError> {
        let started = Instant::now();
        let built = self.build(request);
        self.exchange(built, timeout, bytes_max, started).await
    }

    fn build(&self, request: &Request) -> Result<reqwest::Request, (SendErrorKind, String)> {
        let url = self.checked(request.url.expose())?;
        let method = reqwest::Method::from_bytes(request.method.as_bytes())
            .map_err(|_| malformed(format!("`{}` is not an HTTP method", request.method)))?;
        let mut built = reqwest::Request::new(method, url);
        for (name, value) in &request.headers {
            let (name, value) = header(name, value.expose())?;
            built.headers_mut().append(name, value);
        }
        *built.body_mut() = Some(reqwest::Body::from(request.body.clone()));
        Ok(built)
    }

    fn build_get(
        &self,
        url: &str,
        conditions: &Conditions,
    ) -> Result<reqwest::Request, (SendErrorKind, String)> {
        let mut built = reqwest::Request::new(reqwest::Method::GET, self.checked(url)?);
        let bearer = conditions
            .bearer
            .as_ref()
            .map(|token| format!("Bearer {}", token.expose()));
        for (name, value) in [
            ("if-none-match", conditions.etag.as_deref()),
            ("if-modified-since", conditions.last_modified.as_deref()),
            ("authorization", bearer.as_deref()),
        ] {
            if let Some(value) = value {
                let (name, value) = header(name, value)?;
                built.headers_mut().append(name, value);
            }
        }
        Ok(built)
    }

    fn checked(&self, url: &str) -> Result<url::Url, (SendErrorKind, String)> {
        self.guard
            .check_url(url)
            .map_err(|fault| (SendErrorKind::Blocked, fault.message))?;
        url::Url::parse(url).map_err(|error| malformed(error.to_string()))
    }

    async fn exchange(
        &self,
        built: Result<reqwest::Request, (SendErrorKind, String)>,
        timeout: Duration,
        bytes_max: usize,
        started: Instant,
    ) -> Result<Answer, SendError> {
        let outcome = match built {
            Ok(request) => tokio::time::timeout(timeout, self.converse(request, bytes_max))
                .await
                .unwrap_or_else(|_| {
                    Err((
                        SendErrorKind::Timeout,
                        format!("no whole answer within {} ms", timeout.as_millis()),
                    ))
                }),
            Err(error) => Err(error),
        };
        let took = started.elapsed();
        outcome
            .map(|answer| Answer { took, ..answer })
            .map_err(|(kind, message)| SendError {
                kind,
                message,
                took,
            })
    }

    async fn converse(
        &self,
        request: reqwest::Request,
        bytes_max: usize,
    ) -> Result<Answer, (SendErrorKind, String)> {
        let failed = |error: reqwest::Error| classify(&error);
        let mut response = self.http.execute(request).await.map_err(failed)?;
        let headers = std::mem::take(response.headers_mut());
        let retry_after = text(&headers, "retry-after")
            .and_then(|value| retry_after(&value, self.clock.now_ms()));
        let (etag, last_modified) = (text(&headers, "etag"), text(&headers, "last-modified"));
        let status = response.status().as_u16();
        let mut body = BytesMut::new();
        let mut cut = false;
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            let room = bytes_max - body.len();
            body.extend_from_slice(piece.get(..room).unwrap_or(&piece));
            if piece.len() > room {
                // Dropping the response closes the connection: an endless body costs no more than this.
                cut = true;
                break;
            }
        }
        Ok(Answer {
            status,
            retry_after,
            etag,
            last_modified,
            headers,
            body: body.freeze(),
            cut,
            took: Duration::ZERO,
        })
    }
}

mod stream;
pub use stream::Stream;

/// TLS that trusts these authorities and nobody else.
fn trusting(roots: rustls::RootCertStore) -> Result<rustls::ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn malformed(message: String) -> (SendErrorKind, String) {
    (SendErrorKind::Malformed, message)
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), (SendErrorKind, String)> {
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| malformed(format!("`{name}` is not a header name")))?;
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        malformed(format!(
            "the value of header {name} holds a character no header may hold"
        ))
    })?;
    value.set_sensitive(true);
    Ok((header, value))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The class of a failure, from the errors below it, and a sentence that leaves out the address.
fn classify(error: &reqwest::Error) -> (SendErrorKind, String) {
    let mut kind = if error.is_timeout() {
        Some(SendErrorKind::Timeout)
    } else {
        None
    };
    let mut said = Vec::new();
    let mut below: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = below {
        if let Some(resolve) = cause.downcast_ref::<ResolveError>() {
            kind.get_or_insert(match resolve {
                ResolveError::Blocked { .. } => SendErrorKind::Blocked,
                ResolveError::Failed { .. } => SendErrorKind::Dns,
            });
        } else if cause.is::<rustls::Error>() {
            kind.get_or_insert(SendErrorKind::Tls);
        } else if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            if wraps_tls(io) {
                kind.get_or_insert(SendErrorKind::Tls);
            } else if io.get_ref().is_none() && !error.is_connect() {
                // The system's own: the connection broke.
                kind.get_or_insert(SendErrorKind::Reset);
            }
        }
        said.push(cause.to_string());
        below = cause.source();
    }
    let text = said.join(": ");
    let kind = kind.unwrap_or_else(|| {
        if error.is_connect() {
            SendErrorKind::Connect
        } else if text.contains("before message completed")
            || text.contains("connection closed")
            || text.contains("unexpected end")
            || text.contains("end of file")
        {
            SendErrorKind::Reset
        } else {
            SendErrorKind::Malformed
        }
    });
    let text = if text.is_empty() {
        "the request failed".to_owned()
    } else {
        text
    };
    (kind, text)
}

/// TLS faults come wrapped in I/O errors, several deep, which hide what they wrap from `source`.
fn wraps_tls(error: &std::io::Error) -> bool {
    let Some(inner) = error.get_ref() else {
        return false;
    };
    inner.is::<rustls::Error>()
        || inner
            .downcast_ref::<std::io::Error>()
            .is_some_and(wraps_tls)
}

fn chain(error: &reqwest::Error) -> String {
    let mut said = error.to_string();
    let mut below = std::error::Error::source(error);
    while let Some(cause) = below {
        said.push_str(": ");
        said.push_str(&cause.to_string());
        below = cause.source();
    }
    said
}

/// Reads `Retry-After` (RFC 9110 §10.2.3): whole seconds or a date, at most [`RETRY_AFTER_MAX`] from now; none when
/// it says nothing useful (negative, garbage, a date gone by), so that the caller's own back-off applies.
#[must_use]
pub fn retry_after(value: &str, now_ms: Millis) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are a very long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let at_ms = http_date(value)?;
        Duration::from_millis(u64::try_from(at_ms.checked_sub(now_ms)?).ok()?)
    };
    (wait > Duration::ZERO).then(|| wait.min(RETRY_AFTER_MAX))
}

/// The three date forms of RFC 9110 §5.6.7, in Unix milliseconds.
fn http_date(value: &str) -> Option<Millis> {
    // The day's name says nothing new, and a wrong one is no reason to ignore the date.
    let (_, date) = value.split_once(' ')?;
    [
        "%d %b %Y %H:%M:%S GMT",
        "%d-%b-%y %H:%M:%S GMT",
        "%b %e %H:%M:%S %Y",
    ]
    .iter()
    .find_map(|form| jiff::civil::DateTime::strptime(form, date.trim()).ok())
    .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok())
    .map(|time| time.timestamp().as_millisecond())
}

mod resolve;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_hostile;
