//! `users/profile`, `users/preference`: what users see and change of themselves (W17): data, password, second factor, keys.

use gatehouse_identity::By;
use gatehouse_model::permission;
use gatehouse_model::record::{Record, SystemRecord};
use gatehouse_model::user::{Lang, MfaLevel, User};
use gatehouse_store::{Batch, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use uuid::Uuid;

use crate::audit::{self, Action, Operation};
use crate::auth;
use crate::engine::change::Change;
use crate::engine::list;
use crate::engine::reader::{Kept, Reader};
use crate::engine::values::show_date;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

/// What a user prefers, by category (`luna`, `koko`, `lina`) as JumpServer's clients keep it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Preference {
    /// The user's id.
    pub id: Uuid,
    pub values: Map<String, Value>,
}

impl Record for Preference {
    const KIND: &'static str = "preference";
    const CACHED: bool = false;
    fn id(&self) -> Uuid {
        self.id
    }
}
impl SystemRecord for Preference {}

impl Kept for Preference {
    fn versioned(reader: &Reader, id: Uuid) -> Result<Option<(Arc<Self>, u64)>, StoreError> {
        reader.store.system().versioned::<Self>(id)
    }
    fn list(reader: &Reader) -> Result<Vec<Arc<Self>>, StoreError> {
        reader.store.system().list::<Self>()
    }
    fn find(reader: &Reader, index: &'static str, key: &[u8]) -> Result<Vec<Arc<Self>>, StoreError> {
        reader.store.system().find::<Self>(index, key)
    }
    fn stage(self, batch: &mut Batch, version: Option<u64>) {
        match version {
            Some(version) => batch.update(self, version),
            None => batch.insert(self),
        };
    }
    fn unstage(batch: &mut Batch, id: Uuid) {
        batch.delete::<Self>(id);
    }
}

pub(crate) fn routes(routes: &mut Routes) {
    let me = Need::Me;
    let path = |what: &str| format!("/api/v1/users/profile/{what}");
    routes.get(path(""), me, Doc::new("Own account"), show);
    for method in [axum::http::Method::PUT, axum::http::Method::PATCH] {
        routes.add(method.clone(), path(""), me, Doc::new("Change own name, phone, language"), change);
        let preference = Doc::new("Change own preferences, by category");
        routes.add(method, "/api/v1/users/preference/", me, preference, set_preference);
    }
    routes.get("/api/v1/users/preference/", me, Doc::new("Own preferences"), preference);
    routes.get(path("permissions/"), me, Doc::new("Own permission points in this organization"), permissions);
    let password = json!({"type": "object", "required": ["old_password", "new_password"], "properties": {
        "old_password": {"type": "string", "format": "password"}, "new_password": {"type": "string", "format": "password"},
        "new_password_again": {"type": "string", "format": "password"}}});
    routes.put(path("password/"), me, Doc::new("Change own password").request(password), change_password);
    routes.get(path("password/"), me, Doc::new("What a new password must be like"), password_policy);
    routes.post(path("mfa/otp/"), me, Doc::new("Begin to set up a second factor: secret and otpauth URI"), enrol);
    let code = json!({"type": "object", "required": ["code"], "properties": {"code": {"type": "string"}}});
    routes.put(path("mfa/otp/"), me, Doc::new("Confirm the second factor with a code").request(code.clone()), confirm);
    routes.delete(path("mfa/otp/"), me, Doc::new("Remove the second factor, with a code").request(code), disable);
    routes.get(path("public-key/"), me, Doc::new("Own SSH keys"), keys);
    let key = json!({"type": "object", "properties": {"name": {"type": "string"}, "public_key": {"type": "string"}}});
    for route in [path("public-key/"), "/api/v1/authentication/ssh-key/".to_owned()] {
        let doc = Doc::new("Add an SSH key; without public_key a pair is made and shown once").request(key.clone());
        routes.post(route, me, doc, add_key);
    }
    routes.get("/api/v1/authentication/ssh-key/", me, Doc::new("Own SSH keys"), keys);
    routes.delete("/api/v1/authentication/ssh-key/{id}/", me, Doc::new("Remove an own SSH key"), remove_key);
}

fn by(call: &Call, what: &str) -> By {
    let operation = Operation::new(Action::Update, "Profile", call.user.display(), call.user.id).changed(
        "action",
        &Value::Null,
        &json!(what),
    );
    By::user(&call.user, call.ip).with_audit(audit::entry(call, call.app.now(), operation))
}

/// The user as stored now; the one in `call` is as it was when the request was authenticated.
fn myself(call: &Call) -> Result<Arc<User>, Problem> {
    call.reader().get::<User>(call.user.id)?.ok_or_else(Problem::not_found)
}

async fn show(call: Call) -> Answer {
    let user = myself(&call)?;
    Ok(list::ok(&profile(&call, &user)?))
}

fn profile(call: &Call, user: &User) -> Result<Value, Problem> {
    let roles = auth::roles(&call.app)?;
    let named = |ids: Vec<Uuid>| -> Vec<Value> {
        roles.iter().filter(|r| ids.contains(&r.id)).map(|r| json!({"id": r.id, "name": r.name})).collect()
    };
    let here = user.org_roles.iter().filter(|r| call.scope.contains(r.org)).map(|r| r.role).collect();
    let groups = super::users::groups_of(&call.reader(), user.id)?;
    let level = user.mfa_level.as_str().parse::<u8>().unwrap_or(0);
    Ok(json!({
        "id": user.id,
        "username": user.username,
        "name": user.name,
        "email": user.email,
        "phone": user.phone,
        "wechat": user.wechat,
        "lang": user.lang.map(|l| json!({"value": l.as_str(), "label": l.label()})),
        "source": {"value": user.source.as_str(), "label": user.source.label()},
        "groups": groups.iter().map(|g| json!({"id": g.id, "name": g.name})).collect::<Vec<_>>(),
        "system_roles": named(user.system_roles.clone()),
        "org_roles": named(here),
        "mfa_level": {"value": level, "label": user.mfa_level.label()},
        "mfa_enabled": user.mfa_level != MfaLevel::Off || call.app.identity().mfa_required(user)?,
        "is_otp_secret_key_bound": user.otp_enrolled,
        "need_update_password": user.need_update_password,
        "is_first_login": user.is_first_login,
        "is_active": user.is_active,
        "date_expired": show_date(user.date_expired),
        "date_joined": show_date(user.meta.date_created),
        "last_login": user.last_login.map(show_date),
        "comment": user.meta.comment,
    }))
}

async fn change(call: Call) -> Answer {
    let body = call.json().await?;
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(|s| s.trim().to_owned());
    let lang = match body.get("lang").map(|l| l.get("value").unwrap_or(l)) {
        None => None,
        Some(Value::Null) => Some(None),
        Some(value) => {
            let lang = value.as_str().and_then(|l| l.parse::<Lang>().ok());
            Some(Some(lang.ok_or_else(|| Problem::field("lang", "not a valid choice"))?))
        }
    };
    let level = match body.get("mfa_level").map(|l| l.get("value").unwrap_or(l)) {
        None => None,
        Some(value) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let level = text.parse::<MfaLevel>().ok().filter(|l| *l != MfaLevel::Forced);
            Some(level.ok_or_else(|| Problem::field("mfa_level", "0 or 1"))?)
        }
    };
    if body.get("email").is_some_and(|e| e.as_str() != Some(call.user.email.as_str())) {
        // Whoever holds the address can reset the password.
        return Err(Problem::field("email", "the address is changed by an administrator"));
    }
    let mut change = Change::new(&call);
    let before = myself(&call)?;
    if level == Some(MfaLevel::Off) && (before.otp_enrolled || before.mfa_level == MfaLevel::Forced) {
        return Err(Problem::field("mfa_level", "remove the second factor at users/profile/mfa/otp/ with a code"));
    }
    let mut after = User::clone(&before);
    after.name = text("name").unwrap_or(after.name);
    after.phone = text("phone").unwrap_or(after.phone);
    after.wechat = text("wechat").unwrap_or(after.wechat);
    after.meta.comment = text("comment").unwrap_or(after.meta.comment);
    after.lang = lang.unwrap_or(after.lang);
    after.mfa_level = level.unwrap_or(after.mfa_level);
    after.meta.date_updated = change.now;
    after.meta.updated_by = call.user.display();
    gatehouse_model::common::Validate::validate(&after)?;
    let shown = |u: &User| {
        let value = json!({"name": u.name, "phone": u.phone, "wechat": u.wechat, "lang": u.lang, "mfa_level": u.mfa_level,
            "comment": u.meta.comment});
        value.as_object().cloned().unwrap_or_default()
    };
    let diff = audit::diff(&shown(&before), &shown(&after));
    change.audit(Operation::new(Action::Update, "Profile", after.display(), after.id).diff(diff));
    change.edit::<User>(before.id, |u| *u = after)?;
    change.commit().await?;
    let user = myself(&call)?;
    Ok(list::ok(&profile(&call, &user)?))
}

async fn permissions(call: Call) -> Answer {
    let roles = auth::roles(&call.app)?;
    let points = permission::points_of(&call.user, &roles, call.scope.id());
    let system = permission::points_of(&call.user, &roles, gatehouse_model::common::org_ids::ROOT);
    let audit_orgs: Vec<Uuid> = call
        .user
        .orgs()
        .into_iter()
        .filter(|o| permission::allowed(&call.user, &roles, *o, "rbac.view_audit"))
        .collect();
    let console_orgs: Vec<Uuid> = call
        .user
        .orgs()
        .into_iter()
        .filter(|o| permission::allowed(&call.user, &roles, *o, "rbac.view_console"))
        .collect();
    Ok(list::ok(&json!({
        "perms": points,
        "system_perms": system,
        "audit_orgs": audit_orgs,
        "console_orgs": console_orgs,
        "workbench_orgs": call.user.orgs(),
    })))
}

async fn password_policy(call: Call) -> Answer {
    let policy = call.app.identity().password_policy(&call.user)?;
    Ok(list::ok(&json!({
        "min_length": policy.min_length,
        "history": policy.history,
        "expires_after_days": policy.expires_after_days,
    })))
}

async fn change_password(call: Call) -> Answer {
    let body = call.json().await?;
    let field = |key: &str| {
        let text = body.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
        text.ok_or_else(|| Problem::field(key, "this field is required"))
    };
    let (old, new) = (field("old_password")?, field("new_password")?);
    if body.get("new_password_again").and_then(Value::as_str).is_some_and(|again| again != new) {
        return Err(Problem::field("new_password_again", "the new passwords differ"));
    }
    let keep = Some(call.who.token_id);
    call.app.identity().change_password(call.user.id, old, new, keep, &By::user(&call.user, call.ip)).await?;
    Ok(list::ok(&json!({"msg": "success"})))
}

async fn enrol(call: Call) -> Answer {
    let started = call.app.identity().start_enrolment(call.user.id)?;
    Ok(list::ok(&json!({"secret": started.secret.as_str(), "uri": started.uri.as_str()})))
}

async fn code(call: &Call) -> Result<String, Problem> {
    let body = call.json().await?;
    let code = body.get("code").and_then(Value::as_str).filter(|c| !c.is_empty()).map(str::to_owned);
    code.ok_or_else(|| Problem::field("code", "this field is required"))
}

async fn confirm(call: Call) -> Answer {
    let code = code(&call).await?;
    call.app.identity().confirm_enrolment(call.user.id, &code, &by(&call, "set up a second factor")).await?;
    Ok(list::ok(&json!({"msg": "success"})))
}

async fn disable(call: Call) -> Answer {
    let code = code(&call).await?;
    call.app.identity().disable_mfa(&call.who, &code, &by(&call, "remove the second factor")).await?;
    Ok(list::ok(&json!({"msg": "success"})))
}

fn key_row(key: &gatehouse_model::user::SshKey) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "public_key": key.public_key,
        "fingerprint": key.fingerprint,
        "is_active": key.is_active,
        "date_last_used": key.date_last_used.map(show_date),
        "date_created": show_date(key.meta.date_created),
    })
}

async fn keys(call: Call) -> Answer {
    let keys = call.app.identity().ssh_keys(call.user.id)?;
    Ok(list::ok(&keys.iter().map(|k| key_row(k)).collect()))
}

async fn add_key(call: Call) -> Answer {
    let body = call.json().await?;
    let name = body.get("name").and_then(Value::as_str).map(str::trim).filter(|n| !n.is_empty()).unwrap_or("key");
    let given = body.get("public_key").and_then(Value::as_str).map(str::trim).filter(|k| !k.is_empty());
    let (identity, by) = (call.app.identity(), by(&call, "add an SSH key"));
    let shown = match given {
        Some(line) => key_row(&identity.add_ssh_key(call.user.id, name, line, &by).await?),
        None => {
            let made = identity.generate_ssh_key(call.user.id, name, &by).await?;
            let mut shown = key_row(&made.record);
            if let Some(shown) = shown.as_object_mut() {
                shown.insert("private_key".into(), json!(made.private_key.as_str()));
            }
            shown
        }
    };
    Ok(list::json_response(axum::http::StatusCode::CREATED, &shown))
}

async fn remove_key(call: Call) -> Answer {
    call.app.identity().remove_ssh_key(call.user.id, call.id()?, &by(&call, "remove an SSH key")).await?;
    Ok(list::no_content())
}

async fn preference(call: Call) -> Answer {
    let kept = call.reader().get::<Preference>(call.user.id)?;
    let values = kept.map(|p| p.values.clone()).unwrap_or_default();
    Ok(list::ok(&match call.query.filled("category") {
        Some(category) => values.get(category).cloned().unwrap_or_else(|| json!({})),
        None => Value::Object(values),
    }))
}

async fn set_preference(call: Call) -> Answer {
    let body = call.json().await?;
    let Some(given) = body.as_object() else { return Err(Problem::field("non_field_errors", "expected an object")) };
    let mut kept = call.reader().get::<Preference>(call.user.id)?.map(|p| p.values.clone()).unwrap_or_default();
    match call.query.filled("category") {
        Some(category) => {
            kept.insert(category.to_owned(), body.clone());
        }
        None => kept.extend(given.clone()),
    }
    if Value::Object(kept.clone()).to_string().len() > 32 * 1024 {
        return Err(Problem::bad_request("too_large", "preferences have at most 32768 bytes"));
    }
    let mut change = Change::new(&call);
    change.upsert(Preference { id: call.user.id, values: kept.clone() })?;
    change.commit().await?;
    Ok(list::ok(&Value::Object(kept)))
}
