//! What the registry asks of others before it stores a change. Handed in, so that it knows no network, no journal
//! and no vendor.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::journal::{FeedStart, Journal, JournalError};
use crate::secret::Secret;
use crate::vendor::Vendor;
use crate::vendor::guard::Guard;
use crate::vendor::http::{Client, Conditions, SendError, SendErrorKind};
use crate::vendor::preflight::{Answered, Question};

/// Time for reading a document while somebody waits for the answer to an install.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Larger documents are refused.
const DOCUMENT_BYTES_MAX: usize = 20 << 20;

/// Judges addresses that requests would be sent to.
pub trait UrlCheck: Send + Sync + std::fmt::Debug {
    /// Refuses addresses that may not be reached (private, not https, with a user name, …).
    ///
    /// # Errors
    /// A stable short code and the sentence for people.
    fn check_url(&self, url: &str) -> Result<(), (String, String)>;

    /// True for an address that may be plain http (AQUEDUCT_EGRESS_ALLOW).
    fn allows_insecure(&self, url: &str) -> bool;
}

/// Why a document (the datafile) was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentFault {
    /// The host answered with this status, not 200.
    Status(u16),
    /// 200, but the body is no JSON.
    NotJson,
    /// The address may not be reached: code and sentence.
    Blocked(String, String),
    /// No answer: in words, without the address.
    Unreachable(String),
}

/// Reads a document once, before an integration that depends on it is stored.
pub trait DocumentCheck: Send + Sync + std::fmt::Debug {
    /// Fetches `url` (which may hold a secret) within a deadline of its own, with a token when it needs one.
    fn fetch<'a>(
        &'a self,
        url: &'a Secret,
        bearer: Option<Secret>,
    ) -> BoxFuture<'a, Result<Value, DocumentFault>>;
}

/// Asks a vendor something once, before an integration is stored.
pub trait VendorCheck: Send + Sync + std::fmt::Debug {
    /// Sends one question within a deadline of its own.
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Answered, DocumentFault>>;
}

/// The keys of all flags that a datafile in use knows.
pub type KnownFlags = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The flags of all datafiles in use, each once.
#[must_use]
pub fn flags_of(datafiles: crate::datafile::Shared) -> KnownFlags {
    Arc::new(move || {
        let all = datafiles.load();
        let keys = all.iter().flat_map(|known| known.datafile.flag_keys());
        let keys: std::collections::BTreeSet<&str> = keys.collect();
        keys.into_iter().map(str::to_owned).collect()
    })
}

/// Makes and removes the journal feeds that integrations read by.
pub trait Feeds: Send + Sync + std::fmt::Debug {
    /// Makes the feed, beginning with the next event.
    fn open<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// Removes the feed and what is set apart for it. A feed that is not there is removed already.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>>;
}

impl UrlCheck for Guard {
    fn check_url(&self, url: &str) -> Result<(), (String, String)> {
        Self::check_url(self, url).map_err(|fault| (fault.code.to_owned(), fault.message))
    }

    fn allows_insecure(&self, url: &str) -> bool {
        Self::allows_insecure(self, url)
    }
}

impl DocumentCheck for Client {
    fn fetch<'a>(
        &'a self,
        url: &'a Secret,
        bearer: Option<Secret>,
    ) -> BoxFuture<'a, Result<Value, DocumentFault>> {
        Box::pin(async move {
            let conditions = Conditions {
                bearer,
                ..Conditions::default()
            };
            let answer = self
                .get(
                    url.expose(),
                    &conditions,
                    DOCUMENT_TIMEOUT,
                    DOCUMENT_BYTES_MAX,
                )
                .await
                .map_err(fault_of)?;
            match answer.status {
                200 if answer.cut => Err(DocumentFault::NotJson),
                200 => serde_json::from_slice(&answer.body).map_err(|_| DocumentFault::NotJson),
                status => Err(DocumentFault::Status(status)),
            }
        })
    }
}

impl VendorCheck for Client {
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Answered, DocumentFault>> {
        Box::pin(async move {
            let answer = self
                .ask(&question.request, DOCUMENT_TIMEOUT, DOCUMENT_BYTES_MAX)
                .await
                .map_err(fault_of)?;
            Ok(Answered {
                status: answer.status,
                body: serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
            })
        })
    }
}

fn fault_of(error: SendError) -> DocumentFault {
    match error.kind {
        SendErrorKind::Blocked => {
            DocumentFault::Blocked("private_address".to_owned(), error.message)
        }
        _ => DocumentFault::Unreachable(error.message),
    }
}

impl Feeds for Journal {
    fn open<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.open_feed(id, FeedStart::Now)
                .await
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match self.remove_feed(id).await {
                Ok(()) | Err(JournalError::NoFeed(_)) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

/// Everything handed in.
#[derive(Clone)]
pub struct Checks {
    /// Addresses.
    pub urls: Arc<dyn UrlCheck>,
    /// Documents.
    pub documents: Arc<dyn DocumentCheck>,
    /// Vendors.
    pub vendors: Arc<dyn VendorCheck>,
    /// Flags.
    pub flags: KnownFlags,
    /// Feeds.
    pub feeds: Arc<dyn Feeds>,
    /// What only code knows about a vendor; none for a vendor that is data alone.
    pub vendor: fn(&str) -> Option<&'static dyn Vendor>,
    /// The blueprints shipped: (path such as `optimizely/default`, text).
    pub builtin: &'static [(&'static str, &'static str)],
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checks")
            .field("urls", &self.urls)
            .field("documents", &self.documents)
            .field("vendors", &self.vendors)
            .field("feeds", &self.feeds)
            .finish_non_exhaustive()
    }
}
