//! Signals: the first asks for an orderly stop, the second for an end at once; a hangup is a wish for the configuration to be read again.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit code after a second signal: 128 plus SIGINT, as a shell would give.
const EXIT_AT_ONCE: i32 = 130;

/// Cancels `stop` at the first SIGTERM or SIGINT and ends the process at the second.
///
/// # Errors
/// When the operating system gives no handler.
pub fn handle(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        next(&mut terminate, &mut interrupt).await;
        info!("asked to stop; ask again to end at once");
        stop.cancel();
        next(&mut terminate, &mut interrupt).await;
        warn!("ending at once; the ledger knows what was under way");
        std::process::exit(EXIT_AT_ONCE);
    });
    Ok(())
}

/// The wishes for another look at the configuration, from now on.
pub(super) fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
