//! A running session: every byte passes here on its way, and every order (pause, resume, end) arrives here. What must not
//! be here: protocols, and why a session is ended by rule (that is `warden`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::session::{Replay, Session, SessionError as RowError};
use gatehouse_record::{Event, RecordError, Recorder};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::core::{Core, SessionError};
use crate::live::WatchFrame;
use crate::rows::{self, CommandDraft, FileDraft};
use crate::screen::Screen;
use crate::warden::Watched;

/// What a session must do now. Doors look at it whenever they move something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    Running,
    /// The user's input is not passed on; output is.
    Paused {
        /// Who paused it, `Name(username)`.
        by: String,
    },
    /// Close at once.
    Killed {
        /// Who ended it; `None` for a rule or a fault.
        by: Option<String>,
        /// A sentence for the user.
        reason: String,
    },
}

/// The session must end now; the sentence is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Stop {
    pub reason: String,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// A sentence: what auditors read in the row.
    pub reason: String,
    /// Set when it never worked.
    pub error: Option<RowError>,
}

impl Ending {
    /// The user or the asset ended it.
    pub fn normal(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), error: None }
    }

    /// The asset could not be reached or refused the account.
    pub fn connect_failed(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), error: Some(RowError::ConnectFailed) }
    }
}

/// What a session shares with the registry, the warden and the audit queue.
pub(crate) struct Shared {
    facts: Session,
    started: Instant,
    control: watch::Sender<Control>,
    recorder: Recorder,
    screen: Mutex<Screen>,
    terminal: bool,
    /// Milliseconds since the start.
    last_active: AtomicU64,
    size: AtomicU32,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    commands: AtomicU64,
    closing: AtomicBool,
    pub(crate) watched: Watched,
}

impl Shared {
    pub(crate) fn new(
        facts: Session,
        recorder: Recorder,
        (cols, rows): (u16, u16),
        terminal: bool,
        watched: Watched,
    ) -> Self {
        Self {
            facts,
            started: Instant::now(),
            control: watch::Sender::new(Control::Running),
            recorder,
            screen: Mutex::new(Screen::new(cols, rows)),
            terminal,
            last_active: AtomicU64::new(0),
            size: AtomicU32::new(pack(cols, rows)),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            watched,
        }
    }

    pub(crate) fn id(&self) -> Uuid {
        self.facts.id
    }

    pub(crate) fn facts(&self) -> &Session {
        &self.facts
    }

    pub(crate) fn has_terminal(&self) -> bool {
        self.terminal
    }

    pub(crate) fn control(&self) -> watch::Receiver<Control> {
        self.control.subscribe()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn size(&self) -> (u16, u16) {
        unpack(self.size.load(Ordering::Relaxed))
    }

    pub(crate) fn idle(&self) -> Duration {
        self.elapsed().saturating_sub(Duration::from_millis(self.last_active.load(Ordering::Relaxed)))
    }

    fn touch(&self) {
        self.last_active.store(millis(self.elapsed()), Ordering::Relaxed);
    }

    pub(crate) fn row_now(&self) -> Session {
        let commands = self.commands.load(Ordering::Relaxed);
        Session {
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            cmd_amount: commands,
            has_command: commands > 0,
            ..self.facts.clone()
        }
    }

    pub(crate) fn kill(&self, by: Option<String>, reason: &str) {
        self.control.send_if_modified(|now| {
            // The first reason stays: it is what really ended the session.
            if matches!(now, Control::Killed { .. }) {
                return false;
            }
            *now = Control::Killed { by, reason: reason.to_owned() };
            true
        });
    }

    /// A fault of ours ends the session: it must not go on unrecorded or unaudited.
    pub(crate) fn fail(&self, reason: &str) {
        self.kill(None, reason);
    }

    pub(crate) async fn pause(&self, by: &str) {
        let changed = self.control.send_if_modified(|now| {
            let running = *now == Control::Running;
            if running {
                *now = Control::Paused { by: by.to_owned() };
            }
            running
        });
        if changed {
            let at = self.elapsed();
            self.screen.lock().send(at, &WatchFrame::Paused { at, by: by.to_owned() });
            self.mark(Event::Pause).await;
        }
    }

    pub(crate) async fn resume(&self, by: &str) {
        let changed = self.control.send_if_modified(|now| {
            let paused = matches!(now, Control::Paused { .. });
            if paused {
                *now = Control::Running;
            }
            paused
        });
        if changed {
            // Waiting for an auditor is not the user's idleness.
            self.touch();
            let at = self.elapsed();
            self.screen.lock().send(at, &WatchFrame::Resumed { at, by: by.to_owned() });
            self.mark(Event::Resume).await;
        }
    }

    /// Records something without a caller who could be told of a failure: a failure ends the session.
    async fn mark(&self, event: Event) {
        if let Err(error) = self.recorder.write(self.elapsed(), event).await
            && error != RecordError::Closed
        {
            self.unrecordable(&error);
        }
    }

    fn unrecordable(&self, error: &RecordError) {
        tracing::error!(session = %self.facts.id, %error, "a session ends because it cannot be recorded");
        self.fail("this session cannot be recorded any more, so it ends here");
    }

    pub(crate) fn watch(&self) -> Result<mpsc::Receiver<WatchFrame>, SessionError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(SessionError::NotLive);
        }
        self.screen.lock().watch(self.elapsed()).ok_or(SessionError::TooManyWatchers)
    }

    /// For watchers that lagged when nothing more is shown.
    pub(crate) fn refresh_watchers(&self) {
        let at = self.elapsed();
        self.screen.lock().catch_up(at);
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

const fn pack(cols: u16, rows: u16) -> u32 {
    (cols as u32) << 16 | rows as u32
}

fn unpack(size: u32) -> (u16, u16) {
    let [a, b, c, d] = size.to_be_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// A door's hold on its session. Cheap to clone; when the last clone goes without [`SessionHandle::close`] (a panic in a
/// door), the session is closed all the same, with a reason that says so.
#[derive(Clone)]
pub struct SessionHandle {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    core: Core,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.shared.closing.load(Ordering::Acquire) {
            return;
        }
        let (shared, core) = (Arc::clone(&self.shared), self.core.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                finish(&core, &shared, Ending::normal("the connection ended unexpectedly")).await;
            });
        }
    }
}

impl SessionHandle {
    pub(crate) fn new(shared: Arc<Shared>, core: Core) -> Self {
        Self { owner: Arc::new(Owner { shared, core }) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    pub(crate) fn core(&self) -> &Core {
        &self.owner.core
    }

    pub fn id(&self) -> Uuid {
        self.shared().id()
    }

    /// The row as it was written at the start.
    pub fn facts(&self) -> &Session {
        self.shared().facts()
    }

    /// Time since the start, as in the recording.
    pub fn elapsed(&self) -> Duration {
        self.shared().elapsed()
    }

    /// What the session must do now; changes wake the receiver.
    pub fn control(&self) -> watch::Receiver<Control> {
        self.shared().control()
    }

    /// `Err` once the session must end.
    ///
    /// # Errors
    /// [`Stop`] with the sentence for the user.
    pub fn check(&self) -> Result<(), Stop> {
        match &*self.shared().control.borrow() {
            Control::Killed { reason, .. } => Err(Stop { reason: reason.clone() }),
            Control::Running | Control::Paused { .. } => Ok(()),
        }
    }

    pub fn is_paused(&self) -> bool {
        matches!(*self.shared().control.borrow(), Control::Paused { .. })
    }

    /// Resolves when the session must end, with the sentence for the user. May be dropped and asked again.
    pub async fn killed(&self) -> Stop {
        let mut control = self.control();
        loop {
            if let Control::Killed { reason, .. } = &*control.borrow_and_update() {
                return Stop { reason: reason.clone() };
            }
            if control.changed().await.is_err() {
                // The sender lives in `shared`, which we hold.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Bytes on their way to the user. They are in the recording's queue when this returns (waiting while the disk is
    /// slower than the session), and with everybody who watches and keeps up. Only then they may be shown.
    ///
    /// # Errors
    /// [`Stop`] when the session must end: it was killed, or it cannot be recorded.
    pub async fn output(&self, data: &Bytes) -> Result<(), Stop> {
        self.check()?;
        let shared = self.shared();
        shared.bytes_out.fetch_add(data.len() as u64, Ordering::Relaxed);
        let at = shared.elapsed();
        if let Err(error) = shared.recorder.write(at, Event::Output(data.clone())).await {
            shared.unrecordable(&error);
            return self.check();
        }
        if shared.terminal {
            shared.screen.lock().output(at, data);
        } else {
            shared.touch();
        }
        Ok(())
    }

    /// The user typed on a terminal. Keystrokes are not recorded one by one, because passwords are typed at prompts
    /// that nobody can tell for sure; what they did is in the output and in the command rows.
    pub fn typed(&self, bytes: usize) {
        let shared = self.shared();
        shared.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        shared.touch();
    }

    /// Bytes from the user that are data (standard input of a command): recorded like output.
    ///
    /// # Errors
    /// As [`SessionHandle::output`].
    pub async fn input(&self, data: &Bytes) -> Result<(), Stop> {
        self.check()?;
        let shared = self.shared();
        self.typed(data.len());
        if let Err(error) = shared.recorder.write(shared.elapsed(), Event::Input(data.clone())).await {
            shared.unrecordable(&error);
            return self.check();
        }
        Ok(())
    }

    /// Bytes that passed without being recorded one by one (SFTP, tunnels): counted, and the session is not idle.
    pub fn moved(&self, from_user: u64, to_user: u64) {
        let shared = self.shared();
        shared.bytes_in.fetch_add(from_user, Ordering::Relaxed);
        shared.bytes_out.fetch_add(to_user, Ordering::Relaxed);
        shared.touch();
    }

    /// The user's terminal has a new size.
    ///
    /// # Errors
    /// As [`SessionHandle::output`].
    pub async fn resize(&self, cols: u16, rows: u16) -> Result<(), Stop> {
        let shared = self.shared();
        shared.size.store(pack(cols, rows), Ordering::Relaxed);
        let at = shared.elapsed();
        shared.screen.lock().resize(at, cols, rows);
        shared.mark(Event::Resize { cols, rows }).await;
        self.check()
    }

    /// A mark in the recording, for players.
    ///
    /// # Errors
    /// As [`SessionHandle::output`].
    pub async fn marker(&self, text: impl Into<String>) -> Result<(), Stop> {
        self.shared().mark(Event::Marker(text.into())).await;
        self.check()
    }

    /// A file operation: its row goes to the ledger (lossless), and a mark into the recording.
    ///
    /// # Errors
    /// [`Stop`] when the session must end.
    pub async fn file_row(&self, draft: FileDraft) -> Result<(), Stop> {
        let row = rows::file_row(self.facts(), draft);
        let event =
            Event::File { id: row.id, op: row.operate.as_str().to_owned(), path: shorten(row.filename.clone()) };
        self.shared().mark(event).await;
        self.audit(row.id, LedgerKind::FileTransfer, rows::body(&row)).await
    }

    /// Bytes of a command's output that its row keeps.
    pub fn output_limit(&self) -> usize {
        usize::try_from(self.core().settings().command_output_limit).unwrap_or(64).saturating_mul(1024)
    }

    /// Position in the recording that the next event will have.
    pub fn position(&self) -> u64 {
        self.shared().recorder.position()
    }

    /// The file keeper for contents of transferred files (U09).
    pub fn files(&self) -> &gatehouse_record::FileKeeper {
        self.core().files()
    }

    /// A command: its mark in the recording is written at once (`mark_command`), its row when its output is known.
    pub(crate) async fn mark_command(&self, text: &str, risk: u8) -> Result<(), Stop> {
        let shared = self.shared();
        let index = shared.commands.fetch_add(1, Ordering::Relaxed);
        shared.mark(Event::Command { index, text: shorten(text.to_owned()), risk }).await;
        self.check()
    }

    pub(crate) async fn command_row(&self, draft: CommandDraft) -> Result<(), Stop> {
        let row = rows::command_row(self.facts(), draft);
        self.audit(row.id, LedgerKind::Command, rows::body(&row)).await
    }

    async fn audit(
        &self,
        id: Uuid,
        kind: LedgerKind,
        body: Result<serde_json::Value, serde_json::Error>,
    ) -> Result<(), Stop> {
        let shared = self.shared();
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(session = %shared.id(), %error, "an audit row has no stored form");
                shared.fail("the audit ledger cannot be written, so this session ends here");
                return self.check();
            }
        };
        let entry = rows::entry(&shared.facts, id, self.core().now(), kind, body);
        if self.core().auditor().push(entry, Arc::clone(shared)).await.is_err() {
            shared.fail("gatehouse is stopping");
        }
        self.check()
    }

    /// Ends the session: the recording is sealed, the row is written, and the ledger has the end with the recording's
    /// digest when this returns. Calling it again does nothing.
    pub async fn close(&self, ending: Ending) {
        finish(self.core(), self.shared(), ending).await;
    }
}

/// The largest text that a recording's event takes; the row in the ledger holds all of it.
fn shorten(mut text: String) -> String {
    let limit = gatehouse_record::MAX_TEXT / 2;
    if text.len() > limit {
        let cut = (0..=limit).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    text
}

async fn finish(core: &Core, shared: &Arc<Shared>, mut ending: Ending) {
    if shared.closing.swap(true, Ordering::AcqRel) {
        return;
    }
    let ended_by = match &*shared.control.borrow() {
        Control::Killed { by: Some(by), reason } => Some(format!("{reason} ({by})")),
        Control::Killed { by: None, reason } => Some(reason.clone()),
        Control::Running | Control::Paused { .. } => None,
    };
    if let Some(reason) = ended_by {
        ending.reason = reason;
    }
    shared.screen.lock().end(shared.elapsed(), &ending.reason);
    // Commands and files of the session come before its end. Its recording's seal does not depend on them: both reach the
    // disk at the same time, because the user's client waits for it.
    let (audited, sealed) = tokio::join!(core.auditor().flush(), shared.recorder.clone().close());
    if audited.is_err() {
        tracing::warn!(session = %shared.id(), "a session ends while the audit queue is closed");
    }
    let (replay, error) = match sealed {
        Ok(sealed) => (
            Some(Replay {
                file: sealed.file,
                digest: hex(&sealed.digest),
                size: sealed.bytes,
                duration_ms: millis(sealed.duration),
                complete: true,
            }),
            None,
        ),
        Err(error) => {
            tracing::error!(session = %shared.id(), %error, "a recording could not be sealed");
            (None, Some(RowError::ReplayCreateFailed))
        }
    };
    let row = Session {
        is_finished: true,
        is_success: ending.error.is_none(),
        has_replay: replay.is_some(),
        date_end: Some(core.now()),
        error_reason: ending.error.or(error),
        end_reason: ending.reason,
        replay,
        ..shared.row_now()
    };
    write_end(core, row).await;
    core.live().remove(shared.id());
}

/// The closed row and its ledger entry, in one change.
pub(crate) async fn write_end(core: &Core, row: Session) {
    let id = row.id;
    let now: DateTime<Utc> = core.now();
    let written = match rows::body(&row) {
        Ok(body) => {
            let mut batch = core.store().batch();
            batch.audit(rows::entry(&row, Uuid::now_v7(), now, LedgerKind::SessionEnd, body));
            batch.put(row);
            core.store().commit(batch).await.map_err(|e| e.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = written {
        // The row stays open in the store and is closed at the next start.
        tracing::error!(session = %id, error, "the end of a session could not be written");
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}
