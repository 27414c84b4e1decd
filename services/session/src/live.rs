//! The sessions that run now, and what auditors do to them: list, watch, pause, resume, end. What must not be here:
//! whether the auditor may (that is a permission of the API), and how a session moves bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::session::Session;
use gatehouse_model::user::User;
use gatehouse_store::Store;
use parking_lot::RwLock;
use serde_json::json;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::core::{Clock, SessionError};
use crate::handle::{Control, Shared};
use crate::rows;

/// A running session as a list shows it.
#[derive(Debug, Clone)]
pub struct LiveSession {
    /// The row as it was written at the start, with what has passed so far.
    pub session: Session,
    pub paused: bool,
    /// Time without input.
    pub idle: Duration,
    /// Terminal size; `None` when there is no terminal to watch (SFTP, tunnels).
    pub size: Option<(u16, u16)>,
}

/// One thing that a watcher sees. Times count from the session's start, as in the recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchFrame {
    /// Always first: escape sequences that draw the screen as it is now on an empty terminal of this size.
    Screen {
        at: Duration,
        cols: u16,
        rows: u16,
        screen: String,
    },
    /// The watcher was too slow and missed output; the screen as it is now.
    Skipped {
        at: Duration,
        cols: u16,
        rows: u16,
        screen: String,
    },
    /// Bytes as the user's terminal gets them.
    Output {
        at: Duration,
        data: Bytes,
    },
    Resize {
        at: Duration,
        cols: u16,
        rows: u16,
    },
    Paused {
        at: Duration,
        by: String,
    },
    Resumed {
        at: Duration,
        by: String,
    },
    /// Always last, unless the watcher lagged to the end.
    Ended {
        at: Duration,
        reason: String,
    },
}

/// A watcher's end. Dropping it ends the watching; the session does not notice.
pub struct Watch {
    session: Uuid,
    frames: mpsc::Receiver<WatchFrame>,
}

impl Watch {
    pub fn session(&self) -> Uuid {
        self.session
    }

    /// The next frame; `None` after the session ended.
    pub async fn next(&mut self) -> Option<WatchFrame> {
        self.frames.recv().await
    }
}

/// The registry of running sessions. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    sessions: Arc<RwLock<HashMap<Uuid, Arc<Shared>>>>,
    store: Store,
    clock: Clock,
}

impl Live {
    pub(crate) fn new(store: Store, clock: Clock) -> Self {
        Self { sessions: Arc::default(), store, clock }
    }

    pub(crate) fn add(&self, session: Arc<Shared>) {
        self.sessions.write().insert(session.id(), session);
    }

    pub(crate) fn remove(&self, id: Uuid) {
        self.sessions.write().remove(&id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Shared>> {
        self.sessions.read().values().cloned().collect()
    }

    /// How many sessions run.
    pub fn count(&self) -> usize {
        self.sessions.read().len()
    }

    /// The running sessions of an organization (`None`: of all), oldest first.
    pub fn list(&self, org: Option<Uuid>) -> Vec<LiveSession> {
        let mut list: Vec<LiveSession> = self
            .sessions
            .read()
            .values()
            .filter(|s| org.is_none_or(|org| s.facts().org_id == org))
            .map(|s| s.describe())
            .collect();
        // Ids are UUIDv7: their order is that of the starts.
        list.sort_by_key(|s| s.session.id);
        list
    }

    /// One running session of an organization (`None`: of any).
    pub fn get(&self, org: Option<Uuid>, id: Uuid) -> Option<LiveSession> {
        self.find(org, id).ok().map(|s| s.describe())
    }

    fn find(&self, org: Option<Uuid>, id: Uuid) -> Result<Arc<Shared>, SessionError> {
        let found = self.sessions.read().get(&id).filter(|s| org.is_none_or(|org| s.facts().org_id == org)).cloned();
        // A session of another organization is as absent as one that ended.
        found.ok_or(SessionError::NotLive)
    }

    /// Watches a session. The ledger says who did before the first frame is given out.
    ///
    /// # Errors
    /// [`SessionError::NotLive`] for a session that ended or is of another organization,
    /// [`SessionError::NothingToWatch`] when it has no terminal, or a ledger that cannot be written.
    pub async fn watch(&self, org: Option<Uuid>, id: Uuid, by: &User, from: &str) -> Result<Watch, SessionError> {
        let session = self.find(org, id)?;
        if !session.has_terminal() {
            return Err(SessionError::NothingToWatch);
        }
        self.note(&session, "watch", by, from, "").await?;
        let frames = session.watch()?;
        Ok(Watch { session: id, frames })
    }

    /// Blocks the user's input; output goes on.
    ///
    /// # Errors
    /// As [`Live::watch`]. When only the ledger fails the session is paused nevertheless.
    pub async fn pause(&self, org: Option<Uuid>, id: Uuid, by: &User, from: &str) -> Result<(), SessionError> {
        let session = self.find(org, id)?;
        session.pause(&by.display()).await;
        self.note(&session, "pause", by, from, "").await
    }

    /// Lets input through again.
    ///
    /// # Errors
    /// As [`Live::pause`].
    pub async fn resume(&self, org: Option<Uuid>, id: Uuid, by: &User, from: &str) -> Result<(), SessionError> {
        let session = self.find(org, id)?;
        session.resume(&by.display()).await;
        self.note(&session, "resume", by, from, "").await
    }

    /// Ends a session at once.
    ///
    /// # Errors
    /// As [`Live::pause`].
    pub async fn kill(
        &self,
        org: Option<Uuid>,
        id: Uuid,
        by: &User,
        from: &str,
        reason: &str,
    ) -> Result<(), SessionError> {
        let session = self.find(org, id)?;
        session.kill(Some(by.display()), if reason.is_empty() { "ended by an administrator" } else { reason });
        self.note(&session, "kill", by, from, reason).await
    }

    /// What was done to a session, by whom.
    async fn note(&self, s: &Arc<Shared>, what: &str, by: &User, from: &str, text: &str) -> Result<(), SessionError> {
        let now: DateTime<Utc> = (self.clock)();
        let session = s.facts();
        let body = json!({
            "event": what,
            "session": session.id,
            "user": by.display(),
            "user_id": by.id,
            "remote_addr": from,
            "session_user": session.user,
            "asset": session.asset,
            "account": session.account,
            "reason": text,
            "datetime": now,
        });
        let entry =
            rows::entry(session, Uuid::now_v7(), now, LedgerKind::SessionEvent, body).refs([by.id]).actor(by.id);
        self.store.append(entry).await.map_err(SessionError::Store)
    }
}

impl Shared {
    fn describe(&self) -> LiveSession {
        LiveSession {
            session: self.row_now(),
            paused: matches!(*self.control().borrow(), Control::Paused { .. }),
            idle: self.idle(),
            size: self.has_terminal().then(|| self.size()),
        }
    }
}
