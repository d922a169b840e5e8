//! A registry in a directory, for tests of whoever uses one: what it asks of others is answered as the test says.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;

use super::checks::{Checks, DocumentCheck, DocumentFault, Feeds, VendorCheck};
use super::random::Random;
use super::seal::KeyRing;
use super::{Given, Registry};
use crate::clock::SharedClock;
use crate::secret::Secret;
use crate::vendor::guard::Guard;
use crate::vendor::preflight::{Answered, Question};

/// The world outside: every document, and every question to a vendor, is answered with this.
#[derive(Debug)]
pub(crate) struct Outside(pub(crate) Mutex<Result<Value, DocumentFault>>);

impl Outside {
    /// Nothing can be reached.
    pub(crate) fn offline() -> Arc<Self> {
        let fault = DocumentFault::Unreachable("no network in tests".to_owned());
        Arc::new(Self(Mutex::new(Err(fault))))
    }

    /// Everything answers with this.
    pub(crate) fn answering(document: Value) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Ok(document))))
    }
}

impl DocumentCheck for Outside {
    fn fetch<'a>(
        &'a self,
        _: &'a Secret,
        _: Option<Secret>,
    ) -> BoxFuture<'a, Result<Value, DocumentFault>> {
        let answer = self.0.lock().clone();
        Box::pin(async move { answer })
    }
}

impl VendorCheck for Outside {
    fn ask<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Result<Answered, DocumentFault>> {
        let answer = self.0.lock().clone();
        Box::pin(async move { answer.map(|body| Answered { status: 200, body }) })
    }
}

/// Checks with no address allowed, no flag known, and the vendors and blueprints of the house.
pub(crate) fn checks(outside: &Arc<Outside>, feeds: Arc<dyn Feeds>) -> Checks {
    Checks {
        urls: Arc::new(Guard::default()),
        documents: Arc::<Outside>::clone(outside),
        vendors: Arc::<Outside>::clone(outside),
        flags: Arc::new(Vec::new),
        feeds,
        vendor: crate::vendor::by_name,
        builtin: crate::blueprint::builtin(),
    }
}

/// Opens the registry of a directory, with the key it makes there; one that is there already is read back.
pub(crate) fn open(
    dir: &Path,
    given: &Given,
    clock: SharedClock,
    random: Random,
    checks: Checks,
) -> Registry {
    let ring = KeyRing::load(dir, None, &random).unwrap();
    let (registry, _) = Registry::open(dir, ring, given, clock, random, checks).unwrap();
    registry
}
