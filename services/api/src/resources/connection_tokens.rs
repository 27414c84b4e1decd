//! `authentication/connection-token` (P72, X10): identity, asset, account, protocol and method in one. The value is shown
//! once and kept as a hash; nobody lists it, not even its owner (CVE-2025-62712).

use axum::http::StatusCode;
use gatehouse_identity::{By, ConnectionTokenRequest};
use gatehouse_model::account::Account;
use gatehouse_model::asset::Asset;
use gatehouse_model::decide::{self, AccountChoice, Decision};
use gatehouse_model::grant::alias;
use gatehouse_model::session::ConnectionToken;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::{self, Action, Operation};
use crate::engine::list::{self, json_response};
use crate::engine::values::{as_id, show_date};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

const LIST: &str = "/api/v1/authentication/connection-token/";

pub(crate) fn routes(routes: &mut Routes) {
    let need = Need::Point("authentication.view_connectiontoken");
    let body = json!({"type": "object", "required": ["asset", "account", "protocol", "connect_method"], "properties": {
        "asset": {"type": "string", "format": "uuid"},
        "account": {"type": "string", "description": "user name, account id, or @INPUT, @USER"},
        "protocol": {"type": "string"}, "connect_method": {"type": "string"},
        "input_username": {"type": "string"}, "input_secret": {"type": "string", "format": "password"},
        "connect_options": {"type": "object"}, "is_reusable": {"type": "boolean"}}});
    routes.get(LIST, need, Doc::new("Own connection tokens, without their values"), index);
    let add = Need::Point("authentication.add_connectiontoken");
    routes.post(LIST, add, Doc::new("Make a connection token; its value is shown once").request(body), create);
    let item = |what: &str| format!("/api/v1/authentication/connection-token/{{id}}/{what}");
    routes.get(item(""), need, Doc::new("One own connection token"), show);
    let expire = Need::Point("authentication.expire_connectiontoken");
    let reuse = Need::Point("authentication.reuse_connectiontoken");
    for method in [axum::http::Method::PATCH, axum::http::Method::PUT] {
        routes.add(method.clone(), item("expire/"), expire, Doc::new("End a token before its time"), end);
        let doc = Doc::new("Let a token be used several times, or once")
            .request(json!({"type": "object", "properties": {
            "is_reusable": {"type": "boolean"}}}));
        routes.add(method, item("reuse/"), reuse, doc, set_reuse);
    }
}

/// The organization of the token: that of the asset.
fn org(call: &Call) -> Result<Uuid, Problem> {
    match call.scope {
        crate::engine::reader::Scope::Org(org) => Ok(org),
        crate::engine::reader::Scope::Global => {
            Err(Problem::bad_request("global_organization", "choose an organization with X-JMS-ORG"))
        }
    }
}

fn row(call: &Call, token: &ConnectionToken) -> Value {
    let now = call.app.now();
    json!({
        "id": token.id,
        "user": {"id": token.user, "name": token.user_display},
        "asset": {"id": token.asset, "name": token.asset_display},
        "account": token.account,
        "protocol": token.protocol,
        "connect_method": token.connect_method,
        "connect_options": token.connect_options,
        "input_username": token.input_username,
        "remote_addr": token.remote_addr,
        "is_active": token.is_active && token.date_expired > now,
        "is_reusable": token.is_reusable,
        "is_expired": token.date_expired <= now,
        "from_ticket": null,
        "face_token": "",
        "org_id": token.org_id,
        "date_created": show_date(token.date_created),
        "date_expired": show_date(token.date_expired),
        "expire_time": (token.date_expired - now).num_seconds().max(0),
    })
}

fn by(call: &Call, action: Action, id: Uuid, asset: Uuid, name: &str) -> By {
    let operation = Operation::new(action, "Connection token", name, id).refs([asset, call.user.id]);
    By::user(&call.user, call.ip).with_audit(audit::entry(call, call.app.now(), operation))
}

async fn index(call: Call) -> Answer {
    let tokens = call.app.identity().connection_tokens(org(&call)?, call.user.id)?;
    Ok(list::ok(&tokens.iter().take(200).map(|t| row(&call, t)).collect()))
}

fn own(call: &Call) -> Result<std::sync::Arc<ConnectionToken>, Problem> {
    let found = call.reader().get::<ConnectionToken>(call.id()?)?;
    found.filter(|t| t.user == call.user.id).ok_or_else(Problem::not_found)
}

async fn show(call: Call) -> Answer {
    let token = own(&call)?;
    Ok(list::ok(&row(&call, &token)))
}

/// What was meant by `account`: an id, a user name, an alias.
fn choose(call: &Call, asset: Uuid, written: &str, input: &str) -> Result<(AccountChoice, String), Problem> {
    match written {
        alias::INPUT => {
            return Ok((AccountChoice::Manual { username: input.to_owned() }, alias::INPUT.to_owned()));
        }
        alias::USER => return Ok((AccountChoice::SameName, alias::USER.to_owned())),
        _ => {}
    }
    let accounts = call.reader().find::<Account>("asset", asset.as_bytes())?;
    let id = written.parse::<Uuid>().ok();
    let found = accounts
        .iter()
        .find(|a| Some(a.id) == id)
        .or_else(|| accounts.iter().find(|a| a.username == written))
        .or_else(|| accounts.iter().find(|a| a.name == written));
    match found {
        Some(account) => Ok((AccountChoice::Stored(account.id), account.username.clone())),
        // The words of a refusal: which accounts exist is not told.
        None => Err(refused("perm_account_invalid", "you have no permission for this account on this asset")),
    }
}

fn refused(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::bad_request(code, detail)
}

async fn create(call: Call) -> Answer {
    let body = call.json().await?;
    let text = |key: &str| {
        let value = body.get(key).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
        value.map(str::to_owned).ok_or_else(|| Problem::field(key, "this field is required"))
    };
    let optional = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let asset = body.get("asset").map(|a| a.get("id").unwrap_or(a)).and_then(as_id);
    let asset = asset.ok_or_else(|| Problem::field("asset", "this field is required"))?;
    let no_permission = || refused("perm_account_invalid", "you have no permission for this account on this asset");
    let asset = call.reader().get::<Asset>(asset)?.ok_or_else(no_permission)?;
    let (protocol, method) = (text("protocol")?, text("connect_method")?);
    let (choice, account) = choose(&call, asset.id, &text("account")?, &optional("input_username"))?;
    let core = call.app.core();
    let facts = core.read().facts(call.user.id, asset.id).ok_or_else(no_permission)?;
    let request = decide::Request {
        account: choice,
        protocol: protocol.clone(),
        connect_method: method.clone(),
        source: call.ip,
        moment: core.moment(),
    };
    // The same decision is asked again when the token is used.
    if let Decision::Deny { reason } = decide::decide(&request, &facts) {
        return Err(refused(reason.code(), reason.to_string()));
    }
    let options = body.get("connect_options").and_then(Value::as_object).cloned().unwrap_or_default();
    if Value::Object(options.clone()).to_string().len() > 8 * 1024 {
        return Err(Problem::field("connect_options", "at most 8192 bytes"));
    }
    let secret = optional("input_secret");
    let request = ConnectionTokenRequest {
        org: asset.org_id,
        user: call.user.id,
        asset: asset.id,
        asset_display: format!("{}({})", asset.name, asset.address),
        account,
        protocol,
        connect_method: method,
        input_username: optional("input_username"),
        input_secret: (!secret.is_empty()).then(|| Zeroizing::new(secret)),
        connect_options: options as Map<String, Value>,
        reusable: body.get("is_reusable").and_then(Value::as_bool).unwrap_or(false),
    };
    let by = by(&call, Action::Create, asset.id, asset.id, &format!("{}({})", asset.name, asset.address));
    let (token, value) = call.app.identity().create_connection_token(request, &by).await?;
    let mut shown = row(&call, &token);
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("value".into(), json!(value.as_str()));
    }
    Ok(json_response(StatusCode::CREATED, &shown))
}

async fn end(call: Call) -> Answer {
    let token = own(&call)?;
    let by = by(&call, Action::Update, token.id, token.asset, &token.asset_display);
    let ended = call.app.identity().expire_connection_token(token.org_id, call.user.id, token.id, &by).await?;
    Ok(list::ok(&row(&call, &ended)))
}

async fn set_reuse(call: Call) -> Answer {
    let (token, body) = (own(&call)?, call.json().await?);
    let reusable = body.get("is_reusable").and_then(Value::as_bool);
    let reusable = reusable.ok_or_else(|| Problem::field("is_reusable", "this field is required"))?;
    let by = by(&call, Action::Update, token.id, token.asset, &token.asset_display);
    let identity = call.app.identity();
    let changed = identity.set_connection_token_reusable(token.org_id, call.user.id, token.id, reusable, &by).await?;
    Ok(list::ok(&row(&call, &changed)))
}
