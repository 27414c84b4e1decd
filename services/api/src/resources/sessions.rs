//! `terminal/sessions`, `my-sessions`, and what is done to running ones (U04, U05): end, pause, resume.

use std::sync::Arc;

use async_trait::async_trait;
use gatehouse_model::common::Invalid;
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::session::{LoginFrom, Session, SessionError as Reason, SessionType};
use gatehouse_session::SessionError;
use gatehouse_store::{AllOrgs, OrgFilter, Query as LedgerQuery};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::engine::field::{self, boolean, choice, datetime, int, text};
use crate::engine::reader::Scope;
use crate::engine::table::{Hooks, Predicate};
use crate::engine::values::{as_id, read_date, show_date};
use crate::engine::{Methods, Resource, list};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

struct Sessions;

/// Newest sessions that a list without a narrower filter looks at; older ones are found by date, user, asset or account.
const NEWEST: usize = 20_000;

/// The organization for the session service; `None` is all of them.
pub(crate) fn org(call: &Call) -> Option<Uuid> {
    match call.scope {
        Scope::Org(org) => Some(org),
        Scope::Global => None,
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::NotLive => Self::not_found(),
            SessionError::NothingToWatch => Self::bad_request("nothing_to_watch", error.to_string()),
            SessionError::TooManyWatchers => Self::conflict("too_many_watchers", error.to_string()),
            SessionError::Store(error) => error.into(),
            other => Self::internal(&other),
        }
    }
}

#[async_trait]
impl Hooks<Session> for Sessions {
    fn validate(&self, _: &Session) -> Result<(), Invalid> {
        Ok(())
    }

    fn name(&self, row: &Session) -> String {
        format!("{} {} {}", row.user, row.account, row.asset)
    }

    fn candidates(&self, call: &Call) -> Result<Option<Vec<Arc<Session>>>, Problem> {
        let (reader, query) = (call.reader(), &call.query);
        for (key, index) in [("user_id", "user"), ("asset_id", "asset"), ("account_id", "account")] {
            if let Some(id) = query.filled(key) {
                let id: Uuid = id.parse().unwrap_or_else(|_| Uuid::max());
                return Ok(Some(reader.find::<Session>(index, id.as_bytes())?));
            }
        }
        if query.get("is_finished").is_some_and(|v| matches!(v, "0" | "false" | "False")) {
            return Ok(Some(reader.find::<Session>("open", b"1")?));
        }
        let store = call.app.store();
        let view = match call.scope {
            Scope::Org(org) => store.in_org(org),
            Scope::Global => store.all_orgs(AllOrgs::crossing_organizations()),
        };
        // Ids are UUIDv7, so a page that ends at a moment begins at an id.
        let before = query.filled("date_to").and_then(read_date).map(|at| {
            let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0).saturating_add(1);
            Uuid::from_u128(u128::from(millis) << 80)
        });
        Ok(Some(view.page::<Session>(before, NEWEST, true)?))
    }

    fn filter(&self, _: &Call, name: &str, value: &str) -> Result<Option<Predicate<Session>>, Problem> {
        let date = || read_date(value).ok_or_else(|| Problem::field(name, "enter a valid date and time"));
        Ok(match name {
            "date_from" => {
                let from = date()?;
                Some(Box::new(move |s| s.date_start >= from))
            }
            "date_to" => {
                let to = date()?;
                Some(Box::new(move |s| s.date_start <= to))
            }
            "user" | "asset" | "account" => {
                let (name, value) = (name.to_owned(), value.to_lowercase());
                Some(Box::new(move |s| {
                    let text = match name.as_str() {
                        "user" => &s.user,
                        "asset" => &s.asset,
                        _ => &s.account,
                    };
                    text.to_lowercase().contains(&value)
                }))
            }
            _ => None,
        })
    }

    fn show(&self, call: &Call, row: &Session, out: &mut Map<String, Value>, _: bool) -> Result<(), Problem> {
        let live = call.app.core().live().get(org(call), row.id);
        let watchable = live.as_ref().is_some_and(|l| l.size.is_some());
        out.insert("can_join".into(), json!(watchable));
        out.insert("can_replay".into(), json!(row.is_finished && row.replay.is_some()));
        out.insert("can_terminate".into(), json!(live.is_some()));
        out.insert("is_locked".into(), json!(live.as_ref().is_some_and(|l| l.paused)));
        out.insert("replay_size".into(), json!(row.replay.as_ref().map_or(0, |r| r.size)));
        out.insert("replay_digest".into(), json!(row.replay.as_ref().map(|r| &r.digest)));
        out.insert("terminal".into(), json!({"id": null, "name": "gatehouse"}));
        let end = row.date_end.unwrap_or_else(|| call.app.now());
        out.insert("duration".into(), json!((end - row.date_start).num_seconds().max(0)));
        if let Some(live) = &live {
            out.insert("cmd_amount".into(), json!(live.session.cmd_amount));
            out.insert("idle_seconds".into(), json!(live.idle.as_secs()));
        }
        Ok(())
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let id_field = |name, label| field::Field::new(name, label, field::Kind::Uuid).read_only();
    let big = |name, label| int(name, label, 0, i64::MAX);
    let fields = vec![
        field::id(),
        text("user", "User").read_only(),
        id_field("user_id", "User ID"),
        text("asset", "Asset").read_only(),
        id_field("asset_id", "Asset ID"),
        text("account", "Account").read_only(),
        id_field("account_id", "Account ID"),
        text("protocol", "Protocol").read_only(),
        choice("login_from", "Login from", LoginFrom::CHOICES).read_only(),
        choice("type", "Type", SessionType::CHOICES).read_only(),
        text("remote_addr", "Remote address").read_only(),
        boolean("is_success", "Success").read_only(),
        boolean("is_finished", "Finished").read_only(),
        boolean("is_locked", "Locked").computed(),
        boolean("has_replay", "Has replay").read_only(),
        boolean("has_command", "Has command").read_only(),
        boolean("can_join", "Can join").computed(),
        boolean("can_replay", "Can replay").computed(),
        boolean("can_terminate", "Can terminate").computed(),
        datetime("date_start", "Date start").read_only(),
        datetime("date_end", "Date end").read_only(),
        big("duration", "Duration (s)").computed(),
        text("comment", "Comment").read_only(),
        big("cmd_amount", "Commands").read_only(),
        choice("error_reason", "Error reason", Reason::CHOICES).read_only(),
        text("end_reason", "End reason").read_only(),
        big("replay_size", "Replay size").computed(),
        text("replay_digest", "Replay digest").computed(),
        big("bytes_in", "Bytes from the user").read_only(),
        big("bytes_out", "Bytes to the user").read_only(),
        big("idle_seconds", "Idle (s)").computed().no_export(),
        field::json("terminal", "Terminal").computed().no_export(),
        field::Field::new("org_id", "Organization ID", field::Kind::Uuid).read_only().no_export(),
        text("org_name", "Organization").computed(),
    ];
    vec![
        Resource::new::<Session, Sessions>("terminal", "sessions", "session", "Session", fields, Sessions)
            .methods(Methods::READ)
            .search(&["user", "asset", "account", "remote_addr", "protocol"])
            .filters(&["date_from", "date_to", "user", "asset", "account"])
            .newest_first(),
    ]
}

pub(crate) fn routes(routes: &mut Routes) {
    let view = Need::Point("terminal.view_session");
    routes.get("/api/v1/terminal/sessions/online-info/", view, Doc::new("How many sessions run, by protocol"), online);
    routes.get(
        "/api/v1/terminal/sessions/{id}/lifecycle_log/",
        view,
        Doc::new("What happened to a session"),
        lifecycle,
    );
    let ids = json!({"type": "array", "items": {"type": "string", "format": "uuid"}});
    routes.post(
        "/api/v1/terminal/tasks/kill-session/",
        Need::Point("terminal.terminate_session"),
        Doc::new("End running sessions at once").request(ids),
        kill,
    );
    let lock = json!({"type": "object", "required": ["session_id", "task_name"], "properties": {
        "session_id": {"type": "string", "format": "uuid"},
        "task_name": {"type": "string", "enum": ["lock_session", "unlock_session"]}}});
    routes.post(
        "/api/v1/terminal/tasks/toggle-lock-session/",
        Need::Point("terminal.lock_session"),
        Doc::new("Pause (lock_session) or resume (unlock_session) a running session").request(lock),
        toggle_lock,
    );
    routes.get(
        "/api/v1/terminal/my-sessions/",
        Need::Me,
        Doc::new("Own sessions, newest first").query(list::QUERY),
        mine,
    );
}

async fn online(call: Call) -> Answer {
    let live = call.app.core().live().list(org(&call));
    let mut by_protocol = std::collections::BTreeMap::<String, usize>::new();
    for session in &live {
        *by_protocol.entry(session.session.protocol.clone()).or_default() += 1;
    }
    Ok(list::ok(&json!({"count": live.len(), "protocols": by_protocol})))
}

async fn lifecycle(call: Call) -> Answer {
    let session = call.reader().get::<Session>(call.id()?)?.ok_or_else(Problem::not_found)?;
    let query = LedgerQuery::new(OrgFilter::One(session.org_id))
        .kinds(&[LedgerKind::SessionStart, LedgerKind::SessionEnd, LedgerKind::SessionEvent])
        .reference(session.id)
        .limit(1_000)
        .ascending();
    let mut rows = Vec::new();
    for stored in call.app.store().ledger().query(&query)? {
        let body = &stored.entry.body;
        let event = match stored.entry.kind {
            LedgerKind::SessionStart => "start",
            LedgerKind::SessionEnd => "end",
            _ => body.get("event").and_then(Value::as_str).unwrap_or("event"),
        };
        rows.push(json!({
            "id": stored.entry.id,
            "event": event,
            "datetime": show_date(stored.entry.at),
            "user": body.get("user"),
            "remote_addr": body.get("remote_addr"),
            "reason": body.get("reason").or_else(|| body.get("end_reason")),
        }));
    }
    Ok(list::ok(&json!(rows)))
}

async fn kill(call: Call) -> Answer {
    let body = call.json().await?;
    let given = match &body {
        Value::Array(items) => items.clone(),
        other => other
            .get("session_ids")
            .or_else(|| other.get("sessions"))
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
    };
    let ids: Vec<Uuid> = given.iter().filter_map(as_id).collect();
    if ids.is_empty() || ids.len() != given.len() || ids.len() > 1_000 {
        return Err(Problem::field("non_field_errors", "expected a list of 1 to 1000 session ids"));
    }
    let (from, mut done, mut last) = (call.ip.to_string(), Vec::new(), None);
    for id in ids {
        match call.app.core().live().kill(org(&call), id, &call.user, &from, "").await {
            Ok(()) => done.push(id),
            Err(error) => last = Some(Problem::from(error)),
        }
    }
    match last {
        // Sessions that ended by themselves meanwhile are what was wanted.
        Some(problem) if done.is_empty() => Err(problem),
        _ => Ok(list::ok(&json!({"ok": done}))),
    }
}

async fn toggle_lock(call: Call) -> Answer {
    let body = call.json().await?;
    let id =
        body.get("session_id").and_then(as_id).ok_or_else(|| Problem::field("session_id", "this field is required"))?;
    let task = body.get("task_name").map(|t| t.get("value").unwrap_or(t)).and_then(Value::as_str);
    let (live, from) = (call.app.core().live(), call.ip.to_string());
    match task {
        Some("lock_session") => live.pause(org(&call), id, &call.user, &from).await?,
        Some("unlock_session") => live.resume(org(&call), id, &call.user, &from).await?,
        _ => return Err(Problem::field("task_name", "lock_session or unlock_session")),
    }
    Ok(list::ok(&json!({"ok": [id]})))
}

async fn mine(call: Call) -> Answer {
    let resource = call.app.resource("terminal", "sessions")?;
    let mut rows = call.reader().global().find::<Session>("user", call.user.id.as_bytes())?;
    rows.retain(|s| s.user_id == call.user.id);
    rows.sort_by_key(|s| std::cmp::Reverse(s.id));
    let number = |key: &str| call.query.filled(key).and_then(|v| v.parse::<usize>().ok());
    let (limit, offset) = (number("limit").unwrap_or(50).clamp(1, 1_000), number("offset").unwrap_or(0));
    let mut shown = Vec::new();
    for session in rows.iter().skip(offset).take(limit) {
        let map = crate::engine::table::to_map(&**session)?;
        let mut row = crate::engine::values::show_record(&call.reader(), &resource.fields, &map, false)?;
        Sessions.show(&call, session, &mut row, false)?;
        shown.push(Value::Object(row));
    }
    let paged = call.query.get("limit").is_some() || call.query.get("offset").is_some();
    Ok(list::ok(&if paged { list::envelope(&call, limit, offset, rows.len(), &shown) } else { json!(shown) }))
}
