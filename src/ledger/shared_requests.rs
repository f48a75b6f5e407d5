//! Where processes that share the ledger draw the requests from that they may send to the platform.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::Ledger;
use super::database::SharedRequests;
use crate::retry::{Drawing, Order, Portions};

/// The pause after an error that does not pass by itself. Other work of the service ends with the same.
const AGAIN: Duration = Duration::from_secs(30);

impl Ledger {
    /// Where requests to the platform are drawn from; None: no other process can use the ledger.
    #[must_use]
    pub fn portions(&self) -> Option<Arc<dyn Portions>> {
        let shared = self.db.shared_requests()?;
        Some(Arc::new(shared))
    }
}

impl Portions for SharedRequests {
    fn draw<'a>(&'a self, order: Order<'a>) -> Pin<Box<dyn Future<Output = Drawing> + Send + 'a>> {
        Box::pin(async move {
            loop {
                // Nothing is sent on a guess.
                match self.draw_portion(order).await {
                    Ok(drawing) => return drawing,
                    Err(error) => error!(
                        error = &error as &dyn std::error::Error,
                        hint = error.hint(),
                        "cannot share the limit of requests: requests to the platform wait"
                    ),
                }
                tokio::time::sleep(AGAIN).await;
            }
        })
    }
}
