//! `rbac/role-bindings`, `rbac/permissions`: who holds which role. A binding is not a record of its own here (users carry
//! their roles), so its id is made from what it binds.

use axum::http::StatusCode;
use gatehouse_model::common::org_ids;
use gatehouse_model::org::{Role, RoleScope};
use gatehouse_model::permission;
use gatehouse_model::user::User;
use serde_json::{Value, json};
use uuid::Uuid;

use super::people;
use crate::audit::{Action, Operation};
use crate::auth;
use crate::engine::change::Change;
use crate::engine::list::{self, json_response};
use crate::engine::plan::{DEFAULT_PAGE, MAX_PAGE};
use crate::engine::related::Target;
use crate::engine::values::as_id;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    let filters =
        &[("user", "id"), ("role", "id"), ("scope", "system or org"), ("limit", "rows"), ("offset", "rows to skip")];
    routes.get(
        "/api/v1/rbac/role-bindings/",
        Need::Point("rbac.view_rolebinding"),
        Doc::new("Role bindings").query(filters),
        index,
    );
    let schema = json!({"type": "object", "required": ["user", "role"], "properties": {
        "user": {"type": "string", "format": "uuid"}, "role": {"type": "string", "format": "uuid"}}});
    routes.post(
        "/api/v1/rbac/role-bindings/",
        Need::Point("rbac.add_rolebinding"),
        Doc::new("Give a role to a user, in the request's organization or (system roles) everywhere").request(schema),
        create,
    );
    routes.delete(
        "/api/v1/rbac/role-bindings/{id}/",
        Need::Point("rbac.delete_rolebinding"),
        Doc::new("Take a role from a user"),
        remove,
    );
    routes.get(
        "/api/v1/rbac/permissions/",
        Need::Point("rbac.view_permission"),
        Doc::new("All permission points"),
        points,
    );
    routes.get(
        "/api/v1/rbac/roles/{id}/permissions/",
        Need::Point("rbac.view_permission"),
        Doc::new("Permission points of a role, written out"),
        points_of,
    );
}

struct Binding {
    user: Uuid,
    role: Uuid,
    /// `None`: a system role.
    org: Option<Uuid>,
}

impl Binding {
    /// The same binding has the same id for ever.
    fn id(&self) -> Uuid {
        let name = [self.user, self.role, self.org.unwrap_or(Uuid::nil())].map(Uuid::into_bytes).concat();
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &name)
    }
}

fn bindings(call: &Call) -> Result<Vec<Binding>, Problem> {
    let mut out = Vec::new();
    let system = auth::allowed(&call.app, &call.user, org_ids::ROOT, "rbac.view_systemrolebinding")?;
    for user in call.reader().list::<User>()? {
        if system && (call.scope.id() == org_ids::ROOT || user.is_member_of(call.scope.id())) {
            out.extend(user.system_roles.iter().map(|role| Binding { user: user.id, role: *role, org: None }));
        }
        let here = user.org_roles.iter().filter(|r| call.scope.contains(r.org));
        out.extend(here.map(|r| Binding { user: user.id, role: r.role, org: Some(r.org) }));
    }
    Ok(out)
}

fn show(call: &Call, binding: &Binding) -> Result<Value, Problem> {
    let global = call.reader().global();
    let org = binding.org.map(|org| Target::Organization.show(&global, org)).transpose()?;
    Ok(json!({
        "id": binding.id(),
        "user": Target::User.show(&global, binding.user)?,
        "role": Target::Role.show(&global, binding.role)?,
        "scope": if binding.org.is_some() { "org" } else { "system" },
        "org": org,
    }))
}

async fn index(call: Call) -> Answer {
    let wanted = |key: &str| call.query.filled(key).map(|v| v.parse::<Uuid>().unwrap_or(Uuid::max()));
    let (user, role, scope) = (wanted("user"), wanted("role"), call.query.filled("scope"));
    let mut rows = bindings(&call)?;
    rows.retain(|b| {
        user.is_none_or(|u| b.user == u)
            && role.is_none_or(|r| b.role == r)
            && scope.is_none_or(|s| (s == "org") == b.org.is_some())
    });
    let number = |key: &str, default: usize| call.query.filled(key).and_then(|v| v.parse().ok()).unwrap_or(default);
    let (limit, offset, count) = (number("limit", DEFAULT_PAGE).clamp(1, MAX_PAGE), number("offset", 0), rows.len());
    let shown: Result<Vec<Value>, Problem> = rows.iter().skip(offset).take(limit).map(|b| show(&call, b)).collect();
    let paged = call.query.get("limit").is_some() || call.query.get("offset").is_some();
    Ok(list::ok(&if paged { list::envelope(&call, limit, offset, count, &shown?) } else { json!(shown?) }))
}

async fn create(call: Call) -> Answer {
    let body = call.json().await?;
    let id = |key: &str| {
        let value = body.get(key).map(|v| v.get("id").unwrap_or(v));
        value.and_then(as_id).ok_or_else(|| Problem::field(key, "this field is required"))
    };
    let (user, role) = (id("user")?, id("role")?);
    let role = call.reader().get::<Role>(role)?.ok_or_else(|| Problem::field("role", "object does not exist"))?;
    let _turn = call.app.serial().await;
    let mut change = Change::new(&call);
    let found =
        change.get::<User>(user)?.filter(|u| call.scope.id() == org_ids::ROOT || u.is_member_of(call.scope.id()));
    let before = found.ok_or_else(|| Problem::field("user", "object does not exist"))?;
    people::require_authority(&call, &before, "users.change_user")?;
    let mut after = User::clone(&before);
    let org = match role.scope {
        RoleScope::System => {
            let mut wanted = after.system_roles.clone();
            wanted.push(role.id);
            people::set_system_roles(&call, &mut after, &wanted)?;
            None
        }
        RoleScope::Org => {
            let org = call.scope.id();
            if org == org_ids::ROOT {
                return Err(Problem::field("role", "choose an organization with X-JMS-ORG to give a role in it"));
            }
            let mut wanted: Vec<Uuid> = after.org_roles.iter().filter(|r| r.org == org).map(|r| r.role).collect();
            wanted.push(role.id);
            people::set_org_roles(&call, &mut after, org, &wanted)?;
            Some(org)
        }
    };
    let binding = Binding { user, role: role.id, org };
    store(&mut change, &before, after, &role, Action::Create)?;
    change.commit().await?;
    Ok(json_response(StatusCode::CREATED, &show(&call, &binding)?))
}

async fn remove(call: Call) -> Answer {
    let id = call.id()?;
    let _turn = call.app.serial().await;
    let binding = bindings(&call)?.into_iter().find(|b| b.id() == id).ok_or_else(Problem::not_found)?;
    let mut change = Change::new(&call);
    let before = change.get::<User>(binding.user)?.ok_or_else(Problem::not_found)?;
    let role = call.reader().get::<Role>(binding.role)?.ok_or_else(Problem::not_found)?;
    people::require_authority(&call, &before, "users.change_user")?;
    let mut after = User::clone(&before);
    match binding.org {
        None => {
            let wanted: Vec<Uuid> = after.system_roles.iter().copied().filter(|r| *r != binding.role).collect();
            people::set_system_roles(&call, &mut after, &wanted)?;
        }
        Some(org) => {
            let held = after.org_roles.iter().filter(|r| r.org == org && r.role != binding.role);
            let wanted: Vec<Uuid> = held.map(|r| r.role).collect();
            people::set_org_roles(&call, &mut after, org, &wanted)?;
        }
    }
    people::keep_an_administrator(&change, &before, Some(&after))?;
    store(&mut change, &before, after, &role, Action::Delete)?;
    change.commit().await?;
    Ok(list::no_content())
}

fn store(change: &mut Change<'_>, before: &User, after: User, role: &Role, action: Action) -> Result<(), Problem> {
    let name = format!("{}: {}", before.display(), role.name);
    let shown = |user: &User| json!({"system_roles": user.system_roles, "org_roles": user.org_roles});
    change.audit(Operation::new(action, "Role binding", name, before.id).refs([role.id]).changed(
        "roles",
        &shown(before),
        &shown(&after),
    ));
    change.edit::<User>(before.id, |u| *u = after)?;
    Ok(())
}

async fn points(call: Call) -> Answer {
    let rows: Vec<Value> = permission::RESOURCES
        .iter()
        .flat_map(|r| {
            let scope = if r.system { "system" } else { "org" };
            r.points().map(move |p| json!({"id": p, "name": p, "app": r.app, "model": r.model, "scope": scope}))
        })
        .collect();
    let search = call.query.filled("search").unwrap_or("").to_lowercase();
    let rows: Vec<&Value> =
        rows.iter().filter(|r| r.get("id").and_then(Value::as_str).is_some_and(|p| p.contains(&search))).collect();
    Ok(list::ok(&json!(rows)))
}

async fn points_of(call: Call) -> Answer {
    let role = call.reader().get::<Role>(call.id()?)?.ok_or_else(Problem::not_found)?;
    Ok(list::ok(&json!(permission::points_in(&role))))
}
