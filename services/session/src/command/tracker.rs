//! The state machine (see the module documentation of `command`).

use std::time::{Duration, Instant};

use super::{Candidate, InputStep, Observed, Options};

/// See the module documentation for the calls in their order.
pub struct Tracker {
    _options: Options,
}

impl Tracker {
    /// A tracker of a terminal of `cols` x `rows` (both clamped to 1..=1000).
    pub fn new(_cols: u16, _rows: u16, options: Options) -> Self {
        Self { _options: options }
    }
    /// The user's terminal changed its size.
    pub fn resize(&mut self, _cols: u16, _rows: u16) {}
    /// Bytes from the asset, in the order in which the user sees them.
    pub fn output(&mut self, _bytes: &[u8], _now: Instant) -> Vec<Observed> {
        Vec::new()
    }
    /// Bytes from the user, see [`InputStep`].
    pub fn input(&mut self, bytes: &[u8], _now: Instant) -> InputStep {
        InputStep { forward: bytes.len(), gate: None }
    }
    /// How long to wait (for output or time) before the held Enter can be judged; `None`: judge now.
    pub fn needs_settle(&mut self, _now: Instant) -> Option<Duration> {
        None
    }
    /// What the held Enter would run; `None` when nothing is held.
    pub fn candidate(&mut self) -> Option<Candidate> {
        None
    }
    /// The Enter is forwarded. Returns the id under which its command is tracked (that of its first line when it continues
    /// one), `None` when it makes no record. Events are those of the command that it ends.
    pub fn commit(&mut self, _id: u64, _now: Instant) -> (Option<u64>, Vec<Observed>) {
        (None, Vec::new())
    }
    /// The Enter is dropped. Returns the bytes to send to the asset so that it forgets the line.
    pub fn reject(&mut self, _now: Instant) -> &'static [u8] {
        b"\x03"
    }
    /// When [`Tracker::poll`] wants to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }
    /// Time passed: notices that a prompt is back.
    pub fn poll(&mut self, _now: Instant) -> Vec<Observed> {
        Vec::new()
    }
    /// The session ends.
    pub fn close(&mut self) -> Vec<Observed> {
        Vec::new()
    }
}
