//! Permission points (`app.action_model`) and the question that every route asks: may this user do that here?
//!
//! What lives here: the one table of all points, checks of the points of custom roles, and `allowed`. What must not: the
//! decision about sessions (`decide`), which grants rule, not roles.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use uuid::Uuid;

use crate::common::{Invalid, org_ids};
use crate::org::{Role, RoleScope};
use crate::user::User;

/// All points. In the list of a system role: everything. In that of an organization role: everything that can be had
/// within an organization. The only wildcard.
pub const EVERYTHING: &str = "*";

/// One model and what can be done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    pub app: &'static str,
    pub model: &'static str,
    pub actions: &'static [&'static str],
    /// Only a system role can carry it; in an organization role it grants nothing.
    pub system: bool,
}

impl Resource {
    pub fn points(&self) -> impl Iterator<Item = String> + '_ {
        self.actions.iter().map(|action| format!("{}.{action}_{}", self.app, self.model))
    }
}

const CRUD: &[&str] = &["view", "add", "change", "delete"];
const VIEW: &[&str] = &["view"];

const fn org(app: &'static str, model: &'static str, actions: &'static [&'static str]) -> Resource {
    Resource { app, model, actions, system: false }
}

const fn system(app: &'static str, model: &'static str, actions: &'static [&'static str]) -> Resource {
    Resource { app, model, actions, system: true }
}

/// Every resource, in the order in which the permission tree shows them.
pub const RESOURCES: &[Resource] = &[
    org("rbac", "console", VIEW),
    org("rbac", "audit", VIEW),
    org("rbac", "workbench", VIEW),
    org("rbac", "webterminal", VIEW),
    org("rbac", "filemanager", VIEW),
    org("rbac", "pam", VIEW),
    org("rbac", "role", VIEW),
    org("rbac", "orgrole", CRUD),
    org("rbac", "orgrolebinding", CRUD),
    system("rbac", "systemrole", CRUD),
    system("rbac", "systemrolebinding", CRUD),
    org("rbac", "rolebinding", CRUD),
    org("rbac", "permission", VIEW),
    org("users", "user", &["view", "add", "change", "delete", "invite", "remove", "match"]),
    org("users", "usergroup", CRUD),
    system("users", "serviceaccount", CRUD),
    org("assets", "asset", &["view", "add", "change", "delete", "match", "test", "refresh", "push"]),
    org("assets", "host", CRUD),
    org("assets", "device", CRUD),
    org("assets", "database", CRUD),
    org("assets", "web", CRUD),
    org("assets", "cloud", CRUD),
    org("assets", "gpt", CRUD),
    org("assets", "directoryservice", CRUD),
    org("assets", "custom", CRUD),
    org("assets", "node", &["view", "add", "change", "delete", "match"]),
    org("assets", "assettonode", &["add", "move", "remove"]),
    org("assets", "assetnodes", &["change"]),
    org("assets", "nodeassets", &["check"]),
    system("assets", "platform", &["add", "change", "delete"]),
    org("assets", "platform", VIEW),
    org("assets", "protocol", VIEW),
    org("assets", "category", VIEW),
    org("assets", "zone", CRUD),
    org("assets", "gateway", &["view", "add", "change", "delete", "test"]),
    org("assets", "favoriteasset", CRUD),
    org("assets", "hostkey", &["view", "delete"]),
    org("accounts", "account", &["view", "add", "change", "delete", "verify", "push", "su"]),
    org("accounts", "accountsecret", &["view", "change"]),
    org("accounts", "historyaccount", VIEW),
    org("accounts", "historyaccountsecret", VIEW),
    org("accounts", "accounttemplate", CRUD),
    org("accounts", "accounttemplatesecret", &["view", "change"]),
    org("accounts", "virtualaccount", &["view", "change"]),
    org("accounts", "gatheredaccount", CRUD),
    org("accounts", "changesecretautomation", CRUD),
    org("accounts", "pushaccountautomation", CRUD),
    org("accounts", "gatheraccountsautomation", CRUD),
    org("accounts", "checkaccountautomation", CRUD),
    org("accounts", "accountrisk", CRUD),
    system("accounts", "integrationapplication", CRUD),
    org("perms", "assetpermission", CRUD),
    org("perms", "userassetpermission", VIEW),
    org("perms", "usergroupassetpermission", VIEW),
    org("perms", "myassets", &["view", "connect"]),
    system("acls", "loginacl", CRUD),
    org("acls", "loginassetacl", CRUD),
    org("acls", "commandfilteracl", CRUD),
    org("acls", "commandgroup", CRUD),
    system("acls", "connectmethodacl", CRUD),
    org("acls", "clipboardacl", CRUD),
    org("acls", "datamaskingrule", CRUD),
    org("terminal", "session", &["view", "change", "monitor", "terminate", "lock", "share", "resume"]),
    org("terminal", "sessionreplay", &["view", "download", "add", "delete"]),
    org("terminal", "command", VIEW),
    org("terminal", "sessionsharing", CRUD),
    org("terminal", "sessionjoinrecord", VIEW),
    system("terminal", "terminal", CRUD),
    system("terminal", "task", CRUD),
    system("terminal", "status", VIEW),
    system("terminal", "endpoint", CRUD),
    system("terminal", "endpointrule", CRUD),
    system("terminal", "replaystorage", CRUD),
    system("terminal", "commandstorage", CRUD),
    org("audits", "userloginlog", VIEW),
    org("audits", "operatelog", VIEW),
    org("audits", "passwordchangelog", VIEW),
    org("audits", "ftplog", &["view", "download"]),
    org("audits", "joblog", VIEW),
    org("audits", "activitylog", VIEW),
    org("audits", "usersession", &["view", "offline"]),
    system("audits", "serviceaccesslog", VIEW),
    org("ops", "adhoc", CRUD),
    org("ops", "playbook", CRUD),
    org("ops", "job", CRUD),
    org("ops", "jobexecution", CRUD),
    org("ops", "variable", CRUD),
    system("ops", "celerytask", VIEW),
    system("ops", "taskmonitor", VIEW),
    org("tickets", "ticket", CRUD),
    org("tickets", "ticketflow", CRUD),
    org("tickets", "comment", CRUD),
    system("orgs", "organization", CRUD),
    system("orgs", "rootorg", VIEW),
    org("labels", "label", CRUD),
    org("labels", "labeledresource", CRUD),
    org("authentication", "accesskey", CRUD),
    org("authentication", "privatetoken", CRUD),
    org("authentication", "temptoken", CRUD),
    org("authentication", "connectiontoken", &["view", "add", "change", "delete", "expire", "reuse"]),
    system("authentication", "superconnectiontoken", &["view", "add", "change", "delete", "renewal"]),
    system("authentication", "superconnectiontokensecret", VIEW),
    org("authentication", "sshkey", CRUD),
    org("authentication", "passkey", CRUD),
    org("authentication", "session", &["view", "delete"]),
    system("authentication", "trusteduserca", CRUD),
    org("notifications", "sitemessage", CRUD),
    system("notifications", "systemmsgsubscription", &["view", "change"]),
    org("notifications", "usermsgsubscription", &["view", "change"]),
    org("reports", "report", VIEW),
    system("settings", "setting", &["view", "change"]),
    system("settings", "basic", &["change"]),
    system("settings", "email", &["change"]),
    system("settings", "auth", &["change"]),
    system("settings", "security", &["change"]),
    system("settings", "terminal", &["change"]),
    system("settings", "clean", &["change"]),
    system("settings", "blockip", &["view", "change"]),
    system("gatehouse", "ledger", &["view", "verify", "export"]),
    system("gatehouse", "certificate", &["view", "change"]),
    system("gatehouse", "metrics", VIEW),
    system("gatehouse", "status", VIEW),
    system("gatehouse", "backup", &["view", "add"]),
];

/// Every point, in the table's order.
pub fn all() -> impl Iterator<Item = String> {
    RESOURCES.iter().flat_map(Resource::points)
}

/// Every point that a role of that scope can carry.
pub fn of_scope(scope: RoleScope) -> impl Iterator<Item = String> {
    RESOURCES.iter().filter(move |r| scope == RoleScope::System || !r.system).flat_map(Resource::points)
}

/// The resource and action of a point; `None` when there is no such point.
pub fn find(point: &str) -> Option<(&'static Resource, &'static str)> {
    let (app, code) = point.split_once('.')?;
    RESOURCES.iter().filter(|r| r.app == app).find_map(|r| {
        let action = code.strip_suffix(r.model)?.strip_suffix('_')?;
        r.actions.iter().find(|a| **a == action).map(|a| (r, *a))
    })
}

pub fn is_known(point: &str) -> bool {
    find(point).is_some()
}

/// Whether a role of that scope can carry the point.
pub fn fits_scope(point: &str, scope: RoleScope) -> bool {
    find(point).is_some_and(|(resource, _)| scope == RoleScope::System || !resource.system)
}

/// What is wrong with the points of a custom role. Built-in roles are not checked: they come from the code.
pub fn check_points(invalid: &mut Invalid, scope: RoleScope, points: &[String]) {
    for point in points {
        if point == EVERYTHING {
            // A copy of an administrator role would grow with every release without anybody looking at it.
            invalid.add("permissions", "* is kept for the built-in administrators; list the permissions");
        } else if !is_known(point) {
            invalid.add("permissions", format!("there is no permission \"{point}\""));
        } else if !fits_scope(point, scope) {
            invalid.add("permissions", format!("\"{point}\" can only be in a system role"));
        }
    }
}

/// Where roles are found by id.
pub trait RoleLookup {
    fn role(&self, id: Uuid) -> Option<&Role>;
}

impl<S: BuildHasher> RoleLookup for HashMap<Uuid, Arc<Role>, S> {
    fn role(&self, id: Uuid) -> Option<&Role> {
        self.get(&id).map(AsRef::as_ref)
    }
}

impl RoleLookup for BTreeMap<Uuid, Arc<Role>> {
    fn role(&self, id: Uuid) -> Option<&Role> {
        self.get(&id).map(AsRef::as_ref)
    }
}

impl RoleLookup for [Role] {
    fn role(&self, id: Uuid) -> Option<&Role> {
        self.iter().find(|r| r.id == id)
    }
}

impl RoleLookup for Vec<Role> {
    fn role(&self, id: Uuid) -> Option<&Role> {
        self.as_slice().role(id)
    }
}

impl RoleLookup for Vec<Arc<Role>> {
    fn role(&self, id: Uuid) -> Option<&Role> {
        self.iter().find(|r| r.id == id).map(AsRef::as_ref)
    }
}

/// The roles that hold for the user in `org`: system roles everywhere, organization roles only in their organization and
/// never in the global one. A role in the wrong list (an organization role bound as a system role) is left out.
fn roles_in<'a, R: RoleLookup + ?Sized>(user: &'a User, roles: &'a R, org: Uuid) -> impl Iterator<Item = &'a Role> {
    let system = user.system_roles.iter().map(|id| (*id, RoleScope::System));
    let in_org =
        user.org_roles.iter().filter(move |r| r.org == org && org != org_ids::ROOT).map(|r| (r.role, RoleScope::Org));
    system.chain(in_org).filter_map(|(id, scope)| roles.role(id).filter(|r| r.scope == scope))
}

fn carries(role: &Role, point: &str) -> bool {
    match role.scope {
        // The administrator of everything is not stopped by a point that a newer part has and this table not yet.
        RoleScope::System => role.permissions.iter().any(|p| p == EVERYTHING || p == point),
        RoleScope::Org => {
            role.permissions.iter().any(|p| p == EVERYTHING || p == point) && fits_scope(point, RoleScope::Org)
        }
    }
}

/// May the user do `point` in `org`? (`org_ids::ROOT` is the view over all organizations: system roles only.) Whether the
/// user is active is asked at log-in and by `decide`, not here.
pub fn allowed<R: RoleLookup + ?Sized>(user: &User, roles: &R, org: Uuid, point: &str) -> bool {
    roles_in(user, roles, org).any(|role| carries(role, point))
}

/// All points that the user holds in `org`, for profiles and menus.
pub fn points_of<R: RoleLookup + ?Sized>(user: &User, roles: &R, org: Uuid) -> BTreeSet<String> {
    roles_in(user, roles, org).flat_map(points_in).collect()
}

/// The points of a role, `*` written out.
pub fn points_in(role: &Role) -> Vec<String> {
    if role.permissions.iter().any(|p| p == EVERYTHING) {
        return of_scope(role.scope).collect();
    }
    role.permissions.iter().filter(|p| fits_scope(p, role.scope)).cloned().collect()
}

/// Whether the user may hand out that role in `org`: nobody passes on a permission that they do not hold themselves.
pub fn may_bind<R: RoleLookup + ?Sized>(user: &User, roles: &R, org: Uuid, role: &Role) -> bool {
    match role.scope {
        // Granting "everything" needs everything, including what this table does not name.
        RoleScope::System if role.permissions.iter().any(|p| p == EVERYTHING) => {
            roles_in(user, roles, org_ids::ROOT).any(|r| r.permissions.iter().any(|p| p == EVERYTHING))
        }
        RoleScope::System => points_in(role).iter().all(|p| allowed(user, roles, org_ids::ROOT, p)),
        RoleScope::Org => points_in(role).iter().all(|p| allowed(user, roles, org, p)),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::builtin;
    use crate::common::Meta;
    use crate::fixture;
    use crate::user::OrgRole;

    const ELSEWHERE: Uuid = Uuid::from_u128(77);

    fn user_with(system: &[Uuid], org: &[(Uuid, Uuid)]) -> User {
        let mut user = fixture::user(1, "ann");
        user.system_roles = system.to_vec();
        user.org_roles = org.iter().map(|(org, role)| OrgRole { org: *org, role: *role }).collect();
        user
    }

    #[test]
    fn every_point_is_found_again_and_none_is_there_twice() {
        let points: Vec<String> = all().collect();
        let distinct: BTreeSet<&String> = points.iter().collect();
        assert_eq!(points.len(), distinct.len());
        for point in &points {
            let (resource, action) = find(point).unwrap();
            assert_eq!(*point, format!("{}.{action}_{}", resource.app, resource.model));
        }
        for wrong in ["", "assets", "assets.asset", "assets.view_", "assets.fly_asset", "x.view_asset", "*", ".view_x"]
        {
            assert!(!is_known(wrong), "{wrong}");
        }
    }

    #[test]
    fn an_administrator_of_everything_may_everything_everywhere() {
        let roles = builtin::roles();
        let admin = user_with(&[builtin::SYSTEM_ADMIN], &[]);
        for org in [org_ids::ROOT, org_ids::DEFAULT, ELSEWHERE] {
            assert!(all().all(|p| allowed(&admin, &roles, org, &p)));
        }
    }

    #[test]
    fn an_organization_role_holds_in_its_organization_only() {
        let roles = builtin::roles();
        let admin = user_with(&[], &[(org_ids::DEFAULT, builtin::ORG_ADMIN)]);
        assert!(allowed(&admin, &roles, org_ids::DEFAULT, "assets.add_asset"));
        assert!(!allowed(&admin, &roles, ELSEWHERE, "assets.add_asset"));
        assert!(!allowed(&admin, &roles, org_ids::ROOT, "assets.view_asset"));
        assert!(!allowed(&admin, &roles, org_ids::DEFAULT, "settings.change_setting"));
        assert!(!allowed(&admin, &roles, org_ids::DEFAULT, "rbac.add_systemrolebinding"));
        assert!(!allowed(&admin, &roles, org_ids::DEFAULT, "no.such_point"));
        // A membership written for the global organization itself opens nothing.
        let odd = user_with(&[], &[(org_ids::ROOT, builtin::ORG_ADMIN)]);
        assert!(all().all(|p| !allowed(&odd, &roles, org_ids::ROOT, &p)));
    }

    #[test]
    fn a_role_of_the_wrong_scope_grants_nothing() {
        let roles = builtin::roles();
        let odd = user_with(&[builtin::ORG_ADMIN], &[(org_ids::DEFAULT, builtin::SYSTEM_ADMIN)]);
        for org in [org_ids::ROOT, org_ids::DEFAULT] {
            assert!(all().all(|p| !allowed(&odd, &roles, org, &p)));
            assert!(points_of(&odd, &roles, org).is_empty());
        }
    }

    #[test]
    fn without_roles_there_is_nothing() {
        let roles = builtin::roles();
        let nobody = user_with(&[], &[]);
        let dangling = user_with(&[Uuid::from_u128(9999)], &[(org_ids::DEFAULT, Uuid::from_u128(9998))]);
        for user in [nobody, dangling] {
            assert!(all().all(|p| !allowed(&user, &roles, org_ids::DEFAULT, &p)));
        }
    }

    #[test]
    fn auditors_read_and_watch_but_do_not_change() {
        let roles = builtin::roles();
        let auditor = user_with(&[], &[(org_ids::DEFAULT, builtin::ORG_AUDITOR)]);
        for may in ["audits.view_operatelog", "terminal.monitor_session", "terminal.download_sessionreplay"] {
            assert!(allowed(&auditor, &roles, org_ids::DEFAULT, may), "{may}");
        }
        for not in ["assets.view_asset", "users.change_user", "accounts.view_accountsecret", "rbac.view_console"] {
            assert!(!allowed(&auditor, &roles, org_ids::DEFAULT, not), "{not}");
        }
    }

    #[test]
    fn custom_roles_are_checked() {
        let mut invalid = Invalid::default();
        check_points(&mut invalid, RoleScope::Org, &["assets.view_asset".into()]);
        assert!(invalid.fields.is_empty());
        for wrong in ["*", "assets.*", "assets.view_assets", "settings.change_setting"] {
            let mut invalid = Invalid::default();
            check_points(&mut invalid, RoleScope::Org, &[wrong.to_owned()]);
            assert_eq!(invalid.fields.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn nobody_hands_out_more_than_they_hold() {
        let mut roles = builtin::roles();
        let custom = Role {
            id: Uuid::from_u128(500),
            name: "helpers".into(),
            scope: RoleScope::Org,
            builtin: false,
            permissions: vec!["rbac.add_orgrolebinding".into(), "assets.view_asset".into()],
            meta: Meta::new("test", DateTime::<Utc>::UNIX_EPOCH),
        };
        roles.push(custom.clone());
        let helper = user_with(&[], &[(org_ids::DEFAULT, custom.id)]);
        let role = |id| roles.iter().find(|r| r.id == id).unwrap();
        assert!(may_bind(&helper, &roles, org_ids::DEFAULT, &custom));
        assert!(!may_bind(&helper, &roles, ELSEWHERE, &custom));
        for more in [builtin::ORG_ADMIN, builtin::ORG_USER, builtin::SYSTEM_ADMIN, builtin::SYSTEM_AUDITOR] {
            assert!(!may_bind(&helper, &roles, org_ids::DEFAULT, role(more)));
        }
        let org_admin = user_with(&[], &[(org_ids::DEFAULT, builtin::ORG_ADMIN)]);
        assert!(may_bind(&org_admin, &roles, org_ids::DEFAULT, role(builtin::ORG_ADMIN)));
        assert!(!may_bind(&org_admin, &roles, org_ids::DEFAULT, role(builtin::SYSTEM_USER)));
        let admin = user_with(&[builtin::SYSTEM_ADMIN], &[]);
        assert!(roles.iter().all(|r| may_bind(&admin, &roles, org_ids::DEFAULT, r)));
    }
}
