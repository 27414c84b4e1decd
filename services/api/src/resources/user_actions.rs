//! What is done to users besides changing their record (O03, O04, O06, O08): invite, remove, resets, unblock, suggestions.

use gatehouse_identity::By;
use gatehouse_model::common::org_ids;
use gatehouse_model::user::User;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{forget, people, users};
use crate::audit::{self, Action, Operation};
use crate::engine::change::Change;
use crate::engine::field::Kind;
use crate::engine::list;
use crate::engine::reader::Scope;
use crate::engine::related::Target;
use crate::engine::table::Hooks as _;
use crate::engine::values::{self, as_id};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    let ids = json!({"type": "array", "items": {"type": "string", "format": "uuid"}});
    routes.post(
        "/api/v1/users/users/invite/",
        Need::Point("users.invite_user"),
        Doc::new("Make existing users members of this organization; roles they hold elsewhere are not touched").request(
            json!({"type": "object", "required": ["users", "org_roles"], "properties": {"users": ids, "org_roles": ids}}),
        ),
        invite,
    );
    let remove = Need::Point("users.remove_user");
    routes.post(
        "/api/v1/users/users/{id}/remove/",
        remove,
        Doc::new("End a membership in this organization"),
        remove_one,
    );
    let query: &[(&'static str, &'static str)] = &[("spm", "key from /api/v1/common/resources/cache/")];
    routes.post("/api/v1/users/users/remove/", remove, Doc::new("End several memberships").query(query), remove_many);
    let suggest = Doc::new("Users by part of their name").query(&[("search", "part of name, user name or address")]);
    routes.get("/api/v1/users/users/suggestions/", Need::Point("users.match_user"), suggest, suggestions);
    let change = Need::Point("users.change_user");
    for method in [axum::http::Method::PUT, axum::http::Method::PATCH, axum::http::Method::POST] {
        let path = |what: &str| format!("/api/v1/users/users/{{id}}/{what}/");
        let doc = Doc::new;
        routes.add(method.clone(), path("mfa/reset"), change, doc("Take away a lost second factor"), reset_mfa);
        routes.add(
            method.clone(),
            path("password/reset"),
            change,
            doc("Mail a link to set a password"),
            reset_password,
        );
        routes.add(method.clone(), path("pubkey/reset"), change, doc("Remove all SSH keys"), reset_keys);
        routes.add(method, path("unblock"), change, doc("Lift the lock after failed log-ins"), unblock);
    }
}

/// The user of the path, in the scope, whom the caller may administer.
fn target(call: &Call) -> Result<std::sync::Arc<User>, Problem> {
    let user = call.reader().get::<User>(call.id()?)?.ok_or_else(Problem::not_found)?;
    if !users::Users.visible(call, &user)? {
        return Err(Problem::not_found());
    }
    people::require_authority(call, &user, "users.change_user")?;
    Ok(user)
}

fn by(call: &Call, operation: Operation) -> By {
    By::user(&call.user, call.ip).with_audit(audit::entry(call, call.app.now(), operation))
}

fn operation(user: &User, what: &str) -> Operation {
    Operation::new(Action::Update, "User", user.display(), user.id).changed("action", &Value::Null, &json!(what))
}

async fn reset_mfa(call: Call) -> Answer {
    let user = target(&call)?;
    call.app.identity().reset_mfa(user.id, &by(&call, operation(&user, "reset second factor"))).await?;
    Ok(list::ok(&json!({"msg": "success"})))
}

async fn reset_password(call: Call) -> Answer {
    let user = target(&call)?;
    call.app.identity().mail_set_up_code(user.id, &by(&call, operation(&user, "mail a password reset"))).await?;
    Ok(list::ok(&json!({"msg": "success"})))
}

async fn reset_keys(call: Call) -> Answer {
    let user = target(&call)?;
    let removed =
        call.app.identity().remove_all_ssh_keys(user.id, &by(&call, operation(&user, "remove SSH keys"))).await?;
    Ok(list::ok(&json!({"msg": "success", "removed": removed})))
}

async fn unblock(call: Call) -> Answer {
    let user = target(&call)?;
    let operation = Operation::new(Action::Unlock, "User", user.display(), user.id);
    let was_locked = call.app.identity().unlock_user(user.id, &by(&call, operation)).await?;
    Ok(list::ok(&json!({"msg": "success", "was_locked": was_locked})))
}

/// CVE-2026-44846: an invitation adds roles in this organization and changes nothing else of the user.
async fn invite(call: Call) -> Answer {
    let Scope::Org(org) = call.scope else {
        return Err(Problem::bad_request("global_organization", "choose an organization with X-JMS-ORG"));
    };
    let body = call.json().await?;
    let ids = |key: &str| -> Result<Vec<Uuid>, Problem> {
        let items = body.get(key).and_then(Value::as_array).filter(|a| !a.is_empty() && a.len() <= 1_000);
        let items = items.ok_or_else(|| Problem::field(key, "expected a list of ids"))?;
        let one = |v: &Value| as_id(v.get("id").or_else(|| v.get("pk")).unwrap_or(v));
        items.iter().map(|v| one(v).ok_or_else(|| Problem::field(key, "must be valid UUIDs"))).collect()
    };
    let (invited, roles) = (ids("users")?, ids("org_roles")?);
    let _turn = call.app.serial().await;
    let mut change = Change::new(&call);
    for id in invited {
        let before = change.get::<User>(id)?.ok_or_else(|| Problem::field("users", "object does not exist"))?;
        let held =
            |user: &User| -> Vec<Uuid> { user.org_roles.iter().filter(|r| r.org == org).map(|r| r.role).collect() };
        let mut after = User::clone(&before);
        let mut wanted = held(&before);
        wanted.extend(&roles);
        people::set_org_roles(&call, &mut after, org, &wanted)?;
        let reader = call.reader().global();
        let shown = |user: &User| values::show(&reader, Kind::ManyRelated(Target::Role), &json!(held(user)));
        change.audit(Operation::new(Action::Invite, "User", before.display(), id).org(org).changed(
            "org_roles",
            &shown(&before)?,
            &shown(&after)?,
        ));
        change.edit::<User>(id, |u| *u = after)?;
    }
    change.commit().await?;
    Ok(list::json_response(axum::http::StatusCode::CREATED, &json!({"msg": "success"})))
}

async fn remove_one(call: Call) -> Answer {
    let id = call.id()?;
    remove(&call, vec![id]).await
}

async fn remove_many(call: Call) -> Answer {
    let key = call.query.filled("spm").unwrap_or("");
    let ids = call.app.spm(key, call.user.id);
    let ids = ids.ok_or_else(|| Problem::bad_request("spm_expired", "post the ids again and give the new spm key"))?;
    remove(&call, ids).await
}

/// Ends memberships: roles, groups, grants and rules of this organization forget the users; the accounts stay.
async fn remove(call: &Call, ids: Vec<Uuid>) -> Answer {
    let Scope::Org(org) = call.scope else {
        return Err(Problem::bad_request("global_organization", "choose an organization with X-JMS-ORG"));
    };
    let _turn = call.app.serial().await;
    let mut change = Change::new(call);
    for id in ids {
        let before = change.get::<User>(id)?.filter(|u| u.is_member_of(org)).ok_or_else(Problem::not_found)?;
        if id == call.user.id {
            return Err(Problem::bad_request("own_account", "you cannot end your own membership"));
        }
        let mut after = User::clone(&before);
        people::set_org_roles(call, &mut after, org, &[])?;
        forget::user_in_scope(&mut change, id)?;
        change.audit(Operation::new(Action::Update, "User", before.display(), id).org(org).changed(
            "membership",
            &json!(org),
            &Value::Null,
        ));
        change.edit::<User>(id, |u| *u = after)?;
    }
    change.commit().await?;
    Ok(list::no_content())
}

async fn suggestions(call: Call) -> Answer {
    let search = call.query.filled("search").unwrap_or("").to_lowercase();
    let mut rows = Vec::new();
    for user in call.reader().list::<User>()? {
        // Those who may invite choose among all users; others see their organization.
        let known = call.scope.id() == org_ids::ROOT || user.is_member_of(call.scope.id());
        if !known && !call.allows("users.invite_user")? {
            continue;
        }
        let texts = [&user.name, &user.username, &user.email];
        if texts.iter().any(|t| t.to_lowercase().contains(&search)) {
            rows.push(json!({"id": user.id, "name": user.name, "username": user.username}));
        }
        if rows.len() >= 20 {
            break;
        }
    }
    Ok(list::ok(&json!(rows)))
}
