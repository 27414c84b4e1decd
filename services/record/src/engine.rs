//! The threads that all open recordings of a pool share: workers that compress, encrypt and write, and one that syncs.
//!
//! What lives here: queues, timers and thread loops. What must not: formats, and what is inside a recording's queue
//! ([`crate::lane`] knows that). An idle recording has no entry in any queue and costs no wake-up.

use crate::chain::Scratch;
use crate::error::RecordError;
use crate::lane::{Closing, Lane, Turn};
use parking_lot::{Condvar, Mutex};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};

/// Above this many changed files one sync of the whole file system is cheaper than one per file.
const SYNC_ONE_BY_ONE: usize = 32;

pub(crate) struct Engine {
    work: Mutex<Work>,
    work_there: Condvar,
    sync: Mutex<Sync>,
    sync_there: Condvar,
    sync_every: Duration,
    /// Bytes that wait in memory, all recordings together.
    pub(crate) queued: AtomicUsize,
}

#[derive(Default)]
struct Work {
    ready: VecDeque<Arc<Lane>>,
    timers: BinaryHeap<Reverse<Timer>>,
    stop: bool,
}

#[derive(Default)]
struct Sync {
    dirty: Vec<Arc<Lane>>,
    due: Option<Instant>,
    closing: VecDeque<(Arc<Lane>, Closing)>,
    stop: bool,
}

struct Timer {
    due: Instant,
    lane: Arc<Lane>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

enum Next {
    Turn(Arc<Lane>),
    Timer(Arc<Lane>),
    Stop,
}

/// Keeps the threads running. When the last owner (pool or recorder) is gone they write what is left and end.
pub(crate) struct EngineOwner {
    pub(crate) engine: Arc<Engine>,
}

impl EngineOwner {
    /// Starts the threads. `first` runs on the sync thread before anything else.
    pub(crate) fn start(
        workers: usize,
        level: i32,
        sync_every: Duration,
        first: impl FnOnce() + Send + 'static,
    ) -> Result<Self, RecordError> {
        let engine = Arc::new(Engine {
            work: Mutex::default(),
            work_there: Condvar::new(),
            sync: Mutex::default(),
            sync_there: Condvar::new(),
            sync_every,
            queued: AtomicUsize::new(0),
        });
        let owner = Self { engine };
        let spawn = |name: String, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name)
                .spawn(body)
                .map(drop)
                .map_err(|error| RecordError::io("start a thread", &error))
        };
        for worker in 0..workers.max(1) {
            let engine = Arc::clone(&owner.engine);
            let mut scratch = Scratch::new(level)?;
            spawn(format!("record-{worker}"), Box::new(move || engine.run_worker(&mut scratch)))?;
        }
        let engine = Arc::clone(&owner.engine);
        spawn(
            "record-sync".to_owned(),
            Box::new(move || {
                first();
                engine.run_sync();
            }),
        )?;
        Ok(owner)
    }
}

impl Drop for EngineOwner {
    fn drop(&mut self) {
        self.engine.work.lock().stop = true;
        self.engine.work_there.notify_all();
        self.engine.sync.lock().stop = true;
        self.engine.sync_there.notify_all();
    }
}

impl Engine {
    /// Gives a recording its turn. The caller makes sure that it is queued once only.
    pub(crate) fn schedule(&self, lane: Arc<Lane>) {
        self.work.lock().ready.push_back(lane);
        self.work_there.notify_one();
    }

    /// Calls [`Lane::on_timer`] at `due`.
    pub(crate) fn arm(&self, lane: Arc<Lane>, due: Instant) {
        let mut work = self.work.lock();
        let earliest = work.timers.peek().is_none_or(|Reverse(first)| due < first.due);
        work.timers.push(Reverse(Timer { due, lane }));
        drop(work);
        if earliest {
            self.work_there.notify_one();
        }
    }

    /// Has a recording synced within the sync interval. The caller makes sure that it is noted once only.
    pub(crate) fn note_dirty(&self, lane: Arc<Lane>) {
        let mut sync = self.sync.lock();
        sync.dirty.push(lane);
        if sync.due.is_none() {
            sync.due = Some(Instant::now() + self.sync_every);
            drop(sync);
            self.sync_there.notify_one();
        }
    }

    /// Has a finished recording synced, and its owner told, at once.
    pub(crate) fn note_closing(&self, lane: Arc<Lane>, closing: Closing) {
        self.sync.lock().closing.push_back((lane, closing));
        self.sync_there.notify_one();
    }

    fn run_worker(&self, scratch: &mut Scratch) {
        loop {
            let (lane, timer) = match self.next() {
                Next::Turn(lane) => (lane, false),
                Next::Timer(lane) => (lane, true),
                Next::Stop => return,
            };
            // A fault in one recording must not take the thread, and with it everybody else's recording, down.
            let turn = catch_unwind(AssertUnwindSafe(|| if timer { lane.on_timer() } else { lane.work(scratch) }));
            match turn {
                Ok(Turn::Done) => {}
                Ok(Turn::Again) => self.schedule(lane),
                Err(_) => lane.fail(RecordError::Internal("a worker thread panicked")),
            }
        }
    }

    fn next(&self) -> Next {
        let mut work = self.work.lock();
        loop {
            // Timers first: a flood of full chunks elsewhere must not make anybody's last second longer.
            let due = match work.timers.peek() {
                Some(Reverse(timer)) if work.stop || timer.due <= Instant::now() => {
                    if let Some(Reverse(timer)) = work.timers.pop() {
                        return Next::Timer(timer.lane);
                    }
                    None
                }
                Some(Reverse(timer)) => Some(timer.due),
                None => None,
            };
            if let Some(lane) = work.ready.pop_front() {
                return Next::Turn(lane);
            }
            match due {
                _ if work.stop => return Next::Stop,
                Some(due) => {
                    self.work_there.wait_until(&mut work, due);
                }
                None => self.work_there.wait(&mut work),
            }
        }
    }

    fn run_sync(&self) {
        loop {
            let (closing, dirty, stop) = {
                let mut sync = self.sync.lock();
                loop {
                    let now = Instant::now();
                    let due = sync.due.is_some_and(|due| due <= now);
                    if !sync.closing.is_empty() || due || sync.stop {
                        let dirty = if due || sync.stop {
                            sync.due = None;
                            std::mem::take(&mut sync.dirty)
                        } else {
                            Vec::new()
                        };
                        break (std::mem::take(&mut sync.closing), dirty, sync.stop);
                    }
                    match sync.due {
                        Some(due) => {
                            self.sync_there.wait_until(&mut sync, due);
                        }
                        None => self.sync_there.wait(&mut sync),
                    }
                }
            };
            let idle = closing.is_empty() && dirty.is_empty();
            for (lane, closing) in closing {
                lane.sync_and_answer(closing);
            }
            sync_all(&dirty);
            if stop && idle && self.work.lock().ready.is_empty() {
                return;
            }
            if stop && idle {
                // Workers are still emptying their queue; what they hand over next is looked for soon.
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn sync_all(dirty: &[Arc<Lane>]) {
    for lane in dirty {
        lane.clear_dirty();
    }
    if dirty.len() <= SYNC_ONE_BY_ONE {
        for lane in dirty {
            if let Err(error) = lane.sync() {
                lane.fail(RecordError::io("sync chunks", &error));
            }
        }
    } else if let Some(Err(error)) = dirty.first().map(|lane| lane.sync_filesystem()) {
        // Nobody can tell whose bytes were lost, so nobody goes on as if theirs were safe.
        for lane in dirty {
            lane.fail(RecordError::io("sync chunks", &error));
        }
    }
}
