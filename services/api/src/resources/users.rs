//! `users/users`: accounts of people (O01-O08). Password, keys and second factor are identity's; roles go through `people`.

use async_trait::async_trait;
use gatehouse_identity::By;
use gatehouse_model::builtin;
use gatehouse_model::common::{Invalid, Validate, far_future};
use gatehouse_model::user::{Lang, MfaLevel, User, UserGroup, UserSource};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{forget, people};
use crate::engine::change::{Change, Input};
use crate::engine::field::{self, Field, Kind, boolean, choice, datetime, many, secret, text};
use crate::engine::reader::Scope;
use crate::engine::related::Target;
use crate::engine::table::{Hooks, Predicate};
use crate::engine::{Resource, values};
use crate::guard::Call;
use crate::problem::Problem;

pub(crate) const PASSWORD_STRATEGY: &[(&str, &str)] =
    &[("email", "Reset link will be generated and sent to the user"), ("custom", "Set password")];

pub(crate) fn fields() -> Vec<Field> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        text("username", "Username").required(),
        text("email", "Email").required(),
        text("phone", "Phone").default(|| json!("")),
        text("wechat", "Wechat").default(|| json!("")),
        many("groups", "User groups", Target::UserGroup).through_hooks(),
        many("system_roles", "System roles", Target::Role).through_hooks(),
        many("org_roles", "Organization roles", Target::Role).through_hooks(),
        choice("password_strategy", "Password strategy", PASSWORD_STRATEGY).virtual_input(),
        secret("password", "Password"),
        boolean("need_update_password", "Need update password").default(|| json!(false)),
        text("public_key", "Public key").virtual_input(),
        choice("source", "Source", UserSource::CHOICES).default(|| json!("local")),
        Field::new("mfa_level", "MFA", Kind::ChoiceInt(MfaLevel::CHOICES)).default(|| json!("0")),
        boolean("mfa_enabled", "MFA enabled").computed(),
        boolean("mfa_force_enabled", "MFA force enabled").computed(),
        boolean("is_otp_secret_key_bound", "OTP bound").source("otp_enrolled").read_only(),
        boolean("is_service_account", "Is service account").read_only(),
        boolean("is_active", "Active").default(|| json!(true)),
        boolean("is_expired", "Expired").computed(),
        boolean("is_valid", "Valid").computed(),
        boolean("login_blocked", "Login blocked").computed(),
        boolean("is_first_login", "First login").read_only(),
        datetime("date_expired", "Date expired").default(|| json!(far_future(chrono::Utc::now()))),
        datetime("last_login", "Date last login").read_only(),
        datetime("date_password_last_updated", "Date password last updated").read_only(),
        choice("lang", "Language", Lang::CHOICES).nullable(),
    ];
    fields.extend(field::labelled_meta());
    fields
}

pub(crate) struct Users;

/// The user's groups that the reader sees.
pub(crate) fn groups_of(
    reader: &crate::engine::reader::Reader,
    user: Uuid,
) -> Result<Vec<std::sync::Arc<UserGroup>>, Problem> {
    Ok(reader.list::<UserGroup>()?.into_iter().filter(|g| g.users.contains(&user)).collect())
}

#[async_trait]
impl Hooks<User> for Users {
    fn validate(&self, row: &User) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &User) -> String {
        row.display()
    }

    fn visible(&self, call: &Call, row: &User) -> Result<bool, Problem> {
        Ok(match call.scope {
            Scope::Org(org) => row.is_member_of(org),
            Scope::Global => true,
        })
    }

    fn filter(&self, call: &Call, name: &str, value: &str) -> Result<Option<Predicate<User>>, Problem> {
        Ok(match name {
            "group_id" | "groups" | "group" => {
                let group = value.parse::<Uuid>().ok();
                let group = group.map(|id| call.reader().get::<UserGroup>(id)).transpose()?.flatten();
                let members: std::collections::HashSet<Uuid> =
                    group.map(|g| g.users.iter().copied().collect()).unwrap_or_default();
                Some(Box::new(move |u| members.contains(&u.id)))
            }
            "exclude_group_id" => {
                let group = value.parse::<Uuid>().ok();
                let group = group.map(|id| call.reader().get::<UserGroup>(id)).transpose()?.flatten();
                let members: std::collections::HashSet<Uuid> =
                    group.map(|g| g.users.iter().copied().collect()).unwrap_or_default();
                Some(Box::new(move |u| !members.contains(&u.id)))
            }
            "system_roles" => {
                let role = value.parse::<Uuid>().ok();
                Some(Box::new(move |u| role.is_some_and(|r| u.system_roles.contains(&r))))
            }
            "org_roles" => {
                let (role, scope) = (value.parse::<Uuid>().ok(), call.scope);
                Some(Box::new(move |u| u.org_roles.iter().any(|r| Some(r.role) == role && scope.contains(r.org))))
            }
            "is_expired" | "is_valid" => {
                let wanted = matches!(value, "1" | "true" | "True");
                let (now, valid) = (call.app.now(), name == "is_valid");
                Some(Box::new(move |u| (if valid { u.is_valid(now) } else { u.is_expired(now) }) == wanted))
            }
            _ => None,
        })
    }

    fn show(&self, call: &Call, row: &User, out: &mut Map<String, Value>, _detail: bool) -> Result<(), Problem> {
        let reader = call.reader();
        let now = call.app.now();
        let groups: Vec<Value> =
            groups_of(&reader, row.id)?.iter().map(|g| json!({"id": g.id, "name": g.name})).collect();
        let role = |ids: Vec<Uuid>| values::show(&reader, Kind::ManyRelated(Target::Role), &json!(ids));
        let in_scope = row.org_roles.iter().filter(|r| call.scope.contains(r.org)).map(|r| r.role).collect();
        out.insert("groups".into(), json!(groups));
        out.insert("system_roles".into(), role(row.system_roles.clone())?);
        out.insert("org_roles".into(), role(in_scope)?);
        let forced = row.mfa_level == MfaLevel::Forced || call.app.identity().mfa_required(row)?;
        out.insert("mfa_enabled".into(), json!(row.mfa_level != MfaLevel::Off || forced));
        out.insert("mfa_force_enabled".into(), json!(forced));
        out.insert("is_expired".into(), json!(row.is_expired(now)));
        out.insert("is_valid".into(), json!(row.is_valid(now)));
        out.insert("login_blocked".into(), json!(call.app.identity().is_user_locked(row)?));
        Ok(())
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut User,
        old: Option<&User>,
        input: &Input,
    ) -> Result<(), Problem> {
        let call = change.call;
        if let Some(old) = old {
            people::require_authority(call, old, "users.change_user")?;
            if old.id == call.user.id && old.is_valid(change.now) && !new.is_valid(change.now) {
                return Err(Problem::field("is_active", "you cannot disable your own account"));
            }
        }
        roles(call, new, old, input)?;
        if let Some(old) = old {
            people::keep_an_administrator(change, old, Some(new))?;
        }
        if let Some(groups) = input.ids("groups") {
            set_groups(change, new.id, &groups)?;
        }
        let was_valid = old.is_none_or(|o| o.is_valid(change.now));
        if was_valid && !new.is_valid(change.now) {
            let id = new.id;
            change.also(move |app, batch| Ok(app.identity().sign_out_in(id, None, batch)?));
        }
        credentials(change, new, old, input).await
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &User) -> Result<(), Problem> {
        if row.id == change.call.user.id {
            return Err(Problem::bad_request("own_account", "you cannot delete your own account"));
        }
        people::require_authority(change.call, row, "users.delete_user")?;
        people::keep_an_administrator(change, row, None)?;
        forget::user(change, row.id, &row.username)?;
        let id = row.id;
        change.also(move |app, batch| Ok(app.identity().sign_out_in(id, None, batch)?));
        Ok(())
    }
}

fn roles(call: &Call, new: &mut User, old: Option<&User>, input: &Input) -> Result<(), Problem> {
    match (input.ids("system_roles"), old) {
        (Some(wanted), _) if !(old.is_none() && wanted == [builtin::SYSTEM_USER]) => {
            people::set_system_roles(call, new, &wanted)?;
        }
        // What everybody has who is somebody.
        (_, None) => new.system_roles = vec![builtin::SYSTEM_USER],
        _ => {}
    }
    if let Scope::Org(org) = call.scope {
        match (input.ids("org_roles"), old) {
            (Some(wanted), Some(_)) if wanted.is_empty() => {
                return Err(Problem::field(
                    "org_roles",
                    "a member has at least one role; use remove to end the membership",
                ));
            }
            (Some(wanted), _) if !wanted.is_empty() => people::set_org_roles(call, new, org, &wanted)?,
            (_, None) => {
                new.org_roles.push(gatehouse_model::user::OrgRole { org, role: builtin::ORG_USER });
            }
            _ => {}
        }
    } else if input.ids("org_roles").is_some_and(|r| !r.is_empty()) {
        return Err(Problem::field("org_roles", "choose an organization with X-JMS-ORG to give roles in it"));
    }
    Ok(())
}

fn set_groups(change: &mut Change<'_>, user: Uuid, wanted: &[Uuid]) -> Result<(), Problem> {
    for group in change.list::<UserGroup>()? {
        let (is, should) = (group.users.contains(&user), wanted.contains(&group.id));
        if is && !should {
            change.edit::<UserGroup>(group.id, |g| g.users.retain(|u| *u != user))?;
        } else if should && !is {
            change.edit::<UserGroup>(group.id, |g| g.users.push(user))?;
        }
    }
    Ok(())
}

/// Password and key of a new user are committed with the user: there is none without what was given for them. Mails
/// follow when it is durable.
async fn credentials(
    change: &mut Change<'_>,
    new: &mut User,
    old: Option<&User>,
    input: &Input,
) -> Result<(), Problem> {
    let identity = change.call.app.identity().clone();
    let (id, by) = (new.id, By::user(&change.call.user, change.call.ip));
    let mailed = input.text("password_strategy") == Some("email");
    if let Some(password) = input.filled("password").filter(|_| !mailed) {
        if new.source != UserSource::Local {
            return Err(Problem::field("password", "the password of this user is kept elsewhere (source)"));
        }
        if old.is_some_and(|o| o.id == change.call.user.id) {
            return Err(Problem::field("password", "change your own password at users/profile/password/"));
        }
        if old.is_none() {
            let first = identity.first_password(new, password).await?;
            new.date_password_last_updated = Some(change.now);
            let (user, by) = (new.clone(), by.clone());
            change.also(move |app, batch| Ok(app.identity().put_first_password(first, &user, &by, batch)?));
        } else {
            identity.password_policy(new)?.check(password, new)?;
            let (password, by, must_change) =
                (zeroize::Zeroizing::new(password.to_owned()), by.clone(), new.need_update_password);
            change.after(move |app| async move {
                Ok(app.identity().reset_password(id, &password, must_change, &by).await?)
            });
        }
    } else if old.is_none() && new.source == UserSource::Local {
        let by = by.clone();
        change.after(move |app| async move {
            // The user exists; an administrator can send the mail again when it does not arrive.
            if let Err(error) = app.identity().mail_set_up_code(id, &by).await {
                tracing::warn!(%error, "the welcome mail could not be queued");
            }
            Ok(())
        });
    }
    if let Some(line) = input.filled("public_key") {
        let key = identity.new_ssh_key(id, "web", line, &by)?;
        change.insert(key.clone());
        change.after(move |app| async move {
            app.identity().tell_of_key(id, &key, &by);
            Ok(())
        });
    }
    Ok(())
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::new::<User, Users>("users", "users", "user", "User", fields(), Users)
            .search(&["name", "username", "email", "comment"])
            .filters(&[
                "group_id",
                "groups",
                "group",
                "exclude_group_id",
                "system_roles",
                "org_roles",
                "is_expired",
                "is_valid",
            ])
            .unique(&[("username", "username"), ("email", "email"), ("fingerprint", "public_key")])
            .serialised(),
    ]
}
