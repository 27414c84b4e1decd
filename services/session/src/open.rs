//! From leave to a running session: its record, its ledger entry and its recording exist before a single byte of the
//! asset is used. What must not be here: dialling.

use std::sync::Arc;

use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::session::{Session, SessionError as RowError};
use gatehouse_record::Header;
use uuid::Uuid;

use crate::admit::{Admission, asset_display};
use crate::core::{Core, SessionError};
use crate::handle::{SessionHandle, Shared, write_end};
use crate::lastlogin::Mark;
use crate::rows;
use crate::warden::Watched;

/// What the user's side of a session is like.
#[derive(Debug, Clone)]
pub struct OpenSpec {
    /// Columns and rows; 80x24 without a terminal.
    pub size: (u16, u16),
    /// Value of `TERM`; empty without a terminal.
    pub term: String,
    /// There is a terminal: it can be watched, and idleness counts from the last key.
    pub terminal: bool,
    /// For auditors, e.g. the command or where a tunnel leads.
    pub comment: String,
}

impl OpenSpec {
    /// A session without a terminal (exec without one, SFTP, tunnels).
    pub fn plain(comment: impl Into<String>) -> Self {
        Self { size: (80, 24), term: String::new(), terminal: false, comment: comment.into() }
    }

    /// A session with a terminal of this size.
    pub fn terminal(size: (u16, u16), term: impl Into<String>) -> Self {
        Self { size, term: term.into(), terminal: true, comment: String::new() }
    }
}

impl Core {
    /// Starts a session. It is in the store, in the ledger and recorded when this returns; dialling may run at the same
    /// time, but nothing that came of it may be used before.
    ///
    /// # Errors
    /// [`SessionError::Unrecordable`] and store errors: no recording or no ledger, no session.
    pub async fn open(&self, admission: &Admission, spec: OpenSpec) -> Result<SessionHandle, SessionError> {
        if self.is_draining() {
            return Err(SessionError::Draining);
        }
        let row = row(self, admission, &spec);
        let mut header = Header::term(row.id, row.org_id, spec.size.0, spec.size.1, spec.term);
        header.started = row.date_start;
        header.title = Some(format!("{} {} {}", row.user, row.asset, row.account));
        let entry = rows::entry(&row, Uuid::now_v7(), row.date_start, LedgerKind::SessionStart, rows::body(&row)?);
        let mut batch = self.store().batch();
        batch.audit(entry).insert(row.clone());
        // Two flushes to the disk that do not depend on each other.
        let (stored, recorder) = tokio::join!(self.store().commit(batch), self.recorders().start(header));
        let recorder = match (stored, recorder) {
            (Ok(()), Ok(recorder)) => recorder,
            (Err(error), recorder) => {
                if let Ok(recorder) = recorder {
                    drop(recorder);
                    // An empty recording without a session; what cannot be removed is found by retention.
                    let _ = self.recorders().remove(row.id);
                }
                return Err(error.into());
            }
            (Ok(()), Err(error)) => {
                let end = Session {
                    is_finished: true,
                    is_success: false,
                    date_end: Some(self.now()),
                    error_reason: Some(RowError::ReplayCreateFailed),
                    end_reason: error.to_string(),
                    ..row
                };
                write_end(self, end).await;
                return Err(error.into());
            }
        };
        let shared = Arc::new(Shared::new(row, recorder, spec.size, spec.terminal, Watched::new(admission)));
        self.live().add(Arc::clone(&shared));
        let handle = SessionHandle::new(shared, self.clone());
        if self.is_draining() {
            handle.shared().kill(None, "gatehouse is stopping; connect again in a moment");
        }
        // What changed between the decision and now counts too.
        crate::warden::judge(self, handle.shared());
        if let Some(account) = admission.account() {
            let (at, by) = (handle.facts().date_start, admission.user().display());
            self.last_logins().note(Mark { org: account.org_id, account: account.id, at, by }).await;
        }
        Ok(handle)
    }
}

fn row(core: &Core, admission: &Admission, spec: &OpenSpec) -> Session {
    let (user, asset) = (admission.user(), admission.asset());
    Session {
        id: Uuid::now_v7(),
        org_id: asset.org_id,
        user: user.display(),
        user_id: user.id,
        asset: asset_display(asset),
        asset_id: asset.id,
        account: admission.account_display(),
        account_id: admission.account().map_or_else(Uuid::nil, |a| a.id),
        protocol: admission.protocol().to_owned(),
        login_from: admission.login_from,
        r#type: admission.kind,
        remote_addr: admission.request.source.to_string(),
        is_success: true,
        is_finished: false,
        has_replay: false,
        has_command: false,
        date_start: core.now(),
        date_end: None,
        comment: spec.comment.clone(),
        cmd_amount: 0,
        error_reason: None,
        end_reason: String::new(),
        replay: None,
        bytes_in: 0,
        bytes_out: 0,
    }
}
