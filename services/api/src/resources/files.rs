//! `audits/ftp-logs` (U09): file operations, and the content that was kept of them.

use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::session::{FileOperation, FileRow};
use gatehouse_store::StoredEntry;
use serde_json::{Map, Value, json};

use super::audits::{self, View};
use super::replays::{attachment, piped};
use crate::audit::{self, Action, Operation};
use crate::engine::values::{show_choice, show_date};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

fn row(stored: &StoredEntry) -> Option<FileRow> {
    serde_json::from_value(stored.entry.body.clone()).ok()
}

fn show(stored: &StoredEntry) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("id".into(), json!(stored.entry.id));
    let Some(file) = row(stored) else {
        // A row of a version that this one does not know is shown as it is.
        out.insert("body".into(), stored.entry.body.clone());
        return out;
    };
    if let Ok(Value::Object(map)) = serde_json::to_value(&file) {
        out.extend(map);
    }
    out.insert("id".into(), json!(stored.entry.id));
    out.insert("operate".into(), show_choice(FileOperation::CHOICES, file.operate.as_str()));
    out.insert("date_start".into(), json!(show_date(file.date_start)));
    out.insert("ledger_seq".into(), json!(stored.seq));
    out
}

const FILES: View = View {
    path: "/api/v1/audits/ftp-logs/",
    need: Need::Point("audits.view_ftplog"),
    kinds: &[LedgerKind::FileTransfer],
    label: "File transfer",
    by_member: false,
    show,
    equal: &[("operate", "operate"), ("is_success", "is_success"), ("has_file", "has_file"), ("sha256", "sha256")],
    part: &[("filename", "filename"), ("user", "user"), ("asset", "asset"), ("account", "account")],
    refs: &["session", "session_id", "user_id", "asset_id", "account_id"],
};

pub(crate) fn routes(routes: &mut Routes) {
    audits::mount(routes, &FILES);
    let doc = Doc::new("The content of a transferred file, as far as it was kept").media("application/octet-stream");
    routes.get("/api/v1/audits/ftp-logs/{id}/file/", Need::Point("audits.download_ftplog"), doc, download);
}

async fn download(call: Call) -> Answer {
    let stored = audits::fetch(&call, &FILES)?;
    let gone = || Problem::new(axum::http::StatusCode::NOT_FOUND, "no_file", "the content of this file was not kept");
    let file = row(&stored).filter(|f| f.has_file).ok_or_else(gone)?;
    let mut reader = call.app.core().files().open(file.id).map_err(|error| {
        tracing::warn!(%error, file = %file.id, "a kept file cannot be opened");
        gone()
    })?;
    let operation = Operation::new(Action::Download, "File transfer", &file.filename, stored.entry.id)
        .org(file.org_id)
        .refs([file.session, file.asset_id]);
    audit::record(&call, operation).await?;
    let body = piped(move |out| {
        for piece in &mut reader {
            out.write_all(&piece.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        Ok(())
    });
    // The name comes from an asset: only what is harmless in a header is repeated.
    let name = file.filename.rsplit('/').next().unwrap_or("file");
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).take(128).collect();
    attachment(body, "application/octet-stream", &safe)
}
