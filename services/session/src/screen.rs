//! What a watcher needs: the last output of a session, from which the screen as it is now can be drawn, and the bounded
//! queues to those who watch. A watcher never slows the session: when it lags, output is skipped, and it gets a mark and
//! a fresh screen. What must not be here: who may watch.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::live::WatchFrame;

/// Bytes of output kept to redraw the screen. Full-screen programs redraw within less; a shell's screen of 80x24 is 2 KiB.
const TAIL: usize = 16 * 1024;
/// Frames that may wait for one watcher; with full frames of 32 KiB two MiB.
const FRAMES: usize = 64;
/// More watchers of one session are refused.
const MAX_WATCHERS: usize = 16;

pub(crate) struct Screen {
    cols: u16,
    rows: u16,
    tail: VecDeque<u8>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    frames: mpsc::Sender<WatchFrame>,
    lagging: bool,
}

impl Screen {
    pub(crate) fn new(cols: u16, rows: u16) -> Self {
        Self { cols, rows, tail: VecDeque::new(), watchers: Vec::new() }
    }

    pub(crate) fn output(&mut self, at: Duration, data: &Bytes) {
        let keep = data.len().saturating_sub(TAIL);
        let fresh = data.get(keep..).unwrap_or_default();
        let over = (self.tail.len() + fresh.len()).saturating_sub(TAIL);
        self.tail.drain(..over.min(self.tail.len()));
        self.tail.extend(fresh);
        if !self.watchers.is_empty() {
            self.send(at, &WatchFrame::Output { at, data: data.clone() });
        }
    }

    pub(crate) fn resize(&mut self, at: Duration, cols: u16, rows: u16) {
        (self.cols, self.rows) = (cols, rows);
        self.send(at, &WatchFrame::Resize { at, cols, rows });
    }

    /// Gives a frame to everybody who watches and keeps up.
    pub(crate) fn send(&mut self, at: Duration, frame: &WatchFrame) {
        self.catch_up(at);
        self.watchers.retain_mut(|w| {
            if w.lagging {
                return !w.frames.is_closed();
            }
            match w.frames.try_send(frame.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    w.lagging = true;
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }

    /// Gives those who lagged and have room again the screen as it is now.
    pub(crate) fn catch_up(&mut self, at: Duration) {
        let ready = |w: &Watcher| w.lagging && w.frames.capacity() >= FRAMES / 2;
        if !self.watchers.iter().any(ready) {
            return;
        }
        let fresh = WatchFrame::Skipped { at, cols: self.cols, rows: self.rows, screen: self.draw() };
        for w in self.watchers.iter_mut().filter(|w| ready(w)) {
            w.lagging = w.frames.try_send(fresh.clone()).is_err();
        }
    }

    /// A new watcher, whose first frame is the screen as it is now; `None` when there are too many.
    pub(crate) fn watch(&mut self, at: Duration) -> Option<mpsc::Receiver<WatchFrame>> {
        self.watchers.retain(|w| !w.frames.is_closed());
        if self.watchers.len() >= MAX_WATCHERS {
            return None;
        }
        let (frames, receive) = mpsc::channel(FRAMES);
        let first = WatchFrame::Screen { at, cols: self.cols, rows: self.rows, screen: self.draw() };
        frames.try_send(first).ok()?;
        self.watchers.push(Watcher { frames, lagging: false });
        Some(receive)
    }

    /// Says good-bye to everybody who watches. A watcher that lags sees its stream end.
    pub(crate) fn end(&mut self, at: Duration, reason: &str) {
        self.send(at, &WatchFrame::Ended { at, reason: reason.to_owned() });
        self.watchers.clear();
        self.tail = VecDeque::new();
    }

    /// The screen as escape sequences that draw it on an empty terminal of the same size.
    pub(crate) fn draw(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        // The oldest bytes may begin inside a character or an escape sequence: begin at the first safe place.
        let start = if bytes.len() < TAIL { 0 } else { bytes.iter().position(|b| *b == b'\n').map_or(0, |n| n + 1) };
        let text = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default());
        let (cols, rows) = (usize::from(self.cols.clamp(1, 1000)), usize::from(self.rows.clamp(1, 1000)));
        let Ok(mut terminal) = avt::Terminal::new(cols, rows) else { return String::new() };
        terminal.feed(text.as_ref());
        terminal.dump()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::ZERO;

    #[test]
    fn a_watcher_first_gets_the_screen_as_it_is() {
        let mut screen = Screen::new(20, 5);
        screen.output(T, &Bytes::from_static(b"hello\r\nworld"));
        let mut watch = screen.watch(T).unwrap();
        let Ok(WatchFrame::Screen { screen, .. }) = watch.try_recv() else { panic!("no screen first") };
        assert!(screen.contains("hello") && screen.contains("world"), "{screen:?}");
    }

    #[test]
    fn a_stuck_watcher_costs_a_bounded_amount_and_gets_a_fresh_screen() {
        let mut screen = Screen::new(20, 5);
        let mut watch = screen.watch(T).unwrap();
        for n in 0..10_000 {
            screen.output(T, &Bytes::from(format!("line {n}\r\n")));
        }
        let mut frames = 0;
        while watch.try_recv().is_ok() {
            frames += 1;
        }
        assert!(frames <= FRAMES);
        assert!(screen.tail.len() <= TAIL);
        screen.catch_up(T);
        let Ok(WatchFrame::Skipped { screen, .. }) = watch.try_recv() else {
            panic!("no mark that output was skipped")
        };
        assert!(screen.contains("line 9999"), "{screen:?}");
    }

    #[test]
    fn the_number_of_watchers_is_bounded_and_leavers_make_room() {
        let mut screen = Screen::new(80, 24);
        let mut all: Vec<_> = (0..MAX_WATCHERS).map(|_| screen.watch(T).unwrap()).collect();
        assert!(screen.watch(T).is_none());
        all.pop();
        assert!(screen.watch(T).is_some());
    }
}
