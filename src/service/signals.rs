//! Signals: the first SIGTERM or SIGINT stops the service in order, the second exits immediately; SIGHUP reloads.

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
        info!("stopping: a second signal exits immediately");
        stop.cancel();
        next(&mut terminate, &mut interrupt).await;
        warn!("exiting immediately: unfinished work continues at the next start");
        std::process::exit(EXIT_AT_ONCE);
    });
    Ok(())
}

/// All SIGHUPs from now on.
///
/// # Errors
/// When the operating system gives no handler.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
