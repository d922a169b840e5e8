//! The commands that run: the gateway, the demo, the sandbox, and the probe containers use.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::SystemClock;
use crate::config::{LogFormat, Settings};
use crate::sandbox::Sandbox;
use crate::{demo, lifecycle, telemetry};

/// How long the health probe waits.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the gateway until it is told to stop.
pub(super) async fn serve(settings: Settings) -> anyhow::Result<ExitCode> {
    telemetry::logs(&settings.log, settings.log_format);
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    lifecycle::watch_signals(soft.clone(), hard.clone())?;
    let app = App::build(settings, Arc::new(SystemClock)).await?;
    announce(&app)?;
    app.run(soft, hard).await?;
    Ok(ExitCode::SUCCESS)
}

/// The line tests and scripts wait for, then what is shown only once.
fn announce(app: &App) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{}",
        serde_json::json!({"listening": app.addresses()})
    )?;
    let issued = app.issued();
    if let Some(key) = &issued.write_key {
        writeln!(
            stdout,
            "write key of the source `default` (shown once): {}",
            key.expose()
        )?;
    }
    if let Some(token) = &issued.admin_token {
        writeln!(stdout, "admin token (shown once): {}", token.expose())?;
    }
    stdout.flush()?;
    Ok(())
}

/// Runs the demo.
pub(super) async fn demo(settings: Settings, exit: bool) -> anyhow::Result<ExitCode> {
    // The report is the point here; the log keeps to what went wrong unless asked for more.
    let filter = if settings.log == "info" {
        "warn"
    } else {
        settings.log.as_str()
    };
    telemetry::logs(filter, LogFormat::Pretty);
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    lifecycle::watch_signals(soft.clone(), hard.clone())?;
    let balanced = demo::run(settings, Arc::new(SystemClock), exit, soft, hard).await?;
    Ok(if balanced {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the vendor sandbox until it is told to stop.
pub(super) async fn sandbox(listen: SocketAddr) -> anyhow::Result<ExitCode> {
    let soft = CancellationToken::new();
    lifecycle::watch_signals(soft.clone(), CancellationToken::new())?;
    let sandbox = Sandbox::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    super::say(&sandbox.ready_line());
    sandbox.run(soft.cancelled_owned()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Asks a running gateway's `/readyz`, without an HTTP client: the answer's first line is all it takes.
pub(super) async fn healthcheck(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut addr = settings.metrics_listen;
    if addr.ip().is_unspecified() {
        addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let asked = tokio::time::timeout(PROBE_TIMEOUT, async {
        let mut stream = tokio::net::TcpStream::connect(addr).await?;
        stream
            .write_all(
                format!("GET /readyz HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    });
    let answer = asked
        .await
        .with_context(|| format!("{addr} does not answer"))??;
    let ready = answer.starts_with("HTTP/1.1 200");
    if !ready {
        eprintln!(
            "aqueduct: not ready: {}",
            answer.lines().last().unwrap_or_default()
        );
    }
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
