//! `aqueduct demo`: the whole product in one process against the vendor sandbox, and a report of what happened.
//!
//! A stranger to the gateway: it installs by the admin API, posts by HTTP and reads the ledger, as a user would.
//! `install` prepares the vendors and installs every one, `burst` posts, `report` says what became of it.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::SharedClock;
use crate::config::Settings;
use crate::sandbox::Sandbox;
use crate::secret::Secret;

/// Prints a line of the report.
macro_rules! say {
    ($($text:tt)*) => { $crate::demo::line(format_args!($($text)*)) };
}

mod burst;
mod install;
mod report;
mod visitor;

use visitor::Visitor;

/// Runs the demo; true when the ledger balances and the decision the report follows reached every vendor.
///
/// # Errors
/// When a listener cannot be bound or the gateway does not start.
pub async fn run(
    mut settings: Settings,
    clock: SharedClock,
    exit: bool,
    soft: CancellationToken,
    hard: CancellationToken,
) -> anyhow::Result<bool> {
    let directory = Directory::make()?;
    settings.data_dir.clone_from(&directory.0);
    let write_key = settings
        .write_key
        .get_or_insert_with(|| Secret::new(format!("wk_demo_{}", uuid::Uuid::new_v4().simple())))
        .clone();
    let admin_token = settings
        .admin_token
        .get_or_insert_with(|| Secret::new(format!("adm_demo_{}", uuid::Uuid::new_v4().simple())))
        .clone();

    let sandbox = Sandbox::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .context("the vendor sandbox")?;
    let sandbox_addr = sandbox.addr;
    let sandbox_stop = CancellationToken::new();
    tokio::spawn(sandbox.run(sandbox_stop.clone().cancelled_owned()));
    settings.egress_allow.push(sandbox_addr.to_string());

    let app = App::build(settings, clock).await?;
    let addresses = app.addresses();
    let gateway = tokio::spawn(app.run(soft.clone(), hard));
    #[expect(
        clippy::disallowed_methods,
        reason = "an outsider calling our own listeners, not the gateway calling out"
    )]
    let http = reqwest::Client::builder().no_proxy().build()?;
    let visitor = Visitor {
        http,
        ingest: local(addresses.ingest),
        admin: local(addresses.admin),
        sandbox: sandbox_addr,
        write_key,
        admin_token,
    };

    visitor.prepare_vendors().await?;
    let integrations = visitor.install_all().await?;
    let decided = visitor.burst().await?;
    let good = visitor.report(&integrations, &decided).await?;
    if !exit {
        visitor.invite();
        soft.cancelled().await;
    }
    soft.cancel();
    gateway.await??;
    sandbox_stop.cancel();
    Ok(good)
}

/// Whoever reads the report may have seen enough and be gone (`| head`): the demo goes on all the same.
fn line(text: std::fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let _reader_gone = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// A data directory that goes when the demo ends.
struct Directory(std::path::PathBuf);

impl Directory {
    fn make() -> anyhow::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("aqueduct-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_dir_all(&self.0);
    }
}

/// An address to call a listener by: the unspecified address becomes loopback.
fn local(addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], addr.port()))
    } else {
        addr
    }
}
