//! `common/resources/cache`: keeps a set of ids for bulk deletes and filters (`?spm=`).

use axum::http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::SPM_IDS;
use crate::engine::list::json_response;
use crate::engine::values::as_id;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    let body = json!({"type": "object", "required": ["resources"], "properties": {
        "resources": {"type": "array", "items": {"type": "string", "format": "uuid"}}}});
    let doc = Doc::new("Keep ids for five minutes; answers with a key for ?spm=").request(body);
    routes.post("/api/v1/common/resources/cache/", Need::Me, doc, keep);
}

async fn keep(call: Call) -> Answer {
    let body = call.json().await?;
    let items = body.get("resources").and_then(Value::as_array).filter(|i| i.len() <= SPM_IDS);
    let items =
        items.ok_or_else(|| Problem::field("resources", format!("expected a list of at most {SPM_IDS} ids")))?;
    let ids: Option<Vec<Uuid>> = items.iter().map(|v| as_id(v.get("id").unwrap_or(v))).collect();
    let ids = ids.ok_or_else(|| Problem::field("resources", "must be valid UUIDs"))?;
    Ok(json_response(StatusCode::CREATED, &json!({"spm": call.app.keep_spm(call.user.id, ids)})))
}
