//! `notifications/site-messages` (N06): the caller's own inbox.

use gatehouse_model::notice::SiteMessage;
use serde_json::{Value, json};

use crate::engine::list;
use crate::engine::values::{as_id, show_date};
use crate::guard::{Answer, Call, Doc, Need, Routes};

pub(crate) fn routes(routes: &mut Routes) {
    let path = |what: &str| format!("/api/v1/notifications/site-messages/{what}");
    let query: &[(&'static str, &'static str)] =
        &[("has_read", "0 or 1"), ("limit", "rows"), ("offset", "rows to skip")];
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
    let has_read = call.query.filled("has_read").map(|read| matches!(read, "1" | "true" | "True"));
    let number = |key: &str| call.query.filled(key).and_then(|v| v.parse::<usize>().ok());
    let (limit, offset) = (number("limit").unwrap_or(200).clamp(1, 1_000), number("offset").unwrap_or(0));
    let page = call.app.notify().messages(call.user.id, has_read, offset, limit)?;
    let shown: Vec<Value> = page.messages.iter().map(|m| row(m)).collect();
    let paged = call.query.get("limit").is_some() || call.query.get("offset").is_some();
    Ok(list::ok(&if paged { list::envelope(&call, limit, offset, page.total, &shown) } else { json!(shown) }))
}

async fn unread(call: Call) -> Answer {
    Ok(list::ok(&json!({"total": call.app.notify().unread(call.user.id)?})))
}

async fn mark(call: Call) -> Answer {
    let body = call.json().await?;
    let marked = match body.get("ids").and_then(Value::as_array) {
        Some(ids) => {
            let ids: Vec<_> = ids.iter().take(1_000).filter_map(as_id).collect();
            call.app.notify().mark_read(call.user.id, &ids).await?
        }
        None => call.app.notify().mark_all_read(call.user.id).await?,
    };
    Ok(list::ok(&json!({"detail": "ok", "marked": marked})))
}

async fn remove(call: Call) -> Answer {
    call.app.notify().delete_message(call.user.id, call.id()?).await?;
    Ok(list::no_content())
}
