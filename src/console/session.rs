//! Who is signed in: sessions kept in memory, found by a random id that only the browser's cookie holds.
//!
//! A session is bound to one admin token and holds nothing else of it than its open half: the gate looks the token up
//! at every request, so revoking it ends the session. A restart ends all sessions.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::clock::{Millis, SharedClock};
use crate::registry::picture::sha256;
use crate::registry::random::Random;
use crate::secret::Secret;

/// A session ends when nothing was asked for this long.
pub(super) const IDLE_MS: Millis = 30 * 60_000;

/// … and this long after sign-in in any case.
pub(super) const WHOLE_MS: Millis = 12 * 3_600_000;

/// Sessions kept at once; beyond it the one unused longest ends.
const SESSIONS_MAX: usize = 1_000;

/// Secrets of unfinished forms a session keeps.
const KEPT_MAX: usize = 20;

/// What the next page shows once, at its top.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    /// It went wrong.
    pub(super) is_fault: bool,
    /// In words.
    pub(super) text: String,
    /// A key or token just made: shown this once.
    pub(super) secret: Option<Secret>,
}

impl Notice {
    pub(super) fn done(text: impl Into<String>) -> Self {
        Self {
            is_fault: false,
            text: text.into(),
            secret: None,
        }
    }

    pub(super) fn fault(text: impl Into<String>) -> Self {
        Self {
            is_fault: true,
            ..Self::done(text)
        }
    }

    pub(super) fn with_secret(text: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            secret: Some(Secret::new(secret.into())),
            ..Self::done(text)
        }
    }
}

/// What a request learns of its session.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Open half of the admin token.
    pub(super) token: String,
    /// What its forms must bring back.
    pub(super) csrf: String,
}

/// All sessions. Keyed by the hash of the id, so that neither a dump nor timing gives an id away.
pub(super) struct Sessions {
    by_hash: Mutex<HashMap<[u8; 32], Session>>,
    random: Random,
    clock: SharedClock,
}

struct Session {
    token: String,
    csrf: String,
    began_ms: Millis,
    seen_ms: Millis,
    notice: Option<Notice>,
    /// Secrets of install forms under way: (vendor, field).
    kept: HashMap<(String, String), Secret>,
}

impl Session {
    fn lives(&self, now_ms: Millis) -> bool {
        now_ms - self.seen_ms < IDLE_MS && now_ms - self.began_ms < WHOLE_MS
    }
}

impl Sessions {
    pub(super) fn new(random: Random, clock: SharedClock) -> Self {
        Self {
            by_hash: Mutex::default(),
            random,
            clock,
        }
    }

    /// Begins a session for a token; the id goes into the cookie and is kept nowhere.
    pub(super) fn begin(&self, token: &str) -> String {
        let now_ms = self.clock.now_ms();
        let id = self.random.token_secret();
        let session = Session {
            token: token.to_owned(),
            csrf: self.random.token_secret(),
            began_ms: now_ms,
            seen_ms: now_ms,
            notice: None,
            kept: HashMap::new(),
        };
        let mut all = self.by_hash.lock();
        all.retain(|_, session| session.lives(now_ms));
        if all.len() >= SESSIONS_MAX {
            let oldest = all.iter().min_by_key(|(_, session)| session.seen_ms);
            if let Some(hash) = oldest.map(|(hash, _)| *hash) {
                all.remove(&hash);
            }
        }
        all.insert(sha256(&id), session);
        id
    }

    /// The session of an id, if it lives. Asking keeps it alive.
    pub(super) fn find(&self, id: &str) -> Option<Found> {
        let now_ms = self.clock.now_ms();
        let hash = sha256(id);
        let mut all = self.by_hash.lock();
        let session = all.get_mut(&hash)?;
        if !session.lives(now_ms) {
            all.remove(&hash);
            return None;
        }
        session.seen_ms = now_ms;
        Some(Found {
            token: session.token.clone(),
            csrf: session.csrf.clone(),
        })
    }

    /// Ends a session.
    pub(super) fn end(&self, id: &str) {
        self.by_hash.lock().remove(&sha256(id));
    }

    /// Leaves a notice for the session's next page.
    pub(super) fn leave(&self, id: &str, notice: Notice) {
        if let Some(session) = self.by_hash.lock().get_mut(&sha256(id)) {
            session.notice = Some(notice);
        }
    }

    /// Keeps a secret entered in a vendor's install form while the form is not through.
    pub(super) fn keep(&self, id: &str, vendor: &str, field: &str, secret: &str) {
        if let Some(session) = self.by_hash.lock().get_mut(&sha256(id)) {
            if session.kept.len() >= KEPT_MAX {
                session.kept.clear();
            }
            let place = (vendor.to_owned(), field.to_owned());
            session.kept.insert(place, Secret::new(secret));
        }
    }

    /// A secret kept so.
    pub(super) fn kept(&self, id: &str, vendor: &str, field: &str) -> Option<Secret> {
        let place = (vendor.to_owned(), field.to_owned());
        let all = self.by_hash.lock();
        all.get(&sha256(id))?.kept.get(&place).cloned()
    }

    /// Forgets what was entered for a vendor.
    pub(super) fn forget(&self, id: &str, vendor: &str) {
        if let Some(session) = self.by_hash.lock().get_mut(&sha256(id)) {
            session.kept.retain(|(of, _), _| of != vendor);
        }
    }

    /// Takes the notice left for this page.
    pub(super) fn take(&self, id: &str) -> Option<Notice> {
        self.by_hash.lock().get_mut(&sha256(id))?.notice.take()
    }
}

#[cfg(test)]
mod tests {
    use super::{IDLE_MS, SESSIONS_MAX, Sessions, WHOLE_MS};
    use crate::clock::ManualClock;
    use crate::registry::random::Random;

    #[test]
    fn a_session_ends_when_idle_when_old_and_when_told_to() {
        let clock = ManualClock::at(0);
        let sessions = Sessions::new(Random::system(), clock.clone());
        let idle = sessions.begin("adm_a");
        clock.advance(IDLE_MS - 1);
        assert!(sessions.find(&idle).is_some());
        clock.advance(IDLE_MS);
        assert!(sessions.find(&idle).is_none());

        let busy = sessions.begin("adm_a");
        for _ in 0..(WHOLE_MS / (IDLE_MS / 2) - 1) {
            clock.advance(IDLE_MS / 2);
            assert!(sessions.find(&busy).is_some());
        }
        clock.advance(IDLE_MS / 2);
        assert!(sessions.find(&busy).is_none());

        let left = sessions.begin("adm_a");
        sessions.end(&left);
        assert!(sessions.find(&left).is_none());
    }

    #[test]
    fn there_are_never_too_many() {
        let sessions = Sessions::new(Random::system(), ManualClock::at(0));
        for _ in 0..=SESSIONS_MAX {
            sessions.begin("adm_a");
        }
        assert_eq!(sessions.by_hash.lock().len(), SESSIONS_MAX);
    }
}
