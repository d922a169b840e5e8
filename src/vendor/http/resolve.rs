//! From names to addresses we may reach. One look-up per name at a time, each judged by the guard just before it is
//! dialled: the addresses that are admitted are the very ones the connection goes to.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use crate::vendor::guard::{Guard, class_of};

/// Name look-ups under way at once: name servers that hang must not take every blocking thread.
const LOOKUPS_MAX: usize = 32;

/// Where names are looked up: the system's resolver, or what a test hands in.
pub(super) trait Names: Send + Sync + Debug {
    /// All addresses of a name (ports are ignored), or why there are none.
    fn look_up(&self, host: &str) -> BoxFuture<'static, Found>;
}

/// What a look-up gives; cheap to clone, because all who wait for a name share it.
pub(super) type Found = Result<Arc<[SocketAddr]>, Arc<str>>;

/// The system's resolver: `/etc/hosts`, then the name servers, aliases followed.
#[derive(Debug)]
pub(super) struct SystemNames;

impl Names for SystemNames {
    fn look_up(&self, host: &str) -> BoxFuture<'static, Found> {
        let host = host.to_owned();
        Box::pin(async move {
            match tokio::net::lookup_host((host.as_str(), 0)).await {
                Ok(found) => Ok(found.collect()),
                Err(error) => Err(error.to_string().into()),
            }
        })
    }
}

/// A name that leads nowhere we may go.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("{host} resolves to {ip}, which is not a public address ({class})")]
    Blocked {
        host: String,
        ip: IpAddr,
        class: &'static str,
    },
    #[error("cannot resolve {host}: {cause}")]
    Failed { host: String, cause: String },
}

/// Resolves names and keeps only the addresses the guard admits.
#[derive(Debug, Clone)]
pub(super) struct GuardedResolver {
    guard: Arc<Guard>,
    names: Arc<dyn Names>,
    lookups: Arc<Semaphore>,
    /// By name; whoever asks for a name that is being looked up waits for that look-up. So a name server that hangs
    /// costs one thread, however many requests wait for it, and the look-ups of other vendors still find room.
    under_way: Arc<Mutex<HashMap<String, Shared<BoxFuture<'static, Found>>>>>,
}

impl GuardedResolver {
    pub(super) fn new(guard: Arc<Guard>, names: Arc<dyn Names>) -> Self {
        Self {
            guard,
            names,
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            under_way: Arc::default(),
        }
    }

    /// The look-up of this name that is under way, or a new one.
    fn look_up(&self, host: &str) -> Shared<BoxFuture<'static, Found>> {
        let mut under_way = self.under_way.lock();
        if let Some(waiting) = under_way.get(host) {
            return waiting.clone();
        }
        // A task of its own: when all who wait give up, the system's call still holds its thread, and so the permit
        // must be held until it ends.
        let (this, name) = (self.clone(), host.to_owned());
        let task = tokio::spawn(async move {
            let found = match this.lookups.acquire().await {
                Ok(_permit) => this.names.look_up(&name).await,
                Err(closed) => Err(closed.to_string().into()),
            };
            this.under_way.lock().remove(&name);
            found
        });
        let shared = task
            .map(|ended| ended.unwrap_or_else(|error| Err(error.to_string().into())))
            .boxed()
            .shared();
        under_way.insert(host.to_owned(), shared.clone());
        shared
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let waiting = self.look_up(&host);
        let guard = self.guard.clone();
        Box::pin(async move {
            let found = waiting.await.map_err(|cause| ResolveError::Failed {
                host: host.clone(),
                cause: cause.to_string(),
            })?;
            let admitted: Vec<SocketAddr> = found
                .iter()
                .filter(|addr| guard.admits(&host, addr.ip()))
                .copied()
                .collect();
            match (admitted.is_empty(), found.first()) {
                (false, _) => Ok(Box::new(admitted.into_iter()) as Addrs),
                (true, Some(first)) => Err(ResolveError::Blocked {
                    host,
                    ip: first.ip(),
                    class: class_of(first.ip()).unwrap_or("not allowed"),
                }
                .into()),
                (true, None) => Err(ResolveError::Failed {
                    host,
                    cause: "no address".to_owned(),
                }
                .into()),
            }
        })
    }
}
