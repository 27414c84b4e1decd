//! The directory of recordings as a whole: where files are, how much room they take, removing them.
//!
//! What lives here: paths, usage, quota accounting. What must not: what is inside the files, and when to remove them.

use crate::error::RecordError;
use chrono::{DateTime, NaiveDate, Utc};
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use uuid::Uuid;

/// Extension of session recordings.
pub(crate) const RECORDING: &str = "ghr";
/// Extension of the kept content of transferred files.
pub(crate) const KEPT_FILE: &str = "ghf";

/// What a directory of recordings holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes in all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
}

/// One file of a directory of recordings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The session (or the kept file's id).
    pub session: Uuid,
    /// Day of the start, UTC.
    pub day: NaiveDate,
    /// Path relative to the directory.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Last write.
    pub modified: SystemTime,
}

pub(crate) fn create_root(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub(crate) fn relative(started: DateTime<Utc>, session: Uuid, extension: &str) -> String {
    format!("{}/{session}.{extension}", started.format("%Y-%m-%d"))
}

/// All recordings and kept files below `dir`, oldest day first (what retention wants). Files with other names are
/// not ours and are left out.
///
/// # Errors
/// If the directory cannot be listed; a directory that does not exist is empty.
pub fn list(dir: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for (day, path) in days(dir)? {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((session, extension)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            let Ok(session) = Uuid::try_parse(session) else { continue };
            if extension != RECORDING && extension != KEPT_FILE {
                continue;
            }
            match entry.metadata() {
                Ok(meta) if meta.is_file() => {
                    let file = format!("{}/{session}.{extension}", day.format("%Y-%m-%d"));
                    found.push(Found { session, day, file, bytes: meta.len(), modified: meta.modified()? });
                }
                Ok(_) => {}
                // Removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// Room that recordings and kept files below `dir` take.
///
/// # Errors
/// As [`list`].
pub fn usage(dir: &Path) -> io::Result<Usage> {
    Ok(list(dir)?.iter().fold(Usage::default(), |sum, found| Usage {
        bytes: sum.bytes.saturating_add(found.bytes),
        files: sum.files + 1,
    }))
}

/// Finds the recording of a session.
///
/// # Errors
/// If the directory cannot be listed.
pub fn locate(dir: &Path, session: Uuid) -> io::Result<Option<PathBuf>> {
    locate_as(dir, session, RECORDING)
}

pub(crate) fn locate_as(dir: &Path, session: Uuid, extension: &str) -> io::Result<Option<PathBuf>> {
    let name = format!("{session}.{extension}");
    // Newest day first: that is where people look.
    Ok(days(dir)?.into_iter().rev().map(|(_, path)| path.join(&name)).find(|path| path.is_file()))
}

/// Removes the recording of a session, and its day's directory when that is empty then. Returns the bytes freed, 0 if
/// there was none. A pool that is running must be asked instead ([`crate::RecorderPool::remove`]).
///
/// # Errors
/// If the file is there and cannot be removed.
pub fn remove(dir: &Path, session: Uuid) -> io::Result<u64> {
    remove_as(dir, session, RECORDING)
}

pub(crate) fn remove_as(dir: &Path, session: Uuid, extension: &str) -> io::Result<u64> {
    let Some(path) = locate_as(dir, session, extension)? else { return Ok(0) };
    let bytes = fs::metadata(&path)?.len();
    fs::remove_file(&path)?;
    if let Some(day) = path.parent() {
        match fs::remove_dir(day) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn days(dir: &Path) -> io::Result<Vec<(NaiveDate, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut days = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let day = name.to_str().and_then(|name| NaiveDate::parse_from_str(name, "%Y-%m-%d").ok());
        if let Some(day) = day
            && entry.file_type()?.is_dir()
        {
            days.push((day, entry.path()));
        }
    }
    days.sort();
    Ok(days)
}

/// Bytes in use against the quota.
pub(crate) struct Space {
    used: AtomicU64,
    quota: Option<u64>,
}

impl Space {
    pub(crate) fn new(quota: Option<u64>) -> Self {
        Self { used: AtomicU64::new(0), quota }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, bytes: u64) {
        let _previous =
            self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    /// May a recording start?
    pub(crate) fn check_new(&self) -> Result<(), RecordError> {
        self.check(0)
    }

    /// May a running recording go on? An eighth beyond the quota is allowed, so that what fills the disk is refused
    /// before what is running is cut off.
    pub(crate) fn check_running(&self) -> Result<(), RecordError> {
        self.check(self.quota.unwrap_or(0) / 8)
    }

    fn check(&self, grace: u64) -> Result<(), RecordError> {
        match (self.quota, self.used()) {
            (Some(quota), used) if used >= quota.saturating_add(grace) => {
                Err(RecordError::QuotaExceeded { used, quota })
            }
            _ => Ok(()),
        }
    }

    /// Adds what was there before `since`; what is newer was counted when it was written.
    pub(crate) fn count_existing(&self, dir: &Path, since: SystemTime) {
        match list(dir) {
            Ok(found) => self.add(found.iter().filter(|found| found.modified < since).map(|found| found.bytes).sum()),
            Err(error) => tracing::warn!(%error, "cannot count the recordings that are there"),
        }
    }
}
