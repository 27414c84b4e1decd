//! The pool of recordings and the handle of one that is open.
//!
//! What lives here: the public writing side: starting, writing with back-pressure, noticing failure, closing. What
//! must not: what happens to the bytes ([`crate::lane`], [`crate::chain`]).

use crate::chain::Chain;
use crate::disk::{Disk, LocalDisk};
use crate::engine::EngineOwner;
use crate::error::RecordError;
use crate::event::{Event, Header, MAX_TEXT, Record};
use crate::key::MasterKey;
use crate::lane::{Append, Lane, LaneParts, Limits};
use crate::library::{self, Space};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// How a pool works. The defaults suit an appliance with thousands of sessions.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// Threads that compress, encrypt and write; at least 1. Default 2. One more thread syncs.
    pub workers: usize,
    /// Bytes that recordings may take on the disk; `None` for no limit but the disk. At the quota no recording starts
    /// any more; running ones may go an eighth beyond it, then they fail.
    pub quota_bytes: Option<u64>,
    /// zstd level, 1 (default) to 3; higher ones cost more time than a live recording should. Data that
    /// does not shrink is mostly stored as it is.
    pub level: i32,
    /// Age of a chunk's first event at which it is written. Default 900 ms, so that a killed daemon loses at most the
    /// last second.
    pub flush_after: Duration,
    /// How often written chunks are made to survive power loss. Default 3 s.
    pub sync_every: Duration,
    /// Bytes that may wait in memory per recording before writers wait. Default 256 KiB.
    pub queue_bytes: usize,
    /// Bytes that may wait in memory for all recordings together before every writer that has something waiting waits.
    /// Default 64 MiB.
    pub total_queue_bytes: usize,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            quota_bytes: None,
            level: 1,
            flush_after: Duration::from_millis(900),
            sync_every: Duration::from_secs(3),
            queue_bytes: 256 * 1024,
            total_queue_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Writes recordings into one directory, with a few threads for all of them. Clones are cheap and share everything.
#[derive(Clone)]
pub struct RecorderPool {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    key: MasterKey,
    limits: Limits,
    extension: &'static str,
    disk: Arc<dyn Disk>,
    space: Arc<Space>,
    open: Arc<Mutex<HashSet<Uuid>>>,
    engine: Arc<EngineOwner>,
}

impl RecorderPool {
    /// A pool that writes below `dir` (created if missing, mode 0700).
    ///
    /// # Errors
    /// If the directory cannot be created or the threads cannot be started.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for one pool, and may come to own something")]
    pub fn new(dir: PathBuf, key: MasterKey, options: PoolOptions) -> Result<Self, RecordError> {
        Self::with_disk(dir, key, &options, library::RECORDING, Arc::new(LocalDisk))
    }

    pub(crate) fn with_disk(
        dir: PathBuf,
        key: MasterKey,
        options: &PoolOptions,
        extension: &'static str,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, RecordError> {
        library::create_root(&dir).map_err(|error| RecordError::io("create the directory", &error))?;
        let space = Arc::new(Space::new(options.quota_bytes));
        // Counting what is there may take a while with many files, so it does not hold up the start.
        let count = {
            let (dir, space, now) = (dir.clone(), Arc::clone(&space), SystemTime::now());
            move || space.count_existing(&dir, now)
        };
        let engine = EngineOwner::start(options.workers, options.level, options.sync_every, count)?;
        let limits = Limits {
            queue: options.queue_bytes.max(1),
            total: options.total_queue_bytes.max(1),
            flush_after: options.flush_after,
        };
        let shared =
            Shared { dir, key, limits, extension, disk, space, open: Arc::default(), engine: Arc::new(engine) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The directory that holds the recordings.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Bytes that recordings take on the disk, as far as this pool knows (exact once it has counted what was there).
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.shared.space.used()
    }

    /// Bytes that wait in memory, all recordings together.
    #[cfg(test)]
    pub(crate) fn shared_queue(&self) -> usize {
        self.shared.engine.engine.queued.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether a recording of this session is being written.
    #[must_use]
    pub fn is_open(&self, session: Uuid) -> bool {
        self.shared.open.lock().contains(&session)
    }

    /// Starts a recording: creates `YYYY-MM-DD/<session>.ghr` (UTC day of `header.started`) and returns when its header
    /// survives power loss. The session may go on only then.
    ///
    /// # Errors
    /// [`RecordError::QuotaExceeded`], [`RecordError::Exists`], or what the disk said.
    pub async fn start(&self, header: Header) -> Result<Recorder, RecordError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.start(&header))
            .await
            .map_err(|_| RecordError::Internal("the task that starts recordings ended"))?
    }

    /// Removes the recording of a session that is not open; returns how many bytes that freed, 0 if there was none.
    ///
    /// # Errors
    /// [`RecordError::Exists`] if it is being written, or what the disk said.
    pub fn remove(&self, session: Uuid) -> Result<u64, RecordError> {
        if self.is_open(session) {
            return Err(RecordError::Exists(session));
        }
        let freed = library::remove_as(&self.shared.dir, session, self.shared.extension)
            .map_err(|error| RecordError::io("remove", &error))?;
        self.shared.space.subtract(freed);
        Ok(freed)
    }
}

impl Shared {
    fn start(&self, header: &Header) -> Result<Recorder, RecordError> {
        self.space.check_new()?;
        let session = header.session;
        if !self.open.lock().insert(session) {
            return Err(RecordError::Exists(session));
        }
        let entry = OpenEntry { session, open: Arc::clone(&self.open) };
        let file = library::relative(header.started, session, self.extension);
        let path = self.dir.join(&file);
        let (chain, block) = Chain::start(&self.key, header)?;
        let sink = self.disk.create(&path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => RecordError::Exists(session),
            _ => RecordError::io("create", &error),
        })?;
        let written = sink
            .append(&block)
            .and_then(|()| sink.sync())
            .and_then(|()| self.disk.sync_entry(&path))
            .map_err(|error| RecordError::io("write the header", &error));
        if let Err(error) = written {
            if let Err(remove) = self.disk.remove(&path) {
                tracing::warn!(%session, error = %remove, "cannot remove a recording that could not be started");
            }
            return Err(error);
        }
        self.space.add(block.len() as u64);
        let lane = Lane::new(LaneParts {
            session,
            file,
            track: header.kind,
            limits: self.limits,
            engine: Arc::clone(&self.engine.engine),
            space: Arc::clone(&self.space),
            chain,
            sink,
        });
        Ok(Recorder {
            handle: Arc::new(Handle { lane: Arc::new(lane), _entry: entry, _engine: Arc::clone(&self.engine) }),
        })
    }
}

/// Takes the session off the list of open ones when its last handle goes, however it goes.
struct OpenEntry {
    session: Uuid,
    open: Arc<Mutex<HashSet<Uuid>>>,
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        self.open.lock().remove(&self.session);
    }
}

/// An open recording. Clones share it. When the last clone goes without [`Recorder::close`], what was written is
/// kept, readable and unsealed, as after a crash; [`crate::seal_interrupted`] can seal it then.
#[derive(Clone)]
pub struct Recorder {
    handle: Arc<Handle>,
}

struct Handle {
    lane: Arc<Lane>,
    _entry: OpenEntry,
    _engine: Arc<EngineOwner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.lane.abandon() {
            tracing::warn!(session = %self.lane.session, "a recording was dropped without being closed");
        }
    }
}

/// A closed recording, safe on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Path relative to the pool's directory.
    pub file: String,
    /// SHA-256 at the end of the hash chain; it covers every byte of the file before it. The ledger repeats it.
    pub digest: [u8; 32],
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Number of data chunks.
    pub chunks: u64,
    /// Number of event records.
    pub events: u64,
    /// Time of the last event.
    pub duration: Duration,
}

impl Recorder {
    /// The session that is recorded.
    #[must_use]
    pub fn session(&self) -> Uuid {
        self.handle.lane.session
    }

    /// Path of the file relative to the pool's directory.
    #[must_use]
    pub fn file(&self) -> &str {
        self.handle.lane.file()
    }

    /// Records an event that happened `at` after the start. Returns when the event has its place in memory: at once
    /// as a rule, later while the disk is slower than the session (back-pressure). An `at` before that of the event
    /// before counts as the same time. If the future is dropped while it waits, a large output may be recorded in part.
    ///
    /// # Errors
    /// Once writing has failed, and for the rest of the recording's life, the failure; [`RecordError::EventTooLarge`]
    /// for text beyond [`MAX_TEXT`], which does not harm the recording.
    pub async fn write(&self, at: Duration, event: Event) -> Result<(), RecordError> {
        self.put(at, Record::of(&event)).await
    }

    pub(crate) async fn put(&self, at: Duration, mut record: Record<'_>) -> Result<(), RecordError> {
        let lane = &self.handle.lane;
        if !record.is_stream() && record.len() > MAX_TEXT {
            return Err(RecordError::EventTooLarge { size: record.len(), limit: MAX_TEXT });
        }
        if lane.append(at, &mut record)? == Append::Done {
            return Ok(());
        }
        loop {
            let mut room = pin!(lane.room().notified());
            // Registered before the attempt, so that room made in between is not missed.
            room.as_mut().enable();
            if lane.append(at, &mut record)? == Append::Done {
                return Ok(());
            }
            room.await;
        }
    }

    /// Has everything recorded so far written at once instead of within a second, for somebody who wants to read the
    /// recording while the session runs. It is then readable, not yet safe from power loss.
    ///
    /// # Errors
    /// The failure, if the recording cannot be written.
    pub async fn flush(&self) -> Result<(), RecordError> {
        let lane = &self.handle.lane;
        let position = lane.position();
        loop {
            let mut room = pin!(lane.room().notified());
            room.as_mut().enable();
            if lane.flush(position)? {
                return Ok(());
            }
            room.await;
        }
    }

    /// Position of the next event: what a command keeps to point into the recording (see [`crate::Entry::position`]
    /// and [`crate::Reader::seek_position`]).
    #[must_use]
    pub fn position(&self) -> u64 {
        self.handle.lane.position()
    }

    /// Why the recording cannot be written any more, if so.
    #[must_use]
    pub fn error(&self) -> Option<RecordError> {
        self.handle.lane.error()
    }

    /// Resolves when the recording cannot be written any more (never otherwise). The session must stop then. The
    /// future may be dropped and asked for again at any time; it does not keep the recording open.
    pub fn failed(&self) -> impl Future<Output = RecordError> + Send + 'static + use<> {
        let lane = Arc::clone(&self.handle.lane);
        async move {
            loop {
                let mut failure = pin!(lane.failure().notified());
                failure.as_mut().enable();
                if let Some(error) = lane.error() {
                    return error;
                }
                failure.await;
            }
        }
    }

    /// Ends the recording: writes what waits, index and end, and returns when all of it survives power loss. Other
    /// clones get [`RecordError::Closed`] from then on. If the future is dropped the recording is closed nevertheless.
    ///
    /// # Errors
    /// The failure, if the recording could not be written; [`RecordError::Closed`] if it was closed before.
    pub async fn close(self) -> Result<Sealed, RecordError> {
        let answer = self.handle.lane.close()?;
        answer.await.map_err(|_| RecordError::Internal("the recording's threads ended"))?
    }
}
