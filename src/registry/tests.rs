//! Opening a registry: first start, settings, keys, and what an upgrade or a crash left behind.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::json;

use super::audit::Actor;
use super::checks::{Checks, Feeds};
use super::picture::{Issued, sha256};
use super::random::Random;
use super::seal::KeyRing;
use super::store::{DATABASE_FILE, Store, StoreError};
use super::testing::Outside;
use super::{ChangeError, Given, OpenError, Registry, Role};
use crate::clock::{ManualClock, SharedClock};
use crate::secret::Secret;

const OLD_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000001";
const NEW_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000002";

/// Remembers which feeds there are; refuses to make one while `broken`.
#[derive(Debug, Default)]
pub(super) struct FakeFeeds {
    open: Mutex<Vec<String>>,
    broken: Mutex<bool>,
}

impl Feeds for FakeFeeds {
    fn open<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            if *self.broken.lock() {
                return Err("disk full".to_owned());
            }
            self.open.lock().push(id.to_owned());
            Ok(())
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.open.lock().retain(|open| open != id);
            Ok(())
        })
    }
}

pub(super) fn checks(feeds: &Arc<FakeFeeds>) -> Checks {
    super::testing::checks(&Outside::offline(), Arc::<FakeFeeds>::clone(feeds))
}

fn open_with(dir: &Path, keys: &str, given: &Given) -> Result<(Registry, Issued), OpenError> {
    let clock: SharedClock = ManualClock::at(1_000);
    let ring = KeyRing::parse(keys)?;
    let feeds = Arc::new(FakeFeeds::default());
    Registry::open(dir, ring, given, clock, Random::system(), checks(&feeds))
}

fn open(dir: &Path) -> (Registry, Issued) {
    open_with(dir, OLD_KEY, &Given::default()).unwrap()
}

async fn install(registry: &Registry) -> Result<String, ChangeError> {
    let body = json!({ "name": "O", "config": { "account_id": "1", "project_id": "2", "sdk_key": "the_sdk_key" } });
    let changed = registry
        .install(&Actor::cli(), "optimizely", body.as_object().unwrap())
        .await?;
    Ok(changed.integration.id.clone())
}

fn has_key(registry: &Registry, key: &str) -> bool {
    registry
        .view()
        .load()
        .sources_by_key
        .contains_key(&sha256(key))
}

#[test]
fn a_first_start_shows_its_keys_once() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, issued) = open(dir.path());
    let (key, token) = (issued.write_key.unwrap(), issued.admin_token.unwrap());
    assert!(has_key(&registry, key.expose()));
    let actor = registry.picture().bearer(token.expose(), 0).unwrap();
    assert_eq!(actor.role, Role::Admin);
    drop(registry);
    let (registry, issued) = open(dir.path());
    assert!(issued.write_key.is_none() && issued.admin_token.is_none());
    assert!(has_key(&registry, key.expose()));
    assert!(registry.picture().bearer(token.expose(), 0).is_some());
    let wrong = format!("{}x", token.expose());
    assert!(registry.picture().bearer(&wrong, 0).is_none());
}

#[test]
fn keys_of_the_settings_follow_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let given = |key: &str, token: &str| Given {
        write_key: Some(Secret::new(key)),
        admin_token: Some(Secret::new(token)),
    };
    for (key, token) in [("k-1", "t-1"), ("k-1", "t-1"), ("k-2", "t-2")] {
        let (registry, issued) = open_with(dir.path(), OLD_KEY, &given(key, token)).unwrap();
        assert!(issued.write_key.is_none() && issued.admin_token.is_none());
        assert!(has_key(&registry, key));
        assert!(registry.picture().bearer(token, 0).is_some());
        assert_eq!(registry.picture().sources.len(), 1);
        assert_eq!(registry.picture().sources[0].source.name, "default");
    }
    let (registry, _) = open_with(dir.path(), OLD_KEY, &given("k-2", "t-2")).unwrap();
    assert!(!has_key(&registry, "k-1"));
    assert!(registry.picture().bearer("t-1", 0).is_none());
    let refused = open_with(dir.path(), OLD_KEY, &given("with blank", "t"));
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .starts_with("AQUEDUCT_WRITE_KEY")
    );
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_a_new_one_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, _) = open(dir.path());
    let id = install(&registry).await.unwrap();
    drop(registry);
    let before = std::fs::read(dir.path().join(DATABASE_FILE)).unwrap();
    let refused = open_with(dir.path(), NEW_KEY, &Given::default()).unwrap_err();
    assert!(matches!(refused, OpenError::WrongKey { .. }), "{refused}");
    assert!(refused.to_string().contains("AQUEDUCT_ENCRYPTION_KEYS"));
    assert_eq!(
        std::fs::read(dir.path().join(DATABASE_FILE)).unwrap(),
        before
    );
    // New key first, old key behind it: all is sealed anew, then the old key can go.
    for keys in [format!("{NEW_KEY},{OLD_KEY}"), NEW_KEY.to_owned()] {
        let (registry, _) = open_with(dir.path(), &keys, &Given::default()).unwrap();
        let picture = registry.picture();
        let config = &picture.integration(&id).unwrap().config;
        assert_eq!(
            config["sdk_key"],
            crate::blueprint::ConfigValue::Secret(Secret::new("the_sdk_key"))
        );
    }
    assert!(open_with(dir.path(), OLD_KEY, &Given::default()).is_err());
}

#[tokio::test]
async fn a_blueprint_that_no_longer_checks_pauses_its_integration_only() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, _) = open(dir.path());
    let id = install(&registry).await.unwrap();
    drop(registry);
    let mut store = Store::open(dir.path(), 0).unwrap();
    store
        .change(|tx| {
            tx.execute_batch(
                "DROP TRIGGER revisions_stay; UPDATE revisions SET text = 'of: another age'",
            )
            .map_err(StoreError::from)
        })
        .unwrap();
    drop(store);
    let (registry, _) = open(dir.path());
    let picture = registry.picture();
    let installed = picture.integration(&id).unwrap();
    let trouble = installed.running.as_ref().unwrap_err();
    assert!(!trouble.diagnostics.is_empty());
    assert!(registry.view().load().integrations.is_empty());
    // A corrected blueprint brings it back.
    let text = crate::blueprint::builtin()[0].1;
    registry
        .put_blueprint(&Actor::cli(), &id, text, "")
        .await
        .unwrap();
    assert_eq!(registry.view().load().integrations.len(), 1);
}

#[tokio::test]
async fn a_failed_or_interrupted_install_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let feeds = Arc::new(FakeFeeds::default());
    let clock: SharedClock = ManualClock::at(1_000);
    let again = |feeds: &Arc<FakeFeeds>| {
        let ring = KeyRing::parse(OLD_KEY).unwrap();
        let clock = Arc::clone(&clock);
        Registry::open(
            dir.path(),
            ring,
            &Given::default(),
            clock,
            Random::system(),
            checks(feeds),
        )
        .unwrap()
        .0
    };
    let registry = again(&feeds);
    *feeds.broken.lock() = true;
    let refused = install(&registry).await.unwrap_err();
    assert_eq!(refused.code(), "journal_unavailable");
    assert!(registry.picture().integrations.is_empty());
    *feeds.broken.lock() = false;
    let id = install(&registry).await.unwrap();
    drop(registry);
    // As a crash between the two halves of an install, or of a removal, leaves it.
    for phase in ["installing", "removing"] {
        let mut store = Store::open(dir.path(), 0).unwrap();
        store
            .change(|tx| {
                tx.execute("UPDATE integrations SET phase = ?1", [phase])
                    .map_err(StoreError::from)
            })
            .unwrap();
    }
    let registry = again(&feeds);
    assert!(registry.view().load().integrations.is_empty());
    assert_eq!(*feeds.open.lock(), [id]);
    assert_eq!(registry.finish_interrupted().await.unwrap(), 1);
    assert!(feeds.open.lock().is_empty());
    assert_eq!(registry.finish_interrupted().await.unwrap(), 0);
}

#[tokio::test]
async fn a_token_made_or_revoked_by_another_process_counts_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, _) = open(dir.path());
    let clock: SharedClock = ManualClock::at(1_000);
    let mut tokens = super::tokens_only::TokenStore::open(dir.path(), &clock).unwrap();
    let token = tokens
        .create("ci", Role::Viewer, &Random::system())
        .unwrap();
    registry.refresh().await.unwrap();
    let actor = registry.picture().bearer(token.expose(), 0).unwrap();
    tokens.revoke(&actor.id).unwrap();
    registry.refresh().await.unwrap();
    assert!(registry.picture().bearer(token.expose(), 0).is_none());
    assert!(registry.verify_audit().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_token_ends_at_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, _) = open(dir.path());
    let token = registry
        .create_token(&Actor::cli(), "short", Role::Viewer, Some(2_000))
        .await
        .unwrap();
    assert!(registry.picture().bearer(token.expose(), 1_999).is_some());
    assert!(registry.picture().bearer(token.expose(), 2_000).is_none());
    let past = registry
        .create_token(&Actor::cli(), "past", Role::Viewer, Some(500))
        .await;
    assert_eq!(past.unwrap_err().code(), "invalid_fields");
}
