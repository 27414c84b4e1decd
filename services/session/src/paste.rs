//! Where a bracketed paste ends, when the rest of it is to be thrown away. What must not be here: why it is.

use std::time::{Duration, Instant};

/// How a terminal ends a bracketed paste.
pub(crate) const PASTE_END: &[u8] = b"\x1b[201~";
/// A paste whose end does not come has ended when nothing has come for this long: a lost end must not lock a keyboard.
const PASTE_PAUSE: Duration = Duration::from_secs(2);

/// Swallows the rest of a bracketed paste, in as many slices as it comes.
pub(crate) struct PasteTail {
    /// Bytes of [`PASTE_END`] seen.
    matched: usize,
    last: Instant,
}

impl PasteTail {
    pub(crate) fn new(now: Instant) -> Self {
        Self { matched: 0, last: now }
    }

    /// Where the bytes after the paste begin; `None` when all of them belong to it.
    pub(crate) fn end(&mut self, data: &[u8], now: Instant) -> Option<usize> {
        if now.saturating_duration_since(self.last) >= PASTE_PAUSE {
            return Some(0);
        }
        self.last = now;
        for (at, byte) in data.iter().enumerate() {
            // Its first byte occurs only once in it, so a mismatch can only be a new beginning.
            let fits = PASTE_END.get(self.matched) == Some(byte);
            self.matched = if fits { self.matched + 1 } else { usize::from(PASTE_END.first() == Some(byte)) };
            if self.matched == PASTE_END.len() {
                return Some(at + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_wherever_the_slices_are_cut() {
        let text = b"rm\x1b[31m\x1b[201\x1b\x1b[201~ls";
        for cut in 0..=text.len() {
            let now = Instant::now();
            let mut paste = PasteTail::new(now);
            let (first, second) = text.split_at(cut);
            let end = paste.end(first, now).or_else(|| paste.end(second, now).map(|at| at + cut));
            assert_eq!(end, Some(text.len() - 2), "cut at {cut}");
        }
    }

    #[test]
    fn a_pause_ends_it_too() {
        let now = Instant::now();
        let mut paste = PasteTail::new(now);
        assert_eq!(paste.end(b"rm", now + PASTE_PAUSE / 2), None);
        assert_eq!(paste.end(b"rm", now + PASTE_PAUSE), None);
        assert_eq!(paste.end(b"ls", now + PASTE_PAUSE * 2), Some(0));
    }
}
