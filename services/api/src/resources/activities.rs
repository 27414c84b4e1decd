//! `audits/activities` (U14): the timeline of one object, from every log that names it.

use gatehouse_model::ledger::LedgerKind;
use gatehouse_store::{AllOrgs, OrgFilter, Query as LedgerQuery, StoredEntry};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::engine::list;
use crate::engine::reader::Scope;
use crate::engine::values::show_date;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

/// As many as JumpServer shows.
const DEFAULT: usize = 30;

pub(crate) fn routes(routes: &mut Routes) {
    let query: &[(&'static str, &'static str)] = &[("resource_id", "id of the object"), ("limit", "30 when absent")];
    routes.get(
        "/api/v1/audits/activities/",
        Need::Point("audits.view_activitylog"),
        Doc::new("What happened to and around an object, newest first").query(query),
        index,
    );
}

fn row(stored: &StoredEntry) -> Value {
    let (entry, body) = (&stored.entry, &stored.entry.body);
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let (kind, content) = match entry.kind {
        LedgerKind::Login => (
            "L",
            format!(
                "{} logged in: {}",
                text("username"),
                if body.get("status") == Some(&json!(true)) { "success" } else { "failed" }
            ),
        ),
        LedgerKind::SessionStart => {
            ("S", format!("{} connected to {} as {}", text("user"), text("asset"), text("account")))
        }
        LedgerKind::SessionEnd => ("S", format!("the session of {} on {} ended", text("user"), text("asset"))),
        LedgerKind::SessionEvent => ("S", format!("{}: {}", text("event"), text("user"))),
        LedgerKind::Command => {
            ("S", format!("{} ran: {}", text("user"), text("input").chars().take(256).collect::<String>()))
        }
        LedgerKind::FileTransfer => ("S", format!("{} {} {}", text("user"), text("operate"), text("filename"))),
        LedgerKind::PasswordChange => ("O", format!("the password of {} was changed", text("user"))),
        LedgerKind::Operate => {
            ("O", format!("{} {} {} {}", text("user"), text("action"), text("resource_type"), text("resource")))
        }
        LedgerKind::System | LedgerKind::Ticket | LedgerKind::Job | LedgerKind::Tombstone => ("T", text("event")),
    };
    json!({
        "id": entry.id,
        "timestamp": show_date(entry.at),
        "content": content,
        "type": {"value": kind, "label": match kind { "L" => "Login", "S" => "Session", "O" => "Operate", _ => "Task" }},
        "r_type": kind,
        "detail_url": null,
    })
}

async fn index(call: Call) -> Answer {
    let id = call.query.filled("resource_id").and_then(|id| id.parse::<Uuid>().ok());
    let id = id.ok_or_else(|| Problem::field("resource_id", "this field is required"))?;
    let limit = call.query.filled("limit").and_then(|l| l.parse::<usize>().ok()).unwrap_or(DEFAULT).clamp(1, 200);
    let org = match call.scope {
        Scope::Org(org) => OrgFilter::One(org),
        Scope::Global => OrgFilter::All(AllOrgs::crossing_organizations()),
    };
    let rows = call.app.store().ledger().query(&LedgerQuery::new(org).reference(id).limit(limit))?;
    Ok(list::ok(&rows.iter().map(row).collect()))
}
