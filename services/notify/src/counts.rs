//! What was sent and what was lost. Nothing is dropped without being counted, and the log says so, but not once per
//! loss: at the first, second, fourth, eighth... so that a flood does not become a flood of log lines.

use std::sync::atomic::{AtomicU64, Ordering};

/// Since the start of the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Notices that were taken.
    pub queued: u64,
    /// Messages put into inboxes.
    pub delivered: u64,
    /// Notices that found the queue full.
    pub dropped: u64,
    /// Notices that could not be delivered for another reason; the log has it.
    pub failed: u64,
    pub mail_sent: u64,
    /// Letters that the mail server refused for good, or that waited a day for it.
    pub mail_failed: u64,
    /// Letters that found their queue full.
    pub mail_dropped: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    queued: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    mail_sent: AtomicU64,
    mail_failed: AtomicU64,
    mail_dropped: AtomicU64,
}

/// The new count, when it is worth a line in the log.
fn count(counter: &AtomicU64) -> Option<u64> {
    let now = counter.fetch_add(1, Ordering::Relaxed) + 1;
    now.is_power_of_two().then_some(now)
}

impl Counters {
    pub(crate) fn queued(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn delivered(&self, n: u64) {
        self.delivered.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) -> Option<u64> {
        count(&self.dropped)
    }

    pub(crate) fn mail_sent(&self) {
        self.mail_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn mail_failed(&self) {
        self.mail_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn mail_dropped(&self) -> Option<u64> {
        count(&self.mail_dropped)
    }

    pub(crate) fn read(&self) -> Counts {
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Counts {
            queued: read(&self.queued),
            delivered: read(&self.delivered),
            dropped: read(&self.dropped),
            failed: read(&self.failed),
            mail_sent: read(&self.mail_sent),
            mail_failed: read(&self.mail_failed),
            mail_dropped: read(&self.mail_dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_all_counted_and_seldom_logged() {
        let counters = Counters::default();
        let logged: Vec<u64> = (0..1_000).filter_map(|_| counters.dropped()).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(counters.read().dropped, 1_000);
    }
}
