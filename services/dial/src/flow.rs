//! How bytes move between two SSH connections without deadlock and with bounded memory.
//!
//! # What the library does (russh 0.65)
//!
//! Each connection is one task that reads a packet, handles it, writes what is due, and so on. Three consequences:
//!
//! 1. **A channel that is not read stops its whole connection.** Data is put into the channel's queue with
//!    `mpsc::Sender::send(..).await` from inside that task. Once the queue (`Config::channel_buffer_size` messages) is
//!    full, the task waits: it reads nothing for other channels, sends nothing, and does not see window adjustments.
//! 2. **Windows are refilled on receipt, not on consumption.** As soon as less than half of `Config::window_size` is
//!    left, an adjustment is queued, whether or not anybody read the data. The waiting of rule 1 is therefore the only
//!    back-pressure towards a sender, and the channel queue is the only memory that a stalled reader costs
//!    ([`crate::SshPeer`]: 16 packets of at most 32 KiB).
//! 3. **While the task is blocked writing to the socket it does not read.** OpenSSH always reads its socket, so this
//!    ends; inside a gateway's channel it would not, hence the read-ahead of [`crate::tcp`].
//!
//! Sending is well behaved: `data_bytes` waits for the peer's window and hands the `Bytes` on without copying.
//!
//! # The deadlock
//!
//! Splice user connection `A` (russh server) and asset connection `B` (russh client) with two tasks, `A.wait() ->
//! B.data_bytes()` and `B.wait() -> A.data_bytes()`, and run `ssh ... cat` with input and output at full speed. The asset's
//! window for us runs out because `cat` is blocked on output; the up task waits for it, so `A`'s queue fills and `A`'s
//! task stops (rule 1); now the user's window adjustments are not seen, the down task waits for them, `B`'s queue fills
//! and `B`'s task stops; so the asset's adjustment, which would set everything going, is never read. Larger queues only
//! postpone it.
//!
//! # The recipe
//!
//! One of the two tasks must never stop, whatever happens. It is `A`'s, because only the server side lets its handler
//! choose the window:
//!
//! - **Down** (`B -> A`): one task, `while let Some(m) = b_reader.wait().await { record; a.data_bytes(..).await }`. A user who
//!   stops reading stops `B`, and with it the asset: at most half a MiB is held here.
//! - **Up** (`A -> B`): a task that only drains, `while let Some(m) = a_reader.wait().await { intake.push(m).await }`, and one
//!   that delivers, `while let Some(m) = outlet.pop().await { filter; record; b_writer.data_bytes(..).await }`. The [`Valve`]
//!   tells `A`'s handler what to answer:
//!   `fn adjust_window(&mut self, _, _) -> u32 { self.valve.window() }` and, at the end of `async fn data(..)`,
//!   `self.valve.pause().await`. `A`'s `Config::window_size` is 2 MiB ([`FIRST`]).
//!
//! While the backlog is above [`HIGH`], the user's window is refilled by two bytes at a time, with a pause of at most
//! [`PAUSE`] in between: the user's client is held, yet its window adjustments still come through, so the down task
//! always goes on. (Zero would be the natural answer, but the library would then never refill again: it refills only
//! when data arrives.) The answer takes effect one refill late, so a stalled asset costs at most [`FIRST`] plus half of
//! [`FULL`] plus [`HIGH`]: 2.75 MiB. [`HARD`] bounds what a client that ignores its window can make us hold.
//!
//! The window is per connection in the library, so a stalled channel slows the other channels of the same user
//! connection in that direction; it does not stop them. Towards assets, give whatever can stall independently (each
//! tunnel, each session) an [`crate::SshPeer`] of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::ChannelMsg;
use tokio::sync::Notify;

/// Above this backlog, bytes, the sender is held.
pub const HIGH: usize = 256 * 1024;
/// Above this backlog, bytes, nothing more is taken at all. Only a client that ignores its window gets here.
pub const HARD: usize = 4 * 1024 * 1024;
/// Receive window that the server side opens channels with, bytes (`server::Config::window_size`): OpenSSH's own size.
pub const FIRST: u32 = 2 * 1024 * 1024;
/// Receive window that it refills to, bytes. Smaller than [`FIRST`], because a refill that is already decided cannot be
/// taken back when the asset stalls.
pub const FULL: u32 = 1024 * 1024;
/// Longest pause between two bytes of a held sender.
pub const PAUSE: Duration = Duration::from_millis(20);
/// The smallest window that the library still refills.
const TRICKLE: u32 = 2;
/// What a message costs besides its bytes.
const OVERHEAD: usize = 128;
/// Data messages shorter than this are merged while they wait, so that a trickle does not pay the overhead each time.
const MERGE: usize = 1024;

/// Creates a backlog: who fills it, who empties it, and the valve for the handler in between.
pub fn backlog() -> (Intake, Outlet, Valve) {
    let shared = Arc::new(Shared::default());
    (Intake { shared: Arc::clone(&shared) }, Outlet { shared: Arc::clone(&shared) }, Valve { shared })
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something to pop, or the end.
    filled: Notify,
    /// Below [`HIGH`] again.
    eased: Notify,
    /// Below [`HARD`] again.
    room: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<ChannelMsg>,
    /// Short data messages at the end of the queue, merged.
    tail: BytesMut,
    bytes: usize,
    ended: bool,
    abandoned: bool,
}

impl State {
    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            let data = self.tail.split().freeze();
            self.queue.push_back(ChannelMsg::Data { data });
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(message: &ChannelMsg) -> usize {
    OVERHEAD
        + match message {
            ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } => data.len(),
            _ => 0,
        }
}

/// Where the drain task puts messages.
pub struct Intake {
    shared: Arc<Shared>,
}

impl Intake {
    /// Adds a message. Returns at once unless the backlog is above [`HARD`]. False when nobody empties it any more.
    pub async fn push(&self, message: ChannelMsg) -> bool {
        loop {
            let room = self.shared.room.notified();
            {
                let mut state = self.shared.state();
                if state.abandoned {
                    return false;
                }
                if state.bytes <= HARD {
                    match message {
                        ChannelMsg::Data { data } if data.len() < MERGE => {
                            state.bytes += data.len();
                            state.tail.extend_from_slice(&data);
                            if state.tail.len() >= MERGE {
                                state.seal_tail();
                                state.bytes += OVERHEAD;
                            }
                        }
                        message => {
                            if !state.tail.is_empty() {
                                state.seal_tail();
                                state.bytes += OVERHEAD;
                            }
                            state.bytes += cost(&message);
                            state.queue.push_back(message);
                        }
                    }
                    drop(state);
                    self.shared.filled.notify_one();
                    return true;
                }
            }
            room.await;
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.filled.notify_one();
    }
}

/// Where the deliver task takes messages.
pub struct Outlet {
    shared: Arc<Shared>,
}

impl Outlet {
    /// The next message, in order; `None` when the intake is gone and everything was taken. Cancel safe.
    pub async fn pop(&mut self) -> Option<ChannelMsg> {
        loop {
            let filled = self.shared.filled.notified();
            {
                let mut state = self.shared.state();
                let before = state.bytes;
                let message = match state.queue.pop_front() {
                    Some(message) => {
                        state.bytes = state.bytes.saturating_sub(cost(&message));
                        Some(message)
                    }
                    None if !state.tail.is_empty() => {
                        let data: Bytes = state.tail.split().freeze();
                        state.bytes = state.bytes.saturating_sub(data.len());
                        Some(ChannelMsg::Data { data })
                    }
                    None if state.ended => return None,
                    None => None,
                };
                if let Some(message) = message {
                    let after = state.bytes;
                    drop(state);
                    self.made_room(before, after);
                    return Some(message);
                }
            }
            filled.await;
        }
    }

    /// Takes all data that waits, out of turn; everything else stays in its place.
    pub fn take_data(&mut self) -> Vec<Bytes> {
        let mut state = self.shared.state();
        let before = state.bytes;
        let mut taken = Vec::new();
        let mut left = VecDeque::new();
        for message in std::mem::take(&mut state.queue) {
            if matches!(message, ChannelMsg::Data { .. }) {
                state.bytes = state.bytes.saturating_sub(cost(&message));
            }
            match message {
                ChannelMsg::Data { data } => taken.push(data),
                other => left.push_back(other),
            }
        }
        state.queue = left;
        if !state.tail.is_empty() {
            let data = state.tail.split().freeze();
            state.bytes = state.bytes.saturating_sub(data.len());
            taken.push(data);
        }
        let after = state.bytes;
        drop(state);
        self.made_room(before, after);
        taken
    }

    /// Wakes those who wait for the backlog to fall below the bounds that it was above.
    fn made_room(&self, before: usize, after: usize) {
        if before > HARD && after <= HARD {
            self.shared.room.notify_one();
        }
        if before > HIGH && after <= HIGH {
            self.shared.eased.notify_one();
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.abandoned = true;
        state.queue.clear();
        state.tail.clear();
        state.bytes = 0;
        drop(state);
        self.shared.room.notify_one();
        self.shared.eased.notify_one();
    }
}

/// What the server-side handler asks when data arrives. Cheap to clone.
#[derive(Clone)]
pub struct Valve {
    shared: Arc<Shared>,
}

impl Valve {
    /// What to return from `Handler::adjust_window`: [`FULL`], or next to nothing while the backlog is high.
    pub fn window(&self) -> u32 {
        if self.is_high() { TRICKLE } else { FULL }
    }

    /// To be awaited at the end of `Handler::data`: returns at once, or, while the backlog is high, when it has eased, at
    /// the latest after [`PAUSE`].
    pub async fn pause(&self) {
        if self.is_high() {
            // Timing out is the normal case for an asset that does not read.
            let _ = tokio::time::timeout(PAUSE, self.shared.eased.notified()).await;
        }
    }

    /// True while the sender is held.
    pub fn is_high(&self) -> bool {
        self.shared.state().bytes > HIGH
    }

    /// Bytes that wait, with a flat charge per message.
    pub fn backlog(&self) -> usize {
        self.shared.state().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(n: usize, fill: u8) -> ChannelMsg {
        ChannelMsg::Data { data: Bytes::from(vec![fill; n]) }
    }

    #[tokio::test]
    async fn order_is_kept_across_merged_messages_and_controls() {
        let (intake, mut outlet, valve) = backlog();
        for i in 0..2000u32 {
            assert!(intake.push(data(if i % 7 == 0 { 3000 } else { 3 }, (i % 251) as u8)).await);
        }
        assert!(intake.push(ChannelMsg::Eof).await);
        drop(intake);
        let mut got = Vec::new();
        let mut ended = false;
        while let Some(message) = outlet.pop().await {
            match message {
                ChannelMsg::Data { data } => got.extend_from_slice(&data),
                ChannelMsg::Eof => ended = true,
                other => panic!("{other:?}"),
            }
        }
        let expected: Vec<u8> =
            (0..2000u32).flat_map(|i| vec![(i % 251) as u8; if i % 7 == 0 { 3000 } else { 3 }]).collect();
        assert!(ended && got == expected);
        assert_eq!(valve.backlog(), 0);
    }

    #[tokio::test]
    async fn a_high_backlog_narrows_the_window_and_easing_opens_it_at_once() {
        let (intake, mut outlet, valve) = backlog();
        assert_eq!(valve.window(), FULL);
        for _ in 0..9 {
            intake.push(data(32 * 1024, 1)).await;
        }
        assert_eq!(valve.window(), TRICKLE);
        let waiting = tokio::spawn({
            let valve = valve.clone();
            async move { valve.pause().await }
        });
        tokio::task::yield_now().await;
        while valve.is_high() {
            outlet.pop().await;
        }
        waiting.await.unwrap();
        assert_eq!(valve.window(), FULL);
    }

    #[tokio::test]
    async fn the_backlog_has_a_hard_bound_and_a_dead_outlet_frees_the_intake() {
        let (intake, mut outlet, valve) = backlog();
        let pushing = tokio::spawn(async move { while intake.push(data(32 * 1024, 1)).await {} });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!pushing.is_finished());
        assert!(valve.backlog() <= HARD + 33 * 1024);
        outlet.pop().await;
        drop(outlet);
        pushing.await.unwrap();
    }

    #[tokio::test]
    async fn waiting_data_can_be_taken_out_of_turn_and_the_rest_keeps_its_place() {
        let (intake, mut outlet, valve) = backlog();
        let size = || ChannelMsg::WindowChange { col_width: 80, row_height: 24, pix_width: 0, pix_height: 0 };
        for message in [data(2000, 1), size(), data(3, 2), ChannelMsg::Eof, data(4, 3)] {
            assert!(intake.push(message).await);
        }
        let taken: Vec<usize> = outlet.take_data().iter().map(Bytes::len).collect();
        assert_eq!(taken, [2000, 3, 4]);
        assert!(matches!(outlet.pop().await, Some(ChannelMsg::WindowChange { .. })));
        assert!(matches!(outlet.pop().await, Some(ChannelMsg::Eof)));
        assert_eq!(valve.backlog(), 0);
    }

    #[tokio::test]
    async fn a_trickle_into_a_stalled_backlog_costs_its_bytes_only() {
        let (intake, _outlet, valve) = backlog();
        for _ in 0..10_000 {
            intake.push(data(2, 1)).await;
        }
        assert!(valve.backlog() < 20_000 + 20 * OVERHEAD);
    }
}
