//! Starting to stop: one token everybody watches, pulled by the first signal; the second leaves at once.

use tokio_util::sync::CancellationToken;

/// Pulls `soft` at the first SIGTERM or SIGINT and `hard` at the second.
///
/// Leaving hard loses nothing acknowledged: what is durable stays so without any last word.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn watch_signals(soft: CancellationToken, hard: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for token in [soft, hard] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("signal received");
            token.cancel();
        }
    });
    Ok(())
}
