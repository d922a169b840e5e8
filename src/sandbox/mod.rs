//! A vendor sandbox over real HTTP: one listener that plays vendors under path prefixes, misbehaves as scripted
//! and remembers what it was sent. Tests, the demo and the load harness run it in their own process;
//! `aqueduct sandbox` runs it alone.
//!
//! Knows nothing of the gateway. `/optimizely/…` plays Optimizely; other vendors get a prefix and a folder each.
//! Any vendor path may be put behind `/at/{label}`: the same vendor with counts of its own, for a second
//! integration. Control is under `/_sandbox/` (see [`control`]).

pub mod control;
pub mod faults;
pub mod histogram;
pub mod log;
pub mod optimizely;
mod serve;
mod vendors;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::clock::{SharedClock, SystemClock};
use faults::{Faults, Script};
use log::RequestLog;
use optimizely::datafiles::Datafiles;
use optimizely::tally::Tally;

/// Labels told apart behind `/at/`; the rest share one.
const LABELS_MAX: usize = 64;

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
    clock: SharedClock,
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
                clock,
                has_faults: AtomicBool::new(false),
                faults: Mutex::default(),
                logging: AtomicBool::new(true),
                log: Mutex::default(),
                remember: AtomicBool::new(true),
                datafiles: Mutex::new(Datafiles::new(now_ms)),
                tallies: Mutex::default(),
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

    /// The line `aqueduct sandbox` prints when it listens: `{"listening":{"sandbox":"ip:port"}}`.
    #[must_use]
    pub fn ready_line(&self) -> String {
        serde_json::json!({"listening": {"sandbox": self.addr.to_string()}}).to_string()
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
            "(other)"
        };
        change(tallies.entry(label.to_owned()).or_default());
    }
}

#[cfg(test)]
mod tests;
