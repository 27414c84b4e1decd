//! Rows of the audit views that a session writes, filled from what the session knows of itself. What must not be here:
//! when they are written.

use chrono::{DateTime, Utc};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::session::{CommandConfidence, CommandRow, FileOperation, FileRow, RiskLevel, Session};
use serde_json::Value;
use uuid::Uuid;

/// A command as the gate saw it, before the session's facts are added.
pub(crate) struct CommandDraft {
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) output_cut: bool,
    pub(crate) risk: RiskLevel,
    pub(crate) confidence: CommandConfidence,
    pub(crate) filter: Option<Uuid>,
    pub(crate) group: Option<Uuid>,
    pub(crate) at: DateTime<Utc>,
    pub(crate) offset_ms: u64,
    pub(crate) position: u64,
}

/// A file operation as a gateway saw it; the session adds who and where.
#[derive(Debug, Clone)]
pub struct FileDraft {
    /// The row's id, and that of the kept content if any. `Uuid::now_v7()` when nothing was kept.
    pub id: Uuid,
    pub operate: FileOperation,
    /// Path on the asset, in full.
    pub filename: String,
    /// Second path of rename and symlink; empty otherwise.
    pub target: String,
    pub is_success: bool,
    /// Why it failed or was refused; empty on success.
    pub reason: String,
    pub date_start: DateTime<Utc>,
    /// Bytes that passed.
    pub size: u64,
    /// Hex SHA-256 of the bytes that passed; empty when they did not pass in order from the first to the last.
    pub sha256: String,
    /// The content is in the file keeper under `id`.
    pub has_file: bool,
}

impl FileDraft {
    /// A successful operation on `filename` without content.
    pub fn new(operate: FileOperation, filename: impl Into<String>, at: DateTime<Utc>) -> Self {
        Self {
            id: Uuid::now_v7(),
            operate,
            filename: filename.into(),
            target: String::new(),
            is_success: true,
            reason: String::new(),
            date_start: at,
            size: 0,
            sha256: String::new(),
            has_file: false,
        }
    }

    /// The same operation, failed or refused.
    #[must_use]
    pub fn failed(mut self, reason: impl Into<String>) -> Self {
        self.is_success = false;
        self.reason = reason.into();
        self
    }
}

pub(crate) fn file_row(session: &Session, draft: FileDraft) -> FileRow {
    FileRow {
        id: draft.id,
        org_id: session.org_id,
        session: session.id,
        user: session.user.clone(),
        user_id: session.user_id,
        asset: session.asset.clone(),
        asset_id: session.asset_id,
        account: session.account.clone(),
        account_id: session.account_id,
        remote_addr: session.remote_addr.clone(),
        operate: draft.operate,
        filename: draft.filename,
        target: draft.target,
        is_success: draft.is_success,
        reason: draft.reason,
        date_start: draft.date_start,
        size: draft.size,
        sha256: draft.sha256,
        has_file: draft.has_file,
    }
}

pub(crate) fn command_row(session: &Session, draft: CommandDraft) -> CommandRow {
    CommandRow {
        id: Uuid::now_v7(),
        org_id: session.org_id,
        session: session.id,
        user: session.user.clone(),
        user_id: session.user_id,
        asset: session.asset.clone(),
        asset_id: session.asset_id,
        account: session.account.clone(),
        account_id: session.account_id,
        input: draft.input,
        output: draft.output,
        output_cut: draft.output_cut,
        risk_level: draft.risk,
        confidence: draft.confidence,
        cmd_filter: draft.filter,
        cmd_group: draft.group,
        remote_addr: session.remote_addr.clone(),
        timestamp: draft.at,
        offset_ms: draft.offset_ms,
        position: draft.position,
    }
}

/// An entry about a session: its user is the actor, and session, user, asset and account find it again.
pub(crate) fn entry(session: &Session, id: Uuid, at: DateTime<Utc>, kind: LedgerKind, body: Value) -> LedgerEntry {
    let account = (!session.account_id.is_nil()).then_some(session.account_id);
    LedgerEntry::new(id, at, session.org_id, kind, body)
        .actor(session.user_id)
        .refs([session.id, session.user_id, session.asset_id])
        .refs(account)
}

/// Rows are plain data that always has a JSON form; if one ever had not, the audit must say so rather than go on.
pub(crate) fn body<T: serde::Serialize>(row: &T) -> Result<Value, serde_json::Error> {
    serde_json::to_value(row)
}
