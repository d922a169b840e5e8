//! A vendor sandbox over real HTTP: one listener that plays vendors under path prefixes, misbehaves as scripted
//! and remembers what it was sent. Tests, the demo and the load harness run it in their own process;
//! `aqueduct sandbox` runs it alone.
//!
//! Knows nothing of the gateway. Each vendor has a prefix per host and a folder: `/optimizely`, `/brevo`, `/heap-us`,
//! `/heap-eu`, `/pendo-app`, `/pendo-data`, `/odp`. Any vendor path may be put behind `/at/{label}`: the same vendor
//! with state and counts of its own, for a second integration. Control is under `/_sandbox/` (see [`control`]).
//! Every rule a vendor plays has an id; [`book`] counts who broke which.

pub mod book;
pub mod brevo;
pub mod config;
pub mod control;
pub mod exchange;
pub mod faults;
pub mod heap;
pub mod histogram;
pub mod log;
pub mod odp;
pub mod optimizely;
pub mod pendo;
pub mod ring;
mod serve;
mod vendors;
pub mod virtual_clock;
pub mod window;
pub mod world;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::clock::{Clock, Millis, SharedClock, SystemClock};
use book::Book;
use config::Config;
use faults::{Faults, Script};
use log::RequestLog;
use optimizely::datafiles::Datafiles;
use optimizely::tally::Tally;
use virtual_clock::VirtualClock;
pub use world::PREFIXES;
use world::{Look, World};

/// Labels told apart behind `/at/`; the rest share one.
const LABELS_MAX: usize = 64;
/// What they share.
const OTHER_LABELS: &str = "(other)";

/// A bound sandbox, not yet serving.
#[derive(Debug)]
pub struct Sandbox {
    /// Where it listens.
    pub addr: SocketAddr,
    listener: TcpListener,
    handle: Handle,
}

/// A look into a sandbox from the same process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(Arc<State>);

/// Everything the sandbox remembers.
#[derive(Debug)]
struct State {
    clock: VirtualClock,
    config: ArcSwap<Config>,
    /// Faults are looked at for every request: this saves the lock while there are none.
    has_faults: AtomicBool,
    faults: Mutex<Faults>,
    /// Requests are logged.
    logging: AtomicBool,
    log: Mutex<RequestLog>,
    /// Repeats are recognised.
    remember: AtomicBool,
    datafiles: Mutex<Datafiles>,
    /// By label; "" is the plain path.
    tallies: Mutex<BTreeMap<String, Tally>>,
    /// The other vendors, by label in the same way.
    worlds: Mutex<BTreeMap<String, Arc<World>>>,
    connections: AtomicUsize,
}

impl Sandbox {
    /// Listens at `addr` (port 0 for any), by the machine's clock.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        Self::bind_with(addr, Arc::new(SystemClock)).await
    }

    /// Listens at `addr`, by this clock.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind_with(addr: SocketAddr, clock: SharedClock) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let now_ms = clock.now_ms();
        Ok(Self {
            addr: listener.local_addr()?,
            listener,
            handle: Handle(Arc::new(State {
                clock: VirtualClock::new(clock),
                config: ArcSwap::default(),
                has_faults: AtomicBool::new(false),
                faults: Mutex::default(),
                logging: AtomicBool::new(true),
                log: Mutex::default(),
                remember: AtomicBool::new(true),
                datafiles: Mutex::new(Datafiles::new(now_ms)),
                tallies: Mutex::default(),
                worlds: Mutex::default(),
                connections: AtomicUsize::new(0),
            })),
        })
    }

    /// A look inside that outlives [`Sandbox::run`].
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// `http://ip:port`, to put vendor paths behind.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The line `aqueduct sandbox` prints when it listens: `{"listening":{"sandbox":"ip:port"},"vendors":["/brevo",…]}`.
    #[must_use]
    pub fn ready_line(&self) -> String {
        serde_json::json!({"listening": {"sandbox": self.addr.to_string()}, "vendors": PREFIXES})
            .to_string()
    }

    /// Serves until `shutdown` is done, then cuts every connection.
    ///
    /// # Errors
    /// Never at present; accept failures are waited out.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        serve::run(self.listener, self.handle.0, shutdown).await;
        Ok(())
    }
}

impl Handle {
    /// What `GET /_sandbox/optimizely/summary?at=label` answers; "" for the plain path.
    #[must_use]
    pub fn optimizely_summary(&self, label: &str) -> Value {
        self.0.optimizely_summary(label)
    }

    /// Puts a fault script in force, as `PUT /_sandbox/faults` does.
    pub fn set_faults(&self, script: Script) {
        self.0.set_faults(script);
    }

    /// What `GET /_sandbox/requests` answers: entries after number `since` whose path begins with `path`.
    #[must_use]
    pub fn requests(&self, since: u64, path: &str, limit: usize) -> Value {
        self.0.log.lock().page(since, path, limit)
    }

    /// Changes the policies of the playing vendors, as `PUT /_sandbox/config` does. Answers all of them.
    ///
    /// # Errors
    /// In words, with the place, when there is no such policy or value.
    pub fn configure(&self, part: &Value) -> Result<Value, String> {
        self.0.configure(part)
    }

    /// The sandbox's time, in Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> Millis {
        self.0.clock.now_ms()
    }

    /// Moves the sandbox's clock on by `ms` milliseconds, as `POST /_sandbox/clock` does.
    pub fn advance(&self, ms: u64) {
        self.0.clock.advance(ms);
    }

    /// What `GET /_sandbox/state/{vendor}?at=label` answers, with up to `limit` entries a list; null for an
    /// unknown vendor.
    #[must_use]
    pub fn state(&self, vendor: &str, label: &str, limit: usize) -> Value {
        let look = Look { user: None, limit };
        self.0.world(label).state(vendor, &look).unwrap_or_default()
    }

    /// Adds to a vendor's state, as `PUT /_sandbox/state/{vendor}?at=label` does.
    ///
    /// # Errors
    /// In words, when it does not fit; nothing is added then.
    pub fn seed(&self, vendor: &str, label: &str, seed: Value) -> Result<(), String> {
        let now_ms = self.now_ms();
        self.0.world(label).seed(vendor, seed, now_ms)
    }

    /// `{user: {flag: variation}}` as the vendor now shows it; null for an unknown vendor. Flags are as they are at
    /// Heap and ODP, slugs at Brevo and Pendo.
    #[must_use]
    pub fn values(&self, vendor: &str, label: &str) -> Value {
        if vendor == "optimizely" {
            return self.0.impressions(label, None);
        }
        let world = self.0.world(label);
        world.values(vendor, None).unwrap_or_default()
    }

    /// The variation a vendor now shows for a user and flag; null when it shows none.
    #[must_use]
    pub fn value(&self, vendor: &str, label: &str, user: &str, flag: &str) -> Value {
        let world = self.0.world(label);
        world.value(vendor, user, flag).unwrap_or_default()
    }

    /// What `GET /_sandbox/breaches` answers; of one label, or of all together.
    #[must_use]
    pub fn breaches(&self, label: Option<&str>) -> Value {
        self.0.breaches(label)
    }

    /// Serves a datafile, as `PUT /_sandbox/optimizely/datafiles/{sdk_key}` does.
    ///
    /// # Errors
    /// In words, when it is not one.
    pub fn put_datafile(&self, sdk_key: &str, document: Value) -> Result<Value, String> {
        let now_ms = self.0.clock.now_ms();
        self.0.datafiles.lock().put(sdk_key, document, now_ms)
    }
}

impl State {
    fn optimizely_summary(&self, label: &str) -> Value {
        let mut summary = self
            .tallies
            .lock()
            .get(label)
            .map_or_else(|| Tally::default().summary(), Tally::summary);
        summary["datafile_reads"] = serde_json::json!(self.datafiles.lock().reads);
        summary
    }

    /// What Optimizely's impressions say, by visitor and flag.
    fn impressions(&self, label: &str, visitor: Option<&str>) -> Value {
        let tallies = self.tallies.lock();
        tallies
            .get(label)
            .map_or_else(|| serde_json::json!({}), |tally| tally.decided(visitor))
    }

    fn configure(&self, part: &Value) -> Result<Value, String> {
        let config = self.config.load().with(part)?;
        self.config.store(Arc::new(config));
        Ok(self.config())
    }

    fn config(&self) -> Value {
        serde_json::to_value(&**self.config.load()).unwrap_or_default()
    }

    /// The vendors of a label; made when it is new.
    fn world(&self, label: &str) -> Arc<World> {
        let mut worlds = self.worlds.lock();
        if let Some(world) = worlds.get(label) {
            return Arc::clone(world);
        }
        let label = if worlds.len() < LABELS_MAX {
            label
        } else {
            OTHER_LABELS
        };
        Arc::clone(worlds.entry(label.to_owned()).or_default())
    }

    fn breaches(&self, label: Option<&str>) -> Value {
        let mut book = Book::default();
        let asked = |of: &String| label.is_none_or(|label| label == of);
        for (of, world) in self.worlds.lock().iter() {
            if asked(of) {
                book.add(&world.book.lock());
            }
        }
        for (of, tally) in self.tallies.lock().iter() {
            if asked(of) {
                book.add_limit("OP1", tally.too_large());
            }
        }
        book.report()
    }

    fn set_faults(&self, script: Script) {
        let mut faults = self.faults.lock();
        faults.set(script);
        self.has_faults
            .store(!faults.is_empty(), std::sync::atomic::Ordering::Release);
    }

    fn with_tally(&self, label: &str, change: &mut dyn FnMut(&mut Tally)) {
        let mut tallies = self.tallies.lock();
        if let Some(tally) = tallies.get_mut(label) {
            return change(tally);
        }
        let label = if tallies.len() < LABELS_MAX {
            label
        } else {
            OTHER_LABELS
        };
        change(tallies.entry(label.to_owned()).or_default());
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
