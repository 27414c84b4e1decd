//! One open recording as the threads see it: the chunk that is being filled, full chunks that wait, the file.
//!
//! What lives here: what a writer and a worker do to one recording, and the order and the bounds between them. What
//! must not: thread loops and timers ([`crate::engine`]), the public handle ([`crate::recorder`]).

use crate::chain::{Chain, Scratch};
use crate::disk::Sink;
use crate::engine::Engine;
use crate::error::RecordError;
use crate::event::{RECORD_OVERHEAD, Record, TrackKind};
use crate::format::{CHUNK_HEAD, CHUNK_LIMIT, ChunkHead};
use crate::library::Space;
use crate::recorder::Sealed;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

/// Output at most this long is never cut into two events.
const SPLIT_FROM: usize = 4 * 1024;
/// A piece shorter than this is not worth an event record of its own.
const SPLIT_ROOM: usize = 1024;
/// Chunks that a worker writes for one recording before others get their turn.
const CHUNKS_PER_TURN: usize = 8;

/// Bounds that all recordings of a pool share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that may wait per recording.
    pub(crate) queue: usize,
    /// Bytes that may wait in the pool before every recording is held to what it has.
    pub(crate) total: usize,
    /// Age at which a chunk is closed.
    pub(crate) flush_after: Duration,
}

pub(crate) struct Lane {
    pub(crate) session: Uuid,
    file: String,
    track: TrackKind,
    limits: Limits,
    engine: Arc<Engine>,
    space: Arc<Space>,
    filling: Mutex<Filling>,
    writing: Mutex<Chain>,
    sink: Arc<dyn Sink>,
    dirty: AtomicBool,
    room: Notify,
    failed: Notify,
}

/// What the writer's side changes, under one short lock.
#[derive(Default)]
struct Filling {
    open: Vec<u8>,
    opened: Option<Instant>,
    base_us: u64,
    first: u64,
    records: u32,
    last_us: u64,
    events: u64,
    full: VecDeque<Vec<u8>>,
    /// Events that the system has taken.
    written: u64,
    /// Bytes in `open`, in `full` and in a worker's hands.
    queued: usize,
    flush: bool,
    scheduled: bool,
    armed: bool,
    closed: bool,
    closing: Option<oneshot::Sender<Result<Sealed, RecordError>>>,
    error: Option<RecordError>,
}

/// A finished recording on its way to the disk, and who waits for that.
pub(crate) struct Closing {
    sealed: Sealed,
    answer: oneshot::Sender<Result<Sealed, RecordError>>,
}

/// What became of a worker's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Done,
    Again,
}

/// What became of an attempt to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Append {
    Done,
    Full,
}

enum Job {
    Chunk(Vec<u8>),
    Close(oneshot::Sender<Result<Sealed, RecordError>>),
}

/// The parts of a lane that its creator provides.
pub(crate) struct LaneParts {
    pub(crate) session: Uuid,
    pub(crate) file: String,
    pub(crate) track: TrackKind,
    pub(crate) limits: Limits,
    pub(crate) engine: Arc<Engine>,
    pub(crate) space: Arc<Space>,
    pub(crate) chain: Chain,
    pub(crate) sink: Arc<dyn Sink>,
}

impl Lane {
    pub(crate) fn new(parts: LaneParts) -> Self {
        Self {
            session: parts.session,
            file: parts.file,
            track: parts.track,
            limits: parts.limits,
            engine: parts.engine,
            space: parts.space,
            filling: Mutex::default(),
            writing: Mutex::new(parts.chain),
            sink: parts.sink,
            dirty: AtomicBool::new(false),
            room: Notify::new(),
            failed: Notify::new(),
        }
    }

    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn error(&self) -> Option<RecordError> {
        self.filling.lock().error.clone()
    }

    /// Number that the next event gets.
    pub(crate) fn position(&self) -> u64 {
        self.filling.lock().events
    }

    /// Resolves when there may be room again, or the recording failed.
    pub(crate) fn room(&self) -> &Notify {
        &self.room
    }

    /// Resolves once the recording failed.
    pub(crate) fn failure(&self) -> &Notify {
        &self.failed
    }

    /// Appends as much of the record as the bounds allow; what could not be appended stays in `record`.
    pub(crate) fn append(self: &Arc<Self>, at: Duration, record: &mut Record<'_>) -> Result<Append, RecordError> {
        let mut filling = self.filling.lock();
        loop {
            if let Some(error) = &filling.error {
                return Err(error.clone());
            }
            if filling.closed {
                return Err(RecordError::Closed);
            }
            let total = self.engine.queued.load(Ordering::Relaxed);
            if filling.queued >= self.limits.queue || (total >= self.limits.total && filling.queued > 0) {
                // Whoever waits for room should not also wait for the chunk's second to pass.
                if filling.full.is_empty() && !filling.open.is_empty() {
                    filling.flush = true;
                    self.schedule(&mut filling);
                }
                return Ok(Append::Full);
            }
            let used = filling.open.len().max(CHUNK_HEAD);
            let room = CHUNK_LIMIT.saturating_sub(used + RECORD_OVERHEAD);
            if record.len() <= room || (filling.open.is_empty() && !record.is_stream()) {
                self.put(&mut filling, at, record);
                return Ok(Append::Done);
            }
            let piece = if record.len() > SPLIT_FROM && room >= SPLIT_ROOM { record.split_first(room) } else { None };
            match piece {
                Some(piece) => self.put(&mut filling, at, &piece),
                None => self.close_chunk(&mut filling),
            }
        }
    }

    fn put(self: &Arc<Self>, filling: &mut Filling, at: Duration, record: &Record<'_>) {
        // Two tasks may write; whoever comes second with an earlier time gets the later one, so time never runs back.
        let at_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX).max(filling.last_us);
        let before = filling.open.len();
        if filling.open.is_empty() {
            // Bulk gets its room at once; a few keystrokes should not cost 64 KiB.
            filling.open.reserve(if record.len() > SPLIT_FROM { CHUNK_LIMIT } else { 1024 });
            filling.open.resize(CHUNK_HEAD, 0);
            filling.base_us = at_us;
            filling.first = filling.events;
            filling.records = 0;
            filling.last_us = at_us;
            let now = Instant::now();
            filling.opened = Some(now);
            if !filling.armed {
                filling.armed = true;
                self.engine.arm(Arc::clone(self), now + self.limits.flush_after);
            }
        }
        record.append(at_us - filling.last_us, &mut filling.open);
        filling.last_us = at_us;
        filling.records += 1;
        filling.events += 1;
        let added = filling.open.len() - before;
        filling.queued += added;
        self.engine.queued.fetch_add(added, Ordering::Relaxed);
        if filling.open.len() + SPLIT_ROOM > CHUNK_LIMIT {
            self.close_chunk(filling);
        }
    }

    fn close_chunk(self: &Arc<Self>, filling: &mut Filling) {
        if let Some(chunk) = self.take_open(filling) {
            filling.full.push_back(chunk);
            self.schedule(filling);
        }
    }

    fn take_open(&self, filling: &mut Filling) -> Option<Vec<u8>> {
        filling.opened = None;
        filling.flush = false;
        if filling.open.is_empty() {
            return None;
        }
        let mut chunk = std::mem::take(&mut filling.open);
        let head =
            ChunkHead { track: self.track, records: filling.records, base_us: filling.base_us, first: filling.first };
        for (to, from) in chunk.iter_mut().zip(head.encode()) {
            *to = from;
        }
        Some(chunk)
    }

    fn schedule(self: &Arc<Self>, filling: &mut Filling) {
        if !filling.scheduled {
            filling.scheduled = true;
            self.engine.schedule(Arc::clone(self));
        }
    }

    /// Has the events before `position` written now. `true` if they are already.
    pub(crate) fn flush(self: &Arc<Self>, position: u64) -> Result<bool, RecordError> {
        let mut filling = self.filling.lock();
        if let Some(error) = &filling.error {
            return Err(error.clone());
        }
        if filling.written >= position {
            return Ok(true);
        }
        if !filling.open.is_empty() && filling.first < position {
            filling.flush = true;
            self.schedule(&mut filling);
        }
        Ok(false)
    }

    /// Asks for the end of the recording; the answer comes when it is on the disk.
    pub(crate) fn close(self: &Arc<Self>) -> Result<oneshot::Receiver<Result<Sealed, RecordError>>, RecordError> {
        let mut filling = self.filling.lock();
        if let Some(error) = &filling.error {
            return Err(error.clone());
        }
        if filling.closed {
            return Err(RecordError::Closed);
        }
        let (answer, receiver) = oneshot::channel();
        filling.closed = true;
        filling.closing = Some(answer);
        self.schedule(&mut filling);
        Ok(receiver)
    }

    /// Nobody writes any more and nobody closed the recording: what is there is written, and the file stays unsealed.
    /// `true` if that is what happened.
    pub(crate) fn abandon(self: &Arc<Self>) -> bool {
        let mut filling = self.filling.lock();
        if filling.closed || filling.error.is_some() {
            return false;
        }
        filling.closed = true;
        filling.flush = true;
        self.schedule(&mut filling);
        true
    }

    /// From here on every write fails with `error`; what waits in memory is dropped.
    pub(crate) fn fail(&self, error: RecordError) {
        let mut filling = self.filling.lock();
        if filling.error.is_none() {
            tracing::error!(session = %self.session, %error, "recording failed");
            filling.error = Some(error.clone());
        }
        filling.open = Vec::new();
        filling.opened = None;
        filling.full = VecDeque::new();
        filling.closed = true;
        filling.scheduled = false;
        let queued = std::mem::take(&mut filling.queued);
        self.engine.queued.fetch_sub(queued, Ordering::Relaxed);
        let closing = filling.closing.take();
        drop(filling);
        if let Some(answer) = closing {
            // The one who asked may have gone; the error is kept for everybody else.
            let _gone = answer.send(Err(error));
        }
        self.room.notify_waiters();
        self.failed.notify_waiters();
    }

    /// The chunk's time may have come.
    pub(crate) fn on_timer(self: &Arc<Self>) -> Turn {
        let mut filling = self.filling.lock();
        filling.armed = false;
        if let Some(opened) = filling.opened {
            let due = opened + self.limits.flush_after;
            if due <= Instant::now() || filling.closed {
                filling.flush = true;
                self.schedule(&mut filling);
            } else {
                filling.armed = true;
                drop(filling);
                self.engine.arm(Arc::clone(self), due);
            }
        }
        Turn::Done
    }

    /// A worker's turn: writes some chunks, in order. The `scheduled` flag makes sure that one worker only is here.
    pub(crate) fn work(self: &Arc<Self>, scratch: &mut Scratch) -> Turn {
        for _ in 0..CHUNKS_PER_TURN {
            let job = {
                let mut filling = self.filling.lock();
                match self.next_job(&mut filling) {
                    Some(job) => job,
                    None => {
                        filling.scheduled = false;
                        return Turn::Done;
                    }
                }
            };
            let result = match job {
                Job::Chunk(chunk) => self.write_chunk(chunk, scratch),
                Job::Close(answer) => {
                    self.finish(answer);
                    Ok(())
                }
            };
            if let Err(error) = result {
                self.fail(error);
                return Turn::Done;
            }
        }
        Turn::Again
    }

    fn next_job(&self, filling: &mut Filling) -> Option<Job> {
        if let Some(chunk) = filling.full.pop_front() {
            if filling.full.is_empty() {
                filling.full = VecDeque::new();
            }
            return Some(Job::Chunk(chunk));
        }
        if (filling.flush || filling.closed)
            && let Some(chunk) = self.take_open(filling)
        {
            return Some(Job::Chunk(chunk));
        }
        filling.closing.take().map(Job::Close)
    }

    fn write_chunk(self: &Arc<Self>, chunk: Vec<u8>, scratch: &mut Scratch) -> Result<(), RecordError> {
        self.space.check_running()?;
        let len = chunk.len();
        let events = {
            let mut chain = self.writing.lock();
            let frame = chain.chunk(&chunk, scratch)?;
            self.sink.append(frame).map_err(|error| RecordError::io("write a chunk", &error))?;
            self.space.add(frame.len() as u64);
            chain.events()
        };
        drop(chunk);
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.engine.note_dirty(Arc::clone(self));
        }
        let mut filling = self.filling.lock();
        // A failure found by the sync thread meanwhile has given the bytes back already.
        if filling.error.is_none() {
            filling.written = events;
            filling.queued = filling.queued.saturating_sub(len);
            self.engine.queued.fetch_sub(len, Ordering::Relaxed);
        }
        // Not at every chunk: a writer that is woken for each one spends its time falling asleep.
        let half_empty = filling.queued <= self.limits.queue / 2;
        drop(filling);
        if half_empty {
            self.room.notify_waiters();
        }
        Ok(())
    }

    fn finish(self: &Arc<Self>, answer: oneshot::Sender<Result<Sealed, RecordError>>) {
        let last_us = self.filling.lock().last_us;
        let mut chain = self.writing.lock();
        let written = chain.finish(last_us, false).and_then(|bytes| {
            self.sink.append(&bytes).map_err(|error| RecordError::io("seal", &error))?;
            self.space.add(bytes.len() as u64);
            Ok(())
        });
        match written {
            Ok(()) => {
                let sealed = Sealed {
                    file: self.file.clone(),
                    digest: chain.digest(),
                    bytes: chain.offset(),
                    chunks: chain.chunks(),
                    events: chain.events(),
                    duration: Duration::from_micros(last_us),
                };
                drop(chain);
                self.engine.note_closing(Arc::clone(self), Closing { sealed, answer });
            }
            Err(error) => {
                drop(chain);
                let _gone = answer.send(Err(error.clone()));
                self.fail(error);
            }
        }
    }

    /// On the sync thread: the seal survives power loss before anybody is told that it is there.
    pub(crate) fn sync_and_answer(&self, closing: Closing) {
        let result = match self.sink.sync().map_err(|error| RecordError::io("sync the seal", &error)) {
            // A chunk's sync may have failed in between: then the system's answer to this one means nothing.
            Ok(()) => self.error().map_or(Ok(closing.sealed), Err),
            Err(error) => {
                self.fail(error.clone());
                Err(error)
            }
        };
        let _gone = closing.answer.send(result);
    }

    pub(crate) fn clear_dirty(&self) {
        self.dirty.store(false, Ordering::Release);
    }

    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.sink.sync()
    }

    pub(crate) fn sync_filesystem(&self) -> std::io::Result<()> {
        self.sink.sync_filesystem()
    }
}
