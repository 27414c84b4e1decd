//! Proof that a recording is what was written, and sealing of what a killed daemon left.
//!
//! What lives here: judgement on whole files. What must not: the checks of single frames ([`crate::scan`]).

use crate::error::{ReadError, Reason, VerifyError};
use crate::event::take_record;
use crate::format::{ChunkHead, End, FrameKind, Hash, Index, IndexEntry, MAX_FRAME_BODY};
use crate::key::MasterKey;
use crate::recorder::Sealed;
use crate::scan::{Scanner, new_decompressor, read_error, unpack};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// What verification with the key found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// The session.
    pub session: Uuid,
    /// Its organization.
    pub org: Uuid,
    /// Start of the recording.
    pub started: DateTime<Utc>,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Data chunks.
    pub chunks: u64,
    /// Event records.
    pub events: u64,
    /// Time of the last event.
    pub duration: Duration,
    /// End of the hash chain.
    pub digest: [u8; 32],
    /// The recording was sealed after its daemon had died.
    pub interrupted: bool,
}

/// What verification without the key found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// The session.
    pub session: Uuid,
    /// Its organization.
    pub org: Uuid,
    /// Start of the recording.
    pub started: DateTime<Utc>,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Frames of all kinds.
    pub frames: u64,
    /// End of the hash chain; compare it with the ledger's.
    pub digest: [u8; 32],
}

/// Checks every byte of a sealed container: header, chain, decryption, event records, index and totals, and that the
/// file ends where it says. With `expected` (from the ledger) also that it is that very recording.
///
/// # Errors
/// The first fault and its place. Somebody who has the key could still write another recording of the same session:
/// only the expected digest excludes that.
pub fn verify(
    path: impl AsRef<Path>,
    key: &MasterKey,
    expected: Option<[u8; 32]>,
) -> Result<VerifyReport, VerifyError> {
    let mut scanner = open(path.as_ref(), Some(key))?;
    let started = started(&scanner)?;
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(|error| io_fault(&error))?;
    let mut walk = Walk::default();
    while let Some(frame) = scanner.next()? {
        let here = |reason| VerifyError { offset: frame.offset, reason };
        walk.step(frame.kind).map_err(here)?;
        match frame.kind {
            FrameKind::Data => {
                let (head, chunk) = unpack(scanner.plain(), &mut decompressor).map_err(here)?;
                walk.chunk(&head, chunk, frame.offset).map_err(here)?;
            }
            FrameKind::Index => walk.index(scanner.plain(), frame.offset).map_err(here)?,
            FrameKind::End => {
                walk.end(scanner.plain()).map_err(here)?;
                no_more(&scanner)?;
            }
            FrameKind::Unknown => {}
        }
    }
    let end = walk.end.ok_or(VerifyError { offset: scanner.len(), reason: Reason::NotSealed })?;
    check_digest(&scanner, expected)?;
    Ok(VerifyReport {
        session: scanner.public().session,
        org: scanner.public().org,
        started,
        bytes: scanner.len(),
        chunks: end.chunks,
        events: end.events,
        duration: end.duration(),
        digest: scanner.digest(),
        interrupted: end.interrupted,
    })
}

/// Checks the hash chain of a sealed container without any key: whoever has a digest from the ledger can prove that
/// the file is the one that was sealed, without being able to read it.
///
/// # Errors
/// The first fault and its place. Without `expected` a file that was rewritten as a whole cannot be told.
pub fn verify_chain(path: impl AsRef<Path>, expected: Option<[u8; 32]>) -> Result<ChainReport, VerifyError> {
    let mut scanner = open(path.as_ref(), None)?;
    let started = started(&scanner)?;
    let mut walk = Walk::default();
    let mut frames = 0u64;
    while let Some(frame) = scanner.next()? {
        walk.step(frame.kind).map_err(|reason| VerifyError { offset: frame.offset, reason })?;
        frames += 1;
        if frame.kind == FrameKind::End {
            no_more(&scanner)?;
        }
    }
    if walk.stage != Stage::Ended {
        return Err(VerifyError { offset: scanner.len(), reason: Reason::NotSealed });
    }
    check_digest(&scanner, expected)?;
    Ok(ChainReport {
        session: scanner.public().session,
        org: scanner.public().org,
        started,
        bytes: scanner.len(),
        frames,
        digest: scanner.digest(),
    })
}

/// Seals a recording that a killed daemon left, up to its last whole chunk, and marks it as interrupted. A sealed one
/// is left as it is; so this may be repeated. Call it at start, for recordings that nobody writes.
///
/// # Errors
/// If the file is damaged otherwise than by a torn last write: then it is evidence, and is left alone.
pub fn seal_interrupted(path: impl AsRef<Path>, key: &MasterKey) -> Result<Sealed, ReadError> {
    let path = path.as_ref();
    let (mut scanner, _) = Scanner::open_path(path, Some(key))?;
    let mut decompressor = new_decompressor(path)?;
    let mut walk = Walk::default();
    let mut last_whole = scanner.mark();
    loop {
        let frame = match scanner.next() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) if is_torn(&error, scanner.len()) => break,
            Err(error) => return Err(read_error(path, error)),
        };
        let here = |reason| read_error(path, VerifyError { offset: frame.offset, reason });
        walk.step(frame.kind).map_err(here)?;
        match frame.kind {
            FrameKind::Data => {
                let (head, chunk) = unpack(scanner.plain(), &mut decompressor).map_err(here)?;
                walk.chunk(&head, chunk, frame.offset).map_err(here)?;
                last_whole = scanner.mark();
            }
            FrameKind::Unknown => last_whole = scanner.mark(),
            // An index without its end is written anew.
            FrameKind::Index => walk.index(scanner.plain(), frame.offset).map_err(here)?,
            FrameKind::End => {
                walk.end(scanner.plain()).map_err(here)?;
                no_more(&scanner).map_err(|error| read_error(path, error))?;
            }
        }
    }
    let file = relative(path);
    if let Some(end) = walk.end {
        let (digest, bytes) = (scanner.digest(), scanner.len());
        return Ok(Sealed { file, digest, bytes, chunks: end.chunks, events: end.events, duration: end.duration() });
    }
    scanner.reset(last_whole);
    let no_key = || ReadError::damaged(0, Reason::Decrypt);
    let mut chain = scanner.into_chain(walk.index, walk.events).ok_or_else(no_key)?;
    let io = |error| ReadError::io(path, error);
    let mut out = OpenOptions::new().append(true).open(path).map_err(io)?;
    out.set_len(chain.offset()).map_err(io)?;
    let bytes = chain.finish(walk.time_us, true).map_err(|error| io(std::io::Error::other(error)))?;
    out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(io)?;
    Ok(Sealed {
        file,
        digest: chain.digest(),
        bytes: chain.offset(),
        chunks: chain.chunks(),
        events: chain.events(),
        duration: Duration::from_micros(walk.time_us),
    })
}

/// What a killed writer leaves: the beginning of one frame, shorter than any frame may be.
fn is_torn(error: &VerifyError, len: u64) -> bool {
    matches!(error.reason, Reason::Truncated(_)) && len.saturating_sub(error.offset) < MAX_FRAME_BODY as u64
}

/// Day directory and file name.
fn relative(path: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match path.parent() {
        Some(day) => format!("{}/{}", name(day), name(path)),
        None => name(path),
    }
}

fn open(path: &Path, key: Option<&MasterKey>) -> Result<Scanner, VerifyError> {
    let file = File::open(path).map_err(|error| io_fault(&error))?;
    Scanner::open(file, key).map(|(scanner, _)| scanner)
}

fn io_fault(error: &std::io::Error) -> VerifyError {
    VerifyError { offset: 0, reason: Reason::Io(error.to_string()) }
}

fn started(scanner: &Scanner) -> Result<DateTime<Utc>, VerifyError> {
    scanner.public().started().map_err(|reason| VerifyError { offset: 0, reason })
}

fn no_more(scanner: &Scanner) -> Result<(), VerifyError> {
    match scanner.len().saturating_sub(scanner.offset()) {
        0 => Ok(()),
        more => Err(VerifyError { offset: scanner.offset(), reason: Reason::TrailingBytes(more) }),
    }
}

fn check_digest(scanner: &Scanner, expected: Option<Hash>) -> Result<(), VerifyError> {
    match expected {
        Some(expected) if expected != scanner.digest() => {
            Err(VerifyError { offset: scanner.len().saturating_sub(expected.len() as u64), reason: Reason::Digest })
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Data,
    Indexed,
    Ended,
}

/// What was seen so far, to be compared with what index and end say.
struct Walk {
    stage: Stage,
    index: Index,
    index_offset: u64,
    events: u64,
    time_us: u64,
    end: Option<End>,
}

impl Default for Walk {
    fn default() -> Self {
        Self { stage: Stage::Data, index: Index::new(), index_offset: 0, events: 0, time_us: 0, end: None }
    }
}

impl Walk {
    /// Frames come in one order only: data, index, end.
    fn step(&mut self, kind: FrameKind) -> Result<(), Reason> {
        self.stage = match (self.stage, kind) {
            (Stage::Data, FrameKind::Data | FrameKind::Unknown) => Stage::Data,
            (Stage::Data, FrameKind::Index) => Stage::Indexed,
            (Stage::Indexed, FrameKind::End) => Stage::Ended,
            _ => return Err(Reason::Mismatch("order of frames")),
        };
        Ok(())
    }

    fn chunk(&mut self, head: &ChunkHead, mut records: Bytes, offset: u64) -> Result<(), Reason> {
        if head.first != self.events || head.base_us < self.time_us {
            return Err(Reason::Mismatch("head of a chunk"));
        }
        self.index.push(IndexEntry { first: head.first, base_us: head.base_us, offset });
        self.time_us = head.base_us;
        for _ in 0..head.records {
            let (dt, _) = take_record(&mut records).ok_or(Reason::Frame("event record"))?;
            self.time_us = self.time_us.checked_add(dt).ok_or(Reason::Frame("time of an event"))?;
            self.events += 1;
        }
        if records.is_empty() { Ok(()) } else { Err(Reason::Mismatch("number of event records")) }
    }

    fn index(&mut self, plain: &[u8], offset: u64) -> Result<(), Reason> {
        let mut seen = Vec::new();
        self.index.encode(&mut seen);
        self.index_offset = offset;
        if seen == plain { Ok(()) } else { Err(Reason::Mismatch("index")) }
    }

    fn end(&mut self, plain: &[u8]) -> Result<(), Reason> {
        let end = End::decode(plain).ok_or(Reason::Frame("end"))?;
        let seen = End {
            interrupted: end.interrupted,
            index_offset: self.index_offset,
            chunks: self.index.chunks(),
            events: self.events,
            duration_us: self.time_us,
        };
        if end != seen {
            return Err(Reason::Mismatch("totals"));
        }
        self.end = Some(end);
        Ok(())
    }
}
