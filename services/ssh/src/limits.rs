//! How many connections there may be: in total, per address, and before anybody has proven who they are. What must not be
//! here: rate limits of log-ins (identity has them).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in total.
    pub connections: usize,
    /// Connections of one address (IPv6: of one /64, which is what one customer gets).
    pub per_address: usize,
    /// Connections that have not logged in yet, in total.
    pub unproven: usize,
    /// Connections of one address that have not logged in yet.
    pub unproven_per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8_192, per_address: 1_024, unproven: 256, unproven_per_address: 32 }
    }
}

#[derive(Default, Clone, Copy)]
struct Count {
    all: usize,
    unproven: usize,
}

#[derive(Default)]
struct Counts {
    total: Count,
    by_address: HashMap<IpAddr, Count>,
}

/// Counts connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gatekeeper {
    limits: Limits,
    counts: Arc<Mutex<Counts>>,
}

/// A connection that is counted; not any more when dropped.
pub(crate) struct Place {
    keeper: Gatekeeper,
    address: IpAddr,
    proven: bool,
}

impl Gatekeeper {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// A place for a connection from `address`; `None` when a bound is reached.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut counts = self.counts.lock();
        let here = counts.by_address.get(&address).copied().unwrap_or_default();
        let full = counts.total.all >= self.limits.connections
            || counts.total.unproven >= self.limits.unproven
            || here.all >= self.limits.per_address
            || here.unproven >= self.limits.unproven_per_address;
        if full {
            return None;
        }
        counts.total = Count { all: counts.total.all + 1, unproven: counts.total.unproven + 1 };
        counts.by_address.insert(address, Count { all: here.all + 1, unproven: here.unproven + 1 });
        Some(Place { keeper: self.clone(), address, proven: false })
    }

    #[cfg(test)]
    fn addresses(&self) -> usize {
        self.counts.lock().by_address.len()
    }
}

impl Place {
    /// The user has logged in.
    pub(crate) fn proven(&mut self) {
        if std::mem::replace(&mut self.proven, true) {
            return;
        }
        let mut counts = self.keeper.counts.lock();
        counts.total.unproven = counts.total.unproven.saturating_sub(1);
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            here.unproven = here.unproven.saturating_sub(1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.proven();
        let mut counts = self.keeper.counts.lock();
        counts.total.all = counts.total.all.saturating_sub(1);
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            here.all = here.all.saturating_sub(1);
            if here.all == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> Gatekeeper {
        Gatekeeper::new(Limits { connections: 6, per_address: 4, unproven: 3, unproven_per_address: 2 })
    }

    #[test]
    fn an_address_that_does_not_log_in_does_not_lock_out_others() {
        let keeper = keeper();
        let (bad, good) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let _held: Vec<_> = (0..2).map(|_| keeper.admit(bad).unwrap()).collect();
        assert!(keeper.admit(bad).is_none());
        let mut other = keeper.admit(good).unwrap();
        assert!(keeper.admit(good).is_none(), "three have not logged in");
        other.proven();
        assert!(keeper.admit(good).is_some());
    }

    #[test]
    fn places_come_back_and_nothing_is_remembered() {
        let keeper = keeper();
        let address = "2001:db8::1".parse().unwrap();
        for _ in 0..100 {
            let mut place = keeper.admit(address).unwrap();
            place.proven();
        }
        assert_eq!(keeper.addresses(), 0);
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let keeper = keeper();
        let _a = keeper.admit("2001:db8::1".parse().unwrap()).unwrap();
        let _b = keeper.admit("2001:db8::2".parse().unwrap()).unwrap();
        assert!(keeper.admit("2001:db8::ffff:3".parse().unwrap()).is_none());
        assert!(keeper.admit("2001:db8:0:1::3".parse().unwrap()).is_some());
    }

    #[test]
    fn the_total_is_bounded_for_those_who_logged_in_too() {
        let keeper = keeper();
        let mut held = Vec::new();
        for n in 1..=6u8 {
            let mut place = keeper.admit(IpAddr::from([192, 0, 2, n])).unwrap();
            place.proven();
            held.push(place);
        }
        assert!(keeper.admit("192.0.2.9".parse().unwrap()).is_none());
        held.pop();
        assert!(keeper.admit("192.0.2.9".parse().unwrap()).is_some());
    }
}
