//! The wall clock, as the whole program sees it.
//!
//! The system's clock can be wrong by years and be corrected at any moment. So the service reads it once, at its start,
//! and from then on counts with the clock that never jumps: [`now`] is steady. What is measured between two calls is
//! right whatever happens to the system's clock. When that has jumped, [`lead`] says by how much, and the service
//! moves everything that is stored by the same amount before it lets [`now`] [`follow`].

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// The clock was not read yet: [`now`] is the system's clock.
const LOOSE: i64 = i64::MIN;

/// How far the wall clock is ahead of the steady one, in milliseconds.
static OFFSET: AtomicI64 = AtomicI64::new(LOOSE);

/// The time: steady once [`make_steady`] was called, the system's clock before.
pub(crate) fn now() -> Timestamp {
    match OFFSET.load(Ordering::Acquire) {
        LOOSE => wall(),
        offset => at(steady().saturating_add(offset)),
    }
}

/// Reads the system's clock, and counts steadily from there.
pub(crate) fn make_steady() {
    let offset = wall().as_millisecond().saturating_sub(steady());
    OFFSET.store(offset, Ordering::Release);
}

/// How far the system's clock is ahead of [`now`]; negative when it was set back.
pub(crate) fn lead() -> SignedDuration {
    wall().duration_since(now())
}

/// Moves [`now`] by what [`lead`] returned.
pub(crate) fn follow(lead: SignedDuration) {
    let millis = i64::try_from(lead.as_millis()).unwrap_or(0);
    if OFFSET.load(Ordering::Acquire) != LOOSE {
        OFFSET.fetch_add(millis, Ordering::AcqRel);
    }
}

/// The system's clock.
fn wall() -> Timestamp {
    let now = Timestamp::now();
    now.checked_add(wrong_by()).unwrap_or(now)
}

/// Milliseconds of a clock that cannot be set. It stands still while the machine sleeps, so a sleep counts as a jump
/// of the wall clock.
fn steady() -> i64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    i64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(i64::MAX)
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_else(|_| wall())
}

/// How wrong a test wants the system's clock to be: seconds, in the file that `ITWIN_SYNCD_CLOCK` names.
#[cfg(feature = "failpoints")]
fn wrong_by() -> SignedDuration {
    let seconds = std::env::var_os("ITWIN_SYNCD_CLOCK")
        .and_then(|path| std::fs::read_to_string(path).ok())
        .and_then(|text| text.trim().parse().ok());
    SignedDuration::from_secs(seconds.unwrap_or(0))
}

#[cfg(not(feature = "failpoints"))]
#[inline]
fn wrong_by() -> SignedDuration {
    SignedDuration::ZERO
}
