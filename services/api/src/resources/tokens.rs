//! Own private token, temporary passwords (A44), and browser sessions and tokens that are open (U03).

use gatehouse_identity::By;
use gatehouse_model::user::{ApiToken, ApiTokenKind, User};
use serde_json::{Value, json};

use crate::audit::{self, Action, Operation};
use crate::auth;
use crate::engine::list::{self, json_response};
use crate::engine::values::show_date;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    let me = Need::Me;
    routes.post(
        "/api/v1/authentication/private-token/",
        me,
        Doc::new("Make a new private token; shown once"),
        private_token,
    );
    routes.get("/api/v1/authentication/temp-tokens/", me, Doc::new("Own temporary passwords"), temp_passwords);
    routes.post(
        "/api/v1/authentication/temp-tokens/",
        me,
        Doc::new("Make a temporary password; shown once"),
        make_temp,
    );
    let expire = Doc::new("Make a temporary password useless");
    routes.patch("/api/v1/authentication/temp-tokens/{id}/expire/", me, expire, expire_temp);
    routes.get(
        "/api/v1/audits/user-sessions/",
        Need::Point("audits.view_usersession"),
        Doc::new("Users who are logged in to the web or hold bearer tokens"),
        user_sessions,
    );
    routes.delete(
        "/api/v1/audits/user-sessions/{id}/",
        Need::Point("audits.offline_usersession"),
        Doc::new("Take a user offline; not oneself"),
        offline,
    );
    routes.get("/api/v1/authentication/user-session/", me, Doc::new("Own browser sessions and tokens"), own_sessions);
    routes.delete("/api/v1/authentication/user-session/{id}/", me, Doc::new("End an own session or token"), end_own);
}

fn by(call: &Call, action: Action, what: &'static str, id: uuid::Uuid) -> By {
    let operation = Operation::new(action, what, call.user.display(), id).refs([call.user.id]);
    By::user(&call.user, call.ip).with_audit(audit::entry(call, call.app.now(), operation))
}

async fn private_token(call: Call) -> Answer {
    auth::require_second_factor_if_any(&call)?;
    let by = by(&call, Action::Create, "Private token", call.user.id);
    let token = call.app.identity().create_private_token(call.user.id, &by).await?;
    Ok(json_response(axum::http::StatusCode::CREATED, &json!({"token": token.as_str(), "keyword": "Token"})))
}

fn temp_row(record: &gatehouse_model::user::TempPassword, now: chrono::DateTime<chrono::Utc>) -> Value {
    json!({
        "id": record.id,
        "username": record.username,
        "verified": record.verified,
        "is_valid": !record.verified && record.date_expired > now,
        "date_created": show_date(record.date_created),
        "date_expired": show_date(record.date_expired),
        "date_verified": record.date_verified.map(show_date),
    })
}

async fn temp_passwords(call: Call) -> Answer {
    let now = call.app.now();
    let rows = call.app.identity().temp_passwords(call.user.id)?;
    Ok(list::ok(&rows.iter().map(|r| temp_row(r, now)).collect()))
}

async fn make_temp(call: Call) -> Answer {
    let by = by(&call, Action::Create, "Temporary password", call.user.id);
    let (record, secret) = call.app.identity().create_temp_password(call.user.id, &by).await?;
    let mut shown = temp_row(&record, call.app.now());
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("secret".into(), json!(secret.as_str()));
    }
    Ok(json_response(axum::http::StatusCode::CREATED, &shown))
}

async fn expire_temp(call: Call) -> Answer {
    let id = call.id()?;
    call.app
        .identity()
        .expire_temp_password(call.user.id, id, &by(&call, Action::Update, "Temporary password", id))
        .await?;
    Ok(list::ok(&json!({"msg": "success"})))
}

fn session_row(call: &Call, token: &ApiToken, user: &User) -> Value {
    json!({
        "id": token.id,
        "user": {"id": user.id, "name": user.display()},
        "type": {"value": token.kind.as_str(), "label": token.kind.label()},
        "ip": token.remote_addr,
        "city": "",
        "user_agent": token.user_agent,
        "date_created": show_date(token.date_created),
        "date_expired": token.date_expired.map(show_date),
        "is_active": true,
        "is_current_user_session": token.id == call.who.token_id,
    })
}

async fn user_sessions(call: Call) -> Answer {
    let (reader, now) = (call.reader(), call.app.now());
    let mut rows = Vec::new();
    for token in reader.list::<ApiToken>()? {
        if token.kind == ApiTokenKind::Private || token.date_expired.is_some_and(|end| end <= now) {
            continue;
        }
        let Some(user) = reader.get::<User>(token.user)? else { continue };
        let here = match call.scope {
            crate::engine::reader::Scope::Org(org) => user.is_member_of(org),
            crate::engine::reader::Scope::Global => true,
        };
        if here && rows.len() < 1_000 {
            rows.push(session_row(&call, &token, &user));
        }
    }
    Ok(list::ok(&json!(rows)))
}

async fn offline(call: Call) -> Answer {
    let token = call.reader().get::<ApiToken>(call.id()?)?.ok_or_else(Problem::not_found)?;
    let user = call.reader().get::<User>(token.user)?.ok_or_else(Problem::not_found)?;
    let here = match call.scope {
        crate::engine::reader::Scope::Org(org) => user.is_member_of(org),
        crate::engine::reader::Scope::Global => true,
    };
    if !here {
        return Err(Problem::not_found());
    }
    if token.id == call.who.token_id {
        return Err(Problem::bad_request("own_session", "log out instead"));
    }
    super::people::require_authority(&call, &user, "audits.offline_usersession")?;
    let operation = Operation::new(Action::Terminate, "User session", user.display(), token.id).refs([user.id]);
    let by = By::user(&call.user, call.ip).with_audit(audit::entry(&call, call.app.now(), operation));
    call.app.identity().revoke_token(user.id, token.id, &by).await?;
    Ok(list::no_content())
}

async fn own_sessions(call: Call) -> Answer {
    let tokens = call.app.identity().user_tokens(call.user.id)?;
    Ok(list::ok(&tokens.iter().map(|t| session_row(&call, t, &call.user)).collect()))
}

async fn end_own(call: Call) -> Answer {
    let id = call.id()?;
    call.app.identity().revoke_token(call.user.id, id, &by(&call, Action::Delete, "Token", id)).await?;
    Ok(list::no_content())
}
