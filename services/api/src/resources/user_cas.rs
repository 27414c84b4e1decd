//! `gatehouse/user-cas`: the certificate authorities whose OpenSSH user certificates are accepted for log-in. What must
//! not be here: what makes a certificate good (identity checks it).

use gatehouse_identity::By;
use gatehouse_model::common::org_ids;
use gatehouse_model::user::TrustedUserCa;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::{self, Action, Operation};
use crate::engine::list;
use crate::engine::values::show_date;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    let (view, change) = (Need::System("settings.view_setting"), Need::System("settings.change_setting"));
    let path = "/api/v1/gatehouse/user-cas/";
    routes.get(path, view, Doc::new("Authorities whose SSH user certificates are accepted for log-in"), show);
    let body = json!({"type": "object", "required": ["public_key"], "properties": {
        "name": {"type": "string"},
        "public_key": {"type": "string", "description": "one line, as in the authority's .pub file"}}});
    let doc = Doc::new("Trust an authority: its certificates let the users in whom they name as principals");
    routes.post(path, change, doc.request(body), trust);
    let doc = Doc::new("Trust an authority no longer; its certificates are refused at once");
    routes.delete("/api/v1/gatehouse/user-cas/{id}/", change, doc, forget);
}

fn row(ca: &TrustedUserCa) -> Value {
    json!({
        "id": ca.id,
        "name": ca.name,
        "public_key": ca.public_key,
        "fingerprint": ca.fingerprint,
        "is_active": ca.is_active,
        "date_created": show_date(ca.meta.date_created),
    })
}

fn by(call: &Call, action: Action, name: &str, id: Uuid) -> By {
    let operation = Operation::new(action, "User certificate authority", name, id).org(org_ids::ROOT);
    By::user(&call.user, call.ip).with_audit(audit::entry(call, call.app.now(), operation))
}

async fn show(call: Call) -> Answer {
    let authorities = call.app.identity().user_cas()?;
    Ok(list::ok(&authorities.iter().map(|ca| row(ca)).collect()))
}

async fn trust(call: Call) -> Answer {
    let body = call.json().await?;
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::trim).filter(|s| !s.is_empty());
    let line = text("public_key").ok_or_else(|| Problem::field("public_key", "this field is required"))?;
    let name = text("name").unwrap_or_default();
    let by = by(&call, Action::Create, if name.is_empty() { "authority" } else { name }, Uuid::nil());
    let added = call.app.identity().add_user_ca(name, line, &by).await?;
    Ok(list::json_response(axum::http::StatusCode::CREATED, &row(&added)))
}

async fn forget(call: Call) -> Answer {
    let id = call.id()?;
    let known = call.app.identity().user_cas()?.into_iter().find(|ca| ca.id == id).ok_or_else(Problem::not_found)?;
    call.app.identity().remove_user_ca(id, &by(&call, Action::Delete, &known.name, id)).await?;
    Ok(list::no_content())
}
