//! The playing vendors of one label, and how a request reaches them. Each vendor stands behind a lock of its own;
//! the body is read before the lock is taken.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::http::request::Parts;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::book::{Book, Marks};
use super::brevo::Brevo;
use super::config::Config;
use super::exchange::{Ask, Reply, segments, slug};
use super::heap::{Heap, Region};
use super::odp::Odp;
use super::pendo::{Host, Pendo};
use crate::clock::Millis;

/// A vendor as seen from outside: which one, behind which of its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// `/brevo`
    Brevo,
    /// `/heap-us`, `/heap-eu`
    Heap(Region),
    /// `/pendo-app`, `/pendo-data`
    Pendo(Host),
    /// `/odp`
    Odp,
}

/// Prefixes and what stands behind them.
const SURFACES: [(&str, Surface); 6] = [
    ("brevo", Surface::Brevo),
    ("heap-us", Surface::Heap(Region::Us)),
    ("heap-eu", Surface::Heap(Region::Eu)),
    ("pendo-app", Surface::Pendo(Host::App)),
    ("pendo-data", Surface::Pendo(Host::Data)),
    ("odp", Surface::Odp),
];

/// The prefixes beside `/optimizely`, as printed at start.
pub const PREFIXES: [&str; 7] = [
    "/optimizely",
    "/brevo",
    "/heap-us",
    "/heap-eu",
    "/pendo-app",
    "/pendo-data",
    "/odp",
];

impl Surface {
    /// The surface a path is for, and the rest of the path.
    #[must_use]
    pub fn of(path: &str) -> Option<(Self, &str)> {
        let path = path.strip_prefix('/')?;
        let (prefix, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
        SURFACES
            .iter()
            .find(|(name, _)| *name == prefix)
            .map(|(_, surface)| (*surface, rest))
    }

    fn vendor(self) -> &'static str {
        match self {
            Self::Brevo => "brevo",
            Self::Heap(_) => "heap",
            Self::Pendo(_) => "pendo",
            Self::Odp => "odp",
        }
    }
}

/// A request as it arrived.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Below the vendor's prefix.
    pub path: &'a str,
    /// Head.
    pub parts: &'a Parts,
    /// None when it was too long to read.
    pub body: Option<&'a Bytes>,
    /// Its length all the same.
    pub body_bytes: usize,
    /// Who asks.
    pub peer: Option<IpAddr>,
}

/// What to show of a vendor's state.
#[derive(Debug, Default)]
pub struct Look {
    /// Only what is about this person.
    pub user: Option<String>,
    /// Entries per list.
    pub limit: usize,
}

/// The vendors of one label.
#[derive(Debug, Default)]
pub struct World {
    brevo: Mutex<Brevo>,
    heap: Mutex<Heap>,
    pendo: Mutex<Pendo>,
    odp: Mutex<Odp>,
    pub(super) book: Mutex<Book>,
}

impl World {
    /// Answers a request, and the rule it ran into, if any.
    #[must_use]
    pub fn answer(
        &self,
        surface: Surface,
        request: &Arrived<'_>,
        config: &Config,
        now_ms: Millis,
    ) -> (Reply, Option<&'static str>) {
        let parts = request.parts;
        let body = request.body;
        let ask = Ask {
            method: &parts.method,
            path: segments(request.path),
            query: parts.uri.query().unwrap_or(""),
            headers: &parts.headers,
            body_bytes: request.body_bytes,
            json: body.and_then(|body| serde_json::from_slice(body).ok()),
            peer: request.peer,
            now_ms,
        };
        let mut marks = Marks::default();
        let grace_ms = config.rate_grace_ms;
        let reply = match surface {
            Surface::Brevo => self
                .brevo
                .lock()
                .answer(&ask, &config.brevo, grace_ms, &mut marks),
            Surface::Heap(region) => {
                self.heap
                    .lock()
                    .answer(&ask, region, &config.heap, grace_ms, &mut marks)
            }
            Surface::Pendo(host) => {
                self.pendo
                    .lock()
                    .answer(&ask, host, &config.pendo, grace_ms, &mut marks)
            }
            Surface::Odp => self
                .odp
                .lock()
                .answer(&ask, &config.odp, grace_ms, &mut marks),
        };
        self.book
            .lock()
            .enter(surface.vendor(), reply.status, &marks, now_ms);
        (reply, marks.rule())
    }

    /// A vendor's state; none when there is no such vendor.
    #[must_use]
    pub fn state(&self, vendor: &str, look: &Look) -> Option<Value> {
        let mut state = match vendor {
            "brevo" => self.brevo.lock().state(look),
            "heap" => self.heap.lock().state(look),
            "pendo" => self.pendo.lock().state(look),
            "odp" => self.odp.lock().state(look),
            _ => return None,
        };
        state["requests"] = self.book.lock().requests(vendor);
        Some(state)
    }

    /// Adds what is given to a vendor's state.
    ///
    /// # Errors
    /// In words, when it does not fit; nothing is added then.
    pub fn seed(&self, vendor: &str, seed: Value, now_ms: Millis) -> Result<(), String> {
        match vendor {
            "brevo" => self.brevo.lock().seed(read(seed)?, now_ms),
            "heap" => self.heap.lock().seed(read(seed)?),
            "pendo" => self.pendo.lock().seed(read(seed)?),
            "odp" => self.odp.lock().seed(read(seed)?, now_ms),
            _ => Err(format!("no vendor `{vendor}` with a state")),
        }
    }

    /// Forgets a vendor's state; whether there is such a vendor.
    pub fn clear(&self, vendor: &str) -> bool {
        match vendor {
            "brevo" => *self.brevo.lock() = Brevo::default(),
            "heap" => *self.heap.lock() = Heap::default(),
            "pendo" => *self.pendo.lock() = Pendo::default(),
            "odp" => *self.odp.lock() = Odp::default(),
            _ => return false,
        }
        true
    }

    /// `{user: {flag: variation}}` as the vendor now shows it; `user` picks one. Flags are named as the vendor can
    /// name them: as they are at Heap and ODP, as slugs at Brevo and Pendo.
    #[must_use]
    pub fn values(&self, vendor: &str, user: Option<&str>) -> Option<Value> {
        Some(match vendor {
            "brevo" => self.brevo.lock().values(user),
            "heap" => self.heap.lock().values(user),
            "pendo" => self.pendo.lock().values(user),
            "odp" => self.odp.lock().values(user),
            _ => return None,
        })
    }

    /// The value of one flag for one user as the vendor now shows it; null when it shows none.
    #[must_use]
    pub fn value(&self, vendor: &str, user: &str, flag: &str) -> Option<Value> {
        let values = self.values(vendor, Some(user))?;
        let flags = values.get(user).unwrap_or(&Value::Null);
        let value = flags.get(flag).or_else(|| flags.get(slug(flag)));
        Some(value.cloned().unwrap_or(Value::Null))
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| error.to_string())
}

/// `{"user": …}` for each, as `values` answers.
pub(super) fn by_user(users: impl Iterator<Item = (String, Value)>) -> Value {
    let mut map = serde_json::Map::new();
    for (user, flags) in users {
        if flags.as_object().is_some_and(|flags| !flags.is_empty()) {
            map.insert(user, flags);
        }
    }
    json!(map)
}
