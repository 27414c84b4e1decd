//! When an object goes, everything that names it forgets it in the same batch: nothing is left that would grant to, or
//! point at, what is not there.

use gatehouse_model::grant::AssetPermission;
use gatehouse_model::rules::{AssetLoginRule, CommandFilter, ConnectMethodRule, LoginRule, ManyFilter};
use gatehouse_model::user::{AccessKey, LoginFailures, SshKey, TempPassword, UserGroup, UserSecret};
use uuid::Uuid;

use crate::engine::change::Change;
use crate::problem::Problem;

fn names(filter: &ManyFilter, id: Uuid) -> bool {
    matches!(filter, ManyFilter::Ids { ids } if ids.contains(&id))
}

/// A filter whose last id goes matches nothing; it never widens.
fn drop_id(filter: &mut ManyFilter, id: Uuid) {
    if let ManyFilter::Ids { ids } = filter {
        ids.retain(|i| *i != id);
    }
}

/// Takes a user out of the groups, grants and rules that the change's reader sees.
pub(crate) fn user_in_scope(change: &mut Change<'_>, user: Uuid) -> Result<(), Problem> {
    for group in change.list::<UserGroup>()?.iter().filter(|g| g.users.contains(&user)) {
        change.edit::<UserGroup>(group.id, |g| g.users.retain(|u| *u != user))?;
    }
    for grant in change.list::<AssetPermission>()?.iter().filter(|g| g.users.contains(&user)) {
        change.edit::<AssetPermission>(grant.id, |g| g.users.retain(|u| *u != user))?;
    }
    for rule in change.list::<AssetLoginRule>()? {
        if names(&rule.users, user) || rule.reviewers.contains(&user) {
            change.edit::<AssetLoginRule>(rule.id, |r| {
                drop_id(&mut r.users, user);
                r.reviewers.retain(|u| *u != user);
            })?;
        }
    }
    for rule in change.list::<CommandFilter>()? {
        if names(&rule.users, user) || rule.reviewers.contains(&user) {
            change.edit::<CommandFilter>(rule.id, |r| {
                drop_id(&mut r.users, user);
                r.reviewers.retain(|u| *u != user);
            })?;
        }
    }
    Ok(())
}

/// Everything of a user that leaves the system.
pub(crate) fn user(change: &mut Change<'_>, user: Uuid, username: &str) -> Result<(), Problem> {
    change.everywhere(|change| user_in_scope(change, user))?;
    for rule in change.list::<LoginRule>()? {
        if names(&rule.users, user) || rule.reviewers.contains(&user) {
            change.edit::<LoginRule>(rule.id, |r| {
                drop_id(&mut r.users, user);
                r.reviewers.retain(|u| *u != user);
            })?;
        }
    }
    for rule in change.list::<ConnectMethodRule>()?.iter().filter(|r| names(&r.users, user)) {
        change.edit::<ConnectMethodRule>(rule.id, |r| drop_id(&mut r.users, user))?;
    }
    let by_user = user.as_bytes();
    for key in change.reader.find::<SshKey>("user", by_user)? {
        change.delete::<SshKey>(key.id)?;
    }
    for key in change.reader.find::<AccessKey>("user", by_user)? {
        change.delete::<AccessKey>(key.id)?;
    }
    for password in change.reader.find::<TempPassword>("user", by_user)? {
        change.delete::<TempPassword>(password.id)?;
    }
    let subject = format!("user:{}", username.to_lowercase());
    for failures in change.reader.find::<LoginFailures>("subject", subject.as_bytes())? {
        change.delete::<LoginFailures>(failures.id)?;
    }
    change.delete::<UserSecret>(user)
}

pub(crate) fn group(change: &mut Change<'_>, group: Uuid) -> Result<(), Problem> {
    for grant in change.list::<AssetPermission>()?.iter().filter(|g| g.user_groups.contains(&group)) {
        change.edit::<AssetPermission>(grant.id, |g| g.user_groups.retain(|u| *u != group))?;
    }
    Ok(())
}

pub(crate) fn asset(change: &mut Change<'_>, asset: Uuid) -> Result<(), Problem> {
    for grant in change.list::<AssetPermission>()?.iter().filter(|g| g.assets.contains(&asset)) {
        change.edit::<AssetPermission>(grant.id, |g| g.assets.retain(|a| *a != asset))?;
    }
    for rule in change.list::<AssetLoginRule>()?.iter().filter(|r| names(&r.assets, asset)) {
        change.edit::<AssetLoginRule>(rule.id, |r| drop_id(&mut r.assets, asset))?;
    }
    for rule in change.list::<CommandFilter>()?.iter().filter(|r| names(&r.assets, asset)) {
        change.edit::<CommandFilter>(rule.id, |r| drop_id(&mut r.assets, asset))?;
    }
    Ok(())
}

pub(crate) fn node(change: &mut Change<'_>, node: Uuid) -> Result<(), Problem> {
    for grant in change.list::<AssetPermission>()?.iter().filter(|g| g.nodes.contains(&node)) {
        change.edit::<AssetPermission>(grant.id, |g| g.nodes.retain(|n| *n != node))?;
    }
    Ok(())
}
