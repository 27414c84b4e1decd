//! What can go wrong with recordings, in words for the person who reads the message.
//!
//! What lives here: the error types of the crate. What must not: decisions about what to do with them.

use std::io;
use std::path::Path;

/// Why a recording cannot be started or continued. It can be cloned because one failure is seen by every later write
/// and by everybody who waits on [`crate::Recorder::failed`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The operating system refused: disk full, input/output error, permissions.
    #[error("recording cannot be written ({action}): {message}; check the disk that holds the recordings")]
    Io {
        /// What was being done, for example `write a chunk`.
        action: &'static str,
        /// The kind, to tell a full disk from a broken one.
        kind: io::ErrorKind,
        /// The system's own words.
        message: String,
    },
    /// The space set aside for recordings is used up.
    #[error("recordings use {used} of {quota} bytes; remove old recordings or raise the quota")]
    QuotaExceeded {
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        quota: u64,
    },
    /// A recording of this session exists already; it is never overwritten.
    #[error("a recording of session {0} exists already; it is not overwritten")]
    Exists(uuid::Uuid),
    /// One event carries more text than a recording takes (see [`crate::MAX_TEXT`]).
    #[error("an event of {size} bytes is too large to record, the limit is {limit}")]
    EventTooLarge {
        /// Size of the event's payload in bytes.
        size: usize,
        /// Largest size in bytes.
        limit: usize,
    },
    /// The recording has been closed.
    #[error("the recording is closed")]
    Closed,
    /// A fault of this program; the recording is treated as lost from here on.
    #[error("recording failed inside gatehouse ({0}); please report this")]
    Internal(&'static str),
}

impl RecordError {
    pub(crate) fn io(action: &'static str, error: &io::Error) -> Self {
        Self::Io { action, kind: error.kind(), message: error.to_string() }
    }
}

/// Why a container cannot be opened or read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The operating system refused.
    #[error("cannot read recording {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The file is damaged, was changed, or belongs to another key.
    #[error("recording is damaged at byte {offset}: {reason}")]
    Damaged {
        /// Offset in the file of the first part that cannot be trusted.
        offset: u64,
        /// What is wrong there.
        reason: Reason,
    },
    /// Output of an export could not be written.
    #[error("cannot write the export: {0}")]
    Export(io::Error),
}

impl ReadError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.display().to_string(), source }
    }

    pub(crate) fn damaged(offset: u64, reason: Reason) -> Self {
        Self::Damaged { offset, reason }
    }
}

/// Why a container does not verify, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("verification failed at byte {offset}: {reason}")]
pub struct VerifyError {
    /// Offset in the file of the part (header, frame, end) in which the first fault was found.
    pub offset: u64,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong with a part of a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The file does not start like a container.
    #[error("this is not a gatehouse recording")]
    NotAContainer,
    /// The file was written by a newer version.
    #[error("format version {0} is not known to this version of gatehouse; update it")]
    Version(u16),
    /// The header's fields contradict each other.
    #[error("the header is malformed ({0})")]
    Header(&'static str),
    /// A frame's fields contradict each other.
    #[error("a frame is malformed ({0})")]
    Frame(&'static str),
    /// The hash chain does not continue here: bytes were changed, removed or inserted.
    #[error("the hash chain is broken: bytes here were changed, removed or inserted")]
    Chain,
    /// Decryption refused: wrong key, or bytes changed by somebody who mended the hash chain.
    #[error("decryption failed: the key is wrong or the bytes were changed")]
    Decrypt,
    /// Compressed data cannot be expanded within its declared size.
    #[error("compressed data is malformed")]
    Compression,
    /// The file ends in the middle of a part.
    #[error("the file ends in the middle of a {0}")]
    Truncated(&'static str),
    /// All parts are whole, but the recording was never closed: the daemon was killed, or the end was cut off.
    #[error("the recording was not sealed: it was interrupted, or its end was cut off")]
    NotSealed,
    /// There are bytes after the end.
    #[error("{0} bytes follow the end of the recording")]
    TrailingBytes(u64),
    /// The sealed totals or the index do not describe this file.
    #[error("the {0} does not match the content")]
    Mismatch(&'static str),
    /// The file is whole, but it is not the one that the ledger knows.
    #[error("the digest is not the expected one: the file was replaced as a whole")]
    Digest,
    /// The operating system refused to read.
    #[error("the file cannot be read: {0}")]
    Io(String),
}
