//! What the ledger holds. Every audit log (login, operation, session, command, file, password change) is a view over
//! entries of these kinds; the body of an entry is the row that the view shows.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The kind of an entry. The number is the stored form and never changes meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum LedgerKind {
    /// Start, stop, seal method, key events, faults of the box itself.
    System = 1,
    /// A login to Gatehouse, successful or not (U10).
    Login = 2,
    /// A change or an audited read by a person through any door (U11).
    Operate = 3,
    /// A password of a Gatehouse user changed (U12).
    PasswordChange = 4,
    SessionStart = 5,
    /// Carries the digest and the length of the sealed recording.
    SessionEnd = 6,
    /// Pause, resume, kill, watch, share: what was done to a running session.
    SessionEvent = 7,
    Command = 8,
    FileTransfer = 9,
    Ticket = 10,
    Job = 11,
    /// Left in place of segments that retention removed.
    Tombstone = 12,
}

impl LedgerKind {
    pub const ALL: [Self; 12] = [
        Self::System,
        Self::Login,
        Self::Operate,
        Self::PasswordChange,
        Self::SessionStart,
        Self::SessionEnd,
        Self::SessionEvent,
        Self::Command,
        Self::FileTransfer,
        Self::Ticket,
        Self::Job,
        Self::Tombstone,
    ];

    pub fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| *k as u8 == n)
    }
}

/// One audit entry. The ledger adds sequence number, chain hash and encryption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// UUIDv7, given by the writer, so that a row can be fetched by id and a retry does not write twice.
    pub id: Uuid,
    pub at: DateTime<Utc>,
    /// The organization whose auditors see it; nil for what concerns the whole system.
    pub org: Uuid,
    pub kind: LedgerKind,
    /// Who did it; `None` for the system itself and for unknown users.
    pub actor: Option<Uuid>,
    /// The objects concerned (session, asset, user, account...): activity logs and per-session lists are found by them.
    pub refs: Vec<Uuid>,
    /// The row as the view shows it. Never holds a secret.
    pub body: Value,
}

impl LedgerEntry {
    pub fn new(id: Uuid, at: DateTime<Utc>, org: Uuid, kind: LedgerKind, body: Value) -> Self {
        Self { id, at, org, kind, actor: None, refs: Vec::new(), body }
    }

    #[must_use]
    pub fn actor(mut self, user: Uuid) -> Self {
        self.actor = Some(user);
        self
    }

    #[must_use]
    pub fn refs(mut self, refs: impl IntoIterator<Item = Uuid>) -> Self {
        self.refs.extend(refs);
        self
    }
}
