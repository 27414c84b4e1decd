//! `authentication/access-keys` (X02): own keys for HTTP Signature. The secret is shown once.

use gatehouse_identity::By;
use gatehouse_model::net::IpGroup;
use gatehouse_model::user::AccessKey;
use serde_json::{Value, json};

use crate::audit::{self, Action, Operation};
use crate::auth;
use crate::engine::list::{self, json_response};
use crate::engine::values::show_date;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

const LIST: &str = "/api/v1/authentication/access-keys/";
const ITEM: &str = "/api/v1/authentication/access-keys/{id}/";

pub(crate) fn routes(routes: &mut Routes) {
    let body = json!({"type": "object", "properties": {"is_active": {"type": "boolean"},
        "ip_group": {"type": "array", "items": {"type": "string"}}}});
    routes.get(LIST, Need::Me, Doc::new("Own access keys"), index);
    routes.post(LIST, Need::Me, Doc::new("Make an access key; its secret is shown once").request(body.clone()), create);
    routes.patch(
        ITEM,
        Need::Me,
        Doc::new("Switch a key on or off, or change its addresses").request(body.clone()),
        change,
    );
    routes.put(ITEM, Need::Me, Doc::new("Switch a key on or off, or change its addresses").request(body), change);
    routes.delete(ITEM, Need::Me, Doc::new("Delete a key"), remove);
}

fn row(key: &AccessKey) -> Value {
    json!({
        "id": key.id,
        "is_active": key.is_active,
        "ip_group": key.ip_group,
        "date_created": show_date(key.date_created),
        "date_last_used": key.date_last_used.map(show_date),
    })
}

fn by(call: &Call, action: Action, id: uuid::Uuid) -> By {
    let operation = Operation::new(action, "Access key", call.user.display(), id).refs([call.user.id]);
    By::user(&call.user, call.ip).with_audit(audit::entry(call, call.app.now(), operation))
}

fn addresses(body: &Value) -> Result<Option<IpGroup>, Problem> {
    let Some(given) = body.get("ip_group").filter(|g| !g.is_null()) else { return Ok(None) };
    let items: Vec<String> = match given {
        Value::String(text) => text.split(',').map(|i| i.trim().to_owned()).collect(),
        other => serde_json::from_value(other.clone())
            .map_err(|_| Problem::field("ip_group", "expected a list of strings"))?,
    };
    IpGroup::try_from(items).map(Some).map_err(|e| Problem::field("ip_group", e.to_string()))
}

async fn index(call: Call) -> Answer {
    Ok(list::ok(&call.app.identity().access_keys(call.user.id)?.iter().map(row).collect()))
}

async fn create(call: Call) -> Answer {
    auth::require_second_factor_if_any(&call)?;
    let body = call.json().await?;
    let group = addresses(&body)?.unwrap_or_else(IpGroup::any);
    let made =
        call.app.identity().create_access_key(call.user.id, group, &by(&call, Action::Create, call.user.id)).await?;
    let mut shown = row(&made.record);
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("secret".into(), json!(made.secret.as_str()));
    }
    Ok(json_response(axum::http::StatusCode::CREATED, &shown))
}

async fn change(call: Call) -> Answer {
    let (id, body) = (call.id()?, call.json().await?);
    let active = body.get("is_active").and_then(Value::as_bool);
    let by = by(&call, Action::Update, id);
    let changed = call.app.identity().change_access_key(call.user.id, id, active, addresses(&body)?, &by).await?;
    Ok(list::ok(&row(&changed)))
}

async fn remove(call: Call) -> Answer {
    let id = call.id()?;
    call.app.identity().delete_access_key(call.user.id, id, &by(&call, Action::Delete, id)).await?;
    Ok(list::no_content())
}
