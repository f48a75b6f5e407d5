//! Rate limit for wrong tokens, per peer.
//!
//! Pure; the clock is passed in. A correct token resets nothing, so that an attacker who shares an address with a user
//! of the page gets no more guesses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Wrong tokens without a delay.
const FREE: u32 = 5;

/// The delay after the next one; it doubles each time.
const FIRST: Duration = Duration::from_secs(1);

/// The longest delay.
const LONGEST: Duration = Duration::from_secs(300);

/// A peer without a wrong token for this long is forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// Peers that are remembered; beyond that, the oldest is forgotten.
const PEERS_MAX: usize = 1024;

/// Wrong tokens by peer.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    peers: HashMap<IpAddr, Peer>,
}

#[derive(Debug)]
struct Peer {
    wrong: u32,
    last: Instant,
    until: Instant,
}

impl Guesses {
    /// How long this peer still has to wait; None: its next token is checked.
    pub(super) fn wait(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let known = self.peers.get(&network(peer))?;
        let left = known.until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Counts a wrong token; returns how many this peer sent recently, and how long it has to wait.
    pub(super) fn wrong(&mut self, peer: IpAddr, now: Instant) -> (u32, Duration) {
        self.peers
            .retain(|_, known| now.saturating_duration_since(known.last) < FORGET);
        let peer = network(peer);
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, known)| known.last);
            if let Some(oldest) = oldest.map(|(oldest, _)| *oldest) {
                self.peers.remove(&oldest);
            }
        }
        let known = self.peers.entry(peer).or_insert(Peer {
            wrong: 0,
            last: now,
            until: now,
        });
        known.wrong = known.wrong.saturating_add(1);
        let delay = delay(known.wrong);
        known.last = now;
        known.until = now + delay;
        (known.wrong, delay)
    }
}

/// The delay after this many wrong tokens.
fn delay(wrong: u32) -> Duration {
    match wrong.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(doubled) => 2_u32
            .checked_pow(doubled)
            .and_then(|factor| FIRST.checked_mul(factor))
            .map_or(LONGEST, |delay| delay.min(LONGEST)),
    }
}

/// One machine usually has 2^64 IPv6 addresses: they count as one peer.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        peer @ IpAddr::V4(_) => peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn delays_grow_per_peer() {
        let start = Instant::now();
        let mut guesses = Guesses::default();
        let (bad, good) = (peer("192.0.2.1"), peer("192.0.2.2"));
        let mut delays = Vec::new();
        let mut now = start;
        for _ in 0..16 {
            let (_, delay) = guesses.wrong(bad, now);
            delays.push(delay.as_secs());
            assert_eq!(guesses.wait(bad, now), (!delay.is_zero()).then_some(delay));
            assert_eq!(guesses.wait(good, now), None);
            now += delay;
            assert_eq!(guesses.wait(bad, now), None);
        }
        assert_eq!(
            delays,
            [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        );
        now += FORGET;
        assert_eq!(guesses.wrong(bad, now), (1, Duration::ZERO));
    }

    #[test]
    fn addresses_of_one_machine_are_one_peer_and_memory_is_bounded() {
        let now = Instant::now();
        let mut guesses = Guesses::default();
        for host in 0..8 {
            guesses.wrong(peer(&format!("2001:db8::{host}")), now);
        }
        assert!(guesses.wait(peer("2001:db8::ffff"), now).is_some());
        assert_eq!(guesses.wait(peer("2001:db8:0:1::1"), now), None);
        for _ in 0..8 {
            guesses.wrong(peer("::ffff:192.0.2.7"), now);
        }
        assert!(guesses.wait(peer("192.0.2.7"), now).is_some());
        for number in 0..5000_u32 {
            guesses.wrong(IpAddr::from(number.to_be_bytes()), now);
        }
        assert_eq!(guesses.peers.len(), PEERS_MAX);
    }
}
