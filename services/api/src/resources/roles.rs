//! `rbac/roles`, `system-roles`, `org-roles` (O10, O11). Built-in roles never change; a custom role holds at most what
//! its maker holds.

use async_trait::async_trait;
use gatehouse_model::common::{Invalid, Validate, org_ids};
use gatehouse_model::org::{Role, RoleScope};
use gatehouse_model::permission;
use gatehouse_model::user::User;
use serde_json::{Map, Value, json};

use crate::auth;
use crate::engine::change::{Change, Input};
use crate::engine::field::{self, Field, boolean, choice, int, strings, text};
use crate::engine::table::Hooks;
use crate::engine::{Guarding, Methods, Resource};
use crate::guard::Call;
use crate::problem::Problem;

/// `None`: roles of both scopes.
struct Roles(Option<RoleScope>);

fn builtin_refused(role: &Role) -> Result<(), Problem> {
    if role.builtin {
        return Err(Problem::bad_request("builtin", "built-in roles cannot be changed or deleted; clone one instead"));
    }
    Ok(())
}

#[async_trait]
impl Hooks<Role> for Roles {
    fn validate(&self, row: &Role) -> Result<(), Invalid> {
        let mut invalid = row.validate().err().unwrap_or_default();
        if !row.builtin {
            permission::check_points(&mut invalid, row.scope, &row.permissions);
        }
        invalid.into_result()
    }

    fn name(&self, row: &Role) -> String {
        row.name.clone()
    }

    fn visible(&self, _: &Call, row: &Role) -> Result<bool, Problem> {
        Ok(self.0.is_none_or(|scope| row.scope == scope))
    }

    fn show(&self, call: &Call, row: &Role, out: &mut Map<String, Value>, _: bool) -> Result<(), Problem> {
        let users = call.reader().list::<User>()?;
        let holders = users.iter().filter(|u| match row.scope {
            RoleScope::System => u.system_roles.contains(&row.id),
            RoleScope::Org => u.org_roles.iter().any(|r| r.role == row.id && call.scope.contains(r.org)),
        });
        out.insert("users_amount".into(), json!(holders.count()));
        out.insert("permissions_amount".into(), json!(permission::points_in(row).len()));
        Ok(())
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut Role,
        old: Option<&Role>,
        _: &Input,
    ) -> Result<(), Problem> {
        if let Some(old) = old {
            builtin_refused(old)?;
        }
        if let Some(scope) = self.0 {
            new.scope = scope;
        }
        new.permissions.sort();
        new.permissions.dedup();
        // Roles are shared by all organizations, so what goes into one must be held for the whole system.
        let roles = auth::roles(&change.call.app)?;
        for point in &new.permissions {
            let had = old.is_some_and(|o| o.permissions.contains(point));
            if !had && !permission::allowed(&change.call.user, &roles, org_ids::ROOT, point) {
                return Err(Problem::denied("role_escalation", format!("you do not hold \"{point}\" yourself")));
            }
        }
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &Role) -> Result<(), Problem> {
        builtin_refused(row)?;
        let users = change.list::<User>()?;
        let held =
            users.iter().filter(|u| u.system_roles.contains(&row.id) || u.org_roles.iter().any(|r| r.role == row.id));
        match held.count() {
            0 => Ok(()),
            n => Err(Problem::bad_request("role_in_use", format!("{n} users hold this role; take it from them first"))),
        }
    }
}

fn fields(scope: Option<RoleScope>) -> Vec<Field> {
    let scope_field = choice("scope", "Scope", RoleScope::CHOICES);
    let scope_field = match scope {
        None => scope_field.read_only(),
        Some(RoleScope::System) => scope_field.create_only().default(|| json!("system")),
        Some(RoleScope::Org) => scope_field.create_only().default(|| json!("org")),
    };
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        text("display_name", "Display name").source("name").read_only().no_export(),
        scope_field,
        boolean("builtin", "Builtin").read_only(),
        strings("permissions", "Permissions").default(|| json!([])),
        int("permissions_amount", "Permissions amount", 0, i64::MAX).computed(),
        int("users_amount", "Users amount", 0, i64::MAX).computed(),
    ];
    fields.extend(field::meta());
    fields
}

pub(crate) fn resources() -> Vec<Resource> {
    let resource = |route, model, label, scope| {
        Resource::new::<Role, Roles>("rbac", route, model, label, fields(scope), Roles(scope)).serialised()
    };
    vec![
        resource("roles", "role", "Role", None).methods(Methods::READ),
        resource("system-roles", "systemrole", "System role", Some(RoleScope::System)).guarding(Guarding::System),
        // Seen in an organization, changed for all of them.
        resource("org-roles", "orgrole", "Organization role", Some(RoleScope::Org)).guarding(Guarding::SystemWrite),
    ]
}
