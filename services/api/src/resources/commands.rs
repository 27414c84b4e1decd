//! `terminal/commands` (U08): what was run, never truncated, with its output and where it is in the recording.

use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::session::{CommandRow, RiskLevel};
use gatehouse_store::StoredEntry;
use serde_json::{Map, Value, json};

use super::audits::{self, View};
use crate::engine::values::{show_choice_int, show_date};
use crate::guard::{Need, Routes};

fn show(stored: &StoredEntry) -> Map<String, Value> {
    let mut row = Map::new();
    let Ok(command) = serde_json::from_value::<CommandRow>(stored.entry.body.clone()) else {
        // A row of a version that this one does not know is shown as it is.
        row.insert("id".into(), json!(stored.entry.id));
        row.insert("body".into(), stored.entry.body.clone());
        return row;
    };
    let value = json!({
        "id": stored.entry.id,
        "user": command.user,
        "user_id": command.user_id,
        "asset": command.asset,
        "asset_id": command.asset_id,
        "account": command.account,
        "account_id": command.account_id,
        "input": command.input,
        "output": command.output,
        "output_cut": command.output_cut,
        "session": command.session,
        "risk_level": show_choice_int(RiskLevel::CHOICES, command.risk_level.as_str()),
        "confidence": {"value": command.confidence.as_str(), "label": command.confidence.label()},
        "cmd_filter_acl": command.cmd_filter,
        "cmd_group": command.cmd_group,
        "remote_addr": command.remote_addr,
        "timestamp": command.timestamp.timestamp(),
        "timestamp_display": show_date(command.timestamp),
        "offset_ms": command.offset_ms,
        "position": command.position,
        "org_id": command.org_id,
        "ledger_seq": stored.seq,
    });
    value.as_object().cloned().unwrap_or_default()
}

const COMMANDS: View = View {
    path: "/api/v1/terminal/commands/",
    need: Need::Point("terminal.view_command"),
    kinds: &[LedgerKind::Command],
    label: "Command",
    by_member: false,
    show,
    equal: &[("risk_level", "risk_level")],
    part: &[("input", "input"), ("user", "user"), ("asset", "asset"), ("account", "account")],
    refs: &["session", "session_id", "user_id", "asset_id", "account_id"],
};

pub(crate) fn routes(routes: &mut Routes) {
    audits::mount(routes, &COMMANDS);
}
