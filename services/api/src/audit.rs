//! The operation log (U11): one entry per change or audited read, written with the change itself.
//!
//! What must not be here: a secret. Values of secret fields reach the diff as stars.

use chrono::{DateTime, Utc};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::guard::Call;
use crate::problem::Problem;

gatehouse_model::choices! {
    /// JumpServer's action names.
    pub enum Action {
        View = "view", "View";
        Update = "update", "Update";
        Delete = "delete", "Delete";
        Create = "create", "Create";
        Export = "export", "Export";
        Download = "download", "Download";
        Connect = "connect", "Connect";
        Login = "login", "Login";
        ChangePassword = "change_password", "Change password";
        Accept = "accept", "Accept";
        Notice = "notice", "Notice";
        Reject = "reject", "Reject";
        Import = "import", "Import";
        Monitor = "monitor", "Monitor";
        Pause = "pause", "Pause";
        Resume = "resume", "Resume";
        Terminate = "terminate", "Terminate";
        Unlock = "unlock", "Unlock";
        Invite = "invite", "Invite";
        Test = "test", "Test";
    }
}

pub(crate) const MASK: &str = "******";

/// What happened to one object.
pub(crate) struct Operation {
    pub action: Action,
    /// The noun as people read it: "User", "Asset"...
    pub resource_type: &'static str,
    pub resource: String,
    pub resource_id: Uuid,
    /// The organization of the object; the request's when `None`.
    pub org: Option<Uuid>,
    pub diff: Vec<Value>,
    /// Other objects whose activity log shows it.
    pub refs: Vec<Uuid>,
}

impl Operation {
    pub fn new(action: Action, resource_type: &'static str, resource: impl Into<String>, id: Uuid) -> Self {
        Self {
            action,
            resource_type,
            resource: resource.into(),
            resource_id: id,
            org: None,
            diff: Vec::new(),
            refs: Vec::new(),
        }
    }
    #[must_use]
    pub fn org(mut self, org: Uuid) -> Self {
        self.org = Some(org);
        self
    }
    #[must_use]
    pub fn diff(mut self, diff: Vec<Value>) -> Self {
        self.diff = diff;
        self
    }
    /// One line of the diff.
    #[must_use]
    pub fn changed(mut self, field: &str, before: &Value, after: &Value) -> Self {
        self.diff.push(line(field, before, after));
        self
    }
    #[must_use]
    pub fn refs(mut self, refs: impl IntoIterator<Item = Uuid>) -> Self {
        self.refs.extend(refs);
        self
    }
}

pub(crate) fn entry(call: &Call, now: DateTime<Utc>, op: Operation) -> LedgerEntry {
    let org = op.org.unwrap_or_else(|| call.scope.id());
    let body = json!({
        "user": call.user.display(),
        "user_id": call.user.id,
        "action": op.action.as_str(),
        "resource_type": op.resource_type,
        "resource": op.resource,
        "resource_id": op.resource_id,
        "remote_addr": call.ip.to_string(),
        "diff": op.diff,
    });
    let mut refs = vec![op.resource_id];
    refs.extend(op.refs.into_iter().filter(|r| *r != op.resource_id));
    LedgerEntry::new(Uuid::now_v7(), now, org, LedgerKind::Operate, body).actor(call.user.id).refs(refs)
}

/// Writes one entry by itself, durable before the answer: audited reads.
pub(crate) async fn record(call: &Call, op: Operation) -> Result<(), Problem> {
    let entry = entry(call, call.app.now(), op);
    call.app.store().append(entry).await?;
    Ok(())
}

/// Bytes of one side of a diff line; an entry of the ledger has a limit, and a pasted file is no change to read.
const MAX_SIDE: usize = 16 * 1024;

fn line(field: &str, before: &Value, after: &Value) -> Value {
    json!({"field": field, "before": bounded(before), "after": bounded(after)})
}

fn bounded(value: &Value) -> Value {
    let text = value.to_string();
    if text.len() <= MAX_SIDE {
        return value.clone();
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let digest = data_encoding::HEXLOWER.encode(digest.as_ref());
    json!({"too_long_to_show": {"bytes": text.len(), "sha256": digest}})
}

/// The fields that differ between two shown rows.
pub(crate) fn diff(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<Value> {
    const QUIET: &[&str] = &["date_updated", "updated_by", "id", "org_id", "org_name"];
    let mut out = Vec::new();
    for (field, new) in after.iter().filter(|(f, _)| !QUIET.contains(&f.as_str())) {
        let old = before.get(field).unwrap_or(&Value::Null);
        if old != new {
            out.push(line(field, old, new));
        }
    }
    out
}
