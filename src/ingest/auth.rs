//! From what a caller presents to the source it may post as.
//!
//! Keys are known only by their SHA-256. Hashing for every request would be the dearest step of all, so
//! header texts that led to a source are remembered until the registry changes.

use std::array;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use metrics::Counter;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::permit::Permit;
use super::rate::Rate;
use super::refusal::{Refusal, Whose};
use crate::clock::Millis;
use crate::event::Kind;
use crate::metrics as named;
use crate::registry::{Moment, SharedView, Source, View};

/// Header texts remembered. Only those that led to a source are, so strangers cannot fill it.
const REMEMBERED_MAX: usize = 1_024;
/// Prefixes of unknown keys that get a metric of their own; the rest is `other`.
const PREFIXES_MAX: usize = 64;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A source as the holder of one of its keys, with what is kept about both between requests.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) source: Arc<Source>,
    pub(super) permit: Arc<Permit>,
    /// Shared by all keys of the source.
    rate: Option<Arc<Rate>>,
    key_rate: Option<Arc<Rate>>,
    accepted: [OnceLock<Counter>; 7],
    seen: Moment,
}

impl Account {
    /// `rate`: of a source without one of its own; `sibling`: another key of the same source; `before`: any key of it
    /// until now; `key_before`: this one.
    fn new(
        source: Arc<Source>,
        rate: Option<u32>,
        seen: Moment,
        sibling: Option<&Self>,
        before: Option<&Self>,
        key_before: Option<&Self>,
    ) -> Self {
        Self {
            rate: match sibling {
                Some(sibling) => sibling.rate.clone(),
                None => kept(
                    source.rate.or(rate),
                    before.and_then(|before| before.rate.as_ref()),
                ),
            },
            key_rate: kept(
                source.permits.key_rate,
                key_before.and_then(|before| before.key_rate.as_ref()),
            ),
            permit: match sibling {
                Some(sibling) => Arc::clone(&sibling.permit),
                None => Arc::new(Permit::new(&source.permits)),
            },
            source,
            seen,
            accepted: array::from_fn(|_| OnceLock::new()),
        }
    }

    /// Takes the allowance for `events` events, of the key and of the source.
    pub(super) fn take(&self, events: usize, now_ms: Millis) -> Result<(), Refusal> {
        let take = |rate: &Option<Arc<Rate>>, whose| match rate {
            Some(rate) => rate.take(events, now_ms).map_err(|wait_ms| Refusal::Rate {
                whose,
                per_second: rate.per_second(),
                wait_ms,
            }),
            None => Ok(()),
        };
        take(&self.key_rate, Whose::Key)?;
        take(&self.rate, Whose::Source).inspect_err(|_| {
            if let Some(rate) = &self.key_rate {
                rate.give_back(events);
            }
        })
    }

    /// Counts accepted events of a kind.
    pub(super) fn accepted(&self, kind: Kind, events: u64, now_ms: Millis) {
        self.seen.note(now_ms);
        if let Some(counter) = self.accepted.get(kind as usize) {
            counter
                .get_or_init(|| named::events_accepted(&self.source.id, kind.as_str()))
                .increment(events);
        }
    }
}

/// A limit of this rate: the one there is while it is the same, so that what was spent stays spent.
fn kept(per_second: Option<u32>, before: Option<&Arc<Rate>>) -> Option<Arc<Rate>> {
    let per_second = per_second?;
    let same = before.filter(|rate| rate.per_second() == per_second);
    Some(same.map_or_else(|| Arc::new(Rate::new(per_second)), Arc::clone))
}

/// Knows who may post.
pub(super) struct Keys {
    view: SharedView,
    /// Events a second of a source that has no limit of its own.
    rate: Option<u32>,
    known: ArcSwap<Known>,
    prefixes: Mutex<HashSet<String>>,
}

/// What was worked out from one view.
#[derive(Debug, Default, Clone)]
struct Known {
    view: Arc<View>,
    /// By SHA-256 of the key.
    accounts: HashMap<[u8; 32], Arc<Account>>,
    by_text: HashMap<Box<[u8]>, Arc<Account>>,
}

impl Keys {
    /// Reads keys from this view. `rate`: events a second of a source without a limit of its own; none = no limit.
    pub(super) fn new(view: SharedView, rate: Option<u32>) -> Self {
        Self {
            view,
            rate,
            known: ArcSwap::default(),
            prefixes: Mutex::default(),
        }
    }

    /// The source a request's headers name; none when they hold no key at all.
    pub(super) fn of_headers(&self, headers: &HeaderMap) -> Result<Option<Arc<Account>>, Refusal> {
        let authorization = headers.get(header::AUTHORIZATION);
        let write_key = headers.get("x-write-key");
        for header in [authorization, write_key].into_iter().flatten() {
            if let Some(account) = self.remembered(header.as_bytes()) {
                return enabled(account).map(Some);
            }
        }
        let presented = authorization
            .and_then(|value| key_of_authorization(value).map(|key| (key, value)))
            .or_else(|| {
                let value = write_key?;
                let key = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (!key.is_empty()).then_some((key, value))
            });
        let Some((key, value)) = presented else {
            return Ok(None);
        };
        let account = self.find(&key).ok_or_else(|| self.unknown(&key))?;
        self.remember(value.as_bytes(), &account);
        enabled(account).map(Some)
    }

    /// The source a key in the body names.
    pub(super) fn of_body(&self, key: Option<&str>) -> Result<Arc<Account>, Refusal> {
        match key.filter(|key| !key.is_empty()) {
            Some(key) => enabled(self.find(key).ok_or_else(|| self.unknown(key))?),
            None => {
                named::unknown_write_keys("none").increment(1);
                Err(Refusal::MissingKey)
            }
        }
    }

    /// Whether the keys of any source may be used by pages of this origin. True also while there is no source: then the
    /// key is what is wrong.
    pub(super) fn any_takes_origin(&self, origin: &str) -> bool {
        let known = self.current();
        let mut enabled = known
            .accounts
            .values()
            .filter(|account| account.source.enabled)
            .peekable();
        enabled.peek().is_none() || enabled.any(|account| account.permit.has_origin(origin))
    }

    fn remembered(&self, text: &[u8]) -> Option<Arc<Account>> {
        let known = self.known.load();
        if !Arc::ptr_eq(&known.view, &self.view.load()) {
            return None;
        }
        known.by_text.get(text).cloned()
    }

    fn remember(&self, text: &[u8], account: &Arc<Account>) {
        let mut known = Known::clone(&self.current());
        if known.by_text.len() < REMEMBERED_MAX {
            known.by_text.insert(text.into(), Arc::clone(account));
            self.known.store(Arc::new(known));
        }
    }

    /// What is known of the present view.
    fn current(&self) -> Arc<Known> {
        let known = self.known.load_full();
        let view = self.view.load_full();
        if Arc::ptr_eq(&known.view, &view) {
            return known;
        }
        let mut accounts: HashMap<[u8; 32], Arc<Account>> = HashMap::new();
        let mut first: HashMap<&str, Arc<Account>> = HashMap::new();
        for (key, source) in &view.sources_by_key {
            let sibling = first.get(source.id.as_str()).map(Arc::as_ref);
            // What the source has spent stays spent whichever of its keys is looked at first.
            let before = known
                .accounts
                .values()
                .find(|before| before.source.id == source.id);
            let key_before = known.accounts.get(key);
            let account = Arc::new(Account::new(
                Arc::clone(source),
                self.rate,
                view.seen.of(&source.id),
                sibling,
                before.map(Arc::as_ref),
                key_before.map(Arc::as_ref),
            ));
            first
                .entry(source.id.as_str())
                .or_insert_with(|| Arc::clone(&account));
            accounts.insert(*key, account);
        }
        let fresh = Arc::new(Known {
            view,
            accounts,
            by_text: HashMap::new(),
        });
        self.known.store(Arc::clone(&fresh));
        fresh
    }

    /// Looks a key up as a whole, then the part before its first colon: Basic users come as `key:`, and
    /// Jitsu's keys as `id:secret`.
    fn find(&self, key: &str) -> Option<Arc<Account>> {
        let known = self.current();
        let before_colon = key.split_once(':').map(|(before, _)| before);
        [Some(key), before_colon]
            .into_iter()
            .flatten()
            .find_map(|key| {
                let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
                known.accounts.get(&hash).cloned()
            })
    }

    /// Counts a key nobody knows by its beginning, and says so once for each.
    fn unknown(&self, key: &str) -> Refusal {
        let length = key.chars().count();
        let prefix: String = key
            .chars()
            .take((length / 2).min(8))
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                    c
                } else {
                    '?'
                }
            })
            .collect();
        let mut prefixes = self.prefixes.lock();
        if prefixes.contains(&prefix) {
            named::unknown_write_keys(&prefix).increment(1);
        } else if prefixes.len() < PREFIXES_MAX {
            named::unknown_write_keys(&prefix).increment(1);
            tracing::warn!(prefix, "unknown write key: its events are turned away");
            prefixes.insert(prefix);
        } else {
            named::unknown_write_keys("other").increment(1);
        }
        Refusal::UnknownKey
    }
}

fn enabled(account: Arc<Account>) -> Result<Arc<Account>, Refusal> {
    if account.source.enabled {
        Ok(account)
    } else {
        Err(Refusal::SourceOff)
    }
}

/// The key in an `Authorization` header; none for schemes that carry none, and for an empty one.
fn key_of_authorization(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let (scheme, rest) = text.trim().split_once(' ')?;
    let key = if scheme.eq_ignore_ascii_case("basic") {
        // What is no base64 is still a key nobody knows, not a request without one.
        let plain = BASE64.decode(rest.trim()).unwrap_or_else(|_| b"?".to_vec());
        String::from_utf8_lossy(&plain).into_owned()
    } else if scheme.eq_ignore_ascii_case("bearer") {
        rest.trim().to_owned()
    } else {
        return None;
    };
    (!key.trim_matches(':').is_empty()).then_some(key)
}
