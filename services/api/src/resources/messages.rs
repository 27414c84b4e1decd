//! `notifications/site-messages` (N06): the caller's own inbox.

use gatehouse_model::notice::SiteMessage;
use serde_json::{Value, json};

use crate::engine::change::Change;
use crate::engine::list;
use crate::engine::values::{as_id, show_date};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub fn routes(routes: &mut Routes) {
    let path = |what: &str| format!("/api/v1/notifications/site-messages/{what}");
    let query: &[(&'static str, &'static str)] = &[("has_read", "0 or 1"), ("limit", "rows"), ("offset", "rows to skip")];
    routes.get(path(""), Need::Me, Doc::new("Own messages, newest first").query(query), index);
    routes.get(path("unread-total/"), Need::Me, Doc::new("How many are unread"), unread);
    let body = json!({"type": "object", "properties": {"ids": {"type": "array", "items": {"type": "string"}}}});
    for method in [axum::http::Method::PATCH, axum::http::Method::POST] {
        let doc = Doc::new("Mark messages as read; all without ids").request(body.clone());
        routes.add(method, path("mark-as-read/"), Need::Me, doc, mark);
    }
    routes.delete(path("{id}/"), Need::Me, Doc::new("Delete a message"), remove);
}

fn row(message: &SiteMessage) -> Value {
    json!({
        "id": message.id,
        "subject": message.subject,
        "message": message.message,
        "has_read": message.has_read,
        "read_at": message.read_at.map(show_date),
        "type": {"value": message.kind.as_str(), "label": message.kind.label()},
        "resource": message.resource,
        "date_created": show_date(message.date_created),
        "content": {"subject": message.subject, "message": message.message},
    })
}

async fn index(call: Call) -> Answer {
    let mut rows = call.reader().find::<SiteMessage>("user", call.user.id.as_bytes())?;
    if let Some(read) = call.query.filled("has_read") {
        let wanted = matches!(read, "1" | "true" | "True");
        rows.retain(|m| m.has_read == wanted);
    }
    rows.sort_by_key(|m| std::cmp::Reverse(m.id));
    let number = |key: &str| call.query.filled(key).and_then(|v| v.parse::<usize>().ok());
    let (limit, offset) = (number("limit").unwrap_or(200).clamp(1, 1_000), number("offset").unwrap_or(0));
    let shown: Vec<Value> = rows.iter().skip(offset).take(limit).map(|m| row(m)).collect();
    let paged = call.query.get("limit").is_some() || call.query.get("offset").is_some();
    Ok(list::ok(&if paged { list::envelope(&call, limit, offset, rows.len(), shown) } else { json!(shown) }))
}

async fn unread(call: Call) -> Answer {
    let total = call.reader().find::<SiteMessage>("unread", call.user.id.as_bytes())?.len();
    Ok(list::ok(&json!({"total": total})))
}

async fn mark(call: Call) -> Answer {
    let body = call.json().await?;
    let ids: Option<Vec<_>> = body.get("ids").and_then(Value::as_array).map(|i| i.iter().filter_map(as_id).collect());
    let unread = call.reader().find::<SiteMessage>("unread", call.user.id.as_bytes())?;
    let mut change = Change::new(&call);
    let now = change.now;
    for message in unread.iter().filter(|m| ids.as_ref().is_none_or(|ids| ids.contains(&m.id))).take(1_000) {
        change.edit::<SiteMessage>(message.id, |m| {
            m.has_read = true;
            m.read_at = Some(now);
        })?;
    }
    change.commit().await?;
    Ok(list::ok(&json!({"detail": "ok"})))
}

async fn remove(call: Call) -> Answer {
    let found = call.reader().get::<SiteMessage>(call.id()?)?.filter(|m| m.user == call.user.id);
    let found = found.ok_or_else(Problem::not_found)?;
    let mut change = Change::new(&call);
    change.delete::<SiteMessage>(found.id)?;
    change.commit().await?;
    Ok(list::no_content())
}
