//! The content of transferred files, kept for audit: encrypted, chained and sealed like recordings.
//!
//! What lives here: keeping, reading back and verifying file content. The container and the threads are those of
//! recordings (track `File`, extension `.ghf`). What must not: which transfers are kept, and for how long.

use crate::disk::LocalDisk;
use crate::error::{ReadError, Reason, RecordError, VerifyError};
use crate::event::{Header, Record, TrackKind};
use crate::key::MasterKey;
use crate::library;
use crate::reader::{Reader, output};
use crate::recorder::{PoolOptions, Recorder, RecorderPool};
use crate::verify::{VerifyReport, verify};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Buf, Bytes};
use chrono::Utc;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How kept files are kept.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// Bytes of content that are kept per file; what comes after is hashed only. Default 100 MiB
    /// (JumpServer's `FTP_FILE_MAX_STORE`).
    pub limit_bytes: u64,
    /// How the pool below works; `quota_bytes` is the room for all kept files. Default: one worker.
    pub pool: PoolOptions,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self { limit_bytes: 100 * 1024 * 1024, pool: PoolOptions { workers: 1, ..PoolOptions::default() } }
    }
}

/// Keeps the content of transferred files in one directory. Clones are cheap and share everything.
#[derive(Clone)]
pub struct FileKeeper {
    pool: RecorderPool,
    key: MasterKey,
    limit: u64,
}

impl FileKeeper {
    /// A keeper that writes below `dir` (created if missing, mode 0700). It must not be the directory of recordings.
    ///
    /// # Errors
    /// If the directory cannot be created or the threads cannot be started.
    pub fn new(dir: PathBuf, key: MasterKey, options: KeeperOptions) -> Result<Self, RecordError> {
        let KeeperOptions { limit_bytes: limit, pool } = options;
        let pool = RecorderPool::with_disk(dir, key.clone(), &pool, library::KEPT_FILE, Arc::new(LocalDisk))?;
        Ok(Self { pool, key, limit })
    }

    /// Starts keeping a file under the transfer's id.
    ///
    /// # Errors
    /// As [`RecorderPool::start`].
    pub async fn start(&self, id: Uuid) -> Result<KeptFile, RecordError> {
        let header = Header {
            session: id,
            org: Uuid::nil(),
            started: Utc::now(),
            kind: TrackKind::File,
            width: 0,
            height: 0,
            title: None,
            term: String::new(),
            shell: None,
        };
        let recorder = self.pool.start(header).await?;
        Ok(KeptFile {
            recorder,
            pool: self.pool.clone(),
            started: Instant::now(),
            hash: Context::new(&SHA256),
            bytes: 0,
            kept: 0,
            limit: self.limit,
        })
    }

    /// Opens a kept file for reading from its start. Blocking file IO.
    ///
    /// # Errors
    /// If there is none with this id, or it cannot be opened.
    pub fn open(&self, id: Uuid) -> Result<KeptReader, ReadError> {
        let path = self.locate(id)?;
        let reader = Reader::open(path, &self.key)?;
        if reader.header().kind != TrackKind::File || reader.header().session != id {
            return Err(ReadError::damaged(0, Reason::Header("not the kept file of this id")));
        }
        Ok(KeptReader { reader, current: Bytes::new() })
    }

    /// Checks every byte of a kept file, with `expected` from the ledger. Blocking file IO.
    ///
    /// # Errors
    /// The first fault and its place; a missing file counts as one.
    pub fn verify(&self, id: Uuid, expected: Option<[u8; 32]>) -> Result<VerifyReport, VerifyError> {
        let missing = |error: &ReadError| VerifyError { offset: 0, reason: Reason::Io(error.to_string()) };
        let path = self.locate(id).map_err(|error| missing(&error))?;
        verify(path, &self.key, expected)
    }

    /// Removes a kept file; returns the bytes freed, 0 if there was none.
    ///
    /// # Errors
    /// As [`RecorderPool::remove`].
    pub fn remove(&self, id: Uuid) -> Result<u64, RecordError> {
        self.pool.remove(id)
    }

    /// Bytes that kept files take on the disk.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.pool.used_bytes()
    }

    fn locate(&self, id: Uuid) -> Result<PathBuf, ReadError> {
        let dir = self.pool.dir();
        library::locate_as(dir, id, library::KEPT_FILE)
            .map_err(|error| ReadError::io(dir, error))?
            .ok_or_else(|| ReadError::io(dir, io::Error::new(io::ErrorKind::NotFound, "no such kept file")))
    }
}

/// A file whose content is being kept.
pub struct KeptFile {
    recorder: Recorder,
    pool: RecorderPool,
    started: Instant,
    hash: Context,
    bytes: u64,
    kept: u64,
    limit: u64,
}

/// A kept file, safe on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Path relative to the keeper's directory.
    pub file: String,
    /// Bytes of content that were written to it.
    pub bytes: u64,
    /// Bytes of content that were kept: less than `bytes` if the limit was reached.
    pub kept: u64,
    /// SHA-256 of the whole content, beyond the limit too.
    pub sha256: [u8; 32],
    /// End of the container's hash chain, for the ledger.
    pub digest: [u8; 32],
}

impl KeptFile {
    /// The next bytes of the content, in order. Waits while the disk is slower than the transfer.
    ///
    /// # Errors
    /// If the content can no longer be kept.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.hash.update(bytes);
        let room = self.limit.saturating_sub(self.kept);
        let take = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.kept = self.kept.saturating_add(take as u64);
        match bytes.get(..take) {
            Some(part) if !part.is_empty() => self.recorder.put(self.started.elapsed(), Record::output(part)).await,
            _ => self.recorder.error().map_or(Ok(()), Err),
        }
    }

    /// The content is complete: seals it.
    ///
    /// # Errors
    /// If it could not be kept.
    pub async fn finish(self) -> Result<Kept, RecordError> {
        let sealed = self.recorder.close().await?;
        let mut sha256 = [0u8; 32];
        for (to, from) in sha256.iter_mut().zip(self.hash.finish().as_ref()) {
            *to = *from;
        }
        Ok(Kept { file: sealed.file, bytes: self.bytes, kept: self.kept, sha256, digest: sealed.digest })
    }

    /// The content is not wanted after all: removes it.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub async fn abort(self) -> Result<(), RecordError> {
        let id = self.recorder.session();
        // Closed first, so that no worker still writes to what is removed; whether that worked does not matter.
        let _closed = self.recorder.close().await;
        let pool = self.pool;
        tokio::task::spawn_blocking(move || pool.remove(id))
            .await
            .map_err(|_| RecordError::Internal("the task that removes a file ended"))?
            .map(drop)
    }
}

/// Content of a kept file: as an iterator of pieces, or through [`Read`]. It ends early with an error at damage; an
/// unsealed file (see [`KeptReader::complete`]) ends where it was cut.
pub struct KeptReader {
    reader: Reader,
    current: Bytes,
}

impl KeptReader {
    /// Whether keeping was finished.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.reader.complete()
    }

    /// When keeping ended, counted from its start; known if it was finished.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.reader.duration()
    }
}

impl Iterator for KeptReader {
    type Item = Result<Bytes, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.current.is_empty() {
            return Some(Ok(std::mem::take(&mut self.current)));
        }
        self.reader.events().find_map(|entry| entry.map(output).transpose())
    }
}

impl Read for KeptReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.next() {
                Some(bytes) => self.current = bytes.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.current.len());
        self.current.copy_to_slice(buffer.get_mut(..len).unwrap_or_default());
        Ok(len)
    }
}
