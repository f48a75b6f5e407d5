//! Writes the state after each change, and deletes content that is no longer in use. A crash loses the changes of at most [`WRITE_AFTER`].

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;

/// Changes that come close together are written at once.
const WRITE_AFTER: Duration = Duration::from_millis(100);

/// After every change: writes the state, when it is to be kept, and removes content that counts no longer.
pub(super) async fn persist_loop(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = shared.store.wait_for_change() => false,
        };
        if !stopping {
            tokio::time::sleep(WRITE_AFTER).await;
        }
        let worker = Arc::clone(&shared);
        let kept = tokio::task::spawn_blocking(move || {
            clear_away(&worker);
            worker.store.save(worker.state().clone())
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the emulator's state could not be written"),
            Err(panic) => tracing::error!(%panic, "the emulator's state could not be written"),
        }
        if stopping {
            return;
        }
    }
}

/// Removes what counts no longer, once its digest is known to whatever mentions it.
fn clear_away(shared: &Shared) {
    let retired = shared.state().retired.clone();
    for content in retired {
        let wanted = shared.state().undigested();
        if wanted.iter().any(|one| one.id == content.id)
            && let Ok(sha256) = shared.store.digest(&content)
        {
            shared.state().digested(&content.id, &sha256);
        }
        let mut state = shared.state();
        state.retired.retain(|one| one.id != content.id);
        let parts = content.parts.iter().map(|(_, part)| &part.name);
        let unused: Vec<&String> = parts.filter(|part| !state.is_used(part)).collect();
        drop(state);
        for part in unused {
            // It may be gone with its folder.
            drop(std::fs::remove_file(shared.store.part(part)));
        }
    }
}
