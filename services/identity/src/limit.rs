//! How fast one address may try. A token bucket per address that is asked before any costly check, in a map of bounded
//! size. What must not be here: locks after failures (`failures`), which are kept in the store.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use chrono::{DateTime, Utc};
use gatehouse_model::net::canonical;
use parking_lot::Mutex;

/// Attempts that an address may make at once (automation opens many connections in one go), and that it gets back per
/// second.
const BURST: f64 = 200.0;
const PER_SECOND: f64 = 2.0;
/// Addresses that are remembered.
const MAX_CLIENTS: usize = 8_192;

/// Whom an attempt is counted for: an IPv4 address, or the /64 network that one IPv6 customer is given.
pub(crate) fn client_key(ip: IpAddr) -> IpAddr {
    match canonical(ip) {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

struct Bucket {
    left: f64,
    at: DateTime<Utc>,
}

impl Bucket {
    fn refill(&mut self, now: DateTime<Utc>) {
        // A clock that steps back gives nothing.
        let millis = u32::try_from((now - self.at).num_milliseconds().max(0)).unwrap_or(u32::MAX);
        self.left = (self.left + f64::from(millis) / 1_000.0 * PER_SECOND).min(BURST);
        self.at = now;
    }
}

#[derive(Default)]
pub(crate) struct RateLimit {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl RateLimit {
    /// Takes one attempt; `false`: too fast.
    pub(crate) fn take(&self, ip: IpAddr, now: DateTime<Utc>) -> bool {
        let key = client_key(ip);
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(&key) {
            make_room(&mut buckets, now);
        }
        let bucket = buckets.entry(key).or_insert(Bucket { left: BURST, at: now });
        bucket.refill(now);
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }

    /// Gives an attempt back that proved to be right: many honest log-ins from one machine (automation) are no flood.
    pub(crate) fn give_back(&self, ip: IpAddr) {
        if let Some(bucket) = self.buckets.lock().get_mut(&client_key(ip)) {
            bucket.left = (bucket.left + 1.0).min(BURST);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.buckets.lock().len()
    }
}

/// Forgets addresses that have all their attempts again, and if that is not enough the longest silent tenth.
fn make_room(buckets: &mut HashMap<IpAddr, Bucket>, now: DateTime<Utc>) {
    buckets.retain(|_, b| {
        b.refill(now);
        b.left < BURST
    });
    if buckets.len() < MAX_CLIENTS {
        return;
    }
    // After the refill all times are equal: who has most left was silent longest.
    let mut by_left: Vec<(IpAddr, f64)> = buckets.iter().map(|(ip, b)| (*ip, b.left)).collect();
    by_left.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (ip, _) in by_left.into_iter().take(MAX_CLIENTS / 10) {
        buckets.remove(&ip);
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_flood_is_cut_and_time_heals() {
        let limit = RateLimit::default();
        let ip = "203.0.113.7".parse().unwrap();
        let passed = (0..10_000).filter(|_| limit.take(ip, now())).count();
        assert_eq!(passed, BURST as usize);
        assert!(limit.take("203.0.113.8".parse().unwrap(), now()), "another address is not concerned");
        assert!(limit.take(ip, now() + TimeDelta::seconds(1)));
        assert!(!limit.take(ip, now() - TimeDelta::hours(1)) || limit.take(ip, now()), "a clock stepping back is calm");
    }

    #[test]
    fn a_right_attempt_does_not_count() {
        let limit = RateLimit::default();
        let ip = "203.0.113.7".parse().unwrap();
        for _ in 0..1_000 {
            assert!(limit.take(ip, now()));
            limit.give_back(ip);
        }
    }

    #[test]
    fn the_map_is_bounded_and_ipv6_is_counted_by_network() {
        let limit = RateLimit::default();
        for i in 0..100_000_u32 {
            limit.take(IpAddr::from(i.to_be_bytes()), now());
        }
        assert!(limit.len() <= MAX_CLIENTS, "{}", limit.len());
        let same = RateLimit::default();
        for i in 0..1_000_u128 {
            same.take(IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | i)), now());
        }
        assert_eq!(same.len(), 1);
        assert_eq!(client_key("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
