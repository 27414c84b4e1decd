//! Who may act on whom, and the rules that keep a box administrable.
//!
//! Role changes have one path (`set_org_roles`, `set_system_roles`): every door that hands out roles (user form, invite,
//! role bindings) comes through here and is written to the operation log (CVE-2026-44846).

use std::collections::BTreeSet;

use gatehouse_model::builtin;
use gatehouse_model::common::org_ids;
use gatehouse_model::org::{Role, RoleScope};
use gatehouse_model::permission;
use gatehouse_model::user::{OrgRole, User};
use uuid::Uuid;

use crate::auth;
use crate::engine::change::Change;
use crate::guard::Call;
use crate::problem::Problem;

/// Whether the caller may change the account of `target`. A user is known in several organizations; whoever can change
/// the mail address or password of one can become that one, so the caller must hold `point` wherever the target is, and
/// every permission that the target has for the whole system.
pub(crate) fn require_authority(call: &Call, target: &User, point: &str) -> Result<(), Problem> {
    if target.id == call.user.id {
        return Ok(());
    }
    let roles = auth::roles(&call.app)?;
    let beyond = || {
        Problem::denied(
            "beyond_authority",
            "this user holds roles in places or of a kind that you do not administer; a system administrator can do it",
        )
    };
    for id in &target.system_roles {
        if let Some(role) = roles.iter().find(|r| r.id == *id)
            && !permission::may_bind(&call.user, &roles, org_ids::ROOT, role)
            // What everybody has by being a user is no authority.
            && role.id != builtin::SYSTEM_USER
        {
            return Err(beyond());
        }
    }
    for org in target.orgs() {
        if !permission::allowed(&call.user, &roles, org, point) {
            return Err(beyond());
        }
    }
    // In its organization an administrator's account is touched by those who could make one.
    for held in &target.org_roles {
        if let Some(role) = roles.iter().find(|r| r.id == held.role)
            && !permission::may_bind(&call.user, &roles, held.org, role)
        {
            return Err(beyond());
        }
    }
    Ok(())
}

fn role<'r>(roles: &'r [std::sync::Arc<Role>], id: Uuid, scope: RoleScope, field: &str) -> Result<&'r Role, Problem> {
    roles
        .iter()
        .find(|r| r.id == id && r.scope == scope)
        .map(AsRef::as_ref)
        .ok_or_else(|| Problem::field(field, format!("{id} is not a role of the {scope} scope")))
}

/// Replaces the user's roles in one organization. Roles in other organizations are never touched.
pub(crate) fn set_org_roles(call: &Call, user: &mut User, org: Uuid, wanted: &[Uuid]) -> Result<(), Problem> {
    let roles = auth::roles(&call.app)?;
    let had: BTreeSet<Uuid> = user.org_roles.iter().filter(|r| r.org == org).map(|r| r.role).collect();
    let wanted: BTreeSet<Uuid> = wanted.iter().copied().collect();
    for added in wanted.difference(&had) {
        let role = role(&roles, *added, RoleScope::Org, "org_roles")?;
        if !permission::may_bind(&call.user, &roles, org, role) {
            return Err(escalation(role));
        }
        require_in(call, org, "rbac.add_orgrolebinding")?;
    }
    for removed in had.difference(&wanted) {
        require_in(call, org, "rbac.delete_orgrolebinding")?;
        if let Some(role) = roles.iter().find(|r| r.id == *removed)
            && !permission::may_bind(&call.user, &roles, org, role)
        {
            return Err(escalation(role));
        }
    }
    user.org_roles.retain(|r| r.org != org || wanted.contains(&r.role));
    for id in wanted.difference(&had) {
        user.org_roles.push(OrgRole { org, role: *id });
    }
    Ok(())
}

pub(crate) fn set_system_roles(call: &Call, user: &mut User, wanted: &[Uuid]) -> Result<(), Problem> {
    let roles = auth::roles(&call.app)?;
    let had: BTreeSet<Uuid> = user.system_roles.iter().copied().collect();
    let wanted: BTreeSet<Uuid> = wanted.iter().copied().collect();
    if had == wanted {
        return Ok(());
    }
    for added in wanted.difference(&had) {
        let role = role(&roles, *added, RoleScope::System, "system_roles")?;
        if !permission::may_bind(&call.user, &roles, org_ids::ROOT, role) {
            return Err(escalation(role));
        }
        require_in(call, org_ids::ROOT, "rbac.add_systemrolebinding")?;
    }
    if had.difference(&wanted).next().is_some() {
        require_in(call, org_ids::ROOT, "rbac.delete_systemrolebinding")?;
    }
    user.system_roles = wanted.into_iter().collect();
    Ok(())
}

fn escalation(role: &Role) -> Problem {
    Problem::denied(
        "role_escalation",
        format!("the role \"{}\" holds permissions that you do not have, so you cannot give or take it", role.name),
    )
}

fn require_in(call: &Call, org: Uuid, point: &str) -> Result<(), Problem> {
    if auth::allowed(&call.app, &call.user, org, point)? { Ok(()) } else { Err(Problem::forbidden()) }
}

/// Refuses a change after which nobody could administer the system. `after`: the user as it will be; `None`: deleted.
pub(crate) fn keep_an_administrator(change: &Change<'_>, before: &User, after: Option<&User>) -> Result<(), Problem> {
    let administers = |user: &User| user.system_roles.contains(&builtin::SYSTEM_ADMIN) && user.is_valid(change.now);
    if !administers(before) || after.is_some_and(administers) {
        return Ok(());
    }
    let others = change.list::<User>()?;
    if others.iter().any(|u| u.id != before.id && !u.is_service_account && administers(u)) {
        return Ok(());
    }
    Err(Problem::bad_request(
        "last_administrator",
        "this is the last active system administrator; make another one first",
    ))
}
