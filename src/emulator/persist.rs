//! Writes the state after each change, and deletes content that is no longer in use. A crash loses the changes of at
//! most [`WRITE_AFTER`].

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;

/// Changes within this time are written together.
const WRITE_AFTER: Duration = Duration::from_millis(100);

/// Writes the state and deletes unused content after each change, until `stop`.
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
            Ok(Err(error)) => tracing::error!(%error, "cannot write the state of the emulator"),
            Err(panic) => tracing::error!(%panic, "cannot write the state of the emulator"),
        }
        if stopping {
            return;
        }
    }
}

/// Deletes replaced content, after its digest was stored for everything that refers to it.
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
            // The file may be gone with its folder.
            drop(std::fs::remove_file(shared.store.part(part)));
        }
    }
}
