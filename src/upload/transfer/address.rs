//! The upload URL in use: how long it is valid, and when a new one has to be requested.

use std::time::Duration;

use tokio::time::Instant;

use crate::itwin::{Speed, UploadUrl};
use crate::upload::Shared;

/// A URL is renewed this long before it expires, or after three quarters of a short life.
const MARGIN: Duration = Duration::from_secs(300);

/// An upload URL, how long it is valid, and what is known of a renewed one.
pub(super) struct Address {
    pub(super) url: UploadUrl,
    /// When it came, and how long it is good from then; none if it does not say.
    pub(super) since: Instant,
    pub(super) life: Option<Duration>,
    /// Whether a renewed one leads to the same blob, with the blocks that are there.
    pub(super) renewable: Option<bool>,
    pub(super) speed: Speed,
}

impl Address {
    pub(super) fn new(shared: &Shared, url: UploadUrl) -> Self {
        let mut address = Self {
            url: url.clone(),
            since: Instant::now(),
            life: None,
            renewable: None,
            speed: Speed::Limited,
        };
        address.take(shared, url);
        address
    }

    /// Continues with this one.
    pub(super) fn take(&mut self, shared: &Shared, url: UploadUrl) {
        // Its end is by the platform's clock.
        let now = shared.client.platform_time();
        let left = url.ends_at().map(|end| end.duration_since(now));
        self.life = left.map(|left| Duration::try_from(left).unwrap_or_default());
        self.since = Instant::now();
        self.url = url;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.life.is_some_and(|life| self.since.elapsed() >= life)
    }

    /// Another blob begins here; whatever slowed the last one down must not slow this one.
    pub(super) fn start_over(&mut self, shared: &Shared, url: UploadUrl) {
        self.take(shared, url);
        self.renewable = Some(false);
        self.speed = Speed::Full;
    }
}

/// How far the upload to one URL is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// The address's life, from when it was first used.
    pub(super) life: Duration,
    pub(super) elapsed: Duration,
    pub(super) sent: u64,
    pub(super) left: u64,
    pub(super) renewable: Option<bool>,
}

/// Whether it is time for a new address: only if the rest would not arrive at the present one. What its successor leads
/// to is found out early, while little is lost if that is another blob; one that is known to lead to the same blob has
/// time until shortly before the end.
pub(super) fn needs_another(course: Course) -> bool {
    let Course {
        life,
        elapsed,
        sent,
        left,
        renewable,
    } = course;
    let remaining = life.saturating_sub(elapsed);
    let margin = (life / 4).min(MARGIN);
    let needed = seconds_for(left, sent, elapsed);
    if needed.is_some_and(|needed| needed <= remaining.as_secs_f64() * 0.9) {
        return false;
    }
    match renewable {
        Some(false) => false,
        Some(true) => remaining <= margin,
        None => elapsed >= life / 10 || remaining <= margin,
    }
}

/// How long the rest takes at the rate so far.
pub(super) fn seconds_for(left: u64, sent: u64, elapsed: Duration) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    (sent > 0).then(|| elapsed.as_secs_f64() * left as f64 / sent as f64)
}

/// Whether this many bytes can be sent before a URL expires, at this limit.
pub(super) fn fits(bytes: u64, limit: Option<u64>, life: Option<Duration>) -> bool {
    let (Some(limit), Some(life)) = (limit, life) else {
        return true;
    };
    u128::from(bytes) * 1000 <= u128::from(limit) * life.as_millis() * 9 / 10
}
