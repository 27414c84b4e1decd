//! Accounts by asset, and which of them a user may choose.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Directory;
use crate::account::Account;
use crate::asset::{Asset, Category};
use crate::decide::{GrantedName, grants_account, same_name};
use crate::grant::{Actions, AssetPermission, alias};
use crate::user::User;

#[derive(Default)]
pub(super) struct Accounts {
    of_asset: HashMap<Uuid, Vec<Arc<Account>>>,
    asset_of: HashMap<Uuid, Uuid>,
}

impl Accounts {
    pub(super) fn get(&self, id: Uuid) -> Option<&Arc<Account>> {
        self.of(*self.asset_of.get(&id)?).iter().find(|a| a.id == id)
    }

    pub(super) fn of(&self, asset: Uuid) -> &[Arc<Account>] {
        self.of_asset.get(&asset).map_or(&[], Vec::as_slice)
    }

    pub(super) fn upsert(&mut self, account: Arc<Account>) {
        self.remove(account.id);
        self.asset_of.insert(account.id, account.asset);
        let accounts = self.of_asset.entry(account.asset).or_default();
        let at = accounts.partition_point(|a| (&a.name, a.id) < (&account.name, account.id));
        accounts.insert(at, account);
    }

    pub(super) fn remove(&mut self, id: Uuid) -> bool {
        let Some(asset) = self.asset_of.remove(&id) else { return false };
        if let Some(accounts) = self.of_asset.get_mut(&asset) {
            accounts.retain(|a| a.id != id);
            if accounts.is_empty() {
                self.of_asset.remove(&asset);
            }
        }
        true
    }
}

/// An account that a user may choose on an asset: stored, or one of the virtual ones.
#[derive(Debug, Clone, PartialEq)]
pub struct GrantedAccount {
    /// `None`: manual, same-name without a stored account, anonymous.
    pub account: Option<Arc<Account>>,
    /// The account's user name, or the alias of a virtual one.
    pub alias: String,
    /// Empty when it is typed or when there is none.
    pub username: String,
    /// The union over the grants; for one protocol it may be less, as `decide` says.
    pub actions: Actions,
    /// Names of the asset's protocols over which it may be used, in the asset's order.
    pub protocols: Vec<String>,
    /// When the last of the grants ends.
    pub date_expired: DateTime<Utc>,
    /// Nobody has to type it.
    pub secret_known: bool,
}

/// What a user's valid grants say about one asset.
struct Granted<'a> {
    user: &'a User,
    asset: &'a Asset,
    protocols: Vec<&'a str>,
    grants: Vec<Arc<AssetPermission>>,
}

impl Granted<'_> {
    /// The entry for one account, if any grant covers it with connecting and a protocol that the asset has.
    fn entry(
        &self,
        name: GrantedName<'_>,
        stored: Option<&Arc<Account>>,
        shown: (&str, &str),
    ) -> Option<GrantedAccount> {
        let (alias, username) = shown;
        let mut found: Option<GrantedAccount> = None;
        let mut protocols = BTreeSet::new();
        for grant in self.grants.iter().filter(|g| grants_account(&g.accounts, name, self.user)) {
            protocols.extend(self.protocols.iter().copied().filter(|p| grant.allows_protocol(p)));
            let entry = found.get_or_insert_with(|| GrantedAccount {
                account: stored.cloned(),
                alias: alias.to_owned(),
                username: username.to_owned(),
                actions: Actions::NONE,
                protocols: Vec::new(),
                date_expired: grant.date_expired,
                secret_known: stored.is_some_and(|a| a.has_secret),
            });
            entry.actions = entry.actions.union(grant.actions);
            entry.date_expired = entry.date_expired.max(grant.date_expired);
        }
        let mut entry = found.filter(|e| e.actions.contains(Actions::CONNECT) && !protocols.is_empty())?;
        let in_order = self.asset.protocols.iter().map(|p| p.name.as_str()).filter(|p| protocols.contains(p));
        entry.protocols = in_order.map(str::to_owned).collect();
        Some(entry)
    }
}

impl Directory {
    /// What the user may choose on the asset now: stored accounts by name, then manual, same-name, anonymous.
    pub fn granted_accounts(&self, user: Uuid, asset: Uuid, now: DateTime<Utc>) -> Vec<GrantedAccount> {
        let (Some(user), Some(asset)) = (self.users.get(&user), self.asset(asset)) else { return Vec::new() };
        let Some(platform) = self.platforms.get(&asset.platform) else { return Vec::new() };
        if !asset.is_active || !user.is_valid(now) || !user.is_member_of(asset.org_id) {
            return Vec::new();
        }
        let groups = self.groups_of(user.id);
        let nodes = self.nodes.with_ancestors(asset);
        let mut grants = self.grants_of(user.id, asset.org_id);
        grants.retain(|g| {
            g.is_valid(now) && g.is_effective() && g.covers_user(user, &groups) && g.covers_asset(asset, &nodes)
        });
        let public = |name: &str| platform.protocol(name).is_none_or(|p| p.public);
        let granted = Granted {
            user,
            asset,
            protocols: asset.protocols.iter().map(|p| p.name.as_str()).filter(|p| public(p)).collect(),
            grants,
        };
        let stored = self.accounts_of(asset.id).iter().filter(|a| a.org_id == asset.org_id);
        let mut found: Vec<GrantedAccount> = stored
            .clone()
            .filter(|a| a.is_active)
            .filter_map(|a| granted.entry(GrantedName::Stored(&a.username), Some(a), (&a.username, &a.username)))
            .collect();
        found.extend(granted.entry(GrantedName::Manual(""), None, (alias::INPUT, "")));
        // A stored account of that name stands for it and is in the list already.
        if same_name(stored, &user.username).is_none() {
            found.extend(granted.entry(GrantedName::SameName, None, (alias::USER, &user.username)));
        }
        if matches!(platform.category, Category::Web | Category::Custom) {
            found.extend(granted.entry(GrantedName::Anonymous, None, (alias::ANON, "")));
        }
        found
    }
}
