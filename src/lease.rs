//! Whether this host may act on the platform now.
//!
//! Of several hosts with one ledger, one is active. The database says which, for a limited time: its lease. Whoever
//! renews the lease sets here until when it lasts, and the client of the platform looks here directly before each
//! request that changes something. The time is that of a clock that counts while the machine sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// How often a request that has to wait looks again, besides when the lease is renewed.
const LOOK: Duration = Duration::from_millis(200);

/// Until when this host is the active one. Clones share it.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Milliseconds of [`boot_time`].
    deadline: AtomicI64,
    lost: watch::Sender<bool>,
}

impl Lease {
    /// A lease that lasts until this time of [`boot_time`].
    pub(crate) fn until(deadline: i64) -> Self {
        Self(Arc::new(Inner {
            deadline: AtomicI64::new(deadline),
            lost: watch::Sender::new(false),
        }))
    }

    /// It lasts until this time of [`boot_time`].
    pub(crate) fn renew(&self, deadline: i64) {
        self.0.deadline.fetch_max(deadline, Ordering::AcqRel);
    }

    /// Another host is the active one, for good.
    pub(crate) fn lose(&self) {
        self.0.lost.send_replace(true);
    }

    /// Whether this host may act.
    pub(crate) fn is_valid(&self) -> bool {
        !*self.0.lost.borrow() && boot_time() < self.0.deadline.load(Ordering::Acquire)
    }

    /// Returns when this host may act, which may be never.
    pub(crate) async fn valid(&self) {
        while !self.is_valid() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns when another host is the active one.
    pub(crate) async fn lost(&self) {
        let mut lost = self.0.lost.subscribe();
        // The sender is here.
        lost.wait_for(|lost| *lost).await.ok();
    }
}

/// Milliseconds since the machine was started, with the time that it slept.
pub(crate) fn boot_time() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec
        .saturating_mul(1000)
        .saturating_add(time.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_is_valid_until_its_deadline_and_never_after_it_was_lost() {
        let lease = Lease::until(boot_time() - 1);
        assert!(!lease.is_valid());
        lease.renew(boot_time() + 60_000);
        assert!(lease.is_valid());
        // A late answer does not shorten it.
        lease.renew(boot_time() - 60_000);
        lease.valid().await;
        lease.lose();
        assert!(!lease.is_valid());
        lease.lost().await;
    }
}
