//! The wiring: the one file that knows every module. `build` opens stores and binds ports, `run` serves until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::agent::Agents;
use crate::alerts::{self, Alerts};
use crate::assignments::{Assignments, Follower};
use crate::clock::SharedClock;
use crate::config::Settings;
use crate::console::{self, Sampler};
use crate::datafile::{Flags, Odp};
use crate::delivery::{self, Delivery};
use crate::delivery::{Handle, WebhookError};
use crate::ingest::{Segments, SegmentsCache, SharedRules, WebhookAnswer, WebhookSink};
use crate::journal::store::sqlite::SqliteStore;
use crate::journal::{self, Journal};
use crate::logbook::{self, Logbook};
use crate::net::{self, ServeOptions};
use crate::registry::checks::{Checks, flags_of};
use crate::registry::picture::Issued;
use crate::registry::random::Random;
use crate::registry::seal::KeyRing;
use crate::registry::{Given, Registry};
use crate::vendor::guard::Guard;
use crate::vendor::http::Client;
use crate::vendor::odp::segments::Caching;
use crate::vendor::optimizely::webhook::NoticeError;
use crate::{admin, agent, blueprint, ingest, metrics, ops, telemetry, vendor};

/// Niceness of delivery's threads: about a tenth of the processor when acceptance wants all of it.
const DELIVERY_NICENESS: i32 = 10;

/// The bound addresses.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Addresses {
    /// Ingest listener.
    pub ingest: SocketAddr,
    /// Admin listener.
    pub admin: SocketAddr,
    /// Metrics and health listener.
    pub metrics: SocketAddr,
}

/// A gateway, bound and ready to run.
pub struct App {
    addresses: Addresses,
    issued: Issued,
    services: Vec<(TcpListener, Router, ServeOptions)>,
    sampling: (Arc<Sampler>, console::Sources),
    journal: Journal,
    agents: Agents,
    alerts: Alerts,
    delivery: Delivery,
    delivery_runtime: DeliveryRuntime,
    logbook: Logbook,
    follower: Follower,
    draining: Arc<AtomicBool>,
    drain: Duration,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Opens the data directory and binds the listeners. Delivery of what waits begins here; acceptance with [`App::run`].
    ///
    /// # Errors
    /// When the data directory cannot be used or an address cannot be bound; each says which and the way out.
    pub async fn build(settings: Settings, clock: SharedClock) -> anyhow::Result<Self> {
        let prometheus = telemetry::recorder()?;
        let data_dir = &settings.data_dir;
        std::fs::create_dir_all(data_dir).with_context(|| {
            format!(
                "{} cannot be created; check its parent's permissions or set AQUEDUCT_DATA_DIR",
                data_dir.display()
            )
        })?;

        // The journal's lock makes this process the directory's only user: it comes first.
        let store = SqliteStore::open(data_dir, journal::store::random_key())?;
        let journal = Journal::open(Box::new(store), journal_options(&settings), clock.clone())?;
        let logbook = Logbook::open(
            &data_dir.join("attempts.db"),
            logbook_options(&settings),
            clock.clone(),
        )?;

        let assignments = Assignments::open(
            &data_dir.join("assignments.db"),
            ms(settings.assignments_keep_s),
            clock.clone(),
        )?;

        let guard = Arc::new(Guard::parse(&settings.egress_allow)?);
        let client = Client::new(
            guard.clone(),
            concat!("aqueduct/", env!("CARGO_PKG_VERSION")),
            clock.clone(),
        )?;
        let random = Random::system();
        let ring = KeyRing::load(data_dir, settings.encryption_keys.as_ref(), &random)?;
        let datafiles = crate::datafile::Shared::default();
        let checks = Checks {
            urls: guard,
            documents: Arc::new(client.clone()),
            vendors: Arc::new(client.clone()),
            flags: flags_of(datafiles.clone()),
            feeds: Arc::new(journal.clone()),
            vendor: vendor::by_name,
            builtin: blueprint::builtin(),
        };
        let given = Given {
            write_key: settings.write_key.clone(),
            admin_token: settings.admin_token.clone(),
        };
        let (registry, issued) =
            Registry::open(data_dir, ring, &given, clock.clone(), random, checks)?;
        registry.finish_interrupted().await?;

        let delivery_runtime = DeliveryRuntime::start()?;
        let delivery_context = delivery_runtime.enter();
        let segments = vendor::odp::segments::Lookup::new(Arc::new(client.clone()), clock.clone());
        let delivery = Delivery::start(
            journal.clone(),
            registry.view(),
            client.clone(),
            logbook.clone(),
            clock.clone(),
            delivery::Options {
                datafiles_dir: data_dir.join("datafiles"),
                datafiles: datafiles.clone(),
                seed: rand::random(),
            },
        );
        let follower = Follower::start(assignments.clone(), journal.clone());
        let alert_handle = alerts::Handle::new(registry.clone(), clock.clone(), Random::system());
        let alerts = Alerts::start(
            &alert_handle,
            alerts::Parts {
                registry: registry.clone(),
                journal: journal.clone(),
                pipelines: Arc::new(delivery.handle()),
                client: client.clone(),
                clock: clock.clone(),
                random: Random::system(),
            },
            alerts::EVERY,
        );
        drop(delivery_context);
        let rules: SharedRules = Arc::new(Flags::new(datafiles.clone()));
        let agents = Agents::start(agent::Parts {
            view: registry.view(),
            client,
            journal: journal.clone(),
            logbook: logbook.clone(),
            rules: rules.clone(),
            clock: clock.clone(),
            random: Arc::new(rand::random::<u64>),
        });
        let draining = Arc::new(AtomicBool::new(false));
        let ingest = ingest::router(ingest::State {
            journal: journal.clone(),
            view: registry.view(),
            logbook: logbook.clone(),
            clock: clock.clone(),
            random: Arc::new(rand::random::<u64>),
            limits: ingest_options(&settings),
            draining: draining.clone(),
            webhooks: Some(Arc::new(Webhooks(delivery.handle()))),
            rules,
            datafiles,
            segments: Some(Arc::new(QualifiedSegments(segments))),
        });
        let api = admin::router(admin::Parts {
            registry: registry.clone(),
            journal: journal.clone(),
            delivery: Arc::new(delivery.handle()),
            logbook: logbook.clone(),
            assignments,
            alerts: alert_handle,
            clock: clock.clone(),
            calls_a_minute: settings.admin_rate,
        });
        let sampler = Arc::new(Sampler::default());
        let sampled = console::Sources {
            journal: journal.clone(),
            prometheus: prometheus.clone(),
            clock: clock.clone(),
        };
        let admin = console::router(console::Parts {
            api,
            registry,
            sampler: Arc::clone(&sampler),
            settings: settings.effective.clone(),
            clock: clock.clone(),
            random: Random::system(),
        });
        let ops = ops::router(ops::Ops {
            prometheus,
            journal: journal.clone(),
            draining: draining.clone(),
            clock,
        });

        let drain = Duration::from_secs(settings.drain_s);
        let ingest_listener = bind("ingest_listen", settings.ingest_listen).await?;
        let admin_listener = bind("admin_listen", settings.admin_listen).await?;
        let metrics_listener = bind("metrics_listen", settings.metrics_listen).await?;
        let addresses = Addresses {
            ingest: ingest_listener.local_addr()?,
            admin: admin_listener.local_addr()?,
            metrics: metrics_listener.local_addr()?,
        };
        let inner = ServeOptions {
            drain: Duration::from_secs(2),
            connections_max: 256,
            ..ServeOptions::default()
        };
        let public = ServeOptions {
            head_timeout: Duration::from_secs(settings.header_timeout_s),
            connections_max: settings.max_connections,
            refusal: ingest::CONNECTION_REFUSED,
            half_close: true,
            drain,
            connections: metrics::ingest_connections(),
            refused: metrics::ingest_shed("connections"),
            ..ServeOptions::default()
        };
        Ok(Self {
            addresses,
            issued,
            services: vec![
                (ingest_listener, ingest, public),
                (admin_listener, admin, inner.clone()),
                (metrics_listener, ops, inner),
            ],
            sampling: (sampler, sampled),
            journal,
            agents,
            alerts,
            delivery,
            delivery_runtime,
            logbook,
            follower,
            draining,
            drain,
        })
    }

    /// The bound addresses.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Keys and tokens made at this start: shown once, here.
    #[must_use]
    pub fn issued(&self) -> &Issued {
        &self.issued
    }

    /// Serves until `soft` is cancelled, then drains: `/readyz` turns first, requests under way are answered, what vendors
    /// have not yet confirmed stays in the journal. `hard` leaves at once, which loses nothing acknowledged either.
    ///
    /// # Errors
    /// When a part ended in a way it should not.
    pub async fn run(self, soft: CancellationToken, hard: CancellationToken) -> anyhow::Result<()> {
        let Self {
            services,
            sampling: (sampler, sampled),
            journal,
            agents,
            alerts,
            delivery,
            delivery_runtime,
            logbook,
            follower,
            draining,
            drain,
            ..
        } = self;
        // Ingest stops first; health and admin answer until the last.
        let late = CancellationToken::new();
        let mut served = Vec::new();
        for (place, (listener, router, options)) in services.into_iter().enumerate() {
            let stop = if place == 0 {
                soft.clone()
            } else {
                late.clone()
            };
            served.push(tokio::spawn(net::serve(listener, router, options, stop)));
        }
        let sampling = tokio::spawn(async move { sampler.run(sampled).await });
        soft.cancelled().await;
        sampling.abort();
        tracing::info!(drain_s = drain.as_secs(), "draining");
        draining.store(true, Ordering::SeqCst);
        let stopping = async {
            let mut served = served.into_iter();
            if let Some(ingest) = served.next() {
                ingest.await?;
            }
            agents.stop().await;
            alerts.stop().await;
            delivery.stop(drain).await;
            late.cancel();
            for other in served {
                other.await?;
            }
            follower.stop().await;
            logbook.close().await;
            journal.close().await;
            anyhow::Ok(())
        };
        tokio::select! {
            done = stopping => done?,
            () = hard.cancelled() => tracing::warn!("left without draining; everything acknowledged is in the journal"),
        }
        drop(delivery_runtime);
        tracing::info!("stopped");
        Ok(())
    }
}

async fn bind(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| {
        format!(
            "{setting}: cannot listen on {addr}; is another process there? Port 0 takes a free one"
        )
    })
}

fn journal_options(settings: &Settings) -> journal::Options {
    journal::Options {
        dedup_bytes_max: settings.dedup_bytes,
        dedup_window_ms: ms(settings.dedup_window_s),
        retain_ms: ms(settings.retain_s),
        retain_bytes: settings.retain_bytes,
        free_bytes_min: settings.free_bytes_min,
        label: crate::event::decision::label::label,
        ..journal::Options::default()
    }
}

fn logbook_options(settings: &Settings) -> logbook::Options {
    logbook::Options {
        keep_ms: ms(settings.attempts_keep_s),
        bytes_max: settings.attempts_bytes,
        ..logbook::Options::default()
    }
}

fn ingest_options(settings: &Settings) -> ingest::Options {
    ingest::Options {
        body_bytes_max: settings.max_body_bytes,
        body_timeout: Duration::from_secs(settings.body_timeout_s),
        source_rate: settings.source_rate,
        ..ingest::Options::default()
    }
}

fn ms(seconds: u64) -> crate::clock::Millis {
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
}

/// Threads of delivery's own, at a lower priority: when there is less processor than work, acceptance comes first
/// and the journal holds what delivery has not got to.
struct DeliveryRuntime(Option<tokio::runtime::Runtime>);

impl DeliveryRuntime {
    fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("delivery")
            .on_thread_start(|| {
                // Refused only in odd containers, and then delivery merely competes as an equal.
                let _refused = rustix::process::nice(DELIVERY_NICENESS);
            })
            .enable_all()
            .build()
            .context("delivery's threads do not start")?;
        Ok(Self(Some(runtime)))
    }

    /// While held, tasks are spawned here.
    fn enter(&self) -> Option<tokio::runtime::EnterGuard<'_>> {
        self.0.as_ref().map(tokio::runtime::Runtime::enter)
    }
}

impl Drop for DeliveryRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A runtime must not wait for its threads inside another one.
            runtime.shutdown_background();
        }
    }
}

/// Segments of users, as ingest asks for them.
struct QualifiedSegments(vendor::odp::segments::Lookup);

impl Segments for QualifiedSegments {
    fn qualified<'a>(
        &'a self,
        odp: &'a Odp,
        wanted: &'a [String],
        user_id: &'a str,
        cache: SegmentsCache,
    ) -> BoxFuture<'a, Result<Arc<[String]>, String>> {
        let caching = match cache {
            SegmentsCache { ignore: true, .. } => Caching::Ignore,
            SegmentsCache { reset: true, .. } => Caching::Reset,
            _ => Caching::Use,
        };
        Box::pin(self.0.qualified(odp, wanted, user_id, caching))
    }
}

/// The running pipelines, as vendors' webhooks reach them.
struct Webhooks(Handle);

impl WebhookSink for Webhooks {
    fn optimizely(&self, integration: &str, signature: Option<&str>, body: &[u8]) -> WebhookAnswer {
        match self.0.optimizely_webhook(integration, signature, body) {
            Ok(_) => WebhookAnswer::NoContent,
            Err(WebhookError::Unknown) => WebhookAnswer::Unknown,
            Err(WebhookError::NoSecret | WebhookError::Notice(NoticeError::BadSignature)) => {
                WebhookAnswer::BadSignature
            }
            Err(WebhookError::Notice(NoticeError::Malformed)) => WebhookAnswer::Malformed,
        }
    }
}
