//! The relay between a user's SFTP client and the assets behind it: requests are checked against the grant and the root,
//! passed on, and what they did is written down. Data is passed on without being copied; answers go through in the order
//! in which the asset gives them.
//!
//! Two kinds of tasks share a `Relay`: one takes the user's requests, and one per asset takes its answers. Neither waits
//! for the other's reader, so a slow side slows only its own sender.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gatehouse_model::session::FileOperation;
use gatehouse_session::{FileDraft, Stop};
use parking_lot::Mutex;

use super::mount::{Mount, SftpError};
use super::packet::{Broken, status, status_packet};
use super::path::shown;
use super::transfer::Transfer;
use super::view::View;
use crate::user::{Gone, UserWriter};

/// Files and folders one connection may have open.
pub(super) const MAX_HANDLES: usize = 512;

/// Why a relay ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error(transparent)]
    User(#[from] Gone),
    #[error("{0}")]
    Client(#[from] Broken),
    #[error(transparent)]
    Asset(#[from] SftpError),
    #[error("{}", .0.reason)]
    Stopped(Stop),
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

/// A file that is being opened.
pub(crate) struct Opening {
    pub(super) path: Vec<u8>,
    pub(super) flags: u32,
    pub(super) began: DateTime<Utc>,
}

/// Something open under a handle.
pub(super) enum Open {
    File(Arc<OpenFile>),
    Folder {
        mount: Arc<Mount>,
        theirs: Bytes,
    },
    /// A folder of the gateway's own: what is still to be listed.
    Listing(Vec<String>),
}

pub(super) struct OpenFile {
    pub(super) mount: Arc<Mount>,
    /// The asset's handle.
    pub(super) theirs: Bytes,
    pub(super) opening: Opening,
    pub(super) up: tokio::sync::Mutex<Option<Transfer>>,
    pub(super) down: tokio::sync::Mutex<Option<Transfer>>,
    /// The first error that the asset answered to a write.
    pub(super) failed: Mutex<Option<String>>,
}

pub(crate) struct Relay {
    pub(super) user: tokio::sync::Mutex<UserWriter>,
    pub(crate) view: View,
    pub(super) open: Mutex<HashMap<u32, Open>>,
    next_handle: AtomicU32,
}

pub(super) type Step = Result<(), End>;

impl Relay {
    pub(crate) fn new(user: UserWriter, view: View) -> Self {
        Self {
            user: tokio::sync::Mutex::new(user),
            view,
            open: Mutex::new(HashMap::new()),
            next_handle: AtomicU32::new(1),
        }
    }

    pub(crate) async fn hang_up(&self) {
        let user = self.user.lock().await;
        let _ = user.exit_status(0).await;
        let _ = user.eof().await;
        user.close().await;
    }

    pub(super) async fn say(&self, packet: Bytes) -> Step {
        Ok(self.user.lock().await.data(packet).await?)
    }

    pub(super) async fn say_status(&self, id: u32, code: u32, message: &str) -> Step {
        self.say(status_packet(id, code, message)).await
    }

    pub(super) async fn denied(&self, id: u32, message: &str) -> Step {
        self.say_status(id, status::PERMISSION_DENIED, message).await
    }

    pub(super) async fn bad_handle(&self, id: u32) -> Step {
        self.say_status(id, status::FAILURE, "this handle is not open").await
    }

    pub(super) fn keep(&self, what: Open) -> Option<u32> {
        let mut open = self.open.lock();
        if open.len() >= MAX_HANDLES {
            return None;
        }
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        open.insert(handle, what);
        Some(handle)
    }
}

/// Marks an `Opening` of a folder among the flags of files, which use the lowest bits only.
pub(super) const FOLDER: u32 = u32::MAX;
impl Opening {
    pub(super) fn draft(&self, changes: bool) -> FileDraft {
        let operate = if changes { FileOperation::Upload } else { FileOperation::Download };
        FileDraft::new(operate, shown(&self.path), self.began)
    }
}

/// The transfer of one direction, begun with its first byte.
pub(super) async fn transfer<'a>(file: &OpenFile, slot: &'a mut Option<Transfer>) -> &'a mut Transfer {
    if slot.is_none() {
        *slot = Some(Transfer::begin(&file.mount.session, file.mount.keep).await);
    }
    slot.get_or_insert_with(Transfer::empty)
}

pub(super) fn keep_failed(why: &str) -> End {
    End::Stopped(Stop { reason: format!("the transferred content cannot be kept: {why}") })
}

pub(super) fn number(handle: &[u8]) -> Option<u32> {
    handle.try_into().ok().map(u32::from_be_bytes)
}
