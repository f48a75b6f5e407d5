//! The body of a response, read up to a limit.

use std::sync::{Arc, LazyLock};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::limits::{Limit, REFUSAL_MAX};

/// Maximum size of a body with a buffer of its own, in bytes.
const SMALL: usize = 1024 * 1024;

/// The shared buffer of larger ones, one at a time: they use this memory once, whatever the number of hosts.
static LARGE: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(Arc::default);

/// The bytes of a response.
#[derive(Debug)]
pub(super) enum Body {
    Small(Vec<u8>),
    Large(OwnedMutexGuard<Vec<u8>>),
}

impl Body {
    fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

/// Whether a body was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    Whole,
    /// It is longer than the limit.
    Truncated,
}

/// Reads the body up to the limit.
pub(super) async fn read(
    mut response: reqwest::Response,
    limit: Limit,
) -> Result<(Body, Completeness), reqwest::Error> {
    let limit = if response.status().as_u16() < 300 {
        limit.bytes()
    } else {
        REFUSAL_MAX
    };
    let mut body = Body::Small(Vec::new());
    while let Some(chunk) = response.chunk().await? {
        let left = limit - body.len();
        let fitting = chunk.get(..left.min(chunk.len())).unwrap_or_default();
        if body.len() + fitting.len() > SMALL && matches!(body, Body::Small(_)) {
            let mut large = Arc::clone(&LARGE).lock_owned().await;
            large.clear();
            large.extend_from_slice(&body);
            body = Body::Large(large);
        }
        body.bytes().extend_from_slice(fitting);
        if chunk.len() > left {
            return Ok((body, Completeness::Truncated));
        }
    }
    Ok((body, Completeness::Whole))
}
